"""Tiles of ``kernels/encode.cu``: how a layer is laid out for inputs of a shape. Nothing here needs a GPU."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.cupy.product import ANCHORS, PATCHES, STRIDE, TERMS, WORDS
from ckncuda.layer.pooling import pooling_filter
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.types import Shape

MAP_STRIDE = ANCHORS + 4  # of a position of the unpooled chunk


@dataclass(frozen=True)
class Tiling:
    """All numbers of a launch of ``encode`` but those of images.

    More than nine fields: they are the parameters of the CUDA kernel, by name and in their order.
    """

    height: int
    width: int
    channels: int
    filters: int
    patch_height: int
    patch_width: int
    above: int
    before: int
    map_height: int
    map_width: int
    pooled_height: int
    pooled_width: int
    subsampling: int
    taps_y: int
    taps_x: int
    origin_y: int
    origin_x: int
    part: int
    channel_stride: int
    parts: int
    stages: int
    rows: int
    columns: int
    tile_columns: int
    ring: int
    group: int

    @property
    def slabs(self) -> int:
        """Number of slabs of 64 anchors."""
        return -(-self.filters // ANCHORS)

    def shared_bytes(self, precision: str) -> int:
        """Return the bytes of shared memory of a block: the pieces that ``encode`` takes, in its order."""
        cells = self.group * (self.rows + self.patch_height - 1) * (self.columns + self.patch_width - 1)
        pieces = (
            max(cells * self.channel_stride, PATCHES * MAP_STRIDE),
            cells,
            2 * WORDS[precision] * STRIDE,
            PATCHES,
            self.stages * TERMS,
            PATCHES,
            PATCHES,
            self.taps_y,
            self.taps_x,
            self.group * self.ring * self.tile_columns * ANCHORS,
        )
        return sum(-(-4 * count // 16) * 16 for count in pieces)

    def tile_rows(self, images: int, multiprocessors: int) -> int:
        """Return the pooled rows of a tile: all, unless there are too few blocks to keep the device busy.

        Each tile computes the halo of its pooling anew, so that none has fewer than 4 rows where there are
        as many.
        """
        blocks = -(-images // self.group) * self.slabs * -(-self.pooled_width // self.tile_columns)
        wanted = -(-4 * multiprocessors // blocks)
        tiles = max(1, min(wanted, self.pooled_height // 4))
        return -(-self.pooled_height // tiles)

    def blocks(self, images: int, tile_rows: int) -> int:
        """Count the blocks of a launch."""
        tiles = -(-self.pooled_height // tile_rows) * -(-self.pooled_width // self.tile_columns)
        return -(-images // self.group) * tiles * self.slabs

    def arguments(self, tile_rows: int, images: int) -> tuple[np.int32, ...]:
        """Return the kernel's whole numbers, in the order of its parameters."""
        return tuple(np.int32(value) for value in (*dataclasses.astuple(self), tile_rows, images))

    def offsets(self) -> NDArray[np.int32]:
        """Return where a patch's terms, (dy, dx, channel), lie in the piece of input: [stages · TERMS]."""
        slab_width = self.columns + self.patch_width - 1
        dy, dx, channel = np.meshgrid(
            *map(np.arange, (self.patch_height, self.patch_width, self.part)), indexing="ij"
        )
        terms = ((dy * slab_width + dx) * self.channel_stride + channel).ravel()
        return np.pad(terms, (0, self.stages * TERMS - len(terms))).astype(np.int32)


