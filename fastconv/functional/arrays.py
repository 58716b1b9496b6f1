"""Arrays as they come, made into what kernels take: one dtype, native, aligned, contiguous; and checks of `out=`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import dispatch

# Computed in the second, rounded once to the first. Everything else that is a float is native.
_WIDENED = {"float16": "float32", "bfloat16": "float32"}
_NATIVE = ("float32", "float64")
# dtype.name costs microseconds: the dtypes of nearly all calls are looked up.
_PLAIN = (np.dtype(np.float32), np.dtype(np.float64))
NAMES = {np.dtype(name): name for name in (*_NATIVE, "int64")}


# Devices of DLPack whose memory kernels of CUDA can read: CUDA's own, and managed memory.
_DLPACK_GPU = (2, 13)


def on_gpu(value: Any) -> bool:
    """Whether this array lives on a GPU."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__cuda_ndarray__"):  # Numba's, which its simulator shows as arrays of the host
        return True
    device = getattr(value, "__dlpack_device__", None)
    if device is not None:
        return device()[0] in _DLPACK_GPU
    return hasattr(value, "__cuda_array_interface__")


def _on_gpu(where: str, name: str, value: Any, device: bool) -> Any:
    if not device:
        raise TypeError(f"{where}: {name} lives on a GPU; this function takes arrays of the host only")
    try:
        return dispatch.device_arrays().intake(value)
    except TypeError as error:
        raise TypeError(f"{where}: {name} {error}") from None


def as_array(where: str, name: str, value: Any, device: bool = False) -> Any:
    """A plain ndarray that shows the values of `value`; no copy where the buffer can be shared.

    device: an array on a GPU is welcome; it comes as the place of its elements (_cuda/arrays.py).
    """
    if type(value) is np.ndarray:
        if value.dtype in _PLAIN:
            return value
        array = value
    else:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{where}: {name} is a masked array; fill it first (array.filled(0))")
        if on_gpu(value):
            return _on_gpu(where, name, value, device)
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{where}: {name} cannot be read as an array: {error}") from None
        if type(array) is not np.ndarray:
            array = array.view(np.ndarray)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{where}: {name} must hold real numbers, got dtype {array.dtype}")
    if array.dtype.name not in (*_NATIVE, *_WIDENED) and array.dtype.kind == "f":
        raise TypeError(f"{where}: {name} has dtype {array.dtype}; the kernels compute in float32 and float64")
    if array.dtype == np.uint64:
        raise TypeError(f"{where}: {name} has dtype uint64, which int64 cannot hold; convert it first")
    return array


def common_dtype(where: str, **arrays: Any) -> tuple[np.dtype, np.dtype]:
    """(dtype of the result, dtype of the computation). Integers and bools are computed and returned in int64."""
    kinds = {a.dtype for a in arrays.values()}
    if len(kinds) == 1:
        (only,) = kinds
        if only in _PLAIN and only.isnative:
            return only, only
    try:
        result = np.result_type(*kinds)
    except TypeError:
        found = ", ".join(f"{name} {a.dtype}" for name, a in arrays.items())
        raise TypeError(f"{where}: these dtypes have no common one: {found}") from None
    if result.kind in "iub":
        return np.dtype(np.int64), np.dtype(np.int64)
    result = result.newbyteorder("=")
    return result, np.dtype(_WIDENED.get(result.name, result.name))


def cast(array: Any, dtype: np.dtype) -> Any:
    """`array` in a native dtype, aligned; strides are kept where nothing must be copied."""
    if not isinstance(array, np.ndarray):
        return dispatch.device_arrays().converted(array, dtype)
    if array.dtype == dtype and array.dtype.isnative and array.flags.aligned:
        return array
    return np.require(array, dtype, ["A"])


def contiguous(array: Any, dtype: np.dtype) -> Any:
    """`array` in a native dtype, aligned and C-contiguous; copied only if it is not. On a GPU: in this dtype, with any
    strides, which kernels of CUDA take."""
    if not isinstance(array, np.ndarray):
        return dispatch.device_arrays().converted(array, dtype)
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype == dtype and array.dtype.isnative:
        return array
    return np.require(array, dtype, ["C", "A"])


