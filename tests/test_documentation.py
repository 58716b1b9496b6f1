"""The Python of the README and of the docstrings runs as it stands, and what the README names exists."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import fastconv
from fastconv.registry import KERNELS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# The first block shows one call on arrays of the reader's own.
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_runs(number, capsys):
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})
    assert capsys.readouterr().out  # both blocks print what they made


def test_there_are_two_blocks():
    assert len(BLOCKS) == 2


def test_named_functions_exist():
    start, end = README.index("Also `conv1d`"), README.index("`help(fastconv)` lists")
    names = [name for name in re.findall(r"`(\w+)`", README[start:end]) if name.isidentifier()]
    assert len(names) > 8
    assert [name for name in names if not hasattr(fastconv, name)] == []


def test_map_names_files_that_exist():
    """Each first word of the map is a file or a folder."""
    tree = README[README.index("## Map of the rooms") :].split("```")[1]
    folder = Path(__file__).parents[1]
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = folder / "fastconv" / name if line.startswith("  ") else folder / name
        assert path.exists(), name


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_measured_kernels_are_rows(isa):
    table = README[README.index(f"<!-- speed_{isa}:begin -->") : README.index(f"<!-- speed_{isa}:end -->")]
    names = {f"conv2d_forward_{a}__{b}" for a, b in re.findall(r"\| (\w+), (\w+) \|", table)}
    assert names and names <= {kernel.name for kernel in KERNELS}


@pytest.mark.parametrize(
    "module",
    ["functional.convolution", "functional.planning", "functional.pooling", "nn.data", "nn.models", "nn.networks",
     "problem", "settings"],
)
def test_examples_of_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"fastconv.{module}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed
