/* The input gradient of a Winograd convolution F(m x m, r x r) at stride 1 as the adjoint of its bilinear form:
 *
 *   dx = sum over tiles of B [ U^T (A dy A^T) ] B^T,  tiles overlap by r - 1 cells
 *
 * The tiles are those of the forward pass: where there is little padding they are fewer than those of the convolution of dy
 * with the turned filter (a 13x13 image without padding has 9 instead of 16, a 5x5 image 1 instead of 4). A task takes some
 * whole images, since tiles add to their neighbours' cells, through all steps in blocks of tiles. NHWC, one group.
 * dy may be the gradient of pooled outputs with their codes (csrc/conv_pool.h).
 *
 * A value that is not finite, or a transform that overflows, spreads over its tile: then all of dx is the plain sum's; not
 * for pooled outputs, whose codes have no meaning then. */
#include "conv_pool.h"
#include "numbers.h"
#include "winograd.h"

#include <string.h>

enum {
    BLOCK_TILES = 42,    /* of V and M, at most: V stays in the L2 beside a panel of U, */
    CHANNEL_BLOCK = 64,  /* as M of so many channels does */
    PACK_CHANNELS = 8,   /* channels of dy of one packing task */
    TAPS_MAX = 25,
    PAD = 16,            /* elements after points, as in winograd.c */
};

typedef struct adjoint_plan {
    const fc_conv2d_shape *shape;
    const fc_winograd_kernel *kernel;
    const fc_winograd_move *move;
    const fc_gemm_kernel *gemm;
    fc_winograd_problem problem; /* its weights */
    fc_winograd_grid grid;
    fc_winograd_source source;
    fc_winograd_products products;
    int64_t size, depth, channels, panels, u_point;  /* depth: channels of dy */
    int64_t image_tiles, images, tasks, block_tiles; /* images of a task */
    int64_t u_bytes, v_bytes, m_bytes, scratch_bytes;
    char *u, *workers, *dx;
    int *bad; /* set to 1 if a sum is not finite */
} adjoint_plan;

/* Everything that follows from the shape, whatever the ISA. Mirrored by winograd_adjoint_workspace in
 * fastconv/capability.py. */
static adjoint_plan make_plan(const fc_conv2d_shape *shape, int tile)
{
    adjoint_plan s = {.shape = shape};
    s.size = element_size(shape->dtype);
    s.depth = shape->oc;
    s.channels = shape->ic;
    s.grid = fc_winograd_grid_of(tile, shape->mb, shape->oh, shape->ow, shape->kh, shape->kw);
    s.image_tiles = s.grid.tiles_h * s.grid.tiles_w;
    s.images = max64(1, BLOCK_TILES / max64(1, s.image_tiles));
    s.tasks = ceil_div(shape->mb, s.images);
    const int64_t most = s.images * s.image_tiles;
    s.block_tiles = ceil_div(most, ceil_div(max64(1, most), BLOCK_TILES));
    fc_winograd_products *const p = &s.products;
    p->v_row = fc_winograd_row(s.depth);
    p->v_point = s.block_tiles * p->v_row + PAD;
    p->m_row = CHANNEL_BLOCK;
    p->m_point = s.block_tiles * CHANNEL_BLOCK + PAD;
    s.u_bytes = align_up(s.grid.points * (s.depth * (s.channels + FC_NR_MAX - 1) + PAD) * s.size);
    s.v_bytes = align_up(s.grid.points * p->v_point * s.size);
    s.m_bytes = align_up(s.grid.points * p->m_point * s.size);
    s.scratch_bytes = align_up(s.grid.points * FC_WINOGRAD_PATCH * s.size);
    return s;
}

static int64_t worker_bytes(const adjoint_plan *s)
{
    return s->v_bytes + s->m_bytes + s->scratch_bytes;
}

static int64_t plan_bytes(const adjoint_plan *s, int threads)
{
    return s->u_bytes + threads * worker_bytes(s);
}

/* U[point][panel of dx channels][channel of dy][nr], some channels of dy of one panel. */
static void pack_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const adjoint_plan *s = ctx;
    const int64_t chunks = ceil_div(s->depth, PACK_CHANNELS), panel = task / chunks, nr = s->gemm->nr;
    const int64_t k0 = task % chunks * PACK_CHANNELS, k1 = min64(s->depth, k0 + PACK_CHANNELS);
    const int64_t filled = min64(nr, s->channels - panel * nr);
    const fc_winograd_problem *const p = &s->problem;
    double taps[TAPS_MAX * FC_NR_MAX];
    for (int64_t k = k0; k < k1; k++) {
        s->move->taps(p, p->w + (panel * nr * p->w_o + k * p->w_c) * s->size, filled, nr, taps);
        s->kernel->weights(taps, nr, s->u + (panel * s->depth + k) * nr * s->size, s->u_point);
    }
}

