"""Multinomial logistic regression."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.classifier import Progress
from ckncuda.classifier.iterative import IterativeClassifier
from ckncuda.classifier.objective import Array
from ckncuda.errors import InvalidSpec

if TYPE_CHECKING:
    from ckncuda.classifier.spaces import Features, Space


def cross_entropy(
    scores: npt.NDArray[np.float64], targets: npt.NDArray[np.intp]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Return Σ_i log Σ_k exp(s_ik) − s_iy and its derivative by the scores, softmax(s_i) − e_y.

    The largest score of each image is subtracted first, so that no exponential overflows.

    Parameters
    ----------
    scores : float64 [n, K]
    targets : integers [n]

    Returns
    -------
    loss : float
    derivative : float64 [n, K]
    """
    images = np.arange(len(targets), like=targets)
    shifted = scores - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1)
    loss = float(np.log(totals).sum() - shifted[images, targets].sum())
    exponentials /= totals[:, None]
    exponentials[images, targets] -= 1
    return loss, exponentials


class Softmax(IterativeClassifier):
    """Multinomial logistic regression: the cross-entropy of the softmax, with a quadratic penalty.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i (log Σ_k exp(s_ik) − s_iy) + (λ/2) ‖W‖²,   s_i = Wᵀ x_i + b.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": the λ with the highest accuracy on held-out images, by decades from 1 down
        to 1e-8, ending early when it has clearly fallen, and then thirds of a decade around the
        best; of equal ones the largest.
    optimizer : "lbfgs" or "sgd"
        "sgd" is the schedule of *CKN from Scratch*: 30 epochs of SGD (batch 128, momentum 0.9, step 4e-3,
        from epoch 15 on 4e-4), each followed by ten iterations of L-BFGS on all images. On fixed features
        the objective is convex with one minimiser, so that both end at the same classifier up
        to tolerance, "lbfgs" sooner.
    validation : float
        Fraction of the images held out, of each class in proportion, to choose λ or to measure a given one.
        0 only with a given λ: nothing is measured. All images are fitted at the end in any case.
    max_iterations : int
        Bound on the iterations of one fit by "lbfgs", which ends when the distance of the objective to its
        minimum, as the preconditioned quadratic model of L-BFGS estimates it, is below 1e-5 of the objective
        plus 1e-8, or when rounding leaves no descent.
        "sgd" has its fixed schedule instead.
    seed : int
        Draws the held-out images, and the mini-batches of "sgd".

    Attributes
    ----------
    weights_ : float32 [d, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float or None
        Accuracy on the held-out images of a fit at that λ on the others.
    validation_ : str
        How this accuracy was obtained.
    search_ : list of (float, float)
        The λ tried and their accuracies, in the order tried.

    Notes
    -----
    "lbfgs" works in the primal or, with fewer images than features, in the dual (see `ckncuda.classifier`);
    preconditioned by one Cholesky factorisation a λ, which makes a λ below 1e-8 too small for some features.
    Besides a scaled float32 copy of the features, two square float64 matrices of the size min(n, d) are held.

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
        if self.optimizer not in ("lbfgs", "sgd"):
            raise InvalidSpec(f'optimizer is {self.optimizer!r}; expected "lbfgs" or "sgd"')

    def _prepare(self, features: npt.NDArray[np.float32], progress: Progress | None) -> "Features":
        if self.optimizer == "sgd":
            from ckncuda.classifier.spaces import PlainFeatures

            return PlainFeatures(features, self.curvature)
        return super()._prepare(features, progress)

    def _minimize(
        self, space: "Space", targets: npt.NDArray[np.intp], start: Array, progress: Progress | None
    ) -> tuple[Array, bool]:
        if self.optimizer == "sgd":
            from ckncuda.classifier.sgd import minimize_sgd
            from ckncuda.classifier.spaces import PrimalSpace

            assert isinstance(space, PrimalSpace)
            random = np.random.default_rng(self.seed)
            return minimize_sgd(space, self.loss, targets, start, random, progress), True
        return super()._minimize(space, targets, start, progress)
