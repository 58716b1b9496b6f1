"""fit on arrays with steps_per_epoch: epochs that are not one pass; and cycles of the learning rate that repeat."""

import numpy as np
import pytest

from fastconv.nn import Sequential, callbacks, layers, optimizers
from fastconv.nn.feeding import ArrayFeed
from fastconv.nn.seeding import SHUFFLE, Stream


def drawn(feed, stream, epochs):
    """Labels of each epoch's batches."""
    return [[batch.y.tolist() for batch in feed.epoch(stream)] for _ in range(epochs)]


def test_an_epoch_goes_on_where_the_last_one_stopped():
    x, y = np.zeros((10, 1), np.float32), np.arange(10)
    got = drawn(ArrayFeed(x, y, 4, 2), None, 4)
    assert got == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9], [0, 1, 2, 3]], [[4, 5, 6, 7], [8, 9]],
                   [[0, 1, 2, 3], [4, 5, 6, 7]]]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_each_pass_has_every_sample_once(steps):
    x, y = np.zeros((10, 1), np.float32), np.arange(10)
    feed = ArrayFeed(x, y, 4, steps)
    batches = [batch for epoch in drawn(feed, Stream(0, SHUFFLE), 6) for batch in epoch]
    assert len(batches) == 6 * steps
    orders = []
    for first in range(0, len(batches) - 2, 3):
        order = [label for batch in batches[first : first + 3] for label in batch]
        assert sorted(order) == list(range(10))
        orders.append(tuple(order))
    assert len(set(orders)) == len(orders), "every pass has an order of its own"


def test_steps_of_a_pass_change_nothing():
    x, y = np.zeros((10, 1), np.float32), np.arange(10)
    assert drawn(ArrayFeed(x, y, 4), Stream(3, SHUFFLE), 3) == drawn(ArrayFeed(x, y, 4, 3), Stream(3, SHUFFLE), 3)


def tiny():
    model = Sequential([layers.Flatten(input_shape=(4, 4, 1)), layers.Dense(3, activation="softmax")], seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_fit_takes_so_many_batches_an_epoch(capsys):
    rng = np.random.default_rng(0)
    x, y = rng.random((50, 4, 4, 1), np.float32), rng.integers(0, 3, 50)
    model = tiny()
    seen = []

    class Count(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    history = model.fit(x, y, batch_size=20, steps_per_epoch=4, epochs=2, callbacks=[Count()])
    assert history.updates == 8 and seen == [0, 1, 2, 3] * 2 and model.epochs_done == 2
    assert "4 updates per epoch (1.4 passes over 50 samples in batches of 20), 8 in 2 epochs" in capsys.readouterr().out
    whole, again = tiny(), tiny()
    whole.fit(x, y, batch_size=20, epochs=4, verbose=0)
    again.fit(x, y, batch_size=20, steps_per_epoch=6, epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights()))


@pytest.mark.parametrize(
    "count, size, steps, passes", [(100, 1000, 3, "3"), (100, 64, 2, "1"), (100, 64, 3, "1.64"), (100, 64, 1, "0.64")]
)
def test_passes_are_counted_as_they_run(count, size, steps, passes):
    assert ArrayFeed(np.zeros((count, 1)), None, size, steps).text.startswith(f"{passes} passes over 100 samples")


def test_steps_of_arrays_are_for_fit_alone():
    x, y = np.zeros((4, 4, 4, 1), np.float32), np.zeros(4, int)
    with pytest.raises(ValueError, match="steps is for generators"):
        tiny().evaluate(x, y, steps=1)
    with pytest.raises(ValueError, match="validation_steps is for generators"):
        tiny().fit(x, y, validation_data=(x, y), validation_steps=1, verbose=0)
    for steps in (0, 1.5, True):
        with pytest.raises(ValueError, match="steps_per_epoch is a positive integer"):
            tiny().fit(x, y, steps_per_epoch=steps, verbose=0)


def test_one_cycle_again():
    once, more = optimizers.OneCycle(1.0, 100), optimizers.OneCycle(1.0, 100, again=0.5)
    assert [more(u) for u in range(100)] == [once(u) for u in range(100)]
    assert [more(u) for u in range(100, 300)] == pytest.approx([0.5 * once(u % 100) for u in range(100, 300)])
    assert once(100) == once(1000) == pytest.approx(1e-3)
    assert optimizers.OneCycle(**{k: v for k, v in more.get_config().items() if k != "class"})(130) == more(130)
