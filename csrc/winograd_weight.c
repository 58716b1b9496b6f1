/* The weight gradient of a Winograd convolution F(m x m, r x r) or F(m, r) at stride 1, as the adjoint of its bilinear form:
 *
 *   dw = G^T [ sum over tiles of (B^T x B) (A dy A^T) ] G
 *
 * Tiles are taken in blocks. First every task transforms some tiles of x to V[point][T][c] and of dy to M[point][T][k]; then
 * every task adds one GEMM, dU[point][c][k] += V^T M, for one point and some output channels; after the last block dU is
 * transformed back. Nobody adds to what another thread adds to, and the order of the sums is fixed.
 *
 * Where a transform overflowed or met a value that is not finite, dw has one too: then all of it is the plain sum's (not for
 * pooled outputs, whose codes mean little then). */
#include "conv_pool.h"
#include "numbers.h"
#include "winograd.h"

#include <string.h>

enum {
    TRANSFORM_TILES = 14,    /* tiles of one task of the transforms */
    LEAST_TILES = 128,       /* of a block: dU is read and written once for each, */
    BLOCK_BYTES = 2 << 20,   /* and V and M of as many as this holds: they stay in cache (Zen 3: 1, 4, 8 MB 0.75-1.05x) */
    TASK_CHANNELS = 64,      /* output channels of one task of the products */
    BIAS_TASKS = 16,         /* of the bias gradient, whose sums are added in order */
    SMALL_CELLS = 1 << 15,   /* fewer elements are summed by one thread */
};

typedef struct weight_plan {
    const fc_conv2d_shape *shape;
    const fc_winograd_kernel *kernel;
    const fc_winograd_move *move;
    const fc_gemm_kernel *gemm;
    fc_winograd_grid grid;
    fc_winograd_source x, dy;
    int64_t size, c, k;                           /* c, k: channels of one group */
    int64_t block_tiles;
    int64_t u_row, u_point;                       /* elements */
    int64_t v_bytes, m_bytes, u_bytes, scratch_bytes;
    char *v, *m, *u, *scratch;
    fc_view dw;
    int64_t g, start, end;                        /* the block at work */
    int *bad;                                     /* set to 1 if a sum is not finite */
} weight_plan;

/* Everything that follows from the shape, whatever the ISA. Mirrored by winograd_weight_workspace in
 * fastconv/capability.py. */
static weight_plan make_plan(const fc_conv2d_shape *shape, int tile)
{
    weight_plan s = {.shape = shape};
    s.size = element_size(shape->dtype);
    s.c = shape->ic / shape->g;
    s.k = shape->oc / shape->g;
    s.grid = fc_winograd_grid_of(tile, shape->mb, shape->oh, shape->ow, shape->kh, shape->kw);
    const fc_winograd_grid *const grid = &s.grid;
    const int64_t v_row = fc_winograd_row(s.c), m_row = fc_winograd_row(s.k);
    const int64_t held = BLOCK_BYTES / (grid->points * (v_row + m_row) * s.size);
    s.block_tiles = min64(max64(LEAST_TILES, held), max64(1, grid->tiles));
    s.block_tiles = ceil_div(grid->tiles, ceil_div(max64(1, grid->tiles), s.block_tiles)); /* alike */
    s.u_row = ceil_div(s.k, FC_NR_MAX) * FC_NR_MAX;
    s.u_point = s.c * s.u_row + FC_LANES_MAX;
    s.x.row = v_row;
    s.x.point = s.block_tiles * v_row + FC_LANES_MAX;
    s.dy.row = m_row;
    s.dy.point = s.block_tiles * m_row + FC_NR_MAX; /* whole rows of B are read */
    s.v_bytes = align_up(grid->points * s.x.point * s.size);
    s.m_bytes = align_up(grid->points * s.dy.point * s.size);
    s.u_bytes = align_up(grid->points * s.u_point * s.size);
    const int64_t r = fc_winograd_tiles[tile].r;
    s.scratch_bytes = align_up(max64(fc_winograd_scratch(grid, TRANSFORM_TILES), r * r * FC_LANES_MAX) * s.size);
    return s;
}

