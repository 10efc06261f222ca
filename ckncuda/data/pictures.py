"""One picture in a file, through Pillow: its header, and its pixels as they are displayed.

Pillow reads some forty formats, of which one starts another program (EPS), and many are hardly ever used and
never tried: a file is opened as one of `FORMATS` whatever its name, and as nothing else.  What a header
announces is checked before anything is decoded.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from ckncuda.data.picture_chunks import MOST_BESIDE, MOST_DIRECTORIES, check_chunks, png_chunks
from ckncuda.errors import CknError, InvalidData, pass_on_interruption
from ckncuda.files.foreign import kind_of
from ckncuda.files.regular_file import open_regular

# Pillow loads the first five at once; it would load all forty to find the others, were they not named here.
FORMATS = (
    *("BMP", "GIF", "JPEG", "PNG", "PPM"),
    *(TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format),
)
SUFFIXES = frozenset(
    [
        *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    ]
)
MOST_PIXELS = 1 << 26  # 8192x8192
# In colour, of which Pillow holds four bytes a pixel, fewer, unless the file is as large as photographs are:
# a few bytes that announce many pixels are none.
MOST_PIXELS_PACKED, LEAST_PACKED = 1 << 25, 64  # pixels, and pixels a byte of the file
MOST_BYTES = 96 << 20  # of a file: Pillow holds a chunk of it, such as a comment, whole
PIXELS_AT_ONCE = 1 << 20  # converted together
GREY_MODES = {"1", "L", "LA", "La"}
SLOW_DECODERS = {"bmp_rle", "ppm", "ppm_plain"}  # those of Pillow that are written in Python
MOST_DECODED, MOST_READ, WIDEST = 1 << 22, 16 << 20, 1 << 14  # values, bytes and width for them
ORIENTATION = 0x0112  # EXIF's number for how a camera was held
WIDTH, HEIGHT, BITS, CHANNELS, SAMPLE_FORMAT = 256, 257, 258, 277, 339  # TIFF's numbers
ORIENTATIONS = range(1, 9)
TILE_WIDTH, TILE_HEIGHT = 322, 323


class PictureHeader(NamedTuple):
    """Findings about a picture before it is decoded."""

    size: tuple[int, int]  # (width, height) in pixels, as displayed
    is_grey: bool
    pages: str  # how many pages or frames the file holds, such as "3"; of them the first is read


def read_header(file: Path) -> PictureHeader:
    """Read the header of a picture; nothing is decoded.

    Raises
    ------
    InvalidData
        The file is no picture that is read here, is damaged, announces more pixels than are read, or has more
        than 8 bits a channel.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "x.png"
    >>> Image.new("L", (8, 6)).save(file)
    >>> read_header(file), read_pixels(file, "RGB").shape
    (PictureHeader(size=(8, 6), is_grey=True, pages='1'), (6, 8, 3))
    """
    with _opened(file) as (stream, image):
        if _is_deep(image):
            raise InvalidData(
                f"{file} has more than 8 bits a channel, or signs, or more than 4 channels,"
                " which reading would lose; expected 1, 3 or 4 channels of 8 bits: convert the pictures,"
                " or save them as a float32 array [n, height, width, channels] in a .npy file"
            )
        width, height = _stored_size(image)
        if _orientation(image, stream) >= 5:
            width, height = height, width
        return PictureHeader((width, height), image.mode in GREY_MODES, _pages(image, stream))


def read_pixels(file: Path, mode: str) -> NDArray[np.uint8]:
    """Decode a picture in a mode of Pillow, L or RGB, turned as it is displayed.

    Returns
    -------
    pixels : uint8 [height, width] or [height, width, 3]

    Raises
    ------
    InvalidData
        The picture is damaged.
    """
    with _opened(file) as (stream, image):
        orientation = _orientation(image, stream)
        image.load()
        if image.format == "TIFF":  # which some versions of Pillow turn as they load it
            orientation = _orientation(image, stream)
        width, height = image.size
        size = (width, height) if orientation >= 5 else (height, width)
        pixels = np.empty(size if mode == "L" else (*size, len(mode)), np.uint8)
        stored = _stored(pixels, orientation)
        rows = max(1, PIXELS_AT_ONCE // width)
        for top in range(0, height, rows):  # a copy of the whole, for each step, is what memory is short of
            part = image.crop((0, top, width, min(top + rows, height)))
            stored[top : top + rows] = np.asarray(part if part.mode == mode else part.convert(mode))
        return pixels


def _stored(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return a view of a picture, [height, width, ...] as displayed, in the order in which it is stored."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    from_bottom, from_right = orientation in (3, 4, 6, 7), orientation in (2, 3, 7, 8)
    return pixels[:: -1 if from_bottom else 1, :: -1 if from_right else 1]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open a picture; whatever is raised while it is used becomes `InvalidData`."""
    try:
        with warnings.catch_warnings(), open_regular(file) as stream:
            # Of many pixels, palettes, EXIF: they name no file, and what matters is refused in our words.
            warnings.simplefilter("ignore")
            if (length := os.fstat(stream.fileno()).st_size) > MOST_BYTES:
                raise InvalidData(
                    f"{file} has {length:,} bytes; expected a picture of at most {MOST_BYTES:,}:"
                    " make it smaller"
                )
            if not length:
                raise InvalidData(f"{file} is empty: copy or download it again, or remove it")
            check_chunks(stream, length, file)
            with Image.open(stream, formats=FORMATS) as image:
                _check_pixels(image, length, file)
                _check_work(image, length, file)
                yield stream, image
    except CknError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(file, "announces more pixels than memory holds") from error
    except UnidentifiedImageError as error:
        raise InvalidData(_not_identified(file)) from error
    except FileNotFoundError as error:
        what = "is a link to nothing" if file.is_symlink() else "is no longer there"
        raise InvalidData(f"{file} {what}: repair or remove it") from error
    # Pillow's decoders raise whatever damaged bytes lead them to, from ZeroDivisionError to MemoryError, and
    # promise no more: the one place where any error of theirs is one of the file.
    except Exception as error:
        pass_on_interruption(error)
        reason = str(error) or type(error).__name__
        raise InvalidData(f"cannot read the image {file}: {reason}; repair or remove it") from error


