"""Max, average, adaptive, power-average pooling and unpooling: arrays -> PoolProblem -> Plan -> arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastconv import dispatch
from fastconv.autotune import generation
from fastconv.functional.arrays import NAMES, as_array, check_out, common_dtype, contiguous, logical
from fastconv.functional.device import device_of, gather, output
from fastconv.functional.intake import batched4, check_grad, hashable, image_array, image_sizes, request_of, size4
from fastconv.functional.shortcuts import Shortcut
from fastconv.problem import PoolProblem, check_int, check_pair, pool_problem

_max_pool2d = Shortcut("max_pool2d")
_avg_pool2d = Shortcut("avg_pool2d")
_adaptive_avg_pool2d = Shortcut("adaptive_avg_pool2d")
_adaptive_max_pool2d = Shortcut("adaptive_max_pool2d")
_max_pool2d_backward = Shortcut("max_pool2d_backward")
_avg_pool2d_backward = Shortcut("avg_pool2d_backward")
_adaptive_max_pool2d_backward = Shortcut("adaptive_max_pool2d_backward")
_adaptive_avg_pool2d_backward = Shortcut("adaptive_avg_pool2d_backward")


@functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE, typed=True)
def _plan(
    where: str,
    op: str,
    pass_: str,
    shape: tuple[int, ...],
    dtype: str,
    layout: str,
    options: tuple[tuple[str, Any], ...],
    request: dispatch.Request,
    generation: tuple[int, int],
    device: str,
) -> dispatch.Plan:
    """The plan of a pooling, by the shape of the forward pass's input."""
    mb, c, ih, iw = image_sizes(shape, layout)
    problem = pool_problem(
        where, op, pass_=pass_, mb=mb, c=c, ih=ih, iw=iw, dtype=dtype, layout=layout, device=device,
        **dict(options),
    )
    return dispatch.plan(problem, request)


def _options(**values: Any) -> tuple[tuple[str, Any], ...]:
    return hashable(tuple(values.items()))


def _forward(
    where: str, op: str, input: Any, layout: str, out: Any, algorithm: str, backend: str,
    return_indices: bool = False, *, shortcut: tuple[Shortcut, tuple[Any, ...]] | None = None, **options: Any,
) -> Any:  # fmt: skip
    """Any forward pooling: checks, plan, arrays, kernel. shortcut: what serves such calls from now on."""
    x = image_array(where, "input", input, layout, device=True)
    result, compute = common_dtype(where, input=x)
    if compute.kind == "i" and "avg" in op:
        raise TypeError(f"{where}: input has dtype {x.dtype}; an average of integers is not one: convert it first")
    device = device_of(backend, x)
    plan = _plan(
        where, op, "forward", x.shape if x.ndim == 4 else (1, *x.shape), NAMES[compute], layout,
        _options(return_indices=return_indices, **options), request_of(where, algorithm, backend, None), generation(),
        device,
    )  # fmt: skip
    p: PoolProblem = plan.problem  # type: ignore[assignment]
    shape = p.output_shape if x.ndim == 4 else p.output_shape[1:]
    out_indices = None
    if return_indices and isinstance(out, tuple) and len(out) == 2:
        out, out_indices = out
        check_out(f"{where} (indices)", out_indices, shape, np.dtype(np.int64), {"input": x})
    if out is not None or out_indices is not None:
        check_out(where, out, shape, result, {"input": x, "indices": out_indices})
    given = x
    (x,) = gather(where, device, input=x)
    target = output(given, x, out, shape, result, compute)
    integers = np.dtype(np.int64)
    places = output(given, x, out_indices, shape, integers, integers) if return_indices else None
    plan(
        logical(batched4(contiguous(x, compute)), layout),
        logical(batched4(target.array), layout),
        None if places is None else logical(batched4(places.array), layout),
    )
    if shortcut is not None:
        shortcut[0].remember(plan, x.ndim, *shortcut[1])
    y = target.finish(out)
    return y if places is None else (y, places.finish(out_indices))


