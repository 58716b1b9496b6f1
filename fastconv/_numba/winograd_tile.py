"""The Winograd transforms of one tile, and the moves around them, as functions found by address.

A driver is compiled once for all tiles: it calls transforms by the address that `transforms_of` or `moves_of` gives,
whose code is generated from the matrices of fastconv.winograd with vectors of channels in place of numbers. Strides and
offsets are elements; none of the functions writes or reads beyond what its equation names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np import arrayobj

from fastconv import winograd
from fastconv._numba import blocking, vector
from fastconv._numba.compile import CONTRACT, Kernel
from fastconv._numba.vector import BIT, I64, Lanes, address, broadcast, intrinsic, load, scalar_type, store, vector_type

BYTE = ir.IntType(8)
POINTER = BYTE.as_pointer()
TILES = tuple(winograd.TILES)

# The values between the two transforms of so many points a side stay in registers; those of more pass through the stack in
# any case, where loops are far less code and, on 6 points, 1.4 times as fast (Zen 3).
MOST_UNROLLED = 4

Cells = Sequence[Lanes]


# --------------------------------------------------------------------------------------------------------
# Addresses, loops


def _opaque(at: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """The pointer, of unknown origin: else all addresses of a tile become invariants of the loop around it, far more of
    them than there are registers."""
    return at.asm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", [pointer], False)


def _places(at: ir.IRBuilder, start: ir.Value, step: ir.Value, count: int) -> list[ir.Value]:
    """start + i * step for i < count, from a third as many registers and scaled addresses."""
    found = []
    for i in range(count):
        if i % 3 == 0:
            base = start if i == 0 else _opaque(at, at.gep(start, [at.mul(I64(i), step)]))
        found.append(at.gep(base, [at.mul(I64(i % 3), step)]) if i % 3 else base)
    return found


def _loop(at: ir.IRBuilder, stop: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
    """for i in range(0, stop, step): body(i)."""
    before = at.block
    test, inside, after = (at.function.append_basic_block(name) for name in ("test", "body", "after"))
    at.branch(test)
    at.position_at_end(test)
    i = at.phi(I64)
    i.add_incoming(I64(0), before)
    at.cbranch(at.icmp_signed("<", i, stop), inside, after)
    at.position_at_end(inside)
    body(i)
    i.add_incoming(at.add(i, I64(step)), at.block)
    at.branch(test)
    at.position_at_end(after)


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

    _loop(at, I64(columns), 1, first)
    _loop(at, I64(rows), 1, second)


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


def _spread(at: ir.IRBuilder, scalar: ir.Type, tile: str, what: str, given: dict[str, ir.Value]) -> None:
    """target[p * point + j] = (T d_j T^T)_p for j < count, whole vectors; d_j's cell (r, s) = source[r * row + s * column
    + j]. In one dimension cells are `row` apart, and column is not read.

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
            start = _opaque(at, at.gep(source, [at.mul(s, column)])) if lines[0] else source
            values = [load(at, place, loaded) for place in _places(at, start, row, before)]
            return [Lanes(at, at.fpext(value, computed) if narrow else value) for value in values]

        def store_line(r: ir.Value, values: Cells) -> None:
            start = target
            if lines[0]:
                start = _opaque(at, at.gep(target, [at.mul(at.mul(r, I64(after)), point)]))
            for place, value in zip(_places(at, start, point, after), values, strict=True):
                store(at, at.fptrunc(value.value, loaded) if narrow else value.value, place)

        _separable(at, lines, computed, lambda cells: winograd.transform(what, tile, cells), load_line, store_line)

    _loop(at, given["count"], loaded.count, body)


OUTPUT = "source point count bias residual low high target row column"


