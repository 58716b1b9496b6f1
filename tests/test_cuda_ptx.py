"""CUDA rows through the compiler, without a GPU: PTX for three generations, and machine code that spills no register.

Each row is called on small and large problems with the launch replaced by a compilation of just what would have been
launched. Needs numba-cuda with its compiler (the extra `cuda`); with the assembler ptxas (nvidia-cuda-nvcc) as well,
registers, shared memory and spills are looked at. A process of its own, without the simulator.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fastconv import dispatch, host
from fastconv.problem import ConvProblem, PoolProblem
from fastconv.registry import KERNELS
from tests import rows

numba_cuda = pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
if host.simulated():
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

GENERATIONS = ((7, 5), (8, 0), (9, 0))
ROWS = [k for k in KERNELS if k.backend == "cuda"]

# For each family problems that meet the specialisations of its kernels: by size, aligned to 16 bytes and not.
TEXTS = {
    "naive": ("mb1ic3ih4oc4kh3",),
    "im2col": ("mb1ic16ih8oc16kh3ph1", "mb1ic5ih4oc3kh3"),
    "direct": ("mb1ic3ih8oc16kh3ph1", "mb1ic1ih8oc16kh5sh2ph2"),
    "winograd": ("mb1ic16ih8oc16kh3ph1", "mb1ic5ih6oc3kh3ph1"),
    "depthwise": ("g64mb1ic64ih8oc64kh3ph1", "g64mb1ic64ih8oc64kh5sh2ph2"),
}
# Families whose tiles are chosen by size: the first problem is compiled for each of them.
TILED = ("im2col", "direct", "winograd")
# Bytes of shared memory that any launch may ask for.
MOST_SHARED = 48 << 10


def problems(kernel):
    """(problem, tile or None for the one that is chosen)."""
    from fastconv._cuda import sizes

    for layout in ("NCHW", "NHWC"):
        for dtype in ("float32", "float64"):
            options = {"pass_": kernel.pass_, "dtype": dtype, "layout": layout, "device": "cuda"}
            if kernel.op != "conv2d":
                text = "mb1ic4ih7oh3" if "adaptive" in kernel.op else "mb1ic4ih8kh2sh2"
                found = [PoolProblem.parse(text, kernel.op, **options)]
            else:
                texts = TEXTS[kernel.family] if dtype == "float32" else TEXTS[kernel.family][:1]
                found = [ConvProblem.parse(text, **options) for text in texts]
            for number, problem in enumerate(rows.where_arrays_live(kernel, p) for p in found):
                if kernel.cannot(problem) is None:
                    tiled = kernel.family in TILED and number == 0
                    tensor = "tf32" in kernel.name
                    most = 128 if kernel.pass_ == "backward_weight" or kernel.family == "winograd" else 256
                    able = [tile for tile in sizes.TILES["tf32" if tensor else dtype] if tensor or tile.threads <= most]
                    yield from ((problem, tile) for tile in (able if tiled else (None,)))


class Memory:
    """Stands for an array that a kernel would get."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)


@pytest.fixture
def compiled(monkeypatch):
    """[(kernel, argument types, threads, shared bytes)] of all launches, none of which happens."""
    from numba.cuda.np.numpy_support import from_dtype
    from numba.cuda.typing.typeof import typeof

    from fastconv._cuda import arrays, compiler, launch

    found = {}

    def queue(kernel, grid, threads, of, shared, arguments):
        def kind(argument):
            if isinstance(argument, Memory):
                return compiler.types.Array(from_dtype(argument.dtype), 1, "C")
            return typeof(argument)

        kinds = map(kind, arguments)
        found.setdefault((kernel, compiler.types.void(*kinds)), (threads, shared))

    monkeypatch.setattr(launch, "queue", queue)
    monkeypatch.setattr(launch, "memory", lambda address, count, dtype, owner: Memory(dtype))
    monkeypatch.setattr(arrays, "SIMULATED", True)  # arrays of the host are taken for some of a GPU
    monkeypatch.setattr(arrays, "device_of", lambda address: 0)
    monkeypatch.setattr(host, "cuda_fault", lambda: None)
    monkeypatch.setattr(host, "tensor_fault", lambda: None)
    return found


