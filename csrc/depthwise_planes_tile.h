/* Template of the depthwise kernels in NCHW, part of depthwise_tile.h: vectors along the width.
 *
 * A block is a vector of output columns times several output rows: each input row is loaded once for all of them, shifted
 * by each tap of the width, or split into even and odd columns where the stride is 2. */

#ifndef FC_DW_PLANES_ONCE
#define FC_DW_PLANES_ONCE
enum { BLOCK_ROWS = 8 }; /* output rows of a block of 3x3; larger filters have 4 (their taps take the registers) */

/* x: row 0 of the input rows under the block, which may be outside: rows [row0, row1) are not. left: column of the first
 * output's first tap. */
typedef struct fc_depthwise_block {
    const fc_depthwise_args *args;
    const void *x, *w, *bias, *residual;
    void *y;
    int64_t left, row0, row1, rows, n;
} fc_depthwise_block;
#endif

FC_INLINE void P(block)(const fc_depthwise_block *t, const int kernel, const int s, const int rows, const int edge)
{
    const fc_depthwise_args *a = t->args;
    const int64_t inside = a->in_w - t->left; /* columns from the first tap to the end of the image */
    V acc[BLOCK_ROWS], taps[7 * 7];
    M lanes[8][2];
    const V start = SPLAT(t->bias ? *(const T *)t->bias : 0);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        acc[i] = start;
    if (edge)
#pragma GCC unroll 8
        for (int b = 0; b < kernel; b += s) {
            lanes[b][0] = P(from_to)(-t->left - b, inside - b);
            if (s == 2)
                lanes[b][1] = P(from_to)(-t->left - b - L, inside - b - L);
        }
    for (int64_t k = 0; k < a->depth; k++) {
        const T *const x = (const T *)t->x + k * a->in_plane + t->left, *const w = (const T *)t->w + k * a->w_k;
#pragma GCC unroll 49
        for (int tap = 0; tap < kernel * kernel; tap++) {
            taps[tap] = SPLAT(w[tap / kernel * a->w_h + tap % kernel * a->w_w]);
            if (kernel == 3)
                KEEP(taps[tap]);
        }
#pragma GCC unroll 24
        for (int r = 0; r < (rows - 1) * s + kernel; r++) {
            if (r < t->row0 || r >= t->row1)
                continue;
            const T *row = x + r * a->in_row;
            V cells[8];
#pragma GCC unroll 8
            for (int b = 0; b < kernel; b += s) {
                const V first = edge ? P(load_lanes)(row + b, lanes[b][0]) : *(const V *)(row + b);
                if (s == 1) {
                    cells[b] = first;
                    continue;
                }
                const V second = edge ? P(load_lanes)(row + b + L, lanes[b][1]) : *(const V *)(row + b + L);
                cells[b] = __builtin_shuffle(first, second, 2 * IOTA);
                if (b + 1 < kernel)
                    cells[b + 1] = __builtin_shuffle(first, second, 2 * IOTA + 1);
            }
#pragma GCC unroll 8
            for (int b = 0; b < kernel; b++) {
                KEEP(cells[b]);
#pragma GCC unroll 8
                for (int i = 0; i < rows; i++)
                    if (r - i * s >= 0 && r - i * s < kernel)
                        acc[i] += cells[b] * taps[(r - i * s) * kernel + b];
            }
        }
    }
    const M some = P(from_to)(0, t->n);
    const V lo = SPLAT(a->lo), hi = SPLAT(a->hi);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        if (i >= t->rows)
            break;
        V v = acc[i];
        if (t->residual)
            v += P(load)((const T *)t->residual + i * a->out_row, !edge, some);
        if (a->clamp)
            v = P(clamped)(v, lo, hi);
        P(store)((T *)t->y + i * a->out_row, v, !edge, some);
    }
}

typedef void (*P(block_function))(const fc_depthwise_block *t);

#define BLOCK(name, kernel, s, rows, edge)                          \
    static void P(name)(const fc_depthwise_block *t)                \
    {                                                               \
        P(block)(t, kernel, s, rows, edge);                         \
    }
