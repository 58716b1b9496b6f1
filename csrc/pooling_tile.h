/* Template of the pooling kernels (contract: fc_pool2d_kernels in fastconv.h). Before including, define
 *   FC_POOL_NAME    the table's full symbol, e.g. fc_f32_pool2d__avx512
 *   FC_POOL_TYPE    float or double
 *   FC_POOL_INT     the signed integer of the same size: flat indices inside a plane are tracked in it
 *   FC_POOL_LANES   elements of a vector, and FC_POOL_IOTA, the list 0, 1, ... of that many
 * and, where the ISA does better than plain C, FC_POOL_LOAD_PART, FC_POOL_STORE_PART, FC_POOL_LARGER,
 * FC_POOL_TAKE_LARGER, FC_POOL_LOAD_INDICES and FC_POOL_STORE_INDICES.
 *
 * NHWC: vectors along the channels, accumulators in registers over the window. NCHW: vectors along the width, a window
 * is reduced down its columns into a row buffer and then along that row; strides of 2 are split by shuffles. Full
 * vectors and tails go through the same expressions, so that a NaN wins in both. The gradients are in
 * pooling_backward_tile.h. */
#include "pooling_windows.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#ifndef FC_POOL_ONCE
#define FC_POOL_ONCE
enum {
    SPAN = 1024,     /* input columns of a row buffer: 4 or 8 KB of stack, inside L1 beside the rows it reads */
    SPAN_SLACK = 64, /* vectors that start inside a row buffer may end past it */
};
#endif

#define T FC_POOL_TYPE
#define INT FC_POOL_INT
#define L FC_POOL_LANES
#define P(name) FC_JOIN(FC_POOL_NAME, _##name)
#define V P(vector)
#define I P(integers)

typedef T V __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));
typedef INT I __attribute__((vector_size(sizeof(T) * L), aligned(sizeof(T)), may_alias));

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

/* The larger of both, a NaN of either before any number. */
FC_INLINE V P(larger)(V best, V v)
{
#ifdef FC_POOL_LARGER
    return (V)FC_POOL_LARGER(best, v);
#else
    const I wins = (I)(v > best) | (I)(v != v);
    return (V)((wins & (I)v) | (~wins & (I)best));
#endif
}

/* The same with the index it came from; best stays where both are equal, v wins where both are NaN. */
FC_INLINE void P(take_larger)(V *best, I *where, V v, I index)
{
#ifdef FC_POOL_TAKE_LARGER
    FC_POOL_TAKE_LARGER(best, where, v, index);
#else
    const I wins = (I)(v > *best) | (I)(v != v);
    *best = (V)((wins & (I)v) | (~wins & (I)*best));
    *where = (wins & index) | (~wins & *where);
#endif
}

FC_INLINE V P(combine)(const int op, V a, V b)
{
    if (op == FC_MAX_POOL)
        return P(larger)(a, b);
    return a + b;
}

FC_INLINE V P(identity)(const int op) { return SPLAT(op == FC_MAX_POOL ? -INFINITY : 0); }

