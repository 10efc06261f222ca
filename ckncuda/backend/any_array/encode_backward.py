"""A layer's way back on arrays where they are: the products, and the steps between them by array operations.

Kept from the way forward are the maps between layers, nothing else: products with the anchor points are
computed again, and of the pooled map P = A y the output X' = P Wᵀ is enough: `Layer.outputs_backward`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.patches import flat_patches
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Array, Shape


class Steps(Protocol):
    """The steps between the products of a layer's way back: of a specification, for inputs of a shape."""

    def patches(self, maps: Array) -> tuple[Array, Array]:
        """Return the patches P x(u) of maps [b, h, w, c], [positions, terms], and their norms [positions]."""

    def through_kernel(self, products: Array, norms: Array, by_pooled: Array) -> Array:
        """Write the gradient by ⟨z_j, P x(u)⟩ in the place of these products [positions, filters].

        ``by_pooled`` [b, h', w', filters] is that by the pooled map.  Returned is the part of the gradient by
        P x(u) that comes by way of its norm, over P x(u): (∂/∂n)/n [positions].
        """

    def fold(self, by_patches: Array, by_norm: Array, maps: Array, out: Array) -> None:
        """Add patches [positions, terms] where they were taken from, and by_norm(u) P x(u), in ``out``."""


class Weights(NamedTuple):
    """The numbers that a layer has learned, where it is computed, float32."""

    anchors: Array  # [filters, terms]
    projection: Array  # W [filters, filters]


def weights_of(layer: Layer, like: Array) -> Weights:
    """Bring what a layer has learned to where an array is."""
    learned = layer.anchors.reshape(layer.spec.filters, -1), layer.projection
    return Weights(*(np.asarray(np.ascontiguousarray(a, dtype=np.float32), like=like) for a in learned))


class Sums(NamedTuple):
    """Sums over positions, float64: of each tile's sums, which are products in float32."""

    by_anchors: Array  # Σ_u dS(u) ⊗ P x(u) [filters, terms]
    outputs: Array  # Σ_v G(v) ⊗ X'(v) [filters, filters]


def no_sums(weights: Sequence[Weights]) -> list[Sums]:
    """Return sums of no positions."""
    return [Sums(*(np.zeros_like(a, dtype=np.float64) for a in of_layer)) for of_layer in weights]


def add(sums: Sequence[Sums], more: Sequence[Sums]) -> None:
    """Add to sums of some positions those of others, layer by layer."""
    for of_layer, of_others in zip(sums, more, strict=True):
        for whole, part in zip(of_layer, of_others, strict=True):
            whole += part


def layer_backward(
    maps: Array, encoded: Array, upstream: Array, weights: Weights, steps: Steps, sums: Sums,
    out: Array | None,
) -> None:  # fmt: skip
    """Carry the gradient of some images by a layer's output back to its maps, ``out``, and add to the sums.

    Parameters
    ----------
    maps : float32 [b, h, w, c]
        The layer's input.
    encoded, upstream : float32 [b, h', w', filters]
        Its output, and the gradient by it.
    weights, steps, sums
        Of this layer.
    out : float32 [b, h, w, c], optional
        Without it the gradient by the maps is not computed.
    """
    flat = upstream.reshape(-1, upstream.shape[3])
    by_anchors, outputs = sums
    outputs += np.matmul(flat.T, encoded.reshape(flat.shape))
    by_pooled = np.matmul(flat, weights.projection).reshape(upstream.shape)
    patches, norms = steps.patches(maps)
    products = np.matmul(patches, weights.anchors.T)
    by_norm = steps.through_kernel(products, norms, by_pooled)
    by_anchors += np.matmul(products.T, patches)
    if out is not None:
        steps.fold(np.matmul(products, weights.anchors, out=patches), by_norm, maps, out)


def by_anchors_of(
    layer: Layer, by_anchors: NDArray[np.float64], outputs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the gradient by a layer's anchor points from its sums over all positions, on the host."""
    return by_anchors.reshape(layer.anchors.shape) + layer.outputs_backward(outputs)


def bytes_per_image(spec: LayerSpec, shape: Shape) -> int:
    """Count the bytes of an image's patches, products and gradient by the pooled map, without copies."""
    height, width, filters = spec.map_shape(shape)
    pooled_height, pooled_width, _ = spec.output_shape(shape)
    positions = height * width * (spec.terms(shape[2]) + filters + 2)
    return 4 * (positions + pooled_height * pooled_width * filters)


class ArraySteps:
    """`Steps` by array operations alone."""

    def __init__(self, spec: LayerSpec, shape: Shape, like: Array) -> None:
        self._spec, (self._height, self._width, _) = spec, spec.map_shape(shape)
        rows, columns = spec.pooling_matrices(shape)
        self._rows, self._columns = (
            np.asarray(np.ascontiguousarray(matrix.T, dtype=np.float32), like=like)
            for matrix in (rows, columns)
        )

    def patches(self, maps: Array) -> tuple[Array, Array]:
        """Join shifted maps."""
        patches = flat_patches(maps, self._spec)
        patches = patches.reshape(-1, patches.shape[2])
        return patches, np.sqrt(np.einsum("ij,ij->i", patches, patches))

    def through_kernel(self, products: Array, norms: Array, by_pooled: Array) -> Array:
        """Pool back, along the width and along the height; then as `layer_backward` of the reference does."""
        spec, norms = self._spec, norms[:, None]
        by_y = self._pooled_back(by_pooled).reshape(products.shape)
        floored = np.maximum(norms, np.float32(spec.norm_floor))
        products /= floored
        above = norms > np.float32(spec.norm_floor)
        scaled = above | (norms > 0) if spec.scale == "norm" else above
        values = (by_y * spec.kernel.value(products)).sum(axis=1, keepdims=True)
        by_y *= spec.kernel.derivative(products)
        slopes = (by_y * products).sum(axis=1, keepdims=True)
        products[...] = by_y
        if spec.scale == "norm":
            products *= norms / floored
        by_norm: Array = (scaled * values - above * slopes) / np.where(norms > 0, norms, np.float32(1))
        return by_norm[:, 0]

    def _pooled_back(self, by_pooled: Array) -> Array:
        b, rows, columns, p = by_pooled.shape
        wide = np.matmul(self._columns, by_pooled.reshape(b * rows, columns, p))
        by_y: Array = np.matmul(self._rows, wide.reshape(b, rows, self._width * p))
        return by_y

    def fold(self, by_patches: Array, by_norm: Array, maps: Array, out: Array) -> None:
        """Add term by term to zeros; the patches' own part is maps times the sum over their patches."""
        b, h, w, c = maps.shape
        (above, below), (left, right) = self._spec.margins
        rows, columns = above + h + below, left + w + right
        padded = np.zeros_like(maps, shape=(b, rows, columns, c))
        box = np.zeros_like(maps, shape=(b, rows, columns, 1))
        terms = by_patches.reshape(b, self._height, self._width, *self._spec.patch_shape, c)
        by_norm = by_norm.reshape(b, self._height, self._width, 1)
        for y, x in np.ndindex(self._spec.patch_shape):
            place = slice(None), slice(y, y + self._height), slice(x, x + self._width)
            padded[place] += terms[:, :, :, y, x]
            box[place] += by_norm
        inside = slice(None), slice(above, above + h), slice(left, left + w)
        out[...] = padded[inside] + box[inside] * maps
