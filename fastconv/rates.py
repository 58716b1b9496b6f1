"""Seconds that a unit of each kernel's work takes: the shipped rates, or those that `calibrate` measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastconv import host
from fastconv.loading import first_use

# ISA -> kernel -> layout -> kind of work -> seconds a unit. Shipped: measured on one core of an AMD
# EPYC, Zen 4 for AVX-512 and portable, Zen 3 for AVX2.
Rates = dict[str, dict[str, dict[str, dict[str, float]]]]

SHIPPED = Path(__file__).with_name("rates.json")
# An ISA that nobody has measured is taken for its nearest relative.
RELATIVE = {"neon": "avx2"}

_rates: Rates | None = None


def path() -> Path:
    """The file of the rates measured on this machine."""
    return host.cache_folder() / "rates.json"


def read(file: Path) -> dict[str, Any]:
    """The rates in a file; empty when it is missing or is no such file."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def write(file: Path, document: dict[str, Any]) -> None:
    """Replace a JSON file in one step: a reader never sees half of it."""
    import os
    import tempfile

    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, sort_keys=True)
        stream.write("\n")
    os.chmod(temporary, 0o644)  # mkstemp makes files for their owner only
    os.replace(temporary, file)


def _load() -> Rates:
    """The shipped rates, with those of this machine in their place, ISA by ISA."""
    global _rates
    if _rates is None:
        with first_use:
            merged = read(SHIPPED)
            own = read(path()) if path().exists() else {}
            for isa, kernels in own.get(host.cpu_name(), {}).items():
                merged[isa] = {**merged.get(isa, {}), **kernels}
            _rates = merged
    return _rates


def rates_of(kernel: str, layout: str) -> dict[str, float] | None:
    """Seconds a unit of each kind of work for a row of the table on the ISA in use, or None where nobody measured it.

    Rows of other backends share the rates of the compiled row of their algorithm until they have their own.
    """
    every = _load()
    if kernel.endswith("__cuda"):  # no relative on the host
        return every.get("cuda", {}).get(kernel, {}).get(layout)
    isa = host.rated_isa()
    name, _, _ = kernel.partition("__")
    for kernels in (every.get(isa, {}), every.get(RELATIVE.get(isa, ""), {})):
        found = kernels.get(kernel) or kernels.get(f"{name}__cython")
        if found:
            return found.get(layout)
    return None


def remember(isa: str, kernels: dict[str, dict[str, dict[str, float]]]) -> None:
    """Use these rates on this machine from now on, and keep them on disk when the cache folder can be written."""
    global _rates
    stored = read(path())
    stored.setdefault(host.cpu_name(), {}).setdefault(isa, {}).update(kernels)
    try:
        write(path(), stored)
    except OSError:
        merged = _load()
        merged[isa] = {**merged.get(isa, {}), **kernels}
        return
    _rates = None


def forget() -> None:
    """Drop the rates measured on this machine."""
    global _rates
    path().unlink(missing_ok=True)
    _rates = None
