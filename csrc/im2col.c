/* Convolution and its input gradient as GEMM over {taps x channels}: sets up the gather that both are, packs weights.
 *
 *   out[o][i][j] = epilogue(sum_t sum_c w[o][c][t] * in[c][i*sh + th[t]][j*sw + tw[t]])
 *
 * with what lies outside the image 0; a block of it is packed at a time, never the whole matrix. Forward has
 * th = kh*dh - ph. Backward_input runs it once per residue class of (ih mod sh, iw mod sw) as a gather of stride 1 over
 * dy with the taps that reach the class.
 * NHWC (im2col_nhwc.c): rows of the microkernel are pixels, columns are output channels. NCHW (im2col_nchw.c): rows are
 * output channels, columns are pixels. So C is always written along its contiguous axis. Blocking as in Goto & van de
 * Geijn (2008); packing inside the blocked loop as in CONVGEMM (San Juan et al. 2020).
 * Who computes what depends on the number of threads; the order of summation of an output does not. */
#include "im2col.h"

#include <stddef.h>

enum {
    BLOCK_CHANNELS = 256, /* NHWC: output channels that a task takes through the loop nest */
    TASKS_A_THREAD = 8,   /* so that the last tasks balance */
    SIDE_ROWS = 3,        /* fewer rows of cells of an image make thin tiles at its sides */
    REPAYS_PACKING = 6,   /* a tile is packed in 1/6 of the time of its product with one panel */
    CHANNEL_GRAIN = 16,   /* NHWC blocks of channels are whole cache lines of floats */
    /* NHWC: so few tiles of pixels do not repay the packing of weights: of one tap, of more, and where every fourth row of
     * weights falls into one set of the L1 (Zen 3, not packed over packed: 4 tiles 1.2 to 1.6, with more taps 1.1 to 1.5,
     * such rows 1.0; 11 tiles 1.0 to 1.1, 0.7 and 0.85; 33 tiles of 9 taps and such rows 0.5) */
    UNPACKED_TILES = 8,
    UNPACKED_TILES_TAPS = 4,
    UNPACKED_TILES_ALIASED = 3,
    KEPT_HEAD = 64,       /* before the packed weights of a gather that are kept: an int, whether any is not finite */
};

/* Depth of a block of the reduction over `channels` channels of `taps` taps. NCHW cuts anywhere in c*taps + t; NHWC cuts
 * between channels (the block is all taps of some channels). */
static int64_t depth_of(int layout, int64_t taps, int64_t channels, int64_t size)
{
    const int64_t target = DEPTH_BYTES / size;
    if (taps == 0)
        return 0;
    if (layout == FC_NCHW) {
        const int64_t blocks = max64(1, (2 * taps * channels + target) / (2 * target));
        return ceil_div(taps * channels, blocks);
    }
    const int64_t most = max64(1, target / taps);
    const int64_t chunks = max64(1, (2 * channels + most) / (2 * most));
    int64_t chunk = ceil_div(channels, chunks);
    if (chunks > 1)
        chunk = min64(channels, ceil_div(chunk, CHANNEL_GRAIN) * CHANNEL_GRAIN);
    return taps * chunk;
}

/* Weights of one (group, depth block, tile of output channels), as rows [k][width]. */
typedef struct pack_job {
    gather *g;
    int64_t width;
} pack_job;

