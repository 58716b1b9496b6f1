"""What Numba's compiler costs a user: each kernel's first call, a network's first step, and both from the cache.

    python -m bench.compile_time [--only NAME ...] [--over SECONDS] [--repeats 3] [--save compile_time]

Every figure is of a process of its own and the least of some: of those in the file, too, for the rows that --only and
--over name (other programs only add to a time). A kernel's is its first call less a second one, with
Numba imported: without a cache, so that everything is compiled, and with one. The network is that of `fastconv train`:
from the start of Python to the end of one step on 64 digits, forward, backward and update, all kernels Numba's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench.harness import RESULTS, save
from fastconv.functional.warming import _everything

KERNEL = """
import sys, time
import numba, fastconv
from fastconv import dispatch
from fastconv.functional.warming import _everything, _operands
name, layout, dtype = sys.argv[1:]
kernel, problem = next(job for job in _everything([layout], [dtype]) if job[0].name == name)
from fastconv._numba import tasks
tasks._listen["int64"]  # what the first compilation of all costs beside its kernel is the network's
plan, arrays = dispatch.plan_for(problem, kernel), _operands(problem)
seconds = []
for _ in range(2):
    start = time.perf_counter()
    plan(*arrays)
    seconds.append(time.perf_counter() - start)
print(seconds[0] - seconds[1])
"""

NETWORK = """
import numpy as np
from fastconv.nn.networks import mnist_network
model = mnist_network(0)
model.compile("rmsprop", "sparse_categorical_crossentropy", backend="numba", fuse=False)
model.train_on_batch(np.ones((64, 28, 28, 1), np.float32), np.zeros(64, np.int64))
print("done", flush=True)
"""


def run(code: str, *arguments: str, cache: str) -> tuple[float, str]:
    """Seconds from the start of a process to its line of output, and the line."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "FASTCONV_CACHE": cache}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return seconds, line


def cold_and_cached(code: str, *arguments: str, repeats: int, printed: bool) -> dict[str, float]:
    """The least of some processes each: seconds that the code printed, or that the process took."""
    found: dict[str, list[float]] = {"cold": [], "cached": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for what in found.values():
                seconds, text = run(code, *arguments, cache=cache)
                what.append(float(text) if printed else seconds)
    return {name: min(what) for name, what in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME", help="kernels with one of these in their names; `network`")
    parser.add_argument("--over", type=float, metavar="SECONDS", help="only what took longer, by the file of --save")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()

    some = args.only or args.over is not None
    file = RESULTS / f"{args.save}.json"
    rows: dict[str, Any] = json.loads(file.read_text())["rows"] if some and args.save and file.exists() else {}

    def wanted(name: str) -> bool:
        slow = args.over is None or rows.get(name, {"cold": args.over + 1})["cold"] > args.over
        return slow and (not args.only or any(part in name for part in args.only))

    def keep(name: str, row: dict[str, float]) -> dict[str, float]:
        """The row with the least of its times."""
        known = rows.get(name, row)
        rows[name] = {what: min(seconds, known[what]) for what, seconds in row.items()}
        return rows[name]

    for layout in ("NCHW", "NHWC"):
        for name in dict.fromkeys(kernel.name for kernel, _ in _everything([layout], ["float32"])):
            label = f"{name} {layout}"
            if wanted(label):
                row = keep(label, cold_and_cached(KERNEL, name, layout, "float32", repeats=args.repeats, printed=True))
                print(f"{label}: {row['cold']:.2f} s, from the cache {row['cached']:.2f} s", flush=True)
    if wanted("network"):
        row = keep("network", cold_and_cached(NETWORK, repeats=args.repeats, printed=False))
        print(f"network, a step from the start of Python: {row['cold']:.1f} s, from the cache {row['cached']:.2f} s")
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
