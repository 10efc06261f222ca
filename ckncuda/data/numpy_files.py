"""Images in NumPy's files: ``.npy``, read in blocks, and ``.npz``, streamed.

Nothing is ever unpickled or mapped into memory.  An array inside an ``.npz`` is decompressed as it is read,
forwards, so that a large file never lies in memory whole.
"""

import contextlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.data.npy_header import read_npy_header
from ckncuda.data.positional import DEFLATED_AT_MOST, ForwardStream, Header, PositionalFile, more_behind
from ckncuda.data.source import SPLITS, choose_split, format_shape, reading
from ckncuda.data.stored import StoredSource, read_stored_labels
from ckncuda.errors import InvalidData
from ckncuda.files.regular_file import open_regular
from ckncuda.given.images import stack_of
from ckncuda.given.labels import check_label_array
from ckncuda.given.parameters import first_few
from ckncuda.types import Shape, StrPath

IMAGE_KEYS = ("images", "x", "data")  # in any case
LABEL_KEYS = ("labels", "y")
KEYS_EXPECTED = (
    "expected images (or x, data, or x_train and x_test) and, for labels, labels (or y, y_train, y_test)"
)
LONGEST_DIRECTORY = 8 << 20  # bytes of an archive's list of members: some 100,000
# All that zipfile and its decompressors raise of their own.
UNZIPPING: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError),
    *(RuntimeError, ValueError, OverflowError, IndexError, AttributeError, MemoryError, KeyError),
)
SUSPECT, SUSPECT_RATIO = 256 << 20, 100  # bytes in Fortran order, and how many times smaller they are stored


class NpySource(StoredSource):
    """Images in a ``.npy`` file, of which only the block that is asked for is in memory.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.npy"
    >>> np.save(path, np.zeros((5, 13, 64, 64), np.uint8))
    >>> with NpySource(path, (64, 64, 13)) as source:
    ...     source.read(2, 4).shape
    (2, 64, 64, 13)
    """

    def __init__(self, path: StrPath, image_shape: Shape | None = None) -> None:
        with contextlib.ExitStack() as files:
            data, header = open_npy(path, files)
            stack = stack_of(header.shape, str(path), image_shape=image_shape)
            super().__init__("NumPy file", path, stack, header, data)
            self._files = files.pop_all()


def read_npy_labels(path: StrPath, n: int | None = None) -> NDArray[np.int64]:
    """Read the labels in a ``.npy`` file, of ``n`` images."""
    with contextlib.ExitStack() as files:
        return read_stored_labels(*open_npy(path, files), n, str(path))


def open_npy(path: StrPath, files: contextlib.ExitStack) -> tuple[PositionalFile, Header]:
    """Open a ``.npy`` file that is as long as its header says."""
    data = PositionalFile(path)
    files.callback(data.close)
    with reading(path):
        header = read_npy_header(data.stream, str(path))
    data.check_end(header.end)
    return data, header


class NpzSource(StoredSource):
    """Images in an ``.npz`` file, compressed or not, with the labels in it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.npz"
    >>> np.savez_compressed(path, images=np.zeros((2, 8, 8), np.uint8), labels=[4, 1])
    >>> with NpzSource(path) as source:
    ...     source.labels
    array([4, 1])
    """

    def __init__(self, path: StrPath, split: str | None = None, image_shape: Shape | None = None) -> None:
        with contextlib.ExitStack() as files:
            archive = files.enter_context(_Archive(path))
            image_key, label_key = _choose_keys(archive.members, split, path)
            stream, header = archive.stream(image_key)
            where = archive.where(image_key)
            if header.order == "F":
                archive.check_not_a_trap(image_key, header)
            stack = stack_of(header.shape, where, image_shape=image_shape)
            labels = None if label_key is None else archive.labels(label_key, stack.shape[0])
            data = ForwardStream(stream, path, archive.file)
            super().__init__("NumPy file", path, stack, header, data, labels)
            self._files = files.pop_all()

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        with _unzipping(self.where):
            return super()._read(start, stop)


