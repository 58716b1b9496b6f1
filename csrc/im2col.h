/* Inside of the convolution by GEMM: the gather that two of its passes are, and the copies that all of its files use. */
#ifndef FASTCONV_IM2COL_H
#define FASTCONV_IM2COL_H

#include "numbers.h"

#include <string.h>

enum {
    DEPTH_BYTES = 2048, /* depth of a block: 14 rows of it stay in a 32 KB L1 (measured on Zen 4: 1536-3072 alike) */
    /* Pixels a task takes through the loop nest. NCHW: packed panels stay in a 512 KB L2 (Zen 3: 1.05 times 256). */
    BLOCK_PIXELS_NHWC = 256,
    BLOCK_PIXELS_NCHW = 128,
    AHEAD_BYTES = 2048, /* of packed weights, fetched past those in use (measured on Zen 4: 2048-4096 alike, 0 is 0.97x) */
    TAPS_IN_PLACE = 64, /* offsets kept on the stack: an 8x8 filter, or 64 filter rows */
    ALIAS_BYTES = 4096, /* rows at a multiple of this fall into one set of the L1 */
};

enum { PACK_AND_RUN, PACK_ONLY, RUN_PACKED }; /* what a call does with the weights */

typedef struct strides4 {
    int64_t n, c, h, w;
} strides4;

/* Output cells [i0, i1) x [j0, j1) of every image and the taps [a0, a1) x [b0, b1), outside of which all of theirs lie in
 * the padding. Its pixels are numbered image by image, row by row. */
typedef struct region {
    int64_t i0, i1, j0, j1, a0, a1, b0, b1;
    int64_t tile0, tiles;
} region;

enum { MAX_REGIONS = 32, REGION_TAP_ROWS = 64 };

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
    char *kept;                                  /* weights packed once, of this gather and those to come, or NULL */
    int stage;                                   /* PACK_AND_RUN, PACK_ONLY, RUN_PACKED */
    char *scratch;                               /* of worker i at scratch + i*scratch_bytes */
    int64_t scratch_bytes;
    int64_t in_elements;                         /* of the whole input array */
    int64_t depth, blocks;                       /* of the reduction: see depth_of */
    /* How the work is cut (cut_work): tiles are MR wide where rows are cut, NR where columns are. */
    int64_t pixels, pixel_tiles, tiles_a_row, pixel_block, pixel_blocks;
    int64_t channel_tiles, channel_block, channel_blocks;
    region regions[MAX_REGIONS];                 /* NHWC: tiles by region, which leave out taps in the padding */
    int region_count;                            /* 0: all taps of all pixels */
    int flat;                                    /* NHWC: tiles of pixels may cross output rows and images;
                                                  * NCHW: planes in and out are alike and the stride is 1 */
    int pointwise;                               /* in and out pixels correspond one to one */
    int merged;                                  /* NHWC: the taps of a filter row read consecutive elements */
    int adjoint;                                 /* backward_input: cells outside of dy are no zeros, they are nothing */
    int nonfinite;                               /* ... which shows when weights are NaN or infinite (0 * NaN) */
    int rows_in_place;                           /* NHWC: w needs no packing, its rows of output channels are contiguous */
    int affine;                                  /* NCHW: w needs no packing, element k = c*taps + t is at k*cs_w */
    int64_t base_w, cs_w;
} gather;

/* One task of a gather whose weights are packed: a block of pixels by a block of output channels of one group. */
void fc_im2col_nhwc_task(void *ctx, int64_t task, int worker); /* im2col_nhwc.c */
void fc_im2col_nchw_task(void *ctx, int64_t task, int worker); /* im2col_nchw.c */

/* im2col_weight_nhwc.c: the weight gradient of that layout. */
void fc_im2col_weight_nhwc(const fc_conv2d_shape *s, const fc_view *x, const fc_view *dy, const fc_view *dw, void *workspace,
                           int threads);
int64_t fc_im2col_weight_nhwc_workspace(const fc_conv2d_shape *s, int threads);

/* im2col_columns.c: `panels` panels of the pixels from q0 on, of depth k0 <= k < k1, as dst[panel][k - k0][nr], zero padded
 * to nr after the last pixel. */
void fc_im2col_pack_columns(const gather *g, char *dst, int64_t q0, int64_t panels, int64_t k0, int64_t k1, int64_t group);

static inline strides4 dense_strides(int layout, int64_t c, int64_t h, int64_t w)
{
    /* Not taken from the view: NumPy leaves the strides of axes of length 1 undefined. */
    return layout == FC_NHWC ? (strides4){h * w * c, 1, w * c, c} : (strides4){c * h * w, h * w, w, 1};
}

/* Elements between two packed rows of pixels: not a multiple of what would put them into the same sets of the L1, nor of a
 * cache line, which would put one column of them into the same bank (Zen 3: 2-4 % of a tile). */
static inline int64_t pitch_of(int64_t depth)
{
    return ceil_div(depth, 32) * 32 + 17;
}

static inline int aliased(int64_t stride, int64_t size)
{
    return stride * size % ALIAS_BYTES == 0;
}

static inline char *row_address(const gather *g, int64_t q, const char *base, const strides4 *s)
{
    const int64_t j = q % g->out_w, row = q / g->out_w, i = row % g->out_h, n = row / g->out_h;
    return (char *)base + (n * s->n + i * s->h + j * s->w) * g->size;
}

/* Part number -> first item and width. Parts differ by at most one item: no thin tile at the end. */
static inline int64_t split(int64_t length, int64_t parts, int64_t part, int64_t *first)
{
    const int64_t small = length / parts, more = length % parts;
    *first = part * small + min64(part, more);
    return small + (part < more);
}

static inline void common_arguments(const gather *g, fc_gemm_args *args)
{
    memset(args, 0, sizeof *args);
    args->clamp = g->clamp;
    args->lo = g->lo;
    args->hi = g->hi;
}

/* ---- Copies of elements, which are 4 or 8 bytes: no arithmetic, so integers of that size serve both types -------- */

typedef uint32_t word32 __attribute__((may_alias));
typedef uint64_t word64 __attribute__((may_alias));
typedef uint32_t words16 __attribute__((vector_size(16), aligned(4), may_alias)); /* 16 bytes of them */

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

enum { PACK_AHEAD = 16 }; /* rows of a packed panel that are on their way from memory */

/* dst[k*width + r] = src[k*ks + r*rs] for r < n, 0 for n <= r < width: a panel of `width` columns. */
static inline void pack_panel(void *dst, int64_t width, const void *src, int64_t depth, int64_t ks, int64_t n, int64_t rs,
                              int size)
{
    char *d = dst;
    const char *s = src;
    if (rs == 1) {
        for (int64_t k = 0; k < depth; k++, d += width * size, s += ks * size) {
            for (int64_t byte = 0; byte < n * size; byte += 64) /* lines that far apart no processor expects */
                __builtin_prefetch(s + PACK_AHEAD * ks * size + byte);
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
static inline int any_nonfinite(const void *data, int64_t n, int size)
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

#endif
