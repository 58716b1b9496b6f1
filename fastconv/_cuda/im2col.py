"""Convolutions as products of matrices whose pixels are gathered on the way into shared memory: no im2col matrix.

Forward and input gradient: rows are channels of the result, columns its pixels; the depth runs over filter cells, and
for each over channels in slices, so a thread finds its pixel's neighbour once for a filter cell. Filters are packed
first as [group][cell][channel][channel of the result], zeros up to whole tiles. The input gradient of larger strides
takes each residue class of the pixels for itself: the filter cells that reach it are those of no other class.
Weight gradient: rows are output channels, columns input channels of one filter cell, the depth runs over pixels, cut
among blocks; their sums are added in a fixed order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from fastconv._cuda import Conv, sizes
from fastconv._cuda.compiler import afresh, cuda, device, kernel, load4, quotient, store4, tf32
from fastconv._cuda.copying import matching
from fastconv._cuda.gemm import MANY_RESULTS, QUAD, REGISTERS, TYPES, corner_of, multiply_of, rounds_of
from fastconv._cuda.launch import THREADS, Flat, carve, flat, int32s, run
from fastconv._cuda.naive import finish, repair
from fastconv._cuda.sizes import DEPTH, Tile, ceil_div

# How pixels are read: neighbouring threads have neighbouring pixels; or runs of one pixel's channels, 16 bytes at once
# where they lie so, else one by one.
PIXELS, QUADS, CHANNELS = "pixels", "quads", "channels"

# A block that packs filters turns squares of so many channels.
SQUARE, SQUARE_THREADS = 32, 256


class Shape(NamedTuple):
    """The numbers of one launch: a source image is gathered, a target image written. Strides in elements."""

    mb: int
    height: int  # of the target
    width: int
    ins: int  # channels of a group of the source
    outs: int  # of the target
    ins_packed: int  # as the packed filters have them
    outs_packed: int
    ih: int  # of the source
    iw: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
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
    linear: int  # flag: the target's pixels lie one after the other


class Pack(NamedTuple):
    """Filters w[group][summed channel][channel of the result][cell] by strides, and what they are packed to."""

    ins: int
    outs: int
    ins_packed: int
    outs_packed: int
    kh: int
    kw: int
    w_0: int
    w_g: int
    w_c: int
    w_o: int
    w_h: int
    w_w: int
    turned: int  # the summed channels are nearer to each other than those of the result


@lru_cache(maxsize=4)
def _pack_of(dtype: str) -> Any:
    T = TYPES[dtype]
    step = SQUARE_THREADS // SQUARE

    @kernel
    def pack(w, packed, suspects, p):
        """One block for a square of channels of a group, cell after cell; suspects[0] becomes 0."""
        square = cuda.shared.array(0, T)
        t = cuda.threadIdx.x
        lane, line = t % SQUARE, t // SQUARE
        c0, o0, group = cuda.blockIdx.x * SQUARE, cuda.blockIdx.y * SQUARE, cuda.blockIdx.z
        if t == 0 and c0 == 0 and o0 == 0 and group == 0:
            suspects[0] = 0
        cells = p.kh * p.kw
        for cell in range(cells):
            at = p.w_0 + group * p.w_g + cell // p.kw * p.w_h + cell % p.kw * p.w_w
            to = (group * cells + cell) * p.ins_packed
            for i in range(line, SQUARE, step):
                c, o = c0 + i, o0 + lane
                if p.turned:
                    c, o = c0 + lane, o0 + i
                value = T(0)
                if c < p.ins and o < p.outs:
                    value = w[at + c * p.w_c + o * p.w_o]
                square[i * (SQUARE + 1) + lane] = value
            cuda.syncthreads()
            for i in range(line, SQUARE, step):
                if c0 + i < p.ins_packed and o0 + lane < p.outs_packed:
                    place = i * (SQUARE + 1) + lane
                    if p.turned:
                        place = lane * (SQUARE + 1) + i
                    packed[(to + c0 + i) * p.outs_packed + o0 + lane] = square[place]
            cuda.syncthreads()

    return pack


def pack_filters(
    p: Conv, backward: bool, w: Flat, packed: Any, suspects: Any, ins_packed: int, outs_packed: int
) -> None:
    """packed[group][cell][summed channel][channel of the result], zeros up to these numbers of channels."""
    r = sizes.roles(p, backward)
    o, i, w_h, w_w = w.strides
    w_c, w_o = (o, i) if backward else (i, o)
    turned = abs(w_c) < abs(w_o)
    pack = Pack(
        r.ins, r.outs, ins_packed, outs_packed, p.kh, p.kw, w.start, p.ocg * o, w_c, w_o, w_h, w_w, int(turned)
    )
    run(
        _pack_of(p.dtype), (ceil_div(ins_packed, SQUARE), ceil_div(outs_packed, SQUARE), p.g), SQUARE_THREADS, w,
        w.memory, packed, suspects, pack, shared=SQUARE * (SQUARE + 1) * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip


@device
def next_cell(cell, cells, at_h, at_w, p):
    """The next filter cell that reaches a residue class."""
    while True:
        cell += 1
        if cell >= cells:
            return cell
        a = quotient(cell, p.kw)
        h, v = at_h - a * p.dh, at_w - (cell - a * p.kw) * p.dw
        if quotient(h, p.sh) * p.sh == h and quotient(v, p.sw) * p.sw == v:
            return cell


@lru_cache(maxsize=32)
def writer_of(tile: Tile, nhwc: bool, backward: bool) -> tuple[Any, Any, int]:
    """(keep, write, rounds): the results of a tile of channels x pixels go out with their epilogue, in rounds of one
    row (NHWC: column) of each thread; a barrier stands between the two."""
    keep, of_slot, slots, slot_stride, rounds = rounds_of(tile, not nhwc)
    neighbours = tile.rows if nhwc else tile.columns  # threads that write neighbours
    passes = tile.threads // neighbours  # slots at a time

    @device
    def result(total, bias, residual, suspects, o, at, low, high, p):
        if p.bias:
            total += bias[o]
        if p.residual:
            total += residual[at]
        if backward and total != total:
            suspects[0] = 1
        return finish(total, low, high)

    @device
    def place(pixel, class_h, class_w, height, width, p):
        n = quotient(pixel, height * width)
        rest = pixel - n * height * width
        i = quotient(rest, width)
        j = rest - i * width
        if backward:
            i, j = class_h + i * p.sh, class_w + j * p.sw
        return n * p.y_n + i * p.y_h + j * p.y_w

    @device
    def write(
        s, bias, residual, y, suspects, r, t, first_pixel, first_out, group, class_h, class_w, height, width, low, high,
        p,
    ):  # fmt: skip
        pixels = p.mb * height * width
        half = r % 2 * slots * slot_stride + t % neighbours
        if nhwc:
            o = first_out + t % neighbours
            channel = group * p.outs + o
            for slot in range(t // neighbours, slots, passes):
                pixel = first_pixel + of_slot(slot, r)
                if o < p.outs and pixel < pixels:
                    to = pixel * p.y_w if p.linear else place(pixel, class_h, class_w, height, width, p)
                    to += channel * p.y_c
                    y[to] = result(s[half + slot * slot_stride], bias, residual, suspects, channel, to, low, high, p)
        elif first_pixel + t % neighbours < pixels:
            first = place(first_pixel + t % neighbours, class_h, class_w, height, width, p)
            for slot in range(t // neighbours, slots, passes):
                o = first_out + of_slot(slot, r)
                if o < p.outs:
                    channel = group * p.outs + o
                    to = first + channel * p.y_c
                    y[to] = result(s[half + slot * slot_stride], bias, residual, suspects, channel, to, low, high, p)

    return keep, write, rounds


@lru_cache(maxsize=64)
def _convolve_of(dtype: str, tile: Tile, reads: str, nhwc: bool, backward: bool) -> Any:
    T = TYPES[dtype]
    threads, rows, columns = tile.threads, tile.rows, tile.columns
    thread_rows, thread_columns = tile.thread_rows, tile.thread_columns
    results, row_stride, column_stride = thread_rows * thread_columns, tile.row_stride, tile.column_stride
    right = 2 * DEPTH * row_stride  # where the slices of the right operand begin
    row_quads = rows // QUAD
    assert DEPTH * row_quads == threads, "each thread fetches one quad of the filters"
    count = DEPTH * columns // threads  # elements of the image that each thread fetches
    apart = threads // columns  # PIXELS: rows of the slice from one of them to the next
    for_pixel = max(1, DEPTH // count)  # otherwise: threads that share a pixel
    by_pixel, by_quad, tensor = reads == PIXELS, reads == QUADS, tile.tensor
    most = REGISTERS if results == MANY_RESULTS else None
    keep, write, rounds = writer_of(tile, nhwc, backward)
    multiply = multiply_of(tile)
    first_row, first_column = corner_of(tile)

    @device
    def source(cell, h0, v0, alive, image, at_h, at_w, p):
        """Where the channels of the thread's pixel lie for a filter cell, and whether it is inside the image."""
        a = quotient(cell, p.kw)
        b = cell - a * p.kw
        if backward:
            h, v = h0 + quotient(at_h - a * p.dh, p.sh), v0 + quotient(at_w - b * p.dw, p.sw)
        else:
            h, v = h0 + a * p.dh, v0 + b * p.dw
        inside = alive and h >= 0 and h < p.ih and v >= 0 and v < p.iw
        return image + h * p.x_h + v * p.x_w, inside

    @device
    def fetch(x, packed, left, pixel, at, inside, c, x_c, ins, weights):
        """One quad of filters, and `count` cells of the image from channel c on."""
        left[0], left[1], left[2], left[3] = load4(packed, weights)
        if by_quad:
            for q in range(count // QUAD):
                if inside and c + QUAD * q < ins:
                    pixel[4 * q], pixel[4 * q + 1], pixel[4 * q + 2], pixel[4 * q + 3] = load4(x, at + QUAD * q)
                else:
                    for e in range(QUAD):
                        pixel[4 * q + e] = T(0)
        else:
            last = ins - c if inside else 0
            for r in range(count):
                k = r * apart if by_pixel else r
                pixel[r] = x[at + k * x_c] if k < last else T(0)

    @device
    def stash(s, left, pixel, slot, t):
        """What was fetched, into the slices of this slot."""
        if tensor:
            for r in range(QUAD):
                left[r] = tf32(left[r])
            for r in range(count):
                pixel[r] = tf32(pixel[r])
        at = (slot * DEPTH + t // row_quads) * row_stride + t % row_quads * QUAD
        store4(s, at, left[0], left[1], left[2], left[3])
        for r in range(count):
            if by_pixel:
                s[right + (slot * DEPTH + t // columns + r * apart) * column_stride + t % columns] = pixel[r]
            else:
                k = t % for_pixel * count + r
                s[right + (slot * DEPTH + k) * column_stride + t // for_pixel] = pixel[r]

    @kernel(registers=most)
    def convolve(x, packed, bias, residual, y, suspects, low, high, p):
        s = cuda.shared.array(0, T)
        sums = cuda.local.array(results, T)
        a, b = cuda.local.array(thread_rows, T), cuda.local.array(thread_columns, T)
        left, pixel = cuda.local.array(QUAD, T), cuda.local.array(count, T)
        for r in range(results):
            sums[r] = T(0)
        t, group = cuda.threadIdx.x, cuda.blockIdx.z
        class_h, class_w, height, width = 0, 0, p.height, p.width
        if backward:
            rest = group
            group = quotient(rest, p.sh * p.sw)
            rest -= group * p.sh * p.sw
            class_h = quotient(rest, p.sw)
            class_w = rest - class_h * p.sw
            height = quotient(height - class_h + p.sh - 1, p.sh)
            width = quotient(width - class_w + p.sw - 1, p.sw)
        plane = height * width
        pixels = p.mb * plane
        first_pixel, first_out = cuda.blockIdx.x * columns, cuda.blockIdx.y * rows
        if first_pixel >= pixels:
            return

        mine, k = first_pixel + t // for_pixel, t % for_pixel * count
        if by_pixel:
            mine, k = first_pixel + t % columns, t // columns
        n = quotient(mine, plane)
        i = quotient(mine - n * plane, width)
        h0, v0 = i, mine - n * plane - i * width
        # a multiple of the stride keeps the numbers of the input gradient positive, and is taken back here
        at_h, at_w = class_h + p.ph + p.sh * p.kh * p.dh, class_w + p.pw + p.sw * p.kw * p.dw
        if backward:
            h0, v0 = h0 - p.kh * p.dh, v0 - p.kw * p.dw
        else:
            h0, v0 = h0 * p.sh - p.ph, v0 * p.sw - p.pw
        image = p.x_0 + n * p.x_n + (group * p.ins + k) * p.x_c
        cells = p.kh * p.kw
        slice_weights = DEPTH * p.outs_packed
        my_weights = t // row_quads * p.outs_packed + first_out + t % row_quads * QUAD

        cell = 0
        if backward:
            cell = next_cell(-1, cells, at_h, at_w, p)
        c, slot = 0, 0
        at, inside = source(cell, h0, v0, mine < pixels, image, at_h, at_w, p)
        weights = (group * cells + cell) * p.ins_packed * p.outs_packed + my_weights
        if cell < cells:
            fetch(x, packed, left, pixel, at, inside, k, p.x_c, p.ins, weights)
        while cell < cells:
            t = afresh(t) & (threads - 1)  # what follows from it takes no registers meanwhile
            stash(s, left, pixel, slot, t)
            cuda.syncthreads()
            c += DEPTH
            at += DEPTH * p.x_c
            weights += slice_weights
            if c >= p.ins_packed:
                c = 0
                cell += 1
                if backward:
                    cell = next_cell(cell - 1, cells, at_h, at_w, p)
                    weights = (group * cells + cell) * p.ins_packed * p.outs_packed + my_weights
                at, inside = source(cell, h0, v0, mine < pixels, image, at_h, at_w, p)
            if cell < cells:
                fetch(x, packed, left, pixel, at, inside, c + k, p.x_c, p.ins, weights)
            row = slot * DEPTH * row_stride + first_row(t)
            multiply(s, row, right + slot * DEPTH * column_stride + first_column(t), a, b, sums)
            slot = 1 - slot

        cuda.syncthreads()
        for r in range(afresh(rounds)):  # not unrolled: the rounds would take each other's registers
            t = afresh(t) & (threads - 1)
            keep(s, sums, r, t)
            cuda.syncthreads()
            write(
                s, bias, residual, y, suspects, r, t, first_pixel, first_out, group, class_h, class_w, height,
                width, low, high, p,
            )  # fmt: skip

    return convolve


def _reads(image: Flat, channels: int) -> str:
    """How the pixels of an image are read best."""
    _, c, h, w = image.strides
    if c != 1:
        return PIXELS
    fits = channels % QUAD == 0 and image.start % QUAD == 0 and image.aligned(image.strides[0], h, w)
    return QUADS if fits else CHANNELS


def _convolve(
    p: Conv, backward: bool, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, tensor: bool = False
) -> None:
    r = sizes.roles(p, backward)
    tile, ins_packed, outs_packed, count = sizes.packed(p, backward, tensor)
    fx, fw, fy = flat(x), flat(w), flat(y)
    if fy.array.size == 0:
        return
    residual = matching(residual, y)
    suspects, packed = carve(workspace, ("int32", 1), (p.dtype, count))
    pack_filters(p, backward, fw, packed, suspects, ins_packed, outs_packed)
    height, width = r.class_pixels
    classes = r.classes[0] * r.classes[1]
    y_n, y_c, y_h, y_w = fy.strides
    nhwc = tensor or (y_c == 1 and y_w != 1)
    linear = classes == 1 and y_h == r.target[1] * y_w and y_n == r.target[0] * y_h
    numbers: Any = (
        p.mb, *r.target, r.ins, r.outs, ins_packed, outs_packed, *r.source, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh,
        p.dw, fx.start, *fx.strides, *fy.strides, int(bias is not None), int(residual is not None), int(linear),
    )  # fmt: skip
    T = TYPES[p.dtype]
    reads = _reads(fx, r.ins)
    reads = CHANNELS if tensor and reads == PIXELS else reads
    fb, fr = (fy if a is None else flat(a) for a in (bias, residual))
    run(
        _convolve_of(p.dtype, tile, reads, nhwc, backward),
        (ceil_div(p.mb * height * width, tile.columns), outs_packed // tile.rows, p.g * classes), tile.threads, fx,
        fx.memory, packed, fb.memory, fr.memory, fy.memory, suspects, T(p.low), T(p.high), int32s(Shape, numbers),
        shared=tile.slices * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip
    if backward:
        # A cell that no filter cell reaches is no term of the sum, but a zero here: times Inf it is NaN.
        repair(p, True, fx, fw, bias, residual, fy, suspects)


def conv2d_forward_im2col__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, False, x, w, bias, residual, y, workspace)


def conv2d_backward_input_im2col__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, True, dy, w, bias, residual, dx, workspace)


def conv2d_forward_im2col_tf32__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, False, x, w, bias, residual, y, workspace, True)


def conv2d_backward_input_im2col_tf32__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    _convolve(p, True, dy, w, bias, residual, dx, workspace, True)


class Gradient(NamedTuple):
    """The numbers of a weight gradient. Strides in elements."""

    groups: int
    ins: int  # channels of a group of the input
    outs: int  # of the output
    pixels: int  # of the output
    part: int  # pixels of a part of the sum
    ih: int
    iw: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    x_0: int
    x_n: int
    x_c: int
    x_h: int
    x_w: int
    y_0: int
    y_n: int
    y_c: int
    y_h: int
    y_w: int


class Added(NamedTuple):
    """The parts of a weight gradient, and where the sums go."""

    parts: int
    cells: int  # of a part
    ins: int
    outs: int
    kh: int
    kw: int
    w_0: int
    w_o: int
    w_i: int
    w_h: int
    w_w: int


@lru_cache(maxsize=64)
def _correlate_of(dtype: str, tile: Tile, reads: str) -> Any:
    T = TYPES[dtype]
    threads, rows, columns = tile.threads, tile.rows, tile.columns
    results, row_stride, column_stride = tile.thread_rows * tile.thread_columns, tile.row_stride, tile.column_stride
    high, wide = tile.thread_rows, tile.thread_columns
    right = 2 * DEPTH * row_stride
    lanes = threads // DEPTH  # threads of one pixel of a slice
    lefts, rights = DEPTH * rows // threads, DEPTH * columns // threads  # elements that each thread fetches
    by_pixel, by_quad, tensor = reads == PIXELS, reads == QUADS, tile.tensor
    keep, of_slot, slots, slot_stride, rounds = rounds_of(tile, False)
    passes = threads // rows
    multiply = multiply_of(tile)
    first_row, first_column = corner_of(tile)

    @device
    def fetch(image, values, count, at, inside, stride, lane, channels):
        """`count` channels of one pixel of an image, those of the thread's lane; zeros outside."""
        if by_quad:
            for q in range(count // QUAD):
                c = (lane + q * lanes) * QUAD
                if inside and c < channels:
                    values[4 * q], values[4 * q + 1], values[4 * q + 2], values[4 * q + 3] = load4(image, at + c)
                else:
                    for e in range(QUAD):
                        values[4 * q + e] = T(0)
        else:
            last = channels if inside else 0
            for r in range(count):
                c = lane + r * lanes if by_pixel else (lane + r // QUAD * lanes) * QUAD + r % QUAD
                values[r] = image[at + c * stride] if c < last else T(0)

    @device
    def stash(s, values, count, at, lane):
        if tensor:
            for r in range(count):
                values[r] = tf32(values[r])
        if by_pixel:
            for r in range(count):
                s[at + lane + r * lanes] = values[r]
        else:
            for q in range(count // QUAD):
                quad = at + (lane + q * lanes) * QUAD
                store4(s, quad, values[4 * q], values[4 * q + 1], values[4 * q + 2], values[4 * q + 3])

    @kernel(registers=REGISTERS if results == MANY_RESULTS else None)
    def correlate(x, dy, sums_of_parts, p):
        s = cuda.shared.array(0, T)
        sums = cuda.local.array(results, T)
        a, b = cuda.local.array(high, T), cuda.local.array(wide, T)
        left, pixel = cuda.local.array(lefts, T), cuda.local.array(rights, T)
        for r in range(results):
            sums[r] = T(0)
        t = cuda.threadIdx.x
        tiles = (p.ins + columns - 1) // columns
        cell = quotient(cuda.blockIdx.x, tiles)
        first_in, first_out = (cuda.blockIdx.x - cell * tiles) * columns, cuda.blockIdx.y * rows
        part = quotient(cuda.blockIdx.z, p.groups)
        group = cuda.blockIdx.z - part * p.groups
        a_h = quotient(cell, p.kw)
        row0, column0 = a_h * p.dh - p.ph, (cell - a_h * p.kw) * p.dw - p.pw

        k, lane = t // lanes, t % lanes
        if by_pixel:
            k, lane = t % DEPTH, t // DEPTH
        pix = part * p.part + k
        rest = min(p.part, p.pixels - part * p.part)  # pixels to come
        n = quotient(pix, p.oh * p.ow)
        i = quotient(pix - n * p.oh * p.ow, p.ow)
        j = pix - n * p.oh * p.ow - i * p.ow
        x_first = p.x_0 + (group * p.ins + first_in) * p.x_c
        y_first = p.y_0 + (group * p.outs + first_out) * p.y_c
        slot, steps = 0, quotient(rest + DEPTH - 1, DEPTH)
        for step in range(steps + 1):
            # what the step before asked for is stored, more is asked for, and while it comes the slice is multiplied
            t = afresh(t) & (threads - 1)  # what follows from it takes no registers meanwhile
            k, lane = t // lanes, t % lanes
            if by_pixel:
                k, lane = t % DEPTH, t // DEPTH
            if step > 0:
                stash(s, left, lefts, (slot * DEPTH + k) * row_stride, lane)
                stash(s, pixel, rights, right + (slot * DEPTH + k) * column_stride, lane)
                cuda.syncthreads()
            if step < steps:
                h, v = i * p.sh + row0, j * p.sw + column0
                alive = k < rest
                inside = alive and h >= 0 and h < p.ih and v >= 0 and v < p.iw
                to = y_first + n * p.y_n + i * p.y_h + j * p.y_w
                fetch(dy, left, lefts, to, alive, p.y_c, lane, p.outs - first_out)
                at = x_first + n * p.x_n + h * p.x_h + v * p.x_w
                fetch(x, pixel, rights, at, inside, p.x_c, lane, p.ins - first_in)
            if step > 0:
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
        cells = p.kh * p.kw
        to = ((part * p.groups + group) * cells + cell) * p.ins
        for r in range(afresh(rounds) if tensor else rounds):  # sixteen of them are too many to be unrolled
            t = afresh(t) & (threads - 1)
            keep(s, sums, r, t)
            cuda.syncthreads()
            o = first_out + t % rows
            half = r % 2 * slots * slot_stride + t % rows
            for e in range(slots // passes):
                slot = t // rows + e * passes
                c = first_in + of_slot(slot, r)
                if o < p.outs and c < p.ins:
                    sums_of_parts[(to + c) * p.outs + o] = s[half + slot * slot_stride]

    return correlate


@kernel
def _add_parts(parts, w, p):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < p.cells:
        total = parts[i]
        for part in range(1, p.parts):
            total += parts[part * p.cells + i]
        c = quotient(i, p.outs)
        o = i - c * p.outs
        cell = quotient(c, p.ins)
        c -= cell * p.ins
        group = quotient(cell, p.kh * p.kw)
        cell -= group * p.kh * p.kw
        a = quotient(cell, p.kw)
        w[p.w_0 + (group * p.outs + o) * p.w_o + c * p.w_i + a * p.w_h + (cell - a * p.kw) * p.w_w] = total


def add_parts(p: Conv, parts: Any, number: int, dw: Flat) -> None:
    """dw[...] = the sum of `number` arrays [group][cell][input channel][output channel], one after the other."""
    count = p.g * p.ocg * p.icg * p.kh * p.kw
    numbers: Any = (number, count, p.icg, p.ocg, p.kh, p.kw, dw.start, *dw.strides)
    run(_add_parts, ceil_div(count, THREADS), THREADS, dw, parts, dw.memory, int32s(Added, numbers))


def _correlate(p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, tensor: bool = False) -> None:
    cut = sizes.split(p, tensor)
    fx, fy, fw = flat(x), flat(dy), flat(dw)
    (parts,) = carve(workspace, (p.dtype, cut.parts * cut.elements))
    found = {_reads(fx, p.icg), _reads(fy, p.ocg)}
    reads = QUADS if found == {QUADS} else PIXELS if PIXELS in found and not tensor else CHANNELS
    numbers: Any = (
        p.g, p.icg, p.ocg, p.mb * p.oh * p.ow, cut.pixels, p.ih, p.iw, p.oh, p.ow, p.kh, p.kw, p.sh, p.sw, p.ph, p.pw,
        p.dh, p.dw, fx.start, *fx.strides, fy.start, *fy.strides,
    )  # fmt: skip
    tile = cut.tile
    run(
        _correlate_of(p.dtype, tile, reads),
        (p.kh * p.kw * ceil_div(p.icg, tile.columns), ceil_div(p.ocg, tile.rows), p.g * cut.parts), tile.threads, fx,
        fx.memory, fy.memory, parts, int32s(Gradient, numbers),
        shared=tile.slices * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip
    add_parts(p, parts, cut.parts, fw)


def conv2d_backward_weight_im2col__cuda(
    p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int
) -> None:
    _correlate(p, x, dy, dw, workspace)


def conv2d_backward_weight_im2col_tf32__cuda(
    p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int
) -> None:
    _correlate(p, x, dy, dw, workspace, True)
