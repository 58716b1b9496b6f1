"""A network's place on a GPU: its arrays and its stream, batches on their way up, sums on their way down, whole steps.

The GPU is the one that was current when the network came to it. The words are those of fastconv.nn.device.Host, which
says what they mean. A step is queued launch by launch when it is new; once it has run with all its memory in place it
is recorded as a CUDA graph, and queued as one from then on.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from fastconv._cuda import training
from fastconv._cuda.arrays import DeviceArray, c_strides, current_device, intake, on_device
from fastconv._cuda.compiler import SIMULATED, cuda, download, memory, upload
from fastconv._cuda.launch import Graph, release
from fastconv._cuda.sizes import round_up

# Batches that may be on their way while the GPU works on earlier ones: the host is never further ahead.
AHEAD = 4
ALIGNMENT = 64
# Kinds of steps that are remembered, each of a batch size of its own: an epoch has two.
MOST_KINDS = 8


def _memory(array: DeviceArray) -> Any:
    return memory(array.address, array.size, array.dtype, array.owner)


def _there(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a Session, run with its GPU as the current one."""

    @functools.wraps(method)
    def run(session: Session, *arguments: Any) -> Any:
        with on_device(session._number):
            return method(session, *arguments)

    return run


class _Pinned:
    """Host memory that the GPU reads by itself, and an event that tells when it has."""

    def __init__(self, nbytes: int) -> None:
        self.values = cuda.pinned_array((nbytes,), np.uint8)
        self.read: Any = None  # an event, once something is to be read

    def copy(self, nbytes: int, target: Any, stream: Any) -> None:
        upload(self.values[:nbytes], target, stream)
        if not SIMULATED:
            self.read = self.read or cuda.event(timing=False)
            self.read.record(stream)

    def wait(self) -> None:
        if self.read is not None:
            self.read.synchronize()


class _Places(NamedTuple):
    """Where the arrays of a batch lie."""

    starts: list[int]  # bytes from the first one's
    nbytes: int  # of all
    arrays: list[DeviceArray]
    memory: Any  # all of it


