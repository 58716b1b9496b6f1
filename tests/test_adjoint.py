"""Identities that need no oracle: the passes are each other's adjoints; delta, padding, groups, stride, linearity."""

import numpy as np
import pytest

import fastconv
from fastconv.problem import ConvProblem
from fastconv.registry import KERNELS
from tests import cases, compare, rows

TEXTS = (
    *cases.BASIC[2:40:3],
    *cases.THREE_BY_THREE[1:17:3],
    *cases.DEPTHWISE[1::3],
    *cases.GROUPED[::4],
    *cases.SWEEP[:6],
    *(t for t in cases.TRANSPOSED if "-" not in t),
)


def inner(a, b):
    """<a, b> in exact integers."""
    assert (a == np.rint(a)).all(), "the operands are integers, so every result is one"
    return int(np.sum(a.astype(np.int64) * b.astype(np.int64)))


def bilinear_form(kernel, isa, problem):
    """What the row makes of the three operands, as one number: the same in every pass."""
    o = rows.operands(problem, "integers")
    with rows.use_isa(isa):
        y = rows.conv_call(rows.run_of(kernel, problem), problem, o)
    if not compare.is_exact(kernel.algorithm):
        y = np.rint(y)  # exact, as test_kernels shows
    return inner(y, {"forward": o.y, "backward_input": o.x, "backward_weight": o.w}[kernel.pass_])


@pytest.mark.parametrize("number", range(len(TEXTS)), ids=TEXTS.__getitem__)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_every_row_of_every_pass_gives_the_same_bilinear_form(dtype, number):
    """<conv(x, w), dy> == <x, backward_input(dy, w)> == <w, backward_weight(x, dy)>, in integers."""
    forms, passes = {}, set()
    for row in rows.rows(op="conv2d"):
        kernel, isa = row.values
        layout = ("NCHW", "NHWC")[(number + len(forms)) % 2]
        problem = ConvProblem.parse(TEXTS[number], pass_=kernel.pass_, dtype=dtype, layout=layout)
        if not row.marks and kernel.cannot(problem) is None:
            forms[row.id] = bilinear_form(kernel, isa, problem)
            passes.add(kernel.pass_)
    assert len(passes) == 3
    assert len(set(forms.values())) == 1, forms


# ---------------------------------------------------------------------------------------------------------------
# What a convolution must do, through the public functions and each forward row

FORWARD = [k for k in KERNELS if (k.op, k.pass_) == ("conv2d", "forward")]
FORCED = [
    pytest.param(
        {"algorithm": k.algorithm, "backend": k.backend},
        id=k.name,
        marks=[pytest.mark.skip(reason=rows.fault(k))] if rows.fault(k) else [],
    )
    for k in FORWARD
    if compare.is_exact(k.algorithm) and k.algorithm not in ("depthwise", "grouped")  # not for all groups
]


def integers(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("forced", FORCED)
def test_delta_image_shows_the_filter_turned_around(forced):
    """One cell of the image set: the output is the filter around it, rows and columns reversed."""
    w = np.arange(1.0, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    x = np.zeros((1, 1, 7, 8), np.float32)
    x[0, 0, 3, 4] = 1
    y = fastconv.conv2d(x, w, padding=1, **forced)
    wanted = np.zeros((7, 8), np.float32)
    wanted[2:5, 3:6] = w[0, 0, ::-1, ::-1]
    compare.assert_exact(y[0, 0], wanted)


@pytest.mark.parametrize("forced", FORCED)
def test_delta_filter_shifts_the_image(forced, rng):
    x = integers(rng, 2, 3, 8, 9)
    for a, b in ((0, 0), (0, 2), (2, 1)):
        w = np.zeros((3, 3, 3, 3), np.float32)
        w[range(3), range(3), a, b] = 1
        compare.assert_exact(fastconv.conv2d(x, w, **forced), x[:, :, a : a + 6, b : b + 7])


@pytest.mark.parametrize("forced", FORCED)
def test_padding_is_an_explicitly_padded_image(forced, rng):
    x, w = integers(rng, 2, 3, 7, 6), integers(rng, 5, 3, 3, 3)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 1), (0, 3)))
    compare.assert_exact(
        fastconv.conv2d(x, w, padding=(2, 1, 0, 3), **forced), fastconv.conv2d(padded, w, **forced)
    )


