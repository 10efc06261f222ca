"""A layer's way back with Numba's inner loops: plans, packed weights, sums, workspace."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy import tiles
from ckncuda.backend.numpy.compiled import derivatives, dot_product, encode
from ckncuda.backend.numpy.compiled import encode_backward_loops as loops
from ckncuda.backend.numpy.compiled.encode_loops import COLOUR, DIRECT, MANY, pad
from ckncuda.backend.numpy.compiled.encode_loops import Weights as ForwardWeights
from ckncuda.backend.numpy.compiled.filters import transposed_panels
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, packed
from ckncuda.backend.numpy.compiled.llvm.winograd import ROW
from ckncuda.backend.numpy.tiles import Band, Buffer, aligned_copy, bands
from ckncuda.backend.numpy.winograd import SPAN, TILE, G
from ckncuda.compiled.functions import announce
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Map = NDArray[np.float32]

IMAGES = 16  # of a tile, at most
BACK_TO_FILTERS = np.kron(G, G).T.astype(np.float32)  # [9, 36]
KEPT_TERMS = 256  # of products, at least: with fewer they are computed again sooner than read
POSITIONS = 64  # of which gradients and outputs stay in the innermost cache
CACHE_BYTES = 3 << 20  # of a core: more images are taken at once while they fit


def computes(spec: LayerSpec) -> bool:
    """Tell whether the loops know the derivative of a layer's κ."""
    return derivatives.has_derivative(spec.kernel)


