"""Write the README's tables from bench/results/*.json: no number in it is typed.

python -m bench.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
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


#: Rows of the training table.
NETWORKS = {"forum": "the digit network", "vgg": "VGG-like, 32x32x3", "block": "one 64->64 layer at 56x56"}


def _training(results: dict[str, Any]) -> str:
    """Images a second for each network and thread count, and the ratios to PyTorch and Keras."""
    c = results["conditions"]
    keras = ", ".join(f"{name} {version}" for name, version in sorted(c.get("keras", {}).items()))
    lines = [
        f"{c['cpu']} ({c['isa']}), PyTorch {c['versions']['torch']} in the better of its two layouts, {keras} (the "
        f"better backend), commit {c['commit']}; a process each, in turns; images a second at the median turn, ratios "
        "at the fastest turns (at the median ones).",
        "",
        "| network | batch | threads | fastconv | not fused | PyTorch | Keras | PyTorch's time over ours | Keras's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results["rows"]:
        rates = {name: v["median"] for name, v in r["images_per_second"].items()}
        best = {library: max((v for n, v in rates.items() if n.startswith(library)), default=None)
                for library in ("torch", "keras")}  # fmt: skip
        ratios = [f"{r[x]['min']:.1f}x ({r[x]['median']:.1f}x)" if x in r else "-" for x in ("torch", "keras")]
        peers = [f"{best[x]:,.0f}" if best[x] else "-" for x in ("torch", "keras")]
        lines.append(
            f"| {NETWORKS[r['network']]} | {r['batch_size']} | {r['threads']} | {rates['fastconv']:,.0f} | "
            f"{rates['fastconv_unfused']:,.0f} | {' | '.join(peers)} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


#: Rows of the table of whole epochs.
LIBRARIES = {
    "fastconv": "fastconv", "fastconv_unfused": "fastconv, not fused", "fastconv_augmented": "fastconv, augmenting",
    "torch": "PyTorch", "torch_channels_last": "PyTorch, channels_last", "torch_compiled": "PyTorch, compiled",
    "keras_tensorflow": "Keras on TensorFlow", "keras_jax": "Keras on JAX",
}  # fmt: skip


def _curves(results: dict[str, Any]) -> str:
    """Whole epochs: images a second, seconds to each accuracy."""
    rows = results["rows"]
    accuracies = list(rows[0]["seconds_to"])
    titles = ["library", "images a second", *(f"s to {100 * float(a):g} %" for a in accuracies), "last accuracy"]
    first = rows[0]
    lines = [
        f"Batches of {first['batch_size']}, {first['threads']} threads, {first['epochs']} epochs; seconds of training "
        "alone.",
        "",
        "| " + " | ".join(titles) + " |",
        "|---" * len(titles) + "|",
    ]
    for r in rows:
        seconds = ["-" if s is None else f"{s:.1f}" for s in r["seconds_to"].values()]
        cells = [LIBRARIES[r["rival"]], f"{r['images_per_second']['median']:,.0f}", *seconds,
                 f"{100 * r['accuracy'][-1]:.2f} %"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _until(results: dict[str, Any]) -> str:
    """Seconds to a test accuracy, process start included."""
    lines = ["| seed | test accuracy | epochs | seconds, start to end |", "|---|---|---|---|"]
    for r in results["rows"]:
        lines.append(f"| {r['seed']} | {100 * r['accuracy']:.2f} % | {r['epochs']} | {r['seconds']:.1f} |")
    seconds = statistics.median(r["seconds"] for r in results["rows"])
    threads, isa = results["rows"][0]["threads"], results["conditions"]["isa"]
    lines += ["", f"Median {seconds:.1f} s with {threads} threads ({isa})."]
    return "\n".join(lines)


def _accuracy(results: dict[str, Any]) -> str:
    """Test accuracy after each run of `fastconv train`."""
    lines = ["| digits | seed | test accuracy |", "|---|---|---|"]
    for r in results["rows"]:
        lines.append(f"| {r['data']} | {r['seed']} | {100 * r['accuracy']:.2f} % |")
    return "\n".join(lines)


def _numba_steps(results: dict[str, Any]) -> str:
    """From plain loops to the library's kernels."""
    lines = ["| step | GFLOP/s | of the peak |", "|---|---|---|"]
    for name, row in results["rows"].items():
        lines.append(f"| {name} | {row['gflops']:.1f} | {row['share']['min']:.0%} |")
    c = results["conditions"]
    told = f"`{c['problem']}`, {c['cpu']} ({c['isa']}), one thread, Numba {c['versions']['numba']}"
    return "\n".join([*lines, "", f"{told}, tiles of {c['tile']}."])


def _compile_time(results: dict[str, Any]) -> str:
    """The slowest kernels to compile, and a network."""
    rows = dict(results["rows"])
    network = rows.pop("network")
    order = sorted(rows, key=lambda name: -rows[name]["cold"])
    middle = statistics.median(row["cold"] for row in rows.values())
    lines = ["| first call | seconds | from the cache |", "|---|---|---|"]
    for name in order[:3]:
        lines.append(f"| {name} | {rows[name]['cold']:.2f} | {rows[name]['cached']:.2f} |")
    cached = statistics.median(row["cached"] for row in rows.values())
    lines.append(f"| the median of {len(rows)} | {middle:.2f} | {cached:.2f} |")
    lines.append(f"| `fastconv train`'s network, start of Python to end of a step | {network['cold']:.1f} "
                 f"| {network['cached']:.2f} |")  # fmt: skip
    return "\n".join(lines)


def _twins(results: dict[str, Any]) -> str:
    """Numba's rows beside C's of the same name: means over layers and layouts."""
    found: dict[tuple[str, int], list[float]] = {}
    for key, row in results["rows"].items():
        if key.startswith("twins/"):
            for name, times in row["twins"].items():
                pass_and_algorithm = name.rpartition(" ")[0]
                ratio = times["cython"]["min"] / times["numba"]["min"]
                found.setdefault((pass_and_algorithm, row["threads"]), []).append(ratio)
    names = sorted({name for name, _ in found})
    lines = ["| pass, algorithm | 1 thread | worst | 2 threads | worst |", "|---|---|---|---|---|"]
    for name in names:
        cells = []
        for threads in (1, 2):
            ratios = found.get((name, threads))
            cells += [f"{statistics.geometric_mean(ratios):.2f}x", f"{min(ratios):.2f}x"] if ratios else ["-", "-"]
        lines.append(f"| {name.replace('_', ' ', 1) if name.startswith('backward') else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


#: Marker in the README -> (result file, writer).
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "speed_avx512": ("goals_avx512.json", _speed),
    "speed_avx2": ("goals_avx2.json", _speed),
    "goals_avx512": ("goals_avx512.json", _goals),
    "goals_avx2": ("goals_avx2.json", _goals),
    "training": ("train.json", _training),
    "curves": ("curves.json", _curves),
    "numba_steps": ("numba_steps.json", _numba_steps),
    "compile_time": ("compile_time.json", _compile_time),
    "twins": ("goals_avx2.json", _twins),
    "until": ("until.json", _until),
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
