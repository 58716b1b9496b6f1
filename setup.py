"""The ISA -> compiler-flags table and the extension; the only place with compiler flags.

Everything compiled is ONE shared object, fastconv/_cython/core.*.so: the generated C of every fastconv/_cython/*.pyx
and all of csrc/, each file compiled once with the flags of its folder. So there is one thread pool and one ISA table,
Cython modules call the C core directly, and nothing depends on symbols shared between libraries. The other modules
of the package are loaded from that file by the finder in fastconv/_cython/__init__.py (PEP 489: many modules in one
library).

Environment: FASTCONV_REQUIRE_EXTENSION=1 makes a failed build of the extension fatal; FASTCONV_DEBUG_BUILD=1 builds
with debug symbols and Cython's bounds checks.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).parent
DEBUG = os.environ.get("FASTCONV_DEBUG_BUILD") == "1"
REQUIRED = os.environ.get("FASTCONV_REQUIRE_EXTENSION") == "1"

MACHINES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
MACHINE = MACHINES.get(platform.machine()) if sys.maxsize > 2**32 else None

#: Folder of csrc -> flags, for each machine. Never -march=native: wheels travel. Never -ffast-math: NaN stays NaN.
ISA_FLAGS: dict[str | None, dict[str, list[str]]] = {
    "x86_64": {
        "portable": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": [
            *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx512cd", "-mavx2", "-mfma"),
            "-mprefer-vector-width=512",
        ],
    },
    "arm64": {"portable": [], "neon": []},
    None: {"portable": []},
}
CORE_FLAGS = [
    *(["-O2", "-g"] if DEBUG else ["-O3", "-g0"]),  # gcc 12 fails on csrc/portable/pooling.c with -O1
    *("-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"),
]
CYTHON_FLAGS = [*(["-O1", "-g"] if DEBUG else ["-O2", "-g0"]), "-Wno-unused-function"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "embedsignature": True,
    "freethreading_compatible": True,
}


class BuildExtension(build_ext):
    """Compiles each source with the flags of its folder, in parallel; objects that are up to date are kept."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as error:
            self._report(error)

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except (BaseError, CCompilerError, OSError) as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        message = (
            f"fastconv: the compiled kernels were not built ({error}); install a C compiler (gcc or clang) and install "
            "again to have them: until then the Numba and NumPy kernels do the work."
        )
        if REQUIRED:
            raise SystemExit(message)
        sys.stderr.write(message + "\n")

    def _build(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        temp = Path(self.build_temp) / ("debug" if DEBUG else "release")
        headers = [ROOT / "setup.py", *ROOT.glob("csrc/**/*.h")]
        newest_header = max(path.stat().st_mtime for path in headers)
        include_dirs = ["csrc", numpy.get_include(), *self.compiler.include_dirs]

        def compile_one(source: str) -> str:
            path = Path(source)
            is_core = path.parts[0] == "csrc"
            flags = CORE_FLAGS + ISA_FLAGS[MACHINE].get(path.parts[1], []) if is_core else CYTHON_FLAGS
            built = Path(self.compiler.object_filenames([source], output_dir=str(temp))[0])
            if self.force or not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime, newest_header):
                self.compiler.compile(
                    [source],
                    output_dir=str(temp),
                    macros=ext.define_macros,
                    include_dirs=include_dirs,
                    extra_postargs=[*flags, "-pthread"],
                )
            return str(built)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # The slow files first: each ISA folder has one big unrolled template per file.
            order = sorted(ext.sources, key=lambda source: "avx512" not in source)
            objects = sorted(pool.map(compile_one, order))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            str(target),
            library_dirs=ext.library_dirs,
            libraries=self.get_libraries(ext),
            extra_postargs=["-pthread"],
            build_temp=str(temp),
        )


def core_extension() -> Extension:
    """The one extension; modules and C files are found by folder, so a new file needs no edit here."""
    pyx = [path.relative_to(ROOT) for path in sorted(ROOT.glob("fastconv/_cython/*.pyx"))]
    modules = [Extension(f"fastconv._cython.{path.stem}", [str(path)]) for path in pyx]
    cythonized = cythonize(modules, build_dir="build/cython", compiler_directives=DIRECTIVES, quiet=True)
    core = [path.relative_to(ROOT) for path in sorted(ROOT.glob("csrc/**/*.c"))]
    wanted = [str(path) for path in core if len(path.parts) == 2 or path.parts[1] in ISA_FLAGS[MACHINE]]
    return Extension(
        "fastconv._cython.core",
        sources=[source for module in cythonized for source in module.sources] + wanted,
        depends=[str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h")],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        optional=not REQUIRED,
    )


os.chdir(ROOT)
setup(ext_modules=[core_extension()], cmdclass={"build_ext": BuildExtension})
