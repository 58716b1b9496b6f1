"""One measurement each: a dict of plain numbers that goes into the result file."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

import fastconv
from fastconv import ConvProblem, NoKernelError, PoolProblem, dispatch
from fastconv.benchmark import contest, peak
from fastconv.benchmark.layers import Exact, images, operands, sets_of, where
from fastconv.benchmark.peers import adapter, installed
from fastconv.benchmark.timing import race, rest_for
from fastconv.registry import KERNELS

# A row whose first calls took this many times the fastest row's is not raced any further.
HOPELESS = 3.0
STRICT_ERROR_LIMIT = 1e-6
NUMERIC_PRECISIONS = (1e-3, 1e-5, 3e-6, 1e-6, 3e-7)


# Bytes of the arrays whose copying measures the bandwidth: far more than any cache.
COPY_BYTES = 512 * 1024**2


def machine(threads: int, seconds: float) -> dict[str, Any]:
    """The two roofs: multiply-adds (GFLOP/s) and bytes read and written by a copy (GB/s)."""
    source = np.ones(COPY_BYTES // 8)
    target = np.zeros_like(source)
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads)))
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        rivals: dict[str, Any] = {"copy": lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces))}
        if peak.available():
            top = peak.Peak(threads)
            stack.callback(top.close)
            rivals["peak"] = top.calls
        times = race(rivals, max(1.0, seconds), rest=rest_for(threads))
    found = {"threads": threads, "gbytes": 2 * COPY_BYTES / times["copy"]["min"] / 1e9}
    return {**found, "gflops": top.flops / times["peak"]["min"] / 1e9} if "peak" in times else found


def layer(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """Ours in both layouts against every installed peer."""
    return contest.convolution(problem, threads, None, seconds)


def pooling(problem: PoolProblem, threads: int, seconds: float) -> dict[str, Any]:
    """Ours in both layouts against PyTorch and, forward, ONNX Runtime."""
    peers = [name for name in ("torch", "torch_channels_last", "onnxruntime") if name in installed()]
    return contest.pool(problem, threads, peers, seconds)


def latency(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """One call from Python on one set of arrays: a plan, a plain conv2d, PyTorch, ONNX Runtime."""
    p = problem
    fastconv.set_num_threads(threads)
    x, w = operands(p)
    exact = Exact(p, x, w)
    rivals: dict[str, Any] = {}
    errors: dict[str, float] = {}
    kernels = {}
    with ExitStack() as stack:
        for layout in contest.LAYOUTS:
            rival, plan = contest.ours_convolution(p, [x], w, layout)
            rivals[f"plan_{layout.lower()}"], errors[f"plan_{layout.lower()}"] = (
                rival.calls,
                exact.error(rival.output()),
            )
            kernels[layout] = plan.kernel
            hx, hw = (x, w) if layout == "NCHW" else (_nhwc(x), np.ascontiguousarray(w.transpose(2, 3, 1, 0)))
            call = functools.partial(fastconv.conv2d, hx, hw, layout=layout, **where(p))
            rivals[f"conv2d_{layout.lower()}"] = [call]
        for name in ("torch", "torch_channels_last", "torch_prepacked", "onnxruntime"):
            if name in installed():
                rival = adapter(name).convolution(p, [x], w, threads, stack)
                rivals[name], errors[name] = rival.calls, exact.error(rival.output())
        times = race(rivals, seconds, rest=rest_for(threads))
    found = {name: {**time_, "error": errors.get(name)} for name, time_ in times.items()}
    return {"problem": p.text, "threads": threads, "mflop": p.flops / 1e6, "kernels": kernels, "rivals": found}


def _nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


PASSES = ("forward", "backward_input", "backward_weight")


def gradient(problem: ConvProblem, pass_: str, threads: int, seconds: float) -> dict[str, Any]:
    """One gradient from Python, in both layouts, against PyTorch's in both of its own; the same arrays each time."""
    import torch

    p = problem
    fastconv.set_num_threads(threads)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, w = operands(p)
    dy = rng.standard_normal(p.output_shape).astype(np.float32)
    geometry = where(p)
    exact = _gradient(pass_, x.astype(np.float64), w.astype(np.float64), dy.astype(np.float64), "NCHW", {
        "algorithm": "im2col", **geometry})  # fmt: skip
    rivals: dict[str, Any] = {}
    errors: dict[str, float] = {}
    kernels = {}
    for layout in contest.LAYOUTS:
        nchw = layout == "NCHW"
        arrays = (x, w, dy) if nchw else (_nhwc(x), np.ascontiguousarray(w.transpose(2, 3, 1, 0)), _nhwc(dy))
        call = functools.partial(_gradient, pass_, *arrays, layout, geometry)
        result = call()
        if not nchw:
            result = result.transpose(3, 2, 0, 1) if pass_ == "backward_weight" else result.transpose(0, 3, 1, 2)
        rivals[f"fastconv_{layout.lower()}"] = call
        errors[f"fastconv_{layout.lower()}"] = _relative(result, exact)
        asked = ConvProblem.parse(p.text, layout=layout, pass_=pass_)
        kernels[layout] = dispatch.choose(asked, dispatch.Request()).name
    mask = [pass_ == "backward_input", pass_ == "backward_weight", False]
    for name, form in (("torch", torch.contiguous_format), ("torch_channels_last", torch.channels_last)):
        tensors = [torch.from_numpy(a).contiguous(memory_format=form) for a in (dy, x, w)]
        call = functools.partial(torch.ops.aten.convolution_backward, *tensors, None, [p.sh, p.sw], [p.ph, p.pw],
                                 [p.dh, p.dw], False, [0, 0], p.g, mask)  # fmt: skip
        rivals[name], errors[name] = call, _relative(call()[mask.index(True)].numpy(), exact)
    times = race(rivals, seconds, rest=rest_for(threads))
    found = {name: {**time_, "error": errors[name]} for name, time_ in times.items()}
    return {"problem": p.text, "threads": threads, "mflop": p.flops / 1e6, "kernels": kernels, "rivals": found}


