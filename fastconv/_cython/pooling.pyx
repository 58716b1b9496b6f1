# cython: freethreading_compatible = True
"""Pooling: `naive`, plain loops over any layout and dtype, and `direct`, the vector kernels of csrc/pooling.c.

Sliding and adaptive windows differ in their bounds only, so that each pair of ops shares its loops. One task of a naive
kernel is one plane (an image's channel).
"""

from libc.stdint cimport int64_t

cimport numpy as cnp

from fastconv._cython.fastconv cimport (
    FC_F32,
    FC_F64,
    fc_avg_pool2d_backward,
    fc_avg_pool2d_forward,
    fc_max_pool2d_backward,
    fc_max_pool2d_forward,
)
from fastconv._cython.shape cimport PoolShape, data_or_null

from fastconv.threads import parallel_for

cnp.import_array()

ctypedef fused real:
    float
    double
    int64_t

ctypedef fused floating:
    float
    double

# Window cells that are worth a second thread: about 20 microseconds of the naive loops.
CELLS_PER_THREAD = 20_000


# ---- Windows ---------------------------------------------------------------------------------------------------


cdef struct Window:
    int64_t first, end, cells, counted  # those inside the input, how many; how many the divisor counts


cdef struct Axis:
    int64_t size, out, k, s, low, d, count_end
    bint adaptive, include_pad


cdef Axis rows_of(PoolShape p) noexcept nogil:
    return Axis(p.c.ih, p.c.oh, p.c.kh, p.c.sh, p.c.ph, p.c.dh, p.c.count_h, p.c.adaptive, p.c.count_include_pad)


cdef Axis columns_of(PoolShape p) noexcept nogil:
    return Axis(p.c.iw, p.c.ow, p.c.kw, p.c.sw, p.c.pw, p.c.dw, p.c.count_w, p.c.adaptive, p.c.count_include_pad)


cdef Window window_at(Axis a, int64_t o) noexcept nogil:
    """Cells first, first + d, ... below end: those of window o that lie inside the input."""
    cdef Window window
    cdef int64_t start = o * a.s - a.low
    if a.adaptive:
        window.first, window.end = o * a.size // a.out, ((o + 1) * a.size + a.out - 1) // a.out
        window.cells = window.counted = window.end - window.first
        return window
    window.first = start if start >= 0 else start + (a.d - 1 - start) // a.d * a.d
    window.end = min(start + (a.k - 1) * a.d + 1, a.size)
    window.cells = (window.end - window.first + a.d - 1) // a.d
    window.counted = min(start + a.k, a.count_end - a.low) - start if a.include_pad else window.cells
    return window


cdef Window windows_over(Axis a, int64_t i) noexcept nogil:
    """The windows first <= o < end that hold cell i (undilated ones)."""
    cdef Window over
    cdef int64_t reach = i + a.low - a.k
    if a.adaptive:
        over.first, over.end = i * a.out // a.size, ((i + 1) * a.out + a.size - 1) // a.size
    else:
        over.first, over.end = 0 if reach < 0 else reach // a.s + 1, min((i + a.low) // a.s + 1, a.out)
    over.cells = over.counted = over.end - over.first
    return over


# ---- Plain loops -----------------------------------------------------------------------------------------------


cdef void max_forward(
    PoolShape p, const real[:, :, :, :] x, real[:, :, :, :] y, int64_t[:, :, :, :] indices, int64_t start, int64_t stop
) except *:
    cdef int64_t task, n, c, i, j, a, b, row, column, where
    cdef real best, value
    cdef Window rows, columns
    cdef Axis down = rows_of(p), along = columns_of(p)
    cdef bint wins, has_indices = indices is not None
    with nogil:
        for task in range(start, stop):
            n, c = task // p.c.c, task % p.c.c
            for i in range(p.c.oh):
                rows = window_at(down, i)
                for j in range(p.c.ow):
                    columns = window_at(along, j)
                    best = x[n, c, rows.first, columns.first]
                    where = rows.first * p.c.iw + columns.first
                    for a in range(rows.cells):
                        row = rows.first + a * down.d
                        for b in range(columns.cells):
                            column = columns.first + b * along.d
                            value = x[n, c, row, column]
                            # The first of equal maxima stays; a NaN wins, the last of several.
                            if real is int64_t:
                                wins = value > best
                            else:
                                wins = value > best or value != value
                            if wins:
                                best = value
                                where = row * p.c.iw + column
                    y[n, c, i, j] = best
                    if has_indices:
                        indices[n, c, i, j] = where


