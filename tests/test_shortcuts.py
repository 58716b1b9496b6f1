"""Calls that came before take the short way: the same bits, the same refusals, and nothing remembered too long."""

import os
import re
import threading

import numpy as np
import pytest

import fastconv
from fastconv import autotune, dispatch, host
from fastconv.functional import convolution, pooling
from fastconv.functional.shortcuts import Shortcut, nothing
from tests import compare
from tests.test_arrays import FORMS

pytestmark = pytest.mark.skipif(host.backend_fault("cython") is not None, reason="the compiled extension is not here")


class Spy:
    """Counts how a function's calls were answered."""

    def __init__(self, shortcut):
        self.shortcut = shortcut
        self.answer = shortcut.call
        self.taken = self.refused = 0
        shortcut.call = self

    def __call__(self, *arguments):
        y = self.answer(*arguments)
        self.taken += y is not None
        self.refused += y is None
        return y


SHORTCUTS = {
    fastconv.conv2d: convolution._shortcut,
    fastconv.max_pool2d: pooling._max_pool2d,
    fastconv.avg_pool2d: pooling._avg_pool2d,
    fastconv.adaptive_avg_pool2d: pooling._adaptive_avg_pool2d,
}


@pytest.fixture
def spies(monkeypatch):
    """One for each function, which stays when a call is remembered."""
    fastconv.clear_cache()
    image, weight = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 1, 1), np.float32)
    fastconv.conv2d(image, weight, algorithm="im2col")
    for pool in (fastconv.max_pool2d, fastconv.avg_pool2d, fastconv.adaptive_avg_pool2d):
        pool(image, 1, algorithm="direct")
    before = [(shortcut, shortcut.call) for shortcut in SHORTCUTS.values()]
    spies = {function: Spy(shortcut) for function, shortcut in SHORTCUTS.items()}
    remember = Shortcut.remember

    def keep_the_spy(shortcut, *arguments):
        spy = shortcut.call
        remember(shortcut, *arguments)
        shortcut.call = spy

    monkeypatch.setattr(Shortcut, "remember", keep_the_spy)
    yield spies
    for shortcut, call in before:
        shortcut.call = call


@pytest.fixture
def spy(spies):
    return spies[fastconv.conv2d]


def long_way(*arguments, function=fastconv.conv2d, **options):
    """The same call with all its checks."""
    shortcut = SHORTCUTS[function]
    before = shortcut.call
    shortcut.call = nothing
    try:
        return function(*arguments, **options)
    finally:
        shortcut.call = before


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def check(spy, x, w, *arguments, **options):
    """The second call takes the short way and gives the bits of the long one."""
    fastconv.conv2d(x, w, *arguments, **options)
    taken = spy.taken
    y = fastconv.conv2d(x, w, *arguments, **options)
    assert spy.taken == taken + 1
    wanted = long_way(x, w, *arguments, **options)
    assert y.shape == wanted.shape and y.dtype == wanted.dtype
    compare.assert_same_bits(y, wanted)
    return y


X, W = normal(2, 4, 9, 8), normal(6, 4, 3, 3)
BIAS = normal(6)
# one argument of the call at a time; all differ in their result from the call without
VARIATIONS = {
    "plain": {},
    "bias": {"bias": BIAS},
    "stride": {"stride": 2},
    "stride pair": {"stride": (1, 2)},
    "stride pair turned": {"stride": (2, 1)},
    "padding": {"padding": 1},
    "padding pair": {"padding": (1, 0)},
    "padding pair turned": {"padding": (0, 1)},
    "padding four": {"padding": (1, 0, 0, 0)},
    "padding bottom": {"padding": (0, 1, 0, 0)},
    "padding left": {"padding": (0, 0, 1, 0)},
    "padding right": {"padding": (0, 0, 0, 1)},
    "padding same": {"padding": "same"},
    "padding same, no literal": {"padding": "".join(["sa", "me"])},
    "dilation": {"dilation": 2},
    "dilation pair": {"dilation": (1, 2)},
    "dilation pair turned": {"dilation": (2, 1)},
    "relu": {"activation": "relu"},
    "relu6": {"activation": "relu6"},
    "clip": {"activation": ("clip", -1.0, 1.5)},
    "other clip": {"activation": ("clip", -1.0, 2.5)},
    "residual": {"residual": normal(2, 6, 7, 6)},
    "precision": {"precision": "strict"},
    "precision number": {"precision": 1e-3},
    "im2col": {"algorithm": "im2col"},
    "winograd_f2x3": {"algorithm": "winograd_f2x3"},
    "winograd_f4x3": {"algorithm": "winograd_f4x3", "precision": 1e-3},
    "backend": {"backend": "cython"},
    "max_workspace": {"max_workspace": 10**9},
}


