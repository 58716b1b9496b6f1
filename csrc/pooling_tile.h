/* Template of the pooling kernels (contract: fc_pool2d_kernels in fastconv.h). Before including, define
 *   FC_POOL_NAME    the table's full symbol, e.g. fc_f32_pool2d__avx512
 *   FC_POOL_TYPE    float or double
 *   FC_POOL_INT     the signed integer of the same size: flat indices inside a plane are tracked in it
 *   FC_POOL_LANES   elements of a vector, and FC_POOL_IOTA, the list 0, 1, ... of that many
 * and, where the ISA does better than plain C, FC_POOL_LOAD_PART, FC_POOL_STORE_PART, FC_POOL_LOAD_INDICES,
 * FC_POOL_STORE_INDICES, FC_POOL_MAXIMUM, and FC_POOL_MASK, the type of a comparison's result, with FC_POOL_GREATER,
 * FC_POOL_EQUAL, FC_POOL_IS_NAN, FC_POOL_PICK, FC_POOL_PICK_INDEX and FC_POOL_LANES_BELOW.
 *
 * NHWC: vectors along the channels, accumulators in registers over the window. NCHW: vectors along the width, the
 * windows of some rows are reduced down their columns into row buffers and then along those; strides of 2 are split by
 * shuffles. A maximum is first taken as if all cells were `numbers`, while a sum of the cells shows whether one was a
 * NaN (inf - inf does too); then it is taken again with the comparisons that let a NaN win. The gradients are in
 * pooling_backward_tile.h. */
#include "pooling_windows.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#ifndef FC_POOL_ONCE
#define FC_POOL_ONCE
enum {
    SPAN = 1024,        /* input columns of a row buffer: 4 or 8 KB of stack, inside L1 beside the rows it reads */
    SPAN_SLACK = 64,    /* vectors that start inside a row buffer may end past it */
    ROWS_BYTES = 16384, /* row buffers filled before they are read: a load of what was just stored elsewhere stalls */
    TAPS = 16,          /* window cells of a row that are picked by shuffles */
};
#endif

#define T FC_POOL_TYPE
#define INT FC_POOL_INT
#define L FC_POOL_LANES
#define P(name) FC_JOIN(FC_POOL_NAME, _##name)
#define V P(vector)
#define I P(integers)
#define M P(mask)

typedef T V __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
typedef INT I __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
#ifdef FC_POOL_MASK
typedef FC_POOL_MASK M; /* a bit a lane */
#else
typedef I M; /* -1 or 0 in each lane */
#endif

#define IOTA ((I){FC_POOL_IOTA})
#define SPLAT(value) ((T)(value) - (V){0})
#define SPLAT_INT(value) ((I){0} + (INT)(value))
#define LOWEST SPLAT(-INFINITY)

/* ---- Vectors ------------------------------------------------------------------------------------------------- */

/* The first n lanes from memory, the others from fill. */
FC_INLINE V P(load)(const T *p, int n, V fill)
{
    if (n == L)
        return *(const V *)p;
#ifdef FC_POOL_LOAD_PART
    return (V)FC_POOL_LOAD_PART(p, n, fill);
#else
    for (int l = 0; l < n; l++)
        fill[l] = p[l];
    return fill;
#endif
}

FC_INLINE void P(store)(T *p, V v, int n)
{
    if (n == L) {
        *(V *)p = v;
        return;
    }
#ifdef FC_POOL_STORE_PART
    FC_POOL_STORE_PART(p, n, v);
#else
    for (int l = 0; l < n; l++)
        p[l] = v[l];
#endif
}

#ifdef FC_POOL_MASK
FC_INLINE M P(greater)(V a, V b) { return FC_POOL_GREATER(a, b); }
FC_INLINE M P(equal)(I a, I b) { return FC_POOL_EQUAL(a, b); }
FC_INLINE M P(is_nan)(V v) { return FC_POOL_IS_NAN(v); }
FC_INLINE V P(pick)(M mask, V yes, V no) { return (V)FC_POOL_PICK(mask, yes, no); }
FC_INLINE I P(pick_index)(M mask, I yes, I no) { return (I)FC_POOL_PICK_INDEX(mask, yes, no); }
FC_INLINE M P(lanes_below)(int n) { return FC_POOL_LANES_BELOW(n); }
FC_INLINE int P(any)(M mask) { return mask != 0; }
#else
FC_INLINE M P(greater)(V a, V b) { return (M)(a > b); }
FC_INLINE M P(equal)(I a, I b) { return a == b; }
FC_INLINE M P(is_nan)(V v) { return (M)(v != v); }
FC_INLINE I P(pick_index)(M mask, I yes, I no) { return (mask & yes) | (~mask & no); }
FC_INLINE V P(pick)(M mask, V yes, V no) { return (V)P(pick_index)(mask, (I)yes, (I)no); }
FC_INLINE M P(lanes_below)(int n) { return IOTA < (INT)n; }
FC_INLINE int P(any)(M mask)
{
    INT some = 0;
    for (int l = 0; l < L; l++)
        some |= mask[l];
    return some != 0;
}
#endif

FC_INLINE V P(keep)(M mask, V v) { return P(pick)(mask, v, (V){0}); }

/* Of numbers; best stays where both are equal. */
FC_INLINE V P(maximum)(V best, V v)
{
#ifdef FC_POOL_MAXIMUM
    return (V)FC_POOL_MAXIMUM(best, v);
#else
    return P(pick)(P(greater)(v, best), v, best);
#endif
}

/* The larger of both, a NaN of either before any number. */
FC_INLINE V P(larger)(V best, V v)
{
    return P(pick)(P(greater)(v, best) | P(is_nan)(v), v, best);
}

/* The same with the index it came from; best stays where both are equal, v wins where both are NaN. */
FC_INLINE void P(take_larger)(const int numbers, V *best, I *where, V v, I index)
{
    M wins = P(greater)(v, *best);
    if (!numbers)
        wins |= P(is_nan)(v);
    *best = numbers ? P(maximum)(*best, v) : P(pick)(wins, v, *best);
    *where = P(pick_index)(wins, index, *where);
}

FC_INLINE V P(combine)(const int op, const int numbers, V a, V b)
{
    if (op == FC_AVG_POOL)
        return a + b;
    return numbers ? P(maximum)(a, b) : P(larger)(a, b);
}

