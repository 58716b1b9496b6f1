"""Moves of data: every other element of rows, weights turned, and whether they are finite."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from fastconv._numba.emit import Emitter, Whole, plain
from fastconv._numba.vector import I32, I64, TILE_VECTORS, intrinsic, outlined, scalar_type, standing, transposed


def halve_block(
    e: Emitter, source: ir.Value, source_step: Whole, target: ir.Value, target_step: Whole, rows: Whole, width: Whole
) -> None:
    """Code for target[r * target_step + i] = source[r * source_step + 2 * i], r < rows, i < width <= TILE_VECTORS
    vectors. Nothing behind the last of these elements is read."""
    pointer = target.type
    halving = standing(
        e.at.module, f"halve_block_{pointer.pointee}__numba", ir.VoidType(), [pointer, I64, pointer, I64, I64, I64],
        _halve,
    )  # fmt: skip
    e.at.call(halving, [source, plain(source_step), target, plain(target_step), plain(rows), plain(width)])


def _halve(
    builder: ir.IRBuilder, source: ir.Value, source_step: ir.Value, target: ir.Value, target_step: ir.Value,
    rows: ir.Value, width: ir.Value,
) -> None:  # fmt: skip
    e = Emitter(builder, target.type.pointee)
    lanes = e.lanes
    width = e.least(width, TILE_VECTORS * lanes)
    # of a vector from 0 on and one from lanes - 1 on
    order = [2 * n if 2 * n < lanes else 2 * n + 1 for n in range(lanes)]

    def move(from_: ir.Value, to: ir.Value, start: int, whole: bool) -> None:
        if whole:
            low, high = (e.load(from_, 2 * start + n) for n in (0, lanes - 1))
            e.store(e.shuffle(low, high, order), to, start)
            return
        with e.loop(e.sub(width, start)) as left:
            at = e.add(left.index, start)
            builder.store(e.number(from_, e.mul(at, 2)), e.place(to, at))

    # the vectors of a row that are whole, then what is left
    for whole in range(TILE_VECTORS, -1, -1):
        fits = builder.icmp_signed("==", builder.sdiv(width, I64(lanes)), I64(whole))
        with e.when(fits), e.loop(rows) as row:
            from_ = e.place(source, e.mul(row.index, source_step))
            to = e.place(target, e.mul(row.index, target_step))
            for v in range(whole):
                move(from_, to, v * lanes, True)
            if whole < TILE_VECTORS:
                move(from_, to, whole * lanes, False)


@intrinsic
def turn(typingctx, w, at, s_row, s_column, packed, to, step, rows, columns):
    """packed[column * step + row] = w[at + row * s_row + column * s_column]; whole squares of neighbours by vectors."""
    i8 = types.int64
    signature = types.void(w, i8, i8, i8, packed, i8, i8, i8, i8)

    def body(builder, kinds, w, s_row, s_column, packed, *sizes):
        e = Emitter(builder, scalar_type(kinds[0]))
        s_row, s_column = e.whole(s_row), e.whole(s_column)
        step, rows, columns = map(e.whole, sizes)
        n = e.lanes
        near = s_column.equals(1)
        square_rows, square_columns = (rows // n * n).where(near, 0), (columns // n * n).where(near, 0)
        with e.each(square_rows, n) as row, e.each(square_columns, n) as column:
            from_, target = e.place(w, row * s_row + column), e.place(packed, column * step + row)
            square = [e.load(from_, s_row * i) for i in range(n)]
            for j, value in enumerate(transposed(builder, square)):
                e.store(value, target, step * j)
        with e.each(columns) as column:
            first = square_rows.where(column < square_columns, 0)
            with e.each(rows - first) as left:
                row = first + left
                value = e.number(w, row * s_row + column * s_column)
                builder.store(value, e.place(packed, column * step + row))

    return signature, outlined("turn", body)


@intrinsic
def all_finite(typingctx, values, start, end):
    """Whether values[start:end] are."""

    def body(builder, kinds, values, count):
        e = Emitter(builder, scalar_type(kinds[0]))
        count, nothing = e.whole(count), ir.Constant(e.scalar, 0.0)
        vectors = count // e.lanes * e.lanes
        # v - v is 0, or NaN for ever
        zeros, zero = e.variable(e.zeros()), e.variable(nothing)
        with e.each(vectors, e.lanes) as n:
            value = e.load(values, n)
            e.set(zeros, builder.fadd(e.get(zeros), builder.fsub(value, value)))
        with e.each(count - vectors) as n:
            value = e.number(values, vectors + n)
            e.set(zero, builder.fadd(e.get(zero), builder.fsub(value, value)))
        for lane in range(e.lanes):
            e.set(zero, builder.fadd(e.get(zero), builder.extract_element(e.get(zeros), I32(lane))))
        return builder.fcmp_ordered("==", e.get(zero), nothing)

    code = outlined("all_finite", body)

    def codegen(context, builder, sig, args):
        found, start, end = args
        kinds = types.boolean(values, types.int64, types.int64)
        return code(context, builder, kinds, (found, start, builder.sub(end, start)))

    return types.boolean(values, types.int64, types.int64), codegen


@intrinsic
def fill(typingctx, target, t, value, count):
    """target[i] = value for i < count."""
    signature = types.void(target, types.int64, target.dtype, types.int64)

    def body(builder, kinds, target, value, count):
        e = Emitter(builder, scalar_type(kinds[0]))
        count, vectors = e.whole(count), e.splat(value)
        whole = count // e.lanes * e.lanes
        with e.each(whole, e.lanes) as i:
            e.store(vectors, target, i)
        with e.each(count - whole) as i:
            builder.store(value, e.place(target, whole + i))

    return signature, outlined("fill", body)
