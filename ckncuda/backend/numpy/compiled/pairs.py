"""Exact kernels with Numba's inner loops: layers, images and workspace, laid out for them."""

import functools
import itertools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled import encode_loops, pair_loops
from ckncuda.backend.numpy.compiled.cache import announce
from ckncuda.backend.numpy.compiled.dot_product import is_compiled, number_of, parameters_of, slope_of
from ckncuda.backend.numpy.compiled.encode import taps_of
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import NARROW_ROWS, PANEL
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW
from ckncuda.backend.numpy.compiled.pair_loops import SIZES, Deeper, First, Image, Images, Norms, Work
from ckncuda.backend.numpy.threads import Threads
from ckncuda.backend.numpy.tiles import Buffer, aligned
from ckncuda.backend.numpy.winograd import SPAN, TILE
from ckncuda.backend.operations import NormedMaps, PairSpec, Specs
from ckncuda.types import Shape

Array = NDArray[np.float32]

MANY = 128  # images y that a thread takes for one image x, so that preparing x costs little
NO_MARGINS = (0, 0), (0, 0)
STRIP = 32 << 10  # bytes of products at a time: they stay in the first-level cache


def refusal(specs: Specs) -> str | None:
    """Return the reason why such layers have no compiled loops, or None where they have."""
    unknown = [spec.kernel.name for spec in specs if not is_compiled(spec.kernel)]
    return f"the kernel {unknown[0]} has no compiled function" if unknown else None


def gram_block(
    first: NormedMaps,
    second: NormedMaps,
    specs: Specs,
    tangent: bool,
    symmetric: bool,
    out: Array,
    threads: Threads,
) -> None:
    """Compute the kernels of all pairs, to out [n, n2]; of a symmetric matrix, one half of it."""
    plan = _planned(tuple(specs), first.maps.shape[1:], tangent)
    padded, ys = plan.images(first).padded, plan.images(second)
    norms_of_x, norms = plan.norms_of(first)[0], plan.norms_of(second)[1]

    def row(i: int, start: int) -> None:
        x = plan.image(padded[i], first.norms[0][i], threads.buffer)
        of_x = Norms(norms_of_x.inverse[i], norms_of_x.factor[i])
        begin = max(start, i) if symmetric else start
        part = out[i, begin : start + MANY]
        work = plan.work(threads.buffer)
        pair_loops.gram_row(x, of_x, ys, norms, plan.first, plan.deeper, work, begin, part)

    pieces = itertools.product(range(len(first)), range(0, len(second), MANY))
    threads.run(row, ((i, start) for i, start in pieces if not symmetric or start + MANY > i))


def patch_norms(maps: Array, specs: Specs, threads: Threads) -> tuple[NDArray[np.float64], ...]:
    """Compute the norms [n, h_l, w_l] of patches at each layer, from the pairs of each image with itself."""
    plan = _planned(tuple(specs), maps.shape[1:], False)
    shapes, shape = [], maps.shape[1:]
    for spec in specs:
        shapes.append(spec.map_shape(shape)[:2])
        shape = spec.output_shape(shape)
    norms = tuple(np.empty((len(maps), *shape)) for shape in shapes)
    norms[0][...] = _first_norms(maps, specs[0])
    images = NormedMaps(maps, norms)
    ys = plan.images(images)
    of_x, of_y = plan.empty_norms(len(maps))
    deeper = np.empty((len(maps), of_y.inverse.shape[1]), np.float32)

    def image(i: int) -> None:
        x = plan.image(ys.padded[i], norms[0][i], threads.buffer)
        own = [Norms(n.inverse[i], n.factor[i]) for n in (of_x, of_y)]
        pair_loops.own_norms(x, ys, i, plan.first, plan.deeper, plan.work(threads.buffer), *own, deeper[i])

    if len(specs) > 1:
        threads.run(image, ((i,) for i in range(len(maps))))
    ends = np.cumsum([0, *(h * w for h, w in shapes[1:])])
    for number, one in enumerate(norms[1:]):
        one[...] = deeper[:, ends[number] : ends[number + 1]].reshape(one.shape)
    return norms


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
        for sizes, spec, norms in zip(self.deeper.sizes, self.specs[1:], images.norms[1:], strict=False):
            named = dict(zip(SIZES, sizes, strict=True))
            height, width, breadth = named["height"], named["width"], named["breadth"]
            for part, values in zip(range(2), _factors(norms, spec), strict=True):
                in_rows = x[part][:, named["of_x"] : named["of_x"] + height * breadth]
                in_rows.reshape(-1, height, breadth)[:, :, :width] = values
                y[part][:, named["of_y"] : named["of_y"] + height * width] = values.reshape(len(images), -1)
        return x, y

    def empty_norms(self, n: int) -> tuple[Norms, Norms]:
        """Return room for the norms of n images: as of images x, and as of images y."""
        last = self.deeper.sizes[-1]
        of_x, of_y = int(last[SIZES.index("of_x")]), int(last[SIZES.index("of_y")])
        x = Norms(np.zeros((n, of_x), np.float32), np.zeros((n, of_x), np.float32))
        return x, Norms(np.zeros((n, of_y), np.float32), np.zeros((n, of_y), np.float32))

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
        padded = aligned(len(images) * height * breadth * self.shape[2]).reshape(
            len(images), height, breadth, self.shape[2]
        )
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
        sizes = {name: self.deeper.sizes[:, i].tolist() for i, name in enumerate(SIZES)}
        pairs = max(
            r * b * s for r, b, s in zip(sizes["rows"], sizes["breadth"], sizes["stride"], strict=True)
        )
        runs = [h * b for h, b in zip(sizes["height"], sizes["breadth"], strict=True)]
        pooled = max(
            a * b * run for a, b, run in zip(sizes["pooled_height"], sizes["pooled_width"], runs, strict=True)
        )
        # NARROW_ROWS are computed at a time, so that there are as many.
        panel = buffer("pair panel", (max(pooled_h * pooled_w, NARROW_ROWS), PANEL))
        return Work(
            rows=buffer("pair rows", (SPAN, max((breadth + 2) * self.shape[2], ROW))),
            transformed=buffer("pair transformed", (SPAN**2, ROW)),
            strip=buffer("pair strip", (rows, breadth, PANEL)),
            half=buffer("pair half", (h, pooled_w, PANEL)),
            panel=panel[: pooled_h * pooled_w].reshape(pooled_h, pooled_w, PANEL),
            columns=buffer("pair columns", (max(pooled_h * pooled_w, NARROW_ROWS), LANES)),
            pairs=buffer("pairs", (2, pairs)),
            tangents=buffer("pair tangents", (2, pairs if self.first.tangent else 0)),
            sums=buffer("pair sums", (3, max(*runs, LANES))),
            pooled=buffer("pair pooled", (2, pooled)),
        )


