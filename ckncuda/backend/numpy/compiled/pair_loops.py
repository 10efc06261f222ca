"""Inner loops of exact kernels, compiled by Numba: an image against many others, a pair at a time.

In the first layer patches of the one image, x, are the anchor points with which a network encodes the other,
y, panel by panel. A panel, whole rows of x's positions, is then pooled along these rows, and the rows are
added to those of the pooled map of pairs: a map of pairs of all positions is never there.

Maps of pairs of deeper layers are [positions of y, positions of x], both with their margins: all that a
patch sum adds up for one position of y are runs of neighbouring numbers then.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from typing import NamedTuple

import numpy as np
from numba import float32
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.dot_product import TANGENT, apply, apply_to_strip, arccos0, arccos1
from ckncuda.backend.numpy.compiled.encode_loops import COLOUR, Taps, patch_products, pool_columns, pool_rows
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import NARROW_ROWS, PANEL, add_multiple, narrow_product
from ckncuda.backend.numpy.compiled.llvm.winograd import COLOURS
from ckncuda.backend.numpy.winograd import SPAN, G
from ckncuda.compiled.functions import compiled

Array = NDArray[np.float32]
Index = NDArray[np.int64]

_TRANSFORM = G.astype(np.float32)


class First(NamedTuple):
    """The first layer."""

    patch_height: int
    patch_width: int
    algorithm: int  # DIRECT or COLOUR
    kernel: int  # see `dot_product`
    parameters: Array
    slope: float  # scale = slope / floored norm of y's patch
    tangent: bool
    columns: Taps  # pooling of y's columns
    rows: Taps  # and rows
    rows_of_x: Array  # the same, [pooled, rows]
    # Runs of neighbouring positions of x: panel, first lane there, row, first column, length.
    runs: Index  # [runs, 5]


class Deeper(NamedTuple):
    """The L layers above the first, and the place of the last map in memory."""

    layers: NDArray[np.void]  # [L + 1] of `LAYER`
    parameters: Array  # [L + 1, numbers]: of the κ
    pooling: Array  # matrices of rows and of columns, layer after layer, flat


_NUMBERS = (
    "rows",  # of the layer's input with its margins
    "breadth",  # columns of the same
    "above",  # margins before the first row
    "left",  # and the first column
    "stride",  # numbers from a position of y to the next one, in maps of pairs
    "patch_height",
    "patch_width",
    "height",  # of the map
    "width",
    "pooled_height",
    "pooled_width",
    "pooling",  # where its matrices begin
    "of_x",  # where its numbers begin in the `Norms` of an image x: a row is `breadth` numbers
    "of_y",  # and of an image y, whose rows are as they are
    "kernel",
    "floored",  # whether κ is multiplied with floored norms
)
LAYER = np.dtype([*((name, np.int64) for name in _NUMBERS), ("norm_floor", np.float32)], align=True)


class Norms(NamedTuple):
    """Norms of images at all layers above the first, one after the other."""

    inverse: Array  # [.., numbers]: 1 / floored norm; between x's rows 0
    factor: Array  # [.., numbers]: what κ is multiplied with


class Image(NamedTuple):
    """An image x, as one factor of the first layer."""

    filters: Array  # its patches over their norms, in panels: see `encode_loops.Weights`
    pooling: Array  # [runs, length, columns]: of x's columns, times what κ is to be multiplied with


class Images(NamedTuple):
    """Images y, as the other."""

    padded: Array  # [n, height, breadth, c]
    scale: Array  # [n, h, w]
    factor: Array  # [n, h, w]


class Work(NamedTuple):
    """The arrays of a thread."""

    rows: Array  # see `encode_loops.colour_products`
    transformed: Array  # [1, 36, ROW]
    strip: Array  # [rows at a time, whole tiles' width, PANEL]
    half: Array  # [rows, pooled columns, PANEL]
    panel: Array  # [pooled rows, pooled columns, PANEL]
    columns: Array  # [pooled positions of y, LANES]
    pairs: Array  # [2, numbers]: maps of pairs, of this layer and of the next
    tangents: Array  # the same, or empty
    sums: Array  # [3, numbers of x's positions]
    pooled: Array  # [2, numbers]


@compiled
def gram_row(x, norms_of_x, ys, norms, first, deeper, work, start, out):
    """Compute kernels of an image x with the images y from ``start`` on, to out [n]."""
    layers = len(deeper.layers) - 1
    last = deeper.layers[layers]
    for j in range(start, start + len(out)):
        _first_layer(x, ys, j, first, deeper, work)
        for layer in range(layers):
            _next_layer(layer, norms_of_x, norms.inverse[j], norms.factor[j], first.tangent, deeper, work)
        pairs = work.tangents[layers % 2] if first.tangent else work.pairs[layers % 2]
        total = 0.0
        for u in range(last.rows * last.breadth):
            total += pairs[u * last.stride + u]
        out[j - start] = total


@compiled
def own_norms(x, ys, j, first, deeper, work, of_x, of_y, out):
    """Compute norms of the patches of x, which is y_j, above the first layer: out, and `Norms` to fill."""
    _first_layer(x, ys, j, first, deeper, work)
    for layer in range(len(deeper.layers) - 1):
        sizes = deeper.layers[layer]
        breadth, width = sizes.breadth, sizes.width
        for y in range(sizes.height):
            for x_ in range(width):
                u = y * breadth + x_
                _patch_sums(work.pairs[layer % 2], u, u, sizes, work.sums[0, :1])
                norm = np.sqrt(max(work.sums[0, 0], float32(0.0)))
                floored = max(norm, sizes.norm_floor)
                factor = floored if sizes.floored else norm
                v = sizes.of_y + y * width + x_
                out[v] = norm
                of_x.inverse[sizes.of_x + u], of_x.factor[sizes.of_x + u] = 1 / floored, factor
                of_y.inverse[v], of_y.factor[v] = 1 / floored, factor
        _next_layer(layer, of_x, of_y.inverse, of_y.factor, first.tangent, deeper, work)


@compiled
def fill_filters(padded, inverse, first, filters):
    """Write patches of a padded image x [height, breadth, c] times inverse norms [h, w], in panels."""
    c, runs = padded.shape[2], first.runs
    patch = np.empty((first.patch_height, first.patch_width, c), np.float32)
    for run in range(len(runs)):
        panel, lane, row, column, length = runs[run]
        for q in range(length):
            for dy in range(first.patch_height):
                for dx in range(first.patch_width):
                    pixel = padded[row + dy, column + q + dx]
                    for channel in range(c):
                        patch[dy, dx, channel] = pixel[channel] * inverse[row, column + q]
            if first.algorithm == COLOUR:
                _transform(patch, filters[panel, (lane + q) // LANES], (lane + q) % LANES)
            else:
                flat = patch.reshape(-1)
                for term in range(len(flat)):
                    filters[panel, 0, term, lane + q] = flat[term]


@compiled
def _transform(patch, filters, lane):
    """Write G g Gᵀ of a patch [3, 3, 3], to a lane of filters [108, LANES]: see `colour_filters`."""
    for channel in range(COLOURS):
        for j in range(SPAN):
            for i in range(SPAN):
                total = float32(0.0)
                for y in range(3):
                    for x in range(3):
                        total += _TRANSFORM[i, y] * _TRANSFORM[j, x] * patch[y, x, channel]
                filters[(SPAN * j + i) * COLOURS + channel, lane] = total


@compiled
def _first_layer(x, ys, j, first, deeper, work):
    """Compute the pooled map of pairs of x and y_j, with the margins of the next layer."""
    sizes = deeper.layers[0]
    numbers = sizes.rows * sizes.breadth * sizes.stride
    if first.tangent:
        _first_map(x, ys, j, TANGENT, first, sizes, work, work.tangents[0, :numbers])
    if len(deeper.layers) > 1 or not first.tangent:
        _first_map(x, ys, j, first.kernel, first, sizes, work, work.pairs[0, :numbers])


@compiled
def _first_map(x, ys, j, kernel, first, sizes, work, pairs):
    """Compute the pooled map of pairs of x and y_j for one κ."""
    pairs[:] = 0
    n_rows, run = ys.scale.shape[1], 0
    for panel in range(len(x.filters)):
        for y in range(0, n_rows, len(work.strip)):
            n = min(len(work.strip), n_rows - y)
            patch_products(first, ys.padded[j], x.filters[panel], y, n, work)
            scale, factor = ys.scale[j, y : y + n], ys.factor[j, y : y + n]
            apply_to_strip(kernel, first.parameters, first.slope, work.strip, scale, factor)
            pool_columns(work.strip, n, first.columns, work.half[y : y + n])
        pool_rows(work.half, first.rows, 0, work.panel)
        while run < len(first.runs) and first.runs[run, 0] == panel:
            _add_run(first, run, x.pooling[run], sizes, work, pairs)
            run += 1


@compiled
def _add_run(first, run, pooling, sizes, work, pairs):
    """Pool a run of x's positions along its row, and add it to the rows of the pooled map of pairs."""
    _, lane, row, _, length = first.runs[run]
    height, width = work.panel.shape[0], work.panel.shape[1]
    n, breadth, stride = height * width, sizes.breadth, sizes.stride
    above, left = sizes.above, sizes.left
    for group in range(0, pooling.shape[1], LANES):
        for i in range(0, n, NARROW_ROWS):
            v = min(i, len(work.columns) - NARROW_ROWS)  # the last ones may be computed twice
            narrow_product(
                work.panel.ctypes.data + 4 * (v * PANEL + lane), PANEL, length,
                pooling.ctypes.data + 4 * group, pooling.shape[1],
                work.columns.ctypes.data + 4 * v * LANES, LANES,
            )  # fmt: skip
        for u in range(len(first.rows_of_x)):
            weight = first.rows_of_x[u, row]
            if weight == 0:
                continue
            at = (u + above) * breadth + left + group
            for y in range(height):
                for x in range(width):
                    v = (y + above) * breadth + left + x
                    add_multiple(  # what lies beyond the last column gets zeros
                        weight,
                        work.columns.ctypes.data + 4 * LANES * (y * width + x),
                        pairs.ctypes.data + 4 * (v * stride + at),
                    )


