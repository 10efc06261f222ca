"""Preprocessing: maps from images to images, before the first layer.

A preprocessor is fitted on training images, where it learns something at all, and is stored in the
model, so that new images meet exactly what the training images met.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ckncuda.backend.arrays import as_float, to_host
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.files.model_file import group
from ckncuda.given.parameters import listed, number, several, shown, whole
from ckncuda.images.sources import Images
from ckncuda.progress import Progress, Report
from ckncuda.types import Shape

ZCA_MAX_SIZE = 12_288  # numbers an image, as 64x64x3: the matrix is 0.6 GiB, its eigenvectors minutes
BLOCK = 256  # images at a time
BLOCK_BYTES = 64 << 20  # of patches at a time
HOST_BLOCK_BYTES = 16 << 20  # on a CPU, for which it is no slower
LOOKED_AT = 1000  # images, to see whether they are raw
ROUNDING = 1e-6  # a deviation below this part of the values is float32's, not the image's
HUGE, TINY = 1e15, 1e-12  # values beyond which sums of squares leave float32
ZCA_AT_ONCE = 4096  # numbers of an image up to which ZCA is a matter of seconds
MILD = 2.0  # ε of a ZCA that does not over-fit with hardly more images than numbers in each
RAW_CORRELATION = 0.5  # of neighbouring pixels: photographs have about 0.9, the challenge's images 0.36


class Preprocessor(abc.ABC):
    """A map from images to images of the same shape, computed where they are: on the host or on a GPU."""

    name: ClassVar[str]

    def fit(self, images: Images, progress: Progress | None = None) -> "Preprocessor":
        """Learn from training images what `apply` needs; most learn nothing and return themselves."""
        return self

    def bytes_to_fit(self, shape: Shape) -> int:
        """Count the bytes of the host that `fit` and `apply` take beside images (height, width, channels)."""
        return BLOCK * 4 * 3 * math.prod(shape)

    @abc.abstractmethod
    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocess images [n, h, w, c] into a new array of that shape."""

    def workspace(self, shape: Shape) -> int | None:
        """Count the bytes that one image of a shape takes on its way; None where images are not apart."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the options."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]
        return {"name": self.name} | options

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return {}

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> "Preprocessor":
        """Return this step with what `arrays` gave."""
        return self


@dataclass(frozen=True)
class Standardize(Preprocessor):
    """Bring each image and channel to zero mean and unit variance.  A constant channel becomes zero."""

    name = "standardize"

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocess images [n, h, w, c] into a new array of that shape."""
        return _standardized(images, (1, 2))

    def workspace(self, shape: Shape) -> int:
        """Count the bytes that one image takes on its way: centred, squared."""
        return 4 * 3 * math.prod(shape)


