"""The normal equations of ridge regression, in the dual (n×n) and in the primal (d×d).

With the scaled features Z [n, d], whose columns sum to zero, the centred targets Y [n, K] and the
minimiser's weights W, the predictions are H Y plus the mean target, where the hat matrix of a model with
an unpenalised intercept is

    H = 11ᵀ/n + Z (ZᵀZ + nλI)⁻¹ Zᵀ = 11ᵀ/n + ZZᵀ (ZZᵀ + nλI)⁻¹,

and the residual of image i when it is left out is r_i / (1 − H_ii), r = Y − Z W.

Everything is where the features are, on the host or on a GPU.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ckncuda.backend import linear_algebra
from ckncuda.backend.linear_algebra import add_product
from ckncuda.classifier.classifier import Progress
from ckncuda.classifier.scaling import FeatureScaling
from ckncuda.classifier.training_data import blocks
from ckncuda.errors import InvalidSpec

Matrix = npt.NDArray[np.float64]
AnyMatrix = npt.NDArray[np.float32] | npt.NDArray[np.float64]
M = TypeVar("M", npt.NDArray[np.float32], npt.NDArray[np.float64])

MANY = 4000
"""Images from which on the dual system's seconds count: it is solved in single precision."""

WELL_CONDITIONED = 1e-6
"""The least λ whose factors may be in single precision: 6e-8 of a Gram matrix whose largest eigenvalue is
up to 2n, beside nλ. Measured on features of the challenge, left-out residuals err by 0.07 % at λ = 1e-5 and
by 0.5 % here, which changes one prediction in 2,000; at 1e-7 by 3 %."""


class DualSystem:
    """Solve for α = (ZZᵀ + nλI)⁻¹ Y [n, K], with W = Zᵀα; one Gram matrix serves every λ.

    1 lies in the null space of ZZᵀ, so that (ZZᵀ + nλI)⁻¹ has the eigenvalue 1/(nλ) there, which would
    drown the rest of the inverse's diagonal when λ is small. The Gram matrix is therefore that of Z
    with a constant feature of 1 added, ZZᵀ + 11ᵀ. As Y is orthogonal to 1, α stays the same.

    Of `MANY` images and more the Gram matrix is in float32, which errs by no more than float32 features
    do, and so are its factors for λ down to `WELL_CONDITIONED`; twice as fast, in half the memory.

    The images are taken in an order drawn at random, so that the last of them are a sample of all.

    Parameters
    ----------
    features : float32 [n, d], as they come
    scaling : FeatureScaling
    targets : float64 [n, K], columns of mean zero
    progress : callable or None

    Attributes
    ----------
    order : integers [n]
        The numbers of the images in that order.
    targets : float64 [n, K]
        In that order.
    """

    def __init__(
        self,
        features: npt.NDArray[np.float32],
        scaling: FeatureScaling,
        targets: Matrix,
        progress: Progress | None,
    ) -> None:
        self.features, self.scaling = features, scaling
        images, width = features.shape
        self.order = np.asarray(np.random.default_rng(0).permutation(images), like=features)
        self.targets = targets[self.order]
        # LAPACK works in place on column-major matrices; only the lower triangle is ever filled.
        dtype = np.float32 if images >= MANY else np.float64
        self.gram = np.zeros((images, images), dtype, order="F", like=features)
        add_product(self.gram, np.ones_like(self.gram[:1]))
        for columns in blocks(width, images):
            block = scaling.block(features, self.order, columns, self.gram.dtype)
            add_product(self.gram, block.T)
            if progress is not None:
                progress("Gram matrix", columns.stop, width)
        self._alphas: dict[float, Matrix] = {}  # of the λ tried: small beside the Gram matrix

    def solution(self, regularization: float, last: int | None = None) -> "DualSolution":
        """Solve for one λ, for all images or as if only the last so many existed.

        On part of the images the scale and the mean target remain those of all.
        """
        last = last or len(self.targets)
        gram = self.gram[-last:, -last:]
        if regularization < WELL_CONDITIONED:
            factor = cholesky(gram.astype(np.float64, copy=False), last, regularization)
        else:
            factor = cholesky(gram, last, regularization)
        alpha = solve(factor, self.targets[-last:])
        if last < len(self.targets):  # Z and Y are only nearly orthogonal to 1 then
            return DualSolution(factor, alpha, constant=0.0)
        self._alphas[regularization] = alpha
        return DualSolution(factor, alpha, constant=1 / (last**2 * (regularization + 1)))

    def left_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [n, K], in the system's order."""
        return self.solution(regularization).left_out_residuals()

    def judged_targets(self, count: int) -> Matrix:
        """The targets of the images that so many residuals are of."""
        return self.targets[-count:]

    def weights(self, regularization: float) -> Matrix:
        """Return W = Zᵀα, float64 [d, K], on scaled features."""
        alpha = self._alphas.get(regularization)
        if alpha is None:
            alpha = self.solution(regularization).alpha
        images, width = self.features.shape
        weights = np.empty((width, alpha.shape[1]), like=alpha)
        for columns in blocks(width, images):
            block = self.scaling.block(self.features, self.order, columns, self.gram.dtype)
            weights[columns] = block.T @ alpha.astype(block.dtype)
        return weights


