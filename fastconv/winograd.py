"""Winograd's minimal filtering F(m, r): exact matrices, the 1-D transforms all backends mirror, error bounds.

A tile of m outputs of an r-tap correlation needs alpha = m + r - 1 products instead of m * r:

    y = A^T [(G w) * (B^T d)]            one dimension,  d: (alpha,)  w: (r,)  y: (m,)
    Y = A^T [(G W G^T) * (B^T D B)] A    two dimensions
    dW = G^T [(A dY A^T) * (B^T D B)] G  the gradient in W, summed over tiles: the adjoint of the map W -> Y

The matrices are built by the Cook-Toom construction from alpha - 1 finite interpolation points and the point
at infinity (Lavin & Gray 2016, arXiv 1509.09308). The points decide the rounding error (Barabasz et al. 2020,
arXiv 1803.10986): F(4x4,3x3) with 0, +-5/8, +-3/2 loses a third of what the usual 0, +-1, +-2 lose.

Legend: AT is (m, alpha), G is (alpha, r), BT is (alpha, alpha). Rows run over the points in the order
0, +a, -a, +b, -b, ..., infinity, so that the even and odd parts of a pair of rows are shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

Matrix = tuple[tuple[Fraction, ...], ...]

# Output tile and filter length of each named tile; the names are those of the kernels' rows.
TILES: dict[str, tuple[int, int]] = {
    "f2x3": (2, 3),
    "f4x3": (4, 3),
    "f6x3": (6, 3),
    "f2x5": (2, 5),
    "f4x5": (4, 5),
    "f4x3_1d": (4, 3),
    "f6x3_1d": (6, 3),
    "f4x5_1d": (4, 5),
    "f4x7_1d": (4, 7),
}


def dimensions(tile: str) -> int:
    """1 for the tiles of filters 1 x r and r x 1, else 2."""
    return 1 if tile.endswith("_1d") else 2


def _pairs(*points: Fraction) -> tuple[Fraction, ...]:
    """0, +a, -a, +b, -b, ..."""
    return (Fraction(0), *(sign * p for p in points for sign in (1, -1)))


# Finite points by their number: the least float32 error of a scan over +-pairs of small fractions.
_POINTS: dict[int, tuple[Fraction, ...]] = {
    3: _pairs(Fraction(1)),
    5: _pairs(Fraction(5, 8), Fraction(3, 2)),
    7: _pairs(Fraction(1, 2), Fraction(1), Fraction(2)),
    9: _pairs(Fraction(7, 16), Fraction(13, 16), Fraction(5, 4), Fraction(9, 4)),
}


def default_points(count: int) -> tuple[Fraction, ...]:
    """The `count` finite interpolation points used for a tile of count + 1 points."""
    if count < 1:
        raise ValueError(f"a Winograd tile needs at least one finite point, got {count}")
    if count in _POINTS:
        return _POINTS[count]
    points = [Fraction(0)]
    step = 1
    while len(points) < count:
        for value in (Fraction(step), Fraction(1, step + 1)):
            points += [value, -value]
        step += 1
    return tuple(points[:count])


def _times_linear(poly: list[Fraction], root: Fraction) -> list[Fraction]:
    """Coefficients, lowest power first, of poly(x) * (x - root)."""
    out = [Fraction(0)] * (len(poly) + 1)
    for power, value in enumerate(poly):
        out[power + 1] += value
        out[power] -= root * value
    return out


def _balance(bt: list[list[Fraction]], g: list[list[Fraction]], sizes: list[Fraction]) -> None:
    """Move powers of two between the rows of B^T and G, in place, until both have rows of like size.

    `sizes`: of the rows of G, for a filter of three taps whatever r, so that B^T depends on the points alone. A
    power of two changes no rounding, only the range of the values between the steps. The exponents are taken
    relative to their median, so that most rows of B^T keep a leading coefficient of one.
    """
    wanted = []
    for b_row, size in zip(bt, sizes, strict=True):
        wanted.append(round(math.log2(size / max(abs(v) for v in b_row)) / 2))
    middle = sorted(wanted)[len(wanted) // 2]
    for j, exponent in enumerate(wanted):
        scale = Fraction(2) ** (exponent - middle)
        bt[j] = [v * scale for v in bt[j]]
        g[j] = [v / scale for v in g[j]]


@lru_cache(maxsize=32)
def transforms(m: int, r: int, points: tuple[Fraction, ...] | None = None) -> tuple[Matrix, Matrix, Matrix]:
    """Exact (A^T, G, B^T) of F(m, r).

    Parameters
    ----------
    m, r : int
        Outputs and filter taps of one tile, both at least 1.
    points : tuple of m + r - 2 distinct Fractions, optional
        The finite interpolation points; `default_points` when left out.

    Returns
    -------
    AT, G, BT : tuples of rows of Fraction, shapes (m, alpha), (alpha, r), (alpha, alpha)

    Notes
    -----
    With M(x) the product of all (x - p) and N_j the product of (p_j - p_i), i != j: row j of B^T holds the
    coefficients of M(x) / (x - p_j), row j of G the powers of p_j over N_j, column j of A^T the powers of
    p_j. The last row and column belong to infinity: M(x) itself, and the leading coefficient. The sign of N_j
    goes into B^T.
    """
    if m < 1 or r < 1:
        raise ValueError(f"F(m, r) needs m >= 1 and r >= 1, got F({m}, {r})")
    alpha = m + r - 1
    if alpha == 1:
        one = ((Fraction(1),),)
        return one, one, one
    finite = default_points(alpha - 1) if points is None else tuple(Fraction(p) for p in points)
    if len(finite) != alpha - 1 or len(set(finite)) != alpha - 1:
        raise ValueError(f"F({m}, {r}) needs {alpha - 1} distinct points, got {list(map(str, finite))}")

    bt: list[list[Fraction]] = []
    g: list[list[Fraction]] = []
    sizes: list[Fraction] = []
    for j, p in enumerate(finite):
        poly = [Fraction(1)]
        norm = Fraction(1)
        for i, q in enumerate(finite):
            if i != j:
                poly = _times_linear(poly, q)
                norm *= p - q
        sign = 1 if norm > 0 else -1
        bt.append([sign * v for v in poly] + [Fraction(0)])
        g.append([p**k / abs(norm) for k in range(r)])
        sizes.append(max(Fraction(1), p * p) / abs(norm))
    whole = [Fraction(1)]
    for q in finite:
        whole = _times_linear(whole, q)
    bt.append(whole)
    g.append([Fraction(0)] * (r - 1) + [Fraction(1)])
    sizes.append(Fraction(1))
    _balance(bt, g, sizes)
    at = [[p**i for p in finite] + [Fraction(int(i == m - 1))] for i in range(m)]
    return _frozen(at), _frozen(g), _frozen(bt)


def _frozen(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)


def matrices(tile: str, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A^T, G, B^T) of a named tile as arrays of `dtype`; A^T and B^T are exact even in float32."""
    at, g, bt = transforms(*TILES[tile])

    def dense(rows: Matrix) -> np.ndarray:
        return np.array([[float(v) for v in row] for row in rows], dtype=dtype)

    return dense(at), dense(g), dense(bt)


