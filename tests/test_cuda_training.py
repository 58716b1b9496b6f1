"""`fastconv.nn` on a GPU, by Numba's simulator: the same weights as on the host, whole steps recorded, nothing waits.

Run as NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda_training.py, in a process of its own (see test_cuda.py).
"""

import sys
import types

import numpy as np
import pytest

import fastconv
from fastconv import host
from fastconv.cli import main
from fastconv.nn import Sequential, layers, load_model, losses, mnist_network, optimizers, train
from fastconv.nn.callbacks import Callback, EarlyStopping, ModelCheckpoint
from tests import simulator
from tests.training import Recorder

pytestmark = pytest.mark.skipif(host.cuda_fault() is not None, reason=f"no GPU, no simulator: {host.cuda_fault()}")
if host.simulated():
    simulator.install()

# float32 summed in another order, over a few updates of weights of size 1.
NEAR = 2e-5


def near(a, b) -> bool:
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() <= NEAR)


def network(
    *stack, backend="cuda", optimizer="sgd", loss="sparse_categorical_crossentropy", dtype="float32", seed=1,
    kernels="auto",
):  # fmt: skip
    """The same weights for each seed; metrics unless the loss has none."""
    model = Sequential([make() for make in stack], seed=seed, dtype=dtype)
    metrics = [] if loss == "mean_squared_error" else ["accuracy"]
    model.compile(optimizer, loss, metrics=metrics, backend=backend, kernels=kernels)
    return model


def small(**options):
    return network(
        lambda: layers.Conv2D(3, 3, activation="relu", input_shape=(6, 6, 1)), lambda: layers.MaxPooling2D(2),
        layers.Flatten, lambda: layers.Dense(3, activation="softmax"), **options,
    )  # fmt: skip


@pytest.fixture
def batch(rng):
    return rng.random((5, 6, 6, 1), dtype=np.float32), rng.integers(0, 3, 5)


def both(model_of, x, y, steps, **options):
    """(host, GPU) after some steps; losses and accuracies were the same on the way."""
    pair = [model_of(backend=backend, **options) for backend in ("auto", "cuda")]
    for _ in range(steps):
        found = [list(model.train_on_batch(x, y).values()) for model in pair]
        assert near(*found), found
    return pair


def same_state(a, b):
    for p, q in zip(a.get_weights(), b.get_weights()):
        assert near(p, q), (p, q)
    for name, slot in a.optimizer.slots.items():
        assert near(slot, b._device.get(b.optimizer.slots[name])), name


def recorded(model):
    """Keys of the steps that are CUDA graphs."""
    return {key for key, graph in model._device._steps.items() if graph is not None}


