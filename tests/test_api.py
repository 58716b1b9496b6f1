"""The public functions through their front door: conv2d with all its arguments and dtypes; the names exported."""


import numpy as np
import pytest

import fastconv
from fastconv import dispatch, reference
from fastconv.problem import ConvProblem, NoKernelError
from tests import compare, rows
from tests.calls import forward, hwio, integers, nhwc

# ---------------------------------------------------------------------------------------------------------------
# conv2d


def test_front_door_agrees_with_the_kernel_table(rng):
    """The reference through conv2d is the reference of the suite."""
    p = ConvProblem.parse("g2mb2ic4ih9iw7oc6kh3kw2sh2sw1ph1pw0ph_r2pw_r1dh1dw2", bias=True, dtype="float64")
    o = rows.operands(p, "integers")
    y = fastconv.conv2d(o.x, o.w, o.bias, (2, 1), (1, 2, 0, 1), (1, 2), 2)
    compare.assert_exact(y, rows.by_reference(p, o))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_argument_has_its_effect(layout, rng):
    x, w = integers(rng, 2, 4, 9, 10), integers(rng, 6, 4, 3, 3)
    args = (x, w) if layout == "NCHW" else (nhwc(x), hwio(w))
    seen = {}
    for options in (
        {}, {"stride": (2, 1)}, {"stride": (1, 2)}, {"padding": (1, 0)}, {"padding": (0, 1)}, {"dilation": (2, 1)},
        {"dilation": (1, 2)}, {"bias": integers(rng, 6) + 5}, {"activation": "relu"}, {"activation": "relu6"},
        {"activation": ("clip", -1, 2)}, {"padding": (1, 0, 0, 0)}, {"padding": (0, 0, 0, 1)},
    ):  # fmt: skip
        y = fastconv.conv2d(*args, layout=layout, precision="strict", **options)
        compare.assert_exact(y, fastconv.conv2d(*args, layout=layout, algorithm="reference", **options))
        seen[str(options)] = (y.shape, y.tobytes())
    assert len(set(seen.values())) == len(seen)


def test_positional_order_is_that_of_torch(rng):
    x, w, b = integers(rng, 1, 4, 9, 10), integers(rng, 6, 2, 3, 3), integers(rng, 6)
    y = fastconv.conv2d(x, w, b, 2, 1, 1, 2)
    compare.assert_exact(y, fastconv.conv2d(input=x, weight=w, bias=b, stride=2, padding=1, dilation=1, groups=2))
    t = fastconv.conv_transpose2d(x, integers(rng, 4, 3, 3, 3), None, 2, 1, 1, 2, 1)
    assert t.shape == (1, 6, 18, 20)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "text", ["ic16ih20oc24kh3ph1", "ic16ih13iw29oc24kh5ph2", "ic16ih9oc24kh1kw7pw3", "g16ic16ih9oc16kh3"]
)
def test_one_image_without_a_batch_axis_by_every_algorithm(text, layout, rng):
    """Views of one image have no batch stride that a kernel could rely on."""
    p = ConvProblem.parse(text, layout=layout)
    x, w = integers(rng, *p.input_shape), integers(rng, *p.weight_shape)
    o = {"layout": layout, "padding": (p.ph, p.pw), "groups": p.g, "precision": 1e-3}
    for verdict in dispatch.verdicts(ConvProblem.parse(text, layout=layout, precision=1e-3)):
        if verdict.reason is None:
            how = {**o, "algorithm": verdict.kernel.algorithm, "backend": verdict.kernel.backend}
            wanted = fastconv.conv2d(x, w, **how)[0]
            out = np.full_like(wanted, np.nan)
            compare.assert_same_bits(fastconv.conv2d(x[0], w, **how), wanted, verdict.kernel.name)
            compare.assert_same_bits(fastconv.conv2d(x[0], w, out=out, **how), wanted, verdict.kernel.name)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_unbatched(layout, rng):
    x, w = integers(rng, 1, 3, 8, 9), integers(rng, 5, 3, 3, 2)
    if layout == "NHWC":
        x, w = nhwc(x), hwio(w)
    o = {"layout": layout}
    y = fastconv.conv2d(x, w, **o)
    compare.assert_exact(fastconv.conv2d(x[0], w, **o), y[0])
    compare.assert_exact(fastconv.conv2d_input(x.shape[1:], w, y[0], **o), fastconv.conv2d_input(x.shape, w, y, **o)[0])
    compare.assert_exact(fastconv.conv2d_weight(x[0], w.shape, y[0], **o), fastconv.conv2d_weight(x, w.shape, y, **o))
    t = np.ascontiguousarray(w.transpose(1, 0, 2, 3) if layout == "NCHW" else w.transpose(0, 1, 3, 2))
    compare.assert_exact(fastconv.conv_transpose2d(x[0], t, **o), fastconv.conv_transpose2d(x, t, **o)[0])
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True, **o)
    one, one_indices = fastconv.max_pool2d(x[0], 2, return_indices=True, **o)
    compare.assert_exact(one, pooled[0])
    compare.assert_exact(one_indices, indices[0])
    compare.assert_exact(fastconv.avg_pool2d(x[0], 2, **o), fastconv.avg_pool2d(x, 2, **o)[0])
    compare.assert_exact(
        fastconv.max_pool2d_backward(one, x.shape[1:], one_indices, 2, **o),
        fastconv.max_pool2d_backward(pooled, x.shape, indices, 2, **o)[0],
    )
    compare.assert_exact(fastconv.adaptive_avg_pool2d(x[0], 1, **o), fastconv.adaptive_avg_pool2d(x, 1, **o)[0])
    whole = fastconv.max_unpool2d(pooled, indices, 2, output_size=(8, 9), **o)
    compare.assert_exact(fastconv.max_unpool2d(one, one_indices, 2, output_size=(8, 9), **o), whole[0])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_empty_batch(layout):
    x = np.zeros((0, 3, 8, 9) if layout == "NCHW" else (0, 8, 9, 3), np.float32)
    w = np.ones((5, 3, 3, 2) if layout == "NCHW" else (3, 2, 3, 5), np.float32)
    o = {"layout": layout}
    y = fastconv.conv2d(x, w, np.ones(5, np.float32), **o)
    assert y.shape == ((0, 5, 6, 8) if layout == "NCHW" else (0, 6, 8, 5))
    dx, dw, db = fastconv.conv2d_backward(y, x, w, **o)
    assert dx.shape == x.shape and dw.shape == w.shape and not dw.any() and not db.any()
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True, **o)
    assert pooled.size == indices.size == 0
    assert fastconv.max_pool2d_backward(pooled, x.shape, indices, 2, **o).shape == x.shape
    assert fastconv.avg_pool2d_backward(fastconv.avg_pool2d(x, 2, **o), x.shape, 2, **o).shape == x.shape
    assert fastconv.adaptive_max_pool2d(x, 1, **o).shape[0] == 0


