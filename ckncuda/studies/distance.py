"""Distances between networks with anchor points and the exact kernels that they approximate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.gram import gram
from ckncuda.exact.kernel import ExactKernel
from ckncuda.images.sources import Images, as_images
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.network.network import CKN, PATCHES
from ckncuda.progress import Progress, Report
from ckncuda.types import Array


@dataclass(frozen=True)
class Distance:
    """Distance of a network from its exact kernel.

    Attributes
    ----------
    filters : tuple of int
        Anchor points of each layer.
    distance : float
        ‖F Fᵀ − K‖ / ‖K‖, in the Frobenius norm, with F the network's features of some images and K their
        exact kernel.
    centred : float
        The same with both matrices centred, as a classifier with an intercept sees them: what all images have
        in common is the larger part of a kernel, and says little of how it tells them apart.
    seconds : float
        What fitting the network and its features took; 0 for a network that was fitted before.
    """

    filters: tuple[int, ...]
    distance: float
    centred: float
    seconds: float


def nystrom_distances(
    images: Images | NDArray[Any],
    specs: Sequence[KernelLayer | LayerSpec] | ExactKernel,
    filters: Sequence[int] = (16, 64, 256, 1024),
    *,
    exact: Array | None = None,
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
    specs : sequence of KernelLayer or LayerSpec, or ExactKernel
        From the image upwards; ``filters`` are replaced.  A tangent kernel has no such network.
    filters : sequence of int
        For each network the number of anchor points of all its layers.
    exact : [n, n], optional
        The exact kernel of the images, where it has been computed before.
    patches, seed, backend, progress
        See `CKN.fit`.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> few, many = nystrom_distances(images, [layer], [4, 64])
    >>> few.distance > many.distance
    True
    """
    kernel = specs if isinstance(specs, ExactKernel) else ExactKernel(specs)
    if kernel.tangent:
        raise InvalidSpec("a tangent kernel is not approximated by anchor points: leave tangent out")
    if kernel.flip:
        raise InvalidSpec("distances are measured without mirror images: leave flip out")
    engine = shared_backend(backend)
    images = as_images(images)
    if exact is None:
        exact = gram(images, kernel, backend=engine, progress=progress)
    distances = []
    for number in filters:
        start = time.perf_counter()
        network = CKN([layer.with_anchors(number) for layer in kernel.layers])
        report = Report.of(progress).labelled(f"{number} anchor points")
        network.fit(images, patches=patches, seed=seed, backend=engine, progress=report)
        features = _features(network, images, engine)
        seconds = time.perf_counter() - start
        distances.append(Distance((number,) * len(kernel.layers), *_distances(features, exact), seconds))
    return distances


def network_distance(
    network: CKN,
    images: Images | NDArray[Any],
    *,
    exact: Array | None = None,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> Distance:
    """Compare a network that is fitted already with its exact kernel, on images as the network takes them.

    The arguments are those of `nystrom_distances`.  No layer may decorrelate its outputs, as no exact kernel
    does.
    """
    engine = shared_backend(backend)
    kernel = ExactKernel([layer.spec for layer in network.layers])
    if exact is None:
        exact = gram(images, kernel, backend=engine, progress=progress)
    features = _features(network, as_images(images), engine)
    return Distance(tuple(layer.spec.filters for layer in network.layers), *_distances(features, exact), 0.0)


def _features(network: CKN, images: Images, backend: Backend) -> Array:
    maps = np.asarray(network.transform(images, backend=backend))
    return maps.reshape(len(maps), -1)


def _distances(features: Array, exact: Array) -> tuple[float, float]:
    """Compute ‖F Fᵀ − K‖ / ‖K‖, and the same of centred matrices."""
    kernel = exact.astype(np.float64)
    double = features.astype(np.float64)
    difference = double @ double.T - kernel
    if not np.linalg.norm(_centred(kernel)) > 1e-9 * np.linalg.norm(kernel):
        found = "there is only 1 image" if len(kernel) == 1 else f"the {len(kernel)} images are all alike"
        raise InvalidData(f"{found}: give images that differ")
    whole = np.linalg.norm(difference) / np.linalg.norm(kernel)
    centred = np.linalg.norm(_centred(difference)) / np.linalg.norm(_centred(kernel))
    return float(whole), float(centred)


def _centred(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute H M H with H = I − 11ᵀ/n."""
    centred: NDArray[np.float64] = matrix - matrix.mean(axis=0)
    centred -= centred.mean(axis=1)[:, None]
    return centred
