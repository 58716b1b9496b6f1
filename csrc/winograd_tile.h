/* Template of the Winograd transforms F(m x m, r x r) and F(m, r); contracts: csrc/winograd.h. Before including, define
 *   FC_WINOGRAD_TYPE     float or double
 *   FC_WINOGRAD_INT      the signed integer of its size
 *   FC_WINOGRAD_LANES    elements in a vector
 * which stay for the next tile, and
 *   FC_WINOGRAD_NAME     the full symbol of the fc_winograd_kernel, e.g. fc_f32_winograd_f4x3__avx512
 *   FC_WINOGRAD_M, FC_WINOGRAD_R   outputs and taps of a tile
 *   FC_WINOGRAD_LINE     only if it is one-dimensional
 * One lane is one channel. The constants are those of csrc/winograd_points.h. */
#include "template.h"
#include "winograd.h"
#include "winograd_points.h"

#include <stddef.h>
#include <string.h>

#ifndef FC_WINOGRAD_ONCE
#define FC_WINOGRAD_ONCE

/* Hides where a pointer comes from: else all alpha^2 addresses become loop invariants, far more than there are
 * registers. */
#define FC_WINOGRAD_OPAQUE(p) __asm__("" : "+r"(p))

/* start + i * stride for i < 12 out of few registers and the scaled addressing modes. */
typedef struct fc_winograd_bases {
    char *at[4];
} fc_winograd_bases;

FC_INLINE fc_winograd_bases fc_winograd_bases_of(const void *start, int64_t stride, const int count)
{
    fc_winograd_bases bases = {{(char *)start}};
#pragma GCC unroll 4
    for (int i = 1; i < 4; i++)
        if (3 * i < count) {
            bases.at[i] = (char *)start + 3 * i * stride;
            FC_WINOGRAD_OPAQUE(bases.at[i]);
        }
    return bases;
}

#define FC_WINOGRAD_AT(bases, i, stride) ((bases).at[(i) / 3] + (i) % 3 * (stride))
#endif

/* m + r - 1 as a literal, for names are made of it. */
#if FC_WINOGRAD_M + FC_WINOGRAD_R == 5
#define FC_ALPHA 4
#elif FC_WINOGRAD_M + FC_WINOGRAD_R == 7
#define FC_ALPHA 6
#elif FC_WINOGRAD_M + FC_WINOGRAD_R == 9
#define FC_ALPHA 8
#else
#define FC_ALPHA 10
#endif

#if defined(FC_WINOGRAD_LINE)
#define FC_LINE 1
#else
#define FC_LINE 0
#endif

#define FC_T FC_WINOGRAD_TYPE
#define FC_M FC_WINOGRAD_M
#define FC_R FC_WINOGRAD_R
#define FC_PAIRS (FC_ALPHA / 2 - 1)
#define FC_NAMED(suffix) FC_JOIN(FC_WINOGRAD_NAME, suffix)
#define FC_V FC_NAMED(_winner_vector)
#define FC_CONSTANT(what) FC_JOIN(FC_JOIN(fc_winograd_, what), FC_JOIN(_, FC_ALPHA))

/* Unrolled, the values between the two transforms would pass through the stack anyway where they outnumber the
 * registers, in far more code. */
#if FC_ALPHA > 6
#define FC_OUTER_UNROLL _Pragma("GCC unroll 1")
#else
#define FC_OUTER_UNROLL _Pragma("GCC unroll 6")
#endif

#define FC_WINNER_NAME FC_NAMED(_winner)
#define FC_WINNER_TYPE FC_T
#define FC_WINNER_INT FC_WINOGRAD_INT
#define FC_WINNER_LANES FC_WINOGRAD_LANES
#include "winner_tile.h"

