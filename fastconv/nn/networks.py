"""The networks of the examples."""
from __future__ import annotations

from . import layers
from .models import Sequential


def mnist_network(seed: int | None = 0) -> Sequential:
    """The convolutional network for 28x28 digits of Chollet's "Deep Learning with Python" (2017, section 5.1).

    Three convolutions with ReLU, two max-poolings, two dense layers: 93,322 parameters. Compile it before `fit`.

    Examples
    --------
    >>> from fastconv.nn import mnist_network
    >>> mnist_network().count_params()
    93322
    """
    return Sequential([
        layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ], seed=seed)
