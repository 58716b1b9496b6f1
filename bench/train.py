"""Training steps against PyTorch and Keras: same network, batch, threads and optimizer family; images a second.

    python -m bench.train [--networks forum vgg block] [--threads 1 2] [--batch-sizes 64 128] [--save NAME]
    python -m bench.train --keras-python PATH      Keras from another environment (TensorFlow and JAX backends)

The networks are those of bench/rivals.py, random images, labels too. The rivals take turns of about 0.1 s: a number of
steps (forward, backward, RMSprop update) on batches made beforehand. PyTorch runs eager, contiguous and channels_last,
with --compiled also through torch.compile; the best mode of a library is its figure.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from bench.harness import save
from bench.rivals import KERAS, REST, SHAPES, keras_versions, start

RIVALS = ("fastconv", "fastconv_unfused", "torch", "torch_channels_last")


def measure(
    network: str, threads: int, batch: int, seconds: float, names: list[str], keras_python: str
) -> dict[str, Any]:
    """One row: images a second of each rival (least and median turn) and ratios to the best mode of each library."""
    running = start(names, network, threads, batch, keras_python)
    steps = {name: max(1, round(0.1 / rival.steps(3) * 3)) for name, rival in running.items()}
    samples: dict[str, list[float]] = {name: [] for name in running}
    deadline = time.perf_counter() + seconds * len(running)
    while time.perf_counter() < deadline or len(samples["fastconv"]) < 3:
        for name, rival in running.items():
            time.sleep(REST)
            samples[name].append(rival.steps(steps[name]) / steps[name])
    for rival in running.values():
        rival.close()
    row: dict[str, Any] = {"network": network, "threads": threads, "batch_size": batch, "images_per_second": {}}
    for name, times in samples.items():
        row["images_per_second"][name] = {"min": batch / min(times), "median": batch / statistics.median(times)}
    ours = row["images_per_second"]["fastconv"]
    for library in ("torch", "keras"):
        peers = [v for name, v in row["images_per_second"].items() if name.startswith(library)]
        if peers:
            row[library] = {how: ours[how] / max(p[how] for p in peers) for how in ("min", "median")}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128], help="of the forum's network")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each rival of a row")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: minutes to warm up")
    parser.add_argument("--keras-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    rows = []
    for network in args.networks:
        names = [*RIVALS, *(["torch_compiled"] if args.compiled else []), *([] if network == "block" else KERAS)]
        for batch in args.batch_sizes if network == "forum" else [{"vgg": 64, "block": 16}[network]]:
            for threads in args.threads:
                row = measure(network, threads, batch, args.seconds, names, args.keras_python)
                rows.append(row)
                rates = ", ".join(f"{name} {v['median']:.0f}" for name, v in row["images_per_second"].items())
                libraries = [name for name in ("torch", "keras") if name in row]
                ratios = ", ".join(f"{name} {row[name]['min']:.2f} ({row[name]['median']:.2f})" for name in libraries)
                print(f"{network} batch {batch}, {threads} threads: {rates} images/s; ratios {ratios}", flush=True)
    if args.save:
        print(f"written: {save(args.save, rows, keras=keras_versions(args.keras_python))}")


if __name__ == "__main__":
    main()
