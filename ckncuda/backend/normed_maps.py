"""Images with the norms of their patches: what the exact kernel of two images is computed from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.layer.spec import LayerSpec


@dataclass(frozen=True, eq=False)
class NormedMaps:
    """Images in the host's memory, with the norm of every patch at every layer.

    Attributes
    ----------
    maps : float32 or float64 [n, h, w, c]
        The images.  Exact kernels are computed in their type.
    norms : tuple of float64 [n, h_l, w_l]
        One array a layer: n(u), the norm of each patch in the space where the layer's input lives.
    """

    maps: NDArray[np.floating[Any]]
    norms: tuple[NDArray[np.float64], ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.maps)

    def __getitem__(self, images: slice) -> "NormedMaps":
        """Some of the images."""
        return NormedMaps(self.maps[images], tuple(norms[images] for norms in self.norms))


def have_dark_patches(images: NormedMaps, spec: LayerSpec) -> bool:
    """Whether patches of the images, not of zeros, have norms below the floor by which they are divided.

    Then n t n' is not their inner product, which tangents of a fused first layer take it for.
    """
    norms = images.norms[0]
    return spec.scale == "norm" and bool(((norms > 0) & (norms < spec.norm_floor)).any())


def mirror(gram: NDArray[Any]) -> None:
    """Copy what is above the diagonal of a square matrix below it."""
    lower = np.tril_indices(len(gram), -1)
    gram[lower] = gram.T[lower]
