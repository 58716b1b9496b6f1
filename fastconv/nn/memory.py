"""How much memory a training step holds."""
from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Memory:
    """Bytes that stay allocated for steps on `batch_size` samples.

    Conv2D, Dense, pooling and ReLU allocate nothing more while they run; Dropout and the other activations make
    temporary arrays of their outputs' size.

    weights, gradients : of all layers
    optimizer : what it remembers of each weight
    batch : the inputs of a step
    layers : outputs, their gradients, and what the backward pass needs
    workspace : of the kernel that needs most; they take turns
    """

    batch_size: int
    weights: int
    gradients: int
    optimizer: int
    batch: int
    layers: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self)[1:])

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {_text(getattr(self, part.name))}" for part in fields(self)[1:])
        return f"Memory of a step of {self.batch_size} samples: {_text(self.total)} ({parts})"


def _text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
