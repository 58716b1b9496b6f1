"""Sequential.memory: what a training step keeps allocated, as NumPy's own allocations say."""

import tracemalloc

import numpy as np
import pytest

from fastconv.nn import Sequential, layers, mnist_network
from tests.rows import needs_cython


def digits(n):
    rng = np.random.default_rng(0)
    return rng.random((n, 28, 28, 1), np.float32), rng.integers(0, 10, n)


def network(**compiling):
    model = mnist_network(seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **compiling)
    return model


@pytest.mark.parametrize("fuse", [True, False])
def test_memory_is_what_steps_allocate(fuse):
    x, y = digits(64)
    model = network(fuse=fuse)
    model.train_on_batch(x, y)  # imports and scratch are behind us
    for layer in model.layers:
        layer.release_buffers()
    tracemalloc.start()
    try:
        model.train_on_batch(x, y)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    memory = model.memory(64)
    assert abs(held - memory.layers) < 0.02 * memory.layers + 16384, (held, memory)
    assert memory.batch == x.nbytes
    assert memory.weights == memory.gradients == 4 * model.count_params()
    assert 2 * memory.weights <= memory.optimizer < 2 * memory.weights + 4096
    assert memory.total == sum([memory.weights, memory.gradients, memory.optimizer, memory.batch, memory.layers,
                                memory.workspace])  # fmt: skip


@needs_cython
def test_memory_of_a_fused_network_is_smaller():
    assert network().memory(64).layers < 0.6 * network(fuse=False).memory(64).layers


def test_memory_grows_with_the_batch_in_the_arrays_alone():
    model = network()
    one, many = model.memory(1), model.memory(32)
    assert many.batch == 32 * one.batch and many.weights == one.weights
    assert 30 * one.layers < many.layers < 33 * one.layers
    assert model.memory(1).layers == one.layers, "buffers of a larger batch do not count"


def test_memory_of_a_prediction():
    model = mnist_network(seed=0)
    memory = model.memory(8)
    assert memory.optimizer == 0 and 0 < memory.layers < network(fuse=False).memory(8).layers


def test_asking_changes_nothing():
    x, y = digits(48)

    def trained(ask):
        model = Sequential([layers.Conv2D(4, 3, activation="relu", input_shape=(28, 28, 1)), layers.MaxPooling2D(2),
                            layers.Dropout(0.3), layers.Flatten(), layers.Dense(10, activation="softmax")], seed=3)
        model.compile("rmsprop", "sparse_categorical_crossentropy")
        for _ in range(2):
            if ask:
                model.memory(7)
                model.summary(columns=["bytes", "kernel"], print_fn=lambda line: None)
            model.fit(x, y, batch_size=16, verbose=0)
        return model

    asked, quiet = trained(True), trained(False)
    assert all(np.array_equal(a, b) for a, b in zip(asked.get_weights(), quiet.get_weights()))
    assert asked.profile().steps == quiet.profile().steps == 3


def test_memory_is_printed_with_the_summarys_bytes():
    lines = []
    model = network()
    model.summary(columns=["bytes"], batch_size=16, print_fn=lines.append)
    assert lines[-1] == str(model.memory(16))
    assert lines[-1].startswith("Memory of a step of 16 samples: ")


def test_memory_refuses():
    with pytest.raises(ValueError, match="batch_size is a positive integer"):
        network().memory(0)
    with pytest.raises(ValueError, match="no shapes yet"):
        Sequential([layers.Flatten()]).memory()


@needs_cython
def test_steps_that_are_not_fused_allocate_nothing_either():
    x, y = digits(64)
    model = network(fuse=False)
    labels = y.astype(np.int64)
    for _ in range(3):
        model._train_step(x, labels)
    tracemalloc.start()
    try:
        for _ in range(3):
            model._train_step(x, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024, f"{peak} bytes; the indices of the first pooling alone have 2.8 MB"
