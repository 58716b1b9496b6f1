"""The choice of a kernel: verdicts(problem), plan(problem), explain(problem); one generator feeds all three."""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import autotune, host, settings, threads, warmed
from fastconv.loading import load
from fastconv.problem import ConvProblem, NoKernelError, PoolProblem
from fastconv.registry import KERNELS, PACKAGES, Kernel

Problem = ConvProblem | PoolProblem

# The largest error, as a share of the largest output, that the default precision accepts.
FAST_ERROR_LIMIT = 2e-5
# Plans kept; each is a few kilobytes, workspaces belong to the threads.
PLAN_CACHE_SIZE = 64
# Predicted time from which a call by the short way lets other Python threads run; asking for the GIL again can take
# longer than a smaller call.
RELEASE_SECONDS = 5e-6
# A thread keeps its workspace between calls up to this size.
WORKSPACE_KEPT_BYTES = 256 * 1024**2
ALIGNMENT = 64

ALGORITHMS = tuple(dict.fromkeys(name for k in KERNELS for name in (k.family, k.algorithm)))
# A name that is a row's own means that row, even where it is also the name of a family.
ROW_NAMES = frozenset(k.algorithm for k in KERNELS)
BACKENDS = tuple(PACKAGES)
# Where `lower` is found, when not in the backend's package.
_LOWERING = {"numpy": "fastconv.reference"}
# A Numba row compiles on its first use: beside compiled rows it takes part only where `warmup` has compiled it.
_BACKEND_ORDER = {"cython": 0, "cuda": 0, "numba": 1, "numpy": 2}


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller insists on; ability is never overruled, cost is."""

    algorithm: str = "auto"
    backend: str = "auto"
    max_workspace: int | None = None
    deterministic: bool = False
    # The weights are held and packed already: a kernel is chosen for the calls, not for the packing.
    packed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table and why it cannot run (`reason`), or what it would cost."""

    kernel: Kernel
    reason: str | None
    seconds: float
    workspace: int
    error: float
    warmed: bool = False  # a Numba row that is compiled already


def best(able: Iterable[Verdict]) -> Verdict:
    """The one that a plain call takes: the cheapest of the first backend, and of the warmed rows beside it."""
    found = list(able)
    first = min(_BACKEND_ORDER[v.kernel.backend] for v in found)
    return min((v for v in found if v.warmed or _BACKEND_ORDER[v.kernel.backend] == first), key=lambda v: v.seconds)


@functools.cache
def _module_missing(path: str) -> bool:
    return importlib.util.find_spec(path) is None


def _module_path(kernel: Kernel) -> str:
    return f"{PACKAGES[kernel.backend]}.{kernel.module}"


def _refusal(kernel: Kernel, problem: Problem, request: Request, count: int) -> str | None:
    """The first reason why this row cannot serve this request, or None."""
    names = (kernel.algorithm,) if request.algorithm in ROW_NAMES else ("auto", kernel.family)
    if request.algorithm not in names:
        return f'algorithm="{request.algorithm}" was asked for'
    if request.backend not in ("auto", kernel.backend):
        return f'backend="{request.backend}" was asked for'
    fault = kernel.wrong_device(problem) or host.backend_fault(kernel.backend)
    if fault is None and kernel.tensor:
        fault = host.tensor_fault()
    if fault is not None:
        return fault
    if _module_missing(_module_path(kernel)):
        return f"its module {_module_path(kernel)} is not installed"
    reason = kernel.cannot(problem)
    if reason is not None:
        return reason
    precision = problem.precision
    if precision == "strict" and not kernel.plain_sum:
        return 'precision="strict" allows only kernels that compute the plain sum'
    if isinstance(problem, ConvProblem) and (isinstance(precision, float) or not kernel.plain_sum):
        limit = precision if isinstance(precision, float) else FAST_ERROR_LIMIT
        if kernel.error(problem) > limit:
            return f"its error {kernel.error(problem):.1e} is over the accepted {limit:.1e}"
    if request.max_workspace is not None:
        need = kernel.workspace(problem, count)
        if need > request.max_workspace:
            return f"it needs {need} bytes of workspace, max_workspace is {request.max_workspace}"
    return None


