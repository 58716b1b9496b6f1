"""The Cython backend: typed doors to the C core, all of them inside one extension, `core`.

One shared object holds every module of this package and the C core beside them, so that there is one thread pool
and one ISA table. `core` is found by name like any extension; a finder serves the others from the same file
(PEP 489).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any

_core = importlib.util.find_spec(__name__ + ".core")
if _core is None or _core.origin is None:
    raise ImportError("no working C compiler was found at installation")
_ORIGIN: str = _core.origin


class _CoreFinder:
    """Finds `fastconv._cython.<module>` inside the shared object of `fastconv._cython.core`."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.rpartition(".")[0] != __name__:
            return None
        loader = ExtensionFileLoader(fullname, _ORIGIN)
        return importlib.util.spec_from_file_location(fullname, _ORIGIN, loader=loader)


if not any(getattr(finder, "__qualname__", "") == "_CoreFinder" for finder in sys.meta_path):
    sys.meta_path.append(_CoreFinder)

from fastconv._cython.core import detected_isas, get_isa, set_isa  # noqa: E402

__all__ = ["detected_isas", "get_isa", "lower", "set_isa"]


def lower(problem: Any) -> Any:
    """The C struct of a problem, made once per plan."""
    shape = importlib.import_module(__name__ + ".shape")
    return shape.ConvShape(problem) if problem.op.startswith("conv2d") else shape.PoolShape(problem)
