"""pytest-benchmark: ours in both layouts and every peer on listed layers, verified against float64 before it is timed.

pytest bench/test_peers.py --benchmark-only --benchmark-group-by=param:layer,param:threads -k "vgg_conv3_2"
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import cycle

import pytest

import fastconv
from bench.harness import layers
from fastconv.benchmark import contest
from fastconv.benchmark.layers import Exact, images, operands, sets_of
from fastconv.benchmark.peers import PEERS, Unsupported, adapter, installed

LAYERS = dict(layers())
# MNN's Winograd errs by up to 2e-3 of the largest output; anything worse is a mistake and no result.
LARGEST_ERROR = 1e-2


@pytest.mark.parametrize("threads", [1, 2], ids=lambda n: f"{n}thr")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rival", [*contest.OURS, *PEERS])
def test_layer(benchmark, rival: str, layer: str, threads: int) -> None:
    problem = LAYERS[layer]
    if threads > fastconv.info()["cores"]:
        pytest.skip(f"this process may use {fastconv.info()['cores']} cores")
    if rival in PEERS and rival not in installed():
        pytest.skip(f"{PEERS[rival][0]} is not installed")
    x, weight = operands(problem)
    inputs = [x, *images(problem, sets_of(problem) - 1, seed=2)]
    fastconv.set_num_threads(threads)
    with ExitStack() as stack:
        if rival in PEERS:
            try:
                found = adapter(rival).convolution(problem, inputs, weight, threads, stack)
            except Unsupported as reason:
                pytest.skip(str(reason))
        else:
            layout = rival.rpartition("_")[2].upper()
            found, plan = contest.ours_convolution(problem, inputs, weight, layout)
            benchmark.extra_info.update(kernel=plan.kernel, workspace=plan.workspace_nbytes)
        error = Exact(problem, x, weight).error(found.output())
        assert error <= LARGEST_ERROR
        benchmark.extra_info.update(problem=problem.text, mflop=problem.flops / 1e6, error=error)
        turns = cycle(found.calls)
        benchmark(lambda: next(turns)())
