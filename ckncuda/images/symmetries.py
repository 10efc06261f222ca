"""Small changes of an image that leave its class as it is; features are averaged over them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ckncuda.given.parameters import flag, whole
from ckncuda.types import Array

MOST = 16  # pixels of a shift: beyond, it is no small change of any image that fits a layer


@dataclass(frozen=True)
class Symmetries:
    """The group, or part of one, over which features are averaged: mirror images and small shifts.

    Averaging over a group projects the network's feature map on the functions that the group leaves
    alone: a classifier on top cannot tell an image from its mirror image.  It costs as many passes
    through the network as there are variants, and no memory.

    Parameters
    ----------
    flip : bool
        With the mirror image, left and right exchanged.
    shift : int
        With the images shifted by so many pixels up, down, left and right, zeros moving in; 0: none.

    Examples
    --------
    >>> image = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> [variant[0, :, :, 0].tolist() for variant in Symmetries(flip=True).variants(image)]
    [[[0.0, 1.0], [2.0, 3.0]], [[1.0, 0.0], [3.0, 2.0]]]
    """

    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        expected = f"expected a whole number of pixels from 0 (none) to {MOST}"
        object.__setattr__(self, "flip", flag("flip", self.flip))
        object.__setattr__(self, "shift", whole("shift", self.shift, 0, expected, most=MOST))

    def __len__(self) -> int:
        """Count the variants of an image, itself included."""
        return (5 if self.shift else 1) * (2 if self.flip else 1)

    def variants(self, images: Array) -> Iterator[Array]:
        """Yield each variant of all images [n, h, w, c], where they are, first the images themselves."""
        s = self.shift
        for dy, dx in ((0, 0), (s, 0), (-s, 0), (0, s), (0, -s)) if s else ((0, 0),):
            shifted = images if (dy, dx) == (0, 0) else _shifted(images, dy, dx)
            yield shifted
            if self.flip:
                yield shifted[:, :, ::-1].copy()

    def average(self, function: Callable[[Array], Array], images: Array) -> Array:
        """Return the mean of a function, such as a network's, over the variants of the images."""
        if len(self) == 1:
            return function(images)
        variants = self.variants(images)
        total = function(next(variants)).copy()  # a function may return what it was given
        for variant in variants:
            total += function(variant)
        total /= len(self)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return the options, as they stand in a configuration file."""
        return asdict(self)


def _shifted(images: Array, dy: int, dx: int) -> Array:
    """Move images [n, h, w, c] down by dy and right by dx, zeros where nothing comes from."""
    height, width = images.shape[1:3]
    moved = np.zeros_like(images)
    if abs(dy) < height and abs(dx) < width:
        moved[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = images[
            :, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
        ]
    return moved
