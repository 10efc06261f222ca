"""Gram matrices of exact kernels in memory; see `on_disk.writing` for those that outlive a process."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ckncuda.backend import Backend, chosen_backend
from ckncuda.exact.job import GramJob
from ckncuda.exact.kernel import ExactKernel
from ckncuda.exact.tiles import TILE
from ckncuda.images.sources import ImagesOrArray, as_images
from ckncuda.layer.spec import KernelLayer, LayerSpec
from ckncuda.progress import Progress, Report
from ckncuda.types import Array


def gram(
    images: ImagesOrArray,
    specs: Sequence[KernelLayer | LayerSpec] | ExactKernel,
    images2: ImagesOrArray | None = None,
    *,
    tangent: bool = False,
    flip: bool = False,
    dtype: npt.DTypeLike = np.float32,
    tile: int = TILE,
    backend: Backend | str = "auto",
    progress: Progress | None = None,
) -> Array:
    """Compute the exact kernel of all pairs of images.

    Parameters
    ----------
    images : [n, h, w, c] or `Images`
        uint8, which is scaled to 0…1, or floating point, which is taken as it is.
    specs : sequence of KernelLayer or LayerSpec, or ExactKernel
        The layers, from the image upwards.
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
    engine = chosen_backend(backend)
    second = None if images2 is None else as_images(images2)
    job = GramJob(kernel, as_images(images), second, dtype=dtype, tile=tile)
    out: Array = np.empty(job.tiling.shape, job.dtype)
    report, done = Report.of(progress), 0
    for part, block in job.blocks(job.tiling, engine):
        out[part.rows, part.columns] = block
        if part.mirrored:
            out[part.columns, part.rows] = block.T
        done += part.pairs
        report("Gram matrix", done, job.tiling.pairs)
    return out
