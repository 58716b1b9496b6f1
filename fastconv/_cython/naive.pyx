# cython: freethreading_compatible = True
"""Convolution as the textbook's seven loops: any stride, any dtype; floats are summed in double and rounded once.

One task is one plane of the output (for the weight gradient: the filters of one output channel). Integers wrap modulo
2^64, as NumPy's do.
"""

from libc.stdint cimport int64_t, uint64_t

from fastconv._cython.fastconv cimport FC_F32, FC_F64
from fastconv._cython.shape cimport ConvShape

from fastconv.threads import parallel_for

ctypedef fused real:
    float
    double
    int64_t

# What the terms are summed in; unsigned, because a signed overflow is undefined in C.
ctypedef fused accumulator:
    double
    uint64_t

# Products that are worth a second thread: about 20 microseconds of these loops.
PRODUCTS_PER_THREAD = 20_000


cdef inline real activated(ConvShape shape, real zero, accumulator total) noexcept nogil:
    """The sum clamped (a NaN passes both tests) and rounded to the output's type."""
    cdef real value
    if accumulator is double:
        if shape.clamp and total < shape.lo:
            total = shape.lo
        if shape.clamp and total > shape.hi:
            total = shape.hi
        return <real> total
    else:
        value = <real> total
        if shape.clamp and value < shape.lo:
            value = <real> shape.lo
        if shape.clamp and value > shape.hi:
            value = <real> shape.hi
        return value


cdef void forward(
    ConvShape shape, const real[:, :, :, :] x, const real[:, :, :, :] w, const real[:] bias,
    const real[:, :, :, :] residual, real[:, :, :, :] y, accumulator zero, int64_t start, int64_t stop
) except *:
    cdef int64_t task, n, o, first, i, j, c, a, b, row, column
    cdef accumulator total, value
    cdef int64_t channels = shape.c.ic // shape.c.g
    cdef bint has_bias = bias is not None, has_residual = residual is not None
    with nogil:
        for task in range(start, stop):
            n, o = task // shape.c.oc, task % shape.c.oc
            first = o // (shape.c.oc // shape.c.g) * channels  # of this output channel's group
            for i in range(shape.c.oh):
                for j in range(shape.c.ow):
                    total = zero
                    for c in range(channels):
                        for a in range(shape.c.kh):
                            row = i * shape.c.sh + a * shape.c.dh - shape.c.ph
                            for b in range(shape.c.kw):
                                column = j * shape.c.sw + b * shape.c.dw - shape.c.pw
                                # Padding is a zero like any other: times an infinite weight it is a NaN.
                                value = zero
                                if 0 <= row < shape.c.ih and 0 <= column < shape.c.iw:
                                    value = <accumulator> x[n, first + c, row, column]
                                total += value * <accumulator> w[o, c, a, b]
                    if has_bias:
                        total += <accumulator> bias[o]
                    if has_residual:
                        total += <accumulator> residual[n, o, i, j]
                    y[n, o, i, j] = activated[real, accumulator](shape, 0, total)


