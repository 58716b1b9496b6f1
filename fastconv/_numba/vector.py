"""What Numba lacks: vectors of the host's length, emitted as LLVM IR by a few intrinsics.

`Lanes` is a vector while code is being generated: arithmetic on it emits instructions, so that a plain-Python scalar
formula (those of fastconv.winograd) called with `Lanes` emits its vector form. The intrinsics take contiguous 1-d
arrays and element offsets, check no bounds, and compile for any vector length LLVM knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic as _intrinsic
from numba.np import arrayobj

intrinsic: Any = _intrinsic  # its declared type takes the typing context for an argument of the call

I32 = ir.IntType(32)
I64 = ir.IntType(64)
BIT = ir.IntType(1)


def _vector_bytes() -> int:
    """Length of the longest vectors that the compiler may use on this host (NUMBA_CPU_FEATURES can lower it)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    on = {word[1:] for word in features.split(",") if word.startswith("+")}
    if "avx512f" in on:
        return 64
    if "avx2" in on and "fma" in on:
        return 32
    return 16


VECTOR_BYTES = _vector_bytes()

# The register tile of the GEMM micro-kernel: rows x TILE_VECTORS accumulators, plus one row of B and a broadcast,
# in 32 registers (AVX-512, NEON) or 16. 14 x 2 vectors of 512 bits runs at the FMA peak (EPYC Zen 4: 117 GFLOP/s).
TILE_VECTORS = 2
_REGISTERS = 32 if VECTOR_BYTES == 64 or "aarch64" in cpu_target.target_context.codegen().magic_tuple()[0] else 16
TILE_ROWS = 14 if VECTOR_BYTES == 64 else 12 if _REGISTERS == 32 else 6

# Heights that get code. Of tall tiles the full one and up to half of it: a remainder above one half runs as two halves,
# which reach the same rate (from four rows on), so the heights between would only cost compile time.
HALF_TILE_ROWS = TILE_ROWS // 2 if TILE_ROWS > 8 else TILE_ROWS
TILE_HEIGHTS = tuple(sorted({*range(1, HALF_TILE_ROWS + 1), TILE_ROWS}))
# Rows whose accumulators hide the latency of a multiply-add: fewer take as long.
SHORT = 4


def lanes(itemsize: int) -> int:
    """Elements of one vector."""
    return VECTOR_BYTES // itemsize


class Lanes:
    """A vector register while code is generated: `+ - *` emit instructions that may fuse into multiply-adds."""

    __array_ufunc__ = None  # a NumPy scalar on the left leaves the operation to us

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def _other(self, other: Any) -> ir.Value:
        if isinstance(other, Lanes):
            return other.value
        vector = self.value.type
        return ir.Constant(vector, [ir.Constant(vector.element, float(other))] * vector.count)

    def __add__(self, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.fadd(self.value, self._other(other), flags=("contract",)))

    def __sub__(self, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.fsub(self.value, self._other(other), flags=("contract",)))

    def __mul__(self, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.fmul(self.value, self._other(other), flags=("contract",)))

    __rmul__ = __mul__


def scalar_type(array: types.Array) -> ir.Type:
    return ir.FloatType() if array.dtype == types.float32 else ir.DoubleType()


def address(context: Any, builder: ir.IRBuilder, array: types.Array, value: ir.Value, offset: ir.Value) -> ir.Value:
    """Pointer to element `offset` of an array.

    Marks the function that it is used in: its loops are glue around emitted ones, not worth copies of vectors.
    """
    builder.function.attributes.add("optsize")
    return builder.gep(arrayobj.make_array(array)(context, builder, value).data, [offset])


def vector_type(scalar: ir.Type) -> ir.VectorType:
    return ir.VectorType(scalar, lanes(4 if isinstance(scalar, ir.FloatType) else 8))


def itemsize(kind: ir.Type) -> int:
    """Bytes of an element of this type, or of vectors of it."""
    element = getattr(kind, "element", kind)
    return element.width // 8 if isinstance(element, ir.IntType) else 4 if element == ir.FloatType() else 8


def clamp(at: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Within [low, high]; NaN stays NaN."""
    value = at.select(at.fcmp_ordered("<", value, low), low, value)
    return at.select(at.fcmp_ordered(">", value, high), high, value)


def load(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.Type) -> ir.Value:
    """A vector or an element, from an address that need be aligned for its elements only."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=itemsize(kind))


def store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=itemsize(value.type))


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, vector.count), None))


