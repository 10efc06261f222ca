"""The NumPy backend: float32, tiles that stay in the cache, one Python thread a core.

A tile is a few whole images, which go through all layers at once, or, where one image is too large, a
band of its pooled rows in one layer.  Each thread takes tiles in turn and carries one through all
steps in buffers of its own, with BLAS held to one thread: for matrices this small that is faster than
a threaded BLAS, and the result does not depend on the number of threads.  The steps are those of
`plain.encode`, or, where Numba is installed (the extra ``fast``), of `compiled.encode`; those of k-means
are in `plain.nearest` and `compiled.nearest`.
"""

import collections
import concurrent.futures
import contextlib
import importlib
import importlib.util
import itertools
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend.any_array import pairs as plain_pairs
from ckncuda.backend.arrays import as_float, on_host
from ckncuda.backend.normed_maps import NormedMaps, have_dark_patches, mirror
from ckncuda.backend.numpy.tiles import Band, LayerPlan, aligned
from ckncuda.backend.operations import HostBlocks
from ckncuda.backend.sketch import Sketch, sketch
from ckncuda.errors import InvalidData
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = NDArray[np.floating[Any]]

SUMS = 8  # parts of a sum over patches
PAIRS = 8  # images of either side of an exact kernel that a thread takes at a time
SHARES = 16  # at least, of images that are fewer than so many tiles
DEFAULT_MEMORY = 2 << 30  # fixed, whatever is free: it bounds samples, and so what is learned
MAX_BLOCK = 512  # images: enough to keep every thread busy, few enough for memory to be used again


def available_threads() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_numba() -> bool:
    """Whether the extra ``fast`` is installed."""
    return importlib.util.find_spec("numba") is not None


def describe(threads: int, compiled: bool) -> str:
    """What computes, for people."""
    loops = "with Numba's inner loops" if compiled else "pip install 'ckncuda[fast]' compiles its inner loops"
    return f"NumPy {np.__version__}, float32, {threads} thread{'s' * (threads > 1)}; {loops}"


def _modules(compiled: bool) -> tuple[ModuleType, ModuleType]:
    """The modules with the steps of a tile and those of k-means, imported when they are first needed."""
    kind = "compiled" if compiled else "plain"
    room = f"ckncuda.backend.numpy.{kind}"
    return importlib.import_module(f"{room}.encode"), importlib.import_module(f"{room}.nearest")


