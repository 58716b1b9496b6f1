"""Where results go and what is decided once: out= in all its forms, plans and what they hold."""

import pickle
import tracemalloc

import numpy as np
import pytest

import fastconv
from fastconv import dispatch, host
from fastconv.registry import KERNELS
from tests import compare
from tests.calls import NAMES, calls, forward, hwio, integers, nhwc

# ---------------------------------------------------------------------------------------------------------------
# out=


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
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels, size", [(21, 9), (160, 14)])  # (160, 14): threads share the output channels
@pytest.mark.parametrize("algorithm", ["im2col", "winograd_f2x3", "winograd_f4x3", "winograd_f6x3"])
def test_numba_plans_hold_packed_weights(algorithm, channels, size, groups, layout, threads):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, size, size, groups * channels), np.float32)
    w = rng.standard_normal((3, 3, channels, groups * channels), np.float32)
    if layout == "NCHW":
        x, w = x.transpose(0, 3, 1, 2).copy(), w.transpose(3, 2, 0, 1)
    how = {"padding": 1, "groups": groups, "layout": layout, "algorithm": algorithm, "backend": "numba"}
    expected = fastconv.conv2d(x, w, **how)
    threads(2)
    plan = fastconv.plan_conv2d(x.shape, w, **how)
    assert plan.packed_nbytes >= w.nbytes
    unpacked = dispatch.plan_for(plan.problem, next(k for k in KERNELS if k.name == plan.kernel))
    assert plan.workspace_nbytes < unpacked.workspace_nbytes()
    np.testing.assert_array_equal(plan(x), expected)


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
        # Numba's rows make views of their arrays and tickets of their tasks
        assert peak < (2000 if host.backend_fault("cython") is None else 12_000), peak
