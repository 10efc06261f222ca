"""The steps of k-means in NumPy alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.numpy.sketch import SLACK, Sketch
from ckncuda.backend.numpy.tiles import Buffer
from ckncuda.types import Index

Vectors = NDArray[np.float32]
ROWS = 2048  # of a block


class Anchors:
    """Anchor points [k, d], ready to be compared with patches."""

    def __init__(self, anchors: Vectors, sketch: Sketch | None) -> None:
        self.rows = anchors
        self.sketch = sketch
        if sketch is not None:
            heads, self.tails = sketch.of(anchors)
        self.columns = np.ascontiguousarray((anchors if sketch is None else heads).T)

    def nearest(self, patches: Vectors, rows: slice, index: Index, cosine: Vectors, buffer: Buffer) -> None:
        """Write the numbers and the cosines of the nearest anchors of some rows of the patches."""
        m = rows.stop - rows.start
        products = buffer("products", (m, len(self.rows)))
        heads = patches if self.sketch is None else self.sketch.heads
        np.matmul(heads[rows], self.columns, out=products)
        if self.sketch is None:
            products.argmax(axis=1, out=index)
            cosine[:] = np.take_along_axis(products, index[:, None], axis=1)[:, 0]
            return
        bounds = buffer("bounds", products.shape)
        np.multiply(self.sketch.tails[rows, None], self.tails, out=bounds)
        bounds += products
        # The anchor of the greatest bound is as good a guess as any; its cosine rules out most others.
        guess = bounds.argmax(axis=1)
        own = np.einsum("ij,ij->i", patches[rows], self.rows[guess])
        row, anchor = np.nonzero(bounds >= (own - np.float32(SLACK))[:, None])
        cosines = np.einsum("ij,ij->i", patches[rows.start + row], self.rows[anchor])
        # The first of the best of each row, of which there is always one: the guess.
        best = np.maximum.reduceat(cosines, np.searchsorted(row, np.arange(m)))
        winners = np.flatnonzero(cosines == best[row])[::-1]
        index[row[winners]] = anchor[winners]
        cosine[:] = best


def sums(patches: Vectors, nearest: Index, clusters: int) -> NDArray[Any]:
    """Sum the patches of each cluster: [clusters, d]."""
    import scipy.sparse  # slow to import: only a fit pays for it

    m = len(patches)
    ones = np.ones(m, patches.dtype)
    membership = scipy.sparse.csr_array((ones, nearest, np.arange(m + 1)), shape=(m, clusters))
    return np.asarray(membership.T.tocsr() @ patches)