static void pack_weights_task(void *ctx, int64_t task, int worker)
{
    const pack_job *job = ctx;
    gather *g = job->g;
    const int64_t width = job->width, size = g->size;
    const int64_t tile = task % g->channel_tiles, rest = task / g->channel_tiles;
    const int64_t block = rest % g->blocks, group = rest / g->blocks;
    const int64_t depth_all = g->icg * g->taps, k0 = block * g->depth;
    const int64_t depth = min64(g->depth, depth_all - k0);
    int64_t first = tile * width, rows = min64(width, g->ocg - first);
    if (g->layout == FC_NCHW)
        rows = split(g->ocg, g->channel_tiles, tile, &first);
    char *const panel = g->packed + ((group * depth_all + k0) * g->channel_tiles * width + tile * depth * width) * size;
    char *dst = panel;
    const char *src = g->w + (group * g->wg + first * g->wo) * size;
    (void)worker;
    if (g->layout == FC_NHWC) { /* k = t*channels + c */
        const int64_t c0 = k0 / g->taps, channels = depth / g->taps;
        for (int64_t a = 0; a < g->taps_h; a++)
            for (int64_t b = 0; b < g->taps_w; b++) {
                pack_panel(dst, width, src + (g->wh[a] + g->ww[b] + c0 * g->wc) * size, channels, g->wc, rows, g->wo, (int)size);
                dst += channels * width * size;
            }
    } else { /* k = c*taps + t, cut anywhere */
        for (int64_t k = k0; k < k0 + depth; k++) {
            const int64_t c = k / g->taps, t = k % g->taps, a = t / g->taps_w, b = t % g->taps_w;
            pack_panel(dst, width, src + (g->wh[a] + g->ww[b] + c * g->wc) * size, 1, 0, rows, g->wo, (int)size);
            dst += width * size;
        }
    }
    if ((g->adjoint || g->region_count > 0) && any_nonfinite(panel, depth * width, (int)size))
        __atomic_store_n(&g->nonfinite, 1, __ATOMIC_RELAXED);
}

/* ---- How the work is cut --------------------------------------------------------------------------------------------- */

/* Taps [*first, *end) of one axis that lie inside the image for output cell o. */
static void taps_inside(const int64_t *offsets, int64_t taps, int64_t cell, int64_t length, int64_t *first, int64_t *end)
{
    for (*first = 0; *first < taps && cell + offsets[*first] < 0;)
        ++*first;
    for (*end = taps; *end > *first && cell + offsets[*end - 1] >= length;)
        --*end;
}

/* The end of the run of output cells from o on that have the same taps inside, which are [*first, *end). */
static int64_t run_of_cells(const int64_t *offsets, int64_t taps, int64_t stride, int64_t length, int64_t o, int64_t cells,
                            int64_t *first, int64_t *end)
{
    int64_t next = o, f, e;
    taps_inside(offsets, taps, o * stride, length, first, end);
    do {
        next++;
        taps_inside(offsets, taps, next * stride, length, &f, &e);
    } while (next < cells && f == *first && e == *end);
    return next;
}

static int64_t cells_of(const region *r)
{
    return (r->i1 - r->i0) * (r->j1 - r->j0);
}

/* Cuts the output into regions where that repays that every tile of pixels is packed. Which they are does not depend on
 * the batch. Rows of cells are cut at their sides too when there are enough of them to fill tiles. */
static void cut_regions(gather *g)
{
    const int64_t panels = ceil_div(g->ocg, g->kernel.nr);
    int64_t products = 0, i1, j1, a0, a1, b0, b1;
    g->region_count = 0;
    if (g->layout != FC_NHWC || g->taps < 2 || g->taps_h > REGION_TAP_ROWS)
        return;
    for (int64_t i = 0; i < g->out_h; i = i1) {
        i1 = run_of_cells(g->th, g->taps_h, g->sh, g->in_h, i, g->out_h, &a0, &a1);
        for (int64_t j = 0; j < g->out_w; j = j1) {
            j1 = run_of_cells(g->tw, g->taps_w, g->sw, g->in_w, j, g->out_w, &b0, &b1);
            if (i1 - i < SIDE_ROWS)
                j1 = g->out_w, b0 = 0, b1 = g->taps_w;
            if (g->region_count == MAX_REGIONS) {
                g->region_count = 0;
                return;
            }
            int at = g->region_count++; /* the largest first: full tiles meet the weights while they are far away */
            for (; at > 0 && cells_of(&g->regions[at - 1]) < (i1 - i) * (j1 - j); at--)
                g->regions[at] = g->regions[at - 1];
            g->regions[at] = (region){i, i1, j, j1, a0, a1, b0, b1, 0, 0};
            products += (i1 - i) * (j1 - j) * (a1 - a0) * (b1 - b0);
        }
    }
    const int64_t all = g->out_h * g->out_w * g->taps;
    if ((all - products) * panels * REPAYS_PACKING < all)
        g->region_count = 0;
}

