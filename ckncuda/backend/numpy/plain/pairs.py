"""Exact kernels in NumPy alone: a few images of either side at a time for each thread."""

import itertools

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.any_array import pairs
from ckncuda.backend.numpy.threads import Threads
from ckncuda.backend.operations import NormedMaps, Specs
from ckncuda.types import Array

IMAGES = 8  # of either side


def gram_block(
    first: NormedMaps, second: NormedMaps, specs: Specs, tangent: bool, symmetric: bool, threads: Threads
) -> Array:
    """Compute the kernels of all pairs [n, n2]; of a symmetric matrix, the half above its diagonal."""
    steps = pairs.steps_of(specs, first.maps.shape[1:], first.maps)
    gram = np.empty((len(first), len(second)), first.maps.dtype)

    def part(i: int, j: int) -> None:
        rows, columns = slice(i, i + IMAGES), slice(j, j + IMAGES)
        diagonal = j - i if symmetric else None
        pairs.gram_block(first[rows], second[columns], steps, tangent, gram[rows, columns], diagonal)

    starts = itertools.product(range(0, len(first), IMAGES), range(0, len(second), IMAGES))
    threads.run(part, (s for s in starts if not symmetric or s[1] >= s[0]))
    return gram


def patch_norms(maps: Array, specs: Specs, threads: Threads) -> tuple[NDArray[np.float64], ...]:
    """Compute the norms [n, h_l, w_l] of the patches of images at each layer, an image at a time."""
    return pairs.patch_norms(maps, specs, threads.run)
