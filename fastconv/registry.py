"""KERNELS: the ordered table of everything that can run, nothing else. A new kernel is one function and one row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastconv import capability as can
from fastconv import cost

_NAME = re.compile(r"(?P<op>\w+?)_(?P<pass_>forward|backward_input|backward_weight|backward)_(?P<algorithm>\w+)__(?P<backend>\w+)")

PACKAGES = {"cython": "fastconv._cython", "numba": "fastconv._numba", "cuda": "fastconv._cuda", "numpy": "fastconv"}


@dataclass(frozen=True)
class Kernel:
    """One way to compute one pass of one op. `module` is imported on first use and holds a function of this name.

    Where that has a `pack` (as _cython/kernel.pyx's and _numba/packing.py's have), plans hold their weights packed.
    """

    name: str
    module: str
    cannot: Callable[[Any], str | None]
    work: Callable[[Any], cost.Work]
    error: Callable[[Any], float]
    workspace: Callable[[Any, int], int]
    plain_sum: bool = True
    op: str = field(init=False)
    pass_: str = field(init=False)
    algorithm: str = field(init=False)
    backend: str = field(init=False)

    def __post_init__(self) -> None:
        match = _NAME.fullmatch(self.name)
        assert match is not None, self.name
        for key, value in match.groupdict().items():
            object.__setattr__(self, key, value)

    def wrong_device(self, problem: Any) -> str | None:
        """Why arrays that live where the problem says are out of its reach, or None."""
        return can.wrong_device(self.backend, problem)

    def seconds(self, problem: Any, packed: bool = False) -> float:
        """Predicted seconds on one thread; `packed`: the weights come packed."""
        return cost.seconds(self.name, problem.layout, self.work(problem), packed)

    @property
    def tensor(self) -> bool:
        """Whether it multiplies on a GPU's tensor cores."""
        return self.algorithm.endswith("_tf32")

    @property
    def family(self) -> str:
        """The algorithm without its tile: winograd_f4x3 is of the family winograd."""
        return self.algorithm.split("_")[0]


