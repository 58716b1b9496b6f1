"""What each kernel family has to do, counted (its work), and which error it makes.

A prediction is the work times fitted rates (rates.py), on one thread: only ratios decide, and the choice must not
depend on the number of threads, or the bits of the result would. `fastconv calibrate` fits the rates.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fastconv import host, rates
from fastconv.capability import (
    direct_task,
    gpu_direct_steps,
    gpu_direct_workspace,
    gpu_im2col_steps,
    gpu_im2col_tf32_workspace,
    gpu_im2col_workspace,
    gpu_tf32_part,
    gpu_winograd_depth,
    gpu_winograd_passes_steps,
    gpu_winograd_steps,
    gpu_winograd_workspace,
    winograd_by_channel,
)
from fastconv.loading import load
from fastconv.problem import ConvPoolProblem, ConvProblem, PoolProblem

# Kinds of work. Those in WEIGHT_KINDS fall away where a plan holds packed weights.
Work = dict[str, float]
WEIGHT_KINDS = ("weights", "far_weights")

# Rates of a row that nobody has measured yet: right within a factor of a few on any machine of this decade.
# A python call: a row whose loops are entered through Python (measured: 3.5 us, and no compiled entry serves it).
UNMEASURED = {
    "calls": 1e-6,
    "python_calls": 5e-6,
    "flops": 1 / 50e9,
    "slow_flops": 1 / 1e9,
    "numpy_calls": 160e-6,
    "numpy_flops": 1 / 9e9,
    # A GPU: what a launch takes through Python, and a roofline (H100: float32 without tensor cores, copies).
    "launches": 20e-6,
    "gpu_flops": 1 / 40e12,
    "gpu_doubles": 1 / 20e12,
    "gpu_slow_flops": 1 / 1e12,
    "gpu_terms": 20e-9,
    "gpu_bytes": 1 / 2.5e12,
}
UNMEASURED_BYTES = 1 / 20e9
# What a kind costs that may be missing in rates fitted to problems without it, though it is all that some others do.
# (Any filter's loop in NCHW depthwise: 2.8e-10 on Zen 3.)
UNSEEN = {"any_flops": 3e-10}
# No call takes less, not even one without work.
LEAST_SECONDS = 1e-7

EPS = {"float32": 2.0**-24, "float64": 2.0**-53, "int64": 0.0}

# Terms of a partial sum of the plain kernels: FC_SUM_TERMS in csrc/fastconv.h.
SUM_TERMS = 256

# Weights that are read again and again come from the L3 above this size, from memory above that (of what a core has to
# itself).
L2_BYTES, L3_BYTES = 1 << 20, 6 << 20
# Transformed weights larger than this come from memory: half of a common last-level cache.
FAR_BYTES = 16 << 20

# Rows and columns of the register tile of each ISA's GEMM in float32, and elements of a vector (csrc/*/gemm.c).
# Portable work is counted as AVX-512's: its tile wastes next to nothing, and its rates were fitted so.
TILES = {"avx512": (14, 32, 16), "avx2": (6, 16, 8), "neon": (8, 12, 4)}
# Tiles of weights from which NCHW columns are packed that could be read in place (csrc/im2col_nchw.c).
PACKED_TILES = 8
# Floating-point operations that hide the transfer of a byte (8 and 32 choose as well within 3 %).
HIDDEN_FLOPS = 16
# Weights larger than this are far away when they are packed.
NEAR_WEIGHTS = 1 << 20
# Pixels that go through the loop nest at a time (csrc/im2col.h).
BLOCK_PIXELS = {"NHWC": 256, "NCHW": 128}
# HWIO weights up to so many bytes are read in place by the direct kernel (csrc/direct.c).
IN_PLACE_BYTES = 192 << 10
# Bytes of weights with which the direct kernel takes all panels of a tile in turn (csrc/direct_tile.h).
DIRECT_WEIGHTS = 16 << 10
# Least tiles of a block of Winograd's weight gradient, and the bytes that more of them may take (winograd_weight.c).
LEAST_TILES, BLOCK_BYTES = 128, 2 << 20
# Most tiles of a block of Winograd's, and output channels of a task by channel (csrc/winograd.c).
BLOCK_TILES, TASK_CHANNELS = 42, 32
# Rows of a block of the depthwise kernels in NCHW (csrc/depthwise_planes_tile.h).
BLOCK_ROWS = 14


def _register_tile() -> tuple[int, int, int]:
    """Rows, columns and lanes of the ISA in use."""
    return TILES.get(host.rated_isa(), TILES["avx512"])


def counted(work: Work, packed: bool) -> Work:
    """`work` without what packed weights save."""
    return {kind: amount for kind, amount in work.items() if kind not in WEIGHT_KINDS} if packed else work


def seconds(kernel: str, layout: str, work: Work, packed: bool = False) -> float:
    """Predicted seconds on one thread; `packed`: the weights come packed."""
    known = rates.rates_of(kernel, layout)
    total = 0.0
    for kind, amount in counted(work, packed).items():
        if known is not None:
            total += known.get(kind, UNSEEN.get(kind, 0.0)) * amount
        else:
            total += UNMEASURED.get(kind, UNMEASURED_BYTES) * amount
    return max(total, LEAST_SECONDS)


def _ceil(n: int, unit: int) -> int:
    return -(-n // unit)


def _compute(p: ConvProblem | PoolProblem) -> float:
    """Vector operations for each that float32 would take."""
    return p.itemsize / 4


def _traffic(p: ConvProblem) -> Work:
    """Bytes that come from memory: all, those that no work hides, those of which a group reads parts of lines; and the
    weights, which are packed, from nearby or from far away."""
    weights = float(p.oc * p.icg * p.kh * p.kw * p.itemsize)
    return {
        "image": float(p.bytes),
        "bare": max(0.0, p.bytes - p.flops / HIDDEN_FLOPS),
        "parted": float(p.bytes) if p.g > 1 and p.layout == "NHWC" else 0.0,
        "weights": weights,
        "far_weights": weights if weights > NEAR_WEIGHTS else 0.0,
    }


def naive(p: ConvProblem) -> Work:
    return {"python_calls": 1.0, "slow_flops": float(p.flops)}


def reference(p: ConvProblem) -> Work:
    return {"numpy_calls": 1.0, "numpy_flops": float(p.flops)}


def im2col(p: ConvProblem) -> Work:
    """A GEMM on register tiles that never leave the registers over {taps x channels}."""
    mr, nr, _ = _register_tile()
    taps = p.kh * p.kw
    if p.pass_ == "backward_weight":
        rows, columns, depth = p.icg * taps, p.ocg, p.mb * p.oh * p.ow
    else:
        forward = p.pass_ == "forward"
        columns, channels = (p.ocg, p.icg) if forward else (p.icg, p.ocg)
        h, w = (p.oh, p.ow) if forward else (p.ih, p.iw)
        rows, depth = p.mb * h * w, channels * taps
        if not forward:
            depth = max(1, depth // (p.sh * p.sw))
    if p.pass_ == "backward_weight":
        row_tiles, column_tiles = _ceil(rows, mr), _ceil(columns, nr)
        padded = rows * column_tiles * nr
    elif p.layout == "NHWC":
        wide = w >= 2 * mr  # tiles of wide rows do not cross them
        row_tiles, column_tiles = (
            p.mb * h * _ceil(w, mr) if wide else _ceil(rows, mr),
            _ceil(columns, nr),
        )
        padded = rows * column_tiles * nr
    else:
        row_tiles, column_tiles = _ceil(rows, nr), _ceil(columns, mr)
        padded = columns * row_tiles * nr
    tiles = p.g * row_tiles * column_tiles
    gathered = float(p.g * rows * depth * p.itemsize)
    pointwise = taps == p.sh == p.sw == 1 and p.ph == p.pw == p.ph_r == p.pw_r == 0 and p.pass_ != "backward_weight"
    if pointwise and (p.layout == "NHWC" or column_tiles < PACKED_TILES):
        gathered = 0.0  # read in place
    moves = 0.0
    if p.layout == "NCHW" and p.pass_ != "backward_weight" and gathered:
        # Each row of a panel is written in runs: the pixels of one output row.
        flat = p.sh == p.sw == 1 and (p.oh, p.ow) == (p.ih, p.iw)
        moves = float(p.g * row_tiles * depth * (1 if flat else 1 + nr / w))
    scattered = 0.0
    if p.layout == "NCHW" and p.pass_ != "backward_weight":
        # Tiles across two images, and those of an input gradient with a stride, are stored by pieces.
        across = min(row_tiles, max(p.mb - 1, 0)) if h * w % nr else 0
        scattered = float(p.g * columns * (row_tiles if p.pass_ == "backward_input" and p.sw > 1 else across))
    return {
        "calls": 1.0,
        "tasks": float(p.g * _ceil(rows, BLOCK_PIXELS[p.layout])) if p.pass_ != "backward_weight" else 0.0,
        "moves": moves,
        "scattered": scattered,
        # Cells that are not neighbours, which one tap alone reads.
        "strided": gathered if p.sw > 1 and p.pass_ == "forward" and taps > 1 else 0.0,
        "alone": gathered if p.sw > 1 and p.pass_ == "forward" and taps == 1 else 0.0,
        "flops": 2.0 * p.g * padded * depth * _compute(p),
        "tile_steps": tiles * depth * _compute(p),
        "tiles": float(tiles),
        "gathered": gathered,
        **_traffic(p),
        "streamed": float(p.oc * p.icg * taps * p.itemsize * _ceil(rows, BLOCK_PIXELS[p.layout])),
    }


def im2col_f64(p: ConvProblem) -> Work:
    """im2col on float64, and copies there and back."""
    wide = replace(p, dtype="float64")
    return {**im2col(wide), "widened": float(p.bytes)}


def direct(p: ConvProblem) -> Work:
    """A GEMM whose panels are never packed. Output rows are cut on their own or, in NCHW where that would waste parts
    of vectors, joined by copying the image once for each filter column."""
    mr, nr, lanes = _register_tile()
    depth, images = p.icg * p.kh * p.kw, p.mb * p.g
    copied = 0.0
    if p.layout == "NHWC":
        count, rows, columns = images * p.oh, p.ow, p.ocg
    elif p.ow % lanes == 0:
        count, rows, columns = images * p.oh, p.ocg, p.ow
    else:
        count, rows, columns = images, p.ocg, p.oh * p.ow
        copied = float(p.mb * p.ic * p.kw * min(p.sh, p.kh) * p.oh * p.ow * p.itemsize)
    tiles = count * _ceil(rows, mr) * _ceil(columns, nr)
    low = 2 * _ceil(rows, _ceil(rows, mr)) <= mr  # loads take longer than the multiply-adds of so few rows
    weights = kept = float(p.oc * depth * p.itemsize)
    if p.layout == "NHWC" and p.ocg >= lanes and weights <= IN_PLACE_BYTES:
        weights = 0.0
    # Weights that do not stay in the L1 are read again for each row in NHWC, for each task in NCHW; and the pixels
    # under it for each panel of them, for each tile.
    task_rows, strip = direct_task(p)
    window, tasks = (p.kh - 1) * p.dh + 1, images * _ceil(p.oh, task_rows)
    rows_again, panels = (1, _ceil(columns, nr)) if p.layout == "NHWC" else (task_rows, _ceil(p.ocg, mr))
    times_again = images * _ceil(p.oh, rows_again) if kept / p.g > DIRECT_WEIGHTS else 0
    bytes_again = ((rows_again - 1) * p.sh + window) * p.iw * p.icg * p.itemsize * panels
    rows_copied = tasks * ((task_rows - 1) * p.sh + window) if strip else 0
    if p.layout == "NCHW":
        rows_copied *= p.icg * (p.kw if copied else p.sw if p.kw > 1 else 1)
    return {
        "calls": 1.0,
        "tasks": float(tasks),
        "moves": float(rows_copied),
        "streamed": kept / p.g * times_again,
        "rows_again": float(times_again * bytes_again),
        "flops": 2.0 * count * rows * _ceil(columns, lanes) * lanes * depth * _compute(p),
        "tile_steps": tiles * depth * _compute(p),
        "low_steps": tiles * depth * _compute(p) if low else 0.0,
        "tiles": float(tiles),
        "gathered": copied,
        **_traffic(p),
        "weights": weights,
    }


def conv_pool_direct(p: ConvPoolProblem) -> Work:
    """Four sums for each pooled output; of their gradients only the winner's."""
    lanes = _register_tile()[2]
    cells = float(p.mb * (p.oh // 2) * (p.ow // 2) * _ceil(p.oc, lanes) * lanes)
    taps = cells * p.ic * p.kh * p.kw * _compute(p)
    return {
        "calls": 1.0,
        "flops": 2 * taps * (4 if p.pass_ == "forward" else 1),
        "cells": cells * _compute(p),
        "image": float(p.bytes),
    }


def _blocks(p: ConvProblem, depth: int) -> float:
    """Blocks of rows and columns of a plane that kernels along the width take, for each plane summed over."""
    h, w, planes = (p.ih, p.iw, p.ic) if p.pass_ == "backward_input" else (p.oh, p.ow, p.oc)
    lanes = _register_tile()[2]
    return float(p.mb * planes * depth * _ceil(h, BLOCK_ROWS) * _ceil(w, lanes)) if p.layout == "NCHW" else 0.0


def depthwise(p: ConvProblem) -> Work:
    """Multiply-adds on whole vectors: of channels in NHWC, of columns in NCHW."""
    forward = p.pass_ != "backward_input"
    lanes = _register_tile()[2]
    width = (p.oc if forward else p.ic) if p.layout == "NHWC" else (p.ow if forward else p.iw)
    own_loop = p.kh == p.kw and p.kw in (3, 5, 7) and p.sh == p.sw and p.sw <= 2 and p.dh == p.dw == 1
    own_loop = own_loop and (forward or p.sw == 1 or p.layout == "NHWC")
    repeated = p.layout == "NHWC" and p.ocg > 1  # channels under a vector are, or they are summed
    if repeated and not forward and p.ocg > 2:
        rate = "gathered_flops"
    elif p.layout == "NCHW" and not own_loop:
        rate = "any_flops"
    elif not own_loop or (repeated and (not forward or p.kw != 3)) or (p.pass_ == "forward" and p.ocg > 4):
        rate = "single_flops"  # the last: one channel is loaded for each of many outputs, the direct kernel's work
    else:
        rate = "flops"
    return {
        "calls": 1.0,
        rate: p.flops * _compute(p) * _ceil(width, lanes) * lanes / max(width, 1),
        "tiles": _blocks(p, p.ocg if p.pass_ == "backward_input" else 1),
        "image": float(p.bytes),
        "weights": float(p.oc * p.kh * p.kw * p.itemsize),
    }


def grouped(p: ConvProblem) -> Work:
    """As depthwise, once for each channel of a group."""
    forward = p.pass_ == "forward"
    size = p.kw in (3,) if p.layout == "NHWC" else p.kw in (3, 5, 7)
    fast = size and p.kh == p.kw and p.sh == p.sw and p.sw <= (2 if forward else 1) and p.dh == p.dw == 1
    width = p.oc if p.layout == "NHWC" else (p.ow if forward else p.iw)
    lanes = _register_tile()[2]
    flops = p.flops * _compute(p) * _ceil(width, lanes) * lanes / max(width, 1)
    return {
        "calls": 1.0,
        "flops" if fast else "single_flops": flops,
        "tiles": _blocks(p, p.icg),
        "image": float(p.bytes),
        "weights": float(p.oc * p.icg * p.kh * p.kw * p.itemsize),
    }


def winograd(p: ConvProblem, tile: int) -> Work:
    """F(tile, r) in the dimensions that the filter spans: GEMM of the points; transforms of images and weights."""
    if p.pass_ == "backward_weight":
        return winograd_weight(p, tile)
    if p.pass_ == "forward":
        return _winograd_tiles(p, tile, p.oh, p.ow, p.icg, p.ocg)
    return _winograd_tiles(p, tile, p.ih, p.iw, p.ocg, p.icg)


def winograd_adjoint(p: ConvProblem, tile: int) -> Work:
    """The input gradient by the tiles of the forward pass."""
    return _winograd_tiles(p, tile, p.oh, p.ow, p.ocg, p.icg, always_by_tile=True)


def winograd_pooled(p: ConvPoolProblem, tile: int) -> Work:
    """Pooled outputs, or their gradients: an odd last row or column is left out."""
    even = replace(p, oh=p.oh // 2 * 2, ow=p.ow // 2 * 2)
    return winograd_adjoint(even, tile) if p.pass_ == "backward_input" else winograd(even, tile)


def _winograd_tiles(
    p: ConvProblem, tile: int, h: int, w: int, ic: int, oc: int, always_by_tile: bool = False
) -> Work:
    """Tiles over h x w cells that sum over ic channels, for oc of them."""
    tile_h, tile_w = 1 if p.kh == 1 else tile, 1 if p.kw == 1 else tile
    points = (tile_h + p.kh - 1) * (tile_w + p.kw - 1)
    tiles = p.mb * _ceil(h, tile_h) * _ceil(w, tile_w)
    mr, nr, lanes = _register_tile()
    columns = _ceil(oc, nr)
    u = float(p.g * points * ic * columns * nr * p.itemsize)
    by_channel = not always_by_tile and winograd_by_channel(tiles, points, ic, oc, p.itemsize)
    again = 0.0 if by_channel else u * _ceil(tiles, BLOCK_TILES)  # what blocks of tiles read
    # In NCHW a row of tiles is turned to vectors of channels, and back.
    rows = p.mb * _ceil(h, tile_h) * p.g if p.layout == "NCHW" else 0
    return {
        "calls": 1.0,
        "turned": float(rows * (_ceil(ic, lanes) + _ceil(oc, lanes))),
        "flops": 2.0 * p.g * tiles * points * ic * columns * nr * _compute(p),
        "tile_steps": p.g * _ceil(tiles, mr) * points * ic * columns * _compute(p),
        "tiles": float(p.g * _ceil(tiles, mr) * points * columns),
        "inputs": float(tiles * points * p.g * _ceil(ic, lanes) * lanes * p.itemsize),
        "outputs": float(tiles * points * p.g * columns * nr * p.itemsize),
        "image": float(p.bytes),
        "weights": u,
        "streamed": again,
        "streamed_l3": again if u > L2_BYTES else 0.0,
        "streamed_far": again if u > L3_BYTES else 0.0,
        "far": u if u > FAR_BYTES else 0.0,
        "inputs_again": float(p.g * tiles * points * ic * _ceil(oc, TASK_CHANNELS) * p.itemsize) if by_channel else 0.0,
    }


def winograd_weight(p: ConvProblem, tile: int) -> Work:
    """The same, with the tiles summed over."""
    tile_h, tile_w = 1 if p.kh == 1 else tile, 1 if p.kw == 1 else tile
    points = (tile_h + p.kh - 1) * (tile_w + p.kw - 1)
    tiles = p.mb * _ceil(p.oh, tile_h) * _ceil(p.ow, tile_w)
    mr, nr, lanes = _register_tile()
    rows, columns = _ceil(p.icg, mr), _ceil(p.ocg, nr)
    held = BLOCK_BYTES // (points * (p.icg + p.ocg) * p.itemsize)
    blocks = _ceil(tiles, max(LEAST_TILES, held))
    u = float(p.g * points * p.icg * columns * nr * p.itemsize)
    return {
        "calls": 1.0,
        "tasks": float(p.g * blocks),
        "flops": 2.0 * p.g * tiles * points * p.icg * columns * nr * _compute(p),
        "tile_steps": p.g * rows * columns * points * tiles * _compute(p),
        "tiles": float(p.g * rows * columns * points * blocks),
        "inputs": float(tiles * points * p.g * _ceil(p.icg, lanes) * lanes * p.itemsize),
        "outputs": float(tiles * points * p.g * _ceil(p.ocg, lanes) * lanes * p.itemsize),
        "image": float(p.bytes),
        "weights": u,
        "streamed": u * blocks,
        "streamed_l3": u * blocks if u > L2_BYTES else 0.0,
        "streamed_far": u * blocks if u > L3_BYTES else 0.0,
    }


winograd_adjoint_m2 = partial(winograd_adjoint, tile=2)
winograd_adjoint_m4 = partial(winograd_adjoint, tile=4)
winograd_adjoint_m6 = partial(winograd_adjoint, tile=6)
winograd_pooled_m2 = partial(winograd_pooled, tile=2)
winograd_pooled_m4 = partial(winograd_pooled, tile=4)
winograd_pooled_m6 = partial(winograd_pooled, tile=6)
winograd_m2 = partial(winograd, tile=2)
winograd_m4 = partial(winograd, tile=4)
winograd_m6 = partial(winograd, tile=6)


def pool(p: PoolProblem) -> Work:
    return {"calls": 1.0, "cells": float(p.flops * p.itemsize), "image": float(p.bytes)}


def pool_naive(p: PoolProblem) -> Work:
    return {"python_calls": 1.0, "slow_flops": float(p.flops) + p.bytes / p.itemsize}


def pool_reference(p: PoolProblem) -> Work:
    return {"numpy_calls": 1.0, "slow_flops": 4.0 * (p.flops + p.bytes / p.itemsize)}


# ---------------------------------------------------------------------------------------------------------------
# On a GPU: the larger of two times, that of its operations and that of its bytes, as work that is added

GPU_BALANCE = UNMEASURED["gpu_bytes"] / UNMEASURED["gpu_flops"]


def _roofline(flops: float, nbytes: float, launches: int = 1, doubles: bool = False) -> Work:
    """Operations, and the bytes that they do not hide."""
    rate = UNMEASURED["gpu_doubles" if doubles else "gpu_flops"] / UNMEASURED["gpu_flops"]
    bare = max(0.0, nbytes - flops * rate / GPU_BALANCE)
    return {"launches": float(launches), "gpu_doubles" if doubles else "gpu_flops": flops, "gpu_bytes": bare}


def gpu_im2col(p: ConvProblem) -> Work:
    """A product of matrices in tiles, and filters that are packed first, or sums that are added last."""
    moved = p.bytes + 2.0 * gpu_im2col_workspace(p, 1)
    return _roofline(2.0 * gpu_im2col_steps(p), moved, 2, p.dtype == "float64")


def gpu_winograd(p: ConvProblem) -> Work:
    moved = p.bytes + 2.0 * gpu_winograd_workspace(p, 1)
    return _roofline(2.0 * gpu_winograd_steps(p), moved, 3)


def gpu_winograd_passes(p: ConvProblem) -> Work:
    steps, through_scratch, launches = gpu_winograd_passes_steps(p)
    # the passes of the transforms do not overlap with the products: their bytes are added
    work = _roofline(2.0 * steps, float(p.bytes), launches)
    return {**work, "gpu_bytes": work["gpu_bytes"] + through_scratch}


def gpu_direct(p: ConvProblem) -> Work:
    moved = p.bytes + 2.0 * gpu_direct_workspace(p, 1)
    return _roofline(2.0 * gpu_direct_steps(p), moved, 2, p.dtype == "float64")


def gpu_depthwise(p: ConvProblem) -> Work:
    # a load and the arithmetic of its place for each product
    return _roofline(4.0 * p.flops, float(p.bytes), 2 if p.pass_ == "backward_weight" else 1, p.dtype == "float64")


def gpu_pool(p: PoolProblem) -> Work:
    return _roofline(float(p.flops), float(p.bytes))


def gpu_tf32(p: ConvProblem) -> Work:
    """As gpu_im2col, on tensor cores."""
    moved = p.bytes + 2.0 * gpu_im2col_tf32_workspace(p, 1)
    return _roofline(2.0 * gpu_im2col_steps(p, tensor=True), moved, 2)


def gpu_naive(p: ConvProblem) -> Work:
    # one thread adds up a result: term after term, each waiting for two loads
    return {"launches": 1.0, "gpu_slow_flops": float(p.flops), "gpu_terms": float(_terms(p))}


# ---------------------------------------------------------------------------------------------------------------
# Errors: the largest one to expect, as a share of the largest output


def _terms(p: ConvProblem) -> int:
    return max(1, p.icg * p.kh * p.kw if p.pass_ != "backward_weight" else p.mb * p.oh * p.ow)


def plain_error(p: ConvProblem) -> float:
    """Rounding errors of a sum grow like a random walk: within its partial sums (FC_SUM_TERMS in csrc/fastconv.h), and
    over them. Inputs and weights as in winograd.expected_error; measured: half to nearly all of it."""
    partial = min(_terms(p), SUM_TERMS)
    return 1.1 * EPS[p.dtype] * max(1.0, ((partial + _terms(p) / partial) / 2) ** 0.5)


def tf32_error(p: ConvProblem) -> float:
    """Operands rounded to 10 bits of mantissa; the largest error over the largest output, about twice that of cuDNN.
    Where many are added, also that tensor cores cut off after 8 products what does not fit into the sum's 24 bits (Fasi
    et al. 2021, section 3.2), always towards zero."""
    terms = gpu_tf32_part(p) if p.pass_ == "backward_weight" else _terms(p)
    return 1e-3 + EPS[p.dtype] / 2 * terms / 8


def chain_error(p: ConvProblem) -> float:
    """The same of one sum after the other, as Numba's kernels add."""
    return 1.1 * EPS[p.dtype] * max(1.0, (_terms(p) / 2) ** 0.5)


def exact_error(p: ConvProblem | PoolProblem) -> float:
    """Accumulated in float64 (or integers) and rounded once."""
    return EPS[p.dtype]


def pool_error(p: PoolProblem) -> float:
    return 0.0 if "max" in p.op else 4 * EPS[p.dtype]


def _winograd_error(p: ConvProblem, tile: str) -> float:
    """What winograd.py measured, by the channels summed over."""
    expected_error = load("fastconv.winograd").expected_error  # on use: its exact fractions cost 7 ms at import
    return expected_error(tile, p.icg if p.pass_ == "forward" else p.ocg, p.dtype, p.pass_ == "backward_weight")


winograd_f2x3_error = partial(_winograd_error, tile="f2x3")
winograd_f4x3_error = partial(_winograd_error, tile="f4x3")
winograd_f6x3_error = partial(_winograd_error, tile="f6x3")
winograd_f2x5_error = partial(_winograd_error, tile="f2x5")
winograd_f4x5_error = partial(_winograd_error, tile="f4x5")
winograd_f4x3_1d_error = partial(_winograd_error, tile="f4x3_1d")
winograd_f6x3_1d_error = partial(_winograd_error, tile="f6x3_1d")
winograd_f4x5_1d_error = partial(_winograd_error, tile="f4x5_1d")
winograd_f4x7_1d_error = partial(_winograd_error, tile="f4x7_1d")


def gpu_winograd_weight_error(p: ConvProblem) -> float:
    """F(4x4, 3x3) with sums over tiles one after the other, where winograd.py measured sums in blocks: from 256 tiles
    on the error grows with their square root (1024 of 16,000 tiles: 3.3e-6; 4096: 6.0e-6; all: 1.5e-5)."""
    return winograd_f4x3_error(p) * max(1.0, (gpu_winograd_depth(p) / 256) ** 0.5)