def variations():
    for name, options in VARIATIONS.items():
        yield name, (X, W), options
    yield "float64", (X.astype(np.float64), W.astype(np.float64)), {}
    yield "one image", (X[1], W), {}
    yield "batch", (X[:1], W), {}
    yield "input height", (X[:, :, :7].copy(), W), {}
    yield "input width", (X[..., :7].copy(), W), {}
    yield "output channels", (X, W[:5]), {}
    yield "filter height", (X, W[:, :, :2]), {}
    yield "filter width", (X, W[..., :2]), {}
    yield "weight turned around", (X, W[:, :, ::-1, ::-1]), {}
    yield "weight in another order", (X, W.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)), {}
    yield "groups", (X, W[:, :2].copy()), {"groups": 2}
    yield "depthwise", (X, W[:4, :1].copy()), {"groups": 4}
    nhwc = X.transpose(0, 2, 3, 1).copy()
    yield "NHWC", (nhwc, W.transpose(2, 3, 1, 0).copy()), {"layout": "NHWC"}
    yield "NHWC, one image", (nhwc[0], W.transpose(2, 3, 1, 0).copy()), {"layout": "NHWC"}
    yield "NHWC, OIHW weight", (nhwc, W.transpose(2, 3, 1, 0)), {"layout": "NHWC", "bias": BIAS, "activation": "relu"}


def test_every_argument_is_part_of_the_key(spy):
    """Each call after each other one, in one table: it is served as itself."""
    calls = [(name, arrays, options, long_way(*arrays, **options)) for name, arrays, options in variations()]
    for first, first_arrays, first_options, _ in calls:
        for name, arrays, options, wanted in calls:
            fastconv.conv2d(*first_arrays, **first_options)
            y = fastconv.conv2d(*arrays, **options)
            assert y.shape == wanted.shape and y.dtype == wanted.dtype, (first, name)
            assert y.tobytes() == wanted.tobytes(), (first, name)
    assert spy.taken > len(calls) ** 2


@pytest.mark.parametrize("case", list(variations()), ids=lambda case: case[0])
def test_the_second_call_takes_the_short_way(spy, case):
    _, arrays, options = case
    y = check(spy, *arrays, **options)
    out = np.full_like(y, np.nan)
    taken = spy.taken
    assert fastconv.conv2d(*arrays, **options, out=out) is out and spy.taken == taken + 1
    compare.assert_same_bits(out, y)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": np.int64(2)}, {"stride": [2, 2]}, {"padding": ((1, 0), (0, 1))}, {"padding": [1, 1]},
        {"padding_mode": "reflect", "padding": 1}, {"groups": np.int32(1)}, {"activation": ["clip", 0, 1]},
        {"precision": np.float64(1e-3)}, {"algorithm": "naive"}, {"algorithm": "reference"},
        {"bias": BIAS.astype(np.float64)}, {"bias": list(BIAS)},
    ],
    ids=str,
)  # fmt: skip
def test_unusual_arguments_take_the_long_way(spy, options):
    fastconv.conv2d(X, W, **{k: v for k, v in options.items() if k == "padding_mode"})
    taken = spy.taken
    for _ in range(3):
        y = fastconv.conv2d(X, W, **options)
    compare.assert_same_bits(y, long_way(X, W, **options))
    if not isinstance(options.get("stride", options.get("padding")), list):  # a list is read as a tuple
        assert spy.taken == taken


