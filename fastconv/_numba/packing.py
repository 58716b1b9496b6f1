"""Weights that a plan holds in a kernel's own order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv._numba import Conv, blocking

Array = np.ndarray


class PackedWeights:
    """Packed by a kernel for problems of one shape; of this process, whose vectors they are made for."""

    def __init__(self, data: Array) -> None:
        self.data = data

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def usable(self) -> bool:
        return True


def room(elements: int, dtype: str) -> Array:
    """An array that begins at a cache line; what it holds is undefined."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(elements * itemsize + blocking.LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % blocking.LINE_BYTES
    return raw[start : start + elements * itemsize].view(dtype)


def holds_weights(
    pack: Callable[[Conv, Array, int], PackedWeights], workspace: Callable[[Conv, int], int]
) -> Callable[[Any], Any]:
    """Makes a row one whose plans pack their weights once: `pack(p, w, threads)`, and the scratch bytes of a call on
    so many threads with weights packed. See fastconv.registry."""

    def mark(row: Any) -> Any:
        def workspace_nbytes(p: Conv, packed: bool, threads: int) -> int:
            """As that of the C rows; of a call that packs its weights the registry knows it, too."""
            if not packed:
                raise ValueError("the registry knows the workspace of a call that packs its weights")
            return workspace(p, threads)

        row.pack, row.workspace_nbytes = pack, workspace_nbytes
        return row

    return mark
