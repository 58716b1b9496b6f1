/* The gather of im2col.c in NCHW: rows of the microkernel are output channels, columns are pixels.
 *
 * A block of pixels is packed as panels of columns (im2col_columns.c); under a 1x1 filter and few output channels they are
 * read in place. */
#include "im2col.h"

#include <stddef.h>

enum {
    ALIAS_PANELS = 3, /* fewer do not repay the copy of rows of weights that fall into one set of the L1 */
    PACKED_TILES = 8, /* tiles of weights that repay packing columns which could be read in place: rows of columns are planes
                       * apart and cross cache lines (Zen 3, AVX2: 1.05-1.28x on the 1x1 layers of ResNet) */
    DEEPEST = DEPTH_BYTES / 4 * 3 / 2 + 1, /* of a block: see depth_of in im2col.c */
};

/* Columns of a tile that are evenly apart in memory. */
typedef struct run {
    int64_t column, at, n; /* the first, its element in a plane, how many */
} run;

/* Columns q0 <= q < q0 + n as runs in the array that s describes; their number. */
static int64_t list_runs(const gather *g, int64_t q0, int64_t n, const strides4 *s, run *runs)
{
    const int64_t row = q0 / g->out_w;
    int64_t count = 0, b = row / g->out_h, i = row % g->out_h, j = q0 % g->out_w;
    for (int64_t column = 0, some; column < n; column += some, j = 0) { /* a row of the image or the part that is left */
        const int64_t at = b * s->n + i * s->h + j * s->w;
        some = min64(n - column, g->out_w - j);
        if (count > 0 && at == runs[count - 1].at + runs[count - 1].n * s->w)
            runs[count - 1].n += some;
        else
            runs[count++] = (run){column, at, some};
        if (++i == g->out_h) {
            i = 0;
            b++;
        }
    }
    return count;
}

/* A row of a tile whose columns are those runs, into memory or out of it. */
FC_INLINE void move_row(char *tile, char *memory, const run *runs, int64_t count, int64_t step, int64_t size, const int store)
{
    for (const run *r = runs; r < runs + count; r++) {
        char *const t = tile + r->column * size, *const m = memory + r->at * size;
        if (step == 1)
            copy_run(store ? m : t, store ? t : m, r->n, (int)size);
        else if (store)
            copy_words(m, t, r->n, step, 1, (int)size);
        else
            copy_words(t, m, r->n, 1, step, (int)size);
    }
}

/* A tile of C whose columns are not neighbours in memory: it passes through a stack tile. */
static void run_scattered(const gather *g, fc_gemm_args *args, int64_t q0, int64_t channel)
{
    const int64_t size = g->size, m = args->m, nr = g->kernel.nr;
    double c_tile[FC_MR_MAX * FC_NR_MAX], r_tile[FC_MR_MAX * FC_NR_MAX];
    run out[FC_NR_MAX], residual[FC_NR_MAX];
    const int with_residual = args->last && g->residual != NULL;
    const int64_t outs = list_runs(g, q0, args->n, &g->y, out);
    const int64_t residuals = with_residual ? list_runs(g, q0, args->n, &g->r, residual) : 0;
    for (int64_t i = 0; i < m; i++) {
        if (args->accumulate)
            move_row((char *)c_tile + i * nr * size, g->out + (channel + i) * g->y.c * size, out, outs, g->y.w, size, 0);
        if (with_residual)
            move_row((char *)r_tile + i * nr * size, (char *)g->residual + (channel + i) * g->r.c * size, residual,
                     residuals, g->r.w, size, 0);
    }
    args->c = c_tile;
    args->rs_c = nr;
    args->residual = with_residual ? r_tile : NULL;
    args->rs_r = nr;
    g->kernel.run(args);
    for (int64_t i = 0; i < m; i++)
        move_row((char *)c_tile + i * nr * size, g->out + (channel + i) * g->y.c * size, out, outs, g->y.w, size, 1);
}

/* Whether columns q0 <= q < q0 + n are neighbours in the array that s describes. */
static int columns_adjoin(const gather *g, int64_t q0, int64_t n, const strides4 *s)
{
    const int64_t plane = g->out_h * g->out_w;
    if (s->w != 1)
        return 0;
    return s->h == g->out_w ? q0 / plane == (q0 + n - 1) / plane : q0 / g->out_w == (q0 + n - 1) / g->out_w;
}

