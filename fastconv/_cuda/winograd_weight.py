"""The weight gradient of F(4x4,3x3) in passes through scratch memory, the adjoint of its bilinear form:

    dw = G^T [sum over tiles of (B^T x B) (A dy A^T)] G

Tiles are taken in runs that fit into scratch memory. For each of 36 points a product of matrices sums over the tiles,
in parts, so that there are blocks for all of a GPU; who transforms the sums back adds the parts, in a fixed order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastconv._cuda import Conv, sizes, transforms
from fastconv._cuda.compiler import cuda, device, float32, kernel, quotient
from fastconv._cuda.launch import THREADS, Flat, carve, flat, int32s, run
from fastconv._cuda.naive import repair_weight
from fastconv._cuda.sizes import ceil_div
from fastconv._cuda.winograd_passes import ALPHA, POINTS, M, Shape, inputs_of, multiply, transforms_grid

weights_adjoint = device(transforms.weights_adjoint_transform_f4x3)


class Sums(NamedTuple):
    """Sums[group][point][part][input channel][output channel], and where filters go. Strides in elements."""

    pairs: int  # of channels, one for each thread
    parts: int
    ins: int  # channels of a group
    outs: int
    ins_packed: int
    outs_packed: int
    first: int  # flag: of the first run, nothing is there to add to
    w_0: int
    w_o: int
    w_i: int
    w_h: int
    w_w: int


@kernel
def _transform_back(sums, dw, suspects, p):
    """dw = G^T u G, or adds to it; what is not finite becomes NaN, and suspects[0] 1."""
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i >= p.pairs:
        return
    line = quotient(i, p.outs)
    o = i - line * p.outs
    group = quotient(line, p.ins)
    c = line - group * p.ins
    u = cuda.local.array(POINTS, float32)
    whole = p.ins_packed * p.outs_packed
    at = group * POINTS * p.parts * whole + c * p.outs_packed + o
    for e in range(POINTS):
        u[e] = sums[at + e * p.parts * whole]
    for part in range(1, p.parts):
        for e in range(POINTS):
            u[e] += sums[at + (e * p.parts + part) * whole]
    for j in range(ALPHA):
        u[j], u[6 + j], u[12 + j] = weights_adjoint(u[j], u[6 + j], u[12 + j], u[18 + j], u[24 + j], u[30 + j])
    for a in range(3):
        u[3 * a], u[3 * a + 1], u[3 * a + 2] = weights_adjoint(
            u[6 * a], u[6 * a + 1], u[6 * a + 2], u[6 * a + 3], u[6 * a + 4], u[6 * a + 5]
        )
    to = p.w_0 + (group * p.outs + o) * p.w_o + c * p.w_i
    for a in range(3):
        for b in range(3):
            value = u[3 * a + b]
            if not p.first:
                value += dw[to + a * p.w_h + b * p.w_w]
            if not math.isfinite(value):
                suspects[0] = 1
                value = float32(math.nan)
            dw[to + a * p.w_h + b * p.w_w] = value


def correlate(p: Conv, x: Any, dy: Any, dw: Any, workspace: Any) -> None:
    """F(4x4,3x3) of a weight gradient."""
    fx, fy, fw = flat(x), flat(dy), flat(dw)
    cut = sizes.winograd_weight(p)
    suspects, v, m, sums = carve(workspace, ("int32", 1), *(("float32", count) for count in cut.elements))
    tiles_h, tiles_w = ceil_div(p.oh, M), ceil_div(p.ow, M)
    tiles = p.mb * tiles_h * tiles_w
    length = cut.parts * cut.depth

    def transform(image: Flat, size: tuple[int, int], channels: int, packed: int, to: Any, gradient: bool) -> None:
        ph, pw = (0, 0) if gradient else (p.ph, p.pw)
        numbers: Any = (
            channels, 0, packed, 0, first, length, tiles, tiles_h, tiles_w, *size, 0, 0, ph, pw, image.start,
            *image.strides, 0, 0, 0, 0, 1, packed, 0, 0,
        )  # fmt: skip
        grid = transforms_grid(packed, length, p.g, True)
        run(inputs_of(True, gradient), grid, THREADS, fx, image.memory, to, suspects, int32s(Shape, numbers))

    for first in range(0, max(1, tiles), length):
        transform(fx, (p.ih, p.iw), p.icg, cut.ins, v, False)
        transform(fy, (p.oh, p.ow), p.ocg, cut.outs, m, True)
        multiply(cut.tile, p.g * POINTS * cut.parts, cut.depth, cut.ins, cut.outs, fx, v, m, sums)
        pairs = p.g * p.icg * p.ocg
        back: Any = (pairs, cut.parts, p.icg, p.ocg, cut.ins, cut.outs, first == 0, fw.start, *fw.strides)
        run(
            _transform_back, ceil_div(pairs, THREADS), THREADS, fx, sums, fw.memory, suspects, int32s(Sums, back)
        )  # fmt: skip
    repair_weight(p, fx, fy, fw, suspects)
