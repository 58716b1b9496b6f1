"""Loops over tasks on several threads: kernels claim their tasks one by one, so that no thread waits for a slower one.

    @kernel("out1 tickets")
    def _squares(y, tickets):
        for task in claim(tickets):
            put(y, task, task * task)

    run_phases(threads, (tasks, lambda tickets, worker: squares(y, tickets)))

Numba's own threading layers are not used: one of them is not safe from several Python threads, another not after fork,
and each has a start-up of its own. The workers here are Python threads which spin for a moment without the GIL, then
sleep. They need the GIL to learn what to run, so the caller rings for them from inside of its kernel, where it has
released it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from fastconv._numba.compile import FLAGS, HELPER, INTERPRETED, kernel
from fastconv._numba.vector import I64, address, get, intrinsic

Array = np.ndarray
Run = Callable[[Array, int], object]
Phase = tuple[int, Run]

# Columns of the tickets of a phase, an array of int64; those that several threads write lie lines apart.
NEXT, DONE, TASKS, BELL, SIZE = 0, 16, 32, 33, 48

# An idle worker spins this long before it sleeps; longer would slow a torch or BLAS pool beside ours.
SPIN_SECONDS = 50e-6
# Who waits for the tasks of others gives way to other threads of the system after so many pauses.
PATIENT_PAUSES = 1000
# More workers than this are never started.
MAX_WORKERS = 255


@intrinsic
def fetch_add(typingctx, array, index, amount):
    """array[index] += amount, atomically; returns what it was."""
    signature = types.int64(array, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        place = address(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return signature, codegen


@intrinsic
def look(typingctx, array, index):
    """array[index], which other threads write."""
    signature = types.int64(array, types.int64)

    def codegen(context, builder, sig, args):
        return builder.load_atomic(address(context, builder, sig.args[0], args[0], args[1]), "seq_cst", 8)

    return signature, codegen


@intrinsic
def ring(typingctx, tickets):
    """Adds 1 to the int64 whose address is tickets[BELL], once for each tickets; nothing if that is 0."""
    signature = types.void(tickets)

    def codegen(context, builder, sig, args):
        place = address(context, builder, sig.args[0], args[0], I64(BELL))
        bell = builder.atomic_rmw("xchg", place, I64(0), "seq_cst")
        with builder.if_then(builder.icmp_unsigned("!=", bell, I64(0))):
            builder.atomic_rmw("add", builder.inttoptr(bell, I64.as_pointer()), I64(1), "seq_cst")
        return context.get_dummy_value()

    return signature, codegen


_PAUSES = {"x86": ("llvm.x86.sse2.pause", []), "aarch64": ("llvm.aarch64.hint", [1])}


@intrinsic
def pause(typingctx):
    """Tell the core that this thread waits."""

    def codegen(context, builder, sig, args):
        triple = cpu_target.target_context.codegen().magic_tuple()[0]
        name, operands = next((v for k, v in _PAUSES.items() if triple.startswith(k)), ("llvm.donothing", []))
        constants = [ir.Constant(ir.IntType(32), n) for n in operands]
        kind = ir.FunctionType(ir.VoidType(), [c.type for c in constants])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), constants)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typingctx):
    """Let another thread of the system have this core."""

    def codegen(context, builder, sig, args):
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


# Not by `jit`: Numba cannot keep generators on disk, only the kernels that use them.
@numba.njit(**{**FLAGS, **HELPER})
def _claim(tickets):
    ring(tickets)
    while True:
        task = fetch_add(tickets, NEXT, 1)
        if task >= look(tickets, TASKS):
            break
        yield task
        fetch_add(tickets, DONE, 1)
    pauses = 0
    while look(tickets, DONE) < look(tickets, TASKS):
        pause()
        pauses += 1
        if pauses > PATIENT_PAUSES:
            give_way()


def _all(tickets: Array) -> Iterator[int]:
    return iter(range(tickets[TASKS]))


# In a kernel: the tasks that this thread is to do, until none of the phase is left or under way.
claim: Any = _all if INTERPRETED else _claim


@kernel("outints1 int int")
def _listen(bell, heard, spins):
    """Spin until the bell is not at `heard` any more, for so long at most; what it is at."""
    for _ in range(spins):
        if look(bell, 0) != heard:
            break
        pause()
    return get(bell, 0)


class Pool:
    """Workers for one caller at a time; a caller that finds them busy works alone."""

    def __init__(self) -> None:
        self._bell = np.zeros(SIZE, np.int64)
        self._busy = threading.Lock()
        self._asleep: deque[threading.Lock] = deque()
        self._running: deque[None] = deque()
        self._workers = 0
        self._spins = 0
        # The work at hand and the numbers of those who are to join; read by workers under the GIL.
        self._job: tuple[Callable[[int], None], Iterator[int]] | None = None

    def _start(self, workers: int) -> None:
        if not self._spins:
            listen = _listen["int64"]
            begin = time.perf_counter()
            listen(self._bell, 0, 10_000)
            self._spins = max(1, int(10_000 * SPIN_SECONDS / (time.perf_counter() - begin)))
        while self._workers < min(workers, MAX_WORKERS):
            self._workers += 1
            threading.Thread(target=self._serve, name=f"fastconv-{self._workers}", daemon=True).start()

    def _serve(self) -> None:
        listen = _listen["int64"]
        wake = threading.Lock()
        wake.acquire()
        heard = -1
        while True:
            now = listen(self._bell, heard, self._spins)
            if now == heard:
                self._asleep.append(wake)
                wake.acquire()
            heard = now
            job = self._job
            if job is not None:
                work, numbers = job
                worker = next(numbers, None)
                if worker is not None:
                    self._running.append(None)
                    try:
                        if self._job is job:
                            work(worker)
                    finally:
                        self._running.pop()

    def run(self, threads: int, work: Callable[[int], None], tickets: Array) -> None:
        """work(0) here and work(1), ... in up to threads - 1 workers, whoever comes in time."""
        if threads < 2 or not self._busy.acquire(blocking=False):
            work(0)
            return
        try:
            self._start(threads - 1)
            tickets[0, BELL] = self._bell.ctypes.data
            self._job = work, iter(range(1, threads))
            for _ in range(threads - 1):
                try:
                    self._asleep.pop().release()
                except IndexError:
                    break
            work(0)
        except BaseException:
            # Python was interrupted between two kernels: no task is begun any more, those under way come to an end.
            self._job = None
            tickets[:, TASKS] = 0
            while self._running:
                time.sleep(SPIN_SECONDS)
            raise
        finally:
            self._job = None
            self._busy.release()


_pool = Pool()


def _forget_pool() -> None:
    """After fork the child has none of the parent's threads."""
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_phases(threads: int, *phases: Phase) -> None:
    """Run phases, each a number of tasks and run(tickets, worker), one after the other on up to `threads` threads.

    `run` calls kernels that `claim` the tasks; a phase begins when all tasks of the one before it are done. `worker` is
    below `threads`. Whoever comes late finds nothing left, so scratch is written only while this call is under way.
    What a kernel returns may come after the end of this call: what it finds it writes to memory, within its task.
    """
    tickets = np.zeros((len(phases), SIZE), np.int64)
    tickets[:, TASKS] = [tasks for tasks, _ in phases]

    def work(worker: int) -> None:
        for row, (_, run) in zip(tickets, phases):
            run(row, worker)

    if threads == 1 or INTERPRETED:
        work(0)
    else:
        _pool.run(min(threads, max((tasks for tasks, _ in phases), default=0)), work, tickets)
