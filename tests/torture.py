"""Random problems for the torture of the Numba kernels, in this process or in others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastconv
from tests.calls import hwio, integers, nhwc


def problems(seed: int, count: int) -> Iterator[tuple[Any, ...]]:
    """(input, weight, bias, options) of small integers, so that plain sums and F(2x2, 3x3) are exact."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        g, k = rng.choice([1, 1, 2]), rng.choice([1, 2, 3, 3, 5])
        ic, oc = rng.integers(1, 20), rng.integers(1, 40)
        x = integers(rng, rng.integers(1, 3), ic * g, *rng.integers(k, 20, 2))
        w = integers(rng, oc * g, ic, k, k)
        options = {"groups": int(g), "stride": int(rng.integers(1, 3)), "padding": int(rng.integers(2))}
        if rng.integers(2):
            yield nhwc(x), hwio(w), integers(rng, oc * g), {**options, "layout": "NHWC"}
        else:
            yield x, w, integers(rng, oc * g), {**options, "layout": "NCHW"}


def check_forward(x: Any, w: Any, bias: Any, options: Any, **algorithm: Any) -> np.ndarray:
    """The Numba kernels give the reference's output."""
    wanted = fastconv.conv2d(x, w, bias, **options, algorithm="reference")
    y = fastconv.conv2d(x, w, bias, **options, backend="numba", precision="strict", **algorithm)
    assert np.array_equal(y, wanted), (x.shape, w.shape, options)
    return wanted


def check(x: Any, w: Any, bias: Any, options: Any) -> None:
    """So they do in both gradients, and with Winograd where that can run."""
    dy = np.sign(check_forward(x, w, bias, options))
    ours = {**options, "backend": "numba", "precision": "strict"}
    exact = {**options, "algorithm": "reference"}
    for function, *arrays in ((fastconv.conv2d_input, x.shape, w, dy), (fastconv.conv2d_weight, x, w.shape, dy)):
        assert np.array_equal(function(*arrays, **ours), function(*arrays, **exact)), (x.shape, w.shape, options)
    winograd = {**options, "backend": "numba", "algorithm": "winograd_f2x3"}
    try:
        y = fastconv.conv2d(x, w, bias, **winograd)
    except fastconv.NoKernelError:
        return
    assert np.array_equal(y, fastconv.conv2d(x, w, bias, **exact)), (x.shape, w.shape, options)
