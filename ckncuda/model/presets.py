"""Whole systems by name: encoders and classifier that belong together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckncuda.errors import InvalidSpec
from ckncuda.images.preprocess import MILD, ZCA, LocalWhitening, Preprocessor, zca_is_mild
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.conventions import CHEN
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import LayerSpec
from ckncuda.network.encoder import EncoderSpec
from ckncuda.network.network import PATCHES
from ckncuda.types import Shape

MOST_FOR_KERNEL_RIDGE = 20_000
"""Images up to which a Gram matrix of all of them is a matter of minutes and of less than 8 GiB."""


@dataclass(frozen=True)
class Preset:
    """A named choice of everything that can be chosen.

    Attributes
    ----------
    summary : str
        One line for people.
    encoders : callable
        From the number of images and their shape (height, width, channels) to the encoders.
    classifier : str
        ``ridge``, ``kernel-ridge``, ``softmax`` or ``squared-hinge``.
    classifier_options : dict
        Such as ``{"regularization": 1e-3}``.
    patches : int
        Sampled for each layer.
    """

    summary: str
    encoders: Callable[[int, Shape], list[EncoderSpec]]
    classifier: str = "ridge"
    classifier_options: Mapping[str, Any] = field(default_factory=dict)
    patches: int = PATCHES

    def classifier_for(self, n: int) -> tuple[str, dict[str, Any]]:
        """The classifier and its options for n images: on landmarks if they are too many for kernel ridge."""
        if self.classifier == "kernel-ridge" and n > MOST_FOR_KERNEL_RIDGE:
            return "nystrom-ridge", dict(self.classifier_options)
        return self.classifier, dict(self.classifier_options)


def _two_layers(
    n: int,
    shape: Shape,
    filters: tuple[int, int],
    preprocessing: tuple[Preprocessor, ...] | None = None,
) -> EncoderSpec:
    """Two layers, the last subsampled so that about 3 positions remain along the shorter side of the images.

    Of few images, as many filters as leave ten patches for each.  Colour images are taken together with
    their mirror images; those of one channel are not: many a digit or letter has another meaning mirrored.
    """
    kernel = Exponential(sigma=0.6)
    side = min(shape[:2])
    first = LayerSpec(
        filters=max(1, min(filters[0], n * shape[0] * shape[1] // 10)),
        patch=min(3, side),
        subsampling=min(2, side),
        kernel=kernel,
    )
    height, width, _ = first.output_shape(shape)
    remaining = min(height, width)
    last = LayerSpec(
        filters=max(1, min(filters[1], n * height * width // 10)),
        patch=min(3, remaining),
        subsampling=-(-remaining // 3),
        kernel=kernel,
        decorrelation=0.25,
    )
    return EncoderSpec([first, last], preprocessing, Symmetries(flip=shape[2] >= 3))


def _fast(n: int, shape: Shape) -> list[EncoderSpec]:
    return [_two_layers(n, shape, (64, 1024))]


def _default(n: int, shape: Shape) -> list[EncoderSpec]:
    return [_two_layers(n, shape, (64, 2048))]


def _best(n: int, shape: Shape) -> list[EncoderSpec]:
    ways: list[tuple[Preprocessor, ...] | None] = [None]  # to whiten images: as they suggest, and others
    if min(shape[:2]) >= LocalWhitening().patch:
        if zca_is_mild(n, shape):
            ways.append((LocalWhitening(), ZCA(MILD)))
        ways.append((LocalWhitening(),))
    return [_two_layers(n, shape, (64, 2048), way) for way in ways]


def _mnist(n: int, shape: Shape) -> list[EncoderSpec]:
    return [_two_layers(n, shape, (64, 1024), ())]


def _seed(n: int, shape: Shape) -> list[EncoderSpec]:
    kernel = Exponential(sigma=0.6)
    return [
        EncoderSpec(
            [
                LayerSpec(filters=filters, patch=3, subsampling=2, kernel=kernel, **CHEN)
                for filters in (64, 64, 128)
            ]
        )
    ]


ARC_COSINE: Mapping[str, Any] = {"kernel": "arccos1"}

PRESETS: Mapping[str, Preset] = {
    "fast": Preset("64 and 1,024 filters, kernel ridge", _fast, "kernel-ridge", ARC_COSINE, 100_000),
    "default": Preset("64 and 2,048 filters, kernel ridge", _default, "kernel-ridge", ARC_COSINE, 100_000),
    "best": Preset(
        "three networks of 64 and 2,048 filters on images whitened in three ways, kernel ridge",
        _best,
        "kernel-ridge",
        ARC_COSINE,
        100_000,
    ),
    "mnist": Preset(
        "for digits and letters: 64 and 1,024 filters on the images as they are, kernel ridge",
        _mnist,
        "kernel-ridge",
        ARC_COSINE,
        100_000,
    ),
    "seed": Preset(
        "the network of CKN from Scratch: three layers of 64, 64 and 128 filters, softmax with L2 1e-3",
        _seed,
        "softmax",
        {"regularization": 1e-3},
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises
    ------
    InvalidSpec
        There is none.
    """
    if name not in PRESETS:
        raise InvalidSpec(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
