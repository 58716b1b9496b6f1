"""A training step between its convolutions: activations, losses with their gradients, sums for biases, updates.

Arrays are contiguous, of one dtype, on one stream; nothing waits. One launch each; sums are taken in a fixed order, so
that a run gives the same bits every time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._cuda.arrays import DeviceArray
from fastconv._cuda.compiler import cuda, float64, kernel
from fastconv._cuda.gemm import TYPES
from fastconv._cuda.launch import THREADS, carve, flat, int32s, run, workspace
from fastconv._cuda.sizes import bytes_of, ceil_div

# A block that sums over rows has this many channels beside each other, and rows at a time.
LANES, LINES = 32, 8
# Rows that one block sums: more of them are cut, and the parts summed likewise by another launch. Estimates, until a
# GPU was there to measure: a block's loads wait for each other.
ROWS_OF_PART, MOST_PARTS = 128, 512
# Rows of a block where a thread has one: few, as there are few rows.
ROW_THREADS = 32


def _memory(array: DeviceArray) -> Any:
    return flat(array).memory


# ---------------------------------------------------------------------------------------------------------------
# ReLU's gradient, and that of a bias


class Columns(NamedTuple):
    """A matrix of pixels x channels, and rows of a part."""

    rows: int
    channels: int
    part: int
    masked: int  # flag: by y > 0
    summed: int  # flag


@kernel
def _mask_and_sum(grad, y, sums, zero, p):
    """grad becomes 0 where y is not positive; sums[part][channel] of what it is then, in float64."""
    s = cuda.shared.array(0, float64)
    t = cuda.threadIdx.x
    lane, line = t % LANES, t // LANES
    c = cuda.blockIdx.x * LANES + lane
    total = zero
    if c < p.channels:
        first = cuda.blockIdx.y * p.part
        for row in range(first + line, min(first + p.part, p.rows), LINES):
            at = row * p.channels + c
            if p.masked and not y[at] > 0:
                grad[at] = 0
            else:
                total += grad[at]
    if p.summed:
        s[t] = total
        cuda.syncthreads()
        if line == 0 and c < p.channels:
            for other in range(1, LINES):
                total += s[other * LANES + lane]
            sums[cuda.blockIdx.y * p.channels + c] = total


def relu_backward(grad: DeviceArray, y: DeviceArray | None, out_bias: DeviceArray | None) -> None:
    """The gradient of y = max(z, 0), in place (y None: grad stays), and its sums over all axes but the last."""
    channels = grad.shape[-1]
    rows = grad.size // channels
    if rows == 0:
        return
    each = max(ROWS_OF_PART, ceil_div(rows, MOST_PARTS))
    parts = ceil_div(rows, each)
    image = _memory(grad)
    sums = image if out_bias is None else _memory(out_bias)
    in_parts = out_bias is not None and parts > 1
    target = sums
    if in_parts:
        (target,) = carve(workspace(bytes_of("float64", [parts * channels]), grad), ("float64", parts * channels))
    shape = int32s(Columns, (rows, channels, each, y is not None, out_bias is not None))
    _sum_columns(grad, parts, image, image if y is None else _memory(y), target, shape)
    if in_parts:
        _sum_columns(grad, 1, target, target, sums, int32s(Columns, (parts, channels, parts, False, True)))


def _sum_columns(of: DeviceArray, parts: int, image: Any, y: Any, sums: Any, p: Columns) -> None:
    grid = ceil_div(int(p.channels), LANES), parts
    run(_mask_and_sum, grid, LANES * LINES, of, image, y, sums, np.float64(0), p, shared=8 * LANES * LINES)


# ---------------------------------------------------------------------------------------------------------------
# Activations


@lru_cache(maxsize=4)
def _elementwise_of(dtype: str) -> dict[str, Any]:
    T = TYPES[dtype]

    @kernel
    def relu(x, y, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            y[i] = T(0) if x[i] < T(0) else x[i]

    @kernel
    def relu_gradient(y, dy, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count and not y[i] > T(0):
            dy[i] = T(0)

    @kernel
    def sigmoid(x, y, count):
        """(1 + tanh(x / 2)) / 2, which cannot overflow."""
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            y[i] = T(0.5) * T(math.tanh(T(0.5) * x[i])) + T(0.5)

    @kernel
    def sigmoid_gradient(y, dy, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            dy[i] *= y[i] * (T(1) - y[i])

    @kernel
    def tanh(x, y, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            y[i] = math.tanh(x[i])

    @kernel
    def tanh_gradient(y, dy, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            dy[i] *= T(1) - y[i] * y[i]

    @kernel
    def multiply(a, b, y, count):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < count:
            y[i] = a[i] * b[i]

    return {
        "relu": relu, "relu_gradient": relu_gradient, "sigmoid": sigmoid, "sigmoid_gradient": sigmoid_gradient,
        "tanh": tanh, "tanh_gradient": tanh_gradient, "multiply": multiply,
    }  # fmt: skip


class Rows(NamedTuple):
    """A matrix, one row for each thread."""

    rows: int
    columns: int
    room: int  # rows of each kind of sums
    graded: int  # flag: the gradient is wanted


@lru_cache(maxsize=4)
def _softmax_of(dtype: str) -> tuple[Any, Any]:
    T = TYPES[dtype]

    @kernel
    def softmax(x, y, p):
        """exp(x) over its sum in the row, shifted by the largest so that nothing overflows."""
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            first = row * p.columns
            top = x[first]
            for c in range(1, p.columns):
                top = max(top, x[first + c])
            total = T(0)
            for c in range(p.columns):
                y[first + c] = math.exp(x[first + c] - top)
                total += y[first + c]
            for c in range(p.columns):
                y[first + c] /= total

    @kernel
    def softmax_gradient(y, dy, p):
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            first = row * p.columns
            total = T(0)
            for c in range(p.columns):
                total += dy[first + c] * y[first + c]
            for c in range(p.columns):
                dy[first + c] = (dy[first + c] - total) * y[first + c]

    return softmax, softmax_gradient


def _each(name: str, *arrays: DeviceArray) -> None:
    last = arrays[-1]
    if last.size:
        program = _elementwise_of(last.dtype.name)[name]
        run(program, ceil_div(last.size, THREADS), THREADS, last, *map(_memory, arrays), np.int32(last.size))


def _each_row(program: Any, of: DeviceArray, *arguments: Any, room: int = 0, graded: bool = False) -> None:
    columns = of.shape[-1]
    rows = of.size // columns
    if rows:
        p = int32s(Rows, (rows, columns, room, graded))
        run(program, ceil_div(rows, ROW_THREADS), ROW_THREADS, of, *arguments, p)


def activate(name: str, x: DeviceArray, y: DeviceArray) -> None:
    """y = relu, sigmoid, tanh or softmax (over the last axis) of x; in place where both are one array."""
    if name == "softmax":
        _each_row(_softmax_of(x.dtype.name)[0], x, _memory(x), _memory(y))
    else:
        _each(name, x, y)


def activate_backward(name: str, y: DeviceArray, dy: DeviceArray) -> None:
    """dy, the gradient of y = activation(z), becomes that of z."""
    if name == "softmax":
        _each_row(_softmax_of(y.dtype.name)[1], y, _memory(y), _memory(dy))
    else:
        _each(f"{name}_gradient", y, dy)


def multiply(a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y = a * b; in place where y is one of them."""
    _each("multiply", a, b, y)


