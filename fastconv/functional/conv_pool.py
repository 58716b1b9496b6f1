"""Convolution, ReLU and 2x2 maximum pooling as one, and its gradients: arrays -> Problem -> Plan -> arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastconv import dispatch
from fastconv.functional.arrays import (
    NAMES,
    Output,
    as_array,
    cast,
    check_out,
    common_dtype,
    contiguous,
    logical,
    logical_weight,
)
from fastconv.functional.intake import (
    check_bias,
    check_grad,
    hashable,
    image_array,
    problem_of,
    size4,
    weight_array,
    weight_shape_of,
    wishes,
)
from fastconv.problem import ConvPoolProblem


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def _plan(
    where: str, pass_: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: str, stride: Any, padding: Any,
    dilation: Any, groups: Any, layout: str, bias: bool, precision: Any, request: dispatch.Request,
    generation: tuple[int, int],
) -> dispatch.Plan:  # fmt: skip
    """The plan of one pass, by the shapes of input and weight."""
    problem = problem_of(
        where, x_shape, w_shape, groups, layout, pass_=pass_, stride=stride, padding=padding, dilation=dilation,
        dtype=dtype, bias=bias, precision=precision,
    )  # fmt: skip
    if problem.oh < 2 or problem.ow < 2:
        raise ValueError(f"{where}: the convolution's output {problem.oh}x{problem.ow} has no 2x2 window")
    return dispatch.plan(ConvPoolProblem.of(problem), request)


def _check_codes(where: str, codes: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = as_array(where, "codes", codes)
    if array.dtype != np.uint8 or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"{where}: codes must be the C-contiguous uint8 array {shape} of the forward call, got {array.dtype} "
            f"{array.shape}"
        )
    return array


def conv2d_relu_max_pool2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`max_pool2d(conv2d(..., activation="relu"), 2)` in one pass that never stores the convolution's output.

    Parameters
    ----------
    input : array of shape (mb, ic, ih, iw), or (mb, ih, iw, ic) with layout="NHWC"
    weight, bias, stride, padding, dilation, groups, layout, algorithm, backend, precision, max_workspace :
        as in `conv2d`
    out : array of the result's shape, optional
    codes : C-contiguous uint8 array of the result's shape, optional

    Returns
    -------
    (y, codes) : arrays of shape (mb, oc, oh // 2, ow // 2) or (mb, oh // 2, ow // 2, oc). The code of an element says
        which output of its window is the maximum: 0 top left, 1 top right, 2 bottom left, 3 bottom right, the first
        of equal ones; 4 where no output is positive, so that no gradient passes. The gradients need it.

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d`; also for an output without a 2x2 window.

    Notes
    -----
    An odd last row or column of the convolution is left out, as by `max_pool2d`. Compiled kernels serve 3x3 filters at
    stride 1 in NHWC (`explain` tells more); anything else runs NumPy's reference, which `conv2d` and `max_pool2d` beat.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((2, 28, 28, 1), np.float32), np.ones((3, 3, 1, 32), np.float32)
    >>> y, codes = fastconv.conv2d_relu_max_pool2d(x, w, layout="NHWC")
    >>> y.shape, codes.dtype
    ((2, 13, 13, 32), dtype('uint8'))
    """
    where = "conv2d_relu_max_pool2d"
    x, w = image_array(where, "input", input, layout, (4,)), weight_array(where, weight, layout)
    result, compute = common_dtype(where, input=x, weight=w)
    plan = _plan(
        where, "forward", x.shape, w.shape, NAMES[compute], hashable(stride), hashable(padding), hashable(dilation),
        groups, layout, bias is not None, *wishes(where, algorithm, backend, precision, max_workspace),
    )  # fmt: skip
    p: ConvPoolProblem = plan.problem  # type: ignore[assignment]
    b = check_bias(where, bias, p.oc, compute)
    if out is not None:
        check_out(where, out, p.output_shape, result, {"input": x, "weight": w, "bias": b})
    held = np.empty(p.output_shape, np.uint8) if codes is None else _check_codes(where, codes, p.output_shape)
    if codes is not None and not held.flags.writeable:
        raise ValueError(f"{where}: codes is read-only")
    if codes is not None and any(a is not None and np.shares_memory(held, a) for a in (x, w, b, out)):
        raise ValueError(f"{where}: codes shares memory with another array")
    target = Output(out, p.output_shape, result, compute)
    plan(
        logical(contiguous(x, compute), layout),
        logical_weight(cast(w, compute), layout),
        b,
        logical(target.array, layout),
        logical(held, layout),
    )
    return target.finish(out), held