@dataclass(frozen=True)
class DualSolution:
    """What one λ gives: a factorisation, and all that follows from it.

    Attributes
    ----------
    factor : [n, n]
        L, lower, LLᵀ = ZZᵀ + 11ᵀ + nλI.
    alpha : float64 [n, K]
    constant : float
        What the direction of 1, with the eigenvalue 1/(nλ + n), adds to each entry of the inverse's diagonal.
    """

    factor: AnyMatrix
    alpha: Matrix
    constant: float

    def left_out_residuals(self, last: int | None = None) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [last, K], for the last images or for all.

        r = nλα and 1 − H_ii = nλ ((ZZᵀ + nλI)⁻¹_ii − 1/(n²λ)), so nλ cancels in their ratio. The inverse's
        last diagonal entries come from L's last block alone. For all images L is overwritten, which saves a
        square matrix: nothing more can be asked of this solution.
        """
        block = self.factor if last is None else self.factor[-last:, -last:].copy(order="F")
        diagonal = linear_algebra.inverse_diagonal(block)[:, None]
        residuals: Matrix = self.alpha[-len(diagonal) :] / (diagonal - self.constant)
        return residuals


JUDGES = 10_000
"""Images at most that are left out one by one in the primal: each costs d² operations a λ."""


class PrimalSystem:
    """Solve (ZᵀZ + nλI) W = ZᵀY; one second-moment matrix serves every λ.

    Of more than `JUDGES` images so many, drawn at random, are left out one by one.

    Parameters
    ----------
    features : float32 [n, d], as they come
    scaling : FeatureScaling
    targets : float64 [n, K], columns of mean zero
    progress : callable or None

    Attributes
    ----------
    judges : integers [m]
        The numbers of the images that are left out one by one.
    """

    def __init__(
        self,
        features: npt.NDArray[np.float32],
        scaling: FeatureScaling,
        targets: Matrix,
        progress: Progress | None,
    ) -> None:
        self.features, self.scaling, self.targets = features, scaling, targets
        images, width = features.shape
        self.judges = np.arange(images)
        if images > JUDGES:
            self.judges = np.sort(np.random.default_rng(0).choice(images, JUDGES, replace=False))
        self.moment = np.zeros((width, width), order="F", like=features)
        self.cross = np.zeros((width, targets.shape[1]), like=features)
        for rows in blocks(images, width):
            block = scaling.block(features, rows)
            add_product(self.moment, block)
            self.cross += block.T @ targets[rows]
            if progress is not None:
                progress("second moments", rows.stop, images)

    def left_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [m, K], for each judge.

        With ZᵀZ + nλI = LLᵀ, H_ii = 1/n + ‖L⁻¹ z_i‖².
        """
        images, width = self.features.shape
        factor = cholesky(self.moment, images, regularization)
        weights = solve(factor, self.cross)
        residuals = self.judged_targets(len(self.judges)).copy()
        for rows in blocks(len(self.judges), width):
            block = self.scaling.block(self.features, self.judges[rows])
            residuals[rows] -= block @ weights
            solved = linear_algebra.solve_lower(factor, block.T)
            leverage = 1 / images + np.einsum("ij,ij->i", solved.T, solved.T)
            residuals[rows] /= (1 - leverage)[:, None]
        return residuals

    def judged_targets(self, count: int) -> Matrix:
        """The targets of the images that residuals are of."""
        if count == len(self.targets):
            return self.targets
        judged: Matrix = self.targets[np.asarray(self.judges, like=self.targets)]
        return judged

    def weights(self, regularization: float) -> Matrix:
        """Return W, float64 [d, K], on scaled features."""
        factor = cholesky(self.moment, len(self.features), regularization)
        return solve(factor, self.cross)


def cholesky(
    matrix: M, images: int, regularization: float, curvature: float = 1.0, overwrite: bool = False
) -> M:
    """Return the lower Cholesky factor of matrix + (nλ/c) I, whose lower triangle decides."""
    shifted = matrix if overwrite else matrix.copy(order="F")
    shifted.T.reshape(-1)[:: len(matrix) + 1] += images * regularization / curvature  # the diagonal
    try:
        factor: M = linear_algebra.cholesky(shifted)
    except np.linalg.LinAlgError as error:
        raise InvalidSpec(
            f"regularization {regularization:g} is too small for these features: their Gram matrix is "
            f'singular in {matrix.dtype}; give a larger one, 1e-8 or more, or "auto"'
        ) from error
    return factor


def solve(factor: AnyMatrix, targets: Matrix) -> Matrix:
    """Return (LLᵀ)⁻¹ targets, float64, for the lower Cholesky factor L."""
    solution: Matrix = linear_algebra.solve(factor, targets.astype(factor.dtype))
    return solution.astype(np.float64, copy=False)
