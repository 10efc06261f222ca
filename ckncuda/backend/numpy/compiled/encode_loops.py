"""Inner loops of a network on one thread's tile, compiled by Numba.

One panel of filters at a time goes from the products through κ to the pooled map, a few rows of the map at a
time, so that nothing larger than a pooled map leaves the caches.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from typing import NamedTuple

import numpy as np
from numba import float32
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.dot_product import exponential
from ckncuda.backend.numpy.compiled.llvm import winograd
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, ROWS, product, weighted_sum
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS, ROW, input_transform, output_transform
from ckncuda.compiled.functions import compiled

Array = NDArray[np.float32]
DIRECT, COLOUR, MANY = 0, 1, 2


class Taps(NamedTuple):
    """The non-zero part of each row of a pooling matrix."""

    weights: Array  # [pooled, taps]
    first: NDArray[np.int64]  # [pooled]
    length: NDArray[np.int64]  # [pooled]


class Geometry(NamedTuple):
    """A layer's specification, as its tiles take it."""

    patch_height: int
    patch_width: int
    algorithm: int  # DIRECT, or Winograd's for COLOUR images or for MANY channels
    columns: Taps
    slope: float  # scale = slope / floored norm; exp(α (t − 1)) = 2^(scale · product − slope)
    norm_floor: float
    floored_factor: bool  # whether κ is multiplied with the floored norm


class Weights(NamedTuple):
    """The numbers that the layer has learned, packed."""

    # [panels, 1, terms, PANEL], or transformed [panels, 36, c, PANEL] or [panels, groups, 108, LANES]
    filters: Array
    projection: Array  # [panels, filters, PANEL]


class Workspace(NamedTuple):
    """One thread's arrays for a tile of b images and the rows of one band."""

    padded: Array  # [b, height, breadth, c]
    scale: Array  # [b, rows, width]
    factor: Array  # [b, rows, width]
    # Winograd's; of MANY channels one tile more than there are, or all 36 would fall on one cache set.
    transformed: Array  # [36, b · tiles + 1, c], or of a COLOUR image [1, 36, ROW]
    products: Array  # [36, b · tiles + 1, PANEL]
    rows: Array  # [6, numbers of a padded row, or more]
    strip: Array  # [rows at a time, whole tiles' width, PANEL]
    half: Array  # [rows, pooled columns, PANEL]
    pooled: Array  # [b, pooled rows, pooled columns, panels · PANEL]
    projected: Array  # the same, or empty where panels · PANEL is the number of filters


@compiled
def encode(rows, work, layer, weights, out, above, left, kernel, kept):
    """Encode a tile: from work.padded to out [b, height, width, filters], from its row and column on.

    ``rows`` are the `Taps` of the band's rows; what lies above or below ``out`` is left out. With ``kernel``
    None, κ is the exponential and all is compiled; else this runs in Python, with a kernel(strip, scale,
    factor).  Products are copied to ``kept`` [b, panels, rows, width, PANEL], unless it is empty.
    """
    b, n_rows = work.scale.shape[0], work.scale.shape[1]
    for i in range(b):
        patch_norms(work.padded[i], layer, work.scale[i], work.factor[i])
        if layer.algorithm == MANY:
            winograd_input(work.padded[i], i, work.transformed, work.rows)
    for panel in range(len(weights.filters)):
        filters = weights.filters[panel]
        if layer.algorithm == MANY:
            winograd_products(work.transformed, filters, work.products)
        for i in range(b):
            for y in range(0, n_rows, len(work.strip)):
                n = min(len(work.strip), n_rows - y)
                if layer.algorithm == MANY:
                    winograd_output(work.products, b, i, y, n, work.strip, work.rows)
                else:
                    patch_products(layer, work.padded[i], filters, y, n, work)
                if len(kept):
                    copy_rows(work.strip, 0, n, kept[i, panel], y)
                scale, factor = work.scale[i, y : y + n], work.factor[i, y : y + n]
                if kernel is None:
                    exponential(work.strip, scale, factor, layer.slope)
                else:
                    kernel(work.strip[:n, : scale.shape[1]], scale, factor)
                pool_columns(work.strip, n, layer.columns, work.half[y : y + n])
            pool_rows(work.half, rows, panel, work.pooled[i])
    project(work.pooled, weights.projection, out, above, left, work.projected)


