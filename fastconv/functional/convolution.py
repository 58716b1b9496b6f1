"""conv2d, its gradients, conv_transpose2d and their 1-D forms: arrays -> ConvProblem -> Plan -> arrays."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from fastconv import dispatch, settings
from fastconv.autotune import generation
from fastconv.functional.arrays import (
    Output,
    as_array,
    cast,
    check_out,
    check_rank,
    common_dtype,
    contiguous,
    logical,
    logical_weight,
)
from fastconv.problem import (
    ConvProblem,
    check_int,
    check_layout,
    check_pair,
    conv_problem,
    effective_filter,
    resolve_padding,
)

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

_AXES = {"NCHW": "(batch, channels, height, width)", "NHWC": "(batch, height, width, channels)"}
_WEIGHT_AXES = {
    "NCHW": "(out_channels, in_channels / groups, height, width)",
    "NHWC": "(height, width, in_channels / groups, out_channels)",
}


# ---------------------------------------------------------------------------------------------------------------
# From arguments to a plan (cached: the arguments are made hashable first)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, (list, tuple)) else value


def request_of(where: str, algorithm: Any, backend: Any, max_workspace: Any) -> dispatch.Request:
    """The caller's wishes, with the settings in force where an argument was left at its default."""
    now = settings.current()
    algorithm = now.algorithm if algorithm == "auto" else algorithm
    backend = now.backend if backend == "auto" else backend
    max_workspace = now.max_workspace if max_workspace is None else max_workspace
    dispatch.check_request(where, algorithm, backend, max_workspace)
    return dispatch.Request(algorithm, backend, max_workspace, now.deterministic)


def _precision_of(precision: Any) -> Any:
    return settings.current().precision if precision == "fast" else precision


