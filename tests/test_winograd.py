"""Winograd: matrices, transforms in Python and C against them, error bounds, non-finite values, packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastconv import reference, winograd
from fastconv.capability import winograd_workspace
from fastconv.problem import ConvProblem

try:
    from fastconv import _cython as backend
    from fastconv._cython import winograd as kernels

    ISAS = backend.detected_isas()
except ImportError as missing:
    ISAS = [pytest.param("", marks=pytest.mark.skip(f"no compiled extension: {missing}"))]

TILES = tuple(winograd.TILES)


def filter_of(tile: str, turned: bool = False) -> tuple[int, int]:
    """kh, kw that the tile is for; those in one dimension along a row, or along a column if turned."""
    r = winograd.TILES[tile][1]
    if winograd.dimensions(tile) == 2:
        return r, r
    return (r, 1) if turned else (1, r)


def text_of(tile: str, text: str, turned: bool = False) -> str:
    """A problem with 3x3 filters, with the tile's filter in place."""
    kh, kw = filter_of(tile, turned)
    return text.replace("kh3", f"kh{kh}kw{kw}")


def workspace_of(p: ConvProblem, threads: int, tile: str) -> int:
    return winograd_workspace(p, threads, winograd.TILES[tile][0])


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = backend.get_isa()
    backend.set_isa(request.param)
    yield request.param
    backend.set_isa(before)


# ---- Matrices


@pytest.mark.parametrize(
    ("m", "r"), [(1, 1), (1, 3), (4, 1), (2, 2), (2, 3), (3, 3), (4, 3), (6, 3), (2, 5), (4, 5), (8, 3)]
)
def test_matrices_are_exact(m: int, r: int) -> None:
    at, g, bt = winograd.transforms(m, r)
    rng = np.random.default_rng(m * 10 + r)
    for _ in range(5):
        d = [Fraction(int(v), 7) for v in rng.integers(-99, 100, m + r - 1)]
        w = [Fraction(int(v), 5) for v in rng.integers(-99, 100, r)]
        product = [
            sum(a * b for a, b in zip(g_row, w)) * sum(a * b for a, b in zip(b_row, d)) for g_row, b_row in zip(g, bt)
        ]
        y = [sum(a * b for a, b in zip(row, product)) for row in at]
        assert y == [sum(w[k] * d[i + k] for k in range(r)) for i in range(m)]


def test_matrices_of_given_points() -> None:
    points = tuple(map(Fraction, (0, 1, -1, 2, -2)))
    assert winograd.transforms(4, 3, points)[0][3] == (0, 1, -1, 8, -8, 1)
    with pytest.raises(ValueError, match="5 distinct"):
        winograd.transforms(4, 3, points[:4])
    with pytest.raises(ValueError, match="5 distinct"):
        winograd.transforms(4, 3, (*points[:4], Fraction(0)))
    with pytest.raises(ValueError, match="m >= 1"):
        winograd.transforms(0, 3)


@pytest.mark.parametrize("tile", TILES)
def test_named_tiles_have_float32_constants(tile: str) -> None:
    at, _, bt = winograd.transforms(*winograd.TILES[tile])
    for row in (*at, *bt):
        for value in row:
            assert Fraction(float(np.float32(float(value)))) == value
            assert value.denominator & (value.denominator - 1) == 0, "not dyadic"


@pytest.mark.parametrize(
    "what", ["input", "output", "weights", "input_adjoint", "output_adjoint", "weights_adjoint"]
)
@pytest.mark.parametrize("tile", TILES)
def test_python_transforms_are_the_matrices(tile: str, what: str) -> None:
    at, g, bt = winograd.transforms(*winograd.TILES[tile])
    matrix = np.array({"i": bt, "o": at, "w": g}[what[0]])
    matrix = matrix.T if what.endswith("_adjoint") else matrix
    rng = np.random.default_rng(1)
    values = rng.integers(-9, 10, (matrix.shape[1], 11)).astype(np.float64)
    result = np.stack(winograd.transform(what, tile, list(values)))
    expected = (matrix @ values).astype(np.float64)  # of fractions
    np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-13)
    if what[0] != "w":
        assert {part.dtype.name for part in winograd.transform(what, tile, list(values.astype(np.float32)))} == {
            "float32"
        }


