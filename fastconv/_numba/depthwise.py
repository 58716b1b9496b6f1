"""Depthwise convolution, one input channel a group, and its gradients: float32 and float64.

Both are one gather, the input gradient once for each residue class (row mod sh, column mod sw) of its cells:

    out[o][i][j] = sum over k, a, b of w[o][k][a][b] * in[o / multiplier * depth + k][i * sh + th[a]][j * sw + tw[b]]

NHWC: vectors are channels; a tile is some of them times some columns of one row, and each cell is loaded once for all
outputs of the tile that it reaches. NCHW: vectors are columns; a tile is one of them times some rows. In float32,
filters of 3, 5 and 7 columns (and 2, in input gradients) have code of their own, for a stride of 1 and 2; of others the
taps are taken one by one. Which cells lie in the padding is known before the loops: they are left out, or 0. Where
weights are not finite that makes a difference: then the plain loops do it all.

(Weights: depthwise_weight.py.)
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._numba import Conv, blocking, naive
from fastconv._numba.arrays import flat, limits, optional, optional_flat, strides
from fastconv._numba.compile import Kernel, jit, kernel
from fastconv._numba.depthwise_tiles import (
    COLUMNS,
    INNER,
    LARGE_FILTER_ROWS,
    LOW_ROWS,
    MASKED,
    RIM,
    ROWS,
    ROWS_BY_2,
    TAP,
    VECTORS,
    columns_inside,
    planes,
    strips,
    taps_of_plane,
)
from fastconv._numba.depthwise_weight import weight_gradient
from fastconv._numba.im2col import empty_class, fill_empty
from fastconv._numba.integers import least, most, quotient, remainder, stride_of
from fastconv._numba.moves import all_finite, fill
from fastconv._numba.tasks import Phase, claim, run_phases
from fastconv._numba.vector import (
    copy_run,
    distance,
    get,
    lanes,
    numbers,
    panel_columns,
    put,
    vector_lanes,
)

Array = np.ndarray

# Channels from which on tiles begin at cache lines of the output, for one tile more.
ALIGNED_CHANNELS = 256


class Depthwise(NamedTuple):
    """The numbers of one gather; strides (s_ source, d_ destination) in elements."""

    mb: int
    channels: int  # of the destination
    multiplier: int  # channels of a group of the destination
    depth: int  # and of the source
    taps_h: int
    taps_w: int
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
    d_h: int
    d_w: int
    first: int  # where the class begins
    sh: int
    sw: int
    weights: int  # NHWC: where those of the class begin; and its channels' pitch
    pitch: int
    filter: int  # NCHW: weights of a filter, in the order of memory
    rows: int  # output rows of a task
    copied: int  # whether the source is copied first: channels (NHWC) or columns (NCHW) lie apart
    b_h: int  # strides of that copy: of a row, and of a channel k of a group (NHWC) or a column mod sw (NCHW)
    b_k: int
    aligned: int
    scratch: int  # bytes: where the copies and tables of the threads begin, one thread's, and its copy
    scratch_own: int
    scratch_copy: int


depthwise_numbers = numbers(Depthwise)

# --------------------------------------------------------------------------------------------------------
# Weights


@kernel("in5 out1 ints2 int int int int")
def _pack(w, packed, taps, channels, pitch, depth, backward):
    """NHWC: packed[tap][k][channel] in the order of the taps (row and column), zeros beyond the last. All finite?"""
    nr = panel_columns(packed)
    multiplier = 1 if backward else w.shape[1]
    s_g, s_o, s_a, s_b = stride_of(w, 0), stride_of(w, 1), stride_of(w, 3), stride_of(w, 4)
    for t in range(taps.shape[0]):
        tap = taps[t, 0] * s_a + taps[t, 1] * s_b
        for k in range(depth):
            to, at = (t * depth + k) * pitch, tap + k * s_o
            if multiplier == 1 and s_g == 1:
                for o in range(0, channels, nr):
                    copy_run(w, at + o, packed, to + o, channels - o)
            else:
                for g in range(quotient(channels, multiplier)):
                    for o in range(multiplier):
                        put(packed, to + g * multiplier + o, get(w, at + g * s_g + o * s_o))
            for o in range(channels, pitch):
                put(packed, to + o, packed.dtype.type(0))
    return all_finite(packed, 0, taps.shape[0] * depth * pitch)


@kernel("in1")
def finite_numbers(values):
    return all_finite(values, 0, values.size)


# --------------------------------------------------------------------------------------------------------
# The gathers


@jit
def list_taps(table, place, offsets, p, i, base, together):
    """NHWC: the table of output row i, from `place` on; `base`: of the source image, `together`: taps of an entry.

    Returns the number of entries, and which outputs (in steps of sw cells) have all of their cells inside.
    """
    count = 0
    low, high = -(1 << 40), 1 << 40
    row_step, column_step, k_step = p.s_h, p.s_w, p.s_c
    if p.copied:
        row_step, column_step, k_step = p.b_h, p.channels, p.b_k
    for k in range(p.depth):
        for a in range(p.taps_h):
            row = i * p.sh + offsets[a]
            if not 0 <= row < p.ih:
                continue
            for b in range(0, p.taps_w, together):
                column = offsets[p.taps_h + b]
                begin, end = -column, p.iw - column
                if together == 1:
                    begin, end = columns_inside(p, column)
                    if end <= begin:
                        continue
                put(table, place + 4 * count, base + row * row_step + column * column_step + k * k_step)
                put(table, place + 4 * count + 1, p.weights + ((a * p.taps_w + b) * p.depth + k) * p.pitch)
                put(table, place + 4 * count + 2, begin)
                put(table, place + 4 * count + 3, end)
                low, high = most(low, begin), least(high, end)
                count += 1
    return count, low, high


@jit
def list_plane(table, place, offsets, p):
    """NCHW: the table of a plane's taps, from `place` on.

    After the taps' offsets come where their weights are in a filter: those of rows, then those of columns.
    """
    count = 0
    for k in range(p.depth):
        for a in range(p.taps_h):
            for b in range(p.taps_w):
                column = offsets[p.taps_h + b]
                begin, end = columns_inside(p, column)
                cell = remainder(column, p.sw) * p.b_k + quotient(column, p.sw) if p.copied else column + k * p.s_c
                put(table, place + TAP * count, cell)
                tap = offsets[p.taps_h + p.taps_w + a] + offsets[2 * p.taps_h + p.taps_w + b]
                put(table, place + TAP * count + 1, k * p.filter + tap)
                put(table, place + TAP * count + 2, begin)
                put(table, place + TAP * count + 3, end)
                put(table, place + TAP * count + 4, offsets[a])
                count += 1


@jit
def places(p, y, worker):
    """Where a thread's copy and table begin, in elements of the workspace."""
    at = p.scratch + worker * p.scratch_own
    return quotient(at, y.itemsize), quotient(at + p.scratch_copy, 8)


