"""What each kernel family costs (seconds on one thread, from a measured model) and which error it makes.

The rates were measured on one core of an AMD EPYC (Zen 4) with AVX-512; only their ratios decide. The choice must not
depend on the number of threads, or the bits of the result would.
"""

from __future__ import annotations

from fastconv.problem import ConvProblem, PoolProblem

# float32 operations a second that one core's multiply-add units reach; float64 has half.
PEAK_FLOPS = 115e9
NAIVE_FLOPS = 0.75e9
REFERENCE_FLOPS = 0.5e9
IM2COL_SHARE = 0.8
WINOGRAD_GEMM_SHARE = 0.9
# Bytes a second that pass through the transforms of images and of weights, and through the packing of panels.
TRANSFORM_BYTES = 27e9
WEIGHT_TRANSFORM_BYTES = 12e9
PACK_BYTES = 48e9
POOL_BYTES = {"direct": 8e9, "naive": 0.6e9, "reference": 0.1e9}
CALL_SECONDS = 1e-6

EPS = {"float32": 2.0**-24, "float64": 2.0**-53, "int64": 0.0}


def _peak(p: ConvProblem) -> float:
    return PEAK_FLOPS if p.dtype == "float32" else PEAK_FLOPS / 2


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def naive(p: ConvProblem) -> float:
    return CALL_SECONDS + p.flops / NAIVE_FLOPS


def reference(p: ConvProblem) -> float:
    return 50 * CALL_SECONDS + p.flops / REFERENCE_FLOPS


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
    return 50 * CALL_SECONDS + _pool(p, "reference")


# ---------------------------------------------------------------------------------------------------------------
# Errors: the largest one expected, as a share of the largest output


def plain_error(p: ConvProblem) -> float:
    """A float sum of n terms in blocks: random-walk growth, three standard deviations (Higham 2002, section 4.2)."""
    terms = p.icg * p.kh * p.kw if p.pass_ != "backward_weight" else max(1, p.mb * p.oh * p.ow)
    return 3 * EPS[p.dtype] * max(1.0, terms**0.5) / 2


def exact_error(p: ConvProblem | PoolProblem) -> float:
    """Accumulated in float64 (or integers) and rounded once."""
    return EPS[p.dtype]


def pool_error(p: PoolProblem) -> float:
    return 0.0 if "max" in p.op else 4 * EPS[p.dtype]


# Largest error over largest output at 64 channels in float32, measured with He weights, and its growth with channels.
F2X3_ERROR_64 = 3.0e-7
F4X3_ERROR_64 = 1.3e-6
ERROR_GROWTH = 0.45


def _winograd_error(p: ConvProblem, at_64: float) -> float:
    channels = p.icg if p.pass_ == "forward" else p.ocg
    return at_64 * (channels / 64) ** ERROR_GROWTH * EPS[p.dtype] / EPS["float32"]


def winograd_f2x3_error(p: ConvProblem) -> float:
    return _winograd_error(p, F2X3_ERROR_64)


def winograd_f4x3_error(p: ConvProblem) -> float:
    return _winograd_error(p, F4X3_ERROR_64)
