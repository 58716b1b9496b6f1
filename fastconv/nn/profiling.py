"""Where the time of a training run goes: per layer, forward and backward, and the kernels that ran."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Clock:
    """Seconds spent since the last reset; one entry per layer, and the rest of a training step."""

    layers: int
    forward: list[float] = field(init=False)
    backward: list[float] = field(init=False)
    steps: int = 0
    samples: int = 0
    batches: float = 0.0  # drawing them
    loss: float = 0.0
    update: float = 0.0
    queued: float = 0.0  # whole steps, as the host sees them

    def __post_init__(self) -> None:
        self.forward, self.backward = [0.0] * self.layers, [0.0] * self.layers


@dataclass
class LayerTime:
    """One line of a profile; milliseconds per training step."""

    name: str
    forward_ms: float
    backward_ms: float
    kernels: dict[str, list[str]]


@dataclass
class Profile:
    """Mean times of the training steps of the last `fit`; prints as a table."""

    steps: int
    samples: int
    layers: list[LayerTime]
    other_ms: dict[str, float]
    refused: dict[str, dict[str, str]]
    device: str = "cpu"

    @property
    def step_ms(self) -> float:
        return sum(self.other_ms.values()) + sum(t.forward_ms + t.backward_ms for t in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"steps": self.steps, "samples": self.samples, "step_ms": self.step_ms,
                "layers": [vars(layer) for layer in self.layers], "other_ms": self.other_ms}

    def __str__(self) -> str:
        if not self.steps:
            return "no training step has run yet"
        width = max(len(t.name) for t in self.layers)
        width = max(width, *(len(name) for name in self.other_ms))
        lines = [f"{'ms per step':<{width}}   forward  backward   share  kernels (forward, backward)"]
        total = self.step_ms or 1.0
        for t in self.layers:
            kernels = list(dict.fromkeys(name for pass_, names in t.kernels.items() if pass_ != "inference"
                                         for name in names))
            share = (t.forward_ms + t.backward_ms) / total
            lines.append(f"{t.name:<{width}}  {t.forward_ms:8.3f}  {t.backward_ms:8.3f}  {share:6.1%}  "
                         f"{', '.join(kernels) or '-'}")
        for name, ms in self.other_ms.items():
            lines.append(f"{name:<{width}}  {ms:8.3f}  {'':8}  {ms / total:6.1%}")
        lines.append(f"{'total':<{width}}  {self.step_ms:8.3f}  {'':8}          "
                     f"{self.samples / self.steps:.1f} samples per step, {self.steps:,} steps")
        if self.device != "cpu":
            lines.append("the GPU works by itself: queued is what the host takes to ask for a step")
        return "\n".join(lines)


def profile(clock: Clock, layers: list[Any], device: str = "cpu") -> Profile:
    """The clock's figures with the layers' names and kernels."""
    per = 1e3 / max(1, clock.steps)
    of_layer = per if device == "cpu" else 0.0  # how long a layer takes to queue its work tells nothing
    times = [LayerTime(layer.name, clock.forward[i] * of_layer, clock.backward[i] * of_layer,
                       {pass_: list(names) for pass_, names in layer.kernels.ran.items()})
             for i, layer in enumerate(layers)]
    other = {"batches": clock.batches * per, "loss": clock.loss * per, "update": clock.update * per}
    if device != "cpu":
        other = {"batches": clock.batches * per, "queued": clock.queued * per}
    refused = {layer.name: dict(layer.kernels.refused) for layer in layers if layer.kernels.refused}
    return Profile(clock.steps, clock.samples, times, other, refused, device)
