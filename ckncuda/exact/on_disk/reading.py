"""Gram matrices that are on a disk already, read where they are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, require
from ckncuda.exact.on_disk.folder import part_of


def open_gram(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Open a matrix whose rows are read from the disk as they are asked for.

    Parameters
    ----------
    path : path-like
        A ``.npy`` file, or a folder ``.zarr``; ``ckn gram`` writes both.

    Returns
    -------
    gram : array of NumPy or ZarrRows [n, m]
        It gives NumPy arrays for ranges of rows.

    Raises
    ------
    InvalidData
        There is none, it is unfinished, or it is no matrix of numbers.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "K.npy"
    >>> np.save(path, np.eye(3))
    >>> open_gram(path)[0:1]
    memmap([[1., 0., 0.]])
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
        gram: Any = np.load(path, mmap_mode="r", allow_pickle=False) if suffix == ".npy" else _zarr(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidData(f"{path} cannot be read as a matrix ({error}); compute it again") from error
    if getattr(gram, "ndim", 0) != 2 or gram.dtype.kind != "f":
        raise InvalidData(f"{path} holds no matrix of floating-point numbers, but {_shown(gram)}")
    found: Any = gram if suffix == ".npy" else ZarrRows(path, gram)
    rows: NDArray[Any] = found
    return rows


class ZarrRows:
    """The rows of a matrix in Zarr's format, whose damages come to light only when they are read.

    Parameters
    ----------
    path : path-like
        A name for messages.
    array : zarr.Array [n, m]
    """

    ndim = 2

    def __init__(self, path: str | os.PathLike[str], array: Any) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self._path, self._array = path, array

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return these rows, or raise `InvalidData` if any of them is damaged or missing."""
        damaged = f"{self._path} is damaged; give the same ckn gram again, which mends it"
        try:
            values = np.asarray(self._array[rows])
        except MemoryError:
            raise
        except Exception as error:  # whatever a reader says of bytes that are not what was written
            reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            raise InvalidData(damaged + reason) from error
        if np.isnan(values).any():  # as a chunk reads that is not there
            raise InvalidData(damaged)
        return values


def _zarr(path: Path) -> Any:
    require("zarr", purpose=f"{path} needs Zarr", extra="exact")
    import zarr

    return zarr.open(str(path), mode="r")


def _shown(found: Any) -> str:
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    return "something else" if shape is None else f"{dtype} of shape {list(shape)}"
