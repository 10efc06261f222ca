"""`ckn evaluate`: accuracy and confusion matrix on labelled images."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.errors import InvalidData, printable
from ckncuda.given.parameters import first_few

from . import options
from .output import say

LONGEST_NAME = 16  # of a class in the table


@click.command()
@click.argument("model")
@click.argument("images")
@options.labels
@options.images
@options.backend
@options.printed
def evaluate(
    model: str, images: str, labels: str | None, how: options.ImageOptions, engine: Backend
) -> options.Printed:
    """Compare predictions for IMAGES with their labels.

    \b
    Examples:
        ckn evaluate model.ckn Xva.csv --labels Yva.csv
        ckn evaluate cifar.ckn cifar-10-batches-bin --split test
    """
    with options.reading(model, images, how, "Evaluating") as (loaded, source, report):
        truth = options.needed_targets(images, labels, source)
        names = None if labels else source.class_names
        known_names = options.names_of(loaded)
        truth = _as_known(truth, names, known_names, images)
        predicted = loaded.predict(source, backend=engine, progress=report)
    assert loaded.classifier is not None  # predict would have refused
    known = loaded.classifier.classes_
    if (numbers := _numbers(known_names)) is not None:
        predicted, known = numbers[predicted], numbers[known]
    if unknown := sorted(set(truth.tolist()) - set(known.tolist())):
        say(f"Warning: the model never saw the labels {first_few(unknown)}; it cannot predict them")
    classes, confusion = confusion_matrix(truth, predicted)
    result = {
        "accuracy": float(np.mean(truth == predicted)),
        "n": len(truth),
        "correct": int(np.sum(truth == predicted)),
        "classes": classes.tolist(),
        "confusion": confusion.tolist(),
    }
    shown = [str(number) for number in classes]
    if known_names is not None and numbers is None:
        shown = [_name(known_names, number) for number in classes]
        result["class_names"] = list(known_names)
    return result, _lines(result, shown, confusion)


def _as_known(
    labels: NDArray[np.int64], names: Sequence[str] | None, known: Sequence[str] | None, images: str
) -> NDArray[np.int64]:
    """Return labels as they are compared: numbers of the model's classes or, of classes named so, integers.

    Another folder numbers its classes anew: they are matched by name.  Numbers without names are taken for
    integers that are names where the model has such, and else for the model's own numbers.
    """
    if names is None:
        return labels
    names = _composed(names)
    known = None if known is None else _composed(known)
    if known is None:
        if (numbers := _numbers(names)) is None:
            raise InvalidData(
                f"{images} names the classes {first_few(names)}, but the model knows its own by number alone:"
                " which is which, cannot be told; give --labels"
            )
        return numbers[labels]
    if unknown := sorted(set(names) - set(known)):
        raise InvalidData(
            f"the model does not know the classes {first_few(unknown)}; it was fitted on {first_few(known)}: "
            "leave their folders out, or give --labels"
        )
    numbers = _numbers(known)
    of_model = np.arange(len(known)) if numbers is None else numbers
    renumbered: NDArray[np.int64] = of_model[[known.index(name) for name in names]][labels]
    return renumbered


def _composed(names: Sequence[str]) -> list[str]:
    """Return names with each letter and its accents in one, whichever way a file system keeps them."""
    return [unicodedata.normalize("NFC", name) for name in names]


def _numbers(names: Sequence[str] | None) -> NDArray[np.int64] | None:
    """Return the integers that classes are named by, as digits are; None if one is named otherwise."""
    if names is None or not all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) for name in names):
        return None
    return np.array([int(name) for name in names], np.int64)


def _name(names: Sequence[str], number: int) -> str:
    """Return the name of a class for the table, cut where it is long; its number where it has none."""
    name = printable(names[number]) if number < len(names) else str(number)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def confusion_matrix(
    truth: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels that occur, sorted, and counts [true, predicted]."""
    classes = np.unique(np.concatenate([truth, predicted]))
    rows, columns = np.searchsorted(classes, truth), np.searchsorted(classes, predicted)
    counts = np.bincount(rows * len(classes) + columns, minlength=len(classes) ** 2)
    return classes, counts.reshape(len(classes), len(classes))


def _lines(result: dict[str, Any], classes: Sequence[str], confusion: NDArray[np.int64]) -> list[str]:
    lines = [f"accuracy {result['accuracy']:.4f} ({result['correct']} of {result['n']} images)"]
    if len(classes) > 20:
        return [*lines, f"{len(classes)} classes: the confusion matrix is in --json"]
    width = max(5, *(len(c) for c in classes), len(str(confusion.max()))) + 1
    lines += ["", "confusion matrix: a row a true label, a column a predicted one"]
    lines.append(" " * width + "".join(f"{c:>{width}}" for c in classes) + "   right")
    for label, row, right in zip(classes, confusion, np.diag(confusion), strict=True):
        share = f"{right / row.sum():7.1%}" if row.sum() else "      -"
        lines.append(f"{label:>{width}}" + "".join(f"{count:>{width}}" for count in row) + f" {share}")
    return lines
