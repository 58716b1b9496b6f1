/* Part of the template pooling_tile.h: the forward pass in NCHW, windows of some rows reduced down their columns into
 * row buffers, then along those; strides of 2 are split by shuffles. */

/* Row buffer of the input columns start..start + span of a block: `identity` where they lie outside the input. */
FC_INLINE void P(pad_row)(T *buffer, int64_t start, int64_t span, int64_t iw, T identity)
{
    for (int64_t j = 0; j < min64(span, -start); j++)
        buffer[j] = identity;
    for (int64_t j = min64(span, max64(0, iw - start)); j < span + SPAN_SLACK; j++)
        buffer[j] = identity;
}

/* n columns down, at most L; their sum is added to seen. */
FC_INLINE V P(reduce_column)(const int op, const T *x, int64_t iw, window rows, V *seen, const int n)
{
    V acc = P(load)(x + rows.first * iw, n, P(identity)(op));
    V sum = P(load)(x + rows.first * iw, n, (V){0});
    for (int64_t i = rows.first + rows.step; i < rows.end; i += rows.step) {
        const V v = P(load)(x + i * iw, n, P(identity)(op));
        acc = P(combine)(op, 1, acc, v);
        if (op == FC_MAX_POOL)
            sum += v;
    }
    if (op == FC_MAX_POOL)
        *seen += sum;
    return acc;
}

/* Columns down: buffer[j] = the rows of the window combined at column start + j. */
FC_INLINE void P(reduce_rows)(const int op, T *buffer, const T *x, int64_t start, int64_t span,
                              int64_t iw, window rows, V *seen)
{
    const int64_t first = max64(start, 0), end = min64(start + span, iw);
    if (end - first < L) {
        const int n = (int)(end - first);
        if (n > 0)
            P(store)(buffer + (first - start), P(reduce_column)(op, x + first, iw, rows, seen, n), n);
        return;
    }
    if (rows.end - rows.first == 3 && rows.step == 1)
        for (int64_t next = first; next < end; next += L) {
            const int64_t j = min64(next, end - L);
            const T *row = x + rows.first * iw + j;
            const V a = *(const V *)row, b = *(const V *)(row + iw), c = *(const V *)(row + 2 * iw);
            P(store)(buffer + (j - start), P(combine)(op, 1, P(combine)(op, 1, a, b), c), L);
            if (op == FC_MAX_POOL)
                *seen += a + b + c;
        }
    else
        for (int64_t next = first; next < end; next += L) {
            const int64_t j = min64(next, end - L);
            P(store)(buffer + (j - start), P(reduce_column)(op, x + j, iw, rows, seen, L), L);
        }
}

/* The windows of n outputs, at most L, along a row buffer. */
FC_INLINE V P(reduce_columns)(const int op, const fc_pool2d_shape *s, const T *buffer, const int64_t sw, const int n)
{
    if (s->kw == 3 && sw == 1 && s->dw == 1)
        return P(combine)(op, 1, P(combine)(op, 1, *(const V *)buffer, *(const V *)(buffer + 1)),
                          *(const V *)(buffer + 2));
    V acc = P(load_strided)(buffer, sw, n);
    if (sw == 2 && s->dw == 1) {
        for (int64_t k = 0; k < s->kw; k += 2) { /* two taps from the same two vectors */
            const V low = *(const V *)(buffer + k), high = *(const V *)(buffer + k + L);
            if (k > 0)
                acc = P(combine)(op, 1, acc, __builtin_shuffle(low, high, 2 * IOTA));
            if (k + 1 < s->kw)
                acc = P(combine)(op, 1, acc, __builtin_shuffle(low, high, 2 * IOTA + 1));
        }
        return acc;
    }
    for (int64_t k = 1; k < s->kw; k++)
        acc = P(combine)(op, 1, acc, P(load_strided)(buffer + k * s->dw, sw, n));
    return acc;
}

