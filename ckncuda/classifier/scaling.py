"""Centring and scaling of features, undone in the weights once a classifier is fitted."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import to_host
from ckncuda.classifier.training_data import blocks
from ckncuda.errors import InvalidData


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
    def of(cls, features: npt.NDArray[np.float32], widths: Sequence[int] | None = None) -> "FeatureScaling":
        """Measure the training features, float32 [n, d], of encoders with so many features each."""
        images, width = features.shape
        widths = check_widths(widths, width)
        total = np.zeros(width, like=features)
        for rows in blocks(images, width):
            total += features[rows].sum(axis=0, dtype=np.float64)
        mean = total / images
        squares = np.zeros(len(widths))
        norm = np.ones(width)
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

    def block(
        self,
        features: npt.NDArray[np.float32],
        rows: slice | npt.NDArray[np.intp] = slice(None),
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

    def scaled(
        self, features: npt.NDArray[np.float32], order: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float32]:
        """Return the scaled features of the images ``order`` as float32 [len(order), d]."""
        order = np.asarray(order, like=features)
        result = np.empty((len(order), features.shape[1]), dtype=np.float32, like=features)
        for rows in blocks(*result.shape):
            chosen = features[order[rows]].astype(np.float64)
            chosen -= self.mean
            chosen /= self.norm
            result[rows] = chosen
        return result

    def fold(
        self, weights: npt.NDArray[np.float64], intercept: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Turn weights [d, K] and intercept [K] on scaled features into those on features as they come.

        ⟨w, (x − m)/s⟩ + b = ⟨w/s, x⟩ + (b − ⟨w/s, m⟩), with w/s already rounded to float32, so that the
        intercept makes up for that rounding at the mean. The result is on the host.
        """
        folded = (weights / self.norm[:, None]).astype(np.float32)
        offsets = (intercept - self.mean @ folded.astype(np.float64)).astype(np.float32)
        return to_host(folded), to_host(offsets)


def parts(widths: Sequence[int]) -> list[slice]:
    """The columns of each encoder's features."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]


def check_widths(widths: Sequence[int] | None, width: int) -> tuple[int, ...]:
    """Return how many features come from each encoder, or raise `InvalidData` if they are not ``width``."""
    checked = (width,) if widths is None else tuple(int(part) for part in widths)
    if sum(checked) != width or min(checked) < 1:
        raise InvalidData(
            f"there are {width} features, but the encoders are said to give {' + '.join(map(str, checked))}"
        )
    return checked