@jit
def spread_channels(x, copy, place, p, n, first, end):
    """NHWC: copy[k][row][column][output channel] of the source rows first..end of an image."""
    for row in range(first, end):
        if not 0 <= row < p.ih:
            continue
        for column in range(p.iw):
            at = n * p.s_n + row * p.s_h + column * p.s_w
            to = place + (row - first) * p.b_h + column * p.channels
            if p.depth == 1:
                for g in range(quotient(p.channels, p.multiplier)):
                    value = get(x, at + g)
                    if p.multiplier >= vector_lanes(copy):
                        fill(copy, to + g * p.multiplier, value, p.multiplier)
                        continue
                    for m in range(p.multiplier):
                        put(copy, to + g * p.multiplier + m, value)
            else:
                for c in range(p.channels):
                    for k in range(p.depth):
                        put(copy, to + k * p.b_k + c, get(x, at + c * p.depth + k))


@cache
def _gather_nhwc(kw: int, sw: int) -> Kernel:
    """The gather in NHWC for filters of kw columns at stride sw and whole tiles of channels; (1, 1) is for any.

    Of several classes, each an own row of numbers and offsets, the tasks alternate.
    """
    fields = len(Depthwise._fields)
    rim = MASKED if kw == 1 else RIM

    @kernel("in1 in1 in1 out1 out1 outints1 ints1 ints1 scalar scalar int tickets")
    def gather_nhwc(x, bias, residual, y, scratch, table, shapes, all_offsets, low, high, worker, tickets):
        columns = COLUMNS
        tile = VECTORS * vector_lanes(y)
        classes, widest = quotient(shapes.size, fields), quotient(all_offsets.size * fields, shapes.size)
        for task in claim(tickets):
            number = remainder(task, classes)
            p = depthwise_numbers(shapes[number * fields :])
            offsets = all_offsets[number * widest :]
            blocks = quotient(p.oh + p.rows - 1, p.rows)
            block = quotient(task, classes)
            n, first = quotient(block, blocks), remainder(block, blocks) * p.rows
            if n >= p.mb:
                continue
            copy, place = places(p, y, worker)
            in_step = p.channels if p.copied else p.s_w
            if kw == 1:
                in_step *= p.sw
            # the residual may be y
            whole = p.channels >= tile and (residual.size == 0 or remainder(p.channels, tile) == 0)
            base = n * p.s_n
            if p.copied:
                top = first * p.sh + offsets[0]
                bottom = top + (p.rows - 1) * p.sh + offsets[p.taps_h - 1] - offsets[0] + 1
                spread_channels(x, scratch, copy, p, n, top, bottom)
                base = distance(x, scratch) + copy - top * p.b_h
            for i in range(first, least(first + p.rows, p.oh)):
                count, begin, end = list_taps(table, place, offsets, p, i, base, kw)
                at = p.first + n * p.d_n + i * p.d_h
                j: Any = np.int64(0)
                while j < p.ow:
                    reach = end - ((columns - 1) * sw + kw) - j * sw
                    run = least(quotient(p.ow - j, columns), quotient(reach, columns * sw) + 1)
                    if whole and run > 0 and j * sw >= begin:
                        strips(
                            kw, sw, INNER, x, 0, scratch, 0, bias, 0, residual, at, y, at, table, place, count,
                            in_step, p.pitch * p.depth, p.d_w, p.channels, j, run, columns,
                            bias.size > 0, residual.size > 0, p.aligned != 0, low, high,
                        )  # fmt: skip
                        j += run * columns
                    else:
                        strips(
                            kw, sw, rim, x, 0, scratch, 0, bias, 0, residual, at, y, at, table, place, count,
                            in_step, p.pitch * p.depth, p.d_w, p.channels, j, 1, p.ow - j,
                            bias.size > 0, residual.size > 0, p.aligned != 0, low, high,
                        )  # fmt: skip
                        j += columns

    return gather_nhwc


