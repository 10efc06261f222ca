"""Files that others give: regular ones alone, read within a bound, never mapped into memory.

A FIFO would wait for ever, a device never ends, and a file that is mapped and shrinks ends the process
without a word (SIGBUS).
"""

import os
import stat
import threading
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData
from ckncuda.types import StrPath

_seeking = threading.Lock()  # on Windows, where reading at a place means to go there first

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def open_regular(path: StrPath, *, follow: bool = True) -> BinaryIO:
    """Open a file to read its bytes; refuse at once what is no regular file.

    Parameters
    ----------
    path : path-like
    follow : bool
        Whether a link at the end of the path is followed.  In folders of ours it is not: nobody but an
        intruder puts links there.

    Raises
    ------
    InvalidData
        It is a pipe, a socket, a device or a folder; or a link, where none is followed.
    OSError
        There is no such file, or it may not be read.

    Examples
    --------
    >>> open_regular("/dev/null")
    Traceback (most recent call last):
    ckncuda.errors.InvalidData: /dev/null is a device, not a file: save its content to a file, and give that
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    if not follow:
        if os.path.islink(path):  # said in our words; the flag is for a link that appears meanwhile
            raise InvalidData(f"{path} is a link, which is not followed here: remove it")
        flags |= getattr(os, "O_NOFOLLOW", 0)
    if os.path.isdir(path):  # which Windows does not open
        raise InvalidData(_refusal(path, "a folder"))
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InvalidData(_refusal(path, next((name for is_it, name in _KINDS if is_it(mode)), "no file")))
    return open(path, "rb", opener=lambda *_: descriptor)  # so that the file knows its name


def _refusal(path: StrPath, what: str) -> str:
    advice = "give a file in it" if what == "a folder" else "save its content to a file, and give that"
    return f"{path} is {what}, not a file: {advice}"


def read_within(path: StrPath, limit: int, *, follow: bool = True) -> bytes:
    """Read a whole file of at most ``limit`` bytes; a larger one is refused before it is read.

    Raises
    ------
    InvalidData
        It is larger, or no regular file.
    OSError
        There is no such file, or it may not be read.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size  # as much memory is taken as is asked for
        content = b"" if size > limit else file.read(size + 1)
    if size > limit or len(content) > limit:  # it may have grown
        raise InvalidData(f"{path} is larger than the {limit:,} bytes that such a file may have")
    return content


Version = tuple[int, ...]


def version_of(file: BinaryIO | StrPath) -> Version:
    """Return what becomes another when somebody writes a file, or puts another in its place."""
    found = os.fstat(file.fileno()) if hasattr(file, "fileno") else os.stat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_unchanged(file: BinaryIO | StrPath, version: Version, where: object) -> None:
    """Raise `InvalidData` if a file is not as it was: what was read before and what is read now differ.

    Raises
    ------
    InvalidData
    OSError
        It is no longer there.

    Examples
    --------
    >>> import tempfile
    >>> file = tempfile.TemporaryFile()
    >>> version = version_of(file)
    >>> check_unchanged(file, version, "x.npy")
    >>> _ = file.write(b"more"); file.flush()
    >>> check_unchanged(file, version, "x.npy")
    Traceback (most recent call last):
    ckncuda.errors.InvalidData: x.npy was changed while it was read: run this again once nobody writes it
    """
    now = version_of(file)
    if now[:2] == version[:2] and now[2] < version[2]:
        raise _shorter(where)
    if now != version:
        raise InvalidData(f"{where} was changed while it was read: run this again once nobody writes it")


def _shorter(where: object) -> InvalidData:
    return InvalidData(
        f"{where} has become shorter while it was read: is it being written or copied? run this "
        "again once that is done"
    )


def read_into(file: BinaryIO, array: NDArray[Any], offset: int) -> None:
    """Fill an array, C-contiguous, with the bytes of a file that begin at an offset.

    Several threads may do so at a time.

    Raises
    ------
    InvalidData
        The file has become too short for it.
    OSError
        It cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> file = tempfile.TemporaryFile()
    >>> _ = file.write(bytes(range(8))); file.flush()
    >>> numbers = np.empty(2, "<u2")
    >>> read_into(file, numbers, 4)
    >>> numbers
    array([1284, 1798], dtype=uint16)
    """
    view, done = memoryview(array.reshape(-1).view(np.uint8).data), 0
    while done < len(view):
        if hasattr(os, "preadv"):
            got = os.preadv(file.fileno(), [view[done:]], offset + done)
        else:
            with _seeking:
                file.seek(offset + done)
                got = file.readinto(view[done:])  # type: ignore[attr-defined]  # a buffered reader
        if not got:
            raise _shorter(file.name)
        done += got
