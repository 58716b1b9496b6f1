/* The types, the microkernel table and the entry points of fastconv's C core: the only header that Cython sees. */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Numbers ------------------------------------------------------------------------------------------------- */

enum { FC_F32 = 0, FC_F64 = 1, FC_I64 = 2 };                       /* dtype */
enum { FC_NCHW = 0, FC_NHWC = 1 };                                 /* layout */
enum { FC_FORWARD = 0, FC_BACKWARD_INPUT = 1, FC_BACKWARD_WEIGHT = 2 }; /* pass */
enum { FC_MAX_POOL = 0, FC_AVG_POOL = 1 };                         /* op of a pool */

/* The letters are oneDNN's. ic and oc count all groups; the geometry describes the forward convolution in every pass;
 * dh = dw = 1 means no dilation. */
typedef struct fc_conv2d_shape {
    int64_t mb, g, ic, ih, iw, oc, oh, ow, kh, kw, sh, sw, ph, pw, ph_r, pw_r, dh, dw;
    int pass, dtype, layout;
} fc_conv2d_shape;

/* Adaptive pools have windows [floor(i*ih/oh), ceil((i+1)*ih/oh)) and do not read kh..dw. Cells at a padded
 * coordinate >= count_h (count_w) are never counted by an average that includes the padding. */
typedef struct fc_pool2d_shape {
    int64_t mb, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, ph_r, pw_r, dh, dw, count_h, count_w, divisor_override;
    int op, adaptive, count_include_pad, return_indices, dtype, layout;
} fc_pool2d_shape;

/* A 4-d array: logical NCHW (or OIHW) axes, strides in elements, negative and 0 allowed. */
typedef struct fc_view {
    void *data;
    int64_t strides[4];
} fc_view;

/* y = clamp(sum + bias + residual). bias: one element a channel of the output, contiguous, or NULL. residual: a view
 * shaped like the output, data NULL for none. clamp: 0 or 1; NaN stays NaN. */
typedef struct fc_epilogue {
    const void *bias;
    fc_view residual;
    int clamp;
    double lo, hi;
} fc_epilogue;

/* ---- Microkernels -------------------------------------------------------------------------------------------- */

/* No chain of additions is longer: rounding errors grow with it. */
enum { FC_SUM_TERMS = 256 };

/* One register tile of a sum over {taps x depth}, T = float or double, every stride and offset in elements:
 *
 *   C[i*rs_c + j] (+)= sum_{t<taps} sum_{k<kc} A[a_offset[t] + i*rs_a + k*cs_a] * B[b_offset[t] + k*rs_b + j]
 *                                                                          0 <= i < m <= mr,  0 <= j < n <= nr
 * A  rows i < m are read and no others. Any strides: packed panels have rs_a = 1, cs_a = mr;  an NHWC image has
 *    rs_a = sw*ic, cs_a = 1;  weights OIHW have rs_a = ic*kh*kw, cs_a = 1.
 * B  each of the kc rows of each tap is nr contiguous elements, ALL of which must be readable (those past n do not
 *    reach C). A packed panel is B[taps*kc][nr], zero padded to nr, rs_b = nr.
 * a_offset, b_offset: taps entries, or NULL: the taps follow each other, t*kc*cs_a and t*kc*rs_b.
 * C  m rows of n contiguous elements; nothing else is written. No alignment is asked for beyond that of T.
 *    accumulate != 0: the sum is added to C; else it starts from bias_row[i] + 0, or bias_col[j] (readable to nr), or
 *    0. Both may not be given.
 * last != 0: adds residual[i*rs_r + j] if residual is not NULL, then clamps to [lo, hi] if clamp; NaN stays NaN.
 *
 * Order: one element of C is start, then t, then k, each step one fused multiply-add (a multiply and an add on ISAs
 * without), in partial sums that end at the multiples of `terms` (0: FC_SUM_TERMS) of the number of a step and are added
 * one to the other; then what C had; whatever m, n, the strides and the place of the tile: the same bits from any split of the work.
 * first_step: numbers of the first step of each tap, ascending, where steps on zeros are left out; NULL: t*kc. kc and taps
 * may be 0.
 *
 * Hints, which change no result and may name any address: while the sum runs, C is fetched, then next_lines cache lines
 * of each of next_rows rows from next, rs_next apart (what a coming call reads and is far away); and b_ahead bytes past
 * what is read of B. All 0: nothing is known. */
typedef struct fc_gemm_args {
    int64_t m, n, kc, taps;
    const void *a;
    const int64_t *a_offset;
    int64_t rs_a, cs_a;
    const void *b;
    const int64_t *b_offset;
    int64_t rs_b;
    const int64_t *first_step;
    int64_t terms;
    void *c;
    int64_t rs_c;
    const void *bias_row, *bias_col;
    const void *residual;
    int64_t rs_r;
    int accumulate, last, clamp;
    double lo, hi;
    const void *next;
    int64_t rs_next, next_rows, next_lines, b_ahead;
} fc_gemm_args;

