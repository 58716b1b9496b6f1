/* Template of the direct convolution (contract: fc_direct_args in direct.h). Before including, define
 *   FC_DIRECT_NAME    the fc_direct_kernel to define, e.g. fc_f32_direct_14x32__avx512
 *   FC_DIRECT_TYPE    float or double
 *   FC_DIRECT_BYTES   bytes of a vector
 *   FC_DIRECT_MR      rows of the tile, at most 14
 *   FC_DIRECT_NV      vectors in a row, at most 3
 * A tile is that of a GEMM: its accumulators stay in registers over FC_SUM_TERMS steps. One factor is read in place, at
 * offset[k]: pixels to broadcast in NHWC, vectors of pixels in NCHW. The other is weights, packed or, in NHWC, in place.
 * All loops over tiles are here, since the sums of a first layer are too short to pay for a call each.
 * No masks: the last vector of a row is moved back over the one before it and computes some elements twice.
 * Zhang, Franchetti & Low, "High performance zero-memory overhead direct convolutions" (2018). */
#include "direct.h"
#include "template.h"

#include <string.h>

#ifndef FC_DIRECT_ONCE
#define FC_DIRECT_ONCE

/* One register holds the broadcast: folded into each FMA as a memory operand it would be loaded once a vector. */
#if defined(__x86_64__)
#define FC_DIRECT_IN_VECTOR_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define FC_DIRECT_IN_VECTOR_REGISTER(v) __asm__("" : "+w"(v))
#else
#define FC_DIRECT_IN_VECTOR_REGISTER(v) ((void)0)
#endif
#define FC_DIRECT_IN_REGISTER(p) __asm__("" : "+r"(p))

enum {
    FC_DIRECT_WEIGHTS = 16 << 10, /* bytes that stay in a 32 KB L1 beside the pixels */
    FC_DIRECT_LINE = 64,          /* bytes of a cache line */
};

/* Cache lines to fetch, one a step of k: `left` of them, `step` bytes apart; then those of so many more vectors of y. */
typedef struct fc_direct_run {
    const char *line;
    int64_t step, left, vectors;
} fc_direct_run;
#endif

#define FC_LANES ((int)(FC_DIRECT_BYTES / sizeof(FC_DIRECT_TYPE)))
#define FC_V FC_JOIN(FC_DIRECT_NAME, _vector)
#define FC_TILE FC_JOIN(FC_DIRECT_NAME, _at)
#define FC_BODIES FC_JOIN(FC_DIRECT_NAME, _bodies)
#define FC_GROUP (FC_DIRECT_MR <= 8 ? 3 : 5)

typedef FC_DIRECT_TYPE FC_V __attribute__((vector_size(FC_DIRECT_BYTES), aligned(sizeof(FC_DIRECT_TYPE)), may_alias));

/* `count` tiles that follow each other; in NHWC each is `panels` tiles on the same pixels. Of the first, rows lie at rs of
 * their array, vector v at v * lanes but the last, at `last`. */
typedef struct FC_TILE {
    const FC_DIRECT_TYPE *x, *w, *bias, *residual;
    FC_DIRECT_TYPE *y;
    int64_t count, panels, rs_x, rs_y, last;
    int64_t rows, row_x, row_y; /* NHWC: rows of such tiles, and from one to the next */
    int64_t cells; /* of a row: fewer than lanes only if the whole row has fewer */
    int64_t w_panel, w_step, w_last; /* NHWC: between the weights of two panels, two k; of the last vector */
} FC_TILE;

/* Rows of fewer elements than a vector has, one by one. */
static __attribute__((noinline)) void FC_JOIN(FC_DIRECT_NAME, _edge)(const fc_direct_args *args, const FC_TILE *at,
                                                                     int m, FC_DIRECT_TYPE *y,
                                                                     const FC_DIRECT_TYPE *residual,
                                                                     const FC_DIRECT_TYPE *edge)
{
    for (int i = 0; i < m; i++)
        for (int64_t j = 0; j < at->cells; j++) {
            FC_DIRECT_TYPE v = edge[i * FC_LANES + j];
            if (args->accumulate)
                v += y[i * at->rs_y + j];
            if (residual)
                v += residual[i * at->rs_y + j];
            if (args->clamp) {
                v = v < (FC_DIRECT_TYPE)args->lo ? (FC_DIRECT_TYPE)args->lo : v;
                v = v > (FC_DIRECT_TYPE)args->hi ? (FC_DIRECT_TYPE)args->hi : v;
            }
            y[i * at->rs_y + j] = v;
        }
}

