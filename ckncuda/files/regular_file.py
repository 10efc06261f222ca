"""Files that others give: regular ones alone, read within a bound, never mapped into memory.

A FIFO would wait for ever, a device never ends, and a file that is mapped and shrinks ends the process
without a word (SIGBUS).
"""

import os
import stat
from typing import BinaryIO

from ckncuda.errors import InvalidData

StrPath = str | os.PathLike[str]

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
            raise InvalidData(f"{os.fspath(path)} is a link, which is not followed here: remove it")
        flags |= getattr(os, "O_NOFOLLOW", 0)
    if os.path.isdir(path):  # which Windows does not open
        raise InvalidData(_refusal(path, "a folder"))
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InvalidData(_refusal(path, next((name for is_it, name in _KINDS if is_it(mode)), "no file")))
    return os.fdopen(descriptor, "rb")


def _refusal(path: StrPath, what: str) -> str:
    advice = "give a file in it" if what == "a folder" else "save its content to a file, and give that"
    return f"{os.fspath(path)} is {what}, not a file: {advice}"


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
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidData(f"{os.fspath(path)} is larger than the {limit:,} bytes that such a file may have")
    return content
