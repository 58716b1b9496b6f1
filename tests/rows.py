"""Runs a row of the table on a problem: operands, guard bands, junk in output and workspace, the cached reference."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fastconv import dispatch, host, reference
from fastconv.problem import TF32_ERROR, ConvPoolProblem, ConvProblem, PoolProblem
from fastconv.registry import KERNELS, Kernel
from tests import cases, compare

Problem = ConvProblem | PoolProblem
Array = np.ndarray

# Bytes around every array a kernel sees; a vector store past the end stays inside.
GUARD_BYTES = 256
# Every byte 0xFF is a NaN in floats and -1 in integers; every byte 0x7B is 1e36 in floats, a huge integer.
NAN_JUNK, FINITE_JUNK = 0xFF, 0x7B
GUARD_BYTE = 0xFF

# Rows of this algorithm are loops of their own (no micro-kernel): the instruction set does not reach them.
ISA_FREE = ("naive", "reference")


# ---------------------------------------------------------------------------------------------------------------
# Which rows, on which instruction sets


needs_cython = pytest.mark.skipif(
    host.backend_fault("cython") is not None, reason="the compiled extension is not here"
)


def fault(kernel: Kernel) -> str | None:
    """Why this row cannot run on this machine at all, or None."""
    reason = host.backend_fault(kernel.backend)
    return f"{kernel.name}: {reason}" if reason else None


def isas_of(kernel: Kernel) -> tuple[str | None, ...]:
    """The instruction sets a row is tested on: all the host has, or None where it does not matter."""
    if kernel.backend != "cython" or kernel.algorithm in ISA_FREE or not host.isas():
        return (None,)
    return host.isas()


def where_arrays_live(kernel: Kernel, problem: Problem) -> Problem:
    """The problem on a GPU for a row that runs there; with the error that tensor cores make for one that uses them."""
    if kernel.backend != "cuda":
        return problem
    options = {"precision": TF32_ERROR} if "tf32" in kernel.name else {}
    return replace(problem, device="cuda", **options)


def rows(
    *, op: str | None = None, pass_: str | None = None, where: Callable[[Kernel], bool] | None = None
) -> list[Any]:
    """pytest parameters (kernel, isa); a missing backend is one skip with its reason."""
    found = []
    for kernel in KERNELS:
        if (op and kernel.op != op) or (pass_ and kernel.pass_ != pass_) or (where and not where(kernel)):
            continue
        reason = fault(kernel)
        if reason is not None:
            found.append(pytest.param(kernel, None, id=kernel.name, marks=pytest.mark.skip(reason=reason)))
            continue
        for isa in isas_of(kernel):
            found.append(pytest.param(kernel, isa, id=f"{kernel.name}-{isa}" if isa else kernel.name))
    return found


def rows_and_problems(
    problems: Callable[[str, str], Any] = cases.problems, where: Callable[[Kernel, Any], bool] | None = None
) -> list[Any]:
    """pytest parameters (kernel, isa, problem) for every problem that the row does not refuse."""
    found = []
    for row in rows():
        kernel, isa = row.values
        if row.marks:
            found.append(pytest.param(kernel, isa, None, id=row.id, marks=row.marks))
            continue
        for problem in problems(kernel.op, kernel.pass_):
            problem = where_arrays_live(kernel, problem)
            if kernel.cannot(problem) is None and (where is None or where(kernel, problem)):
                found.append(pytest.param(kernel, isa, problem, id=f"{row.id}-{cases.name(problem)}"))
    return found


class use_isa:
    """A context in which the C kernels use this instruction set (None: whichever is in force)."""

    def __init__(self, isa: str | None) -> None:
        self.isa = isa

    def __enter__(self) -> None:
        if self.isa is not None:
            self.before = host.isa()
            host.set_isa(self.isa)

    def __exit__(self, *exception: object) -> None:
        if self.isa is not None:
            host.set_isa(self.before)


# ---------------------------------------------------------------------------------------------------------------
# Operands


@dataclass(frozen=True)
class Operands:
    """Logical (NCHW, OIHW) arrays of a conv problem; x and y are always the shapes of the forward pass."""

    x: Array
    w: Array
    y: Array  # dy in the gradients
    bias: Array | None
    residual: Array | None


def seed_of(problem: Problem, kind: str) -> int:
    return zlib.crc32(f"{problem.text} {kind}".encode())


def _values(rng: np.random.Generator, shape: tuple[int, ...], kind: str, dtype: str) -> Array:
    if kind == "integers":
        return rng.integers(-3, 4, shape).astype(dtype)
    values = rng.standard_normal(shape)
    if kind == "positive":
        values = np.abs(values)
    return values.astype(dtype)


@functools.lru_cache(maxsize=4096)
def operands(problem: ConvProblem, kind: str) -> Operands:
    """Integers in [-3, 3], normal or positive values; the same for a problem in every layout, row and run."""
    rng = np.random.default_rng(seed_of(problem, kind))
    p = problem
    x = _values(rng, (p.mb, p.ic, p.ih, p.iw), kind, p.dtype)
    y = _values(rng, (p.mb, p.oc, p.oh, p.ow), kind, p.dtype)
    w = _values(rng, (p.oc, p.icg, p.kh, p.kw), kind, p.dtype)
    out = x.shape if p.pass_ == "backward_input" else y.shape
    bias = _values(rng, (out[1],), kind, p.dtype) if p.bias else None
    residual = _values(rng, out, kind, p.dtype) if p.residual else None
    return Operands(x, w, y, bias, residual)


def output_shape(p: Problem) -> tuple[int, int, int, int]:
    """Logical shape of what the pass computes."""
    if isinstance(p, PoolProblem):
        return (p.mb, p.c, p.ih, p.iw) if p.pass_ == "backward" else (p.mb, p.c, p.oh, p.ow)
    if p.pass_ == "forward":
        return p.mb, p.oc, p.oh, p.ow
    if p.pass_ == "backward_input":
        return p.mb, p.ic, p.ih, p.iw
    return p.oc, p.icg, p.kh, p.kw


def terms(p: ConvProblem) -> int:
    """The most products summed into one output element."""
    if p.pass_ == "forward":
        return p.icg * p.kh * p.kw
    return p.ocg * p.kh * p.kw if p.pass_ == "backward_input" else p.mb * p.oh * p.ow


# ---------------------------------------------------------------------------------------------------------------
# The reference, once for each problem


def by_reference(problem: ConvProblem, o: Operands) -> Array:
    """The reference row on these operands, in float64 (int64 for integers), whatever their dtype."""
    dtype = "int64" if problem.dtype == "int64" else "float64"
    p = replace(problem, dtype=dtype, layout="NCHW")
    out = np.zeros(output_shape(p), dtype)
    x, w, y = (a.astype(dtype) for a in (o.x, o.w, o.y))
    if p.pass_ == "forward":
        reference.conv2d_forward_reference__numpy(p, x, w, o.bias, o.residual, out, None, 1)
    elif p.pass_ == "backward_input":
        reference.conv2d_backward_input_reference__numpy(p, y, w, o.bias, o.residual, out, None, 1)
    else:
        reference.conv2d_backward_weight_reference__numpy(p, x, y, out, None, 1)
    return out


def _absolute(o: Operands) -> Operands:
    return Operands(*(None if a is None else np.abs(a) for a in (o.x, o.w, o.y, o.bias, o.residual)))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=4096)
def _expected(problem: ConvProblem, kind: str) -> tuple[Array, Array]:
    o = operands(problem, kind)
    return by_reference(problem, o), by_reference(replace(problem, activation=None), _absolute(o))


def expected(problem: ConvProblem, kind: str) -> tuple[Array, Array]:
    """(result in float64 or int64, magnitude: the same sums over absolute values)."""
    p = replace(problem, layout="NCHW")
    if kind == "integers" and p.dtype == "float32":
        p = replace(p, dtype="float64")  # the same integers: one result serves both
    return _expected(p, kind)


def winograd_magnitude(problem: ConvProblem, kind: str) -> Array:
    """For each output channel the largest cell of the full convolution of |x| with |w|, plus bias and residual; for
    weight gradients see below."""
    p = replace(problem, layout="NCHW", bias=False, residual=False, activation=None)
    o = _absolute(operands(problem, kind))
    if p.pass_ == "backward_weight":
        # of each pair of channels the largest cell of the full correlation of |x| with |dy|, over every tile's lags
        a, b = (5 if k > 1 else 0 for k in (p.kh, p.kw))
        lags = replace(p, dtype="float64", kh=p.kh + 2 * a, kw=p.kw + 2 * b, ph=p.ph + a, pw=p.pw + b, ph_r=p.ph_r + a,
                       pw_r=p.pw_r + b)  # fmt: skip
        full = np.zeros(output_shape(lags))
        x, y = o.x.astype(np.float64), o.y.astype(np.float64)
        reference.conv2d_backward_weight_reference__numpy(lags, x, y, full, None, 1)
        return full.max(axis=(2, 3), initial=0)[:, :, None, None]
    if p.pass_ == "forward":
        full = _full_forward(p, o)
    else:
        # the gradient in x is a convolution of dy with the filters turned around and their channels exchanged
        w = o.w.reshape(p.g, p.ocg, p.icg, p.kh, p.kw).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
        turned = replace(p, pass_="forward", ic=p.oc, oc=p.ic, ih=p.oh, iw=p.ow)
        full = _full_forward(turned, Operands(o.y, w.reshape(p.ic, p.ocg, p.kh, p.kw), o.x, None, None))
    largest = full.max(axis=(0, 2, 3), initial=0).reshape(1, -1, 1, 1)
    if o.bias is not None:
        largest = largest + o.bias.reshape(1, -1, 1, 1)
    return largest if o.residual is None else largest + o.residual


def _full_forward(p: ConvProblem, o: Operands) -> Array:
    a, b = p.kh - 1, p.kw - 1
    full = replace(p, dtype="float64", ph=a, pw=b, ph_r=a, pw_r=b, oh=p.ih + a, ow=p.iw + b)
    out = np.zeros(output_shape(full))
    x, w = o.x.astype(np.float64), o.w.astype(np.float64)
    reference.conv2d_forward_reference__numpy(full, x, w, None, None, out, None, 1)
    return out


# ---------------------------------------------------------------------------------------------------------------
# Arrays inside guard bands


class Guarded:
    """An array with a guard band on both sides of its memory, at a chosen distance from a 64-byte boundary."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, offset: int = 0, junk: int = NAN_JUNK) -> None:
        """`offset` in bytes; `junk` fills the array itself."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._memory = np.full(nbytes + 2 * GUARD_BYTES + 128, GUARD_BYTE, np.uint8)
        start = GUARD_BYTES + (-(self._memory.ctypes.data + GUARD_BYTES) % 64) + offset
        self._span = slice(start, start + nbytes)
        self._memory[self._span] = junk
        self.array = self._memory[self._span].view(dtype).reshape(shape)

    def intact(self) -> bool:
        """Whether nothing was written outside the array."""
        return bool(
            (self._memory[: self._span.start] == GUARD_BYTE).all()
            and (self._memory[self._span.stop :] == GUARD_BYTE).all()
        )


def _memory_axes(layout: str, weight: bool) -> tuple[int, ...]:
    """Logical axes in the order in which the layout stores them."""
    if layout == "NCHW":
        return 0, 1, 2, 3
    return (2, 3, 1, 0) if weight else (0, 2, 3, 1)


def guarded_like(
    shape: tuple[int, ...], dtype: Any, axes: tuple[int, ...], offset: int, junk: int
) -> tuple[Guarded, Array]:
    """A guarded array stored in the order `axes` of its logical axes, and its logical view."""
    guarded = Guarded(tuple(shape[a] for a in axes), dtype, offset, junk)
    return guarded, guarded.array.transpose(np.argsort(axes))


class Inputs:
    """Copies of the operands of a call inside guard bands of NaN, in the problem's layout."""

    def __init__(self, layout: str, offset: int) -> None:
        self._layout = layout
        self._offset = offset
        self._kept: list[tuple[str, Guarded, Array, Array]] = []

    def add(self, name: str, values: Array | None, weight_form: int | None = None) -> Array | None:
        """`weight_form` 0: the layout's own order; 1: the other's; 2: stored with rows and columns reversed."""
        if values is None:
            return None
        axes: tuple[int, ...] = tuple(range(values.ndim))
        flip = False
        if values.ndim == 4:
            layout = self._layout
            if weight_form == 1:
                layout = "NHWC" if layout == "NCHW" else "NCHW"
            flip = weight_form == 2
            axes = _memory_axes(layout, weight_form is not None)
        guarded, view = guarded_like(values.shape, values.dtype, axes, self._offset, NAN_JUNK)
        if flip:
            view = view[:, :, ::-1, ::-1]
        view[...] = values
        view.flags.writeable = False
        self._kept.append((name, guarded, view, values))
        return view

    def assert_untouched(self, what: str) -> None:
        for name, guarded, view, values in self._kept:
            assert guarded.intact(), f"{what}: wrote around {name}"
            compare.assert_same_bits(view, values, f"{what}: changed {name}")


