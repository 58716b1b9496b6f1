"""Random changes to the images of a batch while training, and batches made ready beside the step that runs."""
from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from .seeding import Stream

T = TypeVar("T")
# What `fit(augment=...)` takes: images (n, h, w, c) and a stream of random numbers to new images of the same shape.
Augment = Callable[[np.ndarray, Stream], np.ndarray]


class RandomAffine:
    """Every image turned, scaled and shifted by its own random amounts: bilinear, zeros from outside.

    Parameters
    ----------
    degrees : largest angle, either way
    shift : largest shift in pixels along each axis, either way
    zoom : largest change of scale along each axis: 0.1 is from 0.9 to 1.1
    shear : largest slant, in pixels sideways for each pixel down

    All are drawn evenly between their limits.
    """

    def __init__(self, degrees: float = 0.0, shift: float = 0.0, zoom: float = 0.0, shear: float = 0.0) -> None:
        for name, value in (("degrees", degrees), ("shift", shift), ("zoom", zoom), ("shear", shear)):
            if not 0 <= value < math.inf:
                raise ValueError(f"RandomAffine: {name} is a finite number of at least 0, got {value!r}")
        if zoom >= 1:
            raise ValueError(f"RandomAffine: zoom is less than 1, got {zoom!r}")
        self.degrees, self.shift, self.zoom, self.shear = degrees, shift, zoom, shear

    def __call__(self, x: np.ndarray, stream: Stream) -> np.ndarray:
        """New images for x (n, h, w, c), in its dtype."""
        n, h, w = x.shape[:3]
        drawn = (2 * stream.uniform(6 * n) - 1).reshape(6, n)
        angle, shear = np.radians(self.degrees) * drawn[0], self.shear * drawn[1]
        scale_y, scale_x = 1 + self.zoom * drawn[2:4]
        # A pixel's place in the source, from the middle: source = M (i, j) + shift, M = rotation, slant and 1 / scale.
        sine, cosine = np.sin(angle), np.cos(angle)
        matrix = np.stack([cosine / scale_y, -sine / scale_x, (sine + shear) / scale_y, cosine / scale_x])
        matrix = matrix.astype(x.dtype)
        i = np.arange(h, dtype=x.dtype)[:, None] - x.dtype.type((h - 1) / 2)
        j = np.arange(w, dtype=x.dtype)[None, :] - x.dtype.type((w - 1) / 2)
        shift = (self.shift * drawn[4:6]).astype(x.dtype)
        places = []
        for row, size in ((0, h), (1, w)):
            a, b = matrix[2 * row, :, None, None], matrix[2 * row + 1, :, None, None]
            place = a * i + b * j
            place += shift[row, :, None, None] + x.dtype.type((size - 1) / 2)
            # outside by a pixel or more is all zeros: one rim of them is enough
            places.append(np.clip(place, -1, size))
        return _bilinear(x, *places)


def _bilinear(x: np.ndarray, y_place: np.ndarray, x_place: np.ndarray) -> np.ndarray:
    """x at places (n, h, w) in [-1, size], zeros around it."""
    n, h, w, c = x.shape
    padded = np.zeros((n, h + 3, w + 3, c), x.dtype)
    padded[:, 1:-2, 1:-2] = x
    flat = padded.reshape(-1, c)
    top, left = np.floor(y_place), np.floor(x_place)
    down, right = y_place - top, x_place - left
    at = (top.astype(np.int64) + 1) * (w + 3) + left.astype(np.int64) + 1
    at += (np.arange(n) * ((h + 3) * (w + 3)))[:, None, None]
    down, right = down[..., None], right[..., None]
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + w + 3] * (1 - right) + flat[at + w + 4] * right
    return upper * (1 - down) + lower * down


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each made by another thread while the one before it is used; errors arrive in their place."""
    made: queue.Queue[tuple[str, Any]] = queue.Queue(1)
    stop = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    worker = threading.Thread(target=make, name="fastconv batches", daemon=True)
    worker.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        worker.join()
