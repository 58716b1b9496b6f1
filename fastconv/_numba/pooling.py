"""Pooling: max, average and their adaptive forms, forward and backward, in any layout; plain loops, and vectors.

Lowering turns a problem into the bounds of its windows, so that sliding and adaptive windows run through the same
loops. Of the plain ones a task is one plane (an image's channel). Vectors (`direct`) are channels in NHWC, any window;
in NCHW they are columns, of the windows in OWN_COLUMNS, and all others are left to the plain loops.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._numba.arrays import flat
from fastconv._numba.blocking import ITEMSIZE
from fastconv._numba.compile import Kernel, jit, kernel
from fastconv._numba.integers import least, quotient, remainder
from fastconv._numba.pooling_tiles import (
    AVERAGE,
    MAX,
    MAX_INDEXED,
    pool_pixels,
    pool_rows,
    select_2x2,
    select_pixels,
    spread_2x2,
    spread_pixels,
    spread_rows,
)
from fastconv._numba.tasks import claim, run_phases
from fastconv._numba.vector import get, numbers, put
from fastconv.problem import PoolProblem

Array = np.ndarray

# Window cells that are worth a second thread: about 20 microseconds of these loops.
CELLS_PER_THREAD = 20_000
# Bytes that the vector kernels move in about 10 microseconds: not worth a second thread.
SMALL_BYTES = 131_072
# Outputs in the rows of windows that are done together in NCHW: what is prepared for a vector of columns pays.
BLOCK_OUTPUTS = 512
# Columns and strides of windows that have code of their own in NCHW.
OWN_COLUMNS = ((2, 2), (3, 2), (3, 1))
# Sides of windows that have code of their own in NHWC.
OWN_SIDES = (2, 3)


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
    shape: Array  # the numbers of Shape
    row_cells: Array  # [first, number] of each window's rows, of its columns; and windows over cells: flat
    column_cells: Array
    over_rows: Array
    over_columns: Array
    row_counts: Array  # what the divisor counts, or `divisor` for columns and 1 for rows
    column_counts: Array
    row_shares: Array  # of the gradient of an average, for each cell: inverse counts
    column_shares: Array
    nhwc: int
    own: tuple[int, int] | None  # columns and stride of windows that have code in NCHW
    quads: bool  # windows of 2 x 2 at stride 2, all inside
    apart: bool  # no window overlaps another
    side: int  # of square windows that have code in NHWC, or 0


class Shape(NamedTuple):
    """The numbers of the vector kernels."""

    nhwc: int
    channels: int
    ih: int
    iw: int
    oh: int
    ow: int
    row_step: int
    column_step: int
    left: int  # columns of padding
    tiled: int  # whether the windows cover every cell
    block: int  # NCHW: rows of windows that are done together


shape_numbers = numbers(Shape)


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
    rows = _windows(p, p.ih, p.oh, p.kh, p.sh, p.ph, p.dh, p.count_h)
    columns = _windows(p, p.iw, p.ow, p.kw, p.sw, p.pw, p.dw, p.count_w)
    nhwc = p.layout == "NHWC" and p.c > 1  # of one channel both layouts are the same
    bounds = [(axis[:, 0], axis[:, 1]) for axis in (rows, columns)]
    apart = p.dh == p.dw == 1 and all((first[1:] >= end[:-1]).all() for first, end in bounds)
    tiled = apart and all(
        first.size and first[0] == 0 and end[-1] == size and (first[1:] == end[:-1]).all()
        for (first, end), size in zip(bounds, (p.ih, p.iw))
    )
    plain = not p.adaptive and p.dw == 1 and p.dtype == "float32"  # each window of its own costs a compilation
    own = (p.kw, p.sw) if plain and (p.kw, p.sw) in OWN_COLUMNS else None
    quads = own == (2, 2) == (p.kh, p.sh) and p.ph == p.pw == 0 and 2 * p.oh <= p.ih and 2 * p.ow <= p.iw
    over = _covering(p, p.ih, p.oh, p.kh, p.sh, p.ph), _covering(p, p.iw, p.ow, p.kw, p.sw, p.pw)
    counts = rows[:, 2], columns[:, 2]
    if p.divisor_override:
        counts = np.ones_like(counts[0]), np.full_like(counts[1], p.divisor_override)
    dtype = p.dtype if p.dtype.startswith("float") else "float64"
    block = max(1, BLOCK_OUTPUTS // max(1, p.ow))
    shape = Shape(int(nhwc), p.c, p.ih, p.iw, p.oh, p.ow, p.dh, p.dw, p.pw, int(tiled), block)
    return Pool(
        p.dtype,
        p.mb * p.c,
        max(p.ih * p.iw, p.oh * p.ow * p.kh * p.kw),
        rows,
        columns,
        *over,
        p.dh,
        p.dw,
        p.divisor_override,
        np.array(shape, np.int64),
        _cells(rows, p.dh),
        _cells(columns, p.dw),
        over[0].reshape(-1),
        over[1].reshape(-1),
        counts[0].astype(dtype),
        counts[1].astype(dtype),
        1 / np.maximum(counts[0], 1).astype(dtype),
        1 / np.maximum(counts[1], 1).astype(dtype),
        int(p.layout == "NHWC"),
        own,
        quads,
        apart,
        p.kh if p.kh == p.kw in OWN_SIDES and p.dtype == "float32" else 0,
    )


def _cells(windows: Array, step: int) -> Array:
    """[first, number] of the cells of each window, flat."""
    return np.stack([windows[:, 0], -(-(windows[:, 1] - windows[:, 0]) // step)], axis=1).reshape(-1)


# --------------------------------------------------------------------------------------------------------
# Plain loops


@kernel("in4 out4 outints4 ints2 ints2 int int tickets")
def _max_forward(x, y, indices, rows, columns, row_step, column_step, tickets):
    channels, oh, ow = y.shape[1:]
    width = x.shape[3]
    for task in claim(tickets):
        n, c = quotient(task, channels), remainder(task, channels)
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
        n, c = quotient(task, channels), remainder(task, channels)
        for row in range(height):
            for column in range(width):
                dx[n, c, row, column] = 0
        for i in range(oh):
            for j in range(ow):
                where = indices[n, c, i, j]
                if 0 <= where < height * width:
                    dx[n, c, quotient(where, width), remainder(where, width)] += dy[n, c, i, j]


@kernel("in4 out4 ints2 ints2 int tickets")
def _avg_forward(x, y, rows, columns, divisor, tickets):
    channels, oh, ow = y.shape[1:]
    for task in claim(tickets):
        n, c = quotient(task, channels), remainder(task, channels)
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
        n, c = quotient(task, channels), remainder(task, channels)
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


# --------------------------------------------------------------------------------------------------------
# Vectors


@cache
def _pixels(op: int, k: int) -> Kernel:
    """Forward in NHWC, with code of its own for windows of k x k (0: none); a task is a row of outputs."""

    @kernel("in1 out1 outints1 in1 in1 ints1 ints1 ints1 tickets")
    def pixels(x, y, indices, row_counts, column_counts, rows, columns, shape, tickets):
        p = shape_numbers(shape)
        for task in claim(tickets):
            n, i = quotient(task, p.oh), remainder(task, p.oh)
            to = task * p.ow * p.channels
            pool_pixels(
                op, k, x, n * p.ih * p.iw * p.channels, y, to, indices, to, columns, 0, column_counts, 0,
                rows[2 * i], rows[2 * i + 1], p.row_step, p.column_step, p.iw, p.ow, p.channels, row_counts[i],
            )  # fmt: skip

    return pixels


@cache
def _rows_of_planes(op: int, k: int, s: int) -> Kernel:
    """Forward in NCHW, of windows of k columns at stride s; a task is a plane."""

    @kernel("in1 out1 outints1 in1 in1 ints1 ints1 tickets")
    def rows_of_planes(x, y, indices, row_counts, column_counts, rows, shape, tickets):
        p = shape_numbers(shape)
        for task in claim(tickets):
            for i in range(0, p.oh, p.block):
                to = (task * p.oh + i) * p.ow
                pool_rows(
                    op, k, s, x, task * p.ih * p.iw - p.left, y, to, indices, to, rows, 2 * i, row_counts, i,
                    column_counts, 0, least(p.block, p.oh - i), p.row_step, p.iw, p.left, p.left + p.iw, p.ow,
                )  # fmt: skip

    return rows_of_planes


@jit
def clear(array, start, count):
    for n in range(start, start + count):
        put(array, n, array.dtype.type(0))


@kernel("in1 ints1 out1 ints1 ints1 ints1 int tickets")
def _max_gradient_nhwc(dy, indices, dx, rows, columns, shape, apart, tickets):
    """A task is an image. Returns how many indices are no cell of their plane."""
    p = shape_numbers(shape)
    outside = 0
    channels, cells, outputs = p.channels, p.ih * p.iw, p.oh * p.ow
    for n in claim(tickets):
        to = n * cells * channels
        if apart == 0 or p.tiled == 0:
            clear(dx, to, cells * channels)
        missed = 1 - apart
        if apart:
            for i in range(p.oh):
                at = (n * outputs + i * p.ow) * channels
                missed |= select_pixels(
                    dy, at, indices, at, dx, to, columns, 0, rows[2 * i], rows[2 * i + 1], p.iw, p.ow, channels
                )
            if missed:  # an index came from elsewhere
                clear(dx, to, cells * channels)
        if missed:
            for at in range(n * outputs * channels, (n + 1) * outputs * channels, channels):
                for c in range(channels):
                    where = get(indices, at + c)
                    if 0 <= where < cells:
                        place = to + where * channels + c
                        put(dx, place, get(dx, place) + get(dy, at + c))
                    else:
                        outside += 1
    return outside


@kernel("in1 ints1 out1 ints1 int tickets")
def _max_gradient_nchw(dy, indices, dx, shape, quads, tickets):
    """A task is a plane. Returns how many indices are no cell of it."""
    p = shape_numbers(shape)
    cells, outputs = p.ih * p.iw, p.oh * p.ow
    outside = 0
    for task in claim(tickets):
        missed = 1 - quads
        if quads:
            for i in range(p.oh):
                at, row = task * outputs + i * p.ow, 2 * i * p.iw
                missed |= select_2x2(dy, at, indices, at, dx, task * cells + row, p.iw, p.ow, row, cells)
                for j in range(2 * p.ow, p.iw):
                    put(dx, task * cells + row + j, dx.dtype.type(0))
                    put(dx, task * cells + row + p.iw + j, dx.dtype.type(0))
            clear(dx, task * cells + 2 * p.oh * p.iw, (p.ih - 2 * p.oh) * p.iw)
        if missed:  # nothing is done yet, or an index came from elsewhere
            clear(dx, task * cells, cells)
            for o in range(outputs):
                where = get(indices, task * outputs + o)
                if 0 <= where < cells:
                    to = task * cells + where
                    put(dx, to, get(dx, to) + get(dy, task * outputs + o))
                else:
                    outside += 1
    return outside


@kernel("in1 out1 in1 in1 ints1 ints1 ints1 tickets")
def _avg_gradient_nhwc(dy, dx, row_shares, column_shares, row_windows, column_windows, shape, tickets):
    """A task is a row of cells."""
    p = shape_numbers(shape)
    for task in claim(tickets):
        n, i = quotient(task, p.ih), remainder(task, p.ih)
        spread_pixels(
            dy, n * p.oh * p.ow * p.channels, dx, task * p.iw * p.channels, column_windows, 0,
            row_shares, 0, column_shares, 0, row_windows[2 * i], row_windows[2 * i + 1], p.iw, p.ow, p.channels,
        )  # fmt: skip


@kernel("in1 out1 in1 in1 ints1 tickets")
def _avg_gradient_2x2(dy, dx, row_shares, column_shares, shape, tickets):
    """A task is a plane."""
    p = shape_numbers(shape)
    for task in claim(tickets):
        to = task * p.ih * p.iw
        for i in range(p.oh):
            row = to + 2 * i * p.iw
            spread_2x2(dy, (task * p.oh + i) * p.ow, dx, row, p.iw, p.ow, row_shares[0] * column_shares[0])
            for j in range(2 * p.ow, p.iw):
                put(dx, row + j, dx.dtype.type(0))
                put(dx, row + p.iw + j, dx.dtype.type(0))
        clear(dx, to + 2 * p.oh * p.iw, (p.ih - 2 * p.oh) * p.iw)


@cache
def _spread_planes(k: int, s: int, odd: int) -> Kernel:
    """The gradient of an average in NCHW, of windows of k columns at stride s; a task is a plane."""

    @kernel("in1 out1 in1 in1 ints1 ints1 tickets")
    def spread_planes(dy, dx, row_shares, column_shares, row_windows, shape, tickets):
        p = shape_numbers(shape)
        for task in claim(tickets):
            for i in range(0, p.ih, p.block):
                spread_rows(
                    k, s, odd, dy, task * p.oh * p.ow, dx, (task * p.ih + i) * p.iw, row_windows, 2 * i,
                    row_shares, 0, column_shares, 0, least(p.block, p.ih - i), p.iw, p.ow, quotient(p.left, s),
                )  # fmt: skip

    return spread_planes


def _run(pool: Pool, threads: int, tasks: int, cells: int, run: Any) -> None:
    run_phases(threads if cells * ITEMSIZE[pool.dtype] > SMALL_BYTES else 1, (tasks, run))


def _forward(pool: Pool, op: int, x: Array, y: Array, indices: Array | None, threads: int) -> bool:
    """Whether there is a vector kernel for it; then it has run."""
    nhwc = pool.shape[0]
    if y.size == 0:
        return True
    if not nhwc and pool.own is None:
        return False
    places = _NO_INDICES.reshape(-1) if indices is None else flat(indices, pool.nhwc)
    arrays: tuple[Any, ...] = flat(x, pool.nhwc), flat(y, pool.nhwc), places, pool.row_counts, pool.column_counts
    arrays += (pool.row_cells,)
    if pool.own is not None and not nhwc:
        compiled = _rows_of_planes(op, *pool.own)[pool.dtype]
    else:
        compiled = _pixels(op, pool.side)[pool.dtype]
        arrays += (pool.column_cells,)
    tasks = y.size // (y.shape[1] * y.shape[3]) if nhwc else pool.planes
    _run(pool, threads, tasks, x.size, lambda tickets, _: compiled(*arrays, pool.shape, tickets))
    return True


def max_pool2d_forward_direct__numba(
    pool: Pool, x: Array, y: Array, indices: Array | None, workspace: Any, threads: int
) -> None:
    if not _forward(pool, MAX if indices is None else MAX_INDEXED, x, y, indices, threads):
        max_pool2d_forward_naive__numba(pool, x, y, indices, workspace, threads)


def avg_pool2d_forward_direct__numba(
    pool: Pool, x: Array, y: Array, indices: None, workspace: Any, threads: int
) -> None:
    if not _forward(pool, AVERAGE, x, y, None, threads):
        avg_pool2d_forward_naive__numba(pool, x, y, indices, workspace, threads)


def max_pool2d_backward_direct__numba(
    pool: Pool, dy: Array, indices: Array, dx: Array, workspace: Any, threads: int
) -> None:
    if dx.size == 0:
        return
    outside: list[int] = []
    arrays: tuple[Any, ...] = flat(dy, pool.nhwc), flat(indices, pool.nhwc), flat(dx, pool.nhwc)
    if pool.shape[0]:
        compiled, tasks = _max_gradient_nhwc[pool.dtype], dx.shape[0]
        arrays += (pool.row_cells, pool.column_cells, pool.shape, int(pool.apart))
    else:
        compiled, tasks = _max_gradient_nchw[pool.dtype], pool.planes
        arrays += (pool.shape, int(pool.quads))
    _run(pool, threads, tasks, dx.size, lambda tickets, _: outside.append(compiled(*arrays, tickets)))
    if any(outside):
        raise IndexError("an index is no cell of its plane")


def avg_pool2d_backward_direct__numba(
    pool: Pool, dy: Array, indices: None, dx: Array, workspace: Any, threads: int
) -> None:
    if dx.size == 0:
        return
    arrays: tuple[Any, ...] = flat(dy, pool.nhwc), flat(dx, pool.nhwc), pool.row_shares, pool.column_shares
    if pool.shape[0]:
        compiled, tasks = _avg_gradient_nhwc[pool.dtype], dx.shape[0] * dx.shape[2]
        arrays += (pool.over_rows, pool.over_columns)
    elif pool.quads:
        compiled, tasks = _avg_gradient_2x2[pool.dtype], pool.planes
    elif pool.own is not None:
        k, s = pool.own
        compiled, tasks = _spread_planes(k, s, int(pool.shape[8]) % s)[pool.dtype], pool.planes
        arrays += (pool.over_rows,)
    else:
        avg_pool2d_backward_naive__numba(pool, dy, indices, dx, workspace, threads)
        return
    _run(pool, threads, tasks, dx.size, lambda tickets, _: compiled(*arrays, pool.shape, tickets))


def adaptive_max_pool2d_forward_direct__numba(
    pool: Pool, x: Array, y: Array, indices: Array | None, workspace: Any, threads: int
) -> None:
    max_pool2d_forward_direct__numba(pool, x, y, indices, workspace, threads)


def adaptive_max_pool2d_backward_direct__numba(
    pool: Pool, dy: Array, indices: Array, dx: Array, workspace: Any, threads: int
) -> None:
    max_pool2d_backward_direct__numba(pool, dy, indices, dx, workspace, threads)


def adaptive_avg_pool2d_forward_direct__numba(
    pool: Pool, x: Array, y: Array, indices: None, workspace: Any, threads: int
) -> None:
    avg_pool2d_forward_direct__numba(pool, x, y, indices, workspace, threads)


def adaptive_avg_pool2d_backward_direct__numba(
    pool: Pool, dy: Array, indices: None, dx: Array, workspace: Any, threads: int
) -> None:
    avg_pool2d_backward_direct__numba(pool, dy, indices, dx, workspace, threads)