def stand_alone(function: ir.Function) -> None:
    """Called, not inlined, and its loops are left as they are: unrolled already, they double in code to no gain."""
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("optsize")


def _external(module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    return cgutils.get_or_insert_function(module, ir.FunctionType(result, arguments), name)


LINE_BYTES = 64


def fetch(at: ir.IRBuilder, pointer: ir.Value, ahead: int, count: int) -> None:
    """Ask for the cache lines of `count` bytes that begin so many bytes after a pointer; they need not exist."""
    byte = ir.IntType(8).as_pointer()
    function = _external(at.module, "llvm.prefetch.p0", ir.VoidType(), [byte, I32, I32, I32])
    start = at.bitcast(pointer, byte)
    for line in range(0, count, LINE_BYTES):
        at.call(function, [at.gep(start, [I64(ahead + line)]), I32(0), I32(3), I32(1)])


def multiply_add(module: ir.Module, vector: ir.VectorType) -> ir.Function:
    """a * b + c, fused where the host can."""
    return _external(module, f"llvm.fmuladd.{suffix(vector)}", vector, [vector] * 3)


def suffix(vector: ir.VectorType) -> str:
    return f"v{vector.count}{'i' if isinstance(vector.element, ir.IntType) else 'f'}{8 * itemsize(vector)}"


# --------------------------------------------------------------------------------------------------------
# Elements and constants: as intrinsics they cost no compile time of their own


@intrinsic
def get(typingctx, array, index):
    """array[index] of a 1-d array, without a check for negative indices."""
    signature = array.dtype(array, types.int64)

    def codegen(context, builder, sig, args):
        return builder.load(address(context, builder, sig.args[0], *args))

    return signature, codegen


@intrinsic
def put(typingctx, array, index, value):
    """array[index] = value of a 1-d array, without a check for negative indices."""
    signature = types.void(array, types.int64, array.dtype)

    def codegen(context, builder, sig, args):
        builder.store(args[2], address(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return signature, codegen


def numbers(fields: type[tuple[int, ...]]) -> Any:
    """An intrinsic that reads an int64 array as the fields of a NamedTuple class: `numbers(Shape)(array).mb`.

    What it gives is a pointer: passed to helpers, it compiles several times faster than the tuple itself.
    """
    names = fields._fields  # type: ignore[attr-defined]
    record = numba.from_dtype(np.dtype([(name, np.int64) for name in names]))

    @intrinsic
    def read(typingctx, array):
        def codegen(context, builder, sig, args):
            data = arrayobj.make_array(sig.args[0])(context, builder, args[0]).data
            return builder.bitcast(data, context.get_value_type(record))

        return record(array), codegen

    return read


def _constant(array: types.Array, size: Callable[[int], int]) -> Any:
    itemsize = 4 if array.dtype == types.float32 else 8
    return types.int64(array), lambda context, builder, sig, args: I64(size(itemsize))


@intrinsic
def vector_lanes(typingctx, array):
    """Elements of a vector of the array's type."""
    return _constant(array, lanes)


@intrinsic
def panel_columns(typingctx, array):
    """Columns of the micro-kernel's tile, and of a packed panel of B, of the array's type."""
    return _constant(array, lambda itemsize: TILE_VECTORS * lanes(itemsize))


@intrinsic
def distance(typingctx, a, b):
    """Elements from the first of array a to the first of array b, in memory: both of one type, wherever they lie."""
    signature = types.int64(a, b)

    def codegen(context, builder, sig, args):
        first, second = (
            builder.ptrtoint(address(context, builder, kind, value, I64(0)), I64)
            for kind, value in zip(sig.args, args)
        )
        size = 4 if sig.args[0].dtype == types.float32 else 8
        return builder.sdiv(builder.sub(second, first), I64(size))

    return signature, codegen


# --------------------------------------------------------------------------------------------------------
# Data movement


def standing(
    module: ir.Module, name: str, result: ir.Type, kinds: list[ir.Type], emit: Callable[..., ir.Value | None]
) -> ir.Function:
    """The function of this name in a module, made on first use: `emit(builder, *arguments)` gives its result, if any.

    Called, not inlined: the compiler would unroll and clone large straight code in every loop around it, for seconds.
    """
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, kinds), name)
        stand_alone(function)
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        outcome = emit(inside, *function.args)
        if outcome is None:
            inside.ret_void()
        else:
            inside.ret(outcome)
    return function


def outlined(name: str, body: Callable[..., ir.Value | None]) -> Callable[..., Any]:
    """A codegen whose code goes into a function of its own: `body(builder, kinds, *values)` emits it.

    Arrays and their offsets become pointers: `kinds` are the Numba types of the arguments, in which a pointer stands
    for an array and the offset after it. None is left out of the values.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        values: list[ir.Value] = []
        kinds: list[types.Type] = []
        position = 0
        while position < len(args):
            kind, value = sig.args[position], args[position]
            if isinstance(kind, types.Array):
                position += 1
                value = address(context, builder, kind, value, args[position])
            position += 1
            if kind != types.none:
                values.append(value)
                kinds.append(kind)
        arrays = [kind for kind in kinds if isinstance(kind, types.Array)]
        full_name = f"{name}_{'_'.join(str(kind.dtype) for kind in arrays)}__numba"
        result = context.get_value_type(sig.return_type) if sig.return_type != types.void else ir.VoidType()
        function = standing(
            builder.module, full_name, result, [value.type for value in values],
            lambda inside, *arguments: body(inside, kinds, *arguments),
        )  # fmt: skip
        outcome = builder.call(function, values)
        return context.get_dummy_value() if sig.return_type == types.void else outcome

    return codegen


@intrinsic
def copy(typingctx, source, source_start, target, target_start, count):
    """target[i] = source[i] for i < count, any count."""
    signature = types.void(source, types.int64, target, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        from_, to = (address(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2))
        cgutils.raw_memcpy(builder, to, from_, args[4], itemsize(scalar_type(sig.args[0])))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def zero(typingctx, target, target_start, count):
    """target[i] = 0 for i < count, any count."""
    signature = types.void(target, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        size = builder.mul(args[2], I64(itemsize(scalar_type(sig.args[0]))))
        cgutils.memset(builder, address(context, builder, sig.args[0], args[0], args[1]), size, 0)
        return context.get_dummy_value()

    return signature, codegen


def _load_first(builder: ir.IRBuilder, base: ir.Value, count: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector of the first `count` elements from `base` on, zeros beyond them, which are not read."""
    wide, mask = ir.VectorType(I64, vector.count), ir.VectorType(BIT, vector.count)
    inside = builder.icmp_signed("<", ir.Constant(wide, [I64(n) for n in range(wide.count)]),
                                 broadcast(builder, count, wide))  # fmt: skip
    arguments = [vector.as_pointer(), I32, mask, vector]
    function = _external(builder.module, f"llvm.masked.load.{suffix(vector)}.p0", vector, arguments)
    place, align = builder.bitcast(base, vector.as_pointer()), I32(itemsize(vector))
    return builder.call(function, [place, align, inside, ir.Constant(vector, None)])


def pieces(
    builder: ir.IRBuilder, scalar: ir.Type, width: ir.Value, emit: Callable[[ir.Type, list[ir.Value]], None]
) -> None:
    """Code for the first `width` of TILE_VECTORS vectors: emit(type, starts) makes that of vectors of one power of two.

    Two of them that overlap cover any width: some processors take long for stores with a mask.
    """
    function, full = builder.function, vector_type(scalar).count
    most = I64(TILE_VECTORS * full)
    width = builder.select(builder.icmp_signed("<", width, most), width, most)
    end = function.append_basic_block("covered")
    piece = full
    while piece:
        kind = ir.VectorType(scalar, piece) if piece > 1 else scalar
        covered, smaller = (function.append_basic_block(f"{name}.{piece}") for name in ("piece", "smaller"))
        builder.cbranch(builder.icmp_signed(">=", width, I64(piece)), covered, smaller)
        builder.position_at_end(covered)
        starts = [I64(piece * n) for n in range(TILE_VECTORS - 1)] if piece == full else [I64(0)]
        emit(kind, [*starts, builder.sub(width, I64(piece))])
        builder.branch(end)
        builder.position_at_end(smaller)
        piece //= 2
    builder.branch(end)
    builder.position_at_end(end)


def _zero(kind: ir.Type) -> ir.Constant:
    return ir.Constant(kind, None if isinstance(kind, ir.VectorType) else 0.0)


def _move(builder: ir.IRBuilder, scalar: ir.Type, rows: ir.Value, width: ir.Value, source: Any, target: Any) -> None:
    """`rows` rows of `width` elements from source (None: zeros) to target, each a pointer and a step."""
    function = builder.function
    end, begin = (function.append_basic_block(name) for name in ("moved", "move"))
    builder.cbranch(builder.icmp_signed(">", rows, I64(0)), begin, end)
    builder.position_at_end(begin)

    def emit(kind: ir.Type, starts: list[ir.Value]) -> None:
        entry, loop, done = builder.block, *(function.append_basic_block(name) for name in ("rows", "done"))
        builder.branch(loop)
        builder.position_at_end(loop)
        row = builder.phi(I64)
        for start in starts:
            value = _zero(kind)
            if source is not None:
                value = load(builder, builder.gep(source[0], [builder.add(builder.mul(row, source[1]), start)]), kind)
            store(builder, value, builder.gep(target[0], [builder.add(builder.mul(row, target[1]), start)]))
        following = builder.add(row, I64(1))
        row.add_incoming(I64(0), entry)
        row.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, rows), loop, done)
        builder.position_at_end(done)

    pieces(builder, scalar, width, emit)
    builder.branch(end)
    builder.position_at_end(end)


