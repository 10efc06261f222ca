"""`ckn predict`: a submission file."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from ckncuda.backend import Backend
from ckncuda.data import write_submission
from ckncuda.files.atomic_file import atomic_file
from ckncuda.given.parameters import counted

from . import options
from .output import say

MOST_SHOWN = 20  # classes that a note names


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--output", required=True, help="The submission to write: Id,Prediction with ids from 1.")
@click.option("--scores", help="Also write the scores, float32 [n, classes], to this .npy file.")
@click.option("--numbers", is_flag=True, help="Write classes that have names by their numbers, 0, 1, ….")
@click.option("--files", is_flag=True, help="Of a folder: write the names of the files as ids.")
@options.images
@options.backend
@options.printed
def predict(
    model: str,
    images: str,
    output: str,
    scores: str | None,
    numbers: bool,
    files: bool,
    how: options.ImageOptions,
    engine: Backend,
) -> options.Printed:
    """Predict the labels of IMAGES.

    A model that was fitted on a folder with a sub-folder a class writes the names of these folders.

    \b
    Example:
        ckn predict model.ckn Xte.csv -o submission.csv
        ckn predict photos.ckn new-photos/ -o photos.csv --files
    """
    if scores and os.path.abspath(scores) == os.path.abspath(output):
        raise click.UsageError(f"--scores and -o name the same file, {output}: give each its own")
    options.check_outputs([output, scores], [model, images])
    if scores and not scores.endswith(".npy"):
        raise click.UsageError(f"--scores writes an .npy file; {scores} does not end in .npy")
    with options.reading(model, images, how, "Predicting") as (loaded, source, report):
        ids: tuple[str, ...] | None = getattr(source, "files", None)
        if files and ids is None:
            raise click.UsageError(f"--files is for folders of pictures; {images} is none: leave it out")
        table = loaded.scores(source, backend=engine, progress=report)
    assert loaded.classifier is not None  # scores would have refused
    with report.stage("writing"), contextlib.ExitStack() as stack:  # both files or none
        if scores:
            file = stack.enter_context(atomic_file(scores))
            np.save(file, table)
            file.flush()
        names, predicted = options.names_of(loaded), loaded.classifier.classes_[table.argmax(axis=1)]
        as_names, as_files = None if numbers else names, ids if files else None
        write_submission(output, predicted, class_names=as_names, ids=as_files)
    _tell(names if numbers else None, None if files else ids)
    seconds = options.report_seconds(report)
    classes = loaded.classifier.classes_.tolist()
    result: dict[str, Any] = {"submission": output, "n": len(table), "classes": classes, "seconds": seconds}
    if names is not None:
        result["class_names"] = list(names)
    wrote = f"wrote {output}: {counted(len(table), 'prediction')}"
    return result, [options.shown_seconds(seconds), wrote]


def _tell(names: Sequence[str] | None, files: Sequence[str] | None) -> None:
    """Say which classes and which files the numbers in a submission stand for."""
    if names is not None:
        shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:MOST_SHOWN]))
        shown += f" and {len(names) - MOST_SHOWN} more, see ckn info" if len(names) > MOST_SHOWN else ""
        say(f"Note: predictions are the numbers of classes: {shown}")
    if files is not None and len(files) > 1:
        say(
            f"Note: ids count the files in natural order, 1 {files[0]} to {len(files)} {files[-1]}; --files"
            " writes their names"
        )
