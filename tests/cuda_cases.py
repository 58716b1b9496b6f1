"""Tiny problems for CUDA rows: what the simulator can compute in a second, with each edge of the kernels once."""

from __future__ import annotations

from fastconv.problem import ConvProblem
from fastconv.registry import Kernel
from tests import cases, rows

# Ragged tiles of channels and pixels, several of them; groups; strides, dilation and padding of each side; 1 x 1; none.
CONVOLUTIONS = (
    "mb2ic3ih5iw7oc4kh3kw2",
    "g2mb1ic4ih7iw6oc6kh3sh2ph1",
    "mb1ic9ih4iw4oc33kh1",
    "mb1ic3ih6iw5oc4kh3ph2dh2",
    "mb2ic4ih3oc8kh2sh2sw3ph1",
    "mb1ic9ih3iw7oc36kh2ph1",
    "mb0ic3ih5iw6oc4kh3",
    "g3mb1ic3ih6iw5oc6kh3ph1",
    "g5mb2ic5ih7iw4oc5kh5kw3sh2sw1ph1",
    "mb2ic2ih3iw4oc2kh3ph1",
    "mb1ic1ih1oc1kh1",
    "mb1ic2ih4iw5oc3kh2kw3sh1sw3ph0ph_r1pw_r2",
)
TRANSPOSED = ("mb1ic2ih6iw9oc3kh3sh2sw4ph0ph_r-1pw_r-2", "mb1ic3ih8iw7oc5kh2sh1ph0ph_r-1dh3dw2")
POOL_STEP = 3


def problems(kernel: Kernel) -> list[rows.Problem]:
    """The problems of one row."""
    if kernel.op != "conv2d":
        found: list[rows.Problem] = list(cases.problems(kernel.op, kernel.pass_)[::POOL_STEP])
    else:
        found = []
        texts = CONVOLUTIONS + (TRANSPOSED if kernel.pass_ == "backward_input" else ())
        for number, text in enumerate(texts):
            for turn, layout in enumerate(("NCHW", "NHWC")):
                dtype = ("float32", "float64", "float32", "int64")[(number + 2 * turn) % 4]
                for name in dict.fromkeys(("float32", dtype) if turn == number % 2 else ("float32",)):
                    options = {} if kernel.pass_ == "backward_weight" else cases.EPILOGUES[(3 * number + 5 * turn) % 8]
                    found.append(ConvProblem.parse(text, pass_=kernel.pass_, dtype=name, layout=layout, **options))
    found = [rows.where_arrays_live(kernel, p) for p in found]
    found = [p for p in found if kernel.cannot(p) is None]
    # the one tile of tensor cores is large: its blocks take the simulator seconds
    return sorted(found, key=lambda p: p.flops)[:6] if "tf32" in kernel.name else found
