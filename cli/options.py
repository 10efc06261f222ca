"""Options that several commands share, their types, and what becomes of them."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend import NAMES, get_backend
from ckncuda.backend.numpy import available_threads, usable_cores
from ckncuda.data import ImageSource, open_images, read_labels
from ckncuda.data.open import FORMATS, find_format
from ckncuda.errors import InvalidData, InvalidModelFile
from ckncuda.files.atomic_file import check_writable
from ckncuda.files.foreign import BEGIN, kind_of
from ckncuda.files.regular_file import open_regular
from ckncuda.model.model import Model, load
from ckncuda.progress import Report
from ckncuda.types import Shape

from .output import say, show
from .progress import ProgressBars

Command = Callable[..., Any]
Printed = tuple[dict[str, Any], list[str]]
"""One JSON object, or lines for people: a command prints either."""

MODEL_HEADER = b'{"'  # in the bytes 8 and 9 of a model, damaged or not
POSITIVE = click.IntRange(min=1)
_STAGES = ("reading", "preprocessing", "anchors", "training", "features", "classifier", "writing")
if TYPE_CHECKING:
    _OfText = click.ParamType[str]
else:  # before 8.4 click has no such thing
    _OfText = click.ParamType
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Text(_OfText):
    """A text that is not blank, such as a path: an unset variable of a shell leaves an empty one."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or refuse it."""
        if not str(value).strip():
            self.fail(f"it is {'blank' if value else 'empty'} (an unset shell variable?)", param, ctx)
        return str(value)


TEXT = Text()


class Commands(click.Group):
    """Commands none of whose texts may be empty."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command."""
        for parameter in cmd.params:
            if parameter.type is click.STRING:
                parameter.type = TEXT
        super().add_command(cmd, name)


def memory_size(text: str) -> int:
    """Read an amount of memory, such as 2GiB, 500M or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or len(match[1]) > 20:  # a longer number need not be finite
        raise click.BadParameter(f"{text!r} is not an amount of memory; give something like 2GiB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def image_size(text: str) -> Shape:
    """Read height x width x channels, such as 32x32x3; 28x28 means one channel."""
    match = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", text.strip())
    if match is None or "0" in match.groups():
        raise click.BadParameter(
            f"{text!r} is not an image shape; give height x width x channels, such as 32x32x3"
        )
    return int(match[1]), int(match[2]), int(match[3] or 1)


class ImageOptions(NamedTuple):
    """Values of the options that say how to read IMAGES, where it is not found out."""

    format: str | None
    image_shape: Shape | None
    split: str | None


def images(command: Command) -> Command:
    """Add the options that say how to read IMAGES; the command takes them as ``how``, `ImageOptions`."""

    @click.option("--format", type=click.Choice(FORMATS), help="Format of IMAGES, where it is not found out.")
    @click.option(
        "--image-shape",
        type=image_size,
        metavar="HXWXC",
        help="Height x width x channels of CSV rows, found out for 32x32x3 and 28x28x1; of an array whose "
        "channels come first; of a single image.",
    )
    @click.option(
        "--split",
        type=click.Choice(["train", "test"]),
        help="Which part of a data set that holds both (folders with train and test, CIFAR, MNIST, npz).",
    )
    @functools.wraps(command)
    def with_how(**options: Any) -> Any:
        how = ImageOptions(**{name: options.pop(name) for name in ImageOptions._fields})
        return command(how=how, **options)

    return with_how


def backend(command: Command) -> Command:
    """Add the options of where to compute, with how much; the command takes a `Backend` as ``engine``."""

    @click.option(
        "--backend",
        "name",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", *NAMES]),
        help="Where to compute; see ckn backends.",
    )
    @click.option(
        "--precision",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "tf32", "bfloat16"]),
        help="Of the products with the anchors on a GPU: the latter two are faster and less exact.",
    )
    @click.option(
        "--memory",
        type=memory_size,
        metavar="SIZE",
        help="Memory, such as 2GiB, that the work keeps to above that of the program itself, about 180 MiB; "
        "what needs more is refused before it. [default: 2GiB for blocks of images, no bound on the rest]",
    )
    @click.option(
        "--threads",
        type=POSITIVE,
        help="CPU threads. [default: one a core that this process may use, or OMP_NUM_THREADS]",
    )
    @functools.wraps(command)
    def with_engine(
        name: str, precision: str, memory: int | None, threads: int | None, **options: Any
    ) -> Any:
        _limit_blas(threads)
        engine = get_backend(name, threads=threads, memory=memory, precision=precision)
        return command(engine=engine, **options)

    return with_engine


def _limit_blas(threads: int | None) -> None:
    """Give BLAS no more threads than were asked for, in the whole process, nor more than there are cores.

    Its threads wait for work by turning round: more of them than cores keep one another from it.
    """
    cores = usable_cores()
    if threads is None and cores == (os.cpu_count() or 1):
        return  # as many as it takes anyway
    import scipy.linalg  # noqa: F401  (brings a BLAS of its own, which is to be limited too)

    threadpoolctl.threadpool_limits(min(threads or available_threads(), cores))


labels = click.option(
    "--labels", help="Labels: CSV (Id,Prediction), .npy or IDX; by default those in IMAGES."
)
seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For everything random."
)


def printed(command: Callable[..., Printed]) -> Command:
    """Add --json, and print what the command returns: one JSON object, or the lines for people."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    @functools.wraps(command)
    def printing(as_json: bool, **options: Any) -> None:
        result, lines = command(**options)
        # Escaped by JSON's own rules, DEL too: so it is shown as it is.
        show([json.dumps(result).replace("\x7f", "\\u007f")] if as_json else lines)

    return printing


