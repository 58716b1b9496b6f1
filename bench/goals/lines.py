"""The lines of the goals table: goal, floor, and how each number follows from the measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.goals import lists
from bench.goals.jobs import NUMERIC_PRECISIONS, STRICT_ERROR_LIMIT
from fastconv.benchmark import report
from fastconv.dispatch import FAST_ERROR_LIMIT

# The default counts as the best row when it takes at most this many times its time.
NEAR_THE_BEST = 1.05
HOWS = ("min", "median")

Measurements = dict[str, Any]
#: label -> (by the least times, by the median times)
Values = dict[str, tuple[float, float]]


def key(part: str, label: str, threads: int) -> str:
    """The name of a measurement in the result file."""
    return f"{part}/{label}/{threads}"


def rows(found: Measurements, part: str, threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, measurement) of one part."""
    for name, row in found.items():
        which, label, count = name.split("/")
        if which == part and int(count) == threads:
            yield label, row


def geomean(values: Iterable[float]) -> float:
    """Geometric mean; NaN of nothing."""
    numbers = list(values)
    return math.exp(statistics.fmean(map(math.log, numbers))) if numbers else math.nan


@dataclass(frozen=True)
class Line:
    """One line: `values` gives a number a layer; larger is better unless `smaller`. `worst_goal`: for every layer."""

    name: str
    part: str
    goal: float
    floor: float | None
    values: Callable[[Measurements, int], Values]
    worst_goal: float | None = None
    unit: str = "x"
    smaller: bool = False
    summary: Callable[[Iterable[float]], float] = field(default=geomean)

    def verdict(self, values: Values) -> str:
        """ "goal", "floor", "missed" or, without a floor, "short"; by the least times."""
        if not values:
            return "not measured"
        total, worst = self.summary(v[0] for v in values.values()), self._worst(values)[1]
        reached = (lambda a, b: a <= b) if self.smaller else (lambda a, b: a >= b)
        if reached(total, self.goal) and (self.worst_goal is None or reached(worst, self.worst_goal)):
            return "goal"
        if self.floor is None:
            return "short"
        return "floor" if reached(total, self.floor) else "missed"

    def _worst(self, values: Values) -> tuple[str, float]:
        pick = max if self.smaller else min
        label = pick(values, key=lambda name: values[name][0])
        return label, values[label][0]

    def text(self, number: float) -> str:
        """A number in the line's unit."""
        if math.isnan(number):
            return "-"
        if self.unit == "%":
            return f"{100 * number:.0f} %"
        return f"{number:.1e}" if self.unit == "" else f"{number:.2f}{self.unit}"

    def cells(self, found: Measurements, threads: int) -> tuple[str, ...]:
        """The line's cells: goal, floor, measured (least times), (median), worst layer, layers, verdict."""
        values = self.values(found, threads)
        goal = self.text(self.goal)
        if self.worst_goal is not None:
            goal += f", none {'over' if self.smaller else 'under'} {self.text(self.worst_goal)}"
        floor = self.text(self.floor) if self.floor is not None else ""
        if not values:
            return (self.name, str(threads), goal, floor, "-", "-", "-", "0", "not measured")
        worst, number = self._worst(values)
        totals = [self.text(self.summary(v[i] for v in values.values())) for i in (0, 1)]
        return (
            self.name, str(threads), goal, floor, *totals, f"{worst} {self.text(number)}", str(len(values)),
            self.verdict(values),
        )  # fmt: skip


