"""Winograd's weights: where they lie, in any order, and their transforms as the panels that products read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastconv._numba import blocking
from fastconv._numba.emit import Emitter, Fields, Whole
from fastconv._numba.gemm import columns
from fastconv._numba.vector import I64, TILE_VECTORS, intrinsic, itemsize, lanes, numbers, outlined, scalar_type
from fastconv._numba.winograd_calls import emit_call

Array = np.ndarray

PACK_CHANNELS = blocking.WINOGRAD_PACK_CHANNELS


class Filters(NamedTuple):
    """Where the weights lie: strides in elements."""

    g: int
    o: int
    c: int
    a: int
    b: int
    along: int  # of a line of cells, in one dimension the one it runs along
    step: int  # 1 or -1 if the cells of a filter follow each other in memory, in that direction; else 0
    row_cells: int  # cells from one line to the next, in one dimension along the line


filters_numbers = numbers(Filters)


def filters_of(w5: Array) -> Array:
    """Filters of weights (group, output channel, input channel, row, column), any strides."""
    return _filters(w5.strides, w5.itemsize, w5.shape[3], w5.shape[4])


@lru_cache(maxsize=256)
def _filters(strides: tuple[int, ...], itemsize: int, kh: int, kw: int) -> Array:
    g, o, c, a, b = (stride // itemsize for stride in strides)
    step = a if kw == 1 else b if kh == 1 or a == kw * b else 0
    return np.array(
        Filters(g, o, c, a, b, b if kh == 1 else a, step if abs(step) == 1 else 0, 1 if 1 in (kh, kw) else kw), np.int64
    )


def _chunk(lanes: int) -> int:
    """Input channels packed at a time: at least a vector, and few, so that their part of U stays in the L1."""
    return max(PACK_CHANNELS, lanes)


@intrinsic
def pack_chunk(typingctx, memory):
    """Input channels of a task of packing."""
    return types.int64(memory), lambda context, builder, sig, args: I64(_chunk(lanes(itemsize(scalar_type(memory)))))


@intrinsic
def pack_channels(typingctx, w, f, memory, to, taps, p, gather, group, first, c, end):
    """memory[to + point * u_point + channel * nr + column]: channels c..end of the panel from output channel `first`.

    Columns beyond the last output channel are zeros. The weights may have any strides: those of the usual orders move
    as vectors. f : Filters; p : a Shape; scratch from memory[taps] on.
    """
    i8 = types.int64
    kinds = (w, i8, f, memory, i8, memory, i8, p, i8, i8, i8, i8, i8)
    code = outlined("pack_channels", _pack_channels)

    def codegen(context, builder, sig, args):
        weights, filters, place, start, scratch, *rest = args
        values = (weights, I64(0), filters, place, start, place, scratch, *rest)
        return code(context, builder, types.void(*kinds), values)

    return types.void(w, f, memory, i8, i8, p, i8, i8, i8, i8, i8), codegen


def _pack_channels(builder: ir.IRBuilder, kinds: Any, w: ir.Value, f: Any, to: ir.Value, taps: ir.Value, p: Any,
                   *wholes: ir.Value) -> None:  # fmt: skip
    e = Emitter(builder, scalar_type(kinds[0]))
    f, p = Fields(builder, kinds[1], f), Fields(builder, kinds[4], p)
    gather, group, first, c, end = map(e.whole, wholes)
    n, nr = e.lanes, TILE_VECTORS * e.lanes
    cells, channels = p.kh * p.kw, end - c
    filled = (p.outs - first).least(nr)
    weights, to = e.place(w, group * f.g + first * f.o + c * f.c), e.place(to, c * nr)

    def spread(source: ir.Value, row: Whole, column: Whole, count: int, target: ir.Value) -> None:
        emit_call(
            e, "weights", p.weights, source=source, row=row, column=column, count=e.whole(count),
            target=target, point=p.u_point,
        )  # fmt: skip

    def move(source: ir.Value, some: Whole, pixels: Whole, target: ir.Value) -> None:
        emit_call(
            e, "gather", gather, source=source, stride=f.o, channels=some, pixels=pixels, width=pixels,
            skip=e.whole(0), target=target,
        )  # fmt: skip

    with e.either(e.both(f.o.equals(1), filled.equals(nr))) as (vectors, other):
        with vectors, e.each(channels) as k:  # HWIO: they lie there
            spread(e.place(weights, k * f.c), f.along, f.b, nr, e.place(to, k * nr))
        with other, e.each(e.whole(nr), n) as j:
            some = (filled - j).least(n).most(0)
            from_ = e.place(weights, j * f.o)
            apart = f.step.equals(0)
            # strides of the copies
            cell = e.whole(_chunk(n) * n).where(apart, f.step * n)
            channel = e.whole(n).where(apart, cells * n)
            with e.either(apart) as (cell_by_cell, filters):
                with filters:  # OIHW: the cells of a filter follow each other, or those of several channels
                    low = e.place(from_, f.step.least(0) * (cells - 1))
                    runs = e.whole(1).where(f.c.equals(cells), channels)
                    with e.each(runs) as k:
                        move(e.place(low, k * f.c), some, cells * channels // runs, e.place(taps, k * channel))
                with cell_by_cell, e.each(cells) as t:
                    place = e.place(from_, t // p.kw * f.a + t % p.kw * f.b)
                    copies = e.place(taps, t * cell)
                    with e.either(f.c.equals(1)) as (side_by_side, scattered):
                        with side_by_side:  # HWIO with its channels exchanged
                            move(place, some, channels, copies)
                        with scattered:
                            e.zero(copies, channels * n)
                            with e.each(channels) as k, e.each(some) as o:
                                value = e.number(place, k * f.c + o * f.o)
                                builder.store(value, e.place(copies, k * n + o))
            begin = (0 - cell * (cells - 1)).most(0)
            with e.each(channels) as k:
                source, target = e.place(taps, begin + k * channel), e.place(to, k * nr + j)
                spread(source, cell * f.row_cells, cell, n, target)


def pack_tasks(groups: int, outs: int, ins: int, dtype: str) -> int:
    """Tasks that pack all weights: some input channels of a panel each."""
    nr = columns(dtype)
    chunk = _chunk(nr // TILE_VECTORS)
    return groups * blocking.ceil_div(outs, nr) * blocking.ceil_div(ins, chunk)
