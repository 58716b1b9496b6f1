"""warmup(...) and the `fastconv warmup` command: what is compiled is noted, and takes part in later choices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("numba")

import fastconv
from fastconv import dispatch, warmed
from fastconv._numba import source_hash
from fastconv.cli import main
from fastconv.problem import ConvProblem, PoolProblem
from fastconv.registry import KERNELS
from tests.rows import needs_cython

TEXT = "mb1ic4ih6oc4kh3"
IM2COL = "conv2d_forward_im2col__numba"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder of its own, seen as by a new process."""
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path))
    monkeypatch.setattr(warmed, "_ready", None)
    dispatch.clear_cache()
    yield tmp_path
    dispatch.clear_cache()


def chosen_in_a_new_process(folder, text=TEXT):
    """The default choice where Numba's rows are predicted to take no time."""
    code = f"""
    from fastconv import cost, dispatch
    real = cost.seconds
    cost.seconds = lambda name, *rest: 0.0 if name.endswith("__numba") else real(name, *rest)
    from fastconv.problem import ConvProblem
    print(dispatch.plan(ConvProblem.parse({text!r})).kernel.name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "FASTCONV_CACHE": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_cython
def test_a_warmed_kernel_takes_part_in_the_choice_of_the_next_process(folder):
    assert chosen_in_a_new_process(folder).endswith("__cython")
    problem = ConvProblem.parse(TEXT)
    before = dispatch.plan(problem).kernel.name
    names = fastconv.warmup([problem], layouts=["NCHW"])
    assert len(names) == 1 and names[0].endswith("__numba")
    dispatch.clear_cache()
    assert dispatch.plan(problem).kernel.name == before  # never within a process
    assert chosen_in_a_new_process(folder) == names[0]
    assert chosen_in_a_new_process(folder, "mb1ic4ih6oc4kh2").endswith("__cython")  # another filter is not compiled


@needs_cython
@pytest.mark.parametrize("change", ["stamp", "folder", "damage"])
def test_a_note_that_does_not_fit_is_ignored(folder, change):
    fastconv.warmup([ConvProblem.parse(TEXT)])
    assert not chosen_in_a_new_process(folder).endswith("__cython")
    note = folder / "warmed.json"
    if change == "damage":
        note.write_text(note.read_text()[:-20])
    else:
        note.write_text(json.dumps({**json.loads(note.read_text()), change: "of another machine"}))
    assert chosen_in_a_new_process(folder).endswith("__cython")


def test_texts_mean_all_passes_and_problems_one(folder, monkeypatch):
    seen = []
    names = fastconv.warmup([TEXT], layouts=["NHWC"], progress=lambda *told: seen.append(told))
    passes = [kernel.pass_ for name in names for kernel in KERNELS if kernel.name == name]
    assert passes == ["forward", "backward_input", "backward_weight"]
    assert [(number, count, name) for number, count, name, _ in seen] == [(i, 3, n) for i, n in enumerate(names, 1)]
    pools = fastconv.warmup(["max_pool2d mb1ic4ih6kh2sh2"], layouts=["NCHW"])
    assert {name.split("2d_")[1].split("_")[0] for name in pools} == {"forward", "backward"}
    one = fastconv.warmup([PoolProblem.parse("mb1ic4ih6kh2sh2", "avg_pool2d", pass_="backward")])
    assert len(one) == 1 and one[0].startswith("avg_pool2d_backward_")
    monkeypatch.setattr(warmed, "_ready", None)  # as the next process would see it
    problem = ConvProblem.parse(TEXT, layout="NHWC")
    assert any(warmed.holds(name, problem, source_hash) for name in names)
    assert not warmed.holds(IM2COL, ConvProblem.parse(TEXT, dtype="float64"), source_hash)


def test_every_kernel_has_a_sample():
    from fastconv.functional.warming import _everything

    sampled = {kernel.name for kernel, _ in _everything(["NCHW", "NHWC"], ["float32"])}
    assert sampled == {kernel.name for kernel in KERNELS if kernel.backend == "numba"}


def test_wrong_problems_say_so(folder):
    with pytest.raises(ValueError, match="cannot read problem 'foo'"):
        fastconv.warmup(["foo"])
    with pytest.raises(ValueError, match="no Numba kernel computes 'median_pool2d'"):
        fastconv.warmup(["median_pool2d mb1ic4ih6kh2"])
    assert main(["warmup", "foo"]) == 2
    assert not (folder / "warmed.json").exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "file" / "folder"))
    (tmp_path / "file").write_text("in the way")
    assert fastconv.warmup([PoolProblem.parse("mb1ic4ih6kh2sh2", "max_pool2d")])


def test_command_takes_lists_and_networks(folder, capsys):
    (folder / "layers.txt").write_text(f"# a comment\n{TEXT} first # the first\n\nmb2ic4ih7oc4kh3\n")
    assert main(["warmup", "--file", str(folder / "layers.txt"), "--layout", "NHWC"]) == 0
    assert "Numba kernels ready in" in capsys.readouterr().out
    assert main(["warmup", "--network", "mnist"]) == 0
    ready = json.loads((folder / "warmed.json").read_text())["ready"]
    for start in ("conv2d_forward", "conv2d_backward_input", "conv2d_backward_weight", "max_pool2d_forward",
                  "max_pool2d_backward"):  # fmt: skip
        assert any(key.startswith(start) and " NHWC " in key for key in ready), (start, ready)
