"""Options that several commands share, their types, and what becomes of them."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import click
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend import NAMES, get_backend
from ckncuda.data import ImageSource, open_images, read_labels
from ckncuda.data.open import FORMATS, find_format
from ckncuda.errors import InvalidData
from ckncuda.files.atomic_file import check_writable
from ckncuda.progress import Report

Command = Callable[..., Any]

_STAGES = ("reading", "preprocessing", "anchors", "features", "classifier", "writing")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Memory(click.ParamType[int]):
    """An amount of memory, such as 2GiB, 500M or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
        if match is None or len(match[1]) > 20:  # a longer number need not be finite
            self.fail(f"{value!r} is not an amount of memory; give something like 2GiB or 500MiB")
        return int(float(match[1]) * _UNITS[match[2].upper()])


class ImageShape(click.ParamType[tuple[int, int, int]]):
    """Height x width x channels, such as 32x32x3."""

    name = "HxWxC"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int]:
        """Return height, width and channels; 28x28 means one channel."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", value.strip())
        if match is None or "0" in match.groups():
            self.fail(f"{value!r} is not an image shape; give height x width x channels, such as 32x32x3")
        return int(match[1]), int(match[2]), int(match[3] or 1)


class ImageOptions(NamedTuple):
    """Values of the options that say how to read IMAGES, where it is not found out."""

    format: str | None
    image_shape: tuple[int, int, int] | None
    split: str | None


def image_options(command: Command) -> Command:
    """Add the options that say how to read IMAGES; the command takes them as ``how``, `ImageOptions`."""

    @functools.wraps(command)
    def with_how(
        *args: Any,
        format_: str | None,
        image_shape: tuple[int, int, int] | None,
        split: str | None,
        **options: Any,
    ) -> Any:
        return command(*args, how=ImageOptions(format_, image_shape, split), **options)

    return _with_options(
        with_how,
        click.option(
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            help="Format of IMAGES, where it is not found out.",
        ),
        click.option(
            "--image-shape",
            type=ImageShape(),
            help="Height x width x channels of CSV rows; found out for 32x32x3 and 28x28x1.",
        ),
        click.option(
            "--split",
            type=click.Choice(["train", "test"]),
            help="Which part of a data set that holds both (CIFAR and MNIST folders, npz files).",
        ),
    )


def backend_options(command: Command) -> Command:
    """Add the options of where to compute, with how much; the command takes a `Backend` as ``engine``."""

    @functools.wraps(command)
    def with_engine(
        *args: Any, backend: str, memory: int | None, threads: int | None, precision: str, **options: Any
    ) -> Any:
        if threads is not None:
            import scipy.linalg  # noqa: F401  (brings a BLAS of its own, which is to be limited too)

            threadpoolctl.threadpool_limits(threads)  # of the whole process: classifiers too
        engine = get_backend(backend, threads=threads, memory=memory, precision=precision)
        return command(*args, engine=engine, **options)

    return _with_options(
        with_engine,
        click.option(
            "--backend",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", *NAMES]),
            help="Where to compute; see ckn backends.",
        ),
        click.option(
            "--precision",
            default="float32",
            show_default=True,
            type=click.Choice(["float32", "tf32", "bfloat16"]),
            help="Of the products with the anchors on a GPU: the latter two are faster and less exact.",
        ),
        click.option(
            "--memory", type=Memory(), help="Memory for blocks of images, such as 2GiB. [default: 2GiB]"
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all]"),
    )


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Apply decorators so that help lists them in the order in which they are given."""
    for option in reversed(options):
        command = option(command)
    return command


labels_option = click.option(
    "--labels", help="Labels: CSV (Id,Prediction), .npy or IDX; by default those in IMAGES."
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For everything random."
)


def json_option(command: Command) -> Command:
    """Add --json, for one JSON object on standard output."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    return option(command)


@contextlib.contextmanager
def opened(
    path: str, how: ImageOptions, purpose: str, model_shape: tuple[int, int, int] | None = None
) -> Iterator[ImageSource]:
    """Open IMAGES, CSV rows in the shape that the model knows; say on standard error what was found."""
    image_shape = how.image_shape
    if image_shape is None and model_shape is not None and os.path.isfile(path):
        image_shape = model_shape if (how.format or find_format(path)) == "csv" else None
    source = open_images(path, format=how.format, image_shape=image_shape, split=how.split)
    with source:
        click.echo(f"{purpose} {source.description}", err=True)
        yield source


def read_targets(labels: str | None, source: ImageSource) -> NDArray[np.int64] | None:
    """Return the labels in a file or, where none is given, those in IMAGES, if there are any."""
    return read_labels(labels, len(source)) if labels else source.labels


def needed_targets(
    images: str, labels: str | None, source: ImageSource, advice: str = ": give --labels"
) -> NDArray[np.int64]:
    """Return what `read_targets` does, or raise `InvalidData` where there are no labels."""
    targets = read_targets(labels, source)
    if targets is None:
        raise InvalidData(f"{images} holds no labels{advice}")
    return targets


def check_outputs(outputs: Iterable[str | None], inputs: Iterable[str | None]) -> None:
    """Raise `InvalidData`, before any work, if a file cannot be written or would replace what is read."""
    inputs = list(inputs)
    for output in filter(None, outputs):
        check_no_input(output, inputs)
        check_writable(output)


def check_no_input(output: str, inputs: Iterable[str | None]) -> None:
    """Raise `InvalidData` if an output would replace what is read."""
    for source in filter(None, inputs):
        if os.path.realpath(output) == os.path.realpath(source):
            raise InvalidData(f"{output} would be overwritten, but it is an input: give another output")


def report_seconds(report: Report) -> dict[str, float]:
    """Return the seconds of each stage, in the order of the work, and in all."""
    known = report.seconds
    return {stage: known[stage] for stage in _STAGES if stage in known} | {"total": report.total}


def shown_seconds(seconds: dict[str, float]) -> str:
    """Return the total and, in brackets, the stages that it is made of."""
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    return f"{seconds['total']:.1f} s ({stages})"


def print_result(result: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    """Print either one JSON object or the lines for people."""
    click.echo(json.dumps(result) if as_json else "\n".join(lines))
