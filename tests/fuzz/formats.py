"""Mutations that know a format, and mend what would give them away: lengths, checksums, compression.

Without them a fuzzer tests checksums alone.  Each takes and gives the bytes of a file; what it cannot take
apart is mutated as bytes.
"""

import bz2
import copy
import gzip
import io
import json
import lzma
import pickletools
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from fuzz.mutations import NUMBERS, TEXTS, mutated, mutated_text, number_text, rearrange
from picture_files import chunk

Format = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]

DTYPES = (
    *("|u1", "|i1", "|b1", "<u2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f8", "<f16", "<c8", "|O", "|S3"),
    *("<U5", "|V4", "<M8[s]", "<m8[ns]", "[('a', '<f4')]", "[]", "|V0", "|S0", "<f3", "<i16", "U99999999999"),
    *("5,u1",),
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(None, True, False, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf"), 10**400),
    *([], {}, "", "nan", "x", "\x1b[31m", [0], [[]], {"a": 1}, [1, 2, 3], "9" * 400),
)


def raw(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate bytes."""
    return mutated(rng, data, others, words)


def text(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate text; now and then it is encoded as some programs do."""
    changed = mutated_text(rng, data.decode("utf-8", "replace"), [word.decode("latin1") for word in words])
    encoding = rng.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin1"))
    return changed.encode(encoding, "replace")


def npy(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate the header of an array, and mend its length; or the data."""
    if len(data) < 12 or not data.startswith(b"\x93NUMPY"):
        return raw(rng, data, others, words)
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    header, body = data[8 + width : 8 + width + length].decode("latin1"), data[8 + width + length :]
    kind = rng.randrange(6)
    if kind == 0:
        body = raw(rng, body, [], words)
    elif kind == 1:
        begin, end = header.find("'descr': ") + 9, header.find(", 'fortran")
        dtype = rng.choice(DTYPES)
        header = header[:begin] + (dtype if dtype[0] == "[" else repr(dtype)) + header[end:]
    elif kind == 2:
        begin, end = header.find("("), header.find(")") + 1
        shape = [rng.choice((*NUMBERS, 2, 3, 4, 5)) for _ in range(rng.randrange(6))]
        shown = str(tuple(shape)) if rng.random() < 0.8 else str(shape)
        header = header[:begin] + shown + header[end:]
    elif kind == 3:
        header = header.replace(
            *rng.choice((("False", "True"), ("True", "False"), ("False", "1"), ("'", '"')))
        )
    else:
        header = mutated_text(rng, header, ["descr", "shape", "lambda: 0", "(" * 300, "-" * 3000, "1" * 5000])
    encoded = header.encode("latin1", "replace").rstrip()
    version = rng.choice((data[6],) * 6 + (1, 2, 3))
    width = 2 if version == 1 else 4
    encoded += b" " * (-(len(encoded) + 9 + width) % 64) + b"\n"
    size = (len(encoded) % 256**width).to_bytes(width, "little")
    return data[:6] + bytes([version, 0]) + size + encoded + body


def zipped(inner: Format) -> Format:
    """Return mutations of an archive: of its members, which are compressed again, and of its directory."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(name, archive.read(name)) for name in archive.namelist()]
        except Exception:  # whatever zipfile says of an archive that was damaged before
            return raw(rng, data, others, words)
        at, kind = rng.randrange(len(members)), rng.randrange(8)
        name, content = members[at]
        if kind == 0:
            members.insert(rng.randrange(len(members)), (name, content))
        elif kind == 1 and len(members) > 1:
            del members[at]
        elif kind == 2:
            new = (
                *"\0x/",
                "labels.npy",
                "images.npy",
                "../x.npy",
                "y.npy",
                "x_train.npy",
                "é.npy",
                name.upper(),
            )
            members[at] = rng.choice(new), content
        else:
            members[at] = name, inner(rng, content, [], words)
        out = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
            warnings.simplefilter("ignore")  # of duplicate names, which are meant
            for name, content in members:
                method = rng.choice(
                    (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
                )
                archive.writestr(zipfile.ZipInfo(name), content, method)
        return raw(rng, out.getvalue(), others, words) if rng.random() < 0.2 else out.getvalue()

    return mutate


def gzipped(inner: Format) -> Format:
    """Return mutations of what a gzip file holds; now and then it is compressed otherwise."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
        try:
            content = inner(rng, gzip.decompress(data), [], words)
        except (OSError, EOFError, zlib.error):
            return raw(rng, data, others, words)
        pack = rng.choice((gzip.compress,) * 8 + (bz2.compress, lzma.compress, zlib.compress))
        behind = rng.choice((b"",) * 8 + (b"\0" * 20, b"more", gzip.compress(b"more"), gzip.compress(b"")))
        return pack(content) + behind

    return mutate


def png(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate the chunks of a PNG file, and mend their lengths and checksums."""
    if not data.startswith(b"\x89PNG"):
        return raw(rng, data, others, words)
    chunks, at = [], 8
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    at, kind = rng.randrange(len(chunks)), rng.randrange(7)
    name, content = chunks[at]
    if kind == 0:
        new = rng.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"acTL", b"fcTL", b"eXIf", b"gAMA")
        )
        bomb = zlib.compress(bytes(rng.choice((10, 10**6))))
        chunks.insert(at, (new, rng.choice((rng.randbytes(rng.randrange(64)), b"a\0\0" + bomb, content))))
    elif kind == 1:
        del chunks[at]
    elif kind == 2:
        head = bytearray(chunks[0][1].ljust(13, b"\0"))
        if rng.random() < 0.5:
            number = rng.choice(NUMBERS) % 2**32
            head[rng.choice((0, 4)) :][:4] = number.to_bytes(4, "big")
        else:
            head[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = chunks[0][0], bytes(head)
    elif kind == 3:
        pixels = [i for i, (each, _) in enumerate(chunks) if each == b"IDAT"]
        for i in pixels[:1]:
            try:
                chunks[i] = b"IDAT", zlib.compress(raw(rng, zlib.decompress(chunks[i][1]), [], words))
            except zlib.error:
                chunks[i] = b"IDAT", rng.randbytes(20)
    else:
        chunks[at] = name, raw(rng, content, [], words)
    return data[:8] + b"".join(chunk(name, content) for name, content in chunks)


def as_json(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate the values and keys of JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return raw(rng, data, others, words)
    return json.dumps(plain(rng, content, [word.decode("latin1") for word in words])).encode()


def plain(rng: random.Random, content: Any, words: Sequence[str] = ()) -> Any:
    """Return plain data of which a value or a key is another."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.05:
        return _another(rng, content, words)
    container = content
    while True:  # walk down to a container, most often a deep one
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = rng.choice(keys)
        below = container[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.15:
            break
        container = below
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice((*words, "x", "\x1b[1m", ""))] = container.pop(key)
    elif kind == 2:
        nested: Any = below
        for _ in range(rng.choice((1, 1, 2, 500))):
            nested = [nested] if rng.random() < 0.5 else {str(key): nested}
        container[key] = nested
    elif kind == 3 and isinstance(container, list):
        container.insert(key, copy.deepcopy(rng.choice((below, *VALUES))))
    else:
        container[key] = _another(rng, below, words)
    return content


def _another(rng: random.Random, value: Any, words: Sequence[str]) -> Any:
    if isinstance(value, str):
        return rng.choice((*words, mutated_text(rng, value, words), rng.choice(TEXTS)))
    if isinstance(value, int | float) and rng.random() < 0.5:
        whole = (value + 1, -value, value * 2, str(value))
        return rng.choice(whole if abs(value) > 2**1000 else (*whole, float(value), value / 2))
    return copy.deepcopy(rng.choice(VALUES))  # which may be mutated in its turn


def lines_of_json(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate one of many lines of JSON, or their order."""
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    if not rearrange(lines, at, to, rng.randrange(8)):
        lines[at] = (as_json if rng.random() < 0.9 else raw)(rng, lines[at], lines, words)
    return b"\n".join(lines)


def safetensors(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate the header of a file, or a model's specification in it, and mend the length; or the tensors."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        described = header.get("__metadata__", {})
        specification = json.loads(described["ckncuda"]) if described else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return raw(rng, data, others, words)
    body, known = data[8 + length :], [word.decode("latin1") for word in words]
    kind = rng.randrange(10 if specification else 4) + (0 if specification else 6)
    if kind < 5:
        for _ in range(rng.choice((1, 1, 2))):
            specification = plain(rng, specification, known)
        header["__metadata__"]["ckncuda"] = json.dumps(specification)
    elif kind == 5:
        entry = header["__metadata__"]["ckncuda"]
        header["__metadata__"]["ckncuda"] = mutated_text(rng, entry, known)
    elif kind < 8:
        header = plain(rng, header, [*known, "F64", "F32", "I64", "U8", "BF16", "F8_E4M3", "BOOL", "I32"])
    else:
        body = raw(rng, body, [], words)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + body


def pickled(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate the opcodes of a pickle: leave some out, repeat them, change their numbers."""
    try:
        starts = [at for _, _, at in pickletools.genops(data) if at is not None]
    except Exception:  # whatever pickletools says of what is no pickle
        return raw(rng, data, others, words)
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, to = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        kind = rng.randrange(7)
        if (kind or len(pieces) > 1) and rearrange(pieces, at, to, kind):
            continue
        if kind == 3:
            number = rng.choice(NUMBERS)
            four, nine = (number % 2**32).to_bytes(4, "little"), (number % 2**72).to_bytes(9, "little")
            numbers = [b"J" + four, b"K" + bytes([number % 256]), b"I%d\n" % number, b"\x8a\x09" + nine]
            pieces[at] = rng.choice((*numbers, b"N", b")", b"]", b"}", b"\x88"))
        elif kind == 4:
            pieces[at] = rng.choice(
                (b"R", b"b", b"0", b"2", b"(", b"t", b"\x85", b"\x86", b"\x87", b"u", b"e", b".")
            )
        elif kind == 5 and len(pieces[at]) > 1:
            pieces[at] = pieces[at][:1] + raw(rng, pieces[at][1:200], [], words) + pieces[at][200:]
        else:
            pieces[at] = pieces[at].replace(
                *rng.choice(((b"u1", b"O8"), (b"u1", b"i8"), (b"ndarray", b"matrix")))
            )
    if rng.random() < 0.3:  # frames, of which the lengths are wrong now, are not needed
        pieces = [piece for piece in pieces if not piece.startswith(b"\x95")]
    return b"".join(pieces)


def number_lines(rng: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Mutate one cell of a table of comma separated numbers, or a whole column."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    row = rng.choice(rows)
    at, kind = rng.randrange(len(row)), rng.randrange(4)
    new = number_text(rng).encode("utf-8", "replace")
    if kind == 0:
        row[at] = b'"' + row[at] + b'"'
    elif kind == 1:
        for each in rows:
            each.insert(min(at, len(each)), new)
    elif kind == 2:
        rows.insert(0, [rng.choice(words) if words else b"a" for _ in row])
    else:
        row[at] = new
    return b"\n".join(b",".join(row) for row in rows)