FC_INLINE V P(identity)(const int op) { return SPLAT(op == FC_MAX_POOL ? -INFINITY : 0); }

/* What a sum is multiplied by: one rounding more than a quotient, a tenth of its time. */
FC_INLINE T P(inverse)(int64_t divisor)
{
    return (T)(1.0 / (double)divisor);
}

FC_INLINE void P(store_indices)(int64_t *p, I where, int n)
{
#ifdef FC_POOL_STORE_INDICES
    FC_POOL_STORE_INDICES(p, where, n);
#else
    INT lanes[L];
    memcpy(lanes, &where, sizeof lanes);
    for (int l = 0; l < n; l++)
        p[l] = lanes[l];
#endif
}

/* Lanes past n, and those with an index that does not fit, hold no cell. */
FC_INLINE I P(load_indices)(const int64_t *p, int n)
{
#ifdef FC_POOL_LOAD_INDICES
    return (I)FC_POOL_LOAD_INDICES(p, n);
#else
    INT lanes[L];
    for (int l = 0; l < L; l++)
        lanes[l] = l < n && p[l] == (INT)p[l] ? (INT)p[l] : -1;
    I where;
    memcpy(&where, lanes, sizeof lanes);
    return where;
#endif
}

/* p[0], p[stride], ..., n of them. For a stride of 2 and n = L reads p[2 L - 1] too. */
FC_INLINE V P(load_strided)(const T *p, int64_t stride, int n)
{
    if (stride == 1)
        return *(const V *)p;
    if (stride == 2)
        return __builtin_shuffle(*(const V *)p, *(const V *)(p + L), 2 * IOTA);
    T lanes[L] = {0};
    for (int l = 0; l < n; l++)
        lanes[l] = p[l * stride];
    V v;
    memcpy(&v, lanes, sizeof v);
    return v;
}

/* Writes even[0], odd[0], even[1], ...: 2 n elements. */
FC_INLINE void P(store_interleaved)(T *p, V even, V odd, int64_t n)
{
    const I low = (IOTA >> 1) + (IOTA & 1) * L;
    P(store)(p, __builtin_shuffle(even, odd, low), (int)min64(n, L));
    if (n > L)
        P(store)(p + L, __builtin_shuffle(even, odd, low + L / 2), (int)(n - L));
}

/* All lanes combined, in all lanes. */
FC_INLINE V P(reduce)(const int op, const int numbers, V v)
{
    for (int half = L / 2; half > 0; half /= 2)
        v = P(combine)(op, numbers, v, __builtin_shuffle(v, IOTA ^ half));
    return v;
}

/* acc combined with n contiguous elements. */
FC_INLINE V P(segment)(const int op, const int numbers, V acc, const T *p, int64_t n)
{
    if (n >= 4 * L) {
        V a1 = P(identity)(op), a2 = a1, a3 = a1;
        for (; n >= 4 * L; n -= 4 * L, p += 4 * L) {
            acc = P(combine)(op, numbers, acc, *(const V *)p);
            a1 = P(combine)(op, numbers, a1, *(const V *)(p + L));
            a2 = P(combine)(op, numbers, a2, *(const V *)(p + 2 * L));
            a3 = P(combine)(op, numbers, a3, *(const V *)(p + 3 * L));
        }
        acc = P(combine)(op, numbers, P(combine)(op, numbers, acc, a1), P(combine)(op, numbers, a2, a3));
    }
    for (; n >= L; n -= L, p += L)
        acc = P(combine)(op, numbers, acc, *(const V *)p);
    if (n > 0)
        acc = P(combine)(op, numbers, acc, P(load)(p, (int)n, P(identity)(op)));
    return acc;
}

/* Whether a NaN is among n contiguous elements; also, needlessly, where both infinities are. */
static int P(has_nan)(const T *p, int64_t n)
{
    return P(any)(P(is_nan)(P(segment)(FC_AVG_POOL, 1, (V){0}, p, n)));
}

/* ---- Forward, NHWC ------------------------------------------------------------------------------------------- */

/* nv vectors of channels of one output pixel; n lanes of the last (only vector) when not full. `seen` collects a sum of
 * the cells of a maximum. */
FC_INLINE void P(pixel)(const int op, const int indexed, const int numbers, const fc_pool2d_shape *s, const T *x,
                        window rows, window columns, T inverse, T *y, int64_t *indices, V *seen,
                        const int nv, const int n)
{
    V acc[4], sum[4];
    I where[4];
    for (int v = 0; v < nv; v++) {
        acc[v] = P(identity)(op);
        sum[v] = (V){0};
        if (indexed)
            where[v] = SPLAT_INT(rows.first * s->iw + columns.first);
    }
    for (int64_t i = rows.first; i < rows.end; i += rows.step) {
        V row[4]; /* a sum in two levels: its error grows with kh + kw, not kh * kw */
        for (int v = 0; v < nv; v++)
            row[v] = (V){0};
        for (int64_t j = columns.first; j < columns.end; j += columns.step) {
            const T *cell = x + (i * s->iw + j) * s->c;
            for (int v = 0; v < nv; v++) {
                const V value = P(load)(cell + v * L, n, P(identity)(op));
                if (indexed)
                    P(take_larger)(numbers, &acc[v], &where[v], value, SPLAT_INT(i * s->iw + j));
                else if (op == FC_MAX_POOL)
                    acc[v] = P(combine)(op, numbers, acc[v], value);
                else
                    row[v] += value;
                if (op == FC_MAX_POOL && numbers)
                    sum[v] += value;
            }
        }
        if (op == FC_AVG_POOL)
            for (int v = 0; v < nv; v++)
                acc[v] += row[v];
    }
    for (int v = 0; v < nv; v++) {
        if (op == FC_AVG_POOL)
            acc[v] *= SPLAT(inverse);
        P(store)(y + v * L, acc[v], n);
        if (indexed)
            P(store_indices)(indices + v * L, where[v], n);
        if (op == FC_MAX_POOL && numbers)
            *seen += sum[v];
    }
}

