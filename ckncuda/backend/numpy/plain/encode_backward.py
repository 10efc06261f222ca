"""A layer's way back in NumPy alone: a tile of positions at a time, t and κ computed again.

Kept from the way forward are the maps between layers, nothing else: of the pooled map P = A y, which W is
multiplied with, the output X' = P Wᵀ is enough: `Layer.outputs_backward`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.plain.encode import padded_maps, patch_norms, scaled_patches
from ckncuda.backend.numpy.tiles import Band, Buffer, bands
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Map = NDArray[np.float32]

TILE_BYTES = 4 << 20  # of patches and maps of a tile: about the cache of a core, and enough rows for products


def computes(spec: LayerSpec) -> bool:
    """Return true: NumPy computes any κ."""
    return True


class Plan:
    """Tiles of the way back through layers of one specification, for inputs of one shape."""

    kept_shape = None  # nothing is kept but the maps between layers

    def __init__(self, spec: LayerSpec, shape: Shape) -> None:
        self.spec, self.shape = spec, shape
        self.map_shape, self.output_shape = spec.map_shape(shape), spec.output_shape(shape)
        rows, columns = spec.pooling_matrices(shape)
        height, width, filters = self.map_shape
        bytes_per_row = 4 * width * 2 * (spec.terms(shape[2]) + 2 * filters)
        size = max(1, TILE_BYTES // bytes_per_row)
        self.images_per_tile = max(1, size // height)
        self.row_bands = bands(rows.T, min(size, height))
        self.row_groups = {band.pooled.start: bands(band.weights, 4) for band in self.row_bands}
        self.column_groups = bands(columns.T, 8)

    def tile_bytes(self) -> int:
        """Count the bytes of workspace of one tile."""
        rows = max(band.pooled.stop - band.pooled.start for band in self.row_bands)
        _, width, filters = self.map_shape
        positions = self.images_per_tile * rows * width
        return int(4 * positions * 2 * (self.spec.terms(self.shape[2]) + 2 * filters))


class Weights(NamedTuple):
    """The numbers that a layer has learned, as matrix products take them."""

    anchors: Map  # [filters, terms]
    projection: Map  # W [filters, filters]


def weights_of(layer: Layer, plan: Plan, forward: Any, by_maps: bool) -> Weights:
    """Lay out what a layer has learned, whatever there is of it already, and for whatever it is asked."""
    return Weights(
        np.ascontiguousarray(layer.anchors.reshape(layer.spec.filters, -1), dtype=np.float32),
        np.ascontiguousarray(layer.projection, dtype=np.float32),
    )


class Sums:
    """Sums over positions, of one share of the images, in memory that is given."""

    def __init__(self, plan: Plan, memory: Map) -> None:
        p = plan.spec.filters
        memory.fill(0)
        self.products = memory[: p * p].reshape(p, p)
        self.by_filters = memory[p * p :].reshape(p, -1)

    @staticmethod
    def numbers(plan: Plan) -> int:
        """Count the numbers of the sums of one share."""
        return int(plan.spec.filters * (plan.spec.terms(plan.shape[2]) + plan.spec.filters))


def totals(plan: Plan, shares: Sequence[Sums]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Σ_u dS(u) ⊗ P x(u) [filters, height, width, channels] and Σ_v G(v) ⊗ X'(v) [filters, filters].

    The sums of all shares are added to those of the first.
    """
    by_filters, products = shares[0].by_filters, shares[0].products
    for share in shares[1:]:
        by_filters += share.by_filters
        products += share.products
    by_anchors = by_filters.reshape(plan.spec.filters, *plan.spec.patch_shape, -1)
    return by_anchors.astype(np.float64), products.astype(np.float64)


def layer_backward(
    maps: Map, encoded: Map, upstream: Map, plan: Plan, weights: Weights, sums: Sums, out: Map | None,
    kept: None, buffer: Buffer,
) -> None:  # fmt: skip
    """Carry the gradient of some images by a layer's output back to its maps, out [b, h, w, c], and to sums.

    ``maps`` [b, h, w, c] is the layer's input, ``encoded`` its output and ``upstream`` the gradient by it,
    both [b, h', w', filters].  Without ``out`` that by the maps is not computed.
    """
    spec, p = plan.spec, plan.spec.filters
    flat = upstream.reshape(-1, p)
    sums.products += flat.T @ encoded.reshape(-1, p)
    by_pooled = np.matmul(flat, weights.projection).reshape(upstream.shape)
    if spec.subsampling > 1:
        by_pooled = _spread_columns(by_pooled, plan, buffer)
    if out is not None:
        out.fill(0)
    for band in plan.row_bands:
        by_y = by_pooled[:, band.pooled]
        if spec.subsampling > 1:
            by_y = _spread_rows(by_pooled, plan, band, buffer)
        _band_backward(maps, by_y.reshape(-1, p), band.pooled, plan, weights, sums, out, buffer)


