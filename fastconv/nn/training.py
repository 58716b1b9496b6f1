"""The loops of fit, evaluate and predict: epochs, callbacks, validation, Ctrl-C."""
from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

import fastconv

from .augment import Augment
from .callbacks import Callback, History
from .feeding import ArrayFeed, Batch, GeneratorFeed, check_images, check_steps
from .profiling import Clock
from .progress import Progress, counted, write

TRAIN_BATCH = 32  # Keras's default
# Inference: large enough to fill two cores, small enough that a layer's output stays in a shared L3.
TEST_BATCH = 64


def logs_of(model: Any, sums: tuple[float, int], samples: int, prefix: str = "") -> dict[str, float]:
    """Means over `samples` of a tally's sums, under the names the model was compiled with."""
    total, correct = sums
    logs = {f"{prefix}loss": total / samples}
    for name in model.metrics:
        logs[prefix + name] = correct / samples
    return logs


def prepared(model: Any, x: Any, y: Any, where: str, values: bool = True) -> Batch:
    """Checked data as one batch; builds the model if this is the first it sees."""
    loss = model._need_compiled()
    if not model.built:
        model.build(np.shape(x))
        model._check_ending()
    x = check_images(x, model.layers[0].input_shape, model.dtype, where, values)
    y = loss.check(y, model.layers[-1].output_shape, model.dtype)
    if len(x) != len(y):
        raise ValueError(f"{where}: x has {len(x)} samples and y has {len(y)}: they must be equally many")
    if len(x) == 0:
        raise ValueError(f"{where}: there are no samples: x has length 0")
    return Batch(np.ascontiguousarray(x), y)


def feed(model: Any, x: Any, y: Any, batch_size: int | None, steps: int | None, where: str,
         steps_name: str) -> ArrayFeed | GeneratorFeed:
    """Arrays or a generator as a feed of checked batches."""
    if y is None and not hasattr(x, "shape") and (hasattr(x, "__iter__") or hasattr(x, "__getitem__")):
        if batch_size is not None:
            raise ValueError(f"{where}: a generator makes its own batches; leave out batch_size")

        def prepare(item: Any) -> Batch:
            if not (isinstance(item, (tuple, list)) and len(item) == 2):
                raise ValueError(f"{where}: a generator yields pairs (x, y), got {type(item).__name__}")
            return prepared(model, item[0], item[1], where)

        return GeneratorFeed(x, steps, steps_name, prepare)
    check_steps(steps, steps_name)
    if steps is not None and where != "fit":
        raise ValueError(f"{where}: {steps_name} is for generators; with arrays the batch size fixes it")
    if y is None:
        raise ValueError(f"{where}: y is missing: pass labels beside the array x")
    data = prepared(model, x, y, where)
    default = TRAIN_BATCH if where == "fit" else TEST_BATCH
    return ArrayFeed(data.x, data.y, default if batch_size is None else batch_size, steps)


def _split(x: Any, y: Any, share: float) -> tuple[Any, Any, tuple[Any, Any]]:
    """The arrays without their last `share`, and that share."""
    if not 0 < share < 1:
        raise ValueError(f"validation_split is a share between 0 and 1, got {share!r}")
    if y is None or len(np.shape(x)) < 2:
        raise ValueError("validation_split needs arrays x and y; pass validation_data beside a generator")
    x, y = np.asarray(x), np.asarray(y)
    cut = int(len(x) * (1 - share))
    if cut == 0 or cut == len(x):
        raise ValueError(f"validation_split={share} of {len(x)} samples leaves nothing to train on or to validate")
    return x[:cut], y[:cut], (x[cut:], y[cut:])


