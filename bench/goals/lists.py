"""The layers of each line of the goals table, from bench/layers, and layers in no list."""

from __future__ import annotations

import functools

import numpy as np

from bench.harness import layers
from fastconv import ConvProblem

Layers = dict[str, ConvProblem]


@functools.cache
def _file(name: str) -> Layers:
    return dict(layers(name))


@functools.cache
def everything() -> Layers:
    """Every listed layer."""
    return dict(layers())


def winograd() -> Layers:
    """3x3, stride 1, 64 channels and up: VGG-16 and ResNet c2 to c4."""

    def fits(name: str, p: ConvProblem) -> bool:
        return p.kh == p.kw == 3 and p.sh == p.g == 1 and min(p.ic, p.oc) >= 64 and "_c5_" not in name

    return {n: p for n, p in (_file("vgg16") | _file("resnet50")).items() if fits(n, p)}


def direct() -> Layers:
    """1x1, strided and 7x7 layers of ResNet-50, MobileNet and GoogLeNet."""
    found = _file("resnet50") | _file("mobilenet") | _file("googlenet")
    return {n: p for n, p in found.items() if p.g == 1 and (p.kh == 1 or p.sh > 1 or p.kh == 7)}


def gradients() -> Layers:
    """The 3x3, 1x1 and strided layers of ResNet-50, which are listed with batches of 1 and 16."""
    return {n: p for n, p in _file("resnet50").items() if "_conv1" not in n}


def five() -> Layers:
    """5x5, stride 1, 16 channels and up."""
    found = _file("googlenet") | _file("deepbench")
    return {n: p for n, p in found.items() if p.kh == p.kw == 5 and p.sh == 1 and p.ic >= 16}


def depthwise() -> Layers:
    """MobileNet's depthwise layers."""
    return {n: p for n, p in _file("mobilenet").items() if p.g > 1}


def latency() -> Layers:
    """MNIST layers at batch 1."""
    return {n: p for n, p in _file("mnist").items() if p.mb == 1}


def others() -> Layers:
    """The listed layers of no line above."""
    taken = {*winograd(), *direct(), *five(), *depthwise(), *latency()}
    return {n: p for n, p in everything().items() if n not in taken}


def plain() -> Layers:
    """Layers over 50 MFLOP at batch 1, on which the plain-sum kernels are held against the peak."""
    found = _file("vgg16") | _file("resnet50") | _file("googlenet") | _file("mobilenet")
    return {n: p for n, p in found.items() if p.mb == p.g == 1 and p.flops > 50e6}


def plain_large() -> Layers:
    """Those over 200 MFLOP."""
    return {name: p for name, p in plain().items() if p.flops > 200e6}


def wide() -> Layers:
    """The Winograd layers of 128 to 512 channels."""
    return {n: p for n, p in winograd().items() if min(p.ic, p.oc) >= 128}


def second_core() -> Layers:
    """Layers of every kind with enough work for two cores."""
    names = (
        "vgg_conv1_2", "vgg_conv3_2", "vgg_conv5_1", "r50_mb1_c2_3x3", "r50_mb1_c4_3x3", "r50_mb1_conv1",
        "r50_mb1_c2_1x1_64_256", "r50_mb1_c4_1x1_1024_256", "r50_mb1_c3_3x3_s2", "goog_3b_5x5", "mnet_dw3",
        "mnist_conv2_mb64",
    )  # fmt: skip
    return {name: everything()[name] for name in names}


def twins() -> Layers:
    """Layers on which the Numba kernels are held against the C kernels."""
    names = (
        "vgg_conv3_2",
        "r50_mb1_c2_3x3",
        "r50_mb1_c4_1x1_1024_256",
        "r50_mb1_conv1",
        "goog_3b_5x5",
        "mnist_conv2_mb64",
        "r50_mb1_c4_3x3",
        "r50_mb1_c3_3x3_s2",
        "mnist_conv1_mb64",
        "mnet_dw2",
        "mnet_dw3",
    )
    return {name: everything()[name] for name in names}


#: (op, text) of pools of the networks above; forward and backward are raced.
POOLS = (
    ("max_pool2d", "mb64ic32ih26kh2sh2"),
    ("max_pool2d", "mb64ic64ih11kh2sh2"),
    ("max_pool2d", "mb1ic64ih224kh2sh2"),
    ("max_pool2d", "mb1ic512ih28kh2sh2"),
    ("max_pool2d", "mb1ic64ih112kh3sh2ph1"),
    ("max_pool2d", "mb16ic64ih112kh3sh2ph1"),
    ("max_pool2d", "mb1ic192ih28kh3ph1"),
    ("avg_pool2d", "mb1ic128ih56kh2sh2"),
    ("avg_pool2d", "mb1ic192ih28kh3ph1"),
    ("avg_pool2d", "mb16ic64ih56kh3sh2ph1"),
    ("avg_pool2d", "mb1ic2048ih7kh7"),
)

#: Two series of one layer: time per FLOP should not change along them.
SCALES = {
    "batch": tuple(f"mb{mb}ic64ih56oc64kh3ph1" for mb in (1, 2, 4, 8, 16, 32, 64)),
    "image": tuple(f"mb1ic64ih{ih}oc64kh3ph1" for ih in (28, 56, 112, 224, 448)),
}


def unlisted(count: int = 40, seed: int = 2026) -> Layers:
    """Random layers in no list: any small filter, stride, channels, groups; 1 to 1000 MFLOP."""
    rng = np.random.default_rng(seed)
    found: Layers = {}
    while len(found) < count:
        kh = int(rng.choice([1, 1, 2, 3, 3, 3, 3, 5, 7]))
        kw = kh if rng.random() < 0.85 else int(rng.choice([1, 3, 5, 7]))
        ic, oc = (round(2 ** rng.uniform(0, 9)) for _ in range(2))
        ih = round(2 ** rng.uniform(2.5, 7.5))
        iw = ih if rng.random() < 0.7 else round(2 ** rng.uniform(2.5, 7.5))
        s, mb = int(rng.choice([1, 1, 1, 2])), int(rng.choice([1, 1, 2, 7, 16]))
        text = f"mb{mb}ic{ic}ih{ih}iw{iw}oc{oc}kh{kh}kw{kw}sh{s}ph{kh // 2}pw{kw // 2}"
        if rng.random() < 0.1:
            text = f"g{ic}mb{mb}ic{ic}ih{ih}iw{iw}oc{ic}kh{kh}kw{kw}sh{s}ph{kh // 2}pw{kw // 2}"
        try:
            problem = ConvProblem.parse(text)
        except ValueError:
            continue
        if 1e6 <= problem.flops <= 1e9 and problem.text not in {p.text for p in everything().values()}:
            found[f"random_{len(found)}"] = problem
    return found
