/* Template of what moves data around the Winograd transforms, the same for every tile; contracts: csrc/winograd.h.
 * Before including, define
 *   FC_MOVE_NAME     the full symbol of the fc_winograd_move, e.g. fc_f32_winograd_move__avx512
 *   FC_MOVE_TYPE     float or double
 *   FC_MOVE_INT      the signed integer of its size
 *   FC_MOVE_LANES    elements in a vector: 2, 4, 8 or 16 */
#include "numbers.h"
#include "winograd.h"

#include <stddef.h>
#include <string.h>

#define FC_T FC_MOVE_TYPE
#define FC_L FC_MOVE_LANES
#define FC_V FC_JOIN(FC_MOVE_NAME, _vector)
#define FC_TRANSPOSE FC_JOIN(FC_MOVE_NAME, _transpose)
#define FC_CLAMPED FC_JOIN(FC_MOVE_NAME, _clamped)
#define FC_CLAMPED_VECTOR FC_JOIN(FC_MOVE_NAME, _clamped_vector)
#define FC_COPY FC_JOIN(FC_MOVE_NAME, _copy)

typedef FC_T FC_V __attribute__((vector_size(FC_L * sizeof(FC_T)), aligned(sizeof(FC_T)), may_alias));

#if FC_MOVE_LANES == 16
#define FC_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define FC_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif FC_MOVE_LANES == 8
#define FC_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define FC_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif FC_MOVE_LANES == 4
#define FC_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define FC_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define FC_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 2)
#define FC_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

