"""Many Python threads, fork, the pool of the Numba rows, memory that stays flat over many shapes."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv
from fastconv import host
from fastconv import threads as pool
from tests import compare, rows

# A hung child or thread is a failure, not a hung suite.
TIMEOUT_SECONDS = 60


def images(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


def each_backend():
    faults = {backend: host.backend_fault(backend) for backend in ("cython", "numba")}
    return [pytest.param(b, marks=[pytest.mark.skip(reason=fault)] if fault else []) for b, fault in faults.items()]


@pytest.mark.parametrize("algorithm", ["im2col", "naive", "winograd_f2x3"])
@pytest.mark.parametrize("backend", each_backend())
def test_eight_python_threads_at_once(backend, algorithm, rng):
    """They share plans and the pool; each has its own workspace. Every result is exact."""
    shapes = [(2, 8, 17 + i, 19) for i in range(4)]
    w = images(rng, 16, 8, 3, 3)
    inputs = [images(rng, *s) for s in shapes]
    options = {"padding": 1, "algorithm": algorithm, "backend": backend}
    wanted = [fastconv.conv2d(x, w, padding=1, algorithm="reference") for x in inputs]
    gate = threading.Barrier(8)

    def work(k):
        gate.wait(TIMEOUT_SECONDS)
        for i in range(24):
            j = (k + i) % 4
            compare.assert_exact(fastconv.conv2d(inputs[j], w, **options), wanted[j])
        return k

    with ThreadPoolExecutor(8) as executor:
        assert sorted(executor.map(work, range(8), timeout=TIMEOUT_SECONDS)) == list(range(8))


def test_threads_may_use_different_settings(rng):
    x, w = images(rng, 1, 3, 9, 9), images(rng, 4, 3, 3, 3)
    gate = threading.Barrier(2)
    seen = {}

    def work(name):
        with fastconv.config(algorithm=name):
            gate.wait(TIMEOUT_SECONDS)
            seen[name] = fastconv.plan_conv2d(x.shape, w).kernel
            gate.wait(TIMEOUT_SECONDS)

    workers = [threading.Thread(target=work, args=(name,)) for name in ("naive", "reference")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIMEOUT_SECONDS)
    assert "naive" in seen["naive"] and "reference" in seen["reference"]


@pytest.mark.parametrize("backend", each_backend())
def test_kernels_release_the_gil(backend, rng):
    """A Python thread keeps counting while a kernel runs on another."""
    x, w = images(rng, 3, 32, 64, 64), images(rng, 64, 32, 5, 5)
    fastconv.conv2d(x[:1], w, backend=backend)
    ticks, done = [0], threading.Event()

    def count():
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    before = ticks[0]
    fastconv.conv2d(x, w, backend=backend, algorithm="naive")
    during = ticks[0] - before
    done.set()
    counter.join(TIMEOUT_SECONDS)
    assert during >= 3


def in_child(work):
    """Exit status of `work` in a forked child; a child that hangs is killed and reported."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("backend", each_backend())
def test_fork_after_use(backend, rng, threads):
    """The child gets a working pool; so does its child, and the parent keeps its own."""
    threads(3)
    x, w = images(rng, 4, 16, 33, 31), images(rng, 32, 16, 3, 3)
    options = {"backend": backend, "algorithm": "im2col"}
    wanted = fastconv.conv2d(x, w, **options)

    def child():
        for _ in range(3):
            compare.assert_same_bits(fastconv.conv2d(x, w, **options), wanted)
        assert in_child(lambda: compare.assert_same_bits(fastconv.conv2d(x, w, **options), wanted)) == 0

    assert in_child(child) == 0
    compare.assert_same_bits(fastconv.conv2d(x, w, **options), wanted)
    assert in_child(child) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_while_another_thread_computes(rng, threads):
    """Whatever locks are held at that moment, the child does not wait for threads it does not have."""
    threads(2)
    x, w = images(rng, 8, 16, 40, 40), images(rng, 32, 16, 3, 3)
    wanted = fastconv.conv2d(x, w, algorithm="im2col")
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            fastconv.conv2d(x, w, algorithm="im2col")

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(5):
            assert in_child(lambda: compare.assert_same_bits(fastconv.conv2d(x, w, algorithm="im2col"), wanted)) == 0
    finally:
        stop.set()
        worker.join(TIMEOUT_SECONDS)


