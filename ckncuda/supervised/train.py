"""The training loop: epochs of steps, each judged on images that no gradient sees."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.training_data import check_classes
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.parameters import instance, whole
from ckncuda.images.preprocessed import PreprocessedImages
from ckncuda.images.sources import ImagesOrArray, as_images
from ckncuda.layer.layer import Layer
from ckncuda.layer.spec import check_differentiable
from ckncuda.network.network import CKN
from ckncuda.progress import Progress, Report
from ckncuda.supervised.checkpoint import Checkpoint, identity_of
from ckncuda.supervised.head import Head
from ckncuda.supervised.optimizers import OPTIMIZERS, Optimizer, normalize, tangent
from ckncuda.supervised.training import LEARNING_RATES, Training
from ckncuda.types import Array, Index, Shape, StrPath

State = tuple[int, Sequence[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""An epoch, its anchor points and its head."""

AS_GIVEN: Mapping[str, Any] = {"train_layers": None, "start": "unsupervised"}
"""Options of `Training` that say which network is trained; where it is given, they have nothing to say."""

FEATURE_SHARE = 4  # of the backend's memory, one part holds features of images
FEWEST = 1000  # images whose features are held whatever the memory
AT_ONCE = 1000  # images that are judged together: their number changes the last digits of a sum
DIGESTED = 256  # images of which a digest is made at a time: they may be larger than their features
LARGE = 1e4  # of losses, of which people need not know digits
SLOWER = 3.0  # times: the learning rate to try where the loss was not finite


@dataclass(frozen=True)
class Trained:
    """A network that learned from labels.

    Attributes
    ----------
    network : CKN
        With the anchor points of the chosen epoch.
    head : LinearClassifier
        On its features, of the same epoch.
    history : tuple of dict
        Of each epoch: ``epoch``, ``learning_rate`` at its end, ``loss`` and ``accuracy`` on the images as
        they were trained on, ``held_out_loss`` and ``held_out_accuracy``, None without any held out.  Epoch 0
        is the start.
    epoch : int
        The chosen one.
    sentence : str
        How it was chosen.
    regularization : float
        λ of the head.
    """

    network: CKN
    head: LinearClassifier
    history: tuple[dict[str, Any], ...]
    epoch: int
    sentence: str
    regularization: float

    @property
    def held_out_accuracy(self) -> float | None:
        """Accuracy of the head on the images held out, at the chosen epoch."""
        accuracy: float | None = self.history[self.epoch]["held_out_accuracy"]
        return accuracy


def train(
    network: CKN,
    images: ImagesOrArray,
    labels: Any,
    training: Training | None = None,
    *,
    seed: int = 0,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    checkpoint: StrPath | None = None,
    resume: StrPath | None = None,
) -> Trained:
    """Train the anchor points of a network, and a linear classifier on its features, end to end.

    Parameters
    ----------
    network : CKN
        Fitted, without decorrelation: where the training starts.  It is left as it is; all layers are
        trained.
    images : [n, h, w, c] or `Images`
        As the network takes them: preprocessed.
    labels : integers [n]
    training : Training, optional
        Without ``train_layers`` and ``start``, which are for `TrainedEncoderSpec`.
    seed : int
        Draws the images held out, their order and their changes; the same seed, images and machine give the
        same bits.
    backend : Backend or str
    progress : callable or Report, optional
        Told of the stage training, and a line for each epoch.
    checkpoint : path-like, optional
        Written after each epoch.
    resume : path-like, optional
        Such a file, from which an unfinished training goes on, to the same bits as without the interruption.

    Raises
    ------
    InvalidSpec
        κ of a layer has no bounded derivative, an option does not suit the images, or the loss is not finite
        from the first epoch on.
    InvalidData
        Labels are missing, of one class or not one an image, or the checkpoint is of something else.

    Examples
    --------
    >>> from ckncuda import CKN, Exponential, LayerSpec
    >>> labels = np.arange(60) % 2
    >>> images = np.random.default_rng(0).normal(labels[:, None, None, None], size=(60, 8, 8, 1))
    >>> start = CKN([LayerSpec(filters=8, patch=3, subsampling=4, kernel=Exponential(sigma=0.6))])
    >>> trained = train(start.fit(images), images, labels, Training(epochs=2))
    >>> trained.network.transform(images).shape, len(trained.history)
    ((60, 2, 2, 8), 3)
    """
    training = Training() if training is None else training
    classes, data = _checked(network, images, labels, training, whole("seed", seed, 0))
    run = _Run(network, data, training, seed, shared_backend(backend), Report.of(progress))
    run.begin(None if resume is None else Checkpoint.load(resume, run.identity))
    run.go_on(checkpoint)
    return run.result(classes)


