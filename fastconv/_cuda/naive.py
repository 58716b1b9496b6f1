"""The plain sums as the definitions read, one thread for each result: any strides; floats are summed in float64."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastconv._cuda import Conv
from fastconv._cuda.compiler import cuda, device, kernel
from fastconv._cuda.launch import THREADS, Flat, flat, run
from fastconv._cuda.sizes import ceil_div

# Most blocks of a repair, which mostly find nothing to do.
REPAIR_BLOCKS = 264


class Shape(NamedTuple):
    """The numbers of one call: the geometry, and element strides of the image x, the filters w and the image y."""

    cells: int  # results, one for each thread
    nhwc: int  # neighbouring threads have neighbouring channels, else columns
    mb: int
    g: int
    icg: int
    ih: int
    iw: int
    ocg: int
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
    x_0: int  # where element (0, 0, 0, 0) is
    x_n: int
    x_c: int
    x_h: int
    x_w: int
    w_0: int
    w_o: int
    w_i: int
    w_h: int
    w_w: int
    y_0: int
    y_n: int
    y_c: int
    y_h: int
    y_w: int
    bias: int  # flags
    residual: int
    r_0: int
    r_n: int
    r_c: int
    r_h: int
    r_w: int


def _shape(p: Conv, cells: int, x: Flat, w: Flat, y: Flat, bias: Any = None, residual: Flat | None = None) -> Shape:
    r = (0, 0, 0, 0, 0) if residual is None else (residual.start, *residual.strides)
    numbers: Any = (
        cells, p.nhwc, p.mb, p.g, p.icg, p.ih, p.iw, p.ocg, p.oh, p.ow, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw,
        x.start, *x.strides, w.start, *w.strides, y.start, *y.strides, int(bias is not None), int(residual is not None),
        *r,
    )  # fmt: skip
    return Shape(*numbers)


@device
def _place(i, nhwc, c, h, w):
    """(n, c, h, w) of a thread's cell."""
    if nhwc:
        return i // c // w // h, i % c, i // c // w % h, i // c % w
    return i // w // h // c, i // w // h % c, i // w % h, i % w


@device
def finish(total, low, high):
    """activation(total): a NaN stays a NaN."""
    if total < low:
        return low
    if total > high:
        return high
    return total


@device
def _forward_cell(x, w, bias, residual, zero, low, high, p, n, o, row, column):
    """activation(sum + bias + residual) of one cell of the output."""
    first = o // p.ocg * p.icg
    total = zero
    for c in range(p.icg):
        for a in range(p.kh):
            h = row * p.sh + a * p.dh - p.ph
            for b in range(p.kw):
                v = column * p.sw + b * p.dw - p.pw
                value = zero  # padding is a zero like any other: times Inf it is NaN
                if h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                    value += x[p.x_0 + n * p.x_n + (first + c) * p.x_c + h * p.x_h + v * p.x_w]
                total += value * w[p.w_0 + o * p.w_o + c * p.w_i + a * p.w_h + b * p.w_w]
    if p.bias:
        total += bias[o]
    if p.residual:
        total += residual[p.r_0 + n * p.r_n + o * p.r_c + row * p.r_h + column * p.r_w]
    return finish(total, low, high)


