"""Images as the library reads them: in blocks, from an array or from wherever a reader finds them."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.arrays import DLPACK_CPU
from ckncuda.errors import InvalidData
from ckncuda.types import Array


class Images(Protocol):
    """Images that are read in blocks; NumPy arrays [n, h, w, c] are accepted in its place."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    """Of what `read` returns."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Images ``start`` to ``stop`` as an array [stop − start, h, w, c]."""
        ...


class ArrayImages:
    """An array in memory as `Images`."""

    def __init__(self, array: NDArray[Any]) -> None:
        if array.ndim != 4:
            raise InvalidData(
                f"images are of shape {list(array.shape)}; expected [n, height, width, channels]"
            )
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
            raise InvalidData(
                f"images are of type {array.dtype}; give uint8 (0...255) or floating-point numbers"
            )
        self.array = array
        self.shape: tuple[int, int, int, int] = array.shape
        self.dtype = array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """A view of the images; raises `InvalidData` where one is not finite."""
        block = self.array[start:stop]
        if block.dtype != np.uint8 and not np.isfinite(block).all():
            bad = start + int(np.flatnonzero(~np.isfinite(block).all(axis=(1, 2, 3)))[0])
            raise InvalidData(f"image {bad} (counting from 0) holds NaN or infinite values")
        return block


class DeviceImages:
    """An array on a GPU, of CuPy or any library that speaks DLPack, as `Images`, read without copies."""

    def __init__(self, array: Any) -> None:
        if len(array.shape) != 4:
            raise InvalidData(
                f"images are of shape {list(array.shape)}; expected [n, height, width, channels]"
            )
        kind = str(array.dtype).rpartition(".")[2]  # torch.float32, float32
        if kind != "uint8" and "float" not in kind:
            raise InvalidData(f"images are of type {kind}; give uint8 (0...255) or floating-point numbers")
        self.array = array
        n, height, width, channels = map(int, array.shape)
        self.shape: tuple[int, int, int, int] = (n, height, width, channels)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if kind == "uint8" else np.float32)

    def read(self, start: int, stop: int) -> Any:
        """A view of the images, where they are."""
        return self.array[start:stop]

    def returned(self, result: Any) -> Any:
        """An array of CuPy as one of the library that the images came from, where it takes DLPack."""
        library = sys.modules[type(self.array).__module__.partition(".")[0]]
        return library.from_dlpack(result) if hasattr(library, "from_dlpack") else result


def as_images(images: Any) -> Images:
    """Wrap an array [n, h, w, c], in host memory or on a GPU; anything else is `Images` already."""
    if isinstance(images, np.ndarray):
        return ArrayImages(images)
    if hasattr(images, "__dlpack_device__"):
        on_cpu = images.__dlpack_device__()[0] == DLPACK_CPU
        return ArrayImages(np.from_dlpack(images)) if on_cpu else DeviceImages(images)
    source: Images = images
    return source


def read_blocks(images: Images, size: int) -> Iterator[NDArray[Any]]:
    """All images, so many at a time."""
    n = images.shape[0]
    return (images.read(start, min(start + size, n)) for start in range(0, n, size))


def numbered(blocks: Iterable[Array]) -> Iterator[tuple[int, Array]]:
    """The number of the first image of each block, and the block."""
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)
        del block  # while the next one is made, this one need not be there
