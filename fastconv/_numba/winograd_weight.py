"""Winograd's weight gradient at stride 1, the adjoint of its bilinear form:

    dw = G^T [ sum over tiles of (B^T x B) (A dy A^T) ] G

Tiles are taken in blocks that stay in cache: some are transformed to V[point][tile][c] and M[point][tile][k], then one
GEMM a point adds to dU[point][c][k]; after the last block dU is transformed back. Nobody adds to what another thread
adds to, and the order of the sums is fixed. As csrc/winograd_weight.c.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv import winograd
from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat, layout_flags
from fastconv._numba.compile import kernel
from fastconv._numba.im2col import conv2d_backward_weight_im2col__numba
from fastconv._numba.integers import least, quotient, remainder
from fastconv._numba.tasks import Run, claim, run_phases
from fastconv._numba.vector import copy, get, numbers, put, vector_lanes
from fastconv._numba.winograd_calls import call_outer, call_scatter, call_taps, functions
from fastconv._numba.winograd_filters import filters_numbers, filters_of
from fastconv._numba.winograd_input import (
    source_numbers,
    source_of,
    transform_channels_last,
    transform_planes,
)

Array = np.ndarray

# Tiles of one task of the transforms, and output channels of one task of the products.
TILES = blocking.WINOGRAD_INPUT_TILES
CHANNELS = blocking.WINOGRAD_CHANNELS
TERMS = blocking.DEPTH_TERMS


class Shape(NamedTuple):
    """The numbers of one weight gradient beside those of its Sources; strides in elements."""

    weights: int  # addresses, as winograd_calls.py gives them
    outer: int
    scatter: int
    m_at: int  # where the parts of the workspace begin: V, M, dU, and scratch of the first thread
    u_at: int
    scratch_at: int
    scratch: int  # from thread to thread
    outs: int  # channels of a group
    kh: int
    kw: int
    u_row: int
    u_point: int


shape_numbers = numbers(Shape)


@kernel("in1 in1 out1 nhwc nchw ints1 ints1 ints1 int int int int tickets")
def _transform(x, dy, memory, nhwc, nchw, inputs, outputs, shape, group, start, end, worker, tickets):
    """V and M of tiles start..end."""
    s = source_numbers(inputs)
    d = source_numbers(outputs)
    p = shape_numbers(shape)
    scratch = p.scratch_at + worker * p.scratch
    for task in claim(tickets):
        first = start + task * TILES
        last = least(end, first + TILES)
        to_v, to_m = (first - start) * s.row, p.m_at + (first - start) * d.row
        if nhwc is not None:
            transform_channels_last(x, memory, to_v, scratch, s, group, first, last)
            transform_channels_last(dy, memory, to_m, scratch, d, group, first, last)
        if nchw is not None:
            transform_planes(x, memory, to_v, scratch, s, group, first, last)
            transform_planes(dy, memory, to_m, scratch, d, group, first, last)


@kernel("out1 ints1 ints1 ints1 int int tickets")
def _multiply(memory, inputs, outputs, shape, tiles, accumulate, tickets):
    """dU of one point and some output channels."""
    s = source_numbers(inputs)
    d = source_numbers(outputs)
    p = shape_numbers(shape)
    blocks = quotient(p.outs + CHANNELS - 1, CHANNELS)
    for task in claim(tickets):
        point, k = quotient(task, blocks), remainder(task, blocks) * CHANNELS
        call_outer(
            p.outer, memory, point * s.point, s.row, memory, p.m_at + point * d.point + k, d.row,
            memory, p.u_at + point * p.u_point + k, p.u_row,
            s.channels, least(CHANNELS, p.outs - k), tiles, TERMS, accumulate,
        )  # fmt: skip


@kernel("out1 out5 outints1 ints1 ints1 in1 int int tickets")
def _transform_back(memory, dw, bad, shape, filters, nothing, group, worker, tickets):
    """dw of one input channel; bad[0] becomes 1 where it is not finite."""
    p = shape_numbers(shape)
    f = filters_numbers(filters)
    lanes = vector_lanes(memory)
    taps = p.scratch_at + worker * p.scratch
    cells = p.kh * p.kw
    for c in claim(tickets):
        for k in range(0, p.outs, lanes):
            count = least(lanes, p.outs - k)
            if call_taps(p.weights, memory, p.u_at + c * p.u_row + k, p.u_point, lanes, memory, taps):
                put(bad, 0, 1)
            to = group * f.g + k * f.o + c * f.c
            if f.step == 1:  # OIHW
                call_scatter(p.scatter, memory, taps, cells, count, nothing, 0, -np.inf, np.inf, dw, to, f.o)
                continue
            for t in range(cells):
                place = to + quotient(t, p.kw) * f.a + remainder(t, p.kw) * f.b
                if f.o == 1:  # HWIO
                    copy(memory, taps + t * lanes, dw, place, count)
                    continue
                for o in range(count):
                    put(dw, place + o * f.o, get(memory, taps + t * lanes + o))


@lru_cache(maxsize=256)
def _numbers(p: Conv, tile: str) -> tuple[Array, Array, Array, blocking.WinogradGradientBlocks]:
    """Sources of x and dy, and Shape, as arrays; and the blocks."""
    b = blocking.winograd_gradient_blocks(p, winograd.TILES[tile][0])
    grid = b.grid
    call = functions(tile, p.dtype, "weight", "weight_moves")

    inputs = source_of(
        p, grid, call["input"], call["gather"], p.icg, (p.ih, p.iw), (p.ph, p.pw), (grid.alpha_h, grid.alpha_w),
        b.v_row, b.v_point,
    )  # fmt: skip
    outputs = source_of(
        p, grid, call["output_adjoint"], call["gather"], p.ocg, (p.oh, p.ow), (0, 0), (grid.tile_h, grid.tile_w),
        b.m_row, b.m_point,
    )  # fmt: skip
    m_at, u_at = grid.points * b.v_point, grid.points * (b.v_point + b.m_point)
    shape = Shape(
        call["weights_adjoint"], call["outer"], call["scatter"], m_at, u_at, u_at + grid.points * b.u_point, b.scratch,
        p.ocg, p.kh, p.kw, b.u_row, b.u_point,
    )  # fmt: skip
    return inputs, outputs, np.array(shape, np.int64), b


def weight_gradient(p: Conv, tile: str, x: Array, dy: Array, dw: Array, workspace: Any, threads: int) -> None:
    """dw of the tile; where a sum is not finite, or there are none, that of im2col."""
    if x.size == 0 or dy.size == 0 or dw.size == 0:
        conv2d_backward_weight_im2col__numba(p, x, dy, dw, workspace, threads)
        return
    inputs, outputs, shape, b = _numbers(p, tile)
    end = blocking.lines(b.elements(threads), x.itemsize) * x.itemsize
    memory, bad = workspace[:end].view(p.dtype), workspace[end : end + 8].view(np.int64)
    bad[0] = 0
    dw5 = dw.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
    filters = filters_of(dw5)
    x_flat, dy_flat = flat(x, p.nhwc), flat(dy, p.nhwc)
    flags, nothing = layout_flags(p.nhwc), np.zeros(0, p.dtype)
    transform, multiply, transform_back = _transform[p.dtype, p.nhwc], _multiply[p.dtype], _transform_back[p.dtype]
    phases: list[tuple[int, Run]] = []

    def add_block(group: int, start: int, end: int) -> None:
        def transforms(tickets: Array, worker: int) -> None:
            transform(x_flat, dy_flat, memory, *flags, inputs, outputs, shape, group, start, end, worker, tickets)

        def products(tickets: Array, worker: int) -> None:
            multiply(memory, inputs, outputs, shape, end - start, int(start > 0), tickets)

        phases.append((blocking.ceil_div(end - start, TILES), transforms))
        phases.append((b.grid.points * blocking.ceil_div(p.ocg, CHANNELS), products))

    for group in range(p.g):
        for start in range(0, b.grid.tiles, b.tiles):
            add_block(group, start, min(b.grid.tiles, start + b.tiles))

        def back(tickets: Array, worker: int, group: int = group) -> None:
            transform_back(memory, dw5, bad, shape, filters, nothing, group, worker, tickets)

        phases.append((p.icg, back))
    run_phases(threads, *phases)
    if bad[0]:
        conv2d_backward_weight_im2col__numba(p, x, dy, dw, workspace, threads)