def _gradient(pass_: str, x: Any, w: Any, dy: Any, layout: str, how: dict[str, Any]) -> np.ndarray:
    if pass_ == "backward_weight":
        return fastconv.conv2d_weight(x, w.shape, dy, layout=layout, **how)
    return fastconv.conv2d_input(x.shape, w, dy, layout=layout, **how)


def _relative(result: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(result - exact).max() / np.abs(exact).max())


def plain(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """The plain-sum kernel that precision="strict" chooses, beside the peak."""
    return contest.convolution(problem, threads, [], seconds, precision="strict")


def numba_plain(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """Numba's plain sums beside the peak, in plans that hold their weights packed."""
    return contest.convolution(problem, threads, [], seconds, algorithm="im2col", backend="numba")


@functools.cache
def _avx2_worker() -> Any:
    """A process that may use AVX2 only; it answers lines of TEXT THREADS SECONDS."""
    environment = {**os.environ, "FASTCONV_ISA": "avx2"}
    command = [sys.executable, "-m", "bench.goals.plain_share"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    return subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]


def plain_avx2(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """`plain` in a process of its own that may use AVX2 only, beside the peak of 256-bit vectors."""
    worker = _avx2_worker()
    worker.stdin.write(f"{problem.text} {threads} {seconds}\n")
    answer = json.loads(worker.stdout.readline())
    if answer["isa"] != "avx2":
        raise RuntimeError(f"this machine runs {answer['isa']}, not avx2")
    return answer


def scale(texts: Iterable[str], layout: str, threads: int, seconds: float) -> dict[str, Any]:
    """Seconds per FLOP of one layer at several sizes, all in one race, and the workspace of each."""
    fastconv.set_num_threads(threads)
    rivals, found = {}, {}
    for text in texts:
        p = ConvProblem.parse(text)
        x, w = operands(p)
        inputs = [x, *images(p, sets_of(p) - 1, seed=2)]
        rival, plan = contest.ours_convolution(p, inputs, w, layout)
        rivals[text] = rival.calls
        found[text] = {"flops": p.flops, "kernel": plan.kernel, "workspace": plan.workspace_nbytes}
    times = race(rivals, seconds, rest=rest_for(threads))
    for text, time_ in times.items():
        found[text].update(min=time_["min"], median=time_["median"])
    return {"layout": layout, "threads": threads, "sizes": found}


def errors(problem: ConvProblem) -> dict[str, Any]:
    """Largest errors of both layouts: default, strict, and each numeric precision."""
    p = problem
    fastconv.set_num_threads(fastconv.info()["cores"])
    x, w = operands(p)
    exact = Exact(p, x, w)
    found: dict[str, Any] = {"problem": p.text}
    seen: dict[tuple[str, str], float] = {}
    for precision in ("fast", "strict", *NUMERIC_PRECISIONS):
        for layout in contest.LAYOUTS:
            rival, plan = contest.ours_convolution(p, [x], w, layout, precision=precision)
            key = plan.kernel, layout
            if key not in seen:
                seen[key] = exact.error(rival.output())
            found[f"{precision} {layout}"] = {"kernel": plan.kernel, "error": seen[key]}
    return found


def _rows(problem: ConvProblem, layout: str) -> list[Any]:
    """Rows of the compiled backend that the default precision allows here."""
    request = dispatch.Request(backend="cython")
    asked = ConvProblem.parse(problem.text, layout=layout)
    return [v.kernel for v in dispatch.verdicts(asked, request) if v.reason is None and v.kernel.algorithm != "naive"]


def choice(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """In each layout, the default against every row that can, forced."""
    p = problem
    fastconv.set_num_threads(threads)
    x, w = operands(p)
    inputs = [x, *images(p, sets_of(p) - 1, seed=2)]
    found: dict[str, Any] = {"problem": p.text, "threads": threads, "mflop": p.flops / 1e6, "layouts": {}}
    for layout in contest.LAYOUTS:
        default = contest.ours_convolution(p, inputs[:1], w, layout)[1].kernel
        rivals: dict[str, Any] = {}
        for kernel in _rows(p, layout):
            try:
                rival, plan = contest.ours_convolution(
                    p, inputs, w, layout, algorithm=kernel.algorithm, backend=kernel.backend
                )
            except NoKernelError:
                continue
            rivals[plan.kernel] = rival.calls
        quick = {name: _seconds(calls[0]) for name, calls in rivals.items()}
        limit = HOPELESS * min(quick.values())
        raced = {name: calls for name, calls in rivals.items() if quick[name] <= limit or name == default}
        times = (
            race(raced, seconds, rest=rest_for(threads)) if len(raced) > 1 else {default: {"min": 1.0, "median": 1.0}}
        )
        found["layouts"][layout] = {
            "default": default, "rows": {name: {"min": t["min"], "median": t["median"]} for name, t in times.items()},
        }  # fmt: skip
    return found


def twins(problem: ConvProblem, threads: int, seconds: float) -> dict[str, Any]:
    """The Numba kernels against the C kernels of the same algorithm, every pass, weights packed in each call."""
    p = problem
    fastconv.set_num_threads(threads)
    x, w = operands(p)
    dy = np.random.default_rng(0).standard_normal(p.output_shape).astype(np.float32)
    found: dict[str, Any] = {"problem": p.text, "threads": threads, "twins": {}}
    for layout in contest.LAYOUTS:
        hwio = np.ascontiguousarray(w.transpose(2, 3, 1, 0))
        arrays = (x, w, dy) if layout == "NCHW" else (_nhwc(x), hwio, _nhwc(dy))
        for pass_ in PASSES:
            ours = {k.algorithm for k in KERNELS if (k.op, k.pass_, k.backend) == ("conv2d", pass_, "numba")}
            for algorithm in sorted(ours - {"naive"}):
                try:
                    calls = {b: _twin(pass_, arrays, layout, p, algorithm, b) for b in ("cython", "numba")}
                except NoKernelError:
                    continue
                found["twins"][f"{pass_} {algorithm} {layout}"] = race(calls, seconds, rest=rest_for(threads))
    return found


def _twin(
    pass_: str, arrays: tuple[Any, ...], layout: str, p: ConvProblem, algorithm: str, backend: str
) -> Callable[[], Any]:
    """A forced pass into an output of its own, called once."""
    x, w, dy = arrays
    how = {"layout": layout, "algorithm": algorithm, "backend": backend, "precision": 1.0, **where(p)}
    call: Callable[[], Any]
    if pass_ == "forward":
        call = functools.partial(fastconv.conv2d, x, w, out=np.empty_like(dy), **how)
    elif pass_ == "backward_input":
        call = functools.partial(fastconv.conv2d_input, x.shape, w, dy, out=np.empty_like(x), **how)
    else:
        call = functools.partial(fastconv.conv2d_weight, x, w.shape, dy, out=np.empty_like(w), **how)
    call()
    return call


def _seconds(call: Callable[[], Any]) -> float:
    call()
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def second_core(problem: ConvProblem, seconds: float) -> dict[str, Any]:
    """Our own two threads against our one, in turns, both layouts; and what the peak gains."""
    p = problem
    x, w = operands(p)
    inputs = [x, *images(p, sets_of(p) - 1, seed=2)]
    rivals: dict[str, Any] = {}
    for count in (1, 2):
        fastconv.set_num_threads(count)
        for layout in contest.LAYOUTS:
            rival, _ = contest.ours_convolution(p, inputs, w, layout)
            rivals[f"{layout} {count}"] = [functools.partial(_with_threads, count, call) for call in rival.calls]
    with ExitStack() as stack:
        if peak.available():
            for count in (1, 2):
                top = peak.Peak(count)
                stack.callback(top.close)
                rivals[f"peak {count}"] = [top.calls]
        times = race(rivals, seconds, rest=rest_for(2))
    gains = {}
    for what in (*contest.LAYOUTS, "peak") if "peak 1" in times else contest.LAYOUTS:
        factor = 2 if what == "peak" else 1  # the peak on two threads does twice the work in a call
        gains[what] = {how: factor * times[f"{what} 1"][how] / times[f"{what} 2"][how] for how in ("min", "median")}
    return {"problem": p.text, "gains": gains}


def _with_threads(count: int, call: Callable[[], Any]) -> None:
    fastconv.set_num_threads(count)
    call()


@functools.cache
def _trained() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, real inputs NCHW, trained weight OIHW) of the digit network's convolutions after an epoch."""
    from fastconv.nn import data, mnist_network

    (x, y), (x_test, _) = data.load_mnist("embedded")
    model = mnist_network(seed=0)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=1, verbose=0)
    found = []
    activations = x_test[:64]
    for one in model.layers:
        if type(one).__name__ == "Conv2D":
            weight = one.weights["kernel"].transpose(3, 2, 0, 1).copy()
            found.append((one.name, np.array(activations.transpose(0, 3, 1, 2), order="C"), weight))
        activations = np.array(one.forward(activations, training=False))
    return found


def trained(number: int) -> dict[str, Any]:
    """Error of every kernel row, and of the default, on a trained layer's real inputs and weights."""
    name, x, w = _trained()[number]
    (mb, ic, ih, iw), (oc, _, kh, kw) = x.shape, w.shape
    p = ConvProblem.parse(f"mb{mb}ic{ic}ih{ih}iw{iw}oc{oc}kh{kh}kw{kw}")
    exact = Exact(p, x, w)
    rows = {}
    for layout in contest.LAYOUTS:
        rows[f"default {layout}"] = exact.error(contest.ours_convolution(p, [x], w, layout)[0].output())
        for kernel in KERNELS:
            if (kernel.op, kernel.pass_) == ("conv2d", "forward"):
                try:
                    how = {"algorithm": kernel.algorithm, "backend": kernel.backend, "precision": 1.0}
                    rival, _ = contest.ours_convolution(p, [x], w, layout, **how)
                except NoKernelError:
                    continue
                rows[f"{kernel.name} {layout}"] = exact.error(rival.output())
    return {"layer": name, "problem": p.text, "errors": rows}
