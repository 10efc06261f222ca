"""`ckn fit`: from images to a model file."""

import contextlib
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.data import ImageSource, read_labels
from ckncuda.encoder import EncoderSpec
from ckncuda.errors import InvalidData
from ckncuda.images import Images, as_images
from ckncuda.model import Model
from ckncuda.network import PATCHES
from ckncuda.presets import PRESETS
from ckncuda.stopwatch import Stopwatch

from .network_options import CLASSIFIERS, read_system
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

PRESET_HELP = "; ".join(f"{name}: {p.summary}" for name, p in PRESETS.items()) + ". [default: default]"


class Regularization(click.ParamType[Any]):
    """A positive number, or auto."""

    name = "auto|X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """The number, or ``auto``."""
        if value == "auto":
            return "auto"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number")


@click.command()
@click.argument("images")
@click.option("-o", "--output", required=True, help="The model file to write, such as model.ckn.")
@click.option("--labels", help="Labels: CSV (Id,Prediction), .npy or IDX; by default those in IMAGES.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help=PRESET_HELP)
@click.option("--config", help="A TOML file that describes the network.")
@click.option("--layer", multiple=True, help="One layer, from the image upwards; may be given several times.")
@click.option(
    "--preprocess",
    multiple=True,
    help="auto, none, standardize, local_whitening or zca, with options as in zca,epsilon=0.1; may be given "
    "several times. [default: auto, which is local_whitening for raw images, a mild zca for whitened ones]",
)
@click.option(
    "--flip/--no-flip",
    default=None,
    help="Average the features over an image and its mirror image. [default: as the preset says, or not]",
)
@click.option(
    "--shift",
    type=int,
    help="Average the features over shifts by so many pixels in four directions. [default: 0, which is none]",
)
@click.option(
    "--classifier",
    type=click.Choice([*CLASSIFIERS, "none"]),
    help="On the features. [default: as the preset says, kernel-ridge; without one, ridge]",
)
@click.option("--regularization", type=Regularization(), help="λ, chosen on training images by default.")
@click.option(
    "--kernel",
    help="For kernel-ridge and nystrom-ridge: arccos1, exp,sigma=1, poly,degree=2,offset=1 and so on; "
    "or auto, which is exp with its sigma chosen on training images. [default: as the preset says, or auto]",
)
@click.option(
    "--landmarks", type=int, help="For nystrom-ridge: images that span the solution. [default: 8000]"
)
@click.option("--optimizer", type=click.Choice(["lbfgs", "sgd"]), help="For softmax. [default: lbfgs]")
@click.option(
    "--validation",
    type=float,
    help="Fraction held out to measure accuracy; softmax and squared-hinge choose λ on it. "
    "[default: 0.1; for the kinds of ridge 0, which is leave-one-out]",
)
@click.option(
    "--patches",
    type=click.IntRange(min=1),
    help=f"Sampled for each layer. [default: {PATCHES:,}, or as the preset says]",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For everything random."
)
@image_options
@backend_options
@json_option
def fit(
    images: str,
    output: str,
    labels: str | None,
    preset: str | None,
    config: str | None,
    layer: tuple[str, ...],
    preprocess: tuple[str, ...],
    flip: bool | None,
    shift: int | None,
    classifier: str | None,
    patches: int | None,
    seed: int,
    how: ImageOptions,
    engine: Backend,
    as_json: bool,
    **classifier_options: Any,
) -> None:
    """Learn a model from IMAGES and write it to a file.

    The anchor points are learned without labels; with labels, a classifier is fitted on the
    features.  IMAGES is the challenge's CSV, .npy, .npz, a CIFAR or MNIST folder or file, or a
    folder of images.

    \b
    Examples:
        ckn fit Xtr.csv --labels Ytr.csv -o model.ckn
        ckn fit cifar-10-batches-bin --preprocess zca --classifier softmax -o cifar.ckn
        ckn fit photos/ --layer "filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6" -o photos.ckn
    """
    stopwatch = Stopwatch()
    check_outputs([output], [images, labels, config])
    with (
        stopwatch.stage("reading"),
        opened(images, how._replace(split=how.split or "train"), "Fitting on") as source,
        ProgressBars() as progress,
    ):
        shape = source.shape[1:]
        system = read_system(
            len(source),
            shape,
            preset,
            config,
            layer,
            preprocess,
            {"flip": flip, "shift": shift},
            classifier,
            classifier_options,
        )
        for spec in system.encoders:
            spec.output_shape(shape)
        targets = _labels(labels, source)
        learner = system.make_classifier(seed)
        if learner is not None:
            learner.check_options()
        if learner is not None and targets is None:
            if classifier is not None:
                raise InvalidData(f"{images} holds no labels: give --labels, or --classifier none")
            click.echo("No labels: the model will extract features, but not predict.", err=True)
            learner = None
        cached = _in_memory(source, engine.memory_budget // 2, progress)
        with stopwatch.stage("preprocessing"):
            specs = [_resolved(spec, as_images(cached)) for spec in system.encoders]
        model = Model.fit(
            cached,
            targets,
            specs,
            classifier=learner,
            patches=patches or system.patches,
            seed=seed,
            backend=engine,
            progress=progress,
            stopwatch=stopwatch,
        )
        model.class_names = source.class_names
    with stopwatch.stage("writing"):
        model.save(output)
    result = {
        "model": output,
        **model.report,
        "seconds": report_seconds(stopwatch),
        "peak_memory": peak_memory(),
        "backend": engine.name,
    }
    print_result(result, as_json, _lines(result, model))


def _resolved(spec: EncoderSpec, images: Images) -> EncoderSpec:
    """With the preprocessing that the images suggest, if it is left open; says so."""
    resolved = spec.resolved(images)
    if spec.preprocessing is None:
        names = ", ".join(p.name for p in resolved.preprocessing or ()) or "none"
        click.echo(f"Preprocessing: {names}", err=True)
    return resolved


def _labels(path: str | None, source: ImageSource) -> NDArray[np.int64] | None:
    return read_labels(path, len(source)) if path else source.labels


def _in_memory(source: ImageSource, limit: int, progress: ProgressBars) -> Images | NDArray[Any]:
    """Hold the images in memory where they fit: each layer reads them all, and text is slow to read."""
    n = len(source)
    if n * int(np.prod(source.shape[1:])) * source.dtype.itemsize > limit:
        return source
    array = np.empty(source.shape, source.dtype)
    size = max(1, n // 100)
    for start in range(0, n, size):
        stop = min(start + size, n)
        array[start:stop] = source.read(start, stop)
        progress("reading", stop, n)
    return array


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    with contextlib.suppress(OSError):  # Linux; there, getrusage counts what its parent held, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(result: dict[str, Any], model: Model) -> list[str]:
    lines = []
    if model.classifier is not None and result["validation_accuracy"] is not None:
        lines.append(f"validation accuracy {result['validation_accuracy']:.4f} ({result['validation']})")
    lines.append(f"{result['n_features']} features an image, {model.n_parameters:,} parameters")
    lines.append(f"{shown_seconds(result['seconds'])}, peak memory {result['peak_memory'] / 2**20:.0f} MiB")
    lines.append(f"wrote {result['model']}")
    return lines
