/* Template of the GEMM microkernels (contract: fc_gemm_args in fastconv.h). Before including, define
 *   FC_GEMM_NAME      the full symbol, e.g. fc_f32_gemm_14x32__avx512
 *   FC_GEMM_PRODUCT   that of its product, e.g. fc_f32_product_14x32__avx512
 *   FC_GEMM_TYPE      float or double
 *   FC_GEMM_BYTES     bytes of a vector
 *   FC_GEMM_MR        rows of the tile, at most 14
 *   FC_GEMM_NV        vectors in a row: nr = FC_GEMM_NV * FC_GEMM_BYTES / sizeof(FC_GEMM_TYPE)
 *   FC_GEMM_UNROLL    steps of k that share the work on pointers and fetches: 1, 2 or 4
 * All accumulators stay in registers over a partial sum; each m has its own body with m constant, in a version for
 * operands in order, one for any, and one for rows that a single vector holds.
 * The tile follows Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), and the taps
 * BRGEMM (Georganas et al. 2020, arXiv 1906.06440). */
#include "fastconv.h"
#include "template.h"

#include <stddef.h>
#include <string.h>

#ifndef FC_GEMM_ONCE
#define FC_GEMM_ONCE

/* A number of A in all lanes. Spelled out where there is an instruction: gcc folds the broadcast into each FMA as a memory
 * operand, which loads it again for every column vector, and turns few row addresses into many pointers that spill. */
#if defined(__FMA__)
#define FC_BROADCAST(v, address, base, index, at) \
    do { \
        if (sizeof(v[0]) == 4) \
            __asm__ volatile("vbroadcastss %c3" address ", %0" \
                             : "=v"(v) : "r"(base), "r"(index), "i"(at), "m"(*(const char(*)[])(base))); \
        else \
            __asm__ volatile("vbroadcastsd %c3" address ", %0" \
                             : "=v"(v) : "r"(base), "r"(index), "i"(at), "m"(*(const char(*)[])(base))); \
    } while (0)
#elif defined(__x86_64__)
#define FC_IN_VECTOR_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define FC_IN_VECTOR_REGISTER(v) __asm__("" : "+w"(v))
#else
#define FC_IN_VECTOR_REGISTER(v) ((void)0)
#endif
#if defined(__x86_64__)
#define FC_PREFETCH(base, index, at) __asm__ volatile("prefetcht0 %c2(%0,%1)" : : "r"(base), "r"(index), "i"(at))
#else
#define FC_PREFETCH(base, index, at) __builtin_prefetch((const char *)(base) + (index) + (at))
#endif
#define FC_IN_MEMORY(state) __asm__("" : "+m"(state)) /* it waits there and leaves the registers to the loop */
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

/* Element `at` bytes after row r of a group whose rows are rs bytes apart (rs3 = 3*rs), in all lanes. */
FC_INLINE FC_V FC_JOIN(FC_GEMM_NAME, _broadcast)(const char *group, const int r, int64_t rs, int64_t rs3, const int at)
{
#if defined(__FMA__)
    FC_V v;
    if (r == 0)
        FC_BROADCAST(v, "(%1)", group, group, at);
    else if (r == 1)
        FC_BROADCAST(v, "(%1,%2)", group, rs, at);
    else if (r == 2)
        FC_BROADCAST(v, "(%1,%2,2)", group, rs, at);
    else if (r == 3)
        FC_BROADCAST(v, "(%1,%2)", group, rs3, at);
    else
        FC_BROADCAST(v, "(%1,%2,4)", group, rs, at);
#else
    const int64_t row = r == 3 ? rs3 : r * rs;
    FC_V v = *(const FC_GEMM_TYPE *)(group + row + at) - (FC_V){0};
    FC_IN_VECTOR_REGISTER(v);
#endif
    return v;
}

