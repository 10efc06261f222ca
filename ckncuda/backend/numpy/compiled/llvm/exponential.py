"""The exponential κ on vectors, and the gradient through it: sums over filters stay in registers."""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

from llvmlite import ir
from numba import types

from ckncuda.backend.numpy.compiled.llvm.emitter import ADDRESS, FLOAT, LANES, emits
from ckncuda.backend.numpy.compiled.llvm.product import PANEL

LOWEST = -125.0  # of exponents: 2^x below gives about this power
ROUNDING = 12582912.0  # 1.5 · 2^23, which leaves no room for a fraction
COEFFICIENTS = (
    1.535336001e-04, 1.339887467e-03, 9.618437367e-03, 5.550332471e-02, 2.402264791e-01, 6.931472029e-01, 1.0,
)  # fmt: skip
"""A polynomial that is 2^r for r within ±1/2, the highest power first."""


def _clipped(emit, x, lowest, highest):
    builder, low, high = emit.builder, emit.constant(lowest), emit.constant(highest)
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


def _power(emit, x):
    """Emit 2^x of a vector of x ≤ 0, as `dot_product` does computes it."""
    builder, whole = emit.builder, ir.VectorType(ir.IntType(32), emit.width)
    x, rounding = _clipped(emit, x, LOWEST, 0.0), emit.constant(ROUNDING)
    shifted = builder.fadd(x, rounding)
    r = builder.fsub(x, builder.fsub(shifted, rounding))
    p = emit.constant(COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        p = emit.multiply_add(p, r, emit.constant(coefficient))
    n = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * emit.width))
    return builder.bitcast(builder.add(builder.bitcast(p, whole), n), emit.vector)


def _total(emit, vector):
    """Emit the sum of a vector's numbers."""
    name = f"llvm.vector.reduce.fadd.v{emit.width}f32"
    function = emit.builder.module.globals.get(name) or ir.Function(
        emit.builder.module, ir.FunctionType(FLOAT, [FLOAT, vector.type]), name
    )
    return emit.builder.call(function, [FLOAT(0.0), vector], fastmath=("reassoc",))


@emits(ADDRESS, ADDRESS, types.float32, types.float32, types.float32)
def through_exponential(emit, products, by_map, scale, shift, factor):
    """Compute, of a panel, by_map *= factor · 2^(scale · product − shift)."""
    scale, shift, factor = (emit.spread(number) for number in (scale, shift, factor))
    for q in range(0, PANEL, LANES):
        power = _power(
            emit, emit.builder.fsub(emit.builder.fmul(scale, emit.load(emit.at(products, q))), shift)
        )
        place = emit.at(by_map, q)
        emit.store(emit.builder.fmul(emit.builder.fmul(emit.load(place), factor), power), place)


@emits(ADDRESS, ADDRESS, *[types.float32] * 5, ADDRESS)
def through_exponential_and_norm(emit, products, by_map, scale, shift, factor, of_value, of_slope, total):
    """Do the same, and add Σ by_map · κ · (of_value − of_slope · t) of the panel to a total.

    t is scale / shift · product, within ±1: Winograd's rounding is that of the brightest patch nearby.
    """
    builder = emit.builder
    over = emit.spread(builder.fdiv(FLOAT(1.0), shift))
    scale, shift, factor, of_value, of_slope = map(emit.spread, (scale, shift, factor, of_value, of_slope))
    total_of_lanes = emit.constant(0.0)
    for q in range(0, PANEL, LANES):
        exponent, place = builder.fmul(scale, emit.load(emit.at(products, q))), emit.at(by_map, q)
        value = builder.fmul(emit.load(place), _power(emit, builder.fsub(exponent, shift)))
        emit.store(builder.fmul(factor, value), place)
        t = _clipped(emit, builder.fmul(exponent, over), -1.0, 1.0)
        through = builder.fsub(of_value, builder.fmul(of_slope, t))
        total_of_lanes = emit.multiply_add(value, through, total_of_lanes)
    builder.store(builder.fadd(builder.load(total), _total(emit, total_of_lanes)), total)
