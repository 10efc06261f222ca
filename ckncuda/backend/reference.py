"""The definition of every operation, which others are tested against: float64, plain, never optimised.

Symbols are those of the literature: patch P x(u), its norm n(u), cosine t_j(u) with the anchor z_j, kernel κ,
pooling A, projection W.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ckncuda.backend.arrays import on_host
from ckncuda.backend.operations import HostBlocks, NormedMaps, PairSpec, Specs, Upstream, in_parts
from ckncuda.layer.dot_product import ArcCosine
from ckncuda.layer.geometry import Geometry
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import check_differentiable
from ckncuda.types import Array, Index, Shape


def extract_patches(maps: Array, spec: Geometry) -> Array:
    """Return all patches, flattened in the order (dy, dx, channel): [n, h, w, c] to [n, h', w', terms]."""
    padded = np.pad(maps, ((0, 0), *spec.margins, (0, 0)))
    windows = sliding_window_view(padded, spec.patch_shape, axis=(1, 2))  # [n, h', w', c, height, width]
    n, h, w = windows.shape[:3]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n, h, w, spec.terms(maps.shape[3]))


def fold_patches(patches: Array, spec: Geometry, shape: Shape) -> Array:
    """Add patches [n, h', w', terms] where they were taken from maps [n, h, w, c]: the transpose."""
    (n, height, width), (h, w, c) = patches.shape[:3], shape
    (above, below), (left, right) = spec.margins
    padded = np.zeros((n, above + h + below, left + w + right, c))
    terms = patches.reshape(n, height, width, *spec.patch_shape, c)
    for y, x in np.ndindex(spec.patch_shape):
        padded[:, y : y + height, x : x + width] += terms[:, :, :, y, x]
    return padded[:, above : above + h, left : left + w]


class Unpooled(NamedTuple):
    """A layer's map before pooling, with what it is made of."""

    patches: Array  # P x(u) [n, h', w', terms]
    norms: Array  # n(u) [n, h', w', 1]
    floored: Array  # max(n(u), floor)
    cosines: Array  # t_j(u) [n, h', w', filters]
    factor: Array  # n(u), or what it is after flooring
    map: Array  # y_j(u) = n(u) κ(t_j(u)) [n, h', w', filters]


def unpooled_parts(maps: Array, layer: Layer) -> Unpooled:
    """Compute y_j(u) = n(u) κ(t_j(u)) of maps [n, h, w, c]."""
    spec = layer.spec
    patches = extract_patches(np.asarray(maps, dtype=np.float64), spec)
    norms = np.sqrt((patches**2).sum(axis=-1, keepdims=True))
    floored = np.maximum(norms, spec.norm_floor)
    anchors = layer.anchors.reshape(spec.filters, -1).astype(np.float64)
    cosines = patches @ anchors.T / floored
    factor = norms if spec.scale == "norm" else floored
    return Unpooled(patches, norms, floored, cosines, factor, factor * spec.kernel.value(cosines))


def unpooled_map(maps: Array, layer: Layer) -> Array:
    """Compute y_j(u) = n(u) κ(t_j(u)): [n, h, w, c] to [n, h', w', filters]."""
    return unpooled_parts(maps, layer).map


def layer_backward(maps: Array, layer: Layer, upstream: Array) -> tuple[Array, NDArray[np.float64]]:
    """Carry a gradient by a layer's output [n, h', w', filters] back to its maps [n, h, w, c] and anchors.

    Where a patch is zero its norm has no derivative: nothing goes through it.
    """
    spec, shape = layer.spec, maps.shape[1:]
    patches, norms, floored, t, factor, y = unpooled_parts(maps, layer)
    rows, columns = spec.pooling_matrices(shape)
    pooled = np.einsum("ih,jw,nhwp->nijp", rows, columns, y, optimize=True)
    by_projection = np.einsum("nijp,nijq->pq", upstream, pooled)
    by_y = np.einsum("ih,jw,nijp->nhwp", rows, columns, upstream @ layer.projection, optimize=True)
    by_t = by_y * factor * spec.kernel.derivative(t)
    by_products = by_t / floored  # ⟨z_j, P x(u)⟩ = t max(n, floor)
    by_anchors = np.einsum("nhwp,nhwt->pt", by_products, patches).reshape(layer.anchors.shape)
    # n is a factor of y, where the floor does not take its place, and t's divisor, above the floor.
    above = norms > spec.norm_floor
    scaled = above | (norms > 0) & (spec.scale == "norm")
    by_norm = scaled * (by_y * spec.kernel.value(t)).sum(axis=-1, keepdims=True)
    by_norm -= above * (by_t * t).sum(axis=-1, keepdims=True) / floored
    anchors = layer.anchors.reshape(spec.filters, -1).astype(np.float64)
    by_patches = by_products @ anchors + by_norm * patches / np.where(norms > 0, norms, 1)
    by_anchors += layer.projection_backward(by_projection)
    return fold_patches(by_patches, spec, shape), by_anchors


