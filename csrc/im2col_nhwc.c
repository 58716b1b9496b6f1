/* The gather of im2col.c in NHWC: rows of the microkernel are pixels, columns are output channels.
 *
 * Pixels inside the image are read in place, tap by tap; the others are packed, a register tile of them at a time. Where the
 * padding is a good part of the work, all are packed, by regions of pixels with the same taps inside the image. */
#include "im2col.h"

#include <stddef.h>

/* The rows of a tile of pixels, q0 <= q < q0 + m, as dst[row][t*channels + c]. */
static void pack_pixels(const gather *g, char *dst, int64_t pitch, int64_t q0, int64_t m, int64_t channel, int64_t channels)
{
    const int64_t size = g->size;
    int64_t j = q0 % g->out_w, row = q0 / g->out_w, i = row % g->out_h, n = row / g->out_h;
    for (int64_t r = 0; r < m; r++) {
        char *d = dst + r * pitch * size;
        const char *image = g->in + (n * g->x.n + channel) * size;
        const int64_t left = j * g->sw;
        for (int64_t a = 0; a < g->taps_h; a++) {
            const int64_t y = i * g->sh + g->th[a];
            if (y < 0 || y >= g->in_h) {
                zero_run(d, g->taps_w * channels, (int)size);
                d += g->taps_w * channels * size;
                continue;
            }
            const char *line = image + y * g->x.h * size;
            if (g->merged) {
                const int64_t x0 = left + g->tw[0];
                const int64_t lo = min64(g->taps_w, max64(0, -x0)), hi = max64(lo, min64(g->taps_w, g->in_w - x0));
                zero_run(d, lo * channels, (int)size);
                copy_run(d + lo * channels * size, line + (x0 + lo) * g->x.w * size, (hi - lo) * channels, (int)size);
                zero_run(d + hi * channels * size, (g->taps_w - hi) * channels, (int)size);
                d += g->taps_w * channels * size;
                continue;
            }
            for (int64_t b = 0; b < g->taps_w; b++, d += channels * size) {
                const int64_t x = left + g->tw[b];
                if (x < 0 || x >= g->in_w)
                    zero_run(d, channels, (int)size);
                else
                    copy_run(d, line + x * g->x.w * size, channels, (int)size);
            }
        }
        if (++j == g->out_w) {
            j = 0;
            if (++i == g->out_h) {
                i = 0;
                n++;
            }
        }
    }
}

/* Whether the microkernel can read the m pixels from q0 in place; gives the address of the first one's tap (0, 0) cell. */
static int pixels_in_place(const gather *g, int64_t q0, int64_t m, const char **address)
{
    const int64_t j = q0 % g->out_w, row = q0 / g->out_w, i = row % g->out_h, n = row / g->out_h;
    *address = g->in + (n * g->x.n + i * g->sh * g->x.h + j * g->sw * g->x.w) * g->size;
    if (g->taps == 0)
        return 1;
    if (aliased(g->sw * g->x.w, g->size))
        return 0;
    if (g->pointwise)
        return 1;
    return j + m <= g->out_w && i * g->sh + g->th[0] >= 0 && i * g->sh + g->th[g->taps_h - 1] < g->in_h &&
           j * g->sw + g->tw[0] >= 0 && (j + m - 1) * g->sw + g->tw[g->taps_w - 1] < g->in_w;
}

static int64_t pixel_tile(const gather *g, int64_t tile, int64_t *q0)
{
    if (g->flat)
        return split(g->pixels, g->pixel_tiles, tile, q0);
    int64_t j;
    const int64_t m = split(g->out_w, g->tiles_a_row, tile % g->tiles_a_row, &j);
    *q0 = tile / g->tiles_a_row * g->out_w + j;
    return m;
}

/* What the microkernel brings near meanwhile: of each pixel of the tile after this one its channels under the last filter
 * row, which no tile before has touched. The tile after is that of this block, else the first of the next block, else the
 * one that the next task begins with. Returns the first pixel's address and sets rows and their distance. */
static const char *next_pixels(const gather *g, fc_gemm_args *args, int64_t tile, int64_t tile0, int64_t tile1, int64_t block)
{
    const int inside = tile + 1 < tile1, last = block == g->blocks - 1;
    const int64_t next_tile = inside || last ? tile + 1 : tile0, next_block = inside ? block : last ? 0 : block + 1;
    int64_t q = 0;
    args->next_rows = 0;
    if (next_tile == g->pixel_tiles || g->taps == 0)
        return g->in;
    args->next_rows = pixel_tile(g, next_tile, &q);
    args->rs_next = g->sw * g->x.w;
    const int64_t j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, n = row / g->out_h;
    const int64_t y = min64(g->in_h - 1, i * g->sh + g->th[g->taps_h - 1]);
    const int64_t x = min64(g->in_w - 1, j * g->sw + g->tw[g->taps_w - 1]);
    return g->in + (n * g->x.n + y * g->x.h + x * g->x.w + next_block * (g->depth / g->taps)) * g->size;
}

