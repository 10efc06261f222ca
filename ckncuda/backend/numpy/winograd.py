"""Winograd's F(4x4, 3x3): the matrices, and the transform of the filters.

It computes 4×4 positions of a 3×3 convolution from 6×6 positions of the input with 36 products for each pair
of channel and filter, where the definition takes 144: Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A, summed over channels,
which makes the middle 36 matrix products.

References
----------
Lavin and Gray, *Fast algorithms for convolutional neural networks*, 2016.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE = 4  # positions computed at a time, along each axis
SPAN = 6  # positions of the input that they need
AT_ONCE = 64  # filters that are transformed in the cache: all of 2,048 at once take 20 times as long

BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float32,
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
AT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=np.float32
)

# Both axes at once, for arrays whose first axis runs over the 36 or 16 positions of a tile.
INPUT = np.kron(BT, BT)  # [36, 36]
OUTPUT = np.kron(AT, AT)  # [16, 36]


def transformed_filters(anchors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Compute G g Gᵀ of anchor points [filters, 3, 3, channels]: float32 [36, channels, filters]."""
    out = np.empty((SPAN**2, anchors.shape[3], len(anchors)), np.float32)
    for start in range(0, len(anchors), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        transformed = np.einsum("iy,jx,pyxc->ijcp", G, G, anchors[some].astype(np.float64), optimize=True)
        out[:, :, some] = transformed.reshape(SPAN**2, anchors.shape[3], -1)
    return out
