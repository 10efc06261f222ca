"""Labels in a file of their own: the challenge's CSV, NumPy's files, IDX."""

import bz2
import csv
import gzip
import lzma
import os
import re

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.csv_header import MISSING, is_number, whole_number
from ckncuda.data.idx import GZIP_MAGIC, is_idx, read_idx_labels
from ckncuda.data.npy_header import MAGIC
from ckncuda.data.numpy_files import read_npy_labels, read_npz_labels
from ckncuda.data.source import reading
from ckncuda.errors import InvalidData
from ckncuda.files.foreign import BEGIN, gunzipped, kind_of
from ckncuda.files.regular_file import open_regular
from ckncuda.given.parameters import file_name, first_few, whole
from ckncuda.types import StrPath

EXPECTED = (
    "expected a header such as Id,Prediction, then lines of an id from 1 and a label, or of a label alone"
)
PACKED = {GZIP_MAGIC: "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
SMALLEST_LIMIT, BYTES_A_LABEL = 1 << 20, 256  # what a CSV file may have, whatever the images, and for each
MOST_BESIDE = 1000  # lines that are read beside those of the images, to say what is wrong with them
XZ_MEMORY = 128 << 20


def read_labels(path: StrPath, n_images: int) -> NDArray[np.int64]:
    r"""Read the labels of ``n_images`` images.

    Parameters
    ----------
    path : path-like
        CSV with two columns, ids and labels, the ids in any order, each of 1, ..., n once (or each of
        0, ..., n - 1), or with one column of n labels; or ``.npy``; or ``.npz`` with an array ``labels`` or
        ``y``; or IDX.  CSV and IDX may be compressed.
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
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "Y.csv"
    >>> _ = path.write_text("Id,Prediction\n2,7\n1,9\n")
    >>> read_labels(path, 2)
    array([9, 7])
    """
    path, n_images = file_name(path, '"Ytr.csv"'), whole("n_images", n_images, 0)
    with reading(path), open_regular(path) as file:
        begin = file.read(BEGIN)
    if begin.startswith(MAGIC):
        return read_npy_labels(path, n_images)
    if begin.startswith(b"PK") and kind_of(begin) is None:
        return read_npz_labels(path, n_images)
    if is_idx(begin) or (begin.startswith(GZIP_MAGIC) and is_idx(gunzipped(begin))):
        return read_idx_labels(path, n_images)
    return _read_csv(path, begin, n_images)


_Row = tuple[int, int, int]  # the line in the file, counted from 1; the id; the label


def _read_csv(path: StrPath, begin: bytes, n_images: int) -> NDArray[np.int64]:
    limit = SMALLEST_LIMIT + BYTES_A_LABEL * n_images
    how = next((name for magic, name in PACKED.items() if begin.startswith(magic)), None)
    if how is None and (kind := kind_of(begin)) is not None:
        raise InvalidData(f"{path} {kind}")
    content = _unpacked(path, how, limit + 1)
    if len(content) > limit:
        raise InvalidData(
            f"{path} holds more than {limit:,} bytes, and labels of {n_images} images take fewer:"
            " give the labels of these images"
        )
    if (kind := kind_of(content[:BEGIN])) is not None or b"\0" in content:
        raise InvalidData(f"{path} {kind or f'is no text; {EXPECTED}'}")
    rows = _parse(content.decode("utf-8-sig", "replace"), n_images, path)
    first = _check_ids(rows, n_images, path)
    labels = np.empty(n_images, np.int64)
    for _, id_, label in rows:
        labels[id_ - first] = label
    return labels


def _unpacked(path: StrPath, how: str | None, limit: int) -> bytes:
    """Return the first bytes of a file, at most so many, unpacked where it is packed.

    Packed labels that are larger than plain ones may be are refused: nothing but empty members, say.
    """
    with reading(path), open_regular(path) as file:
        if how is not None and os.fstat(file.fileno()).st_size > limit:
            raise InvalidData(
                f"{path} has more than {limit - 1:,} bytes, and labels of so many images take"
                " fewer unpacked: give the labels of these images"
            )
        try:
            if how == "gzip":
                return gzip.GzipFile(fileobj=file).read(limit)
            if how == "bzip2":
                return bz2.BZ2File(file).read(limit)
            if how == "xz":
                unpacker = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
                content = unpacker.decompress(file.read(limit + (1 << 16)), limit)
                if len(content) < limit and not unpacker.eof:
                    raise EOFError("it ends early")
                return content
        except (lzma.LZMAError, ValueError) as error:
            raise InvalidData(f"cannot unpack {path}: {error}; decompress it first") from error
        return file.read(limit)


def _parse(text: str, n_images: int, path: StrPath) -> list[_Row]:
    """Return the lines of ids and labels; of one column alone, the ids are 1, 2, ..."""
    lines = text.rstrip().splitlines()
    rows: list[_Row] = []
    separator = _separator(lines)
    columns = len(_cells(lines[0], separator, 1, path)) if lines else 2
    if columns > 2 and len(lines) == 1:
        raise InvalidData(f"{path} has one line of {columns} values; {EXPECTED}")
    if columns not in (1, 2):
        columns = 2
    for number, line in enumerate(lines, 1):
        cells = _cells(line, separator, number, path)
        if len(cells) != columns:
            which = 1 if number == 2 and lines[0].startswith("#") else number  # a comment before the labels
            given = lines[which - 1].strip()[:60]
            count = len(_cells(lines[which - 1], separator, which, path))
            raise InvalidData(f"{path}, line {which}: {given!r} has {count} values; {EXPECTED}")
        if number == 1 and _is_header(cells):
            continue
        label = _checked(cells, number, path)
        if label < 0 or label > np.iinfo(np.int64).max:
            raise InvalidData(f"{path}, line {number}: label {cells[-1]}; expected 0 or greater, below 2**63")
        rows.append((number, whole_number(cells[0]) or 0 if columns == 2 else len(rows) + 1, label))
        if len(rows) > n_images + MOST_BESIDE:
            found = len(rows) + len(lines) - number
            raise InvalidData(
                f"{path}: {found} labels for {n_images} images; give the labels of these images"
            )
    if columns == 1 and len(rows) != n_images:
        header = ": if line 1 is a header, remove it" if len(rows) == n_images + 1 == len(lines) else ""
        raise InvalidData(
            f"{path}: {len(rows)} labels for {n_images} images, in one column; expected a label for each, or"
            f" lines of an id from 1 and a label{header}"
        )
    return rows


def _separator(lines: list[str]) -> str:
    """Return what stands between the values of the first line: ``,``, ``;``, a tab, or blanks of numbers."""
    separator = next((s for s in ",;\t" if lines and s in lines[0]), ",")
    numbers = lines[min(1, len(lines) - 1)].split() if lines else []
    if separator == "," and len(numbers) > 1 and "," not in lines[0]:
        return " " if all(is_number(cell.encode()) for cell in numbers) else separator
    return separator


def _checked(cells: list[str], number: int, path: StrPath) -> int:
    """Return the label of a line whose cells are whole numbers."""
    for name, cell in zip(("id", "label")[-len(cells) :], cells, strict=True):
        if (value := whole_number(cell)) is None:
            raise _not_an_integer(name, cell, number, path)
    assert value is not None
    return value


def _cells(line: str, separator: str, number: int, path: StrPath) -> list[str]:
    """Return the cells of a line, without quotes; a separator may follow the last."""
    line = line.strip(" \r\n").removesuffix(separator)
    if separator == " ":
        return line.split()
    if '"' not in line:
        return [cell.strip() for cell in line.split(separator)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except csv.Error as error:
        raise InvalidData(f"{path}, line {number}: {error}; {EXPECTED}") from error


def _not_an_integer(name: str, cell: str, number: int, path: StrPath) -> InvalidData:
    given = f"{path}, line {number}: {name} {cell[:60]!r} is not an integer"
    if name == "label" and re.search(r"[^\W\d_]", cell) and cell.lower() not in ("nan", "na", "null", "none"):
        return InvalidData(
            f"{given}; expected numbers: number the classes, in Python with numpy.unique(names,"
            " return_inverse=True)[1], or give a folder of images with a sub-folder a class"
        )
    if name == "id" and re.search(r"[^\W\d_]", cell):
        return InvalidData(
            f"{given}; expected the number of an image, from 1: files of a folder count in natural order,"
            " 2.png before 10.png"
        )
    return InvalidData(f"{given}; {EXPECTED}")


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
            found += f"; no label for id {first_few(missing)}"
        if others:
            found += f"; no image for id {first_few(others)}"
        raise InvalidData(f"{found}; expected the ids {first} to {first + n_images - 1}, each once")
    return first


def _is_header(cells: list[str]) -> bool:
    """Tell whether the cells of a first line are names: no numbers, nor what stands for a missing one."""
    encoded = [cell.encode() for cell in cells]
    if len(cells) == 2 and not cells[0]:  # pandas' index has no name, and a column of it may be named 0
        return encoded[1].lower() not in MISSING
    return not any(is_number(cell) or cell.lower() in MISSING for cell in encoded)
