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
    """Pointer to element `offset` of a 1-d array."""
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


# --------------------------------------------------------------------------------------------------------
# The GEMM micro-kernel


# What a tile adds to its sums before it clamps them: a row of its own, or one element for each row.
BIAS_COLUMNS, BIAS_ROWS = "columns", "rows"
# What a tile function takes, with a bias the second as well.
TILE_ARGUMENTS = ("a", "table", "step", "b", "c", "rs_c", "runs", "depth", "accumulate")
ENDING_ARGUMENTS = ("y", "rs_y", "last", "bias", "low", "high")


def tile_function(
    module: ir.Module, scalar: ir.Type, rows: int, indirect: bool, bias: str | None, ahead: int = 0
) -> ir.Function:
    """C[i][j] (+)= sum over runs r and k < depth of A[r][i][k] * B[(r depth + k) nr + j], i < rows, j < nr.

    nr = TILE_VECTORS vectors. Row i of run r starts `table[r * step + i]` elements after `a` if the tile is indirect;
    else there is one run, whose row i starts i * step elements after `a`. The accumulators live in registers (phi
    nodes) for the whole sum, which runs in the order of r and k for every element, whatever the tile. Accumulating adds
    the finished sum to C: partial sums stay short. With a `bias` the tile writes to Y in place of C, and if it is the
    last of its sums it first adds the bias and clamps to [low, high]; NaN stays NaN. B is fetched `ahead` bytes before
    it is read.
    """
    vector = vector_type(scalar)
    nr = TILE_VECTORS * vector.count
    pointer = scalar.as_pointer()
    words = {"gemm": True, "indirect": indirect, bias: bias, f"ahead{ahead}": ahead}
    kind = "_".join(str(word) for word, wanted in words.items() if wanted)
    name = f"fc_{'f32' if isinstance(scalar, ir.FloatType) else 'f64'}_{kind}_{rows}x{nr}__numba"
    if name in module.globals:
        return module.globals[name]
    arguments = [pointer, I64.as_pointer(), I64, pointer, pointer, I64, I64, I64, BIT]
    ending = [pointer, I64, BIT, pointer, scalar, scalar] if bias else []
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments + ending), name)
    stand_alone(function)
    a, table, step, b, c, rs_c, runs, depth, accumulate, *rest = function.args
    fused = multiply_add(module, vector)

    blocks = ("entry", "run", "loop", "next", "done", "add", "write")
    entry, run, loop, following_run, done, add, write = (function.append_basic_block(n) for n in blocks)
    tile = [(i, j) for i in range(rows) for j in range(TILE_VECTORS)]
    zero = ir.Constant(vector, None)

    at = ir.IRBuilder(entry)
    target = {(i, j): at.gep(c, [at.add(at.mul(I64(i), rs_c), I64(j * vector.count))]) for i, j in tile}
    some = at.and_(at.icmp_signed(">", runs, I64(0)), at.icmp_signed(">", depth, I64(0)))
    at.cbranch(some, run, done)

    at = ir.IRBuilder(run)
    r, b_run = at.phi(I64), at.phi(pointer)
    begun = {ij: at.phi(vector) for ij in tile}
    if indirect:
        places = at.gep(table, [at.mul(r, step)])
        row = [at.gep(a, [at.load(at.gep(places, [I64(i)]))]) for i in range(rows)]
    else:
        row = [at.gep(a, [at.mul(I64(i), step)]) for i in range(rows)]
    at.branch(loop)

    at = ir.IRBuilder(loop)
    k, b_row = at.phi(I64), at.phi(pointer)
    sums = {ij: at.phi(vector) for ij in tile}
    b_values = [load(at, at.gep(b_row, [I64(j * vector.count)]), vector) for j in range(TILE_VECTORS)]
    if ahead:
        fetch(at, b_row, ahead, nr * itemsize(scalar))
    following = {}
    for i in range(rows):
        a_value = broadcast(at, at.load(at.gep(row[i], [k])), vector)
        for j in range(TILE_VECTORS):
            following[i, j] = at.call(fused, [a_value, b_values[j], sums[i, j]])
    next_k, next_b = at.add(k, I64(1)), at.gep(b_row, [I64(nr)])
    at.cbranch(at.icmp_signed("<", next_k, depth), loop, following_run)
    for phi, first, then in ((k, I64(0), next_k), (b_row, b_run, next_b)):
        phi.add_incoming(first, run)
        phi.add_incoming(then, loop)
    for ij in tile:
        sums[ij].add_incoming(begun[ij], run)
        sums[ij].add_incoming(following[ij], loop)

    at = ir.IRBuilder(following_run)
    next_r = at.add(r, I64(1))
    at.cbranch(at.icmp_signed("<", next_r, runs), run, done)
    for phi, first, then in ((r, I64(0), next_r), (b_run, b, next_b)):
        phi.add_incoming(first, entry)
        phi.add_incoming(then, following_run)
    for ij in tile:
        begun[ij].add_incoming(zero, entry)
        begun[ij].add_incoming(following[ij], following_run)

    at = ir.IRBuilder(done)
    final = {ij: at.phi(vector) for ij in tile}
    for ij in tile:
        final[ij].add_incoming(zero, entry)
        final[ij].add_incoming(following[ij], following_run)
    at.cbranch(accumulate, add, write)
    at = ir.IRBuilder(add)
    added = {ij: at.fadd(load(at, target[ij], vector), final[ij]) for ij in tile}
    at.branch(write)
    at = ir.IRBuilder(write)
    whole = {ij: at.phi(vector) for ij in tile}
    for ij in tile:
        whole[ij].add_incoming(final[ij], done)
        whole[ij].add_incoming(added[ij], add)
    if bias:
        at, whole, target = _ending(at, vector, whole, bias, *rest)
    for ij in tile:
        store(at, whole[ij], target[ij])
    at.ret_void()
    return function


