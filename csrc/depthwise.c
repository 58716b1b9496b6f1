/* Depthwise convolution (one input channel a group), its gradients, small groups: sets up what the kernels gather.
 *
 * Forward is one gather; backward_input one for each residue class of (ih mod sh, iw mod sw), over dy at stride 1
 * with the taps that reach the class. backward_weight sums row blocks on their own, whose number depends on the
 * shape alone, and then adds them in order. So no bit depends on the number of threads. */
#include "depthwise.h"
#include "im2col.h"

#include <stddef.h>

enum {
    SMALL_PRODUCTS = 150000, /* some 5 microseconds (Zen 4): not worth a second thread */
    TASKS_A_THREAD = 8,      /* so that the last tasks balance */
    PACK_CHANNELS = 16,      /* whose weights are read side by side: few enough lines for the L1 */
    KEPT_HEAD = 64,          /* before packed weights: an int, whether any is not finite */
    ROW_BLOCKS = 16,         /* of backward_weight in NHWC, ... */
    BLOCK_PIXELS_LEAST = 256, /* ... none of fewer pixels than this: the sums of a block are written and read again */
    CHANNEL_BLOCK = 64,      /* channels of a task of backward_weight in NHWC where row blocks are few */
};

static const fc_depthwise_kernels *kernels_for(const fc_conv2d_shape *s)
{
    return s->dtype == FC_F32 ? fc_kernels()->depthwise_f32 : fc_kernels()->depthwise_f64;
}

static int64_t units_a_task(int64_t units, int threads)
{
    return max64(1, units / ((int64_t)threads * TASKS_A_THREAD));
}

/* ---- Weights --------------------------------------------------------------------------------------------------- */

/* Elements between the packed taps of NHWC: never a multiple of what puts them into the same sets of the L1. */
static int64_t tap_pitch(int64_t channels) { return ceil_div(channels, 16) * 16 + 16; }

/* Of a pass: channels of its output, and those of a group of its output and of its input. */
static int64_t channels_of(const fc_conv2d_shape *s) { return s->pass == FC_FORWARD ? s->oc : s->ic; }
static int64_t multiplier_of(const fc_conv2d_shape *s) { return channels_of(s) / s->g; }
static int64_t depth_of(const fc_conv2d_shape *s) { return (s->pass == FC_FORWARD ? s->ic : s->oc) / s->g; }

/* Writes [tap][k][channel], as NHWC kernels read them; whether any is not finite. Channel block by channel block:
 * the taps of a channel lie close together in the usual order of weights. */
static int pack_channels(const fc_conv2d_shape *s, const fc_view *w, char *dst)
{
    const int64_t size = element_size(s->dtype), channels = channels_of(s), pitch = tap_pitch(channels);
    const int64_t *ws = w->strides;
    const int64_t multiplier = multiplier_of(s), depth = depth_of(s), taps = s->kh * s->kw, w_g = s->oc / s->g * ws[0];
    const int64_t w_o = s->pass == FC_FORWARD ? ws[0] : ws[1], w_k = s->pass == FC_FORWARD ? ws[1] : ws[0];
    int64_t from[PACK_CHANNELS];
    int found = 0;
    for (int64_t c = 0; c < channels; c += PACK_CHANNELS) {
        const int64_t n = min64(PACK_CHANNELS, channels - c);
        for (int64_t i = 0; i < n; i++)
            from[i] = (c + i) / multiplier * w_g + (multiplier > 1 ? (c + i) % multiplier * w_o : 0);
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t k = 0; k < depth; k++) {
                const int64_t at = (s->kh > 1 ? tap / s->kw * ws[2] : 0) + (s->kw > 1 ? tap % s->kw * ws[3] : 0) +
                                   (depth > 1 ? k * w_k : 0);
                char *const to = dst + ((tap * depth + k) * pitch + c) * size;
                for (int64_t i = 0; i < n; i++)
                    if (size == 4)
                        ((word32 *)to)[i] = ((const word32 *)w->data)[at + from[i]];
                    else
                        ((word64 *)to)[i] = ((const word64 *)w->data)[at + from[i]];
                found |= any_nonfinite(to, n, (int)size);
            }
    }
    return found;
}

