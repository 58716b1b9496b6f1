"""conv1d and conv_transpose1d: the 2-D functions on images of height 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.functional.arrays import as_array, check_rank
from fastconv.functional.convolution import conv2d, conv_transpose2d
from fastconv.problem import check_int

_LAYOUTS_1D = {"NCW": "NCHW", "NWC": "NHWC"}


def _layout_1d(where: str, layout: str) -> str:
    if layout not in _LAYOUTS_1D:
        raise ValueError(f'{where}: layout must be "NCW" or "NWC", got {layout!r}')
    return _LAYOUTS_1D[layout]


def _single(where: str, name: str, value: Any, minimum: int) -> int:
    """An int, or a sequence of one int."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return check_int(where, name, value, minimum)


def _padding_1d(where: str, padding: Any) -> Any:
    """Padding of the width only; strings pass through (a filter of height 1 needs none)."""
    if isinstance(padding, str):
        return padding
    if isinstance(padding, (list, tuple)) and len(padding) == 2:
        low, high = (check_int(where, "padding", p, 0) for p in padding)
        return (0, 0, low, high)
    p = _single(where, "padding", padding, 0)
    return (0, 0, p, p)


def _rows(array: np.ndarray | None, layout: str) -> np.ndarray | None:
    """A 1-D signal (or batch) as an image of height 1."""
    if array is None:
        return None
    return array[..., None, :] if layout == "NCHW" else array[..., None, :, :]


def _weight_rows(array: np.ndarray, layout: str) -> np.ndarray:
    return array[:, :, None, :] if layout == "NCHW" else array[None]


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    *, layout: str = "NCW", padding_mode: str = "zeros", activation: Any = None, residual: Any = None,
    out: np.ndarray | None = None, algorithm: str = "auto", backend: str = "auto", precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:  # fmt: skip
    """1-D convolution of a batch of signals; `conv2d` with images of height 1.

    Parameters
    ----------
    input : array of shape (mb, ic, iw), or (mb, iw, ic) with layout="NWC"; without mb for one signal
    weight : array of shape (oc, ic / groups, kw), or (kw, ic / groups, oc) with layout="NWC"
    bias : array of shape (oc,), optional
    stride, dilation : int
    padding : int, pair (left, right), "valid", "same" or "same_lower"
    others : as in `conv2d`

    Returns
    -------
    ndarray of shape (mb, oc, ow) or (mb, ow, oc)

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.
    """
    where = "conv1d"
    layout2 = _layout_1d(where, layout)
    x, w = as_array(where, "input", input), as_array(where, "weight", weight)
    check_rank(where, "input", x, (2, 3), "(batch, channels, width)" if layout == "NCW" else "(batch, width, channels)")
    check_rank(where, "weight", w, (3,), "(out_channels, in_channels / groups, width)")
    r = None if residual is None else as_array(where, "residual", residual)
    y = conv2d(
        _rows(x, layout2), _weight_rows(w, layout2), bias, (1, _single(where, "stride", stride, 1)),
        _padding_1d(where, padding), (1, _single(where, "dilation", dilation, 1)), groups, layout=layout2,
        padding_mode=padding_mode, activation=activation, residual=_rows(r, layout2),
        out=_rows(out, layout2), algorithm=algorithm, backend=backend, precision=precision,
        max_workspace=max_workspace,
    )  # fmt: skip
    return y.squeeze(-2 if layout2 == "NCHW" else -3) if out is None else out


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1, *, layout: str = "NCW", activation: Any = None, residual: Any = None,
    out: np.ndarray | None = None, algorithm: str = "auto", backend: str = "auto", precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:  # fmt: skip
    """1-D transposed convolution; `conv_transpose2d` with images of height 1.

    Parameters
    ----------
    input : array of shape (mb, in, w), or (mb, w, in) with layout="NWC"; without mb for one signal
    weight : array of shape (in, out / groups, kw), or (kw, out / groups, in) with layout="NWC"
    bias : array of shape (out,), optional
    stride, padding, output_padding, dilation : int
    others : as in `conv2d`

    Returns
    -------
    ndarray of shape (mb, out, ow) or (mb, ow, out), ow = (w - 1) * s - 2 * p + (kw - 1) * d + output_padding + 1

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.
    """
    where = "conv_transpose1d"
    layout2 = _layout_1d(where, layout)
    x, w = as_array(where, "input", input), as_array(where, "weight", weight)
    check_rank(where, "input", x, (2, 3), "(batch, channels, width)" if layout == "NCW" else "(batch, width, channels)")
    check_rank(where, "weight", w, (3,), "(in_channels, out_channels / groups, width)")
    r = None if residual is None else as_array(where, "residual", residual)
    y = conv_transpose2d(
        _rows(x, layout2), _weight_rows(w, layout2), bias, (1, _single(where, "stride", stride, 1)),
        _padding_1d(where, padding), (0, _single(where, "output_padding", output_padding, 0)), groups,
        (1, _single(where, "dilation", dilation, 1)), layout=layout2, activation=activation,
        residual=_rows(r, layout2), out=_rows(out, layout2), algorithm=algorithm, backend=backend,
        precision=precision, max_workspace=max_workspace,
    )  # fmt: skip
    return y.squeeze(-2 if layout2 == "NCHW" else -3) if out is None else out
