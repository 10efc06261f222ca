"""The linear classifier: one weight vector and one intercept a class."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.linear_algebra import to_host
from ckncuda.classifier.training_data import blocks, check_features, check_labels
from ckncuda.errors import InvalidData, InvalidSpec

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` while a classifier is fitted."""


class LinearClassifier:
    """Predict the class of the largest of K linear scores, ``features @ weights_ + intercept_``.

    What `Ridge`, `Softmax` and `SquaredHinge` are once fitted. An instance of this class itself is
    made from learned arrays with `from_arrays`, and predicts exactly as the classifier they came from.

    Attributes
    ----------
    weights_ : float32 [d, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
        The labels, sorted; column k of the scores belongs to ``classes_[k]``.

    Examples
    --------
    >>> import numpy as np
    >>> classifier = LinearClassifier.from_arrays([[1.0, -1.0]], [0.0, 0.5], [3, 7])
    >>> classifier.scores(np.array([[2.0], [-2.0]], dtype=np.float32))
    array([[ 2. , -1.5],
           [-2. ,  2.5]], dtype=float32)
    >>> classifier.predict(np.array([[2.0], [-2.0]], dtype=np.float32))
    array([3, 7])
    """

    weights_: npt.NDArray[np.float32]  # [d, K]
    intercept_: npt.NDArray[np.float32]  # [K]
    classes_: npt.NDArray[np.int64]  # [K]

    @staticmethod
    def from_arrays(
        weights: npt.ArrayLike, intercept: npt.ArrayLike, classes: npt.ArrayLike
    ) -> "LinearClassifier":
        """Rebuild a fitted classifier from its three arrays, as a model file stores them.

        Parameters
        ----------
        weights : float32 [d, K]
        intercept : float32 [K]
        classes : integers [K], sorted, each once

        Returns
        -------
        classifier : LinearClassifier

        Raises
        ------
        InvalidData
            The arrays are malformed or do not fit together.
        """
        learned = np.asarray(weights, dtype=np.float32)
        offsets = np.asarray(intercept, dtype=np.float32)
        labels = check_labels(classes)
        count = len(labels)
        if count < 2 or learned.ndim != 2 or learned.shape[1] != count or offsets.shape != (count,):
            raise InvalidData(
                f"weights {learned.shape}, intercept {offsets.shape} and classes {labels.shape} do not make "
                "a classifier; expected [features, K], [K] and [K] with K at least 2"
            )
        if not (np.isfinite(learned).all() and np.isfinite(offsets).all()):
            raise InvalidData(
                "the weights or the intercept of a classifier hold NaN or infinity; fit it again"
            )
        if not (np.diff(labels) > 0).all():
            raise InvalidData(f"classes are {labels.tolist()}; expected each class once, in increasing order")
        classifier = LinearClassifier()
        classifier.weights_, classifier.intercept_, classifier.classes_ = learned, offsets, labels
        return classifier

    def scores(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the score of every class.

        Summed in float64, a block of images at a time: features far from zero, whose scores are
        small differences of large numbers, lose nothing beyond the rounding of what is stored.

        Parameters
        ----------
        features : float32 [n, d]
            Of features on a GPU the scores are computed there.

        Returns
        -------
        scores : float32 [n, K], on the host

        Raises
        ------
        InvalidData
            The features have another width than those of the fit, or hold NaN or infinity.
        InvalidSpec
            The classifier is not fitted.
        """
        if not hasattr(self, "weights_"):
            raise InvalidSpec(f"this {type(self).__name__} is not fitted; call fit(features, labels) first")
        checked = check_features(features)
        width = len(self.weights_)
        if checked.shape[1] != width:
            raise InvalidData(
                f"features have {checked.shape[1]} columns; this classifier was fitted on {width}: "
                "encode the images with the network that it was fitted behind"
            )
        return to_host(self.unchecked_scores(checked))

    def unchecked_scores(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """`scores` where the features are, of any floating-point type; nothing is looked for in them.

        Scores of features that are not finite are not finite either.
        """
        weights = np.asarray(self.weights_.astype(np.float64), like=features)
        intercept = np.asarray(self.intercept_, like=features)
        scores = np.empty((len(features), weights.shape[1]), dtype=np.float32, like=features)
        with np.errstate(invalid="ignore", over="ignore"):
            for rows in blocks(*features.shape):
                scores[rows] = features[rows].astype(np.float64) @ weights + intercept
        return scores

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the class of the largest score; of equal scores, the smallest label.

        Parameters
        ----------
        features : float32 [n, d]

        Returns
        -------
        labels : int64 [n]

        Raises
        ------
        InvalidData
            The features have another width than those of the fit, or hold NaN or infinity.
        InvalidSpec
            The classifier is not fitted.
        """
        best = self.scores(features).argmax(axis=1)
        labels: npt.NDArray[np.int64] = self.classes_[best]
        return labels


class TrainableClassifier(LinearClassifier, ABC):
    """A linear classifier that learns from features and labels, and reports how λ was chosen.

    Attributes
    ----------
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float or None
        Accuracy at that λ on images that the fit did not see; None if it was not measured.
    validation_ : str
        How this accuracy was obtained.
    search_ : list of (float, float)
        The λ tried and their accuracies, in the order tried.
    """

    regularization_: float
    validation_accuracy_: float | None
    validation_: str
    search_: list[tuple[float, float]]

    @abstractmethod
    def check_options(self) -> None:
        """Raise `InvalidSpec` if an option is out of its range: `fit` does first, others may before it."""

    @abstractmethod
    def fit(self, features: npt.ArrayLike, labels: npt.ArrayLike, progress: Progress | None = None) -> Self:
        """Learn ``weights_``, ``intercept_`` and ``classes_``.

        Parameters
        ----------
        features : float32 [n, d]
        labels : integers [n], not negative
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        self

        Raises
        ------
        InvalidData
            The features or labels are malformed or do not fit together.
        InvalidSpec
            An option is out of its range.
        """
