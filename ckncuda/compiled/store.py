"""Machine code that is kept for the next process, in a folder that nobody else can write to.

Whoever can write what is read here can run code as its reader: what Numba keeps is unpickled, and then
executed. So files and their folder belong to us, or to whoever installed the sources they were compiled
of, and no one else may write them. Each file begins with a digest of the rest: one that was cut off, or
changed by a failing disk, is compiled anew.
"""

import contextlib
import functools
import hashlib
import logging
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckncuda.errors import InvalidData
from ckncuda.files.atomic_file import write_whole
from ckncuda.files.regular_file import open_regular

VARIABLE = "CKNCUDA_CPU_CACHE"
BEGINNING = b"ckncuda: compiled by Numba\n"
ENDING = ".machine-code"
FORGOTTEN = 30 * 86400  # seconds after which code of other versions is removed
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Folder:
    """A place for files, and who may have written them.

    ``sources`` are, where the folder lies among them, those of which the files were compiled: who can change
    them gains nothing by changing these.
    """

    path: Path
    sources: Path | None = None

    def distrust(self, status: os.stat_result) -> str | None:
        """Return why a file in the folder, or the folder, may be an intruder's; None where it cannot."""
        if not hasattr(os, "geteuid"):  # Windows, where the folders of a user are that user's
            return None
        owners, others_write = {os.geteuid()}, OTHERS_WRITE
        if self.sources is not None:
            with contextlib.suppress(OSError):
                installed = self.sources.stat()
                owners |= {0, installed.st_uid}
                others_write &= ~installed.st_mode
        if status.st_uid not in owners:
            return "it belongs to another user"
        return "others may write to it" if status.st_mode & others_write else None

    def problem(self) -> str | None:
        """Return why nothing can be read from the folder; None where something could."""
        try:
            status = os.lstat(self.path)
        except OSError as error:
            return error.strerror
        return self.distrust(status) if stat.S_ISDIR(status.st_mode) else "it is no folder"

    def read(self, name: str) -> bytes | None:
        """Return what was written, or None if it is not there, is damaged or may be an intruder's."""
        if self.problem() is not None:
            return None
        try:
            with open_regular(self.path / name, follow=False) as file:
                if self.distrust(os.fstat(file.fileno())) is not None:
                    return None
                content = file.read()
        except (OSError, InvalidData):
            return None
        begin = len(BEGINNING) + hashlib.sha256().digest_size
        whole = content[:begin] == BEGINNING + hashlib.sha256(content[begin:]).digest()
        return content[begin:] if whole else None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole or not at all.

        Raises
        ------
        OSError
            It cannot be written, or the folder is not ours to trust.
        """
        if not self.path.is_dir():
            mode = 0o700 if self.sources is None else 0o777  # there Python keeps what others read, too
            self.path.mkdir(mode, parents=True, exist_ok=True)
        if problem := self.problem():
            raise PermissionError(f"{self.path}: {problem}")
        # No number of a process: threads have the same, and so have processes of two containers.
        part = self.path / f"{name}.{secrets.token_hex(8)}.part"
        write_whole(self.path / name, BEGINNING + hashlib.sha256(content).digest() + content, part, 0o644)

    def names(self, part: str = "") -> Iterator[str]:
        """Yield the names of files of ours in which this occurs."""
        if self.problem() is None:
            with contextlib.suppress(OSError):
                ours = (name for name in os.listdir(self.path) if name.startswith("ckncuda-"))
                yield from (name for name in ours if part in name)

    def forget(self, current: str) -> None:
        """Remove what other versions, and writers that were killed, left long ago."""
        for name in self.names():
            with contextlib.suppress(OSError):
                old = time.time() - os.lstat(self.path / name).st_mtime > FORGOTTEN
                if old and (name.endswith(".part") or (name.endswith(ENDING) and current not in name)):
                    os.unlink(self.path / name)


def folders() -> list[Folder]:
    """Return where machine code may be kept, the first choice first.

    That is the folder of the environment variable ``CKNCUDA_CPU_CACHE``; or else, in turn, that of
    ``NUMBA_CACHE_DIR``, beside the sources, the user's folder of caches, and one of the user's own among
    temporary files.
    """
    if given := os.environ.get(VARIABLE):
        return [Folder(Path(os.path.realpath(given)))]
    found = []
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        found.append(Folder(Path(os.path.realpath(given)) / "ckncuda"))
    sources = Path(__file__).parent
    found.append(Folder(sources / "__pycache__", sources))
    with contextlib.suppress(RuntimeError, OSError):  # a user without a home
        found.append(Folder(Path(os.path.realpath(_user_caches())) / "ckncuda"))
    with contextlib.suppress(OSError):  # nowhere to write temporary files
        user = f"-{os.geteuid()}" if hasattr(os, "geteuid") else ""
        found.append(Folder(Path(os.path.realpath(tempfile.gettempdir())) / f"ckncuda{user}"))
    return found


def _user_caches() -> Path:
    """Return the folder in which programs keep a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def load(name: str) -> bytes | None:
    """Return what `save` has kept, of whichever folder has it whole and can be trusted; None if none has."""
    return next((found for folder in folders() if (found := folder.read(name)) is not None), None)


def is_kept(part: str) -> bool:
    """Tell whether any file is kept in whose name this occurs."""
    return any(name.endswith(ENDING) for folder in folders() for name in folder.names(part))


def problem() -> str | None:
    """Return why nothing can be kept; None where it can."""
    probe = f"ckncuda-probe.{secrets.token_hex(8)}.part"
    found = _write(probe, b"")
    if isinstance(found, str):
        return found
    with contextlib.suppress(OSError):
        os.unlink(found.path / probe)
    return None


def _write(name: str, content: bytes) -> Folder | str:
    """Write a file into the first folder that takes it, and return that; where none does, return why."""
    problems = []
    for folder in folders():
        try:
            folder.write(name, content)
            return folder
        except OSError as error:
            problems.append(str(error) if error.strerror is None else f"{folder.path}: {error.strerror}")
    return "; ".join(problems)


def save(name: str, content: bytes, current: str) -> None:
    """Keep something for other processes, or say, once, that each will have to make it anew.

    ``current`` is a part of the names of this version's files.
    """
    found = _write(name, content)
    if isinstance(found, str):
        _say_not_kept(found)
    else:
        _forget(found, current)


_forget = functools.cache(Folder.forget)  # once a process


@functools.cache
def _say_not_kept(problems: str) -> None:
    logging.getLogger("ckncuda").warning(
        "What Numba compiles cannot be kept, so that every start compiles anew: set the environment "
        "variable %s to a folder of yours (%s)",
        VARIABLE,
        problems,
    )
