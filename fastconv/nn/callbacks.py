"""Callbacks of `fit`, with the names and arguments of Keras, and the History that `fit` returns."""
from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Logs = dict[str, float]


class Callback:
    """Override what you need; `self.model` is the model in training, `self.params` the run's figures."""

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None: ...

    def on_train_end(self, logs: Logs | None = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


class History(Callback):
    """The record of a run: `history` maps a metric to its value in each epoch, `epoch` their numbers.

    `seconds` and `images_per_second` are of the training part of each epoch; `updates` counts all updates;
    `interrupted` tells whether Ctrl-C ended the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.seconds: list[float] = []
        self.images_per_second: list[float] = []
        self.updates = 0
        self.interrupted = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name, value in (logs or {}).items():
            # A metric that first appears late (validation added by a callback) keeps its place in time.
            self.history.setdefault(name, [math.nan] * len(self.epoch)).append(float(value))
        self.epoch.append(epoch)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per epoch: epoch, metrics, seconds, images per second."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["epoch", *self.history, "seconds", "images_per_second"])
            rows.writerows(zip(self.epoch, *self.history.values(), self.seconds, self.images_per_second))


class _Monitor(Callback):
    """A callback that follows one metric and knows which direction is better."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'mode is "auto", "min" or "max", got {mode!r}')
        if mode == "auto":
            mode = "max" if "acc" in monitor else "min"
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best = math.inf if mode == "min" else -math.inf

    def current(self, logs: Logs | None) -> float:
        """The metric of this epoch; ValueError naming the ones there are."""
        logs = logs or {}
        if self.monitor not in logs:
            hint = " (no validation data were given)" if self.monitor.startswith("val_") else ""
            raise ValueError(f"{type(self).__name__}: there is no metric {self.monitor!r}{hint}; "
                             f"there are {', '.join(logs)}")
        return float(logs[self.monitor])

    def improved(self, value: float) -> bool:
        """Whether `value` beats the best so far (NaN never does); it is the new best then."""
        better = value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta
        if better:
            self.best = value
        return better


class EarlyStopping(_Monitor):
    """Stop when `monitor` has not improved for `patience` epochs.

    With `restore_best_weights` the weights of the best epoch come back whenever training ends: early, at the last
    epoch or by Ctrl-C.
    """

    def __init__(self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0, mode: str = "auto",
                 restore_best_weights: bool = True) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.restore_best_weights = int(patience), bool(restore_best_weights)
        self.stopped_epoch: int | None = None
        self.best_epoch: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self._wait, self._weights = 0, None
        self.stopped_epoch = self.best_epoch = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.improved(self.current(logs)):
            self._wait, self.best_epoch = 0, epoch
            if self.restore_best_weights:
                self._weights = self.model.get_weights()
            return
        self._wait += 1
        if self._wait >= max(1, self.patience):
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._weights is not None:
            self.model.set_weights(self._weights)
            self._weights = None


class TargetReached(_Monitor):
    """Stop after the first epoch whose `monitor` is at least `target` (at most, if less of it is better).

    `epoch` is then its number from 0; None while the target is not reached.
    """

    def __init__(self, target: float, monitor: str = "val_accuracy", mode: str = "auto") -> None:
        super().__init__(monitor, mode)
        self.target = float(target)
        self.epoch: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.current(logs)
        if value <= self.target if self.mode == "min" else value >= self.target:
            self.epoch = epoch
            self.model.stop_training = True


class ModelCheckpoint(_Monitor):
    """Save the model at the end of each epoch, or only when `monitor` improves; the file is replaced atomically.

    `filepath` may hold {epoch} (from 1) and the metrics: "run-{epoch:02d}-{val_loss:.2f}.npz".
    """

    def __init__(self, filepath: str | os.PathLike[str], monitor: str = "val_loss", save_best_only: bool = False,
                 mode: str = "auto") -> None:
        super().__init__(monitor, mode)
        self.filepath, self.save_best_only = os.fspath(filepath), bool(save_best_only)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_best_only and not self.improved(self.current(logs)):
            return
        self.model.save(self.filepath.format(epoch=epoch + 1, **(logs or {})))


class CSVLogger(Callback):
    """Write the metrics of each epoch to a CSV file as they come."""

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        super().__init__()
        self.filename, self.separator, self.append = Path(filename), separator, append
        self._file: TextIO | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._header = not (self.append and self.filename.exists() and self.filename.stat().st_size)
        self._file = open(self.filename, "a" if self.append else "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._names: list[str] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self._file is None:
            return
        rows = csv.writer(self._file, delimiter=self.separator)
        if self._names is None:
            self._names = list(logs)
            if self._header:
                rows.writerow(["epoch", *self._names])
        rows.writerow([epoch, *(logs.get(name, "") for name in self._names)])
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch to `schedule(epoch, rate)`."""

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        rate = float(self.schedule(epoch, optimizer.current_learning_rate))
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"LearningRateScheduler: schedule({epoch}, ...) gave {rate}")
        optimizer.learning_rate = rate

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.current_learning_rate


class TerminateOnNaN(Callback):
    """Stop as soon as a batch has a loss that is NaN or infinite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if logs is not None and not np.isfinite(logs["loss"]):
            self.model.stop_training = True
