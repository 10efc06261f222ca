"""The files of a Gram matrix's tiles: which are whole, and where they belong.

The checksum in a tile's file is of its content alone: two files that change places keep theirs.  So a file
beside them, ``checksums``, says which checksum stands in which place, a line a tile as it is finished.
"""

import contextlib
import itertools
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ckncuda.errors import InvalidData
from ckncuda.exact.on_disk.description import Description
from ckncuda.files.own_folder import append_whole, open_own_file
from ckncuda.files.regular_file import open_regular, read_within

CHUNKS = "c"
CHECKSUMS = "checksums"
LONGEST = 1 << 28  # bytes, which are lines of ten million tiles
_TAIL = 4  # bytes of a checksum, at the end of a tile's file

Place = tuple[int, int]


class Chunks:
    """The tiles of a matrix in a folder.

    Parameters
    ----------
    folder : Path
    description : Description
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder, self._description = folder, description
        self._known = read_checksums(folder) if description.checked else None
        self._file: BinaryIO | None = None

    def path(self, place: Place) -> Path:
        """Return the file of a tile."""
        return self.folder / CHUNKS / str(place[0]) / str(place[1])

    def is_whole(self, place: Place) -> bool:
        """Return whether a tile's file is there, of the right size, and the one that was written there.

        Whether its content agrees with its checksum tells only who reads all of it.
        """
        checksum = self._checksum(place)
        return checksum is not None and (self._known is None or self._known.get(place) == checksum)

    def _checksum(self, place: Place) -> str | None:
        path, size = self.path(place), self._description.chunk_bytes + _TAIL
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return None
            with open_regular(path, follow=False) as file:
                file.seek(size - _TAIL)
                tail = file.read(_TAIL)
        except (OSError, InvalidData):
            return None
        return tail.hex() if len(tail) == _TAIL else None

    def make_way(self, place: Place) -> None:
        """Make the folder of a tile, into which not everybody may write, whatever the umask; clear its place.

        Zarr 3.1.0 writes into what stands there: into a pipe, where it would wait for ever.
        """
        for folder in (self.folder / CHUNKS, self.path(place).parent):
            try:
                os.mkdir(folder, 0o775)
            except FileExistsError:
                continue
        with contextlib.suppress(OSError):  # there is nothing, or it is a folder
            os.unlink(self.path(place))

    def written(self, place: Place) -> None:
        """Keep the checksum of a tile that has just been written there."""
        checksum = self._checksum(place)
        if self._known is None or checksum is None:
            return
        begin = b""
        if self._file is None:
            self._file = open_own_file(self.folder / CHECKSUMS)
            begin = b"\n"  # a kill may have left half a line
        append_whole(self._file, begin + _line(place, checksum))
        self._known[place] = checksum

    def close(self) -> None:
        """Close the file of checksums."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def sorted_checksums(self) -> bytes | None:
        """Return the file of checksums as it is when the matrix is finished; None: it has none."""
        if self._known is None:
            return None
        shape, size = self._description.shape, self._description.chunk_shape
        rows, columns = (-(-images // side) for images, side in zip(shape, size, strict=True))
        places = itertools.product(range(rows), range(columns))
        return b"".join(_line(place, self._known[place]) for place in places if place in self._known)


def _line(place: Place, checksum: str) -> bytes:
    return f"{place[0]}/{place[1]} {checksum}\n".encode()


def read_checksums(folder: Path) -> dict[Place, str]:
    """Read which checksum each tile has; lines that are damaged are left out, and so are their tiles."""
    try:
        content = read_within(folder / CHECKSUMS, LONGEST, follow=False)
    except (OSError, InvalidData):
        return {}
    known: dict[Place, str] = {}
    for line in content.decode("ascii", "replace").split("\n"):
        place, _, checksum = line.partition(" ")
        i, _, j = place.partition("/")
        numbers = all(number.isdecimal() and number.isascii() and len(number) < 10 for number in (i, j))
        if numbers and len(checksum) == 2 * _TAIL:
            known[int(i), int(j)] = checksum
    return known
