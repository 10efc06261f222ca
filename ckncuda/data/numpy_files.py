"""Images in NumPy's files: ``.npy``, memory-mapped, and ``.npz``, streamed.

Nothing is ever unpickled.  An array inside an ``.npz`` is decompressed as it is read, forwards, so
that a large file never lies in memory whole; only a Fortran-ordered one must (each of its images is
scattered over the whole array).
"""

import contextlib
import math
import mmap
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ckncuda.data.source import (
    SPLITS,
    ArraySource,
    StreamSource,
    StrPath,
    check_labels,
    choose_split,
    read_array,
    reading,
    stack_shape,
)
from ckncuda.errors import InvalidData

IMAGE_KEYS = ("images", "x", "data")  # in any case
LABEL_KEYS = ("labels", "y")
KEYS_EXPECTED = (
    "expected images (or x, data, or x_train and x_test) and, for labels, labels (or y, y_train, y_test)"
)


_Header = tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]


class NpySource(ArraySource):
    """Images in a ``.npy`` file, memory-mapped; no page stays once its images have been copied."""

    def __init__(self, path: StrPath) -> None:
        images = map_npy(path)
        super().__init__(images, kind="NumPy file", path=path)
        self._map = getattr(images, "_mmap", None)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.array(self._images[start:stop])
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)
        return block


def map_npy(path: StrPath) -> NDArray[Any]:
    """Map a ``.npy`` file into memory, read-only; never unpickles."""
    with reading(path), open(path, "rb") as file:
        shape, order, dtype = _read_header(file, path)
        begin, length = file.tell(), file.seek(0, 2)
    missing = begin + math.prod(shape) * dtype.itemsize - length
    if missing > 0:
        raise InvalidData(
            f"{path} is truncated: its header announces an array {shape} of {dtype}, but"
            f" {missing} bytes are missing: copy or download it again"
        )
    if math.prod(shape) == 0:  # which cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", begin, shape, order)


class NpzSource(StreamSource):
    """Images in an ``.npz`` file, compressed or not, with the labels in it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.npz"
    >>> np.savez_compressed(path, images=np.zeros((2, 8, 8), np.uint8), labels=[4, 1])
    >>> with NpzSource(path) as source:
    ...     source.labels
    array([4, 1])
    """

    def __init__(self, path: StrPath, split: str | None = None) -> None:
        with contextlib.ExitStack() as files:
            archive = files.enter_context(_Archive(path))
            image_key, label_key = _choose_keys(archive.members, split, path)
            labels = None if label_key is None else archive.array(label_key)
            stream, (shape, self._order, dtype) = archive.stream(image_key)
            files.enter_context(stream)
            stack = stack_shape(shape, f"{path}, array {image_key!r}")
            super().__init__("NumPy file", path, stack, dtype, labels, stream)
            self._files = files.pop_all()
        self._whole: NDArray[Any] | None = None

    def _read(self, start: int, stop: int, order: Literal["C", "F"] = "C") -> NDArray[Any]:
        if self._order == "C":
            return super()._read(start, stop)
        if self._whole is None:
            self._whole = super()._read(0, len(self), self._order)
        return self._whole[start:stop].copy()


def read_npz_labels(path: StrPath) -> NDArray[np.int64]:
    """Read the labels in an ``.npz`` file: ``labels`` or ``y``, or its only array."""
    with _Archive(path) as archive:
        keys = _named(archive.members, LABEL_KEYS) or list(archive.members)
        if len(keys) != 1:
            raise InvalidData(
                f"{path} holds the arrays {', '.join(archive.members)}; expected one array labels or y"
            )
        return check_labels(archive.array(keys[0]), None, f"{path}, array {keys[0]!r}")


def _read_header(stream: IO[bytes], where: object) -> _Header:
    """Read the header of an array in NumPy's format, through to where its data begin."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(stream)
        if version not in readers:  # 3.0 is for field names that are not Latin: no images
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = readers[version](stream)
    except ValueError as error:
        raise InvalidData(f"{where} is no array in NumPy's format, or is damaged: {error}") from error
    if dtype.hasobject:
        raise InvalidData(
            f"{where} holds pickled Python objects, which are never loaded; expected numbers:"
            " use images.astype"
        )
    return shape, "F" if fortran else "C", dtype


class _Archive(zipfile.ZipFile):
    """The arrays of an ``.npz`` file, by name."""

    def __init__(self, path: StrPath) -> None:
        self._path = path
        with reading(path):
            super().__init__(path)
        names = (name for name in self.namelist() if name.endswith(".npy"))
        self.members = {name.removesuffix(".npy"): name for name in names}
        if not self.members:
            self.close()
            raise InvalidData(f"{path} holds no arrays; {KEYS_EXPECTED}")

    def stream(self, key: str) -> tuple[IO[bytes], _Header]:
        """Return a stream of an array, where its data begin, and its header."""
        with reading(self._path):
            try:
                stream = self.open(self.members[key])
            except RuntimeError as error:  # encrypted, or of a compression unknown here
                raise InvalidData(f"cannot read {key!r} in {self._path}: {error}") from error
            return stream, _read_header(stream, f"{self._path}, array {key!r},")

    def array(self, key: str) -> NDArray[Any]:
        """Read a small array whole."""
        stream, (shape, order, dtype) = self.stream(key)
        with stream, reading(self._path):
            return read_array(stream, stream.tell(), shape, dtype, order)


def _choose_keys(members: Mapping[str, str], split: str | None, path: StrPath) -> tuple[str, str | None]:
    """Choose the array of images and, where there is one, that of labels."""
    plain = _named(members, IMAGE_KEYS)
    splits = [name for name in SPLITS if _named(members, [f"x_{name}"])]
    if splits and not plain:
        chosen = choose_split(splits, split, str(path))
        images, labels = _named(members, [f"x_{chosen}"]), _named(members, [f"y_{chosen}"])
    elif len(members) == 1:
        images, labels = list(members), []
    else:
        images, labels = [*plain, *(f"x_{name}" for name in splits)], _named(members, LABEL_KEYS)
    if len(images) != 1 or len(labels) > 1:
        raise InvalidData(
            f"{path} holds the arrays {', '.join(members)}: it is not clear what to read; {KEYS_EXPECTED}"
        )
    return images[0], labels[0] if labels else None


def _named(members: Collection[str], names: Collection[str]) -> list[str]:
    return [key for key in members if key.lower() in names]
