"""The choice of a kernel: verdicts, forced rows, reasons, precision, workspace, explain, tune, the plan cache."""

import json

import numpy as np
import pytest

import fastconv
from fastconv import autotune, cost, dispatch
from fastconv.dispatch import Request
from fastconv.problem import ConvProblem, NoKernelError
from fastconv.registry import KERNELS
from tests import cases, rows
from tests.rows import needs_cython

BIG = "mb1ic64ih56oc64kh3ph1"


def ready(backend):
    return any(k.backend == backend and rows.fault(k) is None for k in KERNELS)




def test_verdicts_are_the_rows_of_the_op_and_pass_in_order():
    for op, pass_ in {(k.op, k.pass_) for k in KERNELS}:
        problem = cases.problems(op, pass_)[0]
        names = [v.kernel.name for v in dispatch.verdicts(problem)]
        assert names == [k.name for k in KERNELS if (k.op, k.pass_) == (op, pass_)]


def test_reference_always_can_and_is_last():
    for op, pass_ in {(k.op, k.pass_) for k in KERNELS}:
        for problem in cases.problems(op, pass_)[::7]:
            last = list(dispatch.verdicts(problem))[-1]
            assert last.kernel.algorithm == "reference" and last.reason is None


def test_a_verdict_has_a_reason_or_a_cost():
    for text in cases.BASIC[::5]:
        for verdict in dispatch.verdicts(ConvProblem.parse(text)):
            if verdict.reason is None:
                assert 0 < verdict.seconds < float("inf") and verdict.workspace >= 0 and verdict.error > 0
            else:
                assert verdict.seconds == float("inf") and verdict.reason.strip()


@pytest.mark.parametrize(
    "text, options, reason",
    [
        ("ic8ih9oc8kh4", {}, "3x3 filter, got 4x4"),
        ("ic8ih9oc8kh3sh2", {}, "stride 1, got 2x2"),
        ("ic8ih9oc8kh3dh2", {}, "dilation 1, got 2x2"),
        ("ic8ih9oc8kh3", {"dtype": "int64"}, "integers"),
        ("ic8ih9oc8kh3", {"precision": "strict"}, "plain sum"),
        ("ic8ih9oc8kh3", {"precision": 1e-12}, "over the accepted"),
    ],
)
def test_winograd_says_why_not(text, options, reason):
    problem = ConvProblem.parse(text, **options)
    for verdict in dispatch.verdicts(problem):
        of_3x3 = verdict.kernel.cannot(ConvProblem.parse("ic8ih9oc8kh3")) is None
        if verdict.kernel.family == "winograd" and of_3x3 and rows.fault(verdict.kernel) is None:
            assert reason in verdict.reason
    with pytest.raises(NoKernelError, match="winograd_f4x3__cython: "):
        dispatch.choose(problem, Request(algorithm="winograd"))


def test_no_kernel_error_lists_every_row_with_its_reason():
    problem = ConvProblem.parse("ic8ih9oc8kh5")
    with pytest.raises(NoKernelError) as caught:
        dispatch.plan(problem, Request(algorithm="winograd_f2x3"))
    message = str(caught.value)
    for verdict in dispatch.verdicts(problem, Request(algorithm="winograd_f2x3")):
        assert f"{verdict.kernel.name}: {verdict.reason}" in message
    assert isinstance(caught.value, ValueError)


def test_every_row_can_be_forced_by_name():
    for kernel in KERNELS:
        if rows.fault(kernel):
            continue
        problem = next(p for p in cases.problems(kernel.op, kernel.pass_) if kernel.cannot(p) is None)
        if not kernel.plain_sum and kernel.error(problem) > dispatch.FAST_ERROR_LIMIT:
            continue
        assert dispatch.choose(problem, Request(kernel.algorithm, kernel.backend)) is kernel
        assert dispatch.plan(problem, Request(kernel.algorithm, kernel.backend)).kernel is kernel
        assert kernel.name in repr(dispatch.plan_for(problem, kernel))


def test_family_takes_its_cheapest_row():
    problem = ConvProblem.parse(BIG)
    able = [v for v in dispatch.verdicts(problem, Request("winograd")) if v.reason is None]
    if not able:
        pytest.skip("no Winograd row can run here")
    assert dispatch.choose(problem, Request("winograd")) is dispatch.best(able).kernel


@needs_cython
@pytest.mark.parametrize("text", ["mb1ic3ih28oc8kh3", BIG, "g32ic32ih14oc32kh3", "ic64ih14oc64kh1", "ic1ih1oc1kh1"])
@pytest.mark.parametrize("pass_", ["forward", "backward_input", "backward_weight"])
def test_default_choice_is_a_compiled_row(text, pass_):
    """Numba would stop for its compiler at the first call, NumPy is slow."""
    assert dispatch.choose(ConvProblem.parse(text, pass_=pass_), Request()).backend == "cython"