/* How many tasks there are is free, since no bit depends on it: blocks shrink until every thread has enough of them. */
static void cut_work(gather *g)
{
    const int nhwc = g->layout == FC_NHWC;
    const int64_t pixel_width = nhwc ? g->kernel.mr : g->kernel.nr, channel_width = nhwc ? g->kernel.nr : g->kernel.mr;
    const int64_t wanted = g->threads > 1 ? (int64_t)g->threads * TASKS_A_THREAD : 1;
    const int rows_adjoin = g->y.h == g->out_w * g->y.w && g->y.n == g->out_h * g->y.h &&
                            (!g->residual || (g->r.h == g->out_w * g->r.w && g->r.n == g->out_h * g->r.h));
    g->pixels = g->mb * g->out_h * g->out_w;
    g->tiles_a_row = ceil_div(g->out_w, pixel_width);
    if (nhwc) /* wide rows are cut on their own, so that tiles inside the image are read in place */
        g->flat = rows_adjoin && (g->pointwise || g->out_w < 2 * pixel_width);
    else
        g->flat = g->sh == 1 && g->sw == 1 && g->in_w == g->out_w && g->in_h == g->out_h && g->x.h == g->in_w;
    g->pixel_tiles = nhwc && !g->flat ? g->mb * g->out_h * g->tiles_a_row : ceil_div(g->pixels, pixel_width);
    if (g->region_count > 0) {
        g->pixel_tiles = 0;
        for (region *r = g->regions; r < g->regions + g->region_count; r++) {
            r->tile0 = g->pixel_tiles;
            r->tiles = ceil_div(g->mb * cells_of(r), pixel_width);
            g->pixel_tiles += r->tiles;
        }
    }
    g->channel_tiles = ceil_div(g->ocg, channel_width);
    g->pixel_block = min64(g->pixel_tiles, max64(1, (nhwc ? BLOCK_PIXELS_NHWC : BLOCK_PIXELS_NCHW) / pixel_width));
    /* NCHW packs its columns for every block of channels: one block, unless threads want more. */
    g->channel_block = nhwc ? min64(g->channel_tiles, ceil_div(BLOCK_CHANNELS, channel_width)) : g->channel_tiles;
    while (g->pixel_block > 1 &&
           g->groups * ceil_div(g->pixel_tiles, g->pixel_block) * ceil_div(g->channel_tiles, g->channel_block) < wanted)
        g->pixel_block = (g->pixel_block + 1) / 2;
    while (g->channel_block > 1 &&
           g->groups * ceil_div(g->pixel_tiles, g->pixel_block) * ceil_div(g->channel_tiles, g->channel_block) < wanted / 2)
        g->channel_block = (g->channel_block + 1) / 2;
    g->pixel_blocks = ceil_div(g->pixel_tiles, g->pixel_block);
    g->channel_blocks = ceil_div(g->channel_tiles, g->channel_block);
}

/* Are the weights of one output channel, in the order c*taps + t, equally spaced? */
static int weights_affine(gather *g)
{
    const int64_t step = g->taps_w > 1 ? g->ww[1] - g->ww[0] : g->taps_h > 1 ? g->wh[1] - g->wh[0] : g->wc;
    g->base_w = g->wh[0] + g->ww[0];
    g->cs_w = step;
    for (int64_t a = 0; a < g->taps_h; a++)
        for (int64_t b = 0; b < g->taps_w; b++)
            if (g->wh[a] + g->ww[b] != g->base_w + (a * g->taps_w + b) * step)
                return 0;
    return g->icg == 1 || g->wc == g->taps * step;
}

/* Bytes of a gather's packed weights. */
static int64_t packed_panels(const gather *g)
{
    const int64_t width = g->layout == FC_NHWC ? g->kernel.nr : g->kernel.mr;
    return align_up(g->groups * g->icg * g->taps * ceil_div(g->ocg, width) * width * g->size);
}

/* Can the microkernel read panels of output channels from w itself, and do few enough tiles of pixels share them that the
 * packing would not be repaid? */
