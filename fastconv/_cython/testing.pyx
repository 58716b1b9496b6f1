# cython: freethreading_compatible = True
"""Doors for the tests to what has no public name: one microkernel call, one loop of the thread pool, junk in the scratch."""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from fastconv._cython.fastconv cimport (
    FC_ISA_COUNT,
    fc_gemm_args,
    fc_gemm_kernel,
    fc_isa_name,
    fc_kernels_of,
    fc_kernels_table,
    fc_parallel_for,
    fc_scratch,
)
from fastconv._cython.shape cimport data_or_null

cnp.import_array()


cdef const fc_gemm_kernel *kernel_of(str isa, str dtype) except NULL:
    cdef const fc_kernels_table *table
    cdef int number
    for number in range(FC_ISA_COUNT):
        table = fc_kernels_of(number)
        if table != NULL and fc_isa_name(number).decode("ascii") == isa:
            return &table.gemm_f32 if dtype == "float32" else &table.gemm_f64
    raise ValueError(f"ISA {isa!r} does not run here")


def gemm_tile(str isa, str dtype):
    """(name, mr, nr) of the GEMM microkernel of an ISA."""
    cdef const fc_gemm_kernel *kernel = kernel_of(isa, dtype)
    return kernel.name.decode("ascii"), kernel.mr, kernel.nr


def gemm(
    str isa, str dtype, *, int64_t m, int64_t n, int64_t kc, int64_t taps,
    a, a_offset, int64_t rs_a, int64_t cs_a, b, b_offset, int64_t rs_b, c, int64_t rs_c,
    bias_row=None, bias_col=None, residual=None, int64_t rs_r=0,
    bint accumulate=False, bint last=True, bint clamp=False, double lo=0.0, double hi=0.0, first_step=None,
):
    """One call of a GEMM microkernel, arguments as fc_gemm_args in csrc/fastconv.h; each array starts at its first element."""
    cdef const fc_gemm_kernel *kernel = kernel_of(isa, dtype)
    cdef fc_gemm_args args
    memset(&args, 0, sizeof(args))
    args.m, args.n, args.kc, args.taps = m, n, kc, taps
    args.a, args.a_offset, args.rs_a, args.cs_a = data_or_null(a), <int64_t *> data_or_null(a_offset), rs_a, cs_a
    args.b, args.b_offset, args.rs_b = data_or_null(b), <int64_t *> data_or_null(b_offset), rs_b
    args.first_step = <int64_t *> data_or_null(first_step)
    args.c, args.rs_c = data_or_null(c), rs_c
    args.bias_row, args.bias_col = data_or_null(bias_row), data_or_null(bias_col)
    args.residual, args.rs_r = data_or_null(residual), rs_r
    args.accumulate, args.last, args.clamp, args.lo, args.hi = accumulate, last, clamp, lo, hi
    with nogil:
        kernel.run(&args)


def gemm_product(str isa, str dtype, *, int64_t m, int64_t kc, int64_t terms, a, int64_t rs_a, b, c, int64_t rs_c):
    """One call of a microkernel's `product`, likewise."""
    cdef const fc_gemm_kernel *kernel = kernel_of(isa, dtype)
    cdef fc_gemm_args args
    memset(&args, 0x55, sizeof(args))
    args.m, args.kc, args.terms = m, kc, terms
    args.a, args.rs_a, args.b = data_or_null(a), rs_a, data_or_null(b)
    args.c, args.rs_c = data_or_null(c), rs_c
    with nogil:
        kernel.product(&args)


cdef struct counters:
    int64_t *runs
    int64_t *workers
    int64_t inner_tasks
    int threads


cdef void count_inner(void *ctx, int64_t task, int worker) noexcept nogil:
    cdef int64_t *sum_of_tasks = <int64_t *> ctx
    sum_of_tasks[0] += task


cdef void count_task(void *ctx, int64_t task, int worker) noexcept nogil:
    cdef counters *c = <counters *> ctx
    cdef int64_t sum_of_tasks = 0
    # The pool is busy with this very loop: the inner one runs here, on one thread, so the plain sum is no race.
    fc_parallel_for(c.inner_tasks, c.threads, count_inner, &sum_of_tasks)
    c.runs[task] += 1 + sum_of_tasks
    c.workers[task] = worker


def count_tasks(int64_t tasks, int threads, int64_t inner_tasks=0):
    """Runs a loop on the pool; returns how often each task ran (plus the sum of the inner loop's tasks) and on which worker."""
    cdef cnp.ndarray runs = np.zeros(tasks, dtype=np.int64), workers = np.full(tasks, -1, dtype=np.int64)
    cdef counters c
    c.runs, c.workers = <int64_t *> data_or_null(runs), <int64_t *> data_or_null(workers)
    c.inner_tasks, c.threads = inner_tasks, threads
    with nogil:
        fc_parallel_for(tasks, threads, count_task, &c)
    return runs, workers


def fill_scratch(int64_t nbytes, int byte):
    """Write `byte` all over the scratch of this thread, made `nbytes` large if it was smaller."""
    memset(fc_scratch(nbytes), byte, nbytes)
