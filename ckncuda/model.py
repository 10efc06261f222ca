"""A whole model: preprocessing, network and classifier, fitted together and stored in one file."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, get_backend
from ckncuda.classifier import LinearClassifier, TrainableClassifier
from ckncuda.classifier.training_data import check_classes
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images import Images, as_float, as_images
from ckncuda.layer import LayerSpec, Shape
from ckncuda.network import CKN, PATCHES, check_specs
from ckncuda.preprocess import Preprocessor
from ckncuda.progress import Progress
from ckncuda.stopwatch import Stopwatch


class _Preprocessed:
    """Images that are preprocessed as they are read, where the backend computes.

    Without preprocessing they stay where and what they are, bytes as bytes, unless ``brought`` to the
    backend: the network copies one block there while it computes another.
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Sequence[Preprocessor],
        backend: Backend,
        stopwatch: Stopwatch | None = None,
        brought: bool = False,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.backend = backend
        self.stopwatch = stopwatch or Stopwatch()
        self.brought = brought or bool(preprocessing)
        self.shape = images.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self.brought else images.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with self.stopwatch.stage("reading"):
            block = self.images.read(start, stop)
        with self.stopwatch.stage("preprocessing"):
            if self.brought:
                block = as_float(self.backend.asarray(block))
            for preprocessor in self.preprocessing:
                block = preprocessor.apply(block)
        return block


