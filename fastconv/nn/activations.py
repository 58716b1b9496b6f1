"""Activations that are not fused into a kernel, in place: forward on z, backward on dy given the output y."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastconv.functional import training


class Passes(NamedTuple):
    forward: Callable[[np.ndarray], object]
    backward: Callable[[np.ndarray, np.ndarray], object]


def _relu(z: np.ndarray) -> None:
    np.maximum(z, 0, out=z)


def _relu_backward(y: np.ndarray, dy: np.ndarray) -> None:
    training.relu_backward(dy, y, None)


def _sigmoid(z: np.ndarray) -> None:
    # 1/(1+exp(-z)) = (1+tanh(z/2))/2, which cannot overflow
    np.multiply(z, 0.5, out=z)
    np.tanh(z, out=z)
    np.add(z, 1, out=z)
    np.multiply(z, 0.5, out=z)


def _sigmoid_backward(y: np.ndarray, dy: np.ndarray) -> None:
    np.multiply(dy, y * (1 - y), out=dy)


def _tanh(z: np.ndarray) -> None:
    np.tanh(z, out=z)


def _tanh_backward(y: np.ndarray, dy: np.ndarray) -> None:
    np.multiply(dy, 1 - y * y, out=dy)


def softmax(z: np.ndarray) -> None:
    """Softmax over the last axis, in place; shifted by the maximum so that exp cannot overflow."""
    z -= z.max(axis=-1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)


def _softmax_backward(y: np.ndarray, dy: np.ndarray) -> None:
    dy -= (dy * y).sum(axis=-1, keepdims=True)
    dy *= y


ACTIVATIONS = {
    "relu": Passes(_relu, _relu_backward), "sigmoid": Passes(_sigmoid, _sigmoid_backward),
    "tanh": Passes(_tanh, _tanh_backward), "softmax": Passes(softmax, _softmax_backward),
}


def checked(name: str | None) -> str:
    """The name of an activation, "linear" for None; ValueError for one that there is not."""
    name = "linear" if name is None else name
    if name != "linear" and name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: None or one of linear, {', '.join(ACTIVATIONS)}")
    return name
