"""Make the embedded digits from the four IDX files of MNIST: python -m fastconv.nn._data.make FOLDER"""
from __future__ import annotations

import lzma
import struct
import sys
from pathlib import Path

import numpy as np

from fastconv.nn.data import EMBEDDED, FILES, _find
from fastconv.nn.idx import IMAGES, LABELS, read_idx_file

TRAINING, TEST = 10_000, 2_000


def stream(folder: Path) -> bytes:
    """Four IDX streams, one after the other: the first digits of each file, in the order of `FILES`."""
    parts = []
    for name, magic, count in zip(FILES, (IMAGES, LABELS) * 2, (TRAINING, TRAINING, TEST, TEST)):
        path = _find(folder, name)
        if path is None:
            raise FileNotFoundError(f"{folder / name} (with or without .gz)")
        array: np.ndarray = read_idx_file(path, magic)[:count]
        parts.append(struct.pack(f">{array.ndim + 1}I", magic, *array.shape) + array.tobytes())
    return b"".join(parts)


def main(folder: str) -> None:
    packed = lzma.compress(stream(Path(folder)), preset=9 | lzma.PRESET_EXTREME)
    (Path(__file__).parent / EMBEDDED).write_bytes(packed)


if __name__ == "__main__":
    main(sys.argv[1])
