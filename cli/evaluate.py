"""`ckn evaluate`: accuracy and confusion matrix on labelled images."""

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.errors import InvalidData

from . import options
from .output import say


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
        if not labels:
            truth = _renumbered(truth, source.class_names, loaded.class_names)
        predicted = loaded.predict(source, backend=engine, progress=report)
    assert loaded.classifier is not None  # predict would have refused
    if unknown := sorted(set(truth.tolist()) - set(loaded.classifier.classes_.tolist())):
        say(f"Warning: the model never saw the labels {_some(unknown)}; it cannot predict them")
    classes, confusion = confusion_matrix(truth, predicted)
    result = {
        "accuracy": float(np.mean(truth == predicted)),
        "n": len(truth),
        "correct": int(np.sum(truth == predicted)),
        "classes": classes.tolist(),
        "confusion": confusion.tolist(),
    }
    return result, _lines(result, confusion)


def _renumbered(
    labels: NDArray[np.int64], names: Sequence[str] | None, known: Sequence[str] | None
) -> NDArray[np.int64]:
    """Return labels of named classes as the model knows the names: another folder numbers them anew."""
    if names is None or known is None:
        return labels
    if unknown := sorted(set(names) - set(known)):
        raise InvalidData(
            f"the model does not know the classes {_some(unknown)}; it was fitted on {_some(known)}: "
            "leave their folders out, or give --labels"
        )
    numbers = np.array([known.index(name) for name in names])
    renumbered: NDArray[np.int64] = numbers[labels]
    return renumbered


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(map(str, items[:10]))
    return shown + (f" and {len(items) - 10} more" if len(items) > 10 else "")


def confusion_matrix(
    truth: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels that occur, sorted, and counts [true, predicted]."""
    classes = np.unique(np.concatenate([truth, predicted]))
    rows, columns = np.searchsorted(classes, truth), np.searchsorted(classes, predicted)
    counts = np.bincount(rows * len(classes) + columns, minlength=len(classes) ** 2)
    return classes, counts.reshape(len(classes), len(classes))


def _lines(result: dict[str, Any], confusion: NDArray[np.int64]) -> list[str]:
    lines = [f"accuracy {result['accuracy']:.4f} ({result['correct']} of {result['n']} images)"]
    classes = result["classes"]
    if len(classes) > 20:
        return [*lines, f"{len(classes)} classes: the confusion matrix is in --json"]
    width = max(5, *(len(str(c)) for c in classes), len(str(confusion.max()))) + 1
    lines += ["", "confusion matrix: a row a true label, a column a predicted one"]
    lines.append(" " * width + "".join(f"{c:>{width}}" for c in classes) + "   right")
    for label, row, right in zip(classes, confusion, np.diag(confusion), strict=True):
        share = f"{right / row.sum():7.1%}" if row.sum() else "      -"
        lines.append(f"{label:>{width}}" + "".join(f"{count:>{width}}" for count in row) + f" {share}")
    return lines
