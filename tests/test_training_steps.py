"""functional.training: the compiled steps against NumPy in float64, in place, for any number of threads."""

import math

import numpy as np
import pytest

import fastconv
from fastconv.functional import training
from tests import compare

SIZES = [(1, 1), (3, 5), (64, 64), (1000, 33)]


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def backend(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(training, "_compiled", lambda: None)
    elif training._compiled() is None:
        pytest.skip("no compiled extension")
    return request.param


def draw(dtype, *shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def close(got, wanted, dtype, scale=8.0):
    limit = scale * np.finfo(dtype).eps * np.abs(wanted).max(initial=1)
    assert np.abs(got.astype(np.float64) - wanted).max(initial=0) <= limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, channels", SIZES)
def test_relu_backward(dtype, rows, channels):
    y, grad = np.maximum(draw(dtype, rows, channels), 0), draw(dtype, rows, channels)[::-1].copy()
    y[0, 0] = np.nan
    wanted = np.where(y > 0, grad, 0)
    masked, sums = grad.copy(), np.empty(channels, dtype)
    training.relu_backward(masked, y, sums)
    compare.assert_exact(masked, wanted)
    close(sums, wanted.sum(axis=0, dtype=np.float64), dtype, 64.0)
    kept, sums_alone = grad.copy(), np.empty(channels, dtype)
    training.relu_backward(kept, None, sums_alone)
    compare.assert_exact(kept, grad)
    close(sums_alone, grad.sum(axis=0, dtype=np.float64), dtype, 64.0)
    training.relu_backward(kept, y, None)
    compare.assert_exact(kept, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, classes", [(1, 2), (64, 10), (7, 1000)])
def test_softmax_cross_entropy(dtype, rows, classes):
    z, labels = 5 * draw(dtype, rows, classes), np.arange(rows) % classes
    wide = z.astype(np.float64)
    shares = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    grad = np.empty_like(z)
    loss, correct = training.softmax_cross_entropy(z, labels, grad)
    assert loss == pytest.approx(-np.log(shares[np.arange(rows), labels]).sum(), rel=1e-9)
    assert correct == (z.argmax(axis=1) == labels).sum()
    shares[np.arange(rows), labels] -= 1
    close(grad, shares / rows, dtype, 2.0)
    assert training.softmax_cross_entropy(z, labels, None) == (loss, correct)


def test_cross_entropy_of_ties_and_nan():
    z = np.array([[1.0, 1.0], [np.nan, 3.0], [2.0, np.nan], [-np.inf, 0.0]])
    assert training.softmax_cross_entropy(z[:1], np.array([0]), None)[1] == 1
    assert training.softmax_cross_entropy(z[1:3], np.array([0, 1]), None)[1] == 2
    loss, _ = training.softmax_cross_entropy(z[3:], np.array([1]), None)
    assert loss == 0
    assert math.isnan(training.softmax_cross_entropy(z[1:2], np.array([1]), None)[0])


def plain_update(rule, w, g, slots, options):
    """The formulas of Keras, in float64."""
    if rule == "sgd":
        rate, momentum, nesterov = options
        if not slots:
            return w - rate * g, []
        m = momentum * slots[0] - rate * g
        return (w + momentum * m - rate * g if nesterov else w + m), [m]
    if rule == "rmsprop":
        rate, rho, momentum, epsilon = options
        v = rho * slots[0] + (1 - rho) * g * g
        step = rate * g / np.sqrt(v + epsilon)
        if len(slots) == 1:
            return w - step, [v]
        m = momentum * slots[1] + step
        return w - m, [v, m]
    rate, b1, b2, epsilon, t = options
    m, v = slots[0] + (1 - b1) * (g - slots[0]), slots[1] + (1 - b2) * (g * g - slots[1])
    return w - rate * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + epsilon), [m, v]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 1000, 16385, 40000])
