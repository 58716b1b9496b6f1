"""Every GEMM microkernel of every ISA the host has against exact integer NumPy, and the thread pool under them."""

import threading

import numpy as np
import pytest

from fastconv import host

if host.backend_fault("cython"):
    pytest.skip(f"cython: {host.backend_fault('cython')}", allow_module_level=True)

from fastconv import _cython
from fastconv._cython import testing

GUARD = 64  # elements before and after C
KERNELS = [(isa, dtype) for isa in _cython.detected_isas() for dtype in ("float32", "float64")]
DEPTHS = (1, 2, 7, 64, 301)
SUM_TERMS = 256  # FC_SUM_TERMS in csrc/fastconv.h


def kernel_id(kernel):
    return testing.gemm_tile(*kernel)[0]


def integers(rng, size, dtype, limit=3):
    return rng.integers(-limit, limit + 1, size).astype(dtype)


def edges(full):
    """Edge sizes of a tile's columns: one, a vector's neighbourhood, and one short of full."""
    return sorted({1, 2, 3, full // 2 - 1, full // 2, full // 2 + 1, full - 1, full} & set(range(1, full + 1)))


def call(rng, isa, dtype, m, n, depth, taps, *, form="strided", start="zero", residual=False, clamp=None, last=True):
    """One call on junk-filled memory; asserts the product, and that nothing but the m x n of C was written."""
    _, mr, nr = testing.gemm_tile(isa, dtype)
    nan = np.nan
    if form == "packed":
        rs_a, cs_a, rs_b = 1, mr, nr
        a_offset = b_offset = None
        a_starts, b_starts = np.arange(taps) * depth * mr, np.arange(taps) * depth * nr
    elif form == "pixels":  # rows of A and packed B
        rs_a, cs_a, rs_b = taps * depth + 3, 1, nr
        a_offset = b_offset = None
        a_starts, b_starts = np.arange(taps) * depth, np.arange(taps) * depth * nr
    else:  # prime strides, taps in descending order and overlapping nothing that matters
        rs_a, cs_a, rs_b = (3, 53, 37) if depth % 2 else (331, 1, 41)
        a_span = max((mr - 1) * rs_a + (depth - 1) * cs_a, 0) + 1
        b_span = (depth - 1) * rs_b + nr
        a_starts = np.arange(taps)[::-1].copy() * (a_span + 5)
        b_starts = np.arange(taps)[::-1].copy() * (b_span + 3)
        a_offset, b_offset = a_starts.astype(np.int64), b_starts.astype(np.int64)
    i, j, k = np.arange(m), np.arange(nr), np.arange(depth)
    a_index = a_starts[:, None, None] + i[:, None] * rs_a + k * cs_a
    b_index = b_starts[:, None, None] + k[:, None] * rs_b + j
    # A beyond the m rows and the k steps is NaN: reading it into a sum would show.
    a = np.full(a_index.max() + mr * rs_a + 1, nan, dtype)
    a[a_index] = integers(rng, a_index.shape, dtype)
    b = np.full(b_index.max() + 1, nan, dtype)
    b[b_index] = integers(rng, b_index.shape, dtype)
    b[b_index[:, :, n:]] = nan
    rs_c, rs_r = nr + 5, nr + 11
    c = np.full(2 * GUARD + m * rs_c, nan, dtype)
    inside = GUARD + i[:, None] * rs_c + np.arange(n)
    expected = (a[a_index].astype(np.float64) @ b[b_index[:, :, :n]].astype(np.float64)).sum(axis=0)
    options = {"accumulate": start == "accumulate", "last": last}
    if start == "accumulate":
        c[inside] = integers(rng, inside.shape, dtype)
        expected += c[inside]
    elif start == "bias_row":
        options["bias_row"] = integers(rng, m, dtype)
        expected += options["bias_row"][:, None]
    elif start == "bias_col":
        options["bias_col"] = integers(rng, nr, dtype)
        expected += options["bias_col"][:n]
    if residual:
        full = np.full(m * rs_r + nr, nan, dtype)
        r_index = i[:, None] * rs_r + np.arange(n)
        full[r_index] = integers(rng, r_index.shape, dtype)
        options.update(residual=full, rs_r=rs_r)
        expected += full[r_index] if last else 0
    if clamp:
        options.update(clamp=True, lo=clamp[0], hi=clamp[1])
        expected = np.clip(expected, *clamp) if last else expected
    testing.gemm(
        isa, dtype, m=m, n=n, kc=depth, taps=taps, a=a, a_offset=a_offset, rs_a=rs_a, cs_a=cs_a, b=b,
        b_offset=b_offset, rs_b=rs_b, c=c[GUARD:], rs_c=rs_c, **options,
    )  # fmt: skip
    written = np.zeros(c.size, bool)
    written[inside] = True
    np.testing.assert_array_equal(c[inside], expected.astype(dtype))
    assert np.isnan(c[~written]).all(), "wrote outside of the m x n of C"
    return c[inside]


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_every_row_count(kernel):
    rng = np.random.default_rng(0)
    _, mr, nr = testing.gemm_tile(*kernel)
    for m in range(1, mr + 1):
        for depth in DEPTHS:
            for taps in (1, 3):
                for n in (nr, nr // 2, nr - 1):
                    call(rng, *kernel, m, n, depth, taps)
                call(rng, *kernel, m, nr, depth, taps, form="packed")
                call(rng, *kernel, m, nr, depth, taps, form="pixels")


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_products_are_bits_of_the_tile(kernel):
    rng = np.random.default_rng(0)
    _, mr, nr = testing.gemm_tile(*kernel)
    for m in range(1, mr + 1):
        for depth in (0, *DEPTHS, 512):
            a = np.full(m * (depth + 3), np.nan, kernel[1])
            a.reshape(m, -1)[:, :depth] = rng.standard_normal((m, depth))
            b = rng.standard_normal(depth * nr).astype(kernel[1])
            tile, product = np.full((2, 2 * GUARD + m * (nr + 5)), np.nan, kernel[1])
            testing.gemm(
                *kernel, m=m, n=nr, kc=depth, taps=1, a=a, a_offset=None, rs_a=depth + 3, cs_a=1, b=b, b_offset=None,
                rs_b=nr, c=tile[GUARD:], rs_c=nr + 5,
            )  # fmt: skip
            testing.gemm_product(
                *kernel, m=m, kc=depth, terms=SUM_TERMS, a=a, rs_a=depth + 3, b=b, c=product[GUARD:], rs_c=nr + 5
            )
            np.testing.assert_array_equal(product, tile)


@pytest.mark.parametrize("taps, depth", [(1, 255), (1, 256), (1, 257), (3, 256), (5, 205)])
@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_partial_sums_end_where_the_contract_says(kernel, taps, depth):
    """Times one, so that only sums round: those of NumPy in the same order, also where steps on zeros are left out."""
    isa, dtype = kernel
    _, _, nr = testing.gemm_tile(*kernel)
    a = np.random.default_rng(8).standard_normal((taps, depth)).astype(dtype)
    a[1::2] = 0  # taps that may be left out
    wanted = np.zeros((), dtype)
    flat = a.ravel()
    for start in range(0, flat.size, SUM_TERMS):
        wanted = wanted + np.cumsum(flat[start : start + SUM_TERMS], dtype=dtype)[-1]
    ones = np.ones((taps * depth, nr), dtype)
    for kept in (np.arange(taps), np.arange(0, taps, 2)):
        c = np.full(nr, np.nan, dtype)
        testing.gemm(
            isa, dtype, m=1, n=nr, kc=depth, taps=len(kept), a=a, a_offset=kept * depth, rs_a=1, cs_a=1, b=ones,
            b_offset=kept * depth * nr, rs_b=nr, c=c, rs_c=nr, first_step=kept * depth,
        )  # fmt: skip
        np.testing.assert_array_equal(c, wanted)


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_every_column_count(kernel):
    rng = np.random.default_rng(1)
    _, mr, nr = testing.gemm_tile(*kernel)
    for n in range(1, nr + 1):
        for m in (1, mr):
            call(rng, *kernel, m, n, 7, 3)


@pytest.mark.parametrize("start", ["zero", "bias_row", "bias_col", "accumulate"])
@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_start_and_epilogue(kernel, start):
    rng = np.random.default_rng(2)
    _, mr, nr = testing.gemm_tile(*kernel)
    for n in edges(nr):
        for m in (1, mr - 1, mr):
            for residual in (False, True):
                for clamp in (None, (0.0, np.inf), (-3.0, 6.0)):
                    for last in (False, True):
                        call(rng, *kernel, m, n, 7, 1, start=start, residual=residual, clamp=clamp, last=last)


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_no_depth_is_the_start_value(kernel):
    isa, dtype = kernel
    _, mr, nr = testing.gemm_tile(*kernel)
    empty = np.zeros(1, dtype)
    for kc, taps in ((0, 1), (5, 0)):
        c = np.full(mr * nr, np.nan, dtype)
        bias = np.arange(1, mr + 1).astype(dtype)
        testing.gemm(
            isa, dtype, m=mr, n=nr, kc=kc, taps=taps, a=empty, a_offset=None, rs_a=0, cs_a=0, b=empty,
            b_offset=None, rs_b=0, c=c, rs_c=nr, bias_row=bias,
        )  # fmt: skip
        np.testing.assert_array_equal(c.reshape(mr, nr), np.repeat(bias, nr).reshape(mr, nr))


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_clamp_keeps_nan(kernel):
    isa, dtype = kernel
    _, mr, nr = testing.gemm_tile(*kernel)
    a = np.zeros(mr, dtype)
    a[0] = np.nan
    for n in (nr, 1):
        c = np.zeros(mr * nr, dtype)
        testing.gemm(
            isa, dtype, m=mr, n=n, kc=1, taps=1, a=a, a_offset=None, rs_a=1, cs_a=mr, b=np.ones(nr, dtype),
            b_offset=None, rs_b=nr, c=c, rs_c=nr, clamp=True, lo=1.0, hi=2.0,
        )  # fmt: skip
        c = c.reshape(mr, nr)[:, :n]
        assert np.isnan(c[0]).all()
        assert (c[1:] == 1).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_id)
def test_same_bits_in_every_tile(kernel):
    """One element of C has the same bits whatever the tile's size and the operands' strides."""
    isa, dtype = kernel
    _, mr, nr = testing.gemm_tile(*kernel)
    rng = np.random.default_rng(3)
    depth = 301
    a, b = rng.standard_normal((mr, depth)).astype(dtype), rng.standard_normal((depth, nr)).astype(dtype)

    def product(m, n, a, rs_a, cs_a):
        c = np.empty((m, nr), dtype)
        testing.gemm(
            isa, dtype, m=m, n=n, kc=depth, taps=1, a=a, a_offset=None, rs_a=rs_a, cs_a=cs_a, b=b, b_offset=None,
            rs_b=nr, c=c, rs_c=nr,
        )  # fmt: skip
        return c[:, :n]

    whole = product(mr, nr, a, depth, 1)
    for m in range(1, mr + 1):
        for n in edges(nr):
            assert product(m, n, a, depth, 1).tobytes() == whole[:m, :n].copy().tobytes()
    assert product(mr, nr, np.ascontiguousarray(a.T), 1, mr).tobytes() == whole.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 1000])
def test_pool_runs_each_task_once(tasks, threads):
    for inner in (0, 5):  # an inner loop from inside a task must neither hang nor run twice
        runs, workers = testing.count_tasks(tasks, threads, inner)
        assert (runs == 1 + inner * (inner - 1) // 2).all()
        assert ((workers >= 0) & (workers < threads)).all()


def test_pool_from_many_python_threads():
    faults = []

    def work():
        for _ in range(200):
            runs, _ = testing.count_tasks(50, 4)
            if not (runs == 1).all():
                faults.append(runs)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert not faults


def test_pool_after_fork():
    import multiprocessing

    testing.count_tasks(100, 3)  # the parent has workers; the child has none of them
    try:
        context = multiprocessing.get_context("fork")
    except ValueError:
        pytest.skip("this system has no fork")
    child = context.Process(target=_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _child():
    for _ in range(20):
        runs, _ = testing.count_tasks(100, 3)
        assert (runs == 1).all()
