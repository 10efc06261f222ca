"""`ckn demo`: the whole main job on images that come along."""

from pathlib import Path

import click

from ckncuda.backend import Backend
from ckncuda.studies.demo import run_demo

from . import options
from .output import show
from .progress import ProgressBars


@click.command()
@click.option("-o", "--output", default="ckn-demo", show_default=True, help="Folder for the files.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For the split and the fit."
)
@options.backend
def demo(output: str, seed: int, engine: Backend) -> None:
    """Fit, extract and predict on 1,797 handwritten digits.

    Leaves a model, features, a submission and a picture, and says how many of the 500 digits that
    it did not train on it got right.

    \b
    Example:
        ckn demo -o ckn-demo
    """
    with ProgressBars() as progress:
        result = run_demo(Path(output), seed, engine, progress)
    show(f"wrote {path}" for path in result.files)
    accuracy = f"accuracy {result.accuracy:.4f} on {result.n_test} images it did not train on"
    show([f"{accuracy}, in {result.seconds:.1f} seconds"])