/* Weights are transformed in double, in half vectors when T is float: as many doubles fill a register. */
#define FC_HALF ((int)(FC_WINOGRAD_LANES * sizeof(FC_T) / sizeof(double)))
#define FC_D FC_NAMED(_doubles)
#define FC_N FC_NAMED(_narrow)
typedef double FC_D __attribute__((vector_size(FC_WINOGRAD_LANES * sizeof(FC_T)), may_alias));
typedef FC_T FC_N __attribute__((vector_size(FC_HALF * sizeof(FC_T)), aligned(sizeof(FC_T)), may_alias));

/* Spelled out where there is an instruction: gcc 12 widens one half after the other, one of them through memory. */
FC_INLINE FC_D FC_NAMED(_wide)(const FC_T *narrow)
{
#if defined(__FMA__)
    if (sizeof(FC_T) == sizeof(float)) {
        FC_D wide;
        __asm__("vcvtps2pd %1, %0" : "=v"(wide) : "m"(*(const FC_N *)narrow));
        return wide;
    }
#endif
    return __builtin_convertvector(*(const FC_N *)narrow, FC_D);
}

FC_INLINE void FC_NAMED(_g)(const FC_D *w, FC_D *u) /* G w */
{
    u[0] = FC_CONSTANT(zero_norm) * w[0];
#pragma GCC unroll 8
    for (int j = 0; j < FC_PAIRS; j++) {
        const double p = FC_CONSTANT(points)[j];
        double power = FC_CONSTANT(norms)[j];
        FC_D even = power * w[0], odd = power * p * w[1];
#pragma GCC unroll 8
        for (int k = 2; k < FC_R; k += 2) {
            power *= p * p;
            even += power * w[k];
            if (k + 1 < FC_R)
                odd += power * p * w[k + 1];
        }
        u[2 * j + 1] = even + odd;
        u[2 * j + 2] = even - odd;
    }
    u[FC_ALPHA - 1] = w[FC_R - 1];
}

FC_INLINE void FC_NAMED(_bt)(const FC_V *d, FC_V *v) /* B^T d */
{
    FC_V zero = (FC_T)FC_CONSTANT(zero)[0] * d[0], infinity = (FC_T)FC_CONSTANT(infinity)[0] * d[1];
#pragma GCC unroll 8
    for (int k = 1; k <= FC_PAIRS; k++) {
        zero += (FC_T)FC_CONSTANT(zero)[k] * d[2 * k];
        infinity += (FC_T)FC_CONSTANT(infinity)[k] * d[2 * k + 1];
    }
    v[0] = zero;
    v[FC_ALPHA - 1] = infinity;
#pragma GCC unroll 8
    for (int j = 0; j < FC_PAIRS; j++) {
        FC_V even = (FC_T)FC_CONSTANT(pairs)[j][0] * d[2], odd = (FC_T)FC_CONSTANT(pairs)[j][0] * d[1];
#pragma GCC unroll 8
        for (int k = 1; k < FC_PAIRS; k++) {
            even += (FC_T)FC_CONSTANT(pairs)[j][k] * d[2 * k + 2];
            odd += (FC_T)FC_CONSTANT(pairs)[j][k] * d[2 * k + 1];
        }
        v[2 * j + 1] = even + (FC_T)FC_CONSTANT(points)[j] * odd;
        v[2 * j + 2] = even - (FC_T)FC_CONSTANT(points)[j] * odd;
    }
}

FC_INLINE void FC_NAMED(_b)(const FC_V *v, FC_V *d) /* B v */
{
    FC_V sum[FC_PAIRS], difference[FC_PAIRS];
#pragma GCC unroll 8
    for (int j = 0; j < FC_PAIRS; j++) {
        sum[j] = v[2 * j + 1] + v[2 * j + 2];
        difference[j] = (FC_T)FC_CONSTANT(points)[j] * (v[2 * j + 1] - v[2 * j + 2]);
    }
#pragma GCC unroll 8
    for (int k = 0; k <= FC_PAIRS; k++) {
        d[2 * k] = (FC_T)FC_CONSTANT(zero)[k] * v[0];
        d[2 * k + 1] = (FC_T)FC_CONSTANT(infinity)[k] * v[FC_ALPHA - 1];
#pragma GCC unroll 8
        for (int j = 0; j < FC_PAIRS; j++) {
            if (k > 0)
                d[2 * k] += (FC_T)FC_CONSTANT(pairs)[j][k > 0 ? k - 1 : 0] * sum[j];
            if (k < FC_PAIRS)
                d[2 * k + 1] += (FC_T)FC_CONSTANT(pairs)[j][k < FC_PAIRS ? k : 0] * difference[j];
        }
    }
}

