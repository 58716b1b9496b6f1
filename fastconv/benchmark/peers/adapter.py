"""What an adapter gives: callables that each do one op on a library's own, already prepared arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import ConvProblem, PoolProblem


class Unsupported(ValueError):
    """The library, or its adapter, cannot do this problem; the message says why."""


@dataclass(frozen=True)
class Rival:
    """One op of one library, made ready: `calls[i]` runs it on the i-th input, `output()` is the first's, as NCHW."""

    calls: list[Callable[[], Any]]
    output: Callable[[], np.ndarray]


class Adapter:
    """One library in one layout and mode. Inputs are NCHW, weights OIHW, float32; `stack` frees what a race needed."""

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        """A convolution with the weight prepared ahead as far as the library offers it."""
        raise Unsupported(f"{type(self).__name__} has no convolution here")

    def pool(self, problem: PoolProblem, inputs: list[np.ndarray], threads: int, stack: ExitStack) -> Rival:
        """A max or average pooling, or (problem.pass_ "backward": the inputs are its own) its gradient of ones."""
        raise Unsupported(f"{type(self).__name__} has no pooling here")


def symmetric_padding(problem: ConvProblem | PoolProblem) -> tuple[int, int]:
    """(ph, pw); Unsupported when the ends of an axis differ."""
    if (problem.ph, problem.pw) != (problem.ph_r, problem.pw_r):
        raise Unsupported("padding that differs between the ends of an axis")
    return problem.ph, problem.pw


def nhwc(x: np.ndarray) -> np.ndarray:
    """A contiguous NHWC copy of an NCHW array."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@contextmanager
def quiet() -> Iterator[None]:
    """What a library writes to the standard output by itself goes nowhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
