/* Template of the depthwise kernels in NCHW, part of depthwise_tile.h: vectors along the width.
 *
 * A block is a vector of output columns times several output rows: each input row is loaded once for all of them,
 * shifted by each tap of the width, or split into even and odd columns where the stride is 2. */

#ifndef FC_DW_PLANES_ONCE
#define FC_DW_PLANES_ONCE
enum {
    MOST_BLOCK_ROWS = 14,
    LOW_ROWS = 7,          /* of a block where a plane has no more */
    LARGE_FILTER_ROWS = 8, /* ... of filters over 3x3, whose taps do not stay in registers (Zen 4: 1.5 times 4 rows) */
};

/* Some output rows of a plane. x: row 0 of the input rows under them, which may be outside: rows [row0, row1) are
 * not. Columns from `column` on. Several planes are summed one after the other: the sum so far is in y, and is
 * finished after the last. */
typedef struct fc_depthwise_rows {
    const fc_depthwise_args *args;
    const void *x, *w, *bias, *residual;
    void *y;
    int64_t column, row0, row1, rows;
    int first, last;
} fc_depthwise_rows;
#endif

/* The cells of an input row under L output columns, for each tap. row: at the first output's first tap, a column
 * that the image's [begin, end) are counted from; edge: some may be outside. */
FC_INLINE void P(cells_of_row)(const T *row, int64_t begin, int64_t end, V cells[8], const M first[8], M second,
                               const int kernel, const int s, const int edge)
{
    if (s == 1) {
#pragma GCC unroll 8
        for (int b = 0; b < kernel; b++)
            cells[b] = edge ? P(load_lanes)(row + b, first[b]) : *(const V *)(row + b);
        return;
    }
    const V low = edge ? P(load_lanes)(row, first[0]) : *(const V *)row;
    const V high = edge ? P(load_lanes)(row + L, second) : *(const V *)(row + L);
    cells[0] = __builtin_shuffle(low, high, 2 * IOTA);
    cells[1] = __builtin_shuffle(low, high, 2 * IOTA + 1);
#pragma GCC unroll 8
    for (int b = 2; b < kernel; b++) { /* two columns further: those before, and one more */
        const int at = 2 * L + b - 2;
        const V more = SPLAT(!edge || (at >= begin && at < end) ? row[at] : 0);
        cells[b] = __builtin_shuffle(cells[b - 2], more, IOTA + 1);
    }
}

#ifdef FC_DW_NARROW
#define NARROW(name) FC_JOIN(FC_DW_NARROW, _##name)
#else
#define NARROW(name) NULL
#endif

#define LARGE(kernel, s) ((kernel) > 3 && (s) == 1)

/* The sums of a vector of columns of all rows, of a filter over 3x3 at stride 1: one column of taps after the other, so
 * that they are in registers. x: at the first output's first tap. */
FC_INLINE void P(large_sums)(const fc_depthwise_rows *t, V *acc, const T *x, int64_t begin, int64_t end,
                             const int kernel, const int rows, const int edge)
{
    const fc_depthwise_args *a = t->args;
    const int64_t row0 = t->row0, row1 = t->row1, in_row = a->in_row, w_h = a->w_h;
    const T *w = t->w;
    for (int64_t b = 0; b < kernel; b++, x++, w += a->w_w) {
        V taps[8];
#pragma GCC unroll 8
        for (int h = 0; h < kernel; h++)
            taps[h] = SPLAT(w[h * w_h]);
        const M inside = P(from_to)(begin - b, end - b);
        const T *row = x;
#pragma GCC unroll 32
        for (int r = 0; r < rows - 1 + kernel; r++, row += in_row) {
            if (r < row0 || r >= row1)
                continue;
            const V cell = P(load)(row, !edge, inside);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++)
                if (r - i >= 0 && r - i < kernel)
                    FC_MULTIPLY_ADD(acc[i], cell, taps[r - i]);
        }
    }
}