# ---------------------------------------------------------------------------------------------------------------
# Losses. Each thread has a row, and adds its loss and whether its prediction is right to sums of its own:
# sums[row] and sums[room + row]. Nobody adds them up before somebody asks.


@lru_cache(maxsize=4)
def _losses_of(dtype: str) -> dict[str, Any]:
    T = TYPES[dtype]

    @kernel
    def sparse_categorical_crossentropy(z, labels, grad, sums, scale, p):
        """-log softmax(z)[label]; grad = (softmax(z) - [c = label]) * scale."""
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            first = row * p.columns
            top, best = z[first], 0
            for c in range(1, p.columns):
                if z[first + c] > top:
                    top, best = z[first + c], c
            total = T(0)
            for c in range(p.columns):
                total += math.exp(z[first + c] - top)
            label = labels[row]
            sums[row] += math.log(total) - (z[first + label] - top)
            if best == label:
                sums[p.room + row] += 1
            if p.graded:
                for c in range(p.columns):
                    share = T(math.exp(z[first + c] - top)) / total
                    grad[first + c] = (share - T(1) if c == label else share) * scale

    @kernel
    def categorical_crossentropy(z, targets, grad, sums, scale, p):
        """-sum(t log softmax(z)); grad = (softmax(z) - t) * scale."""
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            first = row * p.columns
            top, best, label = z[first], 0, 0
            for c in range(1, p.columns):
                if z[first + c] > top:
                    top, best = z[first + c], c
                if targets[first + c] > targets[first + label]:
                    label = c
            total = T(0)
            for c in range(p.columns):
                total += math.exp(z[first + c] - top)
            shift = top + T(math.log(total))
            loss = T(0)
            for c in range(p.columns):
                loss -= targets[first + c] * (z[first + c] - shift)
            sums[row] += loss
            if best == label:
                sums[p.room + row] += 1
            if p.graded:
                for c in range(p.columns):
                    grad[first + c] = (T(math.exp(z[first + c] - shift)) - targets[first + c]) * scale

    @kernel
    def binary_crossentropy(z, targets, grad, sums, scale, p):
        """The mean over the row of -t log s(z) - (1 - t) log(1 - s(z)); grad = (s(z) - t) * scale."""
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            loss, right = T(0), 1
            for i in range(row * p.columns, (row + 1) * p.columns):
                value, target = z[i], targets[i]
                loss += max(value, T(0)) - value * target + T(math.log1p(math.exp(-abs(value))))
                if (value > T(0)) != (target > T(0.5)):
                    right = 0
                if p.graded:
                    grad[i] = (T(0.5) * T(math.tanh(T(0.5) * value)) + T(0.5) - target) * scale
            sums[row] += loss / T(p.columns)
            sums[p.room + row] += right

    @kernel
    def mean_squared_error(z, targets, grad, sums, scale, p):
        """The mean over the row of (z - t)^2; grad = (z - t) * scale."""
        row = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if row < p.rows:
            loss = T(0)
            for i in range(row * p.columns, (row + 1) * p.columns):
                difference = z[i] - targets[i]
                loss += difference * difference
                if p.graded:
                    grad[i] = difference * scale
            sums[row] += loss / T(p.columns)

    return {
        "sparse_categorical_crossentropy": sparse_categorical_crossentropy,
        "categorical_crossentropy": categorical_crossentropy, "binary_crossentropy": binary_crossentropy,
        "mean_squared_error": mean_squared_error,
    }  # fmt: skip


