"""`ckn baseline`: HOG and an SVM, to compare a CKN with."""

import time

import click

from ckncuda.data import write_submission
from ckncuda.errors import InvalidData
from ckncuda.studies.baseline import fit_baseline

from .options import (
    ImageOptions,
    check_outputs,
    image_options,
    json_option,
    labels_option,
    needed_targets,
    opened,
    print_result,
)
from .progress import ProgressBars


@click.command()
@click.argument("images")
@labels_option
@click.option("--predict", "test", help="Images to predict with the fitted baseline.")
@click.option("-o", "--output", help="The submission to write for --predict.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="For the folds."
)
@image_options
@json_option
def baseline(
    images: str,
    labels: str | None,
    test: str | None,
    output: str | None,
    seed: int,
    how: ImageOptions,
    as_json: bool,
) -> None:
    """Fit histograms of oriented gradients with a one-vs-rest linear SVM on IMAGES.

    The baseline of *CKN from Scratch*, for comparison; needs the extra `baseline`.

    \b
    Example:
        ckn baseline Xtr.csv --labels Ytr.csv --predict Xte.csv -o submission.csv
    """
    if (test is None) != (output is None):
        raise click.UsageError("--predict and -o go together: the images to predict, and the file to write")
    check_outputs([output], [images, labels, test])
    started = time.perf_counter()
    with (
        opened(images, how._replace(split=how.split or "train"), "Fitting on") as source,
        ProgressBars() as progress,
    ):
        targets = needed_targets(images, labels, source)
        fitted = fit_baseline(source, targets, seed, progress)
        shape = source.shape[1:]
    result = {
        "validation_accuracy": fitted.validation_accuracy,
        "validation": fitted.validation,
        "penalty": fitted.penalty,
        "n_features": fitted.n_features,
        "seconds": time.perf_counter() - started,
    }
    lines = [
        f"validation accuracy {fitted.validation_accuracy:.4f} ({fitted.validation})",
        f"{fitted.n_features} features an image, {result['seconds']:.1f} s",
    ]
    if test and output:
        with (
            opened(test, how._replace(split="test"), "Predicting") as source,
            ProgressBars() as progress,
        ):
            if source.shape[1:] != shape:
                raise InvalidData(f"{test} holds images of {source.shape[1:]}, {images} of {shape}")
            write_submission(output, fitted.predict(source, progress))
        result["submission"] = output
        lines.append(f"wrote {output}")
    print_result(result, as_json, lines)
