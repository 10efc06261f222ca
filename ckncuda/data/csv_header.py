"""Cells of CSV files, and the first line: its separators, and whether it is a header or an image."""

import csv
import decimal
import re

from ckncuda.errors import InvalidData
from ckncuda.types import StrPath

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins its CSV files with it
# Cells that stand for a number which is missing: a line with one of them is no header.
MISSING = frozenset(
    [
        *(b"", b"na", b"n/a", b"#n/a", b"#na", b"<na>", b"nan", b"-nan", b"null", b"none", b"nil"),
        *(b"missing", b"-", b"--", b"?", b".", b"inf", b"-inf", b"undefined", b"#value!", b"#div/0!"),
        *(b"true", b"false"),
    ]
)
FEWEST_COUNTED = {0: 4, 1: 16}  # columns that a header may count, from 0 or further on: 1,2 may be an image
_WHOLE = re.compile(r"[+-]?[0-9]{1,99}(\.[0-9]{0,99})?([eE][+-]?[0-9]{1,2})?")


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


def whole_number(cell: str) -> int | None:
    """Return the whole number in a cell, however it is written; None where there is none.

    Examples
    --------
    >>> whole_number("3"), whole_number("3.0"), whole_number("3.000e+00"), whole_number("3.5")
    (3, 3, 3, None)
    """
    if cell.isascii() and cell.isdecimal() and len(cell) < 100:
        return int(cell)
    if not _WHOLE.fullmatch(cell):
        return None
    number = decimal.Decimal(cell)
    return int(number) if number == number.to_integral_value() else None


def header_of(row: bytes, following: bytes = b"") -> list[str] | None:
    """Return the cells of a file's first line if it is a header beyond doubt.

    It is one if no cell is a number, missing or empty, but the first, which pandas leaves empty above its
    index; or if its cells, but for names at both ends, count 0, 1, 2, ..., as pandas names columns, or many
    of them count on from another number, as where columns before them were taken out.  They are an image
    where the following line goes on counting.

    Examples
    --------
    >>> header_of(b"label,pixel0,pixel1"), header_of(b"NA,NA,NA")
    (['label', 'pixel0', 'pixel1'], None)
    """
    cells = _cells(row.removesuffix(b","))
    named = cells[1:] if cells[0] == b"" and len(cells) > 1 else cells
    if any(cell.lower() in MISSING for cell in named):
        return None
    places = [i for i, cell in enumerate(cells) if is_number(cell.replace(b",", b"."))]
    if places:
        counted = cells[places[0] : places[-1] + 1]
        start = int(counted[0]) if counted[0].isdigit() and len(counted[0]) < 9 else -1
        if len(counted) < FEWEST_COUNTED[min(max(start, 0), 1)]:
            return None
        end = start + len(counted)
        if counted != [b"%d" % i for i in range(start, end)]:
            return None
        if [unquoted(cell) for cell in following.split(b",")][places[0] : places[0] + 1] == [b"%d" % end]:
            return None
    return [cell.decode("utf-8", "replace") for cell in cells]


def is_mangled(row: bytes) -> bool:
    """Tell whether a first line is an image that pandas took for a header, whose names it made unique.

    Of the numbers 0, 0, 0, 9, 0 it writes 0, 0.1, 0.2, 9, 0.3, and the twelfth is 0.10, as no number ends.

    Examples
    --------
    >>> is_mangled(b"0,0.1,7,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.10"), is_mangled(b"0,0.1,7,0.2")
    (True, False)
    """
    seen: dict[bytes, int] = {}
    is_beyond_doubt = False
    for cell in map(unquoted, row.removesuffix(b",").split(b",")):
        base, _, number = cell.rpartition(b".")
        count = seen.get(base)
        if count is not None and number == b"%d" % count:
            seen[base] += 1
            is_beyond_doubt |= (count > 9 and count % 10 == 0) or not is_number(cell)
        elif cell in seen or not is_number(cell):
            return False
        else:
            seen[cell] = 1
    return is_beyond_doubt


def _cells(row: bytes) -> list[bytes]:
    """Return the cells of a line, which may be in quotes and hold commas then."""
    if b'"' not in row:
        return [cell.strip() for cell in row.split(b",")]
    try:
        cells = next(csv.reader([row.decode("latin1")], skipinitialspace=True))
    except csv.Error:  # a cell longer than any name
        return [unquoted(cell) for cell in row.split(b",")]
    return [cell.strip().encode("latin1") for cell in cells]


def check_separators(line: bytes, path: StrPath) -> None:
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
        raise InvalidData(f"{path}: {problem}")