static int weights_in_rows(const gather *g)
{
    const int64_t most = aliased(4 * g->wc, g->size) ? UNPACKED_TILES_ALIASED :
                         g->taps > 1 ? UNPACKED_TILES_TAPS : UNPACKED_TILES;
    return g->wo == 1 && g->ocg % g->kernel.nr == 0 && g->taps <= TAPS_IN_PLACE && !aliased(g->wc, g->size) &&
           g->pixel_tiles <= most;
}

static void run_gather(gather *g)
{
    g->taps = g->taps_h * g->taps_w;
    if (g->mb == 0 || g->out_h == 0 || g->out_w == 0 || g->ocg == 0)
        return;
    const int nhwc = g->layout == FC_NHWC;
    const int64_t depth_all = g->taps * g->icg;
    /* A class that no tap reaches still has its epilogue: one block of no depth. */
    g->depth = depth_of(g->layout, g->taps, g->icg, g->size);
    g->blocks = depth_all ? ceil_div(depth_all, g->depth) : 1;
    g->pointwise = g->taps == 1 && g->th[0] == 0 && g->tw[0] == 0 && g->sh == 1 && g->sw == 1 && g->in_h == g->out_h &&
                   g->in_w == g->out_w;
    g->merged = nhwc && g->groups == 1 && g->taps_w > 1 && g->depth == depth_all;
    for (int64_t b = 1; b < g->taps_w; b++)
        g->merged = g->merged && g->tw[b] == g->tw[b - 1] + 1;
    /* The adjoint looks at its weights while it packs them, unless no tap ever leaves the image. */
    const int in_place = !nhwc && (g->pointwise || !g->adjoint) && g->kept == NULL;
    g->affine = depth_all == 0 || (in_place && weights_affine(g));
    g->nonfinite = g->region_count = 0;
    cut_work(g);
    g->rows_in_place = nhwc && !g->adjoint && g->stage == PACK_AND_RUN && weights_in_rows(g);
    if (nhwc && !g->rows_in_place) { /* regions need to know that weights are finite, which packing finds out */
        cut_regions(g);
        if (g->region_count > 0)
            cut_work(g);
    }
    if (g->kept) {
        g->packed = g->kept + KEPT_HEAD;
        g->kept = g->packed + packed_panels(g);
    }
    if (g->stage == RUN_PACKED)
        g->nonfinite = *(const int *)(g->packed - KEPT_HEAD);
    else if (!g->affine && !g->rows_in_place) {
        pack_job job = {g, nhwc ? g->kernel.nr : g->kernel.mr};
        fc_parallel_for(g->groups * g->blocks * g->channel_tiles, g->threads, pack_weights_task, &job);
    }
    if (g->stage == PACK_ONLY) {
        *(int *)(g->packed - KEPT_HEAD) = g->nonfinite;
        return;
    }
    if (g->nonfinite && g->region_count > 0) { /* in a forward pass the zeros of the padding become NaN with such weights */
        g->nonfinite = g->adjoint;
        g->region_count = 0;
        cut_work(g);
    }
    fc_parallel_for(g->groups * g->pixel_blocks * g->channel_blocks, g->threads, nhwc ? fc_im2col_nhwc_task : fc_im2col_nchw_task, g);
}

/* ---- The passes ------------------------------------------------------------------------------------------------------- */

static int64_t tap_tables_bytes(const fc_conv2d_shape *s)
{
    return align_up(2 * (s->kh + s->kw) * (int64_t)sizeof(int64_t));
}

