"""The public functions beside conv2d: gradients, transposed and 1-D convolutions, pools by hand."""


import numpy as np
import pytest

import fastconv
from tests import compare
from tests.calls import forward, integers

# ---------------------------------------------------------------------------------------------------------------
# Gradients, transposed and 1-D


def test_output_mask(rng):
    x, w = integers(rng, 1, 2, 6, 6), integers(rng, 3, 2, 3, 3)
    dy = integers(rng, 1, 3, 4, 4)
    full = fastconv.conv2d_backward(dy, x, w)
    for mask in ((True, False, False), (False, True, False), (False, False, True), (False, False, False)):
        for got, want, on in zip(fastconv.conv2d_backward(dy, x, w, output_mask=mask), full, mask):
            assert (got is None) == (not on)
            if on:
                compare.assert_exact(got, want)


def test_backward_with_winograd_forced(rng):
    x, w = integers(rng, 1, 8, 9, 9), integers(rng, 8, 8, 3, 3)
    dy = integers(rng, 1, 8, 7, 7)
    if not any("winograd" in k and "no:" not in k for k in fastconv.explain(x.shape, w.shape).splitlines()):
        pytest.skip("no Winograd row can run here")
    wanted = fastconv.conv2d_backward(dy, x, w, precision="strict")
    for got, want in zip(fastconv.conv2d_backward(dy, x, w, algorithm="winograd_f2x3"), wanted):
        compare.assert_exact(got, want)


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
def test_conv1d(layout, rng):
    x, w, b = integers(rng, 2, 3, 17), integers(rng, 4, 3, 5), integers(rng, 4)
    r = integers(rng, 2, 4, 9)
    geometry = {"stride": 2, "padding": (3, 1), "dilation": 1}
    wanted = forward(x[:, :, None], w[:, :, None], b, r[:, :, None], stride=(1, 2), padding=(0, 0, 3, 1))[:, :, 0]
    if layout == "NWC":
        x, w, r = x.transpose(0, 2, 1), w.transpose(2, 1, 0), r.transpose(0, 2, 1)
    y = fastconv.conv1d(x, w, b, residual=r, layout=layout, **geometry)
    compare.assert_exact(y if layout == "NCW" else y.transpose(0, 2, 1), wanted)
    out = np.empty_like(y)
    assert fastconv.conv1d(x, w, b, residual=r, layout=layout, out=out, **geometry) is out
    compare.assert_exact(out, y)
    compare.assert_exact(fastconv.conv1d(x[0], w, b, residual=r[0], layout=layout, **geometry), y[0])
    same = fastconv.conv1d(x, w, padding="same", layout=layout)
    assert same.shape[1 if layout == "NWC" else 2] == 17


@pytest.mark.parametrize("layout", ["NCW", "NWC"])
def test_conv_transpose1d(layout, rng):
    x, w, b = integers(rng, 2, 3, 8), integers(rng, 3, 4, 5), integers(rng, 4)
    wanted = fastconv.conv_transpose2d(
        x[:, :, None], w[:, :, None], b, (1, 2), (0, 0, 1, 1), (0, 1), algorithm="reference"
    )[:, :, 0]
    if layout == "NWC":
        x, w = x.transpose(0, 2, 1), w.transpose(2, 1, 0)
    y = fastconv.conv_transpose1d(x, w, b, 2, 1, 1, layout=layout)
    compare.assert_exact(y if layout == "NCW" else y.transpose(0, 2, 1), wanted)
    compare.assert_exact(fastconv.conv_transpose1d(x[0], w, b, 2, 1, 1, layout=layout), y[0])


@pytest.mark.parametrize(
    "kernel, stride, padding, extra, dilation",
    [(3, 2, 1, 1, 1), (4, (2, 3), (1, 0), (0, 2), 1), (2, 1, 0, 2, 3), (3, 1, 0, (3, 1), (4, 2)), (1, 3, 0, 2, 1)],
)
def test_transposed_convolution_by_inserting_zeros(kernel, stride, padding, extra, dilation, rng):
    """The textbook way, which the library does not take."""
    x, w = integers(rng, 2, 3, 4, 5), integers(rng, 3, 2, kernel, kernel)
    (sh, sw), (ph, pw), (eh, ew), (dh, dw) = (
        v if isinstance(v, tuple) else (v, v) for v in (stride, padding, extra, dilation)
    )
    spread = np.zeros((2, 3, 3 * sh + 1, 4 * sw + 1), np.float32)
    spread[:, :, ::sh, ::sw] = x
    th, tw = (kernel - 1) * dh, (kernel - 1) * dw
    big = np.pad(spread, ((0, 0), (0, 0), (th, th + eh), (tw, tw + ew)))
    full = forward(big, w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], dilation=(dh, dw))
    wanted = full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]
    y = fastconv.conv_transpose2d(x, w, None, stride, padding, extra, 1, dilation)
    compare.assert_exact(y, wanted)