def _ending(
    at: ir.IRBuilder, vector: ir.VectorType, sums: dict[tuple[int, int], ir.Value], kind: str, y: ir.Value,
    rs_y: ir.Value, last: ir.Value, bias: ir.Value, low: ir.Value, high: ir.Value,
) -> tuple[ir.IRBuilder, dict[tuple[int, int], ir.Value], dict[tuple[int, int], ir.Value]]:  # fmt: skip
    """Bias and clamp of a tile of sums, if it is the last; the builder, values and places to store them at."""
    target = {(i, j): at.gep(y, [at.add(at.mul(I64(i), rs_y), I64(j * vector.count))]) for i, j in sums}
    write = at.block
    finish, end = (at.function.append_basic_block(n) for n in ("finish", "end"))
    at.cbranch(last, finish, end)
    at = ir.IRBuilder(finish)
    low, high = broadcast(at, low, vector), broadcast(at, high, vector)
    biases: dict[int, ir.Value] = {}
    finished = {}
    for (i, j), value in sums.items():
        place = j if kind == BIAS_COLUMNS else i
        if place not in biases:
            if kind == BIAS_COLUMNS:
                biases[place] = load(at, at.gep(bias, [I64(j * vector.count)]), vector)
            else:
                biases[place] = broadcast(at, at.load(at.gep(bias, [I64(i)])), vector)
        finished[i, j] = clamp(at, at.fadd(value, biases[place]), low, high)
    at.branch(end)
    at = ir.IRBuilder(end)
    values = {ij: at.phi(vector) for ij in sums}
    for ij in sums:
        values[ij].add_incoming(sums[ij], write)
        values[ij].add_incoming(finished[ij], finish)
    return at, values, target


