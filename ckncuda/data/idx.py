"""MNIST's IDX files, gzipped or not.

An IDX file begins with two zero bytes, the type (8 is unsigned byte), the number of axes, and each
axis' length as a big-endian 32-bit integer.  Images have three axes (magic number 2051), or four when
they have channels; labels have one (2049).
"""

import contextlib
import gzip
import math
import os
import re
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.source import (
    StreamSource,
    StrPath,
    check_end,
    check_labels,
    choose_split,
    read_array,
    reading,
    stack_shape,
)
from ckncuda.errors import InvalidData

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = b"\0\0\x08"
IMAGES_NAME = re.compile(r"images[.-]idx\d", re.IGNORECASE)


class IdxSource(StreamSource):
    """Images in an IDX file, or in a folder with files named like MNIST's, and the labels beside it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t10k-images-idx3-ubyte"
    >>> _ = path.write_bytes(np.array([2051, 2, 4, 4], ">i4").tobytes() + bytes(32))
    >>> with IdxSource(path) as source:
    ...     print(source.description)
    IDX file t10k-images-idx3-ubyte, 2 images of 4x4x1
    """

    def __init__(self, path: StrPath, split: str | None = None) -> None:
        path = Path(path)
        if path.is_dir():
            path = _images_file(path, split)
        with reading(path), contextlib.ExitStack() as files:
            stream = files.enter_context(open_maybe_gzip(path))
            axes = _read_axes(stream, path)
            if len(axes) not in (3, 4):
                what = "labels, not images" if len(axes) == 1 else f"an array of {len(axes)} axes"
                raise InvalidData(f"{path} holds {what}; expected images: 3 axes (magic number 2051), or 4")
            labels_path = _labels_file(path)
            labels = None if labels_path is None else read_idx_labels(labels_path)
            shape = stack_shape(axes, str(path))
            super().__init__("IDX file", path, shape, np.dtype(np.uint8), labels, stream)
            self._files = files.pop_all()


def read_idx_labels(path: StrPath) -> NDArray[np.int64]:
    """Read an IDX file of labels (magic number 2049) to int64 [n]."""
    with open_maybe_gzip(path) as stream, reading(path):
        axes = _read_axes(stream, path)
        if len(axes) != 1:
            raise InvalidData(
                f"{path}: an array of {len(axes)} axes; expected labels: 1 axis (magic number 2049)"
            )
        labels = read_array(stream, 8, axes, np.dtype(np.uint8))
        check_end(stream, path)
        return check_labels(labels, None, str(path))


def is_idx(begin: bytes) -> bool:
    """Tell whether a file that begins so is an IDX file."""
    return begin[:2] == b"\0\0" and begin[2:3] in (b"\x08", b"\x09", b"\x0b", b"\x0c", b"\x0d", b"\x0e")


def open_maybe_gzip(path: StrPath) -> IO[bytes]:
    """Open a file for reading, through gzip when its content is gzipped, whatever its name."""
    with reading(path):
        with open(path, "rb") as file:
            is_gzipped = file.read(2) == GZIP_MAGIC
        return cast(IO[bytes], gzip.open(path, "rb")) if is_gzipped else open(path, "rb")


def idx_splits(folder: Path) -> dict[str, list[Path]]:
    """Return the IDX files of images in a folder by split; empty when there are none."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if IMAGES_NAME.search(file.name) and file.is_file():
            is_test = "t10k" in file.name.lower() or "test" in file.name.lower()
            splits.setdefault("test" if is_test else "train", []).append(file)
    return splits


def _images_file(folder: Path, split: str | None) -> Path:
    with reading(folder):
        splits = idx_splits(folder)
    if not splits:
        raise InvalidData(f"{folder}: no IDX images; expected a file such as train-images-idx3-ubyte.gz")
    files = splits[choose_split(list(splits), split, str(folder))]
    if len({file.name.removesuffix(".gz") for file in files}) > 1:
        names = ", ".join(file.name for file in files)
        raise InvalidData(f"{folder} holds more than one data set ({names}): give one of these files")
    return files[0]  # the one that is not gzipped sorts first


def _labels_file(path: Path) -> Path | None:
    """Find the labels' file by the usual names: images-idx3 becomes labels-idx1."""
    name = re.sub(r"images([.-])idx\d", r"labels\1idx1", path.name)
    if name == path.name:
        return None
    stem = name.removesuffix(".gz")
    candidates = [path.with_name(stem), path.with_name(stem + ".gz")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_axes(stream: IO[bytes], path: StrPath) -> tuple[int, ...]:
    """Read the header; where the file is not compressed, check that it is as long as the header says."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != UNSIGNED_BYTE:
        raise InvalidData(
            f"{path} begins with bytes {magic.hex(' ')}; expected an IDX file of unsigned bytes:"
            " 00 00 08 and the number of axes"
        )
    axes = tuple(int(length) for length in read_array(stream, 4, (magic[3],), np.dtype(">u4")))
    if not isinstance(stream, gzip.GzipFile):
        size, expected = os.path.getsize(path), 4 + 4 * len(axes) + math.prod(axes)
        if size < expected:
            raise EOFError(f"{size} bytes, its header announces {expected}")
    return axes
