"""Winograd's F(m x m, r x r) and F(m, r): forward and input gradient at stride 1, float32 and float64.

Fused for each block of tiles, which stays in cache (Gelashvili et al. 2019, arXiv 1912.02165): the input transform
writes V[point][tile][channel], for each block of output channels one small GEMM a point gives M[point][tile][channel],
and the inverse transform ends in the epilogue. Few tiles under large weights: V holds all of them, and the threads
share the output channels. The input gradient is the same with flipped weights, their channels exchanged. The loops are
compiled once for all tiles; the transforms are called by address (winograd_calls.py). As csrc/winograd.c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from fastconv import winograd
from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat, layout_flags, limits, optional, optional_flat, strides
from fastconv._numba.compile import CONTRACT, jit, kernel
from fastconv._numba.gemm import TILE_ROWS, columns
from fastconv._numba.integers import least, quotient, remainder
from fastconv._numba.packing import PackedWeights, holds_weights, room
from fastconv._numba.tasks import Run, claim, run_phases
from fastconv._numba.vector import distance, get, numbers, panel_columns, put
from fastconv._numba.winograd_adjoint import adjoint_input_gradient
from fastconv._numba.winograd_calls import (
    call_products,
    functions,
)
from fastconv._numba.winograd_filters import filters_numbers, filters_of, pack_channels, pack_chunk, pack_tasks
from fastconv._numba.winograd_input import (
    source_numbers,
    source_of,
    transform_channels_last,
    transform_planes,
)
from fastconv._numba.winograd_output import outputs_channels_last, outputs_planes
from fastconv._numba.winograd_weight import weight_gradient

Array = np.ndarray

# What a call of the kernel does: transforms weights; everything for a range of blocks; or, all threads in step, inputs
# first and then all else for a range of panels of output channels.
WEIGHTS, FUSED, INPUTS, OUTPUTS = 0, 1, 2, 3

CHANNELS = blocking.WINOGRAD_CHANNELS
INPUT_TILES = blocking.WINOGRAD_INPUT_TILES
PAD = blocking.WINOGRAD_PAD


class Shape(NamedTuple):
    """The numbers of one Winograd convolution beside those of its Source; strides in elements."""

    weights: int  # addresses, as winograd_calls.py gives them
    output: int
    scatter: int
    finish: int
    products: int
    outs: int  # channels of a group
    kh: int
    kw: int
    oh: int
    ow: int
    d_n: int
    d_c: int
    d_h: int
    d_w: int
    points: int
    along: int  # stride of an output tile, in one dimension along its line: 1 for columns, 0 for rows
    tiles: int
    blocks: int
    shared: int
    held: int  # whether weights come packed
    terms: int
    u_point: int  # of transformed weights
    m_point: int  # of products
    bias_row: int
    inputs: int  # V of one group, where it is shared
    # Where the parts of the workspace begin, beside the bias, which is at 0; the first thread's where each has its own.
    weights_at: int
    inputs_at: int
    products_at: int
    scratch_at: int
    private: int  # from thread to thread


shape_numbers = numbers(Shape)

# --------------------------------------------------------------------------------------------------------
# Products and outputs of a block of tiles


@jit
def block_start(p, block):
    """The first tile of a block: blocks are whole register tiles, as many in each as in the others or one more."""
    pieces = quotient(p.tiles + TILE_ROWS - 1, TILE_ROWS)
    return least(p.tiles, quotient(pieces * block, p.blocks) * TILE_ROWS)


@kernel(
    "in1 in5 in1 in1 out1 out1 outints1 nhwc nchw ints1 ints1 ints1 scalar scalar int int tickets",
    fastmath=CONTRACT,
)
def _convolve_tiles(
    x, w, packed, residual, y, memory, suspects, nhwc, nchw, source, shape, filters, low, high, phase, worker, tickets
):  # fmt: skip
    s = source_numbers(source)
    p = shape_numbers(shape)
    f = filters_numbers(filters)
    nr = panel_columns(memory)
    chunk = pack_chunk(memory)
    panels = quotient(p.outs + nr - 1, nr)
    depth = s.channels
    own = worker * p.private
    weights, v = p.weights_at + (own if p.shared else 0), p.inputs_at + (0 if p.shared else own)
    if p.held:
        weights = distance(memory, packed)
    products, scratch = p.products_at + own, p.scratch_at + own
    for task in claim(tickets):
        if phase == WEIGHTS:  # some input channels of a panel
            chunks = quotient(depth + chunk - 1, chunk)
            c, number = remainder(task, chunks) * chunk, quotient(task, chunks)
            panel, group = remainder(number, panels), quotient(number, panels)
            u = weights + group * p.points * p.u_point + panel * depth * nr
            pack_channels(w, f, memory, u, scratch, p, s.gather, group, panel * nr, c, least(depth, c + chunk))
            continue
        if phase == INPUTS:  # some tiles of a group
            chunks = quotient(p.tiles + INPUT_TILES - 1, INPUT_TILES)
            group, first = quotient(task, chunks), remainder(task, chunks) * INPUT_TILES
            begin, last = v + group * p.inputs + first * s.row, least(p.tiles, first + INPUT_TILES)
            if nhwc is not None:
                transform_channels_last(x, memory, begin, scratch, s, group, first, last)
            if nchw is not None:
                transform_planes(x, memory, begin, scratch, s, group, first, last)
            continue
        # FUSED: a block of tiles, all channels. OUTPUTS: a panel of channels, whose weights come first if they are not
        # packed; all blocks.
        fused = phase == FUSED
        count = p.blocks if fused else panels
        group, index = quotient(task, count), remainder(task, count)
        block, last_block = (index, index + 1) if fused else (0, p.blocks)
        first_channel, last_channel = (0, p.outs) if fused else (index * nr, least(p.outs, index * nr + nr))
        packs = not fused and p.held == 0
        u = weights + (0 if packs else group * p.points * p.u_point + first_channel * depth)
        c = 0 if packs else depth
        while c < depth:
            pack_channels(w, f, memory, u, scratch, p, s.gather, group, first_channel, c, least(depth, c + chunk))
            c += chunk
        while block < last_block:
            start_tile, end_tile = block_start(p, block), block_start(p, block + 1)
            begin = v if fused else v + group * p.inputs + start_tile * s.row
            if fused:
                if nhwc is not None:
                    transform_channels_last(x, memory, begin, scratch, s, group, start_tile, end_tile)
                if nchw is not None:
                    transform_planes(x, memory, begin, scratch, s, group, start_tile, end_tile)
            o = first_channel
            while o < last_channel:
                channels = least(CHANNELS, last_channel - o)
                call_products(
                    p.products, memory, begin, s.row, s.point, memory, u + (o - first_channel) * depth, p.u_point,
                    memory, products, p.m_point, p.points, channels, end_tile - start_tile, depth, p.terms,
                )  # fmt: skip
                if nhwc is not None:
                    outputs_channels_last(
                        memory, products, scratch, residual, y, suspects, p, s, group, o, channels,
                        start_tile, end_tile, low, high,
                    )  # fmt: skip
                if nchw is not None:
                    outputs_planes(
                        memory, products, scratch, residual, y, suspects, p, s, group, o, channels,
                        start_tile, end_tile, low, high,
                    )  # fmt: skip
                o += channels
            block += 1


@kernel("in1 in5 in1 in1 out1 outints1 ints1 ints1 int scalar scalar tickets")
def _repair(x, w, bias, residual, y, suspects, source, shape, padding_counts, low, high, tickets):
    """The plain sum, in float64, for all outputs of the suspect tiles: Winograd spreads a NaN or Inf over its tile.

    Padding is a zero of the forward pass, so that 0 * Inf is NaN there, but no term of the input gradient.
    """
    s = source_numbers(source)
    p = shape_numbers(shape)
    for task in claim(tickets):
        if get(suspects, task) == 0:
            continue
        group, t = quotient(task, p.tiles), remainder(task, p.tiles)
        line = quotient(t, s.tiles_w)
        n, ti = quotient(line, s.tiles_h), remainder(line, s.tiles_h) * s.tile_h
        tj = remainder(t, s.tiles_w) * s.tile_w
        for o in range(p.outs):
            for i in range(ti, least(ti + s.tile_h, p.oh)):
                for j in range(tj, least(tj + s.tile_w, p.ow)):
                    total = 0.0
                    for c in range(s.channels):
                        base = n * s.s_n + (group * s.channels + c) * s.s_c
                        for a in range(p.kh):
                            for b in range(p.kw):
                                row, column = i + a - s.top, j + b - s.left
                                weight = np.float64(w[group, o, c, a, b])
                                if 0 <= row < s.height and 0 <= column < s.width:
                                    total += weight * np.float64(get(x, base + row * s.s_h + column * s.s_w))
                                elif padding_counts:
                                    total += weight * 0.0
                    oc = group * p.outs + o
                    to = n * p.d_n + oc * p.d_c + i * p.d_h + j * p.d_w
                    if bias.size > 0:
                        total += get(bias, oc)
                    if residual.size > 0:
                        total += get(residual, to)
                    total = low if total < low else high if total > high else total
                    put(y, to, y.dtype.type(total))


@lru_cache(maxsize=256)
def _numbers(p: Conv, backward: bool, tile: str, held: bool) -> tuple[Array, Array, blocking.WinogradBlocks]:
    """Source and Shape as arrays, and the blocks."""
    b = blocking.winograd_blocks(p, backward, winograd.TILES[tile][0], held)
    grid, nr = b.grid, columns(p.dtype)
    outs, ins = (p.icg, p.ocg) if backward else (p.ocg, p.icg)
    source, target = ((p.oh, p.ow), (p.ih, p.iw)) if backward else ((p.ih, p.iw), (p.oh, p.ow))
    pad = (p.kh - 1 - p.ph, p.kw - 1 - p.pw) if backward else (p.ph, p.pw)
    call = functions(tile, p.dtype, "forward")
    inputs = source_of(
        p, grid, call["input"], call["gather"], ins, source, pad, (grid.alpha_h, grid.alpha_w), b.row, b.point
    )
    products = b.bias + b.common(p.g)
    own = products + b.products + b.scratch
    panels = 1 if b.shared and not held else blocking.ceil_div(outs, nr)
    shape = Shape(
        call["weights"], call["output"], call["scatter"], call["finish"], call["products"], outs, p.kh, p.kw, *target,
        *strides(p.nhwc, p.g * outs, *target), grid.points, int(p.kh == 1), grid.tiles, b.blocks, int(b.shared),
        int(held), blocking.WINOGRAD_TERMS.get(tile, blocking.DEPTH_TERMS), panels * ins * nr + PAD,
        b.product_point, b.bias_row, b.inputs, own if b.shared else b.bias, b.bias if b.shared else own, products,
        products + b.products, b.private(),
    )  # fmt: skip
    return inputs, np.array(shape, np.int64), b


def _convolve(
    p: Conv,
    backward: bool,
    tile: str,
    x: Array,
    w: Array,
    bias: Any,
    residual: Any,
    y: Array,
    workspace: Any,
    threads: int,
    held: PackedWeights | None = None,
) -> None:
    if y.size == 0:
        return
    source, shape, b = _numbers(p, backward, tile, held is not None)
    w5 = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)  # splits an axis: a view for any strides
    if backward:
        w5 = w5.transpose(0, 2, 1, 3, 4)[:, :, :, ::-1, ::-1]
    outs, ins = w5.shape[1:3]
    filters = filters_of(w5)
    panels = blocking.ceil_div(outs, columns(p.dtype))
    end = b.elements(p.g, threads) * x.itemsize
    memory = workspace[:end].view(p.dtype)
    suspects = workspace[end : end + 8 * b.suspects].view(np.int64)
    suspects[:] = 0
    padded = memory[: p.g * b.bias_row].reshape(p.g, b.bias_row)
    padded[:] = 0
    if bias is not None:
        padded[:, :outs] = bias.reshape(p.g, outs)
    low, high = limits(p)
    x_flat, y_flat = flat(x, p.nhwc), flat(y, p.nhwc)
    residual_flat = optional_flat(residual, p.nhwc, p.dtype)
    packed = optional(None if held is None else held.data, 1, p.dtype)
    convolve, flags = _convolve_tiles[p.dtype, p.nhwc], layout_flags(p.nhwc)

    def run(phase: int) -> Run:
        def part(tickets: Array, worker: int) -> None:
            convolve(
                x_flat, w5, packed, residual_flat, y_flat, memory, suspects, *flags, source, shape, filters, low, high,
                phase, worker, tickets,
            )  # fmt: skip

        return part

    if b.shared:
        inputs = p.g * blocking.ceil_div(b.grid.tiles, INPUT_TILES)
        run_phases(threads, (inputs, run(INPUTS)), (p.g * panels, run(OUTPUTS)))
    else:
        packing = [] if held else [(pack_tasks(p.g, outs, ins, p.dtype), run(WEIGHTS))]
        run_phases(threads, *packing, (p.g * b.blocks, run(FUSED)))
    if suspects[-1]:
        repair, its_bias = _repair[p.dtype], optional(bias, 1, p.dtype)
        arrays = x_flat, w5, its_bias, residual_flat, y_flat, suspects, source, shape, int(not backward)
        run_phases(threads, (suspects.size - 1, lambda tickets, worker: repair(*arrays, low, high, tickets)))


def _pack_weights(tile: str, p: Conv, w: Array, threads: int) -> PackedWeights:
    """The weights of forward calls."""
    source, given, b = _numbers(p, False, tile, True)
    packed, scratch = room(b.all_weights, p.dtype), room(threads * b.scratch, p.dtype)
    shape = Shape(*map(int, given))._replace(
        weights_at=0, scratch_at=(scratch.ctypes.data - packed.ctypes.data) // packed.itemsize, private=b.scratch,
        shared=0, held=0,
    )
    w5 = w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)
    convolve, flags, nothing = _convolve_tiles[p.dtype, p.nhwc], layout_flags(p.nhwc), np.zeros(0, p.dtype)
    arrays = nothing, w5, nothing, nothing, nothing, packed, np.zeros(0, np.int64)
    numbers = source, np.array(shape, np.int64), filters_of(w5), *limits(p), WEIGHTS
    run_phases(
        threads,
        (pack_tasks(p.g, p.ocg, p.icg, p.dtype), lambda t, worker: convolve(*arrays, *flags, *numbers, worker, t)),
    )
    return PackedWeights(packed)


def _holds_weights(tile: str) -> Callable[[Any], Any]:
    m = winograd.TILES[tile][0]
    return holds_weights(
        partial(_pack_weights, tile), lambda p, threads: blocking.winograd_bytes(p, "forward", m, threads, packed=True)
    )


@_holds_weights("f2x3")
def conv2d_forward_winograd_f2x3__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f2x3", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f2x3__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f2x3", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f4x3")
def conv2d_forward_winograd_f4x3__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f4x3", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f4x3__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f4x3", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f6x3")
def conv2d_forward_winograd_f6x3__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f6x3", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f6x3__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f6x3", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f2x5")
def conv2d_forward_winograd_f2x5__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f2x5", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f2x5__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f2x5", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f4x5")
def conv2d_forward_winograd_f4x5__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f4x5", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f4x5__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f4x5", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f4x3_1d")
def conv2d_forward_winograd_f4x3_1d__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f4x3_1d", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f4x3_1d__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f4x3_1d", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f6x3_1d")
def conv2d_forward_winograd_f6x3_1d__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f6x3_1d", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f6x3_1d__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f6x3_1d", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f4x5_1d")
def conv2d_forward_winograd_f4x5_1d__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f4x5_1d", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f4x5_1d__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f4x5_1d", dy, w, bias, residual, dx, workspace, threads)


@_holds_weights("f4x7_1d")
def conv2d_forward_winograd_f4x7_1d__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int,
    packed: PackedWeights | None = None,
) -> None:  # fmt: skip
    _convolve(p, False, "f4x7_1d", x, w, bias, residual, y, workspace, threads, packed)


def conv2d_backward_input_winograd_f4x7_1d__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, "f4x7_1d", dy, w, bias, residual, dx, workspace, threads)


def conv2d_backward_weight_winograd_f2x3__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f2x3", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f4x3__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f4x3", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f6x3__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f6x3", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f2x5__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f2x5", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f4x5__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f4x5", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f4x3_1d__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f4x3_1d", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f6x3_1d__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f6x3_1d", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f4x5_1d__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f4x5_1d", x, dy, dw, workspace, threads)


def conv2d_backward_weight_winograd_f4x7_1d__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, "f4x7_1d", x, dy, dw, workspace, threads)


def conv2d_backward_input_winograd_f2x3_adjoint__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    adjoint_input_gradient(p, "f2x3", dy, w, dx, workspace, threads)


def conv2d_backward_input_winograd_f4x3_adjoint__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    adjoint_input_gradient(p, "f4x3", dy, w, dx, workspace, threads)


def conv2d_backward_input_winograd_f6x3_adjoint__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    adjoint_input_gradient(p, "f6x3", dy, w, dx, workspace, threads)