def test_transposed_with_bias_activation_residual(rng):
    x, w, b = integers(rng, 2, 3, 5, 4), integers(rng, 3, 4, 3, 3), integers(rng, 4)
    plain = fastconv.conv_transpose2d(x, w, stride=2)
    r = integers(rng, *plain.shape)
    y = fastconv.conv_transpose2d(x, w, b, stride=2, residual=r, activation="relu")
    compare.assert_exact(y, np.maximum(plain + b.reshape(1, -1, 1, 1) + r, 0))


# ---------------------------------------------------------------------------------------------------------------
# Pools


def test_pools_by_hand():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    compare.assert_exact(y[0, 0], np.array([[5.0, 7], [13, 15]]))
    compare.assert_exact(indices[0, 0], np.array([[5, 7], [13, 15]]))
    compare.assert_exact(fastconv.avg_pool2d(x, 2)[0, 0], np.array([[2.5, 4.5], [10.5, 12.5]]))
    compare.assert_exact(fastconv.max_unpool2d(y, indices, 2)[0, 0, 1::2, 1::2], y[0, 0])
    compare.assert_exact(fastconv.adaptive_avg_pool2d(x, 1).reshape(1), np.array([7.5]))


def test_padded_cells_never_win_and_the_first_maximum_does():
    x = np.full((1, 1, 2, 2), -5.0, np.float32)
    y, indices = fastconv.max_pool2d(x, 2, 1, 1, return_indices=True)
    assert (y == -5).all()
    compare.assert_exact(indices[0, 0], np.array([[0, 0, 1], [0, 0, 1], [2, 2, 3]]))


@pytest.mark.parametrize("place", [0, 5, 8, 15, 16, 17, 30])
def test_nan_wins_in_body_and_tail_alike(place):
    x = np.arange(33, dtype=np.float32).reshape(1, 1, 1, 33)
    x[..., place] = np.nan
    y = fastconv.max_pool2d(x, (1, 3), (1, 1))
    assert [i for i in range(31) if np.isnan(y[0, 0, 0, i])] == [i for i in range(31) if i <= place <= i + 2]


def test_all_minus_inf_gives_a_valid_index():
    x = np.full((1, 2, 4, 4), -np.inf, np.float32)
    y, indices = fastconv.max_pool2d(x, 2, padding=1, return_indices=True)
    assert (y == -np.inf).all() and indices.min() >= 0 and indices.max() < 16
    compare.assert_exact(indices[0, 0, 0], np.array([0, 1, 3]))


def test_count_include_pad_is_true_by_default():
    x = np.ones((1, 1, 2, 2), np.float32)
    assert fastconv.avg_pool2d(x, 2, padding=1)[0, 0, 0, 0] == 0.25
    assert fastconv.avg_pool2d(x, 2, padding=1, count_include_pad=False)[0, 0, 0, 0] == 1
    assert fastconv.avg_pool2d(x, 2, padding=1, divisor_override=8)[0, 0, 0, 0] == 0.125


def test_cells_that_ceil_mode_adds_are_not_counted():
    x = np.ones((1, 1, 3, 3), np.float32)
    assert (fastconv.avg_pool2d(x, 2, ceil_mode=True) == 1).all()


def test_lp_pool(rng):
    x = integers(rng, 1, 2, 4, 6)
    y = fastconv.lp_pool2d(x, 1, 2)
    compare.assert_exact(y, np.abs(x).reshape(1, 2, 2, 2, 3, 2).sum(axis=(3, 5)))
    squares = np.array([[[[3.0, 4], [0, 0]]]])
    assert fastconv.lp_pool2d(squares, 2, 2).item() == 5


def test_max_unpool_output_size(rng):
    x = integers(rng, 1, 2, 5, 5)
    y, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    few, few_indices = fastconv.max_pool2d(x[..., :4, :4], 2, return_indices=True)
    assert fastconv.max_unpool2d(few, few_indices, 2).shape == (1, 2, 4, 4)
    back = fastconv.max_unpool2d(y, indices, 2, output_size=(5, 5))
    assert back.shape == x.shape
    compare.assert_exact(fastconv.max_unpool2d(y, indices, 2, output_size=x.shape), back)
    compare.assert_exact(back.reshape(2, -1)[0][indices[0, 0].ravel()], y[0, 0].ravel())
