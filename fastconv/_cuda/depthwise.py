"""One input channel a group: as many bytes as operations, so all that counts is that each cell comes from memory once.

Forward: a thread has a few outputs above each other, whose input rows overlap and are loaded once; neighbouring threads
have neighbours in memory. Filter size, stride and dilation are constants of the code: the loops over the filter's cells
are unrolled, its sums stay in registers. Input gradient: one thread gathers for one cell. Weight gradient: a block sums
for one channel (NHWC: 32 of them) over a part of the pixels, all filter cells at once; parts are added in order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from fastconv._cuda import Conv, sizes
from fastconv._cuda.compiler import cuda, kernel, quotient
from fastconv._cuda.copying import matching
from fastconv._cuda.gemm import TYPES
from fastconv._cuda.im2col import add_parts
from fastconv._cuda.launch import THREADS, Flat, carve, flat, int32s, run
from fastconv._cuda.naive import finish
from fastconv._cuda.sizes import NEIGHBOURS, ceil_div


class Shape(NamedTuple):
    """The numbers of one call; strides in elements of the input x, the filters w and the output y."""

    threads: int  # with work
    nhwc: int  # flag: neighbouring threads have neighbouring channels, else columns
    channels: int  # of what is written
    lines: int  # of rows of it, `rows` at once
    part: int  # pixels of a part of a weight gradient
    multiplier: int  # output channels of an input channel
    mb: int
    ih: int
    iw: int
    oh: int
    ow: int
    ph: int
    pw: int
    x_0: int
    x_n: int
    x_c: int
    x_h: int
    x_w: int
    w_0: int
    w_o: int
    w_h: int
    w_w: int
    y_0: int
    y_n: int
    y_c: int
    y_h: int
    y_w: int
    bias: int  # flags
    residual: int


class Filter(NamedTuple):
    """What is constant in the code."""

    dtype: str
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int

    @property
    def rows(self) -> int:
        """Outputs above each other of one thread of the forward pass, so that the sums stay in registers."""
        if self.dh > 1 or self.kh == 1:
            return 1
        return 4 if self.kh <= 3 and self.sh == 1 else 2


@lru_cache(maxsize=64)
def _forward_of(f: Filter) -> Any:
    T = TYPES[f.dtype]
    kh, kw, sh, sw, dh, dw, rows = f.kh, f.kw, f.sh, f.sw, f.dh, f.dw, f.rows
    cells = kh * kw
    lines = (rows - 1) * sh + kh if rows > 1 else kh  # input rows that a thread reads

    @kernel
    def forward(x, w, bias, residual, y, low, high, p):
        thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if thread >= p.threads:
            return
        weights, sums = cuda.local.array(cells, T), cuda.local.array(rows, T)
        if p.nhwc:
            rest = quotient(thread, p.channels)
            o = thread - rest * p.channels
            line = quotient(rest, p.ow)
            j = rest - line * p.ow
            n = quotient(line, p.lines)
            i = (line - n * p.lines) * rows
        else:
            rest = quotient(thread, p.ow)
            j = thread - rest * p.ow
            plane = quotient(rest, p.lines)
            i = (rest - plane * p.lines) * rows
            n = quotient(plane, p.channels)
            o = plane - n * p.channels
        for a in range(kh):
            for b in range(kw):
                weights[a * kw + b] = w[p.w_0 + o * p.w_o + a * p.w_h + b * p.w_w]
        for q in range(rows):
            sums[q] = T(0)
        top, left = i * sh - p.ph, j * sw - p.pw
        base = p.x_0 + n * p.x_n + quotient(o, p.multiplier) * p.x_c
        for r in range(lines):
            h = top + r * dh
            for b in range(kw):
                v = left + b * dw
                value = T(0)  # padding is a zero like any other: times Inf it is NaN
                if h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                    value = x[base + h * p.x_h + v * p.x_w]
                for q in range(rows):
                    if r >= q * sh and r - q * sh < kh:
                        sums[q] += value * weights[(r - q * sh) * kw + b]
        for q in range(rows):
            if i + q < p.oh:
                to = p.y_0 + n * p.y_n + o * p.y_c + (i + q) * p.y_h + j * p.y_w
                total = sums[q]
                if p.bias:
                    total += bias[o]
                if p.residual:
                    total += residual[to]
                y[to] = finish(total, low, high)

    return forward


@lru_cache(maxsize=64)
def _backward_input_of(f: Filter) -> Any:
    T = TYPES[f.dtype]
    kh, kw, sh, sw, dh, dw = f.kh, f.kw, f.sh, f.sw, f.dh, f.dw

    @kernel
    def backward_input(dy, w, bias, residual, dx, low, high, p):
        thread = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if thread >= p.threads:
            return
        if p.nhwc:
            rest = quotient(thread, p.channels)
            c = thread - rest * p.channels
            line = quotient(rest, p.iw)
            j = rest - line * p.iw
            n = quotient(line, p.ih)
            i = line - n * p.ih
        else:
            rest = quotient(thread, p.iw)
            j = thread - rest * p.iw
            plane = quotient(rest, p.ih)
            i = rest - plane * p.ih
            n = quotient(plane, p.channels)
            c = plane - n * p.channels
        total = T(0)
        for m in range(p.multiplier):
            o = c * p.multiplier + m
            base = p.y_0 + n * p.y_n + o * p.y_c
            for a in range(kh):
                h = i + p.ph - a * dh
                row = quotient(max(h, 0), sh)
                if row * sh == h and row < p.oh:
                    for b in range(kw):
                        v = j + p.pw - b * dw
                        column = quotient(max(v, 0), sw)
                        if column * sw == v and column < p.ow:
                            weight = w[p.w_0 + o * p.w_o + a * p.w_h + b * p.w_w]
                            total += weight * dy[base + row * p.y_h + column * p.y_w]
        to = p.x_0 + n * p.x_n + c * p.x_c + i * p.x_h + j * p.x_w
        if p.bias:
            total += bias[c]
        if p.residual:
            total += residual[to]
        dx[to] = finish(total, low, high)

    return backward_input


@lru_cache(maxsize=64)
def _backward_weight_of(f: Filter, nhwc: bool) -> Any:
    T = TYPES[f.dtype]
    kh, kw, sh, sw, dh, dw = f.kh, f.kw, f.sh, f.sw, f.dh, f.dw
    cells = kh * kw
    beside = NEIGHBOURS if nhwc else 1  # channels of a block
    lanes = THREADS // beside  # threads of one of them, each with every `lanes`-th pixel

    @kernel
    def backward_weight(x, dy, parts, p):
        s = cuda.shared.array(0, T)
        sums = cuda.local.array(cells, T)
        t = cuda.threadIdx.x
        lane = t // beside
        o, part = cuda.blockIdx.x * beside + t % beside, cuda.blockIdx.y
        for cell in range(cells):
            sums[cell] = T(0)
        if o < p.channels:
            x_base, y_base = p.x_0 + quotient(o, p.multiplier) * p.x_c, p.y_0 + o * p.y_c
            end = min((part + 1) * p.part, p.mb * p.oh * p.ow)
            for pixel in range(part * p.part + lane, end, lanes):
                line = quotient(pixel, p.ow)
                j = pixel - line * p.ow
                n = quotient(line, p.oh)
                i = line - n * p.oh
                value = dy[y_base + n * p.y_n + i * p.y_h + j * p.y_w]
                for a in range(kh):
                    h = i * sh + a * dh - p.ph
                    for b in range(kw):
                        v = j * sw + b * dw - p.pw
                        other = T(0)
                        if h >= 0 and h < p.ih and v >= 0 and v < p.iw:
                            other = x[x_base + n * p.x_n + h * p.x_h + v * p.x_w]
                        sums[a * kw + b] += value * other
        for cell in range(cells):
            s[cell * THREADS + t] = sums[cell]
        step = lanes // 2
        while step > 0:
            cuda.syncthreads()
            if lane < step:
                for cell in range(cells):
                    s[cell * THREADS + t] += s[cell * THREADS + t + step * beside]
            step //= 2
        if lane == 0 and o < p.channels:
            group = quotient(o, p.multiplier)
            for cell in range(cells):
                at = (part * (p.channels // p.multiplier) + group) * cells + cell
                parts[at * p.multiplier + o - group * p.multiplier] = s[cell * THREADS + t]

    return backward_weight


def _shape(
    p: Conv, work: int, channels: int, lines: int, x: Flat, w: Flat, y: Flat, written: Flat, *, part: int = 0,
    bias: bool = False, residual: bool = False,
) -> Shape:  # fmt: skip
    w_o, _, w_h, w_w = w.strides
    nhwc = written.strides[1] == 1 and written.strides[3] != 1
    numbers: Any = (
        work, nhwc, channels, lines, part, p.ocg, p.mb, p.ih, p.iw, p.oh, p.ow, p.ph, p.pw, x.start, *x.strides,
        w.start, w_o, w_h, w_w, y.start, *y.strides, bias, residual,
    )  # fmt: skip
    return int32s(Shape, numbers)


def _filter(p: Conv) -> Filter:
    return Filter(p.dtype, p.kh, p.kw, p.sh, p.sw, p.dh, p.dw)


def conv2d_forward_depthwise__cuda(
    p: Conv, x: Any, w: Any, bias: Any, residual: Any, y: Any, workspace: Any, threads: int
) -> None:
    fx, fw, fy, f = flat(x), flat(w), flat(y), _filter(p)
    lines = ceil_div(p.oh, f.rows)
    work = p.mb * p.g * p.ocg * lines * p.ow
    if work == 0:
        return
    fb, fr = (fy if a is None else flat(a) for a in (bias, matching(residual, y)))
    shape = _shape(
        p, work, p.g * p.ocg, lines, fx, fw, fy, fy, bias=bias is not None, residual=residual is not None
    )
    T = TYPES[p.dtype]
    run(
        _forward_of(f), ceil_div(work, THREADS), THREADS, fx, fx.memory, fw.memory, fb.memory, fr.memory, fy.memory,
        T(p.low), T(p.high), shape,
    )  # fmt: skip


def conv2d_backward_input_depthwise__cuda(
    p: Conv, dy: Any, w: Any, bias: Any, residual: Any, dx: Any, workspace: Any, threads: int
) -> None:
    fy, fw, fx = flat(dy), flat(w), flat(dx)
    work = fx.array.size
    if work == 0:
        return
    fb, fr = (fx if a is None else flat(a) for a in (bias, matching(residual, dx)))
    shape = _shape(p, work, p.g, p.ih, fx, fw, fy, fx, bias=bias is not None, residual=residual is not None)
    T = TYPES[p.dtype]
    run(
        _backward_input_of(_filter(p)), ceil_div(work, THREADS), THREADS, fy, fy.memory, fw.memory, fb.memory,
        fr.memory, fx.memory, T(p.low), T(p.high), shape,
    )  # fmt: skip


def conv2d_backward_weight_depthwise__cuda(p: Conv, x: Any, dy: Any, dw: Any, workspace: Any, threads: int) -> None:
    fx, fy, fw = flat(x), flat(dy), flat(dw)
    count, pixels = sizes.depthwise_parts(p)
    channels = p.g * p.ocg
    (parts,) = carve(workspace, (p.dtype, count * channels * p.kh * p.kw))
    shape = _shape(p, 0, channels, 0, fx, fw, fy, fy, part=pixels)
    nhwc = bool(shape.nhwc)
    run(
        _backward_weight_of(_filter(p), nhwc), (ceil_div(channels, NEIGHBOURS if nhwc else 1), count), THREADS, fx,
        fx.memory, fy.memory, parts, shape, shared=THREADS * p.kh * p.kw * sizes.ITEMSIZE[p.dtype],
    )  # fmt: skip
    add_parts(p, parts, count, fw)