/* One step of k: a row of B by m elements of A, `at` bytes after the first of each row. Row addresses come from few
 * registers: groups of FC_GROUP rows. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _step)(FC_V (*acc)[FC_GEMM_NV], const int m, const int nv, const char *const *groups,
                                            const int at, int64_t rs, int64_t rs3, const FC_GEMM_TYPE *b, const int b_at,
                                            int64_t b_ahead)
{
    FC_V row[FC_GEMM_NV];
#pragma GCC unroll 4
    for (int v = 0; v < nv; v++) {
        row[v] = *(const FC_V *)((const char *)b + b_at + v * FC_GEMM_BYTES);
        if (v * FC_GEMM_BYTES % FC_LINE == 0)
            FC_PREFETCH(b, b_ahead, b_at + v * FC_GEMM_BYTES);
    }
#pragma GCC unroll 14
    for (int i = 0; i < m; i++) {
        const FC_V value = FC_JOIN(FC_GEMM_NAME, _broadcast)(groups[i / FC_GROUP], i % FC_GROUP, rs, rs3, at);
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++)
            FC_MULTIPLY_ADD(acc[i][v], value, row[v]);
    }
}

/* `steps` steps, FC_GEMM_UNROLL in a round, the odd ones first. in_order: rows of A and of B are contiguous, cs_a = 1 and
 * rs_b = nr. fetch: or NULL. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _steps)(const fc_gemm_args *args, FC_V (*acc)[FC_GEMM_NV], const int m, const int nv,
                                             const int in_order, const FC_GEMM_TYPE *a, const FC_GEMM_TYPE *b, int64_t steps,
                                             FC_FETCH *fetch)
{
    const int64_t cs_a = (in_order ? 1 : args->cs_a) * (int64_t)sizeof *a, rs_b = in_order ? nv * FC_LANES : args->rs_b;
    const int64_t b_ahead = args->b_ahead, rs = args->rs_a * (int64_t)sizeof *a, rs3 = 3 * rs;
    const char *groups[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        groups[i] = (const char *)a + i * FC_GROUP * rs;
#if !defined(__FMA__)
        __asm__("" : "+r"(groups[i])); /* one pointer a group, or gcc makes one a row */
#endif
    }
    for (; steps & (FC_GEMM_UNROLL - 1); steps--) {
        FC_JOIN(FC_GEMM_NAME, _step)(acc, m, nv, groups, 0, rs, rs3, b, 0, b_ahead);
        groups[0] += cs_a, groups[1] += cs_a, groups[2] += cs_a, b += rs_b;
    }
    for (; steps > 0; steps -= FC_GEMM_UNROLL) {
        if (fetch)
            FC_JOIN(FC_GEMM_NAME, _fetch)(args, fetch);
#pragma GCC unroll 4
        for (int u = 0; u < FC_GEMM_UNROLL; u++) {
            const int at = in_order ? u : 0;
            FC_JOIN(FC_GEMM_NAME, _step)(acc, m, nv, groups, at * (int)sizeof *a, rs, rs3, b, at * nv * FC_GEMM_BYTES, b_ahead);
            if (!in_order || u == FC_GEMM_UNROLL - 1) {
                const int64_t done = in_order ? FC_GEMM_UNROLL : 1;
                groups[0] += done * cs_a, groups[1] += done * cs_a, groups[2] += done * cs_a, b += done * rs_b;
            }
        }
    }
}

/* m rows of nv vectors; rows of n < nr go through a stack tile. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _body)(const fc_gemm_args *args, const int m, const int nv, const int in_order)
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
    struct {
        const FC_GEMM_TYPE *a, *b;
        int64_t tap, left, step, end; /* step: the next one; end: that after this partial sum */
    } at = {args->a, args->b, 0, 0, 0, args->terms ? args->terms : FC_SUM_TERMS};
    int partial = 0;
    FC_V whole[FC_GEMM_MR][FC_GEMM_NV]; /* of the partial sums before this one */
    for (; at.tap < args->taps; at.tap++) {
        if (args->a_offset)
            at.a = (const FC_GEMM_TYPE *)args->a + args->a_offset[at.tap];
        if (args->b_offset)
            at.b = (const FC_GEMM_TYPE *)args->b + args->b_offset[at.tap];
        if (args->first_step)
            at.step = args->first_step[at.tap];
        for (at.left = args->kc; at.left > 0;) {
            if (at.step >= at.end) {
#pragma GCC unroll 14
                for (int i = 0; i < m; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < nv; v++) {
                        if (partial)
                            acc[i][v] += whole[i][v];
                        whole[i][v] = acc[i][v];
                        acc[i][v] = (FC_V){0};
                    }
                const int64_t terms = args->terms ? args->terms : FC_SUM_TERMS;
                partial = 1;
                do
                    at.end += terms;
                while (at.end <= at.step);
            }
            const int64_t steps = at.left < at.end - at.step ? at.left : at.end - at.step;
            const FC_GEMM_TYPE *const a = at.a, *const b = at.b;
            at.left -= steps;
            at.step += steps;
            at.a += steps * (in_order ? 1 : args->cs_a);
            at.b += steps * (in_order ? nr : args->rs_b);
            FC_IN_MEMORY(at);
            FC_JOIN(FC_GEMM_NAME, _steps)(args, acc, m, nv, in_order, a, b, steps, &fetch);
        }
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

/* `product` of m rows: little else than the steps. */
FC_INLINE void FC_JOIN(FC_GEMM_NAME, _product_of)(const fc_gemm_args *args, const int m)
{
    const FC_GEMM_TYPE *a = args->a, *b = args->b;
    FC_GEMM_TYPE *const c = args->c;
    int64_t done = 0;
    do {
        FC_V acc[FC_GEMM_MR][FC_GEMM_NV];
        const int64_t left = args->kc - done, steps = left < args->terms ? left : args->terms;
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < FC_GEMM_NV; v++)
                acc[i][v] = (FC_V){0};
        FC_JOIN(FC_GEMM_NAME, _steps)(args, acc, m, FC_GEMM_NV, 1, a + done, b + done * FC_GEMM_NV * FC_LANES, steps, NULL);
        if (done > 0) {
#pragma GCC unroll 14
            for (int i = 0; i < m; i++)
#pragma GCC unroll 4
                for (int v = 0; v < FC_GEMM_NV; v++)
                    acc[i][v] += *(const FC_V *)(c + i * args->rs_c + v * FC_LANES);
        }
#pragma GCC unroll 14
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int v = 0; v < FC_GEMM_NV; v++)
                *(FC_V *)(c + i * args->rs_c + v * FC_LANES) = acc[i][v];
        done += steps;
    } while (done < args->kc);
}

