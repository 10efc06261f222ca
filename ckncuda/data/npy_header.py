"""The header of NumPy's format, read without evaluating anything in it.

It is a Python literal of three entries, `{'descr': '<f4', 'fortran_order': False, 'shape': (10, 3), }`,
behind a magic word, the version of the format and the literal's length.
"""

import math
import re
from typing import IO, Any

import numpy as np

from ckncuda.data.positional import Header
from ckncuda.errors import InvalidData
from ckncuda.files.foreign import BEGIN, kind_of

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}  # by version; 3.0 is for field names that are not Latin: no images
LONGEST = 10_000  # bytes of a header: NumPy's own limit
MOST_AXES = 32

# Nothing in these patterns is tried twice, however long a run of spaces or digits is.
_NUMBERS = r"\s*+(?:\d{1,19}L?\s*+(?:,\s*+\d{1,19}L?\s*+)*+,?\s*+)?+"
_ENTRY = re.compile(
    r"""\s*+['"](?P<key>descr|fortran_order|shape)['"]\s*+:\s*+(?:
        [ub]?'(?P<descr>[^'\\]*+)' | [ub]?"(?P<other>[^"\\]*+)" | (?P<order>True|False)
        | \((?P<shape>NUMBERS)\)
    )\s*+(?:,|(?=\}))""".replace("NUMBERS", _NUMBERS),
    re.VERBOSE | re.ASCII,
)
_PLAIN = re.compile(
    r"[<>|=]?[biufcSUVMm?][0-9]{0,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?|u?int(8|16|32|64)|float(16|32|64)|bool"
)


def read_npy_header(stream: IO[bytes], where: str) -> Header:
    """Read the header of an array, from the stream's beginning through to where the data begin.

    Raises
    ------
    InvalidData
        This is no array in NumPy's format, or one of something other than plain values.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros((3, 2), np.uint8))
    >>> _ = file.seek(0)
    >>> read_npy_header(file, "x.npy")
    Header(shape=(3, 2), order='C', dtype=dtype('uint8'), begin=128)
    """
    begin = stream.read(8)
    if begin[:6] != MAGIC or len(begin) < 8:
        if (kind := kind_of(begin + stream.read(BEGIN))) is not None:
            raise InvalidData(f"{where} {kind}")
        raise InvalidData(_damaged(where, f"it begins with {begin[:6]!r}"))
    version = begin[6], begin[7]
    if version not in LENGTH_BYTES:
        raise InvalidData(_damaged(where, f"version {version[0]}.{version[1]} of the format"))
    size = stream.read(LENGTH_BYTES[version])
    length = int.from_bytes(size, "little")
    text = stream.read(length) if length <= LONGEST else b""
    if len(size) < LENGTH_BYTES[version] or len(text) < length:
        raise InvalidData(_damaged(where, f"a header of {length:,} bytes, which are not there"))
    entries = _entries(text.decode("latin1"), where)
    shape = tuple(map(int, re.findall("[0-9]+", entries["shape"])))
    dtype = _plain_type(entries["descr"], where)
    if len(shape) > MOST_AXES or math.prod(shape) * dtype.itemsize >= 1 << 62:
        raise InvalidData(_damaged(where, f"a shape of {len(shape)} axes, {shape!s:.100}"))
    return Header(shape, "F" if entries["fortran_order"] == "True" else "C", dtype, 8 + len(size) + length)


def _entries(text: str, where: str) -> dict[str, str]:
    """Return the three entries of a header, each as it is written."""
    text = text.strip()
    entries: dict[str, str] = {}
    place = 1
    while (found := _ENTRY.match(text, place)) is not None:
        key = found["key"]
        values = {
            "descr": found["descr"] or found["other"],
            "fortran_order": found["order"],
            "shape": found["shape"],
        }
        if key in entries or values[key] is None:
            break
        entries[key], place = values[key], found.end()
    rest = text[place:].strip()
    if not text.startswith("{") or rest != "}" or len(entries) != 3:
        if re.match(r"\s*['\"]descr['\"]\s*:\s*[\[(]", rest):
            raise InvalidData(
                f"{where} holds records of several fields; expected plain numbers: give one field"
            )
        raise InvalidData(_damaged(where, f"the header {text[:100]!r}"))
    return entries


def _plain_type(descr: str, where: str) -> np.dtype[Any]:
    if descr.lstrip("<>|=").startswith("O"):
        raise InvalidData(
            f"{where} holds pickled Python objects, which are never loaded; expected numbers: save"
            " numpy.array(a.tolist()) in place of the array a"
        )
    try:
        dtype = np.dtype(descr) if _PLAIN.fullmatch(descr) else None
    except (TypeError, ValueError, OverflowError, MemoryError):  # of names that NumPy does not know
        dtype = None
    if dtype is None or dtype.hasobject or not dtype.itemsize or dtype.kind == "V":
        raise InvalidData(_damaged(where, f"values of type {descr[:100]!r}, which are no plain numbers"))
    return dtype


def _damaged(where: str, what: str) -> str:
    return f"{where} is no array in NumPy's format, or is damaged: {what}: save it again by numpy.save"