def _backward(
    where: str, op: str, grad_output: Any, input_size: Any, indices: Any, layout: str, out: np.ndarray | None,
    algorithm: str, backend: str, *, shortcut: tuple[Shortcut, tuple[Any, ...]], **options: Any,
) -> np.ndarray:  # fmt: skip
    """Any pooling gradient: checks, plan, arrays, kernel. shortcut: as in _forward."""
    dy = image_array(where, "grad_output", grad_output, layout, device=True)
    size, batched = size4(where, "input_size", input_size)
    result, compute = common_dtype(where, grad_output=dy)
    if compute.kind == "i" and "avg" in op:
        raise TypeError(f"{where}: grad_output has dtype {dy.dtype}; an average of integers is not one: convert it")
    device = device_of(backend, dy)
    plan = _plan(
        where, op, "backward", size, NAMES[compute], layout, _options(**options),
        request_of(where, algorithm, backend, None), generation(), device,
    )  # fmt: skip
    p: PoolProblem = plan.problem  # type: ignore[assignment]
    expected = p.output_shape if batched else p.output_shape[1:]
    check_grad(where, dy, p, batched)
    where_to = None
    if "max" in op:
        where_to = _check_indices(where, indices, expected)
        if isinstance(where_to, np.ndarray) and plan.kernel.algorithm != "direct":
            _check_range(where, where_to, p.ih * p.iw)
    shape = size if batched else size[1:]
    if out is not None:
        check_out(where, out, shape, result, {"grad_output": dy, "indices": where_to})
    given = dy
    dy, where_to = gather(where, device, grad_output=dy, indices=where_to)
    target = output(given, dy, out, shape, result, compute)
    try:
        plan(
            logical(batched4(contiguous(dy, compute)), layout),
            None if where_to is None else logical(batched4(where_to), layout),
            logical(batched4(target.array), layout),
        )
    except IndexError:  # the direct kernels look at each index when they use it
        _check_range(where, where_to, p.ih * p.iw)
        raise
    shortcut[0].remember(plan, dy.ndim, *shortcut[1])
    return target.finish(out)


def _check_indices(where: str, indices: Any, shape: tuple[int, ...]) -> Any:
    """Indices as contiguous int64."""
    array = as_array(where, "indices", indices, device=True)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where}: indices must be integers, got dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{where}: indices have shape {array.shape}, grad_output or input has {shape}")
    return contiguous(array, np.dtype(np.int64))


def _check_range(where: str, indices: np.ndarray, cells: int) -> None:
    """Each inside its plane: a kernel writes where they point."""
    if indices.size and (indices.min() < 0 or indices.max() >= cells):
        raise ValueError(
            f"{where}: indices must lie in [0, {cells}), the cells of a plane, got {indices.min()} to {indices.max()}"
        )


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False, *, layout: str = "NCHW", out: Any = None, algorithm: str = "auto",
    backend: str = "auto",
) -> Any:  # fmt: skip
    """Largest cell of each window of each channel.

    Parameters
    ----------
    input : array of shape (mb, c, ih, iw), or (mb, ih, iw, c) with layout="NHWC"; without mb for one image
    kernel_size, dilation : int or pair (height, width), at least 1
    stride : int or pair; None means kernel_size
    padding : any form `conv2d` takes, less than the window; padded cells never win
    ceil_mode : bool, round the output size up; the last window must start inside the input or its padding at the start
    return_indices : bool, also return where each maximum was
    out : array of the output's shape and dtype, optional; with return_indices also a pair of it and
        an int64 array
    algorithm, backend : as in `conv2d`

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c); with return_indices a pair of it and an int64 array of its
        shape, flat cells of the plane: row * iw + column. The first of equal maxima wins; a NaN wins over numbers.

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Arguments that do not fit, with the rule that failed.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> fastconv.max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    arguments = (
        input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out, algorithm, backend,
    )  # fmt: skip
    y = _max_pool2d.call(*arguments)
    if y is not None:
        return y
    return _forward(
        "max_pool2d", "max_pool2d", input, layout, out, algorithm, backend, bool(return_indices),
        kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
        shortcut=(_max_pool2d, arguments),
    )  # fmt: skip


def max_pool2d_backward(
    grad_output: Any, input_size: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, *, layout: str = "NCHW", out: np.ndarray | None = None,
    algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Gradient of `max_pool2d`: each grad_output is added to the input cell that its index names.

    Parameters
    ----------
    grad_output : array of the forward output's shape
    input_size : shape of the forward input, three or four sizes
    indices : int array of the forward output's shape, as `max_pool2d(..., return_indices=True)` gave it
    others : as in the forward call

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Shapes that do not fit, or an index outside its plane.
    """
    arguments = (
        grad_output, input_size, indices, kernel_size, stride, padding, dilation, ceil_mode, layout, out, algorithm,
        backend,
    )  # fmt: skip
    dx = _max_pool2d_backward.call(*arguments)
    if dx is not None:
        return dx
    return _backward(
        "max_pool2d_backward", "max_pool2d", grad_output, input_size, indices, layout, out, algorithm, backend,
        kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
        shortcut=(_max_pool2d_backward, arguments),
    )  # fmt: skip


