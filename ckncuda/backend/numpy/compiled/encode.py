"""The steps of a tile with Numba's inner loops: what they need of a layer, and the workspace they get."""

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled import encode_loops as compiled
from ckncuda.backend.numpy.compiled.cache import announce
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, packed
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW, colour_filters
from ckncuda.backend.numpy.tiles import MAX_TILE_BYTES, Band, Buffer, LayerPlan, filter_columns
from ckncuda.backend.numpy.winograd import SPAN, TILE, transformed_filters
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.layer import Layer
from ckncuda.types import Shape

Map = NDArray[np.float32]

MANY_CHANNELS = 16  # with fewer, Winograd's products are too small to leave the registers in between
IMAGES = 8  # of a tile


class Plan(LayerPlan):
    """A plan with the filters in panels, pooling with the taps alone."""

    def __init__(self, layer: Layer, shape: Shape) -> None:
        spec, channels = layer.spec, shape[2]
        self.algorithm = compiled.DIRECT
        if spec.patch == 3 and channels >= MANY_CHANNELS:
            self.algorithm = compiled.MANY
        elif spec.patch == 3 and channels == COLOURS:
            self.algorithm = compiled.COLOUR
        self.side = 1 if self.algorithm == compiled.DIRECT else TILE
        super().__init__(layer, shape)
        self.exponential = isinstance(spec.kernel, Exponential)
        # exp(α (product / norm − 1)) is 2^(scale · product − slope).
        slope = spec.kernel.alpha * math.log2(math.e) if isinstance(spec.kernel, Exponential) else 1.0
        self.constants = compiled.Constants(
            patch=spec.patch,
            algorithm=self.algorithm,
            filters=self._filters(layer),
            projection=packed(self.projection),
            columns=taps_of(self.columns.astype(np.float32)),
            slope=slope,
            norm_floor=float(spec.norm_floor),
            floored_factor=spec.scale == "floored_norm",
        )
        self.thread = threading.local()  # the last workspace of each thread
        self.row_taps = {band.pooled.start: taps_of(band.weights) for band in self.row_bands}

    def _filters(self, layer: Layer) -> Map:
        if self.algorithm == compiled.DIRECT:
            return packed(filter_columns(layer)[None])
        transformed = transformed_filters(layer.anchors)
        transform = packed if self.algorithm == compiled.MANY else colour_filters
        return transform(transformed)

    def bytes_per_row(self) -> int:
        """The padded input, Winograd's tiles of it and of a panel of filters, its map, pooled maps."""
        (_, width, channels), (_, columns, filters) = self.shape, self.output_shape
        numbers = channels + 2 * PANEL
        if self.algorithm == compiled.MANY:
            numbers += SPAN**2 * (channels + PANEL) // TILE**2
        return 4 * (width * numbers + 2 * -(-columns * filters // self.spec.subsampling))

    @property
    def images_per_tile(self) -> int:
        """Enough to read the filters seldom, few enough for their maps to stay in the cache."""
        return max(1, min(IMAGES, MAX_TILE_BYTES // (self.bytes_per_row() * self.map_shape[0])))

    def padded_shape(self, images: int, band: Band) -> tuple[int, int, int, int]:
        """Shape of the input of one band, in whole tiles, with its margins."""
        height, width = (-(-size // self.side) * self.side for size in (band.length, self.map_shape[1]))
        return images, height + self.spec.patch - 1, width + self.spec.patch - 1, self.shape[2]

    def place(self, band: Band) -> tuple[int, int]:
        """The row and the column of its padded input at which the input begins."""
        return self.spec.margins[0][0] - band.source.start, self.spec.margins[1][0]


def encode_images(maps: Map, plans: Sequence[Plan], out: Map, buffer: Buffer) -> None:
    """Encode whole images [b, h, w, c] through all layers, to out [b, h', w', filters]."""
    padded = _padded(maps, plans[0], plans[0].row_bands[0], buffer)
    for number, plan in enumerate(plans, 1):
        if number == len(plans):
            _encode(padded, plan, plan.row_bands[0], out, (0, 0), buffer)
        else:  # straight into the padded input of the next layer
            following = plans[number]
            band = following.row_bands[0]
            target = buffer(f"padded {number % 2}", following.padded_shape(len(maps), band))
            place = following.place(band)
            compiled.clear_margins(target, *place, *following.shape[:2])
            _encode(padded, plan, plan.row_bands[0], target, place, buffer)
            padded = target


def encode_band(maps: Map, plan: Plan, band: Band, out: Map, buffer: Buffer) -> None:
    """Encode maps [b, h, w, c] to a band of pooled rows, out [b, rows, w', filters]."""
    _encode(_padded(maps, plan, band, buffer), plan, band, out, (0, 0), buffer)


def _padded(maps: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    announce(compiled.encode)
    padded = buffer("padded 0", plan.padded_shape(len(maps), band))
    # One type of array, or Numba would compile anew: contiguous, writeable.
    compiled.pad(np.require(maps, np.float32, ["C", "W"]), *plan.place(band), padded)
    return padded


def _encode(padded: Map, plan: Plan, band: Band, out: Map, place: tuple[int, int], buffer: Buffer) -> None:
    # A tile is like the last one: what it takes to look up its arrays is as much as some of the steps.
    key = (padded.ctypes.data, padded.shape, band.pooled.start)
    if getattr(plan.thread, "key", None) != key:
        plan.thread.workspace, plan.thread.key = _workspace(padded, plan, band, buffer), key
    work = plan.thread.workspace
    rows = plan.row_taps[band.pooled.start]
    if plan.exponential:
        compiled.encode(rows, work, plan.constants, out, *place, None)
    else:
        compiled.encode.py_func(rows, work, plan.constants, out, *place, _kernel(plan))


def _workspace(padded: Map, plan: Plan, band: Band, buffer: Buffer) -> compiled.Workspace:
    """A thread's arrays for some images and one band."""
    b, _, breadth, channels = padded.shape
    rows, side, columns = band.length, plan.side, plan.output_shape[1]
    tiles_high, width = -(-rows // side), breadth - plan.spec.patch + 1
    tiles = b * tiles_high * (width // side) + 1
    transformed = {
        compiled.DIRECT: (0, 0, 0),
        compiled.COLOUR: (1, SPAN**2, ROW),
        compiled.MANY: (SPAN**2, tiles, channels),
    }[plan.algorithm]
    pooled = (b, len(band.weights), columns, len(plan.constants.projection) * PANEL)
    return compiled.Workspace(
        padded=padded,
        scale=buffer("scale", (b, rows, plan.map_shape[1])),
        factor=buffer("factor", (b, rows, plan.map_shape[1])),
        transformed=buffer("transformed", transformed),
        products=buffer("products", (SPAN**2 if plan.algorithm == compiled.MANY else 0, tiles, PANEL)),
        rows=buffer("rows", (SPAN, max(breadth * channels, ROW))),
        # A kernel that NumPy computes is best called once for all rows.
        strip=buffer("strip", (side if plan.exponential else tiles_high * side, width, PANEL)),
        half=buffer("half", (rows, columns, PANEL)),
        pooled=buffer("pooled", pooled),
        projected=buffer("projected", pooled if pooled[-1] > plan.spec.filters else (0, 0, 0, 0)),
    )


def _kernel(plan: Plan) -> Callable[[Map, Map, Map], None]:
    """Any κ, by NumPy: what `compiled.encode` calls for each strip of products."""

    def apply(strip: Map, scale: Map, factor: Map) -> None:
        strip *= scale[..., None]
        if plan.algorithm != compiled.DIRECT:  # Winograd's rounding is that of the brightest patch nearby
            np.clip(strip, -1, 1, out=strip)
        plan.spec.kernel.value(strip, out=strip)
        strip *= factor[..., None]

    return apply


def taps_of(matrix: NDArray[np.float32]) -> compiled.Taps:
    """The non-zero part of each row of a pooling matrix; a row of zeros has one tap, a zero."""
    first = np.array([np.flatnonzero(row)[0] if row.any() else 0 for row in matrix])
    last = np.array([np.flatnonzero(row)[-1] if row.any() else 0 for row in matrix])
    count = last - first + 1
    weights = np.zeros((len(matrix), int(count.max())), np.float32)
    for i, row in enumerate(matrix):
        weights[i, : count[i]] = row[first[i] : last[i] + 1]
    return compiled.Taps(weights, first.astype(np.int64), count.astype(np.int64))
