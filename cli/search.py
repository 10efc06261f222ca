"""`ckn search`: the best system within a time."""

import os
import re
import time
from dataclasses import asdict
from typing import Any

import click
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.data import ImageSource
from ckncuda.errors import InvalidData
from ckncuda.images.sources import class_names, in_memory, size_of
from ckncuda.studies.search.leaderboard import table
from ckncuda.studies.search.trials import SearchOptions, SearchResult, check_installed
from ckncuda.studies.search.trials import search as search_systems

from . import options
from .progress import ProgressBars

SHOWN = 10  # rows of the leaderboard
_UNITS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """Read a time, such as 90s, 10min, 2h or a number of seconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*(s|sec|min|m|h)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time; give something like 90s, 10min or 2h")
    return float(match[1]) * _UNITS[(match[2] or "").lower()]


@click.command()
@click.argument("images")
@click.option("-o", "--output", required=True, help="The model file to write, such as best.ckn.")
@options.labels
@click.option(
    "--time",
    "seconds",
    type=duration,
    metavar="TIME",
    default="10min",
    show_default=True,
    help="Of this run, such as 90s, 10min or 2h, the last fit included; the first system is fitted however "
    "long it takes. 0: only write the best that was found so far.",
)
@click.option(
    "--trials", type=options.POSITIVE, help="At most so many systems, those of earlier runs counted."
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Fraction of IMAGES that the search does not see and the best is measured on; 0: none.",
)
@click.option("--folder", help="Where the search is kept, to go on with it. [default: OUTPUT.search]")
@options.seed
@options.images
@options.backend
@options.printed
def search(
    images: str,
    output: str,
    labels: str | None,
    folder: str | None,
    how: options.ImageOptions,
    engine: Backend,
    **limits: Any,
) -> options.Printed:
    """Search for the best model of IMAGES within a time, and write it.

    Tries the presets of one network, then one network, preprocessing and classifier after another, each on a
    quarter of the images first, on half and on all while it is in the better half.  Needs the extra
    `search`.  The folder holds leaderboard.md and accuracy.png, accuracy against time.  The same
    command again, after Ctrl-C too, goes on where it stopped.

    \b
    Examples:
        ckn search Xtr.csv --labels Ytr.csv -o best.ckn --time 10min
        ckn search mnist.npz -o best.ckn --trials 30 --time 2h --hold-out 0
        ckn search photos/ -o best.ckn --folder photos-search --time 0
    """
    started = time.perf_counter()
    folder = folder or f"{output}.search"
    origin = {"images": os.path.realpath(images), "labels": os.path.realpath(labels) if labels else None}
    options.check_outputs([output], [images, labels])
    check_installed()
    with options.opened(images, how, "Searching on", split="train") as source, ProgressBars() as progress:
        targets = options.needed_targets(images, labels, source)
        try:
            found = search_systems(
                _all_images(source, engine.memory_budget // 2, progress),
                targets,
                folder,
                SearchOptions(**limits),
                backend=engine,
                origin=origin,
                progress=progress,
                tell=progress.say,
            )
        except KeyboardInterrupt:
            progress.say(f"{folder} holds what was found; the same command goes on with it")
            raise
        found.model.class_names = class_names(source, targets)
    found.model.save(output)
    result = {
        "model": output,
        "folder": folder,
        "best": asdict(found.best),
        "leaderboard": [asdict(row) for row in found.leaderboard],
        "counts": found.counts,
        **found.model.report["search"],
        "validation_accuracy": found.model.report["validation_accuracy"],
        "seconds": time.perf_counter() - started,
    }
    return result, _lines(found, output)


def _all_images(source: ImageSource, limit: int, progress: ProgressBars) -> NDArray[Any]:
    """Read all images: every trial reads them several times, in parts drawn at random."""
    size = size_of(source)
    if size > limit:
        raise InvalidData(
            f"the search holds all images in memory, here {size / 2**30:.1f} GiB, more than half of "
            f"--memory: give --memory {2 * size // 2**30 + 1}GiB or fewer images"
        )
    return in_memory(source, progress)


def _lines(found: SearchResult, output: str) -> list[str]:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    lines = table(found.leaderboard[:SHOWN])
    lines.append(
        f"trials: {counts}; validation accuracy {found.best.accuracy:.4f} is the best of "
        f"{found.counts['complete']}, and so optimistic"
    )
    if found.held_out_accuracy is not None:
        lines.append(
            f"accuracy {found.held_out_accuracy:.4f} on {found.n_held_out} images that the search did not "
            "see; then all images were fitted"
        )
    return [*lines, f"wrote {output}"]
