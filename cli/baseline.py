"""`ckn baseline`: HOG and an SVM, to compare a CKN with."""

import time

import click

from ckncuda.data import write_submission
from ckncuda.errors import InvalidData
from ckncuda.images.sources import class_names
from ckncuda.studies.baseline import fit_baseline

from . import options
from .progress import ProgressBars


@click.command()
@click.argument("images")
@options.labels
@click.option("--predict", "test", help="Images to predict with the fitted baseline.")
@click.option("-o", "--output", help="The submission to write for --predict.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="For the folds."
)
@options.images
@options.printed
def baseline(
    images: str,
    labels: str | None,
    test: str | None,
    output: str | None,
    seed: int,
    how: options.ImageOptions,
) -> options.Printed:
    """Fit histograms of oriented gradients with a one-vs-rest linear SVM on IMAGES.

    The baseline of *CKN from Scratch*, for comparison; needs the extra `baseline`.

    \b
    Example:
        ckn baseline Xtr.csv --labels Ytr.csv --predict Xte.csv -o submission.csv
    """
    if (test is None) != (output is None):
        raise click.UsageError("--predict and -o go together: the images to predict, and the file to write")
    options.check_outputs([output], [images, labels, test])
    started = time.perf_counter()
    with options.opened(images, how, "Fitting on", split="train") as source, ProgressBars() as progress:
        targets = options.needed_targets(images, labels, source)
        fitted = fit_baseline(source, targets, seed, progress)
        shape, names = source.shape[1:], class_names(source, targets)
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
        how = how._replace(split="test")
        with options.opened(test, how, "Predicting") as source, ProgressBars() as progress:
            if source.shape[1:] != shape:
                raise InvalidData(f"{test} holds images of {source.shape[1:]}, {images} of {shape}")
            write_submission(output, fitted.predict(source, progress), class_names=names)
        result["submission"] = output
        lines.append(f"wrote {output}")
    return result, lines