@pytest.mark.parametrize("forced", FORCED)
def test_groups_are_a_concatenation(forced, rng):
    x, w = integers(rng, 2, 12, 6, 7), integers(rng, 9, 4, 3, 3)
    parts = [
        fastconv.conv2d(x[:, 4 * i : 4 * i + 4], w[3 * i : 3 * i + 3], padding=1, **forced) for i in range(3)
    ]
    compare.assert_exact(fastconv.conv2d(x, w, padding=1, groups=3, **forced), np.concatenate(parts, axis=1))


@pytest.mark.parametrize("forced", FORCED)
def test_linear_in_image_and_filter(forced, rng):
    x, v, w, u = (integers(rng, *s) for s in ((1, 4, 8, 9), (1, 4, 8, 9), (5, 4, 3, 3), (5, 4, 3, 3)))

    def conv(a, b):
        return fastconv.conv2d(a, b, padding=1, **forced)

    compare.assert_exact(conv(x + 2 * v, w), conv(x, w) + 2 * conv(v, w))
    compare.assert_exact(conv(x, w - 3 * u), conv(x, w) - 3 * conv(x, u))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("forced", [f for f in FORCED if "winograd" not in f.id])
def test_stride_is_a_slice_of_stride_one(forced, layout, rng):
    x, w = integers(rng, 2, 3, 11, 13), integers(rng, 5, 3, 3, 2)
    if layout == "NHWC":
        x, w = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0)
    dense = fastconv.conv2d(x, w, padding=1, layout=layout, **forced)
    for sh, sw in ((2, 1), (1, 3), (4, 5)):
        part = dense[:, :, ::sh, ::sw] if layout == "NCHW" else dense[:, ::sh, ::sw]
        compare.assert_exact(fastconv.conv2d(x, w, stride=(sh, sw), padding=1, layout=layout, **forced), part)


@pytest.mark.parametrize("forced", [f for f in FORCED if "winograd" not in f.id])
def test_dilation_is_a_filter_with_zeros_between(forced, rng):
    x, w = integers(rng, 1, 3, 12, 14), integers(rng, 4, 3, 3, 2)
    spread = np.zeros((4, 3, 5, 4), np.float32)
    spread[:, :, ::2, ::3] = w
    compare.assert_exact(
        fastconv.conv2d(x, w, dilation=(2, 3), **forced), fastconv.conv2d(x, spread, **forced)
    )


@pytest.mark.parametrize("forced", FORCED)
def test_layouts_agree(forced, rng):
    x, w = integers(rng, 2, 5, 7, 9), integers(rng, 6, 5, 3, 3)
    y = fastconv.conv2d(x, w, padding=(1, 2), **forced)
    z = fastconv.conv2d(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), padding=(1, 2), layout="NHWC", **forced)
    compare.assert_exact(z.transpose(0, 3, 1, 2), y)


@pytest.mark.parametrize("stride, padding, output_padding, dilation", [(2, 1, 1, 1), (3, 0, (2, 1), 1), (1, 2, 1, 3)])
def test_transposed_convolution_is_the_adjoint(stride, padding, output_padding, dilation, rng):
    """<conv(x), y> == <x, conv_transpose(y)> for the convolution that it transposes."""
    y, w = integers(rng, 2, 4, 5, 6), integers(rng, 4, 3, 3, 2)
    t = fastconv.conv_transpose2d(y, w, None, stride, padding, output_padding, 1, dilation)
    x = integers(rng, *t.shape)
    forward = fastconv.conv2d(x, w, None, stride, padding, dilation)[:, :, : y.shape[2], : y.shape[3]]
    # rows that output_padding added beyond the last stride give further outputs, which y does not have
    assert inner(forward, y[:, :, : forward.shape[2], : forward.shape[3]]) == inner(x, t)
