"""The train command: its options, its output, its messages."""

from __future__ import annotations

import argparse
import json
import re

import numpy as np
import pytest

import fastconv
from fastconv import host
from fastconv.cli import main
from fastconv.nn import data, load_model, train
from tests.training import same


@pytest.fixture
def command():
    def run(*arguments):
        parser = argparse.ArgumentParser()
        train.add_train_parser(parser.add_subparsers())
        args = parser.parse_args(["train", *map(str, arguments)])
        return args.run(args)
    return run


@pytest.fixture
def folder(few, tmp_path):
    """A data folder with 100 training and 50 test digits."""
    arrays = {}
    for split, (x, y) in zip(("train", "test"), few):
        arrays[f"x_{split}"] = (x[..., 0] * 255).round().astype(np.uint8)
        arrays[f"y_{split}"] = y.astype(np.uint8)
    (tmp_path / "digits").mkdir()
    np.savez(tmp_path / "digits" / "mnist.npz", **arrays)
    return tmp_path / "digits"


def test_train_command(command, folder, tmp_path, capsys):
    kept = fastconv.get_num_threads()
    try:
        code = command("--data", folder, "--epochs", 2, "--batch-size", 32, "--optimizer", "adam", "--seed", 3,
                       "--threads", 1, "--save", tmp_path / "m.npz", "--json", tmp_path / "run.json")
        threads = fastconv.get_num_threads()
    finally:
        fastconv.set_num_threads(kept)
    out = capsys.readouterr().out
    assert not code and threads == 1
    assert f"100 training and 50 test digits from {folder}" in out and "Total params: 93,322" in out
    assert "4 updates per epoch (100 samples in batches of 32, the last of 4), 8 in 2 epochs" in out
    assert "Epoch 2/2  4 updates  loss" in out and re.search(r"test accuracy \d+\.\d\d%", out)
    assert "conv2d_forward_" in out and "ms per step" in out
    figures = json.loads((tmp_path / "run.json").read_text())
    assert figures["updates"] == 8 and figures["updates_per_epoch"] == 4 and figures["images_per_second"] > 0
    assert figures["settings"]["seed"] == 3 and figures["threads"] == 1
    assert figures["versions"]["fastconv"] == fastconv.__version__ and len(figures["epochs"]) == 2
    assert len(figures["profile"]["layers"]) == 8 and "conv2d" in " ".join(figures["kernels"])
    model = load_model(tmp_path / "m.npz")
    (_, _), (x_test, y_test) = data.load_mnist(folder)
    assert model.evaluate(x_test, y_test)[1] == figures["accuracy"]


def test_train_command_is_reproducible(command, folder, tmp_path):
    for name in ("a", "b"):
        command("--data", folder, "--epochs", 1, "--save", tmp_path / f"{name}.npz")
    assert same(load_model(tmp_path / "a.npz"), load_model(tmp_path / "b.npz"))


def test_train_command_without_network_says_so_in_one_line(command, monkeypatch, tmp_path, capsys, digits):
    monkeypatch.delenv("FASTCONV_DATA", raising=False)
    monkeypatch.setattr(data, "data_folder", lambda: tmp_path / "nothing")
    monkeypatch.setattr(data, "MIRRORS", ("http://localhost:9/",))
    monkeypatch.setattr(data, "load", lambda source: tuple((x[:40], y[:40]) for x, y in digits))
    command("--epochs", 1)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"MNIST could not be downloaded \(.*\); training on the embedded digits", lines[0])
    assert lines[1] == "40 training and 40 test digits from the embedded digits"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--save", "m.pkl"], r"saved as \.npz or \.safetensors"),
    (["--json", "absent/run.json"], "its folder does not exist"),
    (["--data", "absent"], "does not exist"),
    (["--data", "embedded", "--algorithm", "fft"], "algorithm must be"),
])
def test_train_command_fails_before_training(command, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        command(*arguments)


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--batch-size", "x"], ["--optimizer", "lion"],
                                       ["--seed", "-1"], ["--threads", "0"]])
def test_train_command_refuses_wrong_options(command, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_until_ends_at_the_accuracy_or_fails(folder, tmp_path, capsys):
    """100 digits: 1.5 passes in batches of 64 are 3 updates an epoch."""
    figures = tmp_path / "figures.json"
    assert main(["train", "--data", str(folder), "--until", "0.02", "--json", str(figures)]) == 0
    assert len(json.loads(figures.read_text())["epochs"]) == 1
    assert main(["train", "--data", str(folder), "--until", "1.0", "--epochs", "2"]) == 1
    captured = capsys.readouterr()
    assert "100.00% was not reached in 2 epochs" in captured.err
    assert "3 updates per epoch (1.64 passes over 100 samples in batches of 64), 6 in 2 epochs" in captured.out


def test_a_gpu_that_is_missing_is_told_in_one_sentence(folder, monkeypatch, capsys):
    monkeypatch.setattr(host, "backend_fault", lambda backend: "no CUDA driver on this machine")
    assert main(["train", "--data", str(folder), "--backend", "cuda"]) == 2
    captured = capsys.readouterr()
    assert captured.err == 'fastconv: backend="cuda" cannot train here: no CUDA driver on this machine\n'
    assert not captured.out
