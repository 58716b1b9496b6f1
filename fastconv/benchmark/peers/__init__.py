"""The libraries that fastconv is compared with: one adapter each, imported on use, usable where the library is."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

from fastconv.benchmark.peers.adapter import Adapter, Rival, Unsupported

__all__ = ["PEERS", "Adapter", "Rival", "Unsupported", "adapter", "installed", "versions"]

#: Name of a peer -> (its distribution, the packages it imports, module of the adapter, class).
PEERS = {
    "torch": ("torch", ("torch",), "pytorch", "Contiguous"),
    "torch_channels_last": ("torch", ("torch",), "pytorch", "ChannelsLast"),
    "torch_prepacked": ("torch", ("torch",), "pytorch", "Prepacked"),
    "onnxruntime": ("onnxruntime", ("onnxruntime", "onnx"), "onnx_runtime", "OnnxRuntime"),
    "openvino": ("openvino", ("openvino",), "openvino", "OpenVino"),
    "openvino_nhwc": ("openvino", ("openvino",), "openvino", "OpenVinoNhwc"),
    "ncnn": ("ncnn", ("ncnn",), "ncnn", "Ncnn"),
    "mnn": ("MNN", ("MNN",), "mnn", "Mnn"),
}


def installed() -> list[str]:
    """Names of the peers that can be imported here."""
    return [name for name, row in PEERS.items() if all(importlib.util.find_spec(package) for package in row[1])]


def adapter(name: str) -> Adapter:
    """The adapter of a peer; ImportError where it is not installed."""
    if name not in PEERS:
        raise ValueError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
    _, _, module, kind = PEERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)()


def versions() -> dict[str, str]:
    """Distribution -> version, of the peers installed."""
    return {PEERS[name][0]: metadata.version(PEERS[name][0]) for name in installed()}
