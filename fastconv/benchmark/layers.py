"""Layers by name or in the text grammar; their operands, float64 results and errors."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

import fastconv
from fastconv import ConvProblem, PoolProblem

#: A handful that shows every regime: name -> text.
SHORT = {
    "vgg_conv2_2": "mb1ic128ih112oc128kh3ph1",
    "resnet_3x3": "mb1ic128ih28oc128kh3ph1",
    "resnet_1x1": "mb1ic64ih56oc256kh1",
    "resnet_7x7_s2": "mb1ic3ih224oc64kh7sh2ph3",
    "googlenet_5x5": "mb1ic32ih28oc96kh5ph2",
    "mobilenet_depthwise": "g128mb1ic128ih56oc128kh3ph1",
    "mnist_conv2": "mb1ic32ih13oc64kh3",
}

# A batch with more work than this is verified on its first and its last image only.
VERIFIED_FLOPS = 4e9
# Inputs and outputs are rotated among so many sets, or as many as exceed the caches.
MOST_SETS = 8
ASSUMED_CACHE_BYTES = 32 * 1024**2


def find(words: list[str]) -> dict[str, ConvProblem]:
    """The problems that a user names: names of SHORT or text forms; SHORT without any."""
    found = {}
    for word in words or SHORT:
        try:
            found[word] = ConvProblem.parse(SHORT.get(word, word))
        except ValueError as error:
            raise ValueError(f"{error}, or one of {', '.join(SHORT)}") from None
    return found


def sets_of(problem: ConvProblem | PoolProblem) -> int:
    """How many sets of arrays a race rotates among: more than the caches hold, MOST_SETS at most."""
    p = problem
    one = sum(int(np.prod(shape)) for shape in (p.input_shape, p.output_shape)) * p.itemsize
    cache = max([ASSUMED_CACHE_BYTES, *fastconv.info()["caches"].values()])
    return max(1, min(MOST_SETS, -(-2 * cache // max(one, 1))))


def images(problem: ConvProblem | PoolProblem, count: int, seed: int = 0) -> list[np.ndarray]:
    """`count` inputs of ReLU(N(0, 1)), NCHW, as inside a trained network."""
    p, rng = problem, np.random.default_rng(seed)
    channels = p.ic if isinstance(p, ConvProblem) else p.c
    shape = (p.mb, channels, p.ih, p.iw)
    found = []
    for _ in range(count):
        x = rng.standard_normal(shape, np.float32)
        found.append(np.maximum(x, 0, out=x))
    return found


def operands(problem: ConvProblem, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ReLU(N(0, 1)) input and He-initialised weight, NCHW and OIHW."""
    p, rng = problem, np.random.default_rng(seed + 1)
    w = rng.standard_normal((p.oc, p.icg, p.kh, p.kw), np.float32)
    w *= np.float32((2 / (p.icg * p.kh * p.kw)) ** 0.5)
    return images(p, 1, seed)[0], w


def symmetric(problem: ConvProblem | PoolProblem) -> bool:
    """Whether the padding is the same at both ends of each axis."""
    return (problem.ph, problem.pw) == (problem.ph_r, problem.pw_r)


def where(problem: ConvProblem) -> dict[str, Any]:
    """The geometry as keywords of `fastconv.conv2d` and `fastconv.plan_conv2d`."""
    p = problem
    padding = (p.ph, p.ph_r, p.pw, p.pw_r)
    return {"stride": (p.sh, p.sw), "padding": padding, "dilation": (p.dh, p.dw), "groups": p.g}


class Exact:
    """The float64 result on all images of a batch, or on the first and the last of a large one."""

    def __init__(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> None:
        p = problem
        large = p.flops > VERIFIED_FLOPS and p.mb > 2
        self._images = [0, p.mb - 1] if large else list(range(p.mb))
        x64, w64 = x[self._images].astype(np.float64), w.astype(np.float64)
        if importlib.util.find_spec("torch") is not None and symmetric(p):
            import torch

            how: dict[str, Any] = {
                "stride": (p.sh, p.sw),
                "padding": (p.ph, p.pw),
                "dilation": (p.dh, p.dw),
                "groups": p.g,
            }
            with torch.inference_mode():
                y = torch.nn.functional.conv2d(torch.from_numpy(x64), torch.from_numpy(w64), **how)
            self._y = y.numpy()
        else:
            self._y = fastconv.conv2d(x64, w64, algorithm="reference", **where(p))
        self._scale = float(np.abs(self._y).max()) or 1.0

    def error(self, y: np.ndarray) -> float:
        """Largest error of an NCHW result over the largest output."""
        if len(self._images) != len(y):
            y = y[self._images]
        worst = float(np.abs(y - self._y).max())
        return worst / self._scale if np.isfinite(worst) else float("inf")
