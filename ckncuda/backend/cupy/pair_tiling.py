"""Tiles of ``kernels/pair_*.cu``: how pairs of images are laid out. Nothing here needs a GPU.

The constants are those of ``kernels/pair_pooling.cuh`` and ``pair_products.cu``.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ckncuda.backend.cupy.product import THREADS
from ckncuda.backend.operations import PairSpec, Specs
from ckncuda.layer.pooling import pooling_filter
from ckncuda.types import Shape

WARPS = THREADS // 32
STEP = 16  # terms of a product at a time
REACH_WORDS = 16  # of the kernels' `Reach`
MOST_TAPS = 33  # of the pooling along a row; they are unrolled


@dataclass(frozen=True)
class PairTiling:
    """All numbers of a launch but those of pairs.

    More than nine fields: they are the parameters of the CUDA kernels, by name and in their order; the first
    two are template parameters, of the pooling along a row.
    """

    taps: int
    subsampling: int
    map_height: int
    map_width: int
    pooled_height: int
    pooled_width: int
    taps_y: int
    origin_y: int
    origin_x: int
    top: int
    bottom: int
    left: int
    right: int
    tile_rows: int
    tile_columns: int
    reached: int
    across_log2: int
    slots: int
    stride: int

    @functools.cached_property
    def arguments(self) -> tuple[np.int32, ...]:
        """The kernel's whole numbers, made once: they take longer than a launch."""
        return tuple(np.int32(value) for value in dataclasses.astuple(self)[2:])

    def _pooling_bytes(self) -> int:
        """Count those of `PairPooling`, with the zeros that stand between rows of positions."""
        together = 4 if self.taps + 3 * self.subsampling <= 16 else 1
        zeros = (together - 1) * self.subsampling + self.taps - 1
        columns_of_u = self.tile_rows * self.reached
        pieces = (
            REACH_WORDS,
            self.taps_y,
            self.taps,
            self.tile_rows * self.pooled_height,
            self.slots,
            (self.tile_rows * (self.tile_columns + zeros) + zeros) * self.stride,
            columns_of_u * (self.map_width + zeros | 1) + zeros,
            columns_of_u * self.pooled_width,
        )
        return _shared_bytes(pieces)


@dataclass(frozen=True)
class ProductTiling(PairTiling):
    """Numbers of ``pair_products``, the first layer."""

    steps: int
    pitch: int

    @property
    def row_words(self) -> int:
        """Number of 32-bit words of a row of positions: patches, then what to multiply with."""
        return (self.steps * STEP + 1) * self.pitch

    def shared_bytes(self) -> int:
        """Return the bytes of shared memory of a block: the pieces that the kernel takes, in its order."""
        return self._pooling_bytes() + _shared_bytes((4, 2 * self.row_words, self.slots, self.slots))


@dataclass(frozen=True)
class SumTiling(PairTiling):
    """Numbers of ``pair_sums``, every other layer."""

    height: int
    width: int
    patch_height: int
    patch_width: int
    above: int
    before: int
    columns: int

    def shared_bytes(self) -> int:
        """Return the bytes of shared memory of a block: the pieces that the kernel takes, in its order."""
        return self._pooling_bytes() + 5 * _shared_bytes((self.slots,))