def test_exit_with_a_used_pool_is_clean():
    code = """
        import numpy as np, fastconv
        fastconv.set_num_threads(4)
        for backend in ("auto", "numba"):
            try:
                fastconv.conv2d(np.ones((8, 16, 40, 40), "f4"), np.ones((32, 16, 3, 3), "f4"), backend=backend)
            except fastconv.NoKernelError:
                pass
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_number_of_threads_is_obeyed(threads):
    assert fastconv.get_num_threads() >= 1
    threads(5)
    assert fastconv.get_num_threads() == 5


def test_default_is_the_cores_allowed():
    assert host.cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert host.cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("quota, allowed", [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("x", 8)])
def test_container_quota_is_obeyed(quota, allowed, monkeypatch):
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: range(8), raising=False)

    class Quota:
        def __init__(self, path):
            self.path = path

        def read_text(self):
            if not self.path.endswith("cpu.max"):
                raise OSError
            return quota

    monkeypatch.setattr(host, "Path", Quota)
    assert host.cores.__wrapped__() == allowed


# ---------------------------------------------------------------------------------------------------------------
# The pool of the rows without one of their own


@pytest.mark.parametrize("tasks, count", [(0, 2), (1, 4), (5, 1), (7, 2), (3, 8), (100, 3)])
def test_parallel_for_covers_every_task_once(tasks, count):
    seen, workers, lock = [], set(), threading.Lock()

    def run(start, stop, worker):
        with lock:
            seen.extend(range(start, stop))
            workers.add(worker)

    pool.parallel_for(tasks, count, run)
    assert sorted(seen) == list(range(tasks)) and workers <= set(range(count))


def test_parallel_for_raises_after_all_have_ended():
    ended = []

    def run(start, stop, worker):
        if worker == 1:
            raise RuntimeError("worker 1")
        time.sleep(0.02)
        ended.append(worker)

    with pytest.raises(RuntimeError, match="worker 1"):
        pool.parallel_for(4, 4, run)
    assert sorted(ended) == [0, 2, 3]


def test_parallel_for_inside_parallel_for_does_not_wait_for_itself():
    """More nested loops than the pool has threads: a loop whose helpers are all busy must still end."""
    done = threading.Event()

    def outer(start, stop, worker):
        pool.parallel_for(4, 4, lambda *_: time.sleep(0.001))

    def work():
        pool.parallel_for(8, 8, outer)
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(10), "parallel_for waits for itself"


# ---------------------------------------------------------------------------------------------------------------
# Memory


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_stays_flat_over_many_shapes(rng):
    """Caches are bounded: 2,000 shapes leave no trace."""
    w = images(rng, 8, 4, 3, 3)
    x = images(rng, 2, 4, 60, 60)

    def sweep(start):
        for i in range(start, start + 500):
            a = x[:, :, : 3 + i % 50, : 3 + i // 50]
            y = fastconv.conv2d(a, w, padding=1)
            fastconv.conv2d_weight(a, w.shape, y, padding=1)
            fastconv.max_pool2d(y, 2, ceil_mode=True)

    sweep(0)
    gc.collect()
    before = resident_bytes()
    for start in (500, 1000, 1500):
        sweep(start)
    gc.collect()
    assert resident_bytes() - before < 8 * 2**20


def test_plan_caches_are_bounded(rng):
    from fastconv import dispatch
    from fastconv.functional import convolution

    w = images(rng, 2, 1, 1, 1)
    for i in range(1, 100):
        fastconv.conv2d(images(rng, 1, 1, 1, i), w)
    assert convolution.conv_plan.cache_info().currsize <= dispatch.PLAN_CACHE_SIZE
    assert dispatch._plan.cache_info().currsize <= dispatch.PLAN_CACHE_SIZE


# ---------------------------------------------------------------------------------------------------------------
# Nothing is read or written past the end: arrays that end (or begin) at a page nobody may touch

GUARD_PAGES = """
    import ctypes, faulthandler, mmap, sys
    import numpy as np
    from fastconv.problem import ConvProblem, PoolProblem
    from tests import cases, compare, rows

    faulthandler.enable()
    libc = ctypes.CDLL(None, use_errno=True)
    PAGE = mmap.PAGESIZE
    kept = []

    def fenced(shape, dtype, at_end):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        inner = max(1, -(-nbytes // PAGE)) * PAGE
        memory = mmap.mmap(-1, inner + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (base, base + PAGE + inner):
            assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
        start = PAGE + (inner - nbytes if at_end else 0)
        kept.append(memory)
        return np.frombuffer(memory, np.uint8, nbytes, start).view(dtype).reshape(shape)

    class Fenced:
        at_end = True
        def __init__(self, shape, dtype, offset=0, junk=0xFF):
            if dtype == np.uint8 and len(shape) == 1:  # a workspace is aligned: only its start can be at the page
                self.array = fenced(shape, dtype, False) if not Fenced.at_end else rows_guarded(shape, dtype).array
            else:
                self.array = fenced(shape, dtype, Fenced.at_end)
            self.array.view(np.uint8)[...] = junk
        def intact(self):
            return True

    rows_guarded = rows.Guarded
    rows.Guarded = Fenced
    backend = sys.argv[1]
    count = 0
    for row in rows.rows(where=lambda k: k.backend == backend):
        kernel, isa = row.values
        problems = [p for p in cases.problems(kernel.op, kernel.pass_) if kernel.cannot(p) is None and p.mb]
        step = 9 if kernel.op == "conv2d" else 1
        chosen = [(p, True) for p in problems[::step]] + [(p, False) for p in problems[:: 3 * step]]
        for problem, Fenced.at_end in chosen:
            with rows.use_isa(isa):
                sys.stderr.write(f"{row.id} {problem} {Fenced.at_end}\\n")
                rows.check(rows.run_of(kernel, problem), problem, kernel.algorithm)
            kept.clear()
            count += 1
    print(count)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as Linux has it")
@pytest.mark.parametrize("backend", each_backend())
def test_nothing_beyond_an_array_is_touched(backend):
    """Sanitizers see neither masked vector loads nor compiled Numba code; a page without access sees both."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GUARD_PAGES), backend], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": root}, cwd=root,
    )  # fmt: skip
    last = [line for line in done.stderr.splitlines() if "__" in line][-1:]
    assert done.returncode == 0, f"{last}\n{done.stderr[-1500:]}"
    assert int(done.stdout) > 100


def test_rows_module_is_the_one_under_test():
    assert rows.Guarded.__module__ == "tests.rows"