/* What to fetch when a run of lines is over: the next vectors of y, then args->fetch (vectors = -1), then nothing. */
static __attribute__((noinline)) fc_direct_run FC_JOIN(FC_DIRECT_NAME, _turn)(const fc_direct_args *args, fc_direct_run run,
                                                                              int m)
{
    fc_direct_fetch *fetch = args->fetch;
    if (run.vectors > 1)
        return (fc_direct_run){run.line + FC_DIRECT_BYTES - m * run.step, run.step, m, run.vectors - 1};
    if (fetch && run.vectors > 0 && fetch->planes > 0)
        return (fc_direct_run){fetch->line, FC_DIRECT_LINE, fetch->left, -1};
    if (fetch && run.vectors < 0 && --fetch->planes > 0)
        return (fc_direct_run){run.line + fetch->step, FC_DIRECT_LINE, fetch->lines, -1};
    return (fc_direct_run){(const char *)args, 0, INT64_MAX, run.vectors}; /* stay where the L1 has it */
}

/* Step k of the sum: the cells at `cell` by the weights at w. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _step)(FC_V (*acc)[2 * FC_DIRECT_NV], const int nhwc, const int m, const int nv,
                                              const FC_DIRECT_TYPE *cell, const FC_DIRECT_TYPE *w, int64_t last, int64_t rs,
                                              int64_t rs3, int64_t rs_group)
{
    const FC_DIRECT_TYPE *const vectors = nhwc ? w : cell, *base = nhwc ? cell : w;
    /* A low tile keeps its few broadcasts, a tall one its few vectors: there are not registers for both. */
    const int low = nv > FC_DIRECT_NV;
    FC_V broadcast[FC_DIRECT_MR], row[2 * FC_DIRECT_NV];
#pragma GCC unroll 6
    for (int v = 0; !low && v < nv; v++)
        row[v] = *(const FC_V *)(vectors + (v < nv - 1 ? v * FC_LANES : last));
#pragma GCC unroll 14
    for (int i = 0; i < m; i++) {
        const int r = i % FC_GROUP;
        if (nhwc && i > 0 && r == 0) { /* row addresses from few registers: a base for each FC_GROUP rows */
            base += rs_group;
            FC_DIRECT_IN_REGISTER(base);
        }
        const FC_DIRECT_TYPE value = !nhwc ? w[i] : r == 0 ? base[0] : r == 1 ? base[rs] : r == 2 ? base[2 * rs] :
                                     r == 3 ? base[rs3] : base[4 * rs];
        broadcast[i] = value - (FC_V){0};
        FC_DIRECT_IN_VECTOR_REGISTER(broadcast[i]);
#pragma GCC unroll 6
        for (int v = 0; !low && v < nv; v++)
            FC_MULTIPLY_ADD(acc[i][v], broadcast[i], row[v]);
    }
#pragma GCC unroll 6
    for (int v = 0; low && v < nv; v++) {
        row[v] = *(const FC_V *)(vectors + (v < nv - 1 ? v * FC_LANES : last));
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
            FC_MULTIPLY_ADD(acc[i][v], broadcast[i], row[v]);
    }
}

/* Stores m rows of nv vectors, whatever is to be added first. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _finish)(const fc_direct_args *args, FC_V (*acc)[2 * FC_DIRECT_NV], const int m,
                                                const int nv, FC_DIRECT_TYPE *const y0, const FC_DIRECT_TYPE *residual,
                                                int64_t rs_y, int64_t last)
{
    /* One pointer walks over the rows, since the compiler would keep an address for each. */
    FC_DIRECT_TYPE *y = y0;
    if (args->accumulate)
