/* Winograd convolution F(m x m, r x r) and, for filters of one row or column, F(m, r), at stride 1, fused over blocks of
 * tiles.
 *
 * Weights are transformed once a call, U[group][point][k / nr][c][nr]. Then every task takes one block of T tiles of one
 * group through all steps while its data stay in cache: input transform to V[point][T][c], and for each block of output
 * channels one GEMM a point, M[point][T][channels] = V U, inverse transform, epilogue, store. NCHW is transposed to
 * channels-last strips of one vector of channels on the way in and back on the way out. Nothing is as large as a tensor
 * but U. The fused order is that of Gelashvili et al. 2019 (arXiv 1912.02165).
 *
 * Few tiles (by_channel): U is larger than the data, or too few for threads to share, so all of V is made first and every task
 * takes some panels of nr output channels instead, packing its own part of U, which then never leaves the cache.
 *
 * A non-finite value spreads over its tile, and large finite ones may overflow in the transforms only, so tiles with a
 * non-finite result are computed again by the plain sum. */
#include "conv_pool.h"
#include "numbers.h"
#include "winograd.h"

#include <stddef.h>
#include <string.h>

enum {
    PAD = 16,             /* elements after rows and points: a power of two apart they would share cache sets */
    CHANNEL_BLOCK = 64,   /* output channels of M; with T tiles and 36 points it fits beside V in L2 */
    BLOCK_TILES = 42,     /* T at most: three register tiles of rows share each panel of U; */
    LINE_TILES = 126,     /* in one dimension, where a tile has few points */
    INPUT_TILES = 14,     /* tiles of one task of the input transform, by channel */
    FEW_TILES = 98,       /* by channel up to here: V of 98 tiles and 512 channels takes 7 MB, */
    MANY_CHANNELS = 128,  /* from here: enough panels for the threads, */
    LARGE_U = 4 << 20,    /* and from here: a smaller U stays in cache beside one block (Zen 4, L2 1 MB, L3 32 MB); */
    LEAST_TILES = 14,     /* of a block. Fewer are shared by threads from so many multiply-adds on, which take longer than a */
    SOME_WORK = 1 << 17,  /* second thread needs to begin; */
    SHARED_TILES = 8,     /* fewer would be low register tiles (4 tiles: 0.74x; 9: 1.23x), and weights that are packed
                           * first make threads wait: there they share the channels, */
    SHARED_CHANNELS = 2 * FC_NR_MAX, /* from here: two tasks, */
    MUCH_WORK = 1 << 19,  /* and from so many multiply-adds, since they meet twice */
    PACK_CHANNELS = 8,    /* input channels of one packing task, */
    CHANNELS_AHEAD = 8,   /* and of weights that are on their way from memory: HWIO rows lie too far apart to be expected, */
    NEAR_WEIGHTS = 4 << 20, /* which repays itself from here (Zen 3: 1.15 times as fast on 9 MB, 0.85 on 2 MB) */
    TAPS_MAX = 25,
};

const fc_winograd_tile fc_winograd_tiles[FC_WINOGRAD_TILES] = {
    [FC_WINOGRAD_F2X3] = {2, 3, 0, FC_SUM_TERMS},    [FC_WINOGRAD_F4X3] = {4, 3, 0, FC_SUM_TERMS},
    [FC_WINOGRAD_F6X3] = {6, 3, 0, 64},              [FC_WINOGRAD_F2X5] = {2, 5, 0, FC_SUM_TERMS},
    [FC_WINOGRAD_F4X5] = {4, 5, 0, 128},             [FC_WINOGRAD_F4X3_1D] = {4, 3, 1, FC_SUM_TERMS},
    [FC_WINOGRAD_F6X3_1D] = {6, 3, 1, FC_SUM_TERMS}, [FC_WINOGRAD_F4X5_1D] = {4, 5, 1, FC_SUM_TERMS},
    [FC_WINOGRAD_F4X7_1D] = {4, 7, 1, FC_SUM_TERMS},
};

