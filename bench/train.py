"""Training steps against PyTorch and Keras: same network, batch, threads and optimizer family; images a second.

    python -m bench.train [--networks forum vgg block] [--threads 1 2] [--batch-sizes 64 128] [--save NAME]
    python -m bench.train --keras-python PATH      Keras from another environment (TensorFlow and JAX backends)

Every rival is a process of its own and they take turns, so that no pool of one spins beside another's turn. A turn is a
number of steps (forward, backward, RMSprop update) on batches gathered from the same random images beforehand.
  forum   Conv2D(32) - pool - Conv2D(64) - pool - Conv2D(64) - Dense(64) - Dense(10) on 28x28x1
  vgg     2 x Conv2D(64) - pool - 2 x Conv2D(128) - pool - 2 x Conv2D(256) - pool - Dense(256) - Dense(10) on 32x32x3
  block   one Conv2D(64) of 64 channels at 56x56: forward and both gradients
PyTorch runs eager, contiguous and channels_last, and its best mode is its figure; --compiled adds torch.compile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

IMAGES = 1024
SHAPES = {"forum": (28, 28, 1), "vgg": (32, 32, 3), "block": (56, 56, 64)}
VGG = (64, 64, None, 128, 128, None, 256, 256, None)
FORUM = (32, None, 64, None, 64)
RIVALS = ("fastconv", "fastconv_unfused", "torch", "torch_channels_last")
KERAS = ("keras_tensorflow", "keras_jax")
RATE = 1e-3
#: Makes the arrays of a batch ready, before the clock runs; one step on what it made.
Step = tuple[Callable[..., Any], Callable[[Any, Any], Any]]


def _fastconv(network: str, fuse: bool) -> Step:
    import fastconv
    from fastconv.nn import Sequential, layers

    if network == "block":
        weight = (np.random.default_rng(1).standard_normal((3, 3, 64, 64)) / 24).astype(np.float32)

        def block(x: np.ndarray, y: np.ndarray) -> None:
            z = fastconv.conv2d(x, weight, padding=1, layout="NHWC")
            fastconv.conv2d_input(x.shape, weight, z, padding=1, layout="NHWC")
            fastconv.conv2d_weight(x, weight.shape, z, padding=1, layout="NHWC")

        return _as_they_are, block
    first: dict[str, Any] = {"input_shape": SHAPES[network]}
    stack: list[Any] = []
    for filters in VGG if network == "vgg" else FORUM:
        if filters is None:
            stack.append(layers.MaxPooling2D(2))
        else:
            padding = "same" if network == "vgg" else "valid"
            stack.append(layers.Conv2D(filters, 3, activation="relu", padding=padding, **first))
        first = {}
    units = 256 if network == "vgg" else 64
    stack += [layers.Flatten(), layers.Dense(units, activation="relu"), layers.Dense(10, activation="softmax")]
    model = Sequential(stack, seed=0)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"], fuse=fuse)
    return _as_they_are, model.train_on_batch


def _as_they_are(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, y


def _torch(network: str, channels_last: bool, compiled: bool) -> Step:
    import torch
    from torch import nn

    torch.manual_seed(0)
    form = torch.channels_last if channels_last else torch.contiguous_format

    def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=form)
        return images.requires_grad_(network == "block"), torch.from_numpy(y)

    if network == "block":
        conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=form)

        def block(x: Any, y: Any) -> None:
            z = conv(x)
            z.backward(z.detach())
            conv.weight.grad = x.grad = None

        return tensors, block
    stack: list[Any] = []
    channels, size = SHAPES[network][2], SHAPES[network][0]
    for filters in VGG if network == "vgg" else FORUM:
        if filters is None:
            stack.append(nn.MaxPool2d(2))
            size //= 2
        else:
            stack += [nn.Conv2d(channels, filters, 3, padding=int(network == "vgg")), nn.ReLU()]
            channels, size = filters, size if network == "vgg" else size - 2
    units = 256 if network == "vgg" else 64
    stack += [nn.Flatten(), nn.Linear(channels * size * size, units), nn.ReLU(), nn.Linear(units, 10)]
    net: Any = nn.Sequential(*stack).to(memory_format=form)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=RATE, alpha=0.9, eps=1e-7)
    loss = nn.CrossEntropyLoss()
    run = torch.compile(net) if compiled else net

    def step(x: Any, y: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(run(x), y).backward()
        optimizer.step()

    return tensors, step


def _keras(network: str) -> Step:
    import keras
    from keras import layers

    if network == "block":
        raise SystemExit("keras has no step of one layer")
    stack: list[Any] = [keras.Input(SHAPES[network])]
    for filters in VGG if network == "vgg" else FORUM:
        if filters is None:
            stack.append(layers.MaxPooling2D(2))
        else:
            stack.append(layers.Conv2D(filters, 3, activation="relu", padding="same" if network == "vgg" else "valid"))
    units = 256 if network == "vgg" else 64
    stack += [layers.Flatten(), layers.Dense(units, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.RMSprop(RATE), "sparse_categorical_crossentropy")
    return _as_they_are, model.train_on_batch


def _step_of(rival: str, network: str, threads: int) -> Step:
    if rival.startswith("fastconv"):
        import fastconv

        fastconv.set_num_threads(threads)
        return _fastconv(network, rival == "fastconv")
    if rival.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
        return _torch(network, "channels_last" in rival, "compiled" in rival)
    return _keras(network)


def worker(rival: str, network: str, threads: int, batch: int) -> None:
    """Answers each line, a number of steps, with the seconds they took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    rng = np.random.default_rng(0)
    x = rng.random((max(batch, IMAGES if network == "forum" else 2 * batch), *SHAPES[network]), np.float32)
    y = rng.integers(0, 10, len(x))
    prepare, step = _step_of(rival, network, threads)
    batches = [prepare(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x) - batch + 1, batch)]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # frameworks print
    step(*batches[0])
    step(*batches[-1])
    answers.write("ready\n")
    for line in sys.stdin:
        start = time.perf_counter()
        for i in range(int(line)):
            step(*batches[i % len(batches)])
        answers.write(f"{time.perf_counter() - start}\n")