#pragma GCC unroll 14
        for (int i = 0; i < m; i++, y += rs_y) {
            FC_DIRECT_IN_REGISTER(y);
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)(y + (v < nv - 1 ? v * FC_LANES : last));
        }
    if (residual)
#pragma GCC unroll 14
        for (int i = 0; i < m; i++, residual += rs_y) {
            FC_DIRECT_IN_REGISTER(residual);
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)(residual + (v < nv - 1 ? v * FC_LANES : last));
        }
    if (args->clamp) {
        /* (v < lo) is all ones or all zeros in integer lanes, 0 for NaN: NaN passes both tests. */
        const FC_V lo = (FC_DIRECT_TYPE)args->lo - (FC_V){0}, hi = (FC_DIRECT_TYPE)args->hi - (FC_V){0};
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++) {
                FC_V value = acc[i][v];
                __typeof__(value < lo) below = value < lo, above = value > hi;
                value = (FC_V)((below & (__typeof__(below))lo) | (~below & (__typeof__(below))value));
                acc[i][v] = (FC_V)((above & (__typeof__(above))hi) | (~above & (__typeof__(above))value));
            }
    }
    y = y0;
#pragma GCC unroll 14
    for (int i = 0; i < m; i++, y += rs_y) {
        FC_DIRECT_IN_REGISTER(y);
#pragma GCC unroll 6
        for (int v = 0; v < nv; v++)
            *(FC_V *)(y + (v < nv - 1 ? v * FC_LANES : last)) = acc[i][v];
    }
}

/* One tile of m rows of nv vectors: the pixels at x by the weights at w, into y; brief: of args. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _tile)(const fc_direct_args *args, const FC_TILE *at, const int nhwc, const int m,
                                              const int nv, const int brief, const FC_DIRECT_TYPE *x, const FC_DIRECT_TYPE *w,
                                              const FC_DIRECT_TYPE *bias, FC_DIRECT_TYPE *const y, int64_t rs, int64_t rs3,
                                              int64_t rs_group)
{
    FC_V acc[FC_DIRECT_MR][2 * FC_DIRECT_NV], whole[FC_DIRECT_MR][2 * FC_DIRECT_NV]; /* whole: the partial sums before */
    const int64_t last = nv > 1 ? at->last : 0, rs_y = at->rs_y, w_step = nhwc ? at->w_step : m;
    const int64_t vector_last = !nhwc ? last : nv > 1 ? at->w_last : 0;
    const int steps = brief ? 3 : 1; /* of one round of the loop: what surrounds the steps weighs in short sums */
    int partial = 0;

    if (nhwc && bias) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++)
                acc[i][v] = *(const FC_V *)(bias + (v < nv - 1 ? v * FC_LANES : last));
    } else {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++) {
            const FC_DIRECT_TYPE start = bias ? bias[i] : 0;
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++)
                acc[i][v] = start - (FC_V){0};
        }
    }

    /* The lines of y arrive while the sum runs: a store that misses would hold up those behind it. NHWC asks for all at
     * once; in NCHW, where rows are planes apart, that stalls a long sum, and a short one has no time for the others. */
    fc_direct_run run = {(const char *)args, 0, INT64_MAX, 0};
    if (!nhwc && args->depth > 2 * m * nv)
        run = (fc_direct_run){(const char *)y, rs_y * (int64_t)sizeof(*y), m, nv};
    const FC_DIRECT_TYPE *line = y;
