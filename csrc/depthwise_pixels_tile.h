/* Template of the depthwise kernels in NHWC for one channel a group and small filters, part of depthwise_tile.h.
 *
 * A tile is FC_DW_VECTORS vectors of channels of some columns of FC_DW_TILE_ROWS output rows. Of each input row it
 * loads the weights of one vector, then each cell once for all outputs that it reaches. Several vectors fill a cache
 * line: what lies a power of two apart would be out of the L1 before its second half is wanted. */

#ifndef FC_DW_PIXELS_ONCE
#define FC_DW_PIXELS_ONCE
enum {
    PREFETCHED_BYTES = 512 * 1024, /* of an image: larger ones come from beyond the L2, and are fetched a row ahead */
    CACHE_LINE = 64,
    MANY_TILES = 8, /* of a pixel, times the vectors of one, from which on aligning them pays for one more */
};

/* What a strip may lack: nothing; columns; columns and channels. */
enum edge { INNER, FEWER_COLUMNS, MASKED };
#endif

/* A run of strips of `columns` outputs of each of `rows` rows, all channels. Input rows and columns are counted from
 * the first tap of the first; x, w: at the input row that is read first. */
typedef struct P(strip_place) {
    const fc_depthwise_args *args;
    const T *x, *w, *residual;
    T *y;
    int64_t only0, gap, both, only1;  /* input rows of output row 0, then of none, then of both, then of row 1 */
    int rows, columns, col0, col1;    /* input columns [col0, col1) lie inside */
    int64_t strips;
    int64_t first, whole;             /* channels up to the first aligned ones; whether tiles of all lanes cover all */
    const char *next_in, *next_out;   /* what is fetched meanwhile, */
    int64_t lines_in, lines_out;      /* so much of it a tile */
} P(strip_place);

/* A row of cells of one vector into output row 0 (which & 1) by the taps at w0, row 1 (which & 2) by those at w1. */
FC_INLINE void P(cells)(V acc[FC_DW_TILE_ROWS][FC_DW_VECTORS][FC_DW_COLUMNS], const T *x, const T *w0, const T *w1,
                        int64_t in_col, int64_t w_w, int col0, int col1, M lanes, const int v, const int kw,
                        const int sw, const int which, const int edge)
{
    V taps[2][8];
#pragma GCC unroll 8
    for (int b = 0; b < kw; b++) {
        if (which & 1)
            taps[0][b] = P(load)(w0 + b * w_w, edge < MASKED, lanes);
        if (which & 2)
            taps[1][b] = P(load)(w1 + b * w_w, edge < MASKED, lanes);
    }
#pragma GCC unroll 32
    for (int jj = 0; jj < (FC_DW_COLUMNS - 1) * sw + kw; jj++, x += in_col) {
        if (edge && (jj < col0 || jj >= col1))
            continue;
        const V cell = P(load)(x, edge < MASKED, lanes);
#pragma GCC unroll 8
        for (int j = 0; j < FC_DW_COLUMNS; j++)
#pragma GCC unroll 2
            for (int o = 0; o < 2; o++)
                if (which >> o & 1 && jj - j * sw >= 0 && jj - j * sw < kw)
                    FC_MULTIPLY_ADD(acc[o][v][j], cell, taps[o][jj - j * sw]);
    }
}

