/* Convolution as GEMM over {taps x channels}: operands are packed a block at a time, never the whole matrix.
 *
 * Forward and backward_input are one gather:  out[o][i][j] = epilogue(sum_t sum_c w[o][c][t] * in[c][i*sh + th[t]][j*sw + tw[t]])
 * with what lies outside the image 0. Forward has th = kh*dh - ph. Backward_input runs it once per residue class of
 * (ih mod sh, iw mod sw) as a gather of stride 1 over dy with the taps that reach the class.
 * NHWC: rows of the microkernel are pixels, columns are output channels. NCHW: rows are output channels, columns are
 * pixels. So C is always written along its contiguous axis. Blocking as in Goto & van de Geijn (2008); packing inside
 * the blocked loop as in CONVGEMM (San Juan et al. 2020).
 * Who computes what depends on the number of threads; the order of summation of an output does not. */
#include "fastconv.h"

#include <stddef.h>
#include <string.h>

enum {
    DEPTH_BYTES = 2048,   /* depth of a block: 14 rows of it stay in a 32 KB L1 (measured on Zen 4: 1536-3072 alike) */
    BLOCK_PIXELS = 256,   /* pixels a task takes through the loop nest: packed NCHW panels stay in a 1 MB L2 */
    BLOCK_CHANNELS = 256, /* output channels likewise */
    TASKS_A_THREAD = 8,   /* so that the last tasks balance */
    ALIAS_BYTES = 4096,   /* rows at a multiple of this fall into one set of the L1 */
    ALIAS_PANELS = 3,     /* fewer do not repay the copy of such rows */
    ALIGN = 64,
    DEEPEST = DEPTH_BYTES / 4 * 3 / 2 + 1, /* of an NCHW block: see depth_of */
    MAX_TAP_ROWS = 512,   /* output rows in one depth block of backward_weight */
};

typedef uint32_t word32 __attribute__((may_alias));
typedef uint64_t word64 __attribute__((may_alias));
typedef uint32_t words16 __attribute__((vector_size(16), aligned(4), may_alias)); /* a row of nr is a multiple of it */

