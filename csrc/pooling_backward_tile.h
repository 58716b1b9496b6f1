/* The gradients' part of the template pooling_tile.h, which includes it: same types, vectors and names. */

#ifndef FC_POOL_BACKWARD_ONCE
#define FC_POOL_BACKWARD_ONCE
enum {
    SELECT_CELLS = 16,   /* in larger windows scattering beats comparing every cell with the index (NHWC) */
    SCATTER_REPEATS = 32, /* windows over a cell from which on neighbours name the same cell most of the time */
    ZERO_BYTES = 16384,  /* cleared at once, then scattered into while in L1 */
};
#endif

/* ---- Backward of the maximum --------------------------------------------------------------------------------- */

static void P(report_outside)(const fc_pool2d_args *args) { __atomic_store_n(args->outside, 1, __ATOMIC_RELAXED); }

/* Adds dy to the dx of n neighbouring planes, in turn: a sum that follows one to the same cell would wait for it. */
FC_INLINE void P(scatter)(const fc_pool2d_args *args, const T *dy, const int64_t *indices, T *dx, const int n)
{
    const fc_pool2d_shape *s = args->shape;
    const int64_t outputs = s->oh * s->ow, cells = s->ih * s->iw;
    int outside = 0;
    for (int64_t o = 0; o < outputs; o++)
        for (int p = 0; p < n; p++) {
            const uint64_t where = (uint64_t)indices[p * outputs + o];
            if (where < (uint64_t)cells)
                dx[p * cells + (int64_t)where] += dy[p * outputs + o];
            else
                outside = 1;
        }
    if (outside)
        P(report_outside)(args);
}

FC_INLINE void P(zero)(T *p, int64_t n)
{
    for (int64_t i = 0; i < n; i += L)
        P(store)(p + i, (V){0}, (int)min64(L, n - i));
}

/* 2x2, stride 2: n outputs, at most L; `width` cells of rows a and b are written. Whole: L may be read, which is faster.
 * Returns the lanes whose index named none of their four cells. */
FC_INLINE M P(select_2x2)(const T *dy, const int64_t *indices, T *a, T *b, INT corner, int64_t iw, int64_t width,
                          int whole, const int n)
{
    const V value = whole ? P(keep)(P(lanes_below)(n), *(const V *)dy) : P(load)(dy, n, (V){0});
    const I cell = (whole ? P(load_indices)(indices, L) : P(load_indices)(indices, n)) - (SPLAT_INT(corner) + 2 * IOTA);
    const M a0 = P(equal)(cell, SPLAT_INT(0)), a1 = P(equal)(cell, SPLAT_INT(1));
    const M b0 = P(equal)(cell, SPLAT_INT(iw)), b1 = P(equal)(cell, SPLAT_INT(iw + 1));
    P(store_interleaved)(a, P(keep)(a0, value), P(keep)(a1, value), width);
    P(store_interleaved)(b, P(keep)(b0, value), P(keep)(b1, value), width);
    return P(lanes_below)(n) & ~(a0 | a1 | b0 | b1);
}

/* 2x2, stride 2: each dy goes to one of its own four cells, so nothing is scattered. Returns 0 if an index names
 * another cell (it came from elsewhere): the caller then scatters. */
FC_INLINE int P(plane_2x2)(const fc_pool2d_shape *s, const T *dy, const T *dy_end, const int64_t *indices, T *dx)
{
    const int64_t iw = s->iw;
    const int n = (int)min64(L, s->ow);
    M missed = P(lanes_below)(0);
    for (int64_t i = 0; i < s->oh; i++, dy += s->ow, indices += s->ow) {
        T *a = dx + 2 * i * iw, *b = a + iw;
        const INT corner = (INT)(2 * i * iw);
        if (n < L) { /* the cells beyond the last window are lanes of 0 */
            missed |= P(select_2x2)(dy, indices, a, b, corner, iw, min64(iw, 2 * L), dy + L <= dy_end, n);
        } else {
            for (int64_t next = 0; next < s->ow; next += L) {
                const int64_t o = min64(next, s->ow - L);
                missed |= P(select_2x2)(dy + o, indices + o, a + 2 * o, b + 2 * o, corner + (INT)(2 * o), iw,
                                          2 * L, 1, L);
            }
            for (int64_t j = 2 * s->ow; j < iw; j++)
                a[j] = b[j] = 0;
        }
    }
    P(zero)(dx + 2 * s->oh * iw, (s->ih - 2 * s->oh) * iw);
    return !P(any)(missed);
}

/* Planes begin..end of the mb * c. */
static void P(max_backward_nchw)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s), along = columns_of(s);
    const int64_t cells = s->ih * s->iw, outputs = s->oh * s->ow;
    const T *dy_end = (const T *)args->in + s->mb * s->c * outputs;
    const int by_2x2 = is_2x2(&down, &along) && s->ow >= L / 2; /* shorter rows are scattered faster */
    const int repeats = !s->adaptive && s->kh * s->kw / (s->sh * s->sw) >= SCATTER_REPEATS;
    const int64_t at_once = by_2x2 ? 1 : repeats ? 4 : 1 + ZERO_BYTES / (cells * (int64_t)sizeof(T) + 1);
    for (int64_t plane = begin; plane < end; plane += at_once) {
        const int64_t last = min64(plane + at_once, end);
        const T *dy = (const T *)args->in + plane * outputs;
        const int64_t *indices = args->indices + plane * outputs;
        T *dx = (T *)args->out + plane * cells;
        if (by_2x2 && P(plane_2x2)(s, dy, dy_end, indices, dx))
            continue;
        memset(dx, 0, (size_t)((last - plane) * cells) * sizeof(T));
        if (repeats && last - plane == 4)
            P(scatter)(args, dy, indices, dx, 4);
        else
            for (int64_t p = plane; p < last; p++, dy += outputs, indices += outputs, dx += cells)
                P(scatter)(args, dy, indices, dx, 1);
    }
}

