"""Labels: whole numbers from 0, one an image."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ckncuda.errors import InvalidData

NUMBERED = "numpy.unique(labels, return_inverse=True)[1]"  # numbers classes 0, 1, …, whatever their names


def check_labels(labels: ArrayLike, n: int | None, where: str, *, first: int = 1) -> NDArray[np.int64]:
    """Return labels as int64 [n], or raise `InvalidData`.

    Truth values and whole floating-point numbers are labels, and so is a column [n, 1], as Keras saves them.

    Parameters
    ----------
    labels : array-like
    n : int or None
        How many there must be; None accepts any number.
    where : str
        What messages begin with.
    first : int
        Number of the first image in messages: 1 for those of files, 0 in Python.

    Examples
    --------
    >>> check_labels([True, 3.0], 2, "y")
    array([1, 3])
    >>> check_labels(["cat", "dog"], 2, "y")
    Traceback (most recent call last):
    ckncuda.errors.InvalidData: y: labels of type <U3; expected whole numbers from 0, one an image: \
number the names by numpy.unique(labels, return_inverse=True)[1]
    """
    if np.ma.is_masked(labels):
        raise InvalidData(f"{where}: some labels are masked; expected one an image")
    try:
        values = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:  # whatever a foreign array raises
        raise InvalidData(
            f"{where}: labels of type {type(labels).__qualname__} ({error}); expected an array of whole"
            " numbers, one an image"
        ) from error
    if values.dtype == object and values.ndim:  # of pandas, or of a list of whatever: numbers, perhaps
        with contextlib.suppress(TypeError, ValueError):
            values = np.asarray(values.tolist())
    check_label_array(values.shape, values.dtype, n, where)
    values = values.reshape(-1)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        _check(
            np.isfinite(values) & (values == np.rint(values)), values, "expected whole numbers", where, first
        )
        _check(np.abs(values) <= 2**53, values, "expected numbers below 2**53", where, first)
    else:
        limit = np.iinfo(np.int64).max
        _check(values <= limit, values, "which does not fit into 64 bits with sign", where, first)
    _check(values >= 0, values, f"expected 0 or greater: number the classes by {NUMBERED}", where, first)
    return values.astype(np.int64)


def check_label_array(shape: Sequence[int], dtype: np.dtype[Any], n: int | None, where: str) -> None:
    """Raise `InvalidData` unless an array of this shape and type may hold ``n`` labels, before it is read."""
    column = len(shape) == 2 and shape[1] == 1
    if len(shape) != 1 and not column:
        advice = "" if shape else ": give a list or an array"
        if len(shape) == 2:
            is_row = shape[0] == 1 and n in (None, shape[1])
            advice = (
                ": give labels[0]" if is_row else ": of a column for each class, give labels.argmax(axis=1)"
            )
        raise InvalidData(
            f"{where}: labels of shape {tuple(shape)}; expected one axis, a label an image{advice}"
        )
    if dtype.kind not in "uibf":
        raise InvalidData(
            f"{where}: labels of type {dtype}; expected whole numbers from 0, one an image:"
            f" number the {'names' if dtype.kind in 'US' else 'classes'} by {NUMBERED}"
        )
    if n is not None and shape[0] != n:
        raise InvalidData(f"{where}: {shape[0]} labels; expected {n}, one for each image")


def _check(good: NDArray[np.bool_], values: NDArray[Any], expected: str, where: str, first: int) -> None:
    if not good.all():
        image = int(np.argmin(good))
        raise InvalidData(f"{where}: label {values[image]} of image {first + image}; {expected}")
