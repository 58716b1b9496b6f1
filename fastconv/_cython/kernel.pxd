"""The C core's convolution kernels as callable objects, and weights packed for them."""

from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport fc_conv2d_kernel, fc_conv2d_weight_kernel
from fastconv._cython.shape cimport ConvShape


cdef class PackedWeights:
    cdef const fc_conv2d_kernel *kernel
    cdef const void *data
    cdef int isa_index
    cdef int64_t size
    cdef object buffer


cdef class ConvKernel:
    cdef const fc_conv2d_kernel *c
    cdef readonly str __name__

    cdef const void *packed_data(self, ConvShape lowered, PackedWeights packed) except? NULL


cdef ConvKernel conv_kernel(const fc_conv2d_kernel *c)


cdef class WeightKernel:
    cdef const fc_conv2d_weight_kernel *c
    cdef readonly str __name__


cdef WeightKernel weight_kernel(const fc_conv2d_weight_kernel *c)
