"""The cost model: rates are fitted, kept, found again and used; the shipped ones know every compiled row."""

import json
import random

import pytest

import fastconv
from fastconv import cost, dispatch, host, rates
from fastconv.functional import calibration
from fastconv.problem import ConvPoolProblem, ConvProblem
from fastconv.registry import KERNELS
from tests import cases, rows


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no rates in memory from another one."""
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "_rates", None)
    yield tmp_path
    monkeypatch.setattr(rates, "_rates", None)
    fastconv.clear_cache()


def test_fit_finds_the_rates_that_made_the_times():
    rng = random.Random(7)
    truth = {"calls": 2e-6, "flops": 1e-11, "image": 5e-11}
    works = [{"calls": 1.0, "flops": 10 ** rng.uniform(4, 8), "image": 10 ** rng.uniform(3, 7)} for _ in range(80)]
    found = calibration.fit(works, [sum(truth[k] * v for k, v in work.items()) for work in works])
    assert set(found) == set(truth)
    for kind, rate in truth.items():
        assert abs(found[kind] / rate - 1) < 0.02, kind


def test_fit_shrugs_at_a_few_disturbed_times():
    rng = random.Random(8)
    works = [{"calls": 1.0, "flops": 10 ** rng.uniform(4, 8)} for _ in range(100)]
    times = [3e-6 + 2e-11 * work["flops"] for work in works]
    times[::20] = [5 * t for t in times[::20]]
    found = calibration.fit(works, times)
    assert abs(found["flops"] / 2e-11 - 1) < 0.05


def test_fit_leaves_out_work_that_takes_no_time():
    rng = random.Random(9)
    works = [{"calls": 1.0, "flops": 10 ** rng.uniform(4, 8), "tiles": 10 ** rng.uniform(2, 3)} for _ in range(50)]
    assert set(calibration.fit(works, [1e-11 * work["flops"] for work in works])) == {"flops"}


def test_drawn_problems_are_the_same_every_time_and_of_every_kind():
    drawn = list(calibration.draw_problems(300, "forward", "NHWC"))
    assert drawn == list(calibration.draw_problems(300, "forward", "NHWC"))
    assert len({p.text for p in drawn}) > 250
    assert {(p.kh, p.kw) for p in drawn} == set(calibration.FILTERS)
    assert any(p.g == p.ic > 1 for p in drawn) and any(p.sh == 2 for p in drawn) and any(p.mb > 1 for p in drawn)
    assert all(p.flops <= calibration.MOST_FLOPS and p.bytes <= calibration.MOST_BYTES for p in drawn)


@pytest.mark.parametrize("op, pass_", sorted({(k.op, k.pass_) for k in KERNELS}))
def test_work_is_counted_for_every_problem_of_every_row(op, pass_):
    for problem in cases.problems(op, pass_)[::5]:
        for kernel in KERNELS:
            if (kernel.op, kernel.pass_) == (op, pass_) and kernel.cannot(problem) is None:
                work = kernel.work(problem)
                assert work and all(amount >= 0 for amount in work.values()), (kernel.name, problem.text)
                assert kernel.seconds(problem) > 0
                assert 0 < kernel.seconds(problem, packed=True) <= kernel.seconds(problem)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_the_shipped_rates_know_every_compiled_row(isa):
    shipped = rates.read(rates.SHIPPED)[isa]
    for kernel in KERNELS:
        if kernel.backend == "cython" and kernel.family not in calibration.SLOW:
            layouts = ("NHWC",) if kernel.op == ConvPoolProblem.op or "adjoint" in kernel.name else ("NCHW", "NHWC")
            for layout in layouts:
                known = shipped[kernel.name][layout]
                assert known and all(rate > 0 for rate in known.values()), (kernel.name, layout)


@pytest.mark.parametrize("text", ["mb1ic64ih56oc64kh3ph1", "mb1ic1ih28oc32kh3", "mb8ic256ih14oc1024kh1"])
def test_more_work_is_predicted_to_take_longer(text):
    for kernel in KERNELS:
        problem = ConvProblem.parse(text)
        if (kernel.op, kernel.pass_) == ("conv2d", "forward") and kernel.cannot(problem) is None:
            larger = ConvProblem.parse(text.replace("mb1", "mb4"))
            if kernel.backend == "cuda":  # a launch takes longer than little work, and waves of blocks are alike
                assert kernel.seconds(larger) >= kernel.seconds(problem)
                continue
            assert kernel.seconds(larger) > 1.5 * kernel.seconds(problem) * (problem.mb == 1) or problem.mb > 1


def test_own_rates_take_the_place_of_the_shipped_ones(cache):
    problem = ConvProblem.parse("mb1ic64ih56oc64kh3ph1")
    name = "conv2d_forward_im2col__cython"
    kernel = next(k for k in KERNELS if k.name == name)
    other = next(k for k in KERNELS if k.name == "conv2d_forward_winograd_f4x3__cython")
    before, untouched = kernel.seconds(problem), other.seconds(problem)
    rates.remember(host.rated_isa(), {name: {"NCHW": {"calls": 3.0}}})
    assert kernel.seconds(problem) == 3.0 and other.seconds(problem) == untouched
    stored = json.loads((cache / "rates.json").read_text())
    assert stored[host.cpu_name()][host.rated_isa()][name] == {"NCHW": {"calls": 3.0}}
    rates.forget()
    assert kernel.seconds(problem) == before


def test_rates_of_another_cpu_are_not_used(cache):
    kernel = next(k for k in KERNELS if k.name == "conv2d_forward_im2col__cython")
    problem = ConvProblem.parse("ic64ih56oc64kh3ph1")
    before = kernel.seconds(problem)
    rates._rates = None
    foreign = {"another cpu": {host.rated_isa(): {kernel.name: {"NCHW": {"calls": 3.0}}}}}
    (cache / "rates.json").write_text(json.dumps(foreign))
    assert kernel.seconds(problem) == before


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", '{"x": 1}'])
def test_a_broken_file_of_rates_is_no_file(cache, content):
    (cache / "rates.json").write_text(content)
    assert dispatch.choose(ConvProblem.parse("ic8ih9oc8kh3"), dispatch.Request()).name


def test_a_cache_folder_that_cannot_be_written_keeps_rates_in_the_process(cache, monkeypatch):
    blocked = cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("FASTCONV_CACHE", str(blocked / "folder"))
    kernel = next(k for k in KERNELS if k.name == "conv2d_forward_im2col__cython")
    rates.remember(host.rated_isa(), {kernel.name: {"NCHW": {"calls": 5.0}}})
    assert kernel.seconds(ConvProblem.parse("ic8ih9oc8kh3")) == 5.0


def test_a_row_without_rates_has_a_cost_all_the_same(cache, monkeypatch):
    monkeypatch.setattr(rates, "SHIPPED", cache / "absent.json")
    problem = ConvProblem.parse("ic64ih56oc64kh3ph1")
    for kernel in KERNELS:
        if (kernel.op, kernel.pass_) == ("conv2d", "forward"):
            assert 0 < kernel.seconds(problem) < 60


@pytest.mark.skipif(rows.fault(KERNELS[0]) is not None, reason="the compiled extension is not here")
def test_calibrate_measures_and_uses_what_it_found(cache, monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS_A_CALL", 1e-4)
    monkeypatch.setattr(calibration, "MOST_FLOPS", 2e6)
    threads = fastconv.get_num_threads()
    found = fastconv.calibrate(problems=8)
    assert fastconv.get_num_threads() == threads
    for kernel in KERNELS:
        if kernel.backend == "cython" and kernel.family not in calibration.SLOW and kernel.name in found:
            for layout, known in found[kernel.name].items():
                assert rates.rates_of(kernel.name, layout) == known
    assert "conv2d_forward_im2col__cython" in found and "max_pool2d_backward_direct__cython" in found
    target = cache / "shipped.json"
    fastconv.calibrate(problems=2, file=target)
    assert set(json.loads(target.read_text())) == {host.rated_isa()}


def test_calibrate_refuses_a_backend_that_cannot_run(cache):
    with pytest.raises(ValueError, match=r"calibrate: .*CUDA"):
        fastconv.calibrate(backend="cuda")


def test_weights_count_only_where_they_are_packed_in_the_call():
    work = {"calls": 1.0, "weights": 100.0}
    assert cost.seconds("conv2d_forward_unheard_of__cython", "NCHW", work, packed=True) == cost.UNMEASURED["calls"]
    assert cost.seconds("conv2d_forward_unheard_of__cython", "NCHW", work) > cost.UNMEASURED["calls"]


def test_tiny_and_large_problems_are_drawn_apart():
    drawn = {s: list(calibration.draw_problems(20, "forward", "NHWC", 3, s)) for s in ("tiny", "usual", "large")}
    assert all(0 < p.flops <= calibration.FEWEST_FLOPS for p in drawn["tiny"])
    assert all(calibration.FEWEST_FLOPS <= p.flops <= calibration.MOST_FLOPS for p in drawn["usual"])
    assert all((p.kh, p.kw, p.sh, p.g) == (3, 3, 1, 1) for p in drawn["large"])
    assert max(p.flops for p in drawn["large"]) > calibration.MOST_FLOPS


def test_filters_that_no_calibration_met_are_not_free(monkeypatch):
    """Rates from before the kind was counted, or from few problems, know no time for any filter's loop."""
    monkeypatch.setattr(rates, "rates_of", lambda kernel, layout: {"calls": 1e-6, "flops": 1e-11})
    assert cost.seconds("conv2d_forward_depthwise__cython", "NCHW", {"calls": 1.0, "any_flops": 1e7}) > 1e-3


def test_fitted_rates_choose_well_between_kernels_that_no_rates_describe():
    """One kernel's time bends where its data leave a cache; the refinement puts the crossing where it costs least."""
    rng = random.Random(11)
    races = []
    for _ in range(200):
        flops = 10 ** rng.uniform(5, 9)
        bent = {"calls": 1.0, "flops": flops, "image": flops}
        straight = {"calls": 1.0, "flops": 1.2 * flops}
        times = 1e-6 + 1e-11 * flops * (1 if flops < 1e7 else 1.3), 2e-6 + 1.2e-11 * flops
        races.append({"bent": (bent, times[0]), "straight": (straight, times[1])})
    assert calibration.chosen_well(races, calibration.fit_races(races)) > 0.9


@pytest.mark.skipif(rows.fault(KERNELS[0]) is not None, reason="the compiled extension is not here")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wide_filters_from_one_channel_into_many_are_no_depthwise_work(layout):
    """Shipped rates once took them for it, at thirty times the time of the direct kernel."""
    problem = ConvProblem.parse("mb4ic1ih161iw700oc32kh5kw20sh2", layout=layout)
    assert dispatch.choose(problem, dispatch.Request()).family in ("direct", "im2col")