def transform_weights(w: np.ndarray, tile: str, dtype: Any = np.float64) -> np.ndarray:
    """U = G w G^T for weights (oc, ic/g, r, r): computed in float64, rounded once to `dtype`.

    Returns
    -------
    ndarray of shape (alpha * alpha, oc, ic/g), C-contiguous; point p = row * alpha + column. For a tile in one
        dimension U = G w of weights (oc, ic/g, 1, r) or (oc, ic/g, r, 1): shape (alpha, oc, ic/g).
    """
    _, g, _ = matrices(tile)
    rows = g if w.shape[2] > 1 else np.ones((1, 1))
    cols = g if w.shape[3] > 1 else np.ones((1, 1))
    u = np.einsum("ak,ockl,bl->aboc", rows, np.asarray(w, dtype=np.float64), cols)
    return np.ascontiguousarray(u.reshape(-1, w.shape[0], w.shape[1]), dtype=dtype)


# ---- 1-D transforms in plain Python, of sequences of anything that adds and multiplies: numbers, arrays, or vector
# registers while code is generated. C mirrors them. All constants but those of G are exact in float32.


def _dot(coefficients: Sequence[Fraction], values: Sequence[Any]) -> Any:
    """The sum of products, without those with 0; a coefficient of one comes first, where there is one."""
    terms = sorted(
        ((c, v) for c, v in zip(coefficients, values, strict=True) if c != 0), key=lambda term: term[0] != 1
    )
    total = None
    for c, v in terms:
        if total is None:
            total = v if c == 1 else float(c) * v
        elif abs(c) == 1:
            total = total + v if c == 1 else total - v
        else:
            total = total + float(c) * v
    return total


