"""Block sizes of the Numba kernels and the workspace that follows from them; plain Python, Numba is not imported.

Sizes do not depend on the host's vector length: a panel is counted at MAX_COLUMNS, the width it has with AVX-512.
"""

from __future__ import annotations

from typing import NamedTuple

from fastconv._numba import Conv

LINE_BYTES = 64
ITEMSIZE = {"float32": 4, "float64": 8}

# Columns of the widest micro-kernel tile, and a multiple of every tile's (2 vectors of 512 bits of float32).
MAX_COLUMNS = 32
# Columns of the narrowest (2 vectors of 128 bits of float64).
MIN_COLUMNS = 4
# Rows of the tallest micro-kernel tile.
MAX_ROWS = 14

# Terms of one pass over the reduction: a panel of that depth stays in the first-level cache, and sums stay short.
# Measured beside 4,600 terms: bench/results/tried.md.
DEPTH_TERMS = 256
# Pixels of a block: multiples of the tile's rows (14 or 6), and of its columns. Measured on Zen 4, before the depth.
NHWC_PIXELS = 168
NCHW_PIXELS = 192

# Weight gradient: pixels summed in one go (short partial sums round less), elements of a copy of the input.
GRADIENT_PIXELS = 256
GRADIENT_COPY = 64 * 1024
# Input channels up to which the copy of an image in NCHW comes pixel after pixel, too.
GRADIENT_THIN = 4
# Gathers: tasks of a thread below which its output channels are parted, and channels of a part at least.
PARTED_TASKS = 3
PARTED_CHANNELS = 64
# Tasks that are enough to occupy the threads evenly.
ENOUGH_TASKS = 8

# Winograd, as in csrc/winograd.c, where the figures are: elements after points, tiles of a block (and of one in one
# dimension), output channels of a block, tiles and input channels of one task of the transforms of inputs and weights,
# and the few tiles under many channels and large weights whose threads share the channels.
WINOGRAD_PAD = 16
WINOGRAD_TILES = 42
WINOGRAD_LINE_TILES = 126
WINOGRAD_CHANNELS = 64
WINOGRAD_INPUT_TILES = 14
WINOGRAD_PACK_CHANNELS = 8
WINOGRAD_FEW_TILES = 98
WINOGRAD_MANY_CHANNELS = 128
WINOGRAD_LARGE_WEIGHTS = 4 << 20
# Input channels of a partial sum: fewer where A^T magnifies errors more.
WINOGRAD_TERMS = {"f6x3": 64, "f4x5": 128}
# Channels of a tile on the rim gathered at a time (NHWC), and pixels of the rows of tiles taken at once (NCHW).
WINOGRAD_PATCH = 64
WINOGRAD_BAND_PIXELS = 256
# Weight gradient: tiles of a block at least, and bytes of transforms that stay in cache; see csrc/winograd_weight.c.
WINOGRAD_LEAST_TILES = 128
WINOGRAD_BLOCK_BYTES = 2 << 20
# Elements of the longest vector; staged rows have this slack.
MAX_LANES = 16


