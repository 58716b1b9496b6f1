/* Template of the depthwise weight gradients, part of depthwise_tile.h.
 *
 * NHWC: vectors along the channels, the taps' accumulators in registers over the pixels of a unit. NCHW: vectors
 * along the width, summed over their lanes at the end of a channel. Sums are taken in two levels, so that their
 * error grows with the square root of the pixels' number. Padding counts: 0 * dy, which is NaN where dy is not
 * finite. */

#ifndef FC_DW_WEIGHT_ONCE
#define FC_DW_WEIGHT_ONCE
enum {
    FLUSH_PIXELS = 256, /* products in one chain, then they are added to the sums in memory */
    WEIGHT_ROWS = 4,    /* output rows of a block in NCHW */
};
#endif

/* ---- NHWC ------------------------------------------------------------------------------------------------------ */

/* A strip of RW pixels of one output row, dy there, by na rows of taps; x: at the first tap of the first. Edge:
 * columns, rows or channels may be missing; those of the input that belong to no output are not read, since 0 *
 * Inf would be NaN. */
FC_INLINE void P(taps_of_strip)(const fc_conv2d_shape *s, const P(tile) *t, const T *dy, int64_t top, int64_t left,
                                int64_t columns, V acc[3][8], const int na, const int kw, const int sw, const int how,
                                const int edge)
{
    V cells[RW];
#pragma GCC unroll 8
    for (int c = 0; c < RW; c++)
        cells[c] = !edge || c < columns ? P(load)(dy + c * s->oc, !edge, t->lanes) : (V){0};
#pragma GCC unroll 3
    for (int a = 0; a < na; a++) {
        const int64_t r = top + a * s->dh;
        const int inside = !edge || (r >= 0 && r < s->ih);
        const T *x = t->x + (a * s->dh * s->iw) * s->ic;
#pragma GCC unroll 32
        for (int jj = 0; jj < (RW - 1) * sw + kw; jj++, x += s->ic) {
            V v = {0};
            if (edge && jj >= (columns - 1) * sw + kw)
                break;
            if (!edge || (inside && left + jj >= 0 && left + jj < s->iw))
                v = P(cell)(t, x, 0, how, !edge);
            KEEP(v);
#pragma GCC unroll 8
            for (int b = 0; b < kw; b++)
                if (jj - b >= 0 && (jj - b) % sw == 0 && (jj - b) / sw < RW && (!edge || (jj - b) / sw < columns))
                    acc[a][b] += v * cells[(jj - b) / sw];
        }
    }
}

/* The taps (a0.., b) of one vector of channels over the output rows [begin, end) of all images. x, dy: at the
 * channel. */
FC_INLINE void P(taps_nhwc)(const fc_depthwise_weight_args *args, const P(tile) *at, const T *dy, T *sums,
                            int64_t begin, int64_t end, int64_t a0, const int na, const int kw, const int sw,
                            const int how)
{
    const fc_conv2d_shape *s = args->shape;
    const int whole_vector = at->channel + L <= s->oc; /* all lanes */
    P(tile) t = *at;
    V acc[3][8];
    int64_t pixels = 0;
#pragma GCC unroll 3
    for (int a = 0; a < na; a++)
#pragma GCC unroll 8
        for (int b = 0; b < kw; b++)
            acc[a][b] = (V){0};
    for (int64_t row = begin; row < end; row++) {
        const int64_t image = row / s->oh, top = row % s->oh * s->sh - s->ph + a0 * s->dh;
        const int inside = top >= 0 && top + (na - 1) * s->dh < s->ih && whole_vector;
        for (int64_t j = 0; j < s->ow; j += RW) {
            const int64_t left = j * sw - s->pw, columns = min64(RW, s->ow - j);
            const T *const cells = dy + (row * s->ow + j) * s->oc;
            t.x = at->x + ((image * s->ih + top) * s->iw + left) * s->ic;
            if (how == PLAIN && inside && columns == RW && left >= 0 && left + (RW - 1) * sw + kw <= s->iw)
                P(taps_of_strip)(s, &t, cells, top, left, RW, acc, na, kw, sw, how, 0);
            else
                P(taps_of_strip)(s, &t, cells, top, left, columns, acc, na, kw, sw, how, 1);
            pixels += columns;
        }
        if (pixels < FLUSH_PIXELS && row < end - 1)
            continue;
        pixels = 0;
#pragma GCC unroll 3
        for (int a = 0; a < na; a++)
#pragma GCC unroll 8
            for (int b = 0; b < kw; b++) {
                T *const sum = sums + ((a0 + a) * s->kw + b) * s->oc;
                if (a0 + a < s->kh)
                    P(store_lanes)(sum, P(load_lanes)(sum, t.lanes) + acc[a][b], t.lanes);
                acc[a][b] = (V){0};
            }
    }
}

