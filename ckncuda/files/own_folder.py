"""Folders of ours: whoever puts a link into one, or makes one for us, has no file of ours written elsewhere.

A folder in which we write is a real one, of this user or of the system's, that not everybody may write
into, and nothing in it is a link: neither a folder, nor a file that is written where it stands.  What is
opened there is opened without following a link that has appeared meanwhile.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ckncuda.errors import InvalidData
from ckncuda.types import StrPath

DEEPEST = 50  # folders in folders
_SYSTEM = 0  # the user root, whom everybody has to trust


def make_own_folder(folder: StrPath) -> None:
    """Make a folder into which not everybody may write; one that stands there already is checked.

    Raises
    ------
    InvalidData
        What stands there is no folder of ours; see `check_own_folder`.
    OSError
        None can be made there.
    """
    try:
        os.mkdir(folder, 0o775)
    except FileExistsError:
        check_own_folder(folder)


def check_own_folder(folder: StrPath) -> None:
    """Raise `InvalidData` unless a folder is ours, and nothing in it, however deep, is a link.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> check_own_folder(folder)
    >>> (folder / "lock").symlink_to("/etc/passwd")
    >>> try:
    ...     check_own_folder(folder)
    ... except InvalidData as error:
    ...     print(str(error).removeprefix(str(folder)))
    /lock is a link, and is not followed: remove it, if you know who made it
    """
    found = os.lstat(folder)
    if stat.S_ISLNK(found.st_mode):
        raise _link(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidData(f"{folder} is no folder: move it elsewhere, or give another")
    _check_owner(folder, found)
    for entry in entries_within(folder):
        if entry.is_symlink():
            raise _link(entry.path)
        if entry.is_dir(follow_symlinks=False):
            _check_owner(entry.path, entry.stat(follow_symlinks=False))


def entries_within(folder: StrPath) -> "Iterator[os.DirEntry[str]]":
    """Yield all that is in a folder, and in the folders in it; no link is followed.

    Raises `InvalidData` where they are nested deeper than any of ours are.
    """
    folders = [(os.fspath(folder), 0)]
    while folders:
        place, depth = folders.pop()
        if depth > DEEPEST:
            raise InvalidData(
                f"{folder} holds folders in folders, {depth} deep, which are not ours: "
                "remove them, if you know who made them"
            )
        with os.scandir(place) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, depth + 1))


def check_own_file(path: StrPath) -> None:
    """Raise `InvalidData` if what stands there is not a file of ours alone; nothing may stand there.

    It is called before somebody else's code, such as a storage of Optuna's, writes a file where it stands.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    _check_file(path, found)


def open_own_file(path: StrPath) -> BinaryIO:
    """Open a file of ours to read it and to write at its end, new if there is none; it is never emptied.

    Raises
    ------
    InvalidData
        What stands there is a link, no file, a file with another name elsewhere, or somebody else's.
    OSError
        No file can be made there, or it may not be written.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> with open_own_file(path) as file:
    ...     _ = file.write(b"1")
    >>> path.read_bytes()
    b'1'
    """
    check_own_file(path)  # says in our words what the flags below refuse
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o664)
    try:
        _check_file(path, os.fstat(descriptor))
    except InvalidData:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "a+b")


def append_whole(file: BinaryIO, content: bytes) -> None:
    """Write at the end of a file that `open_own_file` has opened, all of it or nothing.

    Nothing is left to be written when it is closed, as a buffer is that a full disk has not taken.

    Raises
    ------
    OSError
        The disk is full; the file is as long as it was.
    """
    descriptor, left = file.fileno(), memoryview(content)
    before = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.ftruncate(descriptor, before)
        raise


def _check_file(path: StrPath, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISREG(found.st_mode):
        raise InvalidData(f"{path} is no file: remove it, if you know who made it")
    if found.st_nlink > 1:
        raise InvalidData(
            f"{path} is another name of a file that stands elsewhere, too, and would be written into: "
            "remove this name, if you know who made it"
        )
    _check_owner(path, found)


def _check_owner(path: StrPath, found: os.stat_result) -> None:
    """Raise unless it is ours or the system's, and not everybody may write there."""
    if not hasattr(os, "getuid"):  # Windows, whose owners and rights are others
        return
    stranger = found.st_uid not in (os.getuid(), _SYSTEM)
    open_to_all = bool(found.st_mode & stat.S_IWOTH)
    if not stranger and not open_to_all:
        return
    owner, mode = _made_beside(path)  # on some file systems all files have one owner and one mode
    if stranger and found.st_uid != owner:
        raise InvalidData(
            f"{path} belongs to another user (number {found.st_uid}), who could have anything written "
            "through it: give another output, or make it yours, if you trust what is in it"
        )
    if open_to_all and not mode & stat.S_IWOTH:
        raise InvalidData(
            f"everybody may write into {path}, and have anything written through it: "
            f"chmod -R o-w {path}, if you trust what is in it, or give another output"
        )


def _made_beside(path: StrPath) -> tuple[int, int]:
    """Return the owner and the mode that a file has which we make, for us alone, where this one stands."""
    try:
        with tempfile.TemporaryFile(dir=Path(path).absolute().parent) as file:
            made = os.fstat(file.fileno())
    except OSError:  # we may not write there
        return -1, 0
    return made.st_uid, made.st_mode


def _link(path: StrPath) -> InvalidData:
    return InvalidData(f"{path} is a link, and is not followed: remove it, if you know who made it")