def _check_pixels(image: Image.Image, length: int, file: Path) -> None:
    """Raise `InvalidData` for more pixels than are read, or than a file of so many bytes seems to hold."""
    width, height = _stored_size(image)
    most = MOST_PIXELS
    if image.mode not in GREY_MODES and length * LEAST_PACKED < width * height:
        most = MOST_PIXELS_PACKED
    if width * height > most:
        raise _too_large(file, f"is {width}x{height} pixels (width x height)", most)


def _check_work(image: Image.Image, length: int, file: Path) -> None:
    """Raise if decoding takes far more than pixels of its size do."""
    pixels = math.prod(_stored_size(image)) * len(image.getbands())
    in_python = any(tile[0] in SLOW_DECODERS for tile in getattr(image, "tile", ()))
    if in_python and (pixels > MOST_DECODED or length > MOST_READ or image.size[0] > WIDEST):
        raise InvalidData(
            f"{file} is packed in a way that takes long to read; expected at most {MOST_DECODED:,}"
            " values of it: save it as a PNG"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile is unpacked whole, whatever it is part of
        side = image.tag_v2.get(TILE_WIDTH, 1), image.tag_v2.get(TILE_HEIGHT, 1)
        if math.prod(side) > MOST_PIXELS_PACKED:
            raise _too_large(file, f"has tiles of {side[0]}x{side[1]} pixels", MOST_PIXELS_PACKED)


def _too_large(file: Path, what: str, most: int = MOST_PIXELS) -> InvalidData:
    return InvalidData(f"{file} {what}; expected at most {most:,} pixels: make it smaller or remove it")


def _not_identified(file: Path) -> str:
    with open_regular(file) as stream:
        kind = kind_of(stream.read(4096))
    formats = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
    if kind is not None:
        return f"cannot read the image {file}: it {kind}; pictures that are read are {formats}"
    return (
        f"cannot read the image {file}: it is damaged, or of another format than {formats}:"
        " repair, convert or remove it"
    )


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height before the picture is turned for display."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size Pillow may tell as it is displayed
        return int(image.tag_v2[WIDTH]), int(image.tag_v2[HEIGHT])
    return image.size


def _is_deep(image: Image.Image) -> bool:
    """Tell whether Pillow would keep less than the file holds: more than 8 bits, signs, further channels."""
    if image.mode.startswith(("I", "F")):
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        is_signed = any(kind not in (1, 4) for kind in tags.get(SAMPLE_FORMAT, ()))  # 4: nobody knows
        return is_signed or tags.get(CHANNELS, 1) > 4 or any(bits > 8 for bits in tags.get(BITS, ()))
    if image.format not in ("PNG", "PPM"):
        return False
    for *_, how in getattr(image, "tile", ()):  # a raw mode such as RGB;16B; the greatest value of a PPM
        for part in how if isinstance(how, tuple) else (how,):
            if ";16" in part if isinstance(part, str) else part > 255:
                return True
    return False


def _orientation(image: Image.Image, stream: BinaryIO) -> int:
    """Return EXIF's number of how a picture is turned for display, 1 to 8; 1 where there is none."""
    if image.format == "PNG" and "exif" not in image.info and (late := _late_exif(stream)):
        image.info["exif"] = b"Exif\0\0" + late
    # Not the method of PngImageFile, which decodes the picture first.  Viewers show a picture whose EXIF is
    # damaged as it is stored, and so do we, whatever Pillow raises about it.
    try:
        number = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception as error:
        pass_on_interruption(error)
        return 1
    return number if isinstance(number, int) and number in ORIENTATIONS else 1


def _late_exif(stream: BinaryIO) -> bytes:
    """Return the chunk of EXIF that stands behind the pixels of a PNG, where Pillow does not see it yet."""
    before = stream.tell()
    try:
        for name, length, place in png_chunks(stream):
            if name == b"eXIf":
                stream.seek(place)
                return stream.read(min(length, MOST_BESIDE))
        return b""
    finally:
        stream.seek(before)


def _pages(image: Image.Image, stream: BinaryIO) -> str:
    """Count the pages of a TIFF or the frames of an animation, at no great cost."""
    if not getattr(image, "is_animated", False):
        return "1"
    if image.format == "TIFF":
        pages = 1
        with contextlib.suppress(EOFError):
            while pages < MOST_DIRECTORIES:
                image.seek(pages)
                pages += 1
        return f"{pages} or more" if pages == MOST_DIRECTORIES else str(pages)
    if image.format == "GIF" and os.fstat(stream.fileno()).st_size > 4 << 20:  # it is gone through to its end
        return "several"
    return str(getattr(image, "n_frames", "several"))