def tiling(spec: LayerSpec, shape: Shape, precision: str, shared_limit: int) -> Tiling | str:
    """Lay out a layer for an input (height, width, channels), or say why it has no fused form.

    Parameters
    ----------
    spec : LayerSpec
    shape : (height, width, channels)
    precision : str
        C++ name of the precision: a key of `WORDS`.
    shared_limit : int
        Bytes of shared memory that a block may have.
    """
    if spec.kernel.device_name is None:
        return f"the kernel {spec.kernel.name} has no CUDA form"
    map_height, map_width, _ = spec.map_shape(shape)
    pooled_height, pooled_width, _ = spec.output_shape(shape)
    origin_y, taps_y = pooling_filter(map_height, spec.subsampling, spec.pooling, spec.alignment)
    origin_x, taps_x = pooling_filter(map_width, spec.subsampling, spec.pooling, spec.alignment)
    if len(taps_x) > PATCHES:
        return f"its pooling takes {len(taps_x)} positions of a row; the fused kernel takes up to {PATCHES}"
    best: tuple[float, Tiling] | None = None
    for part, rows, columns, tile_columns, group in _candidates(
        shape[2], map_height, map_width, pooled_width, spec.subsampling, len(taps_x)
    ):
        candidate = Tiling(
            *shape, spec.filters, *spec.patch_shape, spec.margins[0][0], spec.margins[1][0],
            map_height, map_width, pooled_height, pooled_width,
            spec.subsampling, len(taps_y), len(taps_x), origin_y, origin_x,
            part, channel_stride(part), parts=-(-shape[2] // part),
            stages=-(-spec.terms(part) // TERMS),
            rows=rows, columns=columns, tile_columns=tile_columns,
            ring=-(-len(taps_y) // spec.subsampling), group=group,
        )  # fmt: skip
        if candidate.shared_bytes(precision) > shared_limit:
            continue
        tiles = -(-pooled_width // tile_columns)
        terms = candidate.parts * candidate.stages
        cost = tiles * -(-map_height // rows) * terms / group  # products of 128 × 64 × 32
        if best is None or cost < best[0]:
            best = cost, candidate
    if best is None:
        return (
            f"patches of {spec.shown_patch} with a subsampling of {spec.subsampling} need more than "
            f"the {shared_limit >> 10} KiB of shared memory that a block may have"
        )
    return best[1]


def _candidates(
    channels: int, map_height: int, map_width: int, pooled_width: int, subsampling: int, taps: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield channels at a time, rows and columns of a chunk, pooled columns of a tile, images of a block."""
    for most in (32, 16, 8, 4):
        parts = -(-channels // most)
        part = -(-channels // parts)
        if channels % 4 == 0:  # copies of 16 bytes
            part = -(-part // 4) * 4
        for tiles in range(1, pooled_width + 1):
            tile_columns = -(-pooled_width // tiles)
            columns = min(map_width, (tile_columns - 1) * subsampling + taps)
            if columns > PATCHES:
                continue
            rows = min(map_height, PATCHES // columns)
            if rows == map_height:
                yield part, rows, columns, tile_columns, PATCHES // (rows * columns)
            yield part, rows, columns, tile_columns, 1
            if rows > 1:
                yield part, rows // 2, columns, tile_columns, 1
            if tile_columns == 1:
                break


def channel_stride(part: int) -> int:
    """Return the distance of two positions in shared memory.

    An odd multiple of four, so that the 8 positions × 4 channels that a warp reads at once lie in 32 banks,
    and copies of 16 bytes remain aligned; where the channels are not a multiple of four, as they come.
    """
    if part % 4:
        return part
    return part + 4 if part // 4 % 2 == 0 else part


def pooling_weights(spec: KernelLayer | LayerSpec, shape: Shape) -> NDArray[np.float32]:
    """Return the taps of the pooling along the height, then along the width."""
    height, width, _ = spec.map_shape(shape)
    taps: list[Any] = [
        pooling_filter(size, spec.subsampling, spec.pooling, spec.alignment)[1] for size in (height, width)
    ]
    return np.concatenate(taps).astype(np.float32)


def bytes_per_image(spec: LayerSpec, shape: Shape) -> int:
    """Count the bytes of an image's maps while a layer is computed: input, pooled map and output."""
    return 4 * (math.prod(shape) + 2 * math.prod(spec.output_shape(shape)))
