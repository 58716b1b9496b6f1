"""A tile of a product of matrices: slices in shared memory, an outer product a step in each thread's registers.

A block computes rows x columns of C = A^T B from slices of DEPTH rows of A and of B in shared memory; there are two of
each, so that one is multiplied while the next is stored. A warp is 4 x 8 threads; each has quads of four rows and of
four columns, so its loads from shared memory are 16 bytes wide and meet no bank twice. With 8 x 8 results a thread
makes 64 multiply-adds for four such loads: the arithmetic units set the pace, not shared memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from fastconv._cuda import compiler
from fastconv._cuda.compiler import SIMULATED, cuda, device, float32, float64, load4, select
from fastconv._cuda.sizes import DEPTH, Tile

# Rows and columns of a warp, in threads; elements of a quad.
WARP_ROWS, WARP_COLUMNS, QUAD = 4, 8, 4
# Most registers of a thread with so many results: 512 threads then share a multiprocessor. With fewer results it takes
# fewer, and a limit would let the compiler take more.
REGISTERS, MANY_RESULTS = 128, 64
# Results of a warp on tensor cores.
TENSOR_ROWS, TENSOR_COLUMNS = 32, 64

multiply_tensor: Any = getattr(compiler, "multiply_tensor", None)  # the simulator has none

TYPES: dict[str, Any] = {"float32": float32, "float64": float64}


def _tensor_corner(tile: Tile) -> tuple[Any, Any]:
    warps = tile.columns // TENSOR_COLUMNS

    @device
    def first_row(t):
        return t // 32 // warps * TENSOR_ROWS + t % 32 // 4

    @device
    def first_column(t):
        return t // 32 % warps * TENSOR_COLUMNS + t % 4 * 2

    return first_row, first_column


@lru_cache(maxsize=16)
def corner_of(tile: Tile) -> tuple[Any, Any]:
    """Functions of a thread's number: its first row, and its first column, in the tile."""
    if tile.tensor:
        return _tensor_corner(tile)
    warps = tile.columns // (WARP_COLUMNS * tile.thread_columns)
    high, wide = WARP_ROWS * tile.thread_rows, WARP_COLUMNS * tile.thread_columns

    @device
    def first_row(t):
        return t // 32 // warps * high + t % 32 // WARP_COLUMNS * QUAD

    @device
    def first_column(t):
        return t // 32 % warps * wide + t % WARP_COLUMNS * QUAD

    return first_row, first_column


@device
def row_of(r):
    """The r-th row of a thread, from its first."""
    return r // QUAD * (WARP_ROWS * QUAD) + r % QUAD


@device
def column_of(c):
    return c // QUAD * (WARP_COLUMNS * QUAD) + c % QUAD


def _tensor_multiply(tile: Tile) -> Any:
    """As multiply_of, on tensor cores: a warp has 32 x 64 results, thread (g, q) = (lane // 4, lane % 4) rows g + 8 r
    and columns 8 n + 2 q, 8 n + 2 q + 1. In the simulator the same results, one by one."""
    row_stride, column_stride, wide = tile.row_stride, tile.column_stride, tile.thread_columns

    if SIMULATED:

        def one_by_one(s, row, column, a, b, sums):
            for k in range(DEPTH):
                for r in range(tile.thread_rows):
                    for c in range(wide):
                        at = column + k * column_stride + c // 2 * 8 + c % 2
                        sums[r * wide + c] += s[row + k * row_stride + 8 * r] * s[at]

        return one_by_one

    @device
    def multiply(s, row, column, a, b, sums):
        q = cuda.laneid % 4
        for r in range(4):  # rows g + 8 r at depths q and q + 4
            a[r] = s[row + q * row_stride + 8 * r]
            b[r] = s[row + (q + 4) * row_stride + 8 * r]
        first = column - 2 * q + cuda.laneid // 4
        for n in range(wide // 2):
            b0, b1 = s[first + q * column_stride + 8 * n], s[first + (q + 4) * column_stride + 8 * n]
            for m in range(2):
                one, two = 2 * m * wide + 2 * n, (2 * m + 1) * wide + 2 * n
                sums[one], sums[one + 1], sums[two], sums[two + 1] = multiply_tensor(
                    sums[one], sums[one + 1], sums[two], sums[two + 1],
                    a[2 * m], a[2 * m + 1], b[2 * m], b[2 * m + 1], b0, b1,
                )  # fmt: skip

    return multiply


@lru_cache(maxsize=16)
def multiply_of(tile: Tile) -> Any:
    """A function that adds the products of one slice to `sums`; s[row:] and s[column:] are the thread's first cells of
    the slices, a and b its registers for one step."""
    if tile.tensor:
        return _tensor_multiply(tile)
    high, wide = tile.thread_rows, tile.thread_columns
    row_stride, column_stride = tile.row_stride, tile.column_stride
    row_quads, column_quads = high // QUAD, wide // QUAD
    next_rows, next_columns = WARP_ROWS * QUAD, WARP_COLUMNS * QUAD

    @device
    def multiply(s, row, column, a, b, sums):
        for k in range(DEPTH):
            for q in range(row_quads):
                a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3] = load4(s, row + k * row_stride + q * next_rows)
            for q in range(column_quads):
                at = column + k * column_stride + q * next_columns
                b[4 * q], b[4 * q + 1], b[4 * q + 2], b[4 * q + 3] = load4(s, at)
            for i in range(high):
                for j in range(wide):
                    sums[i * wide + j] += a[i] * b[j]

    return multiply


