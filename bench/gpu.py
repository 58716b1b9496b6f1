"""CUDA rows: each checked against float64, then timed against cuDNN through PyTorch, on the layers of bench/layers.

    python -m bench.gpu [--lists vgg16 resnet50 ...] [--match TEXT ...] [--passes forward ...] [--batch N]
                        [--rows TEXT ...] [--seconds S] [--check] [--save NAME]
    NUMBA_ENABLE_CUDASIM=1 python -m bench.gpu --simulate
    python -m bench.gpu --train ...        training: see gpu_training.py

Runs from a plain checkout, without the compiled extension. It measures two limits first: float32 multiply-adds (a large
product of matrices without TF32) and the bandwidth of a copy, bytes read and written. For each layer, pass and layout:
inputs are random and new, outputs poisoned with NaN; an error over the limit of float32 ends the row. Then launches are
captured in CUDA graphs, over sets of arrays that exceed the L2, and replays are timed by events: the median. Peers are
PyTorch's convolutions in both memory formats with cudnn.benchmark, TF32 off (the like of ours) and on.
ratio: the best peer's time of the like precision / ours. share: the larger of the two limits' times / ours.
`--seconds` stops starting layers after so long, so that a run fits a lease; `--match` and `--lists` cut it in pieces.
`--simulate` checks every row on tiny problems without a GPU and without PyTorch, and times nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench import gpu_training, harness
from fastconv import dispatch, host
from fastconv.problem import TF32_ERROR, ConvProblem, PoolProblem
from fastconv.registry import KERNELS, Kernel

ROWS = tuple(k for k in KERNELS if k.backend == "cuda")
LAYOUTS = ("NCHW", "NHWC")
PASSES = ("forward", "backward_input", "backward_weight")
LISTS = ("vgg16", "resnet50", "mobilenet", "mnist")
# Convolutions of images of this many are the usual work of a GPU; the lists have batches of one.
BATCH = 32
# The largest L2 norm of the error over that of the result that float32 may make; TF32 makes 3e-4.
MOST_ERROR = 2e-5
# Sets of arrays are rotated until they exceed this many times the L2.
L2_BYTES, L2_TIMES, MOST_SETS = 60 << 20, 3, 8
REPLAYS = 15
# Poolings that are timed: of VGG's, ResNet's and MobileNet's sizes.
POOLS = (
    ("max_pool2d", "mb32ic64ih112kh2sh2"),
    ("max_pool2d", "mb32ic64ih112kh3sh2ph1"),
    ("avg_pool2d", "mb32ic64ih112kh2sh2"),
    ("avg_pool2d", "mb32ic64ih56kh3sh1ph1"),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lists", nargs="*", default=list(LISTS), help="files of bench/layers; pools for poolings")
    parser.add_argument("--match", nargs="*", default=[], help="only layers whose name or text holds one of these")
    parser.add_argument("--rows", nargs="*", default=[], help="only rows whose name holds one of these")
    parser.add_argument("--passes", nargs="*", default=list(PASSES), choices=PASSES)
    parser.add_argument("--layouts", nargs="*", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--check", action="store_true", help="check only")
    parser.add_argument("--no-peers", action="store_true", help="time our rows only")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--train", action="store_true", help="train the forum's network instead")
    parser.add_argument("--data", metavar="PATH", help="with --train: the folder of MNIST")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 512], help="with --train")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    return parser.parse_args()


def layers(lists: list[str], match: list[str], batch: int) -> dict[str, ConvProblem]:
    """name -> problem with this batch."""
    files = [name for name in lists if name != "pools"]
    found = dict(harness.layers(*files)) if files else {}
    wanted = {n: p for n, p in found.items() if not match or any(word in f"{n} {p.text}" for word in match)}
    return {name: replace(p, mb=batch) for name, p in wanted.items()}


# ---------------------------------------------------------------------------------------------------------------
# Without a GPU


def simulate(wanted: list[str]) -> int:
    """Every row on a few tiny problems in Numba's simulator; the number of faults."""
    from tests import cuda_cases, rows, simulator

    simulator.install()
    faults = 0
    for kernel in ROWS:
        if wanted and not any(word in kernel.name for word in wanted):
            continue
        start = time.perf_counter()
        found = sorted(cuda_cases.problems(kernel), key=lambda p: p.flops)[:6]
        try:
            for problem in found:
                rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)
            verdict = "right"
        except AssertionError as error:
            faults += 1
            verdict = f"WRONG: {error}"
        print(f"{kernel.name:50} {len(found)} problems {time.perf_counter() - start:6.1f} s  {verdict}", flush=True)
    return faults


