"""What the Winograd convolution and its weight gradient share: tiles of images through a transform, in both layouts.

result[point][tile][channel]: NCHW is transposed to channels-last strips of one vector of channels on the way. Tiles are
numbered along the rows of tiles of all images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import strides
from fastconv._numba.compile import jit
from fastconv._numba.integers import least, most, quotient, remainder
from fastconv._numba.vector import copy, numbers, vector_lanes, zero
from fastconv._numba.winograd_calls import call_gather, call_spread

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


@jit
def transform_channels_last(x, memory, begin, patch, p, group, start, end):
    """NHWC: memory[begin + point * p.point + (tile - start) * p.row + channel] of tiles start..end of one group.

    Scratch from `patch` on.
    """
    lanes = vector_lanes(memory)
    vectors = quotient(p.channels, lanes) * lanes
    for t in range(start, end):
        rest = quotient(t, p.tiles_w)
        row = remainder(rest, p.tiles_h) * p.tile_h - p.top
        col = remainder(t, p.tiles_w) * p.tile_w - p.left
        image = quotient(rest, p.tiles_h) * p.s_n + group * p.channels
        to = begin + (t - start) * p.row
        c = 0
        if row >= 0 and col >= 0 and row + p.patch_h <= p.height and col + p.patch_w <= p.width:
            call_spread(p.transform, x, image + row * p.s_h + col * p.s_w, p.along, p.s_w, vectors, memory, to, p.point)
            c = vectors
        while c < p.channels:
            count = least(PATCH, p.channels - c)
            padded = quotient(count + lanes - 1, lanes) * lanes
            _fill_patch(x, memory, patch, p, image + c, row, col, count, padded)
            along = padded if p.patch_h == 1 else p.patch_w * padded
            call_spread(p.transform, memory, patch, along, padded, padded, memory, to + c, p.point)
            c += count


@jit
def _fill_patch(x, memory, patch, p, image, row, col, count, padded):
    """patch[r][q][channel] of one tile: `count` channels, zeros up to `padded` and around the image."""
    first = least(most(-col, 0), p.patch_w)
    last = most(least(p.patch_w, p.width - col), first)
    together = count == padded and count == p.s_w  # the cells of a row follow each other as in the patch
    for r in range(p.patch_h):
        to = patch + r * p.patch_w * padded
        if row + r < 0 or row + r >= p.height or first == last:
            zero(memory, to, p.patch_w * padded)
            continue
        at = image + (row + r) * p.s_h + (col + first) * p.s_w
        zero(memory, to, first * padded)
        if together:
            copy(x, at, memory, to + first * padded, (last - first) * padded)
        else:
            for q in range(first, last):
                copy(x, at + (q - first) * p.s_w, memory, to + q * padded, count)
                zero(memory, to + q * padded + count, padded - count)
        zero(memory, to + last * padded, (p.patch_w - last) * padded)


@jit
def band_rows(p, t, end):
    """Whole rows of tiles from tile t on that lie in one image: those taken at once; 0 if not even one does."""
    if remainder(t, p.tiles_w) != 0:
        return 0
    rows = least(quotient(end - t, p.tiles_w), p.tiles_h - remainder(quotient(t, p.tiles_w), p.tiles_h))
    return least(p.band_rows, rows)


@jit
def transform_planes(x, memory, begin, strip, p, group, start, end):
    """NCHW: the same, with scratch from `strip` on."""
    lanes = vector_lanes(memory)
    t = start
    while t < end:
        rows = band_rows(p, t, end)
        count = p.tiles_w if rows else least(p.tiles_w - remainder(t, p.tiles_w), end - t)  # tiles of a row
        rows = most(rows, 1)
        rest = quotient(t, p.tiles_w)
        row = remainder(rest, p.tiles_h) * p.tile_h - p.top
        col = remainder(t, p.tiles_w) * p.tile_w - p.left
        height, width = (rows - 1) * p.tile_h + p.patch_h, (count - 1) * p.tile_w + p.patch_w
        top, left = least(most(-row, 0), height), least(most(-col, 0), width)
        bottom, right = most(top, least(height, p.height - row)), most(left, least(width, p.width - col))
        if top > 0 or bottom < height or left > 0 or right < width:
            zero(memory, strip, height * width * lanes)
        whole = right - left == p.width  # the rows follow each other in memory
        along = lanes if p.patch_h == 1 else width * lanes
        for c in range(0, p.channels, lanes):
            channels = least(lanes, p.channels - c)
            at = quotient(rest, p.tiles_h) * p.s_n + (group * p.channels + c) * p.s_c + (row + top) * p.s_h + col + left
            to = strip + (top * width + left) * lanes
            if left < right and whole:
                pixels = (bottom - top) * p.width
                call_gather(p.gather, x, at, p.s_c, channels, pixels, p.width, width - p.width, memory, to)
            elif left < right:
                for r in range(bottom - top):
                    call_gather(
                        p.gather, x, at + r * p.s_h, p.s_c, channels, right - left, right - left, 0,
                        memory, to + r * width * lanes,
                    )  # fmt: skip
            for q in range(rows * count):
                from_ = strip + (quotient(q, count) * p.tile_h * width + remainder(q, count) * p.tile_w) * lanes
                place = begin + (t - start + q) * p.row + c
                call_spread(p.transform, memory, from_, along, lanes, lanes, memory, place, p.point)
        t += rows * count