/* kept: where weights are packed once, or NULL for stage PACK_AND_RUN. */
static void start_gather(gather *g, const fc_conv2d_shape *s, const fc_view *w, char *kept, int stage,
                         const fc_epilogue *epilogue, char *workspace, int threads)
{
    const int forward = s->pass == FC_FORWARD;
    const int64_t ic = forward ? s->ic : s->oc, oc = forward ? s->oc : s->ic;
    const fc_kernels_table *table = fc_kernels();
    memset(g, 0, sizeof *g);
    g->kernel = s->dtype == FC_F32 ? table->gemm_f32 : table->gemm_f64;
    g->size = (int)element_size(s->dtype);
    g->layout = s->layout;
    g->threads = threads;
    g->adjoint = !forward;
    g->mb = s->mb;
    g->groups = s->g;
    g->icg = ic / s->g;
    g->ocg = oc / s->g;
    g->bias = epilogue->bias;
    g->clamp = epilogue->clamp;
    g->lo = epilogue->lo;
    g->hi = epilogue->hi;
    g->w = w->data;
    g->wg = s->oc / s->g * w->strides[0];
    g->wo = w->strides[forward ? 0 : 1];
    g->wc = w->strides[forward ? 1 : 0];
    g->stage = stage;
    g->kept = kept ? kept + tap_tables_bytes(s) : NULL;
    g->packed = workspace + tap_tables_bytes(s);
    g->taps = s->kh * s->kw;
    g->scratch = g->packed + (kept ? 0 : packed_panels(g));
}

/* Scratch of one worker, for the deepest block that a class with at most kh*kw taps can have (see depth_of). */
static int64_t scratch_bytes(const fc_conv2d_shape *s)
{
    const int forward = s->pass == FC_FORWARD, nchw = s->layout == FC_NCHW;
    const int64_t size = element_size(s->dtype), taps = s->kh * s->kw, target = DEPTH_BYTES / size;
    const int64_t channels = (forward ? s->ic : s->oc) / s->g;
    const int64_t pixels = s->mb * (forward ? s->oh * s->ow : s->ih * s->iw);
    const int64_t deepest = min64(taps * channels, 3 * target / 2 + (nchw ? 1 : (CHANNEL_GRAIN + 1) * taps));
    const int64_t rows = align_up(FC_MR_MAX * pitch_of(deepest) * size);
    return nchw ? rows + align_up((min64(pixels, BLOCK_PIXELS_NCHW) + FC_NR_MAX) * deepest * size) : rows;
}

static void forward(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, char *kept, int stage,
                    const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads)
{
    gather g;
    int64_t *tables = workspace, *th = tables, *tw = th + s->kh, *wh = tw + s->kw, *ww = wh + s->kh;
    start_gather(&g, s, w, kept, stage, epilogue, workspace, threads);
    for (int64_t a = 0; a < s->kh; a++) {
        th[a] = a * s->dh - s->ph;
        wh[a] = s->kh > 1 ? a * w->strides[2] : 0;
    }
    for (int64_t b = 0; b < s->kw; b++) {
        tw[b] = b * s->dw - s->pw;
        ww[b] = s->kw > 1 ? b * w->strides[3] : 0;
    }
    g.th = th, g.tw = tw, g.wh = wh, g.ww = ww;
    g.taps_h = s->kh, g.taps_w = s->kw;
    g.sh = s->sh, g.sw = s->sw;
    g.in_h = s->ih, g.in_w = s->iw, g.out_h = s->oh, g.out_w = s->ow;
    g.in = x->data, g.out = y->data, g.residual = epilogue->residual.data;
    g.x = dense_strides(s->layout, s->ic, s->ih, s->iw);
    g.y = g.r = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.in_elements = s->mb * s->ic * s->ih * s->iw;
    g.scratch_bytes = scratch_bytes(s);
    run_gather(&g);
}

/* Taps of one axis that reach residue class r: kernel index descending, so that offsets ascend. Returns their number. */
static int64_t class_taps(int64_t k, int64_t dilation, int64_t pad, int64_t stride, int64_t r, int64_t w_stride,
                          int64_t *offset, int64_t *w_offset)
{
    int64_t count = 0;
    for (int64_t a = k - 1; a >= 0; a--) {
        const int64_t cells = r + pad - a * dilation; /* i*stride + cells = o*stride */
        if (cells % stride != 0)
            continue;
        offset[count] = cells / stride;
        w_offset[count++] = k > 1 ? a * w_stride : 0;
    }
    return count;
}

