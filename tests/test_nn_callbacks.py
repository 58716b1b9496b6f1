"""Around the steps: Ctrl-C, History, callbacks, and models in files."""

from __future__ import annotations

import csv
import importlib.util
import math
import signal
import threading

import numpy as np
import pytest

from fastconv.nn import Sequential, callbacks, layers, load_model, optimizers
from tests.training import At, Recorder, same, tiny

# ---------------------------------------------------------------------------------------------------------------
# Ctrl-C and History

@pytest.mark.parametrize("action", [lambda: signal.raise_signal(signal.SIGINT),
                                    lambda: (_ for _ in ()).throw(KeyboardInterrupt)], ids=["signal", "exception"])
def test_history_after_ctrl_c(few, action, capsys):
    recorder = Recorder()
    history = tiny().fit(*few[0], batch_size=10, epochs=5, callbacks=[recorder, At(13, action)])
    assert history.interrupted and history.epoch == [0] and history.updates == 13
    assert recorder.calls == ["begin", "epoch 0", "epoch 0 over", "epoch 1", "end"]
    assert capsys.readouterr().out.endswith("interrupted after 13 updates\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not tiny().fit(*few[0], verbose=0).interrupted


def test_fit_works_outside_the_main_thread(few):
    results = []
    thread = threading.Thread(target=lambda: results.append(tiny().fit(*few[0], verbose=0)))
    thread.start()
    thread.join()
    assert results[0].updates == 4


def test_history_to_csv(few, tmp_path):
    history = tiny().fit(*few[0], epochs=2, validation_data=few[1], verbose=0)
    history.to_csv(tmp_path / "run.csv")
    rows = list(csv.DictReader((tmp_path / "run.csv").open()))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    assert [row["epoch"] for row in rows] == ["0", "1"] and float(rows[0]["images_per_second"]) > 0


# ---------------------------------------------------------------------------------------------------------------
# Callbacks

class Script(callbacks.Callback):
    """Puts chosen values of a metric into the logs and remembers the weights after each epoch."""

    def __init__(self, *values):
        super().__init__()
        self.values, self.weights = values, []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]
        self.weights.append(self.model.get_weights())


def equal_weights(model, weights) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights))


@pytest.mark.parametrize(("values", "patience", "epochs", "ran", "best"), [
    ((3, 1, 2, 2, 0), 2, 5, 4, 1),        # stops early
    ((3, 1, 2), 5, 3, 3, 1),              # the last epoch comes first: restored all the same
    ((3, math.nan, 2, 4), 2, 4, 4, 2),    # NaN is never better
])
def test_early_stopping_restores_the_best_weights(few, values, patience, epochs, ran, best):
    model, script, stopping = tiny(), Script(*values), callbacks.EarlyStopping(patience=patience)
    history = model.fit(*few[0], epochs=epochs, callbacks=[script, stopping], verbose=0)
    assert len(history.epoch) == ran and stopping.best_epoch == best
    assert equal_weights(model, script.weights[best])
    assert stopping.stopped_epoch == (ran - 1 if ran < epochs else None)


def test_early_stopping_restores_also_after_ctrl_c_and_not_when_told(few):
    for restore in (True, False):
        model, script = tiny(), Script(1, 2, 3)
        stopping = callbacks.EarlyStopping(patience=9, restore_best_weights=restore)
        history = model.fit(*few[0], batch_size=50, epochs=3, verbose=0, callbacks=[
            script, stopping, At(5, lambda: signal.raise_signal(signal.SIGINT))])
        assert history.interrupted and equal_weights(model, script.weights[0]) == restore


def test_early_stopping_without_its_metric_names_the_ones_there_are(few):
    with pytest.raises(ValueError, match=r"no metric 'val_loss' \(no validation data were given\); there are loss"):
        tiny().fit(*few[0], callbacks=[callbacks.EarlyStopping()], verbose=0)
    with pytest.raises(ValueError, match="mode is"):
        callbacks.EarlyStopping(mode="up")


def test_accuracy_is_better_when_larger(few):
    stopping = callbacks.EarlyStopping("accuracy", min_delta=0.1)
    stopping.on_train_begin()
    assert [stopping.improved(v) for v in (0.5, 0.55, 0.61, math.nan)] == [True, False, True, False]