@compiled
def _next_layer(layer, norms_of_x, inverse_y, factor_y, tangent, deeper, work):
    """Compute the map of pairs of a layer's output, with the margins of the next, from that of its input."""
    sizes = deeper.layers[layer]
    breadth, w = sizes.breadth, sizes.width
    middle = sizes.pooling + sizes.pooled_height * sizes.height
    rows = deeper.pooling[sizes.pooling : middle].reshape(sizes.pooled_height, sizes.height)
    columns = deeper.pooling[middle : middle + sizes.pooled_width * w].reshape(sizes.pooled_width, w)
    n = (sizes.height - 1) * breadth + w  # numbers from the first position of x to its last
    inverse = norms_of_x.inverse[sizes.of_x : sizes.of_x + n]
    factor = norms_of_x.factor[sizes.of_x : sizes.of_x + n]
    pooled = work.pooled[:, : len(rows) * len(columns) * n]
    pooled[:] = 0
    row, kappa0, arriving = work.sums[0, :n], work.sums[1, :n], work.sums[2, :n]
    for y in range(sizes.height):
        for x in range(w):
            v = y * breadth + x
            s, f = inverse_y[sizes.of_y + y * w + x], factor_y[sizes.of_y + y * w + x]
            _patch_sums(work.pairs[layer % 2], v, 0, sizes, row)
            for q in range(n):
                row[q] *= s * inverse[q]
            if tangent:
                _patch_sums(work.tangents[layer % 2], v, 0, sizes, arriving)
                for q in range(n):
                    kappa0[q] = arccos0(row[q])
                    row[q] = arccos1(row[q]) * f * factor[q]
                    arriving[q] = arriving[q] * kappa0[q] + row[q]
                _add_rows(arriving, rows[:, y], columns[:, x], float32(1.0), pooled[1])
                _add_rows(row, rows[:, y], columns[:, x], float32(1.0), pooled[0])
            else:
                apply(sizes.kernel, deeper.parameters[layer], row)
                for q in range(n):
                    row[q] *= factor[q]
                _add_rows(row, rows[:, y], columns[:, x], f, pooled[0])
    following, target = deeper.layers[layer + 1], (layer + 1) % 2
    _pool_x(pooled[0], rows, columns, breadth, following, work.sums[0], work.pairs[target])
    if tangent:
        _pool_x(pooled[1], rows, columns, breadth, following, work.sums[0], work.tangents[target])


