"""Small layers, images, features and kernels for tests of all rooms."""

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ckncuda import CKN, EncoderSpec, GramRidge, Layer, LayerSpec, Model, Ridge
from ckncuda.layer.conventions import CHEN
from ckncuda.layer.dot_product import ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Series

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


def chens_networks(data: Any) -> list[CKN]:
    """Return networks of the first layer of a golden file of Chen's program, of its first two, …"""
    specs = [
        LayerSpec(
            filters=o["p"],
            patch=o["k"],
            subsampling=o["s"],
            kernel=Polynomial(2) if o.get("f") == "poly" else Exponential(sigma=o.get("sigma", 0.6)),
            padding="valid" if o.get("pad") == "VALID" else "zero",
            **CHEN,
        )
        for o in ast.literal_eval(str(data["config"]))
    ]
    anchors = [data[f"anchors_{i}"] for i in range(len(specs))]
    return [CKN.from_anchors(specs[:depth], anchors[:depth]) for depth in range(1, len(specs) + 1)]


def network_and_images(rng: np.random.Generator, n: int = 23) -> tuple[CKN, NDArray[np.float32]]:
    """Return a network of two small layers, and n images for it."""
    layers = [make_layer(3, rng), make_layer(12, rng, filters=8)]
    return CKN.from_layers(layers), make_images(rng, n, 12, 10, 3)


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
    options = {"classifier": classifier or Ridge(1e-3), "patches": 300, "backend": backend}
    return Model.fit(images, labels, [EncoderSpec(TWO_LAYERS, preprocessing)], **options)


def rings(images: int = 120, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return points of two rings, one inside the other, float32 [images, 2], and on which they are."""
    rng = np.random.default_rng(seed)
    angle, labels = rng.uniform(0, 2 * np.pi, size=images), np.arange(images) % 2
    radius = 1 + labels + 0.3 * rng.normal(size=images)
    return (radius * np.array([np.cos(angle), np.sin(angle)])).T.astype(np.float32), labels


def seen(kind: type, features: Any, training: Any) -> Any:
    """Return what a kind of classifier sees: features, or their inner products with those of the training."""
    return features @ training.T if kind is GramRidge else features


def spoiled(features: Any, value: float) -> Any:
    """Return a copy of the features in which one of image 7 has this value."""
    copy = features.copy()
    copy[7, 3] = value
    return copy


def least_squares(features: Any, signs: Any, penalty: float) -> Any:
    """Return weights and intercept that minimise ½ ‖Y − X W − b‖² + penalty/2 ‖W‖², by normal equations."""
    extended = np.hstack([features, np.ones((len(features), 1))])
    ridge = penalty * np.eye(extended.shape[1])
    ridge[-1, -1] = 0
    solution = np.linalg.solve(extended.T @ extended + ridge, extended.T @ signs)
    return solution[:-1], solution[-1]


def left_out_by_least_squares(features: Any, signs: Any, penalty: float) -> NDArray[np.float64]:
    """Return each image's target less its prediction by `least_squares` on the others, one by one."""
    residuals = np.empty_like(signs)
    for i in range(len(signs)):
        others = np.arange(len(signs)) != i
        weights, intercept = least_squares(features[others], signs[others], penalty)
        residuals[i] = signs[i] - (features[i] @ weights + intercept)
    return residuals


def scaled_by_the_book(features: Any, widths: Any = None) -> NDArray[np.float64]:
    """Return features of each encoder centred, of the mean squared norm 1 / (number of encoders)."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    widths = (features.shape[1],) if widths is None else widths
    for columns in np.split(np.arange(features.shape[1]), np.cumsum(widths)[:-1]):
        centred[:, columns] /= np.sqrt((centred[:, columns] ** 2).sum() / len(centred) * len(widths))
    return centred


def left_out_by_refits(gram: Any, targets: Any, regularization: float) -> NDArray[np.float64]:
    """Return each image's target less its prediction by (K + 11ᵀ + nλI) α = Y without it, one by one."""
    n, gram = len(gram), gram + 1
    residuals = np.empty_like(targets)
    for i in range(n):
        others = np.arange(n) != i
        penalty = n * regularization * np.eye(n - 1)
        alpha = np.linalg.solve(gram[np.ix_(others, others)] + penalty, targets[others])
        residuals[i] = targets[i] - gram[i, others] @ alpha
    return residuals


SMOOTH_KERNELS = [
    *(Exponential(sigma=0.6), Polynomial(2), Polynomial(3, offset=1.0), InversePolynomial()),
    *(ArcCosine(1), Linear(), Series([0.2, 0.3, 0.5])),
]
"""κ of every kind but arccos of degree 0, whose slope at 1 is infinite."""

SOME_KERNELS = [
    *(Exponential(sigma=1.0), Exponential(sigma=0.35), ArcCosine(0), ArcCosine(1), Linear()),
    *(Polynomial(3, offset=0.5), InversePolynomial(), Series([0.1, 0.5, 0.0, 0.4])),
]
"""κ of every kind."""


def kernel_matrix(x: Any, y: Any, widths: Any, kernels: Any, weights: Any) -> NDArray[np.float64]:
    """Return Σ_g w_g ‖x_g‖ ‖y_g‖ κ_g(cos(x_g, y_g)) [n, m] in float64, pair by pair."""
    total, starts = np.zeros((len(x), len(y))), np.cumsum([0, *widths])
    for start, width, kernel, weight in zip(starts, widths, kernels, weights, strict=False):
        for i, j in np.ndindex(total.shape):
            a, b = (z[start : start + width].astype(np.float64) for z in (x[i], y[j]))
            length = math.sqrt(a @ a) * math.sqrt(b @ b)
            cosine = np.array(a @ b / length if length else 0.0)
            total[i, j] += weight * length * float(kernel.value(cosine))
    return total


def overlapping_points(images: int = 40, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points of three classes in four dimensions, and their labels in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    return 1.2 * rng.normal(size=(3, 4))[labels] + rng.normal(size=(images, 4)), labels


def gauss(x: Any, y: Any) -> NDArray[np.float64]:
    """Return a Gaussian kernel of points."""
    return np.exp(-((x[:, None] - y) ** 2).sum(axis=2) / 4)


def polynomial(x: Any, y: Any) -> NDArray[np.float64]:
    """Return a kernel of another scale, and far from centred."""
    return 50.0 * (3 + x @ y.T) ** 2


def centred_by_the_book(gram: Any) -> NDArray[np.float64]:
    """Return a Gram matrix as of images of mean 0 and mean squared norm 1."""
    centring = np.eye(len(gram)) - 1 / len(gram)
    result = centring @ gram @ centring
    return result / result.trace() * len(gram)


def write_challenge_csv(path: Path, images: NDArray[Any]) -> None:
    """Write an image a line as the challenge does: channel after channel, a comma at the end."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_text("".join(",".join(f"{value:.6g}" for value in row) + ",\n" for row in planes))


class Call:
    """An object that is read from a pickle by calling a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def rewrite_model(path: Path, change: Callable[[dict[str, Any], dict[str, NDArray[Any]]], Any]) -> None:
    """Change the specification or the arrays of a model file."""
    with safetensors.safe_open(path, framework="numpy") as file:
        specification = json.loads(file.metadata()["ckncuda"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(specification, tensors)
    safetensors.numpy.save_file(tensors, path, {"ckncuda": json.dumps(specification)})
