"""Files that appear whole or not at all.

Until it is whole, a file ``f`` is ``.f.0123456789abcdef.part`` beside it, on which its writer holds a lock.
The system forgets the lock when the writer dies: whoever writes ``f`` next removes what has none.
"""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ckncuda.errors import InvalidData
from ckncuda.files.lock import lock
from ckncuda.types import StrPath

RENAMES_OPEN_FILES = os.name != "nt"  # nor does Windows remove them
ABANDONED = 86400.0  # seconds after which a file is left over, where there are no locks to tell
LONGEST_STEM = 200  # bytes of a name that temporary files bear: file systems take 255
_NEW = os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def check_writable(path: StrPath) -> None:
    """Raise `InvalidData` if no file can be made at ``path``; leaves nothing behind.

    Called before long work, so that a typing mistake in an output path costs no time.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))
    try:
        problem = _problem(path)
        if problem:
            raise InvalidData(f"cannot write {path}: {problem}")
        descriptor, name = _open_temporary(place)  # as the file itself will be made: no other tells as much
        os.close(descriptor)
        os.unlink(name)
    except OSError as error:
        reason = f"{error.strerror}{way_out(error, place.parent)}"
        raise InvalidData(f"cannot write {path}: {reason}") from error
    remove_left_over(place)


def way_out(error: OSError, folder: Path) -> str:
    """Return where no file can be made and what to do, the rest of a sentence that says why."""
    if error.errno == errno.ENAMETOOLONG:
        return ": give a shorter name"
    missing = error.errno == errno.ENOENT and not os.path.exists(folder)  # /proc is there
    advice = "make that folder first" if missing else "give another place"
    return f" ({folder}): {advice}"


def _problem(path: Path) -> str:
    """Return why what stands at a path is not to be replaced, and what to do; empty where it is."""
    if path.is_dir():
        return "it is a folder; give the name of a file"
    if path.exists() and not path.is_file():
        return "it is a device or a pipe, and would be replaced; give a file"
    if path.exists() and not path.stat().st_mode & 0o222:
        return "it is write-protected; make it writable or give another name"
    return ""


@contextlib.contextmanager
def atomic_file(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; rename it to ``path`` when the block ends well.

    On any exception, Ctrl-C included, the temporary file is removed and whatever stood at
    ``path`` before stays as it was.

    Yields
    ------
    file : binary file, open for reading and writing

    Raises
    ------
    InvalidData
        The file cannot be written: no such folder, no permission, disk full.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "greeting"
    >>> with atomic_file(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_bytes()
    b'hello'
    """
    path = Path(path)
    check_writable(path)
    place = Path(os.path.realpath(path))  # a link stays, and what it points at is replaced
    try:
        descriptor, name = _open_temporary(place)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if place.exists():
                    # By the file itself: a link that somebody puts in place of its name would be followed.
                    change = getattr(os, "fchmod", None)
                    change = change or (lambda _, mode: os.chmod(name, mode))  # Windows
                    change(file.fileno(), stat.S_IMODE(place.stat().st_mode))
                if RENAMES_OPEN_FILES:  # as long as the lock is held
                    os.replace(name, place)
            if not RENAMES_OPEN_FILES:
                os.replace(name, place)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise InvalidData(
            f"cannot write {path}: {error.strerror or error}; nothing was left behind"
        ) from error


def write_whole(path: Path, content: bytes, part: Path, mode: int) -> None:
    """Write a file of ours under another name, which nobody knows, and then give it its own.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    descriptor = os.open(part, _NEW | os.O_WRONLY, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _open_temporary(place: Path) -> tuple[int, str]:
    """Make a file of a name that nobody knows, locked, with the mode of what it is to replace."""
    # The umask is applied by the system: to read it, a process has to change it, for all its threads.
    mode = stat.S_IMODE(place.stat().st_mode) & 0o666 if place.exists() else 0o666
    while True:
        name = str(place.with_name(f".{_stem(place)}.{secrets.token_hex(8)}.part"))
        descriptor = os.open(name, _NEW | os.O_RDWR, mode)
        try:
            held = lock(descriptor)
            if held is None or (held and os.fstat(descriptor).st_nlink):
                return descriptor, name
        except BaseException:
            os.close(descriptor)
            os.unlink(name)
            raise
        os.close(descriptor)  # whoever looks for what is left over was quicker, and removes it


def _stem(place: Path) -> str:
    """Return what the temporary files of a file are named after: its name, unless that is too long for it."""
    name = place.name
    return name if len(os.fsencode(name)) <= LONGEST_STEM else hashlib.sha256(os.fsencode(name)).hexdigest()


def remove_left_over(place: Path) -> None:
    """Remove what writers of a file have left that were killed; not what is being written, or another's."""
    ours = re.compile(rf"\.{re.escape(_stem(place))}\.[0-9a-f]{{16}}\.part")
    for path in place.parent.glob(f".{glob.escape(_stem(place))}.*.part"):
        if ours.fullmatch(path.name):
            with contextlib.suppress(OSError):  # it is gone, or not ours to remove
                _remove_if_left_over(path)


def _remove_if_left_over(path: Path) -> None:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        return
    old = time.time() - found.st_mtime > ABANDONED
    if not RENAMES_OPEN_FILES:
        if old:
            path.unlink()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        held = lock(descriptor)
        if held or (held is None and old):
            path.unlink()  # under the lock: whoever has just made it sees that it is gone, and makes another
    finally:
        os.close(descriptor)