typedef struct plan {
    fc_winograd_problem problem;
    const fc_winograd_kernel *kernel;
    const fc_winograd_move *move;
    const fc_gemm_kernel *gemm;
    int64_t size;                /* bytes of an element */
    fc_winograd_grid grid;
    fc_winograd_source source;   /* the input */
    int64_t terms;               /* most input channels of a partial sum */
    int64_t blocks, block_tiles; /* blocks of at most block_tiles, whatever the ISA */
    int by_channel;
    int64_t panels, task_panels; /* of nr output channels: in one group; in a task, by channel */
    int64_t u_point, v_row, v_point, m_point; /* elements */
    int64_t bias_bytes, u_bytes, v_bytes, m_bytes, scratch_bytes;
    int64_t worker_bytes;
    uint8_t *codes; /* of pooled outputs, or NULL: then `out` is pooled (NHWC, one group) */
    char *u, *v, *bias, *workers; /* u NULL: packed by each task; v: by channel */
    int nchw, dtype;
} plan;

/* Everything that follows from the shape and the threads; sizes do not depend on the ISA, so that a workspace fits any. Mirrored by
 * winograd_workspace in fastconv/capability.py. */
static plan make_plan(const fc_conv2d_shape *shape, int tile, int packed, int threads)
{
    plan s = {0};
    fc_winograd_problem *p = &s.problem;
    const int backward = shape->pass == FC_BACKWARD_INPUT;
    p->mb = shape->mb;
    p->g = shape->g;
    p->c = (backward ? shape->oc : shape->ic) / shape->g;
    p->k = (backward ? shape->ic : shape->oc) / shape->g;
    p->ih = backward ? shape->oh : shape->ih;
    p->iw = backward ? shape->ow : shape->iw;
    p->oh = backward ? shape->ih : shape->oh;
    p->ow = backward ? shape->iw : shape->ow;
    p->kh = shape->kh;
    p->kw = shape->kw;
    p->top = backward ? p->kh - 1 - shape->ph : shape->ph;
    p->left = backward ? p->kw - 1 - shape->pw : shape->pw;
    p->taps_outside = !backward;

    s.size = element_size(shape->dtype);
    s.nchw = shape->layout == FC_NCHW;
    s.dtype = shape->dtype;
    s.grid = fc_winograd_grid_of(tile, p->mb, p->oh, p->ow, p->kh, p->kw);
    s.terms = fc_winograd_tiles[tile].terms;
    const fc_winograd_grid *const grid = &s.grid;

    /* By tile there are four blocks at least, for the threads. */
    const int64_t work = grid->points * grid->tiles * p->c * p->k;
    const int one_block = threads > 1 && p->g == 1 && grid->tiles <= LEAST_TILES;
    s.by_channel =
        (grid->tiles <= FEW_TILES && p->k >= MANY_CHANNELS && grid->points * p->c * p->k * s.size >= LARGE_U) ||
        (one_block && !(packed && grid->tiles >= SHARED_TILES) && p->k >= SHARED_CHANNELS && work >= MUCH_WORK);
    const int64_t most = fc_winograd_tiles[tile].line ? LINE_TILES : BLOCK_TILES;
    const int64_t least = one_block && work >= SOME_WORK ? ceil_div(grid->tiles, 2) : LEAST_TILES;
    const int64_t wanted = s.by_channel ? most : max64(least, min64(most, ceil_div(grid->tiles, 4)));
    s.blocks = max64(1, ceil_div(grid->tiles, wanted));
    s.block_tiles = min64(grid->tiles, ceil_div(grid->tiles, s.blocks) + FC_MR_MAX); /* see block_start */

    s.v_row = ceil_div(p->c, FC_LANES_MAX) * FC_LANES_MAX + PAD;
    s.v_point = (s.by_channel ? grid->tiles : s.block_tiles) * s.v_row + PAD;
    s.m_point = s.block_tiles * CHANNEL_BLOCK + PAD;
    const int64_t most_tiles = max64(s.block_tiles, INPUT_TILES), strip = min64(most_tiles, grid->tiles_w) * grid->tile_w;
    const int64_t scratch = max64(fc_winograd_scratch(grid, most_tiles),
                                  grid->band_rows * grid->tile_h * (strip + FC_LANES_MAX) * FC_LANES_MAX);
    s.bias_bytes = align_up(p->g * (p->k + FC_NR_MAX - 1) * s.size);
    s.u_bytes = align_up(p->g * grid->points * (p->c * (p->k + FC_NR_MAX - 1) + PAD) * s.size);
    s.v_bytes = align_up(grid->points * s.v_point * s.size);
    s.m_bytes = align_up(grid->points * s.m_point * s.size);
    s.scratch_bytes = align_up(scratch * s.size);
    return s;
}

