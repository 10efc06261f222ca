"""Gram matrices on disk that outlive the process which computes them: Zarr arrays, a chunk a tile.

Until the last tile is there, K.zarr is a folder K.zarr.part, a Zarr array whose chunks carry checksums.
A tile is finished if its chunks read back without an error and hold no NaN, which is what a chunk that
is not there reads as; chunks are written under another name and renamed.  So whoever opens the folder
after a crash, a full disk or a flipped bit finds what is left to be done; without any tile it is not kept.
At the end the folder is renamed, or copied to K.npy, a row of tiles at a time.

>>> import tempfile
>>> from ckncuda import Exponential, LayerSpec
>>> from ckncuda.backend import get_backend
>>> from ckncuda.exact import ExactKernel
>>> from ckncuda.exact.job import GramJob
>>> from ckncuda.images.sources import ArrayImages
>>> images = ArrayImages(np.random.default_rng(0).normal(size=(5, 8, 8, 1)))
>>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
>>> job, backend = GramJob(ExactKernel([layer]), images, tile=4), get_backend("numpy")
>>> output = Path(tempfile.mkdtemp()) / "K.npy"
>>> with GramStore(output, job.tiling, job.identity(backend.name)) as store:
...     store.fill(job.blocks(store.unfinished(), backend))
...     store.finish()
>>> np.load(output).shape
(5, 5)
"""

import contextlib
import glob
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
from numpy.lib import format as npy

from ckncuda.errors import InvalidData, require
from ckncuda.exact.kernel import Maps
from ckncuda.exact.on_disk.folder import (
    ADVICE,
    ATTRIBUTE,
    CHUNKS,
    DESCRIPTION,
    DESCRIPTION_HALF_WRITTEN,
    HALF_WRITTEN,
    LOCK,
    check_gram_path,
    check_ours,
    damaged,
    description_of,
    has_tiles,
    is_npy,
    is_ours,
    locked,
    part_of,
    place_of,
    remove,
    remove_replaced,
)
from ckncuda.exact.tiles import Tile, Tiling, check_finite
from ckncuda.files.atomic_file import atomic_file
from ckncuda.progress import Progress
from ckncuda.version import __version__

T = TypeVar("T")

FORMAT = 1
_SAID = {  # what identifies a matrix, as people call it
    "images": "IMAGES",
    "images2": "IMAGES2",
    "backend": "the backend",
    "kernel": "the kernel",
    "preprocessing": "the preprocessing",
    "shape": "the numbers of images",
    "ckncuda": "the version of ckncuda",
}


def check_installed() -> None:
    """Raise `NotInstalled` unless Zarr is there."""
    require("zarr", purpose="Gram matrices on disk need Zarr", extra="exact")