@compiled
def _patch_sums(pairs, v, u, sizes, row):
    """Compute Σ_δ G(v+δ, u+q+δ) for all q of a row."""
    breadth, stride = sizes.breadth, sizes.stride
    for dy in range(sizes.patch_height):
        for dx in range(sizes.patch_width):
            shift = dy * breadth + dx
            source = pairs[(v + shift) * stride + u + shift :]
            if shift == 0:
                for q in range(len(row)):
                    row[q] = source[q]
            else:
                for q in range(len(row)):
                    row[q] += source[q]


@compiled
def _add_rows(row, rows, columns, factor, pooled):
    """Add a row, of one position of y, to those of the pooled positions that see it."""
    n, width = len(row), len(columns)
    for y in range(len(rows)):
        if rows[y] != 0:
            for x in range(width):
                weight = rows[y] * columns[x] * factor
                if weight != 0:
                    target = pooled[(y * width + x) * n : (y * width + x + 1) * n]
                    for q in range(n):
                        target[q] += weight * row[q]


@compiled
def _pool_x(pooled, rows, columns, breadth, following, half, pairs):
    """Pool x's positions of rows that are pooled over y's, into a map with the margins of the next layer."""
    height, h, width, w = rows.shape[0], rows.shape[1], columns.shape[0], columns.shape[1]
    n = (h - 1) * breadth + w
    above, left, stride = following.above, following.left, following.stride
    pairs[: following.rows * following.breadth * stride] = 0
    for v in range(height * width):
        source = pooled[v * n : (v + 1) * n]
        for y in range(h):
            for x in range(width):
                total = float32(0.0)
                for i in range(w):
                    if columns[x, i] != 0:
                        total += columns[x, i] * source[y * breadth + i]
                half[y * width + x] = total
        at = ((v // width + above) * following.breadth + left + v % width) * stride
        for y in range(height):
            for x in range(width):
                total = float32(0.0)
                for i in range(h):
                    if rows[y, i] != 0:
                        total += rows[y, i] * half[i * width + x]
                pairs[at + (y + above) * following.breadth + left + x] = total
