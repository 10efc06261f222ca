"""Data beside the pixels in a PNG, GIF, JPEG or TIFF file: comments, profiles, EXIF, tables.

Pillow gathers them before anybody can ask how large they are, and a GIF's comment piece by piece in a
time that grows with the square of its length; a table of numbers in a TIFF becomes ten times as large.  They
are measured first.
"""

import itertools
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ckncuda.errors import InvalidData, printable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_BESIDE = 4 << 20  # bytes in chunks of a PNG, or in extensions of a GIF, that hold no pixels
MOST_DIRECTORIES = 100  # of a TIFF, one a page
_PIXELS = (b"IDAT", b"fdAT")
_NUMBERS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of TIFF's types


def check_chunks(stream: BinaryIO, length: int, where: object) -> None:
    """Raise `InvalidData` if a picture of so many bytes holds more beside its pixels than any needs."""
    stream.seek(0)
    begin = stream.read(8)
    sizes: Iterator[int] = iter(())
    if begin.startswith((b"II", b"MM")):
        sizes = _tiff_tables(stream)
    elif length <= MOST_BESIDE:
        return
    elif begin == PNG_SIGNATURE:
        sizes = (size for name, size, _ in png_chunks(stream) if name not in _PIXELS)
    elif begin.startswith(b"GIF8"):
        sizes = _gif_extensions(stream)
    elif begin.startswith(b"\xff\xd8"):
        sizes = _jpeg_segments(stream)
    if any(total > MOST_BESIDE for total in itertools.accumulate(sizes)):
        raise InvalidData(
            f"{printable(where)} holds more than {MOST_BESIDE:,} bytes of comments or the like beside its"
            " pixels: save it anew without them, or remove it"
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


def _gif_extensions(stream: BinaryIO) -> Iterator[int]:
    """Yield how many bytes each extension of a GIF holds."""
    stream.seek(10)
    _skip_palette(stream, stream.read(1))
    while introducer := stream.read(1):
        if introducer == b"!":
            stream.seek(1, os.SEEK_CUR)
            yield _sub_blocks(stream)
        elif introducer == b",":
            _skip_palette(stream, stream.read(9)[8:], before=0)
            stream.seek(1, os.SEEK_CUR)
            _sub_blocks(stream)
        # As Pillow does, pass over what is neither.


def _jpeg_segments(stream: BinaryIO) -> Iterator[int]:
    """Yield how many bytes each segment of EXIF in a JPEG holds, up to the pixels."""
    stream.seek(2)
    while True:
        place, head = stream.tell(), stream.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return
        length = int.from_bytes(head[2:], "big")
        if head[1] == 0xE1 and stream.read(4) == b"Exif":
            yield length
        stream.seek(place + 2 + max(length, 2))


def _tiff_tables(stream: BinaryIO) -> Iterator[int]:
    """Yield how many bytes each table of numbers takes in the first directories of a TIFF."""
    stream.seek(0)
    head = stream.read(16).ljust(16, b"\0")
    order, is_big = ">" if head.startswith(b"MM") else "<", head[2] == 43
    number, entry, link = (
        f"{order}{code}" for code in (("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I"))
    )
    (place,) = struct.unpack_from(link, head, 8 if is_big else 4)
    for _ in range(MOST_DIRECTORIES):
        if not 0 < place < 1 << 62:
            return
        stream.seek(place)
        entries = stream.read(struct.calcsize(number))
        if len(entries) < struct.calcsize(number):
            return
        for _ in range(struct.unpack(number, entries)[0]):
            field = stream.read(struct.calcsize(entry))
            if len(field) < struct.calcsize(entry):
                return
            _, kind, count, _ = struct.unpack(entry, field)
            yield len(field) + count * _NUMBERS.get(kind, 0)
        following = stream.read(struct.calcsize(link)).ljust(struct.calcsize(link), b"\0")
        (place,) = struct.unpack(link, following)


def _skip_palette(stream: BinaryIO, flags: bytes, before: int = 2) -> None:
    stream.seek(before, os.SEEK_CUR)
    if flags and flags[0] & 0x80:
        stream.seek(3 << (flags[0] & 7) + 1, os.SEEK_CUR)


def _sub_blocks(stream: BinaryIO) -> int:
    """Pass over a sequence of sub-blocks, each after its length, and count their bytes."""
    total = 0
    while (length := stream.read(1)) and length[0]:
        stream.seek(length[0], os.SEEK_CUR)
        total += length[0]
    return total