/* One zip of the two halves rotates the bits of the flat index by one; log2(lanes) of them swap row and column. */
FC_INLINE void FC_TRANSPOSE(FC_V *rows)
{
#pragma GCC unroll 4
    for (int stage = 1; stage < FC_L; stage *= 2) {
        FC_V zipped[FC_L];
#pragma GCC unroll 8
        for (int i = 0; i < FC_L / 2; i++) {
            zipped[2 * i] = FC_ZIP_LOW(rows[i], rows[i + FC_L / 2]);
            zipped[2 * i + 1] = FC_ZIP_HIGH(rows[i], rows[i + FC_L / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < FC_L; i++)
            rows[i] = zipped[i];
    }
}

FC_INLINE FC_T FC_CLAMPED(const fc_winograd_problem *problem, FC_T value)
{
    if (problem->clamp) { /* NaN passes both tests */
        value = value < (FC_T)problem->lo ? (FC_T)problem->lo : value;
        value = value > (FC_T)problem->hi ? (FC_T)problem->hi : value;
    }
    return value;
}

FC_INLINE FC_V FC_CLAMPED_VECTOR(const fc_winograd_problem *problem, FC_V value)
{
    const FC_V lo = (FC_T)problem->lo - (FC_V){0}, hi = (FC_T)problem->hi - (FC_V){0};
    if (problem->clamp) {
        __typeof__(value < lo) below = value < lo;
        value = (FC_V)((below & (__typeof__(below))lo) | (~below & (__typeof__(below))value));
        __typeof__(value > hi) above = value > hi;
        value = (FC_V)((above & (__typeof__(above))hi) | (~above & (__typeof__(above))value));
    }
    return value;
}

/* n <= lanes elements by two vectors that overlap. */
FC_INLINE void FC_COPY(FC_T *to, const FC_T *from, int64_t n)
{
#pragma GCC unroll 8
    for (int width = FC_L; width > 0; width /= 2)
        if (n >= width) {
            memcpy(to, from, width * sizeof(FC_T));
            memcpy(to + n - width, from + n - width, width * sizeof(FC_T));
            return;
        }
}

static void FC_JOIN(FC_MOVE_NAME, _gather)(const void *src, int64_t stride, int64_t channels, int64_t pixels,
                                           int64_t readable, int64_t width, int64_t skip, void *dst)
{
    const FC_T *in = src;
    FC_T *out = dst;
    for (int64_t q = 0; q < pixels; q += FC_L) {
        /* The last block overlaps the one before it, or reads past the pixels, rather than be narrow. */
        const int64_t at = q + FC_L <= readable || pixels < FC_L ? q : pixels - FC_L;
        const int64_t count = min64(pixels - at, FC_L);
        int64_t left = width - at % width; /* pixels up to the next skip */
        FC_T *to = out + (at + at / width * skip) * FC_L;
        FC_V rows[FC_L];
        if (channels == FC_L && at + FC_L <= readable) {
#pragma GCC unroll 16
            for (int c = 0; c < FC_L; c++)
                rows[c] = *(const FC_V *)(in + c * stride + at);
        } else {
            memset(rows, 0, sizeof rows);
            for (int64_t c = 0; c < channels; c++)
                FC_COPY((FC_T *)&rows[c], in + c * stride + at, count);
        }
        FC_TRANSPOSE(rows);
#pragma GCC unroll 16
        for (int k = 0; k < FC_L; k++)
            if (k < count) {
                *(FC_V *)to = rows[k];
                to += --left ? FC_L : (1 + skip) * FC_L;
                left = left ? left : width;
            }
    }
}

static void FC_JOIN(FC_MOVE_NAME, _scatter)(const fc_winograd_problem *problem, const void *src, int64_t pixels,
                                            int64_t channels, const void *residual, void *dst, int64_t stride)
{
    const FC_T *in = src, *res = residual;
    FC_T *out = dst;
    for (int64_t q = 0; q < pixels; q += FC_L) {
        const int64_t at = q + FC_L <= pixels || pixels < FC_L ? q : pixels - FC_L;
        const int64_t width = min64(pixels, FC_L);
        FC_V rows[FC_L];
#pragma GCC unroll 16
        for (int c = 0; c < FC_L; c++)
            rows[c] = *(const FC_V *)(in + (at + c) * FC_L);
        FC_TRANSPOSE(rows);
        if (channels == FC_L && width == FC_L) {
#pragma GCC unroll 16
            for (int c = 0; c < FC_L; c++) {
                FC_V value = rows[c];
                if (res)
                    value += *(const FC_V *)(res + c * stride + at);
                *(FC_V *)(out + c * stride + at) = FC_CLAMPED_VECTOR(problem, value);
            }
            continue;
        }
        FC_V block[FC_L];
#pragma GCC unroll 16
        for (int c = 0; c < FC_L; c++)
            block[c] = rows[c];
        for (int64_t c = 0; c < channels; c++) {
            FC_V value = block[c], add = {0};
            if (res) {
                FC_COPY((FC_T *)&add, res + c * stride + at, width);
                value += add;
            }
            value = FC_CLAMPED_VECTOR(problem, value);
            FC_COPY(out + c * stride + at, (const FC_T *)&value, width);
        }
    }
}

static void FC_JOIN(FC_MOVE_NAME, _finish)(const fc_winograd_problem *problem, const void *src, int64_t n,
                                           const void *residual, void *y)
{
    const FC_T *restrict in = src;
    const FC_T *restrict res = residual;
    FC_T *restrict out = y;
    if (res)
        for (int64_t j = 0; j < n; j++)
            out[j] = FC_CLAMPED(problem, in[j] + res[j]);
    else
        for (int64_t j = 0; j < n; j++)
            out[j] = FC_CLAMPED(problem, in[j]);
}

static void FC_JOIN(FC_MOVE_NAME, _taps)(const fc_winograd_problem *problem, const void *w, int64_t filled, int64_t n,
                                         void *taps)
{
    FC_T *restrict out = taps;
    const FC_T *restrict in = w;
    const int64_t step = problem->w_o;
    const int64_t kw = problem->kw;
    for (int64_t t = 0; t < problem->kh * kw; t++) {
        const FC_T *cell = in + t / kw * problem->w_a + t % kw * problem->w_b;
        for (int64_t j = 0; j < filled; j++)
            out[t * n + j] = cell[j * step];
        for (int64_t j = filled; j < n; j++)
            out[t * n + j] = 0;
    }
}

#define FC_WINNER_NAME FC_JOIN(FC_MOVE_NAME, _winner)
#define FC_WINNER_TYPE FC_T
#define FC_WINNER_INT FC_MOVE_INT
#define FC_WINNER_LANES FC_L
#include "winner_tile.h"
#define FC_I FC_JOIN(FC_MOVE_NAME, _winner_integers)

static void FC_JOIN(FC_MOVE_NAME, _expand)(const void *dy, const uint8_t *codes, int64_t n, void *to, int64_t row,
                                           int64_t col)
{
    for (int64_t j = 0; j < n; j += FC_L) {
        FC_I value = {0}, code = {0};
        if (n - j >= FC_L) {
            value = *(const FC_I *)((const FC_T *)dy + j);
            code = FC_JOIN(FC_MOVE_NAME, _winner_load)(codes + j);
        } else {
            for (int64_t k = j; k < n; k++) {
                FC_MOVE_INT bits;
                memcpy(&bits, (const FC_T *)dy + k, sizeof bits);
                value[k - j] = bits;
                code[k - j] = codes[k];
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            *(FC_I *)((FC_T *)to + q / 2 * row + q % 2 * col + j) = value & (FC_I)(code == (FC_I){0} + q);
    }
}

static void FC_JOIN(FC_MOVE_NAME, _alive_sums)(const void *dy, const uint8_t *codes, int64_t cells, int64_t n, void *sums)
{
    const FC_T *const in = dy;
    FC_T *const out = sums;
    for (int64_t at = 0; at < n; at += FC_L) {
        /* The last vector is moved back over the one before it; fewer channels than a vector go one by one. */
        const int64_t j = at + FC_L <= n || n < FC_L ? at : n - FC_L;
        FC_V whole = {0};
        for (int64_t cell = 0; cell < cells;) {
            const int64_t end = min64(cells, cell + FC_SUM_TERMS);
            FC_V part = {0};
            for (; n >= FC_L && cell < end; cell++) {
                const FC_I alive = FC_JOIN(FC_MOVE_NAME, _winner_load)(codes + cell * n + j) < (FC_I){0} + FC_POOL_CODE_DEAD;
                part += (FC_V)(*(const FC_I *)(in + cell * n + j) & alive);
            }
            for (; cell < end; cell++)
                for (int64_t k = 0; k < n; k++)
                    part[k] += codes[cell * n + k] < FC_POOL_CODE_DEAD ? in[cell * n + k] : 0;
            whole += part;
        }
        FC_COPY(out + j, (const FC_T *)&whole, min64(n, FC_L));
    }
}

static void FC_JOIN(FC_MOVE_NAME, _plain)(const fc_winograd_problem *problem, int64_t n, int64_t g, int64_t o, int64_t i,
                                          int64_t j)
{
    const fc_winograd_problem *p = problem;
    const FC_T *in = (const FC_T *)p->in + n * p->in_n + g * p->c * p->in_c;
    const FC_T *w = (const FC_T *)p->w + g * p->w_g + o * p->w_o;
    const int64_t at = n * p->out_n + (g * p->k + o) * p->out_c + i * p->out_h + j * p->out_w;
    FC_T sum = p->bias ? ((const FC_T *)p->bias)[g * p->k + o] : 0;
    for (int64_t t = 0; t < p->kh * p->kw; t++) {
        const int64_t a = t / p->kw, b = t % p->kw, r = i + a - p->top, s = j + b - p->left;
        const int outside = r < 0 || r >= p->ih || s < 0 || s >= p->iw;
        if (outside && !p->taps_outside)
            continue;
        for (int64_t c = 0; c < p->c; c++) {
            const FC_T x = outside ? 0 : in[c * p->in_c + r * p->in_h + s * p->in_w];
            sum += x * w[c * p->w_c + a * p->w_a + b * p->w_b];
        }
    }
    if (p->residual)
        sum += ((const FC_T *)p->residual)[at];
    ((FC_T *)p->out)[at] = FC_CLAMPED(p, sum);
}

static const fc_winograd_move FC_MOVE_NAME = {
    .lanes = FC_L,
    .gather = FC_JOIN(FC_MOVE_NAME, _gather),
    .scatter = FC_JOIN(FC_MOVE_NAME, _scatter),
    .finish = FC_JOIN(FC_MOVE_NAME, _finish),
    .taps = FC_JOIN(FC_MOVE_NAME, _taps),
    .expand = FC_JOIN(FC_MOVE_NAME, _expand),
    .alive_sums = FC_JOIN(FC_MOVE_NAME, _alive_sums),
    .plain = FC_JOIN(FC_MOVE_NAME, _plain),
};

#undef FC_I
#undef FC_T
#undef FC_L
#undef FC_V
#undef FC_TRANSPOSE
#undef FC_CLAMPED
#undef FC_CLAMPED_VECTOR
#undef FC_COPY
#undef FC_ZIP_LOW
#undef FC_ZIP_HIGH
#undef FC_MOVE_NAME
#undef FC_MOVE_TYPE
#undef FC_MOVE_INT
#undef FC_MOVE_LANES
