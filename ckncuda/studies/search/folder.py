"""The folder of a search: it is of one search, and one process at a time works in it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData
from ckncuda.exact.job import digest
from ckncuda.files import strict_json
from ckncuda.files.atomic_file import atomic_file, check_writable
from ckncuda.files.lock import open_locked
from ckncuda.files.own_folder import check_own_folder, make_own_folder
from ckncuda.files.regular_file import read_within
from ckncuda.given.parameters import shown
from ckncuda.images.sources import ArrayImages

FORMAT = 2  # of what stands in the folder
ABOUT_BYTES = 1 << 20  # of search.json, at most
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
        "images_sha256": digest(ArrayImages(images)),
        "labels_sha256": hashlib.sha256(labels.astype(np.int64).tobytes()).hexdigest(),
        "n_images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_type": str(images.dtype),
        **options,
    }


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
        raise InvalidData(f"cannot make the folder {folder}: {error.strerror}") from error
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
        stored = strict_json.loads(read_within(path, ABOUT_BYTES, follow=False))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # InvalidData, too, is a ValueError
        raise InvalidData(f"cannot read {path}: {error}; give another --folder") from error
    if not isinstance(stored, dict):
        raise InvalidData(f"{path} is not what a search writes; give another --folder")
    if stored.get("format") != FORMAT:
        raise InvalidData(
            f"{folder} holds a search of another version of ckncuda: give another --folder, or "
            "remove that one"
        )
    differing = [name for name in about if name != "origin" and stored.get(name) != about[name]]
    if differing:
        what = "; ".join(f"{name} was {shown(stored.get(name))}, is {about[name]}" for name in differing)
        raise InvalidData(f"{folder} holds another search: {what}. Give another --folder, or remove that one")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out, by a lock that ends with the process."""
    advice = f"another search is at work in {folder}: wait for it, or give another --folder"
    with open_locked(folder / "lock", advice):
        yield
