"""Optimisers with the update formulas and defaults of Keras, and learning-rate schedules.

All trainable weights of a model lie in one flat array, so a step is one in-place pass over it, and allocates nothing.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.functional import training

from .device import HOST


class Schedule:
    """A learning rate as a function of the number of updates made so far."""

    def __call__(self, update: int) -> float:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"class": type(self).__name__, **vars(self)}


class ExponentialDecay(Schedule):
    """initial * rate ** (update / steps)."""

    def __init__(self, initial_learning_rate: float, decay_steps: int, decay_rate: float) -> None:
        self.initial_learning_rate = float(initial_learning_rate)
        self.decay_steps = int(decay_steps)
        self.decay_rate = float(decay_rate)

    def __call__(self, update: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** (update / self.decay_steps)


class CosineDecay(Schedule):
    """From `initial` to `alpha * initial` in half a cosine wave over `decay_steps` updates (SGDR, Loshchilov 2017)."""

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0) -> None:
        self.initial_learning_rate = float(initial_learning_rate)
        self.decay_steps = int(decay_steps)
        self.alpha = float(alpha)

    def __call__(self, update: int) -> float:
        share = min(update / self.decay_steps, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return self.initial_learning_rate * (self.alpha + (1 - self.alpha) * cosine)


class OneCycle(Schedule):
    """Linear rise from max/`start_div` to max over the share `warmup` of the updates, then a cosine down to
    max/`final_div` (Smith and Topin 2018), which stays; or with `again` > 0 more such cycles of again * max."""

    def __init__(self, max_learning_rate: float, total_steps: int, warmup: float = 0.3, start_div: float = 10.0,
                 final_div: float = 1000.0, again: float = 0.0) -> None:
        self.max_learning_rate = float(max_learning_rate)
        self.total_steps = int(total_steps)
        self.warmup = float(warmup)
        self.start_div = float(start_div)
        self.final_div = float(final_div)
        self.again = float(again)

    def __call__(self, update: int) -> float:
        top, rise = self.max_learning_rate, self.warmup * self.total_steps
        if self.again and update >= self.total_steps:
            top *= self.again
            update %= self.total_steps
        if update < rise:
            low = top / self.start_div
            return low + (top - low) * update / rise
        share = min((update - rise) / max(1.0, self.total_steps - rise), 1.0)
        low = top / self.final_div
        return low + (top - low) * 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES = {cls.__name__: cls for cls in (ExponentialDecay, CosineDecay, OneCycle)}


class Optimizer:
    """Common part: the learning rate, the count of updates, the slots (one flat array per kind of memory)."""

    name = ""
    slot_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float | Schedule) -> None:
        if not isinstance(learning_rate, Schedule):
            learning_rate = float(learning_rate)
            if not (math.isfinite(learning_rate) and learning_rate >= 0):
                raise ValueError(f"{self.name}: the learning rate is a finite number >= 0, got {learning_rate}")
        self.learning_rate = learning_rate
        self.iterations = 0
        self.slots: dict[str, Any] = {}
        self.device: Any = HOST
        self._built_for: tuple[int, np.dtype] | None = None

    @property
    def current_learning_rate(self) -> float:
        """The rate of the next update."""
        rate = self.learning_rate
        return rate(self.iterations) if isinstance(rate, Schedule) else rate

    def build(self, size: int, dtype: np.dtype, device: Any = HOST) -> None:
        """Allocate the slots for a model of `size` weights, where its weights are."""
        if (size, dtype) != self._built_for:
            self._built_for = size, dtype
            self.iterations = 0
            self.slots = {name: device.zeros((size,), dtype) for name in self.slot_names}
        elif device is not self.device:
            values = {name: self.device.get(slot) for name, slot in self.slots.items()}
            for name, value in values.items():
                self.slots[name] = device.empty(value.shape, dtype)
                device.put(self.slots[name], value)
        self.device = device

    def advance(self) -> float:
        """The rate that `update` takes, of the next update, which counts as made."""
        rate = self.current_learning_rate
        self.iterations += 1
        return rate

    def update(self, rate: Any, weights: Any, grads: Any) -> None:
        """One update of all weights, in place; the arrays are flat. `rate` as the device has it."""
        self._update(rate, weights, grads, *self.slots.values())

    def apply(self, weights: np.ndarray, grads: np.ndarray) -> None:
        """The next update of all weights of the host, in place; the arrays are flat."""
        self.update(self.advance(), weights, grads)

    def _update(self, rate: Any, w: Any, g: Any, *slots: Any) -> None:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments beside the learning rate."""
        return {}

    def get_config(self) -> dict[str, Any]:
        rate = self.learning_rate
        return {"name": self.name, "learning_rate": rate.get_config() if isinstance(rate, Schedule) else rate,
                **self.settings()}


