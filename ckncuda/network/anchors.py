"""Learning anchor points without labels: patch sampling and spherical k-means."""

import numpy as np

from ckncuda.backend import Backend
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.layer.spec import LayerSpec
from ckncuda.progress import Progress, Report
from ckncuda.types import Array, Index

MIN_NORM = 1e-5  # patches below it have no direction
MAX_ITERATIONS = 20
ROWS_AT_ONCE = 1000
TOLERANCE = 1e-6  # relative improvement of the mean cosine at which k-means stops


def patches_at(maps: Array, spec: LayerSpec, image: Index, y: Index, x: Index) -> Array:
    """Return the patches [m, k·k·c] at given positions of a layer's map, flattened as (dy, dx, channel).

    Parameters
    ----------
    maps : [n, h, w, c]
        The layer's input.
    spec : LayerSpec
        Gives the patch size and the padding.
    image, y, x : int [m]
        Positions: number of the image, row and column of the layer's map before pooling.
    """
    height, width = spec.patch_shape
    padded = np.pad(maps, ((0, 0), *spec.margins, (0, 0)))
    image, y, x = (np.asarray(index, like=maps)[:, None, None] for index in (image, y, x))
    down, across = np.arange(height, like=maps), np.arange(width, like=maps)
    patches: Array = padded[image, y + down[:, None], x + across]
    return patches.reshape(len(image), spec.terms(maps.shape[3]))  # of no patches, too


def normalized(patches: Array) -> Array:
    """Scale patches to norm 1, in place; those of norm below 1e-5 are dropped, and the others close up.

    Raises
    ------
    InvalidData
        A norm overflows.
    InvalidSpec
        No patch is left.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", patches, patches))
    if not np.isfinite(norms).all():
        raise InvalidData(
            f"the images' values are too large: the squares of patches overflow {patches.dtype}; "
            "scale the images down"
        )
    keep = norms >= MIN_NORM
    if not keep.any():
        raise InvalidSpec(
            f"all {len(patches)} patches have a norm below {MIN_NORM:g} (at most {float(norms.max()):.2g}), "
            "as those of constant images once whitened: there is nothing to learn from; look at the images "
            "and at --preprocess or, where their values are tiny, scale them: images / images.max()"
        )
    end = 0
    for start in range(0, len(patches), ROWS_AT_ONCE):  # what is in the cache need not be copied anew
        rows = slice(start, start + ROWS_AT_ONCE)
        kept = patches[rows][keep[rows]] / norms[rows][keep[rows], None]
        patches[end : end + len(kept)] = kept
        end += len(kept)
    return patches[:end]


def spherical_kmeans(
    patches: Array,
    clusters: int,
    backend: Backend,
    rng: np.random.Generator,
    max_iterations: int = MAX_ITERATIONS,
    progress: Progress | None = None,
) -> Array:
    """Cluster unit vectors by their cosine to unit centres [clusters, d], which are returned.

    Parameters
    ----------
    patches : [m, d]
        Vectors of norm 1.
    clusters : int
    backend : Backend
        Computes the assignments.
    rng : numpy.random.Generator
        Draws the patches from which the centres start.
    max_iterations : int
        Stop after as many, if the mean cosine has not stopped improving by more than 1e-6 relative before.
    progress : callable, optional
        Called as ``progress("k-means", iteration, max_iterations)``.

    Raises
    ------
    InvalidSpec
        There are fewer patches than clusters.
    """
    if len(patches) < clusters:
        raise InvalidSpec(
            f"{clusters} filters were asked for, but there are only {len(patches)} patches (of norm above "
            f"{MIN_NORM:g}) to learn them from: give more images or patches, or ask for fewer filters"
        )
    centres = patches[np.asarray(np.sort(rng.choice(len(patches), clusters, replace=False)), like=patches)]
    nearest_of = backend.anchor_search(patches)
    previous, report = -np.inf, Report.of(progress)
    report("k-means", 0, max_iterations)
    for iteration in range(max_iterations):
        nearest, cosine = nearest_of(centres)
        mean = float(np.mean(cosine, dtype=np.float64))
        report("k-means", iteration + 1, max_iterations)
        if mean - previous <= TOLERANCE * abs(mean):
            return centres
        previous = mean
        centres = _means(backend.sum_by_anchor(patches, nearest, clusters), patches, cosine)
    return centres


def _means(sums: Array, patches: Array, cosine: Array) -> Array:
    """Return normalised means from the clusters' sums; an empty cluster takes the patch that fits worst."""
    norms = np.linalg.norm(sums, axis=1)
    # Opposite vectors may cancel: a cluster without a direction is as good as an empty one.
    empty = np.flatnonzero(norms < MIN_NORM)
    if len(empty):
        sums[empty] = patches[np.argsort(cosine, kind="stable")[: len(empty)]]
        norms[empty] = np.linalg.norm(sums[empty], axis=1)
    sums /= norms[:, None]
    return sums
