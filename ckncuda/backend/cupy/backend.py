"""The CUDA backend's operations: see `CupyBackend`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array import pairs as plain_pairs
from ckncuda.backend.any_array.encode_backward import Sums, add, no_sums, weights_of
from ckncuda.backend.cupy import memory as device_memory
from ckncuda.backend.cupy import nearest
from ckncuda.backend.cupy.device import Gpu, describe
from ckncuda.backend.cupy.encode import Encoder
from ckncuda.backend.cupy.encode_backward import AskedOnce, WayBack, aligned
from ckncuda.backend.cupy.encode_tiling import bytes_per_image
from ckncuda.backend.cupy.pairs import FusedPairs, fused_pairs
from ckncuda.backend.operations import AnchorSearch, NormedMaps, Specs, Upstream, in_parts, mirror
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import check_differentiable
from ckncuda.types import Shape

Array = Any  # a CuPy array, whose type is not known here

DEFAULT_MEMORY = 2 << 30  # fixed, whatever is free: it bounds samples, and so what is learned
MAX_BLOCK = 8192  # images


class CupyBackend:
    """Float32 maps on an NVIDIA GPU; see `ckncuda.backend.Backend`.

    Operations are queued on CuPy's current stream, as CuPy's own are.  Our kernels give the same bits in
    every run; the projection is cuBLAS's, which does not promise that for blocks on two streams: see the
    module `memory`.

    Parameters
    ----------
    memory : int, optional
        Bytes for blocks of images and samples of patches.
    precision : {"float32", "tf32", "bfloat16"}
        Of the products of patches and anchors; everything else is float32.

    Raises
    ------
    BackendUnavailable
        There is no usable GPU, or it does not know the precision.
    InvalidSpec
        There is no such precision.
    """

    name = "cupy"
    dtype = np.float32

    def __init__(self, memory: int | None = None, precision: str = "float32") -> None:
        self.gpu = Gpu.current(precision)
        self._cupy = self.gpu.cupy
        self.precision = precision
        self.description = describe(precision)
        self.memory_budget = memory if memory is not None else DEFAULT_MEMORY
        self.options: dict[str, Any] = {"name": self.name, "memory": memory, "precision": precision}
        self.encoder, self.way_back = Encoder(self.gpu), WayBack(self.gpu)
        self._most_images: int | None = None  # once a block did not fit the device's memory
        self._most_back: dict[Any, int] = {}  # the same on the way back, by specifications and shape
        self._pairs: dict[Any, FusedPairs | None] = {}

    def each_image(self, function: Callable[[Array], Array], images: Array, size: int) -> Array:
        """Take all at once."""
        return function(images)

    def encode(self, maps: Array, layers: Sequence[Layer]) -> Array:
        """Encode maps [n, h, w, c] that are on the device: one launch and one product a layer.

        Where the device's memory is too small for as many images, they go through in halves.
        """
        if not isinstance(maps, np.ndarray):  # what is in host memory is copied part by part
            maps = self._on_device(maps)
        halves = self._halves(maps, self._most_images)
        encoded: Array = None
        for part in halves:
            whole = part == slice(0, len(maps))
            if encoded is None and not whole:
                encoded = self._cupy.empty((len(maps), *_output_shape(layers, maps.shape[1:])), np.float32)
            with halves.attempt(part):
                of_part = self._encode_layers(maps[part], layers)
                if whole:
                    return of_part
                encoded[part] = of_part
                del of_part  # the next part needs its memory
            self._most_images = halves.most
        return encoded

    def _halves(self, maps: Array, most: int | None) -> device_memory.Halves:
        return device_memory.Halves(
            self._cupy,
            len(maps),
            lambda error: (
                f"one image of {'x'.join(map(str, maps.shape[1:]))} does not fit the GPU's "
                f"memory: {error}; use smaller images or --backend numpy"
            ),
            most,
        )

    def encode_backward(
        self, maps: Array, layers: Sequence[Layer], upstream: Upstream, *, by_maps: bool = True
    ) -> tuple[Array | None, list[NDArray[np.float64]]]:
        """Go forward keeping the maps between layers, then back: block by block of images.

        Gradients are made of products in float32, whatever the precision of the way forward.  Where the
        device's memory is too small for a block, it goes in halves.
        """
        check_differentiable([layer.spec for layer in layers])
        if not isinstance(maps, np.ndarray):
            maps = self._on_device(maps)
        given = AskedOnce(in_parts(upstream, layers, tuple(maps.shape)))
        shapes = [maps.shape[1:]]
        for layer in layers:
            shapes.append(layer.spec.output_shape(shapes[-1]))
        known = tuple(layer.spec for layer in layers), shapes[0]
        size = self.way_back.images_of(layers, shapes, self.memory_budget)
        halves = self._halves(maps, min(size, self._most_back.get(known, MAX_BLOCK), MAX_BLOCK))
        weights = [weights_of(layer, self._cupy.empty(0)) for layer in layers]
        total = no_sums(weights)
        by_input = self._cupy.empty(maps.shape, np.float32) if by_maps and not len(maps) else None

        def block(images: slice) -> list[Sums]:  # nothing of which stays where there is no memory for it
            between = [aligned(self.asarray(maps[images]))]
            for layer in layers:
                between.append(self.encoder.encode(between[-1], layer))
            gradient = self.asarray(given(between[-1], images))
            out = None if by_input is None else by_input[images]
            return self.way_back.block(between, gradient, weights, layers, self.memory_budget, out)

        for images in halves if len(maps) else ():
            with halves.attempt(images):
                if by_maps and by_input is None:
                    by_input = self._cupy.empty(maps.shape, np.float32)
                add(total, block(images))
                continue
            self._most_back[known] = halves.most or 1
        return by_input, self.way_back.by_anchors(layers, total)

    def _encode_layers(self, maps: Array, layers: Sequence[Layer]) -> Array:
        encoded = self.asarray(maps)
        for layer in layers:
            encoded = self.encoder.encode(encoded, layer)
        return encoded

    def map_blocks(
        self,
        function: Callable[[Array], Array],
        blocks: Iterable[NDArray[Any]],
        out: NDArray[Any] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Keep two blocks under way: one is copied while the other is computed; see `memory`."""
        yield from device_memory.map_blocks(
            self._cupy, lambda block: function(self.asarray(block)), blocks, out
        )

    def anchor_search(self, patches: Array) -> AnchorSearch:
        """Compute all products: the tensor cores are faster than a choice."""
        here = self.asarray(patches)
        return lambda anchors: nearest.nearest_anchor(self.gpu, here, self.asarray(anchors))

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[Array, Array]:
        """Multiply and compare in one kernel."""
        return nearest.nearest_anchor(self.gpu, self.asarray(patches), self.asarray(anchors))

    def sum_by_anchor(self, patches: Array, nearest_anchors: Array, anchors: int) -> Array:
        """Sum in the order of a stable sort, without atomics: the same patches give the same bits."""
        numbers = self._cupy.asarray(nearest_anchors, np.int64)
        return nearest.sum_by_anchor(self.gpu, self.asarray(patches), numbers, anchors)

    def patch_norms(self, maps: Array, specs: Specs) -> tuple[NDArray[np.float64], ...]:
        """Compute them from each image's pairs of positions; what has no fused form, in the host's memory."""
        fused = self.fused_pairs(maps, specs, tangent=False)
        if fused is None:
            return plain_pairs.patch_norms(maps, specs, _one_by_one)
        return fused.norms(maps, self._memory_for_pairs())

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Specs,
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> NDArray[np.floating[Any]]:
        """Launch a kernel a layer for many pairs; float64 and what has no fused form by array operations."""
        fused = self.fused_pairs(first.maps, specs, tangent)
        dark = tangent and any(images.have_dark_patches(specs[0]) for images in (first, second))
        if fused is not None and not dark:
            return fused.gram(first, second, symmetric, self._memory_for_pairs())
        like = self._cupy.empty(0, first.maps.dtype)
        steps = plain_pairs.steps_of(specs, first.maps.shape[1:], like)
        out = self._cupy.zeros((len(first), len(second)), like.dtype)
        plain_pairs.gram_block(first, second, steps, tangent, out, 0 if symmetric else None)
        gram = self.to_host(out)
        if symmetric:
            mirror(gram)
        return gram

    def fused_pairs(self, maps: NDArray[Any], specs: Specs, tangent: bool) -> FusedPairs | None:
        """Return the fused form of exact kernels of images such as these, or None: there is none."""
        key = tuple(specs), maps.shape[1:], maps.dtype.name, tangent
        if key not in self._pairs:
            self._pairs[key] = fused_pairs(self.gpu, *key)
        return self._pairs[key]

    def _memory_for_pairs(self) -> int:
        return min(self.memory_budget, self._free_bytes() // 2)

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """Count what half of what is free and `memory_budget` hold, twice: two blocks are under way."""
        per_image = 3 * 4 * int(np.prod(shape))
        for layer in layers:
            per_image = max(per_image, bytes_per_image(layer.spec, shape))
            shape = layer.spec.output_shape(shape)
        block: int = min(self.memory_budget, self._free_bytes() // 2) // 2 // per_image
        return max(1, min(MAX_BLOCK, block, self._most_images or MAX_BLOCK))

    def bytes_at_once(self, specs: Specs, shape: Shape, memory: int, *, back: bool = False) -> int:
        """Return all that it may take: two blocks of images and of results are pinned."""
        return memory

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Make an array on the device, unless it would take more than half of what is free there."""
        on_device = 2 * 4 * int(np.prod(shape)) <= self._free_bytes()
        return (self._cupy if on_device else np).empty(shape, np.float32)

    def _free_bytes(self) -> int:
        return device_memory.free_bytes(self._cupy)

    def asarray(self, array: Any) -> Array:
        """Bring an array to the device as float32; what is there, CuPy's or by DLPack, is not copied."""
        array = self._on_device(array)
        scaled = array.dtype == np.uint8
        array = self._cupy.ascontiguousarray(array, dtype=np.float32)
        if scaled:
            array /= np.float32(255)
        return array

    def _on_device(self, array: Any) -> Array:
        """Bring an array to the device as it is."""
        if not isinstance(array, np.ndarray | self._cupy.ndarray) and hasattr(array, "__dlpack__"):
            return self._cupy.from_dlpack(array)
        return self._cupy.asarray(array)

    def wait(self) -> None:
        """Return when the device has nothing left to do."""
        self._cupy.cuda.Device().synchronize()

    def to_host(self, array: Array) -> NDArray[Any]:
        """Bring an array back as a NumPy array; waits for what is queued."""
        host: NDArray[Any] = self._cupy.asnumpy(array)
        return host


def _output_shape(layers: Sequence[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = layer.spec.output_shape(shape)
    return shape


def _one_by_one(function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    for a in arguments:
        function(*a)
