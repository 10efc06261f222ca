"""Patches of maps, wherever the maps are."""

import numpy as np

from ckncuda.layer.geometry import Geometry
from ckncuda.types import Array


def flat_patches(maps: Array, geometry: Geometry) -> Array:
    """Return all patches in the order (dy, dx, channel): [n, h, w, c] to [n, h' · w', terms]."""
    height, width, _ = geometry.map_shape(maps.shape[1:])
    padded = np.pad(maps, ((0, 0), *geometry.margins, (0, 0)))
    shifted = [padded[:, y : y + height, x : x + width] for y, x in np.ndindex(geometry.patch_shape)]
    terms = geometry.terms(maps.shape[3])
    return np.concatenate(shifted, axis=3).reshape(len(maps), height * width, terms)
