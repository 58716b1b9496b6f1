"""ncnn: fp16 and bf16 off, Winograd as by default, its packed layout at both ends; no batch: images in turn."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import ConvProblem
from fastconv.benchmark.peers.adapter import Adapter, Rival, Unsupported

MAGIC = 7767517
# Channels of one element of a packed Mat; a layer takes the largest that divides its channels.
PACKS = (16, 8, 4, 1)


class Ncnn(Adapter):
    """Convolution or ConvolutionDepthWise (its name for groups). A batch is a loop of extractors over its images."""

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        import ncnn

        p = problem
        net = ncnn.Net()
        net.opt.num_threads = threads
        for word in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
            if hasattr(net.opt, f"use_{word}"):
                setattr(net.opt, f"use_{word}", False)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        numbers = {
            0: p.oc, 1: p.kw, 11: p.kh, 2: p.dw, 12: p.dh, 3: p.sw, 13: p.sh, 4: p.pw, 14: p.ph, 15: p.pw_r, 16: p.ph_r,
            5: 0, 6: weight.size,
        }  # fmt: skip
        kind = "Convolution" if p.g == 1 else "ConvolutionDepthWise"
        if p.g > 1:
            numbers[7] = p.g
        words = " ".join(f"{key}={value}" for key, value in numbers.items())
        (folder / "net.param").write_text(f"{MAGIC}\n2 2\nInput x 0 1 x\n{kind} conv 1 1 x y {words}\n")
        (folder / "net.bin").write_bytes(bytes(4) + weight.tobytes())  # a zero tag: float32 follows
        if net.load_param(str(folder / "net.param")) or net.load_model(str(folder / "net.bin")):
            raise Unsupported("ncnn refuses the layer")
        pack = next(n for n in PACKS if p.ic % n == 0)

        def packed(image: np.ndarray) -> Any:
            return ncnn.convert_packing(ncnn.Mat(image).clone(), pack)

        def run(mats: list[Any]) -> list[Any]:
            results = []
            for mat in mats:
                extractor = net.create_extractor()
                extractor.input("x", mat)
                results.append(extractor.extract("y", 1)[1])  # 1: leave the result packed
            return results

        sets = [[packed(image) for image in x] for x in inputs]

        def output() -> np.ndarray:
            return np.stack([np.array(ncnn.convert_packing(y, 1)) for y in run(sets[0])])

        return Rival([lambda mats=mats: run(mats) for mats in sets], output)  # type: ignore[misc]