/* A vector of columns of all rows. x, y, residual: at its first. */
FC_INLINE void P(block)(const fc_depthwise_rows *t, const V taps[7 * 7], V start, const T *x, T *y, const T *residual,
                        int64_t left, int64_t n, const int kernel, const int s, const int rows, const int edge)
{
    const fc_depthwise_args *a = t->args;
    const int64_t begin = -left, end = a->in_w - left, row0 = t->row0, row1 = t->row1, out_row = a->out_row;
    V acc[MOST_BLOCK_ROWS];
    M first[8], second = P(from_to)(0, 0);
    const M some = P(from_to)(0, n);
    if (edge) {
#pragma GCC unroll 8
        for (int b = 0; b < kernel; b++)
            first[b] = P(from_to)(begin - b, end - b);
        if (s == 2)
            second = P(from_to)(begin - L, end - L);
    }
    if (t->first) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            acc[i] = start;
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            acc[i] = i < t->rows ? P(load)(y + i * out_row, !edge, some) : start;
    }
    if (LARGE(kernel, s)) {
        P(large_sums)(t, acc, x, begin, end, kernel, rows, edge);
    } else {
#pragma GCC unroll 32
        for (int r = 0; r < (rows - 1) * s + kernel; r++, x += a->in_row) {
            if (r < row0 || r >= row1)
                continue;
            V cells[8];
            P(cells_of_row)(x, begin, end, cells, first, second, kernel, s, edge);
#pragma GCC unroll 8
            for (int b = 0; b < kernel; b++) {
                KEEP(cells[b]);
#pragma GCC unroll 16
                for (int i = 0; i < rows; i++)
                    if (r - i * s >= 0 && r - i * s < kernel)
                        acc[i] += cells[b] * taps[(r - i * s) * kernel + b];
            }
        }
    }
    if (t->last && residual) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            if (i < t->rows)
                acc[i] += P(load)(residual + i * out_row, !edge, some);
    }
    if (t->last && a->clamp) {
        const V lo = SPLAT(a->lo), hi = SPLAT(a->hi);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            acc[i] = P(clamped)(acc[i], lo, hi);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        if (i < t->rows && edge)
            P(store_first)(y + i * out_row, acc[i], n, some);
        else if (i < t->rows)
            *(V *)(y + i * out_row) = acc[i];
}

/* narrow: what does a rest of at most L / 2 columns, or NULL. */
FC_INLINE void P(blocks)(const fc_depthwise_rows *t, const int kernel, const int s, const int rows,
                         void (*narrow)(const fc_depthwise_rows *t))
{
    const fc_depthwise_args *a = t->args;
    const int64_t reach = s == 1 ? L + kernel - 1 : 2 * L + kernel - 2; /* columns loaded */
    const T *const w = t->w;
    V taps[7 * 7];
    if (!LARGE(kernel, s)) {
#pragma GCC unroll 49
        for (int tap = 0; tap < kernel * kernel; tap++) {
            taps[tap] = SPLAT(w[tap / kernel * a->w_h + tap % kernel * a->w_w]);
            if (kernel == 3)
                KEEP(taps[tap]);
        }
    }
    const V start = SPLAT(t->bias ? *(const T *)t->bias : 0);
    for (int64_t j = t->column; j < a->out_w; j += L) {
        const int64_t left = j * s + a->left, n = min64(L, a->out_w - j);
        const T *const x = (const T *)t->x + left, *residual = t->residual ? (const T *)t->residual + j : NULL;
        T *const y = (T *)t->y + j;
        if (narrow && 2 * n <= L) {
            fc_depthwise_rows rest = *t;
            rest.column = j;
            narrow(&rest);
            return;
        }
#ifndef FC_DW_IS_NARROW
        if (!MASKED_ONLY(kernel) && n == L && left >= 0 && left + reach <= a->in_w) {
            P(block)(t, taps, start, x, y, residual, left, n, kernel, s, rows, 0);
            continue;
        }
#endif
        P(block)(t, taps, start, x, y, residual, left, n, kernel, s, rows, 1);
    }
    (void)reach;
}

#define BLOCKS(name, kernel, s, rows)                               \
    static void P(name)(const fc_depthwise_rows *t)                 \
    {                                                               \
        P(blocks)(t, kernel, s, rows, NARROW(name));                \
    }
BLOCKS(blocks_3, 3, 1, FC_DW_ROWS)
BLOCKS(blocks_3_low, 3, 1, LOW_ROWS)
BLOCKS(blocks_5, 5, 1, LARGE_FILTER_ROWS)
BLOCKS(blocks_7, 7, 1, LARGE_FILTER_ROWS)
BLOCKS(blocks_3_by_2, 3, 2, FC_DW_ROWS_BY_2)
BLOCKS(blocks_5_by_2, 5, 2, LARGE_FILTER_ROWS)
BLOCKS(blocks_7_by_2, 7, 2, LARGE_FILTER_ROWS)
#undef BLOCKS

#ifndef FC_DW_IS_NARROW

typedef struct P(blocks_function) {
    void (*run)(const fc_depthwise_rows *t); /* NULL: none for this shape */
    int64_t rows;
} P(blocks_function);

