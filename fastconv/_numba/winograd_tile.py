"""The Winograd transforms of one tile as LLVM IR, generated from the matrices of fastconv.winograd.

Vectors of channels take the place of numbers. Strides and offsets are elements; none of the functions writes or reads
beyond what its equation names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from fastconv import winograd
from fastconv._numba import vector
from fastconv._numba.vector import I64, Lanes, broadcast, load, store, vector_type
from fastconv._numba.winograd_emit import POINTER, loop, opaque, places, plus_residual

# The values between the two transforms of so many points a side stay in registers; those of more pass through the stack
# in any case, where loops are far less code and, on 6 points, 1.4 times as fast (Zen 3).
MOST_UNROLLED = 4

Cells = Sequence[Lanes]


def _separable(
    at: ir.IRBuilder,
    lines: tuple[int, int],
    vectors: ir.VectorType,
    transform: Callable[[Cells], Cells],
    load_line: Callable[[ir.Value], Cells],
    store_line: Callable[[ir.Value, Cells], None],
) -> None:
    """A 1-D transform along the columns, then along the rows: lines[0] columns become lines[1] rows."""
    columns, rows = lines
    if columns == 0:  # in one dimension
        store_line(I64(0), transform(load_line(I64(0))))
        return
    if max(lines) <= MOST_UNROLLED:
        half = [transform(load_line(I64(s))) for s in range(columns)]
        for r in range(rows):
            store_line(I64(r), transform([line[r] for line in half]))
        return
    with at.goto_entry_block():
        kept = at.alloca(vectors, columns * rows)

    def first(s: ir.Value) -> None:
        for r, value in enumerate(transform(load_line(s))):
            at.store(value.value, at.gep(kept, [at.add(at.mul(s, I64(rows)), I64(r))]))

    def second(r: ir.Value) -> None:
        line = [at.load(at.gep(kept, [at.add(r, I64(s * rows))])) for s in range(columns)]
        store_line(r, transform([Lanes(at, value) for value in line]))

    loop(at, I64(columns), 1, first)
    loop(at, I64(rows), 1, second)


def _line_of_points(at: ir.IRBuilder, source: ir.Value, point: ir.Value, s: ir.Value, tile: str) -> list[ir.Value]:
    """Where the points of column s of a tile lie, or all points of one in one dimension."""
    alpha = sum(winograd.TILES[tile]) - 1
    if winograd.dimensions(tile) == 1:
        return places(at, source, point, alpha)
    return places(at, opaque(at, at.gep(source, [at.mul(s, point)])), at.mul(I64(alpha), point), alpha)


def _any_nan(at: ir.IRBuilder, values: ir.Value) -> ir.Value:
    fault = at.fcmp_unordered("uno", values, values)
    bits = ir.IntType(values.type.count)
    return at.icmp_unsigned("!=", at.bitcast(fault, bits), bits(0))


def _shape(tile: str, what: str) -> tuple[int, int, tuple[int, int]]:
    """Cells of a line before and after a transform, and lines of `_separable`."""
    m, r = winograd.TILES[tile]
    alpha = m + r - 1
    before = {"weights": r, "output_adjoint": m}.get(what, alpha)
    after = {"output": m, "weights_adjoint": r}.get(what, alpha)
    return before, after, (before, after) if winograd.dimensions(tile) == 2 else (0, 0)


# --------------------------------------------------------------------------------------------------------
# The transforms: names of their arguments, and their code


SPREAD = "source row column count target point"


def spread(at: ir.IRBuilder, scalar: ir.Type, tile: str, what: str, given: dict[str, ir.Value]) -> None:
    """target[p * point + j] = (T d_j T^T)_p for j < count, whole vectors; d_j's cell (r, s) = source[r * row +
    s * column + j]. In one dimension cells are `row` apart, and column is not read.

    T: B^T ("input"), A ("output_adjoint"), or G ("weights"), in float64 and rounded once.
    """
    before, after, lines = _shape(tile, what)
    size = vector.itemsize(scalar)
    row, column, point = (at.mul(given[name], I64(size)) for name in ("row", "column", "point"))
    loaded = vector_type(scalar)
    if what == "weights":
        loaded = ir.VectorType(scalar, vector.lanes(8))
    computed = ir.VectorType(ir.DoubleType(), loaded.count) if what == "weights" else loaded
    narrow = loaded.element != computed.element

    def body(j: ir.Value) -> None:
        offset = at.mul(j, I64(size))
        source, target = at.gep(given["source"], [offset]), at.gep(given["target"], [offset])

        def load_line(s: ir.Value) -> Cells:
            start = opaque(at, at.gep(source, [at.mul(s, column)])) if lines[0] else source
            values = [load(at, place, loaded) for place in places(at, start, row, before)]
            return [Lanes(at, at.fpext(value, computed) if narrow else value) for value in values]

        def store_line(r: ir.Value, values: Cells) -> None:
            start = target
            if lines[0]:
                start = opaque(at, at.gep(target, [at.mul(at.mul(r, I64(after)), point)]))
            for place, value in zip(places(at, start, point, after), values, strict=True):
                store(at, at.fptrunc(value.value, loaded) if narrow else value.value, place)

        _separable(at, lines, computed, lambda cells: winograd.transform(what, tile, cells), load_line, store_line)

    loop(at, given["count"], loaded.count, body)


OUTPUT = "source point count bias residual low high target row column"


def output(at: ir.IRBuilder, scalar: ir.Type, tile: str, given: dict[str, ir.Value]) -> ir.Value:
    """target[r * row + s * column + j] = clamp((A^T m_j A)_rs + bias[j] + residual[as target], low, high), j < count,
    whole vectors; m_j's point p = source[p * point + j]; residual may be null. NaN stays NaN.

    1 if any value before bias, residual and clamp is not finite, else 0.
    """
    _, after, lines = _shape(tile, "output")
    size, vectors = vector.itemsize(scalar), vector_type(scalar)
    row, column, point = (at.mul(given[name], I64(size)) for name in ("row", "column", "point"))
    low, high = broadcast(at, given["low"], vectors), broadcast(at, given["high"], vectors)
    with_residual = at.icmp_unsigned("!=", given["residual"], ir.Constant(POINTER, None))
    with at.goto_entry_block():
        probe = at.alloca(vectors)
    at.store(ir.Constant(vectors, None), probe)

    def body(j: ir.Value) -> None:
        offset = at.mul(j, I64(size))
        source = at.gep(given["source"], [offset])
        start = load(at, at.gep(given["bias"], [offset]), vectors)

        def load_line(s: ir.Value) -> Cells:
            return [Lanes(at, load(at, place, vectors)) for place in _line_of_points(at, source, point, s, tile)]

        def store_line(r: ir.Value, values: Cells) -> None:
            place = at.add(offset, at.mul(r, row))
            step = column if lines[0] else row
            fault = at.load(probe)
            results = []
            for value in values:
                fault = at.fadd(fault, at.fsub(value.value, value.value))  # 0 if it is finite, else NaN
                results.append(at.fadd(value.value, start))
            at.store(fault, probe)
            results = plus_residual(at, with_residual, results, given["residual"], place, step, vectors)
            targets = places(at, opaque(at, at.gep(given["target"], [place])), step, after)
            for to, value in zip(targets, results, strict=True):
                store(at, vector.clamp(at, value, low, high), to)

        _separable(at, lines, vectors, lambda cells: winograd.transform("output", tile, cells), load_line, store_line)

    loop(at, given["count"], vectors.count, body)
    return at.zext(_any_nan(at, at.load(probe)), I64)


ADDITION = "source point count target row column"


def input_adjoint(at: ir.IRBuilder, scalar: ir.Type, tile: str, given: dict[str, ir.Value]) -> ir.Value:
    """target[r * row + s * column + j] += (B v_j B^T)_rs for j < count, whole vectors; v_j's point p =
    source[p * point + j]. 1 if any of what is added is not finite, else 0."""
    _, after, lines = _shape(tile, "input_adjoint")
    size, vectors = vector.itemsize(scalar), vector_type(scalar)
    row, column, point = (at.mul(given[name], I64(size)) for name in ("row", "column", "point"))
    with at.goto_entry_block():
        probe = at.alloca(vectors)
    at.store(ir.Constant(vectors, None), probe)

    def body(j: ir.Value) -> None:
        offset = at.mul(j, I64(size))
        source, target = at.gep(given["source"], [offset]), at.gep(given["target"], [offset])

        def load_line(s: ir.Value) -> Cells:
            return [Lanes(at, load(at, place, vectors)) for place in _line_of_points(at, source, point, s, tile)]

        def store_line(r: ir.Value, values: Cells) -> None:
            start = opaque(at, at.gep(target, [at.mul(r, row)]))
            fault = at.load(probe)
            for place, value in zip(places(at, start, column if lines[0] else row, after), values, strict=True):
                fault = at.fadd(fault, at.fsub(value.value, value.value))
                store(at, at.fadd(load(at, place, vectors), value.value), place)
            at.store(fault, probe)

        _separable(
            at, lines, vectors, lambda cells: winograd.transform("input_adjoint", tile, cells), load_line, store_line
        )

    loop(at, given["count"], vectors.count, body)
    return at.zext(_any_nan(at, at.load(probe)), I64)


TAPS = "source point count target"


def weights_adjoint(at: ir.IRBuilder, scalar: ir.Type, tile: str, given: dict[str, ir.Value]) -> ir.Value:
    """target[t * count + j] = (G^T u_j G)_t for j < count, whole vectors, in float64 and rounded once; u_j's point p =
    source[p * point + j]. 1 if any of them is not finite, else 0."""
    _, after, lines = _shape(tile, "weights_adjoint")
    size, half = vector.itemsize(scalar), vector.lanes(8)
    narrow, wide = ir.VectorType(scalar, half), ir.VectorType(ir.DoubleType(), half)
    point, tap = at.mul(given["point"], I64(size)), at.mul(given["count"], I64(size))
    with at.goto_entry_block():
        probe = at.alloca(narrow)
    at.store(ir.Constant(narrow, None), probe)

    def body(j: ir.Value) -> None:
        offset = at.mul(j, I64(size))
        source, target = at.gep(given["source"], [offset]), at.gep(given["target"], [offset])

        def load_line(s: ir.Value) -> Cells:
            values = [load(at, place, narrow) for place in _line_of_points(at, source, point, s, tile)]
            return [Lanes(at, at.fpext(value, wide) if narrow != wide else value) for value in values]

        def store_line(r: ir.Value, values: Cells) -> None:
            start = opaque(at, at.gep(target, [at.mul(at.mul(r, I64(after)), tap)]))
            fault = at.load(probe)
            for place, value in zip(places(at, start, tap, after), values, strict=True):
                result = at.fptrunc(value.value, narrow) if narrow != wide else value.value
                fault = at.fadd(fault, at.fsub(result, result))
                store(at, result, place)
            at.store(fault, probe)

        _separable(
            at, lines, wide, lambda cells: winograd.transform("weights_adjoint", tile, cells), load_line, store_line
        )

    loop(at, given["count"], half, body)
    return at.zext(_any_nan(at, at.load(probe)), I64)
