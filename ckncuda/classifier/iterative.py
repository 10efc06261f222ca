"""Linear classifiers without a closed form: hold out, choose λ, fit on all images."""

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import threadpoolctl

from ckncuda.classifier import spaces
from ckncuda.classifier.choice import Choice, Options, Search, best_regularization, search_or_try
from ckncuda.classifier.classifier import TrainableClassifier
from ckncuda.classifier.lbfgs import minimize_lbfgs
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.losses import Loss, cross_entropy, squared_hinge
from ckncuda.classifier.sgd import minimize_sgd
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, block_bytes
from ckncuda.classifier.validation import held_out_sentence, held_out_split
from ckncuda.given.parameters import choice, whole
from ckncuda.progress import Progress
from ckncuda.types import Array, Index


class IterativeClassifier(LinearClassifier, TrainableClassifier):
    """A classifier fitted by an iterative solver; a subclass names its loss.

    λ is the one with the highest accuracy on held-out images, by decades from 1 down to 1e-8, ending early
    when it has clearly fallen, and then thirds of a decade around the best.

    It is solved in the primal or, with fewer images than features, in the dual; preconditioned by one
    Cholesky factorisation a λ, which makes a λ below 1e-8 too small for some features. Besides a scaled
    float32 copy of the features, two square float64 matrices of the size min(n, d) are held.

    Parameters
    ----------
    regularization, validation, seed
        See `ValidatedClassifier`; for what is learned, `LinearClassifier` too.
    max_iterations : int
        Bound on the iterations of one fit, which ends when the distance of the objective to its minimum, as
        the preconditioned quadratic model of L-BFGS estimates it, is below 1e-5 of the objective plus 1e-8,
        or when rounding leaves no descent.

    Attributes
    ----------
    search_ : list of (float, float)
        The λ tried and their accuracies, in the order tried.

    Warns
    -----
    RuntimeWarning
        The last fit, that on all images, did not converge in ``max_iterations``.
    """

    leaves_one_out = False
    loss: Loss
    curvature: float  # a typical second derivative of the loss by a score: the preconditioner's scale
    search_: Search

    def __init__(
        self,
        regularization: float | str = "auto",
        validation: float = 0.1,
        max_iterations: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(regularization, validation, seed)
        self.max_iterations = max_iterations

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        super().check_options()
        self.max_iterations = whole("max_iterations", self.max_iterations, 1, "expected at least 1")

    def _fit(self, data: TrainingData, progress: Progress | None) -> None:
        images = len(data.targets)
        kept, held_out = held_out_split(data.targets, self.validation, self.seed)
        # The held-out images come last, so that the others are a view of the same array. The mean and the
        # scale are of all images: they see no label, and λ means the same in every fit.
        order = np.concatenate([kept, held_out])
        scaling = FeatureScaling.of(data.features, data.widths)
        prepared = self._prepare(scaling.scaled(data.features, order), progress)
        there = np.asarray(data.targets[order], like=data.features)
        problem = _Problem(self, prepared, there, len(data.classes), len(kept))
        given, search = self.regularization, []
        if isinstance(given, str) or len(held_out):
            search = search_or_try(given, problem.held_out_accuracy, len(held_out), progress)
        best = best_regularization(search) if search else float(given)
        weights, intercept = problem.fit_all(best, progress)

        self.weights_, self.intercept_ = scaling.fold(weights, intercept)
        self.classes_ = data.classes
        self.regularization_, self.search_ = best, search
        self.validation_accuracy_ = dict(search).get(best)
        said = Options(self.regularization).said(Choice(best), "on them")
        self.validation_ = held_out_sentence(len(held_out), images, said)

    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count a scaled copy of the features, and three square matrices of the size min(n, d)."""
        return 4 * n * d + 3 * 8 * min(n, d) ** 2 + block_bytes(n, d)

    def _prepare(self, features: npt.NDArray[np.float32], progress: Progress | None) -> spaces.Features:
        """Return the scaled features with what serves every λ, in the smaller of the two spaces."""
        images, width = features.shape
        kind = spaces.DualFeatures if images < width else spaces.PrimalFeatures
        return kind(features, self.curvature, progress)

    def _minimize(
        self, space: spaces.Space, targets: Index, start: Array, progress: Progress | None
    ) -> tuple[Array, bool]:
        """Return the minimiser, and whether the solver converged."""
        return minimize_lbfgs(space, self.loss, targets, start, self.max_iterations, progress)


@dataclass
class _Problem:
    """A training set, its first ``kept`` images to fit on while λ is chosen, the others held out."""

    classifier: IterativeClassifier
    features: spaces.Features
    targets: Index
    classes: int
    kept: int
    solved: dict[float, Array] = field(default_factory=dict)

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
                stacklevel=4,  # where fit was called
            )
        return self.features.weights(x)

    def minimize(self, images: int, regularization: float, progress: Progress | None) -> tuple[Array, bool]:
        """Fit to the first images, from the solution at the nearest λ solved so far or from zero."""
        nearest = min(self.solved, key=lambda tried: abs(math.log(tried / regularization)), default=0.0)
        space = self.features.space(images, regularization)
        start = self.features.start(images, self.classes, self.solved.get(nearest))
        # The solver's products have K columns and are bound by memory. NumPy and SciPy bring one BLAS each,
        # whose idle threads spin against the other's: on two cores one thread is twice as fast.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            return self.classifier._minimize(space, self.targets[:images], start, progress)


class Softmax(IterativeClassifier):
    """Multinomial logistic regression: the cross-entropy of the softmax, with a quadratic penalty.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i (log Σ_k exp(s_ik) − s_iy) + (λ/2) ‖W‖²,   s_i = Wᵀ x_i + b.

    Parameters
    ----------
    optimizer : "lbfgs" or "sgd"
        "sgd" is the schedule of *CKN from Scratch*: 30 epochs of SGD (batch 128, momentum 0.9, step 4e-3,
        from epoch 15 on 4e-4), each followed by ten iterations of L-BFGS on all images; ``max_iterations``
        does not bound it, and the seed draws its mini-batches too. On fixed features the objective is convex
        with one minimiser, so that both end at the same classifier up to tolerance, "lbfgs" sooner.
    regularization, validation, max_iterations, seed
        See `IterativeClassifier`, also for what is learned.

    References
    ----------
    B. Schölkopf, R. Herbrich, A. J. Smola, *A generalized representer theorem*, 2001.
    D. C. Liu, J. Nocedal, *On the limited memory BFGS method for large scale optimization*, 1989.
    O. Zekri, B. Benyamina, *CKN from Scratch*, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.8, 0.0]], dtype=np.float32)
    >>> softmax = Softmax(regularization=1e-2, validation=0.5).fit(features, [3, 3, 8, 8])
    >>> softmax.predict(features)
    array([3, 3, 8, 8])
    >>> softmax.validation_accuracy_, softmax.validation_
    (1.0, '2 images held out of 4; λ = 0.01 was given, then all 4 were fitted')
    """

    loss = staticmethod(cross_entropy)
    curvature = 0.1  # p (1 − p) at p = 1/10; the iterations hardly depend on it

    def __init__(
        self,
        regularization: float | str = "auto",
        optimizer: str = "lbfgs",
        validation: float = 0.1,
        max_iterations: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(regularization, validation, max_iterations, seed)
        self.optimizer = optimizer

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        super().check_options()
        choice("optimizer", self.optimizer, ("lbfgs", "sgd"), 'expected "lbfgs" or "sgd"')

    def _prepare(self, features: npt.NDArray[np.float32], progress: Progress | None) -> spaces.Features:
        if self.optimizer == "sgd":
            return spaces.PlainFeatures(features, self.curvature)
        return super()._prepare(features, progress)

    def _minimize(
        self, space: spaces.Space, targets: Index, start: Array, progress: Progress | None
    ) -> tuple[Array, bool]:
        if self.optimizer == "sgd" and isinstance(space, spaces.PrimalSpace):
            random = np.random.default_rng(self.seed)
            return minimize_sgd(space, self.loss, targets, start, random, progress), True
        return super()._minimize(space, targets, start, progress)


class SquaredHinge(IterativeClassifier):
    """One-vs-rest support vector machines with the squared hinge loss, all classes in one L-BFGS.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i ½ Σ_k max(0, 1 − y_ik s_ik)² + (λ/2) ‖W‖²,   s_i = Wᵀ x_i + b,  y_ik = ±1:

    the loss of `Ridge`, except that scores beyond ±1 on the right side cost nothing.

    Parameters
    ----------
    regularization, validation, max_iterations, seed
        See `IterativeClassifier`, also for what is learned.

    References
    ----------
    R.-E. Fan et al., *LIBLINEAR: a library for large linear classification*, JMLR 9, 2008 (L2-loss SVM).

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.8, 0.0]], dtype=np.float32)
    >>> hinge = SquaredHinge(regularization=1e-2, validation=0).fit(features, [3, 3, 8, 8])
    >>> hinge.predict(features)
    array([3, 3, 8, 8])
    >>> hinge.validation_
    'not measured: no image was held out; λ = 0.01 was given'
    """

    loss = staticmethod(squared_hinge)
    curvature = 1.0
