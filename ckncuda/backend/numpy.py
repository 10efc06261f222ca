"""The NumPy backend: float32, tiles that stay in the cache, one Python thread a core.

A tile is a few whole images, or, where one image is too large, a band of its pooled rows.  Each
thread takes tiles in turn and carries one through all steps in buffers of its own, with BLAS held to
one thread: for matrices this small that is faster than a threaded BLAS, and the result does not
depend on the number of threads.
"""

import itertools
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import threadpoolctl
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckncuda.layer import Layer, LayerSpec, Shape

Array = NDArray[np.floating[Any]]

TILE_BYTES = 2 << 20  # workspace of one tile: about the second-level cache of a core
ROWS_PER_PRODUCT = 2048  # rows of a block in nearest_anchor
DEFAULT_MEMORY = 2 << 30  # fixed, whatever is free: it bounds samples, and so what is learned
MAX_BLOCK = 512  # images of a block: enough to keep every thread busy, few enough to show progress


def available_threads() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Band:
    """Rows (or columns) of the pooled map, with what they need of the map and the input."""

    pooled: slice  # of the pooled axis
    source: slice  # of the unpooled axis
    weights: NDArray[np.float32]  # [pooled, source]


def _bands(matrix: NDArray[np.float64], size: int) -> list[_Band]:
    """Cut a pooling matrix into groups of ``size`` rows, each with its non-zero columns alone."""
    bands = []
    for start in range(0, len(matrix), size):
        rows = matrix[start : start + size]
        used = np.flatnonzero(rows.any(axis=0))
        # A pooled position may see nothing but the outside of the map; one position keeps the shapes plain.
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        weights = np.ascontiguousarray(rows[:, first : last + 1], dtype=np.float32)
        bands.append(_Band(slice(start, start + len(rows)), slice(first, last + 1), weights))
    return bands


