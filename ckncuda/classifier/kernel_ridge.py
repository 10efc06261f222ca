"""Kernel ridge regression on ±1 targets: closed form, with exact leave-one-out accuracy."""

from collections.abc import Sequence

import numpy as np

from ckncuda.backend.arrays import to_host
from ckncuda.classifier.choice import Choice, Judgement, Options, check_weights
from ckncuda.classifier.classifier import LEAVE_ONE_OUT, TrainableClassifier, checked_regularization
from ckncuda.classifier.kernel_classifier import KernelClassifier
from ckncuda.classifier.systems import MANY, KernelSystem, check_count
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, block_bytes
from ckncuda.classifier.validation import HeldOutOrLeftOut
from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import instance
from ckncuda.layer.dot_product import DotProductKernel, Exponential
from ckncuda.progress import Progress


class KernelRidge(KernelClassifier, HeldOutOrLeftOut, TrainableClassifier):
    r"""One-vs-rest least squares in the space of a kernel on image features, solved exactly.

    With the Gram matrix K of the training images (see `KernelClassifier` for the kernel), plus 1 for an
    intercept, and targets Y = ±1 [n, K], minimises

        (1/n) Σ_i ½ ‖y_i − f(x_i)‖² + (λ/2) ‖f‖²,   that is, (K + 11ᵀ + nλ I) α = Y.

    Leave-one-out predictions are exact, as in `Ridge`: y_i − α_i / ((K + 11ᵀ + nλ I)⁻¹)_ii.  They cost one
    Cholesky factorisation and one triangular inverse for each λ, bandwidth or combination of encoders tried.

    Parameters
    ----------
    kernel : DotProductKernel or "auto"
        κ, the same for all encoders, such as ``ArcCosine(1)``; "auto": ``Exponential(sigma=σ)``, σ chosen for
        each encoder by leave-one-out accuracy.
    weights : sequence of float or "auto"
        Of the encoders of an ensemble, not negative; "auto": chosen by leave-one-out accuracy.
    regularization, validation, seed, choose
        See `HeldOutOrLeftOut`; for what is learned, `KernelClassifier` too.

    Notes
    -----
    What is to be chosen is looked for among 1,000 to 2,000 images first, on a grid, then climbed from there,
    one step of one number at a time, among twice as many and so on. Accuracies that choose are those of half
    of the images at hand, drawn at random; the one reported is that of all. Where held-out images
    choose, both are theirs, of half of the images at hand at most, until all are in.

    Of 4,000 images and more the Gram matrices are in float32, as the features are, and so are factors for
    λ ≥ 1e-6. One square matrix an encoder and two more are held.

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
        choose: str = LEAVE_ONE_OUT,
    ) -> None:
        super().__init__(regularization, validation, seed, choose)
        self.kernel = kernel
        self.weights = weights

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit images and encoders."""
        if not isinstance(self.kernel, str) or self.kernel != "auto":
            expected = 'expected a kernel such as ArcCosine(1), or "auto"'
            instance("kernel", self.kernel, DotProductKernel, expected)
        if isinstance(self.kernel, Exponential) and self.kernel.sigma is None:
            raise InvalidSpec('the kernel of a classifier takes sigma, not quantile; or kernel "auto"')
        self.regularization = checked_regularization(self.regularization)
        check_weights(self.weights, encoders, "encoders")
        super().check_options()
        check_count(images, "nystrom-ridge (NystromRidge)")

    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count points twice in half precision, a matrix an encoder, and two more in double precision."""
        grams = (4 if n >= MANY else 8) * encoders + 2 * 8
        return 2 * 2 * n * d + grams * n**2 + block_bytes(n, d) + self.bytes_kept(n, d)

    def _options(self, data: TrainingData) -> Options:
        return Options(self.regularization, len(data.widths), self.weights, self.kernel)

    def chosen(self, data: TrainingData, progress: Progress | None) -> tuple[Choice, int]:
        """Return the best choice on the held-out images of the data, and how many they are; learn nothing."""
        system = KernelSystem(data, FeatureScaling.of(data.features, data.widths), progress)
        return system.choose(self._options(data), progress)

    def _learn(self, data: TrainingData, choice: Choice | None, progress: Progress | None) -> Judgement:
        scaling = FeatureScaling.of(data.features, data.widths)
        system = KernelSystem(data, scaling, progress)
        found, alpha = system.solve(self._options(data), choice, progress)
        places = np.asarray(np.argsort(to_host(system.order)), like=data.features)
        dual, points = to_host(alpha[places].astype(np.float32)), to_host(system.points[places])
        self._hold(points, scaling.on_host(), data.widths, found.choice.kernels, found.choice.weights)
        self.intercept_ = dual.sum(axis=0, dtype=np.float64).astype(np.float32)
        self.dual_, self.classes_ = dual, data.classes
        return found