/* One pixel by its taps inside the image and no others, as nhwc_pixel: depth c*taps + t becomes a list. */
static void nchw_pixel(const gather *g, fc_gemm_args *args, char *column, int64_t q, int64_t k0, int64_t k1,
                       int64_t group, int64_t channel)
{
    const int64_t size = g->size, nr = g->kernel.nr;
    const int64_t j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, n = row / g->out_h;
    int64_t a_offset[DEEPEST], count = 0;
    for (int64_t k = k0; k < k1; k++) {
        const int64_t c = group * g->icg + k / g->taps, t = k % g->taps;
        const int64_t y = i * g->sh + g->th[t / g->taps_w], x = j * g->sw + g->tw[t % g->taps_w];
        if (y < 0 || y >= g->in_h || x < 0 || x >= g->in_w)
            continue;
        char *b = column + count * nr * size;
        copy_run(b, g->in + (n * g->x.n + c * g->x.c + y * g->x.h + x * g->x.w) * size, 1, (int)size);
        zero_run(b + size, nr - 1, (int)size);
        a_offset[count++] = (k - k0) * args->cs_a;
    }
    args->a_offset = a_offset;
    args->taps = count;
    args->kc = 1;
    args->n = 1;
    args->b = column;
    args->rs_b = nr;
    run_scattered(g, args, q, channel);
    args->a_offset = NULL;
}

/* Input that is read next: `channels` rows of `cells` cells, a plane apart. */
typedef struct coming {
    const char *from; /* NULL: nothing is known */
    int64_t channels, cells;
} coming;

/* What the microkernel brings near in one call, of the tile numbered `step` of `steps` and the panel numbered `panel` of
 * `panels`: in the first panel the weights of the next tile, in the others a share of the coming input. */
static void name_next(const gather *g, fc_gemm_args *args, const char *weights, int64_t m, const coming *input,
                      int64_t step, int64_t steps, int64_t panel, int64_t panels)
{
    const int64_t line = FC_ALIGNMENT / g->size, depth = args->kc;
    if (panel == 0) {
        const int by_rows = args->cs_a == 1;
        args->next = weights;
        args->rs_next = by_rows ? args->rs_a : 0;
        args->next_rows = by_rows ? m : 1;
        args->next_lines = weights ? ceil_div(by_rows ? depth : depth * args->cs_a, line) : 0;
    } else {
        int64_t channel, first;
        const int64_t lines = split(ceil_div(input->cells, line), panels - 1, panel - 1, &first);
        args->next_rows = split(input->channels, steps, step, &channel);
        args->next = input->from + (channel * g->x.c + first * line) * g->size;
        args->rs_next = g->x.c;
        args->next_lines = input->from && args->next_rows ? lines : 0;
    }
}

/* The cells that pixels q0 <= q < q1 read, from channel c of the group on, as far as they lie in one image. */
static coming coming_of(const gather *g, int64_t q0, int64_t q1, int64_t group, int64_t c, int64_t depth)
{
    const int64_t plane = g->out_h * g->out_w, p0 = q0 % plane, p1 = min64(p0 + q1 - q0, plane);
    if (q0 >= q1 || g->taps == 0)
        return (coming){NULL, 0, 0};
    const int64_t y0 = p0 / g->out_w * g->sh + g->th[0], y1 = (p1 - 1) / g->out_w * g->sh + g->th[g->taps_h - 1] + 1;
    const int64_t first = g->pointwise ? p0 : min64(max64(y0, 0), g->in_h) * g->in_w;
    const int64_t end = g->pointwise ? p1 : min64(y1, g->in_h) * g->in_w;
    return (coming){g->in + (q0 / plane * g->x.n + (group * g->icg + c) * g->x.c + first) * g->size,
                    ceil_div(depth, g->taps), max64(0, end - first)};
}

