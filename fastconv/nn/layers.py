"""The layers of a `Sequential` network: shapes, weights, forward and backward in NHWC over fastconv's functions.

Arguments, defaults and weight orders are those of Keras. A layer keeps what its backward pass needs, and its
outputs in buffers that the next call overwrites; `Sequential` hands out copies. Arrays live where `device` says, and
what is not one of fastconv's functions is asked of it.
"""
from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

import fastconv

from . import activations, initializers
from .device import HOST
from .kernels import KernelChoice
from .seeding import DROPOUT, INIT, Stream

_taken: dict[str, int] = {}


def unique_name(class_name: str) -> str:
    """The next automatic name of a class, numbered as Keras does: conv2d, conv2d_1, conv2d_2, ..."""
    stem = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", class_name)).lower()
    number = _taken.get(stem, 0)
    _taken[stem] = number + 1
    return f"{stem}_{number}" if number else stem


def reset_names() -> None:
    """Start the numbering of automatic names again (Keras: `clear_session`)."""
    _taken.clear()


def _pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """One integer for both axes, or a pair of them, at least `least` each."""
    values = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < least
                               for v in values):
        raise ValueError(f"{what} is an integer of at least {least} or a pair of them, got {value!r}")
    return int(values[0]), int(values[1])


def positive(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{what} is a positive integer, got {value!r}")
    return int(value)


# ---------------------------------------------------------------------------------------------------------------

class Layer:
    """One step of a network: `build` fixes shapes and weights, `forward` and `backward` compute.

    Shapes leave out the batch axis. `weights` maps names to arrays; `backward` writes the gradients of the loss
    into `grads` under the same names and returns the gradient of the input, unless `need_dx` is False.
    `backward` may overwrite `dy`.
    """

    activation = "linear"
    on_gpu = False  # whether `device` makes all its arrays and fastconv or `device` does all its work: may be a GPU
    replayable = True  # whether each step on a GPU does the same, so that it may be recorded
    settings: tuple[str, ...] = ()  # constructor arguments beside name, trainable and input_shape

    def __init__(self, *, input_shape: Iterable[int] | None = None, name: str | None = None,
                 trainable: bool = True) -> None:
        self.given_input_shape = None if input_shape is None else self._checked_shape(input_shape)
        self.name = unique_name(type(self).__name__) if name is None else name
        self.trainable = trainable
        self.built = False
        self.input_shape: tuple[int, ...] = ()
        self.output_shape: tuple[int, ...] = ()
        self.device: Any = HOST
        self.weights: dict[str, Any] = {}
        self.grads: dict[str, Any] = {}
        self.dtype = np.dtype(np.float32)
        self.kernels = KernelChoice()
        # A following max pooling applies this layer's ReLU mask to its own, smaller gradient, and sums that for the
        # bias: the sums over the image are the same.
        self.masked_by_next = False
        self.bias_summed = False
        self._buffers: dict[str, Any] = {}

    @staticmethod
    def _checked_shape(shape: Iterable[int]) -> tuple[int, ...]:
        return tuple(positive(size, "every size of input_shape") for size in shape)

    # -- structure

    def build(self, input_shape: tuple[int, ...], dtype: np.dtype, seed: int, index: int) -> None:
        """Fix the shapes and make the weights; `index` is the layer's place, which picks its random stream."""
        self.input_shape, self.dtype = input_shape, dtype
        self.output_shape = self.compute_output_shape(input_shape)
        self.make_weights(Stream(seed, INIT, index))
        self.reseed(seed, index)
        self.built = True

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape

    def make_weights(self, stream: Stream) -> None:
        """Fill `weights`; a layer without weights does nothing."""

    def reseed(self, seed: int, index: int) -> None:
        """Restart the layer's random stream, if it has one."""

    @property
    def parameters(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    @property
    def multiply_adds(self) -> int:
        """Multiplications with a weight in one forward pass over one sample."""
        return 0

    def get_weights(self) -> list[np.ndarray]:
        return [self.device.get(weight) for weight in self.weights.values()]

    def set_weights(self, values: Iterable[Any]) -> None:
        values = [np.asarray(value) for value in values]
        shapes = [weight.shape for weight in self.weights.values()]
        if [value.shape for value in values] != shapes:
            raise ValueError(f"{self.name}: expects weights of shapes {shapes}, "
                             f"got {[value.shape for value in values]}")
        for weight, value in zip(self.weights.values(), values):
            self.device.put(weight, value)

    def check_device(self, device: Any) -> None:
        """ValueError if the layer cannot compute there."""
        if device is not HOST and not self.on_gpu:
            raise self._error('this layer computes on the host only; leave out backend="cuda"')

    def move(self, device: Any) -> None:
        """Take the weights to another device (see device.py)."""
        if device is self.device:
            return
        self.check_device(device)
        values = self.get_weights()
        self.device = device
        self.release_buffers()
        for name, value in zip(self.weights, values):
            self.weights[name] = device.empty(value.shape, value.dtype)
            self.grads[name] = device.zeros(value.shape, value.dtype)
        self.set_weights(values)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-ready."""
        config = {name: getattr(self, name) for name in self.settings}
        return {"name": self.name, "trainable": self.trainable, **config}

    # -- computing

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        """Outputs of a batch; `logits` leaves out the final activation (the loss applies it, more exactly)."""
        raise NotImplementedError

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        """Gradients of the last forward batch, None without need_dx; `logits`: dy is that before the activation."""
        raise NotImplementedError

    def buffer(self, key: str, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """An array of this shape that is kept between steps: no allocation, no page faults in the loop."""
        kept = self._buffers.get(key)
        if kept is None or kept.shape[1:] != shape[1:] or kept.shape[0] < shape[0]:
            kept = self._buffers[key] = self.device.empty(shape, self.dtype if dtype is None else dtype)
        return kept[:shape[0]]

    @property
    def buffer_bytes(self) -> int:
        """What the arrays kept between steps hold."""
        return sum(kept.nbytes for kept in self._buffers.values())

    def release_buffers(self) -> None:
        self._buffers.clear()

    def _error(self, rule: str) -> ValueError:
        return ValueError(f"{self.name} ({type(self).__name__}): {rule}")


class _Weighted(Layer):
    """A layer with a kernel, an optional bias and an activation: ReLU is fused into the kernel's store."""

    on_gpu = True

    def __init__(self, activation: str | None, use_bias: bool, kernel_initializer: str, bias_initializer: str,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.checked(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.checked(kernel_initializer)
        self.bias_initializer = initializers.checked(bias_initializer)

    def kernel_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def make_weights(self, stream: Stream) -> None:
        shape = self.kernel_shape()
        makers = initializers.INITIALIZERS
        self.weights = {"kernel": makers[self.kernel_initializer](shape, stream).astype(self.dtype)}
        if self.use_bias:
            self.weights["bias"] = makers[self.bias_initializer](shape[-1:], stream).astype(self.dtype)
        self.grads = {name: np.zeros_like(weight) for name, weight in self.weights.items()}

    def _activate(self, z: Any, logits: bool) -> Any:
        if self.activation not in ("linear", "relu") and not logits:
            self.device.activate(self.activation, z, z)
        return z

    def _gradient_of_sum(self, y: Any, dy: Any, logits: bool) -> Any:
        """dy brought back through the activation, in place where it is dense; and the gradient of the bias from it."""
        device = self.device
        dy = device.dense(dy, self.dtype)
        masked = y if self.activation == "relu" and not logits and not self.masked_by_next else None
        if self.activation not in ("linear", "relu") and not logits:
            device.activate_backward(self.activation, y, dy)
        bias = None if self.bias_summed else self.grads.get("bias")
        self.bias_summed = False
        if masked is not None or bias is not None:
            device.relu_backward(dy, masked, bias)
        return dy


class Conv2D(_Weighted):
    """2-D convolution of (n, h, w, c) with `filters` filters, plus bias and activation.

    Parameters
    ----------
    filters : number of output channels
    kernel_size, strides, dilation_rate : int or pair
    padding : "valid" or "same" (the extra row and column at the bottom and right, as in TensorFlow)
    groups : input and output channels are split into this many independent groups
    activation : None, "relu", "sigmoid", "tanh" or "softmax"

    Weights: kernel (kh, kw, c / groups, filters), bias (filters,).
    """

    settings = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "activation",
                "use_bias", "kernel_initializer", "bias_initializer")

    def __init__(self, filters: int, kernel_size: Any, strides: Any = (1, 1), padding: str = "valid",
                 dilation_rate: Any = (1, 1), groups: int = 1, activation: str | None = None,
                 use_bias: bool = True, kernel_initializer: str = "glorot_uniform",
                 bias_initializer: str = "zeros", **kwargs: Any) -> None:
        super().__init__(activation, use_bias, kernel_initializer, bias_initializer, **kwargs)
        self.filters = positive(filters, "filters")
        self.kernel_size = _pair(kernel_size, "kernel_size")
        self.strides = _pair(strides, "strides")
        self.dilation_rate = _pair(dilation_rate, "dilation_rate")
        self.groups = positive(groups, "groups")
        self.padding = _padding(padding)

    def kernel_shape(self) -> tuple[int, ...]:
        return (*self.kernel_size, self.input_shape[2] // self.groups, self.filters)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        h, w, c = _image_shape(self, input_shape)
        if c % self.groups or self.filters % self.groups:
            raise self._error(f"{c} input channels and {self.filters} filters must both be "
                              f"multiples of groups={self.groups}")
        return (*_windows(self, (h, w), self.kernel_size, self.strides, self.dilation_rate), self.filters)

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.output_shape) * math.prod(self.weights["kernel"].shape[:3])

    @property
    def geometry(self) -> dict[str, Any]:
        """The arguments that every pass of the convolution shares."""
        return {"stride": self.strides, "padding": self.padding, "dilation": self.dilation_rate,
                "groups": self.groups, "layout": "NHWC"}

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        y = self.buffer("y", (len(x), *self.output_shape))
        self.kernels.run("forward", len(x), fastconv.conv2d, x, self.weights["kernel"], self.weights.get("bias"),
                         activation="relu" if self.activation == "relu" else None, out=y, **self.geometry)
        self._x, self._y = x, y
        return self._activate(y, logits)

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        dy = self._gradient_of_sum(self._y, dy, logits)
        kernel = self.weights["kernel"]
        self.kernels.run("backward_weight", len(dy), fastconv.conv2d_weight, self._x, kernel.shape, dy,
                         out=self.grads["kernel"], **self.geometry)
        if not need_dx:
            return None
        dx = self.buffer("dx", self._x.shape)
        self.kernels.run("backward_input", len(dy), fastconv.conv2d_input, self._x.shape, kernel, dy,
                         out=dx, **self.geometry)
        return dx


class Dense(_Weighted):
    """Matrix product of (n, d) with a (d, units) kernel, plus bias and activation.

    It is computed as a 1x1 convolution over one row of n pixels, because that gives the same bits for any number
    of threads, which a BLAS does not promise.
    """

    settings = ("units", "activation", "use_bias", "kernel_initializer", "bias_initializer")

    def __init__(self, units: int, activation: str | None = None, use_bias: bool = True,
                 kernel_initializer: str = "glorot_uniform", bias_initializer: str = "zeros",
                 **kwargs: Any) -> None:
        super().__init__(activation, use_bias, kernel_initializer, bias_initializer, **kwargs)
        self.units = positive(units, "units")

    def kernel_shape(self) -> tuple[int, ...]:
        return self.input_shape[0], self.units

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(input_shape) != 1:
            raise self._error(f"expects a vector per sample, got shape {_with_batch(input_shape)}; "
                              "put a Flatten layer before it")
        return (self.units,)

    @property
    def multiply_adds(self) -> int:
        return self.input_shape[0] * self.units

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        y = self.buffer("y", (len(x), self.units))
        self.kernels.run("forward", len(x), fastconv.conv2d, x[None, None], self.weights["kernel"][None, None],
                         self.weights.get("bias"), activation="relu" if self.activation == "relu" else None,
                         layout="NHWC", out=y[None, None])
        self._x, self._y = x, y
        return self._activate(y, logits)

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        dy = self._gradient_of_sum(self._y, dy, logits)
        x, kernel, row = self._x[None, None], self.weights["kernel"][None, None], dy[None, None]
        self.kernels.run("backward_weight", len(dy), fastconv.conv2d_weight, x, kernel.shape, row, layout="NHWC",
                         out=self.grads["kernel"][None, None])
        if not need_dx:
            return None
        dx = self.buffer("dx", self._x.shape)
        self.kernels.run("backward_input", len(dy), fastconv.conv2d_input, x.shape, kernel, row, layout="NHWC",
                         out=dx[None, None])
        return dx


class _Pooling(Layer):
    """Windows over height and width; every channel on its own."""

    on_gpu = True
    settings = ("pool_size", "strides", "padding")

    def __init__(self, pool_size: Any = (2, 2), strides: Any = None, padding: str = "valid",
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = _pair(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else _pair(strides, "strides")
        self.padding = _padding(padding)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        h, w, c = _image_shape(self, input_shape)
        return (*_windows(self, (h, w), self.pool_size, self.strides, (1, 1)), c)


class MaxPooling2D(_Pooling):
    """Largest value of each window; the first one takes the gradient when several are equal.

    After a layer with ReLU it also applies that layer's gradient mask and sums the gradient of its bias: the maximum
    of a window is positive exactly when the element that receives the gradient is, and there are fewer of them.
    """

    masked_layer: Layer | None = None

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        shape = (len(x), *self.output_shape)
        y = self.buffer("y", shape)
        if training:
            self._indices = self.buffer("indices", shape, np.int64)
            self.kernels.run("forward", len(x), fastconv.max_pool2d, x, self.pool_size, self.strides, self.padding,
                             return_indices=True, layout="NHWC", out=(y, self._indices))
        else:
            self.kernels.run("inference", len(x), fastconv.max_pool2d, x, self.pool_size, self.strides,
                             self.padding, layout="NHWC", out=y)
        self._x, self._y = x, y
        return y

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        if not need_dx:
            return None
        masked = self.masked_layer
        if masked is not None:
            bias = masked.grads.get("bias") if isinstance(masked, _Weighted) else None
            dy = self.device.dense(dy, self.dtype)
            self.device.relu_backward(dy, self._y, bias)
            masked.bias_summed = bias is not None
        dx = self.buffer("dx", self._x.shape)
        self.kernels.run("backward", len(dy), fastconv.max_pool2d_backward, dy, dx.shape, self._indices,
                         self.pool_size, self.strides, self.padding, layout="NHWC", out=dx)
        return dx


class AveragePooling2D(_Pooling):
    """Mean of each window over the cells inside the image (padding is not counted, as in Keras)."""

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        y = self.buffer("y", (len(x), *self.output_shape))
        self._x = x
        self.kernels.run("forward", len(x), fastconv.avg_pool2d, x, self.pool_size, self.strides, self.padding,
                         count_include_pad=False, layout="NHWC", out=y)
        return y

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        if not need_dx:
            return None
        dx = self.buffer("dx", self._x.shape)
        self.kernels.run("backward", len(dy), fastconv.avg_pool2d_backward, dy, dx.shape, self.pool_size,
                         self.strides, self.padding, count_include_pad=False, layout="NHWC", out=dx)
        return dx


class Flatten(Layer):
    """(n, h, w, c) to (n, h*w*c), without a copy."""

    on_gpu = True

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(input_shape),)

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        return x.reshape(len(x), *self.output_shape)

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        return dy.reshape(len(dy), *self.input_shape)


class Dropout(Layer):
    """In training, zero each value with probability `rate` and scale the others by 1 / (1 - rate)."""

    on_gpu = True
    settings = ("rate",)

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout: rate is the share that is zeroed, 0 <= rate < 1, got {rate!r}")
        self.rate = float(rate)
        self.replayable = not self.rate  # what is kept is drawn on the host

    def reseed(self, seed: int, index: int) -> None:
        self.stream = Stream(seed, DROPOUT, index)

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        self._scale = None
        if not training or self.rate == 0:
            return x
        self._scale, y = self.buffer("scale", x.shape), self.buffer("y", x.shape)
        keep = self.stream.keep(x.size, self.rate).reshape(x.shape)
        self.device.keep(self._scale, keep, 1 / (1 - self.rate))
        self.device.multiply(x, self._scale, y)
        return y

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        if self._scale is not None:
            self.device.multiply(dy, self._scale, dy)
        return dy


class Activation(Layer):
    """An activation as a layer of its own."""

    on_gpu = True
    settings: tuple[str, ...] = ("activation",)

    def __init__(self, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.checked(activation)

    def forward(self, x: Any, training: bool, logits: bool = False) -> Any:
        if self.activation == "linear" or logits:
            return x
        self._y = self.buffer("y", x.shape)
        self.device.activate(self.activation, x, self._y)
        return self._y

    def backward(self, dy: Any, need_dx: bool, logits: bool = False) -> Any:
        if self.activation != "linear" and not logits and not self.masked_by_next:
            dy = self.device.dense(dy, self.dtype)
            self.device.activate_backward(self.activation, self._y, dy)
        return dy


class ReLU(Activation):
    """max(x, 0)."""

    settings = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("relu", **kwargs)


class Softmax(Activation):
    """Softmax over the last axis."""

    settings = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("softmax", **kwargs)


LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls for cls in (Conv2D, MaxPooling2D, AveragePooling2D, Flatten, Dense, Dropout, Activation,
                                  ReLU, Softmax)
}


# ---------------------------------------------------------------------------------------------------------------

def _with_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['None', *map(str, shape)])})"


def _padding(value: str) -> str:
    if not isinstance(value, str) or value.lower() not in ("valid", "same"):
        raise ValueError(f'padding is "valid" or "same", got {value!r}')
    return value.lower()


def _image_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 3:
        return shape
    hint = "; the channel axis is missing: (height, width, 1)?" if len(shape) == 2 else ""
    raise layer._error(f"expects (batch, height, width, channels), got {_with_batch(shape)}{hint}")


def _windows(layer: Any, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int],
             dilation: tuple[int, int]) -> tuple[int, int]:
    """Output height and width of a sliding window."""
    if layer.padding == "same":
        return -(-size[0] // stride[0]), -(-size[1] // stride[1])
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window)]
    if reach[0] > size[0] or reach[1] > size[1]:
        raise layer._error(f"a window of {reach[0]}x{reach[1]} does not fit the {size[0]}x{size[1]} input; "
                           'use padding="same" or a smaller window')
    return (size[0] - reach[0]) // stride[0] + 1, (size[1] - reach[1]) // stride[1] + 1