@pytest.mark.parametrize(
    "options, error",
    [
        ({"stride": True}, "stride"),
        ({"stride": 1.0}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"stride": (1, 1.0)}, "stride"),
        ({"stride": 2**70}, None),
        ({"padding": True}, "padding"),
        ({"dilation": (1, True)}, "dilation"),
        ({"groups": True}, "groups"),
        ({"groups": 1.0}, "groups"),
        ({"layout": "nchw"}, "layout"),
        ({"activation": "tanh"}, "activation"),
        ({"max_workspace": -1}, "max_workspace"),
        ({"max_workspace": True}, "max_workspace"),
        ({"algorithm": "fft"}, "algorithm"),
        ({"padding_mode": "zero"}, "zero"),
        ({"precision": 0}, "precision"),
        ({"precision": True}, "precision"),
        ({"padding": ()}, "padding"),
    ],
)
def test_no_earlier_call_makes_a_fault_pass(spy, options, error):
    """1 == 1.0 == True, but not as an argument."""
    for usual in ({}, {"stride": 1}, {"precision": 1.0}, {"max_workspace": 1 << 30}, {"stride": (1, 1)}):
        check(spy, X, W, **usual)
    with pytest.raises((TypeError, ValueError), match=error):
        fastconv.conv2d(X, W, **options)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_every_form_after_plain_ones(spy, form):
    """A remembered call is of a shape, not of a form: 48 forms of each array against the long way."""
    rng = np.random.default_rng(1)
    x, w, b, r = (rng.integers(-3, 4, s).astype(np.float32) for s in ((2, 5, 9, 12), (6, 5, 3, 2), (6,), (2, 6, 7, 11)))
    wanted = check(spy, x, w, b, residual=r)
    plan = fastconv.plan_conv2d(x.shape, w, b, residual=True)
    make = FORMS[form]
    many = make(b.reshape(6, 1, 1, 1))
    bias = np.asarray(many).reshape(6)
    for arguments in ((make(x), w, b, r), (x, make(w), b, r), (x, w, bias, r), (x, w, b, make(r))):
        compare.assert_exact(fastconv.conv2d(*arguments[:3], residual=arguments[3]).astype(np.float64), wanted)
    compare.assert_exact(plan(x, residual=make(r)), wanted)
    if np.asarray(make(x)).dtype == np.float32:
        compare.assert_exact(plan(make(x), residual=r), wanted)
    out = make(np.full_like(wanted, np.nan))
    if isinstance(out, np.ndarray) and out.flags.writeable and out.dtype == wanted.dtype:
        assert fastconv.conv2d(x, w, b, residual=r, out=out) is out
        compare.assert_exact(np.asarray(out.view(np.ndarray)), wanted)
        assert plan(x, out, r) is out
        compare.assert_exact(np.asarray(out.view(np.ndarray)), wanted)


# ---------------------------------------------------------------------------------------------------------------
# Pools

POOLS = {
    fastconv.max_pool2d: [
        {}, {"stride": 1}, {"stride": (1, 2)}, {"stride": (2, 1)}, {"padding": 1}, {"padding": (1, 0)},
        {"padding": (0, 1)}, {"dilation": 2}, {"dilation": (1, 2)}, {"ceil_mode": True}, {"return_indices": True},
        {"layout": "NHWC"}, {"stride": None}, {"backend": "cython"}, {"algorithm": "direct"}, {"padding": "same"},
    ],
    fastconv.avg_pool2d: [
        {}, {"stride": 1}, {"stride": (1, 2)}, {"padding": 1}, {"padding": 1, "count_include_pad": False},
        {"ceil_mode": True}, {"divisor_override": 2}, {"divisor_override": 3}, {"layout": "NHWC"}, {"stride": None},
    ],
    fastconv.adaptive_avg_pool2d: [{}, {"layout": "NHWC"}, {"backend": "cython"}],
}  # fmt: skip


