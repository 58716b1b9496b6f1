"""Bad input: the right exception with the shapes and the rule, one fault at a time, before anything else happens."""

import re
import tracemalloc

import numpy as np
import pytest

import fastconv
from fastconv import dispatch
from tests.calls import NAMES, calls

SENTINEL = -12345.0


@pytest.fixture
def no_kernel(monkeypatch):
    """No plan may be made or run, so no kernel is entered and no compiler either."""

    def refuse(*arguments, **options):
        raise AssertionError("a plan was made or run")

    monkeypatch.setattr(dispatch.Plan, "__call__", refuse)
    monkeypatch.setattr(np, "empty", refuse)
    monkeypatch.setattr(np, "zeros", refuse)


X = np.ones((2, 3, 8, 9), np.float32)
W = np.ones((4, 3, 3, 3), np.float32)
Y = np.ones((2, 4, 6, 7), np.float32)
T = np.ones((3, 4, 3, 3), np.float32)
OUT = np.full((2, 4, 6, 7), SENTINEL, np.float32)
INDICES = np.zeros((2, 3, 4, 4), np.int64)
POOLED = np.ones((2, 3, 4, 4), np.float32)


def huge(*shape, dtype=np.float32):
    """An array of any shape that takes no memory."""
    return np.broadcast_to(dtype(1), shape)


def objects(array):
    return array.astype(object)


