"""Pooling rules, one test each, on every row: who wins a window, what is counted, where gradients go."""

import functools

import numpy as np
import pytest

import fastconv
from fastconv.problem import pool_problem
from fastconv.registry import KERNELS
from tests import compare
from tests.rows import rows, use_isa

LAYOUTS = ("NCHW", "NHWC")
# Lengths around the vectors of every instruction set, as a plane's width or as its channels.
LENGTHS = (1, 3, 7, 16, 17, 33)
# kernel_size, stride, padding
WINDOWS = ((2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 5), (1, 3), (1, 2)))


def forced(kernel):
    return {"algorithm": kernel.algorithm, "backend": kernel.backend}


def stored(a, layout):
    """A logical NCHW array as a caller of the layout has it."""
    return np.ascontiguousarray(a if layout == "NCHW" else a.transpose(0, 2, 3, 1))


def logical(a, layout):
    return a if layout == "NCHW" else a.transpose(0, 3, 1, 2)


def pool(function, x, *args, layout="NCHW", **options):
    """A forward pool of a logical array, logical results."""
    result = function(stored(x, layout), *args, layout=layout, **options)
    if isinstance(result, tuple):
        return tuple(logical(a, layout) for a in result)
    return logical(result, layout)


def gradient(function, dy, size, *args, layout="NCHW", indices=None, **options):
    """A backward pool of logical arrays, logical result."""
    n, c, h, w = size
    size = size if layout == "NCHW" else (n, h, w, c)
    extra = () if indices is None else (stored(indices, layout),)
    return logical(function(stored(dy, layout), size, *extra, *args, layout=layout, **options), layout)


def first_cells(p):
    """Flat index of the first cell of each window that lies inside the input (undilated)."""
    rows_ = np.maximum(np.arange(p.oh) * p.sh - p.ph, 0)
    columns = np.maximum(np.arange(p.ow) * p.sw - p.pw, 0)
    return rows_[:, None] * p.iw + columns


max_rows = pytest.mark.parametrize(("kernel", "isa"), rows(op="max_pool2d", pass_="forward"))
avg_rows = pytest.mark.parametrize(("kernel", "isa"), rows(op="avg_pool2d", pass_="forward"))
layouts = pytest.mark.parametrize("layout", LAYOUTS)
floats = pytest.mark.parametrize("dtype", ["float32", "float64"])


# ---------------------------------------------------------------------------------------------------------------
# Maxima


@max_rows
@layouts
@floats
@pytest.mark.parametrize("window", WINDOWS)
def test_a_nan_wins_and_the_last_of_several_is_named(kernel, isa, layout, dtype, window, rng):
    """In the full vectors and in the tail: every cell of the planes is a NaN in turn."""
    for length in LENGTHS:
        x = rng.integers(-3, 4, (2, length, 6, 33)).astype(dtype)
        x[rng.random(x.shape) < 0.3] = np.nan
        with use_isa(isa):
            y, indices = pool(fastconv.max_pool2d, x, *window, layout=layout, return_indices=True, **forced(kernel))
            alone = pool(fastconv.max_pool2d, x, *window, layout=layout, **forced(kernel))
        expected, where = pool(fastconv.max_pool2d, x, *window, return_indices=True, algorithm="reference")
        compare.assert_exact(y, expected)
        compare.assert_exact(alone, expected)
        compare.assert_exact(indices, where)
        picked = np.take_along_axis(x.reshape(2, length, -1), indices.reshape(2, length, -1), 2)
        compare.assert_exact(picked.reshape(y.shape), y)