static inline int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static inline int64_t align_up(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- Copies of elements, which are 4 or 8 bytes: no arithmetic, so integers of that size serve both types -------- */

#define FC_INLINE static inline __attribute__((always_inline))

FC_INLINE void copy_words(void *dst, const void *src, int64_t n, int64_t dst_stride, int64_t src_stride, int size)
{
    if (size == 4) {
        word32 *d = dst;
        const word32 *s = src;
        for (int64_t i = 0; i < n; i++)
            d[i * dst_stride] = s[i * src_stride];
    } else {
        word64 *d = dst;
        const word64 *s = src;
        for (int64_t i = 0; i < n; i++)
            d[i * dst_stride] = s[i * src_stride];
    }
}

/* dst[n] = src[n], both contiguous */
static inline void copy_run(void *dst, const void *src, int64_t n, int size)
{
    memcpy(dst, src, (size_t)(n * size));
}

static inline void zero_run(void *dst, int64_t n, int size)
{
    if (n > 0)
        memset(dst, 0, (size_t)(n * size));
}

/* dst[k*width + r] = src[k*ks + r*rs] for r < n, 0 for n <= r < width: a panel of `width` columns. */
static void pack_panel(void *dst, int64_t width, const void *src, int64_t depth, int64_t ks, int64_t n, int64_t rs, int size)
{
    char *d = dst;
    const char *s = src;
    if (rs == 1) {
        for (int64_t k = 0; k < depth; k++, d += width * size, s += ks * size) {
            copy_run(d, s, n, size);
            zero_run(d + n * size, width - n, size);
        }
        return;
    }
    enum { GROUP = 8 }; /* rows read side by side: few enough lines for the L1 when rs is a multiple of 4 KB */
    for (int64_t r0 = 0; r0 < n; r0 += GROUP) {
        const int64_t rows = min64(GROUP, n - r0);
        char *column = d + r0 * size;
        const char *from = s + r0 * rs * size;
        if (rows == GROUP) {
            for (int64_t k = 0; k < depth; k++)
                copy_words(column + k * width * size, from + k * ks * size, GROUP, 1, rs, size);
        } else {
            for (int64_t k = 0; k < depth; k++)
                copy_words(column + k * width * size, from + k * ks * size, rows, 1, rs, size);
        }
    }
    if (n < width)
        for (int64_t k = 0; k < depth; k++)
            zero_run(d + (k * width + n) * size, width - n, size);
}

/* Whether any of n elements is NaN or infinite: the exponent is all ones. */
static int any_nonfinite(const void *data, int64_t n, int size)
{
    const word32 *d = data;
    int found = 0;
    if (size == 4)
        for (int64_t i = 0; i < n; i++)
            found |= (int32_t)(d[i] & 0x7fffffff) > 0x7f7fffff;
    else
        for (int64_t i = 0; i < n; i++) /* the upper halves: every machine served is little-endian */
            found |= (int32_t)(d[2 * i + 1] & 0x7fffffff) > 0x7fefffff;
    return found;
}

/* ---- The gather ------------------------------------------------------------------------------------------------- */

typedef struct strides4 {
    int64_t n, c, h, w;
} strides4;

typedef struct gather {
    fc_gemm_kernel kernel;
    int size, layout, threads;
    int64_t mb, groups, icg, ocg, in_h, in_w, out_h, out_w, sh, sw;
    int64_t taps_h, taps_w, taps;                /* taps = taps_h * taps_w, tap t = a*taps_w + b */
    const int64_t *th, *tw;                      /* cells, ascending */
    const int64_t *wh, *ww;                      /* elements of w: tap (a, b) is at wh[a] + ww[b] */
    const char *in;
    strides4 x;
    char *out;
    strides4 y;                                  /* h, w: between neighbours of this residue class */
    const char *residual;                        /* at the class's first cell, or NULL; strides r */
    strides4 r;
    const char *w;
    int64_t wg, wo, wc;                          /* elements: group, output channel, input channel of w */
    const char *bias;
    int clamp;
    double lo, hi;
    char *packed;                                /* weights, shared */
    char *scratch;                               /* of worker i at scratch + i*scratch_bytes */
    int64_t scratch_bytes;
    int64_t in_elements;                         /* of the whole input array */
    int64_t depth, blocks;                       /* of the reduction: see depth_of */
    /* How the work is cut (cut_work): tiles are MR wide where rows are cut, NR where columns are. */
    int64_t pixels, pixel_tiles, tiles_a_row, pixel_block, pixel_blocks;
    int64_t channel_tiles, channel_block, channel_blocks;
    int flat;                                    /* NHWC: tiles of pixels may cross output rows and images */
    int pointwise;                               /* in and out pixels correspond one to one */
    int merged;                                  /* NHWC: the taps of a filter row read consecutive elements */
    int adjoint;                                 /* backward_input: cells outside of dy are no zeros, they are nothing */
    int nonfinite;                               /* ... which shows when weights are NaN or infinite (0 * NaN) */
    int affine;                                  /* NCHW: w needs no packing, element k = c*taps + t is at k*cs_w */
    int64_t base_w, cs_w;
} gather;

static int64_t element_size(int dtype)
{
    return dtype == FC_F32 ? 4 : 8;
}

/* Depth of a block of the reduction over `channels` channels of `taps` taps. NCHW cuts anywhere in c*taps + t; NHWC cuts
 * between channels (the block is all taps of some channels). */
static int64_t depth_of(int layout, int64_t taps, int64_t channels, int64_t size)
{
    const int64_t target = DEPTH_BYTES / size;
    if (taps == 0)
        return 0;
    if (layout == FC_NCHW) {
        const int64_t blocks = max64(1, (2 * taps * channels + target) / (2 * target));
        return ceil_div(taps * channels, blocks);
    }
    const int64_t most = max64(1, target / taps);
    const int64_t chunks = max64(1, (2 * channels + most) / (2 * most));
    int64_t chunk = ceil_div(channels, chunks);
    if (chunks > 1)
        chunk = min64(channels, ceil_div(chunk, 16) * 16);
    return taps * chunk;
}

/* Elements between two packed rows of pixels: never a multiple of what would put them into the same sets of the L1. */
static int64_t pitch_of(int64_t depth)
{
    return ceil_div(depth, 32) * 32 + 16;
}

static char *row_address(const gather *g, int64_t q, const char *base, const strides4 *s)
{
    const int64_t j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, n = row / g->out_h;
    return (char *)base + (n * s->n + i * s->h + j * s->w) * g->size;
}

/* Part number -> first item and width. Parts differ by at most one item: no thin tile at the end. */
static int64_t split(int64_t length, int64_t parts, int64_t part, int64_t *first)
{
    const int64_t small = length / parts, more = length % parts;
    *first = part * small + min64(part, more);
    return small + (part < more);
}

/* Weights of one (group, depth block, tile of output channels), as rows [k][width]. */
typedef struct pack_job {
    gather *g;
    int64_t width;
} pack_job;

static void pack_weights_task(void *ctx, int64_t task, int worker)
{
    const pack_job *job = ctx;
    gather *g = job->g;
    const int64_t width = job->width, size = g->size;
    const int64_t tile = task % g->channel_tiles, rest = task / g->channel_tiles;
    const int64_t block = rest % g->blocks, group = rest / g->blocks;
    const int64_t depth_all = g->icg * g->taps, k0 = block * g->depth;
    const int64_t depth = min64(g->depth, depth_all - k0);
    int64_t first = tile * width, rows = min64(width, g->ocg - first);
    if (g->layout == FC_NCHW)
        rows = split(g->ocg, g->channel_tiles, tile, &first);
    char *const panel = g->packed + ((group * depth_all + k0) * g->channel_tiles * width + tile * depth * width) * size;
    char *dst = panel;
    const char *src = g->w + (group * g->wg + first * g->wo) * size;
    (void)worker;
    if (g->layout == FC_NHWC) { /* k = t*channels + c */
        const int64_t c0 = k0 / g->taps, channels = depth / g->taps;
        for (int64_t a = 0; a < g->taps_h; a++)
            for (int64_t b = 0; b < g->taps_w; b++) {
                pack_panel(dst, width, src + (g->wh[a] + g->ww[b] + c0 * g->wc) * size, channels, g->wc, rows, g->wo, (int)size);
                dst += channels * width * size;
            }
    } else { /* k = c*taps + t, cut anywhere */
        for (int64_t k = k0; k < k0 + depth; k++) {
            const int64_t c = k / g->taps, t = k % g->taps, a = t / g->taps_w, b = t % g->taps_w;
            pack_panel(dst, width, src + (g->wh[a] + g->ww[b] + c * g->wc) * size, 1, 0, rows, g->wo, (int)size);
            dst += width * size;
        }
    }
    if (g->adjoint && any_nonfinite(panel, depth * width, (int)size))
        __atomic_store_n(&g->nonfinite, 1, __ATOMIC_RELAXED);
}

static void common_arguments(const gather *g, fc_gemm_args *args)
{
    memset(args, 0, sizeof *args);
    args->clamp = g->clamp;
    args->lo = g->lo;
    args->hi = g->hi;
}

/* ---- NHWC: rows are pixels, columns are output channels ----------------------------------------------------------- */

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

static int aliased(int64_t stride, int64_t size)
{
    return stride * size % ALIAS_BYTES == 0;
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

/* One tile of C: args has A, B, m and the flags; here come the columns of a panel of output channels. */
static void nhwc_run(const gather *g, fc_gemm_args *args, int64_t q0, int64_t group, int64_t panel)
{
    const int64_t size = g->size, nr = g->kernel.nr, o = group * g->ocg + panel * nr;
    double bias_edge[FC_NR_MAX]; /* the last panel's bias, readable to nr */
    args->n = min64(nr, g->ocg - panel * nr);
    args->c = row_address(g, q0, g->out, &g->y) + o * size;
    args->residual = g->residual ? row_address(g, q0, g->residual, &g->r) + o * size : NULL;
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
            nhwc_run(g, args, q, group, panel);
            args->accumulate = 1;
        }
        args->taps = 0; /* the epilogue, or the start value of a pixel that no tap reaches */
        args->last = last;
        nhwc_run(g, args, q, group, panel);
    }
    args->accumulate = accumulate;
}

