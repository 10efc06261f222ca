"""Scores and predictions of all classifiers, and the options of those that learn."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import to_host
from ckncuda.classifier.training_data import BLOCK_BYTES, TrainingData, check_features
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import choice, number, whole
from ckncuda.progress import Progress
from ckncuda.types import Array


class Classifier(ABC):
    """Predict the class of the largest of K scores.

    Attributes
    ----------
    classes_ : int64 [K]
        The labels, sorted; column k of the scores belongs to ``classes_[k]``.
    """

    classes_: npt.NDArray[np.int64]

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Width of the features that it was fitted on."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Count of the numbers that it has learned."""

    def bytes_held(self) -> int:
        """Count the bytes of what it has learned, and of what it makes of it for scores."""
        return 2 * sum(int(array.nbytes) for array in self.arrays().values()) + BLOCK_BYTES

    @abstractmethod
    def unchecked_scores(self, features: Array) -> npt.NDArray[np.float32]:
        """Return `scores` where the features are, of any floating-point type; nothing is looked for in them.

        Scores of features that are not finite are not finite either.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return its ``name`` and whatever a model file needs beside `arrays`."""

    @abstractmethod
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return what was learned, by name, as a model file stores it."""

    def scores(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the score of every class, float32 [n, K], on the host.

        Parameters
        ----------
        features : float32 [n, d]
            Of features on a GPU the scores are computed there.

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

        Takes what `scores` takes, with the same errors, and returns labels, int64 [n].
        """
        best = self.scores(features).argmax(axis=1)
        labels: npt.NDArray[np.int64] = self.classes_[best]
        return labels


LEAVE_ONE_OUT, HELD_OUT = "leave-one-out", "held-out"
"""Ways in which a classifier of closed form may choose."""


class ValidatedClassifier(Classifier):
    """A classifier that learns, with λ given or chosen, and measures its accuracy.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": chosen by leave-one-out accuracy or, where that has no closed form, by the accuracy
        on held-out images; of equally good ones the largest.
    validation : float
        0: the accuracy reported is the leave-one-out one; without a closed form nothing is measured then, and
        λ must be given.  Otherwise the fraction of the images, of each class in proportion, that are held out
        to measure the accuracy, and of every choice by leave-one-out, or that make it (see ``choose`` where
        there is one). All images are fitted at the end.
    seed : int
        Draws the held-out images.

    Attributes
    ----------
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float or None
        Accuracy at that λ on images that a fit did not see; None if it was not measured.
    validation_ : str
        How this accuracy was obtained, what was chosen and what was given.
    """

    leaves_one_out: ClassVar[bool] = True  # its leave-one-out accuracy has a closed form
    regularization_: float
    validation_accuracy_: float | None
    validation_: str

    def __init__(self, regularization: float | str, validation: float, seed: int) -> None:
        self.regularization = regularization
        self.validation = validation
        self.seed = seed

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or does not suit so many images and encoders.

        `fit` does so first; others may before the long work that comes before it.
        """
        self.regularization = checked_regularization(self.regularization)
        none_held_out = self.leaves_one_out or self.regularization != "auto"
        self.validation = number(
            "validation",
            self.validation,
            lambda fraction: 0 < fraction < 1 or (fraction == 0 and none_held_out),
            "expected a fraction of the images between 0 and 1, both excluded (0 only together with a given "
            "regularization: nothing is held out then)",
        )
        self.seed = whole("seed", self.seed, 0, "expected a whole number that is not negative")


class TrainableClassifier(ValidatedClassifier):
    """A classifier that learns from features and labels."""

    def fit(
        self,
        features: npt.ArrayLike,
        labels: npt.ArrayLike,
        progress: Progress | None = None,
        widths: Sequence[int] | None = None,
    ) -> Self:
        """Learn ``classes_`` and all that scores need; return self.  What is to be chosen is chosen first.

        Parameters
        ----------
        features : float32 [n, d]
            Of features on a GPU everything is computed there; what is learned is on the host.
        labels : integers [n], not negative
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        widths : sequence of int, optional
            How many of the features, one after the other, come from each encoder of an ensemble; by default
            all come from one.

        Raises
        ------
        InvalidData
            The features or labels are malformed or do not fit together, or no image can be held out.
        InvalidSpec
            An option is out of its range or does not suit the images, or λ is too small for the precision of
            these features.
        """
        self.check_options()
        data = TrainingData.of(features, labels, widths)
        self.check_options(len(data.targets), len(data.widths))
        self._fit(data, progress)
        return self

    @abstractmethod
    def bytes_to_fit(self, n: int, d: int, encoders: int) -> int:
        """Count the bytes held at most, beside features [n, d] of so many encoders, while it learns.

        Square matrices are counted in double precision where a small λ may ask for it.
        """

    @abstractmethod
    def _fit(self, data: TrainingData, progress: Progress | None) -> None:
        """Learn from what is checked."""


def checked_choose(choose: str, validation: float) -> str:
    """Return what choices are made by; raise `InvalidSpec` where no image is there to make them."""
    checked = choice(
        "choose", choose, (LEAVE_ONE_OUT, HELD_OUT), f'expected "{LEAVE_ONE_OUT}" or "{HELD_OUT}"'
    )
    if checked == HELD_OUT and validation == 0:
        raise InvalidSpec(
            f'choose is "{HELD_OUT}", but validation is 0: no image is held out to choose by; give '
            f'validation=0.1, which holds out a tenth of the images, or choose="{LEAVE_ONE_OUT}"'
        )
    return checked


def checked_regularization(regularization: float | str) -> float | str:
    """Return λ, "auto" or a positive, finite number; raise `InvalidSpec` for anything else."""
    if isinstance(regularization, str) and regularization == "auto":
        return regularization
    expected = (
        'expected "auto" or a number greater than 0 (0 is not allowed: the minimiser need not exist; give a '
        "small one such as 1e-8)"
    )
    given: float = number("regularization", regularization, lambda x: x > 0, expected)
    return given
