r"""The spaces in which weights are looked for, and the preconditioner that makes λ harmless to the solver.

With n images and d features Z [n, d], the minimiser's weights are W = Zᵀα (the representer theorem), so
that the same problem can be written in the smaller of two spaces, with the same λ and the same minimiser:

=================  =======================  ===========================
`PrimalSpace`      coefficients W [d, K]    moments ZᵀZ [d, d], n ≥ d
`DualSpace`        coefficients α [n, K]    Gram matrix ZZᵀ [n, n], n < d
=================  =======================  ===========================

Where the loss has the curvature c, the Hessian is M = c ZᵀZ/n + λI. Gradients are multiplied by M⁻¹, by one
Cholesky factorisation a λ, so that the solver meets a condition number that does not depend on λ. In the
dual a gradient Zᵀr is represented by r [n, K]; then M⁻¹Zᵀr = Zᵀα with α = (c ZZᵀ/n + λI)⁻¹ r, and its scores
are ZZᵀα = (n/c) (r − λα): an iteration needs no other product with an n×n matrix.

As Z has columns of mean zero, ZZᵀ is blind to a constant in α, which would drift. Z has therefore a constant
feature of 1 more in the dual: the Gram matrix is ZZᵀ + 11ᵀ. At the minimum its weight 1ᵀα is zero, for the
intercept does the same without a penalty.

Every array of parameters here has one last row more: the intercept. Its curvature is c. All of them are
where the features are, on the host or on a GPU. The solver takes ⟨x, g⟩ for ``np.vdot(paired, g)``, with
``paired`` that of x: its weights in the primal, its scores in the dual.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.linear_algebra import add_product, solve
from ckncuda.classifier.systems import cholesky
from ckncuda.classifier.training_data import blocks
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

Single = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PrimalSpace:
    """Weights [d, K]; ``factor`` is the Cholesky factor of (n/c) M, or None for M = (c + λ) I."""

    features: Single
    factor: Array | None
    curvature: float
    regularization: float
    images: int

    def on(self, batch: Index) -> Self:
        """Return the same space over some of its images."""
        return replace(self, features=self.features[batch])

    def paired(self, x: Array) -> Array:
        """Return x."""
        return x

    def scores(self, x: Array, paired: Array) -> Array:
        """Return Z W + b, the product in float32."""
        scores: Array = (self.features @ x[:-1].astype(np.float32)).astype(np.float64) + x[-1]
        return scores

    def gradient(self, x: Array, derivative: Array) -> Array:
        """Return Zᵀ derivative + λW, the product in float32, and the sum of the derivative."""
        gradient = np.empty_like(x)
        gradient[:-1] = self.features.T @ derivative.astype(np.float32)
        gradient[:-1] += self.regularization * x[:-1]
        gradient[-1] = derivative.sum(axis=0)
        return gradient

    def precondition(self, gradient: Array) -> tuple[Array, Array]:
        """Return M⁻¹ gradient, twice."""
        x = gradient / self.curvature
        if self.factor is None:
            x[:-1] = gradient[:-1] / (self.curvature + self.regularization)
        else:
            x[:-1] = solve(self.factor, x[:-1])
            x[:-1] *= self.images
        return x, x


class DualSpace:
    """Coefficients [n, K] of the images; all products in float64."""

    def __init__(self, gram: Array, curvature: float, regularization: float) -> None:
        self.gram, self.curvature, self.regularization = gram, curvature, regularization
        self.factor = cholesky(gram, len(gram), regularization, curvature)

    def paired(self, x: Array) -> Array:
        """Return ZZᵀα and b."""
        return np.vstack([self.gram @ x[:-1], x[-1:]])

    def scores(self, x: Array, paired: Array) -> Array:
        """Return ZZᵀα + b."""
        scores: Array = paired[:-1] + paired[-1]
        return scores

    def gradient(self, x: Array, derivative: Array) -> Array:
        """Return derivative + λα, and the sum of the derivative."""
        gradient = np.vstack([derivative, derivative.sum(axis=0)])
        gradient[:-1] += self.regularization * x[:-1]
        return gradient

    def precondition(self, gradient: Array) -> tuple[Array, Array]:
        """Return α = (c ZZᵀ/n + λI)⁻¹ r and its scores (n/c) (r − λα), each with the intercept."""
        ratio = len(self.gram) / self.curvature
        x = gradient / self.curvature
        paired = x.copy()
        x[:-1] = ratio * solve(self.factor, gradient[:-1])
        paired[:-1] = ratio * (gradient[:-1] - self.regularization * x[:-1])
        return x, paired


class PrimalFeatures:
    """Scaled features [n, d] with n ≥ d, and their moments, which serve every λ."""

    def __init__(self, features: Single, curvature: float, progress: Progress | None) -> None:
        self.features, self.curvature = features, curvature
        images, width = features.shape
        self.moment = np.zeros((width, width), order="F", like=features)
        for rows in blocks(images, width, "second moments", progress):
            add_product(self.moment, features[rows].astype(np.float64))

    def space(self, images: int, regularization: float) -> PrimalSpace:
        """Return the space of fits to the first images; the moments of all precondition these too."""
        total = len(self.features)
        factor = cholesky(self.moment, total, regularization, self.curvature)
        return PrimalSpace(self.features[:images], factor, self.curvature, regularization, total)

    def scores_after(self, images: int, x: Array) -> Array:
        """Return the scores of the images that follow the first ones."""
        scores: Array = self.features[images:] @ x[:-1].astype(np.float32) + x[-1]
        return scores

    def start(self, images: int, classes: int, x: Array | None = None) -> Array:
        """Return a solution on fewer images, or zero, as one on the first ``images``."""
        return np.zeros((self.features.shape[1] + 1, classes), like=self.features) if x is None else x

    def weights(self, x: Array) -> tuple[Array, Array]:
        """Return W [d, K] and b [K]."""
        return x[:-1], x[-1]


class PlainFeatures(PrimalFeatures):
    """Scaled features alone, for SGD: the preconditioner is a multiple of the identity."""

    def __init__(self, features: Single, curvature: float) -> None:
        self.features, self.curvature = features, curvature

    def space(self, images: int, regularization: float) -> PrimalSpace:
        """Return the space of fits to the first images."""
        return PrimalSpace(self.features[:images], None, self.curvature, regularization, images)


class DualFeatures:
    """Scaled features [n, d] with n < d, and their Gram matrix, which serves every λ and every subset."""

    def __init__(self, features: Single, curvature: float, progress: Progress | None) -> None:
        self.features, self.curvature = features, curvature
        images, width = features.shape
        self.gram = np.empty((images, images), order="F", like=features)
        self.gram.fill(1)
        for columns in blocks(width, images, "Gram matrix", progress):
            add_product(self.gram, features[:, columns].T.astype(np.float64))
        for rows in blocks(images, images):  # the upper triangle, from the lower one
            square = np.tril(self.gram[rows, rows])
            self.gram[rows, rows] = square + np.tril(square, -1).T
            self.gram[: rows.start, rows] = self.gram[rows, : rows.start].T

    def space(self, images: int, regularization: float) -> DualSpace:
        """Return the space of fits to the first images."""
        return DualSpace(self.gram[:images, :images], self.curvature, regularization)

    def scores_after(self, images: int, x: Array) -> Array:
        """Return the scores of the images that follow the first ones."""
        scores: Array = self.gram[images:, :images] @ x[:-1] + x[-1]
        return scores

    def start(self, images: int, classes: int, x: Array | None = None) -> Array:
        """Return a solution on fewer images, or zero, as one on the first ``images``: others have α = 0."""
        start = np.zeros((images + 1, classes), like=self.gram)
        if x is not None:
            start[: len(x) - 1], start[-1] = x[:-1], x[-1]
        return start

    def weights(self, x: Array) -> tuple[Array, Array]:
        """Return W = Zᵀα [d, K], and b [K] with the weight 1ᵀα of the constant feature."""
        images, width = self.features.shape
        weights = np.empty((width, x.shape[1]), like=x)
        for columns in blocks(width, images):
            weights[columns] = self.features[:, columns].T.astype(np.float64) @ x[:-1]
        return weights, x[-1] + x[:-1].sum(axis=0)


Space = PrimalSpace | DualSpace
"""The space in which a fit to some images at one λ looks for its parameters."""

Features = PrimalFeatures | DualFeatures
"""Scaled features, and what serves every λ and every number of images."""