@dataclass(frozen=True)
class LocalWhitening(Preprocessor):
    """Whiten the patches of each image, centred per channel, and average overlapping ones back.

    Parameters
    ----------
    patch : int
        Side of the patches.
    power : float
        The patches are multiplied by (covariance)^(−power).  Published CKN programs take 1/4 (the
        singular values to the power −1/2); 1/2 whitens fully.
    """

    patch: int = 3
    power: float = 0.25
    name = "local_whitening"

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", whole("local_whitening: patch", self.patch, 2))
        expected = "it must lie in (0, 0.5]"
        power = number("local_whitening: power", self.power, lambda p: 0 < p <= 0.5, expected)
        object.__setattr__(self, "power", power)

    def bytes_to_fit(self, shape: Shape) -> int:
        """Count the bytes of patches of a few images, or of one."""
        numbers = shape[2] * self.patch**2
        return max(HOST_BLOCK_BYTES, 4 * 4 * shape[0] * shape[1] * numbers + 4 * 8 * numbers**2) * 3 // 2

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocess images [n, h, w, c] into a new array of that shape."""
        n, h, w, c = images.shape
        k = self.patch
        if k > min(h, w):
            raise InvalidSpec(f"local_whitening: patches of {k}x{k} are larger than the images of {h}x{w}")
        out = np.zeros((n, h, w, c), np.float32, like=images)
        count = np.zeros((h, w, 1), np.float32, like=images)
        rows, columns = h - k + 1, w - k + 1
        for dy, dx in np.ndindex(k, k):
            count[dy : dy + rows, dx : dx + columns] += 1
        numbers = c * k * k
        # Patches, centred, copied and whitened; four matrices in double precision, whatever the image's size.
        limit = HOST_BLOCK_BYTES if isinstance(images, np.ndarray) else BLOCK_BYTES
        size = max(1, limit // (4 * 4 * h * w * numbers + 4 * 8 * numbers**2))
        for i in range(0, n, size):
            whitened = self._whiten(images[i : i + size]).reshape(-1, rows, columns, k, k, c)
            for dy, dx in np.ndindex(k, k):
                out[i : i + size, dy : dy + rows, dx : dx + columns] += whitened[:, :, :, dy, dx]
        out /= count
        return out

    def workspace(self, shape: Shape) -> int:
        """Count the bytes that one image takes on its way: its patches, centred, copied and whitened."""
        return 4 * 4 * math.prod(shape) * self.patch**2

    def _whiten(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whitened patches [n, patches, k·k·c]."""
        n, c = len(images), images.shape[3]
        windows = sliding_window_view(images, (self.patch, self.patch), axis=(1, 2))  # [n, h', w', c, k, k]
        centred = windows - windows.mean(axis=(4, 5), keepdims=True)
        patches = centred.transpose(0, 1, 2, 4, 5, 3).reshape(n, -1, self.patch**2 * c)
        exact = patches.astype(np.float64)  # matmul's dtype is that of the result alone in CuPy
        covariance = np.matmul(exact.transpose(0, 2, 1), exact) / patches.shape[1]
        del exact
        eigenvalues, vectors = np.linalg.eigh(covariance)
        # Centring takes away one direction a channel: what is left there is rounding, not signal.
        largest = np.maximum(eigenvalues[:, -1:], np.finfo(np.float64).tiny)
        # An image that is constant but for rounding has no structure to whiten at all.
        scale = np.square(images, dtype=np.float64).mean(axis=(1, 2, 3))[:, None]
        signal = (eigenvalues > 1e-6 * largest) & (largest > ROUNDING**2 * scale)
        factors = np.where(signal, np.where(signal, eigenvalues, 1) ** -self.power, 0)
        whitening = np.matmul(vectors * factors[:, None, :], vectors.transpose(0, 2, 1))
        whitened: NDArray[np.float32] = np.matmul(patches, whitening.astype(np.float32))
        return whitened


