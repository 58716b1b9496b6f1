# cython: freethreading_compatible = True
"""Depthwise convolution and its gradients, and small groups: doors to csrc/depthwise.c."""

cimport numpy as cnp

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_depthwise,
    fc_conv2d_backward_input_grouped,
    fc_conv2d_backward_weight_depthwise,
    fc_conv2d_forward_depthwise,
    fc_conv2d_forward_grouped,
)
from fastconv._cython.kernel cimport conv_kernel, weight_kernel

cnp.import_array()

conv2d_forward_depthwise__cython = conv_kernel(&fc_conv2d_forward_depthwise)
conv2d_backward_input_depthwise__cython = conv_kernel(&fc_conv2d_backward_input_depthwise)
conv2d_forward_grouped__cython = conv_kernel(&fc_conv2d_forward_grouped)
conv2d_backward_input_grouped__cython = conv_kernel(&fc_conv2d_backward_input_grouped)
conv2d_backward_weight_depthwise__cython = weight_kernel(&fc_conv2d_backward_weight_depthwise)
