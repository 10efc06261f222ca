"""Winograd's algorithm on vectors: its transforms, and all of it for colour images.

The matrices are those of `winograd`; zeros in them cost nothing.
"""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ckncuda.backend.register_product import packed
from ckncuda.backend.registers import ADDRESS, COUNT, LANES, Emitter
from ckncuda.backend.winograd import AT, BT, SPAN, TILE


@intrinsic
def input_transform(context, a, a_stride, b, b_stride):
    """B [6, LANES] = Bᵀ A [6, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    return types.void(ADDRESS, COUNT, ADDRESS, COUNT), _transform(BT)


@intrinsic
def output_transform(context, a, a_stride, b, b_stride):
    """B [4, LANES] = Aᵀ A [6, LANES], whose rows are at a + i · a_stride and b + i · b_stride."""
    return types.void(ADDRESS, COUNT, ADDRESS, COUNT), _transform(AT)


def _transform(matrix):
    def generate(context, builder, signature, arguments):
        emit = Emitter(builder, LANES)
        a, a_stride, b, b_stride = arguments
        a, b = emit.pointer(a), emit.pointer(b)
        values = [emit.load(emit.at(a, a_stride, i)) for i in range(matrix.shape[1])]
        for i, row in enumerate(matrix):
            emit.store(emit.combination(row, values), emit.at(b, b_stride, i))
        return context.get_dummy_value()

    return generate


COLOURS = 3
ROW_TILES = 16  # tiles of a row that are taken at a time, so that all strides below are constants
ROW = 208  # numbers between two rows of such a part, at least (TILE · ROW_TILES + 2) · COLOURS


def colour_filters(transformed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filters [36, 3, p] as `colour_tile` takes them: [groups of LANES filters, 108, LANES]."""
    panels = packed(transformed, LANES).reshape(-1, SPAN, SPAN, COLOURS, LANES)
    return np.ascontiguousarray(panels.swapaxes(1, 2)).reshape(len(panels), -1, LANES)


@intrinsic
def colour_tile(context, v, u, y, y_stride, x_stride):
    """A tile Y [4, 4, LANES] = Aᵀ (Σ_c v_c u_c) A of three channels, all of it in registers.

    Number (i, j) of the transformed tile is at v + (6 i + j) · ROW, its three channels next to each
    other; u are `colour_filters`; Y is at y + i · y_stride + j · x_stride.
    """

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder, LANES)
        v, u, y = (emit.pointer(address) for address in arguments[:3])
        y_stride, x_stride = arguments[3:]
        columns = []
        for j in range(SPAN):
            products = [emit.constant(0.0)] * SPAN
            for i in range(SPAN):
                for c in range(COLOURS):
                    number = emit.broadcast(emit.at(v, (SPAN * i + j) * ROW + c))
                    filters = emit.load(emit.at(u, ((SPAN * j + i) * COLOURS + c) * LANES))
                    products[i] = emit.multiply_add(number, filters, products[i])
            columns.append([emit.combination(row, products) for row in AT])
        for i in range(TILE):
            values = [column[i] for column in columns]
            for j, row in enumerate(AT):
                pointer = emit.at(emit.at(y, y_stride, i), x_stride, j)
                emit.store(emit.combination(row, values), pointer)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, COUNT, COUNT), generate
