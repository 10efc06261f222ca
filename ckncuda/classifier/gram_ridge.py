"""Kernel ridge regression on Gram matrices that are there already, whatever kernel they are of."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend import linear_algebra
from ckncuda.classifier.classifier import Progress
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
from ckncuda.classifier.kernel import normalized_weights
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.normal_equations import MANY, DualSolution
from ckncuda.classifier.ridge import Ridge
from ckncuda.classifier.selection import (
    FEW,
    check_regularization,
    check_seed,
    check_validation,
    held_out_split,
)
from ckncuda.classifier.training_data import blocks, check_classes, signed_targets
from ckncuda.errors import InvalidData, InvalidSpec

Array = npt.NDArray[Any]

JITTERS = tuple(10.0**power for power in range(-6, -2))
"""Added to the diagonal of the landmarks' Gram matrix, as parts of its mean: the first that makes a matrix of
single-precision entries positive definite."""

FEWEST = 10
"""Landmarks by which weights are chosen; of fewer, or of one class alone, kernels have equal weights."""

ASYMMETRY = 1e-3  # of the largest entry on the diagonal: far beyond rounding in any precision
SAME = 1e-9  # part of the diagonal below which images' kernels differ by rounding only


class GramRidge(LinearClassifier):
    r"""One-vs-rest least squares in the space of any kernel, given by its values, solved exactly.

    Each Gram matrix is centred and scaled, as features are by `Ridge`: images have the mean 0 and the mean
    squared norm 1 in the kernel's space then, so that λ and the weights of several kernels mean the same
    whatever they measure.  With K their weighted sum and targets Y = ±1 [n, K],

        (K + 11ᵀ + nλ I) α = Y,

    and leave-one-out predictions are exact, y_i − α_i / ((K + 11ᵀ + nλ I)⁻¹)_ii, as in `KernelRidge`.  The
    result is a linear classifier whose features are an image's kernel values with the training images, as
    they come: all of the first kernel, then all of the second, and so on.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": chosen by leave-one-out accuracy.
    weights : sequence of float or "auto"
        Of the kernels, not negative; "auto": chosen by leave-one-out accuracy.
    validation : float
        0: the accuracy reported is the leave-one-out one. Otherwise the fraction of the images, of each
        class in proportion, that are held out of every choice to measure the accuracy; all
        images are fitted at the end.
    seed : int
        Draws the held-out images.

    Attributes
    ----------
    weights_ : float32 [kernels n, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
    kernel_weights_ : tuple of float
        Of the kernels; they sum to 1.
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float
        Leave-one-out accuracy, or that on the held-out images.
    validation_ : str
        How this accuracy was obtained.

    Notes
    -----
    λ and weights are looked for as `KernelRidge` does.  Everything is in the host's memory: beside the Gram
    matrices, whose rows are read in blocks and may be on a disk, one square matrix a kernel and two more, in
    float32 from 4,000 images on.

    References
    ----------
    C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, section 5.4.2;
    C. Williams, M. Seeger, *Using the Nyström method to speed up kernel machines*, 2001.

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
    regularization_: float
    validation_accuracy_: float | None
    validation_: str

    def __init__(
        self,
        regularization: float | str = "auto",
        weights: Sequence[float] | str = "auto",
        validation: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.regularization = regularization
        self.weights = weights
        self.validation = validation
        self.seed = seed

    def check_options(self, images: int | None = None, kernels: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit so many kernels.

        ``images`` are those of a whole Gram matrix.
        """
        check_regularization(self.regularization)
        check_weights(self.weights, kernels, "kernels")
        if self.validation != 0:
            check_validation(self.validation, self.regularization)
        check_seed(self.seed)
        check_count(images, "landmarks")

    def fit(
        self,
        grams: npt.ArrayLike | Sequence[npt.ArrayLike],
        labels: npt.ArrayLike,
        points: npt.ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from kernel values and labels.

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

        Returns
        -------
        self : GramRidge

        Raises
        ------
        InvalidData
            The Gram matrices or labels are malformed or do not fit together.
        InvalidSpec
            An option is out of its range, or there are not as many weights as kernels.
        """
        classes, targets = check_classes(labels)
        images = len(targets)
        numbers = np.arange(images) if points is None else _checked_points(points, images)
        checked = _checked_grams(grams, images, len(numbers))
        self.check_options(images if points is None else None, len(checked))
        if points is not None:
            return self._fit_on_landmarks(checked, numbers, classes, targets, progress)
        if self.validation != 0:
            kept, held_out = held_out_split(targets, self.validation, self.seed)
            alone = copy.copy(self)  # what was fitted before stays until all is known
            alone._learn(checked, kept, classes, targets[kept], None, progress)
            values = [_rows(gram, held_out, kept) for gram in checked]
            predicted = alone.predict(np.concatenate(values, axis=1))
            accuracy = float(np.mean(predicted == classes[targets[held_out]]))
            self._learn(
                checked,
                numbers,
                classes,
                targets,
                (alone.kernel_weights_, alone.regularization_),
                progress,
            )
            self.validation_accuracy_ = accuracy
            choice = self._choice("leave-one-out over the others")
            self.validation_ = (
                f"{len(held_out)} images held out of {images}; {choice}, then all {images} were fitted"
            )
        else:
            judged = self._learn(checked, numbers, classes, targets, None, progress)
            by = "the same accuracies" + (f" over {judged} of them" if judged < images else "")
            self.validation_ = f"leave-one-out over {images} images; {self._choice(by)}"
        return self

    def _choice(self, by: str) -> str:
        """What was chosen and how, and what was given."""
        names = [(f"λ = {self.regularization_:g}", isinstance(self.regularization, str))]
        if len(self.kernel_weights_) > 1:
            names.insert(0, (shown_weights(self.kernel_weights_), isinstance(self.weights, str)))
        return shown_choice(names, by)

    def _learn(
        self,
        grams: list[Array],
        images: npt.NDArray[np.intp],
        classes: npt.NDArray[np.int64],
        targets: npt.NDArray[np.intp],
        chosen: tuple[tuple[float, ...], float] | None,
        progress: Progress | None,
    ) -> int:
        """Learn from these images with what was chosen, or choose by leave-one-out of so many."""
        system = _System(grams, images, signed_targets(targets, len(classes)))
        judged = len(images)
        if chosen is None:
            place, judged = self._search(system, progress)
            chosen = self._named(place, len(grams))
        weights, regularization = chosen
        solution = system.solution(weights, regularization)
        alpha = np.empty_like(solution.alpha)
        alpha[system.order] = solution.alpha
        self.validation_accuracy_ = left_out_accuracy(solution.left_out_residuals(), system.targets)
        centred = alpha - alpha.mean(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is reported
            self.weights_ = np.concatenate(
                [(weight / part.spread) * centred for weight, part in zip(weights, system.parts, strict=True)]
            ).astype(np.float32)
            # Rounded weights are made up for at the mean of the training images.
            mean = np.concatenate([part.means for part in system.parts])
            rounded = mean @ self.weights_.astype(np.float64)
            self.intercept_ = (alpha.sum(axis=0) - rounded).astype(np.float32)
        _check_weights(self.weights_, self.intercept_)
        self.classes_ = classes
        self.kernel_weights_, self.regularization_ = weights, regularization
        return judged

    def _named(self, place: Place, kernels: int) -> tuple[tuple[float, ...], float]:
        """Weights and λ of a point of the search."""
        weights = self.weights
        if isinstance(weights, str):
            weights = (1.0, *(WEIGHTS[each] for each in place[1:]))
        regularization = self.regularization
        if isinstance(regularization, str):
            regularization = LAMBDAS[place[0]]
        return normalized_weights(weights), float(regularization)

    def _search(self, system: "_System", progress: Progress | None) -> tuple[Place, int]:
        """The best point of the search, and how many images judged it."""
        kernels = len(system.parts)
        weights = kernels - 1 if isinstance(self.weights, str) else 0
        lambdas = len(LAMBDAS) if isinstance(self.regularization, str) else 1

        def accuracy_among(place: Place, count: int, judged: int) -> float:
            solution = system.solution(*self._named(place, kernels), count)
            residuals = solution.left_out_residuals(judged if judged < count else None)
            return left_out_accuracy(residuals, system.targets)

        level = [len(WEIGHTS) // 2] * weights
        grid = [(place, *level) for place in range(0, lambdas, 3)]
        sizes = (lambdas, *(len(WEIGHTS),) * weights)
        return search(accuracy_among, grid, sizes, len(system.targets), FEW, progress)

    def _fit_on_landmarks(
        self,
        grams: list[Array],
        points: npt.NDArray[np.intp],
        classes: npt.NDArray[np.int64],
        targets: npt.NDArray[np.intp],
        progress: Progress | None,
    ) -> Self:
        """Learn from new features L⁻¹ k, where L Lᵀ is the landmarks' Gram matrix."""
        images, columns = len(targets), np.arange(len(points))
        own = [_rows(gram, points, columns) for gram in grams]
        spreads = [_Part(square, columns).spread for square in own]
        kernel_weights, how = self._weights_on_landmarks(own, points, targets, progress)
        scales = [weight / spread for weight, spread in zip(kernel_weights, spreads, strict=True)]
        factor = _factor(_weighted(scales, own))
        mapped = np.empty((images, len(points)), np.float32)
        means = np.zeros((len(grams), len(points)))
        for rows in blocks(images, len(points)):
            total = np.zeros((rows.stop - rows.start, len(points)))
            for scale, gram, mean in zip(scales, grams, means, strict=True):
                values = _finite(gram, rows)
                mean += values.sum(axis=0) / images
                total += scale * values
            mapped[rows] = linear_algebra.solve_lower(factor, total.T).T
            if progress is not None:
                progress("landmarks", rows.stop, images)
        ridge = Ridge(self.regularization, self.validation, self.seed).fit(mapped, targets, progress)
        # (LLᵀ)⁻¹ L w is L⁻ᵀ w.
        dual = linear_algebra.solve(factor, factor @ ridge.weights_.astype(np.float64))
        self.weights_ = np.concatenate([scale * dual for scale in scales]).astype(np.float32)
        mean_score = _weighted(scales, means) @ dual
        rounded = means.reshape(-1) @ self.weights_.astype(np.float64)
        self.intercept_ = (ridge.intercept_ + mean_score - rounded).astype(np.float32)
        self.classes_ = classes
        self.kernel_weights_, self.regularization_ = kernel_weights, ridge.regularization_
        self.validation_accuracy_ = ridge.validation_accuracy_
        self.validation_ = f"{ridge.validation_}; {len(points)} landmarks{how}"
        return self

    def _weights_on_landmarks(
        self,
        own: list[Array],
        points: npt.NDArray[np.intp],
        targets: npt.NDArray[np.intp],
        progress: Progress | None,
    ) -> tuple[tuple[float, ...], str]:
        """The weights, given or chosen on the landmarks that are not held out, and which they are."""
        if len(own) == 1:
            return (1.0,), ""
        if not isinstance(self.weights, str):
            weights = normalized_weights(self.weights)
            return weights, f"; {shown_weights(weights)} were given"
        kept = np.arange(len(points))
        if self.validation != 0:
            kept = np.flatnonzero(np.isin(points, held_out_split(targets, self.validation, self.seed)[0]))
        if len(kept) < FEWEST or len(np.unique(targets[points[kept]])) < 2:
            return normalized_weights((1.0,) * len(own)), "; the kernels have equal weights"
        some = [square[np.ix_(kept, kept)] for square in own]
        chooser = GramRidge().fit(some, targets[points[kept]], progress=progress)
        weights = chooser.kernel_weights_
        return weights, f"; {shown_weights(weights)} were chosen by leave-one-out over {len(kept)} landmarks"


class _Part:
    """What centring and scaling takes from one Gram matrix, of some of its images.

    Attributes
    ----------
    gram : [N, N]
        Of all images.
    means : float64 [n]
        Of the kernel of each of the images with all of them.
    spread : float
        Mean squared norm of the centred images: the mean diagonal less the mean of all.
    """

    def __init__(self, gram: Array, images: npt.NDArray[np.intp]) -> None:
        self.gram, self.images = gram, images
        self.means, diagonal = np.empty(len(images)), np.empty(len(images))
        for rows, values in self.blocks():
            self.means[rows] = values.mean(axis=1)
            square = values[:, rows]
            diagonal[rows] = square.diagonal()
            if np.abs(square - square.T).max() > ASYMMETRY * np.abs(diagonal[rows]).max():
                raise InvalidData(
                    "a Gram matrix is not symmetric; a kernel does not tell the first image from the second: "
                    "give that of all training images with all, in the same order"
                )
        self.spread = float(diagonal.mean() - self.means.mean())
        if not self.spread > SAME * float(np.abs(diagonal).mean()):
            raise InvalidData(
                f"the {len(images)} images are all equal to a kernel, or it is none: the mean of its Gram "
                f"matrix's diagonal is {diagonal.mean():g}, that of all entries {self.means.mean():g}, which "
                "must be less; check the images and the kernel"
            )

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Rows of the images, in float64, as many as make a block: their places among all, and the values."""
        for rows in blocks(len(self.images), self.gram.shape[1]):
            yield rows, _rows(self.gram, self.images[rows], self.images)

    def centred(self, order: npt.NDArray[np.intp], dtype: np.dtype[Any]) -> Array:
        """The centred and scaled Gram matrix, column-major, of the images in this order."""
        out = np.empty((len(order), len(order)), dtype, order="F")
        places = np.argsort(order)
        mean = self.means.mean()
        for rows, values in self.blocks():
            values -= self.means[rows, None]
            values -= self.means - mean
            values /= self.spread
            out[:, places[rows]] = values[:, order].T
        return out


class _System:
    """Solve (K + 11ᵀ + nλ I) α = Y for any weights and λ; the Gram matrices are centred and scaled once.

    The images are taken in an order drawn at random, so that the last of them are a sample of all.

    Attributes
    ----------
    order : integers [n]
        The numbers of the images, among those given, in that order.
    targets : float64 [n, K]
        ±1, in that order.
    parts : list of _Part
    """

    def __init__(
        self, grams: list[Array], images: npt.NDArray[np.intp], targets: npt.NDArray[np.float64]
    ) -> None:
        self.order = np.random.default_rng(0).permutation(len(images))
        self.targets = targets[self.order]
        dtype: np.dtype[Any] = np.dtype(np.float32 if len(images) >= MANY else np.float64)
        self.parts = [_Part(gram, images) for gram in grams]
        self.grams = [part.centred(self.order, dtype) for part in self.parts]

    def solution(
        self, weights: Sequence[float], regularization: float, last: int | None = None
    ) -> DualSolution:
        """Solve for all images, or as if only the last so many existed, centred and scaled as all."""
        last = last or len(self.targets)
        dtype = precision(regularization, self.grams[0].dtype)

        def parts() -> Iterator[Array]:
            for weight, gram in zip(weights, self.grams, strict=True):
                if weight:
                    part = gram[-last:, -last:].astype(dtype, order="F")
                    part *= part.dtype.type(weight)
                    yield part
                    del part

        return solution_of(parts(), regularization, self.targets[-last:])


def _weighted(scales: Sequence[float], arrays: Iterable[Array]) -> Array:
    """The sum of the arrays times their scales."""
    total: Array = np.sum([scale * array for scale, array in zip(scales, arrays, strict=True)], axis=0)
    return total


def _factor(gram: Array) -> Array:
    """The Cholesky factor of the landmarks' Gram matrix, with as little on its diagonal as it takes."""
    scale = float(gram.diagonal().mean())
    for jitter in JITTERS:
        shifted = np.array(gram, order="F")
        shifted.reshape(-1, order="F")[:: len(gram) + 1] += jitter * scale
        try:
            return linear_algebra.cholesky(shifted)
        except np.linalg.LinAlgError:
            continue
    raise InvalidData(
        f"the Gram matrix of the {len(gram)} landmarks has negative eigenvalues, far beyond rounding: it is "
        "that of no kernel, or its columns are of other images than points says"
    )


def _check_weights(weights: npt.NDArray[np.float32], intercept: npt.NDArray[np.float32]) -> None:
    """Raise `InvalidData` where single precision does not hold what has been learned."""
    if not (np.isfinite(weights).all() and np.isfinite(intercept).all() and weights.any()):
        raise InvalidData(
            "the kernel's values are so small or so large that weights on them do not fit single precision: "
            "multiply the Gram matrix, and those of images to predict, by a number that brings it near 1"
        )


def _checked_grams(grams: npt.ArrayLike | Sequence[npt.ArrayLike], images: int, columns: int) -> list[Array]:
    """As a list, or raise `InvalidData`; arrays that are read in blocks, from a disk, stay there."""
    given: Any = grams
    if not hasattr(given, "shape") and (not isinstance(given, list | tuple) or not given):
        raise InvalidData(f"Gram matrices are {grams!r}; expected one, or a list of them, [images, images]")
    one = getattr(given, "ndim", None) == 2 or (
        getattr(given, "ndim", None) is None and np.ndim(given[0]) == 1
    )
    checked = [
        gram if hasattr(gram, "shape") and hasattr(gram, "dtype") else np.asarray(gram)
        for gram in ([given] if one else given)
    ]
    if not checked:
        raise InvalidData("there is no Gram matrix")
    for gram in checked:
        if tuple(gram.shape) != (images, columns) or gram.dtype.kind not in "fiu":
            raise InvalidData(
                f"a Gram matrix is of shape {list(gram.shape)} and type {gram.dtype}; expected numbers "
                f"[{images}, {columns}], a row for each labelled image"
            )
    return checked


def _checked_points(points: npt.ArrayLike, images: int) -> npt.NDArray[np.intp]:
    numbers = np.asarray(points)
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or len(numbers) < 2 or numbers.min() < 0 or numbers.max() >= images:
        raise InvalidSpec(f"points must be the numbers of two landmarks or more, from 0 to {images - 1}")
    if len(np.unique(numbers)) < len(numbers):
        raise InvalidSpec("points name an image twice; each landmark is one")
    return numbers.astype(np.intp)


def _rows(gram: Array, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """These rows, in increasing order, and columns, in float64; read as ranges of whole rows."""
    out = np.empty((len(rows), len(columns)))
    for part in blocks(gram.shape[0], gram.shape[1]):
        inside = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        if len(inside):
            first, last = int(rows[inside].min()), int(rows[inside].max()) + 1
            out[inside] = _finite(gram, slice(first, last))[np.ix_(rows[inside] - first, columns)]
    return out


def _finite(gram: Array, rows: slice) -> npt.NDArray[np.float64]:
    values = np.array(gram[rows], np.float64)
    if not np.isfinite(values).all():
        row = rows.start + int(np.argmin(np.isfinite(values).all(axis=1)))
        raise InvalidData(f"row {row} of a Gram matrix holds NaN or infinity: compute it again")
    return values
