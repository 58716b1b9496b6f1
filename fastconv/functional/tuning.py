"""tune(...): time every kernel that can on this machine, and remember the winner."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fastconv import autotune, dispatch
from fastconv.functional.arrays import logical, logical_weight
from fastconv.functional.intake import forward_problem, precision_of, request_of
from fastconv.problem import ConvProblem

# Each candidate is timed in turn, round after round, so that a noisy moment hits all of them.
ROUNDS = 7
# Candidates predicted to be this much slower than the best are not worth the wait.
HOPELESS = 30.0


def operands(p: ConvProblem) -> tuple[Any, ...]:
    """Random operands in the call shape of the pass."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(p.dtype)

    def make(shape: tuple[int, ...]) -> np.ndarray:
        if dtype.kind == "i":
            return rng.integers(-3, 4, shape)
        return rng.standard_normal(shape).astype(dtype)

    x, y = logical(make(p.input_shape), p.layout), logical(make(p.output_shape), p.layout)
    w = logical_weight(make(p.weight_shape), p.layout)
    if p.pass_ == "backward_weight":
        return x, y, w
    bias = make((p.oc if p.pass_ == "forward" else p.ic,)) if p.bias else None
    return (x, w, bias, None, y) if p.pass_ == "forward" else (y, w, bias, None, x)


def tune(
    input_shape: Any, weight_shape: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    layout: str = "NCHW", dtype: Any = "float32", pass_: str = "forward", bias: bool = False, activation: Any = None,
    precision: Any = "fast", backend: str = "auto", remember: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Time every kernel that can compute this convolution here and remember the fastest for later calls.

    A challenger replaces the default choice only when it is over 5 % faster. The choice is kept on disk (JSON, in the
    user's cache folder or FASTCONV_CACHE) by CPU, instruction set, threads, version, problem and precision: with
    another number of threads the default runs again, and may round differently.

    Parameters
    ----------
    input_shape, weight_shape : shapes as in `explain`
    bias : bool, whether the calls to come have one; activation : as in `conv2d`
    pass_ : "forward", "backward_input" or "backward_weight"
    remember : bool, False only measures
    others : as in `conv2d`

    Returns
    -------
    dict of kernel name to seconds of one call (the least of several), fastest first

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.
    """
    where = "tune"
    problem, _ = forward_problem(
        where, input_shape, weight_shape, stride, padding, dilation, groups, layout, dtype=np.dtype(dtype).name,
        pass_=pass_, bias=bias, activation=activation, precision=precision_of(precision),
    )  # fmt: skip
    request = request_of(where, "auto", backend, None)
    able = [v for v in dispatch.verdicts(problem, request) if v.reason is None]
    default = dispatch.best(able) if able else None
    if default is None:
        dispatch.choose(problem, request)  # raises, with the reasons
        raise AssertionError("unreachable")
    least = min(v.seconds for v in able)
    plans = [dispatch.plan_for(problem, v.kernel) for v in able if v is default or v.seconds < HOPELESS * least]
    arrays = operands(problem)
    seconds = {plan.kernel.name: float("inf") for plan in plans}
    for plan in plans:
        plan(*arrays)  # compiles what must be compiled
    for _ in range(ROUNDS):
        for plan in plans:
            start = time.perf_counter()
            plan(*arrays)
            seconds[plan.kernel.name] = min(seconds[plan.kernel.name], time.perf_counter() - start)
    winner = min(seconds, key=lambda name: seconds[name])
    if seconds[default.kernel.name] < autotune.CLEAR_WIN * seconds[winner]:
        winner = default.kernel.name
    if remember:
        autotune.remember(problem, winner)
    return dict(sorted(seconds.items(), key=lambda item: item[1]))