@dataclass(frozen=True)
class Run:
    """How to call one row: the function with its lowered problem bound, and its workspace for a number of threads."""

    call: Callable[..., None]
    workspace: Callable[..., int]  # of a number of threads, and packed weights or None
    pack: Callable[[Array], Any] = lambda w: None


def _through_gpu(function: Callable[..., None]) -> Callable[..., None]:
    """A row called on copies of host arrays, whose outputs (what can be written) are copied back."""
    from fastconv._cuda.arrays import to_device

    def call(lowered: Any, *arguments: Any) -> None:
        moved, written = [], []
        for a in arguments:
            if not isinstance(a, np.ndarray):
                moved.append(a)
                continue
            order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
            whole = to_device(np.ascontiguousarray(a.transpose(order)))
            moved.append(whole.transpose(*np.argsort(order)))
            if a.flags.writeable:
                written.append((a.transpose(order), whole))
        function(lowered, *moved)
        for target, whole in written:
            target[...] = whole.owner.copy_to_host()

    return call


def run_of(kernel: Kernel, problem: Problem) -> Run:
    plan = dispatch.plan_for(problem, kernel)
    function, lowered = plan._run, plan._lowered
    if kernel.backend == "cuda" and not host.simulated():
        function = _through_gpu(function)
    return Run(
        lambda *arguments: function(lowered, *arguments),
        lambda n, packed=None: plan.workspace_nbytes(n, packed),
        plan.pack,
    )


