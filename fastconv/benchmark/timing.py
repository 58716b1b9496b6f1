"""Fair timing: rivals take turns in one process, round after round; minimum and median of many short repeats."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A sample repeats a call until it lasts about so long, so that the clock's resolution does not matter.
SAMPLE_SECONDS = 50e-6
# With several threads a turn begins with a rest: pools of OpenMP spin for a while after their last call.
REST_SECONDS = 3e-3

Calls = Callable[[], Any] | Sequence[Callable[[], Any]]


def _once(calls: Sequence[Callable[[], Any]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def race(
    rivals: Mapping[str, Calls], seconds: float = 0.4, rounds: int = 6, rest: float = 0.0
) -> dict[str, dict[str, float]]:
    """Seconds of one call of each rival; they alternate within each round.

    Parameters
    ----------
    rivals : name -> a callable, or several that are called in rotation (one for each set of arrays)
    seconds : for each rival in all; a rival gets at least one sample a round
    rounds : turns of each rival
    rest : seconds of sleep before each turn

    Returns
    -------
    name -> {"min", "median", "first" (the very first call, warm-up included), "calls"}
    """
    found: dict[str, dict[str, float]] = {}
    blocks: dict[str, list[Callable[[], Any]]] = {}
    for name, given in rivals.items():
        calls = [given] if callable(given) else list(given)
        first = _once(calls[:1])
        once = max(min(_once(calls) for _ in range(2)), 1e-7)
        repeats = max(1, round(SAMPLE_SECONDS / once))
        # a whole number of rotations, or one call after the other
        blocks[name] = calls * max(1, repeats // len(calls)) if repeats > 1 else calls
        found[name] = {"first": first, "block": repeats if repeats > 1 else 1}
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    turn = seconds / rounds
    for number in range(rounds):
        names = list(rivals)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            block, timings = blocks[name], samples[name]
            if rest:
                time.sleep(rest)
            single = found[name]["block"] == 1
            block[-1]()
            deadline = time.perf_counter() + turn
            while True:
                if single:
                    for call in block:
                        timings.append(_once((call,)))
                        if time.perf_counter() > deadline:
                            break
                else:
                    timings.append(_once(block))
                if time.perf_counter() > deadline:
                    break
    for name, timings in samples.items():
        calls_made = len(timings) * (1 if found[name].pop("block") == 1 else len(blocks[name]))
        found[name].update(min=min(timings), median=statistics.median(timings), calls=calls_made)
    return found


def rest_for(threads: int) -> float:
    """The rest before each turn."""
    return REST_SECONDS if threads > 1 else 0.0
