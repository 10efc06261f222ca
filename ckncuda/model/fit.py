"""The fit: a system, images and labels make a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, shared_backend
from ckncuda.backend.operations import block_memory
from ckncuda.classifier import GramRidge
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.encoder import ExactEncoderSpec
from ckncuda.exact.job import GramJob, seconds_a_pair
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import Tiling
from ckncuda.given.parameters import instance, listed, shown, whole
from ckncuda.images import sources
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.sources import ArrayImages, DeviceImages, Images, ImagesOrArray, as_images
from ckncuda.model.fitting import Fitting, Learner
from ckncuda.model.model import Model
from ckncuda.model.system import OF_A_TRAINING, System
from ckncuda.progress import Progress, Report, estimated_duration
from ckncuda.supervised.checkpoint import Checkpoints


def fit(
    images: ImagesOrArray,
    labels: NDArray[np.int64] | None = None,
    preset: str | None = None,
    *,
    system: System | None = None,
    grams: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> Model:
    """Fit a model, as ``ckn fit`` does, byte for byte: encoders without labels, then the classifier.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
        uint8 or floating point; those of files are held in memory where half of the backend's suffices, or
        an eighth of what was given as ``memory``.
    labels : int64 [n], optional
        By default those that the images come with; without any, the model extracts features only.
    preset : str, optional
        A name of `ckncuda.PRESETS`, whole systems that suit themselves to the images; by default ``default``.
    system : System, optional
        In place of a preset, such as ``System.from_toml("net.toml")`` or ``System([EncoderSpec(layers)])``.
    grams, seed, backend, progress, checkpoints
        See `Model.fit`, for errors too.

    Examples
    --------
    >>> labels = np.arange(60) % 2
    >>> images = np.random.default_rng(0).normal(labels[:, None, None, None], size=(60, 8, 8, 1))
    >>> fit(images, labels, "fast").predict(images).shape
    (60,)
    """
    report = Report.of(progress)
    engine = shared_backend(backend)
    seed = whole("seed", seed, 0)
    system = _system(images, preset, system)
    labels = getattr(images, "labels", None) if labels is None else labels
    classifier = _classifier(system, seed, labels is not None, report)
    fitting = Fitting(images, system.encoders, seed, engine, report, checkpoints)
    fitting.check(labels, classifier, grams)  # before images are read
    source = fitting.images
    is_array = isinstance(source, ArrayImages | DeviceImages)
    if not is_array and sources.size_of(source) <= (block_memory(engine) or engine.memory_budget // 2):
        source = ArrayImages(sources.in_memory(source, report))  # each layer reads them all
    with report.stage("preprocessing"):
        specs = tuple(spec.resolved(source, report) for spec in system.encoders)
    kernels = [spec for spec in specs if isinstance(spec, ExactEncoderSpec)]
    if kernels and grams is None and report.is_heard:
        with report.stage("features"):
            report.tell(_plan(kernels, source, engine))
    how: dict[str, Any] = {"patches": system.patches, "seed": seed, "backend": engine, "progress": report}
    how["checkpoints"] = checkpoints
    model = Model.fit(source, labels, specs, classifier=classifier, grams=grams, **how)
    if system.classifier == OF_A_TRAINING:
        model.take_head()
    model.class_names = sources.class_names(images, labels)
    return model


def _system(images: ImagesOrArray, preset: str | None, system: System | None) -> System:
    """Return the system that is given, or that of a preset for these images."""
    if isinstance(images, System):
        raise InvalidSpec("images is a System; the images come first: fit(images, labels, system=system)")
    if isinstance(preset, System):
        raise InvalidSpec("preset is a System; give it by its name: fit(images, labels, system=system)")
    if preset is not None and system is not None:
        raise InvalidSpec(f"the preset {shown(preset)} and a system each describe a model; give one of them")
    if system is None:
        n, height, width, channels = as_images(images).shape
        if not n:
            raise InvalidData("images is empty; expected one image at least, [n, height, width, channels]")
        return System.preset("default" if preset is None else preset, n, (height, width, channels))
    example = 'System.from_toml("net.toml") or System([EncoderSpec(layers)])'
    return instance("system", system, System, f"expected a System, such as {example}")


def _classifier(system: System, seed: int, is_labelled: bool, report: Report) -> Learner | None:
    """Make the classifier; of networks without labels there is none."""
    classifier = system.make_classifier(seed)
    if classifier is None or isinstance(classifier, GramRidge):
        return classifier
    classifier.check_options()
    if not is_labelled:
        report.tell("No labels: the model will extract features, but not predict.")
    return classifier if is_labelled else None


def _plan(specs: Sequence[ExactEncoderSpec], images: Images, backend: Backend) -> str:
    """Say how many pairs of images there are to be compared, and how long that takes about."""
    n, landmarks = images.shape[0], specs[0].landmarks
    tiling = Tiling(n, None if landmarks is None else min(landmarks, n))
    first = next(iter(tiling))
    seconds = sum(seconds_a_pair(GramJob(spec.kernel, images), first, backend) for spec in specs)
    each = f" by each of {len(specs)} kernels" if len(specs) > 1 else ""
    return f"Plan: {tiling.pairs:,} pairs of images{each}, {estimated_duration(seconds * tiling.pairs)}"


def fit_exact(
    images: ImagesOrArray,
    labels: NDArray[np.int64] | None,
    kernels: Sequence[tuple[ExactKernel, Sequence[Preprocessor] | None]],
    *,
    landmarks: int | None = None,
    grams: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Model:
    """Fit kernel ridge regression of images in the spaces of exact kernels.

    The model's features of an image are the kernels with the training images, or with the landmarks.

    Parameters
    ----------
    images, labels, grams, seed, backend, progress
        See `Model.fit`; labels are needed.
    kernels : sequence of (ExactKernel, preprocessing)
        One kernel, or several that are combined.  A preprocessing of None is as the images suggest.
    landmarks : int, optional
        Images, drawn at random, that span the solution: n landmarks pairs are compared instead of n²/2.
    **options
        ``regularization``, ``weights`` and ``validation`` of `GramRidge`.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> from ckncuda.layer import KernelLayer
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(30) % 2
    >>> images = rng.normal(size=(30, 6, 6, 1)).astype(np.float32) + labels[:, None, None, None]
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> model = fit_exact(images, labels, [(ExactKernel([layer]), ())])
    >>> bool(np.mean(model.predict(images) == labels) > 0.9)
    True
    """
    expected = "expected a list of pairs such as (ExactKernel(layers), None)"
    for i, pair in enumerate(instance("kernels", kernels, (list, tuple), expected)):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidSpec(f"kernels[{i}] is {shown(pair)}; {expected}")
    specs = [ExactEncoderSpec(kernel, preprocessing, landmarks) for kernel, preprocessing in kernels]
    if unknown := set(options) - {"regularization", "weights", "validation"}:
        known = "there are regularization, weights, validation"
        raise InvalidSpec(f"there is no option {listed(unknown)}; {known}")
    how: dict[str, Any] = {"grams": grams, "seed": seed, "backend": backend, "progress": progress}
    return Model.fit(images, labels, specs, classifier=GramRidge(seed=seed, **options), **how)
