"""L-BFGS on the penalised empirical risk."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.linear import Progress
from ckncuda.classifier.objective import Objective

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

TOLERANCE = 1e-3
"""Converged when ‖gradient‖² / (2λ) is at most this fraction of the objective, ...

The objective is λ-strongly convex in W, so that it is then within that fraction of its minimum; in practice
far nearer, for this bound supposes all of the gradient in the flattest direction.
"""

VALUE_TOLERANCE = 1e-8
"""... or when one iteration lowers the objective by less than this fraction of it, or of 1."""

MEMORY = 20
"""Pairs of steps and gradient differences kept; each is as large as the parameters."""


def minimize_lbfgs(
    objective: Objective,
    start: npt.NDArray[np.float64],
    max_iterations: int,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float64], bool]:
    """Minimise the objective from ``start``.

    Parameters
    ----------
    objective : Objective
    start : float64 [(d + 1) K]
    max_iterations : int
    progress : callable or None
        Called after each iteration, and at the end with the number of iterations as the total.

    Returns
    -------
    parameters : float64 [(d + 1) K]
    converged : bool
        False if ``max_iterations`` ended it. A line search that float32 rounding leaves no further
        descent counts as converged.
    """
    from scipy.optimize import minimize  # a third of the library's start-up: only a fit pays for it

    iterations = 0
    gradient = np.zeros_like(start)

    def evaluate(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        nonlocal gradient
        value, gradient = objective(parameters)
        return value, gradient

    def converged(value: float) -> bool:
        return float(gradient @ gradient) <= 2 * objective.regularization * TOLERANCE * value

    def after_iteration(intermediate_result: "OptimizeResult") -> None:
        # The line search ends at the point it accepts, so the latest gradient is that of this iterate.
        nonlocal iterations
        iterations += 1
        if progress is not None:
            progress("L-BFGS", iterations, max_iterations)
        if converged(intermediate_result.fun):
            raise StopIteration

    if converged(evaluate(start)[0]):
        # A warm start can be there already.
        _report_end(progress, iterations)
        return start, True
    result = minimize(
        evaluate,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={
            "maxiter": max_iterations,
            "maxfun": 20 * max_iterations,
            "maxcor": MEMORY,
            "gtol": 0.0,
            "ftol": VALUE_TOLERANCE,
        },
    )
    _report_end(progress, iterations)
    return result.x, result.status != 1


def _report_end(progress: Progress | None, iterations: int) -> None:
    if progress is not None:
        total = max(1, iterations)
        progress("L-BFGS", total, total)
