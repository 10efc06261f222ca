"""Gram matrices of exact kernels in memory; see `on_disk.writing` for those that outlive a process."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckncuda.backend import Backend, get_backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact.kernel import ExactKernel, Maps
from ckncuda.exact.tiles import TILE, Tiling, read_maps
from ckncuda.images.sources import Images, as_images
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.progress import Progress


def gram(
    images: Images | npt.NDArray[Any],
    specs: Sequence[KernelLayer | LayerSpec] | ExactKernel,
    images2: Images | npt.NDArray[Any] | None = None,
    *,
    tangent: bool = False,
    flip: bool = False,
    dtype: npt.DTypeLike = np.float32,
    tile: int = TILE,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> npt.NDArray[np.floating[Any]]:
    """Compute the exact kernel of all pairs of images.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
        uint8, which is scaled to 0…1, or floating point, which is taken as it is.
    specs : sequence of KernelLayer or LayerSpec, or ExactKernel
        The layers, from the image upwards; see `ExactKernel` for them, ``tangent`` and ``flip``.
    images2 : [n2, h, w, c] or `Images`, optional
        By default the same images: one half of a symmetric matrix is computed then.
    tangent, flip : bool
        See `ExactKernel`, which says so itself where it is given.
    dtype : {float32, float64}
    tile : int
        Images of either side of a block that is computed at a time, which bounds the memory.
    backend : Backend or str
    progress : callable, optional
        Called as ``progress("Gram matrix", pairs done, pairs)``.

    Returns
    -------
    gram : [n, n2] of the dtype

    Raises
    ------
    InvalidSpec, InvalidData
        The layers have no exact kernel or do not fit the images, or these are malformed or not alike.

    Examples
    --------
    >>> from ckncuda import Exponential
    >>> layer = KernelLayer(patch=3, subsampling=2, kernel=Exponential(sigma=0.6))
    >>> gram(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), [layer]).shape
    (4, 4)
    """
    kernel = specs if isinstance(specs, ExactKernel) else ExactKernel(specs, tangent=tangent, flip=flip)
    engine = get_backend(backend) if isinstance(backend, str) else backend
    first = as_images(images)
    second = None if images2 is None else as_images(images2)
    check_images(first, first if second is None else second, kernel)
    tiling = Tiling(first.shape[0], None if second is None else second.shape[0], tile)
    out = np.empty(tiling.shape, check_dtype(dtype))
    for done in _fill(out, tiling, kernel, first, second, engine):
        if progress is not None:
            progress("Gram matrix", done, tiling.pairs)
    return out


def _fill(
    out: Maps, tiling: Tiling, kernel: ExactKernel, first: Images, second: Images | None, backend: Backend
) -> Iterator[int]:
    """Compute tile after tile, and yield how many pairs have been compared."""
    done = 0
    for tile in tiling:
        maps = read_maps(first, tile.rows, out.dtype)
        others = maps if tile.symmetric else read_maps(second or first, tile.columns, out.dtype)
        block = kernel.block(maps, others, backend, symmetric=tile.symmetric)
        out[tile.rows, tile.columns] = block
        if tile.mirrored:
            out[tile.columns, tile.rows] = block.T
        done += tile.pairs
        yield done


def check_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the type, or raise `InvalidSpec` if kernels cannot be computed in it."""
    checked = np.dtype(dtype)
    if checked not in (np.float32, np.float64):
        raise InvalidSpec(f"dtype is {checked}; exact kernels are computed in float32 or float64")
    return checked


def check_images(first: Images, second: Images, kernel: ExactKernel) -> None:
    """Raise unless both sets of images are alike and fit the layers."""
    if first.shape[1:] != second.shape[1:]:
        shapes = ("x".join(map(str, images.shape[1:])) for images in (first, second))
        raise InvalidData(
            f"the images are of {' and of '.join(shapes)} (height x width x channels); "
            "a kernel compares images of one size"
        )
    if (first.dtype == np.uint8) != (second.dtype == np.uint8):
        raise InvalidData(
            f"the images are of type {first.dtype} and {second.dtype}: bytes are scaled from 0...255 to "
            "0...1 and floating-point numbers are taken as they are; give both in one form"
        )
    for images in (first, second):
        if images.shape[0] == 0:
            raise InvalidData("there are no images")
    kernel.check_shape(first.shape[1:])
