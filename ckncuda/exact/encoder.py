"""Encoders that are exact kernels: images compared with those that a model was fitted on."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.backend.operations import NormedMaps
from ckncuda.backend.process_lock import ProcessLock
from ckncuda.errors import InvalidData
from ckncuda.exact.gram import gram
from ckncuda.exact.job import check_images
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import TILE, check_finite, read_maps
from ckncuda.given.parameters import instance, whole
from ckncuda.images.preprocess import (
    PreprocessingSpec,
    Preprocessor,
    preprocessing_arrays,
    preprocessing_from_dict,
)
from ckncuda.images.preprocessed import PreprocessedImages, preprocessed
from ckncuda.images.sources import ArrayImages, DeviceImages, Images, ImagesOrArray, as_images
from ckncuda.progress import Report
from ckncuda.types import Array, Index, Shape

AT_ONCE = 16  # images at a time: there may be seconds of work in each
SAMPLE = 6  # images whose kernels with one another are computed again where a Gram matrix is given
PAIRED = 1000  # images of which each is compared with another, too, where nothing tells whose matrix it is
AGREEMENT = 1e-3  # of the geometric mean of both images' kernels with themselves: that of TF32

_NORMING = ProcessLock()


@dataclass(frozen=True)
class ExactEncoderSpec(PreprocessingSpec):
    """An exact kernel and the preprocessing of its images, before it has seen any.

    Parameters
    ----------
    kernel : ExactKernel
    preprocessing : sequence of Preprocessor, or None
        Applied in this order; ``()``: none.  By default as the images suggest.
    landmarks : int, optional
        Images, drawn at random, to compare with; by default all training images.
    """

    kernel: ExactKernel
    preprocessing: Sequence[Preprocessor] | None = None
    landmarks: int | None = None
    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        instance("kernel", self.kernel, ExactKernel, "expected an ExactKernel, such as ExactKernel(layers)")
        if self.landmarks is not None:
            expected = "expected a whole number of at least 2"
            object.__setattr__(self, "landmarks", whole("landmarks", self.landmarks, 2, expected))

    def check(self, images: Images) -> None:
        """Raise `InvalidSpec` or `InvalidData` unless images can be compared."""
        check_images(images, images, self.kernel)
        if isinstance(images, DeviceImages):
            raise InvalidData("exact kernels are computed from images in the host's memory: copy them there")

    def bytes_to_fit(
        self, n: int, shape: Shape, patches: int, backend: Backend, memory: int
    ) -> dict[str, int]:
        """Count what is held, beside the images, to prepare n of them, by what it is for."""
        return {f"{step.name} of images": step.bytes_to_fit(shape) for step in self.preprocessing or ()}

    def bytes_learned(self, n: int, shape: Shape) -> int:
        """Count the images that are compared with, twice, and their patches' norms."""
        norms, size = 0, shape
        for layer in self.kernel.layers:
            norms += 8 * math.prod(layer.map_shape(size)[:2])
            size = layer.output_shape(size)
        return self.width(n, shape) * (2 * 4 * math.prod(shape) + norms)

    def bytes_at_once(self, n: int, shape: Shape, backend: Backend, memory: int) -> int:
        """Count two tiles of images, padded, and their kernels."""
        return 4 * TILE * (2 * 3 * math.prod(shape) + TILE)

    def width(self, n: int, shape: Shape) -> int:
        """Count the features of an image, of n that are learned from."""
        return n if self.landmarks is None else min(self.landmarks, n)

    def fit(
        self,
        images: ImagesOrArray,
        backend: Backend | str,
        *,
        patches: int = 0,
        seed: int = 0,
        beside: Sequence[object] = (),
        report: Report | None = None,
    ) -> "ExactEncoder":
        """Learn the preprocessing, and keep the training images or the landmarks.

        Parameters
        ----------
        images : [n, h, w, c] or `Images`
        backend, patches
            Not used: nothing is computed but preprocessed images, in the host's memory.
        seed : int
            Draws the landmarks.
        beside : sequence of encoders
            Those of an ensemble that were fitted before; the images of one with the same preprocessing are
            shared.
        report : Report, optional
            Told of the stage preprocessing.
        """
        images, report = as_images(images), Report() if report is None else report
        with report.stage("preprocessing"):
            steps = self.resolved(images).preprocessing or ()
            plain = [step.to_dict() for step in steps]
            for other in beside:
                if isinstance(other, ExactEncoder) and plain == [s.to_dict() for s in other.preprocessing]:
                    return ExactEncoder(self.kernel, other.points, other.preprocessing)
            prepared = PreprocessedImages.learn(images, steps, None, report)
            points = _read(prepared, drawn_landmarks(self.landmarks, images.shape[0], seed))
        return ExactEncoder(self.kernel, points, prepared.preprocessing)