static void nhwc_task(void *ctx, int64_t task, int worker)
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
        const int64_t inner = g->merged ? g->taps_w : 1; /* taps that the depth run of one tap covers */
        args.cs_a = 1;
        args.rs_b = nr;
        args.rs_c = g->y.w;
        args.rs_r = g->r.w;
        for (int64_t tile = tile0; tile < tile1; tile++) {
            int64_t q0, offsets[64];
            const int64_t m = pixel_tile(g, tile, &q0);
            const char *in_place;
            args.m = m;
            args.accumulate = block > 0;
            args.last = last;
            args.a_offset = NULL;
            if (g->nonfinite) {
                for (int64_t q = q0; q < q0 + m; q++)
                    nhwc_pixel(g, &args, q, group, panel0, panel1, c0, channels, weights);
                continue;
            }
            if (g->taps / inner <= 64 && pixels_in_place(g, q0, m, &in_place)) {
                args.a_offset = offsets;
                for (int64_t t = 0; t < g->taps / inner; t++)
                    offsets[t] = g->merged ? g->th[t] * g->x.h + g->tw[0] * g->x.w :
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
            }
            for (int64_t panel = panel0; panel < panel1; panel++) {
                args.b = weights + panel * depth * nr * size;
                nhwc_run(g, &args, q0, group, panel);
            }
        }
    }
}

/* ---- NCHW: rows are output channels, columns are pixels ------------------------------------------------------------ */

/* Columns q0 <= q < q0 + n of depth k0 <= k < k1 (k = c*taps + t) as dst[k - k0][nr], zero padded to nr.
 * Run by run: a run is the part of the panel that lies in one output row. */
static void pack_runs(const gather *g, char *dst, int64_t q0, int64_t n, int64_t k0, int64_t k1, int64_t group)
{
    const int64_t size = g->size, nr = g->kernel.nr, taps = g->taps, lanes = (int64_t)sizeof(words16) / size;
    int64_t j = q0 % g->out_w, row = q0 / g->out_w;
    for (int64_t column = 0; column < n; row++, j = 0) {
        const int64_t i = row % g->out_h, image = row / g->out_h, run = min64(n - column, g->out_w - j);
        for (int64_t t = 0; t < taps; t++) {
            const int64_t y = i * g->sh + g->th[t / g->taps_w], x0 = j * g->sw + g->tw[t % g->taps_w];
            int64_t lo = x0 < 0 ? min64(run, ceil_div(-x0, g->sw)) : 0;
            int64_t hi = x0 < g->in_w ? min64(run, (g->in_w - 1 - x0) / g->sw + 1) : 0;
            if (y < 0 || y >= g->in_h || hi <= lo)
                lo = hi = run;
            const int64_t c_first = k0 > t ? ceil_div(k0 - t, taps) : 0;
            char *d = dst + ((c_first * taps + t - k0) * nr + column) * size;
            const char *s = g->in + (image * g->x.n + (group * g->icg + c_first) * g->x.c + y * g->x.h + x0 * g->x.w) * size;
            const int64_t last = (k1 - 1 - c_first * taps - t) / taps * g->x.c; /* of s, in elements, from the first */
            const int64_t vectors = ceil_div((hi - lo) * size, (int64_t)sizeof(words16)), covered = vectors * lanes;
            /* Whole vectors where they end inside the panel's row (later runs overwrite) and inside the array. */
            const int whole = g->sw == 1 && column + lo + covered <= nr &&
                              (s - g->in) / size + last + lo + covered <= g->in_elements;
            for (int64_t k = c_first * taps + t; k < k1; k += taps, d += taps * nr * size, s += g->x.c * size) {
                zero_run(d, lo, (int)size);
                if (whole)
                    for (int64_t v = 0; v < vectors; v++)
                        ((words16 *)(d + lo * size))[v] = ((const words16 *)(s + lo * size))[v];
                else
                    copy_words(d + lo * size, s + lo * g->sw * size, hi - lo, 1, g->sw, (int)size);
                zero_run(d + hi * size, run - hi, (int)size);
            }
        }
        column += run;
    }
    if (n < nr)
        for (int64_t k = 0; k < k1 - k0; k++)
            zero_run(dst + (k * nr + n) * size, nr - n, (int)size);
}