def _rows_in_pairs(matrix: Matrix, factors: Sequence[Fraction], values: Sequence[Any]) -> list[Any]:
    """Matrix times values: rows 2j + 1 and 2j + 2 share an even part, and an odd one from which the factor is taken."""
    out = [_dot(matrix[0], values)]
    for row, factor in zip(matrix[1:-1:2], factors, strict=True):
        even = _dot(row[::2], values[::2])
        odd = _dot([c / factor for c in row[1::2]], values[1::2])
        odd = odd if factor == 1 else float(factor) * odd
        out += [even + odd, even - odd]
    return [*out, _dot(matrix[-1], values)]


def _columns_in_pairs(matrix: Matrix, values: Sequence[Any]) -> list[Any]:
    """Matrix times values: columns 2j + 1 and 2j + 2 are alike in even rows and opposite in odd ones."""
    pairs = list(zip(values[1:-1:2], values[2:-1:2], strict=True))
    parts = [a + b for a, b in pairs], [a - b for a, b in pairs]
    return [
        _dot((row[0], *row[1:-1:2], row[-1]), (values[0], *parts[i % 2], values[-1])) for i, row in enumerate(matrix)
    ]


def transform(what: str, tile: str, values: Sequence[Any]) -> list[Any]:
    """B^T d, A^T m, G w ("input", "output", "weights"), or of their adjoints B v, A y, G^T u ("input_adjoint", ...)."""
    at, g, bt = transforms(*TILES[tile])
    points = at[1][1:-1:2]
    ones = [Fraction(1)] * len(points)
    if what == "input":
        return _rows_in_pairs(bt, points, values)
    columns = {"output": at, "weights_adjoint": _transposed(g), "input_adjoint": _transposed(bt)}
    if what in columns:
        return _columns_in_pairs(columns[what], values)
    return _rows_in_pairs(g if what == "weights" else _transposed(at), ones, values)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


# ---- error

# The largest errors seen (measured_error in tests/test_winograd.py, over the largest output; ReLU(N(0,1)) inputs, He
# weights, float32; 7x7 to 56x56 images) and about a quarter: at 64 channels; the exponent of their growth with the
# channels; and where that ends, because no partial sum has more terms.
_EXPECTED = {
    "f2x3": (4.4e-7, 0.35, 256),
    "f4x3": (2.4e-6, 0.25, 256),
    "f6x3": (1.3e-5, 0.25, 64),
    "f2x5": (1.7e-6, 0.30, 256),
    "f4x5": (9.0e-6, 0.25, 128),
    "f4x3_1d": (1.0e-6, 0.25, 256),
    "f6x3_1d": (2.6e-6, 0.25, 256),
    "f4x5_1d": (2.0e-6, 0.25, 256),
    "f4x7_1d": (5.0e-6, 0.25, 256),
}
_EXPECTED_CHANNELS = 64
# The same of weight gradients (measured_gradient_error; gradients N(0,1), half of them masked by a ReLU): errors and
# outputs grow alike with the number of tiles, from one to some 16,000 of them.
_EXPECTED_GRADIENT = {
    "f2x3": 9e-7,
    "f4x3": 2.4e-6,
    "f6x3": 1.2e-5,
    "f2x5": 5.5e-6,
    "f4x5": 1.4e-5,
    "f4x3_1d": 1.1e-6,
    "f6x3_1d": 2.2e-6,
    "f4x5_1d": 3.5e-6,
    "f4x7_1d": 9.5e-6,
}