def _share_of_ones(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _ratios(part: str, prefix: str = "", only: str = "") -> Callable[[Measurements, int], Values]:
    def values(found: Measurements, threads: int) -> Values:
        result = {}
        for label, row in rows(found, part, threads):
            pair = [report.ratio(row, how, prefix) for how in HOWS]
            if only in label and None not in pair:
                result[label] = (pair[0], pair[1])
        return result  # type: ignore[return-value]

    return values


def _latency(ours: str, peers: str) -> Callable[[Measurements, int], Values]:
    def values(found: Measurements, threads: int) -> Values:
        result = {}
        for label, row in rows(found, "latency", threads):
            pair = []
            for how in HOWS:
                mine = [t[how] for name, t in row["rivals"].items() if name.startswith(ours)]
                theirs = [t[how] for name, t in row["rivals"].items() if name.startswith(peers)]
                if mine and theirs:
                    pair.append(min(theirs) / min(mine))
            if len(pair) == len(HOWS):
                result[label] = (pair[0], pair[1])
        return result

    return values


def _share(row: dict[str, Any]) -> tuple[float, float]:
    """Our better layout over the peak of the same race."""
    mine = [min(t[how] for name, t in row["rivals"].items() if name in report.OURS) for how in HOWS]
    return tuple(row["mflop"] / 1e3 / t / row["peak"][how] for t, how in zip(mine, HOWS))  # type: ignore[return-value]


def _shares(part: str, names: Iterable[str] | None = None) -> Callable[[Measurements, int], Values]:
    def values(found: Measurements, threads: int) -> Values:
        wanted = None if names is None else set(names)
        # older files raced im2col as well, and have what precision="strict" chose as a row of its own
        picked = ((n, row.get("strict", row)) for n, row in rows(found, part, threads))
        return {n: _share(row) for n, row in picked if "peak" in row and row["rivals"] and (not wanted or n in wanted)}

    return values


def _second_core(found: Measurements, threads: int) -> Values:
    result = {}
    for label, row in rows(found, "second_core", threads):
        gains = [max(row["gains"][layout][how] for layout in ("NCHW", "NHWC")) for how in HOWS]
        result[label] = (gains[0], gains[1])
    return result


def _flat(found: Measurements, threads: int) -> Values:
    """Largest over smallest time per FLOP along each series."""
    result = {}
    for label, row in rows(found, "scale", threads):
        spread = []
        for how in HOWS:
            rates = [size[how] / size["flops"] for size in row["sizes"].values()]
            spread.append(max(rates) / min(rates))
        result[label] = (spread[0], spread[1])
    return result


def _twins(found: Measurements, threads: int) -> Values:
    """The C kernel's time over the Numba kernel's."""
    result = {}
    for label, row in rows(found, "twins", threads):
        for name, times in row["twins"].items():
            pair = [times["cython"][how] / times["numba"][how] for how in HOWS]
            result[f"{label} {name}"] = (pair[0], pair[1])
    return result


def _default_errors(found: Measurements, threads: int) -> Values:
    """Of every listed layer, the larger of both layouts'."""
    return {n: (worst := _error(row, "fast"), worst) for n, row in rows(found, "errors", threads)}


def _strict_errors(found: Measurements, threads: int) -> Values:
    return {n: (worst := _error(row, "strict"), worst) for n, row in rows(found, "errors", threads)}


def _error(row: dict[str, Any], precision: Any) -> float:
    return max(row[f"{precision} {layout}"]["error"] for layout in ("NCHW", "NHWC"))


def _obeyed(found: Measurements, threads: int) -> Values:
    """1 where every numeric precision gave a smaller error."""
    result = {}
    for label, row in rows(found, "errors", threads):
        cases = [(p, row[f"{p} {layout}"]) for p in NUMERIC_PRECISIONS for layout in ("NCHW", "NHWC")]
        good = float(all(case["error"] <= p for p, case in cases))
        result[label] = (good, good)
    return result


def _trained(found: Measurements, threads: int) -> Values:
    """The largest error of any kernel row on trained weights and real images."""
    result = {}
    for label, row in rows(found, "trained", threads):
        worst = max(row["errors"].values())
        result[label] = (worst, worst)
    return result


def _chosen_well(part: str) -> Callable[[Measurements, int], Values]:
    """1 where the default is near the best row, for each layer and layout."""

    def values(found: Measurements, threads: int) -> Values:
        result = {}
        for label, row in rows(found, part, threads):
            for layout, case in row["layouts"].items():
                pair = []
                for how in HOWS:
                    best = min(times[how] for times in case["rows"].values())
                    pair.append(float(case["rows"][case["default"]][how] <= NEAR_THE_BEST * best))
                result[f"{label} {layout}"] = (pair[0], pair[1])
        return result

    return values


def _compared(name: str, part: str, goal: float, floor: float | None, values: Any, worst_goal: Any = None) -> Line:
    """Another's time over ours; the geometric mean counts."""
    return Line(name, part, goal, floor, values, worst_goal)


def _of_peak(name: str, part: str, goal: float, floor: float, values: Any) -> Line:
    return Line(name, part, goal, floor, values, unit="%")


def _at_most(name: str, part: str, limit: float, values: Any) -> Line:
    """An error, the largest counts."""
    return Line(name, part, limit, limit, values, unit="", smaller=True, summary=max)


def _of_layers(name: str, part: str, share: float, values: Any) -> Line:
    """The share of layers where something holds."""
    return Line(name, part, share, share, values, unit="%", summary=_share_of_ones)


LINES = (
    _compared("3x3 stride 1, 64 channels and up, best of all peers", "winograd", 1.3, 1.0, _ratios("winograd"), 1.0),
    _compared("the same, PyTorch", "winograd", 3.0, 2.2, _ratios("winograd", "torch")),
    _compared("1x1, strided and 7x7, best of all peers", "direct", 1.1, 0.95, _ratios("direct"), 0.95),
    _compared("5x5, PyTorch", "five", 2.5, 1.8, _ratios("five", "torch")),
    _compared("depthwise, best of all peers", "depthwise", 1.5, 1.0, _ratios("depthwise")),
    _compared("pooling forward, PyTorch and ONNX Runtime", "pools", 2.0, 1.5, _ratios("pools", only="forward")),
    _compared("pooling backward, PyTorch", "pools", 2.0, 1.5, _ratios("pools", only="backward")),
    _compared("weight gradient, 3x3, 1x1, strided, PyTorch", "weight_gradient", 1.8, 1.0, _ratios("weight_gradient")),
    _compared("input gradient, the same layers, PyTorch", "input_gradient", 1.8, 1.0, _ratios("input_gradient")),
    _compared("batch 1, MNIST layers, a plan's call, PyTorch", "latency", 8.0, 3.0, _latency("plan_", "torch")),
    _compared("the same, ONNX Runtime", "latency", 4.0, None, _latency("plan_", "onnxruntime")),
    _compared("batch 1, MNIST layers, plain conv2d, PyTorch", "latency", 8.0, 3.0, _latency("conv2d_", "torch")),
    _compared("the same, ONNX Runtime", "latency", 4.0, None, _latency("conv2d_", "onnxruntime")),
    _of_peak('plain sums (precision="strict") over 50 MFLOP, share of peak', "plain", 0.95, 0.88, _shares("plain")),
    _of_peak("Winograd, 128-512 channels, share of peak", "winograd", 3.0, 2.2, _shares("winograd", lists.wide())),
    _of_peak("plain sums under AVX2, share of its peak", "avx2", 0.85, 0.85, _shares("avx2")),
    Line("second core, our two threads over our one", "second_core", 1.9, 1.7, _second_core),
    _compared("Numba kernels, C kernels of the same algorithm", "twins", 0.95, 0.85, _twins),
    _of_peak("Numba's plain sums over 200 MFLOP, share of peak", "numba_plain", 0.95, 0.85, _shares("numba_plain")),
    Line("time per FLOP, largest over smallest", "scale", 1.2, None, _flat, smaller=True, summary=max),
    _at_most("default error, worst listed layer", "errors", FAST_ERROR_LIMIT, _default_errors),
    _at_most("strict error, worst listed layer", "errors", STRICT_ERROR_LIMIT, _strict_errors),
    _of_layers("numeric precision obeyed, listed layers", "errors", 1.0, _obeyed),
    _at_most("error on trained weights, worst kernel row", "trained", FAST_ERROR_LIMIT, _trained),
    _of_layers("default within 5 % of the best row, listed layers", "choice", 0.9, _chosen_well("choice")),
    _of_layers("default within 5 % of the best row, unlisted layers", "unlisted", 0.9, _chosen_well("unlisted")),
)

TITLES = ("line", "threads", "goal", "floor", "measured", "by medians", "worst", "layers", "verdict")
#: Parts whose numbers do not depend on the number of threads are measured once, under 1; the second core under 2.
ONCE = {"errors": 1, "trained": 1, "second_core": 2, "avx2": 1}


def table(found: Measurements, threads: Iterable[int]) -> list[tuple[str, ...]]:
    """All lines for each number of threads."""
    cells = []
    for line in LINES:
        for count in threads:
            if ONCE.get(line.part, count) == count:
                cells.append(line.cells(found, count))
    return cells


def text(found: Measurements, threads: Iterable[int]) -> str:
    """The table and what belongs to it: errors of the peers, workspaces, refusals to choose well."""
    threads = list(threads)
    parts = ["\n".join(report.columns([TITLES, *table(found, threads)]))]
    for title, lines in (
        (
            "Largest error of each rival in the races, over the largest output; making ready and first call, median",
            _rivals(found),
        ),
        ("Time per FLOP (1 = the smallest) and workspace by size", _scales(found, threads)),
        ("Defaults that are not near the best row", _misses(found, threads)),
        ("Layers where a peer is ahead", _behind(found, threads)),
    ):
        if lines:
            parts.append("\n".join([title, *(f"  {line}" for line in lines)]))
    return "\n\n".join(parts)


def _rivals(found: Measurements) -> list[str]:
    errors: dict[str, tuple[float, str]] = {}
    ready: dict[str, list[float]] = {}
    for name, row in found.items():
        for rival, numbers in row.get("rivals", {}).items():
            if "ready" in numbers:
                errors[rival] = max(errors.get(rival, (0.0, "")), (numbers["error"], name.split("/")[1]))
                ready.setdefault(rival, []).append(1e3 * numbers["ready"])
    return [
        f"{rival:<22} {error:.1e} {layer:<24} {statistics.median(ready[rival]):8.1f} ms"
        for rival, (error, layer) in sorted(errors.items())
    ]


def _scales(found: Measurements, threads: Iterable[int]) -> list[str]:
    lines = []
    for count in threads:
        for label, row in rows(found, "scale", count):
            least = min(size["min"] / size["flops"] for size in row["sizes"].values())
            for name, size in row["sizes"].items():
                rate = size["min"] / size["flops"] / least
                megabytes = size["workspace"] / 1e6
                lines.append(f"{label:<12} {count} thr  {name:<30} {rate:5.2f}  {megabytes:8.2f} MB  {size['kernel']}")
    return lines


def _misses(found: Measurements, threads: Iterable[int]) -> list[str]:
    lines = []
    for count in threads:
        for part in ("choice", "unlisted"):
            for label, row in rows(found, part, count):
                for layout, case in row["layouts"].items():
                    times = {name: t["min"] for name, t in case["rows"].items()}
                    best = min(times, key=lambda name: times[name])
                    loss = times[case["default"]] / times[best]
                    if loss > NEAR_THE_BEST:
                        chosen, better = (n.removeprefix("conv2d_forward_") for n in (case["default"], best))
                        names = f"{chosen}, best {better}"
                        lines.append(f"{label:<24} {layout} {count} thr  {loss:5.2f}x  {names}  {row['problem']}")
    return lines


def _behind(found: Measurements, threads: Iterable[int]) -> list[str]:
    lines = []
    for count in threads:
        for part in ("winograd", "direct", "five", "depthwise", "others"):
            for label, row in rows(found, part, count):
                value = report.ratio(row)
                peer = report.best(row, report.peers_of(row))
                if value is not None and value < 1 and peer is not None:
                    error = row["rivals"][peer[0]]["error"]
                    lines.append(
                        f"{label:<26} {count} thr  {value:.2f}x  {peer[0]} (its error {error:.0e})  {row['problem']}"
                    )
    return lines