@compiled(inline=True)
def copy_rows(source, first, n, target, start):
    """Copy n rows of positions [rows, width, PANEL], as far as both reach."""
    length = min(source.shape[1], target.shape[1]) * PANEL
    for y in range(n):
        line, place = source[first + y].reshape(-1), target[start + y].reshape(-1)
        for q in range(length):
            place[q] = line[q]


@compiled
def pad(maps, above, left, padded):
    """Put maps [b, h, w, c] into padded maps, from that row (which may be negative) and column on."""
    clear_margins(padded, above, left, maps.shape[1], maps.shape[2])
    for i in range(len(maps)):
        _place(maps[i].reshape(maps.shape[1], -1), maps.shape[3], above, left, padded[i])


@compiled
def clear_margins(padded, above, left, h, w):
    """Write zeros in padded maps where a map of h × w that begins at that row and column has nothing."""
    b, height, _, c = padded.shape
    for i in range(b):
        for y in range(height):
            line = padded[i, y].reshape(-1)
            if above <= y < above + h:
                line[: left * c] = 0
                line[(left + w) * c :] = 0
            else:
                line[:] = 0


@compiled(inline=True)
def _place(lines, channels, above, left, target):
    """Copy the lines of a map, positions of so many numbers each, to a part of the target [h, w, c]."""
    c = target.shape[2]
    for y in range(max(0, -above), min(len(lines), len(target) - above)):
        source, part = lines[y], target[above + y].reshape(-1)[left * c :]
        if channels == c:
            for q in range(len(source)):
                part[q] = source[q]
        else:
            for x in range(len(source) // channels):
                for q in range(c):
                    part[x * c + q] = source[x * channels + q]


@compiled(reordered=True)
def _squared_norms(padded, squares):
    """Compute the squared norm of each position of a padded map."""
    height, width, c = padded.shape
    if c == COLOURS:  # too few for a sum to be vectors: positions are
        numbers = padded.reshape(-1)
        for i in range(height * width):
            red, green, blue = numbers[3 * i], numbers[3 * i + 1], numbers[3 * i + 2]
            squares[i] = red * red + green * green + blue * blue
    else:
        positions = padded.reshape(-1, c)
        for i in range(height * width):
            numbers, total = positions[i], float32(0.0)
            for q in range(c):
                total += numbers[q] * numbers[q]
            squares[i] = total


@compiled
def patch_norms(padded, layer, scale, factor):
    """Compute, of the patches of a padded map, slope over floored norm, and norm, each [h, w]."""
    (h, w), width = scale.shape, padded.shape[1]
    squares = np.empty(padded.shape[0] * width, np.float32)
    _squared_norms(padded, squares)
    # Sums over the rows of a patch, then over its columns, of all positions as one vector: those at the
    # end of a row are of no use.
    n = h * width
    high = np.zeros(n + layer.patch_width - 1, np.float32)
    for dy in range(layer.patch_height):
        part = squares[dy * width : dy * width + n]
        for i in range(n):
            high[i] += part[i]
    box = np.zeros(n, np.float32)
    for dx in range(layer.patch_width):
        part = high[dx : dx + n]
        for i in range(n):
            box[i] += part[i]
    floor, slope = float32(layer.norm_floor), float32(layer.slope)
    for y in range(h):
        line, over, row = box[y * width : y * width + w], scale[y], factor[y]
        for x in range(w):
            norm = np.sqrt(line[x])
            floored = max(norm, floor)
            over[x] = slope / floored
            row[x] = floored if layer.floored_factor else norm


@compiled(inline=True)
def product_of_rows(a, a_stride, n, runs, run, run_stride, b, c, c_stride):
    """Compute `product` for n rows, ROWS at a time: the last ones may compute some rows twice."""
    if n >= ROWS:
        for i in range(0, n, ROWS):
            j = min(i, n - ROWS)
            product(a + 4 * j * a_stride, a_stride, runs, run, run_stride, b, c + 4 * j * c_stride, c_stride)
    else:
        for i in range(n):
            product(a + 4 * i * a_stride, 0, runs, run, run_stride, b, c + 4 * i * c_stride, 0)


@compiled
def patch_products(layer, padded, filters, first, n, work):
    """Multiply the patches of n rows of a padded map with a panel of filters, to work.strip.

    ``layer`` and ``work`` are those of a network or of exact kernels.
    """
    if layer.algorithm == COLOUR:
        colour_products(padded, filters, first, n, work.strip, work.rows, work.transformed[0])
    else:
        direct_products(layer, padded, filters, first, n, work.strip)


@compiled(inline=True)
def direct_products(layer, padded, filters, first, n, strip):
    """Multiply the patches of n rows of a padded map with a panel of filters [1, terms, PANEL] directly."""
    _, width, c = padded.shape
    for y in range(n):
        product_of_rows(
            padded[first + y].ctypes.data, c, strip.shape[1],
            layer.patch_height, layer.patch_width * c, width * c,
            filters.ctypes.data, strip[y].ctypes.data, PANEL,
        )  # fmt: skip


@compiled
def winograd_products(v, filters, m):
    """Compute the 36 products of transformed maps v [36, tiles, c] and a panel of filters [36, c, PANEL]."""
    _, allocated, c = v.shape
    for j in range(36):
        product_of_rows(
            v[j].ctypes.data, c, allocated - 1, 1, c, 0, filters[j].ctypes.data, m[j].ctypes.data, PANEL
        )


@compiled
def project(pooled, projection, out, above, left, projected):
    """Multiply pooled maps with packed projections, to part of out [b, h, w, filters].

    ``pooled`` is [b, h', w', panels · PANEL]; ``projected`` has room for as many, where filters are fewer.
    """
    b, height, width, p = pooled.shape
    if out.shape[3] < p:
        _positions_times(pooled.ctypes.data, b * height * width, p, projection, projected.ctypes.data)
        for i in range(b):
            _place(projected[i].reshape(height, -1), p, above, left, out[i])
    elif above == 0 and left == 0 and out.shape[1] == height and out.shape[2] == width:
        _positions_times(pooled.ctypes.data, b * height * width, p, projection, out.ctypes.data)
    else:
        for i in range(b):
            for y in range(max(0, -above), min(height, out.shape[1] - above)):
                target = out[i, above + y, left]
                _positions_times(pooled[i, y].ctypes.data, width, p, projection, target.ctypes.data)


@compiled(inline=True)
def _positions_times(positions, n, p, projection, out):
    """Multiply n rows of p numbers with a packed projection, to n rows of p numbers at ``out``."""
    for panel in range(len(projection)):
        product_of_rows(
            positions, p, n, 1, projection.shape[1], 0,
            projection[panel].ctypes.data, out + 4 * PANEL * panel, p,
        )  # fmt: skip


@compiled
def winograd_input(padded, image, v, rows):
    """Compute Bᵀ d B of the 6×6 tiles of a padded map [4·th+2, 4·tw+2, c]: v [36, tiles, c] of that image."""
    height, width, c = padded.shape
    th, tw = (height - 2) // 4, (width - 2) // 4
    source, between, target = padded.ctypes.data, rows.ctypes.data, v.ctypes.data
    step = v.shape[1] * c
    for ty in range(th):
        for q in range(0, width * c, LANES):  # neighbouring tiles share what they need of these
            q = min(q, width * c - LANES)
            input_transform(source + 4 * (4 * ty * width * c + q), width * c, between + 4 * q, width * c)
        for tx in range(tw):
            tile = (image * th + ty) * tw + tx
            for y in range(6):
                for q in range(0, c, LANES):
                    q = min(q, c - LANES)
                    input_transform(
                        between + 4 * ((y * width + 4 * tx) * c + q), c,
                        target + 4 * (6 * y * step + tile * c + q), step,
                    )  # fmt: skip


@compiled
def winograd_output(m, images, image, first, n, strip, rows):
    """Compute Aᵀ m A of an image's products m [36, tiles of all, PANEL]: n rows of its map, whole tiles."""
    tw = strip.shape[1] // 4
    tiles, step = (m.shape[1] - 1) // images, m.shape[1] * PANEL
    source, between, target = m.ctypes.data, rows.ctypes.data, strip.ctypes.data
    for y in range(0, n, 4):
        for tx in range(tw):
            tile = image * tiles + (first + y) // 4 * tw + tx
            for q in range(0, PANEL, LANES):
                for x in range(6):
                    output_transform(
                        source + 4 * (x * step + tile * PANEL + q), 6 * step,
                        between + 4 * x * LANES, 6 * LANES,
                    )  # fmt: skip
                for dy in range(4):
                    output_transform(
                        between + 4 * 6 * dy * LANES, LANES,
                        target + 4 * (((y + dy) * strip.shape[1] + 4 * tx) * PANEL + q), PANEL,
                    )  # fmt: skip


@compiled
def colour_products(padded, filters, first, n, strip, rows, v):
    """Take n rows of a padded colour image through Winograd's algorithm: strip [n, 4·tw, PANEL].

    The transform takes all positions, of tiles or not, as one vector; v is [36, ROW].
    """
    size, tiles = padded.shape[1] * COLOURS, strip.shape[1] // 4
    image, between, target = padded.ctypes.data, rows.ctypes.data, v.ctypes.data
    for y in range(0, n, 4):
        for t0 in range(0, tiles, winograd.ROW_TILES):
            t1 = min(t0 + winograd.ROW_TILES, tiles)
            start, length = 4 * t0 * COLOURS, (4 * (t1 - t0) + 2) * COLOURS
            for q in range(0, length, LANES):
                q = min(q, length - LANES)
                input_transform(image + 4 * ((first + y) * size + start + q), size, between + 4 * q, ROW)
            for i in range(6):
                for q in range(0, length - 5 * COLOURS, LANES):  # some beyond the end, where rows have room
                    input_transform(between + 4 * (i * ROW + q), COLOURS, target + 4 * (6 * i * ROW + q), ROW)
            for group in range(PANEL // LANES):
                for t in range(0, t1 - t0, winograd.AT_ONCE):
                    winograd.colour_columns(target + 4 * 4 * COLOURS * t, filters[group].ctypes.data, between)
                    for i in range(min(winograd.AT_ONCE, t1 - t0 - t)):
                        for dy in range(4):
                            x = (y + dy) * strip.shape[1] + 4 * (t0 + t + i)
                            output_transform(
                                between + 4 * (4 * i + dy) * 6 * LANES, LANES,
                                strip.ctypes.data + 4 * (x * PANEL + group * LANES), PANEL,
                            )  # fmt: skip


@compiled
def pool_columns(strip, n, taps, half):
    """Pool each of n rows of a strip [rows, width, PANEL]: half [n, pooled columns, PANEL]."""
    weights, source, target = taps.weights.ctypes.data, strip.ctypes.data, half.ctypes.data
    for y in range(n):
        for v in range(half.shape[1]):
            weighted_sum(
                weights + 4 * v * taps.weights.shape[1], taps.length[v],
                source + 4 * PANEL * (y * strip.shape[1] + taps.first[v]), PANEL,
                target + 4 * PANEL * (y * half.shape[1] + v),
            )  # fmt: skip


@compiled
def pool_rows(half, taps, panel, pooled):
    """Pool the rows of half [rows, columns, PANEL]: a panel of pooled [pooled rows, columns, p]."""
    columns, p = half.shape[1], pooled.shape[2]
    weights, source, target = taps.weights.ctypes.data, half.ctypes.data, pooled.ctypes.data
    for u in range(len(pooled)):
        for v in range(columns):
            weighted_sum(
                weights + 4 * u * taps.weights.shape[1], taps.length[u],
                source + 4 * PANEL * (taps.first[u] * columns + v), columns * PANEL,
                target + 4 * ((u * columns + v) * p + panel * PANEL),
            )  # fmt: skip
