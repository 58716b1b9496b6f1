/* Part of the template pooling_tile.h: the gradient of an average. */

/* shares[o] = what each cell of a row covered by windows `rows` gets from those of column first + o, o < n. */
FC_INLINE void P(shares)(const fc_pool2d_shape *s, const T *dy, const axis *down, range rows, int64_t first, int64_t n,
                         const T *counted, const int alike, T *shares)
{
    for (int64_t o = 0; o < n; o += L) {
        const int lanes = (int)min64(L, n - o);
        const V columns = *(const V *)(counted + o);
        V acc = {0};
        for (int64_t i = rows.first; i < rows.end; i++) {
            const V value = P(load)(dy + i * s->ow + first + o, lanes, (V){0});
            if (alike)
                acc += value;
            else
                acc += value / (columns * SPLAT(window_at(down, i).counted));
        }
        if (alike)
            acc /= columns;
        P(store)(shares + o, acc, lanes);
    }
}

/* One column under more windows than a row buffer holds. */
static void P(avg_backward_column)(const fc_pool2d_shape *s, const T *dy, T *dx, int64_t j)
{
    const axis down = rows_of(s), along = columns_of(s);
    const range columns = windows_over(&along, j);
    for (int64_t i = 0; i < s->ih; i++) {
        const range rows = windows_over(&down, i);
        T total = 0;
        for (int64_t a = rows.first; a < rows.end; a++) {
            T row = 0;
            for (int64_t b = columns.first; b < columns.end; b++)
                row += dy[a * s->ow + b] /
                       (T)(s->divisor_override ? s->divisor_override
                                               : window_at(&down, a).counted * window_at(&along, b).counted);
            total += row;
        }
        dx[i * s->iw + j] = total;
    }
}

/* 2x2, stride 2: each share is written twice in each of two rows. */
FC_INLINE void P(spread_2x2)(const fc_pool2d_shape *s, const T *dy, T *dx)
{
    const V inverse = SPLAT(P(inverse)(s->divisor_override ? s->divisor_override : 4));
    const int n = (int)min64(L, s->ow);
    const int64_t iw = s->iw;
    for (int64_t i = 0; i < s->oh; i++, dy += s->ow) {
        T *a = dx + 2 * i * iw, *b = a + iw;
        if (n < L) { /* the cells beyond the last window are lanes of 0 */
            const V share = P(load)(dy, n, (V){0}) * inverse;
            P(store_interleaved)(a, share, share, min64(iw, 2 * L));
            P(store_interleaved)(b, share, share, min64(iw, 2 * L));
            continue;
        }
        for (int64_t next = 0; next < s->ow; next += L) {
            const int64_t o = min64(next, s->ow - L);
            const V share = *(const V *)(dy + o) * inverse;
            P(store_interleaved)(a + 2 * o, share, share, 2 * L);
            P(store_interleaved)(b + 2 * o, share, share, 2 * L);
        }
        for (int64_t j = 2 * s->ow; j < iw; j++)
            a[j] = b[j] = 0;
    }
    P(zero)(dx + 2 * s->oh * iw, (s->ih - 2 * s->oh) * iw);
}

