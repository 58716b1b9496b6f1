"""The plan of the house, held: who may import whom, one table, names that can be grepped, nothing that must not be."""

import ast
import re
from pathlib import Path

import pytest

from fastconv import dispatch
from fastconv.registry import KERNELS, PACKAGES

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "fastconv"

# room -> the rooms it may import; a room is a module or a package of fastconv. Upwards and sideways arrows are missing.
ALLOWED = {
    "_version": set(),
    "problem": set(),
    "winograd": set(),
    "loading": set(),
    "host": {"loading"},
    "threads": {"host", "loading"},
    "reference": {"problem"},
    "capability": {"loading", "problem", "winograd"},
    "rates": {"host", "loading"},
    "cost": {"capability", "host", "loading", "problem", "rates", "winograd"},
    "_cython": {"problem", "winograd", "threads", "host"},
    "_numba": {"loading", "problem", "winograd", "threads", "host"},
    "_cuda": {"problem", "winograd", "host"},
    "registry": {"capability", "cost", "problem"},
    "settings": {"host"},
    "autotune": {"host", "loading", "threads", "problem", "_version"},
    "warmed": {"host", "loading", "rates", "_version"},
    "dispatch": {"autotune", "host", "loading", "problem", "registry", "settings", "threads", "warmed"},
    "functional": {
        "autotune", "cost", "dispatch", "host", "loading", "problem", "rates", "registry", "settings", "threads",
    },
    "information": {"host", "threads", "registry", "_version"},
    "__init__": {"_version", "functional", "information", "loading", "problem", "settings", "threads"},
}
# Read on use: (room, module, at module level). Plain numbers that live beside the kernels they describe, what the
# extension says of the CPU, and loops of training that have no row.
ON_USE = {
    ("capability", "fastconv._numba", False), ("capability", "fastconv._numba.blocking", False),
    ("capability", "fastconv._cuda", False), ("capability", "fastconv._cuda.sizes", False),
    ("host", "fastconv._cython", False), ("functional", "fastconv._cython.training", False),
    ("__init__", "fastconv.nn", False),
}  # fmt: skip
# Guests use what fastconv exports, and each other's public names.
# nn trains, benchmark races against other libraries (bench/ and the `bench` command share it), interop serves them.
GUESTS = {"nn", "benchmark", "interop", "cli", "__main__"}

HEAVY = {
    "numba", "llvmlite", "torch", "matplotlib", "scipy", "tqdm", "platformdirs", "safetensors", "pandas", "PIL", "onnx",
    "onnxruntime", "openvino", "ncnn", "MNN",
}  # fmt: skip


def room_of(path):
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py").removesuffix(".pyx").removesuffix(".pxd")


def python_files():
    return sorted(p for p in LIBRARY.rglob("*.py") if "__pycache__" not in p.parts)


