"""PyTorch: contiguous, channels_last, and channels_last with the weight reordered ahead for oneDNN."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from fastconv import ConvProblem, PoolProblem
from fastconv.benchmark.peers.adapter import Adapter, Rival, Unsupported, symmetric_padding


class Contiguous(Adapter):
    """torch.nn.functional in inference mode; the result is a new tensor, as PyTorch has it."""

    channels_last = False

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor

    def _enter(self, threads: int, stack: ExitStack) -> None:
        import torch

        torch.set_num_threads(threads)
        stack.enter_context(torch.inference_mode())

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        from torch.nn.functional import conv2d

        p, padding = problem, symmetric_padding(problem)
        self._enter(threads, stack)
        w = self._tensor(weight)

        def call(x: Any) -> Any:
            return lambda: conv2d(x, w, None, (p.sh, p.sw), padding, (p.dh, p.dw), p.g)

        calls = [call(self._tensor(x)) for x in inputs]
        return Rival(calls, lambda: calls[0]().contiguous().numpy())

    def pool(self, problem: PoolProblem, inputs: list[np.ndarray], threads: int, stack: ExitStack) -> Rival:
        import torch

        p, padding = problem, symmetric_padding(problem)
        self._enter(threads, stack)
        window, step = (p.kh, p.kw), (p.sh, p.sw)
        aten = torch.ops.aten

        def call(x: Any) -> Any:
            """Into arrays of its own for each input, as ours: else a small result would stay in the cache."""
            where, counted = (window, step, padding), (False, p.count_include_pad)
            if "max" in p.op:
                y, indices = aten.max_pool2d_with_indices(x, *where)
                if p.pass_ == "forward":
                    found = {"out": y, "indices": indices}
                    return lambda: aten.max_pool2d_with_indices.out(x, *where, [p.dh, p.dw], False, **found)
                ones, dx = torch.ones_like(y), torch.empty_like(x)
                backward = aten.max_pool2d_with_indices_backward.grad_input
                return lambda: backward(ones, x, *where, [p.dh, p.dw], False, indices, grad_input=dx)
            y = aten.avg_pool2d(x, *where, *counted)
            if p.pass_ == "forward":
                return lambda: aten.avg_pool2d.out(x, *where, *counted, out=y)
            ones, dx = torch.ones_like(y), torch.empty_like(x)
            return lambda: aten.avg_pool2d_backward.grad_input(ones, x, *where, *counted, None, grad_input=dx)

        if p.adaptive or (p.dh, p.dw) != (1, 1):
            raise Unsupported("adaptive and dilated pools have no adapter")
        calls = [call(self._tensor(x)) for x in inputs]

        def output() -> np.ndarray:
            y = calls[0]()
            return (y[0] if isinstance(y, tuple) else y).contiguous().numpy()

        return Rival(calls, output)


class ChannelsLast(Contiguous):
    """The same with inputs and weights in torch.channels_last."""

    channels_last = True


class Prepacked(ChannelsLast):
    """channels_last, the weight reordered once: the ops that torch.compile's freezing of weights emits."""

    def convolution(
        self, problem: ConvProblem, inputs: list[np.ndarray], weight: np.ndarray, threads: int, stack: ExitStack
    ) -> Rival:
        import torch

        p, padding = problem, list(symmetric_padding(problem))
        if not torch.backends.mkldnn.is_available():
            raise Unsupported("this PyTorch has no oneDNN")
        self._enter(threads, stack)
        step, dilation = [p.sh, p.sw], [p.dh, p.dw]
        ops = torch.ops.mkldnn
        size = [p.mb, p.ic, p.ih, p.iw]
        w = ops._reorder_convolution_weight(self._tensor(weight), padding, step, dilation, p.g, size)
        run = ops._convolution_pointwise

        def call(x: Any) -> Any:
            return lambda: run(x, w, None, padding, step, dilation, p.g, "none", [], "")

        calls = [call(self._tensor(x)) for x in inputs]
        return Rival(calls, lambda: calls[0]().contiguous().numpy())

    def pool(self, problem: PoolProblem, inputs: list[np.ndarray], threads: int, stack: ExitStack) -> Rival:
        raise Unsupported("a pool has no weight")
