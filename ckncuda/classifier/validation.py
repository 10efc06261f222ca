"""The accuracy on images that a fit has not seen, held out or left out one by one, and its sentence."""

import copy
from abc import abstractmethod
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from ckncuda.classifier.choice import Choice, Judgement, Options
from ckncuda.classifier.classifier import LEAVE_ONE_OUT, ValidatedClassifier, checked_choose
from ckncuda.classifier.gram_matrices import GramMatrices
from ckncuda.classifier.training_data import TrainingData
from ckncuda.errors import InvalidData
from ckncuda.progress import Progress
from ckncuda.types import Index

Data = TypeVar("Data", TrainingData, GramMatrices)


class LeaveOneOut(ValidatedClassifier, Generic[Data]):
    """A classifier whose leave-one-out predictions have a closed form, so that all images can judge."""

    @abstractmethod
    def _options(self, data: Data) -> Options:
        """Return what is given, and what is to be chosen, with such data."""

    @abstractmethod
    def _learn(self, data: Data, choice: Choice | None, progress: Progress | None) -> Judgement:
        """Learn all that scores need, with what was chosen before or, measured, with the best."""

    def _fit(self, data: Data, progress: Progress | None) -> None:
        """Learn from all images, and measure on those that are left out or held out."""
        images, options = len(data.targets), self._options(data)
        if self.validation == 0:
            found = self._learn(data, None, progress)
            some, few = found.judged < images, found.chose < found.judged
            of = f"{found.judged} of {images} images, drawn at random" if some else f"{images} images"
            by = "by the same accuracies" + (f" over {found.chose} of them" if few else "")
            choice, accuracy = found.choice, found.accuracy
            sentence = f"leave-one-out over {of}; {options.said(choice, by)}"
        else:
            kept, held_out = held_out_split(data.targets, self.validation, self.seed)
            alone = copy.copy(self)  # what was fitted before stays until all is known
            choice = alone._learn(data.some(kept), None, progress).choice
            predicted = alone.predict(data.rows(held_out, kept))
            accuracy = float(np.mean(predicted == data.classes[data.targets[held_out]]))
            del alone  # and the features it holds
            self._learn(data, choice, progress)
            said = options.said(choice, "by leave-one-out over the others")
            sentence = held_out_sentence(len(held_out), images, said)
        self.regularization_, self.validation_accuracy_ = choice.regularization, accuracy
        self.validation_ = sentence


class HeldOutOrLeftOut(LeaveOneOut[TrainingData]):
    """A classifier of features that chooses by leave-one-out, or on images that it holds out.

    Parameters
    ----------
    regularization, validation, seed
        See `ValidatedClassifier`.
    choose : {"leave-one-out", "held-out"}
        "held-out": the images that ``validation`` holds out judge all that is to be chosen, left out together
        from a fit on the others, with the same 1/n, centring and scaling, which need no labels.  It is for
        features that learned from the labels of the other images, of which leave-one-out promises too much.
        The accuracy reported is that of the best choice, on the images that chose it.
    """

    def __init__(
        self, regularization: float | str, validation: float, seed: int, choose: str = LEAVE_ONE_OUT
    ) -> None:
        super().__init__(regularization, validation, seed)
        self.choose = choose

    def check_options(self, images: int | None = None, encoders: int | None = None) -> None:
        """Raise `InvalidSpec` if an option is out of its range, or no image is held out that is to choose."""
        super().check_options()
        self.choose = checked_choose(self.choose, self.validation)

    def bytes_kept(self, n: int, d: int) -> int:
        """Count the bytes of a copy of features [n, d], of the images kept while the others only measure."""
        return 4 * n * d if self.validation and self.choose == LEAVE_ONE_OUT else 0

    def _fit(self, data: TrainingData, progress: Progress | None) -> None:
        """Learn from all images, and choose and measure on those that are left out or held out."""
        if self.choose == LEAVE_ONE_OUT:
            super()._fit(data, progress)
            return
        _, held_out = held_out_split(data.targets, self.validation, self.seed)
        found = self._learn(replace(data, held_out=held_out), None, progress)
        said = self._options(data).said(found.choice, "on them")
        self.regularization_, self.validation_accuracy_ = found.choice.regularization, found.accuracy
        self.validation_ = held_out_sentence(len(held_out), len(data.targets), said)


def held_out_sentence(held_out: int, images: int, choice: str) -> str:
    """Say how an accuracy on held-out images was obtained, and what was chosen or given."""
    if held_out == 0:
        return f"not measured: no image was held out; {choice}"
    return f"{held_out} images held out of {images}; {choice}, then all {images} were fitted"


def held_out_split(targets: Index, fraction: float, seed: int) -> tuple[Index, Index]:
    """Hold out a fraction of the images, of every class in proportion, drawn with ``seed``.

    Each class gives the whole part of its share; what is missing to the rounded total comes from the
    classes with the largest remainders. The last image of a class is never held out.

    Parameters
    ----------
    targets : integers [n]
        Classes 0 … K−1, each with one image at least.
    fraction : float
        Of 0, no image is held out.

    Returns
    -------
    kept, held_out : integers
        Indices of images, both sorted.

    Raises
    ------
    InvalidData
        Every class has one image: none can be held out.
    """
    if fraction == 0:
        return np.arange(len(targets)), np.arange(0)
    counts = np.bincount(targets)
    shares = fraction * counts
    sizes = np.floor(shares).astype(np.intp)  # below the count, since the fraction is below 1
    wanted = max(1, round(fraction * len(targets)))
    for k in np.argsort(sizes - shares, kind="stable"):
        if sizes.sum() < wanted and sizes[k] < counts[k] - 1:
            sizes[k] += 1
    if sizes.sum() == 0:
        raise InvalidData(
            f"each of the {len(counts)} classes has one image, so none can be held out to validate on; "
            "give more images, take ridge, which leaves one out (but not on a network that is trained end to "
            "end), or hold none out: validation 0, with a "
            "regularization, or of a search hold_out 0"
        )
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(targets == k))[:size] for k, size in enumerate(sizes)]
    held_out = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(len(targets)), held_out), held_out