def _is_warmed(kernel: Kernel, problem: Problem) -> bool:
    if kernel.backend != "numba":
        return False
    return warmed.holds(kernel.name, problem, load(PACKAGES["numba"]).source_hash)


def keep_warmed(done: Iterable[tuple[Kernel, Problem]]) -> bool:
    """Note on disk that these rows are compiled for such problems, from the next process on; False if they were not
    kept."""
    package = PACKAGES["numba"]
    folder = load(f"{package}.compile").folder()
    if folder is None:
        return False
    keys = {warmed.key(kernel.name, problem) for kernel, problem in done}
    try:
        warmed.remember(keys, load(package).source_hash(), folder)
    except OSError:
        return False
    return True


def verdicts(problem: Problem, request: Request = Request()) -> Iterator[Verdict]:
    """Each row of this op and pass with its reason or its cost, in the order of the table."""
    judged = replace(problem, mb=min(problem.mb, 1)) if request.deterministic else problem
    for kernel in KERNELS:
        if (kernel.op, kernel.pass_) != (problem.op, problem.pass_):
            continue
        count = 1 if kernel.wrong_device(problem) else threads_for(problem, kernel)
        reason = _refusal(kernel, problem, request, count)
        if reason is not None:
            yield Verdict(kernel, reason, float("inf"), 0, 0.0)
        else:
            workspace = kernel.workspace(problem, count)
            seconds, error = kernel.seconds(judged, request.packed), kernel.error(problem)
            yield Verdict(kernel, None, seconds, workspace, error, _is_warmed(kernel, problem))


def is_small(problem: Problem, kernel: Kernel, packed: bool = False) -> bool:
    """Whether this work never leaves the calling thread, however many threads the user allows; packed: the weights."""
    return kernel.seconds(problem, packed) < threads.SMALL_WORK_SECONDS


def threads_for(problem: Problem, kernel: Kernel) -> int:
    """Threads for this work: one when it is small, else what the user allows."""
    return 1 if is_small(problem, kernel) else threads.get_num_threads()


def choose(problem: Problem, request: Request) -> Kernel:
    """The cheapest row that can; what `tune` remembered goes first. NoKernelError when none can."""
    found = list(verdicts(problem, request))
    able = [v for v in found if v.reason is None]
    if not able:
        fault = host.backend_fault(request.backend)
        if fault is not None and all(v.kernel.backend != request.backend for v in found):
            raise NoKernelError(f'no kernel can compute {problem} with backend="{request.backend}": {fault}')
        reasons = "\n".join(f"  {v.kernel.name}: {v.reason}" for v in found)
        raise NoKernelError(f"no kernel can compute {problem}:\n{reasons}")
    tuned = autotune.remembered(problem)
    for verdict in able:
        if verdict.kernel.name == tuned:
            return verdict.kernel
    return best(able).kernel


class _Workspace(threading.local):
    """A scratch buffer of each thread, grown on demand and kept between calls."""

    buffer: np.ndarray | None = None


_workspace = _Workspace()


def _workspace_of(nbytes: int) -> np.ndarray | None:
    """`nbytes` of aligned junk that belong to this thread until its next call."""
    if nbytes == 0:
        return None
    buffer = _workspace.buffer
    if buffer is None or buffer.size < nbytes:
        raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        buffer = raw[start : start + nbytes]
        if nbytes <= WORKSPACE_KEPT_BYTES:
            _workspace.buffer = buffer
    return buffer[:nbytes]


def clear_workspace() -> None:
    """Free this thread's scratch buffer."""
    _workspace.buffer = None


