"""What goes into a network: checks of images, and batches drawn from arrays or from a generator."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .augment import Augment, ahead
from .seeding import Stream

# Standardised images stay far below this; 8-bit pixels that nobody scaled do not.
PIXEL_LIMIT = 16.0
# Images looked at to tell 8-bit pixels from large but fractional values.
PIXEL_SAMPLE = 64


def shape_text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['n', *map(str, shape)])})"


def check_images(x: Any, input_shape: tuple[int, ...], dtype: np.dtype, where: str,
                 values: bool = True) -> np.ndarray:
    """`x` as an array whose rows fit the model; ValueError or TypeError naming shapes and the rule that failed.

    `values` also looks at the numbers: NaN, infinity and unscaled pixels are errors.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "buif":
        raise TypeError(f"{where}: x is an array of numbers, got an array of {x.dtype}")
    if x.shape[1:] != input_shape or x.ndim == 0:
        raise ValueError(f"{where}: the model expects {shape_text(input_shape)}, got {x.shape}"
                         + _shape_hint(x.shape, input_shape))
    if values and x.size:
        _check_values(x, where)
    return x if x.dtype == dtype else x.astype(dtype)


def _shape_hint(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if shape == expected:
        return ": this is one sample without its batch axis; pass x[None] (or x[i:i+1])"
    if len(expected) == 3:
        h, w, c = expected
        if c == 1 and shape[-2:] == (h, w) and len(shape) in (2, 3):
            return ": the channel axis is missing; pass x[..., None]" + (
                " with a batch axis: x[None, ..., None]" if len(shape) == 2 else "")
        if shape[1:] == (c, h, w):
            return ": this looks like (n, channels, height, width); pass x.transpose(0, 2, 3, 1)"
        if shape[1:] == (h * w * c,):
            return f": these are flat; pass x.reshape(-1, {h}, {w}, {c})"
    return ""


def _check_values(x: np.ndarray, where: str) -> None:
    low, high = x.min(), x.max()  # NaN passes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{where}: x holds NaN or infinity, first at index {tuple(map(int, bad))}")
    largest = max(abs(float(low)), abs(float(high)))
    if largest <= PIXEL_LIMIT:
        return
    sample = x[:PIXEL_SAMPLE]
    if low >= 0 and high <= 255 and np.array_equal(sample, np.floor(sample)):
        raise ValueError(f"{where}: the pixels are not scaled: whole numbers from {low:g} to {high:g}; "
                         'pass x.astype("float32") / 255')
    warnings.warn(f"{where}: x holds values up to {largest:g}; networks train best on inputs of size about 1",
                  stacklevel=4)


def check_steps(steps: Any, what: str) -> None:
    """Refuse what is neither None nor a positive integer."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1):
        raise ValueError(f"{what} is a positive integer, got {steps!r}")


class Batch:
    """One step's data: inputs, labels, how many."""

    __slots__ = ("size", "x", "y")

    def __init__(self, x: np.ndarray, y: Any) -> None:
        self.x, self.y, self.size = x, y, len(x)


class ArrayFeed:
    """Batches from arrays, without replacement; the last one of a pass may be smaller.

    An epoch is one pass, or `steps` batches: then it goes on where the last one stopped, pass after pass.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray | None, batch_size: int, steps: int | None = None) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size is a positive integer, got {batch_size!r}")
        if y is not None and len(x) != len(y):
            raise ValueError(f"x has {len(x)} samples and y has {len(y)}: they must be equally many")
        if len(x) == 0:
            raise ValueError("there are no samples: x has length 0")
        self.x, self.y, self.batch_size = x, y, int(batch_size)
        self.steps = -(-len(x) // self.batch_size) if steps is None else steps
        self.samples = len(x) if steps is None else None
        self._pass: Iterator[Batch] = iter(())
        self._rows = np.empty((min(self.batch_size, len(x)), *x.shape[1:]), x.dtype)

    def augmented(self, stream: Stream | None, augment: Augment, random: Stream) -> Iterator[Batch]:
        """`epoch` with its images changed by `augment`, made ready one batch ahead by another thread."""

        def changed() -> Iterator[Batch]:
            for batch in self.epoch(stream):
                # a copy: it may be changed in place or handed back, and the next batch is made while this one is used
                x = augment(batch.x.copy(), random)
                if x.shape != batch.x.shape:
                    raise ValueError(f"augment changed the shape of a batch from {batch.x.shape} to {x.shape}")
                yield Batch(np.ascontiguousarray(x, batch.x.dtype), batch.y)

        return ahead(changed())

    def epoch(self, stream: Stream | None) -> Iterator[Batch]:
        """One epoch, each pass in a random order drawn from `stream`, or in the given order. A batch lives until the
        next."""
        for _ in range(self.steps):
            batch = next(self._pass, None)
            if batch is None:
                self._pass = self._one_pass(stream)
                batch = next(self._pass)
            yield batch

    def _one_pass(self, stream: Stream | None) -> Iterator[Batch]:
        count = len(self.x)
        order = None if stream is None else stream.permutation(count)
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            if order is None:
                x, y = self.x[start:stop], None if self.y is None else self.y[start:stop]
            else:
                rows = order[start:stop]
                x = np.take(self.x, rows, axis=0, out=self._rows[:stop - start], mode="clip")
                y = None if self.y is None else self.y[rows]
            yield Batch(np.ascontiguousarray(x), y)

    @property
    def text(self) -> str:
        """How an epoch is made up, in words."""
        count = len(self.x)
        if self.samples is None:
            whole, rest = divmod(self.steps, -(-count // self.batch_size))
            passes = whole + min(1, rest * self.batch_size / count)
            return f"{passes:.3g} passes over {count:,} samples in batches of {min(self.batch_size, count)}"
        last = count - (self.steps - 1) * self.batch_size
        partial = f", the last of {last}" if last != self.batch_size and self.steps > 1 else ""
        return f"{count:,} samples in batches of {min(self.batch_size, count)}{partial}"


class GeneratorFeed:
    """Batches (x, y) from a generator, an iterator, or a sequence of batches."""

    def __init__(self, source: Any, steps: int | None, what: str, prepare: Callable[[Any], Batch]) -> None:
        check_steps(steps, what)
        sized = len(source) if hasattr(source, "__len__") else None
        if steps is None and sized is None:
            raise ValueError(f"a generator has no length: pass {what}=, the number of batches of one epoch")
        self.steps = int(steps) if steps is not None else int(sized or 0)
        if self.steps == 0:
            raise ValueError("there are no batches: the data have length 0")
        self.samples: int | None = None
        self.exhausted = False
        self._what, self._prepare, self._source = what, prepare, source
        # A one-shot iterator goes on where the last epoch stopped; a sequence starts again when it runs out.
        self._restarts = not hasattr(source, "__next__")
        self._iterator = self._start()

    def _start(self) -> Iterator[Any]:
        source = self._source
        if hasattr(source, "__iter__"):
            return iter(source)
        return (source[i] for i in range(len(source)))

    def epoch(self, stream: Stream | None) -> Iterator[Batch]:
        """The next `steps` batches; an early end is said once, and `exhausted` is set."""
        if self.exhausted:
            return
        for step in range(self.steps):
            item = next(self._iterator, None)
            if item is None and self._restarts:
                self._iterator = self._start()
                item = next(self._iterator, None)
            if item is None:
                self.exhausted = True
                warnings.warn(f"the generator ended after {step} of {self.steps} batches of this epoch; "
                              f"it must yield {self._what} * epochs batches", stacklevel=3)
                return
            yield self._prepare(item)

    @property
    def text(self) -> str:
        return "batches from a generator"
