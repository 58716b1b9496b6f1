"""info(): versions, instruction sets, threads and which backends can run here, as a dict that prints as lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import host, threads
from fastconv._version import __version__
from fastconv.registry import KERNELS


def _shown(value: Any) -> str:
    """A dict of sizes in bytes as words."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {size // 1024:,} KB" for name, size in value.items()) or "unknown"


class Info(dict[str, Any]):
    """A dict that a prompt shows as lines."""

    def __repr__(self) -> str:
        width = max(len(key) for key in self)
        return "\n".join(f"{key:<{width}}  {_shown(value)}" for key, value in self.items())

    __str__ = __repr__


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def info() -> Info:
    """What this installation can do on this machine.

    Returns
    -------
    dict of str to printable values: versions, cpu, isa (in use), isas (in the extension), vectors (those of the
        isa in use, without the extension of the CPU), threads, one entry for each
        backend ("ready" or what is missing), kernels (rows of the table), and the cache folder.
    """
    import platform

    found = Info(
        fastconv=__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        numba=_version("numba"),
        platform=platform.platform(),
        cpu=host.cpu_name(),
        caches=host.cache_bytes(),
        isa=host.isa(),
        isas=", ".join(host.isas()) or "none",
        vectors=host.rated_isa(),
        cores=host.cores(),
        threads=threads.get_num_threads(),
    )
    for backend in ("cython", "numba", "cuda"):
        found[f"{backend} rows"] = host.backend_fault(backend) or "ready"
    found["kernels"] = len(KERNELS)
    found["cache"] = str(host.cache_folder())
    return found
