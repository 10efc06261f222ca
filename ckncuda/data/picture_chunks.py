"""Data beside the pixels in a PNG or GIF file: comments, profiles, EXIF.

Pillow gathers them before anybody can ask how large they are, and a GIF's comment piece by piece in a
time that grows with the square of its length: they are measured first.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from ckncuda.errors import InvalidData, printable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_BESIDE = 4 << 20  # bytes in chunks of a PNG, or in extensions of a GIF, that hold no pixels
_PIXELS = (b"IDAT", b"fdAT")


def check_chunks(stream: BinaryIO, length: int, where: object) -> None:
    """Raise `InvalidData` if a PNG or GIF of so many bytes holds more beside its pixels than any needs."""
    if length <= MOST_BESIDE:
        return
    stream.seek(0)
    begin = stream.read(8)
    if begin == PNG_SIGNATURE:
        beside = sum(size for name, size, _ in png_chunks(stream) if name not in _PIXELS)
    elif begin.startswith(b"GIF8"):
        beside = sum(_gif_extensions(stream))
    else:
        return
    if beside > MOST_BESIDE:
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
