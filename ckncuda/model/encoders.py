"""Encoders as a model sees them, whether they are networks or exact kernels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, Self

from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.exact.encoder import ExactEncoder
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.sources import Images
from ckncuda.network.encoder import Encoder
from ckncuda.progress import Report
from ckncuda.types import Array, Shape


class ImageEncoder(Protocol):
    """A way from images to features, as it has been learned."""

    kind: ClassVar[str]

    @property
    def preprocessing(self) -> tuple[Preprocessor, ...]:
        """Fitted, in the order in which they are applied."""
        ...

    @property
    def saw(self) -> str:
        """Parts that saw all training images before any was held out."""
        ...

    @property
    def n_parameters(self) -> int:
        """Number of numbers that it has learned, or keeps."""
        ...

    def encode(self, images: Array, backend: Backend, report: Report) -> Array:
        """Compute features [b, …] of images [b, h, w, c], both where the backend computes."""
        ...

    def encode_in_stages(
        self, images: Array, backend: Backend, stage: Callable[[str], AbstractContextManager[None]]
    ) -> Array:
        """Compute features [b, d] step by step, each in a context of its name."""
        ...

    def width(self, shape: Shape) -> int:
        """Count the features of an image of this shape; raise where such images do not fit."""
        ...

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """Return how many images to encode at a time, beside the features of so many other encoders."""
        ...

    def describe(self, shape: Shape | None) -> dict[str, Any]:
        """Return everything but the arrays, and what becomes of images of a shape, as plain data."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a model file holds it."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned or kept, by name."""
        ...


class ImageEncoderSpec(Protocol):
    """A way from images to features, before it has learned anything."""

    compares: ClassVar[bool]

    @property
    def preprocessing(self) -> Sequence[Preprocessor] | None:
        """Steps in the order in which they are applied; None: as the images suggest."""
        ...

    def check(self, images: Images) -> None:
        """Raise unless images fit."""
        ...

    def resolved(self, images: Images, report: Report | None = None) -> Self:
        """Return this with the preprocessing that these images suggest, if it is left open."""
        ...

    def fit(
        self,
        images: Images,
        backend: Backend,
        *,
        patches: int,
        seed: int,
        beside: Sequence[object],
        report: Report | None,
    ) -> ImageEncoder:
        """Learn from images, without labels, beside encoders that were fitted before."""
        ...


KINDS: Mapping[str, type[Encoder] | type[ExactEncoder]] = {
    kind.kind: kind for kind in (Encoder, ExactEncoder)
}


def encoder_from_dict(options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ImageEncoder:
    """Rebuild an encoder of any kind from what its `to_dict` and `arrays` gave.

    Raises
    ------
    ValueError
        There is no such kind, or the arrays are malformed.
    """
    if options["kind"] not in KINDS:
        raise ValueError(f"there is no encoder of the kind {options['kind']!r}")
    return KINDS[options["kind"]].from_dict(options, arrays)