FC_INLINE V P(divide)(V v, T divisor, T inverse)
{
    if (inverse != 0)
        return v * SPLAT(inverse);
    return v / SPLAT(divisor);
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

/* Lanes past n are -1: no cell. */
FC_INLINE I P(load_indices)(const int64_t *p, int n)
{
#ifdef FC_POOL_LOAD_INDICES
    return (I)FC_POOL_LOAD_INDICES(p, n);
#else
    INT lanes[L];
    for (int l = 0; l < L; l++)
        lanes[l] = l < n ? (INT)p[l] : -1;
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
FC_INLINE V P(reduce)(const int op, V v)
{
    for (int half = L / 2; half > 0; half /= 2)
        v = P(combine)(op, v, __builtin_shuffle(v, IOTA ^ half));
    return v;
}

/* acc combined with n contiguous elements. */
FC_INLINE V P(segment)(const int op, V acc, const T *p, int64_t n)
{
    if (n >= 4 * L) {
        V a1 = P(identity)(op), a2 = a1, a3 = a1;
        for (; n >= 4 * L; n -= 4 * L, p += 4 * L) {
            acc = P(combine)(op, acc, *(const V *)p);
            a1 = P(combine)(op, a1, *(const V *)(p + L));
            a2 = P(combine)(op, a2, *(const V *)(p + 2 * L));
            a3 = P(combine)(op, a3, *(const V *)(p + 3 * L));
        }
        acc = P(combine)(op, P(combine)(op, acc, a1), P(combine)(op, a2, a3));
    }
    for (; n >= L; n -= L, p += L)
        acc = P(combine)(op, acc, *(const V *)p);
    if (n > 0)
        acc = P(combine)(op, acc, P(load)(p, (int)n, P(identity)(op)));
    return acc;
}

/* ---- Forward, NHWC ------------------------------------------------------------------------------------------- */

/* nv vectors of channels of one output pixel; n lanes of the last (only vector) when not full. */
FC_INLINE void P(pixel)(const int op, const int indexed, const fc_pool2d_shape *s, const T *x, window rows,
                        window columns, T divisor, T inverse, T *y, int64_t *indices, const int nv, const int n)
{
    V acc[4];
    I where[4];
    for (int v = 0; v < nv; v++) {
        acc[v] = P(identity)(op);
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
                    P(take_larger)(&acc[v], &where[v], value, SPLAT_INT(i * s->iw + j));
                else if (op == FC_MAX_POOL)
                    acc[v] = P(larger)(acc[v], value);
                else
                    row[v] += value;
            }
        }
        if (op == FC_AVG_POOL)
            for (int v = 0; v < nv; v++)
                acc[v] += row[v];
    }
    for (int v = 0; v < nv; v++) {
        if (op == FC_AVG_POOL)
            acc[v] = P(divide)(acc[v], divisor, inverse);
        P(store)(y + v * L, acc[v], n);
        if (indexed)
            P(store_indices)(indices + v * L, where[v], n);
    }
}

/* Output rows begin..end of the mb * oh of all images. */
FC_INLINE void P(forward_nhwc)(const int op, const int indexed, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s);
    const int64_t c = s->c;
    windows along;
    keep_windows(&along, columns_of(s));
    for (int64_t unit = begin; unit < end; unit++) {
        const T *x = (const T *)args->in + unit / s->oh * s->ih * s->iw * c;
        const window rows = window_at(&down, unit % s->oh);
        for (int64_t o = 0; o < s->ow; o++) {
            const window columns = kept_window(&along, o);
            const int64_t counted = s->divisor_override ? s->divisor_override : rows.counted * columns.counted;
            T *y = (T *)args->out + (unit * s->ow + o) * c;
            int64_t *indices = indexed ? args->indices + (unit * s->ow + o) * c : NULL;
            const T inverse = op == FC_AVG_POOL ? (T)exact_inverse(counted) : 0;
            int64_t k = 0;
#define PIXEL(nv, n) \
    P(pixel)(op, indexed, s, x + k, rows, columns, (T)counted, inverse, y + k, indexed ? indices + k : NULL, nv, n)
            for (; k + 4 * L <= c; k += 4 * L)
                PIXEL(4, L);
            if (k + 2 * L <= c) {
                PIXEL(2, L);
                k += 2 * L;
            }
            if (k + L <= c) {
                PIXEL(1, L);
                k += L;
            }
            if (k < c)
                PIXEL(1, (int)(c - k));
#undef PIXEL
        }
    }
}

/* ---- Forward, NCHW ------------------------------------------------------------------------------------------- */

