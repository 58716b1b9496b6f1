"""The products of Winograd's points as LLVM IR: loops of register tiles, and one for sums over Winograd's tiles."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from fastconv._numba import blocking, gemm, vector
from fastconv._numba.vector import BIT, I64, broadcast, load, store, vector_type
from fastconv._numba.winograd_emit import loop

# How early transformed weights are fetched, in bytes: they come from the L3 once for each block of tiles.
WEIGHTS_AHEAD = 2048

PRODUCTS = "source row point weights weights_point target target_point points channels tiles depth terms"


def products(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[p * target_point + t * WINOGRAD_CHANNELS + o] = sum over k < depth of source[p * point + t * row + k] by
    weights[p * weights_point + (o / nr * depth + k) * nr + o % nr], in partial sums of `terms`; p < points, t < tiles,
    o < channels, all columns of the last panel."""
    nr, element, depth = vector.TILE_VECTORS * vector_type(scalar).count, scalar.as_pointer(), given["depth"]
    source, weights, target = (at.bitcast(given[name], element) for name in ("source", "weights", "target"))
    c_row = I64(blocking.WINOGRAD_CHANNELS)

    no_table = ir.Constant(I64.as_pointer(), None)

    def point(p: ir.Value) -> None:
        a = at.gep(source, [at.mul(p, given["point"])])
        b_point = at.gep(weights, [at.mul(p, given["weights_point"])])
        c_point = at.gep(target, [at.mul(p, given["target_point"])])

        def panel(o: ir.Value) -> None:
            b, c = at.gep(b_point, [at.mul(o, depth)]), at.gep(c_point, [o])

            def rows(first: ir.Value, count: ir.Value) -> None:
                a_rows, c_rows = at.gep(a, [at.mul(first, given["row"])]), at.gep(c, [at.mul(first, c_row)])

                def part(k: ir.Value, terms: ir.Value) -> None:
                    a_part, b_part = at.gep(a_rows, [k]), at.gep(b, [at.mul(k, I64(nr))])
                    more = at.icmp_signed(">", k, I64(0))
                    operands = [a_part, no_table, given["row"], b_part, c_rows, c_row, I64(1), terms, more]

                    def tile(rows: int) -> ir.Function:
                        return gemm.tile_function(at.module, scalar, rows, False, None, WEIGHTS_AHEAD)

                    gemm.by_height(at, count, tile, operands)

                _in_parts(at, depth, given["terms"], part)

            gemm.in_heights(at, given["tiles"], rows)

        loop(at, given["channels"], nr, panel)

    loop(at, given["points"], 1, point)


