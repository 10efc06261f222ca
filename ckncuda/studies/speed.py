"""Measurements of how fast a model is on this machine, stage by stage."""

import contextlib
import functools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.backend.arrays import to_host
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.images.sources import FirstImages, Images, as_images
from ckncuda.model.model import Model
from ckncuda.progress import Progress, Report
from ckncuda.types import Array

LONG_ENOUGH = 0.3  # seconds of a pass: dozens of turns of a scheduler


@dataclass(frozen=True)
class Speed:
    """Times that `measure_speed` found.

    Attributes
    ----------
    n_images : int
        In each pass.
    seconds : dict
        Of a pass, by stage: reading, each step of the preprocessing, each layer or exact kernel and the
        classifier.
    total : float
        Seconds of a whole pass, from images to scores or, without a classifier, to features.
    """

    n_images: int
    seconds: dict[str, float]
    total: float


class RandomImages(Images):
    """Random images of the size and the type that a model was fitted on, as many as anyone reads.

    All blocks are the same, so that reading them takes neither time nor memory.  A model that
    leaves the size open is refused with `InvalidSpec`.
    """

    def __init__(self, model: Model, backend: Backend) -> None:
        if model.image_shape is None:
            raise InvalidSpec("this model is for images of any size: give IMAGES to measure it with")
        size = (model.images_per_block(model.image_shape, backend), *model.image_shape)
        rng = np.random.default_rng(0)
        self._block: NDArray[Any] = (
            rng.integers(0, 256, size, np.uint8)
            if model.image_type == "uint8"
            else rng.standard_normal(size, np.float32)
        )
        self.shape = (1 << 30, *model.image_shape)
        self.dtype = self._block.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return images, of one block at most."""
        return self._block[: stop - start]


def measure_speed(
    model: Model,
    images: Images | NDArray[Any],
    backend: Backend,
    *,
    n: int | None = None,
    repeats: int = 5,
    progress: Progress | None = None,
) -> Speed:
    """Measure the seconds of each stage and of the whole: medians of several passes over the same images.

    Passes that time each stage and passes that time the whole take turns, so that a machine whose
    speed drifts treats them alike.  What happens only once, such as compilation, is over before.

    Parameters
    ----------
    model, images, backend, progress
        The first n images are taken.
    n : int, optional
        By default as many as take a third of a second or more, or all.
    repeats : int
        Passes of each kind.

    Raises
    ------
    InvalidData
        The images are fewer than n, or are not what the model was fitted on.

    Examples
    --------
    >>> from ckncuda import EncoderSpec, Exponential, LayerSpec
    >>> from ckncuda.backend import get_backend
    >>> backend = get_backend("numpy")
    >>> images = np.random.default_rng(0).normal(size=(20, 8, 8, 1)).astype(np.float32)
    >>> spec = LayerSpec(filters=8, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> model = Model.fit(images, None, [EncoderSpec([spec], ())])
    >>> speed = measure_speed(model, RandomImages(model, backend), backend, n=10)
    >>> list(speed.seconds), speed.total > 0
    (['reading', 'layer 1 (3x3, 8 filters)'], True)
    """
    images = as_images(images)
    model.check_images(images)
    available = images.shape[0]
    if n is not None and n > available:
        raise InvalidData(f"there are only {available} images, but {n} were asked for: ask for fewer")
    report = Report.of(progress)
    report("measuring", 0, repeats)
    warmed_up = _warm_up(model, images, backend, n or available)
    images = FirstImages(images, n or warmed_up)
    stages: list[dict[str, float]] = []
    totals: list[float] = []
    for repeat in range(repeats):
        stages.append(_seconds_of_stages(model, images, backend))
        totals.append(_seconds(model, images, backend))
        report("measuring", repeat + 1, repeats)
    medians = {name: statistics.median(seconds[name] for seconds in stages) for name in stages[0]}
    return Speed(images.shape[0], medians, statistics.median(totals))


def _warm_up(model: Model, images: Images, backend: Backend, most: int) -> int:
    """Compile, fill buffers, and return how many images take long enough to be measured."""
    n = 1
    while True:  # the first pass may compile, and another program may have disturbed one
        quickest = min(_seconds(model, FirstImages(images, n), backend) for _ in range(2))
        if n == most or quickest > LONG_ENOUGH:
            return n
        n = min(2 * n, most)


def _seconds(model: Model, images: Images, backend: Backend) -> float:
    """Measure a whole pass, block by block as `ckn predict` and `ckn extract` do it."""
    report = Report()
    if model.classifier is not None:
        model.scores(images, backend=backend)
    else:
        for _ in model.feature_blocks(images, backend=backend):
            pass
    return report.total


def _seconds_of_stages(model: Model, images: Images, backend: Backend) -> dict[str, float]:
    """Measure the same pass, one step after another; each finds in the caches what it finds in a pass."""
    report = Report()

    @contextlib.contextmanager
    def stage(prefix: str, name: str) -> Iterator[None]:
        with report.stage(prefix + name):
            yield
            backend.wait()

    size = model.images_per_block(images.shape[1:], backend)
    for raw in report.each("reading", images.blocks(size)):
        with stage("", "reading"):
            block: Array = backend.asarray(raw)
        features = []
        for number, encoder in enumerate(model.encoders, 1):
            prefix = f"encoder {number}: " if len(model.encoders) > 1 else ""
            within = functools.partial(stage, prefix)
            features.append(encoder.encode_in_stages(block, backend, within))
        if model.classifier is not None:
            with stage("", f"classifier ({len(model.classifier.classes_)} classes)"):
                to_host(model.classifier.unchecked_scores(np.concatenate(features, axis=1)))
    return report.seconds
