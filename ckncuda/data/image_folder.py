"""Folders of image files: PNG, JPEG, BMP, WebP, TIFF and the like, through Pillow.

The sizes are read from the files' headers when the folder is opened, the pixels block by block.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.pictures import SUFFIXES, read_header, read_pixels
from ckncuda.data.source import SPLITS, ImageSource, format_shape, reading
from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import check_unchanged, version_of
from ckncuda.given.parameters import first_few
from ckncuda.types import StrPath

SPLIT_NAMES = {
    **{name: "train" for name in ("train", "training", "trn")},
    **{name: "test" for name in ("test", "testing", "tst")},
    **{name: "validation" for name in ("val", "valid", "validation", "dev")},
}
# What file managers, archives, cameras' cards and notebooks leave beside pictures.
COMPANIONS = frozenset(
    [
        *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "recycler"),
        *("system volume information",),
        *("@recently-snapshot", "#snapshot", "~snapshot", "network trash folder", "temporary items"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "albumthumbs.db", "picasa.ini", "desktop.ini"),
        *("lost+found", "lost.dir", "icon\r", "__pycache__"),
    ]
)


class ImageFolder(ImageSource):
    """The image files of a folder: one sub-folder a class, or a flat folder without labels; or one such file.

    Files and classes are in natural order (``2.png`` before ``10.png``), and classes are labelled
    0, 1, ... in that order.  If all images are greyscale they have one channel, otherwise three;
    transparency is dropped, and pictures are turned as their EXIF says.  Hidden files and what file managers
    leave are passed over; other files that are no pictures are named in ``notes``, and so are those of which
    one page of several is read.

    Parameters
    ----------
    path : path-like
    split : {"train", "test"}, optional
        Of a folder that holds folders named so, the one to read.
    channels : {1, 3}, optional
        What is asked for: grey pictures are delivered in colour for 3, coloured ones refused for 1.

    Attributes
    ----------
    files : tuple of str
        The name of each image, from the folder.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (folder / name).mkdir()
    ...     Image.new("RGB", (8, 6)).save(folder / name / "1.png")
    >>> source = ImageFolder(folder)
    >>> source.shape, source.class_names, source.labels
    ((2, 6, 8, 3), ('cat', 'dog'), array([0, 1]))
    """

    def __init__(self, path: StrPath, split: str | None = None, channels: int | None = None) -> None:
        with reading(path):
            root = Path(path)
            folder = root if root.is_file() else _of_split(root, split)
            found = _Found([folder], [], None) if root.is_file() else _list(folder, split)
        labels = None
        if found.classes is not None:
            numbers = {name: number for number, name in enumerate(found.classes)}
            labels = np.array([numbers[file.parent.name] for file in found.files])
        self._files = found.files
        with reading(path):
            self._versions = [version_of(file) for file in found.files]
        (width, height), grey, paged = _check_headers(found.files, channels)
        self._mode = "L" if grey and channels != 3 else "RGB"
        shape = (len(found.files), height, width, 1 if self._mode == "L" else 3)
        kind = "picture" if root.is_file() else "image folder"
        super().__init__(kind, folder, shape, np.dtype(np.uint8), labels, found.classes)
        above = root.parent if root.is_file() else folder
        self.files = tuple(file.relative_to(above).as_posix() for file in found.files)
        self.notes = _notes([str(file.relative_to(above)) for file in found.others], paged)

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        block = np.empty((stop - start, *self.shape[1:]), np.uint8)
        chosen = self._files[start:stop], self._versions[start:stop]
        for pixels, file, version in zip(block, *chosen, strict=True):
            values = read_pixels(file, self._mode)
            with reading(file):
                check_unchanged(file, version, file)
            pixels[...] = values.reshape(pixels.shape)
        return block


class _Found(NamedTuple):
    """The files of a folder."""

    files: list[Path]  # in order, class after class
    others: list[Path]  # that are no pictures
    classes: tuple[str, ...] | None


def _of_split(folder: Path, split: str | None) -> Path:
    """Return the folder of a split, where all that a folder holds is named as splits are; else the folder."""
    _, _, folders = _entries(folder)
    found = {SPLIT_NAMES[sub.name.lower()]: sub for sub in folders if sub.name.lower() in SPLIT_NAMES}
    if not folders or len(found) < len(folders) or (len(found) == 1 and _entries(folders[0])[0]):
        return folder  # a class may be called train, where it is not among splits alone
    if split in found or (split is None and len(found) == 1):
        return found[split] if split else folders[0]
    names = ", ".join(sub.name for sub in folders)
    give = " or ".join(str(sub) for sub in folders)
    options = [f"--split {name}" for name in SPLITS if name in found]
    if split is not None:
        names += f", but no {split} split"
    elif options:
        give += f", or {' or '.join(options)}"
    raise InvalidData(f"{folder} holds the splits {names}; expected one of them: give {give}")


def _list(folder: Path, split: str | None) -> _Found:
    """Find the files, their labels and the classes' names."""
    files, others, folders = _entries(folder)
    if not folders:
        if not files:
            expected = "files such as 1.png, a sub-folder a class, or the path of a file, not its folder"
            raise _without_images(folder, others, expected)
        return _Found(files, others, None)
    if files:
        raise InvalidData(
            f"{folder} holds both images ({files[0].name}) and sub-folders"
            f" ({folders[0].name}); expected either images without labels, or a sub-folder a class"
        )
    for sub in folders:
        found, beside, deeper = _entries(sub)
        if deeper:
            raise InvalidData(
                f"{sub} holds sub-folders ({deeper[0].name}); expected images directly"
                f" in the classes' folders: perhaps you mean to give {_meant(folders, split)}"
            )
        if not found:
            raise _without_images(sub, beside, "those of a class: add some or remove the folder")
        files += found
        others += beside
    return _Found(files, others, tuple(sub.name for sub in folders))


