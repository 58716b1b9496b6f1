"""The `fastconv` command: info, explain, bench, warmup, calibrate, train. A guest: public functions only."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastconv

# A peak that changes by more than this between races is not the CPU's doing alone.
UNSTEADY = 1.3
# Without a bar, `warmup` tells of kernels that took so many seconds.
WORTH_A_LINE = 0.5


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


def _network_problems(path: str) -> list[Any]:
    """What the kernels are asked for in a step of training and in prediction; path: of a saved model, or "mnist"."""
    from fastconv.nn import models
    from fastconv.nn.networks import mnist_network

    model = mnist_network(0) if path == "mnist" else models.load_model(path)
    model.compile("sgd", "mse", fuse=False)  # Numba has no fused kernels
    problems: list[Any] = []
    x = np.zeros((1, *model.layers[0].input_shape), np.float32)
    model.train_on_batch(x, model.predict(x))  # the first step notes its kernels, the second tells us of them
    with fastconv.config(verbose=lambda kernel, problem, *rest: problems.append(problem)):
        model.train_on_batch(x, model.predict(x))
    return list(dict.fromkeys(problems))


def _list_problems(path: str) -> list[str]:
    """The problems of a file, one a line, a name may follow it; # begins a comment."""
    with open(path, encoding="utf-8") as file:
        lines = (line.split("#")[0].split() for line in file)
        return [words[0] for words in lines if words]


def _show_progress() -> Callable[[int, int, str, float], None]:
    """A bar on a terminal with tqdm installed; elsewhere a line for what took long."""
    bar: Any = None

    def show(number: int, count: int, name: str, seconds: float) -> None:
        nonlocal bar
        if bar is None and sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            bar = tqdm(total=count, unit="kernel", dynamic_ncols=True)
        if bar is not None:
            bar.set_description(name, refresh=False)
            bar.update()
            if number == count:
                bar.close()
        elif seconds > WORTH_A_LINE:
            sys.stderr.write(f"{number}/{count} {name} {seconds:.1f} s\n")

    return show


def _warmup(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    logging.getLogger("fastconv").setLevel(logging.ERROR)  # the compiler's notices say the same as the bar
    problems: list[Any] | None = None
    if args.problems or args.file or args.network:
        problems = [*args.problems, *(_list_problems(args.file) if args.file else [])]
        problems += _network_problems(args.network) if args.network else []
    names = fastconv.warmup(problems, layouts=args.layout, dtypes=args.dtype, progress=_show_progress())
    print(f"{len(names)} Numba kernels ready in {time.perf_counter() - start:.1f} s")


def _add_warmup(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "warmup",
        help="compile Numba kernels now, into Numba's cache on disk",
        description="Compile Numba kernels now, for the problems given or all of them; they are kept on disk.",
        epilog="example: fastconv warmup mb1ic64ih56oc64kh3ph1 --layout NHWC; fastconv warmup --network mnist",
    )
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help="text forms of convolutions")
    parser.add_argument("--file", help="a list of problems, one a line")
    parser.add_argument("--network", metavar="MODEL", help="a saved model, or mnist: what its training needs")
    parser.add_argument("--layout", nargs="+", default=["NCHW", "NHWC"], choices=["NCHW", "NHWC"])
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
