"""What the benchmarks share: layer lists, the conditions of a run, result files; timing is fastconv.benchmark's."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import fastconv
from fastconv.benchmark import operands, race

__all__ = ["BENCH", "RESULTS", "conditions", "layers", "operands", "race", "save"]

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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def conditions(**extra: Any) -> dict[str, Any]:
    """CPU, ISA, versions, commit and date of a run: what a result file must name."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=BENCH, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # a machine without git
        commit = ""
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