def _meant(folders: list[Path], split: str | None) -> str:
    """Name the folders that hold sub-folders: those named like the split where there are such."""
    deep = [sub for sub in folders if _entries(sub)[2]]
    named = [sub for sub in deep if split is not None and split in sub.name.lower()]
    return " or ".join(str(sub) for sub in (named or deep)[:3])


def _without_images(folder: Path, others: list[Path], expected: str) -> InvalidData:
    held = f" but {first_few([other.name for other in others])}" if others else ""
    return InvalidData(f"{folder} holds no images{held}; expected {expected}")


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the pictures, the other files and the sub-folders of a folder, each in natural order."""
    shown = (e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in COMPANIONS)
    entries = sorted(shown, key=_natural)
    folders = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if not entry.is_dir()]
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    return pictures, [file for file in files if file.suffix.lower() not in SUFFIXES], folders


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order names with numbers in them by these numbers; equal ones (1, 01) by the text."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


def _check_headers(files: list[Path], channels: int | None) -> tuple[tuple[int, int], bool, list[str]]:
    """Return the size, whether all images are greyscale, and those of several pages; refuse unequal sizes."""
    first, grey, paged = None, True, []
    for file in files:
        header = read_header(file)
        first = first or header
        if header.size != first.size:
            raise InvalidData(
                f"{file} is {format_shape(header.size)} pixels (width x height), expected"
                f" {format_shape(first.size)} as {files[0].name} is: crop or resize the images to"
                f" one size, in a copy of the folder, as Pillow does: ImageOps.fit(picture, {first.size})"
            )
        if channels == 1 and not header.is_grey:
            raise InvalidData(
                f"{file} is in colour; expected grey pictures, of 1 channel: convert the pictures"
                " to greyscale"
            )
        grey = grey and header.is_grey
        if header.pages != "1":
            paged.append(f"{file.name} ({header.pages})")
    assert first is not None
    return first.size, grey, paged


def _notes(others: list[str], paged: list[str]) -> tuple[str, ...]:
    """Say which files were not read, and of which only the first page."""
    notes = []
    if others:
        files = (
            "1 file is no picture that is read"
            if len(others) == 1
            else f"{len(others)} files are no pictures that are read"
        )
        notes.append(f"{files}, and passed over: {first_few(others)}")
    if paged:
        files = "1 file has" if len(paged) == 1 else f"{len(paged)} files have"
        notes.append(f"{files} several pages or frames, of which the first is read: {first_few(paged)}")
    return tuple(notes)
