"""Images in NumPy's files: ``.npy``, memory-mapped, and ``.npz``, streamed.

Nothing is ever unpickled.  An array inside an ``.npz`` is decompressed as it is read, forwards, so
that a large file never lies in memory whole; only a Fortran-ordered one must (each of its images is
scattered over the whole array).
"""

import math
import mmap
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ckncuda.data.source import (
    ArraySource,
    ImageSource,
    StrPath,
    check_end,
    check_labels,
    read_array,
    reading,
    stack_shape,
)
from ckncuda.data.split import SPLITS, choose_split
from ckncuda.errors import InvalidData

IMAGE_KEYS = ("images", "x", "data")  # in any case
LABEL_KEYS = ("labels", "y")
KEYS_EXPECTED = (
    "expected images (or x, data, or x_train and x_test) and, for labels, labels (or y, y_train, y_test)"
)


def open_npy(path: StrPath) -> ArraySource:
    """Open the images in a ``.npy`` file [n, h, w, c] or [n, h, w] through a memory map.

    Raises
    ------
    InvalidData
        The file is damaged, truncated, or holds no images.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.npy"
    >>> np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    >>> open_npy(path).description
    'NumPy file x.npy, 5 images of 8x8x3'
    """
    return _MappedImages(map_npy(path), kind="NumPy file", path=path)


class _MappedImages(ArraySource):
    """Images in a memory map, of which no page stays once its images have been copied."""

    def __init__(self, images: NDArray[Any], *, kind: str, path: StrPath) -> None:
        super().__init__(images, kind=kind, path=path)
        self._map = getattr(images, "_mmap", None)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.array(super()._read(start, stop))
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)
        return block


def map_npy(path: StrPath) -> NDArray[Any]:
    """Map a ``.npy`` file into memory, read-only; never unpickles."""
    with reading(path), open(path, "rb") as file:
        header = _read_header(file, path)
        begin, length = file.tell(), file.seek(0, 2)
    missing = begin + math.prod(header.shape) * header.dtype.itemsize - length
    if missing > 0:
        raise InvalidData(
            f"{path} is truncated: its header announces an array {header.shape} of {header.dtype}, but"
            f" {missing} bytes are missing: copy or download it again"
        )
    if math.prod(header.shape) == 0:  # which cannot be mapped
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", begin, header.shape, "F" if header.fortran else "C")


class NpzSource(ImageSource):
    """Images in an ``.npz`` file, compressed or not, decompressed as they are read.

    Parameters
    ----------
    path : path-like
    split : {"train", "test"}, optional
        Where the file holds both ``x_train`` and ``x_test``.

    Raises
    ------
    InvalidData
        The file is damaged, or it is not clear which of its arrays are images and labels.

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
        self._path = path
        self._archive = _Archive(path)
        try:
            image_key, label_key = _choose_keys(self._archive.members, split, path)
            self._open(image_key, label_key)
        except BaseException:
            self._archive.close()
            raise

    def _open(self, image_key: str, label_key: str | None) -> None:
        labels = None if label_key is None else self._archive.read(label_key)
        self._stream, self._header, self._begin = self._archive.open(image_key)
        shape = stack_shape(self._header.shape, f"{self._path}, array {image_key!r}")
        super().__init__("NumPy file", self._path, shape, self._header.dtype, labels)
        self._whole: NDArray[Any] | None = None

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        if self._header.fortran:
            if self._whole is None:
                self._whole = self._part(0, len(self))
            return self._whole[start:stop].copy()
        return self._part(start, stop)

    def _part(self, start: int, stop: int) -> NDArray[Any]:
        _, height, width, channels = self.shape
        shape = (stop - start, height, width, channels)
        image_bytes = height * width * channels * self._header.dtype.itemsize
        turned = self._header.fortran
        with reading(self._path):
            part = read_array(
                self._stream,
                self._begin + start * image_bytes,
                shape[::-1] if turned else shape,
                self._header.dtype,
            )
            if stop == len(self):
                check_end(self._stream, self._path)
        return part.T if turned else part

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._archive.close()


def read_npz_labels(path: StrPath) -> NDArray[np.int64]:
    """Read the labels in an ``.npz`` file: ``labels`` or ``y``, or its only array."""
    archive = _Archive(path)
    try:
        keys = _named(archive.members, LABEL_KEYS) or list(archive.members)
        if len(keys) != 1:
            raise InvalidData(f"{path} holds {_listed(archive.members)}; expected one array labels or y")
        return check_labels(archive.read(keys[0]), None, f"{path}, array {keys[0]!r}")
    finally:
        archive.close()


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _read_header(stream: IO[bytes], where: object) -> _Header:
    """Read the header of an array in NumPy's format, through to where its data begin."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(stream)
        if version not in readers:  # 3.0 is for field names that are not Latin: no images
            raise ValueError(f"version {version} of the format")
        header = _Header(*readers[version](stream))
    except ValueError as error:
        raise InvalidData(f"{where} is no array in NumPy's format, or is damaged: {error}") from error
    if header.dtype.hasobject:
        raise InvalidData(
            f"{where} holds pickled Python objects, which are never loaded; expected numbers:"
            " use images.astype"
        )
    return header


class _Archive:
    """The arrays of an ``.npz`` file, by name."""

    def __init__(self, path: StrPath) -> None:
        self._path = path
        with reading(path):
            self._zip = zipfile.ZipFile(path)
        names = (name for name in self._zip.namelist() if name.endswith(".npy"))
        self.members = {name.removesuffix(".npy"): name for name in names}
        if not self.members:
            self.close()
            raise InvalidData(f"{path} holds no arrays; {KEYS_EXPECTED}")

    def open(self, key: str) -> tuple[IO[bytes], _Header, int]:
        """Return the array's stream, its header, and where in the stream its data begin."""
        with reading(self._path):
            try:
                stream = self._zip.open(self.members[key])
            except RuntimeError as error:  # encrypted, or of a compression unknown here
                raise InvalidData(f"cannot read {key!r} in {self._path}: {error}") from error
            header = _read_header(stream, f"{self._path}, array {key!r},")
            return stream, header, stream.tell()

    def read(self, key: str) -> NDArray[Any]:
        """Read a small array whole."""
        stream, header, begin = self.open(key)
        with stream, reading(self._path):
            shape = header.shape[::-1] if header.fortran else header.shape
            array = read_array(stream, begin, shape, header.dtype)
            return array.T if header.fortran else array

    def close(self) -> None:
        self._zip.close()


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
        raise InvalidData(f"{path} holds {_listed(members)}: it is not clear what to read; {KEYS_EXPECTED}")
    return images[0], labels[0] if labels else None


def _named(members: Collection[str], names: Collection[str]) -> list[str]:
    return [key for key in members if key.lower() in names]


def _listed(members: Collection[str]) -> str:
    return "the arrays " + ", ".join(members)
