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


def make_stripes(n: int, noise: float, contrast: float = 60.0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return stripes along and across in noise, uint8 [n, 9, 9, 1] of any phase, and which they are, 0 or 1.

    A linear classifier on pixels cannot tell them apart.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1, 1))
    y, x = np.mgrid[:9, :9]
    waves = np.where(labels[:, None, None], np.sin(1.5 * y + phase), np.sin(1.5 * x + phase))
    images = 120 + contrast * waves + rng.normal(scale=noise, size=waves.shape)
    return images.round().clip(0, 255).astype(np.uint8)[..., None], labels
