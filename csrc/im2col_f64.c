/* im2col on float32 arrays in float64: some images at a time are widened, convolved by im2col.c and rounded once. For
 * callers who accept only errors that sums in float32 cannot keep. */
#include "numbers.h"

#include <stddef.h>

enum {
    RUN_BYTES = 4 << 20,     /* of widened images: they stay in the last cache beside the weights */
    COPY_ELEMENTS = 1 << 14, /* of a task that widens or rounds */
};

static const fc_conv2d_kernel *inner(const fc_conv2d_shape *s)
{
    return s->pass == FC_FORWARD ? &fc_conv2d_forward_im2col : &fc_conv2d_backward_input_im2col;
}

static fc_conv2d_shape widened(const fc_conv2d_shape *s, int64_t images)
{
    fc_conv2d_shape wide = *s;
    wide.dtype = FC_F64;
    wide.mb = images;
    return wide;
}

/* Elements of an image of the input and of the output of the pass. */
static int64_t in_elements(const fc_conv2d_shape *s)
{
    return s->pass == FC_FORWARD ? s->ic * s->ih * s->iw : s->oc * s->oh * s->ow;
}

static int64_t out_elements(const fc_conv2d_shape *s)
{
    return s->pass == FC_FORWARD ? s->oc * s->oh * s->ow : s->ic * s->ih * s->iw;
}

static int64_t bytes_of(int64_t elements)
{
    return align_up(elements * (int64_t)sizeof(double));
}

static int64_t weight_elements(const fc_conv2d_shape *s)
{
    return s->oc * (s->ic / s->g) * s->kh * s->kw;
}

/* Whether im2col keeps packed weights of its own: else it reads the wide ones. */
static int inner_packs(const fc_conv2d_shape *s)
{
    const fc_conv2d_shape wide = widened(s, 1);
    return inner(s)->packed_bytes(&wide) > 0;
}

/* Images of one run. */
static int64_t images_of(const fc_conv2d_shape *s)
{
    const int64_t image = max64(1, (in_elements(s) + out_elements(s)) * (int64_t)sizeof(double));
    return max64(1, min64(s->mb, RUN_BYTES / image));
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

/* The weights as dense OIHW doubles; returns the view of them. */
static fc_view widen_weights(const fc_conv2d_shape *s, const fc_view *w, double *to)
{
    const int64_t channels = s->ic / s->g, *t = w->strides;
    const float *from = w->data;
    double *next = to;
    for (int64_t o = 0; o < s->oc; o++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t a = 0; a < s->kh; a++)
                for (int64_t b = 0; b < s->kw; b++)
                    *next++ = from[o * t[0] + c * t[1] + a * t[2] + b * t[3]];
    return (fc_view){to, {channels * s->kh * s->kw, s->kh * s->kw, s->kw, 1}};
}

/* Packed: the wide weights, then what im2col makes of them. */
static int64_t packed_bytes(const fc_conv2d_shape *s)
{
    const fc_conv2d_shape wide = widened(s, 1);
    return bytes_of(weight_elements(s)) + inner(s)->packed_bytes(&wide);
}

static void pack(const fc_conv2d_shape *s, const fc_view *w, void *packed, int threads)
{
    const fc_conv2d_shape wide = widened(s, 1);
    const fc_view w64 = widen_weights(s, w, packed);
    if (inner_packs(s))
        inner(s)->pack(&wide, &w64, (char *)packed + bytes_of(weight_elements(s)), threads);
}

/* ---- Images -------------------------------------------------------------------------------------------------- */

typedef struct copy_job {
    const void *from;
    void *to;
    int64_t elements;
} copy_job;

static void widen_task(void *ctx, int64_t task, int worker)
{
    const copy_job *job = ctx;
    const int64_t end = min64(job->elements, (task + 1) * COPY_ELEMENTS);
    (void)worker;
    for (int64_t i = task * COPY_ELEMENTS; i < end; i++)
        ((double *)job->to)[i] = ((const float *)job->from)[i];
}

static void round_task(void *ctx, int64_t task, int worker)
{
    const copy_job *job = ctx;
    const int64_t end = min64(job->elements, (task + 1) * COPY_ELEMENTS);
    (void)worker;
    for (int64_t i = task * COPY_ELEMENTS; i < end; i++)
        ((float *)job->to)[i] = (float)((const double *)job->from)[i];
}

static void copy(void (*task)(void *, int64_t, int), const void *from, void *to, int64_t elements, int threads)
{
    copy_job job = {from, to, elements};
    fc_parallel_for(ceil_div(elements, COPY_ELEMENTS), threads, task, &job);
}

/* Mirrored by im2col_f64_workspace in fastconv/capability.py: a residual is always counted. */
static int64_t workspace_bytes(const fc_conv2d_shape *s, int packed, int threads)
{
    const int64_t images = images_of(s);
    const fc_conv2d_shape wide = widened(s, images);
    return bytes_of(images * in_elements(s)) + 2 * bytes_of(images * out_elements(s)) + bytes_of(max64(s->ic, s->oc)) +
           (packed ? 0 : bytes_of(weight_elements(s))) + inner(s)->workspace(&wide, packed && inner_packs(s), threads);
}

static void run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, const void *packed,
                const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads)
{
    const int64_t images = images_of(s), in = in_elements(s), out = out_elements(s);
    const int64_t channels = s->pass == FC_FORWARD ? s->oc : s->ic;
    char *place = workspace;
    double *const x64 = (double *)place, *const y64 = (double *)(place += bytes_of(images * in));
    double *const r64 = (double *)(place += bytes_of(images * out)), *const b64 = (double *)(place += bytes_of(images * out));
    place += bytes_of(max64(s->ic, s->oc));
    const void *const kept = packed && inner_packs(s) ? (const char *)packed + bytes_of(weight_elements(s)) : NULL;
    fc_view w64 = {(void *)packed, {s->ic / s->g * s->kh * s->kw, s->kh * s->kw, s->kw, 1}};
    if (!packed) {
        w64 = widen_weights(s, w, (double *)place);
        place += bytes_of(weight_elements(s));
    }
    fc_epilogue e = *epilogue;
    if (e.bias) {
        for (int64_t o = 0; o < channels; o++)
            b64[o] = ((const float *)e.bias)[o];
        e.bias = b64;
    }
    for (int64_t n = 0; n < s->mb; n += images) {
        const int64_t count = min64(images, s->mb - n);
        const fc_conv2d_shape wide = widened(s, count);
        const fc_view x_view = {x64, {0}}, y_view = {y64, {0}};
        copy(widen_task, (const float *)x->data + n * in, x64, count * in, threads);
        if (epilogue->residual.data) {
            copy(widen_task, (const float *)epilogue->residual.data + n * out, r64, count * out, threads);
            e.residual.data = r64;
        }
        inner(s)->run(&wide, &x_view, &w64, kept, &e, &y_view, place, threads);
        copy(round_task, y64, (float *)y->data + n * out, count * out, threads);
    }
}

const fc_conv2d_kernel fc_conv2d_forward_im2col_f64 = {
    "conv2d_forward_im2col_f64", packed_bytes, pack, workspace_bytes, run};
const fc_conv2d_kernel fc_conv2d_backward_input_im2col_f64 = {
    "conv2d_backward_input_im2col_f64", packed_bytes, pack, workspace_bytes, run};
