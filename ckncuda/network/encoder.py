"""From images to features: preprocessing, a network, and the average over symmetries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.backend.arrays import as_float
from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import Preprocessor, suggested_preprocessing
from ckncuda.images.sources import ArrayImages, Images
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.spec import LayerSpec, check_specs
from ckncuda.network.network import CKN, PATCHES
from ckncuda.progress import Progress
from ckncuda.stopwatch import Stopwatch
from ckncuda.types import Shape

Array = NDArray[np.floating[Any]]

AT_ONCE = 256  # images that are preprocessed at a time


class ImageEncoder(Protocol):
    """What a model asks of its encoders, whether they are networks or exact kernels."""

    @property
    def preprocessing(self) -> tuple[Preprocessor, ...]:
        """Fitted, in the order in which they are applied."""
        ...

    @property
    def n_parameters(self) -> int:
        """How many numbers it has learned, or keeps."""
        ...

    def encode(self, images: Array, backend: Backend, stopwatch: Stopwatch) -> Array:
        """Features [b, …] of images [b, h, w, c], both where the backend computes."""
        ...

    def width(self, shape: Shape) -> int:
        """Number of features of an image of this shape; raises where such images do not fit."""
        ...

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """How many images to encode at a time, beside the features of so many other encoders."""
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """One way from images to features, before it has learned anything.

    Parameters
    ----------
    layers : sequence of LayerSpec
        The network, from the image upwards.
    preprocessing : sequence of Preprocessor, or None
        Applied in this order; what they learn, if anything, they learn when the encoder is fitted.  None: as
        the images suggest, see `ckncuda.images.preprocess.suggested_preprocessing`.
    symmetries : Symmetries
        Over which features are averaged.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> layer = LayerSpec(filters=64, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    >>> EncoderSpec([layer], symmetries=Symmetries(flip=True)).output_shape((32, 32, 3))
    (8, 8, 64)
    """

    layers: Sequence[LayerSpec]
    preprocessing: Sequence[Preprocessor] | None = ()
    symmetries: Symmetries = field(default_factory=Symmetries)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", CKN(self.layers).specs)
        if self.preprocessing is not None:
            object.__setattr__(self, "preprocessing", tuple(self.preprocessing))

    def resolved(self, images: Images) -> "EncoderSpec":
        """With the preprocessing that these images suggest, if it is left open."""
        if self.preprocessing is not None:
            return self
        return replace(self, preprocessing=suggested_preprocessing(images))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape (height, width, filters) of the features of an image (height, width, channels).

        Raises
        ------
        InvalidSpec
            The network or the shift does not fit such images.
        """
        if self.symmetries.shift >= min(shape[:2]):
            raise InvalidSpec(
                f"a shift of {self.symmetries.shift} leaves nothing of images of {shape[0]}x{shape[1]}"
            )
        return check_specs(self.layers, shape)[-1]


@dataclass(frozen=True, eq=False)
class Encoder:
    """One way from images to features, as it has been learned.

    Attributes
    ----------
    network : CKN
        Fitted.
    preprocessing : tuple of Preprocessor
        Fitted, in the order in which they are applied.
    symmetries : Symmetries
        Over which features are averaged.  They act on preprocessed images.
    """

    network: CKN
    preprocessing: tuple[Preprocessor, ...] = ()
    symmetries: Symmetries = field(default_factory=Symmetries)

    @classmethod
    def fit(
        cls,
        spec: EncoderSpec,
        images: Images,
        backend: Backend,
        *,
        patches: int = PATCHES,
        seed: int = 0,
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> "Encoder":
        """Learn preprocessing and network from images, without labels.

        The stopwatch is told of the stages reading, preprocessing and anchors.  See `CKN.fit` for the rest.
        """
        stopwatch = stopwatch or Stopwatch()
        preprocessing: tuple[Preprocessor, ...] = ()
        with stopwatch.stage("preprocessing"):
            prepared = _Preprocessed(images, (), backend, stopwatch)
            for preprocessor in spec.resolved(images).preprocessing or ():
                fitted = preprocessor.fit(prepared, progress)
                preprocessing += (fitted,)
                prepared = prepared.then(fitted)
        with stopwatch.stage("anchors"):
            network = CKN(spec.layers).fit(
                prepared, patches=patches, seed=seed, backend=backend, progress=progress
            )
        return cls(network, preprocessing, spec.symmetries)

    def encode(self, images: Array, backend: Backend, stopwatch: Stopwatch) -> Array:
        """Feature maps [n, h', w', filters] of images [n, h, w, c], both where the backend computes."""
        if self.preprocessing:
            with stopwatch.stage("preprocessing"):
                images = preprocessed(images, self.preprocessing)
        return self.symmetries.average(lambda block: backend.encode(block, self.network.layers), images)

    def width(self, shape: Shape) -> int:
        """Number of features of an image of this shape."""
        return math.prod(self.network.output_shape(shape))

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """How many images to encode at a time, beside the features of so many other encoders."""
        averaged = len(self.symmetries) > 1  # there are those of another variant, too
        return max(1, backend.images_per_block(self.network.layers, shape) // (1 + beside + averaged))

    @property
    def n_parameters(self) -> int:
        """How many numbers it has learned: anchor points."""
        return self.network.n_parameters


def preprocessed(images: Array, preprocessing: Sequence[Preprocessor]) -> Array:
    """Images [n, h, w, c] after these steps, where they are."""
    images = as_float(images)
    for preprocessor in preprocessing:
        images = preprocessor.apply(images)
    return images


class _Preprocessed:
    """Images that are preprocessed as they are read, where the backend computes; see `then`."""

    def __init__(
        self, images: Images, preprocessing: Sequence[Preprocessor], backend: Backend, stopwatch: Stopwatch
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.backend = backend
        self.stopwatch = stopwatch
        self.shape = images.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def then(self, preprocessor: Preprocessor) -> "_Preprocessed":
        """With one step more; kept in the host's memory if they are few, since each layer reads them all."""
        n, *shape = self.shape
        chain = _Preprocessed(self.images, (*self.preprocessing, preprocessor), self.backend, self.stopwatch)
        if n * math.prod(shape) * self.dtype.itemsize > self.backend.memory_budget // 4:
            return chain
        kept = np.empty(self.shape, self.dtype)
        for start in range(0, n, AT_ONCE):
            stop = min(start + AT_ONCE, n)
            kept[start:stop] = self.backend.to_host(chain.read(start, stop))
        return _Preprocessed(ArrayImages(kept), (), self.backend, self.stopwatch)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with self.stopwatch.stage("reading"):
            block = self.images.read(start, stop)
        with self.stopwatch.stage("preprocessing"):
            return preprocessed(self.backend.asarray(block), self.preprocessing)
