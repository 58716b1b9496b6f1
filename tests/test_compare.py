"""The comparison rules notice what they must, and nothing else."""

import numpy as np
import pytest

from fastconv import winograd
from fastconv.problem import ConvProblem
from fastconv.registry import KERNELS
from tests import compare, rows


def refuses(check, *arguments, **options):
    with pytest.raises(AssertionError):
        check(*arguments, **options)


def test_exact_notices_one_wrong_element():
    y = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    compare.assert_exact(y, y.astype(np.float64))
    wrong = y.copy()
    wrong[1, 2, 3] = np.nextafter(wrong[1, 2, 3], np.float32(99))
    refuses(compare.assert_exact, wrong, y.astype(np.float64))


def test_exact_notices_nan_on_either_side_only():
    y = np.array([1.0, np.nan])
    compare.assert_exact(y, y.copy())
    refuses(compare.assert_exact, y, np.array([1.0, 2.0]))
    refuses(compare.assert_exact, np.array([1.0, 2.0]), y)


def test_exact_notices_shape():
    refuses(compare.assert_exact, np.zeros((2, 3)), np.zeros((3, 2)))
    refuses(compare.assert_exact, np.zeros((1, 3)), np.zeros(3))


def test_exact_takes_either_zero_but_bits_do_not():
    compare.assert_exact(np.array([-0.0]), np.array([0.0]))
    refuses(compare.assert_same_bits, np.array([-0.0]), np.array([0.0]))


def test_same_bits_of_nan():
    compare.assert_same_bits(np.array([np.nan]), np.array([np.nan]))
    refuses(compare.assert_same_bits, np.array([np.nan]), np.array([-np.nan]))
    refuses(compare.assert_same_bits, np.zeros(3, np.float32), np.zeros(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", compare.CONSTANTS)
def test_rounding_takes_the_limit_and_no_more(algorithm, dtype):
    magnitude = np.array([8.0, 2.0])
    step = compare.CONSTANTS[algorithm][dtype == "float64"] * np.finfo(dtype).eps
    y64 = np.array([4.0, -1.0])
    compare.assert_rounding((y64 + 0.9 * step * magnitude).astype(dtype), y64, magnitude, algorithm)
    refuses(compare.assert_rounding, (y64 + 2.1 * step * magnitude).astype(dtype), y64, magnitude, algorithm)
    refuses(compare.assert_rounding, (y64 + np.array([0, 4 * step])).astype(dtype), y64, magnitude / 2, algorithm)


def test_rounding_refuses_nan_and_inf():
    one = np.ones(2, np.float32)
    for bad in (np.nan, np.inf):
        refuses(compare.assert_rounding, np.array([1, bad], np.float32), one.astype(float), one, "im2col")


def test_rounding_of_nothing_allows_nothing():
    zero, magnitude = np.zeros(1), np.zeros(1)
    refuses(compare.assert_rounding, np.array([1e-30], np.float32), zero, magnitude, "im2col")
    compare.assert_rounding(np.array([1e-38], np.float32), zero, magnitude, "im2col", terms=1)


def test_sums_that_are_not_exact_are_a_mistake_of_the_test():
    compare.assert_sums_fit(np.array([2.0**24 - 1]), "float32")
    refuses(compare.assert_sums_fit, np.array([2.0**24]), "float32")
    refuses(compare.assert_sums_fit, np.array([2.0**20]), "float32", "winograd_f2x3")
    compare.assert_sums_fit(np.array([2.0**24]), "float64")


def test_nonfinite_sets():
    a = np.array([1.0, np.inf, np.nan])
    compare.assert_same_nonfinite(a, np.array([2.0, np.nan, -np.inf]))
    refuses(compare.assert_same_nonfinite, a, np.array([2.0, 1.0, np.nan]))


def test_every_algorithm_has_a_constant():
    assert {k.algorithm for k in KERNELS} <= set(compare.CONSTANTS)


@pytest.mark.parametrize("tile", winograd.TILES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_winograd_constants_are_under_the_published_bound(tile, dtype):
    constant = compare.CONSTANTS[f"winograd_{tile}"][dtype == "float64"]
    assert constant * np.finfo(dtype).eps <= winograd.error_bound(tile, 1, dtype)


def test_guard_bands_notice_a_write_on_either_side():
    for place in (-1, 12):
        guarded = rows.Guarded((3, 4), np.float32, offset=4)
        assert guarded.intact()
        flat = np.lib.stride_tricks.as_strided(guarded.array.reshape(-1)[0:], (13,), (4,))
        if place < 0:
            start = guarded._span.start
            guarded._memory[start - 1] = 0
        else:
            flat[place] = 0
        assert not guarded.intact()


def test_guarded_arrays_lie_where_they_are_asked_to():
    for offset in (0, 4, 20, 60):
        assert rows.Guarded((5,), np.float32, offset).array.ctypes.data % 64 == offset


def test_junk_is_nan_or_huge():
    assert np.isnan(rows.Guarded((4,), np.float64, junk=rows.NAN_JUNK).array).all()
    assert (rows.Guarded((4,), np.float32, junk=rows.FINITE_JUNK).array > 1e30).all()
    assert np.isfinite(rows.Guarded((4,), np.float32, junk=rows.FINITE_JUNK).array).all()


def test_winograd_magnitude_is_at_least_the_plain_one():
    p = ConvProblem.parse("g2mb2ic6ih5iw7oc4kh3ph1")
    for pass_ in ("forward", "backward_input"):
        q = p.with_pass(pass_)
        plain = rows.expected(q, "normal")[1]
        assert (rows.winograd_magnitude(q, "normal") * (1 + np.finfo(np.float32).eps) >= plain).all()
