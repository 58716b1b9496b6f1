"""The command `fastconv train`: the forum's network on MNIST, with its figures printed and written as JSON."""
from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fastconv

from . import data, device, optimizers, saving
from .augment import RandomAffine
from .callbacks import History, TargetReached
from .models import Sequential
from .networks import mnist_network
from .progress import counted

# Highest rates of the one-cycle schedule. Chosen by the accuracy on the last 10,000 training digits of MNIST of
# networks trained for 5 epochs on the first 10,000 (and 50,000) of them; no test digit took part. RMSprop at 0.001,
# 0.002, 0.003: 97.95, 98.43, 98.51 % (99.13, 99.24, 99.30 %); Adam at 0.003, 0.006, 0.01: 98.39, 98.48, 98.48 %;
# SGD at 0.05, 0.1: 98.19, 98.23 %.
PEAK_LEARNING_RATES = {"sgd": 0.1, "rmsprop": 0.003, "adam": 0.006}
MOMENTUM = 0.9  # of sgd
# `--until`: an epoch is one and a half passes over the digits and one cycle of Adam; if one is too few, others come
# at half the rate. Chosen on the last 5,000 of the 60,000 training digits, after training on the others, seeds 0-3:
# 1.5 passes in batches of 64 at 0.004 gave 99.12 to 99.22 %, at 0.006 99.14 to 99.22 %; in batches of 128 at 0.006
# 99.04 to 99.22 %; 1.25 passes of those 98.96 to 99.12 %; 1 pass 98.82 to 99.06 %. (beta_2 = 0.999 is 0.1 % worse.)
UNTIL = {"epochs": 3, "batch_size": 64, "optimizer": "adam"}
UNTIL_RATE, UNTIL_BETA_2, UNTIL_PASSES, UNTIL_AGAIN = 0.004, 0.99, 1.5, 0.5
USUAL = {"epochs": 5, "batch_size": 64, "optimizer": "rmsprop"}
# `--augment`: how far digits are changed; usual amounts for digits, not tuned.
AUGMENT = {"degrees": 12.0, "shift": 2.0, "zoom": 0.12, "shear": 0.12}
# How long `--data download` may take: whoever asks for the full set by name waits for it.
PATIENT_SECONDS = 600.0


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value
    return integer


def _accuracy(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _defaults(name: str) -> str:
    return f"({USUAL[name]}; {UNTIL[name]} with --until)"


def add_train_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `train` and its options to the subparsers of the `fastconv` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train", help="train the MNIST network through fastconv's kernels",
        description="Train the convolutional network for handwritten digits and report accuracy, speed and kernels. "
                    "One seed fixes every bit of the trained weights, for any number of threads.")
    parser.add_argument("--data", metavar="PATH",
                        help="folder with the four IDX files of MNIST, or mnist.npz; 'embedded': the digits in the "
                             "package; 'download': fetch the full set. Without it: FASTCONV_DATA, the data folder, "
                             f"a download of at most {data.DOWNLOAD_SECONDS:g} seconds, or the embedded digits")
    parser.add_argument("--until", type=_accuracy, metavar="ACCURACY",
                        help="train until the test digits reach this accuracy (such as 0.99 for 99 %%), looked at "
                             f"after each epoch of {UNTIL_PASSES} passes; exit status 1 if the epochs end first. Adam "
                             f"then has beta_2 = {UNTIL_BETA_2}")
    parser.add_argument("--augment", action="store_true",
                        help="turn, scale, slant and shift the training digits at random, anew in each epoch")
    parser.add_argument("--epochs", type=_at_least(1),
                        help=f"passes over the data ({USUAL['epochs']}; with --until at most "
                             f"{UNTIL['epochs']}, of {UNTIL_PASSES} passes each)")
    parser.add_argument("--batch-size", type=_at_least(1), help=f"digits per update {_defaults('batch_size')}")
    parser.add_argument("--optimizer", choices=sorted(optimizers.OPTIMIZERS),
                        help=f"update rule {_defaults('optimizer')}, with a one-cycle learning rate over all epochs "
                             "(with --until over each)")
    parser.add_argument("--learning-rate", type=float, metavar="RATE",
                        help="highest rate of the cycle (" + ", ".join(
                            f"{name} {rate:g}" for name, rate in PEAK_LEARNING_RATES.items())
                        + f"; adam {UNTIL_RATE:g} with --until)")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of weights and batches (%(default)s)")
    parser.add_argument("--threads", type=_at_least(1), help="most threads to use (all cores allowed)")
    parser.add_argument("--algorithm", default="auto", help="force naive, im2col, winograd, ... where it exists")
    parser.add_argument("--backend", default="auto",
                        help="force cython or numba where it exists; cuda: all of the training on the GPU")
    parser.add_argument("--save", metavar="FILE", help="write the trained model (.npz or .safetensors)")
    parser.add_argument("--json", metavar="FILE", help="write the run's figures")
    parser.set_defaults(run=run_train)
    return parser


