"""Images in a fixed order, read in blocks: what every reader is, and the checks that all share."""

import abc
import contextlib
import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckncuda.errors import InvalidData

StrPath = str | os.PathLike[str]

SPLITS = ("train", "test")
CHANNELS = (1, 3, 4)  # greyscale, RGB, RGBA: what an axis of channels plausibly counts


class ImageSource(abc.ABC):
    """Images in a fixed order, read in blocks of bounded memory.

    A reader passes its attributes to ``__init__`` and implements `_read`.  Sources are context
    managers: leaving the block closes their files.

    Attributes
    ----------
    shape : tuple of int
        ``(n, height, width, channels)``.
    dtype : numpy.dtype
        Of every block: uint8, or float32 for all floating-point input.
    labels : int64 [n] or None
        The labels that the data set carries itself.
    class_names : tuple of str or None
        The name of each label, where the data set has names.
    description : str
        One line for people, such as "challenge CSV Xtr.csv, 5000 images of 32x32x3".
    notes : tuple of str
        What a user should know of how the images were read: what was passed over, what was supposed.
    where : str
        The path as the user gave it, to begin error messages with.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        kind: str,
        path: StrPath | None,
        shape: tuple[int, int, int, int],
        dtype: np.dtype[Any],
        labels: ArrayLike | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.where = kind if path is None else os.fspath(path)
        if min(shape) < 1:
            raise InvalidData(
                f"{self.where}: shape {shape} holds no images; expected at least one pixel of one"
            )
        if dtype.kind not in "uibf":
            raise InvalidData(
                f"{self.where}: pixels are of type {dtype}; expected integers in 0..255 or floating-point"
                " numbers"
            )
        self.shape = shape
        self.dtype = np.dtype(np.float32 if dtype.kind == "f" else np.uint8)
        self.labels = None if labels is None else check_labels(labels, shape[0], self.where)
        self.class_names = class_names
        name = kind if path is None else f"{kind} {Path(path).name}"
        self.description = f"{name}, {shape[0]} images of {format_shape(shape[1:])}"

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.description}>"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read the images ``start``, ..., ``stop - 1`` of this source.

        Returns
        -------
        block : uint8 or float32 [stop - start, height, width, channels]
            C-contiguous and the caller's own, to change at will.

        Raises
        ------
        InvalidData
            The file is damaged, or holds NaN, infinite values, or integers outside 0..255.

        Examples
        --------
        >>> ArraySource(np.zeros((10, 8, 8), np.uint8)).read(2, 5).shape
        (3, 8, 8, 1)
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"images {start}:{stop} of {len(self)}")
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        block = self._read(start, stop)
        if self.dtype == np.float32:
            with np.errstate(over="ignore"):  # what overflows is infinite and found below
                block = np.asarray(block, np.float32, order="C")
            expected = "expected finite float32 numbers: remove or repair this image"
            self._check_pixels(np.isfinite(block), block, start, expected)
        elif block.dtype not in (np.uint8, np.bool_):
            expected = (
                f"integer pixels ({block.dtype}) must lie in 0..255: scale the images and save them"
                " as float32 or uint8"
            )
            self._check_pixels((block >= 0) & (block <= 255), block, start, expected)
        return np.asarray(block, self.dtype, order="C")

    def blocks(self, size: int) -> Iterator[NDArray[Any]]:
        """Read all images in order, ``size`` at a time; the last block may be smaller.

        Examples
        --------
        >>> [len(block) for block in ArraySource(np.zeros((10, 8, 8), np.uint8)).blocks(4)]
        [4, 4, 2]
        """
        if size < 1:
            raise ValueError(f"a block holds at least one image, not {size}")
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    @abc.abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the images as a new array [m, h, w, c] of any layout; `read` checks and converts."""

    def close(self) -> None:  # noqa: B027 -- most sources have nothing to close
        """Close the files behind the source; nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _place(self, image: int, y: int, x: int, channel: int) -> str:
        """Say where a pixel stands, counted from 1, as the user finds it."""
        return f"image {image + 1} (row {y + 1}, column {x + 1}, channel {channel + 1})"

    def _check_pixels(self, good: NDArray[np.bool_], block: NDArray[Any], start: int, expected: str) -> None:
        if not good.all():
            image, *pixel = (int(i) for i in np.argwhere(~good)[0])
            raise InvalidData(
                f"{self.where}: {block[image, *pixel]} in {self._place(start + image, *pixel)}; {expected}"
            )


class ArraySource(ImageSource):
    """Images in an array, in memory or memory-mapped.

    Parameters
    ----------
    images : uint8, float or integer [n, h, w, c] or [n, h, w]
    labels : int [n], optional
    kind, path
        What to call the array in messages, when it comes from a file.

    Examples
    --------
    >>> source = ArraySource(np.zeros((3, 8, 8)))
    >>> source.shape, source.dtype
    ((3, 8, 8, 1), dtype('float32'))
    """

    def __init__(
        self,
        images: NDArray[Any],
        labels: ArrayLike | None = None,
        *,
        kind: str = "array in memory",
        path: StrPath | None = None,
    ) -> None:
        where = kind if path is None else os.fspath(path)
        shape = stack_shape(np.shape(images), where)
        super().__init__(kind, path, shape, images.dtype, labels)
        self._images = images.reshape(shape) if images.ndim == 3 else images

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = self._images[start:stop]
        # Integers are converted once checked; all else is copied here, off the caller's array.
        return block if block.dtype != self.dtype else block.copy()


class StreamSource(ImageSource):
    """Images behind the header of a stream, where it stands; decompressed as they are read."""

    _files: contextlib.ExitStack

    def __init__(
        self,
        kind: str,
        path: StrPath,
        shape: tuple[int, int, int, int],
        dtype: np.dtype[Any],
        labels: ArrayLike | None,
        stream: IO[bytes],
    ) -> None:
        super().__init__(kind, path, shape, dtype, labels)
        self._stream, self._begin, self._stored = stream, stream.tell(), dtype

    def _read(self, start: int, stop: int, order: Literal["C", "F"] = "C") -> NDArray[Any]:
        offset = self._begin + start * math.prod(self.shape[1:]) * self._stored.itemsize
        with reading(self.where):
            block = read_array(self._stream, offset, (stop - start, *self.shape[1:]), self._stored, order)
            if stop == len(self):
                check_end(self._stream, self.where)
        return block

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def format_shape(shape: Sequence[int]) -> str:
    """Write a shape as people do: ``32x32x3``."""
    return "x".join(map(str, shape))


def stack_shape(shape: Sequence[int], where: str) -> tuple[int, int, int, int]:
    """Return ``(n, h, w, c)`` for an array [n, h, w, c] or [n, h, w]; refuse every other."""
    given = f"{where}: array of shape {tuple(shape)}"
    if len(shape) == 4 and shape[3] not in CHANNELS and shape[1] in CHANNELS:
        raise InvalidData(
            f"{given} looks channels-first [n, c, h, w]; expected channels last [n, h, w, c]:"
            " use images.transpose(0, 2, 3, 1)"
        )
    if len(shape) == 3 and shape[2] in (3, 4) and shape[1] >= 8:  # greyscale so narrow is implausible
        raise InvalidData(
            f"{given} looks like one image [h, w, c]; expected a stack [n, h, w, c] or [n, h, w]:"
            " use images[None] for a stack of one"
        )
    if len(shape) not in (3, 4):
        raise InvalidData(
            f"{given} is no stack of images; expected [n, h, w, c] or [n, h, w]: use images.reshape"
        )
    n, height, width, channels = (*shape, 1)[:4]
    return n, height, width, channels


def check_labels(labels: ArrayLike, n: int | None, where: str) -> NDArray[np.int64]:
    """Return labels as int64 [n], or raise `InvalidData`; ``n`` of None accepts any number.

    A column [n, 1], as Keras saves labels, is accepted too.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InvalidData(f"{where}: labels of shape {values.shape}; expected one axis, a label an image")
    if n is not None and len(values) != n:
        raise InvalidData(f"{where}: {len(values)} labels; expected {n}, one for each image")
    if values.dtype.kind not in "ui":
        raise InvalidData(
            f"{where}: labels of type {values.dtype}; expected integers: use labels.astype(int)"
        )
    if len(values) and int(values.min()) < 0:
        first = int(np.argmax(values < 0))
        raise InvalidData(f"{where}: label {values[first]} of image {first + 1}; expected 0 or greater")
    if len(values) and int(values.max()) > np.iinfo(np.int64).max:
        raise InvalidData(f"{where}: label {values.max()} does not fit into 64 bits with sign")
    return values.astype(np.int64)


