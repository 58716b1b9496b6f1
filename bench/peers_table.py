"""Ours against every installed peer, layer by layer: GFLOP/s, errors against float64, ratio to the best peer.

    python -m bench.peers_table --layers vgg_conv3_2 mb1ic64ih56oc64kh3ph1 [--threads 1 2] [--peers ncnn mnn]

Layers are names from bench/layers, files of it (vgg16), or problems in the text grammar. A ratio above 1 means that
fastconv is faster than the fastest peer.
"""

from __future__ import annotations

import argparse
import sys

import fastconv
from bench.harness import layers, save
from fastconv.benchmark import contest, installed, report


def chosen(words: list[str]) -> dict[str, fastconv.ConvProblem]:
    """Problems by name, by file of bench/layers, or in the text grammar."""
    known, found = dict(layers()), {}
    for word in words:
        if word in known:
            found[word] = known[word]
            continue
        try:
            found.update(layers(word))
        except OSError:
            found[word] = fastconv.ConvProblem.parse(word)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", default=["vgg_conv3_2", "r50_mb1_c2_1x1_64_256", "mnist_conv2_mb1"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--peers", nargs="*", help="default: all that are installed")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each rival and layer")
    parser.add_argument("--algorithm", default="auto", help="force one of ours")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    args = parser.parse_args()
    peers = installed() if args.peers is None else args.peers
    names = [*contest.OURS, *peers]
    rows = []
    print(report.header(names))
    for threads in args.threads:
        for name, problem in chosen(args.layers).items():
            row = contest.convolution(problem, threads, peers, args.seconds, algorithm=args.algorithm)
            rows.append({"layer": name, **row})
            print(report.line(name, row, names))
            print(report.error_line(row, names))
            sys.stdout.flush()
    print(f"GFLOP/s of direct convolution; multiply-add peak in the last race: {rows[-1]['peak']['min']:.0f}")
    if args.save:
        print(f"written: {save(args.save, rows)}")


if __name__ == "__main__":
    main()