/* Where a tile of pixels lies in the output and in the residual. */
typedef struct place {
    char *out;
    const char *residual;
} place;

static place place_of(const gather *g, int64_t q)
{
    return (place){row_address(g, q, g->out, &g->y), g->residual ? row_address(g, q, g->residual, &g->r) : NULL};
}

/* One tile of C: args has A, B, m and the flags; here come the columns of a panel of output channels. */
static void nhwc_run(const gather *g, fc_gemm_args *args, place at, int64_t group, int64_t panel)
{
    const int64_t size = g->size, nr = g->kernel.nr, o = group * g->ocg + panel * nr;
    double bias_edge[FC_NR_MAX]; /* the last panel's bias, readable to nr */
    args->n = min64(nr, g->ocg - panel * nr);
    args->c = at.out + o * size;
    args->residual = at.residual ? at.residual + o * size : NULL;
    args->bias_col = g->bias ? g->bias + o * size : NULL;
    if (g->bias && args->n < nr) {
        memset(bias_edge, 0, sizeof bias_edge);
        copy_run(bias_edge, g->bias + o * size, args->n, (int)size);
        args->bias_col = bias_edge;
    }
    g->kernel.run(args);
}

/* One pixel by its taps inside the image and no others: what weights that are not finite need in the adjoint. */
static void nhwc_pixel(const gather *g, fc_gemm_args *args, int64_t q, int64_t group, int64_t panel0, int64_t panel1,
                       int64_t c0, int64_t channels, const char *weights)
{
    const int64_t size = g->size, nr = g->kernel.nr, depth = g->taps * channels;
    const int64_t j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, n = row / g->out_h;
    const int accumulate = args->accumulate, last = args->last;
    const place at = place_of(g, q);
    args->m = 1;
    args->kc = channels;
    for (int64_t panel = panel0; panel < panel1; panel++) {
        args->accumulate = accumulate;
        args->taps = 1;
        args->last = 0;
        for (int64_t t = 0; t < g->taps; t++) {
            const int64_t y = i * g->sh + g->th[t / g->taps_w], x = j * g->sw + g->tw[t % g->taps_w];
            if (y < 0 || y >= g->in_h || x < 0 || x >= g->in_w)
                continue;
            args->a = g->in + (n * g->x.n + y * g->x.h + x * g->x.w + group * g->icg + c0) * size;
            args->b = weights + (panel * depth + t * channels) * nr * size;
            nhwc_run(g, args, at, group, panel);
            args->accumulate = 1;
        }
        args->taps = 0; /* the epilogue, or the start value of a pixel that no tap reaches */
        args->last = last;
        nhwc_run(g, args, at, group, panel);
    }
    args->accumulate = accumulate;
}

/* Cells of the output at which the pixels from p0 of a region lie, m of them, and their rows of taps: dst[row][taps of the
 * region][channel]. */
static void pack_region(const gather *g, const region *r, char *dst, int64_t pitch, int64_t p0, int64_t m, int64_t channel,
                           int64_t channels, place *cells)
{
    const int64_t size = g->size, width = r->j1 - r->j0, height = r->i1 - r->i0;
    int64_t j = r->j0 + p0 % width, row = p0 / width, i = r->i0 + row % height, n = row / height;
    for (int64_t at = 0; at < m; at++) {
        char *d = dst + at * pitch * size;
        cells[at] = (place){g->out + (n * g->y.n + i * g->y.h + j * g->y.w) * size,
                            g->residual ? g->residual + (n * g->r.n + i * g->r.h + j * g->r.w) * size : NULL};
        for (int64_t a = r->a0; a < r->a1; a++) {
            const char *line = g->in + (n * g->x.n + (i * g->sh + g->th[a]) * g->x.h + channel) * size;
            for (int64_t b = r->b0; b < r->b1; b++, d += channels * size) {
                const int64_t x = j * g->sw + g->tw[b];
                if (x < 0 || x >= g->in_w)
                    zero_run(d, channels, (int)size);
                else
                    copy_run(d, line + x * g->x.w * size, channels, (int)size);
            }
        }
        if (++j == r->j1) {
            j = r->j0;
            if (++i == r->i1) {
                i = r->i0;
                n++;
            }
        }
    }
}