def avg_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, layout: str = "NCHW",
    out: np.ndarray | None = None, algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Mean of each window of each channel.

    Parameters
    ----------
    input, kernel_size, stride, padding, ceil_mode, layout, out, algorithm, backend : as in `max_pool2d`
    count_include_pad : bool, whether padded cells (not those that ceil_mode adds) count in the divisor
    divisor_override : int, the divisor itself

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Arguments that do not fit; integer input.
    """
    arguments = (
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout, out, algorithm,
        backend,
    )  # fmt: skip
    y = _avg_pool2d.call(*arguments)
    if y is not None:
        return y
    return _forward(
        "avg_pool2d", "avg_pool2d", input, layout, out, algorithm, backend, kernel_size=kernel_size, stride=stride,
        padding=padding, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override, shortcut=(_avg_pool2d, arguments),
    )  # fmt: skip


def avg_pool2d_backward(
    grad_output: Any, input_size: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    layout: str = "NCHW", out: np.ndarray | None = None, algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Gradient of `avg_pool2d`: each grad_output, over its divisor, is added to every cell of its window.

    Parameters
    ----------
    grad_output : array of the forward output's shape
    input_size : shape of the forward input, three or four sizes
    others : as in the forward call

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Shapes that do not fit.
    """
    arguments = (
        grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout,
        out, algorithm, backend,
    )  # fmt: skip
    dx = _avg_pool2d_backward.call(*arguments)
    if dx is not None:
        return dx
    return _backward(
        "avg_pool2d_backward", "avg_pool2d", grad_output, input_size, None, layout, out, algorithm, backend,
        kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad), divisor_override=divisor_override,
        shortcut=(_avg_pool2d_backward, arguments),
    )  # fmt: skip


