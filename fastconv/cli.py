"""The `fastconv` command: info, explain, bench, warmup, calibrate, train. A guest: public functions only."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import fastconv

Job = tuple[str, Callable[[], object]]

# A peak that changes by more than this between races is not the CPU's doing alone.
UNSTEADY = 1.3


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("info", help="versions, instruction sets, threads, and which backends can run here")
    parser.set_defaults(run=lambda args: print(fastconv.info()))


def _explain(args: argparse.Namespace) -> None:
    print(
        fastconv.explain(
            args.problem, op=args.op, pass_=args.pass_, layout=args.layout, dtype=args.dtype,
            algorithm=args.algorithm, backend=args.backend, precision=_number_or_word(args.precision),
            max_workspace=args.max_workspace,
        )
    )  # fmt: skip


def _number_or_word(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _add_explain(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain",
        help="which kernel would run and why not the others",
        description="Print each kernel for a problem: whether it can, predicted time, workspace and error.",
        epilog="example: fastconv explain mb1ic64ih56oc64kh3ph1 --layout NHWC",
    )
    parser.add_argument("problem", metavar="TEXTFORM", help="e.g. mb2ic3ih9iw7oc5kh3kw3sh2ph1")
    parser.add_argument("--op", default="conv2d", help="conv2d (default), max_pool2d, avg_pool2d, adaptive_...")
    passes = "forward, backward_input, backward_weight; pools: forward, backward"
    parser.add_argument("--pass", dest="pass_", metavar="PASS", default="forward", help=passes)
    parser.add_argument("--layout", default="NCHW", help="NCHW (default) or NHWC")
    parser.add_argument("--dtype", default="float32", help="float32 (default), float64 or int64")
    parser.add_argument("--algorithm", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fast", help="fast (default), strict, or the largest error accepted")
    parser.add_argument("--max-workspace", type=int, metavar="BYTES")
    parser.set_defaults(run=_explain)


def _bench(args: argparse.Namespace) -> None:
    from fastconv import benchmark
    from fastconv.benchmark import report

    problems = benchmark.find(args.layers)
    peers = benchmark.installed() if args.peers is None else args.peers
    threads = args.threads or fastconv.get_num_threads()
    information = fastconv.info()
    print(f"{information['cpu']}, {information['isa']}, {threads} threads; peers: {', '.join(peers) or 'none'}")
    if not benchmark.installed():
        print('no peer is installed; pip install "fastconv[peers]" brings them')
    cells: list[tuple[str, ...]] = [report.SUMMARY_TITLES]
    rows: dict[str, dict[str, Any]] = {}
    for name, problem in problems.items():
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{len(cells)}/{len(problems)} {name:<60}\r")
        rows[name] = benchmark.convolution(problem, threads, peers, args.seconds)
        cells.append(report.summary(name, rows[name]))
    print("\n".join(report.columns(cells)))
    peaks = [row["peak"]["min"] for row in rows.values() if "peak" in row]
    if peaks:
        low, high = min(peaks), max(peaks)
        found = f"{high:.0f}" if high < 1.1 * low else f"{low:.0f} to {high:.0f}"
        print(f"peak: {found} GFLOP/s of multiply-adds, measured in each race")
        if high > UNSTEADY * low:
            print("note: the peak changed from race to race: the machine is busy, and shares of it say little")
    print("GFLOP/s count the direct convolution's operations: Winograd's may exceed the peak. error: largest, over the")
    print("largest output, against float64. ratio: best peer's time over ours, fastest calls and medians.")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"info": {k: str(v) for k, v in information.items()}, "layers": rows}, file, indent=1)


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="race a few layers against the other libraries installed here",
        description="Time convolutions: ours, the best installed peer, the share of the CPU's measured peak.",
        epilog="example: fastconv bench resnet_3x3 mb1ic64ih56oc64kh3ph1 --threads 1 --peers torch ncnn",
    )
    parser.add_argument(
        "layers", nargs="*", metavar="LAYER", help="names of built-in layers or text forms; default: all"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as a call uses")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="default: all that are installed; none: no race")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each rival and layer (0.4)")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers there")
    parser.set_defaults(run=_bench)


def _warmup_jobs(dtypes: Sequence[str]) -> Iterator[Job]:
    """One tiny call for each Numba kernel: its first use compiles it and stores it in Numba's cache on disk."""
    for dtype in dtypes:
        for layout in ("NCHW", "NHWC"):
            x = np.ones((1, 4, 8, 8) if layout == "NCHW" else (1, 8, 8, 4), dtype)
            w = np.ones((4, 4, 3, 3) if layout == "NCHW" else (3, 3, 4, 4), dtype)
            yield from _warmup_convolutions(x, w, layout, f"{dtype} {layout}")
            yield from _warmup_pools(x, layout, f"{dtype} {layout}")