def _checked(
    network: CKN, images: ImagesOrArray, labels: Any, training: Training, seed: int
) -> tuple[NDArray[np.int64], "_Data"]:
    """Return classes and data, or raise what `train` says."""
    instance("training", training, Training, "expected Training(epochs=30), for instance")
    instance("network", network, CKN, "expected a CKN that has learned, such as CKN(specs).fit(images)")
    for name, usual in AS_GIVEN.items():
        if (value := getattr(training, name)) != usual:
            raise InvalidSpec(
                f"{name} is {value!r}, but all layers of this network are trained, from where they are: give "
                f"that option to a TrainedEncoderSpec, or leave it out"
            )
    source = as_images(images)
    if labels is None:
        raise InvalidData(f"training needs one label an image: given {source.shape[0]} images, no labels")
    classes, targets = check_classes(labels)
    if len(targets) != source.shape[0]:
        raise InvalidData(
            f"training needs one label an image: given {source.shape[0]} images, {len(targets)} labels"
        )
    network.output_shape(source.shape[1:])
    training.augment.check(source.shape[1:])
    check_differentiable(network.specs)
    if any(layer.spec.decorrelation for layer in network.layers):
        raise InvalidSpec("a network is trained without decorrelation: fit it with decorrelation=0")
    prepared = source if isinstance(source, PreprocessedImages) else PreprocessedImages(source)
    return classes, _Data(prepared, targets, *held_out_split(targets, training.validation, seed))


def _moved(layer: Layer, anchors: NDArray[np.float32]) -> Layer:
    """Return a layer with a copy of other anchor points."""
    return Layer.from_anchors(layer.spec, anchors.copy(), keep_spectrum=True)


def said(epoch: dict[str, Any], epochs: int) -> str:
    """Say how an epoch went."""
    shown = f"epoch {epoch['epoch']} of {epochs}:"
    if epoch["loss"] is not None:
        shown += f" loss {_shown(epoch['loss'])}, accuracy {epoch['accuracy']:.4f};"
    if epoch["held_out_accuracy"] is not None:
        shown += f" held out {epoch['held_out_accuracy']:.4f} (loss {_shown(epoch['held_out_loss'])})"
    return shown.rstrip(":;")


def _shown(loss: float) -> str:
    return f"{loss:.4f}" if loss < LARGE else f"{loss:.3g}"