class Plan:
    """A problem bound to the chosen kernel. Callable with the arrays of the kernel's call shape; safe to share."""

    __slots__ = ("_lowered", "_needs", "_run", "_small", "kernel", "problem")

    def __init__(self, problem: Problem, kernel: Kernel) -> None:
        self.problem = problem
        self.kernel = kernel
        package = load(_LOWERING.get(kernel.backend) or PACKAGES[kernel.backend])
        self._lowered = package.lower(problem)
        self._run: Any = getattr(load(_module_path(kernel)), kernel.name)
        self._small = is_small(problem, kernel), is_small(problem, kernel, packed=True)
        self._needs: dict[tuple[int, bool], int] = {}

    def shortcut(self, ndim: int, weight: Any = None, bias: Any = None, packed: Any = None) -> Any:
        """This pass (of a convolution: forward) as a compiled call for images of `ndim` axes; None where there is none.

        With weights it holds them and is called as (input, out, residual); see _cython/entry.pyx.
        """
        p, kernel = self.problem, self.kernel
        if settings.current().verbose or kernel.backend != "cython":
            return None
        held = packed is not None
        release = kernel.seconds(p, held) > RELEASE_SECONDS
        common = np.dtype(p.dtype).num, ndim, self.num_threads(held), release, _state()
        if isinstance(p, PoolProblem):
            return _entry().PoolCall(self._lowered, *common) if kernel.algorithm == "direct" else None
        if p.pass_ != "forward" or not hasattr(self._run, "pack"):
            return None
        return _entry().ConvCall(
            self._run, self._lowered, *common, p.bias, p.residual, _workspace_of, weight, bias, packed
        )

    def workspace_nbytes(self, count: int | None = None, packed: Any = None) -> int:
        """Scratch bytes of one call with `count` threads (default: as many as it would use now)."""
        count = self.num_threads(packed is not None) if count is None else count
        need = self._needs.get((count, packed is None))
        if need is None:
            if packed is None:
                need = self.kernel.workspace(self.problem, count)
            else:
                need = self._run.workspace_nbytes(self._lowered, True, count)
            self._needs[count, packed is None] = need
        return need

    def pack(self, weight: np.ndarray) -> Any:
        """The weights in the kernel's own order, for many calls, or None where it reads them as they are."""
        pack = getattr(self._run, "pack", None)
        return None if pack is None else pack(self._lowered, weight, self.num_threads())

    def num_threads(self, packed: bool = False) -> int:
        """Threads of one call; packed: the weights come packed."""
        return 1 if self._small[packed] else threads.get_num_threads()

    def __call__(self, *arrays: Any, packed: Any = None) -> None:
        """`packed`: what `pack` returned for these weights, still usable, or None."""
        count = self.num_threads(packed is not None)
        nbytes = self.workspace_nbytes(count, packed)
        workspace = _workspace_of(nbytes) if self.problem.device == "cpu" else launch().workspace(nbytes, arrays[0])
        arguments = (*arrays, workspace, count) if packed is None else (*arrays, workspace, count, packed)
        listener = settings.current().verbose
        if not listener:
            self._run(self._lowered, *arguments)
            return
        start = time.perf_counter()
        self._run(self._lowered, *arguments)
        milliseconds = 1e3 * (time.perf_counter() - start)
        used = 0 if workspace is None else workspace.size
        if callable(listener):
            listener(self.kernel.name, self.problem, count, used, milliseconds)
            return
        sys.stderr.write(
            f"fastconv: {self.kernel.name} {self.problem} threads={count} workspace={used} {milliseconds:.3f} ms\n"
        )

    def __repr__(self) -> str:
        return f"<Plan {self.kernel.name} {self.problem}>"


@functools.cache
def _cuda_module(name: str) -> Any:
    fault = host.backend_fault("cuda")
    if fault is not None:
        raise NoKernelError(f"arrays on a GPU, or backend=\"cuda\": {fault}")
    return load(f"{PACKAGES['cuda']}.{name}")


def launch() -> Any:
    """The module that queues kernels on a GPU; NoKernelError where none can run."""
    return _cuda_module("launch")


