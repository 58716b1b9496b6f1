/* Template of the direct convolution (contract: fc_direct_args in direct.h). Before including, define
 *   FC_DIRECT_NAME    the fc_direct_kernel to define, e.g. fc_f32_direct_14x32__avx512
 *   FC_DIRECT_TYPE    float or double
 *   FC_DIRECT_BYTES   bytes of a vector
 *   FC_DIRECT_MR      rows of the tile, at most 14
 *   FC_DIRECT_NV      vectors in a row, at most 3
 * A tile is that of a GEMM: its accumulators stay in registers over the whole sum. One factor is read in place, at
 * offset[k]: pixels to broadcast in NHWC, vectors of pixels in NCHW. The other is packed weights. All loops over tiles
 * are here, since the sums of a first layer are too short to pay for a call each.
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

/* Part number of `length` cut into `parts` that differ by at most one: first item, and width. */
FC_INLINE int64_t fc_direct_split(int64_t length, int64_t parts, int64_t part, int64_t *first)
{
    const int64_t small = length / parts, more = length % parts;
    *first = part * small + (part < more ? part : more);
    return small + (part < more);
}
#endif

#define FC_LANES ((int)(FC_DIRECT_BYTES / sizeof(FC_DIRECT_TYPE)))
#define FC_V FC_JOIN(FC_DIRECT_NAME, _vector)
#define FC_TILE FC_JOIN(FC_DIRECT_NAME, _at)

typedef FC_DIRECT_TYPE FC_V __attribute__((vector_size(FC_DIRECT_BYTES), aligned(sizeof(FC_DIRECT_TYPE)), may_alias));

/* Where a tile is: its rows lie at rs of their array; vector v at v * lanes but the last, at `last`. */
typedef struct FC_TILE {
    const FC_DIRECT_TYPE *x, *w, *bias, *residual;
    FC_DIRECT_TYPE *y;
    int64_t rs_x, rs_y, last;
    int64_t cells; /* of a row: fewer than lanes only if the whole row has fewer */
} FC_TILE;

/* Rows of fewer elements than a vector has, one by one. */
static __attribute__((noinline)) void FC_JOIN(FC_DIRECT_NAME, _edge)(const fc_direct_args *args, const FC_TILE *at,
                                                                     int m, const FC_DIRECT_TYPE *edge)
{
    for (int i = 0; i < m; i++)
        for (int64_t j = 0; j < at->cells; j++) {
            FC_DIRECT_TYPE v = edge[i * FC_LANES + j];
            if (args->accumulate)
                v += at->y[i * at->rs_y + j];
            if (at->residual)
                v += at->residual[i * at->rs_y + j];
            if (args->clamp) {
                v = v < (FC_DIRECT_TYPE)args->lo ? (FC_DIRECT_TYPE)args->lo : v;
                v = v > (FC_DIRECT_TYPE)args->hi ? (FC_DIRECT_TYPE)args->hi : v;
            }
            at->y[i * at->rs_y + j] = v;
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

FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _body)(const fc_direct_args *args, const FC_TILE *at, const int nhwc, const int m,
                                              const int nv)
{
    FC_V acc[FC_DIRECT_MR][FC_DIRECT_NV];
    const int64_t last = nv > 1 ? at->last : 0;

    if (nhwc && at->bias) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] = *(const FC_V *)(at->bias + (v < nv - 1 ? v * FC_LANES : last));
    } else if (at->bias) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] = at->bias[i] - (FC_V){0};
    } else {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] = (FC_V){0};
    }

    /* Here and below one pointer walks over the rows of y, since the compiler would keep an address for each. */
    FC_DIRECT_TYPE *const y0 = at->y, *y = y0;
    const int64_t rs_y = at->rs_y;
    /* The lines of y arrive while the sum runs: a store that misses would hold up those behind it. NHWC asks for all at
     * once; in NCHW, where rows are planes apart, that stalls a long sum, and a short one has no time for the others. */
    fc_direct_run run = {(const char *)args, 0, INT64_MAX, 0};
    if (!nhwc && args->depth > 2 * m * nv)
        run = (fc_direct_run){(const char *)y0, rs_y * (int64_t)sizeof(*y), m, nv};
