"""Pictures that are small and take long, or much memory, to go through: refused before they are decoded."""

import struct
import time
import zlib

import numpy as np
import pytest
from picture_files import chunk, encoded, png
from PIL import Image

from ckncuda.data.pictures import read_header, read_pixels
from ckncuda.errors import InvalidData

MIB = 1 << 20
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
GIF = encoded(Image.fromarray(GREY).convert("P"), "GIF")
JPEG = encoded(GREY, "JPEG")
SCREEN = 13 + 3 * (2 << (GIF[10] & 7)) * (GIF[10] >> 7)  # bytes of a GIF's header


def segment(code, content):
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def bmp_rle(width, height, packed):
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    sizes = struct.pack("<IHHI", 54 + len(palette) + len(packed), 0, 0, 54 + len(palette))
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(packed), 0, 0, 256, 0)
    return b"BM" + sizes + about + palette + packed


def tiff(width, height, pixels, **more):
    """A grey TIFF whose pixels follow its directory, and then the tables of its strips or tiles."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1}
    tags |= {int(name[1:]): value for name, value in more.items()}
    tables = {tag: value for tag, value in tags.items() if isinstance(value, np.ndarray)}
    place = 8 + 2 + 12 * len(tags) + 4
    end, fields = place + len(pixels), b""
    for tag, value in sorted(tags.items()):
        if tag in tables:
            fields += struct.pack("<HHII", tag, 4, len(value), end)
            end += 4 * len(value)
        else:
            fields += struct.pack("<HHII", tag, 4, 1, place if value is None else value)
    content = b"II*\0\10\0\0\0" + struct.pack("<H", len(tags)) + fields + bytes(4) + pixels
    return content + b"".join(value.astype("<u4").tobytes() for _, value in sorted(tables.items()))


def strips(count):
    where = np.full(count, 8 + 2 + 12 * 9 + 4)
    return tiff(8, count, bytes(8), _273=where, _278=1, _279=np.full(count, 8))


def tile(side):
    packed = zlib.compress(bytes(side * side), 1)
    return tiff(16, 16, packed, _259=8, _322=side, _323=side, _324=None, _325=len(packed))


def progressive(side, more):
    """A JPEG with so many scans more than it needs."""
    content = encoded(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * more + content[-2:]


BOMBS = {
    "empty chunks of pixels": lambda: png(8, 6, 0, beside=chunk(b"IDAT", b"") * 200_000),
    "empty chunks before pixels": lambda: png(8, 6, 0, beside=chunk(b"aaAa", b"") * 200_000),
    "empty chunks behind pixels": lambda: png(8, 6, 0)[:-12] + chunk(b"aaAa", b"") * 200_000,
    "a comment in bytes": lambda: GIF[:SCREEN] + b"!\xfe" + b"\1a" * MIB + b"\0" + GIF[SCREEN:],
    "empty extensions": lambda: GIF[:SCREEN] + b"!\1\0" * MIB + GIF[SCREEN:],
    "filling of a GIF": lambda: GIF[:SCREEN] + bytes(MIB) + GIF[SCREEN:],
    "frames of a pixel": lambda: GIF[:-1] + (b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2\0") * 200_000,
    "empty segments": lambda: JPEG[:2] + segment(0xEC, b"") * 200_000 + JPEG[2:],
    "filling of a JPEG": lambda: JPEG[:2] + b"\xff" * MIB + JPEG[2:],
    "what is between segments": lambda: JPEG[:2] + segment(0xEC, b"") + bytes(MIB) + JPEG[2:],
    "resources of Photoshop": lambda: (
        JPEG[:2] + segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000) * 80 + JPEG[2:]
    ),
    "tables of a JPEG": lambda: JPEG[:2] + segment(0xDB, (b"\0" + bytes(64)) * 1000) * 80 + JPEG[2:],
    "scans": lambda: progressive(4096, 200),
    "a comment in a header": lambda: b"P5\n#" + b"a" * MIB + b"\n8 6 255\n" + bytes(48),
    "spaces in a header": lambda: b"P5\n" + b" " * MIB + b"\n8 6 255\n" + bytes(48),
    "comments among numbers": lambda: b"P2 8 6 255\n" + b"#\n" * 2000 + b"1 " * 48,
    "many numbers as text": lambda: b"P2 4096 1025 255\n" + b"1 " * (4096 * 1025),
    "a scale of 254": lambda: b"P5 4096 1025 254\n" + bytes(4096 * 1025),
    "lines that end early": lambda: bmp_rle(4096, 4096, b"\1\1\0\0" * 4096 + b"\0\1"),
    "one long line": lambda: bmp_rle(1 << 22, 1, b"\0\2\0\xff\0\1"),
    "a tile of a small picture": lambda: tile(8192),
    "strips": lambda: strips(200_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_picture_that_takes_long_is_refused(tmp_path, bomb):
    path = tmp_path / "x.png"
    path.write_bytes(BOMBS[bomb]())
    start = time.process_time()
    with pytest.raises(InvalidData, match=r"x\.png"):
        read_header(path)
    with pytest.raises(InvalidData, match=r"x\.png"):
        read_pixels(path, "L")
    assert time.process_time() - start < 2


NOISE = np.random.default_rng(0).integers(0, 256, (900, 900), np.uint8)
GOOD = {
    "chunks of 8 KiB": encoded(NOISE, "PNG"),
    "chunks of a byte": b"".join(
        [
            png(8, 6, 0)[:33],
            *(chunk(b"IDAT", bytes([b])) for b in zlib.compress(bytes(54))),
            chunk(b"IEND", b""),
        ]
    ),
    "blocks of 255 bytes": encoded(
        Image.fromarray(NOISE), "GIF", save_all=True, append_images=[Image.fromarray(NOISE.T.copy())] * 4
    ),
    "segments of a camera": (
        JPEG[:2]
        + segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 60_000) * 90
        + b"\xff" * 20
        + segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60_000)
        + JPEG[2:]
    ),
    "a progressive JPEG": progressive(900, 10),
    "scans of a small picture": progressive(64, 200),
    "numbers as text": b"P2 # of us\n8 6\n# all\n255\n" + b"1 # one\n" * 48,
    "a packed bitmap": bmp_rle(8, 6, (b"\10\1\0\0") * 6 + b"\0\1"),
    "strips of a line": strips(4096),
    "a tile larger than the picture": tile(256),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_in_many_pieces_is_read(tmp_path, name):
    path = tmp_path / "x.png"
    path.write_bytes(GOOD[name])
    width, height = read_header(path).size
    assert read_pixels(path, "L").shape == (height, width)
