"""Named problems in the text grammar: every edge class once, sizes around vector lengths and tiles, real layers.

A name is `ConvProblem.text`, so that a failing pytest id pastes into `fastconv explain` and the bench. Sizes cluster
on SIZES: one less, equal, and one more than the vector lengths and register tiles of every instruction set.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from fastconv.problem import ConvPoolProblem, ConvProblem, PoolProblem

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33)

# Products of the largest sweep case: a naive loop takes a millisecond.
MOST_PRODUCTS = 400_000


def _products(p: ConvProblem) -> int:
    return p.flops // 2


# One line for each thing that can go wrong on its own.
BASIC = (
    # the smallest of everything
    "mb1ic1ih1oc1kh1",
    "mb1ic1ih3oc1kh3",
    "mb2ic3ih5iw7oc4kh3kw2",
    # 1 x 1 filters: a plain product of matrices, with and without stride and padding
    "mb2ic17ih5iw9oc33kh1",
    "mb1ic8ih7iw5oc16kh1sh2",
    "mb1ic3ih6iw4oc5kh1sh3sw2ph1pw2",
    # 1 x N and N x 1 filters and images
    "mb1ic3ih1iw33oc7kh1kw5",
    "mb2ic4ih31iw1oc8kh7kw1ph3pw0",
    "mb1ic5ih9iw12oc9kh1kw3ph0pw1",
    "mb1ic5ih9iw12oc9kh3kw1ph1pw0",
    "mb1ic2ih1iw17oc3kh1kw4sh1sw3",
    # the filter is the image; the filter is larger than the image
    "mb3ic5ih7iw4oc9kh7kw4",
    "mb1ic2ih2iw3oc4kh5kw6ph2pw3",
    "mb1ic1ih1oc2kh3ph1",
    "mb1ic3ih2iw2oc8kh9kw9ph4pw4",
    # padding: each side its own, more than the filter, only at the end
    "mb1ic4ih6iw5oc3kh3kw2ph1pw0ph_r2pw_r3",
    "mb2ic1ih5iw8oc8kh3ph0ph_r1pw_r2",
    "mb1ic2ih4iw3oc5kh2kw3ph4pw5ph_r1pw_r0",
    "mb1ic3ih7iw6oc4kh4kw5ph2pw2ph_r1pw_r3",
    # strides: each axis its own, larger than the filter, leaving rows and columns unread
    "mb1ic3ih9iw13oc5kh3sh2sw3",
    "mb2ic4ih12iw10oc7kh2kw3sh3sw1ph1",
    "mb1ic5ih11iw14oc3kh2sh4sw5",
    "mb1ic2ih8iw9oc8kh3sh2ph1",
    "mb1ic3ih15iw17oc9kh5kw3sh3sw2ph2pw1ph_r1pw_r0",
    # dilation: each axis its own, with stride, with padding
    "mb1ic3ih11iw9oc4kh3dh2",
    "mb1ic4ih12iw13oc5kh3kw2dh3dw4ph2",
    "mb2ic2ih14iw15oc8kh2kw3sh2sw3ph1pw2dh3dw2",
    "mb1ic1ih7iw9oc3kh3ph3pw4dh3dw4",
    # groups; depthwise, with multiplier; groups with stride and dilation
    "g2mb1ic4ih7iw6oc6kh3ph1",
    "g3mb2ic9ih5iw8oc12kh2kw3",
    "g4mb1ic32ih6iw5oc36kh3ph1",
    "g2mb1ic34ih5iw4oc62kh1",
    "g5mb1ic5ih9iw7oc5kh3ph1",
    "g7mb2ic7ih6iw9oc14kh3kw5ph1pw2",
    "g16mb1ic16ih9iw17oc16kh3sh2ph1",
    "g33mb1ic33ih5iw4oc33kh3ph1",
    "g8mb1ic8ih8iw9oc24kh5sh2sw1ph2dh1",
    "g3mb1ic6ih13iw11oc9kh3kw2sh2sw3ph1pw0dh2dw3",
    # rows of a residue class that are closer than its columns
    "mb4ic3ih6iw2oc4kh2kw2sh1sw3",
    "mb4ic3ih8iw2oc4kh4kw4sh1sw4ph1",
    # batches: none, several
    "mb0ic3ih5iw6oc4kh3",
    "mb0ic2ih4iw5oc6kh1sh2",
    "g2mb0ic4ih5iw6oc4kh3ph1",
    "mb5ic3ih4iw6oc2kh3ph1",
    "mb7ic1ih3iw5oc1kh2",
    # deep sums: over many channels, over many cells
    "mb1ic130ih3iw4oc5kh3ph1",
    "mb1ic257ih2iw3oc3kh1",
    "mb1ic2ih17iw19oc3kh11kw9ph5pw4",
    "mb2ic9ih12iw5oc3kh11kw9ph5pw4",
    "mb2ic30ih40iw1oc3kh31kw1ph15pw0",
    "mb1ic1ih40iw37oc2kh3",
    "mb2ic3ih3iw70oc2kh3kw5ph1pw2",
    "mb1ic3ih5iw4oc100kh3ph1",
    "mb1ic70ih3iw4oc67kh1",
    # whole panels of output channels, read where they are: groups, several blocks of depth, stride and dilation, 512
    "g2mb2ic10ih5iw6oc64kh3ph1",
    "mb1ic300ih3iw4oc32kh2kw3ph1",
    "mb2ic5ih9iw8oc96kh3sh2ph1dh2",
    "mb1ic7ih3iw5oc512kh1",
)

# Winograd's own edges: outputs that are and are not multiples of both tiles, one tile, padding beyond the image.
THREE_BY_THREE = (
    "mb1ic1ih3iw4oc1kh3",
    "mb1ic3ih6iw6oc4kh3",
    "mb2ic4ih7iw5oc8kh3ph1",
    "mb1ic5ih4iw9oc3kh3ph2",
    "mb1ic8ih8iw10oc16kh3ph1",
    "mb1ic16ih5iw33oc9kh3ph1",
    "mb1ic17ih9iw4oc33kh3ph1pw0",
    "mb3ic2ih6iw7oc5kh3ph0pw1",
    "mb1ic7ih5iw6oc2kh3ph1pw2ph_r2pw_r0",
    "mb1ic3ih3iw31oc15kh3ph1",
    "mb1ic31ih4iw3oc32kh3ph1",
    "mb1ic33ih12iw9oc17kh3ph1",
    "mb2ic12ih16iw17oc12kh3ph1",
    "mb1ic2ih1iw1oc3kh3ph1",
    "mb1ic2ih2iw1oc3kh3ph1pw3",
    "mb1ic3ih4iw5oc2kh3ph5pw4",
    "g2mb1ic8ih6iw7oc10kh3ph1",
    "g4mb2ic12ih5iw9oc16kh3ph1",
    "g6mb1ic6ih7iw8oc6kh3ph1",
    "mb0ic3ih6iw5oc4kh3ph1",
    "mb5ic3ih4iw4oc4kh3ph1",
)

# Depthwise kernels' own edges: tiles and vectors of columns wholly inside the image, odd rows, channels around vectors;
# multipliers that are and are not powers of two; filters that have and have not a body of their own.
DEPTHWISE = (
    "g17mb2ic17ih9iw35oc17kh3ph1",
    "g2mb1ic2ih19iw51oc2kh3ph1pw0",
    "g33mb1ic33ih7iw28oc33kh5ph2",
    "g16mb1ic16ih8iw30oc16kh7ph3",
    "g3mb1ic3ih11iw99oc3kh3sh2ph1",
    "g20mb1ic20ih12iw41oc20kh5sh2ph2pw1",
    "g16mb1ic16ih15iw40oc16kh7sh2ph3",
    "g18mb1ic18ih6iw21oc36kh3ph1",
    "g5mb1ic5ih9iw22oc20kh3sh2ph1",
    "g6mb2ic6ih7iw19oc18kh5ph2",
    "g9mb1ic9ih5iw20oc9kh4kw6ph2dh1",
    "g8mb1ic8ih13iw24oc8kh3ph2dh2",
    "g7mb1ic7ih9iw18oc7kh1kw3ph0pw1",
    "g7mb1ic7ih12iw18oc7kh5kw3sh3sw2ph2pw1",
    "g4mb1ic4ih8iw8oc4kh3ph4",
)

# Winograd's edges for the tiles of 5 x 5 filters and of one row or column.
OTHER_WINOGRAD = (
    "mb1ic1ih5iw6oc1kh5",
    "mb2ic3ih8iw8oc5kh5ph2",
    "mb1ic17ih7iw13oc33kh5ph2",
    "mb1ic16ih14iw5oc48kh5ph2pw3",
    "mb1ic5ih3iw2oc4kh5ph4pw5",
    "g2mb1ic10ih6iw9oc14kh5ph2ph_r0pw_r4",
    "mb3ic33ih4iw4oc17kh5ph2",
    "mb1ic4ih9iw8oc6kh1kw3ph0pw1",
    "mb2ic17ih8iw5oc33kh3kw1ph1pw0",
    "g2mb1ic6ih7iw13oc10kh1kw3ph2pw2",
    "mb1ic16ih6iw17oc31kh1kw5ph0pw2",
    "mb2ic9ih16iw4oc16kh5kw1ph2pw0",
    "mb1ic17ih3iw18oc33kh1kw5",
    "mb1ic5ih21iw2oc8kh5kw1",
    "mb1ic4ih1iw9oc5kh1kw5ph0pw2",
    "mb1ic32ih5iw17oc32kh1kw7ph0pw3",
    "mb1ic15ih17iw6oc19kh7kw1ph3pw0",
    "g3mb2ic9ih4iw2oc12kh1kw7ph1pw6",
    "mb0ic3ih5iw6oc4kh5ph2",
    "mb1ic2ih1iw1oc3kh7kw1ph3pw0",
)

# The direct kernel's own edges: NCHW rows that are whole vectors (read in place, or from strips for padding, stride and
# dilation) and those that are not (flat strips; chunks of channels, an odd number of vectors); more rows than a strip.
DIRECT = (
    "mb1ic2ih7iw34oc3kh3",
    "mb2ic3ih6iw32oc15kh3ph1",
    "mb1ic2ih9iw64oc17kh3sh2ph1",
    "mb1ic3ih8iw96oc4kh4kw5sh2sw3ph1pw2dh1dw2",
    "g2mb1ic6ih7iw48oc4kh2kw3ph1dh3dw2",
    "mb1ic3ih13iw33oc5kh1kw2sh4sw1",
    "mb1ic128ih5iw9oc16kh3ph1",
    "mb1ic107ih7iw9oc15kh3sh2ph1",
    "mb1ic20ih3iw199oc1kh7ph3",
    "mb1ic90ih4iw66oc1kh3ph1",
)

# Small groups of as many channels in as out: several under a vector, one across several vectors, vectors cut short.
GROUPED = (
    "g8mb1ic32ih7iw21oc32kh3ph1",
    "g5mb2ic20ih9iw19oc20kh3sh2ph1",
    "g3mb1ic6ih6iw12oc6kh3ph1",
    "g9mb1ic18ih5iw18oc18kh3ph1pw0",
    "g4mb1ic32ih8iw27oc32kh3ph1",
    "g3mb1ic24ih11iw13oc24kh3sh2ph1",
    "g2mb1ic32ih6iw17oc32kh3ph1",
    "g3mb1ic48ih9iw10oc48kh3sh2ph1pw0",
    "g4mb1ic16ih8iw20oc16kh5ph2",
    "g2mb1ic8ih9iw11oc8kh2kw3sh1sw2ph1",
    "g4mb1ic8ih9iw18oc8kh3ph2dh2",
    "g6mb1ic24ih4iw9oc24kh1",
)

# Layers of real networks, cut where the whole one would only take longer.
LAYERS = (
    "mb2ic1ih28oc32kh3",  # MNIST network, layer 1
    "mb1ic32ih13oc64kh3",  # MNIST network, layer 2
    "mb2ic64ih5oc64kh3",  # MNIST network, layer 3
    "mb1ic3ih16iw14oc64kh3ph1",  # VGG conv1_1, cut
    "mb1ic64ih8iw6oc32kh3ph1",  # VGG conv3, cut
    "mb1ic3ih24iw22oc16kh7sh2ph3",  # ResNet stem, cut
    "mb1ic64ih7oc32kh1",  # ResNet bottleneck, cut
    "mb1ic32ih14iw12oc48kh1sh2",  # ResNet projection, cut
    "mb1ic24ih14oc24kh3sh2ph1",  # ResNet downsampling, cut
    "g32mb1ic32ih14oc32kh3ph1",  # MobileNet depthwise
    "g24mb1ic24ih15iw13oc24kh5sh2ph2",  # MobileNet-v3 depthwise
    "mb1ic3ih32oc12kh4sh4",  # vision transformer, patches
)

# Transposed convolutions: the geometry is that of the convolution they transpose. A negative padding at the end is
# an output padding of at least the stride, or rows that no filter cell reaches.
TRANSPOSED = (
    "mb1ic3ih7iw9oc4kh3sh2ph1",
    "mb2ic4ih8iw6oc3kh2sh2",
    "mb1ic5ih9iw12oc2kh4kw3sh2sw3ph1",
    "mb1ic2ih6iw9oc3kh3sh2sw4ph0ph_r-1pw_r-2",
    "mb1ic3ih8iw7oc5kh2sh1ph0ph_r-1dh3dw2",
    "mb1ic2ih11iw10oc4kh3sh2sw1ph1pw0ph_r-2pw_r-1dh4dw3",
    "g2mb1ic6ih10iw9oc4kh3sh3sw2ph1ph_r0pw_r0",
    "g4mb1ic4ih9iw8oc4kh3sh2ph1ph_r0",
    "mb1ic16ih9iw17oc33kh4sh2ph1",
    "mb1ic33ih5iw6oc17kh3ph2",
    "mb3ic1ih12iw10oc8kh5sh4sw3ph2pw1",
)


def _sweep(count: int, seed: int) -> tuple[str, ...]:
    """Random problems with every size taken from SIZES; the same ones in every run."""
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        kh, kw = rng.choice((1, 2, 3, 3, 4, 5, 7)), rng.choice((1, 2, 3, 3, 4, 5, 7))
        g = rng.choice((1, 1, 1, 1, 2, 3, 4))
        text = f"g{g}" if g > 1 else ""
        text += f"mb{rng.choice((1, 1, 2, 3))}ic{g * rng.choice(SIZES)}"
        text += f"ih{rng.choice(SIZES)}iw{rng.choice(SIZES)}oc{g * rng.choice(SIZES)}kh{kh}kw{kw}"
        text += f"sh{rng.choice((1, 1, 2, 3))}sw{rng.choice((1, 1, 2, 3))}"
        text += f"ph{rng.randint(0, kh)}pw{rng.randint(0, kw)}ph_r{rng.randint(0, kh)}pw_r{rng.randint(0, kw)}"
        text += f"dh{rng.choice((1, 1, 1, 2))}dw{rng.choice((1, 1, 1, 3))}"
        try:
            problem = ConvProblem.parse(text)
        except ValueError:
            continue
        if _products(problem) <= MOST_PRODUCTS:
            found.append(problem.text)
    return tuple(found)


def _edges() -> tuple[str, ...]:
    """Each size once as each of: input channels, output channels, output rows, output columns."""
    found = []
    for i, n in enumerate(SIZES):
        a, b, c = (SIZES[(i + step) % len(SIZES)] for step in (4, 7, 11))
        small = 2 + i % 3
        found.append(f"mb1ic{n}ih{small + 2}iw{small + 3}oc{a}kh3kw2ph1pw0")
        found.append(f"mb1ic{1 + i % 4}ih{small + 3}iw{small + 2}oc{n}kh2kw3ph0pw1")
        found.append(f"mb1ic{2 + i % 3}ih{n + 2}iw{small + 4}oc{min(b, 9)}kh3")
        found.append(f"mb1ic{1 + i % 3}ih{small + 2}iw{n + 2}oc{min(c, 17)}kh3")
    return tuple(found)


SWEEP = _sweep(48, seed=20240229)
EDGES = _edges()

EPILOGUES: tuple[dict[str, Any], ...] = (
    {},
    {"bias": True},
    {"bias": True, "activation": "relu"},
    {"residual": True},
    {"activation": ("clip", -7.0, 9.0)},
    {"bias": True, "residual": True, "activation": "relu"},
    {"bias": True, "residual": True, "activation": ("clip", -30.0, 5.0)},
    {"activation": "relu"},
)

GEOMETRIES = tuple(
    dict.fromkeys((*BASIC, *THREE_BY_THREE, *OTHER_WINOGRAD, *DEPTHWISE, *DIRECT, *LAYERS, *EDGES, *SWEEP))
)


def _variants(number: int) -> list[tuple[str, str]]:
    """Both layouts in float32 for every geometry, the other types for every third."""
    found = [("float32", "NCHW"), ("float32", "NHWC")]
    if number % 3 == 0:
        found += [("float64", "NCHW"), ("int64", "NHWC")]
    elif number % 3 == 1:
        found += [("float64", "NHWC"), ("int64", "NCHW")]
    return found


def conv_problems(pass_: str) -> list[ConvProblem]:
    """Every conv problem of the suite in one pass. The epilogue rotates, so each meets each kind of geometry."""
    found = []
    geometries = GEOMETRIES + (TRANSPOSED if pass_ == "backward_input" else ())
    for number, text in enumerate(geometries):
        for turn, (dtype, layout) in enumerate(_variants(number)):
            epilogue = {} if pass_ == "backward_weight" else EPILOGUES[(3 * number + 5 * turn) % len(EPILOGUES)]
            if pass_ == "backward_input" and number % 2 and text not in TRANSPOSED:
                epilogue = {}  # mostly a gradient, which has none
            found.append(ConvProblem.parse(text, pass_=pass_, dtype=dtype, layout=layout, **epilogue))
    return found


# Convolutions pooled two by two: odd outputs, padding of every side, vector tails, fewer channels than a vector, blocks
# of rows, many images; and what only the reference serves.
CONV_POOLS = (
    "mb1ic1ih4oc16kh3",
    "mb0ic1ih8oc16kh3",
    "mb0ic32ih8oc64kh3",
    "mb1ic1ih4iw1031oc16kh3",
    "mb3ic1ih28oc32kh3",
    "mb2ic1ih9iw12oc17kh3ph1",
    "mb1ic3ih7iw8oc40kh3ph2pw0",
    "mb2ic2ih6iw5oc33kh3ph1pw2ph_r0pw_r1",
    "mb1ic1ih40iw67oc16kh3ph1",
    "mb20ic1ih6oc24kh3",
    "mb1ic16ih5oc16kh3",
    "mb3ic32ih13oc64kh3",
    "mb2ic17ih10iw14oc19kh3ph1",
    "mb2ic40ih8iw9oc70kh3ph1pw0",
    "g2mb2ic4ih9oc6kh3ph1",
    "mb1ic3ih11iw13oc5kh2kw3sh2sw1",
)


def conv_pool_problems(pass_: str) -> list[ConvProblem]:
    """Every pooled convolution of the suite in one pass, with a bias in every other one."""
    found: list[ConvProblem] = []
    for number, text in enumerate(CONV_POOLS):
        for dtype, layout in (("float32", "NHWC"), ("float64", "NHWC"), ("float32", "NCHW"), ("int64", "NCHW")):
            bias = pass_ == "forward" and number % 2 == 0
            problem = ConvProblem.parse(text, pass_=pass_, dtype=dtype, layout=layout, bias=bias)
            found.append(ConvPoolProblem.of(problem))
    return found


# Pools: window and stride alike and not, overlapping, padded, dilated, ceil_mode, one row or column, vector tails in
# channels (NHWC) and in columns (NCHW).
POOLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mb1ic1ih1kh1", {}),
    ("mb2ic3ih6iw8kh2sh2", {}),
    ("mb1ic5ih7iw9kh2sh2", {}),
    ("mb1ic17ih5iw6kh3sh1", {}),
    ("mb1ic33ih9iw7kh3sh2ph1", {}),
    ("mb1ic2ih11iw35kh3kw2sh1sw2ph1pw0", {}),
    ("mb1ic4ih8iw33kh2kw3sh3sw1ph0pw1", {}),
    ("mb1ic3ih9iw10kh4kw5sh2sw3ph1pw2ph_r2pw_r0", {}),
    ("mb1ic31ih4iw5kh4kw5", {}),
    ("mb1ic8ih13iw17kh1kw3sh1sw2", {}),
    ("mb1ic16ih7iw8kh2sh3", {}),
    ("mb3ic7ih5iw31kh3ph1", {}),
    ("mb0ic3ih6iw5kh2sh2", {}),
    ("mb1ic15ih7iw8kh3sh2", {"ceil_mode": True}),
    ("mb1ic9ih8iw6kh3kw2sh3sw4ph1", {"ceil_mode": True}),
    ("mb2ic32ih13kh2sh2", {}),
    ("mb2ic3ih2iw3kh2", {}),
)
MAX_POOLS = (
    ("mb1ic3ih9iw11kh3dh2", {}),
    ("mb1ic12ih10iw9kh2kw3sh2sw1ph1dh3dw2", {}),
)
AVG_POOLS = (
    ("mb1ic9ih8iw6kh3sh2ph1", {"count_include_pad": False}),
    ("mb1ic17ih9iw33kh3kw4sh2sw3ph1pw2", {"count_include_pad": False, "ceil_mode": True}),
    ("mb1ic4ih7iw5kh3sh2ph1", {"divisor_override": 4}),
    ("mb1ic5ih6iw9kh2kw3sh2ph1", {"divisor_override": 7, "count_include_pad": False}),
)
ADAPTIVE_POOLS = (
    "mb1ic3ih7iw5oh1",
    "mb2ic17ih7oh3ow2",
    "mb1ic4ih5iw9oh5ow9",
    "mb1ic33ih4iw3oh6ow5",
    "mb1ic8ih10iw33oh4ow16",
    "mb0ic2ih4iw6oh2",
)


def pool_problems(op: str, pass_: str) -> list[PoolProblem]:
    """Every pool problem of the suite for one op and pass."""
    texts: tuple[tuple[str, dict[str, Any]], ...]
    if op.startswith("adaptive_"):
        texts = tuple((text, {}) for text in ADAPTIVE_POOLS)
    else:
        texts = POOLS + (MAX_POOLS if op == "max_pool2d" else AVG_POOLS)
    found = []
    for number, (text, options) in enumerate(texts):
        for turn, (dtype, layout) in enumerate(_variants(number)):
            if "avg" in op and dtype == "int64":
                continue
            problem = _pool(text, op, pass_=pass_, dtype=dtype, layout=layout, **options)
            if op.endswith("max_pool2d") and pass_ == "forward":
                problem = replace(problem, return_indices=(number + turn) % 2 == 0)
            found.append(problem)
    return found


def _pool(text: str, op: str, **options: Any) -> PoolProblem:
    return PoolProblem.parse(text, op, **options)


def problems(op: str, pass_: str) -> list[ConvProblem] | list[PoolProblem]:
    """Every problem of the suite for one op and pass."""
    if op == ConvPoolProblem.op:
        return conv_pool_problems(pass_)
    return conv_problems(pass_) if op == "conv2d" else pool_problems(op, pass_)


def name(problem: ConvProblem | PoolProblem) -> str:
    """The pytest id of a problem: its text, then what differs from a float32 NCHW problem without epilogue."""
    words = [problem.text, problem.dtype, problem.layout]
    if isinstance(problem, ConvProblem):
        words += [word for word, on in (("bias", problem.bias), ("residual", problem.residual)) if on]
        if problem.activation is not None:
            words.append(problem.activation if isinstance(problem.activation, str) else "clip")
    elif problem.return_indices:
        words.append("indices")
    return "-".join(words)
