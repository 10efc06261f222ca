"""Folders of image files: PNG, JPEG, BMP, WebP, TIFF and the like, through Pillow.

The sizes are read from the files' headers when the folder is opened, the pixels block by block.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ckncuda.data.source import ImageSource, StrPath, format_shape, reading
from ckncuda.errors import InvalidData

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
GREY_MODES = {"1", "L", "LA", "La"}
DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}  # more than 8 bits: Pillow would clip them


class ImageFolder(ImageSource):
    """The image files of a folder: one sub-folder a class, or a flat folder without labels.

    Files and classes are in natural order (``2.png`` before ``10.png``), and classes are labelled
    0, 1, ... in that order.  If all images are greyscale they have one channel, otherwise three;
    transparency is dropped.  Hidden files and files with other suffixes are passed over.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("RGB", (8, 6)).save(folder / name / "1.png")
    >>> source = ImageFolder(folder)
    >>> source.shape, source.class_names, source.labels
    ((2, 6, 8, 3), ('cat', 'dog'), array([0, 1]))
    """

    def __init__(self, path: StrPath) -> None:
        with reading(path):
            self._files, labels, class_names = _list(Path(path))
        width, height, grey = _check_headers(self._files)
        self._mode = "L" if grey else "RGB"
        shape = (len(self._files), height, width, 1 if grey else 3)
        super().__init__("image folder", path, shape, np.dtype(np.uint8), labels, class_names)

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        block = np.empty((stop - start, *self.shape[1:]), np.uint8)
        for pixels, file in zip(block, self._files[start:stop], strict=True):
            with _open(file) as image:
                values = np.asarray(image.convert(self._mode))
            if values.shape[:2] != pixels.shape[:2]:
                raise InvalidData(f"{file} has changed since the folder was opened")
            pixels[...] = values.reshape(pixels.shape)
        return block


def _list(folder: Path) -> tuple[list[Path], NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return the files, their labels and the classes' names."""
    files, folders = _entries(folder)
    if not folders:
        if not files:
            raise InvalidData(
                f"{folder} holds no images; expected files such as 1.png, a sub-folder a class,"
                " or the path of a file instead of its folder"
            )
        return files, None, None
    if files:
        raise InvalidData(
            f"{folder} holds both images ({files[0].name}) and sub-folders ({folders[0].name}); expected"
            " either images without labels, or a sub-folder a class"
        )
    classes = [_class_files(sub) for sub in folders]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes])
    return [file for files in classes for file in files], labels, tuple(sub.name for sub in folders)


def _class_files(folder: Path) -> list[Path]:
    files, folders = _entries(folder)
    if folders:
        raise InvalidData(
            f"{folder} holds sub-folders ({folders[0].name}); expected images directly in the classes'"
            f" folders: perhaps you mean to give {folder}"
        )
    if not files:
        raise InvalidData(
            f"{folder} holds no images; expected those of a class: add some or remove the folder"
        )
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files and the sub-folders of a folder, each in natural order."""
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=_natural)
    folders = [entry for entry in entries if entry.is_dir()]
    return [e for e in entries if e.suffix.lower() in SUFFIXES and e not in folders], folders


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order names with numbers in them by these numbers; equal ones (1, 01) by the text."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


def _check_headers(files: list[Path]) -> tuple[int, int, bool]:
    """Return width, height, and whether all images are greyscale; refuse unequal sizes."""
    size, grey = None, True
    for file in files:
        with _open(file) as image:
            if image.mode in DEEP_MODES:
                raise InvalidData(
                    f"{file} has more than 8 bits a channel (mode {image.mode}); expected 8: convert it, or"
                    " save the images as float32 in a .npy file"
                )
            size = size or image.size
            if image.size != size:
                raise InvalidData(
                    f"{file} is {format_shape(image.size)} pixels (width x height), expected"
                    f" {format_shape(size)} as {files[0].name} is: crop or resize the images to one size"
                )
            grey = grey and image.mode in GREY_MODES
    assert size is not None
    return *size, grey


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises while it is used becomes `InvalidData`."""
    try:
        with Image.open(file) as image:
            yield image
    except InvalidData:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InvalidData(f"cannot read the image {file}: {error}; repair or remove it") from error