def pool_calls(function):
    x = normal(2, 6, 9, 8)
    for options in POOLS[function]:
        for size in (3, (3, 2), (2, 3), 2):
            yield (x, size), options
        yield (x[0], 3), options
        yield (x[:, :5].copy(), 3), options
        yield (x.astype(np.float64), 3), options


def parts(y):
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("function", POOLS, ids=lambda f: f.__name__)
def test_pools(spies, function):
    """Each call after each other one, and into an output; the second of two takes the short way."""
    calls = [(a, o, parts(long_way(*a, function=function, **o))) for a, o in pool_calls(function)]
    for arguments, options, wanted in calls:
        for other, other_options, _ in calls[::5]:
            function(*other, **other_options)
            function(*arguments, **options)
            taken = spies[function].taken
            got = parts(function(*arguments, **options))
            assert spies[function].taken == taken + 1
            assert len(got) == len(wanted)
            for y, expected in zip(got, wanted):
                assert y.dtype == expected.dtype and y.shape == expected.shape
                assert y.tobytes() == expected.tobytes(), (function, arguments[1:], options, other[1:], other_options)
        out = np.full_like(wanted[0], np.nan)
        assert parts(function(*arguments, **options, out=out))[0] is out
        compare.assert_same_bits(out, wanted[0])


@pytest.mark.parametrize("function", POOLS, ids=lambda f: f.__name__)
def test_faults_of_pools_are_told_after_calls_that_were_right(spies, function):
    x = normal(2, 3, 6, 6)
    for size in (1, 2, (1, 1)):
        function(x, size)
    for fault in (True, 1.0, (1, 1.0), (1, 1, 1), 0, "2"):
        with pytest.raises((TypeError, ValueError)):
            function(x, fault)
    with pytest.raises((TypeError, ValueError)):
        function(x, 2, layout="HWCN")
    size = 6 if function is fastconv.adaptive_avg_pool2d else 1  # an output like the input
    y = function(x, size)
    with pytest.raises(ValueError, match="shares memory"):
        function(x, size, out=x)
    with pytest.raises(ValueError, match="shape"):
        function(x, size, out=y[:1])
    with pytest.raises(TypeError, match="dtype"):
        function(x, size, out=y.astype(np.float64))


@pytest.mark.parametrize("form", FORMS)
def test_pools_of_every_form_after_plain_ones(spies, form):
    x = np.random.default_rng(1).integers(-3, 4, (2, 5, 9, 12)).astype(np.float32)
    for function in POOLS:
        size = (9, 6) if function is fastconv.adaptive_avg_pool2d else 2  # windows whose average is exact
        function(x, size)
        wanted = function(x, size)
        assert spies[function].taken
        compare.assert_exact(function(FORMS[form](x), size).astype(np.float64), wanted, form)


# ---------------------------------------------------------------------------------------------------------------
# out=


