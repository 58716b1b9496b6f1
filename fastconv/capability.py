"""What each kernel family cannot do (a sentence for the user) and how much workspace it needs, without importing it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from fastconv.loading import load
from fastconv.problem import ConvPoolProblem, ConvProblem, PoolProblem

# Most terms of a sum of the direct kernel, whose table of offsets has an entry for each.
DIRECT_DEPTH = 4608
NUMBA_DIRECT_DEPTH = 256
# Most input channels of the pooled sum: more are better transformed.
CONV_POOL_CHANNELS = 16

# ---------------------------------------------------------------------------------------------------------------
# What a family cannot do: None, or a sentence


def anything(p: ConvProblem | PoolProblem) -> str | None:
    """The reference and the naive loops do everything."""
    return None


def wrong_device(backend: str, p: ConvProblem | PoolProblem) -> str | None:
    """Kernels run where the arrays live."""
    if (backend == "cuda") == (p.device != "cpu"):
        return None
    if backend == "cuda":
        return 'it takes arrays on a GPU, or those of the host with backend="cuda"'
    return "its arrays are on a GPU, where only CUDA rows run"


def floating(p: ConvProblem | PoolProblem) -> str | None:
    """Kernels on vector registers of floats."""
    if p.dtype == "int64":
        return "it computes in float32 and float64; only naive and reference are exact on integers"
    return None


def single(p: ConvProblem) -> str | None:
    """Sums of float32 in float64."""
    return None if p.dtype == "float32" else f"it sums float32 in float64, got {p.dtype}"


def pool_direct(p: PoolProblem) -> str | None:
    """Vector pooling keeps indices inside a plane in 32 bits."""
    if p.ih * p.iw >= 2**31:
        return f"it needs planes of fewer than 2^31 cells, got {p.ih} x {p.iw}"
    return floating(p)


def direct(p: ConvProblem) -> str | None:
    """Sums over few input channels, not cut into blocks of depth."""
    if p.icg * p.kh * p.kw > DIRECT_DEPTH:
        return f"its sums have at most {DIRECT_DEPTH} terms, got {p.icg} x {p.kh} x {p.kw}"
    if p.ic * (p.ih + p.ph + p.ph_r) * (p.iw + p.pw + p.pw_r + 16 * p.sw) >= 2**31:
        return "it needs images of fewer than 2^31 padded cells"
    return floating(p)


def numba_direct(p: ConvProblem) -> str | None:
    """Short sums, over few input channels."""
    if p.icg * p.kh * p.kw > NUMBA_DIRECT_DEPTH:
        return f"its sums have at most {NUMBA_DIRECT_DEPTH} terms, got {p.icg} x {p.kh} x {p.kw}"
    return floating(p)


def conv_pool_direct(p: ConvPoolProblem) -> str | None:
    """Sums of few input channels, pooled in registers."""
    if p.ic > CONV_POOL_CHANNELS:
        return f"it sums at most {CONV_POOL_CHANNELS} input channels, got {p.ic}"
    return _conv_pool(p)


def _conv_pool(p: ConvPoolProblem) -> str | None:
    if (p.kh, p.kw) != (3, 3):
        return f"it needs a 3x3 filter, got {p.kh}x{p.kw}"
    if (p.sh, p.sw) != (1, 1):
        return f"it needs stride 1, got {p.sh}x{p.sw}"
    if (p.dh, p.dw) != (1, 1):
        return f"it needs dilation 1, got {p.dh}x{p.dw}"
    if p.g > 1:
        return f"it does no groups, got {p.g}"
    if p.layout != "NHWC":
        return "it needs the layout NHWC"
    if p.oc < 16:
        return f"it needs 16 output channels or more, got {p.oc}"
    return floating(p)


def conv_pool_winograd(p: ConvPoolProblem) -> str | None:
    """Winograd's tiles, pooled in registers; their gradients spread on the way in."""
    return _conv_pool(p)


def depthwise(p: ConvProblem) -> str | None:
    """Depthwise kernels, on vector registers of floats."""
    if p.icg != 1:
        return f"it needs one input channel a group, got {p.icg}"
    return floating(p)