/* The part of U of one task, where it packs its own. */
static int64_t part_bytes(const plan *s)
{
    return align_up(s->grid.points * (s->problem.c * FC_NR_MAX + PAD) * s->size);
}

/* Bytes of U, V and the bias that all workers share, and those of each worker. */
static int64_t shared_bytes(const plan *s, int packed)
{
    if (s->by_channel)
        return s->bias_bytes + s->problem.g * s->v_bytes;
    return s->bias_bytes + (packed ? 0 : s->u_bytes);
}

static int64_t worker_bytes(const plan *s, int packed)
{
    return s->m_bytes + s->scratch_bytes + (!s->by_channel ? s->v_bytes : packed ? 0 : part_bytes(s));
}

static int64_t workspace_bytes(const fc_conv2d_shape *shape, int tile, int packed, int threads)
{
    const plan s = make_plan(shape, tile, packed, threads);
    return s.grid.tiles ? shared_bytes(&s, packed) + threads * worker_bytes(&s, packed) : 0;
}

static int64_t packed_bytes(const fc_conv2d_shape *shape, int tile)
{
    return make_plan(shape, tile, 1, 1).u_bytes;
}

static void choose_kernels(plan *s, int tile)
{
    fc_winograd_choose(s->dtype, tile, &s->gemm, &s->move, &s->kernel);
    s->panels = ceil_div(s->problem.k, s->gemm->nr);
    s->task_panels = FC_NR_MAX / s->gemm->nr;
    s->u_point = s->panels * s->problem.c * s->gemm->nr + PAD;
}

static void set_weights(plan *s, const fc_conv2d_shape *shape, const fc_view *w)
{
    fc_winograd_problem *p = &s->problem;
    const int64_t *t = w->strides;
    p->w = w->data;
    p->w_g = shape->oc / shape->g * t[0];
    if (shape->pass == FC_BACKWARD_INPUT) { /* swapped channels, flipped filter */
        p->w += ((p->kh - 1) * t[2] + (p->kw - 1) * t[3]) * s->size;
        p->w_o = t[1];
        p->w_c = t[0];
        p->w_a = -t[2];
        p->w_b = -t[3];
    } else {
        p->w_o = t[0];
        p->w_c = t[1];
        p->w_a = t[2];
        p->w_b = t[3];
    }
}

/* U of one panel of one group. */
static char *panel_at(const plan *s, int64_t g, int64_t panel)
{
    return s->u + (g * s->grid.points * s->u_point + panel * s->problem.c * s->gemm->nr) * s->size;
}

/* ---- Weights ------------------------------------------------------------------------------------------------- */

/* Input channels [c, end) of one panel of one group; end - c <= PACK_CHANNELS. u is the panel's first channel. */
static void pack_channels(const plan *s, int64_t g, int64_t panel, int64_t c, int64_t end, char *u, int64_t u_point)
{
    const fc_winograd_problem *p = &s->problem;
    const int64_t nr = s->gemm->nr, lanes = s->move->lanes, o = panel * nr, filled = min64(nr, p->k - o);
    const char *w = p->w + (g * p->w_g + o * p->w_o + c * p->w_c) * s->size;
    const int64_t cells = p->kh * p->kw;
    const int far = cells * p->c * p->k * s->size > NEAR_WEIGHTS;
    double taps[TAPS_MAX * PACK_CHANNELS * FC_LANES_MAX];
    /* dense OIHW: channels and cells are one run, transposed by vectors */
    if (p->w_c == cells && (p->w_a == p->kw || p->kh == 1) && (p->w_b == 1 || p->kw == 1)) {
        for (int64_t j = 0; j < nr; j += lanes) {
            s->move->gather(w + j * p->w_o * s->size, p->w_o, max64(0, min64(lanes, filled - j)), cells * (end - c),
                            cells * (end - c), cells * (end - c), 0, taps);
            for (int64_t k = c; k < end; k++)
                s->kernel->weights((char *)taps + cells * (k - c) * lanes * s->size, lanes, u + (k * nr + j) * s->size,
                                   u_point);
        }
        return;
    }
    for (int64_t k = c; k < end; k++) {
        const char *const ahead = w + (k - c + CHANNELS_AHEAD) * p->w_c * s->size;
        for (int64_t a = 0; far && a < p->kh; a++)
            for (int64_t b = 0; b < p->kw; b++)
                for (int64_t byte = 0; byte < nr * s->size; byte += 64)
                    __builtin_prefetch(ahead + (a * p->w_a + b * p->w_b) * s->size + byte);
        s->move->taps(p, w + (k - c) * p->w_c * s->size, filled, nr, taps);
        s->kernel->weights(taps, nr, u + k * nr * s->size, u_point);
    }
}