@max_rows
@layouts
@floats
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 1, 1), (3, 2, 1), ((2, 3), (1, 2), 1, (2, 3)), (5, 3, 2)])
def test_nans_and_infinities_in_rows_of_any_width(kernel, isa, layout, dtype, window, rng):
    """Rows of less than a vector, one, two and more have paths of their own; one plane has numbers only, one both."""
    if kernel.backend == "numpy":
        pytest.skip("the reference is what the others are compared with")
    for width in (7, 8, 13, 16, 17, 28, 32, 35, 70):
        x = rng.integers(-3, 4, (3, 2, 7, width)).astype(dtype)
        x[1, 0][rng.random((7, width)) < 0.1] = np.nan
        x[2][rng.random((2, 7, width)) < 0.1] = np.inf
        x[2][rng.random((2, 7, width)) < 0.4] = -np.inf
        expected, where = pool(fastconv.max_pool2d, x, *window, return_indices=True, algorithm="reference")
        with use_isa(isa):
            y, indices = pool(fastconv.max_pool2d, x, *window, layout=layout, return_indices=True, **forced(kernel))
            alone = pool(fastconv.max_pool2d, x, *window, layout=layout, **forced(kernel))
        compare.assert_exact(y, expected)
        compare.assert_exact(alone, expected)
        compare.assert_exact(indices, where)


@pytest.mark.parametrize(("kernel", "isa"), rows(op="max_pool2d", pass_="backward"))
@layouts
@floats
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (7, 1, 3)])
@pytest.mark.parametrize("wrong", [-1, "cells", 2**32])
def test_an_index_outside_its_plane_is_refused(kernel, isa, layout, dtype, window, wrong):
    for size in ((2, 17, 8, 33), (2, 5, 61, 67)):
        cells = size[2] * size[3]
        y, indices = fastconv.max_pool2d(np.zeros(size, dtype), *window, return_indices=True)
        indices[1, 3, 1, 2] = cells if wrong == "cells" else wrong
        with use_isa(isa), pytest.raises(ValueError, match=rf"must lie in \[0, {cells}\)"):
            gradient(fastconv.max_pool2d_backward, y, size, *window, layout=layout, indices=indices, **forced(kernel))


def test_the_reference_names_the_last_nan_as_torch_does():
    x = np.array([[1, np.nan, 3], [np.nan, 5, 6], [7, 8, 9]], np.float32)[None, None]
    y, indices = fastconv.max_pool2d(x, 3, return_indices=True, algorithm="reference")
    assert np.isnan(y.item()) and indices.item() == 3


@max_rows
@layouts
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("value", [2.0, -np.inf])
def test_the_first_of_equal_cells_wins_even_at_minus_infinity(kernel, isa, layout, window, value):
    for length in LENGTHS:
        x = np.full((1, length, 5, 35), value, np.float32)
        p = pool_problem("t", "max_pool2d", mb=1, c=length, ih=5, iw=35, kernel_size=window[0], stride=window[1],
                         padding=window[2])  # fmt: skip
        with use_isa(isa):
            y, indices = pool(fastconv.max_pool2d, x, *window, layout=layout, return_indices=True, **forced(kernel))
        assert (y == value).all()
        compare.assert_exact(indices, np.broadcast_to(first_cells(p), y.shape))


@max_rows
@layouts
def test_padded_cells_never_win(kernel, isa, layout, rng):
    x = -1 - rng.random((2, 5, 7, 19)).astype(np.float32)
    with use_isa(isa):
        y = pool(fastconv.max_pool2d, x, 3, 2, ((1, 2), (2, 1)), layout=layout, **forced(kernel))
    assert y.max() <= -1 and y.min() >= x.min()
    assert set(y.ravel()) <= set(x.ravel())


@max_rows
def test_integers_are_compared_exactly(kernel, isa):
    if kernel.algorithm == "direct":
        with pytest.raises(fastconv.NoKernelError, match="integers"):
            fastconv.max_pool2d(np.zeros((1, 1, 2, 2), np.int64), 2, **forced(kernel))
        return
    x = np.array([[2**62, 2**62 + 1], [-(2**63), 5]])[None, None]
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True, **forced(kernel))
    assert y.item() == 2**62 + 1 and indices.item() == 1


@functools.cache
def long_rows(width, kw, stride, dilation):
    """x of three long rows; the maxima of 2 x kw windows at padding 1, and their indices, by sliding views."""
    x = np.random.default_rng(width).integers(-99, 99, (1, 2, 3, width)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    extent = (kw - 1) * dilation + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, extent), (2, 3))
    windows = windows[:, :, :, ::stride, :, ::dilation]
    flat = windows.reshape(*windows.shape[:4], -1)
    first = flat.argmax(-1)
    row = np.arange(windows.shape[2])[:, None] + first // kw - 1
    column = np.arange(windows.shape[3]) * stride + first % kw * dilation - 1
    return x, flat.max(-1), row * width + column


