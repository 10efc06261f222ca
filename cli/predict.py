"""`ckn predict`: a submission file."""

import contextlib
import os

import click
import numpy as np

from ckncuda.backend import Backend
from ckncuda.data import write_submission
from ckncuda.files.atomic_file import atomic_file

from . import options


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--output", required=True, help="The submission to write: Id,Prediction with ids from 1.")
@click.option("--scores", help="Also write the scores, float32 [n, classes], to this .npy file.")
@options.images
@options.backend
@options.printed
def predict(
    model: str,
    images: str,
    output: str,
    scores: str | None,
    how: options.ImageOptions,
    engine: Backend,
) -> options.Printed:
    """Predict the labels of IMAGES.

    \b
    Example:
        ckn predict model.ckn Xte.csv -o submission.csv
    """
    if scores and os.path.abspath(scores) == os.path.abspath(output):
        raise click.UsageError(f"--scores and -o name the same file, {output}: give each its own")
    options.check_outputs([output, scores], [model, images])
    if scores and not scores.endswith(".npy"):
        raise click.UsageError(f"--scores writes an .npy file; {scores} does not end in .npy")
    with options.reading(model, images, how, "Predicting") as (loaded, source, report):
        table = loaded.scores(source, backend=engine, progress=report)
    assert loaded.classifier is not None  # scores would have refused
    with report.stage("writing"), contextlib.ExitStack() as stack:  # both files or none
        if scores:
            file = stack.enter_context(atomic_file(scores))
            np.save(file, table)
            file.flush()
        write_submission(output, loaded.classifier.classes_[table.argmax(axis=1)])
    seconds = options.report_seconds(report)
    classes = loaded.classifier.classes_.tolist()
    result = {"submission": output, "n": len(table), "classes": classes, "seconds": seconds}
    return result, [options.shown_seconds(seconds), f"wrote {output}: {len(table)} predictions"]