# ---------------------------------------------------------------------------------------------------------------
# On a GPU


class Clock:
    """Times work that is queued on the stream of a CUDA graph."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.stream = torch.cuda.Stream()

    def seconds(self, calls: list[Any]) -> float:
        """The median time of one of these calls, each of which works on its own arrays."""
        torch = self._torch
        with torch.cuda.stream(self.stream):
            for call in calls:  # compiles, chooses, allocates scratch memory
                call()
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                for call in calls:
                    call()
            graph.replay()
            times = []
            for _ in range(REPLAYS):
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record(self.stream)
                graph.replay()
                last.record(self.stream)
                last.synchronize()
                times.append(first.elapsed_time(last) * 1e-3 / len(calls))
        return statistics.median(times)


def limits(torch: Any, clock: Clock) -> dict[str, float]:
    """Multiply-adds a second of float32 (two operations each), and bytes a second of a copy."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n = 8192
    a, b, c = (torch.randn(n, n, device="cuda") for _ in range(3))
    flops = 2 * n**3 / clock.seconds([lambda: torch.mm(a, b, out=c)])
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    nbytes = 2 * source.numel() * 4 / clock.seconds([lambda: target.copy_(source)])
    return {"flops": flops, "bytes": nbytes}


def stored(torch: Any, tensor: Any, layout: str) -> Any:
    """A logical NCHW (or OIHW) tensor whose memory is in this layout, as fastconv's callers have it."""
    if layout == "NCHW":
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last)


def as_ours(tensor: Any, layout: str, weight: bool = False) -> Any:
    """The logical view that a row takes: weights of NHWC callers are HWIO."""
    if not weight or layout == "NCHW":
        return tensor
    return tensor.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def operands(torch: Any, p: ConvProblem, seed: int) -> tuple[Any, Any, Any]:
    """ReLU(N(0, 1)) input, He weights, N(0, 1) gradient: logical, contiguous."""
    generator = torch.Generator(device="cuda").manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", generator=generator)

    w = normal(p.oc, p.icg, p.kh, p.kw) * (2 / (p.icg * p.kh * p.kw)) ** 0.5
    return normal(p.mb, p.ic, p.ih, p.iw).relu_(), w, normal(p.mb, p.oc, p.oh, p.ow)


def torch_call(torch: Any, p: ConvProblem, x: Any, w: Any, dy: Any) -> Any:
    """A function that computes the pass with PyTorch."""
    geometry = ((p.sh, p.sw), (p.ph, p.pw), (p.dh, p.dw))
    if p.pass_ == "forward":
        return lambda: torch.nn.functional.conv2d(x, w, None, *geometry, p.g)
    mask = [p.pass_ == "backward_input", p.pass_ == "backward_weight", False]
    index = 0 if mask[0] else 1
    return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, False, [0, 0], p.g, mask)[index]


def our_call(p: ConvProblem, kernel: Kernel, arrays: tuple[Any, Any, Any], out: Any) -> Any:
    plan = dispatch.plan_for(p, kernel)
    x, w, dy = arrays
    if p.pass_ == "backward_weight":
        return lambda: plan(x, dy, out)
    return lambda: plan(x if p.pass_ == "forward" else dy, w, None, None, out)


def result_shape(p: ConvProblem) -> tuple[int, ...]:
    shapes = {"forward": (p.mb, p.oc, p.oh, p.ow), "backward_input": (p.mb, p.ic, p.ih, p.iw)}
    return shapes.get(p.pass_, (p.oc, p.icg, p.kh, p.kw))


def poisoned(torch: Any, p: ConvProblem) -> Any:
    out = torch.full(result_shape(p), float("nan"), device="cuda")
    out = stored(torch, out, p.layout) if p.pass_ != "backward_weight" else out
    return as_ours(out, p.layout, p.pass_ == "backward_weight")


