"""Winograd's F(2x2,3x3) and F(4x4,3x3): forward and input gradient at stride 1, float32 and float64.

Fused for each block of tiles, which stays in cache (Gelashvili et al. 2019, arXiv 1912.02165): the input transform
writes V[point][tile][channel], one small GEMM a point and panel of output channels gives M[point][tile][column], and
the inverse transform ends in the epilogue. Few tiles (small images): V holds all of them, and the threads share the
output channels. The 1-D transforms are those of fastconv.winograd, called while code is generated with vectors of
channels in place of numbers. The input gradient is the same with flipped weights, their channels exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastconv import winograd
from fastconv._numba import Conv, blocking, vector
from fastconv._numba.arrays import carve, flat, layout_flags, limits, optional, optional_flat, strides
from fastconv._numba.compile import CONTRACT, jit, kernel
from fastconv._numba.gemm import columns, multiply, odd_lines
from fastconv._numba.tasks import Run, claim, run_phases
from fastconv._numba.vector import (
    I64,
    Lanes,
    copy_run,
    finish_run,
    get,
    intrinsic,
    numbers,
    panel_columns,
    put,
    transpose_run,
    vector_lanes,
    zero_run,
)

Array = np.ndarray

# What a call of the kernel does: everything for a range of blocks; or, all threads in step, one of the two halves.
FUSED, INPUTS, OUTPUTS = 0, 1, 2

# Tiles that one task of the phase INPUTS transforms.
INPUT_TILES = 7
RUN = blocking.WINOGRAD_RUN
SLACK = blocking.MAX_LANES

# --------------------------------------------------------------------------------------------------------
# The transforms of one tile, lanes of channels at once


def _two_dimensional(transform: Callable[..., Any], values: list[list[Lanes]]) -> list[list[Lanes]]:
    """A 1-D transform along the columns, then along the rows."""
    half = [transform(*column) for column in zip(*values)]
    return [list(transform(*row)) for row in zip(*half)]


def _input_tile(name: str) -> Any:
    transform = getattr(winograd, f"input_transform_{name}")
    alpha = winograd.TILES[name][0] + 2

    @intrinsic
    def input_tile(typingctx, source, s, row, column, target, t, point):
        """target[p * point + lane] = (B^T d B)[p] of the tile d[i][j] = source[i * row + j * column + lane]."""
        i8 = types.int64
        signature = types.void(source, i8, i8, i8, target, i8, i8)

        def body(builder, kinds, source, row, column, target, point):
            vectors = vector.vector_type(vector.scalar_type(kinds[0]))

            def cell(i: int, j: int) -> Lanes:
                offset = builder.add(builder.mul(I64(i), row), builder.mul(I64(j), column))
                return Lanes(builder, vector.load(builder, builder.gep(source, [offset]), vectors))

            tile = [[cell(i, j) for j in range(alpha)] for i in range(alpha)]
            for i, values in enumerate(_two_dimensional(transform, tile)):
                for j, value in enumerate(values):
                    place = builder.gep(target, [builder.mul(I64(i * alpha + j), point)])
                    vector.store(builder, value.value, place)

        return signature, vector.outlined(f"input_tile_{name}", body)

    return input_tile


def _output_tile(name: str) -> Any:
    transform = getattr(winograd, f"output_transform_{name}")
    alpha = winograd.TILES[name][0] + 2

    @intrinsic
    def output_tile(typingctx, source, s, point, target, t, row, column):
        """target[i * row + j * column + lane] = (A^T M A)[i][j], M[p] = source[p * point + lane]; all finite?"""
        i8 = types.int64
        signature = types.boolean(source, i8, i8, target, i8, i8, i8)

        def body(builder, kinds, source, point, target, row, column):
            vectors = vector.vector_type(vector.scalar_type(kinds[0]))

            def cell(p: int) -> Lanes:
                place = builder.gep(source, [builder.mul(I64(p), point)])
                return Lanes(builder, vector.load(builder, place, vectors))

            tile = [[cell(i * alpha + j) for j in range(alpha)] for i in range(alpha)]
            check = None  # v - v is 0 if v is finite, else NaN
            for i, values in enumerate(_two_dimensional(transform, tile)):
                for j, value in enumerate(values):
                    offset = builder.add(builder.mul(I64(i), row), builder.mul(I64(j), column))
                    vector.store(builder, value.value, builder.gep(target, [offset]))
                    zero = builder.fsub(value.value, value.value)
                    check = zero if check is None else builder.fadd(check, zero)
            fault = builder.fcmp_unordered("uno", check, check)
            bits = ir.IntType(vectors.count)
            return builder.icmp_unsigned("==", builder.bitcast(fault, bits), bits(0))

        return signature, vector.outlined(f"output_tile_{name}", body)

    return output_tile


def _weight_tile(name: str) -> Any:
    _, g, _ = winograd.matrices(name)

    def transform(*taps: Lanes) -> list[Lanes]:
        rows = []
        for row in g:
            terms = [tap if value == 1 else value * tap for value, tap in zip(row, taps) if value != 0]
            rows.append(sum(terms[1:], terms[0]))
        return rows

    @intrinsic
    def weight_tile(typingctx, source, s, row, target, t, point):
        """target[p * point + lane] = (G w G^T)[p] of w[k] = source[k * row + lane], in float64, rounded once."""
        i8 = types.int64
        signature = types.void(source, i8, i8, target, i8, i8)

        def body(builder, kinds, source, row, target, point):
            vectors = vector.vector_type(ir.DoubleType())

            def cell(k: int) -> Lanes:
                place = builder.gep(source, [builder.mul(I64(k), row)])
                return Lanes(builder, vector.load(builder, place, vectors))

            tile = [[cell(3 * i + j) for j in range(3)] for i in range(3)]
            for i, values in enumerate(_two_dimensional(transform, tile)):
                for j, value in enumerate(values):
                    rounded = value.value
                    if kinds[2].dtype == types.float32:
                        rounded = builder.fptrunc(rounded, ir.VectorType(ir.FloatType(), vectors.count))
                    place = builder.gep(target, [builder.mul(I64(i * len(g) + j), point)])
                    vector.store(builder, rounded, place)

        return signature, vector.outlined(f"weight_tile_{name}", body)

    return weight_tile


input_tile_f2x3, input_tile_f4x3 = _input_tile("f2x3"), _input_tile("f4x3")
output_tile_f2x3, output_tile_f4x3 = _output_tile("f2x3"), _output_tile("f4x3")
weight_tile_f2x3, weight_tile_f4x3 = _weight_tile("f2x3"), _weight_tile("f4x3")

# --------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """The numbers of one Winograd convolution; strides (s_ source, d_ destination) in elements."""

    mb: int
    groups: int
    outs: int  # channels of a group
    ins: int
    m: int  # output tile
    ih: int
    iw: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int
    oh: int
    ow: int
    d_n: int
    d_c: int
    d_h: int
    d_w: int
    ph: int  # source row of output row 0 is -ph
    pw: int
    tiles_h: int
    tiles_w: int
    block: int  # tiles of a block
    blocks: int
    shared: int


shape_numbers = numbers(Shape)


@kernel("in5 out1 ints1 tickets")
def _transform_weights(w, packed, shape, tickets):
    """packed[group][panel][point][input channel][column], zeros beyond the last output channel."""
    p = shape_numbers(shape)
    nr = panel_columns(packed)
    panels = (p.outs + nr - 1) // nr
    filters = np.zeros(9 * nr, np.float64)
    points = (p.m + 2) ** 2
    for task in claim(tickets):
        group, o0 = task // panels, task % panels * nr
        count = min(nr, p.outs - o0)
        if count < nr:
            filters[:] = 0.0
        for c in range(p.ins):
            for o in range(count):
                for a in range(3):
                    for b in range(3):
                        put(filters, (3 * a + b) * nr + o, np.float64(w[group, o0 + o, c, a, b]))
            to = (task * points * p.ins + c) * nr
            for o in range(0, nr, vector_lanes(filters)):
                if p.m == 4:
                    weight_tile_f4x3(filters, o, nr, packed, to + o, p.ins * nr)
                else:
                    weight_tile_f2x3(filters, o, nr, packed, to + o, p.ins * nr)


@jit
def input_tile(m, source, s, row, column, target, t, point):
    if m == 4:
        input_tile_f4x3(source, s, row, column, target, t, point)
    else:
        input_tile_f2x3(source, s, row, column, target, t, point)


@jit
def output_tile(m, source, s, point, target, t, row, column):
    if m == 4:
        return output_tile_f4x3(source, s, point, target, t, row, column)
    return output_tile_f2x3(source, s, point, target, t, row, column)


@jit
def stage_strip(x, stage, p, n, row, column, width, channel, count):
    """NCHW: stage[row][column][lane], alpha rows of `width` columns, `count` channels; zeros in the padding.

    Rows of the stage are width + SLACK columns apart.
    """
    lanes = vector_lanes(stage)
    first = min(max(-column, 0), width)  # columns first..last lie inside the image
    last = max(min(p.iw - column, width), first)
    for i in range(p.m + 2):
        to = i * (width + SLACK) * lanes
        at = n * p.s_n + channel * p.s_c + (row + i) * p.s_h + column
        inside = 0 <= row + i < p.ih
        j = 0
        while j < width:
            if inside and first <= j < last:
                transpose_run(x, at + j, p.s_c, count, min(last - j, lanes), stage, to + j * lanes, lanes)
                j = min(j + lanes, last)
            else:
                zero_run(stage, to + j * lanes, lanes)
                j += 1


@jit
def stage_tile(x, stage, p, n, row, column, channel, count):
    """NHWC: the same for one tile."""
    lanes = vector_lanes(stage)
    alpha = p.m + 2
    for cell in range(alpha * alpha):
        i, j = row + cell // alpha, column + cell % alpha
        if 0 <= i < p.ih and 0 <= j < p.iw:
            copy_run(x, n * p.s_n + i * p.s_h + j * p.s_w + channel, stage, cell * lanes, count)
        else:
            zero_run(stage, cell * lanes, lanes)


@jit
def transform_inputs(x, v, begin, stage, nhwc, nchw, p, group, first, count, place):
    """V[point][tile][channel] of `count` tiles from `first` on; they are tiles place, ... of the block."""
    lanes = vector_lanes(v)
    stride = odd_lines(p.ins, v.itemsize)
    point = p.block * stride
    alpha = p.m + 2
    tile = 0
    while tile < count:
        n, rest = (first + tile) // (p.tiles_h * p.tiles_w), (first + tile) % (p.tiles_h * p.tiles_w)
        row, column = rest // p.tiles_w * p.m - p.ph, rest % p.tiles_w * p.m - p.pw
        to = begin + (place + tile) * stride
        if nhwc is not None:
            inside = row >= 0 and column >= 0 and row + alpha <= p.ih and column + alpha <= p.iw
            at = n * p.s_n + row * p.s_h + column * p.s_w + group * p.ins
            for c in range(0, p.ins, lanes):
                if inside and c + lanes <= p.ins:
                    input_tile(p.m, x, at + c, p.s_h, p.s_w, v, to + c, point)
                else:
                    stage_tile(x, stage, p, n, row, column, group * p.ins + c, min(lanes, p.ins - c))
                    input_tile(p.m, stage, 0, alpha * lanes, lanes, v, to + c, point)
            tile += 1
        if nchw is not None:
            run = min(count - tile, p.tiles_w - rest % p.tiles_w)  # tiles of one row of tiles
            width = run * p.m + 2
            for c in range(0, p.ins, lanes):
                stage_strip(x, stage, p, n, row, column, width, group * p.ins + c, min(lanes, p.ins - c))
                for r in range(run):
                    input_tile(
                        p.m, stage, r * p.m * lanes, (width + SLACK) * lanes, lanes, v, to + r * stride + c, point
                    )
            tile += run


@jit
def transform_outputs(
    products, outputs, by_channel, bias, residual, y, suspects, nhwc, nchw, p, group, panel, first, count, low, high
):
    """The inverse transform of one panel of channels and the epilogue, for a block of tiles.

    suspects[group][panel][tile] becomes 1 where an output is not finite, else 0.
    """
    nr, lanes = panel_columns(products), vector_lanes(products)
    point = p.block * nr
    channels = min(nr, p.outs - panel * nr)
    oc = group * p.outs + panel * nr
    zero = products.dtype.type(0)
    plane = p.tiles_h * p.tiles_w
    suspect = (group * ((p.outs + nr - 1) // nr) + panel) * p.mb * plane + first
    tile = 0
    while tile < count:
        n, rest = (first + tile) // plane, (first + tile) % plane
        i0, j0 = rest // p.tiles_w * p.m, rest % p.tiles_w * p.m
        run = min(count - tile, p.tiles_w - rest % p.tiles_w, RUN)
        width = run * p.m + SLACK
        for r in range(run):
            finite = True
            for lane in range(0, channels, lanes):
                finite &= output_tile(
                    p.m, products, (tile + r) * nr + lane, point, outputs, r * p.m * nr + lane, width * nr, nr
                )
            put(suspects, suspect + tile + r, 0 if finite else 1)
        used = min(run * p.m, p.ow - j0)  # columns
        for i in range(min(p.m, p.oh - i0)):
            to = n * p.d_n + oc * p.d_c + (i0 + i) * p.d_h + j0 * p.d_w
            at = i * width * nr
            if nhwc is not None:
                for j in range(used):
                    target = to + j * p.d_w
                    finish_run(
                        outputs, at + j * nr, bias, oc, bias.size > 0, zero,
                        residual, target, residual.size > 0, y, target, channels, low, high,
                    )  # fmt: skip
            if nchw is not None:
                for lane in range(0, channels, lanes):
                    for j in range(0, used, lanes):
                        transpose_run(
                            outputs, at + j * nr + lane, nr, min(lanes, used - j), lanes,
                            by_channel, lane * width + j, width,
                        )  # fmt: skip
                for lane in range(channels):
                    addend = get(bias, oc + lane) if bias.size > 0 else zero
                    for j in range(0, used, nr):
                        length = min(nr, used - j)
                        target = to + lane * p.d_c + j
                        finish_run(
                            by_channel, lane * width + j, bias, 0, False, addend,
                            residual, target, residual.size > 0, y, target, length, low, high,
                        )  # fmt: skip
        tile += run


@kernel(
    "in1 in1 in1 in1 out1 out1 out1 out1 out1 out1 outints1 nhwc nchw ints1 scalar scalar int tickets",
    fastmath=CONTRACT,
)
def _convolve_tiles(
    x, packed, bias, residual, y, v, products, stage, outputs, by_channel, suspects, nhwc, nchw, shape, low, high,
    phase, tickets,
):  # fmt: skip
    p = shape_numbers(shape)
    nr = panel_columns(products)
    panels = (p.outs + nr - 1) // nr
    stride = odd_lines(p.ins, v.itemsize)
    points = (p.m + 2) ** 2
    tiles = p.mb * p.tiles_h * p.tiles_w
    for task in claim(tickets):
        group, index = task % p.groups, task // p.groups
        # FUSED: task is a block of tiles. INPUTS: a few tiles of the one block. OUTPUTS: a panel of its channels.
        first = index * p.block if phase == FUSED else index * INPUT_TILES if phase == INPUTS else 0
        count = min(INPUT_TILES if phase == INPUTS else p.block, tiles - first)
        panel = index if phase == OUTPUTS else 0
        panel_end = index + 1 if phase == OUTPUTS else 0 if phase == INPUTS else panels
        begin = group * points * p.block * stride if p.shared else 0
        if phase != OUTPUTS:
            transform_inputs(x, v, begin, stage, nhwc, nchw, p, group, first, count, first if p.shared else 0)
        while panel < panel_end:
            for point in range(points):
                multiply(
                    v, begin + point * p.block * stride, stride,
                    packed, ((group * panels + panel) * points + point) * p.ins * nr,
                    products, point * p.block * nr, nr, count, p.ins, False,
                )  # fmt: skip
            transform_outputs(
                products, outputs, by_channel, bias, residual, y, suspects, nhwc, nchw, p, group, panel, first, count,
                low, high,
            )  # fmt: skip
            panel += 1


@kernel("in1 in5 in1 in1 out1 outints1 ints1 int int scalar scalar tickets")
def _repair(x, w, bias, residual, y, suspects, shape, nr, padding_counts, low, high, tickets):
    """The plain sum, in float64, for all outputs of the suspect tiles: Winograd spreads a NaN or Inf over its tile.

    Padding is a zero of the forward pass, so that 0 * Inf is NaN there, but no term of the input gradient.
    """
    p = shape_numbers(shape)
    plane = p.tiles_h * p.tiles_w
    panels = (p.outs + nr - 1) // nr
    for task in claim(tickets):
        if get(suspects, task) == 0:
            continue
        group, panel = task // (p.mb * plane * panels), task // (p.mb * plane) % panels
        n, ti, tj = task // plane % p.mb, task % plane // p.tiles_w, task % p.tiles_w
        for o in range(panel * nr, min(panel * nr + nr, p.outs)):
            for i in range(ti * p.m, min(ti * p.m + p.m, p.oh)):
                for j in range(tj * p.m, min(tj * p.m + p.m, p.ow)):
                    total = 0.0
                    for c in range(p.ins):
                        base = n * p.s_n + (group * p.ins + c) * p.s_c
                        for a in range(3):
                            for b in range(3):
                                row, column = i + a - p.ph, j + b - p.pw
                                weight = np.float64(w[group, o, c, a, b])
                                if 0 <= row < p.ih and 0 <= column < p.iw:
                                    total += weight * np.float64(get(x, base + row * p.s_h + column * p.s_w))
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
def _numbers(p: Conv, backward: bool, m: int) -> tuple[Array, blocking.WinogradBlocks, int]:
    """The Shape as an array, the blocks, and how many tiles there are."""
    b = blocking.winograd_blocks(p, backward, m)
    outs, ins = (p.icg, p.ocg) if backward else (p.ocg, p.icg)
    source, target = ((p.oh, p.ow), (p.ih, p.iw)) if backward else ((p.ih, p.iw), (p.oh, p.ow))
    pad = (2 - p.ph, 2 - p.pw) if backward else (p.ph, p.pw)
    tiles_h, tiles_w = blocking.ceil_div(target[0], m), blocking.ceil_div(target[1], m)
    tiles = p.mb * tiles_h * tiles_w
    shape = Shape(
        p.mb, p.g, outs, ins, m, *source, *strides(p.nhwc, p.g * ins, *source),
        *target, *strides(p.nhwc, p.g * outs, *target), *pad, tiles_h, tiles_w,
        b.tiles, blocking.ceil_div(tiles, b.tiles), int(b.shared),
    )  # fmt: skip
    return np.array(shape, np.int64), b, tiles


def _convolve(
    p: Conv,
    backward: bool,
    m: int,
    x: Array,
    w: Array,
    bias: Any,
    residual: Any,
    y: Array,
    workspace: Any,
    threads: int,
) -> None:
    if y.size == 0:
        return
    shape, b, tiles = _numbers(p, backward, m)
    w5 = w.reshape(p.g, p.ocg, p.icg, 3, 3)  # splits an axis: a view for any strides
    if backward:
        w5 = w5.transpose(0, 2, 1, 3, 4)[:, :, :, ::-1, ::-1]
    panels = blocking.ceil_div(p.icg if backward else p.ocg, columns(p.dtype))
    shared = [b.weights, b.inputs] if b.shared else [b.weights]
    (packed, *all_inputs), (products, stage, outputs, by_channel, *inputs), table = carve(
        workspace, p.dtype, shared, threads, b.private(), 1, blocking.lines(b.suspects, 8)
    )
    suspects = table[0, : p.g * panels * tiles]
    low, high = limits(p)
    x_flat, y_flat = flat(x, p.nhwc), flat(y, p.nhwc)
    bias_flat, residual_flat = optional(bias, 1, p.dtype), optional_flat(residual, p.nhwc, p.dtype)
    transform_weights, convolve = _transform_weights[p.dtype], _convolve_tiles[p.dtype, p.nhwc]
    flags = layout_flags(p.nhwc)

    def weights(tickets: Array, worker: int) -> None:
        transform_weights(w5, packed, shape, tickets)

    def run(phase: int) -> Run:
        def part(tickets: Array, worker: int) -> None:
            convolve(
                x_flat, packed, bias_flat, residual_flat, y_flat,
                all_inputs[0] if b.shared else inputs[0][worker], products[worker], stage[worker], outputs[worker],
                by_channel[worker], suspects, *flags, shape, low, high, phase, tickets,
            )  # fmt: skip

        return part

    if b.shared:
        inputs_and_outputs = (p.g * blocking.ceil_div(tiles, INPUT_TILES), run(INPUTS)), (p.g * panels, run(OUTPUTS))
        run_phases(threads, (p.g * panels, weights), *inputs_and_outputs)
    else:
        run_phases(threads, (p.g * panels, weights), (p.g * blocking.ceil_div(tiles, b.tiles), run(FUSED)))
    if suspects.any():
        repair = _repair[p.dtype]
        arrays = x_flat, w5, bias_flat, residual_flat, y_flat, suspects, shape, columns(p.dtype), int(not backward)
        run_phases(threads, (suspects.size, lambda tickets, worker: repair(*arrays, low, high, tickets)))


def conv2d_forward_winograd_f2x3__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, False, 2, x, w, bias, residual, y, workspace, threads)


def conv2d_forward_winograd_f4x3__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, False, 4, x, w, bias, residual, y, workspace, threads)


def conv2d_backward_input_winograd_f2x3__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, 2, dy, w, bias, residual, dx, workspace, threads)


def conv2d_backward_input_winograd_f4x3__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, 4, dy, w, bias, residual, dx, workspace, threads)
