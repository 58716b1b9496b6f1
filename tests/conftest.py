"""Fixtures of the whole suite: a seeded generator, a private cache folder, settings restored after each test."""

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
