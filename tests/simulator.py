"""Numba's CUDA simulator, faster: the threads of a block take turns in one thread of the host, from barrier to barrier.

Numba starts a thread of the host for each and polls them, which takes ten times as long and finds races by chance.
Without the package greenlet its simulator stays as it is.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class _Block:
    """Takes the place of numba.cuda.simulator.kernel.BlockManager."""

    def __init__(self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], debug: bool) -> None:
        self._function = function
        self._block = block

    def run(self, grid_point: tuple[int, ...], *arguments: Any) -> None:
        import greenlet
        from numba.cuda.simulator.kernelapi import Dim3

        turn: Any = threading.current_thread()  # where simulated code looks for its indices and its barrier
        hub = greenlet.getcurrent()
        turn.blockIdx, turn.syncthreads = Dim3(*grid_point), hub.switch
        points = np.ndindex(*self._block)
        live = [(greenlet.greenlet(lambda: self._function(*arguments), hub), Dim3(*point)) for point in points]
        while live:
            live.reverse()  # what one thread needs of another without a barrier is missing now or at the next turn
            for thread, index in live:
                turn.threadIdx = index
                thread.switch()
            live = [pair for pair in live if not pair[0].dead]


def install() -> None:
    """Use it from now on, if greenlet is here."""
    try:
        import greenlet  # noqa: F401
    except ImportError:
        return
    from numba.cuda.simulator import kernel

    kernel.BlockManager = _Block  # type: ignore[misc]
