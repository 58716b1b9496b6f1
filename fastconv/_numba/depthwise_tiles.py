"""The register tiles of depthwise convolution and of its weight gradient, emitted for a filter and stride each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastconv._numba import blocking
from fastconv._numba.compile import jit
from fastconv._numba.emit import TRUE, Emitter
from fastconv._numba.integers import least, most, quotient
from fastconv._numba.vector import _REGISTERS, I32, I64, intrinsic, outlined, scalar_type

# Of a tile in NHWC: columns, and vectors of channels: two fill a cache line of AVX2, and hide the latency of sums.
COLUMNS = 8 if _REGISTERS == 32 else 4
VECTORS = 2
# Output rows of a tile in NCHW of filters of three rows; of larger ones, whose taps do not stay in registers.
ROWS = 14 if _REGISTERS == 32 else 4
ROWS_BY_2 = 8 if _REGISTERS == 32 else 4
LARGE_FILTER_ROWS = 8
LOW_ROWS = 7  # where a plane has no more
# What a strip in NHWC may lack.
INNER, RIM, MASKED = 0, 1, 2
# Rows of outputs of a tile of the weight gradient in NCHW.
WEIGHT_ROWS = 4
# Numbers of a tap in a table of taps_of_plane.
TAP = blocking.DEPTHWISE_TAP

# --------------------------------------------------------------------------------------------------------
# Forward and input gradient. A table says which cells are taken,
# rows of [first cell in the source, first weight, begin, end]:
# cells begin..end of the row lie in the image, counted from the first output's.


@intrinsic(prefer_literal=True)
def strips(
    typingctx, kw, sw, edge, x, xs, w, ws, bias, bs, residual, rs, y, ys, table, ts, count, in_step, w_step, out_step,
    channels, first, strips, columns, has_bias, has_residual, aligned, low, high
):  # fmt: skip
    """NHWC: y = clamp(bias + sums + residual) for all channels of some strips of COLUMNS pixels, `first` pixels from y.

    `edge` of INNER, RIM (there may be fewer `columns`, and cells in the padding) and MASKED (and any number of
    channels; else there are whole tiles of them, some of which are computed twice).
    """
    i8, bit, real = types.int64, types.boolean, x.dtype
    signature = types.void(
        kw, sw, edge, x, i8, w, i8, bias, i8, residual, i8, y, i8, table, i8, i8, i8, i8, i8,
        i8, i8, i8, i8, bit, bit, bit, real, real
    )  # fmt: skip
    wide, step = kw.literal_value, sw.literal_value
    rim, masked = edge.literal_value != INNER, edge.literal_value == MASKED
    vectors = 1 if masked else VECTORS

    def body(
        builder, kinds, _kw, _sw, _edge, x, w, bias, residual, y, table, count, in_step, w_step, out_step,
        channels, first, strips, columns, has_bias, has_residual, aligned, low, high
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[3]))
        lanes, tile = e.lanes, vectors * e.lanes
        low, high = e.splat(low), e.splat(high)
        # Tiles begin at the cache lines of y, all but the first and the last: those before it come twice.
        size = 4 if isinstance(e.scalar, ir.FloatType) else 8
        beyond = builder.and_(builder.udiv(builder.ptrtoint(y, I64), I64(size)), I64(tile - 1))
        back = builder.select(aligned, beyond, I64(0))
        tiles = builder.sdiv(e.add(e.add(channels, back), tile - 1), I64(tile))
        with e.loop(strips) as strip:
            pixel = e.add(first, e.mul(strip.index, COLUMNS))
            x_strip = e.place(x, e.mul(e.mul(pixel, step), in_step))
            shift = e.mul(pixel, out_step)
            begin = e.mul(pixel, step)
            with e.loop(tiles) as channel:
                c = e.most(e.sub(e.mul(channel.index, tile), back), 0)
                only = None
                left = e.sub(channels, c)
                if masked:
                    only = e.lanes_between(0, left)
                else:
                    c = e.least(c, e.sub(channels, tile))
                start = [e.zeros()] * vectors
                bias_at = e.place(bias, e.at.select(has_bias, c, I64(0)))
                no_bias = e.zeros()
                sums = []
                for v in range(vectors):
                    slot = e.variable(no_bias)
                    with e.when(has_bias):
                        e.set(slot, e.load(bias_at, v * lanes, only))
                    start[v] = e.get(slot)
                    sums.append([e.variable(start[v]) for _ in range(COLUMNS)])
                x_tile, w_tile = e.place(x_strip, c), e.place(w, c)
                with e.loop(count) as row:
                    entry = e.place(table, e.mul(row.index, 4))
                    x_row = e.place(x_tile, e.number(entry, 0))
                    w_row = e.place(w_tile, e.number(entry, 1))
                    low_cell = e.sub(e.number(entry, 2), begin)
                    high_cell = e.sub(e.number(entry, 3), begin)
                    for v in range(vectors):
                        taps = [e.load(w_row, e.add(e.mul(w_step, b), v * lanes), only) for b in range(wide)]
                        for cell in range((COLUMNS - 1) * step + wide):
                            users = [j for j in range(COLUMNS) if 0 <= cell - j * step < wide]

                            def use(v: int = v, cell: int = cell, users: list[int] = users, taps: Any = taps) -> None:
                                value = e.load(x_row, e.add(e.mul(in_step, cell), v * lanes), only)
                                for j in users:
                                    e.multiply_add(sums[v][j], value, taps[cell - j * step])

                            if rim:
                                with e.when(e.inside(low_cell, cell, high_cell)):
                                    use()
                            else:
                                use()
                y_tile, residual_tile = e.place(y, e.add(shift, c)), e.place(residual, e.add(shift, c))
                with e.when(has_residual):
                    for v in range(vectors):
                        for j in range(COLUMNS):
                            with e.when(e.less(j, columns) if rim else TRUE):
                                more = e.load(residual_tile, e.add(e.mul(out_step, j), v * lanes), only)
                                e.set(sums[v][j], e.at.fadd(e.get(sums[v][j]), more))
                for j in range(COLUMNS):
                    for v in range(vectors):
                        value = e.clamp(e.get(sums[v][j]), low, high)
                        place = e.place(y_tile, e.add(e.mul(out_step, j), v * lanes))
                        with e.when(e.less(j, columns) if rim else TRUE):
                            if masked:
                                e.store_first(value, place, left, only)
                            else:
                                e.store(value, place)

    return signature, outlined(f"depthwise_strips_{wide}_{step}_{edge.literal_value}", body)


def reach_of(lanes: int, wide: int, step: int) -> int:
    """Columns that are loaded for a vector of outputs."""
    return lanes + wide - 1 if step == 1 else 2 * lanes + wide - 2


def each_tile(
    e: Emitter, left: ir.Value, out_w: ir.Value, begin: ir.Value, end: ir.Value, wide: int, step: int,
    columns: Callable[[ir.Value, bool], None],
) -> None:  # fmt: skip
    """Calls columns(j, False) for whole vectors of outputs whose cells lie in begin..end, columns(j, True) for others.

    Those inside are a loop of their own: so the registers are allocated for them.
    """
    j = e.variable(I64(0))
    with e.during(lambda: e.less(e.get(j), out_w)):
        at = e.get(j)
        cell = e.add(e.mul(at, step), left)
        room = e.sub(e.sub(end, cell), reach_of(e.lanes, wide, step))
        most = e.at.sdiv(e.sub(out_w, at), I64(e.lanes))
        run = e.least(e.add(e.quotient(room, e.lanes * step), 1), most)
        inside = e.both(e.less(e.sub(begin, 1), cell), e.less(0, run))
        with e.either(inside) as (inner, rim):
            with inner:
                with e.loop(run) as tile:
                    columns(e.add(at, e.mul(tile.index, e.lanes)), False)
                e.set(j, e.add(at, e.mul(run, e.lanes)))
            with rim:
                columns(at, True)
                e.set(j, e.add(at, e.lanes))


@jit
def columns_inside(p, column):
    """First of the outputs of a row whose cell under the tap at `column` lies inside, and their end."""
    return most(0, quotient(p.sw - 1 - column, p.sw)), least(p.ow, quotient(p.iw - 1 - column, p.sw) + 1)


def masks_of(e: Emitter, begin: ir.Value, end: ir.Value, wide: int, step: int, edge: bool) -> dict[int, Any]:
    """Columns from which vectors of a row are loaded, and which lanes of them (None: all) lie in begin..end."""
    starts = range(wide) if step == 1 else (0, e.lanes)
    return {n: e.lanes_between(e.sub(begin, n), e.sub(end, n)) if edge else None for n in starts}


def cells_of(
    e: Emitter, row: ir.Value, begin: ir.Value, end: ir.Value, inside: dict[int, Any], wide: int, step: int
) -> list[ir.Value]:
    """The cells of a row under a vector of outputs, for each tap; those outside of begin..end are 0 and not read."""
    vectors = [e.load(row, n, only) for n, only in inside.items()]
    if step == 1:
        return vectors
    low, high = vectors
    cells = [e.shuffle(low, high, range(odd, 2 * e.lanes, 2)) for odd in (0, 1)]
    for b in range(2, wide):  # two columns further: those before, and one more
        at = 2 * e.lanes + b - 2
        if inside[0] is None:
            more = e.number(row, at)
        else:
            slot = e.variable(ir.Constant(e.scalar, 0.0))
            with e.when(e.inside(begin, at, end)):
                e.set(slot, e.number(row, at))
            more = e.get(slot)
        cells.append(e.shuffle(cells[b - 2], e.splat(more), range(1, e.lanes + 1)))
    return cells


@intrinsic(prefer_literal=True)
def planes(
    typingctx, k, s, tall, x, xs, w, ws, w_step, bias, residual, rs, y, ys, in_row, out_row, in_w, left, out_w,
    row0, row1, rows, has_residual, low, high
):  # fmt: skip
    """NCHW: all columns of up to `tall` rows of a plane, of a filter of k x k at stride s.

    x : where the first output's first tap is, perhaps outside: of the rows under the block row0..row1 lie inside.
    w : the first tap's weight, the others w_step elements from one to the next.
    """
    i8, bit, real = types.int64, types.boolean, x.dtype
    signature = types.void(
        k, s, tall, x, i8, w, i8, i8, real, residual, i8, y, i8, i8, i8, i8, i8, i8, i8, i8, i8, bit, real, real
    )  # fmt: skip
    wide, step, block = k.literal_value, s.literal_value, tall.literal_value
    large = wide > 3 and step == 1

    def body(
        builder, kinds, _k, _s, _most, x, w, w_step, bias, residual, y, in_row, out_row, in_w, left, out_w,
        row0, row1, rows, has_residual, low, high
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[3]))
        bias, low, high = e.splat(bias), e.splat(low), e.splat(high)
        # of a large filter one column of taps after the other is in registers
        taps = [e.splat(e.number(w, e.mul(w_step, n))) for n in range(0 if large else wide * wide)]

        def columns(j: ir.Value, edge: bool) -> None:
            begin = e.sub(I64(0), e.add(e.mul(j, step), left))
            end = e.add(begin, in_w)
            count = e.sub(out_w, j)
            first = e.place(x, e.mul(j, step))
            sums = [e.variable(bias) for _ in range(block)]
            if large:
                with e.loop(I64(wide)) as column:
                    b = column.index
                    places = [e.mul(w_step, e.add(b, h * wide)) for h in range(wide)]
                    of_column = [e.splat(e.number(w, place)) for place in places]
                    only = e.lanes_between(e.sub(begin, b), e.sub(end, b)) if edge else None
                    for r in range(block - 1 + wide):
                        with e.when(e.inside(row0, r, row1)):
                            cell = e.load(first, e.add(e.mul(in_row, r), b), only)
                            for i in range(block):
                                if 0 <= r - i < wide:
                                    e.multiply_add(sums[i], cell, of_column[r - i])
            else:
                inside = masks_of(e, begin, end, wide, step, edge)
                for r in range((block - 1) * step + wide):
                    with e.when(e.inside(row0, r, row1)):
                        row = e.place(first, e.mul(in_row, r))
                        for b, cell in enumerate(cells_of(e, row, begin, end, inside, wide, step)):
                            for i in range(block):
                                if 0 <= r - i * step < wide:
                                    e.multiply_add(sums[i], cell, taps[(r - i * step) * wide + b])
            some = e.lanes_between(0, count) if edge else None
            for i in range(block):
                with e.when(e.less(i, rows)):
                    place = e.add(e.mul(out_row, i), j)
                    with e.when(has_residual):
                        e.set(sums[i], e.at.fadd(e.get(sums[i]), e.load(residual, place, some)))
                    value = e.clamp(e.get(sums[i]), low, high)
                    if edge:
                        e.store_first(value, e.place(y, place), count, some)
                    else:
                        e.store(value, y, place)

        each_tile(e, left, out_w, I64(0), in_w, wide, step, columns)

    return signature, outlined(f"depthwise_planes_{wide}_{step}_{block}", body)


@intrinsic
def taps_of_plane(
    typingctx, x, xs, w, ws, bias, residual, rs, y, ys, table, ts, count, odd, os, odd_count, masks, ms,
    sh, in_row, in_h, out_row, out_h, out_w, odd_w, step, has_residual, low, high
):  # fmt: skip
    """NCHW: a plane of outputs `step` elements apart by any taps; and, if odd_w > 0, by other taps those between them.

    Rows of the tables: TAP numbers, columns begin..end of the outputs' rows, cells of the first row of the source.
    masks : room for a vector for each tap.
    """
    i8, bit, real = types.int64, types.boolean, x.dtype
    signature = types.void(
        x, i8, w, i8, real, residual, i8, y, i8, table, i8, i8, odd, i8, i8, masks, i8,
        i8, i8, i8, i8, i8, i8, i8, i8, bit, real, real
    )  # fmt: skip

    def body(
        builder, kinds, x, w, bias, residual, y, table, count, odd, odd_count, masks,
        sh, in_row, in_h, out_row, out_h, out_w, odd_w, step, has_residual, low, high
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[0]))
        lanes = e.lanes
        bias, low, high = e.splat(bias), e.splat(low), e.splat(high)
        pairs = e.less(0, odd_w)
        odd_masks = e.place(masks, e.mul(count, lanes))

        def mask_taps(j: ir.Value, table: ir.Value, count: ir.Value, masks: ir.Value, whole: ir.Value) -> None:
            with e.loop(count) as tap:
                entry = e.place(table, e.mul(tap.index, TAP))
                begin, end = e.sub(e.number(entry, 2), j), e.sub(e.number(entry, 3), j)
                e.store_mask(e.lanes_between(begin, end), e.place(masks, e.mul(tap.index, lanes)))
                inside = e.both(e.less(begin, 1), e.less(lanes - 1, end))
                e.set(whole, e.both(e.get(whole), inside))

        def add_taps(total, i, j, table, count, masks) -> None:
            with e.loop(count) as tap:
                entry = e.place(table, e.mul(tap.index, TAP))
                row = e.add(e.number(entry, 4), e.mul(i, sh))
                with e.when(e.both(e.less(-1, row), e.less(row, in_h))):
                    only = None if masks is None else e.load_mask(e.place(masks, e.mul(tap.index, lanes)))
                    at = e.add(e.add(e.number(entry, 0), j), e.mul(row, in_row))
                    e.multiply_add(total, e.load(x, at, only), e.splat(e.number(w, e.number(entry, 1))))

        def finish(value: ir.Value, at: ir.Value, count: ir.Value) -> None:
            """Outputs at `at`, ... next to each other."""
            some = e.lanes_between(0, count)
            slot = e.variable(value)
            with e.when(has_residual):
                e.set(slot, e.at.fadd(value, e.load(residual, at, some)))
            e.store_first(e.clamp(e.get(slot), low, high), e.place(y, at), count, some)

        def finish_apart(value: ir.Value, at: ir.Value, count: ir.Value) -> None:
            for lane in range(lanes):
                with e.when(e.less(lane, count)):
                    place = e.add(at, e.mul(step, lane))
                    slot = e.variable(builder.extract_element(value, I32(lane)))
                    with e.when(has_residual):
                        e.set(slot, builder.fadd(e.get(slot), e.number(residual, place)))
                    clamped = e.clamp(e.splat(e.get(slot)), low, high)
                    builder.store(builder.extract_element(clamped, I32(0)), e.place(y, place))

        with e.loop(builder.sdiv(e.add(out_w, lanes - 1), I64(lanes))) as tile:
            j = e.mul(tile.index, lanes)
            whole = e.variable(TRUE)
            mask_taps(j, table, count, masks, whole)
            mask_taps(j, odd, odd_count, odd_masks, whole)
            with e.loop(out_h) as row:
                even, uneven = e.variable(bias), e.variable(bias)
                with e.either(e.get(whole)) as (inner, rim):
                    with inner:
                        add_taps(even, row.index, j, table, count, None)
                        add_taps(uneven, row.index, j, odd, odd_count, None)
                    with rim:
                        add_taps(even, row.index, j, table, count, masks)
                        add_taps(uneven, row.index, j, odd, odd_count, odd_masks)
                begin = e.mul(row.index, out_row)
                with e.either(pairs) as (both, one):
                    with both:
                        width = e.add(out_w, odd_w)
                        for half in range(2):
                            order = [half * lanes // 2 + n // 2 + n % 2 * lanes for n in range(lanes)]
                            at = e.add(e.mul(j, 2), half * lanes)
                            with e.when(e.less(at, width)):
                                value = e.shuffle(e.get(even), e.get(uneven), order)
                                finish(value, e.add(begin, at), e.sub(width, at))
                    with one, e.either(builder.icmp_signed("==", step, I64(1))) as (near, apart):
                        with near:
                            finish(e.get(even), e.add(begin, j), e.sub(out_w, j))
                        with apart:
                            finish_apart(e.get(even), e.add(begin, e.mul(j, step)), e.sub(out_w, j))

    return signature, outlined("depthwise_taps_of_plane", body)


# --------------------------------------------------------------------------------------------------------
# Weight gradient. Padding counts: 0 * dy, which is NaN where dy is not finite.


@intrinsic(prefer_literal=True)
def weight_rows(
    typingctx, na, kw, sw, masked, x, xs, dy, ds, sums, ss, tap_rows, in_row, in_col, out_row, out_col,
    top, in_h, row_step, tap_step, begin, end, rows, out_w, channels
):  # fmt: skip
    """NHWC: sums[a][b][channel] += products of na x kw taps over some rows of dy; for whole vectors of the channels, or
    (masked) for those beyond them.

    x : column 0 of the first taps in row 0 of the image; `top` : the row under the first output and tap. Its columns
    begin..end lie in the image. Sums of a row of taps are `tap_rows`, of a tap `channels` pitched in `out_col`.
    """
    i8 = types.int64
    signature = types.void(na, kw, sw, masked, x, i8, dy, i8, sums, i8, *[i8] * 15)
    high, wide, step = na.literal_value, kw.literal_value, sw.literal_value
    tail = bool(masked.literal_value)

    def body(
        builder, kinds, _na, _kw, _sw, _masked, x, dy, sums, tap_rows, in_row, in_col, out_row, out_col,
        top, in_h, row_step, tap_step, begin, end, rows, out_w, channels
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[4]))
        lanes = e.lanes
        vectors = builder.sdiv(channels, I64(lanes))
        count = e.at.zext(e.less(e.mul(vectors, lanes), channels), I64) if tail else vectors
        with e.loop(count) as tile:
            c = e.mul(vectors if tail else tile.index, lanes)
            only = e.lanes_between(0, e.sub(channels, c)) if tail else None
            totals = [[e.variable(e.zeros()) for _ in range(wide)] for _ in range(high)]

            def add(row: ir.Value, j: ir.Value, pixels: int, rim: bool) -> None:
                """Products of `pixels` outputs from column j on; with `rim` columns may lie in the padding."""
                cells = e.place(dy, e.add(e.add(e.mul(row, out_row), e.mul(j, out_col)), c))
                grads = [e.load(cells, e.mul(out_col, n), only) for n in range(pixels)]
                first = e.mul(j, step)
                for a in range(high):
                    r = e.add(e.add(e.mul(row, row_step), top), e.mul(tap_step, a))
                    inside = e.both(e.less(-1, r), e.less(r, in_h))
                    with e.either(inside) as (here, padding):
                        with here:
                            x_row = e.place(x, e.add(e.add(e.mul(r, in_row), e.mul(first, in_col)), c))
                            for cell in range((pixels - 1) * step + wide):
                                if rim:
                                    slot = e.variable(e.zeros())
                                    at = e.add(first, cell)
                                    with e.when(e.both(e.less(e.sub(begin, 1), at), e.less(at, end))):
                                        e.set(slot, e.load(x_row, e.mul(in_col, cell), only))
                                    value = e.get(slot)
                                else:
                                    value = e.load(x_row, e.mul(in_col, cell), only)
                                for b in range(wide):
                                    n, between = divmod(cell - b, step)
                                    if between == 0 and 0 <= n < pixels:
                                        e.multiply_add(totals[a][b], value, grads[n])
                        with padding:
                            for grad in grads:
                                for b in range(wide):
                                    e.multiply_add(totals[a][b], e.zeros(), grad)

            with e.loop(rows) as row:
                j = e.variable(I64(0))
                reach = (COLUMNS - 1) * step + wide
                with e.during(lambda: e.less(e.get(j), out_w)):
                    at = e.get(j)
                    left = e.mul(at, step)
                    inner = e.both(e.less(e.sub(begin, 1), left), e.less(e.add(left, reach - 1), end))
                    inner = e.both(inner, e.less(e.add(at, COLUMNS - 1), out_w))
                    with e.either(inner) as (strip, single):
                        with strip:
                            add(row.index, at, COLUMNS, False)
                            e.set(j, e.add(at, COLUMNS))
                        with single:
                            add(row.index, at, 1, True)
                            e.set(j, e.add(at, 1))
            for a in range(high):
                for b in range(wide):
                    place = e.place(sums, e.add(e.add(e.mul(tap_rows, a), e.mul(out_col, b)), c))
                    value = e.at.fadd(e.load(place, 0, only), e.get(totals[a][b]))
                    if tail:
                        e.store_first(value, place, e.sub(channels, c), only)
                    else:
                        e.store(value, place)

    return signature, outlined(f"depthwise_weight_rows_{high}_{wide}_{step}_{int(tail)}", body)


@intrinsic(prefer_literal=True)
def weight_plane(
    typingctx, na, kw, s, x, xs, dy, ds, sums, ss, in_row, out_row, top, in_h, row_step, begin, end, out_h, out_w
):  # fmt: skip
    """NCHW: sums[a][b][lane] += products of na x kw taps over a plane of dy; vectors are columns.

    x, begin, end : as of `weight_rows`, the columns of tap 0; `row_step` : rows of x from output to output.
    """
    i8 = types.int64
    signature = types.void(na, kw, s, x, i8, dy, i8, sums, i8, *[i8] * 9)
    high, wide, step = na.literal_value, kw.literal_value, s.literal_value

    def body(
        builder, kinds, _na, _kw, _s, x, dy, sums, in_row, out_row, top, in_h, row_step, begin, end, out_h, out_w
    ):  # fmt: skip
        e = Emitter(builder, scalar_type(kinds[3]))
        lanes = e.lanes
        totals = [[e.variable(e.load(sums, (a * wide + b) * lanes)) for b in range(wide)] for a in range(high)]

        def add(i: ir.Value, j: ir.Value, rows: int, edge: bool) -> None:
            """Products of a vector of columns of `rows` rows; at an edge some may be missing, or in the padding."""
            some = e.lanes_between(0, e.sub(out_w, j)) if edge else None
            grads = [e.load(dy, e.add(e.mul(e.add(i, n), out_row), j), some) for n in range(rows)]
            first = e.mul(j, step)
            limits = e.sub(begin, first), e.sub(end, first)
            inside = masks_of(e, *limits, wide, step, edge)
            for r in range((rows - 1) * step + high):
                row = e.add(e.add(e.mul(i, row_step), top), r)
                users = [n for n in range(rows) if 0 <= r - n * step < high]
                with e.either(e.both(e.less(-1, row), e.less(row, in_h))) as (here, padding):
                    with here:
                        x_row = e.place(x, e.add(e.mul(row, in_row), first))
                        for b, cell in enumerate(cells_of(e, x_row, *limits, inside, wide, step)):
                            for n in users:
                                value = e.only(cell, some) if edge else cell
                                e.multiply_add(totals[r - n * step][b], value, grads[n])
                    with padding:
                        for b in range(wide):
                            for n in users:
                                e.multiply_add(totals[r - n * step][b], e.zeros(), grads[n])

        def row_of_tiles(i: ir.Value, rows: int) -> None:
            each_tile(e, I64(0), out_w, begin, end, wide, step, lambda j, edge: add(i, j, rows, edge))

        together = WEIGHT_ROWS if wide > 1 else 1  # of a single tap rows may lie anywhere
        blocks = builder.sdiv(out_h, I64(together))
        with e.loop(blocks) as block:
            row_of_tiles(e.mul(block.index, together), together)
        if together > 1:
            done = e.mul(blocks, together)
            with e.loop(e.sub(out_h, done)) as row:
                row_of_tiles(e.add(done, row.index), 1)
        for a in range(high):
            for b in range(wide):
                e.store(e.get(totals[a][b]), sums, (a * wide + b) * lanes)

    return signature, outlined(f"depthwise_weight_plane_{high}_{wide}_{step}", body)
