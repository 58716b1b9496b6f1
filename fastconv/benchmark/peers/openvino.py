"""OpenVINO: one-node models on the CPU plugin, in float32, on shared memory; NCHW or NHWC tensors."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from fastconv import ConvProblem
from fastconv.benchmark.peers.adapter import Adapter, Rival, nhwc


class OpenVino(Adapter):
    """Tensors in NCHW; the latency hint, one stream, and the precision hint that keeps bfloat16 away."""

    channels_last = False

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        import openvino as ov
        from openvino import opset13 as ops

        p = problem
        x = ops.parameter(list(inputs[0].shape), np.float32, name="x")
        geometry = ([p.sh, p.sw], [p.ph, p.pw], [p.ph_r, p.pw_r], [p.dh, p.dw])
        if p.g == 1:
            y = ops.convolution(x, ops.constant(weight), *geometry)
        else:
            y = ops.group_convolution(x, ops.constant(weight.reshape(p.g, p.ocg, p.icg, p.kh, p.kw)), *geometry)
        model = ov.Model([y], [x], "one_node")
        if self.channels_last:
            model = self._nhwc(model)
        settings = {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip
        compiled = ov.Core().compile_model(model, "CPU", settings)
        shape = (p.mb, p.oh, p.ow, p.oc) if self.channels_last else (p.mb, p.oc, p.oh, p.ow)
        xs = [nhwc(array) for array in inputs] if self.channels_last else inputs
        outputs = [np.empty(shape, np.float32) for _ in inputs]

        def call(x: np.ndarray, y: np.ndarray) -> Any:
            request = compiled.create_infer_request()
            request.set_input_tensor(ov.Tensor(x, shared_memory=True))
            request.set_output_tensor(ov.Tensor(y, shared_memory=True))
            return lambda kept=(x, y): request.infer(share_outputs=True)  # a shared tensor does not own its array

        calls = [call(x, y) for x, y in zip(xs, outputs)]

        def output() -> np.ndarray:
            calls[0]()
            return outputs[0].transpose(0, 3, 1, 2) if self.channels_last else outputs[0]

        return Rival(calls, output)

    @staticmethod
    def _nhwc(model: Any) -> Any:
        from openvino import Layout
        from openvino.preprocess import PrePostProcessor

        steps = PrePostProcessor(model)
        for end in (steps.input(), steps.output()):
            end.tensor().set_layout(Layout("NHWC"))
            end.model().set_layout(Layout("NCHW"))
        return steps.build()


class OpenVinoNhwc(OpenVino):
    """Tensors in NHWC."""

    channels_last = True