def _band_backward(
    maps: Map, by_y: Map, rows: slice, plan: Plan, weights: Weights, sums: Sums, out: Map | None,
    buffer: Buffer,
) -> None:  # fmt: skip
    """Add what rows of the map before pooling contribute, of which ``by_y`` [positions, filters] is given."""
    spec, (_, width, p) = plan.spec, plan.map_shape
    count, (patch_height, patch_width) = rows.stop - rows.start, spec.patch_shape
    shape = count + patch_height - 1, width + patch_width - 1
    padded = padded_maps(maps, spec, rows, *shape, buffer)
    norms = patch_norms(padded, spec.patch_shape, count, width)
    floored: Map = np.maximum(norms, np.float32(spec.norm_floor))
    inverse: Map = np.float32(1) / floored
    patches = scaled_patches(padded, spec.patch_shape, inverse, False, buffer)
    t = buffer("map", (len(by_y), p))
    np.matmul(patches, weights.anchors.T, out=t)
    by_t, by_norm = _through_kernel(t, by_y, norms.reshape(-1, 1), floored.reshape(-1, 1), spec, buffer)
    sums.by_filters += by_t.T @ patches
    if out is None:
        return
    by_t *= inverse.reshape(-1, 1)
    by_patches = buffer("patches", (len(by_y), weights.anchors.shape[1]))  # where patches were
    np.matmul(by_t, weights.anchors, out=by_patches)
    _fold(by_patches, by_norm.reshape(norms.shape), maps, rows, spec, out, buffer)


def _through_kernel(
    t: Map, by_y: Map, norms: Map, floored: Map, spec: LayerSpec, buffer: Buffer
) -> tuple[Map, Map]:
    """Return the gradient by t, in place of the one by y = n κ(t) [positions, filters], and (∂/∂n)/n."""
    above = norms > np.float32(spec.norm_floor)
    factor = norms if spec.scale == "norm" else floored
    if isinstance(spec.kernel, Exponential):  # κ' = α κ: one exponential, in place of t
        value = buffer("values", t.shape)
        spec.kernel.value(t, out=value)
        by_y *= value
        values = by_y.sum(axis=1, keepdims=True)
        slopes = np.float32(spec.kernel.alpha) * np.einsum("ij,ij->i", by_y, t)[:, None]
        by_y *= np.float32(spec.kernel.alpha) * factor
    else:
        values = np.einsum("ij,ij->i", by_y, spec.kernel.value(t))[:, None]
        by_y *= spec.kernel.derivative(t)
        slopes = np.einsum("ij,ij->i", by_y, t)[:, None]
        by_y *= factor
    # n is a factor of y, where the floor does not take its place, and t's divisor, above the floor.
    scaled = above | (norms > 0) & (spec.scale == "norm")
    by_norm = scaled * values - above * slopes
    return by_y, by_norm / np.where(norms > 0, norms, 1)


def _fold(
    by_patches: Map, by_norm: Map, maps: Map, rows: slice, spec: LayerSpec, out: Map, buffer: Buffer
) -> None:
    """Add gradients by patches, and by their norms (over these), to the maps they were taken from."""
    b, count, width = by_norm.shape
    (h, w, c), (height, breadth) = maps.shape[1:], spec.patch_shape
    (above, _), (left, _) = spec.margins
    padded = buffer("padded", (b, count + height - 1, width + breadth - 1, c))
    padded.fill(0)
    box = np.zeros(padded.shape[:3], np.float32)  # Σ of by_norm over the patches that a position is in
    terms = by_patches.reshape(b, count, width, height, breadth, c)
    for y, x in np.ndindex(height, breadth):
        padded[:, y : y + count, x : x + width] += terms[:, :, :, y, x]
        box[:, y : y + count, x : x + width] += by_norm
    first = rows.start - above  # row of the maps at which the padded ones begin
    inside = slice(max(first, 0), min(first + padded.shape[1], h))
    part = slice(inside.start - first, inside.stop - first), slice(left, left + w)
    out[:, inside] += padded[:, *part] + box[:, *part, None] * maps[:, inside]


def _spread_columns(by_pooled: Map, plan: Plan, buffer: Buffer) -> Map:
    """Pool back along the width: [b, h', w', filters] to [b, h', width, filters]."""
    b, height, columns, p = by_pooled.shape
    wide = buffer("wide", (b * height, plan.map_shape[1], p))
    source = by_pooled.reshape(b * height, columns, p)
    for group in plan.column_groups:
        np.matmul(group.weights, source[:, group.source], out=wide[:, group.pooled])
    return wide.reshape(b, height, -1, p)


def _spread_rows(wide: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    """Pool back along the height, to some rows: [b, h', width, filters] to [b, rows, width, filters]."""
    b, _, width, p = wide.shape
    rows = band.pooled.stop - band.pooled.start
    by_y = buffer("by map", (b, rows, width * p))
    source = wide.reshape(b, -1, width * p)[:, band.source]
    for group in plan.row_groups[band.pooled.start]:
        np.matmul(group.weights, source[:, group.source], out=by_y[:, group.pooled])
    return by_y