#pragma GCC unroll 14
    for (int i = 0; nhwc && i < m; i++, y += rs_y) {
        FC_DIRECT_IN_REGISTER(y);
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            __builtin_prefetch(y + (v < nv - 1 ? v * FC_LANES : last), 1);
    }

    const int32_t *offset = args->offset, *const end = offset + args->depth;
    const FC_DIRECT_TYPE *w = at->w, *const x = at->x;
    int64_t rs = nhwc ? at->rs_x : 1, rs3 = 3 * rs;
    FC_DIRECT_IN_REGISTER(rs);
    FC_DIRECT_IN_REGISTER(rs3);
    for (; offset < end; offset++) {
        const FC_DIRECT_TYPE *const cell = x + *offset;
        if (!nhwc) {
            __builtin_prefetch(run.line, 0, 2);
            run.line += run.step;
            if (__builtin_expect(--run.left == 0, 0))
                run = FC_JOIN(FC_DIRECT_NAME, _turn)(args, run, m);
        }
        FC_V row[FC_DIRECT_NV];
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            row[v] = nhwc ? *(const FC_V *)(w + v * FC_LANES) :
                            *(const FC_V *)(cell + (v < nv - 1 ? v * FC_LANES : last));
        /* Row addresses from few registers: groups of five rows, base + {0, 1, 2, 3, 4} * rs. */
        const FC_DIRECT_TYPE *cell5 = cell + 5 * rs, *cell10 = cell + 10 * rs;
        FC_DIRECT_IN_REGISTER(cell5);
        FC_DIRECT_IN_REGISTER(cell10);
#pragma GCC unroll 14
        for (int i = 0; i < m; i++) {
            const FC_DIRECT_TYPE *base = i < 5 ? cell : i < 10 ? cell5 : cell10;
            const int r = i % 5;
            const FC_DIRECT_TYPE value = !nhwc ? w[i] : r == 0 ? base[0] : r == 1 ? base[rs] : r == 2 ? base[2 * rs] :
                                         r == 3 ? base[rs3] : base[4 * rs];
            FC_V broadcast = value - (FC_V){0};
            FC_DIRECT_IN_VECTOR_REGISTER(broadcast);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] += broadcast * row[v];
        }
        w += nhwc ? nv * FC_LANES : m;
    }

    if (!nhwc && run.vectors < 0) {
        args->fetch->line = run.line;
        args->fetch->left = run.left;
    }
    if (at->cells < FC_LANES) {
        FC_DIRECT_TYPE edge[FC_DIRECT_MR][FC_LANES];
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
            *(FC_V *)&edge[i][0] = acc[i][0];
        FC_JOIN(FC_DIRECT_NAME, _edge)(args, at, m, &edge[0][0]);
        return;
    }
    if (args->accumulate) {
        y = y0;
#pragma GCC unroll 14
        for (int i = 0; i < m; i++, y += rs_y) {
            FC_DIRECT_IN_REGISTER(y);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)(y + (v < nv - 1 ? v * FC_LANES : last));
        }
    }
    if (at->residual) {
        const FC_DIRECT_TYPE *residual = at->residual;
#pragma GCC unroll 14
        for (int i = 0; i < m; i++, residual += rs_y) {
            FC_DIRECT_IN_REGISTER(residual);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)(residual + (v < nv - 1 ? v * FC_LANES : last));
        }
    }
    if (args->clamp) {
        /* (v < lo) is all ones or all zeros in integer lanes, 0 for NaN: NaN passes both tests. */
        const FC_V lo = (FC_DIRECT_TYPE)args->lo - (FC_V){0}, hi = (FC_DIRECT_TYPE)args->hi - (FC_V){0};
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 3
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
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            *(FC_V *)(y + (v < nv - 1 ? v * FC_LANES : last)) = acc[i][v];
    }
}

