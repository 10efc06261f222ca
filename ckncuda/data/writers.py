"""Submissions and features: files that appear whole or not at all."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from ckncuda.data.source import StrPath, check_labels
from ckncuda.errors import InvalidData
from ckncuda.files.atomic_file import atomic_file

FEATURES_KEY = "features"  # the name of the array in an .npz file


def write_submission(path: StrPath, labels: ArrayLike) -> None:
    r"""Write predictions as the challenge expects them: header ``Id,Prediction``, ids from 1.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "submission.csv"
    >>> write_submission(path, [3, 1])
    >>> path.read_text()
    'Id,Prediction\n1,3\n2,1\n'
    """
    values = check_labels(labels, None, f"predictions for {path}")
    with atomic_file(path) as file:
        rows = (f"{id_},{label}\n" for id_, label in enumerate(values, 1))
        file.write(("Id,Prediction\n" + "".join(rows)).encode())


class FeatureWriter:
    """Writes the rows of a float32 array [n, d] to an open file, block by block; see `feature_writer`."""

    def __init__(self, file: IO[bytes], n: int, d: int) -> None:
        self._file = file
        self._shape = (n, d)
        self._written = 0
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n, d)})

    def write(self, block: NDArray[Any]) -> None:
        """Append rows, float [m, d]."""
        n, d = self._shape
        if block.ndim != 2 or block.shape[1] != d:
            raise ValueError(f"features of shape {block.shape}; expected [m, {d}]")
        if self._written + len(block) > n:
            raise ValueError(f"{self._written + len(block)} rows of features; expected {n} in all")
        self._file.write(np.ascontiguousarray(block, "<f4").tobytes())
        self._written += len(block)

    def check_complete(self) -> None:
        """Raise ValueError unless all ``n`` rows have been written."""
        if self._written != self._shape[0]:
            raise ValueError(f"{self._written} rows of features written; expected {self._shape[0]}")


@contextlib.contextmanager
def feature_writer(path: StrPath, n: int, d: int) -> Iterator[FeatureWriter]:
    """Write features float32 [n, d] block by block, to a file that appears when all are written.

    Plain writes, never a memory map, so that a full disk is an error and not a crash.

    Parameters
    ----------
    path : path-like
        Ends in ``.npy``, or in ``.npz`` for an archive, not compressed, with an array ``features``.
    n, d : int
        The number of images and of features for each.

    Raises
    ------
    InvalidData
        Another suffix, or the file cannot be written.
    ValueError
        Another number of rows, or of columns, than announced; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "features.npy"
    >>> with feature_writer(path, 4, 2) as writer:
    ...     writer.write(np.zeros((3, 2)))
    ...     writer.write(np.ones((1, 2)))
    >>> np.load(path)[:, 0]
    array([0., 0., 0., 1.], dtype=float32)
    """
    check_features_path(path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(atomic_file(path))
        if Path(path).suffix.lower() == ".npz":
            archive = stack.enter_context(zipfile.ZipFile(file, "w"))
            file = stack.enter_context(archive.open(f"{FEATURES_KEY}.npy", "w", force_zip64=True))
        writer = FeatureWriter(file, n, d)
        yield writer
        writer.check_complete()


def check_features_path(path: StrPath) -> None:
    """Raise `InvalidData` unless the suffix says in which format features go there."""
    if Path(path).suffix.lower() not in (".npy", ".npz"):
        raise InvalidData(
            f"cannot tell from {path} how to write features: give a name ending in .npy or .npz"
        )
