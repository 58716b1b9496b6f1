"""Problems as C structs, and arrays as C views."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport fc_conv2d_shape, fc_epilogue, fc_pool2d_shape, fc_view


cdef class ConvShape:
    cdef fc_conv2d_shape c
    cdef int clamp
    cdef double lo, hi
    cdef object text

    cdef fc_epilogue epilogue(self, bias, residual) except *


cdef class PoolShape:
    cdef fc_pool2d_shape c
    cdef object text


cdef inline fc_view view_of(cnp.ndarray array) noexcept:
    """Pointer and element strides of a 4-d array, read from its header: no memoryview, no reference taken."""
    cdef fc_view view
    cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(array)
    view.data = cnp.PyArray_DATA(array)
    view.strides[0] = strides[0] // item
    view.strides[1] = strides[1] // item
    view.strides[2] = strides[2] // item
    view.strides[3] = strides[3] // item
    return view


cdef inline fc_view view_or_null(array) noexcept:
    """view_of, with data NULL and strides 0 for None."""
    cdef fc_view view
    if array is not None:
        return view_of(<cnp.ndarray> array)
    view.data = NULL
    view.strides[0] = view.strides[1] = view.strides[2] = view.strides[3] = 0
    return view


cdef inline void *data_or_null(array) noexcept:
    """The address of an ndarray's first element, NULL for None."""
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


cdef void *workspace_of(array, int64_t need, str text) except? NULL