/* One row of a tile, mostly 64 or 128 bytes: a call of memcpy for each costs 7 % of a whole 3x3 convolution. */
static inline void copy_row(char *dst, const char *src, int64_t bytes)
{
    if (bytes % (int64_t)sizeof(words16) != 0)
        memcpy(dst, src, (size_t)bytes);
    else
        for (int64_t at = 0; at < bytes; at += (int64_t)sizeof(words16))
            *(words16 *)(dst + at) = *(const words16 *)(src + at);
}

/* A tile of a region whose pixels are no neighbours in the output: C passes through a stack tile. */
static void run_region(const gather *g, fc_gemm_args *args, const place *cells, int64_t group, int64_t panel)
{
    const int64_t size = g->size, nr = g->kernel.nr, row = nr * size, o = (group * g->ocg + panel * nr) * size;
    const int64_t m = args->m, n = min64(nr, g->ocg - panel * nr) * size;
    double c_tile[FC_MR_MAX * FC_NR_MAX], r_tile[FC_MR_MAX * FC_NR_MAX];
    const int with_residual = args->last && g->residual != NULL;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t byte = 0; byte < row; byte += FC_ALIGNMENT)
            __builtin_prefetch(cells[i].out + o + row + byte); /* the next panel's */
        if (args->accumulate)
            copy_row((char *)c_tile + i * row, cells[i].out + o, n);
        if (with_residual)
            copy_row((char *)r_tile + i * row, cells[i].residual + o, n);
    }
    args->rs_c = args->rs_r = nr;
    nhwc_run(g, args, (place){(char *)c_tile - o, with_residual ? (const char *)r_tile - o : NULL}, group, panel);
    for (int64_t i = 0; i < m; i++)
        copy_row(cells[i].out + o, (char *)c_tile + i * row, n);
}

/* Whether each pixel is the right neighbour of the one before. First and last do not tell: in an input gradient rows of a
 * residue class may be closer than its columns, and a step to the next image makes up for it. */
static int cells_adjoin(const gather *g, const place *cells, int64_t m)
{
    for (int64_t at = 1; at < m; at++)
        if (cells[at].out - cells[at - 1].out != g->y.w * g->size ||
            (g->residual && cells[at].residual - cells[at - 1].residual != g->r.w * g->size))
            return 0;
    return 1;
}

/* All panels of a tile of pixels that is cut from a region. */
static void region_tile(const gather *g, fc_gemm_args *args, char *rows, int64_t pitch, int64_t tile, int64_t group,
                        int64_t panel0, int64_t panel1, int64_t channel, int64_t channels, const char *weights)
{
    const region *r = g->regions;
    int64_t p0, b_offset[REGION_TAP_ROWS], first_step[REGION_TAP_ROWS];
    place cells[FC_MR_MAX];
    const int64_t nr = g->kernel.nr;
    while (tile >= r->tile0 + r->tiles)
        r++;
    args->m = split(g->mb * (r->i1 - r->i0) * (r->j1 - r->j0), r->tiles, tile - r->tile0, &p0);
    pack_region(g, r, rows, pitch, p0, args->m, channel, channels, cells);
    for (int64_t a = r->a0; a < r->a1; a++) {
        first_step[a - r->a0] = (a * g->taps_w + r->b0) * channels;
        b_offset[a - r->a0] = first_step[a - r->a0] * nr;
    }
    args->a = rows;
    args->rs_a = pitch;
    args->taps = r->a1 - r->a0;
    args->kc = (r->b1 - r->b0) * channels;
    args->b_offset = b_offset;
    args->first_step = first_step;
    /* The next tile's pixels, as if they were neighbours in the image. */
    const int64_t lines = tile + 1 < r->tile0 + r->tiles && args->taps > 0 ? ceil_div(channels * g->size, FC_ALIGNMENT) : 0;
    const int64_t width = r->j1 - r->j0, height = r->i1 - r->i0, j = r->j0 + (p0 + args->m) % width;
    const int64_t row = (p0 + args->m) / width, i = r->i0 + row % height, th = lines ? g->th[r->a1 - 1] : 0;
    const char *const next = g->in + (row / height * g->x.n + (i * g->sh + th) * g->x.h + j * g->sw * g->x.w + channel) * g->size;
    int64_t line = 0;
    args->next_rows = args->m;
    args->rs_next = g->sw * g->x.w;
    const int adjoin = cells_adjoin(g, cells, args->m);
    for (int64_t panel = panel0; panel < panel1; panel++) {
        args->b = weights + panel * g->taps * channels * nr * g->size;
        args->next = next + line * FC_ALIGNMENT;
        args->next_lines = (lines - line) / (panel1 - panel);
        line += args->next_lines;
        if (adjoin) {
            args->rs_c = g->y.w;
            args->rs_r = g->r.w;
            nhwc_run(g, args, cells[0], group, panel);
        } else {
            run_region(g, args, cells, group, panel);
        }
    }
    args->b_offset = NULL;
    args->first_step = NULL;
}

