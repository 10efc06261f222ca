"""The steps of fitting a model: what is checked, encoders, Gram matrices, the classifier."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend
from ckncuda.classifier import GramRidge, NystromRidge, TrainableClassifier
from ckncuda.classifier.training_data import check_classes
from ckncuda.classifier.validation import HeldOutOrLeftOut
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.encoder import ExactEncoder, ExactEncoderSpec, drawn_landmarks
from ckncuda.exact.job import SAID, digest, plain
from ckncuda.given.parameters import instance, several, shown, whole
from ckncuda.images.sources import ImagesOrArray, as_images
from ckncuda.model.encoders import ImageEncoder, ImageEncoderSpec
from ckncuda.model.memory import check_fit
from ckncuda.network.encoder import EncoderSpec
from ckncuda.progress import Report
from ckncuda.supervised.checkpoint import Checkpoints
from ckncuda.supervised.encoder import TrainedEncoder, TrainedEncoderSpec
from ckncuda.types import Array, Index

Learner = TrainableClassifier | GramRidge

MIXED = "preprocessing and networks, those that were trained as they were at their start,"
"""The parts of an ensemble, some of it trained, that saw all images before any was held out."""


class Fitting:
    """Training images, specifications of encoders, and how to compute.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
    specs : sequence of ImageEncoderSpec
    seed : int
    backend : Backend or str
    report : Report
    checkpoints : Checkpoints, optional
        Where encoders that are trained end to end keep what they have learned so far, and go on from.

    Attributes
    ----------
    images : Images
    backend : Backend
    seed : int
    report : Report
    compares : bool
        True if features are comparisons with the training images, by exact kernels.
    """

    def __init__(
        self,
        images: ImagesOrArray,
        specs: Sequence[ImageEncoderSpec],
        seed: int,
        backend: Backend | str,
        report: Report,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        expected = "expected a list of encoders such as EncoderSpec(layers), or of ExactEncoderSpec(kernel)"
        kinds = (EncoderSpec, ExactEncoderSpec)
        self._specs: tuple[ImageEncoderSpec, ...] = several("specs", specs, kinds, expected)
        self.images = as_images(images)
        self.backend = shared_backend(backend)
        self.compares = any(spec.compares for spec in self._specs)
        self.seed, self.report = whole("seed", seed, 0), report
        self._checkpoints = checkpoints

    def check(
        self, labels: NDArray[np.int64] | None, learner: Learner | None, grams: Sequence[Array] | None
    ) -> None:
        """Raise `InvalidSpec` or `InvalidData` for what could not be fitted; nothing is computed."""
        n, count = self.images.shape[0], len(self._specs)
        if learner is not None:
            kinds = (TrainableClassifier, GramRidge)
            expected = (
                "expected a classifier that is not fitted yet, such as Ridge() or KernelRidge(), or None"
            )
            instance("classifier", learner, kinds, expected)
        if self.compares:
            self._check_labels(labels, "exact kernels need one label an image to be fitted")
        elif learner is not None and not isinstance(learner, GramRidge):
            learner.check_options(n, count)
            self._check_labels(labels, "a classifier needs one label an image")
        if not count:
            what = "kernel" if isinstance(learner, GramRidge) else "encoder"
            raise InvalidSpec(f"a model needs at least one {what}")
        trainings = sum(isinstance(spec, TrainedEncoderSpec) for spec in self._specs)
        if trainings:
            self._check_labels(labels, "training end to end needs one label an image")
            self._check_held_out(learner)
        if self._checkpoints is not None:
            self._checkpoints.check(trainings)
        if self.compares != all(spec.compares for spec in self._specs):
            raise InvalidSpec(
                "networks and exact kernels do not go into one model: give one kind of encoders"
            )
        if isinstance(learner, GramRidge) and self.compares:
            learner.check_options(n if self._landmarks is None else None, count)
        elif learner is not None and (self.compares or isinstance(learner, GramRidge)):
            raise InvalidSpec(
                f"{type(learner).__name__} does not go with these encoders: give GramRidge for "
                "exact kernels, any other classifier for networks"
            )
        for spec in self._specs:
            spec.check(self.images)
        if len({getattr(spec, "landmarks", None) for spec in self._specs}) > 1:
            raise InvalidSpec("the kernels have different landmarks: give each the same number of them")
        if grams is not None:
            if not self.compares:
                raise InvalidSpec(
                    "Gram matrices are those of exact kernels; networks have features: give none"
                )
            self._check_grams(grams)

    def _check_held_out(self, learner: Learner | None) -> None:
        """Raise `InvalidSpec` unless choices are made on images that anchor points did not learn from."""
        trainings = {spec.training.validation for spec in self._specs if isinstance(spec, TrainedEncoderSpec)}
        if len(trainings) > 1:
            raise InvalidSpec(
                "the encoders hold out different parts of the images: give each the same validation"
            )
        (held_out,) = trainings
        if learner is None or not held_out:
            return
        chosen = not isinstance(learner, HeldOutOrLeftOut | NystromRidge) or learner.choose == "held-out"
        if learner.validation != held_out or learner.seed != self.seed or not chosen:
            raise InvalidSpec(
                "anchor points that learned from labels make other accuracies optimistic: give the "
                f'classifier validation={held_out}, seed={self.seed} and choose="held-out"'
            )

    def _check_labels(self, labels: NDArray[np.int64] | None, needs: str) -> None:
        n = self.images.shape[0]
        if labels is None:
            raise InvalidData(f"{needs}: given {n} images, no labels")
        _, targets = check_classes(labels)
        if len(targets) != n:
            raise InvalidData(f"{needs}: given {n} images, {len(targets)} labels")

    def _check_grams(self, grams: Sequence[Array]) -> None:
        n = self.images.shape[0]
        if self._landmarks is not None:
            raise InvalidSpec("landmarks spare a Gram matrix of all images, but one is given: leave one out")
        if not isinstance(grams, list | tuple):
            raise InvalidSpec(f"grams is {shown(grams)}; expected a list with one a kernel, such as [K]")
        if len(grams) != len(self._specs):
            raise InvalidSpec(
                f"{len(grams)} Gram matrices were given for {len(self._specs)} kernels; give one each"
            )
        for number, matrix in enumerate(grams, 1):
            if not hasattr(matrix, "shape"):
                raise InvalidSpec(
                    f"grams[{number - 1}] is {shown(matrix)}; expected an array [{n}, {n}], such as "
                    'numpy.load gives, or ckncuda.exact.on_disk.reading.open_gram("K.zarr")'
                )
            if tuple(matrix.shape) != (n, n):
                raise InvalidData(
                    f"Gram matrix {number} is of shape {list(matrix.shape)}; expected [{n}, {n}], that of "
                    f"the {n} training images"
                )
        identities = [getattr(matrix, "identity", None) for matrix in grams]
        if any(identity is not None for identity in identities):
            images = digest(self.images)
            for number, (identity, spec) in enumerate(zip(identities, self._specs, strict=True), 1):
                assert isinstance(spec, ExactEncoderSpec)
                kernel = plain(spec.kernel.description())
                _check_identity(identity, number, {"images": images, "images2": None, "kernel": kernel})

    @property
    def _landmarks(self) -> int | None:
        """Number of landmarks, the same for all kernels; None: all images are compared with."""
        first = self._specs[0]
        return first.landmarks if isinstance(first, ExactEncoderSpec) else None

    def _chosen(self) -> Index | None:
        """Return the numbers of the landmarks; None: all images are compared with."""
        return drawn_landmarks(self._landmarks, self.images.shape[0], self.seed)

    def encoders(
        self, patches: int, learner: Learner | None, labels: NDArray[np.int64] | None = None
    ) -> tuple[ImageEncoder, ...]:
        """Learn the encoders, one after the other; a learner will follow, or none.

        Labels are for encoders that are trained end to end.

        Raises
        ------
        OutOfMemory
            Encoders and learner would take more than the memory that was given to the backend.
        """
        with self.report.stage("preprocessing"):
            specs = [spec.resolved(self.images, self.report) for spec in self._specs]
        patches = whole("patches", patches, 1)
        check_fit(specs, learner, self.images, patches, self.backend, self.report)
        encoders: list[ImageEncoder] = []
        for number, spec in enumerate(specs):
            report = self._of(number)
            how: dict[str, Any] = {"patches": patches, "seed": self.seed}
            how |= {"beside": encoders, "report": report}
            if isinstance(spec, TrainedEncoderSpec):
                how |= {"labels": labels, "checkpoints": self._checkpoints}
            encoders.append(spec.fit(self.images, self.backend, **how))
        return tuple(encoders)

    def _of(self, number: int) -> Report:
        """Return the report of one of several encoders."""
        if len(self._specs) == 1:
            return self.report
        return self.report.labelled(f"{'kernel' if self.compares else 'encoder'} {number + 1}")

    def grams(self, encoders: Sequence[ImageEncoder], given: Sequence[Array] | None) -> list[Array]:
        """Compute the kernels of the training images with each encoder's points, or check those given."""
        chosen = self._chosen()
        matrices: list[Array] = []
        for number, encoder in enumerate(encoders):
            assert isinstance(encoder, ExactEncoder)
            with self.report.stage("features"):
                if given is None:
                    matrices.append(encoder.gram(self.images, chosen, self.backend, self._of(number)))
                else:
                    steps = plain([step.to_dict() for step in encoder.preprocessing])
                    identity = getattr(given[number], "identity", None)
                    _check_identity(identity, number + 1, {"preprocessing": steps})
                    encoder.check_gram(given[number], number + 1, self.seed, self.backend)
                    matrices.append(given[number])
        return matrices

    def fit_classifier(
        self, learner: Learner, features: Any, labels: NDArray[np.int64], widths: tuple[int, ...]
    ) -> None:
        """Fit it where the features are or, if the memory there does not suffice, on the host."""
        if isinstance(learner, GramRidge):
            learner.fit(features, labels, points=self._chosen(), progress=self.report)
            return
        try:
            learner.fit(features, labels, progress=self.report, widths=widths)
        except MemoryError:
            on_host = self.backend.to_host(features)
            if on_host is features:
                raise
            logging.getLogger("ckncuda").info(
                "The classifier is fitted on the CPU: the GPU's memory is too small"
            )
        else:
            return
        learner.fit(on_host, labels, progress=self.report, widths=widths)

    def judged(self, learner: Learner, encoders: Sequence[ImageEncoder]) -> dict[str, Any]:
        """Return what a report says of the fitted classifier, and what of the model saw all images."""
        saws = {encoder.saw for encoder in encoders} - {""}
        saw = saws.pop() if len(saws) == 1 else MIXED if saws else ""
        trained = [each.trained for each in encoders if isinstance(each, TrainedEncoder) and each.trained]
        report: dict[str, Any] = {
            "regularization": learner.regularization_,
            "validation_accuracy": learner.validation_accuracy_,
            "validation": "; ".join(
                [
                    learner.validation_,
                    *(each.sentence for each in trained),
                    *([f"{saw} saw all images, without labels"] if saw else []),
                ]
            ),
        }
        if isinstance(learner, GramRidge) and len(encoders) > 1:
            report["kernel_weights"] = list(learner.kernel_weights_)
        return report


def _check_identity(identity: Mapping[str, Any] | None, number: int, expected: Mapping[str, Any]) -> None:
    """Raise `InvalidData` if a Gram matrix says that it is of something else; None: it says nothing."""
    if identity is None:
        return
    differing = [SAID[name] for name, value in expected.items() if identity.get(name) != value]
    if differing:
        raise InvalidData(
            f"Gram matrix {number} is not that of these images and this kernel: it differs in "
            f"{' and '.join(differing)}; give the images, layers and preprocessing that it is of, "
            "or compute it again by ckn gram"
        )
