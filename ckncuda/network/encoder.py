"""Encoders that are networks: preprocessing, layers, and the average over symmetries."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend, unfused_reason
from ckncuda.errors import InvalidSpec
from ckncuda.given.parameters import image_shape, instance
from ckncuda.images.preprocess import (
    ZCA,
    PreprocessingSpec,
    Preprocessor,
    preprocessing_arrays,
    preprocessing_from_dict,
)
from ckncuda.images.preprocessed import PreprocessedImages, preprocessed
from ckncuda.images.sources import Images, ImagesOrArray, as_images
from ckncuda.images.symmetries import Symmetries
from ckncuda.layer.dot_product import Exponential
from ckncuda.layer.spec import LayerSpec, check_specs
from ckncuda.network.network import CKN, PATCHES
from ckncuda.progress import Report
from ckncuda.types import Array, Shape


@dataclass(frozen=True)
class EncoderSpec(PreprocessingSpec):
    """A way from images to features, before it has learned anything.

    Parameters
    ----------
    layers : sequence of LayerSpec
        The network, from the image upwards.
    preprocessing : sequence of Preprocessor, or None
        Applied in this order; ``()``: none.  By default as the images suggest, as ``ckn fit`` does, see
        `ckncuda.images.preprocess.suggested_preprocessing`.
    symmetries : Symmetries
        Over which features are averaged.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> layer = LayerSpec(filters=64, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    >>> EncoderSpec([layer], symmetries=Symmetries(flip=True)).output_shape((32, 32, 3))
    (8, 8, 64)
    """

    layers: Sequence[LayerSpec]
    preprocessing: Sequence[Preprocessor] | None = None
    symmetries: Symmetries = field(default_factory=Symmetries)
    compares: ClassVar[bool] = False
    """True if features are comparisons with the training images, so that those of these are a Gram matrix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", CKN(self.layers).specs)
        expected = "expected Symmetries(flip=True), for instance"
        instance("symmetries", self.symmetries, Symmetries, expected)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape (height, width, filters) of the features of an image (height, width, channels)."""
        shape = image_shape("shape", shape)
        if self.symmetries.shift >= min(shape[:2]):
            raise InvalidSpec(
                f"a shift of {self.symmetries.shift} leaves nothing of images of {shape[0]}x{shape[1]}"
            )
        return check_specs(self.layers, shape)[-1]

    def check(self, images: Images) -> None:
        """Raise `InvalidSpec` unless images fit."""
        self.output_shape(images.shape[1:])

    def bytes_to_fit(
        self, n: int, shape: Shape, patches: int, backend: Backend, memory: int
    ) -> dict[str, int]:
        """Count what is held, beside the images, to learn from n of them, by what it is for."""
        steps = self.preprocessing or ()
        stages = {f"{step.name} of images": step.bytes_to_fit(shape) for step in steps}
        learned = sum(4 * math.prod(shape) ** 2 for step in steps if step.name == ZCA.name)
        applied = max((step.bytes_to_fit(shape) for step in steps if step.name != ZCA.name), default=0)
        item, layers = 4, planned(self.layers)
        for number, layer in enumerate(layers):
            below = layers[:number]
            height, width, _ = layer.map_shape(shape if not below else check_specs(below, shape)[-1])
            channels = shape[2] if not below else below[-1].filters
            terms = layer.terms(channels)
            m = min(patches, memory // 2 // (item * terms), n * height * width)
            block = backend.bytes_at_once(below, shape, memory // 8)
            clusters = 2 * item * layer.filters * (terms + 64)
            # Patches, 24 bytes each beside them for k-means, sketches of a quarter of their size at most.
            sample = m * (item * terms + 24) + min(m * item * terms // 4, memory // 8) + clusters
            stages[f"a sample of {m:,} patches for layer {number + 1}"] = learned + applied + sample + block
            learned += layer_bytes(layer, channels)
            square = 7 * 8 * layer.filters**2 + 8 * layer.filters * terms
            through = backend.bytes_at_once([*below, layer], shape, memory // 8) if layer.decorrelation else 0
            stages[f"the projection of layer {number + 1}"] = learned + square + through
        return stages

    def bytes_learned(self, n: int, shape: Shape) -> int:
        """Count what an encoder holds: preprocessing, layers, and these as backends take them."""
        steps = self.preprocessing or ()
        learned = sum(4 * math.prod(shape) ** 2 for step in steps if step.name == ZCA.name)
        for layer, channels in zip(
            self.layers, [shape[2], *(layer.filters for layer in self.layers)], strict=False
        ):
            learned += layer_bytes(layer, channels)
        return learned

    def bytes_at_once(self, n: int, shape: Shape, backend: Backend, memory: int) -> int:
        """Count what a block of images takes that may take so many, or of one."""
        steps = max(
            (step.bytes_to_fit(shape) for step in self.preprocessing or () if step.name != ZCA.name),
            default=0,
        )
        averaged = 2 if len(self.symmetries) > 1 else 1
        return steps + averaged * backend.bytes_at_once(planned(self.layers), shape, memory // averaged)

    def width(self, n: int, shape: Shape) -> int:
        """Count the features of an image, of n that are learned from."""
        return math.prod(self.output_shape(shape))

    def fit(
        self,
        images: ImagesOrArray,
        backend: Backend | str,
        *,
        patches: int = PATCHES,
        seed: int = 0,
        beside: Sequence[object] = (),
        report: Report | None = None,
    ) -> "Encoder":
        """Learn preprocessing and network from images, without labels.

        Parameters
        ----------
        images, backend, patches, seed
            See `CKN.fit`.
        beside : sequence of encoders
            Those of an ensemble that were fitted before: equal encoders shall differ, the first is the one
            that it would be alone.
        report : Report, optional
            Told of the stages reading, preprocessing and anchors.
        """
        images, backend = as_images(images), shared_backend(backend)
        report = Report() if report is None else report
        seed = seed_beside(seed, beside)
        with report.stage("preprocessing"):
            steps = self.resolved(images).preprocessing or ()
            prepared = PreprocessedImages.learn(images, steps, backend, report)
        with report.stage("anchors"):
            network = CKN(self.layers)
            network.fit(prepared, patches=patches, seed=seed, backend=backend, progress=report)
        return Encoder(network, prepared.preprocessing, self.symmetries)


def seed_beside(seed: int, beside: Sequence[object]) -> int:
    """Return the seed of an encoder that is fitted beside others; that of the first is the model's."""
    return int(np.random.SeedSequence([seed, len(beside)]).generate_state(1)[0]) if beside else seed


def planned(layers: Sequence[LayerSpec]) -> list[LayerSpec]:
    """Return layers with any σ where it is yet to be chosen: no size depends on it."""
    return [
        replace(layer, kernel=Exponential(sigma=1.0))
        if isinstance(layer.kernel, Exponential) and layer.kernel.sigma is None
        else layer
        for layer in layers
    ]


def layer_bytes(spec: LayerSpec, channels: int) -> int:
    """Count the bytes of anchors and projection of a layer, and of both as backends take them.

    Winograd's transform of a filter of 3×3 is four times as large as the filter.
    """
    anchors = 4 * spec.filters * spec.terms(channels)
    square = spec.filters**2
    return anchors + 8 * square + 4 * square + (4 if spec.patch_shape == (3, 3) else 1) * anchors


@dataclass(frozen=True, eq=False)
class Encoder:
    """A way from images to features, as it has been learned.

    Attributes
    ----------
    network : CKN
        Fitted.
    preprocessing : tuple of Preprocessor
        Fitted, in the order in which they are applied.
    symmetries : Symmetries
        Over which features are averaged.  They act on preprocessed images.
    """

    network: CKN
    preprocessing: tuple[Preprocessor, ...] = ()
    symmetries: Symmetries = field(default_factory=Symmetries)
    kind: ClassVar[str] = "network"
    saw: ClassVar[str] = "preprocessing and network"
    """The parts of it that saw all training images before any was held out."""

    def encode(self, images: Array, backend: Backend, report: Report) -> Array:
        """Compute feature maps [n, h', w', filters] of images [n, h, w, c], where the backend computes."""
        if self.preprocessing:
            with report.stage("preprocessing"):
                images = preprocessed(images, self.preprocessing, backend)
        return self.symmetries.average(lambda block: backend.encode(block, self.network.layers), images)

    def encode_in_stages(
        self, images: Array, backend: Backend, stage: Callable[[str], AbstractContextManager[None]]
    ) -> Array:
        """Compute features [n, d] step by step, each in a context of its name: what takes which time."""
        for step in self.preprocessing:
            with stage(step.name):
                images = preprocessed(images, (step,), backend)

        def network(maps: Array) -> Array:
            for number, layer in enumerate(self.network.layers, 1):
                with stage(f"layer {number} ({layer.spec.shown_patch}, {layer.spec.filters:,} filters)"):
                    maps = backend.encode(maps, [layer])
            return maps

        if len(self.symmetries) == 1:
            return network(images).reshape(len(images), -1)
        with stage("symmetries"):  # but for the layers, whose stages are inside
            return self.symmetries.average(network, images).reshape(len(images), -1)

    def width(self, shape: Shape) -> int:
        """Count the features of an image of this shape."""
        return math.prod(self.network.output_shape(shape))

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """Return how many images to encode at a time, beside the features of so many other encoders."""
        averaged = len(self.symmetries) > 1  # there are those of another variant, too
        return max(1, backend.images_per_block(self.network.layers, shape) // (1 + beside + averaged))

    def bytes_held(self) -> int:
        """Count the bytes of what it has learned, and of that as backends take it."""
        return sum(int(array.nbytes) for array in preprocessing_arrays(self.preprocessing).values()) + sum(
            layer_bytes(layer.spec, layer.anchors.shape[3]) for layer in self.network.layers
        )

    def bytes_at_once(self, shape: Shape, backend: Backend, memory: int) -> int:
        """Count what a block of images takes that may take so many bytes, or of one."""
        spec = EncoderSpec(self.network.specs, self.preprocessing, self.symmetries)
        return spec.bytes_at_once(0, shape, backend, memory)

    @property
    def n_parameters(self) -> int:
        """Number of numbers that it has learned: those of its anchor points."""
        return self.network.n_parameters

    def describe(self, shape: Shape | None) -> dict[str, Any]:
        """Return everything but the arrays, and what becomes of images of a shape, as plain data."""
        layers = []
        for layer in self.network.layers:
            size: dict[str, Any] = {"output_shape": None, "on_a_gpu": None}
            if shape is not None:
                reason = unfused_reason(layer.spec, shape)
                shape = layer.spec.output_shape(shape)
                size = {
                    "output_shape": list(shape),
                    "on_a_gpu": "one fused kernel" if reason is None else f"array operations: {reason}",
                }
            layers.append(layer.to_dict() | {"n_parameters": layer.n_parameters} | size)
        own = self.to_dict()
        return {name: own[name] for name in ("kind", "preprocessing", "symmetries")} | {"layers": layers}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a model file holds it."""
        return {
            "kind": self.kind,
            **self.network.to_dict(),
            "preprocessing": [step.to_dict() for step in self.preprocessing],
            "symmetries": self.symmetries.to_dict(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return preprocessing_arrays(self.preprocessing) | self.network.arrays()

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Encoder":
        """Rebuild an encoder from what `to_dict` and `arrays` gave; see `Layer.from_dict` for errors."""
        return cls(
            CKN.from_dict(options, arrays),
            preprocessing_from_dict(options["preprocessing"], arrays),
            Symmetries(**options["symmetries"]),
        )