# Order is the policy among equals: the compiled rows, those for a GPU, Numba's, then NumPy's; within a backend cost decides.
# fmt: off
KERNELS: tuple[Kernel, ...] = (
    Kernel("conv2d_forward_winograd_f6x3__cython", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x3__cython", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f2x3__cython", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x5__cython", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f2x5__cython", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f6x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x5_1d__cython", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x7_1d__cython", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_direct__cython", "direct", can.direct, cost.direct, cost.plain_error, can.direct_workspace),
    Kernel("conv2d_forward_depthwise__cython", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.depthwise_workspace),
    Kernel("conv2d_forward_grouped__cython", "depthwise", can.grouped, cost.grouped, cost.plain_error, can.depthwise_workspace),
    Kernel("conv2d_forward_im2col__cython", "im2col", can.floating, cost.im2col, cost.plain_error, can.im2col_workspace),
    Kernel("conv2d_forward_im2col_f64__cython", "im2col", can.single, cost.im2col_f64, cost.exact_error, can.im2col_f64_workspace),
    Kernel("conv2d_forward_naive__cython", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_forward_winograd_f4x3__cuda", "winograd", can.gpu_winograd, cost.gpu_winograd_passes, cost.winograd_f4x3_error, can.gpu_winograd_passes_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f2x3__cuda", "winograd", can.gpu_winograd, cost.gpu_winograd, cost.winograd_f2x3_error, can.gpu_winograd_workspace, plain_sum=False),
    Kernel("conv2d_forward_direct__cuda", "direct", can.gpu_direct, cost.gpu_direct, cost.chain_error, can.gpu_direct_workspace),
    Kernel("conv2d_forward_depthwise__cuda", "depthwise", can.gpu_depthwise, cost.gpu_depthwise, cost.plain_error, can.gpu_depthwise_workspace),
    Kernel("conv2d_forward_im2col__cuda", "im2col", can.gpu, cost.gpu_im2col, cost.chain_error, can.gpu_im2col_workspace),
    Kernel("conv2d_forward_im2col_tf32__cuda", "im2col", can.gpu_tf32, cost.gpu_tf32, cost.tf32_error, can.gpu_im2col_tf32_workspace, plain_sum=False),
    Kernel("conv2d_forward_naive__cuda", "naive", can.anything, cost.gpu_naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_forward_winograd_f6x3__numba", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x3__numba", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f2x3__numba", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x5__numba", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f2x5__numba", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f6x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x5_1d__numba", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_winograd_f4x7_1d__numba", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_forward_direct__numba", "direct", can.numba_direct, cost.direct, cost.chain_error, can.numba_direct_workspace),
    Kernel("conv2d_forward_depthwise__numba", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.numba_depthwise_workspace),
    Kernel("conv2d_forward_im2col__numba", "im2col", can.floating, cost.im2col, cost.chain_error, can.numba_im2col_workspace),
    Kernel("conv2d_forward_naive__numba", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_forward_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),

    Kernel("conv2d_backward_input_winograd_f6x3__cython", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3__cython", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x3__cython", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x5__cython", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x5__cython", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f6x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x5_1d__cython", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x7_1d__cython", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f6x3_adjoint__cython", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m6, cost.winograd_f6x3_error, can.winograd_adjoint_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3_adjoint__cython", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m4, cost.winograd_f4x3_error, can.winograd_adjoint_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x3_adjoint__cython", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m2, cost.winograd_f2x3_error, can.winograd_adjoint_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_depthwise__cython", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.depthwise_workspace),
    Kernel("conv2d_backward_input_grouped__cython", "depthwise", can.grouped, cost.grouped, cost.plain_error, can.depthwise_workspace),
    Kernel("conv2d_backward_input_im2col__cython", "im2col", can.floating, cost.im2col, cost.plain_error, can.im2col_workspace),
    Kernel("conv2d_backward_input_im2col_f64__cython", "im2col", can.single, cost.im2col_f64, cost.exact_error, can.im2col_f64_workspace),
    Kernel("conv2d_backward_input_naive__cython", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_input_winograd_f4x3__cuda", "winograd", can.gpu_winograd, cost.gpu_winograd_passes, cost.winograd_f4x3_error, can.gpu_winograd_passes_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x3__cuda", "winograd", can.gpu_winograd, cost.gpu_winograd, cost.winograd_f2x3_error, can.gpu_winograd_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_depthwise__cuda", "depthwise", can.gpu_depthwise, cost.gpu_depthwise, cost.plain_error, can.gpu_depthwise_workspace),
    Kernel("conv2d_backward_input_im2col__cuda", "im2col", can.gpu, cost.gpu_im2col, cost.chain_error, can.gpu_im2col_workspace),
    Kernel("conv2d_backward_input_im2col_tf32__cuda", "im2col", can.gpu_tf32, cost.gpu_tf32, cost.tf32_error, can.gpu_im2col_tf32_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_naive__cuda", "naive", can.anything, cost.gpu_naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_input_winograd_f6x3__numba", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3__numba", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x3__numba", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x5__numba", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x5__numba", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f6x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x5_1d__numba", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x7_1d__numba", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f6x3_adjoint__numba", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m6, cost.winograd_f6x3_error, can.numba_winograd_adjoint_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f4x3_adjoint__numba", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m4, cost.winograd_f4x3_error, can.numba_winograd_adjoint_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_winograd_f2x3_adjoint__numba", "winograd", can.winograd_adjoint, cost.winograd_adjoint_m2, cost.winograd_f2x3_error, can.numba_winograd_adjoint_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_input_depthwise__numba", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.numba_depthwise_workspace),
    Kernel("conv2d_backward_input_im2col__numba", "im2col", can.floating, cost.im2col, cost.chain_error, can.numba_im2col_workspace),
    Kernel("conv2d_backward_input_naive__numba", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_input_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),

    Kernel("conv2d_backward_weight_winograd_f6x3__cython", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x3__cython", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f2x3__cython", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x5__cython", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f2x5__cython", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f6x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x3_1d__cython", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x5_1d__cython", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x7_1d__cython", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_depthwise__cython", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.depthwise_workspace),
    Kernel("conv2d_backward_weight_im2col__cython", "im2col", can.floating, cost.im2col, cost.plain_error, can.im2col_workspace),
    Kernel("conv2d_backward_weight_naive__cython", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_weight_winograd_f4x3__cuda", "winograd", can.gpu_winograd, cost.gpu_winograd_passes, cost.gpu_winograd_weight_error, can.gpu_winograd_passes_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_direct__cuda", "direct", can.gpu_direct, cost.gpu_direct, cost.chain_error, can.gpu_direct_workspace),
    Kernel("conv2d_backward_weight_depthwise__cuda", "depthwise", can.gpu_depthwise, cost.gpu_depthwise, cost.plain_error, can.gpu_depthwise_workspace),
    Kernel("conv2d_backward_weight_im2col__cuda", "im2col", can.gpu, cost.gpu_im2col, cost.chain_error, can.gpu_im2col_workspace),
    Kernel("conv2d_backward_weight_im2col_tf32__cuda", "im2col", can.gpu_tf32, cost.gpu_tf32, cost.tf32_error, can.gpu_im2col_tf32_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_naive__cuda", "naive", can.anything, cost.gpu_naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_weight_winograd_f6x3__numba", "winograd", can.winograd_3x3, cost.winograd_m6, cost.winograd_f6x3_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x3__numba", "winograd", can.winograd_3x3, cost.winograd_m4, cost.winograd_f4x3_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f2x3__numba", "winograd", can.winograd_3x3, cost.winograd_m2, cost.winograd_f2x3_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x5__numba", "winograd", can.winograd_5x5, cost.winograd_m4, cost.winograd_f4x5_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f2x5__numba", "winograd", can.winograd_5x5, cost.winograd_m2, cost.winograd_f2x5_error, can.numba_winograd_m2_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f6x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m6, cost.winograd_f6x3_1d_error, can.numba_winograd_m6_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x3_1d__numba", "winograd", can.winograd_line_3, cost.winograd_m4, cost.winograd_f4x3_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x5_1d__numba", "winograd", can.winograd_line_5, cost.winograd_m4, cost.winograd_f4x5_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_winograd_f4x7_1d__numba", "winograd", can.winograd_line_7, cost.winograd_m4, cost.winograd_f4x7_1d_error, can.numba_winograd_m4_workspace, plain_sum=False),
    Kernel("conv2d_backward_weight_depthwise__numba", "depthwise", can.depthwise, cost.depthwise, cost.plain_error, can.numba_depthwise_workspace),
    Kernel("conv2d_backward_weight_im2col__numba", "im2col", can.floating, cost.im2col, cost.chain_error, can.numba_im2col_workspace),
    Kernel("conv2d_backward_weight_naive__numba", "naive", can.anything, cost.naive, cost.exact_error, can.no_workspace),
    Kernel("conv2d_backward_weight_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),

    Kernel("conv2d_relu_max_pool2d_forward_winograd_f6x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m6, cost.winograd_f6x3_error, can.winograd_pooled_m6_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_forward_winograd_f4x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m4, cost.winograd_f4x3_error, can.winograd_pooled_m4_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_forward_winograd_f2x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m2, cost.winograd_f2x3_error, can.winograd_pooled_m2_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_forward_direct__cython", "conv_pool", can.conv_pool_direct, cost.conv_pool_direct, cost.plain_error, can.conv_pool_workspace),
    Kernel("conv2d_relu_max_pool2d_forward_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),
    Kernel("conv2d_relu_max_pool2d_backward_input_winograd_f6x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m6, cost.winograd_f6x3_error, can.winograd_pooled_m6_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_input_winograd_f4x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m4, cost.winograd_f4x3_error, can.winograd_pooled_m4_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_input_winograd_f2x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m2, cost.winograd_f2x3_error, can.winograd_pooled_m2_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_input_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),
    Kernel("conv2d_relu_max_pool2d_backward_weight_winograd_f6x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m6, cost.winograd_f6x3_error, can.winograd_pooled_m6_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_weight_winograd_f4x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m4, cost.winograd_f4x3_error, can.winograd_pooled_m4_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_weight_winograd_f2x3__cython", "conv_pool", can.conv_pool_winograd, cost.winograd_pooled_m2, cost.winograd_f2x3_error, can.winograd_pooled_m2_workspace, plain_sum=False),
    Kernel("conv2d_relu_max_pool2d_backward_weight_direct__cython", "conv_pool", can.conv_pool_direct, cost.conv_pool_direct, cost.plain_error, can.conv_pool_workspace),
    Kernel("conv2d_relu_max_pool2d_backward_weight_reference__numpy", "reference", can.anything, cost.reference, cost.exact_error, can.no_workspace),

    Kernel("max_pool2d_forward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_forward_naive__cython", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_forward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_forward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_forward_naive__numba", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_forward_reference__numpy", "reference", can.anything, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_naive__cython", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_naive__numba", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("max_pool2d_backward_reference__numpy", "reference", can.anything, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_naive__cython", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_naive__numba", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_forward_reference__numpy", "reference", can.floating, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_naive__cython", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_naive__numba", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("avg_pool2d_backward_reference__numpy", "reference", can.floating, cost.pool_reference, cost.pool_error, can.no_workspace),

    Kernel("adaptive_max_pool2d_forward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_forward_naive__cython", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_forward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_forward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_forward_naive__numba", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_forward_reference__numpy", "reference", can.anything, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_naive__cython", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_naive__numba", "pooling", can.anything, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_max_pool2d_backward_reference__numpy", "reference", can.anything, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_naive__cython", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_naive__numba", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_forward_reference__numpy", "reference", can.floating, cost.pool_reference, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_direct__cython", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_naive__cython", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_direct__cuda", "pooling", can.gpu_pool, cost.gpu_pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_direct__numba", "pooling", can.pool_direct, cost.pool, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_naive__numba", "pooling", can.floating, cost.pool_naive, cost.pool_error, can.no_workspace),
    Kernel("adaptive_avg_pool2d_backward_reference__numpy", "reference", can.floating, cost.pool_reference, cost.pool_error, can.no_workspace),
)
# fmt: on
