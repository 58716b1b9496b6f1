/* Part of the template pooling_tile.h: the gradient of a maximum. */

/* Adds dy of the outputs begin..end of n neighbouring planes to their dx, in turn: a sum that follows one to the same
 * cell would wait for it. Returns whether an index was not below `cells`: it adds nothing. */
FC_INLINE int P(scatter)(const fc_pool2d_shape *s, const T *dy, const int64_t *indices, T *dx, int64_t begin,
                         int64_t end, int64_t cells, const int n)
{
    const int64_t outputs = s->oh * s->ow, plane = s->ih * s->iw;
    int beyond = 0;
    for (int64_t o = begin; o < end; o++)
        for (int p = 0; p < n; p++) {
            const uint64_t where = (uint64_t)indices[p * outputs + o];
            if (where < (uint64_t)cells)
                dx[p * plane + (int64_t)where] += dy[p * outputs + o];
            else
                beyond = 1;
        }
    return beyond;
}

/* Functions of their own: inlined, their pointers are spilled. */
FC_NOINLINE int P(scatter_4)(const fc_pool2d_shape *s, const T *dy, const int64_t *indices, T *dx, int64_t begin,
                             int64_t end, int64_t cells)
{
    return P(scatter)(s, dy, indices, dx, begin, end, cells, 4);
}

FC_NOINLINE int P(scatter_1)(const fc_pool2d_shape *s, const T *dy, const int64_t *indices, T *dx, int64_t begin,
                             int64_t end, int64_t cells)
{
    return P(scatter)(s, dy, indices, dx, begin, end, cells, 1);
}

/* The dx of 4 neighbouring planes, or of 1. Some rows of windows at a time: the cells down to their last row are
 * cleared, so that additions find them in L1. */
static void P(scatter_planes)(const fc_pool2d_args *args, const T *dy, const int64_t *indices, T *dx, const int n)
{
    const fc_pool2d_shape *s = args->shape;
    const axis down = rows_of(s);
    const int64_t cells = s->ih * s->iw;
    const int64_t rows = max64(1, s->oh * CLEAR_BYTES / (n * cells * (int64_t)sizeof(T)));
    int64_t cleared = 0;
    int beyond = 0;
    for (int64_t i = 0; i < s->oh && rows < s->oh; i += rows) {
        const int64_t next = min64(i + rows, s->oh);
        const int64_t needed = next < s->oh ? window_at(&down, next - 1).end * s->iw : cells;
        for (int p = 0; p < n; p++)
            memset(dx + p * cells + cleared, 0, (size_t)(needed - cleared) * sizeof(T));
        cleared = needed;
        beyond |= (n == 4 ? P(scatter_4) : P(scatter_1))(s, dy, indices, dx, i * s->ow, next * s->ow, cleared);
    }
    if (beyond || rows >= s->oh) { /* few cells, or an index below its window: it came from elsewhere */
        memset(dx, 0, (size_t)(n * cells) * sizeof(T));
        if ((n == 4 ? P(scatter_4) : P(scatter_1))(s, dy, indices, dx, 0, s->oh * s->ow, cells))
            __atomic_store_n(args->outside, 1, __ATOMIC_RELAXED);
    }
}

/* 2x2, stride 2: n outputs, at most L; a_width and b_width cells of rows a and b are written. Whole: L may be read,
 * which is faster. Returns the lanes whose index named none of their four cells. */
FC_INLINE M P(select_2x2)(const T *dy, const int64_t *indices, T *a, T *b, INT corner, int64_t iw, int64_t a_width,
                          int64_t b_width, const int whole, const int n)
{
    const V value = whole ? P(keep)(P(lanes_below)(n), *(const V *)dy) : P(load)(dy, n, (V){0});
    const I cell = (whole ? P(load_indices)(indices, L) : P(load_indices)(indices, n)) - (SPLAT_INT(corner) + 2 * IOTA);
    const M a0 = P(equal)(cell, SPLAT_INT(0)), a1 = P(equal)(cell, SPLAT_INT(1));
    const M b0 = P(equal)(cell, SPLAT_INT(iw)), b1 = P(equal)(cell, SPLAT_INT(iw + 1));
    P(store_interleaved)(a, P(keep)(a0, value), P(keep)(a1, value), a_width);
    P(store_interleaved)(b, P(keep)(b0, value), P(keep)(b1, value), b_width);
    return P(lanes_below)(n) & ~(a0 | a1 | b0 | b1);
}

