"""Inner loops of a layer's way back on one thread's tile, compiled by Numba.

As on the way forward, a panel of filters at a time goes from the products through κ, here with the gradient
by the map, a few rows at a time.  Winograd's algorithm is transposed as a whole: of M = (Bᵀ d B) (G g Gᵀ) and
Y = Aᵀ M A come dM = A dY Aᵀ, and from that both gradients, with products as small as those of the way forward.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from typing import NamedTuple

import numpy as np
from numba import float32
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.derivatives import apply_derivative
from ckncuda.backend.numpy.compiled.dot_product import EXPONENTIAL, apply
from ckncuda.backend.numpy.compiled.encode_loops import (
    COLOUR,
    DIRECT,
    MANY,
    Taps,
    colour_products,
    direct_products,
    patch_norms,
    product_of_rows,
    winograd_input,
    winograd_output,
    winograd_products,
)
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.exponential import (
    through_exponential,
    through_exponential_and_norm,
)
from ckncuda.backend.numpy.compiled.llvm.product import (
    NARROW_ROWS,
    PANEL,
    ROWS,
    add_four_outer_products,
    add_narrow_product,
    add_narrow_row_product,
    add_outer_product,
    add_product,
    add_row_product,
    add_three_outer_products,
    weighted_sum,
)
from ckncuda.backend.numpy.compiled.llvm.winograd import (
    add_transposed_input_transform,
    transposed_output_transform,
)
from ckncuda.compiled.functions import compiled

Array = NDArray[np.float32]
LOG_2 = float(np.log(2))
DARK = 1 / 32  # of the brightest patch of a tile: above, rounding stays below what is aimed at


class Geometry(NamedTuple):
    """A layer's specification, as its tiles take it: what `encode_loops.Geometry` has, and κ."""

    patch_height: int
    patch_width: int
    algorithm: int
    rows: Taps  # of the transposed pooling: for each row of the map, pooled rows
    columns: Taps
    slope: float
    norm_floor: float
    floored_factor: bool
    kernel: int  # of `dot_product.NUMBERS`
    derivative: int  # of `derivatives.NUMBERS`
    parameters: Array


class Weights(NamedTuple):
    """The numbers that the layer has learned, packed."""

    filters: Array  # as `encode_loops.Weights` has them
    projection: Array  # W [panels, filters, PANEL]
    # [panels, panels of channels, 36, PANEL, PANEL] transformed, or [panels, patch height, groups, PANEL, LANES];
    # empty where nobody asks for the gradient by the maps
    back: Array
    anchors: Array  # [filters, terms]


class Workspace(NamedTuple):
    """One thread's arrays for a tile of b images and the rows of one band."""

    padded: Array  # [b, height, breadth, c]
    scale: Array  # [b, rows, width]
    factor: Array  # [b, rows, width]
    dark: Array  # [b, strips of rows]: tiles with dark patches
    transformed: Array  # as `encode_loops.Workspace` has them
    products: Array  # [36, b · tiles + 1, PANEL]
    by_transformed: Array  # [36, b · tiles + 1, panels of channels · PANEL]
    rows: Array  # [6, numbers of a padded row of the gradient, or more]
    strip: Array  # [rows at a time, whole tiles' width, PANEL]
    by_map: Array  # the same: gradient by y, then by the products
    values: Array  # [whole tiles' width, PANEL]
    slopes: Array  # the same
    half: Array  # [pooled columns, PANEL]
    by_norm: Array  # [b, rows, width]
    by_padded: Array  # [b · height · breadth · numbers of a position + LANES]


