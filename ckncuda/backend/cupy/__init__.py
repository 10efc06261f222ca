"""The CUDA backend: the kernels of ``kernels/`` through CuPy, and everything about their launches.

Imported only once a GPU is asked for; importing it needs neither CuPy nor a GPU.
"""

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array import pairs as plain_pairs
from ckncuda.backend.any_array.encode import encode_whole_maps
from ckncuda.backend.cupy import encode as cuda_layer
from ckncuda.backend.cupy import pair_tiling as cuda_pair_tiling
from ckncuda.backend.cupy import pairs as cuda_pairs
from ckncuda.backend.cupy.encode import ANCHORS, PATCHES, STRIDE, TERMS, THREADS, WORDS, Tiling
from ckncuda.backend.cupy.memory import map_blocks
from ckncuda.backend.operations import NormedMaps, mirror
from ckncuda.errors import BackendUnavailable, InvalidData, InvalidSpec, OutOfMemory
from ckncuda.kernels import source
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = Any  # a CuPy array, whose type is not known here

DEFAULT_MEMORY = 2 << 30  # fixed, whatever is free: it bounds samples, and so what is learned
MAX_BLOCK = 8192  # images
TENSOR_CORES = 80  # compute capability from which they know TF32 and bfloat16

PRECISIONS = {"float32": "Tf32x3", "tf32": "Tf32", "bfloat16": "Bf16"}
"""C++ names of the precisions; before `TENSOR_CORES`, float32 is ``Fma`` and the others do not exist."""


@functools.cache
def why_unavailable() -> str | None:
    """Why the CUDA backend cannot run on this machine, and what to do; None when it can.

    Asked lazily, never at import: a CUDA context made before a fork breaks the child processes.
    """
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; with an NVIDIA GPU, install it with: pip install 'ckncuda[cuda13]'"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine (libcuda.so.1 was not found); use --backend numpy"
    try:  # a broken CuPy has many ways to say so
        import cupy

        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"CUDA finds no usable GPU ({type(error).__name__}: {error}); use --backend numpy"
    if devices == 0:
        return "CUDA finds no GPU; use --backend numpy"
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return f"CuPy finds no compiler for kernels, NVRTC ({error}); pip install nvidia-cuda-nvrtc"
    return None


def describe(precision: str = "float32") -> str:
    """What computes, for people; only where `why_unavailable` finds nothing."""
    import cupy

    device = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    memory = device.mem_info[1] / 2**30
    return f"CuPy {cupy.__version__}, {precision}, {name} with {memory:.0f} GiB"


def compute_capability() -> int:
    """Of the current device: 75 for 7.5."""
    import cupy

    return int(cupy.cuda.Device().compute_capability)


@dataclass(frozen=True)
class _PreparedLayer:
    """A layer's numbers on the device, laid out for inputs of one shape."""

    tiling: Tiling | None
    arrays: tuple[Array, ...]  # anchors, offsets, parameters of κ, weights of the pooling
    projection: Array  # Wᵀ