cdef void backward_input(
    ConvShape shape, const real[:, :, :, :] dy, const real[:, :, :, :] w, const real[:] bias,
    const real[:, :, :, :] residual, real[:, :, :, :] dx, accumulator zero, int64_t start, int64_t stop
) except *:
    """A gather: each input cell asks every tap which output cell it reached, if any."""
    cdef int64_t task, n, c, first, i, j, o, a, b, row, column
    cdef accumulator total
    cdef int64_t channels = shape.c.ic // shape.c.g, filters = shape.c.oc // shape.c.g
    cdef bint has_bias = bias is not None, has_residual = residual is not None
    with nogil:
        for task in range(start, stop):
            n, c = task // shape.c.ic, task % shape.c.ic
            first = c // channels * filters  # output channel of this input channel's group
            for i in range(shape.c.ih):
                for j in range(shape.c.iw):
                    total = zero
                    for o in range(filters):
                        for a in range(shape.c.kh):
                            row = i + shape.c.ph - a * shape.c.dh
                            if row < 0 or row % shape.c.sh != 0 or row // shape.c.sh >= shape.c.oh:
                                continue
                            for b in range(shape.c.kw):
                                column = j + shape.c.pw - b * shape.c.dw
                                if column < 0 or column % shape.c.sw != 0 or column // shape.c.sw >= shape.c.ow:
                                    continue
                                total += (
                                    <accumulator> dy[n, first + o, row // shape.c.sh, column // shape.c.sw]
                                    * <accumulator> w[first + o, c % channels, a, b]
                                )
                    if has_bias:
                        total += <accumulator> bias[c]
                    if has_residual:
                        total += <accumulator> residual[n, c, i, j]
                    dx[n, c, i, j] = activated[real, accumulator](shape, 0, total)


cdef void backward_weight(
    ConvShape shape, const real[:, :, :, :] x, const real[:, :, :, :] dy, real[:, :, :, :] dw,
    accumulator zero, int64_t start, int64_t stop
) except *:
    cdef int64_t o, c, first, a, b, n, i, j, row, column
    cdef accumulator total, value
    cdef int64_t channels = shape.c.ic // shape.c.g
    with nogil:
        for o in range(start, stop):
            first = o // (shape.c.oc // shape.c.g) * channels
            for c in range(channels):
                for a in range(shape.c.kh):
                    for b in range(shape.c.kw):
                        total = zero
                        for n in range(shape.c.mb):
                            for i in range(shape.c.oh):
                                row = i * shape.c.sh + a * shape.c.dh - shape.c.ph
                                for j in range(shape.c.ow):
                                    column = j * shape.c.sw + b * shape.c.dw - shape.c.pw
                                    value = zero
                                    if 0 <= row < shape.c.ih and 0 <= column < shape.c.iw:
                                        value = <accumulator> x[n, first + c, row, column]
                                    total += value * <accumulator> dy[n, o, i, j]
                        dw[o, c, a, b] = <real> total


def over_planes(ConvShape shape, int64_t tasks, int threads, run):
    """Splits the tasks over as many threads as the work is worth."""
    cdef int64_t products = (
        shape.c.mb * shape.c.oc * shape.c.oh * shape.c.ow * (shape.c.ic // shape.c.g) * shape.c.kh * shape.c.kw
    )
    parallel_for(tasks, min(threads, 1 + products // PRODUCTS_PER_THREAD), run)


def conv2d_forward_naive__cython(ConvShape shape, x, w, bias, residual, y, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            forward[float, double](shape, x, w, bias, residual, y, 0, start, stop)
        elif shape.c.dtype == FC_F64:
            forward[double, double](shape, x, w, bias, residual, y, 0, start, stop)
        else:
            forward[int64_t, uint64_t](shape, x, w, bias, residual, y, 0, start, stop)

    over_planes(shape, shape.c.mb * shape.c.oc, threads, run)


def conv2d_backward_input_naive__cython(ConvShape shape, dy, w, bias, residual, dx, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            backward_input[float, double](shape, dy, w, bias, residual, dx, 0, start, stop)
        elif shape.c.dtype == FC_F64:
            backward_input[double, double](shape, dy, w, bias, residual, dx, 0, start, stop)
        else:
            backward_input[int64_t, uint64_t](shape, dy, w, bias, residual, dx, 0, start, stop)

    over_planes(shape, shape.c.mb * shape.c.ic, threads, run)


def conv2d_backward_weight_naive__cython(ConvShape shape, x, dy, dw, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            backward_weight[float, double](shape, x, dy, dw, 0, start, stop)
        elif shape.c.dtype == FC_F64:
            backward_weight[double, double](shape, x, dy, dw, 0, start, stop)
        else:
            backward_weight[int64_t, uint64_t](shape, x, dy, dw, 0, start, stop)

    over_planes(shape, shape.c.oc, threads, run)
