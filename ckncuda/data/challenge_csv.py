"""Images as lines of comma separated numbers, as in the data challenge.

A line is an image: all of channel 0 row by row, then all of channel 1, and so on.  A comma after
the last value, CRLF, a missing last newline, blank last lines and numbers in quotes are tolerated, and so are
a header line, pandas' index column, and a column that the header names as the labels, where they are
unmistakable: the source's ``notes`` say so.

The file is gone through once when opened, to learn where its lines begin and that all have as many
values (0.2 s for 212 MB); the numbers are parsed block by block by `numpy.loadtxt`, or, where Numba is
installed and the block holds nothing unusual, by `ckncuda.data.compiled.csv`, to the same numbers.
"""

import functools
import math
import re
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.compiled import imported
from ckncuda.data.csv_header import (
    BYTE_ORDER_MARK,
    check_separators,
    header_of,
    is_mangled,
    is_number,
    unquoted,
    whole_number,
)
from ckncuda.data.source import ImageSource, format_shape, reading
from ckncuda.errors import InvalidData, printable
from ckncuda.files.regular_file import Version, check_unchanged, open_regular, read_into, version_of
from ckncuda.types import Shape, StrPath

SHAPES = {3072: (32, 32, 3), 784: (28, 28, 1)}  # what a number of values means when no shape is given
# Headers of an index column, of one of labels, and of one of files, in lower case.
INDEX_NAMES = {"", "id", "index", "unnamed: 0", "imageid", "image_id"}
LABEL_NAMES = {"label", "labels", "class", "target", "y", "digit", "prediction"}
FILE_NAMES = {"file", "filename", "file_name", "image", "image_name", "path", "filepath", "img"}
ROWS_AT_ONCE = 128  # parsed together: the text of so few images takes little memory beside a block
MOST_BLANK = 10_000  # lines at the end
LONGEST_LINE = 16 << 20  # in bytes, or 64 a value of the image shape: an endless line ends there


class ChallengeCsv(ImageSource):
    r"""Images in a CSV file, an image a line, channel after channel; delivered as float32.

    The shape is by default 32x32x3 for 3072 values a line and 28x28x1 for 784.  A first or last column more,
    whose header is ``label`` or the like, holds the labels.

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
        shapes = SHAPES if image_shape is None else {math.prod(image_shape): image_shape}
        self._path = path
        self._table = table = _Scan(path, shapes).table()
        self._columns = _columns(table, shapes, path)
        height, width, channels = shapes[len(self._columns)]
        shape = (len(table.offsets) - 1, height, width, channels)
        labels = None
        if len(self._columns) < table.width and table.label_column is not None:
            labels = _labels(table, path)
        super().__init__("challenge CSV", path, shape, np.dtype(np.float32), labels)
        self.notes = _notes(table, self._columns, labels is not None)

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        _, height, width, channels = self.shape
        block = np.empty((stop - start, height, width, channels), np.float32)
        with reading(self._path), open_regular(self._path) as file:
            check_unchanged(file, self._table.version, self.where)
            for row in range(start, stop, ROWS_AT_ONCE):
                end = min(row + ROWS_AT_ONCE, stop)
                offset, after = (int(self._table.offsets[i]) for i in (row, end))
                text = np.empty(after - offset, np.uint8)
                read_into(file, text, offset)
                planes = self._parse(text, row, end - row)
                planes = planes.reshape(-1, channels, height, width)
                block[row - start : end - start] = planes.transpose(0, 2, 3, 1)
            check_unchanged(file, self._table.version, self.where)
        return block

    def _parse(self, text: NDArray[np.uint8], row: int, images: int) -> NDArray[np.float32]:
        """Parse the lines of so many images, from ``row`` on, to [images, values]."""
        columns, width = self._columns, self._table.width
        numbers = np.empty((images, len(columns)), np.float32)
        parse_numbers = _compiled_parser()
        if parse_numbers and parse_numbers(text, columns.start, width, numbers):
            return numbers
        lines = text.tobytes().rstrip().split(b"\n")
        try:
            parsed = np.loadtxt(
                lines,
                np.float32,
                comments=None,
                delimiter=",",
                quotechar='"',
                usecols=columns,
                ndmin=2,
                encoding="latin1",
            )
        except ValueError as error:
            for row_of_line, line in enumerate(lines, row):
                for column, cell in enumerate(line.split(b",")[:width]):
                    if not is_number(unquoted(cell)) and column in columns:
                        given = cell.decode("utf-8", "replace").strip()[:60]
                        place = self._place_of(row_of_line, column)
                        hint = self._hint(row_of_line, cell)
                        raise InvalidData(
                            f"{self.where}: {given!r} in {place}; expected a number{hint}"
                        ) from error
            first = row + self._table.first_line
            raise InvalidData(
                f"{self.where}: cannot read lines {first} to {first + len(lines) - 1}: {error}"
            ) from error
        if parsed.shape != numbers.shape:
            raise InvalidData(f"{self.where} has changed while it was read: give it again")
        return parsed

    def _hint(self, row: int, cell: bytes) -> str:
        """Say what may be done about a cell that is no number."""
        if row == 0 and self._table.header is None:
            return ": if the line is a header, give each column a name, or remove the line"
        if unquoted(cell).startswith(b"#"):
            return ": comments are not read, remove the line"
        return ""

    def _place(self, image: int, y: int, x: int, channel: int) -> str:
        _, height, width, _ = self.shape
        return self._place_of(image, self._columns.start + (channel * height + y) * width + x)

    def _place_of(self, row: int, column: int) -> str:
        return f"line {row + self._table.first_line}, column {column + 1} (image {row + 1})"


class _Table(NamedTuple):
    """Findings of a first pass over the file."""

    offsets: NDArray[np.int64]  # [n + 1]: where each image's line begins, and where the last ends
    width: int  # values a line
    header: list[str] | None
    counts_from: int | None  # 0 or 1, where the first column counts 0, 1, 2, ... or 1, 2, 3, ...
    label_column: int | None  # 0 or width - 1, where the header says so
    label_cells: list[bytes]
    version: Version  # of the file

    @property
    def first_line(self) -> int:
        """Number of the first image's line in the file, counted from 1."""
        return 1 if self.header is None else 2