@dataclass(frozen=True)
class _Data:
    """Images and targets, of which some are trained on and the others judge."""

    images: PreprocessedImages
    targets: Index
    kept: Index
    held_out: Index

    @property
    def shape(self) -> Shape:
        """The shape of an image."""
        return self.images.shape[1:]

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield all images, preprocessed, in blocks."""
        for start in range(0, len(self.targets), DIGESTED):
            yield self.images.some(np.arange(start, min(start + DIGESTED, len(self.targets))))


class _Run:
    """A training under way: what it has learned so far, what was best, and what becomes of it next."""

    def __init__(
        self, network: CKN, data: _Data, training: Training, seed: int, backend: Backend, report: Report
    ) -> None:
        self._data, self._training, self._seed = data, training, seed
        self._backend, self._report = backend, report
        self._start = network
        self._width = math.prod(network.output_shape(data.shape))
        self._layers = [
            Layer.from_anchors(layer.spec, layer.anchors.astype(np.float32), keep_spectrum=True)
            for layer in network.layers
        ]
        self._history: list[dict[str, Any]] = []
        self._blas = threadpoolctl.ThreadpoolController()

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Tell this training from others."""
        data = self._data
        plain = {
            "layers": [layer.spec.to_dict() for layer in self._start.layers],
            "training": self._training.to_dict(),
            "seed": self._seed,
            "shape": data.shape,
        }
        labels = np.concatenate([data.targets, data.held_out])
        start = [layer.anchors.astype(np.float32) for layer in self._start.layers]
        return identity_of(plain, labels, data.blocks(), start)

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Stand at the start, or where a checkpoint was written."""
        self._anchors = [layer.anchors.copy() for layer in self._layers]
        if checkpoint is None:
            self._head = self._first_head()
        else:
            self._head = Head.from_arrays(checkpoint.head, self._training, checkpoint.regularization)
            for own, there in zip(self._anchors, checkpoint.anchors, strict=True):
                own[...] = there
        parameters = [*self._anchors, self._head.weights, self._head.intercept]
        self._optimizer: Optimizer = OPTIMIZERS[self._training.optimizer](parameters, self._training.momentum)
        if checkpoint is None:
            self._judge(0, None, None)
            self._best = self._now()
            return
        self._optimizer.steps, self._optimizer.state = checkpoint.steps, checkpoint.optimizer
        self._history = [dict(each) for each in checkpoint.history]
        self._best = checkpoint.best
        self._layers = list(map(_moved, self._layers, self._anchors))
        self._report.tell(f"Going on after epoch {len(self._history) - 1} of {self._training.epochs}")

    def go_on(self, checkpoint: StrPath | None) -> None:
        """Train until the last epoch, or until the loss is no longer finite."""
        epochs, images = self._training.epochs, len(self._data.kept)
        if images < self._training.batch:
            self._report.tell(f"Training: a step takes all {images} images, fewer than a batch")
        self._report("training", len(self._history) - 1, epochs)
        for epoch in range(len(self._history), epochs + 1):
            trained = self._epoch(epoch)
            if trained is None or not self._judge(epoch, *trained):
                self._say_diverged(epoch)
                break
            if self._is_better(epoch):
                self._best = self._now()
            if checkpoint is not None:
                self._checkpoint().save(checkpoint)
            self._report("training", epoch, epochs)

    def result(self, classes: NDArray[np.int64]) -> Trained:
        """Return what the chosen epoch has learned."""
        epoch, anchors, head = self._best
        specs = [layer.spec for layer in self._layers]
        best = Head.from_arrays(head, self._training, self._head.regularization)
        held, images = len(self._data.held_out), len(self._data.targets)
        how = (
            f"epoch {epoch} of {self._training.epochs} was chosen on {held} images held out of {images}"
            if held
            else f"epoch {epoch} of {self._training.epochs}, the last, was taken: no image was held out, so "
            "that accuracies on them are optimistic"
        )
        network = CKN.from_anchors(specs, anchors)
        head_ = best.classifier(classes)
        return Trained(network, head_, tuple(self._history), epoch, how, best.regularization)

    def _first_head(self) -> Head:
        some = self._some(self._data.kept)
        return Head.fitted(self._features(some), self._data.targets[some], self._training)

    def _some(self, numbers: Index) -> Index:
        """Return as many of the images, drawn at random, as memory holds the features of."""
        most = max(FEWEST, self._backend.memory_budget // FEATURE_SHARE // (4 * self._width))
        if len(numbers) <= most:
            return numbers
        return np.sort(np.random.default_rng([self._seed, 0]).choice(numbers, most, replace=False))

    def _features(self, numbers: Index) -> NDArray[np.float32]:
        """Compute features [m, d] of images by their numbers."""
        out = np.empty((len(numbers), self._width), np.float32)
        size = self._backend.images_per_block(self._layers, self._data.shape)

        def encode(block: Array) -> Array:
            return self._backend.encode(block, self._layers).reshape(len(block), -1)

        blocks = (self._data.images.some(numbers[i : i + size]) for i in range(0, len(numbers), size))
        for _ in self._backend.map_blocks(encode, blocks, out):
            pass
        return out

    def _epoch(self, epoch: int) -> tuple[float, float] | None:
        """Take the steps of an epoch; return mean loss and accuracy on changed images, None if not finite."""
        training, kept = self._training, self._data.kept
        random = np.random.default_rng([self._seed, epoch])
        if training.head_fit == "alternating":
            some = self._some(kept)
            self._head.refit(self._features(some), self._data.targets[some], training, self._seed)
        order = kept[random.permutation(len(kept))]
        steps = -(-len(order) // training.batch)
        loss, right = 0.0, 0
        # Decompositions of K_ZZ are too small for threads of BLAS, which wait for one another by spinning:
        # each layer's has a thread of ours.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(len(self._layers)) as pool:
            for step in range(steps):
                numbers = order[step * training.batch : (step + 1) * training.batch]
                images = training.augment.apply(self._data.images.some(numbers), random)
                rate = training.rate(epoch - 1 + (step + 0.5) / steps)
                of_batch = self._step(images, self._data.targets[numbers], rate)
                if of_batch is None:
                    return None
                self._layers = list(pool.map(_moved, self._layers, self._anchors))
                loss, right = loss + of_batch[0] * len(numbers), right + of_batch[1]
        return loss / len(order), right / len(order)

    def _step(self, images: NDArray[np.float32], targets: Index, rate: float) -> tuple[float, int] | None:
        """Take one step on a batch; return its mean loss and how many it has right, None if not finite."""
        head, losses, rights = self._head, [], []
        by_weights, by_intercept = head.regularization * head.weights, np.zeros_like(head.intercept)

        def upstream(encoded: Array, part: slice) -> Array:
            features = self._backend.to_host(encoded).reshape(len(encoded), -1)
            loss, right, by_features, of_weights, of_intercept = head.backward(
                features, targets[part], len(targets)
            )
            losses.append(loss)
            rights.append(right)
            by_weights.__iadd__(of_weights)
            by_intercept.__iadd__(of_intercept)
            return self._backend.asarray(by_features.reshape(encoded.shape))

        _, by_anchors = self._backend.encode_backward(
            self._backend.asarray(images), self._layers, upstream, by_maps=False
        )
        if not np.isfinite(sum(losses)) or not all(np.isfinite(each).all() for each in by_anchors):
            return None
        along = [tangent(each, anchors) for each, anchors in zip(by_anchors, self._anchors, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):  # which is looked for
            rates = [rate] * len(along) + [rate * self._training.head_rate] * 2
            self._optimizer.step([*along, by_weights, by_intercept], rates)
            for anchors in self._anchors:
                normalize(anchors)
        if not all(np.isfinite(each).all() for each in (*self._anchors, head.weights, head.intercept)):
            return None
        return sum(losses), sum(rights)

    def _judge(self, epoch: int, loss: float | None, accuracy: float | None) -> bool:
        """Add an epoch to the history, and say it; unless the loss of images held out is not finite."""
        held_out = self._data.held_out
        judged: tuple[float | None, float | None] = None, None
        if len(held_out):
            total, right = 0.0, 0
            for start in range(0, len(held_out), AT_ONCE):
                numbers = held_out[start : start + AT_ONCE]
                found = self._head.judge(self._features(numbers), self._data.targets[numbers])
                total, right = total + found[0], right + found[1]
            if not np.isfinite(total):
                return False
            judged = total / len(held_out), right / len(held_out)
        self._history.append(
            {
                "epoch": epoch,
                "learning_rate": self._training.rate(epoch),
                "loss": loss,
                "accuracy": accuracy,
                "held_out_loss": judged[0],
                "held_out_accuracy": judged[1],
            }
        )
        self._report.tell(said(self._history[-1], self._training.epochs))
        return True

    def _is_better(self, epoch: int) -> bool:
        """Tell whether this epoch is better than the best so far; of equal ones the later is."""
        now, best = (self._history[number]["held_out_accuracy"] for number in (epoch, self._best[0]))
        return now is None or now >= best

    def _now(self) -> State:
        head = {name: array.copy() for name, array in self._head.arrays().items()}
        return len(self._history) - 1, [anchors.copy() for anchors in self._anchors], head

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.identity,
            self._history,
            self._optimizer.steps,
            self._head.regularization,
            self._anchors,
            self._head.arrays(),
            self._optimizer.state,
            self._best,
        )

    def _say_diverged(self, epoch: int) -> None:
        rate, usual = self._training.highest_rate, LEARNING_RATES[self._training.optimizer]
        said = f"the loss is not finite in epoch {epoch}, at learning rates of up to {rate:.3g}"
        advice = f"try --learning-rate {min(rate / SLOWER, usual):.1g}"
        if epoch == 1:
            raise InvalidSpec(f"{said}; {advice}")
        self._report.tell(f"Training ends: {said}; the best epoch before it is kept; {advice}")
