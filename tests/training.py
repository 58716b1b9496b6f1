"""What the tests of training share: a small network, whether two are the same, callbacks that watch or interrupt."""

from __future__ import annotations

import numpy as np

from fastconv.nn import Sequential, callbacks, layers


def tiny(seed: int = 0, optimizer="sgd", dropout: float = 0.0, **compiling) -> Sequential:
    """A network for 28x28 digits that costs next to nothing."""
    model = Sequential([
        layers.Conv2D(4, 3, strides=2, activation="relu", input_shape=(28, 28, 1)), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dropout(dropout), layers.Dense(10, activation="softmax")], seed=seed)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compiling)
    return model


def same(a: Sequential, b: Sequential) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.get_weights(), b.get_weights()))


class Recorder(callbacks.Callback):
    """Remembers every call and the loss of every batch."""

    def __init__(self):
        super().__init__()
        self.calls, self.losses = [], []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_end(self, logs=None):
        self.calls.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} over")

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


class At(callbacks.Callback):
    """Does something after a given update."""

    def __init__(self, update, action):
        super().__init__()
        self.left, self.action = update, action

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.action()