/* product: C = A B and the bits of `run`, for many short sums near by: one tap whose rows follow each other (cs_a = 1, rs_b = nr),
 * n = nr, terms > 0. It reads m, kc, a, rs_a, b, terms, c, rs_c and b_ahead, and no other argument; C is not fetched. */
typedef struct fc_gemm_kernel {
    int mr, nr;
    void (*run)(const fc_gemm_args *);
    void (*product)(const fc_gemm_args *);
    const char *name;
} fc_gemm_kernel;

/* No tile of any ISA is larger: sizes of stack tiles and of workspaces that must not depend on the ISA. */
enum { FC_MR_MAX = 14, FC_NR_MAX = 32, FC_LANES_MAX = 16 };

/* What a pooling kernel reads and writes, dense in shape->layout: in is x or dy, out is y or dx; indices are flat in a
 * plane (row * iw + column), written by the forward pass (NULL: not wanted) and read by the backward pass of a maximum.
 * block: channels of a unit of max_backward in NHWC; outside: set to 1 by max_backward if an index is no cell of its
 * plane. */
typedef struct fc_pool2d_args {
    const fc_pool2d_shape *shape;
    const void *in;
    void *out;
    int64_t *indices;
    int64_t block;
    int *outside;
} fc_pool2d_args;

/* For each layout, a function that does the units begin..end of the work and writes nothing else. Units are planes
 * (mb * c) in NCHW; in NHWC output rows (mb * oh) forward, input rows (mb * ih) for avg_backward, and blocks of channels
 * of an image for max_backward. Every result depends on its own window only, so any split gives the same bits.
 * Of equal maxima the first wins, a NaN over any number, the last of several; a window of -inf names its first cell. */
typedef struct fc_pool2d_kernels {
    void (*max_forward[2])(const fc_pool2d_args *args, int64_t begin, int64_t end);
    void (*max_backward[2])(const fc_pool2d_args *args, int64_t begin, int64_t end);
    void (*avg_forward[2])(const fc_pool2d_args *args, int64_t begin, int64_t end);
    void (*avg_backward[2])(const fc_pool2d_args *args, int64_t begin, int64_t end);
} fc_pool2d_kernels;

/* Winograd's F(m x m, r x r) and, _1D, F(m, r) for filters of one row or one column. */
enum {
    FC_WINOGRAD_F2X3, FC_WINOGRAD_F4X3, FC_WINOGRAD_F6X3, FC_WINOGRAD_F2X5, FC_WINOGRAD_F4X5,
    FC_WINOGRAD_F4X3_1D, FC_WINOGRAD_F6X3_1D, FC_WINOGRAD_F4X5_1D, FC_WINOGRAD_F4X7_1D,
    FC_WINOGRAD_TILES
};

struct fc_winograd_kernel; /* csrc/winograd.h */
struct fc_winograd_move;
struct fc_direct_kernel; /* csrc/direct.h */
struct fc_depthwise_kernels; /* csrc/depthwise.h */
struct fc_conv_pool_kernel; /* csrc/conv_pool.h */

/* One table per ISA. Every slot is filled by portable, then overridden upwards (dispatch.c). */
typedef struct fc_kernels_table {
    const char *isa;
    fc_gemm_kernel gemm_f32, gemm_f64;
    const struct fc_direct_kernel *direct_f32, *direct_f64;
    const struct fc_winograd_kernel *winograd_f32[FC_WINOGRAD_TILES], *winograd_f64[FC_WINOGRAD_TILES];
    const struct fc_winograd_move *winograd_move_f32, *winograd_move_f64;
    const fc_pool2d_kernels *pool2d_f32, *pool2d_f64;
    const struct fc_depthwise_kernels *depthwise_f32, *depthwise_f64;
    const struct fc_conv_pool_kernel *conv_pool_f32, *conv_pool_f64;
} fc_kernels_table;

enum { FC_PORTABLE = 0, FC_AVX2 = 1, FC_AVX512 = 2, FC_NEON = 3, FC_ISA_COUNT = 4 };

const char *fc_isa_name(int isa);               /* "portable", "avx2", ... or NULL */
int fc_isa_supported(int isa);                  /* compiled in, and the CPU and the OS can run it */
int fc_set_isa(int isa);                        /* 0, or -1 when not supported; takes effect at the next kernel call */
int fc_get_isa(void);                           /* at start: the best that is supported */
const fc_kernels_table *fc_kernels(void);       /* the table of the ISA in use */
const fc_kernels_table *fc_kernels_of(int isa); /* NULL when not supported */

