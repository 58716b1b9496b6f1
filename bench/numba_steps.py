"""How a Numba kernel reaches the peak: one convolution in steps from plain loops to the library's kernels, measured.

    python -m bench.numba_steps [--problem mb1ic64ih56oc64kh3ph1] [--seconds 1] [--save numba_steps]

All steps compute the same 3x3 convolution of one NHWC image in float32 on one thread, in one race with the peak of the
multiply-add units; the first three are written out here, the others are rows of the library. Each is checked against
float64 before it is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

import fastconv
from bench.harness import save
from fastconv._numba import vector
from fastconv._numba.gemm import columns, gemm_tile
from fastconv.benchmark import peak
from fastconv.benchmark.timing import race

Array = np.ndarray


@numba.njit
def loops_as_defined(x, w, y):
    """Seven loops, the sum innermost: each product waits for the one before it."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for o in range(y.shape[2]):
                total = np.float32(0)
                for a in range(w.shape[0]):
                    for b in range(w.shape[1]):
                        for c in range(w.shape[2]):
                            total += x[i + a, j + b, c] * w[a, b, c, o]
                y[i, j, o] = total


@numba.njit(fastmath={"contract"})
def channels_innermost(x, w, y):
    """Output channels innermost: the compiler makes vectors of them, but loads and stores the sums for each product."""
    y[...] = 0
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for a in range(w.shape[0]):
                for b in range(w.shape[1]):
                    for c in range(w.shape[2]):
                        value = x[i + a, j + b, c]
                        for o in range(y.shape[2]):
                            y[i, j, o] += value * w[a, b, c, o]


@numba.njit
def matrix_and_tile(x, w, y, matrix, panel):
    """im2col, then products by a tile of registers, emitted as LLVM's code (fastconv/_numba/gemm.py)."""
    nr = panel.size // (w.shape[0] * w.shape[1] * w.shape[2])
    depth = w.shape[0] * w.shape[1] * w.shape[2]
    row = w.shape[1] * w.shape[2]
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for a in range(w.shape[0]):
                matrix[i * y.shape[1] + j, a * row : (a + 1) * row] = x[i + a, j : j + w.shape[1]].reshape(-1)
    flat_matrix, flat_y = matrix.reshape(-1), y.reshape(-1)
    for o in range(0, y.shape[2], nr):
        for a in range(w.shape[0]):
            for b in range(w.shape[1]):
                for c in range(w.shape[2]):
                    k = (a * w.shape[1] + b) * w.shape[2] + c
                    panel[k * nr : (k + 1) * nr] = w[a, b, c, o : o + nr]
        gemm_tile(
            flat_matrix, 0, depth, panel, 0, flat_y, o, y.shape[2], y.shape[0] * y.shape[1], depth, False
        )


def steps(p: fastconv.ConvProblem) -> dict[str, Callable[[], Array]]:
    """Name -> a call that returns the output."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(p.input_shape, dtype=np.float32)
    w = rng.standard_normal(p.weight_shape, dtype=np.float32)
    y = np.empty(p.output_shape, np.float32)
    padded = np.pad(x[0], ((p.ph, p.ph_r), (p.pw, p.pw_r), (0, 0)))
    depth = p.kh * p.kw * p.ic
    matrix, panel = np.empty((p.oh * p.ow, depth), np.float32), np.empty(depth * columns("float32"), np.float32)

    def own(function: Callable[..., None], *scratch: Array) -> Callable[[], Array]:
        def call() -> Array:
            function(padded, w, y[0], *scratch)
            return y

        return call

    def row(algorithm: str) -> Callable[[], Array]:
        how: dict[str, Any] = {"layout": "NHWC", "padding": p.ph, "backend": "numba", "algorithm": algorithm}
        return lambda: fastconv.conv2d(x, w, out=y, **how)

    found = {
        "loops as defined": own(loops_as_defined),
        "output channels innermost": own(channels_innermost),
        "im2col matrix, register tile": own(matrix_and_tile, matrix, panel),
        "no matrix: rows read where they lie": row("im2col"),
        "Winograd F(4x4,3x3)": row("winograd_f4x3"),
    }
    exact = fastconv.conv2d(x.astype(np.float64), w.astype(np.float64), padding=p.ph, layout="NHWC", algorithm="im2col")
    for name, call in found.items():
        y[...] = np.nan
        error = np.abs(call() - exact).max() / np.abs(exact).max()
        assert error < 2e-5, (name, error)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="mb1ic64ih56oc64kh3ph1", help="stride 1, channels in whole panels")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each step (1)")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    fastconv.set_num_threads(1)
    problem = fastconv.ConvProblem.parse(args.problem, layout="NHWC")
    if problem.oc % columns("float32") or problem.sh * problem.sw > 1 or problem.g > 1:
        parser.error(f"the steps written out here take whole panels of {columns('float32')} channels at stride 1")
    calls: dict[str, Any] = dict(steps(problem))
    top = peak.Peak(1)
    calls["peak"] = top.calls
    times = race(calls, args.seconds)
    rows = {}
    for name, seconds in times.items():
        flops = top.flops if name == "peak" else problem.flops
        share = {how: flops / seconds[how] * times["peak"][how] / top.flops for how in ("min", "median")}
        rows[name] = {"gflops": flops / seconds["min"] / 1e9, "share": share, "seconds": seconds}
        speed = f"{rows[name]['gflops']:6.1f} GFLOP/s"
        print(f"{name:36} {speed}, {share['min']:.1%} of the peak (median {share['median']:.1%})")
    top.close()
    tile = f"{vector.TILE_ROWS}x{columns('float32')}"
    if args.save:
        print(f"written: {save(args.save, rows, problem=problem.text, tile=tile)}")


if __name__ == "__main__":
    main()