static int64_t plan_bytes(const weight_plan *s, int threads)
{
    return s->v_bytes + s->m_bytes + s->u_bytes + threads * s->scratch_bytes;
}

/* V and M of some tiles of the block. */
static void transform_task(void *ctx, int64_t task, int worker)
{
    const weight_plan *s = ctx;
    char *const scratch = s->scratch + worker * s->scratch_bytes;
    const int64_t start = s->start + task * TRANSFORM_TILES, end = min64(s->end, start + TRANSFORM_TILES);
    fc_winograd_transform(&s->x, s->g, start, end, s->v + (start - s->start) * s->x.row * s->size, scratch);
    fc_winograd_transform(&s->dy, s->g, start, end, s->m + (start - s->start) * s->dy.row * s->size, scratch);
}

/* dU of one point and some output channels. */
static void multiply_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const weight_plan *s = ctx;
    const int64_t nr = s->gemm->nr, blocks = ceil_div(s->k, TASK_CHANNELS), point = task / blocks;
    const int64_t k0 = task % blocks * TASK_CHANNELS, k1 = min64(s->k, k0 + TASK_CHANNELS);
    const int64_t pieces = ceil_div(s->c, s->gemm->mr);
    const char *const v = s->v + point * s->x.point * s->size, *const m = s->m + point * s->dy.point * s->size;
    char *const u = s->u + point * s->u_point * s->size;
    fc_gemm_args args = {.kc = s->end - s->start, .taps = 1, .rs_a = 1, .cs_a = s->x.row, .rs_b = s->dy.row,
                         .rs_c = s->u_row, .accumulate = s->start > 0};
    for (int64_t k = k0; k < k1; k += nr) {
        args.n = min64(nr, ceil_div(k1 - k, s->move->lanes) * s->move->lanes); /* a task's columns only */
        args.b = m + k * s->size;
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t c = s->c * piece / pieces;
            args.m = s->c * (piece + 1) / pieces - c;
            args.a = v + c * s->size;
            args.c = u + (c * s->u_row + k) * s->size;
            s->gemm->run(&args);
        }
    }
}

/* Taps[cell][lane] of some output channels to dw: rows of channels (HWIO), or filter after filter. */
#define FC_STORE_TAPS(T) \
    static void FC_JOIN(store_taps_, T)(T *dw, const int64_t *stride, const fc_conv2d_shape *shape, const T *taps, \
                                        int64_t lanes, int64_t count) \
    { \
        const int64_t kh = shape->kh, kw = shape->kw; \
        if (stride[0] == 1) { \
            for (int64_t t = 0; t < kh * kw; t++) \
                memcpy(dw + t / kw * stride[2] + t % kw * stride[3], taps + t * lanes, (size_t)count * sizeof(T)); \
            return; \
        } \
        for (int64_t o = 0; o < count; o++) \
            for (int64_t a = 0; a < kh; a++) \
                for (int64_t b = 0; b < kw; b++) \
                    dw[o * stride[0] + a * stride[2] + b * stride[3]] = taps[(a * kw + b) * lanes + o]; \
    }
FC_STORE_TAPS(float)
FC_STORE_TAPS(double)

/* dw of one input channel. */
static void weights_task(void *ctx, int64_t c, int worker)
{
    const weight_plan *s = ctx;
    const int64_t lanes = s->move->lanes;
    char *const taps = s->scratch + worker * s->scratch_bytes;
    for (int64_t k = 0; k < s->k; k += lanes) {
        const int64_t count = min64(lanes, s->k - k);
        if (s->kernel->weights_adjoint(s->u + (c * s->u_row + k) * s->size, s->u_point, lanes, taps))
            __atomic_store_n(s->bad, 1, __ATOMIC_RELAXED);
        const int64_t at = (s->g * s->k + k) * s->dw.strides[0] + c * s->dw.strides[1];
        if (s->size == sizeof(float))
            store_taps_float((float *)s->dw.data + at, s->dw.strides, s->shape, (const float *)taps, lanes, count);
        else
            store_taps_double((double *)s->dw.data + at, s->dw.strides, s->shape, (const double *)taps, lanes, count);
    }
}