#pragma GCC unroll 14
    for (int i = 0; nhwc && i < m; i++, line += rs_y) {
        FC_DIRECT_IN_REGISTER(line);
#pragma GCC unroll 6
        for (int v = 0; v < nv; v++)
            if (v * FC_DIRECT_BYTES % FC_DIRECT_LINE == 0)
                __builtin_prefetch(line + (v < nv - 1 ? v * FC_LANES : last), 1);
    }

    const int32_t *offset = args->offset, *const end = offset + args->depth;
    for (;;) {
        const int32_t *const stop = !brief && end - offset > FC_SUM_TERMS ? offset + FC_SUM_TERMS : end;
        for (; offset < stop; offset += steps) {
            if (!nhwc) {
                __builtin_prefetch(run.line, 0, 2);
                run.line += run.step;
                if (__builtin_expect(--run.left == 0, 0))
                    run = FC_JOIN(FC_DIRECT_NAME, _turn)(args, run, m);
            }
            const FC_DIRECT_TYPE *cell = x + *offset;
            FC_DIRECT_IN_REGISTER(cell); /* its neighbours are at constants from it */
#pragma GCC unroll 3
            for (int k = 0; k < steps; k++, w += w_step) {
                FC_DIRECT_IN_REGISTER(w);
                FC_JOIN(FC_DIRECT_NAME, _step)(acc, nhwc, m, nv, cell + k, w, vector_last, rs, rs3, rs_group);
            }
        }
        if (brief || offset == end)
            break;
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++) {
                if (partial)
                    acc[i][v] += whole[i][v];
                whole[i][v] = acc[i][v];
                acc[i][v] = (FC_V){0};
            }
        partial = 1;
    }
    if (!brief && partial)
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 6
            for (int v = 0; v < nv; v++)
                acc[i][v] += whole[i][v];

    if (!nhwc && run.vectors < 0) {
        args->fetch->line = run.line;
        args->fetch->left = run.left;
    }
    const FC_DIRECT_TYPE *const residual = at->residual ? at->residual + (y - at->y) : NULL;
    if (at->cells < FC_LANES) {
        FC_DIRECT_TYPE edge[FC_DIRECT_MR][FC_LANES];
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
            *(FC_V *)&edge[i][0] = acc[i][0];
        FC_JOIN(FC_DIRECT_NAME, _edge)(args, at, m, y, residual, &edge[0][0]);
    } else {
        FC_JOIN(FC_DIRECT_NAME, _finish)(args, acc, m, nv, y, residual, rs_y, last);
    }
}

/* All tiles of `at`, m rows of nv vectors each. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _body)(const fc_direct_args *args, const FC_TILE *at, const int nhwc, const int m,
                                              const int nv, const int brief)
{
    const int width = nv * FC_LANES;
    const int64_t x_tile = nhwc ? m * at->rs_x : width, y_tile = nhwc ? m * at->rs_y : width;
    int64_t rs = nhwc ? at->rs_x : 1, rs3 = 3 * rs, rs_group = FC_GROUP * rs;
    FC_DIRECT_IN_REGISTER(rs);
    FC_DIRECT_IN_REGISTER(rs3);
    FC_DIRECT_IN_REGISTER(rs_group);
    for (int64_t row = 0; row < (nhwc ? at->rows : 1); row++)
        for (int64_t tile = 0; tile < at->count; tile++) {
            const FC_DIRECT_TYPE *const x = at->x + row * at->row_x + tile * x_tile, *w = at->w, *bias = at->bias;
            FC_DIRECT_TYPE *y = at->y + row * at->row_y + tile * y_tile;
            for (int64_t panel = nhwc ? at->panels : 1; panel > 0; panel--) {
                FC_JOIN(FC_DIRECT_NAME, _tile)(args, at, nhwc, m, nv, brief, x, w, bias, y, rs, rs3, rs_group);
                w += at->w_panel;
                bias += bias ? width : 0;
                y += width;
            }
        }
}

/* A function for each tile: all of them in one would leave gcc too few registers for any. Tall tiles have at most
 * FC_DIRECT_NV vectors, low ones twice as many. */