def test_out_is_refused_as_on_the_long_way(spy):
    x, w, b = normal(1, 4, 8, 8), normal(4, 4, 3, 3), normal(4)
    r = normal(1, 4, 8, 8)
    y = check(spy, x, w, b, padding=1, residual=r)
    plan = fastconv.plan_conv2d(x.shape, w, b, padding=1, residual=True)
    locked = y.copy()
    locked.flags.writeable = False
    both = np.zeros(y.size + 100, np.float32)  # an input that ends inside out
    inside = both[-x.size :].reshape(x.shape)
    inside[...] = x
    cases = [
        (x, {"out": x}, "shares memory with input"),
        (x, {"out": r}, "shares memory with residual"),
        (inside, {"out": both[: y.size].reshape(y.shape)}, "shares memory with input"),
        (x, {"out": locked}, "read-only"),
        (x, {"out": y[0]}, "shape"),
        (x, {"out": y.astype(np.float64)}, "dtype"),
        (x, {"out": [1.0]}, "must be a NumPy array"),
    ]
    for data, options, message in cases:
        for call in (
            lambda d, **o: fastconv.conv2d(d, w, b, padding=1, residual=r, **o),
            lambda d, **o: plan(d, residual=r, **o),
        ):
            with pytest.raises((ValueError, TypeError), match=message):
                call(data, **options)
    square = normal(1, 4, 3, 3)
    with pytest.raises(ValueError, match="shares memory with weight"):
        whole = normal(4, 4, 3, 3)
        fastconv.conv2d(square, whole, padding=1)
        fastconv.conv2d(square, whole, padding=1, out=whole[:1])
    with pytest.raises(ValueError, match="shares memory with bias"):
        whole = np.ones((1, 4, 3, 3), np.float32)
        fastconv.conv2d(square, w, b, padding=1)
        fastconv.conv2d(square, w, whole.ravel()[:4], padding=1, out=whole)


def test_out_between_the_filters_is_served(spy):
    """Memory that interleaves but shares no element: only the long way can tell."""
    x, w = normal(1, 4, 3, 3), normal(4, 4, 3, 3)
    memory = np.zeros((4, 2, 4, 3, 3), np.float32)
    memory[:, 0] = w
    wanted = check(spy, x, w, padding=1)
    y = fastconv.conv2d(x, memory[:, 0], padding=1, out=memory[:1, 1])
    compare.assert_same_bits(y, wanted)
    compare.assert_same_bits(memory[:, 0], w)


# ---------------------------------------------------------------------------------------------------------------
# What else a call depends on


def test_settings_in_force_are_obeyed(spy):
    x, w = normal(1, 16, 12, 12), normal(16, 16, 3, 3)
    lines = []

    def listen(name, *rest):
        lines.append(name)

    def runs(**options):
        with fastconv.config(verbose=listen, **options):
            fastconv.conv2d(x, w)
        return lines[-1]

    check(spy, x, w)
    default = runs()
    plan = fastconv.plan_conv2d(x.shape, w)
    plan(x)
    for algorithm in ("im2col", "winograd_f2x3"):
        wanted = long_way(x, w, algorithm=algorithm)
        for _ in range(2):
            with fastconv.config(algorithm=algorithm):
                check(spy, x, w)
                compare.assert_same_bits(fastconv.conv2d(x, w), wanted)
            assert algorithm in runs(algorithm=algorithm)
            check(spy, x, w)
    with fastconv.config(precision="strict"):
        compare.assert_same_bits(check(spy, x, w), long_way(x, w, precision="strict"))
    with fastconv.config(max_workspace=0), pytest.raises(fastconv.NoKernelError):
        fastconv.conv2d(x, w, algorithm="winograd")
    assert runs() == default
    count = len(lines)
    with fastconv.config(verbose=listen):
        for _ in range(3):
            plan(x)
            fastconv.conv2d(x, w)
    assert len(lines) == count + 6
    plan(x)
    assert len(lines) == count + 6


def test_other_threads_keep_their_settings(spy):
    x, w = normal(1, 16, 12, 12), normal(16, 16, 3, 3)
    check(spy, x, w)
    seen = []
    with fastconv.config(verbose=lambda *line: seen.append(line)):
        worker = threading.Thread(target=lambda: fastconv.conv2d(x, w))
        worker.start()
        worker.join()
        assert not seen
        fastconv.conv2d(x, w)
    assert len(seen) == 1