/* edge: of enum edge, what may be missing. */
FC_INLINE void P(pixels_strip)(P(strip_place) *t, const int kw, const int sw, const int tile_rows, const int edge)
{
    enum { WHOLE = FC_DW_VECTORS * L };
    const fc_depthwise_args *const a = t->args;
    const int64_t channels = a->channels, in_row = a->in_row, in_col = a->in_col, w_h = a->w_h, w_w = a->w_w;
    const int64_t out_row = a->out_row, out_col = a->out_col, lines_in = t->lines_in, lines_out = t->lines_out;
    const int clamp = a->clamp, col0 = t->col0, col1 = t->col1, rows = t->rows, columns = t->columns;
    const char *next_in = t->next_in, *next_out = t->next_out;
    const T *const bias = a->bias;
    const V lo = SPLAT(a->lo), hi = SPLAT(a->hi);
    int64_t n = WHOLE;
    int vectors = FC_DW_VECTORS;
    M lanes[FC_DW_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < FC_DW_VECTORS; v++)
        lanes[v] = P(from_to)(0, L);
    const T *in = t->x, *residual = t->residual;
    T *out = t->y;
    for (int64_t strip = t->strips; strip > 0; strip--) {
        for (int64_t c = 0, next = t->first; c < channels; c = next, next += WHOLE) {
            if (t->whole) {
                c = min64(c, channels - WHOLE); /* some of them again */
            } else {
                n = min64(WHOLE, channels - c);
                vectors = (int)ceil_div(n, L);
#pragma GCC unroll 2
                for (int v = 0; v < FC_DW_VECTORS; v++)
                    lanes[v] = P(from_to)(0, n - v * L);
            }
            for (int64_t l = 0; l < lines_in; l++, next_in += CACHE_LINE)
                __builtin_prefetch(next_in, 0, 2);
            for (int64_t l = 0; l < lines_out; l++, next_out += CACHE_LINE)
                __builtin_prefetch(next_out, 0, 2);
            V acc[FC_DW_TILE_ROWS][FC_DW_VECTORS][FC_DW_COLUMNS];
#pragma GCC unroll 2
            for (int v = 0; v < FC_DW_VECTORS; v++) {
                const V start = bias ? P(load)(bias + c + v * L, edge < MASKED, lanes[v]) : (V){0};
#pragma GCC unroll 2
                for (int o = 0; o < tile_rows; o++)
#pragma GCC unroll 8
                    for (int j = 0; j < FC_DW_COLUMNS; j++)
                        acc[o][v][j] = start;
            }
            const T *x = in + c, *w = t->w + c;
            for (int64_t r = t->only0; r > 0; r--, x += in_row, w += w_h)
#pragma GCC unroll 2
                for (int v = 0; v < FC_DW_VECTORS; v++)
                    if (edge < MASKED || v < vectors)
                        P(cells)(acc, x + v * L, w + v * L, NULL, in_col, w_w, col0, col1, lanes[v], v, kw, sw,
                                 1, edge);
            x += t->gap * in_row;
            w += t->gap * w_h;
            const T *w1 = w - a->sh * w_h;
            for (int64_t r = t->both; r > 0 && tile_rows > 1; r--, x += in_row, w += w_h, w1 += w_h)
#pragma GCC unroll 2
                for (int v = 0; v < FC_DW_VECTORS; v++)
                    if (edge < MASKED || v < vectors)
                        P(cells)(acc, x + v * L, w + v * L, w1 + v * L, in_col, w_w, col0, col1, lanes[v], v, kw,
                                 sw, 3, edge);
            for (int64_t r = t->only1; r > 0 && tile_rows > 1; r--, x += in_row, w1 += w_h)
#pragma GCC unroll 2
                for (int v = 0; v < FC_DW_VECTORS; v++)
                    if (edge < MASKED || v < vectors)
                        P(cells)(acc, x + v * L, NULL, w1 + v * L, in_col, w_w, col0, col1, lanes[v], v, kw, sw,
                                 2, edge);
#pragma GCC unroll 2
            for (int o = 0; o < tile_rows; o++) {
                if (o >= rows)
                    break;
#pragma GCC unroll 2
                for (int v = 0; v < FC_DW_VECTORS; v++) {
                    if (edge == MASKED && v >= vectors)
                        break;
                    const int64_t at = o * out_row + c + v * L;
                    if (residual)
#pragma GCC unroll 8
                        for (int j = 0; j < FC_DW_COLUMNS; j++)
                            if (!edge || j < columns)
                                acc[o][v][j] += P(load)(residual + at + j * out_col, edge < MASKED, lanes[v]);
                    if (clamp)
#pragma GCC unroll 8
                        for (int j = 0; j < FC_DW_COLUMNS; j++)
                            acc[o][v][j] = P(clamped)(acc[o][v][j], lo, hi);
                    T *to = out + at;
#pragma GCC unroll 8
                    for (int j = 0; j < FC_DW_COLUMNS; j++, to += out_col) {
                        if (edge && j >= columns)
                            break;
                        if (edge < MASKED || n >= (v + 1) * L) /* masked stores are slow on some CPUs */
                            *(V *)to = acc[o][v][j];
                        else
                            P(store_lanes)(to, acc[o][v][j], lanes[v]);
                    }
                }
            }
        }
        in += FC_DW_COLUMNS * sw * in_col;
        out += FC_DW_COLUMNS * out_col;
        residual = residual ? residual + FC_DW_COLUMNS * out_col : NULL;
    }
    t->next_in = next_in;
    t->next_out = next_out;
}

typedef void (*P(pixels_function))(P(strip_place) *t, int edge);

/* Channels before those that are aligned in y: a vector in two lines is loaded twice, and a tile in more lines misses
 * more often. */
FC_INLINE int64_t P(unaligned_channels)(const fc_depthwise_args *a, const T *y)
{
    const int64_t tile = FC_DW_VECTORS * L, bytes = tile * (int64_t)sizeof(T), many = FC_DW_VECTORS * MANY_TILES * tile;
    const int64_t beyond = (int64_t)((uintptr_t)y % (uintptr_t)bytes);
    if (a->channels < many || a->channels % tile != 0 || beyond % (int64_t)sizeof(T) != 0)
        return 0;
    return (bytes - beyond) % bytes / (int64_t)sizeof(T);
}

