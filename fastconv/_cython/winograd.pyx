# cython: freethreading_compatible = True
"""Winograd convolution F(2x2, 3x3) and F(4x4, 3x3), forward and input gradient: doors to csrc/winograd.c."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    fc_conv2d_backward_input_winograd_f2x3,
    fc_conv2d_backward_input_winograd_f4x3,
    fc_conv2d_forward_winograd_f2x3,
    fc_conv2d_forward_winograd_f4x3,
    fc_kernels,
    fc_kernels_table,
)
from fastconv._cython.kernel cimport conv_kernel

import numpy as np

cnp.import_array()

cdef extern from "winograd.h" nogil:
    ctypedef struct fc_winograd_problem:
        pass
    ctypedef struct fc_winograd_kernel:
        int lanes
        void (*weights)(const void *taps, int64_t n, void *u, int64_t stride)
        void (*input)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride)
        int (*output)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                      const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col)


conv2d_forward_winograd_f2x3__cython = conv_kernel(&fc_conv2d_forward_winograd_f2x3)
conv2d_forward_winograd_f4x3__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x3)
conv2d_backward_input_winograd_f2x3__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f2x3)
conv2d_backward_input_winograd_f4x3__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x3)


# ---- The transforms alone, for tests against the matrices


cdef const fc_winograd_kernel *kernel_of(int tile, dtype) except NULL:
    cdef const fc_kernels_table *table = fc_kernels()
    if tile == 2:
        return <const fc_winograd_kernel *> (
            table.winograd_f2x3_f32 if dtype == np.float32 else table.winograd_f2x3_f64
        )
    return <const fc_winograd_kernel *> (
        table.winograd_f4x3_f32 if dtype == np.float32 else table.winograd_f4x3_f64
    )


def transform_lanes(int tile, dtype):
    """Elements in a vector of the ISA in use: the last axis of `transform`'s arrays is a multiple of it."""
    return kernel_of(tile, dtype).lanes


def transform(str what, int tile, cnp.ndarray source):
    """G w G^T, B^T d B or A^T m A ("weights", "input", "output") of (rows, cols, n), by the ISA in use."""
    if tile not in (2, 4) or source.dtype not in (np.float32, np.float64):
        raise ValueError(f"no transform of tile {tile} and dtype {source.dtype}")
    cdef const fc_winograd_kernel *kernel = kernel_of(tile, source.dtype)
    cdef int64_t alpha = tile + 2, n = source.shape[2]
    cdef int64_t side = 3 if what == "weights" else alpha
    cdef fc_winograd_problem *none = NULL
    if source.shape[0] != side or source.shape[1] != side or n % kernel.lanes:
        raise ValueError(f"{what} of tile {tile} needs ({side}, {side}, a multiple of {kernel.lanes})")
    source = np.ascontiguousarray(source)
    cdef cnp.ndarray result = np.empty((alpha, alpha, n), source.dtype)
    cdef cnp.ndarray zero = np.zeros(n, source.dtype)
    if what == "weights":
        kernel.weights(cnp.PyArray_DATA(source), n, cnp.PyArray_DATA(result), n)
    elif what == "input":
        kernel.input(cnp.PyArray_DATA(source), alpha * n, n, n, cnp.PyArray_DATA(result), n)
    elif what == "output":
        result = np.empty((tile, tile, n), source.dtype)
        kernel.output(none, cnp.PyArray_DATA(source), n, n, cnp.PyArray_DATA(zero), NULL, 0,
                      cnp.PyArray_DATA(result), tile * n, n)
    else:
        raise ValueError(f"what must be weights, input or output, got {what!r}")
    return result
