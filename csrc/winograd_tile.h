/* Template of the Winograd transforms F(tile x tile, 3 x 3); contracts: csrc/winograd.h. Before including, define
 *   FC_WINOGRAD_WEIGHTS, FC_WINOGRAD_INPUT, FC_WINOGRAD_OUTPUT   the full symbols
 *   FC_WINOGRAD_TYPE     float or double
 *   FC_WINOGRAD_LANES    elements in a vector
 *   FC_WINOGRAD_TILE     2 or 4
 * One lane is one channel. The 1-D transforms mirror fastconv/winograd.py (points 0, +-1 and 0, +-5/8, +-3/2, infinity;
 * Lavin & Gray 2016, arXiv 1509.09308); every constant of B and A is exact in float. */
#include "template.h"
#include "winograd.h"

#include <stddef.h>
#include <string.h>

#ifndef FC_WINOGRAD_ONCE
#define FC_WINOGRAD_ONCE

/* Hides where a pointer comes from: else all 36 addresses become loop invariants, far more than there are registers. */
#define FC_WINOGRAD_OPAQUE(p) __asm__("" : "+r"(p))

/* base + i * stride for i < 6 out of two registers and the scaled addressing modes. */
#define FC_WINOGRAD_AT(base, base3, i, stride) ((i) < 3 ? (base) + (i) * (stride) : (base3) + ((i) - 3) * (stride))
#endif

#define FC_T FC_WINOGRAD_TYPE
#define FC_M FC_WINOGRAD_TILE
#define FC_ALPHA (FC_WINOGRAD_TILE + 2)
#define FC_V FC_JOIN(FC_WINOGRAD_INPUT, _vector)
#define FC_NAMED(suffix) FC_JOIN(FC_WINOGRAD_INPUT, suffix)

typedef FC_T FC_V __attribute__((vector_size(FC_WINOGRAD_LANES * sizeof(FC_T)), aligned(sizeof(FC_T)), may_alias));

/* Weights are transformed in double, in half vectors when T is float: as many doubles fill a register. */
#define FC_HALF ((int)(FC_WINOGRAD_LANES * sizeof(FC_T) / sizeof(double)))
#define FC_D FC_NAMED(_doubles)
#define FC_N FC_NAMED(_narrow)
typedef double FC_D __attribute__((vector_size(FC_WINOGRAD_LANES * sizeof(FC_T)), may_alias));
typedef FC_T FC_N __attribute__((vector_size(FC_HALF * sizeof(FC_T)), aligned(sizeof(FC_T)), may_alias));

#if FC_WINOGRAD_TILE == 2

