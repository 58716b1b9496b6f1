"""Seconds from the start of `fastconv train --until 0.99` to its end, for several seeds.

    python -m bench.until --data PATH [--accuracy 0.99] [--seeds 0 1 2 3 4] [--threads 2] [--save NAME]

PATH: the folder with the four files of MNIST, all 60,000 digits. A run is a process of its own: starting Python,
reading the digits, training and evaluating count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.harness import save


def run(data: str, accuracy: float, seed: int, threads: int) -> dict[str, Any]:
    """One row: seconds, accuracy and epochs of one process."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "fastconv", "train", "--data", data, "--until", str(accuracy),
                   "--seed", str(seed), "--threads", str(threads), "--json", str(figures)]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        seconds = time.perf_counter() - start
        if not figures.exists():
            raise SystemExit(f"seed {seed}: the command failed with status {process.returncode}")
        found = json.loads(figures.read_text(encoding="utf-8"))
    return {
        "seed": seed, "threads": threads, "until": accuracy, "reached": process.returncode == 0, "seconds": seconds,
        "accuracy": found["accuracy"], "epochs": len(found["epochs"]), "digits": found["data"]["training"],
        "images_per_second": found["images_per_second"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--accuracy", type=float, default=0.99)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        row = run(args.data, args.accuracy, seed, args.threads)
        rows.append(row)
        print(f"seed {seed}: {row['accuracy']:.2%} after {row['epochs']} epochs, {row['seconds']:.1f} s", flush=True)
    print(f"median {statistics.median(row['seconds'] for row in rows):.1f} s")
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
