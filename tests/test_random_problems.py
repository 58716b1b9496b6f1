"""Random problems through the public functions: convolutions in every pass, pools, transposed convolutions."""


import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from tests import compare
from tests.calls import hwio, integers, nhwc


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