@needs_cython
def test_integers_are_computed_by_naive_rows():
    kernel = dispatch.choose(ConvProblem.parse("ic3ih9oc4kh3", dtype="int64"), Request())
    assert kernel.algorithm == "naive"


def test_choice_does_not_depend_on_the_number_of_threads(threads):
    """Else the bits of a result would."""
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append([dispatch.choose(ConvProblem.parse(t), Request()).name for t in (*cases.LAYERS, BIG)])
    assert found[0] == found[1] == found[2]


def test_deterministic_choice_does_not_depend_on_the_batch():
    request = Request(deterministic=True)
    for text in ("ic64ih14oc64kh3ph1", "ic3ih8oc8kh3", "ic33ih7oc17kh3"):
        names = {dispatch.choose(ConvProblem.parse(f"mb{n}{text}"), request).name for n in (1, 2, 7, 64, 512)}
        assert len(names) == 1


def test_max_workspace_is_obeyed():
    problem = ConvProblem.parse(BIG)
    needs = sorted({v.workspace for v in dispatch.verdicts(problem) if v.reason is None})
    assert needs[0] == 0
    for limit in {0, *needs, *(n - 1 for n in needs if n)}:
        for verdict in dispatch.verdicts(problem, Request(max_workspace=limit)):
            assert verdict.reason is not None or verdict.workspace <= limit
        plan = dispatch.plan(problem, Request(max_workspace=limit))
        assert plan.workspace_nbytes() <= limit


def test_max_workspace_names_both_numbers():
    problem = ConvProblem.parse(BIG)
    for verdict in dispatch.verdicts(problem, Request(max_workspace=1)):
        need = verdict.kernel.workspace(problem, 2)
        if need > 1 and rows.fault(verdict.kernel) is None and verdict.kernel.cannot(problem) is None:
            assert "bytes of workspace, max_workspace is 1" in verdict.reason


def test_workspace_is_chunked_never_the_whole_matrix():
    """im2col's matrix of this layer has 231 MB; the block of it that is packed at a time a few at most."""
    problem = ConvProblem.parse("mb32ic64ih56oc64kh3ph1")
    whole = 4 * problem.mb * problem.oh * problem.ow * problem.icg * 9
    for kernel in KERNELS:
        if kernel.op == "conv2d" and kernel.algorithm == "im2col":
            assert kernel.workspace(problem.with_pass(kernel.pass_), 2) < whole / 20, kernel.name


def test_workspace_is_bounded_whatever_the_batch():
    """Blocks of a bounded size, and marks for each tile at most: a seventh of the images themselves."""
    for kernel in KERNELS:
        if kernel.op == "conv2d":
            problem = ConvProblem.parse(BIG.replace("mb1", "mb4096")).with_pass(kernel.pass_)
            assert kernel.workspace(problem, 2) < 64 * 2**20 + problem.bytes / 14, kernel.name


def test_plans_are_cached_and_bounded():
    fastconv.clear_cache()
    problem = ConvProblem.parse("ic3ih9oc4kh3")
    assert dispatch.plan(problem) is dispatch.plan(problem)
    assert dispatch.plan(problem) is not dispatch.plan(problem, Request(algorithm="naive"))
    for i in range(1, 200):
        dispatch.plan(ConvProblem.parse(f"ic1ih{i}oc1kh1"))
    assert dispatch._plan.cache_info().currsize <= dispatch.PLAN_CACHE_SIZE
    fastconv.clear_cache()
    assert dispatch._plan.cache_info().currsize == 0


def test_plan_for_refuses_what_the_row_cannot():
    winograd = next(k for k in KERNELS if k.family == "winograd" and rows.fault(k) is None)
    with pytest.raises(NoKernelError, match="3x3 filter"):
        dispatch.plan_for(ConvProblem.parse("ic8ih9oc8kh5"), winograd)


def test_large_workspaces_are_not_kept(monkeypatch):
    monkeypatch.setattr(dispatch, "WORKSPACE_KEPT_BYTES", 1000)
    dispatch.clear_workspace()
    assert dispatch._workspace_of(5000).size == 5000 and dispatch._workspace.buffer is None
    small = dispatch._workspace_of(900)
    assert small.ctypes.data % 64 == 0 and dispatch._workspace.buffer is not None
    dispatch.clear_workspace()


# ---------------------------------------------------------------------------------------------------------------
# explain