/* The same for a whole window of 2x2; a: its first cell. */
FC_INLINE void P(pixel_2x2)(const int op, const int indexed, const int numbers, const fc_pool2d_shape *s, const T *a,
                            INT index, T inverse, T *y, int64_t *indices, V *seen, const int nv, const int n)
{
    const T *b = a + s->iw * s->c;
    for (int v = 0; v < nv; v++, a += L, b += L) {
        const V a0 = P(load)(a, n, (V){0}), a1 = P(load)(a + s->c, n, (V){0});
        const V b0 = P(load)(b, n, (V){0}), b1 = P(load)(b + s->c, n, (V){0});
        V result = a0;
        if (indexed) {
            I where = SPLAT_INT(index), below = SPLAT_INT(index + s->iw);
            V lower = b0;
            P(take_larger)(numbers, &result, &where, a1, SPLAT_INT(index + 1));
            P(take_larger)(numbers, &lower, &below, b1, SPLAT_INT(index + s->iw + 1));
            P(take_larger)(numbers, &result, &where, lower, below);
            P(store_indices)(indices + v * L, where, n);
        } else {
            result = P(combine)(op, numbers, P(combine)(op, numbers, a0, a1), P(combine)(op, numbers, b0, b1));
        }
        if (op == FC_AVG_POOL)
            result *= SPLAT(inverse);
        else if (numbers)
            *seen += (a0 + a1) + (b0 + b1);
        P(store)(y + v * L, result, n);
    }
}

/* One output row, `unit` of the mb * oh of all images; returns the sum of what it saw. */
FC_INLINE V P(pixels)(const int op, const int indexed, const int numbers, const int by_2x2, const fc_pool2d_args *args,
                      const axis *down, const windows *along, int64_t unit)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t c = s->c;
    const T *x = (const T *)args->in + unit / s->oh * s->ih * s->iw * c;
    const window rows = window_at(down, unit % s->oh);
    V seen = {0};
    int64_t divisor = 0;
    T inverse = 0;
    for (int64_t o = 0; o < s->ow; o++) {
        const window columns = by_2x2 ? (window){2 * o, 2 * o + 2, 1, 2} : kept_window(along, o);
        const int64_t counted = s->divisor_override ? s->divisor_override : rows.counted * columns.counted;
        T *y = (T *)args->out + (unit * s->ow + o) * c;
        int64_t *indices = indexed ? args->indices + (unit * s->ow + o) * c : NULL;
        if (op == FC_AVG_POOL && counted != divisor) {
            divisor = counted;
            inverse = P(inverse)(divisor);
        }
        const int64_t first = rows.first * s->iw + columns.first;
        int64_t k = 0;
#define PIXEL(nv, n)                                                                                                \
    if (by_2x2)                                                                                                     \
        P(pixel_2x2)(op, indexed, numbers, s, x + first * c + k, (INT)first, inverse, y + k, indices + k, \
                     &seen, nv, n);                                                                                 \
    else                                                                                                            \
        P(pixel)(op, indexed, numbers, s, x + k, rows, columns, inverse, y + k, indices + k, &seen, nv, n)
        for (; k + 4 * L <= c; k += 4 * L) {
            PIXEL(4, L);
        }
        if (k + 2 * L <= c) {
            PIXEL(2, L);
            k += 2 * L;
        }
        if (k + L <= c) {
            PIXEL(1, L);
            k += L;
        }
        if (k < c) {
            PIXEL(1, (int)(c - k));
        }
#undef PIXEL
    }
    return seen;
}

/* Output rows begin..end of the mb * oh of all images. */
FC_INLINE void P(forward_nhwc)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const axis down = rows_of(args->shape);
    windows along;
    keep_windows(&along, columns_of(args->shape));
    const int by_2x2 = is_2x2(&down, &along.a);
    for (int64_t unit = begin; unit < end; unit++) {
        V seen;
        if (by_2x2)
            seen = P(pixels)(op, indexed, 1, 1, args, &down, &along, unit);
        else
            seen = P(pixels)(op, indexed, 1, 0, args, &down, &along, unit);
        if (op == FC_MAX_POOL && P(any)(P(is_nan)(seen)))
            P(pixels)(op, indexed, 0, 0, args, &down, &along, unit);
    }
}

/* ---- Forward, NCHW ------------------------------------------------------------------------------------------- */

/* One window of a plane, along its rows. */
FC_INLINE T P(whole_window)(const int op, const T *x, int64_t iw, window rows, window columns)
{
    V acc = P(identity)(op);
    if (columns.step == 1) {
        if (columns.first == 0 && columns.end == iw && rows.step == 1)
            return P(reduce)(op, 0, P(segment)(op, 0, acc, x + rows.first * iw, (rows.end - rows.first) * iw))[0];
        for (int64_t i = rows.first; i < rows.end; i += rows.step)
            acc = P(segment)(op, 0, acc, x + i * iw + columns.first, columns.end - columns.first);
        return P(reduce)(op, 0, acc)[0];
    }
    T best = -INFINITY; /* only maxima are dilated */
    for (int64_t i = rows.first; i < rows.end; i += rows.step)
        for (int64_t j = columns.first; j < columns.end; j += columns.step) {
            const T v = x[i * iw + j];
            best = v > best || v != v ? v : best;
        }
    return best;
}

/* The same with its index: each lane keeps its own first maximum, or last NaN, then the lanes are compared. */
static T P(whole_window_indexed)(const T *x, int64_t iw, window rows, window columns, int64_t *index)
{
    V best = LOWEST;
    I where = SPLAT_INT(rows.first * iw + columns.first);
    if (columns.first == 0 && columns.end == iw && columns.step == 1 && rows.step == 1) {
        /* One row as long as all of them. */
        columns = (window){rows.first * iw, rows.end * iw, 1, 0};
        rows = (window){0, 1, 1, 0};
    }
    for (int64_t i = rows.first; i < rows.end; i += rows.step)
        if (columns.step == 1) {
            int64_t j = columns.first;
            for (; j + L <= columns.end; j += L)
                P(take_larger)(0, &best, &where, *(const V *)(x + i * iw + j), SPLAT_INT(i * iw + j) + IOTA);
            if (j < columns.end)
                P(take_larger)(0, &best, &where, P(load)(x + i * iw + j, (int)(columns.end - j), LOWEST),
                               SPLAT_INT(i * iw + j) + IOTA);
        } else
            for (int64_t j = columns.first; j < columns.end; j += columns.step) {
                V v = LOWEST;
                v[0] = x[i * iw + j];
                P(take_larger)(0, &best, &where, v, SPLAT_INT(i * iw + j));
            }
    const V top = P(reduce)(FC_MAX_POOL, 0, best);
    if (top[0] != top[0]) {
        where = (I)(best != best) & (where + 1); /* one more, so that no NaN is 0 */
        for (int half = L / 2; half > 0; half /= 2) {
            const I other = __builtin_shuffle(where, IOTA ^ half), keep = where > other;
            where = (keep & where) | (~keep & other);
        }
        *index = where[0] - 1;
    } else {
        where |= (I)(best != top) & ((I){0} + INT_MAX); /* the cells of a plane are fewer */
        for (int half = L / 2; half > 0; half /= 2) {
            const I other = __builtin_shuffle(where, IOTA ^ half), keep = where < other;
            where = (keep & where) | (~keep & other);
        }
        *index = where[0];
    }
    return top[0];
}

