"""Descriptions of what a pickled CIFAR batch holds: names, types, arrays, and where their bytes lie.

Nothing is looked up and nothing is called: what NumPy and Python would make of the arguments is known here.
"""

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.positional import PositionalFile

AT_ONCE = 1 << 20  # bytes that are decoded at a time
MOST_AXES = 32


class Damaged(Exception):
    """Says what is wrong with a pickle, without its name."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name that the pickle asks for: one of a few, none of which is ever looked up."""

    module: str
    name: str


FORMS = {"bytes": 1, "utf-8": 2, "raw-unicode-escape": 6, "escapes": 4}
"""Forms that strings are written in, and how many bytes one byte takes there at most."""


NAMES = {
    (name.module, name.name): name
    for name in (
        Name("numpy.core.multiarray", "_reconstruct"),
        Name("numpy.core.multiarray", "scalar"),
        Name("numpy.core.numeric", "_frombuffer"),
        Name("numpy", "ndarray"),
        Name("numpy", "dtype"),
        Name("_codecs", "encode"),
    )
}


@dataclass(frozen=True, slots=True)
class LongString:
    """A string that stays in the file: where it begins, its length, and how its bytes are written there."""

    offset: int
    length: int
    form: str


@dataclass(slots=True)
class Type:
    """A type of NumPy's: a kind and a size, such as u1, and the order of its bytes."""

    code: str
    order: str = "="

    def dtype(self) -> np.dtype[Any]:
        """Return the type, of numbers."""
        return np.dtype(self.order + self.code)


@dataclass(slots=True)
class Array:
    """An array: its shape, its type, and where its bytes are."""

    shape: tuple[int, ...] = (0,)
    type: Type | None = None
    fortran: bool = False
    data: bytes | LongString = b""


def type_of(value: Any) -> str:
    """Name the type of a value, and no more of it: it may be large, or hold itself."""
    return f"a {type(value).__name__.lower()}"


