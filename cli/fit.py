"""`ckn fit`: from images to a model file."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from ckncuda.backend import Backend
from ckncuda.data import ImageSource
from ckncuda.errors import InvalidSpec
from ckncuda.exact.on_disk.reading import open_gram
from ckncuda.model.configuration import read_toml
from ckncuda.model.fit import fit as learn
from ckncuda.model.model import Model
from ckncuda.model.presets import PRESETS
from ckncuda.model.system import CLASSIFIERS, System
from ckncuda.network.network import PATCHES
from ckncuda.progress import Report
from ckncuda.supervised.checkpoint import Checkpoints

from . import options, training_options
from .progress import ProgressBars, ProgressLines
from .system_options import OF_CLASSIFIERS, SystemOptions
from .training_options import TrainingOptions

PRESET_HELP = "; ".join(f"{name}: {p.summary}" for name, p in PRESETS.items()) + ". [default: default]"

ONLY_EXACT = ("tangent", "gram")
NOT_EXACT = ("preset", "shift", "classifier", "kernel", "optimizer", "patches", *training_options.NOT_EXACT)


def regularization(text: str) -> float | str:
    """Read a positive number, or auto."""
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither auto nor a number") from error


@click.command()
@click.argument("images")
@click.option("-o", "--output", required=True, help="The model file to write, such as model.ckn.")
@options.labels
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
@click.option(
    "--regularization", type=regularization, metavar="AUTO|X", help="λ, chosen on training images by default."
)
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
@click.option(
    "--optimizer",
    type=click.Choice(["lbfgs", "sgd", "adam"]),
    help="For softmax lbfgs or sgd; for --end-to-end adam or sgd. [default: lbfgs; adam, of chen5 sgd]",
)
@click.option(
    "--validation",
    type=float,
    help="Fraction held out to measure accuracy; softmax and squared-hinge choose λ on it, --end-to-end all "
    "that is to be chosen. [default: 0.1; for the kinds of ridge, without --end-to-end, 0: leave-one-out]",
)
@training_options.training_options
@click.option(
    "--patches",
    type=options.POSITIVE,
    help=f"Sampled for each layer. [default: {PATCHES:,}, or as the preset says]",
)
@options.seed
@options.images
@options.backend
@options.printed
def fit(
    images: str,
    output: str,
    labels: str | None,
    method: str,
    gram: tuple[str, ...],
    seed: int,
    how: options.ImageOptions,
    engine: Backend,
    **described: Any,
) -> options.Printed:
    """Learn a model from IMAGES and write it to a file.

    The anchor points are learned without labels, unless --end-to-end trains them; with labels, a classifier
    is fitted on the features.  IMAGES is the challenge's CSV, .npy, .npz, a CIFAR or MNIST folder or file,
    or a folder of images.

    With --method exact there are no anchor points: --layer or --config describe the kernel itself, and
    several [[encoders]] several kernels, whose weights are chosen.  The model keeps IMAGES, or --landmarks of
    them, and compares new images with them.

    \b
    Examples:
        ckn fit Xtr.csv --labels Ytr.csv -o model.ckn
        ckn fit cifar-10-batches-bin --preprocess zca --classifier softmax -o cifar.ckn
        ckn fit Xtr.csv --labels Ytr.csv --end-to-end --epochs 30 -o trained.ckn
        ckn fit photos/ --layer "filters=64,patch=3,subsampling=2,kernel=exp,sigma=0.6" -o photos.ckn
        ckn fit Xtr.csv --labels Ytr.csv --method exact --gram K.zarr -o exact.ckn
    """
    exact = method == "exact"
    _check_method(method, {"gram": gram} | described)
    history, resume = training_options.files(described)
    checkpoints = Checkpoints(f"{output}.checkpoint", resume)
    # Exact kernels may take hours, of which a log shall tell.
    progress = ProgressLines() if exact and not sys.stderr.isatty() else ProgressBars()
    report = Report(progress, progress.say)
    options.check_outputs([output, history], [images, labels, described["config"], resume, *gram])
    opened = options.opened(images, how, "Fitting on", split="train")
    with report.stage("reading"), opened as source, progress:
        targets = _targets(images, labels, source, exact, described)
        system = _system(method, described, source, report)
        trainings = training_options.trainings(system, targets is not None, history, resume)
        how_: dict[str, Any] = {"seed": seed, "backend": engine, "progress": report}
        how_ |= {"grams": [open_gram(path) for path in gram] or None, "checkpoints": checkpoints}
        with training_options.going_on(checkpoints):
            model = learn(source, targets, system=system, **how_)
    with report.stage("writing"):
        model.save(output)
        checkpoints.remove(trainings)
        if history is not None:
            training_options.write_history(history, model)
    result = {
        "model": output,
        **model.report,
        "seconds": options.report_seconds(report),
        "peak_memory": peak_memory(),
        "backend": engine.name,
    }
    return result, _lines(result, model)


def _targets(
    images: str, labels: str | None, source: ImageSource, exact: bool, described: dict[str, Any]
) -> Any:
    """Read the labels, if there are any; raise `InvalidData` if there are none where they are needed."""
    learns = exact or described["end_to_end"]
    if not learns and described["classifier"] in (None, "none"):
        return options.read_targets(labels, source)
    what = "exact kernels need" if exact else "--end-to-end needs"
    advice = f", which {what}: give --labels" if learns else ": give --labels, or --classifier none"
    return options.needed_targets(images, labels, source, advice)


def _check_method(method: str, options: dict[str, Any]) -> None:
    """Raise `InvalidSpec` if an option of the other method is given."""
    for name in NOT_EXACT if method == "exact" else ONLY_EXACT:
        if options[name] not in (None, (), False):
            advice = "" if method == "exact" else ", or give --method exact"
            shown = training_options.shown(name)
            raise InvalidSpec(f"{shown} does not apply to --method {method}: leave it out{advice}")


def _system(method: str, described: dict[str, Any], source: ImageSource, report: Report) -> System:
    """Return the system that the options describe, if it suits the images."""
    classifier_options = {name: described.pop(name) for name in OF_CLASSIFIERS}
    training = TrainingOptions.taken_from(described)
    options = SystemOptions(**described, classifier_options=classifier_options, training=training)
    shape = source.shape[1:]
    exact = method == "exact"
    system = options.of_exact_kernels(shape) if exact else options.of_networks(len(source), shape)
    system.check(shape)
    if exact and options.config and "classifier" in read_toml(options.config):
        report.tell(f"Classifier: that of {options.config} is left aside; exact kernels have ridge")
    return system


def peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError):  # Linux; there, getrusage counts what its parent held, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(result: dict[str, Any], model: Model) -> list[str]:
    peak = result["peak_memory"]
    memory = "" if peak is None else f", peak memory {peak / 2**20:.0f} MiB"
    lines = [
        f"{result['n_features']} features an image, {model.n_parameters:,} parameters",
        f"{options.shown_seconds(result['seconds'])}{memory}",
        f"wrote {result['model']}",
    ]
    if model.classifier is None or result["validation_accuracy"] is None:
        return lines
    return [f"validation accuracy {result['validation_accuracy']:.4f} ({result['validation']})", *lines]
