"""The first line of a CSV file: how its values are separated, and whether it is a header or an image."""

import csv
import os

from ckncuda.errors import InvalidData

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins its CSV files with it
# Cells that stand for a number which is missing: a line with one of them is no header.
MISSING = frozenset(
    [
        *(b"", b"na", b"n/a", b"#n/a", b"#na", b"<na>", b"nan", b"-nan", b"null", b"none", b"nil"),
        *(b"missing", b"-", b"--", b"?", b".", b"inf", b"-inf", b"undefined", b"#value!", b"#div/0!"),
        *(b"true", b"false"),
    ]
)
FEWEST_COUNTED = 4  # columns that a header may count: a line 0,1 may well be an image


def is_number(cell: bytes) -> bool:
    """Tell whether a cell is a number, NaN and infinity included."""
    try:
        float(cell)
    except ValueError:
        return False
    return b"_" not in cell  # Python reads 1_000, CSV does not


def unquoted(cell: bytes) -> bytes:
    """Return a cell without the quotes around it.

    Examples
    --------
    >>> unquoted(b' "3" ')
    b'3'
    """
    cell = cell.strip()
    return cell[1:-1].strip() if len(cell) > 1 and cell[:1] == cell[-1:] == b'"' else cell


def header_of(row: bytes) -> list[str] | None:
    """Return the cells of a file's first line if it is a header beyond doubt.

    It is one if no cell is a number, missing or empty, but the first, which pandas leaves empty above its
    index; or if its cells count 0, 1, 2, ..., as pandas names columns.

    Examples
    --------
    >>> header_of(b"label,pixel0,pixel1"), header_of(b"NA,NA,NA")
    (['label', 'pixel0', 'pixel1'], None)
    """
    cells = _cells(row.removesuffix(b","))
    named = cells[1:] if cells[0] == b"" and len(cells) > 1 else cells
    if any(is_number(cell.replace(b",", b".")) or cell.lower() in MISSING for cell in named):
        counted = cells if is_number(cells[0]) else cells[1:]
        if len(counted) < FEWEST_COUNTED or counted != [b"%d" % i for i in range(len(counted))]:
            return None
        if cells[0].lower() in MISSING - {b""}:
            return None
    return [cell.decode("utf-8", "replace") for cell in cells]


def _cells(row: bytes) -> list[bytes]:
    """Return the cells of a line, which may be in quotes and hold commas then."""
    if b'"' not in row:
        return [cell.strip() for cell in row.split(b",")]
    try:
        cells = next(csv.reader([row.decode("latin1")], skipinitialspace=True))
    except csv.Error:  # a cell longer than any name
        return [unquoted(cell) for cell in row.split(b",")]
    return [cell.strip().encode("latin1") for cell in cells]


def check_separators(line: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse a first line whose values or lines are separated otherwise than by commas and line ends."""
    problem = ""
    text = line.rstrip()
    if b"\r" in text:
        problem = (
            "its lines end in CR alone, as those of old Macintosh programs: convert them, with tr '\\r' '\\n'"
        )
    elif 2 * text.count(b";") + 1 >= text.count(b",") and b";" in text:
        decimal = ", and decimal commas" if b"," in text else ""
        problem = f"its values are separated by semicolons{decimal}; expected points in numbers, and"
        problem += " commas between them: separate the values by commas"
    elif b"\t" in text and b"," not in text:
        problem = "its values are separated by tabs: separate the values by commas, with tr '\\t' ,"
    elif b" " in text.strip() and b"," not in text and is_number(text.split()[0]):
        problem = "its values are separated by spaces: separate the values by commas, with tr -s ' ' ,"
    elif b"\0" in text:
        problem = "it holds zero bytes, and is no text: save it as comma separated numbers, in UTF-8"
    if problem:
        raise InvalidData(f"{os.fspath(path)}: {problem}")