static int64_t workspace_bytes(const fc_conv2d_shape *shape, int tile, int threads)
{
    const weight_plan s = make_plan(shape, tile);
    return max64(plan_bytes(&s, threads), fc_conv2d_backward_weight_im2col.workspace(shape, threads));
}

static fc_winograd_source source_of(const weight_plan *s, const fc_view *view, int64_t channels, int64_t height,
                                    int64_t width, int64_t row, int64_t point)
{
    const int64_t *const stride = view->strides;
    return (fc_winograd_source){
        .grid = &s->grid, .move = s->move, .size = s->size, .nchw = s->shape->layout == FC_NCHW, .data = view->data,
        .mb = s->shape->mb, .groups = s->shape->g, .channels = channels, .height = height, .width = width, .stride_n = stride[0],
        .stride_c = stride[1], .stride_h = stride[2], .stride_w = stride[3], .row = row, .point = point};
}

/* codes: dy is that of pooled outputs (csrc/conv_pool.h), or NULL. Returns whether a sum was not finite. */
static int run(const fc_conv2d_shape *shape, int tile, const fc_view *x, const fc_view *dy, const uint8_t *codes,
               const fc_view *dw, void *workspace, int threads)
{
    weight_plan s = make_plan(shape, tile);
    int bad = 0;
    fc_winograd_choose(shape->dtype, tile, &s.gemm, &s.move, &s.kernel);
    s.dw = *dw;
    s.x = source_of(&s, x, s.c, shape->ih, shape->iw, s.x.row, s.x.point);
    s.x.transform = s.kernel->input;
    s.x.top = shape->ph;
    s.x.left = shape->pw;
    s.x.patch_h = s.grid.alpha_h;
    s.x.patch_w = s.grid.alpha_w;
    s.dy = source_of(&s, dy, s.k, shape->oh, shape->ow, s.dy.row, s.dy.point);
    s.dy.transform = s.kernel->output_adjoint;
    s.dy.patch_h = s.grid.tile_h;
    s.dy.patch_w = s.grid.tile_w;
    s.dy.codes = codes;
    s.v = workspace;
    s.m = s.v + s.v_bytes;
    s.u = s.m + s.m_bytes;
    s.scratch = s.u + s.u_bytes;
    s.bad = &bad;
    for (s.g = 0; s.g < shape->g && s.grid.tiles > 0; s.g++) {
        for (s.start = 0; s.start < s.grid.tiles; s.start = s.end) {
            s.end = min64(s.grid.tiles, s.start + s.block_tiles);
            fc_parallel_for(ceil_div(s.end - s.start, TRANSFORM_TILES), threads, transform_task, &s);
            fc_parallel_for(s.grid.points * ceil_div(s.k, TASK_CHANNELS), threads, multiply_task, &s);
        }
        fc_parallel_for(s.c, threads, weights_task, &s);
    }
    return bad;
}

static void run_plain(const fc_conv2d_shape *shape, int tile, const fc_view *x, const fc_view *dy, const fc_view *dw,
                      void *workspace, int threads)
{
    if (run(shape, tile, x, dy, NULL, dw, workspace, threads) || shape->mb == 0)
        fc_conv2d_backward_weight_im2col.run(shape, x, dy, dw, workspace, threads);
}

static void zero_weights(const fc_conv2d_shape *s, const fc_view *dw)
{
    const int64_t cells = s->kh * s->kw, size = element_size(s->dtype), *const stride = dw->strides;
    for (int64_t o = 0; o < s->oc; o++)
        for (int64_t c = 0; c < s->ic / s->g; c++)
            for (int64_t t = 0; t < cells; t++)
                memset((char *)dw->data + (o * stride[0] + c * stride[1] + t / s->kw * stride[2] + t % s->kw * stride[3]) * size,
                       0, (size_t)size);
}

