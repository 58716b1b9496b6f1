"""What the tests of the public functions share: arrays of integers, both layouts, and a call of each function."""

import numpy as np

import fastconv


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def nhwc(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1))


def hwio(a):
    return np.ascontiguousarray(a.transpose(2, 3, 1, 0))


def forward(x, w, bias=None, residual=None, **geometry):
    """conv2d by the reference row, whatever else is installed."""
    return fastconv.conv2d(x, w, bias, residual=residual, algorithm="reference", **geometry)


def calls(rng, layout="NCHW"):
    """name -> (call with out=, shape and dtype of the result)."""
    x, w = integers(rng, 2, 3, 8, 9), integers(rng, 5, 3, 3, 3)
    t = integers(rng, 3, 4, 3, 2)
    if layout == "NHWC":
        x, w, t = nhwc(x), hwio(w), hwio(t)
    o = {"layout": layout}
    y = fastconv.conv2d(x, w, **o)
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True, **o)
    return {
        "conv2d": lambda out: fastconv.conv2d(x, w, out=out, **o),
        "conv2d_input": lambda out: fastconv.conv2d_input(x.shape, w, y, out=out, **o),
        "conv2d_weight": lambda out: fastconv.conv2d_weight(x, w.shape, y, out=out, **o),
        "conv2d circular": lambda out: fastconv.conv2d(x, w, padding=1, padding_mode="circular", out=out, **o),
        "conv2d_input circular": lambda out: fastconv.conv2d_input(
            x.shape, w, fastconv.conv2d(x, w, padding=1, **o), padding=1, padding_mode="circular", out=out, **o
        ),
        "conv_transpose2d": lambda out: fastconv.conv_transpose2d(x, t, stride=2, out=out, **o),
        "max_pool2d": lambda out: fastconv.max_pool2d(x, 2, out=out, **o),
        "max_pool2d_backward": lambda out: fastconv.max_pool2d_backward(pooled, x.shape, indices, 2, out=out, **o),
        "avg_pool2d": lambda out: fastconv.avg_pool2d(x, 3, out=out, **o),
        "avg_pool2d_backward": lambda out: fastconv.avg_pool2d_backward(pooled, x.shape, 2, out=out, **o),
        "adaptive_max_pool2d": lambda out: fastconv.adaptive_max_pool2d(x, (3, 2), out=out, **o),
        "adaptive_avg_pool2d": lambda out: fastconv.adaptive_avg_pool2d(x, (3, 2), out=out, **o),
        "max_unpool2d": lambda out: fastconv.max_unpool2d(pooled, indices, 2, output_size=(8, 9), out=out, **o),
    }


NAMES = tuple(calls(np.random.default_rng(0)))
