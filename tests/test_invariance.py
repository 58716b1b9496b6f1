"""The same bits for any number of threads, split of the batch, alignment, plan, junk and repetition."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

import fastconv
from fastconv import dispatch
from fastconv.problem import ConvProblem
from tests import compare, rows

# Enough work for more than one thread, and sizes that no tile divides.
TEXTS = (
    "mb5ic17ih19iw23oc33kh3ph1",
    "mb3ic9ih21iw17oc20kh5kw4sh2sw3ph2",
    "g3mb4ic12ih15iw18oc27kh3ph1",
    "g16mb3ic16ih20iw19oc16kh3ph1",
    "mb1ic64ih14iw9oc70kh3ph1",
    "mb7ic40ih6iw5oc48kh1",
)


def problems(op, pass_):
    if op != "conv2d":
        return []
    return [
        ConvProblem.parse(text, pass_=pass_, dtype=dtype, layout=layout)
        for number, text in enumerate(TEXTS)
        for layout in ("NCHW", "NHWC")
        for dtype in (("float32",), ("float32", "float64"))[number % 3 == 0]
    ]


# The plain loops would only take longer over the larger ones.
SLOW_ROWS_MOST_FLOPS = 20e6


def quick(kernel, problem):
    return kernel.algorithm not in rows.ISA_FREE or problem.flops < SLOW_ROWS_MOST_FLOPS


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(problems, quick))
def test_row_gives_the_same_bits_however_it_is_called(kernel, isa, problem):
    o = rows.operands(problem, "normal")
    with rows.use_isa(isa):
        run = rows.run_of(kernel, problem)
        first = rows.conv_call(run, problem, o)
        for how in (
            rows.Setting(),  # again
            rows.Setting(threads=2),
            rows.Setting(threads=3, junk=rows.FINITE_JUNK),
            rows.Setting(threads=2, offset=1),
            rows.Setting(threads=8, offset=5, junk=rows.FINITE_JUNK),
        ):
            compare.assert_same_bits(rows.conv_call(run, problem, o, how), first, f"{problem} {how}")


def image_problems(op, pass_):
    return [p for p in problems(op, pass_) if p.mb > 1 and pass_ != "backward_weight" and p.dtype == "float32"]


@pytest.mark.parametrize("kernel, isa, problem", rows.rows_and_problems(image_problems, quick))
def test_row_gives_an_image_the_same_bits_in_any_batch(kernel, isa, problem):
    """One row: neither the size of the batch nor the place in it matters to an image."""
    o = rows.operands(problem, "normal")
    with rows.use_isa(isa):
        whole = rows.conv_call(rows.run_of(kernel, problem), problem, o, rows.Setting(threads=2))
        for part in (slice(0, 1), slice(1, 3), slice(problem.mb - 1, problem.mb)):
            few = replace(problem, mb=len(range(*part.indices(problem.mb))))
            y = rows.conv_call(rows.run_of(kernel, few), few, rows.Operands(o.x[part], o.w, o.y[part], None, None))
            compare.assert_same_bits(y, whole[part], f"{problem} images {part}")


@pytest.fixture
def images(rng):
    return rng.standard_normal((9, 24, 18, 21)).astype(np.float32)


@pytest.fixture
def weights(rng):
    return rng.standard_normal((40, 24, 3, 3)).astype(np.float32)


def test_public_call_does_not_depend_on_threads(images, weights, threads):
    found = []
    for count in (1, 2, 3):
        threads(count)
        y = fastconv.conv2d(images, weights, padding=1, activation="relu")
        dx, dw, db = fastconv.conv2d_backward(y, images, weights, padding=1)
        pooled, indices = fastconv.max_pool2d(y, 3, 2, return_indices=True)
        found.append((y, dx, dw, db, pooled, indices, fastconv.avg_pool2d(y, 3, 2, 1)))
    for other in found[1:]:
        for a, b in zip(found[0], other):
            compare.assert_same_bits(a, b)


@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_deterministic_does_not_depend_on_the_batch(images, weights, precision):
    with fastconv.config(deterministic=True, precision=precision):
        whole = fastconv.conv2d(images, weights, padding=1)
        for part in (slice(0, 1), slice(2, 7), slice(8, 9)):
            compare.assert_same_bits(fastconv.conv2d(images[part], weights, padding=1), whole[part])


def test_plan_cached_or_fresh(images, weights):
    fastconv.clear_cache()
    fresh = fastconv.conv2d(images, weights)
    compare.assert_same_bits(fastconv.conv2d(images, weights), fresh)
    compare.assert_same_bits(fastconv.plan_conv2d(images.shape, weights)(images), fresh)
    fastconv.clear_cache()
    compare.assert_same_bits(fastconv.conv2d(images, weights), fresh)


def test_misaligned_by_elements(images, weights):
    y = fastconv.conv2d(images, weights)
    for offset in (1, 3, 7, 15):
        raw = np.empty(images.size + 32, np.float32)
        shifted = raw[offset : offset + images.size].reshape(images.shape)
        shifted[...] = images
        out = np.empty(y.size + 32, np.float32)[offset : offset + y.size].reshape(y.shape)
        compare.assert_same_bits(fastconv.conv2d(shifted, weights, out=out), y)


def test_junk_in_the_threads_workspace(images, weights):
    y = fastconv.conv2d(images, weights, algorithm="im2col")
    for byte in (rows.NAN_JUNK, rows.FINITE_JUNK):
        buffer = dispatch._workspace.buffer
        if buffer is not None:
            buffer[...] = byte
        compare.assert_same_bits(fastconv.conv2d(images, weights, algorithm="im2col"), y)


def test_another_process_gives_the_same_bits():
    """Hash seeds, address layout and what ran before do not matter."""
    code = textwrap.dedent(
        """
        import hashlib, numpy as np, fastconv
        rng = np.random.default_rng(1)
        x = rng.standard_normal((3, 16, 15, 17)).astype("f4"); w = rng.standard_normal((24, 16, 3, 3)).astype("f4")
        y = fastconv.conv2d(x, w, padding=1)
        dw = fastconv.conv2d_weight(x, w.shape, y, padding=1)
        print(hashlib.sha256(y.tobytes() + dw.tobytes()).hexdigest())
        """
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "FASTCONV_NUM_THREADS": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
