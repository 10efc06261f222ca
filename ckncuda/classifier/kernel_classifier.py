"""The kernel classifier: scores that are sums of kernels between an image and the training images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import wait
from ckncuda.backend.process_lock import ProcessLock
from ckncuda.classifier.classifier import Classifier
from ckncuda.classifier.training_data import (
    BLOCK_BYTES,
    FeatureScaling,
    blocks,
    check_increasing,
    check_labels,
    check_widths,
    parts,
)
from ckncuda.errors import InvalidData
from ckncuda.layer.dot_product import DotProductKernel, Exponential, kernel_from_dict
from ckncuda.types import Array

LARGE = 1000.0
"""Dual coefficients from which on products are in float64: kernels of norm 1 err by 1e-7 in float32."""

_PREPARING = ProcessLock()


class KernelClassifier(Classifier):
    r"""Predict the class of the largest of K scores, Σ_i α_ik K(x, x_i) + b_k, over some training images.

    On the features x_g of each encoder g, centred and scaled as for every classifier, K is a sum of
    homogeneous dot-product kernels, those of the network's layers:

        K(x, y) = Σ_g w_g ‖x_g‖ ‖y_g‖ κ_g(cos(x_g, y_g)),   w_g ≥ 0, Σ_g w_g = 1.

    It is all that is left of `KernelRidge` (all training images) and `NystromRidge` (some of them) in a model
    file: the features of training images in half precision, 2 n d bytes, and twice that in memory, in single
    precision, once it predicts.

    Attributes
    ----------
    points_ : float16 [n, d]
        Centred and scaled features of the training images, or of those that are landmarks.
    dual_, intercept_ : float32 [n, K], float32 [K]
        α and b.
    kernels_, kernel_weights_ : tuple of DotProductKernel, tuple of float
        κ_g and w_g, one an encoder.
    widths_ : tuple of int
        How many features come from each encoder.
    classes_ : int64 [K]
        See `Classifier`.
    """

    name: ClassVar[str] = "kernel"
    points_: npt.NDArray[np.float16]
    dual_: npt.NDArray[np.float32]
    intercept_: npt.NDArray[np.float32]
    kernels_: tuple[DotProductKernel, ...]
    kernel_weights_: tuple[float, ...]
    widths_: tuple[int, ...]
    scaling_: FeatureScaling  # on the host
    _prepared: tuple[Array, list[Array]]  # points in float32 and their norms, where they were used last

    @staticmethod
    def from_arrays(options: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> "KernelClassifier":
        """Rebuild a fitted classifier from what its `to_dict` and `arrays` gave.

        Raises `InvalidData` if the arrays are malformed or do not fit together.
        """
        with np.errstate(over="ignore"):  # what does not fit float16 becomes inf and is reported below
            points = np.asarray(arrays["points"], np.float16)
        dual, intercept = (np.asarray(arrays[name], np.float32) for name in ("dual", "intercept"))
        mean, norm = np.asarray(arrays["mean"], np.float64), np.asarray(arrays["norm"], np.float64)
        labels = check_labels(arrays["classes"])
        images_fit = points.ndim == 2 and mean.shape == norm.shape == points.shape[1:]
        classes_fit = intercept.shape == labels.shape and len(labels) >= 2
        if not (images_fit and classes_fit and dual.shape == (len(points), len(labels))):
            raise InvalidData(
                f"points {points.shape}, dual {dual.shape}, intercept {intercept.shape}, mean {mean.shape}, "
                f"norm {norm.shape} and classes {labels.shape} do not make a classifier; expected [n, d], "
                "[n, K], [K], [d], [d] and [K]"
            )
        finite = all(np.isfinite(array).all() for array in (points, dual, intercept, mean, norm))
        if not finite or not norm.all():
            raise InvalidData("the arrays of a classifier hold NaN, infinity or a norm of 0; fit it again")
        check_increasing(labels)
        kernels = tuple(kernel_from_dict(dict(kernel)) for kernel in options["kernels"])
        weights = tuple(float(weight) for weight in options["weights"])
        widths = check_widths(options["widths"], points.shape[1])
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise InvalidData(f"weights are {weights}; expected numbers that are not negative")
        if any(isinstance(kernel, Exponential) and kernel.sigma is None for kernel in kernels):
            raise InvalidData("a kernel of a classifier has a quantile where its sigma is expected")
        if not len(kernels) == len(weights) == len(widths):
            raise InvalidData(
                f"{len(kernels)} kernels, {len(weights)} weights and {len(widths)} encoders do not make a "
                "classifier; expected as many of each"
            )
        classifier = KernelClassifier()
        classifier._hold(points, FeatureScaling(mean, norm), widths, kernels, weights)
        classifier.dual_, classifier.intercept_, classifier.classes_ = dual, intercept, labels
        return classifier

    def _hold(
        self,
        points: npt.NDArray[np.float16],
        scaling: FeatureScaling,
        widths: tuple[int, ...],
        kernels: tuple[DotProductKernel, ...],
        weights: tuple[float, ...],
    ) -> None:
        """Set all that says how an image compares with the training images."""
        self.points_, self.scaling_, self.widths_ = points, scaling, widths
        self.kernels_, self.kernel_weights_ = kernels, weights
        self.__dict__.pop("_prepared", None)

    @property
    def n_features(self) -> int:
        """Width of the features that it was fitted on."""
        return int(self.points_.shape[1])

    @property
    def n_parameters(self) -> int:
        """Count of the numbers that it holds: training images' features, dual coefficients and intercepts."""
        return int(self.points_.size + self.dual_.size + self.intercept_.size)

    def to_dict(self) -> dict[str, Any]:
        """Return its name, kernels, their weights, and how many features each is of."""
        return {
            "name": self.name,
            "kernels": [kernel.to_dict() for kernel in self.kernels_],
            "weights": list(self.kernel_weights_),
            "widths": list(self.widths_),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return points, dual coefficients, scaling and classes."""
        return {
            "points": self.points_,
            "dual": self.dual_,
            "intercept": self.intercept_,
            "mean": self.scaling_.mean,
            "norm": self.scaling_.norm,
            "classes": self.classes_,
        }

    def unchecked_scores(self, features: Array) -> npt.NDArray[np.float32]:
        """Return `scores` where the features are, a block of images at a time.

        In float32, or in float64 where large dual coefficients of both signs would drown what they sum to.
        """
        points, norms = self._points_like(features)
        dual = np.asarray(self.dual_, like=features).astype(points.dtype)
        scaling = self.scaling_.like(features)
        compared = self.kernels_, self.kernel_weights_, self.widths_
        intercept = np.asarray(self.intercept_, like=features)
        scores = np.empty((len(features), dual.shape[1]), dtype=np.float32, like=features)
        with np.errstate(invalid="ignore", over="ignore"):
            for rows in blocks(len(features), max(points.shape)):
                block = scaling.block(features, rows, dtype=points.dtype)
                kernel = weighted_kernel(*compared, block, points, norms)
                scores[rows] = kernel @ dual + intercept
        return scores

    def bytes_held(self) -> int:
        """Count its points, once more in single precision or in double, and blocks that compare with them."""
        large = np.abs(self.dual_).max() > LARGE
        return (2 + (8 if large else 4)) * self.points_.size + 2 * BLOCK_BYTES

    def _points_like(self, features: Array) -> tuple[Array, list[Array]]:
        """Return the points and their norms, part by part, where the features are; kept for next time."""
        with _PREPARING:  # one thread, while others wait for what it makes
            prepared: tuple[Array, list[Array]] | None = self.__dict__.get("_prepared")
            if prepared is None or type(prepared[0]) is not type(features):
                large = np.abs(self.dual_).max() > LARGE
                points: Array = np.asarray(self.points_, like=features)
                points = points.astype(np.float64) if large else points.astype(np.float32)
                norms = part_norms(points, self.widths_)
                wait(norms[-1])  # the next block may be computed on another stream
                self._prepared = prepared = points, norms
        return prepared

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: all but what is made of it for scores."""
        return {name: value for name, value in self.__dict__.items() if name != "_prepared"}


def part_norms(points: Array, widths: Sequence[int]) -> list[Array]:
    """Return the norms [n] of each encoder's part of the points [n, d]."""
    shares = (points[:, columns] for columns in parts(widths))
    return [np.sqrt(np.einsum("ij,ij->i", share, share)) for share in shares]


def weighted_kernel(
    kernels: Sequence[DotProductKernel],
    weights: Sequence[float],
    widths: Sequence[int],
    scaled: Array,
    points: Array,
    norms: list[Array],
) -> Array:
    """Return K(x, x_i), [b, n], of scaled features [b, d] and points with their norms, part by part."""
    total: Array | None = None
    for number, columns in enumerate(parts(widths)):
        part = scaled[:, columns]
        kernel = part @ points[:, columns].T
        norm = np.sqrt(np.einsum("ij,ij->i", part, part))
        homogeneous(kernels[number], kernel, norm, norms[number])
        kernel *= kernel.dtype.type(weights[number])
        total = kernel if total is None else total + kernel
    assert total is not None  # there is an encoder at least
    return total


def homogeneous(kernel: DotProductKernel, products: Array, rows: Array, columns: Array) -> None:
    """Turn products ⟨x_i, y_j⟩ into ‖x_i‖ ‖y_j‖ κ(cos(x_i, y_j)), in place; where a norm is 0 that is 0.

    The products [n, m] are row-major or column-major; ``rows`` [n] and ``columns`` [m] are the norms.
    A block at a time: what κ needs beside its argument is small beside a Gram matrix.
    """
    if not products.flags.c_contiguous:
        products, rows, columns = products.T, columns, rows
    tiny = np.finfo(products.dtype).tiny ** 0.5
    rows, columns = rows.astype(products.dtype), columns.astype(products.dtype)
    of_rows, of_columns = np.maximum(rows, tiny)[:, None], np.maximum(columns, tiny)
    for part in blocks(*products.shape):
        block = products[part]
        block /= of_rows[part]
        block /= of_columns
        kernel.value(block, out=block)
        block *= rows[part, None]
        block *= columns
