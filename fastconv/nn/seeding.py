"""Random streams of a training run: each is fixed by (seed, purpose) and can be saved and continued.

Numbers are made from PCG64's raw 64-bit output, whose sequence NumPy guarantees; the distributions of
`numpy.random.Generator` may change between NumPy versions, and a seed must keep its meaning.
"""
from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np

INIT, SHUFFLE, DROPOUT, AUGMENT = range(4)


def fresh_seed() -> int:
    """A seed nobody chose: 32 bits from the operating system."""
    return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])


def checked_seed(seed: Any) -> int:
    """`seed` as a non-negative int; TypeError or ValueError otherwise."""
    value = operator.index(seed)
    if value < 0:
        raise ValueError(f"a seed is a non-negative integer, got {value}")
    return value


class Stream:
    """Independent random bits for one purpose, the same for the same `seed` and `key` on every machine."""

    def __init__(self, seed: int, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(checked_seed(seed), spawn_key=key))

    def uniform(self, count: int) -> np.ndarray:
        """`count` float64 numbers in [0, 1), 53 random bits each."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0 ** -53

    def permutation(self, count: int) -> np.ndarray:
        """A random order of range(count): the order that sorts random 64-bit keys."""
        return np.argsort(self._bits.random_raw(count), kind="stable")

    def keep(self, count: int, rate: float) -> np.ndarray:
        """`count` booleans, each False with probability `rate` (to 2^-32)."""
        words = self._bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
        return words >= np.uint32(min(round(rate * 2.0 ** 32), 2 ** 32 - 1))

    @property
    def state(self) -> dict[str, Any]:
        """What is needed to continue this stream: plain ints and strings, JSON-ready."""
        return dict(self._bits.state)

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._bits.state = cast(Any, value)
