"""The steps of a tile in NumPy alone: patches as rows, one product, κ in place, pooling as products."""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckncuda.backend.tiles import Band, Buffer, LayerPlan, pad

Map = NDArray[np.float32]
Plan = LayerPlan


def unpooled(maps: Map, plan: LayerPlan, band: Band, buffer: Buffer) -> Map:
    """N κ(t) at the positions that a band needs: [b, h, w, c] to [b, rows, width, filters]."""
    spec, k = plan.spec, plan.spec.patch
    b, rows, (_, width, p) = len(maps), band.length, plan.map_shape
    padded = pad(maps, spec, band.source, rows + k - 1, width + k - 1, buffer)
    norms = _norms(padded, k, rows, width).reshape(-1, 1)
    floored = np.maximum(norms, np.float32(spec.norm_floor))
    y = buffer("map", (b * rows * width, p))
    np.matmul(_patch_rows(padded, k, rows, width, buffer), plan.filters, out=y)
    y *= 1 / floored
    spec.kernel.value(y, out=y)
    y *= norms if spec.scale == "norm" else floored
    return y.reshape(b, rows, width, p)


def pooled(y: Map, plan: LayerPlan, band: Band, buffer: Buffer) -> Map:
    """A y of the band: [b, rows, width, filters] to [b, pooled rows, pooled columns, filters]."""
    b, rows, width, p = y.shape
    height, (_, columns, _) = len(band.weights), plan.output_shape
    # Rows first: that is one product an image for all columns and filters.
    y_rows = buffer("pooled rows", (b, height, width * p))
    np.matmul(band.weights, y.reshape(b, rows, width * p), out=y_rows)
    y_rows = y_rows.reshape(b * height, width, p)
    out = buffer("pooled", (b * height, columns, p))
    for c in plan.column_bands:
        np.matmul(c.weights, y_rows[:, c.source], out=out[:, c.pooled])
    return out.reshape(b, height, columns, p)


def _patch_rows(padded: Map, k: int, rows: int, width: int, buffer: Buffer) -> Map:
    """Patches as rows of a matrix [b · rows · width, k·k·c]: k copies of runs of k·c numbers."""
    b, _, _, channels = padded.shape
    matrix = buffer("patches", (b, rows, width, k, k * channels))
    runs = as_strided(  # [b, padded rows, width, k · c]: overlapping runs, one a position
        padded, (b, padded.shape[1], width, k * channels), padded.strides, writeable=False
    )
    for dy in range(k):
        matrix[:, :, :, dy] = runs[:, dy : dy + rows]
    return matrix.reshape(b * rows * width, -1)


def _norms(padded: Map, k: int, rows: int, width: int) -> Map:
    """Patch norms [b, rows, width]: a box filter over the squared norms of the positions."""
    squares = np.einsum("byxc,byxc->byx", padded, padded)
    along_x = sum(squares[:, :, dx : dx + width] for dx in range(1, k)) + squares[:, :, :width]
    box = sum(along_x[:, dy : dy + rows] for dy in range(1, k)) + along_x[:, :rows]
    norms: Map = np.sqrt(box, dtype=np.float32)
    return norms