FC_INLINE void FC_NAMED(_at)(const FC_V *m, FC_V *y) /* A^T m */
{
    FC_V sum[FC_PAIRS], difference[FC_PAIRS];
    double power[FC_PAIRS];
#pragma GCC unroll 8
    for (int j = 0; j < FC_PAIRS; j++) {
        sum[j] = m[2 * j + 1] + m[2 * j + 2];
        difference[j] = m[2 * j + 1] - m[2 * j + 2];
        power[j] = 1;
    }
#pragma GCC unroll 8
    for (int i = 0; i < FC_M; i++) {
        FC_V value = (FC_T)power[0] * (i % 2 ? difference[0] : sum[0]);
#pragma GCC unroll 8
        for (int j = 1; j < FC_PAIRS; j++)
            value += (FC_T)power[j] * (i % 2 ? difference[j] : sum[j]);
        if (i == 0)
            value += m[0];
        if (i == FC_M - 1)
            value += m[FC_ALPHA - 1];
        y[i] = value;
#pragma GCC unroll 8
        for (int j = 0; j < FC_PAIRS; j++)
            power[j] *= FC_CONSTANT(points)[j];
    }
}

FC_INLINE void FC_NAMED(_a)(const FC_V *y, FC_V *m) /* A y */
{
    m[0] = y[0];
    m[FC_ALPHA - 1] = y[FC_M - 1];
#pragma GCC unroll 8
    for (int j = 0; j < FC_PAIRS; j++) {
        const double p = FC_CONSTANT(points)[j];
        double power = p * p;
        FC_V even = y[0], odd = (FC_T)p * y[1];
#pragma GCC unroll 8
        for (int i = 2; i < FC_M; i += 2) {
            even += (FC_T)power * y[i];
            odd += (FC_T)(power * p) * y[i + 1];
            power *= p * p;
        }
        m[2 * j + 1] = even + odd;
        m[2 * j + 2] = even - odd;
    }
}

FC_INLINE void FC_NAMED(_gt)(const FC_D *u, FC_D *w) /* G^T u */
{
#pragma GCC unroll 8
    for (int k = 0; k < FC_R; k++) {
        FC_D sum = {0};
#pragma GCC unroll 8
        for (int j = 0; j < FC_PAIRS; j++) {
            double power = FC_CONSTANT(norms)[j];
#pragma GCC unroll 8
            for (int i = 0; i < k; i++)
                power *= FC_CONSTANT(points)[j];
            sum += power * (k % 2 ? u[2 * j + 1] - u[2 * j + 2] : u[2 * j + 1] + u[2 * j + 2]);
        }
        if (k == 0)
            sum += FC_CONSTANT(zero_norm) * u[0];
        if (k == FC_R - 1)
            sum += u[FC_ALPHA - 1];
        w[k] = sum;
    }
}

