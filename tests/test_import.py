"""Import loads nothing heavy (its time is measured in bench/import_time.py), and works without what is missing."""

import json
import os
import subprocess
import sys
import textwrap

import pytest


def python(code, timeout=180, **environment):
    """stdout of a fresh interpreter; a failure shows its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    code = """
        import sys, json, fastconv
        print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
    """
    loaded = set(json.loads(python(code)))
    assert not loaded & {"numba", "llvmlite", "torch", "matplotlib", "scipy", "tqdm", "pytest", "hypothesis", "tkinter"}


def test_a_compiled_convolution_loads_no_numba():
    code = """
        import sys, numpy as np, fastconv
        assert fastconv.info()["cython rows"] == "ready"
        fastconv.conv2d(np.ones((1, 3, 8, 8), "f4"), np.ones((4, 3, 3, 3), "f4"))
        fastconv.max_pool2d(np.ones((1, 3, 8, 8), "f4"), 2)
        fastconv.explain((1, 3, 8, 8), (4, 3, 3, 3))
        print("numba" in sys.modules)
    """
    from fastconv import host

    if host.extension_fault():
        pytest.skip(host.extension_fault())
    assert python(code).strip() == "False"


def test_nothing_is_printed_at_import_or_by_calls():
    code = """
        import numpy as np, fastconv
        fastconv.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BLOCKER = """
    import sys
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name == {name!r} or name.startswith({name!r} + "."):
                raise ImportError("blocked by the test")
    sys.meta_path.insert(0, Blocker())
"""

SMALL_USE = """
    import numpy as np, fastconv
    x = np.arange(2 * 3 * 9 * 8, dtype="f4").reshape(2, 3, 9, 8) % 7
    w = np.arange(4 * 3 * 3 * 3, dtype="f4").reshape(4, 3, 3, 3) % 5
    y = fastconv.conv2d(x, w, padding=1)
    assert (y == fastconv.conv2d(x, w, padding=1, algorithm="reference")).all()
    assert fastconv.max_pool2d(y, 2).shape == (2, 4, 4, 4)
    dx, dw, db = fastconv.conv2d_backward(y, x, w, padding=1)
    assert dx.shape == x.shape and dw.shape == w.shape
"""


def blocked(name):
    return textwrap.dedent(BLOCKER.format(name=name))


def test_without_the_extension_the_other_rows_remain():
    code = """
        info = fastconv.info()
        assert "no compiled extension" in info["cython rows"]
        assert info["numba rows"] == "ready" and info["isa"] == "none"
        text = fastconv.explain((2, 3, 9, 8), (4, 3, 3, 3))
        assert "> conv2d_forward" in text and "__numba" in text and "no compiled extension" in text
        try:
            fastconv.conv2d(x, w, backend="cython")
        except fastconv.NoKernelError as error:
            assert "install a C compiler" in str(error)
        else:
            raise SystemExit("backend='cython' ran without its extension")
    """
    python(blocked("fastconv._cython") + textwrap.dedent(SMALL_USE) + textwrap.dedent(code))


def test_without_numba_the_other_rows_remain():
    """find_spec says that Numba is not installed; nothing tries to import it."""
    code = """
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] == "numba" else real(name, *a)
    """
    use = """
        assert "pip install numba" in fastconv.info()["numba rows"]
        assert "Numba is not installed" in fastconv.explain((2, 3, 9, 8), (4, 3, 3, 3))
    """
    python(textwrap.dedent(code) + blocked("numba") + textwrap.dedent(SMALL_USE) + textwrap.dedent(use))


def test_with_neither_numpy_is_left():
    code = """
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] == "numba" else real(name, *a)
    """
    use = """
        assert fastconv.plan_conv2d(x.shape, w).kernel == "conv2d_forward_reference__numpy"
    """
    python(
        textwrap.dedent(code) + blocked("numba") + blocked("fastconv._cython")
        + textwrap.dedent(SMALL_USE) + textwrap.dedent(use)
    )  # fmt: skip


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_isa_is_capped_by_the_environment(isa):
    from fastconv import host

    available = host.isas()
    if not available:
        pytest.skip(host.extension_fault())
    expected = [name for name in available if host.ISAS.index(name) <= host.ISAS.index(isa)][-1]
    code = "import fastconv; print(fastconv.info()['isa'])\n" + textwrap.dedent(SMALL_USE)
    assert python(code, FASTCONV_ISA=isa).strip() == expected


@pytest.mark.parametrize("isa", ["sse9", "avx-512", "1"])
def test_unknown_isa_is_refused(isa):
    from fastconv import host

    if host.extension_fault():
        pytest.skip(host.extension_fault())
    code = """
        import numpy as np, fastconv
        try:
            fastconv.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)))
        except ValueError as error:
            print(error)
    """
    assert "FASTCONV_ISA must be one of portable, neon, avx2, avx512" in python(code, FASTCONV_ISA=isa)


def test_verbose_by_the_environment():
    code = "import numpy as np, fastconv; fastconv.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)))"
    for value, lines in (("1", 1), ("0", 0), ("", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "FASTCONV_VERBOSE": value}, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout == "" and len(done.stderr.splitlines()) == lines, done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_bad_number_of_threads_in_the_environment(value):
    code = """
        import fastconv
        try:
            fastconv.get_num_threads()
        except ValueError as error:
            print(error)
    """
    assert "FASTCONV_NUM_THREADS must be a positive int" in python(code, FASTCONV_NUM_THREADS=value)


def test_number_of_threads_from_the_environment():
    assert python("import fastconv; print(fastconv.get_num_threads())", FASTCONV_NUM_THREADS="3").strip() == "3"


def test_read_only_home_is_no_error(tmp_path):
    folder = tmp_path / "no"
    folder.write_text("a file where the cache folder should be")
    python(
        """
        import numpy as np, fastconv
        fastconv.tune((1, 2, 6, 6), (3, 2, 3, 3), backend="cython" if fastconv.info()["isa"] != "none" else "numpy")
        """,
        FASTCONV_CACHE=str(folder / "cache"),
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_while_another_thread_imports(tmp_path):
    """The fork waits: in a child born before its end, the module would be locked for ever."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.5)\nready = True\n")
    code = """
        import os, sys, threading, time
        from fastconv.loading import load

        thread = threading.Thread(target=load, args=("slow_to_import",))
        thread.start()
        while "slow_to_import" not in sys.modules:
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            os._exit(0 if load("slow_to_import").ready else 1)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        print("done")
    """
    assert python(code, timeout=60, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path])).strip() == "done"
