"""Winograd's algorithm on vectors: its transforms, and all of it for colour images.

The matrices are those of `winograd`; zeros in them cost nothing.
"""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.llvm.emitter import ADDRESS, COUNT, LANES, emits
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, packed
from ckncuda.backend.numpy.tiles import aligned_copy
from ckncuda.backend.numpy.winograd import AT, BT, SPAN, TILE


@emits(ADDRESS, COUNT, ADDRESS, COUNT)
def input_transform(emit, a, a_stride, b, b_stride):
    """Compute B [6, LANES] = Bᵀ A [6, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    _transform(emit, BT, a, a_stride, b, b_stride)


@emits(ADDRESS, COUNT, ADDRESS, COUNT)
def output_transform(emit, a, a_stride, b, b_stride):
    """Compute B [4, LANES] = Aᵀ A [6, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    _transform(emit, AT, a, a_stride, b, b_stride)


@emits(ADDRESS, COUNT, ADDRESS, COUNT)
def transposed_output_transform(emit, a, a_stride, b, b_stride):
    """Compute B [6, LANES] = A A [4, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    _transform(emit, AT.T, a, a_stride, b, b_stride)


@emits(ADDRESS, COUNT, ADDRESS, COUNT)
def add_transposed_input_transform(emit, a, a_stride, b, b_stride):
    """Compute B [6, LANES] += B A [6, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    _transform(emit, BT.T, a, a_stride, b, b_stride, add=True)


def _transform(emit, matrix, a, a_stride, b, b_stride, add=False):
    values = [emit.load(emit.at(a, a_stride, i)) for i in range(matrix.shape[1])]
    for i, row in enumerate(matrix):
        place = emit.at(b, b_stride, i)
        if add:
            total = emit.combination([1, *row], [emit.load(place), *values])
        else:
            total = emit.combination(row, values)
        emit.store(total, place)


COLOURS = 3
ROW_TILES = 16  # tiles of a row that are taken at a time, so that all strides below are constants
AT_ONCE = 2  # tiles for which the filters are read once: their sums fill a good part of the registers
ROW = 208  # numbers between two rows of such a part, at least (TILE · ROW_TILES + 2) · COLOURS


def colour_filters(transformed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay filters [36, 3, p] out for `colour_columns`: [panels, groups of LANES filters, 108, LANES]."""
    panels = packed(transformed).reshape(-1, SPAN, SPAN, COLOURS, PANEL // LANES, LANES)
    in_turn = panels.transpose(0, 4, 2, 1, 3, 5)  # column by column
    return aligned_copy(in_turn).reshape(len(panels), PANEL // LANES, -1, LANES)


@emits(ADDRESS, ADDRESS, ADDRESS)
def colour_columns(emit, v, u, s):
    """Compute S [AT_ONCE, 4, 6, LANES] = Aᵀ (Σ_c v_c u_c) of tiles of three channels, in registers.

    Number (i, j) of the first tile is at v + (6 i + j) · ROW, its three channels next to each other, those
    of the next one TILE · 3 numbers further on; u are `colour_filters`.
    """
    for j in range(SPAN):
        products = [[emit.constant(0.0)] * SPAN for _ in range(AT_ONCE)]
        for i in range(SPAN):
            for c in range(COLOURS):
                filters = emit.load(emit.at(u, ((SPAN * j + i) * COLOURS + c) * LANES))
                for t in range(AT_ONCE):
                    number = emit.broadcast(emit.at(v, (SPAN * i + j) * ROW + TILE * COLOURS * t + c))
                    products[t][i] = emit.multiply_add(number, filters, products[t][i])
        for t in range(AT_ONCE):
            for i, row in enumerate(AT):
                place = emit.at(s, ((TILE * t + i) * SPAN + j) * LANES)
                emit.store(emit.combination(row, products[t]), place)
