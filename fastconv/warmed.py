"""Which Numba kernels `warmup` compiled on this machine, kept on disk: a plain call may take them without a wait."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastconv import host, rates
from fastconv._version import __version__
from fastconv.loading import first_use

# What the file held when this process first asked: what is compiled later counts from the next process on, so that the
# choice for a problem never changes within one.
_ready: frozenset[str] | None = None


def path() -> Path:
    """The file of what is compiled."""
    return host.cache_folder() / "warmed.json"


def key(name: str, problem: Any) -> str:
    """What the compiled code of a row depends on."""
    return f"{name} {problem.dtype} {problem.layout} {problem.kh}x{problem.kw} {problem.sh}x{problem.sw}"


def _stamp(source: str) -> str:
    """What must not have changed since."""
    try:
        numba = version("numba")
    except PackageNotFoundError:
        numba = "none"
    where = host.environment("NUMBA_CACHE_DIR")
    return "|".join(map(str, (sys.implementation.cache_tag, host.cpu_name(), numba, __version__, where, source)))


def _stored(source: str) -> set[str]:
    held = rates.read(path())
    fits = held.get("stamp") == _stamp(source) and Path(str(held.get("folder"))).is_dir()
    return set(held.get("ready", [])) if fits else set()


def holds(name: str, problem: Any, source: Any) -> bool:
    """Whether the row is compiled for problems like this one. `source()`: hash of the code of the Numba kernels."""
    global _ready
    if _ready is None:
        with first_use:
            _ready = frozenset(_stored(source())) if path().exists() else frozenset()
    return bool(_ready) and key(name, problem) in _ready


def remember(keys: set[str], source: str, folder: str) -> None:
    """Add to the file what is compiled now, in this folder of Numba's cache; OSError if it cannot be written."""
    with first_use:
        document = {"stamp": _stamp(source), "folder": folder, "ready": sorted(_stored(source) | keys)}
        rates.write(path(), document)
