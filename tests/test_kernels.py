"""THE test: every row x every problem it can x every instruction set of this host, against the reference."""

import itertools
import shutil

import numpy as np
import pytest

from fastconv import host, reference
from fastconv.problem import ConvProblem
from fastconv.registry import KERNELS
from tests import cases, compare, rows


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems())
def test_row(kernel, isa, problem):
    with rows.use_isa(isa):
        rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)


# Sums of both signs, and of one: there rounding errors add up with the depth, so these stop at some 600 terms.
ROUNDING = (
    "mb1ic3ih7iw9oc5kh3ph1",
    "mb2ic8ih10iw9oc16kh3ph1",
    "mb1ic33ih9iw13oc17kh3",
    "mb1ic64ih4iw5oc60kh3ph1",
    "g4mb1ic64ih7iw6oc48kh3ph1",
    "mb1ic6ih12iw11oc20kh5kw4sh2sw3ph2",
    "mb1ic600ih3iw2oc9kh1",
    "mb2ic2ih17iw19oc3kh3kw2",
    "g18mb1ic18ih13iw29oc18kh3ph1",
    "g4mb1ic4ih19iw23oc8kh5sh2ph2",
)
DEEP = (
    "mb1ic512ih4iw5oc8kh3ph1",
    "mb1ic3000ih3iw2oc9kh1",
    "mb3ic2ih33iw31oc3kh3",
    "mb1ic5ih3iw4oc512kh3ph1",
    "g3mb3ic3ih33iw31oc3kh3ph1",
)


def rounding_problems(texts):
    def problems(op, pass_):
        if op != "conv2d":
            return []
        found = []
        for number, text in enumerate(texts):
            for dtype, layout in itertools.product(("float32", "float64"), ("NCHW", "NHWC")):
                epilogue = {} if pass_ == "backward_weight" else cases.EPILOGUES[number % len(cases.EPILOGUES)]
                found.append(ConvProblem.parse(text, pass_=pass_, dtype=dtype, layout=layout, **epilogue))
        return found

    return problems


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(rounding_problems(ROUNDING)))
def test_rounding(kernel, isa, problem, kind):
    with rows.use_isa(isa):
        rows.check_conv_rounding(rows.run_of(kernel, problem), problem, kernel.algorithm, kind)


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(rounding_problems(DEEP)))
def test_rounding_of_deep_sums(kernel, isa, problem):
    with rows.use_isa(isa):
        rows.check_conv_rounding(rows.run_of(kernel, problem), problem, kernel.algorithm)


def inexact_problems(op, pass_):
    return [p for p in cases.problems(op, pass_) if p.dtype != "int64"] if op == "conv2d" else []


@pytest.mark.parametrize(
    "kernel, isa, problem",
    rows.rows_and_problems(inexact_problems, lambda kernel, _: not compare.is_exact(kernel.algorithm)),
)
def test_winograd_of_integers_rounds_to_them(kernel, isa, problem):
    """The error of a tile on small integers is far below one half: nearer than any rule of rounding can tell."""
    y64, _ = rows.expected(problem, "integers")
    limit = compare.rounding_limit(rows.winograd_magnitude(problem, "integers"), problem.dtype, kernel.algorithm)
    assert limit.max(initial=0) < 0.5
    with rows.use_isa(isa):
        y = rows.conv_call(rows.run_of(kernel, problem), problem, rows.operands(problem, "integers"))
    compare.assert_exact(np.rint(y), y64, str(problem))


# ---------------------------------------------------------------------------------------------------------------
# NaN, Inf, subnormal numbers

SPECIAL_TEXTS = (
    "mb2ic3ih9iw8oc5kh3ph1",
    "mb1ic17ih7iw12oc9kh3ph2pw0",
    "g2mb1ic4ih10iw11oc6kh3sh2sw1ph1",
    "mb1ic2ih9iw33oc17kh2kw3dh2ph1",
    "g4mb1ic4ih9iw9oc8kh3ph1",
    "mb1ic8ih6iw7oc33kh1",
    "g6mb1ic6ih9iw19oc6kh3ph1",
    "g17mb1ic17ih8iw9oc34kh3sh2ph1",
    "g5mb1ic20ih7iw19oc20kh3ph1",
)


def special_problems(op, pass_):
    if op != "conv2d":
        return []
    return [
        ConvProblem.parse(text, pass_=pass_, dtype=dtype, layout=layout)
        for text in SPECIAL_TEXTS
        for dtype, layout in (("float32", "NCHW"), ("float32", "NHWC"), ("float64", "NHWC"))
    ]


def with_special(problem, name, values):
    """Operands with a few cells of x, w or dy replaced, at places drawn from the problem's name."""
    o = rows.operands(problem, "normal")
    arrays = {"x": o.x.copy(), "w": o.w.copy(), "y": o.y.copy()}
    flat = arrays[name].reshape(-1)
    places = np.random.default_rng(rows.seed_of(problem, name)).choice(flat.size, len(values), replace=False)
    flat[places] = values
    return rows.Operands(arrays["x"], arrays["w"], arrays["y"], o.bias, o.residual)


SPECIAL_VALUES = {"nan": (np.nan,), "inf": (np.inf,), "all": (np.nan, np.inf, -np.inf)}


