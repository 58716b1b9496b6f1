"""python -m tests.emulation [pytest arguments]: copies the repository to build/emulation, builds and tests it there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPY = ROOT / "build" / "emulation"
LEFT_OUT = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "__pycache__", "build")

for room in ("csrc", "fastconv", "tests"):  # what is gone here goes there
    shutil.rmtree(COPY / room, ignore_errors=True)
shutil.copytree(ROOT, COPY, ignore=LEFT_OUT, dirs_exist_ok=True)
shutil.copy2(HERE / "avx512.h", COPY / "csrc")  # setup.py looks there for headers that are newer than objects
if (ROOT / "build/cython").exists():  # the same, and it takes a while
    shutil.copytree(ROOT / "build/cython", COPY / "build/cython", dirs_exist_ok=True)
subprocess.run(
    [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
    cwd=COPY,
    env=os.environ | {"CC": f"{sys.executable} -S {HERE / 'compiler.py'}", "FASTCONV_REQUIRE_EXTENSION": "1"},
    check=True,
)
forced = os.environ | {"FASTCONV_ISA": "avx512"}
question = "import fastconv, sys; sys.exit(fastconv.info()['isa'] != 'avx512')"
if subprocess.run([sys.executable, "-c", question], cwd=COPY, env=forced).returncode:
    sys.exit("this CPU has no AVX2, which the emulated AVX-512 is made of")
sys.exit(subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=COPY, env=forced).returncode)
