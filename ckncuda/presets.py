"""Whole systems by name: network, preprocessing and classifier that belong together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckncuda.conventions import CHEN
from ckncuda.dot_product import Exponential
from ckncuda.encoder import EncoderSpec
from ckncuda.errors import InvalidSpec
from ckncuda.layer import LayerSpec, Shape


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
    """

    summary: str
    encoders: Callable[[int, Shape], list[EncoderSpec]]
    classifier: str = "ridge"
    classifier_options: Mapping[str, Any] = field(default_factory=dict)


def _two_layers(n: int, shape: Shape, filters: tuple[int, int], **last_options: Any) -> list[LayerSpec]:
    """Two layers, the last subsampled so that about 3x3 positions remain, whatever the images' size.

    Of few images, as many filters as leave ten patches for each.
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
        **last_options,
    )
    return [first, last]


def _default(n: int, shape: Shape) -> list[EncoderSpec]:
    return [EncoderSpec(_two_layers(n, shape, (64, 1024)), None)]


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


PRESETS: Mapping[str, Preset] = {
    "default": Preset("two layers of 64 and 1,024 filters, ridge", _default),
    "seed": Preset(
        "the network of CKN from Scratch: three layers of 64, 64 and 128 filters, softmax with L2 1e-3",
        _seed,
        classifier="softmax",
        classifier_options={"regularization": 1e-3},
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
