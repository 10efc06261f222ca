import contextlib
import io
import os
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from picture_files import chunk, deep_png, deep_tiff, encoded, gif_with_comment, png
from PIL import Image, ImageOps

from ckncuda.data.pictures import read_header, read_pixels
from ckncuda.errors import InvalidData

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
FRAMES = [Image.fromarray(RNG.integers(0, 256, (6, 9, 3), np.uint8)) for _ in range(3)]
SEQUENCE = {"save_all": True, "append_images": FRAMES[1:]}


@pytest.fixture
def picture(tmp_path):
    """Write a picture; return where it lies."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def turned(suffix, tag):
    """A picture that is to be turned by EXIF's tag, and, in quotes, what stands where in its file."""
    exif = Image.Exif()
    exif[0x0112] = tag
    if suffix == "tif":
        return encoded(RGB, "TIFF", tiffinfo={0x0112: tag})
    if suffix == "late.png":  # behind the pixels, where ExifTool writes it
        plain = encoded(RGB, "PNG")
        end = plain.index(b"IEND") - 4
        return plain[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[end:]
    if suffix == "xmp.jpg":
        return encoded(RGB, "JPEG", xmp=b'<x:xmpmeta tiff:Orientation="%d"/>' % tag)
    options = {"webp": {"lossless": True}}.get(suffix, {})
    return encoded(RGB, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix], exif=exif, **options)


@pytest.mark.parametrize("suffix", ["jpg", "png", "late.png", "webp", "tif", "xmp.jpg"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_as_they_are_displayed(picture, suffix, tag):
    file = picture(f"x.{suffix}", turned(suffix, tag))
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert expected.size == ((9, 6) if tag < 5 else (6, 9))
    assert read_header(file).size == expected.size
    np.testing.assert_array_equal(read_pixels(file, "RGB"), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"]
)
def test_pictures_with_damaged_exif_are_shown_as_stored(picture, exif):
    file = picture("x.png", encoded(RGB, "PNG", exif=exif))
    np.testing.assert_array_equal(read_pixels(file, "RGB"), RGB)


DEEP = {
    "grey.png": deep_png(0, 1),
    "rgb.png": deep_png(2, 3),
    "grey with alpha.png": deep_png(4, 2),
    "rgba.png": deep_png(6, 4),
    "rgb.tif": deep_tiff(),
    "grey.tif": encoded(np.zeros((6, 9), np.uint16), "TIFF"),
    "float.tif": encoded(np.zeros((6, 9), np.float32), "TIFF"),
    "int.tif": encoded(np.zeros((6, 9), np.int32), "TIFF"),
    "rgb.ppm": b"P6 9 6 65535 " + bytes(9 * 6 * 6),
    "grey.pgm": b"P5 9 6 1023 " + bytes(9 * 6 * 2),
    "signed.tif": deep_tiff(bits=8, kind=2, channels=1),
    "five channels.tif": deep_tiff(bits=8, channels=5),
    "float.pgm": b"Pf 9 6 -1.0 " + bytes(9 * 6 * 4),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused_and_not_cut(picture, name):
    with pytest.raises(
        InvalidData,
        match=r"more than 8 bits a channel, or signs, or more than 4 channels.*float32 array.*\.npy",
    ):
        read_header(picture(name, DEEP[name]))


@pytest.mark.parametrize(
    ("name", "content", "pages"),
    [
        ("x.tif", encoded(FRAMES[0], "TIFF", **SEQUENCE), "3"),
        ("x.gif", encoded(FRAMES[0], "GIF", **SEQUENCE), "3"),
        ("x.png", encoded(FRAMES[0], "PNG", **SEQUENCE), "3"),
        ("x.webp", encoded(FRAMES[0], "WEBP", **SEQUENCE), "3"),
        ("x.jpg", encoded(FRAMES[0], "MPO", **SEQUENCE), "3"),
        (
            "many.tif",
            encoded(FRAMES[0], "TIFF", save_all=True, append_images=[FRAMES[1]] * 120),
            "100 or more",
        ),
        *((f"one.{f}", encoded(FRAMES[0], f), "1") for f in ("tiff", "gif", "png", "webp", "bmp")),
    ],
)
def test_pages_are_counted(picture, name, content, pages):
    assert read_header(picture(name, content)).pages == pages


# Formats of Pillow that the reader does not name.  EPS would start Ghostscript.
UNNAMED = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\n%%EOF\n",
    "EPS in DOS": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 80) + bytes(20) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PSD": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 6, 9, 8, 3) + bytes(12 + 2 + 162),
    "WMF": b"\xd7\xcd\xc6\x9a"
    + struct.pack("<HhhhhH4xH", 0, 0, 0, 9, 6, 72, 0)
    + b"\1\0\x09\0\0\3"
    + bytes(60),
    "DDS": encoded(RGB, "DDS"),
    "SPIDER": encoded(np.zeros((6, 9), np.float32), "SPIDER"),
    "BLP": encoded(Image.fromarray(RGB).convert("P"), "BLP"),
    "TGA": encoded(RGB, "TGA"),
    "ICO": encoded(RGB, "ICO"),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_formats_that_are_not_named_are_not_opened(picture, tmp_path, monkeypatch, name):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    file = picture("1.png", UNNAMED[name])
    for read in (read_header, lambda file: read_pixels(file, "RGB")):
        with pytest.raises(InvalidData, match=r"cannot read the image .*1\.png"):
            read(file)
    assert not (tmp_path / "ran").exists()


HUGE = {
    "65535x65535.png": png(65535, 65535),
    "13300x13300.png": png(13300, 13300),
    "6000x6000.png": png(6000, 6000),
    "8000x8400.png": png(8000, 8400, beside=chunk(b"tEXt", b"x\0" + bytes(2 << 20))),
    "10000x10000 grey.png": png(10000, 10000, colour_type=0),
    "65535x65535.jpg": encoded(RGB, "JPEG").replace(struct.pack(">HH", 6, 9), b"\xff\xff\xff\xff"),
    "65535x65535.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0"
    + bytes(6)
    + b",\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
    "65535x65535.bmp": b"BM"
    + struct.pack("<IIIIiiHHIIiiII", 100, 0, 54, 40, 65535, 65535, 1, 24, *[0] * 6)
    + bytes(9),
    "65535x65535.ppm": b"P6 65535 65535 255 " + bytes(9),
    "text.png": png(9, 6, beside=chunk(b"tEXt", b"x\0" + bytes(50 << 20))),
    "compressed text.png": png(9, 6, beside=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 28)))),
    "profile.png": png(9, 6, beside=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 28)))),
    "comment.gif": gif_with_comment(20 << 20),
    "table.tif": deep_tiff(bits=8, strips=10 << 20),
    "exif.jpg": b"\xff\xd8" + (b"\xff\xe1\xff\xffExif\0\0II*\0" + bytes(65523)) * 900,
}


