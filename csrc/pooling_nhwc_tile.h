/* Part of the template pooling_tile.h: the forward pass in NHWC, accumulators in registers over the window. */

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
        for (; numbers && k + 4 * L <= c; k += 4 * L) {
            PIXEL(4, L);
        }
        if (numbers && k + 2 * L <= c) {
            PIXEL(2, L);
            k += 2 * L;
        }
        for (; k + L <= c; k += L) {
            PIXEL(1, L);
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