#if FC_DIRECT_MR >= 14
#define FC_LOW_ROWS 6
#define FC_LOW(f, nv) f(1, nv) f(2, nv) f(3, nv) f(4, nv) f(5, nv) f(6, nv)
#define FC_TALL(f, nv) f(7, nv) f(8, nv) f(9, nv) f(10, nv) f(11, nv) f(12, nv) f(13, nv) f(14, nv)
#elif FC_DIRECT_MR >= 8
#define FC_LOW_ROWS 4
#define FC_LOW(f, nv) f(1, nv) f(2, nv) f(3, nv) f(4, nv)
#define FC_TALL(f, nv) f(5, nv) f(6, nv) f(7, nv) f(8, nv)
#elif FC_DIRECT_MR >= 6
#define FC_LOW_ROWS 3
#define FC_LOW(f, nv) f(1, nv) f(2, nv) f(3, nv)
#define FC_TALL(f, nv) f(4, nv) f(5, nv) f(6, nv)
#else
#define FC_LOW_ROWS 2
#define FC_LOW(f, nv) f(1, nv) f(2, nv)
#define FC_TALL(f, nv) f(3, nv) f(4, nv)
#endif
#define FC_ALL(f, nv) FC_LOW(f, nv) FC_TALL(f, nv)
#define FC_TILE_OF(name, m, nv, nhwc, brief) \
    static void FC_JOIN(FC_DIRECT_NAME, name##m##x##nv)(const fc_direct_args *args, const FC_TILE *at) \
    { \
        FC_JOIN(FC_DIRECT_NAME, _body)(args, at, nhwc, m, nv, brief); \
    }
#define FC_TILES(m, nv) \
    FC_TILE_OF(_nchw_, m, nv, 0, 0) \
    FC_TILE_OF(_nhwc_, m, nv, 1, 0) \
    FC_TILE_OF(_nhwc_brief_, m, nv, 1, 1)
#define FC_NCHW_TILE(m, nv) FC_JOIN(FC_DIRECT_NAME, _nchw_##m##x##nv),
#define FC_NHWC_TILE(m, nv) FC_JOIN(FC_DIRECT_NAME, _nhwc_##m##x##nv),
#define FC_BRIEF_TILE(m, nv) FC_JOIN(FC_DIRECT_NAME, _nhwc_brief_##m##x##nv),

FC_ALL(FC_TILES, 1)
FC_ALL(FC_TILES, 2)
FC_LOW(FC_TILES, 3)
FC_LOW(FC_TILES, 4)
#if FC_DIRECT_NV >= 3
FC_TALL(FC_TILES, 3)
FC_LOW(FC_TILES, 5)
FC_LOW(FC_TILES, 6)
#define FC_BODIES_OF(f) {{FC_ALL(f, 1)}, {FC_ALL(f, 2)}, {FC_ALL(f, 3)}, {FC_LOW(f, 4)}, {FC_LOW(f, 5)}, {FC_LOW(f, 6)}}
#else
#define FC_BODIES_OF(f) {{FC_ALL(f, 1)}, {FC_ALL(f, 2)}, {FC_LOW(f, 3)}, {FC_LOW(f, 4)}}
#endif

/* By layout (2: NHWC, brief sums), vectors and rows. */
static void (*const FC_BODIES[3][2 * FC_DIRECT_NV][FC_DIRECT_MR])(const fc_direct_args *, const FC_TILE *) = {
    FC_BODIES_OF(FC_NCHW_TILE), FC_BODIES_OF(FC_NHWC_TILE), FC_BODIES_OF(FC_BRIEF_TILE)};

/* Vectors first <= v < first + nv of rows of `length` elements: where they start, and at->last. */
FC_INLINE int64_t FC_JOIN(FC_DIRECT_NAME, _place)(FC_TILE *at, int64_t length, int64_t first, int64_t nv)
{
    const int64_t most = length > FC_LANES ? length - FC_LANES : 0;
    const int64_t start = first * FC_LANES < most ? first * FC_LANES : most;
    const int64_t end = (first + nv - 1) * FC_LANES < most ? (first + nv - 1) * FC_LANES : most;
    at->cells = length < FC_LANES ? length : FC_LANES;
    at->last = end - start;
    return start;
}

static void FC_JOIN(FC_DIRECT_NAME, _nhwc)(const fc_direct_args *args)
{
    const int64_t vectors = (args->channels + FC_LANES - 1) / FC_LANES, panels = (vectors + args->nv - 1) / args->nv;
    const int64_t wider = vectors % panels;
    const int ragged = args->channels % FC_LANES != 0;
    const int64_t tiles = (args->columns + args->mr - 1) / args->mr;
    const int64_t m = args->columns / tiles, taller = args->columns % tiles; /* the first tiles have one row more */
    const FC_DIRECT_TYPE *const x = args->x, *const w = args->w, *const residual = args->residual;
    const FC_DIRECT_TYPE *const bias = args->bias;
    FC_DIRECT_TYPE bias_edge[FC_LANES] = {0};
    /* Outputs are written in order where all weights stay in the L1; else the weights of a panel stay for a row. */
    const int in_order = args->depth * vectors * FC_DIRECT_BYTES <= FC_DIRECT_WEIGHTS;
    FC_TILE at = {.rs_x = args->x_column, .rs_y = args->y_column, .rows = in_order ? args->rows : 1, .row_x = args->x_row,
                  .row_y = args->y_row};
    if (bias && args->channels < FC_LANES)
        memcpy(bias_edge, bias, (size_t)args->channels * sizeof *bias_edge);
    for (int64_t i = 0; i < args->rows; i += at.rows)
        for (int64_t panel = 0, first = 0, nv; panel < panels; panel += at.panels, first += at.panels * nv) {
            /* Panels of one width go together, but the last may overlap the one before. */
            const int64_t alike = panel < wider ? wider - panel : panels - panel;
            nv = vectors / panels + (panel < wider);
            at.panels = !in_order ? 1 : ragged && panel >= wider && alike > 1 ? alike - 1 : alike;
            const int64_t channel = FC_JOIN(FC_DIRECT_NAME, _place)(&at, args->channels, first, nv);
            const int64_t cell = i * args->y_row + channel;
            at.w = w + (args->w_step ? channel : first * FC_LANES * args->depth);
            at.w_panel = nv * FC_LANES * (args->w_step ? 1 : args->depth);
            at.w_step = args->w_step ? args->w_step : nv * FC_LANES;
            at.w_last = args->w_step ? at.last : (nv - 1) * FC_LANES;
            at.bias = !bias ? NULL : args->channels < FC_LANES ? bias_edge : bias + channel;
            at.x = x + i * args->x_row;
            at.y = (FC_DIRECT_TYPE *)args->y + cell;
            at.residual = residual ? residual + cell : NULL;
            at.count = taller;
            if (taller > 0) {
                FC_BODIES[args->brief ? 2 : 1][nv - 1][m](args, &at);
                at.x += taller * (m + 1) * at.rs_x;
                at.y += taller * (m + 1) * at.rs_y;
                at.residual += residual ? taller * (m + 1) * at.rs_y : 0;
            }
            at.count = tiles - taller;
            FC_BODIES[args->brief ? 2 : 1][nv - 1][m - 1](args, &at);
        }
}

/* `count` tiles of nv vectors of pixels of row i, the first being vector `first`. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _nchw_run)(const fc_direct_args *args, FC_TILE *at, int64_t channel, int64_t m,
                                                  int64_t i, int64_t first, int64_t nv, int64_t count)
{
    const int64_t j = FC_JOIN(FC_DIRECT_NAME, _place)(at, args->columns, first, nv);
    const int64_t cell = i * args->y_row + j + channel * args->y_channel;
    at->x = (const FC_DIRECT_TYPE *)args->x + i * args->x_row + j;
    at->y = (FC_DIRECT_TYPE *)args->y + cell;
    at->residual = args->residual ? (const FC_DIRECT_TYPE *)args->residual + cell : NULL;
    at->count = count;
    if (count > 0)
        FC_BODIES[0][nv - 1][m - 1](args, at);
}

static void FC_JOIN(FC_DIRECT_NAME, _nchw)(const fc_direct_args *args)
{
    const int64_t vectors = (args->columns + FC_LANES - 1) / FC_LANES, panels = (vectors + args->nv - 1) / args->nv;
    const int64_t nv = vectors / panels, wider = vectors % panels, last = wider > 0 ? nv + 1 : nv;
    const int64_t tiles = (args->channels + args->mr - 1) / args->mr;
    FC_TILE at = {.w = args->w, .rs_y = args->y_channel};
    for (int64_t tile = 0, channel = 0, m; tile < tiles; tile++, channel += m) {
        m = args->channels / tiles + (tile < args->channels % tiles);
        at.bias = args->bias ? (const FC_DIRECT_TYPE *)args->bias + channel : NULL;
        for (int64_t i = 0; i < args->rows; i++) {
            /* The last panel is one of the widest: the vector that is moved back stays inside its tile, and what is
             * added to y is added once. */
            const int64_t narrow = panels - (wider > 0 ? wider : 1);
            FC_JOIN(FC_DIRECT_NAME, _nchw_run)(args, &at, channel, m, i, 0, nv, narrow);
            FC_JOIN(FC_DIRECT_NAME, _nchw_run)(args, &at, channel, m, i, narrow * nv, nv + 1, wider - 1);
            FC_JOIN(FC_DIRECT_NAME, _nchw_run)(args, &at, channel, m, i, vectors - last, last, 1);
        }
        at.w += m * args->depth;
    }
}