def _shared_bytes(pieces: Sequence[int]) -> int:
    return sum(-(-4 * count // 16) * 16 for count in pieces)


def product_tiling(spec: PairSpec, shape: Shape, tangent: bool, shared_limit: int) -> ProductTiling | str:
    """Lay out the first layer for images (height, width, channels), or say why it has no fused form."""
    columns = 16 if tangent else 32  # of a warp
    steps = -(-spec.terms(shape[2]) // STEP)

    def laid_out(common: dict[str, int]) -> ProductTiling:
        pitch = columns << common["across_log2"]
        return ProductTiling(**common, stride=pitch + 8, steps=steps, pitch=pitch)

    return _tiling(spec, shape, columns, 16, laid_out, shared_limit)


def sum_tiling(spec: PairSpec, shape: Shape, tangent: bool, shared_limit: int) -> SumTiling | str:
    """Lay out a further layer for maps (height, width, …) of each image, or say why it has no fused form."""
    height, width, _ = shape
    if (height * width) ** 2 >= 1 << 31:
        return f"maps of pairs of {height}x{width} positions have more numbers than a kernel counts"
    map_width = spec.map_shape(shape)[1]
    columns = next((c for c in (8, 16) if map_width <= c), 32)  # of a warp
    slots = (4 if tangent else 8) * (32 // columns)

    def laid_out(common: dict[str, int]) -> SumTiling:
        (patch_height, patch_width), ((above, _), (before, _)) = spec.patch_shape, spec.margins
        return SumTiling(
            **common, stride=columns << common["across_log2"],
            height=height, width=width, patch_height=patch_height, patch_width=patch_width,
            above=above, before=before, columns=columns,
        )  # fmt: skip

    return _tiling(spec, shape, columns, slots, laid_out, shared_limit)


AnyTiling = TypeVar("AnyTiling", ProductTiling, SumTiling)


def _tiling(
    spec: PairSpec,
    shape: Shape,
    columns: int,
    slots_of_warp: int,
    laid_out: Callable[[dict[str, int]], AnyTiling],
    limit: int,
) -> AnyTiling | str:
    """Return the layout of most positions of the first image at a time that fits shared memory."""
    if spec.kernel.device_name is None:
        return f"the kernel {spec.kernel.name} has no CUDA form"
    map_height, map_width, _ = spec.map_shape(shape)
    pooled_height, pooled_width, _ = spec.output_shape(shape)
    across_log2 = (-(-map_width // columns) - 1).bit_length()  # a power of two divides the warps
    if 1 << across_log2 > WARPS:
        return f"its map is {map_width} positions wide; the fused kernel takes up to {WARPS * columns}"
    (origin_y, taps_y), (origin_x, taps_x) = (
        pooling_filter(size, spec.subsampling, spec.pooling, spec.alignment)
        for size in (map_height, map_width)
    )
    if len(taps_x) > MOST_TAPS:
        return f"its pooling takes {len(taps_x)} positions of a row; the fused kernel takes up to {MOST_TAPS}"
    top, bottom = _reached(map_height, pooled_height, spec.subsampling, origin_y, len(taps_y))
    left, right = _reached(map_width, pooled_width, spec.subsampling, origin_x, len(taps_x))
    slots = (WARPS >> across_log2) * slots_of_warp
    for tile_rows, tile_columns in _tiles(bottom - top, right - left, slots):
        reached = min(pooled_width, (tile_columns + len(taps_x) - 2) // spec.subsampling + 1)
        found = laid_out(
            {
                "taps": len(taps_x), "subsampling": spec.subsampling,
                "map_height": map_height, "map_width": map_width,
                "pooled_height": pooled_height, "pooled_width": pooled_width,
                "taps_y": len(taps_y), "origin_y": origin_y, "origin_x": origin_x,
                "top": top, "bottom": bottom, "left": left, "right": right,
                "tile_rows": tile_rows, "tile_columns": tile_columns, "reached": reached,
                "across_log2": across_log2, "slots": slots,
            }
        )  # fmt: skip
        if found.shared_bytes() <= limit:
            return found
    return f"its maps need more than the {limit >> 10} KiB of shared memory that a block may have"


def _tiles(rows: int, columns: int, slots: int) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of the first image's positions at a time, from many to few."""
    most = slots // columns
    for row_tiles in range(-(-rows // most) if most else rows, rows):
        yield -(-rows // row_tiles), columns
    for column_tiles in range(-(-columns // slots), columns + 1):
        yield 1, -(-columns // column_tiles)


def _reached(size: int, pooled: int, subsampling: int, origin: int, taps: int) -> tuple[int, int]:
    """Return the part of an axis that the taps reach."""
    return max(0, origin), min(size, origin + (pooled - 1) * subsampling + taps)


def tilings(
    specs: Specs, shape: Shape, tangent: bool, shared_limit: int
) -> list[ProductTiling | SumTiling] | str:
    """Lay out all layers for images (height, width, channels), or say why they have no fused form."""
    found: list[ProductTiling | SumTiling] = []
    for number, spec in enumerate(specs, 1):
        lay_out = product_tiling if number == 1 else sum_tiling
        laid_out = lay_out(spec, shape, tangent, shared_limit)
        if isinstance(laid_out, str):
            return f"layer {number}: {laid_out}"
        found.append(laid_out)
        shape = spec.output_shape(shape)
    return found