def imported(path):
    """(dotted names imported from fastconv, top-level names of everything else, both with `at module level` flags)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = (".".join(("fastconv", *path.relative_to(LIBRARY).with_suffix("").parts))).rpartition(".")[0]
    functions = [f for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base]).rstrip(".")
            for alias in node.names:
                yield f"{base}.{alias.name}", top
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "load" and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value, top  # fastconv.loading.load


def cimported(path):
    """The same for a .pyx or .pxd file, by its import and cimport lines."""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*(?:from\s+([\w.]+)\s+c?import\s+(.*)|c?import\s+([\w.]+))", line)
        if match is None:
            continue
        if match.group(3):
            yield match.group(3)
        else:
            for name in match.group(2).strip("( )\\").split(","):
                yield f"{match.group(1)}.{name.strip().split(' ')[0]}".rstrip(".")


def rooms_named(name):
    """The room a dotted name under fastconv leads to; None for the package itself and its public names."""
    parts = name.split(".")
    if parts[0] != "fastconv":
        return None
    if len(parts) == 1:
        return "__init__"
    first = parts[1]
    if (LIBRARY / first).is_dir() or (LIBRARY / f"{first}.py").exists():
        return first
    return "__init__"  # a public name


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_follow_the_map(path):
    room = room_of(path)
    for name, top in imported(path):
        target = rooms_named(name)
        if target is None or target == room:
            continue
        arrow = f"{path.relative_to(ROOT)} imports {name}"
        if room in GUESTS:
            assert not target.startswith("_") or target in ("__init__", "_version"), f"{arrow}: guests stay public"
        elif (room, name, top) in ON_USE:
            continue
        else:
            assert target in ALLOWED[room], f"{arrow}: {room} may import {sorted(ALLOWED[room]) or 'nothing'} only"


@pytest.mark.parametrize(
    "path", sorted([*LIBRARY.rglob("*.pyx"), *LIBRARY.rglob("*.pxd")]), ids=lambda p: str(p.relative_to(LIBRARY))
)
def test_cython_imports_follow_the_map(path):
    for name in cimported(path):
        target = rooms_named(name)
        assert target is None or target == "_cython" or target in ALLOWED["_cython"], f"{path.name} imports {name}"


def test_every_room_is_on_the_map():
    rooms = {room_of(p) for p in python_files()}
    assert rooms <= set(ALLOWED) | GUESTS, rooms - set(ALLOWED) - GUESTS


def test_the_map_has_no_way_back():
    """No cycle: following the arrows always ends."""

    def depth(room, seen):
        assert room not in seen, f"{room} leads back to itself by {seen}"
        return 1 + max((depth(r, (*seen, room)) for r in ALLOWED[room]), default=0)

    assert max(depth(room, ()) for room in ALLOWED) < 10


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_nothing_heavy_at_import(path):
    """Imported on use; the kernels of _numba are themselves imported on use."""
    for name, top in imported(path):
        library = name.split(".")[0]
        if library in ("numba", "llvmlite") and room_of(path) == "_numba" and path.name != "__init__.py":
            continue
        if library in ("numba", "llvmlite") and path == LIBRARY / "_cuda" / "compiler.py":
            continue
        assert not (top and library in HEAVY), f"{path.relative_to(ROOT)} imports {library} at module level"


def test_one_module_knows_the_cuda_compiler():
    """A successor of numba.cuda then takes the place of one file."""
    for path in (LIBRARY / "_cuda").glob("*.py"):
        found = {name.split(".")[0] for name, _ in imported(path)} & {"numba", "llvmlite"}
        assert not found or path.name == "compiler.py", f"{path.name} imports {found}"


def test_every_file_says_its_duty():
    for path in python_files():
        if path.name == "__init__.py" and not path.read_text().strip():
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring and len(docstring.splitlines()[0]) > 10, f"{path.relative_to(ROOT)} has no module docstring"


def test_the_map_in_the_front_door_names_every_room():
    docstring = ast.get_docstring(ast.parse((LIBRARY / "__init__.py").read_text(encoding="utf-8")))
    for room in set(ALLOWED) - {"__init__", "_version", "_cuda", "information", "winograd"}:
        assert re.search(rf"\b{room}\b", docstring), room


# ---------------------------------------------------------------------------------------------------------------
# The table


def test_row_names_are_unique():
    names = [k.name for k in KERNELS]
    assert len(names) == len(set(names))


def test_rows_are_grouped_by_op_and_pass_with_the_reference_last():
    groups = [(k.op, k.pass_) for k in KERNELS]
    changes = [g for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g]
    assert len(changes) == len(set(changes)), "the rows of one op and pass stand together"
    for group in changes:
        last = [k for k in KERNELS if (k.op, k.pass_) == group][-1]
        assert (last.algorithm, last.backend) == ("reference", "numpy")


def module_file(kernel):
    folder = ROOT.joinpath(*PACKAGES[kernel.backend].split("."))
    return folder / (kernel.module + (".pyx" if kernel.backend == "cython" else ".py"))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_row_names_a_function_of_its_module(kernel):
    """One grep finds the row and the code; nothing is registered by a decorator."""
    text = module_file(kernel).read_text(encoding="utf-8")
    assert re.search(rf"^(?:cp?)?def {kernel.name}\(|^{kernel.name} = ", text, re.MULTILINE), module_file(kernel)
    assert kernel.name in (LIBRARY / "registry.py").read_text(encoding="utf-8")


def test_same_file_names_in_each_backend():
    """The tree is the support matrix."""
    modules = {b: {k.module for k in KERNELS if k.backend == b} for b in ("cython", "numba", "cuda")}
    assert modules["numba"] | modules["cuda"] <= modules["cython"]  # not each algorithm is worth two backends


def test_names_of_rows_follow_the_grammar():
    for kernel in KERNELS:
        assert kernel.name == f"{kernel.op}_{kernel.pass_}_{kernel.algorithm}__{kernel.backend}"
        assert kernel.backend in PACKAGES
    assert dispatch.ALGORITHMS and "winograd" in dispatch.ALGORITHMS and "winograd_f4x3" in dispatch.ALGORITHMS


# ---------------------------------------------------------------------------------------------------------------
# C


def c_files():
    return sorted((ROOT / "csrc").rglob("*.[ch]"))


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_micro_kernel_symbols_stand_literally_in_their_folder(isa):
    """`fc_<dtype>_<what>_<tile>__<isa>`, written out where they are defined: X-macros would hide them from grep."""
    text = "".join(p.read_text() for p in (ROOT / "csrc" / isa).glob("*.c"))
    symbols = set(re.findall(r"\bfc_(?:f32|f64)_\w+__\w+", text))
    assert symbols and all(s.endswith(f"__{isa}") for s in symbols), symbols


def test_same_file_names_in_each_isa():
    names = {d.name: {p.name for p in d.glob("*.c")} for d in (ROOT / "csrc").iterdir() if d.is_dir()}
    assert all(found <= names["portable"] for found in names.values()), names


def test_one_header_for_cython():
    """fastconv.h; winograd.h besides, for the transforms that the tests hold against their matrices."""
    for path in LIBRARY.rglob("*.p[yx][xd]"):
        headers = re.findall(r'cdef extern from "([^"]+)"', path.read_text(encoding="utf-8"))
        assert set(headers) <= {"fastconv.h", "Python.h"} | ({"winograd.h"} if path.stem == "winograd" else set()), path


# ---------------------------------------------------------------------------------------------------------------
# What must not be


def test_no_prints_in_the_library():
    for path in python_files():
        if path.name in ("cli.py", "__main__.py", "train.py", "progress.py", "callbacks.py", "models.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{path.relative_to(ROOT)}:{node.lineno}"
    for path in LIBRARY.rglob("*.pyx"):
        assert not re.search(r"^\s*(print|printf)\(", path.read_text(encoding="utf-8"), re.MULTILINE), path
    for path in c_files():
        assert not re.search(r"\b(f?printf|puts)\s*\(", path.read_text()), path


PROBES = re.compile(
    r"os\.environ|os\.getenv|getenv\(|sched_getaffinity|cpu_count|/proc/|/sys/|platform\.(machine|processor)|cpuid"
)


def test_the_host_is_probed_in_host_only():
    for path in python_files():
        if room_of(path) == "host" or path == LIBRARY / "nn" / "data.py":  # the folder of a guest's own data
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not PROBES.search(line.split("#")[0]), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
    for path in c_files():
        if path.name != "dispatch.c":
            assert not re.search(r"getenv|__builtin_cpu|cpuid|getauxval", path.read_text()), path


FORBIDDEN_FLAGS = re.compile(
    r"-march=native|-mtune=native|-ffast-math|-Ofast|-funsafe-math|-fassociative-math|-ffinite-math"
)


def test_no_forbidden_flags():
    for path in (ROOT / "setup.py", ROOT / "pyproject.toml", *c_files(), *LIBRARY.rglob("*.pyx"), *python_files()):
        for line in path.read_text(encoding="utf-8").splitlines():
            if FORBIDDEN_FLAGS.search(line):
                assert "never" in line.lower(), f"{path.relative_to(ROOT)}: {line}"


def test_numba_may_not_assume_there_are_no_nans():
    """fastmath=True would; single flags are named, and nnan and ninf are not among them."""
    for path in (LIBRARY / "_numba").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"fastmath\s*=\s*True|\bnnan\b(?!.*not)|\bninf\b(?!.*not)", text), path
        assert not re.search(r"parallel\s*=\s*True", text), f"{path}: threads are those of fastconv.threads"


def test_nothing_dead_is_kept():
    for path in (*c_files(), *LIBRARY.rglob("*.pyx"), *python_files()):
        text = path.read_text(encoding="utf-8")
        assert "#if 0" not in text, path
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text), path
        assert not re.search(r"owned by the", text), path
        assert room_of(path) in GUESTS or "NotImplementedError" not in text if path.is_relative_to(LIBRARY) else True
    assert not [p for p in ROOT.rglob("old") if p.is_dir() and ".venv" not in p.parts]


def test_no_tolerance_outside_compare():
    """No allclose, approx or the like: the rules and their constants are in compare.py."""
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name in OURS:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"allclose\(|approx\(|assert_almost|[ra]tol=", text.replace(r"allclose\(", "")), path


OURS = (
    "test_kernels.py", "test_adjoint.py", "test_invariance.py", "test_problem.py", "test_dispatch.py", "test_api.py",
    "test_random_problems.py", "test_plans.py", "test_other_ops.py", "test_arrays.py", "test_errors.py",
    "test_torch.py", "test_threads.py", "test_compare.py",
)  # fmt: skip
