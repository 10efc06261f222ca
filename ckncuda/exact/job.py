"""Gram matrices that are still to be computed: of which images, by which kernel, in which tiles."""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckncuda.backend import Backend
from ckncuda.backend.operations import promised_memory
from ckncuda.errors import InvalidData, InvalidSpec, OutOfMemory
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import TILE, Tile, Tiling, read_maps
from ckncuda.given.parameters import shown
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import Images
from ckncuda.progress import Progress, Report
from ckncuda.types import Array

MEASURED = 0.2  # seconds, at least, from which the time of a pair is taken
SAID = {  # what identifies a matrix, as people call it
    "images": "IMAGES",
    "images2": "IMAGES2",
    "backend": "the backend",
    "kernel": "the kernel",
    "preprocessing": "the preprocessing",
    "shape": "the numbers of images",
    "ckncuda": "the version of ckncuda",
}
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
        Fitted; see `ckncuda.images.preprocessed.fit_preprocessing`.
    dtype : {float32, float64}
        In which to compute.
    tile : int
        Images of either side of a tile.

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
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype not in (np.float32, np.float64):
            raise InvalidSpec(
                f"dtype is {shown(self.dtype)}; exact kernels are computed in float32 or float64"
            )
        object.__setattr__(self, "dtype", dtype)
        check_images(self.images, self.images if self.images2 is None else self.images2, self.kernel)

    @functools.cached_property
    def tiling(self) -> Tiling:
        """The tiles of the matrix."""
        n2 = None if self.images2 is None else self.images2.shape[0]
        return Tiling(self.images.shape[0], n2, self.tile)

    def check_given_memory(self, steps: Sequence[Preprocessor], backend: Backend) -> None:
        """Raise `OutOfMemory` if preprocessing, fitted or not, and a tile take more than was given."""
        promised = promised_memory(backend)
        shape, tile = self.images.shape[1:], min(self.tile, max(self.tiling.shape))
        fits = max((step.bytes_to_fit(shape) for step in steps), default=0)
        # Images of either side as they are read, preprocessed and padded, the norms of patches, and kernels.
        item = self.dtype.itemsize
        numbers = 4 * item * math.prod(shape) + 8 * math.prod(shape[:2]) * len(self.kernel.layers)
        tiles = 2 * tile * numbers * (2 if self.kernel.flip else 1) + 3 * item * tile**2
        if promised is None or fits + tiles <= promised:
            return
        enough = -(-(fits + tiles) // (64 << 20)) * 64
        smaller = f", a smaller --tile than {self.tile}" if tiles > fits else ""
        raise OutOfMemory(
            f"--memory is {promised >> 20} MiB; preprocessing takes {fits >> 20} MiB, tiles of {tile} "
            f"images on either side {tiles >> 20} MiB: give --memory {enough}MiB{smaller} or smaller images"
        )

    def read(self, tile: Tile) -> tuple[Array, Array | None]:
        """Read the images of a tile's rows and of its columns, preprocessed; None: the same images."""
        first = PreprocessedImages(self.images, self.preprocessing)
        second = first if self.images2 is None else PreprocessedImages(self.images2, self.preprocessing)
        maps = read_maps(first, tile.rows, self.dtype)
        return maps, None if tile.symmetric else read_maps(second, tile.columns, self.dtype)

    def blocks(self, tiles: Iterable[Tile], backend: Backend) -> Iterator[tuple[Tile, Array]]:
        """Compute these tiles, one after the other, each with its part of the matrix."""
        return ((tile, self.kernel.block(*self.read(tile), backend)) for tile in tiles)

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
        report, done, total = Report.of(progress), 0, sum(images.shape[0] for images in both)
        digests = []

        def tell(before: int, read: int) -> None:
            report("reading", before + read, total)

        for images in both:
            digests.append(digest(images, functools.partial(tell, done)))
            done += images.shape[0]
        identity: dict[str, Any] = plain(
            {
                "images": digests[0],
                "images2": None if self.images2 is None else digests[1],
                "preprocessing": [step.to_dict() for step in self.preprocessing],
                "kernel": self.kernel.description(),
                "shape": list(self.tiling.shape),
                "dtype": str(self.dtype),
                "tile": self.tiling.tile,
                "backend": backend,
            }
        )
        return identity


def plain(data: Any) -> Any:
    """Return plain data as a file gives them back: tuples as lists."""
    return json.loads(json.dumps(data))


def digest(images: Images, tell: Callable[[int], None] = lambda read: None) -> str:
    """Return what is the same for the same images, of the same type and in the same order, alone; reads all.

    ``tell`` is called with the number of images that have been read.
    """
    found = hashlib.sha256(f"{images.dtype.str} {list(images.shape)}".encode())
    size = max(1, DIGEST_BYTES // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))
    done = 0
    for block in images.blocks(size):
        found.update(np.ascontiguousarray(block).data)
        done += len(block)
        tell(done)
    return found.hexdigest()


def check_images(first: Images, second: Images, kernel: ExactKernel) -> None:
    """Raise unless both sets of images are alike and fit the layers."""
    if first.shape[1:] != second.shape[1:]:
        shapes = ("x".join(map(str, images.shape[1:])) for images in (first, second))
        raise InvalidData(
            f"the images are of {' and of '.join(shapes)} (height x width x channels); "
            "a kernel compares images of one size"
        )
    if (first.dtype == np.uint8) != (second.dtype == np.uint8):
        raise InvalidData(
            f"the images are of type {first.dtype} and {second.dtype}: bytes are scaled from 0...255 to "
            "0...1 and floating-point numbers are taken as they are; give both in one form"
        )
    if 0 in (first.shape[0], second.shape[0]):
        raise InvalidData("there are no images")
    kernel.check_shape(first.shape[1:])


def check_memory(job: GramJob, backend: Backend) -> None:
    """Compare the first image with itself, before any other work; raise `OutOfMemory` if that fails."""
    maps = read_maps(job.images, slice(0, 1), job.dtype)
    try:
        with np.errstate(all="ignore"):  # it has not been preprocessed; how it compares is not looked at
            job.kernel.block(maps, None, backend)
    except MemoryError as error:
        if isinstance(error, OutOfMemory):  # a GPU says it in words of its own
            raise
        shape = "x".join(map(str, maps.shape[1:]))
        raise OutOfMemory(
            f"the memory does not suffice to compare two images of {shape} ({str(error).rstrip('.')}): every "
            "place of one is compared with every place of the other; give smaller images"
        ) from error


def seconds_a_pair(job: GramJob, tile: Tile, backend: Backend) -> float:
    """Measure how long a pair of images takes about, on a few of a tile's."""
    maps, columns = job.read(tile)
    others = maps if columns is None else columns
    job.kernel.block(maps[:1], others[:1], backend)  # compiles what there is to compile
    rows = 1
    while True:  # more and more, until there is work for all threads
        few, many = maps[:rows], others[: 2 * rows]
        started = time.perf_counter()
        job.kernel.block(few, many, backend)
        seconds = time.perf_counter() - started
        if seconds > MEASURED or (len(few) == len(maps) and len(many) == len(others)):
            return seconds / (len(few) * len(many))
        rows *= 2
