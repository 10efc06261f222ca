"""`ckn distance`: how far networks with anchor points are from their exact kernel."""

import dataclasses
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.errors import InvalidSpec
from ckncuda.exact import ExactKernel, gram
from ckncuda.images.preprocessed import PreprocessedImages, fit_preprocessing
from ckncuda.images.sources import Images
from ckncuda.model.model import load
from ckncuda.network.network import PATCHES
from ckncuda.studies.distance import Distance, network_distance, nystrom_distances
from ckncuda.studies.plots import check_plotting, draw_distances

from . import options
from .progress import ProgressBars
from .system_options import SystemOptions


def numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 1, separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < len(part) < 10 and int(part) > 0 for part in parts):
        shown = f"{text!r} is not a list of whole numbers"
        raise click.BadParameter(f"{shown}; give something like 16,64,256,1024")
    return tuple(map(int, parts))


@click.command()
@click.argument("images")
@click.option("-o", "--output", help="A plot, such as distance.png.")
@click.option(
    "--model",
    "path",
    help="A model file: how far its network is from its exact kernel, which has no decorrelation: its layers "
    "must have none, as of the presets those of seed.",
)
@click.option("--config", help="A TOML file that describes the layers, as of ckn fit.")
@click.option("--layer", multiple=True, help="One layer, from the image upwards; as of ckn gram.")
@click.option("--preprocess", multiple=True, help="As of ckn fit. [default: as --config says, or auto]")
@click.option(
    "--anchors",
    type=numbers,
    metavar="N,N,…",
    help="Anchor points of each layer of the networks to fit. [default: 16,64,256,1024; of a model none]",
)
@click.option(
    "--n-images",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="How many of the images, drawn at random, are compared with one another.",
)
@click.option(
    "--patches", type=options.POSITIVE, default=PATCHES, show_default=True, help="Sampled for each layer."
)
@options.seed
@options.images
@options.backend
@options.printed
def distance(
    images: str,
    output: str | None,
    path: str | None,
    anchors: tuple[int, ...] | None,
    n_images: int,
    patches: int,
    seed: int,
    how: options.ImageOptions,
    engine: Backend,
    **described: Any,
) -> options.Printed:
    """Compare networks with the exact kernel that they approximate with their anchor points.

    The distance is that of Gram matrices of some of IMAGES, ‖F Fᵀ − K‖ / ‖K‖ in the Frobenius norm, F the
    features of a network and K the exact kernel: 0.1 means a tenth; and that of the centred matrices.
    Networks are fitted on these images for each number of anchor points, or it is a model's that is
    compared, without its mirror images.

    \b
    Examples:
        ckn distance Xtr.csv -o distance.png
        ckn distance cifar-10-batches-bin --config net.toml --anchors 32,128,512
        ckn distance Xtr.csv --model model.ckn
    """
    if output is not None:
        check_plotting(output)
        options.check_outputs([output], [images, path, described["config"]])
    if path is not None and any(described.values()):
        raise InvalidSpec(
            "--model brings its layers and preprocessing: leave --config, --layer and --preprocess out"
        )
    loaded = load(path) if path is not None else None
    shape = None if loaded is None else loaded.image_shape
    with options.opened(images, how, "Comparing some of", shape) as source, ProgressBars() as progress:
        if loaded is not None:
            loaded.check_images(source)
            network, preprocessing = loaded.network, loaded.encoders[0].preprocessing
            kernel, anchors = ExactKernel([each.spec for each in network.layers]), anchors or ()
        else:
            encoder = SystemOptions(**described).one_kernel(source.shape[1:], ": give a file with one")
            kernel, anchors = encoder.kernel, anchors or (16, 64, 256, 1024)
            preprocessing = fit_preprocessing(source, encoder.resolved(source).preprocessing or (), progress)
        some = _some(PreprocessedImages(source, preprocessing), n_images, seed)
        exact = gram(some, kernel, backend=engine, progress=progress)
        distances = nystrom_distances(
            some, kernel, anchors, exact=exact, patches=patches, seed=seed, backend=engine, progress=progress
        )
        given = None if loaded is None else network_distance(network, some, exact=exact, backend=engine)
    if output is not None:
        draw_distances(distances, output, f"{len(some)} images, {_named(kernel)}", given)
    return _printed(distances, given, len(some), output)


def _some(images: Images, count: int, seed: int) -> NDArray[Any]:
    """Return so many of the images, drawn at random, in the order of the data set."""
    n = images.shape[0]
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:count])
    return np.concatenate([images.read(i, i + 1) for i in chosen.tolist()])


def _named(kernel: ExactKernel) -> str:
    """Return the layers, briefly."""
    return ", then ".join(
        f"{layer.kernel.name} {layer.shown_patch}/{layer.subsampling}" for layer in kernel.layers
    )


def _printed(
    distances: list[Distance], given: Distance | None, n: int, output: str | None
) -> options.Printed:
    result: dict[str, Any] = {
        "n_images": n,
        "distances": [dataclasses.asdict(each) for each in distances],
        "model": None if given is None else dataclasses.asdict(given),
        "plot": output,
    }
    lines = [
        f"relative Frobenius distance to the exact kernel of {n} images",
        f"{'anchor points':>14}  {'distance':>8}  {'centred':>8}  {'seconds':>8}",
    ]
    for each in [*distances, *([] if given is None else [given])]:
        points = "/".join(map(str, each.filters))
        seconds = f"{each.seconds:.1f}" if each.seconds else ""
        lines.append(f"{points:>14}  {each.distance:>8.4f}  {each.centred:>8.4f}  {seconds:>8}".rstrip())
    if output is not None:
        lines.append(f"wrote {output}")
    return result, lines
