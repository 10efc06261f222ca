"""Kernel ridge regression on landmarks: for more images than a Gram matrix of all of them allows.

With the landmarks' Gram matrix K_mm = L Lᵀ, an image has m new features φ(x) = L⁻¹ K(landmarks, x), whose
inner products are the kernel's as far as the landmarks span it (Nyström); `Ridge` is fitted on them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ckncuda.backend import linear_algebra
from ckncuda.backend.arrays import to_host
from ckncuda.classifier.choice import judges, normalized_weights, shown_kernels, shown_weights
from ckncuda.classifier.classifier import (
    HELD_OUT,
    LEAVE_ONE_OUT,
    TrainableClassifier,
    ValidatedClassifier,
    checked_choose,
)
from ckncuda.classifier.gram_matrices import GramStatistics, chosen_entries, finite_rows
from ckncuda.classifier.kernel_classifier import KernelClassifier, part_norms, weighted_kernel
from ckncuda.classifier.kernel_ridge import KernelRidge
from ckncuda.classifier.ridge import Ridge
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, block_bytes, blocks
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import whole
from ckncuda.layer.dot_product import DotProductKernel
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

LANDMARKS = 8000

CHOOSE_AMONG = 4000
"""Images of which the kernel and the weights are chosen, where they are to be."""

JITTER = 1e-6
"""Added to the diagonal of the landmarks' Gram matrix, whose entries there are 1 on average."""

JITTERS = tuple(10.0**power for power in range(-6, -2))
"""Added to the diagonal of a Gram matrix that is given, as parts of its mean: the first that makes a matrix
of single-precision entries positive definite."""


