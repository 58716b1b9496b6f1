"""What each kernel family costs (predicted seconds on one thread) and which error it makes.

Only ratios decide, and the choice must not depend on the number of threads, or the bits of the result would. Rates are
those of one core of an AMD EPYC (Zen 4) with AVX-512 and float32; `python -m bench.rates` measures them again and says
how far each prediction is off.
"""

from __future__ import annotations

from fastconv.problem import ConvProblem, PoolProblem

# float32 operations a second that one core's multiply-add units reach; float64 has half.
PEAK_FLOPS = 115e9
# Rounded down from bench/results/rates.json. No automatic choice hangs on them: each leads or ends its backend's list.
NAIVE_FLOPS = 1.0e9
REFERENCE_FLOPS = 9e9
REFERENCE_CALL_SECONDS = 160e-6
POOL_BYTES = {"direct": 60e9, "naive": 1.1e9, "reference": 0.25e9}
# These decide between im2col and Winograd and are not fitted yet: im2col's are first estimates and predict large layers
# about a fifth too slow; Winograd's come from profiles of its phases. Bytes a second pass through the transforms of
# images and of weights, and through the packing of panels.
IM2COL_SHARE = 0.8
PACK_BYTES = 48e9
WINOGRAD_GEMM_SHARE = 0.9
TRANSFORM_BYTES = 27e9
WEIGHT_TRANSFORM_BYTES = 12e9
CALL_SECONDS = 1e-6

EPS = {"float32": 2.0**-24, "float64": 2.0**-53, "int64": 0.0}


def _peak(p: ConvProblem) -> float:
    return PEAK_FLOPS if p.dtype == "float32" else PEAK_FLOPS / 2


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def naive(p: ConvProblem) -> float:
    return CALL_SECONDS + p.flops / NAIVE_FLOPS


def reference(p: ConvProblem) -> float:
    return REFERENCE_CALL_SECONDS + p.flops / REFERENCE_FLOPS


def im2col(p: ConvProblem) -> float:
    """A GEMM on packed panels; columns come in vectors of 32 output channels (NHWC) or rows of 14 (NCHW)."""
    unit = 32 if p.layout == "NHWC" else 14
    waste = _round_up(p.ocg, unit) / p.ocg
    panels = 2 * p.mb * p.g * p.oh * p.ow * p.icg * p.kh * p.kw * p.itemsize
    return CALL_SECONDS + p.flops * min(waste, 8.0) / (IM2COL_SHARE * _peak(p)) + panels / PACK_BYTES


def winograd(p: ConvProblem, tile: int) -> float:
    """(tile + 2)^2 products for tile^2 outputs of 9 products each, and the transforms of x, y and w."""
    h, w = (p.oh, p.ow) if p.pass_ == "forward" else (p.ih, p.iw)
    ic, oc = (p.icg, p.ocg) if p.pass_ == "forward" else (p.ocg, p.icg)
    points = (tile + 2) ** 2
    tiles = p.mb * -(-h // tile) * -(-w // tile)
    products = 2 * tiles * points * ic * _round_up(oc, 32) * p.g
    images = tiles * points * (p.ic + p.oc) * p.itemsize / TRANSFORM_BYTES
    weights = points * p.oc * p.icg * p.itemsize / WEIGHT_TRANSFORM_BYTES
    return 3 * CALL_SECONDS + products / (WINOGRAD_GEMM_SHARE * _peak(p)) + images + weights


def winograd_f2x3(p: ConvProblem) -> float:
    return winograd(p, 2)


def winograd_f4x3(p: ConvProblem) -> float:
    return winograd(p, 4)


def _pool(p: PoolProblem, kind: str) -> float:
    cells = p.flops * p.itemsize + p.bytes
    return CALL_SECONDS + cells / POOL_BYTES[kind]


def pool_direct(p: PoolProblem) -> float:
    return _pool(p, "direct")


def pool_naive(p: PoolProblem) -> float:
    return _pool(p, "naive")


def pool_reference(p: PoolProblem) -> float:
    return REFERENCE_CALL_SECONDS + _pool(p, "reference")


# ---------------------------------------------------------------------------------------------------------------
# Errors: the largest one expected, as a share of the largest output


def plain_error(p: ConvProblem) -> float:
    """An estimate, not a bound: rounding errors of a sum of n terms grow like a random walk. Limits no choice."""
    terms = p.icg * p.kh * p.kw if p.pass_ != "backward_weight" else max(1, p.mb * p.oh * p.ow)
    return 3 * EPS[p.dtype] * max(1.0, terms**0.5) / 2


def exact_error(p: ConvProblem | PoolProblem) -> float:
    """Accumulated in float64 (or integers) and rounded once."""
    return EPS[p.dtype]


def pool_error(p: PoolProblem) -> float:
    return 0.0 if "max" in p.op else 4 * EPS[p.dtype]


def _winograd_error(p: ConvProblem, tile: str) -> float:
    """What winograd.py measured, by the channels summed over."""
    from fastconv.winograd import typical_error  # on use: its exact fractions cost 7 ms at import

    return typical_error(tile, p.icg if p.pass_ == "forward" else p.ocg, p.dtype)


def winograd_f2x3_error(p: ConvProblem) -> float:
    return _winograd_error(p, "f2x3")


def winograd_f4x3_error(p: ConvProblem) -> float:
    return _winograd_error(p, "f4x3")
