"""How work is cut: tiles of a block, splits of a sum, bytes of scratch memory; plain numbers, without Numba.

All are the same on every GPU, or the order of summation, and so the bits of a result, would depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastconv._cuda import Conv

# Multiprocessors of the GPUs that grids are cut for (H100, H200); a grid is right on any other.
MULTIPROCESSORS = 132
# Rows of a slice of a product of matrices: what lies in shared memory at a time.
DEPTH = 8
# Elements between the rows of a slice that stay empty, so that a column's cells lie in different banks; and where
# tensor cores take four rows at a time, of which a warp reads eight neighbours each.
PADDING, TENSOR_PADDING = 4, 8
# Scratch memory that the parts of a split weight gradient may take.
SPLIT_BYTES = 64 << 20
# Fewest pixels that are worth a block of a weight gradient.
SPLIT_PIXELS = 256
ITEMSIZE = {"float32": 4, "float64": 8, "int64": 8}


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    return -(-a // b) * b


def bytes_of(dtype: str, counts: Sequence[int]) -> int:
    """Bytes of arrays that start at multiples of 64 bytes each: see launch.carve."""
    return sum(round_up(count * ITEMSIZE[dtype], 64) for count in counts)


class Tile(NamedTuple):
    """Rows and columns of a block's results, and of a thread's."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int
    tensor: bool = False  # on tensor cores: see gemm.multiply_of

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (self.thread_rows * self.thread_columns)

    @property
    def row_stride(self) -> int:
        """Elements between the rows of a slice of the left operand."""
        return self.rows + (TENSOR_PADDING if self.tensor else PADDING)

    @property
    def column_stride(self) -> int:
        return self.columns + (TENSOR_PADDING if self.tensor else PADDING)

    @property
    def slices(self) -> int:
        """Elements of shared memory: two slices of the left operand, then two of the right."""
        return 2 * DEPTH * (self.row_stride + self.column_stride)


LARGE, WIDE, MEDIUM, SMALL = Tile(128, 128, 8, 8), Tile(64, 128, 8, 8), Tile(64, 64, 8, 4), Tile(32, 32, 4, 4)
# Results of a warp lie where tensor cores leave them: 4 rows and 16 columns of a thread.
TENSOR, TENSOR_SMALL = Tile(128, 128, 4, 16, True), Tile(64, 64, 4, 16, True)
TILES = {"float32": (LARGE, WIDE, MEDIUM, SMALL), "float64": (MEDIUM, SMALL), "tf32": (TENSOR, TENSOR_SMALL)}
# Multiply-adds a multiprocessor makes in the time of one of LARGE's: estimates, until a GPU was there to measure.
_EFFICIENCY = {LARGE: 1.0, WIDE: 0.95, MEDIUM: 0.75, SMALL: 0.45, TENSOR: 4.0, TENSOR_SMALL: 2.5}
# Blocks a multiprocessor holds.
_RESIDENT = {LARGE: 2, WIDE: 4, MEDIUM: 4, SMALL: 8, TENSOR: 2, TENSOR_SMALL: 8}


def tile_work(tile: Tile, rows: int, columns: int, products: int = 1) -> float:
    """Multiply-adds a step of the busiest multiprocessor, weighted: what one slice of depth takes, but for a factor."""
    blocks = products * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
    each = ceil_div(blocks, MULTIPROCESSORS)
    # a few resident blocks hide each other's waits; one alone does not
    hidden = min(1.0, 0.4 + 0.6 * min(each, _RESIDENT[tile]) / _RESIDENT[tile])
    return each * tile.rows * tile.columns / (_EFFICIENCY[tile] * hidden)


def best_tile(dtype: str, rows: int, columns: int, products: int = 1, largest: bool = True) -> Tile:
    """The tile that takes the least time; without `largest` one that leaves a thread more than 128 registers. The
    dtype "tf32" is float32 on tensor cores."""
    tiles = TILES.get(dtype, TILES["float64"])
    able = [tile for tile in tiles if largest or tile.threads <= 128]
    return min(able, key=lambda tile: tile_work(tile, rows, columns, products))


