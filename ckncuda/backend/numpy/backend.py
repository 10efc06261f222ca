"""The NumPy backend: which room computes an operation, and how its work is shared among threads."""

import collections
import functools
import importlib
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.arrays import as_float, on_host
from ckncuda.backend.numpy.encode_backward import MAX_BLOCK, WayBack, Ways
from ckncuda.backend.numpy.sketch import Sketch, pays, sketch
from ckncuda.backend.numpy.threads import Threads, available_threads, single_threaded_blas, usable_cores
from ckncuda.backend.numpy.tiles import Band, LayerPlan
from ckncuda.backend.operations import (
    AnchorSearch,
    HostBlocks,
    NormedMaps,
    Specs,
    Upstream,
    block_memory,
    in_parts,
    mirror,
)
from ckncuda.backend.process_lock import ProcessLock
from ckncuda.compiled import is_installed, say_why_plain, why_not_importable
from ckncuda.errors import InvalidData
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec, check_differentiable
from ckncuda.types import Array, Index, Shape

OPERATIONS = "encode", "encode_backward", "nearest", "pairs"
SUMS = 8  # parts of a sum over patches
SHARES = 16  # at least, of images that are fewer than so many tiles
PLANS = 32  # kept, of a few networks: small beside a thread's workspace, of which there is one for all
DEFAULT_MEMORY = 2 << 30  # fixed, whatever is free: it bounds samples, and so what is learned

_PACKING = ProcessLock()


def why_plain() -> str | None:
    """Return why the plain forms compute, and what to do; None where Numba compiles the inner loops."""
    return why_not_importable(*(_name(True, operation) for operation in OPERATIONS))


def has_numba() -> bool:
    """Tell whether Numba compiles the inner loops here."""
    return why_plain() is None


def describe(threads: int, plain: str | None) -> str:
    """Say for people what computes: with plain inner loops, and why, or with compiled ones."""
    loops = "with Numba's inner loops" if plain is None else f"with plain inner loops: {plain}"
    return f"NumPy {np.__version__}, float32, {threads} thread{'s' * (threads > 1)}; {loops}"


def _name(compiled: bool, operation: str) -> str:
    return f"ckncuda.backend.numpy.{'compiled' if compiled else 'plain'}.{operation}"


def _module(compiled: bool, operation: str) -> ModuleType:
    """Return a room's module for an operation, imported when it is first needed."""
    return importlib.import_module(_name(compiled, operation))


@functools.cache
def _say_why_not_compiled(reason: str) -> None:
    logging.getLogger("ckncuda").info("An exact kernel takes array operations: %s", reason)


