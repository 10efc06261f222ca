"""Locks between processes: on an open file, until it is closed or its process ends, however that ends."""

import errno
import sys
from typing import BinaryIO

from ckncuda.errors import InvalidData
from ckncuda.files.own_folder import open_own_file
from ckncuda.types import StrPath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def lock(descriptor: int) -> bool | None:
    """Lock an open file, without waiting.

    Returns
    -------
    bool or None
        False where somebody else holds the lock.  None where nobody can: on some network file systems, and on
        Windows.

    Raises
    ------
    OSError
        The file cannot be locked for another reason.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file, open(file.name) as again:
    ...     lock(file.fileno()), lock(again.fileno())
    (True, False)
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def open_locked(path: StrPath, advice: str) -> BinaryIO:
    """Open a file of ours that keeps other processes out as long as it is open; see `open_own_file`.

    Raises
    ------
    InvalidData
        Another process has locked it, and the advice says so; or it is no file of ours.
    """
    file = open_own_file(path)
    try:
        if _is_taken(file):
            raise InvalidData(advice)
    except BaseException:
        file.close()
        raise
    return file


def _is_taken(file: BinaryIO) -> bool:
    """Lock a file that holds nothing of worth; on Windows, which locks bytes, its first."""
    if sys.platform != "win32":
        return lock(file.fileno()) is False
    import msvcrt

    file.seek(0)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return True
    return False
