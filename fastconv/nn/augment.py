"""Random changes to the images of a batch while training, and batches made ready beside the step that runs."""
from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from fastconv.functional import training

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
        maps = np.empty((n, 2, 3))
        maps[:, 0, 0], maps[:, 0, 1] = cosine / scale_y, -sine / scale_x
        maps[:, 1, 0], maps[:, 1, 1] = (sine + shear) / scale_y, cosine / scale_x
        middle = np.array([(h - 1) / 2, (w - 1) / 2])
        maps[:, :, 2] = self.shift * drawn[4:6].T + middle - maps[:, :, :2] @ middle
        return training.affine_images(np.ascontiguousarray(x), maps)


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
