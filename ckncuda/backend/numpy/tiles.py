"""The tiles into which the NumPy backend cuts a layer's work."""

import abc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Array, Shape

Views = TypeVar("Views")

CACHE_LINE = 64  # bytes
MAX_TILE_BYTES = 16 << 20  # above, an image is cut: that computes margins twice, so only where it pays


class Buffer(Protocol):
    """Workspace of one thread: an array by name and shape, kept from tile to tile."""

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the array, of unknown content."""

    def kept(self, key: Hashable, make: Callable[[], Views]) -> Views:
        """Return what is made of such arrays, kept under a key as long as none of them grows."""


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


def bands(matrix: Array, size: int) -> list[Band]:
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


class LayerPlan(abc.ABC):
    """Tiles of inputs of one shape to layers that are alike but for what they learned, and their memory."""

    def __init__(self, spec: LayerSpec, shape: Shape) -> None:
        self.spec, self.shape = spec, shape
        self.map_shape = spec.map_shape(shape)
        self.output_shape = spec.output_shape(shape)
        rows, self.columns = spec.pooling_matrices(shape)
        band = self.output_shape[0]
        if self.bytes_per_row() * self.map_shape[0] > MAX_TILE_BYTES:
            band = max(1, MAX_TILE_BYTES // (self.bytes_per_row() * spec.subsampling))
        self.row_bands = bands(rows, band)  # pooled rows of a tile; one band where it takes whole images

    @abc.abstractmethod
    def bytes_per_row(self) -> int:
        """Count the bytes of workspace for one row of one image's map."""

    @property
    @abc.abstractmethod
    def images_per_tile(self) -> int:
        """Whole images that are best taken at once."""

    @property
    def in_bands(self) -> bool:
        """True where an image is too large to be a tile."""
        return len(self.row_bands) > 1

    def tile_bytes(self) -> int:
        """Count the bytes of workspace of one tile."""
        return self.images_per_tile * max(band.length for band in self.row_bands) * self.bytes_per_row()


def filter_columns(layer: Layer) -> NDArray[np.float32]:
    """Return the anchor points as columns [terms, filters]."""
    return np.ascontiguousarray(layer.anchors.reshape(layer.spec.filters, -1).T, dtype=np.float32)


def transposed_projection(layer: Layer) -> NDArray[np.float32]:
    """Return Wᵀ [filters, filters], since positions are rows here."""
    return np.ascontiguousarray(layer.projection.T, dtype=np.float32)


def aligned(numbers: int) -> NDArray[np.float32]:
    """Return an array [numbers] that begins at a cache line: else each long vector would lie across two."""
    whole = np.empty(numbers + CACHE_LINE // 4, np.float32)
    start = -whole.ctypes.data % CACHE_LINE // 4
    return whole[start : start + numbers]


def aligned_copy(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the same array, contiguous, beginning at a cache line."""
    result = aligned(array.size).reshape(array.shape)
    result[...] = array
    return result
