"""Reading digits from IDX and npz files: every fault is a ValueError that names the file and what is wrong."""
from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, LABELS = 0x00000803, 0x00000801  # magic numbers: unsigned bytes in 3 axes, in 1 axis
CLASSES = 10
SIDE = 28
_PIECE = 1 << 24
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DataError(ValueError):
    """A data file that cannot be what it should be."""


def _fault(name: str, rule: str) -> DataError:
    return DataError(f"{name}: {rule}")


def read_idx(file: Any, name: str, magic: int) -> np.ndarray:
    """The next array of a binary stream in IDX form: big-endian magic number, sizes, then bytes."""
    axes = magic & 0xFF
    head = file.read(4)
    if len(head) < 4:
        raise _fault(name, f"truncated: {len(head)} bytes, an IDX file starts with 4 bytes of magic number")
    found = struct.unpack(">I", head)[0]
    if found != magic:
        kind = {IMAGES: "images", LABELS: "labels"}
        is_other = f" (those are {kind[found]}, not {kind[magic]})" if found in kind else ""
        raise _fault(name, f"magic number is 0x{found:08x}, expected 0x{magic:08x}{is_other}")
    sizes_raw = file.read(4 * axes)
    if len(sizes_raw) < 4 * axes:
        raise _fault(name, f"truncated in the header: {4 + len(sizes_raw)} of {4 + 4 * axes} bytes")
    sizes = struct.unpack(f">{axes}I", sizes_raw)
    if magic == IMAGES and sizes[1:] != (SIDE, SIDE):
        raise _fault(name, f"images are {sizes[1]}x{sizes[2]}, expected {SIDE}x{SIDE}")
    need = sizes[0] * (SIDE * SIDE if magic == IMAGES else 1)
    data = b"".join(_pieces(file, need))
    if len(data) < need:
        raise _fault(name, f"truncated: the header announces {sizes[0]:,} items, {need:,} bytes of data; "
                           f"the file has {len(data):,}")
    return np.frombuffer(data, np.uint8).reshape(sizes)


def _pieces(file: Any, need: int) -> Iterator[bytes]:
    """`need` bytes in pieces, or as many as there are: a false header must not make us ask for its size at once."""
    while need and (piece := file.read(min(need, _PIECE))):
        need -= len(piece)
        yield piece


def read_idx_file(path: Path, magic: int) -> np.ndarray:
    """One IDX file, gzip-compressed or not (told by its first bytes)."""
    name = str(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                array = read_idx(file, name, magic)
                if file.read(1):  # the read at the end also makes gzip check its checksum
                    raise _fault(name, f"has more data than the {len(array):,} items its header announces")
                return array
    except EOFError:
        raise _fault(name, "truncated: the gzip stream ends early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _fault(name, f"corrupt gzip stream: {error}") from None
    except OSError as error:
        raise _fault(name, f"cannot be read: {error.strerror or error}") from None


def check_split(images: np.ndarray, labels: np.ndarray, image_name: str, label_name: str) -> None:
    """Images and labels must be equally many, at least one, and labels digits."""
    if len(images) != len(labels):
        raise DataError(f"{image_name} has {len(images):,} images, but {label_name} has {len(labels):,} labels")
    if len(images) == 0:
        raise _fault(image_name, "holds no images")
    if labels.max() >= CLASSES:
        place = int(np.argmax(labels >= CLASSES))
        raise _fault(label_name, f"label {labels[place]} at position {place:,}, expected 0 to {CLASSES - 1}")


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x_train, y_train, x_test, y_test) of a file in the layout of Keras's mnist.npz."""
    name = str(path)
    if path.is_file() and not zipfile.is_zipfile(path):
        # said here, because NumPy's own message would recommend unpickling the file
        raise _fault(name, "corrupt or not an npz archive (for the four IDX files give their folder)")
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise _fault(name, "is not an npz archive")
        with opened as file:
            missing = [key for key in NPZ_ARRAYS if key not in file.files]
            if missing:
                raise _fault(name, f"has no array {', '.join(missing)}; it has {', '.join(file.files) or 'none'}")
            x_train, y_train, x_test, y_test = (file[key] for key in NPZ_ARRAYS)
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        raise _fault(name, f"corrupt or not an npz archive: {error}") from None
    for key, array, axes in (("x_train", x_train, 3), ("y_train", y_train, 1), ("x_test", x_test, 3),
                             ("y_test", y_test, 1)):
        if array.dtype != np.uint8:
            raise _fault(name, f"{key} has dtype {array.dtype}, expected uint8")
        if array.ndim != axes or (axes == 3 and array.shape[1:] != (SIDE, SIDE)):
            expected = f"(n, {SIDE}, {SIDE})" if axes == 3 else "(n,)"
            raise _fault(name, f"{key} has shape {array.shape}, expected {expected}")
    check_split(x_train, y_train, f"{name}: x_train", f"{name}: y_train")
    check_split(x_test, y_test, f"{name}: x_test", f"{name}: y_test")
    return x_train, y_train, x_test, y_test
