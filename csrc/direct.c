/* Direct convolution: every tap is read in place, nothing is packed but the weights.
 *
 * Where the filter meets padding, or NCHW has a stride along the width, a task first copies the rows that it needs into
 * a strip: zero padded, and in NCHW the columns of each residue mod sw together, so that any tap of a row of outputs is
 * consecutive cells. NCHW rows that are no multiple of a vector get flat strips: one copy for each filter column, shifted
 * and as wide as the output, with the rows of each residue mod sh together, so that any tap of all of a task's pixels is
 * consecutive cells. The sums are direct_tile.h's. */
#include "direct.h"
#include "numbers.h"

#include <stddef.h>
#include <string.h>

enum {
    STRIP_BYTES = 64 << 10, /* of a task's rows: in the L2, and the rows that two tasks copy are few */
    FLAT_BYTES = 384 << 10, /* of a flat strip that would hold fewer than FLAT_PIXELS pixels otherwise */
    FLAT_PIXELS = 256,      /* of a task: repay reading all weights */
    FLAT_SHARE = 32,        /* a row that fills its vectors up to a share of 1/32 is worth no flat strip */
    FLAT_DEPTH = 640,       /* terms of a sum for which weights and pixels are near at a time (measured on Zen 4) */
    TASKS_A_THREAD = 8,     /* so that the last tasks balance, */
    TASK_PIXELS = 128,      /* but of so many pixels at least: smaller tasks cost more than a second thread gains; */
    TASK_WORK = 1 << 19,    /* or of so many multiply-adds (Zen 3, two threads: 32->64 at 13x13 1.7x, 64 at 14x14 1.4x) */
    NEAR_BYTES = 16 << 10,  /* of weights: stay in a 32 KB L1 beside the pixels */
    IN_PLACE_BYTES = 192 << 10, /* of weights that are read in place: more are faster packed (0.8x at 590 KB) */
    VECTOR_BYTES = 64,      /* the longest of any ISA */
    CACHE_LINE = 64,
};

typedef struct direct {
    const fc_conv2d_shape *s;
    fc_direct_kernel kernel;
    int64_t size, icg, ocg, depth;
    int in_place, flat, clamp, threads;
    int64_t rows, blocks;        /* output rows of a task; tasks of an image */
    int64_t phase, pitch, plane; /* elements: between residues, rows and channels of what the kernel reads */
    int64_t column;              /* flat: elements between the copies for two filter columns */
    int64_t chunk;               /* flat: channels that are summed at a time; else all */
    const char *x, *residual, *bias;
    char *y;
    fc_view w;
    char *packed, *strips;
    int64_t strip_bytes;
    fc_direct_args args;
} direct;

/* Input rows under `rows` output rows. */
static int64_t rows_under(const fc_conv2d_shape *s, int64_t rows)
{
    return (rows - 1) * s->sh + (s->kh - 1) * s->dh + 1;
}

/* Rows of one residue mod sh under `rows` output rows. */
static int64_t flat_rows(const fc_conv2d_shape *s, int64_t rows)
{
    return rows + (s->kh - 1) * s->dh / s->sh;
}

/* At most `most` of s->oh rows of outputs for a task, so that the last vectors of the tasks waste least. */
static int64_t flat_task(const fc_conv2d_shape *s, int64_t most, int64_t lanes)
{
    int64_t best = most, least = INT64_MAX;
    for (int64_t rows = most; 2 * rows > most; rows--) {
        const int64_t vectors = s->oh / rows * ceil_div(rows * s->ow, lanes) + ceil_div(s->oh % rows * s->ow, lanes);
        if (vectors < least) {
            least = vectors;
            best = rows;
        }
    }
    return best;
}