class _SingleThreadedBlas:
    """Hold BLAS to one thread while any caller is inside.

    The limit is one of the whole process, so that callers in several threads must share it: the
    first sets it, the last takes it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None
        self._libraries: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                if self._libraries is None:  # looked up once: it takes milliseconds
                    self._libraries = threadpoolctl.ThreadpoolController()
                self._limit = self._libraries.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_SINGLE_THREADED_BLAS = _SingleThreadedBlas()


class NumpyBackend(HostBlocks):
    """Float32 on NumPy; see `ckncuda.backend.Backend`.

    Parameters
    ----------
    threads : int, optional
        Default: as many as this process may run on.
    memory : int, optional
        Bytes for blocks of images and samples of patches.
    compiled : bool, optional
        Whether to take the inner loops that Numba compiles; by default where Numba is installed.
    """

    name = "numpy"
    dtype = np.float32

    def __init__(
        self, threads: int | None = None, memory: int | None = None, compiled: bool | None = None
    ) -> None:
        compiled = has_numba() if compiled is None else compiled
        self._compiled = compiled
        self._steps, self._search = _modules(compiled)
        self.threads = threads if threads is not None else available_threads()
        self.description = describe(self.threads, compiled)
        self.memory_budget = memory if memory is not None else DEFAULT_MEMORY
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        self._plans: weakref.WeakKeyDictionary[Layer, dict[Shape, LayerPlan]] = weakref.WeakKeyDictionary()

    def encode(self, maps: Array, layers: Sequence[Layer]) -> NDArray[np.float32]:
        """Encode maps [n, h, w, c] through all layers: a few images at a time, or one in bands of rows."""
        maps = self.asarray(maps)
        plans = self._plans_of(layers, maps.shape[1:])
        if not any(plan.in_bands for plan in plans):
            return self._encode_images(maps, plans) if plans else maps
        for plan in plans:
            maps = self._encode_bands(maps, plan) if plan.in_bands else self._encode_images(maps, [plan])
        return maps

    def _encode_images(self, maps: Array, plans: list[LayerPlan]) -> NDArray[np.float32]:
        out = np.empty((len(maps), *plans[-1].output_shape), np.float32)
        # Few images are shared out too; not by the number of threads, on which no bit may depend.
        size = max(1, min(max(plan.images_per_tile for plan in plans), len(maps) // SHARES))

        def tile(start: int) -> None:
            images = slice(start, start + size)
            self._steps.encode_images(maps[images], plans, out[images], self._buffer)

        self._run(tile, ((start,) for start in range(0, len(maps), size)))
        return out

    def _encode_bands(self, maps: Array, plan: LayerPlan) -> NDArray[np.float32]:
        out = np.empty((len(maps), *plan.output_shape), np.float32)

        def tile(image: int, band: Band) -> None:
            one = slice(image, image + 1)
            self._steps.encode_band(maps[one], plan, band, out[one, band.pooled], self._buffer)

        self._run(tile, itertools.product(range(len(maps)), plan.row_bands))
        return out

    def patch_norms(self, maps: Array, specs: Sequence[LayerSpec]) -> tuple[NDArray[np.float64], ...]:
        """Image by image."""
        if (pairs := self._compiled_pairs(maps, specs)) is not None:
            norms: tuple[NDArray[np.float64], ...]
            norms = pairs.patch_norms(maps, specs, self._run, self._buffer)
            return norms
        return plain_pairs.patch_norms(maps, specs, self._run)

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Sequence[LayerSpec],
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> NDArray[np.floating[Any]]:
        """An image, or a few, against many others at a time."""
        gram = np.empty((len(first), len(second)), first.maps.dtype)
        dark = tangent and any(have_dark_patches(images, specs[0]) for images in (first, second))
        if not dark and (pairs := self._compiled_pairs(first.maps, specs)) is not None:
            pairs.gram_block(first, second, specs, tangent, symmetric, gram, self._run, self._buffer)
        else:
            self._plain_gram_block(first, second, specs, tangent, symmetric, gram)
        if symmetric:
            mirror(gram)
        return gram

    def _plain_gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Sequence[LayerSpec],
        tangent: bool,
        symmetric: bool,
        gram: Array,
    ) -> None:
        steps = plain_pairs.steps_of(specs, first.maps.shape[1:], first.maps)

        def part(i: int, j: int) -> None:
            rows, columns = slice(i, i + PAIRS), slice(j, j + PAIRS)
            diagonal = j - i if symmetric else None
            out = gram[rows, columns]
            plain_pairs.gram_block(first[rows], second[columns], steps, tangent, out, diagonal)

        starts = itertools.product(range(0, len(first), PAIRS), range(0, len(second), PAIRS))
        self._run(part, (s for s in starts if not symmetric or s[1] >= s[0]))

    def _compiled_pairs(self, maps: Array, specs: Sequence[LayerSpec]) -> Any:
        """The module that computes such pairs with compiled loops, if it does."""
        if not self._compiled or maps.dtype != np.float32:
            return None
        module = importlib.import_module("ckncuda.backend.numpy.compiled.pairs")
        return module if module.is_compiled(specs) else None

    def sketch(self, patches: Array) -> Sketch | None:
        """What spares most products where the patches vary in few directions."""
        return sketch(np.asarray(patches, dtype=np.float32))

    def nearest_anchor(
        self, patches: Array, anchors: Array, sketch: Sketch | None = None
    ) -> tuple[NDArray[np.intp], Array]:
        """Block by block of patches."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        prepared = self._search.Anchors(np.asarray(anchors, dtype=np.float32), sketch)
        index = np.empty(len(patches), np.intp)
        cosine = np.empty(len(patches), np.float32)

        def block(start: int) -> None:
            rows = slice(start, min(start + self._search.ROWS, len(patches)))
            prepared.nearest(patches, rows, index[rows], cosine[rows], self._buffer)

        self._run(block, ((start,) for start in range(0, len(patches), self._search.ROWS)))
        return index, cosine

    def sum_by_anchor(self, patches: Array, nearest: NDArray[np.intp], anchors: int) -> Array:
        """In parts, as many for any number of threads, that are added in turn."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        size = max(1, -(-len(patches) // SUMS))
        starts = range(0, len(patches), size)
        parts: list[Array] = [np.empty(0)] * len(starts)

        def part(number: int, start: int) -> None:
            rows = slice(start, start + size)
            parts[number] = self._search.sums(patches[rows], nearest[rows], anchors)

        self._run(part, enumerate(starts))
        total = np.zeros((anchors, patches.shape[1]))
        for one in parts:
            total += one
        return total.astype(np.float32)

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """As many as the memory holds beside the tiles' workspace."""
        plans = self._plans_of(layers, shape)
        # What is read, as float32, and what is padded, even where no layer is there yet.
        per_image = 3 * 4 * math.prod(shape)
        workspace = self.threads * sum(plan.tile_bytes() for plan in plans)
        if any(plan.in_bands for plan in plans):  # whole maps, two consecutive ones at a time
            for plan in plans:
                per_image = max(per_image, 4 * (math.prod(plan.shape) + 3 * math.prod(plan.output_shape)))
        elif plans:
            per_image += 2 * 4 * math.prod(plans[-1].output_shape)
        return max(1, min(MAX_BLOCK, (self.memory_budget - workspace) // per_image))

    def asarray(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """As float32."""
        return as_float(on_host(array))

    def _plans_of(self, layers: Sequence[Layer], shape: Shape) -> list[LayerPlan]:
        plans = []
        for layer in layers:
            plans.append(self._plan(layer, shape))
            shape = plans[-1].output_shape
        return plans

    def _plan(self, layer: Layer, shape: Shape) -> LayerPlan:
        if layer.anchors.shape[3] != shape[2]:
            raise InvalidData(
                f"maps have {shape[2]} channels; the layer was learned on {layer.anchors.shape[3]}"
            )
        plans = self._plans.setdefault(layer, {})
        if shape not in plans:
            plans[shape] = self._steps.Plan(layer, shape)
        return plans[shape]

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """This thread's array of that name, kept from tile to tile: fresh pages cost more than the sums."""
        buffers: dict[str, NDArray[np.float32]] = self._local.__dict__.setdefault("buffers", {})
        size = math.prod(shape)
        if name not in buffers or buffers[name].size < size:
            buffers[name] = aligned(size)
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
            todo = collections.deque(arguments)

            def work() -> None:  # a future for each tile would cost as much as a small tile
                while todo:
                    with contextlib.suppress(IndexError):  # another thread may have taken the last one
                        function(*todo.popleft())

            futures = [self._threads().submit(work) for _ in range(self.threads)]
            try:
                for future in futures:
                    future.result()
            finally:  # after an exception, Ctrl-C too, what has not begun is dropped
                todo.clear()
                concurrent.futures.wait(futures)