def _warmup_convolutions(x: np.ndarray, w: np.ndarray, layout: str, label: str) -> Iterator[Job]:
    for algorithm in ("naive", "im2col", "winograd_f2x3", "winograd_f4x3"):
        how: dict[str, Any] = {"layout": layout, "backend": "numba", "algorithm": algorithm}
        yield f"conv2d {algorithm} {label}", partial(fastconv.conv2d, x, w, None, 1, 1, **how)
        yield f"conv2d_input {algorithm} {label}", partial(fastconv.conv2d_input, x.shape, w, x, 1, 1, **how)
        if not algorithm.startswith("winograd"):
            yield f"conv2d_weight {algorithm} {label}", partial(fastconv.conv2d_weight, x, w.shape, x, 1, 1, **how)


def _warmup_pools(x: np.ndarray, layout: str, label: str) -> Iterator[Job]:
    how: dict[str, Any] = {"layout": layout, "backend": "numba"}

    def max_pool() -> None:
        y, indices = fastconv.max_pool2d(x, 2, return_indices=True, **how)
        fastconv.max_pool2d_backward(y, x.shape, indices, 2, **how)

    def avg_pool() -> None:
        fastconv.avg_pool2d_backward(fastconv.avg_pool2d(x, 2, **how), x.shape, 2, **how)

    def adaptive() -> None:
        y, indices = fastconv.adaptive_max_pool2d(x, 2, return_indices=True, **how)
        fastconv.adaptive_max_pool2d_backward(y, x.shape, indices, **how)
        fastconv.adaptive_avg_pool2d_backward(fastconv.adaptive_avg_pool2d(x, 2, **how), x.shape, **how)

    yield f"max_pool2d {label}", max_pool
    yield f"avg_pool2d {label}", avg_pool
    yield f"adaptive pools {label}", adaptive


def _warmup(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    jobs = list(_warmup_jobs(args.dtype))
    for number, (label, job) in enumerate(jobs, 1):
        began = time.perf_counter()
        job()
        seconds = time.perf_counter() - began
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number}/{len(jobs)} {label:<50}")
        elif seconds > 0.5:
            sys.stderr.write(f"{number}/{len(jobs)} {label} compiled in {seconds:.1f} s\n")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    print(f"{len(jobs)} Numba kernels ready in {time.perf_counter() - start:.1f} s")


def _add_warmup(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("warmup", help="compile the Numba kernels now, into Numba's cache on disk")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.set_defaults(run=_warmup)


def _calibrate(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    found = fastconv.calibrate(args.problems, args.backend, args.file)
    where = args.file or "this machine's cache folder"
    print(f"{len(found)} kernels fitted in {time.perf_counter() - start:.0f} s, written to {where}")


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="fit the predicted times of the kernels to this machine",
        description="Time every kernel on random problems and fit the rates that the choice between kernels hangs on.",
    )
    parser.add_argument("--problems", type=int, default=400, help="drawn for each pass and layout (default: 400)")
    parser.add_argument("--backend", default="cython", choices=["cython", "numba"])
    parser.add_argument("--file", help="write the rates there, as they ship with the package, and do not use them")
    parser.set_defaults(run=_calibrate)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="fastconv", description="Fast 2-D convolution for NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"fastconv {fastconv.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_info(commands)
    _add_explain(commands)
    _add_bench(commands)
    _add_warmup(commands)
    _add_calibrate(commands)
    from fastconv.nn.train import add_train_parser

    add_train_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a wrong argument or a bad file is one line on standard error and exit status 2."""
    args = build_parser().parse_args(arguments)
    try:
        status = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader (head, less) has seen enough; Python would complain again when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError) as error:
        print(f"fastconv: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastconv: interrupted", file=sys.stderr)
        return 130
    return status or 0