void fc_im2col_nhwc_task(void *ctx, int64_t task, int worker)
{
    const gather *g = ctx;
    const int64_t size = g->size, nr = g->kernel.nr;
    const int64_t pixel_block = task % g->pixel_blocks, rest = task / g->pixel_blocks;
    const int64_t channel_block = rest % g->channel_blocks, group = rest / g->channel_blocks;
    const int64_t tile0 = pixel_block * g->pixel_block, tile1 = min64(tile0 + g->pixel_block, g->pixel_tiles);
    const int64_t panel0 = channel_block * g->channel_block, panel1 = min64(panel0 + g->channel_block, g->channel_tiles);
    const int64_t depth_all = g->icg * g->taps, channels_all = g->taps ? g->depth / g->taps : 0;
    char *rows = g->scratch + worker * g->scratch_bytes;
    fc_gemm_args args;

    common_arguments(g, &args);
    for (int64_t block = 0; block < g->blocks; block++) {
        const int64_t k0 = block * g->depth, depth = min64(g->depth, depth_all - k0);
        const int64_t c0 = block * channels_all, channels = g->taps ? depth / g->taps : 0;
        const char *weights = g->packed + (group * depth_all + k0) * g->channel_tiles * nr * size;
        const int last = block == g->blocks - 1;
        const int64_t pitch = pitch_of(depth);
        const int64_t inner = g->merged && !g->rows_in_place ? g->taps_w : 1; /* taps that the depth run of one covers */
        int64_t b_offsets[TAPS_IN_PLACE];
        if (g->rows_in_place) {
            weights = g->w + (group * g->wg + c0 * g->wc) * size;
            for (int64_t t = 0; t < g->taps; t++)
                b_offsets[t] = g->wh[t / g->taps_w] + g->ww[t % g->taps_w];
        }
        const int64_t panel_bytes = (g->rows_in_place ? 1 : depth) * nr * size;
        args.cs_a = 1;
        args.rs_b = g->rows_in_place ? g->wc : nr;
        args.b_offset = g->rows_in_place ? b_offsets : NULL;
        args.rs_c = g->y.w;
        args.rs_r = g->r.w;
        args.b_ahead = AHEAD_BYTES / nr * args.rs_b;
        for (int64_t tile = tile0; tile < tile1; tile++) {
            int64_t q0, offsets[TAPS_IN_PLACE];
            const char *in_place;
            args.accumulate = block > 0;
            args.last = last;
            args.a_offset = NULL;
            if (g->region_count > 0) {
                region_tile(g, &args, rows, pitch, tile, group, panel0, panel1, group * g->icg + c0, channels, weights);
                continue;
            }
            const int64_t m = pixel_tile(g, tile, &q0);
            args.m = m;
            if (g->nonfinite) {
                for (int64_t q = q0; q < q0 + m; q++)
                    nhwc_pixel(g, &args, q, group, panel0, panel1, c0, channels, weights);
                continue;
            }
            if (g->taps / inner <= TAPS_IN_PLACE && pixels_in_place(g, q0, m, &in_place)) {
                args.a_offset = offsets;
                for (int64_t t = 0; t < g->taps / inner; t++)
                    offsets[t] = inner > 1 ? g->th[t] * g->x.h + g->tw[0] * g->x.w :
                                             g->th[t / g->taps_w] * g->x.h + g->tw[t % g->taps_w] * g->x.w;
                args.a = in_place + (group * g->icg + c0) * size;
                args.rs_a = g->sw * g->x.w;
                args.taps = g->taps / inner;
                args.kc = channels * inner;
            } else {
                pack_pixels(g, rows, pitch, q0, m, group * g->icg + c0, channels);
                args.a = rows;
                args.rs_a = pitch;
                args.taps = 1;
                args.kc = depth;
                if (g->rows_in_place) { /* one tap at a time, as the weights are */
                    for (int64_t t = 0; t < g->taps; t++)
                        offsets[t] = t * channels;
                    args.a_offset = offsets;
                    args.taps = g->taps;
                    args.kc = channels;
                }
            }
            const place at = place_of(g, q0);
            const char *const next = next_pixels(g, &args, tile, tile0, tile1, block) + group * g->icg * size;
            const int64_t lines = args.next_rows ? ceil_div(channels * size, FC_ALIGNMENT) : 0;
            for (int64_t panel = panel0, line = 0; panel < panel1; panel++) {
                args.b = weights + panel * panel_bytes;
                args.next = next + line * FC_ALIGNMENT;
                args.next_lines = (lines - line) / (panel1 - panel);
                line += args.next_lines;
                nhwc_run(g, &args, at, group, panel);
            }
        }
    }
}
