"""Measured choices: what `tune` found fastest on this machine, remembered on disk as JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastconv import host, threads
from fastconv._version import __version__
from fastconv.loading import first_use

# A challenger must be this much faster than the default to replace it.
CLEAR_WIN = 1.05

_choices: dict[str, str] | None = None
_generation = 0


def path() -> Path:
    """The file of remembered choices."""
    return host.cache_folder() / "tuned.json"


def key(problem: Any) -> str:
    """Everything that a measured choice depends on."""
    machine = f"{host.cpu_name()}|{host.isa()}|{threads.get_num_threads()}|{__version__}"
    return f"{machine}|{problem}|{problem.precision}"


def generation() -> tuple[int, int]:
    """Changes whenever the remembered choices do, or which of them apply; part of the key of the plan cache."""
    return _generation, threads.get_num_threads() if _load() else 0


def _load() -> dict[str, str]:
    global _choices
    if _choices is None:
        file = path()
        if not file.exists():
            _choices = {}
            return _choices
        import json  # imported on use: most processes have tuned nothing

        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            _choices = {k: v for k, v in stored.items() if isinstance(v, str)} if isinstance(stored, dict) else {}
        except (OSError, ValueError):
            _choices = {}
    return _choices


def remembered(problem: Any) -> str | None:
    """The name of the kernel that `tune` found for this problem on this machine, or None."""
    choices = _load()
    return choices.get(key(problem)) if choices else None


def remember(problem: Any, name: str) -> None:
    """Keep a measured choice, in this process and on disk (written to a new file and moved: never half a file)."""
    import json
    import tempfile

    global _generation
    with first_use:
        _load()[key(problem)] = name
        _generation += 1
        folder = host.cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, suffix=".json")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_load(), file, indent=1, sort_keys=True)
            os.replace(temporary, path())
        except OSError:
            # a read-only home: the choice lives as long as the process
            return


def forget() -> None:
    """Drop all remembered choices, in this process and on disk."""
    global _choices, _generation
    with first_use:
        _choices = {}
        _generation += 1
        path().unlink(missing_ok=True)
