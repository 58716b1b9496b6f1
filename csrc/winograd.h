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
    /* The plain sum of one output. */
    void (*plain)(const fc_winograd_problem *problem, int64_t n, int64_t g, int64_t o, int64_t i, int64_t j);
} fc_winograd_move;

#endif