static P(blocks_function) P(blocks_of)(const fc_depthwise_args *a)
{
    const int64_t kernel = a->taps_h;
    const P(blocks_function) none = {NULL, 1};
    if (kernel != a->taps_w || a->step_h != 1 || a->step_w != 1 || a->sh != a->sw || a->nonfinite || a->out_col != 1)
        return none;
#ifdef FC_DW_NARROW
#define CHOOSE(name, rows) return (P(blocks_function)){2 * a->out_w <= L ? NARROW(name) : P(name), rows}
#else
#define CHOOSE(name, rows) return (P(blocks_function)){P(name), rows}
#endif
    if (a->sw == 1)
        switch (kernel) {
        case 3:
            if (a->out_h <= LOW_ROWS)
                CHOOSE(blocks_3_low, LOW_ROWS);
            CHOOSE(blocks_3, FC_DW_ROWS);
        case 5: CHOOSE(blocks_5, LARGE_FILTER_ROWS);
        case 7: CHOOSE(blocks_7, LARGE_FILTER_ROWS);
        }
    if (a->sw == 2)
        switch (kernel) {
        case 3: CHOOSE(blocks_3_by_2, FC_DW_ROWS_BY_2);
        case 5: CHOOSE(blocks_5_by_2, LARGE_FILTER_ROWS);
        case 7: CHOOSE(blocks_7_by_2, LARGE_FILTER_ROWS);
        }
#undef CHOOSE
    return none;
}

/* The cells at column + l*sw of a row; `inside`: which of them the image has, the others are 0. */
FC_INLINE V P(any_cells)(const fc_depthwise_args *a, const T *row, int64_t column, I *inside)
{
    const int64_t sw = a->sw;
    T lanes[L] = {0};
    I within = {0};
    if (sw == 1) {
        const M some = P(from_to)(-column, a->in_w - column);
        if (column >= 0 && column + L <= a->in_w) {
            *inside = ~within;
            return *(const V *)(row + column);
        }
        const int64_t first = max64(0, min64(-column, L)), end = max64(0, min64(a->in_w - column, L));
        *inside = (I)(IOTA >= (INT)first) & (I)(IOTA < (INT)end);
        return P(load_lanes)(row + column, some);
    }
    for (int l = 0; l < L; l++) {
        const int64_t at = column + l * sw;
        if (at >= 0 && at < a->in_w) {
            lanes[l] = row[at];
            within[l] = -1;
        }
    }
    *inside = within;
    V v;
    memcpy(&v, lanes, sizeof v);
    return v;
}

/* A vector of columns of output row i, from column j: any filter, stride and dilation. */
static void P(any_block)(const fc_depthwise_args *a, const T *x, const T *w, const T *bias, int64_t i, int64_t j, T *y,
                         const T *residual)
{
    const int64_t n = min64(L, a->out_w - j);
    V acc = SPLAT(bias ? *bias : 0);
    for (int64_t k = 0; k < a->depth; k++)
        for (int64_t h = 0; h < a->taps_h; h++) {
            const int64_t r = i * a->sh + a->top + h * a->step_h;
            const T *const tap = w + k * a->w_k + h * a->w_h, *const row = x + k * a->in_plane + r * a->in_row;
            if (r < 0 || r >= a->in_h) {
                for (int64_t b = 0; b < a->taps_w && a->outside; b++)
                    acc += (V){0} * SPLAT(tap[b * a->w_w]);
                continue;
            }
            for (int64_t b = 0; b < a->taps_w; b++) {
                I inside;
                const V cells = P(any_cells)(a, row, j * a->sw + a->left + b * a->step_w, &inside);
                const V sum = acc + cells * SPLAT(tap[b * a->w_w]);
                acc = a->nonfinite && !a->outside ? (V)((inside & (I)sum) | (~inside & (I)acc)) : sum;
            }
        }
    T lanes[L];
    if (a->out_col == 1) {
        const M some = P(from_to)(0, n);
        if (residual)
            acc += P(load_lanes)(residual, some);
        if (a->clamp)
            acc = P(clamped)(acc, SPLAT(a->lo), SPLAT(a->hi));
        P(store_first)(y, acc, n, some);
        return;
    }
    if (residual) {
        V more = {0};
        for (int64_t l = 0; l < n; l++)
            more[l] = residual[l * a->out_col];
        acc += more;
    }
    if (a->clamp)
        acc = P(clamped)(acc, SPLAT(a->lo), SPLAT(a->hi));
    memcpy(lanes, &acc, sizeof acc);
    for (int64_t l = 0; l < n; l++)
        y[l * a->out_col] = lanes[l];
}

/* ---- Input gradients at stride 2: the classes of even and of odd columns interleaved */

typedef struct P(tap) {
    int64_t offset, column; /* of its cell under output (0, 0) */
    M inside;               /* of the columns in work, those inside of the image */
    T w;
} P(tap);

/* The taps of one class, row after row; returns their number. */
FC_INLINE int64_t P(list_taps)(const fc_depthwise_args *a, const T *w, P(tap) *taps)
{
    int64_t count = 0;
    for (int64_t h = 0; h < a->taps_h; h++)
        for (int64_t b = 0; b < a->taps_w; b++) {
            P(tap) *t = &taps[count++];
            t->column = a->left + b * a->step_w;
            t->offset = (a->top + h * a->step_h) * a->in_row + t->column;
            t->w = w[h * a->w_h + b * a->w_w];
        }
    return count;
}

