"""Fair timing: rivals take turns in one process, round after round; minimum and median of many short repeats."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fastconv

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"


def layers(*names: str) -> Iterator[tuple[str, fastconv.ConvProblem]]:
    """(name, problem) of the listed files of bench/layers, all of them without names."""
    files = [BENCH / "layers" / f"{name}.txt" for name in names] or sorted((BENCH / "layers").glob("*.txt"))
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                text, name = line.split()
                yield name, fastconv.ConvProblem.parse(text)


def operands(problem: fastconv.ConvProblem, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ReLU(N(0, 1)) input and He-initialised weight, NCHW and OIHW, as inside a trained network."""
    p, rng = problem, np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((p.mb, p.ic, p.ih, p.iw), np.float32), 0)
    w = rng.standard_normal((p.oc, p.icg, p.kh, p.kw), np.float32)
    return x, w * np.float32((2 / (p.icg * p.kh * p.kw)) ** 0.5)


def race(rivals: dict[str, Callable[[], Any]], seconds: float = 2.0, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Seconds of one call of each rival: {"min", "median", "calls"}; they alternate within each round.

    Each rival gets about `seconds` in all and at least `rounds` turns; a turn of a short call repeats it so that the
    clock's resolution does not matter. The first call of each is not counted.
    """
    repeats = {}
    for name, call in rivals.items():
        call()
        start = time.perf_counter()
        call()
        once = max(time.perf_counter() - start, 1e-7)
        repeats[name] = max(1, int(1e-3 / once))
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    deadline = time.perf_counter() + seconds * len(rivals)
    while time.perf_counter() < deadline or min(map(len, samples.values())) < rounds:
        for name, call in rivals.items():
            count = repeats[name]
            start = time.perf_counter()
            for _ in range(count):
                call()
            samples[name].append((time.perf_counter() - start) / count)
    return {
        name: {"min": min(s), "median": statistics.median(s), "calls": len(s) * repeats[name]}
        for name, s in samples.items()
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def conditions(**extra: Any) -> dict[str, Any]:
    """CPU, ISA, versions, commit and date of a run: what a result file must name."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=BENCH, capture_output=True, text=True, check=False
    ).stdout.strip()
    information = fastconv.info()
    packages = ("numpy", "numba", "torch", "onnxruntime", "openvino", "ncnn", "MNN", "keras", "tensorflow", "jax")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": information["cpu"],
        "isa": information["isa"],
        "cores": information["cores"],
        "python": platform.python_version(),
        "versions": {name: v for name in packages if (v := _version(name))},
        **extra,
    }


def save(name: str, rows: Any, **extra: Any) -> Path:
    """Write bench/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"conditions": conditions(**extra), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return path
