"""Submissions and features: files that appear whole or not at all."""

import contextlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from ckncuda.errors import InvalidData, printable
from ckncuda.files.atomic_file import atomic_file
from ckncuda.given.labels import check_labels
from ckncuda.given.parameters import file_name, several
from ckncuda.types import StrPath

FEATURES_KEY = "features"  # the name of the array in an .npz file
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # how a spreadsheet's formula begins
_LATER_CELL = re.compile(rf';(?=[\s"]*{_FORMULA.pattern})')  # where it takes semicolons for separators
_INTEGER = re.compile(r"-?[0-9]+")
_SPECIAL = re.compile(r'[,;"\s]')


def write_submission(
    path: StrPath,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> None:
    r"""Write predictions as the challenge expects them: header ``Id,Prediction``, ids from 1.

    Parameters
    ----------
    path : path-like
    labels : int [n]
    class_names : sequence of str, optional
        The name of each label 0, 1, ..., to be written in its place.
    ids : sequence of str, optional
        What to write in place of 1, ..., n, such as the names of files.

    Raises
    ------
    InvalidData
        Labels that are no integers from 0, or have no name; or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "submission.csv"
    >>> write_submission(path, [3, 1])
    >>> path.read_text()
    'Id,Prediction\n1,3\n2,1\n'
    >>> write_submission(path, [1, 0], class_names=["cat", "=dog"], ids=["a.png", "b.png"])
    >>> path.read_text()
    "Id,Prediction\na.png,'=dog\nb.png,cat\n"
    """
    path = file_name(path, '"submission.csv"')
    values = check_labels(labels, None, f"predictions for {path}")
    if class_names is not None:
        class_names = several("class_names", class_names, str, 'expected a name a label, such as ["cat"]')
    if ids is not None:
        ids = several("ids", ids, str, 'expected a text a prediction, such as ["1.png"]')
    if class_names is not None and len(values) and int(values.max()) >= len(class_names):
        raise InvalidData(
            f"predictions for {path}: label {values.max()}, but names of {len(class_names)} classes;"
            " expected a name for each label: leave the names out"
        )
    if ids is not None and len(ids) != len(values):
        raise InvalidData(
            f"predictions for {path}: {len(values)} predictions; expected {len(ids)}, one an id"
        )
    cells = None if class_names is None else [_cell(name) for name in class_names]
    with atomic_file(path) as file:
        rows = (
            f"{row + 1 if ids is None else _cell(ids[row])},{label if cells is None else cells[label]}\n"
            for row, label in enumerate(values)
        )
        file.write(("Id,Prediction\n" + "".join(rows)).encode("utf-8", "backslashreplace"))


def _cell(text: str) -> str:
    """Return a name as a cell of a CSV file, where spreadsheets find no formula, terminals no command."""
    text = printable(text)
    if _FORMULA.match(text) and not _INTEGER.fullmatch(text):
        text = f"'{text}"
    text = _LATER_CELL.sub(";'", text)
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text


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
    path = file_name(path, '"features.npy"')
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