class Plan:
    """Tiles of the way back through layers of one specification, for inputs of one shape."""

    def __init__(self, spec: LayerSpec, shape: Shape) -> None:
        self.spec, self.shape = spec, shape
        self.map_shape, self.output_shape = spec.map_shape(shape), spec.output_shape(shape)
        self.algorithm = encode.algorithm_of(spec, shape[2])
        self.side = 1 if self.algorithm == DIRECT else TILE
        self.panels = -(-spec.filters // PANEL)
        rows, columns = (np.ascontiguousarray(m.T, np.float32) for m in spec.pooling_matrices(shape))
        per_image = self._bytes_per_row() * self.map_shape[0] + self._bytes_per_image()
        self.images_per_tile = max(1, min(IMAGES, CACHE_BYTES // per_image))
        size = self.map_shape[0]
        if per_image > tiles.MAX_TILE_BYTES:
            size = max(TILE, tiles.MAX_TILE_BYTES // self._bytes_per_row() // TILE * TILE)
        self.row_bands = bands(rows, size)
        self.geometry = loops.Geometry(
            *spec.patch_shape,
            algorithm=self.algorithm,
            rows=encode.taps_of(rows),
            columns=encode.taps_of(columns),
            slope=dot_product.slope_of(spec.kernel),
            norm_floor=float(spec.norm_floor),
            floored_factor=spec.scale == "floored_norm",
            kernel=dot_product.number_of(spec.kernel),
            derivative=derivatives.number_of(spec.kernel),
            parameters=dot_product.parameters_of(spec.kernel),
        )

    def _bytes_per_row(self) -> int:
        """Count the padded input and its gradient, and Winograd's tiles of them and of a panel of filters."""
        (_, width, channels), padded = self.shape, self.padded_channels
        numbers = channels + padded
        if self.algorithm == MANY:
            numbers += SPAN**2 * (channels + PANEL + -(-channels // PANEL) * PANEL) // TILE**2
        return 4 * (width + 2) * numbers

    def _bytes_per_image(self) -> int:
        """Count the gradient by the pooled map."""
        height, width, _ = self.output_shape
        return 4 * height * width * self.panels * PANEL

    @property
    def padded_channels(self) -> int:
        """Numbers of a position of the padded gradient: whole vectors where the algorithm takes those."""
        return -(-self.shape[2] // LANES) * LANES if self.algorithm == MANY else self.shape[2]

    @property
    def kept_shape(self) -> tuple[int, ...] | None:
        """Shape of an image's products, where it is worth while to keep them for the way back."""
        if self.spec.terms(self.shape[2]) < KEPT_TERMS or len(self.row_bands) > 1:
            return None
        return self.panels, *self.map_shape[:2], PANEL

    def tile_bytes(self) -> int:
        """Count the bytes of workspace of one tile."""
        rows = max(band.pooled.stop - band.pooled.start for band in self.row_bands)
        per_image = (rows + self.spec.patch_shape[0] + TILE) * self._bytes_per_row()
        return int(self.images_per_tile * (per_image + self._bytes_per_image()))

    def padded_shape(self, images: int, rows: slice) -> tuple[int, int, int, int]:
        """Return the shape of the input of some rows of the map, in whole tiles, with its margins."""
        sizes = rows.stop - rows.start, self.map_shape[1]
        height, width = (-(-size // self.side) * self.side for size in sizes)
        patch_height, patch_width = self.spec.patch_shape
        return images, height + patch_height - 1, width + patch_width - 1, self.shape[2]


def weights_of(layer: Layer, plan: Plan, forward: ForwardWeights, by_maps: bool) -> loops.Weights:
    """Pack what a layer has learned; what carries gradients back to the maps, where it is asked for.

    ``forward`` are the weights of the way forward.
    """
    back: Map = np.empty((0, 0, 0, 0, 0), np.float32)
    if by_maps and plan.algorithm == MANY:
        back = transposed_panels(forward.filters)
    elif by_maps:
        height, width = plan.spec.patch_shape
        run = width * plan.shape[2]
        groups = -(-run // LANES)
        filled = np.zeros((plan.panels * PANEL, height, groups * LANES), np.float32)
        filled[: plan.spec.filters, :, :run] = layer.anchors.reshape(plan.spec.filters, height, run)
        split = filled.reshape(plan.panels, PANEL, height, groups, LANES)
        back = aligned_copy(split.transpose(0, 2, 3, 1, 4))
    projection = np.ascontiguousarray(layer.projection, np.float32)
    anchors = np.require(layer.anchors.reshape(plan.spec.filters, -1), np.float32, ["C", "W"])
    return loops.Weights(forward.filters, packed(projection), back, anchors)


class Sums:
    """Sums over positions, of one share of the images, as the loops make them, in memory that is given."""

    def __init__(self, plan: Plan, memory: Map) -> None:
        shape = _filters_shape(plan)
        numbers = math.prod(shape)
        self.begins = True
        self.by_filters = memory[:numbers].reshape(shape)
        self.products = memory[numbers:].reshape(plan.panels, plan.spec.filters, PANEL)
        self.products.fill(0)

    @staticmethod
    def numbers(plan: Plan) -> int:
        """Count the numbers of the sums of one share."""
        return math.prod(_filters_shape(plan)) + plan.panels * plan.spec.filters * PANEL


def totals(plan: Plan, shares: Sequence[Sums]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Σ_u dS(u) ⊗ P x(u) [filters, height, width, channels] and Σ_v G(v) ⊗ X'(v) [filters, filters].

    The sums of all shares are added to those of the first.
    """
    if shares[0].begins:  # there were no images
        shares[0].by_filters.fill(0)
    (height, width), p = plan.spec.patch_shape, plan.spec.filters
    by_filters, products = shares[0].by_filters, shares[0].products
    for share in shares[1:]:
        by_filters += share.by_filters
        products += share.products
    if plan.algorithm == MANY:  # Gᵀ dU G
        by_filters = np.matmul(BACK_TO_FILTERS, by_filters.reshape(plan.panels, SPAN**2, -1))
    by_filters = by_filters.reshape(plan.panels, height, width, plan.shape[2], PANEL)
    by_anchors = np.moveaxis(by_filters, -1, 1).reshape(-1, height, width, plan.shape[2])[:p]
    outputs = np.moveaxis(products, 0, 1).reshape(p, -1)[:, :p]
    return by_anchors.astype(np.float64), outputs.astype(np.float64)


def _filters_shape(plan: Plan) -> tuple[int, int, int, int]:
    if plan.algorithm == MANY:
        return plan.panels, SPAN**2, plan.shape[2], PANEL
    return plan.panels, 1, plan.spec.terms(plan.shape[2]), PANEL


def layer_backward(
    maps: Map, encoded: Map, upstream: Map, plan: Plan, weights: loops.Weights, sums: Sums, out: Map | None,
    kept: Map | None, buffer: Buffer,
) -> None:  # fmt: skip
    """Carry the gradient of some images by a layer's output back to its maps, out [b, h, w, c], and to sums.

    ``maps`` [b, h, w, c] is the layer's input, ``encoded`` its output and ``upstream`` the gradient by it,
    both [b, h', w', filters].  Without ``out`` that by the maps is not computed.
    ``kept`` are products of the way forward.
    """
    announce(loops.backward)
    # One type of array, or Numba would compile anew: contiguous, writeable.
    maps, encoded, upstream = (np.require(a, np.float32, ["C", "W"]) for a in (maps, encoded, upstream))
    b, height, width, _ = upstream.shape
    pooled = buffer("pooled", (b, height, width, plan.panels * PANEL))
    part = buffer("part", (POSITIONS, PANEL))
    loops.by_pooled(upstream, encoded, weights.projection, pooled, part, sums.products)
    whole = len(plan.row_bands) == 1
    if out is not None and not whole:
        out.fill(0)
    left = plan.spec.margins[1][0]
    for band in plan.row_bands:
        work = _padded_and_workspace(maps, plan, band, out is not None, buffer)
        first, above = band.pooled.start, plan.spec.margins[0][0] - band.pooled.start
        loops.backward(
            *((first, sums.begins), work, plan.geometry, weights, pooled, sums.by_filters),
            *(out is not None, encode.NOTHING if kept is None else kept),
        )
        sums.begins = False
        if out is not None:
            norms = buffer("box", work.padded.shape[1:3])
            parts = work.by_padded, work.by_norm, work.factor
            loops.add_to_maps(*parts, plan.spec.patch_shape, maps, norms, (above, left), out, whole)


def _padded_and_workspace(
    maps: Map, plan: Plan, band: Band, by_maps: bool, buffer: Buffer
) -> loops.Workspace:
    """Pad what rows of the map need of its input; return it among a thread's arrays."""
    shape = plan.padded_shape(len(maps), band.pooled)
    padded = buffer("padded 0", shape)
    (above, _), (left, _) = plan.spec.margins
    pad(maps, above - band.pooled.start, left, padded)
    # A tile is like the last one: what it takes to look up its arrays is as much as some of the steps.
    key = plan, padded.ctypes.data, shape, band.pooled.start, by_maps
    return buffer.kept(key, lambda: _workspace(padded, plan, band, by_maps, buffer))


def _workspace(padded: Map, plan: Plan, band: Band, by_maps: bool, buffer: Buffer) -> loops.Workspace:
    """Return a thread's arrays for some images and one band."""
    b, height, breadth, channels = padded.shape
    rows, side, columns = band.pooled.stop - band.pooled.start, plan.side, plan.output_shape[1]
    at_once = side if side == TILE else max(1, min(rows, 2 * POSITIONS // plan.map_shape[1]))
    width, step = breadth - plan.spec.patch_shape[1] + 1, plan.padded_channels
    many, tiles = plan.algorithm == MANY, b * -(-rows // side) * (width // side) + 1
    transformed = {DIRECT: (0, 0, 0), COLOUR: (1, SPAN**2, ROW), MANY: (SPAN**2, tiles, channels)}
    v = buffer("transformed", transformed[plan.algorithm])
    by_v = buffer("by transformed", (0, 0, 0))
    if many and plan.panels == 1 and channels % PANEL == 0:
        by_v = v  # which is no longer needed, once the last panel's filters have their gradient
    elif many and by_maps:
        by_v = buffer("by transformed", (SPAN**2, tiles, -(-channels // PANEL) * PANEL))
    strip = at_once, width, PANEL
    return loops.Workspace(
        padded=padded,
        scale=buffer("scale", (b, rows, plan.map_shape[1])),
        factor=buffer("factor", (b, rows, plan.map_shape[1])),
        dark=buffer("dark", (b, -(-rows // at_once))),
        transformed=v,
        products=buffer("products", (SPAN**2 if many else 0, tiles, PANEL)),
        by_transformed=by_v,
        rows=buffer("rows", (SPAN, max(breadth * step, ROW))),
        strip=buffer("strip", strip),
        by_map=buffer("by map", strip),
        values=buffer("values", strip[1:]),
        slopes=buffer("slopes", strip[1:]),
        half=buffer("half", (columns, PANEL)),
        by_norm=buffer("by norm", (b, rows, plan.map_shape[1])),
        by_padded=buffer("by padded", (b * height * breadth * step + LANES if by_maps else 0,)),
    )
