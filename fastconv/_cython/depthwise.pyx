# cython: freethreading_compatible = True
"""Depthwise convolution and its gradients, and small groups: doors to csrc/depthwise.c."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_depthwise,
    fc_conv2d_backward_input_grouped,
    fc_conv2d_backward_weight_depthwise,
    fc_conv2d_backward_weight_depthwise_workspace,
    fc_conv2d_forward_depthwise,
    fc_conv2d_forward_grouped,
    fc_view,
)
from fastconv._cython.kernel cimport conv_kernel
from fastconv._cython.shape cimport ConvShape, view_of, workspace_of

cnp.import_array()

conv2d_forward_depthwise__cython = conv_kernel(&fc_conv2d_forward_depthwise)
conv2d_backward_input_depthwise__cython = conv_kernel(&fc_conv2d_backward_input_depthwise)
conv2d_forward_grouped__cython = conv_kernel(&fc_conv2d_forward_grouped)
conv2d_backward_input_grouped__cython = conv_kernel(&fc_conv2d_backward_input_grouped)


def conv2d_backward_weight_depthwise__cython(
    ConvShape lowered not None,
    cnp.ndarray x not None,
    cnp.ndarray dy not None,
    cnp.ndarray dw not None,
    workspace,
    int threads,
):
    """dw[o][t] = sum over pixels of dy * x."""
    cdef fc_view x_view = view_of(x), dy_view = view_of(dy), dw_view = view_of(dw)
    cdef int64_t need = fc_conv2d_backward_weight_depthwise_workspace(&lowered.c, threads)
    cdef void *scratch = workspace_of(workspace, need, "conv2d_backward_weight_depthwise__cython")
    with nogil:
        fc_conv2d_backward_weight_depthwise(&lowered.c, &x_view, &dy_view, &dw_view, scratch, threads)