/* Planes begin..end of the mb * c: per block of columns, the windows' shares row by row, then spread along the row. */
static void P(avg_backward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    enum { BLOCK = SPAN / 2, EDGE = SPAN_SLACK };
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t cells = s->ih * s->iw, outputs = s->oh * s->ow;
    if (is_2x2(&down, &along)) {
        for (int64_t plane = begin; plane < end; plane++)
            P(spread_2x2)(s, (const T *)args->in + plane * outputs, (T *)args->out + plane * cells);
        return;
    }
    const int alike = s->divisor_override || (counts_alike(&down) && counts_alike(&along));
    const int64_t rows_counted = window_at(&down, 0).counted;
    if (outputs == 1 && tiled(&down) && tiled(&along)) { /* global */
        const int64_t counted =
            s->divisor_override ? s->divisor_override : rows_counted * window_at(&along, 0).counted;
        for (int64_t plane = begin; plane < end; plane++) {
            T *dx = (T *)args->out + plane * cells;
            const V share = SPLAT(((const T *)args->in)[plane] / (T)counted);
            for (int64_t i = 0; i < cells; i += L)
                P(store)(dx + i, share, (int)min64(L, cells - i));
        }
        return;
    }
    const int by_phase = !s->adaptive && s->sw <= 2 && s->kw <= EDGE / 2;
    T counted[SPAN + SPAN_SLACK], padded[EDGE + SPAN + SPAN_SLACK + EDGE];
    T *const shares = padded + EDGE;
    range over[BLOCK];
    int64_t width = 0;
    for (int64_t j0 = 0; j0 < s->iw; j0 += width) {
        /* As many columns as have windows that fit the buffer. */
        width = min64(BLOCK, s->iw - j0);
        const int64_t first = windows_over(&along, j0).first;
        while (windows_over(&along, j0 + width - 1).end - first > SPAN && width > 1)
            width /= 2;
        const int64_t n = max64(0, windows_over(&along, j0 + width - 1).end - first);
        if (n > SPAN) {
            for (int64_t plane = begin; plane < end; plane++)
                P(avg_backward_column)(s, (const T *)args->in + plane * outputs, (T *)args->out + plane * cells, j0);
            continue;
        }
        for (int64_t o = 0; o < n + L; o++)
            counted[o] = s->divisor_override ? (T)s->divisor_override
                         : o < n             ? (T)(window_at(&along, first + o).counted * (alike ? rows_counted : 1))
                                             : 1;
        for (int64_t o = 0; o < EDGE; o++)
            padded[o] = shares[n + o] = 0;
        int single = 1; /* one window over every column */
        range columns = windows_over(&along, j0);
        for (int64_t j = 0; j < width; j++) {
            columns = over[j] = windows_over_next(&along, columns, j0 + j);
            single &= columns.end == columns.first + 1;
        }
        for (int64_t plane = begin; plane < end; plane++) {
            const T *dy = (const T *)args->in + plane * outputs;
            range rows = windows_over(&down, 0), before = {-1, -1};
            for (int64_t i = 0; i < s->ih; i++) {
                T *row = (T *)args->out + plane * cells + i * s->iw + j0;
                rows = windows_over_next(&down, rows, i);
                if (rows.first == before.first && rows.end == before.end) {
                    for (int64_t j = 0; j < width; j += L) {
                        const int lanes = (int)min64(L, width - j);
                        P(store)(row + j, P(load)(row + j - s->iw, lanes, (V){0}), lanes);
                    }
                    continue;
                }
                before = rows;
                P(shares)(s, dy, &down, rows, first, n, counted, alike, shares);
                if (n == 1 && single) {
                    for (int64_t j = 0; j < width; j += L)
                        P(store)(row + j, SPLAT(shares[0]), (int)min64(L, width - j));
                } else if (by_phase && s->sw == 1) {
                    /* dx[j] = sum over taps of shares[j + pw - tap - first] */
                    for (int64_t j = 0; j < width; j += L) {
                        const T *last = shares + (j0 + j + s->pw - first);
                        V acc = {0};
                        for (int64_t k = s->kw - 1; k >= 0; k--)
                            acc += *(const V *)(last - k);
                        P(store)(row + j, acc, (int)min64(L, width - j));
                    }
                } else if (by_phase) {
                    /* Column j + pw = 2 q + r lies under taps r, r + 2, ... of windows q, q - 1, ... */
                    const int64_t odd = (j0 + s->pw) % 2;
                    for (int64_t j = 0; j < width; j += 2 * L) {
                        const T *last = shares + ((j0 + j + s->pw) / 2 - first);
                        V phase[2] = {{0}, {0}};
                        for (int r = 0; r < 2; r++)
                            for (int64_t k = (r + odd) % 2; k < s->kw; k += 2)
                                phase[r] += *(const V *)(last + (r & odd) - k / 2);
                        P(store_interleaved)(row + j, phase[0], phase[1], min64(2 * L, width - j));
                    }
                } else if (single) {
                    for (int64_t j = 0; j < width; j++)
                        row[j] = shares[over[j].first - first];
                } else {
                    for (int64_t j = 0; j < width; j++) {
                        T acc = 0;
                        for (int64_t o = over[j].first; o < over[j].end; o++)
                            acc += shares[o - first];
                        row[j] = acc;
                    }
                }
            }
        }
    }
}

