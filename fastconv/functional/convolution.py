"""conv2d, its gradients and conv_transpose2d: arrays -> ConvProblem -> Plan -> arrays."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from fastconv import dispatch
from fastconv.functional.arrays import (
    NAMES,
    as_array,
    cast,
    check_out,
    check_rank,
    common_dtype,
    contiguous,
    logical,
    logical_weight,
)
from fastconv.functional.device import device_of, gather, output
from fastconv.functional.intake import (
    batched4,
    check_bias,
    check_grad,
    check_residual,
    filter_sizes,
    hashable,
    image_array,
    image_sizes,
    problem_of,
    size4,
    weight_array,
    weight_shape_of,
    wishes,
)
from fastconv.functional.padding_modes import fold_image, pad_image, padded_shape, resolve_mode
from fastconv.functional.shortcuts import Shortcut
from fastconv.problem import (
    ConvProblem,
    NoKernelError,
    check_int,
    check_pair,
    conv_problem,
    effective_filter,
    resolve_padding,
)


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def conv_plan(
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
    device: str = "cpu",
) -> dispatch.Plan:
    """The plan of a forward pass or a gradient, by the shape of the forward pass's input."""
    problem = problem_of(
        where, x_shape, w_shape, groups, layout, pass_=pass_, stride=stride, padding=padding, dilation=dilation,
        dtype=dtype, bias=bias, activation=activation, residual=residual, precision=precision, device=device,
    )  # fmt: skip
    return dispatch.plan(problem, request)