def copy_block(
    builder: ir.IRBuilder, source: ir.Value, source_step: ir.Value, target: ir.Value, target_step: ir.Value,
    rows: ir.Value, width: ir.Value,
) -> None:  # fmt: skip
    """Code that copies `rows` rows of `width` <= TILE_VECTORS vectors, the first rows at these pointers."""
    pointer = target.type
    copying = standing(
        builder.module, f"copy_block_{pointer.pointee}__numba", ir.VoidType(), [pointer, I64, pointer, I64, I64, I64],
        lambda at, x, x_step, y, y_step, rows, width: _move(at, pointer.pointee, rows, width, (x, x_step), (y, y_step)),
    )  # fmt: skip
    builder.call(copying, [source, source_step, target, target_step, rows, width])


def zero_block(builder: ir.IRBuilder, target: ir.Value, step: ir.Value, rows: ir.Value, width: ir.Value) -> None:
    """Code that clears `rows` rows of `width` <= TILE_VECTORS vectors, the first at this pointer."""
    pointer = target.type
    clearing = standing(
        builder.module, f"zero_block_{pointer.pointee}__numba", ir.VoidType(), [pointer, I64, I64, I64],
        lambda at, y, step, rows, width: _move(at, pointer.pointee, rows, width, None, (y, step)),
    )  # fmt: skip
    builder.call(clearing, [target, step, rows, width])