static void FC_NAMED(_weights)(const void *taps, int64_t n, void *u, int64_t stride)
{
    for (int64_t j = 0; j < n; j += FC_HALF) {
        const FC_T *w = (const FC_T *)taps + j;
        FC_T *out = (FC_T *)u + j;
        FC_D rows[FC_R][FC_ALPHA];
#pragma GCC unroll 8
        for (int a = 0; a < (FC_LINE ? 1 : FC_R); a++) {
            FC_D cells[FC_R];
#pragma GCC unroll 8
            for (int b = 0; b < FC_R; b++)
                cells[b] = FC_NAMED(_wide)(w + (FC_R * a + b) * n);
            FC_NAMED(_g)(cells, rows[a]);
        }
#if FC_LINE
#pragma GCC unroll 10
        for (int s = 0; s < FC_ALPHA; s++)
            *(FC_N *)(out + s * stride) = __builtin_convertvector(rows[0][s], FC_N);
#else
        FC_OUTER_UNROLL
        for (int s = 0; s < FC_ALPHA; s++) {
            FC_D column[FC_R], result[FC_ALPHA];
#pragma GCC unroll 8
            for (int a = 0; a < FC_R; a++)
                column[a] = rows[a][s];
            FC_NAMED(_g)(column, result);
#pragma GCC unroll 8
            for (int r = 0; r < FC_ALPHA; r++)
                *(FC_N *)(out + (r * FC_ALPHA + s) * stride) = __builtin_convertvector(result[r], FC_N);
        }
#endif
    }
}

/* to[i] = B^T, or A if adjoint, applied to the `count` vectors at from, step bytes apart. */
FC_INLINE void FC_NAMED(_load)(const char *from, int64_t step, FC_V *to, const int count, const int adjoint)
{
    const fc_winograd_bases bases = fc_winograd_bases_of(from, step, count);
    FC_V cells[FC_ALPHA];
#pragma GCC unroll 10
    for (int i = 0; i < count; i++)
        cells[i] = *(const FC_V *)FC_WINOGRAD_AT(bases, i, step);
    if (adjoint)
        FC_NAMED(_a)(cells, to);
    else
        FC_NAMED(_bt)(cells, to);
}

FC_INLINE void FC_NAMED(_store)(char *to, int64_t step, const FC_V *values, const int count)
{
    const fc_winograd_bases bases = fc_winograd_bases_of(to, step, count);
#pragma GCC unroll 10
    for (int i = 0; i < count; i++)
        *(FC_V *)FC_WINOGRAD_AT(bases, i, step) = values[i];
}

/* B^T d B of alpha x alpha cells, or A d A^T of m x m. */
FC_INLINE void FC_NAMED(_spread)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride,
                                 const int count, const int adjoint)
{
    row *= sizeof(FC_T);
    col *= sizeof(FC_T);
    stride *= sizeof(FC_T);
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)d + j * sizeof(FC_T);
        char *out = (char *)v + j * sizeof(FC_T);
#if FC_LINE
        FC_V result[FC_ALPHA];
        FC_NAMED(_load)(in, row, result, count, adjoint);
        FC_NAMED(_store)(out, stride, result, FC_ALPHA);
#else
        FC_V columns[FC_ALPHA][FC_ALPHA]; /* [s][r]: the transform of column s */
        FC_OUTER_UNROLL
        for (int s = 0; s < count; s++) {
            FC_NAMED(_load)(in, row, columns[s], count, adjoint);
            in += col;
            FC_WINOGRAD_OPAQUE(in);
        }
        FC_OUTER_UNROLL
        for (int r = 0; r < FC_ALPHA; r++) {
            FC_V cells[FC_ALPHA], result[FC_ALPHA];
#pragma GCC unroll 8
            for (int s = 0; s < count; s++)
                cells[s] = columns[s][r];
            if (adjoint)
                FC_NAMED(_a)(cells, result);
            else
                FC_NAMED(_bt)(cells, result);
            FC_NAMED(_store)(out, stride, result, FC_ALPHA);
            out += FC_ALPHA * stride;
            FC_WINOGRAD_OPAQUE(out);
        }
#endif
    }
    (void)col;
}

static void FC_NAMED(_input)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride)
{
    FC_NAMED(_spread)(d, row, col, n, v, stride, FC_ALPHA, 0);
}

static void FC_NAMED(_output_adjoint)(const void *dy, int64_t row, int64_t col, int64_t n, void *dm, int64_t stride)
{
    FC_NAMED(_spread)(dy, row, col, n, dm, stride, FC_M, 1);
}

