"""A Gram matrix that is still to be computed: of which images, by which kernel, in which tiles."""

import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckncuda.backend import Backend
from ckncuda.exact.gram import check_dtype, check_images
from ckncuda.exact.kernel import ExactKernel, Maps
from ckncuda.exact.tiles import TILE, Tile, Tiling, read_maps
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import Images
from ckncuda.progress import Progress

MEASURED = 0.2  # seconds, at least, from which the time of a pair is taken
DIGEST_BYTES = 16 << 20  # of images that are read at a time


@dataclass(frozen=True, eq=False)
class GramJob:
    """A Gram matrix to be computed, tile by tile; nothing is read before it is asked for.

    Parameters
    ----------
    kernel : ExactKernel
    images : Images
        Its rows, and its columns where there are no others.
    images2 : Images, optional
        Its columns.
    preprocessing : tuple of Preprocessor
        Fitted, of all images; see `ckncuda.images.preprocessed.fit_preprocessing`.
    dtype : {float32, float64}
        In which to compute.
    tile : int
        Images of either side of a tile.

    Raises
    ------
    InvalidSpec, InvalidData
        As `ckncuda.exact.gram` does.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> from ckncuda.backend import get_backend
    >>> from ckncuda.images.sources import ArrayImages
    >>> images = ArrayImages(np.random.default_rng(0).normal(size=(5, 8, 8, 1)))
    >>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> job = GramJob(ExactKernel([layer]), images, tile=4)
    >>> [block.shape for _, block in job.blocks(job.tiling, get_backend("numpy"))]
    [(4, 4), (4, 1), (1, 1)]
    """

    kernel: ExactKernel
    images: Images
    images2: Images | None = None
    preprocessing: tuple[Preprocessor, ...] = ()
    dtype: Any = np.float32
    tile: int = TILE

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", check_dtype(self.dtype))
        check_images(self.images, self.images if self.images2 is None else self.images2, self.kernel)

    @functools.cached_property
    def tiling(self) -> Tiling:
        """The tiles of the matrix."""
        return Tiling(
            self.images.shape[0], None if self.images2 is None else self.images2.shape[0], self.tile
        )

    def read(self, tile: Tile) -> tuple[Maps, Maps | None]:
        """Read the images of a tile's rows and of its columns, preprocessed; None: the same images."""
        maps = self._read(self.images, tile.rows)
        if tile.symmetric:
            return maps, None
        return maps, self._read(self.images if self.images2 is None else self.images2, tile.columns)

    def _read(self, images: Images, rows: slice) -> Maps:
        return read_maps(PreprocessedImages(images, self.preprocessing), rows, self.dtype)

    def blocks(self, tiles: Iterable[Tile], backend: Backend) -> Iterator[tuple[Tile, Maps]]:
        """Compute these tiles, one after the other, each with its part of the matrix."""
        for tile in tiles:
            yield tile, compute_block(self.kernel, *self.read(tile), backend)

    def identity(self, backend: str, progress: Progress | None = None) -> dict[str, Any]:
        """Return plain data that is the same for the same matrix alone; reads all images.

        Parameters
        ----------
        backend : str
            Its name: backends differ in rounding.
        progress : callable, optional
            Called as ``progress("reading", images, all images)``.
        """
        both = [self.images] + ([] if self.images2 is None else [self.images2])
        total, done = sum(images.shape[0] for images in both), 0
        digests = []
        for images in both:
            digest = hashlib.sha256(f"{images.dtype.str} {list(images.shape)}".encode())
            size = max(1, DIGEST_BYTES // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))
            for start in range(0, images.shape[0], size):
                stop = min(start + size, images.shape[0])
                digest.update(np.ascontiguousarray(images.read(start, stop)).data)
                if progress is not None:
                    progress("reading", done + stop, total)
            done += images.shape[0]
            digests.append(digest.hexdigest())
        plain = {
            "images": digests[0],
            "images2": digests[1] if len(digests) == 2 else None,
            "preprocessing": [step.to_dict() for step in self.preprocessing],
            "kernel": self.kernel.description(),
            "shape": list(self.tiling.shape),
            "dtype": str(self.dtype),
            "tile": self.tile,
            "backend": backend,
        }
        read_back: dict[str, Any] = json.loads(json.dumps(plain))  # tuples as lists, as a file gives them
        return read_back


def compute_block(kernel: ExactKernel, maps: Maps, others: Maps | None, backend: Backend) -> Maps:
    """Compute the part of the matrix of these images with others, or with themselves."""
    if others is None:
        return kernel.block(maps, maps, backend, symmetric=True)
    return kernel.block(maps, others, backend)


def seconds_a_pair(job: GramJob, tile: Tile, backend: Backend) -> float:
    """Measure how long a pair of images takes about, on a few of a tile's."""
    maps, others = job.read(tile)
    if others is None:
        others = maps
    compute_block(job.kernel, maps[:1], others[:1], backend)  # compiles what there is to compile
    rows = 1
    while True:  # more and more, until there is work for all threads
        few, many = maps[:rows], others[: 2 * rows]
        started = time.perf_counter()
        compute_block(job.kernel, few, many, backend)
        seconds = time.perf_counter() - started
        if seconds > MEASURED or (len(few) == len(maps) and len(many) == len(others)):
            return seconds / (len(few) * len(many))
        rows *= 2
