"""The folder of a search: it is of one search, and one process at a time works in it."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData, printable
from ckncuda.files.atomic_file import atomic_file, check_writable
from ckncuda.files.own_folder import check_own_folder, make_own_folder, open_own_file
from ckncuda.files.regular_file import read_within
from ckncuda.given.parameters import shown

FORMAT = 2  # of what stands in the folder
ABOUT_BYTES = 1 << 20  # of search.json, at most
DIGEST_BYTES = 16 << 20  # of images that are read at a time
FILES = ("search.json", "leaderboard.md", "accuracy.png")


def describe(
    images: NDArray[Any], labels: NDArray[np.int64], origin: Mapping[str, str | None], **options: Any
) -> dict[str, Any]:
    """Return plain data that tell a search from others: its images, their labels, and its options.

    Under ``origin`` stands where they came from, for people: data that have moved are the same data.
    """
    return {
        "format": FORMAT,
        "origin": dict(origin),
        "images_sha256": _digest(images),
        "labels_sha256": _digest(labels.astype(np.int64)),
        "n_images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_type": str(images.dtype),
        **options,
    }


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    step = max(1, DIGEST_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).tobytes())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def search_folder(folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Make a folder that holds this search, and keep other processes out of it.

    No link is followed there, and what a process that was ended has left is removed.

    Raises
    ------
    InvalidData
        The folder holds a search of something else or a link, or it belongs to somebody else; another
        process works in it, or it cannot be made.
    """
    if os.path.lexists(folder):
        check_own_folder(folder)
        _check_same(folder, about)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_own_folder(folder)
    except OSError as error:
        raise InvalidData(f"cannot make the folder {printable(folder)}: {error.strerror}") from error
    with alone_in(folder):
        for name in FILES:  # before the work; what was left of one is removed
            check_writable(folder / name)
        with atomic_file(folder / "search.json") as file:
            file.write(json.dumps(about, indent=2).encode() + b"\n")
        yield


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    """Raise `InvalidData` unless a folder holds this search, or none."""
    path = folder / "search.json"
    try:
        stored = json.loads(read_within(path, ABOUT_BYTES, follow=False).decode("utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:  # InvalidData, too, is a ValueError
        reason = printable(error)
        raise InvalidData(f"cannot read {printable(path)}: {reason}; give another --folder") from error
    if not isinstance(stored, dict):
        raise InvalidData(f"{printable(path)} is not what a search writes; give another --folder")
    if stored.get("format") != FORMAT:
        raise InvalidData(
            f"{printable(folder)} holds a search of another version of ckncuda: give another --folder, or "
            "remove that one"
        )
    differing = [name for name in about if name != "origin" and stored.get(name) != about[name]]
    if differing:
        what = "; ".join(f"{name} was {shown(stored.get(name))}, is {about[name]}" for name in differing)
        raise InvalidData(
            f"{printable(folder)} holds another search: {what}. Give another --folder, or remove that one"
        )


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out, by a lock that ends with the process."""
    with open_own_file(folder / "lock") as file:
        try:
            _lock(file)
        except OSError as error:
            what = f"another search is at work in {printable(folder)}"
            raise InvalidData(f"{what}: wait for it, or give another --folder") from error
        yield


def _lock(file: BinaryIO) -> None:
    """Lock a file, or raise `OSError` where another process has done so."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        try:
            import fcntl
        except ImportError:  # a system without such locks: nobody is kept out
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
