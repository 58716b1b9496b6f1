"""The register tiles of pooling: windows along channels (NHWC) or along columns (NCHW), emitted for each op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from fastconv._numba.emit import Emitter
from fastconv._numba.vector import BIT, I32, I64, broadcast, intrinsic, outlined, scalar_type, store

# What is done with the cells of a window.
MAX, MAX_INDEXED, AVERAGE = 0, 1, 2
# Vectors of channels of a pixel that run through its window together.
VECTORS = 4


class Cells:
    """The cells of a window while code for it is generated: the largest so far and where it lies, or their sum.

    Of equal maxima the first one stays; a NaN wins, the last of several.
    """

    def __init__(
        self, e: Emitter, op: int, value: ir.Value, where: ir.Value | None = None, only: ir.Value | None = None
    ) -> None:
        """Begins with a window's first cell (of the lanes `only`), and for indices where its first cell inside lies."""
        self.e, self.op = e, op
        if only is not None:
            empty = e.zeros() if op == AVERAGE else e.splat(ir.Constant(e.scalar, float("-inf")))
            value = e.at.select(only, value, empty)
        self.slot = e.variable(value)
        self.where = e.variable(where) if op == MAX_INDEXED else None

    def take(self, value: ir.Value, index: Callable[[], ir.Value] | None = None, only: ir.Value | None = None) -> None:
        """Cells of some lanes; `index` emits where they lie."""
        e, at = self.e, self.e.at
        best = e.get(self.slot)
        if self.op == AVERAGE:
            e.set(self.slot, at.fadd(best, value if only is None else e.only(value, only)))
        elif self.op == MAX:
            if only is not None:
                value = at.select(only, value, best)
            larger = at.select(at.fcmp_ordered(">", best, value), best, value)
            e.set(self.slot, at.select(at.fcmp_unordered("uno", best, best), best, larger))
        else:
            wins = at.or_(at.fcmp_ordered(">", value, best), at.fcmp_unordered("uno", value, value))
            if only is not None:
                wins = at.and_(wins, only)
            assert index is not None
            e.set(self.slot, at.select(wins, value, best))
            e.set(self.where, at.select(wins, index(), e.get(self.where)))

    def result(self, divisor: ir.Value | None) -> ir.Value:
        value = self.e.get(self.slot)
        return self.e.at.fdiv(value, divisor) if self.op == AVERAGE else value


def index_type(e: Emitter) -> ir.VectorType:
    """Indices of a vector's lanes, of its elements' size."""
    return ir.VectorType(ir.IntType(32 if isinstance(e.scalar, ir.FloatType) else 64), e.lanes)


def spread_index(e: Emitter, index: ir.Value, step: int = 0) -> ir.Value:
    """index + lane * step, as a vector."""
    kind = index_type(e)
    value = e.at.trunc(index, kind.element) if kind.element.width < 64 else index
    spread = broadcast(e.at, value, kind)
    return e.at.add(spread, ir.Constant(kind, [kind.element(n * step) for n in range(e.lanes)])) if step else spread


def store_indices(e: Emitter, value: ir.Value, pointer: ir.Value, count: ir.Value | None, only: Any = None) -> None:
    """As int64, all or the first `count`, which are `only`."""
    wide = ir.VectorType(I64, e.lanes)
    value = e.at.sext(value, wide) if value.type != wide else value
    if count is None:
        store(e.at, value, pointer)
    else:
        e.store_first(value, pointer, count, only)


def load_indices(e: Emitter, pointer: ir.Value, only: ir.Value | None) -> ir.Value:
    """int64 indices as lanes of index_type: negative where they are out of its range, any that are not `only`."""
    value = e.load(pointer, 0, only, ir.VectorType(I64, e.lanes))
    kind = index_type(e)
    if value.type == kind:
        return value
    words = e.at.bitcast(value, ir.VectorType(I32, 2 * e.lanes))
    low, high = (e.shuffle(words, words, range(half, 2 * e.lanes, 2)) for half in (0, 1))
    return e.at.or_(low, e.at.sext(e.at.icmp_signed("!=", high, ir.Constant(kind, None)), kind))


