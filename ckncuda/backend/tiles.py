"""How the NumPy backend cuts a layer's work into tiles, and what a tile needs of the layer."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.winograd import SPAN, TILE, transformed_filters
from ckncuda.layer import Layer, LayerSpec, Shape

TILE_BYTES = 2 << 20  # workspace of one tile: about the second-level cache of a core
MAX_TILE_BYTES = 8 * TILE_BYTES  # above, an image is cut: cutting computes margins twice, only where it pays


CACHED_ROWS, STREAMED_ROWS = (
    128,
    256,
)  # of each of Winograd's products: more where its filters exceed the cache


class Buffer(Protocol):
    """Workspace of one thread: an array by name and shape, kept from tile to tile."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The array, of unknown content."""
        ...


@dataclass(frozen=True)
class Band:
    """Rows (or columns) of the pooled map, with what they need of the map before pooling."""

    pooled: slice  # of the pooled axis
    source: slice  # of the unpooled axis
    weights: NDArray[np.float32]  # [pooled, source]

    @property
    def length(self) -> int:
        """Positions of the unpooled axis."""
        return int(self.source.stop - self.source.start)


def bands(matrix: NDArray[np.floating[Any]], size: int) -> list[Band]:
    """Cut a pooling matrix into groups of ``size`` rows, each with its non-zero columns alone."""
    result = []
    for start in range(0, len(matrix), size):
        rows = matrix[start : start + size]
        used = np.flatnonzero(rows.any(axis=0))
        # A pooled position may see nothing but the outside of the map; one position keeps the shapes plain.
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        weights = np.ascontiguousarray(rows[:, first : last + 1], dtype=np.float32)
        result.append(Band(slice(start, start + len(rows)), slice(first, last + 1), weights))
    return result


class LayerPlan:
    """A layer's arrays in float32, and how inputs of one shape are cut into tiles.

    Attributes
    ----------
    winograd : bool
        Whether the products go through Winograd's algorithm; then ``transformed`` are its filters.
    row_bands, column_bands : list of Band
        The pooled rows that one tile computes, one band where it takes whole images; pooled columns.
    images_per_tile : int
    """

    winograd_channels = 32  # with fewer, the transforms cost more than the products they save

    def __init__(self, layer: Layer, shape: Shape) -> None:
        spec = layer.spec
        self.winograd = spec.patch == 3 and shape[2] >= self.winograd_channels
        self.spec = spec
        self.shape = shape
        self.map_shape = spec.map_shape(shape)
        self.output_shape = spec.output_shape(shape)
        self.filters = np.ascontiguousarray(layer.anchors.reshape(spec.filters, -1).T, dtype=np.float32)
        self.projection = np.ascontiguousarray(layer.projection.T, dtype=np.float32)
        rows, columns = spec.pooling_matrices(shape)
        whole = self.bytes_per_row() * self.map_shape[0]
        band = self.output_shape[0]
        if whole > MAX_TILE_BYTES:
            band = max(1, MAX_TILE_BYTES // (self.bytes_per_row() * spec.subsampling))
        self.row_bands = bands(rows, band)
        self.column_bands = bands(columns, 16)
        # A product with a whole pooling matrix would multiply zeros: its few taps stand on a diagonal.
        self.row_groups = {b.pooled.start: bands(b.weights, 4) for b in self.row_bands}
        self.images_per_tile = max(1, TILE_BYTES // whole)
        if self.winograd:
            self.transformed = transformed_filters(layer.anchors)
            if len(self.row_bands) == 1:
                tiles = -(-self.map_shape[0] // TILE) * -(-self.map_shape[1] // TILE)
                wanted = CACHED_ROWS if self.transformed.nbytes <= TILE_BYTES else STREAMED_ROWS
                self.images_per_tile = -(-wanted // tiles)

    def bytes_per_row(self) -> int:
        """Workspace for one row of one image's map: its patches or Winograd's tiles, and the map twice."""
        _, width, filters = self.map_shape
        patches = self.spec.patch**2 * self.shape[2]
        if self.winograd:
            patches = SPAN**2 * (2 * self.shape[2] + filters) // TILE**2
        return 4 * width * (patches + 2 * filters)

    def tile_bytes(self) -> int:
        """Workspace of one tile."""
        return self.images_per_tile * max(band.length for band in self.row_bands) * self.bytes_per_row()


def pad(
    maps: NDArray[np.float32], spec: LayerSpec, rows: slice, height: int, width: int, buffer: Buffer
) -> NDArray[np.float32]:
    """What rows of the map need of the input [b, h, w, c], with its margins of zeros.

    Returns float32 [b, height, width, c], at least rows + patch − 1 high; what is beyond the input is zero.
    """
    before, _ = spec.margins
    first = rows.start - before  # row of the input at which the result begins
    padded = buffer("padded", (len(maps), height, width, maps.shape[3]))
    padded.fill(0)
    inside = slice(max(first, 0), min(first + height, maps.shape[1]))
    columns = slice(before, before + maps.shape[2])
    padded[:, inside.start - first : inside.stop - first, columns] = maps[:, inside]
    return padded
