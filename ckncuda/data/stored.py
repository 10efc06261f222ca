"""Images and labels that lie in a file, or a stream, as an array behind a header, in C or Fortran order."""

import contextlib
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckncuda.data.positional import Header, Stored
from ckncuda.data.source import ImageSource, reading
from ckncuda.given.images import Stack
from ckncuda.given.labels import check_label_array, check_labels
from ckncuda.types import StrPath


class StoredSource(ImageSource):
    """Images [n, h, w, c], or with channels first, behind a header.

    Parameters
    ----------
    kind, path
        See `ImageSource`.
    stack : Stack
    header : Header
        In Fortran order the numbers of an image lie far apart: a window of images is read at a time and held.
    data : Stored
        Closed with the source.
    labels : int [n], optional

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from ckncuda.data.positional import Header, PositionalFile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x"
    >>> _ = path.write_bytes(bytes(range(24)))
    >>> stack = Stack((2, 2, 2, 3), channels_first=True)
    >>> header = Header(stack.stored, "C", np.dtype("u1"), 0)
    >>> with StoredSource("raw bytes", path, stack, header, PositionalFile(path)) as source:
    ...     source.read(0, 1)[0, :, :, 0]
    array([[0, 1],
           [2, 3]], dtype=uint8)
    """

    def __init__(
        self,
        kind: str,
        path: StrPath,
        stack: Stack,
        header: Header,
        data: Stored,
        labels: ArrayLike | None = None,
    ) -> None:
        super().__init__(kind, path, stack.shape, header.dtype, labels)
        self._stack, self._header, self._data = stack, header, data
        self._files = contextlib.ExitStack()  # closed with it
        self._window: tuple[int, NDArray[Any]] | None = None
        self._lock = threading.Lock()

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        with reading(self.where):
            if self._header.order == "F":
                block = self._scattered(start, stop)
            else:
                block = np.empty((stop - start, *self._stack.stored[1:]), self._header.dtype)
                self._data.read_into(block, self._offset(start * math.prod(self.shape[1:])))
                if stop == len(self):
                    self._data.check_end(self._header.end)
        last: NDArray[Any] = self._stack.last(block)
        return last

    def _offset(self, number: int) -> int:
        """Return where so many numbers end, and the next begins."""
        return self._header.begin + number * self._header.dtype.itemsize

    def _scattered(self, start: int, stop: int) -> NDArray[Any]:
        """Return images of a Fortran-ordered array, in which one number of all images follows another."""
        with self._lock:
            first, window = self._window or (0, np.empty((0, 0), self._header.dtype))
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
        stop = min(n, max(stop, start + self._data.window // (size * self._header.dtype.itemsize)))
        window = np.empty((size, stop - start), self._header.dtype)
        if stop - start == n:
            self._data.read_into(window, self._header.begin)
        else:
            for number in range(size):
                self._data.read_into(window[number], self._offset(number * n + start))
        if stop == n:
            self._data.check_end(self._header.end)
        return window

    def close(self) -> None:
        """Close the file."""
        self._window = None
        self._data.close()
        self._files.close()


def read_stored_labels(data: Stored, header: Header, n: int | None, where: str) -> NDArray[np.int64]:
    """Read the labels of ``n`` images; their number and type are compared before they are read."""
    check_label_array(header.shape, header.dtype, n, where)
    labels = np.empty(header.shape, header.dtype)
    data.read_into(labels, header.begin)
    data.check_end(header.end)
    return check_labels(labels, n, where)
