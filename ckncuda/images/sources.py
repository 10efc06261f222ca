"""Images as the library reads them: in blocks, from an array or from wherever a reader finds them."""

import math
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.arrays import DLPACK_CPU
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.given.images import (
    PYTHON,
    Layout,
    expected_pixels,
    first_bad,
    host_array,
    pixel_type,
    stack_of,
)
from ckncuda.progress import Progress
from ckncuda.types import Index, Shape

AT_ONCE = 1 << 20  # whole numbers that are checked and converted at a time
ON_DEVICE = ("uint8", "float16", "float32", "float64")


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
        if array.ndim != 4:
            raise InvalidData(
                f"images are of shape {list(array.shape)}; expected [n, height, width, channels]"
            )
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise InvalidData(
                f"images are of type {array.dtype}; give uint8 (0...255) or floating-point numbers"
            )
        n, height, width, channels = map(int, array.shape)
        self.shape = n, height, width, channels
        self.array, self.dtype = array, array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return a view of the images; raise `InvalidData` where one is not finite, or too large."""
        block = self.array[start:stop]
        _check_pixels(block, range(start, stop))
        return block

    def some(self, numbers: Index) -> NDArray[Any]:
        """Return a copy of images by their numbers, in this order, with the same errors."""
        block: NDArray[Any] = self.array[numbers]
        _check_pixels(block, numbers)
        return block


class DeviceImages(Images):
    """An array on a GPU, of CuPy or any library that speaks DLPack, as `Images`, read without copies."""

    def __init__(self, array: Any, layout: Layout | None = None) -> None:
        kind = str(array.dtype).rpartition(".")[2]  # torch.float32, float32
        if kind not in ON_DEVICE:
            raise InvalidData(
                f"images are of type {kind} on a GPU; give uint8 (0...255) or floating-point"
                f" numbers, {', '.join(ON_DEVICE[1:])}: images.float() in PyTorch,"
                " images.astype('float32') elsewhere"
            )
        self._stack = stack_of(array.shape, "images", origin=PYTHON, layout=layout)
        self.shape = self._stack.shape
        self.array = array
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if kind == "uint8" else np.float32)

    def read(self, start: int, stop: int) -> Any:
        """Return a view of the images, where they are."""
        block = self.array[start:stop]
        if len(block.shape) == 3:
            return block[..., None]
        if self._stack.channels_first:  # PyTorch's transpose takes two axes
            return block.permute(0, 2, 3, 1) if hasattr(block, "permute") else block.transpose(0, 2, 3, 1)
        return block

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


def as_images(images: Any, layout: Layout | None = None) -> Images:
    """Return images that the library reads: of an array, in host memory or on a GPU, or `Images` as they are.

    Parameters
    ----------
    images : array [n, h, w, c] or [n, h, w], or `Images`
        Of NumPy, CuPy or any library that speaks DLPack: uint8, whole numbers 0…255, truth values, or
        floating point.  What `ckncuda.data.open_images` returns is `Images`.
    layout : {"NHWC", "NCHW"}, optional
        ``"NCHW"``: the channels come first, as in PyTorch.  By default they come last; an array that looks
        otherwise is refused, unless ``"NHWC"`` says that it is meant so.

    Raises
    ------
    InvalidData
        This is no array of images, or one in which numbers are missing, not finite or out of range.

    Examples
    --------
    >>> as_images(np.zeros((10, 3, 32, 32), np.uint8), layout="NCHW").shape
    (10, 32, 32, 3)
    """
    if hasattr(images, "read") and len(getattr(images, "shape", ())) == 4:
        if layout is not None:
            raise InvalidSpec(
                f"layout is {layout!r}, but a {type(images).__name__} knows its own: leave it out"
            )
        source: Images = images if hasattr(images, "blocks") else FirstImages(images)
        return source
    if isinstance(images, np.ndarray | type) or not hasattr(images, "__dlpack_device__"):
        return _of_host(host_array(images, "images"), layout)
    if getattr(images, "requires_grad", False):
        raise InvalidData("images require gradients, which are not passed on: give images.detach()")
    try:
        if images.__dlpack_device__()[0] != DLPACK_CPU:
            return DeviceImages(images, layout)
        array = np.from_dlpack(images)
    except (BufferError, RuntimeError, TypeError) as error:  # what libraries say of what they cannot pass on
        kind = f"{type(images).__module__}.{type(images).__qualname__}"
        raise InvalidData(
            f"images are a {kind} of type {getattr(images, 'dtype', 'unknown')}, which"
            f" cannot be passed on ({error}): give images.float() in PyTorch,"
            " images.astype('float32') elsewhere"
        ) from error
    return _of_host(array, layout)


def as_images_of(images: Any, shape: Shape | None) -> Images:
    """Return images for a model that takes [height, width, channels]: an array of such is not doubted.

    Examples
    --------
    >>> as_images_of(np.zeros((10, 6, 100, 50), np.uint8), (6, 100, 50)).shape
    (10, 6, 100, 50)
    """
    axes = () if hasattr(images, "read") or isinstance(images, type) else getattr(images, "shape", ())
    if shape is not None and isinstance(axes, tuple):
        if axes[1:] == shape:
            return as_images(images, "NHWC")
        if len(axes) == 3 and (*axes[1:], 1) == shape:
            return as_images(images[..., None], "NHWC")
    return as_images(images)


def host_images(images: Any) -> NDArray[Any]:
    """Return the array [n, h, w, c], uint8 or floating point, of images that are in the host's memory."""
    source = as_images(images)
    if isinstance(source, ArrayImages):
        return source.array
    if isinstance(source, DeviceImages):
        raise InvalidData("the images are on a GPU; expected an array in host memory: copy them there")
    return in_memory(source, lambda *_: None)


def _of_host(array: NDArray[Any], layout: Layout | None) -> ArrayImages:
    """Wrap an array of NumPy; whole numbers become bytes."""
    kind = pixel_type(array.dtype, "images")
    stack = stack_of(array.shape, "images", origin=PYTHON, layout=layout)
    if min(stack.shape[1:]) < 1:
        raise InvalidData(f"images are of shape {array.shape}; expected at least one pixel")
    array = stack.last(array if array.ndim == 4 else array.reshape(stack.stored))
    return ArrayImages(array if array.dtype == kind else _bytes_of(array))


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert whole numbers to bytes; raise `InvalidData` where one is none."""
    out = np.empty(array.shape, np.uint8)
    size = max(1, AT_ONCE // math.prod(array.shape[1:]))
    for start in range(0, len(array), size):
        block = array[start : start + size]
        _check_pixels(block, range(start, start + size))
        out[start : start + size] = block
    return out


def _check_pixels(block: NDArray[Any], numbers: Index | range) -> None:
    """Raise `InvalidData` for the first number that is no pixel in a block of images of these numbers."""
    bad = first_bad(block)
    if bad is None:
        return
    value, (image, row, column, channel) = block[bad], bad
    what = f"holds {value} in row {row}, column {column}, channel {channel}"
    if block.dtype.kind == "f" and not np.isfinite(value):
        what = f"holds NaN or infinite values: {value} in row {row}, column {column}, channel {channel}"
    raise InvalidData(f"image {numbers[image]} (counting from 0) {what}; {expected_pixels(value)}")


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