/* One window of a plane, along its rows. */
FC_INLINE T P(whole_window)(const int op, const T *x, int64_t iw, window rows, window columns)
{
    V acc = P(identity)(op);
    if (columns.step == 1) {
        if (columns.first == 0 && columns.end == iw && rows.step == 1)
            return P(reduce)(op, P(segment)(op, acc, x + rows.first * iw, (rows.end - rows.first) * iw))[0];
        for (int64_t i = rows.first; i < rows.end; i += rows.step)
            acc = P(segment)(op, acc, x + i * iw + columns.first, columns.end - columns.first);
        return P(reduce)(op, acc)[0];
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
    for (int64_t i = rows.first; i < rows.end; i += rows.step)
        if (columns.step == 1)
            for (int64_t j = columns.first; j < columns.end; j += L)
                P(take_larger)(&best, &where, P(load)(x + i * iw + j, (int)min64(L, columns.end - j), LOWEST),
                               SPLAT_INT(i * iw + j) + IOTA);
        else
            for (int64_t j = columns.first; j < columns.end; j += columns.step) {
                V v = LOWEST;
                v[0] = x[i * iw + j];
                P(take_larger)(&best, &where, v, SPLAT_INT(i * iw + j));
            }
    const V top = P(reduce)(FC_MAX_POOL, best);
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

/* 2x2, stride 2: rows a and b of the input give one row of n outputs; index0 is the flat index of a[0]. */
FC_INLINE void P(row_2x2)(const int op, const int indexed, const T *a, const T *b, int64_t n, T divisor, T inverse,
                          T *y, int64_t *indices, int64_t index0, int64_t iw)
{
    for (int64_t o = 0; o < n; o += L) {
        const int outputs = (int)min64(L, n - o);
        const int first = min64(L, 2 * outputs), second = 2 * outputs - first;
        const V a0 = P(load)(a + 2 * o, first, (V){0}), b0 = P(load)(b + 2 * o, first, (V){0});
        V a1 = a0, b1 = b0;
        if (second > 0) {
            a1 = P(load)(a + 2 * o + L, second, (V){0});
            b1 = P(load)(b + 2 * o + L, second, (V){0});
        }
        V result;
        if (indexed) {
            I where = SPLAT_INT(index0 + 2 * o) + 2 * IOTA;
            const I corner = where;
            result = __builtin_shuffle(a0, a1, 2 * IOTA);
            P(take_larger)(&result, &where, __builtin_shuffle(a0, a1, 2 * IOTA + 1), corner + 1);
            P(take_larger)(&result, &where, __builtin_shuffle(b0, b1, 2 * IOTA), corner + SPLAT_INT(iw));
            P(take_larger)(&result, &where, __builtin_shuffle(b0, b1, 2 * IOTA + 1), corner + SPLAT_INT(iw + 1));
            if (outputs == L)
                P(store_indices)(indices + o, where, L);
            else
                P(store_indices)(indices + o, where, outputs);
        } else {
            const V c0 = P(combine)(op, a0, b0), c1 = P(combine)(op, a1, b1);
            result = P(combine)(op, __builtin_shuffle(c0, c1, 2 * IOTA), __builtin_shuffle(c0, c1, 2 * IOTA + 1));
        }
        if (op == FC_AVG_POOL)
            result = P(divide)(result, divisor, inverse);
        P(store)(y + o, result, outputs);
    }
}

/* Row buffer of the input columns start..start + span of a block: `identity` where they lie outside the input. */
FC_INLINE void P(pad_row)(T *buffer, int64_t start, int64_t span, int64_t iw, T identity)
{
    for (int64_t j = 0; j < min64(span, -start); j++)
        buffer[j] = identity;
    for (int64_t j = min64(span, max64(0, iw - start)); j < span + SPAN_SLACK; j++)
        buffer[j] = identity;
}

/* Columns down: buffer[j] = the rows of the window combined at column start + j. */
FC_INLINE void P(reduce_rows)(const int op, T *buffer, const T *x, int64_t start, int64_t span, int64_t iw, window rows)
{
    const int64_t end = min64(start + span, iw);
    for (int64_t j = max64(start, 0); j < end; j += L) {
        const int n = (int)min64(L, end - j);
        V acc = P(identity)(op);
        if (n == L)
            for (int64_t i = rows.first; i < rows.end; i += rows.step)
                acc = P(combine)(op, acc, *(const V *)(x + i * iw + j));
        else
            for (int64_t i = rows.first; i < rows.end; i += rows.step)
                acc = P(combine)(op, acc, P(load)(x + i * iw + j, n, P(identity)(op)));
        P(store)(buffer + (j - start), acc, n);
    }
}

/* Planes begin..end: per block of output columns, each output row by way of a row buffer. */
FC_INLINE void P(rows_buffered)(const int op, const fc_pool2d_args *args, int64_t begin, int64_t end, const int64_t sw)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t extent = (s->kw - 1) * s->dw + 1;
    const int64_t block = 1 + (SPAN - extent) / sw;
    T buffer[SPAN + SPAN_SLACK], counted[SPAN + SPAN_SLACK];
    for (int64_t o0 = 0; o0 < s->ow; o0 += block) {
        const int64_t outputs = min64(block, s->ow - o0);
        const int64_t start = o0 * sw - s->pw, span = (outputs - 1) * sw + extent;
        P(pad_row)(buffer, start, span, s->iw, op == FC_MAX_POOL ? -INFINITY : 0);
        if (op == FC_AVG_POOL)
            for (int64_t o = 0; o < outputs + L; o++)
                counted[o] = o < outputs && !s->divisor_override ? (T)window_at(&along, o0 + o).counted : 1;
        for (int64_t plane = begin; plane < end; plane++)
            for (int64_t i = 0; i < s->oh; i++) {
                const window rows = window_at(&down, i);
                T *y = (T *)args->out + (plane * s->oh + i) * s->ow + o0;
                P(reduce_rows)(op, buffer, (const T *)args->in + plane * s->ih * s->iw, start, span, s->iw, rows);
                for (int64_t o = 0; o < outputs; o += L) {
                    const int n = (int)min64(L, outputs - o);
                    V acc = P(load_strided)(buffer + o * sw, sw, n);
                    for (int64_t k = 1; k < s->kw; k++)
                        acc = P(combine)(op, acc, P(load_strided)(buffer + o * sw + k * s->dw, sw, n));
                    if (op == FC_AVG_POOL)
                        acc /= *(const V *)(counted + o) *
                               SPLAT(s->divisor_override ? s->divisor_override : rows.counted);
                    P(store)(y + o, acc, n);
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
                P(reduce_rows)(FC_MAX_POOL, buffer, x, start, span, s->iw, (window){row, row + 1, 1, 1});
                for (int64_t o = 0; o < outputs; o += L) {
                    const int n = (int)min64(L, outputs - o);
                    V acc = *(const V *)(best + o);
                    I at = *(const I *)(where + o);
                    const I cell = SPLAT_INT(row * s->iw + start + o * sw) + IOTA * (INT)sw;
                    for (int64_t k = 0; k < s->kw; k++)
                        P(take_larger)(&acc, &at, P(load_strided)(buffer + o * sw + k * s->dw, sw, n),
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
    const int64_t divisor = s->divisor_override ? s->divisor_override : 4;
    const T inverse = (T)exact_inverse(divisor);
    for (int64_t plane = begin; plane < end; plane++)
        for (int64_t i = 0; i < s->oh; i++) {
            const T *row = (const T *)args->in + (plane * s->ih + 2 * i) * s->iw;
            const int64_t out = (plane * s->oh + i) * s->ow;
            P(row_2x2)(op, indexed, row, row + s->iw, s->ow, (T)divisor, inverse, (T *)args->out + out,
                       indexed ? args->indices + out : NULL, 2 * i * s->iw, s->iw);
        }
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
            const T whole = P(reduce)(op, P(segment)(op, P(identity)(op), x, cells))[0];
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
    if (is_2x2(&down, &along))
        P(planes_2x2)(op, indexed, args, begin, end);
    else if (s->adaptive || (s->kw - 1) * s->dw >= SPAN / 2 || s->ow == 1)
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
#undef FC_POOL_LARGER
#undef FC_POOL_TAKE_LARGER
