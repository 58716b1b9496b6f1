"""MNIST files, good and broken: every fault is an error that names the file and what is wrong."""
from __future__ import annotations

import gzip
import hashlib
import http.server
import lzma
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastconv.nn import data
from fastconv.nn._data import make
from fastconv.nn.idx import DataError

TRAIN, TEST = 12, 5
NAMES = list(data.FILES)
# of the four unpacked IDX streams; also in fastconv/nn/_data/README.md
EMBEDDED_SHA256 = "eaf71cf55b51e1dd7f24a41425ce60ed055550699bec7fe9dfb302ec1d9a362a"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def digits() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (TRAIN, 28, 28), np.uint8), np.arange(TRAIN, dtype=np.uint8) % 10,
            rng.integers(0, 256, (TEST, 28, 28), np.uint8), np.arange(TEST, dtype=np.uint8)]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No test sees this machine's own data, and none leaves it."""
    folder = tmp_path / "user-data"
    monkeypatch.delenv("FASTCONV_DATA", raising=False)
    monkeypatch.setattr(data, "data_folder", lambda: folder)
    monkeypatch.setattr(data, "MIRRORS", ("http://localhost:9/",))
    return folder


def write(folder: Path, digits: list[np.ndarray], suffix: str = "", stem=lambda name: name) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, digits):
        raw = idx(array)
        (folder / (stem(name) + suffix)).write_bytes(gzip.compress(raw) if suffix == ".gz" else raw)
    return folder


def check(loaded, digits: list[np.ndarray]) -> None:
    (x_train, y_train), (x_test, y_test) = loaded
    for x, y, images, labels in ((x_train, y_train, *digits[:2]), (x_test, y_test, *digits[2:])):
        assert x.dtype == np.float32 and y.dtype == np.int64 and x.shape == (len(images), 28, 28, 1)
        assert np.array_equal(x[..., 0], images.astype(np.float32) / 255) and np.array_equal(y, labels)
        assert x.flags.c_contiguous and x.flags.writeable and y.flags.writeable


# ---------------------------------------------------------------------------------------------------------------
# Good files

@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder(tmp_path, digits, suffix):
    check(data.load_mnist(write(tmp_path / "d", digits, suffix)), digits)


def test_idx_folder_with_dots_in_the_names(tmp_path, digits):
    check(data.load_mnist(str(write(tmp_path / "d", digits, stem=lambda n: n.replace("-idx", ".idx")))), digits)


def test_gzip_is_told_by_content_not_by_name(tmp_path, digits):
    folder = write(tmp_path / "d", digits)
    path = folder / NAMES[0]
    path.write_bytes(gzip.compress(path.read_bytes()))
    check(data.load_mnist(folder), digits)


@pytest.mark.parametrize("as_folder", [False, True])
def test_npz(tmp_path, digits, as_folder):
    np.savez(tmp_path / "mnist.npz", x_train=digits[0], y_train=digits[1], x_test=digits[2], y_test=digits[3])
    check(data.load_mnist(tmp_path if as_folder else tmp_path / "mnist.npz"), digits)


def test_embedded_digits_are_the_stated_ones():
    (x_train, y_train), (x_test, y_test) = data.load_mnist()
    assert x_train.shape == (10000, 28, 28, 1) and x_test.shape == (2000, 28, 28, 1)
    assert x_train.min() == 0 and x_train.max() == 1 and x_train.dtype == np.float32
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert set(y_train) == set(y_test) == set(range(10)) and y_train.dtype == np.int64
    file = Path(data.__file__).parent / "_data" / data.EMBEDDED
    assert hashlib.sha256(lzma.decompress(file.read_bytes())).hexdigest() == EMBEDDED_SHA256
    assert file.stat().st_size < 1.7e6
    assert "ShareAlike 3.0" in (file.parent / "LICENSE-mnist.txt").read_text()


