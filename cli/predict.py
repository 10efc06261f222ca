"""`ckn predict`: a submission file."""

import click
import numpy as np

from ckncuda.atomic_file import atomic_file, check_writable
from ckncuda.data import write_submission
from ckncuda.model_file import load

from .options import backend_options, image_options, json_option, make_backend, opened, print_result
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
    format_: str | None,
    image_shape: tuple[int, int, int] | None,
    split: str | None,
    backend: str,
    memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Predict the labels of IMAGES.

    \b
    Example:
        ckn predict model.ckn Xte.csv -o submission.csv
    """
    for path in filter(None, (output, scores)):
        check_writable(path)
    loaded = load(model)
    engine = make_backend(backend, threads, memory)
    with opened(images, format_, image_shape, split, "Predicting") as source, ProgressBars() as progress:
        table = loaded.scores(source, backend=engine, progress=progress)
    assert loaded.classifier is not None  # scores would have refused
    if scores:
        with atomic_file(scores) as file:
            np.save(file, table)
    write_submission(output, loaded.classifier.classes_[table.argmax(axis=1)])
    result = {"submission": output, "n": len(table), "classes": loaded.classifier.classes_.tolist()}
    print_result(result, as_json, [f"wrote {output}: {len(table)} predictions"])
