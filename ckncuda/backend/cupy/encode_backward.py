"""The way back through layers on a GPU: tiles of images, products by cuBLAS, kernels of our own between them.

A tile is as many images as its patches and products take `TILE_BYTES`; it follows from shapes and the memory
that was asked for alone.  So do the sums: each tile's are products in float32, which are added in their order
in float64, and equal bits come of equal gradients in every run, but where the device's memory was too small.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.encode_backward import (
    ArraySteps,
    Steps,
    Sums,
    Weights,
    by_anchors_of,
    bytes_per_image,
    layer_backward,
    no_sums,
)
from ckncuda.backend.cupy.device import Gpu
from ckncuda.backend.cupy.encode_tiling import pooling_weights
from ckncuda.backend.cupy.product import THREADS
from ckncuda.layer.layer import Layer
from ckncuda.layer.pooling import pooling_filter
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = Any  # a CuPy array, whose type is not known here

TILE_BYTES = 256 << 20  # where there is so much: launches take little of the time of such a tile
TILE_SHARE = 4  # a part of the memory, at most
PLANS = 256  # kept: of a few networks on images of a few shapes
MOST_SIDE = 1 << 20  # that Divisor of ``kernels/block.cuh`` divides
SPANS = 8, 4, 2, 1  # positions of a run, at most: the longest of which there are enough runs
BLOCKS = 8  # of a multiprocessor, so that it is busy to the end
LINE = 32  # floats of a line of the cache


def unfused_reason(spec: LayerSpec, shape: Shape) -> str | None:
    """Say why a layer's way back takes array operations between its products; None: it takes none."""
    if spec.kernel.device_name is None:
        return f"the kernel {spec.kernel.name} has no CUDA form"
    if (side := max(spec.map_shape(shape)[:2]) + spec.subsampling) > MOST_SIDE:
        return f"a side of its map with a step of its pooling is {side}; kernels divide up to {MOST_SIDE}"
    return None


def vector_of(count: int) -> int:
    """Return how many of so many numbers that lie together a thread takes at once."""
    return 4 if count % 4 == 0 else 1