@pytest.mark.parametrize("values", SPECIAL_VALUES)
@pytest.mark.parametrize("operand", ["image", "filter"])
@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(special_problems))
def test_nonfinite_set_is_that_of_the_plain_sum(kernel, isa, problem, operand, values):
    if operand == "filter":
        name = "y" if problem.pass_ == "backward_weight" else "w"
    else:
        name = "y" if problem.pass_ == "backward_input" else "x"
    o = with_special(problem, name, SPECIAL_VALUES[values])
    with rows.use_isa(isa):
        y = rows.conv_twice(rows.run_of(kernel, problem), problem, o)
    compare.assert_same_nonfinite(y, rows.by_reference(problem, o), str(problem))


def float_relu_problems(op, pass_):
    if op != "conv2d" or pass_ == "backward_weight":
        return []
    return [
        ConvProblem.parse("mb1ic3ih8iw9oc9kh3ph1", pass_=pass_, dtype=dtype, layout=layout, activation=act, bias=True)
        for dtype, layout in itertools.product(("float32", "float64"), ("NCHW", "NHWC"))
        for act in ("relu", ("clip", -1.0, 2.0))
    ]


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(float_relu_problems))
def test_activation_keeps_nan(kernel, isa, problem):
    o = with_special(problem, "y" if problem.pass_ == "backward_input" else "x", (np.nan,))
    wanted = rows.by_reference(problem, o)
    assert 0 < np.isnan(wanted).sum() < wanted.size
    with rows.use_isa(isa):
        y = rows.conv_call(rows.run_of(kernel, problem), problem, o)
    compare.assert_exact(np.isnan(y), np.isnan(wanted), str(problem))


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(special_problems))
def test_subnormal_weights(kernel, isa, problem):
    """A subnormal operand counts as itself or as zero, nothing else."""
    o = rows.operands(problem, "normal")
    small = np.finfo(problem.dtype).tiny / 64
    o = rows.Operands(o.x, (o.w * small).astype(problem.dtype), (o.y * small).astype(problem.dtype), None, None)
    y64 = rows.by_reference(problem, o)
    magnitude = np.zeros((1, 1, 1, 1))
    largest = max(float(np.abs(o.x).max()), 1.0)
    with rows.use_isa(isa):
        y = rows.conv_twice(rows.run_of(kernel, problem), problem, o)
    flushed = rows.terms(problem) * int(np.ceil(largest))
    # a Winograd tile flushes each of the values it shares
    flushed *= compare.F2X3_AMPLIFICATION if kernel.family == "winograd" else 1
    compare.assert_rounding(y, y64, magnitude, kernel.algorithm, str(problem), terms=flushed)


# ---------------------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------------------------------------------------------
# The oracle itself, and what is here to be tested


def definition(p, o):
    """The three sums of a convolution as a textbook writes them, cell by cell in Python's integers."""
    shape = rows.output_shape(p)
    out = np.zeros(shape, np.int64)
    for n, c, i, j in itertools.product(range(p.mb), range(p.oc), range(p.oh), range(p.ow)):
        for k, a, b in itertools.product(range(p.icg), range(p.kh), range(p.kw)):
            channel = c // p.ocg * p.icg + k
            row, col = i * p.sh + a * p.dh - p.ph, j * p.sw + b * p.dw - p.pw
            if not (0 <= row < p.ih and 0 <= col < p.iw):
                continue
            if p.pass_ == "forward":
                out[n, c, i, j] += o.x[n, channel, row, col] * o.w[c, k, a, b]
            elif p.pass_ == "backward_input":
                out[n, channel, row, col] += o.y[n, c, i, j] * o.w[c, k, a, b]
            else:
                out[c, k, a, b] += o.x[n, channel, row, col] * o.y[n, c, i, j]
    return out


@pytest.mark.parametrize("pass_", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize(
    "text",
    [
        "mb2ic3ih5iw4oc2kh3kw2",
        "mb1ic2ih5iw6oc3kh2kw3sh2sw3ph1pw2ph_r0pw_r1",
        "g2mb1ic4ih6iw5oc6kh3kw2dh2dw3ph2pw1",
        "g3mb2ic3ih4iw5oc6kh2ph1sh1sw2",
        "mb0ic2ih4iw3oc2kh2",
    ],
)
def test_reference_is_the_definition(text, pass_):
    problem = ConvProblem.parse(text, pass_=pass_, dtype="int64")
    o = rows.operands(problem, "integers")
    compare.assert_exact(rows.by_reference(problem, o), definition(problem, o), str(problem))


def test_every_row_has_a_problem():
    for kernel in KERNELS:
        able = [p for p in cases.problems(kernel.op, kernel.pass_) if kernel.cannot(p) is None]
        assert len(able) >= 10, kernel.name


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler on this machine")
def test_the_extension_is_built():
    """Where it can be built, it must be: else every compiled row would be skipped and the suite still be green."""
    assert host.extension_fault() is None


def test_reference_module_has_the_whole_table():
    wanted = {(k.op, k.pass_) for k in KERNELS}
    assert wanted == {(k.op, k.pass_) for k in KERNELS if hasattr(reference, k.name)}
