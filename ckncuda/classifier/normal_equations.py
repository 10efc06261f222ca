"""The normal equations of ridge regression, in the dual (n×n) and in the primal (d×d).

With the scaled features Z [n, d], whose columns sum to zero, the centred targets Y [n, K] and the
minimiser's weights W, the predictions are H Y plus the mean target, where the hat matrix of a model with
an unpenalised intercept is

    H = 11ᵀ/n + Z (ZᵀZ + nλI)⁻¹ Zᵀ = 11ᵀ/n + ZZᵀ (ZZᵀ + nλI)⁻¹,

and the residual of image i when it is left out is r_i / (1 − H_ii), r = Y − Z W.
"""

import copy

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from ckncuda.classifier.linear import Progress
from ckncuda.classifier.scaling import FeatureScaling
from ckncuda.classifier.training_data import blocks
from ckncuda.errors import InvalidSpec

Matrix = npt.NDArray[np.float64]


class DualSystem:
    """Solve for α = (ZZᵀ + nλI)⁻¹ Y [n, K], with W = Zᵀα; one Gram matrix serves every λ.

    1 lies in the null space of ZZᵀ, so that (ZZᵀ + nλI)⁻¹ has the eigenvalue 1/(nλ) there, which would
    drown the rest of the inverse's diagonal when λ is small. The Gram matrix is therefore that of Z
    with a constant feature of 1 added, ZZᵀ + 11ᵀ. As Y is orthogonal to 1, α stays the same.

    Parameters
    ----------
    features : float32 [n, d], as they come
    scaling : FeatureScaling
    targets : float64 [n, K], columns of mean zero
    progress : callable or None
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
        # LAPACK works in place on column-major matrices; only the lower triangle is ever filled.
        gram = np.zeros((images, images), order="F")
        add_product(gram, np.ones((1, images)))
        for columns in blocks(width, images):
            add_product(gram, scaling.block(features, columns=columns).T)
            if progress is not None:
                progress("Gram matrix", columns.stop, width)
        self.gram = gram
        self.centred = True
        self._alphas: dict[float, Matrix] = {}  # of the λ tried: small beside the Gram matrix

    def part(self, images: npt.NDArray[np.intp]) -> "DualSystem":
        """The system of some of the images, on the same scale and with the same intercept."""
        part = copy.copy(self)
        part.targets, part.gram = self.targets[images], symmetric_part(self.gram, images)
        part.centred, part._alphas = False, {}
        return part

    def left_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [n, K].

        r = nλα and 1 − H_ii = nλ ((ZZᵀ + nλI)⁻¹_ii − 1/(n²λ)), so nλ cancels in their ratio. In the inverse
        at hand the direction of 1 contributes 1/(n (nλ + n)) to each diagonal entry instead of 1/(n²λ).
        """
        images = len(self.targets)
        factor = cholesky(self.gram, images, regularization)
        alpha = self._alphas[regularization] = lapack.dpotrs(factor, self.targets, lower=1)[0]
        inverse = lapack.dtrtri(factor, lower=1, overwrite_c=1)[0].T
        diagonal = np.einsum("ij,ij->i", inverse, inverse)
        if self.centred:
            diagonal -= 1 / (images**2 * (regularization + 1))
        return np.asarray(alpha / diagonal[:, None])

    def weights(self, regularization: float) -> Matrix:
        """Return W = Zᵀα, float64 [d, K], on scaled features."""
        images, width = self.features.shape
        alpha = self._alphas.get(regularization)
        if alpha is None:
            alpha = lapack.dpotrs(cholesky(self.gram, images, regularization), self.targets, lower=1)[0]
        weights = np.empty((width, alpha.shape[1]))
        for columns in blocks(width, images):
            weights[columns] = self.scaling.block(self.features, columns=columns).T @ alpha
        return weights


class PrimalSystem:
    """Solve (ZᵀZ + nλI) W = ZᵀY; one second-moment matrix serves every λ.

    Parameters
    ----------
    features : float32 [n, d], as they come
    scaling : FeatureScaling
    targets : float64 [n, K], columns of mean zero
    progress : callable or None
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
        self.moment = np.zeros((width, width), order="F")
        self.cross = np.zeros((width, targets.shape[1]))
        for rows in blocks(images, width):
            block = scaling.block(features, rows)
            add_product(self.moment, block)
            self.cross += block.T @ targets[rows]
            if progress is not None:
                progress("second moments", rows.stop, images)

    def left_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [n, K].

        With ZᵀZ + nλI = LLᵀ, H_ii = 1/n + ‖L⁻¹ z_i‖².
        """
        images, width = self.features.shape
        factor = cholesky(self.moment, images, regularization)
        weights = lapack.dpotrs(factor, self.cross, lower=1)[0]
        residuals = np.empty_like(self.targets)
        for rows in blocks(images, width):
            block = self.scaling.block(self.features, rows)
            residuals[rows] = self.targets[rows] - block @ weights
            solved = blas.dtrsm(1.0, factor, block.T, lower=1, overwrite_b=1)
            leverage = 1 / images + np.einsum("ij,ij->i", solved.T, solved.T)
            residuals[rows] /= (1 - leverage)[:, None]
        return residuals

    def weights(self, regularization: float) -> Matrix:
        """Return W, float64 [d, K], on scaled features."""
        factor = cholesky(self.moment, len(self.features), regularization)
        return np.asarray(lapack.dpotrs(factor, self.cross, lower=1)[0])


def symmetric_part(matrix: Matrix, rows: npt.NDArray[np.intp]) -> Matrix:
    """The lower triangle of a symmetric matrix's rows and columns of these numbers, which ascend."""
    return np.asfortranarray(matrix[np.ix_(rows, rows)])


def add_product(total: Matrix, block: Matrix) -> None:
    """Add blockᵀ block to the lower triangle of a column-major matrix, in place."""
    if block.flags.c_contiguous:  # BLAS sees it as its transpose, column-major, without a copy
        blas.dsyrk(1.0, block.T, beta=1.0, c=total, lower=1, overwrite_c=1)
    else:
        blas.dsyrk(1.0, block, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)


def cholesky(matrix: Matrix, images: int, regularization: float, curvature: float = 1.0) -> Matrix:
    """Return the lower Cholesky factor of matrix + (nλ/c) I; the upper triangle stays that of the matrix."""
    shifted = matrix.copy(order="F")
    shifted[np.diag_indices(len(matrix))] += images * regularization / curvature
    factor, failed = lapack.dpotrf(shifted, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise InvalidSpec(
            f"regularization {regularization:g} is too small for these features: their Gram matrix is "
            'singular in float64; give a larger one, 1e-8 or more, or "auto"'
        )
    return np.asarray(factor)
