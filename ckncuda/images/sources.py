"""Images as the library reads them: in blocks, from an array or from wherever a reader finds them."""

import math
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.arrays import DLPACK_CPU
from ckncuda.errors import InvalidData
from ckncuda.progress import Progress
from ckncuda.types import Index


class Images(Protocol):
    """Images that are read in blocks; NumPy arrays [n, h, w, c] are accepted in its place.

    Attributes
    ----------
    shape : (n, height, width, channels)
    dtype : numpy.dtype
        That of what `read` returns.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the images ``start`` to ``stop`` as an array [stop − start, h, w, c]."""

    def blocks(self, size: int) -> Iterator[NDArray[Any]]:
        """Read all images, so many at a time."""
        n = self.shape[0]
        return (self.read(start, min(start + size, n)) for start in range(0, n, size))


ImagesOrArray = Images | NDArray[Any]
"""Images, or an array [n, h, w, c] in their place; `as_images` makes one of the other."""


class ArrayImages(Images):
    """An array in memory as `Images`."""

    def __init__(self, array: NDArray[Any]) -> None:
        is_known = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
        self.shape = _checked_shape(array, array.dtype, is_known)
        self.array, self.dtype = array, array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return a view of the images; raise `InvalidData` where one is not finite."""
        block = self.array[start:stop]
        if block.dtype != np.uint8 and not np.isfinite(block).all():
            bad = start + int(np.flatnonzero(~np.isfinite(block).all(axis=(1, 2, 3)))[0])
            raise InvalidData(f"image {bad} (counting from 0) holds NaN or infinite values")
        return block


class DeviceImages(Images):
    """An array on a GPU, of CuPy or any library that speaks DLPack, as `Images`, read without copies."""

    def __init__(self, array: Any) -> None:
        kind = str(array.dtype).rpartition(".")[2]  # torch.float32, float32
        self.shape = _checked_shape(array, kind, kind == "uint8" or "float" in kind)
        self.array = array
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if kind == "uint8" else np.float32)

    def read(self, start: int, stop: int) -> Any:
        """Return a view of the images, where they are."""
        return self.array[start:stop]

    def returned(self, result: Any) -> Any:
        """Return an array of CuPy as one of the images' own library, where that takes DLPack."""
        library = sys.modules[type(self.array).__module__.partition(".")[0]]
        return library.from_dlpack(result) if hasattr(library, "from_dlpack") else result


class SomeImages(Images):
    """Images of an array [n, h, w, c] by their numbers [m], in this order, without a copy of them all."""

    def __init__(self, array: NDArray[Any], numbers: Index) -> None:
        self.array, self.numbers = array, numbers
        self.shape = (len(numbers), *array.shape[1:])
        self.dtype = array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return a copy of these images."""
        block: NDArray[Any] = self.array[self.numbers[start:stop]]
        return block


class FirstImages(Images):
    """The first n images, or all, of anything with ``shape``, ``dtype`` and ``read``."""

    def __init__(self, images: Any, n: int | None = None) -> None:
        self.shape = images.shape if n is None else (n, *images.shape[1:])
        self.dtype, self._images = images.dtype, images

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return what the images' own `read` does."""
        block: NDArray[Any] = self._images.read(start, stop)
        return block


def as_images(images: Any) -> Images:
    """Wrap an array [n, h, w, c], in host memory or on a GPU; anything else is `Images` already."""
    if isinstance(images, np.ndarray):
        return ArrayImages(images)
    if hasattr(images, "__dlpack_device__"):
        on_cpu = images.__dlpack_device__()[0] == DLPACK_CPU
        return ArrayImages(np.from_dlpack(images)) if on_cpu else DeviceImages(images)
    source: Images = images if hasattr(images, "blocks") else FirstImages(images)
    return source


def in_memory(images: Images, progress: Progress) -> NDArray[Any]:
    """Read all images into an array in the host's memory: text is slow to read more than once."""
    n = images.shape[0]
    array = np.empty(images.shape, images.dtype)
    size = max(1, n // 100)
    for start in range(0, n, size):
        stop = min(start + size, n)
        array[start:stop] = images.read(start, stop)
        progress("reading", stop, n)
    return array


def size_of(images: Images) -> int:
    """Count the bytes of all images, as they are read."""
    return math.prod(images.shape) * images.dtype.itemsize


def type_name(images: Images) -> str:
    """Name the type of images as a model does: uint8 or float32."""
    return "uint8" if images.dtype == np.uint8 else "float32"


def class_names(images: Any, labels: Any = None) -> tuple[str, ...] | None:
    """Return the names of the labels 0, 1, …, where the images come with names.

    Names are those of the images' own labels: other ``labels``, such as those of a file, have none.
    """
    names: tuple[str, ...] | None = getattr(images, "class_names", None)
    if names is None or labels is None or np.array_equal(labels, images.labels):
        return names
    return None


def _checked_shape(array: Any, given: object, is_known: bool) -> tuple[int, int, int, int]:
    """Return the shape of an array of the type given; refuse what is no images."""
    if len(array.shape) != 4:
        raise InvalidData(f"images are of shape {list(array.shape)}; expected [n, height, width, channels]")
    if not is_known:
        raise InvalidData(f"images are of type {given}; give uint8 (0...255) or floating-point numbers")
    n, height, width, channels = map(int, array.shape)
    return n, height, width, channels
