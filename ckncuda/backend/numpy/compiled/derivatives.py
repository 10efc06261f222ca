"""Derivatives κ' of dot-product kernels, compiled: one function each, in the table `DERIVATIVES`.

As in `dot_product`, a function takes `DotProductKernel.device_parameters` and a row of numbers t.  Of a κ
that is not there, the way back is computed in NumPy alone.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def"

from numba import float32

from ckncuda.backend.numpy.compiled.dot_product import arccos0, elementwise, one_of, polynomial
from ckncuda.compiled.functions import compiled
from ckncuda.layer.dot_product import DotProductKernel


@compiled(inline=True)
def _of_linear(parameters, row):
    row[:] = float32(1.0)


@compiled(inline=True)
def _of_series(parameters, row):
    for q in range(len(row)):
        t, total = row[q], float32(0.0)
        for m in range(int(parameters[0]), 0, -1):
            total = total * t + float32(m) * parameters[1 + m]
        row[q] = total


@compiled(inline=True)
def _of_polynomial(parameters, row):
    degree, over = parameters[0], parameters[2]
    lower = parameters.copy()
    lower[0] = degree - float32(1.0)
    polynomial(lower, row)
    factor = degree * over
    for q in range(len(row)):
        row[q] *= factor


@compiled(inline=True)
def _of_inverse_polynomial(t):
    over = float32(1.0) / (float32(2.0) - t)
    return over * over


DERIVATIVES = {
    "Polynomial": _of_polynomial,
    "InversePolynomial": elementwise(_of_inverse_polynomial),
    "ArcCosine1": elementwise(arccos0),
    "Linear": _of_linear,
    "Series": _of_series,
}
"""Functions of (parameters, row) that write κ'(t) in place of t; the exponential's is fused with itself."""

NUMBERS = {name: number for number, name in enumerate(DERIVATIVES)}

_any_of_them = one_of(list(DERIVATIVES.values()))


def has_derivative(kernel: DotProductKernel) -> bool:
    """Tell whether loops know the derivative of a κ."""
    return kernel.device_name == "Exponential" or kernel.device_name in DERIVATIVES


def number_of(kernel: DotProductKernel) -> int:
    """Return the number by which loops know a derivative; of the exponential, which needs none, −1."""
    return NUMBERS.get(str(kernel.device_name), -1)


@compiled
def apply_derivative(number, parameters, row):
    """Put κ' of each number, for a κ of `NUMBERS`, in its place."""
    _any_of_them(number, parameters, row)
