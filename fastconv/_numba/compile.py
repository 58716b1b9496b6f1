"""How the kernels of this package are compiled: one set of flags, a disk cache that may fail, one type per argument."""

from __future__ import annotations

import functools
import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import config, event
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

from fastconv._numba import source_hash
from fastconv.loading import fork_waits_for

log = logging.getLogger("fastconv")

# Not `fastmath`: reassociation would make sums depend on the vector length, and a NaN must stay a NaN. Kernels whose
# products and sums may fuse say so with CONTRACT; that changes rounding only. No array is made inside of a kernel:
# without `_nrt` none is counted either, which compiles faster.
FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}
CONTRACT = {"contract"}
# Helpers are called from kernels only: without an entry from Python they compile in half the time.
HELPER: dict[str, Any] = {"no_cpython_wrapper": True}

# A first call that waits longer than this for the compiler says so on the standard error stream.
NOTICE_SECONDS = 1.0

_warned = threading.Event()

# NUMBA_DISABLE_JIT: the naive loops then run as plain Python, to be read in a debugger.
INTERPRETED = bool(getattr(config, "DISABLE_JIT", False))


def _warn_once(error: BaseException) -> None:
    if not _warned.is_set():
        _warned.set()
        warnings.warn(
            f"fastconv cannot keep compiled Numba kernels on disk ({error}): each process compiles them again. "
            "Set NUMBA_CACHE_DIR to a writable directory.",
            RuntimeWarning,
            stacklevel=2,
        )


class _SafeCache(FunctionCache):
    """Numba's function cache, keyed by all our sources, that warns once instead of failing when the disk does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file._source_stamp = (stamp, source_hash())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file is as good as none
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # full disk, no permission: the compiled function works all the same
            _warn_once(error)


def folder() -> str | None:
    """Where compiled kernels are kept; None where nothing can be written."""
    try:
        path = _SafeCache(folder).cache_path
    except (RuntimeError, OSError):
        return None
    return str(path)


def _with_cache(dispatcher: Any) -> Any:
    if INTERPRETED:
        return dispatcher
    try:
        dispatcher._cache = _SafeCache(dispatcher.py_func)
    except (RuntimeError, OSError) as error:  # Numba's "no locator available": no directory can be written
        _warn_once(error)
    except (AttributeError, TypeError):  # another Numba keeps its cache elsewhere
        try:
            dispatcher.enable_caching()
        except RuntimeError as error:
            _warn_once(error)
    return dispatcher


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit` with this package's flags and cache; types come from the arguments. For helpers inside kernels."""
    if function is None:
        return functools.partial(jit, **options)
    return _with_cache(numba.njit(**{**FLAGS, **HELPER, **options})(function))


def _argument(word: str, scalar: types.Type, nhwc: int) -> types.Type:
    """The Numba type of one word of a kernel's signature; see `kernel`."""
    if word == "int":
        return types.int64
    if word == "real":
        return types.float64
    if word == "scalar":
        return scalar
    if word == "sum":
        return types.int64 if isinstance(scalar, types.Integer) else types.float64
    if word in ("nhwc", "nchw"):
        return types.int64 if nhwc == (word == "nhwc") else types.none
    if word == "tickets":
        return types.Array(types.int64, 1, "C")
    name, dimensions = word[:-1], int(word[-1])
    element = {"ints": types.int64, "outints": types.int64, "in": scalar, "out": scalar}[name]
    return types.Array(element, dimensions, "C" if dimensions == 1 else "A", readonly=not name.startswith("out"))


# A child of a fork in the midst of a compilation would wait for its end for ever.
fork_waits_for(global_compiler_lock)


class Kernel:
    """An entry point from Python: `kernel[dtype]` is compiled on first use for that dtype and one signature.

    One signature, so that a read-only, transposed or odd-strided argument never compiles a second copy. A kernel with
    arguments "nhwc nchw" is compiled for each layout apart: `kernel[dtype, nhwc]`.
    """

    def __init__(self, function: Callable[..., Any], signature: str, options: dict[str, Any]) -> None:
        self.function = function
        self.signature = signature.split()
        self.options = options
        self._compiled: dict[Any, Any] = {}

    def __getitem__(self, key: str | tuple[str, int]) -> Any:
        compiled = self._compiled.get(key)
        return compiled if compiled is not None else self._compile(key)

    def _compile(self, key: str | tuple[str, int]) -> Any:
        dtype, nhwc = (key, 0) if isinstance(key, str) else key
        with global_compiler_lock:
            if key not in self._compiled:
                dispatcher = _with_cache(numba.njit(**{**FLAGS, **self.options})(self.function))
                if not INTERPRETED:
                    scalar = getattr(types, dtype)
                    dispatcher.compile(tuple(_argument(word, scalar, nhwc) for word in self.signature))
                    dispatcher.disable_compile()
                self._compiled[key] = dispatcher
            return self._compiled[key]


def kernel(signature: str, **options: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare an entry point by the words of its signature.

    inN, outN : N-dimensional array of the kernel's dtype, read or written (contiguous if N is 1, any strides above);
    intsN, outintsN : array of int64, read or written; int : int64; real : float64; scalar : the kernel's dtype;
    sum : float64, or int64 for an integer kernel; tickets : what it claims its tasks by, see tasks.py;
    nhwc, nchw : 1 for the layout of the call and None for the other, whose branches `if nhwc is not None` Numba drops
    before it compiles them.
    """
    return lambda function: Kernel(function, signature, options)


class _Notice(event.Listener):
    """Says which kernel was compiled, once it is: INFO, or a WARNING (so a line on stderr) when it took long."""

    def __init__(self) -> None:
        self._started: dict[int, tuple[int, float]] = {}

    def _kernel(self, happening: Any) -> Any:
        function = happening.data["dispatcher"].py_func
        return function if function.__module__.startswith(__package__ or "fastconv._numba") else None

    def on_start(self, happening: Any) -> None:
        thread = threading.get_ident()
        depth, start = self._started.get(thread, (0, time.perf_counter()))
        self._started[thread] = depth + 1, start

    def on_end(self, happening: Any) -> None:
        thread = threading.get_ident()
        depth, start = self._started.pop(thread, (1, time.perf_counter()))
        if depth > 1:  # a helper compiled within a kernel: the kernel reports the whole
            self._started[thread] = depth - 1, start
            return
        function = self._kernel(happening)
        if function is not None:
            seconds = time.perf_counter() - start
            level = logging.WARNING if seconds > NOTICE_SECONDS else logging.INFO
            log.log(level, "fastconv compiled %s in %.1f s (kept on disk)", function.__name__, seconds)


event.register("numba:compile", _Notice())
