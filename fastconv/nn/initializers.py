"""Initial values of weights, with the names and formulas of Keras."""
from __future__ import annotations

import math

import numpy as np

from .seeding import Stream


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs that one weight of an array (taps..., in, out) connects."""
    if len(shape) < 2:
        return (shape[0] if shape else 1,) * 2
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


def _uniform(shape: tuple[int, ...], stream: Stream, limit: float) -> np.ndarray:
    return ((2.0 * stream.uniform(math.prod(shape)) - 1.0) * limit).reshape(shape)


def glorot_uniform(shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16): the default of Keras."""
    return _uniform(shape, stream, math.sqrt(6.0 / max(1, sum(fans(shape)))))


def he_uniform(shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    """Uniform in +-sqrt(6 / fan_in) (He et al. 2015), made for ReLU."""
    return _uniform(shape, stream, math.sqrt(6.0 / max(1, fans(shape)[0])))


def zeros(shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    return np.zeros(shape)


def ones(shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    return np.ones(shape)


INITIALIZERS = {"glorot_uniform": glorot_uniform, "he_uniform": he_uniform, "zeros": zeros, "ones": ones}


def checked(name: str) -> str:
    """`name` if it is an initialiser's; ValueError with the known ones otherwise."""
    if name not in INITIALIZERS:
        raise ValueError(f"unknown initializer {name!r}: one of {', '.join(INITIALIZERS)}")
    return name
