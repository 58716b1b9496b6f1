"""MNN: precision high, its own NC4HW4 layout at both ends; a session has one input, so it is spared the rotation."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fastconv import ConvProblem
from fastconv.benchmark.peers.adapter import Adapter, Rival, Unsupported, quiet, symmetric_padding


class Mnn(Adapter):
    """A one-layer model from MNN's own module (its converter may install packages and report to a server)."""

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        with quiet():
            import MNN
            from MNN import expr, nn

        p, padding = problem, symmetric_padding(problem)
        if p.g != 1 and not (p.g == p.ic == p.oc):
            raise Unsupported("MNN's module has no groups but depthwise ones")
        window, step, dilation = [p.kw, p.kh], [p.sw, p.sh], [p.dw, p.dh]
        layer = nn.conv(p.ic, p.oc, window, step, [padding[1], padding[0]], dilation, p.g != 1, True, expr.CAFFE)
        arrays = [weight if len(v.shape) == 4 else np.zeros(v.shape, np.float32) for v in layer.parameters]
        if [list(v.shape) for v in layer.parameters] != [list(a.shape) for a in arrays]:
            raise Unsupported("MNN wants its weights in another shape")
        layer.load_parameters([expr.const(a, list(a.shape), expr.NCHW) for a in arrays])
        layer.train(False)
        x = expr.placeholder(list(inputs[0].shape), expr.NC4HW4)
        y = layer.forward(x)
        x.name, y.name = "x", "y"
        file = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "net.mnn")
        expr.save([y], file)
        net = MNN.Interpreter(file)
        with quiet():
            session = net.createSession({"numThread": threads, "precision": "high", "backend": "CPU"})
        shape = (p.mb, p.oc, p.oh, p.ow)

        def tensor(array: np.ndarray) -> MNN.Tensor:
            return MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)

        def output() -> np.ndarray:
            net.getSessionInput(session).copyFrom(tensor(inputs[0]))
            net.runSession(session)
            host = tensor(np.zeros(shape, np.float32))
            net.getSessionOutput(session).copyToHostTensor(host)
            return np.array(host.getNumpyData(), np.float32).reshape(shape)

        net.getSessionInput(session).copyFrom(tensor(inputs[0]))
        return Rival([lambda: net.runSession(session)], output)
