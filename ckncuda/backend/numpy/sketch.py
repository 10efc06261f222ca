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
EIGENVECTORS = 16  # d³ so many times is their time in multiplications of a product; measured for d ≤ 2,304
ITERATIONS = 10  # of k-means, which ends after a few to 20
WORTH = 4  # so many times must what is spared exceed what is paid: directions may turn out too many


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


def pays(n: int, d: int, centres: int, memory: int) -> bool:
    """Return whether a sketch of n vectors is likely to spare more than it costs, and fits some memory.

    In multiplications, it costs 16 d³ for eigenvectors, d² for each vector of the sample and d h ≤ d²/4 for
    each of all; it spares at most d − h for each pair of a vector and a centre, in each of about ten rounds
    of k-means.  Of memory it takes four matrices d² in double precision, and the heads.

    Examples
    --------
    >>> pays(100_000, 576, 1024, 2 << 30), pays(1920, 4608, 16, 2 << 30)
    (True, False)
    """
    spared = ITERATIONS * n * centres * (d - d // GAIN)
    paid = EIGENVECTORS * d**3 + min(n, SAMPLE) * d**2 + n * d * (d // GAIN)
    return WORTH * paid <= spared and 4 * 8 * d**2 + 4 * n * (d // GAIN) <= memory


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