/* Mirrored by direct_task in fastconv/capability.py, as are the functions around it. */
static void lay_out(direct *d, const fc_conv2d_shape *s)
{
    const int64_t size = element_size(s->dtype), lanes = VECTOR_BYTES / size, width = (s->kw - 1) * s->dw;
    const int64_t waste = ceil_div(s->ow, lanes) * lanes - s->ow;
    memset(d, 0, sizeof *d);
    d->s = s;
    d->size = size;
    d->icg = s->ic / s->g;
    d->ocg = s->oc / s->g;
    d->depth = d->icg * s->kh * s->kw;
    d->chunk = d->icg;
    if (s->layout == FC_NCHW && waste * FLAT_SHARE > s->ow) {
        const int64_t phases = s->kh > 1 ? s->sh : 1, span = flat_rows(s, 0);
        d->chunk = ceil_div(d->icg, max64(1, (2 * d->depth + FLAT_DEPTH) / (2 * FLAT_DEPTH)));
        const int64_t row_bytes = d->chunk * s->kw * phases * s->ow * size;
        const int64_t wide = min64(ceil_div(FLAT_PIXELS, s->ow), FLAT_BYTES / row_bytes - span);
        d->flat = 1;
        d->rows = flat_task(s, min64(s->oh, max64(1, max64(wide, STRIP_BYTES / row_bytes - span))), lanes);
        d->phase = (d->rows + span) * s->ow;
        d->column = phases * d->phase;
        d->plane = s->kw * d->column;
        d->strip_bytes = align_up(d->chunk * d->plane * size) + VECTOR_BYTES;
        return;
    }
    d->in_place = s->ph == 0 && s->pw == 0 && rows_under(s, s->oh) <= s->ih && (s->ow - 1) * s->sw + width < s->iw &&
                  (s->layout == FC_NHWC || s->sw == 1);
    if (s->layout == FC_NHWC) {
        d->pitch = d->in_place ? s->iw * s->ic : ((s->ow - 1) * s->sw + width + 1) * s->ic;
    } else if (d->in_place) {
        d->pitch = s->iw;
    } else {
        d->phase = ceil_div(s->ow, lanes) * lanes + width / s->sw;
        d->pitch = d->phase * (s->kw > 1 ? s->sw : 1);
    }
    const int64_t row_bytes = d->pitch * size * (s->layout == FC_NHWC ? 1 : d->icg);
    const int64_t most = (STRIP_BYTES / row_bytes - rows_under(s, 1)) / s->sh + 1;
    d->rows = min64(s->oh, max64(1, most));
    d->plane = d->in_place ? s->ih * s->iw : rows_under(s, d->rows) * d->pitch;
    d->strip_bytes = d->in_place ? 0 : align_up(rows_under(s, d->rows) * row_bytes);
}

static int64_t packed_bytes(const direct *d)
{
    const int64_t lanes = VECTOR_BYTES / d->size;
    const int64_t width = d->s->layout == FC_NHWC ? ceil_div(d->ocg, lanes) * lanes : d->ocg;
    return align_up(d->s->g * d->depth * width * d->size);
}

static int64_t offset_bytes(const direct *d)
{
    return align_up(d->depth * (int64_t)sizeof(int32_t));
}

static int is_empty(const fc_conv2d_shape *s)
{
    return s->mb == 0 || s->oh <= 0 || s->ow <= 0 || s->oc == 0;
}

/* ---- Weights ------------------------------------------------------------------------------------------------------ */

static void choose_kernel(direct *d)
{
    const fc_kernels_table *table = fc_kernels();
    d->kernel = d->s->dtype == FC_F32 ? *table->direct_f32 : *table->direct_f64;
    const fc_direct_kernel *kernel = &d->kernel;
    const int nhwc = d->s->layout == FC_NHWC;
    const int64_t vectors = ceil_div(d->ocg, kernel->lanes);
    /* Low tiles, where tall ones would be too: few rows to fill. Or, in NHWC, where they hold as many sums and all weights
     * are near: they load less. */
    int low = (nhwc ? d->s->ow : d->ocg) <= kernel->low;
    if (nhwc && vectors > kernel->nv && 2 * kernel->low >= kernel->mr)
        low |= vectors * kernel->lanes * d->depth * d->size <= NEAR_BYTES;
    d->args.mr = low ? kernel->low : kernel->mr;
    d->args.nv = low ? 2 * kernel->nv : kernel->nv;
}