class Roles(NamedTuple):
    """A forward pass or an input gradient as one thing: a target image gathers from a source image."""

    ins: int  # channels of a group of the source
    outs: int  # of the target
    source: tuple[int, int]  # height, width
    target: tuple[int, int]
    classes: tuple[int, int]  # strides of the target: pixels of one residue class share their filter cells

    @property
    def class_pixels(self) -> tuple[int, int]:
        """Height and width of the largest class."""
        return ceil_div(self.target[0], self.classes[0]), ceil_div(self.target[1], self.classes[1])


def roles(p: Conv, backward: bool) -> Roles:
    if backward:
        return Roles(p.ocg, p.icg, (p.oh, p.ow), (p.ih, p.iw), (p.sh, p.sw))
    return Roles(p.icg, p.ocg, (p.ih, p.iw), (p.oh, p.ow), (1, 1))


class Packed(NamedTuple):
    """The tile of a forward pass or an input gradient, and the channels of its packed filters."""

    tile: Tile
    ins: int
    outs: int
    elements: int


def packed(p: Conv, backward: bool, tensor: bool = False) -> Packed:
    r = roles(p, backward)
    height, width = r.class_pixels
    tile = TENSOR
    if not tensor:
        tile = best_tile(p.dtype, r.outs, p.mb * height * width, p.g * r.classes[0] * r.classes[1])
    ins, outs = round_up(r.ins, DEPTH), round_up(r.outs, tile.rows)
    return Packed(tile, ins, outs, p.g * p.kh * p.kw * ins * outs)


class Split(NamedTuple):
    """The tile of a weight gradient, and how its pixels are cut."""

    tile: Tile
    parts: int
    pixels: int  # of a part
    elements: int  # of one part's sums