def runs_of(
    images: int, height: int, width: int, count: int, multiprocessors: int
) -> tuple[int, tuple[int, int, int, int]]:
    """Cut rows of maps into runs of positions of so many numbers each: blocks, and the numbers of ``Runs``.

    These are images, runs of a row, positions of a run, and the logarithm of the lanes that take one: as
    many as read `LINE` numbers at once, of which a cache has a line.  Runs are short where there are few
    positions, so that all multiprocessors have some; no bit of a result depends on that.
    """
    vector = vector_of(count)
    bits = min(-(-count // vector) - 1, LINE // vector - 1).bit_length()
    for span in SPANS:
        of_row = -(-width // span)
        blocks = -(-images * height * of_row // (THREADS >> bits))
        if blocks >= BLOCKS * multiprocessors:
            break
    return blocks, (images, of_row, -(-width // of_row), bits)


def aligned(maps: Array) -> Array:
    """Return maps that may be read four numbers at a time; another library's may begin anywhere."""
    return maps.copy() if maps.data.ptr % 16 else maps


class FusedSteps:
    """`Steps` by kernels of our own: ``extract_patches``, ``encode_backward``, ``fold_patches``."""

    def __init__(self, gpu: Gpu, spec: LayerSpec, shape: Shape) -> None:
        self._gpu, self._spec, self._channels = gpu, spec, shape[2]
        (height, width, _), (rows, columns, _) = spec.map_shape(shape), spec.output_shape(shape)
        self._map, self._terms = (height, width), spec.terms(shape[2])
        self._run = spec.patch_shape[1] * shape[2]  # numbers of a patch's row
        (above, _), (before, _) = spec.margins
        self._patches = _int32(*shape, *spec.patch_shape, above, before, height, width)
        (origin_y, taps_y), (origin_x, taps_x) = (
            pooling_filter(size, spec.subsampling, spec.pooling, spec.alignment) for size in (height, width)
        )
        taps = spec.subsampling, len(taps_y), len(taps_x), origin_y, origin_x
        self._pooling = _int32(spec.filters, height, width, rows, columns, *taps)
        parameters = np.array(spec.kernel.device_parameters() or (0,), np.float32)
        self._parameters, self._weights = map(gpu.cupy.asarray, (parameters, pooling_weights(spec, shape)))

    def patches(self, maps: Array) -> tuple[Array, Array]:
        """Copy runs of numbers, a row of a patch each."""
        positions = len(maps) * math.prod(self._map)
        patches = self._gpu.cupy.empty((positions, self._terms), np.float32)
        norms = self._gpu.cupy.empty(positions, np.float32)
        blocks, runs = self._runs(len(maps), *self._map, self._run)
        arrays, vector = (maps, patches, norms), str(vector_of(self._channels))
        self._launch("extract_patches", (vector,), blocks, *arrays, *self._patches, *_int32(*runs))
        return patches, norms

    def through_kernel(self, products: Array, norms: Array, by_pooled: Array) -> Array:
        """Gather the pooled positions that a position counts in, then κ and κ'."""
        spec, by_norm = self._spec, self._gpu.cupy.empty_like(norms)
        blocks, runs = self._runs(len(by_pooled), *self._map, spec.filters)
        self._launch(
            "encode_backward",
            (str(spec.kernel.device_name), str(vector_of(spec.filters))),
            blocks,
            *(products, norms, by_pooled, by_norm, self._parameters, self._weights),
            *(*self._pooling, *_int32(*runs)),
            *(np.float32(spec.norm_floor), np.int32(spec.scale == "floored_norm")),
        )
        return by_norm

    def fold(self, by_patches: Array, by_norm: Array, maps: Array, out: Array) -> None:
        """Gather, too: each number of the maps from the patches that hold it."""
        blocks, runs = self._runs(*maps.shape)
        arrays, vector = (by_patches, by_norm, maps, out), str(vector_of(self._channels))
        self._launch("fold_patches", (vector,), blocks, *arrays, *self._patches, *_int32(*runs))

    def _runs(
        self, images: int, height: int, width: int, count: int
    ) -> tuple[int, tuple[int, int, int, int]]:
        return runs_of(images, height, width, count, self._gpu.multiprocessors)

    def _launch(self, operation: str, parameters: tuple[str, ...], blocks: int, *arguments: Any) -> None:
        self._gpu.launch(operation, parameters, (blocks,), THREADS, 0, *arguments)


def _tile_bytes(memory: int) -> int:
    return min(TILE_BYTES, memory // TILE_SHARE)


def _int32(*numbers: int) -> tuple[np.int32, ...]:
    return tuple(map(np.int32, numbers))


class WayBack:
    """Ways back through layers on one device, and what specifications need for it."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.steps = functools.lru_cache(PLANS)(self._new_steps)

    def images_of(self, layers: Sequence[Layer], shapes: Sequence[Shape], memory: int) -> int:
        """Count the images of a block: maps of these shapes between layers, gradients by two, and a tile."""
        sizes = [math.prod(shape) for shape in shapes]
        learned = 3 * 8 * sum(layer.anchors.size + layer.projection.size for layer in layers)
        return max(1, (memory - _tile_bytes(memory) - learned) // (4 * (sum(sizes) + 2 * max(sizes))))

    def block(
        self, maps: Sequence[Array], upstream: Array, weights: Sequence[Weights], layers: Sequence[Layer],
        memory: int, out: Array | None,
    ) -> list[Sums]:  # fmt: skip
        """Go back through all layers, from a block's maps between them: its input, … its output.

        The gradient by the input is written to ``out``; sums over the block's positions are returned.
        """
        sums, gradient = no_sums(weights), upstream
        for number in reversed(range(len(layers))):
            below, encoded = maps[number], maps[number + 1]
            spec, shape = layers[number].spec, below.shape[1:]
            by_below = self._gpu.cupy.empty(below.shape, np.float32) if number else out
            step = max(1, _tile_bytes(memory) // bytes_per_image(spec, shape))
            for start in range(0, len(below), step):
                some = slice(start, start + step)
                layer_backward(
                    *(below[some], encoded[some], gradient[some], weights[number]),
                    *(self.steps(spec, shape), sums[number], None if by_below is None else by_below[some]),
                )
            gradient = by_below
        if not layers and out is not None:
            out[...] = upstream
        return sums

    def by_anchors(self, layers: Sequence[Layer], blocks: Sequence[Sums]) -> list[NDArray[np.float64]]:
        """Return the gradients by the anchor points of each layer, from sums over all positions."""
        return [
            by_anchors_of(layer, *map(self._gpu.cupy.asnumpy, sums))
            for layer, sums in zip(layers, blocks, strict=True)
        ]

    def _new_steps(self, spec: LayerSpec, shape: Shape) -> Steps:
        steps: Steps
        if reason := unfused_reason(spec, shape):
            logging.getLogger("ckncuda").info("A layer's way back takes array operations: %s", reason)
            steps = ArraySteps(spec, shape, self._gpu.cupy.empty(0, np.float32))
        else:
            steps = FusedSteps(self._gpu, spec, shape)
        self._gpu.cupy.cuda.get_current_stream().synchronize()  # other streams will read what is kept
        return steps


_NOTHING: Array = None


class AskedOnce:
    """A gradient by the output, of which no image's is asked for twice, though its images may come again.

    So they do in halves, where they were too many for the device's memory.
    """

    def __init__(self, function: Callable[[Array, slice], Array]) -> None:
        self._function = function
        self._images, self._known = slice(0, 0), _NOTHING

    def __call__(self, encoded: Array, images: slice) -> Array:
        """Return that of some images, with their output."""
        if images.start >= self._images.stop:
            self._known = _NOTHING  # gives its memory back before the next one is made
            self._images, self._known = images, self._function(encoded, images)
        first = self._images.start
        return self._known[images.start - first : images.stop - first]
