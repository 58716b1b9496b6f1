"""What im2col and Winograd share: a block of rows through the micro-kernel, panel widths, row strides, indexing."""

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
def multiply(a, a_start, rs_a, b, b_start, c, c_start, rs_c, rows, depth, accumulate):
    """C (+)= A B for any number of rows and one panel of B; see vector.gemm_tile."""
    row = 0
    while row < rows:
        count = height(rows - row)
        vector.gemm_tile(
            a, a_start + row * rs_a, rs_a, b, b_start, c, c_start + row * rs_c, rs_c, count, depth, accumulate
        )
        row += count


@jit
def odd_lines(depth, itemsize):
    """blocking.row_stride."""
    per_line = 64 // itemsize
    return (((depth if depth > 1 else 1) + per_line - 1) // per_line | 1) * per_line


@jit
def multiply_rows(
    a, a_start, rs_a, b, b_start, c, c_start, rs_c, rows, depth, accumulate,
    y, y_start, rs_y, last, bias, bias_start, low, high,
):  # fmt: skip
    """The same with an ending; see vector.gemm_rows. `bias_start` < 0: no bias, `bias` begins with zeros."""
    row = 0
    while row < rows:
        count = height(rows - row)
        vector.gemm_rows(
            a, a_start + row * rs_a, rs_a, b, b_start, c, c_start + row * rs_c, rs_c, count, depth, accumulate,
            y, y_start + row * rs_y, rs_y, last, bias, bias_start + row if bias_start >= 0 else 0, low, high,
        )  # fmt: skip
        row += count


@jit
def multiply_indirect(
    a, a_start, table, place, step, b, b_start, c, c_start, rs_c, rows, runs, depth, accumulate,
    y, y_start, rs_y, last, bias, bias_start, low, high,
):  # fmt: skip
    """The same with rows of A where a table says, and an ending; see vector.gemm_indirect."""
    row = 0
    while row < rows:
        count = height(rows - row)
        vector.gemm_indirect(
            a, a_start, table, place + row, step, b, b_start, c, c_start + row * rs_c, rs_c, count, runs, depth,
            accumulate, y, y_start + row * rs_y, rs_y, last, bias, bias_start, low, high,
        )  # fmt: skip
        row += count