def test_explain_names_every_row_and_marks_the_chosen_one():
    text = fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    problem = ConvProblem.parse(BIG)
    for verdict in dispatch.verdicts(problem):
        (line,) = (line for line in text.splitlines() if verdict.kernel.name in line.split())
        assert (f"no: {verdict.reason}" in line) == (verdict.reason is not None)
        assert line.startswith(">") == (verdict.kernel is dispatch.choose(problem, Request()))


def test_explain_and_choice_agree_when_forced():
    text = fastconv.explain((1, 8, 9, 9), (8, 8, 4, 4), algorithm="winograd")
    assert "no kernel can compute this" in text and not any(line.startswith(">") for line in text.splitlines())


def test_explain_says_when_an_array_is_copied(rng):
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    w = np.ones((4, 3, 3, 3), np.float32)
    assert "copied" not in fastconv.explain(x, w)
    assert "copied" in fastconv.explain(x[:, :, ::2], w)
    assert "copied" in fastconv.explain(x.astype(">f4"), w)
    assert "rounded once" in fastconv.explain((1, 3, 8, 8), (4, 3, 3, 3), dtype="float16")


def test_explain_shows_lines_at_a_prompt():
    text = fastconv.explain((1, 3, 8, 8), (4, 3, 3, 3))
    assert repr(text) == str(text) and "\n" in repr(text)


# ---------------------------------------------------------------------------------------------------------------
# tune


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "deep" / "cache"))
    monkeypatch.setattr(autotune, "_choices", None)
    monkeypatch.setattr(autotune, "_generation", autotune._generation + 1)
    fastconv.clear_cache()
    yield tmp_path / "deep" / "cache" / "tuned.json"
    fastconv.clear_cache()


SHAPES = ((1, 8, 12, 12), (8, 8, 3, 3))


def test_tune_measures_and_remembers(cache, monkeypatch):
    seconds = fastconv.tune(*SHAPES)
    assert list(seconds.values()) == sorted(seconds.values()) and all(0 < s < 10 for s in seconds.values())
    stored = json.loads(cache.read_text())
    (key, name) = next(iter(stored.items()))
    assert name in seconds
    problem = ConvProblem.parse("ic8ih12oc8kh3")
    for part in (str(problem), fastconv.__version__, str(fastconv.get_num_threads())):
        assert part in key
    # another process finds it on disk
    monkeypatch.setattr(autotune, "_choices", None)
    assert autotune.remembered(problem) == name
    assert dispatch.choose(problem, Request()).name == name


def test_remembered_choice_goes_first_and_only_there(cache):
    problem = ConvProblem.parse("ic8ih12oc8kh3")
    default = dispatch.plan(problem).kernel
    autotune.remember(problem, "conv2d_forward_reference__numpy")
    assert dispatch.plan(problem).kernel.name == "conv2d_forward_reference__numpy"
    assert dispatch.plan(ConvProblem.parse("ic8ih13oc8kh3")).kernel.algorithm != "reference"
    assert dispatch.plan(problem, Request(algorithm="naive")).kernel.algorithm == "naive"
    x, w = np.ones(SHAPES[0], np.float32), np.ones(SHAPES[1], np.float32)
    assert fastconv.plan_conv2d(SHAPES[0], w).kernel == "conv2d_forward_reference__numpy"
    fastconv.conv2d(x, w)
    autotune.forget()
    assert dispatch.plan(problem).kernel is default and not cache.exists()


def test_remembered_choice_depends_on_threads(cache, threads):
    problem = ConvProblem.parse("ic8ih12oc8kh3")
    threads(1)
    autotune.remember(problem, "conv2d_forward_reference__numpy")
    assert dispatch.plan(problem).kernel.algorithm == "reference"
    threads(2)
    assert dispatch.plan(problem).kernel.algorithm != "reference"


def test_remembered_name_that_no_longer_exists_is_ignored(cache):
    problem = ConvProblem.parse("ic8ih12oc8kh3")
    autotune.remember(problem, "conv2d_forward_gone__cython")
    assert dispatch.plan(problem).kernel.name != "conv2d_forward_gone__cython"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"a": 5}', "\x00\x01"])
