# cython: freethreading_compatible = True
"""Winograd convolution F(2x2, 3x3) and F(4x4, 3x3), forward and input gradient: doors to csrc/winograd.c."""

cimport numpy as cnp
from libc.stdint cimport int64_t

from fastconv._cython.fastconv cimport (
    FC_BACKWARD_INPUT,
    fc_conv2d_backward_input_winograd,
    fc_conv2d_forward_winograd,
    fc_conv2d_winograd_pack,
    fc_conv2d_winograd_packed,
    fc_conv2d_winograd_workspace,
    fc_epilogue,
    fc_kernels,
    fc_kernels_table,
    fc_view,
)
from fastconv._cython.shape cimport ConvShape, data_or_null, view_of, workspace_of

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


cdef int convolve(ConvShape lowered, int tile, x, w, u, bias, residual, y, workspace, int threads) except -1:
    cdef fc_view input_view = view_of(<cnp.ndarray> x), output_view = view_of(<cnp.ndarray> y)
    cdef fc_view weight_view = view_of(<cnp.ndarray> w)
    cdef fc_epilogue epilogue = lowered.epilogue(bias, residual)
    cdef const void *packed = data_or_null(u)
    cdef void *scratch = workspace_of(
        workspace, fc_conv2d_winograd_workspace(&lowered.c, tile, packed != NULL, threads), lowered.text
    )
    with nogil:
        if lowered.c.pass_ == FC_BACKWARD_INPUT:
            fc_conv2d_backward_input_winograd(
                &lowered.c, tile, &input_view, &weight_view, packed, &epilogue, &output_view, scratch, threads
            )
        else:
            fc_conv2d_forward_winograd(
                &lowered.c, tile, &input_view, &weight_view, packed, &epilogue, &output_view, scratch, threads
            )
    return 0


def conv2d_forward_winograd_f2x3__cython(
    ConvShape lowered not None, x, w, bias, residual, y, workspace, int threads, u=None
):
    """y = act(conv2d(x, w) + bias + residual); `u`, if given, holds the weights packed by pack_winograd_f2x3."""
    convolve(lowered, 2, x, w, u, bias, residual, y, workspace, threads)


def conv2d_forward_winograd_f4x3__cython(
    ConvShape lowered not None, x, w, bias, residual, y, workspace, int threads, u=None
):
    """y = act(conv2d(x, w) + bias + residual); `u`, if given, holds the weights packed by pack_winograd_f4x3."""
    convolve(lowered, 4, x, w, u, bias, residual, y, workspace, threads)


def conv2d_backward_input_winograd_f2x3__cython(
    ConvShape lowered not None, dy, w, bias, residual, dx, workspace, int threads, u=None
):
    """dx = act(the adjoint of conv2d in x, of dy + bias + residual); `u` as in the forward pass."""
    convolve(lowered, 2, dy, w, u, bias, residual, dx, workspace, threads)


def conv2d_backward_input_winograd_f4x3__cython(
    ConvShape lowered not None, dy, w, bias, residual, dx, workspace, int threads, u=None
):
    """dx = act(the adjoint of conv2d in x, of dy + bias + residual); `u` as in the forward pass."""
    convolve(lowered, 4, dy, w, u, bias, residual, dx, workspace, threads)


# ---- Weights packed once, for plans that keep them


cdef int pack(ConvShape lowered, int tile, w, u, int threads) except -1:
    cdef fc_view weight_view = view_of(<cnp.ndarray> w)
    cdef int64_t need = fc_conv2d_winograd_packed(&lowered.c, tile)
    if cnp.PyArray_NBYTES(<cnp.ndarray> u) < need:
        raise RuntimeError(f"{lowered.text} needs {need} bytes of packed weights, got {u.nbytes}")
    cdef void *packed = data_or_null(u)
    with nogil:
        fc_conv2d_winograd_pack(&lowered.c, tile, &weight_view, packed, threads)
    return 0


def packed_winograd_f2x3(ConvShape lowered not None):
    """Bytes of the packed weights of F(2x2, 3x3)."""
    return fc_conv2d_winograd_packed(&lowered.c, 2)


def packed_winograd_f4x3(ConvShape lowered not None):
    """Bytes of the packed weights of F(4x4, 3x3)."""
    return fc_conv2d_winograd_packed(&lowered.c, 4)


def pack_winograd_f2x3(ConvShape lowered not None, w, u, int threads=1):
    """Write the transformed weights to `u` (uint8, 64-byte aligned), for the ISA in use and the problem's pass."""
    pack(lowered, 2, w, u, threads)


def pack_winograd_f4x3(ConvShape lowered not None, w, u, int threads=1):
    """Write the transformed weights to `u` (uint8, 64-byte aligned), for the ISA in use and the problem's pass."""
    pack(lowered, 4, w, u, threads)


def winograd_workspace_bytes(ConvShape lowered not None, int tile, int threads, bint packed=False):
    """What the C core needs; capability.winograd_workspace must be equal."""
    return fc_conv2d_winograd_workspace(&lowered.c, tile, packed, threads)


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