class Tally:
    """Losses and right predictions since `start`, summed on the GPU for each row of a batch by itself."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.sums = session.zeros((2, 1), np.float64)
        self._kept = self._before = (0.0, 0)

    def start(self) -> None:
        self._session.put(self.sums, np.zeros(self.sums.shape))
        self._kept = self._before = (0.0, 0)

    def room(self, rows: int) -> None:
        """Make it large enough for batches of so many rows."""
        if rows > self.sums.shape[1]:
            self._kept = self.read()
            self.sums = self._session.zeros((2, rows), np.float64)

    def read(self) -> tuple[float, int]:
        """Waits for the GPU."""
        total, correct = self._session.get(self.sums).sum(axis=1)
        return self._kept[0] + float(total), self._kept[1] + int(correct)

    def last(self) -> tuple[float, int]:
        """What came since this was last asked; waits for the GPU."""
        before, now = self._before, self.read()
        self._before = now
        return now[0] - before[0], now[1] - before[1]


class Session:
    """See the module and fastconv.nn.device.Host."""

    name = "cuda"

    relu_backward = staticmethod(training.relu_backward)
    activate = staticmethod(training.activate)
    activate_backward = staticmethod(training.activate_backward)
    multiply = staticmethod(training.multiply)
    sgd = staticmethod(training.sgd)
    rmsprop = staticmethod(training.rmsprop)
    adam = staticmethod(training.adam)

    def __init__(self) -> None:
        self.stream = cuda.stream()
        self.graphs = True
        self._pointer = 0 if SIMULATED else int(self.stream)
        self._number = current_device()
        weakref.finalize(self, release, self._number, self._pointer)
        self._pinned: dict[int, list[_Pinned]] = {}  # by their size
        self._block: DeviceArray | None = None
        self._places: dict[Hashable, _Places] = {}
        # Steps that ran with all memory as it is, the last used last; None: not yet recorded.
        self._steps: dict[Hashable, Graph | None] = {}

    # -- arrays

    @_there
    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        self.forget()  # recorded steps name the memory that this may take the place of
        found = intake(cuda.device_array(shape, np.dtype(dtype)))
        found.stream, found.device = self._pointer, self._number
        return found

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        found = self.empty(shape, dtype)
        self.put(found, np.zeros(shape, dtype))
        return found

    @_there
    def put(self, target: DeviceArray, values: Any) -> None:
        plain = np.ascontiguousarray(np.broadcast_to(values, target.shape), target.dtype)
        if target.size:
            upload(plain.reshape(-1), _memory(target), self.stream)
            self.stream.synchronize()

    @_there
    def get(self, array: DeviceArray, out: np.ndarray | None = None) -> np.ndarray:
        found = np.empty(array.shape, array.dtype) if out is None else out
        if array.size:
            download(_memory(array), found.reshape(-1), self.stream)
        return found

    def dense(self, array: DeviceArray, dtype: np.dtype) -> DeviceArray:
        assert array.contiguous and array.dtype == dtype, "a layer's gradient"
        return array

    # -- on the way up and down

    @_there
    def upload(self, x: np.ndarray, y: np.ndarray | None, rate: float) -> tuple[DeviceArray, Any, DeviceArray]:
        """In one copy, to the same place each time, so that a recorded step finds them."""
        given = [x, np.array([rate], x.dtype), *([] if y is None else [y])]
        kind = tuple((part.shape, part.dtype) for part in given)
        places = self._places.get(kind) or self._places.setdefault(kind, self._lay_out(given))
        pinned = self._next(places.nbytes)
        for start, part in zip(places.starts, given):
            pinned.values[start : start + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        pinned.copy(places.nbytes, places.memory, self.stream)
        arrays = places.arrays
        return arrays[0], None if y is None else arrays[2], arrays[1]

    def _lay_out(self, given: list[np.ndarray]) -> _Places:
        """Where such arrays go, one after the other; in one block for batches of all kinds, as they take turns."""
        starts, total = [], 0
        for part in given:
            starts.append(total)
            total += round_up(part.nbytes, ALIGNMENT)
        if self._block is None or self._block.size < total:
            self._block = self.empty((total,), np.uint8)
            self._places.clear()
        block = self._block
        arrays = [
            DeviceArray(
                block.address + start, part.shape, c_strides(part.shape, part.itemsize), part.dtype, owner=block.owner,
                new=block.new, device=block.device, stream=block.stream,
            )
            for start, part in zip(starts, given)
        ]  # fmt: skip
        return _Places(starts, total, arrays, _memory(block[:total]))

    @_there
    def keep(self, target: DeviceArray, flags: np.ndarray, factor: float) -> None:
        pinned, nbytes = self._next(target.nbytes), target.nbytes
        values = pinned.values[:nbytes].view(target.dtype).reshape(target.shape)
        np.multiply(flags, target.dtype.type(factor), out=values)
        pinned.copy(nbytes, memory(target.address, nbytes, np.dtype(np.uint8), target.owner), self.stream)

    def _next(self, nbytes: int) -> _Pinned:
        """Pinned memory for so many bytes, whose last values have arrived."""
        size = 1 << (nbytes - 1).bit_length()
        ring = self._pinned.setdefault(size, [])
        pinned = _Pinned(size) if len(ring) < AHEAD else ring.pop(0)
        pinned.wait()
        ring.append(pinned)
        return pinned

    def tally(self) -> Tally:
        return Tally(self)

    # -- computing

    def loss(
        self, loss: Any, z: DeviceArray, targets: DeviceArray, grad: DeviceArray | None, tally: Tally, correct: bool
    ) -> None:
        training.loss(loss.name, z, targets, grad, tally.sums)

    @_there
    def step(self, key: Hashable, work: Callable[[], None]) -> None:
        if key is None or not self.graphs:
            work()
            return
        ran = key in self._steps
        graph = self._steps.pop(key, None)
        if ran and graph is None:
            graph = self._record(work)
        if graph is None:
            work()
        else:
            graph.replay()
        self._steps[key] = graph
        if len(self._steps) > MOST_KINDS:
            del self._steps[next(iter(self._steps))]

    def _record(self, work: Callable[[], None]) -> Graph | None:
        try:
            return Graph(self.stream, work)
        except Exception as error:  # whatever a driver or cuda.core raises
            self.graphs = False
            warnings.warn(f"CUDA graphs do not work here, so each kernel is launched by itself: {error}")
            return None

    def forget(self) -> None:
        self._steps.clear()
