"""Words for writing a kernel's inner loops as LLVM IR: variables, loops, conditions, vectors of which some lanes count.

Variables are places on the stack that LLVM turns into registers, so that code reads in the order in which it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastconv._numba import vector
from fastconv._numba.vector import BIT, I32, I64

# Without AVX-512 a store with a mask takes some 20 cycles (Zen 3): bench/results/tried.md.
SLOW_MASKS = vector.VECTOR_BYTES < 64


class Whole:
    """An int64 while code is generated: arithmetic and comparisons emit instructions, which read as they would run.

    // and % round towards 0, as the processor does: of negative numbers unlike Python's.
    """

    def __init__(self, at: ir.IRBuilder, value: ir.Value) -> None:
        self.at = at
        self.value = value

    def __add__(self, other: Whole | int) -> Whole:
        return Whole(self.at, self.at.add(self.value, plain(other)))

    def __sub__(self, other: Whole | int) -> Whole:
        return Whole(self.at, self.at.sub(self.value, plain(other)))

    def __rsub__(self, other: int) -> Whole:
        return Whole(self.at, self.at.sub(I64(other), self.value))

    def __mul__(self, other: Whole | int) -> Whole:
        return Whole(self.at, self.at.mul(self.value, plain(other)))

    def __floordiv__(self, other: Whole | int) -> Whole:
        return Whole(self.at, self.at.sdiv(self.value, plain(other)))

    def __mod__(self, other: Whole | int) -> Whole:
        return Whole(self.at, self.at.srem(self.value, plain(other)))

    def __lt__(self, other: Whole | int) -> ir.Value:
        return self.at.icmp_signed("<", self.value, plain(other))

    def __le__(self, other: Whole | int) -> ir.Value:
        return self.at.icmp_signed("<=", self.value, plain(other))

    def __gt__(self, other: Whole | int) -> ir.Value:
        return self.at.icmp_signed(">", self.value, plain(other))

    def __ge__(self, other: Whole | int) -> ir.Value:
        return self.at.icmp_signed(">=", self.value, plain(other))

    def equals(self, other: Whole | int) -> ir.Value:
        return self.at.icmp_signed("==", self.value, plain(other))

    def least(self, other: Whole | int) -> Whole:
        return self.where(self < other, other)

    def most(self, other: Whole | int) -> Whole:
        return self.where(self > other, other)

    def where(self, condition: ir.Value, otherwise: Whole | int) -> Whole:
        return Whole(self.at, self.at.select(condition, self.value, plain(otherwise)))


def plain(value: Whole | ir.Value | int) -> ir.Value:
    return value.value if isinstance(value, Whole) else I64(value) if isinstance(value, int) else value


class Fields:
    """The fields of a record of int64, as `vector.numbers` gives it, each a Whole."""

    def __init__(self, at: ir.IRBuilder, kind: types.Record, pointer: ir.Value) -> None:
        self._at, self._kind = at, kind
        self._pointer = at.bitcast(pointer, I64.as_pointer())

    def __getattr__(self, name: str) -> Whole:
        place = self._at.gep(self._pointer, [I64(self._kind.offset(name) // 8)])
        return Whole(self._at, self._at.load(place))


class Emitter:
    """Emits code for vectors (or elements) of one type at the end of one function."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type) -> None:
        self.at = builder
        self.scalar = scalar
        self.vector = vector.vector_type(scalar)
        self.lanes: int = self.vector.count
        self.iota = ir.Constant(ir.VectorType(I32, self.lanes), [I32(n) for n in range(self.lanes)])

    # ---- control

    def loop(self, count: ir.Value) -> Any:
        """A context whose `.index` runs from 0 to `count`."""
        return cgutils.for_range(self.at, count, intp=I64)

    @contextmanager
    def each(self, count: Whole | int, step: int = 1) -> Iterator[Whole]:
        """for i in range(0, count, step)."""
        with cgutils.for_range_slice(self.at, I64(0), plain(count), I64(step), intp=I64) as (index, _):
            yield Whole(self.at, index)

    @contextmanager
    def during(self, condition: Callable[[], ir.Value]) -> Iterator[None]:
        """Again and again, while the condition (emitted here) holds."""
        test, body, end = (self.at.append_basic_block(name) for name in ("while", "while.body", "while.end"))
        self.at.branch(test)
        self.at.position_at_end(test)
        self.at.cbranch(condition(), body, end)
        self.at.position_at_end(body)
        yield
        self.at.branch(test)
        self.at.position_at_end(end)

    def once(self) -> None:
        """Keeps the loop around from being unrolled: its registers would no longer suffice."""
        kind = ir.FunctionType(ir.VoidType(), [])
        call = self.at.asm(kind, "", "", [], True)
        call.attributes.add("convergent")

    def when(self, condition: ir.Value) -> AbstractContextManager[Any]:
        return self.at.if_then(condition)

    def either(self, condition: ir.Value) -> Any:
        return self.at.if_else(condition)

    # ---- integers

    def add(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.at.add(a, I64(b) if isinstance(b, int) else b)

    def sub(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.at.sub(a, I64(b) if isinstance(b, int) else b)

    def mul(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.at.mul(a, I64(b) if isinstance(b, int) else b)

    def quotient(self, a: ir.Value, power: int) -> ir.Value:
        """floor(a / power) of a power of two."""
        return self.at.ashr(a, I64(power.bit_length() - 1))

    def less(self, a: ir.Value | int, b: ir.Value | int) -> ir.Value:
        a, b = (I64(v) if isinstance(v, int) else v for v in (a, b))
        return self.at.icmp_signed("<", a, b)

    def least(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        b = I64(b) if isinstance(b, int) else b
        return self.at.select(self.less(a, b), a, b)

    def most(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        b = I64(b) if isinstance(b, int) else b
        return self.at.select(self.less(a, b), b, a)

    def both(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.at.and_(a, b)

    def inside(self, first: ir.Value, value: int, end: ir.Value) -> ir.Value:
        """first <= value < end."""
        return self.at.and_(self.less(first, value + 1), self.less(value, end))

    def whole(self, value: ir.Value | int) -> Whole:
        return Whole(self.at, plain(value))

    # ---- places

    def place(self, pointer: ir.Value, offset: Whole | ir.Value | int) -> ir.Value:
        return self.at.gep(pointer, [plain(offset)])

    def number(self, pointer: ir.Value, offset: Whole | ir.Value | int) -> ir.Value:
        return self.at.load(self.place(pointer, offset))

    def distance(self, a: ir.Value, b: ir.Value) -> Whole:
        """Elements from pointer a to pointer b."""
        first, second = (self.whole(self.at.ptrtoint(pointer, I64)) for pointer in (a, b))
        return (second - first) // vector.itemsize(self.scalar)

    def variable(self, value: ir.Value) -> ir.Value:
        slot = cgutils.alloca_once(self.at, value.type)
        self.at.store(value, slot)
        return slot

    def get(self, slot: ir.Value) -> ir.Value:
        return self.at.load(slot)

    def set(self, slot: ir.Value, value: ir.Value) -> None:
        self.at.store(value, slot)

    # ---- vectors

    def zeros(self) -> ir.Constant:
        return ir.Constant(self.vector, None)

    def splat(self, scalar: ir.Value) -> ir.Value:
        return vector.broadcast(self.at, scalar, self.vector)

    def lanes_between(self, first: ir.Value | int, end: ir.Value | int) -> ir.Value:
        """Which lanes l have first <= l < end."""
        ends = [self.most(self.least(v, self.lanes), 0) if isinstance(v, ir.Value) else I64(v) for v in (first, end)]
        low, high = (vector.broadcast(self.at, self.at.trunc(v, I32), self.iota.type) for v in ends)
        below = self.at.icmp_signed("<", self.iota, high)
        if isinstance(first, int) and first == 0:
            return below
        return self.at.and_(self.at.icmp_signed(">=", self.iota, low), below)

    def load(
        self, pointer: ir.Value, offset: Whole | ir.Value | int = 0, only: ir.Value | None = None, kind: Any = None
    ) -> ir.Value:
        """A vector from `offset` elements after `pointer` on; of the lanes `only`, the others 0 and not read."""
        place, kind = self.place(pointer, offset), kind or self.vector
        if only is None:
            return vector.load(self.at, place, kind)
        kinds = [kind.as_pointer(), I32, only.type, kind]
        function = self._function(f"llvm.masked.load.{vector.suffix(kind)}.p0", kind, kinds)
        arguments = [self.at.bitcast(place, kinds[0]), I32(vector.itemsize(kind)), only, ir.Constant(kind, None)]
        return self.at.call(function, arguments)

    def store(self, value: ir.Value, pointer: ir.Value, offset: Whole | ir.Value | int = 0) -> None:
        vector.store(self.at, value, self.place(pointer, offset))

    def store_mask(self, only: ir.Value, pointer: ir.Value) -> None:
        """A set of lanes to a vector's room."""
        kind = ir.VectorType(ir.IntType(8 * vector.itemsize(self.scalar)), self.lanes)
        vector.store(self.at, self.at.bitcast(self.at.sext(only, kind), self.vector), pointer)

    def load_mask(self, pointer: ir.Value) -> ir.Value:
        kind = ir.VectorType(ir.IntType(8 * vector.itemsize(self.scalar)), self.lanes)
        found = self.at.bitcast(vector.load(self.at, pointer, self.vector), kind)
        return self.at.icmp_signed("<", found, ir.Constant(kind, None))

    def store_first(self, value: ir.Value, pointer: ir.Value, count: ir.Value, only: ir.Value) -> None:
        """The first `count` lanes, which are `only`, of a vector of any type.

        Without AVX-512, stores with a mask take long: half a vector or more is stored as two halves that overlap.
        """
        lanes = value.type.count
        with self.either(self.less(count, lanes)) as (part, whole):
            with part:
                if SLOW_MASKS:
                    with self.either(self.less(count, lanes // 2)) as (few, many):
                        with few:
                            self._store_masked(value, pointer, only)
                        with many:
                            slot = self.variable(value)
                            self._copy_half(slot, pointer, I64(0))
                            self._copy_half(slot, pointer, self.sub(count, lanes // 2))
                else:
                    self._store_masked(value, pointer, only)
            with whole:
                vector.store(self.at, value, pointer)

    def _store_masked(self, value: ir.Value, pointer: ir.Value, only: ir.Value) -> None:
        kinds = [value.type, value.type.as_pointer(), I32, only.type]
        function = self._function(f"llvm.masked.store.{vector.suffix(value.type)}.p0", ir.VoidType(), kinds)
        align = I32(vector.itemsize(value.type))
        self.at.call(function, [value, self.at.bitcast(pointer, kinds[1]), align, only])

    def _copy_half(self, slot: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
        """Half of the lanes of a variable, from `offset` on, to where they belong after `pointer`."""
        kind = slot.type.pointee
        elements = self.at.bitcast(slot, kind.element.as_pointer())
        half = vector.load(self.at, self.place(elements, offset), ir.VectorType(kind.element, kind.count // 2))
        vector.store(self.at, half, self.place(pointer, offset))

    def multiply_add(self, slot: ir.Value, a: ir.Value, b: ir.Value) -> None:
        """slot += a * b."""
        self.set(slot, self.at.call(vector.multiply_add(self.at.module, self.vector), [a, b, self.get(slot)]))

    def clamp(self, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
        """Within [low, high]; NaN stays."""
        return vector.clamp(self.at, value, low, high)

    def shuffle(self, a: ir.Value, b: ir.Value, order: Sequence[int]) -> ir.Value:
        """Lanes of a and b, those of b counted on from a's."""
        indices = ir.Constant(ir.VectorType(I32, len(order)), [I32(n) for n in order])
        return self.at.shuffle_vector(a, b, indices)

    def only(self, value: ir.Value, lanes: ir.Value) -> ir.Value:
        """`value` in those lanes, 0 in the others."""
        return self.at.select(lanes, value, self.zeros())

    # ---- runs of any length

    def copy(self, source: ir.Value, target: ir.Value, count: Whole) -> None:
        cgutils.raw_memcpy(self.at, target, source, count.value, vector.itemsize(self.scalar))

    def zero(self, target: ir.Value, count: Whole) -> None:
        cgutils.memset(self.at, target, (count * vector.itemsize(self.scalar)).value, 0)

    # ---- blocks of rows of up to TILE_VECTORS vectors

    def copy_block(
        self, source: ir.Value, source_step: Whole | int, target: ir.Value, target_step: Whole | int,
        rows: Whole | int, width: Whole | int,
    ) -> None:  # fmt: skip
        """target[r * target_step + i] = source[r * source_step + i] for r < rows, i < width."""
        steps, sizes = (plain(source_step), plain(target_step)), (plain(rows), plain(width))
        vector.copy_block(self.at, source, steps[0], target, steps[1], *sizes)

    def zero_block(self, target: ir.Value, step: Whole | int, rows: Whole | int, width: Whole | int) -> None:
        vector.zero_block(self.at, target, plain(step), plain(rows), plain(width))

    def _function(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        return cgutils.get_or_insert_function(self.at.module, ir.FunctionType(result, arguments), name)


TRUE = BIT(1)
