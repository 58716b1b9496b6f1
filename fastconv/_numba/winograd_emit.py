"""Words of the emitted Winograd functions: loops, addresses, endings."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from fastconv._numba.vector import I64, load

POINTER = ir.IntType(8).as_pointer()


def loop(at: ir.IRBuilder, stop: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
    """for i in range(0, stop, step): body(i)."""
    before = at.block
    test, inside, after = (at.function.append_basic_block(name) for name in ("test", "body", "after"))
    at.branch(test)
    at.position_at_end(test)
    i = at.phi(I64)
    i.add_incoming(I64(0), before)
    at.cbranch(at.icmp_signed("<", i, stop), inside, after)
    at.position_at_end(inside)
    body(i)
    i.add_incoming(at.add(i, I64(step)), at.block)
    at.branch(test)
    at.position_at_end(after)


def opaque(at: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    """The pointer, of unknown origin: else all addresses of a tile become invariants of the loop around it, far more of
    them than there are registers."""
    return at.asm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", [pointer], False)


def places(at: ir.IRBuilder, start: ir.Value, step: ir.Value, count: int) -> list[ir.Value]:
    """start + i * step for i < count, from a third as many registers and scaled addresses."""
    found = []
    for i in range(count):
        if i % 3 == 0:
            base = start if i == 0 else opaque(at, at.gep(start, [at.mul(I64(i), step)]))
        found.append(at.gep(base, [at.mul(I64(i % 3), step)]) if i % 3 else base)
    return found


def plus_residual(
    at: ir.IRBuilder, wanted: ir.Value, values: list[ir.Value], residual: ir.Value, place: ir.Value, step: ir.Value,
    vectors: ir.VectorType,
) -> list[ir.Value]:  # fmt: skip
    """values[s] + residual[place + s * step] if wanted."""
    before = at.block
    add, end = (at.function.append_basic_block(name) for name in ("residual", "added"))
    at.cbranch(wanted, add, end)
    at.position_at_end(add)
    terms = places(at, at.gep(residual, [place]), step, len(values))
    sums = [at.fadd(value, load(at, at_place, vectors)) for value, at_place in zip(values, terms, strict=True)]
    at.branch(end)
    at.position_at_end(end)
    merged = []
    for value, total in zip(values, sums, strict=True):
        phi = at.phi(vectors)
        phi.add_incoming(value, before)
        phi.add_incoming(total, add)
        merged.append(phi)
    return merged
