"""The linear systems of ridge regression: the normal equations of features, and the dual ones of a kernel.

With the scaled features Z [n, d], whose columns sum to zero, the centred targets Y [n, K] and the
minimiser's weights W, the predictions are H Y plus the mean target, where the hat matrix of a model with
an unpenalised intercept is

    H = 11ᵀ/n + Z (ZᵀZ + nλI)⁻¹ Zᵀ = 11ᵀ/n + ZZᵀ (ZZᵀ + nλI)⁻¹,

and the residual of image i when it is left out is r_i / (1 − H_ii), r = Y − Z W.

For a kernel with the Gram matrix K the intercept is that of a constant feature of 1, penalised as all else:
(K + 11ᵀ + nλI) α = Y, and the residual of image i when it is left out is α_i / ((K + 11ᵀ + nλI)⁻¹)_ii.
Images that are left out together, H, have the residuals (((K + 11ᵀ + nλI)⁻¹)_HH)⁻¹ α_H.

Everything is where the features are, on the host or on a GPU; Gram matrices that are given, on the host.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.backend import linear_algebra
from ckncuda.backend.linear_algebra import add_product
from ckncuda.classifier.choice import Choice, Judgement, Options, judges
from ckncuda.classifier.gram_matrices import GramMatrices, GramStatistics
from ckncuda.classifier.kernel_classifier import homogeneous
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, blocks, parts, signed_targets
from ckncuda.errors import InvalidSpec
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

Matrix = npt.NDArray[np.float64]

MANY = 4000
"""Images from which on a dual system's seconds count: it is solved in single precision."""

WELL_CONDITIONED = 1e-6
"""The least λ whose factors may be in single precision: 6e-8 of a Gram matrix whose largest eigenvalue is
up to 2n, beside nλ. Measured on features of the challenge, left-out residuals err by 0.07 % at λ = 1e-5 and
by 0.5 % here, which changes one prediction in 2,000; at 1e-7 by 3 %."""

MOST = 46_000  # images whose Gram matrix LAPACK's 32-bit numbers can count; it takes 8 GiB

JUDGES = 10_000
"""Images at most that are left out one by one in the primal: each costs d² operations a λ."""


@dataclass(frozen=True)
class DualSolution:
    """The solution for one λ: a factorisation, and all that follows from it.

    Attributes
    ----------
    factor : [n, n]
        L, lower, LLᵀ = K + 11ᵀ + nλI.
    alpha : float64 [n, K]
    constant : float
        What the direction of 1, with the eigenvalue 1/(nλ + n), adds to each entry of the inverse's diagonal
        where the intercept is not penalised.
    """

    factor: Array
    alpha: Matrix
    constant: float = 0.0

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

    def held_out_residuals(self, last: int) -> Matrix:
        """Return y_i minus the prediction without the last images together, float64 [last, K], for these.

        With L's last block L_HH the inverse's is B = (L_HH L_HHᵀ)⁻¹, so that B⁻¹ α_H takes two products.
        Where the intercept is not penalised (B − c 11ᵀ)⁻¹ α_H follows by the formula of Sherman and Morrison.
        """
        block = self.factor[-last:, -last:]
        alpha = self.alpha[-last:].astype(block.dtype)
        residuals: Matrix = (block @ (block.T @ alpha)).astype(np.float64)
        if self.constant:
            ones = np.ones_like(alpha[:, :1])
            column = (block @ (block.T @ ones)).astype(np.float64)
            residuals += column * (residuals.sum(axis=0) / (1 / self.constant - column.sum()))
        return residuals


