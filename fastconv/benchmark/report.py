"""A contest as numbers that decide and as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastconv.benchmark.contest import OURS

# What a column is called in a table.
SHORT_NAMES = {
    "fastconv_nchw": "NCHW", "fastconv_nhwc": "NHWC", "torch": "torch", "torch_channels_last": "torch_cl",
    "torch_prepacked": "torch_pp", "onnxruntime": "ort", "openvino": "ov", "openvino_nhwc": "ov_nhwc", "ncnn": "ncnn",
    "mnn": "mnn",
}  # fmt: skip
WIDTH = 30


def best(row: dict[str, Any], names: Iterable[str], how: str = "min") -> tuple[str, float] | None:
    """The fastest of these rivals and its seconds, or None when none ran."""
    times = {name: row["rivals"][name][how] for name in names if name in row["rivals"]}
    return min(times.items(), key=lambda item: item[1]) if times else None


def peers_of(row: dict[str, Any], prefix: str = "") -> list[str]:
    """The peers that ran, or those of one library."""
    return [name for name in row["rivals"] if name not in OURS and name.startswith(prefix)]


def ratio(row: dict[str, Any], how: str = "min", prefix: str = "", ours: Iterable[str] = OURS) -> float | None:
    """Time of the best peer over our better layout's: above 1 we are faster. None without a peer."""
    peer, mine = best(row, peers_of(row, prefix), how), best(row, ours, how)
    return None if peer is None or mine is None else peer[1] / mine[1]


def gflops(row: dict[str, Any], name: str) -> float:
    """Effective GFLOP/s of a rival at its fastest: FLOPs of the direct convolution."""
    return row["mflop"] / 1e3 / row["rivals"][name]["min"]


def kernel_of(row: dict[str, Any]) -> str:
    """The kernel of our better layout, without the parts that every one shares."""
    mine = best(row, OURS)
    if mine is None:
        return "-"
    return row["kernels"][mine[0].rpartition("_")[2].upper()].removeprefix("conv2d_forward_").replace("__", ", ")


def header(names: Iterable[str]) -> str:
    """The column titles of `line`."""
    columns = " ".join(f"{SHORT_NAMES.get(name, name):>8}" for name in names)
    return f"{'layer':<{WIDTH}} thr {columns}  ratio   med  peak%  kernel"


def line(label: str, row: dict[str, Any], names: Iterable[str], unit: str = "gflops") -> str:
    """GFLOP/s (or, for a pool, microseconds) of each rival, ratio to the best peer, share of the peak, kernel."""
    cells = []
    for name in names:
        if name not in row["rivals"]:
            cells.append(f"{'-':>8}")
        elif unit == "gflops":
            cells.append(f"{gflops(row, name):8.1f}")
        else:
            cells.append(f"{1e6 * row['rivals'][name]['min']:8.1f}")
    ratios = [f"{value:6.2f}" if (value := ratio(row, how)) is not None else f"{'-':>6}" for how in ("min", "median")]
    share, kernel = f"{'-':>5}", ""
    mine = best(row, OURS)
    if unit == "gflops" and mine is not None:
        kernel = kernel_of(row)
        if "peak" in row:
            share = f"{100 * gflops(row, mine[0]) / row['peak']['min']:5.0f}"
    return f"{label:<{WIDTH}} {row['threads']:>3} {' '.join(cells)} {' '.join(ratios)}  {share}  {kernel}"


def error_line(row: dict[str, Any], names: Iterable[str]) -> str:
    """The errors below the speeds, as shares of the largest output."""
    cells = [f"{row['rivals'][n]['error']:8.0e}" if n in row["rivals"] else f"{'-':>8}" for n in names]
    return f"{'  error':<{WIDTH}}     {' '.join(cells)}"


SUMMARY_TITLES = ("layer", "kernel", "GFLOP/s", "of peak", "error", "best peer", "GFLOP/s", "error", "ratio", "median")


def summary(label: str, row: dict[str, Any]) -> tuple[str, ...]:
    """One line for a user: our better layout, the best peer, the ratio of their times (above 1: ours is faster)."""
    mine, peer = best(row, OURS), best(row, peers_of(row))
    if mine is None:
        return (label, *("-" for _ in SUMMARY_TITLES[1:]))
    share = f"{100 * gflops(row, mine[0]) / row['peak']['min']:.0f} %" if "peak" in row else "-"
    kernel = f"{kernel_of(row)} {mine[0].rpartition('_')[2].upper()}"
    error = f"{row['rivals'][mine[0]]['error']:.0e}"
    ours = (label, kernel, f"{gflops(row, mine[0]):.0f}", share, error)
    if peer is None:
        return (*ours, "-", "-", "-", "-", "-")
    theirs = (peer[0], f"{gflops(row, peer[0]):.0f}", f"{row['rivals'][peer[0]]['error']:.0e}")
    return (*ours, *theirs, f"{ratio(row, 'min'):.2f}", f"{ratio(row, 'median'):.2f}")


def columns(cells: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
