"""Winograd's algorithm transposed, and what its rounding does to dark patches."""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from numba import float32

from ckncuda.backend.numpy.compiled.encode_loops import product_of_rows
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.product import (
    PANEL,
    ROWS,
    add_four_outer_products,
    add_outer_product,
    add_product,
    add_row_product,
    add_three_outer_products,
)
from ckncuda.backend.numpy.compiled.llvm.winograd import (
    add_transposed_input_transform,
    transposed_output_transform,
)
from ckncuda.compiled.functions import compiled

DARK = 1 / 32  # of the brightest patch of a tile: above, rounding stays below what is aimed at


@compiled
def find_dark(scale, dark):
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
def mend_dark(work, image, first, n, anchors, panel):
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
def add_outer_products(a, lines, a_line, count, a_stride, b, b_line, c, terms):
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
def transformed_gradient(by_map, images, image, y, m, rows):
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
def many_products(work, back, by_filters, panel, begins, by_maps):
    """Add Vᵀ dM to the sum of a panel, by_filters [panels, 36, c, PANEL], and dM Uᵀ to work.by_transformed.

    What is there where the sum ``begins`` does not count.  Of a single panel dM Uᵀ may take the place of V.
    """
    v, m, by_v = work.transformed, work.products, work.by_transformed
    _, allocated, c = v.shape
    tiles, wide = allocated - 1, by_v.shape[2]
    for j in range(36):
        source = m[j].ctypes.data
        if begins:
            by_filters[panel, j] = 0
        add_outer_products(v[j].ctypes.data, 1, 0, tiles, c, source, 0, by_filters[panel, j].ctypes.data, c)
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
def add_input_gradient(work, image):
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
