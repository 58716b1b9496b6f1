"""Winograd's F(4x4,3x3) in passes through scratch memory: images, a product of matrices for each of 36 points, results.

A quarter of the plain sum's multiplications; what the transformed tiles cost on their way through device memory is won
back where many channels are summed. Tiles are taken in runs that fit SCRATCH bytes: no more than a few L2s, whatever
the batch. The filters are transformed in float64 and rounded once, here also for winograd.py's F(2x2,3x3).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from fastconv import winograd
from fastconv._cuda import Conv, sizes, transforms
from fastconv._cuda.compiler import afresh, cuda, device, float32, float64, kernel, load4, quotient, select, store4
from fastconv._cuda.copying import matching
from fastconv._cuda.gemm import MANY_RESULTS, QUAD, REGISTERS, corner_of, multiply_of, rounds_of
from fastconv._cuda.launch import THREADS, Flat, carve, flat, int32s, run
from fastconv._cuda.naive import finish, repair
from fastconv._cuda.sizes import DEPTH, Tile, ceil_div

# Outputs and points of a tile along one axis.
M, ALPHA = 4, 6
POINTS = ALPHA * ALPHA
# Channels beside each other in a block of the transforms where channels are neighbours in memory.
CHANNELS = 8

input_transform = device(transforms.input_transform_f4x3)
output_transform = device(transforms.output_transform_f4x3)
output_adjoint = device(transforms.output_adjoint_transform_f4x3)


class Filters(NamedTuple):
    """Filters w[group][summed channel][channel of the result][3][3] by strides, and what they are packed to."""

    cells: int  # pairs of packed channels, one for each thread
    ins: int
    outs: int
    ins_packed: int
    outs_packed: int
    w_0: int
    w_g: int
    w_c: int
    w_o: int
    w_h: int
    w_w: int


@lru_cache(maxsize=4)
def _filters_of(m: int) -> Any:
    alpha = m + 2
    g = tuple(tuple(float(value) for value in row) for row in winograd.transforms(m, 3)[1])

    @kernel
    def transform_filters(w, packed, suspects, p):
        """packed[group][point][summed channel][channel] = G w G^T, zeros beyond; suspects[0] becomes 0."""
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i == 0:
            suspects[0] = 0
        if i >= p.cells:
            return
        line = quotient(i, p.outs_packed)
        o = i - line * p.outs_packed
        group = quotient(line, p.ins_packed)
        c = line - group * p.ins_packed
        rows, taps = cuda.local.array(3 * 6, float64), cuda.local.array(9, float64)
        inside = c < p.ins and o < p.outs
        at = p.w_0 + group * p.w_g + c * p.w_c + o * p.w_o
        for a in range(3):
            for b in range(3):
                taps[3 * a + b] = w[at + a * p.w_h + b * p.w_w] if inside else 0.0
        for r in range(alpha):
            for b in range(3):
                rows[3 * r + b] = g[r][0] * taps[b] + g[r][1] * taps[3 + b] + g[r][2] * taps[6 + b]
        to = (group * alpha * alpha * p.ins_packed + c) * p.outs_packed + o
        for r in range(alpha):
            for q in range(alpha):
                value = g[q][0] * rows[3 * r] + g[q][1] * rows[3 * r + 1] + g[q][2] * rows[3 * r + 2]
                packed[to + (alpha * r + q) * p.ins_packed * p.outs_packed] = value

    return transform_filters


def transform_filters(
    p: Conv, backward: bool, m: int, w: Flat, packed: Any, suspects: Any, ins_packed: int, outs_packed: int
) -> None:
    """The filters of F(m x m, 3 x 3); those of the input gradient turned around, their channels exchanged."""
    r = sizes.roles(p, backward)
    o, i, w_h, w_w = w.strides
    start, w_c, w_o = w.start, i, o
    if backward:
        start, w_c, w_o, w_h, w_w = start + 2 * w_h + 2 * w_w, o, i, -w_h, -w_w
    pairs = p.g * ins_packed * outs_packed
    numbers: Any = (pairs, r.ins, r.outs, ins_packed, outs_packed, start, p.ocg * o, w_c, w_o, w_h, w_w)
    run(
        _filters_of(m), ceil_div(pairs, THREADS), THREADS, w, w.memory, packed, suspects, int32s(Filters, numbers)
    )  # fmt: skip


class Shape(NamedTuple):
    """The numbers of a run of tiles: source image x, target image y. Strides in elements."""

    ins: int  # channels of a group of the source
    outs: int  # of the target
    ins_packed: int
    outs_packed: int
    first: int  # tile of the run
    length: int  # tiles of a run, as scratch memory has them
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
    v_c: int  # of the transformed source
    v_t: int
    bias: int  # flags
    residual: int


@lru_cache(maxsize=4)
def inputs_of(nhwc: bool, gradient: bool = False) -> Any:
    """B^T d B of tiles of the source, or A d A^T of tiles of M x M: of a gradient, for that of the filters."""
    beside = CHANNELS if nhwc else 1  # channels of a block
    along = THREADS // beside  # tiles of a block
    side = M if gradient else ALPHA

    if gradient:

        @device
        def transform(d, i, step):
            d[i], d[i + step], d[i + 2 * step], d[i + 3 * step], d[i + 4 * step], d[i + 5 * step] = output_adjoint(
                d[i], d[i + step], d[i + 2 * step], d[i + 3 * step]
            )

    else:

        @device
        def transform(d, i, step):
            d[i], d[i + step], d[i + 2 * step], d[i + 3 * step], d[i + 4 * step], d[i + 5 * step] = input_transform(
                d[i], d[i + step], d[i + 2 * step], d[i + 3 * step], d[i + 4 * step], d[i + 5 * step]
            )

    @kernel
    def transform_inputs(x, v, suspects, p):
        """v[group][point][..], by strides of channel and tile: one tile of one channel for each thread, zeros beyond.
        For a gradient suspects[0] becomes 0."""
        t = cuda.threadIdx.x
        tile, c = cuda.blockIdx.x * along + t // beside, cuda.blockIdx.y * beside + t % beside
        group = cuda.blockIdx.z
        if gradient and tile == 0 and c == 0 and group == 0:
            suspects[0] = 0
        if tile >= p.length or c >= p.ins_packed:
            return
        d = cuda.local.array(POINTS, float32)
        mine = p.first + tile
        n = quotient(mine, p.tiles_h * p.tiles_w)
        rest = mine - n * p.tiles_h * p.tiles_w
        tile_h = quotient(rest, p.tiles_w)
        row, column = M * tile_h - p.ph, M * (rest - tile_h * p.tiles_w) - p.pw
        alive = mine < p.tiles and c < p.ins
        at = p.x_0 + n * p.x_n + (group * p.ins + c) * p.x_c + row * p.x_h + column * p.x_w
        for i in range(side):
            for j in range(side):
                value = float32(0)
                if alive and row + i >= 0 and row + i < p.ih and column + j >= 0 and column + j < p.iw:
                    value = x[at + i * p.x_h + j * p.x_w]
                d[ALPHA * i + j] = value
        for j in range(side):
            transform(d, j, ALPHA)
        step = p.ins_packed * p.length
        to = group * POINTS * step + c * p.v_c + tile * p.v_t
        for i in range(ALPHA):
            transform(d, ALPHA * i, 1)
            for j in range(ALPHA):
                v[to + (ALPHA * i + j) * step] = d[ALPHA * i + j]

    return transform_inputs


class Product(NamedTuple):
    """The sizes of matrices whose rows lie without gaps, one pair of them after the other."""

    depth: int
    rows: int
    columns: int


@lru_cache(maxsize=8)
def products_of(tile: Tile) -> Any:
    threads, rows, columns = tile.threads, tile.rows, tile.columns
    high, wide = tile.thread_rows, tile.thread_columns
    results, row_stride, column_stride = high * wide, tile.row_stride, tile.column_stride
    right = 2 * DEPTH * row_stride
    row_quads, column_quads = rows // QUAD, columns // QUAD
    count = DEPTH * columns // threads
    keep, of_slot, slots, slot_stride, rounds = rounds_of(tile, True)
    passes = threads // columns
    multiply = multiply_of(tile)
    first_row, first_column = corner_of(tile)

    @device
    def fetch(u, v, left, values, from_u, from_v, next_v):
        left[0], left[1], left[2], left[3] = load4(u, from_u)
        for q in range(count // QUAD):
            values[4 * q], values[4 * q + 1], values[4 * q + 2], values[4 * q + 3] = load4(v, from_v + q * next_v)

    @kernel(registers=REGISTERS if results == MANY_RESULTS else None)
    def products(u, v, m, p):
        """m[z][row][column] = the sum over the depth of u[z][..][row] x v[z][..][column]."""
        s = cuda.shared.array(0, float32)
        sums = cuda.local.array(results, float32)
        a, b = cuda.local.array(high, float32), cuda.local.array(wide, float32)
        left, values = cuda.local.array(QUAD, float32), cuda.local.array(count, float32)
        for r in range(results):
            sums[r] = float32(0)
        t, z = cuda.threadIdx.x, cuda.blockIdx.z
        left_column, top_row = cuda.blockIdx.x * columns, cuda.blockIdx.y * rows
        from_u = (z * p.depth + t // row_quads) * p.rows + top_row + t % row_quads * QUAD
        k, quad = t // column_quads, t % column_quads
        from_v = (z * p.depth + k) * p.columns + left_column + quad * QUAD
        apart = threads // column_quads  # rows of the slice between a thread's quads
        fetch(u, v, left, values, from_u, from_v, apart * p.columns)
        slot, rest = 0, p.depth
        while rest > 0:
            t = afresh(t) & (threads - 1)  # what follows from it takes no registers meanwhile
            k, quad = t // column_quads, t % column_quads
            at = (slot * DEPTH + t // row_quads) * row_stride + t % row_quads * QUAD
            store4(s, at, left[0], left[1], left[2], left[3])
            for q in range(count // QUAD):
                at = right + (slot * DEPTH + k + q * apart) * column_stride + quad * QUAD
                store4(s, at, values[4 * q], values[4 * q + 1], values[4 * q + 2], values[4 * q + 3])
            cuda.syncthreads()
            from_u += DEPTH * p.rows
            from_v += DEPTH * p.columns
            rest -= DEPTH
            if rest > 0:
                fetch(u, v, left, values, from_u, from_v, apart * p.columns)
            row = slot * DEPTH * row_stride + first_row(t)
            multiply(s, row, right + slot * DEPTH * column_stride + first_column(t), a, b, sums)
            slot = 1 - slot
        cuda.syncthreads()
        to = (z * p.rows + top_row) * p.columns + left_column
        for r in range(rounds):
            t = afresh(t) & (threads - 1)
            keep(s, sums, r, t)
            cuda.syncthreads()
            half = r % 2 * slots * slot_stride + t % columns
            for e in range(slots // passes):
                slot = t // columns + e * passes
                m[to + t % columns + of_slot(slot, r) * p.columns] = s[half + slot * slot_stride]

    return products


def multiply(tile: Tile, number: int, depth: int, rows: int, columns: int, of: Flat, u: Any, v: Any, m: Any) -> None:
    """`number` products of matrices, whole tiles each."""
    run(
        products_of(tile), (columns // tile.columns, rows // tile.rows, number), tile.threads, of, u, v, m,
        int32s(Product, (depth, rows, columns)), shared=4 * tile.slices,
    )  # fmt: skip


def transforms_grid(channels: int, length: int, groups: int, nhwc: bool) -> tuple[int, int, int]:
    """Blocks of a pass that transforms tiles."""
    beside = CHANNELS if nhwc else 1
    return ceil_div(length, THREADS // beside), ceil_div(channels, beside), groups


@lru_cache(maxsize=4)
def _outputs_of(nhwc: bool) -> Any:
    beside = CHANNELS if nhwc else 1
    along = THREADS // beside

    @kernel
    def transform_outputs(m, bias, residual, y, suspects, low, high, p):
        """A^T m A and the epilogue, one tile of one channel for each thread; what is not finite becomes NaN."""
        t = cuda.threadIdx.x
        tile, o = cuda.blockIdx.x * along + t // beside, cuda.blockIdx.y * beside + t % beside
        group = cuda.blockIdx.z
        mine = p.first + tile
        if tile >= p.length or mine >= p.tiles or o >= p.outs:
            return
        d = cuda.local.array(POINTS, float32)
        values = cuda.local.array(M, float32)
        n = quotient(mine, p.tiles_h * p.tiles_w)
        rest = mine - n * p.tiles_h * p.tiles_w
        tile_h = quotient(rest, p.tiles_w)
        row, column = M * tile_h, M * (rest - tile_h * p.tiles_w)
        at = (group * POINTS * p.outs_packed + o) * p.length + tile
        for e in range(POINTS):
            d[e] = m[at + e * p.outs_packed * p.length]
        for j in range(ALPHA):
            d[j], d[6 + j], d[12 + j], d[18 + j] = output_transform(
                d[j], d[6 + j], d[12 + j], d[18 + j], d[24 + j], d[30 + j]
            )
        channel = group * p.outs + o
        addend = bias[channel] if p.bias else float32(0)
        for i in range(afresh(M)):  # not unrolled: the code of sixteen outputs would be long
            for e in range(ALPHA):
                value = d[e]
                for other in range(1, M):
                    value = select(other == i, d[ALPHA * other + e], value)
                d[24 + e] = value
            values[0], values[1], values[2], values[3] = output_transform(
                d[24], d[25], d[26], d[27], d[28], d[29]
            )
            if row + i < p.oh:
                for j in range(M):
                    if column + j < p.ow:
                        to = n * p.y_n + channel * p.y_c + (row + i) * p.y_h + (column + j) * p.y_w
                        total = values[j] + addend
                        if p.residual:
                            total += residual[to]
                        if math.isfinite(total):
                            y[to] = finish(total, low, high)
                        else:
                            suspects[0] = 1
                            y[to] = float32(math.nan)

    return transform_outputs


def convolve(p: Conv, backward: bool, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any) -> None:
    """F(4x4,3x3) of a forward pass or an input gradient."""
    fx, fw, fy = flat(x), flat(w), flat(y)
    if fy.array.size == 0:
        return
    r, cut = sizes.roles(p, backward), sizes.winograd_passes(p, backward)
    suspects, packed, v, m = carve(workspace, ("int32", 1), *(("float32", count) for count in cut.elements))
    transform_filters(p, backward, M, fw, packed, suspects, cut.ins, cut.outs)
    residual = matching(residual, y)
    fb, fr = (fy if a is None else flat(a) for a in (bias, residual))
    tiles_h, tiles_w = ceil_div(r.target[0], M), ceil_div(r.target[1], M)
    ph, pw = (2 - p.ph, 2 - p.pw) if backward else (p.ph, p.pw)
    length = cut.length
    nhwc_source, nhwc_target = (f.strides[1] == 1 and f.strides[3] != 1 for f in (fx, fy))
    for first in range(0, p.mb * tiles_h * tiles_w, length):
        numbers: Any = (
            r.ins, r.outs, cut.ins, cut.outs, first, length, p.mb * tiles_h * tiles_w, tiles_h, tiles_w, *r.source,
            *r.target, ph, pw, fx.start, *fx.strides, *fy.strides, length, 1, bias is not None, residual is not None,
        )  # fmt: skip
        shape = int32s(Shape, numbers)
        grid = transforms_grid(cut.ins, length, p.g, nhwc_source)
        run(inputs_of(nhwc_source), grid, THREADS, fx, fx.memory, v, suspects, shape)
        multiply(cut.tile, p.g * POINTS, cut.ins, cut.outs, length, fx, packed, v, m)
        run(
            _outputs_of(nhwc_target), transforms_grid(r.outs, length, p.g, nhwc_target), THREADS, fx, m, fb.memory,
            fr.memory, fy.memory, suspects, float32(p.low), float32(p.high), shape,
        )  # fmt: skip
    repair(p, backward, fx, fw, bias, residual, fy, suspects)
