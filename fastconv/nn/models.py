"""Sequential: a stack of layers that can be compiled, trained, evaluated, saved and loaded."""
from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import numpy as np

import fastconv
from fastconv import host, settings

from . import device as devices
from . import fusion, losses, optimizers, saving, summary, training
from . import layers as layers_module
from .augment import Augment
from .callbacks import Callback, History
from .device import ALIGNMENT, HOST
from .kernels import KernelChoice
from .layers import Layer, MaxPooling2D
from .memory import Memory
from .profiling import Clock, Profile, profile
from .seeding import AUGMENT, SHUFFLE, Stream, checked_seed, fresh_seed

METRICS = {"accuracy": "accuracy", "acc": "acc"}


def _bytes(*arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for group in arrays for array in group.values())


class Sequential:
    """A network whose layers follow one another.

    Parameters
    ----------
    layers : layers to add, in order
    name : shown by `summary`
    seed : non-negative integer that fixes the initial weights, the order of the batches and dropout, hence (with
        the same data) every bit of the trained weights, for any number of threads; None draws one
    dtype : "float32" or "float64"

    Notes
    -----
    Calls from several Python threads wait for each other: the layers own their buffers.

    Examples
    --------
    >>> from fastconv.nn import layers, models
    >>> model = models.Sequential(seed=0)
    >>> model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)))
    >>> model.output_shape
    (None, 26, 26, 32)
    """

    def __init__(self, layers: Iterable[Layer] | None = None, name: str | None = None, seed: int | None = None,
                 dtype: Any = "float32") -> None:
        self.name = layers_module.unique_name("Sequential") if name is None else name
        self.seed = fresh_seed() if seed is None else checked_seed(seed)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is float32 or float64, got {dtype!r}")
        self.layers: list[Layer] = []
        self.optimizer: optimizers.Optimizer | None = None
        self.loss: losses.Loss | None = None
        self.metrics: tuple[str, ...] = ()
        self.algorithm = self.backend = "auto"
        self.fuse = True
        self._device: Any = HOST
        self._tallies: dict[str, Any] = {}
        self._steps: list[tuple[Any, int]] = []
        self._steps_under: Any = None  # the settings that the choice of fused layers was made under
        self.stop_training = False
        self.epochs_done = 0
        self.history: History | None = None
        self._shuffle, self._augment = Stream(self.seed, SHUFFLE), Stream(self.seed, AUGMENT)
        self._parameters: Any = np.empty(0, self.dtype)
        self._gradients: Any = self._parameters
        self._clock = Clock(0)
        self._lock = threading.RLock()
        for layer in layers or ():
            self.add(layer)

    # -- structure

    def add(self, layer: Layer) -> None:
        """Put `layer` at the end. Its weights are made at once if the input shape is known, else on first data."""
        if not isinstance(layer, Layer):
            raise TypeError(f"add expects a layer of fastconv.nn.layers, got {type(layer).__name__}")
        if any(layer is other or layer.name == other.name for other in self.layers):
            raise ValueError(f"the model already has a layer named {layer.name!r}; names are unique")
        if layer.built:
            raise ValueError(f"{layer.name} already belongs to a model; make a new layer")
        layer.check_device(self._device)
        shape: tuple[int, ...] | None
        if not self.layers:
            shape = layer.given_input_shape
        else:
            shape = self.layers[-1].output_shape if self.layers[-1].built else None
        if shape is not None:
            layer.build(shape, self.dtype, self.seed, len(self.layers))
        self.layers.append(layer)
        if layer.built:
            self._connect()

    def build(self, input_shape: Iterable[int | None]) -> None:
        """Fix the shapes and make the weights; `input_shape` has the batch axis, as in Keras."""
        shape = tuple(input_shape)[1:]
        if not self.layers:
            raise ValueError("the model has no layers")
        if self.built:
            if shape != self.layers[0].input_shape:
                raise ValueError(f"the model is built for {self.input_shape}, got {(None, *shape)}")
            return
        shape = Layer._checked_shape(shape)  # type: ignore[arg-type]
        for index, layer in enumerate(self.layers):
            layer.build(shape, self.dtype, self.seed, index)
            shape = layer.output_shape
        self._connect()

    def _connect(self) -> None:
        """What depends on more than one layer: pooled ReLU masks, the flat arrays, the clock."""
        for before, after in zip(self.layers, self.layers[1:]):
            pooled = before.activation == "relu" and isinstance(after, MaxPooling2D)
            before.masked_by_next = pooled
            if isinstance(after, MaxPooling2D):
                after.masked_layer = before if pooled else None
        self._clock = Clock(len(self.layers))
        if self.optimizer is not None:
            self._flatten()
        else:
            self._steps_under = None

    @property
    def built(self) -> bool:
        return bool(self.layers) and all(layer.built for layer in self.layers)

    def _need_built(self) -> None:
        if not self.built:
            raise ValueError("the model has no shapes yet: give the first layer input_shape=(height, width, channels), "
                             "or call build((None, height, width, channels)), or fit it on data")

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        self._need_built()
        return (None, *self.layers[0].input_shape)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        self._need_built()
        return (None, *self.layers[-1].output_shape)

    def count_params(self) -> int:
        self._need_built()
        return sum(layer.parameters for layer in self.layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of this name, or at this place."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"there is no layer {name!r}; there are {', '.join(layer.name for layer in self.layers)}")

    def summary(self, columns: Iterable[str] = (), batch_size: int = 64,
                print_fn: Callable[[str], Any] | None = None) -> None:
        """Print the table of layers, output shapes and numbers of parameters.

        `columns` adds any of "multiply_adds" (of one sample), "bytes" (of the weights and the outputs of
        `batch_size` samples; and the line of `memory` below) and "kernel" (that serves such a batch).
        """
        self._need_built()
        columns = tuple(columns)
        summary.check_columns(columns)
        memory = self.memory(batch_size) if "bytes" in columns else None
        if "kernel" in columns:
            self._dry_run(batch_size, False)
        text = summary.table(self, columns, batch_size)
        if memory is not None:
            text += f"\n{memory}"
        if print_fn is None:
            sys.stdout.write(text + "\n")
        else:
            for line in text.split("\n"):
                print_fn(line)

    def memory(self, batch_size: int = 64) -> Memory:
        """What a training step on `batch_size` samples keeps allocated (of a model that is not compiled: a prediction).

        Found by a step on zeros that changes no weight and no random stream.
        """
        self._need_built()
        batch_size = layers_module.positive(batch_size, "batch_size")
        with self._lock:
            for layer in self.layers:
                layer.release_buffers()
            self._dry_run(batch_size, self.optimizer is not None)
            optimizer = self.optimizer.slots if self.optimizer is not None else {}
            return Memory(
                batch_size,
                weights=_bytes(*(layer.weights for layer in self.layers)),
                gradients=_bytes(*(layer.grads for layer in self.layers)),
                optimizer=_bytes(optimizer),
                batch=batch_size * math.prod(self.layers[0].input_shape) * self.dtype.itemsize,
                layers=sum(layer.buffer_bytes for layer in self.layers),
                workspace=max(layer.kernels.workspace for layer in self.layers))

    def _dry_run(self, batch_size: int, training: bool) -> None:
        """Let every layer note which kernels serve a batch of this size, and make its buffers."""
        streams = self._streams_state()["dropout"]
        with self._lock, np.errstate(all="ignore"):
            for layer in self.layers:
                layer.kernels = KernelChoice(self.algorithm, self.backend)
            x = self._device.zeros((batch_size, *self.layers[0].input_shape), self.dtype)
            logits = training and self._fused_ending
            try:
                y = self._forward(x, training, logits)
                if training:
                    last, first = len(self.layers) - 1, self._first_trained
                    dy: Any = self.layers[last].buffer("dy", y.shape)
                    self._device.put(dy, 0)
                    for step, index in reversed([step for step in self._steps if step[1] >= first]):
                        dy = step.backward(dy, index > first, logits and index == last)
            finally:
                self._set_dropouts(streams)

    # -- weights

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights: kernel and bias of each layer in turn."""
        return [weight for layer in self.layers for weight in layer.get_weights()]

    def set_weights(self, values: Iterable[Any]) -> None:
        """Set all weights, in the order of `get_weights`; ValueError if number or shapes differ."""
        self._need_built()
        values = list(values)
        needed = sum(len(layer.weights) for layer in self.layers)
        if len(values) != needed:
            raise ValueError(f"the model has {needed} weight arrays, got {len(values)}")
        with self._lock:
            for layer in self.layers:
                layer.set_weights(values[:len(layer.weights)])
                del values[:len(layer.weights)]

    def _flatten(self) -> None:
        """Move all weights to the device; the trainable ones and their gradients into two flat arrays, of which the
        layers keep views."""
        device, item = self._device, ALIGNMENT // self.dtype.itemsize
        places, size = [], 0
        for layer in self.layers:
            layer.move(device)
            for name, weight in layer.weights.items():
                if layer.trainable:
                    places.append((layer, name, weight, size))
                    size += -(-weight.size // item) * item
        parameters, gradients = (device.zeros((size,), self.dtype) for _ in range(2))
        for layer, name, weight, start in places:
            view = parameters[start:start + weight.size].reshape(*weight.shape)
            device.put(view, device.get(weight))
            layer.weights[name] = view
            layer.grads[name] = gradients[start:start + weight.size].reshape(*weight.shape)
        self._parameters, self._gradients = parameters, gradients
        self._first_trained = min((self.layers.index(layer) for layer, *_ in places), default=len(self.layers))
        if self.optimizer is not None:
            self.optimizer.build(size, self.dtype, device)
        self._steps_under = None

    def _line_up(self) -> None:
        """Choose again which layers run as one, where the settings in force are others than last time."""
        now = settings.current()
        if self._steps_under is not now:
            compiled = self.optimizer is not None
            fuse = self.fuse and compiled and self._device is HOST
            self._steps = fusion.steps(self.layers, self._first_trained if compiled else 0, fuse)
            self._steps_under = now
            self._device.forget()

    # -- training

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Iterable[str] | None = None,
                kernels: str = "auto", backend: str = "auto", fuse: bool = True) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : "sgd", "rmsprop", "adam" or an object of fastconv.nn.optimizers
        loss : "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy",
            "mean_squared_error" or an object of fastconv.nn.losses
        metrics : ["accuracy"] or nothing
        kernels, backend : force an algorithm ("im2col", "winograd", ...) and a backend ("cython", "numba", ...) in
            every pass that has such a kernel; the others keep their default, and a warning names the convolutions
            among them. "cuda" is more than a wish: weights, their gradients and what the optimiser remembers stay on
            the GPU, batches go up in one copy each, and nothing waits before a loss is shown or asked for
        fuse : run a Conv2D with ReLU and the 2x2 MaxPooling2D after it as one where a compiled kernel does that; the
            numbers stay the same within rounding

        Raises
        ------
        ValueError
            An unknown name; a cross-entropy over a last layer that does not end in its activation; a GPU that is
            missing, or a layer, loss or optimiser that computes on the host only.
        """
        self.optimizer = optimizers.get(optimizer)
        if loss is None:
            raise ValueError('compile needs a loss, for example loss="sparse_categorical_crossentropy"')
        self.loss = losses.get(loss)
        names = [metrics] if isinstance(metrics, str) else list(metrics or ())
        for name in names:
            if name not in METRICS:
                raise ValueError(f'unknown metric {name!r}: there is "accuracy"')
        self.metrics = tuple(names)
        self._check_ending()
        # refuses unknown names now, not in the first step
        try:
            fastconv.explain((1, 4, 4, 1), (3, 3, 1, 1), layout="NHWC", algorithm=kernels, backend=backend)
        except ValueError as error:
            raise ValueError(str(error).replace("explain: ", "compile: ", 1)) from None
        device = self._device_for(backend)
        if device is not self._device:
            self._device, self._tallies = device, {}
        self.algorithm, self.backend, self.fuse = kernels, backend, bool(fuse)
        for layer in self.layers:
            layer.kernels = KernelChoice(kernels, backend)
        self._refusals_told = False
        if self.built:
            self._flatten()

    def _device_for(self, backend: str) -> Any:
        """Where to compute; ValueError in one sentence if that cannot be."""
        if backend != "cuda":
            return HOST
        known: tuple[Any, ...] = (*losses.LOSSES.values(), *optimizers.OPTIMIZERS.values())
        for kind, thing in (("loss", self.loss), ("optimizer", self.optimizer)):
            if type(thing) not in known:
                raise ValueError(f'compile: the {kind} {type(thing).__name__} computes on the host only; leave out '
                                 'backend="cuda"')
        device = self._device if self._device is not HOST else devices.gpu()
        for layer in self.layers:
            layer.check_device(device)
        return device

    def _check_ending(self) -> None:
        assert self.loss is not None
        ending = self.layers[-1].activation if self.layers else "linear"
        wanted = self.loss.activation
        if wanted is not None and self.layers:
            if not self.loss.from_logits and ending != wanted:
                raise ValueError(f'{self.loss.name} needs a last layer with activation="{wanted}", '
                                 f'{self.layers[-1].name} has "{ending}"; or pass '
                                 f"losses.{type(self.loss).__name__}(from_logits=True)")
            if self.loss.from_logits and ending == wanted:
                raise ValueError(f'{self.loss.name} with from_logits=True applies {wanted} itself, but '
                                 f'{self.layers[-1].name} already has activation="{wanted}"')
        if self.metrics and self.loss.name == "mean_squared_error":
            raise ValueError("accuracy has no meaning for mean_squared_error; leave it out of metrics")

    def _need_compiled(self) -> losses.Loss:
        if self.loss is None or self.optimizer is None:
            raise ValueError('compile the model first: model.compile("rmsprop", "sparse_categorical_crossentropy", '
                             'metrics=["accuracy"])')
        return self.loss

    @property
    def _fused_ending(self) -> bool:
        """Whether the loss applies the last activation itself, on the logits."""
        loss = self.loss
        return loss is not None and loss.activation is not None and not loss.from_logits

    def _forward(self, x: np.ndarray, training: bool, logits: bool = False) -> np.ndarray:
        """Outputs in a buffer of the last layer."""
        self._line_up()
        last = len(self.layers) - 1
        for step, index in self._steps:
            x = step.forward(x, training, logits and index == last)
        return x

    def _train_step(self, x: np.ndarray, y: np.ndarray, tally: str = "fit") -> None:
        """One update; the losses and right predictions before it are added to the tally of this name."""
        optimizer, device, clock = self.optimizer, self._device, self._clock
        assert optimizer is not None
        self._line_up()
        sums = self._tally(tally)
        sums.room(len(x))
        batch, began = len(x), perf_counter()
        x, y, rate = device.upload(x, y, optimizer.advance())
        device.step(self._key(tally, batch), lambda: self._work(x, y, rate, sums))
        clock.queued += perf_counter() - began
        clock.steps += 1
        clock.samples += batch

    def _tally(self, name: str) -> Any:
        """The sums of this name, which begin with their `start`."""
        if name not in self._tallies:
            self._tallies[name] = self._device.tally()
        return self._tallies[name]

    def _key(self, tally: str, batch: int) -> Any:
        """What tells a step from others; None where nothing is recorded, none is like it, or each launch is told."""
        assert self.optimizer is not None
        if self._device is HOST or settings.current().verbose or not all(layer.replayable for layer in self.layers):
            return None
        return tally, batch, *self.optimizer.settings().values()

    def _work(self, x: Any, y: Any, rate: Any, sums: Any) -> None:
        loss, optimizer, device, clock = self.loss, self.optimizer, self._device, self._clock
        assert loss is not None and optimizer is not None
        fused, last, first = self._fused_ending, len(self.layers) - 1, self._first_trained
        now = perf_counter()
        for step, index in self._steps:
            x = step.forward(x, True, fused and index == last)
            before, now = now, perf_counter()
            clock.forward[index] += now - before
        # diverging runs are reported by their loss, not by NumPy's warnings
        with np.errstate(over="ignore", invalid="ignore"):
            dy: Any = self.layers[last].buffer("dy", x.shape)
            device.loss(loss, x, y, dy, sums, bool(self.metrics))
            before, now = now, perf_counter()
            clock.loss += now - before
            for step, index in reversed(self._steps):
                if index < first:
                    break
                dy = step.backward(dy, index > first, fused and index == last)
                before, now = now, perf_counter()
                clock.backward[index] += now - before
            optimizer.update(rate, self._parameters, self._gradients)
        clock.update += perf_counter() - now

    def _test_step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add the losses and right predictions of a batch to the tally "evaluate"."""
        loss, device = self._need_compiled(), self._device
        self._line_up()
        sums = self._tally("evaluate")
        sums.room(len(x))
        key = self._key("evaluate", len(x))
        x, y, _ = device.upload(x, y, 0.0)

        def work() -> None:
            device.loss(loss, self._forward(x, False, self._fused_ending), y, None, sums, bool(self.metrics))

        with np.errstate(over="ignore", invalid="ignore"):
            device.step(key, work)

    def fit(self, x: Any, y: Any = None, batch_size: int | None = None, epochs: int = 1, verbose: int | str = "auto",
            callbacks: Iterable[Callback] | None = None, validation_split: float = 0.0, validation_data: Any = None,
            shuffle: bool = True, initial_epoch: int = 0, steps_per_epoch: int | None = None,
            validation_steps: int | None = None, seed: int | None = None, augment: Augment | None = None) -> History:
        """Train, and return the History of the run (also after Ctrl-C).

        Parameters
        ----------
        x : array of shape (n, h, w, c), or a generator (any iterable) of batches (x, y)
        y : labels, as the loss needs them; None with a generator
        batch_size : samples of one update (32); batches are drawn without replacement, the last may be smaller
        epochs : number of the epoch to stop before, counted from `initial_epoch`
        verbose : 0 silent, 1 a bar per epoch on a terminal, 2 one line per epoch, "auto" = 1
        validation_split : this share, taken from the end of the arrays, is not trained on but evaluated
        validation_data : (x, y), or a generator of batches with `validation_steps`
        shuffle : draw a new order in every epoch; else the batches keep the arrays' order
        initial_epoch : of a continued run: `model.epochs_done` of a loaded model
        steps_per_epoch : batches of one epoch, for a generator; with arrays in place of one pass: the next epoch goes
            on where this one stopped, and a pass that ends is followed by another
        validation_steps : batches to take from a generator
        seed : start the order of batches, dropout and augmentation from this seed instead of going on with the model's
        augment : changes the images of each batch of arrays: augment(x, stream) gives new ones of the same shape, for
            example augment.RandomAffine(degrees=10, shift=2); another thread makes the next batch ready meanwhile

        Raises
        ------
        ValueError
            Shapes, labels or pixels that cannot be right, before the first update.
        """
        with self._lock:
            return training.fit(
                self, x, y, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks,
                validation_split=validation_split, validation_data=validation_data, shuffle=shuffle,
                initial_epoch=initial_epoch, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps,
                seed=seed, augment=augment)

    def fit_generator(self, generator: Any, steps_per_epoch: int | None = None, epochs: int = 1,
                      verbose: int | str = "auto", callbacks: Iterable[Callback] | None = None,
                      validation_data: Any = None, validation_steps: int | None = None, initial_epoch: int = 0,
                      seed: int | None = None) -> History:
        """`fit` on a generator, by its older name and order of arguments."""
        return self.fit(generator, steps_per_epoch=steps_per_epoch, epochs=epochs, verbose=verbose,
                        callbacks=callbacks, validation_data=validation_data, validation_steps=validation_steps,
                        initial_epoch=initial_epoch, seed=seed)

    def train_on_batch(self, x: Any, y: Any) -> dict[str, float]:
        """One update on one batch; its loss and metrics, before the update."""
        with self._lock:
            batch = training.prepared(self, x, y, "train_on_batch")
            tally = self._tally("train_on_batch")
            tally.start()
            self._train_step(batch.x, batch.y, "train_on_batch")
            return training.logs_of(self, tally.read(), batch.size)

    def evaluate(self, x: Any, y: Any = None, batch_size: int | None = None, steps: int | None = None,
                 return_dict: bool = False) -> Any:
        """Loss, or [loss, accuracy], over all samples with the weights as they are.

        `x` is an array or a generator of batches (x, y) with `steps`. Means are over samples, so a smaller last
        batch counts for what it holds. `return_dict` gives names to the figures.
        """
        with self._lock:
            logs = training.evaluate(self, training.feed(self, x, y, batch_size, steps, "evaluate", "steps"))
        if return_dict:
            return logs
        return logs["loss"] if len(logs) == 1 else list(logs.values())

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Outputs for x (n, h, w, c), for example probabilities of shape (n, classes)."""
        with self._lock:
            return training.predict(self, x, batch_size)

    def profile(self) -> Profile:
        """Time per layer, forward and backward, and kernels, of the training steps of the last `fit`."""
        return profile(self._clock, self.layers, self._device.name)

    # -- files

    def get_config(self) -> dict[str, Any]:
        """Layers and their arguments, JSON-ready."""
        return {"name": self.name, "seed": self.seed, "dtype": self.dtype.name,
                "input_shape": list(self.layers[0].input_shape) if self.built else None,
                "layers": [{"class": type(layer).__name__, **layer.get_config()} for layer in self.layers]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model, weights, optimiser state, epoch and random streams to one .npz or .safetensors file.

        An existing file is replaced in one step. `load_model` gives a model that continues bit for bit (an epoch of
        `steps_per_epoch` that ended within a pass over arrays is followed by a new pass).
        """
        self._need_built()
        with self._lock:
            arrays = {f"weights/{layer.name}/{name}": self._device.get(weight) for layer in self.layers
                      for name, weight in layer.weights.items()}
            header: dict[str, Any] = {"model": self.get_config(), "epochs_done": self.epochs_done,
                                      "version": fastconv.__version__, "streams": self._streams_state()}
            if self.loss is not None and self.optimizer is not None:
                header["training"] = {
                    "loss": self.loss.get_config(), "metrics": self.metrics, "kernels": self.algorithm,
                    "backend": self.backend, "fuse": self.fuse, "optimizer": self.optimizer.get_config(),
                    "iterations": self.optimizer.iterations}
                arrays |= {f"optimizer/{name}": self._device.get(slot) for name, slot in self.optimizer.slots.items()}
            saving.write(path, header, arrays)

    def _streams_state(self) -> dict[str, Any]:
        dropouts = {layer.name: layer.stream.state for layer in self.layers
                    if isinstance(layer, layers_module.Dropout)}
        return {"shuffle": self._shuffle.state, "augment": self._augment.state, "dropout": dropouts}

    def _set_dropouts(self, states: dict[str, Any]) -> None:
        for name, state in states.items():
            layer = self.get_layer(name)
            assert isinstance(layer, layers_module.Dropout)
            layer.stream.state = state

    def _reseed(self, seed: int) -> None:
        self._shuffle, self._augment = Stream(seed, SHUFFLE), Stream(seed, AUGMENT)
        for index, layer in enumerate(self.layers):
            layer.reseed(seed, index)

    @classmethod
    def load(cls, path: str | os.PathLike[str], custom_layers: Iterable[type[Layer]] = ()) -> Sequential:
        """The model of a file that `save` wrote, compiled if it was; ValueError naming the file and the fault."""
        header, arrays = saving.read(path)
        known = layers_module.LAYERS | {layer.__name__: layer for layer in custom_layers}
        try:
            return cls._from_header(header, arrays, known)
        except (KeyError, TypeError, ValueError) as error:
            fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{os.fspath(path)}: cannot be loaded: {fault}") from error

    @classmethod
    def _from_header(cls, header: dict[str, Any], arrays: dict[str, np.ndarray],
                     known: dict[str, type[Layer]]) -> Sequential:
        config = header["model"]
        model = cls(name=config["name"], seed=config["seed"], dtype=config["dtype"])
        for arguments in config["layers"]:
            arguments = dict(arguments)
            name = arguments.pop("class")
            if name not in known:
                raise ValueError(f"unknown layer {name}: pass custom_layers=[{name}]")
            model.add(known[name](**arguments))
        model.build((None, *config["input_shape"]))
        for layer in model.layers:
            layer.set_weights(arrays[f"weights/{layer.name}/{name}"] for name in layer.weights)
        model.epochs_done = int(header["epochs_done"])
        if "training" in header:
            run = header["training"]
            backend, fault = run["backend"], host.backend_fault(run["backend"])
            if backend == "cuda" and fault is not None:
                warnings.warn(f'the model was trained with backend="cuda"; it goes on with "auto": {fault}')
                backend = "auto"
            model.compile(run["optimizer"], run["loss"], run["metrics"], run["kernels"], backend,
                          run.get("fuse", True))
            assert model.optimizer is not None
            model.optimizer.iterations = int(run["iterations"])
            for name, slot in model.optimizer.slots.items():
                model._device.put(slot, arrays[f"optimizer/{name}"])
        model._shuffle.state = header["streams"]["shuffle"]
        if "augment" in header["streams"]:
            model._augment.state = header["streams"]["augment"]
        model._set_dropouts(header["streams"]["dropout"])
        return model


def load_model(path: str | os.PathLike[str], custom_layers: Iterable[type[Layer]] = ()) -> Sequential:
    """`Sequential.load` by the name that Keras gives it."""
    return Sequential.load(path, custom_layers)
