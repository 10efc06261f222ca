"""`ckn predict`: a submission file."""

import contextlib
import os

import click
import numpy as np

from ckncuda.backend import Backend
from ckncuda.data import write_submission
from ckncuda.files.atomic_file import atomic_file
from ckncuda.model.model import load
from ckncuda.progress import Report

from .options import (
    ImageOptions,
    backend_options,
    check_outputs,
    image_options,
    json_option,
    opened,
    print_result,
    report_seconds,
    shown_seconds,
)
from .progress import ProgressBars


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--output", required=True, help="The submission to write: Id,Prediction with ids from 1.")
@click.option("--scores", help="Also write the scores, float32 [n, classes], to this .npy file.")
@image_options
@backend_options
@json_option
def predict(
    model: str,
    images: str,
    output: str,
    scores: str | None,
    how: ImageOptions,
    engine: Backend,
    as_json: bool,
) -> None:
    """Predict the labels of IMAGES.

    \b
    Example:
        ckn predict model.ckn Xte.csv -o submission.csv
    """
    if scores and os.path.abspath(scores) == os.path.abspath(output):
        raise click.UsageError(f"--scores and -o name the same file, {output}: give each its own")
    check_outputs([output, scores], [model, images])
    if scores and not scores.endswith(".npy"):
        raise click.UsageError(f"--scores writes an .npy file; {scores} does not end in .npy")
    bars = ProgressBars()
    report = Report(bars)
    with report.stage("reading"):
        loaded = load(model)
    with (
        report.stage("reading"),
        opened(images, how, "Predicting", loaded.image_shape) as source,
        bars,
    ):
        table = loaded.scores(source, backend=engine, progress=report)
    assert loaded.classifier is not None  # scores would have refused
    with report.stage("writing"), contextlib.ExitStack() as stack:  # both files or none
        if scores:
            file = stack.enter_context(atomic_file(scores))
            np.save(file, table)
            file.flush()
        write_submission(output, loaded.classifier.classes_[table.argmax(axis=1)])
    seconds = report_seconds(report)
    classes = loaded.classifier.classes_.tolist()
    print_result(
        {"submission": output, "n": len(table), "classes": classes, "seconds": seconds},
        as_json,
        [shown_seconds(seconds), f"wrote {output}: {len(table)} predictions"],
    )
