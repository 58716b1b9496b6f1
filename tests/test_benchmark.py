"""Races and peers: each adapter gives our result, a race times all rivals; no speed is asserted."""

import json
from contextlib import ExitStack

import numpy as np
import pytest

import fastconv
from fastconv import benchmark
from fastconv.benchmark import contest, peak, report
from fastconv.benchmark.layers import Exact, images, operands
from fastconv.benchmark.peers import PEERS, Unsupported, adapter

TEXTS = (
    "mb1ic16ih9iw10oc32kh3ph1", "mb2ic3ih13oc8kh7kw5sh2ph3pw2", "g8mb1ic8ih9oc8kh3ph1", "mb1ic5ih8oc7kh1",
    "g2mb1ic8ih9oc8kh3ph1", "mb1ic4ih11oc8kh3dh2",
)  # fmt: skip
# What the peers' Winograd kernels err by, at most, as a share of the largest output (MNN's is the largest).
PEER_ERROR = 1e-2


def one(name):
    if name not in benchmark.installed():
        pytest.skip(f"{PEERS[name][0]} is not installed")
    return adapter(name)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", PEERS)
def test_adapters_agree_with_ours(name, text):
    peer, problem = one(name), fastconv.ConvProblem.parse(text)
    x, w = operands(problem)
    with ExitStack() as stack:
        try:
            rival = peer.convolution(problem, [x, *images(problem, 1, seed=3)], w, 1, stack)
        except Unsupported as reason:
            pytest.skip(str(reason))
        y = np.array(rival.output())
        for call in rival.calls:
            call()
        again = np.array(rival.output())
    exact = Exact(problem, x, w)
    assert exact.error(y) <= PEER_ERROR and exact.error(again) <= PEER_ERROR
    for layout in contest.LAYOUTS:
        assert exact.error(contest.ours_convolution(problem, [x], w, layout)[0].output()) <= 2e-5


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize("name", ["torch", "torch_channels_last", "onnxruntime"])
def test_pools_agree_with_ours(name, pass_, op):
    one(name)
    problem = fastconv.PoolProblem.parse("mb2ic5ih9iw8kh3sh2ph1", op, pass_=pass_)
    row = contest.pool(problem, 1, [name], seconds=0.001)
    if name in row["refused"]:
        pytest.skip(row["refused"][name])
    assert all(rival["error"] <= 1e-6 for rival in row["rivals"].values())


def test_a_race_times_every_rival():
    row = contest.convolution(fastconv.ConvProblem.parse("mb1ic4ih8oc4kh3"), 1, [], seconds=0.001)
    assert set(row["rivals"]) == set(contest.OURS) and report.ratio(row) is None
    for rival in row["rivals"].values():
        assert 0 < rival["min"] <= rival["median"] and rival["calls"] >= 1 and rival["error"] <= 2e-5
    assert row["kernels"]["NCHW"].startswith("conv2d_forward_")
    assert "NCHW" in report.header(contest.OURS) and len(report.line("x", row, contest.OURS)) > 40


def test_forced_algorithm_that_cannot_run_is_named():
    row = contest.convolution(
        fastconv.ConvProblem.parse("mb1ic4ih8oc4kh5"), 1, [], 0.001, algorithm="winograd_f4x3", layouts=["NHWC"]
    )
    assert "fastconv_nhwc" in row["refused"] and row["rivals"] == {}


def test_peak_counts_its_operations():
    if not peak.available():
        pytest.skip(fastconv.info()["numba rows"])
    top = peak.Peak(1, bits=128)
    top.calls()
    assert top.flops == 2 * peak.CHAINS * 4 * peak.REPEATS


def test_layers_by_name_and_by_text():
    assert list(benchmark.find([])) == list(benchmark.SHORT)
    assert benchmark.find(["resnet_3x3", "mb1ic3ih9oc4kh3"])["mb1ic3ih9oc4kh3"].oc == 4


def test_command_prints_a_table(capsys, tmp_path):
    from fastconv.cli import main

    file = tmp_path / "bench.json"
    arguments = ["bench", "mb1ic4ih8oc8kh3", "--threads", "1", "--peers", "--seconds", "0.001", "--json", str(file)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "mb1ic4ih8oc8kh3" in text and "ratio" in text
    assert "fastconv_nchw" in json.loads(file.read_text())["layers"]["mb1ic4ih8oc8kh3"]["rivals"]


@pytest.mark.parametrize("arguments", [["nonsense"], ["mb1ic4ih8oc8kh3", "--peers", "nobody"]])
def test_command_refuses_in_one_line(capsys, arguments):
    from fastconv.cli import main

    assert main(["bench", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
