"""The steps of a tile with Numba's inner loops: Winograd's algorithm where it pays, κ in one pass."""

import functools
import logging

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import compiled
from ckncuda.backend.tiles import Band, Buffer, LayerPlan, pad
from ckncuda.backend.winograd import TILE
from ckncuda.dot_product import Exponential
from ckncuda.layer import Layer, Shape

Map = NDArray[np.float32]


class Plan(LayerPlan):
    """A plan that pools with the taps alone."""

    winograd_channels = 16

    def __init__(self, layer: Layer, shape: Shape) -> None:
        super().__init__(layer, shape)
        columns = layer.spec.pooling_matrices(shape)[1].astype(np.float32)
        self.column_taps = _taps(columns)
        self.row_taps = {band.pooled.start: _taps(band.weights) for band in self.row_bands}


def unpooled(maps: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    """Norm times κ(t) at the positions that a band needs: [b, h, w, c] to [b, rows, width, filters]."""
    _announce_compilation()
    spec, k = plan.spec, plan.spec.patch
    b, rows, (_, width, p) = len(maps), band.length, plan.map_shape
    side = TILE if plan.winograd else 1
    height, breadth = -(-rows // side) * side, -(-width // side) * side
    padded = pad(maps, spec, band.source, height + k - 1, breadth + k - 1, buffer)
    norms = buffer("norms", (b, rows, width))
    compiled.patch_norms(padded, k, norms)
    floored = np.maximum(norms, np.float32(spec.norm_floor))
    factor = norms if spec.scale == "norm" else floored
    y = buffer("map", (b, rows, width, p))
    exponential = isinstance(spec.kernel, Exponential)
    # exp(α (product / norm − 1)) is exp(scale · product + shift).
    alpha = np.float32(spec.kernel.alpha if isinstance(spec.kernel, Exponential) else 1)
    scale = alpha / floored
    shift = np.broadcast_to(-alpha, norms.shape)
    if plan.winograd:
        tiles = b * (height // side) * (breadth // side)
        v = buffer("transformed", (36, tiles, maps.shape[3]))
        compiled.winograd_input(padded, v)
        m = buffer("products", (36, tiles, p))
        np.matmul(v, plan.transformed, out=m)
        compiled.winograd_output(m, y, scale, shift, factor, exponential)
    else:
        patches = buffer("patches", (b, rows, width, k * k * maps.shape[3]))
        compiled.patch_rows(padded, k, patches)
        flat = y.reshape(-1, p)
        np.matmul(patches.reshape(len(flat), -1), plan.filters, out=flat)
        if exponential:
            compiled.exponential(flat, scale.ravel(), shift.ravel(), factor.ravel())
    if not exponential:
        y *= scale[..., None]
        if plan.winograd:  # its rounding is that of the brightest patch nearby, not of the patch itself
            np.clip(y, -1, 1, out=y)
        spec.kernel.value(y, out=y)
        y *= factor[..., None]
    return y


@functools.cache
def _announce_compilation() -> None:
    """Say, once and only when it is about to happen, that the first tile will take longer."""
    if compiled.needs_compilation():
        logging.getLogger("ckncuda").info(
            "Compiling the inner loops with Numba: ten seconds or so, at the first use after an installation"
        )


def pooled(y: Map, plan: Plan, band: Band, buffer: Buffer) -> Map:
    """A y of the band: [b, rows, width, filters] to [b, pooled rows, pooled columns, filters]."""
    out = buffer("pooled", (len(y), len(band.weights), plan.output_shape[1], y.shape[3]))
    compiled.pool(y, *plan.row_taps[band.pooled.start], *plan.column_taps, out)
    return out


def _taps(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The non-zero part of each row: weights [rows, taps], the first position and the number of each."""
    first = np.array([np.flatnonzero(row)[0] if row.any() else 0 for row in matrix])
    last = np.array([np.flatnonzero(row)[-1] if row.any() else 0 for row in matrix])
    count = last - first + 1
    weights = np.zeros((len(matrix), int(count.max())), np.float32)
    for i, row in enumerate(matrix):
        weights[i, : count[i]] = row[first[i] : last[i] + 1]
    return weights, first.astype(np.int64), count.astype(np.int64)