/* nv vectors of channels of one window, or n lanes of one: dy to the cell that the index names, 0 to the others. */
FC_INLINE void P(select)(const fc_pool2d_shape *s, const T *dy, const int64_t *indices, window rows, window columns,
                         T *dx, M *missed, const int nv, const int n)
{
    V value[2];
    I where[2];
    M hit[2];
    for (int v = 0; v < nv; v++) {
        value[v] = P(load)(dy + v * L, n, (V){0});
        where[v] = P(load_indices)(indices + v * L, n);
        hit[v] = P(lanes_below)(0);
    }
    for (int64_t i = rows.first; i < rows.end; i++) {
        INT index = (INT)(i * s->iw + columns.first);
        T *cell = dx + (int64_t)index * s->c;
        for (int64_t j = columns.first; j < columns.end; j++, index++, cell += s->c)
            for (int v = 0; v < nv; v++) {
                const M here = P(equal)(where[v], SPLAT_INT(index));
                hit[v] |= here;
                P(store)(cell + v * L, P(keep)(here, value[v]), n);
            }
    }
    for (int v = 0; v < nv; v++)
        *missed |= P(lanes_below)(n) & ~hit[v];
}

/* Channels k0..k1 of an image whose windows do not overlap, by comparing indices; returns 0 if one lay outside its own
 * window. Rows with cells under no window are cleared just before the first window reaches them. */
FC_INLINE int P(select_image)(const fc_pool2d_shape *s, const windows *along, const T *dy, const int64_t *indices, T *dx,
                              int64_t k0, int64_t k1)
{
    const axis down = rows_of(s);
    const int64_t c = s->c;
    M missed = P(lanes_below)(0);
    int64_t cleared = tiled(&down) && tiled(&along->a) ? s->ih : 0;
    for (int64_t i = 0; i < s->oh; i++) {
        const window rows = window_at(&down, i);
        for (; cleared < (i + 1 < s->oh ? rows.end : s->ih); cleared++)
            if (k1 - k0 == c)
                memset(dx + cleared * s->iw * c, 0, (size_t)(s->iw * c) * sizeof(T));
            else
                for (int64_t j = 0; j < s->iw; j++)
                    P(zero)(dx + (cleared * s->iw + j) * c + k0, k1 - k0);
        for (int64_t o = 0; o < s->ow; o++) {
            const window columns = kept_window(along, o);
            const int64_t at = (i * s->ow + o) * c;
            int64_t k = k0;
            for (; k + 2 * L <= k1; k += 2 * L)
                P(select)(s, dy + at + k, indices + at + k, rows, columns, dx + k, &missed, 2, L);
            if (k + L <= k1) {
                P(select)(s, dy + at + k, indices + at + k, rows, columns, dx + k, &missed, 1, L);
                k += L;
            }
            if (k < k1)
                P(select)(s, dy + at + k, indices + at + k, rows, columns, dx + k, &missed, 1,
                          (int)(k1 - k));
        }
    }
    return !P(any)(missed);
}

/* Units begin..end of the mb * blocks: an image's block of channels. */
static void P(max_backward_nhwc)(const fc_pool2d_args *args, int64_t begin, int64_t end)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s);
    windows along;
    keep_windows(&along, columns_of(s));
    const int64_t c = s->c, blocks = (c + args->block - 1) / args->block;
    const int select = !s->adaptive && s->dh == 1 && s->dw == 1 && !overlap(&down) && !overlap(&along.a) &&
                       s->kh * s->kw <= SELECT_CELLS;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t image = unit / blocks, k0 = unit % blocks * args->block, k1 = min64(k0 + args->block, c);
        const T *dy = (const T *)args->in + image * s->oh * s->ow * c;
        const int64_t *indices = args->indices + image * s->oh * s->ow * c;
        T *dx = (T *)args->out + image * s->ih * s->iw * c;
        if (select && P(select_image)(s, &along, dy, indices, dx, k0, k1))
            continue;
        /* Not selected, or an index outside its own window (it came from elsewhere). */
        if (k1 - k0 == c)
            memset(dx, 0, (size_t)(s->ih * s->iw * c) * sizeof(T));
        else
            for (int64_t cell = 0; cell < s->ih * s->iw; cell++)
                P(zero)(dx + cell * c + k0, k1 - k0);
        const uint64_t cells = (uint64_t)(s->ih * s->iw);
        int outside = 0;
        for (int64_t o = 0; o < s->oh * s->ow; o++)
            for (int64_t k = k0; k < k1; k++)
                if ((uint64_t)indices[o * c + k] < cells)
                    dx[indices[o * c + k] * c + k] += dy[o * c + k];
                else
                    outside = 1;
        if (outside)
            P(report_outside)(args);
    }
}

/* ---- Backward of the average --------------------------------------------------------------------------------- */

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