def each_channel_tile(e: Emitter, channels: ir.Value, vectors: int, tile: Callable[[ir.Value, int, Any], None]) -> None:
    """Calls tile(c, vectors, count): whole tiles, the last of which overlaps; of few channels, vectors; `count` of the
    last vector where it is less than whole, else None."""
    whole = vectors * e.lanes
    with e.either(e.less(channels, whole)) as (few, many):
        with many, e.loop(e.at.sdiv(e.add(channels, whole - 1), I64(whole))) as number:
            tile(e.least(e.mul(number.index, whole), e.sub(channels, whole)), vectors, None)
        with few:
            vectors_ = e.at.sdiv(channels, I64(e.lanes))
            with e.loop(vectors_) as number:
                tile(e.mul(number.index, e.lanes), 1, None)
            done = e.mul(vectors_, e.lanes)
            with e.when(e.less(done, channels)):
                tile(done, 1, e.sub(channels, done))


@intrinsic(prefer_literal=True)
def pool_pixels(
    typingctx, op, k, x, xs, y, ys, indices, js, columns, cs, counts, ns, row0, rows, row_step, column_step, in_w,
    out_w, channels, rows_counted
):  # fmt: skip
    """NHWC: a row of outputs of one image. columns : [first, number] of the cells of each window along the row;
    counts : how many columns it counts. Whole windows of k x k neighbours run through code of their own (0: none)."""
    i8 = types.int64
    signature = types.void(op, k, x, i8, y, i8, indices, i8, columns, i8, counts, i8, *[i8] * 7, x.dtype)
    what, side = op.literal_value, k.literal_value

    def body(
        builder, kinds, _op, _k, x, y, indices, columns, counts, row0, rows, row_step, column_step, in_w, out_w,
        channels, rows_counted
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[2]))
        lanes = e.lanes
        down = e.mul(row_step, in_w)
        near = e.both(e.less(row_step, 2), e.less(column_step, 2))
        with e.loop(out_w) as pixel:
            window = e.place(columns, e.mul(pixel.index, 2))
            column0, width = e.number(window, 0), e.number(window, 1)
            corner = e.add(e.mul(row0, in_w), column0)
            divisor = e.splat(builder.fmul(rows_counted, e.number(counts, pixel.index)))
            out = e.mul(pixel.index, channels)

            def tile(c: ir.Value, vectors: int, count: ir.Value | None, regular: bool) -> None:
                only = None if count is None else e.lanes_between(0, count)
                at = e.place(x, e.add(e.mul(corner, channels), c))
                where = spread_index(e, corner)

                def begun() -> list[Cells]:
                    return [Cells(e, what, e.load(at, v * lanes, only), where) for v in range(vectors)]

                def line(cells: list[Cells], row: ir.Value, first: int, width: Any) -> None:
                    index = e.add(corner, e.mul(row, down))
                    if regular:
                        for n in range(first, width):
                            add(cells, e.add(index, n))
                    else:
                        with e.loop(e.sub(width, first)) as column:
                            add(cells, e.add(index, e.mul(e.add(column.index, first), column_step)))

                def add(cells: list[Cells], index: ir.Value) -> None:
                    cell = e.place(x, e.add(e.mul(index, channels), c))
                    where = spread_index(e, index) if what == MAX_INDEXED else None
                    for v in range(vectors):
                        cells[v].take(e.load(cell, v * lanes, only), lambda: where)

                def sums_of_row(row: ir.Value, width: Any) -> list[Cells]:
                    """Sums in two levels round less."""
                    first = e.place(x, e.add(e.mul(e.add(corner, e.mul(row, down)), channels), c))
                    cells = [Cells(e, what, e.load(first, v * lanes, only)) for v in range(vectors)]
                    line(cells, row, 1, width)
                    return cells

                across = side if regular else width
                if what == AVERAGE:
                    cells = sums_of_row(I64(0), across)
                else:
                    cells = begun()
                    line(cells, I64(0), 1, across)

                def next_row(row: ir.Value) -> None:
                    if what == AVERAGE:
                        for v, one in enumerate(sums_of_row(row, across)):
                            cells[v].take(e.get(one.slot))
                    else:
                        line(cells, row, 0, across)

                if regular:
                    for row in range(1, side):
                        next_row(I64(row))
                else:
                    with e.loop(e.sub(rows, 1)) as later:
                        next_row(e.add(later.index, 1))
                for v in range(vectors):
                    at = e.add(e.add(out, c), v * lanes)
                    value = cells[v].result(divisor)
                    if count is None:
                        e.store(value, y, at)
                    else:
                        e.store_first(value, e.place(y, at), count, only)
                    if what == MAX_INDEXED:
                        store_indices(e, e.get(cells[v].where), e.place(indices, at), count, only)

            vectors = VECTORS if what != MAX_INDEXED else 2
            if side == 0:
                each_channel_tile(e, channels, vectors, partial(tile, regular=False))
            else:
                whole = e.both(e.at.icmp_signed("==", rows, I64(side)), e.at.icmp_signed("==", width, I64(side)))
                with e.either(e.both(whole, near)) as (all_inside, some):
                    with all_inside:
                        each_channel_tile(e, channels, vectors, partial(tile, regular=True))
                    with some:
                        each_channel_tile(e, channels, 1, partial(tile, regular=False))

    return signature, outlined(f"pool_pixels_{what}_{side}", body)


