"""Cross-entropy, squared hinge and squared loss: their sums over images, and derivatives by the scores."""

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


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Return the cross-entropy with targets that give all K classes a share alike: (1 − ε) e_y + ε/K."""

    def loss(scores: Array, targets: Index) -> tuple[float, Array]:
        total, derivative = cross_entropy(scores, targets)
        if smoothing:
            centred = scores - scores.mean(axis=1, keepdims=True)
            total += smoothing * float(centred[np.arange(len(targets), like=targets), targets].sum())
            derivative[np.arange(len(targets), like=targets), targets] += smoothing
            derivative -= smoothing / scores.shape[1]
        return total, derivative

    return loss


def squared(scores: Array, targets: Index) -> tuple[float, Array]:
    """Return Σ_i ½ Σ_k (s_ik − y_ik)², y_ik = ±1, and its derivative by the scores: the loss of `Ridge`."""
    difference = scores - signed_targets(targets, scores.shape[1])
    return float(np.vdot(difference, difference)) / 2, difference


def squared_hinge(scores: Array, targets: Index) -> tuple[float, Array]:
    """Return Σ_i ½ Σ_k max(0, 1 − y_ik s_ik)², y_ik = ±1, and its derivative by the scores."""
    signs = signed_targets(targets, scores.shape[1])
    slack = np.maximum(0, 1 - signs * scores)
    return float(np.vdot(slack, slack)) / 2, -signs * slack
