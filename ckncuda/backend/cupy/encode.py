"""How a layer is laid out for ``kernels/encode.cu``: tiles, shared memory, the order of its numbers.

Nothing here needs a GPU; the constants are those of ``kernels/product.cuh``.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.layer.layer import Layer
from ckncuda.layer.pooling import pooling_filter
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

THREADS = 256
PATCHES = 128  # of a tile
ANCHORS = 64  # of a slab
TERMS = 32  # of a stage
STRIDE = ANCHORS + 8
MAP_STRIDE = ANCHORS + 4

LEAST_SHARED = 64 << 10  # bytes that a block may have on compute capability 7.5, the oldest

WORDS = {"Fma": TERMS, "Tf32x3": TERMS, "Tf32": TERMS, "Bf16": TERMS // 2}
"""Rows of 32-bit words that hold the anchors' part of a stage, by the C++ name of the precision."""


@dataclass(frozen=True)
class Tiling:
    """Everything about a launch of ``encode`` but its arrays and the number of images.

    Attributes are named as the kernel's parameters, and in their order.
    """

    height: int
    width: int
    channels: int
    filters: int
    patch: int
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
        """How many times 64 anchors."""
        return -(-self.filters // ANCHORS)

    def shared_bytes(self, precision: str) -> int:
        """Shared memory of a block: the pieces that ``encode`` takes, in its order."""
        cells = self.group * (self.rows + self.patch - 1) * (self.columns + self.patch - 1)
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
        """Pooled rows of a tile: all, unless there are too few blocks to keep the device busy.

        Each tile computes the halo of its pooling anew, so that none has fewer than 4 rows where there are
        as many.
        """
        blocks = -(-images // self.group) * self.slabs * -(-self.pooled_width // self.tile_columns)
        wanted = -(-4 * multiprocessors // blocks)
        tiles = max(1, min(wanted, self.pooled_height // 4))
        return -(-self.pooled_height // tiles)

    def blocks(self, images: int, tile_rows: int) -> int:
        """Blocks of a launch."""
        tiles = -(-self.pooled_height // tile_rows) * -(-self.pooled_width // self.tile_columns)
        return -(-images // self.group) * tiles * self.slabs

    def arguments(self, tile_rows: int, images: int) -> tuple[np.int32, ...]:
        """The kernel's whole numbers, in the order of its parameters."""
        return tuple(np.int32(value) for value in (*dataclasses.astuple(self), tile_rows, images))

    def offsets(self) -> NDArray[np.int32]:
        """Where each term of a patch lies in the piece of input [stages · TERMS]: (dy, dx, channel) order."""
        slab_width = self.columns + self.patch - 1
        dy, dx, channel = np.meshgrid(
            np.arange(self.patch), np.arange(self.patch), np.arange(self.part), indexing="ij"
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
            *shape, spec.filters, spec.patch, spec.margins[0][0],
            map_height, map_width, pooled_height, pooled_width,
            spec.subsampling, len(taps_y), len(taps_x), origin_y, origin_x,
            part, channel_stride(part), parts=-(-shape[2] // part),
            stages=-(-(spec.patch**2 * part) // TERMS),
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
            f"patches of {spec.patch}x{spec.patch} with a subsampling of {spec.subsampling} need more than "
            f"the {shared_limit >> 10} KiB of shared memory that a block may have"
        )
    return best[1]


def unfused_reason(spec: LayerSpec, shape: Shape) -> str | None:
    """Why a layer takes array operations on a GPU, for an input (height, width, channels); None: it is fused.

    Any GPU has shared memory for what is called fused here; what is not may still be on a large one.
    """
    laid_out = tiling(spec, shape, "Tf32x3", LEAST_SHARED)
    return laid_out if isinstance(laid_out, str) else None


def _candidates(
    channels: int, map_height: int, map_width: int, pooled_width: int, subsampling: int, taps: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Channels at a time, rows and columns of a chunk, pooled columns of a tile and images of a block."""
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
    """Distance of two positions in shared memory.

    An odd multiple of four, so that the 8 positions × 4 channels that a warp reads at once lie in 32 banks,
    and copies of 16 bytes remain aligned; where the channels are not a multiple of four, as they come.
    """
    if part % 4:
        return part
    return part + 4 if part // 4 % 2 == 0 else part


def packed_anchors(layer: Layer, laid_out: Tiling, precision: str) -> NDArray[np.uint32]:
    """The anchors [slabs, parts, stages, words, ANCHORS] as ``encode`` reads them; zeros fill up."""
    t = laid_out
    anchors = np.zeros((t.slabs * ANCHORS, t.patch**2, t.parts * t.part), np.float32)
    anchors[: t.filters, :, : t.channels] = layer.anchors.reshape(t.filters, t.patch**2, t.channels)
    in_parts = anchors.reshape(t.slabs * ANCHORS, t.patch**2, t.parts, t.part).transpose(2, 1, 3, 0)
    return packed_terms(in_parts.reshape(t.parts, t.patch**2 * t.part, t.slabs * ANCHORS), precision)


def packed_terms(terms: NDArray[np.float32], precision: str) -> NDArray[np.uint32]:
    """Anchors [parts, terms, slabs · ANCHORS] as [slabs, parts, stages, words, ANCHORS] of a precision."""
    parts, count, width = terms.shape
    stages = -(-count // TERMS)
    terms = np.pad(terms, ((0, 0), (0, stages * TERMS - count), (0, 0)))
    staged = terms.reshape(parts, stages, TERMS, width // ANCHORS, ANCHORS).transpose(3, 0, 1, 2, 4)
    bits = staged.copy().view(np.uint32)  # in the order of its axes
    if precision == "Tf32":  # to nearest, ties away from zero, as the device rounds
        return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    if precision == "Bf16":  # to nearest, ties to even; two terms a word, the first in the lower half
        rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16
        pairs: NDArray[Any] = rounded[..., 0::2, :] | rounded[..., 1::2, :] << 16
        return pairs.copy()
    return bits


def pooling_weights(spec: LayerSpec, shape: Shape) -> NDArray[np.float32]:
    """Taps of the pooling along the height, then along the width."""
    height, width, _ = spec.map_shape(shape)
    taps: list[Any] = [
        pooling_filter(size, spec.subsampling, spec.pooling, spec.alignment)[1] for size in (height, width)
    ]
    return np.concatenate(taps).astype(np.float32)


def bytes_per_image(spec: LayerSpec, shape: Shape) -> int:
    """Device memory of an image's maps while one layer is computed: input, pooled map and output."""
    return 4 * (math.prod(shape) + 2 * math.prod(spec.output_shape(shape)))