/* iw elements: the first L of them and, if nv is 2, the last L. Whole: L of them may be read even if iw is less. */
FC_INLINE void P(load_row)(const T *row, int64_t iw, int whole, V *low, V *high, const int nv)
{
    *low = whole ? *(const V *)row : P(load)(row, (int)iw, (V){0});
    *high = nv == 2 ? *(const V *)(row + iw - L) : *low;
}

/* 2x2, stride 2: n outputs, at most L, from rows a and b of the input; index: the flat one of a[0]; even: the lanes of
 * a[0], a[2], ... in the two vectors of load_row. */
FC_INLINE void P(vector_2x2)(const int op, const int indexed, const int numbers, const T *a, const T *b, T inverse, T *y,
                             int64_t *indices, INT index, int64_t iw, I even, int whole, V *seen, const int n,
                             const int nv)
{
    V a0, a1, b0, b1, result;
    P(load_row)(a, 2 * n, whole, &a0, &a1, nv);
    P(load_row)(b, 2 * n, whole, &b0, &b1, nv);
    if (indexed) {
        const I corner = SPLAT_INT(index) + 2 * IOTA;
        I where = corner, below = corner + SPLAT_INT(iw);
        V lower = __builtin_shuffle(b0, b1, even);
        result = __builtin_shuffle(a0, a1, even);
        P(take_larger)(numbers, &result, &where, __builtin_shuffle(a0, a1, even + 1), corner + 1);
        P(take_larger)(numbers, &lower, &below, __builtin_shuffle(b0, b1, even + 1), corner + SPLAT_INT(iw + 1));
        P(take_larger)(numbers, &result, &where, lower, below);
        P(store_indices)(indices, where, n);
    } else {
        const V c0 = P(combine)(op, numbers, a0, b0), c1 = nv == 2 ? P(combine)(op, numbers, a1, b1) : c0;
        result = P(combine)(op, numbers, __builtin_shuffle(c0, c1, even), __builtin_shuffle(c0, c1, even + 1));
    }
    if (op == FC_AVG_POOL)
        result *= SPLAT(inverse);
    else if (numbers) /* what lies behind a row of less than a vector is no cell of it, but a NaN there costs only time */
        *seen += nv == 2 ? (a0 + b0) + (a1 + b1) : a0 + b0;
    P(store)(y, result, n);
}

/* One plane; returns the sum of what it saw. The last vector of a row overlaps the one before it. */
FC_INLINE V P(plane_of_2x2)(const int op, const int indexed, const int numbers, const fc_pool2d_shape *s, const T *x,
                            const T *end, T inverse, T *y, int64_t *indices)
{
    V seen = {0};
    const int n = (int)min64(L, s->ow);
    const I even = 2 * IOTA + ((IOTA >= L / 2) & SPLAT_INT(2 * L - 2 * n));
    for (int64_t i = 0; i < s->oh; i++, x += 2 * s->iw, y += s->ow, indices += indexed ? s->ow : 0) {
        const T *below = x + s->iw;
        const INT index = (INT)(2 * i * s->iw);
        if (n <= L / 2) {
            P(vector_2x2)(op, indexed, numbers, x, below, inverse, y, indices, index, s->iw, 2 * IOTA,
                          below + L <= end, &seen, n, 1);
        } else if (n < L) {
            P(vector_2x2)(op, indexed, numbers, x, below, inverse, y, indices, index, s->iw, even, 1, &seen, n, 2);
        } else {
            for (int64_t next = 0; next < s->ow; next += L) {
                const int64_t o = min64(next, s->ow - L);
                P(vector_2x2)(op, indexed, numbers, x + 2 * o, below + 2 * o, inverse, y + o,
                              indexed ? indices + o : NULL, index + (INT)(2 * o), s->iw, 2 * IOTA, 1, &seen, L, 2);
            }
        }
    }
    return seen;
}

/* Row buffer of the input columns start..start + span of a block: `identity` where they lie outside the input. */
FC_INLINE void P(pad_row)(T *buffer, int64_t start, int64_t span, int64_t iw, T identity)
{
    for (int64_t j = 0; j < min64(span, -start); j++)
        buffer[j] = identity;
    for (int64_t j = min64(span, max64(0, iw - start)); j < span + SPAN_SLACK; j++)
        buffer[j] = identity;
}

/* n columns down, at most L; their sum is added to seen. */
FC_INLINE V P(reduce_column)(const int op, const int numbers, const T *x, int64_t iw, window rows, V *seen, const int n)
{
    V acc = P(load)(x + rows.first * iw, n, P(identity)(op));
    V sum = P(load)(x + rows.first * iw, n, (V){0});
    for (int64_t i = rows.first + rows.step; i < rows.end; i += rows.step) {
        const V v = P(load)(x + i * iw, n, P(identity)(op));
        acc = P(combine)(op, numbers, acc, v);
        if (op == FC_MAX_POOL && numbers)
            sum += v;
    }
    if (op == FC_MAX_POOL && numbers)
        *seen += sum;
    return acc;
}

