# cython: freethreading_compatible = True
"""Winograd convolution F(m x m, r x r) and F(m, r), forward and input gradient: doors to csrc/winograd.c."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    FC_WINOGRAD_F2X3,
    FC_WINOGRAD_F2X5,
    FC_WINOGRAD_F4X3,
    FC_WINOGRAD_F4X3_1D,
    FC_WINOGRAD_F4X5,
    FC_WINOGRAD_F4X5_1D,
    FC_WINOGRAD_F4X7_1D,
    FC_WINOGRAD_F6X3,
    FC_WINOGRAD_F6X3_1D,
    fc_conv2d_backward_input_winograd_f2x3,
    fc_conv2d_backward_input_winograd_f2x3_adjoint,
    fc_conv2d_backward_input_winograd_f2x5,
    fc_conv2d_backward_input_winograd_f4x3,
    fc_conv2d_backward_input_winograd_f4x3_adjoint,
    fc_conv2d_backward_input_winograd_f4x3_1d,
    fc_conv2d_backward_input_winograd_f4x5,
    fc_conv2d_backward_input_winograd_f4x5_1d,
    fc_conv2d_backward_input_winograd_f4x7_1d,
    fc_conv2d_backward_input_winograd_f6x3,
    fc_conv2d_backward_input_winograd_f6x3_adjoint,
    fc_conv2d_backward_input_winograd_f6x3_1d,
    fc_conv2d_backward_weight_winograd_f2x3,
    fc_conv2d_backward_weight_winograd_f2x5,
    fc_conv2d_backward_weight_winograd_f4x3,
    fc_conv2d_backward_weight_winograd_f4x3_1d,
    fc_conv2d_backward_weight_winograd_f4x5,
    fc_conv2d_backward_weight_winograd_f4x5_1d,
    fc_conv2d_backward_weight_winograd_f4x7_1d,
    fc_conv2d_backward_weight_winograd_f6x3,
    fc_conv2d_backward_weight_winograd_f6x3_1d,
    fc_conv2d_forward_winograd_f2x3,
    fc_conv2d_forward_winograd_f2x5,
    fc_conv2d_forward_winograd_f4x3,
    fc_conv2d_forward_winograd_f4x3_1d,
    fc_conv2d_forward_winograd_f4x5,
    fc_conv2d_forward_winograd_f4x5_1d,
    fc_conv2d_forward_winograd_f4x7_1d,
    fc_conv2d_forward_winograd_f6x3,
    fc_conv2d_forward_winograd_f6x3_1d,
    fc_kernels,
    fc_kernels_table,
)
from fastconv._cython.kernel cimport conv_kernel, weight_kernel

import numpy as np

cnp.import_array()

cdef extern from "winograd.h" nogil:
    ctypedef struct fc_winograd_problem:
        pass
    ctypedef struct fc_winograd_kernel:
        int m, r, line
        void (*weights)(const void *taps, int64_t n, void *u, int64_t stride)
        void (*input)(const void *d, int64_t row, int64_t col, int64_t n, void *v, int64_t stride)
        int (*output)(const fc_winograd_problem *problem, const void *m, int64_t stride, int64_t n,
                      const void *bias, const void *residual, int clamp, void *y, int64_t row, int64_t col)
        int (*output_pooled)(const void *m, int64_t stride, int64_t n, const void *bias, void *y, unsigned char *codes,
                             int64_t row, int64_t col)
        void (*output_adjoint)(const void *dy, int64_t row, int64_t col, int64_t n, void *dm, int64_t stride)
        int (*weights_adjoint)(const void *du, int64_t stride, int64_t n, void *taps)
        int (*input_adjoint)(const void *dv, int64_t stride, int64_t n, void *d, int64_t row, int64_t col)
    ctypedef struct fc_winograd_move:
        int lanes


conv2d_forward_winograd_f2x3__cython = conv_kernel(&fc_conv2d_forward_winograd_f2x3)
conv2d_forward_winograd_f4x3__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x3)
conv2d_forward_winograd_f6x3__cython = conv_kernel(&fc_conv2d_forward_winograd_f6x3)
conv2d_forward_winograd_f2x5__cython = conv_kernel(&fc_conv2d_forward_winograd_f2x5)
conv2d_forward_winograd_f4x5__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x5)
conv2d_forward_winograd_f4x3_1d__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x3_1d)
conv2d_forward_winograd_f6x3_1d__cython = conv_kernel(&fc_conv2d_forward_winograd_f6x3_1d)
conv2d_forward_winograd_f4x5_1d__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x5_1d)
conv2d_forward_winograd_f4x7_1d__cython = conv_kernel(&fc_conv2d_forward_winograd_f4x7_1d)
conv2d_backward_input_winograd_f2x3__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f2x3)
conv2d_backward_input_winograd_f4x3__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x3)
conv2d_backward_input_winograd_f6x3__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f6x3)
conv2d_backward_input_winograd_f2x5__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f2x5)
conv2d_backward_input_winograd_f4x5__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x5)
conv2d_backward_input_winograd_f4x3_1d__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x3_1d)
conv2d_backward_input_winograd_f6x3_1d__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f6x3_1d)
conv2d_backward_input_winograd_f4x5_1d__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x5_1d)
conv2d_backward_input_winograd_f4x7_1d__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x7_1d)
conv2d_backward_input_winograd_f2x3_adjoint__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f2x3_adjoint)
conv2d_backward_input_winograd_f4x3_adjoint__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f4x3_adjoint)
conv2d_backward_input_winograd_f6x3_adjoint__cython = conv_kernel(&fc_conv2d_backward_input_winograd_f6x3_adjoint)
conv2d_backward_weight_winograd_f2x3__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f2x3)
conv2d_backward_weight_winograd_f4x3__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f4x3)
conv2d_backward_weight_winograd_f6x3__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f6x3)
conv2d_backward_weight_winograd_f2x5__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f2x5)
conv2d_backward_weight_winograd_f4x5__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f4x5)
conv2d_backward_weight_winograd_f4x3_1d__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f4x3_1d)
conv2d_backward_weight_winograd_f6x3_1d__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f6x3_1d)
conv2d_backward_weight_winograd_f4x5_1d__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f4x5_1d)
conv2d_backward_weight_winograd_f4x7_1d__cython = weight_kernel(&fc_conv2d_backward_weight_winograd_f4x7_1d)


# ---- The transforms alone, for tests against the matrices

cdef dict NUMBERS = {
    "f2x3": FC_WINOGRAD_F2X3,
    "f4x3": FC_WINOGRAD_F4X3,
    "f6x3": FC_WINOGRAD_F6X3,
    "f2x5": FC_WINOGRAD_F2X5,
    "f4x5": FC_WINOGRAD_F4X5,
    "f4x3_1d": FC_WINOGRAD_F4X3_1D,
    "f6x3_1d": FC_WINOGRAD_F6X3_1D,
    "f4x5_1d": FC_WINOGRAD_F4X5_1D,
    "f4x7_1d": FC_WINOGRAD_F4X7_1D,
}


cdef const fc_winograd_kernel *kernel_of(str tile, dtype) except NULL:
    cdef const fc_kernels_table *table = fc_kernels()
    cdef int number = NUMBERS[tile]
    return <const fc_winograd_kernel *> (
        table.winograd_f32[number] if dtype == np.float32 else table.winograd_f64[number]
    )


def transform_lanes(dtype):
    """Elements in a vector of the ISA in use: the last axis of `transform`'s arrays is a multiple of it."""
    cdef const fc_kernels_table *table = fc_kernels()
    cdef const fc_winograd_move *move = <const fc_winograd_move *> (
        table.winograd_move_f32 if dtype == np.float32 else table.winograd_move_f64
    )
    return move.lanes


