"""fit as a user meets it: batches, updates, metrics, generators, and the messages for what cannot work."""

from __future__ import annotations

import re
import sys
import warnings

import numpy as np
import pytest

from fastconv.nn import data, mnist_network, optimizers
from fastconv.nn.feeding import ArrayFeed
from fastconv.nn.seeding import Stream
from tests.training import same, tiny

# ---------------------------------------------------------------------------------------------------------------
# Batches, updates, metrics

def test_batches_are_drawn_without_replacement():
    x = np.arange(10, dtype=np.float32)[:, None]
    feed = ArrayFeed(x, np.arange(10), 4)
    stream = Stream(0)
    orders = []
    for _ in range(3):
        batches = [(batch.x[:, 0].copy(), batch.y) for batch in feed.epoch(stream)]
        assert [len(b) for b, _ in batches] == [4, 4, 2]
        assert all(np.array_equal(b, labels) for b, labels in batches), "labels follow their images"
        orders.append(tuple(np.concatenate([b for b, _ in batches]).astype(int)))
    assert all(sorted(order) == list(range(10)) for order in orders) and len(set(orders)) == 3
    assert [batch.x[:, 0].tolist() for batch in feed.epoch(None)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(("samples", "size", "updates"), [(60000, 64, 938), (10000, 64, 157), (128, 128, 1), (5, 9, 1)])
def test_number_of_updates(samples, size, updates):
    assert ArrayFeed(np.zeros((samples, 1)), None, size).steps == updates


def test_fit_says_the_number_of_updates_and_one_line_per_epoch(few, capsys):
    history = tiny().fit(*few[0], batch_size=30, epochs=2, validation_data=few[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 updates per epoch (100 samples in batches of 30, the last of 10), 8 in 2 epochs"
    number = r"\d+\.\d{4}"
    for epoch, line in enumerate(lines[1:], 1):
        assert re.fullmatch(rf"Epoch {epoch}/2  4 updates  loss {number}  accuracy {number}  val_loss {number}  "
                            rf"val_accuracy {number}  [\d,]+ images/s  \d+\.\d s", line), line
    assert len(lines) == 3 and history.updates == 8
    assert tiny().fit(*few[0], verbose=0).updates == 4 and capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(few, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    tiny().fit(*few[0], batch_size=10, epochs=1)
    out = capsys.readouterr().out
    assert "Epoch 1/1:" in out and "/100 [" in out and "img/s" in out
    line = out.split("\r")[-1].strip()
    assert line.startswith("Epoch 1/1  10 updates  loss ") and "accuracy" in line and "images/s" in line


def test_metrics_are_weighted_by_batch_size(few):
    (x, y), _ = few
    model = tiny(optimizer=optimizers.SGD(0.0))
    exact = model.evaluate(x, y, batch_size=100)
    for size in (7, 64, 99):
        logs = model.fit(x, y, batch_size=size, verbose=0).history
        # other batches, other kernels: each within 2e-5 of its output, the losses are about 2.3
        assert abs(logs["loss"][0] - exact[0]) < 1e-4 and logs["accuracy"][0] == exact[1]
        again = model.evaluate(x, y, batch_size=size, return_dict=True)
        assert abs(again["loss"] - exact[0]) < 1e-4 and again["accuracy"] == exact[1]
    assert exact[1] == np.mean(model.predict(x).argmax(1) == y)
    parts = [model.evaluate(x[a:b], y[a:b])[0] for a, b in ((0, 99), (99, 100))]
    assert abs(np.mean(parts) - exact[0]) > 1e-3, "the mean of the batches' means would be seen"


def test_validation_split_takes_the_tail_and_does_not_train_on_it(few):
    (x, y), _ = few
    a, b = tiny(3), tiny(3)
    logs = a.fit(x, y, validation_split=0.2, epochs=2, verbose=0).history
    b.fit(x[:80], y[:80], epochs=2, verbose=0)
    assert same(a, b)
    assert b.evaluate(x[80:], y[80:]) == [logs["val_loss"][-1], logs["val_accuracy"][-1]]


def test_epochs_is_where_to_stop(few):
    model = tiny()
    history = model.fit(*few[0], epochs=3, initial_epoch=1, verbose=0)
    assert history.epoch == [1, 2] and model.epochs_done == 3
    assert model.fit(*few[0], epochs=0, verbose=0).epoch == []


def test_frozen_layers_stay_and_the_rest_learns(few):
    model = tiny()
    model.layers[0].trainable = False
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.fit(*few[0], verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    assert moved == [False, False, True, True]


def test_predict_gives_arrays_of_its_own(few):
    (x, _), _ = few
    model = tiny()
    first = model.predict(x[:10])
    kept = first.copy()
    model.predict(x, batch_size=30)
    assert np.array_equal(first, kept) and model.predict(x[:0]).shape == (0, 10)
    assert np.abs(first.sum(axis=1) - 1).max() < 1e-6
    assert np.array_equal(model.predict(x[:10]), kept), "larger buffers, same numbers"


# ---------------------------------------------------------------------------------------------------------------
# Generators

def endless(x, y, size=20):
    while True:
        for start in range(0, len(x), size):
            yield x[start:start + size], y[start:start + size]


def test_a_generator_trains_as_the_same_arrays(few):
    (x, y), (x_test, y_test) = few
    a, b = tiny(), tiny()
    history = a.fit_generator(endless(x, y), steps_per_epoch=5, epochs=2,
                              validation_data=endless(x_test, y_test, 10), validation_steps=5, verbose=0)
    other = b.fit(x, y, batch_size=20, epochs=2, shuffle=False, validation_data=(x_test, y_test), verbose=0)
    assert same(a, b) and history.updates == 10
    assert history.history["loss"] == other.history["loss"]
    assert history.history["val_accuracy"] == other.history["val_accuracy"]
    assert a.evaluate(endless(x_test, y_test), steps=3)[1] <= 1


def test_a_generator_that_ends_early_is_said_once(few, capsys):
    (x, y), _ = few
    batches = ((x[:20], y[:20]) for _ in range(7))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = tiny().fit(batches, steps_per_epoch=5, epochs=4)
    assert [str(w.message) for w in told] == [
        "the generator ended after 2 of 5 batches of this epoch; it must yield steps_per_epoch * epochs batches"]
    assert history.updates == 7 and len(history.epoch) == 2
    assert capsys.readouterr().out.startswith("5 updates per epoch (batches from a generator), 20 in 4 epochs\n")


def test_a_list_of_batches_starts_again_every_epoch(few):
    (x, y), _ = few
    history = tiny().fit([(x[:50], y[:50]), (x[50:], y[50:])], epochs=3, verbose=0)
    assert history.updates == 6

    class Batches:
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return x[50 * i:50 * i + 50], y[50 * i:50 * i + 50]

    assert tiny().fit(Batches(), epochs=2, verbose=0).updates == 4


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "a generator has no length: pass steps_per_epoch="),
    ({"steps_per_epoch": 0}, "steps_per_epoch is a positive integer, got 0"),
    ({"steps_per_epoch": 2, "batch_size": 4}, "a generator makes its own batches"),
    ({"steps_per_epoch": 2, "validation_split": 0.5}, "validation_split needs arrays"),
    ({"steps_per_epoch": 2, "validation_steps": 1}, "validation_steps needs validation_data"),
])
def test_wrong_generator_arguments(few, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().fit(endless(*few[0]), verbose=0, **arguments)


def test_a_generator_must_yield_pairs():
    with pytest.raises(ValueError, match=r"yields pairs \(x, y\), got ndarray"):
        tiny().fit(iter([np.zeros((2, 28, 28, 1))]), steps_per_epoch=1, verbose=0)


# ---------------------------------------------------------------------------------------------------------------
# Mistakes that fail before the first update

@pytest.mark.parametrize(("change", "message"), [
    (lambda x, y: (x[..., 0], y), r"expects \(n, 28, 28, 1\), got \(100, 28, 28\): the channel axis is missing"),
    (lambda x, y: (x.transpose(0, 3, 1, 2), y), r"looks like \(n, channels, height, width\); pass x.transpose\(0"),
    (lambda x, y: (x.reshape(100, 784), y), r"these are flat; pass x.reshape\(-1, 28, 28, 1\)"),
    (lambda x, y: (x[0], y), r"one sample without its batch axis; pass x\[None\]"),
    (lambda x, y: (x * 255, y), r"the pixels are not scaled: whole numbers from 0 to 255; pass x.astype"),
    (lambda x, y: ((x * 255).astype(np.uint8), y), r"the pixels are not scaled"),
    (lambda x, y: (np.where(np.arange(100)[:, None, None, None] == 7, np.nan, x), y),
     r"x holds NaN or infinity, first at index \(7, 0, 0, 0\)"),
    (lambda x, y: (x, y[:-1]), r"x has 100 samples and y has 99"),
    (lambda x, y: (x, y + 1), r"labels are from 1 to 10, but the model has 10 outputs: labels are 0 to 9"),
    (lambda x, y: (x, data.to_categorical(y)), r"these look one-hot"),
    (lambda x, y: (x, None), r"y is missing"),
    (lambda x, y: (x[:0], y[:0]), r"there are no samples"),
])
def test_wrong_data_fail_early(few, change, message):
    model = tiny()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*change(*few[0]), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_large_fractional_values_are_only_warned_about(few):
    (x, y), _ = few
    with pytest.warns(UserWarning, match="values up to 40"):
        tiny().fit(x * 40 + 0.25, y, verbose=0)
    with pytest.raises(TypeError, match="array of numbers"):
        tiny().fit(x.astype(str), y)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"batch_size": 0}, "batch_size is a positive integer, got 0"),
    ({"batch_size": 2.0}, "batch_size is a positive integer, got 2.0"),
    ({"epochs": -1}, "epochs is a non-negative integer, got -1"),
    ({"validation_split": 1.0}, "share between 0 and 1"),
    ({"validation_split": 0.999}, "leaves nothing to train on or to validate"),
    ({"validation_split": 0.5, "validation_data": ()}, "not both"),
    ({"steps_per_epoch": 0}, "steps_per_epoch is a positive integer, got 0"),
    ({"seed": -3}, "non-negative"),
])
def test_wrong_arguments_of_fit(few, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().fit(*few[0], verbose=0, **arguments)


def test_predict_explains_shapes(few):
    (x, _), _ = few
    with pytest.raises(ValueError, match=r"the model expects \(n, 28, 28, 1\), got \(28, 28, 1\): this is one"):
        tiny().predict(x[0])
    with pytest.raises(ValueError, match=r"got \(28, 28\): the channel axis is missing; .*x\[None, ..., None\]"):
        tiny().predict(x[0, ..., 0])


def test_an_uncompiled_model_says_what_to_do(few):
    with pytest.raises(ValueError, match="compile the model first"):
        mnist_network().fit(*few[0])
    with pytest.raises(ValueError, match="compile needs a loss"):
        mnist_network().compile("adam")
    with pytest.raises(ValueError, match='unknown metric \'f1\': there is "accuracy"'):
        mnist_network().compile("adam", "sparse_categorical_crossentropy", metrics=["f1"])