@pytest.mark.parametrize(
    "rule, slots, options",
    [
        ("sgd", 0, (0.1, 0.0, False)), ("sgd", 1, (0.1, 0.9, False)), ("sgd", 1, (0.1, 0.9, True)),
        ("rmsprop", 1, (0.01, 0.9, 0.0, 1e-7)), ("rmsprop", 2, (0.01, 0.9, 0.5, 1e-7)),
        ("adam", 2, (0.01, 0.9, 0.999, 1e-7, 3)),
    ],
)  # fmt: skip
def test_updates(rule, slots, options, size, dtype):
    w, g = draw(dtype, size), draw(dtype, size + 1)[1:].copy()
    kept = [np.abs(draw(dtype, size + 2 + i))[: size].copy() for i in range(slots)]
    wanted, wanted_slots = plain_update(rule, w.astype(np.float64), g.astype(np.float64),
                                        [s.astype(np.float64) for s in kept], options)  # fmt: skip
    results = []
    before = fastconv.get_num_threads()
    try:
        for threads in (1, 2):
            fastconv.set_num_threads(threads)
            new, new_slots = w.copy(), [s.copy() for s in kept]
            given = [*new_slots, *[None] * ((2 if rule == "rmsprop" else 1 if rule == "sgd" else 2) - slots)]
            if rule == "adam":
                rate, b1, b2, epsilon, step = options
                training.adam(new, g, *given, training.adam_rate(rate, b1, b2, step), b1, b2, epsilon)
            else:
                getattr(training, rule)(new, g, *given, *options)
            results.append((new, new_slots))
    finally:
        fastconv.set_num_threads(before)
    close(results[0][0], wanted, dtype)
    for got, slot in zip(results[0][1], wanted_slots):
        close(got, slot, dtype)
    for a, b in zip([results[0][0], *results[0][1]], [results[1][0], *results[1][1]]):
        compare.assert_same_bits(a, b)


def plain_affine(x, maps):
    """Bilinear interpolation in float64, one pixel after the other, zeros from outside."""
    n, h, w, c = x.shape
    rim = np.zeros((n, h + 4, w + 4, c))
    rim[:, 2:-2, 2:-2] = x
    out = np.zeros(x.shape)
    for k, i, j in np.ndindex(n, h, w):
        y, z = np.clip(maps[k] @ [i, j, 1], -2, [h, w])
        top, left = int(np.floor(y)), int(np.floor(z))
        for a, share_a in ((top, 1 - (y - top)), (top + 1, y - top)):
            for b, share_b in ((left, 1 - (z - left)), (left + 1, z - left)):
                out[k, i, j] += share_a * share_b * rim[k, a + 2, b + 2]
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 1, 1, 3), (4, 6, 4, 5)])
def test_affine_images(dtype, shape):
    x, rng = draw(dtype, *shape), np.random.default_rng(2)
    maps = np.tile(np.eye(2, 3), (shape[0], 1, 1)) + rng.uniform(-0.5, 0.5, (shape[0], 2, 3))
    maps[:, :, 2] += rng.uniform(-2, 2, (shape[0], 2))
    close(training.affine_images(x, maps), plain_affine(x, maps), dtype, 64.0)
    same = np.tile(np.eye(2, 3), (shape[0], 1, 1))
    compare.assert_exact(training.affine_images(x, same), x)
    same[:, :, 2] = 1
    moved = np.zeros_like(x)
    moved[:, :-1, :-1] = x[:, 1:, 1:]
    compare.assert_exact(training.affine_images(x, same), moved)
    same[:, :, 2] = -1e30
    compare.assert_exact(training.affine_images(x, same), np.zeros_like(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_affine_places_that_are_no_numbers_are_outside(dtype):
    x = draw(dtype, 2, 4, 4, 3)
    for bad in (np.nan, 1e300 if dtype == "float64" else 1e39, -1e39):
        maps = np.tile(np.eye(2, 3), (2, 1, 1))
        maps[1] = bad
        with np.errstate(all="ignore"):
            y = training.affine_images(x, maps)
        compare.assert_exact(y[0], x[0])
        compare.assert_exact(y[1], np.zeros_like(y[1]))