@dataclass(frozen=True)
class Setting:
    """Everything about a call that must not change its result."""

    threads: int = 1
    junk: int = NAN_JUNK
    offset: int = 0  # of every array from a 64-byte boundary, in elements
    weight_form: int = 0
    packed: bool = False  # weights packed once, where the row does


def conv_call(run: Run, p: ConvProblem, o: Operands, how: Setting = Setting()) -> Array:
    """One call of a conv row on guarded copies; the result, after all guard bands and inputs were checked."""
    offset = how.offset * np.dtype(p.dtype).itemsize
    inputs = Inputs(p.layout, offset)
    out, view = guarded_like(
        output_shape(p), p.dtype, _memory_axes(p.layout, p.pass_ == "backward_weight"), offset, how.junk
    )
    w = None if p.pass_ == "backward_weight" else inputs.add("w", o.w, how.weight_form)
    packed = run.pack(w) if how.packed and w is not None else None
    need = run.workspace(how.threads) if packed is None else run.workspace(how.threads, packed)
    workspace = Guarded((need,), np.uint8, 0, how.junk) if need else None
    scratch = None if workspace is None else workspace.array
    if p.pass_ == "backward_weight":
        run.call(inputs.add("x", o.x), inputs.add("dy", o.y), view, scratch, how.threads)
    else:
        first = inputs.add("x", o.x) if p.pass_ == "forward" else inputs.add("dy", o.y)
        bias, residual = inputs.add("bias", o.bias), inputs.add("residual", o.residual)
        last = () if packed is None else (packed,)
        run.call(first, w, bias, residual, view, scratch, how.threads, *last)
    what = f"{p} {how}"
    assert out.intact(), f"{what}: wrote outside the output"
    assert workspace is None or workspace.intact(), f"{what}: wrote outside its {need} bytes of workspace"
    inputs.assert_untouched(what)
    return np.ascontiguousarray(view)