def _roundings(tile: str) -> tuple[int, int]:
    """Roundings on the longest path through the 1-D input transform and through that of outputs or of their gradient
    (the longer), no fused multiply-add assumed.

    With n +-pairs of points: a product, n - 1 sums, the product with the point and one sum; the sum of a pair, a
    product, n - 1 sums and one more; a product and m / 2 sums. F(2, 3) multiplies by nothing but one.
    """
    m, r = TILES[tile]
    pairs = (m + r - 1) // 2 - 1
    return (1, 2) if pairs == 1 else (pairs + 2, max(pairs + 2, m // 2 + 1))


@lru_cache(maxsize=32)
def amplification(tile: str, gradient: bool = False) -> Fraction:
    """How far the absolute sums inside a tile can exceed the largest |x| * |w| convolution around it.

    In one dimension the absolute value of everything that is summed into output i is the sum over k, p of
    T_i[k][p] |w_k| |x_p| with T_i[k][p] = sum_j |A_ij| |G_jk| |B_jp|. The pairs (k, p) with p - k = o belong
    to one output o of the full convolution, which is at most S, so the total is at most
    S * sum_o max_k T_i[k][k + o]. Its square is the constant in two dimensions.

    `gradient`: of weight gradients, where outputs i and taps k change places: what is summed into tap k belongs to
    the lags p - i, each one output of the full correlation of |x| with |dy|.
    """
    at, g, bt = transforms(*TILES[tile])
    taps = [list(column) for column in zip(*g, strict=True)]
    summed, kept = (at, taps) if gradient else (taps, list(map(list, at)))
    alpha = len(bt)
    worst = Fraction(0)
    for result in kept:
        total = Fraction(0)
        for lag in range(1 - len(summed), alpha):
            total += max(
                sum((abs(result[j] * row[j] * bt[j][i + lag]) for j in range(alpha)), Fraction(0))
                for i, row in enumerate(summed)
                if 0 <= i + lag < alpha
            )
        worst = max(worst, total)
    return worst ** dimensions(tile)


def error_bound(tile: str, c: int, dtype: Any = np.float32, gradient: bool = False) -> float:
    """Forward error bound of a Winograd convolution that sums `c` channels per output.

    max |y - exact| <= error_bound * S for any finite data that neither overflow nor underflow, where S is the
    largest value of the *full* convolution (padding r - 1 on every side that the filter crosses) of |x| with
    |w|, over the positions of the image, for that output channel. Elementwise bounds against conv(|x|, |w|) do
    not hold for Winograd: the outputs of a tile share intermediate sums. Growth: one rounding of U (float64
    data: its transform as well), the 1-D input transforms, the sum over channels, the output transforms (Higham
    2002, section 3.1: gamma_n = n u / (1 - n u)).

    `gradient`: of a weight gradient that sums over `c` tiles; S is the largest value of the full correlation of |x|
    with |dy| for that pair of channels, over the lags from m - 1 before the filter to m - 1 after it.
    """
    unit = float(np.finfo(dtype).eps) / 2
    weight_roundings = 2 if np.dtype(dtype) == np.float32 else 2 * (TILES[tile][1] + 1)
    n = weight_roundings + dimensions(tile) * sum(_roundings(tile)) + (c + 1)
    if gradient and np.dtype(dtype) != np.float32:
        n += 2 * dimensions(tile) * sum(TILES[tile])  # the weights' transform sums over all points
    gamma = n * unit / (1 - n * unit) if n * unit < 1 else math.inf
    return gamma * float(amplification(tile, gradient))


def expected_error(tile: str, c: int, dtype: Any = np.float32, gradient: bool = False) -> float:
    """Largest error to expect of sums over `c` channels, over the largest output: `precision` is compared with it.
    `gradient`: of weight gradients, whatever `c`."""
    scale = float(np.finfo(dtype).eps) / float(np.finfo(np.float32).eps)
    if gradient:
        return _EXPECTED_GRADIENT[tile] * scale
    at_64, power, most = _EXPECTED[tile]
    return float(at_64 * scale * (min(max(c, 1), most) / _EXPECTED_CHANNELS) ** power)