@device
def _backward_cell(dy, w, bias, residual, zero, low, high, p, n, c, row, column):
    """The same of one cell of the input's gradient."""
    first = c // p.icg * p.ocg
    total = zero
    for o in range(p.ocg):
        for a in range(p.kh):
            h = row + p.ph - a * p.dh
            if h < 0 or h % p.sh != 0 or h // p.sh >= p.oh:
                continue
            for b in range(p.kw):
                v = column + p.pw - b * p.dw
                if v < 0 or v % p.sw != 0 or v // p.sw >= p.ow:
                    continue
                value = zero + dy[p.y_0 + n * p.y_n + (first + o) * p.y_c + h // p.sh * p.y_h + v // p.sw * p.y_w]
                total += value * w[p.w_0 + (first + o) * p.w_o + c % p.icg * p.w_i + a * p.w_h + b * p.w_w]
    if p.bias:
        total += bias[c]
    if p.residual:
        total += residual[p.r_0 + n * p.r_n + c * p.r_c + row * p.r_h + column * p.r_w]
    return finish(total, low, high)


@kernel
def _forward(x, w, bias, residual, y, zero, low, high, p):
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        n, o, row, column = _place(i, p.nhwc, p.g * p.ocg, p.oh, p.ow)
        value = _forward_cell(x, w, bias, residual, zero, low, high, p, n, o, row, column)
        y[p.y_0 + n * p.y_n + o * p.y_c + row * p.y_h + column * p.y_w] = value


@kernel
def _backward_input(dy, w, bias, residual, dx, zero, low, high, p):
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        n, c, row, column = _place(i, p.nhwc, p.g * p.icg, p.ih, p.iw)
        value = _backward_cell(dy, w, bias, residual, zero, low, high, p, n, c, row, column)
        dx[p.x_0 + n * p.x_n + c * p.x_c + row * p.x_h + column * p.x_w] = value


@kernel
def _repair_forward(x, w, bias, residual, y, suspects, zero, low, high, p):
    """All cells that are not finite once more, if there is a suspect."""
    if suspects[0] == 0:
        return
    first = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    for i in range(first, p.cells, cuda.gridDim.x * cuda.blockDim.x):
        n, o, row, column = _place(i, p.nhwc, p.g * p.ocg, p.oh, p.ow)
        at = p.y_0 + n * p.y_n + o * p.y_c + row * p.y_h + column * p.y_w
        if not math.isfinite(y[at]):
            y[at] = _forward_cell(x, w, bias, residual, zero, low, high, p, n, o, row, column)


@kernel
def _repair_backward_input(dy, w, bias, residual, dx, suspects, zero, low, high, p):
    if suspects[0] == 0:
        return
    first = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    for i in range(first, p.cells, cuda.gridDim.x * cuda.blockDim.x):
        n, c, row, column = _place(i, p.nhwc, p.g * p.icg, p.ih, p.iw)
        at = p.x_0 + n * p.x_n + c * p.x_c + row * p.x_h + column * p.x_w
        if not math.isfinite(dx[at]):
            dx[at] = _backward_cell(dy, w, bias, residual, zero, low, high, p, n, c, row, column)


@device
def _weight_cell(x, dy, zero, p, o, c, a, b):
    """One cell of the filters' gradient."""
    channel = o // p.ocg * p.icg + c
    total = zero
    for n in range(p.mb):
        for row in range(p.oh):
            h = row * p.sh + a * p.dh - p.ph
            for column in range(p.ow):
                v = column * p.sw + b * p.dw - p.pw
                value = zero
                if h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                    value += x[p.x_0 + n * p.x_n + channel * p.x_c + h * p.x_h + v * p.x_w]
                total += value * dy[p.y_0 + n * p.y_n + o * p.y_c + row * p.y_h + column * p.y_w]
    return total


@kernel
def _backward_weight(x, dy, w, zero, p):
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        o, c, a, b = _place(i, 0, p.icg, p.kh, p.kw)
        w[p.w_0 + o * p.w_o + c * p.w_i + a * p.w_h + b * p.w_w] = _weight_cell(x, dy, zero, p, o, c, a, b)


@kernel
def _repair_backward_weight(x, dy, w, suspects, zero, p):
    if suspects[0] == 0:
        return
    first = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    for i in range(first, p.cells, cuda.gridDim.x * cuda.blockDim.x):
        o, c, a, b = _place(i, 0, p.icg, p.kh, p.kw)
        at = p.w_0 + o * p.w_o + c * p.w_i + a * p.w_h + b * p.w_w
        if not math.isfinite(w[at]):
            w[at] = _weight_cell(x, dy, zero, p, o, c, a, b)


def _sum_type(p: Conv) -> tuple[Any, Any, Any]:
    """A zero of the type in which sums are taken, and the limits of the activation in it."""
    if p.dtype != "int64":
        return np.float64(0), np.float64(p.low), np.float64(p.high)
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    low, high = (least if p.low < least else int(p.low)), (most if p.high > most else int(p.high))
    return np.int64(0), np.int64(low), np.int64(high)


def _grid(cells: int) -> int:
    return ceil_div(cells, THREADS)


def conv2d_forward_naive__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    fx, fw, fy = flat(x), flat(w), flat(y)
    cells = fy.array.size
    if cells == 0:
        return
    fb, fr = (fy if a is None else flat(a) for a in (bias, residual))
    shape = _shape(p, cells, fx, fw, fy, bias, None if residual is None else fr)
    run(
        _forward, _grid(cells), THREADS, fx, fx.memory, fw.memory, fb.memory, fr.memory, fy.memory, *_sum_type(p),
        shape,
    )  # fmt: skip


def conv2d_backward_input_naive__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    fy, fw, fx = flat(dy), flat(w), flat(dx)
    cells = fx.array.size
    if cells == 0:
        return
    fb, fr = (fx if a is None else flat(a) for a in (bias, residual))
    shape = _shape(p, cells, fx, fw, fy, bias, None if residual is None else fr)
    run(
        _backward_input, _grid(cells), THREADS, fy, fy.memory, fw.memory, fb.memory, fr.memory, fx.memory,
        *_sum_type(p), shape,
    )  # fmt: skip


def repair(p: Conv, backward: bool, x: Flat, w: Flat, bias: Any, residual: Any, y: Flat, suspects: Any) -> None:
    """The plain sum for all results that are not finite, if a fast kernel wrote 1 to suspects[0]; x, w and y are what
    the pass takes and gives. Nobody waits to see: the launch finds out on the GPU."""
    cells = y.array.size
    fb, fr = (y if a is None else flat(a) for a in (bias, residual))
    program, image, other = (_repair_backward_input, y, x) if backward else (_repair_forward, x, y)
    shape = _shape(p, cells, image, w, other, bias, None if residual is None else fr)
    grid = min(_grid(cells), REPAIR_BLOCKS)
    run(
        program, grid, THREADS, x, x.memory, w.memory, fb.memory, fr.memory, y.memory, suspects, *_sum_type(p), shape
    )  # fmt: skip


def conv2d_backward_weight_naive__cuda(p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int) -> None:
    fx, fy, fw = flat(x), flat(dy), flat(dw)
    cells = fw.array.size
    run(
        _backward_weight, _grid(cells), THREADS, fx, fx.memory, fy.memory, fw.memory, _sum_type(p)[0],
        _shape(p, cells, fx, fw, fy),
    )  # fmt: skip


def repair_weight(p: Conv, x: Flat, dy: Flat, dw: Flat, suspects: Any) -> None:
    """As `repair`, for a weight gradient."""
    cells = dw.array.size
    grid = min(_grid(cells), REPAIR_BLOCKS)
    run(
        _repair_backward_weight, grid, THREADS, x, x.memory, dy.memory, dw.memory, suspects, _sum_type(p)[0],
        _shape(p, cells, x, dw, dy),
    )  # fmt: skip
