"""Kernels compiled by Numba on first use: naive, im2col, direct, depthwise, winograd, pooling.

    compile.py   flags, disk cache, one signature per dtype
    vector.py    what Numba lacks: vectors of the host's length, as IR, and moves of data by them
    tasks.py     loops over tasks on several threads
    integers.py  whole-number arithmetic that compiles fast
    emit.py      words for writing loops as IR; *_tiles.py moves.py im2col_pixels.py winograd_*.py are written in them
    gemm.py      the GEMM micro-kernel: a tile of registers, rows of tiles
    packing.py   weights that a plan holds
    arrays.py    the arrays of a call as Numba wants them: flat, with element strides
    naive.py im2col.py direct.py winograd.py depthwise.py pooling.py   the kernels; *_weight.py of weight gradients
    winograd_*.py   its gradients; what they share; transforms, moves and products as IR, called by address

Importing this package does not import Numba; importing a kernel module does.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from fastconv.loading import load
from fastconv.problem import ConvProblem, PoolProblem

# How an activation is told to a kernel: the low limit applies from RELU on, the high one for CLIP.
NO_CLAMP, RELU, CLIP = 0, 1, 2


class Conv(NamedTuple):
    """A ConvProblem in the numbers its kernels need, as ints; letters as in fastconv.problem."""

    dtype: str
    nhwc: int
    mb: int
    g: int
    icg: int
    ih: int
    iw: int
    ocg: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    clamp: int
    low: float
    high: float


@functools.cache
def source_hash() -> str:
    """Hash of every source that a kernel of this package inlines; Numba itself looks at the kernel's own file only."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent / "winograd.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def lower(problem: ConvProblem | PoolProblem) -> Any:
    """What a kernel of this package takes in place of the problem, made once per plan."""
    if isinstance(problem, PoolProblem):
        return load("fastconv._numba.pooling").lower_pool(problem)
    p = problem
    clamp, low, high = NO_CLAMP, 0.0, 0.0
    if p.activation == "relu":
        clamp = RELU
    elif p.activation is not None:
        clamp = CLIP
        low, high = float(p.activation[1]), float(p.activation[2])
    return Conv(
        p.dtype, int(p.layout == "NHWC"), p.mb, p.g, p.icg, p.ih, p.iw, p.ocg, p.oh, p.ow,
        p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, clamp, low, high,
    )  # fmt: skip
