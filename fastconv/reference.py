"""NumPy, float64 accumulation: the meaning of every op; the last row of each table, and the oracle of the tests.

All arrays are logical NCHW / OIHW views, whatever the layout. Clear before fast; nothing here is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastconv.problem import Activation, ConvPoolProblem, ConvProblem, PoolProblem

Array = np.ndarray


def lower(problem: ConvProblem | PoolProblem) -> ConvProblem | PoolProblem:
    """The reference reads the problem itself."""
    return problem


def _accumulator(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype.kind in "iu" else np.dtype(np.float64)


def activate(y: Array, activation: Activation) -> Array:
    """max(y, 0) or clip; a NaN stays a NaN."""
    if activation is None:
        return y
    low, high = (0.0, np.inf) if isinstance(activation, str) else activation[1:]
    with np.errstate(invalid="ignore"):
        y = np.where(y < low, y.dtype.type(low), y)
        return y if np.isinf(high) else np.where(y > high, y.dtype.type(high), y)


def _extent(p: ConvProblem) -> tuple[int, int]:
    """Height and width of the input with its padding, as far as a filter reaches or the input lies."""
    height = max(p.ph + p.ih, (p.oh - 1) * p.sh + (p.kh - 1) * p.dh + 1)
    width = max(p.pw + p.iw, (p.ow - 1) * p.sw + (p.kw - 1) * p.dw + 1)
    return height, width


def _taps(p: ConvProblem) -> Iterator[tuple[int, int, slice, slice]]:
    """Each filter cell with the rows and columns of the padded input that it meets."""
    for i in range(p.kh):
        rows = slice(i * p.dh, i * p.dh + (p.oh - 1) * p.sh + 1, p.sh)
        for j in range(p.kw):
            yield i, j, rows, slice(j * p.dw, j * p.dw + (p.ow - 1) * p.sw + 1, p.sw)


def _padded(p: ConvProblem, x: Array, dtype: np.dtype) -> Array:
    height, width = _extent(p)
    out = np.zeros((p.mb, p.ic, height, width), dtype)
    out[:, :, p.ph : p.ph + p.ih, p.pw : p.pw + p.iw] = x
    return out


def _finish(acc: Array, bias: Array | None, residual: Array | None, activation: Activation, out: Array) -> None:
    if bias is not None:
        acc += bias.reshape(1, -1, 1, 1)
    if residual is not None:
        acc += residual
    with np.errstate(over="ignore"):
        out[...] = activate(acc, activation)


def conv2d_forward_reference__numpy(p, x, w, bias, residual, y, workspace, threads) -> None:
    """y[n, o, i, j] = act(bias[o] + residual + sum over c, a, b of w[o, c, a, b] x[n, c, i sh + a dh - ph, ...])."""
    dtype = _accumulator(y.dtype)
    xp, w = _padded(p, x, dtype), w.astype(dtype)
    acc = np.zeros(y.shape, dtype)
    with np.errstate(all="ignore"):
        for k in range(p.g):
            xs = slice(k * p.icg, (k + 1) * p.icg)
            ys = slice(k * p.ocg, (k + 1) * p.ocg)
            for i, j, rows, cols in _taps(p):
                acc[:, ys] += np.einsum("nchw,oc->nohw", xp[:, xs, rows, cols], w[ys, :, i, j], optimize=True)
        _finish(acc, bias, residual, p.activation, y)


def conv2d_backward_input_reference__numpy(p, dy, w, bias, residual, dx, workspace, threads) -> None:
    """The adjoint of the forward pass in x (also the transposed convolution, then with bias and activation)."""
    dtype = _accumulator(dx.dtype)
    dy, w = dy.astype(dtype), w.astype(dtype)
    height, width = _extent(p)
    acc = np.zeros((p.mb, p.ic, height, width), dtype)
    with np.errstate(all="ignore"):
        for k in range(p.g):
            xs = slice(k * p.icg, (k + 1) * p.icg)
            ys = slice(k * p.ocg, (k + 1) * p.ocg)
            for i, j, rows, cols in _taps(p):
                acc[:, xs, rows, cols] += np.einsum("nohw,oc->nchw", dy[:, ys], w[ys, :, i, j], optimize=True)
        inner = acc[:, :, p.ph : p.ph + p.ih, p.pw : p.pw + p.iw]
        _finish(inner, bias, residual, p.activation, dx)


def conv2d_backward_weight_reference__numpy(p, x, dy, dw, workspace, threads) -> None:
    """The adjoint of the forward pass in w: dw[o, c, a, b] = sum over n, i, j of dy[n, o, i, j] x[n, c, ...]."""
    dtype = _accumulator(dw.dtype)
    xp, dy = _padded(p, x, dtype), dy.astype(dtype)
    with np.errstate(all="ignore"):
        for k in range(p.g):
            xs = slice(k * p.icg, (k + 1) * p.icg)
            ys = slice(k * p.ocg, (k + 1) * p.ocg)
            for i, j, rows, cols in _taps(p):
                dw[ys, :, i, j] = np.einsum("nohw,nchw->oc", dy[:, ys], xp[:, xs, rows, cols], optimize=True)


# ---------------------------------------------------------------------------------------------------------------
# Convolution, ReLU and 2x2 maximum pooling

DEAD = 4  # the code of a window without a positive value


def _quarters(z: Array) -> list[Array]:
    """Views of the four cells of every 2x2 window."""
    h, w = z.shape[2] // 2 * 2, z.shape[3] // 2 * 2
    return [z[:, :, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]


def _spread(p: ConvPoolProblem, dy: Array, codes: Array) -> Array:
    """The gradient of the convolution's outputs: each window's goes to its winner."""
    dz = np.zeros((p.mb, p.oc, p.oh, p.ow), dy.dtype)
    for code, quarter in enumerate(_quarters(dz)):
        quarter[...] = np.where(codes == code, dy, 0)
    return dz


def conv2d_relu_max_pool2d_forward_reference__numpy(p, x, w, bias, y, codes, workspace, threads) -> None:
    """y = the largest of max(z, 0) in each 2x2 window of z = conv(x, w) + bias; codes: the place of the first such z,
    row by row, or DEAD where none is positive. A NaN is larger than any number, the last of several."""
    z = np.empty((p.mb, p.oc, p.oh, p.ow), _accumulator(y.dtype))
    conv2d_forward_reference__numpy(p, x, w, bias, None, z, workspace, threads)
    z = z.astype(y.dtype)  # what is compared is rounded
    best, *others = _quarters(z)
    best, where = best.copy(), np.zeros(best.shape, np.uint8)
    with np.errstate(invalid="ignore"):
        for code, quarter in enumerate(others, 1):
            larger = (quarter > best) | np.isnan(quarter)
            best[larger] = quarter[larger]
            where[larger] = code
        codes[...] = np.where(best > 0, where, DEAD)
    y[...] = activate(best, "relu")


def conv2d_relu_max_pool2d_backward_input_reference__numpy(p, x, w, bias, y, codes, workspace, threads) -> None:
    """x = the gradient of the input, from y, that of the pooled outputs."""
    conv2d_backward_input_reference__numpy(p, _spread(p, y, codes), w, None, None, x, workspace, threads)


def conv2d_relu_max_pool2d_backward_weight_reference__numpy(p, x, w, bias, y, codes, workspace, threads) -> None:
    """w, bias = the gradients of weight and bias, from y, that of the pooled outputs."""
    dz = _spread(p, y, codes)
    conv2d_backward_weight_reference__numpy(p, x, dz, w, workspace, threads)
    if bias is not None:
        bias[...] = dz.sum(axis=(0, 2, 3), dtype=_accumulator(dz.dtype))


# ---------------------------------------------------------------------------------------------------------------
# Pooling


def _windows(p: PoolProblem, axis: str) -> list[range]:
    """For each output row (or column) the input cells of its window, those outside the input left out."""
    i, o, k, s, low, d = (
        (p.ih, p.oh, p.kh, p.sh, p.ph, p.dh) if axis == "h" else (p.iw, p.ow, p.kw, p.sw, p.pw, p.dw)
    )
    if p.adaptive:
        return [range(n * i // o, -(-(n + 1) * i // o)) for n in range(o)]
    result = []
    for n in range(o):
        first = n * s - low
        inside = [c for c in range(first, first + k * d, d) if 0 <= c < i]
        result.append(range(inside[0], inside[-1] + 1, d))
    return result


def _count(p: PoolProblem, axis: str, n: int, cells: int) -> int:
    """How many cells of window n the divisor counts along one axis; padded ones only up to count_h / count_w."""
    if p.adaptive or not p.count_include_pad:
        return cells
    k, s, end = (p.kh, p.sh, p.count_h) if axis == "h" else (p.kw, p.sw, p.count_w)
    return min(n * s + k, end) - n * s


def _max_forward(p: PoolProblem, x: Array, y: Array, indices: Array | None) -> None:
    for i, rows in enumerate(_windows(p, "h")):
        for j, cols in enumerate(_windows(p, "w")):
            best = x[:, :, rows[0], cols[0]].copy()
            where = np.full(best.shape, rows[0] * p.iw + cols[0], np.int64)
            for r in rows:
                for c in cols:
                    value = x[:, :, r, c]
                    # the first of equal maxima stays; a NaN wins, the last of several
                    wins = (value > best) | (value != value)
                    best = np.where(wins, value, best)
                    where = np.where(wins, r * p.iw + c, where)
            y[:, :, i, j] = best
            if indices is not None:
                indices[:, :, i, j] = where


def _max_backward(p: PoolProblem, dy: Array, indices: Array, dx: Array) -> None:
    acc = np.zeros((p.mb * p.c, p.ih * p.iw), _accumulator(dx.dtype))
    planes = np.arange(p.mb * p.c)[:, None]
    flat = (p.mb * p.c, p.oh * p.ow)
    np.add.at(acc, (planes, indices.reshape(flat)), dy.reshape(flat))
    dx[...] = acc.reshape(p.mb, p.c, p.ih, p.iw)


def _divisor(p: PoolProblem, i: int, rows: range, j: int, cols: range) -> int:
    return p.divisor_override or _count(p, "h", i, len(rows)) * _count(p, "w", j, len(cols))


def _avg_forward(p: PoolProblem, x: Array, y: Array) -> None:
    columns = list(enumerate(_windows(p, "w")))
    for i, rows in enumerate(_windows(p, "h")):
        for j, cols in columns:
            window = x[:, :, rows.start : rows.stop, cols.start : cols.stop]
            y[:, :, i, j] = window.sum(axis=(2, 3), dtype=np.float64) / _divisor(p, i, rows, j, cols)


def _avg_backward(p: PoolProblem, dy: Array, dx: Array) -> None:
    acc = np.zeros((p.mb, p.c, p.ih, p.iw))
    columns = list(enumerate(_windows(p, "w")))
    for i, rows in enumerate(_windows(p, "h")):
        for j, cols in columns:
            share = dy[:, :, i, j].astype(np.float64) / _divisor(p, i, rows, j, cols)
            acc[:, :, rows.start : rows.stop, cols.start : cols.stop] += share[:, :, None, None]
    dx[...] = acc


def max_pool2d_forward_reference__numpy(p, x, y, indices, workspace, threads) -> None:
    """Largest cell of each window; padded cells never win, a NaN does; flat index into the plane (row-major)."""
    _max_forward(p, x, y, indices)


def max_pool2d_backward_reference__numpy(p, dy, indices, dx, workspace, threads) -> None:
    """Each dy is added to the input cell its index names."""
    _max_backward(p, dy, indices, dx)


def avg_pool2d_forward_reference__numpy(p, x, y, indices, workspace, threads) -> None:
    """Sum of each window over divisor_override, or over its cells (padded ones too under count_include_pad)."""
    _avg_forward(p, x, y)


def avg_pool2d_backward_reference__numpy(p, dy, indices, dx, workspace, threads) -> None:
    """Each dy, divided as in the forward pass, is added to every cell of its window."""
    _avg_backward(p, dy, dx)


def adaptive_max_pool2d_forward_reference__numpy(p, x, y, indices, workspace, threads) -> None:
    """Largest cell of each window [floor(i ih / oh), ceil((i + 1) ih / oh))."""
    _max_forward(p, x, y, indices)


def adaptive_max_pool2d_backward_reference__numpy(p, dy, indices, dx, workspace, threads) -> None:
    """Each dy is added to the input cell its index names."""
    _max_backward(p, dy, indices, dx)


def adaptive_avg_pool2d_forward_reference__numpy(p, x, y, indices, workspace, threads) -> None:
    """Mean of each window [floor(i ih / oh), ceil((i + 1) ih / oh))."""
    _avg_forward(p, x, y)


def adaptive_avg_pool2d_backward_reference__numpy(p, dy, indices, dx, workspace, threads) -> None:
    """Each dy over its window's size is added to every cell of the window."""
    _avg_backward(p, dy, dx)
