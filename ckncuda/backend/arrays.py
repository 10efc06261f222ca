"""Arrays where they are: NumPy's in the host's memory, CuPy's or any library's with DLPack on a GPU."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ckncuda.errors import InvalidData

Array = NDArray[Any]

DLPACK_CPU = 1  # the standard's number of a device that is the host


def as_array(array: ArrayLike, dtype: DTypeLike) -> Array:
    """Return an array of this type where it is: CuPy's on a GPU, of CuPy or by DLPack; else NumPy's."""
    where: Any = getattr(array, "__dlpack_device__", None)
    if isinstance(array, np.ndarray) or where is None or where()[0] == DLPACK_CPU:
        return np.asarray(array, dtype)
    import cupy

    on_device: Array = array if isinstance(array, cupy.ndarray) else cupy.from_dlpack(array)
    return on_device.astype(dtype, copy=False)


def to_host(array: Array) -> Array:
    """Return a NumPy array, once what is queued has been computed."""
    if isinstance(array, np.ndarray):
        return array
    host: Array = array.get()
    return host


def wait(array: Array) -> None:
    """Return when this array has been computed: on a GPU, other streams than the current one may read it."""
    if not isinstance(array, np.ndarray):
        import cupy

        cupy.cuda.get_current_stream().synchronize()


def on_host(images: Any) -> NDArray[Any]:
    """Return images that are in host memory as a NumPy array; raise `InvalidData` for what is on a GPU."""
    where = None if isinstance(images, np.ndarray) else getattr(images, "__dlpack_device__", None)
    if where is not None and where()[0] != DLPACK_CPU:
        raise InvalidData(
            "the images are on a GPU, the backend computes in host memory: use the backend cupy, or copy them"
        )
    return np.asarray(images)


def as_float(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return images as float32; bytes 0…255 become 0…1."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32, copy=False)
