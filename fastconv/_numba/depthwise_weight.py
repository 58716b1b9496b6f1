"""The weight gradient of the depthwise convolution: the sums of some taps stay in registers over the pixels of a task.

NHWC: vectors are channels; a task is a block of output rows, whose sums are added in the order of the blocks. NCHW:
vectors are columns; a task is a channel. Filters of 3, 5 and 7 have code of their own, as in depthwise.py.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat, strides
from fastconv._numba.compile import Kernel, kernel
from fastconv._numba.depthwise_tiles import columns_inside, weight_plane, weight_rows
from fastconv._numba.integers import least, most, quotient, remainder, stride_of
from fastconv._numba.tasks import claim, run_phases
from fastconv._numba.vector import distance, get, numbers, put, vector_lanes

Array = np.ndarray


class Weight(NamedTuple):
    """The numbers of a weight gradient; strides (s_ x, d_ dy) in elements."""

    mb: int
    channels: int  # of dy
    multiplier: int
    kh: int
    kw: int
    ih: int
    iw: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int
    oh: int
    ow: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    block: int  # NHWC: output rows of a task, and its channels; output rows of a call of the tile
    block_channels: int
    rows: int
    b_h: int  # NCHW: the copy of a plane with its columns apart: of a row, of the columns of one residue
    b_k: int
    scratch: int  # where a thread's part of the workspace begins, and its elements
    scratch_own: int


weight_numbers = numbers(Weight)


@cache
def _weight_nhwc(na: int, kw: int, sw: int) -> Kernel:
    """Sums of blocks of rows in NHWC for filters of kw columns at stride sw, na rows at once; (1, 1, 1) is for any."""

    @kernel("in1 in1 out1 ints1 int tickets")
    def weight_nhwc(x, dy, scratch, shape, worker, tickets):
        p = weight_numbers(shape)
        parts = quotient(p.channels + p.block_channels - 1, p.block_channels)
        taps = p.kh * p.kw * p.channels
        in_row, in_col = p.s_h, p.s_w
        copy = p.scratch + worker * p.scratch_own
        if p.multiplier > 1:
            in_row, in_col = p.iw * p.channels, p.channels
        for task in claim(tickets):
            block, c = quotient(task, parts), remainder(task, parts) * p.block_channels
            channels = least(p.block_channels, p.channels - c)
            end = least((block + 1) * p.block, p.mb * p.oh)
            sums = block * taps + c
            for tap in range(p.kh * p.kw):
                for n in range(channels):
                    put(scratch, sums + tap * p.channels + n, scratch.dtype.type(0))
            row = block * p.block
            while row < end:
                n, i = quotient(row, p.oh), remainder(row, p.oh)
                rows = least(least(p.rows, end - row), p.oh - i)
                at = n * p.s_n + c
                if p.multiplier > 1:
                    top = i * p.sh - p.ph
                    for r in range(most(0, top), least(p.ih, top + (rows - 1) * p.sh + (p.kh - 1) * p.dh + 1)):
                        for column in range(p.iw):
                            to = copy + (r - top) * in_row + column * p.channels + c
                            for m in range(channels):
                                cell = n * p.s_n + r * p.s_h + column * p.s_w + quotient(c + m, p.multiplier)
                                put(scratch, to + m, get(x, cell))
                    at = distance(x, scratch) + copy + c - top * in_row
                grads = row * p.ow * p.channels + c
                for a in range(0, p.kh, na):
                    for b in range(0, p.kw, kw):
                        tap = sums + (a * p.kw + b) * p.channels
                        column = b * p.dw - p.pw
                        first, last, step = -column, p.iw - column, in_col
                        if kw == 1:
                            first, last = columns_inside(p, column)
                            step *= p.sw
                        weight_rows(
                            na, kw, sw, 0, x, at + column * in_col, dy, grads, scratch, tap,
                            p.kw * p.channels, in_row, step, p.ow * p.channels, p.channels,
                            i * p.sh - p.ph + a * p.dh, p.ih, p.sh, p.dh, first, last, rows, p.ow, channels,
                        )  # fmt: skip
                        weight_rows(
                            na, kw, sw, 1, x, at + column * in_col, dy, grads, scratch, tap,
                            p.kw * p.channels, in_row, step, p.ow * p.channels, p.channels,
                            i * p.sh - p.ph + a * p.dh, p.ih, p.sh, p.dh, first, last, rows, p.ow, channels,
                        )  # fmt: skip
                row += rows

    return weight_nhwc


@kernel("in1 out4 ints1 int")
def _add_blocks(sums, dw, shape, blocks):
    """dw from the sums of the blocks, added in their order."""
    p = weight_numbers(shape)
    taps = p.kh * p.kw
    step = stride_of(dw, 0)
    for tap in range(taps):
        at = quotient(tap, p.kw) * stride_of(dw, 2) + remainder(tap, p.kw) * stride_of(dw, 3)
        for o in range(p.channels):
            total = get(sums, tap * p.channels + o)
            for block in range(1, blocks):
                total += get(sums, (block * taps + tap) * p.channels + o)
            put(dw, at + o * step, total)


@cache
def _weight_nchw(na: int, kw: int, s: int) -> Kernel:
    """The weight gradient in NCHW for filters of kw columns at stride s, na rows at once; (1, 1, 1) is for any.

    One task is one channel.
    """

    @kernel("in1 in1 out4 out1 ints1 int tickets")
    def weight_nchw(x, dy, dw, scratch, shape, worker, tickets):
        p = weight_numbers(shape)
        nr = vector_lanes(scratch)
        sums = worker * p.scratch_own
        copy = sums + na * kw * nr
        for o in claim(tickets):
            for first in range(0, p.kh, na):
                a = least(first, p.kh - na)  # rows that are done twice come out the same
                for b in range(0, p.kw, kw):
                    for n in range(na * kw * nr):
                        put(scratch, sums + n, scratch.dtype.type(0))
                    column = b * p.dw - p.pw
                    for n in range(p.mb):
                        at = n * p.s_n + quotient(o, p.multiplier) * p.s_c
                        row, left = p.s_h, column
                        begin, end = -column, p.iw - column
                        if kw == 1:
                            begin, end = columns_inside(p, column)
                        if kw == 1 and p.sw > 1:
                            for r in range(p.ih):
                                for q in range(remainder(column, p.sw), p.iw, p.sw):
                                    put(scratch, copy + r * p.b_h + quotient(q, p.sw), get(x, at + r * p.s_h + q))
                            at, row, left = distance(x, scratch) + copy, p.b_h, quotient(column, p.sw)
                        weight_plane(
                            na, kw, s, x, at + left, dy, (n * p.channels + o) * p.oh * p.ow, scratch, sums,
                            row, p.ow, a * p.dh - p.ph, p.ih, p.sh, begin, end, p.oh, p.ow,
                        )  # fmt: skip
                    for tap in range(na * kw):
                        total = get(scratch, sums + tap * nr)
                        for lane in range(1, nr):
                            total += get(scratch, sums + tap * nr + lane)
                        dw[o, 0, a + quotient(tap, kw), b + remainder(tap, kw)] = total

    return weight_nchw


@lru_cache(maxsize=256)
def _weight_numbers(p: Conv) -> tuple[Array, tuple[int, int, int], blocking.DepthwiseWeightBlocks]:
    b = blocking.depthwise_weight_blocks(p)
    channels = p.g * p.ocg
    shape = Weight(
        p.mb, channels, p.ocg, p.kh, p.kw, p.ih, p.iw, *strides(p.nhwc, p.g, p.ih, p.iw), p.oh, p.ow,
        p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, b.block, b.channels, b.rows, b.row, 0, b.shared, b.own,
    )  # fmt: skip
    own = 1, 1, 1
    square = p.dtype == "float32" and p.kh == p.kw in (3, 5, 7)
    if square and p.dw == 1 and p.sw <= 2 and (p.nhwc or (p.sh == p.sw and p.dh == 1)):
        own = 3 if p.kw == 3 else 1 if p.nhwc else 2, p.kw, p.sw
    return np.array(shape, np.int64), own, b


def weight_gradient(p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int) -> None:
    if x.size == 0 or dy.size == 0 or dw.size == 0:
        dw[...] = 0
        return
    shape, own, b = _weight_numbers(p)
    scratch, x_flat, dy_flat = workspace.view(p.dtype), flat(x, p.nhwc), flat(dy, p.nhwc)
    if dy.size * p.kh * p.kw < blocking.DEPTHWISE_PARALLEL:
        threads = 1
    if not p.nhwc:
        run = _weight_nchw(*own)[p.dtype]
        run_phases(threads, (p.g * p.ocg, lambda tickets, worker: run(
            x_flat, dy_flat, dw, scratch, shape, worker, tickets)))  # fmt: skip
        return
    run = _weight_nhwc(*own)[p.dtype]
    run_phases(threads, (b.blocks * b.parts, lambda tickets, worker: run(
        x_flat, dy_flat, scratch, shape, worker, tickets)))  # fmt: skip
    _add_blocks[p.dtype](scratch, dw, shape, b.blocks)