@cache
def _gather_nchw(k: int, s: int, tall: int) -> Kernel:
    """The gather in NCHW of a filter k x k at stride s, depth 1, by tiles of `tall` rows; one task is one plane."""

    @kernel("in1 in1 in1 in1 out1 ints1 ints1 scalar scalar int tickets")
    def gather_nchw(x, packed, bias, residual, y, shape, offsets, low, high, worker, tickets):
        p = depthwise_numbers(shape)
        zero = y.dtype.type(0)
        for task in claim(tickets):
            n, o = quotient(task, p.channels), remainder(task, p.channels)
            plane = n * p.s_n + quotient(o, p.multiplier) * p.s_c
            left = offsets[p.taps_h]
            first = offsets[2 * k] + offsets[3 * k]  # weights come in the order of memory, or the other way round
            step = 1 if first == 0 else -1
            for i in range(0, p.oh, tall):
                rows = least(tall, p.oh - i)
                top = i * s + offsets[0]
                at = n * p.d_n + o * p.d_c + i * p.d_h
                start_value = get(bias, o) if bias.size > 0 else zero
                planes(
                    k, s, tall, x, plane + top * p.s_h + left, packed, o * k * k + first, step, start_value,
                    residual, at, y, at, p.s_h, p.d_h, p.iw, left, p.ow,
                    most(0, -top), least((rows - 1) * s + k, p.ih - top), rows, residual.size > 0, low, high,
                )  # fmt: skip

    return gather_nchw


