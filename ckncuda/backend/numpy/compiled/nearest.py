"""The steps of k-means with Numba's inner loops."""

# Numba's functions take what they are given.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,no-untyped-def,call-arg,var-annotated"

import numpy as np
from numba import float32
from numpy.typing import NDArray

from ckncuda.backend.numpy.compiled.encode_loops import product_of_rows
from ckncuda.backend.numpy.compiled.llvm.emitter import LANES
from ckncuda.backend.numpy.compiled.llvm.maxima import first_maximum, raise_bounds
from ckncuda.backend.numpy.compiled.llvm.product import PANEL, packed
from ckncuda.backend.numpy.sketch import SLACK, Sketch
from ckncuda.backend.numpy.tiles import Buffer
from ckncuda.compiled.functions import announce, compiled
from ckncuda.types import Index

Vectors = NDArray[np.float32]
ROWS = 2048  # of a block
STEP = 32  # rows of which all products are held at a time
NO_TAILS = np.zeros(0, np.float32)


class Anchors:
    """Anchor points [k, d], ready to be compared with patches."""

    def __init__(self, anchors: Vectors, sketch: Sketch | None) -> None:
        self.rows = np.ascontiguousarray(anchors)
        self.sketch = sketch
        heads, tails = (anchors, NO_TAILS) if sketch is None else sketch.of(anchors)
        self.tails = np.zeros(-(-len(tails) // PANEL) * PANEL, np.float32)
        self.tails[: len(tails)] = tails
        self.panels = packed(np.asarray(heads.T, np.float32))

    def nearest(self, patches: Vectors, rows: slice, index: Index, cosine: Vectors, buffer: Buffer) -> None:
        """Write the numbers and the cosines of the nearest anchors of some rows of the patches."""
        announce(_nearest)
        bounds = buffer("bounds", (STEP, len(self.panels) * PANEL))
        heads, tails = (patches, NO_TAILS) if self.sketch is None else (self.sketch.heads, self.sketch.tails)
        heads, tails = heads[rows], tails[rows]
        _nearest(patches[rows], heads, tails, self.rows, self.panels, self.tails, bounds, index, cosine)


@compiled
def _nearest(patches, heads, tails, anchors, panels, anchor_tails, bounds, index, cosine):
    """Find the anchor of greatest cosine to each patch, the first of equal ones.

    Without tails, heads are the patches themselves, and their products the cosines.
    """
    n, h = heads.shape
    k, width = len(anchors), bounds.shape[1]
    greatest = np.empty(len(panels), np.float32)  # bound of each panel
    for start in range(0, n, STEP):
        step = min(STEP, n - start)
        for panel in range(len(panels)):
            product_of_rows(
                heads[start].ctypes.data, h, step, 1, h, 0,
                panels[panel].ctypes.data, bounds.ctypes.data + 4 * PANEL * panel, width,
            )  # fmt: skip
        for i in range(step):
            row, line = start + i, bounds.ctypes.data + 4 * width * i
            bounds[i, k:] = -np.inf  # where panels are filled up there is no anchor
            if len(tails):
                raise_bounds(line, tails[row], anchor_tails.ctypes.data, len(panels), greatest.ctypes.data)
            j = first_maximum(line, width // LANES)
            index[row], cosine[row] = j, bounds[i, j]
            if len(tails):
                index[row], cosine[row] = _within_bounds(patches[row], anchors, bounds[i], greatest, j)


@compiled(reordered=True)
def _dot(x, z):
    total = float32(0.0)
    for q in range(len(x)):
        total += x[q] * z[q]
    return total


@compiled
def _within_bounds(patch, anchors, bounds, greatest, guess):
    """Find the nearest anchor, computing in full the products of those alone that may be it.

    The anchor of the greatest bound is as good a guess as any; its cosine rules out most others.
    """
    nearest, best = guess, _dot(patch, anchors[guess])
    for panel in range(len(greatest)):
        if greatest[panel] >= best - float32(SLACK):
            for j in range(panel * PANEL, (panel + 1) * PANEL):
                if j != guess and bounds[j] >= best - float32(SLACK):
                    cosine = _dot(patch, anchors[j])
                    if cosine > best or (cosine == best and j < nearest):
                        nearest, best = j, cosine
    return nearest, best


def sums(patches: Vectors, nearest: Index, clusters: int) -> Vectors:
    """Sum the patches of each cluster: [clusters, d]."""
    total = np.zeros((clusters, patches.shape[1]), np.float32)
    _add_rows(patches, nearest, total)
    return total


@compiled
def _add_rows(patches, nearest, total):
    for i in range(len(patches)):
        row, target = patches[i], total[nearest[i]]
        for q in range(len(row)):
            target[q] += row[q]
