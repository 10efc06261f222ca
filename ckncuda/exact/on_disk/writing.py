"""Gram matrices on disk that outlive the process which computes them: Zarr arrays, a chunk a tile.

Until the last tile is there, K.zarr is a folder K.zarr.part, a Zarr array whose chunks carry checksums; a
file of its own says which checksum stands where.  A tile is finished if its chunks are those that were
written in their places, read back without an error and hold no NaN; chunks are written under another name
and renamed.  So whoever opens the folder after a crash, a full disk or a flipped bit finds what is left to be
done; without any tile it is not kept.
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
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy

from ckncuda.errors import InvalidData, pass_on_interruption, require
from ckncuda.exact.job import SAID
from ckncuda.exact.on_disk import folder
from ckncuda.exact.on_disk.chunks import CHECKSUMS, CHUNKS, Chunks
from ckncuda.exact.on_disk.description import DESCRIPTION, Description
from ckncuda.exact.on_disk.folder import LOCK, description_of, has_tiles
from ckncuda.exact.tiles import Tile, Tiling, check_finite
from ckncuda.files.atomic_file import atomic_file
from ckncuda.files.own_folder import make_own_folder
from ckncuda.progress import Progress, Report, shown_bytes
from ckncuda.types import Array, StrPath
from ckncuda.version import __version__

FORMAT = 1
_TOO_LONG = ("images", "images2", "kernel", "preprocessing")  # to be shown


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
    """

    def __init__(self, path: StrPath, tiling: Tiling, identity: dict[str, Any]) -> None:
        check_installed()
        folder.check_gram_path(path)
        self.path, self.tiling = Path(path), tiling
        self.dtype = np.dtype(identity["dtype"])
        self._identity = {"format": FORMAT, "ckncuda": __version__} | identity
        self._is_npy = folder.is_npy(self.path)
        self._output = folder.place_of(path)
        self._folder = self.part = folder.part_of(path)
        self._lock: BinaryIO | None = None
        self._array: Any = None
        self._chunks: Chunks | None = None
        self._pairs_left = tiling.pairs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ckncuda-store")

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        n, m = self.tiling.shape
        return n * m * int(self.dtype.itemsize)

    def bytes_of(self, tile: Tile) -> int:
        """Count the bytes of a tile on the disk; the last of rows and columns take as much as others."""
        return Description(self._identity).chunk_bytes * (2 if tile.mirrored else 1)

    def __enter__(self) -> Self:
        with self._writing():
            finished = not self._is_npy and not self.part.exists()
            if finished and self._is_of_this(self._output):
                self._folder = self._output
            make_own_folder(self._folder)
            self._lock = folder.locked(self._folder, self.path)
            try:
                self._tidy()
                self._array = self._open()
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()  # what is being written is written before anybody else may write
        self._array = None
        if self._chunks is not None:
            self._chunks.close()
        self._release()

    def _is_of_this(self, place: Path) -> bool:
        """Return whether a folder holds this matrix, or its beginning."""
        found = description_of(place)
        return found is not None and found.identity == self._identity

    def _release(self) -> None:
        """Let others write; no trace is left in a finished matrix, nor of one that was never begun."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            if self._folder == self._output:
                (self._folder / LOCK).unlink()
            elif (
                (description_of(self._folder) is None or self._is_of_this(self._folder))
                and folder.is_ours(self._folder)
                and not has_tiles(self._folder)
            ):
                folder.remove(self._folder)  # nothing is lost with it
        self._lock.close()
        self._lock = None

    def _whole(self, function: Callable[[], Any]) -> Any:
        """Let Zarr work in a thread of its own: Ctrl-C, which ends the wait here, lets it end well there."""
        return self._thread.submit(function).result()

    def _open(self) -> Any:
        """Open the array in the folder, new if there is none."""
        import zarr

        description = self._folder / DESCRIPTION
        found = description_of(self._folder)
        if found is not None and found.identity != self._identity and not has_tiles(self._folder):
            (self._folder / CHECKSUMS).unlink(missing_ok=True)
            description.unlink()  # of another matrix that was never begun
        if os.path.lexists(description):
            if found is None:
                raise folder.damaged(self._folder)
            if found.identity != self._identity:
                raise InvalidData(
                    f"{self.part} holds the beginning of another matrix; it differs in "
                    f"{self._differences(found.identity)}. Give what it was begun with, {folder.ADVICE}"
                )
        else:
            found = Description(self._identity)
            folder.write(self._folder, DESCRIPTION, found.to_bytes())
        self._chunks = Chunks(self._folder, found)
        try:
            return self._whole(lambda: zarr.open_array(str(self._folder), mode="r+"))
        except (ValueError, LookupError, TypeError) as error:  # Zarr's words for what it cannot read
            raise folder.damaged(self._folder) from error

    def _differences(self, found: Mapping[str, Any]) -> str:
        """Name what tells another matrix from this one."""
        return "; ".join(
            SAID.get(name, name) + ("" if name in _TOO_LONG else f": {found.get(name)} there, {here} here")
            for name, here in self._identity.items()
            if found.get(name) != here
        )

    @property
    def replaces(self) -> str | None:
        """Differences of a finished matrix, which stands there until this one is finished."""
        found = None if self._is_npy else description_of(self._output)
        if found is None or found.identity == self._identity:
            return None
        return self._differences(found.identity)

    def _tidy(self) -> None:
        """Remove what a process that was killed has left: files that never got their names."""
        half_written = [file for name in folder.HALF_WRITTEN_HERE for file in self._folder.glob(name)]
        for file in [*half_written, *(self._folder / CHUNKS).rglob(folder.HALF_WRITTEN)]:
            file.unlink(missing_ok=True)

    def unfinished(self, progress: Progress | None = None) -> list[Tile]:
        """Return the tiles that are not there, or do not agree with their checksums; reads all that is there.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress("verifying tiles", tiles, all tiles)``.
        """
        report, tiles, left = Report.of(progress), list(self.tiling), []
        for number, tile in enumerate(tiles, 1):
            if any(self._read(*side) is None for side in self._sides(tile)):
                self._clear(tile)
                left.append(tile)
            report("verifying tiles", number, len(tiles))
        self._pairs_left = sum(tile.pairs for tile in left)
        if left and self._folder != self.part:  # a finished matrix that has been damaged since
            with self._writing():
                self._folder.rename(self.part)
                self._folder = self.part
                self._array = self._open()
        return left

    def _clear(self, tile: Tile) -> None:
        """Make way for the files of a tile, or raise `InvalidData`: a folder is not replaced by a file."""
        for place in self._places(tile):
            chunk = self._files.path(place)
            with contextlib.suppress(OSError):  # there is none, or it is not empty
                chunk.rmdir()
            blocking = [above for above in (chunk.parent.parent, chunk.parent) if above.is_file()]
            if found := next(iter(blocking), chunk if chunk.is_dir() else None):
                raise InvalidData(
                    f"{found} is in the way of a tile: delete it, then give the same command again"
                )

    def _sides(self, tile: Tile) -> list[tuple[slice, slice]]:
        """Return the places of a tile, and of its transpose, in the matrix."""
        return [(tile.rows, tile.columns), (tile.columns, tile.rows)][: 1 + tile.mirrored]

    def _place(self, rows: slice, columns: slice) -> tuple[int, int]:
        """Return the number of a tile's row and column of tiles."""
        return rows.start // self.tiling.tile, columns.start // self.tiling.tile

    def _places(self, tile: Tile) -> list[tuple[int, int]]:
        return [self._place(*side) for side in self._sides(tile)]

    @property
    def _files(self) -> Chunks:
        assert self._chunks is not None, "the store is not entered"
        return self._chunks

    def _read(self, rows: slice, columns: slice) -> Array | None:
        """Read one tile of the matrix; None if it is missing, damaged, or that of another place."""
        if not self._files.is_whole(self._place(rows, columns)):
            return None
        try:
            block: Array = self._whole(lambda: self._array[rows, columns])
        except Exception as error:  # whatever a reader says of bytes that are not what was written
            pass_on_interruption(error)
            return None
        return None if np.isnan(block).any() else block

    def check_space(self, tiles: Iterable[Tile]) -> None:
        """Raise `InvalidData` if the disk has not enough room for these tiles and what becomes of them."""
        needed = sum(map(self.bytes_of, tiles)) + (self.nbytes if self._is_npy else 0)
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise InvalidData(
                f"{self.path} takes {shown_bytes(needed)} more, but {shown_bytes(free)} are free "
                "there: make room or give an output on another disk"
            )

    def fill(self, blocks: Iterable[tuple[Tile, Array]], progress: Progress | None = None) -> None:
        """Write tiles as they come.

        Parameters
        ----------
        blocks : iterable of (Tile, array)
        progress : callable, optional
            Called as ``progress("Gram matrix", pairs, all pairs)``, those of tiles that were found finished
            counted.

        Raises
        ------
        InvalidData
            The disk is full; a number is infinite or none.
        """
        report, total = Report.of(progress), self.tiling.pairs
        report("Gram matrix", total - self._pairs_left, total)
        for tile, block in blocks:
            self._write(tile, block)
            report("Gram matrix", total - self._pairs_left, total)

    def _write(self, tile: Tile, block: Array) -> None:
        """Write a tile, and its transpose where the matrix has it."""
        rows, columns = (range(side.start, side.stop) for side in (tile.rows, tile.columns))
        check_finite(block, rows, columns)
        parts = (block, block.T)
        with self._writing():
            for (above, beside), part in reversed(list(zip(self._sides(tile), parts, strict=False))):
                place = self._place(above, beside)
                self._files.make_way(place)
                self._whole(functools.partial(self._array.__setitem__, (above, beside), part))
                self._files.written(place)
        self._pairs_left -= tile.pairs

    def finish(self) -> None:
        """Give the matrix its name, when all tiles are there; what stood there before is replaced."""
        if self._pairs_left:
            raise InvalidData(f"{self.part} lacks {self._pairs_left} pairs: they are to be computed first")
        if self._folder == self._output:
            return
        with self._writing():
            if self._is_npy:
                self._write_npy()
                self._array = None
                self._files.close()
                folder.remove(self.part)
            else:
                self._files.close()
                checksums = self._files.sorted_checksums()
                if checksums is not None:
                    folder.write(self._folder, CHECKSUMS, checksums)
                self._rename()

    def _write_npy(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.tiling.shape}
        with atomic_file(self.path) as file:
            npy.write_array_header_1_0(file, header)
            (n, m), size = self.tiling.shape, self.tiling.tile
            for start in range(0, n, size):
                row = np.empty((min(size, n - start), m), self.dtype)
                for left in range(0, m, size):
                    rows, columns = slice(start, min(start + size, n)), slice(left, min(left + size, m))
                    block = self._read(rows, columns)
                    if block is None:
                        raise InvalidData(
                            f"a tile of {self.part} has been damaged meanwhile: give the same command again, "
                            "which finds and mends it"
                        )
                    row[:, columns] = block
                file.write(row.data)

    def _rename(self) -> None:
        """Give the matrix its name; at any moment, all that was finished stands somewhere."""
        replaced = folder.replaced_of(self.path)
        if os.path.lexists(self._output):
            folder.check_ours(self._output, self.path)  # again: the work has taken a while
            folder.remove_replaced(replaced)
            self._output.rename(replaced)
        try:
            self.part.rename(self._output)
        except OSError:
            if replaced.exists() and not os.path.lexists(self._output):
                replaced.rename(self._output)
            raise
        self._folder = self._output
        folder.remove_replaced(replaced)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what a disk can refuse into `InvalidData`."""
        try:
            yield
        except OSError as error:
            kept = "; its finished tiles are kept, the same command goes on" if has_tiles(self.part) else ""
            raise InvalidData(f"cannot write {self.part}: {error.strerror or error}{kept}") from error