def transform(str what, str tile, cnp.ndarray source):
    """G w G^T, B^T d B or A^T m A ("weights", "input", "output") of (rows, cols, n), or the adjoints G^T u G, A y A^T,
    B v B^T ("weights_adjoint", "output_adjoint", "input_adjoint"), by the ISA in use; for a tile in one dimension G w, ... of (cells, n)."""
    if tile not in NUMBERS or source.dtype not in (np.float32, np.float64):
        raise ValueError(f"no transform of tile {tile} and dtype {source.dtype}")
    cdef const fc_winograd_kernel *kernel = kernel_of(tile, source.dtype)
    cdef int64_t alpha = kernel.m + kernel.r - 1, n = source.shape[source.ndim - 1]
    cdef int64_t lanes = transform_lanes(source.dtype)
    cdef int64_t side = {"weights": kernel.r, "output_adjoint": kernel.m}.get(what, alpha)
    cdef int64_t across = 0 if kernel.line else n
    cdef int dimensions = 1 if kernel.line else 2
    cdef fc_winograd_problem *none = NULL
    if source.ndim != dimensions + 1 or source.shape[0] != side or source.shape[dimensions - 1] != side or n % lanes:
        raise ValueError(f"{what} of {tile} needs {dimensions} axes of {side} and one of a multiple of {lanes}")
    source = np.ascontiguousarray(source)
    cdef cnp.ndarray result = np.empty((alpha,) * dimensions + (n,), source.dtype)
    cdef cnp.ndarray zero = np.zeros(n, source.dtype)
    if what == "weights":
        kernel.weights(cnp.PyArray_DATA(source), n, cnp.PyArray_DATA(result), n)
    elif what == "input":
        kernel.input(cnp.PyArray_DATA(source), n if kernel.line else alpha * n, across, n, cnp.PyArray_DATA(result), n)
    elif what == "output":
        result = np.empty((kernel.m,) * dimensions + (n,), source.dtype)
        kernel.output(none, cnp.PyArray_DATA(source), n, n, cnp.PyArray_DATA(zero), NULL, 0,
                      cnp.PyArray_DATA(result), n if kernel.line else kernel.m * n, across)
    elif what == "output_adjoint":
        kernel.output_adjoint(cnp.PyArray_DATA(source), n if kernel.line else kernel.m * n, across, n,
                              cnp.PyArray_DATA(result), n)
    elif what == "input_adjoint":
        result[...] = 0
        kernel.input_adjoint(cnp.PyArray_DATA(source), n, n, cnp.PyArray_DATA(result), n if kernel.line else alpha * n,
                             across)
    elif what == "weights_adjoint":
        result = np.empty((kernel.r,) * dimensions + (n,), source.dtype)
        kernel.weights_adjoint(cnp.PyArray_DATA(source), n, n, cnp.PyArray_DATA(result))
    else:
        raise ValueError(f"what must be weights, input, output or an adjoint, got {what!r}")
    return result