FC_INLINE void gather(char *to, const char *from, int64_t rows, int64_t columns, int64_t row, int64_t column, int64_t size)
{
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++, to += size)
            memcpy(to, from + (i * row + j * column) * size, (size_t)size);
}

/* Weights of one group, as the kernel of this layout walks them: NHWC [panel][k][vectors of channels], where a panel's
 * last vector ends with the last channel; NCHW [chunk][tile][k][channels]. Element k of the sum: NHWC runs over filter
 * rows, columns, channels, NCHW over channels, rows, columns. */
static void pack_task(void *ctx, int64_t task, int worker)
{
    direct *d = ctx;
    const fc_conv2d_shape *s = d->s;
    const int64_t size = d->size, lanes = d->kernel.lanes;
    const int64_t *stride = d->w.strides;
    const int nhwc = s->layout == FC_NHWC;
    const int64_t vectors = ceil_div(d->ocg, lanes), units = nhwc ? vectors : d->ocg, width = nhwc ? vectors * lanes : d->ocg;
    const int64_t parts = ceil_div(units, nhwc ? d->args.nv : d->args.mr), chunks = ceil_div(d->icg, d->chunk);
    const int64_t group = task / chunks, c0 = task % chunks * d->chunk, channels = min64(d->chunk, d->icg - c0);
    const int64_t count[3] = {nhwc ? s->kh : channels, nhwc ? s->kw : s->kh, nhwc ? channels : s->kw};
    const int64_t step[3] = {stride[nhwc ? 2 : 1], stride[nhwc ? 3 : 2], stride[nhwc ? 1 : 3]};
    const char *const w = (const char *)d->w.data + (group * d->ocg * stride[0] + c0 * stride[1]) * size;
    char *to = d->packed + (group * d->depth + c0 * s->kh * s->kw) * width * size;
    (void)worker;
    for (int64_t part = 0, first = 0, n; part < parts; part++, first += n) {
        n = units / parts + (part < units % parts);
        for (int64_t k = 0; k < count[0] * count[1]; k++) {
            const char *from = w + (k / count[1] * step[0] + k % count[1] * step[1]) * size;
            if (!nhwc) {
                from += first * stride[0] * size;
                if (size == 4)
                    gather(to, from, n, count[2], stride[0], step[2], 4);
                else
                    gather(to, from, n, count[2], stride[0], step[2], 8);
                to += n * count[2] * size;
                continue;
            }
            for (int64_t c = 0; c < count[2]; c++, from += step[2] * size)
                for (int64_t v = first; v < first + n; v++, to += lanes * size) {
                    const char *cells = from + min64(v * lanes, max64(0, d->ocg - lanes)) * stride[0] * size;
                    const int64_t full = min64(lanes, d->ocg);
                    if (stride[0] == 1)
                        memcpy(to, cells, (size_t)(full * size));
                    else if (size == 4)
                        gather(to, cells, full, 1, stride[0], 0, 4);
                    else
                        gather(to, cells, full, 1, stride[0], 0, 8);
                    memset(to + full * size, 0, (size_t)((lanes - full) * size));
                }
        }
    }
}

/* Whether the kernel can read the weights where they are: NHWC's own order, whole vectors, so few that the pages they are
 * on cost nothing. w_step is then set. */
static int weights_in_place(direct *d, const fc_view *w)
{
    const fc_conv2d_shape *s = d->s;
    const int64_t step = w->strides[1];
    if (s->layout != FC_NHWC || d->ocg < d->kernel.lanes || d->depth * s->oc * d->size > IN_PLACE_BYTES ||
        w->strides[0] != 1 || w->strides[3] != d->icg * step ||
        w->strides[2] != s->kw * d->icg * step)
        return 0;
    d->args.w_step = step;
    return 1;
}

static void pack_all(direct *d, int threads)
{
    fc_parallel_for(d->s->g * ceil_div(d->icg, d->chunk), threads, pack_task, d);
}

/* ---- Strips ------------------------------------------------------------------------------------------------------- */