@max_rows
@layouts
@pytest.mark.parametrize("width", [600, 1500])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_rows_longer_than_a_row_buffer(kernel, isa, layout, width, stride):
    """With windows that fit the buffer, that are longer than half of it, and dilated ones."""
    if kernel.backend == "numpy":
        pytest.skip("the reference visits every cell of every window in Python")
    for kw, dilation in ((3, 1), (520, 1), (4, 9), (3, 270)):
        x, largest, where = long_rows(width, kw, stride, dilation)
        with use_isa(isa):
            y, indices = pool(
                fastconv.max_pool2d, x, (2, kw), (1, stride), (1, 1), (1, dilation), False, True, layout=layout,
                **forced(kernel),
            )  # fmt: skip
        compare.assert_exact(y, largest)
        compare.assert_exact(indices, where)


@pytest.mark.parametrize(("kernel", "isa"), rows(op="max_pool2d", pass_="backward"))
@layouts
@floats
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("foreign", [False, True], ids=["own", "foreign"])
def test_gradients_go_where_the_indices_point(kernel, isa, layout, dtype, window, foreign, rng):
    """Also where an index lies outside its own window: it came from another pool, or a caller made it."""
    narrow = [(2, 3, 7, width) for width in (9, 11, 14, 23, 31)]
    for size in [*((2, length, 8, 33) for length in LENGTHS), *narrow, (2, 3, 61, 67)]:
        _, length, height, width = size
        x = rng.integers(-3, 4, size).astype(dtype)
        y, indices = fastconv.max_pool2d(x, *window, return_indices=True)
        if foreign:
            indices = rng.integers(0, height * width, indices.shape)
        dy = rng.integers(-3, 4, y.shape).astype(dtype)
        expected = np.zeros((2 * length, height * width), dtype)
        planes = np.arange(2 * length)[:, None]
        np.add.at(expected, (planes, indices.reshape(2 * length, -1)), dy.reshape(2 * length, -1))
        with use_isa(isa):
            dx = gradient(
                fastconv.max_pool2d_backward, dy, size, *window, layout=layout, indices=indices, **forced(kernel)
            )
        compare.assert_exact(dx, expected.reshape(size))


# ---------------------------------------------------------------------------------------------------------------
# Averages


@avg_rows
@layouts
def test_what_the_divisor_counts(kernel, isa, layout):
    x = np.full((1, 3, 3, 3), 12, np.float32)
    options = {"layout": layout, **forced(kernel)}
    with use_isa(isa):
        padded = pool(fastconv.avg_pool2d, x, 3, 2, 1, **options)
        real = pool(fastconv.avg_pool2d, x, 3, 2, 1, count_include_pad=False, **options)
        override = pool(fastconv.avg_pool2d, x, 3, 2, 1, divisor_override=4, **options)
    compare.assert_rounding(padded, np.full(padded.shape, 12 * 4 / 9), np.full(padded.shape, 12 * 4 / 9), "pool")
    assert (real == 12).all()
    assert (override == 12).all()


@avg_rows
@layouts
def test_ceil_mode_counts_no_cell_beyond_the_padding(kernel, isa, layout):
    """Width 4, window 3, stride 2: the second window has two real columns; the third, of ceil_mode, is not counted."""
    x = np.full((1, 2, 4, 4), 6, np.float32)
    with use_isa(isa):
        y = pool(fastconv.avg_pool2d, x, 3, 2, ceil_mode=True, layout=layout, **forced(kernel))
    assert y.shape == (1, 2, 2, 2)
    assert (y == 6).all()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [(5, 2, 2, 0, 3), (6, 3, 2, 0, 3), (1, 1, 2, 0, 1), (3, 1, 3, 0, 1), (4, 2, 3, 1, 2), (5, 2, 3, 1, 2)],
)
def test_under_ceil_mode_the_last_window_starts_inside(size, kernel, stride, padding, expected):
    """Inside the input or its padding at the start, never in the padding at the end."""
    for function in (fastconv.max_pool2d, fastconv.avg_pool2d):
        y = function(np.zeros((1, 1, size, 1)), (kernel, 1), stride, (padding, 0), ceil_mode=True)
        assert y.shape[2] == expected


