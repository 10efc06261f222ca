"""Kernel ridge regression on landmarks: for more images than a Gram matrix of all of them allows."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend import linear_algebra
from ckncuda.backend.arrays import to_host
from ckncuda.classifier.classifier import Progress, TrainableClassifier
from ckncuda.classifier.dual_ridge import shown_weights
from ckncuda.classifier.kernel import Array, KernelClassifier, normalized_weights, part_norms
from ckncuda.classifier.kernel_ridge import KernelRidge, shown_kernels
from ckncuda.classifier.ridge import Ridge
from ckncuda.classifier.scaling import FeatureScaling, check_widths
from ckncuda.classifier.selection import FEW, held_out_split
from ckncuda.classifier.training_data import blocks, check_training_data, rows_of
from ckncuda.errors import InvalidSpec
from ckncuda.layer.dot_product import DotProductKernel

LANDMARKS = 8000

CHOOSE_AMONG = 4000
"""Images of which the kernel and the weights are chosen, where they are to be."""

JITTER = 1e-6
"""Added to the diagonal of the landmarks' Gram matrix, whose entries there are 1 on average."""


class NystromRidge(KernelClassifier, TrainableClassifier):
    r"""Kernel ridge regression whose solution is sought in the span of some training images, the landmarks.

    With the landmarks' Gram matrix K_mm = L Lᵀ, an image has m new features φ(x) = L⁻¹ K(landmarks, x), whose
    inner products are the kernel's as far as the landmarks span it (Nyström); `Ridge` is fitted on them.
    It is what a layer of a network does with anchor points, here with whole images in place of patches.

    Parameters
    ----------
    kernel : DotProductKernel or "auto"
        κ; "auto": ``Exponential``, σ chosen for each encoder by `KernelRidge` on up to 4,000 images.
    regularization : float or "auto"
        λ > 0, or "auto": chosen by leave-one-out accuracy as `Ridge` does.
    weights : sequence of float or "auto"
        Of the encoders of an ensemble; "auto": chosen with the kernel.
    landmarks : int
        m, drawn at random from the training images; all of them if there are no more.
    validation : float
        See `Ridge`.  Held-out images may be landmarks: those are chosen without labels.
    seed : int
        Draws landmarks and held-out images.

    Attributes
    ----------
    points_, dual_, intercept_, kernels_, weights_, widths_, classes_
        See `KernelClassifier`.
    regularization_, validation_accuracy_, validation_
        See `Ridge`.

    Notes
    -----
    Time is that of products of n×d by d×m and twice n×m by m×m, memory that of the new features, 4 n m bytes.
    Of features on a GPU everything is computed there; what is learned is on the host.

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
    ) -> None:
        self.kernel = kernel
        self.regularization = regularization
        self.weights = weights
        self.landmarks = landmarks
        self.validation = validation
        self.seed = seed

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range."""
        self._chooser().check_options(encoders=encoders)
        Ridge(self.regularization, self.validation, self.seed).check_options()
        if not isinstance(self.landmarks, int) or self.landmarks < 2:
            raise InvalidSpec(f"landmarks is {self.landmarks!r}; expected a whole number of at least 2")

    def _chooser(self) -> KernelRidge:
        return KernelRidge(self.kernel, "auto", self.weights, seed=self.seed)

    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Learn from features and labels; see `TrainableClassifier.fit`."""
        checked, classes, targets = check_training_data(features, labels)
        widths = check_widths(widths, checked.shape[1])
        self.check_options(len(checked), len(widths))
        kept = np.arange(len(checked))
        if self.validation != 0:  # what Ridge will hold out chooses neither kernel nor weights
            kept, _ = held_out_split(targets, self.validation, self.seed)
        kernels, weights, how = self._choose(checked, targets, kept, widths, progress)
        scaling = FeatureScaling.of(checked, widths)
        order = np.random.default_rng(self.seed).permutation(len(checked))
        chosen = np.asarray(np.sort(order[: self.landmarks]), like=checked)
        landmarks = KernelClassifier()
        landmarks.kernels_, landmarks.weights_, landmarks.widths_ = kernels, weights, widths
        landmarks.points_ = to_host(scaling.block(checked, chosen, dtype=np.float32).astype(np.float16))
        factor, mapped = _features(landmarks, scaling, checked, progress)
        ridge = Ridge(self.regularization, self.validation, self.seed).fit(mapped, targets, progress)
        of_features = np.asarray(ridge.weights_, like=checked)
        # (LLᵀ)⁻¹ L w is L⁻ᵀ w.
        self.dual_ = to_host(linear_algebra.solve(factor, factor @ of_features))
        self.kernels_, self.weights_, self.widths_ = kernels, weights, widths
        self.points_, self.intercept_ = landmarks.points_, ridge.intercept_
        self.scaling_ = FeatureScaling(to_host(scaling.mean), to_host(scaling.norm))
        self.classes_ = classes
        self.regularization_ = ridge.regularization_
        self.validation_accuracy_ = ridge.validation_accuracy_
        self.validation_ = f"{ridge.validation_}; {len(chosen)} landmarks; {how}"
        self.__dict__.pop("_prepared", None)
        return self

    def _choose(
        self,
        checked: npt.NDArray[np.float32],
        targets: npt.NDArray[np.intp],
        kept: npt.NDArray[np.intp],
        widths: tuple[int, ...],
        progress: Progress | None,
    ) -> tuple[tuple[DotProductKernel, ...], tuple[float, ...], str]:
        """The kernels and their weights, given or chosen on some of the images kept, and which they are."""
        encoders = len(widths)
        if isinstance(self.kernel, DotProductKernel) and (encoders == 1 or not isinstance(self.weights, str)):
            weights = (1.0,) if isinstance(self.weights, str) else normalized_weights(self.weights)
            kernels = (self.kernel,) * encoders
            return kernels, weights, _which(kernels, weights) + " given"
        some = np.random.default_rng(self.seed).permutation(kept)[:CHOOSE_AMONG]
        chooser = self._chooser().fit(rows_of(checked, some), targets[some], progress, widths)
        judged = len(some) // 2 if len(some) >= 2 * FEW else len(some)
        how = f" chosen by leave-one-out over {judged} images, but for what was given"
        return chooser.kernels_, chooser.weights_, _which(chooser.kernels_, chooser.weights_) + how


def _which(kernels: tuple[DotProductKernel, ...], weights: tuple[float, ...]) -> str:
    """Kernels and weights, and was or were."""
    if len(weights) == 1:
        return f"{shown_kernels(kernels)} was"
    return f"{shown_kernels(kernels)}, {shown_weights(weights)} were"


def _features(
    landmarks: KernelClassifier,
    scaling: FeatureScaling,
    checked: npt.NDArray[np.float32],
    progress: Progress | None,
) -> tuple[Array, npt.NDArray[np.float32]]:
    """The factor L, float32 [m, m], and the new features, float32 [n, m], where the features are."""
    points = np.asarray(landmarks.points_, like=checked).astype(np.float32)
    exact = points.astype(np.float64)  # rounding in single precision would make it indefinite
    norms = part_norms(exact, landmarks.widths_)
    gram = landmarks.kernel_with_points(exact, exact, norms).T  # column-major, as LAPACK takes it
    gram.T.reshape(-1)[:: len(gram) + 1] += JITTER  # the diagonal
    try:
        factor = linear_algebra.cholesky(gram).astype(np.float32, order="F")
    except np.linalg.LinAlgError as error:
        raise InvalidSpec(
            f"{len(points)} landmarks are too many for these features: their kernels are linearly dependent "
            "up to rounding; give fewer landmarks or a kernel of smaller sigma"
        ) from error
    mapped = np.empty((len(checked), len(points)), np.float32, like=checked)
    for rows in blocks(len(checked), max(points.shape)):
        block = landmarks.kernel_with_points(scaling.block(checked, rows, dtype=np.float32), points, norms)
        mapped[rows] = linear_algebra.solve_lower(factor, block.T).T
        if progress is not None:
            progress("landmarks", rows.stop, len(checked))
    return factor, mapped