static void zero(char *to, int64_t n, int64_t size)
{
    if (n > 16 / size)
        memset(to, 0, (size_t)(n * size));
    else /* rims are short: no call */
        for (int64_t i = 0; i < n * size; i += 4)
            memset(to + i, 0, 4);
}

/* Cells of a row: cell u holds column u*step + first of the image's row `from` (NULL: all padding), n of
 * them, columns outside of [0, width) being 0; a cell has `channels` elements. */
static void fill_cells(const direct *d, char *to, const char *from, int64_t n, int64_t first, int64_t step, int64_t width,
                       int64_t channels)
{
    const int64_t size = d->size;
    const int64_t lo = first < 0 ? min64(n, ceil_div(-first, step)) : 0;
    const int64_t hi = from && first < width ? max64(lo, min64(n, (width - 1 - first) / step + 1)) : lo;
    zero(to, lo * channels, size);
    if (hi > lo)
        d->kernel.copy(to + lo * channels * size, from + (lo * step + first) * channels * size, (hi - lo) * channels, step);
    zero(to + hi * channels * size, (n - hi) * channels, size);
}

/* The rows of image n that output rows i0 <= i < i0 + rows need. */
static void fill_strip(const direct *d, char *strip, int64_t n, int64_t group, int64_t i0, int64_t rows)
{
    const fc_conv2d_shape *s = d->s;
    const int64_t size = d->size, top = i0 * s->sh - s->ph, under = rows_under(s, rows);
    const int64_t phases = s->kw > 1 ? s->sw : 1;
    for (int64_t row = 0; row < under; row++) {
        const int64_t y = top + row;
        const int inside = y >= 0 && y < s->ih;
        if (row % s->sh >= rows_under(s, 1))
            continue; /* between the windows */
        if (s->layout == FC_NHWC) {
            const char *from = d->x + (n * s->ih + y) * s->iw * s->ic * size;
            fill_cells(d, strip + row * d->pitch * size, inside ? from : NULL, d->pitch / s->ic, -s->pw, 1, s->iw, s->ic);
            continue;
        }
        for (int64_t c = 0; c < d->icg; c++) {
            const char *from = d->x + (((n * s->ic + group * d->icg + c) * s->ih + y) * s->iw) * size;
            char *to = strip + (c * d->plane + row * d->pitch) * size;
            for (int64_t phase = 0; phase < phases; phase++)
                fill_cells(d, to + phase * d->phase * size, inside ? from : NULL, d->phase, phase - s->pw, s->sw, s->iw, 1);
        }
    }
}

/* The same of some channels, the first being plane `image` of x, as a flat strip
 * [channel][filter column][residue mod sh][row][output column]. */
static void fill_flat(const direct *d, char *strip, int64_t image, int64_t channels, int64_t i0, int64_t rows)
{
    const fc_conv2d_shape *s = d->s;
    const int64_t size = d->size, under = flat_rows(s, rows);
    for (int64_t residue = 0; residue < (s->kh > 1 ? s->sh : 1); residue++) {
        int needed = 0;
        for (int64_t a = 0; a < s->kh; a++)
            needed |= a * s->dh % s->sh == residue;
        for (int64_t c = 0; needed && c < channels; c++)
            for (int64_t b = 0; b < s->kw; b++) {
                const char *from = d->x + (image + c) * s->ih * s->iw * size;
                char *to = strip + (c * d->plane + b * d->column + residue * d->phase) * size;
                for (int64_t row = 0; row < under; row++, to += s->ow * size) {
                    const int64_t y = (i0 + row) * s->sh - s->ph + residue;
                    fill_cells(d, to, y >= 0 && y < s->ih ? from + y * s->iw * size : NULL, s->ow, b * s->dw - s->pw, s->sw,
                               s->iw, 1);
                }
            }
    }
}

