"""Kernels for CUDA, compiled by numba.cuda on first use; on a GPU that has its arrays, on the caller's stream.

    compiler.py   numba.cuda and its simulator, 16-byte loads: nobody else imports them
    arrays.py     arrays on a GPU, whoever made them: where they lie, in which order, on which stream
    copying.py    copies, conversions, sums by channel: what the public functions need besides kernels
    launch.py     grids, arguments and scratch memory of a launch
    sizes.py      tiles, splits, bytes of scratch memory: plain numbers
    gemm.py       a tile of a product of matrices: shared memory, register tiles
    winograd_passes.py, winograd_weight.py   F(4x4,3x3) for winograd.py; transforms.py: their 1-D transforms
    training.py  what a training step does between convolutions; session.py: a network's place on a GPU, whole steps
    naive.py im2col.py direct.py winograd.py depthwise.py pooling.py   the kernels

Importing this package, or sizes.py, does not import Numba; importing any other module does.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastconv.problem import ConvProblem, PoolProblem


class Conv(NamedTuple):
    """A ConvProblem in the numbers its kernels need; letters as in fastconv.problem."""

    dtype: str
    precision: str | float
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
    low: float  # what the activation clamps to, infinities where it does not
    high: float


def lower(problem: ConvProblem | PoolProblem) -> Any:
    """What a kernel of this package takes in place of the problem, made once per plan."""
    p = problem
    if isinstance(p, PoolProblem):
        return p
    low, high = -math.inf, math.inf
    if p.activation == "relu":
        low = 0.0
    elif p.activation is not None:
        low, high = float(p.activation[1]), float(p.activation[2])
    return Conv(
        p.dtype, p.precision, int(p.layout == "NHWC"), p.mb, p.g, p.icg, p.ih, p.iw, p.ocg, p.oh, p.ow,
        p.kh, p.kw, p.sh, p.sw, p.ph, p.pw, p.dh, p.dw, low, high,
    )  # fmt: skip
