"""MNIST as arrays: from a folder or file, the data folder, a checksummed download, or the digits in the package."""
from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import os
import sys
import tempfile
import threading
import urllib.request
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from .idx import IMAGES, LABELS, DataError, check_split, read_idx, read_idx_file, read_npz

Split = tuple[np.ndarray, np.ndarray]

# The four files, in the order x_train, y_train, x_test, y_test, and the published MD5 of their .gz forms.
FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
NPZ = "mnist.npz"
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
DOWNLOAD_SECONDS = 5.0
_CHUNK = 1 << 16
EMBEDDED = "mnist_10000_2000.xz"


@dataclass(frozen=True)
class Source:
    """Where digits come from: `path` is a folder or file, None for the embedded ones; `text` says it in words."""

    path: Path | None
    text: str


def data_folder() -> Path:
    """The folder of this user for fastconv's data (platformdirs' answer, or the same by hand)."""
    try:
        import platformdirs
        return Path(platformdirs.user_data_dir("fastconv", appauthor=False))
    except ImportError:
        pass
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fastconv"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "fastconv"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "fastconv"


def _find(folder: Path, name: str) -> Path | None:
    """The file of this name in `folder`, packed or not, also with the dot that some archives use."""
    for stem in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / stem, folder / f"{stem}.gz"):
            if candidate.is_file():
                return candidate
    return None


def _holds_mnist(folder: Path) -> bool:
    return (folder / NPZ).is_file() or any(_find(folder, name) for name in FILES)


def find_mnist(path: str | os.PathLike[str] | None = None) -> Source:
    """Where `load_mnist(path)` would read from, without reading or downloading.

    Raises
    ------
    FileNotFoundError
        `path` or FASTCONV_DATA names something that is not there, or a folder without MNIST.
    """
    if path is not None and os.fspath(path) == "embedded":
        return Source(None, "the embedded digits")
    given, said_by = path, ""
    if given is None and os.environ.get("FASTCONV_DATA"):
        given, said_by = os.environ["FASTCONV_DATA"], " (from FASTCONV_DATA)"
    if given is not None:
        place = Path(given).expanduser()
        if place.is_file():
            return Source(place, str(place))
        for folder in (place, place / "mnist"):
            if folder.is_dir() and _holds_mnist(folder):
                return Source(folder, str(folder))
        state = "has neither the four IDX files of MNIST nor mnist.npz" if place.is_dir() else "does not exist"
        raise FileNotFoundError(f"{place}{said_by}: {state}")
    folder = data_folder() / "mnist"
    if (folder / NPZ).is_file() or all(_find(folder, name) for name in FILES):
        return Source(folder, str(folder))
    return Source(None, "the embedded digits")


def load_mnist(path: str | os.PathLike[str] | None = None, timeout: float = DOWNLOAD_SECONDS) -> tuple[Split, Split]:
    """Handwritten digits for training and for testing.

    Parameters
    ----------
    path : a folder with the four IDX files (.gz or not) or mnist.npz, or that file. None: the folder that
        FASTCONV_DATA names, else the user's data folder, else the digits in the package (the first 10,000 training
        and 2,000 test digits of MNIST). "download": fetch the full set into the data folder if it is not there.
        "embedded": the digits in the package.
    timeout : seconds that a download may take in all; then the embedded digits serve, with a warning

    Returns
    -------
    (x_train, y_train), (x_test, y_test)
        x float32 in [0, 1] of shape (n, 28, 28, 1), y int64 of shape (n,)

    Raises
    ------
    FileNotFoundError
        A path that is not there.
    DataError (a ValueError)
        A truncated, corrupt or mismatched file; the message names file and fault.

    Examples
    --------
    >>> from fastconv.nn import data
    >>> (x_train, y_train), (x_test, y_test) = data.load_mnist("embedded")
    >>> x_train.shape, y_test.shape
    ((10000, 28, 28, 1), (2000,))
    """
    if path is not None and os.fspath(path) == "download":
        source, fault = download_or_embedded(timeout)
        if fault:
            warnings.warn(f"{fault}; using the embedded digits", stacklevel=2)
    else:
        source = find_mnist(path)
    return load(source)


def load(source: Source) -> tuple[Split, Split]:
    """Read a source that `find_mnist` named."""
    if source.path is None:
        arrays = _read_embedded()
    elif source.path.is_file():
        arrays = read_npz(source.path)
    elif not any(_find(source.path, name) for name in FILES):
        arrays = read_npz(source.path / NPZ)
    else:
        arrays = _read_folder(source.path)
    x_train, y_train, x_test, y_test = arrays
    return (_pixels(x_train), y_train.astype(np.int64)), (_pixels(x_test), y_test.astype(np.int64))