class DualSystem(ABC):
    """Solve (K + 11ᵀ + nλI) α = Y, for all images or as if only the last so many existed.

    The images are taken in an order drawn at random, so that the last of them are a sample of all; where
    images are held out these come last, in an order drawn at random too.

    Of `MANY` images and more Gram matrices are in float32, which errs by no more than float32 features
    do, and so are their factors for λ down to `WELL_CONDITIONED`; twice as fast, in half the memory.

    Attributes
    ----------
    order : integers [n]
        The numbers of the images in that order.
    targets : float64 [n, K]
        Y in that order, where everything is computed.
    intercept : float64 [K]
        What was taken off the targets ±1: the mean, or 0 where the intercept is penalised.
    held_out : int
        How many images are left out together to judge what is tried; of 0, each by itself.
    dtype : dtype
        That of the Gram matrices.
    """

    intercept: Matrix | float = 0.0

    def __init__(self, targets: Matrix, kept: Index, held_out: Index) -> None:
        random = np.random.default_rng(0)
        order = np.concatenate([random.permutation(kept), random.permutation(held_out)])
        self.order = np.asarray(order, like=targets)
        self.targets, self.held_out = targets[self.order], len(held_out)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if len(targets) >= MANY else np.float64)

    @abstractmethod
    def gram(self, choice: Choice, last: int, dtype: np.dtype[Any]) -> Array:
        """Return K + 11ᵀ of the last images, column-major, its lower triangle at least; it is overwritten."""

    def solution(self, choice: Choice, last: int | None = None) -> DualSolution:
        """Solve for all images or the last ones, with the scale and the mean of all."""
        last = last or len(self.targets)
        dtype = np.dtype(np.float64) if choice.regularization < WELL_CONDITIONED else self.dtype
        factor = cholesky(self.gram(choice, last, dtype), last, choice.regularization, overwrite=True)
        return DualSolution(factor, solve(factor, self.targets[-last:]))

    def accuracy(self, residuals: Matrix) -> float:
        """Return the accuracy of the last images, from their left-out residuals."""
        return left_out_accuracy(residuals, self.intercept + self.targets[-len(residuals) :])

    def accuracy_among(self, choice: Choice, last: int, judged: int) -> float:
        """Return the left-out accuracy of the last ``judged``, as if only the last so many images existed."""
        solution = self.solution(choice, last)
        if self.held_out:
            return self.accuracy(solution.held_out_residuals(judged))
        return self.accuracy(solution.left_out_residuals(judged if judged < last else None))

    def held_out_among(self, count: int) -> int:
        """Count the images that are left out together, of so many: half at most, of all those held out."""
        return self.held_out if count == len(self.targets) else min(self.held_out, count // 2)


class FeatureSystem(DualSystem):
    """Solve for α = (ZZᵀ + nλI)⁻¹ Y [n, K], with W = Zᵀα; one Gram matrix serves every λ.

    1 lies in the null space of ZZᵀ, so that (ZZᵀ + nλI)⁻¹ has the eigenvalue 1/(nλ) there, which would
    drown the rest of the inverse's diagonal when λ is small. The Gram matrix is therefore that of Z
    with a constant feature of 1 added, ZZᵀ + 11ᵀ. As Y is orthogonal to 1, α stays the same.

    Attributes
    ----------
    judged : int
        How many images are left out: all, or those held out.
    large : bool
        There are so many that a search begins on part of them.
    """

    intercept: Matrix

    def __init__(self, data: TrainingData, scaling: FeatureScaling, progress: Progress | None) -> None:
        self.features, self.scaling = data.features, scaling
        signs = data.signs()
        self.intercept = signs.mean(axis=0)
        signs -= self.intercept
        super().__init__(signs, data.kept(), data.held_out)
        images, width = data.features.shape
        self.judged, self.large = self.held_out or images, images >= MANY
        # LAPACK works in place on column-major matrices; only the lower triangle is ever filled.
        self.products = np.zeros((images, images), self.dtype, order="F", like=data.features)
        add_product(self.products, np.ones_like(self.products[:1]))
        for columns in blocks(width, images, "Gram matrix", progress):
            block = scaling.block(data.features, self.order, columns, self.dtype)
            add_product(self.products, block.T)
        self._alphas: dict[float, Matrix] = {}  # of the λ tried: small beside the Gram matrix

    def gram(self, choice: Choice, last: int, dtype: np.dtype[Any]) -> Array:
        """Return ZZᵀ + 11ᵀ of the last images."""
        return self.products[-last:, -last:].astype(dtype, order="F")

    def solution(self, choice: Choice, last: int | None = None) -> DualSolution:
        """Solve for all images or the last ones, and keep what solves for all."""
        solution = super().solution(choice, last)
        images = len(self.targets)
        if len(solution.alpha) < images:  # Z and Y are only nearly orthogonal to 1 then
            return solution
        self._alphas[choice.regularization] = solution.alpha
        return replace(solution, constant=1 / (images**2 * (choice.regularization + 1)))

    def accuracy_at(self, regularization: float) -> float:
        """Return the left-out accuracy of all images, or of those held out."""
        return self.accuracy_among(Choice(regularization), len(self.targets), self.judged)

    def weights(self, regularization: float) -> Matrix:
        """Return W = Zᵀα, float64 [d, K], on scaled features."""
        alpha = self._alphas.get(regularization)
        if alpha is None:
            alpha = self.solution(Choice(regularization)).alpha
        images, width = self.features.shape
        weights = np.empty((width, alpha.shape[1]), like=alpha)
        for columns in blocks(width, images):
            block = self.scaling.block(self.features, self.order, columns, self.dtype)
            weights[columns] = block.T @ alpha.astype(block.dtype)
        return weights


class WeightedSystem(DualSystem):
    """A dual system whose K is a weighted sum of matrices, made once for all that is tried.

    Attributes
    ----------
    matrices : list of [n, n]
        Column-major, one an encoder, in the system's order.
    """

    matrices: list[Array]

    def gram(self, choice: Choice, last: int, dtype: np.dtype[Any]) -> Array:
        """Return the weighted sum of κ of the matrices of the last images, plus 1."""
        gram: Array | None = None
        for number, weight in enumerate(choice.weights):
            if weight:
                part = self.matrices[number][-last:, -last:].astype(dtype, order="F")
                self.apply_kernel(part, choice, number, last)
                part *= part.dtype.type(weight)
                if gram is None:
                    gram = part
                else:
                    gram += part
                del part  # while the next one is made, this one need not be there
        assert gram is not None  # the weights sum to 1
        gram += 1
        return gram

    def apply_kernel(self, part: Array, choice: Choice, number: int, last: int) -> None:
        """Turn a matrix of the last images into that of its kernel, in place."""

    def solve(
        self, options: Options, choice: Choice | None, progress: Progress | None
    ) -> tuple[Judgement, Matrix]:
        """Return α, float64 [n, K], of all images, with what was chosen before or with the best found."""
        images = len(self.targets)
        if choice is not None:
            return Judgement(choice, images, images), self.solution(choice).alpha
        choice, chose = self.choose(options, progress)
        solution = self.solution(choice)
        if self.held_out:
            accuracy = self.accuracy(solution.held_out_residuals(self.held_out))
        else:
            accuracy = self.accuracy(solution.left_out_residuals())
        return Judgement(choice, self.held_out or images, chose, accuracy), solution.alpha

    def choose(self, options: Options, progress: Progress | None) -> tuple[Choice, int]:
        """Return the best that was found, and how many images judged it in the end."""
        among = self.held_out_among if self.held_out else judges
        return options.search(self.accuracy_among, len(self.targets), progress, among)


class KernelSystem(WeightedSystem):
    """A dual system for any κ on the features of each encoder; one matrix of products an encoder serves all.

    Attributes
    ----------
    points : float16 [n, d]
        Scaled features, rounded as a model file stores them, in the system's order.
    """

    def __init__(self, data: TrainingData, scaling: FeatureScaling, progress: Progress | None) -> None:
        super().__init__(data.signs(), data.kept(), data.held_out)
        images, width = data.features.shape
        self.points = np.empty((images, width), np.float16, like=data.features)
        self.matrices = []
        self.norms: list[Array] = []
        for part in parts(data.widths):
            # LAPACK works in place on column-major matrices; only the lower triangle is ever filled.
            products = np.zeros((images, images), self.dtype, order="F", like=data.features)
            for start in blocks(part.stop - part.start, images):
                columns = slice(part.start + start.start, part.start + start.stop)
                block = scaling.block(data.features, self.order, columns, np.float32).astype(np.float16)
                self.points[:, columns] = block
                add_product(products, block.astype(self.dtype).T)
                if progress is not None:
                    progress("Gram matrix", columns.stop, width)
            self.matrices.append(products)
            self.norms.append(np.sqrt(products.diagonal()))

    def apply_kernel(self, part: Array, choice: Choice, number: int, last: int) -> None:
        """Turn products of the last images into ‖x_i‖ ‖x_j‖ κ, in place."""
        norms = self.norms[number][-last:]
        homogeneous(choice.kernels[number], part, norms, norms)


class GramSystem(WeightedSystem):
    """A dual system for Gram matrices that are given, centred and scaled once.

    Attributes
    ----------
    statistics : list of GramStatistics
        What centring and scaling takes from each.
    """

    def __init__(self, data: GramMatrices) -> None:
        images = np.arange(len(data.targets))
        super().__init__(signed_targets(data.targets, len(data.classes)), images, images[:0])
        self.statistics = [GramStatistics(gram, data.images) for gram in data.grams]
        self.matrices = [each.centred(self.order, self.dtype) for each in self.statistics]


class PrimalSystem:
    """Solve (ZᵀZ + nλI) W = ZᵀY; one second-moment matrix serves every λ.

    Of more than `JUDGES` images so many, drawn at random, are left out one by one.

    Attributes
    ----------
    intercept : float64 [K]
        The mean target; ``targets`` are without it.
    judges : integers [m]
        The numbers of the images that are left out one by one, m = ``judged``.
    """

    def __init__(self, data: TrainingData, scaling: FeatureScaling, progress: Progress | None) -> None:
        self.features, self.scaling = data.features, scaling
        self.targets = data.signs()
        self.intercept = self.targets.mean(axis=0)
        self.targets -= self.intercept
        images, width = data.features.shape
        self.judged = min(images, JUDGES)
        self.judges = np.arange(images)
        if self.judged < images:
            self.judges = np.sort(np.random.default_rng(0).choice(images, JUDGES, replace=False))
        self.judged_targets = self.targets[np.asarray(self.judges, like=self.targets)]
        self.moment = np.zeros((width, width), order="F", like=data.features)
        self.cross = np.zeros((width, self.targets.shape[1]), like=data.features)
        for rows in blocks(images, width, "second moments", progress):
            block = scaling.block(data.features, rows)
            add_product(self.moment, block)
            self.cross += block.T @ self.targets[rows]

    def left_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction without image i, float64 [m, K], for each judge.

        With ZᵀZ + nλI = LLᵀ, H_ii = 1/n + ‖L⁻¹ z_i‖².
        """
        images, width = self.features.shape
        factor = cholesky(self.moment, images, regularization)
        weights = solve(factor, self.cross)
        residuals = self.judged_targets.copy()
        for rows in blocks(len(self.judges), width):
            block = self.scaling.block(self.features, self.judges[rows])
            residuals[rows] -= block @ weights
            solved = linear_algebra.solve_lower(factor, block.T)
            leverage = 1 / images + np.einsum("ij,ij->i", solved.T, solved.T)
            residuals[rows] /= (1 - leverage)[:, None]
        return residuals

    def accuracy_at(self, regularization: float) -> float:
        """Return the leave-one-out accuracy of the judges."""
        residuals = self.left_out_residuals(regularization)
        return left_out_accuracy(residuals, self.intercept + self.judged_targets)

    def weights(self, regularization: float) -> Matrix:
        """Return W, float64 [d, K], on scaled features."""
        return solve(cholesky(self.moment, len(self.features), regularization), self.cross)


def check_count(images: int | None, instead: str) -> None:
    """Raise `InvalidSpec` if there are more images than a Gram matrix may have."""
    if images is not None and images > MOST:
        raise InvalidSpec(
            f"kernel ridge of {images} images needs Gram matrices of {4 * images**2 >> 30} GiB each; it "
            f"takes {MOST} images at most: use {instead}"
        )


def left_out_accuracy(residuals: Matrix, targets: Matrix) -> float:
    """Return the accuracy of predictions that leave each image out, from residuals and targets ±1 [m, K]."""
    return float(np.mean((targets - residuals).argmax(axis=1) == targets.argmax(axis=1)))


def cholesky(
    matrix: Array, images: int, regularization: float, curvature: float = 1.0, overwrite: bool = False
) -> Array:
    """Return the lower Cholesky factor of matrix + (nλ/c) I, whose lower triangle decides."""
    shifted = matrix if overwrite else matrix.copy(order="F")
    shifted.T.reshape(-1)[:: len(matrix) + 1] += images * regularization / curvature  # the diagonal
    try:
        return linear_algebra.cholesky(shifted)
    except np.linalg.LinAlgError as error:
        raise InvalidSpec(
            f"regularization {regularization:g} is too small for these features: their Gram matrix is "
            f'singular in {matrix.dtype}; give a larger one, 1e-8 or more, or "auto"'
        ) from error


def solve(factor: Array, targets: Array) -> Matrix:
    """Return (LLᵀ)⁻¹ targets, float64, for the lower Cholesky factor L."""
    return linear_algebra.solve(factor, targets.astype(factor.dtype)).astype(np.float64, copy=False)