/* tile_rows output rows from row i of an image. */
static void P(pixels_rows)(const fc_depthwise_args *a, int64_t image, int64_t i, int64_t tile_rows,
                           P(pixels_function) strip)
{
    enum { wide = FC_DW_COLUMNS };
    const int64_t tile = FC_DW_VECTORS * L, top = i * a->sh + a->top, extent = (wide - 1) * a->sw + a->taps_w;
    const T *const in = (const T *)a->in + image * a->in_n;
    T *const out = (T *)a->out + image * a->out_n + i * a->out_row;
    const int64_t row0 = max64(0, -top), rows = min64(tile_rows, a->out_h - i);
    const int64_t row1 = max64(row0, min64((rows - 1) * a->sh + a->taps_h, a->in_h - top));
    P(strip_place) t = {.args = a, .rows = (int)rows};
    const int64_t first1 = rows > 1 ? max64(row0, min64(a->sh, row1)) : row1; /* of output row 1 */
    const int64_t last0 = max64(row0, min64(a->taps_h, row1));                /* beyond those of row 0 */
    t.only0 = min64(first1, last0) - row0;
    t.gap = max64(0, first1 - last0);
    t.both = max64(0, last0 - first1);
    t.only1 = row1 - max64(first1, last0);
    t.next_in = (const char *)(in + (top + (tile_rows - 1) * a->sh + a->taps_h) * a->in_row);
    t.next_out = (const char *)(out + tile_rows * a->out_row);
    if (i + tile_rows < a->out_h && a->in_h * a->in_row * (int64_t)sizeof(T) >= PREFETCHED_BYTES) {
        t.lines_out = ceil_div(tile_rows * wide * tile * (int64_t)sizeof(T), CACHE_LINE);
        t.lines_in = t.lines_out * a->sh * a->sw;
    }
    t.whole = a->channels >= tile && (!a->residual || a->channels % tile == 0); /* the residual may be y */
    t.w = (const T *)a->w + row0 * a->w_h;
    t.first = a->residual ? 0 : P(unaligned_channels)(a, out);
    if (t.first == 0)
        t.first = tile;
    for (int64_t j = 0; j < a->out_w; j += t.strips * wide) {
        const int64_t left = j * a->sw + a->left;
        t.x = in + (top + row0) * a->in_row + left * a->in_col;
        t.y = out + j * a->out_col;
        t.residual = a->residual ? (const T *)a->residual + (t.y - (T *)a->out) : NULL;
        t.columns = (int)min64(wide, a->out_w - j);
        t.col0 = (int)min64(max64(0, -left), extent);
        t.col1 = (int)min64(max64(0, a->in_w - left), extent);
        const int edge = t.col0 > 0 || t.columns < wide || t.col1 < extent;
        t.strips = edge ? 1 : min64((a->out_w - j) / wide, (a->in_w - left - extent) / (wide * a->sw) + 1);
        strip(&t, edge || !t.whole);
    }
}

/* Seven taps and a mask would not fit into 16 registers. */
#define PIXELS(name, kw, sw, tile_rows)                             \
    static void P(name)(P(strip_place) *t, int edge)                \
    {                                                               \
        if (!edge && !MASKED_ONLY(kw))                              \
            P(pixels_strip)(t, kw, sw, tile_rows, INNER);           \
        else if (kw == 7 && t->whole && !FREE_MASKS)                \
            P(pixels_strip)(t, kw, sw, tile_rows, FEWER_COLUMNS);   \
        else                                                        \
            P(pixels_strip)(t, kw, sw, tile_rows, MASKED);          \
    }
PIXELS(pixels_1, 1, 1, 1)
PIXELS(pixels_2, 2, 1, 1)
PIXELS(pixels_3, 3, 1, FC_DW_TILE_ROWS)
PIXELS(pixels_5, 5, 1, 1)
PIXELS(pixels_7, 7, 1, 1)
PIXELS(pixels_3_by_2, 3, 2, FC_DW_TILE_ROWS)
PIXELS(pixels_5_by_2, 5, 2, 1)
PIXELS(pixels_7_by_2, 7, 2, 1)
#undef PIXELS

/* NULL: none for this shape. */
static P(pixels_function) P(pixels_of)(const fc_depthwise_args *a)
{
    const int near = (a->step_h == 1 || a->taps_h == 1) && (a->step_w == 1 || a->taps_w == 1);
    if (a->multiplier > 1 || a->depth > 1 || !near || (a->nonfinite && a->outside))
        return NULL;
    if (a->sw == 1)
        switch (a->taps_w) {
        case 1: return P(pixels_1);
        case 2: return P(pixels_2);
        case 3: return P(pixels_3);
        case 5: return P(pixels_5);
        case 7: return P(pixels_7);
        }
    if (a->sw == 2)
        switch (a->taps_w) {
        case 3: return P(pixels_3_by_2);
        case 5: return P(pixels_5_by_2);
        case 7: return P(pixels_7_by_2);
        }
    return NULL;
}
