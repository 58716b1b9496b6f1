"""What is asked: ConvProblem, ConvPoolProblem, PoolProblem: frozen numbers without arrays, their checks and text form.

Letters are those of oneDNN: mb ic ih iw input, oc oh ow output, kh kw filter, sh sw stride, ph pw padding at the top
and left (ph_r pw_r at the bottom and right), dh dw dilation (1 means none, as in PyTorch), g groups.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

INT64_MAX = 2**63 - 1

PASSES = ("forward", "backward_input", "backward_weight")
LAYOUTS = ("NCHW", "NHWC")
POOL_OPS = ("max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d")

Activation = None | str | tuple[str, float, float]


class NoKernelError(ValueError):
    """No row of the table can do what was asked (or what was forced); the message lists each row's reason."""


# ---------------------------------------------------------------------------------------------------------------
# Checks of single arguments


def check_int(where: str, name: str, value: Any, minimum: int) -> int:
    """`value` as a Python int of at least `minimum`; bools and floats are refused."""
    if isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{where}: {name} must be an int, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{where}: {name} must be at least {minimum}, got {number}")
    if number > INT64_MAX:
        raise ValueError(f"{where}: {name} must fit in 64 bits, got {number}")
    return number


def check_pair(where: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """An int, or a pair of ints (height, width)."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) == 1:
            value = (value[0], value[0])
        if len(value) != 2:
            raise ValueError(f"{where}: {name} must be an int or a pair (height, width), got {value!r}")
        return check_int(where, name, value[0], minimum), check_int(where, name, value[1], minimum)
    number = check_int(where, name, value, minimum)
    return number, number


def effective_filter(k: int, d: int) -> int:
    """Extent of a filter of k cells at dilation d."""
    return (k - 1) * d + 1


def same_padding(i: int, k: int, s: int, d: int) -> int:
    """Total padding that makes the output ceil(i / s) long (TensorFlow's and ONNX's SAME)."""
    return max(0, (-(-i // s) - 1) * s + effective_filter(k, d) - i)


def resolve_padding(
    padding: Any,
    input_size: Sequence[int],
    kernel_size: Any,
    stride: Any = 1,
    dilation: Any = 1,
    *,
    where: str = "resolve_padding",
) -> tuple[int, int, int, int]:
    """Turn any accepted form of padding into four numbers.

    Parameters
    ----------
    padding : int, pair (height, width), four values (top, bottom, left, right), pair of pairs
        ((top, bottom), (left, right)), or one of "valid", "same", "same_upper", "same_lower".
        "same" is ONNX's SAME_UPPER at any stride: with keff = (k - 1) * d + 1 the total is
        max(0, (ceil(i / s) - 1) * s + keff - i) cells, the odd one at the bottom and right ("same_lower": at the
        top and left).
    input_size : (ih, iw)
    kernel_size, stride, dilation : int or pair (height, width)

    Returns
    -------
    (top, bottom, left, right) : tuple of int, in cells

    Raises
    ------
    ValueError
        A negative padding, or a form that is none of the above.
    TypeError
        A padding that is not made of ints.

    Examples
    --------
    >>> from fastconv import resolve_padding
    >>> resolve_padding("same", (224, 224), 7, stride=2)
    (2, 3, 2, 3)
    """
    kh, kw = check_pair(where, "kernel_size", kernel_size, 1)
    sh, sw = check_pair(where, "stride", stride, 1)
    dh, dw = check_pair(where, "dilation", dilation, 1)
    if isinstance(padding, str):
        form = padding.lower()
        if form == "valid":
            return 0, 0, 0, 0
        if form not in ("same", "same_upper", "same_lower"):
            raise ValueError(
                f'{where}: padding must be numbers, "valid", "same" or "same_lower", got {padding!r}'
            )
        ih, iw = input_size
        th, tw = same_padding(ih, kh, sh, dh), same_padding(iw, kw, sw, dw)
        low_h, low_w = (th // 2, tw // 2) if form != "same_lower" else (th - th // 2, tw - tw // 2)
        return low_h, th - low_h, low_w, tw - low_w
    if isinstance(padding, Sequence) and not isinstance(padding, bytes):
        flat: list[Any] = []
        nested = [isinstance(p, Sequence) for p in padding]
        if len(padding) == 2 and all(nested) and all(len(p) == 2 for p in padding):
            flat = [padding[0][0], padding[0][1], padding[1][0], padding[1][1]]
        elif not any(nested) and len(padding) == 4:
            flat = list(padding)
        elif not any(nested) and len(padding) == 2:
            flat = [padding[0], padding[0], padding[1], padding[1]]
        elif not any(nested) and len(padding) == 1:
            flat = [padding[0]] * 4
        else:
            raise ValueError(
                f"{where}: padding must be an int, a pair (height, width), four values (top, bottom, left, right) "
                f"or ((top, bottom), (left, right)), got {padding!r}"
            )
        top, bottom, left, right = (check_int(where, "padding", p, 0) for p in flat)
        return top, bottom, left, right
    p = check_int(where, "padding", padding, 0)
    return p, p, p, p


def check_activation(where: str, activation: Any) -> Activation:
    """None, "relu", "relu6" or ("clip", low, high)."""
    if activation is None or activation == "relu":
        return activation
    if activation == "relu6":
        return ("clip", 0.0, 6.0)
    if isinstance(activation, (tuple, list)) and len(activation) == 3 and activation[0] == "clip":
        low, high = float(activation[1]), float(activation[2])
        if not low <= high:
            raise ValueError(f"{where}: activation ('clip', low, high) needs low <= high, got {activation!r}")
        return ("clip", low, high)
    raise ValueError(f"{where}: activation must be None, 'relu', 'relu6' or ('clip', low, high), got {activation!r}")


def check_precision(where: str, precision: Any) -> str | float:
    """"fast", "strict", or the largest accepted error as a share of the largest output, that of "tf32" among them."""
    if isinstance(precision, str):
        if precision in ("fast", "strict"):
            return precision
        if precision == "tf32":
            return TF32_ERROR
    elif isinstance(precision, (int, float)) and not isinstance(precision, bool) and precision > 0:
        return float(precision)
    raise ValueError(
        f"{where}: precision must be 'fast', 'strict', 'tf32' or a positive number (the largest error accepted, "
        f"relative to the largest output), got {precision!r}"
    )


def check_layout(where: str, layout: Any) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f'{where}: layout must be "NCHW" or "NHWC", got {layout!r}')
    return layout


def output_size(where: str, axis: str, i: int, k: int, s: int, low: int, high: int, d: int) -> int:
    """(i + low + high - ((k - 1) * d + 1)) // s + 1, or a ValueError when the filter does not fit."""
    keff = effective_filter(k, d)
    if keff > i + low + high:
        raise ValueError(
            f"{where}: the filter does not fit: {axis} {i} + padding {low} + {high} = {i + low + high} is less than "
            f"(filter {k} - 1) * dilation {d} + 1 = {keff}"
        )
    return (i + low + high - keff) // s + 1


def _check_bytes(where: str, what: str, itemsize: int, *sizes: int) -> None:
    total = itemsize
    for size in sizes:
        total *= size
    if total > INT64_MAX:
        dims = " x ".join(map(str, sizes))
        raise ValueError(f"{where}: {what} of {dims} elements of {itemsize} bytes does not fit in 64 bits")


# What precision="tf32" accepts: operands of 10 bits of mantissa, as tensor cores of GPUs read them.
TF32_ERROR = 2e-3

ITEMSIZE = {"float32": 4, "float64": 8, "int64": 8}

_TOKEN = re.compile(r"(mb|ic|ih|iw|oc|oh|ow|kh|kw|sh|sw|ph_r|pw_r|ph|pw|dh|dw|g)(?:(\d+)|(?<=_r)(-\d+))")


def _tokens(text: str) -> dict[str, int]:
    found = {}
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"cannot read problem {text!r} from {text[position:]!r}: expected e.g. mb2ic3ih9oc5kh3ph1")
        key, value = match.group(1), int(match.group(2) or match.group(3))
        if key in found:
            raise ValueError(f"cannot read problem {text!r}: {key} is given twice")
        found[key] = value
        position = match.end()
    return found


