"""L-BFGS on the penalised empirical risk, in a preconditioned space.

It is our own because it works where the features are, on a GPU too, and because its inverse Hessian starts
from the preconditioner of a space, where a gradient need not be represented as the parameters are:
`scipy.optimize.minimize` offers neither. Its line search needs one product with the features in all.
"""

from typing import Self

import numpy as np

from ckncuda.classifier.losses import Loss
from ckncuda.classifier.spaces import Space
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

TOLERANCE = 1e-5
"""Converged when half of ⟨gradient, step⟩, which the quadratic model of L-BFGS takes for the distance of the
objective from its minimum, is at most this fraction of it, ..."""

VALUE_TOLERANCE = 1e-8
"""... or this much."""

MEMORY = 20  # pairs of steps and gradient differences kept; each is as large as the parameters
SLOPE = 0.3  # a step is accepted where the slope along it has fallen to this fraction of that at its start
TRIALS = 20  # steps tried at most in one line search: each costs one evaluation of the loss, no product

Pair = tuple[Array, Array, Array, float]
"""A step, the step as it is multiplied with gradients, the gradient difference, the product of these two."""


class Point:
    """An iterate, and (1/n) Σ_i loss(y_i, s_i) + (λ/2) ‖W‖² there.

    It is x, float64 [m + 1, K]: coefficients in the space, and the intercept. ``paired``, float64 [m + 1, K],
    and ``scores``, float64 [n, K], are those of the space for x.
    """

    def __init__(
        self,
        space: Space,
        loss: Loss,
        targets: Index,
        x: Array,
        paired: Array | None = None,
        scores: Array | None = None,
    ) -> None:
        self.space, self.loss, self.targets, self.x = space, loss, targets, x
        self.paired = space.paired(x) if paired is None else paired
        self.scores = space.scores(x, self.paired) if scores is None else scores
        total, derivative = loss(self.scores, targets)
        self.derivative = derivative / len(targets)
        penalty = space.regularization / 2 * float(np.vdot(x[:-1], self.paired[:-1]))
        self.value = total / len(targets) + penalty

    def gradient(self) -> Array:
        """Return the gradient, as the space represents it."""
        return self.space.gradient(self.x, self.derivative)

    def moved(self, length: float, step: Array, paired: Array, scores: Array) -> Self:
        """Return the point so many steps further, given the step as it is paired and its scores."""
        moved = self.x + length * step, self.paired + length * paired, self.scores + length * scores
        return type(self)(self.space, self.loss, self.targets, *moved)


def minimize_lbfgs(
    space: Space,
    loss: Loss,
    targets: Index,
    start: Array,
    max_iterations: int,
    progress: Progress | None = None,
) -> tuple[Array, bool]:
    """Minimise (1/n) Σ_i loss(y_i, s_i) + (λ/2) ‖W‖² over a space, from ``start``, float64 [m + 1, K].

    Return the minimiser, and whether it converged, as it has where rounding leaves a line search no descent.
    Progress is told after each iteration, and at the end with the number of iterations as the total.

    References
    ----------
    J. Nocedal, S. Wright, *Numerical Optimization*, algorithm 7.4.
    """
    point = Point(space, loss, targets, start)
    gradient = point.gradient()
    pairs: list[Pair] = []
    converged, iterations = True, 0
    while True:
        step, paired = _direction(space, pairs, gradient)
        if pairs and np.vdot(step[:-1], paired[:-1]) <= 0:
            # A squared norm, unless the dual has rounded it away: repeated images make α ambiguous.
            pairs = []
            step, paired = _direction(space, pairs, gradient)
        slope = float(np.vdot(paired, gradient))
        if -slope / 2 <= TOLERANCE * point.value + VALUE_TOLERANCE:
            break
        if iterations == max_iterations:
            converged = False
            break
        reached, length = _line_search(point, step, paired, slope)
        if not reached.value < point.value:
            break
        difference = -gradient
        point, gradient = reached, reached.gradient()
        difference += gradient
        paired = length * paired
        product = float(np.vdot(paired, difference))
        if product > 0:
            pairs = [*pairs[1 - MEMORY :], (length * step, paired, difference, product)]
        iterations += 1
        if progress is not None:
            progress("L-BFGS", iterations, max_iterations)
    if progress is not None:
        progress("L-BFGS", max(1, iterations), max(1, iterations))
    return point.x, converged


def _direction(space: Space, pairs: list[Pair], gradient: Array) -> tuple[Array, Array]:
    """Return minus the inverse Hessian of L-BFGS times the gradient, also as multiplied with gradients."""
    rest = -gradient
    shares = []
    for _, paired_step, difference, product in reversed(pairs):
        shares.append(float(np.vdot(paired_step, rest)) / product)
        rest -= shares[-1] * difference
    x, paired = space.precondition(rest)
    same = paired is x
    for (step, paired_step, difference, product), share in zip(pairs, reversed(shares), strict=True):
        factor = share - float(np.vdot(paired, difference)) / product
        x += factor * step
        if not same:
            paired += factor * paired_step
    return x, paired


def _line_search(point: Point, step: Array, paired: Array, slope: float) -> tuple[Point, float]:
    """Return the point, and the length of the step to it, where the slope is nearly zero.

    The objective is convex along the step and its scores are linear there: the zero of the slope is
    bracketed by doubling and then approached by secants.
    """
    space, targets = point.space, point.targets
    scores = space.scores(step, paired)
    ridge = space.regularization * float(np.vdot(step[:-1], paired[:-1]))
    mixed = space.regularization * float(np.vdot(point.x[:-1], paired[:-1]))
    low, low_slope, high, high_slope = 0.0, slope, np.inf, np.inf
    length = 1.0
    for _ in range(TRIALS):
        derivative = point.loss(point.scores + length * scores, targets)[1]
        here = float(np.vdot(derivative, scores)) / len(targets) + mixed + length * ridge
        if abs(here) <= -SLOPE * slope:
            break
        if here < 0:
            low, low_slope = length, here
        else:
            high, high_slope = length, here
        if high == np.inf:
            length *= 2
        else:
            secant = low + (high - low) * low_slope / (low_slope - high_slope)
            length = min(max(secant, low + 0.1 * (high - low)), high - 0.1 * (high - low))
    return point.moved(length, step, paired, scores), length
