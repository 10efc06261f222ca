"""Images as lines of comma separated numbers, as in the data challenge.

A line is an image: all of channel 0 row by row, then all of channel 1, and so on.  A comma after
the last value, CRLF, a missing last newline and blank last lines are tolerated, and so are a header
line and pandas' index column where they are unmistakable.

The file is gone through once when opened, to learn where its lines begin and that all have as many
values (0.2 s for 212 MB); the numbers are parsed block by block by `numpy.loadtxt`, or, where Numba is
installed and the block holds nothing unusual, by `ckncuda.data.compiled.csv`, to the same numbers.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.compiled import imported
from ckncuda.data.source import ImageSource, StrPath, format_shape, reading
from ckncuda.errors import InvalidData
from ckncuda.types import Shape

SHAPES = {3072: (32, 32, 3), 784: (28, 28, 1)}  # what a number of values means when no shape is given
INDEX_NAMES = {"", "id", "index", "unnamed: 0"}  # headers of an index column, in lower case
ROWS_AT_ONCE = 128  # parsed together: the text of so few images takes little memory beside a block
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins its CSV files with it


class ChallengeCsv(ImageSource):
    r"""Images in a CSV file, an image a line, channel after channel; delivered as float32.

    The shape is by default 32x32x3 for 3072 values a line and 28x28x1 for 784.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "X.csv"
    >>> _ = path.write_text("8,1,2,3,\n4,5,6,7,\n")
    >>> ChallengeCsv(path, image_shape=(2, 2, 1)).read(1, 2)[0, :, :, 0]
    array([[4., 5.],
           [6., 7.]], dtype=float32)
    """

    def __init__(self, path: StrPath, image_shape: Shape | None = None) -> None:
        self._table = _scan(path)
        shapes = SHAPES if image_shape is None else {math.prod(image_shape): image_shape}
        self._first_column = _first_column(self._table, shapes, path)
        height, width, channels = shapes[self._table.width - self._first_column]
        shape = (len(self._table.offsets) - 1, height, width, channels)
        super().__init__("challenge CSV", path, shape, np.dtype(np.float32))

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        _, height, width, channels = self.shape
        block = np.empty((stop - start, height, width, channels), np.float32)
        with reading(self.where), open(self.where, "rb") as file:
            for row in range(start, stop, ROWS_AT_ONCE):
                end = min(row + ROWS_AT_ONCE, stop)
                offset, after = (int(self._table.offsets[i]) for i in (row, end))
                file.seek(offset)
                planes = self._parse(file.read(after - offset), row, end - row)
                planes = planes.reshape(-1, channels, height, width)
                block[row - start : end - start] = planes.transpose(0, 2, 3, 1)
        return block

    def _parse(self, text: bytes, row: int, images: int) -> NDArray[np.float32]:
        """Parse the lines of so many images, from ``row`` on, to [images, values]."""
        first, width = self._first_column, self._table.width
        numbers = np.empty((images, width - first), np.float32)
        parse_numbers = _compiled_parser()
        if parse_numbers and parse_numbers(np.frombuffer(text, np.uint8), first, width, numbers):
            return numbers
        lines = text.rstrip().split(b"\n")
        try:
            return np.loadtxt(
                lines,
                np.float32,
                comments=None,
                delimiter=",",
                usecols=range(first, width),
                ndmin=2,
                encoding="latin1",
            )
        except ValueError as error:
            for row_of_line, line in enumerate(lines, row):
                for column, cell in enumerate(line.split(b",")[:width]):
                    if not _is_number(cell):
                        given = cell.decode("utf-8", "replace").strip()
                        place = self._place_of(row_of_line, column)
                        raise InvalidData(f"{self.where}: {given!r} in {place}; expected a number") from error
            first = row + self._table.first_line
            raise InvalidData(
                f"{self.where}: cannot read lines {first} to {first + len(lines) - 1}: {error}"
            ) from error

    def _place(self, image: int, y: int, x: int, channel: int) -> str:
        _, height, width, _ = self.shape
        return self._place_of(image, self._first_column + (channel * height + y) * width + x)

    def _place_of(self, row: int, column: int) -> str:
        return f"line {row + self._table.first_line}, column {column + 1} (image {row + 1})"


class _Table(NamedTuple):
    """Findings of a first pass over the file."""

    offsets: NDArray[np.int64]  # [n + 1]: where each image's line begins, and where the last ends
    width: int  # values a line
    header: list[str] | None
    first_column_counts: bool  # it holds 0, 1, 2, ... or 1, 2, 3, ...

    @property
    def first_line(self) -> int:
        """Number of the first image's line in the file, counted from 1."""
        return 1 if self.header is None else 2