/* Any filter width, stride and dilation: one tap. */
FC_INLINE void P(tap_nhwc)(const fc_depthwise_weight_args *args, const P(tile) *t, const T *dy, T *sum, int64_t begin,
                           int64_t end, int64_t a, int64_t b, const int how)
{
    const fc_conv2d_shape *s = args->shape;
    V total = {0};
    for (int64_t row = begin; row < end; row++) {
        const int64_t image = row / s->oh, r = row % s->oh * s->sh - s->ph + a * s->dh;
        V acc = {0};
        for (int64_t j = 0; j < s->ow; j++) {
            const int64_t column = j * s->sw - s->pw + b * s->dw;
            const int inside = r >= 0 && r < s->ih && column >= 0 && column < s->iw;
            const T *x = t->x + ((image * s->ih + r) * s->iw + column) * s->ic;
            const V cells = inside ? P(cell)(t, x, 0, how, 0) : (V){0};
            acc += cells * P(load_lanes)(dy + (row * s->ow + j) * s->oc, t->lanes);
        }
        total += acc;
    }
    P(store_lanes)(sum, total, t->lanes);
}

FC_INLINE void P(channels_nhwc)(const fc_depthwise_weight_args *args, int64_t unit, const int na, const int kw,
                                const int sw, const int how)
{
    const fc_conv2d_shape *s = args->shape;
    const fc_depthwise_args channels = {.multiplier = args->multiplier, .depth = 1};
    const int64_t parts = ceil_div(s->oc, args->channels), block = unit / parts;
    const int64_t begin = block * args->rows, end = min64(begin + args->rows, s->mb * s->oh);
    const int64_t first = unit % parts * args->channels, last = min64(first + args->channels, s->oc);
    T *const sums = (T *)args->sums + block * s->kh * s->kw * s->oc;
    P(tile) t = {.args = &channels};
    for (int64_t tap = 0; tap < s->kh * s->kw && kw > 0; tap++)
        memset(sums + tap * s->oc + first, 0, (size_t)(last - first) * sizeof(T));
    for (t.channel = first; t.channel < last; t.channel += L) {
        const T *dy = (const T *)args->dy + t.channel;
        t.x = (const T *)args->x + (how == PLAIN ? t.channel : t.channel / args->multiplier);
        P(set_channels)(&t, last - t.channel, how);
        for (int64_t a = 0; a < s->kh; a += na) {
            if (kw == 0)
                for (int64_t b = 0; b < s->kw; b++)
                    P(tap_nhwc)(args, &t, dy, sums + (a * s->kw + b) * s->oc + t.channel, begin, end, a, b, how);
            else
                P(taps_nhwc)(args, &t, dy, sums + t.channel, begin, end, a, na, kw, sw, how);
        }
    }
}

typedef void (*P(channels_function))(const fc_depthwise_weight_args *args, int64_t unit);

#define CHANNELS(name, na, kw, sw, how)                                          \
    static void P(name)(const fc_depthwise_weight_args *args, int64_t unit)      \
    {                                                                            \
        P(channels_nhwc)(args, unit, na, kw, sw, how);                           \
    }
CHANNELS(channels_3, 3, 3, 1, PLAIN)
CHANNELS(channels_5, 1, 5, 1, PLAIN)
CHANNELS(channels_7, 1, 7, 1, PLAIN)
CHANNELS(channels_3_by_2, 3, 3, 2, PLAIN)
CHANNELS(channels_5_by_2, 1, 5, 2, PLAIN)
CHANNELS(channels_7_by_2, 1, 7, 2, PLAIN)
CHANNELS(channels_3_repeated, 3, 3, 1, REPEATED)
CHANNELS(channels_any, 1, 0, 0, PLAIN)
CHANNELS(channels_any_repeated, 1, 0, 0, REPEATED)
#undef CHANNELS

