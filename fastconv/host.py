"""What this machine can run: instruction sets, cores allowed, caches, CUDA, the compiled extension; the only prober."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
from pathlib import Path

from fastconv.loading import load

# From the slowest to the fastest; FASTCONV_ISA caps the choice.
ISAS = ("portable", "neon", "avx2", "avx512")


def environment(name: str) -> str:
    """A variable of the environment, or the empty string."""
    return os.environ.get(name, "").strip()


def cache_folder() -> Path:
    """FASTCONV_CACHE, else the user's cache folder."""
    wanted = environment("FASTCONV_CACHE")
    if wanted:
        return Path(wanted)
    try:
        import platformdirs
    except ImportError:
        base = environment("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return Path(base) / "fastconv"
    return Path(platformdirs.user_cache_dir("fastconv", appauthor=False))


def _cgroup_quota() -> float | None:
    """Cores granted by the container's CPU quota (cgroup v2, then v1), or None."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


@functools.cache
def cores() -> int:
    """Cores this process may use: its affinity mask, and the container's quota rounded up."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    quota = _cgroup_quota()
    if quota is not None:
        allowed = min(allowed, max(1, int(-(-quota // 1))))
    return max(1, allowed)


@functools.cache
def extension_fault() -> str | None:
    """None when the compiled extension loads, else one sentence that says what is wrong."""
    try:
        core = load("fastconv._cython")
    except ImportError as error:
        return f"no compiled extension ({error}); install a C compiler and reinstall fastconv"
    cap = isa_cap()
    if cap is not None:
        core.set_isa([name for name in core.detected_isas() if ISAS.index(name) <= ISAS.index(cap)][-1])
    return None


@functools.cache
def numba_fault() -> str | None:
    """None when Numba is installed, else one sentence. Numba is not imported here: that takes half a second."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed: pip install numba"
    return None


def simulated() -> bool:
    """Whether Numba simulates a GPU, in Python."""
    return environment("NUMBA_ENABLE_CUDASIM") not in ("", "0")


@functools.cache
def cuda_fault() -> str | None:
    """None when the CUDA rows can run, else one sentence. Without a driver Numba is not imported."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed: pip install 'fastconv[cuda]'"
    if not simulated():
        try:
            ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        except OSError:
            return "no CUDA driver on this machine"
    try:
        cuda = load("numba.cuda")
        if not cuda.is_available():
            return "numba.cuda finds no GPU or no compiler of CUDA: pip install 'fastconv[cuda]'"
    except Exception as error:  # whatever a broken driver or toolkit raises
        return f"numba.cuda does not work here ({error}): pip install 'fastconv[cuda]'"
    return None


@functools.cache
def tensor_fault() -> str | None:
    """None when every GPU multiplies float32 on tensor cores, or one is simulated; else one sentence."""
    if simulated() or cuda_fault() is not None:
        return None
    major, minor = min(tuple(gpu.compute_capability) for gpu in load("numba.cuda").gpus)
    if major >= 8:
        return None
    return f"tensor cores take float32 from compute capability 8.0 on, a GPU of this machine has {major}.{minor}"


def backend_fault(backend: str) -> str | None:
    """None when the kernels of a backend can run here, else one sentence that says what is missing."""
    if backend == "cython":
        return extension_fault()
    if backend == "numba":
        return numba_fault()
    if backend == "cuda":
        return cuda_fault()
    return None


def isas() -> tuple[str, ...]:
    """Instruction sets that the compiled extension has and this CPU runs, slowest first; empty without it."""
    if extension_fault() is not None:
        return ()
    core = load("fastconv._cython")
    return tuple(core.detected_isas())


def isa() -> str:
    """The instruction set the C kernels use now, or "none" without the compiled extension."""
    if extension_fault() is not None:
        return "none"
    return str(load("fastconv._cython").get_isa())


@functools.cache
def _cpu_isa() -> str:
    """The fastest of ISAS that this CPU runs, as far as the operating system tells."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "neon"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "portable"
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    return "avx512" if {"avx512f", "avx512dq"} <= flags else "avx2" if {"avx2", "fma"} <= flags else "portable"


def rated_isa() -> str:
    """The instruction set whose measured rates tell the times of kernels: that in use, or of Numba without C."""
    return isa() if extension_fault() is None else _cpu_isa()


def set_isa(name: str) -> None:
    """Use this instruction set in the C kernels from now on (tests and benchmarks compare them)."""
    if name not in isas():
        raise ValueError(f"this machine runs the instruction sets {', '.join(isas()) or 'none'}, not {name!r}")
    load("fastconv._cython").set_isa(name)


def isa_cap() -> str | None:
    """The instruction set named by FASTCONV_ISA, checked, or None."""
    wanted = environment("FASTCONV_ISA").lower()
    if not wanted:
        return None
    if wanted not in ISAS:
        raise ValueError(f"FASTCONV_ISA must be one of {', '.join(ISAS)}, got {wanted!r}")
    return wanted


@functools.cache
def cpu_name() -> str:
    """The CPU's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def cache_bytes() -> dict[str, int]:
    """Sizes of the first core's data caches, e.g. {"L1": 32768, "L2": 1048576, "L3": 33554432}; empty if unknown."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            size = (index / "size").read_text().strip()
            found["L" + (index / "level").read_text().strip()] = int(size[:-1]) * {"K": 1024, "M": 1024**2}[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return found