def _scan(path: StrPath) -> _Table:
    # A loop over lines, not bytes: bytes.count takes 40 KB at a time, and is several times as fast as
    # counting commas with NumPy.
    header, width, blank, end = None, 0, 0, 0
    offsets: list[int] = []
    starts = {0, 1}  # from which the first cells of the lines may count
    with reading(path), open(path, "rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, 1):
            offset, end = end, end + len(line)
            row = line.rstrip()
            if number == 1 and row.startswith(BYTE_ORDER_MARK):
                row, offset = row[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
            if not row:
                blank = blank or number
                continue
            if blank:
                raise InvalidData(
                    f"{path}: line {blank} is blank, but not the last; expected an image a line"
                )
            if number == 1 and (header := _header(row)) is not None:
                continue
            values = row.count(b",") + (not row.endswith(b","))
            width = width or values
            if values != width:
                raise InvalidData(
                    f"{path}: line {number} has {values} values, expected {width} as in the lines before:"
                    " the file may be cut off or damaged there"
                )
            cell = row[: row.find(b",")].strip()
            starts = {start for start in starts if cell == b"%d" % (start + len(offsets))}
            offsets.append(offset)
    if not offsets:
        raise InvalidData(f"{path} holds no images; expected a line of comma separated numbers for each")
    return _Table(np.array([*offsets, end]), width, header, bool(starts))


def _header(row: bytes) -> list[str] | None:
    """Return the cells of the file's first line if it is a header: no numbers, or pandas' 0, 1, 2, ..."""
    cells = [cell.strip() for cell in row.removesuffix(b",").split(b",")]
    numeric = [_is_number(cell) for cell in cells]
    counted = cells if numeric[0] else cells[1:]
    if any(numeric) and (len(counted) < 2 or counted != [b"%d" % i for i in range(len(counted))]):
        return None
    return [cell.decode("utf-8", "replace").strip('"') for cell in cells]


def _first_column(table: _Table, shapes: dict[int, Shape], path: StrPath) -> int:
    """Return the number of index columns before the pixels, 0 or 1; refuse what is not surely images."""
    names = table.header
    has_index = table.width not in shapes
    if has_index and (table.width - 1 not in shapes or not _is_index(table)):
        expected = " or ".join(f"{values} ({format_shape(shape)})" for values, shape in shapes.items())
        hint = "for images of another size give their height, width and channels with --image-shape"
        if table.width - 1 in shapes:
            hint = "remove the column that is not pixels (labels belong in a file of their own)"
        if table.width == 1:
            hint = "separate the values by commas"
        raise InvalidData(f"{path}: {table.width} values a line, expected {expected}: {hint}")
    if names is not None and len(names) != table.width and not (has_index and len(names) == table.width - 1):
        raise InvalidData(
            f"{path}: the header has {len(names)} names, but the lines have {table.width} values;"
            " expected as many: remove the header"
        )
    return int(has_index)


def _is_index(table: _Table) -> bool:
    """Tell whether a first column too many is an index, beyond doubt."""
    if not table.first_column_counts:
        return False
    if table.header is None:  # two lines may begin with 0 and 1 by chance
        return len(table.offsets) - 1 >= 3
    return table.header[0].lower() in INDEX_NAMES or len(table.header) == table.width - 1


@functools.cache
def _compiled_parser() -> Callable[..., bool] | None:
    """Return `parse_numbers` where Numba compiles it."""
    module = imported("ckncuda.data.compiled.csv")
    return None if module is None else module.parse_numbers


def _is_number(cell: bytes) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return b"_" not in cell  # Python reads 1_000, CSV does not
