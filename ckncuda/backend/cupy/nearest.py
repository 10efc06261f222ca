"""k-means on a GPU: launches of ``kernels/nearest_anchor.cu`` and ``sum_by_anchor.cu``."""

from typing import Any

import numpy as np

from ckncuda.backend.cupy.device import Gpu
from ckncuda.backend.cupy.product import ANCHORS, PATCHES, STRIDE, TERMS, THREADS, WORDS, packed_terms

Array = Any  # a CuPy array, whose type is not known here

LANES, WARPS = 32, 8  # of `sum_by_anchor`


def shared_bytes(products: str) -> int:
    """Return the bytes of shared memory of a block of ``nearest_anchor``, piece by piece in its order."""
    patches, anchors = PATCHES * (TERMS + 4), WORDS[products] * STRIDE
    return 4 * (2 * (patches + anchors) + PATCHES + TERMS)


def nearest_anchor(gpu: Gpu, patches: Array, anchors: Array) -> tuple[Array, Array]:
    """Find the anchor of largest cosine to each unit patch, product and comparison in one kernel.

    Parameters
    ----------
    gpu : Gpu
    patches : float32 [n, d]
    anchors : float32 [k, d]

    Returns
    -------
    nearest : int64 [n]
    cosine : float32 [n]
    """
    cupy = gpu.cupy
    count, size = patches.shape
    clusters = len(anchors)
    nearest, cosine = cupy.empty(count, np.int64), cupy.empty(count, np.float32)
    width = -(-clusters // ANCHORS) * ANCHORS
    terms = cupy.zeros((1, size, width), np.float32)
    terms[0, :, :clusters] = anchors.T
    if count:
        gpu.launch(
            "nearest_anchor",
            (gpu.products,),
            (-(-count // PATCHES),),
            THREADS,
            shared_bytes(gpu.products),
            patches if size % 4 or patches.data.ptr % 16 == 0 else patches.copy(),
            packed_terms(terms, gpu.products),
            nearest,
            cosine,
            np.int64(count),
            np.int32(size),
            np.int32(clusters),
        )
    return nearest, cosine


def sum_by_anchor(gpu: Gpu, patches: Array, nearest: Array, anchors: int) -> Array:
    """Sum the patches of each anchor, in the order of a stable sort: the same patches give the same bits.

    Parameters
    ----------
    gpu : Gpu
    patches : float32 [n, d]
    nearest : int64 [n]
    anchors : int

    Returns
    -------
    sums : float32 [anchors, d]
    """
    cupy, size = gpu.cupy, patches.shape[1]
    order = cupy.argsort(nearest, kind="stable").astype(np.int64)
    start = cupy.searchsorted(nearest[order], cupy.arange(anchors + 1)).astype(np.int64)
    sums = cupy.empty((anchors, size), np.float32)
    grid, shared = (anchors, -(-size // LANES)), 8 * LANES * WARPS
    gpu.launch("sum_by_anchor", (), grid, LANES * WARPS, shared, patches, order, start, sums, np.int32(size))
    return sums
