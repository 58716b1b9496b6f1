# cython: freethreading_compatible = True
"""Convolution and its gradients as GEMM over packed blocks, on the C core's microkernels."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_im2col,
    fc_conv2d_backward_weight_im2col,
    fc_conv2d_forward_im2col,
    fc_conv2d_im2col_workspace,
    fc_epilogue,
    fc_view,
)
from fastconv._cython.shape cimport ConvShape, view_of, workspace_of

cnp.import_array()


def conv2d_forward_im2col__cython(
    ConvShape lowered not None,
    cnp.ndarray x not None,
    cnp.ndarray w not None,
    bias,
    residual,
    cnp.ndarray y not None,
    workspace,
    int threads,
):
    """y = act(conv(x, w) + bias + residual)."""
    cdef fc_view x_view = view_of(x), w_view = view_of(w), y_view = view_of(y)
    cdef fc_epilogue epilogue = lowered.epilogue(bias, residual)
    cdef int64_t need = fc_conv2d_im2col_workspace(&lowered.c, threads)
    cdef void *scratch = workspace_of(workspace, need, "conv2d_forward_im2col__cython")
    with nogil:
        fc_conv2d_forward_im2col(&lowered.c, &x_view, &w_view, &epilogue, &y_view, scratch, threads)


def conv2d_backward_input_im2col__cython(
    ConvShape lowered not None,
    cnp.ndarray dy not None,
    cnp.ndarray w not None,
    bias,
    residual,
    cnp.ndarray dx not None,
    workspace,
    int threads,
):
    """dx = act(conv_transpose(dy, w) + bias + residual)."""
    cdef fc_view dy_view = view_of(dy), w_view = view_of(w), dx_view = view_of(dx)
    cdef fc_epilogue epilogue = lowered.epilogue(bias, residual)
    cdef int64_t need = fc_conv2d_im2col_workspace(&lowered.c, threads)
    cdef void *scratch = workspace_of(workspace, need, "conv2d_backward_input_im2col__cython")
    with nogil:
        fc_conv2d_backward_input_im2col(&lowered.c, &dy_view, &w_view, &epilogue, &dx_view, scratch, threads)


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
    cdef int64_t need = fc_conv2d_im2col_workspace(&lowered.c, threads)
    cdef void *scratch = workspace_of(workspace, need, "conv2d_backward_weight_im2col__cython")
    with nogil:
        fc_conv2d_backward_weight_im2col(&lowered.c, &x_view, &dy_view, &dw_view, scratch, threads)
