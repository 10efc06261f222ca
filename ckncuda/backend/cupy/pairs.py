"""Exact kernels on a GPU: what the kernels of ``kernels/pair_*.cu`` are given, and their launches.

A pair of images takes one block a layer; what lies in memory between two layers is the pooled map of pairs
of positions, for as many pairs of images at a time as there is room for.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.patches import flat_patches
from ckncuda.backend.cupy.encode import pooling_weights
from ckncuda.backend.cupy.pair_tiling import STEP, ProductTiling, SumTiling
from ckncuda.backend.operations import NormedMaps, mirror
from ckncuda.errors import OutOfMemory
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = Any  # of the device

IMAGES_AT_ONCE = 1024
PAIRS_AT_ONCE = 1 << 16


class Launch(Protocol):
    """Queue so many blocks of an instantiation of a kernel, each with so many bytes of shared memory."""

    def __call__(
        self, operation: str, parameters: Sequence[str], blocks: int, shared: int, *arguments: Any
    ) -> None:
        """Arguments are the kernel's."""
        ...


def packed_patches(patches: Array, factors: Array, laid_out: ProductTiling, halves: bool) -> Array:
    """Patches over their norms and what to multiply with, as ``pair_products`` reads them.

    Parameters
    ----------
    patches : float32 [n, positions, k·k·c]
    factors : float32 [n, h', w']
    laid_out : ProductTiling
    halves : bool
        Whether tensor cores multiply them, as big and small halves.

    Returns
    -------
    words : uint32 [n, h', row]
        For each row of positions, patches, then factors; zeros fill up.
    """
    t, n = laid_out, len(patches)
    terms = np.zeros((n, t.map_height, t.map_width, t.steps * STEP), np.float32, like=patches)
    terms[..., : patches.shape[2]] = patches.reshape(n, t.map_height, t.map_width, -1)
    of_patches = t.steps * t.pitch * STEP
    words = np.zeros((n, t.map_height, t.row_words), np.uint32, like=patches)
    packed = _halves(terms, t) if halves else _by_term(terms, t)
    words[:, :, :of_patches] = packed.reshape(n, t.map_height, -1).view(np.uint32)
    words[:, :, of_patches : of_patches + t.map_width] = factors.view(np.uint32)
    return words


def _by_term(terms: Array, t: ProductTiling) -> Array:
    """Terms [n, h', w', 16 · steps], position after position of a row for each term."""
    by_term = np.zeros((len(terms), t.map_height, t.steps * STEP, t.pitch), np.float32, like=terms)
    by_term[..., : t.map_width] = terms.transpose(0, 1, 3, 2)
    return by_term


def _halves(terms: Array, t: ProductTiling) -> Array:
    """Terms [n, h', w', 16 · steps] as big and small halves, in the order of the tensor cores' operands."""
    n = len(terms)
    big = terms.astype(np.float16)
    small = (terms - big.astype(np.float32)).astype(np.float16)
    # Of a step and position: four times two terms of its first half, of its second, big, then small.
    halves = np.zeros((n, t.map_height, t.steps, t.pitch, 4, 2, 2, 2), np.float16, like=terms)
    for kind, values in enumerate((big, small)):
        by_word = values.reshape(n, t.map_height, t.map_width, t.steps, 2, 4, 2)
        halves[:, :, :, : t.map_width, :, kind] = by_word.transpose(0, 1, 3, 2, 5, 4, 6)
    return halves.reshape(n, t.map_height, -1).view(np.uint32)  # two a word


@dataclass(frozen=True)
class _PairLayer:
    """A layer with its numbers on the device."""

    spec: LayerSpec
    laid_out: ProductTiling | SumTiling
    parameters: Array  # of κ
    weights: Array  # of the pooling

    @property
    def pooled_positions(self) -> int:
        """Of each image."""
        return self.laid_out.pooled_height * self.laid_out.pooled_width


