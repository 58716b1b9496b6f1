"""The short way of a public function: compiled calls that remember what the long way found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv import dispatch


def nothing(*arguments: Any) -> Any:
    """Before the first call, without the compiled extension, and where a kernel has no compiled calls."""
    return None


class Shortcut:
    """One function's: `call` takes its arguments by position and returns None where the long way must be taken."""

    __slots__ = ("_name", "call")

    def __init__(self, name: str) -> None:
        """name: of the function, and of the method of Calls (_cython/entry.pyx) that serves it."""
        self._name = name
        self.call: Callable[..., Any] = nothing

    def remember(self, plan: dispatch.Plan, ndim: int, *arguments: Any) -> None:
        """After a call by the long way: let such calls be short, if the plan's kernel and the arguments are plain.

        ndim: axes of the image arrays. arguments: as `call` takes them.
        """
        if plan.kernel.backend != "cython":
            return
        calls = dispatch.compiled_calls()
        if calls is None or calls.knows(self._name, arguments):
            return
        call = plan.shortcut(ndim)
        if call is not None:
            calls.remember(call, self._name, arguments)
            self.call = getattr(calls, self._name)