def ceil_div(n: int, d: int) -> int:
    return -(-n // d)


def round_up(n: int, multiple: int) -> int:
    return ceil_div(n, multiple) * multiple


def row_stride(depth: int, itemsize: int) -> int:
    """Elements from row to row of a panel: an odd number of cache lines, so that the rows of a tile spread over the
    sets of the first-level cache."""
    per_line = LINE_BYTES // itemsize
    return (ceil_div(max(depth, 1), per_line) | 1) * per_line


def lines(elements: int, itemsize: int) -> int:
    """`elements` rounded up to whole cache lines."""
    return round_up(elements, LINE_BYTES // itemsize)


class GatherBlocks(NamedTuple):
    """Blocking of the gather convolution; sizes in elements, `table` in int64."""

    pixels: int  # output pixels of a block
    channels: int  # input channels of a block of the reduction
    taps: int  # filter taps of a block of the reduction
    together: int  # NHWC: taps of a run of contiguous inputs
    weights: int  # packed weights, shared by all threads
    panel: int  # packed pixels of one thread
    sums: int  # its unfinished outputs
    table: int  # its table of where pixels (and, in NHWC, their runs) lie


def _pixel_block(pixels: int, high: int) -> int:
    """Blocks of one size, of `high` pixels at most."""
    pixels = max(pixels, 1)
    return ceil_div(pixels, ceil_div(pixels, high))


def _rows_of_pixels(itemsize: int, g: int, outs: int, ins: int, taps: int, row: int, pixels: int) -> GatherBlocks:
    """NHWC. `row`: taps of a filter row that follow each other in memory, or 1."""
    together = row if row * ins <= DEPTH_TERMS else 1
    channels = ins if together > 1 else ceil_div(ins, max(1, ceil_div(ins, DEPTH_TERMS)))
    runs = max(1, min(taps // together, DEPTH_TERMS // max(1, together * channels)))
    block = _pixel_block(pixels, NHWC_PIXELS)
    one_pass = channels == ins and runs * together == taps
    run = together * ins
    return GatherBlocks(
        block, channels, runs * together, together,
        weights=lines(g * round_up(outs, MAX_COLUMNS) * taps * ins, itemsize),
        panel=lines(run * (1 + (block * taps // together if together > 1 else 0)) + MAX_COLUMNS, itemsize),
        sums=lines(block * (MAX_COLUMNS if one_pass else round_up(outs, MAX_COLUMNS)), itemsize),
        table=4 * block + taps // together * block,
    )  # fmt: skip


def _columns_of_pixels(itemsize: int, g: int, outs: int, ins: int, taps: int, pixels: int) -> GatherBlocks:
    """NCHW."""
    taps_block = max(1, min(taps, DEPTH_TERMS))
    most = max(1, DEPTH_TERMS // taps_block)
    channels_block = max(1, ceil_div(ins, max(1, ceil_div(ins, most))))
    depth = taps_block * channels_block
    block = round_up(_pixel_block(pixels, NCHW_PIXELS), MAX_COLUMNS)
    one_pass = depth >= taps * ins
    return GatherBlocks(
        block, channels_block, taps_block, 1,
        weights=lines(g * outs * row_stride(taps * ins, itemsize), itemsize),
        panel=lines(block * depth, itemsize),
        sums=lines(block * (MAX_ROWS if one_pass else outs) + MAX_COLUMNS, itemsize),
        table=4 * block,
    )  # fmt: skip


class Axis(NamedTuple):
    """One residue class of output positions r, r + step, ... along an axis, and the taps that reach it."""

    first: int
    size: int
    taps: tuple[int, ...]  # filter positions
    offsets: tuple[int, ...]  # of the source position, at output number 0


def forward_axis(o: int, k: int, pad: int, d: int) -> list[Axis]:
    return [Axis(0, o, tuple(range(k)), tuple(a * d - pad for a in range(k)))]


def backward_axes(i: int, k: int, s: int, pad: int, d: int) -> list[Axis]:
    """Input position r + s q receives filter tap a from output position q + (r + pad - a d) / s, if that is whole.

    Residue classes that no tap reaches are left out.
    """
    reached = sorted({(a * d - pad) % s for a in range(k)})
    found = []
    for r in (r for r in reached if r < i):
        taps = tuple(a for a in range(k) if (r + pad - a * d) % s == 0)
        found.append(Axis(r, ceil_div(i - r, s), taps, tuple((r + pad - a * d) // s for a in taps)))
    return found


def axes(p: Conv, backward: bool) -> tuple[list[Axis], list[Axis]]:
    if backward:
        return backward_axes(p.ih, p.kh, p.sh, p.ph, p.dh), backward_axes(p.iw, p.kw, p.sw, p.pw, p.dw)
    return forward_axis(p.oh, p.kh, p.ph, p.dh), forward_axis(p.ow, p.kw, p.pw, p.dw)


def class_blocks(p: Conv, backward: bool, rows: Axis, cols: Axis) -> GatherBlocks:
    outs, ins = (p.icg, p.ocg) if backward else (p.ocg, p.icg)
    taps, pixels = len(rows.taps) * len(cols.taps), p.mb * rows.size * cols.size
    if not p.nhwc:
        return _columns_of_pixels(ITEMSIZE[p.dtype], p.g, outs, ins, taps, pixels)
    offsets = sorted(cols.offsets)
    in_a_row = p.g == 1 and offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    return _rows_of_pixels(
        ITEMSIZE[p.dtype], p.g, outs, ins, taps, len(offsets) if in_a_row else 1, pixels
    )  # fmt: skip


class GradientBlocks(NamedTuple):
    """Blocking of the weight gradient; sizes in elements."""

    rows: int  # output rows of a block
    channels: int  # input channels of a copy
    planar: bool  # the copy comes channel after channel
    width: int  # columns of the copy, `step` columns of the input apart
    step: int
    image_rows: int  # its rows under an output row, and from one output row to the next
    row_step: int
    sums: int  # all sums, shared
    own: int  # of a thread: the copy, a panel of the output gradient, a table
    copy: int
    panel: int


def gradient_blocks(p: Conv) -> GradientBlocks:
    itemsize = ITEMSIZE[p.dtype]
    rows = max(1, min(GRADIENT_PIXELS // max(p.ow, 1), p.mb * p.oh))
    step = p.sw if p.kw == 1 else 1
    width = p.ow if p.kw == 1 else (p.ow - 1) * p.sw + (p.kw - 1) * p.dw + 1
    image_rows = (p.kh - 1) * p.dh + 1
    row_step = 1 if p.kh == 1 else min(p.sh, image_rows)
    images = min(p.mb, ceil_div(rows, max(p.oh, 1)) + 1)  # whose rows are in a block
    cells = width * min(rows * image_rows, rows * row_step + images * image_rows)
    multiple = MAX_ROWS * 3  # of any tile's rows
    channels = max(multiple, GRADIENT_COPY // max(1, cells) // multiple * multiple)
    planar = not p.nhwc and p.icg > GRADIENT_THIN
    copy = lines(cells * (min(channels, p.icg) + MAX_ROWS) + MAX_COLUMNS, itemsize)
    panel = lines((rows * p.ow + MAX_LANES) * MAX_COLUMNS, itemsize)
    table = lines(ceil_div(2 * rows * 8, itemsize), itemsize)
    sums = p.g * round_up(p.ocg, MAX_COLUMNS) * p.kh * p.kw * p.icg
    return GradientBlocks(
        rows, channels, planar, width, step, image_rows, row_step, lines(sums, itemsize),
        copy + panel + table, copy, panel,
    )  # fmt: skip


def gather_thread_bytes(b: GatherBlocks, itemsize: int) -> int:
    return (b.panel + b.sums) * itemsize + lines(b.table, 8) * 8


def gather_parts(tasks: int, outs: int, threads: int) -> int:
    """Parts of the output channels that are tasks of their own, where there are few blocks of pixels."""
    if threads == 1 or tasks >= PARTED_TASKS * threads:
        return 1
    return max(1, min(ceil_div(PARTED_TASKS * threads, max(tasks, 1)), outs // PARTED_CHANNELS))


def im2col_bytes(p: Conv, pass_: str, threads: int, packed: bool = False) -> int:
    """Workspace of the im2col kernels; `packed`: of a call whose weights are."""
    itemsize = ITEMSIZE[p.dtype]
    if pass_ == "backward_weight":
        blocks = gradient_blocks(p)
        return (blocks.sums + threads * blocks.own) * itemsize
    need = 0
    row_axes, column_axes = axes(p, pass_ == "backward_input")
    for rows in row_axes:
        for cols in column_axes:
            b = class_blocks(p, pass_ == "backward_input", rows, cols)
            weights = 0 if packed else b.weights * itemsize
            need = max(need, weights + threads * gather_thread_bytes(b, itemsize))
    return need


class WinogradGrid(NamedTuple):
    """How a batch is cut into tiles of tile_h x tile_w outputs; inputs of a tile; rows taken at once (NCHW)."""

    tile_h: int
    tile_w: int
    tiles_h: int
    tiles_w: int
    tiles: int
    alpha_h: int
    alpha_w: int
    band_rows: int

    @property
    def points(self) -> int:
        return self.alpha_h * self.alpha_w

    def scratch(self, most: int) -> int:
        """Elements of a patch of a tile, or of a strip of at most so many tiles of a row of tiles."""
        height, width = (self.band_rows - 1) * self.tile_h + self.alpha_h, (min(most, self.tiles_w) - 1) * self.tile_w
        return max(self.points * WINOGRAD_PATCH, height * (width + self.alpha_w) * MAX_LANES)


def winograd_grid(p: Conv, m: int, oh: int, ow: int) -> WinogradGrid:
    tile_h, tile_w = 1 if p.kh == 1 else m, 1 if p.kw == 1 else m
    tiles_h, tiles_w = ceil_div(oh, tile_h), ceil_div(ow, tile_w)
    band = max(1, min(tiles_h, WINOGRAD_BAND_PIXELS // max(1, tile_h * tiles_w * tile_w)))
    return WinogradGrid(
        tile_h, tile_w, tiles_h, tiles_w, p.mb * tiles_h * tiles_w, tile_h + p.kh - 1, tile_w + p.kw - 1, band
    )


class WinogradBlocks(NamedTuple):
    """Blocking of a Winograd convolution; sizes in elements."""

    grid: WinogradGrid
    shared: bool  # all tiles are transformed first, then the threads share the output channels
    blocks: int  # blocks of tiles
    row: int  # transformed inputs, from tile to tile
    point: int  # and from point to point
    product_point: int  # products, from point to point; their rows are WINOGRAD_CHANNELS long
    bias_row: int
    bias: int  # padded to whole panels
    weights: int  # transformed: all of them, or (shared) those of one panel for each thread, or (packed before) none
    all_weights: int  # of all panels, as plans hold them
    inputs: int  # transformed, of one thread or (shared) of all tiles of one group
    products: int  # of one thread
    scratch: int
    suspects: int  # int64: tiles that are not finite, and whether there are any

    def common(self, groups: int) -> int:
        """What all threads share beside the bias."""
        return groups * self.inputs if self.shared else self.weights

    def private(self) -> int:
        """What each thread has for itself: products, scratch, and what the others do not share."""
        return self.products + self.scratch + (self.weights if self.shared else self.inputs)

    def elements(self, groups: int, threads: int) -> int:
        return self.bias + self.common(groups) + threads * self.private()


def winograd_blocks(p: Conv, backward: bool, m: int, packed: bool = False) -> WinogradBlocks:
    """Blocks of F(m x m, r x r), or of F(m, r) for a filter of one row or column; `packed`: of weights that are."""
    itemsize = ITEMSIZE[p.dtype]
    outs, ins = (p.icg, p.ocg) if backward else (p.ocg, p.icg)
    grid = winograd_grid(p, m, p.ih if backward else p.oh, p.iw if backward else p.ow)
    tiles, points = max(1, grid.tiles), grid.points
    large = points * ins * outs * itemsize >= WINOGRAD_LARGE_WEIGHTS
    shared = tiles <= WINOGRAD_FEW_TILES and outs >= WINOGRAD_MANY_CHANNELS and large
    most = WINOGRAD_LINE_TILES if 1 in (p.kh, p.kw) else WINOGRAD_TILES
    blocks = ceil_div(tiles, most if shared else max(MAX_ROWS, min(most, ceil_div(tiles, 4))))
    block = min(tiles, ceil_div(tiles, blocks) + MAX_ROWS)  # of whole register tiles, see block_start
    row = row_stride(ins, itemsize)
    point = (tiles if shared else block) * row + WINOGRAD_PAD
    product_point = block * WINOGRAD_CHANNELS + WINOGRAD_PAD
    strip = min(block, grid.tiles_w) * grid.tile_w + MAX_LANES
    scratch = max(
        grid.scratch(max(block, WINOGRAD_INPUT_TILES)),
        grid.band_rows * grid.tile_h * strip * MAX_LANES,
        (p.kh * p.kw * MAX_LANES + MAX_LANES) * MAX_LANES,
    )
    all_columns = p.g * (outs + MAX_COLUMNS - 1)
    all_weights, panel = (lines(points * (ins * n + p.g * WINOGRAD_PAD), itemsize) for n in (all_columns, MAX_COLUMNS))
    bias_row = round_up(outs, MAX_COLUMNS)
    return WinogradBlocks(
        grid, shared, blocks, row, point, product_point, bias_row,
        bias=lines(p.g * bias_row, itemsize),
        weights=0 if packed else panel if shared else all_weights,
        all_weights=all_weights,
        inputs=lines(points * point, itemsize),
        products=lines(points * product_point, itemsize),
        scratch=lines(scratch, itemsize),
        suspects=p.g * tiles + 1,
    )  # fmt: skip


class WinogradGradientBlocks(NamedTuple):
    """Blocking of a weight gradient; sizes in elements."""

    grid: WinogradGrid
    tiles: int  # of a block
    v_row: int  # transformed inputs and output gradients, from tile to tile and from point to point
    v_point: int
    m_row: int
    m_point: int
    u_row: int  # gradients of transformed weights, from input channel to input channel and from point to point
    u_point: int
    scratch: int

    def elements(self, threads: int) -> int:
        """Transforms, their products, and scratch of each thread."""
        return self.grid.points * (self.v_point + self.m_point + self.u_point) + threads * self.scratch


def winograd_gradient_blocks(p: Conv, m: int) -> WinogradGradientBlocks:
    itemsize = ITEMSIZE[p.dtype]
    grid = winograd_grid(p, m, p.oh, p.ow)
    v_row, m_row = row_stride(p.icg, itemsize), row_stride(p.ocg, itemsize)
    tiles = max(1, grid.tiles)
    held = WINOGRAD_BLOCK_BYTES // (grid.points * (v_row + m_row) * itemsize)
    block = ceil_div(tiles, ceil_div(tiles, max(WINOGRAD_LEAST_TILES, held)))
    u_row = round_up(p.ocg, MAX_COLUMNS)
    taps = (p.kh * p.kw + MAX_LANES) * MAX_LANES
    return WinogradGradientBlocks(
        grid, block,
        v_row, block * v_row + MAX_LANES,
        m_row, block * m_row + MAX_COLUMNS,  # whole rows of a panel are read
        u_row, p.icg * u_row + MAX_LANES,
        scratch=lines(max(grid.scratch(WINOGRAD_INPUT_TILES), taps), itemsize),
    )  # fmt: skip


class WinogradAdjointBlocks(NamedTuple):
    """Blocking of the adjoint input gradient; sizes in elements."""

    grid: WinogradGrid
    images: int  # of a task
    tiles: int  # of a block
    row: int  # transformed gradients, from tile to tile and from point to point
    point: int
    product_point: int
    weights: int
    inputs: int  # of one thread, and likewise
    products: int
    scratch: int

    def elements(self, threads: int) -> int:
        return self.weights + threads * self.private()

    def private(self) -> int:
        return self.inputs + self.products + self.scratch


def winograd_adjoint_blocks(p: Conv, m: int) -> WinogradAdjointBlocks:
    itemsize = ITEMSIZE[p.dtype]
    grid = winograd_grid(p, m, p.oh, p.ow)
    image = max(1, grid.tiles_h * grid.tiles_w)
    images = max(1, WINOGRAD_TILES // image)
    tiles = ceil_div(images * image, ceil_div(images * image, WINOGRAD_TILES))
    row = row_stride(p.ocg, itemsize)
    point, product_point = tiles * row + WINOGRAD_PAD, tiles * WINOGRAD_CHANNELS + WINOGRAD_PAD
    taps = (p.kh * p.kw + 1) * MAX_LANES * MAX_LANES
    return WinogradAdjointBlocks(
        grid, images, tiles, row, point, product_point,
        weights=lines(grid.points * (p.ocg * (p.icg + MAX_COLUMNS - 1) + WINOGRAD_PAD), itemsize),
        inputs=lines(grid.points * point, itemsize),
        products=lines(grid.points * product_point, itemsize),
        scratch=lines(max(grid.points * WINOGRAD_PATCH, taps), itemsize),
    )  # fmt: skip


def winograd_adjoint_bytes(p: Conv, m: int, threads: int) -> int:
    """Workspace of the adjoint input gradient, or of the plain sums in its place."""
    b = winograd_adjoint_blocks(p, m)
    return max(b.elements(threads) * ITEMSIZE[p.dtype] + LINE_BYTES, im2col_bytes(p, "backward_input", threads))


def winograd_bytes(p: Conv, pass_: str, m: int, threads: int, packed: bool = False) -> int:
    """Workspace of the Winograd kernels; `packed`: of a call whose weights are."""
    itemsize = ITEMSIZE[p.dtype]
    if pass_ == "backward_weight":
        g = winograd_gradient_blocks(p, m)
        return max(lines(g.elements(threads), itemsize) * itemsize + LINE_BYTES, im2col_bytes(p, pass_, threads))
    b = winograd_blocks(p, pass_ == "backward_input", m, packed)
    return b.elements(p.g, threads) * itemsize + lines(b.suspects, 8) * 8


# Products of a depthwise convolution that are worth a second thread, and packed weights.
DEPTHWISE_PARALLEL = 150_000
# Numbers of a tap in their tables.
DEPTHWISE_TAP = 5
# Output rows of a task whose source is copied with its channels in order (depthwise, NHWC, a multiplier).
DEPTHWISE_ROWS = 8


class DepthwiseBlocks(NamedTuple):
    """Blocking of a depthwise convolution; strides in elements, `weights`, `copy` and `table` in bytes."""

    weights: int  # packed, shared by all threads
    pitch: int  # NHWC: from tap to tap of them, never a multiple of what would put them into few sets of the cache
    rows: int  # output rows of a task, where the source is copied
    row: int  # of the copy: a row
    apart: int  # a channel of a group (NHWC) or the columns of one residue of the stride (NCHW)
    copy: int  # of one thread
    table: int


def depthwise_blocks(p: Conv, backward: bool) -> DepthwiseBlocks:
    """Forward and input gradient."""
    itemsize = ITEMSIZE[p.dtype]
    channels, depth = (p.g, p.ocg) if backward else (p.g * p.ocg, 1)
    ih, iw, sh, sw = (p.oh, p.ow, 1, 1) if backward else (p.ih, p.iw, p.sh, p.sw)
    taps = p.kh * p.kw
    pitch = round_up(channels, MAX_LANES) + MAX_LANES if p.nhwc else channels
    rows = row = apart = size = 0
    if p.nhwc and p.ocg > 1:
        rows, row = DEPTHWISE_ROWS, iw * channels
        apart = ((rows - 1) * sh + (p.kh - 1) * p.dh + 1) * row
        size = apart * depth
    elif not p.nhwc and sw > 1:
        apart = ceil_div(iw, sw)
        row = apart * sw
        size = ih * row
    if not p.nhwc:
        size += taps * depth * MAX_LANES  # masks
    return DepthwiseBlocks(
        lines(taps * depth * pitch, itemsize) * itemsize, pitch, rows, row, apart,
        lines(size, itemsize) * itemsize, lines(DEPTHWISE_TAP * taps * depth, 8) * 8,
    )  # fmt: skip


# Weight gradient in NHWC: tasks of output rows, at most so many; pixels of one at least, and of a call of the tile;
# channels of a task, where rows alone are too few.
DEPTHWISE_BLOCKS, DEPTHWISE_BLOCK_PIXELS, DEPTHWISE_PIXELS, DEPTHWISE_CHANNELS = 16, 256, 64, 64


class DepthwiseWeightBlocks(NamedTuple):
    """Blocking of a depthwise weight gradient; sizes in elements."""

    block: int  # NHWC: output rows of a task, how many such blocks, channels of a task, and parts of them
    blocks: int
    channels: int
    parts: int
    rows: int  # of a call of the tile
    row: int  # NCHW: columns of a copy
    shared: int  # the sums of the blocks
    own: int  # of a thread: a copy of the input, and (NCHW) sums


def depthwise_weight_blocks(p: Conv) -> DepthwiseWeightBlocks:
    itemsize = ITEMSIZE[p.dtype]
    channels, taps, rows = p.g * p.ocg, p.kh * p.kw, p.mb * p.oh
    if not p.nhwc:
        row = ceil_div(p.iw, p.sw)
        own = taps * MAX_LANES + (p.ih * row if p.sw > 1 else 0)
        return DepthwiseWeightBlocks(1, 1, channels, 1, 1, row, 0, lines(own, itemsize))
    width = max(1, p.ow)
    block = max(1, ceil_div(rows, DEPTHWISE_BLOCKS), ceil_div(DEPTHWISE_BLOCK_PIXELS, width))
    blocks = max(1, ceil_div(rows, block))
    part = channels if blocks >= ENOUGH_TASKS else min(channels, DEPTHWISE_CHANNELS)
    together = ceil_div(DEPTHWISE_PIXELS, width)
    copy = ((together - 1) * p.sh + (p.kh - 1) * p.dh + 1) * p.iw * channels if p.ocg > 1 else 0
    return DepthwiseWeightBlocks(
        block, blocks, part, max(1, ceil_div(channels, part)), together, 0,
        lines(blocks * taps * channels, itemsize), lines(copy, itemsize),
    )  # fmt: skip


def depthwise_bytes(p: Conv, pass_: str, threads: int) -> int:
    """Workspace of the depthwise kernels."""
    if pass_ == "backward_weight":
        blocks = depthwise_weight_blocks(p)
        return (blocks.shared + threads * blocks.own) * ITEMSIZE[p.dtype]
    b = depthwise_blocks(p, pass_ == "backward_input")
    return b.weights + threads * (b.copy + b.table)


# Direct convolution of few channels: elements of a copy.
DIRECT_COPY = 8 * 1024


class DirectBlocks(NamedTuple):
    """Blocking of the direct convolution; sizes in elements."""

    rows: int  # output rows of a task, and rows of the copy under one
    reach: int
    width: int  # columns of the input in it
    row: int  # strides of the copy: row; NCHW: columns of one residue of the stride, channel
    residue: int
    plane: int
    weights: int  # packed, shared by all threads
    copy: int  # of one thread


def direct_blocks(p: Conv) -> DirectBlocks:
    itemsize = ITEMSIZE[p.dtype]
    width, reach = (p.ow - 1) * p.sw + (p.kw - 1) * p.dw + 1, (p.kh - 1) * p.dh + 1
    channels = p.g * p.icg
    residue = ceil_div(width, p.sw) + 2 * MAX_LANES
    row = width * channels if p.nhwc else residue * p.sw
    cells = row if p.nhwc else row * channels
    rows = max(1, min(p.oh, (DIRECT_COPY // max(1, cells) - reach) // p.sh + 1))
    plane = ((rows - 1) * p.sh + reach) * row
    copy = (plane if p.nhwc else plane * channels) + MAX_COLUMNS
    weights = p.g * round_up(p.ocg, MAX_COLUMNS) * p.icg * p.kh * p.kw
    return DirectBlocks(
        rows, reach, width, row, residue, plane, lines(weights, itemsize), lines(copy, itemsize)
    )  # fmt: skip


def direct_bytes(p: Conv, threads: int) -> int:
    """Workspace of the direct kernel."""
    b = direct_blocks(p)
    return (b.weights + threads * b.copy) * ITEMSIZE[p.dtype]
