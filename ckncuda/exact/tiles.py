"""Tiles into which a Gram matrix is cut, each of which is computed by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckncuda.errors import InvalidData
from ckncuda.given.parameters import whole
from ckncuda.images.sources import Images
from ckncuda.types import Array

TILE = 256  # images of either side


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a Gram matrix.

    Attributes
    ----------
    rows, columns : slice
    symmetric : bool
        True on the diagonal of the matrix of images with themselves.
    mirrored : bool
        True if the matrix has its transpose too, elsewhere.
    """

    rows: slice
    columns: slice
    symmetric: bool
    mirrored: bool

    @property
    def pairs(self) -> int:
        """Number of pairs of images that are compared."""
        n: int = self.rows.stop - self.rows.start
        m: int = self.columns.stop - self.columns.start
        return n * (n + 1) // 2 if self.symmetric else n * m


@dataclass(frozen=True)
class Tiling:
    """The tiles of the matrix of n images with n2 others, or with themselves.

    Parameters
    ----------
    n, n2 : int
        Rows and columns; n2 None: the images with themselves, of which one half is computed.
    tile : int
        Images of either side of a tile.

    Examples
    --------
    >>> len(list(Tiling(1000, tile=256))), len(list(Tiling(1000, 10, tile=256)))
    (10, 4)
    """

    n: int
    n2: int | None = None
    tile: int = TILE

    def __post_init__(self) -> None:
        tile = whole("tile", self.tile, 1, "it must be a whole number of images, at least 1")
        object.__setattr__(self, "tile", tile)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.n, self.n if self.n2 is None else self.n2

    @property
    def pairs(self) -> int:
        """Number of pairs of images that are compared in all."""
        return self.n * (self.n + 1) // 2 if self.n2 is None else self.n * self.n2

    def __iter__(self) -> Iterator[Tile]:
        """Row after row."""
        for i in range(0, self.n, self.tile):
            rows = slice(i, min(i + self.tile, self.n))
            for j in range(i if self.n2 is None else 0, self.shape[1], self.tile):
                columns = slice(j, min(j + self.tile, self.shape[1]))
                diagonal = self.n2 is None and i == j
                yield Tile(rows, columns, diagonal, self.n2 is None and not diagonal)


def read_maps(images: Images, rows: slice, dtype: npt.DTypeLike) -> Array:
    """Read images of these numbers into the host's memory; bytes 0…255 become 0…1."""
    block = images.read(rows.start, rows.stop)
    maps: Array = np.ascontiguousarray(block, dtype=dtype)
    return maps / maps.dtype.type(255) if block.dtype == np.uint8 else maps


def check_finite(block: Array, rows: Sequence[int], columns: Sequence[int]) -> None:
    """Raise `InvalidData` if a kernel [n, m] of images of these numbers, from 0, is infinite or none."""
    if not np.isfinite(block).all():
        i, j = (int(place) for place in np.argwhere(~np.isfinite(block))[0])
        raise InvalidData(
            f"the kernel of image {rows[i] + 1} and image {columns[j] + 1} is {block[i, j]}: it is too large "
            f"for {block.dtype}; scale or preprocess the images"
        )
