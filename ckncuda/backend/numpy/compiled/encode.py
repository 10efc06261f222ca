"""The steps of a tile with Numba's inner loops: plans, packed weights, workspace."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy import tiles
from ckncuda.backend.numpy.compiled import encode_loops as loops
from ckncuda.backend.numpy.compiled.dot_product import slope_of
from ckncuda.backend.numpy.compiled.filters import transformed_panels
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, packed
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW, colour_filters
from ckncuda.backend.numpy.tiles import Band, Buffer, bands
from ckncuda.backend.numpy.winograd import SPAN, TILE, transformed_filters
from ckncuda.compiled.functions import announce
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Map = NDArray[np.float32]

MANY_CHANNELS = 16  # with fewer, Winograd's products are too small to leave the registers in between
IMAGES = 8  # of a tile
NOTHING: Map = np.empty((0, 0, 0, 0, 0), np.float32)


class Plan(tiles.LayerPlan):
    """A plan for compiled loops: the algorithm of the products, pooling with the taps alone."""

    def __init__(self, spec: LayerSpec, shape: Shape) -> None:
        self.algorithm = algorithm_of(spec, shape[2])
        self.side = 1 if self.algorithm == loops.DIRECT else TILE
        super().__init__(spec, shape)
        self.exponential = spec.kernel.device_name == "Exponential"
        self.geometry = loops.Geometry(
            *spec.patch_shape,
            algorithm=self.algorithm,
            columns=taps_of(self.columns.astype(np.float32)),
            slope=slope_of(spec.kernel),
            norm_floor=float(spec.norm_floor),
            floored_factor=spec.scale == "floored_norm",
        )
        self.row_taps = {band.pooled.start: taps_of(band.weights) for band in self.row_bands}

    def bytes_per_row(self) -> int:
        """Count the padded input, Winograd's tiles of it and of a panel of filters, its map, pooled maps."""
        (_, width, channels), (_, columns, filters) = self.shape, self.output_shape
        numbers = channels + 2 * PANEL
        if self.algorithm == loops.MANY:
            numbers += SPAN**2 * (channels + PANEL) // TILE**2
        return 4 * (width * numbers + 2 * -(-columns * filters // self.spec.subsampling))

    @property
    def images_per_tile(self) -> int:
        """Enough images to read the filters seldom, few enough for their maps to stay in the cache."""
        return max(1, min(IMAGES, tiles.MAX_TILE_BYTES // (self.bytes_per_row() * self.map_shape[0])))

    def padded_shape(self, images: int, band: Band) -> tuple[int, int, int, int]:
        """Return the shape of the input of one band, in whole tiles, with its margins."""
        height, width = (-(-size // self.side) * self.side for size in (band.length, self.map_shape[1]))
        patch_height, patch_width = self.spec.patch_shape
        return images, height + patch_height - 1, width + patch_width - 1, self.shape[2]

    def place(self, band: Band) -> tuple[int, int]:
        """Return the row and the column of its padded input at which the input begins."""
        return self.spec.margins[0][0] - band.source.start, self.spec.margins[1][0]


def algorithm_of(spec: LayerSpec, channels: int) -> int:
    """Choose how a layer's products are computed: directly, or by a form of Winograd's algorithm."""
    if spec.patch_shape != (3, 3) or COLOURS != channels < MANY_CHANNELS:
        return loops.DIRECT
    return loops.COLOUR if channels == COLOURS else loops.MANY


def weights_of(layer: Layer, plan: Plan) -> loops.Weights:
    """Pack what a layer has learned in panels, for all plans of its specification."""
    if plan.algorithm == loops.DIRECT:
        filters = packed(tiles.filter_columns(layer)[None])
    elif plan.algorithm == loops.COLOUR:
        filters = colour_filters(transformed_filters(layer.anchors))
    else:
        filters = transformed_panels(layer.anchors)
    return loops.Weights(filters, packed(tiles.transposed_projection(layer)))


def encode_images(
    maps: Map, plans: Sequence[Plan], weights: Sequence[loops.Weights], out: Map, buffer: Buffer
) -> None:
    """Encode whole images [b, h, w, c] through all layers, to out [b, h', w', filters]."""
    padded = _padded(maps, plans[0], plans[0].row_bands[0], buffer)
    for number, (plan, own) in enumerate(zip(plans, weights, strict=True), 1):
        target, place = out, (0, 0)
        if number < len(plans):  # straight into the padded input of the next layer
            following, band = plans[number], plans[number].row_bands[0]
            target = buffer(f"padded {number % 2}", following.padded_shape(len(maps), band))
            place = following.place(band)
            loops.clear_margins(target, *place, *following.shape[:2])
        _encode(padded, plan, own, plan.row_bands[0], target, place, buffer)
        padded = target


def encode_keeping(
    maps: Map, plan: Plan, weights: loops.Weights, out: Map, kept: Map, buffer: Buffer
) -> None:
    """Encode whole images [b, h, w, c] through a layer, to out, and keep its products for the way back."""
    band = plan.row_bands[0]
    _encode(_padded(maps, plan, band, buffer), plan, weights, band, out, (0, 0), buffer, kept)


def encode_band(maps: Map, plan: Plan, weights: loops.Weights, band: Band, out: Map, buffer: Buffer) -> None:
    """Encode maps [b, h, w, c] to a band of pooled rows, out [b, rows, w', filters]."""
    _encode(_padded(maps, plan, band, buffer), plan, weights, band, out, (0, 0), buffer)


def _padded(maps: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    announce(loops.encode)
    padded = buffer("padded 0", plan.padded_shape(len(maps), band))
    # One type of array, or Numba would compile anew: contiguous, writeable.
    loops.pad(np.require(maps, np.float32, ["C", "W"]), *plan.place(band), padded)
    return padded


def _encode(
    padded: Map,
    plan: Plan,
    weights: loops.Weights,
    band: Band,
    out: Map,
    place: tuple[int, int],
    buffer: Buffer,
    kept: Map = NOTHING,
) -> None:
    # A tile is like the last one: what it takes to look up its arrays is as much as some of the steps.
    key = plan, padded.ctypes.data, padded.shape, band.pooled.start
    work = buffer.kept(key, lambda: _workspace(padded, plan, band, buffer))
    encode, kernel = loops.encode, None
    if not plan.exponential:
        encode, kernel = loops.encode.py_func, functools.partial(_apply_kernel, plan)
    encode(plan.row_taps[band.pooled.start], work, plan.geometry, weights, out, *place, kernel, kept)


def _workspace(padded: Map, plan: Plan, band: Band, buffer: Buffer) -> loops.Workspace:
    """Return a thread's arrays for some images and one band."""
    b, _, breadth, channels = padded.shape
    rows, side, columns = band.length, plan.side, plan.output_shape[1]
    tiles_high, width = -(-rows // side), breadth - plan.spec.patch_shape[1] + 1
    tiles = b * tiles_high * (width // side) + 1
    many, colour = (SPAN**2, tiles, channels), (1, SPAN**2, ROW)
    transformed = {loops.DIRECT: (0, 0, 0), loops.COLOUR: colour, loops.MANY: many}[plan.algorithm]
    pooled = (b, len(band.weights), columns, -(-plan.spec.filters // PANEL) * PANEL)
    return loops.Workspace(
        padded=padded,
        scale=buffer("scale", (b, rows, plan.map_shape[1])),
        factor=buffer("factor", (b, rows, plan.map_shape[1])),
        transformed=buffer("transformed", transformed),
        products=buffer("products", (SPAN**2 if plan.algorithm == loops.MANY else 0, tiles, PANEL)),
        rows=buffer("rows", (SPAN, max(breadth * channels, ROW))),
        # A kernel that NumPy computes is best called once for all rows.
        strip=buffer("strip", (side if plan.exponential else tiles_high * side, width, PANEL)),
        half=buffer("half", (rows, columns, PANEL)),
        pooled=buffer("pooled", pooled),
        projected=buffer("projected", pooled if pooled[-1] > plan.spec.filters else (0, 0, 0, 0)),
    )


def _apply_kernel(plan: Plan, strip: Map, scale: Map, factor: Map) -> None:
    """Put any κ in place of a strip of products, by NumPy."""
    strip *= scale[..., None]
    if plan.algorithm != loops.DIRECT:  # Winograd's rounding is that of the brightest patch nearby
        np.clip(strip, -1, 1, out=strip)
    plan.spec.kernel.value(strip, out=strip)
    strip *= factor[..., None]


def taps_of(matrix: NDArray[np.float32]) -> loops.Taps:
    """Return the non-zero part of each row of a pooling matrix; a row of zeros has one tap, a zero."""
    groups = bands(matrix, 1)
    first, count = np.array([(band.source.start, band.length) for band in groups], np.int64).T.copy()
    weights = np.zeros((len(matrix), int(count.max())), np.float32)
    for row, band in zip(weights, groups, strict=True):
        row[: band.length] = band.weights
    return loops.Taps(weights, first, count)
