"""conv2d_relu_max_pool2d: against the separate calls, adjointness, NaN, what is refused; rows: test_kernels."""

import re

import numpy as np
import pytest

import fastconv
from fastconv import host
from fastconv.problem import ConvPoolProblem
from tests import cases, compare, rows

RNG = np.random.default_rng(3)
SHAPES = [((3, 12, 13, 1), (3, 3, 1, 16), 0), ((2, 9, 8, 5), (3, 3, 5, 20), 1), ((2, 13, 13, 32), (3, 3, 32, 64), 0)]


def integers(*shape):
    return RNG.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("x_shape, w_shape, padding", SHAPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_it_is_the_separate_calls(x_shape, w_shape, padding, layout):
    x, w, bias = integers(*x_shape), integers(*w_shape), integers(w_shape[-1])
    if layout == "NCHW":
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    how = {"padding": padding, "layout": layout}
    y, codes = fastconv.conv2d_relu_max_pool2d(x, w, bias, **how, precision="strict")
    near, _ = fastconv.conv2d_relu_max_pool2d(x, w, bias, **how)
    compare.assert_exact(np.rint(near), y)
    z = fastconv.conv2d(x, w, bias, activation="relu", **how, precision="strict")
    pooled, indices = fastconv.max_pool2d(z, 2, layout=layout, return_indices=True)
    compare.assert_exact(y, pooled)
    dy = integers(*y.shape)
    dz = fastconv.max_pool2d_backward(dy * (pooled > 0), z.shape, indices, 2, layout=layout)
    dw, db = fastconv.conv2d_relu_max_pool2d_weight(x, w.shape, dy, codes, **how)
    dx = fastconv.conv2d_relu_max_pool2d_input(x.shape, w, dy, codes, **how)
    _, weight, bias_gradient = fastconv.conv2d_backward(dz, x, w, **how, precision="strict")
    compare.assert_exact(np.rint(dw), weight)
    compare.assert_exact(np.rint(db), bias_gradient)
    compare.assert_exact(np.rint(dx), fastconv.conv2d_input(x.shape, w, dz, **how, precision="strict"))


def test_out_arrays_are_filled_and_returned():
    x, w, bias = integers(2, 8, 8, 1), integers(3, 3, 1, 16), integers(16)
    y, codes = np.empty((2, 3, 3, 16), np.float32), np.empty((2, 3, 3, 16), np.uint8)
    given = fastconv.conv2d_relu_max_pool2d(x, w, bias, layout="NHWC", out=y, codes=codes)
    assert given[0] is y and given[1] is codes
    fresh = fastconv.conv2d_relu_max_pool2d(x, w, bias, layout="NHWC")
    compare.assert_same_bits(fresh[0], y)
    compare.assert_same_bits(fresh[1], codes)
    dw, db = np.empty_like(w), np.empty(16, np.float32)
    gradients = fastconv.conv2d_relu_max_pool2d_weight(x, w.shape, y, codes, layout="NHWC", out=dw, out_bias=db)
    assert gradients[0] is dw and gradients[1] is db
    half = fastconv.conv2d_relu_max_pool2d(x.astype(np.float16), w.astype(np.float16), layout="NHWC")
    assert half[0].dtype == np.float16


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel, isa", rows.rows(op=ConvPoolProblem.op, pass_="forward"))
def test_non_finite_values_win_as_by_the_reference(kernel, isa, dtype, value):
    for text in cases.CONV_POOLS:
        p = ConvPoolProblem.of(fastconv.ConvProblem.parse(text, layout="NHWC", dtype=dtype))
        if kernel.cannot(p) is not None or p.mb == 0:
            continue
        o = rows.pooled_operands(p)
        x = o.x.copy()
        x[0, 0, p.ih // 2, p.iw // 2] = x[0, -1, 0, 0] = value
        o = rows.PooledOperands(x, o.w, o.bias, o.y, o.codes)
        wanted = rows.pooled_expected(p, o)
        with rows.use_isa(isa):
            found = rows.pooled_call(rows.run_of(kernel, p), p, o, ("y", "codes"), rows.Setting())
        compare.assert_exact(np.rint(found["y"]), wanted["y"], str(p))
        if compare.is_exact(kernel.algorithm):  # else rounding decides between equal ones
            finite = np.isfinite(wanted["y"])
            compare.assert_exact(found["codes"][finite], wanted["codes"][finite], str(p))


def test_what_is_refused():
    x, w = integers(2, 8, 8, 1), integers(3, 3, 1, 16)
    y, codes = fastconv.conv2d_relu_max_pool2d(x, w, layout="NHWC")
    with pytest.raises(ValueError, match="no 2x2 window"):
        fastconv.conv2d_relu_max_pool2d(x[:, :3], w, layout="NHWC")
    with pytest.raises(ValueError, match="codes must be the C-contiguous uint8 array"):
        fastconv.conv2d_relu_max_pool2d_weight(x, w.shape, y, codes.astype(np.int64), layout="NHWC")
    with pytest.raises(ValueError, match="codes must be the C-contiguous uint8 array"):
        fastconv.conv2d_relu_max_pool2d(x, w, layout="NHWC", codes=codes[:1])
    with pytest.raises(ValueError, match="grad_output has shape"):
        fastconv.conv2d_relu_max_pool2d_input(x.shape, w, y[:, :2], codes, layout="NHWC")
    with pytest.raises(ValueError, match="expects 1 input channel"):
        fastconv.conv2d_relu_max_pool2d(integers(2, 8, 8, 2), w, layout="NHWC")
    reason = host.backend_fault("cython") or "it needs a 3x3 filter, got 2x2"
    with pytest.raises(fastconv.NoKernelError, match=re.escape(reason)):
        fastconv.conv2d_relu_max_pool2d(x, integers(2, 2, 1, 16), layout="NHWC", backend="cython")
    with pytest.raises(ValueError, match="out shares memory with input"):
        memory = np.zeros(400, np.float32)
        x, y = memory[:128].reshape(x.shape), memory[100:388].reshape(y.shape)
        fastconv.conv2d_relu_max_pool2d(x, w, layout="NHWC", out=y)


def test_codes_pass_nothing_where_no_output_is_positive():
    x, w = -np.ones((1, 6, 6, 1), np.float32), np.ones((3, 3, 1, 16), np.float32)
    y, codes = fastconv.conv2d_relu_max_pool2d(x, w, layout="NHWC")
    assert (y == 0).all() and (codes == 4).all()
    dw, db = fastconv.conv2d_relu_max_pool2d_weight(x, w.shape, np.ones_like(y), codes, layout="NHWC")
    assert not dw.any() and not db.any()
    assert not fastconv.conv2d_relu_max_pool2d_input(x.shape, w, np.ones_like(y), codes, layout="NHWC").any()


def test_explain_and_workspace():
    table = fastconv.explain((64, 28, 28, 1), (3, 3, 1, 32), op=ConvPoolProblem.op, layout="NHWC")
    assert "conv2d_relu_max_pool2d_forward_direct__cython" in table and table.kernel is not None
    assert fastconv.explain("ic1ih9oc16kh3", op=ConvPoolProblem.op, backend="numba").kernel is None
    for row in rows.rows(op=ConvPoolProblem.op, where=lambda k: k.backend == "cython"):
        kernel = row.values[0]
        for p in cases.conv_pool_problems(kernel.pass_):
            if row.marks or kernel.cannot(p) is not None:
                continue
            plan = fastconv.dispatch.plan_for(p, kernel)
            for threads in (1, 2, 5):
                assert plan._run.workspace_nbytes(plan._lowered, threads) == kernel.workspace(p, threads), str(p)