@dataclass(frozen=True)
class ZCA(Preprocessor):
    """Whiten whole images with the covariance of the training images.

    Each image is centred and scaled to unit variance over all its numbers (global contrast
    normalisation); then x ↦ U (Λ/λ̄ + ε)^{-1/2} Uᵀ (x − μ), with U Λ Uᵀ the covariance, λ̄ its mean
    eigenvalue and μ the mean image.

    Parameters
    ----------
    epsilon : float
        ε > 0: directions of less than ε times the mean variance are not amplified further.

    Attributes
    ----------
    mean_ : float32 [h·w·c]
    whitening_ : float32 [h·w·c, h·w·c]
        Learned by `fit`; empty before.
    """

    epsilon: float = 0.1
    mean_: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), init=False, repr=False
    )
    whitening_: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), init=False, repr=False
    )
    name = "zca"

    def __eq__(self, other: object) -> bool:
        """Tell whether the other has the same ε and has learned the same, if anything."""
        if not isinstance(other, ZCA) or self.epsilon != other.epsilon:
            return False
        mine, others = self.arrays(), other.arrays()
        return all(np.array_equal(mine[name], others[name]) for name in mine)

    def __hash__(self) -> int:
        return hash((self.name, self.epsilon))

    def __post_init__(self) -> None:
        expected = "it must be a positive number, such as 0.1"
        object.__setattr__(self, "epsilon", number("zca: epsilon", self.epsilon, lambda e: e > 0, expected))

    def fit(self, images: Images, progress: Progress | None = None) -> "ZCA":
        """Mean and covariance of the training images, read in blocks."""
        n, *shape = images.shape
        size = int(np.prod(shape))
        if size > ZCA_MAX_SIZE:
            raise InvalidSpec(
                f"zca: images of {'x'.join(map(str, shape))} have {size} numbers, more than {ZCA_MAX_SIZE}; "
                "use local_whitening for large images"
            )
        for start in range(0, n, BLOCK):
            block = self._normalize(as_float(images.read(start, min(start + BLOCK, n)))).astype(np.float64)
            if start == 0:  # where the images are
                total = np.zeros(size, like=block)
                products = np.zeros((size, size), like=block)
            total += block.sum(axis=0)
            products += block.T @ block
            if progress:
                progress("zca", min(start + BLOCK, n), n)
        mean = total / n
        products /= n
        products -= np.outer(mean, mean)
        eigenvalues, vectors = np.linalg.eigh(products)
        scaled = np.maximum(eigenvalues, 0) / max(float(eigenvalues.mean()), np.finfo(np.float64).tiny)
        whitening = (vectors / np.sqrt(scaled + self.epsilon)) @ vectors.T
        learned = {"mean": mean.astype(np.float32), "whitening": whitening.astype(np.float32)}
        return self.with_arrays({name: to_host(array) for name, array in learned.items()})

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocess images [n, h, w, c] into a new array of that shape."""
        if not len(self.mean_):
            raise InvalidSpec("zca has learned nothing yet: call fit first")
        if math.prod(images.shape[1:]) != len(self.mean_):
            shape = "x".join(map(str, images.shape[1:]))
            raise InvalidData(
                f"zca has learned from images of {len(self.mean_)} numbers; these are of {shape}: give "
                "images of the size that it has learned from"
            )
        mean, whitening = (np.asarray(array, like=images) for array in (self.mean_, self.whitening_))
        out = np.empty_like(images)
        for i in range(0, len(images), BLOCK):
            block = self._normalize(images[i : i + BLOCK])
            block -= mean
            out[i : i + BLOCK] = (block @ whitening).reshape(-1, *images.shape[1:])
        return out

    def bytes_to_fit(self, shape: Shape) -> int:
        """Count the bytes of six square matrices in double precision, and of a block of images."""
        size = math.prod(shape)
        return 6 * 8 * size**2 + BLOCK * 4 * 5 * size

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was learned, by name."""
        return {"mean": self.mean_, "whitening": self.whitening_}

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> "ZCA":
        """Return this step with what `arrays` gave; raise `InvalidData` if it is malformed."""
        mean, whitening = arrays["mean"], arrays["whitening"]
        if (
            mean.ndim != 1
            or whitening.shape != 2 * mean.shape
            or {mean.dtype.kind, whitening.dtype.kind} != {"f"}
        ):
            raise InvalidData(
                f"zca: a mean {mean.shape} and a whitening matrix {whitening.shape} do not fit; "
                "expected floats [d] and [d, d]"
            )
        if not (np.isfinite(mean).all() and np.isfinite(whitening).all()):
            raise InvalidData("zca: the mean or the whitening matrix holds NaN or infinity")
        fitted = ZCA(self.epsilon)
        object.__setattr__(fitted, "mean_", mean)
        object.__setattr__(fitted, "whitening_", whitening)
        return fitted

    @staticmethod
    def _normalize(images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Global contrast normalisation: images as rows [n, h·w·c] of zero mean and unit variance."""
        return _standardized(images.reshape(len(images), -1), 1)


PREPROCESSORS: Mapping[str, type[Preprocessor]] = {p.name: p for p in (Standardize, LocalWhitening, ZCA)}


def preprocessor_from_dict(options: Mapping[str, Any]) -> Preprocessor:
    """Build the preprocessor that ``options`` describe: its ``name`` and its own options.

    Examples
    --------
    >>> preprocessor_from_dict({"name": "local_whitening", "power": 0.5})
    LocalWhitening(patch=3, power=0.5)
    """
    options = dict(options)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in PREPROCESSORS:
        raise InvalidSpec(f"there is no preprocessing {shown(name)}; there is {', '.join(PREPROCESSORS)}")
    known = [f.name for f in fields(PREPROCESSORS[name]) if f.init]  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(known)):
        raise InvalidSpec(
            f"the preprocessing {name} has no option {listed(map(repr, unknown))}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return PREPROCESSORS[name](**options)


def preprocessing_arrays(steps: Sequence[Preprocessor]) -> dict[str, NDArray[Any]]:
    """Return what the steps have learned, by name, as a model file holds it."""
    return {
        f"preprocessing.{number}.{name}": array
        for number, step in enumerate(steps)
        for name, array in step.arrays().items()
    }


def preprocessing_from_dict(
    options: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]
) -> tuple[Preprocessor, ...]:
    """Rebuild fitted steps from their plain data and `preprocessing_arrays`, among other arrays."""
    return tuple(
        preprocessor_from_dict(step).with_arrays(group(arrays, f"preprocessing.{number}."))
        for number, step in enumerate(options)
    )


def suggested_preprocessing(images: Images) -> tuple[Preprocessor, ...]:
    """Suggest preprocessing: `LocalWhitening` for raw images, a mild `ZCA` for whitened ones.

    Raw images are told by the correlation of neighbouring pixels.  What ZCA mends in whitened images is
    mostly their contrast; where images are too large or too few for it, they are taken as they are.  The
    first 1,000 images are looked at, fewer where they are large.
    """
    n, height, width, channels = images.shape
    looked_at = max(1, min(n, LOOKED_AT, BLOCK_BYTES // (4 * height * width * channels)))
    if min(height, width) < LocalWhitening().patch:
        return ()
    if _neighbour_correlation(as_float(images.read(0, looked_at))) >= RAW_CORRELATION:
        return (LocalWhitening(),)
    return (ZCA(MILD),) if zca_is_mild(n, (height, width, channels)) else ()


class PreprocessingSpec:
    """The preprocessing of an encoder's specification: steps, or None for those that images suggest."""

    preprocessing: Sequence[Preprocessor] | None

    def __post_init__(self) -> None:
        if self.preprocessing is not None:
            expected = (
                "expected a list of steps such as ZCA(epsilon=0.1), or None for those that images suggest"
            )
            steps = several("preprocessing", self.preprocessing, Preprocessor, expected)
            object.__setattr__(self, "preprocessing", steps)

    def resolved(self, images: Images, report: Report | None = None) -> Self:
        """Return this with the steps that these images suggest, if they are left open; a report is told."""
        if self.preprocessing is not None:
            return self
        suggested = suggested_preprocessing(images)
        if report is not None:
            report.tell(f"Preprocessing: {', '.join(step.name for step in suggested) or 'none'}")
        return replace(self, preprocessing=suggested)  # type: ignore[type-var]  # a dataclass


def zca_is_mild(n: int, shape: tuple[int, int, int]) -> bool:
    """Return whether ZCA of ε = `MILD` takes seconds and has images enough: as many as numbers in each."""
    size = math.prod(shape)
    return size <= ZCA_AT_ONCE and n >= size


def _neighbour_correlation(images: NDArray[np.float32]) -> float:
    """Correlation of horizontally neighbouring pixels, each image and channel centred."""
    centred = (images - images.mean(axis=(1, 2), keepdims=True)).astype(np.float64)
    left, right = centred[:, :, :-1], centred[:, :, 1:]
    scale = np.sqrt(np.sum(left**2) * np.sum(right**2))
    return float(np.sum(left * right) / scale) if scale > 0 else 0.0


def _standardized(values: NDArray[np.float32], axes: int | tuple[int, ...]) -> NDArray[np.float32]:
    """Bring values to zero mean and unit variance along some axes; constant ones become zero."""
    largest = np.abs(values).max(axis=axes, keepdims=True)
    extreme = (largest > HUGE) | ((largest > 0) & (largest < TINY))
    if bool(
        extreme.any()
    ):  # the squares of such values overflow, or vanish: bring them near 1, without rounding
        known = extreme & np.isfinite(largest)
        exponent = np.clip(-np.floor(np.log2(np.where(known, largest, 1))), -126, 126)
        values = values * np.exp2(exponent).astype(np.float32)
        largest = np.abs(values).max(axis=axes, keepdims=True)
    centred: NDArray[np.float32] = values - values.mean(axis=axes, keepdims=True)
    deviation = centred.std(axis=axes, keepdims=True)
    # Rounding leaves constant values a deviation of about 1e-7 of them.
    constant = deviation <= ROUNDING * largest
    centred /= np.where(constant, 1, deviation)
    centred *= ~constant
    return centred