FC_INLINE V P(add_taps)(V acc, const P(tap) *taps, int64_t begin, int64_t end, const T *x)
{
    for (int64_t t = begin; t < end; t++)
        acc += P(load_lanes)(x + taps[t].offset, taps[t].inside) * SPLAT(taps[t].w);
    return acc;
}

/* One plane of the rows of both classes. */
static void P(pair_plane)(const fc_depthwise_args *a, const T *x, const T *w, const T *w_odd, const T *bias, T *y,
                          const T *residual)
{
    P(tap) taps[2][FC_DEPTHWISE_PAIR_TAPS];
    const int64_t count[2] = {P(list_taps)(a, w, taps[0]), P(list_taps)(a->odd, w_odd, taps[1])};
    const int64_t width = a->out_w + a->odd->out_w, even_w = a->taps_w, odd_w = a->odd->taps_w;
    const V start = SPLAT(bias ? *bias : 0), lo = SPLAT(a->lo), hi = SPLAT(a->hi);
    const I low = (IOTA >> 1) + (IOTA & 1) * L;
    for (int64_t j = 0; j < a->out_w; j += L) {
        const M some[2] = {P(from_to)(0, width - 2 * j), P(from_to)(0, width - 2 * j - L)};
        for (int class = 0; class < 2; class++)
            for (int64_t t = 0; t < count[class]; t++) {
                const int64_t column = taps[class][t].column + j;
                taps[class][t].inside = P(from_to)(-column, a->in_w - column);
            }
        for (int64_t i = 0; i < a->out_h; i++) {
            int64_t first = 0, last = a->taps_h; /* rows of taps inside of the image */
            while (first < last && i + a->top + first * a->step_h < 0)
                first++;
            while (last > first && i + a->top + (last - 1) * a->step_h >= a->in_h)
                last--;
            const T *const at = x + i * a->in_row + j;
            const V even = P(add_taps)(start, taps[0], first * even_w, last * even_w, at);
            const V odd = P(add_taps)(start, taps[1], first * odd_w, last * odd_w, at);
            V v[2] = {__builtin_shuffle(even, odd, low), __builtin_shuffle(even, odd, low + L / 2)};
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const int64_t to = i * a->out_row + 2 * j + half * L;
                if (residual)
                    v[half] += P(load_lanes)(residual + to, some[half]);
                if (a->clamp)
                    v[half] = P(clamped)(v[half], lo, hi);
                P(store_first)(y + to, v[half], width - 2 * j - half * L, some[half]);
            }
        }
    }
}

static void P(gather_nchw)(const fc_depthwise_args *a, int64_t begin, int64_t end)
{
    const P(blocks_function) blocks = P(blocks_of)(a);
    int64_t image = begin / a->channels, o = begin % a->channels, c = o / a->multiplier, of_c = o % a->multiplier;
    for (int64_t unit = begin; unit < end; unit++) {
        const T *const x = (const T *)a->in + image * a->in_n + c * a->depth * a->in_plane;
        const T *const w = (const T *)a->w + c * a->w_g + of_c * a->w_o;
        const T *const bias = a->bias ? (const T *)a->bias + o : NULL;
        T *const y = (T *)a->out + image * a->out_n + o * a->out_plane;
        const T *const residual = a->residual ? (const T *)a->residual + (y - (T *)a->out) : NULL;
        if (a->odd)
            P(pair_plane)(a, x, w, (const T *)a->odd->w + c * a->w_g + of_c * a->w_o, bias, y, residual);
        for (int64_t i = 0; i < a->out_h && !a->odd; i += blocks.rows) {
            const int64_t at = i * a->out_row, top = i * a->sh + a->top;
            if (!blocks.run) {
                for (int64_t j = 0; j < a->out_w; j += L)
                    P(any_block)(a, x, w, bias, i, j, y + at + j * a->out_col,
                                 residual ? residual + at + j * a->out_col : NULL);
                continue;
            }
            fc_depthwise_rows t = {.args = a, .bias = bias, .y = y + at, .rows = min64(blocks.rows, a->out_h - i)};
            t.residual = residual ? residual + at : NULL;
            t.row0 = max64(0, -top);
            t.row1 = min64((t.rows - 1) * a->sh + a->taps_h, a->in_h - top);
            for (int64_t k = 0; k < a->depth; k++) {
                t.x = x + k * a->in_plane + top * a->in_row;
                t.w = w + k * a->w_k;
                t.first = k == 0;
                t.last = k == a->depth - 1;
                blocks.run(&t);
            }
        }
        if (++of_c == a->multiplier) {
            of_c = 0;
            c++;
        }
        if (++o == a->channels) {
            o = c = 0;
            image++;
        }
    }
}

#endif
#undef NARROW
#undef LARGE