def _pixels(images: np.ndarray) -> np.ndarray:
    x = images[..., np.newaxis].astype(np.float32)
    x /= 255
    return x


def _read_folder(folder: Path) -> tuple[np.ndarray, ...]:
    paths = []
    for name in FILES:
        path = _find(folder, name)
        if path is None:
            raise DataError(f"{folder}: {name} is missing (with or without .gz); the other files are there")
        paths.append(path)
    arrays = tuple(read_idx_file(path, magic) for path, magic in zip(paths, (IMAGES, LABELS) * 2))
    for first in (0, 2):
        check_split(arrays[first], arrays[first + 1], str(paths[first]), str(paths[first + 1]))
    return arrays


def _read_embedded() -> tuple[np.ndarray, ...]:
    file = resources.files("fastconv.nn").joinpath("_data").joinpath(EMBEDDED)
    try:
        raw = io.BytesIO(lzma.decompress(file.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{file}: the digits are missing from this installation of fastconv") from None
    except lzma.LZMAError as error:
        raise DataError(f"{file}: corrupt: {error}") from None
    return tuple(read_idx(raw, str(file), magic) for magic in (IMAGES, LABELS) * 2)


# ---------------------------------------------------------------------------------------------------------------

def download_or_embedded(timeout: float) -> tuple[Source, str]:
    """The full set, downloaded if it must be, or the embedded digits and a sentence that says why."""
    source = find_mnist()
    if source.path is not None:
        return source, ""
    fault = download_mnist(timeout=timeout)
    return (find_mnist(), "") if not fault else (source, fault)


def download_mnist(folder: Path | None = None, timeout: float = DOWNLOAD_SECONDS) -> str:
    """Fetch the four files into the data folder; "" if all are there, else why not.

    Each file is checked against its published MD5 and then put in place in one step; files that came whole are
    kept, so a later call goes on. `timeout` bounds the whole call, name resolution included.
    """
    folder = data_folder() / "mnist" if folder is None else folder
    deadline = monotonic() + timeout
    faults: list[str] = []
    # name resolution cannot be interrupted, so a daemon thread waits for it and this call does not
    worker = threading.Thread(target=_fetch_all, args=(folder, deadline, faults), daemon=True)
    worker.start()
    worker.join(timeout)
    if worker.is_alive():
        return f"MNIST could not be downloaded within {timeout:g} seconds"
    return faults[0] if faults else ""


def _fetch_all(folder: Path, deadline: float, faults: list[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, digest in reversed(FILES.items()):  # the small files first
            if _find(folder, name) is None:
                _fetch_from_mirrors(folder, f"{name}.gz", digest, deadline)
    except Exception as error:
        faults.append(f"MNIST could not be downloaded ({_reason(error)})")
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing came


def _reason(error: Exception) -> str:
    reason: Any = getattr(error, "reason", None) or error
    text = str(getattr(reason, "strerror", None) or reason) or type(error).__name__
    return text.splitlines()[0]


def _fetch_from_mirrors(folder: Path, name: str, digest: str, deadline: float) -> None:
    fault: Exception | None = None
    for mirror in MIRRORS:
        try:
            return _fetch(mirror + name, folder / name, digest, deadline)
        except (OSError, DataError) as error:
            fault = error
    assert fault is not None
    raise fault


def _fetch(url: str, target: Path, digest: str, deadline: float) -> None:
    handle, temporary = tempfile.mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
    try:
        checksum = hashlib.md5(usedforsecurity=False)
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=_left(deadline)) as answer:
            while chunk := answer.read(_CHUNK):
                _left(deadline)
                checksum.update(chunk)
                file.write(chunk)
        if checksum.hexdigest() != digest:
            raise DataError(f"{url}: wrong checksum {checksum.hexdigest()}, expected {digest}")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def to_categorical(y: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot float32 rows for integer labels (n,) or (n, 1)."""
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"to_categorical expects integer labels of shape (n,), got {labels.dtype} {labels.shape}")
    classes = int(labels.max(initial=-1)) + 1 if num_classes is None else int(num_classes)
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels are from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    rows = np.zeros((len(labels), classes), np.float32)
    rows[np.arange(len(labels)), labels] = 1
    return rows
