/* Template of the GEMM microkernels (contract: fc_gemm_args in fastconv.h). Before including, define
 *   FC_GEMM_NAME      the full symbol, e.g. fc_f32_gemm_14x32__avx512
 *   FC_GEMM_TYPE      float or double
 *   FC_GEMM_BYTES     bytes of a vector
 *   FC_GEMM_MR        rows of the tile, at most 14
 *   FC_GEMM_NV        vectors in a row: nr = FC_GEMM_NV * FC_GEMM_BYTES / sizeof(FC_GEMM_TYPE)
 *   FC_GEMM_UNROLL    steps of k that share the work on pointers and fetches
 * All accumulators stay in registers over a partial sum; each m has its own body with m constant, in a version for
 * full rows of vectors and one for rows that a single vector holds.
 * The tile follows Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), and the taps
 * BRGEMM (Georganas et al. 2020, arXiv 1906.06440). */
#include "fastconv.h"
#include "template.h"

#include <stddef.h>
#include <string.h>

#ifndef FC_GEMM_ONCE
#define FC_GEMM_ONCE

/* The compiler must see one register here: it neither folds the broadcast into each FMA as a memory operand (that
 * loads it again for every column vector) nor turns 14 row addresses into 14 pointers that spill. */
#if defined(__x86_64__)
#define FC_IN_VECTOR_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define FC_IN_VECTOR_REGISTER(v) __asm__("" : "+w"(v))
#else
#define FC_IN_VECTOR_REGISTER(v) ((void)0)
#endif
#define FC_IN_REGISTER(p) __asm__("" : "+r"(p))
#define FC_LINE 64 /* bytes */
#endif

#define FC_LANES ((int)(FC_GEMM_BYTES / sizeof(FC_GEMM_TYPE)))
#define FC_V FC_JOIN(FC_GEMM_NAME, _vector)
#define FC_FETCH FC_JOIN(FC_GEMM_NAME, _lines)
#define FC_GROUP (FC_GEMM_MR <= 8 ? 3 : 5)

typedef FC_GEMM_TYPE FC_V __attribute__((vector_size(FC_GEMM_BYTES), aligned(sizeof(FC_GEMM_TYPE)), may_alias));

FC_INLINE FC_V FC_JOIN(FC_GEMM_NAME, _clamp)(const fc_gemm_args *args, FC_V v)
{
    /* (v < lo) is all ones or all zeros in integer lanes, 0 for NaN: NaN passes both tests. */
    const FC_V lo = (FC_GEMM_TYPE)args->lo - (FC_V){0}, hi = (FC_GEMM_TYPE)args->hi - (FC_V){0};
    __typeof__(v < lo) below = v < lo, above = v > hi;
    v = (FC_V)((below & (__typeof__(below))lo) | (~below & (__typeof__(below))v));
    return (FC_V)((above & (__typeof__(above))hi) | (~above & (__typeof__(above))v));
}

/* The end of a tile whose rows are narrower than its vectors: m rows of n finished one by one. */
static __attribute__((noinline)) void FC_JOIN(FC_GEMM_NAME, _edge)(const fc_gemm_args *args, int m,
                                                                   const FC_GEMM_TYPE *edge)
{
    for (int i = 0; i < m; i++)
        for (int64_t j = 0; j < args->n; j++) {
            FC_GEMM_TYPE v = edge[i * FC_GEMM_NV * FC_LANES + j];
            if (args->accumulate)
                v += ((const FC_GEMM_TYPE *)args->c)[i * args->rs_c + j];
            if (args->last && args->residual)
                v += ((const FC_GEMM_TYPE *)args->residual)[i * args->rs_r + j];
            if (args->last && args->clamp) {
                v = v < (FC_GEMM_TYPE)args->lo ? (FC_GEMM_TYPE)args->lo : v;
                v = v > (FC_GEMM_TYPE)args->hi ? (FC_GEMM_TYPE)args->hi : v;
            }
            ((FC_GEMM_TYPE *)args->c)[i * args->rs_c + j] = v;
        }
}

/* Bring near, one cache line a call: the tile of C, line after line of all its rows, then args->next likewise. Spread over
 * the sum like this the lines of C cost nothing; asked for all at once they stall it (0.83x on 64 channels far away). */
typedef struct FC_FETCH {
    const char *line;
    int64_t step, left, rows, lines;
    int next; /* whether args->next is still to come */
} FC_FETCH;

FC_INLINE void FC_JOIN(FC_GEMM_NAME, _fetch)(const fc_gemm_args *args, FC_FETCH *f)
{
    __builtin_prefetch(f->line);
    f->line += f->step;
    if (__builtin_expect(--f->left > 0, 1))
        return;
    f->line += FC_LINE - f->rows * f->step;
    f->left = f->rows;
    if (--f->lines > 0)
        return;
    if (f->next) {
        *f = (FC_FETCH){args->next, args->rs_next * (int64_t)sizeof(FC_GEMM_TYPE), args->next_rows, args->next_rows,
                        args->next_lines, 0};
    } else { /* nothing is left: stay where the L1 has it */
        f->line = (const char *)args;
        f->step = 0;
        f->left = INT64_MAX;
    }
}