BLOCK(edge_3, 3, 1, 8, 1)
BLOCK(edge_5, 5, 1, 4, 1)
BLOCK(edge_7, 7, 1, 4, 1)
BLOCK(edge_3_by_2, 3, 2, 4, 1)
BLOCK(edge_5_by_2, 5, 2, 4, 1)
BLOCK(edge_7_by_2, 7, 2, 4, 1)
#ifndef FC_DW_IS_NARROW
BLOCK(inner_3, 3, 1, 8, 0)
BLOCK(inner_5, 5, 1, 4, 0)
BLOCK(inner_7, 7, 1, 4, 0)
BLOCK(inner_3_by_2, 3, 2, 4, 0)
BLOCK(inner_5_by_2, 5, 2, 4, 0)
BLOCK(inner_7_by_2, 7, 2, 4, 0)
#endif
#undef BLOCK

#ifndef FC_DW_IS_NARROW

typedef struct P(block_functions) {
    P(block_function) inner, edge, narrow; /* narrow: NULL, or at most L / 2 columns */
    int64_t rows;
} P(block_functions);

#ifdef FC_DW_NARROW
#define NARROW(name) FC_JOIN(FC_DW_NARROW, _##name)
#else
#define NARROW(name) NULL
#endif

/* rows = 0: none for this shape. */
static P(block_functions) P(blocks_of)(const fc_depthwise_args *a)
{
    const int64_t kernel = a->taps_h;
    P(block_functions) none = {0};
    if (kernel != a->taps_w || a->step_h != 1 || a->step_w != 1 || a->sh != a->sw || a->nonfinite || a->out_col != 1)
        return none;
    if (a->sw == 1)
        switch (kernel) {
        case 3: return (P(block_functions)){P(inner_3), P(edge_3), NARROW(edge_3), 8};
        case 5: return (P(block_functions)){P(inner_5), P(edge_5), NARROW(edge_5), 4};
        case 7: return (P(block_functions)){P(inner_7), P(edge_7), NARROW(edge_7), 4};
        }
    if (a->sw == 2)
        switch (kernel) {
        case 3: return (P(block_functions)){P(inner_3_by_2), P(edge_3_by_2), NARROW(edge_3_by_2), 4};
        case 5: return (P(block_functions)){P(inner_5_by_2), P(edge_5_by_2), NARROW(edge_5_by_2), 4};
        case 7: return (P(block_functions)){P(inner_7_by_2), P(edge_7_by_2), NARROW(edge_7_by_2), 4};
        }
    return none;
}
#undef NARROW

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
        P(store_lanes)(y, acc, some);
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

static void P(gather_nchw)(const fc_depthwise_args *a, int64_t begin, int64_t end)
{
    const P(block_functions) blocks = P(blocks_of)(a);
    const int64_t step = blocks.rows ? blocks.rows : 1;
    const int64_t reach = blocks.rows ? (L - 1) * a->sw + a->taps_w + (a->sw - 1) * (L + 1) : 0; /* columns loaded */
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t image = unit / a->channels, o = unit % a->channels;
        const T *const x = (const T *)a->in + image * a->in_n + o / a->multiplier * a->depth * a->in_plane;
        const T *const w = (const T *)a->w + o * a->w_o, *const bias = a->bias ? (const T *)a->bias + o : NULL;
        const int64_t plane = image * a->out_n + o * a->out_plane;
        for (int64_t i = 0; i < a->out_h; i += step) {
            const int64_t top = i * a->sh + a->top;
            fc_depthwise_block t = {.args = a, .w = w, .bias = bias, .rows = min64(step, a->out_h - i)};
            t.x = x + top * a->in_row;
            t.row0 = max64(0, -top);
            t.row1 = min64((t.rows - 1) * a->sh + a->taps_h, a->in_h - top);
            for (int64_t j = 0; j < a->out_w; j += L) {
                const int64_t at = plane + i * a->out_row + j * a->out_col;
                T *const y = (T *)a->out + at;
                const T *const residual = a->residual ? (const T *)a->residual + at : NULL;
                if (!blocks.rows) {
                    P(any_block)(a, x, w, bias, i, j, y, residual);
                    continue;
                }
                t.left = j * a->sw + a->left;
                t.n = min64(L, a->out_w - j);
                t.y = y;
                t.residual = residual;
                if (t.n == L && t.left >= 0 && t.left + reach <= a->in_w)
                    blocks.inner(&t);
                else if (blocks.narrow && 2 * t.n <= L)
                    blocks.narrow(&t);
                else
                    blocks.edge(&t);
            }
        }
    }
}

#endif