def _in_parts(at: ir.IRBuilder, depth: ir.Value, terms: ir.Value, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """body(k, count) for partial sums of at most `terms`; one of nothing if there is no depth."""

    def part(n: ir.Value) -> None:
        k = at.mul(n, terms)
        left = at.sub(depth, k)
        body(k, at.select(at.icmp_signed("<", terms, left), terms, left))

    parts = at.sdiv(at.sub(at.add(depth, terms), I64(1)), terms)
    loop(at, at.select(at.icmp_signed(">", parts, I64(1)), parts, I64(1)), 1, part)


def _outer_tile(module: ir.Module, scalar: ir.Type, rows: int) -> ir.Function:
    """C[i][j] (+)= sum over k < depth of A[k][i] * B[k][j], i < rows, j < nr: both rows one after the other in memory.

    Otherwise as gemm.tile_function."""
    vectors, pointer = vector_type(scalar), scalar.as_pointer()
    name = f"fc_f{8 * vector.itemsize(scalar)}_outer_{rows}x{vector.TILE_VECTORS * vectors.count}__numba"
    if name in module.globals:
        return module.globals[name]
    kinds = [pointer, I64, pointer, I64, pointer, I64, I64, BIT]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    vector.stand_alone(function)
    a, a_step, b, b_step, c, c_step, depth, accumulate = function.args
    multiply_add = vector.multiply_add(module, vectors)
    tile = [(i, j) for i in range(rows) for j in range(vector.TILE_VECTORS)]
    entry, loop, done, add, write = (
        function.append_basic_block(name) for name in ("entry", "loop", "done", "add", "write")
    )
    at = ir.IRBuilder(entry)
    columns = [I64(j * vectors.count) for j in range(vector.TILE_VECTORS)]
    target = {(i, j): at.gep(c, [at.add(at.mul(I64(i), c_step), columns[j])]) for i, j in tile}
    zero = ir.Constant(vectors, None)
    at.cbranch(at.icmp_signed(">", depth, I64(0)), loop, done)

    at = ir.IRBuilder(loop)
    k, a_row, b_row = at.phi(I64), at.phi(pointer), at.phi(pointer)
    sums = {ij: at.phi(vectors) for ij in tile}
    b_values = [load(at, at.gep(b_row, [column]), vectors) for column in columns]
    following = {}
    for i in range(rows):
        a_value = broadcast(at, at.load(at.gep(a_row, [I64(i)])), vectors)
        for j, b_value in enumerate(b_values):
            following[i, j] = at.call(multiply_add, [a_value, b_value, sums[i, j]])
    steps = (k, I64(0), at.add(k, I64(1))), (a_row, a, at.gep(a_row, [a_step])), (b_row, b, at.gep(b_row, [b_step]))
    at.cbranch(at.icmp_signed("<", steps[0][2], depth), loop, done)
    for phi, first, then in (*steps, *((sums[ij], zero, following[ij]) for ij in tile)):
        phi.add_incoming(first, entry)
        phi.add_incoming(then, loop)

    at = ir.IRBuilder(done)
    final = {ij: at.phi(vectors) for ij in tile}
    for ij in tile:
        final[ij].add_incoming(zero, entry)
        final[ij].add_incoming(following[ij], loop)
    at.cbranch(accumulate, add, write)
    at = ir.IRBuilder(add)
    added = {ij: at.fadd(load(at, target[ij], vectors), final[ij]) for ij in tile}
    at.branch(write)
    at = ir.IRBuilder(write)
    for ij in tile:
        whole = at.phi(vectors)
        whole.add_incoming(final[ij], done)
        whole.add_incoming(added[ij], add)
        final[ij] = whole
    for ij in tile:
        store(at, final[ij], target[ij])
    at.ret_void()
    return function


OUTER = "source row weights weights_row target target_row rows columns depth terms accumulate"


def outer(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[i * target_row + j] (+)= sum over k < depth of source[k * row + i] * weights[k * weights_row + j], in
    partial sums of `terms`, i < rows, j < columns, whole panels of columns. Accumulating if that is not 0."""
    nr, element = vector.TILE_VECTORS * vector_type(scalar).count, scalar.as_pointer()
    source, weights, target = (at.bitcast(given[name], element) for name in ("source", "weights", "target"))
    accumulate = at.icmp_signed("!=", given["accumulate"], I64(0))

    def panel(j: ir.Value) -> None:
        b, c = at.gep(weights, [j]), at.gep(target, [j])

        def rows(first: ir.Value, count: ir.Value) -> None:
            a_rows, c_rows = at.gep(source, [first]), at.gep(c, [at.mul(first, given["target_row"])])

            def part(k: ir.Value, terms: ir.Value) -> None:
                a_part, b_part = (at.gep(m, [at.mul(k, given[s])]) for m, s in ((a_rows, "row"), (b, "weights_row")))
                more = at.or_(accumulate, at.icmp_signed(">", k, I64(0)))
                operands = [
                    a_part, given["row"], b_part, given["weights_row"], c_rows, given["target_row"], terms, more,
                ]  # fmt: skip
                gemm.by_height(at, count, lambda rows: _outer_tile(at.module, scalar, rows), operands)

            _in_parts(at, given["depth"], given["terms"], part)

        gemm.in_heights(at, given["rows"], rows)

    loop(at, given["columns"], nr, panel)