@compiled
def by_pooled(upstream, encoded, weights, pooled, part, outputs):
    """Carry the gradient by the outputs to the pooled map, pooled [b, h', w', panels · PANEL]; add to sums.

    ``upstream`` and ``encoded`` are [b, h', w', filters]; ``outputs`` [panels, filters, PANEL] sums the product
    of both over positions; ``part`` [positions at a time, PANEL] is room for a panel of what stays in the cache.
    """
    b, height, width, p = upstream.shape
    n, whole = b * height * width, pooled.shape[3]
    rows = encoded.reshape(n, p)
    for panel in range(len(weights.projection)):
        product_of_rows(
            upstream.ctypes.data, p, n, 1, p, 0,
            weights.projection[panel].ctypes.data, pooled.ctypes.data + 4 * PANEL * panel, whole,
        )  # fmt: skip
        first = panel * PANEL
        count = min(PANEL, p - first)
        for start in range(0, n, len(part)):
            positions = min(len(part), n - start)
            for i in range(positions):
                source, target = rows[start + i, first : first + count], part[i]
                for q in range(count):
                    target[q] = source[q]
                target[count:] = 0
            _add_outer_products(
                upstream.ctypes.data + 4 * start * p, 1, 0, positions, p,
                part.ctypes.data, 0, outputs[panel].ctypes.data, p,
            )  # fmt: skip


