"""The projection on the span of the anchor points: W = K_ZZ^{-1/2}."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidSpec

Whitening = Literal["ridge", "root"]


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
    ridge = whitening == "ridge"
    factors = 1 / (np.sqrt(eigenvalues + epsilon) if ridge else np.sqrt(eigenvalues) + epsilon)
    root: NDArray[np.float64] = (vectors * factors) @ vectors.T
    return (root + root.T) / 2
