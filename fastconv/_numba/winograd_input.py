"""What the Winograd convolution and its weight gradient share: tiles of images through a transform, in both layouts.

result[point][tile][channel]: NCHW is transposed to channels-last strips of one vector of channels on the way. Tiles are
numbered along the rows of tiles of all images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import strides
from fastconv._numba.emit import Emitter, Fields, Whole
from fastconv._numba.vector import I64, intrinsic, numbers, outlined, scalar_type
from fastconv._numba.winograd_calls import emit_call

Array = np.ndarray

PATCH = blocking.WINOGRAD_PATCH


class Source(NamedTuple):
    """Images of which each tile reads a patch, with zeros around them; strides in elements."""

    transform: int  # addresses, as winograd_calls.py gives them
    gather: int
    channels: int  # of a group
    height: int
    width: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int
    top: int  # tile (0, 0) begins at row -top
    left: int
    patch_h: int
    patch_w: int
    along: int  # stride of a line of cells, in one dimension the one it runs along
    row: int  # of the result, from tile to tile
    point: int  # and from point to point
    tile_h: int
    tile_w: int
    tiles_h: int
    tiles_w: int
    band_rows: int  # rows of tiles taken at once in NCHW


source_numbers = numbers(Source)


def source_of(
    p: Conv, grid: blocking.WinogradGrid, transform: int, gather: int, channels: int, size: tuple[int, int],
    pad: tuple[int, int], patch: tuple[int, int], row: int, point: int,
) -> Array:  # fmt: skip
    """Source of dense images of that size, as an array."""
    s_n, s_c, s_h, s_w = strides(p.nhwc, p.g * channels, *size)
    source = Source(
        transform, gather, channels, *size, s_n, s_c, s_h, s_w, *pad, *patch, s_w if p.kh == 1 else s_h,
        row, point, grid.tile_h, grid.tile_w, grid.tiles_h, grid.tiles_w, grid.band_rows,
    )  # fmt: skip
    return np.array(source, np.int64)


@intrinsic
def transform_channels_last(typingctx, x, memory, begin, patch, p, group, start, end):
    """NHWC: memory[begin + point * p.point + (tile - start) * p.row + channel] of tiles start..end of one group.

    p : a Source; scratch from memory[patch] on.
    """
    return _transform("channels_last", _channels_last, x, memory, p)


@intrinsic
def transform_planes(typingctx, x, memory, begin, strip, p, group, start, end):
    """NCHW: the same, with scratch from `strip` on."""
    return _transform("planes", _planes, x, memory, p)


def _transform(name: str, emit: Callable[..., None], x: types.Array, memory: types.Array, p: types.Record) -> Any:
    """Typing and code of a transform of tiles."""
    i8 = types.int64

    def body(builder, kinds, x, result, scratch, p, group, start, end):
        e = Emitter(builder, scalar_type(kinds[0]))
        emit(e, x, result, scratch, Fields(builder, kinds[3], p), *map(e.whole, (group, start, end)))

    code = outlined(f"transform_{name}", body)

    def codegen(context, builder, sig, args):
        kinds = (x, i8, memory, i8, memory, i8, p, i8, i8, i8)
        x_value, memory_value, begin, scratch, *rest = args
        values = (x_value, I64(0), memory_value, begin, memory_value, scratch, *rest)
        return code(context, builder, types.void(*kinds), values)

    return types.void(x, memory, i8, i8, p, i8, i8, i8), codegen


def place_of(e: Emitter, p: Fields, tile: Whole) -> tuple[Whole, Whole, Whole]:
    """Image, first row and first column of a tile's result."""
    line = tile // p.tiles_w
    return line // p.tiles_h, line % p.tiles_h * p.tile_h, tile % p.tiles_w * p.tile_w


def _channels_last(
    e: Emitter, x: ir.Value, result: ir.Value, patch: ir.Value, p: Fields, group: Whole, start: Whole, end: Whole
) -> None:
    lanes = e.lanes
    vectors = p.channels // lanes * lanes
    with e.each(end - start) as k:
        n, row, col = place_of(e, p, start + k)
        row, col = row - p.top, col - p.left
        image, to = e.place(x, n * p.s_n + group * p.channels), e.place(result, k * p.row)
        below, right = row + p.patch_h <= p.height, col + p.patch_w <= p.width
        inside = e.both(e.both(row >= 0, col >= 0), e.both(below, right))
        done = vectors.where(inside, 0)
        with e.when(done > 0):
            emit_call(
                e, "input", p.transform, source=e.place(image, row * p.s_h + col * p.s_w), row=p.along, column=p.s_w,
                count=done, target=to, point=p.point,
            )  # fmt: skip
        with e.each(p.channels - done, PATCH) as rest:
            c = done + rest
            count = (p.channels - c).least(PATCH)
            padded = (count + lanes - 1) // lanes * lanes
            _fill_patch(e, e.place(image, c), patch, p, row, col, count, padded)
            along = padded.where(p.patch_h.equals(1), p.patch_w * padded)
            emit_call(
                e, "input", p.transform, source=patch, row=along, column=padded, count=padded,
                target=e.place(to, c), point=p.point,
            )  # fmt: skip


