"""pytest-benchmark: every kernel row on listed layers, verified on integers just before it is timed.

pytest bench/test_layers.py --benchmark-only --benchmark-group-by=param:layer -k "winograd and vgg"
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import fastconv
from bench.harness import layers
from fastconv import dispatch, host
from fastconv.functional.arrays import logical
from fastconv.registry import KERNELS, Kernel

# Rows predicted to take longer than this on a layer are not worth the wait.
LONGEST_SECONDS = 2.0

LAYERS = dict(layers())
ROWS = [k for k in KERNELS if k.op == "conv2d"]


def _call(problem: fastconv.ConvProblem, kernel: Kernel) -> tuple[Callable[[], None], np.ndarray]:
    """The kernel bound to small integers, its weights packed where it packs them, and where its result will be."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(problem.dtype)
    x, y = (
        logical(rng.integers(-2, 3, shape).astype(dtype), problem.layout)
        for shape in (problem.input_shape, problem.output_shape)
    )
    w = rng.integers(-2, 3, (problem.oc, problem.icg, problem.kh, problem.kw)).astype(dtype)
    plan = dispatch.plan_for(problem, kernel)
    if problem.pass_ == "backward_weight":
        return (lambda: plan(x, y, w)), w
    packed = plan.pack(w)
    if problem.pass_ == "forward":
        return (lambda: plan(x, w, None, None, y, packed=packed)), y
    return (lambda: plan(y, w, None, None, x, packed=packed)), x


def _rival(kernel: Kernel) -> Kernel:
    """Another row that computes the plain sum here: im2col in C, in Numba, or the loops."""
    able = [k for k in ROWS if k.pass_ == kernel.pass_ and k is not kernel and host.backend_fault(k.backend) is None]
    return next(k for name in ("im2col", "naive") for k in able if k.algorithm == name)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
def test_layer(benchmark, kernel: Kernel, layout: str, layer: str) -> None:
    problem = fastconv.ConvProblem.parse(LAYERS[layer].text, pass_=kernel.pass_, layout=layout)
    reason = host.backend_fault(kernel.backend) or kernel.cannot(problem)
    if reason is not None:
        pytest.skip(reason)
    if kernel.seconds(problem) > LONGEST_SECONDS:
        pytest.skip(f"predicted to take {kernel.seconds(problem):.1f} s")
    fast, result = _call(problem, kernel)
    fast()
    plain, expected = _call(problem, _rival(kernel))
    plain()
    scale = np.abs(expected).max()
    assert np.abs(result - expected).max() <= (0 if kernel.plain_sum else dispatch.FAST_ERROR_LIMIT) * scale
    benchmark.extra_info.update(problem=str(problem), mflop=problem.flops / 1e6)
    benchmark(fast)
