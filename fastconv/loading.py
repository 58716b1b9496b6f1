"""Imports and files read on first use, in any thread, which a fork waits for.

A child that is born while another thread imports a module finds that module locked for ever: the thread that would
unlock it is not in the child. The same holds for any lock that another thread holds.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any, Protocol


class Lock(Protocol):
    def acquire(self) -> Any: ...

    def release(self) -> Any: ...


# Held by whoever imports or reads for all.
first_use = threading.RLock()
# In the order in which a thread may take them: an import can compile, but nothing that is compiled imports.
_locks: list[Lock] = [first_use]


def load(name: str) -> Any:
    """The module of that name."""
    with first_use:
        return importlib.import_module(name)


def fork_waits_for(lock: Lock) -> None:
    """No fork while a thread holds this lock, which may be taken under `first_use`, never the other way round."""
    with first_use:  # not in the midst of a fork
        _locks.append(lock)


def _acquire() -> None:
    for lock in _locks:
        lock.acquire()


def _release() -> None:
    for lock in reversed(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
