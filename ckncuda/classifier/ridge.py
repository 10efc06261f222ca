"""Ridge regression on ±1 targets: closed form, with exact leave-one-out accuracy."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from ckncuda.classifier import normal_equations
from ckncuda.classifier.classifier import Progress
from ckncuda.classifier.linear import TrainableLinearClassifier
from ckncuda.classifier.scaling import FeatureScaling
from ckncuda.classifier.selection import (
    FEW,
    best_regularization,
    check_regularization,
    check_seed,
    check_validation,
    climb_from,
    halvings,
    held_out_split,
    search_regularization,
)
from ckncuda.classifier.training_data import check_training_data, rows_of, signed_targets
from ckncuda.errors import InvalidSpec

FAILED = -1.0  # the accuracy of a λ that is too small for the precision, less than any other
THIRD = 10 ** (1 / 3)  # of a decade


class Ridge(TrainableLinearClassifier):
    r"""One-vs-rest least squares with a quadratic penalty, solved exactly.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i ½ ‖y_i − (Wᵀ x_i + b)‖² + (λ/2) ‖W‖²,   y_i = ±1 [K],

    that is, the factor on the squared loss is ½ and the normal equations are
    (XᵀX + nλ I) W = Xᵀ(Y − Ȳ), b = Ȳ. With fewer images than features they are solved in the dual, where one
    n×n Gram matrix serves every λ; otherwise in the primal, d×d.

    Leave-one-out predictions are exact: image i's is that of the minimiser of the same objective without
    its i-th term (same 1/n, same centring and scaling), the intercept refitted. They cost one Cholesky
    factorisation and one triangular inverse a λ.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": the λ with the highest leave-one-out accuracy, by decades from 1 to 1e-8
        and then thirds of a decade around the best; of equal ones the largest. Of 4,000 images and
        more in the dual, 1,000 or so show where to look, then twice as many, and so on: all of them decide.
        Of more than 10,000 images in the primal, so many, drawn at random, are left out one by one.
    validation : float
        0: the accuracy reported is the leave-one-out one. Otherwise the fraction of the images, of each
        class in proportion, that are held out of the choice of λ to measure the accuracy; all
        images are fitted at the end.
    seed : int
        Draws the held-out images.

    Attributes
    ----------
    weights_ : float32 [d, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float
        Leave-one-out accuracy at that λ, or that on the held-out images.
    validation_ : str
        How this accuracy was obtained.
    search_ : list of (float, float)
        The λ tried on all images and their accuracies, in the order tried. Of 4,000 images and more in the
        dual, half of the images, drawn at random, are left out one by one to compare λ.

    Notes
    -----
    Products, factorisations and sums are in float64, blocks of the float32 features being converted on the
    way; in the dual with 4,000 images and more, the Gram matrix is in float32 as the features are, and so is
    its factorisation for λ of 1e-6 and more (left-out residuals then err by 0.5 % at most, typically by
    0.05 %). At most two square matrices of the size min(n, d) are held.

    Of features on a GPU everything is computed there, with three such matrices at most; labels and what is
    learned are on the host.

    References
    ----------
    T. Hastie, R. Tibshirani, J. Friedman, *The Elements of Statistical Learning*, sections 3.4 and 7.10.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.8, 0.0]], dtype=np.float32)
    >>> ridge = Ridge(regularization=1e-2).fit(features, [3, 3, 8, 8])
    >>> ridge.predict(features)
    array([3, 3, 8, 8])
    >>> ridge.validation_accuracy_, ridge.validation_
    (1.0, 'leave-one-out over 4 images; λ = 0.01 was given')
    """

    def __init__(self, regularization: float | str = "auto", validation: float = 0.0, seed: int = 0) -> None:
        self.regularization = regularization
        self.validation = validation
        self.seed = seed

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        check_regularization(self.regularization)
        if self.validation != 0:
            check_validation(self.validation, self.regularization)
        check_seed(self.seed)

    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Learn the weights and the intercept.

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
        self : Ridge

        Raises
        ------
        InvalidData
            The features or labels are malformed or do not fit together.
        InvalidSpec
            An option is out of its range.
        """
        self.check_options()
        checked, classes, targets = check_training_data(features, labels)
        images = len(checked)
        if self.validation == 0:
            judged, chose = self._solve(checked, widths, classes, targets, self.regularization, progress)
            by = "the same accuracies" + (f" over {chose} of them" if chose < judged else "")
            of = f"{images} images" if judged == images else f"{judged} of {images} images, drawn at random"
            self.validation_ = f"leave-one-out over {of}; {self._choice(by)}"
            return self
        kept, held_out = held_out_split(targets, self.validation, self.seed)
        self._solve(rows_of(checked, kept), widths, classes, targets[kept], self.regularization, progress)
        predicted = self.predict(rows_of(checked, held_out))
        accuracy = float(np.mean(predicted == classes[targets[held_out]]))
        search = self.search_
        self._solve(checked, widths, classes, targets, self.regularization_, progress)
        self.search_, self.validation_accuracy_ = search, accuracy
        choice = self._choice("leave-one-out over the others")
        self.validation_ = (
            f"{len(held_out)} images held out of {images}; {choice}, then all {images} were fitted"
        )
        return self

    def _choice(self, by: str) -> str:
        how = f"was chosen by {by}" if isinstance(self.regularization, str) else "was given"
        return f"λ = {self.regularization_:g} {how}"

    def _solve(
        self,
        checked: npt.NDArray[np.float32],
        widths: Sequence[int] | None,
        classes: npt.NDArray[np.int64],
        targets: npt.NDArray[np.intp],
        regularization: float | str,
        progress: Progress | None,
    ) -> tuple[int, int]:
        """Learn from these images, at a given λ or at the best by leave-one-out.

        Returns of how many images the accuracy is, and of how many those are that chose λ.
        """
        scaling = FeatureScaling.of(checked, widths)
        signs = signed_targets(np.asarray(targets, like=checked), len(classes))
        intercept = signs.mean(axis=0)
        signs -= intercept
        images, width = checked.shape
        kind = normal_equations.DualSystem if images < width else normal_equations.PrimalSystem
        system = kind(checked, scaling, signs, progress)

        def accuracy(residuals: npt.NDArray[np.float64]) -> float:
            true = intercept + system.judged_targets(len(residuals))
            return float(np.mean((true - residuals).argmax(axis=1) == true.argmax(axis=1)))

        def accuracy_at(tried: float) -> float:
            with _too_small():
                return accuracy(system.left_out_residuals(tried))
            return FAILED

        many = images >= normal_equations.MANY
        if isinstance(regularization, str) and isinstance(system, normal_equations.DualSystem) and many:
            judged, chose = images, images // 2
            search, right = _search_from_few(system, accuracy, progress)
            best = best_regularization(search)
        else:
            if isinstance(regularization, str):
                best, search = search_regularization(accuracy_at, images, progress)
            else:
                best = float(regularization)
                search = [(best, accuracy_at(best))]
            right = dict(search)[best]
            judged = chose = (
                len(system.judges) if isinstance(system, normal_equations.PrimalSystem) else images
            )
        self.weights_, self.intercept_ = scaling.fold(system.weights(best), intercept)
        self.classes_ = classes
        self.regularization_, self.search_, self.validation_accuracy_ = best, search, right
        return judged, chose


