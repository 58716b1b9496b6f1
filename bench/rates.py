"""The rates that fastconv/cost.py is made of, one thread, and how far its predictions are from the clock.

    python -m bench.rates [--save NAME]

Operations a second for convolutions, bytes a second (as cost.py counts them) for pools, seconds for the smallest call;
`measured_over_predicted` is the least time of several calls over what the model says.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import fastconv
from bench.harness import race, save
from fastconv import dispatch
from fastconv.functional.arrays import logical
from fastconv.registry import KERNELS, Kernel

SMALL = ("mb1ic32ih28oc32kh3ph1", "mb1ic64ih28oc64kh3ph1")
LARGE = (
    "mb1ic256ih56oc256kh3ph1", "mb1ic128ih28oc128kh3ph1", "mb1ic64ih56oc64kh3ph1", "mb1ic256ih14oc256kh3ph1",
    "mb1ic512ih7oc512kh3ph1", "mb64ic32ih13oc64kh3", "mb1ic1024ih14oc256kh1", "mb1ic3ih224oc64kh7sh2ph3",
)  # fmt: skip
POOLS = ("mb8ic32ih26kh2sh2", "mb4ic64ih56kh3sh2ph1")
TINY = "mb1ic1ih8oc1kh3"


def _row(problem: Any, kernel: Kernel, arrays: tuple[Any, ...], work: float) -> dict[str, Any]:
    plan = dispatch.plan_for(problem, kernel)
    seconds = race({"call": lambda: plan(*arrays)}, seconds=0.3)["call"]
    return {
        "kernel": kernel.name, "problem": str(problem), "seconds_min": seconds["min"],
        "seconds_median": seconds["median"], "rate": work / seconds["min"],
        "measured_over_predicted": seconds["min"] / kernel.seconds(problem),
    }  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """One row for each forward kernel and problem that suits it, in both layouts."""
    fastconv.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []
    for layout in ("NCHW", "NHWC"):
        for kernel in (k for k in KERNELS if k.pass_ == "forward"):
            slow = kernel.family in ("naive", "reference")
            convolution = kernel.op == "conv2d"
            for text in ((*SMALL, TINY) if slow else (*LARGE, TINY)) if convolution else POOLS:
                if kernel.op.startswith("adaptive_"):
                    continue
                p = fastconv.ConvProblem if convolution else fastconv.PoolProblem
                problem = p.parse(text, layout=layout) if convolution else p.parse(text, kernel.op, layout=layout)
                if kernel.cannot(problem) is not None:
                    continue
                x = logical(rng.standard_normal(problem.input_shape, np.float32), layout)
                y = logical(np.empty(problem.output_shape, np.float32), layout)
                if convolution:
                    w = rng.standard_normal((problem.oc, problem.icg, problem.kh, problem.kw), np.float32)
                    rows.append(_row(problem, kernel, (x, w, None, None, y), problem.flops))
                else:
                    work = problem.flops * problem.itemsize + problem.bytes
                    rows.append(_row(problem, kernel, (x, y, None), work))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rows = measure()
    for r in rows:
        print(
            f"{r['kernel']:<42} {r['problem'].split(' ', 1)[1]:<46} {r['rate'] / 1e9:8.2f} G/s "
            f"{1e6 * r['seconds_min']:10.1f} us  {r['measured_over_predicted']:6.2f} of predicted"
        )
    if args.save:
        print(f"written: {save(args.save, rows, threads=1)}")


if __name__ == "__main__":
    main()
