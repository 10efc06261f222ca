"""Encoders as a model sees them: networks and exact kernels, which have the same methods."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ckncuda.exact.encoder import ExactEncoder, ExactEncoderSpec
from ckncuda.network.encoder import Encoder, EncoderSpec

ImageEncoder = Encoder | ExactEncoder
"""A way from images to features, as it has been learned."""

ImageEncoderSpec = EncoderSpec | ExactEncoderSpec
"""A way from images to features, before it has learned anything."""


def encoder_from_dict(options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ImageEncoder:
    """Rebuild an encoder of any kind from what its `to_dict` and `arrays` gave.

    Raises
    ------
    ValueError
        There is no such kind, or the arrays are malformed.
    """
    kinds: tuple[type[ImageEncoder], ...] = (Encoder, ExactEncoder)
    for kind in kinds:
        if kind.kind == options["kind"]:
            return kind.from_dict(options, arrays)
    raise ValueError(f"there is no encoder of the kind {options['kind']!r}")
