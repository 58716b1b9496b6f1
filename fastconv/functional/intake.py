"""Arguments of the public functions made plain: axes, requests, shapes, bias and residual."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastconv import dispatch, settings
from fastconv.autotune import generation
from fastconv.functional.arrays import as_array, check_rank, contiguous
from fastconv.problem import ConvProblem, PoolProblem, check_int, check_layout, conv_problem

AXES = {"NCHW": "(batch, channels, height, width)", "NHWC": "(batch, height, width, channels)"}
WEIGHT_AXES = {
    "NCHW": "(out_channels, in_channels / groups, height, width)",
    "NHWC": "(height, width, in_channels / groups, out_channels)",
}


class _Typed(tuple[Any, ...]):
    """A tuple that equals only those whose elements have the same types: (True, 1.0) is no key for (1, 1)."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is _Typed and tuple.__eq__(self, other) and [*map(type, self)] == [*map(type, other)]

    __hash__ = tuple.__hash__


def hashable(value: Any) -> Any:
    """`value` as a key of the plan caches, lists as tuples; `typed=True` of a cache does not look into tuples."""
    if not isinstance(value, (list, tuple)):
        return value
    if all(type(v) is int for v in value):
        return tuple(value)
    return _Typed(hashable(v) for v in value)


# Made once: that takes longer than the rest of the intake.
_request = functools.lru_cache(maxsize=dispatch.PLAN_CACHE_SIZE)(dispatch.Request)


def request_of(
    where: str, algorithm: Any, backend: Any, max_workspace: Any, packed: bool = False
) -> dispatch.Request:
    """The caller's wishes, with the settings in force where an argument was left at its default."""
    now = settings.current()
    algorithm = now.algorithm if algorithm == "auto" else algorithm
    backend = now.backend if backend == "auto" else backend
    max_workspace = now.max_workspace if max_workspace is None else max_workspace
    dispatch.check_request(where, algorithm, backend, max_workspace)
    return _request(algorithm, backend, max_workspace, now.deterministic, packed)


def precision_of(precision: Any) -> Any:
    return settings.current().precision if precision == "fast" else precision


def wishes(
    where: str, algorithm: Any, backend: Any, precision: Any, max_workspace: Any, packed: bool = False
) -> tuple[Any, dispatch.Request, tuple[int, int]]:
    """What the cached plans of a convolution hang on beside the problem: precision, request, what was tuned since."""
    request = request_of(where, algorithm, backend, max_workspace, packed)
    return precision_of(precision), request, generation()


def image_array(
    where: str, name: str, value: Any, layout: str, ranks: tuple[int, ...] = (3, 4), device: bool = False
) -> Any:
    """An argument that is a batch of images, or one image; device: as in `as_array`."""
    array = as_array(where, name, value, device)
    check_layout(where, layout)
    check_rank(where, name, array, ranks, AXES[layout])
    return array


def weight_array(where: str, weight: Any, layout: str, device: bool = False) -> Any:
    """A weight of convolutions, of a layout that was checked; device: as in `as_array`."""
    array = as_array(where, "weight", weight, device)
    check_rank(where, "weight", array, (4,), WEIGHT_AXES[layout])
    return array


