"""Files that appear whole or not at all."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ckncuda.errors import InvalidData


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidData` if no file can be made at ``path``; leaves nothing behind.

    Called before long work, so that a typing mistake in an output path costs no time.
    """
    path = Path(path)
    problem = ""
    if path.is_dir():
        problem = "it is a folder; give the name of a file"
    elif path.exists() and not path.is_file():
        problem = "it is a device or a pipe, and would be replaced; give a file"
    elif path.exists() and not path.stat().st_mode & 0o222:
        problem = "it is write-protected; make it writable or give another name"
    if problem:
        raise InvalidData(f"cannot write {path}: {problem}")
    try:
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
            pass
    except OSError as error:
        raise InvalidData(f"cannot write {path}: {error.strerror} ({path.parent})") from error


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
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
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner reads.
            os.chmod(name, stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o666 & ~_umask())
            os.replace(name, place)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise InvalidData(
            f"cannot write {path}: {error.strerror or error}; nothing was left behind"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
