"""Training steps of the digit network, fastconv against PyTorch: same batch, threads, optimizer; images a second.

    python -m bench.training [--threads 1 2] [--batch-size 64] [--seconds 20] [--save NAME]

A turn is a pass over the same 1,280 embedded digits (gathering a batch, forward, backward, RMSprop update); the rivals
take turns. PyTorch runs eager, contiguous and channels_last, and the better of the two is its figure.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv
from bench.harness import save
from fastconv.nn import data, mnist_network

DIGITS = 1280


def _fastconv(x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[], None]:
    model = mnist_network(seed=0)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    order = np.random.default_rng(0).permutation(len(x))

    def turn() -> None:
        for start in range(0, len(x), batch):
            chosen = order[start : start + batch]
            model.train_on_batch(x[chosen], y[chosen])

    return turn


def _torch(x: np.ndarray, y: np.ndarray, batch: int, channels_last: bool) -> Callable[[], None]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    images, labels = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    loss = nn.CrossEntropyLoss()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))

    def turn() -> None:
        for start in range(0, len(x), batch):
            chosen = order[start : start + batch]
            optimizer.zero_grad(set_to_none=True)
            loss(net(images[chosen]), labels[chosen]).backward()
            optimizer.step()

    return turn


def measure(threads: int, batch: int, seconds: float) -> dict[str, Any]:
    """One row: images a second (median turn) of each rival, and the ratio at the fastest and the median turn."""
    import torch

    torch.set_num_threads(threads)
    fastconv.set_num_threads(threads)
    (x, y), _ = data.load_mnist("embedded")
    x, y = x[:DIGITS], y[:DIGITS]
    rivals = {
        "fastconv": _fastconv(x, y, batch),
        "torch_contiguous": _torch(x, y, batch, False),
        "torch_channels_last": _torch(x, y, batch, True),
    }
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in rivals.values():
        turn()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for name, turn in rivals.items():
            start = time.perf_counter()
            turn()
            samples[name].append(time.perf_counter() - start)
    row: dict[str, Any] = {"threads": threads, "batch_size": batch, "turns": len(samples["fastconv"])}
    for how, pick in (("min", min), ("median", statistics.median)):
        best = min(pick(samples["torch_contiguous"]), pick(samples["torch_channels_last"]))
        row[f"ratio_{how}"] = best / pick(samples["fastconv"])
    for name, times in samples.items():
        row[name] = len(x) / statistics.median(times)
    row["torch"] = max(row["torch_contiguous"], row["torch_channels_last"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each thread count")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rows = []
    for threads in args.threads:
        row = measure(threads, args.batch_size, args.seconds)
        rows.append(row)
        print(
            f"{threads} threads: fastconv {row['fastconv']:.0f} images/s, PyTorch {row['torch_contiguous']:.0f} "
            f"contiguous, {row['torch_channels_last']:.0f} channels_last; ratio {row['ratio_min']:.2f} (fastest turns) "
            f"{row['ratio_median']:.2f} (median)"
        )
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
