"""Milliseconds of `import fastconv` beyond `import numpy`, in fresh interpreters: minimum and median.

    python -m bench.import_time [--rounds 21] [--save NAME]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from bench.harness import save

CODE = "import time, numpy; a = time.perf_counter(); import fastconv; print(time.perf_counter() - a)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    times = []
    for _ in range(args.rounds + 1):
        done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
        times.append(1e3 * float(done.stdout))
    times = times[1:]  # the first one may byte-compile
    row = {"min_ms": min(times), "median_ms": statistics.median(times), "rounds": args.rounds}
    print(f"import fastconv beyond numpy: {row['min_ms']:.1f} ms at best, {row['median_ms']:.1f} ms median")
    if args.save:
        print(f"written: {save(args.save, [row])}")


if __name__ == "__main__":
    main()
