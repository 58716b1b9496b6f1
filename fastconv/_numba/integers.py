"""Arithmetic of int64 inside kernels, as intrinsics of a few instructions: they compile faster than `//`, `%`, `min`
and `max`, of which Numba makes functions with branches (bench/results/tried.md).
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.np import arrayobj

from fastconv._numba.vector import I64, intrinsic, itemsize, scalar_type

OF_TWO = types.int64(types.int64, types.int64)


def _code(emit: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Callable[..., ir.Value]:
    return lambda context, builder, sig, args: emit(builder, *args)


def _floor(at: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Quotient and remainder: the processor's round towards 0."""
    q, r = at.sdiv(a, b), at.srem(a, b)
    negative = at.icmp_signed("<", r, I64(0))
    return at.select(negative, at.sub(q, I64(1)), q), at.select(negative, at.add(r, b), r)


@intrinsic
def quotient(typingctx, a, b):
    """a // b of b > 0."""
    return OF_TWO, _code(lambda at, a, b: _floor(at, a, b)[0])


@intrinsic
def remainder(typingctx, a, b):
    """a % b of b > 0."""
    return OF_TWO, _code(lambda at, a, b: _floor(at, a, b)[1])


@intrinsic
def least(typingctx, a, b):
    """min(a, b)."""
    return OF_TWO, _code(lambda at, a, b: at.select(at.icmp_signed("<", b, a), b, a))


@intrinsic
def most(typingctx, a, b):
    """max(a, b)."""
    return OF_TWO, _code(lambda at, a, b: at.select(at.icmp_signed(">", b, a), b, a))


@intrinsic(prefer_literal=True)
def stride_of(typingctx, array, axis):
    """Elements from one to the next along an axis."""
    if not isinstance(axis, types.IntegerLiteral):
        return None
    number = axis.literal_value

    def codegen(context, builder, sig, args):
        kind = sig.args[0]
        strides = arrayobj.make_array(kind)(context, builder, args[0]).strides
        size = itemsize(scalar_type(kind))
        return builder.ashr(builder.extract_value(strides, number), I64(size.bit_length() - 1))

    return types.int64(array, axis), codegen