/* Columns down: buffer[j] = the rows of the window combined at column start + j. */
FC_INLINE void P(reduce_rows)(const int op, const int numbers, T *buffer, const T *x, int64_t start, int64_t span,
                              int64_t iw, window rows, V *seen)
{
    const int64_t first = max64(start, 0), end = min64(start + span, iw);
    if (end - first < L) {
        const int n = (int)(end - first);
        if (n > 0)
            P(store)(buffer + (first - start), P(reduce_column)(op, numbers, x + first, iw, rows, seen, n), n);
        return;
    }
    if (rows.end - rows.first == 3 && rows.step == 1)
        for (int64_t next = first; next < end; next += L) {
            const int64_t j = min64(next, end - L);
            const T *row = x + rows.first * iw + j;
            const V a = *(const V *)row, b = *(const V *)(row + iw), c = *(const V *)(row + 2 * iw);
            P(store)(buffer + (j - start), P(combine)(op, numbers, P(combine)(op, numbers, a, b), c), L);
            if (op == FC_MAX_POOL && numbers)
                *seen += a + b + c;
        }
    else
        for (int64_t next = first; next < end; next += L) {
            const int64_t j = min64(next, end - L);
            P(store)(buffer + (j - start), P(reduce_column)(op, numbers, x + j, iw, rows, seen, L), L);
        }
}

/* The windows of n outputs, at most L, along a row buffer. */
FC_INLINE V P(reduce_columns)(const int op, const int numbers, const fc_pool2d_shape *s, const T *buffer,
                              const int64_t sw, const int n)
{
    if (s->kw == 3 && sw == 1 && s->dw == 1)
        return P(combine)(op, numbers, P(combine)(op, numbers, *(const V *)buffer, *(const V *)(buffer + 1)),
                          *(const V *)(buffer + 2));
    V acc = P(load_strided)(buffer, sw, n);
    if (sw == 2 && s->dw == 1) {
        for (int64_t k = 0; k < s->kw; k += 2) { /* two taps from the same two vectors */
            const V low = *(const V *)(buffer + k), high = *(const V *)(buffer + k + L);
            if (k > 0)
                acc = P(combine)(op, numbers, acc, __builtin_shuffle(low, high, 2 * IOTA));
            if (k + 1 < s->kw)
                acc = P(combine)(op, numbers, acc, __builtin_shuffle(low, high, 2 * IOTA + 1));
        }
        return acc;
    }
    for (int64_t k = 1; k < s->kw; k++)
        acc = P(combine)(op, numbers, acc, P(load_strided)(buffer + k * s->dw, sw, n));
    return acc;
}

/* What a block of output columns of NCHW has in common. */
typedef struct P(columns_block) {
    int64_t first, outputs;      /* output columns */
    int64_t start, span, pitch;  /* input columns, from start (negative: padding); a row buffer's size */
    const windows *along;
    T *inverse;                  /* of the divisors of a row of windows that count so many rows */
    int64_t rows_counted;
} P(columns_block);

/* Output rows i0..i1 of a block of columns of one plane; returns the sum of what it saw. */
FC_INLINE V P(block_rows)(const int op, const int numbers, const fc_pool2d_shape *s, const axis *down,
                             P(columns_block) *b, const T *x, T *y, int64_t i0, int64_t i1, T *buffers,
                             const int64_t sw)
{
    V seen = {0};
    for (int64_t i = i0; i < i1; i++)
        P(reduce_rows)(op, numbers, buffers + (i - i0) * b->pitch, x, b->start, b->span, s->iw, window_at(down, i),
                       &seen);
    for (int64_t i = i0; i < i1; i++) {
        const T *buffer = buffers + (i - i0) * b->pitch;
        T *row = y + i * s->ow + b->first;
        if (op == FC_AVG_POOL && !s->divisor_override && window_at(down, i).counted != b->rows_counted) {
            b->rows_counted = window_at(down, i).counted;
            for (int64_t o = 0; o < b->outputs; o++)
                b->inverse[o] = P(inverse)(kept_window(b->along, b->first + o).counted * b->rows_counted);
        }
        if (s->adaptive) {
            for (int64_t o = 0; o < b->outputs; o++) {
                const window columns = kept_window(b->along, b->first + o);
                const T *cells = buffer - b->start;
                T acc = cells[columns.first];
                for (int64_t j = columns.first + 1; j < columns.end; j++)
                    if (op == FC_AVG_POOL)
                        acc += cells[j];
                    else
                        acc = cells[j] > acc || (!numbers && cells[j] != cells[j]) ? cells[j] : acc;
                row[o] = op == FC_AVG_POOL ? acc * b->inverse[o] : acc;
            }
            continue;
        }
        const int n = (int)min64(L, b->outputs);
        for (int64_t next = 0; next < b->outputs; next += L) {
            const int64_t o = min64(next, b->outputs - n);
            V acc = n == L ? P(reduce_columns)(op, numbers, s, buffer + o * sw, sw, L)
                           : P(reduce_columns)(op, numbers, s, buffer, sw, n);
            if (op == FC_AVG_POOL)
                acc *= *(const V *)(b->inverse + o);
            P(store)(row + o, acc, n);
        }
    }
    return seen;
}

/* Planes begin..end: per block of output columns, some output rows at a time by way of row buffers. */
FC_INLINE void P(rows_buffered)(const int op, const fc_pool2d_args *args, int64_t begin, int64_t end, const int64_t sw)
{
    enum { ROOM = ROWS_BYTES / sizeof(T) };
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s);
    windows along;
    keep_windows(&along, columns_of(s));
    const int64_t extent = s->adaptive ? 0 : (s->kw - 1) * s->dw + 1;
    _Alignas(FC_ALIGNMENT) T room[ROOM];
    T inverse[SPAN + SPAN_SLACK];
    P(columns_block) b = {.along = &along, .inverse = inverse};
    for (b.first = 0; b.first < s->ow; b.first += b.outputs) {
        if (s->adaptive) {
            b.start = kept_window(&along, b.first).first;
            b.outputs = 1;
            while (b.first + b.outputs < s->ow && kept_window(&along, b.first + b.outputs).end - b.start <= SPAN)
                b.outputs++;
            b.span = kept_window(&along, b.first + b.outputs - 1).end - b.start;
        } else {
            b.outputs = min64(1 + (SPAN - extent) / sw, s->ow - b.first);
            b.start = b.first * sw - s->pw;
            b.span = (b.outputs - 1) * sw + extent;
        }
        /* The first column inside the input is aligned in every row buffer. */
        const int64_t padded = max64(0, -b.start) % L;
        T *const buffers = room + (padded ? L - padded : 0);
        b.pitch = (b.span + SPAN_SLACK + L - 1) / L * L;
        const int64_t rows = min64(s->oh, (ROOM - L) / b.pitch);
        for (int64_t i = 0; i < rows; i++)
            P(pad_row)(buffers + i * b.pitch, b.start, b.span, s->iw, op == FC_MAX_POOL ? -INFINITY : 0);
        b.rows_counted = 0;
        for (int64_t o = 0; o < b.outputs + L; o++)
            inverse[o] = s->divisor_override ? P(inverse)(s->divisor_override) : 0;
        for (int64_t plane = begin; plane < end; plane++) {
            const T *x = (const T *)args->in + plane * s->ih * s->iw;
            T *y = (T *)args->out + plane * s->oh * s->ow;
            for (int64_t i0 = 0; i0 < s->oh; i0 += rows) {
                const int64_t i1 = min64(i0 + rows, s->oh);
                const V seen = P(block_rows)(op, 1, s, &down, &b, x, y, i0, i1, buffers, sw);
                if (op == FC_MAX_POOL && P(any)(P(is_nan)(seen)))
                    P(block_rows)(op, 0, s, &down, &b, x, y, i0, i1, buffers, sw);
            }
        }
    }
}

