"""One layer: ours in both layouts and every peer, verified against float64, then timed in turns with the peak."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

import fastconv
from fastconv import ConvProblem, NoKernelError, PoolProblem
from fastconv.benchmark import peak
from fastconv.benchmark.layers import Exact, images, operands, sets_of, symmetric, where
from fastconv.benchmark.peers import Rival, Unsupported, adapter, installed
from fastconv.benchmark.peers.adapter import nhwc
from fastconv.benchmark.timing import race, rest_for

LAYOUTS = ("NCHW", "NHWC")
OURS = tuple(f"fastconv_{layout.lower()}" for layout in LAYOUTS)


def ours_convolution(
    problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, layout: str, **how: Any
) -> tuple[Rival, Any]:
    """A plan that holds its weights, bound to inputs and outputs of one layout; and the plan."""
    shape = problem.input_shape
    if layout == "NHWC":
        shape = (shape[0], *shape[2:], shape[1])
        weight = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    plan = fastconv.plan_conv2d(shape, weight, layout=layout, **where(problem), **how)
    xs = inputs if layout == "NCHW" else [nhwc(x) for x in inputs]
    ys = [np.empty(plan.problem.output_shape, np.float32) for _ in xs]
    calls = [lambda x=x, y=y: plan(x, out=y) for x, y in zip(xs, ys)]

    def output() -> np.ndarray:
        calls[0]()
        return ys[0] if layout == "NCHW" else ys[0].transpose(0, 3, 1, 2)

    return Rival(calls, output), plan  # type: ignore[arg-type]


def convolution(
    problem: ConvProblem, threads: int = 1, peers: Iterable[str] | None = None, seconds: float = 0.4,
    layouts: Iterable[str] = LAYOUTS, sets: int | None = None, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """Race one convolution.

    Parameters
    ----------
    problem : ConvProblem; its layout is not read
    peers : names from PEERS; all that are installed when None
    seconds : for each rival
    sets : number of input and output sets to rotate among; chosen from the caches when None
    how : keywords of `fastconv.plan_conv2d`, such as algorithm or precision

    Returns
    -------
    dict
        "rivals": name -> {"min", "median", "calls", "error", "ready" (seconds to make ready and make the first call)},
        "peak" (GFLOP/s, {"min", "median"}), "kernels" and "workspace" by layout, "refused": peer -> why it is not
        there, and the problem's numbers.
    """
    p = problem
    fastconv.set_num_threads(threads)
    x, weight = operands(p)
    inputs = [x, *images(p, (sets or sets_of(p)) - 1, seed=2)]
    exact = Exact(p, x, weight)
    row: dict[str, Any] = {
        "problem": p.text, "threads": threads, "mflop": p.flops / 1e6, "mbytes": p.bytes / 1e6, "sets": len(inputs),
        "kernels": {}, "workspace": {}, "refused": {},
    }  # fmt: skip
    rivals: dict[str, list[Any]] = {}
    extra: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        for layout in layouts:
            name = f"fastconv_{layout.lower()}"
            start = time.perf_counter()
            try:
                rival, plan = ours_convolution(p, inputs, weight, layout, **how)
            except NoKernelError as error:
                row["refused"][name] = str(error).splitlines()[0]
                continue
            rivals[name], extra[name] = rival.calls, _first(rival, exact, start)
            row["kernels"][layout], row["workspace"][layout] = plan.kernel, plan.workspace_nbytes
        for name in installed() if peers is None else peers:
            peer = adapter(name)
            start = time.perf_counter()
            try:
                rival = peer.convolution(p, inputs, weight, threads, stack)
            except Unsupported as reason:
                row["refused"][name] = str(reason)
                continue
            rivals[name], extra[name] = rival.calls, _first(rival, exact, start)
        _timed(row, rivals, extra, threads, seconds, stack)
    return row


def _first(rival: Rival, exact: Exact, start: float) -> dict[str, float]:
    """The error of the first call, and the seconds since `start`: model built, weight packed, first call."""
    y = rival.output()
    return {"ready": time.perf_counter() - start, "error": exact.error(y)}


def _timed(
    row: dict[str, Any], rivals: dict[str, Any], extra: dict[str, dict[str, float]], threads: int, seconds: float,
    stack: ExitStack,
) -> None:  # fmt: skip
    """The race itself, with the peak among the rivals."""
    top = None
    if peak.available():
        top = peak.Peak(threads)
        stack.callback(top.close)
        rivals = {**rivals, "peak": top.calls}
    times = race(rivals, seconds, rest=rest_for(threads))
    if top is not None:
        fastest = times.pop("peak")
        row["peak"] = {how: top.flops / fastest[how] / 1e9 for how in ("min", "median")}
    row["rivals"] = {name: {**seconds_, **extra[name]} for name, seconds_ in times.items()}


def pool(
    problem: PoolProblem, threads: int = 1, peers: Iterable[str] | None = None, seconds: float = 0.2
) -> dict[str, Any]:
    """Race one pooling, or its gradient; "rivals" as for `convolution`, the errors against NumPy in float64."""
    p = problem
    fastconv.set_num_threads(threads)
    inputs = images(p, sets_of(p))
    row: dict[str, Any] = {
        "problem": p.text, "op": p.op, "pass": p.pass_, "threads": threads, "mbytes": p.bytes / 1e6,
        "sets": len(inputs), "refused": {},
    }  # fmt: skip
    expected = _ours_pool(p, [inputs[0].astype(np.float64)], "NCHW", algorithm="reference").output()
    scale = float(np.abs(expected).max()) or 1.0
    rivals: dict[str, list[Any]] = {}
    extra: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        found = {name: lambda layout=layout: _ours_pool(p, inputs, layout) for name, layout in zip(OURS, LAYOUTS)}
        for name in installed() if peers is None else peers:
            found[name] = lambda name=name: adapter(name).pool(p, inputs, threads, stack)
        for name, make in found.items():
            try:
                rival = make()
            except Unsupported as reason:
                row["refused"][name] = str(reason)
                continue
            rivals[name] = rival.calls
            extra[name] = {"error": float(np.abs(rival.output() - expected).max()) / scale}
        _timed(row, rivals, extra, threads, seconds, stack)
    return row


def _ours_pool(problem: PoolProblem, inputs: list[np.ndarray], layout: str, **how: Any) -> Rival:
    """Our pooling (forward, or backward on a gradient of ones) bound to its arrays."""
    p = problem
    xs = inputs if layout == "NCHW" else [nhwc(x) for x in inputs]
    how = {"layout": layout, **how}
    maximum = "max" in p.op
    geometry: dict[str, Any] = {"kernel_size": (p.kh, p.kw), "stride": (p.sh, p.sw), "padding": (p.ph, p.pw)}
    if not symmetric(p) or p.adaptive:
        raise Unsupported("only plain pools with symmetric padding are raced")
    if not maximum:
        geometry["count_include_pad"] = p.count_include_pad

    def call(x: np.ndarray) -> Any:
        if maximum and (p.return_indices or p.pass_ == "backward"):
            y, indices = fastconv.max_pool2d(x, return_indices=True, **geometry, **how)
            if p.pass_ == "forward":
                return lambda: fastconv.max_pool2d(x, return_indices=True, out=y, **geometry, **how)[0]
            ones, dx = np.ones_like(y), np.empty_like(x)
            return lambda: fastconv.max_pool2d_backward(ones, x.shape, indices, **geometry, out=dx, **how)
        forward = fastconv.max_pool2d if maximum else fastconv.avg_pool2d
        y = forward(x, **geometry, **how)
        if p.pass_ == "forward":
            return lambda: forward(x, **geometry, out=y, **how)
        ones, dx = np.ones_like(y), np.empty_like(x)
        return lambda: fastconv.avg_pool2d_backward(ones, x.shape, **geometry, out=dx, **how)

    calls = [call(x) for x in xs]
    return Rival(calls, lambda: calls[0]() if layout == "NCHW" else calls[0]().transpose(0, 3, 1, 2))
