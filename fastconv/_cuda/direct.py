"""Thin first layers: few input channels, whose filter cells and channels are one axis of the product of matrices.

im2col.py takes channels in slices of 8 for each filter cell, and would mostly multiply zeros here. Channels and filter
size are constants of the code, so which cell and channel a row of a slice stands for costs a few instructions. The
image is small beside the result and comes from the L1; the result is written once. Weight gradient: all filters of a
layer fit beside one block's columns, so the gradient of the output is read once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastconv._cuda import Conv, sizes
from fastconv._cuda.compiler import afresh, cuda, device, kernel, load4, quotient, store4
from fastconv._cuda.copying import matching
from fastconv._cuda.gemm import QUAD, REGISTERS, TYPES, corner_of, multiply_of, rounds_of
from fastconv._cuda.im2col import Gradient, Shape, add_parts, pack_filters, writer_of
from fastconv._cuda.launch import carve, flat, int32s, run
from fastconv._cuda.sizes import DEPTH, Tile, ceil_div


@lru_cache(maxsize=64)
def _convolve_of(dtype: str, tile: Tile, nhwc: bool, ins: int, kh: int, kw: int) -> Any:
    T = TYPES[dtype]
    threads, rows, columns = tile.threads, tile.rows, tile.columns
    thread_rows, thread_columns = tile.thread_rows, tile.thread_columns
    results, row_stride, column_stride = thread_rows * thread_columns, tile.row_stride, tile.column_stride
    right = 2 * DEPTH * row_stride
    row_quads = rows // QUAD
    count, apart = DEPTH * columns // threads, threads // columns
    depth = ins * kh * kw
    keep, write, rounds = writer_of(tile, nhwc, False)
    multiply = multiply_of(tile)
    first_row, first_column = corner_of(tile)

    @device
    def fetch(x, packed, left, pixel, k, h0, v0, alive, image, weight_row, weights, p):
        """One quad of filters, and `count` cells of the image: rows k, k + apart, ... of a slice."""
        if weight_row < depth:
            left[0], left[1], left[2], left[3] = load4(packed, weights)
        else:
            left[0], left[1], left[2], left[3] = T(0), T(0), T(0), T(0)
        for r in range(count):
            q = k + r * apart
            cell = quotient(q, ins)
            a = quotient(cell, kw)
            h, v = h0 + a * p.dh, v0 + (cell - a * kw) * p.dw
            value = T(0)
            if alive and q < depth and h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                value = x[image + (q - cell * ins) * p.x_c + h * p.x_h + v * p.x_w]
            pixel[r] = value

    @device
    def stash(s, left, pixel, slot, t):
        store4(
            s, (slot * DEPTH + t // row_quads) * row_stride + t % row_quads * QUAD, left[0], left[1], left[2], left[3]
        )
        for r in range(count):
            s[right + (slot * DEPTH + t // columns + r * apart) * column_stride + t % columns] = pixel[r]

    @kernel(registers=REGISTERS if threads == 256 else None)
    def convolve(x, packed, bias, residual, y, suspects, low, high, p):
        s = cuda.shared.array(0, T)
        sums = cuda.local.array(results, T)
        a, b = cuda.local.array(thread_rows, T), cuda.local.array(thread_columns, T)
        left, pixel = cuda.local.array(QUAD, T), cuda.local.array(count, T)
        for r in range(results):
            sums[r] = T(0)
        t = cuda.threadIdx.x
        first_pixel, first_out = cuda.blockIdx.x * columns, cuda.blockIdx.y * rows
        plane = p.height * p.width
        mine = first_pixel + t % columns
        alive = mine < p.mb * plane
        n = quotient(mine, plane)
        i = quotient(mine - n * plane, p.width)
        h0, v0 = i * p.sh - p.ph, (mine - n * plane - i * p.width) * p.sw - p.pw
        image = p.x_0 + n * p.x_n
        k, weight_row = t // columns, t // row_quads
        weights = weight_row * p.outs_packed + first_out + t % row_quads * QUAD
        fetch(x, packed, left, pixel, k, h0, v0, alive, image, weight_row, weights, p)
        slot = 0
        for start in range(0, depth, DEPTH):
            t = afresh(t) & (threads - 1)  # what follows from it takes no registers meanwhile
            stash(s, left, pixel, slot, t)
            cuda.syncthreads()
            k += DEPTH
            weight_row += DEPTH
            weights += DEPTH * p.outs_packed
            if start + DEPTH < depth:
                fetch(x, packed, left, pixel, k, h0, v0, alive, image, weight_row, weights, p)
            row = slot * DEPTH * row_stride + first_row(t)
            multiply(s, row, right + slot * DEPTH * column_stride + first_column(t), a, b, sums)
            slot = 1 - slot
        cuda.syncthreads()
        for r in range(rounds):
            t = afresh(t) & (threads - 1)
            keep(s, sums, r, t)
            cuda.syncthreads()
            write(
                s, bias, residual, y, suspects, r, t, first_pixel, first_out, 0, 0, 0, p.height, p.width, low,
                high, p,
            )  # fmt: skip

    return convolve


@lru_cache(maxsize=64)
def _correlate_of(dtype: str, tile: Tile, by_pixel: bool, ins: int, kh: int, kw: int) -> Any:
    T = TYPES[dtype]
    threads, rows, columns = tile.threads, tile.rows, tile.columns
    high, wide = tile.thread_rows, tile.thread_columns
    results, row_stride, column_stride = high * wide, tile.row_stride, tile.column_stride
    right = 2 * DEPTH * row_stride
    lanes = threads // DEPTH
    lefts, rights = DEPTH * rows // threads, DEPTH * columns // threads
    depth = ins * kh * kw
    keep, of_slot, slots, slot_stride, rounds = rounds_of(tile, False)
    passes = threads // rows
    multiply = multiply_of(tile)
    first_row, first_column = corner_of(tile)

    @device
    def fetch(x, dy, left, pixel, n, i, j, alive, lane, first_in, first_out, p):
        """Output channels and image cells of one pixel: those of the thread's lane; zeros outside."""
        to = p.y_0 + n * p.y_n + i * p.y_h + j * p.y_w
        for r in range(lefts):
            o = first_out + lane + r * lanes
            left[r] = dy[to + o * p.y_c] if alive and o < p.outs else T(0)
        for r in range(rights):
            q = first_in + lane + r * lanes
            cell = quotient(q, ins)
            a = quotient(cell, kw)
            h, v = i * p.sh + a * p.dh - p.ph, j * p.sw + (cell - a * kw) * p.dw - p.pw
            value = T(0)
            if alive and q < depth and h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                value = x[p.x_0 + n * p.x_n + (q - cell * ins) * p.x_c + h * p.x_h + v * p.x_w]
            pixel[r] = value

    @kernel
    def correlate(x, dy, sums_of_parts, p):
        s = cuda.shared.array(0, T)
        sums = cuda.local.array(results, T)
        a, b = cuda.local.array(high, T), cuda.local.array(wide, T)
        left, pixel = cuda.local.array(lefts, T), cuda.local.array(rights, T)
        for r in range(results):
            sums[r] = T(0)
        t, part = cuda.threadIdx.x, cuda.blockIdx.z
        first_in, first_out = cuda.blockIdx.x * columns, cuda.blockIdx.y * rows
        k, lane = t // lanes, t % lanes
        if by_pixel:
            k, lane = t % DEPTH, t // DEPTH
        pix = part * p.part + k
        rest = min(p.part, p.pixels - part * p.part)  # pixels to come
        n = quotient(pix, p.oh * p.ow)
        i = quotient(pix - n * p.oh * p.ow, p.ow)
        j = pix - n * p.oh * p.ow - i * p.ow
        slot, steps = 0, quotient(rest + DEPTH - 1, DEPTH)
        for step in range(steps + 1):
            if step > 0:
                for r in range(lefts):
                    s[(slot * DEPTH + k) * row_stride + lane + r * lanes] = left[r]
                for r in range(rights):
                    s[right + (slot * DEPTH + k) * column_stride + lane + r * lanes] = pixel[r]
                cuda.syncthreads()
            if step < steps:
                fetch(x, dy, left, pixel, n, i, j, k < rest, lane, first_in, first_out, p)
            if step > 0:
                t = afresh(t) & (threads - 1)  # what follows from it takes no registers meanwhile
                row = slot * DEPTH * row_stride + first_row(t)
                multiply(s, row, right + slot * DEPTH * column_stride + first_column(t), a, b, sums)
                slot = 1 - slot
            rest -= DEPTH
            j += DEPTH
            while j >= p.ow:
                j -= p.ow
                i += 1
            while i >= p.oh:
                i -= p.oh
                n += 1

        cuda.syncthreads()
        for r in range(rounds):
            t = afresh(t) & (threads - 1)
            keep(s, sums, r, t)
            cuda.syncthreads()
            o = first_out + t % rows
            half = r % 2 * slots * slot_stride + t % rows
            for e in range(slots // passes):
                slot = t // rows + e * passes
                q = first_in + of_slot(slot, r)
                if o < p.outs and q < depth:
                    sums_of_parts[(part * depth + q) * p.outs + o] = s[half + slot * slot_stride]

    return correlate


def conv2d_forward_direct__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    tile, outs_packed, count = sizes.direct_packed(p)
    fx, fw, fy = flat(x), flat(w), flat(y)
    if fy.array.size == 0:
        return
    residual = matching(residual, y)
    suspects, packed = carve(workspace, ("int32", 1), (p.dtype, count))
    pack_filters(p, False, fw, packed, suspects, p.icg, outs_packed)
    y_n, y_c, y_h, y_w = fy.strides
    linear = y_h == p.ow * y_w and y_n == p.oh * y_h
    numbers: Any = (
        p.mb, p.oh, p.ow, p.icg, p.ocg, p.icg, outs_packed, p.ih, p.iw, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw,
        fx.start, *fx.strides, *fy.strides, bias is not None, residual is not None, linear,
    )  # fmt: skip
    T = TYPES[p.dtype]
    fb, fr = (fy if a is None else flat(a) for a in (bias, residual))
    run(
        _convolve_of(p.dtype, tile, y_c == 1 and y_w != 1, p.icg, p.kh, p.kw),
        (ceil_div(p.mb * p.oh * p.ow, tile.columns), outs_packed // tile.rows), tile.threads, fx, fx.memory, packed,
        fb.memory, fr.memory, fy.memory, suspects, T(p.low), T(p.high), int32s(Shape, numbers),
        shared=tile.slices * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip


def conv2d_backward_weight_direct__cuda(p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int) -> None:
    cut = sizes.direct_split(p)
    fx, fy, fw = flat(x), flat(dy), flat(dw)
    (parts,) = carve(workspace, (p.dtype, cut.parts * cut.elements))
    numbers: Any = (
        1, p.icg, p.ocg, p.mb * p.oh * p.ow, cut.pixels, p.ih, p.iw, p.oh, p.ow, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw,
        p.dh, p.dw, fx.start, *fx.strides, fy.start, *fy.strides,
    )  # fmt: skip
    tile = cut.tile
    run(
        _correlate_of(p.dtype, tile, fy.strides[1] != 1, p.icg, p.kh, p.kw),
        (ceil_div(p.icg * p.kh * p.kw, tile.columns), ceil_div(p.ocg, tile.rows), cut.parts), tile.threads, fx,
        fx.memory, fy.memory, parts, int32s(Gradient, numbers), shared=tile.slices * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip
    add_parts(p, parts, cut.parts, fw)
