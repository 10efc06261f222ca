"""The steps of a tile in NumPy alone: products of patches or of Winograd's tiles, κ in place, pooling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckncuda.backend.numpy.tiles import Band, Buffer, LayerPlan, bands, filter_columns, transposed_projection
from ckncuda.backend.numpy.winograd import INPUT, OUTPUT, SPAN, TILE, transformed_filters
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Map = NDArray[np.float32]

WINOGRAD_CHANNELS = 32  # with fewer, the transforms cost more than the products they save
CACHE_BYTES = 2 << 20  # about the second-level cache of a core
CACHED_ROWS, STREAMED_ROWS = 128, 256  # of Winograd's products: more where its filters exceed the cache
# Workspace of a tile without Winograd: more than the cache holds, since the threads wait for each other
# at the beginning of every NumPy function.
TILE_BYTES = 5 << 20


class Plan(LayerPlan):
    """A plan for matrix products, Winograd's or of patches, with pooling in groups of positions."""

    def __init__(self, spec: LayerSpec, shape: Shape) -> None:
        self.winograd = spec.patch_shape == (3, 3) and shape[2] >= WINOGRAD_CHANNELS
        super().__init__(spec, shape)
        # A product with a whole pooling matrix would multiply zeros: its few taps stand on a diagonal.
        self.column_groups = bands(self.columns, 16)
        self.row_groups = {b.pooled.start: bands(b.weights, 4) for b in self.row_bands}

    def bytes_per_row(self) -> int:
        """Count patches or Winograd's tiles, and the map twice."""
        _, width, filters = self.map_shape
        patches = self.spec.terms(self.shape[2])
        if self.winograd:
            patches = SPAN**2 * (2 * self.shape[2] + filters) // TILE**2
        return 4 * width * (patches + 2 * filters)

    @property
    def images_per_tile(self) -> int:
        """Images that the cache holds, or that make Winograd's products large enough."""
        height, width, _ = self.map_shape
        if self.winograd and not self.in_bands:
            transformed = 4 * SPAN**2 * self.shape[2] * self.spec.filters  # bytes of filters
            wanted = CACHED_ROWS if transformed <= CACHE_BYTES else STREAMED_ROWS
            return -(-wanted // (-(-height // TILE) * -(-width // TILE)))
        return max(1, TILE_BYTES // (self.bytes_per_row() * height))


class Weights(NamedTuple):
    """The numbers that a layer has learned, as matrix products take them."""

    filters: Map  # [terms + 1, filters]: columns above a row of ones; transformed: [36, channels, filters]
    projection: Map  # [filters, filters]: Wᵀ


def weights_of(layer: Layer, plan: Plan) -> Weights:
    """Lay out what a layer has learned, for all plans of its specification."""
    if plan.winograd:
        filters = transformed_filters(layer.anchors)
    else:
        filters = np.concatenate([filter_columns(layer), np.ones((1, layer.spec.filters), np.float32)])
    return Weights(filters, transposed_projection(layer))


def encode_images(
    maps: Map, plans: Sequence[Plan], weights: Sequence[Weights], out: Map, buffer: Buffer
) -> None:
    """Encode whole images [b, h, w, c] through all layers, to out [b, h', w', filters]."""
    for number, (plan, own) in enumerate(zip(plans, weights, strict=True), 1):
        last = number == len(plans)
        encoded = out if last else buffer(f"maps {number % 2}", (len(maps), *plan.output_shape))
        for start in range(0, len(maps), plan.images_per_tile):
            tile = slice(start, start + plan.images_per_tile)
            encode_band(maps[tile], plan, own, plan.row_bands[0], encoded[tile], buffer)
        maps = encoded


def encode_band(maps: Map, plan: Plan, weights: Weights, band: Band, out: Map, buffer: Buffer) -> None:
    """Encode maps [b, h, w, c] to a band of pooled rows, out [b, rows, w', filters]."""
    y = unpooled(maps, plan, weights, band, buffer)
    if plan.spec.subsampling > 1:
        y = pooled(y, plan, band, buffer)
    # Flat before the projection: a product of stacks would be a loop over tiny products.
    p = out.shape[3]
    projected = buffer("projected", (out.size // p, p))
    np.matmul(y.reshape(-1, p), weights.projection, out=projected)
    out[...] = projected.reshape(out.shape)


def unpooled(maps: Map, plan: Plan, weights: Weights, band: Band, buffer: Buffer) -> Map:
    """Compute n(u) κ(t_j(u)) at the positions of a band: [b, h, w, c] to [b, rows, width, filters]."""
    spec, (patch_height, patch_width) = plan.spec, plan.spec.patch_shape
    b, rows, (_, width, p) = len(maps), band.length, plan.map_shape
    side = TILE if plan.winograd else 1
    height, breadth = -(-rows // side) * side, -(-width // side) * side
    padded = padded_maps(
        maps, spec, band.source, height + patch_height - 1, breadth + patch_width - 1, buffer
    )
    norms = patch_norms(padded, spec.patch_shape, rows, width)
    floored: Map = np.maximum(norms, np.float32(spec.norm_floor))
    factor = norms if spec.scale == "norm" else floored
    exponential = isinstance(spec.kernel, Exponential)
    # exp(α (product / norm − 1)) as exp(scale · product − α): each pass over the map counts.
    alpha = np.float32(spec.kernel.alpha if isinstance(spec.kernel, Exponential) else 1)
    scale: Map = alpha / floored
    y = buffer("map", (b, rows, width, p))
    if plan.winograd:
        products = _winograd_products(padded, weights.filters, buffer)[:, :rows, :width]
        np.multiply(products, scale[..., None], out=y)
        # Winograd's rounding is that of the brightest patch nearby: beside it a cosine may be anything.
        np.clip(y, -alpha, alpha, out=y)
        if exponential:
            y -= alpha
    else:
        # What can be done to the patches is done there, for they are smaller than the map; the logarithm
        # of the factor stands among them, and its filter is a row of ones.
        patches = scaled_patches(padded, spec.patch_shape, scale, exponential, buffer)
        if exponential:
            with np.errstate(divide="ignore"):
                logarithms = np.log(factor.ravel())
            # For log 0 what is finite, so that it is no NaN beside a zero, and of which exp is 0.
            patches[:, -1] = np.maximum(logarithms, np.float32(-1000)) - alpha
        np.matmul(patches, weights.filters[: patches.shape[1]], out=y.reshape(-1, p))
        if exponential:
            return np.exp(y, out=y)
    y = np.exp(y, out=y) if exponential else spec.kernel.value(y, out=y)
    y *= factor[..., None]
    return y


def pooled(y: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    """Pool y of the band: [b, rows, width, filters] to [b, pooled rows, pooled columns, filters]."""
    b, rows, width, p = y.shape
    height, (_, columns, _) = len(band.weights), plan.output_shape
    # Rows first: those are few products an image for all columns and filters.
    y_rows = buffer("pooled rows", (b, height, width * p))
    for r in plan.row_groups[band.pooled.start]:
        np.matmul(r.weights, y.reshape(b, rows, width * p)[:, r.source], out=y_rows[:, r.pooled])
    y_rows = y_rows.reshape(b * height, width, p)
    out = buffer("pooled", (b * height, columns, p))
    for c in plan.column_groups:
        np.matmul(c.weights, y_rows[:, c.source], out=out[:, c.pooled])
    return out.reshape(b, height, columns, p)


def padded_maps(maps: Map, spec: LayerSpec, rows: slice, height: int, width: int, buffer: Buffer) -> Map:
    """Return what rows of the map need of the input [b, h, w, c], zero beyond it: [b, height, width, c]."""
    (above, _), (left, _) = spec.margins
    first = rows.start - above  # row of the input at which the result begins
    padded = buffer("padded", (len(maps), height, width, maps.shape[3]))
    padded.fill(0)
    inside = slice(max(first, 0), min(first + height, maps.shape[1]))
    columns = slice(left, left + maps.shape[2])
    padded[:, inside.start - first : inside.stop - first, columns] = maps[:, inside]
    return padded


def scaled_patches(padded: Map, patch: tuple[int, int], scale: Map, further: bool, buffer: Buffer) -> Map:
    """Return patches of padded maps times a scale [b, rows, width]: a matrix [b · rows · width, terms].

    If asked for, there is a ``further`` column, of unknown content.
    """
    b, rows, width = scale.shape
    channels = padded.shape[3]
    height, run = patch[0], patch[1] * channels
    size = height * run
    if width > run:  # the longer the runs, the faster are copies: here those along the width
        planes = buffer("planes", (channels, *padded.shape[:3]))
        planes[...] = padded.transpose(3, 0, 1, 2)
        columns = buffer("patches", (size + further, b, rows, width))
        for i, (dy, dx) in enumerate(np.ndindex(patch)):
            part = columns[i * channels : (i + 1) * channels]
            np.multiply(planes[:, :, dy : dy + rows, dx : dx + width], scale, out=part)
        return columns.reshape(size + further, -1).T
    matrix = buffer("patches", (b, rows, width, size + further))
    # Overlapping runs, one a position.
    runs = as_strided(padded, (b, padded.shape[1], width, run), padded.strides, writeable=False)
    for dy in range(height):
        matrix[..., dy * run : (dy + 1) * run] = runs[:, dy : dy + rows]
    flat = matrix.reshape(-1, size + further)
    flat[:, :size] *= scale.reshape(-1, 1)
    return flat


def _winograd_products(padded: Map, filters: Map, buffer: Buffer) -> Map:
    """Compute products of patches and filters, of whole tiles: [b, rows, width, filters]."""
    b, height, width, c = padded.shape
    th, tw, p = (height - 2) // TILE, (width - 2) // TILE, filters.shape[2]
    tiles = b * th * tw
    sb, sy, sx, sc = padded.strides
    d = buffer("tiles", (SPAN, SPAN, b, th, tw, c))  # they overlap
    d[...] = as_strided(padded, d.shape, (sy, sx, sb, TILE * sy, TILE * sx, sc), writeable=False)
    v = buffer("transformed", (SPAN**2, tiles * c))
    np.matmul(INPUT, d.reshape(SPAN**2, -1), out=v)
    m = buffer("products", (SPAN**2, tiles, p))
    np.matmul(v.reshape(SPAN**2, tiles, c), filters, out=m)
    y = buffer("tile maps", (TILE**2, tiles * p))
    np.matmul(OUTPUT, m.reshape(SPAN**2, -1), out=y)
    whole = buffer("whole tiles", (b, th, TILE, tw, TILE, p))
    whole[...] = y.reshape(TILE, TILE, b, th, tw, p).transpose(2, 3, 0, 4, 1, 5)
    return whole.reshape(b, th * TILE, tw * TILE, p)


def patch_norms(padded: Map, patch: tuple[int, int], rows: int, width: int) -> Map:
    """Compute patch norms [b, rows, width]: a box filter over the squared norms of the positions."""
    squares = np.einsum("byxc,byxc->byx", padded, padded)
    along_x = sum(squares[:, :, dx : dx + width] for dx in range(1, patch[1])) + squares[:, :, :width]
    box = sum(along_x[:, dy : dy + rows] for dy in range(1, patch[0])) + along_x[:, :rows]
    norms: Map = np.sqrt(box, dtype=np.float32)
    return norms
