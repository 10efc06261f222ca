"""Whole systems by name: encoders and classifier that belong together."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ckncuda.images.preprocess import MILD, ZCA, LocalWhitening, Preprocessor, zca_is_mild
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.conventions import CHEN
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.network.encoder import EncoderSpec
from ckncuda.network.network import PATCHES
from ckncuda.types import Shape

MOST_FOR_KERNEL_RIDGE = 20_000
"""Images up to which a Gram matrix of all of them is a matter of minutes and of less than 8 GiB."""

ARC_COSINE: Mapping[str, Any] = {"kernel": "arccos1"}

EXACT_LAYERS = tuple(
    KernelLayer(patch=3, subsampling=s, kernel=Exponential(sigma=0.6), alignment="centered") for s in (2, 5)
)
"""Layers of the exact kernel that is taken where none is described, for images of 32x32: exact kernels were
measured with these, but not centred; being centred halves the time of ``flip``."""


class Preset(NamedTuple):
    """A named choice of everything that `ckncuda.model.system.System` holds.

    Attributes
    ----------
    summary : str
        One line for people.
    encoders : callable
        From the number of images and their shape (height, width, channels) to the encoders.
    classifier, classifier_options, patches
        See `System`; of many images ``kernel-ridge`` becomes ``nystrom-ridge``.
    """

    summary: str
    encoders: Callable[[int, Shape], list[EncoderSpec]]
    classifier: str = "kernel-ridge"
    classifier_options: Mapping[str, Any] = ARC_COSINE
    patches: int = 100_000


def _two_layers(
    n: int, shape: Shape, filters: int, preprocessing: tuple[Preprocessor, ...] | None = None
) -> EncoderSpec:
    """Return layers of 64 and these filters, the last with about 3 positions along the images' shorter side.

    Few images get as many filters as leave ten patches for each.  Colour images are taken together with
    their mirror images; those of one channel are not: many a digit or letter has another meaning mirrored.
    """
    kernel = Exponential(sigma=0.6)
    side = min(shape[:2])
    first = LayerSpec(
        filters=max(1, min(64, n * shape[0] * shape[1] // 10)),
        patch=min(3, side),
        subsampling=min(2, side),
        kernel=kernel,
    )
    height, width, _ = first.output_shape(shape)
    remaining = min(height, width)
    last = LayerSpec(
        filters=max(1, min(filters, n * height * width // 10)),
        patch=min(3, remaining),
        subsampling=-(-remaining // 3),
        kernel=kernel,
        decorrelation=0.25,
    )
    return EncoderSpec([first, last], preprocessing, Symmetries(flip=shape[2] >= 3))


def _best(n: int, shape: Shape) -> list[EncoderSpec]:
    ways: list[tuple[Preprocessor, ...] | None] = [None]  # to whiten images: as they suggest, and others
    if min(shape[:2]) >= LocalWhitening().patch:
        if zca_is_mild(n, shape):
            ways.append((LocalWhitening(), ZCA(MILD)))
        ways.append((LocalWhitening(),))
    return [_two_layers(n, shape, 2048, way) for way in ways]


def _seed(n: int, shape: Shape) -> list[EncoderSpec]:
    options = {"patch": 3, "subsampling": 2, "kernel": Exponential(sigma=0.6), **CHEN}
    return [EncoderSpec([LayerSpec(filters=filters, **options) for filters in (64, 64, 128)], ())]


PRESETS: Mapping[str, Preset] = {
    "fast": Preset("64 and 1,024 filters, kernel ridge", lambda n, shape: [_two_layers(n, shape, 1024)]),
    "default": Preset("64 and 2,048 filters, kernel ridge", lambda n, shape: [_two_layers(n, shape, 2048)]),
    "best": Preset(
        "three networks of 64 and 2,048 filters on images whitened in three ways, kernel ridge", _best
    ),
    "mnist": Preset(
        "for digits and letters: 64 and 1,024 filters on the images as they are, kernel ridge",
        lambda n, shape: [_two_layers(n, shape, 1024, ())],
    ),
    "seed": Preset(
        "the network of CKN from Scratch: three layers of 64, 64 and 128 filters, softmax with L2 1e-3",
        _seed,
        "softmax",
        {"regularization": 1e-3},
        PATCHES,
    ),
}
