"""Checks of features and labels, and the blocks of rows in which features are read."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ckncuda.backend.arrays import as_array
from ckncuda.errors import InvalidData

BLOCK_BYTES = 32 * 2**20
"""Size of one float64 block of features: a temporary copy is never larger than this."""


def blocks(length: int, width: int) -> Iterator[slice]:
    """Cut ``length`` rows into slices such that rows of ``width`` float64 numbers fill one block."""
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


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
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidData(
            f"labels have the shape {array.shape} and the type {array.dtype}; expected integers [images]: "
            "give one non-negative integer an image"
        )
    if array.size and int(array.min()) < 0:
        image = int(np.argmin(array))
        raise InvalidData(f"label {array[image]} of image {image} is negative; labels must be 0, 1, 2, ...")
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidData(f"label {array.max()} is too large; labels must fit 64-bit integers")
    return array.astype(np.int64)


def check_training_data(
    features: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Check what a classifier is given to learn from.

    Parameters
    ----------
    features : array [n, d]
        On the host or on a GPU.
    labels : integers [n], not negative

    Returns
    -------
    features : float32 [n, d]
        Where they were given.
    classes : int64 [K]
        The labels that occur, sorted.
    targets : integers [n]
        ``classes[targets]`` are the labels.

    Raises
    ------
    InvalidData
        Wrong shapes or types, NaN or infinity, as many labels as images not given, one class only.
    """
    checked = check_features(features)
    classes, targets = check_classes(labels)
    if len(targets) != len(checked):
        raise InvalidData(
            f"{len(targets)} labels were given for the features of {len(checked)} images; "
            "expected one label an image: are both of the same set, in the same order?"
        )
    return checked, classes, targets


def check_classes(labels: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Return the classes int64 [K] and ``targets`` [n] with ``classes[targets]`` the labels.

    Raises
    ------
    InvalidData
        The labels are no labels, or all of one class.
    """
    integers = check_labels(labels)
    classes, targets = np.unique(integers, return_inverse=True)
    if len(classes) < 2:
        which = f"all {len(integers)} labels are {classes[0]}" if len(classes) else "there are no labels"
        raise InvalidData(f"{which}; a classifier needs images of two classes at least")
    return classes, targets


def signed_targets(targets: npt.NDArray[np.intp], classes: int) -> npt.NDArray[np.float64]:
    """Return y float64 [n, classes]: +1 in the column of the image's class, −1 elsewhere."""
    signs = np.empty((len(targets), classes), like=targets)
    signs.fill(-1)
    signs[np.arange(len(targets), like=targets), targets] = 1.0
    return signs


def rows_of(features: npt.NDArray[np.float32], images: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """The features of these images, where they are."""
    rows: npt.NDArray[np.float32] = features[np.asarray(images, like=features)]
    return rows
