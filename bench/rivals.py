"""The networks of the training benchmarks in fastconv, PyTorch and Keras, each in a process that takes orders.

Same layers, batch, threads and optimizer (RMSprop) in all. A rival's process never works while another's turn runs.
  forum   Conv2D(32) - pool - Conv2D(64) - pool - Conv2D(64) - Dense(64) - Dense(10) on 28x28x1
  vgg     2 x Conv2D(64) - pool - 2 x Conv2D(128) - pool - 2 x Conv2D(256) - pool - Dense(256) - Dense(10) on 32x32x3
  block   one Conv2D(64) of 64 channels at 56x56: forward and both gradients
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = 1024
SHAPES = {"forum": (28, 28, 1), "vgg": (32, 32, 3), "block": (56, 56, 64)}
VGG = (64, 64, None, 128, 128, None, 256, 256, None)
FORUM = (32, None, 64, None, 64)
FASTCONV = ("fastconv", "fastconv_unfused", "fastconv_augmented")
TORCH = ("torch", "torch_channels_last", "torch_compiled")
KERAS = ("keras_tensorflow", "keras_jax")
RATE = 1e-3
#: Seconds before a turn, for the threads of the last rival to fall asleep.
REST = 0.05


class Fastconv:
    """`Sequential`: fused, not fused, or fused with `fit` changing the images as `fastconv train --augment` does."""

    def __init__(self, name: str, network: str, threads: int) -> None:
        import fastconv
        from fastconv.nn import Sequential, augment, layers, train

        fastconv.set_num_threads(threads)
        self.augment = augment.RandomAffine(**train.AUGMENT) if name == "fastconv_augmented" else None
        if network == "block":
            weight = (np.random.default_rng(1).standard_normal((3, 3, 64, 64)) / 24).astype(np.float32)

            def block(x: np.ndarray, y: np.ndarray) -> None:
                z = fastconv.conv2d(x, weight, padding=1, layout="NHWC")
                fastconv.conv2d_input(x.shape, weight, z, padding=1, layout="NHWC")
                fastconv.conv2d_weight(x, weight.shape, z, padding=1, layout="NHWC")

            self.step = block
            return
        self.model = _keras_stack(Sequential, layers, network, {"input_shape": SHAPES[network]})
        self.model.compile(
            "rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"], fuse=name != "fastconv_unfused"
        )
        self.step: Any = self.model.train_on_batch

    def prepare(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        """The arrays in the form that `step`, `fit` and `accuracy` take; before the clock."""
        return x, y

    def fit(self, x: Any, y: Any, batch: int, rate: float) -> None:
        """One pass over the samples in a random order."""
        self.model.optimizer.learning_rate = rate
        self.model.fit(x, y, batch_size=batch, epochs=1, verbose=0, augment=self.augment)

    def accuracy(self, x: Any, y: Any) -> float:
        """Share of right predictions."""
        return float((self.model.predict(x).argmax(axis=1) == y).mean())


class Torch:
    """nn.Sequential in the usual loop: eager in one of the two memory formats, or compiled (in channels_last)."""

    def __init__(self, name: str, network: str, threads: int) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.torch, self.network = torch, network
        self.format = torch.contiguous_format if name == "torch" else torch.channels_last
        # Module.to takes memory_format alone, which PyTorch's stubs do not tell: hence the two ignored overloads
        if network == "block":
            conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=self.format)  # type: ignore[call-overload]

            def block(x: Any, y: Any) -> None:
                z = conv(x)
                z.backward(z.detach())
                conv.weight.grad = x.grad = None

            self.step: Any = block
            return
        stack: list[Any] = []
        channels, size, same = SHAPES[network][2], SHAPES[network][0], network == "vgg"
        for filters in VGG if same else FORUM:
            if filters is None:
                stack.append(nn.MaxPool2d(2))
                size //= 2
            else:
                stack += [nn.Conv2d(channels, filters, 3, padding=int(same)), nn.ReLU()]
                channels, size = filters, size if same else size - 2
        units = 256 if same else 64
        stack += [nn.Flatten(), nn.Linear(channels * size * size, units), nn.ReLU(), nn.Linear(units, 10)]
        net: Any = nn.Sequential(*stack).to(memory_format=self.format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.RMSprop(net.parameters(), lr=RATE, alpha=0.9, eps=1e-7)
        self.net: Any = torch.compile(net) if name == "torch_compiled" else net
        self.loss = nn.CrossEntropyLoss()
        self.step = self._step

    def _step(self, x: Any, y: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.net(x), y).backward()
        self.optimizer.step()

    def prepare(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        images = self.torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        return images.requires_grad_(self.network == "block"), self.torch.from_numpy(y)

    def fit(self, x: Any, y: Any, batch: int, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        order = self.torch.randperm(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            self._step(x[rows].contiguous(memory_format=self.format), y[rows])

    def accuracy(self, x: Any, y: Any) -> float:
        with self.torch.no_grad():
            right = [int((self.net(x[i : i + 256]).argmax(1) == y[i : i + 256]).sum()) for i in range(0, len(x), 256)]
        return sum(right) / len(x)


class Keras:
    """keras.Sequential; its backend is that of the environment."""

    def __init__(self, name: str, network: str, threads: int) -> None:
        import keras

        if network == "block":
            raise SystemExit("keras has no step of one layer")
        self.model = _keras_stack(keras.Sequential, keras.layers, network, {})
        self.model.build((None, *SHAPES[network]))
        self.model.compile(keras.optimizers.RMSprop(RATE), "sparse_categorical_crossentropy")
        self.step: Any = self.model.train_on_batch

    def prepare(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return x, y

    def fit(self, x: Any, y: Any, batch: int, rate: float) -> None:
        self.model.optimizer.learning_rate = rate
        self.model.fit(x, y, batch_size=batch, epochs=1, verbose=0)

    def accuracy(self, x: Any, y: Any) -> float:
        return float((self.model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y).mean())


def _keras_stack(sequential: Any, layers: Any, network: str, first: dict[str, Any]) -> Any:
    """The network by the names that Keras and fastconv.nn share; `first`: arguments of the first layer alone."""
    same = network == "vgg"
    stack: list[Any] = []
    for filters in VGG if same else FORUM:
        if filters is None:
            stack.append(layers.MaxPooling2D(2))
        else:
            padding = "same" if same else "valid"
            stack.append(layers.Conv2D(filters, 3, activation="relu", padding=padding, **first))
        first = {}
    units = 256 if same else 64
    return sequential(
        [*stack, layers.Flatten(), layers.Dense(units, activation="relu"), layers.Dense(10, activation="softmax")]
    )


class Rival:
    """A process that trains one network in one library and answers with seconds."""

    def __init__(
        self, name: str, network: str, threads: int, batch: int, keras_python: str, digits: Path | None = None
    ) -> None:
        """`digits`: an .npz with x, y and test_x, test_y to train on; else random images. Use after `started`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3",
                       "KERAS_BACKEND": name.removeprefix("keras_") if name in KERAS else "tensorflow"}  # fmt: skip
        arguments = [name, network, str(threads), str(batch), *([str(digits)] if digits else [])]
        self.name = name
        self._process = subprocess.Popen(
            [keras_python if name in KERAS else sys.executable, "-m", "bench.rivals", *arguments], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )  # fmt: skip

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _ask(self, *order: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        return self._answer()

    @property
    def started(self) -> bool:
        """Waits until it is ready; False where its framework is not installed or fails."""
        return self._answer() == "ready"

    def steps(self, count: int) -> float:
        """Seconds of so many steps on batches made beforehand."""
        return float(self._ask("steps", count))

    def fit(self, rows: tuple[int, int, int], rate: float) -> tuple[float, float]:
        """(seconds of one pass over this part of the digits, accuracy on the test digits after it).

        rows: seed of an order of all digits, and the first and last place in it."""
        seconds, accuracy = self._ask("fit", rows, rate)
        return seconds, accuracy

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def start(names: list[str], *arguments: Any) -> dict[str, Rival]:
    """Those of `names` that run here, ready; one is started after the other."""
    found = {}
    for name in names:
        rival = Rival(name, *arguments)
        if rival.started:
            found[name] = rival
        else:
            print(f"{name}: not here, or it failed (python -m bench.rivals {name} ... says why)", flush=True)
    return found


def keras_versions(python: str) -> dict[str, str]:
    """What the environment of the Keras rivals holds."""
    code = (
        "import json, importlib.metadata as m\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: v for n, v in found.items() if n in ('keras', 'tensorflow', 'tensorflow-cpu', 'jax')}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def _serve(name: str, network: str, threads: int, batch: int, digits: str | None) -> None:
    """What the process does: orders of `Rival` on standard input, answers on standard output."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # frameworks print
    if digits is None:
        rng = np.random.default_rng(0)
        x = rng.random((max(batch, IMAGES if network == "forum" else 2 * batch), *SHAPES[network]), np.float32)
        y = rng.integers(0, 10, len(x))
    else:
        stored = np.load(digits)
        x, y = stored["x"], stored["y"]
    libraries = {**dict.fromkeys(FASTCONV, Fastconv), **dict.fromkeys(TORCH, Torch), **dict.fromkeys(KERAS, Keras)}
    library: Any = libraries[name](name, network, threads)
    places = range(0, max(1, min(len(x), IMAGES) - batch + 1), batch)
    batches = [library.prepare(x[i : i + batch], y[i : i + batch]) for i in places]
    for first in (batches[0], batches[-1]):  # what is compiled or planned at first is not timed
        library.step(*first)
    if digits is not None:
        test = library.prepare(stored["test_x"], stored["test_y"])
        library.fit(*batches[0], batch, RATE)
        library.accuracy(*test)
    answers.write('"ready"\n')
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any = None
        if order[0] == "steps":
            begin = time.perf_counter()
            for i in range(order[1]):
                library.step(*batches[i % len(batches)])
            answer = time.perf_counter() - begin
        elif order[0] == "fit":
            seed, first_place, last_place = order[1]
            rows = np.random.default_rng(seed).permutation(len(x))[first_place:last_place]
            part = library.prepare(x[rows], y[rows])
            begin = time.perf_counter()
            library.fit(*part, batch, order[2])
            seconds = time.perf_counter() - begin
            answer = seconds, library.accuracy(*test)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
