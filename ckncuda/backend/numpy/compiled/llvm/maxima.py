"""Maxima of rows of products on vectors, for k-means."""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

from llvmlite import ir
from numba import types

from ckncuda.backend.numpy.compiled.llvm.emitter import ADDRESS, COUNT, INDEX, LANES, emits
from ckncuda.backend.numpy.compiled.llvm.product import PANEL

_INTEGER = ir.IntType(32)


def _reduced(builder, operation, vector):
    """Reduce a vector to one number by LLVM's operation of that name."""
    element = vector.type.element
    kind = "f32" if element == ir.FloatType() else "i32"
    name = f"llvm.vector.reduce.{operation}.v{vector.type.count}{kind}"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(element, [vector.type]), name
    )
    # There is no NaN: what k-means is given was checked.
    return builder.call(function, [vector], fastmath=("nnan",) if operation == "fmax" else ())


@emits(ADDRESS, COUNT, result=COUNT)
def first_maximum(emit, row, vectors):
    """Find the greatest of ``vectors`` · LANES numbers at an address: its place, the first of equal ones."""
    builder, whole = emit.builder, ir.VectorType(_INTEGER, LANES)

    def one_vector(i, best):
        values, turns = best
        here = emit.load(emit.at(row, i, LANES))
        turn = emit.spread(builder.trunc(i, _INTEGER))
        greater = builder.fcmp_ordered(">", here, values)
        return builder.select(greater, here, values), builder.select(greater, turn, turns)

    lowest = emit.constant(float("-inf"))
    values, turns = emit.loop(vectors, [lowest, ir.Constant(whole, [0] * LANES)], one_vector)
    lanes = ir.Constant(whole, list(range(LANES)))
    places = builder.add(builder.mul(turns, ir.Constant(whole, [LANES] * LANES)), lanes)
    greatest = emit.spread(_reduced(builder, "fmax", values))
    nowhere = ir.Constant(whole, [2**31 - 1] * LANES)
    places = builder.select(builder.fcmp_ordered("==", values, greatest), places, nowhere)
    return builder.zext(_reduced(builder, "smin", places), INDEX)


@emits(ADDRESS, types.float32, ADDRESS, COUNT, ADDRESS, width=PANEL)
def raise_bounds(emit, row, tail, tails, panels, greatest):
    """Add a tail times each of the tails to a row of products; write the greatest of each panel."""
    tail = emit.spread(tail)

    def one_panel(i, _):
        place = emit.at(row, i, PANEL)
        raised = emit.multiply_add(tail, emit.load(emit.at(tails, i, PANEL)), emit.load(place))
        emit.store(raised, place)
        emit.builder.store(_reduced(emit.builder, "fmax", raised), emit.at(greatest, i))
        return []

    emit.loop(panels, [], one_panel)
