"""Small layers, images and features for tests of all rooms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda import EncoderSpec, Exponential, Layer, LayerSpec, Model, Ridge

TWO_LAYERS = [
    LayerSpec(filters=12, patch=3, subsampling=2, kernel=Exponential(sigma=0.6)),
    LayerSpec(filters=16, patch=2, subsampling=2, kernel=Exponential(sigma=0.6)),
]


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


def overlapping_classes(
    images: int, width: int, classes: int = 3, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [images, width], far from zero, of classes that overlap, and their labels in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, width))
    features = 3 + 0.5 * centres[labels] + rng.normal(size=(images, width))
    return features.astype(np.float32), labels


def stripes(
    n: int = 90, seed: int = 0, *, noise: float = 30.0, contrast: float = 60.0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return stripes along and across, of any phase, uint8 [n, 9, 9, 1], and which they are.

    A linear classifier on pixels cannot tell them apart.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1, 1))
    y, x = np.mgrid[:9, :9]
    waves = np.where(labels[:, None, None], np.sin(1.5 * y + phase), np.sin(1.5 * x + phase))
    images = 120 + contrast * waves + rng.normal(scale=noise, size=waves.shape)
    return images.round().clip(0, 255).astype(np.uint8)[..., None], labels


def model_of(images: Any, labels: Any, preprocessing: Any, backend: Any, classifier: Any = None) -> Model:
    """Return a model with one encoder of two small layers, fitted there; with Ridge if no other is given."""
    return Model.fit(
        images,
        labels,
        [EncoderSpec(TWO_LAYERS, preprocessing)],
        classifier=Ridge(1e-3) if classifier is None else classifier,
        patches=300,
        backend=backend,
    )


def rewrite_model(path: Path, change: Callable[[dict[str, Any], dict[str, NDArray[Any]]], Any]) -> None:
    """Change the specification or the arrays of a model file."""
    with safetensors.safe_open(path, framework="numpy") as file:
        specification = json.loads(file.metadata()["ckncuda"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(specification, tensors)
    safetensors.numpy.save_file(tensors, path, {"ckncuda": json.dumps(specification)})
