"""Mini-batch SGD in alternation with L-BFGS: the schedule of "CKN from Scratch" (Zekri, Benyamina, 2024)."""

import numpy as np

from ckncuda.classifier.lbfgs import Point, minimize_lbfgs
from ckncuda.classifier.losses import Loss
from ckncuda.classifier.spaces import PrimalSpace
from ckncuda.progress import Progress
from ckncuda.types import Array, Index

EPOCHS = 30
BATCH = 128
MOMENTUM = 0.9
STEP = 4e-3
LATE_STEP = 4e-4
LATE_EPOCH = 15
LBFGS_ITERATIONS = 10
"""After every epoch, on all of the images."""


def minimize_sgd(
    space: PrimalSpace,
    loss: Loss,
    targets: Index,
    start: Array,
    random: np.random.Generator,
    progress: Progress | None = None,
) -> Array:
    """Minimise the objective from weights and intercept, float64 [d + 1, K]; return such.

    The momentum starts at zero in every epoch, for L-BFGS has moved the parameters in between.
    """
    parameters = start.copy()
    images = len(targets)
    for epoch in range(EPOCHS):
        step = STEP if epoch < LATE_EPOCH else LATE_STEP
        velocity = np.zeros_like(parameters)
        order = np.asarray(random.permutation(images), like=targets)
        for first in range(0, images, BATCH):
            batch = order[first : first + BATCH]
            gradient = Point(space.on(batch), loss, targets[batch], parameters).gradient()
            velocity *= MOMENTUM
            velocity -= step * gradient
            parameters += velocity
        parameters, _ = minimize_lbfgs(space, loss, targets, parameters, LBFGS_ITERATIONS)
        if progress is not None:
            progress("SGD and L-BFGS", epoch + 1, EPOCHS)
    return parameters