void fc_im2col_nchw_task(void *ctx, int64_t task, int worker)
{
    const gather *g = ctx;
    const int64_t size = g->size, nr = g->kernel.nr, mr = g->kernel.mr;
    const int64_t pixel_block = task % g->pixel_blocks, rest = task / g->pixel_blocks;
    const int64_t channel_block = rest % g->channel_blocks, group = rest / g->channel_blocks;
    const int64_t panel0 = pixel_block * g->pixel_block, panel1 = min64(panel0 + g->pixel_block, g->pixel_tiles);
    const int64_t tile0 = channel_block * g->channel_block, tile1 = min64(tile0 + g->channel_block, g->channel_tiles);
    const int64_t depth_all = g->icg * g->taps, plane = g->out_h * g->out_w;
    char *const rows = g->scratch + worker * g->scratch_bytes;
    char *const panels = rows + align_up(FC_MR_MAX * pitch_of(g->depth) * size);
    const char *b[BLOCK_PIXELS_NCHW];
    fc_gemm_args args;

    common_arguments(g, &args);
    for (int64_t block = 0; block < g->blocks; block++) {
        const int64_t k0 = block * g->depth, k1 = min64(k0 + g->depth, depth_all), depth = k1 - k0;
        const int last = block == g->blocks - 1;
        for (int64_t panel = panel0, packed = panel0; panel < panel1 && !g->nonfinite; panel++) {
            const int64_t q0 = panel * nr, n = min64(nr, g->pixels - q0), p0 = q0 % plane;
            const int64_t first = q0 / plane * g->x.n + (group * g->icg + k0) * g->x.c + p0;
            const int in_place = tile1 - tile0 < PACKED_TILES && g->pointwise && p0 + n <= plane &&
                                 first + (depth - 1) * g->x.c + nr <= g->in_elements;
            char *const dst = panels + (packed - panel0) * nr * depth * size;
            b[panel - panel0] = in_place ? g->in + first * size : panels + (panel - panel0) * nr * depth * size;
            if (in_place || panel + 1 == panel1) {
                fc_im2col_pack_columns(g, dst, packed * nr, panel + !in_place - packed, k0, k1, group);
                packed = panel + 1;
            }
        }
        /* Of the next block of depth, else what the next task begins with. */
        const int64_t q_next = (last ? panel1 : panel0) * nr;
        const coming input = coming_of(g, q_next, min64(q_next + (panel1 - panel0) * nr, g->pixels), group,
                                      last ? 0 : k1 / g->taps, depth);
        for (int64_t tile = tile0; tile < tile1; tile++) {
            int64_t o;
            const int64_t m = split(g->ocg, g->channel_tiles, tile, &o);
            args.m = m;
            args.kc = depth;
            args.taps = 1;
            if (!g->affine) {
                args.a = g->packed + ((group * depth_all + k0) * g->channel_tiles * mr + tile * depth * mr) * size;
                args.rs_a = 1;
                args.cs_a = mr;
            } else {
                args.a = g->w + (group * g->wg + o * g->wo + g->base_w + k0 * g->cs_w) * size;
                args.rs_a = g->wo;
                args.cs_a = g->cs_w;
                if (g->cs_w == 1 && aliased(g->wo, size) && panel1 - panel0 >= ALIAS_PANELS) {
                    for (int64_t r = 0; r < m; r++)
                        copy_run(rows + r * pitch_of(depth) * size, (const char *)args.a + r * g->wo * size, depth,
                                 (int)size);
                    args.a = rows;
                    args.rs_a = pitch_of(depth);
                }
            }
            o += group * g->ocg;
            args.bias_row = g->bias ? g->bias + o * size : NULL;
            args.accumulate = block > 0;
            args.last = last;
            const char *const weights_next = tile + 1 == tile1 || (g->affine && aliased(g->wo, size)) ? NULL : g->affine ?
                g->w + (group * g->wg + (o - group * g->ocg + m) * g->wo + g->base_w + k0 * g->cs_w) * size :
                (const char *)args.a + depth * mr * size;
            if (g->nonfinite) {
                for (int64_t q = panel0 * nr; q < min64(panel1 * nr, g->pixels); q++)
                    nchw_pixel(g, &args, panels, q, k0, k1, group, o);
                continue;
            }
            for (int64_t panel = panel0; panel < panel1; panel++) {
                const int64_t q0 = panel * nr;
                const char *const packed = panels + (panel - panel0) * nr * depth * size;
                args.n = min64(nr, g->pixels - q0);
                args.b = b[panel - panel0];
                args.rs_b = b[panel - panel0] == packed ? nr : g->x.c;
                name_next(g, &args, weights_next, m, &input, tile - tile0, tile1 - tile0, panel - panel0,
                          panel1 - panel0);
                if (!columns_adjoin(g, q0, args.n, &g->y) ||
                    (g->residual && !columns_adjoin(g, q0, args.n, &g->r))) {
                    run_scattered(g, &args, q0, o);
                    continue;
                }
                args.c = row_address(g, q0, g->out, &g->y) + o * g->y.c * size;
                args.rs_c = g->y.c;
                args.residual = g->residual ? row_address(g, q0, g->residual, &g->r) + o * g->r.c * size : NULL;
                args.rs_r = g->r.c;
                g->kernel.run(&args);
            }
        }
    }
}
