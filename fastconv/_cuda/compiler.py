"""The CUDA compiler and its simulator: the one module that imports numba.cuda, so that a successor can take its place.

What kernels need beyond numba.cuda stands here twice: as code for the GPU, and as plain Python for the simulator
(NUMBA_ENABLE_CUDASIM=1), which has neither pointers nor PTX.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba.core import config as _config

__all__ = [
    "SIMULATED", "afresh", "capture", "cuda", "device", "device_of", "download", "float32", "float64", "kernel",
    "load4", "memory", "quotient", "select", "store4", "tf32", "upload",
]  # fmt: skip

cuda: Any = _cuda  # the simulator puts its own in the place of a global of this value

_settings: Any = _config

SIMULATED = bool(_settings.ENABLE_CUDASIM)

# numba-cuda has types of its own; those of Numba are not always the same.
types: Any = importlib.import_module("numba.types" if SIMULATED else "numba.cuda.types")
if not hasattr(types, "UniTuple"):
    types = importlib.import_module("numba.types")
float32, float64 = types.float32, types.float64


def kernel(function: Callable[..., Any] | None = None, *, registers: int | None = None) -> Any:
    """A kernel, compiled on its first launch for the types of its arguments; `registers`: the most of a thread."""
    if function is None:
        return lambda f: kernel(f, registers=registers)
    return cuda.jit(function) if SIMULATED else cuda.jit(max_registers=registers)(function)


def device(function: Callable[..., Any]) -> Any:
    """A function that kernels call. In the simulator it stays as it is, so it must not name `cuda`."""
    return function if SIMULATED else cuda.jit(device=True)(function)


if SIMULATED:

    def quotient(a: Any, b: Any) -> Any:
        return a // b

    def select(condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    def afresh(i: Any) -> Any:
        return i

    def tf32(value: Any) -> Any:
        return value

    def load4(array: Any, i: Any) -> tuple[Any, ...]:
        assert i % 4 == 0, "a load of 16 bytes must be aligned"
        return array[i], array[i + 1], array[i + 2], array[i + 3]

    def store4(array: Any, i: Any, a: Any, b: Any, c: Any, d: Any) -> None:
        assert i % 4 == 0, "a store of 16 bytes must be aligned"
        array[i], array[i + 1], array[i + 2], array[i + 3] = a, b, c, d

else:
    from llvmlite import ir

    intrinsic: Any = importlib.import_module("numba.cuda.extending").intrinsic

    I32 = ir.IntType(32)

    def _vector(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> tuple[Any, Any]:
        """A pointer to four elements, and their type."""
        vector = ir.VectorType(context.get_data_type(array_type.dtype), 4)
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [index]), vector.as_pointer()), vector

    @intrinsic
    def load4(typingctx, array, i):
        """(array[i], ..., array[i + 3]) in as few loads as there are 16 bytes; i is a multiple of 4, from an address
        that is one of 16."""

        def codegen(context, builder, signature, arguments):
            pointer, _ = _vector(context, builder, signature.args[0], *arguments)
            values = builder.load(pointer, align=16)
            parts = [builder.extract_element(values, I32(k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(array.dtype, 4)(array, i), codegen

    @intrinsic
    def store4(typingctx, array, i, a, b, c, d):
        """array[i : i + 4] = a, b, c, d; alignment as in load4."""
        element = array.dtype

        def codegen(context, builder, signature, arguments):
            pointer, vector = _vector(context, builder, signature.args[0], *arguments[:2])
            values = ir.Constant(vector, ir.Undefined)
            for k, part in enumerate(arguments[2:]):
                values = builder.insert_element(values, part, I32(k))
            builder.store(values, pointer, align=16)
            return context.get_dummy_value()

        return types.void(array, i, element, element, element, element), codegen

    @intrinsic
    def select(typingctx, condition, a, b):
        """a or b, both of which are computed: a branch would let the compiler choose between places instead, and an
        array whose places vary is not kept in registers."""

        def codegen(context, builder, signature, arguments):
            return builder.select(*arguments)

        return a(types.boolean, a, a), codegen

    @intrinsic
    def afresh(typingctx, i):
        """i, of 32 bits, as if it were another number: what is computed from it is computed again, and did not stay in
        registers since the last time."""

        def codegen(context, builder, signature, arguments):
            move = ir.FunctionType(I32, [I32])
            (value,) = (builder.trunc(v, I32) if v.type.width > 32 else v for v in arguments)
            return builder.asm(move, "mov.b32 $0, $1;", "=r,r", [value], side_effect=True)

        return types.int32(i), codegen

    @intrinsic
    def tf32(typingctx, value):
        """A float32 rounded to the 10 bits of mantissa that tensor cores read."""

        def codegen(context, builder, signature, arguments):
            kind = ir.FunctionType(I32, [ir.FloatType()])
            bits = builder.asm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f", arguments, False)
            return builder.bitcast(bits, ir.FloatType())

        return types.float32(value), codegen

    @intrinsic
    def multiply_tensor(typingctx, c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
        """C + A B of a warp, 16 x 8 += 16 x 8 by 8 x 8, on tensor cores (compute capability 8.0 and up). Thread (g, q)
        = (lane // 4, lane % 4) has A[g, q], A[g + 8, q], A[g, q + 4], A[g + 8, q + 4]; B[q, g], B[q + 4, g]; and
        C[g, 2q], C[g, 2q + 1], C[g + 8, 2q], C[g + 8, 2q + 1]: PTX ISA, mma.m16n8k8."""
        f = types.float32

        def codegen(context, builder, signature, arguments):
            real = ir.FloatType()
            result = ir.LiteralStructType([real] * 4)
            kind = ir.FunctionType(result, [real] * 4 + [I32] * 6)
            operands = [*arguments[:4], *(builder.bitcast(v, I32) for v in arguments[4:])]
            code = (
                "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                "{$0,$1,$2,$3}, {$8,$9,$10,$11}, {$12,$13}, {$4,$5,$6,$7};"
            )
            found = builder.asm(kind, code, "=f,=f,=f,=f,f,f,f,f,r,r,r,r,r,r", operands, True)
            parts = [builder.extract_value(found, k) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(f, 4)(f, f, f, f, f, f, f, f, f, f), codegen

    @intrinsic
    def quotient(typingctx, a, b):
        """a // b of numbers from 0 to 2^31 - 1: in 64 bits, as Numba divides, it takes a hundred instructions."""

        def codegen(context, builder, signature, arguments):
            a, b = (builder.trunc(v, I32) if v.type.width > 32 else v for v in arguments)
            return builder.zext(builder.udiv(a, b), ir.IntType(64))

        return types.int64(a, b), codegen


class _HostMemory:
    """Memory as a simulated kernel sees it: one axis, and an error for any index outside, negative ones included."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < self.values.size:
            raise IndexError(f"read at {i} of {self.values.size}")
        return self.values[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        if not 0 <= i < self.values.size:
            raise IndexError(f"write at {i} of {self.values.size}")
        self.values[i] = value


def memory(address: int, count: int, dtype: np.dtype, owner: Any) -> Any:
    """`count` elements from an address on, as an argument of a kernel."""
    nbytes = count * dtype.itemsize
    if SIMULATED:
        buffer: Any = (ctypes.c_byte * nbytes).from_address(address)
        return _HostMemory(np.frombuffer(buffer, dtype))
    interface = {
        "version": 3, "shape": (count,), "strides": None, "typestr": dtype.str, "data": (address, False),
        "stream": None,
    }  # fmt: skip
    return cuda.from_cuda_array_interface(interface, owner=owner, sync=False)


def device_of(address: int) -> int | None:
    """The number of the GPU on which the memory of an address lies, or None where the driver does not know."""
    if SIMULATED:
        return 0
    from cuda.bindings import driver

    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    status, number = driver.cuPointerGetAttribute(ordinal, address)
    return int(number) if status == driver.CUresult.CUDA_SUCCESS else None


def upload(values: np.ndarray, target: Any, stream: Any) -> None:
    """Queue a copy of a host array of one axis into such memory; `values` must stay as they are until it is done."""
    if SIMULATED:
        target.values[...] = values
    else:
        target.copy_to_device(values, stream=stream)


def download(source: Any, target: np.ndarray, stream: Any) -> None:
    """Fill a host array of one axis from such memory, and wait for it."""
    if SIMULATED:
        target[...] = source.values
    else:
        source.copy_to_host(target, stream=stream)
        stream.synchronize()


def capture(stream: Any, work: Callable[[], None]) -> Callable[[], None]:
    """What `work` would queue on a stream, as a CUDA graph: a function that queues all of it at once. By cuda.core,
    on which numba-cuda stands; memory that the graph names is not kept by it."""
    from cuda.core import Stream

    found = Stream.from_handle(int(stream))
    builder = found.create_graph_builder().begin_building()
    try:
        work()
    finally:
        builder.end_building()
    graph = builder.complete()
    return lambda: graph.launch(found)
