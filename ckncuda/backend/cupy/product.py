"""Tiles of products of patches with anchors: the host's side of ``kernels/product.cuh``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

THREADS = 256
PATCHES = 128  # of a tile
ANCHORS = 64  # of a slab
TERMS = 32  # of a stage
STRIDE = ANCHORS + 8

WORDS = {"Fma": TERMS, "Tf32x3": TERMS, "Tf32": TERMS, "Bf16": TERMS // 2}
"""Rows of 32-bit words that hold the anchors' part of a stage, by the C++ name of the precision."""


def packed_terms(terms: NDArray[np.float32], precision: str) -> NDArray[np.uint32]:
    """Pack anchors [parts, terms, slabs · ANCHORS] as [slabs, parts, stages, words, ANCHORS]."""
    parts, count, width = terms.shape
    stages = -(-count // TERMS)
    terms = np.pad(terms, ((0, 0), (0, stages * TERMS - count), (0, 0)))
    staged = terms.reshape(parts, stages, TERMS, width // ANCHORS, ANCHORS).transpose(3, 0, 1, 2, 4)
    bits = staged.copy().view(np.uint32)  # in the order of its axes
    if precision == "Tf32":  # to nearest, ties away from zero, as the device rounds
        return (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    if precision == "Bf16":  # to nearest, ties to even; two terms a word, the first in the lower half
        rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16
        pairs: NDArray[Any] = rounded[..., 0::2, :] | rounded[..., 1::2, :] << 16
        return pairs.copy()
    return bits
