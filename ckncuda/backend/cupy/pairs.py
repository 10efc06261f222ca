"""Exact kernels on a GPU: what the kernels of ``kernels/pair_*.cu`` are given, and their launches.

A pair of images takes one block a layer; what lies in memory between two layers is the pooled map of pairs
of positions, for as many pairs of images at a time as there is room for.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.patches import flat_patches
from ckncuda.backend.cupy.device import Gpu
from ckncuda.backend.cupy.encode_tiling import pooling_weights
from ckncuda.backend.cupy.memory import Halves
from ckncuda.backend.cupy.pair_tiling import STEP, ProductTiling, SumTiling, tilings
from ckncuda.backend.cupy.product import THREADS
from ckncuda.backend.operations import NormedMaps, PairSpec, Specs, mirror
from ckncuda.types import Shape

Array = Any  # of the device

IMAGES_AT_ONCE = 1024
PAIRS_AT_ONCE = 1 << 16


def packed_patches(patches: Array, factors: Array, laid_out: ProductTiling, halves: bool) -> Array:
    """Pack patches over their norms, and what to multiply with, as ``pair_products`` reads them.

    Parameters
    ----------
    patches : float32 [n, positions, terms]
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
    """Lay terms [n, h', w', 16 · steps] out by term: for each, position after position of a row."""
    by_term = np.zeros((len(terms), t.map_height, t.steps * STEP, t.pitch), np.float32, like=terms)
    by_term[..., : t.map_width] = terms.transpose(0, 1, 3, 2)
    return by_term


def _halves(terms: Array, t: ProductTiling) -> Array:
    """Split terms [n, h', w', 16 · steps] into big and small halves, in the order that tensor cores take."""
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

    spec: PairSpec
    laid_out: ProductTiling | SumTiling
    parameters: Array  # of κ
    weights: Array  # of the pooling

    @property
    def pooled_positions(self) -> int:
        """Number of those of each image."""
        return self.laid_out.pooled_height * self.laid_out.pooled_width


def fused_pairs(gpu: Gpu, specs: Specs, shape: Shape, dtype: str, tangent: bool) -> "FusedPairs | None":
    """Return the fused form of exact kernels for images of a shape, or None: there is none."""
    laid_out: list[ProductTiling | SumTiling] | str
    laid_out = f"the fused kernels compute in float32, not in {dtype}"
    if dtype == "float32":
        laid_out = tilings(specs, shape, tangent, gpu.shared_limit)
    if isinstance(laid_out, str):
        logging.getLogger("ckncuda").info("An exact kernel takes array operations: %s", laid_out)
        return None
    return FusedPairs(gpu, specs, laid_out, shape, tangent)