@intrinsic(prefer_literal=True)
def pool_rows(
    typingctx, op, k, s, x, xs, y, ys, indices, js, table, ts, row_counts, rs, counts, ns, count, row_step, in_w,
    begin, end, out_w
):  # fmt: skip
    """NCHW: `count` rows of outputs of windows of k columns at stride s.

    x : the plane, from the first window's first column on, perhaps outside: columns begin..end lie inside.
    table : [first, number] of the rows of each window; row_counts, counts : how many rows and columns they count.
    """
    i8 = types.int64
    signature = types.void(
        op, k, s, x, i8, y, i8, indices, i8, table, i8, row_counts, i8, counts, i8, *[i8] * 6
    )  # fmt: skip
    what, wide, step = op.literal_value, k.literal_value, s.literal_value

    def body(
        builder, kinds, _op, _k, _s, x, y, indices, table, row_counts, counts, count, row_step, in_w, begin, end, out_w
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[3]))
        lanes = e.lanes
        down = e.mul(row_step, in_w)
        # Where vectors of a row are loaded, and the taps in them: one in each, or in pairs of vectors two.
        pairs = {b: (b - b % 2, b - b % 2 + lanes) for b in range(wide)}
        starts = list(range(wide)) if step == 1 else sorted({start for pair in pairs.values() for start in pair})
        reach = starts[-1] + lanes
        near = e.less(row_step, 2)

        def taps_of(vectors: dict[int, ir.Value]) -> list[ir.Value]:
            if step == 1:
                return [vectors[b] for b in range(wide)]
            return [
                e.shuffle(vectors[low], vectors[high], range(b % 2, 2 * lanes, 2)) for b, (low, high) in pairs.items()
            ]

        def windows(out_row: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
            """Of a row of outputs: the index of its row of cells, where that lies, and how many rows come after it."""
            window = e.place(table, e.mul(out_row, 2))
            origin = e.mul(e.number(window, 0), in_w)
            return origin, e.place(x, origin), e.sub(e.number(window, 1), 1)

        def vector(j: ir.Value, out_row: ir.Value, window: Any, lanes_inside: Any, some: Any, divisors: Any) -> None:
            """A vector of outputs; of a rim `some` of the lanes, and lanes_inside(start, stride) those in the image."""
            origin, place, rows = window
            cell = e.mul(j, step)
            here, index = e.place(place, cell), e.sub(e.add(origin, cell), begin)
            readable = {n: lanes_inside(n, 1) for n in starts}
            within = [lanes_inside(b, step) for b in range(wide)]

            def line(row: ir.Value) -> dict[int, ir.Value]:
                from_ = e.place(here, e.mul(row, down))
                return {n: e.load(from_, n, readable[n]) for n in starts}

            def later(below: Callable[[ir.Value], None]) -> None:
                """The rows after the first: those of a square of neighbours unrolled."""
                with e.either(e.both(near, e.at.icmp_signed("==", rows, I64(wide - 1)))) as (square, other):
                    with square:
                        for row in range(1, wide):
                            below(I64(row))
                    with other, e.loop(rows) as row:
                        below(e.add(row.index, 1))

            if what == MAX_INDEXED:
                where = spread_index(e, index, step)
                if some is not None:  # the first cell inside
                    least = spread_index(e, origin)
                    where = e.at.select(e.at.icmp_signed("<", where, least), least, where)
                first, *others = taps_of(line(I64(0)))
                total = Cells(e, what, first, where, within[0])
                for b, value in enumerate(others, 1):
                    total.take(value, partial(spread_index, e, e.add(index, b), step), within[b])

                def below(row: ir.Value) -> None:
                    at = e.add(index, e.mul(row, down))
                    for b, value in enumerate(taps_of(line(row))):
                        total.take(value, partial(spread_index, e, e.add(at, b), step), within[b])

                later(below)
            else:
                stacks = {n: Cells(e, what, value, None, readable[n]) for n, value in line(I64(0)).items()}

                def below(row: ir.Value) -> None:
                    for n, value in line(row).items():
                        stacks[n].take(value, None, readable[n])

                later(below)
                first, *others = taps_of({n: e.get(stack.slot) for n, stack in stacks.items()})
                total = Cells(e, what, first)
                for value in others:
                    total.take(value)
            divisor = None
            if what == AVERAGE:
                divisor = builder.fmul(e.splat(e.number(row_counts, out_row)), divisors)
            value = total.result(divisor)
            to = e.add(e.mul(out_row, out_w), j)
            left = e.sub(out_w, j)
            if some is None:
                e.store(value, y, to)
            else:
                e.store_first(value, e.place(y, to), left, some)
            if what == MAX_INDEXED:
                store_indices(e, e.get(total.where), e.place(indices, to), None if some is None else left, some)

        # Vectors of columns; the last one overlaps the one before it. Those inside come row by row, of the others what
        # lies inside is the same in all rows.
        final = e.sub(out_w, lanes)
        tiles = e.quotient(e.add(out_w, lanes - 1), lanes)
        first_free = e.quotient(e.add(begin, step - 1), step)
        last_free = e.least(final, e.quotient(e.sub(end, reach), step))
        before = e.quotient(e.add(first_free, lanes - 1), lanes)
        inner = e.most(e.add(e.quotient(e.sub(last_free, e.mul(before, lanes)), lanes), 1), 0)
        after = e.mul(e.add(before, inner), lanes)
        free = e.both(e.less(final, e.add(last_free, 1)), e.less(first_free, e.add(final, 1)))
        inner = e.add(inner, builder.zext(e.both(free, e.less(after, out_w)), I64))
        with e.loop(count) as row:
            window = windows(row.index)
            with e.loop(inner) as tile:
                j = e.least(e.mul(e.add(before, tile.index), lanes), final)
                vector(j, row.index, window, lambda *_: None, None, e.load(counts, j) if what == AVERAGE else None)
        with e.loop(tiles) as tile, e.when(
            builder.or_(e.less(tile.index, before), e.less(e.sub(e.add(before, inner), 1), tile.index))
        ):
            j = e.most(e.least(e.mul(tile.index, lanes), final), 0)
            cell = e.mul(j, step)
            some = e.lanes_between(0, e.sub(out_w, j))
            bounds = [spread_index(e, e.most(e.least(e.sub(n, cell), 1 << 20), -(1 << 20))) for n in (begin, end)]
            masks = {}
            for start, stride in [*((n, 1) for n in starts), *((b, step) for b in range(wide))]:
                lane = spread_index(e, I64(start), stride)
                low, high = e.at.icmp_signed(">=", lane, bounds[0]), e.at.icmp_signed("<", lane, bounds[1])
                masks[start, stride] = e.at.and_(low, high)
            divisors = e.load(counts, j, some) if what == AVERAGE else None
            with e.loop(count) as row:
                vector(j, row.index, windows(row.index), lambda *at: masks[at], some, divisors)

    return signature, outlined(f"pool_rows_{what}_{wide}_{step}", body)


# --------------------------------------------------------------------------------------------------------
# Gradients


@intrinsic
def select_pixels(
    typingctx, dy, ds, indices, js, dx, xs, columns, cs, row0, rows, in_w, out_w, channels
):  # fmt: skip
    """NHWC: of windows that do not overlap, a row: dy to the cell that the index names, 0 to the window's others.

    Returns whether some index named none of its window's cells. columns : as of pool_pixels.
    """
    i8 = types.int64
    signature = types.int64(dy, i8, indices, i8, dx, i8, columns, i8, *[i8] * 5)

    def body(builder, kinds, dy, indices, dx, columns, row0, rows, in_w, out_w, channels):
        e = Emitter(builder, scalar_type(kinds[0]))
        missed = e.variable(I64(0))
        with e.loop(out_w) as pixel:
            window = e.place(columns, e.mul(pixel.index, 2))
            column0, width = e.number(window, 0), e.number(window, 1)
            out = e.mul(pixel.index, channels)

            def tile(c: ir.Value, vectors: int, count: ir.Value | None) -> None:
                only = None if count is None else e.lanes_between(0, count)
                at = e.add(out, c)
                grads = [e.load(dy, e.add(at, v * e.lanes), only) for v in range(vectors)]
                where = [load_indices(e, e.place(indices, e.add(at, v * e.lanes)), only) for v in range(vectors)]
                found = [e.variable(ir.Constant(ir.VectorType(BIT, e.lanes), None)) for _ in range(vectors)]
                with e.loop(rows) as row:
                    first = e.add(e.mul(e.add(row0, row.index), in_w), column0)
                    with e.loop(width) as column:
                        cell = e.add(first, column.index)
                        number = spread_index(e, cell)
                        for v in range(vectors):
                            here = e.at.icmp_signed("==", where[v], number)
                            e.set(found[v], e.at.or_(e.get(found[v]), here))
                            place = e.place(dx, e.add(e.add(e.mul(cell, channels), c), v * e.lanes))
                            if count is None:
                                e.store(e.only(grads[v], here), place)
                            else:
                                e.store_first(e.only(grads[v], here), place, count, only)
                for slot in found:
                    bad = e.at.not_(e.get(slot))
                    note(e, bad if only is None else e.at.and_(bad, only), missed)

            each_channel_tile(e, channels, 2, tile)
        return e.get(missed)

    return signature, outlined("pool_select_pixels", body)


def note(e: Emitter, lanes: ir.Value, slot: ir.Value) -> None:
    """Makes a number 1 if any lane is set."""
    bits = e.at.bitcast(lanes, ir.IntType(e.lanes))
    any_ = e.at.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))
    e.set(slot, e.at.or_(e.get(slot), e.at.zext(any_, I64)))


