"""What im2col and Winograd share: heights of tiles, widths of panels, strides of rows."""

from __future__ import annotations

from fastconv._numba import vector
from fastconv._numba.compile import jit

TILE_ROWS = vector.TILE_ROWS
HALF_TILE_ROWS = vector.HALF_TILE_ROWS

# Columns of a tile, and of a packed panel of B.
COLUMNS_F32 = vector.TILE_VECTORS * vector.lanes(4)
COLUMNS_F64 = vector.TILE_VECTORS * vector.lanes(8)


def columns(dtype: str) -> int:
    """Columns of a panel, from Python."""
    return COLUMNS_F32 if dtype == "float32" else COLUMNS_F64


@jit
def height(left):
    """Rows of the next tile of so many that are left: one of vector.TILE_HEIGHTS."""
    return TILE_ROWS if left >= TILE_ROWS else left if left <= HALF_TILE_ROWS else (left + 1) // 2


@jit
def odd_lines(depth, itemsize):
    """blocking.row_stride."""
    per_line = 64 // itemsize
    return (((depth if depth > 1 else 1) + per_line - 1) // per_line | 1) * per_line
