"""Winograd's transform of the filters, compiled, straight into panels.

NumPy takes as long for it as a network for many images, which counts where filters change at every step of a
training.
"""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg"

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.llvm.fused import fused
from ckncuda.backend.numpy.compiled.llvm.product import PANEL
from ckncuda.backend.numpy.tiles import aligned
from ckncuda.backend.numpy.winograd import SPAN, G
from ckncuda.compiled.functions import compiled

Array = NDArray[np.float32]


def transformed_panels(anchors: NDArray[np.floating[Any]]) -> Array:
    """Compute G g Gᵀ of anchor points [filters, 3, 3, channels]: [panels, 36, channels, PANEL].

    They are, bit for bit, what `packed` makes of `winograd.transformed_filters`.
    """
    shape = -(-len(anchors) // PANEL), SPAN**2, anchors.shape[3], PANEL
    panels = aligned(int(np.prod(shape))).reshape(shape)
    _transform(G, np.require(anchors, None, ["C", "W"]), panels)
    return panels


def transposed_panels(filters: Array) -> Array:
    """Transpose each of the 36 matrices: [panels, panels of channels, 36, PANEL filters, PANEL channels]."""
    panels, _, channels, _ = filters.shape
    shape = panels, -(-channels // PANEL), SPAN**2, PANEL, PANEL
    back = aligned(int(np.prod(shape))).reshape(shape)
    _transpose(filters, back)
    return back


@compiled
def _transform(g, anchors, panels):
    """Transform along the height, then along the width, each sum in the order of a product of matrices."""
    p, c = anchors.shape[0], anchors.shape[3]
    block, half = np.zeros((3, 3, PANEL)), np.empty((6, 3, PANEL))
    for panel in range(len(panels)):
        first = panel * PANEL
        count = min(PANEL, p - first)
        block[:, :, count:] = 0
        for q in range(c):
            for y in range(3):
                for x in range(3):
                    for f in range(count):
                        block[y, x, f] = anchors[first + f, y, x, q]
            for i in range(6):
                for x in range(3):
                    line, a, b, d = half[i, x], block[0, x], block[1, x], block[2, x]
                    for f in range(PANEL):
                        line[f] = fused(g[i, 2], d[f], fused(g[i, 1], b[f], g[i, 0] * a[f]))
            for i in range(6):
                for j in range(6):
                    target, a, b, d = panels[panel, 6 * i + j, q], half[i, 0], half[i, 1], half[i, 2]
                    for f in range(PANEL):
                        target[f] = fused(g[j, 2], d[f], fused(g[j, 1], b[f], g[j, 0] * a[f]))


@compiled
def _transpose(filters, back):
    c = filters.shape[2]
    for panel in range(back.shape[0]):
        for group in range(back.shape[1]):
            first = group * PANEL
            count = min(PANEL, c - first)
            for j in range(36):
                source, target = filters[panel, j], back[panel, group, j]
                for f in range(PANEL):
                    for q in range(count):
                        target[f, q] = source[first + q, f]
                    target[f, count:] = 0
