"""Inner loops of a layer's way back on one thread's tile, compiled by Numba.

As on the way forward, a panel of filters at a time goes from the products through κ, here with the gradient
by the map, a few rows at a time.  Winograd's algorithm is transposed as a whole: of M = (Bᵀ d B) (G g Gᵀ)
and Y = Aᵀ M A come dM = A dY Aᵀ, and from that both gradients, by products as small as on the way forward.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.dot_product import EXPONENTIAL
from ckncuda.backend.numpy.compiled.encode_loops import (
    COLOUR,
    DIRECT,
    MANY,
    Taps,
    colour_products,
    copy_rows,
    direct_products,
    patch_norms,
    product_of_rows,
    winograd_input,
    winograd_output,
    winograd_products,
)
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import (
    NARROW_ROWS,
    PANEL,
    add_narrow_product,
    add_narrow_row_product,
    weighted_sum,
)
from ckncuda.backend.numpy.compiled.through_kernel import exponential_backward, kernel_backward
from ckncuda.backend.numpy.compiled.winograd_backward import (
    add_input_gradient,
    add_outer_products,
    find_dark,
    many_products,
    mend_dark,
    transformed_gradient,
)
from ckncuda.compiled.functions import compiled

Array = NDArray[np.float32]


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
    # [panels, panels of channels, 36, PANEL, PANEL] transformed, or [panels, patch height, groups, PANEL,
    # LANES]; empty where nobody asks for the gradient by the maps
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
def by_pooled(upstream, encoded, projection, pooled, part, outputs):
    """Carry the gradient by the outputs to the pooled map, pooled [b, h', w', panels · PANEL]; add to sums.

    ``upstream`` and ``encoded`` are [b, h', w', filters]; ``outputs`` [panels, filters, PANEL] sums the
    product of both over positions; ``part`` [positions at a time, PANEL] is room for some of a panel.
    """
    b, height, width, p = upstream.shape
    n, whole = b * height * width, pooled.shape[3]
    rows = encoded.reshape(n, p)
    for panel in range(len(projection)):
        product_of_rows(
            upstream.ctypes.data, p, n, 1, p, 0,
            projection[panel].ctypes.data, pooled.ctypes.data + 4 * PANEL * panel, whole,
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
            add_outer_products(
                upstream.ctypes.data + 4 * start * p, 1, 0, positions, p,
                part.ctypes.data, 0, outputs[panel].ctypes.data, p,
            )  # fmt: skip


@compiled
def backward(rows, work, layer, weights, pooled, by_filters, by_maps, kept):
    """Go back through a tile: from work.padded, and the gradient by the pooled map, to work.by_padded.

    ``rows`` is the row of the map at which the band begins, and whether the sum begins with it; ``pooled`` is
    as `by_pooled` makes it, ``by_filters`` the sum over positions: [panels, 36, c, PANEL] or [panels, 1,
    terms, PANEL].
    Without ``by_maps`` that sum is all.  Products that were ``kept`` [b, panels, rows, width, PANEL] on the
    way forward are not computed again.
    """
    b, n_rows, width = work.scale.shape
    many, (first, begins) = layer.algorithm == MANY, rows
    for i in range(b):
        patch_norms(work.padded[i], layer, work.scale[i], work.factor[i])
        work.dark[i] = 0
        if layer.algorithm != DIRECT:
            find_dark(work.scale[i], work.dark[i])
        if many:
            winograd_input(work.padded[i], i, work.transformed, work.rows)
    if by_maps:
        work.by_norm[:] = 0
        work.by_padded[:] = 0
    for panel in range(len(weights.filters)):
        if begins and not many:
            by_filters[panel] = 0
        if many and len(kept) == 0:
            winograd_products(work.transformed, weights.filters[panel], work.products)
        for i in range(b):
            for y in range(0, n_rows, len(work.strip)):
                n = min(len(work.strip), n_rows - y)
                _products(work, layer, weights, kept, panel, i, y, n)
                for dy in range(n):
                    _spread(pooled[i], panel, layer, first + y + dy, work.half, work.by_map[dy])
                scale, factor = work.scale[i, y : y + n], work.factor[i, y : y + n]
                if layer.kernel == EXPONENTIAL:
                    exponential_backward(work, scale, factor, layer, work.by_norm[i, y : y + n], by_maps)
                else:
                    kernel_backward(work, scale, factor, layer, work.by_norm[i, y : y + n], by_maps)
                if many:
                    work.by_map[n:] = 0
                    work.by_map[:, width:] = 0
                    transformed_gradient(work.by_map, b, i, y, work.products, work.rows)
                else:
                    _add_to_filters(layer, work.padded[i], y, n, width, work.by_map, by_filters[panel, 0])
                    if by_maps:
                        _add_to_maps(layer, work, i, y, n, width, weights.back[panel])
        if many:
            many_products(work, weights.back, by_filters, panel, begins, by_maps)
    if many and by_maps:
        for i in range(b):
            add_input_gradient(work, i)


@compiled(inline=True)
def _products(work, layer, weights, kept, panel, i, y, n):
    """Compute products of n rows of an image and a panel of filters, to work.strip, or take those kept."""
    if len(kept):
        copy_rows(kept[i, panel], y, n, work.strip, 0)
    elif layer.algorithm == MANY:
        winograd_output(work.products, len(work.padded), i, y, n, work.strip, work.rows)
    elif layer.algorithm == COLOUR:
        padded, v = work.padded[i], work.transformed[0]
        colour_products(padded, weights.filters[panel], y, n, work.strip, work.rows, v)
    else:
        direct_products(layer, work.padded[i], weights.filters[panel], y, n, work.strip)
    if work.dark[i, y // len(work.strip)]:
        mend_dark(work, i, y, n, weights.anchors, panel * PANEL)


@compiled(inline=True)
def _spread(pooled, panel, layer, y, half, by_map):
    """Pool a panel of pooled maps [h', w', panels · PANEL] back to a row of the map, [width, PANEL]."""
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
def _add_to_filters(layer, padded, y, n, width, by_map, by_filters):
    """Add the gradients by n rows of products, times their patches, to by_filters [terms, PANEL]."""
    _, breadth, c = padded.shape
    run = layer.patch_width * c
    for dy in range(layer.patch_height):
        add_outer_products(
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


@compiled
def add_to_maps(by_padded, by_norm, factor, patch, maps, by_norms, place, out, whole):
    """Add the padded gradient, and what goes through the norms, to out [b, h, w, c]; or write a whole map's.

    ``maps`` are the layer's input [b, h, w, c], which begins at that place (whose row may be negative) of the
    padded one; ``by_norms`` [height, breadth] has room for sums of one image.
    """
    (b, _, _, c), (height, breadth), (above, left) = maps.shape, by_norms.shape, place
    step = (len(by_padded) - LANES) // (b * height * breadth)
    for i in range(b):
        _box_sums(by_norm[i], factor[i], patch, by_norms)
        for y in range(max(0, -above), min(out.shape[1], height - above)):
            for x in range(out.shape[2]):
                start = ((i * height + above + y) * breadth + left + x) * step
                source, target, here = by_padded[start : start + c], out[i, y, x], maps[i, y, x]
                through = by_norms[above + y, left + x]
                if whole:
                    for q in range(c):
                        target[q] = source[q] + through * here[q]
                else:
                    for q in range(c):
                        target[q] += source[q] + through * here[q]


@compiled
def _box_sums(by_norm, factor, patch, sums):
    """Sum (∂/∂n)/n over the patches that a position of the padded map is in: sums [height, breadth]."""
    sums[:] = 0
    for y in range(by_norm.shape[0]):
        for x in range(by_norm.shape[1]):
            if factor[y, x] > 0:  # elsewhere nothing goes through the norm
                by = by_norm[y, x] / factor[y, x]
                for dy in range(patch[0]):
                    for dx in range(patch[1]):
                        sums[y + dy, x + dx] += by