@intrinsic
def copy_rows(typingctx, source, s, source_step, target, t, target_step, rows, width):
    """target[r * target_step + i] = source[r * source_step + i] for r < rows, i < width <= TILE_VECTORS vectors."""
    i8 = types.int64

    def codegen(context, builder, sig, args):
        from_, to = (address(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 3))
        copy_block(builder, from_, args[2], to, *args[5:])
        return context.get_dummy_value()

    return types.void(source, i8, i8, target, i8, i8, i8, i8), codegen


@intrinsic
def zero_rows(typingctx, target, t, target_step, rows, width):
    """target[r * target_step + i] = 0 for r < rows, i < width <= TILE_VECTORS vectors."""
    i8 = types.int64

    def codegen(context, builder, sig, args):
        zero_block(builder, address(context, builder, sig.args[0], args[0], args[1]), *args[2:])
        return context.get_dummy_value()

    return types.void(target, i8, i8, i8, i8), codegen


@intrinsic
def copy_run(typingctx, source, source_start, target, target_start, count):
    """target[i] = source[i] for i < count <= TILE_VECTORS vectors."""

    def codegen(context, builder, sig, args):
        from_, to = (address(context, builder, sig.args[i], args[i], args[i + 1]) for i in (0, 2))
        copy_block(builder, from_, I64(0), to, I64(0), I64(1), args[4])
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64, types.int64), codegen


@intrinsic
def zero_run(typingctx, target, target_start, count):
    """target[i] = 0 for i < count <= TILE_VECTORS vectors."""

    def codegen(context, builder, sig, args):
        zero_block(builder, address(context, builder, sig.args[0], args[0], args[1]), I64(0), I64(1), args[2])
        return context.get_dummy_value()

    return types.void(target, types.int64, types.int64), codegen


def finish_block(
    builder: ir.IRBuilder, sums: ir.Value, bias: ir.Value, has_bias: ir.Value, addend: ir.Value, residual: ir.Value,
    has_residual: ir.Value, y: ir.Value, count: ir.Value, low: ir.Value, high: ir.Value,
) -> None:  # fmt: skip
    """Code for finish_run, by pointers."""
    given = [sums, bias, has_bias, addend, residual, has_residual, y, count, low, high]
    name = f"finish_block_{y.type.pointee}__numba"
    builder.call(standing(builder.module, name, ir.VoidType(), [value.type for value in given], _finish), given)


