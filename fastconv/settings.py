"""Defaults for the keyword arguments of the public functions, changed for a while by `config(...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from fastconv import host


@dataclass(frozen=True, slots=True)
class Settings:
    """One set of defaults; hashable, so that it can be part of a cache key."""

    algorithm: str = "auto"
    backend: str = "auto"
    precision: str | float = "fast"
    max_workspace: int | None = None
    deterministic: bool = False
    verbose: bool | Callable[..., None] = False


variable: ContextVar[Settings | None] = ContextVar("fastconv_settings", default=None)
_initial: Settings | None = None


def current() -> Settings:
    """The settings in force in this context (a thread or task)."""
    global _initial
    settings = variable.get()
    if settings is not None:
        return settings
    if _initial is None:
        _initial = Settings(verbose=host.environment("FASTCONV_VERBOSE") not in ("", "0"))
    return _initial


@contextmanager
def config(**changes: Any) -> Iterator[Settings]:
    """Change defaults inside a `with` block, for this thread (or asyncio task) only.

    Parameters
    ----------
    algorithm, backend, precision, max_workspace
        As in `conv2d`; used where the call leaves them at their default.
    deterministic : bool
        Results also do not depend on the batch size or the position in the batch (the kernel is chosen as for a
        batch of one). They never depend on the number of threads.
    verbose : bool or callable
        One line on standard error for each kernel that runs; also FASTCONV_VERBOSE=1. A callable is called instead,
        with (kernel name, problem, threads, workspace bytes, milliseconds).

    Raises
    ------
    TypeError
        An unknown setting.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> with fastconv.config(algorithm="naive"):
    ...     fastconv.conv2d(x, w)[0, 0]
    array([[9., 9.],
           [9., 9.]], dtype=float32)
    """
    known = Settings.__slots__
    for name in changes:
        if name not in known:
            raise TypeError(f"config: unknown setting {name!r}; the settings are {', '.join(known)}")
    token = variable.set(replace(current(), **changes))
    try:
        yield current()
    finally:
        variable.reset(token)