#define FC_DIRECT_CASE(count) \
    case count: \
        FC_JOIN(FC_DIRECT_NAME, _body)(args, at, nhwc, count, nv); \
        break

FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _rows)(const fc_direct_args *args, const FC_TILE *at, int64_t m, const int nhwc,
                                              const int nv)
{
    switch (m) {
        FC_DIRECT_CASE(1);
        FC_DIRECT_CASE(2);
        FC_DIRECT_CASE(3);
        FC_DIRECT_CASE(4);
#if FC_DIRECT_MR >= 6
        FC_DIRECT_CASE(5);
        FC_DIRECT_CASE(6);
#endif
#if FC_DIRECT_MR >= 8
        FC_DIRECT_CASE(7);
        FC_DIRECT_CASE(8);
#endif
#if FC_DIRECT_MR >= 14
        FC_DIRECT_CASE(9);
        FC_DIRECT_CASE(10);
        FC_DIRECT_CASE(11);
        FC_DIRECT_CASE(12);
        FC_DIRECT_CASE(13);
        FC_DIRECT_CASE(14);
#endif
    }
}

/* m rows of nv vectors, each layout in a function of its own: one switch each. */
static void FC_JOIN(FC_DIRECT_NAME, _nhwc_1)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 1, 1);
}

static void FC_JOIN(FC_DIRECT_NAME, _nhwc_2)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 1, 2);
}

static void FC_JOIN(FC_DIRECT_NAME, _nchw_1)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 0, 1);
}

static void FC_JOIN(FC_DIRECT_NAME, _nchw_2)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 0, 2);
}

#if FC_DIRECT_NV >= 3
static void FC_JOIN(FC_DIRECT_NAME, _nhwc_3)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 1, 3);
}

static void FC_JOIN(FC_DIRECT_NAME, _nchw_3)(const fc_direct_args *args, const FC_TILE *at, int64_t m)
{
    FC_JOIN(FC_DIRECT_NAME, _rows)(args, at, m, 0, 3);
}
#endif

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

/* Pixels j0 <= j < j1 of row i, the vectors of one panel. */
FC_INLINE void FC_JOIN(FC_DIRECT_NAME, _nhwc_tile)(const fc_direct_args *args, int64_t i, int64_t j, int64_t m, int64_t panel,
                                                   int64_t panels, const FC_DIRECT_TYPE *bias_edge)
{
    const int64_t vectors = (args->channels + FC_LANES - 1) / FC_LANES;
    FC_TILE at = {.rs_x = args->x_column, .rs_y = args->y_column};
    int64_t first;
    const int64_t nv = fc_direct_split(vectors, panels, panel, &first);
    const int64_t channel = FC_JOIN(FC_DIRECT_NAME, _place)(&at, args->channels, first, nv);
    const int64_t cell = i * args->y_row + j * args->y_column + channel;
    at.w = (const FC_DIRECT_TYPE *)args->w + first * FC_LANES * args->depth;
    at.x = (const FC_DIRECT_TYPE *)args->x + i * args->x_row + j * args->x_column;
    at.y = (FC_DIRECT_TYPE *)args->y + cell;
    at.residual = args->residual ? (const FC_DIRECT_TYPE *)args->residual + cell : NULL;
    at.bias = bias_edge ? bias_edge : args->bias ? (const FC_DIRECT_TYPE *)args->bias + channel : NULL;
    if (nv == 1)
        FC_JOIN(FC_DIRECT_NAME, _nhwc_1)(args, &at, m);
    else if (nv == 2)
        FC_JOIN(FC_DIRECT_NAME, _nhwc_2)(args, &at, m);
#if FC_DIRECT_NV >= 3
    else
        FC_JOIN(FC_DIRECT_NAME, _nhwc_3)(args, &at, m);
#endif
}

