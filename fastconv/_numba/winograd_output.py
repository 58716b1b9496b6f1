"""Winograd's products of a block of tiles through the inverse transform and the epilogue, in both layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np import arrayobj

from fastconv._numba import blocking
from fastconv._numba.emit import Emitter, Fields, Whole
from fastconv._numba.vector import I64, intrinsic, outlined, scalar_type
from fastconv._numba.winograd_calls import emit_call
from fastconv._numba.winograd_input import band_rows, place_of

CHANNELS = blocking.WINOGRAD_CHANNELS


class _Block:
    """What the transform of a block of tiles works on: channels o..o + count of tiles start..end of a group."""

    def __init__(self, builder: ir.IRBuilder, kinds: Any, values: list[ir.Value]) -> None:
        e = self.e = Emitter(builder, scalar_type(kinds[0]))
        self.products, self.scratch, bias, residual, self.y, self.suspects = values[:6]
        self.p, self.source = (Fields(builder, kinds[n], values[n]) for n in (6, 7))
        numbers = [e.whole(value) for value in values[8:15]]
        self.group, self.o, self.count, self.start, self.end, self.marks, with_residual = numbers
        self.bias = e.place(bias, self.group * self.p.bias_row + self.o)
        self.low, self.high = values[15:]
        nothing = ir.Constant(residual.type, None)
        self.with_residual = with_residual > 0
        self.residual = builder.select(self.with_residual, residual, nothing)

    def residual_at(self, place: Whole) -> ir.Value:
        """Pointer to the residual of an output; null if there is none."""
        return self.e.at.select(self.with_residual, self.e.place(self.residual, place), self.residual)

    def transform(
        self, tile: Whole, channel: Whole | int, count: Whole, target: ir.Value, row: Whole, column: Whole,
        residual: ir.Value | None = None, plain: bool = True,
    ) -> Whole:  # fmt: skip
        """`count` outputs from `channel` on of a tile; whether one is not finite. `plain`: without the epilogue."""
        e = self.e
        source = e.place(self.products, (tile - self.start) * CHANNELS + channel)
        low, high = (-np.inf, np.inf) if plain else (self.low, self.high)
        outcome = emit_call(
            e, "output", self.p.output, source=source, point=self.p.m_point, count=count,
            bias=e.place(self.bias, channel), residual=residual, low=low, high=high, target=target, row=row,
            column=column,
        )  # fmt: skip
        return e.whole(outcome)

    def suspect(self, fault: Whole, tile: Whole) -> None:
        """Mark a tile, and that there is one, where a sum is not finite."""
        e = self.e
        with e.when(fault > 0):
            for place in (self.group * self.p.tiles + tile, self.marks - 1):
                e.at.store(I64(1), e.place(self.suspects, place))


def _outputs(name: str, emit: Callable[[_Block], None], memory: Any, residual: Any, y: Any, marks: Any, *records: Any):
    """Typing and code of the outputs of a block."""
    i8, real = types.int64, memory.dtype
    code = outlined(name, lambda builder, kinds, *values: emit(_Block(builder, kinds, list(values))))

    def codegen(context, builder, sig, args):
        memory_value, products, scratch, residual_value, y_value, marks_value, p, source, *wholes, low, high = args
        sizes = [
            arrayobj.make_array(kind)(context, builder, value).nitems
            for kind, value in ((marks, marks_value), (residual, residual_value))
        ]
        kinds = (memory, i8, memory, i8, memory, i8, residual, i8, y, i8, marks, i8, *records, *[i8] * 7, real, real)
        zero = I64(0)
        values = (
            memory_value, products, memory_value, scratch, memory_value, zero, residual_value, zero, y_value, zero,
            marks_value, zero, p, source, *wholes, *sizes, low, high,
        )  # fmt: skip
        return code(context, builder, types.void(*kinds), values)

    return types.void(memory, i8, i8, residual, y, marks, *records, *[i8] * 5, real, real), codegen


@intrinsic
def outputs_channels_last(
    typingctx, memory, products, scratch, residual, y, suspects, p, source, group, o, count, start, end, low, high
):  # fmt: skip
    """NHWC: channels o..o + count of tiles start..end, whose products and scratch begin at these places of memory.

    p : a Shape; source : a Source; the bias is at the start of memory.
    """
    return _outputs("outputs_channels_last", _channels_last, memory, residual, y, suspects, p, source)


@intrinsic
def outputs_planes(
    typingctx, memory, products, scratch, residual, y, suspects, p, source, group, o, count, start, end, low, high
):  # fmt: skip
    """NCHW: the same. One vector of channels of some tiles at a time, in rows as wide as the image's: each tile
    overwrites what its right neighbour has left beyond the edge."""
    return _outputs("outputs_planes", _planes, memory, residual, y, suspects, p, source)


def _channels_last(b: _Block) -> None:
    e, p, source, lanes = b.e, b.p, b.source, b.e.lanes
    along = p.along > 0
    with e.each(b.end - b.start) as number:
        t = b.start + number
        n, i, j = place_of(e, source, t)
        to = n * p.d_n + i * p.d_h + j * p.d_w + b.group * p.outs + b.o
        rows, cols = source.tile_h.least(p.oh - i), source.tile_w.least(p.ow - j)
        whole = e.both(rows.equals(source.tile_h), cols.equals(source.tile_w))
        vectors = (b.count // lanes * lanes).where(whole, 0)
        with e.when(vectors > 0):
            row = p.d_w.where(along, p.d_h)
            fault = b.transform(t, 0, vectors, e.place(b.y, to), row, p.d_w, b.residual_at(to), plain=False)
            b.suspect(fault, t)
        rest = b.count - vectors
        with e.when(rest > 0):
            padded = (rest + lanes - 1) // lanes * lanes
            width = source.tile_w * padded
            b.suspect(b.transform(t, vectors, padded, b.scratch, padded.where(along, width), padded), t)
            with e.each(rows) as r, e.each(cols) as q:
                place = to + r * p.d_h + q * p.d_w + vectors
                emit_call(
                    e, "finish", p.finish, source=e.place(b.scratch, r * width + q * padded), count=rest,
                    residual=b.residual_at(place), low=b.low, high=b.high, target=e.place(b.y, place),
                )  # fmt: skip


def _planes(b: _Block) -> None:
    e, p, source, lanes = b.e, b.p, b.source, b.e.lanes
    done = e.variable(b.start.value)
    with e.during(lambda: e.whole(e.get(done)) < b.end):
        t = e.whole(e.get(done))
        along, lines = band_rows(e, source, t, b.end)
        n, i, j = place_of(e, source, t)
        rows, width = (lines * source.tile_h).least(p.oh - i), (along * source.tile_w).least(p.ow - j)
        to = n * p.d_n + i * p.d_h + j
        row = e.whole(lanes).where(p.along > 0, width * lanes)
        pieces = e.whole(1).where(width.equals(p.ow), rows)  # rows that follow each other go as one
        with e.each(b.count, lanes) as k:
            with e.each(lines) as r, e.each(along) as before:
                q = along - 1 - before
                tile = t + r * along + q
                target = e.place(b.scratch, (r * source.tile_h * width + q * source.tile_w) * lanes)
                b.suspect(b.transform(tile, k, e.whole(lanes), target, row, e.whole(lanes)), tile)
            channels = (b.count - k).least(lanes)
            with e.each(pieces) as r:
                place = to + (b.group * p.outs + b.o + k) * p.d_c + r * p.d_h
                emit_call(
                    e, "scatter", p.scatter, source=e.place(b.scratch, r * width * lanes),
                    pixels=rows // pieces * width, channels=channels, residual=b.residual_at(place), low=b.low,
                    high=b.high, target=e.place(b.y, place), stride=p.d_c,
                )  # fmt: skip
        e.set(done, (t + lines * along).value)
