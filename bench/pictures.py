"""Draw bench/results: of goals_ISA.json bars of speed with the peak as a line, and a roofline; of curves.json accuracy
against seconds. Files are small PNGs.

python -m bench.pictures [--threads 1] [--isa avx512 avx2]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from bench.goals.lines import rows
from bench.harness import RESULTS
from fastconv.benchmark import report

#: Bars: label -> names of its rivals, of which the fastest counts.
GROUPS = {
    "fastconv": report.OURS,
    "PyTorch": ("torch", "torch_channels_last", "torch_prepacked"),
    "ONNX Runtime": ("onnxruntime",),
    "OpenVINO": ("openvino", "openvino_nhwc"),
    "ncnn": ("ncnn",),
    "MNN (error up to 2e-3)": ("mnn",),
}
COLOURS = ("#c1272d", "#ee8f00", "#4b7bb5", "#7a5195", "#6aa84f", "#999999")
#: One layer of each kind.
SHOWN = (
    "vgg_conv1_2", "vgg_conv3_2", "vgg_conv5_1", "r50_mb1_c2_3x3", "r50_mb1_c4_3x3", "goog_3b_5x5", "r50_mb1_conv1",
    "r50_mb1_c3_3x3_s2", "r50_mb1_c2_1x1_64_256", "r50_mb1_c4_1x1_1024_256", "mnet_dw3", "mnet_dw7", "mnist_conv2_mb64",
)  # fmt: skip
PARTS = ("winograd", "direct", "five", "depthwise", "others")
DOTS_AN_INCH = 110
#: Curves: rival -> label, colour, style of line.
CURVES = {
    "fastconv": ("fastconv", COLOURS[0], "-"),
    "torch": ("PyTorch", COLOURS[1], "-"),
    "torch_channels_last": ("PyTorch, channels_last", COLOURS[1], "--"),
    "torch_compiled": ("PyTorch, compiled", COLOURS[1], ":"),
    "keras_tensorflow": ("Keras on TensorFlow", COLOURS[2], "-"),
    "keras_jax": ("Keras on JAX", COLOURS[2], "--"),
}


def measured(found: dict[str, Any], threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(layer, race) of all layers raced against the peers."""
    for part in PARTS:
        yield from rows(found, part, threads)


def _rate(row: dict[str, Any], names: tuple[str, ...]) -> float:
    fastest = report.best(row, names)
    return 0.0 if fastest is None else report.gflops(row, fastest[0])


def bars(found: dict[str, Any], threads: int, title: str) -> Any:
    """Effective GFLOP/s of each library in its better layout, layer by layer."""
    from matplotlib.figure import Figure

    raced = {name: row for name, row in measured(found, threads) if name in SHOWN}
    names = [name for name in SHOWN if name in raced]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.85 / len(GROUPS)
    for number, ((label, group), colour) in enumerate(zip(GROUPS.items(), COLOURS)):
        places = [i + (number - (len(GROUPS) - 1) / 2) * width for i in range(len(names))]
        axes.bar(places, [_rate(raced[name], group) for name in names], width, label=label, color=colour)
    peaks = [raced[name]["peak"]["min"] for name in names if "peak" in raced[name]]
    if peaks:
        axes.axhline(max(peaks), color="black", linewidth=1, linestyle="--")
        axes.annotate("peak of multiply-adds", (len(names) - 0.5, max(peaks)), ha="right", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_ylabel("GFLOP/s of direct convolution")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, ncols=3)
    return figure


def roofline(found: dict[str, Any], threads: int, title: str) -> Any:
    """Speed over FLOPs a byte, ours and the best peer's, under the two roofs; Winograd goes above the flat one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    raced = dict(measured(found, threads))
    places = [row["mflop"] / row["mbytes"] for row in raced.values()]
    peers = tuple(name for label, group in GROUPS.items() if label != "fastconv" for name in group)
    for label, names, colour, mark in (
        ("best peer", peers, COLOURS[2], "x"),
        ("fastconv", report.OURS, COLOURS[0], "."),
    ):
        axes.plot(places, [_rate(row, names) for row in raced.values()], mark, color=colour, label=label, alpha=0.7)
    roofs = found.get(f"machine/roofs/{threads}")
    if roofs and "gflops" in roofs and places:
        ends = [min(places) / 2, roofs["gflops"] / roofs["gbytes"], max(places) * 2]
        axes.plot(ends, [min(roofs["gflops"], x * roofs["gbytes"]) for x in ends], color="black", linewidth=1)
        roof = f"{roofs['gflops']:.0f} GFLOP/s of multiply-adds, {roofs['gbytes']:.0f} GB/s of a copy"
        axes.annotate(roof, (ends[-1], roofs["gflops"]), ha="right", va="bottom", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP of direct convolution over bytes of input, weight and output")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    return figure


def curves(rows: list[dict[str, Any]], title: str) -> Any:
    """Wrong test digits over seconds of training, both in powers, for each way of each library."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    shown = [row for row in rows if row["rival"] in CURVES]
    for row in shown:
        label, colour, style = CURVES[row["rival"]]
        wrong = [100 * (1 - accuracy) for accuracy in row["accuracy"]]
        axes.plot(row["seconds"], wrong, style, color=colour, label=label, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = (5, 3, 2, 1, 0.7)
    axes.set_yticks(ticks, [f"{100 - tick:g} %" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.invert_yaxis()
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("test digits that are right")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", nargs="+", default=["avx512", "avx2"], help="of the machines whose results to draw")
    args = parser.parse_args()
    for isa in args.isa:
        file = json.loads((RESULTS / f"goals_{isa}.json").read_text(encoding="utf-8"))
        c = file["conditions"]
        title = f"{c['cpu']} ({isa}), {args.threads} thread{'s' if args.threads > 1 else ''}, commit {c['commit']}"
        for name, draw in (("speed", bars), ("roofline", roofline)):
            path = RESULTS / f"{name}_{isa}.png"
            draw(file["rows"], args.threads, title).savefig(path, dpi=DOTS_AN_INCH)
            print(f"written: {path}")
    path = RESULTS / "curves.png"
    file = json.loads((RESULTS / "curves.json").read_text(encoding="utf-8"))
    c, first = file["conditions"], file["rows"][0]
    title = f"MNIST, batches of {first['batch_size']}, {first['threads']} threads; {c['cpu']} ({c['isa']})"
    curves(file["rows"], title).savefig(path, dpi=DOTS_AN_INCH)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
