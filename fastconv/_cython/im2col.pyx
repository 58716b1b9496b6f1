# cython: freethreading_compatible = True
"""Convolution and its gradients as GEMM over packed blocks, on the C core's microkernels."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_im2col,
    fc_conv2d_backward_input_im2col_f64,
    fc_conv2d_backward_weight_im2col,
    fc_conv2d_backward_weight_im2col_workspace,
    fc_conv2d_forward_im2col,
    fc_conv2d_forward_im2col_f64,
    fc_view,
)
from fastconv._cython.kernel cimport conv_kernel
from fastconv._cython.shape cimport ConvShape, view_of, workspace_of

cnp.import_array()

conv2d_forward_im2col__cython = conv_kernel(&fc_conv2d_forward_im2col)
conv2d_backward_input_im2col__cython = conv_kernel(&fc_conv2d_backward_input_im2col)
conv2d_forward_im2col_f64__cython = conv_kernel(&fc_conv2d_forward_im2col_f64)
conv2d_backward_input_im2col_f64__cython = conv_kernel(&fc_conv2d_backward_input_im2col_f64)


def conv2d_backward_weight_im2col__cython(
    ConvShape lowered not None,
    cnp.ndarray x not None,
    cnp.ndarray dy not None,
    cnp.ndarray dw not None,
    workspace,
    int threads,
):
    """dw[o][c][t] = sum over pixels of dy * x."""
    cdef fc_view x_view = view_of(x), dy_view = view_of(dy), dw_view = view_of(dw)
    cdef int64_t need = fc_conv2d_backward_weight_im2col_workspace(&lowered.c, threads)
    cdef void *scratch = workspace_of(workspace, need, "conv2d_backward_weight_im2col__cython")
    with nogil:
        fc_conv2d_backward_weight_im2col(&lowered.c, &x_view, &dy_view, &dw_view, scratch, threads)