static void P(weight_nhwc)(const fc_depthwise_weight_args *args, int64_t begin, int64_t end)
{
    const fc_conv2d_shape *s = args->shape;
    const int64_t m = args->multiplier;
    const int how = m == 1 ? PLAIN : REPEATED;
    const int fast = s->dw == 1 && (s->kw == 3 || s->kw == 5 || s->kw == 7) && s->sw <= 2;
    P(channels_function) run = how == PLAIN ? P(channels_any) : P(channels_any_repeated);
    if (fast && how == PLAIN && s->sw == 1)
        run = s->kw == 3 ? P(channels_3) : s->kw == 5 ? P(channels_5) : P(channels_7);
    else if (fast && how == PLAIN)
        run = s->kw == 3 ? P(channels_3_by_2) : s->kw == 5 ? P(channels_5_by_2) : P(channels_7_by_2);
    else if (fast && how == REPEATED && s->sw == 1 && s->kw == 3)
        run = P(channels_3_repeated);
    for (int64_t unit = begin; unit < end; unit++)
        run(args, unit);
}

/* ---- NCHW ------------------------------------------------------------------------------------------------------ */

FC_INLINE T P(lane_sum)(V v)
{
    for (int half = L / 2; half > 0; half /= 2)
        v += __builtin_shuffle(v, IOTA ^ half);
    return v[0];
}

/* The taps (a0.., b) of a vector of columns of `rows` output rows, WEIGHT_ROWS or fewer: an input row is loaded
 * once for all of them. x: at the first tap of the first output, top and left its place. */
FC_INLINE void P(taps_of_block)(const fc_conv2d_shape *s, const T *x, const T *dy, int64_t top, int64_t left,
                                int64_t rows, int64_t n, V acc[3][8], const int na, const int kw, const int sw,
                                const int edge)
{
    const int64_t begin = -left, end = s->iw - left;
    const M some = P(from_to)(0, n);
    const I live = (I)(IOTA < (INT)n);
    M first[8], second = P(from_to)(begin - L, end - L);
    V under[8], cells[WEIGHT_ROWS];
    if (edge)
#pragma GCC unroll 8
        for (int b = 0; b < kw; b++)
            first[b] = P(from_to)(begin - b, end - b);
#pragma GCC unroll 4
    for (int c = 0; c < WEIGHT_ROWS; c++)
        cells[c] = c < rows ? P(load)(dy + c * s->ow, !edge, some) : (V){0};
#pragma GCC unroll 16
    for (int r = 0; r < (WEIGHT_ROWS - 1) * sw + na; r++, x += s->iw) {
        if (r >= (rows - 1) * sw + na) /* no output row: not read, since 0 * Inf would be NaN */
            break;
        if (top + r < 0 || top + r >= s->ih) {
#pragma GCC unroll 8
            for (int b = 0; b < kw; b++)
                under[b] = (V){0};
        } else {
            P(cells_of_row)(x, begin, end, under, first, second, kw, sw, edge);
            if (edge)
#pragma GCC unroll 8
                for (int b = 0; b < kw; b++)
                    under[b] = (V)((I)under[b] & live);
        }
#pragma GCC unroll 8
        for (int b = 0; b < kw; b++)
#pragma GCC unroll 4
            for (int c = 0; c < WEIGHT_ROWS; c++)
                if (r - c * sw >= 0 && r - c * sw < na && c < rows)
                    acc[r - c * sw][b] += under[b] * cells[c];
    }
}

FC_INLINE void P(taps_nchw)(const fc_conv2d_shape *s, const T *x, const T *dy, V acc[3][8], int64_t a0, const int na,
                            const int kw, const int sw)
{
    const int64_t reach = sw == 1 ? L + kw - 1 : 2 * L + kw - 2; /* columns loaded */
    for (int64_t i = 0; i < s->oh; i += WEIGHT_ROWS) {
        const int64_t top = i * s->sh - s->ph + a0, rows = min64(WEIGHT_ROWS, s->oh - i);
        for (int64_t j = 0; j < s->ow;) {
            const int64_t left = j * sw - s->pw, room = s->iw - left - reach;
            const T *at = x + top * s->iw + left, *cells = dy + i * s->ow + j;
            if (left < 0 || room < 0 || s->ow - j < L || rows < WEIGHT_ROWS) {
                P(taps_of_block)(s, at, cells, top, left, rows, min64(L, s->ow - j), acc, na, kw, sw, 1);
                j += L;
                continue;
            }
            /* Blocks inside of the image are a loop of their own, so that its registers are the sums'. */
            const int64_t run = min64(room / (L * sw) + 1, (s->ow - j) / L);
            for (int64_t block = 0; block < run; block++, at += L * sw, cells += L)
                P(taps_of_block)(s, at, cells, top, left, WEIGHT_ROWS, L, acc, na, kw, sw, 0);
            j += run * L;
        }
    }
}

