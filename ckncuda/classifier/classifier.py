"""What all classifiers have in common: scores, predictions, and how one is fitted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import to_host
from ckncuda.classifier.training_data import check_features
from ckncuda.errors import InvalidData, InvalidSpec

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` while a classifier is fitted."""


class Classifier(ABC):
    """Predict the class of the largest of K scores.

    Attributes
    ----------
    classes_ : int64 [K]
        The labels, sorted; column k of the scores belongs to ``classes_[k]``.
    """

    classes_: npt.NDArray[np.int64]  # [K]

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Width of the features that it was fitted on."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """How many numbers it has learned."""

    @abstractmethod
    def unchecked_scores(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """`scores` where the features are, of any floating-point type; nothing is looked for in them.

        Scores of features that are not finite are not finite either.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Its ``name`` and whatever a model file needs beside `arrays`."""

    @abstractmethod
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """What was learned, by name, as a model file stores it."""

    def scores(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the score of every class.

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
        if not hasattr(self, "classes_"):
            raise InvalidSpec(f"this {type(self).__name__} is not fitted; call fit(features, labels) first")
        checked = check_features(features)
        if checked.shape[1] != self.n_features:
            raise InvalidData(
                f"features have {checked.shape[1]} columns; this classifier was fitted on {self.n_features}: "
                "encode the images with the network that it was fitted behind"
            )
        return to_host(self.unchecked_scores(checked))

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


class TrainableClassifier(Classifier):
    """A classifier that learns from features and labels, and reports how λ was chosen.

    Attributes
    ----------
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float or None
        Accuracy at that λ on images that the fit did not see; None if it was not measured.
    validation_ : str
        How this accuracy was obtained.
    """

    regularization_: float
    validation_accuracy_: float | None
    validation_: str

    @abstractmethod
    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit so many images and encoders.

        `fit` does so first; others may before the long work that comes before it.
        """

    @abstractmethod
    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Learn ``classes_`` and all that scores need.

        Parameters
        ----------
        features : float32 [n, d]
        labels : integers [n], not negative
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        widths : sequence of int, optional
            How many of the features, one after the other, come from each encoder of an ensemble; by default
            all come from one.

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
