"""Random changes of training images that leave their class as it is: mirrored, moved, with a part hidden."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import flag, instance, listed, shown, whole
from ckncuda.types import Array, Shape

MOST_DIGITS = 9  # of a number of pixels that is read
_NAMES = ("flip", "crop", "cutout")
_EXPECTED = "expected names and pixels such as flip,crop=4,cutout=8, or none"


@dataclass(frozen=True)
class Augmentation:
    """Changes that are drawn anew for each image whenever it is trained on; none by default.

    Parameters
    ----------
    flip : bool
        One image in two is mirrored, left and right exchanged.
    crop : int
        Images are moved by up to so many pixels in both directions, zeros moving in: a crop of the image
        surrounded by zeros.
    cutout : int
        A square of so many pixels, whose centre is anywhere in the image, is set to zero.

    References
    ----------
    DeVries and Taylor, *Improved regularization of convolutional neural networks with cutout*, 2017.

    Examples
    --------
    >>> Augmentation.from_text("flip,crop=4")
    Augmentation(flip=True, crop=4, cutout=0)
    >>> images = np.ones((2, 8, 8, 1), np.float32)
    >>> Augmentation(cutout=4).apply(images, np.random.default_rng(0)).shape
    (2, 8, 8, 1)
    """

    flip: bool = False
    crop: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flip", flag("flip", self.flip))
        for name in ("crop", "cutout"):
            pixels = whole(name, getattr(self, name), 0, "expected a whole number of pixels, 0 for none")
            object.__setattr__(self, name, pixels)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read ``flip,crop=4,cutout=8``, in any order; ``none`` is nothing."""
        options: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (part.strip() for part in item.partition("="))
            if text.strip() == "none":
                break
            if name not in _NAMES or name in options or (name == "flip") == bool(equals):
                raise InvalidSpec(f"augmentation {shown(text)}: {shown(item)} is not understood; {_EXPECTED}")
            if equals and not (value.isdecimal() and len(value) <= MOST_DIGITS):
                raise InvalidSpec(f"augmentation {shown(text)}: {name} is {shown(value)}; {_EXPECTED}")
            options[name] = int(value) if equals else True
        return cls(**options)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave, or from such a table of a configuration file."""
        options = instance("augment", options, Mapping, 'expected a table such as {"flip": True, "crop": 4}')
        if unknown := sorted(set(options) - set(_NAMES)):
            raise InvalidSpec(f"an augmentation has no {listed(unknown)}; it has {', '.join(_NAMES)}")
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def check(self, shape: Shape) -> None:
        """Raise `InvalidSpec` where images of this shape are too small for it."""
        least = min(shape[:2])
        for name in ("crop", "cutout"):
            if getattr(self, name) >= least:
                raise InvalidSpec(
                    f"{name} is {getattr(self, name)} pixels, of images of {shape[0]}x{shape[1]}; "
                    f"it must be less than {least}"
                )

    def apply(self, images: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        """Return changed copies of images [b, h, w, c] on the host, or themselves if nothing is to do."""
        if self == Augmentation():
            return images
        b, h, w, _ = images.shape
        changed: Array = images.copy()
        if self.flip:
            mirrored = random.random(b) < 0.5
            changed[mirrored] = changed[mirrored][:, :, ::-1]
        if self.crop:
            margin = self.crop
            padded = np.pad(changed, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
            places = random.integers(0, 2 * margin + 1, size=(b, 2))
            for image, source, (y, x) in zip(changed, padded, places.tolist(), strict=True):
                image[...] = source[y : y + h, x : x + w]
        if self.cutout:
            centres = random.integers(0, (h, w), size=(b, 2))
            starts = centres - self.cutout // 2
            for image, (y, x) in zip(changed, starts.tolist(), strict=True):
                image[max(y, 0) : max(y + self.cutout, 0), max(x, 0) : max(x + self.cutout, 0)] = 0
        return changed
