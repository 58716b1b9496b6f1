"""calibrate(...): measure every kernel on this machine and fit the rates that the choice between them hangs on."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import cost, dispatch, host, rates
from fastconv.functional.arrays import logical, logical_weight
from fastconv.functional.convolution import clear_cache
from fastconv.functional.tuning import operands
from fastconv.problem import ConvPoolProblem, ConvProblem, PoolProblem
from fastconv.registry import KERNELS
from fastconv.threads import get_num_threads, set_num_threads

# The problems: drawn anew from this seed, between these sizes, so that a call takes a microsecond to 10 ms.
SEED = 20260301
FEWEST_FLOPS, MOST_FLOPS, MOST_BYTES = 1e4, 6e8, 1e8
FILTERS = ((3, 3),) * 6 + ((1, 1),) * 4 + ((5, 5), (5, 5), (7, 7), (1, 7), (7, 1), (1, 3), (2, 2))
CHANNELS = (1, 3, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024)
SIZES = (4, 5, 7, 8, 10, 13, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 160, 224)
WIDE_FILTERS = ((1, 1), (1, 1), (3, 3), (3, 3), (5, 5))
WIDE_CHANNELS = (32, 64, 64, 96, 128, 128, 192, 256, 256, 512, 512, 1024, 2048)
WIDE_SIZES = (7, 10, 14, 20, 28, 56, 112)
BATCHES = (1, 1, 1, 1, 2, 4, 8, 16, 64)
# One in so many beside them is tiny, which shows what a call costs, and one is large, 3x3 at stride 1, where Winograd's
# tiles are close to each other and choices cost most.
OTHER_SHARE, TINY_CHANNELS, TINY_SIZES = 10, (1, 2, 3, 4, 8), (3, 4, 5, 6, 8)
# One in so many is odd: any number of channels, size and batch up to these, filters that are not square. What ends
# between two tiles or vectors shows there.
ODD_SHARE, MOST_ODD_CHANNELS, LEAST_ODD_SIZE, MOST_ODD_SIZE, ODD_BATCHES = 3, 512, 4, 192, (1, 1, 2, 3, 7, 16, 30)
ODD_FILTERS = ((3, 3),) * 4 + ((1, 1), (1, 1), (5, 5), (7, 7), (2, 2), (3, 1), (1, 3), (5, 3), (7, 5), (2, 1))
LARGE_CHANNELS = (4, 8, 16, 32, 32, 48, 64, 64, 96, 128, 128, 192, 256, 256, 512)
LARGE_FLOPS, LARGE_BYTES = (1e7, 6e9), 2e8
# A call is repeated for this long and the least time counts; rows of plain loops are not worth it.
SECONDS_A_CALL = 0.02
# Arrays rotate among so many sets, or as many as exceed the caches: in a network they were not used a moment ago.
MOST_SETS = 8
ASSUMED_CACHE_BYTES = 32 * 1024**2
WINDOWS = ("kh2sh2", "kh2sh2", "kh3sh2ph1", "kh3sh2", "kh3sh1ph1", "kh5sh1ph2", "kh7sh7")
FEWEST_POOL_BYTES = 2e4
# Steps of the fit: more change no rate by a percent.
REWEIGHTINGS, SWEEPS = 12, 400
# Digits of a rate; of a kind that never takes this share of a problem's time there is none.
DIGITS, NO_SHARE = 4, 0.01
# What a fit hangs on: a kernel that takes twice the time of the best counts a quarter, but not less than this.
LEAST_IMPORTANCE = 0.2
# Of the refinement of the fit, which learns from choices: how near two predictions are that both may be chosen (in log
# seconds), what a wrong prediction costs beside a wrong choice, and the most that one costs (log of the loss).
NEARNESS, FIDELITY, WORST_LOSS = 0.05, 0.1, 1.5
# ... from where an outlier counts linearly; the share of the time that a kind of work without a rate starts from; the
# steps of the descent and their size.
OUTLIER, UNSEEN_SHARE, STEPS, STEP = 0.3, 1e-3, 1000, 0.02
# A wrong choice counts by this power of the time that the problem takes.
WEIGHT_OF_TIME = 0.25
SLOW = ("naive", "reference")


def draw_problems(
    count: int, pass_: str, layout: str, seed: int = SEED, scale: str = "usual"
) -> Iterator[ConvProblem]:
    """Random convolutions as networks have them: channels and sizes log-uniform, filters mostly 3x3 and 1x1.

    scale "tiny": of at most FEWEST_FLOPS, the usual ones of at least so many; "large": 3x3 at stride 1 of LARGE_FLOPS;
    "odd": of any numbers.
    """
    rng = random.Random(f"{seed}{pass_}{layout}{'' if scale == 'usual' else scale}")
    tiny, large, odd = scale == "tiny", scale == "large", scale == "odd"
    fewest, most = LARGE_FLOPS if large else (1.0, FEWEST_FLOPS) if tiny else (FEWEST_FLOPS, MOST_FLOPS)
    channels, sizes = (TINY_CHANNELS, TINY_SIZES) if tiny else (LARGE_CHANNELS if large else CHANNELS, SIZES)
    while count > 0:
        wide = scale == "usual" and rng.random() < 0.4  # what most of a deep network is
        if odd:
            kh, kw = rng.choice(ODD_FILTERS)
            ic, oc = (_any_up_to(rng, 1, MOST_ODD_CHANNELS) for _ in range(2))
            ih, iw = (_any_up_to(rng, LEAST_ODD_SIZE, MOST_ODD_SIZE) for _ in range(2))
        else:
            kh, kw = (3, 3) if large else rng.choice(WIDE_FILTERS if wide else FILTERS)
            ic, oc = (rng.choice(WIDE_CHANNELS if wide else channels) for _ in range(2))
            ih = rng.choice(WIDE_SIZES if wide else sizes)
            iw = ih if rng.random() < 0.8 else rng.choice(sizes)
        stride = 2 if not large and rng.random() < 0.2 else 1
        padded = rng.random() < 0.8
        groups = 1
        if not wide and not large and rng.random() < (0.1 if odd else 0.4):
            # depthwise, with a multiplier now and then; small groups as in ResNeXt; any others
            kind = rng.random()
            if kind < 0.55:
                groups, oc = ic, ic * rng.choice((1, 1, 1, 1, 2))
            elif kind < 0.85:
                size = rng.choice((2, 4, 8, 16))
                groups, oc = max(1, ic // size), ic
            else:
                groups = rng.choice((2, 4, 8, 32))
        if ic % groups or oc % groups or ih < kh or iw < kw:
            continue
        text = f"g{groups}mb{rng.choice(ODD_BATCHES if odd else BATCHES)}ic{ic}ih{ih}iw{iw}oc{oc}kh{kh}kw{kw}sh{stride}"
        text += f"ph{kh // 2 if padded else 0}pw{kw // 2 if padded else 0}"
        problem = ConvProblem.parse(text, pass_=pass_, layout=layout)
        if fewest <= problem.flops <= most and problem.bytes <= (LARGE_BYTES if large else MOST_BYTES):
            count -= 1
            yield problem


def _any_up_to(rng: random.Random, least: int, most: int) -> int:
    """Log-uniform."""
    return round(least * (most / least) ** rng.random())


def draw_pools(count: int, op: str, pass_: str, layout: str, seed: int = SEED) -> Iterator[PoolProblem]:
    """Random pools: mostly windows of 2 and 3, global ones where the op is adaptive."""
    rng = random.Random(f"{seed}{op}{pass_}{layout}")
    while count > 0:
        size = rng.choice(SIZES)
        text = f"mb{rng.choice(BATCHES)}ic{rng.choice(CHANNELS)}ih{size}"
        if op.startswith("adaptive_"):
            text += f"oh{rng.choice((1, 1, 2, 4))}"
        else:
            text += rng.choice(WINDOWS)
        if op.startswith("adaptive_") or size >= 7:
            problem = PoolProblem.parse(text, op, pass_=pass_, layout=layout)
            if FEWEST_POOL_BYTES <= problem.bytes <= MOST_BYTES:
                count -= 1
                yield problem


def draw_pooled(count: int, pass_: str, layout: str, seed: int = SEED) -> Iterator[ConvPoolProblem]:
    """Random convolutions that some compiled kernel pools."""
    rows = [k for k in KERNELS if (k.op, k.pass_, k.backend) == (ConvPoolProblem.op, pass_, "cython")]
    for problem in draw_problems(10**9, pass_, layout, seed):
        if count <= 0 or layout != "NHWC":
            return
        pooled = ConvPoolProblem.of(problem)
        if min(problem.oh, problem.ow) > 1 and any(k.cannot(pooled) is None for k in rows):
            count -= 1
            yield pooled


def pooled_operands(p: ConvPoolProblem) -> tuple[Any, ...]:
    """Random operands in the call shape of every pass; the codes are as often alive as a ReLU leaves them."""
    rng = np.random.default_rng(0)
    x = logical(rng.standard_normal(p.input_shape).astype(p.dtype), p.layout)
    y = logical(rng.standard_normal(p.output_shape).astype(p.dtype), p.layout)
    w = logical_weight(rng.standard_normal(p.weight_shape).astype(p.dtype), p.layout)
    codes = logical(rng.integers(0, 5, p.output_shape, np.uint8), p.layout)
    return x, w, np.zeros(p.oc, p.dtype) if p.bias or p.pass_ == "backward_weight" else None, y, codes


def pool_operands(p: PoolProblem) -> tuple[Any, ...]:
    """Random operands in the call shape of the pass; the indices name the first cell of each window."""
    rng = np.random.default_rng(0)
    x = logical(rng.standard_normal(p.input_shape).astype(p.dtype), p.layout)
    y = logical(rng.standard_normal(p.output_shape).astype(p.dtype), p.layout)
    if p.pass_ == "forward":
        return x, y, None
    if "max" not in p.op:
        return y, None, x
    adaptive = p.op.startswith("adaptive_")
    rows = np.array([i * p.ih // p.oh if adaptive else max(0, i * p.sh - p.ph) for i in range(p.oh)])
    columns = np.array([j * p.iw // p.ow if adaptive else max(0, j * p.sw - p.pw) for j in range(p.ow)])
    flat = rows[:, None] * p.iw + columns
    indices = np.empty(p.output_shape, np.int64)
    logical(indices, p.layout)[...] = flat
    return y, logical(indices, p.layout), x


def sets_of(arrays: tuple[Any, ...], kept: int | None) -> list[tuple[Any, ...]]:
    """The operands and copies of them, but for the weights at `kept`: more than the caches hold, MOST_SETS at most."""
    moving = sum(a.nbytes for i, a in enumerate(arrays) if a is not None and i != kept)
    count = min(MOST_SETS, -(-2 * max([ASSUMED_CACHE_BYTES, *host.cache_bytes().values()]) // max(moving, 1)))

    def copy(i: int, array: Any) -> Any:
        return array if array is None or i == kept else array.copy(order="K")

    return [arrays, *(tuple(copy(i, a) for i, a in enumerate(arrays)) for _ in range(count - 1))]


def time_rows(calls: Mapping[Any, list[Callable[[], object]]], seconds: float) -> dict[Any, float]:
    """The least time of each call; they alternate, so that a noisy moment hits all of them, and go round their sets."""
    least = dict.fromkeys(calls, float("inf"))
    for turns in calls.values():
        turns[0]()
    deadline = time.perf_counter() + seconds * len(calls)
    rounds = turn = 0
    while rounds < 3 or time.perf_counter() < deadline:
        for name, turns in calls.items():
            call = turns[turn % len(turns)]
            turn += 1
            start = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - start)
        rounds += 1
    return least


def fit(works: list[cost.Work], measured: list[float], importance: list[float] | None = None) -> dict[str, float]:
    """Rates >= 0 that minimise the sum of importance * |predicted / measured - 1|, by reweighted least squares.

    Each weighted problem is solved by coordinate descent with clipping at 0, on columns scaled to one.
    """
    kinds = sorted({kind for work in works for kind in work})
    rows = np.array([[work.get(kind, 0.0) for kind in kinds] for work in works]) / np.array(measured)[:, None]
    scale = np.maximum(rows.max(axis=0), 1e-300)
    rows /= scale
    important = np.ones(len(rows)) if importance is None else np.array(importance)
    weights = important
    solution = np.zeros(len(kinds))
    for _ in range(REWEIGHTINGS):
        gram, target = (rows.T * weights) @ rows, rows.T @ weights
        for _ in range(SWEEPS):
            for i in range(len(kinds)):
                solution[i] = max(0.0, solution[i] + (target[i] - gram[i] @ solution) / max(gram[i, i], 1e-300))
        weights = important / np.maximum(np.abs(rows @ solution - 1), 0.02)
    shares = (rows * solution).max(axis=0)  # of the predicted time of some problem
    return {kind: float(rate) for kind, rate, share in zip(kinds, solution / scale, shares) if share > NO_SHARE}


# Of one problem: kernel -> its work and its seconds, where the weights are packed in the call or come packed.
Race = dict[str, tuple[cost.Work, float]]
# op, pass, layout -> races
Races = dict[tuple[str, str, str], list[Race]]
Fitted = dict[str, dict[str, dict[str, float]]]


def measure(backend: str, count: int, seed: int = SEED) -> Races:
    """Every kernel of a backend on random problems, one thread."""
    races: Races = {}
    rows = [k for k in KERNELS if k.backend == backend and k.family not in SLOW]
    for op, pass_ in dict.fromkeys((k.op, k.pass_) for k in rows):
        for layout in ("NCHW", "NHWC"):
            if op == "conv2d":
                draws: Iterator[Any] = chain(
                    draw_problems(count, pass_, layout, seed),
                    draw_problems(max(1, count // OTHER_SHARE), pass_, layout, seed, "tiny"),
                    draw_problems(max(1, count // OTHER_SHARE), pass_, layout, seed, "large"),
                    draw_problems(max(1, count // ODD_SHARE), pass_, layout, seed, "odd"),
                )
            elif op == ConvPoolProblem.op:
                draws = draw_pooled(max(8, count // 4), pass_, layout, seed)
            else:
                draws = draw_pools(max(8, count // 8), op, pass_, layout, seed)
            for problem in draws:
                able = [k for k in rows if (k.op, k.pass_) == (op, pass_) and k.cannot(problem) is None]
                make = {"conv2d": operands, ConvPoolProblem.op: pooled_operands}.get(op, pool_operands)
                arrays = make(problem)
                weighted = op == "conv2d" and pass_ != "backward_weight"
                sets = sets_of(arrays, 1 if weighted else None)
                calls: dict[tuple[str, bool], list[Callable[[], object]]] = {}
                for kernel in able:
                    plan = dispatch.plan_for(problem, kernel)
                    calls[kernel.name, False] = [partial(plan, *one) for one in sets]
                    if weighted:
                        packed = plan.pack(arrays[1])
                        calls[kernel.name, True] = [partial(plan, *one, packed=packed) for one in sets]
                seconds = time_rows(calls, SECONDS_A_CALL)
                for held in (False, True):
                    race = {
                        k.name: (cost.counted(k.work(problem), held), seconds[k.name, held])
                        for k in able if (k.name, held) in seconds
                    }  # fmt: skip
                    if race:
                        races.setdefault((op, pass_, layout), []).append(race)
    return races


def fit_races(races: list[Race]) -> dict[str, dict[str, float]]:
    """The rates of each kernel: fitted where it is near the best, then refined so that choices by them cost least."""
    works: dict[str, list[cost.Work]] = {}
    measured: dict[str, list[float]] = {}
    importance: dict[str, list[float]] = {}
    for race in races:
        best = min(seconds for _, seconds in race.values())
        for name, (work, seconds) in race.items():
            works.setdefault(name, []).append(work)
            measured.setdefault(name, []).append(seconds)
            importance.setdefault(name, []).append(max(LEAST_IMPORTANCE, (best / seconds) ** 2))
    return _refined(races, {name: fit(works[name], measured[name], importance[name]) for name in works})


def predicted(rates_: Mapping[str, float], work: cost.Work) -> float:
    """Seconds by these rates."""
    return max(cost.LEAST_SECONDS, sum(rates_.get(kind, 0.0) * amount for kind, amount in work.items()))


def _refined(races: list[Race], found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """`found`, changed so that choices by it lose least: the expected log(chosen / best) where a kernel is chosen with
    the probability softmax(-log(predicted) / NEARNESS), plus FIDELITY times how wrong predictions are; all
    problems weighted by WEIGHT_OF_TIME.

    Gradient descent (Adam, Kingma & Ba 2015) on the logarithms of all rates.
    """
    names = sorted(found)
    shape = len(races), len(names)
    able, loss, measured = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape)
    for i, race in enumerate(races):
        best = min(seconds for _, seconds in race.values())
        for name, (_, seconds) in race.items():
            j = names.index(name)
            able[i, j], loss[i, j], measured[i, j] = True, np.log(seconds / best), np.log(seconds)
    weight = np.exp(np.where(able, measured, np.inf).min(axis=1, keepdims=True)) ** WEIGHT_OF_TIME
    weight /= weight.mean()
    importance = np.where(able, np.exp(-2 * loss), 0.0)
    loss = np.minimum(loss, WORST_LOSS)

    kinds, amounts, logs = [], [], []
    for j, name in enumerate(names):
        of_name = [race[name][0] if name in race else {} for race in races]
        kinds.append(sorted({kind for work in of_name for kind, amount in work.items() if amount > 0}))
        amounts.append(np.array([[work.get(kind, 0.0) for kind in kinds[j]] for work in of_name]))
        start = [
            found[name].get(kind)
            or UNSEEN_SHARE * np.exp(np.median(measured[able[:, j], j])) / np.median(column[column > 0])
            for kind, column in zip(kinds[j], amounts[j].T)
        ]
        logs.append(np.log(np.array(start)))
    mean, spread = [np.zeros_like(x) for x in logs], [np.zeros_like(x) for x in logs]

    shares: list[Any] = []  # of each kind in the time of each problem
    for step in range(STEPS):
        guess, shares = np.full(shape, np.inf), []
        for j in range(len(names)):
            parts = amounts[j] * np.exp(logs[j])
            total = np.maximum(parts.sum(axis=1), cost.LEAST_SECONDS)
            shares.append(parts / total[:, None])
            guess[able[:, j], j] = np.log(total[able[:, j]])
        chance = np.exp(-(guess - guess.min(axis=1, keepdims=True)) / NEARNESS)
        chance /= chance.sum(axis=1, keepdims=True)
        expected = (chance * loss).sum(axis=1, keepdims=True)
        wrong = np.clip(np.where(able, guess - measured, 0.0), -OUTLIER, OUTLIER)
        slope = weight * (-chance * (loss - expected) / NEARNESS + 2 * FIDELITY * importance * wrong) / len(races)
        for j in range(len(names)):
            gradient = slope[:, j] @ shares[j]
            mean[j] += 0.1 * (gradient - mean[j])
            spread[j] += 0.01 * (gradient**2 - spread[j])
            scaled = mean[j] / (1 - 0.9 ** (step + 1)) / (np.sqrt(spread[j] / (1 - 0.99 ** (step + 1))) + 1e-9)
            logs[j] -= STEP * (1 - step / STEPS) * scaled
    return {
        name: {
            kind: float(f"{rate:.{DIGITS}g}")
            for kind, rate, share in zip(kinds[j], np.exp(logs[j]), shares[j].max(axis=0))
            if share > NO_SHARE
        }
        for j, name in enumerate(names)
    }


def chosen_well(races: list[Race], rates_: Mapping[str, Mapping[str, float]], near: float = 1.05) -> float:
    """The share of the problems where the kernel that these rates choose takes at most `near` times the best's time."""
    good = 0
    for race in races:
        name = min(race, key=lambda n: predicted(rates_[n], race[n][0]))
        good += race[name][1] <= near * min(seconds for _, seconds in race.values())
    return good / max(1, len(races))


