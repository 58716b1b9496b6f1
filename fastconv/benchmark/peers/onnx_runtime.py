"""ONNX Runtime: one-node models on the CPU provider, inputs and outputs bound ahead."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from fastconv import ConvProblem, PoolProblem
from fastconv.benchmark.peers.adapter import Adapter, Rival, Unsupported

OPSET = 17
# The oldest model format that has this opset: a newer one would refuse older runtimes.
IR_VERSION = 8


def _session(node: Any, shapes: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray], threads: int) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes[name])) for name in ("x", "y"))
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "one_node", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # its threads may spin while it works, as by default, but not during a rival's turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bound(session: Any, inputs: list[np.ndarray], shape: tuple[int, ...]) -> Rival:
    import onnxruntime as ort

    outputs = [ort.OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32)) for _ in inputs]

    def call(x: np.ndarray, y: Any) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", y)
        return lambda: session.run_with_iobinding(binding)

    calls = [call(x, y) for x, y in zip(inputs, outputs)]

    def output() -> np.ndarray:
        calls[0]()
        return outputs[0].numpy()

    return Rival(calls, output)


class OnnxRuntime(Adapter):
    """MLAS, with ONNX Runtime's own blocked layout inside where it chooses one."""

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        from onnx import helper

        p = problem
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], kernel_shape=[p.kh, p.kw], strides=[p.sh, p.sw],
            pads=[p.ph, p.pw, p.ph_r, p.pw_r], dilations=[p.dh, p.dw], group=p.g,
        )  # fmt: skip
        shape = (p.mb, p.oc, p.oh, p.ow)
        session = _session(node, {"x": inputs[0].shape, "y": shape}, {"w": weight}, threads)
        return _bound(session, inputs, shape)

    def pool(self, problem: PoolProblem, inputs: list[np.ndarray], threads: int, stack: ExitStack) -> Rival:
        from onnx import helper

        p = problem
        if p.pass_ != "forward" or p.adaptive or p.return_indices or (p.dh, p.dw) != (1, 1):
            raise Unsupported("ONNX Runtime is asked for plain forward pools only")
        average: dict[str, Any] = {} if "max" in p.op else {"count_include_pad": int(p.count_include_pad)}
        node = helper.make_node(
            "MaxPool" if "max" in p.op else "AveragePool", ["x"], ["y"], kernel_shape=[p.kh, p.kw],
            strides=[p.sh, p.sw], pads=[p.ph, p.pw, p.ph_r, p.pw_r], **average,
        )  # fmt: skip
        shape = (p.mb, p.c, p.oh, p.ow)
        return _bound(_session(node, {"x": inputs[0].shape, "y": shape}, {}, threads), inputs, shape)