@avg_rows
@layouts
@floats
@pytest.mark.parametrize("window", [*WINDOWS, ((4, 40), (2, 2), (0, 20)), ((1, 700), 1, (0, 300))])
def test_the_gradient_is_the_adjoint(kernel, isa, layout, dtype, window, rng):
    """<avg(x), dy> == <x, backward(dy)>, exactly: the divisor is 1 or a power of two."""
    if kernel.backend == "numpy" and window[0] == (1, 700):
        pytest.skip("the reference visits every window in Python")
    backward = next(k for k in KERNELS if k.name == kernel.name.replace("_forward_", "_backward_"))
    wide = window[0] == (1, 700)
    for length in (1,) if wide else (1, 5, 17):
        size = (2, length, 5, 1300 if wide else 37)
        for options in ({"divisor_override": 1}, {"divisor_override": 8}):
            x = rng.integers(-3, 4, size).astype(dtype)
            with use_isa(isa):
                y = pool(fastconv.avg_pool2d, x, *window, layout=layout, **options, **forced(kernel))
                dy = rng.integers(-3, 4, y.shape).astype(dtype)
                dx = gradient(
                    fastconv.avg_pool2d_backward, dy, size, *window, layout=layout, **options, **forced(backward)
                )
            assert np.sum(y * dy, dtype=np.float64) == np.sum(x * dx, dtype=np.float64)


def test_averages_of_integers_are_refused():
    with pytest.raises(TypeError, match="average of integers"):
        fastconv.avg_pool2d(np.zeros((1, 1, 2, 2), np.int64), 2)


# ---------------------------------------------------------------------------------------------------------------
# Adaptive and global pools


@pytest.mark.parametrize(("kernel", "isa"), rows(where=lambda k: k.op.startswith("adaptive_") and k.pass_ == "forward"))
@layouts
@floats
def test_global_pools_are_adaptive_pools_to_one_cell(kernel, isa, layout, dtype, rng):
    for c, ih, iw in ((1, 1, 1), (5, 7, 7), (17, 9, 33), (33, 3, 130)):
        x = rng.integers(-8, 9, (2, c, ih, iw)).astype(dtype)
        with use_isa(isa):
            y = pool(getattr(fastconv, kernel.op), x, 1, layout=layout, **forced(kernel))
        flat = x.reshape(2, c, -1)
        if "max" in kernel.op:
            compare.assert_exact(y[:, :, 0, 0], flat.max(2))
        else:
            compare.assert_rounding(
                y[:, :, 0, 0], flat.mean(2, dtype=np.float64), np.abs(flat).mean(2, dtype=np.float64), "pool"
            )


@layouts
def test_a_window_as_large_as_the_image_is_a_global_pool(layout, rng):
    x = rng.standard_normal((2, 6, 5, 9)).astype(np.float32)
    compare.assert_exact(pool(fastconv.max_pool2d, x, (5, 9), layout=layout), x.max((2, 3), keepdims=True))
    compare.assert_exact(
        pool(fastconv.avg_pool2d, x, (5, 9), layout=layout), pool(fastconv.adaptive_avg_pool2d, x, 1, layout=layout)
    )


def test_adaptive_windows_overlap_as_the_formula_says():
    """Windows floor(i 5 / 3) to ceil((i + 1) 5 / 3): 0..1, 1..3, 3..4."""
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    assert fastconv.adaptive_avg_pool2d(x, (1, 3)).ravel().tolist() == [0.5, 2.0, 3.5]
    assert fastconv.adaptive_max_pool2d(x, (1, 3)).ravel().tolist() == [1.0, 3.0, 4.0]
    dx = fastconv.adaptive_avg_pool2d_backward(np.full((1, 1, 1, 3), 6.0), x.shape)
    assert dx.ravel().tolist() == [3.0, 5.0, 2.0, 5.0, 3.0]


# ---------------------------------------------------------------------------------------------------------------
# The same bits, and torch


