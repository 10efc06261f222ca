"""Cross-entropy and squared hinge: their sums over images, and derivatives by the scores."""

from collections.abc import Callable

import numpy as np

from ckncuda.classifier.training_data import signed_targets
from ckncuda.types import Array, Index

Loss = Callable[[Array, Index], tuple[float, Array]]
"""``loss(scores float64 [n, K], targets [n])``: the sum over the images, its derivative float64 [n, K]."""


def cross_entropy(scores: Array, targets: Index) -> tuple[float, Array]:
    """Return Σ_i log Σ_k exp(s_ik) − s_iy and its derivative by the scores, softmax(s_i) − e_y.

    The largest score of each image is subtracted first, so that no exponential overflows.
    """
    images = np.arange(len(targets), like=targets)
    shifted = scores - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1)
    loss = float(np.log(totals).sum() - shifted[images, targets].sum())
    exponentials /= totals[:, None]
    exponentials[images, targets] -= 1
    return loss, exponentials


def squared_hinge(scores: Array, targets: Index) -> tuple[float, Array]:
    """Return Σ_i ½ Σ_k max(0, 1 − y_ik s_ik)², y_ik = ±1, and its derivative by the scores."""
    signs = signed_targets(targets, scores.shape[1])
    slack = np.maximum(0, 1 - signs * scores)
    return float(np.vdot(slack, slack)) / 2, -signs * slack
