"""MNIST's IDX files, gzipped or not.

An IDX file begins with two zero bytes, the type (8 is unsigned byte), the number of axes, and each
axis' length as a big-endian 32-bit integer.  Images have three axes (magic number 2051), or four when
they have channels; labels have one (2049).
"""

import contextlib
import gzip
import re
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.positional import DEFLATED_AT_MOST, ForwardStream, Header, PositionalFile, Stored
from ckncuda.data.source import choose_split, reading
from ckncuda.data.stored import StoredSource, read_stored_labels
from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import open_regular
from ckncuda.given.images import stack_of
from ckncuda.types import Shape, StrPath

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = b"\0\0\x08"
IMAGES_NAME = re.compile(r"images[.-]idx\d", re.IGNORECASE)


class IdxSource(StoredSource):
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

    def __init__(self, path: StrPath, split: str | None = None, image_shape: Shape | None = None) -> None:
        path = Path(path)
        if path.is_dir():
            path = _images_file(path, split)
        with contextlib.ExitStack() as files:
            data, header = _open_idx(path, files)
            axes = header.shape
            if len(axes) not in (3, 4):
                what = "labels, not images" if len(axes) == 1 else f"an array of {len(axes)} axes"
                raise InvalidData(f"{path} holds {what}; expected images: 3 axes (magic number 2051), or 4")
            stack = stack_of(axes, str(path), image_shape=image_shape)
            labels_path = _labels_file(path)
            labels = None if labels_path is None else read_idx_labels(labels_path, axes[0])
            super().__init__("IDX file", path, stack, header, data, labels)
            self._files = files.pop_all()


def read_idx_labels(path: StrPath, n: int | None = None) -> NDArray[np.int64]:
    """Read an IDX file of labels (magic number 2049), of ``n`` images, to int64 [n]."""
    with contextlib.ExitStack() as files:
        data, header = _open_idx(path, files)
        if (axes := len(header.shape)) != 1:
            raise InvalidData(f"{path}: an array of {axes} axes; expected labels: 1 axis (magic number 2049)")
        with reading(path):
            return read_stored_labels(data, header, n, str(path))


def is_idx(begin: bytes) -> bool:
    """Tell whether a file that begins so is an IDX file."""
    return begin[:2] == b"\0\0" and begin[2:3] in (b"\x08", b"\x09", b"\x0b", b"\x0c", b"\x0d", b"\x0e")


def open_maybe_gzip(path: StrPath) -> IO[bytes]:
    """Open a file for reading, through gzip when its content is gzipped, whatever its name."""
    with reading(path):
        file = open_regular(path)
        is_gzipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        if not is_gzipped:
            return file
        unpacked = cast(IO[bytes], gzip.GzipFile(fileobj=file))
        unpacked.myfileobj = file  # type: ignore[attr-defined]  # closed with it
        return unpacked


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


def _open_idx(path: StrPath, files: contextlib.ExitStack) -> tuple[Stored, Header]:
    """Open an IDX file whose header announces no more, and where that is known no less, than is there."""
    with reading(path):
        stream = files.enter_context(open_maybe_gzip(path))
        magic = stream.read(4)
        if len(magic) < 4 or magic[:3] != UNSIGNED_BYTE:
            raise InvalidData(
                f"{path} begins with bytes {magic.hex(' ')}; expected an IDX file of unsigned"
                " bytes: 00 00 08 and the number of axes"
            )
        lengths = stream.read(4 * magic[3])
        if len(lengths) < 4 * magic[3]:
            raise EOFError(f"it ends {4 * magic[3] - len(lengths)} bytes early")
        axes = tuple(int(length) for length in np.frombuffer(lengths, ">u4"))
        header = Header(axes, "C", np.dtype(np.uint8), 4 + len(lengths))
        if isinstance(stream, gzip.GzipFile):
            most = Path(path).stat().st_size * DEFLATED_AT_MOST
            if header.end > most:
                raise EOFError(f"its header announces {header.end:,} bytes, at most {most:,} are there")
            return ForwardStream(stream, path, stream.myfileobj), header
    data = PositionalFile(path)
    files.callback(data.close)
    data.check_end(header.end)
    return data, header