/* nv vectors of channels of one input cell, or n lanes of one: its share of every window over it. */
FC_INLINE void P(spread)(const fc_pool2d_shape *s, const T *dy, const windows *down, const windows *along, range rows,
                         range columns, T inverse, const int alike, T *dx, const int nv, const int n)
{
    V acc[4];
    for (int v = 0; v < nv; v++)
        acc[v] = (V){0};
    for (int64_t i = rows.first; i < rows.end; i++)
        for (int64_t o = columns.first; o < columns.end; o++) {
            const T *from = dy + (i * s->ow + o) * s->c;
            const T share =
                alike ? 1 : P(inverse)(kept_window(down, i).counted * kept_window(along, o).counted);
            for (int v = 0; v < nv; v++) {
                const V value = P(load)(from + v * L, n, (V){0});
                acc[v] += alike ? value : (V)(value * SPLAT(share));
            }
        }
    for (int v = 0; v < nv; v++)
        P(store)(dx + v * L, alike ? (V)(acc[v] * SPLAT(inverse)) : acc[v], n);
}

FC_INLINE void P(avg_backward_rows)(const fc_pool2d_args *args, int64_t begin, int64_t end, const int alike)
{
    const fc_pool2d_shape *s = args->shape;
    windows down, along;
    keep_windows(&down, rows_of(s));
    keep_windows(&along, columns_of(s));
    const int64_t c = s->c;
    const T inverse = P(inverse)(s->divisor_override ? s->divisor_override
                                                     : down.kept[0].counted * along.kept[0].counted);
    const int apart = alike && !overlap(&down.a) && !overlap(&along.a);
    for (int64_t unit = begin; unit < end; unit++) {
        const T *dy = (const T *)args->in + unit / s->ih * s->oh * s->ow * c;
        T *dx = (T *)args->out + unit * s->iw * c;
        const range rows = windows_over(&down.a, unit % s->ih);
        if (apart) {
            /* At most one window over a cell: each dy is multiplied once for all cells of its row. */
            if (rows.first >= rows.end || !tiled(&along.a))
                memset(dx, 0, (size_t)(s->iw * c) * sizeof(T));
            for (int64_t o = 0; o < (rows.first < rows.end ? s->ow : 0); o++) {
                const window columns = kept_window(&along, o);
                const T *from = dy + (rows.first * s->ow + o) * c;
                for (int64_t k = 0; k < c; k += L) {
                    const int n = (int)min64(L, c - k);
                    const V share = P(load)(from + k, n, (V){0}) * SPLAT(inverse);
                    for (int64_t j = columns.first; j < columns.end; j++)
                        P(store)(dx + j * c + k, share, n);
                }
            }
            continue;
        }
        range columns = windows_over(&along.a, 0);
        for (int64_t j = 0; j < s->iw; j++, dx += c) {
            columns = windows_over_next(&along.a, columns, j);
            int64_t k = 0;
#define SPREAD(nv, n) P(spread)(s, dy + k, &down, &along, rows, columns, inverse, alike, dx + k, nv, n)
            for (; k + 4 * L <= c; k += 4 * L)
                SPREAD(4, L);
            for (; k + L <= c; k += L)
                SPREAD(1, L);
            if (k < c)
                SPREAD(1, (int)(c - k));
#undef SPREAD
        }
    }
}

/* Input rows begin..end of the mb * ih. */
static void P(avg_backward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    if (s->divisor_override || (counts_alike(&down) && counts_alike(&along)))
        P(avg_backward_rows)(args, begin, end, 1);
    else
        P(avg_backward_rows)(args, begin, end, 0);
}
