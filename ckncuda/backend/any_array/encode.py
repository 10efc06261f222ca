"""A layer through whole maps: array operations alone, for what has no fused CUDA kernel."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array.patches import flat_patches
from ckncuda.layer.layer import Layer

AT_ONCE = 256 << 20  # bytes of maps


def encode_whole_maps(maps: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Compute pooled maps [n, h', w', filters] before the projection, of float32 maps [n, h, w, c]."""
    spec = layer.spec
    height, width, filters = spec.map_shape(maps.shape[1:])
    anchors = np.asarray(layer.anchors.reshape(filters, -1).astype(np.float32), like=maps)
    rows, columns = (
        np.asarray(weights.astype(np.float32), like=maps) for weights in spec.pooling_matrices(maps.shape[1:])
    )
    pooled = np.empty_like(maps, shape=(len(maps), len(rows), len(columns), filters))
    per_image = 4 * height * width * (2 * math.prod(layer.anchors.shape[1:]) + 3 * filters)
    step = max(1, AT_ONCE // per_image)
    for start in range(0, len(maps), step):
        some = _unpooled(maps[start : start + step], layer, anchors)
        some = np.matmul(columns, some.reshape(-1, width, filters))
        some = np.matmul(rows, some.reshape(-1, height, len(columns) * filters))
        pooled[start : start + step] = some.reshape(-1, *pooled.shape[1:])
    return pooled


def _unpooled(maps: NDArray[Any], layer: Layer, anchors: NDArray[Any]) -> NDArray[Any]:
    """Compute n(u) κ(t_j(u)) of every position: [n · h · w, filters]."""
    spec = layer.spec
    patches = flat_patches(maps, spec).reshape(-1, anchors.shape[1])
    norms = np.sqrt(np.einsum("ij,ij->i", patches, patches))[:, None]
    floored = np.maximum(norms, np.float32(spec.norm_floor))
    cosines = np.matmul(patches, anchors.T)
    cosines /= floored
    unpooled = spec.kernel.value(cosines, out=cosines)
    unpooled *= norms if spec.scale == "norm" else floored
    return unpooled
