/* Inside of the Winograd convolution: the problem as a gather, and the slots that each ISA fills with its transforms. */
#ifndef FASTCONV_WINOGRAD_H
#define FASTCONV_WINOGRAD_H

#include "fastconv.h"

/* out[n][g][o][i][j] = clamp(bias + residual
 *                           + sum_c sum_{a<kh,b<kw} w[g][o][c][a][b] * in[n][g][c][i + a - top][j + b - left]), with
 * in = 0 outside of ih x iw. Both passes are this sum: the input gradient swaps the channels and flips the filter.
 * c and k are the input and output channels of one group; strides in elements. */
typedef struct fc_winograd_problem {
    int64_t mb, g, c, k, ih, iw, oh, ow, kh, kw, top, left;
    const char *in, *w, *bias, *residual;
    char *out;
    int64_t in_n, in_c, in_h, in_w;     /* a group is c * in_c further */
    int64_t out_n, out_c, out_h, out_w; /* of out and residual; a group is k * out_c further */
    int64_t w_g, w_o, w_c, w_a, w_b;
    int clamp, taps_outside; /* taps_outside: the plain sum counts 0 * w for taps outside of the image */
    double lo, hi;
} fc_winograd_problem;

/* One ISA's transforms of F(m x m, r x r), or of F(m, r) if line, for one type T; alpha = m + r - 1. Points are
 * p = row * alpha + column; along a line p, cells are 0 .. alpha - 1, their stride is `row`, and `col` is not read. All
 * sizes and strides in elements; n is a multiple of lanes where a comment says "vectors". No alignment beyond T's. */
typedef struct fc_winograd_kernel {
    int m, r, line;
    /* u[p * stride + j] = (G w_j G^T)_p, computed in double, rounded once; taps[t * n + j] = w_j's cell t. Vectors. */
    void (*weights)(const void *taps, int64_t n, void *u, int64_t stride);
    /* v[p * stride + j] = (B^T d_j B)_p, d_j's cell (r, s) = d[r * row + s * col + j]. Vectors. */
    void (*input)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride);
    /* y[r * row + s * col + j] = clamp((A^T m_j A)_rs + bias[j] + residual[as y]); residual NULL for none. Returns 1 if any
     * value before bias, residual and clamp is not finite, else 0. problem is read only if clamp. Vectors. */
    int (*output)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n, const void *bias,
                  const void *residual, int clamp, void *y, int64_t row, int64_t col);
    /* The same, bias added, then the maximum with 0 of each 2x2 cells, y[r * row + s * col + j] for r, s < m / 2, and its code
     * (csrc/conv_pool.h), likewise. NULL along a line. */
    int (*output_pooled)(const void *m, int64_t stride, int64_t n, const void *bias, void *y, uint8_t *codes, int64_t row,
                         int64_t col);
    /* The adjoints, for gradients: dm[p * stride + j] = (A dy_j A^T)_p, dy_j's cell (r, s) = dy[r * row + s * col + j]. */
    void (*output_adjoint)(const void *dy, int64_t row, int64_t col, int64_t n, void *dm, int64_t stride);
    /* taps[t * n + j] = (G^T du_j G)_t with du_j's point p = du[p * stride + j], in double, rounded once. Returns 1 if any of
     * them is not finite, else 0. Vectors. */
    int (*weights_adjoint)(const void *du, int64_t stride, int64_t n, void *taps);
    /* d_j's cell (r, s), d[r * row + s * col + j], += (B dv_j B^T)_rs with dv_j's point p = dv[p * stride + j]. Returns 1 if
     * any of what is added is not finite, else 0. Vectors. */
    int (*input_adjoint)(const void *dv, int64_t stride, int64_t n, void *d, int64_t row, int64_t col);
} fc_winograd_kernel;

/* What moves data around the transforms, the same for every tile. */
typedef struct fc_winograd_move {
    int lanes;
    /* dst[(q + q / width * skip) * lanes + c] = src[c * stride + q] for q < pixels, c < channels <= lanes; 0 for channels <=
     * c < lanes. Of every channel at least `readable` >= pixels elements may be read. */
    void (*gather)(const void *src, int64_t stride, int64_t channels, int64_t pixels, int64_t readable, int64_t width,
                   int64_t skip, void *dst);
    /* dst[c * stride + q] = clamp(src[q * lanes + c] + residual[c * stride + q]), q < pixels, c < channels <= lanes; src is
     * readable for a whole number of lanes * lanes blocks. */
    void (*scatter)(const fc_winograd_problem *problem, const void *src, int64_t pixels, int64_t channels,
                    const void *residual, void *dst, int64_t stride);
    /* y[j] = clamp(src[j] + residual[j]), j < n, any n. */
    void (*finish)(const fc_winograd_problem *problem, const void *src, int64_t n, const void *residual, void *y);
    /* taps[t * n + j] = w of output channel o + j (j < filled; 0 above), input channel at w; flat strides of the problem. */
    void (*taps)(const fc_winograd_problem *problem, const void *w, int64_t filled, int64_t n, void *taps);
    /* to[q / 2 * row + q % 2 * col + j] = codes[j] == q ? dy[j] : 0 for q < 4, j < n; 0 for n <= j up to a whole number of
     * vectors. Codes: csrc/conv_pool.h. */
    void (*expand)(const void *dy, const uint8_t *codes, int64_t n, void *to, int64_t row, int64_t col);
    /* sums[j] = the sum over `cells` rows of n elements of dy where the code is alive; in partial sums of FC_SUM_TERMS. */
    void (*alive_sums)(const void *dy, const uint8_t *codes, int64_t cells, int64_t n, void *sums);
    /* The plain sum of one output. */
    void (*plain)(const fc_winograd_problem *problem, int64_t n, int64_t g, int64_t o, int64_t i, int64_t j);
} fc_winograd_move;