FC_INLINE void FC_NAMED(_g)(const FC_D *w, FC_D *u) /* G w */
{
    const FC_D even = 0.5 * (w[0] + w[2]), odd = 0.5 * w[1];
    u[0] = w[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = w[2];
}

FC_INLINE void FC_NAMED(_bt)(const FC_V *d, FC_V *v) /* B^T d */
{
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
}

FC_INLINE void FC_NAMED(_at)(const FC_V *m, FC_V *y) /* A^T m */
{
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
}

#else

FC_INLINE void FC_NAMED(_g)(const FC_D *w, FC_D *u)
{
    const double a = 5.0 / 8, b = 3.0 / 2;
    const double na = 2048.0 / 2975, nb = 128.0 / 1071; /* 1 / |2 p^2 (a^2 - b^2)| at p = a and p = b */
    const FC_D even_a = na * w[0] + na * a * a * w[2], odd_a = na * a * w[1];
    const FC_D even_b = nb * w[0] + nb * b * b * w[2], odd_b = nb * b * w[1];
    u[0] = 256.0 / 225 * w[0]; /* 1 / (a^2 b^2) */
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = w[2];
}

FC_INLINE void FC_NAMED(_bt)(const FC_V *d, FC_V *v)
{
    const FC_T a = (FC_T)0.625, b = (FC_T)1.5, a2 = (FC_T)0.390625, b2 = (FC_T)2.25;
    const FC_T product = (FC_T)0.87890625, sum = (FC_T)2.640625; /* a^2 b^2, a^2 + b^2 */
    const FC_V even_a = b2 * d[2] - d[4], odd_a = b2 * d[1] - d[3];
    const FC_V even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
    v[0] = product * d[0] - (sum * d[2] - d[4]);
    v[1] = even_a + a * odd_a;
    v[2] = even_a - a * odd_a;
    v[3] = even_b + b * odd_b;
    v[4] = even_b - b * odd_b;
    v[5] = product * d[1] - (sum * d[3] - d[5]);
}

FC_INLINE void FC_NAMED(_at)(const FC_V *m, FC_V *y)
{
    const FC_T a = (FC_T)0.625, b = (FC_T)1.5, a2 = (FC_T)0.390625, b2 = (FC_T)2.25;
    const FC_T a3 = (FC_T)0.244140625, b3 = (FC_T)3.375;
    const FC_V sum_a = m[1] + m[2], diff_a = m[1] - m[2];
    const FC_V sum_b = m[3] + m[4], diff_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = a * diff_a + b * diff_b;
    y[2] = a2 * sum_a + b2 * sum_b;
    y[3] = a3 * diff_a + (b3 * diff_b + m[5]);
}

#endif

static void FC_WINOGRAD_WEIGHTS(const void *taps, int64_t n, void *u, int64_t stride)
{
    for (int64_t j = 0; j < n; j += FC_HALF) {
        const FC_T *w = (const FC_T *)taps + j;
        FC_T *out = (FC_T *)u + j;
        FC_D rows[3][FC_ALPHA], result[FC_ALPHA];
#pragma GCC unroll 3
        for (int a = 0; a < 3; a++) {
            FC_D cells[3];
#pragma GCC unroll 3
            for (int b = 0; b < 3; b++)
                cells[b] = __builtin_convertvector(*(const FC_N *)(w + (3 * a + b) * n), FC_D);
            FC_NAMED(_g)(cells, rows[a]);
        }
#pragma GCC unroll 6
        for (int s = 0; s < FC_ALPHA; s++) {
            const FC_D column[3] = {rows[0][s], rows[1][s], rows[2][s]};
            FC_NAMED(_g)(column, result);
#pragma GCC unroll 6
            for (int r = 0; r < FC_ALPHA; r++)
                *(FC_N *)(out + (r * FC_ALPHA + s) * stride) = __builtin_convertvector(result[r], FC_N);
        }
    }
}

static void FC_WINOGRAD_INPUT(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride)
{
    row *= sizeof(FC_T);
    col *= sizeof(FC_T);
    stride *= sizeof(FC_T);
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)d + j * sizeof(FC_T);
        char *out = (char *)v + j * sizeof(FC_T);
        FC_V columns[FC_ALPHA][FC_ALPHA]; /* [s][r]: B^T applied to column s */
#pragma GCC unroll 6
        for (int s = 0; s < FC_ALPHA; s++) {
            FC_V cells[FC_ALPHA];
            const char *in3 = in + 3 * row;
            FC_WINOGRAD_OPAQUE(in3);
#pragma GCC unroll 6
            for (int r = 0; r < FC_ALPHA; r++)
                cells[r] = *(const FC_V *)FC_WINOGRAD_AT(in, in3, r, row);
            FC_NAMED(_bt)(cells, columns[s]);
            in += col;
            FC_WINOGRAD_OPAQUE(in);
        }
#pragma GCC unroll 6
        for (int r = 0; r < FC_ALPHA; r++) {
            FC_V cells[FC_ALPHA], result[FC_ALPHA];
#pragma GCC unroll 6
            for (int s = 0; s < FC_ALPHA; s++)
                cells[s] = columns[s][r];
            FC_NAMED(_bt)(cells, result);
            char *out3 = out + 3 * stride;
            FC_WINOGRAD_OPAQUE(out3);
#pragma GCC unroll 6
            for (int s = 0; s < FC_ALPHA; s++)
                *(FC_V *)FC_WINOGRAD_AT(out, out3, s, stride) = result[s];
            out += FC_ALPHA * stride;
            FC_WINOGRAD_OPAQUE(out);
        }
    }
}