/* A function for each number of rows, in two widths and two orders: all of them in one would leave gcc too few registers. */
#define FC_GEMM_FORM(form, rows, vectors, in_order) \
    static void FC_JOIN(FC_GEMM_NAME, form##rows)(const fc_gemm_args *args) \
    { \
        FC_JOIN(FC_GEMM_NAME, _body)(args, rows, vectors, in_order); \
    }
#define FC_GEMM_ROWS(rows) \
    FC_GEMM_FORM(_wide_, rows, FC_GEMM_NV, 0) \
    FC_GEMM_FORM(_wide_in_order_, rows, FC_GEMM_NV, 1) \
    FC_GEMM_FORM(_narrow_, rows, 1, 0) \
    static void FC_JOIN(FC_GEMM_NAME, _product_##rows)(const fc_gemm_args *args) \
    { \
        FC_JOIN(FC_GEMM_NAME, _product_of)(args, rows); \
    }
#define FC_GEMM_FORMS(rows) \
    {FC_JOIN(FC_GEMM_NAME, _wide_##rows), FC_JOIN(FC_GEMM_NAME, _wide_in_order_##rows), FC_JOIN(FC_GEMM_NAME, _narrow_##rows)}

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
    static void (*const bodies[][3])(const fc_gemm_args *) = {
        FC_GEMM_FORMS(1), FC_GEMM_FORMS(2), FC_GEMM_FORMS(3), FC_GEMM_FORMS(4),
#if FC_GEMM_MR >= 6
        FC_GEMM_FORMS(5), FC_GEMM_FORMS(6),
#endif
#if FC_GEMM_MR >= 8
        FC_GEMM_FORMS(7), FC_GEMM_FORMS(8),
#endif
#if FC_GEMM_MR >= 14
        FC_GEMM_FORMS(9), FC_GEMM_FORMS(10), FC_GEMM_FORMS(11), FC_GEMM_FORMS(12), FC_GEMM_FORMS(13),
        FC_GEMM_FORMS(14),
#endif
    };
    if (args->m > 0)
        bodies[args->m - 1][args->n <= FC_LANES && FC_GEMM_NV > 1 ? 2 :
                            args->cs_a == 1 && args->rs_b == FC_GEMM_NV * FC_LANES](args);
}

static void FC_GEMM_PRODUCT(const fc_gemm_args *args)
{
#define FC_GEMM_OF(rows) FC_JOIN(FC_GEMM_NAME, _product_##rows)
    static void (*const bodies[])(const fc_gemm_args *) = {
        FC_GEMM_OF(1), FC_GEMM_OF(2), FC_GEMM_OF(3), FC_GEMM_OF(4),
#if FC_GEMM_MR >= 6
        FC_GEMM_OF(5), FC_GEMM_OF(6),
#endif
#if FC_GEMM_MR >= 8
        FC_GEMM_OF(7), FC_GEMM_OF(8),
#endif
#if FC_GEMM_MR >= 14
        FC_GEMM_OF(9), FC_GEMM_OF(10), FC_GEMM_OF(11), FC_GEMM_OF(12), FC_GEMM_OF(13),
        FC_GEMM_OF(14),
#endif
    };
#undef FC_GEMM_OF
    if (args->m > 0)
        bodies[args->m - 1](args);
}

#undef FC_LANES
#undef FC_V
#undef FC_FETCH
#undef FC_GROUP
#undef FC_GEMM_FORM
#undef FC_GEMM_ROWS
#undef FC_GEMM_FORMS
#undef FC_GEMM_NAME
#undef FC_GEMM_PRODUCT
#undef FC_GEMM_TYPE
#undef FC_GEMM_BYTES
#undef FC_GEMM_MR
#undef FC_GEMM_NV
#undef FC_GEMM_UNROLL