/* The bias gradient of pooled outputs: sums of some cells for each task, then over the tasks. */
typedef struct bias_sums {
    const fc_conv2d_shape *shape;
    const fc_winograd_move *move;
    const char *dy;
    const uint8_t *codes;
    char *sums;
    int64_t cells, size;
} bias_sums;

static void bias_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const bias_sums *s = ctx;
    const int64_t n = s->shape->oc, start = s->cells * task / BIAS_TASKS, end = s->cells * (task + 1) / BIAS_TASKS;
    s->move->alive_sums(s->dy + start * n * s->size, s->codes + start * n, end - start, n, s->sums + task * n * s->size);
}

static void bias_gradient(const fc_conv2d_shape *shape, const void *dy, const uint8_t *codes, void *db, void *scratch,
                          int threads)
{
    const fc_kernels_table *const table = fc_kernels();
    const fc_winograd_move *const move = shape->dtype == FC_F32 ? table->winograd_move_f32 : table->winograd_move_f64;
    const int64_t cells = shape->mb * (shape->oh / 2) * (shape->ow / 2);
    bias_sums s = {shape, move, dy, codes, scratch, cells, element_size(shape->dtype)};
    fc_parallel_for(BIAS_TASKS, cells * shape->oc < SMALL_CELLS ? 1 : threads, bias_task, &s);
    for (int64_t o = 0; o < shape->oc; o++)
        set_element(shape->dtype, db, o, sum_of_tasks(shape->dtype, scratch, o, BIAS_TASKS, shape->oc));
}

static void run_pooled(const fc_conv2d_shape *shape, int tile, const fc_conv_pool_operands *arrays, void *workspace,
                       int threads)
{
    const fc_conv2d_shape s = fc_conv_pool_even(shape);
    const fc_view x = {arrays->x, {s.ih * s.iw * s.ic, 1, s.iw * s.ic, s.ic}}, dy = {arrays->y, {0}};
    run(&s, tile, &x, &dy, arrays->codes, &arrays->w, workspace, threads);
    if (s.mb == 0)
        zero_weights(&s, &arrays->w);
    if (arrays->bias)
        bias_gradient(&s, arrays->y, arrays->codes, arrays->bias, workspace, threads);
}

static int64_t pooled_workspace(const fc_conv2d_shape *shape, int tile, int threads)
{
    const fc_conv2d_shape even = fc_conv_pool_even(shape);
    const weight_plan s = make_plan(&even, tile);
    return max64(plan_bytes(&s, threads), BIAS_TASKS * shape->oc * s.size);
}

/* ---- Rows ---------------------------------------------------------------------------------------------------- */

/* The kernel of one tile; `row` is its symbol and, after "fc_", its name. */
#define FC_WEIGHT_ROW(row, tile) \
    static int64_t FC_JOIN(row, _workspace)(const fc_conv2d_shape *shape, int threads) \
    { \
        return workspace_bytes(shape, tile, threads); \
    } \
    static void FC_JOIN(row, _run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *dy, const fc_view *dw, \
                                   void *workspace, int threads) \
    { \
        run_plain(shape, tile, x, dy, dw, workspace, threads); \
    } \
    const fc_conv2d_weight_kernel row = {&#row[sizeof "fc"], FC_JOIN(row, _workspace), FC_JOIN(row, _run)};

FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f2x3, FC_WINOGRAD_F2X3)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f4x3, FC_WINOGRAD_F4X3)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f6x3, FC_WINOGRAD_F6X3)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f2x5, FC_WINOGRAD_F2X5)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f4x5, FC_WINOGRAD_F4X5)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f4x3_1d, FC_WINOGRAD_F4X3_1D)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f6x3_1d, FC_WINOGRAD_F6X3_1D)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f4x5_1d, FC_WINOGRAD_F4X5_1D)
FC_WEIGHT_ROW(fc_conv2d_backward_weight_winograd_f4x7_1d, FC_WINOGRAD_F4X7_1D)

FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_weight_winograd_f2x3, FC_WINOGRAD_F2X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_weight_winograd_f4x3, FC_WINOGRAD_F4X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_weight_winograd_f6x3, FC_WINOGRAD_F6X3)