def _fill_patch(
    e: Emitter, image: ir.Value, patch: ir.Value, p: Fields, row: Whole, col: Whole, count: Whole, padded: Whole
) -> None:
    """patch[r][q][channel] of one tile: `count` channels, zeros up to `padded` and around the image."""
    first = (0 - col).most(0).least(p.patch_w)
    last = (p.width - col).least(p.patch_w).most(first)
    together = e.both(count.equals(padded), count.equals(p.s_w))  # the cells of a row follow each other as in the patch
    with e.each(p.patch_h) as r:
        to = e.place(patch, r * p.patch_w * padded)
        y = row + r
        inside = e.both(e.both(y >= 0, y < p.height), first < last)
        with e.either(inside) as (some, none):
            with some:
                from_ = e.place(image, y * p.s_h + (col + first) * p.s_w)
                e.zero(to, first * padded)
                target = e.place(to, first * padded)
                with e.either(together) as (at_once, one_by_one):
                    with at_once:
                        e.copy(from_, target, (last - first) * padded)
                    with one_by_one, e.each(last - first) as q:
                        cell = e.place(target, q * padded)
                        e.copy(e.place(from_, q * p.s_w), cell, count)
                        e.zero(e.place(cell, count), padded - count)
                e.zero(e.place(to, last * padded), (p.patch_w - last) * padded)
            with none:
                e.zero(to, p.patch_w * padded)


def band_rows(e: Emitter, p: Fields, tile: Whole, end: Whole) -> tuple[Whole, Whole]:
    """Tiles of a row, and rows of tiles, that are taken at once from a tile on: whole rows of one image, as many as
    `p.band_rows`, or a part of one row."""
    column, line = tile % p.tiles_w, tile // p.tiles_w
    rows = ((end - tile) // p.tiles_w).least(p.tiles_h - line % p.tiles_h).least(p.band_rows)
    whole = e.both(column.equals(0), rows > 0)
    return p.tiles_w.where(whole, (p.tiles_w - column).least(end - tile)), rows.where(whole, 1)


def _planes(
    e: Emitter, x: ir.Value, result: ir.Value, strip: ir.Value, p: Fields, group: Whole, start: Whole, end: Whole
) -> None:
    lanes = e.lanes
    done = e.variable(start.value)
    with e.during(lambda: e.whole(e.get(done)) < end):
        t = e.whole(e.get(done))
        count, rows = band_rows(e, p, t, end)
        n, row, col = place_of(e, p, t)
        row, col = row - p.top, col - p.left
        height, width = (rows - 1) * p.tile_h + p.patch_h, (count - 1) * p.tile_w + p.patch_w
        top, left = (0 - row).most(0).least(height), (0 - col).most(0).least(width)
        bottom, right = height.least(p.height - row).most(top), width.least(p.width - col).most(left)
        pixels = (bottom - top) * (right - left)
        with e.when(pixels < height * width):
            e.zero(strip, height * width * lanes)
        whole = (right - left).equals(p.width)  # the rows follow each other in memory
        along = e.whole(lanes).where(p.patch_h.equals(1), width * lanes)
        to = e.place(strip, (top * width + left) * lanes)
        # all rows at once, or one by one
        lines = e.whole(1).where(whole, bottom - top).where(left < right, 0)
        line_pixels = pixels.where(whole, right - left)
        image = e.place(x, n * p.s_n + group * p.channels * p.s_c + (row + top) * p.s_h + col + left)
        with e.each(p.channels, lanes) as c:
            channels = (p.channels - c).least(lanes)
            with e.each(lines) as r:
                emit_call(
                    e, "gather", p.gather, source=e.place(image, c * p.s_c + r * p.s_h), stride=p.s_c,
                    channels=channels, pixels=line_pixels, width=p.width.where(whole, line_pixels),
                    skip=(width - p.width).where(whole, 0), target=e.place(to, r * width * lanes),
                )  # fmt: skip
            with e.each(rows * count) as q:
                from_ = e.place(strip, (q // count * p.tile_h * width + q % count * p.tile_w) * lanes)
                emit_call(
                    e, "input", p.transform, source=from_, row=along, column=e.whole(lanes), count=e.whole(lanes),
                    target=e.place(result, (t - start + q) * p.row + c), point=p.point,
                )  # fmt: skip
        e.set(done, (t + rows * count).value)