def _output(at: ir.IRBuilder, scalar: ir.Type, tile: str, given: dict[str, ir.Value]) -> ir.Value:
    """target[r * row + s * column + j] = clamp((A^T m_j A)_rs + bias[j] + residual[as target], low, high), j < count, whole
    vectors; m_j's point p = source[p * point + j]; residual may be null. NaN stays NaN.

    1 if any value before bias, residual and clamp is not finite, else 0.
    """
    before, after, lines = _shape(tile, "output")
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
            first, step = (at.gep(source, [at.mul(s, point)]), at.mul(I64(before), point)) if lines[0] else (source, point)
            first = _opaque(at, first) if lines[0] else first
            return [Lanes(at, load(at, place, vectors)) for place in _places(at, first, step, before)]

        def store_line(r: ir.Value, values: Cells) -> None:
            place = at.add(offset, at.mul(r, row))
            step = column if lines[0] else row
            fault = at.load(probe)
            results = []
            for value in values:
                fault = at.fadd(fault, at.fsub(value.value, value.value))  # 0 if it is finite, else NaN
                results.append(at.fadd(value.value, start))
            at.store(fault, probe)
            results = _plus_residual(at, with_residual, results, given["residual"], place, step, vectors)
            for to, value in zip(_places(at, _opaque(at, at.gep(given["target"], [place])), step, after), results, strict=True):
                store(at, _clamped(at, value, low, high), to)

        _separable(at, lines, vectors, lambda cells: winograd.transform("output", tile, cells), load_line, store_line)

    _loop(at, given["count"], vectors.count, body)
    return at.zext(_any_nan(at, at.load(probe)), I64)


