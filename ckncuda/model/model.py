"""A whole model: encoders and a classifier on their features, fitted together and stored in one file."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, get_backend
from ckncuda.classifier import Classifier, TrainableClassifier
from ckncuda.classifier.training_data import check_classes
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.sources import Images, as_images, numbered, read_blocks
from ckncuda.network.encoder import Encoder, EncoderSpec, ImageEncoder
from ckncuda.network.network import CKN, PATCHES
from ckncuda.progress import Progress, labelled
from ckncuda.stopwatch import Stopwatch
from ckncuda.types import Shape


@dataclass
class Model:
    """What a model file holds.

    Attributes
    ----------
    encoders : tuple of Encoder or ExactEncoder
        One, or an ensemble: the features of an image are those of each, one after the other.
    classifier : Classifier or None
        On the features.
    image_shape : (height, width, channels) or None
        Of the images it was fitted on; others are refused.  None: any images that fit the network.
    image_type : {"uint8", "float32"} or None
        Of the images it was fitted on; others are refused, since bytes are scaled and floats are not.
    class_names : tuple of str or None
        Names of the labels 0, 1, …, where the training images came with names.
    report : dict
        How the model came about: seed, number of images, validation accuracy and how it was obtained.

    Examples
    --------
    >>> import ckncuda, pathlib, tempfile
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 2
    >>> images = rng.normal(size=(60, 8, 8, 1)).astype(np.float32) + labels[:, None, None, None]
    >>> layer = ckncuda.LayerSpec(filters=8, patch=3, subsampling=4, kernel=ckncuda.Exponential(sigma=0.6))
    >>> model = Model.fit(images, labels, [ckncuda.EncoderSpec([layer])], classifier=ckncuda.Ridge())
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.ckn"
    >>> model.save(path)
    >>> np.array_equal(ckncuda.load(path).predict(images), model.predict(images))
    True
    """

    encoders: tuple[ImageEncoder, ...]
    classifier: Classifier | None = None
    image_shape: Shape | None = None
    image_type: str | None = None
    class_names: tuple[str, ...] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_network(cls, network: CKN) -> "Model":
        """A network alone, for images of any size."""
        network.layers  # noqa: B018  (raises if there is nothing to keep)
        return cls((Encoder(network),))

    @classmethod
    def fit(
        cls,
        images: Images | NDArray[Any],
        labels: NDArray[np.int64] | None,
        specs: Sequence[EncoderSpec],
        *,
        classifier: TrainableClassifier | None = None,
        patches: int = PATCHES,
        seed: int = 0,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> "Model":
        """Fit the encoders without labels, then the classifier on their features.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
            uint8 or floating point.
        labels : int64 [n], optional
            Needed by a classifier only.
        specs : sequence of EncoderSpec
            One encoder, or several that make an ensemble.
        classifier : TrainableClassifier, optional
            Not yet fitted, such as ``Ridge()``; it is fitted in place.
        patches : int
            Sampled for each layer.
        seed : int
            The same seed, images and machine give the same model file, byte for byte.
        backend : Backend or str
            A backend or the name of one.  On a GPU encoders and classifier are all computed there, and
            features stay there in between if they take at most half of its free memory.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        stopwatch : Stopwatch, optional
            Told of the stages reading, preprocessing, anchors, features and classifier.

        Raises
        ------
        InvalidSpec
            The network does not fit the images.
        InvalidData
            Labels are missing or not as many as images, or images are malformed.
        """
        images = as_images(images)
        backend = get_backend(backend) if isinstance(backend, str) else backend
        stopwatch = stopwatch or Stopwatch()
        if classifier is not None:  # what can be found wrong is found before the long work
            classifier.check_options(images.shape[0], len(specs))
            if labels is None or len(labels) != images.shape[0]:
                given = "no" if labels is None else str(len(labels))
                raise InvalidData(
                    f"a classifier needs one label an image: given {images.shape[0]} images, {given} labels"
                )
            check_classes(labels)
        if not specs:
            raise InvalidSpec("a model needs at least one encoder")
        for spec in specs:
            spec.output_shape(images.shape[1:])
        encoders = tuple(
            Encoder.fit(
                spec,
                images,
                backend,
                patches=patches,
                seed=_seed_of(number, seed),
                progress=progress if len(specs) == 1 else labelled(progress, f"encoder {number + 1}"),
                stopwatch=stopwatch,
            )
            for number, spec in enumerate(specs)
        )
        model = cls(encoders, image_shape=images.shape[1:], image_type=type_name(images))
        model.report = {"n_images": images.shape[0], "n_features": model.n_features, "seed": seed}
        if classifier is not None and labels is not None:
            out = backend.empty((images.shape[0], model.n_features))
            for _ in model._blocks(images, _unchanged, backend, progress, stopwatch, out):
                pass
            with stopwatch.stage("classifier"):
                model.classifier = _fitted(classifier, out, labels, model.widths, backend, progress)
            model.report |= {
                "regularization": classifier.regularization_,
                "validation_accuracy": classifier.validation_accuracy_,
                "validation": f"{classifier.validation_}; "
                "preprocessing and network saw all images, without labels",
            }
        return model

    def transform(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> NDArray[np.floating[Any]]:
        """Feature maps [n, h', w', filters] of images, of a model that is no ensemble."""
        shape = self.network.output_shape(as_images(images).shape[1:])
        return self.features(images, backend=backend, progress=progress).reshape(-1, *shape)

    def features(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> NDArray[np.floating[Any]]:
        """Features [n, d] of images: the flattened feature maps (row, column, filter) of each encoder."""
        images = as_images(images)
        self.check_images(images)
        backend = get_backend(backend) if isinstance(backend, str) else backend
        out = np.empty((images.shape[0], self.features_of(images.shape[1:])), backend.dtype)
        for _ in self._blocks(images, _unchanged, backend, progress, Stopwatch(), out):
            pass
        return out

    def feature_blocks(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        """Features of block after block: pairs (number of the first image, features [b, d]).

        The stopwatch is told of the stages reading, preprocessing and features.
        """
        return self._blocks(images, _unchanged, backend, progress, stopwatch)

    def _blocks(
        self,
        images: Images | NDArray[Any],
        then: Callable[[NDArray[Any]], NDArray[Any]],
        backend: Backend | str,
        progress: Progress | None,
        stopwatch: Stopwatch | None,
        out: NDArray[Any] | None = None,
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """What ``then`` makes of the features of block after block, where the backend computes.

        With ``out``, NumPy's or of the backend's ``empty``, it is written there.
        """
        images = as_images(images)
        self.check_images(images)
        backend = get_backend(backend) if isinstance(backend, str) else backend
        watch = stopwatch or Stopwatch()

        def features(block: NDArray[Any]) -> NDArray[Any]:
            parts = [_flat(encoder.encode(block, backend, watch)) for encoder in self.encoders]
            return then(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

        read = watch.each("reading", read_blocks(images, self.images_per_block(images.shape[1:], backend)))
        blocks = backend.map_blocks(features, read, out)
        for start, block in watch.each("features", numbered(blocks)):
            done = start + len(block)
            yield start, block
            del block  # while the next one is made, this one need not be there
            if progress:
                progress("features", done, images.shape[0])

    def images_per_block(self, shape: Shape, backend: Backend) -> int:
        """How many images of this shape to encode at a time, within the backend's memory."""
        beside = len(self.encoders) - 1
        return min(encoder.images_per_block(shape, backend, beside) for encoder in self.encoders)

    def scores(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> NDArray[np.float32]:
        """Scores [n, classes] of images; columns in the order of ``classifier.classes_``.

        They are computed where the backend computes, block by block.  The stopwatch is told of the stages
        reading, preprocessing, features and classifier; waiting for the scores of a GPU counts as features.
        """
        classifier = self.classifier
        if classifier is None:
            raise InvalidSpec(
                "this model has no classifier: fit one with labels and --classifier ridge, for instance"
            )
        images = as_images(images)
        watch = stopwatch or Stopwatch()

        def scores(features: NDArray[Any]) -> NDArray[np.float32]:
            with watch.stage("classifier"):
                return classifier.unchecked_scores(features)

        out = np.empty((images.shape[0], len(classifier.classes_)), np.float32)
        for start, block in self._blocks(images, scores, backend, progress, watch):
            if not np.isfinite(block).all():
                image = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
                raise InvalidData(
                    f"features of image {image} (counting from 0) hold NaN or infinity: "
                    "look for a broken image or an overflow in the layers"
                )
            out[start : start + len(block)] = block
        return out

    def predict(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """Predicted labels [n] of images."""
        scores = self.scores(images, backend=backend, progress=progress)
        assert self.classifier is not None
        predicted: NDArray[np.int64] = self.classifier.classes_[scores.argmax(axis=1)]
        return predicted

    def check_images(self, images: Images) -> None:
        """Raise `InvalidData` unless the images are of the size and type that the model was fitted on."""
        shape = images.shape[1:]
        if self.image_shape is not None and shape != self.image_shape:
            raise InvalidData(
                f"images are of {'x'.join(map(str, shape))}; the model was fitted on "
                f"{'x'.join(map(str, self.image_shape))} (height x width x channels)"
            )
        if self.image_type is not None and type_name(images) != self.image_type:
            raise InvalidData(
                f"images are of type {type_name(images)}; the model was fitted on {self.image_type} images. "
                "Bytes are scaled from 0...255 to 0...1 and floating-point numbers are taken as they are: "
                "give the images in the form that the model was fitted on"
            )
        self.features_of(shape)

    @property
    def network(self) -> CKN:
        """The network of a model that is no ensemble.

        Raises
        ------
        InvalidSpec
            There are several encoders, or an exact kernel instead of a network.
        """
        if len(self.encoders) > 1:
            raise InvalidSpec(
                f"this model is an ensemble of {len(self.encoders)} encoders: there is no one network or "
                "feature map; use model.encoders, or features for those of all"
            )
        (encoder,) = self.encoders
        if not isinstance(encoder, Encoder):
            raise InvalidSpec(
                "this model compares images by an exact kernel: there is no network and no feature map; its "
                "features are the kernels with its training images"
            )
        return encoder.network

    @property
    def n_features(self) -> int:
        """Number of features of an image of `image_shape`."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many of the features come from each encoder."""
        if self.image_shape is None:
            raise InvalidSpec(
                "the number of features depends on the size of the images, which the model leaves open"
            )
        return self._widths(self.image_shape)

    def features_of(self, shape: Shape) -> int:
        """Number of features of an image of this shape."""
        return sum(self._widths(shape))

    def _widths(self, shape: Shape) -> tuple[int, ...]:
        return tuple(encoder.width(shape) for encoder in self.encoders)

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned: anchor points, or images to compare with, and the classifier's."""
        encoders = sum(encoder.n_parameters for encoder in self.encoders)
        return encoders + (0 if self.classifier is None else self.classifier.n_parameters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; see `ckncuda.files.model_file`."""
        from ckncuda.files.model_file import save

        save(self, path)


def _flat(maps: NDArray[Any]) -> NDArray[Any]:
    """Features [n, d] from feature maps [n, h, w, filters]."""
    return maps.reshape(len(maps), -1)


def _unchanged(features: NDArray[Any]) -> NDArray[Any]:
    return features


def _seed_of(number: int, seed: int) -> int:
    """Equal encoders of an ensemble differ; the first is the one that it would be alone."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _fitted(
    classifier: TrainableClassifier,
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    widths: tuple[int, ...],
    backend: Backend,
    progress: Progress | None,
) -> TrainableClassifier:
    """The classifier, fitted where the features are or, if the memory there does not suffice, on the host."""
    try:
        return classifier.fit(features, labels, progress=progress, widths=widths)
    except MemoryError:
        on_host = backend.to_host(features)
        if on_host is features:
            raise
        logging.getLogger("ckncuda").info(
            "The classifier is fitted on the CPU: the GPU's memory is too small"
        )
    return classifier.fit(on_host, labels, progress=progress, widths=widths)


def type_name(images: Images) -> str:
    """What a model says of the type of its images."""
    return "uint8" if images.dtype == np.uint8 else "float32"