def test_transform_weights_rounds_once() -> None:
    rng = np.random.default_rng(2)
    for tile in TILES:
        w = rng.standard_normal((3, 5, *filter_of(tile))).astype(np.float32)
        _, g, _ = winograd.matrices(tile)
        u = winograd.transform_weights(w, tile)
        for o, c in ((0, 0), (2, 4)):
            cells = w[o, c].astype(np.float64)
            expected = g @ cells @ g.T if winograd.dimensions(tile) == 2 else g @ cells.ravel()
            np.testing.assert_allclose(u[:, o, c], expected.ravel(), rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(winograd.transform_weights(w, tile, np.float32), u.astype(np.float32))


# ---- Transforms in C


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("what", ["weights", "input", "output", "weights_adjoint", "input_adjoint", "output_adjoint"])
def test_c_transforms_are_the_matrices(isa: str, what: str, tile: str, dtype: str) -> None:
    at, g, bt = winograd.matrices(tile)
    matrix = {"weights": g, "input": bt, "output": at}.get(what.partition("_")[0])
    matrix = matrix.T if what.endswith("_adjoint") else matrix
    dimensions = winograd.dimensions(tile)
    n = 3 * kernels.transform_lanes(np.dtype(dtype))
    shape = (matrix.shape[1],) * dimensions + (n,)
    rng = np.random.default_rng(3)
    integers = rng.integers(-9, 10, shape).astype(dtype)

    def product(matrix: np.ndarray, source: np.ndarray) -> np.ndarray:
        if dimensions == 1:
            return matrix @ source
        return np.einsum("ai,ijn,bj->abn", matrix, source, matrix)

    for source in (integers, rng.standard_normal(shape).astype(dtype)):
        result = kernels.transform(what, tile, source)
        expected = product(matrix, source.astype(np.float64))
        exact = dtype == "float64" and not what.startswith("weights") and "x7" not in tile
        if source is integers and (tile == "f2x3" or exact):
            np.testing.assert_array_equal(result, expected)  # every constant and every sum is exact
        # at most 6 roundings a dimension, of the sum of absolute values
        absolute = product(abs(matrix), abs(source.astype(np.float64)))
        assert (np.abs(result - expected) <= 12 * np.finfo(dtype).eps / 2 * absolute).all()


# ---- Whole convolutions


def workspace(nbytes: int) -> np.ndarray:
    raw = np.full(nbytes + 64, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def logical(a: np.ndarray, layout: str) -> np.ndarray:
    """The same values, dense in `layout`, as an NCHW view."""
    if layout == "NCHW":
        return np.ascontiguousarray(a)
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def shapes(p: ConvProblem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the input and output of the problem's pass, NCHW; of a weight gradient those of x and dw."""
    x, y = (p.mb, p.ic, p.ih, p.iw), (p.mb, p.oc, p.oh, p.ow)
    if p.pass_ == "backward_weight":
        return x, (p.oc, p.icg, p.kh, p.kw)
    return (x, y) if p.pass_ == "forward" else (y, x)


def second_shape(p: ConvProblem) -> tuple[int, ...]:
    """Shape of the second operand: the weights, or dy where they are wanted."""
    return (p.mb, p.oc, p.oh, p.ow) if p.pass_ == "backward_weight" else (p.oc, p.icg, p.kh, p.kw)


def convolve(
    p: ConvProblem, tile: str, x: Any, w: Any, bias: Any = None, residual: Any = None, threads: int = 1, **packed: Any
) -> np.ndarray:
    y = logical(np.full(shapes(p)[1], np.nan, p.dtype), p.layout)
    scratch = workspace(workspace_of(p, threads, tile))
    x = logical(x, p.layout)
    residual = None if residual is None else logical(residual, p.layout)
    run = getattr(kernels, f"conv2d_{p.pass_}_winograd_{tile}__cython")
    if p.pass_ == "backward_weight":
        run(backend.lower(p), x, logical(w, p.layout), y, scratch, threads)
    else:
        run(backend.lower(p), x, w, bias, residual, y, scratch, threads, **packed)
    return y


def plain(p: ConvProblem, x: Any, w: Any, bias: Any = None, residual: Any = None, dtype: str = "float64") -> np.ndarray:
    """The reference, in `dtype` (float64 data are summed and returned in float64)."""
    y = np.empty(shapes(p)[1], dtype)
    run = getattr(reference, f"conv2d_{p.pass_}_reference__numpy")
    run(replace(p, dtype=dtype), x, w, *(() if p.pass_ == "backward_weight" else (bias, residual)), y, None, 1)
    return y


def full_magnitude(p: ConvProblem, tile: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Per output channel (of a weight gradient: per pair of channels) the largest value of the full convolution of |x|
    with |w| (correlation of |x| with |dy|)."""
    a, b = p.kh - 1, p.kw - 1
    if p.pass_ == "backward_weight":
        a, b = (winograd.TILES[tile][0] - 1 if k > 1 else 0 for k in (p.kh, p.kw))
        lags = replace(p, kh=p.kh + 2 * a, kw=p.kw + 2 * b, ph=p.ph + a, pw=p.pw + b, ph_r=p.ph_r + a, pw_r=p.pw_r + b)
        return plain(lags, abs(x.astype(np.float64)), abs(w.astype(np.float64))).max((2, 3))
    if p.pass_ == "forward":
        full = replace(p, ph=a, pw=b, ph_r=a, pw_r=b, oh=p.ih + a, ow=p.iw + b)
    else:
        full = replace(p, ph=0, pw=0, ph_r=0, pw_r=0, ih=p.oh + a, iw=p.ow + b)
    full = replace(full, bias=False, residual=False, activation=None)
    return plain(full, abs(x.astype(np.float64)), abs(w.astype(np.float64))).max((0, 2, 3))


def bound_of(p: ConvProblem, tile: str) -> float:
    """The published bound, over `full_magnitude`."""
    if p.pass_ == "backward_weight":
        m_h, m_w = (winograd.TILES[tile][0] if k > 1 else 1 for k in (p.kh, p.kw))
        return winograd.error_bound(tile, p.mb * -(-p.oh // m_h) * -(-p.ow // m_w), p.dtype, gradient=True)
    return winograd.error_bound(tile, p.icg if p.pass_ == "forward" else p.ocg, p.dtype)


def worst(p: ConvProblem, error: np.ndarray) -> np.ndarray:
    """The largest error of each output channel, or pair of channels."""
    return error.max((2, 3) if p.pass_ == "backward_weight" else (0, 2, 3))


def draw(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "ones":
        return np.ones(shape)
    if kind == "alternating":
        return (-1.0) ** np.indices(shape).sum(0) * rng.uniform(1, 2, shape)
    if kind == "wide":
        return rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape)
    if kind == "spike":
        return np.where(rng.random(shape) < 0.02, 1e6, 1.0) * rng.uniform(-1, 1, shape)
    return rng.standard_normal(shape)


BOUND_CASES = [
    "mb1ic1ih7oc1kh3",
    "mb2ic3ih9iw14oc5kh3ph1",
    "mb1ic64ih12iw13oc33kh3ph1",
    "mb1ic300ih7oc17kh3ph2",
    "g2mb2ic34ih11oc14kh3ph1pw0",
]


@pytest.mark.parametrize("pass_", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("kind", ["normal", "ones", "alternating", "wide", "spike"])
@pytest.mark.parametrize("text", BOUND_CASES)
@pytest.mark.parametrize("tile", TILES)
def test_error_bound_holds(isa: str, tile: str, text: str, kind: str, pass_: str) -> None:
    rng = np.random.default_rng(4)
    for dtype in ("float32", "float64"):
        for layout in ("NCHW", "NHWC"):
            p = ConvProblem.parse(text_of(tile, text, layout == "NHWC"), dtype=dtype, layout=layout, pass_=pass_)
            x = draw(kind, rng, shapes(p)[0]).astype(dtype)
            w = draw(kind, rng, second_shape(p)).astype(dtype)
            error = worst(p, np.abs(convolve(p, tile, x, w) - plain(p, x, w)))
            limit = bound_of(p, tile) * full_magnitude(p, tile, x, w)
            if dtype == "float64":
                limit *= 2  # the reference rounds as well
            assert (error <= limit).all(), (error / limit).max()


def test_error_bounds_grow() -> None:
    for tile in TILES:
        assert winograd.error_bound(tile, 1) < winograd.error_bound(tile, 64) < winograd.error_bound(tile, 512)
        assert winograd.error_bound(tile, 64, np.float64) < 1e-8 * winograd.error_bound(tile, 64)
    assert winograd.amplification("f2x3") < winograd.amplification("f4x3") < winograd.amplification("f6x3")
    assert winograd.amplification("f6x3") == winograd.amplification("f6x3_1d") ** 2
    gradients = [winograd.amplification(tile, True) for tile in ("f2x3", "f4x3", "f6x3")]
    assert gradients == sorted(gradients)
    assert winograd.error_bound("f4x3", 2**26) == float("inf")


def measured_error(tile: str, c: int, seed: int = 5) -> float:
    """Largest error over largest output for ReLU(N(0, 1)) inputs and He weights, as inside a network."""
    rng = np.random.default_rng(seed)
    p = ConvProblem.parse(text_of(tile, f"mb1ic{c}ih32oc32kh3"))
    x = np.maximum(rng.standard_normal((1, c, 32, 32)), 0).astype(np.float32)
    w = (rng.standard_normal((32, c, p.kh, p.kw)) * np.sqrt(2 / (p.kh * p.kw * c))).astype(np.float32)
    expected = plain(p, x, w)
    return float(np.abs(convolve(p, tile, x, w) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("c", [16, 64, 256, 832])
@pytest.mark.parametrize("tile", TILES)
def test_expected_error(tile: str, c: int) -> None:
    """What `precision` is compared with is never exceeded, and no more than a few times what is measured."""
    if not backend_present():
        pytest.skip("no compiled extension")
    assert winograd.expected_error(tile, c) / 4 < measured_error(tile, c) <= winograd.expected_error(tile, c)


def measured_gradient_error(tile: str, mb: int, size: int) -> float:
    """The same of weight gradients, whose dy is N(0, 1), half of it masked by a ReLU; the worst of three."""
    p = ConvProblem.parse(text_of(tile, f"mb{mb}ic16ih{size}oc32kh3"), pass_="backward_weight")
    errors = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = np.maximum(rng.standard_normal(shapes(p)[0]), 0).astype(np.float32)
        dy = (rng.standard_normal(second_shape(p)) * (rng.random(second_shape(p)) < 0.5)).astype(np.float32)
        expected = plain(p, x, dy)
        errors.append(np.abs(convolve(p, tile, x, dy) - expected).max() / np.abs(expected).max())
    return float(max(errors))


@pytest.mark.parametrize("tile", TILES)
def test_expected_error_of_gradients(tile: str) -> None:
    if not backend_present():
        pytest.skip("no compiled extension")
    most = winograd.expected_error(tile, 1, gradient=True)
    errors = [measured_gradient_error(tile, mb, size) for mb, size in ((1, 8), (1, 32), (8, 32))]
    assert most / 6 < max(errors) <= most


def backend_present() -> bool:
    return isinstance(ISAS[0], str)


RANDOM_SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33]


def random_problem(rng: np.random.Generator, kh: int, kw: int) -> ConvProblem:
    g = int(rng.choice([1, 1, 1, 2, 3]))
    ph, ph_r, pw, pw_r = (int(v) for v in rng.integers(0, 4, 4))
    ih, iw = (int(v) for v in rng.choice(RANDOM_SIZES, 2))
    ic, oc = (g * int(v) for v in rng.choice(RANDOM_SIZES, 2))
    ih, iw = max(ih, kh - ph - ph_r), max(iw, kw - pw - pw_r)
    text = f"g{g}mb{rng.integers(1, 4)}ic{ic}ih{ih}iw{iw}oc{oc}kh{kh}kw{kw}ph{ph}pw{pw}ph_r{ph_r}pw_r{pw_r}"
    return ConvProblem.parse(
        text,
        pass_=str(rng.choice(["forward", "backward_input", "backward_weight"])),
        dtype=str(rng.choice(["float32", "float64"])),
        layout=str(rng.choice(["NCHW", "NHWC"])),
        bias=bool(rng.integers(2)),
        residual=bool(rng.integers(2)),
        activation=[None, "relu", ("clip", -4.0, 9.0)][int(rng.integers(3))],
    )


def operands(p: ConvProblem, rng: np.random.Generator) -> list[Any]:
    """Small integers: x, w, bias, residual; weights in one of four memory forms. Of a weight gradient: x, dy."""
    ins, outs = shapes(p)

    def integers(shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(-3, 4, shape).astype(p.dtype)

    if p.pass_ == "backward_weight":
        return [integers(ins), integers(second_shape(p))]
    w = integers((p.oc, p.icg, p.kh, p.kw))
    form = int(rng.integers(4))
    if form == 1:
        w = np.ascontiguousarray(w.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    elif form == 2:
        w = np.ascontiguousarray(w[::-1, :, ::-1, ::-1])[::-1, :, ::-1, ::-1]
    elif form == 3:
        w = np.broadcast_to(w[:, :, :, :1], w.shape)
    return [integers(ins), w, integers(outs[1:2]) if p.bias else None, integers(outs) if p.residual else None]


@pytest.mark.parametrize("seed", range(30))
def test_random_problems(isa: str, seed: int) -> None:
    """F(2x2, 3x3) is exact on small integers; the other tiles are within their bounds; the same for any threads."""
    rng = np.random.default_rng(100 + seed)
    for turn in range(2):
        for tile in TILES:
            p = random_problem(rng, *filter_of(tile, bool(turn)))
            args = operands(p, rng)
            expected = plain(p, *args)
            y = convolve(p, tile, *args)
            assert convolve(p, tile, *args, threads=2).tobytes() == y.tobytes(), f"{p}: two threads"
            if tile == "f2x3":
                np.testing.assert_array_equal(y, expected, err_msg=str(p))
            else:
                limit = bound_of(p, tile) * full_magnitude(p, tile, *args[:2])
                limit = limit + 8 * np.finfo(p.dtype).eps * (3 + abs(expected).max())
                assert (worst(p, np.abs(y - expected)) <= limit).all(), str(p)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("text", ["mb1ic128ih14oc160kh3ph1", "mb3ic256ih6oc256kh3ph1", "g2mb1ic260ih9oc512kh3ph1"])
def test_by_channel(isa: str, text: str, layout: str) -> None:
    """Few tiles under large weights go by panels of channels: the same numbers, also next to a larger batch."""
    rng = np.random.default_rng(6)
    for tile in TILES:
        p = ConvProblem.parse(text_of(tile, text), layout=layout)
        args = operands(p, rng)
        big = replace(p, mb=16)
        y = convolve(p, tile, *args)
        assert convolve(p, tile, *args, threads=3).tobytes() == y.tobytes()
        if tile == "f2x3":
            np.testing.assert_array_equal(y, plain(p, *args))
        x = np.concatenate([args[0][:1]] * 16)
        np.testing.assert_array_equal(convolve(big, tile, x, args[1])[7], y[0])


@pytest.mark.parametrize("tile", TILES)
def test_packed_weights_give_the_same_bits(isa: str, tile: str) -> None:
    rng = np.random.default_rng(7)
    for text in ("mb2ic19ih13oc37kh3ph1", "g2mb1ic256ih8oc512kh3ph1"):
        for pass_ in ("forward", "backward_input"):
            p = ConvProblem.parse(text_of(tile, text), pass_=pass_)
            x, w, *_ = operands(p, rng)
            kernel, lowered = getattr(kernels, f"conv2d_{pass_}_winograd_{tile}__cython"), backend.lower(p)
            packed = kernel.pack(lowered, w, 2)
            assert packed.nbytes == kernel.packed_nbytes(lowered) > w.nbytes
            np.testing.assert_array_equal(convolve(p, tile, x, w, packed=packed), convolve(p, tile, x, w))


def test_workspace_is_what_the_core_needs(isa: str) -> None:
    rng = np.random.default_rng(8)
    texts = ("mb1ic512ih14oc512kh3ph1", "mb0ic3ih9oc4kh3ph2", "mb1ic512ih28oc128kh3")
    for tile in TILES:
        problems = [random_problem(rng, *filter_of(tile, bool(turn % 2))) for turn in range(60)]
        problems += [ConvProblem.parse(text_of(tile, text)) for text in texts]
        for p in problems:
            for threads in (1, 2, 7):
                kernel = getattr(kernels, f"conv2d_{p.pass_}_winograd_{tile}__cython")
                packed = () if p.pass_ == "backward_weight" else (False,)
                need = kernel.workspace_nbytes(backend.lower(p), *packed, threads)
                assert workspace_of(p, threads, tile) == need, str(p)


def test_too_small_a_workspace_is_refused(isa: str) -> None:
    p = ConvProblem.parse("mb1ic3ih9oc4kh3")
    x, w, y = (np.zeros(s, np.float32) for s in ((1, 3, 9, 9), (4, 3, 3, 3), (1, 4, 7, 7)))
    for given in (None, workspace(workspace_of(p, 1, "f4x3") - 1)):
        with pytest.raises(RuntimeError, match="bytes of workspace"):
            kernels.conv2d_forward_winograd_f4x3__cython(backend.lower(p), x, w, None, None, y, given, 1)


# ---- Non-finite and huge values: the same set of non-finite outputs as the plain sum


def assert_same_finite_set(p: ConvProblem, tile: str, *args: Any) -> None:
    with np.errstate(over="ignore"):
        expected = plain(p, *args, dtype=p.dtype)
    y = convolve(p, tile, *args)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected), err_msg=str(p))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected), err_msg=str(p))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pass_", ["forward", "backward_input"])
@pytest.mark.parametrize("where", ["input", "weights", "bias", "residual"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38], ids=["nan", "inf", "-inf", "huge"])
@pytest.mark.parametrize("tile", TILES)
def test_non_finite_set(isa: str, tile: str, value: float, where: str, pass_: str, layout: str) -> None:
    rng = np.random.default_rng(9)
    for text in ("mb2ic5ih11iw13oc19kh3ph1", "mb1ic17ih6oc35kh3ph0pw2", "g2mb1ic6ih5oc8kh3ph1"):
        p = ConvProblem.parse(text_of(tile, text), pass_=pass_, layout=layout, bias=True, residual=True)
        args = operands(p, rng)
        target = ["input", "weights", "bias", "residual"].index(where)
        array = args[target] = np.array(args[target])
        array[tuple(rng.integers(0, n) for n in array.shape)] = value
        assert_same_finite_set(p, tile, *args)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("where", [0, 1], ids=["x", "dy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38], ids=["nan", "inf", "-inf", "huge"])
@pytest.mark.parametrize("tile", TILES)
def test_non_finite_set_of_gradients(isa: str, tile: str, value: float, where: int, layout: str) -> None:
    rng = np.random.default_rng(12)
    for text in ("mb2ic5ih11iw13oc19kh3ph1", "mb1ic17ih6oc35kh3ph0pw2", "g2mb1ic6ih5oc8kh3ph1"):
        p = ConvProblem.parse(text_of(tile, text), pass_="backward_weight", layout=layout)
        args = operands(p, rng)
        args[where][tuple(rng.integers(0, n) for n in args[where].shape)] = value
        assert_same_finite_set(p, tile, *args)


@pytest.mark.parametrize("tile", TILES)
def test_values_that_overflow_only_in_the_transforms(isa: str, tile: str) -> None:
    """1e38 fits, but B^T d B and G w G^T of it do not: the outputs are finite, and right."""
    p = ConvProblem.parse(text_of(tile, "mb1ic4ih9oc6kh3ph1"))
    rng = np.random.default_rng(10)
    for scale_x, scale_w in ((1e38, 1e-3), (1e-3, 1e38), (3.2e38, 1e-7)):
        x = (rng.choice([-1, 1], (1, 4, 9, 9)) * scale_x).astype(np.float32)
        w = (rng.choice([-1, 1], (6, 4, p.kh, p.kw)) * scale_w).astype(np.float32)
        expected = plain(p, x, w)
        y = convolve(p, tile, x, w)
        assert np.isfinite(y).all()
        limit = winograd.error_bound(tile, p.icg) * full_magnitude(p, tile, x, w)
        assert (np.abs(y - expected).max((0, 2, 3)) <= limit).all()


@pytest.mark.parametrize("tile", TILES)
def test_a_clamp_does_not_hide_a_spread_infinity(isa: str, tile: str) -> None:
    """Clamped to [0, 1] an infinity becomes finite: the tile must have been recomputed before that."""
    rng = np.random.default_rng(11)
    for layout in ("NCHW", "NHWC"):
        p = ConvProblem.parse(text_of(tile, "mb1ic3ih12oc20kh3ph1"), layout=layout, activation=("clip", -50.0, 50.0))
        x, w, *_ = operands(p, rng)
        w = w + (w == 0)
        x[0, 1, 5, 6] = np.inf
        y, expected = convolve(p, tile, x, w), plain(p, x, w)
        np.testing.assert_allclose(y, expected, atol=1e-3)


@pytest.mark.parametrize("tile", ["f2x3", "f4x3"])
def test_plain_transforms_for_cuda_are_the_matrices(tile):
    from fastconv._cuda import transforms

    at, g, bt = winograd.matrices(tile, np.float32)
    for name, matrix in (("input", bt), ("output", at), ("output_adjoint", at.T), ("weights_adjoint", g.T)):
        function = getattr(transforms, f"{name}_transform_{tile}", None)
        if function is None:
            assert tile == "f2x3" and "adjoint" in name
            continue
        columns = [np.array(function(*unit)) for unit in np.eye(matrix.shape[1])]
        np.testing.assert_array_equal(np.stack(columns, axis=1), matrix)