# name -> (function, arguments, options, exception, what the message must hold)
conv2d, backward = fastconv.conv2d, fastconv.conv2d_backward
CASES = {
    # channels, rank, layout
    "channels": (conv2d, (np.ones((2, 5, 8, 9), "f4"), W), {}, ValueError, ["(4, 3, 3, 3)", "(2, 5, 8, 9)", "3 input"]),
    "channels of groups": (conv2d, (X, W), {"groups": 2}, ValueError, ["groups=2", "6 input channels"]),
    "NHWC given as NCHW": (
        conv2d, (np.ones((64, 28, 28, 1), "f4"), np.ones((32, 1, 3, 3), "f4")), {}, ValueError,
        ["weight (32, 1, 3, 3) expects 1 input channel (groups=1), but input (64, 28, 28, 1) has 28 at axis 1",
         'layout="NCHW"', 'pass layout="NHWC"?'],
    ),
    "NCHW given as NHWC": (
        conv2d, (np.ones((2, 3, 8, 9), "f4"), np.ones((3, 3, 3, 4), "f4")), {"layout": "NHWC"}, ValueError,
        ["has 9 at axis 3", 'pass layout="NCHW"?'],
    ),
    "NHWC image, HWIO weight, no layout": (
        conv2d, (np.ones((2, 28, 28, 5), "f4"), np.ones((3, 3, 5, 32), "f4")), {}, ValueError, ['layout="NHWC"?'],
    ),
    "groups do not divide outputs": (
        conv2d, (np.ones((1, 4, 5, 5), "f4"), np.ones((3, 2, 3, 3), "f4")), {"groups": 2}, ValueError,
        ["groups=2", "3 output channels"],
    ),
    "rank of input": (conv2d, (np.ones((8, 9), "f4"), W), {}, ValueError, ["3 or 4 axes", "(8, 9)"]),
    "rank 5 of input": (conv2d, (np.ones((1, 2, 3, 8, 9), "f4"), W), {}, ValueError, ["3 or 4 axes"]),
    "rank of weight": (conv2d, (X, W[0]), {}, ValueError, ["4 axes", "(3, 3, 3)"]),
    "no output channels": (conv2d, (X, W[:0]), {}, ValueError, ["output channels must be at least 1", "0"]),
    "no input channels": (
        conv2d, (X[:, :0], W[:, :0]), {}, ValueError, ["input channels must be at least 1"],
    ),
    "no filter cells": (conv2d, (X, W[..., :0]), {}, ValueError, ["filter width must be at least 1"]),
    "layout": (conv2d, (X, W), {"layout": "CHWN"}, ValueError, ['"NCHW" or "NHWC"', "CHWN"]),
    # dtypes
    "complex": (conv2d, (X.astype(complex), W), {}, TypeError, ["real numbers", "complex128"]),
    "objects": (conv2d, (objects(X), W), {}, TypeError, ["real numbers", "object"]),
    "objects as weight": (conv2d, (X, objects(W)), {}, TypeError, ["weight", "object"]),
    "strings": (conv2d, (X.astype(str), W), {}, TypeError, ["real numbers"]),
    "dates": (conv2d, (X.astype("M8[s]"), W), {}, TypeError, ["real numbers"]),
    "structs": (conv2d, (np.ones((1, 3, 8, 9), [("a", "f4")]), W), {}, TypeError, ["real numbers"]),
    "long double": (conv2d, (X.astype(np.longdouble), W), {}, TypeError, ["float32 and float64"]),
    "uint64": (conv2d, (X.astype(np.uint64), W.astype(int)), {}, TypeError, ["uint64"]),
    "ragged": (conv2d, ([[[[1, 2], [3]]]], W), {}, TypeError, ["cannot be read as an array"]),
    "nothing": (conv2d, (None, W), {}, TypeError, ["input"]),
    "float bias of integers": (
        conv2d, (X.astype(int), W.astype(int), np.ones(4)), {}, TypeError, ["bias", "float64", "integers"],
    ),
    "float residual of integers": (
        conv2d, (X.astype(int), W.astype(int)), {"residual": Y}, TypeError, ["residual", "integers"],
    ),
    # numbers
    "negative padding": (conv2d, (X, W), {"padding": -1}, ValueError, ["padding must be at least 0", "-1"]),
    "one negative padding": (conv2d, (X, W), {"padding": (0, 0, -1, 0)}, ValueError, ["padding must be at least 0"]),
    "float padding": (conv2d, (X, W), {"padding": 0.5}, TypeError, ["padding must be an int", "0.5"]),
    "three paddings": (conv2d, (X, W), {"padding": (1, 1, 1)}, ValueError, ["four values"]),
    "padding word": (conv2d, (X, W), {"padding": "full"}, ValueError, ["valid", "same_lower", "full"]),
    "zero stride": (conv2d, (X, W), {"stride": 0}, ValueError, ["stride must be at least 1", "0"]),
    "zero stride on one axis": (conv2d, (X, W), {"stride": (1, 0)}, ValueError, ["stride must be at least 1"]),
    "negative stride": (conv2d, (X, W), {"stride": -2}, ValueError, ["stride must be at least 1", "-2"]),
    "three strides": (conv2d, (X, W), {"stride": (1, 1, 1)}, ValueError, ["pair (height, width)"]),
    "float stride": (conv2d, (X, W), {"stride": 1.0}, TypeError, ["stride must be an int"]),
    "bool stride": (conv2d, (X, W), {"stride": True}, TypeError, ["stride must be an int", "True"]),
    "stride of None": (conv2d, (X, W), {"stride": None}, TypeError, ["stride"]),
    "zero dilation": (conv2d, (X, W), {"dilation": 0}, ValueError, ["dilation must be at least 1"]),
    "zero groups": (conv2d, (X, W), {"groups": 0}, ValueError, ["groups must be at least 1"]),
    "float groups": (conv2d, (X, W), {"groups": 1.5}, TypeError, ["groups must be an int"]),
    "padding mode": (conv2d, (X, W), {"padding_mode": "mirror"}, ValueError, ["padding_mode", "circular", "mirror"]),
    "reflect too wide": (
        conv2d, (X, W), {"padding": 8, "padding_mode": "reflect"}, ValueError, ["reflect", "at most 7", "height 8"],
    ),
    "circular too wide": (
        conv2d, (X, W), {"padding": 9, "padding_mode": "circular"}, ValueError, ["circular", "at most 8"],
    ),
    "activation": (conv2d, (X, W), {"activation": "gelu"}, ValueError, ["activation must be", "gelu"]),
    "clip upside down": (conv2d, (X, W), {"activation": ("clip", 2, 1)}, ValueError, ["low <= high"]),
    "clip of NaN": (conv2d, (X, W), {"activation": ("clip", np.nan, 1)}, ValueError, ["low <= high"]),
    # sizes
    "filter does not fit": (conv2d, (X, np.ones((4, 3, 9, 3), "f4")), {}, ValueError, ["height 8", "= 8", "= 9"]),
    "dilated filter does not fit": (
        conv2d, (X, W), {"dilation": (1, 5)}, ValueError, ["width 9", "dilation 5", "= 11"],
    ),
    "empty image": (conv2d, (X[:, :, :0], W), {}, ValueError, ["does not fit", "height 0"]),
    "output too large": (
        conv2d, (X, np.ones((4, 3, 1, 1), "f4")), {"padding": 2**40}, ValueError, ["64 bits", "elements of 4 bytes"],
    ),
    "padding beyond 64 bits": (conv2d, (X, W), {"padding": 2**64}, ValueError, ["64 bits"]),
    "dilation beyond 64 bits": (conv2d, (X, W), {"dilation": 2**62}, ValueError, ["does not fit"]),
    "stride beyond 64 bits": (conv2d, (X, W), {"stride": 10**30}, ValueError, ["64 bits"]),
    # bias and residual
    "length of bias": (conv2d, (X, W, np.ones(3, "f4")), {}, ValueError, ["bias must have shape (4,)", "(3,)"]),
    "rank of bias": (conv2d, (X, W, np.ones((1, 4), "f4")), {}, ValueError, ["bias must have shape (4,)"]),
    "shape of residual": (
        conv2d, (X, W), {"residual": Y[:1]}, ValueError, ["residual", "(2, 4, 6, 7)", "(1, 4, 6, 7)"],
    ),
    # names
    "algorithm": (conv2d, (X, W), {"algorithm": "fft"}, ValueError, ["algorithm must be", "im2col", "'fft'"]),
    "backend": (conv2d, (X, W), {"backend": "cudnn"}, ValueError, ["backend must be", "numba", "'cudnn'"]),
    "precision": (conv2d, (X, W), {"precision": "half"}, ValueError, ["precision must be", "'half'"]),
    "zero precision": (conv2d, (X, W), {"precision": 0}, ValueError, ["precision must be"]),
    "negative workspace": (conv2d, (X, W), {"max_workspace": -1}, ValueError, ["max_workspace", "-1"]),
    "float workspace": (conv2d, (X, W), {"max_workspace": 1e6}, ValueError, ["max_workspace"]),
    "winograd of 4x4": (
        conv2d, (X, np.ones((4, 3, 4, 4), "f4")), {"algorithm": "winograd"}, fastconv.NoKernelError,
        ["conv2d_forward_winograd_f4x3__cython", "3x3 filter, got 4x4"],
    ),
    # gradients
    "grad_output of input gradient": (
        fastconv.conv2d_input, (X.shape, W, Y[:, :, :-1]), {}, ValueError, ["(2, 4, 5, 7)", "(2, 4, 6, 7)"],
    ),
    "grad_output of weight gradient": (
        fastconv.conv2d_weight, (X, W.shape, Y[:, :3]), {}, ValueError, ["(2, 3, 6, 7)", "(2, 4, 6, 7)"],
    ),
    "input_size": (fastconv.conv2d_input, ((3, 8), W, Y), {}, ValueError, ["input_size", "3 or 4"]),
    "negative input_size": (fastconv.conv2d_input, ((2, 3, -8, 9), W, Y), {}, ValueError, ["input_size", "at least 0"]),
    "weight_size": (fastconv.conv2d_weight, (X, (4, 3, 3), Y), {}, ValueError, ["weight_size", "4 axes"]),
    "float weight_size": (fastconv.conv2d_weight, (X, (4, 3, 3, 3.0), Y), {}, TypeError, ["weight_size"]),
    "backward": (backward, (Y[:1], X, W), {}, ValueError, ["grad_output", "(1, 4, 6, 7)"]),
    "backward objects": (backward, (objects(Y), X, W), {}, TypeError, ["grad_output", "object"]),
    # transposed
    "transposed channels": (
        fastconv.conv_transpose2d, (X, W), {}, ValueError, ["expects 4 input channels", "(2, 3, 8, 9)"],
    ),
    "output_padding": (
        fastconv.conv_transpose2d, (X, T), {"stride": 2, "output_padding": 2}, ValueError,
        ["output_padding must be less than stride or dilation", "2"],
    ),
    "negative output_padding": (
        fastconv.conv_transpose2d, (X, T), {"output_padding": -1}, ValueError, ["output_padding", "at least 0"],
    ),
    "transposed to nothing": (
        fastconv.conv_transpose2d, (X[:, :, :1], T), {"padding": 2}, ValueError, ["would be", "= -1"],
    ),
    "transposed with words": (
        fastconv.conv_transpose2d, (X, T), {"padding": "same"}, ValueError, ["padding must be given as numbers"],
    ),
    "transposed overflow": (
        fastconv.conv_transpose2d, (X, T), {"stride": 2**61}, ValueError, ["64 bits"],
    ),
    # 1-D
    "conv1d rank": (fastconv.conv1d, (X, W[0]), {}, ValueError, ["2 or 3 axes"]),
    "conv1d layout": (fastconv.conv1d, (X[0], W[0]), {"layout": "NCHW"}, ValueError, ["NCW", "NWC"]),
    "conv1d channels": (fastconv.conv1d, (X[0, :2], W[0]), {}, ValueError, ["channels"]),
    # pools
    "pool rank": (fastconv.max_pool2d, (X[0, 0], 2), {}, ValueError, ["3 or 4 axes"]),
    "pool kernel": (fastconv.max_pool2d, (X, 0), {}, ValueError, ["kernel_size must be at least 1"]),
    "pool stride": (fastconv.max_pool2d, (X, 2, 0), {}, ValueError, ["stride must be at least 1"]),
    "pool padding": (fastconv.max_pool2d, (X, 2, 2, 2), {}, ValueError, ["padding 2 must be less than the window"]),
    "pool fit": (fastconv.avg_pool2d, (X, 10), {}, ValueError, ["does not fit"]),
    "pool integers": (fastconv.avg_pool2d, (X.astype(int), 2), {}, TypeError, ["average of integers"]),
    "pool objects": (fastconv.max_pool2d, (objects(X), 2), {}, TypeError, ["object"]),
    "pool divisor": (fastconv.avg_pool2d, (X, 2), {"divisor_override": 0}, ValueError, ["divisor_override"]),
    "pool layout": (fastconv.max_pool2d, (X, 2), {"layout": "nhwc"}, ValueError, ["layout"]),
    "adaptive size": (fastconv.adaptive_avg_pool2d, (X, 0), {}, ValueError, ["output_size must be at least 1"]),
    "adaptive pair": (fastconv.adaptive_max_pool2d, (X, (1, 2, 3)), {}, ValueError, ["output_size"]),
    "index too large": (
        fastconv.max_pool2d_backward, (POOLED, X.shape, INDICES + 72, 2), {}, ValueError, ["[0, 72)", "72 to 72"],
    ),
    "index too small": (
        fastconv.max_pool2d_backward, (POOLED, X.shape, INDICES - 1, 2), {}, ValueError, ["[0, 72)", "-1"],
    ),
    "float indices": (
        fastconv.max_pool2d_backward, (POOLED, X.shape, INDICES.astype("f4"), 2), {}, TypeError, ["integers"],
    ),
    "shape of indices": (
        fastconv.max_pool2d_backward, (POOLED, X.shape, INDICES[:1], 2), {}, ValueError, ["indices", "(1, 3, 4, 4)"],
    ),
    "pool gradient": (
        fastconv.avg_pool2d_backward, (POOLED, X.shape, 3), {}, ValueError, ["(2, 3, 4, 4)", "(2, 3, 2, 3)"],
    ),
    "unpool index": (fastconv.max_unpool2d, (POOLED, INDICES + 64, 2), {}, ValueError, ["[0, 64)"]),
    "lp norm": (fastconv.lp_pool2d, (X, 0, 2), {}, ValueError, ["norm_type must be positive"]),
    # shapes without arrays
    "output_shape": (fastconv.output_shape, ((2, 5, 8, 9), W.shape), {}, ValueError, ["(2, 5, 8, 9)", "3 input"]),
    "output_shape rank": (fastconv.output_shape, ((8, 9), W.shape), {}, ValueError, ["3 or 4 axes"]),
    "explain": (fastconv.explain, (X.shape, W.shape), {"stride": 0}, ValueError, ["stride"]),
    "plan": (fastconv.plan_conv2d, ((2, 5, 8, 9), W), {}, ValueError, ["3 input channels"]),
    "plan rank": (fastconv.plan_conv2d, ((3, 8, 9), W), {}, ValueError, ["4 axes"]),
    "tune": (fastconv.tune, (X.shape, W.shape), {"dilation": -1}, ValueError, ["dilation"]),
    "threads": (fastconv.set_num_threads, (0,), {}, ValueError, ["at least 1"]),
    "float threads": (fastconv.set_num_threads, (1.5,), {}, TypeError, ["int"]),
}  # fmt: skip


