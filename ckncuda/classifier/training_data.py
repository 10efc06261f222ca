"""Features and labels to learn from: checked, read in blocks, centred and scaled."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import as_array, to_host
from ckncuda.errors import InvalidData
from ckncuda.given import labels as given
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

BLOCK_BYTES = 32 * 2**20
"""Size of one float64 block of features: a temporary copy is never larger than this."""


def blocks(length: int, width: int, stage: str = "", progress: Progress | None = None) -> Iterator[slice]:
    """Cut ``length`` rows into slices such that rows of ``width`` float64 numbers fill one block.

    Each is reported to ``progress`` once it has been worked on.
    """
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop)
        if progress is not None:
            progress(stage, stop, length)


def block_bytes(length: int, width: int) -> int:
    """Count the bytes of one block of features [length, width] in double precision, and of its copies."""
    return 5 * min(8 * length * width, max(BLOCK_BYTES, 8 * width)) // 2


@dataclass(frozen=True)
class TrainingData:
    """Features and labels that fit together.

    Attributes
    ----------
    features : float32 [n, d]
        On the host or on a GPU, where they were given.
    widths : tuple of int
        How many of the features come from each encoder.
    classes, targets : int64 [K], integers [n]
        The labels are ``classes[targets]``; classes are sorted, both are on the host.
    held_out : integers [h]
        The numbers, increasing, of the images that judge all that is chosen, left out together; where there
        are none, each image is left out by itself.
    """

    features: npt.NDArray[np.float32]
    widths: tuple[int, ...]
    classes: npt.NDArray[np.int64]
    targets: Index
    held_out: Index = field(default_factory=lambda: np.arange(0))

    @classmethod
    def of(cls, features: npt.ArrayLike, labels: npt.ArrayLike, widths: Sequence[int] | None = None) -> Self:
        """Check what a classifier is given to learn from; raise `InvalidData` if it is malformed."""
        checked = check_features(features)
        classes, targets = check_classes(labels)
        if len(targets) != len(checked):
            raise InvalidData(
                f"{len(targets)} labels were given for the features of {len(checked)} images; "
                "expected one label an image: are both of the same set, in the same order?"
            )
        return cls(checked, check_widths(widths, checked.shape[1]), classes, targets)

    def some(self, images: Index) -> Self:
        """Return the data of these images, of which none is held out; of classes, all."""
        rows, targets = self.rows(images), self.targets[images]
        return replace(self, features=rows, targets=targets, held_out=np.arange(0))

    def rows(self, images: Index, kept: Index | None = None) -> npt.NDArray[np.float32]:
        """Return the features of these images, whichever others were kept, where they are."""
        rows: npt.NDArray[np.float32] = self.features[np.asarray(images, like=self.features)]
        return rows

    def kept(self) -> Index:
        """Return the numbers of the images that are not held out."""
        return np.setdiff1d(np.arange(len(self.targets)), self.held_out)

    def signs(self) -> npt.NDArray[np.float64]:
        """Return the targets as `signed_targets`, where the features are."""
        return signed_targets(np.asarray(self.targets, like=self.features), len(self.classes))


def check_features(features: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the features as float32 [n, d], or raise `InvalidData`; float32 arrays are not copied.

    Features on a GPU stay there.
    """
    try:
        with np.errstate(over="ignore"):  # what does not fit float32 becomes inf and is reported below
            array = as_array(features, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"features must be numbers [images, features]; NumPy says: {error}") from error
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidData(
            f"features have the shape {array.shape}; expected [images, features], both at least 1: "
            "reshape them to one row an image"
        )
    for rows in blocks(*array.shape):
        finite = np.isfinite(array[rows]).all(axis=1)
        if not finite.all():
            row = rows.start + int(np.argmin(finite))
            raise InvalidData(
                f"features of image {row} hold NaN or infinity (in float32); every feature must be finite: "
                "look for broken images or an overflow in the layers below"
            )
    return array