def _output_pair(where: str, output_size: Any, shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    """An int or a pair whose None entries keep the input's size."""
    pair = output_size if isinstance(output_size, (list, tuple)) else (output_size, output_size)
    if len(pair) != 2:
        raise ValueError(f"{where}: output_size must be an int or a pair (height, width), got {output_size!r}")
    _, _, ih, iw = image_sizes(shape, layout)
    h, w = (size if wanted is None else wanted for wanted, size in zip(pair, (ih, iw)))
    return check_pair(where, "output_size", (h, w), 1)


def adaptive_max_pool2d(
    input: Any, output_size: Any, return_indices: bool = False, *, layout: str = "NCHW",
    out: Any = None, algorithm: str = "auto", backend: str = "auto",
) -> Any:  # fmt: skip
    """Largest cell of each of oh x ow windows that cover the image: rows floor(i ih / oh) to ceil((i + 1) ih / oh).

    Parameters
    ----------
    input, return_indices, layout, out, algorithm, backend : as in `max_pool2d`
    output_size : int or pair (oh, ow); None in a pair keeps the input's size; 1 is global pooling

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c), with return_indices also its int64 indices

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Arguments that do not fit.
    """
    arguments = (input, output_size, return_indices, layout, out, algorithm, backend)
    y = _adaptive_max_pool2d.call(*arguments)
    if y is not None:
        return y
    where = "adaptive_max_pool2d"
    x = image_array(where, "input", input, layout, device=True)
    pair = _output_pair(where, output_size, batched4(x).shape, layout)
    return _forward(
        where, where, x, layout, out, algorithm, backend, bool(return_indices), output=pair,
        shortcut=(_adaptive_max_pool2d, arguments),
    )  # fmt: skip


def adaptive_max_pool2d_backward(
    grad_output: Any, input_size: Any, indices: Any, *, layout: str = "NCHW", out: np.ndarray | None = None,
    algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Gradient of `adaptive_max_pool2d`: each grad_output is added to the input cell that its index names.

    Parameters
    ----------
    grad_output, input_size, indices, layout, out, algorithm, backend : as in `max_pool2d_backward`

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Shapes that do not fit, or an index outside its plane.
    """
    arguments = (grad_output, input_size, indices, layout, out, algorithm, backend)
    dx = _adaptive_max_pool2d_backward.call(*arguments)
    if dx is not None:
        return dx
    where, op = "adaptive_max_pool2d_backward", "adaptive_max_pool2d"
    dy = image_array(where, "grad_output", grad_output, layout, device=True)
    pair = image_sizes(batched4(dy).shape, layout)[2:]
    return _backward(
        where, op, dy, input_size, indices, layout, out, algorithm, backend, output=pair,
        shortcut=(_adaptive_max_pool2d_backward, arguments),
    )  # fmt: skip


def adaptive_avg_pool2d(
    input: Any, output_size: Any, *, layout: str = "NCHW", out: np.ndarray | None = None, algorithm: str = "auto",
    backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Mean of each of oh x ow windows that cover the image: rows floor(i ih / oh) to ceil((i + 1) ih / oh).

    Parameters
    ----------
    input, layout, out, algorithm, backend : as in `max_pool2d`
    output_size : int or pair (oh, ow); None in a pair keeps the input's size; 1 is global pooling

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Arguments that do not fit; integer input.
    """
    where = "adaptive_avg_pool2d"
    arguments = (input, output_size, layout, out, algorithm, backend)
    y = _adaptive_avg_pool2d.call(*arguments)
    if y is not None:
        return y
    x = image_array(where, "input", input, layout, device=True)
    pair = _output_pair(where, output_size, batched4(x).shape, layout)
    return _forward(
        where, where, x, layout, out, algorithm, backend, output=pair, shortcut=(_adaptive_avg_pool2d, arguments)
    )


def adaptive_avg_pool2d_backward(
    grad_output: Any, input_size: Any, *, layout: str = "NCHW", out: np.ndarray | None = None,
    algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Gradient of `adaptive_avg_pool2d`: each grad_output over its window's size goes to every cell of the window.

    Parameters
    ----------
    grad_output, input_size, layout, out, algorithm, backend : as in `avg_pool2d_backward`

    Returns
    -------
    ndarray of shape input_size

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Shapes that do not fit.
    """
    arguments = (grad_output, input_size, layout, out, algorithm, backend)
    dx = _adaptive_avg_pool2d_backward.call(*arguments)
    if dx is not None:
        return dx
    where = "adaptive_avg_pool2d_backward"
    dy = image_array(where, "grad_output", grad_output, layout, device=True)
    pair = image_sizes(batched4(dy).shape, layout)[2:]
    return _backward(
        where, "adaptive_avg_pool2d", dy, input_size, None, layout, out, algorithm, backend, output=pair,
        shortcut=(_adaptive_avg_pool2d_backward, arguments),
    )  # fmt: skip


def lp_pool2d(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False, *,
    layout: str = "NCHW", algorithm: str = "auto", backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Power-average pooling: (sum over the window of |x|^p)^(1/p), the sum taken by `avg_pool2d`.

    Parameters
    ----------
    input, kernel_size, stride, ceil_mode, layout, algorithm, backend : as in `avg_pool2d`
    norm_type : float p > 0

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, NoKernelError
        Arguments that do not fit; p that is not positive.

    Notes
    -----
    As in ONNX LpPool. PyTorch raises x itself to p and loses the sign only for even p.
    """
    where = "lp_pool2d"
    p = float(norm_type)
    if not p > 0:
        raise ValueError(f"{where}: norm_type must be positive, got {norm_type!r}")
    x = image_array(where, "input", input, layout)
    total = avg_pool2d(
        np.abs(x) ** x.dtype.type(p) if x.dtype.kind == "f" else np.abs(x).astype(np.float64) ** p,
        kernel_size, stride, 0, ceil_mode, divisor_override=1, layout=layout, algorithm=algorithm, backend=backend,
    )  # fmt: skip
    return total ** total.dtype.type(1 / p)


def max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None, *,
    layout: str = "NCHW", out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Put each value where `max_pool2d(..., return_indices=True)` found it; all other cells are zero.

    Parameters
    ----------
    input : array of shape (mb, c, h, w) or (mb, h, w, c); without mb for one image
    indices : int array of input's shape, flat cells of the output plane
    kernel_size, stride, padding : as in the pooling; they give the output's size where output_size is None:
        (h - 1) * stride - 2 * padding + kernel_size
    output_size : (oh, ow), or a whole shape of which height and width are read

    Returns
    -------
    ndarray of shape (mb, c, oh, ow) or (mb, oh, ow, c). Where indices repeat, the last value in row-major order stays.

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, or an index outside its plane.
    """
    where = "max_unpool2d"
    x = image_array(where, "input", input, layout)
    batch = batched4(x)
    mb, c, h, w = image_sizes(batch.shape, layout)
    kh, kw = check_pair(where, "kernel_size", kernel_size, 1)
    sh, sw = check_pair(where, "stride", (kh, kw) if stride is None else stride, 1)
    ph, pw = check_pair(where, "padding", padding, 0)
    oh, ow = (h - 1) * sh - 2 * ph + kh, (w - 1) * sw - 2 * pw + kw
    if output_size is not None:
        sizes = tuple(check_int(where, "output_size", s, 1) for s in output_size)
        if len(sizes) not in (2, x.ndim):
            raise ValueError(f"{where}: output_size must be (height, width) or a whole shape, got {sizes}")
        oh, ow = sizes if len(sizes) == 2 else image_sizes((1,) * (4 - len(sizes)) + sizes, layout)[2:]
    if oh < 1 or ow < 1:
        raise ValueError(f"{where}: the output would be {oh} x {ow}")
    checked = _check_indices(where, indices, x.shape)
    _check_range(where, checked, oh * ow)
    places = logical(batched4(checked), layout).reshape(mb * c, -1)
    shape4 = (mb, c, oh, ow) if layout == "NCHW" else (mb, oh, ow, c)
    shape = shape4 if x.ndim == 4 else shape4[1:]
    if out is not None:
        check_out(where, out, shape, x.dtype, {"input": x, "indices": places})
    planes = np.zeros((mb * c, oh * ow), x.dtype.newbyteorder("="))
    np.put_along_axis(planes, places, logical(batch, layout).reshape(mb * c, -1), axis=1)
    y = planes.reshape(mb, c, oh, ow)
    y = (y if layout == "NCHW" else y.transpose(0, 2, 3, 1)).reshape(shape)
    if out is None:
        return np.ascontiguousarray(y)
    out[...] = y
    return out