def run_train(args: argparse.Namespace) -> int:
    """Run the command; raises ValueError or OSError with one clear sentence for anything it cannot do."""
    for path in filter(None, (args.save, args.json)):
        if not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder does not exist")
    if args.save:
        saving.file_kind(args.save)
    device.check(args.backend)
    for name, value in (USUAL if args.until is None else UNTIL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.threads is not None:
        fastconv.set_num_threads(args.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        figures, model = _train(args)
    if args.save:
        model.save(args.save)
        print(f"model written to {args.save}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"figures written to {args.json}")
    if args.until is not None and figures["accuracy"] < args.until:
        print(f"{args.until:.2%} was not reached in {counted(args.epochs, 'epoch')}", file=sys.stderr)
        return 1
    return 0


def _source(path: str | None) -> data.Source:
    """Where the digits come from; a download that fails is told in one line."""
    if path not in (None, "download"):
        return data.find_mnist(path)
    source, fault = data.download_or_embedded(data.DOWNLOAD_SECONDS if path is None else PATIENT_SECONDS)
    if fault:
        print(f"{fault}; training on the embedded digits")
    return source


def _peak(args: argparse.Namespace) -> float:
    if args.learning_rate is not None:
        return args.learning_rate
    return UNTIL_RATE if args.until is not None and args.optimizer == "adam" else PEAK_LEARNING_RATES[args.optimizer]


def _optimizer(args: argparse.Namespace, updates: int) -> optimizers.Optimizer:
    """With one cycle of so many updates; `--until` adds others."""
    until = args.until is not None
    rate = optimizers.OneCycle(_peak(args), updates, again=UNTIL_AGAIN if until else 0.0)
    options = {"momentum": MOMENTUM} if args.optimizer == "sgd" else {}
    if args.optimizer == "adam" and until:
        options = {"beta_2": UNTIL_BETA_2}
    return optimizers.OPTIMIZERS[args.optimizer](learning_rate=rate, **options)


def _train(args: argparse.Namespace) -> tuple[dict[str, Any], Sequential]:
    began = perf_counter()
    source = _source(args.data)
    (x_train, y_train), (x_test, y_test) = data.load(source)
    print(f"{len(x_train):,} training and {len(x_test):,} test digits from {source.text}")
    model = mnist_network(args.seed)
    until = args.until is not None
    a_pass = -(-len(x_train) // args.batch_size)
    steps = math.ceil(UNTIL_PASSES * a_pass) if until else None
    updates = steps or a_pass * args.epochs  # of one cycle
    model.compile(_optimizer(args, updates), "sparse_categorical_crossentropy", metrics=["accuracy"],
                  kernels=args.algorithm, backend=args.backend)
    model.summary()
    memory = model.memory(args.batch_size)
    print(memory)
    watched: dict[str, Any] = {"augment": RandomAffine(**AUGMENT) if args.augment else None}
    if until:
        watched |= {"validation_data": (x_test, y_test), "callbacks": [TargetReached(args.until)],
                    "steps_per_epoch": steps}
    history = model.fit(x_train, y_train, batch_size=args.batch_size, epochs=args.epochs, **watched)
    profile = model.profile()
    if history.interrupted:
        raise KeyboardInterrupt
    test_began = perf_counter()
    if until:  # evaluated a moment ago
        loss, accuracy = history.history["val_loss"][-1], history.history["val_accuracy"][-1]
    else:
        loss, accuracy = model.evaluate(x_test, y_test)
    test_seconds = perf_counter() - test_began
    seconds = sum(history.seconds)
    rate = profile.samples / seconds
    wrong = round((1 - accuracy) * len(x_test))
    print(f"test accuracy {accuracy:.2%}  ({wrong} of {len(x_test):,} wrong, loss {loss:.4f})")
    where = "on the GPU" if args.backend == "cuda" else f"{fastconv.get_num_threads()} threads"
    print(f"{history.updates:,} updates in {seconds:.1f} s, {rate:,.0f} images/s, {where}")
    print(profile)
    return {
        "accuracy": accuracy, "loss": loss, "updates": history.updates,
        "updates_per_epoch": history.updates // len(history.seconds), "images_per_second": rate, "seconds": seconds,
        "test_seconds": test_seconds, "total_seconds": perf_counter() - began, "profile": profile.to_dict(),
        "memory": {**vars(memory), "total": memory.total},
        "kernels": _kernels(model), "epochs": _epochs(history), "settings": _settings(args),
        "data": {"source": source.text, "training": len(x_train), "test": len(x_test)},
        "threads": fastconv.get_num_threads(),
        "versions": {"fastconv": fastconv.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": {name: str(value) for name, value in fastconv.info().items()},
    }, model


def _kernels(model: Sequential) -> dict[str, dict[str, list[str]]]:
    return {layer.name: layer.kernels.ran for layer in model.layers if layer.kernels.ran}


def _epochs(history: History) -> list[dict[str, float]]:
    columns = {**history.history, "seconds": history.seconds, "images_per_second": history.images_per_second}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("until", "augment", "epochs", "batch_size", "optimizer", "learning_rate", "seed", "algorithm", "backend")
    settings = {name: getattr(args, name) for name in names}
    return {**settings, "learning_rate": _peak(args)}