# A kernel looks at each index when it uses it: one pass over them, not two.
FOUND_BY_A_KERNEL = ("index too large", "index too small")


def check_fault(name):
    function, arguments, options, exception, words = CASES[name]
    with pytest.raises(exception) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert re.match(r"[\w]+:|no kernel can compute", message), f"it opens with the function's name: {message}"
    assert not isinstance(caught.value, fastconv.NoKernelError) or exception is fastconv.NoKernelError


@pytest.mark.parametrize("name", [name for name in CASES if name not in FOUND_BY_A_KERNEL])
def test_one_fault(name, no_kernel):
    check_fault(name)


@pytest.mark.parametrize("name", FOUND_BY_A_KERNEL)
def test_fault_found_by_a_kernel(name):
    check_fault(name)


FAULTY_CONV2D = [n for n, (f, *_) in CASES.items() if f is conv2d]


@pytest.mark.parametrize("name", FAULTY_CONV2D)
def test_out_is_untouched(name):
    """Whatever is wrong elsewhere, nothing is written to out."""
    _, arguments, options, exception, _ = CASES[name]
    out = np.full((2, 4, 6, 7), SENTINEL, np.float32)
    with pytest.raises(exception):
        conv2d(*arguments, **options, out=out)
    assert (out == SENTINEL).all()