def image_sizes(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """(batch, channels, height, width) of an image array's shape."""
    a, b, c, d = shape
    return (a, b, c, d) if layout == "NCHW" else (a, d, b, c)


def filter_sizes(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """(oc, ic / g, kh, kw) of a weight's shape."""
    a, b, c, d = shape
    return (a, b, c, d) if layout == "NCHW" else (d, c, a, b)


def check_channels(
    where: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], groups: int, layout: str, name: str
) -> None:
    """The image's channels must be those that the weight expects; say so when the other layout would fit."""
    expected = filter_sizes(w_shape, layout)[1] * groups
    channels = image_sizes(x_shape, layout)[1]
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
    elif layout == "NHWC" and channels == w_shape[1] * groups:
        message += " With NHWC a weight is (kh, kw, ic / groups, oc): weight.transpose(2, 3, 1, 0) fits."
    raise ValueError(message)


def batched4(array: Any) -> Any:
    """With a batch axis whose stride is not 0 (as that of array[None] is): kernels tell runs of images by it."""
    return array if array.ndim == 4 else array.reshape(1, *array.shape)


def check_bias(where: str, bias: Any, channels: int, dtype: np.dtype, device: bool = False) -> Any:
    if bias is None:
        return None
    array = as_array(where, "bias", bias, device)
    if array.shape != (channels,):
        raise ValueError(f"{where}: bias must have shape ({channels},), one value a channel, got {array.shape}")
    if dtype.kind == "i" and array.dtype.kind == "f":
        raise TypeError(f"{where}: bias has dtype {array.dtype}, but input and weight are integers")
    return contiguous(array, dtype)


def check_residual(
    where: str, residual: Any, shape: tuple[int, ...], dtype: np.dtype, device: bool = False
) -> Any:
    if residual is None:
        return None
    array = as_array(where, "residual", residual, device)
    if array.shape != shape:
        raise ValueError(f"{where}: residual must have the output's shape {shape}, got {array.shape}")
    if dtype.kind == "i" and array.dtype.kind == "f":
        raise TypeError(f"{where}: residual has dtype {array.dtype}, but input and weight are integers")
    return contiguous(array, dtype)


def size4(where: str, name: str, size: Any) -> tuple[tuple[int, ...], bool]:
    """A shape of three or four sizes as four, and whether it had a batch axis."""
    if hasattr(size, "shape"):
        raise TypeError(f"{where}: {name} must be a shape, got an array of shape {size.shape}: pass its .shape")
    sizes = tuple(check_int(where, name, s, 0) for s in size)
    if len(sizes) not in (3, 4):
        raise ValueError(f"{where}: {name} must have 3 or 4 axes, got {sizes}")
    return (sizes, True) if len(sizes) == 4 else ((1, *sizes), False)


def weight_shape_of(where: str, name: str, size: Any, layout: str, least: int) -> tuple[int, ...]:
    """A weight's shape, of sizes of at least `least`."""
    sizes = tuple(check_int(where, name, s, least) for s in size)
    if len(sizes) != 4:
        raise ValueError(f"{where}: {name} must have 4 axes {WEIGHT_AXES[layout]}, got {sizes}")
    return sizes


def check_grad(where: str, dy: Any, p: ConvProblem | PoolProblem, batched: bool = True) -> None:
    shape = p.output_shape if batched else p.output_shape[1:]
    if dy.shape != shape:
        raise ValueError(f"{where}: grad_output has shape {dy.shape}, but the forward output ({p.text}) has {shape}")


def problem_of(
    where: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], groups: Any, layout: str, name: str = "input",
    **options: Any,
) -> ConvProblem:  # fmt: skip
    """The problem of arrays of these shapes; name: of the first, in messages; options: as in `conv_problem`."""
    check_layout(where, layout)
    groups = check_int(where, "groups", groups, 1)
    check_channels(where, x_shape, w_shape, groups, layout, name)
    mb, ic, ih, iw = image_sizes(x_shape, layout)
    oc, _, kh, kw = filter_sizes(w_shape, layout)
    return conv_problem(where, mb=mb, ic=ic, ih=ih, iw=iw, oc=oc, kh=kh, kw=kw, groups=groups, layout=layout, **options)


def forward_problem(
    where: str, input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any,
    layout: str, **options: Any,
) -> tuple[ConvProblem, bool]:  # fmt: skip
    check_layout(where, layout)
    size, batched = size4(where, "input_shape", input_shape)
    w_shape = weight_shape_of(where, "weight_shape", weight_shape, layout, 1)
    problem = problem_of(
        where, size, w_shape, groups, layout, "input_shape", stride=stride, padding=padding, dilation=dilation,
        **options,
    )  # fmt: skip
    return problem, batched