static int weights_nonfinite(const fc_conv2d_shape *s, const fc_view *w)
{
    const int64_t size = element_size(s->dtype), icg = s->ic / s->g, taps = s->kh * s->kw, *ws = w->strides;
    int found = 0;
    if ((s->oc == 1 || ws[0] == icg * taps) && (icg == 1 || ws[1] == taps) && (s->kh == 1 || ws[2] == s->kw) &&
        (s->kw == 1 || ws[3] == 1))
        return any_nonfinite(w->data, taps * icg * s->oc, (int)size);
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < icg; c++) {
            const int64_t at = (s->kh > 1 ? tap / s->kw * ws[2] : 0) + (s->kw > 1 ? tap % s->kw * ws[3] : 0);
            const char *from = (const char *)w->data + (at + (icg > 1 ? c * ws[1] : 0)) * size;
            if (ws[0] == 1)
                found |= any_nonfinite(from, s->oc, (int)size);
            else
                for (int64_t o = 0; o < s->oc; o++)
                    found |= any_nonfinite(from + o * ws[0] * size, 1, (int)size);
        }
    return found;
}

static int64_t channels_bytes(const fc_conv2d_shape *s)
{
    return s->layout == FC_NHWC ? s->kh * s->kw * depth_of(s) * tap_pitch(channels_of(s)) * element_size(s->dtype) : 0;
}

static int64_t packed_bytes(const fc_conv2d_shape *s) { return KEPT_HEAD + channels_bytes(s); }

static void pack(const fc_conv2d_shape *s, const fc_view *w, void *packed, int threads)
{
    (void)threads;
    *(int *)packed = s->layout == FC_NHWC ? pack_channels(s, w, (char *)packed + KEPT_HEAD) :
                                            weights_nonfinite(s, w);
}

static int64_t workspace(const fc_conv2d_shape *s, int packed, int threads)
{
    (void)threads;
    return packed ? 0 : channels_bytes(s);
}

/* ---- The gather ------------------------------------------------------------------------------------------------ */

typedef struct job {
    const fc_depthwise_args *args;
    void (*gather)(const fc_depthwise_args *args, int64_t begin, int64_t end);
    int64_t units, units_a_task;
} job;

static void gather_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const int64_t begin = task * j->units_a_task;
    (void)worker;
    j->gather(j->args, begin, min64(begin + j->units_a_task, j->units));
}

static void run_gather(const fc_conv2d_shape *s, const fc_depthwise_args *a, int threads)
{
    job j = {a, kernels_for(s)->gather[s->layout], 0, 0};
    const int64_t outputs = a->mb * a->channels * a->out_h * a->out_w;
    if (outputs == 0)
        return;
    j.units = a->mb * (s->layout == FC_NHWC ? ceil_div(a->out_h, FC_DEPTHWISE_ROWS) : a->channels);
    if (outputs * a->taps_h * a->taps_w * a->depth < SMALL_PRODUCTS)
        threads = 1;
    j.units_a_task = threads > 1 ? units_a_task(j.units, threads) : j.units;
    fc_parallel_for(ceil_div(j.units, j.units_a_task), threads, gather_task, &j);
}

/* Whether some tap of some output lies outside of the input. */
static int leaves_image(const fc_depthwise_args *a)
{
    return a->top < 0 || a->left < 0 || (a->out_h - 1) * a->sh + a->top + (a->taps_h - 1) * a->step_h >= a->in_h ||
           (a->out_w - 1) * a->sw + a->left + (a->taps_w - 1) * a->step_w >= a->in_w;
}

static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

/* Taps of one axis that reach residue class r, kernel index descending so that their offsets in dy ascend. Returns
 * their number; the first one's index and offset; then the index falls by *apart and the offset grows by *step. */
static int64_t class_taps(int64_t k, int64_t dilation, int64_t pad, int64_t stride, int64_t r, int64_t *first,
                          int64_t *offset, int64_t *apart, int64_t *step)
{
    const int64_t common = gcd(stride, dilation);
    *apart = stride / common;
    *step = dilation / common;
    *first = *offset = 0;
    for (int64_t a = k - 1; a >= 0; a--) {
        const int64_t cells = r + pad - a * dilation; /* i*stride + cells = o*stride */
        if (cells % stride == 0) {
            *first = a;
            *offset = cells / stride;
            return a / *apart + 1;
        }
    }
    return 0;
}

