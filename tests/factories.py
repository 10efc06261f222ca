"""Small layers and images for tests of all rooms."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda import Exponential, Layer, LayerSpec


def make_spec(**options: Any) -> LayerSpec:
    """Return the specification of a small layer, changed in these options."""
    defaults = {"filters": 12, "patch": 3, "subsampling": 2, "kernel": Exponential(sigma=0.6)}
    return LayerSpec(**defaults | options)


def make_layer(channels: int, rng: np.random.Generator, **options: Any) -> Layer:
    """Return a small layer whose anchors are drawn from the unit sphere."""
    spec = make_spec(**options)
    anchors = rng.normal(size=(spec.filters, *spec.patch_shape, channels))
    anchors /= np.linalg.norm(anchors.reshape(spec.filters, -1), axis=1)[:, None, None, None]
    return Layer.from_anchors(spec, anchors)


def make_images(rng: np.random.Generator, n: int, *shape: int) -> NDArray[np.float32]:
    """Return n images of noise, float32, of height, width and channels."""
    return rng.normal(size=(n, *shape)).astype(np.float32)
