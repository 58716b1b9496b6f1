/* Inside of the direct convolution: what direct.c asks of its ISA kernels. */
#ifndef FASTCONV_DIRECT_H
#define FASTCONV_DIRECT_H

#include "fastconv.h"

/* Memory to bring into the L2 while sums run, a cache line for each step of k: `lines` lines of each of `planes` planes,
 * from `line`, `step` bytes between the end of one and the start of the next. The kernel counts them down. */
typedef struct fc_direct_fetch {
    const char *line;
    int64_t lines, left, planes, step; /* left: of the first plane */
} fc_direct_fetch;

/* Output rows x columns of one group of one image, all its channels:
 *
 *   y[i*y_row + j*y_column + o*y_channel] = epilogue(sum_{k<depth} w[k][o] * x[i*x_row + j*x_column + offset[k]])
 *
 * or, if accumulate, with the sum added to what y has. NHWC has y_channel = 1, NCHW y_column = x_column = 1; there a vector
 * of x may reach up to lanes cells past the first column's even where columns < lanes.
 * mr, nv: the most rows and vectors of a register tile, {mr, nv} or {low, 2 * nv} of the kernel.
 * w: packed for them by direct.c; or w_step != 0, NHWC of at least lanes channels: w[k*w_step + o].
 * brief: NHWC; depth is at most FC_SUM_TERMS, and steps 3i, 3i + 1 and 3i + 2 read cells that follow each other.
 * One element is start, then k ascending, each step one fused multiply-add, in partial sums of FC_SUM_TERMS steps that are
 * added one to the other: the same bits from any split. residual has the strides of y. */
typedef struct fc_direct_args {
    int64_t rows, columns, channels, depth, mr, nv;
    const int32_t *offset;
    const void *x;
    int64_t x_row, x_column;
    const void *w;
    int64_t w_step;
    void *y;
    int64_t y_row, y_column, y_channel;
    const void *residual, *bias;
    int accumulate, clamp, brief;
    double lo, hi;
    fc_direct_fetch *fetch; /* or NULL; may name any address and changes no result */
} fc_direct_args;

/* mr: rows of a register tile, pixels in NHWC, channels in NCHW; nv: its vectors, of `lanes` elements; low: rows of a tile
 * of 2 * nv vectors.
 * copy: n elements in a row, from every step-th one; nothing between or past them is read. */
typedef struct fc_direct_kernel {
    int mr, nv, low, lanes;
    void (*run[2])(const fc_direct_args *args); /* by layout */
    void (*copy)(void *to, const void *from, int64_t n, int64_t step);
} fc_direct_kernel;

#endif
