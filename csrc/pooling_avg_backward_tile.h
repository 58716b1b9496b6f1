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
        P(store)(shares + o, acc, L); /* past n: 0 */
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

/* What a block of columns of NCHW has in common. */
typedef struct P(spread_block) {
    int64_t start, width, first, n; /* input columns from start on; the n windows over them */
    int by_phase, single;        /* small windows at a stride of 1 or 2; one window over every column */
    range over[SPAN / 2];
} P(spread_block);

/* A row of dx from the shares of its windows; left: elements of the plane from there on. What a last vector covers of
 * later rows is written later, if the rows are not in blocks. */
FC_INLINE void P(spread_row)(const fc_pool2d_shape *s, const P(spread_block) *b, const T *shares, T *row, int64_t left)
{
    const int64_t width = b->width, room = b->width == s->iw ? left : width;
    if (b->n == 1 && b->single) {
        for (int64_t j = 0; j < width; j += L)
            P(store)(row + j, SPLAT(shares[0]), (int)min64(L, room - j));
    } else if (b->by_phase && s->sw == 1) {
        /* dx[j] = sum over taps of shares[j + pw - tap - first] */
        for (int64_t j = 0; j < width; j += L) {
            const T *last = shares + (b->start + j + s->pw - b->first);
            V acc = {0};
            for (int64_t k = s->kw - 1; k >= 0; k--)
                acc += *(const V *)(last - k);
            P(store)(row + j, acc, (int)min64(L, room - j));
        }
    } else if (b->by_phase) {
        /* Column j + pw = 2 q + r lies under taps r, r + 2, ... of windows q, q - 1, ... */
        const int64_t odd = (b->start + s->pw) % 2;
        for (int64_t j = 0; j < width; j += 2 * L) {
            const T *last = shares + ((b->start + j + s->pw) / 2 - b->first);
            V even = {0}, other = {0};
            for (int64_t k = odd; k < s->kw; k += 2)
                even += *(const V *)(last - k / 2);
            for (int64_t k = 1 - odd; k < s->kw; k += 2)
                other += *(const V *)(last + odd - k / 2);
            P(store_interleaved)(row + j, even, other, min64(2 * L, room - j));
        }
    } else if (b->single) {
        for (int64_t j = 0; j < width; j++)
            row[j] = shares[b->over[j].first - b->first];
    } else {
        for (int64_t j = 0; j < width; j++) {
            T acc = 0;
            for (int64_t o = b->over[j].first; o < b->over[j].end; o++)
                acc += shares[o - b->first];
            row[j] = acc;
        }
    }
}

/* Planes begin..end of the mb * c: per block of columns, the windows' shares row by row, then spread along the row. */
static void P(avg_backward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    enum { BLOCK = SPAN / 2, EDGE = SPAN_SLACK, ROOM = ROWS_BYTES / sizeof(T), MOST_ROWS = 32 };
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
    P(spread_block) b = {.by_phase = !s->adaptive && s->sw <= 2 && s->kw <= EDGE / 2};
    T counted[SPAN + SPAN_SLACK], buffers[ROOM + EDGE + SPAN + EDGE];
    for (b.start = 0; b.start < s->iw; b.start += b.width) {
        /* As many columns as have windows that fit the buffer. */
        b.width = min64(BLOCK, s->iw - b.start);
        b.first = windows_over(&along, b.start).first;
        while (windows_over(&along, b.start + b.width - 1).end - b.first > SPAN && b.width > 1)
            b.width /= 2;
        const int64_t n = b.n = max64(0, windows_over(&along, b.start + b.width - 1).end - b.first);
        if (n > SPAN) {
            for (int64_t plane = begin; plane < end; plane++)
                P(avg_backward_column)(s, (const T *)args->in + plane * outputs, (T *)args->out + plane * cells,
                                       b.start);
            continue;
        }
        for (int64_t o = 0; o < n + L; o++)
            counted[o] = s->divisor_override ? (T)s->divisor_override
                         : o < n ? (T)(window_at(&along, b.first + o).counted * (alike ? rows_counted : 1))
                                 : 1;
        b.single = 1;
        range columns = windows_over(&along, b.start);
        for (int64_t j = 0; j < b.width; j++) {
            columns = b.over[j] = windows_over_next(&along, columns, b.start + j);
            b.single &= columns.end == columns.first + 1;
        }
        /* Shares lie between zeros. Some rows of them are made before they are read. */
        const int64_t pitch = EDGE + n + EDGE, at_once = max64(1, min64(ROOM / pitch, MOST_ROWS));
        memset(buffers, 0, (size_t)(at_once * pitch) * sizeof(T));
        for (int64_t plane = begin; plane < end; plane++) {
            const T *dy = (const T *)args->in + plane * outputs;
            range rows = windows_over(&down, 0), before = {-1, -1};
            for (int64_t i0 = 0; i0 < s->ih; i0 += at_once) {
                const int64_t i1 = min64(i0 + at_once, s->ih);
                int like_before[MOST_ROWS];
                for (int64_t i = i0; i < i1; i++) {
                    rows = windows_over_next(&down, rows, i);
                    like_before[i - i0] = rows.first == before.first && rows.end == before.end;
                    if (!like_before[i - i0])
                        P(shares)(s, dy, &down, rows, b.first, n, counted, alike, buffers + (i - i0) * pitch + EDGE);
                    before = rows;
                }
                for (int64_t i = i0; i < i1; i++) {
                    const int64_t left = cells - i * s->iw;
                    T *row = (T *)args->out + (plane + 1) * cells - left + b.start;
                    if (like_before[i - i0])
                        memcpy(row, row - s->iw, (size_t)b.width * sizeof(T));
                    else
                        P(spread_row)(s, &b, buffers + (i - i0) * pitch + EDGE, row, left);
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