static void pack_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const plan *s = ctx;
    const int64_t chunks = ceil_div(s->problem.c, PACK_CHANNELS);
    const int64_t c = task % chunks * PACK_CHANNELS, panel = task / chunks % s->panels, g = task / chunks / s->panels;
    pack_channels(s, g, panel, c, min64(s->problem.c, c + PACK_CHANNELS), panel_at(s, g, panel), s->u_point);
}

static void pack(plan *s, int threads)
{
    fc_parallel_for(s->problem.g * s->panels * ceil_div(s->problem.c, PACK_CHANNELS), threads, pack_task, s);
}

static void pack_weights(const fc_conv2d_shape *shape, int tile, const fc_view *w, void *u, int threads)
{
    plan s = make_plan(shape, tile, 1, threads);
    choose_kernels(&s, tile);
    set_weights(&s, shape, w);
    s.u = u;
    pack(&s, threads);
}

/* ---- Tiles --------------------------------------------------------------------------------------------------- */

static int64_t out_at(const plan *s, int64_t n, int64_t g, int64_t o, int64_t i, int64_t j)
{
    const fc_winograd_problem *p = &s->problem;
    return (n * p->out_n + (g * p->k + o) * p->out_c + i * p->out_h + j * p->out_w) * s->size;
}

/* The transform of one tile (csrc/winograd.h); a line of cells runs along the rows or along the columns. */
static int output_tile(const plan *s, const char *m, int64_t n, const char *bias, const char *residual, int clamp,
                       char *y, int64_t row, int64_t col)
{
    const int64_t along = s->grid.alpha_h == 1 ? col : row;
    return s->kernel->output(&s->problem, m, s->m_point, n, bias, residual, clamp, y, along, col);
}

/* Output channels [o, o + count) of the block, M starts at o. NCHW: the outputs of some tiles, one vector of channels
 * at a time, in rows as wide as the image's: each tile overwrites what its right neighbour has left beyond the edge. */
static void output_nchw(const plan *s, int64_t g, int64_t o, int64_t count, int64_t start, int64_t end, const char *m,
                        char *strip, char *bad)
{
    const fc_winograd_problem *p = &s->problem;
    const int64_t lanes = s->move->lanes, pixel = lanes * s->size;
    fc_winograd_band b;
    for (int64_t t = start; t < end; t += b.rows * b.count) {
        b = fc_winograd_band_at(&s->grid, t, end);
        const int64_t rows = min64(b.rows * s->grid.tile_h, p->oh - b.i), width = min64(b.count * s->grid.tile_w, p->ow - b.j);
        const int whole = width == p->ow; /* the rows follow each other */
        for (int64_t k = 0; k < count; k += lanes) {
            const char *bias = s->bias + (g * (p->k + FC_NR_MAX - 1) + o + k) * s->size;
            for (int64_t r = 0; r < b.rows; r++)
                for (int64_t q = b.count - 1; q >= 0; q--) {
                    const int64_t tile = t - start + r * b.count + q;
                    bad[tile] |= (char)output_tile(s, m + (tile * CHANNEL_BLOCK + k) * s->size, lanes, bias, NULL, 0,
                                                   strip + (r * s->grid.tile_h * width + q * s->grid.tile_w) * pixel,
                                                   width * lanes, lanes);
                }
            for (int64_t r = 0; r < rows; r = whole ? rows : r + 1) {
                const int64_t at = out_at(s, b.n, g, o + k, b.i + r, b.j);
                s->move->scatter(p, strip + r * width * pixel, (whole ? rows : 1) * width, min64(lanes, count - k),
                                 p->residual ? p->residual + at : NULL, p->out + at, p->out_c);
            }
        }
    }
}

