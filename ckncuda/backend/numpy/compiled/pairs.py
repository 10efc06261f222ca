"""What the compiled inner loops of exact kernels are given: layers, images, workspace."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ckncuda.backend.normed_maps import NormedMaps
from ckncuda.backend.numpy.compiled import encode_loops as compiled
from ckncuda.backend.numpy.compiled import pair_loops as compiled_pairs
from ckncuda.backend.numpy.compiled.cache import announce
from ckncuda.backend.numpy.compiled.encode import taps_of
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import NARROW_ROWS, PANEL
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW
from ckncuda.backend.numpy.compiled.pair_loops import SIZES, Deeper, First, Image, Images, Norms, Work
from ckncuda.backend.numpy.tiles import Buffer, aligned
from ckncuda.backend.numpy.winograd import SPAN, TILE
from ckncuda.layer.dot_product import (
    ArcCosine,
    DotProductKernel,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Series,
)
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = NDArray[np.float32]
Run = Callable[[Callable[..., None], Iterable[tuple[Any, ...]]], None]

MANY = 128  # images y that a thread takes for one image x, so that preparing x costs little
STRIP = 32 << 10  # bytes of products at a time: they stay in the first-level cache


def is_compiled(specs: Sequence[LayerSpec]) -> bool:
    """Whether all kernels of these layers are compiled."""
    known = (ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Series)
    return all(isinstance(spec.kernel, known) for spec in specs)


def gram_block(
    first: NormedMaps,
    second: NormedMaps,
    specs: Sequence[LayerSpec],
    tangent: bool,
    symmetric: bool,
    out: Array,
    run: Run,
    buffer: Buffer,
) -> None:
    """Kernels of all pairs to out [n, n2]; of a symmetric matrix, to one half of it."""
    plan = PairPlan(specs, first.maps.shape[1:], tangent)
    padded, ys = plan.images(first).padded, plan.images(second)
    norms_of_x, norms = plan.norms_of(first)[0], plan.norms_of(second)[1]

    def row(i: int, start: int) -> None:
        x = plan.image(padded[i], first.norms[0][i], buffer)
        of_x = Norms(norms_of_x.inverse[i], norms_of_x.factor[i])
        stop = min(start + MANY, len(second))
        begin = max(start, i) if symmetric else start
        work = plan.work(buffer)
        compiled_pairs.gram_row(x, of_x, ys, norms, plan.first, plan.deeper, work, begin, stop, out[i])

    pieces = itertools.product(range(len(first)), range(0, len(second), MANY))
    run(row, ((i, start) for i, start in pieces if not symmetric or start + MANY > i))


def patch_norms(
    maps: Array, specs: Sequence[LayerSpec], run: Run, buffer: Buffer
) -> tuple[NDArray[np.float64], ...]:
    """Norms [n, h_l, w_l] of the patches of images at each layer, from the pairs of each with itself."""
    plan = PairPlan(specs, maps.shape[1:], tangent=False)
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
        x = plan.image(ys.padded[i], norms[0][i], buffer)
        own = [Norms(n.inverse[i], n.factor[i]) for n in (of_x, of_y)]
        compiled_pairs.own_norms(x, ys, i, plan.first, plan.deeper, plan.work(buffer), *own, deeper[i])

    if len(specs) > 1:
        run(image, ((i,) for i in range(len(maps))))
    ends = np.cumsum([0, *(h * w for h, w in shapes[1:])])
    for number, one in enumerate(norms[1:]):
        one[...] = deeper[:, ends[number] : ends[number + 1]].reshape(one.shape)
    return norms


def _first_norms(maps: Array, spec: LayerSpec) -> NDArray[np.float64]:
    """Norms [n, h, w] of the patches of the images themselves."""
    before, after = spec.margins[0]
    squares = np.einsum("nyxc,nyxc->nyx", maps, maps, dtype=np.float64)
    padded = np.pad(squares, ((0, 0), (before, after), (before, after)))
    windows = sliding_window_view(padded, (spec.patch, spec.patch), axis=(1, 2))
    norms: NDArray[np.float64] = np.sqrt(windows.sum(axis=(3, 4)))
    return norms


class PairPlan:
    """An exact kernel on images of one shape, for `compiled_pairs`."""

    def __init__(self, specs: Sequence[LayerSpec], shape: Shape, tangent: bool) -> None:
        self.specs, self.shape = specs, shape
        spec = specs[0]
        self.map_shape = spec.map_shape(shape)[:2]
        colour = spec.patch == 3 and shape[2] == COLOURS
        self.side = TILE if colour else 1
        rows, columns = (np.asarray(m, np.float32) for m in spec.pooling_matrices(shape))
        kernel, parameters = _kernel(spec.kernel)
        runs = _runs(*self.map_shape)
        self.first = First(
            patch=spec.patch,
            algorithm=compiled.COLOUR if colour else compiled.DIRECT,
            kernel=kernel,
            parameters=parameters,
            slope=float(parameters[0]) if kernel == compiled_pairs.EXP else 1.0,
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
        """Above the first layer: as of images x, and as of images y."""
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
        """To be filled: as of images x, and as of images y."""
        last = self.deeper.sizes[-1]
        of_x, of_y = int(last[SIZES.index("of_x")]), int(last[SIZES.index("of_y")])
        x = Norms(np.zeros((n, of_x), np.float32), np.zeros((n, of_x), np.float32))
        return x, Norms(np.zeros((n, of_y), np.float32), np.zeros((n, of_y), np.float32))

    def image(self, padded: Array, norms: NDArray[np.float64], buffer: Buffer) -> Image:
        """An image x, from its padded map and the norms [h, w] of its patches; in the thread's buffers."""
        inverse, factor = _factors(norms, self.specs[0])
        terms = self.specs[0].patch ** 2 * self.shape[2]
        shape = (self.panels, 1, terms, PANEL)
        if self.first.algorithm == compiled.COLOUR:
            shape = (self.panels, PANEL // LANES, SPAN**2 * COLOURS, LANES)
        filters = buffer("pair filters", shape)
        filters.fill(0)
        compiled_pairs.fill_filters(
            padded, inverse, self.first.runs, self.first.patch, self.first.algorithm, filters
        )
        pooling = buffer("pair pooling", self.pooling.shape)
        pooling[...] = self.pooling
        for number, (_, _, row, column, length) in enumerate(self.first.runs):
            pooling[number, :length] *= factor[row, column : column + length, None]
        return Image(filters, pooling)

    def images(self, images: NormedMaps) -> Images:
        """Images y."""
        inverse, factor = _factors(images.norms[0], self.specs[0])
        before, (h, w), k = self.specs[0].margins[0][0], self.map_shape, self.specs[0].patch
        height, breadth = (-(-size // self.side) * self.side + k - 1 for size in (h, w))
        padded = aligned(len(images) * height * breadth * self.shape[2]).reshape(
            len(images), height, breadth, self.shape[2]
        )
        compiled.pad(np.require(images.maps, np.float32, ["C", "W"]), before, before, padded)
        inverse *= np.float32(self.first.slope)
        return Images(padded, inverse, factor)

    def work(self, buffer: Buffer) -> Work:
        """A thread's workspace."""
        announce(compiled_pairs.gram_row)
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


def _kernel(kernel: DotProductKernel) -> tuple[int, Array]:
    """The number of a kernel and its parameters."""
    number, parameters = {
        Exponential: (compiled_pairs.EXP, kernel.device_parameters()),
        Polynomial: (compiled_pairs.POLY, kernel.device_parameters()),
        InversePolynomial: (compiled_pairs.INVERSE, ()),
        Linear: (compiled_pairs.LINEAR, ()),
        Series: (compiled_pairs.SERIES, kernel.device_parameters()),
        ArcCosine: (compiled_pairs.ARCCOS1 if kernel == ArcCosine(1) else compiled_pairs.ARCCOS0, ()),
    }[type(kernel)]
    return number, np.array(parameters or (0,), np.float32)


def _runs(height: int, width: int) -> NDArray[np.int64]:
    """How positions fill panels, row by row: panel, first lane, row, first column, length of each run."""
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


def _factors(norms: NDArray[np.float64], spec: LayerSpec) -> tuple[Array, Array]:
    """Of norms: 1 / floored norm, and what κ is multiplied with."""
    floored = np.maximum(norms, spec.norm_floor)
    factor = norms if spec.scale == "norm" else floored
    return (1 / floored).astype(np.float32), factor.astype(np.float32)


def _deeper(specs: Sequence[LayerSpec], shape: Shape) -> Deeper:
    sizes: list[dict[str, int]] = []
    parameters: list[Array] = []
    floors: list[tuple[float, float]] = []
    matrices: list[NDArray[Any]] = []
    start = dict.fromkeys(("pooling", "of_x", "of_y"), 0)
    shape = specs[0].output_shape(shape)
    for spec in specs[1:]:
        before, after = spec.margins[0]
        height, width, _ = spec.map_shape(shape)
        pooled_height, pooled_width, _ = spec.output_shape(shape)
        kernel, numbers = _kernel(spec.kernel)
        one = {
            **_map(shape[0] + before + after, shape[1] + before + after, before),
            **start,
            **dict(patch=spec.patch, height=height, width=width, kernel=kernel),
            **dict(pooled_height=pooled_height, pooled_width=pooled_width),
        }
        sizes.append(one)
        parameters.append(numbers)
        floors.append((spec.norm_floor, float(spec.scale == "floored_norm")))
        matrices += [matrix.ravel() for matrix in spec.pooling_matrices(shape)]
        start["pooling"] += pooled_height * height + pooled_width * width
        start["of_x"] += height * one["breadth"]
        start["of_y"] += height * width
        shape = spec.output_shape(shape)
    sizes.append(dict.fromkeys(SIZES, 0) | _map(*shape[:2], 0) | start)
    length = max((len(numbers) for numbers in parameters), default=1)
    parameters.append(np.zeros(0, np.float32))
    padded = [np.pad(numbers, (0, length - len(numbers))) for numbers in parameters]
    return Deeper(
        sizes=np.array([[one[name] for name in SIZES] for one in sizes], np.int64),
        parameters=np.array(padded, np.float32),
        floors=np.array([*floors, (0, 0)], np.float32),
        pooling=np.concatenate([*matrices, np.zeros(1)]).astype(np.float32),
    )


def _map(rows: int, breadth: int, before: int) -> dict[str, int]:
    """How a map of pairs of these many positions lies."""
    # A vector that is written to the last columns may reach beyond.
    stride = -(-(rows * breadth) // LANES) * LANES + LANES
    return {"rows": rows, "breadth": breadth, "before": before, "stride": stride}