/* Whole vectors of which the last ends with the last element; fewer elements go through shorter ones. */
static void FC_JOIN(FC_DIRECT_NAME, _copy)(void *to, const void *from, int64_t n, int64_t step)
{
    FC_DIRECT_TYPE *y = to;
    const FC_DIRECT_TYPE *x = from;
    if (step == 1 && n >= FC_LANES) {
        for (int64_t i = 0; i < n - FC_LANES; i += FC_LANES)
            *(FC_V *)(y + i) = *(const FC_V *)(x + i);
        *(FC_V *)(y + n - FC_LANES) = *(const FC_V *)(x + n - FC_LANES);
    } else if (step == 2 && n >= FC_LANES) {
        /* Two vectors hold 2 * lanes - 1 elements: the second starts one early, not to end one late. */
        __typeof__((FC_V){0} < (FC_V){0}) even;
        for (int l = 0; l < FC_LANES; l++)
            even[l] = 2 * l < FC_LANES ? 2 * l : 2 * l + 1;
        for (int64_t i = 0;; i += FC_LANES) {
            i = i < n - FC_LANES ? i : n - FC_LANES;
            const FC_V low = *(const FC_V *)(x + 2 * i), high = *(const FC_V *)(x + 2 * i + FC_LANES - 1);
            *(FC_V *)(y + i) = __builtin_shuffle(low, high, even);
            if (i == n - FC_LANES)
                break;
        }
    } else if (step == 1 && n * (int)sizeof *y >= FC_DIRECT_BYTES / 2) {
        memcpy(y, x, FC_DIRECT_BYTES / 2);
        memcpy(y + n - FC_LANES / 2, x + n - FC_LANES / 2, FC_DIRECT_BYTES / 2);
    } else {
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i * step];
    }
}

static const fc_direct_kernel FC_DIRECT_NAME = {
    FC_DIRECT_MR, FC_DIRECT_NV, FC_LOW_ROWS, FC_LANES, {FC_JOIN(FC_DIRECT_NAME, _nchw), FC_JOIN(FC_DIRECT_NAME, _nhwc)},
    FC_JOIN(FC_DIRECT_NAME, _copy)};

#undef FC_LANES
#undef FC_V
#undef FC_TILE
#undef FC_BODIES
#undef FC_BODIES_OF
#undef FC_GROUP
#undef FC_LOW_ROWS
#undef FC_LOW
#undef FC_TALL
#undef FC_ALL
#undef FC_TILES
#undef FC_TILE_OF
#undef FC_NCHW_TILE
#undef FC_NHWC_TILE
#undef FC_BRIEF_TILE
#undef FC_NCHW_TILE
#undef FC_NHWC_TILE
#undef FC_DIRECT_NAME
#undef FC_DIRECT_TYPE
#undef FC_DIRECT_BYTES
#undef FC_DIRECT_MR
#undef FC_DIRECT_NV
