"""Mutations of bytes and of text that know no format; all are drawn from the generator that is given."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 10, 127, 128, 255, 256, 65535, 65536, 10**6),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64),
)
"""Integers at limits, of both signs and of any size."""

TEXTS = (
    *("", "-0", "+1", "1e400", "1e-400", "-1e38", "3.5e38", "nan", "NaN", "inf", "-Infinity", "0x10", "1_0"),
    *("½", "0.5", "1.0", "1e3", "true", "None", "null", "٣", "\ufeff", "\x00", "\x1b[31m", "\n", "\r"),
    *("\r\n", "\t", '"', "'", "[", "]", "{", "}", "(", ")", ",", ":", "=", "\\", "\\u0000", "\u2028"),
    *("9" * 400, "[" * 3000),
)
"""Words that readers of text may not expect."""


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return the data after one to three mutations; others are spliced with it, words inserted."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_OF_BYTES)(rng, data, others, words)
    return data


def mutated_text(rng: random.Random, text: str, words: Sequence[str]) -> str:
    """Return a text after one to three mutations of its numbers, words and lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(_OF_TEXT)(rng, text, words)
    return text


def number_text(rng: random.Random) -> str:
    """Return a number as people or machines write it, most of them at a limit."""
    return str(rng.choice(NUMBERS)) if rng.random() < 0.7 else rng.choice(TEXTS)


def place(rng: random.Random, length: int) -> int:
    """Return a place in so many bytes; every second one among the first, where the header is."""
    return rng.randrange(max(1, min(length, 128) if rng.random() < 0.5 else length))


def rearrange(pieces: list[Any], at: int, to: int, kind: int) -> bool:
    """Leave a piece out, repeat it or exchange it with another, as kinds 0 to 2 say; False of other kinds."""
    if kind == 0:
        del pieces[at]
    elif kind == 1:
        pieces.insert(to, pieces[at])
    elif kind == 2:
        pieces[at], pieces[to] = pieces[to], pieces[at]
    return kind < 3


_Bytes = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def _flip(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[place(rng, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace_byte(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = place(rng, len(data))
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = place(rng, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 100))) + data[at:]


def _insert_word(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = place(rng, len(data))
    word = rng.choice(words) if words else b"\0"
    return data[:at] + word + data[at + rng.choice((0, len(word))) :]


def _delete(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = place(rng, len(data))
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 64, rng.randrange(1 + len(data)))) :]


def _truncate(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    return data[: rng.choice((place(rng, len(data)), max(0, len(data) - rng.randrange(1, 9))))]


def _duplicate(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = place(rng, len(data))
    piece = data[at : at + rng.choice((1, 4, 16, 256, len(data)))]
    return data[:at] + piece * rng.choice((2, 2, 3, 10)) + data[at + len(piece) :]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    at, from_ = place(rng, len(data)), place(rng, len(other))
    return data[:at] + other[from_ : from_ + rng.choice((4, 32, 256, len(other)))] + data[at:]


def _integer(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    width, at = rng.choice((1, 2, 4, 4, 8, 8)), place(rng, len(data))
    if rng.random() < 0.5:
        at -= at % width
    number = rng.choice(NUMBERS) % 256**width
    return data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def _fill(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, length = place(rng, len(data)), rng.choice((2, 8, 64, 1024))
    return data[:at] + rng.choice((b"\0", b"\xff", b" ", b"0")) * length + data[at + length :]


def _number_in_text(
    rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    return _number(rng, data.decode("latin1"), ()).encode("latin1", "replace")


_OF_BYTES: tuple[_Bytes, ...] = (
    *(_flip, _flip, _replace_byte, _insert, _insert_word, _delete, _truncate, _duplicate, _splice),
    *(_integer, _integer, _fill, _number_in_text),
)

_Text = Callable[[random.Random, str, Sequence[str]], str]


def _number(rng: random.Random, text: str, words: Sequence[str]) -> str:
    found = list(re.finditer(r"-?\d[\d.e+-]*", text[:20_000]))
    if not found:
        return text + number_text(rng)
    where = rng.choice(found)
    return text[: where.start()] + number_text(rng) + text[where.end() :]


def _word(rng: random.Random, text: str, words: Sequence[str]) -> str:
    found = list(re.finditer(r"[A-Za-z_]\w*", text[:20_000]))
    new = rng.choice((*words, *TEXTS))
    if not found:
        return new + text
    where = rng.choice(found)
    return text[: where.start()] + new + text[where.end() :]


def _insert_text(rng: random.Random, text: str, words: Sequence[str]) -> str:
    at = place(rng, len(text))
    return text[:at] + rng.choice((*words, *TEXTS)) + text[at:]


def _delete_text(rng: random.Random, text: str, words: Sequence[str]) -> str:
    at = place(rng, len(text))
    return text[:at] + text[at + rng.choice((1, 1, 2, 5, 20)) :]


def _lines(rng: random.Random, text: str, words: Sequence[str]) -> str:
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    if not rearrange(lines, at, to, rng.randrange(4)):
        lines.insert(at, "")
    return rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)


def _character(rng: random.Random, text: str, words: Sequence[str]) -> str:
    at = place(rng, len(text))
    return text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) + text[at + 1 :]


_OF_TEXT: tuple[_Text, ...] = (_number, _number, _word, _word, _insert_text, _delete_text, _lines, _character)