class NystromRidge(KernelClassifier, TrainableClassifier):
    r"""Kernel ridge regression whose solution is sought in the span of some training images, the landmarks.

    It is what a layer of a network does with anchor points, here with whole images in place of patches.

    Parameters
    ----------
    kernel : DotProductKernel or "auto"
        κ; "auto": ``Exponential``, σ chosen for each encoder by `KernelRidge` on up to 4,000 images.
    weights : sequence of float or "auto"
        Of the encoders of an ensemble; "auto": chosen with the kernel.
    landmarks : int
        m, drawn at random from the training images; all of them if there are no more.
    regularization, validation, seed, choose
        See `Ridge`; for what is learned, `KernelClassifier`.  Held-out images may be landmarks: those are
        chosen without labels. The seed draws the landmarks too.  Where held-out images choose, up to half of
        the images on which kernel and weights are chosen are theirs.

    Notes
    -----
    Time is that of products of n×d by d×m and twice n×m by m×m, memory that of the new features, 4 n m bytes.

    References
    ----------
    C. Williams, M. Seeger, *Using the Nyström method to speed up kernel machines*, 2001.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angle = rng.uniform(0, 2 * np.pi, size=400)
    >>> labels = np.arange(400) % 2
    >>> rings = ((1 + labels) * np.array([np.cos(angle), np.sin(angle)])).T.astype(np.float32)
    >>> ridge = NystromRidge(landmarks=50).fit(rings, labels)
    >>> bool(ridge.validation_accuracy_ > 0.95), len(ridge.points_)
    (True, 50)
    """

    def __init__(
        self,
        kernel: DotProductKernel | str = "auto",
        regularization: float | str = "auto",
        weights: Sequence[float] | str = "auto",
        landmarks: int = LANDMARKS,
        validation: float = 0.0,
        seed: int = 0,
        choose: str = LEAVE_ONE_OUT,
    ) -> None:
        super().__init__(regularization, validation, seed)
        self.choose = choose
        self.kernel = kernel
        self.weights = weights
        self.landmarks = landmarks

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit so many encoders."""
        self._chooser().check_options(encoders=encoders)
        super().check_options()
        self.choose = checked_choose(self.choose, self.validation)
        self.landmarks = whole("landmarks", self.landmarks, 2, "expected a whole number of at least 2")

    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count landmarks in three precisions, their Gram matrix, new features and the ridge on these."""
        m = min(self.landmarks, n)
        few = min(n, CHOOSE_AMONG)
        chooses = 4 * few * d + self._chooser().bytes_to_fit(few, d, encoders)
        ridge = self._ridge().bytes_to_fit(n, m, 1)
        learns = (2 + 4 + 8) * m * d + 2 * 8 * m**2 + 4 * n * m + block_bytes(n, max(d, m)) + ridge
        return max(chooses, learns)

    def _chooser(self) -> KernelRidge:
        return KernelRidge(self.kernel, "auto", self.weights, seed=self.seed)

    def _ridge(self) -> Ridge:
        return Ridge(self.regularization, self.validation, self.seed, self.choose)

    def _fit(self, data: TrainingData, progress: Progress | None) -> None:
        images = len(data.targets)
        kernels, weights, how = self._choose(data, progress)
        scaling = FeatureScaling.of(data.features, data.widths)
        order = np.random.default_rng(self.seed).permutation(images)
        points = scaling.block(data.features, np.sort(order[: self.landmarks]), dtype=np.float32)
        points = points.astype(np.float16)
        factor, mapped = _new_features(data, scaling, points, kernels, weights, progress)
        dual, intercept = fit_ridge(self, self._ridge(), factor, mapped, data.targets, [how], progress)
        self._hold(to_host(points), scaling.on_host(), data.widths, kernels, weights)
        self.dual_, self.intercept_, self.classes_ = to_host(dual), intercept, data.classes

    def _choose(
        self, data: TrainingData, progress: Progress | None
    ) -> tuple[tuple[DotProductKernel, ...], tuple[float, ...], str]:
        """Return kernels and weights, given or chosen on some of the images, and say which they are."""
        encoders, how = len(data.widths), "given"
        if isinstance(self.kernel, DotProductKernel) and (encoders == 1 or not isinstance(self.weights, str)):
            weights = (1.0,) if isinstance(self.weights, str) else normalized_weights(self.weights)
            kernels = (self.kernel,) * encoders
        elif self.choose == HELD_OUT:
            found, judged = self._chooser().chosen(self._few(data), progress)
            kernels, weights = found.kernels, found.weights
            how = f"chosen on {judged} of the images held out, but for what was given"
        else:
            # What Ridge will hold out chooses neither kernel nor weights.
            kept, _ = held_out_split(data.targets, self.validation, self.seed)
            some = np.random.default_rng(self.seed).permutation(kept)[:CHOOSE_AMONG]
            chooser = self._chooser().fit(data.rows(some), data.targets[some], progress, data.widths)
            kernels, weights = chooser.kernels_, chooser.kernel_weights_
            how = f"chosen by leave-one-out over {judges(len(some))} images, but for what was given"
        if encoders == 1:
            return kernels, weights, f"{shown_kernels(kernels)} was {how}"
        return kernels, weights, f"{shown_kernels(kernels)}, {shown_weights(weights)} were {how}"

    def _few(self, data: TrainingData) -> TrainingData:
        """Return `CHOOSE_AMONG` images; of those that Ridge will hold out up to half, held out here too."""
        random = np.random.default_rng(self.seed)
        kept, held_out = map(random.permutation, held_out_split(data.targets, self.validation, self.seed))
        judges = held_out[: max(CHOOSE_AMONG // 2, CHOOSE_AMONG - len(kept))]
        some = np.concatenate([kept[: CHOOSE_AMONG - len(judges)], judges])
        return replace(data.some(some), held_out=np.arange(len(some) - len(judges), len(some)))


def _new_features(
    data: TrainingData,
    scaling: FeatureScaling,
    landmarks: npt.NDArray[np.float16],
    kernels: Sequence[DotProductKernel],
    weights: Sequence[float],
    progress: Progress | None,
) -> tuple[Array, npt.NDArray[np.float32]]:
    """Return the factor L, float32 [m, m], and the new features, float32 [n, m], where the features are."""
    points = landmarks.astype(np.float32)
    exact = points.astype(np.float64)  # rounding in single precision would make it indefinite
    norms = part_norms(exact, data.widths)
    gram = weighted_kernel(kernels, weights, data.widths, exact, exact, norms).T  # column-major, for LAPACK
    gram.T.reshape(-1)[:: len(gram) + 1] += JITTER  # the diagonal
    try:
        factor = linear_algebra.cholesky(gram).astype(np.float32, order="F")
    except np.linalg.LinAlgError as error:
        raise InvalidSpec(
            f"{len(points)} landmarks are too many for these features: their kernels are linearly dependent "
            "up to rounding; give fewer landmarks or a kernel of smaller sigma"
        ) from error

    def values(rows: slice) -> Array:
        block = scaling.block(data.features, rows, dtype=np.float32)
        return weighted_kernel(kernels, weights, data.widths, block, points, norms)

    mapped = np.empty((len(data.features), len(points)), np.float32, like=data.features)
    return factor, _mapped(factor, values, mapped, max(points.shape), progress)


class GramLandmarks:
    """Landmarks whose kernel values with all images, one [n, m] a kernel, are given.

    Attributes
    ----------
    points : integers [m]
        The numbers of the images that the landmarks are.
    own : list of float64 [m, m]
        The kernel values of the landmarks with each other.
    spreads : list of float
        The landmarks' mean squared norms, when they are centred.
    """

    def __init__(self, grams: list[Array], points: Index) -> None:
        columns = np.arange(len(points))
        self.grams, self.points = grams, points
        self.own = [chosen_entries(gram, points, columns) for gram in grams]
        self.spreads = [GramStatistics(square, columns).spread for square in self.own]

    def new_features(
        self, scales: Sequence[float], progress: Progress | None
    ) -> tuple[Array, npt.NDArray[np.float32], Array]:
        """Return L, the new features and each kernel's mean values, for kernels times these scales.

        They are float64 [m, m], float32 [n, m] and float64 [kernels, m].
        """
        factor = _positive_factor(weighted_sum(scales, self.own))
        images, landmarks = self.grams[0].shape
        means = np.zeros((len(self.grams), landmarks))

        def values(rows: slice) -> Array:
            total = np.zeros((rows.stop - rows.start, landmarks))
            for scale, gram, mean in zip(scales, self.grams, means, strict=True):
                block = finite_rows(gram, rows)
                mean += block.sum(axis=0) / images
                total += scale * block
            return total

        mapped = np.empty((images, landmarks), np.float32)
        return factor, _mapped(factor, values, mapped, landmarks, progress), means


def _positive_factor(gram: Array) -> Array:
    """Return the Cholesky factor of a given Gram matrix, with as little on its diagonal as it takes."""
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


def weighted_sum(scales: Sequence[float], arrays: Iterable[Array]) -> Array:
    """Return the sum of the arrays times their scales."""
    total: Array = np.sum([scale * array for scale, array in zip(scales, arrays, strict=True)], axis=0)
    return total


def _mapped(
    factor: Array,
    values: Callable[[slice], Array],
    out: npt.NDArray[np.float32],
    width: int,
    progress: Progress | None,
) -> npt.NDArray[np.float32]:
    """Fill new features [n, m] with L⁻¹ times kernel values [b, m], a block of rows of a width at a time."""
    for rows in blocks(len(out), width, "landmarks", progress):
        out[rows] = linear_algebra.solve_lower(factor, values(rows).T).T
    return out


def fit_ridge(
    classifier: ValidatedClassifier,
    ridge: Ridge,
    factor: Array,
    mapped: npt.NDArray[np.float32],
    targets: Index,
    how: Sequence[str],
    progress: Progress | None,
) -> tuple[Array, npt.NDArray[np.float32]]:
    """Fit a classifier's `Ridge` on new features [n, m]; tell the classifier what was chosen and measured.

    Return the weights on kernel values with the landmarks, L⁻ᵀ w [m, K], and the intercept, float32 [K].
    """
    ridge.fit(mapped, targets, progress)
    classifier.regularization_ = ridge.regularization_
    classifier.validation_accuracy_ = ridge.validation_accuracy_
    classifier.validation_ = "; ".join([ridge.validation_, f"{mapped.shape[1]} landmarks", *how])
    weights = np.asarray(ridge.weights_, like=mapped).astype(factor.dtype)
    return linear_algebra.solve(factor, factor @ weights), ridge.intercept_  # (LLᵀ)⁻¹ L w


def check_points(points: npt.ArrayLike, images: int) -> Index:
    """Return the numbers of landmarks among the images, or raise `InvalidSpec`."""
    numbers = np.asarray(points)
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or len(numbers) < 2 or numbers.min() < 0 or numbers.max() >= images:
        raise InvalidSpec(f"points must be the numbers of two landmarks or more, from 0 to {images - 1}")
    if len(np.unique(numbers)) < len(numbers):
        raise InvalidSpec("points name an image twice; each landmark is one")
    return numbers.astype(np.intp)