/* Whether the sum is `brief` (fc_direct_args). */
static int is_brief(const fc_conv2d_shape *s)
{
    const int64_t row = s->g == 1 && s->dw == 1 ? s->kw * s->ic : s->ic / s->g; /* of the filter: cells in a row */
    return s->layout == FC_NHWC && row % 3 == 0 && s->ic / s->g * s->kh * s->kw <= FC_SUM_TERMS;
}

/* In the order of the packed weights. */
static void fill_offsets(const direct *d, int32_t *offset)
{
    const fc_conv2d_shape *s = d->s;
    const int64_t taps = s->kh * s->kw;
    for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t a = tap / s->kw, b = tap % s->kw;
        const int64_t column = b * s->dw, row = a * s->dh * d->pitch;
        if (s->layout == FC_NHWC)
            for (int64_t c = 0; c < d->icg; c++)
                offset[tap * d->icg + c] = (int32_t)(row + column * s->ic + c);
        else if (d->flat)
            offset[tap] = (int32_t)(b * d->column + a * s->dh % s->sh * d->phase + a * s->dh / s->sh * s->ow);
        else
            offset[tap] = (int32_t)(row + column % s->sw * d->phase + column / s->sw);
    }
    if (s->layout == FC_NCHW)
        for (int64_t k = taps; k < d->chunk * taps; k++)
            offset[k] = offset[k - taps] + (int32_t)d->plane;
}

/* ---- Tasks -------------------------------------------------------------------------------------------------------- */

/* The cells that fill_flat reads for channel `c` and those after it, of a task's rows; none past the last task. */
static fc_direct_fetch fetch_flat(const direct *d, int64_t task, int64_t c)
{
    const fc_conv2d_shape *s = d->s;
    const int64_t i0 = task % d->blocks * d->rows, plane = task / d->blocks * d->icg + c;
    const int64_t top = max64(0, i0 * s->sh - s->ph), bottom = min64(s->ih, i0 * s->sh - s->ph + rows_under(s, d->rows));
    if (plane >= s->mb * s->ic || bottom <= top)
        return (fc_direct_fetch){d->x, 0, 0, 0, 0};
    const int64_t lines = ceil_div((bottom - top) * s->iw * d->size, CACHE_LINE);
    return (fc_direct_fetch){d->x + (plane * s->ih + top) * s->iw * d->size, lines, lines, min64(d->chunk, d->icg - c),
                             s->ih * s->iw * d->size - lines * CACHE_LINE};
}

/* A task is a block of output rows of an image: all channels in NHWC, those of a group in NCHW. */
static void direct_task(void *ctx, int64_t task, int worker)
{
    const direct *d = ctx;
    const fc_conv2d_shape *s = d->s;
    const int nhwc = s->layout == FC_NHWC;
    const int64_t size = d->size, lanes = d->kernel.lanes, block = task % d->blocks, rest = task / d->blocks;
    const int64_t n = nhwc ? rest : rest / s->g, group0 = nhwc ? 0 : rest % s->g, group1 = nhwc ? s->g : group0 + 1;
    const int64_t i0 = block * d->rows, rows = min64(d->rows, s->oh - i0);
    char *strip = d->strips + worker * d->strip_bytes;
    fc_direct_args args = d->args;
    fc_direct_fetch fetch;

    if (!d->flat && !d->in_place)
        fill_strip(d, strip, n, group0, i0, rows);
    args.rows = d->flat ? 1 : rows;
    args.columns = d->flat ? rows * s->ow : s->ow;
    for (int64_t group = group0; group < group1; group++) {
        const int64_t o = group * d->ocg, width = nhwc ? ceil_div(d->ocg, lanes) * lanes : d->ocg;
        const int64_t cell = nhwc ? (n * s->oh + i0) * s->ow * s->oc + o : ((n * s->oc + o) * s->oh + i0) * s->ow;
        const int64_t first = nhwc ? (n * s->ih + i0 * s->sh) * s->iw * s->ic :
                                     ((n * s->ic + group * d->icg) * s->ih + i0 * s->sh) * s->iw;
        args.x = (d->in_place ? d->x + first * size : strip) + (nhwc ? group * d->icg * size : 0);
        args.y = d->y + cell * size;
        for (int64_t c = 0; c < d->icg; c += d->chunk) {
            const int64_t channels = min64(d->chunk, d->icg - c), k = c * s->kh * s->kw;
            const int last = c + channels == d->icg;
            if (d->flat)
                fill_flat(d, strip, n * s->ic + group * d->icg + c, channels, i0, rows);
            if (d->flat)
                fetch = last ? fetch_flat(d, task + d->threads, 0) : fetch_flat(d, task, c + channels);
            args.fetch = d->flat ? &fetch : NULL;
            args.depth = channels * s->kh * s->kw;
            args.w = d->packed + (args.w_step ? o : (group * d->depth + k) * width) * size;
            args.accumulate = c > 0;
            args.bias = d->bias && c == 0 ? d->bias + o * size : NULL;
            args.residual = d->residual && last ? d->residual + cell * size : NULL;
            args.clamp = d->clamp && last;
            d->kernel.run[s->layout](&args);
        }
    }
}