def choose_split(present: Collection[str], wanted: str | None, where: str) -> str:
    """Return the split to read: the one wanted, or the only one present."""
    found = [split for split in SPLITS if split in present]
    if wanted is not None and wanted not in found:
        raise InvalidData(f"{where}: there is no {wanted} split, only {' and '.join(found)}")
    if wanted is None and len(found) > 1:
        raise InvalidData(f"{where} holds both train and test images: give --split train or --split test")
    return wanted or found[0]


@contextlib.contextmanager
def reading(path: StrPath) -> Iterator[None]:
    """Turn what can go wrong while a file is read into `InvalidData`."""
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidData(f"no such file or folder: {path}") from error
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise InvalidData(f"{path} is truncated or damaged ({error}): copy or download it again") from error
    except OSError as error:
        raise InvalidData(f"cannot read {path}: {error.strerror or error}") from error


def read_array(
    stream: IO[bytes],
    offset: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    order: Literal["C", "F"] = "C",
) -> NDArray[Any]:
    """Read an array [shape] at ``offset`` of a stream; EOFError when the stream ends early.

    Streams that decompress as they go seek backwards by starting again.
    """
    array = np.empty(math.prod(shape), dtype)
    view = array.view(np.uint8).data
    stream.seek(offset)
    filled = 0
    while filled < len(view):
        chunk = stream.read(min(len(view) - filled, 1 << 18))  # bounds what a decompressor holds at once
        if not chunk:
            raise EOFError(f"it ends {len(view) - filled} bytes early")
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return array.reshape(shape, order=order)


def check_end(stream: IO[bytes], path: StrPath) -> None:
    """Check that nothing follows the data, and with its end a compressed stream's checksum."""
    if stream.read(1):
        raise InvalidData(f"{path} holds more data than its header announces: it is damaged, copy it again")
