/* Template of the depthwise kernels (contract: fc_depthwise_kernels in depthwise.h). Before including, define
 *   FC_DW_NAME     the table's full symbol, e.g. fc_f32_depthwise__avx512
 *   FC_DW_TYPE     float or double
 *   FC_DW_INT      the signed integer of the same size
 *   FC_DW_LANES    elements of a vector, and FC_DW_IOTA, the list 0, 1, ... of that many
 *   FC_DW_VECTORS, FC_DW_TILE_ROWS, FC_DW_COLUMNS
 *                  of a tile of depthwise_pixels_tile.h in NHWC: vectors of channels, output rows and columns, all of
 *                  which are accumulators; other tiles are a vector of two rows of FC_DW_COLUMNS
 *   FC_DW_ROWS     output rows of a block of 3x3 in NCHW (a vector of each accumulates); FC_DW_ROWS_BY_2: at stride 2
 * and, where the ISA does better than plain C, FC_DW_MASK, FC_DW_LANES_FROM_TO, FC_DW_LOAD and FC_DW_STORE: a set of
 * lanes, those of [first, end), the others 0 in a load and left alone in a store.
 * FC_DW_FREE_MASKS  if masked loads and stores cost as much as whole ones
 * FC_DW_NARROW   the NAME of kernels on shorter vectors, included before, which rows of few columns are left to.
 *
 * NHWC: vectors along the channels; each input vector is loaded once for all outputs of the tile that it reaches.
 * Small filters of one channel a group are depthwise_pixels_tile.h's, all others are here. NCHW
 * (depthwise_planes_tile.h): vectors along the width. */
#include "depthwise.h"
#include "numbers.h"
#include "template.h"

#include <string.h>

#define T FC_DW_TYPE
#define INT FC_DW_INT
#define L FC_DW_LANES
#define RW FC_DW_COLUMNS
#define P(name) FC_JOIN(FC_DW_NAME, _##name)
#define V P(vector)
#define I P(integers)
#define M P(lanes)

typedef T V __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
typedef INT I __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));

#define IOTA ((I){FC_DW_IOTA})
#define SPLAT(value) ((T)(value) - (V){0})

#ifdef FC_DW_FREE_MASKS
#define FREE_MASKS 1
#else
#define FREE_MASKS 0
#endif

/* Filters that are compiled for tiles of missing rows, columns or channels only: they are rare, or it costs nothing. */
#define MASKED_ONLY(kernel) ((kernel) < 3 || (FREE_MASKS && (kernel) > 3))

/* The compiler must see a register here: it does not fold the load into each multiplication. */
#if defined(__x86_64__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#else
#define KEEP(v) ((void)0)
#endif

/* ---- Vectors --------------------------------------------------------------------------------------------------- */

#ifdef FC_DW_MASK
typedef FC_DW_MASK M;

FC_INLINE M P(from_to)(int64_t first, int64_t end)
{
    return FC_DW_LANES_FROM_TO((int)max64(0, min64(first, L)), (int)max64(0, min64(end, L)));
}

FC_INLINE V P(load_lanes)(const T *p, M lanes) { return (V)FC_DW_LOAD(p, lanes); }

FC_INLINE void P(store_lanes)(T *p, V v, M lanes) { FC_DW_STORE(p, v, lanes); }

/* The first n lanes, which are `lanes`. Masked stores take some 20 cycles on Zen 3: half a vector or more is stored as two
 * halves that overlap. */
FC_INLINE void P(store_first)(T *p, V v, int64_t n, M lanes)
{
    if (FREE_MASKS || 2 * n < L) {
        P(store_lanes)(p, v, lanes);
    } else if (n >= L) {
        *(V *)p = v;
    } else {
        const V last = __builtin_shuffle(v, IOTA + (INT)(n - L / 2)); /* from memory it would wait for the store of v */
        memcpy(p, &v, sizeof v / 2);
        memcpy(p + n - L / 2, &last, sizeof v / 2);
    }
}
#else
typedef struct M {
    int first, end;
} M;

FC_INLINE M P(from_to)(int64_t first, int64_t end)
{
    return (M){(int)max64(0, min64(first, L)), (int)max64(0, min64(end, L))};
}