/* The same maxima with their indices: the rows of a window one after the other, the best so far in buffers. */
FC_INLINE void P(rows_buffered_indexed)(const fc_pool2d_args *args, int64_t begin, int64_t end, const int64_t sw)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t extent = (s->kw - 1) * s->dw + 1;
    const int64_t block = 1 + (SPAN - extent) / sw;
    T buffer[SPAN + SPAN_SLACK], best[SPAN + SPAN_SLACK];
    INT first[SPAN + SPAN_SLACK], where[SPAN + SPAN_SLACK];
    for (int64_t o0 = 0; o0 < s->ow; o0 += block) {
        const int64_t outputs = min64(block, s->ow - o0);
        const int64_t start = o0 * sw - s->pw, span = (outputs - 1) * sw + extent;
        P(pad_row)(buffer, start, span, s->iw, -INFINITY);
        for (int64_t o = 0; o < outputs + L; o++)
            first[o] = o < outputs ? (INT)window_at(&along, o0 + o).first : 0;
        for (int64_t unit = begin * s->oh; unit < end * s->oh; unit++) {
            const T *x = (const T *)args->in + unit / s->oh * s->ih * s->iw;
            const window rows = window_at(&down, unit % s->oh);
            for (int64_t o = 0; o < outputs; o += L) {
                *(V *)(best + o) = LOWEST;
                *(I *)(where + o) = *(const I *)(first + o) + SPLAT_INT(rows.first * s->iw);
            }
            for (int64_t row = rows.first; row < rows.end; row += rows.step) {
                P(reduce_rows)(FC_MAX_POOL, 0, buffer, x, start, span, s->iw, (window){row, row + 1, 1, 1}, NULL);
                for (int64_t o = 0; o < outputs; o += L) {
                    const int n = (int)min64(L, outputs - o);
                    V acc = *(const V *)(best + o);
                    I at = *(const I *)(where + o);
                    const I cell = SPLAT_INT(row * s->iw + start + o * sw) + IOTA * (INT)sw;
                    for (int64_t k = 0; k < s->kw; k++)
                        P(take_larger)(0, &acc, &at, P(load_strided)(buffer + o * sw + k * s->dw, sw, n),
                                       cell + SPLAT_INT(k * s->dw));
                    *(V *)(best + o) = acc;
                    *(I *)(where + o) = at;
                }
            }
            for (int64_t o = 0; o < outputs; o += L) {
                const int n = (int)min64(L, outputs - o);
                P(store)((T *)args->out + unit * s->ow + o0 + o, *(const V *)(best + o), n);
                P(store_indices)(args->indices + unit * s->ow + o0 + o, *(const I *)(where + o), n);
            }
        }
    }
}

FC_INLINE void P(planes_2x2)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const T inverse = P(inverse)(s->divisor_override ? s->divisor_override : 4);
    const T *input_end = (const T *)args->in + s->mb * s->c * s->ih * s->iw;
    for (int64_t plane = begin; plane < end; plane++) {
        const T *x = (const T *)args->in + plane * s->ih * s->iw;
        T *y = (T *)args->out + plane * s->oh * s->ow;
        int64_t *indices = indexed ? args->indices + plane * s->oh * s->ow : NULL;
        const V seen = P(plane_of_2x2)(op, indexed, 1, s, x, input_end, inverse, y, indices);
        if (op == FC_MAX_POOL && P(any)(P(is_nan)(seen)))
            P(plane_of_2x2)(op, indexed, 0, s, x, input_end, inverse, y, indices);
    }
}

/* The windows along a row that fits two vectors: which lanes to pick for each tap of each output. A window of fewer taps
 * than others repeats its last cell. */
typedef struct P(picks) {
    int taps, vectors, n;        /* taps of the longest window; output vectors, each of n outputs */
    int64_t output[2];           /* the first output of each vector: they may overlap */
    I lane[2][TAPS], cell[2][TAPS]; /* of the two vectors of a row; input column */
    M inside[2][TAPS];           /* not repeated */
    V counted[2], inverse[2];    /* the divisors' column part; of the whole, for the rows counted last */
    int64_t rows_counted;
} P(picks);

FC_INLINE void P(pick_lanes)(P(picks) *p, const fc_pool2d_shape *s, const windows *along)
{
    p->taps = 1;
    p->rows_counted = 0;
    p->vectors = s->ow > L ? 2 : 1;
    p->n = (int)min64(L, s->ow);
    p->output[0] = 0;
    p->output[1] = s->ow - p->n;
    for (int v = 0; v < p->vectors; v++) {
        INT lanes[TAPS][L], cells[TAPS][L], inside[TAPS][L];
        T counted[L];
        for (int l = 0; l < L; l++) {
            const window w = kept_window(along, p->output[v] + min64(l, p->n - 1));
            const int taps = (int)((w.end - w.first + w.step - 1) / w.step);
            if (taps > p->taps)
                p->taps = taps;
            counted[l] = (T)w.counted;
            for (int k = 0; k < TAPS; k++) {
                const int64_t j = w.first + (k < taps ? k : taps - 1) * w.step;
                cells[k][l] = (INT)j;
                lanes[k][l] = (INT)(j < L ? j : j + 2 * L - s->iw);
                inside[k][l] = k < taps;
            }
        }
        memcpy(&p->counted[v], counted, sizeof counted);
        p->inverse[v] = SPLAT(s->divisor_override ? P(inverse)(s->divisor_override) : 0);
        memcpy(p->lane[v], lanes, sizeof lanes);
        memcpy(p->cell[v], cells, sizeof cells);
        for (int k = 0; k < TAPS; k++) {
            I real;
            memcpy(&real, inside[k], sizeof real);
            p->inside[v][k] = P(equal)(real, SPLAT_INT(1));
        }
    }
}

