"""The steps of a tile in NumPy alone: products of patches or of Winograd's tiles, κ in place, pooling."""

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ckncuda.backend.tiles import Band, Buffer, LayerPlan, pad
from ckncuda.backend.winograd import INPUT, OUTPUT, SPAN, TILE
from ckncuda.dot_product import Exponential

Map = NDArray[np.float32]
Plan = LayerPlan


def unpooled(maps: Map, plan: LayerPlan, band: Band, buffer: Buffer) -> Map:
    """Norm times κ(t) at the positions that a band needs: [b, h, w, c] to [b, rows, width, filters]."""
    spec, k = plan.spec, plan.spec.patch
    b, rows, (_, width, p) = len(maps), band.length, plan.map_shape
    side = TILE if plan.winograd else 1
    height, breadth = -(-rows // side) * side, -(-width // side) * side
    padded = pad(maps, spec, band.source, height + k - 1, breadth + k - 1, buffer)
    norms = _norms(padded, k, rows, width)[..., None]
    floored = np.maximum(norms, np.float32(spec.norm_floor))
    factor = norms if spec.scale == "norm" else floored
    exponential = isinstance(spec.kernel, Exponential)
    # exp(α (product / norm − 1)) as exp(scale · product − α): each pass over the map counts.
    alpha = np.float32(spec.kernel.alpha if isinstance(spec.kernel, Exponential) else 1)
    y = buffer("map", (b, rows, width, p))
    if plan.winograd:
        products = _winograd_products(padded, plan, buffer)[:, :rows, :width]
        np.multiply(products, alpha / floored, out=y)
        # Winograd's rounding is that of the brightest patch nearby: beside it a cosine may be anything.
        np.clip(y, -alpha, alpha, out=y)
    else:
        np.matmul(_patch_rows(padded, k, rows, width, buffer), plan.filters, out=y.reshape(-1, p))
        y *= alpha / floored
    if exponential:
        y -= alpha
        np.exp(y, out=y)
    else:
        spec.kernel.value(y, out=y)
    y *= factor
    return y


def pooled(y: Map, plan: LayerPlan, band: Band, buffer: Buffer) -> Map:
    """A y of the band: [b, rows, width, filters] to [b, pooled rows, pooled columns, filters]."""
    b, rows, width, p = y.shape
    height, (_, columns, _) = len(band.weights), plan.output_shape
    # Rows first: those are few products an image for all columns and filters.
    y_rows = buffer("pooled rows", (b, height, width * p))
    for r in plan.row_groups[band.pooled.start]:
        np.matmul(r.weights, y.reshape(b, rows, width * p)[:, r.source], out=y_rows[:, r.pooled])
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


def _winograd_products(padded: Map, plan: LayerPlan, buffer: Buffer) -> Map:
    """Products of patches and filters, of whole tiles: [b, rows, width, filters]."""
    b, height, width, c = padded.shape
    th, tw, p = (height - 2) // TILE, (width - 2) // TILE, plan.spec.filters
    tiles = b * th * tw
    sb, sy, sx, sc = padded.strides
    view = as_strided(  # [6, 6, b, th, tw, c]: overlapping tiles
        padded, (SPAN, SPAN, b, th, tw, c), (sy, sx, sb, TILE * sy, TILE * sx, sc), writeable=False
    )
    d = buffer("tiles", (SPAN, SPAN, b, th, tw, c))
    d[...] = view
    v = buffer("transformed", (SPAN**2, tiles * c))
    np.matmul(INPUT, d.reshape(SPAN**2, -1), out=v)
    m = buffer("products", (SPAN**2, tiles, p))
    np.matmul(v.reshape(SPAN**2, tiles, c), plan.transformed, out=m)
    y = buffer("tile maps", (TILE**2, tiles * p))
    np.matmul(OUTPUT, m.reshape(SPAN**2, -1), out=y)
    whole = buffer("whole tiles", (b, th, TILE, tw, TILE, p))
    whole[...] = y.reshape(TILE, TILE, b, th, tw, p).transpose(2, 3, 0, 4, 1, 5)
    return whole.reshape(b, th * TILE, tw * TILE, p)


def _norms(padded: Map, k: int, rows: int, width: int) -> Map:
    """Patch norms [b, rows, width]: a box filter over the squared norms of the positions."""
    squares = np.einsum("byxc,byxc->byx", padded, padded)
    along_x = sum(squares[:, :, dx : dx + width] for dx in range(1, k)) + squares[:, :, :width]
    box = sum(along_x[:, dy : dy + rows] for dy in range(1, k)) + along_x[:, :rows]
    norms: Map = np.sqrt(box, dtype=np.float32)
    return norms