class Rounds(NamedTuple):
    """How a block hands its results over, one row (or column) of each thread in a round: through shared memory, so that
    neighbouring threads write neighbours. There is room for two rounds, so one barrier a round will do."""

    keep: Any  # (s, sums, round, t): this thread's part of a round into shared memory
    row_of_slot: Any  # (slot, round): row of the tile; or column_of_slot
    slots: int  # rows (columns) of a round
    stride: int  # elements from one of them to the next in shared memory
    rounds: int


def _tensor_rounds(tile: Tile) -> Rounds:
    """By columns: warps with 4 threads beside each other have as many in a round."""
    warps = tile.columns // TENSOR_COLUMNS
    slots, stride, wide = 4 * warps, tile.row_stride, tile.thread_columns
    half = slots * stride
    first_row, _ = corner_of(tile)

    @device
    def keep(s, sums, r, t):
        at = r % 2 * half + (t // 32 % warps * 4 + t % 4) * stride + first_row(t)
        for e in range(4):
            value = sums[e * wide]
            for other in range(1, 16):
                value = select(other == r, sums[e * wide + other], value)
            s[at + 8 * e] = value

    @device
    def of_slot(slot, r):
        return slot // 4 * TENSOR_COLUMNS + r // 2 * 8 + slot % 4 * 2 + r % 2

    return Rounds(keep, of_slot, slots, stride, wide)


@lru_cache(maxsize=16)
def rounds_of(tile: Tile, by_row: bool) -> Rounds:
    if tile.tensor:
        assert not by_row
        return _tensor_rounds(tile)
    warps = tile.columns // (WARP_COLUMNS * tile.thread_columns)
    high, wide = tile.thread_rows, tile.thread_columns
    first_row, first_column = corner_of(tile)
    if by_row:
        count, along, stride = high, wide, tile.column_stride
        slots, lanes = tile.rows // high, WARP_ROWS
        one, next_one = wide, 1  # elements of `sums` from one round to the next, and within a round
    else:
        count, along, stride = wide, high, tile.row_stride
        slots, lanes = tile.columns // wide, WARP_COLUMNS
        one, next_one = 1, wide
    half = slots * stride
    assert 2 * half <= tile.slices, "two rounds fit into the slices' memory"

    @device
    def keep(s, sums, r, t):
        if by_row:
            at = t // 32 // warps * WARP_ROWS + t % 32 // WARP_COLUMNS
            at = r % 2 * half + at * stride + first_column(t)
        else:
            at = t // 32 % warps * WARP_COLUMNS + t % WARP_COLUMNS
            at = r % 2 * half + at * stride + first_row(t)
        for e in range(along):
            # sums[r] of a variable r would push all of them out of the registers
            value = sums[e * next_one]
            for other in range(1, count):
                value = select(other == r, sums[other * one + e * next_one], value)
            s[at + (column_of(e) if by_row else row_of(e))] = value

    @device
    def of_slot(slot, r):
        return slot // lanes * (lanes * count) + slot % lanes * QUAD + (row_of(r) if by_row else column_of(r))

    return Rounds(keep, of_slot, slots, stride, count)
