"""The plain-sum kernels of this process's instruction set beside its peak: a worker that `jobs.plain_avx2` asks.

    echo "mb1ic64ih56oc64kh3ph1 1 0.2" | FASTCONV_ISA=avx2 python -m bench.goals.plain_share

Reads lines of TEXT THREADS SECONDS, answers each with `jobs.plain` as one line of JSON.
"""

from __future__ import annotations

import json
import sys

import fastconv
from bench.goals import jobs


def main() -> None:
    for line in sys.stdin:
        text, threads, seconds = line.split()
        row = jobs.plain(fastconv.ConvProblem.parse(text), int(threads), float(seconds))
        print(json.dumps({**row, "isa": fastconv.info()["isa"]}), flush=True)


if __name__ == "__main__":
    main()