static void output_nhwc(const plan *s, int64_t g, int64_t o, int64_t count, int64_t start, int64_t end, const char *m,
                        char *patch, char *bad)
{
    const fc_winograd_problem *p = &s->problem;
    const int64_t lanes = s->move->lanes;
    const char *bias = s->bias + (g * (p->k + FC_NR_MAX - 1) + o) * s->size;
    fc_winograd_band seg;
    for (int64_t t = start; t < end; t += seg.count) {
        seg = fc_winograd_segment(&s->grid, t, end);
        for (int64_t q = 0; q < seg.count; q++) {
            const char *from = m + (t - start + q) * CHANNEL_BLOCK * s->size;
            const int64_t col = seg.j + q * s->grid.tile_w;
            const int64_t at = out_at(s, seg.n, g, o, seg.i, col);
            const int64_t rows = min64(s->grid.tile_h, p->oh - seg.i), cols = min64(s->grid.tile_w, p->ow - col);
            const int whole = rows == s->grid.tile_h && cols == s->grid.tile_w;
            const int64_t vectors = whole ? count / lanes * lanes : 0;
            const int64_t padded = ceil_div(count - vectors, lanes) * lanes;
            int flag = 0;
            if (vectors)
                flag |= output_tile(s, from, vectors, bias, p->residual ? p->residual + at : NULL, p->clamp,
                                    p->out + at, p->out_h, p->out_w);
            if (padded) {
                flag |= output_tile(s, from + vectors * s->size, padded, bias + vectors * s->size, NULL, 0, patch,
                                    s->grid.tile_w * padded, padded);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t b = 0; b < cols; b++) {
                        const int64_t to = at + (r * p->out_h + b * p->out_w + vectors) * s->size;
                        s->move->finish(p, patch + (r * s->grid.tile_w + b) * padded * s->size, count - vectors,
                                          p->residual ? p->residual + to : NULL, p->out + to);
                    }
            }
            bad[t - start + q] |= (char)flag;
        }
    }
}

/* NHWC, pooled: as output_nhwc, with half as many rows and columns and a code for each value. */
static void output_pooled(const plan *s, int64_t o, int64_t count, int64_t start, int64_t end, const char *m, char *patch,
                          char *bad)
{
    const fc_winograd_problem *p = &s->problem;
    const int64_t lanes = s->move->lanes, cells_h = s->grid.tile_h / 2, cells_w = s->grid.tile_w / 2;
    const char *bias = s->bias + o * s->size;
    uint8_t *const patch_codes = (uint8_t *)patch + cells_h * cells_w * CHANNEL_BLOCK * s->size;
    for (int64_t t = start; t < end; t++) {
        const fc_winograd_band tile = fc_winograd_segment(&s->grid, t, end);
        const char *from = m + (t - start) * CHANNEL_BLOCK * s->size;
        const int64_t at = tile.n * p->out_n + tile.i / 2 * p->out_h + tile.j / 2 * p->out_w + o;
        const int64_t rows = min64(cells_h, (p->oh - tile.i) / 2), cols = min64(cells_w, (p->ow - tile.j) / 2);
        const int64_t vectors = rows == cells_h && cols == cells_w ? count / lanes * lanes : 0;
        const int64_t rest = count - vectors, padded = ceil_div(rest, lanes) * lanes;
        int flag = 0;
        if (vectors)
            flag |= s->kernel->output_pooled(from, s->m_point, vectors, bias, p->out + at * s->size, s->codes + at,
                                             p->out_h, p->out_w);
        if (padded)
            flag |= s->kernel->output_pooled(from + vectors * s->size, s->m_point, padded, bias + vectors * s->size, patch,
                                             patch_codes, cells_w * padded, padded);
        for (int64_t r = 0; padded && r < rows; r++)
            for (int64_t b = 0; b < cols; b++) {
                const int64_t to = at + r * p->out_h + b * p->out_w + vectors, cell = (r * cells_w + b) * padded;
                memcpy(p->out + to * s->size, patch + cell * s->size, (size_t)(rest * s->size));
                memcpy(s->codes + to, patch_codes + cell, (size_t)rest);
            }
        bad[t - start] |= (char)flag;
    }
}