def loss(name: str, z: DeviceArray, targets: DeviceArray, grad: DeviceArray | None, sums: DeviceArray) -> None:
    """Add the losses of the rows of z, and whether each is right, to sums[0] and sums[1]; grad of the mean of all."""
    rows = z.shape[0]
    matrix = z.reshape(rows, z.size // rows)
    T = z.dtype.type
    count = {"binary_crossentropy": z.size, "mean_squared_error": z.size / 2}.get(name, rows)
    _each_row(
        _losses_of(z.dtype.name)[name], matrix, _memory(z), _memory(targets), _memory(z if grad is None else grad),
        _memory(sums), T(1 / count), room=sums.shape[1], graded=grad is not None,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# Updates of all weights of a network at once. The rate lies on the GPU, since a recorded step keeps its other numbers.


@kernel
def _sgd(w, g, m, rate, momentum, remembers, nesterov, count):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < count:
        step = rate[0] * g[i]
        if remembers:
            m[i] = momentum * m[i] - step
            w[i] += momentum * m[i] - step if nesterov else m[i]
        else:
            w[i] -= step


@kernel
def _rmsprop(w, g, v, m, rate, rho, rest, momentum, epsilon, remembers, count):
    """rest: 1 - rho."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < count:
        v[i] = rho * v[i] + rest * g[i] * g[i]
        step = rate[0] * g[i] / math.sqrt(v[i] + epsilon)
        if remembers:
            m[i] = momentum * m[i] + step
            step = m[i]
        w[i] -= step


@kernel
def _adam(w, g, m, v, rate, rest_1, rest_2, epsilon, count):
    """rest_1, rest_2: 1 - beta_1, 1 - beta_2."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < count:
        m[i] += rest_1 * (g[i] - m[i])
        v[i] += rest_2 * (g[i] * g[i] - v[i])
        w[i] -= rate[0] * m[i] / (math.sqrt(v[i]) + epsilon)


def _update(program: Any, w: DeviceArray, arrays: tuple[DeviceArray, ...], numbers: Any, *flags: int) -> None:
    if w.size:
        T = w.dtype.type
        run(
            program, ceil_div(w.size, THREADS), THREADS, w, *map(_memory, arrays), *map(T, numbers),
            *map(np.int32, (*flags, w.size)),
        )  # fmt: skip


def sgd(
    w: DeviceArray, g: DeviceArray, m: DeviceArray | None, rate: DeviceArray, momentum: float, nesterov: bool
) -> None:
    """As fastconv.functional.training.sgd; so are the others."""
    _update(_sgd, w, (w, g, w if m is None else m, rate), (momentum,), m is not None, nesterov)


def rmsprop(
    w: DeviceArray, g: DeviceArray, v: DeviceArray, m: DeviceArray | None, rate: DeviceArray, rho: float,
    momentum: float, epsilon: float,
) -> None:  # fmt: skip
    arrays = (w, g, v, w if m is None else m, rate)
    _update(_rmsprop, w, arrays, (rho, 1 - rho, momentum, epsilon), m is not None)


def adam(
    w: DeviceArray, g: DeviceArray, m: DeviceArray, v: DeviceArray, rate: DeviceArray, beta_1: float, beta_2: float,
    epsilon: float,
) -> None:  # fmt: skip
    _update(_adam, w, (w, g, m, v, rate), (1 - beta_1, 1 - beta_2, epsilon))
