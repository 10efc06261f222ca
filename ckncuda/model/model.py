"""A whole model: encoders and a classifier on their features, fitted together and stored in one file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, KeptBackends
from ckncuda.classifier import Classifier, GramRidge, TrainableClassifier, classifier_from_arrays
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files import model_file
from ckncuda.given.parameters import file_name, instance
from ckncuda.images.sources import Images, ImagesOrArray, as_images_of, class_names, type_name
from ckncuda.model.encoders import ImageEncoder, ImageEncoderSpec, encoder_from_dict
from ckncuda.model.fitting import Fitting
from ckncuda.model.memory import check_prediction
from ckncuda.network.encoder import Encoder
from ckncuda.network.network import CKN, PATCHES, check_features, check_one_network
from ckncuda.progress import Progress, Report
from ckncuda.supervised.checkpoint import Checkpoints
from ckncuda.supervised.encoder import TrainedEncoder
from ckncuda.types import Array, Shape, StrPath


@dataclass
class Model:
    """Encoders and a classifier: what a model file holds.

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
    _backends: KeptBackends = field(default_factory=KeptBackends, init=False, repr=False, compare=False)

    @classmethod
    def of_network(cls, network: CKN) -> "Model":
        """Make a model of a network alone, for images of any size."""
        instance("network", network, CKN, "expected a CKN that has learned, such as CKN(specs).fit(images)")
        network.layers  # noqa: B018  (raises if there is nothing to keep)
        return cls((Encoder(network),))

    @classmethod
    def fit(
        cls,
        images: ImagesOrArray,
        labels: NDArray[np.int64] | None,
        specs: Sequence[ImageEncoderSpec],
        *,
        classifier: TrainableClassifier | GramRidge | None = None,
        grams: Sequence[NDArray[Any]] | None = None,
        patches: int = PATCHES,
        seed: int = 0,
        backend: Backend | str = "auto",
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> "Model":
        """Fit the encoders, then the classifier on their features; see also `ckncuda.fit`.

        More than nine parameters: what is fitted, on what, and how.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
            uint8 or floating point.
        labels : int64 [n], optional
            Needed by a classifier, and for exact kernels.
        specs : sequence of EncoderSpec, or of ExactEncoderSpec
            One encoder, or several that make an ensemble.
        classifier : TrainableClassifier, or GramRidge for exact kernels, optional
            Not yet fitted, such as ``Ridge()``; it is fitted in place.
        grams : sequence of arrays [n, n], optional
            Gram matrices of the training images, one an exact kernel; a few entries are compared.
        patches, seed
            See `CKN.fit`; the same seed, images and machine give the same model file, byte for byte.
        backend : Backend or str
            On a GPU, features stay there if they take at most half of its free memory.
        progress : callable or Report, optional
        checkpoints : Checkpoints, optional
            Where encoders that are trained end to end keep what they have learned so far, and go on from.

        Raises
        ------
        InvalidSpec, OutOfMemory
            An encoder does not fit the images or the memory given, or an option is out of its range.
        InvalidData
            Labels are missing or too few, images are malformed, or a Gram matrix is not theirs.
        """
        report = Report.of(progress)
        fitting = Fitting(images, specs, seed, backend, report, checkpoints)
        fitting.check(labels, classifier, grams)  # what can be found wrong is found before the long work
        learner = None if labels is None else classifier
        encoders = fitting.encoders(patches, learner, labels)
        shape, kind = fitting.images.shape, type_name(fitting.images)
        model = cls(encoders, None, shape[1:], kind, class_names(images, labels))
        model.report = {"n_images": shape[0], "n_features": model.n_features, "seed": fitting.seed}
        model.report |= _trainings(encoders)
        if classifier is not None and labels is not None:
            model._fit_classifier(classifier, labels, fitting, grams)
        return model

    def _fit_classifier(
        self,
        classifier: TrainableClassifier | GramRidge,
        labels: NDArray[np.int64],
        fitting: Fitting,
        grams: Sequence[NDArray[Any]] | None,
    ) -> None:
        """Fit the classifier on the encoders' features of the training images, or on Gram matrices."""
        report = fitting.report
        if fitting.compares:
            features: Any = fitting.grams(self.encoders, grams)
        else:
            features = fitting.backend.empty((fitting.images.shape[0], self.n_features))
            for _ in self._blocks(fitting.images, fitting.backend, report, features):
                pass
        with report.stage("classifier"):
            fitting.fit_classifier(classifier, features, labels, self.widths)
        self.classifier = classifier
        self.report |= fitting.judged(classifier, self.encoders)

    def take_head(self) -> None:
        """Predict as the linear classifier does that the model's network was trained with."""
        (encoder,) = self.encoders
        assert isinstance(encoder, TrainedEncoder)
        assert encoder.trained is not None
        trained = encoder.trained
        alone = "; measured without averaging over variants" if len(encoder.symmetries) > 1 else ""
        self.classifier = trained.head
        self.report |= {
            "regularization": trained.regularization,
            "validation_accuracy": trained.held_out_accuracy,
            "validation": f"{trained.sentence}{alone}; {encoder.saw} saw all images, without labels",
        }

    def transform(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> Array:
        """Compute feature maps [n, h', w', filters] of images, of a model that is no ensemble."""
        images = as_images_of(images, self.image_shape)
        shape = self.network.output_shape(images.shape[1:])
        return self.features(images, backend=backend, progress=progress).reshape(-1, *shape)

    def features(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> Array:
        """Compute features [n, d] of images: the flattened maps (row, column, filter) of each encoder."""
        images = as_images_of(images, self.image_shape)
        self.check_images(images)
        backend = self._backends.of(backend)
        out = np.empty((images.shape[0], self.features_of(images.shape[1:])), backend.dtype)
        for _ in self._blocks(images, backend, progress, out):
            pass
        return out

    def feature_blocks(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> Iterator[tuple[int, Array]]:
        """Yield features of block after block: pairs (number of the first image, features [b, d]).

        A report is told of the stages reading, preprocessing and features.
        """
        return self._blocks(images, backend, progress)

    def _blocks(
        self,
        images: ImagesOrArray,
        backend: Backend | str,
        progress: Progress | None,
        out: NDArray[Any] | None = None,
        then: Callable[[NDArray[Any]], NDArray[Any]] = lambda features: features,
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield what ``then`` makes of the features of block after block, where the backend computes.

        With ``out``, NumPy's or of the backend's ``empty``, it is written there.
        """
        images = as_images_of(images, self.image_shape)
        self.check_images(images)
        backend = self._backends.of(backend)
        check_prediction(self.encoders, self.classifier, images.shape[1:], backend)
        report, start = Report.of(progress), 0

        def features(block: NDArray[Any]) -> NDArray[Any]:
            maps = (encoder.encode(block, backend, report) for encoder in self.encoders)
            parts = [each.reshape(len(block), -1) for each in maps]
            return then(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

        size = self.images_per_block(images.shape[1:], backend)
        read = report.each("reading", images.blocks(size))
        for block in report.each("features", backend.map_blocks(features, read, out)):
            check_features(block, start, images)
            done = start + len(block)
            yield start, block
            del block  # while the next one is made, this one need not be there
            start = done
            report("features", done, images.shape[0])

    def images_per_block(self, shape: Shape, backend: Backend) -> int:
        """Return how many images of this shape to encode at a time, within the backend's memory."""
        beside = len(self.encoders) - 1
        return min(encoder.images_per_block(shape, backend, beside) for encoder in self.encoders)

    def scores(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Compute scores [n, classes] of images; columns in the order of ``classifier.classes_``.

        They are computed where the backend computes, block by block.  A report is told of the stages
        reading, preprocessing, features and classifier; waiting for the scores of a GPU counts as features.
        """
        classifier = self.classifier
        if classifier is None:
            raise InvalidSpec(
                "this model has no classifier: fit one with labels and --classifier ridge, for instance"
            )
        images = as_images_of(images, self.image_shape)
        self.check_images(images)
        if (given := self.features_of(images.shape[1:])) != classifier.n_features:
            raise InvalidData(
                f"images of {'x'.join(map(str, images.shape[1:]))} have {given} features; the classifier "
                f"takes {classifier.n_features}: give images of the size that the model was fitted on"
            )
        report = Report.of(progress)

        def scores(features: NDArray[Any]) -> NDArray[np.float32]:
            with report.stage("classifier"):
                return classifier.unchecked_scores(features)

        out = np.empty((images.shape[0], len(classifier.classes_)), np.float32)
        for start, block in self._blocks(images, backend, report, then=scores):
            out[start : start + len(block)] = block
        return out

    def predict(
        self, images: ImagesOrArray, *, backend: Backend | str = "auto", progress: Progress | None = None
    ) -> NDArray[np.int64]:
        """Predict the labels [n] of images."""
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
        """The network of a model that is no ensemble and no exact kernel; `InvalidSpec` if it is."""
        check_one_network([encoder.kind for encoder in self.encoders])
        (encoder,) = self.encoders
        assert isinstance(encoder, Encoder)
        return encoder.network

    @property
    def n_features(self) -> int:
        """Number of features of an image of `image_shape`."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of features that come from each encoder."""
        if self.image_shape is None:
            raise InvalidSpec(
                "the number of features depends on the size of the images, which the model leaves open"
            )
        return tuple(encoder.width(self.image_shape) for encoder in self.encoders)

    def features_of(self, shape: Shape) -> int:
        """Count the features of an image of this shape."""
        return sum(encoder.width(shape) for encoder in self.encoders)

    @property
    def n_parameters(self) -> int:
        """Number of numbers learned: anchor points, or images to compare with, and the classifier's."""
        encoders = sum(encoder.n_parameters for encoder in self.encoders)
        return encoders + (0 if self.classifier is None else self.classifier.n_parameters)

    def save(self, path: StrPath) -> None:
        """Write the model file; see `ckncuda.files.model_file`."""
        about = {name: getattr(self, name) for name in ("image_shape", "image_type", "class_names", "report")}
        contents = model_file.Contents(self.encoders, self.classifier, about)
        model_file.save(contents, file_name(path, '"model.ckn"'))

    @classmethod
    def load(cls, path: StrPath) -> "Model":
        """Read a model file that `save` or ``ckn fit`` wrote.

        Raises
        ------
        InvalidModelFile
            There is no such file, it is not a model, it is damaged, or it is of a newer version.
        """
        return model_file.load(file_name(path, '"model.ckn"'), cls._put_together)

    @classmethod
    def _put_together(cls, contents: model_file.Contents) -> "Model":
        """Return the model of a file; raise `ValueError` where its parts do not fit together."""
        classifier, about = contents.classifier, contents.about
        model = cls(
            tuple(encoder_from_dict(part.to_dict(), part.arrays()) for part in contents.encoders),
            None if classifier is None else classifier_from_arrays(classifier.to_dict(), classifier.arrays()),
            image_shape=about["image_shape"] and tuple(about["image_shape"]),
            image_type=about["image_type"],
            class_names=about["class_names"] and tuple(about["class_names"]),
            report=about["report"],
        )
        takes = model.classifier.n_features if model.classifier is not None else None
        if takes is not None and model.image_shape is not None and model.n_features != takes:
            raise ValueError(f"the classifier takes {takes} features, the encoders give {model.n_features}")
        if model.classifier is not None and model.class_names is not None:
            labels = model.classifier.classes_
            if labels[0] < 0 or labels[-1] >= len(model.class_names):  # names of something else, then
                model.class_names = None
        return model


def _trainings(encoders: Sequence[ImageEncoder]) -> dict[str, Any]:
    """Return what a report says of encoders that were trained end to end; nothing where none was."""
    trained = [each.trained for each in encoders if isinstance(each, TrainedEncoder) and each.trained]
    if not trained:
        return {}
    return {"training": [{"chosen": each.sentence, "history": list(each.history)} for each in trained]}


def load(path: StrPath) -> Model:
    """Read a model file; see `Model.load`."""
    return Model.load(path)
