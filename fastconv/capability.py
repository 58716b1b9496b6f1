"""What each kernel family cannot do (a sentence for the user) and how much workspace it needs, without importing it."""

from __future__ import annotations

from fastconv.problem import ConvProblem, PoolProblem

# ---------------------------------------------------------------------------------------------------------------
# What a family cannot do: None, or a sentence


def anything(p: ConvProblem | PoolProblem) -> str | None:
    """The reference and the naive loops do everything."""
    return None


def floating(p: ConvProblem | PoolProblem) -> str | None:
    """Kernels on vector registers of floats."""
    if p.dtype == "int64":
        return "it computes in float32 and float64; only naive and reference are exact on integers"
    return None


def winograd_3x3(p: ConvProblem) -> str | None:
    """Winograd's tiles F(m x m, 3 x 3) at stride 1."""
    if p.dtype == "int64":
        return "winograd rounds: it never computes on integers"
    if (p.kh, p.kw) != (3, 3):
        return f"it needs a 3x3 filter, got {p.kh}x{p.kw}"
    if (p.sh, p.sw) != (1, 1):
        return f"it needs stride 1, got {p.sh}x{p.sw}"
    if (p.dh, p.dw) != (1, 1):
        return f"it needs dilation 1, got {p.dh}x{p.dw}"
    return None


# ---------------------------------------------------------------------------------------------------------------
# Workspace in bytes for a number of threads


def no_workspace(p: ConvProblem | PoolProblem, threads: int) -> int:
    return 0


def im2col_workspace(p: ConvProblem, threads: int) -> int:
    raise AssertionError("owned by the C core engineer")


def winograd_workspace(p: ConvProblem, threads: int, tile: int) -> int:
    """Bytes of the Winograd kernels in C: mirrors make_plan in csrc/winograd.c, for any ISA."""
    backward = p.pass_ == "backward_input"
    c, k, oh, ow = (p.ocg, p.icg, p.ih, p.iw) if backward else (p.icg, p.ocg, p.oh, p.ow)
    pad, lanes, nr = 16, 16, 32
    alpha, points = tile + 2, (tile + 2) ** 2
    tiles_w = -(-ow // tile)
    tiles = p.mb * -(-oh // tile) * tiles_w
    if tiles == 0:
        return 0

    def nbytes(elements: int) -> int:
        return -(-elements * p.itemsize // 64) * 64

    by_channel = tiles <= 98 and k >= 128 and points * c * k * p.itemsize >= 4 << 20
    blocks = -(-tiles // (42 if by_channel else max(14, min(42, -(-tiles // 4)))))
    block_tiles = -(-tiles // blocks)
    v_row = -(-c // lanes) * lanes + pad
    v = nbytes(points * ((tiles if by_channel else block_tiles) * v_row + pad))
    m = nbytes(points * (block_tiles * 64 + pad))
    strip = min(max(block_tiles, 14), tiles_w) * tile + 2
    scratch = nbytes(max(points * 64, alpha * strip * lanes, tile * (strip + lanes) * lanes))
    bias = nbytes(p.g * (k + nr - 1))
    if by_channel:
        return bias + p.g * v + threads * (m + scratch + nbytes(points * (c * nr + pad)))
    u = nbytes(p.g * points * (c * (k + nr - 1) + pad))
    return bias + u + threads * (m + scratch + v)


def winograd_f2x3_workspace(p: ConvProblem, threads: int) -> int:
    return winograd_workspace(p, threads, 2)


def winograd_f4x3_workspace(p: ConvProblem, threads: int) -> int:
    return winograd_workspace(p, threads, 4)


def numba_im2col_workspace(p: ConvProblem, threads: int) -> int:
    from fastconv._numba import blocking, lower  # neither imports Numba

    return blocking.im2col_bytes(lower(p), p.pass_, threads)


def numba_winograd_workspace(p: ConvProblem, threads: int, tile: int) -> int:
    from fastconv._numba import blocking, lower

    return blocking.winograd_bytes(lower(p), p.pass_, tile, threads)


def numba_winograd_f2x3_workspace(p: ConvProblem, threads: int) -> int:
    return numba_winograd_workspace(p, threads, 2)


def numba_winograd_f4x3_workspace(p: ConvProblem, threads: int) -> int:
    return numba_winograd_workspace(p, threads, 4)