FC_INLINE V P(picked)(V low, V high, I lane, const int nv)
{
    return nv == 2 ? __builtin_shuffle(low, high, lane) : __builtin_shuffle(low, lane);
}

/* One row of output. */
FC_INLINE void P(narrow_row)(const int op, const int indexed, const int numbers, const fc_pool2d_shape *s,
                             const P(picks) *p, const T *x, window rows, int whole, T *y, int64_t *indices, const int nv,
                             const int taps)
{
    V low, high;
    if (indexed) {
        for (int v = 0; v < p->vectors; v++) {
            V best = {0};
            I where = {0};
            for (int64_t i = rows.first; i < rows.end; i += rows.step) {
                const I row = SPLAT_INT(i * s->iw);
                P(load_row)(x + i * s->iw, s->iw, whole, &low, &high, nv);
                if (i == rows.first) {
                    best = P(picked)(low, high, p->lane[v][0], nv);
                    where = row + p->cell[v][0];
                }
                for (int k = 0; k < taps; k++)
                    P(take_larger)(numbers, &best, &where, P(picked)(low, high, p->lane[v][k], nv), row + p->cell[v][k]);
            }
            P(store)(y + p->output[v], best, p->n);
            P(store_indices)(indices + p->output[v], where, p->n);
        }
        return;
    }
    P(load_row)(x + rows.first * s->iw, s->iw, whole, &low, &high, nv);
    for (int64_t i = rows.first + rows.step; i < rows.end; i += rows.step) {
        V low1, high1;
        P(load_row)(x + i * s->iw, s->iw, whole, &low1, &high1, nv);
        low = P(combine)(op, numbers, low, low1);
        if (nv == 2)
            high = P(combine)(op, numbers, high, high1);
    }
    for (int v = 0; v < p->vectors; v++) {
        V acc = P(picked)(low, high, p->lane[v][0], nv);
        for (int k = 1; k < taps; k++) {
            const V tap = P(picked)(low, high, p->lane[v][k], nv);
            acc = P(combine)(op, numbers, acc, op == FC_AVG_POOL ? P(keep)(p->inside[v][k], tap) : tap);
        }
        if (op == FC_AVG_POOL)
            acc *= p->inverse[v];
        P(store)(y + p->output[v], acc, p->n);
    }
}

/* Two rows of output of windows of 3x3 at a stride of 1 down: x is the first of four rows that all lie inside. */
FC_INLINE void P(narrow_pair)(const int op, const int numbers, const fc_pool2d_shape *s, const P(picks) *p, const T *x,
                              T *y, const int nv)
{
    V low[4], high[4];
    for (int i = 0; i < 4; i++)
        P(load_row)(x + i * s->iw, s->iw, 1, &low[i], &high[i], nv);
    const V middle = P(combine)(op, numbers, low[1], low[2]), middle1 = P(combine)(op, numbers, high[1], high[2]);
    for (int i = 0; i < 2; i++) {
        low[i] = P(combine)(op, numbers, middle, low[3 * i]);
        high[i] = P(combine)(op, numbers, middle1, high[3 * i]);
    }
    for (int v = 0; v < p->vectors; v++)
        for (int i = 0; i < 2; i++) {
            V acc = P(picked)(low[i], high[i], p->lane[v][0], nv);
            for (int k = 1; k < 3; k++) {
                const V tap = P(picked)(low[i], high[i], p->lane[v][k], nv);
                acc = P(combine)(op, numbers, acc, op == FC_AVG_POOL ? P(keep)(p->inside[v][k], tap) : tap);
            }
            if (op == FC_AVG_POOL)
                acc *= p->inverse[v];
            P(store)(y + i * s->ow + p->output[v], acc, p->n);
        }
}

FC_INLINE void P(narrow_plane)(const int op, const int indexed, const int numbers, const fc_pool2d_args *args,
                               P(picks) *p, const windows *down, int64_t plane, const int nv, const int taps)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t outputs = s->oh * s->ow;
    /* Rows from here on end less than a vector before the end of the input. */
    const int64_t careful = s->ih - (plane + 1 == s->mb * s->c && nv == 1 ? ceil_div(L - s->iw, s->iw) : 0);
    const T *x = (const T *)args->in + plane * s->ih * s->iw;
    T *y = (T *)args->out + plane * outputs;
    int64_t *indices = indexed ? args->indices + plane * outputs : NULL;
    const int pairs = !s->adaptive && s->kh == 3 && s->sh == 1 && s->dh == 1;
    for (int64_t i = 0; i < s->oh; i++, y += s->ow, indices += indexed ? s->ow : 0) {
        const window rows = kept_window(down, i);
        if (op == FC_AVG_POOL && !s->divisor_override && rows.counted != p->rows_counted) {
            p->rows_counted = rows.counted;
            for (int v = 0; v < p->vectors; v++)
                p->inverse[v] = 1 / (p->counted[v] * SPLAT(rows.counted));
        }
        const int whole = nv == 2 || rows.end <= careful;
        if (!indexed && taps == 3 && pairs && rows.end - rows.first == 3 && i + 1 < s->oh && rows.end < s->ih &&
            (nv == 2 || rows.end < careful)) {
            P(narrow_pair)(op, numbers, s, p, x + rows.first * s->iw, y, nv);
            i++;
            y += s->ow;
        } else if (whole)
            P(narrow_row)(op, indexed, numbers, s, p, x, rows, 1, y, indices, nv, taps);
        else
            P(narrow_row)(op, indexed, numbers, s, p, x, rows, 0, y, indices, nv, taps);
    }
}