def _start(rival: str, network: str, threads: int, batch: int, keras_python: str) -> Any:
    """The worker's process, or None where its framework is not installed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3",
                   "KERAS_BACKEND": rival.removeprefix("keras_") if rival in KERAS else "tensorflow"}  # fmt: skip
    python = keras_python if rival in KERAS else sys.executable
    command = [python, "-m", "bench.train", "--worker", rival, network, str(threads), str(batch)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        bufsize=1,
    )  # fmt: skip
    assert process.stdout is not None
    return process if process.stdout.readline().strip() == "ready" else None


def _turn(process: Any, steps: int) -> float:
    process.stdin.write(f"{steps}\n")
    return float(process.stdout.readline())


def measure(
    network: str, threads: int, batch: int, seconds: float, rivals: list[str], keras_python: str
) -> dict[str, Any]:
    """One row: images a second of each rival (least and median turn) and ratios to the best mode of each library."""
    started = {name: _start(name, network, threads, batch, keras_python) for name in rivals}
    running = {name: process for name, process in started.items() if process is not None}
    steps = {name: max(1, round(0.1 / _turn(process, 3) * 3)) for name, process in running.items()}
    samples: dict[str, list[float]] = {name: [] for name in running}
    deadline = time.perf_counter() + seconds * len(running)
    while time.perf_counter() < deadline or len(samples["fastconv"]) < 3:
        for name, process in running.items():
            samples[name].append(_turn(process, steps[name]) / steps[name])
    for process in running.values():
        process.stdin.close()
        process.wait()
    row: dict[str, Any] = {"network": network, "threads": threads, "batch_size": batch, "images_per_second": {}}
    for name, times in samples.items():
        row["images_per_second"][name] = {"min": batch / min(times), "median": batch / statistics.median(times)}
    ours = row["images_per_second"]["fastconv"]
    for library in ("torch", "keras"):
        peers = [v for name, v in row["images_per_second"].items() if name.startswith(library)]
        if peers:
            row[library] = {how: ours[how] / max(p[how] for p in peers) for how in ("min", "median")}
    return row


def keras_versions(python: str) -> dict[str, str]:
    """What the environment of the Keras rivals holds."""
    code = (
        "import json, importlib.metadata as m\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: v for n, v in found.items() if n in ('keras', 'tensorflow', 'tensorflow-cpu', 'jax')}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128], help="of the forum's network")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each rival of a row")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: minutes to warm up")
    parser.add_argument("--keras-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    parser.add_argument("--worker", nargs=4, metavar=("RIVAL", "NETWORK", "THREADS", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker[0], args.worker[1], int(args.worker[2]), int(args.worker[3]))
        return
    rows = []
    for network in args.networks:
        rivals = [*RIVALS, *(["torch_compiled"] if args.compiled else []), *([] if network == "block" else KERAS)]
        for batch in args.batch_sizes if network == "forum" else [{"vgg": 64, "block": 16}[network]]:
            for threads in args.threads:
                row = measure(network, threads, batch, args.seconds, rivals, args.keras_python)
                rows.append(row)
                rates = ", ".join(f"{name} {v['median']:.0f}" for name, v in row["images_per_second"].items())
                libraries = [name for name in ("torch", "keras") if name in row]
                ratios = ", ".join(f"{name} {row[name]['min']:.2f} ({row[name]['median']:.2f})" for name in libraries)
                print(f"{network} batch {batch}, {threads} threads: {rates} images/s; ratios {ratios}", flush=True)
    if args.save:
        from bench.harness import save  # not in a worker: the frameworks' environments may lack what it imports

        print(f"written: {save(args.save, rows, keras=keras_versions(args.keras_python))}")


if __name__ == "__main__":
    main()