/* The plain sums over a pooled tile: their maxima and codes; a NaN is larger than any number, the last of several. */
static void recompute_pooled(const plan *s, int64_t o, int64_t count, int64_t t)
{
    const fc_winograd_problem *p = &s->problem;
    const fc_winograd_band tile = fc_winograd_segment(&s->grid, t, t + 1);
    union {
        float f32[4];
        double f64[4];
    } sums;
    fc_winograd_problem q = *p;
    q.out_n = q.out_c = 0;
    q.out_h = 2;
    q.out_w = 1;
    for (int64_t i = tile.i; i < min64(tile.i + s->grid.tile_h, p->oh); i += 2)
        for (int64_t j = tile.j; j < min64(tile.j + s->grid.tile_w, p->ow); j += 2)
            for (int64_t k = o; k < o + count; k++) {
                const int64_t to = tile.n * p->out_n + i / 2 * p->out_h + j / 2 * p->out_w + k;
                int where = 0;
                q.out = (char *)&sums - (i * 2 + j) * s->size;
                for (int c = 0; c < 4; c++)
                    s->move->plain(&q, tile.n, 0, k, i + c / 2, j + c % 2);
                double best = element(s->dtype, &sums, 0);
                for (int c = 1; c < 4; c++) {
                    const double v = element(s->dtype, &sums, c);
                    if (v > best || v != v) {
                        best = v;
                        where = c;
                    }
                }
                s->codes[to] = (uint8_t)(best > 0 ? where : FC_POOL_CODE_DEAD);
                set_element(s->dtype, p->out, to, best < 0 ? 0 : best);
            }
}

/* The plain sum over a tile whose transformed one was not finite. */
static void recompute(const plan *s, int64_t g, int64_t o, int64_t count, int64_t t)
{
    const fc_winograd_problem *p = &s->problem;
    const fc_winograd_band seg = fc_winograd_segment(&s->grid, t, t + 1);
    for (int64_t k = o; k < o + count; k++)
        for (int64_t i = seg.i; i < min64(seg.i + s->grid.tile_h, p->oh); i++)
            for (int64_t j = seg.j; j < min64(seg.j + s->grid.tile_w, p->ow); j++)
                s->move->plain(p, seg.n, g, k, i, j);
}

/* The first tile of a block: blocks are whole register tiles of rows, as many in each as in the others or one more; or
 * parts of one. */
static int64_t block_start(const plan *s, int64_t block)
{
    const int64_t pieces = ceil_div(s->grid.tiles, s->gemm->mr);
    if (pieces <= s->blocks)
        return s->grid.tiles * block / s->blocks;
    return min64(s->grid.tiles, pieces * block / s->blocks * s->gemm->mr);
}

/* Output channels of `panels` panels for tiles [start, end), whose V is given. */
static void channels_of_block(const plan *s, int64_t g, int64_t panel, int64_t panels, const char *u, int64_t u_point,
                              int64_t start, int64_t end, const char *v, char *m, char *scratch)
{
    const int64_t nr = s->gemm->nr, o = panel * nr, count = min64(panels * nr, s->problem.k - o);
    char bad[LINE_TILES + FC_MR_MAX] = {0};
    const fc_winograd_products products = {
        .gemm = s->gemm, .size = s->size, .lanes = s->move->lanes, .points = s->grid.points, .depth = s->problem.c,
        .terms = s->terms, .channels = count, .tiles = end - start, .v = v, .u = u, .m = m, .v_row = s->v_row,
        .v_point = s->v_point, .u_point = u_point, .m_row = CHANNEL_BLOCK, .m_point = s->m_point};
    fc_winograd_multiply(&products);
    if (s->codes)
        output_pooled(s, o, count, start, end, m, scratch, bad);
    else
        (s->nchw ? output_nchw : output_nhwc)(s, g, o, count, start, end, m, scratch, bad);
    for (int64_t t = start; t < end; t++) {
        if (bad[t - start] && s->codes)
            recompute_pooled(s, o, count, t);
        else if (bad[t - start])
            recompute(s, g, o, count, t);
    }
}

/* By tile: one block of tiles of one group, all channels. */
static void block_task(void *ctx, int64_t task, int worker)
{
    const plan *s = ctx;
    const int64_t g = task / s->blocks, block = task % s->blocks;
    const int64_t start = block_start(s, block), end = block_start(s, block + 1);
    char *const m = s->workers + worker * s->worker_bytes, *const scratch = m + s->m_bytes;
    char *const v = scratch + s->scratch_bytes;
    const int64_t step = CHANNEL_BLOCK / s->gemm->nr;

    fc_winograd_transform(&s->source, g, start, end, v, scratch);
    for (int64_t panel = 0; panel < s->panels; panel += step)
        channels_of_block(s, g, panel, min64(step, s->panels - panel), panel_at(s, g, panel), s->u_point, start, end, v, m,
                          scratch);
}

