"""Winograd's input gradient at stride 1 as the adjoint of its bilinear form:

    dx = sum over tiles of B [ U^T (A dy A^T) ] B^T,  tiles overlap by r - 1 cells

The tiles are those of the forward pass: where there is little padding they are fewer than those of the convolution of
dy with the turned filter. A task takes some whole images, since tiles add to their neighbours' cells, in blocks of
tiles. NHWC, one group. As csrc/winograd_adjoint.c.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv import winograd
from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat
from fastconv._numba.compile import kernel
from fastconv._numba.gemm import columns
from fastconv._numba.im2col import conv2d_backward_input_im2col__numba
from fastconv._numba.integers import least, most, quotient, remainder
from fastconv._numba.tasks import Run, claim, run_phases
from fastconv._numba.vector import numbers, panel_columns, put, vector_lanes, zero
from fastconv._numba.winograd_calls import call_add, call_addition, call_products, functions
from fastconv._numba.winograd_filters import filters_numbers, filters_of, pack_channels, pack_chunk, pack_tasks
from fastconv._numba.winograd_input import source_numbers, source_of, transform_channels_last

Array = np.ndarray

CHANNELS = blocking.WINOGRAD_CHANNELS


class Shape(NamedTuple):
    """The numbers of one adjoint input gradient beside those of its Source; strides in elements."""

    weights: int  # addresses, as winograd_calls.py gives them
    addition: int
    add: int
    products: int
    group: int  # 0: there is one
    mb: int
    outs: int  # channels of dx
    kh: int
    kw: int
    ih: int
    iw: int
    top: int
    left: int
    alpha_h: int
    alpha_w: int
    terms: int
    images: int  # of a task
    tiles: int  # of a block
    u_point: int
    m_point: int
    inputs_at: int  # where the parts of the workspace begin, beside the weights: those of the first thread
    products_at: int
    scratch_at: int
    private: int  # from thread to thread


shape_numbers = numbers(Shape)


@kernel("in1 out1 out1 outints1 ints1 ints1 int tickets")
def _add_images(dy, dx, memory, bad, source, shape, worker, tickets):
    """Adds some images; bad[0] becomes 1 where a sum is not finite."""
    s = source_numbers(source)
    p = shape_numbers(shape)
    lanes = vector_lanes(memory)
    own = worker * p.private
    v, products, scratch = p.inputs_at + own, p.products_at + own, p.scratch_at + own
    image = s.tiles_h * s.tiles_w
    row = p.iw * p.outs
    for task in claim(tickets):
        first, last = task * p.images, least(p.mb, task * p.images + p.images)
        zero(dx, first * p.ih * row, (last - first) * p.ih * row)
        for start in range(first * image, last * image, p.tiles):
            end = least(start + p.tiles, last * image)
            transform_channels_last(dy, memory, v, scratch, s, p.group, start, end)
            for c in range(0, p.outs, CHANNELS):
                count = least(CHANNELS, p.outs - c)
                call_products(
                    p.products, memory, v, s.row, s.point, memory, c * s.channels, p.u_point,
                    memory, products, p.m_point, p.alpha_h * p.alpha_w, count, end - start, s.channels, p.terms,
                )  # fmt: skip
                for t in range(start, end):
                    i = remainder(quotient(t, s.tiles_w), s.tiles_h) * s.tile_h - p.top
                    j = remainder(t, s.tiles_w) * s.tile_w - p.left
                    to = (quotient(t, image) * p.ih + i) * row + j * p.outs + c
                    from_ = products + (t - start) * CHANNELS
                    inside = i >= 0 and j >= 0 and i + p.alpha_h <= p.ih and j + p.alpha_w <= p.iw
                    vectors = quotient(count, lanes) * lanes if inside else 0
                    fault = 0
                    if vectors > 0:
                        fault = call_addition(p.addition, memory, from_, p.m_point, vectors, dx, to, row, p.outs)
                    rest = count - vectors
                    if rest > 0:
                        padded = quotient(rest + lanes - 1, lanes) * lanes
                        width = p.alpha_w * padded
                        zero(memory, scratch, p.alpha_h * width)
                        fault |= call_addition(
                            p.addition, memory, from_ + vectors, p.m_point, padded, memory, scratch, width, padded
                        )
                        for a in range(most(0, -i), least(p.alpha_h, p.ih - i)):
                            for b in range(most(0, -j), least(p.alpha_w, p.iw - j)):
                                place = to + a * row + b * p.outs + vectors
                                call_add(p.add, memory, scratch + a * width + b * padded, rest, dx, place)
                    if fault:
                        put(bad, 0, 1)


@kernel("in5 out1 ints1 ints1 ints1 int tickets")
def _pack(w, memory, source, shape, filters, worker, tickets):
    """Weights of some channels of dy, for one panel of channels of dx."""
    s = source_numbers(source)
    p = shape_numbers(shape)
    f = filters_numbers(filters)
    nr, chunk = panel_columns(memory), pack_chunk(memory)
    chunks = quotient(s.channels + chunk - 1, chunk)
    scratch = p.scratch_at + worker * p.private
    for task in claim(tickets):
        c, panel = remainder(task, chunks) * chunk, quotient(task, chunks)
        end = least(s.channels, c + chunk)
        pack_channels(w, f, memory, panel * s.channels * nr, scratch, p, s.gather, p.group, panel * nr, c, end)


@lru_cache(maxsize=256)
def _numbers(p: Conv, tile: str) -> tuple[Array, Array, blocking.WinogradAdjointBlocks]:
    """Source of dy, and Shape, as arrays; and the blocks."""
    b = blocking.winograd_adjoint_blocks(p, winograd.TILES[tile][0])
    grid, nr = b.grid, columns(p.dtype)
    call = functions(tile, p.dtype, "adjoint", "adjoint_moves")
    source = source_of(
        p, grid, call["output_adjoint"], call["gather"], p.ocg, (p.oh, p.ow), (0, 0), (grid.tile_h, grid.tile_w),
        b.row, b.point,
    )  # fmt: skip
    shape = Shape(
        call["weights"], call["input_adjoint"], call["add"], call["products"], 0, p.mb, p.icg, p.kh, p.kw, p.ih,
        p.iw, p.ph, p.pw, grid.alpha_h, grid.alpha_w, blocking.WINOGRAD_TERMS.get(tile, blocking.DEPTH_TERMS),
        b.images, b.tiles,
        blocking.ceil_div(p.icg, nr) * p.ocg * nr + blocking.WINOGRAD_PAD, b.product_point,
        b.weights, b.weights + b.inputs, b.weights + b.inputs + b.products, b.private(),
    )  # fmt: skip
    return source, np.array(shape, np.int64), b


def adjoint_input_gradient(p: Conv, tile: str, dy: Array, w: Array, dx: Array, workspace: Any, threads: int) -> None:
    """dx of the tile; where a sum is not finite, or there are none, that of im2col."""
    if dx.size == 0 or dy.size == 0:
        conv2d_backward_input_im2col__numba(p, dy, w, None, None, dx, workspace, threads)
        return
    source, shape, b = _numbers(p, tile)
    end = b.elements(threads) * dy.itemsize
    memory, bad = workspace[:end].view(p.dtype), workspace[end : end + 8].view(np.int64)
    bad[0] = 0
    w5 = w.reshape(1, p.ocg, p.icg, p.kh, p.kw).transpose(0, 2, 1, 3, 4)
    filters = filters_of(w5)
    dy_flat, dx_flat = flat(dy, p.nhwc), flat(dx, p.nhwc)
    pack, add_images = _pack[p.dtype], _add_images[p.dtype]

    def weights(tickets: Array, worker: int) -> None:
        pack(w5, memory, source, shape, filters, worker, tickets)

    def images(tickets: Array, worker: int) -> None:
        add_images(dy_flat, dx_flat, memory, bad, source, shape, worker, tickets)

    phases: list[tuple[int, Run]] = [
        (pack_tasks(1, p.icg, p.ocg, p.dtype), weights), (blocking.ceil_div(p.mb, b.images), images),
    ]  # fmt: skip
    run_phases(threads, *phases)
    if bad[0]:
        conv2d_backward_input_im2col__numba(p, dy, w, None, None, dx, workspace, threads)