/* A plane of 2x2 windows, stride 2, of less than L a row: each vector is stored whole where the plane has room for it,
 * as what it covers of later rows is written later. */
FC_INLINE M P(narrow_2x2)(const fc_pool2d_shape *s, const T *dy, const T *dy_end, const int64_t *indices, T *dx)
{
    const int64_t iw = s->iw, cells = s->ih * iw;
    const int n = (int)s->ow;
    M missed = P(lanes_below)(0);
    for (int64_t i = 0; i < s->oh; i++, dy += n, indices += n) {
        const int64_t a = 2 * i * iw, b = a + iw;
        if (dy + L <= dy_end && b + 2 * L <= cells)
            missed |= P(select_2x2)(dy, indices, dx + a, dx + b, (INT)a, iw, 2 * L, 2 * L, 1, n);
        else
            missed |= P(select_2x2)(dy, indices, dx + a, dx + b, (INT)a, iw, min64(cells - a, 2 * L),
                                    min64(cells - b, 2 * L), 0, n);
    }
    return missed;
}

FC_INLINE M P(wide_2x2)(const fc_pool2d_shape *s, const T *dy, const int64_t *indices, T *dx)
{
    const int64_t iw = s->iw;
    M missed = P(lanes_below)(0);
    for (int64_t i = 0; i < s->oh; i++, dy += s->ow, indices += s->ow) {
        T *a = dx + 2 * i * iw, *b = a + iw;
        const INT corner = (INT)(2 * i * iw);
        for (int64_t next = 0; next < s->ow; next += L) {
            const int64_t o = min64(next, s->ow - L);
            missed |= P(select_2x2)(dy + o, indices + o, a + 2 * o, b + 2 * o, corner + (INT)(2 * o), iw, 2 * L, 2 * L,
                                    1, L);
        }
        for (int64_t j = 2 * s->ow; j < iw; j++)
            a[j] = b[j] = 0;
    }
    return missed;
}

/* 2x2, stride 2: each dy goes to one of its own four cells, so nothing is scattered. Returns 0 if an index names
 * another cell (it came from elsewhere): the caller then scatters. */
FC_INLINE int P(plane_2x2)(const fc_pool2d_shape *s, const T *dy, const T *dy_end, const int64_t *indices, T *dx)
{
    const M missed = s->ow < L ? P(narrow_2x2)(s, dy, dy_end, indices, dx) : P(wide_2x2)(s, dy, indices, dx);
    P(zero)(dx + 2 * s->oh * s->iw, (s->ih - 2 * s->oh) * s->iw);
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
    int64_t n = 1;
    for (int64_t plane = begin; plane < end; plane += n) {
        const T *dy = (const T *)args->in + plane * outputs;
        const int64_t *indices = args->indices + plane * outputs;
        T *dx = (T *)args->out + plane * cells;
        n = !by_2x2 && plane + 4 <= end ? 4 : 1;
        if (n == 4)
            P(scatter_planes)(args, dy, indices, dx, 4);
        else if (!by_2x2 || !P(plane_2x2)(s, dy, dy_end, indices, dx))
            P(scatter_planes)(args, dy, indices, dx, 1);
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
FC_INLINE int P(select_image)(const fc_pool2d_shape *s, const windows *along, const T *dy, const int64_t *indices,
                              T *dx, int64_t k0, int64_t k1)
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
            __atomic_store_n(args->outside, 1, __ATOMIC_RELAXED);
    }
}
