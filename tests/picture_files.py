"""Pictures as bytes, some of which Pillow does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, format, **options):
    """The file of an image of Pillow, or of an array."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()  # saving changes it
    if "append_images" in options:
        options["append_images"] = [more.copy() for more in options["append_images"]]
    image.save(file, format, **options)
    return file.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, colour_type=2, bits=8, rows=b"", beside=b""):
    """A PNG whose header announces a size, with compressed rows and other chunks, whatever they hold."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + beside + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_png(colour_type, channels):
    """A PNG of 9x6 pixels with 16 bits a channel."""
    return png(9, 6, colour_type, 16, bytes(6 * (1 + 9 * 2 * channels)))


def deep_tiff(bits=16, kind=1, channels=3, strips=1):
    """A TIFF of 9x6 pixels of so many bits, of a kind (2: with sign), with a table of strips."""
    pixels = 9 * 6 * channels * bits // 8
    tags = {
        256: (3, [9]),
        257: (3, [6]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        262: (3, [2 if channels > 1 else 1]),
    }
    tags |= {273: (4, [0] * strips), 277: (3, [channels]), 278: (3, [6]), 279: (4, [pixels])}
    tags |= {339: (3, [kind] * channels)} | ({338: (3, [0] * (channels - 3))} if channels > 3 else {})
    place = 8 + 2 + 12 * len(tags) + 4
    fields, tables = [], b""
    for tag, (form, values) in sorted(tags.items()):
        value = struct.pack(f"<{len(values)}{'xxxHI'[form]}", *values)
        if len(value) > 4:
            tables += value
            value = struct.pack("<I", place + len(tables) - len(value))
        fields.append(struct.pack("<HHI", tag, form, len(values)) + value.ljust(4, b"\0"))
    content = b"II*\0\10\0\0\0" + struct.pack("<H", len(tags)) + b"".join(fields) + bytes(4) + tables
    if strips == 1:  # the pixels follow
        strip = struct.pack("<HHI", 273, 4, 1)
        content = content.replace(strip + bytes(4), strip + struct.pack("<I", len(content)))
    return content + bytes(pixels)


def gif_with_comment(length):
    """A GIF of one pixel with a comment of so many bytes."""
    blocks = b"".join(b"\xff" + b"x" * 255 for _ in range(length // 255))
    pixel = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"!\xfe" + blocks + b"\0" + pixel