/* Loops over lanes stay out of the bodies, which are unrolled. */
static __attribute__((noinline)) V P(load_some)(const T *p, M lanes)
{
    T v[L] = {0};
    for (int l = lanes.first; l < lanes.end; l++)
        v[l] = p[l];
    V result;
    memcpy(&result, v, sizeof result);
    return result;
}

static __attribute__((noinline)) void P(store_some)(T *p, V v, M lanes)
{
    for (int l = lanes.first; l < lanes.end; l++)
        p[l] = v[l];
}

FC_INLINE V P(load_lanes)(const T *p, M lanes)
{
    return lanes.end - lanes.first == L ? *(const V *)p : P(load_some)(p, lanes);
}

FC_INLINE void P(store_lanes)(T *p, V v, M lanes)
{
    if (lanes.end - lanes.first == L)
        *(V *)p = v;
    else
        P(store_some)(p, v, lanes);
}

FC_INLINE void P(store_first)(T *p, V v, int64_t n, M lanes)
{
    (void)n;
    P(store_lanes)(p, v, lanes);
}
#endif

/* whole: a constant, whether all lanes are wanted whatever `lanes` says. */
FC_INLINE V P(load)(const T *p, const int whole, M lanes) { return whole ? *(const V *)p : P(load_lanes)(p, lanes); }

FC_INLINE void P(store)(T *p, V v, const int whole, M lanes)
{
    if (whole)
        *(V *)p = v;
    else
        P(store_lanes)(p, v, lanes);
}

FC_INLINE V P(clamped)(V v, V lo, V hi)
{
    const I below = (I)(v < lo), above = (I)(v > hi); /* 0 for NaN, which stays */
    v = (V)((below & (I)lo) | (~below & (I)v));
    return (V)((above & (I)hi) | (~above & (I)v));
}

#ifndef FC_DW_IS_NARROW
/* ---- NHWC: a tile of two rows of RW output pixels, one vector of channels -------------------------------------- */

#ifndef FC_DW_ONCE
#define FC_DW_ONCE
/* How the channels of the input lie under a vector of those of the output. */
enum { PLAIN, REPEATED, SUMMED, GROUPED };
#endif

/* One vector of channels of a tile. x, y, w, residual, bias: at its first channel. Input rows and columns are counted
 * from the tile's first tap, x is there (perhaps outside of the image): [row0, row1) and [col0, col1) lie inside. */
typedef struct P(tile) {
    const fc_depthwise_args *args;
    const T *x, *w, *bias, *residual;
    T *y;
    int64_t channel, row0, row1;
    int col0, col1, rows, columns;
    M lanes, in_lanes, more_lanes; /* of out; of in, where not PLAIN; of in's second vector, SUMMED */
    I spread;                      /* REPEATED, GROUPED: lane of the input for each of the output, of k = 0 */
} P(tile);

/* Lanes and spread of the n channels from t->channel. */
FC_INLINE void P(set_channels)(P(tile) *t, int64_t n, const int how)
{
    const int64_t m = t->args->multiplier, depth = t->args->depth;
    t->lanes = P(from_to)(0, n);
    if (how == SUMMED) {
        t->in_lanes = P(from_to)(0, n * depth);
        t->more_lanes = P(from_to)(-L, n * depth - L);
    }
    if (how == GROUPED) { /* groups of as many channels in as out: a power of two */
        t->in_lanes = t->lanes;
        t->spread = IOTA & ~(INT)(min64(m, L) - 1);
    }
    if (how == REPEATED) {
        INT spread[L];
        int64_t of = t->channel % m;
        INT lane = 0;
        for (int l = 0; l < L; l++) {
            spread[l] = lane < L ? lane : 0;
            if (++of == m) {
                of = 0;
                lane++;
            }
        }
        memcpy(&t->spread, spread, sizeof spread);
        t->in_lanes = P(from_to)(0, spread[min64(n, L) - 1] + 1);
    }
}

/* Channels l*depth + k of a pixel. */
static __attribute__((noinline)) V P(gathered_cell)(const T *x, int64_t n, int64_t depth)
{
    T lanes[L] = {0};
    for (int64_t l = 0; l < n; l++)
        lanes[l] = x[l * depth];
    V v;
    memcpy(&v, lanes, sizeof v);
    return v;
}