/* ---- Threads ------------------------------------------------------------------------------------------------- */

/* Calls fn(ctx, task, worker) once for every task in [0, tasks), on at most `threads` threads, the caller being
 * worker 0; worker is in [0, threads) and no two calls with one worker run at once. Tasks are handed out in order.
 * Returns when all have run, and their writes are visible to the caller. Safe from many threads at once and from
 * inside fn: a pool that is busy runs the whole loop on the caller. Safe after fork. */
void fc_parallel_for(int64_t tasks, int threads, void (*fn)(void *ctx, int64_t task, int worker), void *ctx);

/* Scratch of the calling thread (scratch.c): `nbytes`, 64-byte aligned, content undefined, valid until its next call;
 * NULL when there is no memory. For small calls: it is kept until the thread ends or frees it. */
void *fc_scratch(int64_t nbytes);
void fc_free_scratch(void);

/* ---- Convolution kernels ----------------------------------------------------------------------------------------- */

/* The call shape of every kernel of the passes forward and backward_input. x: input of the pass (x or dy), y: its output
 * (y or dx), both dense in shape->layout; w: any strides; dtype float32 or float64.
 * Weights can be packed once: `pack` writes them to packed_bytes() bytes (64-byte aligned), in an order that may be that
 * of the ISA in use at that moment, as are flags about their values; they serve calls of the same shape under that ISA.
 * packed NULL: `run` packs into the workspace. w is needed all the same. packed_bytes() = 0: there is nothing to pack.
 * workspace(): bytes of scratch (64-byte aligned, content ignored) of `run` with at most `threads` threads, for any ISA;
 * packed != 0: the weights come packed. */
typedef struct fc_conv2d_kernel {
    const char *name; /* "conv2d_forward_im2col": the row's, without its backend */
    int64_t (*packed_bytes)(const fc_conv2d_shape *shape);
    void (*pack)(const fc_conv2d_shape *shape, const fc_view *w, void *packed, int threads);
    int64_t (*workspace)(const fc_conv2d_shape *shape, int packed, int threads);
    void (*run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *w, const void *packed,
                const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads);
} fc_conv2d_kernel;

/* im2col.c: the sum as GEMM over {taps x channels}. */
extern const fc_conv2d_kernel fc_conv2d_forward_im2col, fc_conv2d_backward_input_im2col;

/* im2col_f64.c: float32 arrays, summed in float64 and rounded once. */
extern const fc_conv2d_kernel fc_conv2d_forward_im2col_f64, fc_conv2d_backward_input_im2col_f64;

/* direct.c: pixels read in place through a table of offsets; sums over few input channels. */
extern const fc_conv2d_kernel fc_conv2d_forward_direct;

/* winograd.c: F(m x m, r x r) for filters r x r and, _1d, F(m, r) for filters 1 x r and r x 1; stride 1, no dilation. */
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f2x3, fc_conv2d_backward_input_winograd_f2x3;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x3, fc_conv2d_backward_input_winograd_f4x3;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f6x3, fc_conv2d_backward_input_winograd_f6x3;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f2x5, fc_conv2d_backward_input_winograd_f2x5;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x5, fc_conv2d_backward_input_winograd_f4x5;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x3_1d, fc_conv2d_backward_input_winograd_f4x3_1d;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f6x3_1d, fc_conv2d_backward_input_winograd_f6x3_1d;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x5_1d, fc_conv2d_backward_input_winograd_f4x5_1d;
extern const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x7_1d, fc_conv2d_backward_input_winograd_f4x7_1d;

/* winograd_adjoint.c: the input gradient by the tiles of the forward pass; no epilogue, no groups, NHWC. */
extern const fc_conv2d_kernel fc_conv2d_backward_input_winograd_f2x3_adjoint, fc_conv2d_backward_input_winograd_f4x3_adjoint;
extern const fc_conv2d_kernel fc_conv2d_backward_input_winograd_f6x3_adjoint;

/* depthwise.c: one input channel a group; 2, 4, 8 or 16 channels a group, in and out alike. */
extern const fc_conv2d_kernel fc_conv2d_forward_depthwise, fc_conv2d_backward_input_depthwise;
extern const fc_conv2d_kernel fc_conv2d_forward_grouped, fc_conv2d_backward_input_grouped;

/* The call shape of every kernel of backward_weight: arrays and workspace as above, dw with any strides. */
typedef struct fc_conv2d_weight_kernel {
    const char *name;
    int64_t (*workspace)(const fc_conv2d_shape *shape, int threads);
    void (*run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *dy, const fc_view *dw, void *workspace,
                int threads);
} fc_conv2d_weight_kernel;

