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
# A call longer than this is a turn by itself, and a rival that makes a race too long gets fewer turns, but so many.
SLOW_SECONDS = 30e-3
FEWEST_TURNS = 3
MOST_TURNS = 6

Calls = Callable[[], Any] | Sequence[Callable[[], Any]]


def _once(calls: Sequence[Callable[[], Any]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def race(
    rivals: Mapping[str, Calls], seconds: float = 0.4, rounds: int | None = None, rest: float = 0.0
) -> dict[str, dict[str, float]]:
    """Seconds of one call of each rival; they alternate within each round.

    Parameters
    ----------
    rivals : name -> a callable, or several that are called in rotation (one for each set of arrays)
    seconds : for each rival in all, about
    rounds : turns of each rival (default: MOST_TURNS, more in a race of over half a second); fewer, but FEWEST_TURNS,
        where a single call is long
    rest : seconds of sleep before each turn

    Returns
    -------
    name -> {"min", "median", "calls"}
    """
    if rounds is None:
        rounds = max(MOST_TURNS, round(2 * MOST_TURNS * seconds))
    found: dict[str, dict[str, float]] = {}
    blocks: dict[str, list[Callable[[], Any]]] = {}
    turns: dict[str, int] = {}
    for name, given in rivals.items():
        calls = [given] if callable(given) else list(given)
        calls[0]()
        once = max(_once(calls[-1:]), 1e-7)
        if once < SLOW_SECONDS:
            once = max(_once(calls), 1e-7)
        # a short sample is whole rotations; a long one is a single call, and the turns go on where the last one ended
        repeats = round(SAMPLE_SECONDS / once)
        blocks[name] = calls * max(1, repeats // len(calls)) if repeats > 1 else [*calls]
        found[name] = {"block": repeats}
        turns[name] = max(FEWEST_TURNS, min(rounds, round(seconds / once)))
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if number < turns[name]:
                if rest:
                    time.sleep(rest)
                _turn(blocks[name], found[name]["block"] > 1, seconds / rounds, samples[name])
    for name, timings in samples.items():
        each = len(blocks[name]) if found[name].pop("block") > 1 else 1
        found[name].update(min=min(timings), median=statistics.median(timings), calls=len(timings) * each)
    return found


def _turn(block: list[Callable[[], Any]], whole: bool, seconds: float, samples: list[float]) -> None:
    """Samples of one rival until its seconds are over, the first after a call that is not counted."""
    lead = _once(block[-1:])
    if lead > SLOW_SECONDS:  # long enough to have warmed up by itself
        samples.append(lead)
        return
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not samples:
        if whole:
            samples.append(_once(block))
        else:
            samples.append(_once(block[:1]))
            block.append(block.pop(0))


def rest_for(threads: int) -> float:
    """The rest before each turn."""
    return REST_SECONDS if threads > 1 else 0.0