def test_model_checkpoint(few, tmp_path):
    model, script = tiny(), Script(3, 1, 2)
    every = callbacks.ModelCheckpoint(tmp_path / "m-{epoch:02d}-{val_loss:.1f}.npz")
    best = callbacks.ModelCheckpoint(tmp_path / "best.npz", save_best_only=True)
    model.fit(*few[0], epochs=3, callbacks=[script, every, best], verbose=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.npz", "m-01-3.0.npz", "m-02-1.0.npz", "m-03-2.0.npz"]
    assert equal_weights(load_model(tmp_path / "best.npz"), script.weights[1])


def test_csv_logger(few, tmp_path):
    for append in (False, True):
        logger = callbacks.CSVLogger(tmp_path / "log.csv", append=append)
        history = tiny().fit(*few[0], epochs=2, callbacks=[logger], verbose=0)
    rows = list(csv.reader((tmp_path / "log.csv").open()))
    assert rows[0] == ["epoch", "loss", "accuracy"] and [row[0] for row in rows[1:]] == ["0", "1", "0", "1"]
    assert [float(row[1]) for row in rows[3:]] == history.history["loss"]


def test_learning_rate_scheduler(few):
    model = tiny(optimizer=optimizers.SGD(0.1))
    scheduler = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    history = model.fit(*few[0], epochs=3, callbacks=[scheduler], verbose=0)
    assert history.history["learning_rate"] == [0.1, 0.05, 0.025]
    with pytest.raises(ValueError, match=r"schedule\(0, \.\.\.\) gave nan"):
        model.fit(*few[0], callbacks=[callbacks.LearningRateScheduler(lambda *_: math.nan)], verbose=0)


def test_terminate_on_nan(few):
    model = tiny(optimizer=optimizers.SGD(1e30))
    history = model.fit(*few[0], batch_size=10, epochs=5, callbacks=[callbacks.TerminateOnNaN()], verbose=0)
    assert len(history.epoch) == 1 and history.updates < 10


# ---------------------------------------------------------------------------------------------------------------
# Files

FORMATS = ["npz", pytest.param("safetensors", marks=pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="the package safetensors is not installed"))]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("optimizer", [
    optimizers.SGD(0.05, momentum=0.9), optimizers.RMSprop(0.002), optimizers.Adam(optimizers.OneCycle(0.002, 40))],
    ids=["sgd", "rmsprop", "adam"])
def test_a_loaded_model_continues_bit_for_bit(few, tmp_path, suffix, optimizer):
    def fresh():
        return tiny(2, optimizers.get(optimizer.get_config()), dropout=0.25)

    whole, part = fresh(), fresh()
    history = whole.fit(*few[0], batch_size=16, epochs=4, verbose=0)
    part.fit(*few[0], batch_size=16, epochs=2, verbose=0)
    part.save(tmp_path / f"part.{suffix}")
    loaded = load_model(tmp_path / f"part.{suffix}")
    assert same(loaded, part) and loaded.epochs_done == 2
    later = loaded.fit(*few[0], batch_size=16, epochs=4, initial_epoch=loaded.epochs_done, verbose=0)
    assert same(loaded, whole) and later.history["loss"] == history.history["loss"][2:]
    assert loaded.optimizer.iterations == whole.optimizer.iterations
    assert np.array_equal(loaded.predict(few[1][0]), whole.predict(few[1][0]))


def test_every_layer_survives_a_file(tmp_path):
    model = Sequential([
        layers.Conv2D(4, (3, 2), strides=(1, 2), padding="same", groups=2, use_bias=False, input_shape=(9, 9, 2)),
        layers.ReLU(), layers.MaxPooling2D(3, 2, "same"), layers.Conv2D(4, 2, dilation_rate=2, trainable=False),
        layers.Activation("tanh"), layers.AveragePooling2D((2, 1)), layers.Dropout(0.5), layers.Flatten(),
        layers.Dense(3, kernel_initializer="he_uniform"), layers.Softmax()], seed=1, dtype="float64")
    model.save(tmp_path / "m.npz")
    loaded = load_model(tmp_path / "m.npz")
    assert loaded.get_config() == model.get_config() and same(loaded, model) and loaded.optimizer is None
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 2))
    assert np.array_equal(loaded.predict(x), model.predict(x))


def test_own_layers_are_named_at_loading(tmp_path):
    class Twice(layers.Layer):
        def forward(self, x, training, logits=False):
            return 2 * x

    Sequential([Twice(input_shape=(2,))]).save(tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"m\.npz: .*: unknown layer Twice: pass custom_layers=\[Twice\]"):
        load_model(tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz", [Twice]).predict(np.ones((1, 2), np.float32)).tolist() == [[2, 2]]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = tiny()
    model.save(tmp_path / "m.npz")
    before = (tmp_path / "m.npz").read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_named(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_model(path)
    tiny().save(path)
    whole = path.read_bytes()
    for raw in (b"", whole[:len(whole) // 2], b"text" + whole[:100]):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=rf"m\.{suffix}: not a model that fastconv saved, or damaged"):
            load_model(path)


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a model that fastconv saved"):
        load_model(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", fastconv=np.array([{"a": 1}]))
    with pytest.raises(ValueError, match="not a model that fastconv saved"):
        load_model(tmp_path / "pickled.npz")
    with pytest.raises(ValueError, match=r"saved as \.npz or \.safetensors"):
        tiny().save(tmp_path / "m.pkl")


def test_fuse_is_kept_in_a_file(few, tmp_path):
    model = tiny(fuse=False)
    model.save(tmp_path / "model.npz")
    assert not load_model(tmp_path / "model.npz").fuse
    assert tiny().fuse
