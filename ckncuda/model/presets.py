"""Whole systems by name: encoders and classifier that belong together."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ckncuda.images.augment import Augmentation
from ckncuda.images.preprocess import MILD, ZCA, LocalWhitening, Preprocessor, zca_is_mild
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.conventions import CHEN
from ckncuda.layer.dot_product import Exponential, Polynomial
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.network.encoder import EncoderSpec
from ckncuda.network.network import PATCHES
from ckncuda.supervised.encoder import TrainedEncoderSpec
from ckncuda.supervised.training import Training
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


def _supervised(n: int, shape: Shape) -> list[EncoderSpec]:
    """Return two narrow layers that are trained, and a wide one above them that is not."""
    side = min(shape[:2])
    layers: list[LayerSpec] = []
    size = shape
    for _ in range(2):
        height, width, _ = size
        least = min(height, width)
        filters = max(1, min(64, n * height * width // 10))
        layer = LayerSpec(filters, min(3, least), min(2, least), Exponential(sigma=0.6))
        layers.append(layer)
        size = layer.output_shape(size)
    remaining = min(size[:2])
    layers.append(
        LayerSpec(
            filters=max(1, min(1024, n * size[0] * size[1] // 10)),
            patch=min(3, remaining),
            subsampling=-(-remaining // 3),
            kernel=Exponential(sigma=0.6),
            decorrelation=0.25,
        )
    )
    flip = shape[2] >= 3
    training = Training(
        epochs=60, train_layers=2, augment=Augmentation(flip=flip, crop=min(4, max(side - 1, 0)))
    )
    return [TrainedEncoderSpec(layers, None, Symmetries(flip=flip), training)]


def _chen5(n: int, shape: Shape) -> list[EncoderSpec]:
    layers = [
        LayerSpec(128, patch, subsampling, kernel, **CHEN)
        for patch, subsampling, kernel in (
            (3, 2, Exponential(sigma=0.5)),
            (1, 1, Polynomial(2)),
            (3, 2, Exponential(sigma=0.6)),
            (1, 1, Polynomial(2)),
            (3, 3, Exponential(sigma=0.6)),
        )
    ]
    training = Training(
        epochs=105,
        optimizer="sgd",
        learning_rate=0.1,
        schedule="steps",
        milestones=(60, 85, 100),
        warmup=0.0,
        loss="squared-hinge",
        head_fit="alternating",
        head_rate=1.0,
    )
    return [TrainedEncoderSpec(layers, None, Symmetries(), training)]


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
    "supervised": Preset(
        "two layers of 64 filters trained end to end, 1,024 filters without labels above them, kernel ridge",
        _supervised,
    ),
    "chen5": Preset(
        "Chen's CKN-5, five layers of 128 filters trained as published, with its linear classifier",
        _chen5,
        "head",
        {},
        150_000,
    ),
    "seed": Preset(
        "the network of CKN from Scratch: three layers of 64, 64 and 128 filters, softmax with L2 1e-3",
        _seed,
        "softmax",
        {"regularization": 1e-3},
        PATCHES,
    ),
}
