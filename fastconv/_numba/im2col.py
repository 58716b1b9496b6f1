"""im2col and GEMM without the matrix: forward and input gradient; float32 and float64. (Weights: im2col_weight.py.)

Forward and input gradient are the same gather convolution,

    out[o][i][j] = sum over taps t and channels c of w[o][c][t] * in[c][i * sh + th[t]][j * sw + tw[t]],

once for the forward pass, once for each residue class (row mod sh, column mod sw) of the input gradient.

NHWC: rows of the micro-kernel are pixels, columns are output channels. A row of the matrix is some runs of contiguous
elements of the image, read where a table says they lie (Dukhan 2019, "The Indirect Convolution Algorithm"); runs that
reach into the padding lie in a panel beside it. NCHW: rows are output channels, columns are pixels, a block of which is
unrolled into a panel of cache size (CONVGEMM, San Juan et al. 2020).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._numba import Conv, blocking, naive
from fastconv._numba.arrays import carve, flat, limits, optional, optional_flat, strides
from fastconv._numba.compile import kernel
from fastconv._numba.gemm import TILE_ROWS, columns, gemm_indirect, gemm_rows
from fastconv._numba.im2col_pixels import PIXEL, TAP, TARGET, find_runs, locate, store_columns, unroll_columns
from fastconv._numba.im2col_weight import weight_gradient
from fastconv._numba.integers import least, quotient, remainder, stride_of
from fastconv._numba.moves import all_finite, turn
from fastconv._numba.packing import PackedWeights, holds_weights, room
from fastconv._numba.tasks import Phase, claim, run_phases
from fastconv._numba.vector import (
    copy_rows,
    copy_run,
    finish_run,
    get,
    numbers,
    panel_columns,
    put,
    zero_rows,
)

Array = np.ndarray


# Output channels of a task of packing (NCHW).
PACKED_ROWS = 32


class Gather(NamedTuple):
    """The numbers of one gather convolution; strides (s_ source, d_ destination) in elements."""

    mb: int
    groups: int
    outs: int  # output channels of a group
    ins: int  # input channels of a group
    taps: int
    ih: int  # source rows and columns
    iw: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int
    oh: int  # destination rows and columns, of this residue class
    ow: int
    d_n: int
    d_c: int
    d_h: int
    d_w: int
    first: int  # where the class begins
    sh: int
    sw: int
    block: int  # pixels of a block
    channels: int  # input channels and taps of a block of the reduction
    taps_block: int
    together: int  # taps of a run: those of a filter row that follow each other in memory, or 1
    dense: int  # whether destinations follow each other in the order of the pixels
    sums: int  # NCHW: unfinished outputs of a thread, after which come zeros
    stride: int  # NCHW: from output channel to output channel of the packed weights


gather_numbers = numbers(Gather)

# --------------------------------------------------------------------------------------------------------
# Packing the weights. The reduction runs over blocks of channels, blocks of taps; in these over taps and channels in
# NHWC, over channels and taps in NCHW.


@kernel("in5 out1 outints1 ints1 ints1 int tickets")
def _pack_columns(w, packed, bad, shape, taps, check, tickets):
    """NHWC: packed[group][panel][k][column], output channels as columns, zeros beyond the last. With `check`: bad[0]
    becomes 1 where one is not finite."""
    p = gather_numbers(shape)
    nr = panel_columns(packed)
    panels = quotient(p.outs + nr - 1, nr)
    s_g, s_o, s_c, s_a, s_b = stride_of(w, 0), stride_of(w, 1), stride_of(w, 2), stride_of(w, 3), stride_of(w, 4)
    for task in claim(tickets):
        group, o = quotient(task, panels), remainder(task, panels) * nr
        count = least(nr, p.outs - o)
        to = task * p.taps * p.ins * nr
        for c0 in range(0, p.ins, p.channels):
            channels = least(p.channels, p.ins - c0)
            for t in range(p.taps):  # blocks of taps follow each other within a block of channels
                tap = get(taps, TAP * t) * s_a + get(taps, TAP * t + 1) * s_b
                at = group * s_g + o * s_o + c0 * s_c + tap
                if count < nr:
                    zero_rows(packed, to, nr, channels, nr)
                if s_o == 1 or count == 1:  # HWIO
                    copy_rows(w, at, s_c, packed, to, nr, channels, count)
                else:
                    turn(w, at, s_o, s_c, packed, to, nr, count, channels)
                to += channels * nr
        if check and not all_finite(packed, to - p.taps * p.ins * nr, to):
            put(bad, 0, 1)


@kernel("in5 out1 outints1 ints1 ints1 int tickets")
def _pack_rows(w, packed, bad, shape, taps, check, tickets):
    """NCHW: packed[group][output channel][k], rows `p.stride` apart. With `check`: bad[0]
    becomes 1 where one is not finite."""
    p = gather_numbers(shape)
    nr = panel_columns(packed)
    s_g, s_o, s_c, s_a, s_b = stride_of(w, 0), stride_of(w, 1), stride_of(w, 2), stride_of(w, 3), stride_of(w, 4)
    in_order = p.taps == 1 or s_c == p.taps  # as in memory: filters of OIHW one after the other
    for t in range(p.taps):
        in_order &= p.taps == 1 or get(taps, TAP * t) * s_a + get(taps, TAP * t + 1) * s_b == t
    turned = p.taps == 1 and s_c != 1 and s_o == 1  # filters lie side by side
    for task in claim(tickets):
        chunks = quotient(p.outs + PACKED_ROWS - 1, PACKED_ROWS)
        group, first = quotient(task, chunks), remainder(task, chunks) * PACKED_ROWS
        rows = least(PACKED_ROWS, p.outs - first)
        to = (group * p.outs + first) * p.stride
        at = group * s_g + first * s_o + get(taps, 0) * s_a + get(taps, 1) * s_b
        if turned:
            turn(w, at, s_c, 1, packed, to, p.stride, p.ins, rows)
        for row in range(0 if turned else rows):
            from_, place = at + row * s_o, to + row * p.stride
            if in_order and (p.taps > 1 or s_c == 1):
                for k in range(0, p.taps * p.ins, nr):
                    copy_run(w, from_ + k, packed, place + k, p.taps * p.ins - k)
                continue
            for t in range(p.taps):
                tap = from_ + (get(taps, TAP * t) - get(taps, 0)) * s_a + (get(taps, TAP * t + 1) - get(taps, 1)) * s_b
                for c in range(p.ins):
                    put(packed, place + c * p.taps + t, get(w, tap + c * s_c))
        if check:
            for row in range(rows):
                if not all_finite(packed, to + row * p.stride, to + row * p.stride + p.taps * p.ins):
                    put(bad, 0, 1)


# --------------------------------------------------------------------------------------------------------
# The gather convolution


@kernel("in1 in1 in1 in1 out1 out1 out1 outints1 ints1 ints1 scalar scalar int tickets")
def _gather_nhwc(x, packed, bias, residual, y, panel, sums, table, shape, taps, low, high, parts, tickets):
    """A task is one of so many parts of the panels of output channels, for a block of pixels of a group."""
    p = gather_numbers(shape)
    nr = panel_columns(panel)
    panels = quotient(p.outs + nr - 1, nr)
    pixels = p.mb * p.oh * p.ow
    depth = p.taps * p.ins
    one_pass = p.channels >= p.ins and p.taps_block >= p.taps
    zero = sums.dtype.type(0)
    runs = table[PIXEL * p.block :]
    its_bias = bias if bias.size > 0 else panel  # which begins with zeros
    for task in claim(tickets):
        part, number = remainder(task, parts), quotient(task, parts)
        group, first = remainder(number, p.groups), quotient(number, p.groups) * p.block
        count = least(p.block, pixels - first)
        locate(table, 0, p, first, count)
        find_runs(x, 0, panel, 0, runs, 0, table, 0, taps, 0, p, group, count)
        # int64, not the literal 0: the helpers would be compiled for both.
        c0: Any = np.int64(0)
        t0: Any = np.int64(0)
        k0: Any = np.int64(0)
        while True:
            count_c, t1 = least(p.channels, p.ins - c0), least(t0 + p.taps_block, p.taps)
            k = (t1 - t0) * count_c
            last = k0 + k >= depth
            for s in range(quotient(panels * part, parts), quotient(panels * (part + 1), parts)):
                o = group * p.outs + s * nr
                width = least(nr, p.outs - s * nr)
                at = 0 if one_pass else s * p.block * nr
                # whole panels of outputs that follow each other, pixel after pixel, are finished in registers
                direct = last and p.dense and width == nr and residual.size == 0
                target, to, step = (y, get(table, TARGET) + o, p.d_w) if direct else (sums, at, nr)
                gemm_indirect(
                    x, c0, runs, quotient(t0, p.together) * p.block, p.block,
                    packed, ((group * panels + s) * depth + k0) * nr,
                    sums, at, nr, count, quotient(t1 - t0, p.together), count_c * p.together, k0 > 0,
                    target, to, step, direct, its_bias, o if bias.size > 0 else 0, low, high,
                )  # fmt: skip
                if last and not direct:
                    for q in range(count):
                        to = get(table, PIXEL * q + TARGET) + o
                        finish_run(
                            sums, at + q * nr, bias, o, bias.size > 0, zero, residual, to, residual.size > 0,
                            y, to, width, low, high,
                        )  # fmt: skip
            if last:
                break
            k0 += k
            t0 = t1
            if t0 == p.taps:
                t0, c0 = 0, c0 + count_c


@kernel("in1 in1 in1 in1 out1 out1 out1 outints1 ints1 ints1 scalar scalar int tickets")
def _gather_nchw(x, packed, bias, residual, y, panel, sums, table, shape, taps, low, high, parts, tickets):
    """A task is one of so many parts of the output channels, for a block of pixels of a group."""
    p = gather_numbers(shape)
    nr = panel_columns(panel)
    pixels = p.mb * p.oh * p.ow
    depth = p.taps * p.ins
    one_pass = p.channels >= p.ins and p.taps_block >= p.taps
    zeros = sums[p.sums :]
    tiles = quotient(p.outs + TILE_ROWS - 1, TILE_ROWS)
    its_bias = bias if bias.size > 0 else zeros
    for task in claim(tickets):
        part, number = remainder(task, parts), quotient(task, parts)
        group, first = remainder(number, p.groups), quotient(number, p.groups) * p.block
        count = least(p.block, pixels - first)
        strips = quotient(count + nr - 1, nr)
        first_o = quotient(tiles * part, parts) * TILE_ROWS
        last_o = least(p.outs, quotient(tiles * (part + 1), parts) * TILE_ROWS)
        locate(table, 0, p, first, count)
        for r in range(zeros.size):
            put(zeros, r, sums.dtype.type(0))
        # int64, not the literal 0: the helpers would be compiled for both.
        c0: Any = np.int64(0)
        t0: Any = np.int64(0)
        k0: Any = np.int64(0)
        while True:
            count_c, t1 = least(p.channels, p.ins - c0), least(t0 + p.taps_block, p.taps)
            k = (t1 - t0) * count_c
            unroll_columns(x, 0, panel, 0, table, 0, taps, 0, p, t0, t1, group * p.ins + c0, count_c, count)
            last = k0 + k >= depth
            for strip in range(strips):
                q, end = strip * nr, least(strip * nr + nr, count)
                target_q, target_end = get(table, PIXEL * q + TARGET), get(table, PIXEL * (end - 1) + TARGET)
                # whole strips of outputs that follow each other are finished in registers
                follow = end - q == nr and target_end - target_q == nr - 1
                direct = last and follow and p.d_w == 1 and residual.size == 0
                height = last_o - first_o if direct else TILE_ROWS
                for o in range(first_o, last_o, height):
                    rows = least(height, last_o - o)
                    at = (0 if one_pass else o * p.block) + q
                    target, to, step = sums, at, p.block
                    if direct:
                        target, to, step = y, target_q + (group * p.outs + o) * p.d_c, p.d_c
                    gemm_rows(
                        packed, (group * p.outs + o) * p.stride + k0, p.stride, panel, q * k, sums, at, p.block, rows,
                        k, k0 > 0, target, to, step, direct, its_bias, group * p.outs + o if bias.size > 0 else -1,
                        low, high,
                    )  # fmt: skip
                    if last and not direct:
                        store_columns(
                            sums, at, bias, group * p.outs + o, residual, y, table, q, p, rows, end - q, low, high
                        )
            if last:
                break
            k0 += k
            t0 = t1
            if t0 == p.taps:
                t0, c0 = 0, c0 + count_c


@lru_cache(maxsize=256)
def _gathers(p: Conv, backward: bool) -> tuple[tuple[Array, Array, blocking.GatherBlocks, int], ...]:
    """For each residue class: its Gather as an array, its taps (filter row, column, source row, column), its blocks
    and tasks."""
    outs, ins = (p.icg, p.ocg) if backward else (p.ocg, p.icg)
    source_hw, target_hw = ((p.oh, p.ow), (p.ih, p.iw)) if backward else ((p.ih, p.iw), (p.oh, p.ow))
    step_h, step_w = (p.sh, p.sw) if backward else (1, 1)
    d_n, d_c, d_h, d_w = strides(p.nhwc, p.g * outs, *target_hw)
    found = []
    row_axes, column_axes = blocking.axes(p, backward)
    for rows in row_axes:
        for cols in column_axes:
            b = blocking.class_blocks(p, backward, rows, cols)
            taps = [
                (ta, tb, th, tw)
                for th, ta in sorted(zip(rows.offsets, rows.taps))
                for tw, tb in sorted(zip(cols.offsets, cols.taps))
            ]
            gather = Gather(
                p.mb, p.g, outs, ins, len(taps), *source_hw, *strides(p.nhwc, p.g * ins, *source_hw),
                rows.size, cols.size, d_n, d_c, d_h * step_h, d_w * step_w, rows.first * d_h + cols.first * d_w,
                1 if backward else p.sh, 1 if backward else p.sw, b.pixels, b.channels, b.taps,
                b.together, int(step_h == step_w == 1), b.sums - blocking.MAX_COLUMNS,
                blocking.row_stride(len(taps) * ins, blocking.ITEMSIZE[p.dtype]),
            )  # fmt: skip
            tasks = p.g * blocking.ceil_div(p.mb * rows.size * cols.size, b.pixels)
            found.append((np.array(gather, np.int64), np.array(taps, np.int64).reshape(-1), b, tasks))
    return tuple(found)


@lru_cache(maxsize=256)
def empty_class(p: Conv) -> bool:
    """Whether some cells of the input gradient are reached by no tap."""
    rows, cols = blocking.axes(p, True)
    return len(rows) < min(p.sh, p.ih) or len(cols) < min(p.sw, p.iw)


def fill_empty(p: Conv, y: Array, bias: Array | None, residual: Array | None) -> None:
    """The value of an empty sum everywhere."""
    y[...] = 0
    if bias is not None:
        y += bias[:, None, None]
    if residual is not None:
        y += residual
    low, high = limits(p)
    np.maximum(y, low, out=y)
    np.minimum(y, high, out=y)


def _packing(p: Conv, backward: bool, w5: Array, packed: Array, shape: Array, taps: Array, bad: Array) -> Phase:
    """The phase that packs the weights of a gather; bad[0] becomes 1 where they are not finite (backward)."""
    pack = (_pack_columns if p.nhwc else _pack_rows)[p.dtype]
    units = p.g * blocking.ceil_div(w5.shape[1], columns(p.dtype) if p.nhwc else PACKED_ROWS)
    return units, lambda tickets, worker: pack(w5, packed, bad, shape, taps, int(backward), tickets)


def _convolve(
    p: Conv, backward: bool, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    held: PackedWeights | None = None,
) -> None:  # fmt: skip
    if y.size == 0:
        return
    if backward and empty_class(p):
        fill_empty(p, y, bias, residual)
    w5 = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)  # splits an axis: a view for any strides
    if backward:
        w5 = w5.transpose(0, 2, 1, 3, 4)
    low, high = limits(p)
    x_flat, y_flat = flat(x, p.nhwc), flat(y, p.nhwc)
    bias_flat, residual_flat = optional(bias, 1, p.dtype), optional_flat(residual, p.nhwc, p.dtype)
    gather = (_gather_nhwc if p.nhwc else _gather_nchw)[p.dtype]
    not_finite = np.zeros(1, np.int64)  # written by kernels: a thread's result would come after its last task
    phases: list[Phase] = []
    for shape, taps, b, tasks in _gathers(p, backward):
        (packed,), (panel, sums), table = carve(
            workspace, p.dtype, [0 if held else b.weights], threads, [b.panel, b.sums], threads,
            blocking.lines(b.table, 8),
        )  # fmt: skip
        if held:
            packed = held.data
        else:
            phases.append(_packing(p, backward, w5, packed, shape, taps, not_finite))

        # Of few blocks of pixels the threads share the output channels, too; each output is computed as by one thread.
        parts = blocking.gather_parts(tasks, w5.shape[1], threads)

        def gather_pixels(
            tickets: Array, worker: int, packed=packed, panel=panel, sums=sums, table=table, shape=shape, taps=taps,
            parts=parts,
        ) -> None:  # fmt: skip
            gather(
                x_flat, packed, bias_flat, residual_flat, y_flat, panel[worker], sums[worker], table[worker],
                shape, taps, low, high, parts, tickets,
            )  # fmt: skip

        phases.append((tasks * parts, gather_pixels))
    run_phases(threads, *phases)
    if not_finite[0]:
        # The padding that the gather form reads is no term of the gradient: 0 * Inf there must not make a NaN.
        naive.backward_input(p, x, w, bias, residual, y, threads, only_nan=True)


def _pack_weights(p: Conv, w: Array, threads: int) -> PackedWeights:
    """The weights of forward calls."""
    ((shape, taps, b, _),) = _gathers(p, False)
    packed = room(b.weights, p.dtype)
    w5 = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
    run_phases(threads, _packing(p, False, w5, packed, shape, taps, np.zeros(1, np.int64)))
    return PackedWeights(packed)


@holds_weights(_pack_weights, lambda p, threads: blocking.im2col_bytes(p, "forward", threads, packed=True))
def conv2d_forward_im2col__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_im2col__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, dy, w, bias, residual, dx, workspace, threads)


def conv2d_backward_weight_im2col__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, x, dy, dw, workspace, threads)