/* One step of k: a row of B by m elements of A. Row addresses come from few registers: groups of FC_GROUP rows. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _step)(FC_V (*acc)[FC_GEMM_NV], const int m, const int nv,
                                            const FC_GEMM_TYPE *const *groups, int64_t rs, int64_t rs3,
                                            const FC_GEMM_TYPE *b, int64_t b_ahead)
{
    FC_V row[FC_GEMM_NV];
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        row[v] = *(const FC_V *)(b + v * FC_LANES);
        if (v * FC_GEMM_BYTES % FC_LINE == 0)
            __builtin_prefetch((const char *)(b + v * FC_LANES) + b_ahead);
    }
#pragma GCC unroll 14
    for (int i = 0; i < m; i++) {
        const FC_GEMM_TYPE *base = groups[i / FC_GROUP];
        const int r = i % FC_GROUP;
        const FC_GEMM_TYPE value = r == 0 ? base[0] : r == 1 ? base[rs] : r == 2 ? base[2 * rs] : r == 3 ? base[rs3] :
                                   base[4 * rs];
        FC_V broadcast = value - (FC_V){0};
        FC_IN_VECTOR_REGISTER(broadcast);
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++)
            FC_MULTIPLY_ADD(acc[i][v], broadcast, row[v]);
    }
}

/* `steps` steps, from *a and *b, which move on. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _steps)(const fc_gemm_args *args, FC_V (*acc)[FC_GEMM_NV], const int m, const int nv,
                                             const FC_GEMM_TYPE **a, const FC_GEMM_TYPE **b, int64_t steps,
                                             const int64_t cs_a, const int64_t rs_b, FC_FETCH *fetch)
{
    int64_t rs = args->rs_a, rs3 = 3 * rs;
    const int64_t b_ahead = args->b_ahead;
    const FC_GEMM_TYPE *groups[3], *row = *b;
    FC_IN_REGISTER(rs);
    FC_IN_REGISTER(rs3);
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        groups[i] = *a + i * FC_GROUP * rs;
        FC_IN_REGISTER(groups[i]);
    }
    *a += steps * cs_a;
    *b += steps * rs_b;
    for (; steps >= FC_GEMM_UNROLL; steps -= FC_GEMM_UNROLL) {
        FC_JOIN(FC_GEMM_NAME, _fetch)(args, fetch);
#pragma GCC unroll 8
        for (int u = 0; u < FC_GEMM_UNROLL; u++) {
            FC_JOIN(FC_GEMM_NAME, _step)(acc, m, nv, groups, rs, rs3, row, b_ahead);
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++)
                groups[i] += cs_a;
            row += rs_b;
        }
    }
    for (; FC_GEMM_UNROLL > 1 && steps > 0; steps--) {
        FC_JOIN(FC_GEMM_NAME, _step)(acc, m, nv, groups, rs, rs3, row, b_ahead);
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++)
            groups[i] += cs_a;
        row += rs_b;
    }
}

/* m rows of nv vectors; rows of n < nr go through a stack tile. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _body)(const fc_gemm_args *args, const int m, const int nv)
{
    FC_V acc[FC_GEMM_MR][FC_GEMM_NV];
    const int nr = nv * FC_LANES;
    FC_GEMM_TYPE *const c = args->c;

    if (args->bias_col && !args->accumulate) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] = *(const FC_V *)((const FC_GEMM_TYPE *)args->bias_col + v * FC_LANES);
    } else {
        const FC_GEMM_TYPE *bias = args->accumulate ? NULL : args->bias_row;
#pragma GCC unroll 14
        for (int i = 0; i < m; i++) {
            const FC_GEMM_TYPE start = bias ? bias[i] : 0;
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] = start - (FC_V){0};
        }
    }

    FC_FETCH fetch = {(const char *)c, args->rs_c * (int64_t)sizeof(FC_GEMM_TYPE), m, m,
                      (args->n * (int64_t)sizeof(FC_GEMM_TYPE) + FC_LINE - 1) / FC_LINE, args->next_lines > 0};
    const FC_GEMM_TYPE *a_next = args->a, *b_next = args->b;
    const int in_order = args->cs_a == 1 && args->rs_b == nr; /* rows of pixels by packed weights */
    FC_V whole[FC_GEMM_MR][FC_GEMM_NV];                       /* of the partial sums before this one */
    const int64_t terms = args->terms ? args->terms : FC_SUM_TERMS;
    int64_t step = 0, end = terms; /* the next one, and that after this partial sum */
    int partial = 0;
    for (int64_t t = 0; t < args->taps; t++) {
        const FC_GEMM_TYPE *a = args->a_offset ? (const FC_GEMM_TYPE *)args->a + args->a_offset[t] : a_next;
        const FC_GEMM_TYPE *b = args->b_offset ? (const FC_GEMM_TYPE *)args->b + args->b_offset[t] : b_next;
        step = args->first_step ? args->first_step[t] : step;
        for (int64_t left = args->kc; left > 0;) {
            if (step >= end) {
#pragma GCC unroll 14
                for (int i = 0; i < m; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < nv; v++) {
                        if (partial)
                            acc[i][v] += whole[i][v];
                        whole[i][v] = acc[i][v];
                        acc[i][v] = (FC_V){0};
                    }
                partial = 1;
                end = step - step % terms + terms;
            }
            const int64_t steps = left < end - step ? left : end - step;
            left -= steps;
            step += steps;
            if (in_order)
                FC_JOIN(FC_GEMM_NAME, _steps)(args, acc, m, nv, &a, &b, steps, 1, nr, &fetch);
            else
                FC_JOIN(FC_GEMM_NAME, _steps)(args, acc, m, nv, &a, &b, steps, args->cs_a, args->rs_b, &fetch);
        }
        a_next = a;
        b_next = b;
    }
    if (partial)
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] += whole[i][v];

    if (args->n != nr) {
        FC_GEMM_TYPE edge[FC_GEMM_MR][FC_GEMM_NV * FC_LANES];
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                *(FC_V *)(&edge[i][v * FC_LANES]) = acc[i][v];
        FC_JOIN(FC_GEMM_NAME, _edge)(args, m, &edge[0][0]);
        return;
    }
    if (args->accumulate) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)(c + i * args->rs_c + v * FC_LANES);
    }
    if (args->last && args->residual) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] += *(const FC_V *)((const FC_GEMM_TYPE *)args->residual + i * args->rs_r + v * FC_LANES);
    }
    if (args->last && args->clamp) {
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < nv; v++)
                acc[i][v] = FC_JOIN(FC_GEMM_NAME, _clamp)(args, acc[i][v]);
    }
