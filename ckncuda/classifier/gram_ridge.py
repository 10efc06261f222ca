"""Kernel ridge regression on Gram matrices that are there already, whatever kernel they are of."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.choice import (
    Choice,
    Judgement,
    Options,
    check_weights,
    normalized_weights,
    shown_weights,
)
from ckncuda.classifier.classifier import checked_regularization
from ckncuda.classifier.gram_matrices import GramMatrices, check_grams
from ckncuda.classifier.landmarks import GramLandmarks, check_points, fit_ridge, weighted_sum
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.ridge import Ridge
from ckncuda.classifier.systems import MANY, GramSystem, check_count
from ckncuda.classifier.training_data import block_bytes, check_classes
from ckncuda.classifier.validation import LeaveOneOut, held_out_split
from ckncuda.errors import InvalidData
from ckncuda.progress import Progress
from ckncuda.types import Index

FEWEST = 10
"""Landmarks by which weights are chosen; of fewer, or of one class alone, kernels have equal weights."""


class GramRidge(LinearClassifier, LeaveOneOut[GramMatrices]):
    r"""One-vs-rest least squares in the space of any kernel, given by its values, solved exactly.

    Each Gram matrix is centred and scaled, as features are by `Ridge`: images have the mean 0 and the mean
    squared norm 1 in the kernel's space then, so that λ and the weights of several kernels mean the same
    whatever they measure.  With K their weighted sum, the solution, its leave-one-out predictions and the
    search for λ and weights are those of `KernelRidge`.  The result is a linear classifier whose features are
    an image's kernel values with the training images, as they come: all of the first kernel, then all of the
    second, and so on.

    Parameters
    ----------
    weights : sequence of float or "auto"
        Of the kernels, not negative; "auto": chosen by leave-one-out accuracy.
    regularization, validation, seed
        See `ValidatedClassifier`; for what is learned, `LinearClassifier` too.

    Attributes
    ----------
    kernel_weights_ : tuple of float
        Of the kernels; they sum to 1.

    Notes
    -----
    Everything is in the host's memory: beside the Gram matrices, whose rows are read in blocks and may be on
    a disk, one square matrix a kernel and two more, in float32 from 4,000 images on.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angle = rng.uniform(0, 2 * np.pi, size=240)
    >>> labels = np.arange(240) % 2
    >>> rings = ((1 + labels) * np.array([np.cos(angle), np.sin(angle)])).T
    >>> kernel = np.exp(-((rings[:, None] - rings) ** 2).sum(axis=2))  # any kernel
    >>> ridge = GramRidge().fit(kernel[:200, :200], labels[:200])
    >>> bool(np.mean(ridge.predict(kernel[200:, :200]) == labels[200:]) > 0.9)
    True

    On landmarks, with the kernels of 20 of the images only:

    >>> ridge = GramRidge().fit(kernel[:200, :20], labels[:200], points=range(20))
    >>> bool(np.mean(ridge.predict(kernel[200:, :20]) == labels[200:]) > 0.9)
    True
    """

    kernel_weights_: tuple[float, ...]

    def __init__(
        self,
        regularization: float | str = "auto",
        weights: Sequence[float] | str = "auto",
        validation: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(regularization, validation, seed)
        self.weights = weights

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit kernels and images."""
        self.regularization = checked_regularization(self.regularization)
        check_weights(self.weights, encoders, "kernels")
        super().check_options()
        check_count(images, "landmarks")

    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count what is held beside Gram matrices, or comparisons with landmarks, [n, d / encoders] each."""
        m = d // encoders
        if m < n:
            return (encoders + 3) * 8 * m**2 + 4 * n * m + Ridge().bytes_to_fit(n, m, 1) + block_bytes(n, d)
        return ((4 if n >= MANY else 8) * encoders + 2 * 8) * n**2 + block_bytes(n, n)

    def fit(
        self,
        grams: npt.ArrayLike | Sequence[npt.ArrayLike],
        labels: npt.ArrayLike,
        points: npt.ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from kernel values and labels; return self.

        Parameters
        ----------
        grams : array [n, n], or a sequence of them
            The Gram matrix of the training images, or one for each kernel.  With ``points``, [n, m].
        labels : integers [n], not negative
        points : integers [m], optional
            The numbers of the images, the landmarks, that the columns are of: the solution is sought in their
            span, as `NystromRidge` does.  Weights that are to be chosen are chosen on these images.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Raises
        ------
        InvalidData
            The Gram matrices or labels are malformed or do not fit together.
        InvalidSpec
            An option is out of its range, or there are not as many weights as kernels.
        """
        classes, targets = check_classes(labels)
        images = len(targets)
        numbers = np.arange(images) if points is None else check_points(points, images)
        checked = check_grams(grams, images, len(numbers))
        self.check_options(images if points is None else None, len(checked))
        if points is None:
            self._fit(GramMatrices(checked, numbers, classes, targets), progress)
        else:
            self._fit_on_landmarks(GramLandmarks(checked, numbers), targets, progress)
            self.classes_ = classes
        return self

    def _options(self, data: GramMatrices) -> Options:
        return Options(self.regularization, len(data.grams), self.weights)

    def _learn(self, data: GramMatrices, choice: Choice | None, progress: Progress | None) -> Judgement:
        system = GramSystem(data)
        found, solved = system.solve(self._options(data), choice, progress)
        alpha = np.empty_like(solved)
        alpha[system.order] = solved
        centred = alpha - alpha.mean(axis=0)
        scales = [w / each.spread for w, each in zip(found.choice.weights, system.statistics, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is reported
            weights = np.concatenate([scale * centred for scale in scales]).astype(np.float32)
            # Rounded weights are made up for at the mean of the training images.
            rounded = np.concatenate([each.means for each in system.statistics]) @ weights.astype(np.float64)
            intercept = (alpha.sum(axis=0) - rounded).astype(np.float32)
        if not (np.isfinite(weights).all() and np.isfinite(intercept).all() and weights.any()):
            raise InvalidData(
                "the kernel's values are so small or so large that weights on them do not fit single "
                "precision: multiply the Gram matrix, and those of images to predict, by a number that "
                "brings it near 1"
            )
        self.weights_, self.intercept_, self.classes_ = weights, intercept, data.classes
        self.kernel_weights_ = found.choice.weights
        return found

    def _fit_on_landmarks(self, landmarks: GramLandmarks, targets: Index, progress: Progress | None) -> None:
        """Learn from new features L⁻¹ k, where L Lᵀ is the landmarks' Gram matrix."""
        kernel_weights, how = self._weights_on_landmarks(landmarks, targets, progress)
        scales = [w / spread for w, spread in zip(kernel_weights, landmarks.spreads, strict=True)]
        factor, mapped, means = landmarks.new_features(scales, progress)
        ridge = Ridge(self.regularization, self.validation, self.seed)
        dual, intercept = fit_ridge(self, ridge, factor, mapped, targets, how, progress)
        self.weights_ = np.concatenate([scale * dual for scale in scales]).astype(np.float32)
        mean_score = weighted_sum(scales, means) @ dual
        rounded = means.reshape(-1) @ self.weights_.astype(np.float64)
        self.intercept_ = (intercept + mean_score - rounded).astype(np.float32)
        self.kernel_weights_ = kernel_weights

    def _weights_on_landmarks(
        self, landmarks: GramLandmarks, targets: Index, progress: Progress | None
    ) -> tuple[tuple[float, ...], list[str]]:
        """Return weights, given or chosen on the landmarks that are not held out, and say which they are."""
        points, own = landmarks.points, landmarks.own
        if len(own) == 1:
            return (1.0,), []
        if not isinstance(self.weights, str):
            weights = normalized_weights(self.weights)
            return weights, [f"{shown_weights(weights)} were given"]
        kept = np.flatnonzero(np.isin(points, held_out_split(targets, self.validation, self.seed)[0]))
        if len(kept) < FEWEST or len(np.unique(targets[points[kept]])) < 2:
            return normalized_weights((1.0,) * len(own)), ["the kernels have equal weights"]
        some = [square[np.ix_(kept, kept)] for square in own]
        weights = GramRidge().fit(some, targets[points[kept]], progress=progress).kernel_weights_
        return weights, [f"{shown_weights(weights)} were chosen by leave-one-out over {len(kept)} landmarks"]
