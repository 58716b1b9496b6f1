"""Arrays on a GPU in the public functions: gathered in one place, copied there if asked, results of the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import dispatch, settings
from fastconv.functional.arrays import Output

COPIED = 'host arrays are copied to the GPU and the result is copied back (backend="cuda")'


def device_of(backend: str, array: Any) -> str:
    """Where a call on this array computes: where it lives; a host array on a GPU if the backend says so."""
    if not isinstance(array, np.ndarray):
        return "cuda"
    wanted = settings.current().backend if backend == "auto" else backend
    return "cuda" if wanted == "cuda" else "cpu"


def gather(where: str, device: str, **arrays: Any) -> tuple[Any, ...]:
    """The arrays of a call on its device, in their order; those of the host are copied only where all are there."""
    given = {name: a for name, a in arrays.items() if a is not None}
    on_host = [name for name, a in given.items() if isinstance(a, np.ndarray)]
    on_gpu = [name for name in given if name not in on_host]
    if on_host and on_gpu:
        raise TypeError(f"{where}: {on_gpu[0]} lives on a GPU, but {on_host[0]} on the host: move one of them")
    if len({given[name].device for name in on_gpu}) > 1:
        found = ", ".join(f"{name} on {given[name].device}" for name in on_gpu)
        raise TypeError(f"{where}: the arrays live on different GPUs: {found}")
    if on_gpu:
        dispatch.launch().join(*given.values())
    if device == "cpu" or on_gpu:
        return tuple(arrays.values())
    copying = dispatch.device_arrays()
    return tuple(None if a is None else copying.to_device(a) for a in arrays.values())


class _OnDevice:
    """As Output, for a result on a GPU: an array of the inputs' kind."""

    def __init__(self, like: Any, out: Any, shape: tuple[int, ...], result: np.dtype, compute: np.dtype) -> None:
        self._made = like.empty(shape, result) if out is None else out
        self._target = dispatch.device_arrays().intake(self._made)
        dispatch.launch().join(like, self._target)
        direct = self._target.contiguous and self._target.dtype == compute
        self.array = self._target if direct else like.scratch(shape, compute)

    def finish(self, out: Any) -> Any:
        if self.array is not self._target:
            dispatch.device_arrays().convert(self.array, self._target)
        return self._made


class _CopiedBack:
    """As Output, for a result that was computed on a GPU for arrays of the host."""

    def __init__(self, like: Any, out: Any, shape: tuple[int, ...], result: np.dtype, compute: np.dtype) -> None:
        self._host = np.empty(shape, result) if out is None else out
        self.array = like.scratch(shape, compute)

    def finish(self, out: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            dispatch.device_arrays().to_host(self.array, self._host)
        return self._host


def output(
    given: Any, like: Any, out: Any, shape: tuple[int, ...], result: np.dtype, compute: np.dtype
) -> Output | _OnDevice | _CopiedBack:
    """Where a kernel writes and what the caller gets. given: an input as the caller passed it; like: as the kernel
    takes it."""
    if isinstance(like, np.ndarray):
        return Output(out, shape, result, compute)
    kind = _CopiedBack if isinstance(given, np.ndarray) else _OnDevice
    return kind(like, out, shape, result, compute)