/* By channel, first: V of some tiles of one group. */
static void input_task(void *ctx, int64_t task, int worker)
{
    const plan *s = ctx;
    const int64_t chunks = ceil_div(s->grid.tiles, INPUT_TILES), g = task / chunks, chunk = task % chunks;
    const int64_t start = s->grid.tiles * chunk / chunks, end = s->grid.tiles * (chunk + 1) / chunks;
    char *const scratch = s->workers + worker * s->worker_bytes + s->m_bytes;
    fc_winograd_transform(&s->source, g, start, end, s->v + g * s->v_bytes + start * s->v_row * s->size, scratch);
}

/* By channel, second: some panels of output channels of one group, all tiles. */
static void panels_task(void *ctx, int64_t task, int worker)
{
    const plan *s = ctx;
    const int64_t parts = ceil_div(s->panels, s->task_panels), g = task / parts, first = task % parts * s->task_panels;
    const int64_t panels = min64(s->task_panels, s->panels - first), panel_size = s->problem.c * s->gemm->nr;
    char *const m = s->workers + worker * s->worker_bytes, *const scratch = m + s->m_bytes;
    const int64_t u_point = s->u ? s->u_point : s->task_panels * panel_size + PAD;
    char *u = s->u ? panel_at(s, g, first) : scratch + s->scratch_bytes;
    for (int64_t i = 0; !s->u && i < panels; i++)
        for (int64_t k = 0; k < s->problem.c; k += PACK_CHANNELS)
            pack_channels(s, g, first + i, k, min64(s->problem.c, k + PACK_CHANNELS), u + i * panel_size * s->size, u_point);
    for (int64_t block = 0; block < s->blocks; block++) {
        const int64_t start = block_start(s, block), end = block_start(s, block + 1);
        channels_of_block(s, g, first, panels, u, u_point, start, end, s->v + g * s->v_bytes + start * s->v_row * s->size,
                          m, scratch);
    }
}

static void run(const fc_conv2d_shape *shape, int tile, const fc_view *in, const fc_view *w, const void *u,
                const fc_epilogue *epilogue, const fc_view *out, uint8_t *codes, void *workspace, int threads)
{
    plan s = make_plan(shape, tile, u != NULL, threads);
    fc_winograd_problem *p = &s.problem;
    if (s.grid.tiles == 0)
        return;
    choose_kernels(&s, tile);
    set_weights(&s, shape, w);
    p->in = in->data;
    p->in_n = in->strides[0];
    p->in_c = in->strides[1];
    p->in_h = in->strides[2];
    p->in_w = in->strides[3];
    p->out = out->data;
    p->out_n = out->strides[0];
    p->out_c = out->strides[1];
    p->out_h = out->strides[2];
    p->out_w = out->strides[3];
    p->bias = epilogue->bias;
    p->residual = epilogue->residual.data;
    p->clamp = epilogue->clamp;
    p->lo = epilogue->lo;
    p->hi = epilogue->hi;

    s.codes = codes;

    s.source = (fc_winograd_source){
        .grid = &s.grid, .move = s.move, .transform = s.kernel->input, .size = s.size, .nchw = s.nchw, .data = p->in,
        .mb = p->mb, .groups = p->g, .channels = p->c, .height = p->ih, .width = p->iw, .stride_n = p->in_n, .stride_c = p->in_c,
        .stride_h = p->in_h, .stride_w = p->in_w, .top = p->top, .left = p->left, .patch_h = s.grid.alpha_h,
        .patch_w = s.grid.alpha_w, .row = s.v_row, .point = s.v_point};

    /* The bias of each group, zero padded to whole vectors. */
    s.bias = workspace;
    memset(s.bias, 0, (size_t)s.bias_bytes);
    if (p->bias)
        for (int64_t g = 0; g < p->g; g++)
            memcpy(s.bias + g * (p->k + FC_NR_MAX - 1) * s.size, p->bias + g * p->k * s.size, (size_t)(p->k * s.size));
    s.u = (char *)u;
    s.workers = s.bias + shared_bytes(&s, u != NULL);
    s.worker_bytes = worker_bytes(&s, u != NULL);
    if (s.by_channel) {
        s.v = s.bias + s.bias_bytes;
        fc_parallel_for(p->g * ceil_div(s.grid.tiles, INPUT_TILES), threads, input_task, &s);
        fc_parallel_for(p->g * ceil_div(s.panels, s.task_panels), threads, panels_task, &s);
        return;
    }
    if (!u) {
        s.u = s.bias + s.bias_bytes;
        pack(&s, threads);
    }
    fc_parallel_for(p->g * s.blocks, threads, block_task, &s);
}