def test_number_of_threads(spy, threads):
    x, w = normal(2, 32, 28, 28), normal(32, 32, 3, 3)
    plan = fastconv.plan_conv2d(x.shape, w)
    seen = []
    for count in (1, 2, 3, 1):
        threads(count)
        y = check(spy, x, w)
        compare.assert_same_bits(plan(x), y)
        compare.assert_same_bits(plan(x), y)
        with fastconv.config(verbose=lambda name, problem, n, *rest: seen.append(n)):
            fastconv.conv2d(x, w)
    assert seen == [1, 2, 3, 1]


def test_small_work_stays_on_one_thread_whenever_the_plan_was_made(spy, threads):
    x, w = normal(1, 1, 6, 6), normal(8, 1, 3, 3)
    seen = []
    threads(1)
    plan = fastconv.plan_conv2d(x.shape, w)
    check(spy, x, w)
    threads(2)
    with fastconv.config(verbose=lambda name, problem, n, *rest: seen.append(n)):
        fastconv.conv2d(x, w)
        plan(x)
    assert seen == [1, 1]


def test_a_tuned_choice_is_taken_at_once(spy, monkeypatch):
    x, w = normal(1, 16, 12, 12), normal(16, 16, 3, 3)
    check(spy, x, w)
    problem = dispatch.plan(fastconv.plan_conv2d(x.shape, w).problem).problem
    try:
        for name in ("winograd_f2x3", "im2col", "naive"):
            autotune.remember(problem, f"conv2d_forward_{name}__cython")
            for _ in range(2):
                compare.assert_same_bits(fastconv.conv2d(x, w), long_way(x, w, algorithm=name), name)
    finally:
        autotune.forget()
    check(spy, x, w)


def test_instruction_set(spy):
    x, w = normal(2, 16, 12, 12), normal(16, 16, 3, 3)
    before = host.isa()
    try:
        for isa in (*host.isas(), *host.isas()[::-1]):
            host.set_isa(isa)
            for algorithm in ("im2col", "winograd_f2x3"):
                check(spy, x, w, algorithm=algorithm)
    finally:
        host.set_isa(before)


def test_clear_cache_forgets_and_the_table_is_bounded(spy):
    calls = dispatch.compiled_calls()
    fastconv.clear_cache()
    assert len(calls) == 0
    w = normal(1, 1, 1, 1)
    for size in range(1, 600):
        fastconv.conv2d(normal(1, 1, 1, size), w, algorithm="im2col")
    assert 128 <= len(calls) <= 256
    fastconv.clear_cache()
    assert len(calls) == 0
    check(spy, X, W)
    assert len(calls) == 1
    for stride in (1, 1, 1):  # no second entry of one call
        fastconv.conv2d(X, W, stride=stride)
    assert len(calls) == 1


