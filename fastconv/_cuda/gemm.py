"""A tile of a product of matrices: slices in shared memory, an outer product a step in each thread's registers.

A block computes rows x columns of C = A^T B from slices of DEPTH rows of A and of B in shared memory; there are two of
each, so that one is multiplied while the next is stored. A warp is 4 x 8 threads; each has quads of four rows and of
four columns, so its loads from shared memory are 16 bytes wide and meet no bank twice. With 8 x 8 results a thread
makes 64 multiply-adds for four such loads: the arithmetic units set the pace, not shared memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from fastconv._cuda.compiler import device, float32, float64, load4, select
from fastconv._cuda.sizes import DEPTH, Tile

# Rows and columns of a warp, in threads; elements of a quad.
WARP_ROWS, WARP_COLUMNS, QUAD = 4, 8, 4

TYPES: dict[str, Any] = {"float32": float32, "float64": float64}


@lru_cache(maxsize=16)
def corner_of(tile: Tile) -> tuple[Any, Any]:
    """Functions of a thread's number: its first row, and its first column, in the tile."""
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


@lru_cache(maxsize=16)
def multiply_of(tile: Tile) -> Any:
    """A function that adds the products of one slice to `sums`; s[row:] and s[column:] are the thread's first cells of
    the slices, a and b its registers for one step."""
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


@lru_cache(maxsize=16)
def rounds_of(tile: Tile, by_row: bool) -> Rounds:
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