@layouts
@pytest.mark.parametrize("size", [(1, 96, 40, 41), (19, 7, 26, 26)])
def test_threads_do_not_change_a_bit(layout, size, threads, rng):
    x = rng.standard_normal(size).astype(np.float32)
    results = []
    for n in (1, 2, 3):
        threads(n)
        y, indices = pool(fastconv.max_pool2d, x, 3, 2, 1, layout=layout, return_indices=True)
        mean = pool(fastconv.avg_pool2d, x, 3, 2, 1, count_include_pad=False, layout=layout)
        dmax = gradient(fastconv.max_pool2d_backward, y, size, 3, 2, 1, layout=layout, indices=indices)
        davg = gradient(fastconv.avg_pool2d_backward, y, size, 3, 2, 1, count_include_pad=False, layout=layout)
        results.append((y, indices, mean, dmax, davg))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            compare.assert_same_bits(a, b)


@layouts
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", [*WINDOWS[:3], ((2, 3), (3, 2), (1, 1)), (4, 3, 2)])
def test_torch_agrees(layout, ceil_mode, window, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = rng.standard_normal((2, 19, 13, 22))
    x[rng.random(x.shape) < 0.05] = np.nan
    t = torch.from_numpy(x)
    y, indices = pool(fastconv.max_pool2d, x, *window, 1, ceil_mode, True, layout=layout)
    expected, where = functional.max_pool2d(t, *window, 1, ceil_mode, True)
    compare.assert_exact(y, expected.numpy())
    compare.assert_exact(indices, where.numpy())

    x = rng.standard_normal((2, 19, 13, 22))
    t = torch.from_numpy(x).requires_grad_()
    for include in (False, True):
        y = pool(fastconv.avg_pool2d, x, *window, ceil_mode, include, layout=layout)
        expected = functional.avg_pool2d(t, *window, ceil_mode, include)
        magnitude = functional.avg_pool2d(t.abs(), *window, ceil_mode, include).detach().numpy()
        compare.assert_rounding(y, expected.detach().numpy(), magnitude, "pool")
        dy = rng.standard_normal(y.shape)
        (dx,) = torch.autograd.grad(expected, t, torch.from_numpy(dy))
        mine = gradient(fastconv.avg_pool2d_backward, dy, x.shape, *window, ceil_mode, include, layout=layout)
        limit = gradient(
            fastconv.avg_pool2d_backward, np.abs(dy), x.shape, *window, ceil_mode, include, algorithm="reference"
        )
        compare.assert_rounding(mine, dx.numpy(), limit, "pool")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_max_pool_into_a_pair_of_arrays(layout, dtype):
    x = np.random.default_rng(5).integers(-9, 9, (2, 6, 6, 6)).astype(dtype)
    wanted, wanted_indices = fastconv.max_pool2d(x, 3, 2, return_indices=True, layout=layout)
    wide = np.full((*wanted.shape, 2), -1, np.int64)
    for indices in (np.empty(wanted.shape, np.int64), wide[..., 0]):
        for _ in range(2):  # the second call is served by the remembered first
            y = np.empty_like(wanted)
            indices[...] = -1
            got = fastconv.max_pool2d(x, 3, 2, return_indices=True, layout=layout, out=(y, indices))
            assert got[0] is y and got[1] is indices
            compare.assert_exact(y, wanted)
            compare.assert_exact(indices, wanted_indices)
    assert (wide[..., 1] == -1).all()


def test_max_pool_refuses_wrong_pairs():
    x = np.ones((1, 2, 4, 4), np.int64)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    for _ in range(2):
        for error, match, pair in (
            (TypeError, r"\(indices\): out has dtype int32", (y, indices.astype(np.int32))),
            (ValueError, r"\(indices\): out has shape", (y, indices[:, :1])),
            (TypeError, "out must be a NumPy array, got NoneType", (None, indices)),
            (TypeError, "out must be a NumPy array, got NoneType", (y, None)),
            (ValueError, "out shares memory with indices", (y, y)),
            (ValueError, "out shares memory with input", (y, x[:, :, :2, :2])),
            (TypeError, "out must be a NumPy array, got tuple", (y, indices, indices)),
        ):
            with pytest.raises(error, match=match):
                fastconv.max_pool2d(x, 2, return_indices=True, out=pair)
        with pytest.raises(TypeError, match="got tuple"):
            fastconv.max_pool2d(x, 2, out=(y, indices))
