"""Launches: grids, the arguments of a kernel, scratch memory, the stream and the device of the arrays."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv._cuda.arrays import DeviceArray, intake, on_device
from fastconv._cuda.compiler import SIMULATED, capture, cuda, memory
from fastconv._cuda.sizes import round_up

# Threads of a block of the kernels that are one loop over cells.
THREADS = 128


class Flat:
    """An array as kernels take it: its memory as one axis, where element (0, 0, ...) is, and strides in elements."""

    __slots__ = ("array", "memory", "start", "strides")

    def __init__(self, value: Any) -> None:
        a = self.array = intake(value)
        first, end = a.span()
        count = (end - first) // a.itemsize
        # A length of zero would be a type of its own to some libraries; nothing reads the one cell.
        dtype = np.dtype(np.uint16) if a.dtype.name == "bfloat16" else a.dtype
        self.memory = memory(first, count, dtype, a.owner)
        self.start = (a.address - first) // a.itemsize
        self.strides = tuple(step // a.itemsize for step in a.strides)

    def aligned(self, *strides: int) -> bool:
        """Whether runs of four elements at multiples of these strides can be moved by 16 bytes at once."""
        return (self.array.address % (4 * self.array.itemsize)) == 0 and all(s % 4 == 0 for s in strides)


def flat(value: Any) -> Flat:
    return Flat(value)


class _Scratch(threading.local):
    """Scratch memory of each thread, by device and stream: kernels of one stream run one after the other."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, int], Any] = {}


_scratch = _Scratch()


def workspace(nbytes: int, like: Any) -> DeviceArray | None:
    """`nbytes` of aligned junk on the device and for the stream of an array, this thread's until its next call."""
    if nbytes == 0:
        return None
    a = intake(like)
    key = a.device, a.stream
    buffer = _scratch.buffers.get(key)
    if buffer is None or buffer.size < nbytes:
        with on_device(a.device):
            buffer = _scratch.buffers[key] = cuda.device_array(nbytes, np.uint8)
    found = intake(buffer)
    found.stream, found.device = a.stream, a.device
    return found


def release(device: int, stream: int) -> None:
    """Give back the scratch memory of a stream that is no more."""
    _scratch.buffers.pop((device, stream), None)


def join(first: DeviceArray, *others: DeviceArray) -> None:
    """All of these arrays are worked on in the first one's stream, which waits on the GPU for that of the others."""
    for a in others:
        if a.stream != first.stream:
            with on_device(first.device):
                event = cuda.event(timing=False)
                event.record(_stream(a.stream))
                event.wait(_stream(first.stream))
            a.stream = first.stream


def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else cuda.default_stream()


def int32s(kind: Any, numbers: Any) -> Any:
    """A NamedTuple of numbers that fit in 32 bits: registers, and shorter products, for the kernels."""
    return kind(*map(np.int32, numbers))


def carve(workspace: Any, *parts: tuple[Any, int]) -> list[Any]:
    """The workspace cut into arrays of a dtype and a number of elements, each at a multiple of 64 bytes."""
    a = intake(workspace)
    found = []
    at = 0
    for name, count in parts:
        dtype = np.dtype(name)
        assert at + count * dtype.itemsize <= a.size, (at, count, a.size)
        found.append(memory(a.address + at, count, dtype, a.owner))
        at += round_up(count * dtype.itemsize, 64)
    return found


def run(kernel: Any, grid: Any, threads: int, of: Any, *arguments: Any, shared: int = 0) -> None:
    """Queue a kernel on the stream of the array `of`; shared: bytes of its one array of shared memory."""
    queue(kernel, grid, threads, of.array if isinstance(of, Flat) else intake(of), shared, arguments)


def queue(kernel: Any, grid: Any, threads: int, of: DeviceArray, shared: int, arguments: tuple[Any, ...]) -> None:
    """What `run` does, once it knows its array; tests put a compiler in its place."""
    launches = _recording.launches
    if launches is not None:
        launches.append((kernel, grid, threads, of, shared, arguments))
        if SIMULATED:  # as on a GPU: what is recorded does not run
            return
    with on_device(of.device):
        if SIMULATED:
            kernel[grid, threads, 0, shared](*arguments)
        else:
            _configured(kernel, grid, threads, of.stream, shared)(*arguments)


@functools.lru_cache(maxsize=1024)
def _configured(kernel: Any, grid: Any, threads: int, stream: int, shared: int) -> Any:
    """A kernel with its grid and stream, without Numba telling that small problems leave a GPU idle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kernel[grid, threads, _stream(stream) if stream else 0, shared]


class _Recording(threading.local):
    """The launches of this thread that are being recorded."""

    launches: list[Any] | None = None


_recording = _Recording()


class Graph:
    """What a function queues on a stream, recorded once without running it, then queued as one thing.

    The arguments of its launches are kept, and with them the memory whose addresses they name.
    """

    def __init__(self, stream: Any, work: Callable[[], None]) -> None:
        self.launches: list[Any] = []
        _recording.launches = self.launches
        try:
            if SIMULATED:
                work()
            else:
                self._replay = capture(stream, work)
        finally:
            _recording.launches = None

    def replay(self) -> None:
        """Queue all of it."""
        if not SIMULATED:
            self._replay()
            return
        for launch in self.launches:
            queue(*launch)
