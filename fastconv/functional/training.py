"""For `fastconv.nn`: what a training step does between convolutions, and augmentation, in one pass over the arrays.

Arrays are C-contiguous and of one dtype, float32 or float64, or an error says so. Without the extension NumPy does it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastconv import dispatch, host, threads
from fastconv.loading import load


@functools.cache
def _compiled() -> Any:
    """The module of compiled steps, or None."""
    fault = host.backend_fault("cython")
    return None if fault else load("fastconv._cython.training")


def device_session() -> Any:
    """A place on a GPU for the arrays of one network (_cuda/session.py); NoKernelError where none can be."""
    return dispatch.device_session().Session()


def relu_backward(grad: np.ndarray, y: np.ndarray | None, out_bias: np.ndarray | None) -> None:
    """The gradient of y = max(z, 0), in place (y None: grad stays), and its sums over all axes but the last."""
    compiled = _compiled()
    if compiled is not None:
        compiled.relu_backward(grad, y, out_bias, threads.get_num_threads())
        return
    if y is not None:
        grad[...] = np.where(y > 0, grad, 0)
    if out_bias is not None:
        out_bias[...] = grad.reshape(-1, grad.shape[-1]).sum(axis=0, dtype=np.float64)


def softmax_cross_entropy(z: np.ndarray, labels: np.ndarray, grad: np.ndarray | None) -> tuple[float, int]:
    """(sum of -log softmax(z)[label], right predictions) of logits (n, classes), int64 labels; grad of the mean."""
    compiled = _compiled()
    if compiled is not None:
        total, correct = compiled.softmax_cross_entropy(z, labels, grad)
        return total, correct
    rows = np.arange(len(z))
    shifted = z.astype(np.float64) - z.max(axis=-1, keepdims=True)
    shares = np.exp(shifted)
    total = shares.sum(axis=-1, keepdims=True)
    loss = (np.log(total[:, 0]) - shifted[rows, labels]).sum()
    if grad is not None:
        shares /= total
        shares[rows, labels] -= 1
        grad[...] = shares / len(z)
    return float(loss), int(np.count_nonzero(z.argmax(axis=-1) == labels))


def sgd(w: np.ndarray, g: np.ndarray, m: np.ndarray | None, rate: float, momentum: float, nesterov: bool) -> None:
    """m = momentum m - rate g, w += m (nesterov: w += momentum m - rate g); m None: w -= rate g."""
    compiled = _compiled()
    if compiled is not None:
        compiled.update("sgd", w, g, m, None, rate, momentum, 0.0, 0.0, nesterov, threads.get_num_threads())
    elif m is None:
        w -= rate * g
    else:
        m *= momentum
        m -= rate * g
        w += momentum * m - rate * g if nesterov else m


def rmsprop(
    w: np.ndarray, g: np.ndarray, v: np.ndarray, m: np.ndarray | None, rate: float, rho: float, momentum: float,
    epsilon: float,
) -> None:  # fmt: skip
    """v = rho v + (1 - rho) g^2; step = rate g / sqrt(v + epsilon); w -= step, or m = momentum m + step, w -= m."""
    compiled = _compiled()
    if compiled is not None:
        compiled.update("rmsprop", w, g, v, m, rate, rho, momentum, epsilon, False, threads.get_num_threads())
        return
    v *= rho
    v += (1 - rho) * (g * g)
    step = rate * (g / np.sqrt(v + epsilon))
    if m is not None:
        m *= momentum
        m += step
        step = m
    w -= step


def adam_rate(rate: float, beta_1: float, beta_2: float, step: int) -> float:
    """rate sqrt(1 - b2^step) / (1 - b1^step): means that began at 0 are too small by these factors."""
    return rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)


def adam(
    w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, alpha: float, beta_1: float, beta_2: float,
    epsilon: float,
) -> None:  # fmt: skip
    """m += (1 - b1)(g - m); v += (1 - b2)(g^2 - v); w -= alpha m / (sqrt(v) + epsilon), alpha: see adam_rate."""
    compiled = _compiled()
    if compiled is not None:
        compiled.update("adam", w, g, m, v, alpha, beta_1, beta_2, epsilon, False, threads.get_num_threads())
        return
    m += (1 - beta_1) * (g - m)
    v += (1 - beta_2) * (g * g - v)
    w -= alpha * (m / (np.sqrt(v) + epsilon))


def affine_images(x: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Each image of x (n, h, w, c) through its map m of maps (n, 2, 3): pixel (i, j) is x at the place m (i, j, 1).

    Bilinear, zeros from outside (a place that is NaN included); on the calling thread alone.
    """
    maps = np.ascontiguousarray(maps, np.float64)
    compiled = _compiled()
    if compiled is not None:
        y = np.empty_like(x)
        compiled.affine_images(x, maps, y)
        return y
    n, h, w, c = x.shape
    grid = np.stack([*np.indices((h, w)), np.ones((h, w), int)]).astype(x.dtype)
    # outside by a pixel or more is all zeros: one rim of them is enough
    limits = np.array([h, w], x.dtype)[:, None, None]
    places = np.einsum("nak,kij->naij", maps.astype(x.dtype), grid)
    places = np.where(places > -1, np.minimum(places, limits), x.dtype.type(-1))  # NaN is outside, too
    corners = np.floor(places)
    down, right = (places - corners)[..., None].swapaxes(0, 1)
    top, left = corners.astype(np.int64).swapaxes(0, 1) + 1
    padded = np.zeros((n, h + 3, w + 3, c), x.dtype)
    padded[:, 1:-2, 1:-2] = x
    flat = padded.reshape(-1, c)
    at = (np.arange(n)[:, None, None] * (h + 3) + top) * (w + 3) + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + w + 3] * (1 - right) + flat[at + w + 4] * right
    return upper * (1 - down) + lower * down
