"""The plain sums, loop by loop as the definitions read: any strides; floats are summed in float64, integers exactly.

One task is one plane of the output (for the weight gradient: the filter of one pair of channels).
"""

from __future__ import annotations

import numpy as np

from fastconv._numba import CLIP, NO_CLAMP, Conv
from fastconv._numba.arrays import optional
from fastconv._numba.compile import jit, kernel
from fastconv._numba.tasks import claim, run_phases

Array = np.ndarray

_ZERO = {"float32": 0.0, "float64": 0.0, "int64": 0}


@jit
def _finish(total, bias, residual, n, c, i, j, clamp, low, high):
    """activation(total + bias + residual) of one output element."""
    if bias.size > 0:
        total += bias[c]
    if residual.size > 0:
        total += residual[n, c, i, j]
    if clamp != NO_CLAMP and total < low:
        total = type(total)(low)
    if clamp == CLIP and total > high:
        total = type(total)(high)
    return total


@kernel("in4 in4 in1 in4 out4 sum int int int int int int int int real real tickets")
def _forward(x, w, bias, residual, y, zero, groups, sh, sw, ph, pw, dh, dw, clamp, low, high, tickets):
    oc, oh, ow = y.shape[1:]
    ih, iw = x.shape[2:]
    icg, kh, kw = w.shape[1:]
    for task in claim(tickets):
        n, o = task // oc, task % oc
        first = o // (oc // groups) * icg  # the first input channel of this output channel's group
        for i in range(oh):
            for j in range(ow):
                total = zero
                for c in range(icg):
                    for a in range(kh):
                        row = i * sh + a * dh - ph
                        for b in range(kw):
                            col = j * sw + b * dw - pw
                            value = zero  # padding is a zero like any other: times Inf it is NaN
                            if 0 <= row < ih and 0 <= col < iw:
                                value += x[n, first + c, row, col]
                            total += value * w[o, c, a, b]
                y[n, o, i, j] = _finish(total, bias, residual, n, o, i, j, clamp, low, high)


@kernel("in4 in4 in1 in4 out4 sum int int int int int int int int real real int tickets")
def _backward_input(
    dy, w, bias, residual, dx, zero, groups, sh, sw, ph, pw, dh, dw, clamp, low, high, only_nan, tickets
):
    ic, ih, iw = dx.shape[1:]
    oc, oh, ow = dy.shape[1:]
    icg, kh, kw = w.shape[1:]
    ocg = oc // groups
    for task in claim(tickets):
        n, c = task // ic, task % ic
        first = c // icg * ocg
        for i in range(ih):
            for j in range(iw):
                if only_nan and dx[n, c, i, j] == dx[n, c, i, j]:
                    continue
                total = zero
                for o in range(ocg):
                    for a in range(kh):
                        row = i + ph - a * dh
                        if row < 0 or row % sh != 0 or row // sh >= oh:
                            continue
                        for b in range(kw):
                            col = j + pw - b * dw
                            if col < 0 or col % sw != 0 or col // sw >= ow:
                                continue
                            value = zero + dy[n, first + o, row // sh, col // sw]
                            total += value * w[first + o, c % icg, a, b]
                dx[n, c, i, j] = _finish(total, bias, residual, n, c, i, j, clamp, low, high)


@kernel("in4 in4 out4 sum int int int int int int int tickets")
def _backward_weight(x, dy, dw_, zero, groups, sh, sw, ph, pw, dh, dw, tickets):
    mb, oc, oh, ow = dy.shape
    ih, iw = x.shape[2:]
    icg, kh, kw = dw_.shape[1:]
    for task in claim(tickets):
        o, c = task // icg, task % icg
        channel = o // (oc // groups) * icg + c
        for a in range(kh):
            for b in range(kw):
                total = zero
                for n in range(mb):
                    for i in range(oh):
                        row = i * sh + a * dh - ph
                        for j in range(ow):
                            col = j * sw + b * dw - pw
                            value = zero
                            if 0 <= row < ih and 0 <= col < iw:
                                value += x[n, channel, row, col]
                            total += value * dy[n, o, i, j]
                dw_[o, c, a, b] = total


def conv2d_forward_naive__numba(
    p: Conv, x: Array, w: Array, bias: Array | None, residual: Array | None, y: Array, workspace: object, threads: int
) -> None:
    run = _forward[p.dtype]
    arrays = x, w, optional(bias, 1, p.dtype), optional(residual, 4, p.dtype), y, _ZERO[p.dtype]
    numbers = p.g, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, p.clamp, p.low, p.high
    run_phases(threads, (p.mb * p.g * p.ocg, lambda tickets, _: run(*arrays, *numbers, tickets)))


def backward_input(
    p: Conv, dy: Array, w: Array, bias: Array | None, residual: Array | None, dx: Array, threads: int, only_nan: bool
) -> None:
    """The input gradient; with `only_nan` just where dx is NaN, the rest is left as it is."""
    run = _backward_input[p.dtype]
    arrays = dy, w, optional(bias, 1, p.dtype), optional(residual, 4, p.dtype), dx, _ZERO[p.dtype]
    numbers = p.g, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, p.clamp, p.low, p.high, int(only_nan)
    run_phases(threads, (p.mb * p.g * p.icg, lambda tickets, _: run(*arrays, *numbers, tickets)))


def conv2d_backward_input_naive__numba(
    p: Conv, dy: Array, w: Array, bias: Array | None, residual: Array | None, dx: Array, workspace: object, threads: int
) -> None:
    backward_input(p, dy, w, bias, residual, dx, threads, False)


def conv2d_backward_weight_naive__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: object, threads: int
) -> None:
    run = _backward_weight[p.dtype]
    numbers = p.g, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw
    tasks = p.g * p.ocg * p.icg
    run_phases(threads, (tasks, lambda tickets, _: run(x, dy, dw, _ZERO[p.dtype], *numbers, tickets)))