@dataclass
class Model:
    """What a model file holds.

    Attributes
    ----------
    network : CKN
        Fitted.
    preprocessing : tuple of Preprocessor
        Fitted, in the order in which they are applied.
    classifier : LinearClassifier or None
        On the flattened feature maps.
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
    >>> from ckncuda.classifier import Ridge
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 2
    >>> images = rng.normal(size=(60, 8, 8, 1)).astype(np.float32) + labels[:, None, None, None]
    >>> spec = ckncuda.LayerSpec(filters=8, patch=3, subsampling=4, kernel=ckncuda.Exponential(sigma=0.6))
    >>> model = Model.fit(images, labels, [spec], classifier=Ridge())
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.ckn"
    >>> model.save(path)
    >>> np.array_equal(ckncuda.load(path).predict(images), model.predict(images))
    True
    """

    network: CKN
    preprocessing: tuple[Preprocessor, ...] = ()
    classifier: LinearClassifier | None = None
    image_shape: Shape | None = None
    image_type: str | None = None
    class_names: tuple[str, ...] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_network(cls, network: CKN) -> "Model":
        """A network alone, for images of any size."""
        network.layers  # noqa: B018  (raises if there is nothing to keep)
        return cls(network)

    @classmethod
    def fit(
        cls,
        images: Images | NDArray[Any],
        labels: NDArray[np.int64] | None,
        specs: Sequence[LayerSpec],
        *,
        preprocessing: Sequence[Preprocessor] = (),
        classifier: TrainableClassifier | None = None,
        patches: int = PATCHES,
        seed: int = 0,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> "Model":
        """Fit preprocessing and network without labels, then the classifier on their features.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
            uint8 or floating point.
        labels : int64 [n], optional
            Needed by a classifier only.
        specs : sequence of LayerSpec
            The network.
        preprocessing : sequence of Preprocessor
            Applied in this order.
        classifier : LinearClassifier, optional
            Not yet fitted, such as ``Ridge()``; it is fitted in place.
        patches : int
            Sampled for each layer.
        seed : int
            The same seed, images and machine give the same model file, byte for byte.
        backend : Backend or str
            A backend or the name of one.  On a GPU preprocessing, network and classifier are all computed
            there, and features stay there in between if they take at most half of its free memory.
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
            classifier.check_options()
            if labels is None or len(labels) != images.shape[0]:
                given = "no" if labels is None else str(len(labels))
                raise InvalidData(
                    f"a classifier needs one label an image: given {images.shape[0]} images, {given} labels"
                )
            check_classes(labels)
        shape = images.shape[1:]
        check_specs(specs, shape)
        model = cls(CKN(specs), image_shape=shape, image_type=_type_name(images))
        with stopwatch.stage("preprocessing"):
            for preprocessor in preprocessing:
                so_far = _Preprocessed(images, model.preprocessing, backend, stopwatch, brought=True)
                model.preprocessing += (preprocessor.fit(so_far, progress),)
        prepared = _Preprocessed(images, model.preprocessing, backend, stopwatch)
        with stopwatch.stage("anchors"):
            model.network.fit(prepared, patches=patches, seed=seed, backend=backend, progress=progress)
        model.report = {"n_images": images.shape[0], "n_features": model.n_features, "seed": seed}
        if classifier is not None and labels is not None:
            with stopwatch.stage("features"):
                out = backend.empty((images.shape[0], *model.network.output_shape(shape)))
                maps = model.network.transform(prepared, backend=backend, progress=progress, out=out)
            with stopwatch.stage("classifier"):
                model.classifier = _fitted(classifier, _flat(maps), labels, backend, progress)
            model.report |= {
                "regularization": classifier.regularization_,
                "validation_accuracy": classifier.validation_accuracy_,
                "validation": f"{classifier.validation_}; the network saw all images, without labels",
            }
        return model

    def transform(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> NDArray[np.floating[Any]]:
        """Feature maps [n, h', w', filters] of images: preprocessing, then the network."""
        images = as_images(images)
        self.check_images(images)
        backend = get_backend(backend) if isinstance(backend, str) else backend
        return self.network.transform(
            _Preprocessed(images, self.preprocessing, backend), backend=backend, progress=progress
        )

    def features(
        self,
        images: Images | NDArray[Any],
        *,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
    ) -> NDArray[np.floating[Any]]:
        """Features [n, d] of images, the flattened feature maps (row, column, filter)."""
        maps = self.transform(images, backend=backend, progress=progress)
        return maps.reshape(len(maps), -1)

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
        return self._blocks(images, _flat, backend, progress, stopwatch)

    def _blocks(
        self,
        images: Images | NDArray[Any],
        then: Callable[[NDArray[Any]], NDArray[Any]],
        backend: Backend | str,
        progress: Progress | None,
        stopwatch: Stopwatch | None,
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """What ``then`` makes of the feature maps of block after block, where the backend computes."""
        images = as_images(images)
        self.check_images(images)
        backend = get_backend(backend) if isinstance(backend, str) else backend
        stopwatch = stopwatch or Stopwatch()
        prepared = _Preprocessed(images, self.preprocessing, backend, stopwatch)
        blocks = self.network.transform_blocks(prepared, backend=backend, then=then)
        for start, block in stopwatch.each("features", blocks):
            done = start + len(block)
            yield start, block
            del block  # while the next one is made, this one need not be there
            if progress:
                progress("features", done, images.shape[0])

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

        def scores(maps: NDArray[Any]) -> NDArray[np.float32]:
            with watch.stage("classifier"):
                return classifier.unchecked_scores(_flat(maps))

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
        if self.image_type is not None and _type_name(images) != self.image_type:
            raise InvalidData(
                f"images are of type {_type_name(images)}; the model was fitted on {self.image_type} images. "
                "Bytes are scaled from 0...255 to 0...1 and floating-point numbers are taken as they are: "
                "give the images in the form that the model was fitted on"
            )
        self.network.output_shape(shape)

    @property
    def n_features(self) -> int:
        """Number of features of an image of `image_shape`."""
        if self.image_shape is None:
            raise InvalidSpec(
                "the number of features depends on the size of the images, which the model leaves open"
            )
        return self._n_features(self.image_shape)

    def _n_features(self, shape: Shape) -> int:
        height, width, filters = self.network.output_shape(shape)
        return height * width * filters

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned: anchor points, class weights and intercepts."""
        classifier = (
            0 if self.classifier is None else self.classifier.weights_.size + self.classifier.intercept_.size
        )
        return self.network.n_parameters + int(classifier)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; see `ckncuda.model_file`."""
        from ckncuda.model_file import save

        save(self, path)


def _flat(maps: NDArray[Any]) -> NDArray[Any]:
    """Features [n, d] from feature maps [n, h, w, filters]."""
    return maps.reshape(len(maps), -1)


def _fitted(
    classifier: TrainableClassifier,
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    backend: Backend,
    progress: Progress | None,
) -> TrainableClassifier:
    """The classifier, fitted where the features are or, if the memory there does not suffice, on the host."""
    try:
        return classifier.fit(features, labels, progress=progress)
    except MemoryError:
        on_host = backend.to_host(features)
        if on_host is features:
            raise
        logging.getLogger("ckncuda").info(
            "The classifier is fitted on the CPU: the GPU's memory is too small"
        )
    return classifier.fit(on_host, labels, progress=progress)


def _type_name(images: Images) -> str:
    return "uint8" if images.dtype == np.uint8 else "float32"