/* epilogue 0: neither residual nor clamp. */
FC_INLINE int FC_NAMED(_inverse)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                                 const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col,
                                 const int epilogue)
{
    const FC_V lo = (FC_T)(clamp ? problem->lo : 0) - (FC_V){0}, hi = (FC_T)(clamp ? problem->hi : 0) - (FC_V){0};
    FC_V probe = {0}; /* stays 0 while all values are finite, else NaN */
    stride *= sizeof(FC_T);
    row *= sizeof(FC_T);
    col *= sizeof(FC_T);
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)m + j * sizeof(FC_T);
        const FC_V start = *(const FC_V *)((const FC_T *)bias + j);
        FC_V columns[FC_ALPHA][FC_M];
#pragma GCC unroll 6
        for (int s = 0; s < FC_ALPHA; s++) {
            FC_V cells[FC_ALPHA];
            const char *in3 = in + 3 * FC_ALPHA * stride;
            FC_WINOGRAD_OPAQUE(in3);
#pragma GCC unroll 6
            for (int r = 0; r < FC_ALPHA; r++)
                cells[r] = *(const FC_V *)FC_WINOGRAD_AT(in, in3, r, FC_ALPHA * stride);
            FC_NAMED(_at)(cells, columns[s]);
            in += stride;
            FC_WINOGRAD_OPAQUE(in);
        }
        int64_t at = j * sizeof(FC_T);
#pragma GCC unroll 4
        for (int r = 0; r < FC_M; r++) {
            FC_V cells[FC_ALPHA], result[FC_M];
#pragma GCC unroll 6
            for (int s = 0; s < FC_ALPHA; s++)
                cells[s] = columns[s][r];
            FC_NAMED(_at)(cells, result);
            char *out = (char *)y + at, *out3 = out + 3 * col;
            FC_WINOGRAD_OPAQUE(out);
            FC_WINOGRAD_OPAQUE(out3);
#pragma GCC unroll 4
            for (int s = 0; s < FC_M; s++) {
                FC_V value = result[s];
                probe += value * (FC_T)0;
                value += start;
                if (epilogue && residual)
                    value += *(const FC_V *)((const char *)residual + at + s * col);
                if (epilogue && clamp) {
                    __typeof__(value < lo) below = value < lo;
                    value = (FC_V)((below & (__typeof__(below))lo) | (~below & (__typeof__(below))value));
                    __typeof__(value > hi) above = value > hi;
                    value = (FC_V)((above & (__typeof__(above))hi) | (~above & (__typeof__(above))value));
                }
                *(FC_V *)FC_WINOGRAD_AT(out, out3, s, col) = value;
            }
            at += row;
        }
    }
    __typeof__(probe != probe) bad = probe != probe;
    int64_t words[FC_WINOGRAD_LANES * sizeof(FC_T) / 8], any = 0;
    memcpy(words, &bad, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        any |= words[i];
    return any != 0;
}

static int FC_WINOGRAD_OUTPUT(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                              const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col)
{
    if (!residual && !clamp)
        return FC_NAMED(_inverse)(problem, m, stride, n, bias, NULL, 0, y, row, col, 0);
    return FC_NAMED(_inverse)(problem, m, stride, n, bias, residual, clamp, y, row, col, 1);
}

#undef FC_T
#undef FC_M
#undef FC_ALPHA
#undef FC_V
#undef FC_NAMED
#undef FC_HALF
#undef FC_D
#undef FC_N
#undef FC_WINOGRAD_WEIGHTS
#undef FC_WINOGRAD_INPUT
#undef FC_WINOGRAD_OUTPUT
#undef FC_WINOGRAD_TYPE
#undef FC_WINOGRAD_LANES
#undef FC_WINOGRAD_TILE