static int64_t packed_size(const fc_conv2d_shape *s)
{
    direct d;
    if (is_empty(s))
        return 0;
    lay_out(&d, s);
    return packed_bytes(&d);
}

static void pack(const fc_conv2d_shape *s, const fc_view *w, void *packed, int threads)
{
    direct d;
    if (is_empty(s))
        return;
    lay_out(&d, s);
    choose_kernel(&d);
    d.w = *w;
    d.packed = packed;
    pack_all(&d, threads);
}

static int64_t workspace_size(const fc_conv2d_shape *s, int packed, int threads)
{
    direct d;
    if (is_empty(s))
        return 0;
    lay_out(&d, s);
    return offset_bytes(&d) + (packed ? 0 : packed_bytes(&d)) + threads * d.strip_bytes;
}

static void run(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, const void *packed,
                const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads)
{
    direct d;
    if (is_empty(s))
        return;
    const int nhwc = s->layout == FC_NHWC;
    lay_out(&d, s);
    choose_kernel(&d);
    char *place = (char *)workspace + offset_bytes(&d);
    d.packed = (char *)packed;
    if (!packed && weights_in_place(&d, w)) {
        d.packed = w->data;
    } else if (!packed) {
        d.w = *w;
        d.packed = place;
        place += packed_bytes(&d);
        pack_all(&d, threads);
    }
    d.strips = place;
    d.x = x->data;
    d.y = y->data;
    d.residual = epilogue->residual.data;
    d.bias = epilogue->bias;
    d.clamp = epilogue->clamp;
    d.threads = threads;
    fill_offsets(&d, workspace);
    if (threads > 1) { /* lower than the strip has room for */
        const int64_t pixels = min64(TASK_PIXELS, max64(1, TASK_WORK / ((nhwc ? s->oc : d.ocg) * d.depth)));
        d.rows = max64(min64(d.rows, ceil_div(pixels, s->ow)),
                       min64(d.rows, s->mb * s->oh / ((int64_t)threads * TASKS_A_THREAD)));
    }
    if (d.flat)
        d.rows = flat_task(s, d.rows, d.kernel.lanes);
    d.blocks = ceil_div(s->oh, d.rows);
    d.args = (fc_direct_args){
        .mr = d.args.mr,
        .nv = d.args.nv,
        .brief = is_brief(s),
        .w_step = d.args.w_step,
        .channels = d.ocg,
        .offset = workspace,
        .x_row = s->sh * d.pitch,
        .x_column = nhwc ? s->sw * s->ic : 1,
        .y_row = nhwc ? s->ow * s->oc : s->ow,
        .y_column = nhwc ? s->oc : 1,
        .y_channel = nhwc ? 1 : s->oh * s->ow,
        .lo = epilogue->lo,
        .hi = epilogue->hi,
    };
    fc_parallel_for(s->mb * (nhwc ? 1 : s->g) * d.blocks, threads, direct_task, &d);
}

const fc_conv2d_kernel fc_conv2d_forward_direct = {"conv2d_forward_direct", packed_size, pack, workspace_size, run};
