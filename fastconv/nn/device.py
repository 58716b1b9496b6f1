"""Where a network computes: its arrays, and what a step does to them between convolutions. Layers ask this object.

Host is NumPy. `gpu()` has the same words: `fastconv/_cuda/session.py`.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

import fastconv
from fastconv import host
from fastconv.functional import training

from .activations import ACTIVATIONS

ALIGNMENT = 64  # bytes: a cache line and an AVX-512 vector


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array whose data start on an ALIGNMENT boundary."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start:start + nbytes].view(dtype).reshape(shape)


class Tally:
    """Sums over the batches of an epoch: losses, and right predictions."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """From here on."""
        self._total, self._correct = 0.0, 0
        self._last = (0.0, 0)

    def room(self, rows: int) -> None:
        """Batches of so many rows are to come."""

    def add(self, total: float, correct: int) -> None:
        self._total += total
        self._correct += correct
        self._last = total, correct

    def read(self) -> tuple[float, int]:
        """Since `start`."""
        return self._total, self._correct

    def last(self) -> tuple[float, int]:
        """Of the last batch, where this is asked after each."""
        return self._last


class Host:
    """Arrays of NumPy."""

    name = "cpu"

    # -- arrays

    empty = staticmethod(aligned_empty)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        found = aligned_empty(shape, dtype)
        found[...] = 0
        return found

    def put(self, target: Any, values: Any) -> None:
        """Values of the host into an array of this place."""
        target[...] = values

    def get(self, array: Any, out: np.ndarray | None = None) -> np.ndarray:
        """A copy on the host, in `out` if that is given."""
        if out is None:
            return array.copy()
        out[...] = array
        return out

    def keep(self, target: Any, flags: np.ndarray, factor: float) -> None:
        """target = factor where the flag of the host is set, else 0."""
        np.multiply(flags, target.dtype.type(factor), out=target)

    def dense(self, array: Any, dtype: np.dtype) -> Any:
        """As the compiled steps take it: layers of others may return views, or another dtype."""
        return array if array.flags.c_contiguous and array.dtype == dtype else np.ascontiguousarray(array, dtype)

    # -- on the way up and down

    def upload(self, x: Any, y: Any, rate: float) -> tuple[Any, Any, Any]:
        """A batch and the rate of its update, here until the next."""
        return x, y, rate

    def tally(self) -> Tally:
        """Sums of losses that steps add to."""
        return Tally()

    # -- computing

    relu_backward = staticmethod(training.relu_backward)
    sgd = staticmethod(training.sgd)
    rmsprop = staticmethod(training.rmsprop)
    adam = staticmethod(training.adam)

    def activate(self, name: str, x: Any, y: Any) -> None:
        """y = activation(x); in place where both are one array."""
        if y is not x:
            np.copyto(y, x)
        ACTIVATIONS[name].forward(y)

    def activate_backward(self, name: str, y: Any, dy: Any) -> None:
        """dy, the gradient of y = activation(z), becomes that of z."""
        ACTIVATIONS[name].backward(y, dy)

    def multiply(self, a: Any, b: Any, y: Any) -> None:
        np.multiply(a, b, out=y)

    def loss(self, loss: Any, z: Any, targets: Any, grad: Any, tally: Tally, correct: bool) -> None:
        """Add the losses of a batch to a tally, and its right predictions; write the gradient, unless that is None."""
        if correct:
            tally.add(*loss.value_and_correct(z, targets, grad))
        else:
            tally.add(loss.value(z, targets, grad), 0)

    def step(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do the work of a step. Steps of one key (None: none is like it) are the same but for what was uploaded: their
        work may be recorded, and then done without calling `work`."""
        work()

    def forget(self) -> None:
        """Steps are no longer as they were."""


HOST = Host()


def check(backend: str) -> None:
    """NoKernelError in one sentence where this backend needs a GPU that cannot be used here."""
    fault = host.backend_fault("cuda") if backend == "cuda" else None
    if fault is not None:
        raise fastconv.NoKernelError(f'backend="cuda" cannot train here: {fault}')


def gpu() -> Any:
    """A place on the GPU for one network."""
    check("cuda")
    return training.device_session()