def split(p: Conv, tensor: bool = False) -> Split:
    pixels, cells = p.mb * p.oh * p.ow, p.kh * p.kw
    products = p.g * cells * max(1, min(32, pixels // SPLIT_PIXELS))
    tile = best_tile("tf32" if tensor else p.dtype, p.ocg, p.icg, products, tensor)
    blocks = p.g * cells * ceil_div(p.ocg, tile.rows) * ceil_div(p.icg, tile.columns)
    count = p.g * p.ocg * p.icg * cells
    most = max(1, SPLIT_BYTES // (count * ITEMSIZE[p.dtype]))
    parts = max(1, min(ceil_div(2 * MULTIPROCESSORS, blocks), pixels // SPLIT_PIXELS, most))
    length = round_up(ceil_div(max(pixels, 1), parts), DEPTH)
    return Split(tile, ceil_div(max(pixels, 1), length), length, count)


def im2col_bytes(p: Conv, pass_: str, tensor: bool = False) -> int:
    """Scratch memory of im2col.py: one flag and the packed filters, or the parts of the sums."""
    if pass_ == "backward_weight":
        cut = split(p, tensor)
        return bytes_of(p.dtype, [cut.parts * cut.elements])
    return bytes_of(p.dtype, [1, packed(p, pass_ == "backward_input", tensor).elements])


def im2col_steps(p: Conv, pass_: str, tensor: bool = False) -> float:
    """Multiply-adds in which the whole GPU does the work of im2col.py, if it is never idle: see tile_work."""
    cells = p.kh * p.kw
    if pass_ == "backward_weight":
        cut = split(p, tensor)
        return MULTIPROCESSORS * cut.pixels * tile_work(cut.tile, p.ocg, p.icg, p.g * cells * cut.parts)
    backward = pass_ == "backward_input"
    r, how = roles(p, backward), packed(p, backward, tensor)
    height, width = r.class_pixels
    classes = r.classes[0] * r.classes[1]
    work = tile_work(how.tile, r.outs, p.mb * height * width, p.g * classes)
    return MULTIPROCESSORS * work * how.ins * ceil_div(cells, classes)


# Channels that a block of a depthwise weight gradient has beside each other in NHWC.
NEIGHBOURS = 32
# Fewest pixels of a part of it: each thread then has a few.
DEPTHWISE_PIXELS = 1024


def depthwise_parts(p: Conv) -> tuple[int, int]:
    """Parts of a depthwise weight gradient, and pixels of each."""
    pixels = p.mb * p.oh * p.ow
    blocks = ceil_div(p.g * p.ocg, NEIGHBOURS) if p.nhwc else p.g * p.ocg
    wanted = max(1, min(ceil_div(8 * MULTIPROCESSORS, blocks), pixels // DEPTHWISE_PIXELS))
    each = max(1, ceil_div(pixels, wanted))
    return max(1, ceil_div(pixels, each)), each


def depthwise_bytes(p: Conv, pass_: str) -> int:
    """Scratch memory of depthwise.py."""
    if pass_ != "backward_weight":
        return 0
    return bytes_of(p.dtype, [depthwise_parts(p)[0] * p.g * p.ocg * p.kh * p.kw])


# Tiles, channels of the result and summed channels of a block of winograd.py.
WINOGRAD_TILES, WINOGRAD_OUTS, WINOGRAD_INS = 32, 32, 8


def winograd_packed(p: Conv, backward: bool) -> tuple[int, int, int]:
    """Summed channels and channels of the result of the transformed filters of F(2x2,3x3); their elements."""
    r = roles(p, backward)
    ins, outs = round_up(r.ins, WINOGRAD_INS), round_up(r.outs, WINOGRAD_OUTS)
    return ins, outs, 16 * p.g * ins * outs


def winograd_bytes(p: Conv, pass_: str) -> int:
    """Scratch memory of winograd.py: one flag and the transformed filters."""
    return bytes_of("float32", [1, winograd_packed(p, pass_ == "backward_input")[2]])


def winograd_steps(p: Conv, pass_: str) -> float:
    """Multiply-adds in which the whole GPU does the work of winograd.py, if it is never idle."""
    backward = pass_ == "backward_input"
    r = roles(p, backward)
    ins, outs, _ = winograd_packed(p, backward)
    tiles = p.mb * ceil_div(r.target[0], 2) * ceil_div(r.target[1], 2)
    blocks = p.g * outs // WINOGRAD_OUTS * ceil_div(tiles, WINOGRAD_TILES)
    each = ceil_div(blocks, MULTIPROCESSORS)
    hidden = 0.7 if each == 1 else 1.0  # one block alone does not hide its waits
    # transforms, and filters that come through the L1 for each block: an estimate, until a GPU was there to measure
    return MULTIPROCESSORS * each * 16.0 * WINOGRAD_OUTS * WINOGRAD_TILES * ins / (0.75 * hidden)


def direct_packed(p: Conv) -> tuple[Tile, int, int]:
    """The tile of direct.py's forward pass; packed output channels, and elements of all packed filters."""
    tile = best_tile(p.dtype, p.ocg, p.mb * p.oh * p.ow)
    outs = round_up(p.ocg, tile.rows)
    return tile, outs, p.kh * p.kw * p.icg * outs


def direct_split(p: Conv) -> Split:
    """As `split`, with all filter cells beside each other."""
    pixels, depth = p.mb * p.oh * p.ow, p.icg * p.kh * p.kw
    tile = best_tile(p.dtype, p.ocg, depth, max(1, pixels // SPLIT_PIXELS), False)
    blocks = ceil_div(p.ocg, tile.rows) * ceil_div(depth, tile.columns)
    most = max(1, SPLIT_BYTES // (p.ocg * depth * ITEMSIZE[p.dtype]))
    parts = max(1, min(ceil_div(4 * MULTIPROCESSORS, blocks), pixels // SPLIT_PIXELS, most))
    length = round_up(ceil_div(max(pixels, 1), parts), DEPTH)
    return Split(tile, ceil_div(max(pixels, 1), length), length, p.ocg * depth)


def direct_bytes(p: Conv, pass_: str) -> int:
    """Scratch memory of direct.py."""
    if pass_ == "backward_weight":
        cut = direct_split(p)
        return bytes_of(p.dtype, [cut.parts * cut.elements])
    return bytes_of(p.dtype, [1, direct_packed(p)[2]])


def direct_steps(p: Conv, pass_: str) -> float:
    """Multiply-adds in which the whole GPU does the work of direct.py, if never idle; finding a cell costs some."""
    depth = p.icg * p.kh * p.kw
    if pass_ == "backward_weight":
        cut = direct_split(p)
        return 1.5 * MULTIPROCESSORS * cut.pixels * tile_work(cut.tile, p.ocg, depth, cut.parts)
    tile, _, _ = direct_packed(p)
    return 1.5 * MULTIPROCESSORS * round_up(depth, DEPTH) * tile_work(tile, p.ocg, p.mb * p.oh * p.ow)


# Scratch memory of the tiles of winograd_passes.py.
WINOGRAD_SCRATCH = 128 << 20


class Passes(NamedTuple):
    """The tile of the products of winograd_passes.py, packed channels, tiles of a run."""

    tile: Tile
    ins: int
    outs: int
    length: int
    elements: tuple[int, int, int]  # of transformed filters, images and results


def winograd_passes(p: Conv, backward: bool) -> Passes:
    r = roles(p, backward)
    points = 36
    total = p.mb * ceil_div(r.target[0], 4) * ceil_div(r.target[1], 4)
    ins = round_up(r.ins, DEPTH)
    most = max(1, WINOGRAD_SCRATCH // (4 * points * p.g * (ins + round_up(r.outs, 32))))
    tile = best_tile("float32", r.outs, min(total, most), points * p.g, False)
    outs = round_up(r.outs, tile.rows)
    runs = max(1, ceil_div(total, most))
    length = round_up(max(1, ceil_div(total, runs)), tile.columns)
    one = points * p.g
    return Passes(tile, ins, outs, length, (one * ins * outs, one * ins * length, one * outs * length))


# Fewest tiles that are worth a block of a weight gradient, and most that one sums if there is memory for more parts:
# rounding errors grow with them.
SPLIT_TILES, LONG_SPLIT_TILES = 64, 512


class WeightPasses(NamedTuple):
    """The tile of the products of winograd_weight.py, packed channels, parts of a run of tiles and their length."""

    tile: Tile
    ins: int
    outs: int
    parts: int
    depth: int
    elements: tuple[int, int, int]  # of transformed images, their gradients and sums


def winograd_weight(p: Conv) -> WeightPasses:
    points = 36 * p.g
    total = max(1, p.mb * ceil_div(p.oh, 4) * ceil_div(p.ow, 4))
    tile = best_tile("float32", p.icg, p.ocg, points * max(1, min(8, total // SPLIT_TILES)), False)
    ins, outs = round_up(p.icg, tile.rows), round_up(p.ocg, tile.columns)
    most = max(1, WINOGRAD_SCRATCH // (4 * points * (ins + outs)))
    length = ceil_div(total, ceil_div(total, most))
    blocks = points * ins // tile.rows * outs // tile.columns
    room = max(1, SPLIT_BYTES // (4 * points * ins * outs))
    wanted = max(min(ceil_div(2 * MULTIPROCESSORS, blocks), length // SPLIT_TILES), ceil_div(length, LONG_SPLIT_TILES))
    parts = max(1, min(wanted, room))
    depth = round_up(ceil_div(length, parts), DEPTH)
    parts = ceil_div(length, depth)
    length = parts * depth
    return WeightPasses(
        tile, ins, outs, parts, depth, (points * ins * length, points * outs * length, points * parts * ins * outs)
    )


def winograd_passes_bytes(p: Conv, pass_: str) -> int:
    if pass_ == "backward_weight":
        return bytes_of("float32", [1, *winograd_weight(p).elements])
    return bytes_of("float32", [1, *winograd_passes(p, pass_ == "backward_input").elements])


def winograd_passes_steps(p: Conv, pass_: str) -> tuple[float, float, int]:
    """Multiply-adds as in im2col_steps; bytes that go through scratch memory; launches."""
    if pass_ == "backward_weight":
        how = winograd_weight(p)
        runs = max(1, ceil_div(p.mb * ceil_div(p.oh, 4) * ceil_div(p.ow, 4), how.parts * how.depth))
        steps = how.depth * tile_work(how.tile, how.ins, how.outs, 36 * p.g * how.parts)
        return MULTIPROCESSORS * steps * runs, 2.0 * 4 * runs * sum(how.elements), 4 * runs + 1
    backward = pass_ == "backward_input"
    r, cut = roles(p, backward), winograd_passes(p, backward)
    total = p.mb * ceil_div(r.target[0], 4) * ceil_div(r.target[1], 4)
    runs = max(1, ceil_div(total, cut.length))
    work = tile_work(cut.tile, cut.outs, cut.length, 36 * p.g)
    moved = 2.0 * 4 * runs * (cut.elements[1] + cut.elements[2])
    return MULTIPROCESSORS * work * cut.ins * runs, moved, 3 * runs + 2
