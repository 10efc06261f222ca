"""The folder of a search: it is of one search, and one process at a time works in it."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidData
from ckncuda.files.atomic_file import atomic_file

DIGESTED = 100  # images that tell whether a search goes on with those that it began with


def describe(
    images: NDArray[Any], labels: NDArray[np.int64], origin: Mapping[str, str | None], **options: Any
) -> dict[str, Any]:
    """Return plain data that tell a search from others: its images, their labels, and its options."""
    return dict(origin) | {
        "images_sha256": _digest(images[:: max(1, len(images) // DIGESTED)]),
        "labels_sha256": _digest(labels.astype(np.int64)),
        "n_images": len(images),
        "image_shape": list(images.shape[1:]),
        "image_type": str(images.dtype),
        **options,
    }


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@contextlib.contextmanager
def search_folder(folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Make a folder that holds this search, and keep other processes out of it.

    Raises `InvalidData` if the folder holds a search of something else.
    """
    path = folder / "search.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        stored = about
    except (OSError, ValueError) as error:
        raise InvalidData(f"cannot read {path}: {error}; give another --folder") from error
    if not isinstance(stored, dict):
        raise InvalidData(f"{path} is not what a search writes; give another --folder")
    differing = [name for name in about if stored.get(name) != about[name]]
    if differing:
        what = "; ".join(f"{name} was {stored.get(name)}, is {about[name]}" for name in differing)
        raise InvalidData(f"{folder} holds another search: {what}. Give another --folder, or remove that one")
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        with atomic_file(path) as file:
            file.write(json.dumps(about, indent=2).encode() + b"\n")
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out, where the system has locks that end with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            shown = f"another search is at work in {folder}"
            raise InvalidData(f"{shown}: wait for it, or give another --folder") from error
        yield