def patch_sums(pairs: Array, spec: Geometry) -> Array:
    """Compute S(u, v) = Σ_δ G(u+δ, v+δ) over the patch: [h, w, h2, w2] to [h', w', h2', w2']."""
    padded = np.pad(pairs, spec.margins * 2)
    h, w, h2, w2 = (size - side + 1 for size, side in zip(padded.shape, spec.patch_shape * 2, strict=True))
    shifts = np.ndindex(spec.patch_shape)
    sums: Array = sum((padded[y : y + h, x : x + w, y : y + h2, x : x + w2] for y, x in shifts), np.zeros(()))
    return sums


def pooled_pairs(pairs: Array, spec: Geometry, shape: Shape) -> Array:
    """Compute A G Aᵀ: pool in both images' coordinates the map of pairs of inputs of this shape."""
    rows, columns = spec.pooling_matrices(shape)
    pooled: Array = np.einsum("au,bv,uvst,cs,dt->abcd", rows, columns, pairs, rows, columns, optimize=True)
    return pooled


def own_norms(pairs: Array, spec: Geometry) -> Array:
    """Compute n(u) = √S(u, u) of the pairs of an image's positions with one another: [h', w']."""
    norms: Array = np.sqrt(np.einsum("uvuv->uv", patch_sums(pairs, spec)))
    return norms


def next_pairs(pairs: Array, n: Array, n2: Array, spec: PairSpec, shape: Shape) -> Array:
    """Compute G' = A (n κ(t) n2) Aᵀ with t = S / (n n2), for an input of this shape."""
    cosines, factor = _cosines(pairs, n, n2, spec)
    return pooled_pairs(factor * spec.kernel.value(cosines), spec, shape)


def next_tangents(tangents: Array, pairs: Array, n: Array, n2: Array, spec: PairSpec, shape: Shape) -> Array:
    """Compute Θ' = A (Θ_patch ∘ κ_0(t) + n κ_1(t) n2) Aᵀ."""
    cosines, factor = _cosines(pairs, n, n2, spec)
    arriving = patch_sums(tangents, spec) * ArcCosine(0).value(cosines)
    return pooled_pairs(arriving + factor * ArcCosine(1).value(cosines), spec, shape)


def _cosines(pairs: Array, n: Array, n2: Array, spec: PairSpec) -> tuple[Array, Array]:
    """Compute t(u, v), and what κ(t) is multiplied with."""
    norms = np.multiply.outer(n, n2)
    floored = np.multiply.outer(np.maximum(n, spec.norm_floor), np.maximum(n2, spec.norm_floor))
    return patch_sums(pairs, spec) / floored, norms if spec.scale == "norm" else floored


