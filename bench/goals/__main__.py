"""The goals table: measures what is missing, merges it into a file, prints goal, floor and measured for each line.

    python -m bench.goals [--threads 1 2] [--only winograd latency] [--limit 500] [--quick] [--fresh] [--passes 2]
    python -m bench.goals --print

The whole takes about an hour. --limit stops in time; the next run of the same command without --fresh goes on where it
stopped.
On a machine shared with others some minutes are slow for all that reads memory: with --passes every layer is raced so
often, a pass over all of them later, and each rival's least times count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fastconv
from bench.goals import jobs, lines, lists
from bench.harness import RESULTS, conditions
from fastconv import PoolProblem

Job = tuple[str, Callable[[], dict[str, Any]]]
SECONDS = 0.25
QUICK_SECONDS = 0.05
# A share of the peak holds calls of 50 ms against a loop of 2 ms: they need many turns to meet a quiet moment.
PEAK_SECONDS = 4
# In a quick run one layer in so many is measured.
QUICK_STEP = 5


def _layers(part: str, found: lists.Layers, run: Any, threads: int, *arguments: Any) -> Iterator[Job]:
    for name, problem in found.items():
        yield lines.key(part, name, threads), partial(run, problem, *arguments)


def _pools(threads: int, seconds: float) -> Iterator[Job]:
    for op, text in lists.POOLS:
        for pass_, indices in (("forward", False), ("forward", True), ("backward", False)):
            if indices and op == "avg_pool2d":
                continue
            problem = PoolProblem.parse(text, op, pass_=pass_, return_indices=indices)
            label = f"{op} {pass_}{' with indices' if indices else ''} {text}"
            yield lines.key("pools", label, threads), partial(jobs.pooling, problem, threads, seconds)


def _scales(threads: int, seconds: float) -> Iterator[Job]:
    for name, texts in lists.SCALES.items():
        for layout in ("NCHW", "NHWC"):
            yield lines.key("scale", f"{name} {layout}", threads), partial(jobs.scale, texts, layout, threads, seconds)


def _trained(threads: int, seconds: float) -> Iterator[Job]:
    for number in range(3):
        yield lines.key("trained", f"conv{number + 1}", threads), partial(jobs.trained, number)


#: Part -> its measurements for (threads, seconds a rival).
PARTS: dict[str, Callable[[int, float], Iterator[Job]]] = {
    "machine": lambda t, s: iter([(lines.key("machine", "roofs", t), partial(jobs.machine, t, s))]),
    "winograd": lambda t, s: _layers("winograd", lists.winograd(), jobs.layer, t, t, s),
    "direct": lambda t, s: _layers("direct", lists.direct(), jobs.layer, t, t, s),
    "five": lambda t, s: _layers("five", lists.five(), jobs.layer, t, t, s),
    "depthwise": lambda t, s: _layers("depthwise", lists.depthwise(), jobs.layer, t, t, s),
    "pools": _pools,
    "weight_gradient": lambda t, s: _layers(
        "weight_gradient", lists.gradients(), jobs.gradient, t, "backward_weight", t, s
    ),
    "input_gradient": lambda t, s: _layers(
        "input_gradient", lists.gradients(), jobs.gradient, t, "backward_input", t, s
    ),
    "latency": lambda t, s: _layers("latency", lists.latency(), jobs.latency, t, t, s),
    "plain": lambda t, s: _layers("plain", lists.plain(), jobs.plain, t, t, PEAK_SECONDS * s),
    "second_core": lambda t, s: _layers("second_core", lists.second_core(), jobs.second_core, t, s),
    "scale": _scales,
    "numba_plain": lambda t, s: _layers("numba_plain", lists.plain_large(), jobs.numba_plain, t, t, s),
    "twins": lambda t, s: _layers("twins", lists.twins(), jobs.twins, t, t, s / 4),
    "avx2": lambda t, s: _layers("avx2", lists.plain(), jobs.plain_avx2, t, t, PEAK_SECONDS * s),
    "trained": _trained,
    "errors": lambda t, s: _layers("errors", lists.everything(), jobs.errors, t),
    "choice": lambda t, s: _layers("choice", lists.everything(), jobs.choice, t, t, s / 2),
    "unlisted": lambda t, s: _layers("unlisted", lists.unlisted(), jobs.choice, t, t, s / 2),
    "others": lambda t, s: _layers("others", lists.others(), jobs.layer, t, t, s),
}


def _wanted(parts: list[str], threads: list[int], quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    seconds = QUICK_SECONDS if quick else SECONDS
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for part in parts:
        for count in threads:
            if lines.ONCE.get(part, count) == count:
                every = list(PARTS[part](count, seconds))
                found.update(every[::QUICK_STEP] if quick else every)
    return found


def _rounded(value: Any) -> Any:
    """Floats to five digits, which is more than a clock gives."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _lesser(before: Any, now: Any, better: Callable[..., float] = min) -> Any:
    """Two rows of one measurement as one: of each rival the lesser minimum and median, of a peak the greater rates."""
    if not isinstance(now, dict) or not isinstance(before, dict) or "gains" in now:
        return now  # gains are ratios already
    if {"min", "median"} <= now.keys() & before.keys():
        return {**now, **{how: better(before[how], now[how]) for how in ("min", "median")}}
    return {
        name: _lesser(before.get(name), inner, max if name == "peak" else better) for name, inner in now.items()
    }


