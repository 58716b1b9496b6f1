"""The public functions through their front door: dtypes, layouts, epilogues, out=, plans, padding modes, 1-D, pools."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv import dispatch, host, reference
from fastconv.problem import ConvProblem, NoKernelError
from tests import compare, rows


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def nhwc(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1))


def hwio(a):
    return np.ascontiguousarray(a.transpose(2, 3, 1, 0))


def forward(x, w, bias=None, residual=None, **geometry):
    """conv2d by the reference row, whatever else is installed."""
    return fastconv.conv2d(x, w, bias, residual=residual, algorithm="reference", **geometry)


# ---------------------------------------------------------------------------------------------------------------
# Random problems through the public functions


@st.composite
def problems(draw):
    g = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kh, kw = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dh, dw = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    pads = draw(st.tuples(*[st.integers(0, 4)] * 4))
    ih = draw(st.integers(max(1, (kh - 1) * dh + 1 - pads[0] - pads[1]), 19))
    iw = draw(st.integers(max(1, (kw - 1) * dw + 1 - pads[2] - pads[3]), 35))
    return {
        "x": (draw(st.integers(0, 3)), g * draw(st.sampled_from([1, 2, 3, 5, 8, 9, 17])), ih, iw),
        "oc": g * draw(st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 33])),
        "k": (kh, kw),
        "geometry": {
            "stride": (draw(st.integers(1, 4)), draw(st.integers(1, 4))), "padding": pads, "dilation": (dh, dw),
            "groups": g,
        },
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "dtype": draw(st.sampled_from(["float32", "float32", "float64", "int16"])),
        "seed": draw(st.integers(0, 2**31)),
    }  # fmt: skip


@given(problems())
def test_random_problems_in_every_pass(p):
    """What the default choice computes is what the reference computes, exactly, and the passes are adjoint."""
    rng = np.random.default_rng(p["seed"])
    x = integers(rng, *p["x"], dtype=p["dtype"])
    w = integers(rng, p["oc"], x.shape[1] // p["geometry"]["groups"], *p["k"], dtype=p["dtype"])
    bias = integers(rng, p["oc"], dtype=p["dtype"])
    if p["layout"] == "NHWC":
        x, w = nhwc(x), hwio(w)
    options = {**p["geometry"], "layout": p["layout"], "precision": "strict"}
    y = fastconv.conv2d(x, w, bias, activation="relu", **options)
    exact = {**options, "algorithm": "reference"}
    compare.assert_exact(y, fastconv.conv2d(x, w, bias, activation="relu", **exact))
    dy = integers(rng, *y.shape, dtype=p["dtype"])
    dx, dw, db = fastconv.conv2d_backward(dy, x, w, **options)
    compare.assert_exact(dx, fastconv.conv2d_input(x.shape, w, dy, **exact))
    compare.assert_exact(dw, fastconv.conv2d_weight(x, w.shape, dy, **exact))
    compare.assert_exact(db, dy.sum(axis=(0, 1, 2) if p["layout"] == "NHWC" else (0, 2, 3)))
    assert (dx * x).sum(dtype=np.float64) == (dw * w).sum(dtype=np.float64)


@given(st.data())
def test_random_pools(data):
    draw = data.draw
    k = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = draw(st.tuples(st.integers(0, k[0] - 1), st.integers(0, k[1] - 1)))
    size = (draw(st.integers(k[0], 15)), draw(st.integers(k[1], 20)))
    shape = (draw(st.integers(0, 2)), draw(st.sampled_from([1, 3, 8, 17])), *size)
    stride = draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    ceil, layout = draw(st.booleans()), draw(st.sampled_from(["NCHW", "NHWC"]))
    x = integers(np.random.default_rng(draw(st.integers(0, 2**31))), *shape)
    x = x if layout == "NCHW" else nhwc(x)
    common = {"stride": stride, "padding": pads, "ceil_mode": ceil, "layout": layout}
    y, indices = fastconv.max_pool2d(x, k, return_indices=True, **common)
    z, wanted = fastconv.max_pool2d(x, k, return_indices=True, algorithm="reference", **common)
    compare.assert_exact(y, z)
    compare.assert_exact(indices, wanted)
    dy = integers(np.random.default_rng(1), *y.shape)
    compare.assert_exact(
        fastconv.max_pool2d_backward(dy, x.shape, indices, k, **common),
        fastconv.max_pool2d_backward(dy, x.shape, indices, k, algorithm="reference", **common),
    )
    total = fastconv.avg_pool2d(x, k, divisor_override=1, **common)
    compare.assert_exact(total, fastconv.avg_pool2d(x, k, divisor_override=1, algorithm="reference", **common))


@given(problems(), st.integers(0, 3), st.integers(0, 3))
def test_random_transposed_convolutions(p, extra_h, extra_w):
    rng = np.random.default_rng(p["seed"])
    geometry = p["geometry"]
    (sh, sw), (dh, dw) = geometry["stride"], geometry["dilation"]
    extra = (min(extra_h, max(sh, dh) - 1), min(extra_w, max(sw, dw) - 1))
    y = integers(rng, *p["x"], dtype=p["dtype"])
    w = integers(rng, y.shape[1], p["oc"] // geometry["groups"], *p["k"], dtype=p["dtype"])
    bias = integers(rng, p["oc"], dtype=p["dtype"])
    if p["layout"] == "NHWC":
        y, w = nhwc(y), hwio(w)
    arguments = (y, w, bias, geometry["stride"], geometry["padding"], extra, geometry["groups"], geometry["dilation"])
    try:
        wanted = fastconv.conv_transpose2d(*arguments, layout=p["layout"], algorithm="reference")
    except ValueError as error:
        assert "would be" in str(error)
        return
    compare.assert_exact(fastconv.conv_transpose2d(*arguments, layout=p["layout"], precision="strict"), wanted)


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
# out=


def calls(rng, layout="NCHW"):
    """name -> (call with out=, shape and dtype of the result)."""
    x, w = integers(rng, 2, 3, 8, 9), integers(rng, 5, 3, 3, 3)
    t = integers(rng, 3, 4, 3, 2)
    if layout == "NHWC":
        x, w, t = nhwc(x), hwio(w), hwio(t)
    o = {"layout": layout}
    y = fastconv.conv2d(x, w, **o)
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True, **o)
    return {
        "conv2d": lambda out: fastconv.conv2d(x, w, out=out, **o),
        "conv2d_input": lambda out: fastconv.conv2d_input(x.shape, w, y, out=out, **o),
        "conv2d_weight": lambda out: fastconv.conv2d_weight(x, w.shape, y, out=out, **o),
        "conv2d circular": lambda out: fastconv.conv2d(x, w, padding=1, padding_mode="circular", out=out, **o),
        "conv2d_input circular": lambda out: fastconv.conv2d_input(
            x.shape, w, fastconv.conv2d(x, w, padding=1, **o), padding=1, padding_mode="circular", out=out, **o
        ),
        "conv_transpose2d": lambda out: fastconv.conv_transpose2d(x, t, stride=2, out=out, **o),
        "max_pool2d": lambda out: fastconv.max_pool2d(x, 2, out=out, **o),
        "max_pool2d_backward": lambda out: fastconv.max_pool2d_backward(pooled, x.shape, indices, 2, out=out, **o),
        "avg_pool2d": lambda out: fastconv.avg_pool2d(x, 3, out=out, **o),
        "avg_pool2d_backward": lambda out: fastconv.avg_pool2d_backward(pooled, x.shape, 2, out=out, **o),
        "adaptive_max_pool2d": lambda out: fastconv.adaptive_max_pool2d(x, (3, 2), out=out, **o),
        "adaptive_avg_pool2d": lambda out: fastconv.adaptive_avg_pool2d(x, (3, 2), out=out, **o),
        "max_unpool2d": lambda out: fastconv.max_unpool2d(pooled, indices, 2, output_size=(8, 9), out=out, **o),
    }


NAMES = tuple(calls(np.random.default_rng(0)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_out_forms(name, layout, rng):
    """The result lands in out, which comes back; strided, reversed, misaligned and byte-swapped ones too."""
    call = calls(rng, layout)[name]
    y = call(None)
    wide = np.full((*y.shape[:-1], 2 * y.shape[-1]), np.nan, y.dtype)
    raw = np.full(y.nbytes + 1, 0xFF, np.uint8)
    forms = {
        "plain": np.full_like(y, np.nan),
        "strided": wide[..., ::2],
        "reversed": np.full_like(y, np.nan)[:, ::-1],
        "fortran": np.asfortranarray(np.full_like(y, np.nan)),
        "misaligned": raw[1:].view(y.dtype).reshape(y.shape),
        "subclass": np.full_like(y, np.nan).view(np.memmap),
    }
    for form, out in forms.items():
        assert call(out) is out, form
        compare.assert_exact(np.asarray(out), y, f"{name} {form}")
    assert np.isnan(wide[..., 1::2]).all()


def test_out_of_half_precision(rng):
    x, w = integers(rng, 2, 3, 8, 9, dtype="f2"), integers(rng, 5, 3, 3, 3, dtype="f2")
    out = np.empty((2, 5, 6, 7), np.float16)
    assert fastconv.conv2d(x, w, out=out) is out
    compare.assert_exact(out, forward(x, w))


# ---------------------------------------------------------------------------------------------------------------
# Gradients, transposed and 1-D


def test_output_mask(rng):
    x, w = integers(rng, 1, 2, 6, 6), integers(rng, 3, 2, 3, 3)
    dy = integers(rng, 1, 3, 4, 4)
    full = fastconv.conv2d_backward(dy, x, w)
    for mask in ((True, False, False), (False, True, False), (False, False, True), (False, False, False)):
        for got, want, on in zip(fastconv.conv2d_backward(dy, x, w, output_mask=mask), full, mask):
            assert (got is None) == (not on)
            if on:
                compare.assert_exact(got, want)


def test_backward_with_winograd_forced(rng):
    x, w = integers(rng, 1, 8, 9, 9), integers(rng, 8, 8, 3, 3)
    dy = integers(rng, 1, 8, 7, 7)
    if not any("winograd" in k and "no:" not in k for k in fastconv.explain(x.shape, w.shape).splitlines()):
        pytest.skip("no Winograd row can run here")
    wanted = fastconv.conv2d_backward(dy, x, w, precision="strict")
    for got, want in zip(fastconv.conv2d_backward(dy, x, w, algorithm="winograd_f2x3"), wanted):
        compare.assert_exact(got, want)


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
def test_conv1d(layout, rng):
    x, w, b = integers(rng, 2, 3, 17), integers(rng, 4, 3, 5), integers(rng, 4)
    r = integers(rng, 2, 4, 9)
    geometry = {"stride": 2, "padding": (3, 1), "dilation": 1}
    wanted = forward(x[:, :, None], w[:, :, None], b, r[:, :, None], stride=(1, 2), padding=(0, 0, 3, 1))[:, :, 0]
    if layout == "NWC":
        x, w, r = x.transpose(0, 2, 1), w.transpose(2, 1, 0), r.transpose(0, 2, 1)
    y = fastconv.conv1d(x, w, b, residual=r, layout=layout, **geometry)
    compare.assert_exact(y if layout == "NCW" else y.transpose(0, 2, 1), wanted)
    out = np.empty_like(y)
    assert fastconv.conv1d(x, w, b, residual=r, layout=layout, out=out, **geometry) is out
    compare.assert_exact(out, y)
    compare.assert_exact(fastconv.conv1d(x[0], w, b, residual=r[0], layout=layout, **geometry), y[0])
    same = fastconv.conv1d(x, w, padding="same", layout=layout)
    assert same.shape[1 if layout == "NWC" else 2] == 17


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
def test_conv_transpose1d(layout, rng):
    x, w, b = integers(rng, 2, 3, 8), integers(rng, 3, 4, 5), integers(rng, 4)
    wanted = fastconv.conv_transpose2d(
        x[:, :, None], w[:, :, None], b, (1, 2), (0, 0, 1, 1), (0, 1), algorithm="reference"
    )[:, :, 0]
    if layout == "NWC":
        x, w = x.transpose(0, 2, 1), w.transpose(2, 1, 0)
    y = fastconv.conv_transpose1d(x, w, b, 2, 1, 1, layout=layout)
    compare.assert_exact(y if layout == "NCW" else y.transpose(0, 2, 1), wanted)
    compare.assert_exact(fastconv.conv_transpose1d(x[0], w, b, 2, 1, 1, layout=layout), y[0])


@pytest.mark.parametrize(
    "kernel, stride, padding, extra, dilation",
    [(3, 2, 1, 1, 1), (4, (2, 3), (1, 0), (0, 2), 1), (2, 1, 0, 2, 3), (3, 1, 0, (3, 1), (4, 2)), (1, 3, 0, 2, 1)],
)
def test_transposed_convolution_by_inserting_zeros(kernel, stride, padding, extra, dilation, rng):
    """The textbook way, which the library does not take."""
    x, w = integers(rng, 2, 3, 4, 5), integers(rng, 3, 2, kernel, kernel)
    (sh, sw), (ph, pw), (eh, ew), (dh, dw) = (
        v if isinstance(v, tuple) else (v, v) for v in (stride, padding, extra, dilation)
    )
    spread = np.zeros((2, 3, 3 * sh + 1, 4 * sw + 1), np.float32)
    spread[:, :, ::sh, ::sw] = x
    th, tw = (kernel - 1) * dh, (kernel - 1) * dw
    big = np.pad(spread, ((0, 0), (0, 0), (th, th + eh), (tw, tw + ew)))
    full = forward(big, w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], dilation=(dh, dw))
    wanted = full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]
    y = fastconv.conv_transpose2d(x, w, None, stride, padding, extra, 1, dilation)
    compare.assert_exact(y, wanted)


def test_transposed_with_bias_activation_residual(rng):
    x, w, b = integers(rng, 2, 3, 5, 4), integers(rng, 3, 4, 3, 3), integers(rng, 4)
    plain = fastconv.conv_transpose2d(x, w, stride=2)
    r = integers(rng, *plain.shape)
    y = fastconv.conv_transpose2d(x, w, b, stride=2, residual=r, activation="relu")
    compare.assert_exact(y, np.maximum(plain + b.reshape(1, -1, 1, 1) + r, 0))


# ---------------------------------------------------------------------------------------------------------------
# Plans


def test_plan_computes_what_conv2d_does(rng):
    x, w, b = integers(rng, 2, 8, 9, 10), integers(rng, 16, 8, 3, 3), integers(rng, 16)
    plan = fastconv.plan_conv2d(x.shape, w, b, padding=1, activation="relu")
    wanted = fastconv.conv2d(x, w, b, padding=1, activation="relu", algorithm="reference")
    compare.assert_exact(np.rint(plan(x)), wanted)
    out = np.empty_like(wanted)
    assert plan(x, out=out) is out
    compare.assert_same_bits(out, plan(x))
    assert plan.workspace_nbytes >= 0 and plan.kernel in repr(plan) and "mb2ic8ih9iw10oc16kh3ph1" in repr(plan)


def test_plan_keeps_its_weights(rng):
    x, w, b = integers(rng, 1, 3, 6, 6), integers(rng, 4, 3, 3, 3), integers(rng, 4)
    plan = fastconv.plan_conv2d(x.shape, w, b)
    before = plan(x)
    w[...] = 0
    b[...] = 0
    compare.assert_same_bits(plan(x), before)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_plan_pickles(layout, rng):
    x, w, b = integers(rng, 2, 6, 9, 10), integers(rng, 4, 3, 3, 3), integers(rng, 4)
    if layout == "NHWC":
        x, w = nhwc(x), hwio(w)
    options = {"layout": layout, "activation": ("clip", -3, 4), "residual": True, "algorithm": "im2col"}
    plan = fastconv.plan_conv2d(x.shape, w, b, (1, 2), "same", 1, 2, **options)
    r = integers(rng, *plan.problem.output_shape)
    again = pickle.loads(pickle.dumps(plan))
    assert (again.kernel, again.problem) == (plan.kernel, plan.problem)
    compare.assert_same_bits(again(x, residual=r), plan(x, residual=r))


def test_plan_refuses_other_inputs(rng):
    plan = fastconv.plan_conv2d((1, 3, 6, 6), integers(rng, 4, 3, 3, 3))
    for bad in (np.zeros((1, 3, 6, 7), "f4"), np.zeros((2, 3, 6, 6), "f4"), np.zeros((1, 3, 6, 6))):
        with pytest.raises(ValueError, match="plan was made for"):
            plan(bad)
    with pytest.raises(ValueError, match="without a residual"):
        plan(np.zeros((1, 3, 6, 6), "f4"), residual=np.zeros((1, 4, 4, 4), "f4"))


# ---------------------------------------------------------------------------------------------------------------
# Pools


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["im2col", "winograd_f2x3", "winograd_f4x3"])
def test_a_plan_packs_its_weights_for_the_instruction_set_in_use(algorithm, layout):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((2, 9, 8, 20), np.float32), rng.standard_normal((3, 3, 20, 37), np.float32)
    if layout == "NCHW":
        x, w = x.transpose(0, 3, 1, 2).copy(), w.transpose(3, 2, 0, 1)
    plan = fastconv.plan_conv2d(x.shape, w, padding=1, layout=layout, algorithm=algorithm)
    assert f"packed={plan.packed_nbytes}" in repr(plan) and f"workspace={plan.workspace_nbytes}" in repr(plan)
    isas = host.isas()
    before = host.isa()
    if isas and algorithm.startswith("winograd"):
        assert plan.packed_nbytes > w.nbytes
    try:
        for isa in (*isas, *isas[::-1]):
            host.set_isa(isa)
            expected = fastconv.conv2d(x, w, padding=1, layout=layout, algorithm=algorithm)
            np.testing.assert_array_equal(plan(x), expected, err_msg=isa)
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(plan))(x), expected, err_msg=isa)
    finally:
        if isas:
            host.set_isa(before)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["auto", "im2col", "winograd_f2x3", "naive", "reference"])
def test_every_epilogue_of_a_plan(algorithm, dtype, layout):
    """Bias, residual and each activation, by the short and the long way of a plan; integers: the sums are exact."""
    rng = np.random.default_rng(3)
    x, w, r = (
        integers(rng, 2, 5, 7, 9, dtype=dtype),
        integers(rng, 6, 5, 3, 3, dtype=dtype),
        integers(rng, 2, 6, 7, 9, dtype=dtype),
    )
    b = integers(rng, 6, dtype=dtype)
    if layout == "NHWC":
        x, w, r = nhwc(x), hwio(w), nhwc(r)
    options = {"padding": 1, "layout": layout}
    for activation in (None, "relu", "relu6", ("clip", -2.0, 3.0), ("clip", -np.inf, 1.0)):
        for bias in (None, b):
            for residual in (None, r):
                plan = fastconv.plan_conv2d(
                    x.shape,
                    w,
                    bias,
                    activation=activation,
                    residual=residual is not None,
                    algorithm=algorithm,
                    **options,
                )
                wanted = forward(x, w, bias, residual, activation=activation, **options)
                out = np.full_like(wanted, np.nan)
                for y in (
                    plan(x, None, residual),
                    plan(x, residual=residual),
                    plan(np.asfortranarray(x), residual=residual),
                ):
                    compare.assert_exact(y, wanted, str(plan))
                assert plan(x, out, residual) is out
                compare.assert_exact(out, wanted, str(plan))
                with pytest.raises(ValueError, match="residual"):
                    plan(x, residual=r if residual is None else None)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["auto", "im2col", "winograd_f2x3", "winograd_f4x3"])
def test_calls_into_an_output_allocate_nothing(algorithm, layout):
    """Beyond a few objects, once the scratch is there."""
    rng = np.random.default_rng(4)
    x, w, b = integers(rng, 2, 32, 40, 40), integers(rng, 32, 32, 3, 3), integers(rng, 32)
    if layout == "NHWC":
        x, w = nhwc(x), hwio(w)
    options = {"padding": 1, "layout": layout, "algorithm": algorithm, "activation": "relu"}
    plan = fastconv.plan_conv2d(x.shape, w, b, **options)
    y = plan(x)
    calls = (lambda: plan(x, y), lambda: plan(x, out=y), lambda: fastconv.conv2d(x, w, b, **options, out=y))
    for call in calls:
        call()
        call()
        tracemalloc.start()
        call()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2000, peak


def test_pools_by_hand():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    compare.assert_exact(y[0, 0], np.array([[5.0, 7], [13, 15]]))
    compare.assert_exact(indices[0, 0], np.array([[5, 7], [13, 15]]))
    compare.assert_exact(fastconv.avg_pool2d(x, 2)[0, 0], np.array([[2.5, 4.5], [10.5, 12.5]]))
    compare.assert_exact(fastconv.max_unpool2d(y, indices, 2)[0, 0, 1::2, 1::2], y[0, 0])
    compare.assert_exact(fastconv.adaptive_avg_pool2d(x, 1).reshape(1), np.array([7.5]))


def test_padded_cells_never_win_and_the_first_maximum_does():
    x = np.full((1, 1, 2, 2), -5.0, np.float32)
    y, indices = fastconv.max_pool2d(x, 2, 1, 1, return_indices=True)
    assert (y == -5).all()
    compare.assert_exact(indices[0, 0], np.array([[0, 0, 1], [0, 0, 1], [2, 2, 3]]))


@pytest.mark.parametrize("place", [0, 5, 8, 15, 16, 17, 30])
def test_nan_wins_in_body_and_tail_alike(place):
    x = np.arange(33, dtype=np.float32).reshape(1, 1, 1, 33)
    x[..., place] = np.nan
    y = fastconv.max_pool2d(x, (1, 3), (1, 1))
    assert [i for i in range(31) if np.isnan(y[0, 0, 0, i])] == [i for i in range(31) if i <= place <= i + 2]


def test_all_minus_inf_gives_a_valid_index():
    x = np.full((1, 2, 4, 4), -np.inf, np.float32)
    y, indices = fastconv.max_pool2d(x, 2, padding=1, return_indices=True)
    assert (y == -np.inf).all() and indices.min() >= 0 and indices.max() < 16
    compare.assert_exact(indices[0, 0, 0], np.array([0, 1, 3]))


def test_count_include_pad_is_true_by_default():
    x = np.ones((1, 1, 2, 2), np.float32)
    assert fastconv.avg_pool2d(x, 2, padding=1)[0, 0, 0, 0] == 0.25
    assert fastconv.avg_pool2d(x, 2, padding=1, count_include_pad=False)[0, 0, 0, 0] == 1
    assert fastconv.avg_pool2d(x, 2, padding=1, divisor_override=8)[0, 0, 0, 0] == 0.125


def test_cells_that_ceil_mode_adds_are_not_counted():
    x = np.ones((1, 1, 3, 3), np.float32)
    assert (fastconv.avg_pool2d(x, 2, ceil_mode=True) == 1).all()


def test_lp_pool(rng):
    x = integers(rng, 1, 2, 4, 6)
    y = fastconv.lp_pool2d(x, 1, 2)
    compare.assert_exact(y, np.abs(x).reshape(1, 2, 2, 2, 3, 2).sum(axis=(3, 5)))
    squares = np.array([[[[3.0, 4], [0, 0]]]])
    assert fastconv.lp_pool2d(squares, 2, 2).item() == 5


def test_max_unpool_output_size(rng):
    x = integers(rng, 1, 2, 5, 5)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    few, few_indices = fastconv.max_pool2d(x[..., :4, :4], 2, return_indices=True)
    assert fastconv.max_unpool2d(few, few_indices, 2).shape == (1, 2, 4, 4)
    back = fastconv.max_unpool2d(y, indices, 2, output_size=(5, 5))
    assert back.shape == x.shape
    compare.assert_exact(fastconv.max_unpool2d(y, indices, 2, output_size=x.shape), back)
    compare.assert_exact(back.reshape(2, -1)[0][indices[0, 0].ravel()], y[0, 0].ravel())


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