/* im2col_weight.c */
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_im2col;

/* depthwise.c: one input channel a group. */
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_depthwise;

/* winograd_weight.c: stride 1, no dilation. */
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f2x3;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x3;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f6x3;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f2x5;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x5;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x3_1d;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f6x3_1d;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x5_1d;
extern const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x7_1d;

/* ---- Convolution, ReLU and 2x2 maximum pooling as one ------------------------------------------------------------- */

/* The shape is the convolution's; its outputs are pooled two by two, a last odd row or column is left out: y, its gradient
 * and the codes are oh/2 x ow/2. codes: which output of a window is its maximum (0 to 3, row by row, the first of equal
 * ones), or 4 where none is positive: nothing passes there.
 *   forward           reads x, w and bias (or NULL), writes y and codes
 *   backward_weight   reads x, y (the gradient) and codes, writes w (the gradient) and bias (its gradient, or NULL)
 *   backward_input    reads y (the gradient), codes and w, writes x (the gradient)
 * x, y and codes dense in shape->layout, w of any strides. */
typedef struct fc_conv_pool_operands {
    void *x;
    fc_view w;
    void *bias, *y;
    uint8_t *codes;
} fc_conv_pool_operands;

typedef struct fc_conv_pool_row {
    const char *name;
    int64_t (*workspace)(const fc_conv2d_shape *shape, int threads);
    void (*run)(const fc_conv2d_shape *shape, const fc_conv_pool_operands *arrays, void *workspace, int threads);
} fc_conv_pool_row;

/* conv_pool.c: 3x3, stride 1, no groups, NHWC, at least FC_LANES_MAX output channels. */
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_direct;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_direct;

/* winograd.c, winograd_weight.c, winograd_adjoint.c: 3x3, stride 1, no dilation, no groups, NHWC. */
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f2x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f4x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f6x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f2x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f4x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f6x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f2x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f4x3;
extern const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f6x3;

/* ---- Pooling (pooling.c) --------------------------------------------------------------------------------------- */

/* dtype float32 or float64, arrays dense in shape->layout, planes of fewer than 2^31 cells. No workspace. The gradient of
 * a maximum returns -1 if an index was no cell of its plane (it then adds nothing), else 0. */
void fc_max_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int64_t *indices, int threads);
int fc_max_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, const int64_t *indices, void *dx, int threads);
void fc_avg_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int threads);
void fc_avg_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, void *dx, int threads);

/* ---- Training steps (training.c) --------------------------------------------------------------------------------- */

/* dtype float32 or float64, arrays dense. dy[r][c] = 0 where not y[r][c] > 0 (y NULL: dy stays); then db[c] = the sum over
 * the rows of dy (db NULL: not wanted), which needs the workspace. */
int64_t fc_relu_backward_workspace(int dtype, int64_t channels);
void fc_relu_backward(int dtype, int64_t rows, int64_t channels, void *dy, const void *y, void *db, void *workspace,
                      int threads);

/* The sum over the rows of -log softmax(z[row])[labels[row]]; dz = its gradient over rows (NULL: not wanted); correct: rows
 * whose label is the first of the largest, a NaN being larger than any number. */
double fc_softmax_cross_entropy(int dtype, int64_t rows, int64_t classes, const void *z, const int64_t *labels, void *dz,
                                int64_t *correct);

/* One update of `size` parameters w by their gradients g; slots: what the rule keeps.
 *   FC_SGD      m = first m - rate g, w += m (nesterov: w += first m - rate g); without slots[0]: w -= rate g
 *   FC_RMSPROP  v = first v + (1 - first) g^2, step = rate g / sqrt(v + epsilon); with slots[1] m = second m + step, w -= m
 *   FC_ADAM     m += (1 - first)(g - m), v += (1 - second)(g^2 - v), w -= rate m / (sqrt(v) + epsilon) */
enum { FC_SGD = 0, FC_RMSPROP = 1, FC_ADAM = 2 };

typedef struct fc_update {
    int dtype, rule, nesterov;
    int64_t size;
    void *w;
    const void *g;
    void *slots[2];
    double rate, first, second, epsilon;
} fc_update;

void fc_update_parameters(const fc_update *update, int threads);

/* ---- Augmentation (augment.c) ------------------------------------------------------------------------------------ */

/* y[i][j] of every image (h, w, c) = x at row m[0] i + m[1] j + m[2], column m[3] i + m[4] j + m[5], bilinear, 0 outside;
 * maps: the six finite numbers m of each image. On the calling thread. */
void fc_affine_images(int dtype, int64_t n, int64_t h, int64_t w, int64_t c, const void *x, const double *maps, void *y);

#ifdef __cplusplus
}
#endif
#endif
