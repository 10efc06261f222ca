"""Exact kernels with Numba's inner loops: layers, images and workspace, laid out for them."""

import functools
import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled import encode_loops, pair_loops
from ckncuda.backend.numpy.compiled.dot_product import NUMBERS, number_of, parameters_of, slope_of
from ckncuda.backend.numpy.compiled.encode import taps_of
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import NARROW_ROWS, PANEL
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW
from ckncuda.backend.numpy.compiled.pair_loops import LAYER, Deeper, First, Image, Images, Norms, Work
from ckncuda.backend.numpy.threads import Threads
from ckncuda.backend.numpy.tiles import Buffer, aligned
from ckncuda.backend.numpy.winograd import SPAN, TILE
from ckncuda.backend.operations import NormedMaps, PairSpec, Specs
from ckncuda.compiled.functions import announce
from ckncuda.types import Shape

Array = NDArray[np.float32]

MANY = 128  # images y that a thread takes for one image x, so that preparing x costs little
STRIP = 32 << 10  # bytes of products at a time: they stay in the first-level cache


def refusal(specs: Specs) -> str | None:
    """Return the reason why such layers have no compiled loops, or None where they have."""
    unknown = [spec.kernel.name for spec in specs if spec.kernel.device_name not in NUMBERS]
    return f"the kernel {unknown[0]} has no compiled function" if unknown else None


def gram_block(
    first: NormedMaps, second: NormedMaps, specs: Specs, tangent: bool, symmetric: bool, threads: Threads
) -> Array:
    """Compute the kernels of all pairs [n, n2]; of a symmetric matrix, the half above its diagonal."""
    plan = _planned(tuple(specs), first.maps.shape[1:], tangent)
    padded, ys = plan.images(first).padded, plan.images(second)
    norms_of_x, norms = plan.norms_of(first)[0], plan.norms_of(second)[1]
    gram = np.empty((len(first), len(second)), np.float32)

    def row(i: int, start: int) -> None:
        x = plan.image(padded[i], first.norms[0][i], threads.buffer)
        of_x = Norms(norms_of_x.inverse[i], norms_of_x.factor[i])
        begin = max(start, i) if symmetric else start
        part = gram[i, begin : start + MANY]
        work = plan.work(threads.buffer)
        pair_loops.gram_row(x, of_x, ys, norms, plan.first, plan.deeper, work, begin, part)

    pieces = itertools.product(range(len(first)), range(0, len(second), MANY))
    threads.run(row, ((i, start) for i, start in pieces if not symmetric or start + MANY > i))
    return gram


def patch_norms(maps: Array, specs: Specs, threads: Threads) -> tuple[NDArray[np.float64], ...]:
    """Compute the norms [n, h_l, w_l] of patches at each layer, from the pairs of each image with itself."""
    plan = _planned(tuple(specs), maps.shape[1:], False)
    norms = [_first_norms(maps, specs[0])]
    ys = plan.images(NormedMaps(maps, (norms[0],)))
    of_x, of_y = plan.empty_norms(len(maps))
    deeper = np.empty_like(of_y.inverse)

    def image(i: int) -> None:
        x = plan.image(ys.padded[i], norms[0][i], threads.buffer)
        own = [Norms(n.inverse[i], n.factor[i]) for n in (of_x, of_y)]
        pair_loops.own_norms(x, ys, i, plan.first, plan.deeper, plan.work(threads.buffer), *own, deeper[i])

    if len(specs) > 1:
        threads.run(image, ((i,) for i in range(len(maps))))
    for layer, following in itertools.pairwise(plan.deeper.layers):
        own = deeper[:, layer["of_y"] : following["of_y"]].astype(np.float64)
        norms.append(own.reshape(-1, layer["height"], layer["width"]))
    return tuple(norms)


def _first_norms(maps: Array, spec: PairSpec) -> NDArray[np.float64]:
    """Compute the norms [n, h, w] of the patches of the images themselves."""
    squares = np.einsum("nyxc,nyxc->nyx", maps, maps, dtype=np.float64)
    padded = np.pad(squares, ((0, 0), *spec.margins))
    windows = sliding_window_view(padded, spec.patch_shape, axis=(1, 2))
    norms: NDArray[np.float64] = np.sqrt(windows.sum(axis=(3, 4)))
    return norms


