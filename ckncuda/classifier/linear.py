"""The linear classifier: one weight vector and one intercept a class."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.classifier import Classifier
from ckncuda.classifier.training_data import blocks, check_increasing, check_labels
from ckncuda.errors import InvalidData
from ckncuda.types import Array


class LinearClassifier(Classifier):
    """Predict the class of the largest of K linear scores, ``features @ weights_ + intercept_``.

    It is all that is left of `Ridge`, `GramRidge`, `Softmax` and `SquaredHinge` in a model file, and predicts
    exactly as the classifier that its arrays came from.

    Attributes
    ----------
    weights_ : float32 [d, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
        See `Classifier`.

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

    name: ClassVar[str] = "linear"
    weights_: npt.NDArray[np.float32]  # [d, K]
    intercept_: npt.NDArray[np.float32]  # [K]

    @staticmethod
    def from_arrays(
        weights: npt.ArrayLike, intercept: npt.ArrayLike, classes: npt.ArrayLike
    ) -> "LinearClassifier":
        """Rebuild a fitted classifier from its three arrays, as a model file stores them.

        Raises `InvalidData` if they are malformed or do not fit together.
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
        check_increasing(labels)
        classifier = LinearClassifier()
        classifier.weights_, classifier.intercept_, classifier.classes_ = learned, offsets, labels
        return classifier

    @property
    def n_features(self) -> int:
        """Width of the features that it was fitted on."""
        return len(self.weights_)

    @property
    def n_parameters(self) -> int:
        """Count of the numbers that it has learned: weights and intercepts."""
        return self.weights_.size + self.intercept_.size

    def to_dict(self) -> dict[str, Any]:
        """Return its name: all linear classifiers are the same once they are fitted."""
        return {"name": self.name}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, intercept and classes."""
        return {"weights": self.weights_, "intercept": self.intercept_, "classes": self.classes_}

    def unchecked_scores(self, features: Array) -> npt.NDArray[np.float32]:
        """Return `scores` where the features are, summed in float64, a block of images at a time.

        Features far from zero, whose scores are small differences of large numbers, lose nothing beyond the
        rounding of what is stored.
        """
        weights = np.asarray(self.weights_.astype(np.float64), like=features)
        intercept = np.asarray(self.intercept_, like=features)
        scores = np.empty((len(features), weights.shape[1]), dtype=np.float32, like=features)
        with np.errstate(invalid="ignore", over="ignore"):
            for rows in blocks(*features.shape):
                scores[rows] = features[rows].astype(np.float64) @ weights + intercept
        return scores