def _device_text(device: str) -> str:
    return "" if device == "cpu" else f" on {device}"


def _axis_text(h: str, w: str, vh: int, vw: int, default: int | None) -> str:
    """`vw` is left out when it equals `vh`, both when they equal `default`."""
    if vh == vw:
        return "" if vh == default else f"{h}{vh}"
    return f"{h}{vh}{w}{vw}"


# ---------------------------------------------------------------------------------------------------------------
# The two problems


@dataclass(frozen=True, slots=True)
class ConvProblem:
    """One convolution, or one of its gradients. The geometry is that of the forward convolution in every pass.

    `ph_r` and `pw_r` can be negative in the pass backward_input only (a transposed convolution whose output padding
    makes rows and columns that no filter cell reaches).
    """

    op: ClassVar[str] = "conv2d"

    pass_: str
    mb: int
    g: int
    ic: int
    ih: int
    iw: int
    oc: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    ph_r: int
    pw_r: int
    dh: int
    dw: int
    dtype: str = "float32"
    layout: str = "NCHW"
    bias: bool = False
    activation: Activation = None
    residual: bool = False
    device: str = "cpu"
    precision: str | float = "fast"

    @property
    def icg(self) -> int:
        """Input channels of one group."""
        return self.ic // self.g

    @property
    def ocg(self) -> int:
        """Output channels of one group."""
        return self.oc // self.g

    @property
    def depthwise(self) -> bool:
        return self.g > 1 and self.icg == 1

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def flops(self) -> int:
        """Floating-point operations of the plain sum (a multiplication and an addition count as two)."""
        return 2 * self.mb * self.oc * self.oh * self.ow * self.icg * self.kh * self.kw

    @property
    def bytes(self) -> int:
        """The fewest bytes that must be moved: each operand once."""
        x = self.mb * self.ic * self.ih * self.iw
        y = self.mb * self.oc * self.oh * self.ow
        w = self.oc * self.icg * self.kh * self.kw
        return (x + y * (2 if self.residual else 1) + w) * self.itemsize

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.mb, self.ic, self.ih, self.iw
        return (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.mb, self.oc, self.oh, self.ow
        return (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        o, i, h, w = self.oc, self.icg, self.kh, self.kw
        return (o, i, h, w) if self.layout == "NCHW" else (h, w, i, o)

    @property
    def text(self) -> str:
        """The geometry in the text grammar, e.g. mb2ic3ih9iw7oc5kh3sh2ph1."""
        parts = [f"g{self.g}" if self.g > 1 else "", f"mb{self.mb}ic{self.ic}"]
        parts.append(_axis_text("ih", "iw", self.ih, self.iw, None))
        parts.append(f"oc{self.oc}")
        # oh and ow follow from the rest, except for what a transposed convolution cut off (then ph_r says it)
        parts.append(_axis_text("kh", "kw", self.kh, self.kw, None))
        parts.append(_axis_text("sh", "sw", self.sh, self.sw, 1))
        parts.append(_axis_text("ph", "pw", self.ph, self.pw, 0))
        parts.append(f"ph_r{self.ph_r}" if self.ph_r != self.ph else "")
        parts.append(f"pw_r{self.pw_r}" if self.pw_r != self.pw else "")
        parts.append(_axis_text("dh", "dw", self.dh, self.dw, 1))
        return "".join(parts)

    def __str__(self) -> str:
        extra = [word for word, on in (("bias", self.bias), ("residual", self.residual)) if on]
        if self.activation is not None:
            extra.append(self.activation if isinstance(self.activation, str) else "clip")
        tail = f" +{'+'.join(extra)}" if extra else ""
        return f"{self.op}_{self.pass_} {self.text} {self.dtype} {self.layout}{tail}{_device_text(self.device)}"

    @classmethod
    def parse(cls, text: str, **options: Any) -> ConvProblem:
        """Read the text grammar; iw, kw, sw, pw, dw default to ih, kh, sh, ph, dh, paddings at the end to those at
        the start. `options` are further fields (pass_, dtype, layout, ...)."""
        t = _tokens(text)
        for key in ("ic", "ih", "oc", "kh"):
            if key not in t:
                raise ValueError(f"cannot read problem {text!r}: {key} is missing")
        ih, kh = t["ih"], t["kh"]
        sh, ph, dh = t.get("sh", 1), t.get("ph", 0), t.get("dh", 1)
        pw = t.get("pw", ph)
        ph_r, pw_r = t.get("ph_r", ph), t.get("pw_r", pw)
        problem = conv_problem(
            text,
            pass_=options.pop("pass_", "forward"),
            mb=t.get("mb", 1),
            ic=t["ic"],
            ih=ih,
            iw=t.get("iw", ih),
            oc=t["oc"],
            kh=kh,
            kw=t.get("kw", kh),
            stride=(sh, t.get("sw", sh)),
            padding=(ph, max(ph_r, 0), pw, max(pw_r, 0)),
            dilation=(dh, t.get("dw", dh)),
            groups=t.get("g", 1),
            **options,
        )
        if ph_r < 0 or pw_r < 0:
            problem = problem._cut(ph_r, pw_r)
        for key in ("oh", "ow"):
            if key in t and t[key] != getattr(problem, key):
                raise ValueError(f"cannot read problem {text!r}: {key} is {getattr(problem, key)}, not {t[key]}")
        return problem

    def _cut(self, ph_r: int, pw_r: int) -> ConvProblem:
        """The same problem with a negative padding at the end: rows and columns that no filter cell reaches."""
        if self.pass_ != "backward_input":
            raise ValueError(f"{self.text}: only the pass backward_input takes a negative padding, got {ph_r}, {pw_r}")
        where = self.text
        oh = output_size(where, "height", self.ih, self.kh, self.sh, self.ph, ph_r, self.dh)
        ow = output_size(where, "width", self.iw, self.kw, self.sw, self.pw, pw_r, self.dw)
        return replace(self, oh=oh, ow=ow, ph_r=ph_r, pw_r=pw_r)

    def with_pass(self, pass_: str) -> ConvProblem:
        """The same geometry in another pass, without epilogue."""
        return replace(self, pass_=pass_, bias=False, activation=None, residual=False)


def conv_problem(
    where: str,
    *,
    pass_: str = "forward",
    mb: int,
    ic: int,
    ih: int,
    iw: int,
    oc: int,
    kh: int,
    kw: int,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    dtype: str = "float32",
    layout: str = "NCHW",
    bias: bool = False,
    activation: Any = None,
    residual: bool = False,
    device: str = "cpu",
    precision: Any = "fast",
) -> ConvProblem:
    """Check everything once and build a ConvProblem; `where` opens the error messages."""
    if pass_ not in PASSES:
        raise ValueError(f"{where}: pass must be one of {', '.join(PASSES)}, got {pass_!r}")
    if dtype not in ITEMSIZE:
        raise TypeError(f"{where}: kernels compute in {', '.join(ITEMSIZE)}, got {dtype}")
    g = check_int(where, "groups", groups, 1)
    for name, value, least in (("batch", mb, 0), ("height", ih, 0), ("width", iw, 0)):
        check_int(where, name, value, least)
    for name, value in (("input channels", ic), ("output channels", oc), ("filter height", kh), ("filter width", kw)):
        check_int(where, name, value, 1)
    if ic % g or oc % g:
        raise ValueError(f"{where}: groups={g} must divide the {ic} input channels and the {oc} output channels")
    sh, sw = check_pair(where, "stride", stride, 1)
    dh, dw = check_pair(where, "dilation", dilation, 1)
    ph, ph_r, pw, pw_r = resolve_padding(padding, (ih, iw), (kh, kw), (sh, sw), (dh, dw), where=where)
    oh = output_size(where, "height", ih, kh, sh, ph, ph_r, dh)
    ow = output_size(where, "width", iw, kw, sw, pw, pw_r, dw)
    itemsize = ITEMSIZE[dtype]
    _check_bytes(where, "an input", itemsize, mb, ic, ih + ph + ph_r, iw + pw + pw_r)
    _check_bytes(where, "an output", itemsize, mb, oc, oh, ow)
    _check_bytes(where, "a weight", itemsize, oc, ic // g, kh, kw)
    return ConvProblem(
        pass_, mb, g, ic, ih, iw, oc, oh, ow, kh, kw, sh, sw, ph, pw, ph_r, pw_r, dh, dw, dtype,
        check_layout(where, layout), bool(bias), check_activation(where, activation), bool(residual), device,
        check_precision(where, precision),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConvPoolProblem(ConvProblem):
    """A convolution whose outputs go through ReLU and a 2x2 maximum pooling of stride 2, or one of its gradients.

    The sizes are the convolution's; an odd last row or column of its outputs is left out.
    """

    op: ClassVar[str] = "conv2d_relu_max_pool2d"

    @classmethod
    def of(cls, p: ConvProblem) -> ConvPoolProblem:
        """The same convolution, pooled."""
        return cls(*(getattr(p, field.name) for field in fields(p)))

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.mb, self.oc, self.oh // 2, self.ow // 2
        return (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)

    @property
    def bytes(self) -> int:
        x = self.mb * self.ic * self.ih * self.iw
        y = self.mb * self.oc * (self.oh // 2) * (self.ow // 2)
        return (x + y + self.oc * self.icg * self.kh * self.kw) * self.itemsize + y


@dataclass(frozen=True, slots=True)
class PoolProblem:
    """One pooling, or its gradient. Cells at a padded coordinate of `count_h` / `count_w` or more are never counted.

    `ph_r` and `pw_r` include what ceil_mode adds. Adaptive pooling has windows
    [floor(i * ih / oh), ceil((i + 1) * ih / oh)) and leaves the filter fields at 1, the paddings at 0.
    """

    op: str
    pass_: str
    mb: int
    c: int
    ih: int
    iw: int
    oh: int
    ow: int
    kh: int = 1
    kw: int = 1
    sh: int = 1
    sw: int = 1
    ph: int = 0
    pw: int = 0
    ph_r: int = 0
    pw_r: int = 0
    dh: int = 1
    dw: int = 1
    count_include_pad: bool = True
    divisor_override: int = 0
    count_h: int = 0
    count_w: int = 0
    return_indices: bool = False
    dtype: str = "float32"
    layout: str = "NCHW"
    device: str = "cpu"

    precision: ClassVar[str] = "fast"

    @property
    def adaptive(self) -> bool:
        return self.op.startswith("adaptive_")

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def flops(self) -> int:
        """One operation per window cell."""
        if self.adaptive:
            return self.mb * self.c * max(self.ih * self.iw, self.oh * self.ow)
        return self.mb * self.c * self.oh * self.ow * self.kh * self.kw

    @property
    def bytes(self) -> int:
        """The fewest bytes that must be moved: input and output once, and the int64 indices."""
        cells = self.mb * self.c * self.oh * self.ow
        indices = 8 * cells if self.return_indices or (self.pass_ == "backward" and "max" in self.op) else 0
        return (self.mb * self.c * self.ih * self.iw + cells) * self.itemsize + indices

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.mb, self.c, self.ih, self.iw
        return (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.mb, self.c, self.oh, self.ow
        return (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)

    @property
    def text(self) -> str:
        """The geometry in the text grammar, e.g. mb64ic32ih26kh2sh2, or mb1ic512ih7oh1 for an adaptive pool."""
        parts = [f"mb{self.mb}ic{self.c}", _axis_text("ih", "iw", self.ih, self.iw, None)]
        if self.adaptive:
            parts.append(_axis_text("oh", "ow", self.oh, self.ow, None))
            return "".join(parts)
        parts.append(_axis_text("kh", "kw", self.kh, self.kw, None))
        parts.append(_axis_text("sh", "sw", self.sh, self.sw, 1))
        parts.append(_axis_text("ph", "pw", self.ph, self.pw, 0))
        parts.append(f"ph_r{self.ph_r}" if self.ph_r != self.ph else "")
        parts.append(f"pw_r{self.pw_r}" if self.pw_r != self.pw else "")
        parts.append(_axis_text("dh", "dw", self.dh, self.dw, 1))
        return "".join(parts)

    def __str__(self) -> str:
        extra = " +indices" if self.return_indices else ""
        return f"{self.op}_{self.pass_} {self.text} {self.dtype} {self.layout}{extra}{_device_text(self.device)}"

    @classmethod
    def parse(cls, text: str, op: str, **options: Any) -> PoolProblem:
        """Read the text grammar (channels are `ic`). sh defaults to 1; an adaptive op takes oh and ow instead."""
        t = _tokens(text)
        common = {
            "pass_": options.pop("pass_", "forward"),
            "mb": t.get("mb", 1),
            "c": t["ic"],
            "ih": t["ih"],
            "iw": t.get("iw", t["ih"]),
        }
        if op.startswith("adaptive_"):
            return pool_problem(text, op, output=(t["oh"], t.get("ow", t["oh"])), **common, **options)
        kh, sh, ph, dh = t["kh"], t.get("sh", 1), t.get("ph", 0), t.get("dh", 1)
        pw = t.get("pw", ph)
        return pool_problem(
            text,
            op,
            kernel_size=(kh, t.get("kw", kh)),
            stride=(sh, t.get("sw", sh)),
            padding=(ph, t.get("ph_r", ph), pw, t.get("pw_r", pw)),
            dilation=(dh, t.get("dw", dh)),
            **common,
            **options,
        )


def ceil_output_size(i: int, k: int, s: int, low: int, high: int, d: int) -> int:
    """Output size under ceil_mode: the last window must start inside the input or its padding at the start."""
    out = -((i + low + high - effective_filter(k, d)) // -s) + 1
    return out - 1 if (out - 1) * s >= i + low else out


def pool_problem(
    where: str,
    op: str,
    *,
    pass_: str = "forward",
    mb: int,
    c: int,
    ih: int,
    iw: int,
    kernel_size: Any = 1,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    return_indices: bool = False,
    output: tuple[int, int] | None = None,
    dtype: str = "float32",
    layout: str = "NCHW",
    device: str = "cpu",
) -> PoolProblem:
    """Check everything once and build a PoolProblem; `output` is the size asked of an adaptive pool."""
    if op not in POOL_OPS:
        raise ValueError(f"{where}: op must be one of {', '.join(POOL_OPS)}, got {op!r}")
    if pass_ not in ("forward", "backward"):
        raise ValueError(f"{where}: pass must be forward or backward, got {pass_!r}")
    if dtype not in ITEMSIZE:
        raise TypeError(f"{where}: kernels compute in {', '.join(ITEMSIZE)}, got {dtype}")
    check_layout(where, layout)
    if divisor_override is not None:
        divisor_override = check_int(where, "divisor_override", divisor_override, 1)
    if ih < 1 or iw < 1:
        raise ValueError(f"{where}: pooling needs a non-empty image, got height {ih} and width {iw}")
    itemsize = ITEMSIZE[dtype]
    fields: dict[str, Any] = {}
    if output is not None:
        oh, ow = check_pair(where, "output_size", output, 1)
        fields.update(count_h=ih, count_w=iw)
        ph = ph_r = pw = pw_r = 0
    else:
        kh, kw = check_pair(where, "kernel_size", kernel_size, 1)
        sh, sw = check_pair(where, "stride", (kh, kw) if stride is None else stride, 1)
        dh, dw = check_pair(where, "dilation", dilation, 1)
        ph, ph_r, pw, pw_r = resolve_padding(padding, (ih, iw), (kh, kw), (sh, sw), (dh, dw), where=where)
        for axis, k, d, low, high in (("height", kh, dh, ph, ph_r), ("width", kw, dw, pw, pw_r)):
            if max(low, high) >= effective_filter(k, d):
                raise ValueError(
                    f"{where}: padding {max(low, high)} must be less than the window's {axis} "
                    f"{effective_filter(k, d)}, or a window would hold no cell of the input"
                )
        fields.update(count_h=ih + ph + ph_r, count_w=iw + pw + pw_r)
        oh = output_size(where, "height", ih, kh, sh, ph, ph_r, dh)
        ow = output_size(where, "width", iw, kw, sw, pw, pw_r, dw)
        if ceil_mode:
            oh = ceil_output_size(ih, kh, sh, ph, ph_r, dh)
            ow = ceil_output_size(iw, kw, sw, pw, pw_r, dw)
            ph_r = max(ph_r, (oh - 1) * sh + effective_filter(kh, dh) - ih - ph)
            pw_r = max(pw_r, (ow - 1) * sw + effective_filter(kw, dw) - iw - pw)
        for axis, i, o, k, s, low, d in (("height", ih, oh, kh, sh, ph, dh), ("width", iw, ow, kw, sw, pw, dw)):
            if d > 1 and not all(any(0 <= n * s - low + j * d < i for j in range(k)) for n in range(o)):
                raise ValueError(
                    f"{where}: a window of {k} cells at dilation {d} and padding {low} holds no cell of the "
                    f"input's {axis} {i}"
                )
        fields.update(kh=kh, kw=kw, sh=sh, sw=sw, ph=ph, pw=pw, ph_r=ph_r, pw_r=pw_r, dh=dh, dw=dw)
    _check_bytes(where, "an input", itemsize, mb, c, ih + ph + ph_r, iw + pw + pw_r)
    _check_bytes(where, "an output", 8, mb, c, oh, ow)
    return PoolProblem(
        op, pass_, mb, c, ih, iw, oh, ow, dtype=dtype, layout=layout, device=device,
        count_include_pad=bool(count_include_pad), divisor_override=divisor_override or 0,
        return_indices=bool(return_indices), **fields,
    )  # fmt: skip


def parse_problem(text: str, op: str = "conv2d", **options: Any) -> ConvProblem | PoolProblem:
    """A problem from its text form; `op` says which."""
    if op == "conv2d":
        return ConvProblem.parse(text, **options)
    if op == ConvPoolProblem.op:
        return ConvPoolProblem.of(ConvProblem.parse(text, **options))
    return PoolProblem.parse(text, op, **options)