def device_arrays() -> Any:
    """The module that reads, makes and copies arrays on a GPU; NoKernelError where none can be."""
    return _cuda_module("copying")


def device_session() -> Any:
    """The module of a training run on a GPU; NoKernelError where none can be."""
    return _cuda_module("session")


@functools.cache
def _entry() -> Any:
    """The module of compiled calls, or None without the extension."""
    return None if host.backend_fault("cython") else load(f"{PACKAGES['cython']}.entry")


@functools.cache
def _state() -> Any:
    """What else a call depends on, besides its arguments: the settings in force, tuned choices, threads."""
    return _entry().State(
        settings.variable, (vars(settings), "_initial"), (vars(threads), "_num_threads"),
        (vars(autotune), "_generation"), (vars(autotune), "_choices"),
    )  # fmt: skip


@functools.cache
def compiled_calls() -> Any:
    """The table of compiled calls, or None without the extension."""
    return None if _entry() is None else _entry().Calls()


def check_request(where: str, algorithm: Any, backend: Any, max_workspace: Any) -> None:
    """Raise ValueError for a name that is in no row."""
    if algorithm != "auto" and algorithm not in ALGORITHMS:
        raise ValueError(f"{where}: algorithm must be 'auto' or one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"{where}: backend must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}")
    if max_workspace is None:
        return
    if isinstance(max_workspace, bool) or not isinstance(max_workspace, int) or max_workspace < 0:
        raise ValueError(f"{where}: max_workspace must be None or a number of bytes, got {max_workspace!r}")


@functools.lru_cache(maxsize=PLAN_CACHE_SIZE)
def _plan(problem: Problem, request: Request, generation: tuple[int, int]) -> Plan:
    return Plan(problem, choose(problem, request))


def plan(problem: Problem, request: Request = Request()) -> Plan:
    """The plan of a problem, from a bounded cache."""
    return _plan(problem, request, autotune.generation())


def plan_for(problem: Problem, kernel: Kernel) -> Plan:
    """A plan on this very row (tests, benchmarks, tuning); NoKernelError if it cannot."""
    reason = _refusal(kernel, problem, Request(), 1)
    if reason is not None:
        raise NoKernelError(f"{kernel.name} cannot compute {problem}: {reason}")
    return Plan(problem, kernel)


def clear_cache() -> None:
    """Forget all plans and this thread's workspace; they are made again on the next call."""
    _plan.cache_clear()
    if compiled_calls.cache_info().currsize and compiled_calls() is not None:
        compiled_calls().clear()
    clear_workspace()


def _si(seconds: float) -> str:
    for unit, scale in (("s ", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:7.1f} {unit}"
    return f"{seconds * 1e6:7.1f} us"


def _bytes(count: int) -> str:
    for unit, scale in (("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B "


def explain(problem: Problem, request: Request = Request(), notes: tuple[str, ...] = ()) -> str:
    """A table: each kernel, whether it can (or why not), predicted one-thread time, workspace, error."""
    found = list(verdicts(problem, request))
    try:
        chosen = choose(problem, request).name
    except NoKernelError:
        chosen = ""
    width = max((len(v.kernel.name) for v in found), default=0)
    place = f"ISA {host.isa()}" if problem.device == "cpu" else "on a GPU"
    lines = [str(problem), f"  {problem.flops / 1e6:.4g} MFLOP, {problem.bytes / 1e6:.3g} MB, {place}"]
    lines.append(f"  {'kernel':<{width}}    predicted   workspace     error")
    for v in found:
        mark = ">" if v.kernel.name == chosen else " "
        if v.reason is None:
            row = f"{_si(v.seconds)}  {_bytes(v.workspace):>10} {v.error:9.1e}"
        else:
            row = f"no: {v.reason}"
        lines.append(f"{mark} {v.kernel.name:<{width}}  {row}")
    if not chosen:
        lines.append("  no kernel can compute this")
    lines.extend(f"  note: {note}" for note in notes)
    return "\n".join(lines)
