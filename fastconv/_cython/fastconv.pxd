"""Mirror of csrc/fastconv.h."""

from libc.stdint cimport int64_t


cdef extern from "fastconv.h" nogil:
    enum:
        FC_F32, FC_F64, FC_I64
        FC_NCHW, FC_NHWC
        FC_FORWARD, FC_BACKWARD_INPUT, FC_BACKWARD_WEIGHT
        FC_MAX_POOL, FC_AVG_POOL
        FC_MR_MAX, FC_NR_MAX
        FC_PORTABLE, FC_AVX2, FC_AVX512, FC_NEON, FC_ISA_COUNT

    ctypedef struct fc_conv2d_shape:
        int64_t mb, g, ic, ih, iw, oc, oh, ow, kh, kw, sh, sw, ph, pw, ph_r, pw_r, dh, dw
        # `pass` is a Python keyword; the C name is kept.
        int pass_ "pass"
        int dtype, layout

    ctypedef struct fc_pool2d_shape:
        int64_t mb, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, ph_r, pw_r, dh, dw
        int64_t count_h, count_w, divisor_override
        int op, adaptive, count_include_pad, return_indices, dtype, layout

    ctypedef struct fc_view:
        void *data
        int64_t strides[4]

    ctypedef struct fc_epilogue:
        const void *bias
        fc_view residual
        int clamp
        double lo, hi

    ctypedef struct fc_gemm_args:
        int64_t m, n, kc, taps
        const void *a
        const int64_t *a_offset
        int64_t rs_a, cs_a
        const void *b
        const int64_t *b_offset
        int64_t rs_b
        const int64_t *first_step
        int64_t terms
        void *c
        int64_t rs_c
        const void *bias_row
        const void *bias_col
        const void *residual
        int64_t rs_r
        int accumulate, last, clamp
        double lo, hi

    ctypedef struct fc_gemm_kernel:
        int mr, nr
        void (*run)(const fc_gemm_args *) noexcept nogil
        void (*product)(const fc_gemm_args *) noexcept nogil
        const char *name

    enum:
        FC_WINOGRAD_F2X3, FC_WINOGRAD_F4X3, FC_WINOGRAD_F6X3, FC_WINOGRAD_F2X5, FC_WINOGRAD_F4X5
        FC_WINOGRAD_F4X3_1D, FC_WINOGRAD_F6X3_1D, FC_WINOGRAD_F4X5_1D, FC_WINOGRAD_F4X7_1D
        FC_WINOGRAD_TILES

    struct fc_winograd_kernel:
        pass

    struct fc_winograd_move:
        pass

    ctypedef struct fc_kernels_table:
        const char *isa
        fc_gemm_kernel gemm_f32, gemm_f64
        const fc_winograd_kernel *winograd_f32[FC_WINOGRAD_TILES]
        const fc_winograd_kernel *winograd_f64[FC_WINOGRAD_TILES]
        const fc_winograd_move *winograd_move_f32
        const fc_winograd_move *winograd_move_f64

    const char *fc_isa_name(int isa)
    int fc_isa_supported(int isa)
    int fc_set_isa(int isa)
    int fc_get_isa()
    const fc_kernels_table *fc_kernels()
    const fc_kernels_table *fc_kernels_of(int isa)

    void fc_parallel_for(int64_t tasks, int threads,
                         void (*fn)(void *ctx, int64_t task, int worker) noexcept nogil, void *ctx)

    void *fc_scratch(int64_t nbytes)
    void fc_free_scratch()

    ctypedef struct fc_conv2d_kernel:
        const char *name
        int64_t (*packed_bytes)(const fc_conv2d_shape *shape) noexcept nogil
        void (*pack)(const fc_conv2d_shape *shape, const fc_view *w, void *packed, int threads) noexcept nogil
        int64_t (*workspace)(const fc_conv2d_shape *shape, int packed, int threads) noexcept nogil
        void (*run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *w, const void *packed,
                    const fc_epilogue *epilogue, const fc_view *y, void *workspace, int threads) noexcept nogil

    const fc_conv2d_kernel fc_conv2d_forward_im2col, fc_conv2d_backward_input_im2col
    const fc_conv2d_kernel fc_conv2d_forward_im2col_f64, fc_conv2d_backward_input_im2col_f64
    const fc_conv2d_kernel fc_conv2d_forward_direct
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f2x3, fc_conv2d_backward_input_winograd_f2x3
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x3, fc_conv2d_backward_input_winograd_f4x3
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f6x3, fc_conv2d_backward_input_winograd_f6x3
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f2x5, fc_conv2d_backward_input_winograd_f2x5
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x5, fc_conv2d_backward_input_winograd_f4x5
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x3_1d, fc_conv2d_backward_input_winograd_f4x3_1d
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f6x3_1d, fc_conv2d_backward_input_winograd_f6x3_1d
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x5_1d, fc_conv2d_backward_input_winograd_f4x5_1d
    const fc_conv2d_kernel fc_conv2d_forward_winograd_f4x7_1d, fc_conv2d_backward_input_winograd_f4x7_1d

    const fc_conv2d_kernel fc_conv2d_backward_input_winograd_f2x3_adjoint, fc_conv2d_backward_input_winograd_f4x3_adjoint
    const fc_conv2d_kernel fc_conv2d_backward_input_winograd_f6x3_adjoint
    const fc_conv2d_kernel fc_conv2d_forward_depthwise, fc_conv2d_backward_input_depthwise
    const fc_conv2d_kernel fc_conv2d_forward_grouped, fc_conv2d_backward_input_grouped

    ctypedef struct fc_conv2d_weight_kernel:
        const char *name
        int64_t (*workspace)(const fc_conv2d_shape *shape, int threads) noexcept nogil
        void (*run)(const fc_conv2d_shape *shape, const fc_view *x, const fc_view *dy, const fc_view *dw, void *workspace,
                    int threads) noexcept nogil

    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_im2col, fc_conv2d_backward_weight_depthwise
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f2x3
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x3
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f6x3
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f2x5
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x5
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x3_1d
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f6x3_1d
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x5_1d
    const fc_conv2d_weight_kernel fc_conv2d_backward_weight_winograd_f4x7_1d

    ctypedef struct fc_conv_pool_operands:
        void *x
        fc_view w
        void *bias
        void *y
        unsigned char *codes

    ctypedef struct fc_conv_pool_row:
        const char *name
        int64_t (*workspace)(const fc_conv2d_shape *shape, int threads) noexcept nogil
        void (*run)(const fc_conv2d_shape *shape, const fc_conv_pool_operands *arrays, void *workspace,
                    int threads) noexcept nogil

    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_direct
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_direct
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f2x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f4x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_forward_winograd_f6x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f2x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f4x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_weight_winograd_f6x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f2x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f4x3
    const fc_conv_pool_row fc_conv2d_relu_max_pool2d_backward_input_winograd_f6x3

    void fc_max_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int64_t *indices, int threads)
    int fc_max_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, const int64_t *indices, void *dx,
                                int threads)
    void fc_avg_pool2d_forward(const fc_pool2d_shape *shape, const void *x, void *y, int threads)
    void fc_avg_pool2d_backward(const fc_pool2d_shape *shape, const void *dy, void *dx, int threads)

    int64_t fc_relu_backward_workspace(int dtype, int64_t channels)
    void fc_relu_backward(int dtype, int64_t rows, int64_t channels, void *dy, const void *y, void *db, void *workspace,
                          int threads)
    double fc_softmax_cross_entropy(int dtype, int64_t rows, int64_t classes, const void *z, const int64_t *labels,
                                    void *dz, int64_t *correct)

    enum:
        FC_SGD, FC_RMSPROP, FC_ADAM

    ctypedef struct fc_update:
        int dtype, rule, nesterov
        int64_t size
        void *w
        const void *g
        void *slots[2]
        double rate, first, second, epsilon

    void fc_update_parameters(const fc_update *update, int threads)

    void fc_affine_images(int dtype, int64_t n, int64_t h, int64_t w, int64_t c, const void *x, const double *maps,
                          void *y)
