"""nn.augment: images changed at random, batches made ahead; and fit with both."""

import threading
import time

import numpy as np
import pytest

from fastconv.nn import Sequential, augment, layers, load_model
from fastconv.nn.seeding import AUGMENT, Stream


def stream(seed=0):
    return Stream(seed, AUGMENT)


def images(n=6, h=9, w=12, c=2, dtype="float32"):
    return np.random.default_rng(4).random((n, h, w, c)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_to_change_changes_nothing(dtype):
    x = images(dtype=dtype)
    y = augment.RandomAffine()(x, stream())
    assert y is not x and y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def plain(x, places_y, places_x):
    """Bilinear interpolation, one pixel after the other."""
    n, h, w, _ = x.shape

    def cell(image, i, j):
        return image[i, j] if 0 <= i < h and 0 <= j < w else np.zeros(image.shape[2])

    out = np.zeros(x.shape)
    for k, i, j in np.ndindex(n, h, w):
        py, px = places_y[k, i, j], places_x[k, i, j]
        a, b = int(np.floor(py)), int(np.floor(px))
        for da, wa in ((0, 1 - (py - a)), (1, py - a)):
            for db, wb in ((0, 1 - (px - b)), (1, px - b)):
                out[k, i, j] += wa * wb * cell(x[k], a + da, b + db)
    return out


def test_every_amount_against_plain_loops():
    x = images(dtype="float64")
    n, h, w, _ = x.shape
    change = augment.RandomAffine(degrees=40, shift=3, zoom=0.3, shear=0.2)
    drawn = (2 * stream().uniform(6 * n) - 1).reshape(6, n)
    places = np.empty((2, n, h, w))
    for k in range(n):
        angle, shear = np.radians(40) * drawn[0, k], 0.2 * drawn[1, k]
        zoom_y, zoom_x = 1 + 0.3 * drawn[2, k], 1 + 0.3 * drawn[3, k]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle) + shear, np.cos(angle)]])
        turn = turn @ np.diag([1 / zoom_y, 1 / zoom_x])
        for i, j in np.ndindex(h, w):
            middle = np.array([(h - 1) / 2, (w - 1) / 2])
            places[:, k, i, j] = turn @ (np.array([i, j]) - middle) + middle + 3 * drawn[4:, k]
    turned = np.stack([np.cos(np.radians(40) * drawn[0])])  # all images differ
    assert len(np.unique(turned)) == n
    # the slant and the turn are scaled by row and column as documented
    got = change(x, stream())
    wanted = plain(x, *places)
    assert np.abs(got - wanted).max() < 1e-12


def test_shifts_move_the_picture_and_fill_with_zeros():
    x = np.zeros((200, 7, 7, 1), np.float32)
    x[:, 3, 3] = 1
    y = augment.RandomAffine(shift=2)(x, stream())
    assert np.abs(y.sum(axis=(1, 2, 3)) - 1).max() < 1e-5, "nothing is lost inside"
    row = (y.sum(axis=(2, 3)) * np.arange(7)).sum(axis=1)
    assert row.min() < 1.3 and row.max() > 4.7 and abs(row.mean() - 3) < 0.3
    far = augment.RandomAffine(shift=50)(x, stream())
    assert (far.sum(axis=(1, 2, 3)) < 1e-6).mean() > 0.8


@pytest.mark.parametrize("bad", [{"degrees": -1}, {"zoom": 1.0}, {"shift": float("nan")}, {"shear": float("inf")}])
def test_bad_amounts(bad):
    with pytest.raises(ValueError, match="RandomAffine: "):
        augment.RandomAffine(**bad)


def test_ahead_keeps_order_and_passes_errors():
    assert list(augment.ahead(range(50))) == list(range(50))
    assert list(augment.ahead([])) == []

    def broken():
        yield 1
        raise OSError("the disk is gone")

    found = augment.ahead(broken())
    assert next(found) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_ahead_makes_the_next_item_meanwhile_and_ends_with_its_user():
    started = []

    def items():
        for number in range(100):
            started.append(number)
            yield number

    found = augment.ahead(items())
    assert next(found) == 0
    deadline = time.perf_counter() + 5
    while len(started) < 2 and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert 2 <= len(started) <= 4
    found.close()
    assert not any(thread.name == "fastconv batches" for thread in threading.enumerate())


def small(seed=0):
    model = Sequential([layers.Conv2D(4, 3, activation="relu", input_shape=(9, 12, 2)), layers.Flatten(),
                        layers.Dense(3, activation="softmax")], seed=seed)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_fit_with_augmentation_is_fixed_by_the_seed_and_continues(tmp_path):
    x, y = images(50), np.arange(50) % 3
    change = augment.RandomAffine(degrees=10, shift=1)
    runs = [small(), small(), small(1)]
    for model in runs:
        model.fit(x, y, batch_size=16, epochs=2, augment=change, verbose=0)
    first, again, other = (model.get_weights() for model in runs)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))
    half = small()
    half.fit(x, y, batch_size=16, epochs=1, augment=change, verbose=0)
    half.save(tmp_path / "half.npz")
    rest = load_model(tmp_path / "half.npz")
    rest.fit(x, y, batch_size=16, epochs=2, initial_epoch=1, augment=change, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, rest.get_weights()))


def test_what_fit_refuses():
    x, y = images(8), np.arange(8) % 3
    with pytest.raises(ValueError, match="augment is for arrays"):
        small().fit(iter([(x, y)]), steps_per_epoch=1, augment=augment.RandomAffine())
    with pytest.raises(ValueError, match="augment changed the shape"):
        small().fit(x, y, augment=lambda batch, _: batch[:, 1:], verbose=0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_augmentation_may_return_its_input_or_change_it_in_place(shuffle):
    x, y = images(50), np.arange(50) % 3
    kept = x.copy()

    def trained(change):
        model = small()
        model.fit(x, y, batch_size=8, epochs=2, augment=change, shuffle=shuffle, verbose=0)
        return model.get_weights()

    def in_place(batch, _):
        batch *= 1
        return batch[:]

    plain = trained(None)
    for change in (lambda batch, _: batch, in_place):
        assert all(np.array_equal(a, b) for a, b in zip(plain, trained(change)))

    def spoil(batch, _):
        batch *= 0
        return batch

    trained(spoil)
    assert np.array_equal(x, kept), "the caller's images stay as they are"