@contextlib.contextmanager
def generation(capability):
    """Functions that kernels call are compiled for the current GPU, of which there is none."""
    from numba.cuda import dispatcher

    class Device:
        compute_capability = capability

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: Device
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def assembler():
    """ptxas beside the compiler that is used, or on the path."""
    for folder in sys.path:
        found = [*Path(folder).glob("nvidia/cu1[23]/bin/ptxas"), *Path(folder).glob("nvidia/cuda_nvcc/bin/ptxas")]
        if found:
            return str(found[0])
    return shutil.which("ptxas")


def resources(ptx, capability, kernel, folder):
    """(registers, spilled bytes) of the machine code, or None where no assembler takes this PTX."""
    program = assembler()
    if program is None:
        return None
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    most = kernel.targetoptions.get("max_registers")
    limit = [f"-maxrregcount={most}"] if most else []
    done = subprocess.run(
        [program, f"-arch=sm_{capability[0]}{capability[1]}", "-v", *limit, str(source), "-o", str(folder / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Unsupported .version" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    spilled = re.search(r"(\d+) bytes spill stores", done.stderr)
    return int(re.search(r"Used (\d+) registers", done.stderr)[1]), int(spilled[1])


def arrays_of(problem):
    def stored(values, weight=False):
        axes = rows._memory_axes(problem.layout, weight)
        memory = np.ascontiguousarray(values.transpose(axes))
        return memory.transpose(np.argsort(axes))

    if isinstance(problem, PoolProblem):
        x, y = stored(rows.pool_input(problem)), stored(rows.pool_gradient(problem))
        z = stored(np.zeros(y.shape, np.int64)) if "max" in problem.op else None
        return (x, y, z) if problem.pass_ == "forward" else (y, z, x)
    o = rows.operands(problem, "integers")
    x, w, y = stored(o.x), stored(o.w, True), stored(o.y)
    if problem.pass_ == "backward_weight":
        return x, y, w
    return (x, w, None, None, y) if problem.pass_ == "forward" else (y, w, None, None, x)


def first_of_each(compiled):
    """One specialisation of each kernel; the others differ in constants, which tell no generation from another."""
    return list({program.py_func.__name__: (program, signature) for program, signature in reversed(compiled)}.values())


def assemble(compiled, generations, folder):
    """Every launch through the compiler; the newest generation in all specialisations, the others in one of each."""
    from numba import cuda

    assert compiled
    for capability in generations:
        with generation(capability):
            for program, signature in compiled if capability == GENERATIONS[-1] else first_of_each(compiled):
                threads, shared = compiled[program, signature]
                ptx, _ = cuda.compile_ptx(program.py_func, signature, cc=capability)
                name = program.py_func.__name__
                assert f".target sm_{capability[0]}{capability[1]}" in ptx and ".entry" in ptx
                assert not re.search(r"\b(ld|st)\.local", ptx), f"{name}: an array is not kept in registers"
                assert shared <= MOST_SHARED
                used = resources(ptx, capability, program, folder)
                if used is None:
                    continue
                registers, spilled = used
                found = f"{registers} registers, {threads} threads, {shared} bytes of shared memory"
                print(f"{name} sm_{capability[0]}{capability[1]}: {found}")
                assert spilled == 0, f"{name} spills {spilled} bytes on {capability}"
                assert registers * threads <= 65536


@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
def test_every_specialisation_compiles_and_spills_nothing(kernel, compiled, tmp_path, monkeypatch):
    from fastconv._cuda import sizes

    chosen = sizes.best_tile
    for problem, tile in problems(kernel):
        monkeypatch.setattr(sizes, "best_tile", chosen if tile is None else lambda *arguments, tile=tile: tile)
        plan = dispatch.plan_for(problem, kernel)
        need = plan.workspace_nbytes(1)
        plan._run(plan._lowered, *arrays_of(problem), np.empty(need, np.uint8) if need else None, 1)
    # 8.0 brought tensor cores for float32
    assemble(compiled, GENERATIONS[1 if "tf32" in kernel.name else 0 :], tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_training_step_compiles_and_spills_nothing(dtype, compiled, tmp_path, monkeypatch):
    from fastconv._cuda import training

    monkeypatch.setattr(training, "workspace", lambda nbytes, like: np.empty(nbytes, np.uint8))
    x, sums, rate = np.zeros((4, 8), dtype), np.zeros((2, 4)), np.zeros(1, dtype)
    many = np.zeros((2 * training.ROWS_OF_PART, 3), dtype)
    training.relu_backward(x, x, rate)
    training.relu_backward(many, None, many[0])
    for name in ("relu", "sigmoid", "tanh", "softmax"):
        training.activate(name, x, x)
        training.activate_backward(name, x, x)
    training.multiply(x, x, x)
    for name in training._losses_of(dtype):
        training.loss(name, x, np.zeros(4, np.int64) if "sparse" in name else x, x, sums)
    training.sgd(x, x, None, rate, 0.9, True)
    training.rmsprop(x, x, x, None, rate, 0.9, 0.5, 1e-7)
    training.adam(x, x, x, x, rate, 0.9, 0.999, 1e-7)
    assert len({program for program, _ in compiled}) == 1 + 8 + 1 + 4 + 3
    if dtype == "float32":
        for program, _ in compiled:
            name = program.py_func.__name__
            assert not arithmetic_in_float64(program, compiled), f"{name} computes in float64"
    assemble(compiled, GENERATIONS, tmp_path)


def arithmetic_in_float64(program, compiled):
    """Instructions that a literal of Python makes slow; sums in float64, of losses and biases, are meant."""
    from numba import cuda

    signature = next(signature for found, signature in compiled if found is program)
    with generation(GENERATIONS[-1]):
        ptx, _ = cuda.compile_ptx(program.py_func, signature, cc=GENERATIONS[-1])
    return re.findall(r"\b(?:mul|div|fma|sqrt|ex2)[.\w]*\.f64\b.*", ptx)


def test_cuda_core_has_what_records_a_step():
    """No graph is recorded without a driver; the words of compiler.capture are there, and those of device_of."""
    from cuda.bindings import driver
    from cuda.core import Stream
    from numba.cuda.cudadrv.driver import GraphBuilder

    assert driver.cuPointerGetAttribute and driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL == 9
    assert driver.CUresult.CUDA_SUCCESS == 0
    assert all(hasattr(Stream, word) for word in ("from_handle", "create_graph_builder"))
    assert all(hasattr(GraphBuilder, word) for word in ("begin_building", "end_building", "complete"))


@pytest.mark.parametrize("number", [0, 1])
def test_fragments_of_tensor_cores_are_those_of_the_instruction(number, rng):
    """The code of all 32 threads of each warp: what it feeds to mma.m16n8k8 is what the PTX ISA says."""
    from fastconv._cuda import gemm, sizes

    tile = sizes.TILES["tf32"][number]
    side, wide, right = tile.rows, tile.thread_columns, 2 * sizes.DEPTH * tile.row_stride
    a, b = rng.integers(-3, 4, (2, sizes.DEPTH, side)).astype(float)
    s = np.zeros(tile.slices)
    for k in range(sizes.DEPTH):
        s[k * tile.row_stride :][:side], s[right + k * tile.column_stride :][:side] = a[k], b[k]
    code = gemm.multiply_of(tile).py_func
    row, column = (function.py_func for function in gemm.corner_of(tile))
    warps = side // gemm.TENSOR_COLUMNS
    found = np.zeros((side, side))
    for t in range(tile.threads):
        lane, seen = t % 32, []

        def record(c0, c1, c2, c3, *fragments, seen=seen):
            seen.append(fragments)
            return c0, c1, c2, c3

        own = {**code.__globals__, "cuda": types.SimpleNamespace(laneid=lane), "multiply_tensor": record}
        run = types.FunctionType(code.__code__, own, closure=code.__closure__)
        run(s, row(t), right + column(t), np.zeros(4), np.zeros(16), np.zeros(64))
        g, q = lane // 4, lane % 4
        first_row, first_column = t // 32 // warps * 32, t // 32 % warps * 64
        for i, (a0, a1, a2, a3, b0, b1) in enumerate(seen):
            n, m = i // 2, i % 2  # columns 8 n, rows 16 m of the warp
            rows_, columns = first_row + 16 * m + g, first_column + 8 * n + g
            assert (a0, a1, a2, a3) == (a[q, rows_], a[q, rows_ + 8], a[q + 4, rows_], a[q + 4, rows_ + 8])
            assert (b0, b1) == (b[q, columns], b[q + 4, columns])
        for r in range(4):
            for c in range(wide):
                found[row(t) + 8 * r, column(t) + c // 2 * 8 + c % 2] += 1
    assert (found == 1).all(), "each result belongs to one thread"