class _Scan:
    """The first pass over the file."""

    def __init__(self, path: StrPath, shapes: dict[int, Shape]) -> None:
        self.path, self.shapes = path, shapes
        self.header: list[str] | None = None
        self.width = 0
        self.label_column: int | None = None
        self.version: Version = ()

    def table(self) -> _Table:
        """Go through the file."""
        # A loop over lines, not bytes: bytes.count takes 40 KB at a time, and is several times as fast as
        # counting commas with NumPy.
        offsets, cells = array("q"), []
        starts = {0, 1}  # from which the first cells of the lines may count
        end = 0
        for number, offset, line in self._lines():
            row, end = line.rstrip(), offset + len(line)
            values = row.count(b",") + (not row.endswith(b","))
            if not self.width:
                self._begin(row, values, number)
            if values != self.width:
                reason = "the file may be cut off or damaged there"
                if row.startswith(b"#"):
                    reason = "it is a comment, which is not read: remove it"
                raise InvalidData(
                    f"{self.path}: line {number} has {values} values, expected {self.width} as in the lines"
                    f" before: {reason}"
                )
            cell = row[: row.find(b",")].strip()
            if starts:
                count = unquoted(cell)
                starts = {start for start in starts if count == b"%d" % (start + len(offsets))}
            if self.label_column is not None:
                if self.label_column:
                    cell = row.removesuffix(b",").rpartition(b",")[2].strip()
                cells.append(cell[:40])
            offsets.append(offset)
        if not offsets:
            raise InvalidData(
                f"{self.path} holds no images; expected a line of comma separated numbers for each"
            )
        places = np.append(np.array(offsets), end)
        counts = min(starts) if starts else None
        return _Table(places, self.width, self.header, counts, self.label_column, cells, self.version)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset and text of each line but the header and blank ones at the end."""
        longest = max(LONGEST_LINE, 64 * max(self.shapes))
        blank, end, number = 0, 0, 0
        with reading(self.path), open_regular(self.path) as file:
            self.version = version_of(file)
            while line := file.readline(longest + 1):
                number += 1
                offset, end = end, end + len(line)
                if number == 1 and line.startswith(BYTE_ORDER_MARK):
                    line, offset = line[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
                if number == 1:
                    check_separators(line, self.path)
                if len(line) > longest:
                    raise InvalidData(
                        f"{self.path}: line {number} is longer than {longest:,} bytes; expected an image a"
                        " line: is the image shape right, and does each image end in a new line?"
                    )
                if not line.strip():
                    blank = blank or number
                    if number - blank < MOST_BLANK:
                        continue
                if blank:
                    raise InvalidData(
                        f"{self.path}: line {blank} is blank, but not the last; expected an image a line:"
                        " remove it"
                    )
                if number == 1:
                    self.header = self._header(line.rstrip(), file.readline(longest))
                    file.seek(end)
                    if self.header is not None:
                        continue
                yield number, offset, line

    def _header(self, row: bytes, following: bytes) -> list[str] | None:
        """Return the names in the first line; refuse the names that pandas makes of an image."""
        if is_mangled(row):
            raise InvalidData(
                f"{self.path}: line 1 is an image that pandas took for names of columns"
                f" ({row[:20].decode('utf-8', 'replace')}...): read its file with"
                " read_csv(header=None), and write this one with to_csv(header=False, index=False)"
            )
        return header_of(row, following)

    def _begin(self, row: bytes, values: int, number: int) -> None:
        """Learn from the first image's line how many values each has; refuse what cannot be images."""
        if values not in self.shapes and values - 1 not in self.shapes:
            self._refuse_width(values, row, number)
        self.width = values
        if self.header and len(self.header) == values:
            ends = [column for column in (0, values - 1) if self.header[column].lower() in LABEL_NAMES]
            self.label_column = ends[0] if ends else None

    def _refuse_width(self, values: int, row: bytes, number: int) -> None:
        names = [name.lower() for name in self.header or ()]
        beside = [name for name in names if name in LABEL_NAMES | INDEX_NAMES | FILE_NAMES]
        empty = len(row) - len(row.rstrip(b",")) - row.endswith(b",")
        hint = "for images of another size give their height, width and channels with --image-shape"
        if self.shapes is not SHAPES:
            hint = "give images of this size, which --image-shape or the model says"
        if not row.strip(b', "'):
            hint = f"line {number} holds empty cells alone: remove it"
        elif row.startswith(b"#"):
            hint = f"line {number} is a comment, which is not read: remove it"
        elif values - len(beside) in self.shapes:
            shown = ", ".join(name or "the first, which has no name" for name in beside)
            hint = f"remove the columns that are not pixels: {shown}"
            if names[: len(beside)] == beside:
                hint += f"; with cut -d, -f{len(beside) + 1}- {self.path}"
        elif values - empty in self.shapes:
            hint = f"the lines end in empty cells, {empty} each: remove them"
        elif values == 2 or (beside and values < 10):
            hint = (
                "these seem to be labels: give the file or folder of images as IMAGES, and this with --labels"
            )
        elif values == 1:
            hint = "separate the values by commas"
        elif re.search(rb'"[ +-]?\d+,\d+"', row):
            hint = "its numbers have decimal commas: write decimal points"
        raise InvalidData(f"{self.path}: {values} values a line, expected {_widths(self.shapes)}: {hint}")