def conv2d_relu_max_pool2d_input(
    input_size: Any,
    weight: Any,
    grad_output: Any,
    codes: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> np.ndarray:
    """Gradient of `conv2d_relu_max_pool2d` with respect to its input.

    Parameters
    ----------
    input_size : shape of the forward input, (mb, ic, ih, iw) or (mb, ih, iw, ic)
    grad_output : array of the forward output's shape
    codes : as the forward call returned them
    weight, stride, padding, dilation, groups, layout : as in the forward call
    out : array of shape `input_size`, optional
    algorithm, backend, precision, max_workspace : as in `conv2d`

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d_input`; also for codes of another shape or type.
    """
    where = "conv2d_relu_max_pool2d_input"
    dy, w = image_array(where, "grad_output", grad_output, layout, (4,)), weight_array(where, weight, layout)
    size, _ = size4(where, "input_size", input_size)
    result, compute = common_dtype(where, grad_output=dy, weight=w)
    plan = _plan(
        where, "backward_input", size, w.shape, NAMES[compute], hashable(stride), hashable(padding),
        hashable(dilation), groups, layout, False, *wishes(where, algorithm, backend, precision, max_workspace),
    )  # fmt: skip
    p: ConvPoolProblem = plan.problem  # type: ignore[assignment]
    check_grad(where, dy, p)
    held = _check_codes(where, codes, p.output_shape)
    if out is not None:
        check_out(where, out, size, result, {"grad_output": dy, "weight": w})
    target = Output(out, size, result, compute)
    plan(
        logical(target.array, layout),
        logical_weight(cast(w, compute), layout),
        None,
        logical(contiguous(dy, compute), layout),
        logical(held, layout),
    )
    return target.finish(out)


def conv2d_relu_max_pool2d_weight(
    input: Any,
    weight_size: Any,
    grad_output: Any,
    codes: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
    out_bias: np.ndarray | None = None,
    algorithm: str = "auto",
    backend: str = "auto",
    precision: Any = "fast",
    max_workspace: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `conv2d_relu_max_pool2d` with respect to its weight and bias, summed over the batch.

    Parameters
    ----------
    input, stride, padding, dilation, groups, layout : as in the forward call
    weight_size : shape of the weight, (oc, ic / groups, kh, kw) or (kh, kw, ic / groups, oc)
    grad_output : array of the forward output's shape
    codes : as the forward call returned them
    out : array of shape `weight_size`, optional
    out_bias : C-contiguous array of shape (oc,), optional
    algorithm, backend, precision, max_workspace : as in `conv2d`

    Returns
    -------
    (grad_weight, grad_bias) : arrays of shapes weight_size and (oc,)

    Raises
    ------
    ValueError, TypeError, NoKernelError
        As `conv2d_weight`; also for codes of another shape or type.

    Notes
    -----
    The sum is over the winners of the windows. A NaN or Inf under one of the others may reach the result or not,
    unlike in `conv2d_weight`.
    """
    where = "conv2d_relu_max_pool2d_weight"
    x = image_array(where, "input", input, layout, (4,))
    dy = image_array(where, "grad_output", grad_output, layout, (4,))
    w_shape = weight_shape_of(where, "weight_size", weight_size, layout, 0)
    result, compute = common_dtype(where, input=x, grad_output=dy)
    plan = _plan(
        where, "backward_weight", x.shape, w_shape, NAMES[compute], hashable(stride), hashable(padding),
        hashable(dilation), groups, layout, False, *wishes(where, algorithm, backend, precision, max_workspace),
    )  # fmt: skip
    p: ConvPoolProblem = plan.problem  # type: ignore[assignment]
    check_grad(where, dy, p)
    held = _check_codes(where, codes, p.output_shape)
    for name, given, shape in (("out", out, w_shape), ("out_bias", out_bias, (p.oc,))):
        if given is not None:
            check_out(f"{where} ({name})", given, shape, result, {"input": x, "grad_output": dy})
    target, bias = Output(out, w_shape, result, compute), Output(out_bias, (p.oc,), result, compute)
    plan(
        logical(contiguous(x, compute), layout),
        logical_weight(target.array, layout),
        bias.array,
        logical(contiguous(dy, compute), layout),
        logical(held, layout),
    )
    return target.finish(out), bias.finish(out_bias)