/* Whether any lane is not 0: a probe stays 0 while all values times 0 are, else it is NaN. */
FC_INLINE int FC_NAMED(_any)(FC_V probe)
{
    __typeof__(probe != probe) bad = probe != probe;
    int64_t words[FC_WINOGRAD_LANES * sizeof(FC_T) / 8], any = 0;
    memcpy(words, &bad, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        any |= words[i];
    return any != 0;
}

static int FC_NAMED(_weights_adjoint)(const void *du, int64_t stride, int64_t n, void *taps)
{
    FC_V probe = {0};
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        FC_T *const out = (FC_T *)taps + j;
#pragma GCC unroll 2
        for (int half = 0; half < FC_WINOGRAD_LANES; half += FC_HALF) {
            const FC_T *u = (const FC_T *)du + j + half;
            FC_D columns[FC_LINE ? 1 : FC_ALPHA][FC_R]; /* [s][a]: G^T applied to column s */
            FC_OUTER_UNROLL
            for (int s = 0; s < (FC_LINE ? 1 : FC_ALPHA); s++) {
                FC_D cells[FC_ALPHA];
#pragma GCC unroll 10
                for (int r = 0; r < FC_ALPHA; r++)
                    cells[r] = FC_NAMED(_wide)(u + (FC_LINE ? r : r * FC_ALPHA + s) * stride);
                FC_NAMED(_gt)(cells, columns[s]);
            }
#if FC_LINE
#pragma GCC unroll 8
            for (int b = 0; b < FC_R; b++)
                *(FC_N *)(out + b * n + half) = __builtin_convertvector(columns[0][b], FC_N);
#else
#pragma GCC unroll 8
            for (int a = 0; a < FC_R; a++) {
                FC_D cells[FC_ALPHA], row[FC_R];
#pragma GCC unroll 8
                for (int s = 0; s < FC_ALPHA; s++)
                    cells[s] = columns[s][a];
                FC_NAMED(_gt)(cells, row);
#pragma GCC unroll 8
                for (int b = 0; b < FC_R; b++)
                    *(FC_N *)(out + (FC_R * a + b) * n + half) = __builtin_convertvector(row[b], FC_N);
            }
#endif
        }
#pragma GCC unroll 1
        for (int t = 0; t < (FC_LINE ? FC_R : FC_R * FC_R); t++)
            probe += *(const FC_V *)(out + t * n) * (FC_T)0;
    }
    return FC_NAMED(_any)(probe);
}

static int FC_NAMED(_input_adjoint)(const void *dv, int64_t stride, int64_t n, void *d, int64_t row, int64_t col)
{
    FC_V probe = {0};
    stride *= sizeof(FC_T);
    row *= sizeof(FC_T);
    col *= sizeof(FC_T);
#if FC_LINE
    const int64_t across = stride;
    const int lines = 1;
#else
    const int64_t across = FC_ALPHA * stride;
    const int lines = FC_ALPHA;
#endif
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)dv + j * sizeof(FC_T);
        char *out = (char *)d + j * sizeof(FC_T);
        FC_V columns[FC_LINE ? 1 : FC_ALPHA][FC_ALPHA]; /* [s][r]: B applied to column s */
        FC_OUTER_UNROLL
        for (int s = 0; s < lines; s++) {
            const fc_winograd_bases bases = fc_winograd_bases_of(in, across, FC_ALPHA);
            FC_V cells[FC_ALPHA];
#pragma GCC unroll 10
            for (int r = 0; r < FC_ALPHA; r++)
                cells[r] = *(const FC_V *)FC_WINOGRAD_AT(bases, r, across);
            FC_NAMED(_b)(cells, columns[s]);
            in += stride;
            FC_WINOGRAD_OPAQUE(in);
        }
        FC_OUTER_UNROLL
        for (int r = 0; r < lines; r++) {
            const int64_t step = FC_LINE ? row : col;
            const fc_winograd_bases bases = fc_winograd_bases_of(out, step, FC_ALPHA);
            FC_V result[FC_ALPHA];
#if FC_LINE
            memcpy(result, columns[0], sizeof result);
#else
            FC_V cells[FC_ALPHA];
#pragma GCC unroll 8
            for (int s = 0; s < FC_ALPHA; s++)
                cells[s] = columns[s][r];
            FC_NAMED(_b)(cells, result);
#endif
#pragma GCC unroll 10
            for (int s = 0; s < FC_ALPHA; s++) {
                probe += result[s] * (FC_T)0;
                *(FC_V *)FC_WINOGRAD_AT(bases, s, step) += result[s];
            }
            out += row;
            FC_WINOGRAD_OPAQUE(out);
        }
    }
    return FC_NAMED(_any)(probe);
}