def needs_copy(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether `contiguous` would copy."""
    return contiguous(array, dtype) is not array


def logical(array: Any, layout: str) -> Any:
    """The (batch, channel, height, width) view of an image array in this layout."""
    return array if layout == "NCHW" else array.transpose(0, 3, 1, 2)


def logical_weight(array: Any, layout: str) -> Any:
    """The (oc, ic / g, kh, kw) view of a weight: OIHW with NCHW, HWIO with NHWC."""
    return array if layout == "NCHW" else array.transpose(3, 2, 0, 1)


def check_rank(where: str, name: str, array: Any, ranks: tuple[int, ...], axes: str) -> None:
    if array.ndim not in ranks:
        allowed = " or ".join(map(str, ranks))
        raise ValueError(f"{where}: {name} must have {allowed} axes {axes}, got shape {array.shape}")


def check_out(
    where: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: Mapping[str, Any]
) -> None:
    """Refuse an `out=` that is not a writable array of this shape and dtype apart from the inputs' memory."""
    if any(a is not None and not isinstance(a, np.ndarray) for a in inputs.values()):
        _check_device_out(where, out, shape, dtype, inputs)
        return
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        hint = " (a pair goes with return_indices=True)" if isinstance(out, tuple) and "max_pool" in where else ""
        raise TypeError(f"{where}: out must be a NumPy array, got {type(out).__name__}{hint}")
    if out.shape != shape:
        raise ValueError(f"{where}: out has shape {out.shape}, the result has {shape}")
    if out.dtype != dtype:
        raise TypeError(f"{where}: out has dtype {out.dtype}, the result has {dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{where}: out is read-only")
    if not out.flags.c_contiguous and (
        any(step == 0 and n > 1 for step, n in zip(out.strides, out.shape)) or _overlaps_itself(out)
    ):
        raise ValueError(f"{where}: several elements of out share one place in memory (strides {out.strides})")
    plain = out.view(np.ndarray)  # a subclass may have its own idea of NumPy's functions
    for name, array in inputs.items():
        if array is not None and np.shares_memory(plain, array):
            raise ValueError(f"{where}: out shares memory with {name}")


def _check_device_out(
    where: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: Mapping[str, Any]
) -> None:
    """The same of an `out=` on a GPU."""
    if not on_gpu(out):
        raise TypeError(f"{where}: the inputs live on a GPU, and out is {type(out).__name__}, which does not")
    target = _on_gpu(where, "out", out, True)
    if target.shape != shape:
        raise ValueError(f"{where}: out has shape {target.shape}, the result has {shape}")
    if target.dtype != dtype:
        raise TypeError(f"{where}: out has dtype {target.dtype}, the result has {dtype}")
    if not target.writable:
        raise ValueError(f"{where}: out is read-only")
    if any(step == 0 and n > 1 for step, n in zip(target.strides, shape)) or _overlaps_itself(target):
        raise ValueError(f"{where}: several elements of out share one place in memory (strides {target.strides})")
    for name, array in inputs.items():
        if array is not None and target.overlaps(array):
            raise ValueError(f"{where}: out shares memory with {name}")


def _overlaps_itself(out: Any) -> bool:
    """Whether two indices of `out` can name the same bytes; False for every slice or transpose of a plain array."""
    reach = out.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(out.strides, out.shape) if n > 1):
        if step < reach:
            return True
        reach += step * (n - 1)
    return False


class Output:
    """Where a kernel writes and what the caller gets: one array, or a temporary one copied back at the end."""

    __slots__ = ("_target", "array")

    def __init__(self, out: np.ndarray | None, shape: tuple[int, ...], result: np.dtype, compute: np.dtype) -> None:
        """`shape` is the caller's; the kernel's array is contiguous, in the dtype of the computation."""
        if out is None:
            self._target = None if result == compute else np.empty(shape, result)
            self.array = np.empty(shape, compute)
        elif out.flags.c_contiguous and out.flags.aligned and out.dtype == compute and out.dtype.isnative:
            self._target = None
            self.array = out.view(np.ndarray)
        else:
            self._target = out
            self.array = np.empty(shape, compute)

    def finish(self, out: np.ndarray | None) -> np.ndarray:
        """The caller's array, filled."""
        if self._target is None:
            return self.array if out is None else out
        with np.errstate(over="ignore"):
            self._target[...] = self.array
        return self._target
