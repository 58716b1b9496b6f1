"""Which kernels a layer asks for, and a note of those that ran."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastconv


class KernelChoice:
    """Calls fastconv functions for one layer, with a forced algorithm or backend where a kernel for it exists.

    A layer has passes that a family of algorithms cannot serve (no Winograd for pooling): there the default runs,
    and `refused` says so. `ran` maps each pass to the names of the kernels that served it, `workspace` is the largest
    number of scratch bytes among them.
    """

    def __init__(self, algorithm: str = "auto", backend: str = "auto") -> None:
        self.algorithm, self.backend = algorithm, backend
        self.ran: dict[str, list[str]] = {}
        self.refused: dict[str, str] = {}
        self.workspace = 0
        self._options: dict[tuple[str, int], dict[str, str]] = {}

    def run(self, pass_: str, batch: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(*args, **kwargs)` with this choice; `pass_` and `batch` name the problem within the layer."""
        options = self._options.get((pass_, batch))
        if options is not None:
            return function(*args, **kwargs, **options)
        return self._first(pass_, batch, function, args, kwargs)

    def _first(self, pass_: str, batch: int, function: Callable[..., Any], args: tuple[Any, ...],
               kwargs: dict[str, Any]) -> Any:
        """The first call of a problem finds the options that work and notes the kernel's name."""
        names = self.ran.setdefault(pass_, [])

        def note(name: str, problem: Any, threads: int, workspace: int, milliseconds: float) -> None:
            self.workspace = max(self.workspace, workspace)
            if name not in names:
                names.append(name)

        wishes = [(self.algorithm, self.backend), ("auto", self.backend), ("auto", "auto")]
        for algorithm, backend in dict.fromkeys(wishes):
            options = {key: value for key, value in (("algorithm", algorithm), ("backend", backend))
                       if value != "auto"}
            try:
                with fastconv.config(verbose=note):
                    result = function(*args, **kwargs, **options)
            except fastconv.NoKernelError as error:
                if not options:
                    raise
                self.refused.setdefault(pass_, str(error))
            else:
                break
        self._options[pass_, batch] = options
        return result

    @property
    def honoured(self) -> bool:
        """Whether some pass ran as it was forced to."""
        return any(pass_ not in self.refused for pass_ in self.ran)
