"""Problems: paddings, output sizes, the text grammar, the numbers derived from it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv import problem as p
from fastconv.problem import ConvProblem, PoolProblem, conv_problem, pool_problem, resolve_padding
from tests import cases


@pytest.mark.parametrize(
    "padding, expected",
    [
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        (np.int32(2), (2, 2, 2, 2)),
        ((1, 3), (1, 1, 3, 3)),
        ([1, 3], (1, 1, 3, 3)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        (((1, 2), (3, 4)), (1, 2, 3, 4)),
        ([[1, 2], [3, 4]], (1, 2, 3, 4)),
        ("valid", (0, 0, 0, 0)),
        ("VALID", (0, 0, 0, 0)),
    ],
)
def test_padding_forms(padding, expected):
    assert resolve_padding(padding, (9, 9), 3) == expected


@pytest.mark.parametrize("padding", [(1, 2, 3), ((1, 2),), ((1, 2), 3), ((1, 2, 3), (1, 2, 3)), "symmetric", (1,) * 5])
def test_padding_forms_refused(padding):
    with pytest.raises(ValueError, match="padding must be"):
        resolve_padding(padding, (9, 9), 3)


@pytest.mark.parametrize("padding", [1.5, (1.0, 1), None, True, "1"])
def test_padding_types_refused(padding):
    with pytest.raises((TypeError, ValueError), match="padding"):
        resolve_padding(padding, (9, 9), 3)


def test_three_frameworks_give_three_answers():
    """i = 224, k = 7, s = 2: ours is TensorFlow's and ONNX's SAME_UPPER; SAME_LOWER puts the odd cell first."""
    assert resolve_padding("same", (224, 224), 7, 2) == (2, 3, 2, 3)
    assert resolve_padding("same_upper", (224, 224), 7, 2) == (2, 3, 2, 3)
    assert resolve_padding("same_lower", (224, 224), 7, 2) == (3, 2, 3, 2)


@pytest.mark.parametrize("form", ["same", "same_lower"])
def test_same_gives_ceil_of_size_over_stride(form):
    for i, k, s, d in itertools.product((1, 2, 5, 8, 13), (1, 2, 3, 7), (1, 2, 3, 5), (1, 2)):
        top, bottom, left, right = resolve_padding(form, (i, i + 1), k, s, d)
        q = conv_problem("t", mb=1, ic=1, ih=i, iw=i + 1, oc=1, kh=k, kw=k, stride=s, padding=form, dilation=d)
        assert (q.oh, q.ow) == (-(-i // s), -(-(i + 1) // s))
        assert (q.ph, q.ph_r, q.pw, q.pw_r) == (top, bottom, left, right)
        if form == "same":
            assert 0 <= bottom - top <= 1 and 0 <= right - left <= 1
        else:
            assert 0 <= top - bottom <= 1 and 0 <= left - right <= 1


@pytest.mark.parametrize("pass_", p.PASSES)
def test_text_of_every_case_reads_back(pass_):
    for problem in cases.conv_problems(pass_):
        again = ConvProblem.parse(
            problem.text, pass_=pass_, dtype=problem.dtype, layout=problem.layout, bias=problem.bias,
            activation=problem.activation, residual=problem.residual,
        )  # fmt: skip
        assert again == problem and hash(again) == hash(problem)


def test_text_of_pools_reads_back():
    for op in p.POOL_OPS:
        for problem in cases.pool_problems(op, "forward"):
            again = PoolProblem.parse(
                problem.text, op, dtype=problem.dtype, layout=problem.layout, return_indices=problem.return_indices,
            )
            assert replace(
                again, count_h=problem.count_h, count_w=problem.count_w, divisor_override=problem.divisor_override,
                count_include_pad=problem.count_include_pad,
            ) == problem  # fmt: skip


@given(
    st.integers(1, 3), st.integers(0, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5),
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.tuples(*[st.integers(0, 5)] * 4),
    st.integers(1, 3), st.integers(1, 3),
)  # fmt: skip
def test_any_problem_reads_back(g, mb, ic, ih, iw, oc, kh, kw, sh, sw, pads, dh, dw):
    try:
        problem = conv_problem(
            "t", mb=mb, ic=g * ic, ih=ih, iw=iw, oc=g * oc, kh=kh, kw=kw, stride=(sh, sw), padding=pads,
            dilation=(dh, dw), groups=g,
        )  # fmt: skip
    except ValueError:
        assert (kh - 1) * dh + 1 > ih + pads[0] + pads[1] or (kw - 1) * dw + 1 > iw + pads[2] + pads[3]
        return
    assert ConvProblem.parse(problem.text) == problem
    assert problem.oh == len(range(-pads[0], ih + pads[1] - (kh - 1) * dh, sh))
    assert problem.ow == len(range(-pads[2], iw + pads[3] - (kw - 1) * dw, sw))


@pytest.mark.parametrize(
    "text, fault",
    [
        ("mb1ih3oc1kh1", "ic is missing"),
        ("ic1ih3oc1", "kh is missing"),
        ("ic1ih3oc1kh1zz4", "cannot read"),
        ("ic1ic2ih3oc1kh1", "given twice"),
        ("ic1ih3oc1kh1oh4", "oh is 3, not 4"),
        ("ic1ih3oc1kh1ph-1", "cannot read"),
        ("ic1ih5oc1kh1ph_r-1", "negative padding"),
        ("", "ic is missing"),
    ],
)
def test_texts_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        ConvProblem.parse(text)


def test_numbers():
    q = ConvProblem.parse("g2mb3ic4ih9iw7oc6kh3kw2sh2", layout="NHWC")
    assert (q.oh, q.ow, q.icg, q.ocg) == (4, 3, 2, 3)
    assert q.flops == 2 * 3 * 6 * 4 * 3 * 2 * 3 * 2
    assert q.bytes == 4 * (3 * 4 * 9 * 7 + 3 * 6 * 4 * 3 + 6 * 2 * 3 * 2)
    assert q.input_shape == (3, 9, 7, 4) and q.output_shape == (3, 4, 3, 6) and q.weight_shape == (3, 2, 2, 6)
    assert not q.depthwise and ConvProblem.parse("g4ic4ih3oc8kh1").depthwise
    assert "conv2d_forward g2mb3ic4ih9iw7oc6kh3kw2sh2sw2" in str(q).replace("sh2 ", "sh2sw2 ")


def test_problems_are_frozen():
    q = ConvProblem.parse("ic1ih3oc1kh1")
    with pytest.raises(AttributeError):
        q.mb = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        q.other = 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [2**31, 2**40])
def test_sizes_that_fit_64_bits_are_fine(size):
    assert conv_problem("t", mb=1, ic=1, ih=size, iw=1, oc=1, kh=1, kw=1).oh == size


@pytest.mark.parametrize(
    "sizes",
    [
        {"mb": 2**40, "ic": 2**30},
        {"mb": 2**63},
        {"ih": 2**62, "iw": 2},
        {"padding": 2**62},
        {"oc": 2**61},
        {"oc": 2**40, "mb": 2**30},
        {"kh": 2**62, "padding": 2**62},
        {"dilation": 2**62, "kh": 2},
        {"mb": 2**4000},
    ],
)
def test_sizes_that_overflow_are_refused(sizes):
    arguments = {"mb": 1, "ic": 1, "ih": 4, "iw": 4, "oc": 1, "kh": 1, "kw": 1, **sizes}
    with pytest.raises(ValueError, match=r"64 bits|does not fit"):
        conv_problem("t", **arguments)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_windows_start_inside(ceil_mode):
    """In ceil_mode a window may reach past the end, but starts inside the input or its padding at the start."""
    for i, k, s, low in itertools.product(range(1, 12), (1, 2, 3, 4), (1, 2, 3, 5), (0, 1)):
        if k > i + 2 * low or low >= k:
            continue
        q = pool_problem(
            "t", "max_pool2d", mb=1, c=1, ih=i, iw=i, kernel_size=k, stride=s, padding=low, ceil_mode=ceil_mode
        )
        assert (q.oh - 1) * s < i + low
        assert (q.oh - 1) * s + k <= i + low + q.ph_r
        if not ceil_mode:
            assert q.ph_r == low and q.oh == (i + 2 * low - k) // s + 1
        else:
            assert q.oh * s >= i + low or q.oh * s + k > i + 2 * low + s - 1


@pytest.mark.parametrize(
    "options, fault",
    [
        ({"kernel_size": 0}, "kernel_size must be at least 1"),
        ({"kernel_size": 2, "stride": 0}, "stride must be at least 1"),
        ({"kernel_size": 2, "padding": 2}, "padding 2 must be less than"),
        ({"kernel_size": 9}, "does not fit"),
        ({"kernel_size": 2, "divisor_override": 0}, "divisor_override must be at least 1"),
        ({"output": (0, 1)}, "output_size must be at least 1"),
    ],
)
def test_pools_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        pool_problem("t", "avg_pool2d", mb=1, c=1, ih=6, iw=6, **options)


def test_output_shape_is_what_conv2d_returns(rng):
    for problem in cases.conv_problems("forward")[::17]:
        x = np.zeros(problem.input_shape, np.float32)
        w = np.zeros(problem.weight_shape, np.float32)
        geometry = {
            "stride": (problem.sh, problem.sw), "padding": (problem.ph, problem.ph_r, problem.pw, problem.pw_r),
            "dilation": (problem.dh, problem.dw), "groups": problem.g, "layout": problem.layout,
        }  # fmt: skip
        shape = fastconv.output_shape(x.shape, w.shape, **geometry)
        assert shape == fastconv.conv2d(x, w, algorithm="reference", **geometry).shape == problem.output_shape
