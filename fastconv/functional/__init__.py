"""The public functions: arrays become a Problem, validated here and never again, then a Plan, then arrays."""

from fastconv.functional.calibration import calibrate
from fastconv.functional.conv_pool import (
    conv2d_relu_max_pool2d,
    conv2d_relu_max_pool2d_input,
    conv2d_relu_max_pool2d_weight,
)
from fastconv.functional.convolution import (
    clear_cache,
    conv2d,
    conv2d_backward,
    conv2d_input,
    conv2d_weight,
    conv_transpose2d,
)
from fastconv.functional.planning import ConvPlan, explain, output_shape, plan_conv2d
from fastconv.functional.pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    lp_pool2d,
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
)
from fastconv.functional.signals import conv1d, conv_transpose1d
from fastconv.functional.tuning import tune
from fastconv.functional.warming import warmup

__all__ = [
    "ConvPlan",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "calibrate",
    "clear_cache",
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
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "output_shape",
    "plan_conv2d",
    "tune",
    "warmup",
]
