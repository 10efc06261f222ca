"""Layers on a GPU: what ``kernels/encode.cu`` is given, and its launches.

A *plan* depends on a layer's geometry, its κ and the shape of its input: it is kept by value. What is
learned is packed once a layer, and forgotten with it. So a layer that changes at every step of a training
is packed anew, but never planned anew.
"""

import functools
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.encode import encode_whole_maps
from ckncuda.backend.cupy.device import Gpu
from ckncuda.backend.cupy.encode_tiling import Tiling, pooling_weights, tiling
from ckncuda.backend.cupy.product import ANCHORS, THREADS, packed_terms
from ckncuda.errors import InvalidData
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec
from ckncuda.types import Shape

Array = Any  # a CuPy array, whose type is not known here

PLANS = 256  # kept: of a few networks on images of a few shapes
LAUNCHES = 16  # kept of a plan: blocks of images are of one size, but for the last one of each run
LEAST_SHARED = 64 << 10  # bytes that a block may have on compute capability 7.5, the oldest


def unfused_reason(spec: LayerSpec, shape: Shape) -> str | None:
    """Say why a layer takes array operations on a GPU, for an input (height, width, channels).

    None: it is fused on any GPU. What is not may still be on one with more shared memory.
    """
    laid_out = tiling(spec, shape, "Tf32x3", LEAST_SHARED)
    return laid_out if isinstance(laid_out, str) else None


def packed_anchors(layer: Layer, laid_out: Tiling, precision: str) -> NDArray[np.uint32]:
    """Pack a layer's anchors [slabs, parts, stages, words, ANCHORS] as ``encode`` reads them."""
    t = laid_out
    positions = t.patch_height * t.patch_width
    anchors = np.zeros((t.slabs * ANCHORS, positions, t.parts * t.part), np.float32)
    anchors[: t.filters, :, : t.channels] = layer.anchors.reshape(t.filters, positions, t.channels)
    in_parts = anchors.reshape(t.slabs * ANCHORS, positions, t.parts, t.part).transpose(2, 1, 3, 0)
    return packed_terms(in_parts.reshape(t.parts, positions * t.part, t.slabs * ANCHORS), precision)


@dataclass(frozen=True)
class _Launch:
    """All that a launch takes but arrays: made once for so many images, since it takes longer than it."""

    grid: tuple[int]
    shared: int
    numbers: tuple[np.generic, ...]


@dataclass(frozen=True)
class _Plan:
    """Arrays that layers of one specification share for inputs of one shape, on the device."""

    tiling: Tiling | None  # None: array operations
    offsets: Array
    parameters: Array  # of κ
    weights: Array  # of the pooling
    launch: Callable[[int], _Launch] | None  # for so many images


@dataclass(frozen=True)
class _Packed:
    """Anchor points and projection of a layer, on the device."""

    anchors: Array  # None: array operations
    projection: Array  # Wᵀ


class Encoder:
    """Layers of networks on one device: their plans, their packed weights, their launches."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._plan = functools.lru_cache(PLANS)(self._new_plan)
        self._packed: weakref.WeakKeyDictionary[Layer, dict[Shape, _Packed]] = weakref.WeakKeyDictionary()

    def encode(self, maps: Array, layer: Layer) -> Array:
        """Carry float32 maps [n, h, w, c] through a layer: one launch and one product."""
        spec, shape = layer.spec, maps.shape[1:]
        if layer.anchors.shape[3] != shape[2]:
            raise InvalidData(
                f"maps have {shape[2]} channels; the layer was learned on {layer.anchors.shape[3]}"
            )
        plan, packed = self.prepare(layer, shape)
        if plan.tiling is None:
            pooled = encode_whole_maps(maps, layer)
        else:
            pooled = self._gpu.cupy.empty((len(maps), *spec.output_shape(shape)), np.float32)
            if len(maps):
                self._launch(maps, pooled, spec, plan, plan.tiling, packed.anchors)
        projected = self._gpu.cupy.matmul(pooled.reshape(-1, spec.filters), packed.projection)
        return projected.reshape(pooled.shape)

    def _launch(
        self, maps: Array, pooled: Array, spec: LayerSpec, plan: _Plan, laid_out: Tiling, anchors: Array
    ) -> None:
        if laid_out.channels % 4 == 0 and maps.data.ptr % 16:  # another library's, not as its copies need it
            maps = maps.copy()
        assert plan.launch is not None
        launch = plan.launch(len(maps))
        self._gpu.launch(
            "encode",
            (self._gpu.products, str(spec.kernel.device_name)),
            launch.grid,
            THREADS,
            launch.shared,
            *(maps, pooled, anchors, plan.offsets, plan.parameters, plan.weights),
            *launch.numbers,
        )

    def _launch_of(self, spec: LayerSpec, laid_out: Tiling, images: int) -> _Launch:
        tile_rows = laid_out.tile_rows(images, self._gpu.multiprocessors)
        floor, floored = np.float32(spec.norm_floor), np.int32(spec.scale == "floored_norm")
        return _Launch(
            (laid_out.blocks(images, tile_rows),),
            laid_out.shared_bytes(self._gpu.products),
            (*laid_out.arguments(tile_rows, images), floor, floored),
        )

    def prepare(self, layer: Layer, shape: Shape) -> tuple[_Plan, _Packed]:
        """Bring a layer to the device, for inputs of a shape, unless it is there: any stream may read it."""
        plan, packed = self._plan(layer.spec, shape), self._packed.setdefault(layer, {})
        if shape not in packed:
            packed[shape] = self._pack(layer, plan.tiling)
            self._gpu.cupy.cuda.get_current_stream().synchronize()  # other streams will read it, and the plan
        return plan, packed[shape]

    def _new_plan(self, spec: LayerSpec, shape: Shape) -> _Plan:
        laid_out = tiling(spec, shape, self._gpu.products, self._gpu.shared_limit)
        if isinstance(laid_out, str):
            logging.getLogger("ckncuda").info("A layer takes array operations: %s", laid_out)
            return _Plan(None, None, None, None, None)
        parameters = np.array(spec.kernel.device_parameters() or (0,), np.float32)
        arrays = laid_out.offsets(), parameters, pooling_weights(spec, shape)
        offsets, parameters, weights = map(self._gpu.cupy.asarray, arrays)
        launch = functools.lru_cache(LAUNCHES)(functools.partial(self._launch_of, spec, laid_out))
        return _Plan(laid_out, offsets, parameters, weights, launch)

    def _pack(self, layer: Layer, laid_out: Tiling | None) -> _Packed:
        cupy = self._gpu.cupy
        projection = cupy.asarray(np.ascontiguousarray(layer.projection.T, dtype=np.float32))
        if laid_out is None:
            return _Packed(None, projection)
        return _Packed(cupy.asarray(packed_anchors(layer, laid_out, self._gpu.products)), projection)
