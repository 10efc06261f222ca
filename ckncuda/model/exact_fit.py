"""From images and labels to a model on exact kernels: Gram matrices, then kernel ridge regression."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend, get_backend
from ckncuda.classifier import GramRidge
from ckncuda.classifier.training_data import check_classes
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.encoder import ExactEncoder
from ckncuda.exact.gram import check_images, gram
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import TILE, check_finite
from ckncuda.images.preprocess import Preprocessor, suggested_preprocessing
from ckncuda.images.preprocessed import PreparedImages, fit_preprocessing
from ckncuda.images.sources import ArrayImages, DeviceImages, Images, as_images
from ckncuda.model.model import Model, type_name
from ckncuda.progress import Progress, labelled
from ckncuda.stopwatch import Stopwatch

SAMPLE = 6  # images whose kernels are computed again where a Gram matrix is given
AGREEMENT = 1e-3  # of the geometric mean of both images' kernels with themselves: that of TF32


def fit_exact(
    images: Images | NDArray[Any],
    labels: NDArray[np.int64] | None,
    kernels: Sequence[tuple[ExactKernel, Sequence[Preprocessor] | None]],
    *,
    regularization: float | str = "auto",
    weights: Sequence[float] | str = "auto",
    landmarks: int | None = None,
    validation: float = 0.0,
    grams: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
    stopwatch: Stopwatch | None = None,
) -> Model:
    """Kernel ridge regression of images in the spaces of exact kernels.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
        uint8 or floating point.
    labels : int64 [n]
    kernels : sequence of (ExactKernel, preprocessing)
        One kernel, or several that are combined.  A preprocessing of None is as the images suggest.
    regularization, weights, validation
        See `GramRidge`.
    landmarks : int, optional
        Images, drawn at random, that span the solution: n landmarks pairs are compared instead of n²/2.
    grams : sequence of arrays [n, n], optional
        The Gram matrix of the training images of each kernel, where they are there already; a few entries
        are computed again to compare.
    seed : int
        Draws landmarks and held-out images.
    backend : Backend or str
        A backend or the name of one: where kernels are computed.
    progress : callable, optional
        Called as ``progress("Gram matrix", pairs done, pairs)``, and in other stages.
    stopwatch : Stopwatch, optional
        Told of the stages preprocessing, features, which are the Gram matrices, and classifier.

    Returns
    -------
    model : Model
        Its features of an image are the kernels with the training images, or with the landmarks.

    Raises
    ------
    InvalidSpec
        The layers do not fit the images, or an option is out of its range.
    InvalidData
        Labels are missing or not as many as images, images are malformed, or a Gram matrix that is given is
        not that of these images and this kernel.

    Examples
    --------
    >>> from ckncuda import Exponential, LayerSpec
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(30) % 2
    >>> images = rng.normal(size=(30, 6, 6, 1)).astype(np.float32) + labels[:, None, None, None]
    >>> layer = LayerSpec(filters=1, patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> model = fit_exact(images, labels, [(ExactKernel([layer]), ())])
    >>> bool(np.mean(model.predict(images) == labels) > 0.9)
    True
    """
    images = as_images(images)
    n = images.shape[0]
    engine = get_backend(backend) if isinstance(backend, str) else backend
    stopwatch = stopwatch or Stopwatch()
    ridge = GramRidge(regularization, weights, validation, seed)
    # What can be found wrong is found before the long work.
    check_fit(images, labels, [kernel for kernel, _ in kernels], ridge, landmarks, grams)
    assert labels is not None
    chosen = None if landmarks is None else _landmarks(n, landmarks, seed)
    encoders: list[ExactEncoder] = []
    columns: list[NDArray[Any]] = []
    prepared: dict[str, tuple[PreparedImages, NDArray[Any]]] = {}
    for number, (kernel, preprocessing) in enumerate(kernels):
        told = progress if len(kernels) == 1 else labelled(progress, f"kernel {number + 1}")
        with stopwatch.stage("preprocessing"):
            steps = suggested_preprocessing(images) if preprocessing is None else preprocessing
            same = json.dumps([step.to_dict() for step in steps])
            if same not in prepared:
                fitted = PreparedImages(images, fit_preprocessing(images, steps, told))
                prepared[same] = fitted, _read(fitted, chosen)
        rows, points = prepared[same]
        encoder = ExactEncoder(kernel, points, rows.preprocessing)
        with stopwatch.stage("features"):
            if grams is not None:
                _check_gram(encoder, grams[number], number, seed, engine)
                columns.append(grams[number])
            else:
                one, other = (ArrayImages(points), None) if chosen is None else (rows, ArrayImages(points))
                computed = gram(one, kernel, other, backend=engine, progress=told)
                _check_computed(computed, chosen)
                columns.append(computed)
        encoders.append(encoder)
    with stopwatch.stage("classifier"):
        ridge.fit(columns, labels, points=chosen, progress=progress)
    model = Model(tuple(encoders), ridge, images.shape[1:], type_name(images))
    saw = any(encoder.preprocessing for encoder in encoders)
    model.report = {
        "n_images": n,
        "n_features": model.n_features,
        "seed": seed,
        "regularization": ridge.regularization_,
        "validation_accuracy": ridge.validation_accuracy_,
        "validation": ridge.validation_ + ("; preprocessing saw all images, without labels" if saw else ""),
    }
    if len(kernels) > 1:
        model.report["kernel_weights"] = list(ridge.kernel_weights_)
    return model


def check_fit(
    images: Images,
    labels: NDArray[np.int64] | None,
    kernels: Sequence[ExactKernel],
    ridge: GramRidge,
    landmarks: int | None = None,
    grams: Sequence[NDArray[Any]] | None = None,
) -> None:
    """Raise `InvalidSpec` or `InvalidData` for what `fit_exact` could not do; no kernel is computed.

    Parameters
    ----------
    images, labels, landmarks, grams
        See `fit_exact`.
    kernels : sequence of ExactKernel
    ridge : GramRidge
        With the options, not yet fitted.
    """
    n = images.shape[0]
    if labels is None or len(labels) != n:
        given = "no" if labels is None else str(len(labels))
        raise InvalidData(
            f"exact kernels need one label an image to be fitted: given {n} images, {given} labels"
        )
    check_classes(labels)
    if not kernels:
        raise InvalidSpec("a model needs at least one kernel")
    ridge.check_options(n if landmarks is None else None, len(kernels))
    for kernel in kernels:
        check_images(images, images, kernel)
    if isinstance(images, DeviceImages):
        raise InvalidData("exact kernels are computed from images in the host's memory: copy them there")
    if landmarks is not None and (not isinstance(landmarks, int) or landmarks < 2):
        raise InvalidSpec(f"landmarks is {landmarks!r}; expected a whole number of at least 2")
    if grams is None:
        return
    if landmarks is not None:
        raise InvalidSpec("landmarks spare a Gram matrix of all images, but one is given: leave one out")
    if len(grams) != len(kernels):
        raise InvalidSpec(f"{len(grams)} Gram matrices were given for {len(kernels)} kernels; give one each")
    for number, matrix in enumerate(grams, 1):
        if tuple(matrix.shape) != (n, n):
            raise InvalidData(
                f"Gram matrix {number} is of shape {list(matrix.shape)}; expected [{n}, {n}], that of the "
                f"{n} training images"
            )


def _landmarks(n: int, m: int, seed: int) -> NDArray[np.intp]:
    chosen: NDArray[np.intp] = np.sort(np.random.default_rng(seed).permutation(n)[:m])
    return chosen


def _read(images: PreparedImages, chosen: NDArray[np.intp] | None) -> NDArray[Any]:
    """All images, or those chosen."""
    n = images.shape[0]
    numbers = np.arange(n) if chosen is None else chosen
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    out = np.empty((len(numbers), *images.shape[1:]), dtype)
    for start in range(0, n, TILE):
        first, last = np.searchsorted(numbers, [start, start + TILE])
        if first < last:
            block = images.read(start, min(start + TILE, n))
            out[first:last] = block[numbers[first:last] - start]
    return out


def _check_computed(matrix: NDArray[Any], chosen: NDArray[np.intp] | None) -> None:
    """Raise `InvalidData` unless the kernels of all images, with all or with those chosen, are finite."""
    n, m = matrix.shape
    numbers = range(m) if chosen is None else chosen.tolist()
    for start in range(0, n, TILE):
        block = matrix[start : start + TILE]
        check_finite(block, range(start, start + len(block)), numbers)


def _check_gram(
    encoder: ExactEncoder, matrix: NDArray[Any], number: int, seed: int, backend: Backend
) -> None:
    """Raise `InvalidData` unless a few entries are the kernel's of these images."""
    n = len(encoder.points)
    some = np.sort(np.random.default_rng(seed).permutation(n)[:SAMPLE])
    few = ExactEncoder(encoder.kernel, encoder.points[some])
    expected = few.kernels(few.normed_points(backend), backend)
    found = np.array([np.asarray(matrix[int(i) : int(i) + 1], np.float64)[0, some] for i in some])
    check_finite(expected, some.tolist(), some.tolist())
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    wrong = ~(np.abs(found - expected) <= AGREEMENT * scale)
    if wrong.any():
        i, j = (int(place) for place in np.argwhere(wrong)[0])
        raise InvalidData(
            f"Gram matrix {number + 1} is not that of these images and this kernel: of images {some[i]} and "
            f"{some[j]} (counting from 0) it says {found[i, j]:g}, their kernel is {expected[i, j]:g}; give "
            "the images, layers and preprocessing that it was computed with"
        )
