"""Pooling as a matrix: the weights A with which a row (or a column) of positions is averaged.

Pooling is separable, so one matrix for the height and one for the width describe it whole, whatever
the weights and wherever the centres lie.  All backends take their weights from here.
"""

import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pooling = Literal["gaussian", "average", "strided"]
Alignment = Literal["corner", "centered", "valid"]


def pooled_size(size: int, subsampling: int, pooling: Pooling, alignment: Alignment) -> int:
    """Count the pooled positions that stand for ``size`` positions; 0 when ``valid`` leaves none."""
    if subsampling == 1:
        return size
    if alignment == "valid":
        return size // subsampling - (pooling != "average")
    return math.ceil(size / subsampling)


def pooling_filter(
    size: int, subsampling: int, pooling: Pooling, alignment: Alignment
) -> tuple[int, NDArray[np.float64]]:
    """Return where the first pooled position's first tap lies, and the taps; see `pooling_matrix`.

    Every pooled position has the same taps, ``subsampling`` further on each; those outside the map, where
    the first may lie, count as zero.
    """
    s = subsampling
    if s == 1:
        return 0, np.ones(1)
    out = pooled_size(size, s, pooling, alignment)
    if pooling == "average":
        return {"corner": 0, "valid": 0, "centered": -((out * s - size) // 2)}[alignment], np.full(s, 1 / s)
    # Twice the centre of the first filter when the filters are centred in the map: it may be a half-integer.
    margin = size - ((out - 1) * s + 1)
    first = {"corner": 0, "valid": s, "centered": margin // 2}[alignment]
    if pooling == "strided":
        return first, np.ones(1)
    half = alignment == "centered" and margin % 2 == 1  # taps at half-integer distances from first + 1/2
    offsets = np.arange(-s + 1 if half else -s, s + 1)
    distances = offsets - 0.5 if half else offsets.astype(np.float64)
    weights = np.exp(-(distances**2) / s**2)  # 2 σ_p² = s²
    return first + int(offsets[0]), weights / weights.sum()


@functools.lru_cache(maxsize=128)
def pooling_matrix(
    size: int, subsampling: int, pooling: Pooling, alignment: Alignment
) -> NDArray[np.float64]:
    """Return the weights of every position in every pooled position.

    Parameters
    ----------
    size : int
        Number of positions, the height or the width of a map.
    subsampling : int
        s, the distance of two pooled positions; 1 means no pooling.
    pooling : {"gaussian", "average", "strided"}
        Gaussian weights of σ_p = s/√2 over 2s+1 positions, means of blocks of s, or one position of s.
    alignment : {"corner", "centered", "valid"}
        Where the pooled positions lie: 0, s, 2s, …; centred in the map; or s, 2s, … of which
        size // s − 1 are taken.  Then the filters lie inside the map, but for the last one's last tap
        where s divides the size.  Of ``average``, ``valid`` takes the whole blocks.

    Returns
    -------
    A : float64 [pooled, size], read-only
        Filters sum to 1; what falls outside the map counts as zero and is *not* made up for.

    Examples
    --------
    >>> pooling_matrix(4, 2, "average", "corner")
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    first, taps = pooling_filter(size, subsampling, pooling, alignment)
    matrix = np.zeros((pooled_size(size, subsampling, pooling, alignment), size))
    for i, row in enumerate(matrix):
        positions = first + i * subsampling + np.arange(len(taps))
        inside = (positions >= 0) & (positions < size)
        row[positions[inside]] = taps[inside]
    matrix.setflags(write=False)
    return matrix