_planned = functools.lru_cache(maxsize=32)(PairPlan)  # by the values of its arguments


def _runs(height: int, width: int) -> NDArray[np.int64]:
    """Fill panels with positions, row by row: panel, first lane, row, first column, length of each run."""
    if width <= PANEL:
        rows = PANEL // width
        return np.array([(y // rows, y % rows * width, y, 0, width) for y in range(height)], np.int64)
    pieces = -(-width // PANEL)
    return np.array(
        [
            (y * pieces + piece, 0, y, piece * PANEL, min(PANEL, width - piece * PANEL))
            for y in range(height)
            for piece in range(pieces)
        ],
        np.int64,
    )


def _factors(norms: NDArray[np.float64], spec: PairSpec) -> tuple[Array, Array]:
    """Compute, of norms, 1 / floored norm, and what κ is multiplied with."""
    floored = np.maximum(norms, spec.norm_floor)
    factor = norms if spec.scale == "norm" else floored
    return (1 / floored).astype(np.float32), factor.astype(np.float32)


def _deeper(specs: Specs, shape: Shape) -> Deeper:
    """Describe the layers above the first, for images of this shape."""
    sizes: list[dict[str, int]] = []
    parameters: list[Array] = []
    floors: list[tuple[float, float]] = []
    matrices: list[NDArray[Any]] = []
    start = dict.fromkeys(("pooling", "of_x", "of_y"), 0)
    shape = specs[0].output_shape(shape)
    for spec in specs[1:]:
        height, width, _ = spec.map_shape(shape)
        pooled_height, pooled_width, _ = spec.output_shape(shape)
        patch_height, patch_width = spec.patch_shape
        one = {
            **_map(shape, spec.margins),
            **start,
            **dict(patch_height=patch_height, patch_width=patch_width, height=height, width=width),
            **dict(kernel=number_of(spec.kernel), pooled_height=pooled_height, pooled_width=pooled_width),
        }
        sizes.append(one)
        parameters.append(parameters_of(spec.kernel))
        floors.append((spec.norm_floor, float(spec.scale == "floored_norm")))
        matrices += [matrix.ravel() for matrix in spec.pooling_matrices(shape)]
        start["pooling"] += pooled_height * height + pooled_width * width
        start["of_x"] += height * one["breadth"]
        start["of_y"] += height * width
        shape = spec.output_shape(shape)
    sizes.append(dict.fromkeys(SIZES, 0) | _map(shape, NO_MARGINS) | start)
    length = max((len(numbers) for numbers in parameters), default=1)
    parameters.append(np.zeros(0, np.float32))
    padded = [np.pad(numbers, (0, length - len(numbers))) for numbers in parameters]
    return Deeper(
        sizes=np.array([[one[name] for name in SIZES] for one in sizes], np.int64),
        parameters=np.array(padded, np.float32),
        floors=np.array([*floors, (0, 0)], np.float32),
        pooling=np.concatenate([*matrices, np.zeros(1)]).astype(np.float32),
    )


def _map(shape: Shape, margins: tuple[tuple[int, int], tuple[int, int]]) -> dict[str, int]:
    """Lay out a map of pairs of positions of inputs of this shape, with their margins."""
    (above, below), (left, right) = margins
    rows, breadth = shape[0] + above + below, shape[1] + left + right
    # A vector that is written to the last columns may reach beyond.
    stride = -(-(rows * breadth) // LANES) * LANES + LANES
    return {"rows": rows, "breadth": breadth, "above": above, "left": left, "stride": stride}
