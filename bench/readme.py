"""Write the README's tables from bench/results/*.json: no number in it is typed.

python -m bench.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.goals.lines import TITLES, table
from bench.harness import RESULTS
from bench.pictures import SHOWN, measured
from fastconv.benchmark import report

README = Path(__file__).parents[1] / "README.md"


def _conditions(results: dict[str, Any]) -> str:
    """CPU, peers and commit of a run."""
    c = results["conditions"]
    names = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "ncnn": "ncnn", "MNN": "MNN"}
    peers = ", ".join(
        f"{name} {c['versions'][key].split('+')[0]}" for key, name in names.items() if key in c["versions"]
    )
    commits = sorted({row["commit"] for row in results["rows"].values()})
    return f"{c['cpu']} ({c['isa']}), commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}; {peers}."


def _speed(results: dict[str, Any]) -> str:
    """Ours against the best peer on one layer of each kind."""
    found = results["rows"]
    lines = [
        f"{_conditions(results)} GFLOP/s of direct convolution, better layout of each; ratio of times, fastest calls "
        "(medians), to the best of all peers and to PyTorch.",
        "",
        "| layer | threads | ours | of peak | kernel | error | best peer | | error | ratio | to PyTorch |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for threads in (1, 2):
        raced = dict(measured(found, threads))
        for name in (name for name in SHOWN if name in raced):
            row = raced[name]
            _, kernel, ours, share, error, peer, theirs, their_error, ratio, median = report.summary(name, row)
            torch = report.ratio(row, prefix="torch")
            lines.append(
                f"| {name} | {threads} | {ours} | {share} | {kernel.rpartition(' ')[0]} | {error} | {peer} | {theirs} "
                f"| {their_error} | {ratio}x ({median}x) | {f'{torch:.1f}x' if torch else '-'} |"
            )
    return "\n".join(lines)


def _goals(results: dict[str, Any]) -> str:
    """Goal, floor and measured value of each line."""
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    measured_lines = (cells for cells in table(results["rows"], (1, 2)) if cells[-1] != "not measured")
    lines.extend("| " + " | ".join(cells) + " |" for cells in measured_lines)
    return "\n".join(lines)


def _training(results: dict[str, Any]) -> str:
    """Images a second for each thread count, and the ratio to PyTorch."""
    c = results["conditions"]
    lines = [
        f"{c['cpu']} ({c['isa']}), PyTorch {c['versions']['torch']} in the better of its two layouts, commit "
        f"{c['commit']}; turns interleaved, images a second at the median turn.",
        "",
        "| batch | threads | fastconv | PyTorch | ratio, fastest turns | ratio, median |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["rows"]:
        lines.append(
            f"| {r['batch_size']} | {r['threads']} | {r['fastconv']:.0f} | {r['torch']:.0f} | {r['ratio_min']:.1f}x "
            f"| {r['ratio_median']:.1f}x |"
        )
    return "\n".join(lines)


def _accuracy(results: dict[str, Any]) -> str:
    """Test accuracy after each run of `fastconv train`."""
    lines = ["| digits | seed | test accuracy |", "|---|---|---|"]
    for r in results["rows"]:
        lines.append(f"| {r['data']} | {r['seed']} | {100 * r['accuracy']:.2f} % |")
    return "\n".join(lines)


#: Marker in the README -> (result file, writer).
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "speed_avx512": ("goals_avx512.json", _speed),
    "speed_avx2": ("goals_avx2.json", _speed),
    "goals_avx512": ("goals_avx512.json", _goals),
    "goals_avx2": ("goals_avx2.json", _goals),
    "training": ("training.json", _training),
    "accuracy": ("accuracy.json", _accuracy),
}


def render(text: str) -> str:
    """`text` with each marked part replaced by its table."""
    for marker, (file, write) in TABLES.items():
        table = write(json.loads((RESULTS / file).read_text(encoding="utf-8")))
        pattern = re.compile(rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{README.name} has no part marked {marker}")
        text = pattern.sub(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the README agrees with the results")
    args = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wanted = render(text)
    if args.check:
        print("README agrees with bench/results" if text == wanted else "README differs: run python -m bench.readme")
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
