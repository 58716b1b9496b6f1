"""What is particular to the compilation of the Numba rows: when it happens, the disk cache, other vector lengths."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("numba")

import fastconv


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def test_importing_fastconv_does_not_import_numba():
    """Neither does its Numba package, nor the arithmetic of workspaces."""
    done = python(
        """
        import sys
        import fastconv, fastconv._numba
        from fastconv import capability
        from fastconv.problem import ConvProblem
        p = ConvProblem.parse("mb1ic8ih9oc8kh3")
        assert capability.numba_im2col_workspace(p, 2) > 0 and capability.numba_winograd_m4_workspace(p, 2) > 0
        assert "numba" not in sys.modules, "numba was imported"
        """
    )
    assert done.returncode == 0, done.stderr


CONVOLVE = """
    import warnings
    import numpy as np
    warnings.simplefilter("always")
    {before}
    import fastconv
    x, w = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 3, 3), np.float32)
    for algorithm in ("naive", "im2col"):
        y = fastconv.conv2d(x, w, algorithm=algorithm, backend="numba")
        assert (y == 18).all()
    {after}
"""


def test_unwritable_cache_directory_warns_once_and_works(tmp_path):
    """No directory can be written: Numba has no place for its cache at all."""
    done = python(
        CONVOLVE.format(
            before="""
    from numba.core import caching
    for name in ("_CacheLocator", "UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator"):
        getattr(caching, name).ensure_cache_path = property(lambda self: (_ for _ in ()).throw(OSError("read-only")))
""",
            after="",
        ),
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: fastconv cannot keep compiled Numba kernels") == 1, done.stderr


def test_cache_directory_lost_after_import(tmp_path):
    """The directory is there when kernels are declared and a file in its place when they are kept."""
    cache = tmp_path / "cache"
    done = python(
        CONVOLVE.format(
            before=f"""
    import shutil, pathlib
    import fastconv._numba.naive, fastconv._numba.im2col
    cache = pathlib.Path({str(cache)!r})
    shutil.rmtree(cache)
    cache.write_text("not a directory")
    from fastconv._numba import compile
    compile._with_cache = lambda dispatcher: dispatcher
""",
            after="",
        ),
        NUMBA_CACHE_DIR=str(cache),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: fastconv cannot keep compiled Numba kernels") == 1, done.stderr


def test_cache_is_read_back_and_forgets_with_the_sources(tmp_path):
    """A second process compiles nothing; a change in any source of the package makes the files stale."""
    report = """
    from fastconv._numba import compile, naive
    if {stale}:
        compile.source_hash = lambda: "other"
    dispatcher = naive._forward["float32"]
    assert dispatcher.stats.cache_path.startswith({path!r}), dispatcher.stats
    print(sum(dispatcher.stats.cache_hits.values()), sum(dispatcher.stats.cache_misses.values()))
    """
    outcomes = []
    for stale in (False, False, True):
        done = python(report.format(stale=stale, path=str(tmp_path)), NUMBA_CACHE_DIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        outcomes.append(done.stdout.split())
    assert outcomes == [["0", "1"], ["1", "0"], ["0", "1"]]


def test_damaged_cache_file_is_compiled_again(tmp_path):
    code = """
    import numpy as np, fastconv
    y = fastconv.conv2d(
        np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32), algorithm="naive", backend="numba"
    )
    assert y.item() == 9
    """
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)).returncode == 0
    damaged = 0
    for path in tmp_path.rglob("*.nb*"):
        path.write_bytes(path.read_bytes()[:20])
        damaged += 1
    assert damaged > 0
    done = python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_one_compilation_for_every_form_of_the_arrays(rng):
    """Read-only, transposed and reversed arguments do not compile second copies."""
    from fastconv._numba import im2col

    x = rng.integers(-3, 4, (1, 4, 6, 6)).astype(np.float32)
    w = rng.integers(-3, 4, (4, 4, 3, 3)).astype(np.float32)
    expected = fastconv.conv2d(x, w, algorithm="reference")
    x.flags.writeable = False
    for form in (w, np.asfortranarray(w), w[::-1, ::-1].copy()[::-1, ::-1], np.broadcast_to(w, w.shape)):
        y = fastconv.conv2d(x, form, algorithm="im2col", backend="numba")
        np.testing.assert_array_equal(y, expected)
    for entry in (im2col._pack_rows, im2col._gather_nchw):
        assert len(entry["float32"].signatures) == 1


def test_vectors_of_128_bits(tmp_path):
    """As on ARM, where a panel of float64 is narrower than a tile is tall."""
    code = """
        import numpy as np, fastconv
        from fastconv._numba import vector

        assert vector.VECTOR_BYTES == 16
        rng = np.random.default_rng(0)
        for layout in ("NHWC", "NCHW"):
            for dtype, channels, groups in (("f8", 7, 1), ("f4", 13, 1), ("f4", 6, 2)):
                image, weight = (2, 9, 8, groups * channels), (3, 3, channels, groups * 10)
                x, w = (rng.integers(-4, 5, shape).astype(dtype) for shape in (image, weight))
                if layout == "NCHW":
                    x, w = x.transpose(0, 3, 1, 2).copy(), w.transpose(3, 2, 0, 1).copy()
                how = {"padding": (1, 2), "stride": (1, 2), "groups": groups, "layout": layout}
                dy = np.ones_like(fastconv.conv2d(x, w, backend="numpy", **how))
                for number, call in enumerate((
                    lambda **k: fastconv.conv2d(x, w, **how, **k),
                    lambda **k: fastconv.conv2d_input(x.shape, w, dy, **how, **k),
                    lambda **k: fastconv.conv2d_weight(x, w.shape, dy, **how, **k),
                )):
                    got, wanted = call(algorithm="im2col", backend="numba"), call(backend="numpy")
                    assert np.array_equal(got, wanted), (layout, dtype, channels, groups, number)
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
