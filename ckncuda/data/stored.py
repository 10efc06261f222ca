"""Images that lie in a file, or in a stream, as an array does: behind a header, in C or in Fortran order."""

import contextlib
import math
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckncuda.data.positional import Stored
from ckncuda.data.source import ImageSource, StrPath, reading
from ckncuda.given.images import Stack

Order = Literal["C", "F"]


class StoredSource(ImageSource):
    """Images [n, h, w, c], or with channels first, that begin at an offset of stored bytes.

    Parameters
    ----------
    kind, path
        See `ImageSource`.
    stack : Stack
    dtype : numpy.dtype
        As stored.
    data : Stored
        Closed with the source.
    begin : int
    order : {"C", "F"}
        In Fortran order the numbers of an image lie far apart: a window of images is read at a time and held.
    labels : int [n], optional
    files : contextlib.ExitStack, optional
        Closed with the source, too.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from ckncuda.data.positional import PositionalFile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x"
    >>> _ = path.write_bytes(bytes(range(24)))
    >>> stack = Stack((2, 2, 2, 3), channels_first=True)
    >>> with StoredSource("raw bytes", path, stack, np.dtype("u1"), PositionalFile(path), 0) as source:
    ...     source.read(0, 1)[0, :, :, 0]
    array([[0, 1],
           [2, 3]], dtype=uint8)
    """

    def __init__(
        self,
        kind: str,
        path: StrPath,
        stack: Stack,
        dtype: np.dtype[Any],
        data: Stored,
        begin: int,
        order: Order = "C",
        labels: ArrayLike | None = None,
        files: contextlib.ExitStack | None = None,
    ) -> None:
        super().__init__(kind, path, stack.shape, dtype, labels)
        self._stack, self._stored, self._order, self._begin = stack, dtype, order, begin
        self._data, self._files = data, files or contextlib.ExitStack()
        self._window: tuple[int, NDArray[Any]] | None = None
        self._lock = threading.Lock()

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        with reading(self.where):
            if self._order == "F":
                block = self._scattered(start, stop)
            else:
                shape = (stop - start, *self._stack.stored[1:])
                block = np.empty(shape, self._stored)
                self._data.read_into(
                    block, self._begin + start * math.prod(shape[1:]) * self._stored.itemsize
                )
                if stop == len(self):
                    self._data.check_end(self._end)
        last: NDArray[Any] = self._stack.last(block)
        return last

    @property
    def _end(self) -> int:
        return self._begin + math.prod(self.shape) * self._stored.itemsize

    def _scattered(self, start: int, stop: int) -> NDArray[Any]:
        """Return images of a Fortran-ordered array, in which one number of all images follows another."""
        with self._lock:
            first, window = self._window or (0, np.empty((0, 0), self._stored))
            if self._window is None or not first <= start <= stop <= first + window.shape[1]:
                self._window = None  # makes room for the next
                del window
                first, window = self._window = start, self._read_window(start, stop)
            images = window[:, start - first : stop - first]
        _, a, b, c = self._stack.stored
        return images.reshape(c, b, a, stop - start).transpose(3, 2, 1, 0).copy()

    def _read_window(self, start: int, stop: int) -> NDArray[Any]:
        """Read images from ``start`` on, as many as are worth holding, as [numbers of an image, images]."""
        n, size = len(self), math.prod(self.shape[1:])
        stop = min(n, max(stop, start + self._data.window // (size * self._stored.itemsize)))
        window = np.empty((size, stop - start), self._stored)
        if stop - start == n:
            self._data.read_into(window, self._begin)
        else:
            for number in range(size):
                self._data.read_into(
                    window[number], self._begin + (number * n + start) * self._stored.itemsize
                )
        if stop == n:
            self._data.check_end(self._end)
        return window

    def close(self) -> None:
        """Close the file."""
        self._window = None
        self._data.close()
        self._files.close()
