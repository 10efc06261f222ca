"""The way back through κ and the norms of patches, for a strip of rows."""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

import numpy as np
from numba import float32

from ckncuda.backend.numpy.compiled.derivatives import apply_derivative
from ckncuda.backend.numpy.compiled.dot_product import apply
from ckncuda.backend.numpy.compiled.llvm.exponential import (
    through_exponential,
    through_exponential_and_norm,
)
from ckncuda.backend.numpy.compiled.llvm.product import PANEL
from ckncuda.compiled.functions import compiled

LOG_2 = float(np.log(2))


@compiled(inline=True)
def _through_norm(layer, f):
    """Return what κ and κ' t are multiplied with in the gradient by a norm, whose factor of the map is f.

    The norm is a factor of y, where the floor does not take its place, and t's divisor, above the floor.
    """
    above = f > float32(layer.norm_floor)
    scaled = above or (not layer.floored_factor and f > 0)
    return float32(1.0 if scaled else 0.0), float32(1.0 if above else 0.0)


@compiled(inline=True)
def exponential_backward(work, scale, factor, layer, by_norm, by_maps):
    """Put the gradient by the products in place of that by the map; add what goes through the norms.

    κ' = α κ, so that of each number there is one exponential.
    """
    n, width = scale.shape
    shift, log_2 = float32(layer.slope), float32(LOG_2)
    products, gradients, sums = work.strip.ctypes.data, work.by_map.ctypes.data, by_norm.ctypes.data
    for y in range(n):
        for x in range(width):
            s, f = scale[y, x], factor[y, x]
            place = 4 * PANEL * (y * work.strip.shape[1] + x)
            if by_maps:
                of_value, of_slope = _through_norm(layer, f)
                through_exponential_and_norm(
                    products + place, gradients + place, s, shift, f * s * log_2,
                    of_value, of_slope * shift * log_2, sums + 4 * (y * width + x),
                )  # fmt: skip
            else:
                through_exponential(products + place, gradients + place, s, shift, f * s * log_2)


@compiled
def kernel_backward(work, scale, factor, layer, by_norm, by_maps):
    """Do the same for any other κ that is compiled."""
    n, width = scale.shape
    values, slopes = work.values.reshape(-1)[: width * PANEL], work.slopes.reshape(-1)[: width * PANEL]
    for y in range(n):
        t_of_row = work.strip[y].reshape(-1)[: width * PANEL]
        for x in range(width):
            row, s = work.strip[y, x], scale[y, x]
            for q in range(PANEL):  # Winograd's rounding is that of the brightest patch nearby
                row[q] = min(max(s * row[q], float32(-1.0)), float32(1.0))
        slopes[:] = t_of_row
        apply_derivative(layer.derivative, layer.parameters, slopes)
        if by_maps:
            values[:] = t_of_row
            apply(layer.kernel, layer.parameters, values)
        for x in range(width):
            t, by, f = work.strip[y, x], work.by_map[y, x], factor[y, x]
            value, slope, c = work.values[x], work.slopes[x], f * scale[y, x]
            if by_maps:
                of_value, of_slope = _through_norm(layer, f)
                for q in range(PANEL):
                    by_kernel = by[q]
                    by[q] = c * by_kernel * slope[q]
                    t[q] = by_kernel * (of_value * value[q] - of_slope * slope[q] * t[q])
            else:
                for q in range(PANEL):
                    by[q] *= c * slope[q]
        if by_maps:
            _add_sums(work.strip[y], by_norm[y])


@compiled(reordered=True)
def _add_sums(strip, sums):
    """Add the sum of each position of a row of a strip to those there are."""
    for x in range(len(sums)):
        row, total = strip[x], float32(0.0)
        for q in range(PANEL):
            total += row[q]
        sums[x] += total
