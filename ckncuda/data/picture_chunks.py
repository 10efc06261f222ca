"""Data beside the pixels in a picture: comments, profiles, EXIF, tables; and pieces too many to go through.

Pillow gathers them before anybody can ask how large they are, and a GIF's comment piece by piece in a
time that grows with the square of its length; a table of numbers in a TIFF becomes ten times as large.  It
passes over chunks, segments and fillings one by one, be they empty and millions.  All are measured first.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ckncuda.errors import InvalidData

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_BESIDE = 4 << 20  # bytes in chunks of a PNG, or in extensions of a GIF, that hold no pixels
MOST_DIRECTORIES = 100  # of a TIFF, one a page
MOST_IN_FIRST = 1 << 20  # bytes in tables of the first of them, of which Python's objects are made
HARMLESS = 256 << 10  # bytes of a PNG or a GIF that cannot hold too many pieces
MOST_PIECES = 20_000  # chunks, segments, blocks, bytes of filling, and so many more:
BYTES_A_PIECE = {"PNG": 1024, "GIF": 128, "JPEG": 1024}  # one each; writers make them of 8,192, 255 and more
MOST_SCANS = 30  # of a progressive JPEG; writers make ten
PIXELS_OF_SCANS = 1 << 29  # pixels that more scans may refine in all, which takes half a second
LONGEST_HEADER = 64 << 10  # bytes of a PPM's, comments included
MOST_COMMENTS = 1000  # among numbers written as text
_PIXELS = (b"IDAT", b"fdAT")
_NUMBERS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of TIFF's numbers
_BESIDE = (0xDB, 0xED)  # JPEG's segments that Pillow takes apart: tables, Photoshop's
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # frames, which say how large the picture is
_WITHOUT_LENGTH = frozenset([0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)])
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # among coded pixels; others are pixels
_BETWEEN = rb"(?:\s|#[^\r\n]*+[\r\n])++"  # the numbers of a PPM's header
_HEADER_OF_PPM = re.compile(rb"P\S++(?:%b[^\s#]++){2}(?P<third>%b[^\s#])?" % (_BETWEEN, _BETWEEN))


def check_chunks(stream: BinaryIO, length: int, where: object) -> None:
    """Raise `InvalidData` if a picture of so many bytes holds more beside its pixels than any needs."""
    stream.seek(0)
    begin = stream.read(8)
    if begin.startswith((b"II", b"MM")):
        _check_pieces(_tiff_tables(stream), length, "TIFF", where)
    elif begin.startswith(b"\xff\xd8"):
        _check_pieces(_jpeg_segments(stream, where), length, "JPEG", where)
    elif begin[:1] == b"P" and begin[1:2] in b"0123456fFy":
        _check_text(stream, begin[1:2], length, where)
    elif begin == PNG_SIGNATURE and length > HARMLESS:
        sizes = (0 if name in _PIXELS else size for name, size, _ in png_chunks(stream))
        _check_pieces(sizes, length, "PNG", where)
    elif begin.startswith(b"GIF8") and length > HARMLESS:
        _check_pieces(_gif_blocks(stream), length, "GIF", where)


def _check_pieces(sizes: Iterator[int], length: int, format: str, where: object) -> None:
    """Raise if pieces are too many, or take too much beside the pixels."""
    most = MOST_PIECES + length // BYTES_A_PIECE[format] if format in BYTES_A_PIECE else None
    total = 0
    for pieces, size in enumerate(sizes, 1):
        total += size
        if total > MOST_BESIDE:
            raise InvalidData(
                f"{where} holds more than {MOST_BESIDE:,} bytes of comments or the like beside its"
                " pixels: save it anew without them, or remove it"
            )
        if most is not None and pieces > most:
            raise InvalidData(
                f"{where} is in more than {most:,} pieces, for its {length:,} bytes too many:"
                " save it anew, or remove it"
            )


def png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    r"""Yield the name, the length and the place of the content of each chunk of a PNG.

    Examples
    --------
    >>> import io
    >>> list(png_chunks(io.BytesIO(PNG_SIGNATURE + b"\0\0\0\2tEXtno1234" + b"\0\0\0\0IEND1234")))
    [(b'tEXt', 2, 16), (b'IEND', 0, 30)]
    """
    place, end = len(PNG_SIGNATURE), stream.seek(0, os.SEEK_END)
    while place + 8 <= end:
        stream.seek(place)
        length, name = struct.unpack(">I4s", stream.read(8))
        yield name, length, place + 8
        place += 12 + length


def _gif_blocks(stream: BinaryIO) -> Iterator[int]:
    """Yield how many bytes beside the pixels each block of a GIF holds; those of pixels hold none."""
    stream.seek(10)
    _skip_palette(stream, stream.read(1))
    while introducer := stream.read(1):
        yield 0
        if introducer == b"!":
            stream.seek(1, os.SEEK_CUR)
            yield from _sub_blocks(stream)
        elif introducer == b",":
            _skip_palette(stream, stream.read(9)[8:], before=0)
            stream.seek(1, os.SEEK_CUR)
            yield from (0 for _ in _sub_blocks(stream))
        # As Pillow does, pass over what is neither.


def _jpeg_segments(stream: BinaryIO, where: object) -> Iterator[int]:
    """Yield how many bytes Pillow takes apart of each segment of a JPEG, and of each byte of filling none.

    That is up to the pixels; Pillow passes over fillings, and whatever stands between, as is done here.
    """
    stream.seek(2)
    byte, pixels = stream.read(1), 0
    while byte:
        yield 0
        if byte != b"\xff":
            byte = stream.read(1)
            continue
        code = stream.read(1)
        if code in (b"", b"\xda"):
            break
        if code == b"\xff":
            continue
        if code[0] not in _WITHOUT_LENGTH:
            length, place = int.from_bytes(stream.read(2), "big"), stream.tell()
            if code[0] in _BESIDE or (code[0] == 0xE1 and stream.read(4) == b"Exif"):
                yield length
            if code[0] in _PROGRESSIVE:
                stream.seek(place)
                height, width = struct.unpack(">x2H", stream.read(5).ljust(5, b"\0"))
                pixels = max(pixels, height * width)
            stream.seek(place + max(length - 2, 0))
        byte = stream.read(1)
    if pixels:
        _check_scans(stream.read(), pixels, where)


def _check_scans(content: bytes, pixels: int, where: object) -> None:
    """Raise if a progressive JPEG refines its pixels again and again, which takes a few bytes each time.

    ``content`` begins with the length of the first scan's header.
    """
    place, scans = int.from_bytes(content[:2], "big"), 1
    while (found := _MARKER.search(content, place)) is not None and content[found.end() - 1] != 0xD9:
        code, place = content[found.end() - 1], found.end()
        if code not in _WITHOUT_LENGTH:
            place += int.from_bytes(content[place : place + 2], "big")
        scans += code == 0xDA
        if scans > MOST_SCANS and scans * pixels > PIXELS_OF_SCANS:
            raise InvalidData(
                f"{where} goes over its pixels more than {scans - 1} times: save it anew, as a"
                " baseline JPEG, or remove it"
            )


def _check_text(stream: BinaryIO, kind: bytes, length: int, where: object) -> None:
    """Raise if the header of a PPM is long, or comments are many among numbers that are written as text."""
    stream.seek(0)
    begin = stream.read(LONGEST_HEADER)
    header = _HEADER_OF_PPM.match(begin)
    complete = header is not None and (header["third"] is not None or kind in b"14")
    if length > LONGEST_HEADER and not complete:
        raise InvalidData(
            f"{where} has a header of more than {LONGEST_HEADER:,} bytes: save it anew, or remove it"
        )
    comments = 0
    if kind in b"123":
        stream.seek(0)
        while comments <= MOST_COMMENTS and (block := stream.read(1 << 20)):
            comments += block.count(b"#")
    if comments > MOST_COMMENTS:
        raise InvalidData(f"{where} holds more than {MOST_COMMENTS:,} comments: save it anew without them")


def _tiff_tables(stream: BinaryIO) -> Iterator[int]:
    """Yield how many bytes each table of numbers takes in the first directories of a TIFF.

    Those of the first count several times: of them Pillow makes objects.
    """
    stream.seek(0)
    head = stream.read(16).ljust(16, b"\0")
    order, is_big = ">" if head.startswith(b"MM") else "<", head[2] == 43
    number, entry, link = (
        f"{order}{code}" for code in (("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I"))
    )
    (place,) = struct.unpack_from(link, head, 8 if is_big else 4)
    for directory in range(MOST_DIRECTORIES):
        if not 0 < place < 1 << 62:
            return
        stream.seek(place)
        entries = stream.read(struct.calcsize(number))
        if len(entries) < struct.calcsize(number):
            return
        times = 1 if directory else MOST_BESIDE // MOST_IN_FIRST
        for _ in range(struct.unpack(number, entries)[0]):
            field = stream.read(struct.calcsize(entry))
            if len(field) < struct.calcsize(entry):
                return
            _, kind, count, _ = struct.unpack(entry, field)
            yield len(field) + times * count * _NUMBERS.get(kind, 0)
        following = stream.read(struct.calcsize(link)).ljust(struct.calcsize(link), b"\0")
        (place,) = struct.unpack(link, following)


def _skip_palette(stream: BinaryIO, flags: bytes, before: int = 2) -> None:
    stream.seek(before, os.SEEK_CUR)
    if flags and flags[0] & 0x80:
        stream.seek(3 << (flags[0] & 7) + 1, os.SEEK_CUR)


def _sub_blocks(stream: BinaryIO) -> Iterator[int]:
    """Pass over a sequence of sub-blocks, each after its length; yield their bytes."""
    while (length := stream.read(1)) and length[0]:
        stream.seek(length[0], os.SEEK_CUR)
        yield length[0]
