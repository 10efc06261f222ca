"""Encoders whose networks are trained end to end before anything is fitted on their features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ckncuda.backend import Backend, shared_backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import instance
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import Images, ImagesOrArray, as_images
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import LayerSpec, check_differentiable, check_specs
from ckncuda.network.encoder import Encoder, EncoderSpec, planned, seed_beside
from ckncuda.network.network import CKN, PATCHES
from ckncuda.progress import Report
from ckncuda.supervised.checkpoint import Checkpoints
from ckncuda.supervised.train import AS_GIVEN, FEATURE_SHARE, FEWEST, Trained, train
from ckncuda.supervised.training import Training
from ckncuda.types import Shape

TOP_FILTERS = 128  # at most, of the layer above those that are trained, while they are


@dataclass(frozen=True)
class TrainedEncoderSpec(EncoderSpec):
    """A way from images to features whose anchor points learn from labels.

    Parameters
    ----------
    layers, preprocessing, symmetries
        See `EncoderSpec`.
    training : Training

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> layer = LayerSpec(filters=64, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    >>> TrainedEncoderSpec([layer], training=Training(epochs=12)).output_shape((32, 32, 3))
    (8, 8, 64)
    """

    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        super().__post_init__()
        instance("training", self.training, Training, "expected Training(epochs=30), for instance")
        trained = self.training.train_layers
        if trained is not None and trained > len(self.layers):
            raise InvalidSpec(
                f"{trained} layers are to be trained, of a network of {len(self.layers)}: give at most "
                f"{len(self.layers)}"
            )
        check_differentiable(self.trained_layers)
        self._check_decorrelation()

    def _check_decorrelation(self) -> None:
        """Raise `InvalidSpec` if trained anchor points would get other maps than those they learned on."""
        count = self.training.train_layers or len(self.layers)
        for number, layer in enumerate(self.layers[: count - 1], 1):
            if layer.decorrelation:
                raise InvalidSpec(
                    f"layer {number} has a decorrelation, and the layer above it is trained without: give "
                    f"layer {number} decorrelation=0; layer {count} and those above may have one"
                )

    @property
    def is_trained_whole(self) -> bool:
        """True if no layer is learned without labels above those that are trained."""
        return self.training.train_layers in (None, len(self.layers))

    @property
    def trained_layers(self) -> tuple[LayerSpec, ...]:
        """The network that is trained: the lower layers, with a narrow one above where others follow."""
        count = self.training.train_layers or len(self.layers)
        layers = [replace(layer, decorrelation=0.0) for layer in self.layers[:count]]
        if count < len(self.layers):
            above = self.layers[count]
            narrow = min(above.filters, TOP_FILTERS)
            layers.append(replace(above, filters=narrow, decorrelation=0.0))
        return tuple(layers)

    def check(self, images: Images) -> None:
        """Raise `InvalidSpec` unless images fit."""
        super().check(images)
        self.training.augment.check(images.shape[1:])

    def bytes_to_fit(
        self, n: int, shape: Shape, patches: int, backend: Backend, memory: int
    ) -> dict[str, int]:
        """Count what is held, beside the images, to learn from n of them, by what it is for."""
        stages = super().bytes_to_fit(n, shape, patches, backend, memory)
        trained = planned(self.trained_layers)
        width = math.prod(check_specs(trained, shape)[-1])
        channels = [shape[2], *(layer.filters for layer in trained)]
        anchors = sum(4 * layer.filters * layer.terms(c) for layer, c in zip(trained, channels, strict=False))
        features = min(4 * n * width, max(4 * FEWEST * width, memory // FEATURE_SHARE))
        batch = 4 * 4 * min(n, self.training.batch) * math.prod(shape)  # as read, and while it is changed
        through = backend.bytes_at_once(trained, shape, memory // 8, back=True)
        learned = replace_layers(self, trained).bytes_learned(n, shape)
        stages["training"] = learned + 3 * features + 12 * anchors + batch + through
        return stages

    def fit(
        self,
        images: ImagesOrArray,
        backend: Backend | str,
        *,
        patches: int = PATCHES,
        seed: int = 0,
        beside: Sequence[object] = (),
        report: Report | None = None,
        labels: Any = None,
        checkpoints: Checkpoints | None = None,
    ) -> "TrainedEncoder":
        """Learn preprocessing and a network without labels, train it with them, and learn what is above.

        Parameters
        ----------
        images, backend, patches, seed, beside, report
            See `EncoderSpec.fit`.
        labels : integers [n]
        checkpoints : Checkpoints, optional
            The file of this encoder has the number of the trained ones ``beside`` it.
        """
        if labels is None:
            raise InvalidData("training end to end needs one label an image; there are none")
        images, backend = as_images(images), shared_backend(backend)
        report = Report() if report is None else report
        start = replace_layers(self, self.trained_layers).fit(
            images, backend, patches=patches, seed=seed, beside=beside, report=report
        )
        network, own = start.network, seed_beside(seed, beside)
        if self.training.start == "random":
            network = _random(network, own)
        trained_before = sum(isinstance(encoder, TrainedEncoder) for encoder in beside)
        write, resume = (checkpoints or Checkpoints()).of(trained_before)
        prepared = PreprocessedImages(images, start.preprocessing, backend, report).held()
        with report.stage("training"):
            trained = train(
                *(network, prepared, labels, replace(self.training, **AS_GIVEN)),
                seed=seed,
                backend=backend,
                progress=report,
                checkpoint=write,
                resume=resume,
            )
        with report.stage("anchors"):
            count = self.training.train_layers or len(self.layers)
            how: dict[str, Any] = {"patches": patches, "seed": own, "backend": backend, "progress": report}
            above = CKN(self.layers)
            above.fit(prepared, learned=trained.network.layers[:count], **how)
        return TrainedEncoder(above, start.preprocessing, self.symmetries, trained)


def replace_layers(spec: EncoderSpec, layers: Sequence[LayerSpec]) -> EncoderSpec:
    """Return an encoder without training, of other layers."""
    return EncoderSpec(layers, spec.preprocessing, spec.symmetries)


@dataclass(frozen=True, eq=False)
class TrainedEncoder(Encoder):
    """An encoder, and how it came about; in a model file it is as any other network.

    Attributes
    ----------
    trained : Trained or None
    """

    trained: Trained | None = None
    saw: ClassVar[str] = "preprocessing and the network at its start"


def _random(network: CKN, seed: int) -> CKN:
    """Return a network whose anchor points are drawn uniformly from the sphere."""
    layers = []
    for number, layer in enumerate(network.layers, 1):
        drawn = np.random.default_rng([seed, number]).normal(size=layer.anchors.shape)
        drawn /= np.linalg.norm(drawn.reshape(len(drawn), -1), axis=1)[:, None, None, None]
        layers.append(Layer.from_anchors(layer.spec, drawn.astype(np.float32)))
    return CKN.from_layers(layers)