class FusedPairs:
    """Exact kernels of one sequence of layers for images of one shape, on the current device.

    Parameters
    ----------
    gpu : Gpu
        Whatever its precision, products are those of float32: an exponential makes too much of the error
        of TF32's cosines.
    specs : sequence of KernelLayer or LayerSpec
    laid_out : list of tilings
        Of `tilings`.
    shape : (height, width, channels)
    tangent : bool
    """

    def __init__(
        self,
        gpu: Gpu,
        specs: Specs,
        laid_out: Sequence[ProductTiling | SumTiling],
        shape: Shape,
        tangent: bool,
    ) -> None:
        self._gpu, self._cupy, self._tangent = gpu, gpu.cupy, tangent
        self._layers = []
        for spec, tiling in zip(specs, laid_out, strict=True):
            parameters = np.array(spec.kernel.device_parameters() or (0,), np.float32)
            arrays = map(self._cupy.asarray, (parameters, pooling_weights(spec, shape)))
            self._layers.append(_PairLayer(spec, tiling, *arrays))
            shape = spec.output_shape(shape)
        self._cupy.cuda.get_current_stream().synchronize()  # other streams will read the arrays

    def gram(
        self, first: NormedMaps, second: NormedMaps, symmetric: bool, memory: int
    ) -> NDArray[np.float32]:
        """Compute the kernels of all pairs [n, n2], on the host, in roughly so many bytes of the device."""
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
        """Compute the norms [n, h_l, w_l] of the patches of images at each layer, on the host."""
        at_once = min(self._images_at_once(memory // 2), self._pairs_at_once(memory // 2))
        shapes = [(layer.laid_out.map_height, layer.laid_out.map_width) for layer in self._layers]
        norms = tuple(np.empty((len(maps), *shape)) for shape in shapes)
        for images in _slices(len(maps), at_once):
            for whole, part in zip(norms, self._own_norms(maps[images]), strict=True):
                whole[images] = self._cupy.asnumpy(part)
        return norms

    def _own_norms(self, maps: NDArray[np.float32]) -> list[Array]:
        """Compute them from the pairs of each image's positions with one another, layer after layer."""
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
        """Bring to the device what each layer needs of images."""
        maps = self._cupy.asarray(images.maps)
        norms = map(self._cupy.asarray, images.norms)
        return [self._of_layer(number, maps, own) for number, own in enumerate(norms)]

    def _of_layer(self, number: int, maps: Array, norms: Array) -> tuple[Array, ...]:
        """Return what a layer needs of images with these norms: packed patches, or divisors and factors."""
        spec, laid_out = self._layers[number].spec, self._layers[number].laid_out
        norms = norms.astype(np.float32)
        floored = np.maximum(norms, np.float32(spec.norm_floor))
        factors = norms if spec.scale == "norm" else floored
        if not isinstance(laid_out, ProductTiling):
            return 1 / floored, factors
        patches = flat_patches(maps, spec)
        patches /= floored.reshape(len(maps), -1, 1)
        return (packed_patches(patches, factors, laid_out, self._gpu.tensor_cores),)

    def _kernels(self, x: list[tuple[Array, ...]], y: list[tuple[Array, ...]], i: Any, j: Any) -> Array:
        """Compute the kernels of pairs of images of these numbers; in halves where they do not fit."""
        halves = Halves(
            self._cupy,
            len(i),
            lambda error: (
                f"the maps of one pair of images do not fit the GPU's memory: {error}; "
                "use smaller images, more subsampling or --backend numpy"
            ),
        )
        found = []
        for part in halves:
            with halves.attempt(part):
                found.append(self._kernels_at_once(x, y, i[part], j[part]))
        return found[0] if len(found) == 1 else self._cupy.concatenate(found)

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
        """Compute the pooled maps of pairs, and their tangents, from those of the layer before."""
        layer = self._layers[number]
        pooling = str(layer.laid_out.taps), str(layer.laid_out.subsampling)
        kernel = str(layer.spec.kernel.device_name), "true" if self._tangent else "false", *pooling
        found = self._cupy.zeros((len(i), layer.pooled_positions, layer.pooled_positions), np.float32)
        also = self._cupy.zeros_like(found) if self._tangent else found  # without tangents, of no account
        arrays = (*x, *y, i, j, found, also, layer.parameters, layer.weights)
        arguments = (*arrays, *layer.laid_out.arguments)
        shared = layer.laid_out.shared_bytes()
        if isinstance(layer.laid_out, ProductTiling):
            products = self._products(layer.laid_out)
            launched: tuple[str, tuple[str, ...]] = "pair_products", (products, *kernel)
        else:
            launched = "pair_sums", kernel
            arguments = (pairs, tangents, *arguments)
        self._gpu.launch(*launched, (len(i),), THREADS, shared, *arguments)
        return found, also

    def _products(self, laid_out: ProductTiling) -> str:
        """Return the C++ name of how products are computed; of few terms, as many as there are."""
        return f"F16x3<{laid_out.steps if laid_out.steps <= 2 else 0}>" if self._gpu.tensor_cores else "Fma"

    def _images_at_once(self, memory: int) -> int:
        """Count the images whose packed patches, with what they are made from, take so much on two sides."""
        t = self._layers[0].laid_out
        assert isinstance(t, ProductTiling)
        per_image = 2 * 5 * 4 * t.map_height * t.steps * STEP * max(t.pitch, t.map_width)
        return max(1, min(IMAGES_AT_ONCE, memory // per_image))

    def _pairs_at_once(self, memory: int) -> int:
        """Count the pairs of which the maps before and after a layer take so many bytes."""
        sizes = [0, *(4 * layer.pooled_positions**2 for layer in self._layers)]
        most = max(before + after for before, after in itertools.pairwise(sizes))
        return max(1, min(PAIRS_AT_ONCE, memory // (most * (1 + self._tangent))))


def _slices(count: int, at_once: int) -> Iterator[slice]:
    """Yield parts of so many."""
    return (slice(i, min(i + at_once, count)) for i in range(0, count, at_once))


def _diagonal(pairs: Array) -> Array:
    """Return G(u, u): [pairs, positions, positions] to [pairs, positions]."""
    return pairs.reshape(len(pairs), -1)[:, :: pairs.shape[1] + 1]


def _patch_sums(maps: Array, spec: PairSpec) -> Array:
    """Sum over the patch at each position: [n, h, w] to [n, h', w']."""
    padded = np.pad(maps, ((0, 0), *spec.margins))
    height, width = (size - k + 1 for size, k in zip(padded.shape[1:], spec.patch_shape, strict=True))
    shifted = [padded[:, y : y + height, x : x + width] for y, x in np.ndindex(spec.patch_shape)]
    return sum(shifted[1:], shifted[0])
