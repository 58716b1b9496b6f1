"""Whole epochs on the digits of MNIST: seconds and test accuracy of fastconv, PyTorch and Keras.

    python -m bench.curves --data PATH [--epochs 8] [--batch-size 64] [--threads 2] [--keras-python PATH] [--save NAME]

PATH: the folder with the four files of MNIST, all 60,000 digits. The network is the forum's (bench/rivals.py), trained
by each library's own means (`fit`; in PyTorch the usual loop), with RMSprop whose rate falls in a line from 1e-3 to 0.
The rivals take turns of a quarter of an epoch, one `fit` each, on the same digits; after each the test digits are
evaluated. Only training counts as time: reading, compiling and evaluating do not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import save
from bench.rivals import FASTCONV, KERAS, RATE, REST, TORCH, keras_versions, start
from fastconv.nn import data

PARTS = 4  # of an epoch
ACCURACIES = (0.97, 0.98, 0.99, 0.993)


def measure(digits: Path, count: int, args: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """A row for each rival."""
    running = start(names, "forum", args.threads, args.batch_size, args.keras_python, digits)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    size = count // PARTS // args.batch_size * args.batch_size  # whole batches: no shape but theirs is compiled
    total = args.epochs * PARTS
    for turn in range(total):
        epoch, part = divmod(turn, PARTS)
        for name, rival in running.items():
            time.sleep(REST)
            turns[name].append(rival.fit((epoch, part * size, (part + 1) * size), RATE * (1 - turn / total)))
        reached = ", ".join(f"{name} {100 * found[-1][1]:.2f} %" for name, found in turns.items())
        print(f"epoch {(turn + 1) / PARTS:.2f}: {reached}", flush=True)
    rows = []
    for name, rival in running.items():
        rival.close()
        seconds, accuracy = (list(column) for column in zip(*turns[name]))
        passed = np.cumsum(seconds).tolist()
        reached_at = {str(a): next((s for s, got in zip(passed, accuracy) if got >= a), None) for a in ACCURACIES}
        rows.append({
            "rival": name, "threads": args.threads, "batch_size": args.batch_size, "epochs": args.epochs,
            "images_per_second": {"max": size / min(seconds), "median": size / statistics.median(seconds)},
            "seconds": passed, "accuracy": accuracy, "seconds_to": reached_at,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keras-python", default=sys.executable, metavar="PATH")
    parser.add_argument(
        "--rivals", nargs="+", default=[*FASTCONV, *TORCH, *KERAS], help="one that is not installed is left out"
    )
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    (x, y), (test_x, test_y) = data.load(data.find_mnist(args.data))
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npz"
        np.savez(digits, x=x, y=y.astype(np.int64), test_x=test_x, test_y=test_y.astype(np.int64))
        rows = measure(digits, len(x), args, args.rivals)
    for row in rows:
        times = ", ".join(
            f"{100 * float(a):g} % {'-' if s is None else f'{s:.1f} s'}" for a, s in row["seconds_to"].items()
        )
        rate = row["images_per_second"]["median"]
        print(f"{row['rival']}: {rate:,.0f} images/s, {row['accuracy'][-1]:.2%} at the end; {times}")
    if args.save:
        print(f"written: {save(args.save, rows, keras=keras_versions(args.keras_python))}")


if __name__ == "__main__":
    main()
