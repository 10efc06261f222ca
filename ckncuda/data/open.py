"""`open_images`: find out what a path holds, and open it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ckncuda.data.challenge_csv import ChallengeCsv
from ckncuda.data.cifar import PIXELS, CifarSource, cifar_splits
from ckncuda.data.csv_header import BYTE_ORDER_MARK
from ckncuda.data.idx import GZIP_MAGIC, IdxSource, idx_splits, is_idx
from ckncuda.data.image_folder import ImageFolder
from ckncuda.data.npy_header import MAGIC
from ckncuda.data.numpy_files import NpySource, NpzSource
from ckncuda.data.pictures import SUFFIXES
from ckncuda.data.source import SPLITS, ImageSource, format_shape, reading
from ckncuda.errors import InvalidData
from ckncuda.files.foreign import BEGIN, gunzipped, kind_of
from ckncuda.files.regular_file import open_regular
from ckncuda.given.parameters import file_name
from ckncuda.given.parameters import image_shape as checked_shape
from ckncuda.types import Shape, StrPath

OPENERS: dict[str, Callable[[StrPath, Shape | None, str | None, int | None], ImageSource]] = {
    "csv": lambda path, shape, split, channels: ChallengeCsv(path, shape),
    "npy": lambda path, shape, split, channels: NpySource(path, shape),
    "npz": lambda path, shape, split, channels: NpzSource(path, split, shape),
    "cifar": lambda path, shape, split, channels: CifarSource(path, split),
    "idx": lambda path, shape, split, channels: IdxSource(path, split, shape),
    "folder": lambda path, shape, split, channels: ImageFolder(path, split, channels),
}
FORMATS = tuple(OPENERS)
FORMATS_KNOWN = (
    "the formats are csv (comma separated numbers, an image a line), npy, npz, cifar (CIFAR-10 or CIFAR-100,"
    " binary or pickled), idx (MNIST's, gzipped or not) and folder (of PNG, JPEG, ... files, or one of them)"
)
NUMBER_BYTES = frozenset(b'0123456789+-.eEnaNifINF",; \t\r\n')
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")  # how most pictures begin


def open_images(
    path: StrPath,
    *,
    format: str | None = None,
    image_shape: Sequence[int] | None = None,
    split: str | None = None,
    channels: int | None = None,
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
    channels : {1, 3}, optional
        Of pictures in folders, as a model takes them: grey ones are delivered in colour for 3; by default
        that of ``image_shape`` or, if all are grey, 1.

    Raises
    ------
    InvalidData
        No such file, an unknown format, or whatever the format's reader finds wrong.
    InvalidSpec
        This is no name of a file, or no shape of an image.

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
    path = file_name(path, '"Xtr.csv"')
    shape = None if image_shape is None else checked_shape("image_shape", image_shape)
    if format is not None and format not in OPENERS:
        raise InvalidData(f"unknown format {format!r}; {FORMATS_KNOWN}")
    channels = channels if shape is None else shape[2]
    source = OPENERS[format or find_format(path)](path, shape, split, channels)
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
        with open_regular(path) as file:
            begin = file.read(BEGIN)
    if not begin:
        raise InvalidData(f"{path} is empty: it holds no images; copy or download it again")
    found = _format_of_content(path, begin)
    if found is None and (kind := kind_of(begin)) is not None:
        raise InvalidData(f"{path} {kind}")
    found = found or _format_of_name(path)
    if found is None:
        raise InvalidData(f"cannot tell what {path} holds; {FORMATS_KNOWN}; name one with --format")
    return found


def _format_of_content(path: Path, begin: bytes) -> str | None:
    if begin.startswith(MAGIC):
        return "npy"
    if begin.startswith(PICTURES) or (begin.startswith(b"RIFF") and begin[8:12] == b"WEBP"):
        return "folder"
    if begin.startswith(b"PK") and (path.suffix.lower() == ".npz" or kind_of(begin) is None):
        return "npz"
    # A pickle, and its protocol; a safetensors file of some lengths begins so, too.
    if begin.startswith(b"\x80") and begin[1:2] in (b"\2", b"\3", b"\4", b"\5") and begin[8:10] != b'{"':
        return "cifar"
    if begin.startswith(GZIP_MAGIC):
        return "idx" if is_idx(gunzipped(begin)) else None
    size = path.stat().st_size
    if path.suffix == ".bin" and (size % (1 + PIXELS) == 0 or size % (2 + PIXELS) == 0):
        return "cifar"  # before IDX: a label 0 and dark pixels may look like its magic number
    if is_idx(begin):
        return "idx"
    line = begin.removeprefix(BYTE_ORDER_MARK)
    is_numbers = NUMBER_BYTES.issuperset(line) and any(s in line.strip() for s in b",; \t")
    return "csv" if is_numbers else None


def _format_of_name(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".txt", ".tsv"):
        return "csv"
    if suffix in (".npy", ".npz"):
        return suffix[1:]
    if suffix in SUFFIXES:
        return "folder"
    is_batch = path.stem.startswith(("data_batch", "test_batch")) or path.suffix == ".bin"
    return "cifar" if is_batch else None
