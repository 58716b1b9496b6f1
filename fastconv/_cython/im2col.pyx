# cython: freethreading_compatible = True
"""Convolution and its gradients as GEMM over packed blocks, on the C core's microkernels."""

cimport numpy as cnp

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_im2col,
    fc_conv2d_backward_input_im2col_f64,
    fc_conv2d_backward_weight_im2col,
    fc_conv2d_forward_im2col,
    fc_conv2d_forward_im2col_f64,
)
from fastconv._cython.kernel cimport conv_kernel, weight_kernel

cnp.import_array()

conv2d_forward_im2col__cython = conv_kernel(&fc_conv2d_forward_im2col)
conv2d_backward_input_im2col__cython = conv_kernel(&fc_conv2d_backward_input_im2col)
conv2d_forward_im2col_f64__cython = conv_kernel(&fc_conv2d_forward_im2col_f64)
conv2d_backward_input_im2col_f64__cython = conv_kernel(&fc_conv2d_backward_input_im2col_f64)
conv2d_backward_weight_im2col__cython = weight_kernel(&fc_conv2d_backward_weight_im2col)