@contextlib.contextmanager
def opened(
    path: str, how: ImageOptions, purpose: str, shape: Shape | None = None, split: str | None = None
) -> Iterator[ImageSource]:
    """Open IMAGES; say on standard error what was found.

    CSV rows have the shape of a model, pictures its channels, and the split is this one, where the options
    give no other.
    """
    with _opened(path, how, shape, split) as source:
        say(f"{purpose} {source.description}")
        for note in source.notes:
            say(f"Note: {note}")
        yield source


def _opened(path: str, how: ImageOptions, shape: Shape | None, split: str | None) -> ImageSource:
    """Open IMAGES as the options say, and as a model takes them where they say nothing."""
    channels = None if shape is None else shape[2]
    choices: dict[str, Any] = {"format": how.format, "split": how.split or split, "channels": channels}
    if how.image_shape is None and shape is not None and os.path.isfile(path):
        kind = how.format or find_format(path)
        if kind == "csv":
            return open_images(path, image_shape=shape, **choices)
        if kind in ("npy", "npz", "idx"):
            # Arrays of the model's shape are read so even if they look as if they were something else.
            with contextlib.suppress(InvalidData):
                return open_images(path, image_shape=shape, **choices)
    return open_images(path, image_shape=how.image_shape, **choices)


def load_model(path: str) -> Model:
    """Load a model; say what a file is that is none, such as images that were given in its place."""
    try:
        return load(path)
    except InvalidModelFile as error:
        with contextlib.suppress(InvalidData, OSError):  # then the model's reader has said all there is
            with open_regular(path) as file:
                begin = file.read(BEGIN)
            if begin[8:10] != MODEL_HEADER and kind_of(begin) is None and not path.endswith(".ckn"):
                what = find_format(path)
                raise InvalidModelFile(
                    f"{path} is no model, but images ({what}): give the model first, as in"
                    " ckn predict MODEL IMAGES"
                ) from error
        raise


@contextlib.contextmanager
def reading(
    model: str, path: str, how: ImageOptions, purpose: str
) -> Iterator[tuple[Model, ImageSource, Report]]:
    """Load MODEL and open IMAGES for it; the report shows bars, and counts as reading what no stage does."""
    bars = ProgressBars()
    report = Report(bars)
    with report.stage("reading"), bars:
        loaded = load_model(model)
        with opened(path, how, purpose, loaded.image_shape) as source:
            yield loaded, source, report


def names_of(model: Model) -> tuple[str, ...] | None:
    """Return the names of a model's classes, if it has one for each."""
    names = model.class_names
    if names is None or model.classifier is None or int(model.classifier.classes_.max()) >= len(names):
        return None
    return names


def read_targets(labels: str | None, source: ImageSource) -> NDArray[np.int64] | None:
    """Return the labels in a file or, where none is given, those in IMAGES, if there are any."""
    if labels is None:
        return source.labels
    targets = read_labels(labels, len(source))
    files: tuple[str, ...] = getattr(source, "files", ())
    if list(files) != sorted(files):
        ends = f"1 {files[0]} to {len(files)} {files[-1]}"
        say(f"Note: labels are those of the files in natural order, {ends}")
    return targets


def needed_targets(
    path: str, labels: str | None, source: ImageSource, advice: str = ": give --labels"
) -> NDArray[np.int64]:
    """Return what `read_targets` does, or raise `InvalidData` where there are no labels."""
    targets = read_targets(labels, source)
    if targets is None:
        raise InvalidData(f"{path} holds no labels{advice}")
    return targets


def check_outputs(outputs: Iterable[str | None], inputs: Sequence[str | None]) -> None:
    """Raise `InvalidData`, before any work, if a file cannot be written or would replace what is read."""
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
