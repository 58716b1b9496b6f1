"""Pooling as plain loops: max, average and their adaptive forms, forward and backward, in any layout.

One task is one plane (an image's channel). Lowering turns a problem into the bounds of its windows, so that
sliding and adaptive windows run through the same four loops.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv._numba.compile import kernel
from fastconv._numba.tasks import claim, run_phases
from fastconv.problem import PoolProblem

Array = np.ndarray

# Window cells that are worth a second thread: about 20 microseconds of these loops.
CELLS_PER_THREAD = 20_000


class Pool(NamedTuple):
    """A PoolProblem as its kernels need it."""

    dtype: str
    planes: int
    cells: int  # of the windows of one plane
    rows: Array  # (oh, 3): first input row of each window, its end, and how many rows the divisor counts
    columns: Array  # (ow, 3)
    row_windows: Array  # (ih, 2): first window that holds each input row, and the end
    column_windows: Array  # (iw, 2)
    row_step: int
    column_step: int
    divisor: int  # instead of the counted cells; 0 for none


def _windows(p: PoolProblem, i: int, out: int, k: int, s: int, low: int, d: int, count_end: int) -> Array:
    """Along one axis: the bounds of each window's cells inside the input, and how many cells it counts."""
    o = np.arange(out, dtype=np.int64)
    if p.adaptive:
        first, end = o * i // out, -(-(o + 1) * i // out)
        return np.stack([first, end, end - first], axis=1)
    start = o * s - low
    end = np.minimum(start + (k - 1) * d + 1, i)
    first = np.where(start < 0, start + (d - 1 - start) // d * d, start)
    counted = np.minimum(start + k, count_end - low) - start if p.count_include_pad else end - first
    return np.stack([first, end, counted], axis=1)


def _covering(p: PoolProblem, i: int, out: int, k: int, s: int, low: int) -> Array:
    """Along one axis: the windows (of an average, so without dilation) that hold each cell, first and end."""
    cell = np.arange(i, dtype=np.int64)
    if p.adaptive:
        return np.stack([cell * out // i, -(-(cell + 1) * out // i)], axis=1)
    first = np.maximum((cell + low - k) // s + 1, 0)
    return np.stack([first, np.minimum((cell + low) // s + 1, out)], axis=1)


def lower_pool(p: PoolProblem) -> Pool:
    """What a pooling kernel takes in place of the problem, made once per plan."""
    return Pool(
        p.dtype,
        p.mb * p.c,
        max(p.ih * p.iw, p.oh * p.ow * p.kh * p.kw),
        _windows(p, p.ih, p.oh, p.kh, p.sh, p.ph, p.dh, p.count_h),
        _windows(p, p.iw, p.ow, p.kw, p.sw, p.pw, p.dw, p.count_w),
        _covering(p, p.ih, p.oh, p.kh, p.sh, p.ph),
        _covering(p, p.iw, p.ow, p.kw, p.sw, p.pw),
        p.dh,
        p.dw,
        p.divisor_override,
    )


@kernel("in4 out4 outints4 ints2 ints2 int int tickets")
def _max_forward(x, y, indices, rows, columns, row_step, column_step, tickets):
    channels, oh, ow = y.shape[1:]
    width = x.shape[3]
    for task in claim(tickets):
        n, c = task // channels, task % channels
        for i in range(oh):
            for j in range(ow):
                best = x[n, c, rows[i, 0], columns[j, 0]]
                where = rows[i, 0] * width + columns[j, 0]
                for row in range(rows[i, 0], rows[i, 1], row_step):
                    for column in range(columns[j, 0], columns[j, 1], column_step):
                        value = x[n, c, row, column]
                        # The first of equal maxima stays; a NaN wins, the last of several.
                        if value > best or value != value:
                            best = value
                            where = row * width + column
                y[n, c, i, j] = best
                if indices.size > 0:
                    indices[n, c, i, j] = where


@kernel("in4 ints4 out4 tickets")
def _max_backward(dy, indices, dx, tickets):
    channels, oh, ow = dy.shape[1:]
    height, width = dx.shape[2:]
    for task in claim(tickets):
        n, c = task // channels, task % channels
        for row in range(height):
            for column in range(width):
                dx[n, c, row, column] = 0
        for i in range(oh):
            for j in range(ow):
                where = indices[n, c, i, j]
                if 0 <= where < height * width:
                    dx[n, c, where // width, where % width] += dy[n, c, i, j]


@kernel("in4 out4 ints2 ints2 int tickets")
def _avg_forward(x, y, rows, columns, divisor, tickets):
    channels, oh, ow = y.shape[1:]
    for task in claim(tickets):
        n, c = task // channels, task % channels
        for i in range(oh):
            for j in range(ow):
                total = 0.0
                for row in range(rows[i, 0], rows[i, 1]):
                    for column in range(columns[j, 0], columns[j, 1]):
                        total += x[n, c, row, column]
                counted = divisor if divisor > 0 else rows[i, 2] * columns[j, 2]
                y[n, c, i, j] = total / counted


@kernel("in4 out4 ints2 ints2 ints2 ints2 int tickets")
def _avg_backward(dy, dx, rows, columns, row_windows, column_windows, divisor, tickets):
    channels, height, width = dx.shape[1:]
    for task in claim(tickets):
        n, c = task // channels, task % channels
        for row in range(height):
            for column in range(width):
                total = 0.0
                for i in range(row_windows[row, 0], row_windows[row, 1]):
                    for j in range(column_windows[column, 0], column_windows[column, 1]):
                        counted = divisor if divisor > 0 else rows[i, 2] * columns[j, 2]
                        total += dy[n, c, i, j] / counted
                dx[n, c, row, column] = total


_NO_INDICES = np.empty((0, 0, 0, 0), np.int64)


def _over_planes(pool: Pool, threads: int, loops: Any, *arguments: Any) -> None:
    """Runs `loops` over the planes on as many threads as the work is worth."""
    compiled = loops[pool.dtype]

    most = min(threads, 1 + pool.planes * pool.cells // CELLS_PER_THREAD)
    run_phases(most, (pool.planes, lambda tickets, _: compiled(*arguments, tickets)))


def max_pool2d_forward_naive__numba(
    pool: Pool, x: Array, y: Array, indices: Array | None, workspace: Any, threads: int
) -> None:
    places = _NO_INDICES if indices is None else indices
    _over_planes(
        pool, threads, _max_forward, x, y, places, pool.rows, pool.columns, pool.row_step, pool.column_step
    )


def max_pool2d_backward_naive__numba(
    pool: Pool, dy: Array, indices: Array, dx: Array, workspace: Any, threads: int
) -> None:
    _over_planes(pool, threads, _max_backward, dy, indices, dx)


def avg_pool2d_forward_naive__numba(
    pool: Pool, x: Array, y: Array, indices: None, workspace: Any, threads: int
) -> None:
    _over_planes(pool, threads, _avg_forward, x, y, pool.rows, pool.columns, pool.divisor)


def avg_pool2d_backward_naive__numba(
    pool: Pool, dy: Array, indices: None, dx: Array, workspace: Any, threads: int
) -> None:
    windows = (pool.rows, pool.columns, pool.row_windows, pool.column_windows)
    _over_planes(pool, threads, _avg_backward, dy, dx, *windows, pool.divisor)


def adaptive_max_pool2d_forward_naive__numba(
    pool: Pool, x: Array, y: Array, indices: Array | None, workspace: Any, threads: int
) -> None:
    max_pool2d_forward_naive__numba(pool, x, y, indices, workspace, threads)


def adaptive_max_pool2d_backward_naive__numba(
    pool: Pool, dy: Array, indices: Array, dx: Array, workspace: Any, threads: int
) -> None:
    max_pool2d_backward_naive__numba(pool, dy, indices, dx, workspace, threads)


def adaptive_avg_pool2d_forward_naive__numba(
    pool: Pool, x: Array, y: Array, indices: None, workspace: Any, threads: int
) -> None:
    avg_pool2d_forward_naive__numba(pool, x, y, indices, workspace, threads)


def adaptive_avg_pool2d_backward_naive__numba(
    pool: Pool, dy: Array, indices: None, dx: Array, workspace: Any, threads: int
) -> None:
    avg_pool2d_backward_naive__numba(pool, dy, indices, dx, workspace, threads)
