# cython: freethreading_compatible = True
"""Convolution, ReLU and 2x2 maximum pooling as one, and its gradients: doors to csrc/conv_pool.c and winograd.c."""

cimport numpy as cnp

from fastconv._cython.fastconv cimport (
    fc_conv2d_relu_max_pool2d_backward_input_winograd_f2x3,
    fc_conv2d_relu_max_pool2d_backward_input_winograd_f4x3,
    fc_conv2d_relu_max_pool2d_backward_input_winograd_f6x3,
    fc_conv2d_relu_max_pool2d_backward_weight_direct,
    fc_conv2d_relu_max_pool2d_backward_weight_winograd_f2x3,
    fc_conv2d_relu_max_pool2d_backward_weight_winograd_f4x3,
    fc_conv2d_relu_max_pool2d_backward_weight_winograd_f6x3,
    fc_conv2d_relu_max_pool2d_forward_direct,
    fc_conv2d_relu_max_pool2d_forward_winograd_f2x3,
    fc_conv2d_relu_max_pool2d_forward_winograd_f4x3,
    fc_conv2d_relu_max_pool2d_forward_winograd_f6x3,
    fc_conv_pool_operands,
    fc_conv_pool_row,
)
from fastconv._cython.shape cimport ConvShape, data_or_null, view_of, workspace_of

cnp.import_array()


cdef class ConvPoolKernel:
    """A kernel of any pass: x, w, bias, y and codes are inputs or outputs, or not read, as csrc/fastconv.h says."""

    cdef const fc_conv_pool_row *c
    cdef readonly str __name__

    def __call__(
        self,
        ConvShape lowered not None,
        cnp.ndarray x not None,
        cnp.ndarray w not None,
        bias,
        cnp.ndarray y not None,
        cnp.ndarray codes not None,
        workspace,
        int threads,
    ):
        """No argument is checked but the size of the workspace."""
        cdef fc_conv_pool_operands arrays
        arrays.x, arrays.w, arrays.y = cnp.PyArray_DATA(x), view_of(w), cnp.PyArray_DATA(y)
        arrays.bias, arrays.codes = data_or_null(bias), <unsigned char *> cnp.PyArray_DATA(codes)
        cdef void *scratch = workspace_of(workspace, self.c.workspace(&lowered.c, threads), self.__name__)
        with nogil:
            self.c.run(&lowered.c, &arrays, scratch, threads)

    def workspace_nbytes(self, ConvShape lowered not None, int threads):
        """Bytes of workspace of a call."""
        return self.c.workspace(&lowered.c, threads)

    def __repr__(self):
        return f"<ConvPoolKernel {self.__name__}>"


cdef ConvPoolKernel conv_pool_kernel(const fc_conv_pool_row *c):
    cdef ConvPoolKernel kernel = ConvPoolKernel.__new__(ConvPoolKernel)
    kernel.c = c
    kernel.__name__ = c.name.decode("ascii") + "__cython"
    return kernel


conv2d_relu_max_pool2d_forward_direct__cython = conv_pool_kernel(&fc_conv2d_relu_max_pool2d_forward_direct)
conv2d_relu_max_pool2d_backward_weight_direct__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_weight_direct
)
conv2d_relu_max_pool2d_forward_winograd_f2x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_forward_winograd_f2x3
)
conv2d_relu_max_pool2d_forward_winograd_f4x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_forward_winograd_f4x3
)
conv2d_relu_max_pool2d_backward_weight_winograd_f2x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_weight_winograd_f2x3
)
conv2d_relu_max_pool2d_backward_weight_winograd_f4x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_weight_winograd_f4x3
)
conv2d_relu_max_pool2d_backward_input_winograd_f2x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_input_winograd_f2x3
)
conv2d_relu_max_pool2d_backward_input_winograd_f4x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_input_winograd_f4x3
)
conv2d_relu_max_pool2d_forward_winograd_f6x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_forward_winograd_f6x3
)
conv2d_relu_max_pool2d_backward_weight_winograd_f6x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_weight_winograd_f6x3
)
conv2d_relu_max_pool2d_backward_input_winograd_f6x3__cython = conv_pool_kernel(
    &fc_conv2d_relu_max_pool2d_backward_input_winograd_f6x3
)
