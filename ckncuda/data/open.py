"""`open_images`: find out what a path holds, and open it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ckncuda.data.challenge_csv import BYTE_ORDER_MARK, ChallengeCsv
from ckncuda.data.cifar import PIXELS, CifarSource, cifar_splits
from ckncuda.data.idx import GZIP_MAGIC, IdxSource, idx_splits, is_idx, open_maybe_gzip
from ckncuda.data.image_folder import SUFFIXES, ImageFolder
from ckncuda.data.numpy_files import NpySource, NpzSource
from ckncuda.data.source import SPLITS, ImageSource, StrPath, format_shape, reading
from ckncuda.errors import InvalidData
from ckncuda.types import Shape

OPENERS: dict[str, Callable[[StrPath, Shape | None, str | None], ImageSource]] = {
    "csv": lambda path, shape, split: ChallengeCsv(path, shape),
    "npy": lambda path, shape, split: NpySource(path, shape),
    "npz": lambda path, shape, split: NpzSource(path, split, shape),
    "cifar": lambda path, shape, split: CifarSource(path, split),
    "idx": lambda path, shape, split: IdxSource(path, split, shape),
    "folder": lambda path, shape, split: ImageFolder(path),
}
FORMATS = tuple(OPENERS)
FORMATS_KNOWN = (
    "the formats are csv (comma separated numbers, an image a line), npy, npz, cifar (CIFAR-10 or CIFAR-100,"
    " binary or pickled), idx (MNIST's, gzipped or not) and folder (of PNG, JPEG, ... files)"
)
NUMBER_BYTES = frozenset(b"0123456789+-.eEnaNifINF, \t\r\n")


def open_images(
    path: StrPath,
    *,
    format: str | None = None,
    image_shape: Sequence[int] | None = None,
    split: str | None = None,
) -> ImageSource:
    """Open the images in a file or folder of any format that this library reads.

    Parameters
    ----------
    path : path-like
    format : {"csv", "npy", "npz", "cifar", "idx", "folder"}, optional
        By default found out from the content, then from the name.
    image_shape : (height, width, channels), optional
        Needed for CSV when the number of values a line does not tell.  Of arrays it says which axis is what,
        channels first as well as last, and a single image [h, w, c]; checked for other formats.
    split : {"train", "test"}, optional
        Needed where a data set holds both; ignored where there are no splits.

    Raises
    ------
    InvalidData
        No such file, an unknown format, or whatever the format's reader finds wrong.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "x.npy"
    >>> np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    >>> with open_images(path) as source:
    ...     print(source.description, [block.shape for block in source.blocks(4)])
    NumPy file x.npy, 5 images of 8x8x3 [(4, 8, 8, 3), (1, 8, 8, 3)]
    """
    if split is not None and split not in SPLITS:
        raise InvalidData(f"split {split!r}; expected train or test")
    shape: Shape | None = None
    if image_shape is not None:
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise InvalidData(
                f"image shape {tuple(image_shape)}; expected height, width and channels, such as (32, 32, 3)"
            )
        height, width, channels = map(int, image_shape)
        shape = height, width, channels
    if format is not None and format not in OPENERS:
        raise InvalidData(f"unknown format {format!r}; {FORMATS_KNOWN}")
    if not Path(path).exists():
        raise InvalidData(f"no such file or folder: {path}")
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise InvalidData(
            f"{path} is a pipe or a device; images are read from files and folders: save them first"
        )
    source = OPENERS[format or find_format(path)](path, shape, split)
    if shape is not None and source.shape[1:] != shape:
        source.close()
        raise InvalidData(
            f"{source.description}; but the image shape asked for is {format_shape(shape)}: leave it out"
        )
    return source


def find_format(path: StrPath) -> str:
    """Return the format of a file or folder: by its content where that tells, otherwise by its name."""
    path = Path(path)
    with reading(path):
        if path.is_dir():
            return "cifar" if cifar_splits(path) else "idx" if idx_splits(path) else "folder"
        with open(path, "rb") as file:
            begin = file.read(4096)
    found = _format_of_content(path, begin) or _format_of_name(path)
    if found is None:
        hint = ""
        if path.suffix.lower() in SUFFIXES:
            hint = ": one image is no data set, give the folder that holds it"
        elif begin.startswith(GZIP_MAGIC):
            hint = ": decompress it first (only IDX files are read gzipped)"
        raise InvalidData(f"cannot tell what {path} holds{hint}; {FORMATS_KNOWN}; name one with --format")
    return found


def _format_of_content(path: Path, begin: bytes) -> str | None:
    if begin.startswith(b"\x93NUMPY"):
        return "npy"
    if begin.startswith(b"PK"):
        return "npz"
    if begin.startswith(b"\x80") and begin[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # a pickle, and its protocol
        return "cifar"
    if begin.startswith(GZIP_MAGIC):
        with open_maybe_gzip(path) as stream, reading(path):
            return "idx" if is_idx(stream.read(4)) else None
    size = path.stat().st_size
    if path.suffix == ".bin" and (size % (1 + PIXELS) == 0 or size % (2 + PIXELS) == 0):
        return "cifar"  # before IDX: a label 0 and dark pixels may look like its magic number
    if is_idx(begin):
        return "idx"
    line = begin.removeprefix(BYTE_ORDER_MARK)
    return "csv" if b"," in line and NUMBER_BYTES.issuperset(line) else None


def _format_of_name(path: Path) -> str | None:
    named = {".csv": "csv", ".txt": "csv", ".npy": "npy", ".npz": "npz"}.get(path.suffix.lower())
    if named is not None:
        return named
    is_batch = path.stem.startswith(("data_batch", "test_batch")) or path.suffix == ".bin"
    return "cifar" if is_batch else None
