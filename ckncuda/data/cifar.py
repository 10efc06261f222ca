"""CIFAR-10 and CIFAR-100 as their authors distribute them: binary and pickled batches.

Binary: records of one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3072 bytes
of red, green and blue planes.  Pickled: a dictionary with ``data`` uint8 [n, 3072] and ``labels`` or
``fine_labels``.  https://www.cs.toronto.edu/~kriz/cifar.html

A pickle can run any code; none is unpickled here: see `cifar_pickle`.
"""

import contextlib
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.cifar_pickle import Interpreter
from ckncuda.data.pickle_descriptions import Array, Damaged, LongString, read_bytes, type_of
from ckncuda.data.positional import PositionalFile
from ckncuda.data.source import ImageSource, choose_split, reading
from ckncuda.errors import InvalidData
from ckncuda.given.labels import check_labels
from ckncuda.types import StrPath

PIXELS = 3 * 32 * 32
AT_ONCE = 4096  # records that are read for their labels
MOST_RECORDS = 1 << 19  # of a batch: the authors' have 10,000 and 50,000
NAMES = {  # of files: CIFAR-10 first, then CIFAR-100; binary ones end in .bin
    "train": re.compile(r"(data_batch_\d+|train)(\.bin)?"),
    "test": re.compile(r"(test_batch|test)(\.bin)?"),
}


class CifarSource(ImageSource):
    """The images of CIFAR-10 or CIFAR-100: a folder of batches, or one batch.

    Of a batch only what is asked for is read, where the pickle holds the bytes of images as they are; of
    others one at a time is in memory.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "test_batch.bin").write_bytes(bytes([7] + [255] * 3072))
    >>> CifarSource(folder).labels
    array([7])
    """

    def __init__(self, path: StrPath, split: str | None = None) -> None:
        files = [Path(path)]
        if files[0].is_dir():
            files = _files(files[0], split)
        self._batches: list[_BinaryBatch | _PickledBatch] = []
        with contextlib.ExitStack() as opened:
            for path_ in files:
                file = PositionalFile(path_)
                opened.callback(file.close)
                kind = _BinaryBatch if path_.suffix == ".bin" else _PickledBatch
                self._batches.append(kind(path_, file))
            counts = [len(batch.labels) for batch in self._batches]
            self._starts = np.concatenate([[0], np.cumsum(counts)])
            labels = np.concatenate([batch.labels for batch in self._batches])
            super().__init__("CIFAR", path, (len(labels), 32, 32, 3), np.dtype(np.uint8), labels)
            self._files = opened.pop_all()

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, 32, 32, 3), np.uint8)
        for batch, first, end in zip(self._batches, self._starts[:-1], self._starts[1:], strict=True):
            begin, until = max(start, int(first)), min(stop, int(end))
            if begin < until:
                rows = batch.rows(begin - int(first), until - int(first))
                block[begin - start : until - start] = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            else:
                batch.release()
        return block

    def close(self) -> None:
        """Close the files."""
        for batch in self._batches:
            batch.release()
        self._files.close()


def cifar_splits(folder: Path) -> dict[str, list[Path]]:
    """Return the batches in a folder by split, in order; empty when there are none."""
    found = {
        split: [file for file in folder.iterdir() if name.fullmatch(file.name) and file.is_file()]
        for split, name in NAMES.items()
    }
    return {split: sorted(files, key=_batch_number) for split, files in found.items() if files}


def _batch_number(file: Path) -> int:
    return int("".join(filter(str.isdigit, file.name)) or 0)


def _files(folder: Path, split: str | None) -> list[Path]:
    with reading(folder):
        splits = cifar_splits(folder)
    if not splits:
        raise InvalidData(
            f"{folder}: no CIFAR batches; expected files such as data_batch_1.bin or data_batch_1"
        )
    files = splits[choose_split(list(splits), split, str(folder))]
    if len({(file.suffix, file.name.startswith("data_batch")) for file in files}) > 1:
        raise InvalidData(
            f"{folder} holds batches of more than one kind ({', '.join(file.name for file in files)}):"
            " give one of the files, or keep each kind in a folder of its own"
        )
    return files


