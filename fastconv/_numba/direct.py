"""Direct convolution of few input channels, forward: a GEMM whose short sums are read in place, never packed.

A task copies the rows of x under some output rows, with their padding; each term of a sum is one place in that copy,
kept in a table. NHWC: rows of the tile are pixels, columns output channels. NCHW: rows are output channels, columns
pixels of a row (at a stride, columns of x come apart in the copy, so that they are neighbours).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastconv._numba import Conv, blocking
from fastconv._numba.arrays import flat, limits, optional, optional_flat, strides
from fastconv._numba.compile import Kernel, kernel
from fastconv._numba.emit import Emitter, Fields, Whole
from fastconv._numba.gemm import columns, height
from fastconv._numba.integers import least, most, quotient, remainder, stride_of
from fastconv._numba.moves import halve_block
from fastconv._numba.tasks import claim, run_phases
from fastconv._numba.vector import (
    BIT,
    I64,
    TILE_HEIGHTS,
    TILE_VECTORS,
    copy_run,
    get,
    intrinsic,
    numbers,
    outlined,
    panel_columns,
    put,
    scalar_type,
    zero_run,
)

Array = np.ndarray


@intrinsic(prefer_literal=True)
def direct_tile(
    typingctx, by_rows, a, a_start, row_step, b, bs, table, ts, depth, bias, bias_start, residual, rs, y, ys, rs_y,
    rows, width, has_bias, has_residual, low, high
):  # fmt: skip
    """y[i][j] = clamp(bias + sum over k < depth of a[ta[k] + i * row_step] * b[tb[k] + j] + residual[i][j]), j < width.

    table : ta, then tb. bias : by_rows one element for each row, else a row, of which `width` are there. `rows` is one
    of TILE_HEIGHTS; of b whole rows of TILE_VECTORS vectors are read.
    """
    i8, bit, real = types.int64, types.boolean, a.dtype
    signature = types.void(
        by_rows, a, i8, i8, b, i8, table, i8, i8, bias, i8, residual, i8, y, i8, i8, i8, i8, bit, bit, real, real
    )  # fmt: skip
    down = bool(by_rows.literal_value)

    def body(
        builder, kinds, _by_rows, a, row_step, b, table, depth, bias, residual, y, rs_y, rows, width, has_bias,
        has_residual, low, high
    ):  # fmt: skip
        scalar = scalar_type(kinds[1])
        end = builder.append_basic_block("end")
        switch = builder.switch(rows, end)
        given = [a, row_step, b, table, depth, bias, residual, y, rs_y, width, has_bias, has_residual, low, high]
        for count in TILE_HEIGHTS:
            block = builder.append_basic_block(f"rows.{count}")
            switch.add_case(I64(count), block)
            with builder.goto_block(block):
                builder.call(_tile(builder.module, scalar, count, down), given)
                builder.branch(end)
        builder.position_at_end(end)

    return signature, outlined(f"direct_tile_{int(down)}", body)


def _tile(module: ir.Module, scalar: ir.Type, rows: int, down: bool) -> ir.Function:
    """The function of a tile of so many rows: of its own, so the registers are allocated for it."""
    name = f"direct_{rows}_{int(down)}_{scalar}__numba"
    if name in module.globals:
        return module.globals[name]
    pointer = scalar.as_pointer()
    kinds = [pointer, I64, pointer, I64.as_pointer(), I64, *[pointer] * 3, I64, I64, BIT, BIT, scalar, scalar]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, row_step, b, table, depth, bias, residual, y, rs_y, width, has_bias, has_residual, low, high = function.args
    e = Emitter(ir.IRBuilder(function.append_basic_block("entry")), scalar)
    each = range(TILE_VECTORS)
    steps = [e.mul(row_step, i) for i in range(rows)]
    second = e.place(table, depth)
    low, high = e.splat(low), e.splat(high)
    whole = e.less(TILE_VECTORS * e.lanes - 1, width)

    def for_width(part: Any) -> None:
        """Code for whole rows, and for those of which some lanes count: part(which lanes of each vector)."""
        with e.either(whole) as (full, some):
            with full:
                part([None] * TILE_VECTORS)
            with some:
                part([e.lanes_between(0, e.sub(width, v * e.lanes)) for v in each])

    def begin(only: list[Any]) -> None:
        for v in each:
            e.set(starts[0][v], e.load(bias, v * e.lanes, only[v]))

    starts = [[e.variable(e.zeros()) for _ in each] for _ in range(rows if down else 1)]
    with e.when(has_bias):
        if down:
            for i in range(rows):
                for v in each:
                    e.set(starts[i][v], e.splat(e.number(bias, i)))
        else:
            for_width(begin)
    sums = [[e.variable(e.get(starts[i if down else 0][v])) for v in each] for i in range(rows)]
    with e.loop(depth) as term:
        e.once()
        here = e.place(a, e.number(table, term.index))
        b_row = e.place(b, e.number(second, term.index))
        b_values = [e.load(b_row, v * e.lanes) for v in each]
        for i in range(rows):
            value = e.splat(e.number(here, steps[i]))
            for v in each:
                e.multiply_add(sums[i][v], value, b_values[v])

    def finish(only: list[Any]) -> None:
        for i in range(rows):
            row = e.mul(rs_y, i)
            for v in each:
                at = e.add(row, v * e.lanes)
                with e.when(has_residual):
                    e.set(sums[i][v], e.at.fadd(e.get(sums[i][v]), e.load(residual, at, only[v])))
                value = e.clamp(e.get(sums[i][v]), low, high)
                if only[v] is None:
                    e.store(value, y, at)
                else:
                    left = e.sub(width, v * e.lanes)
                    with e.when(e.less(0, left)):
                        e.store_first(value, e.place(y, at), left, only[v])

    for_width(finish)
    e.at.ret_void()
    return function


class Direct(NamedTuple):
    """The numbers of one convolution; strides (s_ x, d_ y, c_ the copy) in elements."""

    mb: int
    groups: int
    outs: int
    ins: int
    taps: int
    ih: int
    iw: int
    s_n: int
    s_c: int
    s_h: int
    oh: int
    ow: int
    d_n: int
    d_c: int
    d_h: int
    d_w: int
    sh: int
    sw: int
    ph: int
    pw: int
    rows: int  # output rows of a task, and those of the copy beyond the last one
    reach: int
    width: int  # columns of x in the copy
    c_c: int
    c_h: int
    c_r: int  # columns of one residue of the stride
    copy: int  # where the copies begin, and of a thread
    own: int


direct_numbers = numbers(Direct)


@intrinsic
def copy_rows_under(typingctx, x, xs, copy, place, nhwc, p, n, first, count):
    """The rows of an image under some output rows, with their padding. p : a Direct."""
    i8 = types.int64
    signature = types.void(x, i8, copy, i8, i8, p, i8, i8, i8)

    def body(builder, kinds, x, copy, nhwc, p, *wholes):
        e = Emitter(builder, scalar_type(kinds[0]))
        p = Fields(builder, kinds[3], p)
        n, first, count = map(e.whole, wholes)
        before = p.pw.least(p.width)
        inside = (p.width - before).least(p.iw).most(0)
        channels = p.groups * p.ins
        with e.each((count - 1) * p.sh + p.reach) as line:
            row = first * p.sh - p.ph + line
            real = e.both(row >= 0, row < p.ih)
            start, some = before.where(real, p.width), inside.where(real, 0)
            rest = p.width - start - some
            source, target = e.place(x, n * p.s_n + row * p.s_h), e.place(copy, line * p.c_h)
            with e.either(e.whole(nhwc) > 0) as (pixels, planes):
                with pixels:
                    _run(e, source, target, start * channels, some * channels, rest * channels)
                with planes, e.each(channels) as c:
                    from_, to = e.place(source, c * p.s_c), e.place(target, c * p.c_c)
                    with e.either(p.sw.equals(1)) as (dense, strided):
                        with dense:
                            _run(e, from_, to, start, some, rest)
                        with strided:
                            _columns(e, p, from_, to, start, some)

    return signature, outlined("copy_rows_under", body)


def _run(e: Emitter, x: ir.Value, target: ir.Value, before: Whole, count: Whole, after: Whole) -> None:
    """Zeros, a run of x, zeros."""
    e.zero(target, before)
    e.copy(x, e.place(target, before), count)
    e.zero(e.place(target, before + count), after)


def _columns(e: Emitter, p: Fields, x: ir.Value, target: ir.Value, start: Whole, some: Whole) -> None:
    """The same of `some` columns from `start` on, those of each residue of the stride together."""
    step = p.sw
    e.zero(target, p.c_r * step)
    with e.each(step) as residue:
        first = start + (residue + step - start % step) % step
        count = ((start + some - first + step - 1) // step).most(0)
        from_, to = e.place(x, first - start), e.place(target, residue * p.c_r + first // step)
        with e.either(step.equals(2)) as (halves, other):
            with halves, e.each(count, TILE_VECTORS * e.lanes) as k:
                halve_block(e, e.place(from_, k * 2), e.whole(0), e.place(to, k), e.whole(0), e.whole(1), count - k)
            with other, e.each(count) as k:
                e.at.store(e.number(from_, k * step), e.place(to, k))


@kernel("in5 out1 int")
def _pack(w, packed, nhwc):
    """NHWC: packed[group][panel][row, column, channel][output channel], zeros beyond the last; NCHW: as OIHW."""
    nr = panel_columns(packed)
    groups, outs, ins, kh, kw = w.shape
    to = 0
    s_o = stride_of(w, 1)
    for group in range(groups):
        for o in range(0, outs, nr if nhwc else 1):
            at = group * stride_of(w, 0) + o * s_o
            count = least(nr, outs - o)
            for first in range(ins if nhwc == 0 else kh):
                for second in range(kh if nhwc == 0 else kw):
                    for third in range(kw if nhwc == 0 else ins):
                        c, a, b = (third, first, second) if nhwc else (first, second, third)
                        place = at + c * stride_of(w, 2) + a * stride_of(w, 3) + b * stride_of(w, 4)
                        if nhwc == 0:
                            put(packed, to, get(w, place))
                            to += 1
                            continue
                        if count < nr:
                            zero_run(packed, to, nr)
                        if s_o == 1:
                            copy_run(w, place, packed, to, count)
                        else:
                            for m in range(count):
                                put(packed, to + m, get(w, place + m * s_o))
                        to += nr


@cache
def _forward(nhwc: int) -> Kernel:
    """A task is some output rows of an image."""

    @kernel("in1 in1 in1 in1 out1 out1 ints1 ints1 scalar scalar int tickets")
    def forward(x, packed, bias, residual, y, scratch, table, shape, low, high, worker, tickets):
        p = direct_numbers(shape)
        nr = panel_columns(y)
        blocks = quotient(p.oh + p.rows - 1, p.rows)
        place = p.copy + worker * p.own
        depth = p.taps * p.ins
        panels = quotient(p.outs + nr - 1, nr)
        biased, added = bias.size > 0, residual.size > 0
        for task in claim(tickets):
            n, first = quotient(task, blocks), remainder(task, blocks) * p.rows
            count = least(p.rows, p.oh - first)
            copy_rows_under(x, 0, scratch, place, nhwc, p, n, first, count)
            for group in range(p.groups):
                for i in range(count):
                    out = n * p.d_n + (first + i) * p.d_h + group * p.outs * p.d_c
                    row = place + i * p.sh * p.c_h + group * p.ins * p.c_c
                    if nhwc:
                        for s in range(panels):
                            j: Any = np.int64(0)
                            while j < p.ow:
                                tall = height(p.ow - j)
                                at = out + j * p.d_w + s * nr
                                direct_tile(
                                    0, scratch, row + j * p.sw * p.groups * p.ins, p.sw * p.groups * p.ins,
                                    packed, (group * panels + s) * depth * nr, table, 0, depth,
                                    bias, group * p.outs + s * nr, residual, at, y, at, p.d_w, tall,
                                    p.outs - s * nr, biased, added, low, high,
                                )  # fmt: skip
                                j += tall
                        continue
                    o: Any = np.int64(0)
                    while o < p.outs:
                        tall = height(p.outs - o)
                        for first_column in range(0, p.ow, nr):
                            column = first_column
                            if column + nr > p.ow and not added:  # some columns twice; the residual may be y
                                column = most(0, p.ow - nr)
                            at = out + o * p.d_c + column
                            direct_tile(
                                1, packed, (group * p.outs + o) * depth, depth, scratch, row + column, table, 0, depth,
                                bias, group * p.outs + o, residual, at, y, at, p.d_c, tall,
                                p.ow - column, biased, added, low, high,
                            )  # fmt: skip
                        o += tall

    return forward


@lru_cache(maxsize=256)
def _numbers(p: Conv) -> tuple[Array, Array, int]:
    b = blocking.direct_blocks(p)
    s_n, s_c, s_h, _ = strides(p.nhwc, p.g * p.icg, p.ih, p.iw)
    c_c = 1 if p.nhwc else b.plane
    shape = Direct(
        p.mb, p.g, p.ocg, p.icg, p.kh * p.kw, p.ih, p.iw, s_n, s_c, s_h, p.oh, p.ow,
        *strides(p.nhwc, p.g * p.ocg, p.oh, p.ow), p.sh, p.sw, p.ph, p.pw, b.rows, b.reach, b.width,
        c_c, b.row, b.residue, b.weights, b.copy,
    )  # fmt: skip
    terms = []
    nr = columns(p.dtype)
    if p.nhwc:
        for a in range(p.kh):
            for b_ in range(p.kw):
                terms += [a * p.dh * b.row + b_ * p.dw * p.g * p.icg + c for c in range(p.icg)]
        table = terms, [k * nr for k in range(len(terms))]
    else:
        for c in range(p.icg):
            for a in range(p.kh):
                terms += [
                    c * c_c + a * p.dh * b.row + k * p.dw % p.sw * b.residue + k * p.dw // p.sw for k in range(p.kw)
                ]
        table = list(range(len(terms))), terms
    return np.array(shape, np.int64), np.array(table, np.int64).reshape(-1), p.mb * blocking.ceil_div(p.oh, b.rows)


def conv2d_forward_direct__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int
) -> None:
    if y.size == 0:
        return
    shape, table, tasks = _numbers(p)
    scratch = packed = workspace.view(p.dtype)
    if not p.nhwc and w.flags.c_contiguous:
        packed = w.reshape(-1)
    else:
        _pack[p.dtype](w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw), packed, p.nhwc)
    run = _forward(p.nhwc)[p.dtype]
    low, high = limits(p)
    arrays = (
        flat(x, p.nhwc), packed, optional(bias, 1, p.dtype), optional_flat(residual, p.nhwc, p.dtype), flat(y, p.nhwc),
        scratch, table, shape, low, high,
    )  # fmt: skip
    run_phases(threads, (tasks, lambda tickets, worker: run(*arrays, worker, tickets)))