_shortcut = Shortcut("conv2d")


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
    precision : "fast" (Winograd where the largest error to expect is up to 2e-5 of the largest output), "strict" (plain
        sums only, within 1e-6), a number: the largest error accepted, of any kernel (float64 sums below about 5e-7), or
        "tf32": 2e-3, with which a GPU may use its tensor cores
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
    y = _shortcut.call(
        input, weight, bias, stride, padding, dilation, groups, layout, padding_mode, activation, residual, out,
        algorithm, backend, precision, max_workspace,
    )  # fmt: skip
    if y is not None:
        return y
    where = "conv2d"
    x = image_array(where, "input", input, layout, device=True)
    w = weight_array(where, weight, layout, device=True)
    result, compute = common_dtype(where, input=x, weight=w)
    device = device_of(backend, x)
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    size = x.shape if x.ndim == 4 else (1, *x.shape)
    pads = resolve_mode(where, padding_mode, size, w.shape, stride, padding, dilation, layout, device)
    plan = conv_plan(
        where, "forward",
        size if pads is None else padded_shape(size, pads, layout),
        w.shape, NAMES[compute], stride, padding if pads is None else 0, dilation, groups, layout, bias is not None,
        hashable(activation), residual is not None, *wishes(where, algorithm, backend, precision, max_workspace),
        device,
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    shape = p.output_shape if x.ndim == 4 else p.output_shape[1:]
    b = check_bias(where, bias, p.oc, compute, device=True)
    r = check_residual(where, residual, shape, compute, device=True)
    if out is not None:
        check_out(where, out, shape, result, {"input": x, "weight": w, "bias": b, "residual": r})
    given = x
    x, w, b, r = gather(where, device, input=x, weight=w, bias=b, residual=r)
    batch = batched4(x)
    if pads is not None:
        batch = pad_image(batch, pads, padding_mode, layout)
    target = output(given, x, out, shape, result, compute)
    plan(
        logical(contiguous(batch, compute), layout),
        logical_weight(cast(w, compute), layout),
        b,
        None if r is None else logical(batched4(r), layout),
        logical(batched4(target.array), layout),
    )
    if padding_mode == "zeros":
        _shortcut.remember(
            plan, x.ndim, input, weight, bias, stride, padding, dilation, groups, layout, padding_mode, activation,
            residual, out, algorithm, backend, precision, max_workspace,
        )  # fmt: skip
    return target.finish(out)


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
    size, batched = size4(where, "input_size", input_size)
    dy = image_array(where, "grad_output", grad_output, layout, (4 if batched else 3,), device=True)
    w = weight_array(where, weight, layout, device=True)
    result, compute = common_dtype(where, grad_output=dy, weight=w)
    device = device_of(backend, dy)
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    pads = resolve_mode(where, padding_mode, size, w.shape, stride, padding, dilation, layout, device)
    plan = conv_plan(
        where, "backward_input", size if pads is None else padded_shape(size, pads, layout), w.shape, NAMES[compute],
        stride, padding if pads is None else 0, dilation, groups, layout, False, None, False,
        *wishes(where, algorithm, backend, precision, max_workspace), device,
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    check_grad(where, dy, p, batched)
    shape = size if batched else size[1:]
    if out is not None:
        check_out(where, out, shape, result, {"grad_output": dy, "weight": w})
    given = dy
    dy, w = gather(where, device, grad_output=dy, weight=w)
    dyc = logical(batched4(contiguous(dy, compute)), layout)
    wl = logical_weight(cast(w, compute), layout)
    if pads is None:
        target = output(given, dy, out, shape, result, compute)
        plan(dyc, wl, None, None, logical(batched4(target.array), layout))
        return target.finish(out)
    padded = np.empty(p.input_shape, compute)
    plan(dyc, wl, None, None, logical(padded, layout))
    dx = fold_image(padded, pads, padding_mode, layout).reshape(shape)
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
    x = image_array(where, "input", input, layout, device=True)
    dy = image_array(where, "grad_output", grad_output, layout, (x.ndim,), device=True)
    w_shape = weight_shape_of(where, "weight_size", weight_size, layout, 0)
    result, compute = common_dtype(where, input=x, grad_output=dy)
    device = device_of(backend, x)
    stride, padding, dilation = hashable(stride), hashable(padding), hashable(dilation)
    size = x.shape if x.ndim == 4 else (1, *x.shape)
    pads = resolve_mode(where, padding_mode, size, w_shape, stride, padding, dilation, layout, device)
    plan = conv_plan(
        where, "backward_weight", size if pads is None else padded_shape(size, pads, layout), w_shape,
        NAMES[compute], stride, padding if pads is None else 0, dilation, groups, layout, False, None, False,
        *wishes(where, algorithm, backend, precision, max_workspace), device,
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    check_grad(where, dy, p, x.ndim == 4)
    if out is not None:
        check_out(where, out, w_shape, result, {"input": x, "grad_output": dy})
    given = x
    x, dy = gather(where, device, input=x, grad_output=dy)
    batch = batched4(x)
    if pads is not None:
        batch = pad_image(batch, pads, padding_mode, layout)
    target = output(given, x, out, w_shape, result, compute)
    plan(
        logical(contiguous(batch, compute), layout),
        logical(batched4(contiguous(dy, compute)), layout),
        logical_weight(target.array, layout),
    )
    return target.finish(out)


# Rows of grad_output summed at once by the bias gradient: long inner loops for NumPy.
_BIAS_ROWS = 32


def _bias_gradient(dy: Any, layout: str, backend: str, result: np.dtype, compute: np.dtype) -> Any:
    """Sum over batch, height and width, in blocks so that the error stays small."""
    where, device = "conv2d_backward", device_of(backend, dy)
    if device == "cpu":
        return _sums(batched4(dy), layout, compute).astype(result, copy=False)
    (images,) = gather(where, device, grad_output=dy)
    images = logical(batched4(contiguous(images, compute)), layout)
    target = output(dy, images, None, (images.shape[1],), result, compute)
    dispatch.device_arrays().channel_sums(images, target.array)
    return target.finish(None)


def _sums(dy: np.ndarray, layout: str, dtype: np.dtype) -> np.ndarray:
    if layout == "NCHW":
        return dy.sum(axis=3, dtype=dtype).sum(axis=(0, 2), dtype=dtype)
    channels = dy.shape[3]
    flat = np.ascontiguousarray(dy, dtype).reshape(-1, channels)
    whole = flat.shape[0] - flat.shape[0] % _BIAS_ROWS
    total = flat[:whole].reshape(-1, _BIAS_ROWS * channels).sum(axis=0).reshape(_BIAS_ROWS, channels).sum(axis=0)
    return total + flat[whole:].sum(axis=0)


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
    algorithm, backend, precision, max_workspace : as in `conv2d`; where a forced Winograd has no weight gradient, that
        one takes its default

    Returns
    -------
    (grad_input, grad_weight, grad_bias) : arrays of the shapes of input and weight and of shape (oc,), None where
        output_mask is False

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`.
    """
    x, w, dy = (
        as_array("conv2d_backward", name, value, device=True)
        for name, value in (("input", input), ("weight", weight), ("grad_output", grad_output))
    )
    common: dict[str, Any] = {
        "layout": layout, "padding_mode": padding_mode, "backend": backend, "precision": precision,
        "max_workspace": max_workspace,
    }  # fmt: skip
    dx = dw = db = None
    if output_mask[0]:
        dx = conv2d_input(x.shape, w, dy, stride, padding, dilation, groups, algorithm=algorithm, **common)
    if output_mask[1]:
        arguments = (x, w.shape, dy, stride, padding, dilation, groups)
        try:
            dw = conv2d_weight(*arguments, algorithm=algorithm, **common)
        except NoKernelError:
            if not algorithm.startswith("winograd"):
                raise
            dw = conv2d_weight(*arguments, **common)
    if output_mask[2]:
        result, compute = common_dtype("conv2d_backward", grad_output=dy, weight=w)
        db = _bias_gradient(dy, layout, backend, result, compute)
    return dx, dw, db


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def _transpose_plan(
    dy_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: str, stride: Any, padding: Any, output_padding: Any,
    groups: Any, dilation: Any, layout: str, bias: bool, activation: Any, residual: bool, precision: Any,
    request: dispatch.Request, generation: tuple[int, int], device: str,
) -> dispatch.Plan:  # fmt: skip
    """The plan of the input gradient whose forward convolution has an output of shape `dy_shape`."""
    where = "conv_transpose2d"
    groups = check_int(where, "groups", groups, 1)
    mb, oc, oh, ow = image_sizes(dy_shape, layout)
    w_out, icg, kh, kw = filter_sizes(w_shape, layout)
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
        layout=layout, bias=bias, activation=activation, residual=residual, precision=precision, device=device,
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
    x = image_array(where, "input", input, layout, device=True)
    w = as_array(where, "weight", weight, device=True)
    check_rank(where, "weight", w, (4,), "(in_channels, out_channels / groups, height, width) or HWIO with NHWC")
    result, compute = common_dtype(where, input=x, weight=w)
    device = device_of(backend, x)
    plan = _transpose_plan(
        x.shape if x.ndim == 4 else (1, *x.shape), w.shape, NAMES[compute], hashable(stride), hashable(padding),
        hashable(output_padding), groups, hashable(dilation), layout, bias is not None, hashable(activation),
        residual is not None, *wishes(where, algorithm, backend, precision, max_workspace), device,
    )  # fmt: skip
    p: ConvProblem = plan.problem  # type: ignore[assignment]
    shape = p.input_shape if x.ndim == 4 else p.input_shape[1:]
    b = check_bias(where, bias, p.ic, compute, device=True)
    r = check_residual(where, residual, shape, compute, device=True)
    if out is not None:
        check_out(where, out, shape, result, {"input": x, "weight": w, "bias": b, "residual": r})
    given = x
    x, w, b, r = gather(where, device, input=x, weight=w, bias=b, residual=r)
    target = output(given, x, out, shape, result, compute)
    plan(
        logical(batched4(contiguous(x, compute)), layout),
        logical_weight(cast(w, compute), layout),
        b,
        None if r is None else logical(batched4(r), layout),
        logical(batched4(target.array), layout),
    )
    return target.finish(out)


def clear_cache() -> None:
    """Forget all plans and this thread's scratch memory; results do not change."""
    conv_plan.cache_clear()
    _transpose_plan.cache_clear()
    dispatch.clear_cache()