cdef void max_backward(
    PoolShape p, const real[:, :, :, :] dy, const int64_t[:, :, :, :] indices, real[:, :, :, :] dx,
    int64_t start, int64_t stop
) except *:
    cdef int64_t task, n, c, i, j, where
    with nogil:
        for task in range(start, stop):
            n, c = task // p.c.c, task % p.c.c
            for i in range(p.c.ih):
                for j in range(p.c.iw):
                    dx[n, c, i, j] = 0
            for i in range(p.c.oh):
                for j in range(p.c.ow):
                    where = indices[n, c, i, j]
                    if 0 <= where < p.c.ih * p.c.iw:
                        dx[n, c, where // p.c.iw, where % p.c.iw] += dy[n, c, i, j]


cdef void avg_forward(
    PoolShape p, const floating[:, :, :, :] x, floating[:, :, :, :] y, int64_t start, int64_t stop
) except *:
    cdef int64_t task, n, c, i, j, row, column
    cdef double total
    cdef Window rows, columns
    cdef Axis down = rows_of(p), along = columns_of(p)
    with nogil:
        for task in range(start, stop):
            n, c = task // p.c.c, task % p.c.c
            for i in range(p.c.oh):
                rows = window_at(down, i)
                for j in range(p.c.ow):
                    columns = window_at(along, j)
                    total = 0
                    for row in range(rows.first, rows.end):
                        for column in range(columns.first, columns.end):
                            total += x[n, c, row, column]
                    total /= p.c.divisor_override if p.c.divisor_override else rows.counted * columns.counted
                    y[n, c, i, j] = <floating> total


cdef void avg_backward(
    PoolShape p, const floating[:, :, :, :] dy, floating[:, :, :, :] dx, int64_t start, int64_t stop
) except *:
    """A gather: each input cell takes its share of every window that holds it."""
    cdef int64_t task, n, c, i, j, row, column, rows_counted, counted
    cdef double total
    cdef Window rows, columns
    cdef Axis down = rows_of(p), along = columns_of(p)
    with nogil:
        for task in range(start, stop):
            n, c = task // p.c.c, task % p.c.c
            for row in range(p.c.ih):
                rows = windows_over(down, row)
                for column in range(p.c.iw):
                    columns = windows_over(along, column)
                    total = 0
                    for i in range(rows.first, rows.end):
                        rows_counted = window_at(down, i).counted
                        for j in range(columns.first, columns.end):
                            counted = rows_counted * window_at(along, j).counted
                            total += dy[n, c, i, j] / <double> (
                                p.c.divisor_override if p.c.divisor_override else counted
                            )
                    dx[n, c, row, column] = <floating> total


def over_planes(PoolShape p, int threads, run):
    """Splits the planes over as many threads as the work is worth."""
    cdef int64_t cells = p.c.mb * p.c.c * max(p.c.ih * p.c.iw, p.c.oh * p.c.ow * p.c.kh * p.c.kw)
    parallel_for(p.c.mb * p.c.c, min(threads, 1 + cells // CELLS_PER_THREAD), run)


def max_pool2d_forward_naive__cython(PoolShape shape, x, y, indices, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            max_forward[float](shape, x, y, indices, start, stop)
        elif shape.c.dtype == FC_F64:
            max_forward[double](shape, x, y, indices, start, stop)
        else:
            max_forward[int64_t](shape, x, y, indices, start, stop)

    over_planes(shape, threads, run)


def max_pool2d_backward_naive__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            max_backward[float](shape, dy, indices, dx, start, stop)
        elif shape.c.dtype == FC_F64:
            max_backward[double](shape, dy, indices, dx, start, stop)
        else:
            max_backward[int64_t](shape, dy, indices, dx, start, stop)

    over_planes(shape, threads, run)


def avg_pool2d_forward_naive__cython(PoolShape shape, x, y, indices, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            avg_forward[float](shape, x, y, start, stop)
        else:
            avg_forward[double](shape, x, y, start, stop)

    over_planes(shape, threads, run)


def avg_pool2d_backward_naive__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    def run(int64_t start, int64_t stop, worker):
        if shape.c.dtype == FC_F32:
            avg_backward[float](shape, dy, dx, start, stop)
        else:
            avg_backward[double](shape, dy, dx, start, stop)

    over_planes(shape, threads, run)


def adaptive_max_pool2d_forward_naive__cython(PoolShape shape, x, y, indices, workspace, int threads):
    max_pool2d_forward_naive__cython(shape, x, y, indices, workspace, threads)


def adaptive_max_pool2d_backward_naive__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    max_pool2d_backward_naive__cython(shape, dy, indices, dx, workspace, threads)


def adaptive_avg_pool2d_forward_naive__cython(PoolShape shape, x, y, indices, workspace, int threads):
    avg_pool2d_forward_naive__cython(shape, x, y, indices, workspace, threads)


def adaptive_avg_pool2d_backward_naive__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    avg_pool2d_backward_naive__cython(shape, dy, indices, dx, workspace, threads)


# ---- Vector kernels --------------------------------------------------------------------------------------------


def max_pool2d_forward_direct__cython(
    PoolShape shape not None, cnp.ndarray x not None, cnp.ndarray y not None, indices, workspace, int threads
):
    cdef const void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    cdef int64_t *places = <int64_t *> data_or_null(indices)
    with nogil:
        fc_max_pool2d_forward(&shape.c, source, target, places, threads)


def max_pool2d_backward_direct__cython(
    PoolShape shape not None, cnp.ndarray dy not None, cnp.ndarray indices not None, cnp.ndarray dx not None,
    workspace, int threads
):
    cdef const void *source = cnp.PyArray_DATA(dy)
    cdef const int64_t *places = <const int64_t *> cnp.PyArray_DATA(indices)
    cdef void *target = cnp.PyArray_DATA(dx)
    cdef int outside
    with nogil:
        outside = fc_max_pool2d_backward(&shape.c, source, places, target, threads)
    if outside:
        raise IndexError("an index is no cell of its plane")


def avg_pool2d_forward_direct__cython(
    PoolShape shape not None, cnp.ndarray x not None, cnp.ndarray y not None, indices, workspace, int threads
):
    cdef const void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    with nogil:
        fc_avg_pool2d_forward(&shape.c, source, target, threads)


def avg_pool2d_backward_direct__cython(
    PoolShape shape not None, cnp.ndarray dy not None, indices, cnp.ndarray dx not None, workspace, int threads
):
    cdef const void *source = cnp.PyArray_DATA(dy)
    cdef void *target = cnp.PyArray_DATA(dx)
    with nogil:
        fc_avg_pool2d_backward(&shape.c, source, target, threads)


def adaptive_max_pool2d_forward_direct__cython(PoolShape shape, x, y, indices, workspace, int threads):
    max_pool2d_forward_direct__cython(shape, x, y, indices, workspace, threads)


def adaptive_max_pool2d_backward_direct__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    max_pool2d_backward_direct__cython(shape, dy, indices, dx, workspace, threads)


def adaptive_avg_pool2d_forward_direct__cython(PoolShape shape, x, y, indices, workspace, int threads):
    avg_pool2d_forward_direct__cython(shape, x, y, indices, workspace, threads)


def adaptive_avg_pool2d_backward_direct__cython(PoolShape shape, dy, indices, dx, workspace, int threads):
    avg_pool2d_backward_direct__cython(shape, dy, indices, dx, workspace, threads)
