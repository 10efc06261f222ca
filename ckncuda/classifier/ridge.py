"""Ridge regression on ±1 targets: closed form, with exact leave-one-out accuracy."""

from ckncuda.classifier.choice import (
    Choice,
    Judgement,
    Options,
    Search,
    best_regularization,
    or_failed,
    search_from_few,
    search_or_try,
)
from ckncuda.classifier.classifier import LEAVE_ONE_OUT, TrainableClassifier
from ckncuda.classifier.held_out_system import HeldOutPrimalSystem
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.systems import FeatureSystem, PrimalSystem
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, block_bytes
from ckncuda.classifier.validation import HeldOutOrLeftOut
from ckncuda.progress import Progress


class Ridge(LinearClassifier, HeldOutOrLeftOut, TrainableClassifier):
    r"""One-vs-rest least squares with a quadratic penalty, solved exactly.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i ½ ‖y_i − (Wᵀ x_i + b)‖² + (λ/2) ‖W‖²,   y_i = ±1 [K]:

    the normal equations are (XᵀX + nλ I) W = Xᵀ(Y − Ȳ), b = Ȳ. With fewer images than features they are
    solved in the dual, where one n×n Gram matrix serves every λ; otherwise in the primal, d×d.

    Leave-one-out predictions are exact: image i's is that of the minimiser of the same objective without
    its i-th term (same 1/n, same centring and scaling), the intercept refitted. They cost one Cholesky
    factorisation and one triangular inverse a λ.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": the λ with the highest leave-one-out accuracy, by decades from 1 to 1e-8, ending
        early when it has clearly fallen, and then thirds of a decade around the best; of equal ones the
        largest. Of 4,000 images and more in the dual, 1,000 to 2,000 show where to look, then twice as many,
        and so on: all of them decide. Of more than 10,000 images in the primal, so many, drawn at random, are
        left out one by one.
    validation, seed, choose
        See `HeldOutOrLeftOut`; for what is learned, `LinearClassifier` too.

    Attributes
    ----------
    search_ : list of (float, float)
        The λ tried on all images and their accuracies, in the order tried. Of 4,000 images and more in the
        dual, half of the images, drawn at random, are left out one by one to compare λ.

    Notes
    -----
    Products, factorisations and sums are in float64, blocks of the float32 features being converted on the
    way; in the dual with 4,000 images and more, the Gram matrix is in float32 as the features are, and so is
    its factorisation for λ of 1e-6 and more (left-out residuals then err by 0.5 % at most, typically by
    0.05 %). At most two square matrices of the size min(n, d) are held, on a GPU three.

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

    search_: Search

    def __init__(
        self,
        regularization: float | str = "auto",
        validation: float = 0.0,
        seed: int = 0,
        choose: str = LEAVE_ONE_OUT,
    ) -> None:
        super().__init__(regularization, validation, seed, choose)

    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count square matrices of the size min(n, d): products, a factor, and part of one that is judged."""
        return 3 * 8 * min(n, d) ** 2 + block_bytes(n, d) + self.bytes_kept(n, d)

    def _options(self, data: TrainingData) -> Options:
        return Options(self.regularization)

    def _learn(self, data: TrainingData, choice: Choice | None, progress: Progress | None) -> Judgement:
        scaling = FeatureScaling.of(data.features, data.widths)
        images, width = data.features.shape
        primal = HeldOutPrimalSystem if len(data.held_out) else PrimalSystem
        system = (FeatureSystem if images < width else primal)(data, scaling, progress)
        judged = chose = system.judged
        accuracy: float | None = None
        if choice is not None:
            best, search = choice.regularization, choice.search or []
        elif isinstance(self.regularization, str) and isinstance(system, FeatureSystem) and system.large:
            chose = system.held_out or images // 2
            search, accuracy = _search_from_few(system, progress)
            best = best_regularization(search)
        else:
            judges = len(data.held_out) or images
            # A λ that is given is refused where the images kept are too alike for it, though all are not.
            accuracy_at = (
                or_failed(system.accuracy_at) if self.regularization == "auto" else system.accuracy_at
            )
            search = search_or_try(self.regularization, accuracy_at, judges, progress)
            best = best_regularization(search)
            accuracy = dict(search)[best]
        self.weights_, self.intercept_ = scaling.fold(system.weights(best), system.intercept)
        self.classes_, self.search_ = data.classes, search
        return Judgement(Choice(best, search=search), judged, chose, accuracy)


def _search_from_few(system: FeatureSystem, progress: Progress | None) -> tuple[Search, float]:
    """Look for λ among the last images of the system, of which the last half is left out, one by one.

    Return the λ tried with all images, with accuracies over the last half, and that of the best over all.
    Where images are held out, these are left out together in place of both.
    """
    images = len(system.targets)
    if system.held_out:

        @or_failed
        def held_out_accuracy(count: int, tried: float) -> float:
            return system.accuracy_among(Choice(tried), count, system.held_out_among(count))

        search = search_from_few(held_out_accuracy, images, progress, system.held_out_among)
        return search, dict(search)[best_regularization(search)]
    best: tuple[float, float, float] = 0.0, 0.0, 0.0

    @or_failed
    def accuracy_among(count: int, tried: float) -> float:
        nonlocal best
        solution = system.solution(Choice(tried), count)
        right = system.accuracy(solution.left_out_residuals(count // 2))
        if count == images and (right, tried) > best[:2]:
            best = right, tried, system.accuracy(solution.left_out_residuals())
        return right

    return search_from_few(accuracy_among, images, progress), best[2]