@pytest.mark.parametrize("name", HUGE)
def test_bombs_are_refused_before_they_go_off(picture, name):
    file = picture(name, HUGE[name])
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InvalidData, match=r"pixels|beside its pixels|cannot read the image|pieces"):
        read_header(file)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 100 << 20


@pytest.mark.parametrize(
    ("size", "mode", "name", "tag"),
    [
        ((6000, 4000), "RGB", "24.jpg", 6),
        ((7008, 4672), "CMYK", "33.jpg", 1),
        ((8064, 6048), "RGB", "48.jpg", 1),
        ((5472, 3648), "RGB", "20.tif", 1),
    ],
)
def test_photographs_of_cameras_are_read(picture, size, mode, name, tag):
    colours = RNG.integers(0, 256, (63, 84, len(mode)), np.uint8)
    image = Image.fromarray(colours, mode).resize(size, Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x0112] = tag
    file = picture(name, encoded(image, "TIFF" if name.endswith("tif") else "JPEG", exif=exif))
    width, height = size if tag == 1 else size[::-1]
    assert read_header(file).size == (width, height)
    pixels = read_pixels(file, "RGB")
    with Image.open(file) as stored:
        expected = ImageOps.exif_transpose(stored)
    for box in ((0, 0, 50, 50), (width - 50, height - 50, width, height)):
        left, top, right, bottom = box
        assert np.array_equal(pixels[top:bottom, left:right], expected.crop(box).convert("RGB"))