/* Stores m outputs, col bytes apart; what follows is the epilogue of all. */
FC_INLINE void FC_NAMED(_finish)(FC_V *result, FC_V *probe, FC_V start, const char *residual, int clamp, FC_V lo,
                                 FC_V hi, char *to, int64_t col, const int epilogue)
{
#pragma GCC unroll 8
    for (int s = 0; s < FC_M; s++) {
        FC_V value = result[s];
        *probe += value * (FC_T)0;
        value += start;
        if (epilogue && residual)
            value += *(const FC_V *)(residual + s * col);
        if (epilogue && clamp) {
            __typeof__(value < lo) below = value < lo;
            value = (FC_V)((below & (__typeof__(below))lo) | (~below & (__typeof__(below))value));
            __typeof__(value > hi) above = value > hi;
            value = (FC_V)((above & (__typeof__(above))hi) | (~above & (__typeof__(above))value));
        }
        result[s] = value;
    }
    FC_NAMED(_store)(to, col, result, FC_M);
}

/* epilogue 0: neither residual nor clamp. */
FC_INLINE int FC_NAMED(_inverse)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                                 const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col,
                                 const int epilogue)
{
    const FC_V lo = (FC_T)(clamp ? problem->lo : 0) - (FC_V){0}, hi = (FC_T)(clamp ? problem->hi : 0) - (FC_V){0};
    FC_V probe = {0};
    stride *= sizeof(FC_T);
    row *= sizeof(FC_T);
    col *= sizeof(FC_T);
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)m + j * sizeof(FC_T);
        const FC_V start = *(const FC_V *)((const FC_T *)bias + j);
        int64_t at = j * sizeof(FC_T);
#if FC_LINE
        const int64_t across = stride;
#else
        const int64_t across = FC_ALPHA * stride;
#endif
        FC_V columns[FC_ALPHA][FC_M]; /* [s][r]: A^T applied to column s */
        FC_OUTER_UNROLL
        for (int s = 0; s < (FC_LINE ? 1 : FC_ALPHA); s++) {
            const fc_winograd_bases bases = fc_winograd_bases_of(in, across, FC_ALPHA);
            FC_V cells[FC_ALPHA];
#pragma GCC unroll 10
            for (int r = 0; r < FC_ALPHA; r++)
                cells[r] = *(const FC_V *)FC_WINOGRAD_AT(bases, r, across);
            FC_NAMED(_at)(cells, columns[s]);
            in += stride;
            FC_WINOGRAD_OPAQUE(in);
        }
#if FC_LINE
        FC_NAMED(_finish)(columns[0], &probe, start, residual ? (const char *)residual + at : NULL, clamp, lo, hi,
                          (char *)y + at, row, epilogue);
#else
        FC_OUTER_UNROLL
        for (int r = 0; r < FC_M; r++) {
            FC_V cells[FC_ALPHA], result[FC_M];
#pragma GCC unroll 8
            for (int s = 0; s < FC_ALPHA; s++)
                cells[s] = columns[s][r];
            FC_NAMED(_at)(cells, result);
            char *out = (char *)y + at;
            FC_WINOGRAD_OPAQUE(out);
            FC_NAMED(_finish)(result, &probe, start, residual ? (const char *)residual + at : NULL, clamp, lo, hi, out,
                              col, epilogue);
            at += row;
        }
