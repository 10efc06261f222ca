"""Gram matrices that are on a disk already, read where they are, and never mapped into memory."""

import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.numpy_files import open_npy
from ckncuda.errors import InvalidData, pass_on_interruption, require
from ckncuda.exact.on_disk.chunks import Chunks
from ckncuda.exact.on_disk.description import Description, read_description
from ckncuda.exact.on_disk.folder import part_of
from ckncuda.types import StrPath


def open_gram(path: StrPath) -> NDArray[Any]:
    """Open a matrix whose rows are read from the disk as they are asked for.

    Parameters
    ----------
    path : path-like
        A ``.npy`` file, or a folder ``.zarr``; ``ckn gram`` writes both.

    Returns
    -------
    gram : NpyRows or ZarrRows [n, m]
        It gives NumPy arrays for ranges of rows.

    Raises
    ------
    InvalidData
        There is none, it is unfinished, damaged, or no matrix of numbers.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "K.npy"
    >>> np.save(path, np.eye(3))
    >>> open_gram(path)[0:1]
    array([[1., 0., 0.]])
    """
    path = Path(path)
    if not path.exists():
        if part_of(path).exists():
            raise InvalidData(f"{path} is not finished: give the same ckn gram again, which goes on with it")
        raise InvalidData(f"there is no Gram matrix {path}; make one with: ckn gram IMAGES -o {path}")
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".zarr"):
        raise InvalidData(f"cannot read a Gram matrix from {path}: give a .npy or .zarr that ckn gram wrote")
    try:
        rows: Any = NpyRows(path) if suffix == ".npy" else ZarrRows.open(path)
    except OSError as error:
        why = error.strerror or error
        raise InvalidData(f"{path} cannot be read as a matrix ({why}); compute it again") from error
    gram: NDArray[Any] = rows
    return gram


class NpyRows:
    """The rows of a matrix in NumPy's format.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    InvalidData
        It holds no matrix of floating-point numbers, fewer than its header says, or more.
    """

    ndim = 2
    identity: Mapping[str, Any] | None = None  # nothing tells of which images it is

    def __init__(self, path: StrPath) -> None:
        with contextlib.ExitStack() as files:
            self._data, self._header = open_npy(path, files)
            self.shape, order, self.dtype, _ = self._header
            if len(self.shape) != 2 or self.dtype.kind != "f":
                raise InvalidData(
                    f"{path} holds no matrix of floating-point numbers, but {self.dtype} of shape "
                    f"{list(self.shape)}"
                )
            self._by_columns = order == "F"
            weakref.finalize(self, files.pop_all().close)  # when nobody reads it any more

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return these rows, or raise `InvalidData` if the file has become shorter."""
        n, m = self.shape
        start, stop, step = rows.indices(n)
        count = max(0, stop - start)
        if self._by_columns:
            block = np.empty((m, count), self.dtype)
            for column in range(m):
                self._read(block[column], column * n + start)
            return block.T[::step]
        block = np.empty((count, m), self.dtype)
        self._read(block, start * m)
        return block[::step]

    def _read(self, array: NDArray[Any], number: int) -> None:
        self._data.read_into(array, self._header.begin + number * self.dtype.itemsize)


class ZarrRows:
    """The rows of a matrix in a folder of ``ckn gram``, whose damages come to light when they are read.

    Parameters
    ----------
    path : path-like
        A name for messages.
    array : zarr.Array [n, m]
    description : Description
    chunks : Chunks

    Attributes
    ----------
    identity : mapping
        Of which images, preprocessing and kernel it is; see `GramJob.identity`.
    """

    ndim = 2

    def __init__(self, path: StrPath, array: Any, description: Description, chunks: Chunks) -> None:
        self.shape: tuple[int, ...] = description.shape
        self.dtype: np.dtype[Any] = np.dtype(description.identity["dtype"])
        self.identity = description.identity
        self._path, self._array, self._chunks = path, array, chunks
        self._tile = description.chunk_shape

    @classmethod
    def open(cls, path: Path) -> "ZarrRows":
        """Open a folder; raise `InvalidData` if its description is damaged, or not of ``ckn gram``."""
        require("zarr", purpose=f"{path} needs Zarr", extra="exact")
        import zarr

        try:
            description = read_description(path)
        except InvalidData as error:
            raise InvalidData(f"{path} cannot be read as a matrix: {error}; compute it again") from error
        array = zarr.open_array(str(path), mode="r")
        return cls(path, array, description, Chunks(path, description))

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return these rows, or raise `InvalidData` if any is damaged, missing or of another place."""
        damaged = f"{self._path} is damaged; give the same ckn gram again, which mends it"
        start, stop, _ = rows.indices(self.shape[0])
        for i in range(start // self._tile[0], -(-stop // self._tile[0])):
            for j in range(-(-self.shape[1] // self._tile[1])):
                if not self._chunks.is_whole((i, j)):
                    raise InvalidData(damaged)
        try:
            values = np.asarray(self._array[rows])
        except MemoryError:
            raise
        except Exception as error:  # whatever a reader says of bytes that are not what was written
            pass_on_interruption(error)
            reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            raise InvalidData(damaged + reason) from error
        if np.isnan(values).any():  # as a chunk reads that is not there
            raise InvalidData(damaged)
        return values
