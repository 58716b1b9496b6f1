"""One file for a model and the state of its training: npz or safetensors, written atomically, never pickled."""
from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
_HEADER = "fastconv"


def write(path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write header and arrays to `path` (.npz or .safetensors); an old file is replaced only by a whole new one."""
    path = Path(path)
    kind = file_kind(path)
    text = json.dumps({"format": FORMAT, **header})
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if kind == "npz":
                np.savez(file, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
            else:
                contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
                file.write(_safetensors().save(contiguous, metadata={_HEADER: text}))
            file.flush()
            os.fsync(file.fileno())
        _give_default_mode(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, arrays) of a file that `write` made; ValueError naming the file and the fault otherwise."""
    path = Path(path)
    kind = file_kind(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        text, arrays = _read_npz(path) if kind == "npz" else _read_safetensors(path)
        header = json.loads(text)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a model that fastconv saved, or damaged: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path}: saved in another format than this version reads ({FORMAT})")
    return header, arrays


def file_kind(path: str | os.PathLike[str]) -> str:
    """"npz" or "safetensors", by the name of the file; ValueError for another."""
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path}: a model is saved as .npz or .safetensors")
    return path.suffix[1:]


def _read_npz(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays.pop(_HEADER).tobytes().decode(), arrays


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError('a .safetensors file needs the package safetensors: pip install "fastconv[train]", '
                          "or use .npz") from None
    return safetensors.numpy


def _read_safetensors(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    numpy_format = _safetensors()
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), framework="numpy") as file:
            text = (file.metadata() or {})[_HEADER]
        return text, numpy_format.load_file(str(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _give_default_mode(path: str) -> None:
    """mkstemp makes files for the owner's eyes only; give this one the mode that open() would have."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(path, 0o666 & ~mask)