def _write(path: Path, now: dict[str, Any], found: dict[str, Any]) -> None:
    """The whole file anew, a measurement a line; a reader never sees half of it."""
    lines_ = [f"{json.dumps(name)}: {json.dumps(_rounded(found[name]))}" for name in sorted(found)]
    text = f'{{"conditions": {json.dumps(now)},\n"rows": {{\n' + ",\n".join(lines_) + "\n}}\n"
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _progress(name: str, row: dict[str, Any], seconds: float) -> str:
    values = {line.name: line.values({name: row}, int(name.split("/")[2])) for line in lines.LINES}
    numbers = [v for values_ in values.values() for v, _ in values_.values()]
    return f"{name:<60} {seconds:5.1f} s  {' '.join(f'{v:.3g}' for v in numbers)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.goals", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--layers", nargs="+", help="only these labels of the parts")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS", help="start nothing after this")
    parser.add_argument(
        "--quick", action="store_true", help=f"one layer in {QUICK_STEP}, short turns: a look, no result"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what the file has")
    parser.add_argument("--passes", type=int, default=1, metavar="N", help="race each layer so often, apart")
    parser.add_argument("--save", metavar="NAME", help="the file bench/results/NAME.json (goals_ISA)")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the table of the file")
    args = parser.parse_args()
    name = args.save or f"{'quick_' if args.quick else ''}goals_{fastconv.info()['isa']}"
    path = RESULTS / f"{name}.json"
    file = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    found = file["rows"]
    if not args.only_print:
        now = conditions()
        start = time.perf_counter()
        wanted = _wanted(args.only, args.threads, args.quick)
        if args.layers:
            wanted = {name: job for name, job in wanted.items() if name.split("/")[1] in args.layers}
        turns = [
            (turn, name)
            for turn in range(1, args.passes + 1)
            for name in wanted
            if args.fresh or (found[name].get("passes", 1) if name in found else 0) < turn
        ]
        for number, (turn, name) in enumerate(turns):
            if time.perf_counter() - start > args.limit:
                print(f"time is up: {len(turns) - number} of {len(turns)} measurements are missing; run it again")
                break
            began = time.perf_counter()
            row = wanted[name]()
            if turn > 1:
                row = _lesser(found[name], row)
            row = {**row, "passes": turn, "commit": now["commit"], "date": now["date"]}
            found[name] = row
            print(_progress(name, row, time.perf_counter() - began))
            sys.stdout.flush()
            RESULTS.mkdir(exist_ok=True)
            _write(path, now, found)
    print(lines.text(found, args.threads))


if __name__ == "__main__":
    main()