def zero_stride(shape):
    return np.lib.stride_tricks.as_strided(np.full(shape[-1], SENTINEL, "f4"), shape, (0, 0, 0, 4))


def overlapping(shape):
    size = sum(shape)
    return np.lib.stride_tricks.as_strided(np.full(size, SENTINEL, "f4"), shape, (4, 4, 4, 4))


def frozen(array):
    array.flags.writeable = False
    return array


BAD_OUT = {
    "shape": (lambda: np.full((2, 4, 6, 8), SENTINEL, "f4"), ValueError, ["(2, 4, 6, 8)", "(2, 4, 6, 7)"]),
    "rank": (lambda: np.full((1, 2, 4, 6, 7), SENTINEL, "f4"), ValueError, ["out has shape"]),
    "dtype": (lambda: np.full((2, 4, 6, 7), SENTINEL), TypeError, ["float64", "float32"]),
    "integers": (lambda: np.full((2, 4, 6, 7), -1), TypeError, ["int64", "float32"]),
    "read-only": (lambda: frozen(np.full((2, 4, 6, 7), SENTINEL, "f4")), ValueError, ["read-only"]),
    "stride 0": (lambda: zero_stride((2, 4, 6, 7)), ValueError, ["share one place"]),
    "overlapping itself": (lambda: overlapping((2, 4, 6, 7)), ValueError, ["share one place"]),
    "list": (lambda: [[0.0] * 7], TypeError, ["NumPy array", "list"]),
    "masked": (lambda: np.ma.masked_array(np.full((2, 4, 6, 7), SENTINEL, "f4")), TypeError, ["NumPy array"]),
    "memoryview": (lambda: memoryview(np.full((2, 4, 6, 7), SENTINEL, "f4")), TypeError, ["NumPy array"]),
}


