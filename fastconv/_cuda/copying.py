"""Arrays on a GPU read, copied, converted, and summed by channel: what the public functions need besides kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv._cuda.arrays import DeviceArray, intake, to_device, to_host
from fastconv._cuda.compiler import cuda, float64, kernel
from fastconv._cuda.launch import THREADS, flat, run
from fastconv._cuda.sizes import ceil_div

__all__ = ["channel_sums", "convert", "converted", "intake", "to_device", "to_host"]

# bfloat16 is the upper half of a float32; its NaNs are quiet, and its rounding is to nearest, ties to even.
_QUIET, _HALF, _EXPONENT = 0x40, 0x7FFF, 0x7F800000


class Copy(NamedTuple):
    """Four sizes; where the first element is and strides of the source and of the target, in elements."""

    cells: int
    b: int
    c: int
    d: int
    s_0: int
    s_a: int
    s_b: int
    s_c: int
    s_d: int
    t_0: int
    t_a: int
    t_b: int
    t_c: int
    t_d: int


@kernel
def _copy(source, target, p):
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        a, b, c, d = i // p.d // p.c // p.b, i // p.d // p.c % p.b, i // p.d % p.c, i % p.d
        value = source[p.s_0 + a * p.s_a + b * p.s_b + c * p.s_c + d * p.s_d]
        target[p.t_0 + a * p.t_a + b * p.t_b + c * p.t_c + d * p.t_d] = value


@kernel
def _widen(source, target, p):
    """Bits of bfloat16 to bits of float32."""
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        a, b, c, d = i // p.d // p.c // p.b, i // p.d // p.c % p.b, i // p.d % p.c, i % p.d
        bits = np.int64(source[p.s_0 + a * p.s_a + b * p.s_b + c * p.s_c + d * p.s_d])
        target[p.t_0 + a * p.t_a + b * p.t_b + c * p.t_c + d * p.t_d] = np.uint32(bits << 16)


@kernel
def _round(source, target, p):
    """Bits of float32 to bits of bfloat16."""
    i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if i < p.cells:
        a, b, c, d = i // p.d // p.c // p.b, i // p.d // p.c % p.b, i // p.d % p.c, i % p.d
        bits = np.int64(source[p.s_0 + a * p.s_a + b * p.s_b + c * p.s_c + d * p.s_d])
        if (bits & 0x7FFFFFFF) > _EXPONENT:
            bits = (bits >> 16) | _QUIET
        else:
            bits = (bits + _HALF + ((bits >> 16) & 1)) >> 16
        target[p.t_0 + a * p.t_a + b * p.t_b + c * p.t_c + d * p.t_d] = np.uint16(bits)


def _four(values: tuple[int, ...], fill: int) -> Any:
    return (fill,) * (4 - len(values)) + tuple(values)


def _as_bits(array: DeviceArray) -> DeviceArray:
    bits = array.transpose(*range(array.ndim))
    bits.dtype = np.dtype(np.uint32 if array.dtype.itemsize == 4 else np.uint16)
    return bits


def convert(source: DeviceArray, target: DeviceArray) -> None:
    """target[...] = source, rounded once; up to four axes, any strides."""
    pair = source.dtype.name, target.dtype.name
    if source.size == 0:
        return
    program: Any = _copy
    if "bfloat16" in pair and pair[0] != pair[1]:
        if set(pair) != {"bfloat16", "float32"}:
            between = source.scratch(source.shape, np.dtype(np.float32))
            convert(source, between)
            convert(between, target)
            return
        program = _widen if pair[0] == "bfloat16" else _round
        source, target = _as_bits(source), _as_bits(target)
    s, t = flat(source), flat(target)
    _, b, c, d = _four(source.shape, 1)
    numbers: Any = (source.size, b, c, d, s.start, *_four(s.strides, 0), t.start, *_four(t.strides, 0))
    run(program, ceil_div(source.size, THREADS), THREADS, s, s.memory, t.memory, Copy(*numbers))


def converted(array: DeviceArray, dtype: np.dtype) -> DeviceArray:
    """`array` itself where it has this dtype (and, for one axis, no gaps), else a copy in C order."""
    whole = all(step % array.itemsize == 0 for step in array.strides) and array.address % array.itemsize == 0
    if not whole:
        raise ValueError("an array on a GPU whose elements lie at odd addresses cannot be read")
    if array.dtype == dtype and (array.ndim != 1 or array.contiguous):
        return array
    target = array.scratch(array.shape, dtype)
    convert(array, target)
    return target


def matching(array: Any, model: Any) -> Any:
    """`array`, copied where its elements do not lie in the order of the model's; None stays None."""
    if array is None:
        return None
    a, m = intake(array), intake(model)
    if a.strides == m.strides:
        return array
    target = a.scratch(m.shape, a.dtype)
    ordered = target._as(m.shape, m.strides)
    convert(a, ordered)
    return ordered


class Sums(NamedTuple):
    """An image's sizes and strides, and threads of a block."""

    n: int
    h: int
    w: int
    s_0: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int


@kernel
def _channel_sums(source, target, zero, p):
    """One block for a channel: each thread sums every THREADS-th cell, then half of the threads the other half's."""
    sums = cuda.shared.array(0, float64)
    t, c = cuda.threadIdx.x, cuda.blockIdx.x
    total = zero
    for i in range(t, p.n * p.h * p.w, THREADS):
        n, h, w = i // p.w // p.h, i // p.w % p.h, i % p.w
        total += source[p.s_0 + n * p.s_n + c * p.s_c + h * p.s_h + w * p.s_w]
    sums[t] = total
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if t < step:
            sums[t] += sums[t + step]
        step //= 2
    if t == 0:
        target[c] = sums[0]


@kernel
def _channel_sums_of_integers(source, target, p):
    c = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        total = np.int64(0)
        for i in range(p.n * p.h * p.w):
            n, h, w = i // p.w // p.h, i // p.w % p.h, i % p.w
            total += source[p.s_0 + n * p.s_n + c * p.s_c + h * p.s_h + w * p.s_w]
        target[c] = total


def channel_sums(images: DeviceArray, target: DeviceArray) -> None:
    """target[c] = sum of images[:, c] (a logical NCHW view), in float64, always in the same order."""
    s, t = flat(images), flat(target)
    n, c, h, w = images.shape
    shape = Sums(n, h, w, s.start, *s.strides)
    if images.dtype == np.int64:
        run(_channel_sums_of_integers, c, 1, s, s.memory, t.memory, shape)
    else:
        run(_channel_sums, c, THREADS, s, s.memory, t.memory, np.float64(0), shape, shared=8 * THREADS)
