"""Pooling: one thread for each cell that is written, forward and backward, max, average and their adaptive forms.

The gradients gather: a cell looks at the windows that hold it, so nothing is added by two threads and the order of
summation is fixed. Neighbouring threads have neighbours in memory; cells read twice come from the L1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv._cuda.compiler import cuda, device, kernel, quotient
from fastconv._cuda.launch import THREADS, Flat, flat, int32s, run
from fastconv._cuda.sizes import ceil_div
from fastconv.problem import PoolProblem


class Shape(NamedTuple):
    """The geometry, and element strides of the image x, the pooled image y and the indices z."""

    cells: int  # written, one for each thread
    nhwc: int  # flag: neighbouring threads have neighbouring channels, else columns
    channels: int
    ih: int
    iw: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    adaptive: int  # flag
    include_pad: int  # flag
    count_h: int  # padded coordinates from here on never count
    count_w: int
    divisor: int  # instead of the counted cells; 0 for none
    indices: int  # flag: there are some
    x_0: int
    x_n: int
    x_c: int
    x_h: int
    x_w: int
    y_0: int
    y_n: int
    y_c: int
    y_h: int
    y_w: int
    z_0: int
    z_n: int
    z_c: int
    z_h: int
    z_w: int


@device
def _place(i, nhwc, c, h, w):
    """(n, c, h, w) of a thread's cell."""
    if nhwc:
        rest = quotient(i, c)
        channel = i - rest * c
        line = quotient(rest, w)
        n = quotient(line, h)
        return n, channel, line - n * h, rest - line * w
    line = quotient(i, w)
    plane = quotient(line, h)
    n = quotient(plane, c)
    return n, plane - n * c, line - plane * h, i - line * w


@device
def _window(o, i, out, k, s, low, d, adaptive):
    """First cell of a window along one axis, and the end of its cells, inside the input."""
    if adaptive:
        return quotient(o * i, out), quotient((o + 1) * i + out - 1, out)
    start = o * s - low
    end = min(start + (k - 1) * d + 1, i)
    if start < 0:
        start += quotient(d - 1 - start, d) * d
    return start, end


@device
def _counted(o, i, out, k, s, low, adaptive, include_pad, count_end):
    """Cells of a window (of an average, so without dilation) along one axis that the divisor counts."""
    if adaptive or not include_pad:
        first, end = _window(o, i, out, k, s, low, 1, adaptive)
        return end - first
    start = o * s - low
    return min(start + k, count_end - low) - start


@device
def _covering(cell, i, out, k, s, low, d, adaptive):
    """The windows along one axis that can hold a cell: the first, and the end."""
    if adaptive:
        return quotient(cell * out, i), quotient((cell + 1) * out + i - 1, i)
    reach = cell + low - (k - 1) * d
    return (quotient(reach + s - 1, s) if reach > 0 else 0), min(quotient(cell + low, s) + 1, out)


@kernel
def _max_forward(x, y, indices, p):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= p.cells:
        return
    n, c, row, column = _place(i, p.nhwc, p.channels, p.oh, p.ow)
    top, bottom = _window(row, p.ih, p.oh, p.kh, p.sh, p.ph, p.dh, p.adaptive)
    left, right = _window(column, p.iw, p.ow, p.kw, p.sw, p.pw, p.dw, p.adaptive)
    base = p.x_0 + n * p.x_n + c * p.x_c
    best = x[base + top * p.x_h + left * p.x_w]
    where = top * p.iw + left
    for h in range(top, bottom, p.dh):
        for w in range(left, right, p.dw):
            value = x[base + h * p.x_h + w * p.x_w]
            # the first of equal maxima stays; a NaN wins, the last of several
            if value > best or value != value:
                best = value
                where = h * p.iw + w
    y[p.y_0 + n * p.y_n + c * p.y_c + row * p.y_h + column * p.y_w] = best
    if p.indices:
        indices[p.z_0 + n * p.z_n + c * p.z_c + row * p.z_h + column * p.z_w] = where


