/* Part of the template pooling_tile.h: the forward pass in NCHW, one window after the other. */

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

/* Outputs o of rows i of a plane's maxima, cell by cell: where there is a NaN, or both infinities. */
static void P(careful)(const fc_pool2d_shape *s, const T *x, T *y, int64_t *indices, range i, range o)
{
    const axis down = rows_of(s), along = columns_of(s);
    for (int64_t a = i.first; a < i.end; a++)
        for (int64_t b = o.first; b < o.end; b++) {
            const window rows = window_at(&down, a), columns = window_at(&along, b);
            int64_t best = rows.first * s->iw + columns.first;
            for (int64_t r = rows.first; r < rows.end; r += rows.step)
                for (int64_t c = columns.first; c < columns.end; c += columns.step) {
                    const T v = x[r * s->iw + c];
                    best = v > x[best] || v != v ? r * s->iw + c : best;
                }
            y[a * s->ow + b] = x[best];
            if (indices)
                indices[a * s->ow + b] = best;
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
