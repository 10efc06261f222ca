"""The projection on the span of the anchor points, W = K_ZZ^{-1/2}, and its derivative."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidSpec

Whitening = Literal["ridge", "root"]


class Spectrum(NamedTuple):
    """K_ZZ = U diag(λ) Uᵀ of anchor points, with a regularised inverse square root U diag(1/a(λ)) Uᵀ."""

    eigenvalues: NDArray[np.float64]  # λ ≥ 0 [p]
    vectors: NDArray[np.float64]  # U [p, p]
    whitening: Whitening
    epsilon: float

    @property
    def roots(self) -> NDArray[np.float64]:
        """r(λ): √(λ + ε) of ``ridge``, √λ of ``root``."""
        roots: NDArray[np.float64] = np.sqrt(
            self.eigenvalues + (self.epsilon if self.whitening == "ridge" else 0)
        )
        return roots

    @property
    def divisors(self) -> NDArray[np.float64]:
        """a(λ), which the inverse square root divides by: √(λ + ε) of ``ridge``, √λ + ε of ``root``."""
        return self.roots + (self.epsilon if self.whitening == "root" else 0)

    def inverse_square_root(self) -> NDArray[np.float64]:
        """Return U diag(1/a) Uᵀ, symmetric to the last bit."""
        return self._function(1 / self.divisors)

    def square_root(self) -> NDArray[np.float64]:
        """Return U diag(a) Uᵀ, the inverse of `inverse_square_root`."""
        return self._function(self.divisors)

    def inverse_square_root_gradient(self, upstream: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Carry a gradient by the inverse square root, G [p, p], back to one by K_ZZ, symmetric [p, p].

        It is U (F ∘ (Uᵀ G U)) Uᵀ with F_ij = −1 / (a_i a_j (r_i + r_j)).  √λ has no derivative at 0: of
        ``root``, eigenvalues that are no larger than their rounding are taken as that.
        """
        rounding = np.sqrt(len(self.vectors) * np.finfo(np.float64).eps * self.eigenvalues[-1])
        roots = np.maximum(self.roots, rounding)
        factors = np.multiply.outer(self.divisors, self.divisors) * np.add.outer(roots, roots)
        rotated = self.vectors.T @ ((upstream + upstream.T).astype(np.float64) / 2) @ self.vectors
        result: NDArray[np.float64] = self.vectors @ (rotated / -factors) @ self.vectors.T
        return (result + result.T) / 2

    def _function(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = (self.vectors * values) @ self.vectors.T
        return (result + result.T) / 2


def inverse_square_root(
    gram: NDArray[np.floating[Any]], whitening: Whitening, epsilon: float
) -> NDArray[np.float64]:
    """Return the regularised inverse square root, float64 [p, p]: U diag(f(λ)) Uᵀ of U diag(λ) Uᵀ.

    Parameters
    ----------
    gram : [p, p]
        Symmetric, positive semidefinite up to rounding.
    whitening : {"ridge", "root"}
        f(λ) = (λ + ε)^{-1/2}  (Mairal's code) or 1/(√λ + ε)  (Chen's code).
    epsilon : float
        ε ≥ 0.  With ε = 0 the Gram matrix must be of full rank; `InvalidSpec` otherwise.

    Examples
    --------
    >>> inverse_square_root(np.diag([4.0, 1.0]), "ridge", 0.0)
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    return spectrum_of(gram, whitening, epsilon).inverse_square_root()


def spectrum_of(gram: NDArray[np.floating[Any]], whitening: Whitening, epsilon: float) -> Spectrum:
    """Decompose a Gram matrix of anchor points [p, p]; see `inverse_square_root`."""
    # On the host whatever the backend: p is a few thousand at most, this is done once a layer, and equal
    # anchor points have the same projection, bit for bit, with whatever backend they were learned.
    gram = np.asarray(gram, dtype=np.float64)
    if not np.isfinite(gram).all():
        raise InvalidSpec(
            "the kernel of the anchor points is not finite: look at the parameters of its kernel, and at the "
            "size of the images' values"
        )
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues = np.maximum(eigenvalues, 0)
    if epsilon == 0 and eigenvalues[0] <= len(gram) * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise InvalidSpec(
            "the Gram matrix of the anchor points is singular, so that it has no inverse square root: "
            "give an epsilon greater than 0, such as 1e-3"
        )
    return Spectrum(eigenvalues, vectors, whitening, epsilon)