def store_pair(e: Emitter, even: ir.Value, odd: ir.Value, pointer: ir.Value, count: ir.Value | None) -> None:
    """even and odd lanes by turns, the first `count` of both (None: all)."""
    for half in range(2):
        order = [half * e.lanes // 2 + n // 2 + n % 2 * e.lanes for n in range(e.lanes)]
        value, place = e.shuffle(even, odd, order), e.place(pointer, half * e.lanes)
        if count is None:
            e.store(value, place)
        else:
            left = e.sub(count, half * e.lanes)
            with e.when(e.less(0, left)):
                e.store_first(value, place, left, e.lanes_between(0, left))


def each_vector(e: Emitter, width: ir.Value, columns: Callable[[ir.Value, Any], None]) -> None:
    """Calls columns(j, None) for whole vectors of a row, of which the last overlaps; (0, width) of a shorter row."""
    with e.either(e.less(width, e.lanes)) as (short, long):
        with long, e.loop(e.at.sdiv(e.add(width, e.lanes - 1), I64(e.lanes))) as number:
            columns(e.least(e.mul(number.index, e.lanes), e.sub(width, e.lanes)), None)
        with short:
            columns(I64(0), width)


@intrinsic
def select_2x2(typingctx, dy, ds, indices, js, dx, xs, in_w, out_w, corner, cells):
    """NCHW: as select_pixels, two rows under a row of windows of 2 x 2 at stride 2, the first at index `corner` of the
    `cells` of a plane. Zeros may be written to what follows in it."""
    i8 = types.int64
    signature = types.int64(dy, i8, indices, i8, dx, i8, i8, i8, i8, i8)

    def body(builder, kinds, dy, indices, dx, in_w, out_w, corner, cells):
        e = Emitter(builder, scalar_type(kinds[0]))
        missed = e.variable(I64(0))

        def columns(j: ir.Value, count: ir.Value | None) -> None:
            only = None if count is None else e.lanes_between(0, count)
            grad = e.load(dy, j, only)
            where = load_indices(e, e.place(indices, j), only)
            found = []
            for row in range(2):
                first = e.add(e.add(corner, e.mul(j, 2)), e.mul(in_w, row))
                hits = [e.at.icmp_signed("==", where, spread_index(e, e.add(first, n), 2)) for n in range(2)]
                place = e.place(dx, e.add(e.mul(in_w, row), e.mul(j, 2)))
                even, odd = (e.only(grad, hit) for hit in hits)
                found += hits
                room = e.sub(cells, e.add(corner, e.mul(in_w, row)))
                store_pair(e, even, odd, place, None if count is None else e.least(room, 2 * e.lanes))
            some = e.at.or_(e.at.or_(*found[:2]), e.at.or_(*found[2:]))
            bad = e.at.not_(some)
            note(e, bad if only is None else e.at.and_(bad, only), missed)

        each_vector(e, out_w, columns)
        return e.get(missed)

    return signature, outlined("pool_select_2x2", body)


@intrinsic
def spread_2x2(typingctx, dy, ds, dx, xs, in_w, out_w, share):
    """NCHW: dy * share to all cells of a row of windows of 2 x 2 at stride 2."""
    i8 = types.int64
    signature = types.void(dy, i8, dx, i8, i8, i8, dy.dtype)

    def body(builder, kinds, dy, dx, in_w, out_w, share):
        e = Emitter(builder, scalar_type(kinds[0]))

        def columns(j: ir.Value, count: ir.Value | None) -> None:
            only = None if count is None else e.lanes_between(0, count)
            value = builder.fmul(e.load(dy, j, only), e.splat(share))
            for row in range(2):
                place = e.place(dx, e.add(e.mul(in_w, row), e.mul(j, 2)))
                store_pair(e, value, value, place, None if count is None else e.mul(count, 2))

        each_vector(e, out_w, columns)

    return signature, outlined("pool_spread_2x2", body)


@intrinsic
def spread_pixels(
    typingctx, dy, ds, dx, xs, over, os, row_shares, rs, column_shares, cs, row0, row1, in_w, out_w, channels
):  # fmt: skip
    """NHWC: a row of the gradient of an average: each cell the sum of its shares of the windows over it.

    Rows row0..row1 of windows lie over the row; over : [first, end] of those over each column; shares: of a row and of
    a column of windows.
    """
    i8 = types.int64
    signature = types.void(dy, i8, dx, i8, over, i8, row_shares, i8, column_shares, i8, *[i8] * 5)

    def body(builder, kinds, dy, dx, over, row_shares, column_shares, row0, row1, in_w, out_w, channels):
        e = Emitter(builder, scalar_type(kinds[0]))
        rows = e.sub(row1, row0)
        with e.loop(in_w) as pixel:
            window = e.place(over, e.mul(pixel.index, 2))
            column0, column1 = e.number(window, 0), e.number(window, 1)
            width, out = e.sub(column1, column0), e.mul(pixel.index, channels)

            def shares_of(i: ir.Value, j: ir.Value) -> tuple[ir.Value, ir.Value]:
                """Where a window's gradients begin, and the share of each that a cell has."""
                share = builder.fmul(e.number(row_shares, i), e.number(column_shares, j))
                return e.place(dy, e.mul(e.add(e.mul(i, out_w), j), channels)), e.splat(share)

            def tile(c: ir.Value, vectors: int, count: ir.Value | None, only_one: bool) -> None:
                only = None if count is None else e.lanes_between(0, count)
                if only_one:
                    grads, share = shares_of(row0, column0)
                    sums = [builder.fmul(e.load(grads, e.add(c, v * e.lanes), only), share) for v in range(vectors)]
                else:
                    totals = [e.variable(e.zeros()) for _ in range(vectors)]
                    with e.loop(rows) as row:
                        line = [e.variable(e.zeros()) for _ in range(vectors)]  # sums in two levels round less
                        with e.loop(width) as column:
                            grads, share = shares_of(e.add(row0, row.index), e.add(column0, column.index))
                            for v in range(vectors):
                                e.multiply_add(line[v], e.load(grads, e.add(c, v * e.lanes), only), share)
                        for v in range(vectors):
                            e.set(totals[v], builder.fadd(e.get(totals[v]), e.get(line[v])))
                    sums = [e.get(total) for total in totals]
                for v in range(vectors):
                    place = e.place(dx, e.add(e.add(out, c), v * e.lanes))
                    if count is None:
                        e.store(sums[v], place)
                    else:
                        e.store_first(sums[v], place, count, only)

            single = e.both(e.at.icmp_signed("==", rows, I64(1)), e.at.icmp_signed("==", width, I64(1)))
            with e.either(single) as (one, several):
                with one:
                    each_channel_tile(e, channels, VECTORS, partial(tile, only_one=True))
                with several:
                    each_channel_tile(e, channels, VECTORS, partial(tile, only_one=False))

    return signature, outlined("pool_spread_pixels", body)


@intrinsic(prefer_literal=True)
def spread_rows(
    typingctx, k, s, odd, dy, ds, dx, xs, over, os, row_shares, rs, column_shares, cs, count, in_w, out_w, shift
):  # fmt: skip
    """NCHW: `count` rows of the gradient of an average, as spread_pixels, of windows of k columns at stride s (1 or 2).

    odd : whether the padding is odd, at stride 2; shift : padding // s. over : [first, end] of the rows of windows over
    each row of cells.
    """
    i8 = types.int64
    signature = types.void(
        k, s, odd, dy, i8, dx, i8, over, i8, row_shares, i8, column_shares, i8, *[i8] * 4
    )  # fmt: skip
    wide, step, uneven = k.literal_value, s.literal_value, odd.literal_value

    def body(builder, kinds, _k, _s, _odd, dy, dx, over, row_shares, column_shares, count, in_w, out_w, shift):
        e = Emitter(builder, scalar_type(kinds[3]))
        lanes = e.lanes
        # Cell step * u + n, counted from the padding's begin, lies under windows u + shift + d for these d.
        offsets = []
        for n in range(step):
            ahead, phase = divmod(n + uneven, step)
            offsets.append([ahead - tap // step for tap in range(phase, wide, step)])
        distinct = sorted({d for of_cell in offsets for d in of_cell})

        def columns(u: ir.Value, edge: bool) -> None:
            first = e.add(u, shift)
            ends = {d: (e.sub(I64(-d), first), e.sub(e.sub(out_w, d), first)) for d in distinct}
            masks = {d: e.lanes_between(*ends[d]) if edge else None for d in distinct}
            shares = {d: e.load(column_shares, e.add(first, d), masks[d]) for d in distinct}
            with e.loop(count) as row:
                window = e.place(over, e.mul(row.index, 2))
                row0, row1 = e.number(window, 0), e.number(window, 1)
                sums = {d: e.variable(e.zeros()) for d in distinct}
                with e.loop(e.sub(row1, row0)) as above:
                    i = e.add(row0, above.index)
                    share = e.splat(e.number(row_shares, i))
                    place = e.place(dy, e.add(e.mul(i, out_w), first))
                    for d in distinct:
                        e.multiply_add(sums[d], e.load(place, d, masks[d]), share)
                values = []
                for of_cell in offsets:
                    total = e.variable(e.zeros())
                    for d in of_cell:
                        e.multiply_add(total, e.get(sums[d]), shares[d])
                    values.append(e.get(total))
                at = e.add(e.mul(row.index, in_w), e.mul(u, step))
                left = e.sub(in_w, e.mul(u, step))
                if step == 2:
                    store_pair(e, values[0], values[1], e.place(dx, at), left if edge else None)
                elif edge:
                    e.store_first(values[0], e.place(dx, at), left, e.lanes_between(0, left))
                else:
                    e.store(values[0], dx, at)

        units = e.at.sdiv(e.add(in_w, step - 1), I64(step))
        with e.loop(builder.sdiv(e.add(units, lanes - 1), I64(lanes))) as tile:
            u = e.mul(tile.index, lanes)
            first = e.add(u, shift)
            inside = e.both(e.less(-1, e.add(first, distinct[0])), e.less(e.mul(e.add(u, lanes), step), e.add(in_w, 1)))
            inside = e.both(inside, e.less(e.add(first, distinct[-1] + lanes - 1), out_w))
            with e.either(inside) as (inner, rim):
                with inner:
                    columns(u, False)
                with rim:
                    columns(u, True)

    return signature, outlined(f"pool_spread_rows_{wide}_{step}_{uneven}", body)
