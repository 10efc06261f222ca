"""The place where a Gram matrix is written: K.zarr, its beginning K.zarr.part, or somebody's things.

Nothing is written into a folder, nor replaced, that is not ours to the last file.
"""

import contextlib
import fnmatch
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from numpy.lib import format as npy

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.chunks import CHECKSUMS, CHUNKS
from ckncuda.exact.on_disk.description import DESCRIPTION, Description, read_description
from ckncuda.files.atomic_file import check_writable, way_out, write_whole
from ckncuda.files.lock import open_locked
from ckncuda.files.own_folder import check_own_folder, entries_within
from ckncuda.files.regular_file import open_regular
from ckncuda.types import StrPath

LOCK = ".lock"
HALF_WRITTEN = "*.partial"  # what is being written, before it has its name
HALF_WRITTEN_HERE = tuple(f"{name.partition('.')[0]}.{HALF_WRITTEN}" for name in (DESCRIPTION, CHECKSUMS))
ADVICE = "delete the folder to begin anew, or give another output"


def check_gram_path(path: StrPath) -> None:
    """Raise `InvalidData`, before any work, if no matrix can be written there."""
    path = Path(path)
    if path.suffix.lower() not in (".npy", ".zarr"):
        raise InvalidData(
            f"cannot tell from {path} how to write a matrix: give a name ending in .zarr or .npy"
        )
    _check_link(path)
    if is_npy(path):
        check_writable(path)
    else:
        if path.exists():
            check_ours(place_of(path), path)
        folder = place_of(path).parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            with contextlib.suppress(FileNotFoundError):
                os.lstat(replaced_of(path))  # whose name is longer, and may be too long
        except OSError as error:
            raise InvalidData(f"cannot write {path}: {error.strerror}{way_out(error, folder)}") from error
    _check_begun(part_of(path))


def part_of(path: StrPath) -> Path:
    """Return the folder that holds a matrix until it is finished."""
    place = place_of(path)
    return place.with_name(place.name + ".part")


def replaced_of(path: StrPath) -> Path:
    """Return the folder in which a matrix lies that is being replaced."""
    place = place_of(path)
    return place.with_name(f".{place.name}.replaced")


def place_of(path: StrPath) -> Path:
    """Return what a link points at, or the path itself: a link stays, what it points at is replaced."""
    return Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)


def is_npy(path: Path) -> bool:
    """Rather than .zarr, by the name that was given; what a link points at may have any."""
    return path.suffix.lower() == ".npy"


def _check_link(path: Path) -> None:
    """Raise unless a link leads somewhere, and not to a file of another kind than its name says."""
    if not path.is_symlink():
        return
    try:
        os.path.realpath(path, strict=True)
        begins = b""
        if is_npy(path) and path.is_file():
            with open_regular(path) as file:
                begins = file.read(len(npy.MAGIC_PREFIX))
    except FileNotFoundError:
        return  # it appears with the matrix
    except OSError as error:
        raise InvalidData(f"cannot write {path}: {error.strerror}; give another name") from error
    if begins not in (b"", npy.MAGIC_PREFIX):
        raise InvalidData(
            f"cannot write {path}: it is a link to {place_of(path)}, which is no .npy file and would be "
            "replaced; give another name"
        )


def check_ours(folder: Path, path: Path) -> None:
    """Raise unless a folder is a Gram matrix, and nothing else, which may be replaced by that of a path."""
    if description_of(folder) is None:
        raise InvalidData(
            f"cannot write {path}: something stands there that is no Gram matrix of ckn gram, or one whose "
            f"{DESCRIPTION} is damaged; give another name, or delete it"
        )
    check_own_folder(folder)
    if foreign := _foreign(folder) or _foreign_among_tiles(folder):
        raise InvalidData(
            f"cannot write {path}: it holds {foreign}, which is not of ckn gram and would be "
            "lost; move that elsewhere, or give another name"
        )
    _check_removable(folder, path)


def _check_removable(folder: Path, path: Path) -> None:
    """Raise unless a matrix that stands there may be moved and removed, as it is when it is replaced."""
    inside = (entry for entry in entries_within(folder) if entry.is_dir(follow_symlinks=False))
    for place in (folder.parent, folder, *map(Path, inside)):
        if not os.access(place, os.W_OK | os.X_OK):
            raise InvalidData(
                f"cannot write {path}: what stands there could not be removed, since {place} is "
                "write-protected; make it writable, or give another name"
            )