@pytest.mark.parametrize("name", BAD_OUT)
def test_wrong_out(name, no_kernel):
    make, exception, words = BAD_OUT[name]
    out = make()
    with pytest.raises(exception) as caught:
        conv2d(X, W, out=out)
    for word in words:
        assert word in str(caught.value)
    if isinstance(out, np.ndarray):
        assert (np.asarray(out) == (SENTINEL if out.dtype.kind == "f" else -1)).all()


@pytest.mark.parametrize("which", ["input", "weight", "bias", "residual"])
def test_out_that_shares_memory_with_an_input(which):
    memory = np.ones(4 * 4 * 4 * 4 + 64, np.float32)
    big = memory[:256].reshape(4, 4, 4, 4)
    arrays = {
        "input": np.ones((4, 4, 4, 4), "f4"), "weight": np.ones((4, 4, 1, 1), "f4"), "bias": np.ones(4, "f4"),
        "residual": np.ones((4, 4, 4, 4), "f4"),
    }  # fmt: skip
    shared = {"input": big, "residual": big, "weight": memory[240:256].reshape(4, 4, 1, 1), "bias": memory[:4]}
    arrays[which] = shared[which]
    before = memory.copy()
    with pytest.raises(ValueError, match=f"out shares memory with {which}"):
        conv2d(arrays["input"], arrays["weight"], arrays["bias"], residual=arrays["residual"], out=big)
    assert (memory == before).all()


