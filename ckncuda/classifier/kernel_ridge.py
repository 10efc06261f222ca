"""Kernel ridge regression on ±1 targets: closed form, with exact leave-one-out accuracy."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import to_host
from ckncuda.backend.linear_algebra import add_product
from ckncuda.classifier.classifier import Progress, TrainableClassifier
from ckncuda.classifier.dual_ridge import (
    LAMBDAS,
    WEIGHTS,
    Place,
    check_count,
    check_weights,
    left_out_accuracy,
    precision,
    search,
    shown_choice,
    shown_weights,
    solution_of,
)
from ckncuda.classifier.kernel import KernelClassifier, homogeneous, normalized_weights
from ckncuda.classifier.normal_equations import MANY, DualSolution
from ckncuda.classifier.scaling import FeatureScaling, check_widths, parts
from ckncuda.classifier.selection import (
    FEW,
    check_regularization,
    check_seed,
    check_validation,
    held_out_split,
)
from ckncuda.classifier.training_data import blocks, check_training_data, rows_of, signed_targets
from ckncuda.errors import InvalidSpec
from ckncuda.layer.dot_product import DotProductKernel, Exponential

Array = npt.NDArray[Any]

SIGMAS = tuple(float(f"{2 ** (place / 2):.2g}") for place in range(-3, 5))
"""0.35, 0.5, 0.71, 1, 1.4, 2, 2.8, 4: below, images have nothing in common; above, κ is linear."""


@dataclass(frozen=True)
class _Choice:
    """One point of the search: places in the tables above."""

    regularization: int
    sigmas: tuple[int, ...]  # one an encoder, or none where the kernel is given
    weights: tuple[int, ...]  # one an encoder but the first, or none where they are given


class KernelRidge(KernelClassifier, TrainableClassifier):
    r"""One-vs-rest least squares in the space of a kernel on image features, solved exactly.

    With the Gram matrix K of the training images (see `KernelClassifier` for the kernel), plus 1 for an
    intercept, and targets Y = ±1 [n, K], minimises

        (1/n) Σ_i ½ ‖y_i − f(x_i)‖² + (λ/2) ‖f‖²,   that is, (K + 11ᵀ + nλ I) α = Y.

    Leave-one-out predictions are exact: image i's is that of the minimiser of the same objective without
    its i-th term, y_i − α_i / ((K + 11ᵀ + nλ I)⁻¹)_ii.  They cost one Cholesky factorisation and one
    triangular inverse for each λ, bandwidth or combination of encoders that is tried.

    Parameters
    ----------
    kernel : DotProductKernel or "auto"
        κ, the same for all encoders, such as ``ArcCosine(1)``; "auto": ``Exponential(sigma=σ)``, σ chosen for
        each encoder by leave-one-out accuracy.
    regularization : float or "auto"
        λ > 0, or "auto": chosen by leave-one-out accuracy.
    weights : sequence of float or "auto"
        Of the encoders of an ensemble, not negative; "auto": chosen by leave-one-out accuracy.
    validation : float
        0: the accuracy reported is the leave-one-out one. Otherwise the fraction of the images, of each
        class in proportion, that are held out of every choice to measure the accuracy; all
        images are fitted at the end.
    seed : int
        Draws the held-out images.

    Attributes
    ----------
    points_, dual_, kernels_, weights_, widths_, classes_
        See `KernelClassifier`.
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float
        Leave-one-out accuracy, or that on the held-out images.
    validation_ : str
        How this accuracy was obtained.

    Notes
    -----
    What is to be chosen is looked for among 1,000 to 2,000 images first, on a grid, then climbed from there,
    one step of one number at a time, among twice as many and so on. Accuracies that choose are those of half
    of the images at hand, drawn at random; the one reported is that of all.

    Of 4,000 images and more the Gram matrices are in float32, as the features are, and so are factors for
    λ ≥ 1e-6. One square matrix an encoder and two more are held.

    Of features on a GPU everything is computed there; what is learned is on the host.

    References
    ----------
    C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, section 5.4.2.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angle = rng.uniform(0, 2 * np.pi, size=200)
    >>> labels = (np.arange(200) % 2).astype(int)
    >>> rings = ((1 + labels) * np.array([np.cos(angle), np.sin(angle)])).T.astype(np.float32)
    >>> ridge = KernelRidge().fit(rings, labels)
    >>> bool(ridge.validation_accuracy_ > 0.95)  # no line separates one ring from the other
    True
    """

    def __init__(
        self,
        kernel: DotProductKernel | str = "auto",
        regularization: float | str = "auto",
        weights: Sequence[float] | str = "auto",
        validation: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.regularization = regularization
        self.weights = weights
        self.validation = validation
        self.seed = seed

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        if not (isinstance(self.kernel, DotProductKernel) or self.kernel == "auto"):
            raise InvalidSpec(f'kernel is {self.kernel!r}; expected a kernel such as ArcCosine(1), or "auto"')
        if isinstance(self.kernel, Exponential) and self.kernel.sigma is None:
            raise InvalidSpec('the kernel of a classifier takes sigma, not quantile; or kernel "auto"')
        check_regularization(self.regularization)
        check_weights(self.weights, encoders, "encoders")
        if self.validation != 0:
            check_validation(self.validation, self.regularization)
        check_seed(self.seed)
        check_count(images, "nystrom-ridge (NystromRidge)")

    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Learn from features and labels.

        Parameters
        ----------
        features : float32 [n, d]
        labels : integers [n], not negative
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        widths : sequence of int, optional
            How many of the features, one after the other, come from each encoder: each has its own kernel.

        Returns
        -------
        self : KernelRidge

        Raises
        ------
        InvalidData
            The features or labels are malformed or do not fit together.
        InvalidSpec
            An option is out of its range, or there are not as many weights as encoders.
        """
        checked, classes, targets = check_training_data(features, labels)
        widths = check_widths(widths, checked.shape[1])
        images = len(checked)
        self.check_options(images, len(widths))
        if self.validation != 0:
            kept, held_out = held_out_split(targets, self.validation, self.seed)
            alone = copy.copy(self)  # what was fitted before stays until all is known
            alone._learn(rows_of(checked, kept), widths, classes, targets[kept], None, progress)
            accuracy = float(np.mean(alone.predict(rows_of(checked, held_out)) == classes[targets[held_out]]))
            chosen = alone.kernels_, alone.weights_, alone.regularization_
            del alone  # and the features it holds
            self._learn(checked, widths, classes, targets, chosen, progress)
            self.validation_accuracy_ = accuracy
            choice = self._choice("leave-one-out over the others")
            self.validation_ = (
                f"{len(held_out)} images held out of {images}; {choice}, then all {images} were fitted"
            )
        else:
            judged = self._learn(checked, widths, classes, targets, None, progress)
            by = "the same accuracies" + (f" over {judged} of them" if judged < images else "")
            self.validation_ = f"leave-one-out over {images} images; {self._choice(by)}"
        return self

    def _choice(self, by: str) -> str:
        """What was chosen and how, and what was given."""
        names = [(shown_kernels(self.kernels_), isinstance(self.kernel, str))]
        if len(self.widths_) > 1:
            names.append((shown_weights(self.weights_), isinstance(self.weights, str)))
        names.append((f"λ = {self.regularization_:g}", isinstance(self.regularization, str)))
        return shown_choice(names, by)

    def _learn(
        self,
        checked: npt.NDArray[np.float32],
        widths: tuple[int, ...],
        classes: npt.NDArray[np.int64],
        targets: npt.NDArray[np.intp],
        chosen: tuple[tuple[DotProductKernel, ...], tuple[float, ...], float] | None,
        progress: Progress | None,
    ) -> int:
        """Learn from these images with what was chosen, or choose by leave-one-out of so many."""
        scaling = FeatureScaling.of(checked, widths)
        signs = signed_targets(np.asarray(targets, like=checked), len(classes))
        system = _System(checked, scaling, widths, signs, progress)
        judged = len(checked)
        if chosen is None:
            choice, judged = self._search(system, progress)
            chosen = self._named(choice, len(widths))
        solution = system.solution(*chosen)
        alpha = solution.alpha
        accuracy = system.accuracy(solution.left_out_residuals())
        order = np.empty(len(checked), dtype=np.intp, like=checked)
        order[system.order] = np.arange(len(checked), like=checked)
        dual, points = to_host(alpha[order].astype(np.float32)), to_host(system.points[order])
        scaling = FeatureScaling(to_host(scaling.mean), to_host(scaling.norm))
        self.points_, self.dual_, self.scaling_ = points, dual, scaling
        self.intercept_ = dual.sum(axis=0, dtype=np.float64).astype(np.float32)
        self.widths_, self.classes_ = widths, classes
        self.kernels_, self.weights_, self.regularization_ = chosen
        self.validation_accuracy_ = accuracy
        self.__dict__.pop("_prepared", None)
        return judged

    def _named(
        self, choice: _Choice, encoders: int
    ) -> tuple[tuple[DotProductKernel, ...], tuple[float, ...], float]:
        """Kernels, weights and λ of a point of the search."""
        kernels: tuple[DotProductKernel, ...]
        if isinstance(self.kernel, DotProductKernel):
            kernels = (self.kernel,) * encoders
        else:
            kernels = tuple(Exponential(sigma=SIGMAS[place]) for place in choice.sigmas)
        given = self.weights
        if isinstance(given, str):
            given = (1.0, *(WEIGHTS[place] for place in choice.weights))
        regularization = self.regularization
        if isinstance(regularization, str):
            regularization = LAMBDAS[choice.regularization]
        return kernels, normalized_weights(given), float(regularization)

    def _search(self, system: "_System", progress: Progress | None) -> tuple[_Choice, int]:
        """The best point of the search, and how many images judged it."""
        encoders, images = len(system.products), len(system.targets)
        sigmas = len(SIGMAS) if isinstance(self.kernel, str) else 0
        weights = encoders - 1 if isinstance(self.weights, str) else 0
        lambdas = len(LAMBDAS) if isinstance(self.regularization, str) else 1
        sizes = (lambdas, *(sigmas,) * (encoders if sigmas else 0), *(len(WEIGHTS),) * weights)

        def choice_at(place: Place) -> _Choice:
            middle = 1 + (encoders if sigmas else 0)
            return _Choice(place[0], place[1:middle], place[middle:])

        def accuracy_among(place: Place, count: int, judged: int) -> float:
            solution = system.solution(*self._named(choice_at(place), encoders), count)
            return system.accuracy(solution.left_out_residuals(judged if judged < count else None))

        level = [len(WEIGHTS) // 2] * weights
        grid = [
            (place, *(sigma,) * (encoders if sigmas else 0), *level)
            for sigma in range(max(sigmas, 1))
            for place in range(0, lambdas, 3)
        ]
        place, judged = search(accuracy_among, grid, sizes, images, FEW, progress)
        return choice_at(place), judged


class _System:
    """Solve (K + 11ᵀ + nλ I) α = Y for any kernel; one matrix of cosines an encoder serves all.

    The images are taken in an order drawn at random, so that the last of them are a sample of all.

    Attributes
    ----------
    order : integers [n]
        The numbers of the images in that order.
    targets : float64 [n, K]
        ±1, in that order.
    points : float16 [n, d]
        Scaled features, rounded as a model file stores them, in that order.
    """

    def __init__(
        self,
        features: npt.NDArray[np.float32],
        scaling: FeatureScaling,
        widths: Sequence[int],
        targets: npt.NDArray[np.float64],
        progress: Progress | None,
    ) -> None:
        images, width = features.shape
        self.order = np.asarray(np.random.default_rng(0).permutation(images), like=features)
        self.targets = targets[self.order]
        self.points = np.empty((images, width), np.float16, like=features)
        dtype = np.float32 if images >= MANY else np.float64
        self.products: list[Array] = []
        self.norms: list[Array] = []
        for part in parts(widths):
            # LAPACK works in place on column-major matrices; only the lower triangle is ever filled.
            products = np.zeros((images, images), dtype, order="F", like=features)
            for start in blocks(part.stop - part.start, images):
                columns = slice(part.start + start.start, part.start + start.stop)
                block = scaling.block(features, self.order, columns, np.float32).astype(np.float16)
                self.points[:, columns] = block
                add_product(products, block.astype(dtype).T)
                if progress is not None:
                    progress("Gram matrix", columns.stop, width)
            self.products.append(products)
            self.norms.append(np.sqrt(products.diagonal()))

    def solution(
        self,
        kernels: Sequence[DotProductKernel],
        weights: Sequence[float],
        regularization: float,
        last: int | None = None,
    ) -> DualSolution:
        """Solve for all images, or as if only the last so many existed."""
        last = last or len(self.targets)
        dtype = precision(regularization, self.products[0].dtype)

        def parts() -> Iterator[Array]:
            for kernel, weight, products, norms in zip(
                kernels, weights, self.products, self.norms, strict=True
            ):
                if weight:
                    part = products[-last:, -last:].astype(dtype, order="F")
                    homogeneous(kernel, part, norms[-last:], norms[-last:])
                    part *= part.dtype.type(weight)
                    yield part
                    del part

        return solution_of(parts(), regularization, self.targets[-last:])

    def accuracy(self, residuals: npt.NDArray[np.float64]) -> float:
        """Of the last images, from their left-out residuals."""
        return left_out_accuracy(residuals, self.targets)


def shown_kernels(kernels: Sequence[DotProductKernel]) -> str:
    """Such as κ = exp(sigma=1)."""
    names = []
    for kernel in kernels:
        parameters = ", ".join(
            f"{k}={v:g}" for k, v in list(kernel.to_dict().items())[1:] if isinstance(v, float | int)
        )
        names.append(f"{kernel.name}({parameters})" if parameters else kernel.name)
    return "κ = " + ", ".join(dict.fromkeys(names))