/* Planes begin..end of rows of at most nv vectors. */
FC_INLINE void P(narrow)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end,
                         const int nv)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t cells = s->ih * s->iw;
    windows down, along;
    keep_windows(&down, rows_of(s));
    keep_windows(&along, columns_of(s));
    P(picks) p;
    P(pick_lanes)(&p, s, &along);
    for (int64_t plane = begin; plane < end; plane++)
        if (op == FC_MAX_POOL && P(has_nan)((const T *)args->in + plane * cells, cells))
            P(narrow_plane)(op, indexed, 0, args, &p, &down, plane, nv, p.taps);
        else if (p.taps == 3)
            P(narrow_plane)(op, indexed, 1, args, &p, &down, plane, nv, 3);
        else
            P(narrow_plane)(op, indexed, 1, args, &p, &down, plane, nv, p.taps);
}

/* Window by window: adaptive ones, the only one of a row, and those too wide for a row buffer. */
FC_INLINE void P(by_window)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    windows down, along;
    keep_windows(&down, rows_of(s));
    keep_windows(&along, columns_of(s));
    const int64_t cells = s->ih * s->iw;
    const int global = s->oh * s->ow == 1 && down.kept[0].step == 1 && along.kept[0].step == 1 &&
                       down.kept[0].end - down.kept[0].first == s->ih &&
                       along.kept[0].end - along.kept[0].first == s->iw;
    if (global && !indexed) {
        const int64_t counted = s->divisor_override ? s->divisor_override
                                                    : down.kept[0].counted * along.kept[0].counted;
        for (int64_t plane = begin; plane < end; plane++) {
            const T *x = (const T *)args->in + plane * cells;
            const V sum = P(segment)(FC_AVG_POOL, 1, (V){0}, x, cells);
            T whole;
            if (op == FC_AVG_POOL)
                whole = P(reduce)(op, 1, sum)[0];
            else if (P(any)(P(is_nan)(sum)))
                whole = P(reduce)(op, 0, P(segment)(op, 0, LOWEST, x, cells))[0];
            else
                whole = P(reduce)(op, 1, P(segment)(op, 1, LOWEST, x, cells))[0];
            ((T *)args->out)[plane] = op == FC_AVG_POOL ? whole / (T)counted : whole;
        }
        return;
    }
    int64_t at = begin * s->oh * s->ow;
    for (int64_t plane = begin; plane < end; plane++) {
        const T *x = (const T *)args->in + plane * cells;
        for (int64_t i = 0; i < s->oh; i++) {
            const window rows = kept_window(&down, i);
            for (int64_t o = 0; o < s->ow; o++, at++) {
                const window columns = kept_window(&along, o);
                T *y = (T *)args->out + at;
                if (indexed)
                    *y = P(whole_window_indexed)(x, s->iw, rows, columns, &args->indices[at]);
                else
                    *y = P(whole_window)(op, x, s->iw, rows, columns);
                if (op == FC_AVG_POOL)
                    *y /= (T)(s->divisor_override ? s->divisor_override : rows.counted * columns.counted);
            }
        }
    }
}

/* Planes begin..end of the mb * c. */
FC_INLINE void P(forward_nchw)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t taps = s->adaptive ? s->iw / s->ow + 2 : s->kw;
    if (is_2x2(&down, &along))
        P(planes_2x2)(op, indexed, args, begin, end);
    else if (L >= 8 && s->iw <= L && s->ow > 1 && s->ow <= 2 * L && taps <= TAPS)
        P(narrow)(op, indexed, args, begin, end, 1);
    else if (L >= 8 && s->iw <= 2 * L && s->ow > 1 && s->ow <= 2 * L && taps <= TAPS)
        P(narrow)(op, indexed, args, begin, end, 2);
    else if (s->ow == 1 || (s->adaptive ? indexed || s->iw / s->ow + 2 > SPAN / 2 : (s->kw - 1) * s->dw >= SPAN / 2))
        P(by_window)(op, indexed, args, begin, end);
    else if (indexed && s->sw == 1)
        P(rows_buffered_indexed)(args, begin, end, 1);
    else if (indexed && s->sw == 2)
        P(rows_buffered_indexed)(args, begin, end, 2);
    else if (indexed)
        P(rows_buffered_indexed)(args, begin, end, s->sw);
    else if (s->sw == 1)
        P(rows_buffered)(op, args, begin, end, 1);
    else if (s->sw == 2)
        P(rows_buffered)(op, args, begin, end, 2);
    else
        P(rows_buffered)(op, args, begin, end, s->sw);
}

#include "pooling_backward_tile.h"

/* ---- The table ----------------------------------------------------------------------------------------------- */

static void P(max_forward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    if (args->indices)
        P(forward_nchw)(FC_MAX_POOL, 1, args, begin, end);
    else
        P(forward_nchw)(FC_MAX_POOL, 0, args, begin, end);
}

static void P(max_forward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    if (args->indices)
        P(forward_nhwc)(FC_MAX_POOL, 1, args, begin, end);
    else
        P(forward_nhwc)(FC_MAX_POOL, 0, args, begin, end);
}

static void P(avg_forward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nchw)(FC_AVG_POOL, 0, args, begin, end);
}

static void P(avg_forward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    P(forward_nhwc)(FC_AVG_POOL, 0, args, begin, end);
}

static const fc_pool2d_kernels FC_POOL_NAME = {
    .max_forward = {P(max_forward_nchw), P(max_forward_nhwc)},
    .max_backward = {P(max_backward_nchw), P(max_backward_nhwc)},
    .avg_forward = {P(avg_forward_nchw), P(avg_forward_nhwc)},
    .avg_backward = {P(avg_backward_nchw), P(avg_backward_nhwc)},
};

#undef T
#undef INT
#undef L
#undef P
#undef V
#undef I
#undef M
#undef IOTA
#undef SPLAT
#undef SPLAT_INT
#undef LOWEST
#undef FC_POOL_NAME
#undef FC_POOL_TYPE
#undef FC_POOL_INT
#undef FC_POOL_LANES
#undef FC_POOL_IOTA
#undef FC_POOL_LOAD_PART
#undef FC_POOL_STORE_PART
#undef FC_POOL_LOAD_INDICES
#undef FC_POOL_STORE_INDICES
#undef FC_POOL_MAXIMUM
#undef FC_POOL_MASK
#undef FC_POOL_GREATER
#undef FC_POOL_IS_NAN
#undef FC_POOL_EQUAL
#undef FC_POOL_PICK
#undef FC_POOL_PICK_INDEX
#undef FC_POOL_LANES_BELOW