def test_wrong_out_of_every_function(rng):
    for name in NAMES:
        call = calls(rng)[name]
        y = call(None)
        for bad, exception in ((np.empty((*y.shape[:-1], y.shape[-1] + 1), y.dtype), ValueError),
                               (y.astype("f8"), TypeError), (frozen(y.copy()), ValueError)):  # fmt: skip
            before = bad.tobytes()
            with pytest.raises(exception, match="out"):
                call(bad)
            assert bad.tobytes() == before, name


@pytest.mark.parametrize(
    "call",
    [
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 63, 3, 3)),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 64, 3, 3), padding=-1),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 64, 3, 3), stride=0),
        lambda: conv2d(huge(1 << 36, 64, 1024, 1024), huge(64, 64, 3, 3)),
        lambda: conv2d(huge(1, 1, 1 << 20, 1 << 20), huge(1 << 24, 1, 1, 1)),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 64, 3, 3), np.ones(5, "f4")),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024, dtype=np.complex64), huge(64, 64, 3, 3)),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 64, 3, 3), out=OUT),
        lambda: conv2d(huge(1 << 20, 64, 1024, 1024), huge(64, 64, 3, 3), padding=9, padding_mode="bad"),
        lambda: fastconv.conv2d_input((1 << 20, 64, 1024, 1024), W, Y),
        lambda: fastconv.conv2d_weight(X, (1 << 30, 3, 3, 3), Y),
        lambda: fastconv.max_pool2d(huge(1 << 20, 64, 1024, 1024), 0),
        lambda: fastconv.max_pool2d(huge(1 << 36, 64, 1024, 1024), 2),
        lambda: fastconv.max_unpool2d(POOLED, INDICES + 10**9, 2),
    ],
)
def test_nothing_is_allocated(call):
    """Sizes of many gigabytes, refused in no time and no space."""
    fastconv.clear_cache()
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, TypeError)):
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_failed_call_leaves_nothing_behind():
    for _ in range(3):
        with pytest.raises(ValueError, match="does not fit"):
            conv2d(X, W, dilation=5)
        assert (conv2d(X, W, algorithm="naive") == 27).all()


def test_arguments_that_compare_equal_are_not_confused():
    """1, True and 1.0 are one key of a dict; the plan cache must not take one for the other."""
    assert conv2d(X, W, stride=1).shape == (2, 4, 6, 7)
    for stride in (True, 1.0, np.float64(1)):
        with pytest.raises(TypeError, match="stride must be an int"):
            conv2d(X, W, stride=stride)
    assert conv2d(X, W, stride=np.int64(1)).shape == conv2d(X, W, stride=[1, 1]).shape == (2, 4, 6, 7)
    for stride in ((True, 1), (1, 1.0), [1.0, 1]):
        with pytest.raises(TypeError, match="stride must be an int"):
            conv2d(X, W, stride=stride)