def sets_of(p: ConvProblem) -> int:
    return max(1, min(MOST_SETS, -(-L2_TIMES * L2_BYTES // max(p.bytes, 1))))


def race(
    torch: Any, clock: Clock, p: ConvProblem, options: argparse.Namespace, bounds: dict[str, float]
) -> list[dict]:
    """One layer, pass and layout: a line for each row that can, checked, then timed, and the peers' times."""
    able = [k for k in ROWS if (k.op, k.pass_) == (p.op, p.pass_) and k.cannot(p) is None and k.algorithm != "naive"]
    able = [k for k in able if not options.rows or any(word in k.name for word in options.rows)]
    if not able:
        return []
    raw = [operands(torch, p, seed) for seed in range(1 if options.check else sets_of(p))]
    exact = torch_call(torch, p, *(a.double() for a in raw[0]))()
    norm = float(exact.norm())
    sets = [
        (stored(torch, x, p.layout), as_ours(w, p.layout, True), stored(torch, dy, p.layout)) for x, w, dy in raw
    ]
    lines = []
    for kernel in able:
        tensor = "tf32" in kernel.name
        asked = replace(p, precision=TF32_ERROR) if tensor else p
        out = poisoned(torch, p)
        our_call(asked, kernel, sets[0], out)()
        torch.cuda.synchronize()
        error = float((out.double() - exact).norm()) / norm
        line = {"row": kernel.name, "error": error, "right": error < (TF32_ERROR if tensor else MOST_ERROR)}
        if line["right"] and not options.check:
            outs = [poisoned(torch, p) for _ in sets]
            line["seconds"] = clock.seconds([our_call(asked, kernel, s, o) for s, o in zip(sets, outs)])
            line["share"] = max(p.flops / bounds["flops"], p.bytes / bounds["bytes"]) / line["seconds"]
        lines.append(line)
    if not options.check and not options.no_peers:
        for tf32 in (False, True):
            torch.backends.cudnn.allow_tf32 = tf32
            for name in LAYOUTS:
                theirs = [tuple(stored(torch, a, name) for a in arrays) for arrays in raw]
                seconds = clock.seconds([torch_call(torch, p, *arrays) for arrays in theirs])
                lines.append({"row": f"torch {name}{' tf32' if tf32 else ''}", "seconds": seconds})
    for line in lines:
        line.update(problem=str(p), flops=p.flops, chosen=line["row"] == dispatch.choose(p, dispatch.Request()).name)
        peers = [one for one in lines if one["row"].startswith("torch")]
        like = [one for one in peers if ("tf32" in one["row"]) == ("tf32" in line["row"])]
        if like and "seconds" in line:
            line["ratio"] = min(one["seconds"] for one in like) / line["seconds"]
    return lines


def pool_calls(torch: Any, p: PoolProblem, kernel: Kernel) -> tuple[Any, Any, Any]:
    """(our call, its output, PyTorch's call) of a pooling, on new arrays."""
    x = stored(torch, torch.randn(p.mb, p.c, p.ih, p.iw, device="cuda"), p.layout)
    window = ((p.kh, p.kw), (p.sh, p.sw), (p.ph, p.pw))
    largest = "max" in p.op
    more = {"return_indices": True} if largest else {}
    pool, aten, plan = getattr(torch.nn.functional, p.op), torch.ops.aten, dispatch.plan_for(p, kernel)
    pooled = pool(x, *window, **more)
    y, indices = pooled if largest else (pooled, None)
    if p.pass_ == "forward":
        out, places = torch.full_like(y, float("nan")), torch.empty_like(indices) if largest else None
        return lambda: plan(x, out, places), out, lambda: pool(x, *window, **more)
    dy, out = torch.randn_like(y), torch.full_like(x, float("nan"))

    def peer() -> Any:
        if largest:
            return aten.max_pool2d_with_indices_backward(dy, x, *window, (1, 1), False, indices)
        return aten.avg_pool2d_backward(dy, x, *window, False, True, None)

    return lambda: plan(dy, indices, out), out, peer


def pools(torch: Any, clock: Clock, options: argparse.Namespace, bounds: dict[str, float]) -> list[dict]:
    """Poolings, forward and backward, against PyTorch in the same memory format."""
    lines = []
    for op, text in POOLS:
        for layout in options.layouts:
            for pass_ in ("forward", "backward"):
                p = PoolProblem.parse(text, op, pass_=pass_, layout=layout, return_indices="max" in op, device="cuda")
                kernel = next(k for k in ROWS if (k.op, k.pass_) == (op, pass_))
                call, out, peer = pool_calls(torch, p, kernel)
                call()
                wanted = peer()
                wanted = wanted[0] if isinstance(wanted, tuple) else wanted
                error = float((out - wanted).double().norm() / wanted.double().norm())
                line: dict[str, Any] = {
                    "row": kernel.name, "problem": str(p), "error": error, "right": error < MOST_ERROR
                }  # fmt: skip
                if line["right"] and not options.check:
                    line["seconds"] = clock.seconds([call])
                    line["share"] = p.bytes / bounds["bytes"] / line["seconds"]
                    line["ratio"] = clock.seconds([peer]) / line["seconds"]
                lines.append(line)
                show(text, line)
    return lines


def show(label: str, line: dict) -> None:
    words = f"{'>' if line.get('chosen') else ' '} {label:22} {line['row']:46}"
    if "seconds" in line:
        words += f" {line['seconds'] * 1e6:9.1f} us"
        words += f" {line['flops'] / line['seconds'] * 1e-12:6.1f} TFLOP/s" if "flops" in line else ""
        words += f" ratio {line['ratio']:5.2f}" if "ratio" in line else ""
        words += f" share {line['share']:4.0%}" if "share" in line else ""
    if "error" in line:
        words += f" error {line['error']:.1e}" + ("" if line["right"] else " WRONG")
    print(words, flush=True)


def main() -> int:
    options = arguments()
    if options.simulate:
        return gpu_training.main(options) if options.train else simulate(options.rows)
    fault = host.cuda_fault()
    if fault is not None:
        print(f"bench.gpu: {fault}; --simulate checks the rows without a GPU")
        return 1
    if options.train:
        return gpu_training.main(options)
    import torch

    torch.backends.cudnn.benchmark = True
    clock = Clock(torch)
    began = time.monotonic()
    bounds = limits(torch, clock)
    device = torch.cuda.get_device_name()
    print(f"{device}: {bounds['flops'] * 1e-12:.1f} TFLOP/s float32, copy {bounds['bytes'] * 1e-12:.2f} TB/s")
    found: list[dict] = []
    for label, layer in layers(options.lists, options.match, options.batch).items():
        for pass_ in options.passes:
            for layout in options.layouts:
                if time.monotonic() - began > options.seconds:
                    print(f"stopped before {label} {pass_}: {options.seconds:.0f} seconds are over")
                    return finish(options, device, bounds, found)
                p = replace(layer, pass_=pass_, layout=layout, device="cuda")
                for line in race(torch, clock, p, options, bounds):
                    line["layer"] = label
                    found.append(line)
                    show(label, line)
    if "pools" in options.lists:
        found += pools(torch, clock, options, bounds)
    return finish(options, device, bounds, found)


def finish(options: argparse.Namespace, device: str, bounds: dict[str, float], found: list[dict]) -> int:
    """Geometric means of the chosen rows, the file, and the number of wrong rows."""
    for pass_ in options.passes:
        ratios = [one["ratio"] for one in found if one.get("chosen") and "ratio" in one and f"_{pass_}_" in one["row"]]
        if ratios:
            mean = float(np.exp(np.mean(np.log(ratios))))
            print(f"{pass_}: chosen rows run at {mean:.2f} of cuDNN's speed without TF32, {len(ratios)} races")
    if options.save:
        harness.save(options.save, found, device=device, limits=bounds)
    wrong = [one for one in found if not one.get("right", True)]
    for line in wrong:
        print(f"WRONG: {line['row']} {line['problem']} error {line['error']:.1e}")
    return min(len(wrong), 100)


if __name__ == "__main__":
    raise SystemExit(main())
