"""Arrays on a GPU, whoever made them: where they lie, in which order, on which device and stream; new ones like them.

PyTorch's tensors, CuPy's and Numba's arrays, and whatever shows `__cuda_array_interface__` or DLPack, are read in
place. Work is queued on the stream that their maker uses now, so nothing waits; new arrays are of the same kind.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv._cuda.compiler import SIMULATED, cuda, device_of

# new(shape, dtype): an uninitialised array of some library, in C order.
New = Callable[[tuple[int, ...], np.dtype], Any]

_READABLE = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip


class DeviceArray:
    """The place of an array's elements, with the few words of an ndarray that the callers of kernels use."""

    __slots__ = ("address", "device", "dtype", "new", "owner", "shape", "stream", "strides", "writable")

    def __init__(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, *, owner: Any,
        new: New, device: int = 0, stream: int = 0, writable: bool = True,
    ) -> None:  # fmt: skip
        """address: of element (0, 0, ...); strides in bytes; owner: keeps the memory; device: its number."""
        self.address = address
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
        self.owner = owner
        self.new = new
        self.device = device
        self.stream = stream
        self.writable = writable

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def contiguous(self) -> bool:
        """In C order, without gaps."""
        return self.size == 0 or all(
            n == 1 or step == wanted
            for n, step, wanted in zip(self.shape, self.strides, c_strides(self.shape, self.itemsize))
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For libraries that are handed one; a stream is left out, as the work is queued on theirs."""
        return {
            "version": 3, "shape": self.shape, "strides": self.strides, "typestr": self.dtype.str,
            "data": (self.address, not self.writable), "stream": None,
        }  # fmt: skip

    def span(self) -> tuple[int, int]:
        """The addresses of its first byte in memory and of the first behind it."""
        if self.size == 0:
            return self.address, self.address
        reach = [step * (n - 1) for n, step in zip(self.shape, self.strides)]
        before, after = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        return self.address + before, self.address + after + self.itemsize

    def _as(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(
            self.address, shape, strides, self.dtype, owner=self.owner, new=self.new, device=self.device,
            stream=self.stream, writable=self.writable,
        )  # fmt: skip

    def transpose(self, *axes: int) -> DeviceArray:
        return self._as(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes))

    def reshape(self, *shape: int) -> DeviceArray:
        """The same elements in another shape; an array with gaps can only be given axes of one in front."""
        if self.contiguous:
            assert math.prod(shape) == self.size, (shape, self.shape)
            return self._as(shape, c_strides(shape, self.itemsize))
        front = len(shape) - self.ndim
        assert shape == (1,) * front + self.shape, "only a batch axis can be added"
        return self._as(shape, (self.itemsize * max(self.size, 1),) * front + self.strides)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | tuple[None, ...]) -> DeviceArray:
        """Neighbouring rows of the first axis; [None, None]: all, with axes of one in front."""
        if isinstance(rows, tuple):
            return self.reshape(*(1 for _ in rows), *self.shape)
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1, rows
        found = self._as((max(0, stop - start), *self.shape[1:]), self.strides)
        found.address += start * self.strides[0]
        return found

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array of its maker's kind, on its device."""
        return self.new(shape, dtype)

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """A new array of nobody's kind."""
        if dtype.name == "bfloat16":  # a name that not every library knows
            plain = self.scratch(shape, np.dtype(np.uint16))
            plain.dtype = dtype
            return plain
        made = intake(self.new(shape, dtype))
        made.stream = self.stream
        return made

    def overlaps(self, other: DeviceArray) -> bool:
        (a, b), (c, d) = self.span(), other.span()
        return self.device == other.device and a < d and c < b


def c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of an array in C order."""
    strides = []
    step = itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _dtype(name: str) -> np.dtype:
    if name not in _READABLE:
        raise TypeError(f"has dtype {name}; the kernels compute in float32 and float64")
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError("has dtype bfloat16, which NumPy knows by ml_dtypes only: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _of_torch(tensor: Any) -> DeviceArray:
    torch = sys.modules["torch"]
    if tensor.requires_grad:
        raise TypeError("requires grad: pass its .detach()")
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = _dtype(name)

    def new(shape: tuple[int, ...], wanted: np.dtype) -> Any:
        return torch.empty(shape, dtype=getattr(torch, wanted.name), device=tensor.device)

    return DeviceArray(
        tensor.data_ptr(), tuple(tensor.shape), tuple(s * dtype.itemsize for s in tensor.stride()), dtype,
        owner=tensor, new=new, device=tensor.device.index, stream=torch.cuda.current_stream(tensor.device).cuda_stream,
    )  # fmt: skip


def _of_interface(
    value: Any, interface: dict[str, Any], new: New | None = None, device: int | None = None
) -> DeviceArray:
    if interface.get("mask") is not None:
        raise TypeError("is masked; fill it first")
    found = np.dtype(interface["typestr"])
    if not found.isnative:
        raise TypeError(f"has dtype {found}, which is not in this machine's byte order")
    dtype, shape = _dtype(found.name), tuple(interface["shape"])
    address, readonly = interface["data"]
    if device is None:
        device = device_of(address) if address else None
        device = current_device() if device is None else device
    new = new or _new_of_numba(device)
    return DeviceArray(
        address or 0, shape, tuple(interface.get("strides") or c_strides(shape, dtype.itemsize)), dtype, owner=value,
        new=new, device=device, stream=interface.get("stream") or 0, writable=not readonly,
    )  # fmt: skip


def _new_of_numba(device: int) -> New:
    def new(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        with on_device(device):
            return cuda.device_array(shape, dtype)

    return new


def _of_cupy(value: Any) -> DeviceArray:
    cupy = sys.modules["cupy"]

    def new(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        with value.device:
            return cupy.empty(shape, dtype)

    return _of_interface(value, value.__cuda_array_interface__, new, value.device.id)


def _of_dlpack(value: Any) -> DeviceArray:
    """By cuda.core, which comes with numba-cuda."""
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(value, stream_ptr=0)
    dtype, shape = _dtype(np.dtype(view.dtype).name), tuple(view.shape)
    strides = c_strides(shape, dtype.itemsize)
    if view.strides is not None:
        strides = tuple(step * dtype.itemsize for step in view.strides)
    return DeviceArray(
        view.ptr, shape, strides, dtype, owner=(value, view), new=_new_of_numba(view.device_id),
        device=view.device_id, writable=not view.readonly,
    )  # fmt: skip


def current_device() -> int:
    return 0 if SIMULATED else cuda.current_context().device.id


@contextlib.contextmanager
def on_device(number: int) -> Any:
    """Makes this GPU the current one."""
    if current_device() == number:
        yield
    else:
        with cuda.gpus[number]:
            yield


def intake(value: Any) -> DeviceArray:
    """Where the elements of `value` lie; a TypeError without its name where that cannot be told."""
    if isinstance(value, DeviceArray):
        return value
    library = type(value).__module__.partition(".")[0]
    if library == "torch":
        return _of_torch(value)
    if library == "cupy":
        return _of_cupy(value)
    if SIMULATED and hasattr(value, "__cuda_ndarray__"):
        return _of_interface(value, value.__array_interface__)
    if isinstance(value, np.ndarray):
        assert SIMULATED, "an array on the host"  # a simulated GPU's memory is the host's
        return _of_interface(value, value.__array_interface__)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return _of_dlpack(value)
    return _of_interface(value, interface)


def to_device(array: np.ndarray) -> DeviceArray:
    """A copy of a host array on the current GPU."""
    plain = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    found = intake(cuda.to_device(np.ascontiguousarray(plain)))
    found.dtype = array.dtype
    return found


def to_host(array: DeviceArray, out: np.ndarray) -> None:
    """Fill a host array with a copy of a contiguous array of Numba's; waits for it."""
    plain = array.owner.copy_to_host()
    out[...] = plain.view(out.dtype).reshape(out.shape) if array.dtype == out.dtype else plain