#endif
    }
    return FC_NAMED(_any)(probe);
}

static int FC_NAMED(_output)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                             const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col)
{
    if (!residual && !clamp)
        return FC_NAMED(_inverse)(problem, m, stride, n, bias, NULL, 0, y, row, col, 0);
    return FC_NAMED(_inverse)(problem, m, stride, n, bias, residual, clamp, y, row, col, 1);
}

#if !FC_LINE
static int FC_NAMED(_output_pooled)(const void *m, int64_t stride, int64_t n, const void *bias, void *y, uint8_t *codes,
                                    int64_t row, int64_t col)
{
    FC_V probe = {0};
    stride *= sizeof(FC_T);
    for (int64_t j = 0; j < n; j += FC_WINOGRAD_LANES) {
        const char *in = (const char *)m + j * sizeof(FC_T);
        const FC_V start = *(const FC_V *)((const FC_T *)bias + j);
        FC_V columns[FC_ALPHA][FC_M]; /* [s][r]: A^T applied to column s */
        FC_OUTER_UNROLL
        for (int s = 0; s < FC_ALPHA; s++) {
            const fc_winograd_bases bases = fc_winograd_bases_of(in, FC_ALPHA * stride, FC_ALPHA);
            FC_V cells[FC_ALPHA];
#pragma GCC unroll 10
            for (int r = 0; r < FC_ALPHA; r++)
                cells[r] = *(const FC_V *)FC_WINOGRAD_AT(bases, r, FC_ALPHA * stride);
            FC_NAMED(_at)(cells, columns[s]);
            in += stride;
            FC_WINOGRAD_OPAQUE(in);
        }
        FC_OUTER_UNROLL
        for (int r = 0; r < FC_M; r += 2) {
            FC_V result[2][FC_M];
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                FC_V cells[FC_ALPHA];
#pragma GCC unroll 8
                for (int s = 0; s < FC_ALPHA; s++)
                    cells[s] = columns[s][r + i];
                FC_NAMED(_at)(cells, result[i]);
            }
#pragma GCC unroll 4
            for (int s = 0; s < FC_M; s += 2) {
                const FC_V sums[4] = {result[0][s] + start, result[0][s + 1] + start, result[1][s] + start,
                                      result[1][s + 1] + start};
                const int64_t at = r / 2 * row + s / 2 * col + j;
                FC_V value;
                FC_NAMED(_winner_integers) code;
                FC_NAMED(_winner_of)(sums, 0, &value, &code);
                probe += ((sums[0] + sums[1]) + (sums[2] + sums[3])) * (FC_T)0;
                *(FC_V *)((FC_T *)y + at) = value;
                FC_NAMED(_winner_store)(codes + at, code);
            }
        }
    }
    return FC_NAMED(_any)(probe);
}
#endif

static const fc_winograd_kernel FC_WINOGRAD_NAME = {
    .m = FC_M,
    .r = FC_R,
    .line = FC_LINE,
    .weights = FC_NAMED(_weights),
    .input = FC_NAMED(_input),
    .output = FC_NAMED(_output),
#if !FC_LINE
    .output_pooled = FC_NAMED(_output_pooled),
#endif
    .output_adjoint = FC_NAMED(_output_adjoint),
    .weights_adjoint = FC_NAMED(_weights_adjoint),
    .input_adjoint = FC_NAMED(_input_adjoint),
};

#undef FC_T
#undef FC_M
#undef FC_R
#undef FC_ALPHA
#undef FC_LINE
#undef FC_PAIRS
#undef FC_NAMED
#undef FC_V
#undef FC_CONSTANT
#undef FC_OUTER_UNROLL
#undef FC_HALF
#undef FC_D
#undef FC_N
#undef FC_WINOGRAD_NAME
#undef FC_WINOGRAD_M
#undef FC_WINOGRAD_R
#undef FC_WINOGRAD_LINE
