"""The comparison rules of the suite and their constants; no other tolerance may appear in a test file.

Rule 1, exact: operands are small integers, so every order of summation gives the same bits.
Rule 2, rounding: |y - y64| <= constant * eps * magnitude, with one written constant for each algorithm and type. The
magnitude is the same sum taken over absolute values: elementwise for plain sums, for Winograd the largest of the full
convolution of an output channel, because the outputs of a tile share intermediate sums.
"""

from __future__ import annotations

import numpy as np

# Integers up to this size, and sums of them, are exact.
EXACT = {"float32": 2**24, "float64": 2**53, "int64": 2**63}

# Largest error of an algorithm in units of eps * magnitude: (float32, float64). About three times what the rows make
# on sums of up to some 600 terms of one sign, or of a few thousand of both; a sum in a float64 that is rounded once
# to float32 makes 1/2, which leaves nothing to chance.
CONSTANTS = {
    "reference": (1.0, 16.0),  # float64 sums, blocked by filter cell
    "naive": (1.0, 32.0),  # float64 sums, one term after the other
    "im2col": (32.0, 32.0),  # one fused multiply-add after the other
    "im2col_tf32": (10000.0, 10000.0),  # each operand loses 2^-11 of itself; a quarter more for the sums
    "im2col_f64": (1.0, 32.0),  # float64 sums, rounded once
    "direct": (32.0, 32.0),  # as im2col
    "pool": (4.0, 4.0),  # direct pools: a short sum and a division
    "grouped": (32.0, 32.0),  # the same
    "depthwise": (32.0, 32.0),  # the same; weight gradients in blocks
    "winograd_f2x3": (12.0, 12.0),
    "winograd_f4x3": (36.0, 36.0),
    "winograd_f2x3_adjoint": (12.0, 12.0),
    "winograd_f4x3_adjoint": (36.0, 36.0),
    "winograd_f6x3_adjoint": (150.0, 150.0),
    "winograd_f6x3": (150.0, 150.0),
    "winograd_f2x5": (36.0, 36.0),
    "winograd_f4x5": (150.0, 150.0),
    "winograd_f4x3_1d": (12.0, 12.0),
    "winograd_f6x3_1d": (24.0, 24.0),
    "winograd_f4x5_1d": (24.0, 24.0),
    "winograd_f4x7_1d": (36.0, 36.0),
}

# How far the sums inside a Winograd F(2x2, 3x3) tile exceed those of the full convolution, and the unit of its
# transformed weights: multiples of 1/4.
F2X3_AMPLIFICATION = 25
F2X3_UNIT = 4


def is_exact(algorithm: str) -> bool:
    """Whether rule 1 holds for it: the other Winograd tiles have constants that make sums of integers round."""
    return not algorithm.startswith("winograd") or algorithm.startswith("winograd_f2x3")


def assert_sums_fit(magnitude: np.ndarray, dtype: str, algorithm: str = "naive") -> None:
    """Rule 1 only holds while every partial sum is exact; a problem too large for it is a mistake of the test."""
    largest = float(magnitude.max(initial=0))
    if algorithm.startswith("winograd_f2x3"):
        largest *= F2X3_AMPLIFICATION * F2X3_UNIT
    assert largest < EXACT[dtype], f"partial sums of {largest:.3g} are not exact in {dtype}: use a smaller problem"


def _where(y: np.ndarray, wrong: np.ndarray, expected: np.ndarray) -> str:
    places = np.argwhere(wrong)
    first = tuple(int(i) for i in places[0])
    spans = ", ".join(f"{int(a)}..{int(b)} of {n}" for a, b, n in zip(places.min(0), places.max(0), y.shape))
    return (
        f"{len(places)} of {y.size} elements differ, within [{spans}]; at {first} "
        f"got {y[first]!r}, expected {expected[first]!r}"
    )


def assert_exact(y: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """Rule 1: equal everywhere; NaN equals NaN. A zero may have either sign."""
    assert y.shape == expected.shape, f"{what}: shape {y.shape}, expected {expected.shape}"
    wrong = y != expected
    if y.dtype.kind == "f":
        wrong &= ~(np.isnan(y) & np.isnan(expected))
    assert not wrong.any(), f"{what}: {_where(y, wrong, expected)}"


def assert_same_bits(a: np.ndarray, b: np.ndarray, what: str = "") -> None:
    """Equal bit for bit, NaN and the sign of zero included."""
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
    wrong = np.ascontiguousarray(a).view(f"u{a.itemsize}") != np.ascontiguousarray(b).view(f"u{b.itemsize}")
    assert not wrong.any(), f"{what}: {_where(a, wrong, b)}"


def rounding_limit(magnitude: np.ndarray, dtype: str, algorithm: str, terms: int = 0) -> np.ndarray:
    """The right side of rule 2. `terms` products may each lose a subnormal number (0 where none occur)."""
    info = np.finfo(dtype)
    constant = CONSTANTS[algorithm][np.dtype(dtype) == np.float64]
    limit = constant * float(info.eps) * magnitude
    return limit + terms * float(info.tiny)


def assert_rounding(
    y: np.ndarray, y64: np.ndarray, magnitude: np.ndarray, algorithm: str, what: str = "", terms: int = 0
) -> None:
    """Rule 2; `magnitude` must broadcast to y."""
    assert y.shape == y64.shape, f"{what}: shape {y.shape}, expected {y64.shape}"
    limit = np.broadcast_to(rounding_limit(magnitude, y.dtype.name, algorithm, terms), y.shape)
    error = np.abs(y.astype(np.float64) - y64)
    wrong = ~(error <= limit)  # a NaN is wrong
    if wrong.any():
        worst = float(np.max(error / np.maximum(limit, np.finfo(np.float64).tiny), initial=0))
        raise AssertionError(f"{what}: {worst:.2f} times the limit of {algorithm}; {_where(y, wrong, y64)}")


def assert_same_nonfinite(y: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """The outputs that are NaN or Inf are those of the plain sum."""
    wrong = np.isfinite(y) != np.isfinite(expected)
    assert not wrong.any(), f"{what}: {_where(y, wrong, expected)}"
