"""The pytest-benchmark suites collect, and a tiny case of each runs; no speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastconv import host
from tests.rows import needs_cython

COMPILED = "numba" if host.backend_fault("cython") else "cython"

ROOT = Path(__file__).parents[1]


def suite(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


@pytest.mark.parametrize("file", ["bench/test_layers.py", "bench/test_peers.py"])
def test_suites_collect(file):
    done = suite("--collect-only", file)
    assert done.returncode == 0 and "mnist_conv2_mb1" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "chosen"),
    [("bench/test_layers.py", f"mnist_conv2_mb1 and im2col__{COMPILED} and forward"),
     ("bench/test_peers.py", "mnist_conv2_mb1 and 1thr and (fastconv or torch)")],
)  # fmt: skip
def test_one_case_of_each_suite_runs(file, chosen, tmp_path):
    report = tmp_path / "report.json"
    done = suite(
        file, "-k", chosen, "--benchmark-only", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1",
        "--benchmark-group-by=param:layer", f"--benchmark-json={report}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(report.read_text())["benchmarks"]
    assert cases and all(case["extra_info"]["mflop"] > 0 for case in cases)


def test_goals_parts_and_lines_fit():
    """Every line is measured by a part; every part names its measurements as the lines read them."""
    from bench.goals import lines
    from bench.goals.__main__ import PARTS

    assert {line.part for line in lines.LINES} <= set(PARTS)
    for part, jobs in PARTS.items():
        keys = [key for key, _ in jobs(1, 0.1)]
        assert keys and len(keys) == len(set(keys))
        assert all(key.split("/")[0] == part and key.split("/")[2] == "1" for key in keys)


@needs_cython
def test_goals_passes_keep_the_least_times_and_the_greatest_peak():
    from bench.goals.__main__ import _lesser

    slow = {"rivals": {"a": {"min": 2.0, "median": 3.0, "error": 1e-6}}, "peak": {"min": 90.0, "median": 80.0}}
    fast = {"rivals": {"a": {"min": 1.0, "median": 4.0, "error": 2e-6}}, "peak": {"min": 80.0, "median": 85.0}}
    assert _lesser(slow, fast) == {
        "rivals": {"a": {"min": 1.0, "median": 3.0, "error": 2e-6}}, "peak": {"min": 90.0, "median": 85.0}
    }  # fmt: skip
    assert _lesser({"strict": slow}, {"strict": fast, "new": 1}) == {"strict": _lesser(slow, fast), "new": 1}
    first, second = ({"gains": {"NCHW": {"min": gain, "median": gain}}} for gain in (1.0, 2.0))
    assert _lesser(first, second) == second


def test_goals_table_of_one_measurement():
    from bench.goals import jobs, lines
    from fastconv import ConvProblem

    problem = ConvProblem.parse("mb1ic8ih8oc8kh3ph1")
    found = {
        lines.key("errors", "tiny", 1): jobs.errors(problem),
        lines.key("choice", "tiny", 1): jobs.choice(problem, 1, 0.001),
        lines.key("plain", "tiny", 1): jobs.plain(problem, 1, 0.001),
        lines.key("latency", "tiny", 1): jobs.latency(problem, 1, 0.001),
        lines.key("scale", "tiny", 1): jobs.scale([problem.text], "NHWC", 1, 0.001),
    }
    text = lines.text(json.loads(json.dumps(found)), [1])
    assert "default error, worst listed layer" in text and "tiny" in text
    verdicts = {cells[0]: cells[-1] for cells in lines.table(found, [1])}
    assert verdicts["default error, worst listed layer"] == "goal"
    assert verdicts["depthwise, best of all peers"] == "not measured"


def test_pictures_are_small(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import pictures
    from bench.goals import lines
    from bench.goals.lists import everything
    from fastconv.benchmark import contest

    name = "mnist_conv2_mb64"
    found = {
        lines.key("others", name, 1): contest.convolution(everything()[name], 1, [], 0.001),
        lines.key("machine", "roofs", 1): {"threads": 1, "gbytes": 20.0, "gflops": 100.0},
    }
    for draw in (pictures.bars, pictures.roofline):
        file = tmp_path / f"{draw.__name__}.png"
        draw(found, 1, "title").savefig(file, dpi=pictures.DOTS_AN_INCH)
        assert 1000 < file.stat().st_size < 150_000


def test_tables_of_the_readme_are_those_of_the_results():
    """Otherwise: python -m bench.readme."""
    from bench import readme

    text = readme.README.read_text(encoding="utf-8")
    assert readme.render(text) == text