class _BinaryBatch:
    """Records of label bytes and planes; `rows` reads images as planes [stop - start, 3072]."""

    def __init__(self, path: Path, file: PositionalFile) -> None:
        self._file, size = file, file.size
        self._label_bytes = _label_bytes(path, size)
        self._record = self._label_bytes + PIXELS
        if size == 0 or size % self._record:
            raise InvalidData(
                f"{path} is truncated or damaged: {size} bytes, expected a multiple of"
                f" {self._record} ({self._label_bytes} for labels and {PIXELS} for pixels):"
                " copy or download it again"
            )
        count = size // self._record
        if count > MOST_RECORDS:
            raise InvalidData(
                f"{path} has {size:,} bytes, as of {count:,} images; no CIFAR batch has more than"
                f" {MOST_RECORDS:,}: give it as .npy, which is not read whole for its labels"
            )
        parts = (self._records(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))
        self.labels = np.concatenate([part[:, self._label_bytes - 1] for part in parts]).astype(np.int64)
        _check_range(self.labels, 10 if self._label_bytes == 1 else 100, path)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self._records(start, stop)[:, self._label_bytes :]

    def _records(self, start: int, stop: int) -> NDArray[np.uint8]:
        records = np.empty((stop - start, self._record), np.uint8)
        self._file.read_into(records, start * self._record)
        return records

    def release(self) -> None:
        """Forget what can be read again: there is nothing."""


def _label_bytes(path: Path, size: int) -> int:
    """Return 1 for CIFAR-10 and 2 for CIFAR-100: by the usual names, otherwise by what divides the size."""
    if path.stem in ("train", "test"):
        return 2
    if path.stem.startswith(("data_batch", "test_batch")):
        return 1
    return 2 if size % (2 + PIXELS) == 0 and size % (1 + PIXELS) else 1


class _PickledBatch:
    """A pickled dictionary, as it is described; `rows` reads images as planes [stop - start, 3072]."""

    def __init__(self, path: Path, file: PositionalFile) -> None:
        self._path, self._file = path, file
        with _damage(path):
            self._data, self.labels = _batch(Interpreter(file).run(), file, path)
        self._whole: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        data = self._data.data
        if isinstance(data, LongString) and data.form == "bytes" and not self._data.fortran:
            rows = np.empty((stop - start, PIXELS), np.uint8)
            self._file.read_into(rows, data.offset + start * PIXELS)
            return rows
        with self._lock:
            if self._whole is None:
                with _damage(self._path):
                    self._whole = _numbers(self._data, self._file)
            return self._whole[start:stop]

    def release(self) -> None:
        with self._lock:
            self._whole = None


def _batch(batch: Any, file: PositionalFile, path: Path) -> tuple[Array, NDArray[np.int64]]:
    """Return the description of the images in a batch, and its labels."""
    fields = {}
    if type(batch) is dict:  # with keys of bytes when Python 2 wrote it
        fields = {key.decode("latin1") if isinstance(key, bytes) else key: batch[key] for key in batch}
    data, labels = fields.get("data"), fields.get("labels", fields.get("fine_labels"))
    if not isinstance(data, Array) or data.type is None or not isinstance(labels, list | Array):
        raise InvalidData(
            f"{path}: no CIFAR batch; expected a dictionary with data and labels or fine_labels"
        )
    if data.type.code != "u1" or len(data.shape) != 2 or data.shape[1] != PIXELS:
        shown = data.shape if len(data.shape) <= 4 else f"of {len(data.shape)} axes"
        raise InvalidData(
            f"{path}: data of shape {shown} and type {data.type.dtype()}; expected uint8 [n, {PIXELS}]"
        )
    classes = 10 if "labels" in fields else 100
    checked = _labels(labels, data.shape[0], file, path)
    _check_range(checked, classes, path)
    return data, checked


def _labels(labels: list[Any] | Array, n: int, file: PositionalFile, path: Path) -> NDArray[np.int64]:
    count = len(labels) if isinstance(labels, list) else math.prod(labels.shape)
    if count != n:  # before so many are read
        raise InvalidData(f"{path}: {count} labels; expected {n}, one for each image")
    if isinstance(labels, Array):
        return check_labels(_numbers(labels, file), n, str(path))
    for image, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < 1 << 31:
            shown = label if type(label) is int else type_of(label)
            raise InvalidData(f"{path}: label {shown} of image {image + 1}; expected a whole number from 0")
    return np.array(labels, np.int64)


def _numbers(array: Array, file: PositionalFile) -> NDArray[Any]:
    """Read an array whole."""
    if array.type is None:
        raise Damaged("an array without a type")
    dtype = array.type.dtype()
    data = read_bytes(array.data, math.prod(array.shape) * dtype.itemsize, file)
    return data.view(dtype).reshape(array.shape, order="F" if array.fortran else "C")


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say which file is damaged, and how."""
    try:
        with reading(path):
            yield
    except Damaged as error:
        raise InvalidData(
            f"{path} is truncated or damaged, or no pickled CIFAR batch (binary ones end in .bin): {error}"
        ) from error


def _check_range(labels: NDArray[np.int64], classes: int, path: Path) -> None:
    if len(labels) and labels.max() >= classes:
        image = int(labels.argmax())
        raise InvalidData(
            f"{path}: label {labels[image]} of image {image + 1}; CIFAR-{classes}'s are 0 to {classes - 1}:"
            " the file is damaged or of another kind"
        )