def grouped(p: ConvProblem) -> str | None:
    """Small groups, several of which lie under a vector."""
    if p.icg != p.ocg or p.icg not in (2, 4, 8, 16):
        return f"it needs groups of 2, 4, 8 or 16 channels, in and out alike, got {p.icg} and {p.ocg}"
    return floating(p)


def winograd_3x3(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m x m, 3 x 3) at stride 1."""
    return _winograd(p, "a 3x3 filter", (p.kh, p.kw) == (3, 3))


def winograd_5x5(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m x m, 5 x 5) at stride 1."""
    return _winograd(p, "a 5x5 filter", (p.kh, p.kw) == (5, 5))


def winograd_line_3(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m, 3) in one dimension at stride 1."""
    return _winograd(p, "a 1x3 or 3x1 filter", (p.kh, p.kw) in ((1, 3), (3, 1)))


def winograd_line_5(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m, 5) in one dimension at stride 1."""
    return _winograd(p, "a 1x5 or 5x1 filter", (p.kh, p.kw) in ((1, 5), (5, 1)))


def winograd_line_7(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m, 7) in one dimension at stride 1."""
    return _winograd(p, "a 1x7 or 7x1 filter", (p.kh, p.kw) in ((1, 7), (7, 1)))


def winograd_adjoint(p: ConvProblem) -> str | None:
    """The input gradient by the tiles of the forward pass, which add to each other's cells."""
    if p.layout != "NHWC":
        return "it needs the layout NHWC"
    if p.g > 1:
        return f"it does no groups, got {p.g}"
    if p.bias or p.residual or p.activation is not None:
        return "it has no epilogue"
    return winograd_3x3(p)


def _winograd(p: ConvProblem, wanted: str, fits: bool) -> str | None:
    if p.dtype == "int64":
        return "winograd rounds: it never computes on integers"
    if (p.sh, p.sw) != (1, 1):
        return f"it needs stride 1, got {p.sh}x{p.sw}"
    if (p.dh, p.dw) != (1, 1):
        return f"it needs dilation 1, got {p.dh}x{p.dw}"
    if p.g > 1 and p.icg == 1:
        return "it needs more than one input channel a group"
    return None if fits else f"it needs {wanted}, got {p.kh}x{p.kw}"


def gpu(p: ConvProblem) -> str | None:
    """Kernels on a GPU count cells in 32 bits."""
    cells = p.mb * max(p.ic * (p.ih + p.ph) * (p.iw + p.pw), p.oc * p.oh * p.ow)
    if cells >= 2**31 or p.oc * p.icg * p.kh * p.kw >= 2**31:
        return "it needs images and filters of fewer than 2^31 cells"
    return floating(p)


# Most channels, and most products of a sum, of the kernels on a GPU for thin first layers.
GPU_DIRECT_CHANNELS, GPU_DIRECT_DEPTH = 8, 256


def gpu_direct(p: ConvProblem) -> str | None:
    """Sums over few input channels, on a GPU."""
    if p.g > 1:
        return f"it does no groups, got {p.g}"
    if p.ic > GPU_DIRECT_CHANNELS or p.ic * p.kh * p.kw > GPU_DIRECT_DEPTH:
        most = f"{GPU_DIRECT_CHANNELS} input channels and sums of {GPU_DIRECT_DEPTH} products"
        return f"it takes at most {most}, got {p.ic} x {p.kh} x {p.kw}"
    return gpu(p)


# Most filter cells of a depthwise kernel on a GPU: each is a register, and 4 bytes of shared memory for each thread.
GPU_DEPTHWISE_CELLS = {"float32": 49, "float64": 25}


def gpu_depthwise(p: ConvProblem) -> str | None:
    """Depthwise kernels on a GPU, whose filter is unrolled."""
    if p.icg != 1:
        return f"it needs one input channel a group, got {p.icg}"
    most = GPU_DEPTHWISE_CELLS.get(p.dtype, 0)
    if p.kh * p.kw > most:
        return f"it unrolls filters of at most {most} cells in {p.dtype}, got {p.kh} x {p.kw}"
    return gpu(p)


