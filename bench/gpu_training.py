"""Training on a GPU: the forum's network to 99 % of the test digits, and images a second beside PyTorch's.

    python -m bench.gpu --train [--data PATH] [--batch-sizes 64 128 512] [--seconds S] [--save NAME]
    NUMBA_ENABLE_CUDASIM=1 python -m bench.gpu --train --simulate

PATH: the folder with the four files of MNIST, all 60,000 digits; without it only the race is run. `fastconv train
--backend cuda --until 0.99` gives the seconds, of training alone and with the compilation of kernels. In the race each
library makes passes over the same random images by its own means, in turns, RMSprop in all; a turn ends when the GPU is
done. fastconv: `fit`, batches drawn on the host. PyTorch: eager, channels_last, cudnn.benchmark, the optimiser in its
foreach form; batches copied from pinned memory as ours are, or drawn from images that lie on the GPU; TF32 off (the
like of ours) and on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness, rivals
from fastconv.cli import main as command
from fastconv.nn import Sequential, layers, mnist_network

# Images of a pass of the race; a pass over fewer would be mostly start and end.
IMAGES = 1 << 14
# Of PyTorch: (its batches lie on the GPU, TF32).
MODES = {
    "torch": (False, False), "torch, images on the GPU": (True, False), "torch, tf32": (False, True),
    "torch, images on the GPU, tf32": (True, True),
}  # fmt: skip
LEAST_TURNS = 3


def until(data: str, accuracy: float) -> dict[str, Any]:
    """What `fastconv train --backend cuda --until` says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        status = command(
            ["train", "--backend", "cuda", "--until", str(accuracy), "--data", data, "--json", str(file)]
        )  # fmt: skip
        if not file.exists():
            raise SystemExit(f"fastconv train failed with status {status}")
        figures = json.loads(file.read_text(encoding="utf-8"))
    names = ("accuracy", "updates", "images_per_second", "seconds", "total_seconds", "kernels")
    return {"until": accuracy, "reached": status == 0, **{name: figures[name] for name in names}}


def ours(model: Sequential, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[], None]:
    """A pass of `fit` on the GPU."""
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"], backend="cuda")
    return lambda: model.fit(x, y, batch_size=batch, epochs=1, verbose=0)  # type: ignore[func-returns-value]


class Torch(rivals.Torch):
    """The same network on the GPU."""

    def __init__(self, on_gpu: bool, tf32: bool) -> None:
        super().__init__("torch_channels_last", "forum", 4)  # threads that gather its batches
        torch = self.torch
        self.on_gpu, self.tf32 = on_gpu, tf32
        self.net = self.net.to("cuda")
        self.optimizer = torch.optim.RMSprop(
            self.net.parameters(), lr=rivals.RATE, alpha=0.9, eps=1e-7, foreach=True
        )  # fmt: skip

    def pass_of(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[], None]:
        torch = self.torch
        images, labels = self.prepare(x, y)
        images, labels = (a.to("cuda") if self.on_gpu else a.pin_memory() for a in (images, labels))

        def one() -> None:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
            order = torch.randperm(len(x), device=images.device)
            loss = torch.zeros((), device="cuda")  # summed there, as ours is
            for start in range(0, len(x), batch):
                rows = order[start : start + batch]
                picked = images[rows].contiguous(memory_format=self.format)
                if not self.on_gpu:
                    picked = picked.pin_memory()
                self._step_on(picked.to("cuda", non_blocking=True), labels[rows].to("cuda", non_blocking=True), loss)
            torch.cuda.synchronize()

        return one

    def _step_on(self, x: Any, y: Any, total: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.net(x), y)
        loss.backward()
        self.optimizer.step()
        total += loss.detach()


def race(passes: dict[str, Callable[[], None]], images: int, batch: int, seconds: float) -> dict[str, Any]:
    """Images a second of each, at its fastest and its median turn, and the best like peer's time over ours."""
    for one in passes.values():  # compiles, chooses, records
        one()
    times: dict[str, list[float]] = {name: [] for name in passes}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["fastconv"]) < LEAST_TURNS:
        for name, one in passes.items():
            began = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - began)
    rates = {
        name: {"best": images / min(found), "median": images / statistics.median(found)}
        for name, found in times.items()
    }
    row: dict[str, Any] = {"batch_size": batch, "images_per_second": rates}
    like = [rate["median"] for name, rate in rates.items() if name.startswith("torch") and "tf32" not in name]
    if like:
        row["ratio"] = rates["fastconv"]["median"] / max(like)
    found = ", ".join(f"{name} {rate['median']:,.0f}" for name, rate in rates.items())
    print(f"batch {batch}: {found} images/s" + (f"; ratio {row['ratio']:.2f}" if like else ""), flush=True)
    return row


def simulate() -> dict[str, Any]:
    """A few steps of a tiny network in Numba's simulator: that everything is there, not how fast it is."""
    tiny = Sequential([
        layers.Conv2D(2, 3, activation="relu", input_shape=(6, 6, 1)), layers.MaxPooling2D(2), layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ], seed=0)  # fmt: skip
    x, y = _images(8, (6, 6, 1))
    return race({"fastconv": ours(tiny, x, y, 4)}, len(x), 4, 0.0)


def _images(count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((count, *shape), np.float32), rng.integers(0, 10, count)


def main(options: argparse.Namespace) -> int:
    if options.simulate:
        simulate()
        return 0
    import torch

    torch.backends.cudnn.benchmark = True
    device = torch.cuda.get_device_name()
    rows: list[dict[str, Any]] = [until(options.data, 0.99)] if options.data else []
    x, y = _images(IMAGES, (28, 28, 1))
    for batch in options.batch_sizes:
        passes = {"fastconv": ours(mnist_network(0), x, y, batch)}
        if not options.no_peers:
            passes |= {name: Torch(*how).pass_of(x, y, batch) for name, how in MODES.items()}
        rows.append(race(passes, len(x), batch, options.seconds / len(options.batch_sizes)))
    if options.save:
        harness.save(options.save, rows, device=device)
    return 0