def _image(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """(batch, channels, height, width) of an image array's shape."""
    return shape if layout == "NCHW" else (shape[0], shape[3], shape[1], shape[2])  # type: ignore[return-value]


def _filter(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """(oc, ic / g, kh, kw) of a weight's shape."""
    return shape if layout == "NCHW" else (shape[3], shape[2], shape[0], shape[1])  # type: ignore[return-value]


def _check_channels(
    where: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], groups: int, layout: str, name: str = "input"
) -> None:
    """The image's channels must be those that the weight expects; say so when the other layout would fit."""
    expected = _filter(w_shape, layout)[1] * groups
    channels = _image(x_shape, layout)[1]
    if channels == expected:
        return
    axis = 1 if layout == "NCHW" else 3
    message = (
        f"{where}: weight {w_shape} expects {expected} input channel{'s' if expected != 1 else ''} "
        f'(groups={groups}), but {name} {x_shape} has {channels} at axis {axis} (layout="{layout}").'
    )
    if layout == "NCHW" and (x_shape[3] == expected or x_shape[3] == w_shape[2] * groups):
        message += ' The last axis fits: pass layout="NHWC"?'
    elif layout == "NHWC" and (x_shape[1] == expected or x_shape[1] == w_shape[1] * groups):
        message += ' Axis 1 fits: pass layout="NCHW"?'
    raise ValueError(message)


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def _plan(
    where: str,
    pass_: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: str,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    layout: str,
    bias: bool,
    activation: Any,
    residual: bool,
    precision: Any,
    request: dispatch.Request,
    generation: tuple[int, int],
) -> dispatch.Plan:
    """The plan of a forward pass or a gradient, by the shape of the forward pass's input."""
    check_layout(where, layout)
    groups = check_int(where, "groups", groups, 1)
    _check_channels(where, x_shape, w_shape, groups, layout)
    mb, ic, ih, iw = _image(x_shape, layout)
    oc, _, kh, kw = _filter(w_shape, layout)
    problem = conv_problem(
        where, pass_=pass_, mb=mb, ic=ic, ih=ih, iw=iw, oc=oc, kh=kh, kw=kw, stride=stride, padding=padding,
        dilation=dilation, groups=groups, dtype=dtype, layout=layout, bias=bias, activation=activation,
        residual=residual, precision=precision,
    )  # fmt: skip
    return dispatch.plan(problem, request)


def _batched(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 4 else array[None]


def _check_bias(where: str, bias: Any, channels: int, dtype: np.dtype) -> np.ndarray | None:
    if bias is None:
        return None
    array = as_array(where, "bias", bias)
    if array.shape != (channels,):
        raise ValueError(f"{where}: bias must have shape ({channels},), one value per output channel, got {array.shape}")
    if dtype.kind == "i" and array.dtype.kind == "f":
        raise TypeError(f"{where}: bias has dtype {array.dtype}, but input and weight are integers")
    return contiguous(array, dtype)


def _check_residual(where: str, residual: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    if residual is None:
        return None
    array = as_array(where, "residual", residual)
    if array.shape != shape:
        raise ValueError(f"{where}: residual must have the output's shape {shape}, got {array.shape}")
    if dtype.kind == "i" and array.dtype.kind == "f":
        raise TypeError(f"{where}: residual has dtype {array.dtype}, but input and weight are integers")
    return contiguous(array, dtype)


# ---------------------------------------------------------------------------------------------------------------
# Padding modes: the image is padded explicitly, its gradient folded back


def _resolve_mode(
    where: str, mode: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any, padding: Any,
    dilation: Any, layout: str,
) -> tuple[int, int, int, int] | None:  # fmt: skip
    """Paddings to apply to the image itself, or None when the kernels' own zero padding serves."""
    if mode == "zeros":
        return None
    if mode not in PADDING_MODES:
        raise ValueError(f"{where}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}")
    _, _, ih, iw = _image(x_shape, layout)
    _, _, kh, kw = _filter(w_shape, layout)
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


def _pad_image(x: np.ndarray, pads: tuple[int, int, int, int], mode: str, layout: str) -> np.ndarray:
    widths = [(0, 0)] * 4
    h, w = _axes(layout)
    widths[h], widths[w] = pads[:2], pads[2:]
    return np.pad(x, widths, mode=_NUMPY_MODE[mode])  # type: ignore[call-overload, no-any-return]


def _fold_image(dx: np.ndarray, pads: tuple[int, int, int, int], mode: str, layout: str) -> np.ndarray:
    """The adjoint of `_pad_image`: each padded cell's gradient is added to the cell it was copied from."""
    for axis, (low, high) in zip(_axes(layout), (pads[:2], pads[2:])):
        size = dx.shape[axis] - low - high
        source = np.pad(np.arange(size), (low, high), mode=_NUMPY_MODE[mode])  # type: ignore[call-overload]
        moved = np.moveaxis(dx, axis, 0)
        folded = moved[low : low + size].copy()
        for cell in (*range(low), *range(low + size, low + size + high)):
            folded[source[cell]] += moved[cell]
        dx = np.moveaxis(folded, 0, axis)
    return dx


def _padded_shape(shape: tuple[int, ...], pads: tuple[int, int, int, int], layout: str) -> tuple[int, ...]:
    h, w = _axes(layout)
    sizes = list(shape)
    sizes[h] += pads[0] + pads[1]
    sizes[w] += pads[2] + pads[3]
    return tuple(sizes)


# ---------------------------------------------------------------------------------------------------------------
# Public functions


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    activation: Any = None,
    residual: Any = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:
    """2-D convolution (cross-correlation, as every deep-learning library means it) of a batch of images.

    y[n, o, i, j] = act(bias[o] + residual[n, o, i, j]
                        + sum over c, a, b of weight[o, c, a, b] * x[n, c, i * sh + a * dh - ph, j * sw + b * dw - pw])

    Parameters
    ----------
    input : array of shape (mb, ic, ih, iw), or (mb, ih, iw, ic) with layout="NHWC"; without mb for one image.
    weight : array of shape (oc, ic / groups, kh, kw), or (kh, kw, ic / groups, oc) with layout="NHWC". For the
        convolution of SciPy and of mathematics flip it: weight[:, :, ::-1, ::-1].
    bias : array of shape (oc,), optional
    stride, dilation : int or pair (height, width), at least 1
    padding : int, pair, four values (top, bottom, left, right), pair of pairs, "valid", "same" (the odd cell at the
        bottom and right, at any stride) or "same_lower"
    groups : int that divides ic and oc
    padding_mode : "zeros", "reflect", "replicate" or "circular"
    activation : None, "relu", "relu6" or ("clip", low, high); a NaN stays a NaN
    residual : array of the output's shape, added before the activation
    out : array of the output's shape and dtype that shares no memory with the inputs
    algorithm, backend : force a family ("winograd"), a row's algorithm ("winograd_f4x3") or a backend ("numba")
    precision : "fast" (errors up to 2e-5 of the largest output), "strict" (plain sums only) or the largest error
        accepted
    max_workspace : most scratch memory in bytes

    Returns
    -------
    ndarray of shape (mb, oc, oh, ow) or (mb, oh, ow, oc), oh = (ih + top + bottom - (kh - 1) * dh - 1) // sh + 1.
        float16 and bfloat16 are computed in float32 and rounded once; integers are exact and come back as int64.

    Raises
    ------
    ValueError, TypeError
        Shapes, dtypes or arguments that do not fit; the message says which rule failed. `out` is then untouched.
    NoKernelError
        A forced algorithm, backend, precision or workspace that no kernel can satisfy, with each kernel's reason.

    Notes
    -----
    im2col: Chellapilla, Puri, Simard 2006. Winograd: Lavin & Gray 2016, section 4. `explain` says what would run.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x = np.ones((1, 3, 5, 5), np.float32)
    >>> fastconv.conv2d(x, np.ones((8, 3, 3, 3), np.float32), padding="same", activation="relu").shape
    (1, 8, 5, 5)
    """
    where = "conv2d"
    x, w = as_array(where, "input", input), as_array(where, "weight", weight)
    check_layout(where, layout)
    check_rank(where, "input", x, (3, 4), _AXES[layout])
    check_rank(where, "weight", w, (4,), _WEIGHT_AXES[layout])
    result, compute = common_dtype(where, input=x, weight=w)
    batch = _batched(x)
    stride, padding, dilation = _hashable(stride), _hashable(padding), _hashable(dilation)
    pads = _resolve_mode(where, padding_mode, batch.shape, w.shape, stride, padding, dilation, layout)
    plan = _plan(
        where, "forward",
        batch.shape if pads is None else _padded_shape(batch.shape, pads, layout),
        w.shape, compute.name, stride, padding if pads is None else 0, dilation, groups, layout, bias is not None,
        _hashable(activation), residual is not None, _precision_of(precision),
        request_of(where, algorithm, backend, max_workspace), generation(),
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    shape = p.output_shape if x.ndim == 4 else p.output_shape[1:]
    b = _check_bias(where, bias, p.oc, compute)
    r = _check_residual(where, residual, shape, compute)
    if out is not None:
        check_out(where, out, shape, result, {"input": x, "weight": w, "bias": b, "residual": r})  # type: ignore[dict-item]
    if pads is not None:
        batch = _pad_image(batch, pads, padding_mode, layout)
    target = Output(out, shape, result, compute)
    plan(
        logical(contiguous(batch, compute), layout),
        logical_weight(cast(w, compute), layout),
        b,
        None if r is None else logical(_batched(r), layout),
        logical(_batched(target.array), layout),
    )
    return target.finish(out)


def _size4(where: str, name: str, size: Any) -> tuple[tuple[int, ...], bool]:
    """A shape of three or four sizes as four, and whether it had a batch axis."""
    sizes = tuple(check_int(where, name, s, 0) for s in size)
    if len(sizes) not in (3, 4):
        raise ValueError(f"{where}: {name} must have 3 or 4 axes, got {sizes}")
    return (sizes, True) if len(sizes) == 4 else ((1, *sizes), False)


def _check_grad(where: str, dy: np.ndarray, p: ConvProblem, batched: bool) -> None:
    shape = p.output_shape if batched else p.output_shape[1:]
    if dy.shape != shape:
        raise ValueError(f"{where}: grad_output has shape {dy.shape}, but the forward output ({p.text}) has {shape}")


def conv2d_input(
    input_size: Any,
    weight: Any,
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:
    """Gradient of `conv2d` with respect to its input: the adjoint of the forward map in x.

    Parameters
    ----------
    input_size : shape of the forward input, (mb, ic, ih, iw) or (mb, ih, iw, ic); without mb for one image
    weight, stride, padding, dilation, groups, layout, padding_mode : as in the forward call
    grad_output : array of the forward output's shape
    out : array of shape `input_size`, optional
    algorithm, backend, precision, max_workspace : as in `conv2d`

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`; also when grad_output does not have the shape of the forward output.

    Notes
    -----
    Stride 1 is a convolution of grad_output with the flipped filter; larger strides are one such convolution per
    residue class of the input cells, without inserted zeros.
    """
    where = "conv2d_input"
    dy, w = as_array(where, "grad_output", grad_output), as_array(where, "weight", weight)
    check_layout(where, layout)
    size, batched = _size4(where, "input_size", input_size)
    check_rank(where, "grad_output", dy, (4 if batched else 3,), _AXES[layout])
    check_rank(where, "weight", w, (4,), _WEIGHT_AXES[layout])
    result, compute = common_dtype(where, grad_output=dy, weight=w)
    stride, padding, dilation = _hashable(stride), _hashable(padding), _hashable(dilation)
    pads = _resolve_mode(where, padding_mode, size, w.shape, stride, padding, dilation, layout)
    plan = _plan(
        where, "backward_input", size if pads is None else _padded_shape(size, pads, layout), w.shape, compute.name,
        stride, padding if pads is None else 0, dilation, groups, layout, False, None, False,
        _precision_of(precision), request_of(where, algorithm, backend, max_workspace), generation(),
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    _check_grad(where, dy, p, batched)
    shape = size if batched else size[1:]
    if out is not None:
        check_out(where, out, shape, result, {"grad_output": dy, "weight": w})
    dyc = logical(_batched(contiguous(dy, compute)), layout)
    wl = logical_weight(cast(w, compute), layout)
    if pads is None:
        target = Output(out, shape, result, compute)
        plan(dyc, wl, None, None, logical(_batched(target.array), layout))
        return target.finish(out)
    padded = np.empty(p.input_shape, compute)
    plan(dyc, wl, None, None, logical(padded, layout))
    dx = _fold_image(padded, pads, padding_mode, layout).reshape(shape)
    if out is None:
        return np.ascontiguousarray(dx.astype(result, copy=False))
    out[...] = dx
    return out


def conv2d_weight(
    input: Any,
    weight_size: Any,
    grad_output: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:
    """Gradient of `conv2d` with respect to its weight, summed over the batch: the adjoint of the forward map in w.

    Parameters
    ----------
    input, stride, padding, dilation, groups, layout, padding_mode : as in the forward call
    weight_size : shape of the weight, (oc, ic / groups, kh, kw) or (kh, kw, ic / groups, oc)
    grad_output : array of the forward output's shape
    out : array of shape `weight_size`, optional
    algorithm, backend, precision, max_workspace : as in `conv2d`

    Returns
    -------
    ndarray of shape weight_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`; also when grad_output does not have the shape of the forward output.

    Notes
    -----
    Threads share the output channels and filter cells, never the pixels: the order of summation is fixed.
    """
    where = "conv2d_weight"
    x, dy = as_array(where, "input", input), as_array(where, "grad_output", grad_output)
    check_layout(where, layout)
    check_rank(where, "input", x, (3, 4), _AXES[layout])
    check_rank(where, "grad_output", dy, (x.ndim,), _AXES[layout])
    w_shape = tuple(check_int(where, "weight_size", s, 0) for s in weight_size)
    if len(w_shape) != 4:
        raise ValueError(f"{where}: weight_size must have 4 axes {_WEIGHT_AXES[layout]}, got {w_shape}")
    result, compute = common_dtype(where, input=x, grad_output=dy)
    batch = _batched(x)
    stride, padding, dilation = _hashable(stride), _hashable(padding), _hashable(dilation)
    pads = _resolve_mode(where, padding_mode, batch.shape, w_shape, stride, padding, dilation, layout)
    plan = _plan(
        where, "backward_weight", batch.shape if pads is None else _padded_shape(batch.shape, pads, layout), w_shape,
        compute.name, stride, padding if pads is None else 0, dilation, groups, layout, False, None, False,
        _precision_of(precision), request_of(where, algorithm, backend, max_workspace), generation(),
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    _check_grad(where, dy, p, x.ndim == 4)
    if out is not None:
        check_out(where, out, w_shape, result, {"input": x, "grad_output": dy})
    if pads is not None:
        batch = _pad_image(batch, pads, padding_mode, layout)
    target = Output(out, w_shape, result, compute)
    plan(
        logical(contiguous(batch, compute), layout),
        logical(_batched(contiguous(dy, compute)), layout),
        logical_weight(target.array, layout),
    )
    return target.finish(out)


# Rows of grad_output summed at once by the bias gradient: long inner loops for NumPy.
_BIAS_ROWS = 32


def _bias_gradient(dy: np.ndarray, layout: str, dtype: np.dtype) -> np.ndarray:
    """Sum over batch, height and width, in blocks so that the error stays small."""
    dy = _batched(dy)
    if layout == "NCHW":
        return dy.sum(axis=3, dtype=dtype).sum(axis=(0, 2), dtype=dtype)
    channels = dy.shape[3]
    flat = np.ascontiguousarray(dy, dtype).reshape(-1, channels)
    whole = flat.shape[0] - flat.shape[0] % _BIAS_ROWS
    total = flat[:whole].reshape(-1, _BIAS_ROWS * channels).sum(axis=0).reshape(_BIAS_ROWS, channels).sum(axis=0)
    return total + flat[whole:].sum(axis=0)  # type: ignore[no-any-return]


def conv2d_backward(
    grad_output: Any,
    input: Any,
    weight: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    output_mask: tuple[bool, bool, bool] = (True, True, True),
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of `conv2d` with respect to input, weight and bias, as one call.

    Parameters
    ----------
    grad_output : array of the forward output's shape
    input, weight, stride, padding, dilation, groups, layout, padding_mode : as in the forward call
    output_mask : which of the three gradients to compute
    algorithm, backend, precision, max_workspace : as in `conv2d`; a forced Winograd applies to the input gradient,
        the weight gradient then takes its default

    Returns
    -------
    (grad_input, grad_weight, grad_bias) : arrays of the shapes of input and weight and of shape (oc,), None where
        output_mask is False

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.
    """
    x, w = as_array("conv2d_backward", "input", input), as_array("conv2d_backward", "weight", weight)
    dy = as_array("conv2d_backward", "grad_output", grad_output)
    common: dict[str, Any] = {
        "layout": layout, "padding_mode": padding_mode, "backend": backend, "precision": precision,
        "max_workspace": max_workspace,
    }  # fmt: skip
    dx = dw = db = None
    if output_mask[0]:
        dx = conv2d_input(x.shape, w, dy, stride, padding, dilation, groups, algorithm=algorithm, **common)
    if output_mask[1]:
        forced = "auto" if algorithm.startswith("winograd") else algorithm
        dw = conv2d_weight(x, w.shape, dy, stride, padding, dilation, groups, algorithm=forced, **common)
    if output_mask[2]:
        result, compute = common_dtype("conv2d_backward", grad_output=dy, weight=w)
        db = _bias_gradient(dy, layout, compute).astype(result, copy=False)
    return dx, dw, db


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def _transpose_plan(
    dy_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: str, stride: Any, padding: Any, output_padding: Any,
    groups: Any, dilation: Any, layout: str, bias: bool, activation: Any, residual: bool, precision: Any,
    request: dispatch.Request, generation: tuple[int, int],
) -> dispatch.Plan:  # fmt: skip
    """The plan of the input gradient whose forward convolution has an output of shape `dy_shape`."""
    where = "conv_transpose2d"
    groups = check_int(where, "groups", groups, 1)
    mb, oc, oh, ow = _image(dy_shape, layout)
    w_out, icg, kh, kw = _filter(w_shape, layout)
    if w_out != oc:
        raise ValueError(
            f"{where}: weight {w_shape} expects {w_out} input channels, but input {dy_shape} has {oc} "
            f'(layout="{layout}"; the weight of a transposed convolution is that of the convolution it transposes)'
        )
    (sh, sw), (dh, dw) = check_pair(where, "stride", stride, 1), check_pair(where, "dilation", dilation, 1)
    if isinstance(padding, str):
        raise ValueError(f"{where}: padding must be given as numbers, got {padding!r}")
    top, bottom, left, right = resolve_padding(padding, (0, 0), (kh, kw), where=where)
    extra = check_pair(where, "output_padding", output_padding, 0)
    for axis, e, s, d in (("height", extra[0], sh, dh), ("width", extra[1], sw, dw)):
        if e >= max(s, d):
            raise ValueError(
                f"{where}: output_padding must be less than stride or dilation, got {e} with stride {s} and "
                f"dilation {d} on the {axis}"
            )
    sizes = []
    for axis, o, k, s, low, high, d, e in (
        ("height", oh, kh, sh, top, bottom, dh, extra[0]), ("width", ow, kw, sw, left, right, dw, extra[1]),
    ):  # fmt: skip
        size = (o - 1) * s - low - high + effective_filter(k, d) + e
        if o < 1 or size < 1:
            raise ValueError(
                f"{where}: the output's {axis} would be ({o} - 1) * stride {s} - padding {low} - {high} + (filter "
                f"{k} - 1) * dilation {d} + output_padding {e} + 1 = {size}"
            )
        sizes.append(size)
    ih, iw = sizes
    # the checks of a convolution of the padded size; then the paddings at the end that make its output oh x ow
    problem = conv_problem(
        where, pass_="backward_input", mb=mb, ic=icg * groups, ih=ih, iw=iw, oc=oc, kh=kh, kw=kw, stride=(sh, sw),
        padding=(top, max(bottom, kh * dh), left, max(right, kw * dw)), dilation=(dh, dw), groups=groups, dtype=dtype,
        layout=layout, bias=bias, activation=activation, residual=residual, precision=precision,
    )  # fmt: skip
    ph_r = (oh - 1) * sh + effective_filter(kh, dh) - ih - top
    pw_r = (ow - 1) * sw + effective_filter(kw, dw) - iw - left
    return dispatch.plan(replace(problem, oh=oh, ow=ow, ph_r=ph_r, pw_r=pw_r), request)


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    layout: str = "NCHW",
    activation: Any = None,
    residual: Any = None,
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:
    """Transposed convolution: the adjoint of the `conv2d` that has this weight, stride, padding and dilation.

    Parameters
    ----------
    input : array of shape (mb, in, h, w), or (mb, h, w, in) with layout="NHWC"; without mb for one image
    weight : array of shape (in, out / groups, kh, kw), or (kh, kw, out / groups, in) with layout="NHWC"
    bias : array of shape (out,), optional
    stride, dilation : int or pair, at least 1
    padding : int, pair, four values or pair of pairs: cells cut from each side of the output
    output_padding : int or pair: cells added at the bottom and right; less than stride or dilation
    groups, activation, residual, out, algorithm, backend, precision, max_workspace : as in `conv2d`

    Returns
    -------
    ndarray of shape (mb, out, oh, ow) or (mb, oh, ow, out),
        oh = (h - 1) * sh - top - bottom + (kh - 1) * dh + output_padding + 1

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.

    Notes
    -----
    No zeros are inserted: each residue class of the output is a convolution of its own.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.conv_transpose2d(np.ones((1, 4, 5, 5)), np.ones((4, 2, 2, 2)), stride=2).shape
    (1, 2, 10, 10)
    """
    where = "conv_transpose2d"
    x, w = as_array(where, "input", input), as_array(where, "weight", weight)
    check_layout(where, layout)
    check_rank(where, "input", x, (3, 4), _AXES[layout])
    check_rank(where, "weight", w, (4,), "(in_channels, out_channels / groups, height, width) or HWIO with NHWC")
    result, compute = common_dtype(where, input=x, weight=w)
    plan = _transpose_plan(
        _batched(x).shape, w.shape, compute.name, _hashable(stride), _hashable(padding), _hashable(output_padding),
        groups, _hashable(dilation), layout, bias is not None, _hashable(activation), residual is not None,
        _precision_of(precision), request_of(where, algorithm, backend, max_workspace), generation(),
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    shape = p.input_shape if x.ndim == 4 else p.input_shape[1:]
    b = _check_bias(where, bias, p.ic, compute)
    r = _check_residual(where, residual, shape, compute)
    if out is not None:
        check_out(where, out, shape, result, {"input": x, "weight": w, "bias": b, "residual": r})  # type: ignore[dict-item]
    target = Output(out, shape, result, compute)
    plan(
        logical(_batched(contiguous(x, compute)), layout),
        logical_weight(cast(w, compute), layout),
        b,
        None if r is None else logical(_batched(r), layout),
        logical(_batched(target.array), layout),
    )
    return target.finish(out)


# ---------------------------------------------------------------------------------------------------------------
# One dimension: the same kernels with ih = 1

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


# ---------------------------------------------------------------------------------------------------------------
# Without arrays: sizes, explanations, plans, tuning


def output_shape(
    input_shape: Any, weight_shape: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    layout: str = "NCHW",
) -> tuple[int, ...]:  # fmt: skip
    """Shape of `conv2d`'s output for these shapes, with all its checks; nothing is computed.

    Parameters
    ----------
    input_shape, weight_shape : shapes as `conv2d` takes arrays; input_shape with three or four sizes
    stride, padding, dilation, groups, layout : as in `conv2d`

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> from fastconv import output_shape
    >>> output_shape((64, 28, 28, 1), (3, 3, 1, 32), layout="NHWC")
    (64, 26, 26, 32)
    """
    problem, batched = _forward_problem("output_shape", input_shape, weight_shape, stride, padding, dilation, groups, layout)
    return problem.output_shape if batched else problem.output_shape[1:]


def _forward_problem(
    where: str, input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any,
    layout: str, **options: Any,
) -> tuple[ConvProblem, bool]:  # fmt: skip
    check_layout(where, layout)
    size, batched = _size4(where, "input_shape", input_shape)
    w_shape = tuple(check_int(where, "weight_shape", s, 1) for s in weight_shape)
    if len(w_shape) != 4:
        raise ValueError(f"{where}: weight_shape must have 4 axes {_WEIGHT_AXES[layout]}, got {w_shape}")
    groups = check_int(where, "groups", groups, 1)
    _check_channels(where, size, w_shape, groups, layout, "input_shape")
    mb, ic, ih, iw = _image(size, layout)
    oc, _, kh, kw = _filter(w_shape, layout)
    problem = conv_problem(
        where, mb=mb, ic=ic, ih=ih, iw=iw, oc=oc, kh=kh, kw=kw, stride=stride, padding=padding, dilation=dilation,
        groups=groups, layout=layout, **options,
    )  # fmt: skip
    return problem, batched


class Table(str):
    """Text that a prompt shows as lines."""

    __slots__ = ()
    __repr__ = str.__str__


def explain(
    input_shape: Any, weight_shape: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    layout: str = "NCHW", dtype: Any = "float32", pass_: str = "forward", algorithm: str = "auto",
    backend: str = "auto", precision: Any = "fast", max_workspace: int | None = None,
) -> Table:  # fmt: skip
    """A table of all kernels for this convolution: can it (or why not), predicted time, workspace, error bound.

    Parameters
    ----------
    input_shape, weight_shape : shapes (or arrays, of which only shape, dtype and flags are read)
    dtype : dtype of the computation, where shapes are given
    pass_ : "forward", "backward_input" or "backward_weight"
    others : as in `conv2d`

    Returns
    -------
    str that prints as a table; ">" marks the kernel that would run

    Examples
    --------
    >>> import fastconv
    >>> "conv2d_forward_im2col" in fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    True
    """
    notes = []
    dtype = np.dtype(dtype)
    if hasattr(input_shape, "dtype"):
        array = as_array("explain", "input", input_shape)
        dtype = common_dtype("explain", input=array)[1]
        if array.ndim in (3, 4) and contiguous(array, dtype) is not array:
            notes.append("the input is copied first: kernels take contiguous, aligned, native arrays of one dtype")
        input_shape = array.shape
    if hasattr(weight_shape, "shape"):
        weight_shape = weight_shape.shape
    if dtype.name not in ("float32", "float64", "int64"):
        notes.append(f"{dtype.name} is computed in another dtype and rounded once")
        dtype = common_dtype("explain", input=np.empty(0, dtype))[1]
    problem, _ = _forward_problem(
        "explain", input_shape, weight_shape, stride, padding, dilation, groups, layout, dtype=dtype.name,
        pass_=pass_, precision=_precision_of(precision),
    )  # fmt: skip
    return Table(dispatch.explain(problem, request_of("explain", algorithm, backend, max_workspace), tuple(notes)))


class ConvPlan:
    """A convolution made ready: shapes checked, kernel chosen, weights held. Made by `plan_conv2d`."""

    def __init__(self, plan: dispatch.Plan, weight: np.ndarray, bias: np.ndarray | None, arguments: tuple) -> None:
        self._plan = plan
        self._weight = weight
        self._bias = bias
        self._arguments = arguments
        self._dtype = np.dtype(plan.problem.dtype)

    @property
    def problem(self) -> ConvProblem:
        """What is computed."""
        return self._plan.problem  # type: ignore[return-value]

    @property
    def kernel(self) -> str:
        """Name of the kernel that runs."""
        return self._plan.kernel.name

    @property
    def workspace_nbytes(self) -> int:
        """Scratch memory of one call, in bytes."""
        return self._plan.workspace_nbytes()

    def __call__(self, input: Any, out: np.ndarray | None = None, residual: Any = None) -> np.ndarray:
        """The convolution of `input`, an array of exactly the planned shape and dtype, into `out` if given."""
        p = self.problem
        x = as_array("plan", "input", input)
        if x.shape != p.input_shape or x.dtype != self._dtype:
            raise ValueError(
                f"plan: input has shape {x.shape} and dtype {x.dtype}, the plan was made for {p.input_shape} "
                f"and {p.dtype}"
            )
        if p.residual != (residual is not None):
            raise ValueError(f"plan: the plan was made {'with' if p.residual else 'without'} a residual")
        r = _check_residual("plan", residual, p.output_shape, self._dtype)
        if out is not None:
            inputs = {"input": x, "weight": self._weight, "bias": self._bias, "residual": r}
            check_out("plan", out, p.output_shape, self._dtype, inputs)  # type: ignore[arg-type]
        target = Output(out, p.output_shape, self._dtype, self._dtype)
        self._plan(
            logical(contiguous(x, self._dtype), p.layout),
            logical_weight(self._weight, p.layout),
            self._bias,
            None if r is None else logical(r, p.layout),
            logical(target.array, p.layout),
        )
        return target.finish(out)

    def __repr__(self) -> str:
        return f"<ConvPlan {self.kernel} {self.problem} workspace={self.workspace_nbytes}>"

    def __reduce__(self) -> tuple:
        return _unpickle_plan, (self.problem.input_shape, self._weight, self._bias, *self._arguments)


def _unpickle_plan(input_shape: Any, weight: Any, bias: Any, *arguments: Any) -> ConvPlan:
    names = ("stride", "padding", "dilation", "groups", "layout", "activation", "residual", "algorithm", "backend",
             "precision", "max_workspace")  # fmt: skip
    return plan_conv2d(input_shape, weight, bias, **dict(zip(names, arguments)))


def plan_conv2d(
    input_shape: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, layout: str = "NCHW", activation: Any = None, residual: bool = False,
    algorithm: str = "auto", backend: str = "auto", precision: Any = "fast", max_workspace: int | None = None,
) -> ConvPlan:  # fmt: skip
    """Make a convolution ready for many calls on inputs of one shape.

    Parameters
    ----------
    input_shape : (mb, ic, ih, iw) or (mb, ih, iw, ic)
    weight, bias : arrays as in `conv2d`; copied, so later changes to them are not seen
    residual : bool, whether each call adds one
    others : as in `conv2d`

    Returns
    -------
    ConvPlan
        Call it as plan(x, out=None). It prints its kernel, has `workspace_nbytes`, and can be pickled (the kernel
        is chosen again where it is loaded).

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> plan = fastconv.plan_conv2d((1, 3, 8, 8), np.ones((4, 3, 3, 3), np.float32), padding=1)
    >>> plan(np.ones((1, 3, 8, 8), np.float32)).shape
    (1, 4, 8, 8)
    """
    where = "plan_conv2d"
    w = as_array(where, "weight", weight)
    check_layout(where, layout)
    check_rank(where, "weight", w, (4,), _WEIGHT_AXES[layout])
    _, compute = common_dtype(where, weight=w)
    size, batched = _size4(where, "input_shape", input_shape)
    if not batched:
        raise ValueError(f"{where}: input_shape must have 4 axes {_AXES[layout]}, got {tuple(input_shape)}")
    arguments = (
        _hashable(stride), _hashable(padding), _hashable(dilation), groups, layout, _hashable(activation),
        bool(residual), algorithm, backend, precision, max_workspace,
    )  # fmt: skip
    plan = _plan(
        where, "forward", size, w.shape, compute.name, *arguments[:5], bias is not None, arguments[5], bool(residual),
        _precision_of(precision), request_of(where, algorithm, backend, max_workspace), generation(),
    )  # fmt: skip
    b = _check_bias(where, bias, plan.problem.oc, compute)  # type: ignore[union-attr]
    return ConvPlan(plan, np.array(w, compute, order="C"), None if b is None else b.copy(), arguments)


def clear_cache() -> None:
    """Forget all plans and this thread's scratch memory; results do not change."""
    _plan.cache_clear()
    _transpose_plan.cache_clear()
    dispatch.clear_cache()


__all__ = [
    "ConvPlan", "clear_cache", "conv1d", "conv2d", "conv2d_backward",
    "conv2d_input", "conv2d_weight", "conv_transpose1d", "conv_transpose2d", "explain", "output_shape", "plan_conv2d",
    "resolve_padding",
]  # fmt: skip