class ReferenceBackend(HostBlocks):
    """Plain float64 on NumPy; see `ckncuda.backend.Backend`."""

    name = "reference"
    description = "float64, plain and slow: the definition that the others are tested with"
    dtype = np.float64

    def __init__(self, memory: int | None = None) -> None:
        self.options: dict[str, Any] = {"name": "reference", "memory": memory}
        self.memory_budget = memory if memory is not None else 1 << 30

    def encode(self, maps: Array, layers: Sequence[Layer]) -> Array:
        """Compute X' = W · (A y), layer after layer."""
        maps = self.asarray(maps)
        for layer in layers:
            rows, columns = layer.spec.pooling_matrices(maps.shape[1:])
            unpooled = unpooled_map(maps, layer)
            pooled = np.einsum("ih,jw,nhwp->nijp", rows, columns, unpooled, optimize=True)
            maps = pooled @ layer.projection.T
        return maps

    def encode_backward(
        self, maps: Array, layers: Sequence[Layer], upstream: Upstream, *, by_maps: bool = True
    ) -> tuple[Array | None, list[NDArray[np.float64]]]:
        """Go forward through the layers, then back."""
        check_differentiable([layer.spec for layer in layers])
        inputs = [self.asarray(maps)]
        for layer in layers:
            inputs.append(self.encode(inputs[-1], [layer]))
        out = inputs.pop()
        gradient = self.asarray(in_parts(upstream, layers, tuple(inputs[0].shape))(out, slice(0, len(out))))
        by_anchors: list[NDArray[np.float64]] = []
        for layer, below in zip(reversed(layers), reversed(inputs), strict=True):
            gradient, of_layer = layer_backward(below, layer, gradient)
            by_anchors.insert(0, of_layer)
        return gradient if by_maps else None, by_anchors

    def patch_norms(self, maps: Array, specs: Specs) -> tuple[NDArray[np.float64], ...]:
        """Compute the pairs of each image's positions with one another, and take n(u) from their diagonal."""
        norms: list[list[Array]] = [[] for _ in specs]
        for image in np.asarray(maps, np.float64):
            pairs, shape = np.einsum("uvc,stc->uvst", image, image), image.shape
            for number, spec in enumerate(specs):
                own = own_norms(pairs, spec)
                norms[number].append(own)
                pairs, shape = next_pairs(pairs, own, own, spec, shape), spec.output_shape(shape)
        return tuple(np.array(one_layer) for one_layer in norms)

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Specs,
        *,
        tangent: bool = False,
        symmetric: bool = False,  # makes no difference here
    ) -> Array:
        """Compute Σ_u G(u, u) of the last layer's pairs of positions, or of its tangents."""
        gram = np.empty((len(first), len(second)))
        for i, j in np.ndindex(gram.shape):
            x, y = first.maps[i].astype(np.float64), second.maps[j].astype(np.float64)
            pairs, shape = np.einsum("uvc,stc->uvst", x, y), x.shape
            tangents = pairs
            for spec, n, n2 in zip(specs, first.norms, second.norms, strict=True):
                if tangent:
                    tangents = next_tangents(tangents, pairs, n[i], n2[j], spec, shape)
                pairs = next_pairs(pairs, n[i], n2[j], spec, shape)
                shape = spec.output_shape(shape)
            gram[i, j] = np.einsum("uvuv->", tangents if tangent else pairs)
        return gram

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[Index, Array]:
        """Return argmax_j ⟨z_j, x⟩ and its value; the first of equal ones."""
        cosines = np.asarray(patches, np.float64) @ np.asarray(anchors, np.float64).T
        return cosines.argmax(axis=1), cosines.max(axis=1)

    def sum_by_anchor(self, patches: Array, nearest: Index, anchors: int) -> Array:
        """Compute Σ x over the x whose nearest anchor is z_j."""
        sums = np.zeros((anchors, patches.shape[1]))
        np.add.at(sums, nearest, patches)
        return sums

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """Count patches twice, since NumPy copies them, and the unpooled map three times: they dominate."""
        per_image = 3 * 8 * math.prod(shape)
        for layer in layers:
            h, w, p = layer.spec.map_shape(shape)
            per_image = max(per_image, 8 * h * w * (2 * layer.spec.terms(shape[2]) + 3 * p))
            shape = layer.spec.output_shape(shape)
        return max(1, min(64, self.memory_budget // per_image))

    def asarray(self, array: NDArray[Any]) -> Array:
        """Return the array as float64, bytes 0…255 as 0…1."""
        array = on_host(array)
        return np.asarray(array / 255 if array.dtype == np.uint8 else array, dtype=np.float64)
