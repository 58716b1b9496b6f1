"""The GEMM micro-kernel: a tile of registers as IR, rows of tiles, widths of panels, strides of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastconv._numba.compile import jit
from fastconv._numba.integers import quotient
from fastconv._numba.vector import (
    BIT,
    HALF_TILE_ROWS,
    I64,
    SHORT,
    TILE_HEIGHTS,
    TILE_ROWS,
    TILE_VECTORS,
    address,
    broadcast,
    clamp,
    fetch,
    intrinsic,
    itemsize,
    lanes,
    load,
    multiply_add,
    scalar_type,
    stand_alone,
    store,
    vector_type,
)

# Columns of a tile, and of a packed panel of B.
COLUMNS_F32 = TILE_VECTORS * lanes(4)
COLUMNS_F64 = TILE_VECTORS * lanes(8)


def columns(dtype: str) -> int:
    """Columns of a panel, from Python."""
    return COLUMNS_F32 if dtype == "float32" else COLUMNS_F64


@jit
def height(left):
    """Rows of the next tile of so many that are left: one of vector.TILE_HEIGHTS."""
    return TILE_ROWS if left >= TILE_ROWS else left if left <= HALF_TILE_ROWS else quotient(left + 1, 2)


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
