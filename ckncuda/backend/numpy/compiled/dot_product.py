"""Dot-product kernels κ, compiled: one function each, in the table `FUNCTIONS`.

A function takes `DotProductKernel.device_parameters` and a row of numbers t, and writes κ(t) in their place.
A new κ is its class, and a function here under the class's `device_name`.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import float32, int32
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.llvm.exponential import COEFFICIENTS, LOWEST, ROUNDING
from ckncuda.backend.numpy.compiled.llvm.product import PANEL
from ckncuda.compiled.functions import compiled
from ckncuda.layer.dot_product import DotProductKernel

_OVER_PI = float32(1 / np.pi)


@compiled(inline=True)
def _exp2(x):
    """Compute 2^x of x ≤ 0 in float32, to 2 units in the last place: 2^n times a polynomial on ±1/2.

    Written out so that it is vectorised with the loop around it; x below −125 gives about 1e-38.  A
    cosine is at most 1, so that x > 0 is rounding, which beside much brighter patches may be large.
    """
    x = min(max(x, float32(LOWEST)), float32(0.0))
    # Adding 1.5 · 2^23 leaves no room for a fraction: it rounds, and n stands in the last bits.
    shifted = x + float32(ROUNDING)
    r = x - (shifted - float32(ROUNDING))
    p = float32(COEFFICIENTS[0])
    p = p * r + float32(COEFFICIENTS[1])
    p = p * r + float32(COEFFICIENTS[2])
    p = p * r + float32(COEFFICIENTS[3])
    p = p * r + float32(COEFFICIENTS[4])
    p = p * r + float32(COEFFICIENTS[5])
    p = p * r + float32(1.0)
    n = np.float32(shifted).view(np.int32) << int32(23)
    return np.int32(np.float32(p).view(np.int32) + n).view(np.float32)


@compiled(inline=True)
def _angle(t):
    """Compute arccos |t| in float32, to 2e-7, for |t| up to 1 or by rounding above.

    √(1 − |t|) times a polynomial, fitted so that the largest relative error is least.
    """
    a = min(abs(t), float32(1.0))
    p = float32(-1.253455761e-03)
    p = p * a + float32(6.638613995e-03)
    p = p * a + float32(-1.704509556e-02)
    p = p * a + float32(3.086274676e-02)
    p = p * a + float32(-5.016418546e-02)
    p = p * a + float32(8.897731453e-02)
    p = p * a + float32(-2.145987004e-01)
    p = p * a + float32(1.570796251e00)
    return p * np.sqrt(float32(1.0) - a)


@compiled(inline=True)
def arccos0(t):
    """Compute κ_0(t) = 1 − arccos(t)/π."""
    angle = _angle(t) * _OVER_PI
    return angle if t < 0 else float32(1.0) - angle


@compiled(inline=True)
def arccos1(t):
    """Compute κ_1(t) = √(1 − t²)/π + t κ_0(t)."""
    squared = (float32(1.0) - t) * (float32(1.0) + t)
    return np.sqrt(max(squared, float32(0.0))) * _OVER_PI + t * arccos0(t)


def elementwise(function: Callable[..., Any]) -> Any:
    """Return the function of a row whose κ is a function of t alone."""

    @compiled(inline=True)
    def of_row(parameters, row):
        for q in range(len(row)):
            row[q] = function(row[q])

    return of_row


@compiled(inline=True)
def _inverse_polynomial(t):
    return float32(1.0) / (float32(2.0) - t)


@compiled(inline=True)
def _tangent(t):
    return t * arccos0(t) + arccos1(t)


@compiled(inline=True)
def _linear(parameters, row):
    pass


@compiled(inline=True)
def _exponential(parameters, row):
    rate = parameters[0]
    for q in range(len(row)):
        row[q] = _exp2(rate * row[q] - rate)


@compiled(inline=True)
def _series(parameters, row):
    for q in range(len(row)):
        t, total = row[q], float32(0.0)
        for m in range(int(parameters[0]), -1, -1):
            total = total * t + parameters[1 + m]
        row[q] = total


@compiled
def polynomial(parameters, row):
    """Raise by repeated squaring; to the usual powers as vectors."""
    exponent, offset, over = int(parameters[0]), parameters[1], float32(1.0) / (float32(1.0) + parameters[1])
    for q in range(len(row)):
        row[q] = (row[q] + offset) * over
    if exponent == 2:
        for q in range(len(row)):
            row[q] = row[q] * row[q]
    elif exponent == 3:
        for q in range(len(row)):
            row[q] = row[q] * row[q] * row[q]
    else:
        for q in range(len(row)):
            square, result, left = row[q], float32(1.0), exponent
            while left > 0:
                if left % 2 == 1:
                    result *= square
                square *= square
                left //= 2
            row[q] = result


FUNCTIONS = {
    "Exponential": _exponential,
    "Polynomial": polynomial,
    "InversePolynomial": elementwise(_inverse_polynomial),
    "ArcCosine0": elementwise(arccos0),
    "ArcCosine1": elementwise(arccos1),
    "Linear": _linear,
    "Series": _series,
    "Tangent": elementwise(_tangent),
}
"""Functions of (parameters, row); the last one, t κ_0(t) + κ_1(t), is the tangent kernel's first layer."""