class GramStore:
    """A Gram matrix on disk, written tile by tile; as a context manager it keeps other processes out.

    Parameters
    ----------
    path : path-like
        Where the matrix shall stand: a name ending in .zarr or .npy.
    tiling : Tiling
    identity : dict
        Plain data that tells this matrix from others, such as `GramJob.identity`, with its ``dtype``.  What
        stands there already is gone on with if it is the same.

    Raises
    ------
    InvalidData
        What is there is of another matrix, and some of it is finished; somebody else writes it; no space, no
        permission.
    NotInstalled
        Zarr is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], tiling: Tiling, identity: dict[str, Any]) -> None:
        check_installed()
        check_gram_path(path)
        self.path = Path(path)
        self.tiling = tiling
        self.dtype = np.dtype(identity["dtype"])
        self._identity = {"format": FORMAT, "ckncuda": __version__} | identity
        self._output = place_of(path)
        self.part = part_of(path)
        self._folder = self.part
        self._lock: IO[bytes] | None = None
        self._array: Any = None
        self._pairs_left = tiling.pairs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ckncuda-store")

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        n, m = self.tiling.shape
        return n * m * int(self.dtype.itemsize)

    def bytes_of(self, tile: Tile) -> int:
        """Count the bytes of a tile on the disk; the last of rows and columns take as much as others."""
        chunk = math.prod(min(size, self.tiling.tile) for size in self.tiling.shape)
        return chunk * int(self.dtype.itemsize) * (2 if tile.mirrored else 1)

    def __enter__(self) -> Self:
        with self._writing():
            finished = not is_npy(self.path) and not self.part.exists()
            if finished and description_of(self._output) == self._identity:
                self._folder = self._output
            self._folder.mkdir(exist_ok=True)
            self._lock = locked(self._folder, self.path)
            try:
                self._tidy()
                self._array = self._open()
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()  # what is being written is written before anybody else may write
        self._array = None
        self._release()

    def _release(self) -> None:
        """Let others write; no trace is left in a finished matrix, nor of one that was never begun."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            if self._folder == self._output:
                (self._folder / LOCK).unlink()
            elif self._is_bare():
                remove(self._folder)
        self._lock.close()
        self._lock = None

    def _is_bare(self) -> bool:
        """Return whether nothing is lost with the folder: it is of this matrix, and no tile is in it."""
        same = description_of(self._folder) in (None, self._identity)
        return same and is_ours(self._folder) and not has_tiles(self._folder)

    def _whole(self, function: Callable[[], T]) -> T:
        """Let Zarr work in a thread of its own: Ctrl-C, which ends the wait here, lets it end well there."""
        return self._thread.submit(function).result()

    def _open(self) -> Any:
        """Open the array in the folder, new if there is none."""
        import zarr
        from zarr.codecs import Crc32cCodec

        description = self._folder / DESCRIPTION
        found = description_of(self._folder)
        if found not in (None, self._identity) and not has_tiles(self._folder):
            description.unlink()  # of another matrix that was never begun
        if description.exists():
            self._check_same(found)
            try:
                return self._whole(lambda: zarr.open_array(str(self._folder), mode="r+"))
            except (ValueError, LookupError, TypeError) as error:  # Zarr's words for what it cannot read
                raise damaged(self._folder) from error
        (n, m), tile = self.tiling.shape, self.tiling.tile
        attributes: dict[str, Any] = {ATTRIBUTE: self._identity}
        return self._whole(
            lambda: zarr.create_array(
                str(self._folder),
                shape=(n, m),
                chunks=(min(n, tile), min(m, tile)),
                dtype=self.dtype,
                fill_value=float("nan"),
                filters=None,
                compressors=[Crc32cCodec()],
                attributes=attributes,
                zarr_format=3,
            )
        )

    def _check_same(self, found: dict[str, Any] | None) -> None:
        if found is None:
            raise damaged(self._folder)
        if found != self._identity:
            raise InvalidData(
                f"{self.part} holds the beginning of another matrix; it differs in "
                f"{self._differences(found)}. Give what it was begun with, {ADVICE}"
            )

    def _differences(self, found: dict[str, Any]) -> str:
        """Name what tells another matrix from this one."""
        names = [name for name in self._identity if found.get(name) != self._identity[name]]
        return "; ".join(
            _SAID.get(name, name)
            if name in ("images", "images2", "kernel", "preprocessing")
            else f"{_SAID.get(name, name)}: {found.get(name)} there, {self._identity[name]} here"
            for name in names
        )

    @property
    def replaces(self) -> str | None:
        """Differences of a finished matrix, which stands there until this one is finished."""
        found = None if is_npy(self.path) else description_of(self._output)
        return None if found in (None, self._identity) else self._differences(found)

    def _tidy(self) -> None:
        """Remove what a process that was killed has left: files that never got their names."""
        for half_written in self._folder.glob(DESCRIPTION_HALF_WRITTEN):
            half_written.unlink(missing_ok=True)
        for half_written in (self._folder / CHUNKS).rglob(HALF_WRITTEN):
            half_written.unlink(missing_ok=True)
        if is_npy(self.path):
            for half_written in self._output.parent.glob(f".{glob.escape(self._output.name)}.*.part"):
                half_written.unlink(missing_ok=True)

    def unfinished(self, progress: Progress | None = None) -> list[Tile]:
        """Return the tiles that are not there, or do not agree with their checksums; reads all that is there.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress("verifying tiles", tiles, all tiles)``.
        """
        tiles = list(self.tiling)
        left = []
        self._pairs_left = 0
        for number, tile in enumerate(tiles, 1):
            if not self._is_finished(tile):
                self._clear(tile)
                left.append(tile)
                self._pairs_left += tile.pairs
            if progress is not None:
                progress("verifying tiles", number, len(tiles))
        if left and self._folder != self.part:  # a finished matrix that has been damaged since
            with self._writing():
                self._folder.rename(self.part)
                self._folder = self.part
                self._array = self._open()
        return left

    def _is_finished(self, tile: Tile) -> bool:
        # Zarr takes a while to say that there is no file: many tiles, most of them to be computed.
        return all(
            self._chunk(*side).is_file() and self._read(*side) is not None for side in self._sides(tile)
        )

    def _clear(self, tile: Tile) -> None:
        """Make way for the files of a tile, or raise `InvalidData`: a folder is not replaced by a file."""
        for side in self._sides(tile):
            chunk = self._chunk(*side)
            with contextlib.suppress(OSError):  # there is none, or it is not empty
                chunk.rmdir()
            blocking = [folder for folder in (chunk.parent.parent, chunk.parent) if folder.is_file()]
            if found := next(iter(blocking), chunk if chunk.is_dir() else None):
                raise InvalidData(
                    f"{found} is in the way of a tile: delete it, then give the same command again"
                )

    def _sides(self, tile: Tile) -> list[tuple[slice, slice]]:
        """Yield the places of a tile, and of its transpose, in the matrix."""
        return [(tile.rows, tile.columns)] + ([(tile.columns, tile.rows)] if tile.mirrored else [])

    def _chunk(self, rows: slice, columns: slice) -> Path:
        """Return the file of a tile."""
        i, j = (side.start // self.tiling.tile for side in (rows, columns))
        return self._folder / CHUNKS / str(i) / str(j)

    def _read(self, rows: slice, columns: slice) -> Maps | None:
        """Read a part of the matrix; None if any of it is missing or damaged."""
        try:
            block: Maps = self._whole(lambda: self._array[rows, columns])
        except Exception:  # whatever a reader says of bytes that are not what was written
            return None
        return None if np.isnan(block).any() else block

    def check_space(self, tiles: Iterable[Tile]) -> None:
        """Raise `InvalidData` if the disk has not enough room for these tiles and what becomes of them."""
        needed = sum(self.bytes_of(tile) for tile in tiles)
        if is_npy(self.path):
            needed += self.nbytes
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise InvalidData(
                f"{self.path} takes {needed / 2**30:.3g} GiB more, but {free / 2**30:.3g} GiB are free "
                "there: make room or give an output on another disk"
            )

    def fill(self, blocks: Iterable[tuple[Tile, Maps]], progress: Progress | None = None) -> None:
        """Write tiles as they come.

        Parameters
        ----------
        blocks : iterable of (Tile, array)
        progress : callable, optional
            Called as ``progress("Gram matrix", pairs, all pairs)``, those of tiles that were found finished
            counted.
        """
        total = self.tiling.pairs
        if progress is not None:
            progress("Gram matrix", total - self._pairs_left, total)
        for tile, block in blocks:
            self.write(tile, block)
            if progress is not None:
                progress("Gram matrix", total - self._pairs_left, total)

    def write(self, tile: Tile, block: Maps) -> None:
        """Write a tile, and its transpose where the matrix has it.

        Raises
        ------
        InvalidData
            The disk is full; a number is infinite or none.
        """
        rows, columns = (range(side.start, side.stop) for side in (tile.rows, tile.columns))
        check_finite(block, rows, columns)
        with self._writing():
            if tile.mirrored:
                self._whole(lambda: self._array.__setitem__((tile.columns, tile.rows), block.T))
            self._whole(lambda: self._array.__setitem__((tile.rows, tile.columns), block))
        self._pairs_left -= tile.pairs

    def finish(self) -> None:
        """Give the matrix its name, when all tiles are there; what stood there before is replaced."""
        if self._pairs_left:
            raise InvalidData(f"{self.part} lacks {self._pairs_left} pairs: they are to be computed first")
        if self._folder == self._output:
            return
        with self._writing():
            if is_npy(self.path):
                self._write_npy()
                self._array = None
                remove(self.part)
            else:
                self._rename()

    def _write_npy(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.tiling.shape}
        with atomic_file(self.path) as file:
            npy.write_array_header_1_0(file, header)
            for start in range(0, self.tiling.n, self.tiling.tile):
                rows = self._read(slice(start, start + self.tiling.tile), slice(None))
                if rows is None:
                    raise InvalidData(
                        f"a tile of {self.part} has been damaged meanwhile: give the same command again, "
                        "which finds and mends it"
                    )
                file.write(np.ascontiguousarray(rows).data)

    def _rename(self) -> None:
        """Give the matrix its name; at any moment, all that was finished stands somewhere."""
        replaced = self._output.with_name(f".{self._output.name}.replaced")
        if os.path.lexists(self._output):
            check_ours(self._output, self.path)  # again: the work has taken a while
            remove_replaced(replaced)
            self._output.rename(replaced)
        try:
            self.part.rename(self._output)
        except OSError:
            if replaced.exists() and not os.path.lexists(self._output):
                replaced.rename(self._output)
            raise
        self._folder = self._output
        remove_replaced(replaced)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what a disk can refuse into `InvalidData`."""
        try:
            yield
        except OSError as error:
            kept = "; its finished tiles are kept, the same command goes on" if has_tiles(self.part) else ""
            raise InvalidData(f"cannot write {self.part}: {error.strerror or error}{kept}") from error