class _LayerPlan:
    """A layer's arrays in float32, and how inputs of one shape are cut into tiles."""

    def __init__(self, layer: Layer, shape: Shape) -> None:
        spec = layer.spec
        self.spec = spec
        self.shape = shape
        self.map_shape = spec.map_shape(shape)
        self.output_shape = spec.output_shape(shape)
        self.filters = np.ascontiguousarray(layer.anchors.reshape(spec.filters, -1).T, dtype=np.float32)
        self.projection = np.ascontiguousarray(layer.projection.T, dtype=np.float32)
        rows, columns = spec.pooling_matrices(shape)
        row_bytes = self.bytes_per_row()
        whole = row_bytes * self.map_shape[0]
        if whole <= 8 * TILE_BYTES:  # cutting rows computes their margins twice: only where it pays
            band = self.output_shape[0]
        else:
            band = max(1, 8 * TILE_BYTES // (row_bytes * spec.subsampling))
        self.row_bands = _bands(rows, band)
        self.column_bands = _bands(columns, 16)
        self.images_per_tile = max(1, TILE_BYTES // whole)

    def bytes_per_row(self) -> int:
        """Workspace for one row of the map: its patches and κ."""
        _, width, filters = self.map_shape
        return 4 * width * (self.spec.patch**2 * self.shape[2] + 2 * filters)

    def tile_bytes(self) -> int:
        rows = max(band.source.stop - band.source.start for band in self.row_bands)
        return int(self.images_per_tile * rows * self.bytes_per_row())


class _SingleThreadedBlas:
    """Hold BLAS to one thread while any caller is inside.

    The limit is one of the whole process, so that callers in several threads must share it: the
    first sets it, the last takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = threadpoolctl.threadpool_limits(1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_SINGLE_THREADED_BLAS = _SingleThreadedBlas()


class NumpyBackend:
    """Float32 on NumPy; see `ckncuda.backend.Backend`.

    Parameters
    ----------
    threads : int, optional
        Default: as many as this process may run on.
    memory : int, optional
        Bytes for blocks of images and samples of patches.
    """

    name = "numpy"
    dtype = np.float32

    def __init__(self, threads: int | None = None, memory: int | None = None) -> None:
        self.threads = threads if threads is not None else available_threads()
        self.memory_budget = memory if memory is not None else DEFAULT_MEMORY
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        self._plans: weakref.WeakKeyDictionary[Layer, dict[Shape, _LayerPlan]] = weakref.WeakKeyDictionary()

    def encode(self, maps: Array, layer: Layer) -> NDArray[np.float32]:
        """Encode maps [n, h, w, c] to [n, h', w', filters], tile by tile."""
        plan = self._plan(layer, maps.shape[1:])
        maps = np.asarray(maps, dtype=np.float32)
        out = np.empty((len(maps), *plan.output_shape), np.float32)
        starts = range(0, len(maps), plan.images_per_tile)

        def tile(start: int, band: _Band) -> None:
            stop = min(start + plan.images_per_tile, len(maps))
            self._encode_tile(maps[start:stop], plan, band, out[start:stop, band.pooled])

        self._run(tile, itertools.product(starts, plan.row_bands))
        return out

    def _encode_tile(self, maps: Array, plan: _LayerPlan, band: _Band, out: NDArray[np.float32]) -> None:
        """One tile: out [b, rows of the band, w', filters] from maps [b, h, w, c]."""
        spec = plan.spec
        b, rows = len(maps), band.source.stop - band.source.start
        _, width, p = plan.map_shape
        padded = self._pad(maps, plan, band.source)
        columns = self._columns(padded, plan, rows)
        norms = self._norms(padded, spec, (b, rows, width)).reshape(-1, 1)
        floored = np.maximum(norms, np.float32(spec.norm_floor))

        y = self._buffer("map", (b * rows * width, p))
        np.matmul(columns, plan.filters, out=y)
        y *= 1 / floored
        y = spec.kernel.value(y, out=y)
        y *= norms if spec.scale == "norm" else floored

        if spec.subsampling > 1:  # rows first: that is one product for all columns and filters
            y_rows = self._buffer("pooled rows", (b, out.shape[1], width * p))
            np.matmul(band.weights, y.reshape(b, rows, width * p), out=y_rows)
            y_rows = y_rows.reshape(b * out.shape[1], width, p)
            y = self._buffer("pooled", (b * out.shape[1], out.shape[2], p))
            for c in plan.column_bands:
                np.matmul(c.weights, y_rows[:, c.source], out=y[:, c.pooled])
        # Flat before the projection: a product of stacks would be a loop over tiny products.
        projected = self._buffer("projected", (out.size // p, p))
        np.matmul(y.reshape(-1, p), plan.projection, out=projected)
        out[...] = projected.reshape(out.shape)

    def _pad(self, maps: Array, plan: _LayerPlan, rows: slice) -> NDArray[np.float32]:
        """The input that these rows of the map need, with its margins of zeros."""
        before, after = plan.spec.margins
        height, width, channels = plan.shape
        first, last = rows.start - before, rows.stop + plan.spec.patch - 1 - before  # rows of the input
        padded = self._buffer("padded", (len(maps), last - first, width + before + after, channels))
        padded.fill(0)
        inside = slice(max(first, 0), min(last, height))
        padded[:, inside.start - first : inside.stop - first, before : before + width] = maps[:, inside]
        return padded

    def _columns(self, padded: NDArray[np.float32], plan: _LayerPlan, rows: int) -> NDArray[np.float32]:
        """Patches as rows of a matrix [b · rows · width, k·k·c]: k copies of runs of k·c numbers."""
        k, channels, width = plan.spec.patch, plan.shape[2], plan.map_shape[1]
        b = len(padded)
        columns = self._buffer("columns", (b, rows, width, k, k * channels))
        runs = as_strided(  # [b, padded rows, width, k · c]: overlapping runs, one a position
            padded, (b, padded.shape[1], width, k * channels), padded.strides, writeable=False
        )
        for dy in range(k):
            columns[:, :, :, dy] = runs[:, dy : dy + rows]
        return columns.reshape(b * rows * width, -1)

    def _norms(self, padded: NDArray[np.float32], spec: LayerSpec, shape: Shape) -> NDArray[np.float32]:
        """Patch norms [b, rows, width]: a box filter over the squared norms of the positions."""
        _, rows, width = shape
        squares = np.einsum("byxc,byxc->byx", padded, padded)
        along_x = sum(squares[:, :, dx : dx + width] for dx in range(1, spec.patch)) + squares[:, :, :width]
        box = sum(along_x[:, dy : dy + rows] for dy in range(1, spec.patch)) + along_x[:, :rows]
        norms: NDArray[np.float32] = np.sqrt(box, dtype=np.float32)
        return norms

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[NDArray[np.intp], Array]:
        """Block by block of patches: product, argmax, maximum."""
        patches = np.asarray(patches, dtype=np.float32)
        transposed = np.ascontiguousarray(np.asarray(anchors, dtype=np.float32).T)
        index = np.empty(len(patches), np.intp)
        cosine = np.empty(len(patches), np.float32)

        def block(start: int) -> None:
            rows = slice(start, min(start + ROWS_PER_PRODUCT, len(patches)))
            products = self._buffer("products", (rows.stop - rows.start, transposed.shape[1]))
            np.matmul(patches[rows], transposed, out=products)
            products.argmax(axis=1, out=index[rows])
            cosine[rows] = np.take_along_axis(products, index[rows, None], axis=1)[:, 0]

        self._run(block, ((start,) for start in range(0, len(patches), ROWS_PER_PRODUCT)))
        return index, cosine

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """As many as the memory holds beside the tiles' workspace, two consecutive maps an image."""
        # What is read, as float32, and what is padded, even where no layer is there yet.
        per_image, workspace = 3 * 4 * math.prod(shape), 0
        for layer in layers:
            plan = self._plan(layer, shape)
            per_image = max(per_image, 4 * (math.prod(shape) + 3 * math.prod(plan.output_shape)))
            workspace = max(workspace, self.threads * plan.tile_bytes())
            shape = plan.output_shape
        return max(1, min(MAX_BLOCK, (self.memory_budget - workspace) // max(per_image, 1)))

    def asarray(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """As float32."""
        return np.asarray(array, dtype=np.float32)

    def to_host(self, array: Array) -> Array:
        """Nothing to do."""
        return array

    def _plan(self, layer: Layer, shape: Shape) -> _LayerPlan:
        plans = self._plans.setdefault(layer, {})
        if shape not in plans:
            plans[shape] = _LayerPlan(layer, shape)
        return plans[shape]

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """This thread's array of that name, kept from tile to tile: fresh pages cost more than the sums."""
        buffers: dict[str, NDArray[np.float32]] = self._local.__dict__.setdefault("buffers", {})
        size = math.prod(shape)
        if name not in buffers or buffers[name].size < size:
            buffers[name] = np.empty(size, np.float32)
        return buffers[name][:size].reshape(shape)

    def _threads(self) -> ThreadPoolExecutor:
        """The pool of this process: threads do not survive a fork."""
        if self._pool is None or self._pool_process != os.getpid():
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ckncuda")
            self._pool_process = os.getpid()
        return self._pool

    def _run(self, function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
        """Call the function with each tuple of arguments, on all threads, BLAS held to one thread each."""
        with _SINGLE_THREADED_BLAS:
            if self.threads == 1:
                for a in arguments:
                    function(*a)
                return
            pool = self._threads()
            futures = [pool.submit(function, *a) for a in arguments]
            try:
                for future in futures:
                    future.result()
            finally:  # after an exception, Ctrl-C too, what has not begun is dropped
                for future in futures:
                    future.cancel()
