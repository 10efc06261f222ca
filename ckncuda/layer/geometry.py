"""The geometry of a layer: patches, padding, subsampling, and the shapes that follow."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import image_shape, shown, whole
from ckncuda.layer.pooling import Alignment, Pooling, pooled_size, pooling_matrix
from ckncuda.types import Shape

Padding = Literal["zero", "valid"]
EvenPadding = Literal["same", "both"]
Patch = int | tuple[int, int]
"""Side of square patches, or their height and width."""


class Geometry:
    """The part of a layer's description that places patches and pooled positions; see `LayerSpec`.

    Its fields belong to the dataclasses that inherit from it.
    """

    patch: Patch
    subsampling: int
    padding: Padding
    even_padding: EvenPadding
    pooling: Pooling
    alignment: Alignment

    @property
    def channels(self) -> int:
        """Numbers at each position of the layer's map: its filters, or one for each pair of positions."""
        channels: int = getattr(self, "filters", 1)
        return channels

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return (self.patch, self.patch) if isinstance(self.patch, int) else self.patch

    @property
    def shown_patch(self) -> str:
        """Height and width of a patch for people, such as 3x3."""
        return "x".join(map(str, self.patch_shape))

    def terms(self, channels: int) -> int:
        """Count the numbers of a patch of an input of so many channels."""
        height, width = self.patch_shape
        return height * width * channels

    @property
    def margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros before the first and behind the last position: of the height, then of the width."""
        height, width = self.patch_shape
        if self.padding == "valid":
            return (0, 0), (0, 0)
        less = self.even_padding == "same"  # of an even side, before the first position
        return ((height - less) // 2, height // 2), ((width - less) // 2, width // 2)

    def map_shape(self, shape: Shape) -> Shape:
        """Return the shape of the map before pooling, for an input of a shape; refuse too large a patch."""
        height, width, _ = image_shape("shape", shape)
        patch_height, patch_width = self.patch_shape
        if patch_height > height or patch_width > width:
            raise InvalidSpec(f"a patch of {self.shown_patch} is larger than its input of {height}x{width}")
        rows, columns = map(sum, self.margins)
        return height - patch_height + 1 + rows, width - patch_width + 1 + columns, self.channels

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output, for an input of a shape; refuse a patch or step too large."""
        height, width, channels = self.map_shape(shape)
        if self.subsampling > min(height, width):
            raise InvalidSpec(
                f"a subsampling of {self.subsampling} is larger than the map of {height}x{width}"
            )
        how = self.subsampling, self.pooling, self.alignment
        pooled = pooled_size(height, *how), pooled_size(width, *how), channels
        if min(pooled) < 1:
            raise InvalidSpec(
                f"a subsampling of {self.subsampling} with alignment {self.alignment!r} leaves nothing "
                f"of a map of {height}x{width}"
            )
        return pooled

    def pooling_matrices(self, shape: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return pooling weights along the height and the width of the map of an input of this shape."""
        height, width, _ = self.map_shape(shape)
        how = self.subsampling, self.pooling, self.alignment
        return pooling_matrix(height, *how), pooling_matrix(width, *how)


def checked_patch(value: object) -> Patch:
    """Return a patch as a side, or as height and width where they differ; refuse everything else."""
    if not isinstance(value, list | tuple):
        return whole("patch", value, 1)
    expected = "it must be a whole number of at least 1, or two of them, height and width"
    if len(value) != 2:
        raise InvalidSpec(f"patch is {shown(value)}; {expected}")
    height, width = (whole("patch", side, 1, expected) for side in value)
    return height if height == width else (height, width)