def calibrate(
    problems: int = 400, backend: str = "cython", file: str | os.PathLike[str] | None = None
) -> Fitted:
    """Measure this machine's rates, which the choice between kernels hangs on, and use them from now on.

    Times every kernel of a backend on random convolutions, one thread, and fits seconds for each kind of work that
    cost.py counts. The rates are kept on disk by CPU and instruction set (JSON, in the user's cache folder or
    FASTCONV_CACHE). A quarter to half an hour; leave the machine alone meanwhile.

    Parameters
    ----------
    problems : int, convolutions drawn for each pass and layout; a tenth more are tiny, a tenth large, and a third odd
    backend : "cython" or "numba"
    file : write the rates to this file, as they ship with the package, instead of using them here

    Returns
    -------
    dict of kernel to layout to kind of work to seconds a unit

    Raises
    ------
    ValueError
        A backend that cannot run here.
    """
    fault = host.backend_fault(backend)
    if fault is not None:
        raise ValueError(f"calibrate: {fault}")
    before = get_num_threads()
    set_num_threads(1)
    try:
        races = measure(backend, problems)
    finally:
        set_num_threads(before)
    found: Fitted = {}
    for (_, _, layout), of_layout in races.items():
        for name, fitted in fit_races(of_layout).items():
            found.setdefault(name, {})[layout] = fitted
    if file is not None:
        document = rates.read(Path(file))
        document.setdefault(host.rated_isa(), {}).update(found)
        rates.write(Path(file), document)
        return found
    rates.remember(host.rated_isa(), found)
    clear_cache()
    return found