class SGD(Optimizer):
    """w -= lr g; with momentum m = momentum m - lr g, w += m (nesterov: w += momentum m - lr g)."""

    name = "sgd"

    def __init__(self, learning_rate: float | Schedule = 0.01, momentum: float = 0.0,
                 nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        if not 0 <= momentum < 1:
            raise ValueError(f"sgd: momentum is in [0, 1), got {momentum!r}")
        self.momentum, self.nesterov = float(momentum), bool(nesterov)
        if self.momentum:
            self.slot_names = ("momentum",)

    def settings(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}

    def _update(self, rate: Any, w: Any, g: Any, *slots: Any) -> None:
        self.device.sgd(w, g, slots[0] if slots else None, rate, self.momentum, self.nesterov)


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; step = lr g / sqrt(v + epsilon); with momentum m = momentum m + step, w -= m
    (Hinton 2012; epsilon stands inside the root, as in Keras)."""

    name = "rmsprop"
    slot_names: tuple[str, ...] = ("velocity",)

    def __init__(self, learning_rate: float | Schedule = 0.001, rho: float = 0.9, momentum: float = 0.0,
                 epsilon: float = 1e-7) -> None:
        super().__init__(learning_rate)
        self.rho, self.momentum, self.epsilon = float(rho), float(momentum), float(epsilon)
        if self.momentum:
            self.slot_names = ("velocity", "momentum")

    def settings(self) -> dict[str, Any]:
        return {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}

    def _update(self, rate: Any, w: Any, g: Any, *slots: Any) -> None:
        self.device.rmsprop(w, g, slots[0], slots[1] if len(slots) > 1 else None, rate, self.rho, self.momentum,
                            self.epsilon)


class Adam(Optimizer):
    """m += (1 - b1)(g - m); v += (1 - b2)(g^2 - v); w -= lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)
    (Kingma and Ba 2015, the efficient form at the end of section 2)."""

    name = "adam"
    slot_names = ("momentum", "velocity")

    def __init__(self, learning_rate: float | Schedule = 0.001, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7) -> None:
        super().__init__(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = float(beta_1), float(beta_2), float(epsilon)

    def settings(self) -> dict[str, Any]:
        return {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}

    def advance(self) -> float:
        return training.adam_rate(super().advance(), self.beta_1, self.beta_2, self.iterations)

    def _update(self, rate: Any, w: Any, g: Any, *slots: Any) -> None:
        self.device.adam(w, g, slots[0], slots[1], rate, self.beta_1, self.beta_2, self.epsilon)


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (SGD, RMSprop, Adam)}


def get(optimizer: str | Optimizer | dict[str, Any]) -> Optimizer:
    """An optimiser by Keras's name, by its config, or as it is."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    config: dict[str, Any] = {"name": optimizer.lower()} if isinstance(optimizer, str) else dict(optimizer)
    name = config.pop("name", None)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: one of {', '.join(OPTIMIZERS)}")
    rate: Any = config.get("learning_rate")
    if isinstance(rate, dict):
        rate = dict(rate)
        config["learning_rate"] = SCHEDULES[rate.pop("class")](**rate)
    return OPTIMIZERS[name](**config)
