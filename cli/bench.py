"""`ckn bench`: images per second of a model on this machine."""

import contextlib
from typing import Any

import click

from ckncuda.backend import Backend
from ckncuda.data.source import format_shape
from ckncuda.images.sources import Images
from ckncuda.model.model import load
from ckncuda.studies.speed import RandomImages, Speed, measure_speed

from . import options
from .progress import ProgressBars


@click.command()
@click.argument("model")
@click.argument("images", required=False)
@click.option(
    "-n",
    "--images",
    "n",
    type=options.POSITIVE,
    help="How many images to measure with. [default: as many as take a third of a second]",
)
@click.option(
    "--repeats",
    type=options.POSITIVE,
    default=5,
    show_default=True,
    help="Passes over the images, of which the median counts.",
)
@options.images
@options.backend
@options.printed
def bench(
    model: str,
    images: str | None,
    n: int | None,
    repeats: int,
    how: options.ImageOptions,
    engine: Backend,
) -> options.Printed:
    """Measure how many images a second MODEL takes on this machine, stage by stage.

    Takes IMAGES, then reading them is a stage too, or random images of the size that MODEL was
    fitted on.  The last line, all, is the whole way from images to scores, or to features where
    MODEL has no classifier.

    \b
    Examples:
        ckn bench model.ckn
        ckn bench model.ckn Xte.csv --images 1000 --threads 1
    """
    if images is None and any(how):
        raise click.UsageError("--format, --image-shape and --split say how to read IMAGES: give IMAGES")
    loaded = load(model)
    source: contextlib.AbstractContextManager[Images] = (
        contextlib.nullcontext(RandomImages(loaded, engine))
        if images is None
        else options.opened(images, how, "Measuring with", loaded.image_shape)
    )
    with source as measured, ProgressBars() as progress:
        speed = measure_speed(loaded, measured, engine, n=n, repeats=repeats, progress=progress)
    result = {
        "model": model,
        "images": images,
        "image_shape": list(measured.shape[1:]),
        "n_images": speed.n_images,
        "repeats": repeats,
        "backend": engine.name,
        "description": engine.description,
        "stages": _rows(speed, reading=images is not None),
    }
    return result, _lines(result)


def _rows(speed: Speed, reading: bool) -> list[dict[str, Any]]:
    """One row for each stage, the last for all; reading random images is no stage."""
    seconds = {name: s for name, s in speed.seconds.items() if reading or name != "reading"}
    return [
        {
            "stage": name,
            "images_per_second": speed.n_images / s,
            "ms_per_1000_images": 1e6 * s / speed.n_images,
            "share": s / speed.total,
        }
        for name, s in [*seconds.items(), ("all", speed.total)]
    ]


def _lines(result: dict[str, Any]) -> list[str]:
    rows = result["stages"]
    width = max(len(row["stage"]) for row in rows)
    kind = "random images" if result["images"] is None else "images"
    return [
        f"{result['backend']}: {result['description']}",
        f"{result['n_images']:,} {kind} of {format_shape(result['image_shape'])}, "
        f"medians of {result['repeats']} passes",
        "",
        f"{'stage':<{width}}    images/s    ms per 1,000    share",
        *(
            f"{row['stage']:<{width}}  {_number(row['images_per_second']):>10}"
            f"  {_number(row['ms_per_1000_images']):>14}  {row['share']:>7.1%}"
            for row in rows
        ),
    ]


def _number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
