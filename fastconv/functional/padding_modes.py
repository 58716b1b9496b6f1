"""Reflect, replicate and circular padding: the image is padded explicitly, its gradient folded back."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.functional.intake import filter_sizes, image_sizes
from fastconv.problem import resolve_padding

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def resolve_mode(
    where: str, mode: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any, padding: Any,
    dilation: Any, layout: str, device: str = "cpu",
) -> tuple[int, int, int, int] | None:  # fmt: skip
    """Paddings to apply to the image itself, or None when the kernels' own zero padding serves."""
    if mode == "zeros":
        return None
    if mode not in PADDING_MODES:
        raise ValueError(f"{where}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")
    if device != "cpu":
        raise ValueError(f"{where}: padding_mode={mode!r} pads on the host only; on a GPU pad the input first")
    _, _, ih, iw = image_sizes(x_shape, layout)
    _, _, kh, kw = filter_sizes(w_shape, layout)
    pads = resolve_padding(padding, (ih, iw), (kh, kw), stride, dilation, where=where)
    for axis, size, both in (("height", ih, pads[:2]), ("width", iw, pads[2:])):
        most = size - 1 if mode == "reflect" else size
        if mode != "replicate" and max(both) > most:
            raise ValueError(f"{where}: padding_mode={mode!r} allows at most {most} cells on {axis} {size}, got {both}")
        if mode == "replicate" and size == 0 and max(both) > 0:
            raise ValueError(f"{where}: padding_mode='replicate' needs a non-empty {axis}")
    return pads


_NUMPY_MODE = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _axes(layout: str) -> tuple[int, int]:
    return (2, 3) if layout == "NCHW" else (1, 2)


def pad_image(x: np.ndarray, pads: tuple[int, int, int, int], mode: str, layout: str) -> np.ndarray:
    widths = [(0, 0)] * 4
    h, w = _axes(layout)
    widths[h], widths[w] = pads[:2], pads[2:]
    return np.pad(x, widths, mode=_NUMPY_MODE[mode])  # type: ignore[call-overload]


def fold_image(dx: np.ndarray, pads: tuple[int, int, int, int], mode: str, layout: str) -> np.ndarray:
    """The adjoint of `pad_image`: each padded cell's gradient is added to the cell it was copied from."""
    for axis, (low, high) in zip(_axes(layout), (pads[:2], pads[2:])):
        size = dx.shape[axis] - low - high
        source = np.pad(np.arange(size), (low, high), mode=_NUMPY_MODE[mode])  # type: ignore[call-overload]
        moved = np.moveaxis(dx, axis, 0)
        folded = moved[low : low + size].copy()
        for cell in (*range(low), *range(low + size, low + size + high)):
            folded[source[cell]] += moved[cell]
        dx = np.moveaxis(folded, 0, axis)
    return dx


def padded_shape(shape: tuple[int, ...], pads: tuple[int, int, int, int], layout: str) -> tuple[int, ...]:
    h, w = _axes(layout)
    sizes = list(shape)
    sizes[h] += pads[0] + pads[1]
    sizes[w] += pads[2] + pads[3]
    return tuple(sizes)
