"""Winograd's weights: where they lie, in any order, and their transforms as the panels that products read."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv._numba import blocking
from fastconv._numba.compile import jit
from fastconv._numba.gemm import columns
from fastconv._numba.integers import least, most, quotient, remainder
from fastconv._numba.vector import TILE_VECTORS, get, numbers, panel_columns, put, vector_lanes, zero
from fastconv._numba.winograd_calls import call_gather, call_spread

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


@jit
def pack_chunk(memory):
    """Input channels packed at a time: at least a vector, and few, so that their part of U stays in the L1."""
    return most(PACK_CHANNELS, vector_lanes(memory))


@jit
def pack_channels(w, f, memory, to, taps, p, gather, group, first, c, end):
    """memory[to + point * u_point + channel * nr + column]: channels c..end of the panel from output channel `first`.

    Columns beyond the last output channel are zeros. The weights may have any strides: those of the usual orders move
    as vectors. Scratch from `taps` on.
    """
    nr, lanes = panel_columns(memory), vector_lanes(memory)
    cells = p.kh * p.kw
    filled = least(nr, p.outs - first)
    at = group * f.g + first * f.o
    if f.o == 1 and filled == nr:  # HWIO: vectors lie there
        for k in range(c, end):
            call_spread(p.weights, w, at + k * f.c, f.along, f.b, nr, memory, to + k * nr, p.u_point)
        return
    for j in range(0, nr, lanes):
        some = most(0, least(lanes, filled - j))
        from_ = at + j * f.o + c * f.c
        cell, channel = lanes, cells * lanes  # strides of the copies
        if f.step != 0:  # OIHW: the cells of a filter follow each other, or those of several channels
            low = from_ + least(f.step, 0) * (cells - 1)
            runs = 1 if f.c == cells else end - c
            pixels = quotient(cells * (end - c), runs)
            for k in range(runs):
                call_gather(gather, w, low + k * f.c, f.o, some, pixels, pixels, 0, memory, taps + k * channel)
            cell *= f.step
        else:
            cell, channel = pack_chunk(memory) * lanes, lanes
            for t in range(cells):
                place, to_taps = from_ + quotient(t, p.kw) * f.a + remainder(t, p.kw) * f.b, taps + t * cell
                if f.c == 1:  # HWIO with its channels exchanged
                    call_gather(gather, w, place, f.o, some, end - c, end - c, 0, memory, to_taps)
                    continue
                zero(memory, to_taps, (end - c) * lanes)
                for k in range(end - c):
                    for o in range(some):
                        put(memory, to_taps + k * lanes + o, get(w, place + k * f.c + o * f.o))
        begin = taps if cell > 0 else taps - cell * (cells - 1)
        row = cell * f.row_cells
        for k in range(c, end):
            source = begin + (k - c) * channel
            call_spread(p.weights, memory, source, row, cell, lanes, memory, to + k * nr + j, p.u_point)


def pack_tasks(groups: int, outs: int, ins: int, dtype: str) -> int:
    """Tasks that pack all weights: some input channels of a panel each."""
    nr = columns(dtype)
    chunk = max(PACK_CHANNELS, nr // TILE_VECTORS)
    return groups * blocking.ceil_div(outs, nr) * blocking.ceil_div(ins, chunk)
