"""The penalised empirical risk that the iterative solvers minimise."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Loss = Callable[[npt.NDArray[np.float64], npt.NDArray[np.intp]], tuple[float, npt.NDArray[np.float64]]]
"""``loss(scores [n, K], targets [n])``: the sum over the images and its derivative by the scores [n, K]."""


class Objective:
    """(1/n) Σ_i loss(y_i, Wᵀ x_i + b) + (λ/2) ‖W‖², with its gradient.

    The parameters are one float64 vector, W [d, K] and then b [K]. The two products with the features
    are in float32, everything else in float64.

    Parameters
    ----------
    features : float32 [n, d], centred and scaled
    targets : integers [n], 0 … K−1
    classes : int
        K.
    loss : Loss
    regularization : float
        λ.
    """

    def __init__(
        self,
        features: npt.NDArray[np.float32],
        targets: npt.NDArray[np.intp],
        classes: int,
        loss: Loss,
        regularization: float,
    ) -> None:
        self.features, self.targets, self.classes = features, targets, classes
        self.loss, self.regularization = loss, regularization

    def zero(self) -> npt.NDArray[np.float64]:
        """Return parameters that are all zero."""
        return np.zeros((self.features.shape[1] + 1) * self.classes)

    def split(
        self, parameters: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return W [d, K] and b [K] of a parameter vector, as views."""
        return parameters[: -self.classes].reshape(-1, self.classes), parameters[-self.classes :]

    def __call__(
        self, parameters: npt.NDArray[np.float64], images: npt.NDArray[np.intp] | slice = slice(None)
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the objective over the given images (all of them by default) and its gradient."""
        features, targets = self.features[images], self.targets[images]
        weights, intercept = self.split(parameters)
        scores = (features @ weights.astype(np.float32)).astype(np.float64)
        scores += intercept
        loss, derivative = self.loss(scores, targets)
        derivative /= len(targets)
        gradient = self.regularization * parameters
        weights_gradient, intercept_gradient = self.split(gradient)
        weights_gradient += features.T @ derivative.astype(np.float32)
        intercept_gradient[:] = derivative.sum(axis=0)
        penalty = self.regularization / 2 * float(np.vdot(weights, weights))
        return loss / len(targets) + penalty, gradient