def evaluate(model: Any, source: ArrayFeed | GeneratorFeed, prefix: str = "") -> dict[str, float]:
    """Means over all samples of one pass, weighted by batch size; weights are not touched."""
    tally, samples = model._tally("evaluate"), 0
    tally.start()
    for batch in source.epoch(None):
        model._test_step(batch.x, batch.y)
        samples += batch.size
    if not samples:
        raise ValueError("evaluate: the generator gave no batch")
    return logs_of(model, tally.read(), samples, prefix)


def predict(model: Any, x: Any, batch_size: int | None) -> np.ndarray:
    """Outputs for all samples, in an array of their own."""
    if not model.built:
        model.build(np.shape(x))
    x = check_images(x, model.layers[0].input_shape, model.dtype, "predict", values=False)
    outputs = np.empty((len(x), *model.layers[-1].output_shape), model.dtype)
    if len(x):
        start = 0
        for batch in ArrayFeed(x, None, TEST_BATCH if batch_size is None else batch_size).epoch(None):
            batch_x, _, _ = model._device.upload(batch.x, None, 0.0)
            model._device.get(model._forward(batch_x, False), outputs[start:start + batch.size])
            start += batch.size
    return outputs


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C sets a flag that the loop reads between updates, so that no update is left half done.

    A second Ctrl-C interrupts at once. Outside the main thread nothing changes.
    """
    pressed = [False]
    if threading.current_thread() is not threading.main_thread() \
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return

    def handler(number: int, frame: Any) -> None:
        if pressed[0]:
            raise KeyboardInterrupt
        pressed[0] = True

    signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _updates_line(source: ArrayFeed | GeneratorFeed, epochs: int) -> str:
    every = source.steps * epochs
    return f"{source.steps:,} updates per epoch ({source.text}), {every:,} in {counted(epochs, 'epoch')}"


def _tell_refusals(model: Any) -> None:
    """After the first step: which convolutions could not run as `compile` asked (pooling follows where it can)."""
    model._refusals_told = True
    choices = [(layer, layer.kernels) for layer in model.layers if layer.kernels.ran and layer.weights]
    refused = [f"{layer.name} {pass_}" for layer, choice in choices for pass_ in choice.refused]
    if not refused:
        return
    wish = f"kernels={model.algorithm!r}, backend={model.backend!r}"
    if not any(choice.honoured for _, choice in choices):
        reason = next(text for _, choice in choices for text in choice.refused.values())
        raise fastconv.NoKernelError(f"{wish}: no layer can run so.\n{reason}")
    warnings.warn(f"{wish}: the default ran where there is no such kernel: {', '.join(refused)}", stacklevel=4)


def _check_epochs(epochs: Any, initial_epoch: Any) -> None:
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name} is a non-negative integer, got {value!r}")


def fit(model: Any, x: Any, y: Any, *, batch_size: int | None, epochs: int, verbose: int | str,
        callbacks: Iterable[Callback] | None, validation_split: float, validation_data: Any, shuffle: bool,
        initial_epoch: int, steps_per_epoch: int | None, validation_steps: int | None, seed: int | None,
        augment: Augment | None) -> History:
    """See `Sequential.fit`."""
    model._need_compiled()
    _check_epochs(epochs, initial_epoch)
    level = 1 if verbose in ("auto", True) else int(verbose)
    if validation_split:
        if validation_data is not None:
            raise ValueError("pass validation_split or validation_data, not both")
        x, y, validation_data = _split(x, y, validation_split)
    source = feed(model, x, y, batch_size, steps_per_epoch, "fit", "steps_per_epoch")
    validation = None
    if validation_data is not None:
        vx, vy = validation_data if isinstance(validation_data, (tuple, list)) and len(validation_data) == 2 \
            and hasattr(validation_data[0], "shape") else (validation_data, None)
        validation = feed(model, vx, vy, None, validation_steps, "validation_data", "validation_steps")
    elif validation_steps is not None:
        raise ValueError("validation_steps needs validation_data")
    if seed is not None:
        model._reseed(seed)

    history = model.history = History()
    listeners: list[Callback] = [*(callbacks or ()), history]
    for listener in listeners:
        listener.set_model(model)
        listener.set_params({"epochs": epochs, "steps": source.steps, "samples": source.samples, "verbose": level})
    model.stop_training = False
    if augment is not None and not isinstance(source, ArrayFeed):
        raise ValueError("augment is for arrays: a generator changes its own batches")
    run = _Run(model, source, validation, listeners, history, level, shuffle, augment)
    if level:
        write(_updates_line(source, max(0, epochs - initial_epoch)))
    with _deferred_interrupt() as pressed:
        try:
            for listener in listeners:
                listener.on_train_begin({})
            for epoch in range(initial_epoch, epochs):
                run.epoch(epoch, epochs, pressed)
                if pressed[0] or model.stop_training or getattr(source, "exhausted", False):
                    break
        except KeyboardInterrupt:
            pressed[0] = True
        finally:
            run.close()
            for listener in listeners:
                listener.on_train_end({})
    history.interrupted = pressed[0]
    if pressed[0] and level:
        write(f"interrupted after {history.updates:,} updates")
    return history


class _Run:
    """What the epochs of one `fit` share."""

    def __init__(self, model: Any, source: ArrayFeed | GeneratorFeed, validation: ArrayFeed | GeneratorFeed | None,
                 listeners: list[Callback], history: History, verbose: int, shuffle: bool,
                 augment: Augment | None) -> None:
        self.model, self.source, self.validation = model, source, validation
        self.listeners, self.history, self.verbose, self.shuffle = listeners, history, verbose, shuffle
        self.augment = augment
        self.progress: Progress | None = None
        model._clock = Clock(len(model.layers))
        # the batch hooks are called only where someone overrides them
        self._begin = [c for c in listeners if type(c).on_train_batch_begin is not Callback.on_train_batch_begin]
        self._end = [c for c in listeners if type(c).on_train_batch_end is not Callback.on_train_batch_end]

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()

    def epoch(self, epoch: int, epochs: int, pressed: list[bool]) -> None:
        """Train on one pass, validate, tell the listeners."""
        model, clock, history = self.model, self.model._clock, self.history
        for listener in self.listeners:
            listener.on_epoch_begin(epoch, {})
        progress = self.progress = Progress(f"Epoch {epoch + 1}/{epochs}", self.verbose, self.source.steps,
                                            self.source.samples)
        tally, samples, steps = model._tally("fit"), 0, 0
        tally.start()
        drawn = perf_counter()
        order = model._shuffle if self.shuffle else None
        if self.augment is not None and isinstance(self.source, ArrayFeed):
            batches = self.source.augmented(order, self.augment, model._augment)
        else:
            batches = self.source.epoch(order)
        for batch in batches:
            clock.batches += perf_counter() - drawn
            for listener in self._begin:
                listener.on_train_batch_begin(steps, {})
            model._train_step(batch.x, batch.y)
            if not model._refusals_told:
                _tell_refusals(model)
            samples += batch.size
            steps += 1
            history.updates += 1
            if self._end:
                logs = logs_of(model, tally.last(), batch.size)
                for listener in self._end:
                    listener.on_train_batch_end(steps - 1, logs)
            progress.step(batch.size, logs_of(model, tally.read(), samples) if progress.due else None)
            if pressed[0] or model.stop_training:
                break
            drawn = perf_counter()
        sums = tally.read()  # waits for a GPU
        progress.trained()
        if pressed[0] or not samples:
            progress.close()
            return
        logs = logs_of(model, sums, samples)
        if self.validation is not None and not getattr(self.validation, "exhausted", False):
            logs |= evaluate(model, self.validation, "val_")
        model.epochs_done = epoch + 1
        for listener in self.listeners:
            listener.on_epoch_end(epoch, logs)
        history.seconds.append(progress.seconds)
        history.images_per_second.append(progress.rate)
        progress.end(steps, logs)