static void FC_JOIN(FC_DIRECT_NAME, _nhwc)(const fc_direct_args *args)
{
    const int64_t vectors = (args->channels + FC_LANES - 1) / FC_LANES, panels = (vectors + FC_DIRECT_NV - 1) / FC_DIRECT_NV;
    const int64_t tiles = (args->columns + FC_DIRECT_MR - 1) / FC_DIRECT_MR;
    FC_DIRECT_TYPE bias_edge[FC_LANES] = {0};
    const FC_DIRECT_TYPE *const edge = args->bias && args->channels < FC_LANES ? bias_edge : NULL;
    /* Outputs are written in order where all weights stay in the L1; else the weights of a panel stay for a row. */
    const int64_t weights = args->depth * vectors * FC_DIRECT_BYTES;
    const int64_t a_turn = weights <= FC_DIRECT_WEIGHTS ? 1 : tiles;
    if (edge)
        memcpy(bias_edge, args->bias, (size_t)args->channels * sizeof *bias_edge);
    for (int64_t i = 0; i < args->rows; i++)
        for (int64_t tile0 = 0; tile0 < tiles; tile0 += a_turn)
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t tile = tile0; tile < tile0 + a_turn; tile++) {
                    int64_t j;
                    const int64_t m = fc_direct_split(args->columns, tiles, tile, &j);
                    FC_JOIN(FC_DIRECT_NAME, _nhwc_tile)(args, i, j, m, panel, panels, edge);
                }
}

static void FC_JOIN(FC_DIRECT_NAME, _nchw)(const fc_direct_args *args)
{
    const int64_t vectors = (args->columns + FC_LANES - 1) / FC_LANES, panels = (vectors + FC_DIRECT_NV - 1) / FC_DIRECT_NV;
    const int64_t tiles = (args->channels + FC_DIRECT_MR - 1) / FC_DIRECT_MR;
    const FC_DIRECT_TYPE *const x = args->x, *const bias = args->bias, *const residual = args->residual;
    FC_TILE at = {.w = args->w, .rs_y = args->y_channel};
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t channel;
        const int64_t m = fc_direct_split(args->channels, tiles, tile, &channel);
        at.bias = bias ? bias + channel : NULL;
        for (int64_t i = 0; i < args->rows; i++)
            for (int64_t panel = 0; panel < panels; panel++) {
                /* The last panel is one of the widest: the vector that is moved back stays inside its tile, and what is
                 * added to y is added once. */
                int64_t left;
                const int64_t nv = fc_direct_split(vectors, panels, panels - 1 - panel, &left), first = vectors - left - nv;
                const int64_t j = FC_JOIN(FC_DIRECT_NAME, _place)(&at, args->columns, first, nv);
                const int64_t cell = i * args->y_row + j + channel * args->y_channel;
                at.x = x + i * args->x_row + j;
                at.y = (FC_DIRECT_TYPE *)args->y + cell;
                at.residual = residual ? residual + cell : NULL;
                if (nv == 1)
                    FC_JOIN(FC_DIRECT_NAME, _nchw_1)(args, &at, m);
                else if (nv == 2)
                    FC_JOIN(FC_DIRECT_NAME, _nchw_2)(args, &at, m);
#if FC_DIRECT_NV >= 3
                else
                    FC_JOIN(FC_DIRECT_NAME, _nchw_3)(args, &at, m);
#endif
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
    FC_DIRECT_MR, FC_DIRECT_NV, FC_LANES, {FC_JOIN(FC_DIRECT_NAME, _nchw), FC_JOIN(FC_DIRECT_NAME, _nhwc)},
    FC_JOIN(FC_DIRECT_NAME, _copy)};

#undef FC_LANES
#undef FC_V
#undef FC_TILE
#undef FC_DIRECT_CASE
#undef FC_DIRECT_NAME
#undef FC_DIRECT_TYPE
#undef FC_DIRECT_BYTES
#undef FC_DIRECT_MR
#undef FC_DIRECT_NV