/* Adds B dV B^T of channels [c, c + count) of one tile to dx; m is dV of them. Returns whether any was not finite. */
static int add_tile(const adjoint_plan *s, int64_t t, int64_t c, int64_t count, const char *m, char *patch)
{
    const fc_conv2d_shape *const shape = s->shape;
    const fc_winograd_band tile = fc_winograd_segment(&s->grid, t, t + 1);
    const int64_t top = tile.i - shape->ph, left = tile.j - shape->pw, lanes = s->move->lanes;
    const int64_t row = shape->iw * s->channels, col = s->channels;
    char *const image = s->dx + (tile.n * shape->ih * row + c) * s->size;
    const int64_t alpha_h = s->grid.alpha_h, alpha_w = s->grid.alpha_w;
    const int inside = top >= 0 && left >= 0 && top + alpha_h <= shape->ih && left + alpha_w <= shape->iw;
    const int64_t vectors = inside ? count / lanes * lanes : 0, padded = ceil_div(count - vectors, lanes) * lanes;
    int bad = 0;
    if (vectors)
        bad |= s->kernel->input_adjoint(m, s->products.m_point, vectors, image + (top * row + left * col) * s->size, row, col);
    if (!padded)
        return bad;
    memset(patch, 0, (size_t)(s->grid.points * padded * s->size));
    bad |= s->kernel->input_adjoint(m + vectors * s->size, s->products.m_point, padded, patch, alpha_w * padded, padded);
    for (int64_t i = max64(0, -top); i < min64(alpha_h, shape->ih - top); i++)
        for (int64_t j = max64(0, -left); j < min64(alpha_w, shape->iw - left); j++) {
            const char *const from = patch + (i * alpha_w + j) * padded * s->size;
            char *const to = image + ((top + i) * row + (left + j) * col + vectors) * s->size;
            if (s->size == 4)
                for (int64_t k = 0; k < count - vectors; k++)
                    ((float *)to)[k] += ((const float *)from)[k];
            else
                for (int64_t k = 0; k < count - vectors; k++)
                    ((double *)to)[k] += ((const double *)from)[k];
        }
    return bad;
}

static void images_task(void *ctx, int64_t task, int worker)
{
    const adjoint_plan *s = ctx;
    char *const v = s->workers + worker * worker_bytes(s), *const m = v + s->v_bytes, *const scratch = m + s->m_bytes;
    const int64_t n0 = task * s->images, n1 = min64(s->shape->mb, n0 + s->images);
    const int64_t image_bytes = s->shape->ih * s->shape->iw * s->channels * s->size;
    const int64_t step = CHANNEL_BLOCK / s->gemm->nr * s->gemm->nr; /* whole panels of U */
    fc_winograd_products products = s->products;
    int bad = 0;
    products.v = v;
    products.m = m;
    memset(s->dx + n0 * image_bytes, 0, (size_t)((n1 - n0) * image_bytes));
    for (int64_t start = n0 * s->image_tiles; start < n1 * s->image_tiles; start += products.tiles) {
        products.tiles = min64(s->block_tiles, n1 * s->image_tiles - start);
        fc_winograd_transform(&s->source, 0, start, start + products.tiles, v, scratch);
        for (int64_t c = 0; c < s->channels; c += step) {
            products.channels = min64(step, s->channels - c);
            products.u = s->u + c * s->depth * s->size;
            fc_winograd_multiply(&products);
            for (int64_t t = 0; t < products.tiles; t++)
                bad |= add_tile(s, start + t, c, products.channels, m + t * CHANNEL_BLOCK * s->size, scratch);
        }
    }
    if (bad)
        __atomic_store_n(s->bad, 1, __ATOMIC_RELAXED);
}