def _too_small() -> contextlib.AbstractContextManager[None]:
    """Go on where images are so alike that the λ tried is too small for the precision."""
    return contextlib.suppress(InvalidSpec)


def _search_from_few(
    system: normal_equations.DualSystem,
    accuracy: Callable[[npt.NDArray[np.float64]], float],
    progress: Progress | None,
) -> tuple[list[tuple[float, float]], float]:
    """Look for λ among the last `FEW` images or so, then among twice as many from there on, until all are in.

    Only the last half of them is left out, one by one. Twice as many images take a λ that is weaker by a
    third of a decade or two: each climb begins a third below the last one's end.

    Parameters
    ----------
    system : DualSystem
    accuracy : callable
        That of the residuals of the last images, as many as there are.
    progress : callable or None

    Returns
    -------
    search : list of (λ, accuracy)
        Those tried with all images; accuracies over the last half.
    accuracy : float
        Of the best one, over all.
    """
    images = len(system.targets)
    counts = halvings(images // 2, FEW)

    def among(last: int) -> Callable[[float], float]:
        def accuracy_at(tried: float) -> float:
            with _too_small():
                return accuracy(system.solution(tried, last).left_out_residuals(last // 2))
            return FAILED

        return accuracy_at

    near, _ = search_regularization(among(counts[0]), counts[0] // 2, progress, refinement=())
    for count in counts[1:]:
        near, _ = climb_from(near / THIRD, among(count), progress)
    best: tuple[float, float, float] = 0.0, 0.0, 0.0

    def among_all(tried: float) -> float:
        nonlocal best
        with _too_small():
            solution = system.solution(tried)
            right = accuracy(solution.left_out_residuals(images // 2))
            if (right, tried) > best[:2]:
                best = right, tried, accuracy(solution.left_out_residuals())
            return right
        return FAILED

    _, search = climb_from(near / THIRD, among_all, progress)
    return search, best[2]