def described(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the description of what a name makes of its arguments, as NumPy and Python define it.

    Examples
    --------
    >>> described("dtype", ("<i8", False, True)).dtype()
    dtype('int64')
    >>> described("dtype", ("O8", False, True))
    Traceback (most recent call last):
    ckncuda.data.pickle_descriptions.Damaged: an array of 'O8'; expected bytes or whole numbers
    """
    if name == "_reconstruct" and len(arguments) == 3 and arguments[0] == Name("numpy", "ndarray"):
        return Array()
    if name == "dtype" and 1 <= len(arguments) <= 3:
        return _type(arguments[0])
    if name == "scalar" and len(arguments) == 2:
        return _scalar(*arguments)
    if name == "_frombuffer" and len(arguments) == 4:
        data, kind, shape, order = arguments
        array = Array()
        if order not in ("C", "F"):
            raise Damaged("an order other than C and F")
        fill(array, (1, shape, kind, order == "F", data))
        return array
    if name == "encode" and len(arguments) == 2:
        return _encoded(*arguments)
    raise Damaged(f"{name} with arguments that are not its own")


def _type(name: Any) -> Type:
    text = name.decode("latin1") if type(name) is bytes else name
    if type(text) is not str or re.fullmatch(r"[<>|=]?([iu][1248]|b1|f[248])", text) is None:
        shown = repr(text[:40]) if type(text) is str else type_of(text)
        raise Damaged(f"an array of {shown}; expected bytes or whole numbers")
    return Type(text[-2:], text[0] if text[0] in "<>" else "=")


def set_order(kind: Type, state: tuple[Any, ...]) -> None:
    """Give a type its order of bytes, and nothing else."""
    order = state[1] if len(state) in (8, 9) else None
    order = order.decode("latin1") if type(order) is bytes else order
    plain = len(state) in (8, 9) and all(part is None for part in (*state[2:5], *state[8:]))
    if not plain or type(order) is not str or order not in ("|", "<", ">", "=") or state[5:7] != (-1, -1):
        raise Damaged("a type with a state that no whole number has")
    kind.order = "=" if order == "|" else order


def fill(array: Array, state: tuple[Any, ...]) -> None:
    """Give an array its shape, type and bytes; all must fit."""
    if len(state) not in (4, 5):
        raise Damaged("an array with a state that is not one")
    shape, kind, fortran, data = state[-4:]
    if (
        type(shape) is not tuple
        or len(shape) > MOST_AXES
        or not all(type(axis) is int and axis >= 0 for axis in shape)
    ):
        raise Damaged("an array of a shape that is none")
    if type(kind) is not Type or type(data) not in (bytes, LongString) or type(fortran) not in (bool, int):
        raise Damaged("an array without a type, or without its bytes")
    size = math.prod(shape) * int(kind.code[1:])
    longest = len(data) if isinstance(data, bytes) else data.length
    shortest = longest if isinstance(data, bytes) else -(-longest // FORMS[data.form])
    if not shortest <= size <= longest:
        raise Damaged(f"an array of {size:,} bytes, of which {longest:,} are there")
    array.shape, array.type, array.fortran, array.data = shape, kind, fortran == 1, data


def _scalar(kind: Any, data: Any) -> int | float:
    """Return one number of NumPy's."""
    if type(kind) is not Type or type(data) is not bytes or len(data) != int(kind.code[1:]):
        raise Damaged("a number whose bytes are not its type's")
    number: int | float = np.frombuffer(data, kind.dtype())[0].item()
    return number


def _encoded(text: Any, encoding: Any) -> bytes | LongString:
    """Return bytes that Python 3 has pickled for Python 2, as text in Latin-1."""
    if encoding not in ("latin1", "latin-1", b"latin1") or type(encoding) not in (str, bytes):
        shown = repr(encoding[:40]) if type(encoding) in (str, bytes) else type_of(encoding)
        raise Damaged(f"bytes encoded as {shown}")
    if type(text) is LongString and text.form in ("utf-8", "raw-unicode-escape"):
        return text
    if type(text) is not str:
        raise Damaged(f"{type_of(text)} where text belongs")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise Damaged("text that is no bytes") from error


def decoded(data: bytes, form: str) -> bytes | str:
    """Decode the bytes of a short string."""
    try:
        if form == "escapes":
            return codecs.escape_decode(data)[0]
        return data.decode(form, "surrogatepass" if form == "utf-8" else "strict")
    except ValueError as error:
        raise Damaged(f"a string is not what it should be: {error}") from error


def read_bytes(data: bytes | LongString, size: int, file: PositionalFile) -> NDArray[np.uint8]:
    """Read the bytes of an array, so many; raise `Damaged` if they are not as many."""
    out = np.empty(size, np.uint8)
    if isinstance(data, bytes):
        out[:] = np.frombuffer(data, np.uint8)
    elif data.form == "bytes":
        file.read_into(out, data.offset)
    else:
        done = 0
        for part in _parts(data, file):
            if done + len(part) > size:
                raise Damaged(f"an array of {size:,} bytes, of which there are more")
            out[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        if done < size:
            raise Damaged(f"an array of {size:,} bytes, of which {done:,} are there")
    return out


_WHOLE = re.compile(rb"(?:[^\\]|\\x[0-9a-fA-F]{2}|\\[^x])*+", re.DOTALL)  # escapes that do not break off


def _parts(text: LongString, file: PositionalFile) -> Iterator[bytes]:
    """Decode a long string, some of it at a time."""
    decoder = None if text.form == "escapes" else codecs.getincrementaldecoder(text.form)("strict")
    left = b""
    for start in range(0, text.length, AT_ONCE):
        chunk = np.empty(min(AT_ONCE, text.length - start), np.uint8)
        file.read_into(chunk, text.offset + start)
        is_last = start + len(chunk) == text.length
        try:
            if decoder is not None:
                yield decoder.decode(chunk.tobytes(), is_last).encode("latin1")
                continue
            left += chunk.tobytes()
            found = _WHOLE.match(left)
            assert found is not None  # it may be empty
            yield decoded(found[0], "escapes")  # type: ignore[misc]  # bytes
            left = left[found.end() :]
        except ValueError as error:
            raise Damaged(f"a string is not what it should be: {error}") from error
    if left:
        raise Damaged("a string breaks off")
