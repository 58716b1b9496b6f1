"""Test accuracy of `fastconv train` for several seeds, on the embedded digits and on the full MNIST where it is given.

    python -m bench.accuracy [--data DIR] [--augmented EPOCHS] [--seeds 0 1 2] [--save NAME]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.harness import save


def train(data: str, seed: int, *options: str) -> dict[str, Any]:
    """The figures of one run of the command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "fastconv", "train", "--data", data, "--seed", str(seed), *options]
        subprocess.run([*command, "--json", str(figures)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(figures.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="the full MNIST, as `fastconv train --data` takes it")
    parser.add_argument("--augmented", type=int, metavar="EPOCHS", help="the full MNIST with --augment too, by Adam")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rows = []
    runs: list[tuple[str, str | None, tuple[str, ...]]] = [
        ("embedded", "embedded", ()), ("full MNIST", args.data, ()),
    ]  # fmt: skip
    if args.augmented:
        options = ("--augment", "--epochs", str(args.augmented), "--optimizer", "adam", "--batch-size", "128")
        runs.append((f"full MNIST, augmented, {args.augmented} epochs", args.data, options))
    for label, data, options in runs:
        for seed in args.seeds if data else ():
            figures = train(data, seed, *options)
            row = {"data": label, "seed": seed, **{k: figures[k] for k in ("accuracy", "updates", "seconds")}}
            rows.append(row | {"images_per_second": figures["images_per_second"]})
            print(f"{label:<11} seed {seed}: {100 * row['accuracy']:.2f} %, {row['seconds']:.1f} s", flush=True)
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
