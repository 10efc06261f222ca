"""Sketches: few numbers of each unit vector that bound its cosine to another, and spare k-means products.

With an orthonormal basis of a few directions V, x = V Vᵀx + rest, so that by Cauchy and Schwarz

    ⟨x, z⟩ ≤ ⟨Vᵀx, Vᵀz⟩ + ‖rest of x‖ ‖rest of z‖.

Where vectors vary mostly in those directions, few centres can be the nearest by that bound, and only their
products need be computed in full: the result is that of all products.
"""

import numpy as np

from ckncuda.types import Array

SAMPLE = 20_000  # vectors from which the directions are learned
MULTIPLE = 32  # of numbers of directions, as products of matrices like them
LEFT_OUT = 0.06  # of the squared norm, on average: then the bounds leave a handful of centres
GAIN = 4  # so much fewer numbers must a sketch have than the vectors: it is not for free
SLACK = 1e-5  # on squared norms and cosines: more than the rounding of float32


class Sketch:
    """Sketches of vectors of norm 1 by orthonormal directions V: heads Vᵀx [n, h], tails ‖rest of x‖ [n]."""

    def __init__(self, vectors: Array, directions: Array) -> None:
        self._directions = directions
        self.heads, self.tails = self.of(vectors)

    def of(self, vectors: Array) -> tuple[Array, Array]:
        """Compute heads [m, h] and tails [m], not less than they are, of vectors of norm 1."""
        heads: Array = vectors @ self._directions
        tails: Array = np.sqrt(np.maximum(1 - np.einsum("ij,ij->i", heads, heads), 0) + SLACK)
        return heads, tails.astype(vectors.dtype)


def sketch(vectors: Array) -> Sketch | None:
    """Sketch unit vectors [n, d]; return None where they vary in too many directions for that to pay.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(500, 8)) @ np.eye(8, 256)
    >>> vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    >>> sketch(vectors).heads.shape
    (500, 32)
    """
    n, d = vectors.shape
    most = d // GAIN
    if most < MULTIPLE:
        return None
    sample = vectors[:: -(-n // SAMPLE)]
    energies, directions = np.linalg.eigh((sample.T @ sample).astype(np.float64))  # smallest first
    left_out = np.cumsum(energies) / energies.sum()
    needed = d - int(np.searchsorted(left_out, LEFT_OUT))
    h = -(-needed // MULTIPLE) * MULTIPLE
    if h > most:
        return None
    directions = np.ascontiguousarray(directions[:, ::-1][:, :h], dtype=vectors.dtype)
    return Sketch(vectors, directions)