class NumpyBackend(HostBlocks):
    """Float32 on NumPy; see `ckncuda.backend.Backend` and, for threads and memory, `get_backend`.

    ``compiled`` says whether Numba compiles the inner loops; by default it does where it works.
    """

    name = "numpy"
    dtype = np.float32

    def __init__(
        self, threads: int | None = None, memory: int | None = None, compiled: bool | None = None
    ) -> None:
        plain = why_plain() if compiled is None else None if compiled else "it was asked for"
        if compiled is None and plain is not None and is_installed():
            say_why_plain(plain)
        self._compiled = plain is None
        self.options: dict[str, Any] = {"name": self.name, "threads": threads, "memory": memory}
        self.memory_budget = memory if memory is not None else DEFAULT_MEMORY
        self._threads = Threads(available_threads() if threads is None else min(threads, usable_cores()))
        self.description = describe(self._threads.count, plain)
        self._steps, self._nearest = (_module(self._compiled, name) for name in ("encode", "nearest"))
        self._spare: collections.deque[Array] = collections.deque(maxlen=1)
        self._way_back = functools.lru_cache(PLANS)(self._find_way_back)
        self._plan = functools.lru_cache(PLANS)(self._steps.Plan)  # of any layer of a specification
        self._packed: weakref.WeakKeyDictionary[Layer, Any] = weakref.WeakKeyDictionary()

    def each_image(self, function: Callable[[Array], Array], images: Array, size: int) -> Array:
        """Share the images among the threads."""
        out = np.empty(images.shape, np.float32)

        def some(start: int) -> None:
            out[start : start + size] = function(images[start : start + size])

        self._threads.run(some, ((start,) for start in range(0, len(images), size)))
        return out

    def encode(self, maps: Array, layers: Sequence[Layer]) -> NDArray[np.float32]:
        """Encode maps [n, h, w, c] through all layers: a few images at a time, or one in bands of rows."""
        maps = self.asarray(maps)
        plans = self._plans(layers, maps.shape[1:])
        weights = [self._weights(layer, plan) for layer, plan in zip(layers, plans, strict=True)]
        if plans and not any(plan.in_bands for plan in plans):
            return self._encode_images(maps, plans, weights)
        for plan, own in zip(plans, weights, strict=True):
            encode = self._encode_bands if plan.in_bands else self._encode_images
            maps = encode(maps, [plan], [own])
        return maps

    def _encode_images(
        self,
        maps: Array,
        plans: list[LayerPlan],
        weights: list[Any],
        out: Array | None = None,
        kept: Array | None = None,
    ) -> NDArray[np.float32]:
        """Encode to ``out``, if it is given; of a single layer, products may be ``kept``."""
        target = np.empty((len(maps), *plans[-1].output_shape), np.float32) if out is None else out
        # Few images are shared out too; not by the number of threads, on which no bit may depend.
        size = max(1, min(max(plan.images_per_tile for plan in plans), len(maps) // SHARES))

        def tile(start: int) -> None:
            images = slice(start, start + size)
            if kept is None:
                self._steps.encode_images(maps[images], plans, weights, target[images], self._threads.buffer)
                return
            buffer = self._threads.buffer
            self._steps.encode_keeping(
                maps[images], plans[0], weights[0], target[images], kept[images], buffer
            )

        self._threads.run(tile, ((start,) for start in range(0, len(maps), size)))
        return target

    def _encode_bands(self, maps: Array, plans: list[LayerPlan], weights: list[Any]) -> NDArray[np.float32]:
        (plan,), (own,) = plans, weights
        out = np.empty((len(maps), *plan.output_shape), np.float32)

        def tile(image: int, band: Band) -> None:
            one = slice(image, image + 1)
            self._steps.encode_band(maps[one], plan, own, band, out[one, band.pooled], self._threads.buffer)

        self._threads.run(tile, itertools.product(range(len(maps)), plan.row_bands))
        return out

    def encode_backward(
        self, maps: Array, layers: Sequence[Layer], upstream: Upstream, *, by_maps: bool = True
    ) -> tuple[Array | None, list[NDArray[np.float64]]]:
        """Go forward keeping the maps between layers, then back: block by block of images."""
        check_differentiable([layer.spec for layer in layers])
        maps = self.asarray(maps)
        plans = self._plans(layers, maps.shape[1:])  # raises where channels do not fit
        given = in_parts(upstream, layers, maps.shape)
        forward = [self._weights(layer, plan) for layer, plan in zip(layers, plans, strict=True)]
        ways = Ways([layer.spec for layer in layers], maps.shape[1:], self._way_back)
        back = WayBack(layers, ways, forward, self._threads, by_maps, self._spare)
        size = ways.images_per_block(block_memory(self) or self.memory_budget)
        back.make_room(min(size, len(maps)))
        by_input = np.empty(maps.shape, np.float32) if by_maps else None
        for start in range(0, len(maps), size):
            images = slice(start, min(start + size, len(maps)))
            encoded, kept = [maps[images]], []
            for number, (plan, own) in enumerate(zip(plans, forward, strict=True)):
                out, products = back.room(number, len(encoded[0]))
                if plan.in_bands:
                    products = None
                    encoded.append(self._encode_bands(encoded[-1], [plan], [own]))
                else:
                    encoded.append(self._encode_images(encoded[-1], [plan], [own], out, products))
                kept.append(products)
            with single_threaded_blas():  # which leaves no threads behind that wait for work on our cores
                gradient = self.asarray(given(encoded[-1], images))
            back.block(encoded, kept, gradient, None if by_input is None else by_input[images])
        return by_input, back.by_anchors()

    def _find_way_back(self, spec: LayerSpec, shape: Shape) -> tuple[ModuleType, Any]:
        """Return the module that goes back through a layer, and its plan: the compiled one, where it can."""
        steps = _module(self._compiled, "encode_backward")
        if not steps.computes(spec):
            steps = _module(False, "encode_backward")
        return steps, steps.Plan(spec, shape)

    def patch_norms(self, maps: Array, specs: Specs) -> tuple[NDArray[np.float64], ...]:
        """Compute the norms image by image."""
        pairs = self._pairs(maps, specs)
        norms: tuple[NDArray[np.float64], ...] = pairs.patch_norms(maps, specs, self._threads)
        return norms

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Specs,
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> Array:
        """Compare an image, or a few, with many others at a time."""
        dark = tangent and any(images.have_dark_patches(specs[0]) for images in (first, second))
        pairs = _module(False, "pairs") if dark else self._pairs(first.maps, specs)
        gram: Array = pairs.gram_block(first, second, specs, tangent, symmetric, self._threads)
        if symmetric:
            mirror(gram)
        return gram

    def _pairs(self, maps: Array, specs: Specs) -> ModuleType:
        """Return the module that computes such pairs: the compiled one, unless it refuses."""
        if self._compiled and maps.dtype == np.float32:
            compiled = _module(True, "pairs")
            reason = compiled.refusal(specs)
            if reason is None:
                return compiled
            _say_why_not_compiled(reason)
        return _module(False, "pairs")

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[Index, Array]:
        """Compare block by block of patches with all anchors."""
        return self._nearest_of(np.ascontiguousarray(patches, dtype=np.float32), None, anchors)

    def anchor_search(self, patches: Array) -> AnchorSearch:
        """Sketch the patches where they vary in few directions and are many, which spares most products."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        known: list[Sketch | None] = []

        def search(anchors: Array) -> tuple[Index, Array]:
            if not known:  # now that it is known how many anchors there are
                n, d = patches.shape
                worth = pays(n, d, len(anchors), block_memory(self) or self.memory_budget // 2)
                known.append(sketch(patches) if worth else None)
            return self._nearest_of(patches, known[0], anchors)

        return search

    def _nearest_of(self, patches: Array, known: Sketch | None, anchors: Array) -> tuple[Index, Array]:
        prepared = self._nearest.Anchors(np.asarray(anchors, dtype=np.float32), known)
        index = np.empty(len(patches), np.intp)
        cosine = np.empty(len(patches), np.float32)

        def block(start: int) -> None:
            rows = slice(start, min(start + self._nearest.ROWS, len(patches)))
            prepared.nearest(patches, rows, index[rows], cosine[rows], self._threads.buffer)

        self._threads.run(block, ((start,) for start in range(0, len(patches), self._nearest.ROWS)))
        return index, cosine

    def sum_by_anchor(self, patches: Array, nearest: Index, anchors: int) -> Array:
        """Sum in parts, as many for any number of threads, that are added in turn."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        size = max(1, -(-len(patches) // SUMS))
        parts: dict[int, Array] = {}

        def part(start: int) -> None:
            rows = slice(start, start + size)
            parts[start] = self._nearest.sums(patches[rows], nearest[rows], anchors)

        self._threads.run(part, ((start,) for start in range(0, len(patches), size)))
        total = sum((parts[start] for start in sorted(parts)), np.zeros((anchors, patches.shape[1])))
        return total.astype(np.float32)

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """Count the images that the memory holds beside the tiles' workspace."""
        self._plans(layers, shape)  # raises where channels do not fit
        workspace, per_image = self._bytes([layer.spec for layer in layers], shape)
        memory = block_memory(self) or self.memory_budget
        return max(1, min(MAX_BLOCK, (memory - workspace) // per_image))

    def bytes_at_once(
        self, specs: Sequence[LayerSpec], shape: Shape, memory: int, *, back: bool = False
    ) -> int:
        """Count the bytes of a block of images on its way through layers, where so many may be taken."""
        workspace, per_image = self._bytes(specs, shape)
        forward = workspace + per_image * max(1, min(MAX_BLOCK, (memory - workspace) // per_image))
        if not back:
            return forward
        ways = Ways(specs, shape, self._way_back)
        block = ways.bytes_per_image() * ways.images_per_block(memory)
        return max(forward, workspace + ways.workspace_bytes(self._threads.count) + block)

    def _bytes(self, specs: Sequence[LayerSpec], shape: Shape) -> tuple[int, int]:
        """Count the bytes of all threads' tiles, and of each image of a block beside them."""
        plans = self._plans_of(specs, shape)
        # What is read, as float32, and what is padded, even where no layer is there yet.
        per_image = 3 * 4 * math.prod(shape)
        workspace = self._threads.count * sum(plan.tile_bytes() for plan in plans)
        if any(plan.in_bands for plan in plans):  # whole maps, two consecutive ones at a time
            for plan in plans:
                per_image = max(per_image, 4 * (math.prod(plan.shape) + 3 * math.prod(plan.output_shape)))
        elif plans:
            per_image += 2 * 4 * math.prod(plans[-1].output_shape)
        return workspace, per_image

    def asarray(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Return the array as float32, bytes 0…255 as 0…1."""
        return as_float(on_host(array))

    def _plans(self, layers: Sequence[Layer], shape: Shape) -> list[LayerPlan]:
        channels = shape[2]
        for layer in layers:
            if layer.anchors.shape[3] != channels:
                raise InvalidData(
                    f"maps have {channels} channels; the layer was learned on {layer.anchors.shape[3]}"
                )
            channels = layer.spec.filters
        return self._plans_of([layer.spec for layer in layers], shape)

    def _plans_of(self, specs: Sequence[LayerSpec], shape: Shape) -> list[LayerPlan]:
        plans: list[LayerPlan] = []
        for spec in specs:
            plans.append(self._plan(spec, shape))
            shape = plans[-1].output_shape
        return plans

    def _weights(self, layer: Layer, plan: LayerPlan) -> Any:
        """Return what a layer has learned, packed as its plans take it, kept as long as the layer."""
        packed = self._packed.get(layer)
        if packed is None:
            with _PACKING:  # one thread packs, the others wait
                packed = self._packed.get(layer)
                if packed is None:
                    packed = self._packed[layer] = self._steps.weights_of(layer, plan)
        return packed
