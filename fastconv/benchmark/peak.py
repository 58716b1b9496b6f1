"""The multiply-add peak of the CPU, measured: independent chains of vector FMAs in registers, compiled by Numba."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastconv

# Chains in flight: two pipes times a latency of four is eight; twelve still fit beside their operands in 16 registers.
CHAINS = 12
VECTOR_BITS = {"avx512": 512, "avx2": 256}
# Multiply-adds of one chain in one call: about 2 ms, so that waking a second thread does not show.
REPEATS = 1_000_000


@functools.cache
def _chains(bits: int) -> Callable[[int, float], float]:
    """A compiled loop of CHAINS multiply-adds of vectors of `bits`."""
    import numba
    from llvmlite import ir
    from numba import extending, types

    vector = ir.VectorType(ir.FloatType(), bits // 32)

    intrinsic: Any = extending.intrinsic  # its declared type takes the typing context for an argument of the call

    @intrinsic
    def chains(typingctx: Any, repeats: Any, start: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            count, value = args
            lane = ir.Constant(ir.IntType(32), 0)
            spread = builder.insert_element(ir.Constant(vector, ir.Undefined), value, lane)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
            spread = builder.shuffle_vector(spread, spread, zeros)
            name = f"llvm.fma.v{vector.count}f32"
            function = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(vector, [vector] * 3), name
            )
            before = builder.basic_block
            loop = builder.append_basic_block("loop")
            after = builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            index = builder.phi(ir.IntType(64))
            sums = [builder.phi(vector) for _ in range(CHAINS)]
            following = [builder.call(function, [spread, spread, s]) for s in sums]
            more = builder.add(index, ir.Constant(ir.IntType(64), 1))
            index.add_incoming(ir.Constant(ir.IntType(64), 0), before)
            index.add_incoming(more, loop)
            for number, (s, f) in enumerate(zip(sums, following)):
                s.add_incoming(ir.Constant(vector, [ir.Constant(ir.FloatType(), float(number))] * vector.count), before)
                s.add_incoming(f, loop)
            builder.cbranch(builder.icmp_signed("<", more, count), loop, after)
            builder.position_at_end(after)
            total = following[0]
            for f in following[1:]:
                total = builder.fadd(total, f)
            return builder.extract_element(total, lane)

        return types.float32(types.int64, types.float32), codegen

    @numba.njit(nogil=True)
    def run(repeats: int, start: float) -> float:
        return chains(repeats, numba.float32(start))

    run(1, 0.5)
    return run


def vector_bits() -> int:
    """Length of the vectors of the instruction set in use."""
    return VECTOR_BITS.get(fastconv.info()["vectors"], 128)


class Peak:
    """A rival that does nothing but multiply-adds on `threads` threads: `calls`, and `flops` of one call."""

    def __init__(self, threads: int = 1, bits: int | None = None) -> None:
        bits = bits or vector_bits()
        run = _chains(bits)
        self.flops = 2.0 * CHAINS * (bits // 32) * REPEATS * threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        pool = self._pool
        if pool is None:
            self.calls: Callable[[], Any] = lambda: run(REPEATS, 0.5)
        else:
            self.calls = lambda: list(pool.map(run, [REPEATS] * threads, [0.5] * threads))

    def close(self) -> None:
        """End its threads."""
        if self._pool is not None:
            self._pool.shutdown()


def available() -> bool:
    """Whether the peak can be measured here: Numba must be able to compile."""
    return fastconv.info()["numba rows"] == "ready"
