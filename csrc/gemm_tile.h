/* Template of the GEMM microkernels (contract: fc_gemm_args in fastconv.h). Before including, define
 *   FC_GEMM_NAME      the full symbol, e.g. fc_f32_gemm_14x32__avx512
 *   FC_GEMM_TYPE      float or double
 *   FC_GEMM_BYTES     bytes of a vector
 *   FC_GEMM_MR        rows of the tile, at most 14
 *   FC_GEMM_NV        vectors in a row: nr = FC_GEMM_NV * FC_GEMM_BYTES / sizeof(FC_GEMM_TYPE)
 *   FC_GEMM_UNROLL    steps of k that share the work on pointers and fetches
 * All accumulators stay in registers over the whole reduction; each m has its own body with m constant, in a version
 * for full rows of vectors and one for rows that a single vector holds.
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
    const int64_t rs_b = args->rs_b, cs_a = args->cs_a, b_ahead = args->b_ahead;
    /* Row addresses from few registers: groups of five rows, base + {0, 1, 2, 3, 4} * rs. */
    int64_t rs = args->rs_a, rs3 = 3 * rs;
    FC_IN_REGISTER(rs);
    FC_IN_REGISTER(rs3);
    for (int64_t t = 0; t < args->taps; t++) {
        const FC_GEMM_TYPE *a0 = args->a_offset ? (const FC_GEMM_TYPE *)args->a + args->a_offset[t] : a_next;
        const FC_GEMM_TYPE *b = args->b_offset ? (const FC_GEMM_TYPE *)args->b + args->b_offset[t] : b_next;
        const FC_GEMM_TYPE *a5 = a0 + 5 * rs, *a10 = a0 + 10 * rs;
        FC_IN_REGISTER(a5);
        FC_IN_REGISTER(a10);
        for (int64_t k = args->kc; k > 0;) {
            const int steps = FC_GEMM_UNROLL == 1 || k >= FC_GEMM_UNROLL ? FC_GEMM_UNROLL : 1;
            FC_JOIN(FC_GEMM_NAME, _fetch)(args, &fetch);
            for (int u = 0; u < steps; u++) {
                FC_V row[FC_GEMM_NV];
#pragma GCC unroll 4
                for (int v = 0; v < nv; v++) {
                    row[v] = *(const FC_V *)(b + v * FC_LANES);
                    if (v * FC_GEMM_BYTES % FC_LINE == 0)
                        __builtin_prefetch((const char *)(b + v * FC_LANES) + b_ahead);
                }
#pragma GCC unroll 14
                for (int i = 0; i < m; i++) {
                    const FC_GEMM_TYPE *base = i < 5 ? a0 : i < 10 ? a5 : a10;
                    const int r = i % 5;
                    const FC_GEMM_TYPE value = r == 0 ? base[0] : r == 1 ? base[rs] : r == 2 ? base[2 * rs] :
                                               r == 3 ? base[rs3] : base[4 * rs];
                    FC_V broadcast = value - (FC_V){0};
                    FC_IN_VECTOR_REGISTER(broadcast);
#pragma GCC unroll 4
                    for (int v = 0; v < nv; v++)
                        acc[i][v] += broadcast * row[v];
                }
                a0 += cs_a;
                a5 += cs_a;
                a10 += cs_a;
                b += rs_b;
            }
            k -= steps;
        }
        a_next = a0;
        b_next = b;
    }

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

#define FC_GEMM_CASE(rows) \
    case rows: \
        FC_JOIN(FC_GEMM_NAME, _body)(args, rows, nv); \
        break

FC_INLINE void FC_JOIN(FC_GEMM_NAME, _rows)(const fc_gemm_args *args, const int nv)
{
    switch (args->m) {
        FC_GEMM_CASE(1);
        FC_GEMM_CASE(2);
        FC_GEMM_CASE(3);
        FC_GEMM_CASE(4);
#if FC_GEMM_MR >= 6
        FC_GEMM_CASE(5);
        FC_GEMM_CASE(6);
#endif
#if FC_GEMM_MR >= 8
        FC_GEMM_CASE(7);
        FC_GEMM_CASE(8);
#endif
#if FC_GEMM_MR >= 14
        FC_GEMM_CASE(9);
        FC_GEMM_CASE(10);
        FC_GEMM_CASE(11);
        FC_GEMM_CASE(12);
        FC_GEMM_CASE(13);
        FC_GEMM_CASE(14);
#endif
    }
}

static void FC_JOIN(FC_GEMM_NAME, _narrow)(const fc_gemm_args *args)
{
    FC_JOIN(FC_GEMM_NAME, _rows)(args, 1);
}

static void FC_GEMM_NAME(const fc_gemm_args *args)
{
    if (FC_GEMM_NV > 1 && args->n <= FC_LANES)
        FC_JOIN(FC_GEMM_NAME, _narrow)(args);
    else
        FC_JOIN(FC_GEMM_NAME, _rows)(args, FC_GEMM_NV);
}

#undef FC_LANES
#undef FC_V
#undef FC_FETCH
#undef FC_GEMM_CASE
#undef FC_GEMM_NAME
#undef FC_GEMM_TYPE
#undef FC_GEMM_BYTES
#undef FC_GEMM_MR
#undef FC_GEMM_NV
#undef FC_GEMM_UNROLL
