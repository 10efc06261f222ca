"""Centring and scaling of features, undone in the weights once a classifier is fitted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.backend.linear_algebra import to_host
from ckncuda.classifier.training_data import blocks
from ckncuda.errors import InvalidData


@dataclass(frozen=True)
class FeatureScaling:
    """The map x ↦ (x − mean) / norm, after which the mean squared norm of an image is 1.

    It gives λ the same meaning whatever the network's features measure. Arithmetic is in float64,
    where the features are.

    Attributes
    ----------
    mean : float64 [d]
    norm : float
        Root of the mean squared norm of the centred features.
    """

    mean: npt.NDArray[np.float64]
    norm: float

    @classmethod
    def of(cls, features: npt.NDArray[np.float32]) -> "FeatureScaling":
        """Measure the training features, float32 [n, d]."""
        images, width = features.shape
        total = np.zeros(width, like=features)
        for rows in blocks(images, width):
            total += features[rows].sum(axis=0, dtype=np.float64)
        mean = total / images
        square = 0.0
        for rows in blocks(images, width):
            centred = features[rows].astype(np.float64)
            centred -= mean
            square += float(np.vdot(centred, centred))
        norm = float(np.sqrt(square / images))
        # Far below what float32 features can differ by, and above the rounding of the mean.
        if norm <= 1e-12 * float(np.linalg.norm(mean)):
            raise InvalidData(
                f"the features of all {images} images are equal; there is nothing to learn from: "
                "check the images and the network that encoded them"
            )
        return cls(mean, norm)

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
        scaled /= scaled.dtype.type(self.norm)
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
        folded = (weights / self.norm).astype(np.float32)
        offsets = (intercept - self.mean @ folded.astype(np.float64)).astype(np.float32)
        return to_host(folded), to_host(offsets)