def gpu_tf32(p: ConvProblem) -> str | None:
    """Products of matrices on tensor cores, whose operands have 10 bits of mantissa."""
    if p.dtype != "float32":
        return f"tensor cores round float32, got {p.dtype}"
    if p.layout != "NHWC":
        return "it needs the layout NHWC"
    return gpu(p)


def gpu_winograd(p: ConvProblem) -> str | None:
    """Winograd's tiles F(2x2, 3x3) and F(4x4, 3x3) on a GPU."""
    if p.dtype == "float64":
        return "on a GPU it computes in float32, got float64"
    return winograd_3x3(p) or gpu(p)


def gpu_pool(p: PoolProblem) -> str | None:
    """The same; a pool of integers is one."""
    if p.mb * p.c * max(p.ih * p.iw, p.oh * p.ow) >= 2**31:
        return "it needs images of fewer than 2^31 cells"
    return "an average of integers is not one" if p.dtype == "int64" and "avg" in p.op else None


# ---------------------------------------------------------------------------------------------------------------
# Workspace in bytes for a number of threads


def _aligned(size: int, elements: int) -> int:
    """Bytes of elements of this size, in whole cache lines: align_up in csrc/numbers.h."""
    return -(-elements * size // 64) * 64


def no_workspace(p: ConvProblem | PoolProblem, threads: int) -> int:
    return 0


def im2col_workspace(p: ConvProblem, threads: int) -> int:
    """Bytes of im2col in C: mirrors workspace_bytes (im2col.c) and that of im2col_weight.c, for any ISA."""
    mr, nr, depth_bytes, block_pixels = 14, 32, 2048, 128
    size, taps, target = p.itemsize, p.kh * p.kw, depth_bytes // p.itemsize
    nbytes = partial(_aligned, size)
    if p.pass_ == "backward_weight" and p.layout == "NHWC":
        pixels, block_rows, copied = 256, 96, 64
        packed = _aligned(1, (block_rows // 4 + 1) * (pixels * 4 * size + copied) + pixels * mr * size)
        columns = min(p.ocg, 256)
        worker = packed + nbytes(pixels * (columns + nr - 1)) + (columns // 4 + 1) * copied
        return nbytes(p.g * (p.ocg + nr - 1) * p.icg * taps) + threads * worker
    if p.pass_ == "backward_weight":
        columns = max(1, min(p.ow, target))
        rows = max(1, min(target // columns, 512, p.mb * p.oh))
        return nbytes(p.g * (p.ocg + nr - 1) * p.icg * taps) + threads * nbytes(rows * columns * nr)
    if p.pass_ == "forward":
        channels, outputs, pixels = p.icg, p.ocg, p.mb * p.oh * p.ow
    else:
        channels, outputs, pixels = p.ocg, p.icg, p.mb * p.ih * p.iw
    nchw = p.layout == "NCHW"
    depth = min(taps * channels, 3 * target // 2 + (1 if nchw else 17 * taps))
    scratch = nbytes(mr * (-(-depth // 32) * 32 + 17))
    if nchw:
        scratch += nbytes((min(pixels, block_pixels) + nr) * depth)
    tables = _aligned(8, 2 * (p.kh + p.kw))
    packed = nbytes(p.g * (outputs + (mr if nchw else nr) - 1) * channels * taps)
    return tables + packed + threads * scratch


def im2col_f64_workspace(p: ConvProblem, threads: int) -> int:
    """Bytes of im2col on widened images: mirrors workspace_bytes in csrc/im2col_f64.c."""
    images_in, images_out = p.ic * p.ih * p.iw, p.oc * p.oh * p.ow
    if p.pass_ != "forward":
        images_in, images_out = images_out, images_in
    images = max(1, min(p.mb, (4 << 20) // max(1, 8 * (images_in + images_out))))
    nbytes = partial(_aligned, 8)
    wide = replace(p, dtype="float64", mb=images)
    return (
        nbytes(images * images_in)
        + 2 * nbytes(images * images_out)
        + nbytes(max(p.ic, p.oc))
        + nbytes(p.oc * p.icg * p.kh * p.kw)
        + im2col_workspace(wide, threads)
    )


def direct_task(p: ConvProblem) -> tuple[int, int]:
    """Output rows of a task of the direct convolution in C on one thread; elements of the strip that it reads (0: the
    image itself); mirrors lay_out in csrc/direct.c, for any ISA."""
    if p.mb * p.oh * p.ow * p.oc <= 0:
        return 1, 0
    size, nhwc, lanes = p.itemsize, p.layout == "NHWC", 64 // p.itemsize
    strip_bytes, flat_bytes, flat_pixels, flat_share, flat_depth = 64 << 10, 384 << 10, 256, 32, 640
    width, under, depth = (p.kw - 1) * p.dw, (p.kh - 1) * p.dh + 1, p.icg * p.kh * p.kw
    vectors = -(-p.ow // lanes) * lanes
    if not nhwc and (vectors - p.ow) * flat_share > p.ow:
        residues, span = p.sh if p.kh > 1 else 1, (p.kh - 1) * p.dh // p.sh
        row = -(-p.icg // max(1, (2 * depth + flat_depth) // (2 * flat_depth))) * p.kw * residues * p.ow
        wide = min(-(-flat_pixels // p.ow), flat_bytes // (row * size) - span)
        most = min(p.oh, max(1, wide, strip_bytes // (row * size) - span))

        def vectors_of(rows: int) -> int:
            return p.oh // rows * -(-rows * p.ow // lanes) + -(-(p.oh % rows) * p.ow // lanes)

        rows = min(range(most, most // 2, -1), key=vectors_of)
        return rows, (rows + span) * row + lanes
    inside = p.ph == p.pw == 0 and (p.oh - 1) * p.sh + under <= p.ih and (p.ow - 1) * p.sw + width < p.iw
    inside = inside and (nhwc or p.sw == 1)
    if nhwc:
        row = p.iw * p.ic if inside else ((p.ow - 1) * p.sw + width + 1) * p.ic
    else:
        row = (p.iw if inside else (vectors + width // p.sw) * (p.sw if p.kw > 1 else 1)) * p.icg
    most = int((strip_bytes // (row * size) - under) / p.sh) + 1  # rounded as C divides
    rows = min(p.oh, max(1, most))
    return rows, 0 if inside else ((rows - 1) * p.sh + under) * row


def direct_workspace(p: ConvProblem, threads: int) -> int:
    """Bytes of the direct convolution in C, for any ISA."""
    if p.mb * p.oh * p.ow * p.oc <= 0:
        return 0
    lanes, depth = 64 // p.itemsize, p.icg * p.kh * p.kw
    nbytes = partial(_aligned, p.itemsize)
    fixed = _aligned(4, depth) + nbytes(p.g * depth * (-(-p.ocg // lanes) * lanes if p.layout == "NHWC" else p.ocg))
    return fixed + threads * nbytes(direct_task(p)[1])


def conv_pool_workspace(p: ConvPoolProblem, threads: int) -> int:
    """Bytes of the pooled convolution in C: mirrors csrc/conv_pool.c, for any ISA."""
    rows, columns = p.oh // 2, p.ow // 2
    block = max(1, min(rows, (512 if p.pass_ == "forward" else 256) // max(1, columns)))
    in_place = p.ic == 1 and p.ph == p.pw == p.ph_r == p.pw_r == 0
    nbytes = partial(_aligned, p.itemsize)
    strip = 0 if in_place else nbytes(p.ic * (2 * block + 2) * (2 * columns + 2))
    if p.pass_ == "forward":
        return nbytes(9 * p.ic * p.oc) + threads * strip
    return min(p.mb, 16) * nbytes((9 * p.ic + 1) * (p.oc + 15)) + threads * strip


def depthwise_workspace(p: ConvProblem, threads: int) -> int:
    """Bytes of the depthwise kernels in C: mirrors depthwise.c."""
    weights = p.kh * p.kw * p.oc * p.itemsize
    if p.pass_ == "backward_weight":
        rows = max(1, -(-p.mb * p.oh // 16), -(-256 // max(p.ow, 1)))
        blocks = max(1, -(-p.mb * p.oh // rows)) if p.layout == "NHWC" else 1
        return _aligned(weights, blocks)
    if p.layout == "NCHW":
        return 0
    channels, depth = (p.oc, p.icg) if p.pass_ == "forward" else (p.ic, p.ocg)
    return p.kh * p.kw * depth * (-(-channels // 16) * 16 + 16) * p.itemsize


def _winograd_scratch(
    oh: int, ow: int, tile_h: int, tile_w: int, kh: int, kw: int, most_tiles: int
) -> tuple[int, int]:
    """Rows of tiles that NCHW takes at once, and elements of scratch: mirrors fc_winograd_scratch."""
    tiles_w, lanes = -(-ow // tile_w), 16
    band = max(1, min(-(-oh // tile_h), 256 // max(1, tile_h * tiles_w * tile_w)))
    width = (min(most_tiles, tiles_w) - 1) * tile_w + tile_w + kw - 1
    return band, max((tile_h + kh - 1) * (tile_w + kw - 1) * 64, (band * tile_h + kh - 1) * width * lanes)


def _odd_lines(channels: int) -> int:
    """Elements of a row of transformed channels: an odd number of cache lines of float."""
    return (-(-channels // 16) | 1) * 16


def winograd_adjoint_workspace(p: ConvProblem, threads: int, tile: int, pooled: bool = False) -> int:
    """Bytes of the adjoint input gradient by Winograd in C: mirrors make_plan in csrc/winograd_adjoint.c, any ISA."""
    pad, nr, channels = 16, 32, 64
    points = (tile + p.kh - 1) * (tile + p.kw - 1)
    image = -(-p.oh // tile) * -(-p.ow // tile)
    most = max(1, 42 // max(1, image)) * image
    block = -(-most // -(-max(1, most) // 42))
    nbytes = partial(_aligned, p.itemsize)
    u = nbytes(points * (p.oc * (p.ic + nr - 1) + pad))
    v, m = nbytes(points * (block * _odd_lines(p.oc) + pad)), nbytes(points * (block * channels + pad))
    own = u + threads * (v + m + nbytes(points * channels))
    return own if pooled else max(own, im2col_workspace(p, threads))


winograd_adjoint_m2_workspace = partial(winograd_adjoint_workspace, tile=2)
winograd_adjoint_m4_workspace = partial(winograd_adjoint_workspace, tile=4)
winograd_adjoint_m6_workspace = partial(winograd_adjoint_workspace, tile=6)


def winograd_pooled_workspace(p: ConvPoolProblem, threads: int, tile: int) -> int:
    """Bytes of the pooled Winograd kernels in C, which see an even number of rows and columns of outputs."""
    even = replace(p, oh=p.oh // 2 * 2, ow=p.ow // 2 * 2)
    if p.pass_ == "backward_input":
        return winograd_adjoint_workspace(even, threads, tile, pooled=True)
    if p.pass_ == "backward_weight":
        return winograd_weight_workspace(even, threads, tile, pooled=True)
    return winograd_workspace(even, threads, tile)


winograd_pooled_m2_workspace = partial(winograd_pooled_workspace, tile=2)
winograd_pooled_m4_workspace = partial(winograd_pooled_workspace, tile=4)
winograd_pooled_m6_workspace = partial(winograd_pooled_workspace, tile=6)


def winograd_weight_workspace(p: ConvProblem, threads: int, tile: int, pooled: bool = False) -> int:
    """Bytes of the weight gradient by Winograd in C: mirrors make_plan in csrc/winograd_weight.c, any ISA."""
    tile_h, tile_w = 1 if p.kh == 1 else tile, 1 if p.kw == 1 else tile
    points = (tile_h + p.kh - 1) * (tile_w + p.kw - 1)
    tiles = p.mb * -(-p.oh // tile_h) * -(-p.ow // tile_w)
    lanes, nr, side = 16, 32, max(p.kh, p.kw)
    v_row, m_row = _odd_lines(p.icg), _odd_lines(p.ocg)
    block = min(max(128, (2 << 20) // (points * (v_row + m_row) * p.itemsize)), max(1, tiles))
    block = -(-tiles // -(-max(1, tiles) // block))
    nbytes = partial(_aligned, p.itemsize)
    _, scratch = _winograd_scratch(p.oh, p.ow, tile_h, tile_w, p.kh, p.kw, 14)
    own = (
        nbytes(points * (block * v_row + lanes))
        + nbytes(points * (block * m_row + nr))
        + nbytes(points * (p.icg * -(-p.ocg // nr) * nr + lanes))
        + threads * nbytes(max(scratch, side * side * lanes))
    )
    return max(own, 16 * p.oc * p.itemsize if pooled else im2col_workspace(p, threads))


def winograd_by_channel(tiles: int, points: int, c: int, k: int, itemsize: int) -> bool:
    """Whether tasks are output channels, whose transformed weights stay near, and not tiles."""
    return tiles <= 98 and k >= 128 and points * c * k * itemsize >= 4 << 20


def winograd_workspace(p: ConvProblem, threads: int, tile: int) -> int:
    """Bytes of Winograd in C with `tile` outputs a side of a tile: mirrors make_plan in csrc/winograd.c, any ISA."""
    if p.pass_ == "backward_weight":
        return winograd_weight_workspace(p, threads, tile)
    backward = p.pass_ == "backward_input"
    c, k, oh, ow = (p.ocg, p.icg, p.ih, p.iw) if backward else (p.icg, p.ocg, p.oh, p.ow)
    pad, lanes, mr, nr = 16, 16, 14, 32
    line = p.kh == 1 or p.kw == 1
    tile_h, tile_w = 1 if p.kh == 1 else tile, 1 if p.kw == 1 else tile
    alpha_h = tile_h + p.kh - 1
    points = alpha_h * (tile_w + p.kw - 1)
    tiles_w = -(-ow // tile_w)
    tiles = p.mb * -(-oh // tile_h) * tiles_w
    if tiles == 0:
        return 0
    nbytes = partial(_aligned, p.itemsize)
    by_channel = winograd_by_channel(tiles, points, c, k, p.itemsize)
    one_block, work = threads > 1 and p.g == 1 and tiles <= 14, points * tiles * c * k
    by_channel = by_channel or (one_block and k >= 2 * nr and work >= 1 << 19)
    most = 126 if line else 42
    least = -(-tiles // 2) if one_block and work >= 1 << 17 else 14
    blocks = -(-tiles // (most if by_channel else max(least, min(most, -(-tiles // 4)))))
    block_tiles = min(tiles, -(-tiles // blocks) + mr)
    v_row = -(-c // lanes) * lanes + pad
    v = nbytes(points * ((tiles if by_channel else block_tiles) * v_row + pad))
    m = nbytes(points * (block_tiles * 64 + pad))
    most_tiles = max(block_tiles, 14)
    band, scratch = _winograd_scratch(oh, ow, tile_h, tile_w, p.kh, p.kw, most_tiles)
    scratch = nbytes(max(scratch, band * tile_h * (min(most_tiles, tiles_w) * tile_w + lanes) * lanes))
    bias = nbytes(p.g * (k + nr - 1))
    if by_channel:
        return bias + p.g * v + threads * (m + scratch + nbytes(points * (c * nr + pad)))
    u = nbytes(p.g * points * (c * (k + nr - 1) + pad))
    return bias + u + threads * (m + scratch + v)


winograd_m2_workspace = partial(winograd_workspace, tile=2)
winograd_m4_workspace = partial(winograd_workspace, tile=4)
winograd_m6_workspace = partial(winograd_workspace, tile=6)


def _numba_sizes() -> tuple[Any, Any]:
    """Block sizes and lowering of the Numba kernels; neither imports Numba."""
    return load("fastconv._numba.blocking"), load("fastconv._numba").lower


def _cuda_sizes() -> tuple[Any, Any]:
    """The same of the CUDA kernels."""
    return load("fastconv._cuda.sizes"), load("fastconv._cuda").lower


def numba_im2col_workspace(p: ConvProblem, threads: int) -> int:
    blocking, lower = _numba_sizes()
    return blocking.im2col_bytes(lower(p), p.pass_, threads)


def numba_direct_workspace(p: ConvProblem, threads: int) -> int:
    blocking, lower = _numba_sizes()
    return blocking.direct_bytes(lower(p), threads)


def numba_depthwise_workspace(p: ConvProblem, threads: int) -> int:
    blocking, lower = _numba_sizes()
    return blocking.depthwise_bytes(lower(p), p.pass_, threads)


def numba_winograd_workspace(p: ConvProblem, threads: int, tile: int) -> int:
    blocking, lower = _numba_sizes()
    return blocking.winograd_bytes(lower(p), p.pass_, tile, threads)


numba_winograd_m2_workspace = partial(numba_winograd_workspace, tile=2)
numba_winograd_m4_workspace = partial(numba_winograd_workspace, tile=4)
numba_winograd_m6_workspace = partial(numba_winograd_workspace, tile=6)


def numba_winograd_adjoint_workspace(p: ConvProblem, threads: int, tile: int) -> int:
    blocking, lower = _numba_sizes()
    return blocking.winograd_adjoint_bytes(lower(p), tile, threads)


numba_winograd_adjoint_m2_workspace = partial(numba_winograd_adjoint_workspace, tile=2)
numba_winograd_adjoint_m4_workspace = partial(numba_winograd_adjoint_workspace, tile=4)
numba_winograd_adjoint_m6_workspace = partial(numba_winograd_adjoint_workspace, tile=6)


def gpu_im2col_workspace(p: ConvProblem, threads: int, tensor: bool = False) -> int:
    sizes, lower = _cuda_sizes()
    return sizes.im2col_bytes(lower(p), p.pass_, tensor)


gpu_im2col_tf32_workspace = partial(gpu_im2col_workspace, tensor=True)


def gpu_im2col_steps(p: ConvProblem, tensor: bool = False) -> float:
    """Multiply-adds of im2col on a GPU, those of idle multiprocessors and of the rims of tiles included; on tensor
    cores as many as would take as long without."""
    sizes, lower = _cuda_sizes()
    return sizes.im2col_steps(lower(p), p.pass_, tensor)


def gpu_tf32_part(p: ConvProblem) -> int:
    """Pixels that tensor cores sum for a weight gradient: parts of it are added up as float32."""
    sizes, lower = _cuda_sizes()
    return sizes.split(lower(p), True).pixels


def gpu_depthwise_workspace(p: ConvProblem, threads: int) -> int:
    sizes, lower = _cuda_sizes()
    return sizes.depthwise_bytes(lower(p), p.pass_)


def gpu_winograd_workspace(p: ConvProblem, threads: int) -> int:
    sizes, lower = _cuda_sizes()
    return sizes.winograd_bytes(lower(p), p.pass_)


def gpu_winograd_steps(p: ConvProblem) -> float:
    """As gpu_im2col_steps."""
    sizes, lower = _cuda_sizes()
    return sizes.winograd_steps(lower(p), p.pass_)


def gpu_direct_workspace(p: ConvProblem, threads: int) -> int:
    sizes, lower = _cuda_sizes()
    return sizes.direct_bytes(lower(p), p.pass_)


def gpu_direct_steps(p: ConvProblem) -> float:
    """As gpu_im2col_steps."""
    sizes, lower = _cuda_sizes()
    return sizes.direct_steps(lower(p), p.pass_)


def gpu_winograd_passes_workspace(p: ConvProblem, threads: int) -> int:
    sizes, lower = _cuda_sizes()
    return sizes.winograd_passes_bytes(lower(p), p.pass_)


def gpu_winograd_depth(p: ConvProblem) -> int:
    """Tiles that one block sums for a weight gradient."""
    sizes, lower = _cuda_sizes()
    return sizes.winograd_weight(lower(p)).depth


def gpu_winograd_passes_steps(p: ConvProblem) -> tuple[float, float, int]:
    """As gpu_im2col_steps; bytes through scratch memory; launches."""
    sizes, lower = _cuda_sizes()
    return sizes.winograd_passes_steps(lower(p), p.pass_)