@dataclass(frozen=True, eq=False)
class ExactEncoder:
    """An encoder whose features of an image are its exact kernels with images that it keeps.

    Attributes
    ----------
    kernel : ExactKernel
    points : uint8 or float32 [m, h, w, c]
        Preprocessed: the training images, or those of them that are landmarks.
    preprocessing : tuple of Preprocessor
        Fitted, in the order in which they are applied.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> from ckncuda.backend import get_backend
    >>> from ckncuda.layer import KernelLayer
    >>> images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> encoder = ExactEncoder(ExactKernel([layer]), images)
    >>> encoder.encode(images[:2], get_backend("numpy"), Report()).shape
    (2, 5)
    """

    kernel: ExactKernel
    points: NDArray[Any]
    preprocessing: tuple[Preprocessor, ...] = ()
    kind: ClassVar[str] = "exact"
    # By the type in which a backend computes, and which backend that is: norms may differ in rounding.
    _normed: dict[tuple[str, str], NormedMaps] = field(default_factory=dict, init=False, repr=False)

    @property
    def saw(self) -> str:
        """Parts that saw all training images before any was held out."""
        return "preprocessing" if self.preprocessing else ""

    def encode(self, images: Array, backend: Backend, report: Report) -> Array:
        """Compute the kernels [b, m] of images [b, h, w, c] with the points, where the backend computes."""
        if self.preprocessing:
            with report.stage("preprocessing"):
                images = preprocessed(images, self.preprocessing, backend)
        return backend.asarray(self.kernels(images, backend))

    def encode_in_stages(
        self, images: Array, backend: Backend, stage: Callable[[str], AbstractContextManager[None]]
    ) -> Array:
        """Compute features [b, m] step by step, each in a context of its name: what takes which time."""
        for step in self.preprocessing:
            with stage(step.name):
                images = preprocessed(images, (step,), backend)
        with stage(f"kernels with {len(self.points):,} images"):
            return backend.asarray(self.kernels(images, backend))

    def kernels(self, images: Array | NormedMaps, backend: Backend) -> Array:
        """Compute the kernels [b, m] of images that are preprocessed already, in the host's memory."""
        points = self.normed_points(backend)
        if not isinstance(images, NormedMaps):
            images = np.ascontiguousarray(backend.to_host(images), points.maps.dtype)
        normed = self.kernel.normed(images, backend)
        out = np.empty((len(normed), len(points)), points.maps.dtype)
        for start in range(0, len(points), TILE):
            columns = slice(start, start + TILE)
            out[:, columns] = self.kernel.block(normed, points[columns], backend)
        return out

    def normed_points(self, backend: Backend) -> NormedMaps:
        """Return the points and their norms, as this backend takes them; kept for the next images."""
        dtype = np.dtype(backend.dtype)
        key = backend.name, str(dtype)
        with _NORMING:  # one thread, while others wait for what it makes
            if key not in self._normed:
                maps = read_maps(ArrayImages(self.points), slice(0, len(self.points)), dtype)
                self._normed[key] = self.kernel.normed(maps, backend)
        return self._normed[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: all but what is made of it for kernels."""
        return self.__dict__ | {"_normed": {}}

    def gram(self, images: Images, chosen: Index | None, backend: Backend, report: Report) -> Array:
        """Compute the kernels [n, m] of the training images with the points, all of them or those chosen.

        Raises
        ------
        InvalidData
            A kernel is not finite.
        """
        if chosen is None:
            matrix = gram(self.points, self.kernel, backend=backend, progress=report)
        else:
            prepared = PreprocessedImages(images, self.preprocessing)
            matrix = gram(prepared, self.kernel, self.points, backend=backend, progress=report)
        numbers = range(len(self.points)) if chosen is None else chosen.tolist()
        for start in range(0, len(matrix), TILE):
            block = matrix[start : start + TILE]
            check_finite(block, range(start, start + len(block)), numbers)
        return matrix

    def check_gram(self, matrix: NDArray[Any], number: int, seed: int, backend: Backend) -> None:
        """Raise `InvalidData` unless a Gram matrix [m, m] is the kernel's of the points, where that is seen.

        If the matrix says of which images, preprocessing and kernel it is, those are compared elsewhere, and
        a few entries here.  If it does not, as a file .npy, every image takes part, up to `PAIRED` of them:
        its kernel with one other.  The seed chooses the pairs; the message names the matrix
        by its number.
        """
        order = np.random.default_rng(seed).permutation(len(self.points))
        some = np.sort(order[:SAMPLE])
        maps = self._maps_of(some, backend)
        expected = self.kernel.block(maps, None, backend)
        found = np.array([_entries(matrix, i, some) for i in some])
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        _check_entries(number, some, some, found, expected, scale)
        if getattr(matrix, "identity", None) is None:
            paired = order[:PAIRED]
            for start in range(0, len(paired), 2):
                pair = np.take(paired, [start, start + 1], mode="wrap")
                maps = self._maps_of(pair, backend)
                expected = self.kernel.block(maps[:1], maps[1:], backend)
                found = np.array([_entries(matrix, i, pair) for i in pair])
                scale = np.sqrt(np.abs(np.prod(found.diagonal())))  # spares two kernels in three
                for entry in (found[:1, 1:], found[1:, :1].T):
                    _check_entries(number, pair[:1], pair[1:], entry, expected, scale)

    def _maps_of(self, chosen: Index, backend: Backend) -> Array:
        """Return some of the points, of the type in which the backend computes."""
        return read_maps(ArrayImages(self.points[chosen]), slice(0, len(chosen)), np.dtype(backend.dtype))

    def width(self, shape: Shape) -> int:
        """Count the features of an image of this shape; raise `InvalidData` if it is not the points'."""
        if tuple(shape) != self.points.shape[1:]:
            given, own = ("x".join(map(str, each)) for each in (shape, self.points.shape[1:]))
            raise InvalidData(
                f"images are of {given}; they are compared with images of {own} (height x width x channels): "
                "give images of that size"
            )
        return len(self.points)

    def images_per_block(self, shape: Shape, backend: Backend, beside: int) -> int:
        """Return how many images to compare at a time; what stays in memory beside them is small."""
        return min(AT_ONCE, max(1, backend.images_per_block([], shape) // (1 + beside)))

    def bytes_held(self) -> int:
        """Count the bytes of its images, once more in single precision, and of their patches' norms."""
        spec = ExactEncoderSpec(self.kernel, self.preprocessing)
        return spec.bytes_learned(len(self.points), self.points.shape[1:]) + sum(
            int(array.nbytes) for array in preprocessing_arrays(self.preprocessing).values()
        )

    def bytes_at_once(self, shape: Shape, backend: Backend, memory: int) -> int:
        """Count two tiles of images, padded, and their kernels."""
        return ExactEncoderSpec(self.kernel).bytes_at_once(0, shape, backend, memory)

    @property
    def n_parameters(self) -> int:
        """Number of numbers that it holds: those of its images."""
        return int(self.points.size)

    def describe(self, shape: Shape | None) -> dict[str, Any]:
        """Return everything but the arrays as plain data."""
        about = {"kind": self.kind, "preprocessing": self.to_dict()["preprocessing"]}
        return about | {"n_images": len(self.points)} | self.kernel.description()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as a model file holds it."""
        return {
            "kind": self.kind,
            "kernel": self.kernel.to_dict(),
            "preprocessing": [step.to_dict() for step in self.preprocessing],
            "points": "points",  # the name of the array, which the file may share with other encoders
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned or kept, by name."""
        return preprocessing_arrays(self.preprocessing) | {"points": self.points}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "ExactEncoder":
        """Rebuild an encoder from what `to_dict` and `arrays` gave.

        Raises
        ------
        InvalidSpec, ValueError
            The kernel or the points are malformed, or do not fit one another.
        """
        kernel, points = ExactKernel.from_dict(options["kernel"]), arrays["points"]
        if not isinstance(options["points"], str):
            raise ValueError("the name of the images to compare with is missing")
        if points.ndim != 4 or len(points) == 0 or points.dtype not in (np.uint8, np.float32):
            raise ValueError(f"the images to compare with are of shape {list(points.shape)}, {points.dtype}")
        if not np.isfinite(points).all():
            raise ValueError("the images to compare with are not finite")
        kernel.check_shape(points.shape[1:])
        return cls(kernel, points, preprocessing_from_dict(options["preprocessing"], arrays))


def _entries(matrix: NDArray[Any], row: int, columns: Index) -> NDArray[np.float64]:
    """Read some entries of one row."""
    entries: NDArray[np.float64] = np.asarray(matrix[int(row) : int(row) + 1], np.float64)[0, columns]
    return entries


def _check_entries(
    number: int, rows: Index, columns: Index, found: Array, expected: Array, scale: Array | float
) -> None:
    """Raise `InvalidData` unless entries of a Gram matrix are the kernels, but for rounding."""
    check_finite(expected, rows.tolist(), columns.tolist())
    wrong = ~(np.abs(found - expected) <= AGREEMENT * scale)
    if wrong.any():
        i, j = (int(place) for place in np.argwhere(wrong)[0])
        raise InvalidData(
            f"Gram matrix {number} is not that of these images and this kernel: of images {rows[i]} and "
            f"{columns[j]} (counting from 0) it says {found[i, j]:g}, their kernel is {expected[i, j]:g}; "
            "give the images, layers and preprocessing that it was computed with"
        )


def drawn_landmarks(landmarks: int | None, n: int, seed: int) -> Index | None:
    """Return the numbers of so many landmarks among n images, or None: all are."""
    return None if landmarks is None else np.sort(np.random.default_rng(seed).permutation(n)[:landmarks])


def _read(images: PreprocessedImages, chosen: Index | None) -> NDArray[Any]:
    """Read all images, or those chosen, whose numbers are in order."""
    n = images.shape[0]
    numbers = np.arange(n) if chosen is None else chosen
    out = np.empty((len(numbers), *images.shape[1:]), np.uint8 if images.dtype == np.uint8 else np.float32)
    for start in range(0, n, TILE):
        first, last = np.searchsorted(numbers, [start, start + TILE])
        if first < last:
            block = images.read(start, min(start + TILE, n))
            out[first:last] = block[numbers[first:last] - start]
    return out
