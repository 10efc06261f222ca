"""A pickled CIFAR batch, read without unpickling: plain data come of it, and descriptions of arrays.

A pickle is a program.  This interpreter of ours knows the instructions that a dictionary of lists, strings,
whole numbers and arrays needs, whichever Python and NumPy wrote it, and refuses all others.  It calls,
imports and hashes nothing that the file names, and long strings stay in the file: a description says where.
"""

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

from ckncuda.data.pickle_descriptions import (
    NAMES,
    Array,
    Damaged,
    LongString,
    Name,
    Type,
    decoded,
    described,
    fill,
    set_order,
    type_of,
)
from ckncuda.data.positional import PositionalFile

SHORT = 256  # bytes of a string that is read at once: a name, a key, the bytes of a number
LONGEST_LINE = 512  # bytes of a number or a name in the old, textual instructions
LONGEST_TEXT = 256 << 20  # bytes of a string in them: the images of a batch have 100 MB
MOST_INSTRUCTIONS = 1_500_000  # 60,000 images with labels of NumPy's integers take two thirds of them
MOST_TEXT = 64 << 20  # bytes of short strings in all
AT_ONCE = 1 << 20  # bytes of a line that are read at a time


class Interpreter:
    """Executes the instructions of one pickle, up to its end, which is the end of the file.

    Parameters
    ----------
    file : PositionalFile
        At its beginning.

    Examples
    --------
    >>> import pathlib, pickle, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "batch"
    >>> _ = path.write_bytes(pickle.dumps({b"labels": [6, 9]}))
    >>> Interpreter(PositionalFile(path)).run()
    {b'labels': [6, 9]}
    """

    def __init__(self, file: PositionalFile) -> None:
        self._file, self._stream = file, file.stream
        self._left = MOST_TEXT
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the pickle describes; raise `Damaged` if it is none of ours."""
        for _ in range(MOST_INSTRUCTIONS):
            code = self._stream.read(1)
            if code == b".":
                if self._stream.read(1):
                    raise Damaged("more follows behind its end")
                return self._pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Damaged(_unknown(code))
            instruction(self)
        raise Damaged(f"it has more than {MOST_INSTRUCTIONS:,} instructions")

    # What instructions take from the file.

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise Damaged("it ends in the middle")
        return data

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._read(size), "little", signed=signed)

    def _line(self) -> str:
        line = self._stream.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise Damaged("a line has no end")
        return line[:-1].decode("latin1")

    def _integer(self) -> int:
        text = self._line()
        if re.fullmatch(r"[+-]?\d{1,20}L?", text) is None:
            raise Damaged(f"{text[:40]!r} is no whole number")
        return int(text.removesuffix("L"))

    def _long(self, size: int) -> int:
        if size > 16:
            raise Damaged(f"a number of {size} bytes")
        return self._number(size, True)

    def _float(self) -> float:
        text = self._line()
        try:
            return float(text)
        except ValueError:
            raise Damaged(f"{text[:40]!r} is no number") from None

    def _string(self, length: int, form: str) -> bytes | str | LongString:
        """Return a short string, or where a long one is: bytes, or text where the form is UTF-8."""
        offset = self._stream.tell()
        if length > self._file.size - offset:
            raise Damaged(f"a string of {length:,} bytes is longer than the file")
        if length > SHORT:
            self._stream.seek(offset + length)
            return LongString(offset, length, form)
        self._count(length)
        data = self._read(length)
        return data if form == "bytes" else decoded(data, form)

    def _count(self, length: int) -> None:
        """Count a short string, which is kept; all of them are bounded."""
        self._left -= length
        if self._left < 0:
            raise Damaged(f"its short strings take more than {MOST_TEXT >> 20} MiB")

    def _textual(self, form: str) -> bytes | str | LongString:
        """Return a string that a line of text holds, as the oldest pickles have them."""
        offset = self._stream.tell()
        line = self._stream.readline(LONGEST_LINE)
        if line.endswith(b"\n"):
            length, ends = len(line) - 1, line[:1] + line[-2:-1]
        else:
            length = self._end_of_line(offset, len(line)) - offset
            ends = line[:1] + self._stream.read(2)[:1]
        if form == "escapes":
            if length < 2 or ends not in (b"''", b'""'):
                raise Damaged("a string is not quoted")
            offset, length, line = offset + 1, length - 2, line[1:]
        if length > SHORT:
            return LongString(offset, length, form)
        self._count(length)
        return decoded(line[:length], form)

    def _end_of_line(self, offset: int, searched: int) -> int:
        """Return where a long line ends, and leave the file before its last byte."""
        while searched <= LONGEST_TEXT:
            part = self._stream.read(AT_ONCE)
            if not part:
                raise Damaged("a line has no end")
            found = part.find(b"\n")
            if found >= 0:
                end = offset + searched + found
                self._stream.seek(end - 1)
                return end
            searched += len(part)
        raise Damaged(f"a line of more than {LONGEST_TEXT >> 20} MiB: pickle it again with protocol 2")

    # What they do with the stack.

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Damaged("its stack is empty")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        value = self._pop()
        if type(value) is not kind:
            raise Damaged(f"{type_of(value)} where a {kind.__name__.lower()} belongs")
        self._stack.append(value)
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise Damaged("a mark is missing")
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    def _popped(self, count: int) -> tuple[Any, ...]:
        begin = len(self._stack) - count
        if begin < (self._marks[-1] if self._marks else 0):
            raise Damaged("its stack is empty")
        values = tuple(self._stack[begin:])
        del self._stack[begin:]
        return values

    def _set(self, pairs: list[Any]) -> None:
        into = self._top(dict)
        if len(pairs) % 2:
            raise Damaged("a key has no value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, bytes):
                raise Damaged(f"{type_of(key)} as a key of a dictionary")
            into[key] = value

    def _dictionary(self) -> None:
        pairs = self._pop_to_mark()
        self._stack.append({})
        self._set(pairs)

    def _extend(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _remember(self, number: int) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[number] = value

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise Damaged(f"nothing was remembered as {number}")
        self._stack.append(self._memo[number])

    def _named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise Damaged("a name is no text")
        asked = NAMES.get((module.replace("numpy._core.", "numpy.core."), name))  # of NumPy 2, and 1
        if asked is None:
            trust = "" if module.startswith("numpy") else "; do not trust this file"
            raise Damaged(
                f"it asks for {module[:80]}.{name[:80]}, which no CIFAR batch needs:"
                f" refused before it ran{trust}"
            )
        self._stack.append(asked)

    def _reduce(self) -> None:
        what, arguments = self._popped(2)
        if type(what) is not Name or type(arguments) is not tuple:
            raise Damaged(f"{type_of(what)} is called")
        self._stack.append(described(what.name, arguments))

    def _build(self) -> None:
        state = self._pop()
        what = self._pop()
        self._stack.append(what)
        if type(state) is not tuple:
            raise Damaged(f"{type_of(state)} as a state")
        if type(what) is Type:
            set_order(what, state)
        elif type(what) is Array and what.type is None:
            fill(what, state)
        else:
            raise Damaged(f"{type_of(what)} is given a state")


def _unknown(code: bytes) -> str:
    if not code:
        return "it ends in the middle"
    known = next((op for op in pickletools.opcodes if op.code.encode("latin1") == code), None)
    return (
        f"an instruction {known.name if known else code.hex()}, which no CIFAR batch has: refused"
        " before it ran"
    )


def _instructions() -> dict[bytes, Callable[[Interpreter], None]]:
    """Return what each instruction does that a batch may have."""
    table: dict[bytes, Callable[[Any], object]] = {
        b"\x80": lambda m: m._read(1),  # PROTO
        b"\x95": lambda m: m._read(8),  # FRAME: a hint of how much to read, which is not needed
        b"(": lambda m: m._marks.append(len(m._stack)),
        b"}": lambda m: m._stack.append({}),
        b"]": lambda m: m._stack.append([]),
        b")": lambda m: m._stack.append(()),
        b"t": lambda m: m._stack.append(tuple(m._pop_to_mark())),
        b"l": lambda m: m._stack.append(m._pop_to_mark()),
        b"d": lambda m: m._dictionary(),
        b"a": lambda m: m._extend([m._pop()]),
        b"e": lambda m: m._extend(m._pop_to_mark()),
        b"s": lambda m: m._set(list(m._popped(2))),
        b"u": lambda m: m._set(m._pop_to_mark()),
        b"N": lambda m: m._stack.append(None),
        b"\x88": lambda m: m._stack.append(True),
        b"\x89": lambda m: m._stack.append(False),
        b"c": lambda m: m._named(m._line(), m._line()),
        b"\x93": lambda m: m._named(*m._popped(2)),
        b"R": lambda m: m._reduce(),
        b"b": lambda m: m._build(),
        b"I": lambda m: m._stack.append(m._integer()),
        b"L": lambda m: m._stack.append(m._integer()),
        b"J": lambda m: m._stack.append(m._number(4, True)),
        b"K": lambda m: m._stack.append(m._number(1)),
        b"M": lambda m: m._stack.append(m._number(2)),
        b"\x8a": lambda m: m._stack.append(m._long(m._number(1))),
        b"F": lambda m: m._stack.append(m._float()),
        b"G": lambda m: m._stack.append(struct.unpack(">d", m._read(8))[0]),
        b"S": lambda m: m._stack.append(m._textual("escapes")),
        b"V": lambda m: m._stack.append(m._textual("raw-unicode-escape")),
        b"p": lambda m: m._remember(m._integer()),
        b"q": lambda m: m._remember(m._number(1)),
        b"r": lambda m: m._remember(m._number(4)),
        b"\x94": lambda m: m._remember(len(m._memo)),
        b"g": lambda m: m._recall(m._integer()),
        b"h": lambda m: m._recall(m._number(1)),
        b"j": lambda m: m._recall(m._number(4)),
    }
    for count, code in enumerate((b"\x85", b"\x86", b"\x87"), 1):
        table[code] = lambda m, count=count: m._stack.append(m._popped(count))  # type: ignore[misc]
    strings = {"bytes": {b"U": 1, b"T": 4, b"C": 1, b"B": 4, b"\x8e": 8, b"\x96": 8}}
    strings["utf-8"] = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
    for form, codes in strings.items():
        for code, size in codes.items():
            table[code] = lambda m, size=size, form=form: m._stack.append(  # type: ignore[misc]
                m._string(m._number(size), form)
            )
    return table  # type: ignore[return-value]


_INSTRUCTIONS = _instructions()
