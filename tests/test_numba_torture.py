"""The Numba kernels under torture: many Python threads, fork, Numba's threading layers, caches that fail or race."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from tests import compare
from tests.torture import check, problems

# A hung thread or child is a failure, not a hung suite.
TIMEOUT_SECONDS = 300
ROOT = Path(__file__).resolve().parent.parent

def python(code, **environment):
    """Run code in a process of its own."""
    imports = "import numpy as np, fastconv\nfrom tests.torture import check, check_forward, problems\n"
    return subprocess.Popen(
        [sys.executable, "-c", imports + textwrap.dedent(code)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def outcome(process):
    """What it printed; a failure with its messages if it failed or hung."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize("count", [3])
def test_eight_threads_with_200_random_problems_each(count, threads):
    """More callers than cores, all in one pool: every result is exact."""
    threads(count)
    gate = threading.Barrier(8)

    def work(seed):
        gate.wait(TIMEOUT_SECONDS)
        for problem in problems(seed, 200):
            check(*problem)
        return seed

    with ThreadPoolExecutor(8) as executor:
        assert sorted(executor.map(work, range(8), timeout=TIMEOUT_SECONDS)) == list(range(8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_while_eight_threads_compute():
    """A child forked in the midst of calls has a working pool of its own, and so has the parent after it."""
    out, _ = outcome(python("""
        import os, threading, warnings
        warnings.simplefilter("ignore")
        fastconv.set_num_threads(3)
        for problem in problems(0, 20):
            check(*problem)
        stop = threading.Event()
        failed = []

        def work(seed):
            while not stop.is_set():
                try:
                    for problem in problems(seed, 20):
                        check(*problem)
                except BaseException as error:
                    failed.append(error)
                    raise

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for turn in range(6):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for problem in problems(100 + turn, 20):
                        check(*problem)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for worker in workers:
            worker.join()
        assert not failed, failed
        print("done")
    """))
    assert out == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_while_another_thread_compiles():
    """The child compiles as well: it does not wait for a compilation that it has no thread for."""
    out, _ = outcome(python("""
        import os, threading, warnings
        warnings.simplefilter("ignore")
        from fastconv._numba.compile import kernel

        def another(number):
            @kernel("out1")
            def fill(y):
                y[0] = number
            y = np.zeros(1)
            fill["float64"](y)
            assert y[0] == number

        another(0)
        stop = threading.Event()

        def work():
            number = 1
            while not stop.is_set():
                another(number)
                number += 1

        worker = threading.Thread(target=work)
        worker.start()
        for turn in range(8):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    another(1000 + turn)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        worker.join()
        print("done")
    """))
    assert out == "done\n"


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_beside_each_threading_layer(layer, first):
    """Users' own parallel loops, on any layer, and ours: in turns, in any order. (Ours use none of these layers.)"""
    code = """
        import numba
        from numba.np.ufunc import parallel

        @numba.njit(parallel=True)
        def theirs(a):
            total = 0.0
            for i in numba.prange(a.size):
                total += a[i]
            return total

        fastconv.set_num_threads(3)
        a = np.arange(10_000.0)
        for turn, problem in enumerate(problems(1, 30)):
            if turn or FIRST == "theirs":
                try:
                    assert theirs(a) == a.sum()
                except ValueError as error:  # the layer's library is not on this machine
                    print("missing:", error)
                    break
            check(*problem)
        else:
            print("done", numba.threading_layer())
    """
    libraries = os.path.join(sys.prefix, "lib") + os.pathsep + os.environ.get("LD_LIBRARY_PATH", "")  # pip's tbb
    environment = {"NUMBA_THREADING_LAYER": layer, "LD_LIBRARY_PATH": libraries}
    out, _ = outcome(python(code.replace("FIRST", repr(first)), **environment))
    if out.startswith("missing:"):
        pytest.skip(out.strip())
    assert out == f"done {layer}\n"


def test_read_only_home(tmp_path):
    """Nothing can be written anywhere: one warning, and everything works."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    home = tmp_path / "home"
    home.mkdir()
    # a file in the way of each folder holds against root too, whom permissions do not stop
    (home / "file").write_text("")
    code = """
        import warnings
        from numba.core import caching
        for name in ("InTreeCacheLocator", "InTreeCacheLocatorFsAgnostic", "IPythonCacheLocator"):
            locator = getattr(caching, name, None)
            if locator is not None:  # the package lies in a folder that cannot be written either
                locator.from_function = classmethod(lambda *a, **k: None)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for problem in problems(2, 10):
                check_forward(*problem, algorithm="naive")
            assert fastconv.warmup(["max_pool2d mb1ic4ih6kh2sh2"], layouts=["NCHW"])
            assert fastconv.tune((1, 4, 6, 6), (4, 4, 2, 2), dtype="int64", backend="numba")
        told = [str(w.message) for w in seen if "cannot keep compiled Numba kernels" in str(w.message)]
        assert len(told) == 1, [str(w.message) for w in seen]
        print("done")
    """
    blocked = str(home / "file" / "cache")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "FASTCONV_CACHE"), blocked)
    out, _ = outcome(python(code, **places))
    assert out == "done\n"


def test_two_processes_fill_the_cache_at_once(tmp_path):
    """Both compile the same kernels into an empty folder at the same moment; a third then compiles nothing."""
    code = """
        import time
        from numba.core import event
        class Count(event.Listener):
            compiled = 0
            def on_start(self, happening):
                self.compiled += happening.data["dispatcher"].py_func.__module__.startswith("fastconv")
            def on_end(self, happening):
                pass
        count = Count()
        event.register("numba:compile", count)
        while time.time() < START:
            time.sleep(0.001)
        for problem in problems(3, 20):
            check_forward(*problem)
        print(count.compiled)
    """
    start = time.time() + 3
    both = [python(code.replace("START", str(start)), NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    for process in both:
        assert int(outcome(process)[0]) > 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".nbi", ".nbc")]
    assert outcome(python(code.replace("START", "0"), NUMBA_CACHE_DIR=str(tmp_path)))[0] == "0\n"


def test_an_interrupted_loop_ends_before_the_error_is_seen():
    """An exception between two kernels: tasks under way come to an end, none is begun any more, the pool lives on."""
    from fastconv._numba import tasks
    from fastconv._numba.compile import kernel

    @kernel("out1 tickets")
    def fill(y, tickets):
        for task in tasks.claim(tickets):
            for _ in range(1000):
                y[task] += 1.0

    run = fill["float64"]

    def phase(array, interrupted=False):
        def part(tickets, worker):
            run(array, tickets)
            if interrupted and worker == 0:
                raise KeyboardInterrupt

        return array.size, part

    for _ in range(20):
        first, second, after = np.zeros(500), np.zeros(500), np.zeros(500)
        with pytest.raises(KeyboardInterrupt):
            tasks.run_phases(3, phase(first, interrupted=True), phase(second))
        left = second.copy()
        time.sleep(0.002)
        compare.assert_exact(second, left)
        assert set(first) == {1000.0} and set(second) <= {0.0, 1000.0}
        tasks.run_phases(3, phase(after))
        assert set(after) == {1000.0}