static void run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, const void *packed,
                const fc_epilogue *epilogue, const fc_view *y, void *scratch, int threads)
{
    const int forward = s->pass == FC_FORWARD, nhwc = s->layout == FC_NHWC;
    const int64_t size = element_size(s->dtype), depth = depth_of(s), per_class_h = forward ? 1 : s->sh;
    const strides4 image = dense_strides(s->layout, s->ic, s->ih, s->iw);
    const strides4 outputs = dense_strides(s->layout, s->oc, s->oh, s->ow);
    const strides4 in = forward ? image : outputs, out = forward ? outputs : image;
    const int64_t height = forward ? s->oh : s->ih, width = forward ? s->ow : s->iw, per_class_w = forward ? 1 : s->sw;
    int64_t ws_h, ws_w;
    const char *weights = w->data;
    int nonfinite = -1; /* not looked at */
    fc_depthwise_args a = {
        .mb = s->mb, .channels = channels_of(s), .multiplier = multiplier_of(s), .depth = depth,
        .in_h = forward ? s->ih : s->oh, .in_w = forward ? s->iw : s->ow,
        .sh = forward ? s->sh : 1, .sw = forward ? s->sw : 1,
        .in = x->data, .in_n = in.n, .in_row = in.h, .in_col = in.w, .in_plane = in.c,
        .out_n = out.n, .out_row = per_class_h * out.h, .out_col = per_class_w * out.w, .out_plane = out.c,
        .bias = epilogue->bias, .clamp = epilogue->clamp, .outside = forward, .lo = epilogue->lo, .hi = epilogue->hi,
    };
    if (packed)
        nonfinite = *(const int *)packed;
    /* Weights of the layout's own order are read in place, unless their taps fall into few sets of the L1. */
    const int64_t apart = (depth > 1 ? w->strides[1] : s->kw > 1 ? w->strides[3] : 1) * size;
    if (nhwc && (packed || !forward || (w->strides[0] != 1 && s->oc > 1) || apart % (ALIAS_BYTES / 2) == 0)) {
        weights = packed ? (const char *)packed + KEPT_HEAD : scratch;
        if (!packed)
            nonfinite = pack_channels(s, w, scratch);
        a.w_k = tap_pitch(a.channels);
        ws_w = depth * a.w_k;
        ws_h = s->kw * ws_w;
    } else {
        a.w_g = s->oc / s->g * w->strides[0];
        a.w_o = forward ? w->strides[0] : w->strides[1];
        a.w_k = forward ? w->strides[1] : w->strides[0];
        ws_h = s->kh > 1 ? w->strides[2] : 0;
        ws_w = s->kw > 1 ? w->strides[3] : 0;
    }
    for (int64_t rh = 0; rh < min64(per_class_h, height); rh++) {
        fc_depthwise_args even = a;
        for (int64_t rw = 0; rw < min64(per_class_w, width); rw++) {
            int64_t h = 0, v = 0, apart_h = -1, apart_w = -1;
            const int64_t at = (rh * out.h + rw * out.w) * size;
            if (forward) {
                a.taps_h = s->kh, a.taps_w = s->kw, a.top = -s->ph, a.left = -s->pw, a.step_h = s->dh, a.step_w = s->dw;
            } else {
                a.taps_h = class_taps(s->kh, s->dh, s->ph, s->sh, rh, &h, &a.top, &apart_h, &a.step_h);
                a.taps_w = class_taps(s->kw, s->dw, s->pw, s->sw, rw, &v, &a.left, &apart_w, &a.step_w);
            }
            a.out_h = ceil_div(height - rh, per_class_h);
            a.out_w = ceil_div(width - rw, per_class_w);
            a.w = weights + (h * ws_h + v * ws_w) * size;
            a.w_h = -apart_h * ws_h;
            a.w_w = -apart_w * ws_w;
            a.out = (char *)y->data + at;
            a.residual = epilogue->residual.data ? (const char *)epilogue->residual.data + at : NULL;
            if (nonfinite < 0 && leaves_image(&a))
                nonfinite = weights_nonfinite(s, w);
            a.nonfinite = nonfinite == 1;
            /* NCHW: columns of both classes are stored together */
            if (!nhwc && per_class_w == 2 && depth == 1 && width > 1 && s->kh * s->kw <= FC_DEPTHWISE_PAIR_TAPS) {
                if (rw == 0) {
                    even = a;
                    continue;
                }
                if (nonfinite != 1) {
                    even.odd = &a;
                    run_gather(s, &even, threads);
                    continue;
                }
                run_gather(s, &even, threads);
            }
            run_gather(s, &a, threads);
        }
    }
}

const fc_conv2d_kernel fc_conv2d_forward_depthwise = {"conv2d_forward_depthwise", packed_bytes, pack, workspace, run};
const fc_conv2d_kernel fc_conv2d_backward_input_depthwise = {
    "conv2d_backward_input_depthwise", packed_bytes, pack, workspace, run};
