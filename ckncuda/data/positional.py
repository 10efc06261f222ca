"""An array behind its header: in a file that is read at any place, or in a stream that goes forwards."""

import math
import os
import threading
from typing import IO, Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.source import reading
from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import check_unchanged, open_regular, read_into, version_of
from ckncuda.types import StrPath

CHUNK = 1 << 18  # bytes that a decompressor is asked for at once
DEFLATED_AT_MOST = 1040  # times smaller than what it holds: what the format allows, and a little


class Header(NamedTuple):
    """Description of an array: its shape, order and type, and the offset at which its data begin."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    begin: int

    @property
    def end(self) -> int:
        """The offset at which its data end."""
        return self.begin + math.prod(self.shape) * self.dtype.itemsize


class Stored(Protocol):
    """Bytes in their order, from which arrays are filled."""

    window: int
    """Bytes of images that are worth holding, where those of one image lie far apart."""

    def read_into(self, array: NDArray[Any], offset: int) -> None:
        """Fill an array, C-contiguous, with the bytes that begin at an offset."""

    def check_end(self, offset: int) -> None:
        """Raise `InvalidData` unless the bytes end at an offset."""

    def close(self) -> None:
        """Close the file."""


class PositionalFile(Stored):
    """A regular file of others, which several threads may read; it is never mapped into memory.

    Attributes
    ----------
    size : int
        Bytes that it had when it was opened.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x"
    >>> _ = path.write_bytes(b"abcdef")
    >>> file, array = PositionalFile(path), np.empty(2, np.uint8)
    >>> file.read_into(array, 3)
    >>> bytes(array)
    b'de'
    """

    window = 64 << 20

    def __init__(self, path: StrPath) -> None:
        self._path = path
        with reading(path):
            self.stream = open_regular(path)
        self.size = os.fstat(self.stream.fileno()).st_size
        self._version = version_of(self.stream)

    def read_into(self, array: NDArray[Any], offset: int) -> None:
        """Fill an array; raise `InvalidData` where the file has become too short for it, or another."""
        with reading(self._path):
            read_into(self.stream, array, offset)
            check_unchanged(self.stream, self._version, self._path)

    def check_end(self, offset: int) -> None:
        """Raise `InvalidData` unless the file, when it was opened, ended at an offset."""
        if self.size < offset:
            raise InvalidData(
                f"{self._path} is truncated: its header announces {offset:,} bytes, but"
                f" {offset - self.size:,} bytes are missing: copy or download it again"
            )
        if self.size > offset:
            raise InvalidData(more_behind(self._path, self.size - offset))

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


class ForwardStream(Stored):
    """A stream that decompresses as it is read; going back means to begin again.

    Parameters
    ----------
    stream : binary stream
    path : path-like
    file : binary file
        What it decompresses.
    """

    window = 256 << 20

    def __init__(self, stream: IO[bytes], path: StrPath, file: BinaryIO) -> None:
        self._stream, self._path, self._lock = stream, path, threading.Lock()
        self._file, self._version = file, version_of(file)

    def read_into(self, array: NDArray[Any], offset: int) -> None:
        """Fill an array; raise EOFError where the stream ends early, `InvalidData` if the file is another."""
        view, done = array.reshape(-1).view(np.uint8).data, 0
        with self._lock:
            self._stream.seek(offset)
            while done < len(view):
                chunk = self._stream.read(min(len(view) - done, CHUNK))
                if not chunk:
                    raise EOFError(f"it ends {len(view) - done} bytes early")
                view[done : done + len(chunk)] = chunk
                done += len(chunk)
            check_unchanged(self._file, self._version, self._path)

    def check_end(self, offset: int) -> None:
        """Raise `InvalidData` unless the stream ends here; a checksum at its end is compared, too."""
        with self._lock:
            self._stream.seek(offset)
            if self._stream.read(1):
                raise InvalidData(more_behind(self._path))

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def more_behind(path: StrPath, count: int | None = None) -> str:
    """Say that something follows the array, which nobody would see."""
    return (
        f"{path} holds more data than its header announces"
        f"{'' if count is None else f' ({count:,} bytes)'}: it is damaged, or more than one array was saved"
        " into it: keep one array a file, or save them together by numpy.savez"
    )
