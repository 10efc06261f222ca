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
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckncuda.errors import InvalidData, printable
from ckncuda.given.images import (
    MOST_BYTES,
    MOST_IMAGES,
    PYTHON,
    expected_pixels,
    first_bad,
    host_array,
    pixel_type,
    stack_of,
)
from ckncuda.given.labels import check_labels
from ckncuda.given.parameters import counted
from ckncuda.types import StrPath

SPLITS = ("train", "test")


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
        delivered = pixel_type(dtype, self.where)
        _check_extent(shape, dtype, self.where)
        self.shape = shape
        self.dtype = np.dtype(np.float32 if delivered.kind == "f" else np.uint8)
        self.labels = None if labels is None else check_labels(labels, shape[0], self.where)
        self.class_names = class_names
        name = kind if path is None else f"{kind} {printable(Path(path).name)}"
        self.description = f"{name}, {counted(shape[0], 'image')} of {format_shape(shape[1:])}"

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
            The file is damaged, or holds NaN, infinite or huge values, or integers outside 0..255.

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
        bad = first_bad(block)
        if bad is not None:
            place = self._place(start + bad[0], bad[1], bad[2], bad[3])
            raise InvalidData(f"{self.where}: {block[bad]} in {place}; {expected_pixels(block[bad])}")
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


class ArraySource(ImageSource):
    """Images in an array in memory.

    Parameters
    ----------
    images : uint8, float or integer [n, h, w, c] or [n, h, w]
    labels : int [n], optional

    Examples
    --------
    >>> source = ArraySource(np.zeros((3, 8, 8)))
    >>> source.shape, source.dtype
    ((3, 8, 8, 1), dtype('float32'))
    """

    def __init__(self, images: NDArray[Any], labels: ArrayLike | None = None) -> None:
        where = "array in memory"
        images = host_array(images, where)
        stack = stack_of(images.shape, where, origin=PYTHON)
        super().__init__(where, None, stack.shape, images.dtype, labels)
        self._images = images.reshape(stack.shape)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = self._images[start:stop]
        # Integers are converted once checked; all else is copied here, off the caller's array.
        return block if block.dtype != self.dtype else block.copy()


def format_shape(shape: Sequence[int]) -> str:
    """Write a shape as people do: ``32x32x3``."""
    return "x".join(map(str, shape))


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
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidData(f"cannot read {path}: {reason}") from error


def _check_extent(shape: tuple[int, int, int, int], dtype: np.dtype[Any], where: str) -> None:
    """Raise `InvalidData` for no images, for more than anybody has, and for one larger than any is."""
    if min(shape) < 1:
        raise InvalidData(f"{where}: shape {shape} holds no images; expected at least one pixel of one")
    if shape[0] > MOST_IMAGES:
        raise InvalidData(
            f"{where}: {shape[0]:,} images; at most {MOST_IMAGES:,} are read: give a part of them"
        )
    size = math.prod(shape[1:]) * dtype.itemsize
    if size > MOST_BYTES:
        raise InvalidData(
            f"{where}: an image of {format_shape(shape[1:])} takes {size >> 20:,} MiB; one of at most"
            f" {MOST_BYTES >> 20} MiB is read: shrink the images, or cut them into parts"
        )
