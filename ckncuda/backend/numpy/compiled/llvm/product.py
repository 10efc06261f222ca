"""The one product that everything compiled ends in: a small one, whose sums stay in registers.

`product` multiplies `ROWS` rows, of patches as they lie in an image, Winograd's tiles or pooled maps, with a
panel of `PANEL` columns.  A library's matrix product would pack both operands anew at each call, which for
operands of this size costs a good part of the product itself; here the filters are packed once.
"""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

import numpy as np
from numba import types
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.llvm.emitter import ADDRESS, COUNT, INDEX, LANES, emits
from ckncuda.backend.numpy.tiles import aligned_copy

ROWS = 4
NARROW_ROWS = 8
PANEL = (4 if LANES == 16 else 2) * LANES  # so that ROWS of sums fill half the registers


def packed(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a matrix [..., k, p] into panels [panels, ..., k, PANEL] of columns, filled up with zeros."""
    *stack, k, p = matrix.shape
    panels = -(-p // PANEL)
    filled = np.zeros((*stack, k, panels * PANEL), np.float32)
    filled[..., :p] = matrix
    return aligned_copy(np.moveaxis(filled.reshape(*stack, k, panels, PANEL), -2, 0))


def _product(emit, n, a_rows, b, b_stride, c, c_stride, add=False):
    """Emit the product of n rows with a vector of columns; if asked for, it is added to what is there."""
    a, a_stride, runs, run, run_stride = a_rows
    rows = [emit.at(a, a_stride, i) for i in range(n)]

    def one_run(r, sums):
        numbers = [emit.at(row, r, run_stride) for row in rows]
        first = emit.at(b, r, run, b_stride)

        def one_number(q, sums):
            columns = emit.load(emit.at(first, q, b_stride))
            return [
                emit.multiply_add(emit.broadcast(emit.at(x, q)), columns, s)
                for x, s in zip(numbers, sums, strict=True)
            ]

        return emit.loop(run, sums, one_number)

    for i, total in enumerate(emit.loop(runs, [emit.constant(0.0)] * n, one_run)):
        place = emit.at(c, c_stride, i)
        # Row after row: rows of C may overlap.
        emit.store(emit.builder.fadd(emit.load(place), total) if add else total, place)


@emits(ADDRESS, *[COUNT] * 4, ADDRESS, ADDRESS, COUNT, width=PANEL)
def product(emit, a, a_stride, runs, run, run_stride, b, c, c_stride):
    """Compute C [ROWS, PANEL] = A B, at addresses a, b, c; strides and lengths ≥ 1 in numbers.

    Row i of A is the ``runs`` runs of ``run`` numbers at a + i · a_stride + r · run_stride; B is a
    panel [runs · run, PANEL]; row i of C is at c + i · c_stride.
    """
    _product(emit, ROWS, (a, a_stride, runs, run, run_stride), b, INDEX(PANEL), c, c_stride)


@emits(ADDRESS, COUNT, COUNT, ADDRESS, COUNT, ADDRESS, COUNT)
def narrow_product(emit, a, a_stride, run, b, b_stride, c, c_stride):
    """Compute C [NARROW_ROWS, LANES] = A B, with rows of A of ``run`` ≥ 1 numbers, ``a_stride`` apart."""
    _product(emit, NARROW_ROWS, (a, a_stride, INDEX(1), run, INDEX(0)), b, b_stride, c, c_stride)


def _adding_product(n, width):
    def adds(emit, a, a_stride, run, b, c, c_stride):
        rows = (a, a_stride, INDEX(1), run, INDEX(0))
        _product(emit, n, rows, b, INDEX(width), c, c_stride, add=True)

    return emits(ADDRESS, COUNT, COUNT, ADDRESS, ADDRESS, COUNT, width=width)(adds)


add_product, add_row_product = (_adding_product(n, PANEL) for n in (ROWS, 1))
"""Functions that compute C [ROWS, PANEL], or [1, PANEL], += A B, with rows of A of ``run`` ≥ 1 numbers."""

add_narrow_product, add_narrow_row_product = (_adding_product(n, LANES) for n in (NARROW_ROWS, 1))
"""The same for C [NARROW_ROWS, LANES], or [1, LANES]; rows of C that overlap are added in turn."""


def _outer_products(n):
    def adds(emit, a, lines, a_line, count, a_stride, b, b_line, c):
        places = [emit.at(c, i, PANEL) for i in range(n)]

        def one_line(r, sums):
            numbers, vectors = emit.at(a, r, a_line), emit.at(b, r, b_line)

            def one_position(q, sums):
                of_position, vector = emit.at(numbers, q, a_stride), emit.load(emit.at(vectors, q, PANEL))
                return [
                    emit.multiply_add(emit.broadcast(emit.at(of_position, i)), vector, s)
                    for i, s in enumerate(sums)
                ]

            return emit.loop(count, sums, one_position)

        for place, total in zip(
            places, emit.loop(lines, [emit.load(p) for p in places], one_line), strict=True
        ):
            emit.store(total, place)

    return emits(ADDRESS, *[COUNT] * 4, ADDRESS, COUNT, ADDRESS, width=PANEL)(adds)


add_four_outer_products, add_three_outer_products, add_outer_product = map(_outer_products, (4, 3, 1))
"""Functions that compute C [4, 3 or 1 rows, PANEL] += Aᵀ B, a sum over positions, in lines of ``count`` ≥ 1.

Row q of line r of A is at a + r · a_line + q · a_stride, that of B at b + r · b_line + q · PANEL.
"""


@emits(ADDRESS, COUNT, ADDRESS, COUNT, ADDRESS, width=PANEL)
def weighted_sum(emit, weights, count, b, b_stride, c):
    """Compute C [PANEL] = Σ_j weights[j] · B[j], with row j < count of B at b + j · b_stride; count ≥ 1."""
    _product(emit, 1, (weights, INDEX(0), INDEX(1), count, INDEX(0)), b, b_stride, c, INDEX(0))


@emits(types.float32, ADDRESS, ADDRESS)
def add_multiple(emit, weight, b, c):
    """Compute C [LANES] += weight · B [LANES]."""
    emit.store(emit.multiply_add(emit.spread(weight), emit.load(b), emit.load(c)), c)