/* The same for a full panel inside one image when in and out are equally wide and the stride is 1: in flat coordinates
 * a tap is one shift, and what falls over the rim is masked away. 0 if it would read outside the array. */
static int pack_shifted(const gather *g, char *dst, int64_t q0, int64_t k0, int64_t k1, int64_t group)
{
    const int64_t size = g->size, nr = g->kernel.nr, taps = g->taps, plane = g->out_h * g->out_w;
    const int64_t image = q0 / plane, p0 = q0 % plane, i0 = p0 / g->out_w, j0 = p0 % g->out_w;
    const int64_t first = image * g->x.n + group * g->icg * g->x.c + p0;
    if (p0 + nr > plane)
        return 0;
    for (int64_t t = 0; t < taps; t++) {
        const int64_t th = g->th[t / g->taps_w], tw = g->tw[t % g->taps_w], shift = first + th * g->in_w + tw;
        const int64_t c_first = k0 > t ? ceil_div(k0 - t, taps) : 0, c_end = k1 > t ? ceil_div(k1 - t, taps) : 0;
        if (c_end > c_first && (shift + c_first * g->x.c < 0 || shift + (c_end - 1) * g->x.c + nr > g->in_elements))
            return 0;
    }
    for (int64_t t = 0; t < taps; t++) {
        const int64_t th = g->th[t / g->taps_w], tw = g->tw[t % g->taps_w], shift = first + th * g->in_w + tw;
        const int64_t c_first = k0 > t ? ceil_div(k0 - t, taps) : 0;
        word64 mask[FC_NR_MAX];
        for (int64_t column = 0, i = i0 + th, j = j0; column < nr; column++) {
            const int inside = i >= 0 && i < g->in_h && j + tw >= 0 && j + tw < g->in_w;
            if (size == 4)
                ((word32 *)mask)[column] = inside ? ~(word32)0 : 0;
            else
                mask[column] = inside ? ~(word64)0 : 0;
            if (++j == g->out_w) {
                j = 0;
                i++;
            }
        }
        const int64_t vectors = nr * size / (int64_t)sizeof(words16);
        char *d = dst + (c_first * taps + t - k0) * nr * size;
        const char *s = g->in + (shift + c_first * g->x.c) * size;
        for (int64_t k = c_first * taps + t; k < k1; k += taps, d += taps * nr * size, s += g->x.c * size)
            for (int64_t v = 0; v < vectors; v++)
                ((words16 *)d)[v] = ((const words16 *)s)[v] & ((const words16 *)mask)[v];
    }
    return 1;
}

