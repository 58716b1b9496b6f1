"""Winograd's transforms, moves and products as functions found by address, and calls of them.

A driver is compiled once for all tiles: it calls by the address that `addresses` gives, compiled on first use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np import arrayobj

from fastconv import winograd
from fastconv._numba import vector
from fastconv._numba.compile import CONTRACT, Kernel
from fastconv._numba.emit import Emitter, Whole, plain
from fastconv._numba.vector import I64, address, intrinsic, scalar_type
from fastconv._numba.winograd_emit import POINTER
from fastconv._numba.winograd_moves import ADD, FINISH, GATHER, SCATTER, add, finish, gather, scatter
from fastconv._numba.winograd_products import OUTER, PRODUCTS, outer, products
from fastconv._numba.winograd_tile import (
    ADDITION,
    OUTPUT,
    SPREAD,
    TAPS,
    input_adjoint,
    output,
    spread,
    weights_adjoint,
)

TILES = tuple(winograd.TILES)

# What each function takes: pointers, numbers of the kernel's type, and int64 for all else. Those with a result say so.
POINTERS = {"source", "target", "bias", "residual", "weights"}
NUMBERS = {"low", "high"}
ARGUMENTS = {
    "weights": SPREAD, "input": SPREAD, "output_adjoint": SPREAD, "output": OUTPUT, "weights_adjoint": TAPS,
    "input_adjoint": ADDITION,
    "gather": GATHER, "scatter": SCATTER, "finish": FINISH, "add": ADD, "products": PRODUCTS, "outer": OUTER,
}  # fmt: skip
WITH_RESULT = {"output", "weights_adjoint", "input_adjoint"}
# Those that are the same for every tile.
MOVES = {
    "gather": gather, "scatter": scatter, "finish": finish, "add": add, "products": products, "outer": outer,
}  # fmt: skip
# What is compiled together: what each pass needs of a tile, and of the moves.
SETS = {
    "forward": ("weights", "input", "output"),
    "weight": ("input", "output_adjoint", "weights_adjoint"),
    "adjoint": ("weights", "output_adjoint", "input_adjoint"),
    "moves": ("gather", "scatter", "finish", "products"),
    "weight_moves": ("gather", "scatter", "outer"),
    "adjoint_moves": ("gather", "add", "products"),
}


def _type_of(what: str, scalar: ir.Type) -> ir.FunctionType:
    kinds = [POINTER if n in POINTERS else scalar if n in NUMBERS else I64 for n in ARGUMENTS[what].split()]
    return ir.FunctionType(I64 if what in WITH_RESULT else ir.VoidType(), kinds)


def _function(module: ir.Module, scalar: ir.Type, tile: str, what: str) -> ir.Function:
    names = ARGUMENTS[what].split()
    function = ir.Function(module, _type_of(what, scalar), f"fc_f{8 * vector.itemsize(scalar)}_{what}_{tile}__numba")
    vector.stand_alone(function)
    at = ir.IRBuilder(function.append_basic_block("entry"))
    body = function.append_basic_block("body")
    at.position_at_end(body)
    given = dict(zip(names, function.args, strict=True))
    result: ir.Value | None = None
    if what in MOVES:
        MOVES[what](at, scalar, given)
    elif what == "output":
        result = output(at, scalar, tile, given)
    elif what in WITH_RESULT:
        result = {"weights_adjoint": weights_adjoint, "input_adjoint": input_adjoint}[what](at, scalar, tile, given)
    else:
        spread(at, scalar, tile, what, given)
    if result is None:
        at.ret_void()
    else:
        at.ret(result)
    with at.goto_entry_block():
        at.branch(body)
    return function


@intrinsic(prefer_literal=True)
def _keep_addresses(typingctx, like, table, tile, which):
    """table[i] = the address of function i of a set; `tile` and `which` are their numbers, `like` is of the type."""
    if not all(isinstance(n, types.IntegerLiteral) for n in (tile, which)):
        return None
    name, kinds = TILES[tile.literal_value], list(SETS.values())[which.literal_value]
    signature = types.void(like, table, types.int64, types.int64)

    def codegen(context, builder, sig, args):
        for i, what in enumerate(kinds):
            function = _function(builder.module, scalar_type(sig.args[0]), name, what)
            place = address(context, builder, sig.args[1], args[1], I64(i))
            builder.store(builder.ptrtoint(function, I64), place)
        return context.get_dummy_value()

    return signature, codegen


def _table(tile: int, which: int) -> Kernel:
    def addresses(like, table):
        _keep_addresses(like, table, tile, which)

    addresses.__name__ = f"winograd_{TILES[tile]}_{list(SETS)[which]}"  # in the notice of a compilation
    return Kernel(addresses, "in1 outints1", {"fastmath": CONTRACT})


_KEPT: list[Kernel] = []  # their code


@lru_cache(maxsize=128)
def addresses(tile: str, dtype: str, which: str) -> dict[str, int]:
    """Addresses of the functions of a set, compiled on first use."""
    kernel = _table(TILES.index(tile), list(SETS).index(which))
    table = np.zeros(len(SETS[which]), np.int64)
    kernel[dtype](np.zeros(0, dtype), table)
    _KEPT.append(kernel)
    return dict(zip(SETS[which], map(int, table), strict=True))


def functions(tile: str, dtype: str, which: str, moves: str = "moves") -> dict[str, int]:
    """Addresses of the functions of a set and of the moves, which are the same for every tile."""
    return addresses(tile, dtype, which) | addresses(TILES[0], dtype, moves)


def _call(what: str, *kinds: types.Type) -> Any:
    """Typing and code of a call: the address, then the arguments, each array with an offset."""
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        given = list(zip(sig.args[1:], args[1:]))
        scalar = next(scalar_type(kind) for kind, _ in given if isinstance(kind, types.Array))
        values = []
        for name in ARGUMENTS[what].split():
            kind, value = given.pop(0)
            if name in POINTERS:
                some = builder.icmp_signed(">", arrayobj.make_array(kind)(context, builder, value).nitems, I64(0))
                value = builder.bitcast(address(context, builder, kind, value, given.pop(0)[1]), POINTER)
                value = builder.select(some, value, ir.Constant(POINTER, None)) if name == "residual" else value
            values.append(value)
        pointer = builder.inttoptr(args[0], _type_of(what, scalar).as_pointer())
        outcome = builder.call(pointer, values)
        return outcome if what in WITH_RESULT else context.get_dummy_value()

    return (types.int64 if what in WITH_RESULT else types.void)(types.int64, *kinds), codegen


def emit_call(e: Emitter, what: str, function: Whole, **values: ir.Value | Whole | int | float | None) -> ir.Value:
    """The call of a function by address, in emitted code; a residual may be None."""
    arguments = []
    for name in ARGUMENTS[what].split():
        value = values.pop(name)
        if name in POINTERS:
            value = ir.Constant(POINTER, None) if value is None else e.at.bitcast(value, POINTER)
        elif name in NUMBERS:
            value = ir.Constant(e.scalar, value) if isinstance(value, float) else value
        else:
            value = plain(value)
        arguments.append(value)
    if values:
        raise TypeError(f"{what} takes no {', '.join(values)}")
    pointer = e.at.inttoptr(function.value, _type_of(what, e.scalar).as_pointer())
    return e.at.call(pointer, arguments)


@intrinsic
def call_taps(typingctx, function, source, s, point, count, target, t):
    """weights_adjoint by address."""
    return _call("weights_adjoint", source, s, point, count, target, t)


@intrinsic
def call_addition(typingctx, function, source, s, point, count, target, t, row, column):
    """input_adjoint by address."""
    return _call("input_adjoint", source, s, point, count, target, t, row, column)


@intrinsic
def call_scatter(typingctx, function, source, s, pixels, channels, residual, r, low, high, target, t, stride):
    """scatter by address, of an empty residual without it."""
    return _call("scatter", source, s, pixels, channels, residual, r, source.dtype, source.dtype, target, t, stride)


@intrinsic
def call_add(typingctx, function, source, s, count, target, t):
    """add by address."""
    return _call("add", source, s, count, target, t)


@intrinsic
def call_products(
    typingctx, function, source, s, row, point, weights, w, weights_point, target, t, target_point, points, channels,
    tiles, depth, terms
):  # fmt: skip
    """products by address."""
    return _call(
        "products", source, s, row, point, weights, w, weights_point, target, t, target_point, points, channels, tiles,
        depth, terms,
    )  # fmt: skip


@intrinsic
def call_outer(
    typingctx, function, source, s, row, weights, w, weights_row, target, t, target_row, rows, columns, depth, terms,
    accumulate
):  # fmt: skip
    """outer by address."""
    return _call(
        "outer", source, s, row, weights, w, weights_row, target, t, target_row, rows, columns, depth, terms, accumulate
    )