def in_heights(at: ir.IRBuilder, stop: ir.Value, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """Rows in tiles of the heights that have code: body(first, count). No tile is left with a few rows,
    which take as long as SHORT of them: those before it share theirs."""
    with at.goto_entry_block():
        first = at.alloca(I64)
    at.store(I64(0), first)
    test, inside, after = (at.function.append_basic_block(name) for name in ("heights", "rows", "after"))
    at.branch(test)
    at.position_at_end(test)
    row = at.load(first)
    left = at.sub(stop, row)
    at.cbranch(at.icmp_signed(">", left, I64(0)), inside, after)
    at.position_at_end(inside)

    def share(tiles: int) -> ir.Value:
        return at.sdiv(at.add(left, I64(tiles - 1)), I64(tiles))

    def below(most: int, value: ir.Value, otherwise: ir.Value) -> ir.Value:
        return at.select(at.icmp_signed("<", left, I64(most)), value, otherwise)

    full, half = TILE_ROWS, HALF_TILE_ROWS
    if half == full:
        count = below(full + 1, left, below(2 * full, share(2), I64(full)))
    else:
        tall = below(full + 1, I64(full), below(full + SHORT, share(3), I64(full)))
        count = below(half + 1, left, below(full, share(2), tall))
    at.store(at.add(row, count), first)
    body(row, count)
    at.branch(test)
    at.position_at_end(after)


def by_height(
    at: ir.IRBuilder, count: ir.Value, tile: Callable[[int], ir.Function], operands: list[ir.Value]
) -> None:
    """Call the tile of so many rows."""
    end = at.function.append_basic_block("tile.end")
    switch = at.switch(count, end)
    for height in TILE_HEIGHTS:
        with at.goto_block(at.function.append_basic_block(f"tile.{height}")):
            switch.add_case(I64(height), at.block)
            at.call(tile(height), operands)
            at.branch(end)
    at.position_at_end(end)


def _call_rows(
    context: Any, builder: ir.IRBuilder, names: str, sig: Any, args: Any, indirect: bool, bias: str | None
) -> ir.Value:
    """Call a function that does all rows, tile by tile. `names` of the arguments; arrays and offsets in pairs."""
    given = dict(zip(names.split(), zip(sig.args, args)))
    values = {name: value for name, (_, value) in given.items()}
    if bias:
        biased = builder.icmp_signed(">=", values["bias_start"], I64(0))
        values["bias_step"] = builder.select(biased, I64(int(bias == BIAS_ROWS)), I64(0))
        values["bias_start"] = builder.select(biased, values["bias_start"], I64(0))
    for name, (kind, value) in given.items():
        if isinstance(kind, types.Array):
            values[name] = address(context, builder, kind, value, values[f"{name}_start"])
    values.setdefault("table", ir.Constant(I64.as_pointer(), None))
    values.setdefault("runs", I64(1))
    order = TILE_ARGUMENTS + (ENDING_ARGUMENTS if bias else ())
    own = (*order, "rows", *(["bias_step"] if bias else []))
    kinds = [values[name].type for name in own]
    function = _rows_function(builder.module, scalar_type(sig.args[0]), own, kinds, indirect, bias)
    builder.call(function, [values[name] for name in own])
    return context.get_dummy_value()


def _rows_function(
    module: ir.Module, scalar: ir.Type, names: tuple[str, ...], kinds: list[ir.Type], indirect: bool, bias: str | None
) -> ir.Function:
    """A tile function for any number of rows."""
    name = "_".join(["fc", str(scalar), "gemm", *(["indirect"] if indirect else []), *([bias] if bias else []), "rows"])
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    stand_alone(function)
    at = ir.IRBuilder(function.append_basic_block("entry"))
    start = function.append_basic_block("start")
    at.position_at_end(start)
    given: dict[str, ir.Value] = dict(zip(names, function.args, strict=True))

    def tile(rows: int) -> ir.Function:
        return tile_function(module, scalar, rows, indirect, bias)

    def part(first: ir.Value, count: ir.Value) -> None:
        moved = {"c": at.mul(first, given["rs_c"])}
        moved |= {"table": first} if indirect else {"a": at.mul(first, given["step"])}
        if bias:
            moved |= {"y": at.mul(first, given["rs_y"]), "bias": at.mul(first, given["bias_step"])}
        operands = {n: at.gep(value, [moved[n]]) if n in moved else value for n, value in given.items()}
        by_height(at, count, tile, [operands[n] for n in TILE_ARGUMENTS + (ENDING_ARGUMENTS if bias else ())])

    in_heights(at, given["rows"], part)
    at.ret_void()
    with at.goto_entry_block():
        at.branch(start)
    return function


@intrinsic
def gemm_tile(typingctx, a, a_start, step, b, b_start, c, c_start, rs_c, rows, depth, accumulate):
    """The micro-kernel on any number of rows, and TILE_VECTORS vectors; the equation is at `tile_function`.

    A : rows of `depth` contiguous elements every `step` elements. B : rows of TILE_VECTORS * lanes contiguous elements,
    one after the other. C : full rows of as many elements every rs_c elements, all written.
    """
    i8 = types.int64
    signature = types.void(a, i8, i8, b, i8, c, i8, i8, i8, i8, types.boolean)
    names = "a a_start step b b_start c c_start rs_c rows depth accumulate"

    def codegen(context, builder, sig, args):
        return _call_rows(context, builder, names, sig, args, False, None)

    return signature, codegen


@intrinsic
def gemm_rows(
    typingctx, a, a_start, step, b, b_start, c, c_start, rs_c, rows, depth, accumulate,
    y, y_start, rs_y, last, bias, bias_start, low, high
):  # fmt: skip
    """`gemm_tile` that writes to y, as the last of its sums with a bias for each row and a clamp. C: see accumulate.

    `bias_start` < 0: no bias, and `bias` begins with a zero.
    """
    i8, bit = types.int64, types.boolean
    signature = types.void(
        a, i8, i8, b, i8, c, i8, i8, i8, i8, bit, y, i8, i8, bit, bias, i8, a.dtype, a.dtype
    )  # fmt: skip
    names = """a a_start step b b_start c c_start rs_c rows depth accumulate
               y y_start rs_y last bias bias_start low high"""

    def codegen(context, builder, sig, args):
        return _call_rows(context, builder, names, sig, args, False, BIAS_ROWS)

    return signature, codegen


@intrinsic
def gemm_indirect(
    typingctx, a, a_start, table, table_start, step, b, b_start, c, c_start, rs_c, rows, runs, depth, accumulate,
    y, y_start, rs_y, last, bias, bias_start, low, high
):  # fmt: skip
    """`gemm_tile` whose A has `runs` runs of `depth` contiguous elements a row: that of row i and run r starts where
    `a_start` plus table[table_start + r * step + i] says, which may lie outside of the array `a` (see `distance`).

    It writes to y, as the last of its sums with a bias for each column and a clamp. C: see accumulate.
    """
    i8, bit = types.int64, types.boolean
    signature = types.void(
        a, i8, table, i8, i8, b, i8, c, i8, i8, i8, i8, i8, bit, y, i8, i8, bit, bias, i8, a.dtype, a.dtype
    )  # fmt: skip
    names = """a a_start table table_start step b b_start c c_start rs_c rows runs depth accumulate
               y y_start rs_y last bias bias_start low high"""

    def codegen(context, builder, sig, args):
        return _call_rows(context, builder, names, sig, args, True, BIAS_COLUMNS)

    return signature, codegen


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


def outlined(name: str, body: Callable[..., ir.Value | None]) -> Callable[..., Any]:
    """A codegen whose code goes into a function of its own: `body(builder, kinds, *values)` emits it.

    Arrays and their offsets become pointers: `kinds` are the Numba types of the arguments, in which a pointer stands
    for an array and the offset after it. Called, not inlined: the compiler would unroll and clone large straight code
    in every loop around it, for seconds.
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
            values.append(value)
            kinds.append(kind)
            position += 1
        arrays = [kind for kind in kinds if isinstance(kind, types.Array)]
        full_name = f"{name}_{'_'.join(str(kind.dtype) for kind in arrays)}__numba"
        result = context.get_value_type(sig.return_type) if sig.return_type != types.void else ir.VoidType()
        function = builder.module.globals.get(full_name)
        if function is None:
            function = ir.Function(
                builder.module, ir.FunctionType(result, [value.type for value in values]), full_name
            )
            stand_alone(function)
            inside = ir.IRBuilder(function.append_basic_block("entry"))
            outcome = body(inside, kinds, *function.args)
            if outcome is None:
                inside.ret_void()
            else:
                inside.ret(outcome)
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


@intrinsic
def copy_rows(typingctx, source, s, source_step, target, t, target_step, rows, width):
    """target[r * target_step + i] = source[r * source_step + i] for r < rows, i < width <= TILE_VECTORS vectors."""
    i8 = types.int64
    signature = types.void(source, i8, i8, target, i8, i8, i8, i8)

    def body(builder, kinds, source, source_step, target, target_step, rows, width):
        _move(builder, scalar_type(kinds[0]), rows, width, (source, source_step), (target, target_step))

    return signature, outlined("copy_rows", body)


@intrinsic
def zero_rows(typingctx, target, t, target_step, rows, width):
    """target[r * target_step + i] = 0 for r < rows, i < width <= TILE_VECTORS vectors."""
    i8 = types.int64
    signature = types.void(target, i8, i8, i8, i8)

    def body(builder, kinds, target, target_step, rows, width):
        _move(builder, scalar_type(kinds[0]), rows, width, None, (target, target_step))

    return signature, outlined("zero_rows", body)


@intrinsic
def copy_run(typingctx, source, source_start, target, target_start, count):
    """target[i] = source[i] for i < count <= TILE_VECTORS vectors."""
    signature = types.void(source, types.int64, target, types.int64, types.int64)

    def body(builder, kinds, source, target, count):
        _move(builder, scalar_type(kinds[0]), I64(1), count, (source, I64(0)), (target, I64(0)))

    return signature, outlined("copy_run", body)


@intrinsic
def zero_run(typingctx, target, target_start, count):
    """target[i] = 0 for i < count <= TILE_VECTORS vectors."""
    signature = types.void(target, types.int64, types.int64)

    def body(builder, kinds, target, count):
        _move(builder, scalar_type(kinds[0]), I64(1), count, None, (target, I64(0)))

    return signature, outlined("zero_run", body)


@intrinsic
def finish_run(
    typingctx, sums, s, bias, b, has_bias, addend, residual, r, has_residual, y, d, count, low, high
):
    """y[i] = clamp(sums[i] + bias[i] + addend + residual[i], low, high) for i < count <= TILE_VECTORS vectors.

    Without them bias[i] and residual[i] count as 0 and are not read. NaN stays NaN.
    """
    i8, bit = types.int64, types.boolean
    real = sums.dtype
    signature = types.void(sums, i8, bias, i8, bit, real, residual, i8, bit, y, i8, i8, real, real)

    def body(builder, kinds, sums, bias, has_bias, addend, residual, has_residual, y, count, low, high):
        scalar = scalar_type(kinds[0])
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

    return signature, outlined("finish_run", body)


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
