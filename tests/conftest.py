"""Fixtures of the whole suite: a seeded generator, digits, a private cache folder, threads as they were before."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings

hypothesis_settings.register_profile("suite", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis_settings.load_profile("suite")


@pytest.fixture
def rng():
    """The same numbers in every run."""
    import numpy as np

    return np.random.default_rng(20240229)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Measured choices of the user must not decide which kernels the suite meets."""
    from fastconv import autotune

    patch = pytest.MonkeyPatch()
    patch.setenv("FASTCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(autotune, "_choices", None)
    yield
    patch.undo()


@pytest.fixture
def threads():
    """set_num_threads, undone after the test."""
    import fastconv

    before = fastconv.get_num_threads()
    yield fastconv.set_num_threads
    fastconv.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    """The digits of the package: ((x, y) for training, (x, y) for testing)."""
    from fastconv.nn import data

    return data.load_mnist("embedded")


@pytest.fixture(scope="module")
def few(digits):
    """100 training and 50 test digits."""
    (x, y), (x_test, y_test) = digits
    return (x[:100], y[:100]), (x_test[:50], y_test[:50])
