"""What is particular to the Numba rows: micro-kernels and data movement at every edge."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("numba")

import fastconv
from fastconv import winograd as formulas
from fastconv._numba import blocking, lower
from fastconv.problem import ConvProblem, pool_problem
from fastconv.registry import KERNELS
from tests.rows import check, run_of

FLOATS = ("float32", "float64")
JUNK = 7.0


@pytest.fixture(scope="module")
def probes():
    """Entry points from Python to the intrinsics."""
    from numba import types

    from fastconv._numba import emit, gemm, im2col, im2col_weight, moves, vector
    from fastconv._numba import winograd_calls as calls
    from fastconv._numba.compile import kernel

    @kernel("in1 int in1 out1 int int int int")
    def tile(a, rs_a, b, c, rs_c, rows, depth, accumulate):
        gemm.gemm_tile(a, 0, rs_a, b, 0, c, 0, rs_c, rows, depth, accumulate != 0)

    @kernel("in1 int in1 out1 int int int int")
    def block(a, rs_a, b, c, rs_c, rows, depth, accumulate):
        gemm.gemm_tile(a, 0, rs_a, b, 0, c, 0, rs_c, rows, depth, accumulate != 0)

    @kernel("in1 ints1 int in1 out1 int int int int int out1 int int in1 scalar scalar")
    def indirect(a, table, step, b, c, rs_c, rows, runs, depth, accumulate, y, rs_y, last, bias, low, high):
        gemm.gemm_indirect(
            a, 0, table, 0, step, b, 0, c, 0, rs_c, rows, runs, depth, accumulate != 0,
            y, 0, rs_y, last != 0, bias, 0, low, high,
        )  # fmt: skip

    @kernel("in1 int in1 out1 int int int int out1 int int in1 int scalar scalar")
    def ended(a, rs_a, b, c, rs_c, rows, depth, accumulate, y, rs_y, last, bias, with_bias, low, high):
        gemm.gemm_rows(
            a, 0, rs_a, b, 0, c, 0, rs_c, rows, depth, accumulate != 0,
            y, 0, rs_y, last != 0, bias, 0 if with_bias else -1, low, high,
        )  # fmt: skip

    @kernel("in1 int out1 int int int")
    def some_rows(source, source_step, target, target_step, count, width):
        vector.zero_rows(target, 0, target_step, count, width)
        vector.copy_rows(source, 0, source_step, target, 0, target_step, count, width)

    @vector.intrinsic
    def copy_halves(typingctx, source, s, source_step, target, t, target_step, rows, width):
        i8 = types.int64

        def body(builder, kinds, source, source_step, target, *sizes):
            e = emit.Emitter(builder, vector.scalar_type(kinds[0]))
            moves.halve_block(e, source, e.whole(source_step), target, *map(e.whole, sizes))

        return types.void(source, i8, i8, target, i8, i8, i8, i8), vector.outlined("copy_halves", body)

    @kernel("in1 int out1 int int int")
    def halves(source, source_step, target, target_step, count, width):
        copy_halves(source, 0, source_step, target, 0, target_step, count, width)

    @kernel("in1 ints1 int int int int in1 out1 int int int")
    def pixels(a, table, runs, depth, a_step, row_step, b, c, rs_c, rows, accumulate):
        im2col_weight.gemm_pixels(
            a, 0, table, 0, runs, depth, a_step, row_step, b, 0, c, 0, rs_c, rows, accumulate != 0
        )

    @kernel("in1 int int out1 int int int")
    def turned(w, s_row, s_column, packed, step, rows, columns):
        im2col.turn(w, 0, s_row, s_column, packed, 0, step, rows, columns)

    @kernel("in1 in1")
    def apart(a, b):
        return vector.distance(a, b)

    @kernel("in1 out1 int int")
    def copy(source, target, start, count):
        vector.copy_run(source, 0, target, start, count)
        vector.zero_run(target, 0, start)

    @kernel("in1 int int int out1 int")
    def transpose(source, source_row, rows, count, target, target_row):
        vector.transpose_run(source, 0, source_row, rows, count, target, 0, target_row)

    @kernel("in1 in1 int in1 int out1 int scalar scalar scalar")
    def finish(sums, bias, bias_count, residual, residual_count, y, count, addend, low, high):
        vector.finish_run(
            sums, 0, bias, 0, bias_count > 0, addend, residual, 0, residual_count > 0, y, 0, count, low, high
        )

    @vector.intrinsic
    def call_spread(typingctx, function, source, s, row, column, count, target, t, point):
        return calls._call("input", source, s, row, column, count, target, t, point)

    @vector.intrinsic
    def call_output(
        typingctx, function, source, s, point, count, bias, b, residual, r, low, high, target, t, row, column
    ):  # fmt: skip
        real = source.dtype
        return calls._call(
            "output", source, s, point, count, bias, b, residual, r, real, real, target, t, row, column
        )

    @vector.intrinsic
    def call_gather(typingctx, function, source, s, stride, channels, pixels, width, skip, target, t):
        return calls._call("gather", source, s, stride, channels, pixels, width, skip, target, t)

    @vector.intrinsic
    def call_finish(typingctx, function, source, s, count, residual, r, low, high, target, t):
        return calls._call("finish", source, s, count, residual, r, source.dtype, source.dtype, target, t)

    @kernel("int in1 int int int out1 int")
    def spread(function, source, row, column, count, target, point):
        call_spread(function, source, 0, row, column, count, target, 0, point)

    @kernel("int in1 int int in1 in1 scalar scalar out1 int int")
    def outputs(function, source, point, count, bias, residual, low, high, target, row, column):
        return call_output(
            function, source, 0, point, count, bias, 0, residual, 0, low, high, target, 0, row, column
        )

    @kernel("int in1 int int out1")
    def taps(function, source, point, count, target):
        return calls.call_taps(function, source, 0, point, count, target, 0)

    @kernel("int in1 int int out1 int int")
    def additions(function, source, point, count, target, row, column):
        return calls.call_addition(function, source, 0, point, count, target, 0, row, column)

    @kernel("int in1 int out1")
    def add(function, source, count, target):
        calls.call_add(function, source, 0, count, target, 0)

    @kernel("int in1 int int int int int out1")
    def gather(function, source, stride, channels, pixels, width, skip, target):
        call_gather(function, source, 0, stride, channels, pixels, width, skip, target, 0)

    @kernel("int in1 int int in1 scalar scalar out1 int")
    def scatter(function, source, pixels, channels, residual, low, high, target, stride):
        calls.call_scatter(function, source, 0, pixels, channels, residual, 0, low, high, target, 0, stride)

    @kernel("int in1 int in1 scalar scalar out1")
    def finish_row(function, source, count, residual, low, high, target):
        call_finish(function, source, 0, count, residual, 0, low, high, target, 0)

    @kernel("int in1 int int in1 int out1 int int int int int int")
    def products(function, v, row, point, u, u_point, m, m_point, points, channels, tiles, depth, terms):
        calls.call_products(
            function, v, 0, row, point, u, 0, u_point, m, 0, m_point, points, channels, tiles, depth, terms
        )

    @kernel("int in1 int in1 int out1 int int int int int int")
    def outer(function, v, v_row, m, m_row, u, u_row, rows, columns, depth, terms, accumulate):
        calls.call_outer(function, v, 0, v_row, m, 0, m_row, u, 0, u_row, rows, columns, depth, terms, accumulate)

    return {f.function.__name__: f for f in (
        tile, block, indirect, ended, some_rows, halves, pixels, turned, apart, copy, transpose, finish, spread,
        outputs, taps, additions, add, gather, scatter, finish_row, products, outer,
    )}  # fmt: skip


def sizes(dtype):
    """(lanes of a vector, columns of a panel)."""
    from fastconv._numba import gemm, vector

    return vector.lanes(np.dtype(dtype).itemsize), gemm.columns(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("depth", [0, 1, 2, 7, 300])
@pytest.mark.parametrize("accumulate", [False, True])
def test_micro_kernel_every_height(probes, rng, dtype, depth, accumulate):
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    for name, heights in (("tile", vector.TILE_HEIGHTS), ("block", range(2 * vector.TILE_ROWS + 2))):
        for rows in heights:
            rs_a, rs_c = depth + 3, nr + 5  # strides beyond the elements, as next rows of a larger matrix
            a = rng.integers(-3, 4, max(rows - 1, 0) * rs_a + depth).astype(dtype)  # nothing behind the last row
            b = rng.integers(-3, 4, depth * nr).astype(dtype)
            c = np.full(rows * rs_c + 1, JUNK, dtype)
            expected = c.copy()
            if rows:
                full = np.zeros((rows, depth), dtype)
                for i in range(rows):
                    full[i] = a[i * rs_a : i * rs_a + depth]
                block = expected[: rows * rs_c].reshape(rows, rs_c)
                block[:, :nr] = full @ b.reshape(depth, nr) + (JUNK if accumulate else 0)
            probes[name][dtype](a, rs_a, b, c, rs_c, rows, depth, accumulate)
            np.testing.assert_array_equal(c, expected, err_msg=f"{name} {rows} rows")


@pytest.mark.parametrize("dtype", FLOATS)
def test_micro_kernel_sums_in_one_order(probes, rng, dtype):
    """A row has the same bits in every tile."""
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    depth = 37
    a = rng.standard_normal((vector.TILE_ROWS, depth)).astype(dtype)
    b = rng.standard_normal(depth * nr).astype(dtype)
    whole = np.empty((vector.TILE_ROWS, nr), dtype)
    probes["tile"][dtype](a.ravel(), depth, b, whole.ravel(), nr, vector.TILE_ROWS, depth, False)
    for rows in vector.TILE_HEIGHTS:
        part = np.empty((rows, nr), dtype)
        probes["tile"][dtype](a.ravel(), depth, b, part.ravel(), nr, rows, depth, False)
        assert part.tobytes() == whole[:rows].tobytes(), rows


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("runs, depth", [(0, 3), (2, 0), (1, 1), (3, 7), (9, 2)])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_micro_kernels_with_an_ending(probes, rng, dtype, runs, depth, accumulate, last):
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    for rows in range(1, 2 * vector.TILE_ROWS + 2):
        step, rs_c, rs_y = rows + 2, nr + 3, nr + 5
        a = rng.integers(-3, 4, 200).astype(dtype)
        table = rng.integers(0, 200 - depth + 1, (runs, step))
        b = rng.integers(-3, 4, runs * depth * nr).astype(dtype)
        c = rng.integers(-3, 4, rows * rs_c).astype(dtype)
        bias = rng.integers(-9, 10, max(nr, rows)).astype(dtype)
        matrix = np.array([[a[table[r, i] + k] for r in range(runs) for k in range(depth)] for i in range(rows)], dtype)
        product = matrix.reshape(rows, -1) @ b.reshape(runs * depth, nr)
        if accumulate:
            product += c.reshape(rows, rs_c)[:, :nr]
        dense = np.zeros((rows, runs * depth + 1), dtype)
        dense[:, :-1] = matrix.reshape(rows, -1)
        for name, added in (("indirect", bias[:nr]), ("ended", bias[:rows, None]), ("ended", None)):
            y, partial = np.full(rows * rs_y, JUNK, dtype), c.copy()
            expected = y.copy()
            wanted = expected.reshape(rows, rs_y)[:, :nr]
            wanted[:] = np.clip(product + (0 if added is None else added), -20, 21) if last else product
            ending = (y, rs_y, last, bias)
            if name == "indirect":
                arguments = (a, table.ravel(), step, b, partial, rs_c, rows, runs, depth, accumulate)
                probes[name][dtype](*arguments, *ending, -20, 21)
            else:
                zeros = (y, rs_y, last, np.zeros_like(bias)) if added is None else ending
                arguments = (dense.ravel(), dense.shape[1], b, partial, rs_c, rows, runs * depth, accumulate)
                probes[name][dtype](*arguments, *zeros, added is not None, -20, 21)
            np.testing.assert_array_equal(y, expected, err_msg=f"{name} {rows} rows")
            np.testing.assert_array_equal(partial, c)


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_ending_keeps_nan(probes, dtype):
    _, nr = sizes(dtype)
    y, bias = np.zeros(nr, dtype), np.full(nr, np.nan, dtype)
    a, b = np.ones(1, dtype), np.ones(nr, dtype)
    probes["ended"][dtype](a, 1, b, y.copy(), nr, 1, 1, 0, y, nr, 1, bias, 1, -1.0, 1.0)
    assert np.isnan(y).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_every_width(probes, rng, dtype):
    _, nr = sizes(dtype)
    for width in range(nr + 1):
        for count in (0, 1, 3):
            source_step, target_step = width + 1, nr + 2
            source = rng.standard_normal(max(0, count - 1) * source_step + width).astype(dtype)  # no element to spare
            target = np.full(3 * target_step, JUNK, dtype)
            expected = target.copy()
            for r in range(count):
                expected[r * target_step : r * target_step + width] = source[r * source_step : r * source_step + width]
            probes["some_rows"][dtype](source, source_step, target, target_step, count, width)
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_other_element_of_rows_of_every_width(probes, rng, dtype):
    _, nr = sizes(dtype)
    for width in range(nr + 1):
        for count in (0, 1, 3):
            source_step, target_step = 2 * width + 1, nr + 2
            length = max(0, count - 1) * source_step + max(0, 2 * width - 1)  # no element to spare
            source = rng.standard_normal(length).astype(dtype)
            target = np.full(3 * target_step, JUNK, dtype)
            expected = target.copy()
            for r in range(count):
                row = source[r * source_step :][: 2 * width : 2]
                expected[r * target_step : r * target_step + width] = row[:width]
            probes["halves"][dtype](source, source_step, target, target_step, count, width)
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "runs, depth, a_step, row_step", [(0, 3, 1, 7), (2, 0, 1, 7), (1, 1, 1, 1), (3, 7, 6, 1), (4, 5, 2, 11)]
)
def test_micro_kernel_of_pixels_every_height(probes, rng, dtype, accumulate, runs, depth, a_step, row_step):
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    for rows in vector.TILE_HEIGHTS:
        reach = max(depth - 1, 0) * a_step + (rows - 1) * row_step + 1
        table = rng.integers(0, 9, runs)
        a = rng.integers(-3, 4, 8 + reach).astype(dtype)
        b = rng.integers(-3, 4, runs * depth * nr).astype(dtype)
        rs_c = nr + 3
        c = np.full(rows * rs_c, JUNK, dtype)
        expected = c.copy()
        matrix = np.array(
            [[a[t + k * a_step + i * row_step] for t in table for k in range(depth)] for i in range(rows)], dtype
        ).reshape(rows, runs * depth)
        block = expected.reshape(rows, rs_c)
        block[:, :nr] = matrix @ b.reshape(runs * depth, nr) + (JUNK if accumulate else 0)
        probes["pixels"][dtype](a, table, runs, depth, a_step, row_step, b, c, rs_c, rows, accumulate)
        np.testing.assert_array_equal(c, expected, err_msg=f"{rows} rows")


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_are_turned_at_every_edge(probes, dtype):
    lanes, _ = sizes(dtype)
    for rows in (0, 1, lanes - 1, lanes, 2 * lanes + 1):
        for columns in (0, 1, lanes, lanes + 3):
            for s_row, s_column in ((columns + 2, 1), (1, rows + 1), (3, 3 * rows + 2)):
                length = max(0, rows - 1) * s_row + max(0, columns - 1) * s_column + 1
                w, step = np.arange(1, length + 1, dtype=dtype), rows + 2
                packed = np.full(columns * step + 1, JUNK, dtype)
                expected = packed.copy()
                for column in range(columns):
                    for row in range(rows):
                        expected[column * step + row] = w[row * s_row + column * s_column]
                probes["turned"][dtype](w, s_row, s_column, packed, step, rows, columns)
                np.testing.assert_array_equal(packed, expected)


def numba_row(name):
    return next(k for k in KERNELS if k.name == name)


@pytest.mark.parametrize("pass_", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("k, s", [(3, 1), (3, 2)])
def test_depthwise_rows_of_every_width_and_channels(pass_, k, s):
    """Tiles whole, at one edge, at both; vectors of columns (NCHW) and channels (NHWC) of every length."""
    kernel = numba_row(f"conv2d_{pass_}_depthwise__numba")
    lanes, _ = sizes("float32")
    for number in (*range(1, lanes + 2), 2 * lanes - 1, 2 * lanes, 2 * lanes + 1, 2 * lanes + k):
        for text, layout in (
            (f"g2mb1ic2ih{5 + number % 4}iw{s * number}oc2kh{k}sh{s}ph{k // 2}", "NCHW"),
            (f"g{number}mb1ic{number}ih6iw{4 + 3 * s}oc{number}kh{k}sh{s}ph{k // 2}", "NHWC"),
        ):
            problem = ConvProblem.parse(text, pass_=pass_, layout=layout)
            check(run_of(kernel, problem), problem, kernel.algorithm)


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("window, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_pooled_rows_of_every_width_and_channels(op, window, stride, padding):
    lanes, _ = sizes("float32")
    for number in (*range(1, lanes + 2), 2 * lanes - 1, 2 * lanes, 2 * lanes + 1):
        for layout, c, iw in (("NCHW", 2, stride * number + window - 1), ("NHWC", number, 9)):
            for pass_, indexed in (("forward", False), ("forward", op == "max_pool2d"), ("backward", False)):
                problem = pool_problem(
                    "test", op, pass_=pass_, mb=1, c=c, ih=7, iw=iw, kernel_size=window, stride=stride,
                    padding=padding, return_indices=indexed, layout=layout,
                )  # fmt: skip
                kernel = numba_row(f"{op}_{pass_}_direct__numba")
                check(run_of(kernel, problem), problem, kernel.algorithm)


@pytest.mark.parametrize("dtype", FLOATS)
def test_distance_is_in_elements(probes, dtype):
    memory = np.zeros(20, dtype)
    assert probes["apart"][dtype](memory[3:], memory[11:]) == 8
    assert probes["apart"][dtype](memory[11:], memory[3:]) == -8


@pytest.mark.parametrize("dtype", FLOATS)
def test_runs_touch_nothing_else(probes, dtype):
    _, nr = sizes(dtype)
    for count in range(nr + 1):
        source = np.arange(1, count + 1, dtype=dtype)  # no element to spare
        for start in (0, 1, nr - 1):
            target = np.full(2 * nr, JUNK, dtype)
            probes["copy"][dtype](source, target, start, count)
            expected = np.full(2 * nr, JUNK, dtype)
            expected[:start] = 0
            expected[start : start + count] = source
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_transposition_every_edge(probes, dtype):
    lanes, _ = sizes(dtype)
    for rows in range(lanes + 1):
        for count in range(lanes + 1):
            source_row, target_row = count + 1, lanes + 2
            source = np.arange(1, max(rows - 1, 0) * source_row + count + 1, dtype=dtype)
            target = np.full(lanes * target_row, JUNK, dtype)
            probes["transpose"][dtype](source, source_row, rows, count, target, target_row)
            expected = np.full((lanes, target_row), JUNK, dtype)
            expected[:, :lanes] = 0
            for i in range(rows):
                expected[:count, i] = source[i * source_row : i * source_row + count]
            np.testing.assert_array_equal(target.reshape(lanes, target_row), expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_epilogue_of_a_run(probes, rng, dtype):
    _, nr = sizes(dtype)
    sums = rng.integers(-9, 10, nr).astype(dtype)
    sums[0] = np.nan
    for count in range(nr + 1):
        bias, residual = (rng.integers(-9, 10, count).astype(dtype) for _ in range(2))
        for with_bias, with_residual in ((0, 0), (count, 0), (0, count), (count, count)):
            y = np.full(nr + 1, JUNK, dtype)
            probes["finish"][dtype](sums, bias, with_bias, residual, with_residual, y, count, 1.0, -4.0, 5.0)
            expected = sums[:count] + 1
            expected += bias if with_bias else 0
            expected += residual if with_residual else 0
            np.testing.assert_array_equal(y[:count], np.clip(expected, -4, 5))
            assert (y[count:] == JUNK).all()


def address(tile, dtype, what):
    """Of one of the functions that Winograd calls by address."""
    from fastconv._numba import winograd_calls as calls

    which = next(name for name, kinds in calls.SETS.items() if what in kinds)
    return calls.addresses(tile if what not in calls.MOVES else calls.TILES[0], dtype, which)[what]


# How far the transforms may be from the matrices: units in the last place of the sum of absolute values.
TRANSFORM_ULPS = 12


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tile", list(formulas.TILES))
@pytest.mark.parametrize(
    "what", ["weights", "input", "output", "output_adjoint", "weights_adjoint", "input_adjoint"]
)
def test_transforms_are_the_matrices(probes, rng, what, tile, dtype):
    lanes, _ = sizes(dtype)
    at, g, bt = formulas.matrices(tile)
    matrix = {"i": bt, "o": at, "w": g}[what[0]]
    matrix = matrix.T if what.endswith("_adjoint") else matrix
    line = formulas.dimensions(tile) == 1
    n = 2 * lanes
    d = rng.standard_normal((matrix.shape[1],) * (1 if line else 2) + (n + 3,)).astype(dtype)  # cells n + 3 apart
    row = n + 3 if line else matrix.shape[1] * (n + 3)

    def product(matrix, d):
        return np.einsum("ai,il->al", matrix, d) if line else np.einsum("ai,ijl,bj->abl", matrix, d, matrix)

    out = np.full((matrix.shape[0],) * (d.ndim - 1) + (n + 5,), JUNK, dtype)
    source, target, function = d.ravel(), out.ravel(), address(tile, dtype, what)
    expected = product(matrix, d[..., :n].astype(np.float64))
    tolerance = TRANSFORM_ULPS * np.finfo(dtype).eps / 2 * product(abs(matrix), abs(d[..., :n].astype(np.float64)))
    if what == "output":
        bias, residual = (rng.standard_normal(shape).astype(dtype) for shape in (n, out.shape))
        step = n + 5 if line else matrix.shape[0] * (n + 5)
        for added in (np.zeros(0, dtype), residual.ravel()):
            whole = expected + bias + (residual[..., :n] if added.size else 0)
            arguments = (function, source, n + 3, n, bias, added, -1.0, 1.5, target, step, n + 5)
            assert probes["outputs"][dtype](*arguments) == 0
            assert (np.abs(out[..., :n] - np.clip(whole, -1, 1.5)) <= tolerance + 4 * np.finfo(dtype).eps).all()
        for bad in (np.nan, np.inf, -np.inf):
            for lane in range(n):
                spoiled = d.copy()
                spoiled.reshape(-1, n + 3)[matrix.shape[1] // 2, lane] = bad
                assert probes["outputs"][dtype](function, spoiled.ravel(), *arguments[2:]) == 1
    elif what == "weights_adjoint":
        out = out[..., :n].copy()
        assert probes["taps"][dtype](function, source, n + 3, n, out.reshape(-1)) == 0
        assert (np.abs(out - expected) <= tolerance).all()
        spoiled = d.copy()
        spoiled.reshape(-1, n + 3)[matrix.shape[1] // 2, 1] = np.inf
        assert probes["taps"][dtype](function, spoiled.ravel(), n + 3, n, out.reshape(-1)) == 1
        return
    elif what == "input_adjoint":
        step = n + 5 if line else matrix.shape[0] * (n + 5)
        assert probes["additions"][dtype](function, source, n + 3, n, target, step, n + 5) == 0
        assert (np.abs(out[..., :n] - JUNK - expected) <= tolerance + 20 * np.finfo(dtype).eps).all()
        spoiled = d.copy()
        spoiled.reshape(-1, n + 3)[matrix.shape[1] // 2, 1] = np.nan
        assert probes["additions"][dtype](function, spoiled.ravel(), n + 3, n, target, step, n + 5) == 1
    else:
        probes["spread"][dtype](function, source, row, n + 3, n, target, n + 5)
        assert (np.abs(out[..., :n] - expected) <= tolerance).all()
    assert (out[..., n:] == JUNK).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_planes_to_vectors_of_channels_and_back(probes, dtype):
    """Every number of channels and pixels around a vector; rows that follow each other with a gap between them."""
    lanes, _ = sizes(dtype)
    gather, scatter = address("f2x3", dtype, "gather"), address("f2x3", dtype, "scatter")
    for channels in range(lanes + 1):
        for width, rows in [(n, 1) for n in range(1, 2 * lanes + 2)] + [(3, 2), (5, 4), (lanes, 3), (lanes + 1, 2)]:
            pixels, skip = width * rows, 2
            stride = pixels + 1
            source = np.arange(1, max(channels - 1, 0) * stride + pixels + 1, dtype=dtype)  # no element to spare
            target = np.full((rows * (width + skip), lanes), JUNK, dtype)
            probes["gather"][dtype](gather, source, stride, channels, pixels, width, skip, target.reshape(-1))
            expected = np.full((rows, width + skip, lanes), JUNK, dtype)
            expected[:, :width] = 0
            for c in range(channels):
                expected[:, :width, c] = source[c * stride : c * stride + pixels].reshape(rows, width)
            np.testing.assert_array_equal(target, expected.reshape(target.shape), err_msg=f"{channels} {width} {rows}")

            strip = np.zeros(((pixels + lanes - 1) // lanes * lanes, lanes), dtype)
            strip[:pixels] = expected[:, :width].reshape(pixels, lanes)
            for residual in (np.zeros(0, dtype), source):
                back = np.full(source.size, JUNK, dtype)
                probes["scatter"][dtype](
                    scatter, strip.reshape(-1), pixels, channels, residual, 2.0, 40.0, back, stride
                )
                wanted = np.full(source.size, JUNK, dtype)
                for c in range(channels):
                    cells = slice(c * stride, c * stride + pixels)
                    wanted[cells] = np.clip(source[cells] * (2 if residual.size else 1), 2, 40)
                np.testing.assert_array_equal(back, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
def test_end_of_a_row_of_channels(probes, rng, dtype):
    _, nr = sizes(dtype)
    function = address("f2x3", dtype, "finish")
    for count in range(2 * nr + 2):
        source, residual = (rng.integers(-9, 10, count).astype(dtype) for _ in range(2))
        for added in (np.zeros(0, dtype), residual):
            y = np.full(count + 1, JUNK, dtype)
            probes["finish_row"][dtype](function, source, count, added, -4.0, 5.0, y)
            np.testing.assert_array_equal(y[:count], np.clip(source + (added if added.size else 0), -4, 5))
            assert y[count] == JUNK
        y[:count] = residual
        probes["add"][dtype](address("f2x3", dtype, "add"), source, count, y)
        np.testing.assert_array_equal(y[:count], source + residual)
        assert y[count] == JUNK


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("depth, terms", [(1, 4), (7, 7), (9, 4), (300, 256)])
def test_products_of_points(probes, rng, dtype, depth, terms):
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    wide = blocking.WINOGRAD_CHANNELS
    for tiles in (*range(1, vector.TILE_ROWS + 2), 3 * vector.TILE_ROWS - 1):
        for panels in (1, 2):
            points, row = 2, depth + 3
            v = rng.integers(-3, 4, (points, tiles, row)).astype(dtype)
            u = rng.integers(-3, 4, (points, panels, depth, nr)).astype(dtype)
            m = np.full((points, tiles * wide + 5), JUNK, dtype)
            probes["products"][dtype](
                address("f2x3", dtype, "products"), v.ravel(), row, tiles * row, u.ravel(), panels * depth * nr,
                m.ravel(), tiles * wide + 5, points, panels * nr, tiles, depth, terms,
            )  # fmt: skip
            expected = np.full_like(m, JUNK)
            for point in range(points):
                block = expected[point, : tiles * wide].reshape(tiles, wide)
                for panel in range(panels):
                    block[:, panel * nr : panel * nr + nr] = v[point, :, :depth] @ u[point, panel]
            np.testing.assert_array_equal(m, expected, err_msg=f"{tiles} tiles")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("depth, terms", [(1, 4), (7, 7), (9, 4), (300, 256)])
@pytest.mark.parametrize("accumulate", [0, 1])
def test_sums_over_rows(probes, rng, dtype, depth, terms, accumulate):
    from fastconv._numba import vector

    _, nr = sizes(dtype)
    for rows in (*range(1, vector.TILE_ROWS + 2), 3 * vector.TILE_ROWS - 1):
        v = rng.integers(-3, 4, (depth, rows + 1)).astype(dtype)
        m = rng.integers(-3, 4, (depth, 2 * nr + 3)).astype(dtype)
        u = rng.integers(-3, 4, (rows, 2 * nr + 2)).astype(dtype)
        expected = u.copy()
        expected[:, : 2 * nr] = v[:, :rows].T @ m[:, : 2 * nr] + (u[:, : 2 * nr] if accumulate else 0)
        probes["outer"][dtype](
            address("f2x3", dtype, "outer"), v.ravel(), rows + 1, m.ravel(), 2 * nr + 3, u.reshape(-1), 2 * nr + 2,
            rows, 2 * nr, depth, terms, accumulate,
        )  # fmt: skip
        np.testing.assert_array_equal(u, expected, err_msg=f"{rows} rows")


@pytest.mark.parametrize("order", ["OIHW", "HWIO", "turned", "strided", "broadcast"])
@pytest.mark.parametrize("pass_", ["forward", "backward_input"])
def test_winograd_takes_weights_in_any_order(rng, pass_, order):
    """Whole panels of channels and not, each way of packing; small integers make F(2x2, 3x3) exact."""
    for channels in (5, 32, 35):
        w = rng.integers(-3, 4, (channels, 20, 3, 3)).astype(np.float32)
        if order == "HWIO":
            w = np.ascontiguousarray(w.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
        elif order == "turned":
            w = np.ascontiguousarray(w[..., ::-1, ::-1])[..., ::-1, ::-1]
        elif order == "strided":
            w = np.repeat(w, 2, axis=3)[..., ::2]
        elif order == "broadcast":
            w = np.broadcast_to(w[:1, :, :1], w.shape)
        x = rng.integers(-3, 4, (1, 20 if pass_ == "forward" else channels, 6, 7)).astype(np.float32)
        results = [
            fastconv.conv2d(x, w, padding=1, algorithm=algorithm, backend=backend)
            if pass_ == "forward"
            else fastconv.conv2d_input((1, 20, 6, 7), w, x, padding=1, algorithm=algorithm, backend=backend)
            for algorithm, backend in (("winograd_f2x3", "numba"), ("reference", "auto"))
        ]
        np.testing.assert_array_equal(*results)


def test_workspace_is_counted_in_whole_cache_lines():
    """And the blocks of one pass fit their bounds: a panel has a bounded size, never the whole matrix."""
    for text in ("mb8ic512ih56oc512kh7ph3", "mb1ic1ih9oc1kh9", "g3mb2ic9ih300oc6kh3sh2", "mb64ic3ih224oc64kh7sh2ph3"):
        for layout in ("NCHW", "NHWC"):
            for pass_ in ("forward", "backward_input", "backward_weight"):
                p = lower(ConvProblem.parse(text, pass_=pass_, layout=layout))
                need = [blocking.im2col_bytes(p, pass_, threads) for threads in (1, 2, 3)]
                assert all(n % blocking.LINE_BYTES == 0 for n in need)
                private = need[1] - need[0]
                assert need[2] - need[1] == private
                assert private < 8 * 1024 * 1024, (text, layout, pass_)


def test_strided_class_without_taps_gets_the_epilogue():
    """Stride above the filter: cells of the input gradient that no tap reaches hold act(bias)."""
    dy = np.ones((1, 2, 3, 3), np.float32)
    w = np.ones((2, 1, 1, 1), np.float32)
    for backend in ("numba", "cython"):
        if not rows_of(backend):
            continue
        dx = fastconv.conv_transpose2d(
            dy, w, np.array([0.5], np.float32), stride=3, activation="relu", backend=backend, algorithm="im2col"
        )
        expected = np.full((1, 1, 7, 7), 0.5, np.float32)
        expected[..., ::3, ::3] = 2.5
        np.testing.assert_array_equal(dx, expected)


def rows_of(backend):
    from fastconv import host

    return host.backend_fault(backend) is None


@pytest.mark.parametrize("algorithm", ["naive", "im2col", "winograd_f2x3"])
def test_eight_python_threads_at_once(rng, algorithm):
    problems = []
    for channels in (3, 8, 17, 33):
        x = rng.integers(-3, 4, (2, channels, 13, 11)).astype(np.float32)
        w = rng.integers(-3, 4, (5, channels, 3, 3)).astype(np.float32)
        problems.append((x, w, fastconv.conv2d(x, w, padding=1, algorithm="reference")))

    def run(i):
        for k in range(12):
            x, w, expected = problems[(i + k) % len(problems)]
            y = fastconv.conv2d(x, w, padding=1, algorithm=algorithm, backend="numba")
            np.testing.assert_array_equal(y, expected)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))


@pytest.mark.parametrize("algorithm, groups", [("im2col", 1), ("depthwise", 3)])
def test_an_input_gradient_that_no_tap_reaches(algorithm, groups, threads):
    """One row, stride 2 and padding 1 under a filter of one: all outputs lie in the padding, there is nothing to do."""
    threads(2)
    w = np.ones((3, 3 // groups, 1, 1), "f4")
    dy = np.ones((2, 3, 2, 2), "f4")
    how = {"stride": 2, "padding": 1, "groups": groups}
    dx = fastconv.conv2d_input((2, 3, 1, 1), w, dy, algorithm=algorithm, backend="numba", **how)
    assert not dx.any() and dx.shape == (2, 3, 1, 1)
