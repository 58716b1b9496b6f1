"""warmup(...): compile Numba kernels before a call needs them, into Numba's cache on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastconv import dispatch, host
from fastconv.functional.calibration import pool_operands
from fastconv.functional.tuning import operands
from fastconv.problem import ConvProblem, PoolProblem, parse_problem
from fastconv.registry import KERNELS, Kernel

Problem = ConvProblem | PoolProblem

# What kernels are compiled for apart: filters, strides, thin first layers, one channel a group.
CONVOLUTIONS = (
    *(f"mb1ic16ih12oc16kh{k}kw{m}" for k, m in ((3, 3), (1, 1), (5, 5), (7, 7), (1, 3), (1, 5), (1, 7))),
    *(f"mb1ic16ih12oc16kh{k}sh2" for k in (1, 3, 5, 7)),
    *(f"mb1ic16ih12oc16kh{k}sh{s}g16" for k in (3, 5, 7) for s in (1, 2)),
    *(f"mb1ic{c}ih12oc16kh{k}sh{s}" for c in (1, 3) for k, s in ((3, 1), (3, 2), (7, 2))),
)
POOLS = ("mb1ic16ih12kh2sh2", "mb1ic16ih12kh3sh2ph1")
ADAPTIVE_POOLS = ("mb1ic16ih12oh3", "mb1ic16ih12oh1")
LAYOUTS = ("NCHW", "NHWC")


def _samples(kernel: Kernel, layout: str, dtype: str) -> Iterator[Problem]:
    how = {"pass_": kernel.pass_, "layout": layout, "dtype": dtype}
    if kernel.op == "conv2d":
        yield from (ConvProblem.parse(text, **how) for text in CONVOLUTIONS)
    else:
        texts = ADAPTIVE_POOLS if kernel.op.startswith("adaptive_") else POOLS
        yield from (PoolProblem.parse(text, kernel.op, **how) for text in texts)


def _everything(layouts: Sequence[str], dtypes: Sequence[str]) -> Iterator[tuple[Kernel, Problem]]:
    """Each Numba row with every sample that it can compute."""
    for kernel in KERNELS:
        if kernel.backend == "numba":
            for dtype in dtypes:
                for layout in layouts:
                    yield from ((kernel, p) for p in _samples(kernel, layout, dtype) if kernel.cannot(p) is None)


def _problems(given: str | Problem, layouts: Sequence[str], dtypes: Sequence[str]) -> Iterator[Problem]:
    """All passes of a text, or the problem itself."""
    if not isinstance(given, str):
        yield given
        return
    op, _, text = given.strip().rpartition(" ")
    passes = [k.pass_ for k in KERNELS if k.op == (op or "conv2d") and k.backend == "numba"]
    if not passes:
        raise ValueError(f"warmup: no Numba kernel computes {op!r}")
    for pass_ in dict.fromkeys(passes):
        for dtype in dtypes:
            for layout in layouts:
                yield parse_problem(text, op or "conv2d", pass_=pass_, layout=layout, dtype=dtype)


def _needed(
    problems: Iterable[str | Problem], layouts: Sequence[str], dtypes: Sequence[str]
) -> Iterator[tuple[Kernel, Problem]]:
    """The Numba row that would be chosen for each problem, and one image of it."""
    for given in problems:
        for problem in _problems(given, layouts, dtypes):
            kernel = dispatch.choose(problem, dispatch.Request(backend="numba"))
            yield kernel, replace(problem, mb=min(problem.mb, 1))


def _operands(problem: Problem) -> tuple[Any, ...]:
    return pool_operands(problem) if isinstance(problem, PoolProblem) else operands(problem)


def warmup(
    problems: Iterable[str | ConvProblem | PoolProblem] | None = None,
    *,
    layouts: Sequence[str] = LAYOUTS,
    dtypes: Sequence[str] = ("float32",),
    progress: Callable[[int, int, str, float], object] | None = None,
) -> list[str]:
    """Compile Numba kernels now and keep them on disk, so that no later call waits for the compiler.

    Without the compiled extension, calls are then fast from the first on; beside it, kernels compiled here take part in
    the choice by predicted time, from the next process on (within one process the choice never changes). What they hang
    on is the filter, the stride, the layout and the dtype, not the sizes.

    Parameters
    ----------
    problems : texts as "mb1ic64ih56oc64kh3ph1" or "max_pool2d mb1ic64ih56kh2sh2" (all passes of it), ConvProblem or
        PoolProblem (that pass alone); None: every Numba kernel
    layouts, dtypes : of texts, and of every kernel
    progress : called as progress(number, of how many, kernel, seconds) after each

    Returns
    -------
    list of str, the kernels that are compiled now, each once

    Raises
    ------
    ValueError, NoKernelError
        A text that is no problem, a problem that no Numba kernel can compute, Numba not installed.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.warmup(["mb1ic8ih9oc8kh3"], layouts=["NHWC"])  # doctest: +SKIP
    ['conv2d_forward_winograd_f4x3__numba', ...]
    """
    fault = host.backend_fault("numba")
    if fault is not None:
        raise ValueError(f"warmup: {fault}")
    jobs = list(_everything(layouts, dtypes) if problems is None else _needed(problems, layouts, dtypes))
    for number, (kernel, problem) in enumerate(jobs, 1):
        start = time.perf_counter()
        dispatch.plan_for(problem, kernel)(*_operands(problem))
        if progress is not None:
            progress(number, len(jobs), kernel.name, time.perf_counter() - start)
    dispatch.keep_warmed(jobs)
    return list(dict.fromkeys(kernel.name for kernel, _ in jobs))