/* How a batch of images is cut: tiles_h x tiles_w tiles of tile_h x tile_w outputs an image, the last ones of a row or
 * column beyond the edge in part. */
typedef struct fc_winograd_grid {
    int64_t tile_h, tile_w, tiles_h, tiles_w, tiles;
    int64_t alpha_h, alpha_w, points; /* of a tile's inputs: 1 across a line */
    int64_t band_rows;                /* rows of tiles that NCHW takes at once */
} fc_winograd_grid;

/* Tiles t .. t + rows * count of image n, rows of `count` each: output rows from i, columns from j. */
typedef struct fc_winograd_band {
    int64_t n, i, j, rows, count;
} fc_winograd_band;

/* The first tiles of [t, end) that lie in one row of tiles. */
static inline fc_winograd_band fc_winograd_segment(const fc_winograd_grid *grid, int64_t t, int64_t end)
{
    const int64_t tj = t % grid->tiles_w, row = t / grid->tiles_w, left = grid->tiles_w - tj;
    return (fc_winograd_band){row / grid->tiles_h, row % grid->tiles_h * grid->tile_h, tj * grid->tile_w, 1,
                              left < end - t ? left : end - t};
}

/* The first tiles of [t, end) that lie in one row of tiles, or in several whole ones. */
static inline fc_winograd_band fc_winograd_band_at(const fc_winograd_grid *grid, int64_t t, int64_t end)
{
    fc_winograd_band band = fc_winograd_segment(grid, t, end);
    if (band.count == grid->tiles_w) {
        const int64_t below = grid->tiles_h - band.i / grid->tile_h, whole = (end - t) / grid->tiles_w;
        band.rows = grid->band_rows < below ? grid->band_rows : below;
        band.rows = band.rows < whole ? band.rows : whole;
    }
    return band;
}

/* Elements of a row of transformed channels: an odd number of cache lines of float, so that rows do not share sets of the
 * L1. */
static inline int64_t fc_winograd_row(int64_t channels)
{
    return ((channels + FC_LANES_MAX - 1) / FC_LANES_MAX | 1) * FC_LANES_MAX;
}

/* What is transformed tile by tile: images of any strides, of which a tile of the grid reads a patch that starts at (i - top,
 * j - left), with zeros around the image. */
typedef struct fc_winograd_source {
    const fc_winograd_grid *grid;
    const fc_winograd_move *move;
    void (*transform)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride);
    int64_t size; /* bytes of an element */
    int nchw;
    const char *data;
    int64_t mb, groups, channels, height, width;    /* channels of one group */
    int64_t stride_n, stride_c, stride_h, stride_w; /* elements; a group is channels * stride_c further */
    int64_t top, left, patch_h, patch_w;
    int64_t row, point; /* elements of the result between tiles and between points */
    /* Or NULL. Then data are gradients of pooled outputs, height / 2 x width / 2, dense NHWC, and these their codes; the
     * tiles are even, and what is transformed is the gradient of the outputs before. */
    const uint8_t *codes;
} fc_winograd_source;

enum {
    FC_WINOGRAD_PATCH = 64,        /* channels gathered at a time for a tile on the rim, NHWC */
    FC_WINOGRAD_BAND_PIXELS = 256, /* of NCHW taken at once: as vectors of channels they take half of L1 */
};

/* winograd_input.c: the grid of mb images of oh x ow outputs of a filter kh x kw. */
fc_winograd_grid fc_winograd_grid_of(int tile, int64_t mb, int64_t oh, int64_t ow, int64_t kh, int64_t kw);

/* result[point][tile - start][channel] of tiles [start, end) of group g. The scratch holds fc_winograd_scratch()
 * elements. */
void fc_winograd_transform(const fc_winograd_source *source, int64_t g, int64_t start, int64_t end, char *result,
                           char *scratch);
/* ... for at most `most` tiles at once, of patches as large as a tile's inputs. */
int64_t fc_winograd_scratch(const fc_winograd_grid *grid, int64_t most);

/* m[point][t][o] = sum over k of v[point][t][k] * u[point][o][k], t < tiles, o < channels, k < depth: one GEMM a point. u is
 * packed in panels of nr channels, [point][panel][k][nr]; terms: of a partial sum. Elements between points and rows. */
typedef struct fc_winograd_products {
    const fc_gemm_kernel *gemm;
    int64_t size, lanes, points, depth, terms, channels, tiles;
    const char *v, *u;
    char *m;
    int64_t v_row, v_point, u_point, m_row, m_point;
} fc_winograd_products;

void fc_winograd_multiply(const fc_winograd_products *products);

/* Those of the ISA in use. */
void fc_winograd_choose(int dtype, int tile, const fc_gemm_kernel **gemm, const fc_winograd_move **move,
                        const fc_winograd_kernel **kernel);

/* winograd.c: m, r and whether in one dimension, of each tile, the same for every ISA; and how many input channels a partial
 * sum has: fewer where A^T magnifies errors more, else as everywhere. */
typedef struct fc_winograd_tile {
    int m, r, line, terms;
} fc_winograd_tile;

extern const fc_winograd_tile fc_winograd_tiles[FC_WINOGRAD_TILES];

#endif