/* The cell at x under the output channels. */
FC_INLINE V P(cell)(const P(tile) *t, const T *x, int64_t k, const int how, const int whole)
{
    if (how == PLAIN)
        return P(load)(x, whole, t->lanes);
    if (how == REPEATED)
        return __builtin_shuffle(P(load_lanes)(x, t->in_lanes), t->spread);
    if (how == GROUPED && t->args->multiplier > L)
        return SPLAT(x[k]);
    if (how == GROUPED)
        return __builtin_shuffle(P(load)(x, whole, t->lanes), t->spread + (INT)k);
    if (t->args->depth == 2)
        return __builtin_shuffle(P(load_lanes)(x, t->in_lanes), P(load_lanes)(x + L, t->more_lanes), 2 * IOTA + (INT)k);
    return P(gathered_cell)(x + k, min64(L, t->args->channels - t->channel), t->args->depth);
}

/* One input row into output row 0 (which & 1) by the taps at w0, row 1 (which & 2) by those at w1. */
FC_INLINE void P(row)(const P(tile) *t, V acc[2][RW], const T *x, const T *w0, const T *w1, const int kw, const int sw,
                      int64_t k, const int how, const int edge, const int which)
{
    const int64_t w_w = t->args->w_w, in_col = t->args->in_col;
    const int col0 = t->col0, col1 = t->col1;
    V v0[8], v1[8];
#pragma GCC unroll 8
    for (int b = 0; b < kw; b++) {
        if (which & 1)
            v0[b] = P(load)(w0 + b * w_w, !edge, t->lanes);
        if (which & 2)
            v1[b] = P(load)(w1 + b * w_w, !edge, t->lanes);
    }
#pragma GCC unroll 32
    for (int jj = 0; jj < (RW - 1) * sw + kw; jj++, x += in_col) {
        if (edge && (jj < col0 || jj >= col1))
            continue;
        V v = P(cell)(t, x, k, how, !edge);
        KEEP(v);
#pragma GCC unroll 8
        for (int j = 0; j < RW; j++) {
            const int b = jj - j * sw;
            if (b >= 0 && b < kw) {
                if (which & 1)
                    acc[0][j] += v * v0[b];
                if (which & 2)
                    acc[1][j] += v * v1[b];
            }
        }
    }
}

/* The same for any filter width, stride and dilation, into one output row; x NULL: a row outside of the image. */
FC_INLINE void P(any_row)(const P(tile) *t, V acc[RW], const T *x, const T *w, int64_t k, const int how)
{
    const fc_depthwise_args *a = t->args;
    for (int64_t b = 0; b < a->taps_w; b++) {
        const V tap = P(load_lanes)(w + b * a->w_w, t->lanes);
#pragma GCC unroll 8
        for (int j = 0; j < RW; j++) {
            const int64_t column = j * a->sw + b * a->step_w;
            if (x && column >= t->col0 && column < t->col1)
                acc[j] += P(cell)(t, x + column * a->in_col, k, how, 0) * tap;
            else if (a->outside)
                acc[j] += (V){0} * tap;
        }
    }
}

/* y = act(acc + residual), the columns that there are. */
FC_INLINE void P(finish)(const P(tile) *t, V acc[RW], int64_t row, const int edge)
{
    const fc_depthwise_args *a = t->args;
    if (t->residual) {
        const T *residual = t->residual + row;
#pragma GCC unroll 8
        for (int j = 0; j < RW; j++, residual += a->out_col)
            if (!edge || j < t->columns)
                acc[j] += P(load)(residual, !edge, t->lanes);
    }
    if (a->clamp) {
        const V lo = SPLAT(a->lo), hi = SPLAT(a->hi);
#pragma GCC unroll 8
        for (int j = 0; j < RW; j++)
            acc[j] = P(clamped)(acc[j], lo, hi);
    }
    T *y = t->y + row;
#pragma GCC unroll 8
    for (int j = 0; j < RW; j++, y += a->out_col)
        if (!edge || j < t->columns)
            P(store)(y, acc[j], !edge, t->lanes);
}

/* kw = 0: any width, stride and dilation. edge: rows, columns, channels may be missing; else L channels of RW
 * columns. */