def _columns(table: _Table, shapes: dict[int, Shape], path: StrPath) -> range:
    """Return the columns of pixels: all but one of labels or an index; refuse what is not surely images."""
    names, width = table.header, table.width
    if width in shapes:
        columns = range(width)
        if table.label_column is not None and names:
            raise InvalidData(
                f"{path}: the header names a column of labels, {names[table.label_column]}, and"
                f" with it there are {width} values a line; expected {width} beside it: correct the header or"
                " the columns"
            )
    elif table.label_column is not None:
        columns = range(1, width) if table.label_column == 0 else range(width - 1)
    elif _is_index(table):
        columns = range(1, width)
    else:
        raise InvalidData(
            f"{path}: {width} values a line, expected {_widths(shapes)}: remove the column that is not pixels"
            " (labels belong in a file of their own, or under the header label): if it is the first, with"
            f" cut -d, -f2- {path}; if the last, with cut -d, -f-{width - 1} {path}"
        )
    if names is not None and len(names) != width and names[0].startswith("#"):
        raise InvalidData(f"{path}: line 1 is a comment, which is not read: remove it")
    if names is not None and len(names) not in (width, len(columns)):
        raise InvalidData(
            f"{path}: the header has {len(names)} names, but the lines have {width} values;"
            " expected as many: remove the header"
        )
    return columns


def _widths(shapes: dict[int, Shape]) -> str:
    return " or ".join(f"{values} ({format_shape(shape)})" for values, shape in shapes.items())


def _is_index(table: _Table) -> bool:
    """Tell whether a first column too many is an index, beyond doubt."""
    if table.counts_from is None:
        return False
    if table.header is None:  # two lines may begin with 0 and 1 by chance
        return len(table.offsets) - 1 >= 3
    return table.header[0].lower() in INDEX_NAMES or len(table.header) == table.width - 1


def _labels(table: _Table, path: StrPath) -> NDArray[np.int64]:
    """Return the labels of the images' own column."""
    labels = np.empty(len(table.label_cells), np.int64)
    for row, cell in enumerate(table.label_cells):
        label = whole_number(unquoted(cell).decode("latin1"))
        if label is None or not 0 <= label < 1 << 63:
            raise InvalidData(
                f"{path}: label {cell.decode('utf-8', 'replace')!r} in line"
                f" {row + table.first_line}; expected an integer from 0: number the classes 0, 1, ..."
            )
        labels[row] = label
    return labels


def _notes(table: _Table, columns: range, is_labelled: bool) -> tuple[str, ...]:
    notes = []
    if table.header is not None:
        names = ", ".join(printable(name[:20]) for name in table.header[:3])
        more = ", ..." if len(table.header) > 3 else ""
        notes.append(f"line 1 is taken for a header, not an image: {names}{more}")
    if is_labelled and table.label_column is not None:
        notes.append(f"column {table.label_column + 1} holds the labels")
    elif len(columns) < table.width:
        notes.append("column 1 counts the images, and is left out")
    return tuple(notes)


@functools.cache
def _compiled_parser() -> Callable[..., bool] | None:
    """Return `parse_numbers` where Numba compiles it."""
    module = imported("ckncuda.data.compiled.csv")
    return None if module is None else module.parse_numbers