def _finish(
    builder: ir.IRBuilder, sums: ir.Value, bias: ir.Value, has_bias: ir.Value, addend: ir.Value, residual: ir.Value,
    has_residual: ir.Value, y: ir.Value, count: ir.Value, low: ir.Value, high: ir.Value,
) -> None:  # fmt: skip
    scalar = y.type.pointee
    # a pointer to zeros in place of what is not there
    row = ir.ArrayType(scalar, TILE_VECTORS * vector_type(scalar).count)
    zeros = cgutils.add_global_variable(builder.module, row, "finish_run_zeros")
    zeros.initializer, zeros.linkage, zeros.global_constant = ir.Constant(row, None), "internal", True
    nothing = builder.bitcast(zeros, scalar.as_pointer())
    bias = builder.select(has_bias, bias, nothing)
    residual = builder.select(has_residual, residual, nothing)

    def emit(kind: ir.Type, starts: list[ir.Value]) -> None:
        def spread(value: ir.Value) -> ir.Value:
            return broadcast(builder, value, kind) if isinstance(kind, ir.VectorType) else value

        constant, lowest, highest = spread(addend), spread(low), spread(high)
        for start in starts:
            value = load(builder, builder.gep(sums, [start]), kind)
            value = builder.fadd(value, load(builder, builder.gep(bias, [start]), kind))
            value = builder.fadd(value, constant)
            value = builder.fadd(value, load(builder, builder.gep(residual, [start]), kind))
            store(builder, clamp(builder, value, lowest, highest), builder.gep(y, [start]))

    pieces(builder, scalar, count, emit)


@intrinsic
def finish_run(
    typingctx, sums, s, bias, b, has_bias, addend, residual, r, has_residual, y, d, count, low, high
):  # fmt: skip
    """y[i] = clamp(sums[i] + bias[i] + addend + residual[i], low, high) for i < count <= TILE_VECTORS vectors.

    Without them bias[i] and residual[i] count as 0 and are not read. NaN stays NaN.
    """
    i8, bit = types.int64, types.boolean
    real = sums.dtype

    def codegen(context, builder, sig, args):
        places = {n: address(context, builder, sig.args[n], args[n], args[n + 1]) for n in (0, 2, 6, 9)}
        finish_block(
            builder, places[0], places[2], args[4], args[5], places[6], args[8], places[9], args[11], args[12], args[13]
        )
        return context.get_dummy_value()

    return types.void(sums, i8, bias, i8, bit, real, residual, i8, bit, y, i8, i8, real, real), codegen


def transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square of n vectors of n: exchange the off-diagonal squares of size 1, 2, 4, ..."""
    n = len(rows)
    step = 1
    while step < n:
        for i in (i for i in range(n) if not i & step):
            low = [n + j - step if j & step else j for j in range(n)]
            high = [n + j if j & step else j + step for j in range(n)]
            a, b = rows[i], rows[i | step]
            rows[i] = builder.shuffle_vector(a, b, _indices(low))
            rows[i | step] = builder.shuffle_vector(a, b, _indices(high))
        step *= 2
    return rows


@intrinsic
def transpose_run(typingctx, source, s, source_row, rows, count, target, t, target_row):
    """target[j * target_row + i] = source[i * source_row + j], i < rows, j < count; zeros for other i, j < lanes.

    Nothing beyond `rows` and `count` is read; lanes rows of lanes elements are written.
    """
    i8 = types.int64
    signature = types.void(source, i8, i8, i8, i8, target, i8, i8)

    def body(builder, kinds, source, source_row, rows, count, target, target_row):
        vector = vector_type(scalar_type(kinds[0]))
        square = []
        for i in range(vector.count):
            readable = builder.select(builder.icmp_signed("<", I64(i), rows), count, I64(0))
            row = builder.gep(source, [builder.mul(I64(i), source_row)])
            square.append(_load_first(builder, row, readable, vector))
        for j, value in enumerate(transposed(builder, square)):
            store(builder, value, builder.gep(target, [builder.mul(I64(j), target_row)]))

    return signature, outlined("transpose_run", body)


def _indices(values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(values)), [I32(v) for v in values])
