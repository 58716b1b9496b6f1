"""Plants one mistake at a time behind a row and counts the suite's cases that notice: `python -m tests.mutants`.

A mutant is a convolution (or pooling) with a single mistake: wrong numbers in the loops, a block or vector tail left
out, an epilogue in the wrong order, a workspace or a buffer misused. Each runs through the very check of
test_kernels on the very problems of cases.py. A mutant that no case notices is a hole in the suite.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv import reference
from fastconv.problem import ConvProblem, PoolProblem
from tests import cases, rows

Array = np.ndarray

# Scratch of the mutants that misuse it.
WORKSPACE_BYTES = 4096
PASSES = ("forward", "backward_input", "backward_weight")


# ---------------------------------------------------------------------------------------------------------------
# A convolution whose every number can be wrong


@dataclass
class Numbers:
    """The numbers in the loops of a convolution, apart from the shapes of its arrays."""

    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int

    @staticmethod
    def of(p: ConvProblem) -> Numbers:
        return Numbers(p.sh, p.sw, p.ph, p.pw, p.dh, p.dw)


def _inside(first: int, step: int, count: int, size: int) -> tuple[Array, Array]:
    """Which of first, first + step, ... lie in [0, size), and where."""
    places = first + step * np.arange(count)
    ok = (places >= 0) & (places < size)
    return np.flatnonzero(ok), places[ok]


def _pairs(p: ConvProblem, n: Numbers) -> Iterator[tuple[int, int, Any, Any, Any, Any]]:
    for a in range(p.kh):
        i, rows_ = _inside(a * n.dh - n.ph, n.sh, p.oh, p.ih)
        for b in range(p.kw):
            j, cols = _inside(b * n.dw - n.pw, n.sw, p.ow, p.iw)
            yield a, b, i[:, None], j[None, :], rows_[:, None], cols[None, :]


def convolution(p: ConvProblem, n: Numbers, x: Array, w: Array, y: Array) -> Array:
    """The sums of any pass in float64, by gathering; a mistaken number reads or writes elsewhere, never outside."""
    x, w, y = (a.astype(np.float64) for a in (x, w, y))
    out = np.zeros(rows.output_shape(p))
    for k in range(p.g):
        xs, ys = slice(k * p.icg, (k + 1) * p.icg), slice(k * p.ocg, (k + 1) * p.ocg)
        for a, b, i, j, r, c in _pairs(p, n):
            if p.pass_ == "forward":
                out[:, ys][:, :, i, j] += np.einsum("nchw,oc->nohw", x[:, xs][:, :, r, c], w[ys, :, a, b])
            elif p.pass_ == "backward_input":
                gathered = np.einsum("nohw,oc->nchw", y[:, ys][:, :, i, j], w[ys, :, a, b])
                np.add.at(out[:, xs], (slice(None), slice(None), r, c), gathered)
            else:
                out[ys, :, a, b] += np.einsum("nohw,nchw->oc", y[:, ys][:, :, i, j], x[:, xs][:, :, r, c])
    return out


# ---------------------------------------------------------------------------------------------------------------
# Mistakes of convolutions


@dataclass
class Call:
    """One call as a mutant sees it; each mistake changes one thing."""

    p: ConvProblem
    n: Numbers
    x: Array
    w: Array
    y: Array  # the gradient of the output, in the passes that read it
    bias: Array | None
    residual: Array | None
    out: Array
    workspace: Array
    threads: int

    @property
    def image(self) -> str:
        """Name of the image operand of this pass."""
        return "y" if self.p.pass_ == "backward_input" else "x"


Before = Callable[[Call], None]
After = Callable[[Call, Array], None]


def swap_strides(c: Call) -> None:
    c.n.sh, c.n.sw = c.n.sw, c.n.sh


def swap_dilations(c: Call) -> None:
    c.n.dh, c.n.dw = c.n.dw, c.n.dh


def swap_pad_axes(c: Call) -> None:
    c.n.ph, c.n.pw = c.n.pw, c.n.ph


def swap_pad_ends(c: Call) -> None:
    c.n.ph, c.n.pw = c.p.ph_r, c.p.pw_r


def row_off_by_one(c: Call) -> None:
    c.n.ph += 1


def column_off_by_one(c: Call) -> None:
    c.n.pw -= 1


def ignore_dilation(c: Call) -> None:
    c.n.dh = c.n.dw = 1


def flip(c: Call) -> None:
    c.w = c.w[:, :, ::-1, ::-1]
    if c.p.pass_ == "backward_weight":
        c.y = c.y[:, :, ::-1, ::-1]


def transpose_filter(c: Call) -> None:
    if c.p.kh == c.p.kw:
        c.w = c.w.transpose(0, 1, 3, 2)


def without(channel_from: int) -> Before:
    """Depth blocking that forgets what is left over: input channels beyond a block."""

    def mistake(c: Call) -> None:
        name = c.image
        image = getattr(c, name).copy()
        image[:, channel_from:] = 0
        setattr(c, name, image)

    return mistake


def without_last_tap(c: Call) -> None:
    if c.p.pass_ != "backward_weight":
        c.w = c.w.copy()
        c.w[:, :, -1, -1] = 0


def first_group_for_all(c: Call) -> None:
    name = c.image
    image = getattr(c, name).copy()
    size = image.shape[1] // c.p.g
    for k in range(c.p.g):
        image[:, k * size : (k + 1) * size] = image[:, :size]
    setattr(c, name, image)


def channel_modulo_groups(c: Call) -> None:
    """Output channel o of a depthwise convolution reads input channel o mod ic, not o / multiplier."""
    p = c.p
    if p.icg > 1 or p.ocg == 1 or p.pass_ == "backward_input":
        return
    order = (np.arange(p.oc) % p.ic).reshape(p.ic, p.ocg)[:, 0]
    c.x = c.x[:, order]


def depthwise_only(mistake: After) -> After:
    def limited(c: Call, out: Array) -> None:
        if c.p.icg == 1 and c.p.g > 1:
            mistake(c, out)

    return limited


def second_row_of_pairs(c: Call, out: Array) -> None:
    """Rows are done in pairs; the second of each repeats the first."""
    out[:, :, 1::2] = out[:, :, : out.shape[2] - 1 : 2]


def tile_edge_columns(c: Call, out: Array) -> None:
    """The last column of every tile of 8 misses its last tap."""
    out[..., 7:-1:8] += 1


def multiplied_channels(c: Call, out: Array) -> None:
    """All outputs of an input channel but the first left zero."""
    for k in range(1, c.p.ocg):
        out[:, k :: c.p.ocg] = 0


def one_output_of_each_channel(c: Call) -> None:
    """An input gradient that sums over the first output of each input channel only."""
    if c.p.icg == 1 and c.p.ocg > 1:
        c.y = c.y.copy()
        for k in range(1, c.p.ocg):
            c.y[:, k :: c.p.ocg] = 0


def first_image_for_all(c: Call) -> None:
    if c.p.mb:
        setattr(c, c.image, np.broadcast_to(getattr(c, c.image)[:1], getattr(c, c.image).shape))


def wrap_columns(c: Call) -> None:
    """A negative column that wraps around, as a negative index does: only the padding at the left shows it."""
    if c.p.pass_ == "forward" and c.n.pw:
        c.x = np.concatenate([c.x[..., -c.n.pw :], c.x], axis=3) if c.n.pw <= c.p.iw else c.x


def tail(axis: int, start: int) -> After:
    """A vector or block tail of the output left zero."""

    def mistake(c: Call, out: Array) -> None:
        index: list[Any] = [slice(None)] * 4
        index[axis] = slice(start, None)
        out[tuple(index)] = 0

    return mistake


def last_vector_short(c: Call, out: Array) -> None:
    """The last 1..3 columns of a width that is no multiple of four repeat the one before."""
    if out.shape[3] % 4 and out.shape[3] > 4:
        out[..., -1] = out[..., -2]


def rounded_low(c: Call, out: Array) -> None:
    """Sums kept in half precision."""
    with np.errstate(over="ignore"):
        out[...] = out.astype(np.float16)


@dataclass(frozen=True)
class Mutant:
    """`before` changes what is summed, `after` the sums, `finish` replaces the epilogue, `write` the store.

    `rounds`: the mistake is one of rounding, which small integers do not show; random values must.
    """

    name: str
    before: Before | None = None
    after: After | None = None
    finish: Callable[[Call, Array], Array] | None = None
    write: Callable[[Call, Array], None] | None = None
    passes: tuple[str, ...] = PASSES
    rounds: bool = False

    def run(self, p: ConvProblem) -> rows.Run:
        def call(*arguments: Any) -> None:
            c = _call(p, arguments)
            if self.before:
                self.before(c)
            sums = convolution(p, c.n, c.x, c.w, c.y)
            if self.after:
                self.after(c, sums)
            result = (self.finish or finish)(c, sums)
            (self.write or write)(c, result)

        return rows.Run(call, lambda threads: WORKSPACE_BYTES)


def _call(p: ConvProblem, arguments: tuple[Any, ...]) -> Call:
    x = np.zeros((p.mb, p.ic, p.ih, p.iw))
    w = np.zeros((p.oc, p.icg, p.kh, p.kw))
    y = np.zeros((p.mb, p.oc, p.oh, p.ow))
    bias = residual = None
    if p.pass_ == "backward_weight":
        x, y, out, workspace, threads = arguments
    elif p.pass_ == "forward":
        x, w, bias, residual, out, workspace, threads = arguments
    else:
        y, w, bias, residual, out, workspace, threads = arguments
    return Call(p, Numbers.of(p), x, w, y, bias, residual, out, workspace, threads)


def column(bias: Array) -> Array:
    return bias.reshape(1, -1, 1, 1)


def finish(c: Call, sums: Array) -> Array:
    """The right epilogue."""
    if c.bias is not None:
        sums = sums + column(c.bias)
    if c.residual is not None:
        sums = sums + c.residual
    return reference.activate(sums, c.p.activation)


def bias_of_next_channel(c: Call, sums: Array) -> Array:
    if c.bias is not None:
        c.bias = np.roll(c.bias, 1)
    return finish(c, sums)


def bias_after_activation(c: Call, sums: Array) -> Array:
    bias, c.bias = c.bias, None
    y = finish(c, sums)
    return y if bias is None else y + column(bias)


def no_bias(c: Call, sums: Array) -> Array:
    c.bias = None
    return finish(c, sums)


def residual_after_activation(c: Call, sums: Array) -> Array:
    residual, c.residual = c.residual, None
    y = finish(c, sums)
    return y if residual is None else y + residual


def no_residual(c: Call, sums: Array) -> Array:
    c.residual = None
    return finish(c, sums)


def residual_of_next_row(c: Call, sums: Array) -> Array:
    if c.residual is not None:
        c.residual = np.roll(c.residual, 1, axis=2)
    return finish(c, sums)


def no_activation(c: Call, sums: Array) -> Array:
    bias = 0 if c.bias is None else column(c.bias)
    return sums + bias + (0 if c.residual is None else c.residual)


def no_upper_limit(c: Call, sums: Array) -> Array:
    y = no_activation(c, sums)
    return y if c.p.activation is None else np.maximum(y, 0 if c.p.activation == "relu" else c.p.activation[1])


def activation_before_the_last_block(c: Call, sums: Array) -> Array:
    """Clamped after each block of the depth: right while there is one block."""
    if c.p.icg > 16 and c.p.activation is not None:
        sums = reference.activate(sums * 0.5, c.p.activation) * 2
    return finish(c, sums)


def write(c: Call, result: Array) -> None:
    c.out[...] = result


def add_to_output(c: Call, result: Array) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        c.out[...] += result.astype(c.out.dtype)


def leave_last_element(c: Call, result: Array) -> None:
    kept = c.out[-1:, -1:, -1:, -1:].copy()
    c.out[...] = result
    c.out[-1:, -1:, -1:, -1:] = kept


def stale_workspace(c: Call, result: Array) -> None:
    """A block of the workspace that is read before it is written."""
    c.out[...] = result
    if c.out.size:
        with np.errstate(all="ignore"):
            c.out[0, 0, 0, 0] += c.workspace[:8].view(c.out.dtype)[0]


def past_the_workspace(c: Call, result: Array) -> None:
    c.out[...] = result
    np.lib.stride_tricks.as_strided(c.workspace, (WORKSPACE_BYTES + 1,), (1,))[-1] = 0


def past_the_output(c: Call, result: Array) -> None:
    """A vector store one element too long."""
    c.out[...] = result
    if c.out.size:
        last = c.out[-1:, -1:, -1:, -1:].reshape(-1)
        np.lib.stride_tricks.as_strided(last, (2,), (c.out.itemsize,), writeable=True)[1] = 0


def before_the_output(c: Call, result: Array) -> None:
    c.out[...] = result
    if c.out.size:
        first = c.out[:1, :1, :1, :1].reshape(-1)
        np.lib.stride_tricks.as_strided(first, (2,), (-c.out.itemsize,), writeable=True)[1] = 0


def changes_its_input(c: Call, result: Array) -> None:
    c.out[...] = result
    image = getattr(c, c.image)
    if image.size:
        image.flags.writeable = True
        image[0, 0, 0, 0] += 1


def result_by_threads(c: Call, result: Array) -> None:
    """A share of the work that is lost when there is more than one thread."""
    c.out[...] = result
    if c.threads > 1 and c.out.shape[1] > 1:
        c.out[:, -1] = 0


def result_by_alignment(c: Call, result: Array) -> None:
    c.out[...] = result
    if c.out.size and c.out.ctypes.data % 64:
        c.out[0, 0, 0, 0] += 1


def weights_by_pointer(c: Call) -> None:
    """Weights read as if they were stored in the order of their axes."""
    if c.p.pass_ != "backward_weight" and c.w.size:
        c.w = np.lib.stride_tricks.as_strided(c.w, c.w.shape, np.zeros(c.w.shape, c.w.dtype).strides) if all(
            s > 0 for s in c.w.strides
        ) else c.w  # fmt: skip


def _out_channel(c: Call) -> int:
    return 0 if c.p.pass_ == "backward_weight" else 1


def channel_tail(start: int) -> After:
    def mistake(c: Call, out: Array) -> None:
        tail(_out_channel(c), start)(c, out)

    return mistake


IMAGES = ("forward", "backward_input")
MUTANTS = (
    Mutant("filter flipped", before=flip),
    Mutant("filter transposed", before=transpose_filter, passes=IMAGES),
    Mutant("strides of height and width swapped", before=swap_strides),
    Mutant("dilations of height and width swapped", before=swap_dilations),
    Mutant("dilation ignored", before=ignore_dilation),
    Mutant("paddings of height and width swapped", before=swap_pad_axes),
    Mutant("paddings of begin and end swapped", before=swap_pad_ends),
    Mutant("rows off by one", before=row_off_by_one),
    Mutant("columns off by one", before=column_off_by_one),
    Mutant("columns wrap around at the left", before=wrap_columns, passes=("forward",)),
    Mutant("last filter cell left out", before=without_last_tap, passes=IMAGES),
    Mutant("input channel >= 8 skipped", before=without(8)),
    Mutant("input channel >= 16 skipped", before=without(16)),
    Mutant("input channel >= 32 skipped", before=without(32)),
    Mutant("input channel >= 256 skipped", before=without(256), passes=("forward",)),
    Mutant("first group for all", before=first_group_for_all),
    Mutant("depthwise: channel modulo groups", before=channel_modulo_groups, passes=("forward", "backward_weight")),
    Mutant("depthwise: second row of pairs", after=depthwise_only(second_row_of_pairs), passes=IMAGES),
    Mutant("depthwise: last column of tiles", after=depthwise_only(tile_edge_columns), passes=IMAGES),
    Mutant("depthwise: first multiple only", after=depthwise_only(multiplied_channels), passes=("forward",)),
    Mutant("depthwise: gradient of the first only", before=one_output_of_each_channel, passes=("backward_input",)),
    Mutant("first image for all", before=first_image_for_all),
    Mutant("weights read in the order of their axes", before=weights_by_pointer, passes=IMAGES),
    Mutant("output column >= 8 left zero", after=tail(3, 8), passes=IMAGES),
    Mutant("output column >= 16 left zero", after=tail(3, 16), passes=IMAGES),
    Mutant("output column >= 32 left zero", after=tail(3, 32), passes=IMAGES),
    Mutant("output row >= 8 left zero", after=tail(2, 8), passes=IMAGES),
    Mutant("output row >= 32 left zero", after=tail(2, 32), passes=IMAGES),
    Mutant("output channel >= 8 left zero", after=channel_tail(8)),
    Mutant("output channel >= 16 left zero", after=channel_tail(16)),
    Mutant("output channel >= 32 left zero", after=channel_tail(32)),
    Mutant("output channel >= 64 left zero", after=channel_tail(64), passes=IMAGES),
    Mutant("image >= 4 of the batch left zero", after=tail(0, 4), passes=IMAGES),
    Mutant("last column repeats the one before", after=last_vector_short, passes=IMAGES),
    Mutant("sums in half precision", after=rounded_low, rounds=True),
    Mutant("bias of the next channel", finish=bias_of_next_channel, passes=IMAGES),
    Mutant("bias after the activation", finish=bias_after_activation, passes=IMAGES),
    Mutant("no bias", finish=no_bias, passes=IMAGES),
    Mutant("residual after the activation", finish=residual_after_activation, passes=IMAGES),
    Mutant("no residual", finish=no_residual, passes=IMAGES),
    Mutant("residual of the next row", finish=residual_of_next_row, passes=IMAGES),
    Mutant("no activation", finish=no_activation, passes=IMAGES),
    Mutant("no upper limit", finish=no_upper_limit, passes=IMAGES),
    Mutant("activation before the last block", finish=activation_before_the_last_block, passes=IMAGES),
    Mutant("adds to what the output held", write=add_to_output),
    Mutant("last element not written", write=leave_last_element),
    Mutant("workspace read before it is written", write=stale_workspace),
    Mutant("writes past the workspace", write=past_the_workspace),
    Mutant("writes past the output", write=past_the_output),
    Mutant("writes before the output", write=before_the_output),
    Mutant("changes its input", write=changes_its_input),
    Mutant("depends on the number of threads", write=result_by_threads),
    Mutant("depends on the alignment", write=result_by_alignment),
)

# ---------------------------------------------------------------------------------------------------------------
# Mistakes of pools: the reference, changed before or after


PoolMistake = Callable[[PoolProblem, Array, Array | None], None]


def _last_of_equal(p: PoolProblem, y: Array, indices: Array | None) -> None:
    if indices is not None:
        indices[...] = p.ih * p.iw - 1 - indices


def _index_off_by_one(p: PoolProblem, y: Array, indices: Array | None) -> None:
    if indices is not None:
        indices += 1


def _index_over_the_tensor(p: PoolProblem, y: Array, indices: Array | None) -> None:
    if indices is not None:
        indices += (np.arange(p.mb * p.c) * p.ih * p.iw).reshape(p.mb, p.c, 1, 1)


def _zero(axis: int, start: int) -> PoolMistake:
    def mistake(p: PoolProblem, y: Array, indices: Array | None) -> None:
        index: list[Any] = [slice(None)] * 4
        index[axis] = slice(start, None)
        y[tuple(index)] = 0

    return mistake


def _at_least_zero(p: PoolProblem, y: Array, indices: Array | None) -> None:
    np.maximum(y, 0, out=y)


def _no_division(p: PoolProblem, y: Array, indices: Array | None) -> None:
    y *= 2


POOL_MISTAKES: tuple[tuple[str, str, str, PoolMistake], ...] = (
    ("index off by one", "max_pool2d", "forward", _index_off_by_one),
    ("index over the whole tensor", "max_pool2d", "forward", _index_over_the_tensor),
    ("index counted from the end", "adaptive_max_pool2d", "forward", _last_of_equal),
    ("padding wins as zero", "max_pool2d", "forward", _at_least_zero),
    ("output column >= 8 left zero", "max_pool2d", "forward", _zero(3, 8)),
    ("channel >= 16 left zero", "max_pool2d", "forward", _zero(1, 16)),
    ("channel >= 32 left zero", "max_pool2d", "backward", _zero(1, 32)),
    ("wrong divisor", "avg_pool2d", "forward", _no_division),
    ("output column >= 16 left zero", "avg_pool2d", "forward", _zero(3, 16)),
    ("column >= 16 of the gradient left zero", "avg_pool2d", "backward", _zero(3, 16)),
    ("channel >= 16 left zero", "adaptive_avg_pool2d", "forward", _zero(1, 16)),
    ("wrong divisor", "adaptive_avg_pool2d", "backward", _no_division),
)

POOL_NUMBERS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("strides swapped", "max_pool2d", {"sh": "sw", "sw": "sh"}),
    ("paddings swapped", "max_pool2d", {"ph": "pw", "pw": "ph"}),
    ("dilations swapped", "max_pool2d", {"dh": "dw", "dw": "dh"}),
    ("padded cells never counted", "avg_pool2d", {"count_include_pad": "adaptive"}),
    ("cells of ceil_mode counted", "avg_pool2d", {"count_h": "mb_huge", "count_w": "mb_huge"}),
)


def pool_run(p: PoolProblem, mistake: PoolMistake | None, numbers: dict[str, str]) -> rows.Run:
    function = getattr(reference, f"{p.op}_{p.pass_}_reference__numpy")
    wrong = replace(p, **{k: 10**6 if v == "mb_huge" else getattr(p, v) for k, v in numbers.items()})

    def call(first: Array, second: Array, third: Array | None, workspace: Any, threads: int) -> None:
        function(wrong, first, second, third, None, 1)
        if mistake is not None:
            if p.pass_ == "forward":
                mistake(p, second, third)
            else:
                assert third is not None
                mistake(p, third, None)

    return rows.Run(call, lambda threads: 0)


# ---------------------------------------------------------------------------------------------------------------


def noticed(run: rows.Run, p: ConvProblem | PoolProblem, rounds: bool = False) -> bool:
    """Whether the check of test_kernels fails on this problem (or the mutant cannot even run)."""
    try:
        if rounds and isinstance(p, ConvProblem):
            rows.check_conv_rounding(run, p, "im2col")
        else:
            rows.check(run, p, "naive")
    except (AssertionError, IndexError, ValueError):
        return True
    return False


def conv_count(mutant: Mutant, step: int = 1, stop_at: int | None = None) -> tuple[int, int]:
    """(problems that notice, problems tried) over the passes of the mutant."""
    caught = tried = 0
    for pass_ in mutant.passes:
        for p in cases.conv_problems(pass_)[::step]:
            if mutant.rounds and p.dtype != "float32":
                continue
            tried += 1
            caught += noticed(mutant.run(p), p, mutant.rounds)
            if stop_at is not None and caught >= stop_at:
                return caught, tried
    return caught, tried


def pool_counts() -> Iterator[tuple[str, int, int]]:
    for name, op, pass_, mistake in POOL_MISTAKES:
        problems = cases.pool_problems(op, pass_)
        yield f"{op} {pass_}: {name}", sum(noticed(pool_run(p, mistake, {}), p) for p in problems), len(problems)
    for name, op, numbers in POOL_NUMBERS:
        problems = cases.pool_problems(op, "forward")
        yield f"{op} forward: {name}", sum(noticed(pool_run(p, None, numbers), p) for p in problems), len(problems)


def main() -> int:
    """Print a table; the exit status is the number of mutants that nobody noticed."""
    missed = 0
    right, tried = conv_count(Mutant("no mistake"), step=5)
    print(f"{'no mistake':<48} {right:5} of {tried} cases notice (must be 0)")
    missed += right > 0
    for mutant in MUTANTS:
        for pass_ in mutant.passes:
            caught, tried = conv_count(replace(mutant, passes=(pass_,)))
            missed += caught == 0
            print(f"{pass_ + ': ' + mutant.name:<64} {caught:5} of {tried} cases notice{'' if caught else '  MISSED'}")
    for name, caught, tried in pool_counts():
        missed += caught == 0
        print(f"{name:<64} {caught:5} of {tried} cases notice{'' if caught else '  MISSED'}")
    print(f"{missed} mutants missed" if missed else "every mutant is noticed")
    return missed


if __name__ == "__main__":
    sys.exit(main())