FC_INLINE void P(pixels)(const P(tile) *t, const int kw, const int sw, const int how, const int edge)
{
    const fc_depthwise_args *a = t->args;
    V acc[2][RW];
    const V start = t->bias ? P(load)(t->bias, !edge, t->lanes) : (V){0};
#pragma GCC unroll 8
    for (int j = 0; j < RW; j++)
        acc[0][j] = acc[1][j] = start;
    if (kw == 0) {
        for (int64_t k = 0; k < a->depth; k++)
            for (int64_t h = 0; h < a->taps_h; h++) {
                const T *w = t->w + k * a->w_k + h * a->w_h;
                const int64_t r0 = h * a->step_h, r1 = r0 + a->sh;
                P(any_row)(t, acc[0], r0 >= t->row0 && r0 < t->row1 ? t->x + r0 * a->in_row : NULL, w, k, how);
                if (t->rows > 1)
                    P(any_row)(t, acc[1], r1 >= t->row0 && r1 < t->row1 ? t->x + r1 * a->in_row : NULL, w, k, how);
            }
    } else {
        const int64_t last = t->rows > 1 ? t->row1 : min64(t->row1, a->taps_h), w_h = a->w_h;
        const T *w = t->w;
        for (int64_t k = 0; k < (how == GROUPED ? a->depth : 1); k++, w += a->w_k) {
            int64_t r = t->row0;
            for (; r < min64(last, min64(a->sh, a->taps_h)); r++)
                P(row)(t, acc, t->x + r * a->in_row, w + r * w_h, NULL, kw, sw, k, how, edge, 1);
            for (r = max64(r, a->sh); r < min64(last, a->taps_h); r++)
                P(row)(t, acc, t->x + r * a->in_row, w + r * w_h, w + (r - a->sh) * w_h, kw, sw, k, how, edge, 3);
            for (r = max64(r, a->sh); r < last; r++)
                P(row)(t, acc, t->x + r * a->in_row, NULL, w + (r - a->sh) * w_h, kw, sw, k, how, edge, 2);
        }
    }
    P(finish)(t, acc[0], 0, edge);
    if (t->rows > 1)
        P(finish)(t, acc[1], a->out_row, edge);
}

/* The strip of a row pair from its first column: all channels. */
FC_INLINE void P(strip)(P(tile) t, const int kw, const int sw, const int how, const int edge)
{
    const fc_depthwise_args *a = t.args;
    const T *const x = t.x;
    int64_t n = min64(L, a->channels);
    t.channel = 0;
    P(set_channels)(&t, n, how);
    while (t.channel < a->channels) {
        t.x = x + (how == PLAIN ? t.channel : t.channel / a->multiplier * a->depth);
        if (!edge && how == GROUPED && kw > 0 && !FREE_MASKS && n == L)
            P(pixels)(&t, kw, sw, how, 0);
        else
            P(pixels)(&t, kw, sw, how, 1);
        t.channel += n;
        t.w += n;
        t.y += n;
        t.bias = t.bias ? t.bias + n : NULL;
        t.residual = t.residual ? t.residual + n : NULL;
        const int64_t next = min64(L, a->channels - t.channel);
        if (next > 0 && (next != n || (how == REPEATED && L % a->multiplier != 0)))
            P(set_channels)(&t, next, how);
        n = next;
    }
}

typedef void (*P(strip_function))(const P(tile) *t, int edge);

#define STRIP(name, kw, sw, how)                          \
    static void P(name)(const P(tile) *t, int edge)       \
    {                                                     \
        P(strip)(*t, kw, sw, how, edge);                  \
    }
STRIP(strip_3_repeated, 3, 1, REPEATED)
STRIP(strip_3_by_2_repeated, 3, 2, REPEATED)
STRIP(strip_3_grouped, 3, 1, GROUPED)
STRIP(strip_3_by_2_grouped, 3, 2, GROUPED)
STRIP(strip_any_grouped, 0, 0, GROUPED)
STRIP(strip_any, 0, 0, PLAIN)
STRIP(strip_any_repeated, 0, 0, REPEATED)
STRIP(strip_any_summed, 0, 0, SUMMED)
#undef STRIP