@compiled
def backward(first, work, layer, weights, pooled, by_filters, by_maps):
    """Go back through a tile: from work.padded, and the gradient by the pooled map, to work.by_padded.

    ``first`` is the row of the map at which the band begins, ``pooled`` as `by_pooled` makes it, and
    ``by_filters`` the sum over positions: [panels, 36, c, PANEL] or [panels, 1, terms, PANEL].
    Without ``by_maps`` that sum is all.
    """
    b, n_rows, width = work.scale.shape
    many = layer.algorithm == MANY
    for i in range(b):
        patch_norms(work.padded[i], layer, work.scale[i], work.factor[i])
        work.dark[i] = 0
        if layer.algorithm != DIRECT:
            _find_dark(work.scale[i], work.dark[i])
        if many:
            winograd_input(work.padded[i], i, work.transformed, work.rows)
    if by_maps:
        work.by_norm[:] = 0
        work.by_padded[:] = 0
    for panel in range(len(weights.filters)):
        filters = weights.filters[panel]
        if many:
            winograd_products(work.transformed, filters, work.products)
        for i in range(b):
            for y in range(0, n_rows, len(work.strip)):
                n = min(len(work.strip), n_rows - y)
                if many:
                    winograd_output(work.products, b, i, y, n, work.strip, work.rows)
                elif layer.algorithm == COLOUR:
                    padded, v = work.padded[i], work.transformed[0]
                    colour_products(padded, filters, y, n, work.strip, work.rows, v)
                else:
                    direct_products(layer, work.padded[i], filters, y, n, work.strip)
                if work.dark[i, y // len(work.strip)]:
                    _mend_dark(work, i, y, n, weights.anchors, panel * PANEL)
                for dy in range(n):
                    _spread(pooled[i], panel, layer, first + y + dy, work.half, work.by_map[dy])
                scale, factor = work.scale[i, y : y + n], work.factor[i, y : y + n]
                if layer.kernel == EXPONENTIAL:
                    _through_exponential(work, scale, factor, layer, work.by_norm[i, y : y + n], by_maps)
                else:
                    _through_kernel(work, scale, factor, layer, work.by_norm[i, y : y + n], by_maps)
                if many:
                    work.by_map[n:] = 0
                    work.by_map[:, width:] = 0
                    _transformed_gradient(work.by_map, b, i, y, work.products, work.rows)
                else:
                    _add_to_filters(layer, work.padded[i], y, n, width, work.by_map, by_filters[panel, 0])
                    if by_maps:
                        _add_to_maps(layer, work, i, y, n, width, weights.back[panel])
        if many:
            _many_products(work, weights.back, by_filters, panel, by_maps)
    if many and by_maps:
        for i in range(b):
            _add_input_gradient(work, i)


@compiled
def _find_dark(scale, dark):
    """Count the patches of each four rows that are much darker than another of the same tile."""
    rows, width = scale.shape
    for y in range(0, rows, 4):
        for x in range(0, width, 4):
            tile = scale[y : y + 4, x : x + 4]
            least = greatest = tile[0, 0]
            for row in tile:
                for number in row:
                    least, greatest = min(least, number), max(greatest, number)
            if greatest * float32(DARK) > least:
                dark[y // 4] += 1


@compiled(reordered=True)
def _mend_dark(work, image, first, n, anchors, panel):
    """Compute the products of dark patches of n rows anew, as sums over their terms.

    Winograd's rounding is that of the brightest patch of a tile.  On the way forward a dark patch counts as
    little as it is dark, here as much as others.
    """
    scale, padded = work.scale[image, first : first + n], work.padded[image]
    breadth, c = padded.shape[1:]
    numbers = padded.reshape(-1)
    for x in range(scale.shape[1]):
        tile = scale[:, x // 4 * 4 : x // 4 * 4 + 4]
        least = tile.min()
        for y in range(n):
            if scale[y, x] * float32(DARK) > least:
                row = work.strip[y, x]
                row[:] = 0
                for dy in range(3):
                    start = ((first + y + dy) * breadth + x) * c
                    part = numbers[start : start + 3 * c]
                    if not part.any():
                        continue
                    for f in range(min(PANEL, len(anchors) - panel)):
                        filters, total = anchors[panel + f, 3 * c * dy : 3 * c * (dy + 1)], float32(0.0)
                        for q in range(3 * c):
                            total += part[q] * filters[q]
                        row[f] += total


@compiled(inline=True)
def _spread(pooled, panel, layer, y, half, by_map):
    """Pool back to a row of the map, by_map [width, PANEL], a panel of pooled maps [h', w', panels · PANEL]."""
    _, columns, p = pooled.shape
    rows, taps = layer.rows, layer.columns
    weights, source, between = rows.weights.ctypes.data, pooled.ctypes.data, half.ctypes.data
    for v in range(columns):
        weighted_sum(
            weights + 4 * y * rows.weights.shape[1], rows.length[y],
            source + 4 * ((rows.first[y] * columns + v) * p + panel * PANEL), columns * p,
            between + 4 * v * PANEL,
        )  # fmt: skip
    weights, target = taps.weights.ctypes.data, by_map.ctypes.data
    for x in range(len(taps.weights)):
        weighted_sum(
            weights + 4 * x * taps.weights.shape[1], taps.length[x],
            between + 4 * PANEL * taps.first[x], PANEL, target + 4 * PANEL * x,
        )  # fmt: skip


@compiled(inline=True)
def _through_norm(layer, f):
    """Return what κ and κ' t are multiplied with in the gradient by a norm, whose factor of the map is f.

    The norm is a factor of y, where the floor does not take its place, and t's divisor, above the floor.
    """
    above = f > float32(layer.norm_floor)
    scaled = above or (not layer.floored_factor and f > 0)
    return float32(1.0 if scaled else 0.0), float32(1.0 if above else 0.0)


@compiled(inline=True)
def _through_exponential(work, scale, factor, layer, by_norm, by_maps):
    """Put the gradient by the products in place of that by the map; add what goes through the norms.

    κ' = α κ, so that of each number there is one exponential.
    """
    n, width = scale.shape
    shift, log_2 = float32(layer.slope), float32(LOG_2)
    products, gradients, sums = work.strip.ctypes.data, work.by_map.ctypes.data, by_norm.ctypes.data
    for y in range(n):
        for x in range(width):
            s, f = scale[y, x], factor[y, x]
            place = 4 * PANEL * (y * work.strip.shape[1] + x)
            if by_maps:
                of_value, of_slope = _through_norm(layer, f)
                through_exponential_and_norm(
                    products + place, gradients + place, s, shift, f * s * log_2,
                    of_value, of_slope * shift * log_2, sums + 4 * (y * width + x),
                )  # fmt: skip
            else:
                through_exponential(products + place, gradients + place, s, shift, f * s * log_2)


@compiled
def _through_kernel(work, scale, factor, layer, by_norm, by_maps):
    """Do the same for any other κ that is compiled."""
    n, width = scale.shape
    values, slopes = work.values.reshape(-1)[: width * PANEL], work.slopes.reshape(-1)[: width * PANEL]
    for y in range(n):
        t_of_row = work.strip[y].reshape(-1)[: width * PANEL]
        for x in range(width):
            row, s = work.strip[y, x], scale[y, x]
            for q in range(PANEL):  # Winograd's rounding is that of the brightest patch nearby
                row[q] = min(max(s * row[q], float32(-1.0)), float32(1.0))
        slopes[:] = t_of_row
        apply_derivative(layer.derivative, layer.parameters, slopes)
        if by_maps:
            values[:] = t_of_row
            apply(layer.kernel, layer.parameters, values)
        for x in range(width):
            t, by, f = work.strip[y, x], work.by_map[y, x], factor[y, x]
            value, slope, c = work.values[x], work.slopes[x], f * scale[y, x]
            if by_maps:
                of_value, of_slope = _through_norm(layer, f)
                for q in range(PANEL):
                    by_kernel = by[q]
                    by[q] = c * by_kernel * slope[q]
                    t[q] = by_kernel * (of_value * value[q] - of_slope * slope[q] * t[q])
            else:
                for q in range(PANEL):
                    by[q] *= c * slope[q]
        if by_maps:
            _add_sums(work.strip[y], by_norm[y])


@compiled(reordered=True)
def _add_sums(strip, sums):
    """Add the sum of each position of a row of a strip to those there are."""
    for x in range(len(sums)):
        row, total = strip[x], float32(0.0)
        for q in range(PANEL):
            total += row[q]
        sums[x] += total


@compiled(inline=True)
def _add_outer_products(a, lines, a_line, count, a_stride, b, b_line, c, terms):
    """Add to C [terms, PANEL] the products of rows of A and B: four, three or one of the terms at a time."""
    i = 0
    while i < terms:
        left = terms - i
        if left % 4 != 0 and left >= 3:
            add_three_outer_products(a + 4 * i, lines, a_line, count, a_stride, b, b_line, c + 4 * i * PANEL)
            i += 3
        elif left >= 4:
            add_four_outer_products(a + 4 * i, lines, a_line, count, a_stride, b, b_line, c + 4 * i * PANEL)
            i += 4
        else:
            add_outer_product(a + 4 * i, lines, a_line, count, a_stride, b, b_line, c + 4 * i * PANEL)
            i += 1


@compiled(inline=True)
def _add_to_filters(layer, padded, y, n, width, by_map, by_filters):
    """Add the gradients by n rows of products, times their patches, to by_filters [terms, PANEL]."""
    _, breadth, c = padded.shape
    run = layer.patch_width * c
    for dy in range(layer.patch_height):
        _add_outer_products(
            padded[y + dy].ctypes.data, n, breadth * c, width, c, by_map.ctypes.data,
            by_map.shape[1] * PANEL, by_filters[dy * run].ctypes.data, run,
        )  # fmt: skip


@compiled(inline=True)
def _add_to_maps(layer, work, image, y, n, width, back):
    """Add the gradients by n rows of products, times filters, where their patches were taken from.

    ``back`` is [patch height, groups of LANES of a row of a patch, PANEL, LANES].
    """
    _, height, breadth, c = work.padded.shape
    _, groups = back.shape[:2]
    target, by_map = work.by_padded.ctypes.data, work.by_map
    for row in range(n):
        for dy in range(layer.patch_height):
            line = target + 4 * ((image * height + y + row + dy) * breadth) * c
            for group in range(groups):
                filters, place = back[dy, group].ctypes.data, line + 4 * LANES * group
                x = 0
                while x < width:
                    source = by_map[row, x].ctypes.data
                    if width - x >= NARROW_ROWS:
                        add_narrow_product(source, PANEL, PANEL, filters, place + 4 * x * c, c)
                        x += NARROW_ROWS
                    else:
                        add_narrow_row_product(source, PANEL, PANEL, filters, place + 4 * x * c, c)
                        x += 1


@compiled(inline=True)
def _transformed_gradient(by_map, images, image, y, m, rows):
    """Compute dM = A dY Aᵀ of four rows of an image's map, in place of its products m [36, tiles, PANEL]."""
    width = by_map.shape[1]
    tiles, step = (m.shape[1] - 1) // images, m.shape[1] * PANEL
    source, between, target = by_map.ctypes.data, rows.ctypes.data, m.ctypes.data
    for tx in range(width // 4):
        tile = image * tiles + y // 4 * (width // 4) + tx
        for q in range(0, PANEL, LANES):
            for dx in range(4):
                transposed_output_transform(
                    source + 4 * ((4 * tx + dx) * PANEL + q), width * PANEL,
                    between + 4 * dx * LANES, 4 * LANES,
                )  # fmt: skip
            for i in range(6):
                transposed_output_transform(
                    between + 4 * 4 * i * LANES, LANES,
                    target + 4 * (6 * i * step + tile * PANEL + q), step,
                )  # fmt: skip


@compiled(inline=True)
def _many_products(work, back, by_filters, panel, by_maps):
    """Add Vᵀ dM to the sum of a panel, by_filters [panels, 36, c, PANEL]; and dM Uᵀ to work.by_transformed."""
    v, m, by_v = work.transformed, work.products, work.by_transformed
    _, allocated, c = v.shape
    tiles, wide = allocated - 1, by_v.shape[2]
    for j in range(36):
        source = m[j].ctypes.data
        _add_outer_products(v[j].ctypes.data, 1, 0, tiles, c, source, 0, by_filters[panel, j].ctypes.data, c)
        for group in range(back.shape[1] if by_maps else 0):
            filters, target = back[panel, group, j].ctypes.data, by_v[j].ctypes.data + 4 * PANEL * group
            if panel == 0:
                product_of_rows(source, PANEL, tiles, 1, PANEL, 0, filters, target, wide)
                continue
            i = 0
            while i < tiles:
                if tiles - i >= ROWS:
                    add_product(source + 4 * i * PANEL, PANEL, PANEL, filters, target + 4 * i * wide, wide)
                    i += ROWS
                else:
                    add_row_product(
                        source + 4 * i * PANEL, PANEL, PANEL, filters, target + 4 * i * wide, wide
                    )
                    i += 1


@compiled
def _add_input_gradient(work, image):
    """Add B dV Bᵀ of an image's tiles to its padded map's gradient, where tiles lie in it."""
    _, height, breadth, c = work.padded.shape
    c = -(-c // LANES) * LANES
    th, tw, wide = (height - 2) // 4, (breadth - 2) // 4, work.by_transformed.shape[2]
    step, line = work.by_transformed.shape[1] * wide, breadth * c
    source, between = work.by_transformed.ctypes.data, work.rows.ctypes.data
    target = work.by_padded.ctypes.data + 4 * image * height * line
    for ty in range(th):
        for y in range(6):
            work.rows[y, :line] = 0
        for tx in range(tw):
            tile = (image * th + ty) * tw + tx
            for y in range(6):
                for q in range(0, c, LANES):
                    add_transposed_input_transform(
                        source + 4 * (6 * y * step + tile * wide + q), step,
                        between + 4 * (y * work.rows.shape[1] + 4 * tx * c + q), c,
                    )  # fmt: skip
        for q in range(0, line, LANES):
            add_transposed_input_transform(
                between + 4 * q, work.rows.shape[1], target + 4 * (4 * ty * line + q), line
            )


@compiled
def add_to_maps(work, layer, maps, by_norms, above, left, out, whole):
    """Add the padded gradient, and what goes through the norms, to out [b, h, w, c]; or write it, of a whole map.

    ``maps`` are the layer's input [b, h, w, c], which begins at that row (which may be negative) and column of
    the padded one; ``by_norms`` [height, breadth] has room for sums of one image.
    """
    b, height, breadth, c = work.padded.shape
    step = (len(work.by_padded) - LANES) // (b * height * breadth)
    for i in range(b):
        _box_sums(work.by_norm[i], work.factor[i], layer, by_norms)
        for y in range(max(0, -above), min(out.shape[1], height - above)):
            for x in range(out.shape[2]):
                place = ((i * height + above + y) * breadth + left + x) * step
                source, target, here = work.by_padded[place : place + c], out[i, y, x], maps[i, y, x]
                through = by_norms[above + y, left + x]
                if whole:
                    for q in range(c):
                        target[q] = source[q] + through * here[q]
                else:
                    for q in range(c):
                        target[q] += source[q] + through * here[q]


@compiled
def _box_sums(by_norm, factor, layer, sums):
    """Sum (∂/∂n)/n over the patches that a position of the padded map is in: sums [height, breadth]."""
    sums[:] = 0
    for y in range(by_norm.shape[0]):
        for x in range(by_norm.shape[1]):
            if factor[y, x] > 0:  # elsewhere nothing goes through the norm
                by = by_norm[y, x] / factor[y, x]
                for dy in range(layer.patch_height):
                    for dx in range(layer.patch_width):
                        sums[y + dy, x + dx] += by