static void run_pooled(const fc_conv2d_shape *shape, int tile, const fc_conv_pool_operands *arrays, void *workspace,
                       int threads)
{
    const fc_conv2d_shape s = fc_conv_pool_even(shape);
    const int64_t row = s.ow / 2 * s.oc;
    const fc_view x = {arrays->x, {s.ih * s.iw * s.ic, 1, s.iw * s.ic, s.ic}}, y = {arrays->y, {s.oh / 2 * row, 1, row, s.oc}};
    const fc_epilogue epilogue = {.bias = arrays->bias};
    run(&s, tile, &x, &arrays->w, NULL, &epilogue, &y, arrays->codes, workspace, threads);
}

static int64_t pooled_workspace(const fc_conv2d_shape *shape, int tile, int threads)
{
    const fc_conv2d_shape s = fc_conv_pool_even(shape);
    return workspace_bytes(&s, tile, 0, threads);
}

/* ---- Rows ---------------------------------------------------------------------------------------------------- */

/* The kernels of one tile: both passes are one convolution. `forward` and `backward` are their symbols and, after "fc_",
 * their names. */
#define FC_ROWS(forward, backward, tile) \
    static int64_t FC_JOIN(forward, _packed_bytes)(const fc_conv2d_shape *shape) \
    { \
        return packed_bytes(shape, tile); \
    } \
    static void FC_JOIN(forward, _pack)(const fc_conv2d_shape *shape, const fc_view *w, void *packed, int threads) \
    { \
        pack_weights(shape, tile, w, packed, threads); \
    } \
    static int64_t FC_JOIN(forward, _workspace)(const fc_conv2d_shape *shape, int packed, int threads) \
    { \
        return workspace_bytes(shape, tile, packed, threads); \
    } \
    static void FC_JOIN(forward, _run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *w, \
                                       const void *packed, const fc_epilogue *epilogue, const fc_view *y, \
                                       void *workspace, int threads) \
    { \
        run(shape, tile, x, w, packed, epilogue, y, NULL, workspace, threads); \
    } \
    const fc_conv2d_kernel forward = {&#forward[sizeof "fc"], FC_JOIN(forward, _packed_bytes), FC_JOIN(forward, _pack), \
                                      FC_JOIN(forward, _workspace), FC_JOIN(forward, _run)}; \
    const fc_conv2d_kernel backward = {&#backward[sizeof "fc"], FC_JOIN(forward, _packed_bytes), \
                                       FC_JOIN(forward, _pack), FC_JOIN(forward, _workspace), FC_JOIN(forward, _run)};

FC_ROWS(fc_conv2d_forward_winograd_f2x3, fc_conv2d_backward_input_winograd_f2x3, FC_WINOGRAD_F2X3)
FC_ROWS(fc_conv2d_forward_winograd_f4x3, fc_conv2d_backward_input_winograd_f4x3, FC_WINOGRAD_F4X3)
FC_ROWS(fc_conv2d_forward_winograd_f6x3, fc_conv2d_backward_input_winograd_f6x3, FC_WINOGRAD_F6X3)
FC_ROWS(fc_conv2d_forward_winograd_f2x5, fc_conv2d_backward_input_winograd_f2x5, FC_WINOGRAD_F2X5)
FC_ROWS(fc_conv2d_forward_winograd_f4x5, fc_conv2d_backward_input_winograd_f4x5, FC_WINOGRAD_F4X5)
FC_ROWS(fc_conv2d_forward_winograd_f4x3_1d, fc_conv2d_backward_input_winograd_f4x3_1d, FC_WINOGRAD_F4X3_1D)
FC_ROWS(fc_conv2d_forward_winograd_f6x3_1d, fc_conv2d_backward_input_winograd_f6x3_1d, FC_WINOGRAD_F6X3_1D)
FC_ROWS(fc_conv2d_forward_winograd_f4x5_1d, fc_conv2d_backward_input_winograd_f4x5_1d, FC_WINOGRAD_F4X5_1D)
FC_ROWS(fc_conv2d_forward_winograd_f4x7_1d, fc_conv2d_backward_input_winograd_f4x7_1d, FC_WINOGRAD_F4X7_1D)

FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_forward_winograd_f2x3, FC_WINOGRAD_F2X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_forward_winograd_f4x3, FC_WINOGRAD_F4X3)
FC_POOLED_ROW(fc_conv2d_relu_max_pool2d_forward_winograd_f6x3, FC_WINOGRAD_F6X3)