@pytest.mark.parametrize("name", ["palette.png", "exif.jpg", "13300x7000.jpg"])
def test_warnings_of_pillow_name_no_file_and_are_not_passed_on(picture, name, recwarn):
    palette = Image.fromarray(RGB).convert("P")
    content = {
        "palette.png": encoded(palette, "PNG", transparency=bytes([0, 128, 255])),
        "exif.jpg": encoded(RGB, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff"),
        "13300x7000.jpg": encoded(RGB, "JPEG").replace(
            struct.pack(">HH", 6, 9), struct.pack(">HH", 7000, 13300)
        ),
    }[name]
    file = picture(name, content)
    with contextlib.suppress(InvalidData):
        read_header(file)
        read_pixels(file, "RGB")
    assert not recwarn.list


def test_a_sparse_file_is_refused_by_its_length(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.write(png(9, 6)[:33] + struct.pack(">I", 2 << 30) + b"tEXt")
        file.truncate(3 << 30)
    with pytest.raises(InvalidData, match=r"3,221,225,472 bytes; expected a picture of at most"):
        read_header(tmp_path / "x.png")


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fifo, "is a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nothing"),
        (lambda path: path.symlink_to(path), "cannot read the image"),
        (lambda path: path.touch(), "is empty"),
    ],
    ids=["fifo", "device", "folder", "dangling link", "link to itself", "empty"],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make, message):
    make(tmp_path / "x.png")
    with pytest.raises(InvalidData, match=rf"x\.png.*{message}|{message}.*x\.png"):
        read_header(tmp_path / "x.png")


SEEDS = {
    "png": encoded(RGB, "PNG"),
    "palette.png": encoded(FRAMES[0].convert("P"), "PNG"),
    "apng": encoded(FRAMES[0], "PNG", **SEQUENCE),
    "jpg": encoded(RGB, "JPEG"),
    "mpo": encoded(FRAMES[0], "MPO", **SEQUENCE),
    "gif": encoded(FRAMES[0], "GIF", **SEQUENCE),
    "bmp": encoded(RGB, "BMP"),
    "tif": encoded(FRAMES[0], "TIFF", **SEQUENCE),
    "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "webp": encoded(RGB, "WEBP"),
    "ppm": encoded(RGB, "PPM"),
    "text.ppm": b"P3\n4 4\n255\n" + b"1 2 3 " * 16,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_pictures_are_read_or_refused(picture, name):
    rng = np.random.default_rng(1)
    for _ in range(60):
        content = bytearray(SEEDS[name])
        for _ in range(rng.integers(1, 6)):
            place = int(rng.integers(min(len(content), 100) if rng.random() < 0.5 else len(content)))
            match rng.integers(4):
                case 0:
                    content[place] = rng.integers(256)
                case 1:
                    content[place : place + 4] = (b"\xff\xff\xff\xff", bytes(4))[rng.integers(2)]
                case 2:
                    del content[place : place + int(rng.integers(1, 9))]
                case 3:
                    content[place:place] = rng.integers(0, 256, 5, np.uint8).tobytes()
        file = picture("x.png", bytes(content))
        with contextlib.suppress(InvalidData):
            read_header(file)
            read_pixels(file, "RGB")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), MemoryError(), OverflowError("\x1b[31m"), KeyError(3), Exception()]
)
def test_whatever_a_decoder_raises_is_an_error_of_the_file(picture, monkeypatch, error):
    def fail(self):
        raise error

    file = picture("x.bmp", encoded(RGB, "BMP"))
    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(InvalidData, match=r"cannot read the image .*x\.bmp: .*repair or remove it") as caught:
        read_pixels(file, "RGB")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in SEEDS if "text" not in name])
def test_truncated_pictures_are_refused(picture, name):
    large = Image.fromarray(RNG.integers(0, 256, (50, 50, 3), np.uint8))
    format = {"jpg": "JPEG", "tif": "TIFF", "lzw.tif": "TIFF", "palette.png": "PNG", "apng": "PNG"}.get(
        name, name.upper()
    )
    content = encoded(large, format, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    file = picture("x.png", content[: len(content) // 2])
    with pytest.raises(InvalidData, match=r"x\.png"):
        read_header(file)
        read_pixels(file, "RGB")


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "1", "YCbCr", "L", "PA"])
def test_pictures_of_8_bits_are_read_in_every_mode(picture, mode):
    image = Image.fromarray(RGB).convert(mode)
    content = encoded(image, "TIFF")
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError as error:  # as Pillow 12.3 does of YCbCr
        pytest.skip(f"this Pillow does not read what it writes: {error}")
    file = picture("x.tif", content)
    assert read_header(file).is_grey == (mode in ("1", "L", "LA"))
    np.testing.assert_array_equal(read_pixels(file, "RGB"), image.convert("RGB"))
