"""Winograd's F(2x2,3x3) in one kernel: forward and input gradient at stride 1, float32.

A block computes 32 tiles x 32 channels for all 16 points: each of its 8 warps has two points, as products of matrices
in registers, 8 x 4 results of each a thread. For a slice of 8 input channels each thread transforms one tile of one
channel on its way into shared memory (its cells were asked for before the last multiplication), so nothing but the
image, the transformed filters and the result meets device memory. 512 multiply-adds a thread and slice stand against
48 loads of 16 bytes: the arithmetic units set the pace, at 2.25 times fewer multiplications than the plain sum. Two
blocks share a multiprocessor (128 registers, 34 KB): one waits for its filters while the other multiplies.
The 1-D transforms are in transforms.py. F(4x4,3x3) is in winograd_passes.py. In both a NaN or Inf
spreads over its tile, so all cells that are not finite are summed once more as the plain sum says (naive.repair).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from fastconv._cuda import Conv, sizes, transforms
from fastconv._cuda.compiler import afresh, cuda, device, float32, kernel, load4, quotient, select, store4
from fastconv._cuda.copying import matching
from fastconv._cuda.gemm import QUAD, REGISTERS, WARP_COLUMNS, WARP_ROWS, row_of
from fastconv._cuda.launch import carve, flat, int32s, run
from fastconv._cuda.naive import finish, repair
from fastconv._cuda.sizes import ceil_div
from fastconv._cuda.winograd_passes import convolve as convolve_in_passes
from fastconv._cuda.winograd_passes import transform_filters
from fastconv._cuda.winograd_weight import correlate as correlate_in_passes

POINTS = 16
TILES, OUTS, INS = sizes.WINOGRAD_TILES, sizes.WINOGRAD_OUTS, sizes.WINOGRAD_INS
BLOCK = TILES * INS  # threads: one for each tile and channel of a slice
OWN = POINTS * 32 // BLOCK  # points of a warp
HIGH, WIDE = OUTS // WARP_ROWS, TILES // WARP_COLUMNS  # results of a thread for one point
RESULTS = OWN * HIGH * WIDE
# Elements between rows of tiles in shared memory: those of neighbouring channels then lie in different banks.
STRIDE = TILES + 4
FILTERS = POINTS * INS * STRIDE  # where the slice of the filters begins
SHARED = FILTERS + POINTS * INS * OUTS
# The results go out in rounds of two rows of each thread, 8 channels x 32 tiles at a time.
ROUNDS, SLOTS = HIGH // 2, 2 * WARP_ROWS
QUADS = POINTS * INS * OUTS // QUAD // BLOCK  # of the filters, that each thread fetches

input_transform = device(transforms.input_transform_f2x3)
output_transform = device(transforms.output_transform_f2x3)


class Shape(NamedTuple):
    """The numbers of a launch: source image x, target image y. Strides in elements."""

    ins: int  # channels of a group of the source
    outs: int  # of the target
    ins_packed: int  # of the transformed filters
    outs_packed: int
    tiles: int  # of all images
    tiles_h: int
    tiles_w: int
    ih: int  # of the source
    iw: int
    oh: int  # of the target
    ow: int
    ph: int  # source row of target row 0 is -ph
    pw: int
    x_0: int
    x_n: int
    x_c: int
    x_h: int
    x_w: int
    y_n: int
    y_c: int
    y_h: int
    y_w: int
    bias: int  # flags
    residual: int


@lru_cache(maxsize=8)
def _convolve_of(nhwc_source: bool, nhwc_target: bool) -> Any:
    @device
    def inside(row, column, p):
        """One bit for each of a tile's 16 cells that lies in the image."""
        bits = 0
        for i in range(4):
            for j in range(4):
                if row + i >= 0 and row + i < p.ih and column + j >= 0 and column + j < p.iw:
                    bits |= 1 << (4 * i + j)
        return bits

    @device
    def fetch(x, cells, at, bits, p):
        """The 16 cells of a tile; zeros outside the image."""
        # their places and conditions, computed once for all slices, would take a quarter of the registers
        down, along, bits = afresh(p.x_h), afresh(p.x_w), afresh(bits)
        for i in range(4):
            for j in range(4):
                value = float32(0)
                if bits & (1 << (4 * i + j)):
                    value = x[at + i * down + j * along]
                cells[4 * i + j] = value

    @device
    def transform(cells):
        """B^T d B in place."""
        for j in range(4):
            cells[j], cells[4 + j], cells[8 + j], cells[12 + j] = input_transform(
                cells[j], cells[4 + j], cells[8 + j], cells[12 + j]
            )
        for i in range(4):
            cells[4 * i], cells[4 * i + 1], cells[4 * i + 2], cells[4 * i + 3] = input_transform(
                cells[4 * i], cells[4 * i + 1], cells[4 * i + 2], cells[4 * i + 3]
            )

    @device
    def multiply(s, point, row, column, a, b, sums):
        """Adds the products of a slice for this thread's points."""
        for k in range(INS):
            for e in range(OWN):
                at = FILTERS + ((point + e) * INS + k) * OUTS + row
                for q in range(HIGH // QUAD):
                    a[4 * q], a[4 * q + 1], a[4 * q + 2], a[4 * q + 3] = load4(s, at + q * WARP_ROWS * QUAD)
                b[0], b[1], b[2], b[3] = load4(s, ((point + e) * INS + k) * STRIDE + column)
                for i in range(HIGH):
                    for j in range(WIDE):
                        sums[(e * HIGH + i) * WIDE + j] += a[i] * b[j]

    @device
    def keep(s, sums, point, r, row, column):
        """Rows 2 r and 2 r + 1 of the thread's results into shared memory, [point][slot][tile]."""
        for e in range(OWN):
            for half in range(2):
                at = ((point + e) * SLOTS + row // QUAD * 2 + half) * STRIDE + column
                for j in range(WIDE):
                    value = sums[(e * HIGH + half) * WIDE + j]
                    for other in range(1, ROUNDS):
                        value = select(other == r, sums[(e * HIGH + 2 * other + half) * WIDE + j], value)
                    s[at + j] = value

    @device
    def write(y, bias, residual, suspects, values, o, at, row, column, low, high, p):
        """The four outputs of a tile and their epilogue; one that is not finite becomes NaN and is looked at again."""
        for e in range(afresh(4)):  # not unrolled: there are no registers left for four of these
            i, j = e // 2, e % 2
            if row + i < p.oh and column + j < p.ow:
                to = at + (row + i) * p.y_h + (column + j) * p.y_w
                total = values[0]
                for other in range(1, 4):
                    total = select(other == e, values[other], total)
                if p.bias:
                    total += bias[o]
                if p.residual:
                    total += residual[to]
                if math.isfinite(total):
                    y[to] = finish(total, low, high)
                else:
                    suspects[0] = 1
                    y[to] = float32(math.nan)

    @kernel(registers=REGISTERS)
    def convolve(x, packed, bias, residual, y, suspects, low, high, p):
        s = cuda.shared.array(0, float32)
        sums = cuda.local.array(RESULTS, float32)
        a, b = cuda.local.array(HIGH, float32), cuda.local.array(WIDE, float32)
        cells, values = cuda.local.array(POINTS, float32), cuda.local.array(4, float32)
        for r in range(RESULTS):
            sums[r] = float32(0)
        t, group = cuda.threadIdx.x, cuda.blockIdx.z
        first_tile, first_out = cuda.blockIdx.x * TILES, cuda.blockIdx.y * OUTS
        tile, k = t % TILES, t // TILES
        if nhwc_source:
            tile, k = t // INS, t % INS
        mine = first_tile + tile
        n = quotient(mine, p.tiles_h * p.tiles_w)
        rest = mine - n * p.tiles_h * p.tiles_w
        tile_h = quotient(rest, p.tiles_w)
        row0, column0 = 2 * tile_h - p.ph, 2 * (rest - tile_h * p.tiles_w) - p.pw
        at = p.x_0 + n * p.x_n + (group * p.ins + k) * p.x_c + row0 * p.x_h + column0 * p.x_w
        last = p.ins - k if mine < p.tiles else 0  # channels of this thread begin below it
        place = k * STRIDE + tile
        bits = inside(row0, column0, p)

        lane = t % 32
        point = t // 32 * OWN
        row, column = lane // WARP_COLUMNS * QUAD, lane % WARP_COLUMNS * QUAD
        weights = group * POINTS * p.ins_packed * p.outs_packed + first_out
        fetch(x, cells, at, bits if last > 0 else 0, p)
        for c in range(0, p.ins_packed, INS):
            transform(cells)
            for e in range(POINTS):
                s[place + e * INS * STRIDE] = cells[e]
            for q in range(QUADS):
                quad = afresh(t) + q * BLOCK
                of_point, of_slice = quad // (INS * OUTS // QUAD), quad % (INS * OUTS // QUAD)
                channel = of_slice // (OUTS // QUAD)
                from_ = weights + (of_point * p.ins_packed + c + channel) * p.outs_packed
                w0, w1, w2, w3 = load4(packed, from_ + of_slice % (OUTS // QUAD) * QUAD)
                store4(s, FILTERS + quad * QUAD, w0, w1, w2, w3)
            cuda.syncthreads()
            at += INS * p.x_c
            fetch(x, cells, at, bits if c + INS < last else 0, p)
            multiply(s, point, row, column, a, b, sums)
            cuda.syncthreads()

        t = afresh(t)
        tile, slot = t % TILES, t // TILES
        if nhwc_target:
            tile, slot = t // SLOTS, t % SLOTS
        mine = first_tile + tile
        n = quotient(mine, p.tiles_h * p.tiles_w)
        rest = mine - n * p.tiles_h * p.tiles_w
        tile_h = quotient(rest, p.tiles_w)
        for r in range(afresh(ROUNDS)):  # not unrolled: the rounds would take each others registers
            keep(s, sums, point, r, row, column)
            cuda.syncthreads()
            o = first_out + slot // 2 * QUAD + row_of(2 * r + slot % 2)
            if mine < p.tiles and o < p.outs:
                for e in range(POINTS):
                    cells[e] = s[(e * SLOTS + slot) * STRIDE + tile]
                for j in range(4):
                    cells[j], cells[4 + j] = output_transform(cells[j], cells[4 + j], cells[8 + j], cells[12 + j])
                for i in range(2):
                    values[2 * i], values[2 * i + 1] = output_transform(
                        cells[4 * i], cells[4 * i + 1], cells[4 * i + 2], cells[4 * i + 3]
                    )
                channel = group * p.outs + o
                to = n * p.y_n + channel * p.y_c
                write(
                    y, bias, residual, suspects, values, channel, to, 2 * tile_h, 2 * (rest - tile_h * p.tiles_w), low,
                    high, p,
                )  # fmt: skip
            cuda.syncthreads()

    return convolve


def _convolve(p: Conv, backward: bool, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any) -> None:
    fx, fw, fy = flat(x), flat(w), flat(y)
    if fy.array.size == 0:
        return
    r = sizes.roles(p, backward)
    ins_packed, outs_packed, count = sizes.winograd_packed(p, backward)
    suspects, packed = carve(workspace, ("int32", 1), ("float32", count))
    transform_filters(p, backward, 2, fw, packed, suspects, ins_packed, outs_packed)
    ph, pw = (2 - p.ph, 2 - p.pw) if backward else (p.ph, p.pw)
    tiles_h, tiles_w = ceil_div(r.target[0], 2), ceil_div(r.target[1], 2)
    tiles = p.mb * tiles_h * tiles_w
    residual = matching(residual, y)
    numbers: Any = (
        r.ins, r.outs, ins_packed, outs_packed, tiles, tiles_h, tiles_w, *r.source, *r.target, ph, pw, fx.start,
        *fx.strides, *fy.strides, bias is not None, residual is not None,
    )  # fmt: skip
    fb, fr = (fy if a is None else flat(a) for a in (bias, residual))
    run(
        _convolve_of(fx.strides[1] == 1 and fx.strides[3] != 1, fy.strides[1] == 1 and fy.strides[3] != 1),
        (ceil_div(tiles, TILES), outs_packed // OUTS, p.g), BLOCK, fx, fx.memory, packed, fb.memory, fr.memory,
        fy.memory, suspects, float32(p.low), float32(p.high), int32s(Shape, numbers), shared=4 * SHARED,
    )  # fmt: skip
    repair(p, backward, fx, fw, bias, residual, fy, suspects)


def conv2d_forward_winograd_f2x3__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, False, x, w, bias, residual, y, workspace)


def conv2d_backward_input_winograd_f2x3__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, True, dy, w, bias, residual, dx, workspace)


def conv2d_forward_winograd_f4x3__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    convolve_in_passes(p, False, x, w, bias, residual, y, workspace)


def conv2d_backward_input_winograd_f4x3__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    convolve_in_passes(p, True, dy, w, bias, residual, dx, workspace)


def conv2d_backward_weight_winograd_f4x3__cuda(
    p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int
) -> None:
    correlate_in_passes(p, x, dy, dw, workspace)