static P(strip_function) P(strip_of)(const fc_depthwise_args *a)
{
    const int64_t m = a->multiplier;
    const int how = m > 1 ? (a->depth > 1 ? GROUPED : REPEATED) : a->depth > 1 ? SUMMED : PLAIN;
    const int near = (a->step_h == 1 || a->taps_h == 1) && (a->step_w == 1 || a->taps_w == 1);
    const int fast = how != SUMMED && how != PLAIN && near && a->taps_h > 0 && !(a->nonfinite && a->outside);
    if (fast && a->taps_w == 3 && a->sw == 1)
        return how == REPEATED ? P(strip_3_repeated) : P(strip_3_grouped);
    else if (fast && a->taps_w == 3 && a->sw == 2)
        return how == REPEATED ? P(strip_3_by_2_repeated) : P(strip_3_by_2_grouped);
    return how == PLAIN      ? P(strip_any)
           : how == REPEATED ? P(strip_any_repeated)
           : how == SUMMED   ? P(strip_any_summed)
                             : P(strip_any_grouped);
}

#include "depthwise_pixels_tile.h"

static void P(gather_nhwc)(const fc_depthwise_args *a, int64_t begin, int64_t end)
{
    const int64_t pairs = ceil_div(a->out_h, FC_DEPTHWISE_ROWS);
    const int64_t extent = (RW - 1) * a->sw + (a->taps_w - 1) * a->step_w + 1;
    const P(strip_function) strip = P(strip_of)(a);
    const P(pixels_function) pixels = P(pixels_of)(a);
    const int64_t tile_rows = a->taps_w == 3 ? FC_DW_TILE_ROWS : 1;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t image = unit / pairs, i = unit % pairs * FC_DEPTHWISE_ROWS, top = i * a->sh + a->top;
        if (pixels) {
            for (int64_t row = i; row < min64(i + FC_DEPTHWISE_ROWS, a->out_h); row += tile_rows)
                P(pixels_rows)(a, image, row, tile_rows, pixels);
            continue;
        }
        P(tile) t = {.args = a, .w = a->w, .bias = a->bias, .rows = (int)min64(FC_DEPTHWISE_ROWS, a->out_h - i)};
        t.row0 = max64(0, -top);
        t.row1 = min64((t.rows - 1) * a->sh + (a->taps_h - 1) * a->step_h + 1, a->in_h - top);
        for (int64_t j = 0; j < a->out_w; j += RW) {
            const int64_t left = j * a->sw + a->left;
            const int64_t out = image * a->out_n + i * a->out_row + j * a->out_col;
            t.columns = (int)min64(RW, a->out_w - j);
            t.col0 = (int)min64(max64(0, -left), extent);
            t.col1 = (int)min64(max64(0, a->in_w - left), extent);
            t.x = (const T *)a->in + image * a->in_n + top * a->in_row + left * a->in_col;
            t.y = (T *)a->out + out;
            t.residual = a->residual ? (const T *)a->residual + out : NULL;
            strip(&t, left < 0 || t.columns < RW || a->in_w - left < extent);
        }
    }
}

#endif

#include "depthwise_planes_tile.h"

#ifndef FC_DW_IS_NARROW
#include "depthwise_weight_tile.h"

static const fc_depthwise_kernels FC_DW_NAME = {
    .gather = {P(gather_nchw), P(gather_nhwc)},
    .weight = {P(weight_nchw), P(weight_nhwc)},
};
#endif

#undef T
#undef INT
#undef L
#undef RW
#undef P
#undef V
#undef I
#undef M
#undef IOTA
#undef SPLAT
#undef KEEP
#undef FC_DW_NAME
#undef FC_DW_TYPE
#undef FC_DW_INT
#undef FC_DW_LANES
#undef FC_DW_IOTA
#undef FC_DW_COLUMNS
#undef FC_DW_FREE_MASKS
#undef FREE_MASKS
#undef MASKED_ONLY
#undef FC_DW_VECTORS
#undef FC_DW_TILE_ROWS
#undef FC_DW_ROWS
#undef FC_DW_ROWS_BY_2
#undef FC_DW_MASK
#undef FC_DW_LANES_FROM_TO
#undef FC_DW_LOAD
#undef FC_DW_STORE
#undef FC_DW_NARROW
#undef FC_DW_IS_NARROW
