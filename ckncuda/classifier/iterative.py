"""What the classifiers without a closed form share: hold out, choose λ, fit on all images."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import threadpoolctl

from ckncuda.classifier.classifier import Progress
from ckncuda.classifier.linear import TrainableLinearClassifier
from ckncuda.classifier.objective import Array, Loss
from ckncuda.classifier.scaling import FeatureScaling
from ckncuda.classifier.selection import (
    check_regularization,
    check_seed,
    check_validation,
    held_out_split,
    search_regularization,
)
from ckncuda.classifier.training_data import check_training_data
from ckncuda.errors import InvalidSpec

if TYPE_CHECKING:  # SciPy's linear algebra is a third of the library's start-up: only a fit pays for it
    from ckncuda.classifier.spaces import Features, Space


class IterativeClassifier(TrainableLinearClassifier):
    """A classifier fitted by an iterative solver; a subclass names its loss.

    Parameters and attributes are those of `Softmax` and `SquaredHinge`.
    """

    loss: Loss
    curvature: float  # a typical second derivative of the loss by a score: the preconditioner's scale

    def __init__(
        self,
        regularization: float | str = "auto",
        validation: float = 0.1,
        max_iterations: int = 1000,
        seed: int = 0,
    ) -> None:
        self.regularization = regularization
        self.validation = validation
        self.max_iterations = max_iterations
        self.seed = seed

    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Choose λ on held-out images if asked to, then learn from all images.

        Parameters
        ----------
        features : float32 [n, d]
        labels : integers [n], not negative
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        widths : sequence of int, optional
            How many of the features, one after the other, come from each encoder; all are scaled alike.

        Returns
        -------
        self

        Raises
        ------
        InvalidData
            The features or labels are malformed or do not fit together, or no image can be held out.
        InvalidSpec
            An option is out of its range, or λ too small for the precision of these features.

        Warns
        -----
        RuntimeWarning
            The last fit, that on all images, did not converge in ``max_iterations``.
        """
        self.check_options()
        checked, classes, targets = check_training_data(features, labels)
        if self.validation > 0:
            kept, held_out = held_out_split(targets, self.validation, self.seed)
        else:
            kept, held_out = np.arange(len(targets)), np.arange(0)
        # The held-out images come last, so that the others are a view of the same array. The mean and the
        # scale are of all images: they see no label, and λ means the same in every fit.
        order = np.concatenate([kept, held_out])
        scaling = FeatureScaling.of(checked, widths)
        prepared = self._prepare(scaling.scaled(checked, order), progress)
        there = np.asarray(targets[order], like=checked)
        problem = _Problem(self, prepared, there, len(classes), len(kept))
        best, search = problem.choose(progress)
        weights, intercept = problem.fit_all(best, progress)

        self.weights_, self.intercept_ = scaling.fold(weights, intercept)
        self.classes_ = classes
        self.regularization_, self.search_ = best, search
        self.validation_accuracy_ = dict(search).get(best)
        self.validation_ = self._sentence(len(held_out), len(targets))
        return self

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        check_regularization(self.regularization)
        check_validation(self.validation, self.regularization)
        check_seed(self.seed)
        if self.max_iterations < 1:
            raise InvalidSpec(f"max_iterations is {self.max_iterations}; expected at least 1")

    def _prepare(self, features: npt.NDArray[np.float32], progress: Progress | None) -> "Features":
        """Return the scaled features with what serves every λ, in the smaller of the two spaces."""
        from ckncuda.classifier.spaces import DualFeatures, PrimalFeatures

        images, width = features.shape
        return (DualFeatures if images < width else PrimalFeatures)(features, self.curvature, progress)

    def _minimize(
        self, space: "Space", targets: npt.NDArray[np.intp], start: Array, progress: Progress | None
    ) -> tuple[Array, bool]:
        """Return the minimiser, and whether the solver converged."""
        from ckncuda.classifier.lbfgs import minimize_lbfgs

        return minimize_lbfgs(space, self.loss, targets, start, self.max_iterations, progress)

    def _sentence(self, held_out: int, images: int) -> str:
        how = "was chosen on them" if self.regularization == "auto" else "was given"
        tried = f"λ = {self.regularization_:g} {how}"
        if held_out == 0:
            return f"not measured: no image was held out; {tried}"
        return f"{held_out} images held out of {images}; {tried}, then all {images} were fitted"


class _Problem:
    """One training set, its first ``kept`` images to fit on while λ is chosen, the others held out."""

    def __init__(
        self,
        classifier: IterativeClassifier,
        features: "Features",
        targets: npt.NDArray[np.intp],
        classes: int,
        kept: int,
    ) -> None:
        self.classifier, self.features, self.targets = classifier, features, targets
        self.classes, self.kept = classes, kept
        self.solved: dict[float, Array] = {}

    def choose(self, progress: Progress | None) -> tuple[float, list[tuple[float, float]]]:
        """Return λ and what was tried: nothing, the given λ, or a search."""
        given = self.classifier.regularization
        held_out = len(self.targets) - self.kept
        if isinstance(given, str):
            return search_regularization(self.held_out_accuracy, held_out, progress)
        if held_out == 0:
            return float(given), []
        return float(given), [(float(given), self.held_out_accuracy(float(given)))]

    def held_out_accuracy(self, regularization: float) -> float:
        """Fit on the images kept and return the accuracy on the others."""
        x, _ = self.minimize(self.kept, regularization, None)
        self.solved[regularization] = x
        scores = self.features.scores_after(self.kept, x)
        return float(np.mean(scores.argmax(axis=1) == self.targets[self.kept :]))

    def fit_all(self, regularization: float, progress: Progress | None) -> tuple[Array, Array]:
        """Fit on all images and return weights and intercept on scaled features."""
        x, converged = self.minimize(len(self.targets), regularization, progress)
        if not converged:
            warnings.warn(
                f"{type(self.classifier).__name__} stopped after max_iterations = "
                f"{self.classifier.max_iterations} before it converged (λ = {regularization:g}); "
                "give more iterations or a larger regularization",
                RuntimeWarning,
                stacklevel=3,
            )
        return self.features.weights(x)

    def minimize(self, images: int, regularization: float, progress: Progress | None) -> tuple[Array, bool]:
        """Fit to the first images, from the solution at the nearest λ solved so far or from zero."""
        nearest = self.features.zero(self.classes)
        if self.solved:
            nearest = self.solved[min(self.solved, key=lambda tried: abs(math.log(tried / regularization)))]
        space, start = self.features.space(images, regularization), self.features.start(images, nearest)
        # The solver's products have K columns and are bound by memory. NumPy and SciPy bring one BLAS each,
        # whose idle threads spin against the other's: on two cores one thread is twice as fast.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            return self.classifier._minimize(space, self.targets[:images], start, progress)
