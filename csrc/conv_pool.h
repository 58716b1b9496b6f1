/* Inside of the fused convolution, ReLU and 2x2 maximum pooling: what conv_pool.c asks of its ISA kernels. */
#ifndef FASTCONV_CONV_POOL_H
#define FASTCONV_CONV_POOL_H

#include "fastconv.h"
#include "template.h"

enum { FC_POOL_CODE_DEAD = 4 }; /* codes: which of the 2x2 outputs is the maximum, row by row; or none is positive */

/* The shape without an odd last row or column of outputs, which no pooled output sees. */
static inline fc_conv2d_shape fc_conv_pool_even(const fc_conv2d_shape *shape)
{
    fc_conv2d_shape even = *shape;
    even.oh = even.oh / 2 * 2;
    even.ow = even.ow / 2 * 2;
    return even;
}

/* Cells (i, j) of pooled outputs of one image, i < rows, j < columns, of a 3x3 filter at stride 1: cell (i, j) meets the
 * inputs (2*i .. 2*i+3, 2*j .. 2*j+3) of each channel, x[c*x_plane + r*x_row + s]. All sizes and strides in elements. */
typedef struct fc_conv_pool_args {
    int64_t rows, columns, channels, outputs; /* outputs >= the lanes of a vector */
    const void *x;
    int64_t x_plane, x_row;
    const void *w;    /* [tap][channel], rows of w_step outputs */
    int64_t w_step;
    const void *bias; /* of each output, or NULL */
    void *y;          /* pooled values, or their gradient: y[(i*columns + j)*outputs + o] */
    uint8_t *codes;   /* likewise */
    void *sums;       /* of the weight gradient: [vector][9 * channels + 1][lanes], the last being the bias gradient */
} fc_conv_pool_args;

/* forward writes y and codes; weight_gradient adds to the sums, of vectors of outputs of which the last is moved back over
 * the one before it. Any split into rows gives the same y and codes. */
typedef struct fc_conv_pool_kernel {
    int lanes;
    void (*forward)(const fc_conv_pool_args *args);
    void (*weight_gradient)(const fc_conv_pool_args *args);
} fc_conv_pool_kernel;

/* The row of one Winograd tile, by pooled_workspace and run_pooled of the file that uses this; `row` is its symbol and,
 * after "fc_", its name. */
#define FC_POOLED_ROW(row, tile) \
    static int64_t FC_JOIN(row, _workspace)(const fc_conv2d_shape *shape, int threads) \
    { \
        return pooled_workspace(shape, tile, threads); \
    } \
    static void FC_JOIN(row, _run)(const fc_conv2d_shape *shape, const fc_conv_pool_operands *arrays, void *workspace, \
                                   int threads) \
    { \
        run_pooled(shape, tile, arrays, workspace, threads); \
    } \
    const fc_conv_pool_row row = {&#row[sizeof "fc"], FC_JOIN(row, _workspace), FC_JOIN(row, _run)};

#endif