class CupyBackend:
    """Float32 maps on an NVIDIA GPU; see `ckncuda.backend.Backend`.

    Operations are queued on CuPy's current stream, as CuPy's own are.

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
        if precision not in PRECISIONS:
            raise InvalidSpec(
                f"there is no precision {precision!r}; the precisions are {', '.join(PRECISIONS)}"
            )
        if reason := why_unavailable():
            raise BackendUnavailable(f"the backend cupy cannot run here: {reason}")
        import cupy

        self._cupy = cupy
        device = cupy.cuda.Device()
        capability = compute_capability()
        self._precision = PRECISIONS[precision]
        if capability < TENSOR_CORES:
            if precision != "float32":
                raise BackendUnavailable(
                    f"the precision {precision} needs compute capability 8.0 or newer; this GPU has "
                    f"{capability / 10}: use float32"
                )
            self._precision = "Fma"
        self.precision = precision
        self.description = describe(precision)
        self.memory_budget = memory if memory is not None else DEFAULT_MEMORY
        self._multiprocessors = device.attributes["MultiProcessorCount"]
        self._shared_limit = device.attributes["MaxSharedMemoryPerBlockOptin"]
        self._most_images: int | None = None  # once a block did not fit the device's memory
        self._in_block = False  # `map_blocks` itself sees to it that a block fits
        self._layers: weakref.WeakKeyDictionary[Layer, dict[Shape, _PreparedLayer]] = (
            weakref.WeakKeyDictionary()
        )
        self._pairs: dict[Any, cuda_pairs.PairKernels | None] = {}

    def encode(self, maps: Array, layers: Sequence[Layer]) -> Array:
        """Encode maps [n, h, w, c] that are on the device: one launch and one product a layer.

        Where the device's memory is too small for as many images, they go through in halves.
        """
        if not isinstance(maps, np.ndarray):  # what is in host memory is copied part by part
            maps = self._on_device(maps)
        return self._encode_layers(maps, layers) if self._in_block else self._encode_in_parts(maps, layers)

    def _encode_in_parts(self, maps: Array, layers: Sequence[Layer]) -> Array:
        images = len(maps)
        if self._most_images is not None and images > self._most_images:
            return self._in_halves(maps, layers)
        try:
            return self._encode_layers(maps, layers)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            if images <= 1:
                raise OutOfMemory(
                    f"one image of {'x'.join(map(str, maps.shape[1:]))} does not fit the GPU's memory: "
                    f"{error}; use smaller images or --backend numpy"
                ) from error
            self._most_images = images // 2
        # Outside of the handler, which keeps what did not fit alive.
        self._cupy.get_default_memory_pool().free_all_blocks()
        return self._in_halves(maps, layers)

    def _encode_layers(self, maps: Array, layers: Sequence[Layer]) -> Array:
        encoded = self.asarray(maps)
        for layer in layers:
            encoded = self._encode_layer(encoded, layer)
        return encoded

    def _in_halves(self, maps: Array, layers: Sequence[Layer]) -> Array:
        half, shape = -(-len(maps) // 2), maps.shape[1:]
        for layer in layers:
            shape = layer.spec.output_shape(shape)
        encoded = self._cupy.empty((len(maps), *shape), np.float32)
        for part in (slice(0, half), slice(half, None)):
            encoded[part] = self._encode_in_parts(maps[part], layers)
        return encoded

    def _encode_layer(self, maps: Array, layer: Layer) -> Array:
        images, spec = len(maps), layer.spec
        if layer.anchors.shape[3] != maps.shape[3]:
            raise InvalidData(
                f"maps have {maps.shape[3]} channels; the layer was learned on {layer.anchors.shape[3]}"
            )
        prepared = self._prepared(layer, maps.shape[1:])
        if prepared.tiling is None:
            pooled = encode_whole_maps(maps, layer)
        else:
            pooled = self._cupy.empty((images, *spec.output_shape(maps.shape[1:])), np.float32)
            if images:
                self._launch_encode(maps, pooled, layer, prepared, prepared.tiling)
        projected = self._cupy.matmul(pooled.reshape(-1, spec.filters), prepared.projection)
        return projected.reshape(pooled.shape)

    def _launch_encode(
        self, maps: Array, pooled: Array, layer: Layer, prepared: _PreparedLayer, laid_out: Tiling
    ) -> None:
        spec, images = layer.spec, len(maps)
        if laid_out.channels % 4 == 0 and maps.data.ptr % 16:  # another library's, not as its copies need it
            maps = maps.copy()
        tile_rows = laid_out.tile_rows(images, self._multiprocessors)
        kernel = self._kernel("encode", self._precision, str(spec.kernel.device_name))
        self._launch(
            kernel,
            (laid_out.blocks(images, tile_rows),),
            (THREADS,),
            laid_out.shared_bytes(self._precision),
            maps,
            pooled,
            *prepared.arrays,
            *laid_out.arguments(tile_rows, images),
            np.float32(spec.norm_floor),
            np.int32(spec.scale == "floored_norm"),
        )

    def map_blocks(
        self,
        function: Callable[[Array], Array],
        blocks: Iterable[NDArray[Any]],
        out: NDArray[Any] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Two blocks under way: one is copied while the other is computed; see `cuda_blocks`."""

        def whole(block: Array) -> Array:
            self._in_block = True
            try:
                return function(self.asarray(block))
            finally:
                self._in_block = False

        yield from map_blocks(self._cupy, whole, blocks, out)

    def anchor_search(self, patches: Array) -> Callable[[Array], tuple[Array, Array]]:
        """Prepare nothing: the tensor cores are faster with all products than a choice."""
        return functools.partial(self.nearest_anchor, patches)

    def nearest_anchor(self, patches: Array, anchors: Array) -> tuple[Array, Array]:
        """Product and comparison in one kernel."""
        cupy = self._cupy
        patches, anchors = self.asarray(patches), self.asarray(anchors)
        count, size = patches.shape
        clusters = len(anchors)
        nearest, cosine = cupy.empty(count, np.int64), cupy.empty(count, np.float32)
        width = -(-clusters // ANCHORS) * ANCHORS
        terms = cupy.zeros((1, size, width), np.float32)
        terms[0, :, :clusters] = anchors.T
        words = WORDS[self._precision] * STRIDE
        shared = 4 * (2 * PATCHES * (TERMS + 4) + 2 * words + PATCHES * (ANCHORS + 1) + PATCHES + TERMS)
        if count:
            self._launch(
                self._kernel("nearest_anchor", self._precision),
                (-(-count // PATCHES),),
                (THREADS,),
                shared,
                patches if size % 4 or patches.data.ptr % 16 == 0 else patches.copy(),
                cuda_layer.packed_terms(terms, self._precision),
                nearest,
                cosine,
                np.int64(count),
                np.int32(size),
                np.int32(clusters),
            )
        return nearest, cosine

    def sum_by_anchor(self, patches: Array, nearest: Array, anchors: int) -> Array:
        """In the order of a stable sort by anchor: without atomics, the same patches give the same bits."""
        cupy = self._cupy
        patches, nearest = self.asarray(patches), cupy.asarray(nearest, np.int64)
        size = patches.shape[1]
        order = cupy.argsort(nearest, kind="stable").astype(np.int64)
        start = cupy.searchsorted(nearest[order], cupy.arange(anchors + 1)).astype(np.int64)
        sums = cupy.empty((anchors, size), np.float32)
        lanes, warps = 32, 8
        self._launch(
            self._kernel("sum_by_anchor"),
            (anchors, -(-size // lanes)),
            (lanes * warps,),
            8 * lanes * warps,
            patches,
            order,
            start,
            sums,
            np.int32(size),
        )
        return sums

    def patch_norms(self, maps: Array, specs: Sequence[LayerSpec]) -> tuple[NDArray[np.float64], ...]:
        """From each image's pairs of positions; of what has no fused form, in the host's memory."""
        kernels = self._pair_kernels(maps, specs, tangent=False)
        if kernels is None:
            return plain_pairs.patch_norms(maps, specs, _one_by_one)
        return kernels.norms(maps, self._memory_for_pairs())

    def gram_block(
        self,
        first: NormedMaps,
        second: NormedMaps,
        specs: Sequence[LayerSpec],
        *,
        tangent: bool = False,
        symmetric: bool = False,
    ) -> NDArray[np.floating[Any]]:
        """A launch a layer for many pairs; by array operations in float64 and what has no fused form."""
        kernels = self._pair_kernels(first.maps, specs, tangent)
        dark = tangent and any(images.have_dark_patches(specs[0]) for images in (first, second))
        if kernels is not None and not dark:
            return kernels.gram(first, second, symmetric, self._memory_for_pairs())
        like = self._cupy.empty(0, first.maps.dtype)
        steps = plain_pairs.steps_of(specs, first.maps.shape[1:], like)
        out = self._cupy.zeros((len(first), len(second)), like.dtype)
        plain_pairs.gram_block(first, second, steps, tangent, out, 0 if symmetric else None)
        gram = self.to_host(out)
        if symmetric:
            mirror(gram)
        return gram

    def _pair_kernels(
        self, maps: NDArray[Any], specs: Sequence[LayerSpec], tangent: bool
    ) -> cuda_pairs.PairKernels | None:
        """The fused form of exact kernels, or None: there is none."""
        key = tuple(specs), maps.shape[1:], maps.dtype.name, tangent
        if key not in self._pairs:
            self._pairs[key] = self._prepare_pairs(*key)
        return self._pairs[key]

    def _prepare_pairs(
        self, specs: tuple[LayerSpec, ...], shape: Shape, dtype: str, tangent: bool
    ) -> cuda_pairs.PairKernels | None:
        laid_out: Any = f"the fused kernels compute in float32, not in {dtype}"
        if dtype == "float32":
            laid_out = cuda_pair_tiling.tilings(specs, shape, tangent, self._shared_limit)
        if isinstance(laid_out, str):
            logging.getLogger("ckncuda").info("An exact kernel takes array operations: %s", laid_out)
            return None
        # Whatever the precision of `encode`: an exponential makes too much of the error of TF32's cosines.
        halves = self._precision != "Fma"

        def launch(
            operation: str, parameters: Sequence[str], blocks: int, shared: int, *arguments: Any
        ) -> None:
            kernel = self._kernel(operation, *parameters)
            self._launch(kernel, (blocks,), (THREADS,), shared, *arguments)

        return cuda_pairs.PairKernels(self._cupy, specs, laid_out, shape, tangent, halves, launch)

    def _memory_for_pairs(self) -> int:
        return min(self.memory_budget, self._free_bytes() // 2)

    def images_per_block(self, layers: Sequence[Layer], shape: Shape) -> int:
        """As many as half of what is free and `memory_budget` hold, twice: two blocks are under way."""
        per_image = 3 * 4 * int(np.prod(shape))
        for layer in layers:
            per_image = max(per_image, cuda_layer.bytes_per_image(layer.spec, shape))
            shape = layer.spec.output_shape(shape)
        block: int = min(self.memory_budget, self._free_bytes() // 2) // 2 // per_image
        return max(1, min(MAX_BLOCK, block, self._most_images or MAX_BLOCK))

    def empty(self, shape: tuple[int, ...]) -> Array:
        """On the device, unless it would take more than half of what is free there."""
        on_device = 2 * 4 * int(np.prod(shape)) <= self._free_bytes()
        return (self._cupy if on_device else np).empty(shape, np.float32)

    def _free_bytes(self) -> int:
        pool = self._cupy.get_default_memory_pool()
        return int(self._cupy.cuda.Device().mem_info[0] + pool.free_bytes())

    def asarray(self, array: Any) -> Array:
        """As float32 on the device; what is there, CuPy's or any library's with DLPack, is not copied."""
        array = self._on_device(array)
        scaled = array.dtype == np.uint8
        array = self._cupy.ascontiguousarray(array, dtype=np.float32)
        if scaled:
            array /= np.float32(255)
        return array

    def _on_device(self, array: Any) -> Array:
        """As it is, on the device."""
        if not isinstance(array, np.ndarray | self._cupy.ndarray) and hasattr(array, "__dlpack__"):
            return self._cupy.from_dlpack(array)
        return self._cupy.asarray(array)

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        self._cupy.cuda.Device().synchronize()

    def to_host(self, array: Array) -> NDArray[Any]:
        """As a NumPy array; waits for what is queued."""
        host: NDArray[Any] = self._cupy.asnumpy(array)
        return host

    def _prepared(self, layer: Layer, shape: Shape) -> _PreparedLayer:
        layers = self._layers.setdefault(layer, {})
        if shape not in layers:
            layers[shape] = self._prepare(layer, shape)
        return layers[shape]

    def _prepare(self, layer: Layer, shape: Shape) -> _PreparedLayer:
        cupy = self._cupy
        projection = cupy.asarray(np.ascontiguousarray(layer.projection.T, dtype=np.float32))
        laid_out = cuda_layer.tiling(layer.spec, shape, self._precision, self._shared_limit)
        if isinstance(laid_out, str):
            logging.getLogger("ckncuda").info("A layer takes array operations: %s", laid_out)
            return _PreparedLayer(None, (), projection)
        arrays = (
            cuda_layer.packed_anchors(layer, laid_out, self._precision),
            laid_out.offsets(),
            np.array(layer.spec.kernel.device_parameters() or (0,), np.float32),
            cuda_layer.pooling_weights(layer.spec, shape),
        )
        prepared = _PreparedLayer(laid_out, tuple(map(cupy.asarray, arrays)), projection)
        cupy.cuda.get_current_stream().synchronize()  # other streams will read it
        return prepared

    def _kernel(self, operation: str, *parameters: str) -> Any:
        """An instantiation of a kernel; CuPy keeps it compiled on disk."""
        return _compiled(operation, f"{operation}<{', '.join(parameters)}>" if parameters else operation)

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], shared: int, *arguments: Any
    ) -> None:
        if kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel(grid, block, arguments, shared_mem=shared)


def _one_by_one(function: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    for a in arguments:
        function(*a)


@functools.cache
def _compiled(operation: str, instantiation: str) -> Any:
    import cupy

    code = source(operation)
    _announce(f"{cupy.__version__} {compute_capability()} {instantiation} {code}")
    module = cupy.RawModule(code=code, options=("--std=c++17",), name_expressions=(instantiation,))
    return module.get_function(instantiation)


def _announce(what: str) -> None:
    """Say that something will take longer, unless CuPy's folder of compiled kernels has a mark of this."""
    folder = Path(os.environ.get("CUPY_CACHE_DIR", Path.home() / ".cupy" / "kernel_cache"))
    mark = folder / f"ckncuda-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    if mark.exists():
        return
    logging.getLogger("ckncuda").info("Compiling CUDA kernels: a few seconds, at the first use of each kind")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # a folder that cannot be written to costs the message each time, no more
        pass
