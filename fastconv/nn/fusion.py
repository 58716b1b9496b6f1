"""Layers that run as one: a convolution with ReLU and the 2x2 maximum pooling after it."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

import fastconv

from .layers import Conv2D, Layer, MaxPooling2D

OP = "conv2d_relu_max_pool2d"


class ConvPool:
    """A Conv2D and the MaxPooling2D after it as one step, which stores neither the convolution's output nor its
    gradient. Same results within rounding; it keeps its arrays where the layers would."""

    def __init__(self, conv: Conv2D, pool: MaxPooling2D) -> None:
        self.conv, self.pool = conv, pool

    def forward(self, x: np.ndarray, training: bool, logits: bool = False) -> np.ndarray:
        conv, pool = self.conv, self.pool
        shape = (len(x), *pool.output_shape)
        y, self._codes = pool.buffer("y", shape), pool.buffer("codes", shape, np.uint8)
        conv.kernels.run("forward", len(x), fastconv.conv2d_relu_max_pool2d, x, conv.weights["kernel"],
                         conv.weights.get("bias"), out=y, codes=self._codes, **conv.geometry)
        self._x = x
        return y

    def backward(self, dy: np.ndarray, need_dx: bool, logits: bool = False) -> np.ndarray | None:
        conv = self.conv
        kernel = conv.weights["kernel"]
        conv.kernels.run("backward_weight", len(dy), fastconv.conv2d_relu_max_pool2d_weight, self._x, kernel.shape,
                         dy, self._codes, out=conv.grads["kernel"], out_bias=conv.grads.get("bias"), **conv.geometry)
        if not need_dx:
            return None
        dx = conv.buffer("dx", self._x.shape)
        conv.kernels.run("backward_input", len(dy), fastconv.conv2d_relu_max_pool2d_input, self._x.shape, kernel,
                         dy, self._codes, out=dx, **conv.geometry)
        return dx


def _compiled(conv: Conv2D, passes: Iterable[str]) -> bool:
    """Whether a compiled kernel serves all of these passes, by the algorithm and backend that the layer asks for."""
    choice = conv.kernels
    names = [
        fastconv.explain((1, *conv.input_shape), conv.kernel_shape(), conv.strides, conv.padding, conv.dilation_rate,
                         conv.groups, op=OP, layout="NHWC", dtype=conv.dtype, pass_=pass_, algorithm=choice.algorithm,
                         backend=choice.backend).kernel
        for pass_ in passes]
    return all(name is not None and name.endswith("__cython") for name in names)


def steps(layers: list[Layer], first_trained: int, fuse: bool) -> list[tuple[Any, int]]:
    """What runs in turn, each with the number of its first layer."""
    found: list[tuple[Any, int]] = []
    index = 0
    while index < len(layers):
        layer, after = layers[index], layers[index + 1] if index + 1 < len(layers) else None
        passes = ["forward", "backward_weight", *(["backward_input"] if index > first_trained else [])]
        if (fuse and type(layer) is Conv2D and layer.activation == "relu" and type(after) is MaxPooling2D
                and after.pool_size == after.strides == (2, 2) and after.padding == "valid"
                and min(layer.output_shape[:2]) > 1 and _compiled(layer, passes)):
            found.append((ConvPool(layer, after), index))
            index += 2
        else:
            found.append((layer, index))
            index += 1
    return found