NUMBERS = {name: number for number, name in enumerate(FUNCTIONS)}
EXPONENTIAL, TANGENT = np.int64(NUMBERS["Exponential"]), np.int64(NUMBERS["Tangent"])


def number_of(kernel: DotProductKernel) -> int:
    """Return the number by which loops know a κ that is compiled."""
    return NUMBERS[str(kernel.device_name)]


def parameters_of(kernel: DotProductKernel) -> NDArray[np.float32]:
    """Return the parameters of a κ as its function finds them: never empty."""
    return np.array(kernel.device_parameters() or (0,), np.float32)


def slope_of(kernel: DotProductKernel) -> float:
    """Return what cosines are multiplied with beforehand: the exponential's rate, or 1."""
    return kernel.device_parameters()[0] if kernel.device_name == "Exponential" else 1.0


def one_of(functions: Sequence[Callable[..., None]], first: int = 0) -> Any:
    """Return a function that calls the one of a number, of functions that are numbered from ``first`` on."""
    if len(functions) == 1:
        only = functions[0]

        def chosen(number, parameters, row):
            only(parameters, row)
    else:
        half = len(functions) // 2
        middle = first + half
        lower, upper = one_of(functions[:half], first), one_of(functions[half:], middle)

        def chosen(number, parameters, row):
            if number < middle:
                lower(number, parameters, row)
            else:
                upper(number, parameters, row)

    return compiled(chosen, inline=True)


_any_of_them = one_of(list(FUNCTIONS.values()))


@compiled
def apply(kernel, parameters, row):
    """Put κ of each number, for a κ of `NUMBERS`, in its place."""
    _any_of_them(kernel, parameters, row)


@compiled
def exponential(strip, scale, factor, shift):
    """Put factor · 2^(scale · y − shift) in place of y of a strip; scale and factor are [n, w]."""
    shift = float32(shift)
    for y in range(scale.shape[0]):
        for x in range(scale.shape[1]):
            row, s, f = strip[y, x], scale[y, x], factor[y, x]
            for q in range(PANEL):
                row[q] = f * _exp2(s * row[q] - shift)


@compiled
def apply_to_strip(kernel, parameters, slope, strip, scale, factor):
    """Put factor · κ(scale · y / slope) in place of y of a strip; scale and factor are [n, w]."""
    if kernel == EXPONENTIAL:
        exponential(strip, scale, factor, slope)
        return
    n, width = scale.shape
    for y in range(n):
        for x in range(width):
            row, s = strip[y, x], scale[y, x]
            for q in range(PANEL):  # Winograd's rounding is that of the brightest patch nearby
                row[q] = min(max(s * row[q], float32(-1.0)), float32(1.0))
        apply(kernel, parameters, strip[y].reshape(-1)[: width * PANEL])
        for x in range(width):
            row, f = strip[y, x], factor[y, x]
            for q in range(PANEL):
                row[q] *= f
