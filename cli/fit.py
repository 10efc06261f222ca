"""`ckn fit`: from images to a model file."""

import contextlib
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.classifier import GramRidge
from ckncuda.data import ImageSource, read_labels
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact import ExactKernel
from ckncuda.exact.job import GramJob, seconds_a_pair
from ckncuda.exact.on_disk.reading import open_gram
from ckncuda.exact.tiles import Tiling
from ckncuda.images.preprocess import Preprocessor, suggested_preprocessing
from ckncuda.images.sources import Images, as_images
from ckncuda.model.fit import fit_exact
from ckncuda.model.model import Model
from ckncuda.model.presets import PRESETS
from ckncuda.network.network import PATCHES
from ckncuda.progress import Progress, Report

from .exact_options import read_exact_kernels
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
from .progress import ProgressBars, ProgressLines, shown_duration

PRESET_HELP = "; ".join(f"{name}: {p.summary}" for name, p in PRESETS.items()) + ". [default: default]"

ONLY_EXACT = {"tangent": "--tangent", "grams": "--gram"}
NOT_EXACT = {
    "preset": "--preset",
    "shift": "--shift",
    "classifier": "--classifier",
    "kernel": "--kernel",
    "optimizer": "--optimizer",
    "patches": "--patches",
}


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
@click.option(
    "--method",
    type=click.Choice(["nystrom", "exact"]),
    default="nystrom",
    show_default=True,
    help="nystrom: networks of anchor points, and a classifier on their features; exact: kernel ridge "
    "regression on the exact kernels of images, n²/2 pairs of them.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help=PRESET_HELP)
@click.option("--config", help="A TOML file that describes the network.")
@click.option(
    "--layer",
    multiple=True,
    help="One layer, from the image upwards; may be given several times. An exact kernel's has no filters.",
)
@click.option(
    "--preprocess",
    multiple=True,
    help="auto, none, standardize, local_whitening or zca, with options as in zca,epsilon=0.1; may be given "
    "several times. [default: auto, which is local_whitening for raw images, a mild zca for whitened ones]",
)
@click.option(
    "--flip/--no-flip",
    default=None,
    help="Average the features, or exact kernels, over images and their mirror images. "
    "[default: as the preset says, or not]",
)
@click.option(
    "--tangent/--no-tangent",
    default=None,
    help="With --method exact: the neural tangent kernel; of arccos1 layers.",
)
@click.option(
    "--gram",
    "grams",
    multiple=True,
    help="With --method exact: the matrix of IMAGES that ckn gram wrote, .npy or .zarr; one for each kernel.",
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
    "--landmarks",
    type=int,
    help="For nystrom-ridge and --method exact: images that span the solution. [default: 8000; all images]",
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
    method: str,
    how: ImageOptions,
    engine: Backend,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn a model from IMAGES and write it to a file.

    The anchor points are learned without labels; with labels, a classifier is fitted on the
    features.  IMAGES is the challenge's CSV, .npy, .npz, a CIFAR or MNIST folder or file, or a
    folder of images.

    With --method exact there are no anchor points: --layer or --config describe the kernel itself, and
    several [[encoders]] several kernels, whose weights are chosen.  The model keeps IMAGES, or --landmarks of
    them, and compares new images with them.

    \b
    Examples:
        ckn fit Xtr.csv --labels Ytr.csv -o model.ckn
        ckn fit cifar-10-batches-bin --preprocess zca --classifier softmax -o cifar.ckn
        ckn fit photos/ --layer "filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6" -o photos.ckn
        ckn fit Xtr.csv --labels Ytr.csv --method exact --gram K.zarr -o exact.ckn
    """
    stopwatch = Report()
    options = _options_of(method, options)
    check_outputs([output], [images, labels, options["config"], *options.get("grams", ())])
    with (
        stopwatch.stage("reading"),
        opened(images, how._replace(split=how.split or "train"), "Fitting on") as source,
        ProgressBars() as bars,
    ):
        targets = _labels(labels, source)
        if targets is None and method == "exact":
            raise InvalidData(f"{images} holds no labels, which exact kernels need: give --labels")
        if targets is None and options["classifier"] not in (None, "none"):
            raise InvalidData(f"{images} holds no labels: give --labels, or --classifier none")
        fit_model = _fit_exact if method == "exact" else _fit_networks
        # Exact kernels may take hours, of which a log shall tell.
        quiet = method == "exact" and not sys.stderr.isatty()
        progress = ProgressLines() if quiet else bars
        stopwatch._progress = progress
        model = fit_model(source, targets, engine, progress, stopwatch, **options)
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


def _options_of(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options without those of the other method; raises `InvalidSpec` if one of these is given."""
    foreign = NOT_EXACT if method == "exact" else ONLY_EXACT
    for name, option in foreign.items():
        if options[name] not in (None, ()):
            advice = "" if method == "exact" else ", or give --method exact"
            raise InvalidSpec(f"{option} does not apply to --method {method}: leave it out{advice}")
    return {name: value for name, value in options.items() if name not in foreign}


def _fit_networks(
    source: ImageSource,
    targets: NDArray[np.int64] | None,
    engine: Backend,
    progress: Progress,
    stopwatch: Report,
    *,
    preset: str | None,
    config: str | None,
    layer: tuple[str, ...],
    preprocess: tuple[str, ...],
    flip: bool | None,
    shift: int | None,
    classifier: str | None,
    patches: int | None,
    seed: int,
    **classifier_options: Any,
) -> Model:
    """Anchor points, and a classifier on the features."""
    shape = source.shape[1:]
    symmetries = {"flip": flip, "shift": shift}
    system = read_system(
        len(source), shape, preset, config, layer, preprocess, symmetries, classifier, classifier_options
    )
    for spec in system.encoders:
        spec.output_shape(shape)
    learner = system.make_classifier(seed)
    if learner is not None:
        learner.check_options()
    if learner is not None and targets is None:
        click.echo("No labels: the model will extract features, but not predict.", err=True)
        learner = None
    cached = _in_memory(source, engine.memory_budget // 2, progress)
    with stopwatch.stage("preprocessing"):
        specs = [
            replace(spec, preprocessing=_resolved(spec.preprocessing, cached)) for spec in system.encoders
        ]
    return Model.fit(
        cached,
        targets,
        specs,
        classifier=learner,
        patches=patches or system.patches,
        seed=seed,
        backend=engine,
        progress=stopwatch,
    )


def _fit_exact(
    source: ImageSource,
    targets: NDArray[np.int64] | None,
    engine: Backend,
    progress: Progress,
    stopwatch: Report,
    *,
    config: str | None,
    layer: tuple[str, ...],
    preprocess: tuple[str, ...],
    flip: bool | None,
    tangent: bool | None,
    grams: tuple[str, ...],
    regularization: float | str | None,
    landmarks: int | None,
    validation: float | None,
    seed: int,
) -> Model:
    """Kernel ridge regression on exact kernels."""
    described = read_exact_kernels(config, layer, preprocess, tangent, flip, source.shape[1:])
    if config and "classifier" in tomllib.loads(Path(config).read_text(encoding="utf-8")):
        click.echo(f"Classifier: that of {config} is left aside; exact kernels have ridge", err=True)
    kernels = [kernel for kernel, _ in described]
    matrices = [open_gram(path) for path in grams] or None
    ridge = GramRidge(
        "auto" if regularization is None else regularization, validation=validation or 0.0, seed=seed
    )
    cached = _in_memory(source, engine.memory_budget // 2, progress)
    with stopwatch.stage("preprocessing"):
        resolved = [(kernel, _resolved(preprocessing, cached)) for kernel, preprocessing in described]
    if matrices is None:
        with stopwatch.stage("features"):
            _say_plan(kernels, cached, landmarks, engine)
    return fit_exact(
        cached,
        targets,
        resolved,
        regularization=ridge.regularization,
        landmarks=landmarks,
        validation=ridge.validation,
        grams=matrices,
        seed=seed,
        backend=engine,
        progress=stopwatch,
    )


def _say_plan(kernels: list[ExactKernel], images: Images, landmarks: int | None, engine: Backend) -> None:
    """How many pairs of images there are to be compared, and how long that takes."""
    n = images.shape[0]
    tiling = Tiling(n, None if landmarks is None else min(landmarks, n))
    first = next(iter(tiling))
    seconds = sum(seconds_a_pair(GramJob(kernel, images), first, engine) for kernel in kernels)
    each = f" by each of {len(kernels)} kernels" if len(kernels) > 1 else ""
    click.echo(
        f"Plan: {tiling.pairs:,} pairs of images{each}, about {shown_duration(seconds * tiling.pairs)}",
        err=True,
    )


def _resolved(preprocessing: Sequence[Preprocessor] | None, images: Images) -> tuple[Preprocessor, ...]:
    """The preprocessing, or that which the images suggest, if it is left open; says so then."""
    if preprocessing is not None:
        return tuple(preprocessing)
    suggested = suggested_preprocessing(images)
    click.echo(f"Preprocessing: {', '.join(p.name for p in suggested) or 'none'}", err=True)
    return suggested


def _labels(path: str | None, source: ImageSource) -> NDArray[np.int64] | None:
    return read_labels(path, len(source)) if path else source.labels


def _in_memory(source: ImageSource, limit: int, progress: Progress) -> Images:
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
    return as_images(array)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    with contextlib.suppress(OSError):  # Linux; there, getrusage counts what its parent held, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

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