OPTIMIZERS = [
    {"name": "sgd", "learning_rate": 0.1}, {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    {"name": "rmsprop", "learning_rate": 0.01}, {"name": "rmsprop", "learning_rate": 0.01, "momentum": 0.5},
    {"name": "adam", "learning_rate": optimizers.OneCycle(0.01, 4).get_config()},
]  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_updates_are_those_of_the_host(optimizer, batch):
    """The first step is launched kernel by kernel, the second is recorded, the others are replays of it."""
    a, b = both(small, *batch, 4, optimizer=optimizer)
    same_state(a, b)
    assert len(recorded(b)) == 1 and a.optimizer.iterations == b.optimizer.iterations == 4


def test_kernels_of_large_networks(batch):
    """Small ones are given plain loops."""
    a, b = both(small, *batch, 3, kernels="im2col")
    same_state(a, b)
    assert {name for layer in b.layers for pass_ in layer.kernels.ran.values() for name in pass_} == {
        *(f"conv2d_{pass_}_im2col__cuda" for pass_ in ("forward", "backward_input", "backward_weight")),
        *(f"max_pool2d_{pass_}_direct__cuda" for pass_ in ("forward", "backward")),
    }  # fmt: skip


STACKS = {
    "average, same, stride, groups": (
        lambda: layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh", input_shape=(6, 6, 2)),
        lambda: layers.Conv2D(4, (1, 3), groups=2, activation="sigmoid", use_bias=False),
        lambda: layers.AveragePooling2D((2, 1), strides=1), layers.Flatten,
        lambda: layers.Dense(3, activation="softmax"),
    ),
    "activations of their own": (
        lambda: layers.Conv2D(3, 3, activation="softmax", input_shape=(5, 5, 1)), layers.ReLU, layers.Flatten,
        lambda: layers.Dense(4), lambda: layers.Activation("sigmoid"), lambda: layers.Activation("linear"),
        lambda: layers.Dense(3), layers.Softmax,
    ),
    "dropout": (
        lambda: layers.Dense(6, activation="relu", input_shape=(4,)), lambda: layers.Dropout(0.5),
        lambda: layers.Dense(3, activation="softmax"),
    ),
    "some frozen": (
        lambda: layers.Conv2D(2, 2, activation="relu", trainable=False, input_shape=(4, 4, 1)), layers.Flatten,
        lambda: layers.Dense(4, activation="tanh"), lambda: layers.Dense(4, trainable=False),
        lambda: layers.Dense(3, activation="softmax"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_layers_are_those_of_the_host(name, rng):
    stack = STACKS[name]
    x, y = rng.random((4, *stack[0]().given_input_shape), dtype=np.float32), rng.integers(0, 3, 4)
    a, b = both(lambda **options: network(*stack, **options), x, y, 3)
    same_state(a, b)
    assert near(a.predict(x), b.predict(x)) and near(a.evaluate(x, y), b.evaluate(x, y))
    assert not recorded(b) or "dropout" not in name  # its masks are drawn on the host, in the midst of a step


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_losses_are_those_of_the_host(loss, rng):
    ending = {"categorical": "softmax", "sparse": "softmax", "binary": "sigmoid", "mean": None, "mse": None}
    last = ending[loss.split("_")[0]]
    y = {None: rng.random((6, 3)), "sigmoid": rng.integers(0, 2, (6, 3)), "softmax": np.eye(3)[rng.integers(0, 3, 6)]}
    targets = y[last].argmax(axis=1) if "sparse" in loss else y[last]
    x = rng.random((6, 5), dtype=np.float32)
    loss = "mean_squared_error" if loss == "mse" else loss
    stack = [lambda: layers.Dense(3, activation=last, input_shape=(5,))]
    a, b = both(lambda **options: network(*stack, loss=loss, **options), x, targets, 3, optimizer="adam")
    same_state(a, b)
    assert near(a.evaluate(x, targets), b.evaluate(x, targets))


def test_float64(batch):
    a, b = both(small, *batch, 3, dtype="float64")
    assert b.get_weights()[0].dtype == np.float64
    for p, q in zip(a.get_weights(), b.get_weights()):
        assert np.abs(p - q).max() <= 1e-13


@pytest.mark.parametrize("most", [512, 2])
def test_biases_of_many_rows_are_summed_in_parts(most, rng, monkeypatch):
    from fastconv._cuda import session, training

    device = session.Session()
    monkeypatch.setattr(training, "MOST_PARTS", most)
    grad, y = rng.integers(-4, 5, (2, 3 * training.ROWS_OF_PART + 5, 33)).astype(np.float32)
    arrays = [device.empty(a.shape, a.dtype) for a in (grad, y, y[0])]
    for array, values in zip(arrays, (grad, y)):
        device.put(array, values)
    device.relu_backward(*arrays)
    masked = np.where(y > 0, grad, 0)
    assert np.array_equal(device.get(arrays[0]), masked) and np.array_equal(device.get(arrays[2]), masked.sum(axis=0))


def test_fit_goes_as_on_the_host(batch):
    """Full batches and a smaller last one, recorded each; an epoch's figures; figures after each batch if asked for."""
    x, y = batch
    histories, recorders, models = [], [], []
    for backend in ("auto", "cuda"):
        model, recorder = small(backend=backend, optimizer="rmsprop"), Recorder()
        history = model.fit(x, y, batch_size=2, epochs=4, verbose=0, validation_data=(x, y), callbacks=[recorder])
        histories.append(history.history)
        recorders.append(recorder.losses)
        models.append(model)
    assert near(*recorders) and all(near(histories[0][name], histories[1][name]) for name in histories[0])
    same_state(*models)
    assert {key[:2] for key in recorded(models[1])} == {("fit", 2), ("fit", 1), ("evaluate", 5)}


def test_the_same_bits_every_time(batch):
    found = []
    for _ in range(2):
        model = small(optimizer="adam")
        model.fit(*batch, batch_size=2, epochs=2, verbose=0)
        found.append(model.get_weights())
    assert all(np.array_equal(p, q) for p, q in zip(*found))


def test_what_a_callback_changes_counts_at_once(batch):
    a, b = (small(backend=backend, optimizer=OPTIMIZERS[1]) for backend in ("auto", "cuda"))
    for model in (a, b):
        for momentum, rate in ((0.9, 0.1), (0.9, 0.1), (0.9, 0.02), (0.1, 0.02), (0.1, 0.1), (0.1, 0.1)):
            model.optimizer.momentum, model.optimizer.learning_rate = momentum, rate
            model.train_on_batch(*batch)
    same_state(a, b)


def test_larger_batches_make_new_memory_and_new_records(batch):
    x, y = batch
    a, b = (small(backend=backend) for backend in ("auto", "cuda"))
    for model in (a, b):
        for count in (2, 2, 2, 5, 5, 5, 2, 2):
            model.train_on_batch(x[:count], y[:count])
    same_state(a, b)


def test_steps_of_many_kinds_are_launched_and_not_remembered(rng):
    """Batches of ever other sizes: nothing is recorded for one use, nothing heaps up."""
    from fastconv._cuda import session

    most = session.MOST_KINDS
    x, y = rng.random((most + 1, 4), dtype=np.float32), rng.integers(0, 3, most + 1)
    stack = [lambda: layers.Dense(3, activation="softmax", input_shape=(4,))]
    a, b = (network(*stack, backend=backend) for backend in ("auto", "cuda"))
    for model in (a, b):
        for count in [*range(most + 1, 0, -1)] * 3:
            model.train_on_batch(x[:count], y[:count])
    same_state(a, b)
    assert not recorded(b) and len(b._device._steps) == most


class Fails(Callback):
    """In the midst of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise ArithmeticError


def test_callbacks_go_as_on_the_host(batch, tmp_path):
    """A failing one, weights that come back, a model of a checkpoint that goes on bit for bit."""
    x, y = batch
    models = [small(backend=backend, optimizer=OPTIMIZERS[-1]) for backend in ("auto", "cuda")]
    for model in models:
        with pytest.raises(ArithmeticError):
            model.fit(x, y, batch_size=2, verbose=0, callbacks=[Fails()])
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "m.npz")])
        kept, late = model.get_weights(), EarlyStopping(monitor="loss", min_delta=9)
        model.fit(x, y, batch_size=2, epochs=4, initial_epoch=2, verbose=0, callbacks=[late], shuffle=False)
        assert not all(np.array_equal(p, q) for p, q in zip(kept, model.get_weights()))
    same_state(*models)
    first, second = load_model(tmp_path / "m.npz"), load_model(tmp_path / "m.npz")
    assert all(np.array_equal(p, q) for p, q in zip(first.get_weights(), kept))
    for model in (first, second):
        model.fit(x, y, batch_size=2, epochs=5, initial_epoch=2, verbose=0)
    assert all(np.array_equal(p, q) for p, q in zip(first.get_weights(), second.get_weights()))


def test_a_step_brings_one_copy_up_and_none_down(batch, monkeypatch):
    from fastconv._cuda import session

    model = small()
    tally = model._tally("fit")
    copies = {"upload": 0, "download": 0}

    def counted(name):
        whole = getattr(session, name)

        def copy(*arguments):
            copies[name] += 1
            return whole(*arguments)

        return copy

    for name in copies:
        monkeypatch.setattr(session, name, counted(name))
    x, y = batch
    for _ in range(2):
        model._train_step(x, y)  # makes its memory, is recorded
    copies.update(upload=0, download=0)
    for _ in range(3):
        model._train_step(x, y)
    assert copies == {"upload": 3, "download": 0}
    assert tally.read()[0] > 0 and copies["download"] == 1


def test_a_model_that_is_gone_leaves_no_scratch_memory(batch):
    from fastconv._cuda import launch

    model = small(kernels="im2col")
    model.train_on_batch(*batch)
    key = model._device._number, model._device._pointer
    assert launch._scratch.buffers[key].size
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert key not in launch._scratch.buffers


def launches_of(work):
    """What a step would launch: recorded, not run."""
    from fastconv._cuda import launch

    return launch.Graph(None, work).launches


def test_launches_of_the_forums_network():
    """The number that README.md gives, of one CUDA graph."""
    model = mnist_network(0)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"], backend="cuda")
    x, y = np.zeros((64, 28, 28, 1), np.float32), np.zeros(64, np.int64)
    found = launches_of(lambda: model._train_step(x, y))
    updates = [launch for launch in found if "rmsprop" in launch[0].fn.__name__]
    assert len(found) == 37 and len(updates) == 1


def test_verbose_tells_of_each_kernel(batch):
    model, names = small(), []
    for _ in range(3):
        model._train_step(*batch)
    with fastconv.config(verbose=lambda name, *rest: names.append(name)):
        for _ in range(3):
            model._train_step(*batch)
    assert names.count("max_pool2d_forward_direct__cuda") == 3


def test_without_graphs_each_kernel_is_launched(batch, monkeypatch):
    from fastconv._cuda import session

    class Graph:
        def __init__(self, stream, work):
            raise RuntimeError("no graphs today")

    monkeypatch.setattr(session, "Graph", Graph)
    with pytest.warns(UserWarning, match="each kernel is launched by itself: no graphs today"):
        a, b = both(small, *batch, 4)
    same_state(a, b)


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_is_recorded_by_cuda_core(fails, monkeypatch):
    """In the order that its documentation asks for; a recording that fails is ended all the same."""
    from fastconv._cuda import compiler

    calls = []

    class Core:
        """Stream, GraphBuilder and Graph in one."""

        def __getattr__(self, name):
            return lambda *arguments: (calls.append((name,)), self)[1]

    monkeypatch.setitem(sys.modules, "cuda.core", types.SimpleNamespace(Stream=Core()))

    def work():
        calls.append(("work",))
        if fails:
            raise RuntimeError("a launch that cannot be recorded")

    if fails:
        with pytest.raises(RuntimeError, match="cannot be recorded"):
            compiler.capture(7, work)
        assert calls[-1] == ("end_building",)
        return
    replay = compiler.capture(7, work)
    steps = ["from_handle", "create_graph_builder", "begin_building", "work", "end_building", "complete"]
    assert [name for name, *_ in calls] == steps
    replay()
    assert [name for name, *_ in calls] == [*steps, "launch"]


def test_models_come_and_go(batch, tmp_path, capsys):
    """Saved and loaded, recompiled for the host and back, with what the optimiser remembers."""
    x, y = batch
    model = small(optimizer="adam")
    model.fit(x, y, batch_size=3, epochs=1, verbose=0)
    model.save(tmp_path / "m.npz")
    loaded = load_model(tmp_path / "m.npz")
    assert loaded.backend == "cuda" and loaded._device.name == "cuda"
    slots = {name: loaded._device.get(slot) for name, slot in loaded.optimizer.slots.items()}
    assert all(slot.any() for slot in slots.values())
    loaded.compile(loaded.optimizer, loaded.loss, loaded.metrics)
    assert all(np.array_equal(loaded.optimizer.slots[name], slot) for name, slot in slots.items())
    assert near(loaded.predict(x), model.predict(x)) and loaded._device.name == "cpu"
    loaded.compile(loaded.optimizer, loaded.loss, loaded.metrics, backend="cuda")
    for one in (model, loaded):
        one.train_on_batch(x, y)
    same_state_of = [[one._device.get(slot) for slot in one.optimizer.slots.values()] for one in (model, loaded)]
    assert all(near(p, q) for p, q in zip(*same_state_of))
    model.set_weights(small(seed=7).get_weights())
    assert near(model.predict(x), small(seed=7, backend="auto").predict(x))
    model.summary(columns=["kernel", "bytes"])
    assert "max_pool2d_forward_direct__cuda" in capsys.readouterr().out
    assert model.memory(2).total > 0 and "the GPU works by itself" in str(model.profile())


def test_a_model_of_a_gpu_goes_on_without_one(batch, tmp_path, monkeypatch):
    model = small()
    model.save(tmp_path / "m.npz")
    fault = host.backend_fault
    monkeypatch.setattr(host, "backend_fault", lambda backend: "it is gone" if backend == "cuda" else fault(backend))
    with pytest.warns(UserWarning, match='it goes on with "auto": it is gone'):
        loaded = load_model(tmp_path / "m.npz")
    assert near(loaded.predict(batch[0]), model.predict(batch[0]))


class Doubling(layers.Layer):
    """A layer of somebody's own."""

    def forward(self, x, training, logits=False):
        return 2 * x


def test_what_computes_on_the_host_only_says_so():
    with pytest.raises(ValueError, match=r"doubling.* \(Doubling\): this layer computes on the host only; leave out"):
        network(lambda: Doubling(input_shape=(3,)), lambda: layers.Dense(3, activation="softmax"))
    model = network(lambda: layers.Dense(3, activation="softmax", input_shape=(2,)))
    with pytest.raises(ValueError, match=r"\(Doubling\): this layer computes on the host only"):
        model.add(Doubling())

    class Own(losses.MeanSquaredError):
        name = "own"

    class Other(optimizers.SGD):
        name = "other"

    dense = Sequential([layers.Dense(3, input_shape=(2,))])
    with pytest.raises(ValueError, match="the loss Own computes on the host only"):
        dense.compile("sgd", Own(), backend="cuda")
    with pytest.raises(ValueError, match="the optimizer Other computes on the host only"):
        dense.compile(Other(), "mse", backend="cuda")


@pytest.fixture
def tiny_command(batch, monkeypatch):
    """`fastconv train` with a network and digits that the simulator can do."""
    monkeypatch.setattr(train.data, "load", lambda source: (batch, batch))
    monkeypatch.setattr(train, "mnist_network", lambda seed: small(seed=seed, backend="auto"))


def test_the_command_trains(tiny_command, tmp_path, capsys):
    saved = tmp_path / "m.npz"
    arguments = ["--data", "embedded", "--batch-size", "2", "--epochs", "3", "--save", str(saved)]
    assert main(["train", "--backend", "cuda", *arguments]) == 0
    out = capsys.readouterr().out
    assert "on the GPU" in out and "max_pool2d_forward_direct__cuda" in out
    assert "test accuracy" in out and load_model(saved).optimizer.iterations == 9


def test_the_way_to_an_accuracy_is_measured(tiny_command):
    """As `bench.gpu --train --data PATH` does; five noisy images teach nothing."""
    from bench import gpu_training

    found = gpu_training.until("embedded", 1.0)
    assert found["reached"] == (found["accuracy"] == 1) and found["updates"] >= 2 and found["seconds"] > 0


def test_the_benchmark_runs():
    from bench import gpu_training

    row = gpu_training.simulate()
    assert row["images_per_second"]["fastconv"]["median"] > 0 and "ratio" not in row