def test_damaged_file_is_as_good_as_none(cache, content, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    monkeypatch.setattr(autotune, "_choices", None)
    fastconv.conv2d(np.ones(SHAPES[0], np.float32), np.ones(SHAPES[1], np.float32))


def test_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("FASTCONV_CACHE", str(blocker / "cache"))
    monkeypatch.setattr(autotune, "_choices", None)
    fastconv.tune(*SHAPES, backend="numpy")
    autotune._choices = None


def test_tune_only_measures_when_told_not_to_remember(cache):
    fastconv.tune(*SHAPES, remember=False)
    assert not cache.exists()


# ---------------------------------------------------------------------------------------------------------------
# settings


def test_config_forces_and_restores():
    x, w = np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 4, 4), np.float32)
    with fastconv.config(algorithm="winograd"), pytest.raises(NoKernelError):
        fastconv.conv2d(x, w)
    fastconv.conv2d(x, w)
    with fastconv.config(algorithm="winograd"):
        fastconv.conv2d(x, w, algorithm="naive")  # the call's own word wins


def test_config_nests_and_restores_after_an_exception():
    with pytest.raises(RuntimeError), fastconv.config(backend="numpy"), fastconv.config(algorithm="reference") as now:
        assert (now.backend, now.algorithm) == ("numpy", "reference")
        raise RuntimeError
    from fastconv import settings

    assert settings.current().backend == "auto"


def test_config_refuses_unknown_names():
    with pytest.raises(TypeError, match="unknown setting 'algorythm'"), fastconv.config(algorythm="naive"):
        pass


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"algorithm": "fft"}, "algorithm must be"),
        ({"backend": "gpu"}, "backend must be"),
        ({"precision": "low"}, "precision must be"),
        ({"max_workspace": -1}, "max_workspace must be"),
    ],
)
def test_config_values_are_checked_like_arguments(changes, fault):
    x, w = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    with pytest.raises(ValueError, match=fault), fastconv.config(**changes):
        fastconv.conv2d(x, w)


def test_config_precision_strict_keeps_winograd_out():
    with fastconv.config(precision="strict"):
        plan = fastconv.plan_conv2d((1, 64, 56, 56), np.ones((64, 64, 3, 3), np.float32), padding=1)
    assert "winograd" not in plan.kernel


def test_verbose_prints_one_line_for_each_kernel(capsys):
    x, w = np.ones((1, 3, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
    with fastconv.config(verbose=True):
        fastconv.conv2d(x, w)
        fastconv.max_pool2d(x, 2)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    assert "conv2d_forward" in err and "mb1ic3ih9oc4kh3" in err and "threads=" in err and " ms" in err
    fastconv.conv2d(x, w)
    assert capsys.readouterr() == ("", "")


def test_error_estimates_are_what_precision_is_compared_with():
    problem = ConvProblem.parse(BIG)
    for verdict in dispatch.verdicts(problem):
        if verdict.reason is None:
            assert verdict.error == verdict.kernel.error(problem) < dispatch.FAST_ERROR_LIMIT
    assert cost.EPS["float32"] == np.finfo(np.float32).eps / 2


def network_like(text, layout):
    """ReLU(N(0, 1)) input, He weight, the options of the call and the float64 result."""
    p = ConvProblem.parse(text, layout=layout)
    rng = np.random.default_rng(7)
    x = np.maximum(rng.standard_normal(p.input_shape, np.float32), 0)
    w = rng.standard_normal(p.weight_shape, np.float32) * np.float32((2 / (p.ic * p.kh * p.kw)) ** 0.5)
    options = {"padding": p.ph, "layout": layout}
    return x, w, options, fastconv.conv2d(x.astype("f8"), w.astype("f8"), algorithm="reference", **options)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("precision", [1e-5, 3e-6, 1e-6, 3e-7, 1e-7])
@pytest.mark.parametrize("text", ["ic64ih20oc48kh3ph1", "mb2ic256ih10oc32kh3", "ic48ih14oc64kh5ph2", "ic700ih9oc40kh1"])
def test_a_numeric_precision_is_obeyed(text, precision, layout):
    """The largest error over the largest output."""
    x, w, options, exact = network_like(text, layout)
    y = fastconv.conv2d(x, w, precision=precision, **options)
    assert np.abs(y - exact).max() <= precision * np.abs(exact).max()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("text", ["ic512ih7oc64kh3ph1", "ic80ih14oc48kh3ph1", "ic700ih9oc40kh1"])
def test_strict_errors_stay_under_a_millionth(text, layout):
    """Of the largest output, whichever compiled row computes the plain sum."""
    x, w, options, exact = network_like(text, layout)
    for verdict in dispatch.verdicts(ConvProblem.parse(text, layout=layout, precision="strict")):
        if verdict.reason is None and verdict.kernel.backend == "cython":
            y = fastconv.conv2d(x, w, algorithm=verdict.kernel.algorithm, backend="cython", **options)
            error = np.abs(y - exact).max() / np.abs(exact).max()
            assert error <= min(1e-6, 1.0 if verdict.kernel.family == "naive" else verdict.error), verdict.kernel.name