const fc_conv2d_kernel fc_conv2d_forward_grouped = {"conv2d_forward_grouped", packed_bytes, pack, workspace, run};
const fc_conv2d_kernel fc_conv2d_backward_input_grouped = {
    "conv2d_backward_input_grouped", packed_bytes, pack, workspace, run};

/* ---- The weight gradient --------------------------------------------------------------------------------------- */

typedef struct weight_job {
    fc_depthwise_weight_args args;
    void (*weight)(const fc_depthwise_weight_args *args, int64_t begin, int64_t end);
    int64_t units, units_a_task, row_blocks;
    const fc_view *dw;
} weight_job;

static int64_t row_blocks(const fc_conv2d_shape *s, int64_t *rows)
{
    const int64_t all = s->mb * s->oh;
    *rows = max64(max64(1, ceil_div(all, ROW_BLOCKS)), ceil_div(BLOCK_PIXELS_LEAST, max64(s->ow, 1)));
    return max64(1, ceil_div(all, *rows));
}

static void weight_task(void *ctx, int64_t task, int worker)
{
    const weight_job *j = ctx;
    const int64_t begin = task * j->units_a_task;
    (void)worker;
    j->weight(&j->args, begin, min64(begin + j->units_a_task, j->units));
}

/* Adds the row blocks of one tap and writes them to dw. */
static void add_blocks_task(void *ctx, int64_t tap, int worker)
{
    const weight_job *j = ctx;
    const fc_conv2d_shape *s = j->args.shape;
    const int64_t *ws = j->dw->strides, taps = s->kh * s->kw, block = taps * s->oc;
    const int64_t at = tap / s->kw * ws[2] + tap % s->kw * ws[3], step = ws[0];
    (void)worker;
    for (int64_t part = 1; part < j->row_blocks; part++) {
        if (s->dtype == FC_F32) {
            float *sum = (float *)j->args.sums + tap * s->oc;
            for (int64_t o = 0; o < s->oc; o++)
                sum[o] += sum[part * block + o];
        } else {
            double *sum = (double *)j->args.sums + tap * s->oc;
            for (int64_t o = 0; o < s->oc; o++)
                sum[o] += sum[part * block + o];
        }
    }
    const int size = (int)element_size(s->dtype);
    copy_words((char *)j->dw->data + at * size, (const char *)j->args.sums + tap * s->oc * size, s->oc, step, 1, size);
}

static int64_t weight_workspace(const fc_conv2d_shape *s, int threads)
{
    int64_t rows;
    const int64_t blocks = s->layout == FC_NHWC ? row_blocks(s, &rows) : 1;
    (void)threads;
    return align_up(blocks * s->kh * s->kw * s->oc * element_size(s->dtype));
}

static void weight_run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *dy, const fc_view *dw, void *scratch,
                       int threads)
{
    const int64_t taps = s->kh * s->kw;
    const int size = (int)element_size(s->dtype);
    weight_job j = {.args = {s, s->oc / s->ic, x->data, dy->data, scratch, 0, 0}, .dw = dw};
    j.weight = kernels_for(s)->weight[s->layout];
    if (s->mb * s->oc * s->oh * s->ow * taps < SMALL_PRODUCTS)
        threads = 1;
    if (s->layout == FC_NHWC) {
        j.row_blocks = row_blocks(s, &j.args.rows);
        j.args.channels = threads > 1 && j.row_blocks < threads * TASKS_A_THREAD ? CHANNEL_BLOCK : s->oc;
        j.units = j.row_blocks * ceil_div(s->oc, j.args.channels);
    } else {
        j.units = s->oc;
    }
    j.units_a_task = threads > 1 ? units_a_task(j.units, threads) : j.units;
    fc_parallel_for(ceil_div(j.units, j.units_a_task), threads, weight_task, &j);
    if (s->layout == FC_NHWC) {
        fc_parallel_for(taps, taps * s->oc * j.row_blocks < SMALL_PRODUCTS ? 1 : threads, add_blocks_task, &j);
        return;
    }
    for (int64_t tap = 0; tap < taps; tap++)
        copy_words((char *)dw->data + (tap / s->kw * dw->strides[2] + tap % s->kw * dw->strides[3]) * size,
                   (const char *)scratch + tap * size, s->oc, dw->strides[0], taps, size);
}

const fc_conv2d_weight_kernel fc_conv2d_backward_weight_depthwise = {"conv2d_backward_weight_depthwise", weight_workspace,
                                                                     weight_run};