@pytest.mark.parametrize("algorithm", ["im2col", "winograd_f2x3", "winograd_f4x3"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_junk_in_the_scratch_changes_nothing(spy, algorithm, layout):
    from fastconv._cython import testing

    x, w = normal(1, 5, 9, 9), normal(7, 5, 3, 3)
    if layout == "NHWC":
        x, w = x.transpose(0, 2, 3, 1).copy(), w.transpose(2, 3, 1, 0)
    options = {"algorithm": algorithm, "layout": layout, "precision": 1e-3}
    wanted = check(spy, x, w, BIAS[:1].repeat(7), **options)
    plan = fastconv.plan_conv2d(x.shape, w, BIAS[:1].repeat(7), **options)
    for junk in (0, 0xFF, 0x7F):
        testing.fill_scratch(1 << 20, junk)
        compare.assert_same_bits(fastconv.conv2d(x, w, BIAS[:1].repeat(7), **options), wanted)
        testing.fill_scratch(1 << 20, junk)
        compare.assert_same_bits(plan(x), wanted)


def test_many_python_threads_at_once(spy):
    """Shapes that come and go in one table, each thread with its own scratch."""
    problems = [(normal(1, c, 7 + s, 9), normal(8, c, 3, 3)) for c in (1, 8, 16) for s in range(6)]
    wanted = [long_way(x, w, padding=1) for x, w in problems]
    faults = []

    def work(first):
        for round_ in range(60):
            i = (first * 5 + round_ * 7) % len(problems)
            if round_ % 20 == 19:
                fastconv.clear_cache()
            y = fastconv.conv2d(*problems[i], padding=1)
            if y.tobytes() != wanted[i].tobytes():
                faults.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_fork(spy):
    y = check(spy, X, W)
    plan = fastconv.plan_conv2d(X.shape, W)
    child = os.fork()
    if child == 0:
        same = fastconv.conv2d(X, W).tobytes() == y.tobytes() == plan(X).tobytes()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_call_that_fails_is_not_remembered(spy, monkeypatch):
    x = normal(1, 3, 6, 6)
    with pytest.raises(ValueError, match=re.escape("got (5,)")):
        fastconv.conv2d(x, normal(4, 3, 3, 3), normal(5))
    count = len(dispatch.compiled_calls())
    with pytest.raises(ValueError, match="bias must have shape"):
        fastconv.conv2d(x, normal(4, 3, 3, 3), normal(5))
    assert len(dispatch.compiled_calls()) == count
    check(spy, x, normal(4, 3, 3, 3), normal(4))
    with pytest.raises(ValueError, match="bias must have shape"):
        fastconv.conv2d(x, normal(4, 3, 3, 3), normal(5))


GRADIENTS = {
    fastconv.max_pool2d: (fastconv.max_pool2d_backward, pooling._max_pool2d_backward),
    fastconv.avg_pool2d: (fastconv.avg_pool2d_backward, pooling._avg_pool2d_backward),
    fastconv.adaptive_max_pool2d: (fastconv.adaptive_max_pool2d_backward, pooling._adaptive_max_pool2d_backward),
    fastconv.adaptive_avg_pool2d: (fastconv.adaptive_avg_pool2d_backward, pooling._adaptive_avg_pool2d_backward),
}


@pytest.mark.parametrize("function", GRADIENTS, ids=lambda f: f.__name__)
def test_gradients_of_pools(function):
    """Each variation twice: both give the bits of the long way, the second by the short one; then the faults."""
    backward, shortcut = GRADIENTS[function]
    adaptive, is_max = "adaptive" in function.__name__, "max" in function.__name__
    windows = [(2,), ((3, 2),), (8,)] if adaptive else [(2,), (1, 1), (3, 2, 1), ((3, 2), (1, 2), (0, 1))]
    for shape in ((2, 5, 8, 8), (5, 8, 8)):
        for window in windows:
            for layout in ("NCHW", "NHWC"):
                how = {"layout": layout, "algorithm": "direct"}
                x = normal(*shape)
                y = function(x, *window, **({"return_indices": True} if is_max else {}), **how)
                y, indices = y if is_max else (y, None)
                arguments = (y, x.shape) if indices is None else (y, x.shape, indices)
                arguments = arguments if adaptive else (*arguments, *window)
                fastconv.clear_cache()
                wanted = backward(*arguments, **how)
                out = np.empty_like(x)
                assert backward(*arguments, **how, out=out) is out
                positional = [*arguments, *(() if adaptive else (None, 0)[len(window) - 1 :])]
                positional += [] if adaptive else ([1, False] if is_max else [False, True, None])
                again = shortcut.call(*positional, layout, None, "direct", "auto")
                assert again is not None
                compare.assert_same_bits(out, wanted)
                compare.assert_same_bits(again, wanted)
                if y.shape == x.shape:
                    with pytest.raises(ValueError, match="out shares memory"):
                        backward(*arguments, **how, out=y)
                if is_max:
                    indices.flat[3] = 1000
                    with pytest.raises(ValueError, match=r"must lie in .* to 1000"):
                        backward(*arguments, **how)