def check_labels(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the labels as int64 [n], or raise `InvalidData`."""
    return given.check_labels(labels, None, "labels", first=0)


def check_classes(labels: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Index]:
    """Return the classes int64 [K] and ``targets`` [n] with ``classes[targets]`` the labels.

    Raises `InvalidData` if these are no labels, or all of one class.
    """
    integers = check_labels(labels)
    classes, targets = np.unique(integers, return_inverse=True)
    if len(classes) < 2:
        which = "there are no labels"
        if len(classes):
            alike = "the only label is" if len(integers) == 1 else f"all {len(integers)} labels are"
            which = f"{alike} {classes[0]}"
        raise InvalidData(f"{which}; a classifier needs images of two classes at least")
    return classes, targets


def check_increasing(classes: npt.NDArray[np.int64]) -> None:
    """Raise `InvalidData` unless each class is there once, in increasing order."""
    if not (np.diff(classes) > 0).all():
        raise InvalidData(f"classes are {classes.tolist()}; expected each class once, in increasing order")


def check_widths(widths: Sequence[int] | None, width: int) -> tuple[int, ...]:
    """Return how many features come from each encoder, or raise `InvalidData` if they are not ``width``."""
    checked = (width,) if widths is None else tuple(int(part) for part in widths)
    if sum(checked) != width or min(checked) < 1:
        raise InvalidData(
            f"there are {width} features, but the encoders are said to give {' + '.join(map(str, checked))}"
        )
    return checked


def signed_targets(targets: Index, classes: int) -> npt.NDArray[np.float64]:
    """Return y float64 [n, classes]: +1 in the column of the image's class, −1 elsewhere."""
    signs = np.empty((len(targets), classes), like=targets)
    signs.fill(-1)
    signs[np.arange(len(targets), like=targets), targets] = 1.0
    return signs


def parts(widths: Sequence[int]) -> list[slice]:
    """Return the columns of each encoder's features."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]


@dataclass(frozen=True)
class FeatureScaling:
    """The map x ↦ (x − mean) / norm, after which the mean squared norm of an image is 1.

    It gives λ the same meaning whatever the network's features measure, and each encoder of an ensemble
    the same weight. Arithmetic is in float64, where the features are.

    Attributes
    ----------
    mean : float64 [d]
    norm : float64 [d]
        Root of the mean squared norm of an encoder's centred features, times the root of the number of
        encoders; the same for all features of one encoder.
    """

    mean: npt.NDArray[np.float64]
    norm: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: npt.NDArray[np.float32], widths: Sequence[int] | None = None) -> Self:
        """Measure the training features, float32 [n, d], of encoders with so many features each."""
        images, width = features.shape
        widths = check_widths(widths, width)
        mean = np.zeros(width, like=features)
        for rows in blocks(images, width):
            mean += features[rows].sum(axis=0, dtype=np.float64)
        mean /= images
        squares, norm = np.zeros(len(widths)), np.ones(width)
        for rows in blocks(images, width):
            centred = features[rows].astype(np.float64)
            centred -= mean
            for number, columns in enumerate(parts(widths)):
                squares[number] += float(np.vdot(centred[:, columns], centred[:, columns]))
        for number, columns in enumerate(parts(widths)):
            length = float(np.sqrt(squares[number] / images))
            # Far below what float32 features can differ by, and above the rounding of the mean.
            if length > 1e-12 * float(np.linalg.norm(mean[columns])):
                norm[columns] = length * np.sqrt(len(widths))
            else:
                squares[number] = 0
        if not squares.any():
            raise InvalidData(
                f"the features of all {images} images are equal; there is nothing to learn from: "
                "check the images and the network that encoded them"
            )
        return cls(mean, np.asarray(norm, like=features))

    def on_host(self) -> Self:
        """Return the same map for features on the host."""
        return replace(self, mean=to_host(self.mean), norm=to_host(self.norm))

    def like(self, features: Array) -> Self:
        """Return the same map, from the host to where the features are."""
        mean, norm = (np.asarray(array, like=features) for array in (self.mean, self.norm))
        return replace(self, mean=mean, norm=norm)

    def block(
        self,
        features: Array,
        rows: slice | Index = slice(None),
        columns: slice = slice(None),
        dtype: npt.DTypeLike = np.float64,
    ) -> npt.NDArray[Any]:
        """Return one block of the scaled features, in float64 or float32.

        In float32 the mean is subtracted in two parts, of which the second is the rounding of the first,
        so that the result is as good as a float64 one that is rounded in the end.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows, like=features)
        scaled = features[rows, columns].astype(dtype, copy=isinstance(rows, slice))
        mean = self.mean[columns].astype(dtype)
        scaled -= mean
        if scaled.dtype == np.float32:
            scaled -= (self.mean[columns] - mean).astype(dtype)
        scaled /= self.norm[columns].astype(dtype)
        return scaled

    def scaled(self, features: npt.NDArray[np.float32], order: Index) -> npt.NDArray[np.float32]:
        """Return the scaled features of the images ``order`` as float32 [len(order), d]."""
        order = np.asarray(order, like=features)
        result = np.empty((len(order), features.shape[1]), dtype=np.float32, like=features)
        for rows in blocks(*result.shape):
            result[rows] = self.block(features, order[rows])
        return result

    def fold(
        self, weights: Array, intercept: Array
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Turn weights [d, K] and intercept [K] on scaled features into those on features as they come.

        ⟨w, (x − m)/s⟩ + b = ⟨w/s, x⟩ + (b − ⟨w/s, m⟩), with w/s already rounded to float32, so that the
        intercept makes up for that rounding at the mean. The result is on the host.
        """
        folded = (weights / self.norm[:, None]).astype(np.float32)
        offsets = (intercept - self.mean @ folded.astype(np.float64)).astype(np.float32)
        return to_host(folded), to_host(offsets)
