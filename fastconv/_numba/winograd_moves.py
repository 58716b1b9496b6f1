"""Moves between planes and vectors of channels around the Winograd transforms, as LLVM IR: the same for every tile."""

from __future__ import annotations

from llvmlite import ir

from fastconv._numba import vector
from fastconv._numba.vector import I64, broadcast, load, store, vector_type
from fastconv._numba.winograd_emit import POINTER, loop, plus_residual

GATHER = "source stride channels pixels width skip target"


def gather(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[(q + q / width * skip) * lanes + c] = source[c * stride + q] for q < pixels, c < channels <= lanes; 0 for
    channels <= c < lanes. The last vector of pixels overlaps the one before it, rather than be narrow."""
    vectors = vector_type(scalar)
    lanes, size = vectors.count, vector.itemsize(scalar)
    channels, pixels, width = given["channels"], given["pixels"], given["width"]
    stride, row_bytes = at.mul(given["stride"], I64(size)), I64(lanes * size)
    with at.goto_entry_block():
        square, zeros, line_at = at.alloca(vectors, lanes), at.alloca(vectors), at.alloca(I64)
    at.store(ir.Constant(vectors, None), zeros)
    nothing = at.bitcast(zeros, POINTER)

    def target_of(q: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where pixel q goes, and how many of its row are left."""
        with at.if_else(at.icmp_signed("==", given["skip"], I64(0))) as (dense, gaps):
            with dense:
                at.store(I64(0), line_at)
            with gaps:
                at.store(at.sdiv(q, width), line_at)
        line = at.load(line_at)
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
            loop(at, pixels, lanes, block)
        with narrow:
            for c in range(lanes):
                at.store(ir.Constant(vectors, None), at.gep(square, [I64(c)]))
            loop(at, channels, 1, copy_row)
            rows = [at.load(at.gep(square, [I64(c)])) for c in range(lanes)]
            for k, value in enumerate(vector.transposed(at, rows)):
                at.store(value, at.gep(square, [I64(k)]))
            loop(at, pixels, 1, copy_pixel)


SCATTER = "source pixels channels residual low high target stride"


def scatter(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[c * stride + q] = clamp(source[q * lanes + c] + residual[as target], low, high) for q < pixels, c <
    channels <= lanes; residual may be null. The last vector overlaps the one before; source is read in whole squares.
    """
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
        (value,) = plus_residual(at, with_residual, [value], given["residual"], place, I64(0), kind)
        return vector.clamp(at, value, low, high)

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

                loop(at, channels, 1, copy_row)

    loop(at, pixels, lanes, block)


FINISH = "source count residual low high target"


def finish(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
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
                (value,) = plus_residual(at, with_residual, [value], given["residual"], place, I64(0), kind)
                store(at, vector.clamp(at, value, low, high), at.gep(given["target"], [place]))

        vector.pieces(at, scalar, at.sub(given["count"], j), emit)

    loop(at, given["count"], panel, body)


ADD = "source count target"


def add(at: ir.IRBuilder, scalar: ir.Type, given: dict[str, ir.Value]) -> None:
    """target[j] += source[j] for j < count."""
    vectors, size = vector_type(scalar), vector.itemsize(scalar)
    whole = at.mul(at.sdiv(given["count"], I64(vectors.count)), I64(vectors.count))

    def some(first: ir.Value, kind: ir.Type) -> None:
        place = at.mul(first, I64(size))
        source, target = at.gep(given["source"], [place]), at.gep(given["target"], [place])
        store(at, at.fadd(load(at, target, kind), load(at, source, kind)), target)

    loop(at, whole, vectors.count, lambda j: some(j, vectors))
    loop(at, at.sub(given["count"], whole), 1, lambda j: some(at.add(whole, j), scalar))
