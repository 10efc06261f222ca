"""Labels in a file of their own: the challenge's CSV, NumPy's files, IDX."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.idx import GZIP_MAGIC, is_idx, read_idx_labels
from ckncuda.data.numpy_files import read_npy_labels, read_npz_labels
from ckncuda.data.source import StrPath, reading
from ckncuda.errors import InvalidData

EXPECTED = "expected a header such as Id,Prediction, then lines of an id from 1 and a label"
MOST_SHOWN = 5  # of the ids that a message lists


def read_labels(path: StrPath, n_images: int) -> NDArray[np.int64]:
    r"""Read the labels of ``n_images`` images.

    Parameters
    ----------
    path : path-like
        CSV with two columns, ids and labels, the ids in any order, each of 1, ..., n once (or each of
        0, ..., n - 1); or ``.npy``; or ``.npz`` with an array ``labels`` or ``y``; or IDX, gzipped or not.
    n_images : int

    Returns
    -------
    labels : int64 [n_images]
        In the order of the images, that is, of the ids.

    Raises
    ------
    InvalidData
        Ids missing or duplicated, labels that are not integers from 0, or not as many as images.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "Y.csv"
    >>> _ = path.write_text("Id,Prediction\n2,7\n1,9\n")
    >>> read_labels(path, 2)
    array([9, 7])
    """
    with reading(path), open(path, "rb") as file:
        begin = file.read(6)
    if begin.startswith(b"\x93NUMPY"):
        return read_npy_labels(path, n_images)
    if begin.startswith(b"PK"):
        return read_npz_labels(path, n_images)
    if is_idx(begin) or begin.startswith(GZIP_MAGIC):
        return read_idx_labels(path, n_images)
    return _read_csv(path, n_images)


_Row = tuple[int, int, int]  # the line in the file, counted from 1; the id; the label


def _read_csv(path: StrPath, n_images: int) -> NDArray[np.int64]:
    with reading(path):
        text = Path(path).read_bytes().decode("utf-8-sig", "replace")
    rows = _parse(text, path)
    first = _check_ids(rows, n_images, path)
    labels = np.empty(n_images, np.int64)
    for _, id_, label in rows:
        labels[id_ - first] = label
    return labels


def _parse(text: str, path: StrPath) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().removesuffix(",").split(",")]
        if len(cells) != 2:
            raise InvalidData(
                f"{path}, line {number}: {line.strip()[:60]!r} has {len(cells)} values; {EXPECTED}"
            )
        if number == 1 and not _is_integer(cells[0]) and not _is_integer(cells[1]):
            continue
        for name, cell in zip(("id", "label"), cells, strict=True):
            if not _is_integer(cell):
                raise InvalidData(f"{path}, line {number}: {name} {cell!r} is not an integer; {EXPECTED}")
        if int(cells[1]) < 0 or int(cells[1]) > np.iinfo(np.int64).max:
            raise InvalidData(f"{path}, line {number}: label {cells[1]}; expected 0 or greater, below 2**63")
        rows.append((number, int(cells[0]), int(cells[1])))
    return rows


def _check_ids(rows: list[_Row], n_images: int, path: StrPath) -> int:
    """Return the smallest id, 1 or 0, once all are known to be there once."""
    line_of: dict[int, int] = {}
    for line, id_, _ in rows:
        if id_ in line_of:
            raise InvalidData(
                f"{path}: id {id_} stands in lines {line_of[id_]} and {line}; expected each id once"
            )
        line_of[id_] = line
    first = 0 if 0 in line_of else 1
    expected = range(first, first + n_images)
    missing = [id_ for id_ in expected if id_ not in line_of]
    others = sorted(id_ for id_ in line_of if id_ not in expected)
    if missing or others:
        found = f"{path}: {len(rows)} labels for {n_images} images"
        if missing:
            found += f"; no label for id {_shown(missing)}"
        if others:
            found += f"; no image for id {_shown(others)}"
        raise InvalidData(f"{found}; expected the ids {first} to {first + n_images - 1}, each once")
    return first


def _shown(ids: list[int]) -> str:
    rest = f" and {len(ids) - MOST_SHOWN} more" if len(ids) > MOST_SHOWN else ""
    return ", ".join(map(str, ids[:MOST_SHOWN])) + rest


def _is_integer(cell: str) -> bool:
    digits = cell[1:] if cell[:1] in ("-", "+") else cell
    return digits.isascii() and digits.isdecimal() and len(digits) < 100
