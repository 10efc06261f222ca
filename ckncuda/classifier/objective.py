"""The penalised empirical risk that the iterative solvers minimise."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ckncuda.classifier.spaces import Space

Array = npt.NDArray[np.float64]

Loss = Callable[[Array, npt.NDArray[np.intp]], tuple[float, Array]]
"""``loss(scores [n, K], targets [n])``: the sum over the images and its derivative by the scores [n, K]."""


class Point:
    """One iterate, and (1/n) Σ_i loss(y_i, s_i) + (λ/2) ‖W‖² there.

    Parameters
    ----------
    space : Space
    loss : Loss
    targets : integers [n], 0 … K−1
    x : float64 [m + 1, K]
        Coefficients in the space, and the intercept.
    paired : float64 [m + 1, K]
        ``space.paired(x)``.
    scores : float64 [n, K]
        ``space.scores(x, paired)``.
    """

    def __init__(
        self,
        space: "Space",
        loss: Loss,
        targets: npt.NDArray[np.intp],
        x: Array,
        paired: Array,
        scores: Array,
    ) -> None:
        self.space, self.x, self.paired, self.scores = space, x, paired, scores
        total, derivative = loss(scores, targets)
        self.derivative = derivative / len(targets)
        self.value = total / len(targets) + space.regularization / 2 * float(np.vdot(x[:-1], paired[:-1]))

    @classmethod
    def of(cls, space: "Space", loss: Loss, targets: npt.NDArray[np.intp], x: Array) -> "Point":
        """Evaluate the objective at x."""
        paired = space.paired(x)
        return cls(space, loss, targets, x, paired, space.scores(x, paired))

    def gradient(self) -> Array:
        """Return the gradient, as the space represents it."""
        return self.space.gradient(self.x, self.derivative)