static void backward_input(const fc_conv2d_shape *s, const fc_view *dy, const fc_view *w, char *kept, int stage,
                           const fc_epilogue *epilogue, const fc_view *dx, void *workspace, int threads)
{
    gather g;
    int64_t *tables = workspace, *th = tables, *tw = th + s->kh, *wh = tw + s->kw, *ww = wh + s->kh;
    const strides4 dense = dense_strides(s->layout, s->ic, s->ih, s->iw);
    start_gather(&g, s, w, kept, stage, epilogue, workspace, threads);
    g.th = th, g.tw = tw, g.wh = wh, g.ww = ww;
    g.sh = g.sw = 1;
    g.in_h = s->oh, g.in_w = s->ow;
    g.in = dy->data;
    g.x = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.y = g.r = (strides4){dense.n, dense.c, dense.h * s->sh, dense.w * s->sw};
    g.in_elements = s->mb * s->oc * s->oh * s->ow;
    g.scratch_bytes = scratch_bytes(s);
    for (int64_t rh = 0; rh < min64(s->sh, s->ih); rh++) {
        g.taps_h = class_taps(s->kh, s->dh, s->ph, s->sh, rh, w->strides[2], th, wh);
        g.out_h = ceil_div(s->ih - rh, s->sh);
        for (int64_t rw = 0; rw < min64(s->sw, s->iw); rw++) {
            const int64_t first = (rh * dense.h + rw * dense.w) * g.size;
            g.taps_w = class_taps(s->kw, s->dw, s->pw, s->sw, rw, w->strides[3], tw, ww);
            g.out_w = ceil_div(s->iw - rw, s->sw);
            g.out = (char *)dx->data + first;
            g.residual = epilogue->residual.data ? (const char *)epilogue->residual.data + first : NULL;
            run_gather(&g);
        }
    }
}

/* ---- The kernels ------------------------------------------------------------------------------------------------------ */

static int64_t weight_elements(const fc_conv2d_shape *s)
{
    const int64_t channels = (s->pass == FC_FORWARD ? s->ic : s->oc) / s->g;
    const int64_t outputs = (s->pass == FC_FORWARD ? s->oc : s->ic) / s->g;
    const int64_t width = s->layout == FC_NHWC ? FC_NR_MAX : FC_MR_MAX;
    return s->g * (outputs + width - 1) * channels * s->kh * s->kw;
}

/* Of every ISA: each gather has a head and its end aligned. In NCHW the dense weights of a forward pass are read in place. */
static int64_t packed_bytes(const fc_conv2d_shape *s)
{
    const int64_t gathers = s->pass == FC_FORWARD ? 1 : min64(s->sh, s->ih) * min64(s->sw, s->iw);
    if (s->layout == FC_NCHW && s->pass == FC_FORWARD)
        return 0;
    return tap_tables_bytes(s) + gathers * 2 * KEPT_HEAD + align_up(weight_elements(s) * element_size(s->dtype));
}

static void pack_weights(const fc_conv2d_shape *s, const fc_view *w, void *packed, int threads)
{
    const fc_view none = {packed, {0}}; /* no image is touched */
    const fc_epilogue plain = {0};
    /* the tables of taps, which every call makes anew, take the first bytes */
    (s->pass == FC_FORWARD ? forward : backward_input)(s, &none, w, packed, PACK_ONLY, &plain, &none, packed, threads);
}

/* Bounds for every ISA and every stride of the weights. Mirrored by im2col_workspace in fastconv/capability.py. */
static int64_t workspace_bytes(const fc_conv2d_shape *s, int packed, int threads)
{
    return tap_tables_bytes(s) + (packed ? 0 : align_up(weight_elements(s) * element_size(s->dtype))) +
           threads * scratch_bytes(s);
}

static void run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, const void *packed,
                const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads)
{
    (s->pass == FC_FORWARD ? forward : backward_input)(s, x, w, (char *)packed, packed ? RUN_PACKED : PACK_AND_RUN, epilogue,
                                                       y, workspace, threads);
}

const fc_conv2d_kernel fc_conv2d_forward_im2col = {
    "conv2d_forward_im2col", packed_bytes, pack_weights, workspace_bytes, run};
const fc_conv2d_kernel fc_conv2d_backward_input_im2col = {
    "conv2d_backward_input_im2col", packed_bytes, pack_weights, workspace_bytes, run};
