"""The one thread rule of all CPU kernels: how many threads a call may use, and a pool for kernels without one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastconv import host
from fastconv.loading import load

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# Work that one thread finishes in this time never leaves the calling thread. Between two figures: a second thread that
# still spins from the call before helps from 10 us on, one that must be woken from 30 us on (Zen 3, 2 cores).
SMALL_WORK_SECONDS = 20e-6

_num_threads: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def default_num_threads() -> int:
    """FASTCONV_NUM_THREADS if set, else the cores this process is allowed (affinity and cgroup quota)."""
    wanted = host.environment("FASTCONV_NUM_THREADS")
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise ValueError(f"FASTCONV_NUM_THREADS must be a positive int, got {wanted!r}")
        return int(wanted)
    return host.cores()


def get_num_threads() -> int:
    """The most threads a call of this library uses.

    Returns
    -------
    int
        What `set_num_threads` set, else FASTCONV_NUM_THREADS, else the number of cores this process is allowed.
    """
    global _num_threads
    if _num_threads is None:
        _num_threads = default_num_threads()
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set the most threads a call of this library uses; results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int, at least 1

    Raises
    ------
    TypeError, ValueError
        `n` is not a positive int.
    """
    global _num_threads
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"set_num_threads: n must be an int, got {n!r}")
    if n < 1:
        raise ValueError(f"set_num_threads: n must be at least 1, got {n}")
    _num_threads = n


def _forget_pool() -> None:
    """After fork the child has none of the parent's threads."""
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            executor = load("concurrent.futures").ThreadPoolExecutor  # on use: it costs 5 ms at import
            _pool = executor(max_workers=max(1, host.cores()), thread_name_prefix="fastconv")
        return _pool


def parallel_for(tasks: int, threads: int, run: Callable[[int, int, int], object]) -> None:
    """Run `run(start, stop, worker)` over 0..tasks in at most `threads` contiguous ranges, one on the calling thread.

    `run` must release the GIL to gain anything (Numba's nogil=True). `worker` is below `threads`. An exception in any
    range is raised here, after all ranges have ended.
    """
    workers = max(1, min(threads, tasks))
    if workers == 1:
        run(0, tasks, 0)
        return
    bounds = [tasks * i // workers for i in range(workers + 1)]
    pool = _executor()
    futures: list[Future[object]] = [pool.submit(run, bounds[i], bounds[i + 1], i) for i in range(1, workers)]
    error: BaseException | None = None
    # a range that no thread of the pool has begun runs here: a call from inside a range never waits for itself
    for worker in (0, *range(workers - 1, 0, -1)):
        if worker == 0 or futures[worker - 1].cancel():
            try:
                run(bounds[worker], bounds[worker + 1], worker)
            except BaseException as raised:
                error = error or raised
    for future in futures:
        if not future.cancelled():
            raised_there = future.exception()  # waits, whatever was raised before
            error = error or raised_there
    if error is not None:
        raise error