def _clamped(at: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    value = at.select(at.fcmp_ordered("<", value, low), low, value)
    return at.select(at.fcmp_ordered(">", value, high), high, value)


def _plus_residual(
    at: ir.IRBuilder, wanted: ir.Value, values: list[ir.Value], residual: ir.Value, place: ir.Value, step: ir.Value,
    vectors: ir.VectorType,
) -> list[ir.Value]:  # fmt: skip
    """values[s] + residual[place + s * step] if wanted."""
    before = at.block
    add, end = (at.function.append_basic_block(name) for name in ("residual", "added"))
    at.cbranch(wanted, add, end)
    at.position_at_end(add)
    places = _places(at, at.gep(residual, [place]), step, len(values))
    sums = [at.fadd(value, load(at, at_place, vectors)) for value, at_place in zip(values, places, strict=True)]
    at.branch(end)
    at.position_at_end(end)
    merged = []
    for value, total in zip(values, sums, strict=True):
        phi = at.phi(vectors)
        phi.add_incoming(value, before)
        phi.add_incoming(total, add)
        merged.append(phi)
    return merged


TAPS = "source point count target"


def _weights_adjoint(at: ir.IRBuilder, scalar: ir.Type, tile: str, given: dict[str, ir.Value]) -> ir.Value:
    """target[t * count + j] = (G^T u_j G)_t for j < count, whole vectors, in float64 and rounded once; u_j's point p =
    source[p * point + j]. 1 if any of them is not finite, else 0."""
    before, after, lines = _shape(tile, "weights_adjoint")
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
            first, step = (at.gep(source, [at.mul(s, point)]), at.mul(I64(before), point)) if lines[0] else (source, point)
            first = _opaque(at, first) if lines[0] else first
            values = [load(at, place, narrow) for place in _places(at, first, step, before)]
            return [Lanes(at, at.fpext(value, wide) if narrow != wide else value) for value in values]

        def store_line(r: ir.Value, values: Cells) -> None:
            start = _opaque(at, at.gep(target, [at.mul(at.mul(r, I64(after)), tap)]))
            fault = at.load(probe)
            for place, value in zip(_places(at, start, tap, after), values, strict=True):
                result = at.fptrunc(value.value, narrow) if narrow != wide else value.value
                fault = at.fadd(fault, at.fsub(result, result))
                store(at, result, place)
            at.store(fault, probe)

        _separable(
            at, lines, wide, lambda cells: winograd.transform("weights_adjoint", tile, cells), load_line, store_line
        )

    _loop(at, given["count"], half, body)
    return at.zext(_any_nan(at, at.load(probe)), I64)


# --------------------------------------------------------------------------------------------------------
# Moves between planes and vectors of channels: the same for every tile


GATHER = "source stride channels pixels width skip target"


def _gather(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[(q + q / width * skip) * lanes + c] = source[c * stride + q] for q < pixels, c < channels <= lanes; 0 for
    channels <= c < lanes. The last vector of pixels overlaps the one before it, rather than be narrow."""
    vectors = vector_type(scalar)
    lanes, size = vectors.count, vector.itemsize(scalar)
    channels, pixels, width = given["channels"], given["pixels"], given["width"]
    stride, row_bytes = at.mul(given["stride"], I64(size)), I64(lanes * size)
    with at.goto_entry_block():
        square, zeros = at.alloca(vectors, lanes), at.alloca(vectors)
    at.store(ir.Constant(vectors, None), zeros)
    nothing = at.bitcast(zeros, POINTER)

    def target_of(q: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where pixel q goes, and how many of its row are left."""
        line = at.sdiv(q, width)
        place = at.add(q, at.mul(line, given["skip"]))
        return at.gep(given["target"], [at.mul(place, row_bytes)]), at.sub(width, at.sub(q, at.mul(line, width)))

    def block(q: ir.Value) -> None:
        last = at.sub(pixels, I64(lanes))
        place = at.select(at.icmp_signed("<", q, last), q, last)
        first = at.gep(given["source"], [at.mul(place, I64(size))])
        rows = []
        for c in range(lanes):
            row = at.gep(first, [at.mul(I64(c), stride)])
            rows.append(load(at, at.select(at.icmp_signed("<", I64(c), channels), row, nothing), vectors))
        to, left = target_of(place)
        jump = at.mul(at.add(given["skip"], I64(1)), row_bytes)
        for value in vector.transposed(at, rows):
            store(at, value, to)
            left = at.sub(left, I64(1))
            end = at.icmp_signed("==", left, I64(0))
            to = at.gep(to, [at.select(end, jump, row_bytes)])
            left = at.select(end, width, left)

    def copy_row(c: ir.Value) -> None:
        source = at.gep(given["source"], [at.mul(c, stride)])
        target = at.gep(at.bitcast(square, POINTER), [at.mul(c, row_bytes)])

        def emit(kind: ir.Type, starts: list[ir.Value]) -> None:
            for start in starts:
                offset = at.mul(start, I64(size))
                store(at, load(at, at.gep(source, [offset]), kind), at.gep(target, [offset]))

        vector.pieces(at, scalar, pixels, emit)

    def copy_pixel(q: ir.Value) -> None:
        store(at, at.load(at.gep(square, [q])), target_of(q)[0])

    with at.if_else(at.icmp_signed(">=", pixels, I64(lanes))) as (wide, narrow):
        with wide:
            _loop(at, pixels, lanes, block)
        with narrow:
            for c in range(lanes):
                at.store(ir.Constant(vectors, None), at.gep(square, [I64(c)]))
            _loop(at, channels, 1, copy_row)
            rows = [at.load(at.gep(square, [I64(c)])) for c in range(lanes)]
            for k, value in enumerate(vector.transposed(at, rows)):
                at.store(value, at.gep(square, [I64(k)]))
            _loop(at, pixels, 1, copy_pixel)


SCATTER = "source pixels channels residual low high target stride"


def _scatter(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[c * stride + q] = clamp(source[q * lanes + c] + residual[as target], low, high) for q < pixels, c < channels
    <= lanes; residual may be null. The last vector overlaps the one before it; of source whole squares are read."""
    vectors = vector_type(scalar)
    lanes, size = vectors.count, vector.itemsize(scalar)
    channels, pixels = given["channels"], given["pixels"]
    stride, row_bytes = at.mul(given["stride"], I64(size)), I64(lanes * size)
    with_residual = at.icmp_unsigned("!=", given["residual"], ir.Constant(POINTER, None))
    with at.goto_entry_block():
        square = at.alloca(vectors, lanes)

    def finished(value: ir.Value, place: ir.Value, kind: ir.Type) -> ir.Value:
        low, high = given["low"], given["high"]
        if isinstance(kind, ir.VectorType):
            low, high = broadcast(at, low, kind), broadcast(at, high, kind)
        (value,) = _plus_residual(at, with_residual, [value], given["residual"], place, I64(0), kind)
        return _clamped(at, value, low, high)

    def block(q: ir.Value) -> None:
        wide = at.icmp_signed(">=", pixels, I64(lanes))
        last = at.select(wide, at.sub(pixels, I64(lanes)), I64(0))
        place = at.select(at.icmp_signed("<", q, last), q, last)
        first = at.gep(given["source"], [at.mul(place, row_bytes)])
        rows = vector.transposed(at, [load(at, at.gep(first, [I64(c * lanes * size)]), vectors) for c in range(lanes)])
        start = at.mul(place, I64(size))
        with at.if_else(at.and_(wide, at.icmp_signed("==", channels, I64(lanes)))) as (whole, part):
            with whole:
                for c, value in enumerate(rows):
                    offset = at.add(start, at.mul(I64(c), stride))
                    store(at, finished(value, offset, vectors), at.gep(given["target"], [offset]))
            with part:
                for c, value in enumerate(rows):
                    at.store(value, at.gep(square, [I64(c)]))

                def copy_row(c: ir.Value) -> None:
                    row = at.gep(at.bitcast(square, POINTER), [at.mul(c, row_bytes)])
                    first = at.add(start, at.mul(c, stride))

                    def emit(kind: ir.Type, starts: list[ir.Value]) -> None:
                        for piece in starts:
                            offset = at.mul(piece, I64(size))
                            value, to = load(at, at.gep(row, [offset]), kind), at.add(first, offset)
                            store(at, finished(value, to, kind), at.gep(given["target"], [to]))

                    vector.pieces(at, scalar, at.select(wide, I64(lanes), pixels), emit)

                _loop(at, channels, 1, copy_row)

    _loop(at, pixels, lanes, block)


FINISH = "source count residual low high target"


def _finish(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[j] = clamp(source[j] + residual[j], low, high) for j < count; residual may be null."""
    size, panel = vector.itemsize(scalar), vector.TILE_VECTORS * vector_type(scalar).count
    with_residual = at.icmp_unsigned("!=", given["residual"], ir.Constant(POINTER, None))

    def body(j: ir.Value) -> None:
        def emit(kind: ir.Type, starts: list[ir.Value]) -> None:
            low, high = given["low"], given["high"]
            if isinstance(kind, ir.VectorType):
                low, high = broadcast(at, low, kind), broadcast(at, high, kind)
            for start in starts:
                place = at.mul(at.add(j, start), I64(size))
                value = load(at, at.gep(given["source"], [place]), kind)
                (value,) = _plus_residual(at, with_residual, [value], given["residual"], place, I64(0), kind)
                store(at, _clamped(at, value, low, high), at.gep(given["target"], [place]))

        vector.pieces(at, scalar, at.sub(given["count"], j), emit)

    _loop(at, given["count"], panel, body)


PRODUCTS = "source row point weights weights_point target target_point points channels tiles depth terms"


def _products(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[p * target_point + t * CHANNELS + o] = sum over k < depth of source[p * point + t * row + k] times the weight
    weights[p * weights_point + (o / nr * depth + k) * nr + o % nr], in partial sums of `terms`; p < points, t < tiles,
    o < channels, all columns of the last panel."""
    nr, element, depth = vector.TILE_VECTORS * vector_type(scalar).count, scalar.as_pointer(), given["depth"]
    source, weights, target = (at.bitcast(given[name], element) for name in ("source", "weights", "target"))
    c_row = I64(blocking.WINOGRAD_CHANNELS)

    def call(function: ir.Function, a: ir.Value, b: ir.Value, c: ir.Value, terms: ir.Value, accumulate: ir.Value) -> None:
        table = ir.Constant(I64.as_pointer(), None)
        at.call(function, [a, table, given["row"], b, c, c_row, I64(1), terms, accumulate])

    def point(p: ir.Value) -> None:
        a = at.gep(source, [at.mul(p, given["point"])])
        b_point = at.gep(weights, [at.mul(p, given["weights_point"])])
        c_point = at.gep(target, [at.mul(p, given["target_point"])])

        def panel(o: ir.Value) -> None:
            b, c = at.gep(b_point, [at.mul(o, depth)]), at.gep(c_point, [o])

            def rows(first: ir.Value, count: ir.Value) -> None:
                a_rows, c_rows = at.gep(a, [at.mul(first, given["row"])]), at.gep(c, [at.mul(first, c_row)])

                def part(k: ir.Value, terms: ir.Value) -> None:
                    _by_height(
                        at, count, lambda rows: vector.tile_function(at.module, scalar, rows, False, None),
                        lambda f: call(
                            f, at.gep(a_rows, [k]), at.gep(b, [at.mul(k, I64(nr))]), c_rows, terms,
                            at.icmp_signed(">", k, I64(0)),
                        ),
                    )  # fmt: skip

                _in_parts(at, depth, given["terms"], part)

            _in_heights(at, given["tiles"], rows)

        _loop(at, given["channels"], nr, panel)

    _loop(at, given["points"], 1, point)


def _in_heights(at: ir.IRBuilder, stop: ir.Value, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """Rows in tiles of the heights that have code: body(first, count); as gemm.height."""
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
    halves = at.ashr(at.add(left, I64(1)), I64(1))
    count = at.select(at.icmp_signed("<=", left, I64(vector.HALF_TILE_ROWS)), left, halves)
    count = at.select(at.icmp_signed(">=", left, I64(vector.TILE_ROWS)), I64(vector.TILE_ROWS), count)
    at.store(at.add(row, count), first)
    body(row, count)
    at.branch(test)
    at.position_at_end(after)


def _in_parts(at: ir.IRBuilder, depth: ir.Value, terms: ir.Value, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """body(k, count) for partial sums of at most `terms`; one of nothing if there is no depth."""

    def part(n: ir.Value) -> None:
        k = at.mul(n, terms)
        left = at.sub(depth, k)
        body(k, at.select(at.icmp_signed("<", terms, left), terms, left))

    parts = at.sdiv(at.sub(at.add(depth, terms), I64(1)), terms)
    _loop(at, at.select(at.icmp_signed(">", parts, I64(1)), parts, I64(1)), 1, part)


def _by_height(
    at: ir.IRBuilder, count: ir.Value, tile: Callable[[int], ir.Function], call: Callable[[ir.Function], None]
) -> None:
    """Call the tile of so many rows."""
    end = at.function.append_basic_block("tile.end")
    switch = at.switch(count, end)
    for height in vector.TILE_HEIGHTS:
        with at.goto_block(at.function.append_basic_block(f"tile.{height}")):
            switch.add_case(I64(height), at.block)
            call(tile(height))
            at.branch(end)
    at.position_at_end(end)


def _outer_tile(module: ir.Module, scalar: ir.Type, rows: int) -> ir.Function:
    """C[i][j] (+)= sum over k < depth of A[k][i] * B[k][j], i < rows, j < nr: both rows one after the other in memory.

    Otherwise as vector.tile_function."""
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


def _outer(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[i * target_row + j] (+)= sum over k < depth of source[k * row + i] * weights[k * weights_row + j], in partial
    sums of `terms`, i < rows, j < columns, whole panels of columns. Accumulating if that is not 0."""
    nr, element = vector.TILE_VECTORS * vector_type(scalar).count, scalar.as_pointer()
    source, weights, target = (at.bitcast(given[name], element) for name in ("source", "weights", "target"))
    accumulate = at.icmp_signed("!=", given["accumulate"], I64(0))

    def panel(j: ir.Value) -> None:
        b, c = at.gep(weights, [j]), at.gep(target, [j])

        def rows(first: ir.Value, count: ir.Value) -> None:
            a_rows, c_rows = at.gep(source, [first]), at.gep(c, [at.mul(first, given["target_row"])])

            def part(k: ir.Value, terms: ir.Value) -> None:
                a_part, b_part = at.gep(a_rows, [at.mul(k, given["row"])]), at.gep(b, [at.mul(k, given["weights_row"])])
                more = at.or_(accumulate, at.icmp_signed(">", k, I64(0)))
                _by_height(
                    at, count, lambda rows: _outer_tile(at.module, scalar, rows),
                    lambda f: at.call(
                        f, [a_part, given["row"], b_part, given["weights_row"], c_rows, given["target_row"], terms, more]
                    ),
                )  # fmt: skip

            _in_parts(at, given["depth"], given["terms"], part)

        _in_heights(at, given["rows"], rows)

    _loop(at, given["columns"], nr, panel)


# --------------------------------------------------------------------------------------------------------
# Functions by address

# What each function takes: pointers, numbers of the kernel's type, and int64 for all else. Those with a result say so.
POINTERS = {"source", "target", "bias", "residual", "weights"}
NUMBERS = {"low", "high"}
ARGUMENTS = {
    "weights": SPREAD, "input": SPREAD, "output_adjoint": SPREAD, "output": OUTPUT, "weights_adjoint": TAPS,
    "gather": GATHER, "scatter": SCATTER, "finish": FINISH, "products": PRODUCTS, "outer": OUTER,
}  # fmt: skip
WITH_RESULT = {"output", "weights_adjoint"}
# Those that are the same for every tile.
MOVES = ("outer", "gather", "scatter", "finish", "products")


def _type_of(what: str, scalar: ir.Type) -> ir.FunctionType:
    kinds = [POINTER if n in POINTERS else scalar if n in NUMBERS else I64 for n in ARGUMENTS[what].split()]
    return ir.FunctionType(I64 if what in WITH_RESULT else ir.VoidType(), kinds)


def _function(module: ir.Module, scalar: ir.Type, tile: str, what: str) -> ir.Function:
    names = ARGUMENTS[what].split()
    function = ir.Function(module, _type_of(what, scalar), f"fc_f{8 * vector.itemsize(scalar)}_{what}_{tile}__numba")
    vector.stand_alone(function)
    at = ir.IRBuilder(function.append_basic_block("entry"))
    body = function.append_basic_block("body")
    at.position_at_end(body)
    given = dict(zip(names, function.args, strict=True))
    result: ir.Value | None = None
    if what in MOVES:
        makers = {"gather": _gather, "scatter": _scatter, "finish": _finish, "products": _products, "outer": _outer}
        makers[what](at, scalar, given)
    elif what == "output":
        result = _output(at, scalar, tile, given)
    elif what == "weights_adjoint":
        result = _weights_adjoint(at, scalar, tile, given)
    else:
        _spread(at, scalar, tile, what, given)
    if result is None:
        at.ret_void()
    else:
        at.ret(result)
    with at.goto_entry_block():
        at.branch(body)
    return function


@intrinsic(prefer_literal=True)
def _keep_addresses(typingctx, like, table, number, first, last):
    """table[i] = the address of function i of KINDS, first <= i < last, for tile `number` and the type of `like`."""
    if not all(isinstance(n, types.IntegerLiteral) for n in (number, first, last)):
        return None
    tile, kinds = TILES[number.literal_value], KINDS[first.literal_value : last.literal_value]
    signature = types.void(like, table, types.int64, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        for i, what in enumerate(kinds):
            function = _function(builder.module, scalar_type(sig.args[0]), tile, what)
            place = address(context, builder, sig.args[1], args[1], I64(i))
            builder.store(builder.ptrtoint(function, I64), place)
        return context.get_dummy_value()

    return signature, codegen


KINDS = ("weights", "output", "input", "output_adjoint", "weights_adjoint", *MOVES)


def _table(tile: str, first: str, last: str) -> Kernel:
    number, begin, end = TILES.index(tile), KINDS.index(first), KINDS.index(last) + 1

    def addresses(like, table):
        _keep_addresses(like, table, number, begin, end)

    return Kernel(addresses, "in1 outints1", {"fastmath": CONTRACT})


@lru_cache(maxsize=64)
def addresses(tile: str, dtype: str, first: str, last: str) -> dict[str, int]:
    """Addresses of the functions `first` to `last` of KINDS; compiled on first use, and never freed."""
    kinds = KINDS[KINDS.index(first) : KINDS.index(last) + 1]
    table = np.zeros(len(kinds), np.int64)
    kernel = _table(tile, first, last)
    kernel[dtype](np.zeros(0, dtype), table)
    _KEPT.append(kernel)
    return dict(zip(kinds, map(int, table), strict=True))


_KEPT: list[Kernel] = []


def moves(dtype: str) -> dict[str, int]:
    """Addresses of what forward and input gradient need beside the transforms."""
    return addresses(TILES[0], dtype, "gather", "products")


def gradient_moves(dtype: str) -> dict[str, int]:
    """And the weight gradient."""
    return addresses(TILES[0], dtype, "outer", "scatter")


# What a transform of outputs without an epilogue does without.
PLAIN = {"residual": None, "low": -np.inf, "high": np.inf}


def _call(what: str, *kinds: types.Type, left_out: dict[str, Any] | None = None) -> Any:
    """Typing and code of a call: the address, then the arguments, each array with an offset."""
    left_out = left_out or {}

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        given = list(zip(sig.args[1:], args[1:]))
        scalar = next(scalar_type(kind) for kind, _ in given if isinstance(kind, types.Array))
        values = []
        for name in ARGUMENTS[what].split():
            if name in left_out:
                values.append(ir.Constant(POINTER, None) if name == "residual" else ir.Constant(scalar, left_out[name]))
                continue
            kind, value = given.pop(0)
            if name in POINTERS:
                some = builder.icmp_signed(">", arrayobj.make_array(kind)(context, builder, value).nitems, I64(0))
                value = builder.bitcast(address(context, builder, kind, value, given.pop(0)[1]), POINTER)
                value = builder.select(some, value, ir.Constant(POINTER, None)) if name == "residual" else value
            values.append(value)
        pointer = builder.inttoptr(args[0], _type_of(what, scalar).as_pointer())
        outcome = builder.call(pointer, values)
        return outcome if what in WITH_RESULT else context.get_dummy_value()

    return (types.int64 if what in WITH_RESULT else types.void)(types.int64, *kinds), codegen


@intrinsic
def call_spread(typingctx, function, source, s, row, column, count, target, t, point):
    """_spread by address; an array comes with the offset of its first element."""
    return _call("input", source, s, row, column, count, target, t, point)


@intrinsic
def call_output(typingctx, function, source, s, point, count, bias, b, residual, r, low, high, target, t, row, column):
    """_output by address, of an empty residual without it."""
    return _call(
        "output", source, s, point, count, bias, b, residual, r, source.dtype, source.dtype, target, t, row, column
    )


@intrinsic
def call_output_plain(typingctx, function, source, s, point, count, bias, b, target, t, row, column):
    """The same without residual and clamp."""
    return _call("output", source, s, point, count, bias, b, target, t, row, column, left_out=PLAIN)


@intrinsic
def call_taps(typingctx, function, source, s, point, count, target, t):
    """_weights_adjoint by address."""
    return _call("weights_adjoint", source, s, point, count, target, t)


@intrinsic
def call_gather(typingctx, function, source, s, stride, channels, pixels, width, skip, target, t):
    """_gather by address."""
    return _call("gather", source, s, stride, channels, pixels, width, skip, target, t)


@intrinsic
def call_scatter(typingctx, function, source, s, pixels, channels, residual, r, low, high, target, t, stride):
    """_scatter by address, of an empty residual without it."""
    return _call("scatter", source, s, pixels, channels, residual, r, source.dtype, source.dtype, target, t, stride)


@intrinsic
def call_finish(typingctx, function, source, s, count, residual, r, low, high, target, t):
    """_finish by address, of an empty residual without it."""
    return _call("finish", source, s, count, residual, r, source.dtype, source.dtype, target, t)


@intrinsic
def call_products(
    typingctx, function, source, s, row, point, weights, w, weights_point, target, t, target_point, points, channels, tiles,
    depth, terms
):  # fmt: skip
    """_products by address."""
    return _call(
        "products", source, s, row, point, weights, w, weights_point, target, t, target_point, points, channels, tiles,
        depth, terms,
    )  # fmt: skip


@intrinsic
def call_outer(
    typingctx, function, source, s, row, weights, w, weights_row, target, t, target_row, rows, columns, depth, terms,
    accumulate
):  # fmt: skip
    """_outer by address."""
    return _call(
        "outer", source, s, row, weights, w, weights_row, target, t, target_row, rows, columns, depth, terms, accumulate
    )