/* All windows along a row buffer. The last vector overlaps the one before it. */
FC_INLINE void P(reduce_row)(const int op, const fc_pool2d_shape *s, const T *buffer, const T *inverse, T *y,
                             int64_t outputs, const int64_t sw)
{
    if (outputs < L) {
        V acc = P(reduce_columns)(op, s, buffer, sw, (int)outputs);
        if (op == FC_AVG_POOL)
            acc *= *(const V *)inverse;
        P(store)(y, acc, (int)outputs);
        return;
    }
    for (int64_t next = 0; next < outputs; next += L) {
        const int64_t o = min64(next, outputs - L);
        V acc = P(reduce_columns)(op, s, buffer + o * sw, sw, L);
        if (op == FC_AVG_POOL)
            acc *= *(const V *)(inverse + o);
        *(V *)(y + o) = acc;
    }
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
FC_INLINE V P(block_rows)(const int op, const fc_pool2d_shape *s, const windows *down, P(columns_block) *b, const T *x,
                          T *y, int64_t i0, int64_t i1, T *buffers)
{
    V seen = {0};
    for (int64_t i = i0; i < i1; i++)
        P(reduce_rows)(op, buffers + (i - i0) * b->pitch, x, b->start, b->span, s->iw, kept_window(down, i),
                       &seen);
    for (int64_t i = i0; i < i1; i++) {
        const T *buffer = buffers + (i - i0) * b->pitch;
        T *row = y + i * s->ow + b->first;
        if (op == FC_AVG_POOL && !s->divisor_override && kept_window(down, i).counted != b->rows_counted) {
            b->rows_counted = kept_window(down, i).counted;
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
                        acc = cells[j] > acc ? cells[j] : acc;
                row[o] = op == FC_AVG_POOL ? acc * b->inverse[o] : acc;
            }
            continue;
        }
        if (s->sw == 1)
            P(reduce_row)(op, s, buffer, b->inverse, row, b->outputs, 1);
        else if (s->sw == 2)
            P(reduce_row)(op, s, buffer, b->inverse, row, b->outputs, 2);
        else
            P(reduce_row)(op, s, buffer, b->inverse, row, b->outputs, s->sw);
    }
    return seen;
}

/* Planes begin..end: per block of output columns, some output rows at a time by way of row buffers. */
FC_INLINE void P(rows_buffered)(const int op, const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    enum { ROOM = ROWS_BYTES / sizeof(T) };
    const fc_pool2d_shape *s = args->shape;
    const int64_t sw = s->sw;
    windows down, along;
    keep_windows(&down, rows_of(s));
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
                const V seen = P(block_rows)(op, s, &down, &b, x, y, i0, i1, buffers);
                if (op == FC_MAX_POOL && P(any)(P(is_nan)(seen)))
                    P(careful)(s, x, y, NULL, (range){i0, i1}, (range){b.first, b.first + b.outputs});
            }
        }
    }
}

/* The cells of a row buffer, the first of them `first`, into the best so far of all windows along it. */
FC_INLINE void P(take_row)(const fc_pool2d_shape *s, const T *buffer, INT first, T *best, INT *where, int64_t outputs,
                           const int64_t sw)
{
    I cell = SPLAT_INT(first) + IOTA * (INT)sw;
    for (int64_t o = 0; o < outputs; o += L, cell += SPLAT_INT(L * sw)) {
        V acc = *(const V *)(best + o);
        I at = *(const I *)(where + o);
        for (int64_t k = 0; k < s->kw; k++)
            P(take_larger)(1, &acc, &at, P(load_strided)(buffer + o * sw + k * s->dw, sw, (int)min64(L, outputs - o)),
                           cell + SPLAT_INT(k * s->dw));
        *(V *)(best + o) = acc;
        *(I *)(where + o) = at;
    }
}

/* The same maxima with their indices: the rows of a window one after the other, the best so far in buffers. */
static void P(rows_buffered_indexed)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t sw = s->sw;
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
            V seen = {0};
            for (int64_t row = rows.first; row < rows.end; row += rows.step) {
                P(reduce_rows)(FC_MAX_POOL, buffer, x, start, span, s->iw, (window){row, row + 1, 1, 1}, &seen);
                const INT cell = (INT)(row * s->iw + start);
                if (sw == 1)
                    P(take_row)(s, buffer, cell, best, where, outputs, 1);
                else if (sw == 2)
                    P(take_row)(s, buffer, cell, best, where, outputs, 2);
                else
                    P(take_row)(s, buffer, cell, best, where, outputs, sw);
            }
            for (int64_t o = 0; o < outputs; o += L) {
                const int n = (int)min64(L, outputs - o);
                P(store)((T *)args->out + unit * s->ow + o0 + o, *(const V *)(best + o), n);
                P(store_indices)(args->indices + unit * s->ow + o0 + o, *(const I *)(where + o), n);
            }
            if (P(any)(P(is_nan)(seen))) {
                const int64_t i = unit % s->oh, at = (unit - i) * s->ow;
                P(careful)(s, x, (T *)args->out + at, args->indices + at, (range){i, i + 1}, (range){o0, o0 + outputs});
            }
        }
    }
}
