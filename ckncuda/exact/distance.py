"""How far a network with anchor points is from the exact kernel that it approximates."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.atomic_file import atomic_file
from ckncuda.backend import Backend, get_backend
from ckncuda.errors import CknError, InvalidSpec
from ckncuda.exact.gram import gram
from ckncuda.exact.kernel import ExactKernel
from ckncuda.images import Images, as_images
from ckncuda.network import CKN, PATCHES
from ckncuda.progress import Progress, labelled

NEEDS = "the plot needs matplotlib; install it with: pip install 'ckncuda[demo]'"


class PlotUnavailable(CknError):
    """Matplotlib is not installed."""


@dataclass(frozen=True)
class Distance:
    """How far a network is from its exact kernel.

    Attributes
    ----------
    filters : tuple of int
        Anchor points of each layer.
    distance : float
        ‖F Fᵀ − K‖ / ‖K‖, in the Frobenius norm, with F the network's features of some images and K their
        exact kernel.
    seconds : float
        What fitting the network and its features took; 0 for a network that was fitted before.
    """

    filters: tuple[int, ...]
    distance: float
    seconds: float


def nystrom_distances(
    images: Images | npt.NDArray[Any],
    specs: Sequence[Any] | ExactKernel,
    filters: Sequence[int] = (16, 64, 256, 1024),
    *,
    exact: npt.NDArray[np.floating[Any]] | None = None,
    patches: int = PATCHES,
    seed: int = 0,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> list[Distance]:
    """Fit a network with each number of anchor points on images, and compare it with its exact kernel.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
        A few hundred are enough; the time of the exact kernel grows with their square.
    specs : sequence of LayerSpec, or ExactKernel
        From the image upwards; their ``filters`` are replaced.  A tangent kernel has no such network.
    filters : sequence of int
        For each network the number of anchor points of all its layers.
    exact : [n, n], optional
        The exact kernel of the images, where it has been computed before.
    patches, seed
        See `CKN.fit`.
    backend : Backend or str
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    distances : list of Distance
        In the order of ``filters``.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    >>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> few, many = nystrom_distances(images, [layer], [4, 64])
    >>> few.distance > many.distance
    True
    """
    kernel = specs if isinstance(specs, ExactKernel) else ExactKernel(specs)
    _check_comparable(kernel)
    engine = get_backend(backend) if isinstance(backend, str) else backend
    images = as_images(images)
    if exact is None:
        exact = gram(images, kernel, backend=engine, progress=progress)
    distances = []
    for number in filters:
        start = time.perf_counter()
        network = CKN([replace(layer, filters=number) for layer in kernel.layers])
        network.fit(
            images,
            patches=patches,
            seed=seed,
            backend=engine,
            progress=labelled(progress, f"{number} anchor points"),
        )
        features = _features(network, images, engine)
        seconds = time.perf_counter() - start
        distances.append(Distance((number,) * len(kernel.layers), _distance(features, exact), seconds))
    return distances


def network_distance(
    network: CKN,
    images: Images | npt.NDArray[Any],
    *,
    exact: npt.NDArray[np.floating[Any]] | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> Distance:
    """Compare a network that is fitted already with its exact kernel, on images as the network takes them.

    The arguments are those of `nystrom_distances`.

    Raises
    ------
    InvalidSpec
        A layer decorrelates its outputs, which no exact kernel does.
    """
    engine = get_backend(backend) if isinstance(backend, str) else backend
    kernel = ExactKernel([layer.spec for layer in network.layers])
    if exact is None:
        exact = gram(images, kernel, backend=engine, progress=progress)
    features = _features(network, as_images(images), engine)
    return Distance(tuple(layer.filters for layer in kernel.layers), _distance(features, exact), 0.0)


def plot_distances(
    distances: Sequence[Distance], path: str, title: str, given: Distance | None = None
) -> None:
    """Draw the distance against the number of anchor points, to a PNG file.

    Parameters
    ----------
    distances : sequence of Distance
    path : str
    title : str
    given : Distance, optional
        Of a network whose layers may differ in their anchor points: a line across.

    Raises
    ------
    PlotUnavailable
        Matplotlib is not installed.
    """
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", title=title)
    numbers = [each.filters[0] for each in distances]
    axes.plot(numbers, [each.distance for each in distances], "o-", color="tab:blue")
    for each in distances:
        axes.annotate(
            f"{each.distance:.2g}", (each.filters[0], each.distance), (6, 6), textcoords="offset points"
        )
    if given is not None:
        name = "/".join(map(str, given.filters))
        axes.axhline(given.distance, color="tab:orange", linestyle="--")
        axes.annotate(
            f"this network, {name}: {given.distance:.2g}",
            (0.02, given.distance),
            (0, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color="tab:orange",
        )
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("anchor points of each layer")
    axes.set_ylabel("relative Frobenius distance to the exact kernel")
    axes.margins(x=0.12, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    with atomic_file(path) as file:
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it where it is installed, in part
        canvas.print_png(file)


def check_plotting() -> None:
    """Raise `PlotUnavailable` unless matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotUnavailable(NEEDS) from error


def _check_comparable(kernel: ExactKernel) -> None:
    if kernel.tangent:
        raise InvalidSpec("a tangent kernel is not approximated by anchor points: leave tangent out")
    if kernel.flip:
        raise InvalidSpec("distances are measured without mirror images: leave flip out")


def _features(network: CKN, images: Images, backend: Backend) -> npt.NDArray[np.floating[Any]]:
    maps = np.asarray(network.transform(images, backend=backend))
    return maps.reshape(len(maps), -1)


def _distance(features: npt.NDArray[np.floating[Any]], exact: npt.NDArray[np.floating[Any]]) -> float:
    """‖F Fᵀ − K‖ / ‖K‖, a few rows at a time."""
    squares, step = 0.0, max(1, (1 << 22) // len(exact))
    for start in range(0, len(exact), step):
        rows = slice(start, start + step)
        products = features[rows].astype(np.float64) @ features.T.astype(np.float64)
        squares += float(np.square(products - exact[rows]).sum())
    return float(np.sqrt(squares) / np.linalg.norm(exact))
