# cython: freethreading_compatible = True
"""Direct convolution for few input channels: the door to csrc/direct.c."""

from fastconv._cython.fastconv cimport fc_conv2d_forward_direct
from fastconv._cython.kernel cimport conv_kernel

conv2d_forward_direct__cython = conv_kernel(&fc_conv2d_forward_direct)
