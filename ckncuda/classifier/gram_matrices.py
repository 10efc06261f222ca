"""Gram matrices that are there already, in memory or on a disk: checked, read, centred and scaled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.training_data import blocks
from ckncuda.errors import InvalidData
from ckncuda.types import Array, Index

ASYMMETRY = 1e-3  # of the largest entry on the diagonal: far beyond rounding in any precision
SAME = 1e-9  # part of the diagonal below which images' kernels differ by rounding only


@dataclass(frozen=True)
class GramMatrices:
    """Gram matrices of labelled images.

    Attributes
    ----------
    grams : list of [N, N]
        One a kernel, of all images.
    images : integers [n]
        The numbers of the images that count.
    classes, targets : int64 [K], integers [n]
        The labels of these images are ``classes[targets]``; classes are sorted.
    """

    grams: list[Array]
    images: Index
    classes: npt.NDArray[np.int64]
    targets: Index

    def some(self, images: Index) -> Self:
        """Return those of some of the images; their rows and columns are chosen when they are read."""
        return replace(self, images=self.images[images], targets=self.targets[images])

    def rows(self, images: Index, kept: Index) -> npt.NDArray[np.float64]:
        """Return the kernel values [n, kernels m] of some images with those kept, kernel by kernel."""
        return np.concatenate([chosen_entries(gram, images, kept) for gram in self.grams], axis=1)


class GramStatistics:
    """The statistics by which one Gram matrix [N, N], of some of its images, is centred and scaled.

    Attributes
    ----------
    means : float64 [n]
        Of the kernel of each of the images with all of them.
    spread : float
        Mean squared norm of the centred images: the mean diagonal less the mean of all.
    """

    def __init__(self, gram: Array, images: Index) -> None:
        self.gram, self.images = gram, images
        self.means, diagonal = np.empty(len(images)), np.empty(len(images))
        for rows, values in self.blocks():
            self.means[rows] = values.mean(axis=1)
            square = values[:, rows]
            diagonal[rows] = square.diagonal()
            if np.abs(square - square.T).max() > ASYMMETRY * np.abs(diagonal[rows]).max():
                raise InvalidData(
                    "a Gram matrix is not symmetric; a kernel does not tell the first image from the second: "
                    "give that of all training images with all, in the same order"
                )
        self.spread = float(diagonal.mean() - self.means.mean())
        if not self.spread > SAME * float(np.abs(diagonal).mean()):
            raise InvalidData(
                f"the {len(images)} images are all equal to a kernel, or it is none: the mean of its Gram "
                f"matrix's diagonal is {diagonal.mean():g}, that of all entries {self.means.mean():g}, which "
                "must be less; check the images and the kernel"
            )

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield rows of the images, in float64, as many as make a block: their places, and the values."""
        for rows in blocks(len(self.images), self.gram.shape[1]):
            yield rows, chosen_entries(self.gram, self.images[rows], self.images)

    def centred(self, order: Index, dtype: np.dtype[Any]) -> Array:
        """Return the centred and scaled Gram matrix, column-major, of the images in this order."""
        out = np.empty((len(order), len(order)), dtype, order="F")
        places = np.argsort(order)
        mean = self.means.mean()
        for rows, values in self.blocks():
            values -= self.means[rows, None]
            values -= self.means - mean
            values /= self.spread
            out[:, places[rows]] = values[:, order].T
        return out


def check_grams(grams: npt.ArrayLike | Sequence[npt.ArrayLike], images: int, columns: int) -> list[Array]:
    """Return them as a list, or raise `InvalidData`; arrays on a disk, read in blocks, stay there."""
    given: Any = grams
    if not hasattr(given, "shape") and (not isinstance(given, list | tuple) or not given):
        raise InvalidData(f"Gram matrices are {grams!r}; expected one, or a list of them, [images, images]")
    one = given.ndim == 2 if hasattr(given, "ndim") else np.ndim(given[0]) == 1
    checked = [
        gram if hasattr(gram, "shape") and hasattr(gram, "dtype") else np.asarray(gram)
        for gram in ([given] if one else given)
    ]
    if not checked:
        raise InvalidData("there is no Gram matrix")
    for gram in checked:
        if tuple(gram.shape) != (images, columns) or gram.dtype.kind not in "fiu":
            raise InvalidData(
                f"a Gram matrix is of shape {list(gram.shape)} and type {gram.dtype}; expected numbers "
                f"[{images}, {columns}], a row for each labelled image"
            )
    return checked


def chosen_entries(gram: Array, rows: Index, columns: Index) -> npt.NDArray[np.float64]:
    """Return these rows, in increasing order, and columns, in float64; read as ranges of whole rows."""
    out = np.empty((len(rows), len(columns)))
    for part in blocks(gram.shape[0], gram.shape[1]):
        inside = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        if len(inside):
            first, last = int(rows[inside].min()), int(rows[inside].max()) + 1
            out[inside] = finite_rows(gram, slice(first, last))[np.ix_(rows[inside] - first, columns)]
    return out


def finite_rows(gram: Array, rows: slice) -> npt.NDArray[np.float64]:
    """Return whole rows in float64, or raise `InvalidData` if they hold NaN or infinity."""
    values = np.array(gram[rows], np.float64)
    if not np.isfinite(values).all():
        row = rows.start + int(np.argmin(np.isfinite(values).all(axis=1)))
        raise InvalidData(f"row {row} of a Gram matrix holds NaN or infinity: compute it again")
    return values
