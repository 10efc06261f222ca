"""One multiply-add in float64, rounded once, wherever the compiler would choose which product is."""

# Intrinsics are not typed.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

from llvmlite import ir
from numba import types

from ckncuda.backend.numpy.compiled.llvm.emitter import emits


@emits(types.float64, types.float64, types.float64, result=types.float64)
def fused(emit, x, y, z):
    """Compute x · y + z."""
    double = ir.DoubleType()
    function = emit.builder.module.globals.get("llvm.fma.f64") or ir.Function(
        emit.builder.module, ir.FunctionType(double, [double] * 3), "llvm.fma.f64"
    )
    return emit.builder.call(function, [x, y, z])