def test_embedded_file_is_made_from_the_idx_files(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(make, "TRAINING", 7)
    monkeypatch.setattr(make, "TEST", 3)
    cut = [a[:n] for a, n in zip(digits, (7, 7, 3, 3))]
    assert make.stream(write(tmp_path / "d", digits, ".gz")) == b"".join(map(idx, cut))


# ---------------------------------------------------------------------------------------------------------------
# The order of search

def test_environment_then_data_folder_then_embedded(tmp_path, digits, monkeypatch, nowhere):
    assert data.find_mnist().path is None
    write(nowhere / "mnist", digits, ".gz")
    assert data.find_mnist().path == nowhere / "mnist"
    mine = write(tmp_path / "mine", digits)
    monkeypatch.setenv("FASTCONV_DATA", str(mine))
    assert data.find_mnist().path == mine
    other = write(tmp_path / "other", digits)
    assert data.find_mnist(other).path == other
    assert data.find_mnist("embedded").path is None
    check(data.load_mnist(), digits)


def test_environment_may_name_the_folder_above(tmp_path, digits, monkeypatch):
    write(tmp_path / "all" / "mnist", digits)
    monkeypatch.setenv("FASTCONV_DATA", str(tmp_path / "all"))
    check(data.load_mnist(), digits)


def test_a_path_that_is_not_there_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="absent: does not exist"):
        data.load_mnist(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: has neither the four IDX files"):
        data.load_mnist(tmp_path / "empty")
    monkeypatch.setenv("FASTCONV_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"gone \(from FASTCONV_DATA\): does not exist"):
        data.load_mnist()


def test_data_folder_half_downloaded_is_not_used(digits, nowhere):
    write(nowhere / "mnist", digits)
    (nowhere / "mnist" / NAMES[2]).unlink()
    assert data.find_mnist().path is None


def test_data_folder_follows_the_platform(monkeypatch):
    monkeypatch.undo()
    assert data.data_folder().name == "fastconv"


# ---------------------------------------------------------------------------------------------------------------
# Broken IDX files

def damaged(number: int, change):
    """A test case: file `number`'s unpacked bytes changed."""
    def apply(folder: Path) -> str:
        path = folder / NAMES[number]
        path.write_bytes(change(path.read_bytes()))
        return NAMES[number]
    return apply


def packed(number: int, change):
    """The same for the gzip form."""
    def apply(folder: Path) -> str:
        path = folder / NAMES[number]
        raw = path.read_bytes()
        path.unlink()
        (folder / f"{NAMES[number]}.gz").write_bytes(change(gzip.compress(raw)))
        return f"{NAMES[number]}.gz"
    return apply


def flip(place: int):
    def change(raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[place] ^= 0xFF
        return bytes(changed)
    return change


FAULTS = {
    "empty file": (damaged(0, lambda raw: b""), r"truncated: 0 bytes"),
    "cut in the magic number": (damaged(1, lambda raw: raw[:3]), r"truncated: 3 bytes"),
    "cut in the sizes": (damaged(0, lambda raw: raw[:9]), r"truncated in the header: 9 of 16 bytes"),
    "cut images": (damaged(0, lambda raw: raw[:-1]),
                   r"truncated: the header announces 12 items, 9,408 bytes of data; the file has 9,407"),
    "cut labels": (damaged(3, lambda raw: raw[:-2]),
                   r"truncated: the header announces 5 items, 5 bytes of data; the file has 3"),
    "one byte too many": (damaged(2, lambda raw: raw + b"\0"), r"has more data than the 5 items its header announces"),
    "not IDX at all": (damaged(0, lambda raw: b"<html>" + raw), r"magic number is 0x3c68746d, expected 0x00000803"),
    "labels in place of images": (damaged(0, lambda raw: idx(np.zeros(12, np.uint8))),
                                  r"0x00000801, expected 0x00000803 \(those are labels, not images\)"),
    "images in place of labels": (damaged(1, lambda raw: idx(np.zeros((12, 28, 28), np.uint8))),
                                  r"\(those are images, not labels\)"),
    "other image size": (damaged(0, lambda raw: idx(np.zeros((12, 32, 32), np.uint8))),
                         r"images are 32x32, expected 28x28"),
    "huge count": (damaged(0, lambda raw: raw[:4] + b"\xff\xff\xff\xff" + raw[8:]), r"announces 4,294,967,295 items"),
    "more labels than images": (damaged(1, lambda raw: idx(np.zeros(13, np.uint8))),
                                r"has 12 images, but .*train-labels.* has 13 labels"),
    "fewer test labels": (damaged(3, lambda raw: idx(np.zeros(4, np.uint8))),
                          r"has 5 images, but .*t10k-labels.* has 4 labels"),
    "label out of range": (damaged(1, lambda raw: raw[:-3] + b"\x0a" + raw[-2:]),
                           r"label 10 at position 9, expected 0 to 9"),
    "no images": (damaged(0, lambda raw: idx(np.zeros((0, 28, 28), np.uint8))), r"0 images, but"),
    "gzip cut": (packed(0, lambda raw: raw[:-20]), r"truncated: the gzip stream ends early"),
    "gzip header only": (packed(1, lambda raw: raw[:5]), r"truncated: the gzip stream ends early"),
    "gzip checksum": (packed(0, flip(-6)), r"corrupt gzip stream: CRC check failed"),
    "gzip length": (packed(0, flip(-1)), r"corrupt gzip stream: Incorrect length"),
    "gzip data": (packed(0, lambda raw: raw[:10] + b"\xff" * 40 + raw[50:]), r"corrupt gzip stream"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_idx_file_names_file_and_fault(tmp_path, digits, fault):
    folder = write(tmp_path / "d", digits)
    damage, message = FAULTS[fault]
    name = damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        data.load_mnist(folder)
    assert isinstance(caught.value, ValueError) and str(folder) in str(caught.value)
    # a mismatch of counts names both files; everything else starts with the broken one
    assert name in str(caught.value) or "labels" in str(caught.value)


def test_missing_file_is_named(tmp_path, digits):
    folder = write(tmp_path / "d", digits)
    (folder / NAMES[3]).unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        data.load_mnist(folder)


# ---------------------------------------------------------------------------------------------------------------
# Broken npz files

def npz(folder: Path, digits: list[np.ndarray], **changes) -> Path:
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), digits)) | changes
    np.savez(folder / "mnist.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "mnist.npz"


@pytest.mark.parametrize(("changes", "message"), [
    ({"y_test": None}, "has no array y_test"),
    ({"x_train": np.zeros((12, 28, 28), np.float32)}, "x_train has dtype float32, expected uint8"),
    ({"x_test": np.zeros((5, 784), np.uint8)}, r"x_test has shape \(5, 784\), expected \(n, 28, 28\)"),
    ({"y_train": np.zeros((12, 1), np.uint8)}, r"y_train has shape \(12, 1\), expected \(n,\)"),
    ({"y_train": np.zeros(11, np.uint8)}, "12 images, but .* 11 labels"),
    ({"y_test": np.full(5, 10, np.uint8)}, "label 10 at position 0"),
    ({"y_test": np.array([None] * 5)}, "corrupt or not an npz archive"),
])
def test_broken_npz(tmp_path, digits, changes, message):
    path = npz(tmp_path, digits, **changes)
    with pytest.raises(DataError, match=message) as caught:
        data.load_mnist(path)
    assert "mnist.npz" in str(caught.value)


@pytest.mark.parametrize("change", [lambda raw: raw[:len(raw) // 2], lambda raw: b"not a zip", lambda raw: b"",
                                    lambda raw: raw[:300] + bytes(64) + raw[364:]],
                         ids=["cut", "text", "empty", "overwritten"])
def test_damaged_npz(tmp_path, digits, change):
    path = npz(tmp_path, digits)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=r"mnist\.npz: corrupt or not an npz archive"):
        data.load_mnist(path)


def test_an_npy_file_is_no_npz(tmp_path, digits):
    with open(tmp_path / "mnist.npz", "wb") as file:
        np.save(file, digits[0])
    with pytest.raises(DataError, match="not an npz archive"):
        data.load_mnist(tmp_path)


# ---------------------------------------------------------------------------------------------------------------
# Download

@pytest.fixture
def mirror(tmp_path, digits, monkeypatch):
    """A mirror on this machine that holds the four packed files, and their checksums."""
    folder = write(tmp_path / "mirror", digits, ".gz")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sums = {name: hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(data, "FILES", sums)
    monkeypatch.setattr(data, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
    yield folder
    server.shutdown()
    server.server_close()


def test_download_fills_the_data_folder(mirror, digits, nowhere):
    check(data.load_mnist("download"), digits)
    assert sorted(p.name for p in (nowhere / "mnist").iterdir()) == sorted(f"{n}.gz" for n in NAMES)
    assert data.find_mnist().path == nowhere / "mnist"


def test_download_goes_to_the_next_mirror(mirror, digits, nowhere, monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", ("http://127.0.0.1:9/", *data.MIRRORS))
    assert data.download_mnist() == "" and data.find_mnist().path is not None


def test_download_with_a_wrong_checksum_leaves_nothing_behind(mirror, nowhere):
    path = mirror / f"{NAMES[0]}.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "wrong checksum" in data.download_mnist()
    assert not list((nowhere / "mnist").glob("train-images*"))
    assert data.find_mnist().path is None


def test_failed_download_warns_and_gives_the_embedded_digits(nowhere):
    with pytest.warns(UserWarning, match=r"MNIST could not be downloaded \(.*\); using the embedded digits"):
        (x_train, _), _ = data.load_mnist("download")
    assert len(x_train) == 10000 and not (nowhere / "mnist").exists()


def test_a_mirror_that_never_answers_is_given_up_in_time(monkeypatch):
    def hang(*args, **kwargs):
        time.sleep(3)
    monkeypatch.setattr(data, "_fetch", hang)
    start = time.monotonic()
    assert "within 0.2 seconds" in data.download_mnist(timeout=0.2)
    assert time.monotonic() - start < 2


# ---------------------------------------------------------------------------------------------------------------

def test_to_categorical():
    assert np.array_equal(data.to_categorical([1, 0, 2]), np.eye(3, dtype=np.float32)[[1, 0, 2]])
    assert data.to_categorical(np.array([[1], [0]]), 4).shape == (2, 4)
    for wrong in ([1.5], [[1, 2]]):
        with pytest.raises(ValueError, match="integer labels"):
            data.to_categorical(wrong)
    for labels, classes in (([3], 3), ([-1], 3)):
        with pytest.raises(ValueError, match="expected 0 to 2"):
            data.to_categorical(labels, classes)
