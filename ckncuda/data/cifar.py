"""CIFAR-10 and CIFAR-100 as their authors distribute them: binary and pickled batches.

Binary: records of one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3072 bytes
of red, green and blue planes.  Pickled: a dictionary with ``data`` uint8 [n, 3072] and ``labels`` or
``fine_labels``.  https://www.cs.toronto.edu/~kriz/cifar.html

A pickle can run any code, so only the five names that these files need are let through.
"""

import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.source import ImageSource, StrPath, check_labels, choose_split, reading
from ckncuda.errors import InvalidData

PIXELS = 3 * 32 * 32
NAMES = {  # of files: CIFAR-10 first, then CIFAR-100; binary ones end in .bin
    "train": re.compile(r"(data_batch_\d+|train)(\.bin)?"),
    "test": re.compile(r"(test_batch|test)(\.bin)?"),
}


class CifarSource(ImageSource):
    """The images of CIFAR-10 or CIFAR-100: a folder of batches, or one batch.

    Binary batches are streamed; of pickled ones, one at a time is in memory.

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
        for file in files:
            if self._batches:
                self._batches[-1].release()
            self._batches.append(_BinaryBatch(file) if file.suffix == ".bin" else _PickledBatch(file))
        counts = [len(batch.labels) for batch in self._batches]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        labels = np.concatenate([batch.labels for batch in self._batches])
        super().__init__("CIFAR", path, (len(labels), 32, 32, 3), np.dtype(np.uint8), labels)

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
        """Forget what is in memory."""
        for batch in self._batches:
            batch.release()


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

    def __init__(self, path: Path) -> None:
        self._path = path
        with reading(path):
            size = path.stat().st_size
        self._label_bytes = _label_bytes(path, size)
        self._record = self._label_bytes + PIXELS
        if size == 0 or size % self._record:
            raise InvalidData(
                f"{path} is truncated or damaged: {size} bytes, expected a multiple of {self._record}"
                f" ({self._label_bytes} for labels and {PIXELS} for pixels): copy or download it again"
            )
        records = np.memmap(path, np.uint8, "r").reshape(-1, self._record)
        self.labels = records[:, self._label_bytes - 1].astype(np.int64)
        _check_range(self.labels, 10 if self._label_bytes == 1 else 100, path)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        count = (stop - start) * self._record
        with reading(self._path):
            values = np.fromfile(self._path, np.uint8, count, offset=start * self._record)
        if len(values) < count:
            raise InvalidData(f"{self._path} has become shorter while it was read")
        return values.reshape(-1, self._record)[:, self._label_bytes :]

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
    """A pickled dictionary, which can only be loaded whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: NDArray[np.uint8] | None = None
        self._data, self.labels = self._load()

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        if self._data is None:
            self._data, _ = self._load()
        return self._data[start:stop]

    def release(self) -> None:
        self._data = None

    def _load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        batch = _unpickle(self._path)
        fields = {}
        if isinstance(batch, dict):  # with keys of bytes when Python 2 wrote it
            fields = {key.decode("latin1") if isinstance(key, bytes) else key: batch[key] for key in batch}
        data = fields.get("data")
        labels = fields.get("labels", fields.get("fine_labels"))
        if not isinstance(data, np.ndarray) or not isinstance(labels, list | np.ndarray):
            raise InvalidData(
                f"{self._path}: no CIFAR batch; expected a dictionary with data and labels or fine_labels"
            )
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
            raise InvalidData(
                f"{self._path}: data of shape {data.shape} and type {data.dtype};"
                f" expected uint8 [n, {PIXELS}]"
            )
        checked = check_labels(labels, len(data), str(self._path))
        _check_range(checked, 10 if "labels" in fields else 100, self._path)
        return data, checked


def _check_range(labels: NDArray[np.int64], classes: int, path: Path) -> None:
    if len(labels) and labels.max() >= classes:
        image = int(labels.argmax())
        raise InvalidData(
            f"{path}: label {labels[image]} of image {image + 1}; CIFAR-{classes}'s are 0 to {classes - 1}:"
            " the file is damaged or of another kind"
        )


def _unpickle(path: Path) -> Any:
    with reading(path), open(path, "rb") as file:
        try:
            return _Unpickler(file, encoding="bytes").load()
        except (InvalidData, OSError, EOFError):
            raise
        except pickle.UnpicklingError as error:
            raise InvalidData(
                f"{path} is truncated or damaged, or no pickled CIFAR batch (binary ones end in .bin):"
                f" {error}"
            ) from error
        except Exception as error:  # a damaged pickle calls what it may call with anything
            raise InvalidData(f"{path} is damaged, or no pickled CIFAR batch: {error!r}") from error


class _Unpickler(pickle.Unpickler):
    """Builds arrays, bytes and plain containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # NumPy 2 writes the former, NumPy 1 the latter
        if (module, name) not in _ALLOWED:
            raise InvalidData(
                f"the pickle asks for {module}.{name}, which no CIFAR batch needs; expected arrays and lists:"
                " it was refused before it ran, do not trust this file"
            )
        return _ALLOWED[module, name]


def _reconstruct(kind: type, shape: Sequence[int], dtype: bytes) -> NDArray[Any]:
    """Make the empty array that the pickle then fills, as NumPy's function of this name does."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _from_buffer(buffer: bytes, dtype: np.dtype[Any], shape: Sequence[int], order: Any) -> NDArray[Any]:
    """Make the array of a protocol 5 pickle, as NumPy's function of this name does."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _dtype(name: str | bytes, *_: object) -> np.dtype[Any]:
    """Make a dtype; `numpy.dtype` itself warns of the further arguments in old pickles."""
    return np.dtype(name.decode("ascii") if isinstance(name, bytes) else name)


def _encode(text: str, encoding: str) -> bytes:
    """Make bytes as Python 3 pickles them for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