#pragma GCC unroll 14
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++)
            *(FC_V *)(c + i * args->rs_c + v * FC_LANES) = acc[i][v];
}

/* A function for each number of rows, in two widths: all of them in one would leave gcc too few registers for any. */
#define FC_GEMM_ROWS(rows) \
    static void FC_JOIN(FC_GEMM_NAME, _wide_##rows)(const fc_gemm_args *args) \
    { \
        FC_JOIN(FC_GEMM_NAME, _body)(args, rows, FC_GEMM_NV); \
    } \
    static void FC_JOIN(FC_GEMM_NAME, _narrow_##rows)(const fc_gemm_args *args) \
    { \
        FC_JOIN(FC_GEMM_NAME, _body)(args, rows, 1); \
    }
#define FC_GEMM_WIDTHS(rows) {FC_JOIN(FC_GEMM_NAME, _wide_##rows), FC_JOIN(FC_GEMM_NAME, _narrow_##rows)}

FC_GEMM_ROWS(1)
FC_GEMM_ROWS(2)
FC_GEMM_ROWS(3)
FC_GEMM_ROWS(4)
#if FC_GEMM_MR >= 6
FC_GEMM_ROWS(5)
FC_GEMM_ROWS(6)
#endif
#if FC_GEMM_MR >= 8
FC_GEMM_ROWS(7)
FC_GEMM_ROWS(8)
#endif
#if FC_GEMM_MR >= 14
FC_GEMM_ROWS(9)
FC_GEMM_ROWS(10)
FC_GEMM_ROWS(11)
FC_GEMM_ROWS(12)
FC_GEMM_ROWS(13)
FC_GEMM_ROWS(14)
#endif

static void FC_GEMM_NAME(const fc_gemm_args *args)
{
    static void (*const bodies[][2])(const fc_gemm_args *) = {
        FC_GEMM_WIDTHS(1), FC_GEMM_WIDTHS(2), FC_GEMM_WIDTHS(3), FC_GEMM_WIDTHS(4),
#if FC_GEMM_MR >= 6
        FC_GEMM_WIDTHS(5), FC_GEMM_WIDTHS(6),
#endif
#if FC_GEMM_MR >= 8
        FC_GEMM_WIDTHS(7), FC_GEMM_WIDTHS(8),
#endif
#if FC_GEMM_MR >= 14
        FC_GEMM_WIDTHS(9), FC_GEMM_WIDTHS(10), FC_GEMM_WIDTHS(11), FC_GEMM_WIDTHS(12), FC_GEMM_WIDTHS(13),
        FC_GEMM_WIDTHS(14),
#endif
    };
    if (args->m > 0)
        bodies[args->m - 1][FC_GEMM_NV > 1 && args->n <= FC_LANES](args);
}

#undef FC_LANES
#undef FC_V
#undef FC_FETCH
#undef FC_GROUP
#undef FC_GEMM_ROWS
#undef FC_GEMM_WIDTHS
#undef FC_GEMM_NAME
#undef FC_GEMM_TYPE
#undef FC_GEMM_BYTES
#undef FC_GEMM_MR
#undef FC_GEMM_NV
#undef FC_GEMM_UNROLL
