/* Inside of depthwise convolutions and of those of small groups: what their kernels are told, and each ISA's table. */
#ifndef FASTCONV_DEPTHWISE_H
#define FASTCONV_DEPTHWISE_H

#include "fastconv.h"

/* The gather that forward is once and backward_input once per residue class of (ih mod sh, iw mod sw); strides in
 * elements:
 *
 *   out[o][i][j] = epilogue(sum_k sum_a sum_b w[o][k][a][b] * in[c][i*sh + top + a*step_h][j*sw + left + b*step_w])
 *
 * c = o / multiplier * depth + k: multiplier and depth are the channels of a group of out and of in. The sum
 * starts from the bias and runs over k, then a, then b (some filters over 3x3 in NCHW: over b, then a). Cells outside
 * the image add nothing, unless `outside` is set: then 0*w, which shows where a weight is NaN or infinite. */
typedef struct fc_depthwise_args {
    int64_t mb, channels, multiplier, depth;      /* channels: of out */
    int64_t in_h, in_w, out_h, out_w, sh, sw;
    int64_t taps_h, taps_w, top, left, step_h, step_w;
    const void *in;
    int64_t in_n, in_row, in_col, in_plane;
    void *out;
    const void *residual;                         /* strides of out */
    int64_t out_n, out_row, out_col, out_plane;
    const void *w;                                /* NHWC: channels of all groups adjoin */
    int64_t w_g, w_o, w_k, w_h, w_w;              /* w_g: group, w_o: channel of it */
    const void *bias;
    const struct fc_depthwise_args *odd;          /* NCHW: what fills the columns between those of this one, or NULL */
    int clamp, nonfinite, outside;                /* nonfinite: some weight is; then `outside` matters */
    double lo, hi;
} fc_depthwise_args;

/* dw[o][a][b] = sum over pixels of dy[o][i][j] * x[o / multiplier][i*sh + a*dh - ph][j*sw + b*dw - pw], 0 outside
 * of x. */
typedef struct fc_depthwise_weight_args {
    const fc_conv2d_shape *shape;
    int64_t multiplier;
    const void *x, *dy;
    void *sums;             /* NHWC: [block of rows][tap][oc]; NCHW: [oc][tap] */
    int64_t rows, channels; /* NHWC: of a unit; its channels follow each other, the blocks of channels vary fastest */
} fc_depthwise_weight_args;

enum {
    FC_DEPTHWISE_ROWS = 2,       /* output rows of a unit in NHWC */
    FC_DEPTHWISE_PAIR_TAPS = 64, /* of a class that comes with an `odd` one */
};

/* For each layout, functions that do the units begin..end and write nothing else. Units of gather: pairs of output
 * rows, mb * ceil(out_h / 2), in NHWC; planes, mb * channels, in NCHW. Units of weight: in NHWC blocks of the mb *
 * oh output rows, times blocks of channels; channels oc in NCHW. */
typedef struct fc_depthwise_kernels {
    void (*gather[2])(const fc_depthwise_args *args, int64_t begin, int64_t end);
    void (*weight[2])(const fc_depthwise_weight_args *args, int64_t begin, int64_t end);
} fc_depthwise_kernels;

#endif