def read_npz_labels(path: StrPath, n: int | None = None) -> NDArray[np.int64]:
    """Read the labels in an ``.npz`` file, of ``n`` images: ``labels`` or ``y``, or its only array."""
    with _Archive(path) as archive:
        keys = _named(archive.members, LABEL_KEYS) or list(archive.members)
        if len(keys) != 1:
            raise InvalidData(
                f"{path} holds the arrays {first_few(archive.members)}; expected one array labels or y"
            )
        return archive.labels(keys[0], n)


def read_npz_arrays(path: StrPath, check: Callable[[Collection[str]], None]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file; ``check`` may refuse their names before anything is unpacked."""
    with _Archive(path, "expected arrays by name, as numpy.savez writes them") as archive:
        check(archive.members)
        opened = {key: archive.stream(key) for key in archive.members}
        size = sum(header.end - header.begin for _, header in opened.values())
        stored = sum(info.compress_size for info in archive.members.values())
        _check_not_a_trap(f"what {path} holds", stored, size, SUSPECT // 4)  # all at once
        return {key: archive.unpacked(*stream) for key, stream in opened.items()}


@contextlib.contextmanager
def _unzipping(path: StrPath) -> Iterator[None]:
    """Turn what a damaged or hostile archive raises into `InvalidData`."""
    try:
        with reading(path):
            yield
    except InvalidData:
        raise
    except UNZIPPING as error:
        what = "is encrypted" if "encrypted" in str(error) else "is damaged, or packed in a way unknown here"
        raise InvalidData(
            f"cannot read {path}: it {what} ({str(error) or type(error).__name__}): save it again"
            " by numpy.savez"
        ) from error


class _Archive:
    """The arrays of an ``.npz`` file, by name.

    Attributes
    ----------
    members : dict of str to ZipInfo
    file : binary file
    """

    def __init__(self, path: StrPath, expected: str = KEYS_EXPECTED) -> None:
        self._path, self._expected = path, expected
        with contextlib.ExitStack() as files, _unzipping(path):
            self.file = files.enter_context(open_regular(path))
            _check_directory(self.file, path, expected)
            self._zip = files.enter_context(zipfile.ZipFile(self.file))
            self._files = files.pop_all()
        try:
            self.members = self._arrays()
        except InvalidData:
            self._files.close()
            raise

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def _arrays(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                if name in members:
                    raise InvalidData(
                        f"{self._path} holds two arrays named {name[:100]!r}: it is not clear"
                        " which is meant; save it again by numpy.savez"
                    )
                members[name] = info
        if not members:
            raise InvalidData(f"{self._path} holds no arrays; {self._expected}")
        return members

    def where(self, key: str) -> str:
        """Say which array is meant, to begin a message with."""
        return f"{self._path}, array {key[:100]!r}"

    def stream(self, key: str) -> tuple[IO[bytes], Header]:
        """Return a stream of an array, where its data begin, and its header, which fits what is stored."""
        info, where = self.members[key], self.where(key)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Others unpack a few bytes to gigabytes at one go, and NumPy never writes them.
            method = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
            raise InvalidData(
                f"{where} is packed by {method}; expected deflate, or none: save it again by"
                " numpy.savez_compressed"
            )
        self._check_overlap(info, where)
        with _unzipping(self._path):
            stream = self._files.enter_context(self._zip.open(info))
            header = read_npy_header(stream, where)
        if info.file_size > header.end:
            raise InvalidData(more_behind(where, info.file_size - header.end))
        most = info.compress_size * (DEFLATED_AT_MOST if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        if info.file_size < header.end or most < info.file_size:
            raise InvalidData(
                f"{where} is truncated or damaged: its header announces {header.end:,} bytes,"
                f" {min(info.file_size, most):,} are there at most: copy or download it again"
            )
        return stream, header

    def labels(self, key: str, n: int | None) -> NDArray[np.int64]:
        """Read an array of labels, of ``n`` images."""
        stream, header = self.stream(key)
        check_label_array(header.shape, header.dtype, n, self.where(key))
        self.check_not_a_trap(key, header)
        with _unzipping(self._path):
            data = ForwardStream(stream, self._path, self.file)
            return read_stored_labels(data, header, n, self.where(key))

    def unpacked(self, stream: IO[bytes], header: Header) -> NDArray[Any]:
        """Return an array, unpacked to its end."""
        with _unzipping(self._path):
            data = ForwardStream(stream, self._path, self.file)
            array = np.empty(header.shape[:: -1 if header.order == "F" else 1], header.dtype)
            data.read_into(array, header.begin)
            data.check_end(header.end)
        return array.T if header.order == "F" else array

    def check_not_a_trap(self, key: str, header: Header) -> None:
        """Raise `InvalidData` for an array that must be unpacked whole and is suspiciously well packed."""
        stored, size = self.members[key].compress_size, header.end - header.begin
        _check_not_a_trap(f"{self.where(key)} of {format_shape(header.shape)}", stored, size)

    def _check_overlap(self, info: zipfile.ZipInfo, where: str) -> None:
        """Raise `InvalidData` where a member reaches into the next: the same bytes twice are no archive's."""
        begins = [other.header_offset for other in self._zip.infolist()]
        following = min(
            (begin for begin in begins if begin > info.header_offset), default=self._zip.start_dir
        )
        if info.header_offset + 30 + info.compress_size > following or begins.count(info.header_offset) > 1:
            raise InvalidData(f"{where} overlaps another member of the archive: it is damaged, or a trap")


def _check_not_a_trap(what: str, stored: int, size: int, suspect: int = SUSPECT) -> None:
    if size > suspect and stored * SUSPECT_RATIO < size:
        raise InvalidData(
            f"{what} takes {size >> 20:,} MiB once unpacked, but {stored:,} bytes packed: hardly anything is"
            " in it, or it is a trap. If it is not, save numpy.ascontiguousarray of it by numpy.savez"
        )


def _check_directory(file: IO[bytes], path: StrPath, expected: str) -> None:
    """Raise `InvalidData` if an archive lists more members than anybody wants to read the names of."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 17)))  # twice as much as a comment behind the ends may have
    tail = file.read()
    # Wherever an end may be seen, and in it a length: zipfile takes one of them, which one is its affair.
    wide = [tail[found.start() + 40 :][:8] for found in re.finditer(rb"(?=PK\x06\x06)", tail)]
    narrow = [tail[found.start() + 12 :][:4] for found in re.finditer(rb"(?=PK\x05\x06)", tail)]
    lengths = [int.from_bytes(length, "little") for length in wide + narrow]
    if b"\xff" * 4 in narrow and not wide:  # a longer end stands elsewhere
        lengths.append(size)
    most = max((length for length in lengths if length <= size), default=0)
    if most > LONGEST_DIRECTORY:
        raise InvalidData(f"{path} lists so many members that their names take {most >> 20} MiB; {expected}")
    file.seek(0)


def _choose_keys(members: Mapping[str, object], split: str | None, path: StrPath) -> tuple[str, str | None]:
    """Choose the array of images and, where there is one, that of labels."""
    plain = _named(members, IMAGE_KEYS)
    splits = [name for name in SPLITS if _named(members, [f"x_{name}"])]
    if splits and not plain:
        chosen = choose_split(splits, split, str(path))
        images, labels = _named(members, [f"x_{chosen}"]), _named(members, [f"y_{chosen}"])
    elif len(members) == 1:
        images, labels = list(members), []
    else:
        images, labels = [*plain, *(f"x_{name}" for name in splits)], _named(members, LABEL_KEYS)
    if len(images) != 1 or len(labels) > 1:
        raise InvalidData(
            f"{path} holds the arrays {first_few(members)}: it is not clear what to read; {KEYS_EXPECTED}"
        )
    return images[0], labels[0] if labels else None


def _named(members: Collection[str], names: Collection[str]) -> list[str]:
    return [key for key in members if key.lower() in names]
