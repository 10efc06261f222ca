"""From images to their exact kernels with the images that a model was fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.backend.normed_maps import NormedMaps
from ckncuda.errors import InvalidData
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import TILE, read_maps
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.sources import ArrayImages
from ckncuda.network.encoder import preprocessed
from ckncuda.stopwatch import Stopwatch
from ckncuda.types import Shape

Array = NDArray[np.floating[Any]]

AT_ONCE = 16  # images at a time: there may be seconds of work in each


@dataclass(frozen=True)
class ExactEncoderSpec:
    """An exact kernel as an encoder that has seen no image yet.

    Parameters
    ----------
    kernel : ExactKernel
    preprocessing : sequence of Preprocessor, or None
        See `ckncuda.network.encoder.EncoderSpec`.
    """

    kernel: ExactKernel
    preprocessing: Sequence[Preprocessor] | None = ()

    def __post_init__(self) -> None:
        if self.preprocessing is not None:
            object.__setattr__(self, "preprocessing", tuple(self.preprocessing))


@dataclass(frozen=True, eq=False)
class ExactEncoder:
    """An encoder whose features of an image are its exact kernels with images that it keeps.

    Attributes
    ----------
    kernel : ExactKernel
    points : uint8 or float32 [m, h, w, c]
        Preprocessed: the training images, or those of them that are landmarks.
    preprocessing : tuple of Preprocessor
        Fitted, in the order in which they are applied.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> from ckncuda.backend import get_backend
    >>> images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    >>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> encoder = ExactEncoder(ExactKernel([layer]), images)
    >>> encoder.encode(images[:2], get_backend("numpy"), Stopwatch()).shape
    (2, 5)
    """

    kernel: ExactKernel
    points: NDArray[Any]
    preprocessing: tuple[Preprocessor, ...] = ()
    # By the type in which a backend computes, and which backend that is: norms may differ in rounding.
    _normed: dict[tuple[str, str], NormedMaps] = field(default_factory=dict, init=False, repr=False)

    def encode(self, images: Array, backend: Backend, stopwatch: Stopwatch) -> Array:
        """Kernels [b, m] of images [b, h, w, c] with the points, both where the backend computes."""
        if self.preprocessing:
            with stopwatch.stage("preprocessing"):
                images = preprocessed(images, self.preprocessing)
        return backend.asarray(self.kernels(images, backend))

    def kernels(self, images: Array | NormedMaps, backend: Backend) -> Array:
        """Kernels [b, m] of images that are preprocessed already, in the host's memory."""
        points = self.normed_points(backend)
        if not isinstance(images, NormedMaps):
            images = np.ascontiguousarray(backend.to_host(images), points.maps.dtype)
        normed = self.kernel.normed(images, backend)
        out = np.empty((len(normed), len(points)), points.maps.dtype)
        for start in range(0, len(points), TILE):
            columns = slice(start, start + TILE)
            out[:, columns] = self.kernel.block(normed, points[columns], backend)
        return out

    def normed_points(self, backend: Backend) -> NormedMaps:
        """The points and their norms, as this backend takes them; kept for the next images."""
        dtype = np.dtype(backend.dtype)
        key = backend.name, str(dtype)
        if key not in self._normed:
            maps = read_maps(ArrayImages(self.points), slice(0, len(self.points)), dtype)
            self._normed[key] = self.kernel.normed(maps, backend)
        return self._normed[key]

    def width(self, shape: Shape) -> int:
        """Number of features of an image of this shape: that of the points.

        Raises
        ------
        InvalidData
            The images are not of the points' shape.
        """
        if tuple(shape) != self.points.shape[1:]:
            given, own = ("x".join(map(str, each)) for each in (shape, self.points.shape[1:]))
            raise InvalidData(
                f"images are of {given}; they are compared with images of {own} (height x width x channels): "
                "give images of that size"
            )
        return len(self.points)

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """How many images to compare at a time; what stays in memory beside them is small."""
        return min(AT_ONCE, max(1, backend.images_per_block([], shape) // (1 + beside)))

    @property
    def n_parameters(self) -> int:
        """How many numbers it holds: those of its images."""
        return int(self.points.size)
