"""The weight gradient as GEMM without the matrix: dw[o][t, c] = sum over pixels of dy[pixel][o] * x[pixel under t][c].

Columns of the micro-kernel are output channels: a panel of them, pixel after pixel, is packed from dy. Rows are input
channels under one tap, read from a copy of some rows of x with their padding: pixel after pixel in NHWC (of a panel of
as many channels as a tile has rows, so that pixels lie close together), channel after channel in NCHW. The taps are
places in that copy. Of few channels the taps of a filter row are rows too, as their channels follow each other.

The pixels go in blocks of whole output rows: partial sums stay short. A task is a panel of output channels, so each sum
is one task's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat, layout_flags, strides
from fastconv._numba.compile import jit, kernel
from fastconv._numba.emit import Emitter, Fields, Whole, plain
from fastconv._numba.gemm import TILE_ROWS, columns, height
from fastconv._numba.integers import least, most, quotient, remainder, stride_of
from fastconv._numba.tasks import claim, run_phases
from fastconv._numba.vector import (
    BIT,
    I64,
    TILE_HEIGHTS,
    TILE_VECTORS,
    copy_rows,
    distance,
    get,
    intrinsic,
    numbers,
    outlined,
    panel_columns,
    put,
    scalar_type,
    transpose_run,
    transposed,
    vector_lanes,
    zero_rows,
)

Array = np.ndarray


@intrinsic
def gemm_pixels(typingctx, a, a_start, table, ts, runs, depth, a_step, row_step, b, bs, c, cs, rs_c, rows, accumulate):
    """C[i][j] (+)= sum over runs r and k < depth of a[table[r] + k * a_step + i * row_step] * B[r * depth + k][j].

    B : rows of TILE_VECTORS vectors, one after the other; C : full rows rs_c apart, of `rows`, one of TILE_HEIGHTS.
    """
    i8 = types.int64
    signature = types.void(a, i8, table, i8, i8, i8, i8, i8, b, i8, c, i8, i8, i8, types.boolean)

    def body(builder, kinds, a, table, runs, depth, a_step, row_step, b, c, rs_c, rows, accumulate):
        scalar = scalar_type(kinds[0])
        end = builder.append_basic_block("end")
        switch = builder.switch(rows, end)
        for count in TILE_HEIGHTS:
            block = builder.append_basic_block(f"rows.{count}")
            switch.add_case(I64(count), block)
            with builder.goto_block(block):
                builder.call(
                    _tile(builder.module, scalar, count),
                    [a, table, runs, depth, a_step, row_step, b, c, rs_c, accumulate],
                )
                builder.branch(end)
        builder.position_at_end(end)

    return signature, outlined("gemm_pixels", body)


def _tile(module: ir.Module, scalar: ir.Type, rows: int) -> ir.Function:
    """The function of a tile of so many rows: of its own, so the registers are allocated for it."""
    name = f"gemm_pixels_{rows}_{scalar}__numba"
    if name in module.globals:
        return module.globals[name]
    pointer = scalar.as_pointer()
    kinds = [pointer, I64.as_pointer(), I64, I64, I64, I64, pointer, pointer, I64, BIT]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, table, runs, depth, a_step, row_step, b, c, rs_c, accumulate = function.args
    e = Emitter(ir.IRBuilder(function.append_basic_block("entry")), scalar)
    each = range(TILE_VECTORS)
    steps = [e.mul(row_step, i) for i in range(rows)]
    sums = [[e.variable(e.zeros()) for _ in each] for _ in range(rows)]
    b_row = e.variable(b)
    with e.loop(runs) as run:
        place = e.variable(e.place(a, e.number(table, run.index)))
        with e.loop(depth):
            here, b_here = e.get(place), e.get(b_row)
            b_values = [e.load(b_here, v * e.lanes) for v in each]
            for i in range(rows):
                value = e.splat(e.number(here, steps[i]))
                for v in each:
                    e.multiply_add(sums[i][v], value, b_values[v])
            e.set(place, e.place(here, a_step))
            e.set(b_row, e.place(b_here, TILE_VECTORS * e.lanes))
    targets = [[e.add(e.mul(rs_c, i), v * e.lanes) for v in each] for i in range(rows)]
    with e.when(accumulate):
        for i in range(rows):
            for v in each:
                e.set(sums[i][v], e.at.fadd(e.load(c, targets[i][v]), e.get(sums[i][v])))
    for i in range(rows):
        for v in each:
            e.store(e.get(sums[i][v]), c, targets[i][v])
    e.at.ret_void()
    return function


class Gradient(NamedTuple):
    """The numbers of one weight gradient; strides (s_ x, d_ dy) in elements."""

    mb: int
    groups: int
    outs: int
    ins: int
    kh: int
    kw: int
    ih: int
    iw: int
    s_n: int
    s_c: int
    s_h: int
    s_w: int
    oh: int
    ow: int
    d_n: int
    d_c: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    rows: int  # output rows of a block
    channels: int  # input channels of a copy
    panel: int  # of those that lie together, pixel after pixel; 0: channel after channel
    width: int  # columns of the copy, and which of x they are: step * column - pw
    step: int
    image_rows: int  # rows of the copy under an output row, and from output row to output row
    row_step: int
    sums: int  # elements of the workspace that all share; then those of a thread, of them its copy, and its table
    own: int
    copy: int
    table: int
    by_tap: int  # order of the sums: [panel][tap][channel], else [panel][channel][tap]


gradient_numbers = numbers(Gradient)


@jit
def list_rows(table, place, p, first, count):
    """The places of the runs of `count` output rows in the copy, in cells; and returns the rows of the copy."""
    rows = 0
    i = remainder(first, p.oh)
    for r in range(count):
        if r > 0 and i > 0:
            rows += p.row_step - p.image_rows  # the copies of neighbours overlap, or leave out rows
        put(table, place + r, rows * p.width)
        rows += p.image_rows
        i = i + 1 if i + 1 < p.oh else 0
    return rows


@intrinsic
def copy_image(
    typingctx, x, xs, copy, place, table, at, nhwc, nchw, p, group, c0, channels, first, count, cells
):  # fmt: skip
    """The rows of x under `count` output rows, with zeros for the padding; neighbours share those under both.

    p : a Gradient; table : the places of the runs of these output rows, as list_rows gives them.
    """
    i8 = types.int64
    signature = types.void(x, i8, copy, i8, table, i8, nhwc, nchw, p, i8, i8, i8, i8, i8, i8)

    def body(builder, kinds, x, copy, table, _, p, *wholes):
        e = Emitter(builder, scalar_type(kinds[0]))
        p = Fields(builder, kinds[4], p)
        group, c0, channels, first, count, cells = map(e.whole, wholes)
        copy_line = _line_of_pixels if nhwc != types.none else _line_of_channels
        columns, step = p.width, p.step
        low = columns.least((p.pw + step - 1) // step)
        high = columns.least((p.iw + p.pw - 1) // step + 1).most(low)
        done = e.variable(I64(0))
        with e.each(count) as r:
            n, i = (first + r) // p.oh, (first + r) % p.oh
            begin = e.whole(e.number(table, r)) // columns
            known = (e.whole(e.get(done)) - begin).most(0)
            with e.each(p.image_rows - known) as later:
                k = known + later
                row = i * p.sh - p.ph + k
                inside = e.both(row >= 0, row < p.ih)
                start, end = low.where(inside, columns), high.where(inside, columns)
                source = n * p.s_n + row * p.s_h + (start * step - p.pw) * p.s_w + (group * p.ins + c0) * p.s_c
                copy_line(e, p, e.place(x, source), copy, (begin + k) * columns, start, end, channels, cells)
            e.set(done, plain(begin + p.image_rows))

    return signature, outlined(f"copy_image_{'nchw' if nhwc == types.none else 'nhwc'}", body)


def _line_of_pixels(
    e: Emitter, p: Fields, x: ir.Value, copy: ir.Value, cell: Whole, start: Whole, end: Whole, channels: Whole,
    cells: Whole,
) -> None:  # fmt: skip
    """NHWC: columns start..end of a line, pixel after pixel, of each panel of channels."""
    size = p.panel
    with e.each((channels + size - 1) // size) as part:
        c = part * size
        to = e.place(copy, c * cells + cell * size)
        _clear_around(e, to, size, start, end, p.width)
        inside, width = e.place(to, start * size), size.least(channels - c)
        with e.each(width, TILE_VECTORS * e.lanes) as m:  # of short vectors a panel may take more than one block
            e.copy_block(e.place(x, c + m), p.step * p.s_w, e.place(inside, m), size, end - start, width - m)


def _line_of_channels(
    e: Emitter, p: Fields, x: ir.Value, copy: ir.Value, cell: Whole, start: Whole, end: Whole, channels: Whole,
    cells: Whole,
) -> None:  # fmt: skip
    """NCHW: channel after channel, or, of few channels, pixel after pixel."""
    few = p.panel > 0
    size, apart = p.panel.most(1), e.whole(1).where(few, cells)  # from pixel to pixel, from channel to channel
    to = e.place(copy, cell * size)

    def clear(from_: Whole, stop: Whole) -> None:
        panel = TILE_VECTORS * e.lanes
        with e.each(stop - from_, panel) as q:
            e.zero_block(e.place(to, from_ + q), cells, channels, stop - from_ - q)

    with e.either(few) as (thin, planar):
        with thin:
            _clear_around(e, to, size, start, end, p.width)
        with planar:
            clear(e.whole(0), start)
            clear(end, p.width)
    together = e.both(p.step.equals(1), e.at.not_(few))
    with e.either(together) as (rows, elements):
        with rows, e.each(end - start, TILE_VECTORS * e.lanes) as q:
            e.copy_block(e.place(x, q), p.s_c, e.place(to, start + q), cells, channels, end - start - q)
        with elements, e.each(channels) as m, e.each(end - start) as q:
            value = e.number(x, m * p.s_c + q * p.step)
            e.at.store(value, e.place(to, (start + q) * size + m * apart))


def _clear_around(e: Emitter, to: ir.Value, size: Whole, start: Whole, end: Whole, columns: Whole) -> None:
    """Zeros before pixel `start` and from `end` on, each of `size` channels."""
    for from_, stop in ((e.whole(0), start), (end, columns)):
        e.zero(e.place(to, from_ * size), (stop - from_) * size)


@jit
def copy_gradients(dy, panel, place, nhwc, nchw, p, o, outs, first, count):
    """panel[pixel][output channel] of `count` output rows, zeros for channels beyond `outs`."""
    nr = panel_columns(panel)
    pixels = count * p.ow
    if nhwc is not None:
        step = p.groups * p.outs
        if outs < nr:
            zero_rows(panel, place, nr, pixels, nr)
        copy_rows(dy, first * p.ow * step + o, step, panel, place, nr, pixels, outs)
    if nchw is not None:
        lanes = vector_lanes(panel)
        plane = p.oh * p.ow
        done = 0
        while done < pixels:
            n, q = quotient(first * p.ow + done, plane), remainder(first * p.ow + done, plane)
            end = least(pixels, done + plane - q)
            at = n * p.d_n + o * plane + q - done
            for pixel in range(done, end, lanes):
                for c in range(0, nr, lanes):
                    transpose_run(
                        dy, at + c * plane + pixel, plane, most(0, least(lanes, outs - c)), least(lanes, end - pixel),
                        panel, place + pixel * nr + c, nr,
                    )  # fmt: skip
            done = end


@intrinsic
def store_panel(typingctx, sums, at, dw, to, s_o, s_c, s_a, s_b, p, outs):
    """A panel of finished sums of `outs` output channels to dw, whose strides are given. p : a Gradient."""
    i8 = types.int64
    signature = types.void(sums, i8, dw, i8, i8, i8, i8, i8, p, i8)

    def body(builder, kinds, sums, dw, s_o, s_c, s_a, s_b, p, outs):
        e = Emitter(builder, scalar_type(kinds[0]))
        p = Fields(builder, kinds[6], p)
        s_o, s_c, s_a, s_b, outs = map(e.whole, (s_o, s_c, s_a, s_b, outs))
        lanes, nr = e.lanes, TILE_VECTORS * e.lanes
        taps, ins, by_tap = p.kh * p.kw, p.ins, p.by_tap > 0
        per_tap = (ins * nr).where(by_tap, nr)
        per_channel = e.whole(nr).where(by_tap, taps * nr)
        follow = e.both(s_b.equals(1), e.both(s_a.equals(p.kw), s_c.equals(taps)))  # the cells of a filter
        whole = e.both(outs.equals(nr), e.at.not_(by_tap))
        rows = (ins * taps // lanes * lanes).where(e.both(follow, whole), 0)  # of sums, turned in squares
        with e.each(rows, lanes) as row:
            for first in range(0, nr, lanes):
                from_ = e.place(sums, row * nr + first)
                turned = transposed(builder, [e.load(from_, i * nr) for i in range(lanes)])
                for o, value in enumerate(turned, first):
                    e.store(value, e.place(dw, s_o * o + row))
        with e.each(ins) as c, e.each(taps) as t, e.when(c * taps + t >= rows):
            from_ = e.place(sums, t * per_tap + c * per_channel)
            cell = e.place(dw, c * s_c + t // p.kw * s_a + t % p.kw * s_b)
            with e.either(e.at.or_(s_o.equals(1), outs.equals(1))) as (run, apart):
                with run:
                    e.copy_block(from_, 0, cell, 0, 1, outs)
                with apart, e.each(outs) as column:
                    builder.store(e.number(from_, column), e.place(cell, column * s_o))

    return signature, outlined("store_panel", body)


@kernel("in1 in1 out4 out1 outints1 nhwc nchw ints1 int int tickets")
def _gradient(x, dy, dw, scratch, table, nhwc, nchw, shape, worker, parts, tickets):
    """A task is one of so many parts of the panels of output channels: panels of a part share a copy of x."""
    p = gradient_numbers(shape)
    nr = panel_columns(scratch)
    panels = quotient(p.outs + nr - 1, nr)
    taps = p.kh * p.kw
    total = p.mb * p.oh
    copy = p.sums + worker * p.own
    packed = copy + p.copy
    place = quotient((copy + p.table) * scratch.itemsize, 8)
    thin = p.panel == p.ins and p.dw == 1 and p.step == 1  # the taps of a filter row follow each other
    together = p.kw if thin else 1
    size, per_tap, per_channel = (p.panel, p.ins * nr, nr) if p.panel > 0 else (1, nr, taps * nr)
    step = size if p.kw == 1 else size * p.sw
    # Sums are taken in dw itself where it is HWIO: rows of output channels, taps of a row next to each other.
    s_o, s_c, s_a, s_b = stride_of(dw, 0), stride_of(dw, 1), stride_of(dw, 2), stride_of(dw, 3)
    in_place = p.panel > 0 and s_o == 1 and s_b == p.ins * s_c
    to_dw = distance(scratch, dw)
    for part in claim(tickets):
        unit: Any = np.int64(quotient(panels * p.groups * part, parts))
        stop: Any = np.int64(quotient(panels * p.groups * (part + 1), parts))
        while unit < stop:
            group, last = quotient(unit, panels), least(stop, (quotient(unit, panels) + 1) * panels)
            for first in range(0, total, p.rows):
                count = least(p.rows, total - first)
                cells = list_rows(table, place, p, first, count) * p.width
                runs, depth = (count, p.ow) if taps > 1 else (1, count * p.ow)  # or one row follows the other
                apart = 1 if p.panel > 0 else cells
                for r in range(count):
                    put(table, place + p.rows + r, get(table, place + r) * size)
                for c0 in range(0, p.ins, p.channels):
                    channels = least(p.channels, p.ins - c0)
                    copy_image(
                        x, 0, scratch, copy, table, place, nhwc, nchw, p, group, c0, channels, first, count, cells
                    )  # fmt: skip
                    for u in range(unit, last):
                        o = (u - group * panels) * nr
                        outs = least(nr, p.outs - o)
                        copy_gradients(dy, scratch, packed, nhwc, nchw, p, group * p.outs + o, outs, first, count)
                        to, row_step, a_step, b_step = u * taps * p.ins * nr, per_channel, p.kw * per_tap, per_tap
                        if in_place and outs == nr:
                            to, row_step, a_step, b_step = to_dw + group * p.outs + o, s_c, s_a, s_b
                        for c in range(0, channels, TILE_ROWS):
                            rows = least(TILE_ROWS, channels - c) * together
                            for a in range(p.kh):
                                for b in range(0, p.kw, together):
                                    at = copy + c * cells + (a * p.dh * p.width + b * p.dw) * size
                                    target = to + a * a_step + b * b_step + (c0 + c) * row_step
                                    row = 0
                                    while row < rows:
                                        tall = height(rows - row)
                                        gemm_pixels(
                                            scratch, at + row * apart, table, place + p.rows, runs, depth, step, apart,
                                            scratch, packed, scratch, target + row * row_step, row_step, tall,
                                            first > 0,
                                        )  # fmt: skip
                                        row += tall
            for u in range(unit, last):
                o = (u - group * panels) * nr
                if not (in_place and p.outs - o >= nr):
                    to = (group * p.outs + o) * s_o
                    store_panel(
                        scratch, u * taps * p.ins * nr, dw, to, s_o, s_c, s_a, s_b, p, least(nr, p.outs - o)
                    )  # fmt: skip
            unit = last


@lru_cache(maxsize=256)
def _gradient_numbers(p: Conv) -> tuple[Array, int]:
    b = blocking.gradient_blocks(p)
    shape = Gradient(
        p.mb, p.g, p.ocg, p.icg, p.kh, p.kw, p.ih, p.iw, *strides(p.nhwc, p.g * p.icg, p.ih, p.iw),
        p.oh, p.ow, *strides(p.nhwc, p.g * p.ocg, p.oh, p.ow)[:2], p.sh, p.sw, p.ph, p.pw, p.dh, p.dw,
        b.rows, b.channels, 0 if b.planar else min(p.icg, TILE_ROWS), b.width, b.step, b.image_rows, b.row_step,
        b.sums, b.own, b.copy, b.copy + b.panel, int(not b.planar),
    )  # fmt: skip
    return np.array(shape, np.int64), p.g * blocking.ceil_div(p.ocg, columns(p.dtype))


def weight_gradient(p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int) -> None:
    if x.size == 0 or dy.size == 0 or dw.size == 0:
        dw[...] = 0
        return
    shape, panels = _gradient_numbers(p)
    run = _gradient[p.dtype, p.nhwc]
    arrays = flat(x, p.nhwc), flat(dy, p.nhwc), dw, workspace.view(p.dtype), workspace.view(np.int64)
    flags = layout_flags(p.nhwc)
    parts = min(threads, panels)
    run_phases(threads, (parts, lambda tickets, worker: run(*arrays, *flags, shape, worker, parts, tickets)))