@kernel
def _max_backward(dy, indices, dx, zero, p):
    """An index outside its own window, which no forward pass gives, is nobody's: it is left out."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= p.cells:
        return
    n, c, row, column = _place(i, p.nhwc, p.channels, p.ih, p.iw)
    top, bottom = _covering(row, p.ih, p.oh, p.kh, p.sh, p.ph, p.dh, p.adaptive)
    left, right = _covering(column, p.iw, p.ow, p.kw, p.sw, p.pw, p.dw, p.adaptive)
    mine = row * p.iw + column
    total = zero
    for h in range(top, bottom):
        for w in range(left, right):
            if indices[p.z_0 + n * p.z_n + c * p.z_c + h * p.z_h + w * p.z_w] == mine:
                total += dy[p.y_0 + n * p.y_n + c * p.y_c + h * p.y_h + w * p.y_w]
    dx[p.x_0 + n * p.x_n + c * p.x_c + row * p.x_h + column * p.x_w] = total


@kernel
def _avg_forward(x, y, zero, p):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= p.cells:
        return
    n, c, row, column = _place(i, p.nhwc, p.channels, p.oh, p.ow)
    top, bottom = _window(row, p.ih, p.oh, p.kh, p.sh, p.ph, 1, p.adaptive)
    left, right = _window(column, p.iw, p.ow, p.kw, p.sw, p.pw, 1, p.adaptive)
    base = p.x_0 + n * p.x_n + c * p.x_c
    total = zero
    for h in range(top, bottom):
        for w in range(left, right):
            total += x[base + h * p.x_h + w * p.x_w]
    counted = p.divisor
    if counted == 0:
        counted = _counted(row, p.ih, p.oh, p.kh, p.sh, p.ph, p.adaptive, p.include_pad, p.count_h) * _counted(
            column, p.iw, p.ow, p.kw, p.sw, p.pw, p.adaptive, p.include_pad, p.count_w
        )
    y[p.y_0 + n * p.y_n + c * p.y_c + row * p.y_h + column * p.y_w] = total / counted


@kernel
def _avg_backward(dy, dx, zero, p):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= p.cells:
        return
    n, c, row, column = _place(i, p.nhwc, p.channels, p.ih, p.iw)
    top, bottom = _covering(row, p.ih, p.oh, p.kh, p.sh, p.ph, 1, p.adaptive)
    left, right = _covering(column, p.iw, p.ow, p.kw, p.sw, p.pw, 1, p.adaptive)
    total = zero
    for h in range(top, bottom):
        rows = _counted(h, p.ih, p.oh, p.kh, p.sh, p.ph, p.adaptive, p.include_pad, p.count_h)
        for w in range(left, right):
            counted = p.divisor
            if counted == 0:
                counted = rows * _counted(w, p.iw, p.ow, p.kw, p.sw, p.pw, p.adaptive, p.include_pad, p.count_w)
            total += dy[p.y_0 + n * p.y_n + c * p.y_c + h * p.y_h + w * p.y_w] / counted
    dx[p.x_0 + n * p.x_n + c * p.x_c + row * p.x_h + column * p.x_w] = total


def _shape(p: PoolProblem, x: Flat, y: Flat, z: Flat | None = None) -> Shape:
    numbers: Any = (
        x.array.size if p.pass_ == "backward" else y.array.size, p.layout == "NHWC", p.c, p.ih, p.iw, p.oh, p.ow,
        p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, p.adaptive, p.count_include_pad, p.count_h, p.count_w,
        p.divisor_override, z is not None, x.start, *x.strides, y.start, *y.strides,
        *((0,) * 5 if z is None else (z.start, *z.strides)),
    )  # fmt: skip
    return int32s(Shape, numbers)


def _zero(p: PoolProblem) -> Any:
    return np.int64(0) if p.dtype == "int64" else np.float64(0)


def max_pool2d_forward_direct__cuda(p: PoolProblem, x: Any, y: Any, indices: Any, workspace: Any, threads: int) -> None:
    fx, fy = flat(x), flat(y)
    fz = None if indices is None else flat(indices)
    shape = _shape(p, fx, fy, fz)
    if shape.cells:
        places = fy.memory if fz is None else fz.memory
        run(_max_forward, ceil_div(int(shape.cells), THREADS), THREADS, fx, fx.memory, fy.memory, places, shape)


def max_pool2d_backward_direct__cuda(
    p: PoolProblem, dy: Any, indices: Any, dx: Any, workspace: Any, threads: int
) -> None:
    fy, fz, fx = flat(dy), flat(indices), flat(dx)
    shape = _shape(p, fx, fy, fz)
    if shape.cells:
        grid = ceil_div(int(shape.cells), THREADS)
        run(_max_backward, grid, THREADS, fy, fy.memory, fz.memory, fx.memory, _zero(p), shape)


def avg_pool2d_forward_direct__cuda(
    p: PoolProblem, x: Any, y: Any, indices: None, workspace: Any, threads: int
) -> None:
    fx, fy = flat(x), flat(y)
    shape = _shape(p, fx, fy)
    if shape.cells:
        grid = ceil_div(int(shape.cells), THREADS)
        run(_avg_forward, grid, THREADS, fx, fx.memory, fy.memory, _zero(p), shape)


def avg_pool2d_backward_direct__cuda(
    p: PoolProblem, dy: Any, indices: None, dx: Any, workspace: Any, threads: int
) -> None:
    fy, fx = flat(dy), flat(dx)
    shape = _shape(p, fx, fy)
    if shape.cells:
        grid = ceil_div(int(shape.cells), THREADS)
        run(_avg_backward, grid, THREADS, fy, fy.memory, fx.memory, _zero(p), shape)


# An adaptive pool is another way to place the windows, which the problem tells.
adaptive_max_pool2d_forward_direct__cuda = max_pool2d_forward_direct__cuda
adaptive_max_pool2d_backward_direct__cuda = max_pool2d_backward_direct__cuda
adaptive_avg_pool2d_forward_direct__cuda = avg_pool2d_forward_direct__cuda
adaptive_avg_pool2d_backward_direct__cuda = avg_pool2d_backward_direct__cuda
