"""fastconv: fast 2-D convolution and pooling for NumPy arrays.

    import numpy as np, fastconv
    y = fastconv.conv2d(x, weight, bias, padding="same", activation="relu")      # NCHW, OIHW; or layout="NHWC"

Convolution: conv2d, conv1d, conv_transpose2d, conv_transpose1d; gradients conv2d_backward, conv2d_input, conv2d_weight.
Fused with ReLU and 2x2 max pooling: conv2d_relu_max_pool2d; gradients conv2d_relu_max_pool2d_input, ..._weight.
Pooling: max_pool2d, avg_pool2d, adaptive_max_pool2d, adaptive_avg_pool2d and their *_backward; lp_pool2d, max_unpool2d.
Choice: explain, plan_conv2d, tune, calibrate, warmup, config, info, set_num_threads. A training loop: fastconv.nn.

Map of the rooms (data flows one way, downwards; a test holds it):

    nn, benchmark, cli      guests: they use the public functions only
    functional/             conv2d, its gradients, conv_transpose2d, pools: arrays -> Problem -> Plan -> arrays
    problem                 ConvProblem, PoolProblem: checked numbers, no arrays
    settings, autotune      defaults of a context; measured choices on disk
    warmed                  which Numba kernels are compiled already
    dispatch, registry      verdicts(problem), plan(problem), explain(problem); KERNELS, the one ordered table
    capability, cost        what a row cannot do and needs; its work, counted, and which error it makes
    rates                   seconds for each kind of work, shipped or fitted to this machine by calibrate
    _cython, _numba, _cuda  the loops; reference: their meaning in NumPy, float64
    csrc/                   the registers (C micro-kernels, one folder for each instruction set)
    host, threads           what this machine can run; how many threads a call may use
    loading                 imports on first use, which a fork waits for
"""

from typing import Any

from fastconv._version import __version__
from fastconv.functional import (
    ConvPlan,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    calibrate,
    clear_cache,
    conv1d,
    conv2d,
    conv2d_backward,
    conv2d_input,
    conv2d_relu_max_pool2d,
    conv2d_relu_max_pool2d_input,
    conv2d_relu_max_pool2d_weight,
    conv2d_weight,
    conv_transpose1d,
    conv_transpose2d,
    explain,
    lp_pool2d,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
    output_shape,
    plan_conv2d,
    tune,
    warmup,
)
from fastconv.information import info
from fastconv.loading import load
from fastconv.problem import ConvProblem, NoKernelError, PoolProblem, resolve_padding
from fastconv.settings import config
from fastconv.threads import get_num_threads, set_num_threads

__all__ = [
    "ConvPlan",
    "ConvProblem",
    "NoKernelError",
    "PoolProblem",
    "__version__",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "calibrate",
    "clear_cache",
    "config",
    "conv1d",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_relu_max_pool2d",
    "conv2d_relu_max_pool2d_input",
    "conv2d_relu_max_pool2d_weight",
    "conv2d_weight",
    "conv_transpose1d",
    "conv_transpose2d",
    "explain",
    "get_num_threads",
    "info",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "output_shape",
    "plan_conv2d",
    "resolve_padding",
    "set_num_threads",
    "tune",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """`fastconv.nn` is imported when it is first named."""
    if name == "nn":
        return load("fastconv.nn")
    raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