def _settings(p: Problem) -> tuple[Setting, Setting]:
    """Two unlike calls; what varies besides threads and junk is drawn from the problem's name."""
    draw = seed_of(p, "setting")
    other = Setting(2 + draw % 2, FINITE_JUNK, 1 + draw % 7, draw % 3, draw // 7 % 2 == 0)
    return Setting(), other


def conv_twice(run: Run, p: ConvProblem, o: Operands, exact: bool = False) -> Array:
    """Two calls that differ in threads, junk and alignment: the same bits; the result. Exact sums do not depend on
    the strides of the weight either; others may, by their order of summation."""
    a, b = _settings(p)
    if not exact:
        a = replace(a, weight_form=b.weight_form)
    y = conv_call(run, p, o, a)
    compare.assert_same_bits(conv_call(run, p, o, b), y, f"{p}: {b} against {a}")
    return y


def check_conv_exact(run: Run, p: ConvProblem, algorithm: str) -> None:
    """Rule 1 on small integers."""
    y64, magnitude = expected(p, "integers")
    if algorithm.startswith("winograd_f2x3"):
        compare.assert_sums_fit(winograd_magnitude(p, "integers"), p.dtype, algorithm)
    else:
        compare.assert_sums_fit(magnitude, p.dtype)
    compare.assert_exact(conv_twice(run, p, operands(p, "integers"), exact=True), y64, str(p))


def check_conv_rounding(run: Run, p: ConvProblem, algorithm: str, kind: str = "normal") -> None:
    """Rule 2 on random values."""
    y64, magnitude = expected(p, kind)
    if algorithm.startswith("winograd"):
        magnitude = winograd_magnitude(p, kind)
    y = conv_twice(run, p, operands(p, kind))
    compare.assert_rounding(y, y64, magnitude, algorithm, f"{p} {kind}")


# ---------------------------------------------------------------------------------------------------------------
# Convolutions pooled two by two


@dataclass(frozen=True)
class PooledOperands:
    """Logical arrays of a pooled convolution; y is its output, or in the gradients theirs."""

    x: Array
    w: Array
    bias: Array | None
    y: Array
    codes: Array


@functools.lru_cache(maxsize=1024)
def pooled_operands(p: ConvPoolProblem) -> PooledOperands:
    """Small integers; the codes are those of the forward pass."""
    rng = np.random.default_rng(seed_of(p, "pooled"))
    pooled = (p.mb, p.oc, p.oh // 2, p.ow // 2)
    x = _values(rng, (p.mb, p.ic, p.ih, p.iw), "integers", p.dtype)
    w = _values(rng, (p.oc, p.icg, p.kh, p.kw), "integers", p.dtype)
    bias = _values(rng, (p.oc,), "integers", p.dtype)
    y, codes = np.empty(pooled, p.dtype), np.empty(pooled, np.uint8)
    reference.conv2d_relu_max_pool2d_forward_reference__numpy(p, x, w, bias if p.bias else None, y, codes, None, 1)
    if p.pass_ != "forward":
        y = _values(rng, pooled, "integers", p.dtype)
    return PooledOperands(x, w, bias, y, codes)


def pooled_expected(p: ConvPoolProblem, o: PooledOperands) -> dict[str, Array]:
    """What the pass writes, by name, in float64 or int64."""
    dtype = np.int64 if p.dtype == "int64" else np.float64
    q = replace(p, dtype=np.dtype(dtype).name, layout="NCHW")
    x, w, y = (a.astype(dtype) for a in (o.x, o.w, o.y))
    run = getattr(reference, f"{p.op}_{p.pass_}_reference__numpy")
    bias, codes = o.bias.astype(dtype) if p.bias or p.pass_ == "backward_weight" else None, o.codes.copy()
    run(q, x, w, bias, y, codes, None, 1)
    names = {"forward": ("y", "codes"), "backward_weight": ("w", "bias"), "backward_input": ("x",)}[p.pass_]
    values = {"x": x, "w": w, "bias": bias, "y": y, "codes": codes}
    return {name: values[name] for name in names}


def pooled_call(
    run: Run, p: ConvPoolProblem, o: PooledOperands, written: tuple[str, ...], how: Setting
) -> dict[str, Array]:
    """One call on guarded copies: what it wrote, by name."""
    item = np.dtype(p.dtype).itemsize
    inputs, outputs = Inputs(p.layout, how.offset * item), {}
    arrays: dict[str, Array | None] = {}
    for name in ("x", "w", "bias", "y", "codes"):
        values: Array = getattr(o, name)
        if name in written:
            axes = (0,) if name == "bias" else _memory_axes(p.layout, name == "w")
            offset = how.offset * values.itemsize
            outputs[name] = guarded_like(values.shape, values.dtype, axes, offset, how.junk)
            arrays[name] = outputs[name][1]
        elif name == "bias" and not p.bias:
            arrays[name] = None
        else:
            arrays[name] = inputs.add(name, values, how.weight_form if name == "w" else None)
    need = run.workspace(how.threads)
    workspace = Guarded((need,), np.uint8, 0, how.junk) if need else None
    run.call(*arrays.values(), None if workspace is None else workspace.array, how.threads)
    what = f"{p} {how}"
    for name, (guarded, _) in outputs.items():
        assert guarded.intact(), f"{what}: wrote outside {name}"
    assert workspace is None or workspace.intact(), f"{what}: wrote outside its {need} bytes of workspace"
    inputs.assert_untouched(what)
    return {name: np.ascontiguousarray(view) for name, (_, view) in outputs.items()}


def check_winners(p: ConvPoolProblem, o: PooledOperands, codes: Array, y: Array) -> None:
    """Rounding decides between equal outputs: each code names one that is the maximum, or 0 where none is positive."""
    q = replace(p, dtype="float64", layout="NCHW")
    z = np.empty((p.mb, p.oc, p.oh, p.ow))
    x, w = o.x.astype(np.float64), o.w.astype(np.float64)
    reference.conv2d_forward_reference__numpy(q, x, w, o.bias if p.bias else None, None, z, None, 1)
    named = np.select([codes == code for code in range(4)], reference._quarters(z), 0.0)
    compare.assert_exact(np.maximum(named, 0), y, f"{p} codes")
    assert codes.max(initial=0) <= reference.DEAD


def check_pooled(run: Run, p: ConvPoolProblem, algorithm: str) -> None:
    """Rule 1, or rule 2 over the largest sum of each output channel; the same bits from two unlike calls."""
    o = pooled_operands(p)
    wanted = pooled_expected(p, o)
    a, b = _settings(p)
    found = pooled_call(run, p, o, tuple(wanted), a)
    again = pooled_call(run, p, o, tuple(wanted), replace(b, weight_form=a.weight_form))
    for name, values in found.items():
        compare.assert_same_bits(again[name], values, f"{p} {name}: {b} against {a}")
        if compare.is_exact(algorithm):
            compare.assert_exact(values, wanted[name], f"{p} {name}")
        elif name == "codes":
            check_winners(p, o, values, wanted["y"])
        else:  # far below one half
            compare.assert_exact(np.rint(values), wanted[name], f"{p} {name}")


# ---------------------------------------------------------------------------------------------------------------
# Pools


@functools.lru_cache(maxsize=1024)
def _pool_operands(text: str, op: str, dtype: str, shape: tuple[int, ...], kind: str) -> Array:
    return _values(np.random.default_rng(zlib.crc32(f"{text} {op} {kind}".encode())), shape, kind, dtype)


def pool_input(p: PoolProblem, kind: str = "integers") -> Array:
    return _pool_operands(p.text, p.op, p.dtype, (p.mb, p.c, p.ih, p.iw), kind)


def pool_gradient(p: PoolProblem, kind: str = "integers") -> Array:
    return _pool_operands(p.text, p.op + "_gradient", p.dtype, (p.mb, p.c, p.oh, p.ow), kind)


def pool_expected(p: PoolProblem, x: Array, dy: Array) -> tuple[Array, Array | None]:
    """(result in float64 or int64, int64 indices of a max pool)."""
    dtype = "int64" if p.dtype == "int64" else "float64"
    q = replace(p, dtype=dtype, layout="NCHW", return_indices=True, pass_="forward")
    shape = (p.mb, p.c, p.oh, p.ow)
    y, indices = np.zeros(shape, dtype), np.zeros(shape, np.int64)
    forward = getattr(reference, f"{p.op}_forward_reference__numpy")
    forward(q, x.astype(dtype), y, indices, None, 1)
    if p.pass_ == "forward":
        return y, indices if "max" in p.op else None
    dx = np.zeros((p.mb, p.c, p.ih, p.iw), dtype)
    backward = getattr(reference, f"{p.op}_backward_reference__numpy")
    backward(replace(q, pass_="backward"), dy.astype(dtype), indices if "max" in p.op else None, dx, None, 1)
    return dx, indices if "max" in p.op else None


def pool_call(
    run: Run, p: PoolProblem, x: Array, dy: Array, indices: Array | None, how: Setting
) -> tuple[Array, Array | None]:
    """One call of a pool row on guarded copies: (result, indices if the problem returns them)."""
    offset = how.offset * np.dtype(p.dtype).itemsize
    inputs = Inputs(p.layout, offset)
    axes = _memory_axes(p.layout, False)
    out, view = guarded_like(output_shape(p), p.dtype, axes, offset, how.junk)
    found = found_view = None
    need = run.workspace(how.threads)
    workspace = Guarded((need,), np.uint8, 0, how.junk) if need else None
    scratch = None if workspace is None else workspace.array
    if p.pass_ == "forward":
        if p.return_indices:
            found, found_view = guarded_like(output_shape(p), np.int64, axes, 8 * how.offset, how.junk)
        run.call(inputs.add("x", x), view, found_view, scratch, how.threads)
    else:
        run.call(inputs.add("dy", dy), inputs.add("indices", indices), view, scratch, how.threads)
    what = f"{p} {how}"
    assert out.intact(), f"{what}: wrote outside the output"
    assert found is None or found.intact(), f"{what}: wrote outside the indices"
    assert workspace is None or workspace.intact(), f"{what}: wrote outside its {need} bytes of workspace"
    inputs.assert_untouched(what)
    return np.ascontiguousarray(view), None if found_view is None else np.ascontiguousarray(found_view)


def check_pool(run: Run, p: PoolProblem, algorithm: str) -> None:
    """Rule 1 for maxima and their gradients, rule 2 for averages; the same bits from two unlike calls."""
    x, dy = pool_input(p), pool_gradient(p)
    wanted, indices = pool_expected(p, x, dy)
    given = indices if p.pass_ == "backward" else None
    a, b = _settings(p)
    y, found = pool_call(run, p, x, dy, given, a)
    again, found_again = pool_call(run, p, x, dy, given, b)
    compare.assert_same_bits(again, y, f"{p}: {b} against {a}")
    if "max" in p.op or p.divisor_override in (1, 2, 4, 8):
        compare.assert_exact(y, wanted, str(p))
    else:
        magnitude, _ = pool_expected(p, np.abs(x), np.abs(dy))
        compare.assert_rounding(y, wanted, magnitude, "pool" if algorithm == "direct" else algorithm, str(p))
    if found is not None:
        assert found_again is not None and indices is not None
        compare.assert_exact(found, indices, f"{p}: indices")
        compare.assert_same_bits(found_again, found, f"{p}: indices, {b} against {a}")


def check(run: Run, p: Problem, algorithm: str) -> None:
    """THE check of a row on one of the suite's problems: exact where the algorithm can be, else rounding."""
    if isinstance(p, PoolProblem):
        check_pool(run, p, algorithm)
    elif isinstance(p, ConvPoolProblem):
        check_pooled(run, p, algorithm)
    elif not compare.is_exact(algorithm):
        check_conv_rounding(run, p, algorithm, "integers")
    else:
        check_conv_exact(run, p, algorithm)