class PairKernels:
    """Exact kernels of one sequence of layers for images of one shape, on the current device.

    Parameters
    ----------
    cupy : module
    specs : sequence of LayerSpec
    laid_out : list of tilings
        Of `tilings`.
    shape : (height, width, channels)
    tangent : bool
    halves : bool
        Whether tensor cores multiply patches, in three products of halves.
    launch : Launch
    """

    def __init__(
        self,
        cupy: Any,
        specs: Sequence[LayerSpec],
        laid_out: Sequence[ProductTiling | SumTiling],
        shape: Shape,
        tangent: bool,
        halves: bool,
        launch: Launch,
    ) -> None:
        self._cupy, self._tangent, self._halves, self._launch = cupy, tangent, halves, launch
        self._layers = []
        for spec, tiling in zip(specs, laid_out, strict=True):
            parameters = np.array(spec.kernel.device_parameters() or (0,), np.float32)
            arrays = map(cupy.asarray, (parameters, pooling_weights(spec, shape)))
            self._layers.append(_PairLayer(spec, tiling, *arrays))
            shape = spec.output_shape(shape)
        cupy.cuda.get_current_stream().synchronize()  # other streams will read the arrays

    def gram(
        self, first: NormedMaps, second: NormedMaps, symmetric: bool, memory: int
    ) -> NDArray[np.float32]:
        """The kernels of all pairs [n, n2] on the host, in so many bytes of the device's memory, roughly."""
        gram = np.zeros((len(first), len(second)), np.float32)
        at_once = self._images_at_once(memory // 2)
        for rows in _slices(len(first), at_once):
            x = self._prepared(first[rows])
            for columns in _slices(len(second), at_once):
                if symmetric and columns.stop <= rows.start:
                    continue
                y = x if second is first and columns == rows else self._prepared(second[columns])
                i, j = np.indices((rows.stop - rows.start, columns.stop - columns.start)).reshape(2, -1)
                if symmetric:
                    above = columns.start + j >= rows.start + i
                    i, j = i[above], j[above]
                parts = _slices(len(i), self._pairs_at_once(memory // 2))
                found = self._cupy.concatenate([self._kernels(x, y, i[part], j[part]) for part in parts])
                gram[rows.start + i, columns.start + j] = self._cupy.asnumpy(found)
        if symmetric:
            mirror(gram)
        return gram

    def norms(self, maps: NDArray[np.float32], memory: int) -> tuple[NDArray[np.float64], ...]:
        """The norms [n, h_l, w_l] of the patches of images at each layer, on the host."""
        at_once = min(self._images_at_once(memory // 2), self._pairs_at_once(memory // 2))
        shapes = [(layer.laid_out.map_height, layer.laid_out.map_width) for layer in self._layers]
        norms = tuple(np.empty((len(maps), *shape)) for shape in shapes)
        for images in _slices(len(maps), at_once):
            for whole, part in zip(norms, self._own_norms(maps[images]), strict=True):
                whole[images] = self._cupy.asnumpy(part)
        return norms

    def _own_norms(self, maps: NDArray[np.float32]) -> list[Array]:
        """From the pairs of each image's positions with one another, layer after layer."""
        here = self._cupy.asarray(maps)
        diagonal = (here.astype(np.float64) ** 2).sum(axis=3)
        numbers = self._cupy.arange(len(maps), dtype=np.int32)
        norms: list[Array] = []
        pairs: Array = None
        for number, layer in enumerate(self._layers):
            own = np.sqrt(np.maximum(_patch_sums(diagonal, layer.spec), 0))
            norms.append(own)
            if number + 1 < len(self._layers):
                images = self._of_layer(number, here, own)
                pairs, _ = self._next(number, images, images, numbers, numbers, pairs, pairs)
                t = layer.laid_out
                diagonal = _diagonal(pairs).astype(np.float64).reshape(-1, t.pooled_height, t.pooled_width)
        return norms

    def _prepared(self, images: NormedMaps) -> list[tuple[Array, ...]]:
        """What each layer needs of images, on the device."""
        maps = self._cupy.asarray(images.maps)
        norms = map(self._cupy.asarray, images.norms)
        return [self._of_layer(number, maps, own) for number, own in enumerate(norms)]

    def _of_layer(self, number: int, maps: Array, norms: Array) -> tuple[Array, ...]:
        """What a layer needs of images with these norms: packed patches, or divisors and factors."""
        spec, laid_out = self._layers[number].spec, self._layers[number].laid_out
        norms = norms.astype(np.float32)
        floored = np.maximum(norms, np.float32(spec.norm_floor))
        factors = norms if spec.scale == "norm" else floored
        if not isinstance(laid_out, ProductTiling):
            return 1 / floored, factors
        patches = flat_patches(maps, spec)
        patches /= floored.reshape(len(maps), -1, 1)
        return (packed_patches(patches, factors, laid_out, self._halves),)

    def _kernels(self, x: list[tuple[Array, ...]], y: list[tuple[Array, ...]], i: Any, j: Any) -> Array:
        """The kernels of pairs of images of these numbers, on the device; in halves where they do not fit."""
        try:
            return self._kernels_at_once(x, y, i, j)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            if len(i) == 1:
                raise OutOfMemory(
                    f"the maps of one pair of images do not fit the GPU's memory: {error}; "
                    "use smaller images, more subsampling or --backend numpy"
                ) from error
        self._cupy.get_default_memory_pool().free_all_blocks()  # outside of the handler: see `encode`
        half = len(i) // 2
        parts = [self._kernels(x, y, i[part], j[part]) for part in (slice(0, half), slice(half, None))]
        return self._cupy.concatenate(parts)

    def _kernels_at_once(
        self, x: list[tuple[Array, ...]], y: list[tuple[Array, ...]], i: Any, j: Any
    ) -> Array:
        i, j = (self._cupy.asarray(numbers, dtype=np.int32) for numbers in (i, j))
        pairs: Array = None
        tangents: Array = None
        for number in range(len(self._layers)):
            pairs, tangents = self._next(number, x[number], y[number], i, j, pairs, tangents)
        return _diagonal(tangents).sum(axis=1)

    def _next(
        self,
        number: int,
        x: tuple[Array, ...],
        y: tuple[Array, ...],
        i: Array,
        j: Array,
        pairs: Array,
        tangents: Array,
    ) -> tuple[Array, Array]:
        """The pooled maps of pairs, and their tangents, of a layer from those of the layer before."""
        layer = self._layers[number]
        pooling = str(layer.laid_out.taps), str(layer.laid_out.subsampling)
        kernel = str(layer.spec.kernel.device_name), "true" if self._tangent else "false", *pooling
        found = self._cupy.zeros((len(i), layer.pooled_positions, layer.pooled_positions), np.float32)
        also = self._cupy.zeros_like(found) if self._tangent else found  # without tangents, of no account
        arrays = (*x, *y, i, j, found, also, layer.parameters, layer.weights)
        arguments = (*arrays, *layer.laid_out.arguments())
        shared = layer.laid_out.shared_bytes()
        if isinstance(layer.laid_out, ProductTiling):
            products = self._products(layer.laid_out)
            self._launch("pair_products", (products, *kernel), len(i), shared, *arguments)
        else:
            self._launch("pair_sums", kernel, len(i), shared, pairs, tangents, *arguments)
        return found, also

    def _products(self, laid_out: ProductTiling) -> str:
        """The C++ name of how products are computed; of few terms, as many as there are."""
        return f"F16x3<{laid_out.steps if laid_out.steps <= 2 else 0}>" if self._halves else "Fma"

    def _images_at_once(self, memory: int) -> int:
        """Images whose packed patches, and what they are made from, take so many bytes on two sides."""
        t = self._layers[0].laid_out
        assert isinstance(t, ProductTiling)
        per_image = 2 * 5 * 4 * t.map_height * t.steps * STEP * max(t.pitch, t.map_width)
        return max(1, min(IMAGES_AT_ONCE, memory // per_image))

    def _pairs_at_once(self, memory: int) -> int:
        """Pairs of which the maps before and after a layer take so many bytes."""
        sizes = [0, *(4 * layer.pooled_positions**2 for layer in self._layers)]
        most = max(before + after for before, after in itertools.pairwise(sizes))
        return max(1, min(PAIRS_AT_ONCE, memory // (most * (1 + self._tangent))))


def _slices(count: int, at_once: int) -> Iterator[slice]:
    """Parts of so many."""
    return (slice(i, min(i + at_once, count)) for i in range(0, count, at_once))


def _diagonal(pairs: Array) -> Array:
    """G(u, u): [pairs, positions, positions] to [pairs, positions]."""
    return pairs.reshape(len(pairs), -1)[:, :: pairs.shape[1] + 1]


def _patch_sums(maps: Array, spec: LayerSpec) -> Array:
    """Sums over the patch at each position: [n, h, w] to [n, h', w']."""
    padded = np.pad(maps, ((0, 0), *spec.margins))
    height, width = (size - spec.patch + 1 for size in padded.shape[1:])
    shifted = [padded[:, y : y + height, x : x + width] for y, x in np.ndindex(spec.patch_shape)]
    return sum(shifted[1:], shifted[0])