/* A tile of C whose columns are not neighbours in memory: it passes through a stack tile. */
static void run_scattered(const gather *g, fc_gemm_args *args, int64_t q0, int64_t channel)
{
    const int64_t size = g->size, m = args->m, n = args->n, nr = g->kernel.nr;
    double c_tile[FC_MR_MAX * FC_NR_MAX], r_tile[FC_MR_MAX * FC_NR_MAX];
    int64_t out[FC_NR_MAX], residual[FC_NR_MAX];
    const int with_residual = args->last && g->residual != NULL;
    for (int64_t column = 0; column < n; column++) {
        const int64_t q = q0 + column, j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, b = row / g->out_h;
        out[column] = b * g->y.n + i * g->y.h + j * g->y.w + channel * g->y.c;
        residual[column] = b * g->r.n + i * g->r.h + j * g->r.w + channel * g->r.c;
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t column = 0; column < n; column++) {
            if (args->accumulate)
                copy_words((char *)c_tile + (i * nr + column) * size, g->out + (out[column] + i * g->y.c) * size, 1, 1, 1,
                           (int)size);
            if (with_residual)
                copy_words((char *)r_tile + (i * nr + column) * size,
                           g->residual + (residual[column] + i * g->r.c) * size, 1, 1, 1, (int)size);
        }
    args->c = c_tile;
    args->rs_c = nr;
    args->residual = with_residual ? r_tile : NULL;
    args->rs_r = nr;
    g->kernel.run(args);
    for (int64_t i = 0; i < m; i++)
        for (int64_t column = 0; column < n; column++)
            copy_words(g->out + (out[column] + i * g->y.c) * size, (char *)c_tile + (i * nr + column) * size, 1, 1, 1,
                       (int)size);
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

static void nchw_task(void *ctx, int64_t task, int worker)
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
    const char *b[BLOCK_PIXELS];
    fc_gemm_args args;

    common_arguments(g, &args);
    for (int64_t block = 0; block < g->blocks; block++) {
        const int64_t k0 = block * g->depth, k1 = min64(k0 + g->depth, depth_all), depth = k1 - k0;
        const int last = block == g->blocks - 1;
        for (int64_t panel = panel0; panel < panel1 && !g->nonfinite; panel++) {
            const int64_t q0 = panel * nr, n = min64(nr, g->pixels - q0), image = q0 / plane, p0 = q0 % plane;
            const int64_t first = image * g->x.n + (group * g->icg + k0) * g->x.c + p0;
            if (g->pointwise && p0 + n <= plane && first + (depth - 1) * g->x.c + nr <= g->in_elements) {
                b[panel - panel0] = g->in + first * size;
                continue;
            }
            char *dst = panels + (panel - panel0) * nr * depth * size;
            b[panel - panel0] = dst;
            if (!g->flat || n < nr || !pack_shifted(g, dst, q0, k0, k1, group))
                pack_runs(g, dst, q0, n, k0, k1, group);
        }
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

/* ---- Setting up a gather --------------------------------------------------------------------------------------------- */

/* How many tasks there are is free, since no bit depends on it: blocks shrink until every thread has enough of them. */
static void cut_work(gather *g)
{
    const int nhwc = g->layout == FC_NHWC;
    const int64_t pixel_width = nhwc ? g->kernel.mr : g->kernel.nr, channel_width = nhwc ? g->kernel.nr : g->kernel.mr;
    const int64_t wanted = g->threads > 1 ? (int64_t)g->threads * TASKS_A_THREAD : 1;
    const int rows_adjoin = g->y.h == g->out_w * g->y.w && g->y.n == g->out_h * g->y.h &&
                            (!g->residual || (g->r.h == g->out_w * g->r.w && g->r.n == g->out_h * g->r.h));
    g->pixels = g->mb * g->out_h * g->out_w;
    g->tiles_a_row = ceil_div(g->out_w, pixel_width);
    if (nhwc) /* wide rows are cut on their own, so that tiles inside the image are read in place */
        g->flat = rows_adjoin && (g->pointwise || g->out_w < 2 * pixel_width);
    else
        g->flat = g->sh == 1 && g->sw == 1 && g->in_w == g->out_w && g->in_h == g->out_h && g->x.h == g->in_w;
    g->pixel_tiles = nhwc && !g->flat ? g->mb * g->out_h * g->tiles_a_row : ceil_div(g->pixels, pixel_width);
    g->channel_tiles = ceil_div(g->ocg, channel_width);
    g->pixel_block = min64(g->pixel_tiles, max64(1, BLOCK_PIXELS / pixel_width));
    g->channel_block = min64(g->channel_tiles, ceil_div(BLOCK_CHANNELS, channel_width));
    while (g->pixel_block > 1 &&
           g->groups * ceil_div(g->pixel_tiles, g->pixel_block) * ceil_div(g->channel_tiles, g->channel_block) < wanted)
        g->pixel_block = (g->pixel_block + 1) / 2;
    while (g->channel_block > 1 &&
           g->groups * ceil_div(g->pixel_tiles, g->pixel_block) * ceil_div(g->channel_tiles, g->channel_block) < wanted / 2)
        g->channel_block = (g->channel_block + 1) / 2;
    g->pixel_blocks = ceil_div(g->pixel_tiles, g->pixel_block);
    g->channel_blocks = ceil_div(g->channel_tiles, g->channel_block);
}

/* Are the weights of one output channel, in the order c*taps + t, equally spaced? */
static int weights_affine(gather *g)
{
    const int64_t step = g->taps_w > 1 ? g->ww[1] - g->ww[0] : g->taps_h > 1 ? g->wh[1] - g->wh[0] : g->wc;
    g->base_w = g->wh[0] + g->ww[0];
    g->cs_w = step;
    for (int64_t a = 0; a < g->taps_h; a++)
        for (int64_t b = 0; b < g->taps_w; b++)
            if (g->wh[a] + g->ww[b] != g->base_w + (a * g->taps_w + b) * step)
                return 0;
    return g->icg == 1 || g->wc == g->taps * step;
}

static void run_gather(gather *g)
{
    g->taps = g->taps_h * g->taps_w;
    if (g->mb == 0 || g->out_h == 0 || g->out_w == 0 || g->ocg == 0)
        return;
    const int nhwc = g->layout == FC_NHWC;
    const int64_t depth_all = g->taps * g->icg;
    /* A class that no tap reaches still has its epilogue: one block of no depth. */
    g->depth = depth_of(g->layout, g->taps, g->icg, g->size);
    g->blocks = depth_all ? ceil_div(depth_all, g->depth) : 1;
    g->pointwise = g->taps == 1 && g->th[0] == 0 && g->tw[0] == 0 && g->sh == 1 && g->sw == 1 && g->in_h == g->out_h &&
                   g->in_w == g->out_w;
    g->merged = nhwc && g->groups == 1 && g->taps_w > 1 && g->depth == depth_all;
    for (int64_t b = 1; b < g->taps_w; b++)
        g->merged = g->merged && g->tw[b] == g->tw[b - 1] + 1;
    /* The adjoint looks at its weights while it packs them, unless no tap ever leaves the image. */
    g->affine = !nhwc && (depth_all == 0 || ((g->pointwise || !g->adjoint) && weights_affine(g)));
    g->nonfinite = 0;
    cut_work(g);
    if (!g->affine && depth_all) {
        pack_job job = {g, nhwc ? g->kernel.nr : g->kernel.mr};
        fc_parallel_for(g->groups * g->blocks * g->channel_tiles, g->threads, pack_weights_task, &job);
    }
    fc_parallel_for(g->groups * g->pixel_blocks * g->channel_blocks, g->threads, nhwc ? nhwc_task : nchw_task, g);
}

static strides4 dense_strides(int layout, int64_t c, int64_t h, int64_t w)
{
    /* Not taken from the view: NumPy leaves the strides of axes of length 1 undefined. */
    return layout == FC_NHWC ? (strides4){h * w * c, 1, w * c, c} : (strides4){c * h * w, h * w, w, 1};
}

static int64_t tap_tables_bytes(const fc_conv2d_shape *s)
{
    return align_up(2 * (s->kh + s->kw) * (int64_t)sizeof(int64_t));
}

static void start_gather(gather *g, const fc_conv2d_shape *s, const fc_view *w, const fc_epilogue *epilogue,
                         char *workspace, int threads)
{
    const int forward = s->pass == FC_FORWARD;
    const int64_t ic = forward ? s->ic : s->oc, oc = forward ? s->oc : s->ic;
    const fc_kernels_table *table = fc_kernels();
    memset(g, 0, sizeof *g);
    g->kernel = s->dtype == FC_F32 ? table->gemm_f32 : table->gemm_f64;
    g->size = (int)element_size(s->dtype);
    g->layout = s->layout;
    g->threads = threads;
    g->adjoint = !forward;
    g->mb = s->mb;
    g->groups = s->g;
    g->icg = ic / s->g;
    g->ocg = oc / s->g;
    g->bias = epilogue->bias;
    g->clamp = epilogue->clamp;
    g->lo = epilogue->lo;
    g->hi = epilogue->hi;
    g->w = w->data;
    g->wg = s->oc / s->g * w->strides[0];
    g->wo = w->strides[forward ? 0 : 1];
    g->wc = w->strides[forward ? 1 : 0];
    g->packed = workspace + tap_tables_bytes(s);
    const int64_t width = g->layout == FC_NHWC ? g->kernel.nr : g->kernel.mr;
    const int64_t packed = g->groups * g->icg * s->kh * s->kw * ceil_div(g->ocg, width) * width * g->size;
    g->scratch = g->packed + align_up(packed);
}

/* Scratch of one worker, for the deepest block that a class with at most kh*kw taps can have (see depth_of). */
static int64_t scratch_bytes(const fc_conv2d_shape *s)
{
    const int forward = s->pass == FC_FORWARD, nchw = s->layout == FC_NCHW;
    const int64_t size = element_size(s->dtype), taps = s->kh * s->kw, target = DEPTH_BYTES / size;
    const int64_t channels = (forward ? s->ic : s->oc) / s->g;
    const int64_t pixels = s->mb * (forward ? s->oh * s->ow : s->ih * s->iw);
    const int64_t deepest = min64(taps * channels, 3 * target / 2 + (nchw ? 1 : 17 * taps));
    const int64_t rows = align_up(FC_MR_MAX * pitch_of(deepest) * size);
    return nchw ? rows + align_up((min64(pixels, BLOCK_PIXELS) + FC_NR_MAX) * deepest * size) : rows;
}

void fc_conv2d_forward_im2col(const fc_conv2d_shape *s, const fc_view *x, const fc_view *w, const fc_epilogue *epilogue,
                              const fc_view *y, void *workspace, int threads)
{
    gather g;
    int64_t *tables = workspace, *th = tables, *tw = th + s->kh, *wh = tw + s->kw, *ww = wh + s->kh;
    start_gather(&g, s, w, epilogue, workspace, threads);
    for (int64_t a = 0; a < s->kh; a++) {
        th[a] = a * s->dh - s->ph;
        wh[a] = s->kh > 1 ? a * w->strides[2] : 0;
    }
    for (int64_t b = 0; b < s->kw; b++) {
        tw[b] = b * s->dw - s->pw;
        ww[b] = s->kw > 1 ? b * w->strides[3] : 0;
    }
    g.th = th, g.tw = tw, g.wh = wh, g.ww = ww;
    g.taps_h = s->kh, g.taps_w = s->kw;
    g.sh = s->sh, g.sw = s->sw;
    g.in_h = s->ih, g.in_w = s->iw, g.out_h = s->oh, g.out_w = s->ow;
    g.in = x->data, g.out = y->data, g.residual = epilogue->residual.data;
    g.x = dense_strides(s->layout, s->ic, s->ih, s->iw);
    g.y = g.r = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.in_elements = s->mb * s->ic * s->ih * s->iw;
    g.scratch_bytes = scratch_bytes(s);
    run_gather(&g);
}

/* Taps of one axis that reach residue class r: kernel index descending, so that offsets ascend. Returns their number. */
static int64_t class_taps(int64_t k, int64_t dilation, int64_t pad, int64_t stride, int64_t r, int64_t w_stride,
                          int64_t *offset, int64_t *w_offset)
{
    int64_t count = 0;
    for (int64_t a = k - 1; a >= 0; a--) {
        const int64_t cells = r + pad - a * dilation; /* i*stride + cells = o*stride */
        if (cells % stride != 0)
            continue;
        offset[count] = cells / stride;
        w_offset[count++] = k > 1 ? a * w_stride : 0;
    }
    return count;
}

void fc_conv2d_backward_input_im2col(const fc_conv2d_shape *s, const fc_view *dy, const fc_view *w,
                                     const fc_epilogue *epilogue, const fc_view *dx, void *workspace, int threads)
{
    gather g;
    int64_t *tables = workspace, *th = tables, *tw = th + s->kh, *wh = tw + s->kw, *ww = wh + s->kh;
    const strides4 dense = dense_strides(s->layout, s->ic, s->ih, s->iw);
    start_gather(&g, s, w, epilogue, workspace, threads);
    g.th = th, g.tw = tw, g.wh = wh, g.ww = ww;
    g.sh = g.sw = 1;
    g.in_h = s->oh, g.in_w = s->ow;
    g.in = dy->data;
    g.x = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.y = g.r = (strides4){dense.n, dense.c, dense.h * s->sh, dense.w * s->sw};
    g.in_elements = s->mb * s->oc * s->oh * s->ow;
    g.scratch_bytes = scratch_bytes(s);
    for (int64_t rh = 0; rh < min64(s->sh, s->ih); rh++) {
        g.taps_h = class_taps(s->kh, s->dh, s->ph, s->sh, rh, w->strides[2], th, wh);
        g.out_h = ceil_div(s->ih - rh, s->sh);
        for (int64_t rw = 0; rw < min64(s->sw, s->iw); rw++) {
            const int64_t first = (rh * dense.h + rw * dense.w) * g.size;
            g.taps_w = class_taps(s->kw, s->dw, s->pw, s->sw, rw, w->strides[3], tw, ww);
            g.out_w = ceil_div(s->iw - rw, s->sw);
            g.out = (char *)dx->data + first;
            g.residual = epilogue->residual.data ? (const char *)epilogue->residual.data + first : NULL;
            run_gather(&g);
        }
    }
}

/* ---- backward_weight ---------------------------------------------------------------------------------------------------
 * dw[o][c][t] = sum over pixels of dy[pixel][o] * x[pixel under tap t][c]. Rows of the microkernel are input channels (or,
 * where they follow each other in x, the taps of a filter row and their channels), read from x in place; columns are output
 * channels, packed; its taps are output rows, clipped to where the tap lies inside the image. */

typedef struct weight_gradient {
    fc_gemm_kernel kernel;
    const fc_conv2d_shape *s;
    int size, threads;
    strides4 x, y;
    const char *in, *dy;
    char *dw;
    int64_t ws[4];
    int64_t icg, ocg, panels, rows, splits; /* rows = kh*kw*icg of one panel's sums */
    int64_t row_block, column_block;        /* output rows, and cells of each, in one depth block */
    int merged;
    char *sums;                             /* [group][panel][row][nr] */
    char *scratch;
    int64_t scratch_bytes;
} weight_gradient;

/* Output cells o with 0 <= o*stride + offset < length, cut to [lo, hi). */
static void clip(int64_t *lo, int64_t *hi, int64_t offset, int64_t stride, int64_t length)
{
    if (offset < 0)
        *lo = max64(*lo, ceil_div(-offset, stride));
    *hi = offset < length ? min64(*hi, (length - 1 - offset) / stride + 1) : *lo;
    if (*hi < *lo)
        *hi = *lo;
}

/* The zeros of the padding times dy are NaN where dy is not finite: adds them to the m rows of a tile, for the pixels
 * that its tap meets outside of the image (the tap's rows th, and its columns outside of [lo, hi) ). */
static void add_padding(const weight_gradient *g, const char *b, char *sums, int64_t m, int64_t th, int64_t row0,
                        int64_t row1, int64_t lo, int64_t hi, int64_t width)
{
    const fc_conv2d_shape *s = g->s;
    const int64_t nr = g->kernel.nr;
    double zero[FC_NR_MAX] = {0}; /* 0, or NaN */
    for (int64_t row = row0; row < row1; row++) {
        const int64_t y = row % s->oh * s->sh + th;
        const int inside = y >= 0 && y < s->ih;
        for (int64_t column = 0; column < width; column++)
            for (int64_t j = 0; j < nr && !(inside && column >= lo && column < hi); j++) {
                const int64_t at = ((row - row0) * width + column) * nr + j;
                zero[j] += 0.0 * (g->size == 4 ? ((const float *)b)[at] : ((const double *)b)[at]);
            }
    }
    for (int64_t i = 0; i < m * nr; i++)
        if (g->size == 4)
            ((float *)sums)[i] += (float)zero[i % nr];
        else
            ((double *)sums)[i] += zero[i % nr];
}

static void weight_gradient_task(void *ctx, int64_t task, int worker)
{
    const weight_gradient *g = ctx;
    const fc_conv2d_shape *s = g->s;
    const int64_t size = g->size, nr = g->kernel.nr, mr = g->kernel.mr;
    const int64_t part = task % g->splits, panel = task / g->splits % g->panels, group = task / g->splits / g->panels;
    const int64_t o0 = group * g->ocg + panel * nr, n = min64(nr, g->ocg - panel * nr);
    /* Row runs: one run of channels for each tap, or one of (tap, channel) for each filter row. */
    const int64_t inner = g->merged ? s->kw : 1, run = g->icg * inner, runs = s->kh * s->kw / inner;
    const int64_t tiles_a_run = ceil_div(run, mr);
    int64_t tile0;
    const int64_t tiles = split(runs * tiles_a_run, g->splits, part, &tile0);
    const int64_t rows_all = s->mb * s->oh;
    char *const sums = g->sums + (group * g->panels + panel) * g->rows * nr * size;
    char *const b = g->scratch + worker * g->scratch_bytes;
    int64_t a_offset[MAX_TAP_ROWS], b_offset[MAX_TAP_ROWS];
    fc_gemm_args args;
    int first = 1;

    memset(&args, 0, sizeof args);
    args.n = nr;
    args.b = b;
    args.rs_b = args.rs_c = nr;
    args.a_offset = a_offset;
    args.b_offset = b_offset;
    args.rs_a = g->icg > 1 ? g->x.c : s->dw * g->x.w;
    args.cs_a = s->sw * g->x.w;
    for (int64_t row0 = 0; row0 < rows_all; row0 += g->row_block) {
        const int64_t row1 = min64(row0 + g->row_block, rows_all);
        for (int64_t left = 0; left < s->ow; left += g->column_block, first = 0) {
            const int64_t right = min64(left + g->column_block, s->ow), width = right - left;
            for (int64_t row = row0; row < row1; row++) {
                const char *src = g->dy + (row / s->oh * g->y.n + row % s->oh * g->y.h + left * g->y.w + o0 * g->y.c) * size;
                pack_panel(b + (row - row0) * width * nr * size, nr, src, width, g->y.w, n, g->y.c, (int)size);
            }
            const int nonfinite = any_nonfinite(b, (row1 - row0) * width * nr, (int)size);
            for (int64_t tile = tile0; tile < tile0 + tiles; tile++) {
                int64_t r0, lo = left, hi = right, taps = 0;
                const int64_t at = tile / tiles_a_run;
                const int64_t kh = at * inner / s->kw, kw = at * inner % s->kw;
                const int64_t th = kh * s->dh - s->ph, tw = kw * s->dw - s->pw;
                args.m = split(run, tiles_a_run, tile % tiles_a_run, &r0);
                if (!g->merged)
                    clip(&lo, &hi, tw, s->sw, s->iw);
                for (int64_t row = row0; row < row1 && hi > lo; row++) {
                    const int64_t y = row % s->oh * s->sh + th;
                    if (y < 0 || y >= s->ih)
                        continue;
                    a_offset[taps] = row / s->oh * g->x.n + y * g->x.h + (lo * s->sw + tw) * g->x.w;
                    b_offset[taps++] = ((row - row0) * width + lo - left) * nr;
                }
                args.a = g->in + (group * g->icg * g->x.c + r0 * args.rs_a) * size;
                args.taps = taps;
                args.kc = hi - lo;
                args.c = sums + (at * run + r0) * nr * size;
                args.accumulate = !first;
                if (taps > 0 || first)
                    g->kernel.run(&args);
                if (nonfinite && taps * (hi - lo) < (row1 - row0) * width)
                    add_padding(g, b, args.c, args.m, th, row0, row1, lo - left, hi - left, width);
            }
        }
    }
    for (int64_t tile = tile0; tile < tile0 + tiles; tile++) {
        int64_t r0;
        const int64_t at = tile / tiles_a_run, m = split(run, tiles_a_run, tile % tiles_a_run, &r0);
        for (int64_t r = r0; r < r0 + m; r++) {
            const int64_t t = at * inner + r / g->icg, c = r % g->icg;
            char *row = sums + (at * run + r) * nr * size;
            if (first)
                zero_run(row, nr, (int)size);
            copy_words(g->dw + (o0 * g->ws[0] + c * g->ws[1] + t / s->kw * g->ws[2] + t % s->kw * g->ws[3]) * size, row, n,
                       g->ws[0], 1, (int)size);
        }
    }
}

/* Output rows and cells of each in one depth block. */
static void weight_gradient_blocks(const fc_conv2d_shape *s, int64_t *rows, int64_t *columns)
{
    const int64_t target = DEPTH_BYTES / element_size(s->dtype);
    *columns = max64(1, min64(s->ow, target));
    *rows = max64(1, min64(min64(target / *columns, MAX_TAP_ROWS), s->mb * s->oh));
}

void fc_conv2d_backward_weight_im2col(const fc_conv2d_shape *s, const fc_view *x, const fc_view *dy, const fc_view *dw,
                                      void *workspace, int threads)
{
    weight_gradient g;
    const fc_kernels_table *table = fc_kernels();
    memset(&g, 0, sizeof g);
    g.kernel = s->dtype == FC_F32 ? table->gemm_f32 : table->gemm_f64;
    g.s = s;
    g.size = (int)element_size(s->dtype);
    g.threads = threads;
    g.x = dense_strides(s->layout, s->ic, s->ih, s->iw);
    g.y = dense_strides(s->layout, s->oc, s->oh, s->ow);
    g.in = x->data;
    g.dy = dy->data;
    g.dw = dw->data;
    memcpy(g.ws, dw->strides, sizeof g.ws);
    g.icg = s->ic / s->g;
    g.ocg = s->oc / s->g;
    g.panels = ceil_div(g.ocg, g.kernel.nr);
    g.rows = s->kh * s->kw * g.icg;
    weight_gradient_blocks(s, &g.row_block, &g.column_block);
    /* Every tap of every cell inside the image's width, and taps that follow each other in x. */
    g.merged = s->kw > 1 && s->pw == 0 && (s->ow - 1) * s->sw + (s->kw - 1) * s->dw < s->iw &&
               (g.icg == 1 || s->dw * g.x.w == g.icg * g.x.c);
    const int64_t row_tiles = ceil_div(g.rows, g.kernel.mr), tasks = s->g * g.panels;
    g.splits = threads > 1 ? max64(1, min64(row_tiles, ceil_div(2 * (int64_t)threads, tasks))) : 1;
    g.sums = workspace;
    g.scratch = g.sums + align_up(tasks * g.rows * g.kernel.nr * g.size);
    g.scratch_bytes = align_up(g.row_block * g.column_block * FC_NR_MAX * g.size);
    fc_parallel_for(tasks * g.splits, threads, weight_gradient_task, &g);
}

/* ---- Workspace: bounds for every ISA and every stride of the weights ---------------------------------------------------- */

int64_t fc_conv2d_im2col_workspace(const fc_conv2d_shape *s, int threads)
{
    const int64_t size = element_size(s->dtype), taps = s->kh * s->kw;
    const int forward = s->pass == FC_FORWARD;
    const int64_t channels = (forward ? s->ic : s->oc) / s->g, outputs = (forward ? s->oc : s->ic) / s->g;
    if (s->pass == FC_BACKWARD_WEIGHT) {
        int64_t rows, columns;
        weight_gradient_blocks(s, &rows, &columns);
        return align_up(s->g * (s->oc / s->g + FC_NR_MAX - 1) * (s->ic / s->g) * taps * size) +
               threads * align_up(rows * columns * FC_NR_MAX * size);
    }
    const int64_t width = s->layout == FC_NHWC ? FC_NR_MAX : FC_MR_MAX;
    return tap_tables_bytes(s) + align_up(s->g * (outputs + width - 1) * channels * taps * size) +
           threads * scratch_bytes(s);
}
