"""The arrays of a call as Numba kernels want them: flat in memory order, with strides and limits as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastconv._numba import CLIP, NO_CLAMP, Conv

Array = np.ndarray

_NOTHING = {name: np.zeros(0, name) for name in ("float32", "float64", "int64")}


def flat(array: Array, nhwc: int) -> Array:
    """The memory of a C-contiguous array that came as a logical NCHW view, as one axis."""
    return (array.transpose(0, 2, 3, 1) if nhwc else array).reshape(-1)


def strides(nhwc: int, c: int, h: int, w: int) -> tuple[int, int, int, int]:
    """Element strides of the axes n, c, h, w."""
    return (h * w * c, 1, w * c, c) if nhwc else (c * h * w, h * w, w, 1)


def optional(array: Array | None, dimensions: int, dtype: str) -> Array:
    """`array`, or an empty one of that rank: a compiled kernel has one type for each argument."""
    return _NOTHING[dtype].reshape((0,) * dimensions) if array is None else array


def optional_flat(array: Array | None, nhwc: int, dtype: str) -> Array:
    return _NOTHING[dtype] if array is None else flat(array, nhwc)


def limits(p: Conv) -> tuple[float, float]:
    """What the activation clamps to, infinities where it does not."""
    low = -math.inf if p.clamp == NO_CLAMP else p.low
    return low, p.high if p.clamp == CLIP else math.inf


def carve(
    workspace: Array,
    dtype: str,
    shared: Sequence[int],
    threads: int,
    private: Sequence[int],
    tables: int,
    table: int,
) -> tuple[list[Array], list[Array], Array]:
    """Cut the workspace into arrays: those all threads share, those each thread has, and tables of int64.

    Sizes are elements, whole cache lines each. Returns (list of arrays, list of 2-d arrays by thread, 2-d tables).
    """
    itemsize = np.dtype(dtype).itemsize
    at = 0
    parts = []
    for size in shared:
        parts.append(workspace[at : at + size * itemsize].view(dtype))
        at += size * itemsize
    own = []
    for size in private:
        own.append(workspace[at : at + threads * size * itemsize].view(dtype).reshape(threads, size))
        at += threads * size * itemsize
    end = at + tables * table * 8
    assert end <= workspace.size, (end, workspace.size)
    return parts, own, workspace[at:end].view(np.int64).reshape(tables, table)


def layout_flags(nhwc: int) -> tuple[int | None, int | None]:
    """The arguments "nhwc nchw" of a kernel."""
    return (1, None) if nhwc else (None, 1)
