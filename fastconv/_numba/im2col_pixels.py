"""Where the rows and columns of the matrix lie that im2col never makes: of a block of pixels, under each tap."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.np import arrayobj

from fastconv._numba.emit import Emitter, Fields, Whole, plain
from fastconv._numba.moves import halve_block
from fastconv._numba.vector import BIT, I64, TILE_VECTORS, finish_block, intrinsic, outlined, scalar_type

# Columns of the table of pixels: their image, row and column of the first tap's place, destination.
BASE, ROW, COLUMN, TARGET = 0, 1, 2, 3
PIXEL = 4
# Columns of the table of taps: those of the filter, and of the source.
TAP = 4


class _Table:
    """The pixels of a block."""

    def __init__(self, e: Emitter, pointer: ir.Value) -> None:
        self.e = e
        self.pointer = pointer

    def get(self, pixel: Whole, what: int) -> Whole:
        return self.e.whole(self.e.number(self.pointer, pixel * PIXEL + what))


def _offsets(e: Emitter, taps: ir.Value, tap: Whole) -> tuple[Whole, Whole]:
    """Source row and column of a tap, from those of the first pixel on."""
    row, column = (e.whole(e.number(taps, tap * TAP + n)) for n in (2, 3))
    return row, column


@intrinsic
def locate(typingctx, table, t, p, first, count):
    """Write the table of the output pixels first, ... in order of image, row and column. p : a Gather."""
    signature = types.void(table, types.int64, p, types.int64, types.int64)

    def body(builder, kinds, table, p, first, count):
        e = Emitter(builder, I64)
        p = Fields(builder, kinds[1], p)
        first, count = e.whole(first), e.whole(count)
        line = first // p.ow
        n, i, j = (e.variable(plain(v)) for v in (line // p.oh, line % p.oh, first % p.ow))
        with e.each(count) as q:
            image, row, column = (e.whole(e.get(v)) for v in (n, i, j))
            target = p.first + image * p.d_n + row * p.d_h + column * p.d_w
            for what, value in ((BASE, image * p.s_n), (ROW, row * p.sh), (COLUMN, column * p.sw), (TARGET, target)):
                builder.store(plain(value), e.place(table, q * PIXEL + what))
            row_ends = (column + 1).equals(p.ow)
            image_ends = e.both(row_ends, (row + 1).equals(p.oh))
            e.set(j, plain(e.whole(0).where(row_ends, column + 1)))
            e.set(i, plain(e.whole(0).where(image_ends, (row + 1).where(row_ends, row))))
            e.set(n, plain((image + 1).where(image_ends, image)))

    return signature, outlined("locate", body)


@intrinsic
def find_runs(typingctx, x, xs, panel, ps, runs, rs, table, ts, taps, us, p, group, pixels):
    """NHWC: runs[run][pixel] = where that pixel's run of input begins, in elements from x on. p : a Gather.

    A run that reaches into the padding is copied to the panel, whose first elements are a run (or vectors) of zeros.
    """
    i8 = types.int64
    signature = types.void(x, i8, panel, i8, runs, i8, table, i8, taps, i8, p, i8, i8)

    def body(builder, kinds, x, panel, runs, table, taps, p, group, pixels):
        e = Emitter(builder, scalar_type(kinds[0]))
        pixel_table, p = _Table(e, table), Fields(builder, kinds[5], p)
        group, pixels = e.whole(group), e.whole(pixels)
        nr, ins, together, channel = TILE_VECTORS * e.lanes, p.ins, p.together, group * p.ins
        length = together * ins
        to_panel = e.distance(x, panel)

        def clear(from_: Whole, count: Whole) -> None:
            with e.each(count, nr) as c:
                e.zero_block(e.place(panel, from_ + c), 0, 1, count - c)

        zeros = length.most(nr)
        clear(e.whole(0), zeros)
        free = e.variable(plain(zeros))
        with e.each(p.taps // together) as run, e.each(pixels) as q:
            th, tw = _offsets(e, taps, run * together)
            row, column = pixel_table.get(q, ROW) + th, pixel_table.get(q, COLUMN) + tw
            low, high = (e.whole(0) - column).most(0), together.least(p.iw - column)
            at = pixel_table.get(q, BASE) + row * p.s_h + column * p.s_w + channel
            found = e.variable(plain(to_panel))
            inside = e.both(e.both(row >= 0, row < p.ih), low < high)
            with e.when(inside), e.either((high - low).equals(together)) as (whole, part):
                with whole:
                    e.set(found, plain(at))
                with part:
                    here = e.whole(e.get(free))
                    e.set(found, plain(to_panel + here))
                    clear(here, length)
                    source, target = e.place(x, at + low * ins), e.place(panel, here + low * ins)
                    with e.each((high - low) * ins, nr) as c:
                        e.copy_block(e.place(source, c), 0, e.place(target, c), 0, 1, (high - low) * ins - c)
                    e.set(free, plain(here + length))
            builder.store(e.get(found), e.place(runs, run * p.block + q))

    return signature, outlined("find_runs", body)


@intrinsic
def unroll_columns(typingctx, x, xs, panel, ps, table, ts, taps, us, p, t0, t1, channel, count_c, pixels):
    """NCHW: panel[strip][channel][tap][pixel] of taps t0..t1 and `count_c` channels, strips of TILE_VECTORS vectors of
    pixels, zeros beyond the last. p : a Gather.
    """
    i8 = types.int64
    signature = types.void(x, i8, panel, i8, table, i8, taps, i8, p, i8, i8, i8, i8, i8)

    def body(builder, kinds, x, panel, table, taps, p, *wholes):
        e = Emitter(builder, scalar_type(kinds[0]))
        pixel_table, p = _Table(e, table), Fields(builder, kinds[4], p)
        t0, t1, channel, count_c, pixels = map(e.whole, wholes)
        nr, sw = TILE_VECTORS * e.lanes, p.sw
        depth, step = (t1 - t0) * count_c, (t1 - t0) * nr
        with e.each(pixels, nr) as first, e.each(t1 - t0) as t:
            count = (pixels - first).least(nr)
            th, tw = _offsets(e, taps, t0 + t)
            to = e.place(panel, first * depth + t * nr)
            with e.when(count < nr):
                e.zero_block(e.place(to, count), step, count_c, e.whole(nr) - count)
            done = e.variable(I64(0))
            with e.during(lambda: e.whole(e.get(done)) < count):
                # pixels of one row of the output: low of them in the padding, some inside, some not
                q = e.whole(e.get(done))
                out_column = pixel_table.get(first + q, COLUMN)
                length = (count - q).least(p.ow - out_column // sw)
                row, column = pixel_table.get(first + q, ROW) + th, out_column + tw
                inside = e.both(row >= 0, row < p.ih)
                # quotients of negative numbers, rounded up here, do not count
                low = ((sw - 1 - column) // sw).most(0).least(length).where(inside, length)
                high = ((p.iw - column + sw - 1) // sw).least(length).most(low).where(inside, length)
                here = e.place(to, q)
                with e.when(low > 0):
                    e.zero_block(here, step, count_c, low)
                with e.when(high > low):
                    at = pixel_table.get(first + q, BASE) + row * p.s_h + column + low * sw + channel * p.s_c
                    _copy_pixels(e, p, e.place(x, at), e.place(here, low), step, count_c, high - low)
                with e.when(length > high):
                    e.zero_block(e.place(here, high), step, count_c, length - high)
                e.set(done, plain(q + length))

    return signature, outlined("unroll_columns", body)


def _copy_pixels(
    e: Emitter, p: Fields, x: ir.Value, target: ir.Value, step: Whole, channels: Whole, count: Whole
) -> None:
    """target[c * step + i] = x[c * p.s_c + i * p.sw]."""
    with e.either(p.sw.equals(1)) as (dense, strided):
        with dense:
            e.copy_block(x, p.s_c, target, step, channels, count)
        with strided, e.either(p.sw.equals(2)) as (halves, other):
            with halves:
                halve_block(e, x, p.s_c, target, step, channels, count)
            with other, e.each(channels) as c, e.each(count) as i:
                e.at.store(e.number(x, c * p.s_c + i * p.sw), e.place(target, c * step + i))


@intrinsic
def store_columns(typingctx, sums, at, bias, o, residual, y, table, q, p, rows, count, low, high):
    """NCHW: finish `count` pixels, from q of the table on, of `rows` output channels from o on, by runs that are
    neighbours in y. p : a Gather; sums : rows p.block apart; bias and residual may be empty."""
    i8, bit, real = types.int64, types.boolean, sums.dtype
    kinds = (sums, i8, bias, i8, residual, i8, y, i8, table, i8, p, i8, i8, i8, bit, bit, real, real)

    def body(builder, given, sums, bias, residual, y, table, p, o, rows, count, has_bias, has_residual, low, high):
        e = Emitter(builder, scalar_type(given[0]))
        pixel_table, p = _Table(e, table), Fields(builder, given[5], p)
        o, rows, count = map(e.whole, (o, rows, count))
        zero, no = ir.Constant(e.scalar, 0.0), ir.Constant(BIT, 0)
        done = e.variable(I64(0))
        with e.during(lambda: e.whole(e.get(done)) < count):
            first = e.whole(e.get(done))
            to = pixel_table.get(first, TARGET)
            stop = e.variable(plain(first + 1))

            def follows() -> ir.Value:
                """Whether the next pixel is a neighbour; at the end the first one stands in, which is none."""
                here = e.whole(e.get(stop))
                inside = here < count
                target = pixel_table.get(here.where(inside, 0), TARGET)
                return e.both(inside, target.equals(to + here - first))

            with e.during(follows):
                e.set(stop, plain(e.whole(e.get(stop)) + 1))
            length = e.whole(e.get(stop)) - first
            with e.each(rows) as r:
                target = to + (o + r) * p.d_c
                addend = e.variable(zero)
                with e.when(has_bias):
                    e.set(addend, e.number(bias, r))
                finish_block(
                    builder, e.place(sums, r * p.block + first), y, no, e.get(addend), e.place(residual, target),
                    has_residual, e.place(y, target), plain(length), low, high,
                )  # fmt: skip
            e.set(done, e.get(stop))

    code = outlined("store_columns", body)

    def codegen(context, builder, sig, args):
        sums_, at, bias_, o, residual_, y_, table_, q, p_, rows, count, low, high = args
        some = [
            builder.icmp_signed(">", arrayobj.make_array(kind)(context, builder, value).nitems, I64(0))
            for kind, value in ((bias, bias_), (residual, residual_))
        ]
        entry = builder.mul(q, I64(PIXEL))
        arrays = sums_, at, bias_, o, residual_, I64(0), y_, I64(0), table_, entry
        values = (*arrays, p_, o, rows, count, *some, low, high)
        return code(context, builder, types.void(*kinds), values)

    return types.void(sums, i8, bias, i8, residual, y, table, i8, p, i8, i8, real, real), codegen
