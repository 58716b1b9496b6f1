"""Losses: mean over the batch, its gradient, and what the labels must look like; cross-entropies work on logits.

The activation that belongs to a loss (softmax, sigmoid) is applied inside it, on the logits, because the logarithm
of a rounded probability loses all accuracy (and is -inf) where the network is most wrong.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.functional import training


class Loss:
    """One loss: `check` validates labels once, `value` computes sums and the gradient for each batch."""

    name = ""
    activation: str | None = None  # the final activation that the loss applies itself
    from_logits = False

    def check(self, y: Any, output_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Labels as an array that `value` takes; ValueError naming shapes and the rule that failed."""
        raise NotImplementedError

    def value(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> float:
        """The sum of the losses of a batch; writes d(mean loss)/dz into `grad` unless it is None."""
        raise NotImplementedError

    def correct(self, z: np.ndarray, t: np.ndarray) -> int:
        """How many of the batch are predicted right, given logits."""
        raise NotImplementedError

    def value_and_correct(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> tuple[float, int]:
        """Both of the above, in one pass where there is one."""
        return self.value(z, t, grad), self.correct(z, t)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}

    def _length(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        if y.dtype == object or y.dtype.kind not in "buif":
            raise TypeError(f"{self.name}: labels are numbers, got an array of {y.dtype}")
        return y


def _log_softmax(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log softmax, softmax) over the last axis."""
    shifted = z - np.maximum.reduce(z, axis=-1, keepdims=True)
    exponential = np.exp(shifted)
    total = np.add.reduce(exponential, axis=-1, keepdims=True)
    shifted -= np.log(total)
    exponential /= total
    return shifted, exponential


class _Categorical(Loss):
    activation = "softmax"

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "from_logits": self.from_logits}


class SparseCategoricalCrossentropy(_Categorical):
    """-log softmax(z)[label], labels as integers (n,) or (n, 1).

    `from_logits=False` (the default) says that the model ends in softmax, True that it ends without one.
    """

    name = "sparse_categorical_crossentropy"

    def check(self, y: Any, output_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if len(output_shape) != 1:
            raise ValueError(f"{self.name} needs a model with outputs (n, classes), got (n, "
                             f"{', '.join(map(str, output_shape))}); put a Flatten layer at its end")
        y, classes = self._length(y), output_shape[-1]
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            hint = ""
            if y.shape == (len(y), classes):
                hint = ': these look one-hot; use loss="categorical_crossentropy", or y.argmax(axis=1)'
            raise ValueError(f"{self.name} expects integer labels of shape (n,), got {y.shape}{hint}")
        labels = y.astype(np.int64)
        if y.dtype.kind == "f" and not np.array_equal(labels, y):
            raise ValueError(f"{self.name} expects integer labels, got fractions such as {y[labels != y][0]}")
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise ValueError(f"labels are from {labels.min()} to {labels.max()}, but the model has {classes} "
                             f"outputs: labels are 0 to {classes - 1}")
        return labels

    def value(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> float:
        return self.value_and_correct(z, t, grad)[0]

    def value_and_correct(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> tuple[float, int]:
        return training.softmax_cross_entropy(z, t, grad)

    def correct(self, z: np.ndarray, t: np.ndarray) -> int:
        return self.value_and_correct(z, t, None)[1]


class CategoricalCrossentropy(_Categorical):
    """-sum(t * log softmax(z)), labels as probabilities (n, classes), usually one-hot."""

    name = "categorical_crossentropy"

    def check(self, y: Any, output_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        y, classes = self._length(y), output_shape[-1]
        if y.ndim != 2 or y.shape[1] != classes:
            hint = ""
            if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
                hint = (': these look like integer labels; use loss="sparse_categorical_crossentropy", '
                        "or fastconv.nn.data.to_categorical(y)")
            raise ValueError(f"{self.name} expects one-hot labels of shape (n, {classes}), got {y.shape}{hint}")
        targets = np.ascontiguousarray(y, dtype)
        if targets.size and not (targets.min() >= 0 and np.allclose(targets.sum(axis=1), 1, atol=1e-3)):
            raise ValueError(f"{self.name} expects every row of labels to be probabilities with sum 1; "
                             f"the first row is {targets[0]}")
        return targets

    def value(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> float:
        logs, probabilities = _log_softmax(z)
        if grad is not None:
            np.subtract(probabilities, t, out=grad)
            np.divide(grad, len(t), out=grad)
        logs *= t
        return -float(logs.sum(dtype=np.float64))

    def correct(self, z: np.ndarray, t: np.ndarray) -> int:
        return int(np.count_nonzero(z.argmax(axis=-1) == t.argmax(axis=-1)))


class _Elementwise(Loss):
    def check(self, y: Any, output_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        y = self._length(y)
        if output_shape == (1,) and y.ndim == 1:
            y = y[:, None]
        if y.shape[1:] != output_shape:
            raise ValueError(f"{self.name} expects labels shaped like the model's output, "
                             f"(n, {', '.join(map(str, output_shape))}), got {y.shape}")
        return np.ascontiguousarray(y, dtype)


class BinaryCrossentropy(_Elementwise):
    """-t log s(z) - (1 - t) log(1 - s(z)) with the sigmoid s, averaged over the outputs; labels in [0, 1]."""

    name = "binary_crossentropy"
    activation = "sigmoid"

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "from_logits": self.from_logits}

    def check(self, y: Any, output_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        targets = super().check(y, output_shape, dtype)
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise ValueError(f"{self.name} expects labels from 0 to 1, got {targets.min()} to {targets.max()}")
        return targets

    def value(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> float:
        outputs = z.size // len(z)
        if grad is not None:
            np.multiply(z, 0.5, out=grad)
            np.tanh(grad, out=grad)
            grad *= 0.5
            grad += 0.5 - t
            grad /= z.size
        losses = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
        return float(losses.sum(dtype=np.float64)) / outputs

    def correct(self, z: np.ndarray, t: np.ndarray) -> int:
        agree = (z > 0) == (t > 0.5)
        return int(np.count_nonzero(agree.reshape(len(z), -1).all(axis=1)))


class MeanSquaredError(_Elementwise):
    """Mean of (z - t)^2 over the outputs."""

    name = "mean_squared_error"

    def value(self, z: np.ndarray, t: np.ndarray, grad: np.ndarray | None) -> float:
        difference = z - t
        if grad is not None:
            np.multiply(difference, 2 / z.size, out=grad)
        difference *= difference
        return float(difference.sum(dtype=np.float64)) / (z.size // len(z))

    def correct(self, z: np.ndarray, t: np.ndarray) -> int:
        raise ValueError(f"accuracy has no meaning for {self.name}; leave it out of metrics")


LOSSES: dict[str, type[Loss]] = {
    cls.name: cls for cls in (SparseCategoricalCrossentropy, CategoricalCrossentropy, BinaryCrossentropy,
                              MeanSquaredError)
}
LOSSES["mse"] = MeanSquaredError


def get(loss: str | Loss | dict[str, Any]) -> Loss:
    """A loss by Keras's name, by its config, or as it is."""
    if isinstance(loss, Loss):
        return loss
    config = {"name": loss} if isinstance(loss, str) else dict(loss)
    name = config.pop("name", None)
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: one of {', '.join(LOSSES)}")
    return LOSSES[name](**config)