@pytest.mark.parametrize(
    "x_dtype, w_dtype, result",
    [
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float32", "float64", "float64"),
        ("float16", "float16", "float16"),
        ("float16", "float32", "float32"),
        ("int8", "int8", "int64"),
        ("uint8", "int16", "int64"),
        ("bool", "int8", "int64"),
        ("int64", "int64", "int64"),
        ("float32", "int8", "float32"),
        ("int32", "float32", "float64"),
        (">f4", "<f4", "float32"),
        (">f8", ">f8", "float64"),
        (">i4", "int32", "int64"),
    ],
)
def test_dtypes(x_dtype, w_dtype, result, rng):
    x, w = integers(rng, 2, 3, 7, 8), integers(rng, 4, 3, 3, 3)
    if x_dtype == "bool" or x_dtype == "uint8":
        x = np.abs(x)
    if x_dtype == "bool":
        x = x > 1
    y = fastconv.conv2d(x.astype(x_dtype), w.astype(w_dtype), precision="strict")
    assert y.dtype == np.dtype(result) and y.dtype.isnative
    compare.assert_exact(y.astype(np.float64), forward(x.astype(np.float64), w.astype(np.float64)))


def test_bfloat16(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, w = integers(rng, 2, 3, 7, 8), integers(rng, 4, 3, 3, 3)
    y = fastconv.conv2d(x.astype(ml_dtypes.bfloat16), w.astype(ml_dtypes.bfloat16), precision="strict")
    assert y.dtype == ml_dtypes.bfloat16
    compare.assert_exact(y.astype(np.float32), forward(x, w).astype(ml_dtypes.bfloat16).astype(np.float32))


def test_float16_is_rounded_once(rng):
    """Computed in float32: a sum that float16 could not hold on the way comes out right."""
    x = np.full((1, 1, 1, 3), 60000, np.float16)
    w = np.array([1, 1, -1], np.float16).reshape(1, 1, 1, 3)
    assert fastconv.conv2d(x, w)[0, 0, 0, 0] == 60000
    x, w = rng.standard_normal((1, 20, 9, 9)).astype("f2"), rng.standard_normal((8, 20, 3, 3)).astype("f2")
    y = fastconv.conv2d(x, w, precision="strict")
    compare.assert_same_bits(y, fastconv.conv2d(x.astype("f4"), w.astype("f4"), precision="strict").astype("f2"))


def test_integers_are_exact_where_floats_are_not():
    x = np.full((1, 2, 3, 3), 2**30 + 1, np.int64)
    w = np.full((1, 2, 3, 3), 2**20 + 1, np.int64)
    assert fastconv.conv2d(x, w).item() == 18 * (2**30 + 1) * (2**20 + 1)


def test_numbers_that_are_not_arrays():
    x = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
    compare.assert_exact(fastconv.conv2d(x, [[[[1.0, 0], [0, 1]]]]), np.array([[[[6.0, 8], [12, 14]]]]))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_padding_modes(mode, layout, rng):
    x, w = integers(rng, 2, 3, 6, 7), integers(rng, 4, 3, 3, 3)
    pads = (2, 1, 0, 3)
    numpy_mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    padded = np.pad(x, ((0, 0), (0, 0), pads[:2], pads[2:]), mode=numpy_mode)
    wanted = forward(padded, w)
    args = (x, w) if layout == "NCHW" else (nhwc(x), hwio(w))
    how = {"padding": pads, "padding_mode": mode, "layout": layout, "precision": "strict"}
    y = fastconv.conv2d(*args, **how)
    compare.assert_exact(y if layout == "NCHW" else y.transpose(0, 3, 1, 2), wanted)
    # the gradients are adjoint to that very map
    dy = integers(rng, *y.shape)
    dx, dw, _ = fastconv.conv2d_backward(dy, *args, **how)
    assert (y * dy).sum(dtype="f8") == (dx * args[0]).sum(dtype="f8") == (dw * args[1]).sum(dtype="f8")


@pytest.mark.parametrize("padding", ["same", "same_lower", "valid", "SAME"])
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_padding_words(padding, stride, rng):
    x, w = integers(rng, 1, 3, 9, 10), integers(rng, 4, 3, 4, 3)
    pads = fastconv.resolve_padding(padding, (9, 10), (4, 3), stride)
    compare.assert_exact(
        fastconv.conv2d(x, w, stride=stride, padding=padding), fastconv.conv2d(x, w, stride=stride, padding=pads)
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "activation, apply",
    [
        ("relu", lambda y: np.maximum(y, 0)),
        ("relu6", lambda y: np.clip(y, 0, 6)),
        (("clip", -2, 3), lambda y: np.clip(y, -2, 3)),
        (None, lambda y: y),
    ],
)
def test_epilogue(activation, apply, layout, rng):
    x, w, b = integers(rng, 2, 3, 7, 8), integers(rng, 17, 3, 3, 3), integers(rng, 17)
    args = (x, w) if layout == "NCHW" else (nhwc(x), hwio(w))
    plain = fastconv.conv2d(*args, layout=layout)
    r = integers(rng, *plain.shape)
    wide = b.reshape(1, -1, 1, 1) if layout == "NCHW" else b
    for algorithm in ("auto", "im2col", "winograd_f2x3", "naive"):
        try:
            y = fastconv.conv2d(*args, b, layout=layout, activation=activation, residual=r, algorithm=algorithm)
        except NoKernelError:
            continue
        compare.assert_exact(y, apply(plain + wide + r))
    out = np.empty_like(plain)
    assert fastconv.conv2d(*args, b, layout=layout, activation=activation, residual=r, out=out) is out
    compare.assert_exact(out, apply(plain + wide + r))


def test_flip_note_for_scipy_users(rng):
    x, w = integers(rng, 1, 1, 6, 7), integers(rng, 1, 1, 3, 2)
    y = fastconv.conv2d(x, w[:, :, ::-1, ::-1], padding=((2, 2), (1, 1)))
    full = np.zeros((8, 8), np.float32)
    for a in range(3):
        for b in range(2):
            full[a : a + 6, b : b + 7] += w[0, 0, a, b] * x[0, 0]
    compare.assert_exact(y[0, 0], full)


# ---------------------------------------------------------------------------------------------------------------
# What the package exports


def test_info_prints_as_lines():
    info = fastconv.info()
    text = str(info)
    for key in ("fastconv", "numpy", "cpu", "isa", "cython rows", "numba rows", "cache"):
        assert key in info and any(line.startswith(key) for line in text.splitlines())


def test_public_names_are_those_promised():
    for name in (
        "conv2d", "conv2d_input", "conv2d_weight", "conv2d_backward", "conv_transpose2d", "conv1d", "conv_transpose1d",
        "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "max_unpool2d",
        "max_pool2d_backward", "avg_pool2d_backward", "adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward",
        "output_shape", "resolve_padding", "plan_conv2d", "explain", "tune", "clear_cache", "info", "set_num_threads",
        "get_num_threads", "config", "NoKernelError",
    ):  # fmt: skip
        assert name in fastconv.__all__ and getattr(fastconv, name).__doc__, name
    assert reference.lower("p") == "p"


def test_docstring_examples_run():
    import doctest

    for name in fastconv.__all__:
        thing = getattr(fastconv, name)
        for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={"fastconv": fastconv}):
            result = doctest.DocTestRunner(verbose=False).run(test)
            assert result.failed == 0, name
