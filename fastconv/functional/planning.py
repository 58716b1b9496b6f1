"""Without a call: output_shape, explain, and plan_conv2d, a convolution made ready for many calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import dispatch
from fastconv.functional.arrays import (
    NAMES,
    Output,
    as_array,
    check_out,
    common_dtype,
    contiguous,
    logical,
    logical_weight,
)
from fastconv.functional.convolution import conv_plan
from fastconv.functional.device import COPIED
from fastconv.functional.intake import (
    AXES,
    check_bias,
    check_residual,
    forward_problem,
    hashable,
    precision_of,
    request_of,
    size4,
    weight_array,
    wishes,
)
from fastconv.functional.shortcuts import nothing
from fastconv.problem import ConvPoolProblem, ConvProblem, NoKernelError, check_layout, parse_problem


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
    where = "output_shape"
    problem, batched = forward_problem(where, input_shape, weight_shape, stride, padding, dilation, groups, layout)
    return problem.output_shape if batched else problem.output_shape[1:]


class Table(str):
    """Text that a prompt shows as lines; `kernel` is the name of the one that would run, or None."""

    kernel: str | None
    __repr__ = str.__str__

    @classmethod
    def of(cls, problem: Any, request: dispatch.Request, notes: tuple[str, ...] = ()) -> Table:
        table = cls(dispatch.explain(problem, request, notes))
        try:
            table.kernel = dispatch.choose(problem, request).name
        except NoKernelError:
            table.kernel = None
        return table


def explain(
    input_shape: Any, weight_shape: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, op: str = "conv2d", layout: str = "NCHW", dtype: Any = "float32", pass_: str = "forward",
    algorithm: str = "auto", backend: str = "auto", precision: Any = "fast", max_workspace: int | None = None,
) -> Table:  # fmt: skip
    """A table of all kernels for this convolution: can it (or why not), predicted time, workspace, expected error.

    Parameters
    ----------
    input_shape, weight_shape : shapes (or arrays, of which only shape, dtype and flags are read); or one text form
        such as "mb1ic64ih56oc64kh3ph1", which also holds stride, padding, dilation and groups
    op : "conv2d" or "conv2d_relu_max_pool2d"; with a text form also "max_pool2d", "avg_pool2d", "adaptive_max_pool2d"
        or "adaptive_avg_pool2d"
    dtype : dtype of the computation, where shapes are given
    pass_ : "forward", "backward_input" or "backward_weight" (pools: "forward" or "backward")
    others : as in `conv2d`

    Returns
    -------
    str that prints as a table; ">" marks the kernel that would run, its name is the attribute `kernel` (None: there
        is none)

    Examples
    --------
    >>> import fastconv
    >>> "conv2d_forward_im2col" in fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    True
    """
    notes = []
    request = request_of("explain", algorithm, backend, max_workspace)
    dtype = np.dtype(dtype)
    device = "cuda" if request.backend == "cuda" else "cpu"
    if device == "cuda":
        notes.append(COPIED)
    if isinstance(input_shape, str):
        options = {"precision": precision_of(precision)} if op.startswith("conv2d") else {}
        parsed = parse_problem(input_shape, op, pass_=pass_, dtype=dtype.name, layout=layout, device=device, **options)
        return Table.of(parsed, request, tuple(notes))
    if weight_shape is None or not op.startswith("conv2d"):
        raise ValueError("explain: give input_shape and weight_shape of a conv2d, or one text form of a problem")
    if hasattr(input_shape, "dtype"):
        array = as_array("explain", "input", input_shape, device=True)
        dtype = common_dtype("explain", input=array)[1]
        if not isinstance(array, np.ndarray):
            device, notes = "cuda", []
        if isinstance(array, np.ndarray) and array.ndim in (3, 4) and contiguous(array, dtype) is not array:
            notes.append("the input is copied first: kernels take contiguous, aligned, native arrays of one dtype")
        input_shape = array.shape
    if hasattr(weight_shape, "shape"):
        weight_shape = weight_shape.shape
    if dtype.name not in ("float32", "float64", "int64"):
        notes.append(f"{dtype.name} is computed in another dtype and rounded once")
        dtype = common_dtype("explain", input=np.empty(0, dtype))[1]
    problem, _ = forward_problem(
        "explain", input_shape, weight_shape, stride, padding, dilation, groups, layout, dtype=dtype.name,
        pass_=pass_, precision=precision_of(precision), device=device,
    )  # fmt: skip
    if op == ConvPoolProblem.op:
        problem = ConvPoolProblem.of(problem)
    return Table.of(problem, request, tuple(notes))


class ConvPlan:
    """A convolution made ready: shapes checked, kernel chosen, weights held and packed. Made by `plan_conv2d`."""

    def __init__(self, plan: dispatch.Plan, weight: np.ndarray, bias: np.ndarray | None, arguments: tuple) -> None:
        self._plan = plan
        self._weight = weight
        self._bias = bias
        self._arguments = arguments
        self._dtype = np.dtype(plan.problem.dtype)
        self._packed = plan.pack(logical_weight(weight, plan.problem.layout))
        self._shortcut: Any = plan.shortcut(4, weight, bias, self._packed) or nothing

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
        return self._plan.workspace_nbytes(packed=self._packed)

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the weights in the kernel's own order, held besides the plain ones; 0 where it reads those."""
        return 0 if self._packed is None else self._packed.nbytes

    def _ready(self) -> Any:
        """The packed weights, packed again if the instruction set in use is no longer the one they were packed for."""
        packed = self._packed
        if packed is not None and not packed.usable():
            packed = self._packed = self._plan.pack(logical_weight(self._weight, self.problem.layout))
        return packed

    def __call__(self, input: Any, out: np.ndarray | None = None, residual: Any = None) -> np.ndarray:
        """The convolution of `input`, an array of exactly the planned shape and dtype, into `out` if given."""
        y = self._shortcut(input, out, residual)
        if y is not None:
            return y
        p = self.problem
        x = as_array("plan", "input", input)  # of the host: plans hold their weights there
        if x.shape != p.input_shape or x.dtype != self._dtype:
            raise ValueError(
                f"plan: input has shape {x.shape} and dtype {x.dtype}, the plan was made for {p.input_shape} "
                f"and {p.dtype}"
            )
        if p.residual != (residual is not None):
            raise ValueError(f"plan: the plan was made {'with' if p.residual else 'without'} a residual")
        r = check_residual("plan", residual, p.output_shape, self._dtype)
        if out is not None:
            inputs = {"input": x, "weight": self._weight, "bias": self._bias, "residual": r}
            check_out("plan", out, p.output_shape, self._dtype, inputs)
        target = Output(out, p.output_shape, self._dtype, self._dtype)
        self._plan(
            logical(contiguous(x, self._dtype), p.layout),
            logical_weight(self._weight, p.layout),
            self._bias,
            None if r is None else logical(r, p.layout),
            logical(target.array, p.layout),
            packed=self._ready(),
        )
        if self._shortcut is nothing or self._shortcut.stale():
            self._shortcut = self._plan.shortcut(4, self._weight, self._bias, self._packed) or nothing
        return target.finish(out)

    def __repr__(self) -> str:
        return f"<ConvPlan {self.kernel} {self.problem} workspace={self.workspace_nbytes} packed={self.packed_nbytes}>"

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
        Call it as plan(x, out=None). It prints its kernel, has `workspace_nbytes` and `packed_nbytes` (Winograd's
        packed weights are 1.8 to 4 times as large as the plain ones), and can be pickled (the kernel is chosen and
        the weights are packed again where it is loaded).

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
    check_layout(where, layout)
    w = weight_array(where, weight, layout)
    _, compute = common_dtype(where, weight=w)
    size, batched = size4(where, "input_shape", input_shape)
    if not batched:
        raise ValueError(f"{where}: input_shape must have 4 axes {AXES[layout]}, got {tuple(input_shape)}")
    arguments = (
        hashable(stride), hashable(padding), hashable(dilation), groups, layout, hashable(activation),
        bool(residual), algorithm, backend, precision, max_workspace,
    )  # fmt: skip
    plan = conv_plan(
        where, "forward", size, w.shape, NAMES[compute], *arguments[:5], bias is not None, arguments[5], bool(residual),
        *wishes(where, algorithm, backend, precision, max_workspace, packed=True),
    )  # fmt: skip
    b = check_bias(where, bias, plan.problem.oc, compute)  # type: ignore[union-attr]
    return ConvPlan(plan, np.array(w, compute, order="C"), None if b is None else b.copy(), arguments)