/* One channel over all images. sw = sh. */
FC_INLINE void P(channel_nchw)(const fc_depthwise_weight_args *args, int64_t o, const int na, const int kw,
                               const int sw)
{
    const fc_conv2d_shape *s = args->shape;
    T *const sums = (T *)args->sums + o * s->kh * kw;
    for (int64_t a0 = 0; a0 < s->kh; a0 += na) {
        V total[3][8] = {{{0}}};
        for (int64_t image = 0; image < s->mb; image++) {
            const T *x = (const T *)args->x + (image * s->ic + o / args->multiplier) * s->ih * s->iw;
            const T *dy = (const T *)args->dy + (image * s->oc + o) * s->oh * s->ow;
            V acc[3][8];
#pragma GCC unroll 3
            for (int a = 0; a < na; a++)
#pragma GCC unroll 8
                for (int b = 0; b < kw; b++)
                    acc[a][b] = (V){0};
            P(taps_nchw)(s, x, dy, acc, a0, na, kw, sw);
#pragma GCC unroll 3
            for (int a = 0; a < na; a++)
#pragma GCC unroll 8
                for (int b = 0; b < kw; b++)
                    total[a][b] += acc[a][b];
        }
        for (int a = 0; a < na && a0 + a < s->kh; a++)
            for (int b = 0; b < kw; b++)
                sums[(a0 + a) * kw + b] = P(lane_sum)(total[a][b]);
    }
}

/* Any filter, stride and dilation: one tap after the other. */
static void P(any_channel_nchw)(const fc_depthwise_weight_args *args, int64_t o)
{
    const fc_conv2d_shape *s = args->shape;
    const fc_depthwise_args row = {.in_w = s->iw, .sw = s->sw};
    for (int64_t a = 0; a < s->kh; a++)
        for (int64_t b = 0; b < s->kw; b++) {
            V total = {0};
            for (int64_t image = 0; image < s->mb; image++) {
                const T *x = (const T *)args->x + (image * s->ic + o / args->multiplier) * s->ih * s->iw;
                const T *dy = (const T *)args->dy + (image * s->oc + o) * s->oh * s->ow;
                V acc = {0};
                for (int64_t i = 0; i < s->oh; i++) {
                    const int64_t r = i * s->sh - s->ph + a * s->dh;
                    for (int64_t j = 0; j < s->ow; j += L) {
                        const int64_t n = min64(L, s->ow - j), column = j * s->sw - s->pw + b * s->dw;
                        I inside, live = (I)(IOTA < (INT)n);
                        V cells = {0};
                        if (r >= 0 && r < s->ih)
                            cells = P(any_cells)(&row, x + r * s->iw, column, &inside);
                        cells = (V)((I)cells & live);
                        acc += cells * P(load_lanes)(dy + i * s->ow + j, P(from_to)(0, n));
                    }
                }
                total += acc;
            }
            ((T *)args->sums)[(o * s->kh + a) * s->kw + b] = P(lane_sum)(total);
        }
}

#define CHANNEL(name, na, kw, sw)                                                \
    static void P(name)(const fc_depthwise_weight_args *args, int64_t o)         \
    {                                                                            \
        P(channel_nchw)(args, o, na, kw, sw);                                    \
    }
CHANNEL(channel_3, 3, 3, 1)
CHANNEL(channel_5, 2, 5, 1)
CHANNEL(channel_7, 2, 7, 1)
CHANNEL(channel_3_by_2, 3, 3, 2)
CHANNEL(channel_5_by_2, 2, 5, 2)
CHANNEL(channel_7_by_2, 2, 7, 2)
#undef CHANNEL

static void P(weight_nchw)(const fc_depthwise_weight_args *args, int64_t begin, int64_t end)
{
    const fc_conv2d_shape *s = args->shape;
    P(channels_function) run = P(any_channel_nchw);
    if (s->dh == 1 && s->dw == 1 && s->sh == 1 && s->sw == 1)
        run = s->kw == 3 ? P(channel_3) : s->kw == 5 ? P(channel_5) : s->kw == 7 ? P(channel_7) : run;
    else if (s->dh == 1 && s->dw == 1 && s->sh == 2 && s->sw == 2)
        run = s->kw == 3 ? P(channel_3_by_2) : s->kw == 5 ? P(channel_5_by_2) : s->kw == 7 ? P(channel_7_by_2) : run;
    for (int64_t o = begin; o < end; o++)
        run(args, o);
}