@kernel("in1 in1 in1 in1 out1 out1 outints1 ints1 ints1 ints1 ints1 scalar scalar int tickets")
def _gather_nchw_any(
    x, packed, bias, residual, y, scratch, table, shape, offsets, shape_between, offsets_between, low, high,
    worker, tickets
):  # fmt: skip
    """Any filter and stride of one class, and (if it has an own shape) of that whose columns lie between; a task is a
    plane."""
    p, q = depthwise_numbers(shape), depthwise_numbers(shape_between)
    pairs = q.first != p.first
    copy, place = places(p, y, worker)
    taps, taps_between = p.depth * p.taps_h * p.taps_w, q.depth * q.taps_h * q.taps_w if pairs else 0
    masks = copy + p.ih * p.b_h if p.copied else copy
    zero = y.dtype.type(0)
    listed = False
    for task in claim(tickets):
        if not listed:
            list_plane(table, place, offsets, p)
            if pairs:
                list_plane(table, place + TAP * taps, offsets_between, q)
            listed = True
        n, o = quotient(task, p.channels), remainder(task, p.channels)
        base = n * p.s_n + quotient(o, p.multiplier) * p.depth * p.s_c
        if p.copied:
            for row in range(p.ih):
                for column in range(p.iw):
                    to = copy + row * p.b_h + remainder(column, p.sw) * p.b_k + quotient(column, p.sw)
                    put(scratch, to, get(x, base + row * p.s_h + column))
            base = distance(x, scratch) + copy
        at = p.first + n * p.d_n + o * p.d_c
        taps_of_plane(
            x, base, packed, o * p.depth * p.filter, get(bias, o) if bias.size > 0 else zero, residual, at, y, at,
            table, place, taps, table, place + TAP * taps, taps_between, scratch, masks,
            p.sh, p.b_h if p.copied else p.s_h, p.ih, p.d_h, p.oh, p.ow, q.ow if pairs else 0, p.d_w,
            residual.size > 0, low, high,
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------------
# Rows


class Class(NamedTuple):
    """What runs one residue class (the forward pass has one); or, in NHWC, all that run the same code."""

    numbers: Array
    offsets: Array  # of the taps in the source: those of rows, then those of columns
    own: tuple[int, int] | None  # filter size and stride of the code of its own, if there is any
    tasks: int


class Gathers(NamedTuple):
    """What runs a pass of one problem."""

    classes: tuple[Class, ...]
    pairs: int  # NCHW: classes whose columns alternate, done together
    taps: Array
    blocks: blocking.DepthwiseBlocks
    leaves: bool  # whether some tap lies in the padding
    empty: bool  # whether some cells of the input gradient are reached by no tap


def _together(classes: list[Class]) -> list[Class]:
    """Those of the same code as one."""
    groups: dict[Any, list[Class]] = {}
    for one in classes:
        groups.setdefault(one.own, []).append(one)
    found = []
    for own, members in groups.items():
        widest = max(one.offsets.size for one in members)
        offsets = [np.pad(one.offsets, (0, widest - one.offsets.size)) for one in members]
        tasks = len(members) * max(one.tasks for one in members)
        found.append(Class(np.concatenate([one.numbers for one in members]), np.concatenate(offsets), own, tasks))
    return found


def _own(p: Conv, rows: blocking.Axis, cols: blocking.Axis, sh: int, sw: int) -> tuple[int, int] | None:
    k = len(cols.taps)
    sizes = (2, 3, 5, 7)[sw - 1 if p.nhwc else 1 :] if sw <= 2 else ()
    if p.dtype != "float32" or k not in sizes or not _adjoining(cols):  # each costs a compilation
        return None
    return (k, sw) if p.nhwc or (sh == sw and len(rows.taps) == k and _adjoining(rows)) else None


def _adjoining(axis: blocking.Axis) -> bool:
    """Whether the taps reach cells next to each other."""
    return sorted(axis.offsets) == list(range(min(axis.offsets), min(axis.offsets) + len(axis.offsets)))


def _block_rows(k: int, s: int, height: int) -> int:
    """Output rows of a tile in NCHW."""
    if k > 3:
        return LARGE_FILTER_ROWS
    if s == 2:
        return ROWS_BY_2
    return LOW_ROWS if height <= LOW_ROWS else ROWS


@lru_cache(maxsize=256)
def _gathers(p: Conv, backward: bool) -> Gathers:
    b = blocking.depthwise_blocks(p, backward)
    channels = p.g if backward else p.g * p.ocg
    multiplier, depth = (1, p.ocg) if backward else (p.ocg, 1)
    source_hw, target_hw = ((p.oh, p.ow), (p.ih, p.iw)) if backward else ((p.ih, p.iw), (p.oh, p.ow))
    step_h, step_w = (p.sh, p.sw) if backward else (1, 1)
    sh, sw = (1, 1) if backward else (p.sh, p.sw)
    d_n, d_c, d_h, d_w = strides(p.nhwc, channels, *target_hw)
    taps: list[tuple[int, int]] = []
    classes = []
    leaves = False
    row_axes, column_axes = blocking.axes(p, backward)
    for rows in row_axes:
        for cols in column_axes:
            th = sorted(zip(rows.offsets, rows.taps))
            tw = sorted(zip(cols.offsets, cols.taps))
            offsets = [o for o, _ in th] + [o for o, _ in tw] + [a * p.kw for _, a in th] + [b for _, b in tw]
            leaves |= th[0][0] < 0 or (rows.size - 1) * sh + th[-1][0] >= source_hw[0]
            leaves |= tw[0][0] < 0 or (cols.size - 1) * sw + tw[-1][0] >= source_hw[1]
            own = _own(p, rows, cols, sh, sw)
            if own and not p.nhwc and (depth > 1 or step_w > 1):
                own = None
            copied = (multiplier > 1 or depth > 1) if p.nhwc else sw > 1 and not own
            numbers = Depthwise(
                p.mb, channels, multiplier, depth, len(th), len(tw), *source_hw,
                *strides(p.nhwc, channels // multiplier * depth, *source_hw), rows.size, cols.size,
                d_n, d_c, d_h * step_h, d_w * step_w, rows.first * d_h + cols.first * d_w, sh, sw,
                len(taps) * depth * b.pitch, b.pitch, p.kh * p.kw, b.rows if copied else 1, int(copied),
                b.row, b.apart, int(channels >= ALIGNED_CHANNELS and channels % (VECTORS * blocking.MAX_LANES) == 0),
                b.weights, b.copy + b.table, b.copy,
            )  # fmt: skip
            taps += [(a, b) for _, a in th for _, b in tw]
            tasks = p.mb * (blocking.ceil_div(rows.size, numbers.rows) if p.nhwc else channels)
            classes.append(Class(np.array(numbers, np.int64), np.array(offsets, np.int64), own, tasks))
    pairs = 2 if not p.nhwc and step_w == 2 == len(column_axes) else 1
    empty = backward and empty_class(p)
    if p.nhwc:
        classes = _together(classes)
    return Gathers(tuple(classes), pairs, np.array(taps, np.int64).reshape(-1, 2), b, leaves, empty)


def _convolve(
    p: Conv, backward: bool, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int
) -> None:
    if y.size == 0:
        return
    plan = _gathers(p, backward)
    if plan.empty:
        fill_empty(p, y, bias, residual)
    channels, depth = (p.g, p.ocg) if backward else (p.g * p.ocg, 1)
    scratch, table = workspace.view(p.dtype), workspace.view(np.int64)
    if p.nhwc:
        w5 = w.reshape(p.g, p.ocg, 1, p.kh, p.kw)
        packed = scratch
        finite = _pack[p.dtype](w5, packed, plan.taps, channels, plan.blocks.pitch, depth, int(backward))
    else:
        packed = scratch[: w.size] if not w.flags.c_contiguous else w.reshape(-1)
        if not w.flags.c_contiguous:
            np.copyto(packed.reshape(w.shape), w)
        finite = not plan.leaves or finite_numbers[p.dtype](packed)
    if plan.leaves and not finite:
        plain = naive.conv2d_backward_input_naive__numba if backward else naive.conv2d_forward_naive__numba
        plain(p, x, w, bias, residual, y, None, threads)
        return
    low, high = limits(p)
    x_flat, y_flat = flat(x, p.nhwc), flat(y, p.nhwc)
    bias_flat, residual_flat = optional(bias, 1, p.dtype), optional_flat(residual, p.nhwc, p.dtype)
    if y.size * p.kh * p.kw * depth < blocking.DEPTHWISE_PARALLEL * (p.sh * p.sw if backward else 1):
        threads = 1
    tile = VECTORS * lanes(x.itemsize)
    whole = channels >= tile and (residual is None or channels % tile == 0)  # the residual may be y
    phases: list[Phase] = []
    for number in range(0, len(plan.classes), plan.pairs):
        numbers, offsets, own, tasks = plan.classes[number]
        arrays: tuple[Any, ...]
        if p.nhwc:
            run = _gather_nhwc(*(own if own and whole else (1, 1)))[p.dtype]
            arrays = x_flat, bias_flat, residual_flat, y_flat, scratch, table, numbers, offsets, low, high
        elif own:
            run = _gather_nchw(*own, _block_rows(*own, p.ih if backward else p.oh))[p.dtype]
            arrays = x_flat, packed, bias_flat, residual_flat, y_flat, numbers, offsets, low, high
        else:
            run = _gather_nchw_any[p.dtype]
            between = plan.classes[number + plan.pairs - 1]
            arrays = x_flat, packed, bias_flat, residual_flat, y_flat, scratch, table, numbers, offsets
            arrays += between.numbers, between.offsets, low, high

        def part(tickets: Array, worker: int, run=run, arrays=arrays) -> None:
            run(*arrays, worker, tickets)

        phases.append((tasks, part))
    run_phases(threads, *phases)


def conv2d_forward_depthwise__numba(
    p: Conv, x: Array, w: Array, bias: Any, residual: Any, y: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, False, x, w, bias, residual, y, workspace, threads)


def conv2d_backward_input_depthwise__numba(
    p: Conv, dy: Array, w: Array, bias: Any, residual: Any, dx: Array, workspace: Any, threads: int
) -> None:
    _convolve(p, True, dy, w, bias, residual, dx, workspace, threads)


def conv2d_backward_weight_depthwise__numba(
    p: Conv, x: Array, dy: Array, dw: Array, workspace: Any, threads: int
) -> None:
    weight_gradient(p, x, dy, dw, workspace, threads)