/* codes: of pooled outputs, or NULL. Returns whether any sum was not finite. */
static int run(const fc_conv2d_shape *shape, int tile, const void *dy, const uint8_t *codes, const fc_view *w, void *dx,
               void *workspace, int threads)
{
    adjoint_plan s = make_plan(shape, tile);
    int bad = 0;
    fc_winograd_choose(shape->dtype, tile, &s.gemm, &s.move, &s.kernel);
    s.panels = ceil_div(s.channels, s.gemm->nr);
    s.u_point = s.panels * s.depth * s.gemm->nr + PAD;
    s.problem = (fc_winograd_problem){.kh = shape->kh, .kw = shape->kw, .w = w->data, .w_o = w->strides[1],
                                      .w_c = w->strides[0], .w_a = w->strides[2], .w_b = w->strides[3]};
    s.source = (fc_winograd_source){
        .grid = &s.grid, .move = s.move, .transform = s.kernel->output_adjoint, .size = s.size, .data = dy, .codes = codes,
        .mb = shape->mb, .groups = 1, .channels = s.depth, .height = shape->oh, .width = shape->ow,
        .stride_n = shape->oh * shape->ow * s.depth, .stride_c = 1, .stride_h = shape->ow * s.depth, .stride_w = s.depth,
        .patch_h = s.grid.tile_h, .patch_w = s.grid.tile_w, .row = s.products.v_row, .point = s.products.v_point};
    s.products.gemm = s.gemm;
    s.products.size = s.size;
    s.products.lanes = s.move->lanes;
    s.products.points = s.grid.points;
    s.products.depth = s.depth;
    s.products.terms = fc_winograd_tiles[tile].terms;
    s.products.u_point = s.u_point;
    s.dx = dx;
    s.u = workspace;
    s.workers = s.u + s.u_bytes;
    s.bad = &bad;
    fc_parallel_for(s.panels * ceil_div(s.depth, PACK_CHANNELS), threads, pack_task, &s);
    fc_parallel_for(s.tasks, threads, images_task, &s);
    return bad;
}

/* ---- Rows ---------------------------------------------------------------------------------------------------- */

static int64_t nothing_packed(const fc_conv2d_shape *shape)
{
    (void)shape;
    return 0;
}

static void pack_nothing(const fc_conv2d_shape *shape, const fc_view *w, void *packed, int threads)
{
    (void)shape, (void)w, (void)packed, (void)threads;
}

static int64_t workspace_bytes(const fc_conv2d_shape *shape, int tile, int threads)
{
    const adjoint_plan s = make_plan(shape, tile);
    return max64(plan_bytes(&s, threads), fc_conv2d_backward_input_im2col.workspace(shape, 0, threads));
}

static void run_plain(const fc_conv2d_shape *shape, int tile, const fc_view *dy, const fc_view *w,
                      const fc_epilogue *epilogue, const fc_view *dx, void *workspace, int threads)
{
    if (run(shape, tile, dy->data, NULL, w, dx->data, workspace, threads))
        fc_conv2d_backward_input_im2col.run(shape, dy, w, NULL, epilogue, dx, workspace, threads);
}

static void run_pooled(const fc_conv2d_shape *shape, int tile, const fc_conv_pool_operands *arrays, void *workspace,
                       int threads)
{
    const fc_conv2d_shape even = fc_conv_pool_even(shape);
    run(&even, tile, arrays->y, arrays->codes, &arrays->w, arrays->x, workspace, threads);
}

static int64_t pooled_workspace(const fc_conv2d_shape *shape, int tile, int threads)
{
    const fc_conv2d_shape even = fc_conv_pool_even(shape);
    const adjoint_plan s = make_plan(&even, tile);
    return plan_bytes(&s, threads);
}

/* The kernel of one tile; `row` is its symbol and, after "fc_", its name. */
#define FC_ADJOINT_ROW(row, tile) \
    static int64_t FC_JOIN(row, _workspace)(const fc_conv2d_shape *shape, int packed, int threads) \
    { \
        (void)packed; \
        return workspace_bytes(shape, tile, threads); \
    } \
    static void FC_JOIN(row, _run)(const fc_conv2d_shape *shape, const fc_view *dy, const fc_view *w, const void *packed, \
                                   const fc_epilogue *epilogue, const fc_view *dx, void *workspace, int threads) \
    { \
        (void)packed; \
        run_plain(shape, tile, dy, w, epilogue, dx, workspace, threads); \
    } \
    const fc_conv2d_kernel row = {&#row[sizeof "fc"], nothing_packed, pack_nothing, FC_JOIN(row, _workspace), \
                                  FC_JOIN(row, _run)};

FC_ADJOINT_ROW(fc_conv2d_backward_input_winograd_f2x3_adjoint, FC_WINOGRAD_F2X3)
FC_ADJOINT_ROW(fc_conv2d_backward_input_winograd_f4x3_adjoint, FC_WINOGRAD_F4X3)
FC_ADJOINT_ROW(fc_conv2d_backward_input_winograd_f6x3_adjoint, FC_WINOGRAD_F6X3)

FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_input_winograd_f2x3, FC_WINOGRAD_F2X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_input_winograd_f4x3, FC_WINOGRAD_F4X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_backward_input_winograd_f6x3, FC_WINOGRAD_F6X3)