class PairPlan:
    """An exact kernel of images of one shape, laid out for `pair_loops`."""

    def __init__(self, specs: Specs, shape: Shape, tangent: bool) -> None:
        self.specs, self.shape = specs, shape
        spec = specs[0]
        self.map_shape = spec.map_shape(shape)[:2]
        colour = spec.patch_shape == (3, 3) and shape[2] == COLOURS
        self.side = TILE if colour else 1
        rows, columns = (np.asarray(m, np.float32) for m in spec.pooling_matrices(shape))
        runs = _runs(*self.map_shape)
        self.first = First(
            *spec.patch_shape,
            algorithm=encode_loops.COLOUR if colour else encode_loops.DIRECT,
            kernel=number_of(spec.kernel),
            parameters=parameters_of(spec.kernel),
            slope=slope_of(spec.kernel),
            tangent=tangent,
            columns=taps_of(columns),
            rows=taps_of(rows),
            rows_of_x=rows,
            runs=runs,
        )
        self.panels = int(runs[-1, 0]) + 1
        self.deeper = _deeper(specs, shape)
        # Of each run, the part of the matrix that pools its columns; its width fills vectors.
        self.pooling = np.zeros((len(runs), runs[:, 4].max(), -(-len(columns) // LANES) * LANES), np.float32)
        for number, (_, _, _, column, length) in enumerate(runs):
            self.pooling[number, :length, : len(columns)] = columns[:, column : column + length].T

    def norms_of(self, images: NormedMaps) -> tuple[Norms, Norms]:
        """Lay norms above the first layer out as of images x, and as of images y."""
        x, y = self.empty_norms(len(images))
        for layer, spec, norms in zip(self.deeper.layers, self.specs[1:], images.norms[1:], strict=False):
            height, width, breadth = layer["height"], layer["width"], layer["breadth"]
            for of_x, of_y, values in zip(x, y, _factors(norms, spec), strict=True):
                in_rows = of_x[:, layer["of_x"] : layer["of_x"] + height * breadth]
                in_rows.reshape(-1, height, breadth)[:, :, :width] = values
                of_y[:, layer["of_y"] : layer["of_y"] + height * width] = values.reshape(len(images), -1)
        return x, y

    def empty_norms(self, n: int) -> tuple[Norms, Norms]:
        """Return room for the norms of n images: as of images x, and as of images y."""
        last = self.deeper.layers[-1]
        x, y = (Norms(*np.zeros((2, n, last[name]), np.float32)) for name in ("of_x", "of_y"))
        return x, y

    def image(self, padded: Array, norms: NDArray[np.float64], buffer: Buffer) -> Image:
        """Prepare an image x, in a thread's buffers, from its padded map and norms [h, w] of its patches."""
        inverse, factor = _factors(norms, self.specs[0])
        shape = (self.panels, 1, self.specs[0].terms(self.shape[2]), PANEL)
        if self.first.algorithm == encode_loops.COLOUR:
            shape = (self.panels, PANEL // LANES, SPAN**2 * COLOURS, LANES)
        filters = buffer("pair filters", shape)
        filters.fill(0)
        pair_loops.fill_filters(padded, inverse, self.first, filters)
        pooling = buffer("pair pooling", self.pooling.shape)
        pooling[...] = self.pooling
        for number, (_, _, row, column, length) in enumerate(self.first.runs):
            pooling[number, :length] *= factor[row, column : column + length, None]
        return Image(filters, pooling)

    def images(self, images: NormedMaps) -> Images:
        """Prepare images y."""
        inverse, factor = _factors(images.norms[0], self.specs[0])
        (above, _), (left, _) = self.specs[0].margins
        height, breadth = (
            -(-size // self.side) * self.side + side - 1
            for size, side in zip(self.map_shape, self.specs[0].patch_shape, strict=True)
        )
        shape = len(images), height, breadth, self.shape[2]
        padded = aligned(math.prod(shape)).reshape(shape)
        encode_loops.pad(np.require(images.maps, np.float32, ["C", "W"]), above, left, padded)
        inverse *= np.float32(self.first.slope)
        return Images(padded, inverse, factor)

    def work(self, buffer: Buffer) -> Work:
        """Return a thread's workspace."""
        announce(pair_loops.gram_row)
        h, w = self.map_shape
        pooled_h, pooled_w, _ = self.specs[0].output_shape(self.shape)
        breadth = -(-w // self.side) * self.side
        rows = max(self.side, min(h, STRIP // (4 * breadth * PANEL)) // self.side * self.side)
        layers = self.deeper.layers
        pairs = int((layers["rows"] * layers["breadth"] * layers["stride"]).max())
        runs = layers["height"] * layers["breadth"]
        pooled = int((layers["pooled_height"] * layers["pooled_width"] * runs).max())
        # NARROW_ROWS are computed at a time, so that there are as many.
        panel = buffer("pair panel", (max(pooled_h * pooled_w, NARROW_ROWS), PANEL))
        return Work(
            rows=buffer("pair rows", (SPAN, max((breadth + 2) * self.shape[2], ROW))),
            transformed=buffer("pair transformed", (1, SPAN**2, ROW)),
            strip=buffer("pair strip", (rows, breadth, PANEL)),
            half=buffer("pair half", (h, pooled_w, PANEL)),
            panel=panel[: pooled_h * pooled_w].reshape(pooled_h, pooled_w, PANEL),
            columns=buffer("pair columns", (max(pooled_h * pooled_w, NARROW_ROWS), LANES)),
            pairs=buffer("pairs", (2, pairs)),
            tangents=buffer("pair tangents", (2, pairs if self.first.tangent else 0)),
            sums=buffer("pair sums", (3, max(int(runs.max()), LANES))),
            pooled=buffer("pair pooled", (2, pooled)),
        )


_planned = functools.lru_cache(maxsize=32)(PairPlan)  # by the values of its arguments


def _runs(height: int, width: int) -> NDArray[np.int64]:
    """Fill panels with positions, row by row: panel, first lane, row, first column, length of each run."""
    rows, pieces = max(1, PANEL // width), -(-width // PANEL)
    runs = [
        (y // rows * pieces + piece, y % rows * width, y, piece * PANEL, min(PANEL, width - piece * PANEL))
        for y in range(height)
        for piece in range(pieces)
    ]
    return np.array(runs, np.int64)


def _factors(norms: NDArray[np.float64], spec: PairSpec) -> tuple[Array, Array]:
    """Compute, of norms, 1 / floored norm, and what κ is multiplied with."""
    floored = np.maximum(norms, spec.norm_floor)
    factor = norms if spec.scale == "norm" else floored
    return (1 / floored).astype(np.float32), factor.astype(np.float32)


def _deeper(specs: Specs, shape: Shape) -> Deeper:
    """Describe the layers above the first, for images of this shape."""
    layers = np.zeros(len(specs), LAYER)
    kernels = [parameters_of(spec.kernel) for spec in specs[1:]]
    parameters = np.zeros((len(specs), max(map(len, kernels), default=1)), np.float32)
    matrices: list[Array] = []
    shape = specs[0].output_shape(shape)
    for number, spec in enumerate(specs[1:]):
        layer, following = layers[number], layers[number + 1]
        rows, columns = spec.pooling_matrices(shape)
        _place_map(layer, shape, spec.margins)
        layer["patch_height"], layer["patch_width"] = spec.patch_shape
        layer["pooled_height"], layer["height"] = rows.shape
        layer["pooled_width"], layer["width"] = columns.shape
        layer["kernel"], parameters[number, : len(kernels[number])] = number_of(spec.kernel), kernels[number]
        layer["norm_floor"], layer["floored"] = spec.norm_floor, spec.scale == "floored_norm"
        matrices += [rows.astype(np.float32).ravel(), columns.astype(np.float32).ravel()]
        following["pooling"] = layer["pooling"] + rows.size + columns.size
        following["of_x"] = layer["of_x"] + layer["height"] * layer["breadth"]
        following["of_y"] = layer["of_y"] + layer["height"] * layer["width"]
        shape = spec.output_shape(shape)
    _place_map(layers[-1], shape, ((0, 0), (0, 0)))
    return Deeper(layers, parameters, np.concatenate([*matrices, np.zeros(1, np.float32)]))


def _place_map(layer: Any, shape: Shape, margins: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Lay out a map of pairs of positions of inputs of this shape, with their margins."""
    (above, below), (left, right) = margins
    rows, breadth = shape[0] + above + below, shape[1] + left + right
    layer["rows"], layer["breadth"], layer["above"], layer["left"] = rows, breadth, above, left
    # A vector that is written to the last columns may reach beyond.
    layer["stride"] = -(-(rows * breadth) // LANES) * LANES + LANES