def _check_begun(part: Path) -> None:
    """Raise if what stands where a matrix shall grow is not of ours; nothing is written into it."""
    if not os.path.lexists(part):
        return
    if part.is_symlink() or not part.is_dir():
        raise InvalidData(
            f"{part}, where the matrix grows until it is finished, is no folder: move it elsewhere, "
            "or give another output"
        )
    try:
        foreign = _foreign(part)
    except OSError as error:
        raise InvalidData(f"cannot read {part}: {error.strerror}; give another output") from error
    if foreign:
        raise InvalidData(
            f"{part} is no folder of ckn gram, since it holds {foreign}; move that elsewhere, "
            "or give another output"
        )
    check_own_folder(part)
    if not is_ours(part):
        raise damaged(part)


def _foreign(folder: Path) -> str | None:
    """Return the name of something in a folder that `GramStore` has not written, or None."""
    names = set(os.listdir(folder))
    # Tiles without a description of which matrix they are could be taken for those of another.
    ours = {LOCK, DESCRIPTION, CHECKSUMS, CHUNKS} if DESCRIPTION in names else {LOCK}
    half_written = {name for pattern in HALF_WRITTEN_HERE for name in fnmatch.filter(names, pattern)}
    return min(names - ours - half_written, default=None)


def _foreign_among_tiles(folder: Path) -> str | None:
    """Return what stands among the tiles and is none, nor the beginning of one: it would go with them."""
    if not (folder / CHUNKS).is_dir():
        return None
    for entry in entries_within(folder / CHUNKS):
        depth = len(Path(entry.path).relative_to(folder / CHUNKS).parts)
        begun = depth == 2 and fnmatch.fnmatch(entry.name, HALF_WRITTEN)
        is_folder = entry.is_dir(follow_symlinks=False)
        if not (entry.name.isdecimal() or begun) or is_folder != (depth == 1) or depth > 2:
            return str(Path(entry.path).relative_to(folder))
    return None


def damaged(part: Path) -> InvalidData:
    """Return the error to raise of a folder that cannot be told to be ours."""
    return InvalidData(f"{part} is damaged or no folder of ckn gram: {ADVICE}")


def is_ours(folder: Path) -> bool:
    """Return whether nothing is in a folder but a matrix, or what a kill has left of one."""
    described = not os.path.lexists(folder / DESCRIPTION) or description_of(folder) is not None
    return described and _foreign(folder) is None


def has_tiles(folder: Path) -> bool:
    """Return whether there is any file that may be a tile."""
    files = (file for file in (folder / CHUNKS).rglob("*") if not file.is_dir())
    return any(not fnmatch.fnmatch(file.name, HALF_WRITTEN) for file in files)


def remove(folder: Path) -> None:
    """Remove a folder of ours; its description goes last, so that what a kill leaves is known as ours."""
    if (folder / CHUNKS).exists():
        shutil.rmtree(folder / CHUNKS)
    for pattern in HALF_WRITTEN_HERE:
        for half_written in folder.glob(pattern):
            half_written.unlink(missing_ok=True)
    for name in (CHECKSUMS, DESCRIPTION, LOCK):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()  # fails if anything else is in it


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file in a folder of ours, which appears whole or not at all."""
    part = folder / f"{name.partition('.')[0]}.{secrets.token_hex(8)}.partial"
    write_whole(folder / name, content, part, 0o664)


def remove_replaced(folder: Path) -> None:
    """Remove a matrix that was replaced, now or before a kill; raise `InvalidData` if it is none."""
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    if is_folder:
        check_own_folder(folder)
    if not is_folder or not is_ours(folder) or _foreign_among_tiles(folder):
        raise InvalidData(
            f"{folder} is in the way and not of ckn gram: move it elsewhere and give the same command again"
        )
    remove(folder)


def description_of(folder: Path) -> Description | None:
    """Read what a folder of ours says that it is; None: it does not, or it is damaged."""
    try:
        return read_description(folder)
    except (OSError, InvalidData):
        return None


def locked(folder: Path, path: Path) -> BinaryIO:
    """Lock a folder of ours against other processes; open as long as the folder is ours."""
    advice = f"another process is computing {path}: wait for it, or give another output"
    while True:
        file = open_locked(folder / LOCK, advice)
        if os.fstat(file.fileno()).st_nlink or os.name == "nt":
            return file
        file.close()  # who held it removed it meanwhile, and the next one would make another
