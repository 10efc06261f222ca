"""Adam, and stochastic gradient descent with momentum, of anchor points on the sphere and of a head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parameter = NDArray[np.float32]


def tangent(gradient: NDArray[Any], anchors: Parameter) -> NDArray[np.float64]:
    """Return the part of a gradient [filters, height, width, channels] along the anchor points' spheres."""
    flat, z = gradient.reshape(len(gradient), -1), anchors.reshape(len(anchors), -1).astype(np.float64)
    along = flat - np.einsum("pd,pd->p", flat, z)[:, None] * z
    result: NDArray[np.float64] = along.reshape(gradient.shape)
    return result


def normalize(anchors: Parameter) -> None:
    """Put anchor points back on the sphere, in place."""
    flat = anchors.reshape(len(anchors), -1)
    flat /= np.linalg.norm(flat.astype(np.float64), axis=1, keepdims=True)


class Optimizer(ABC):
    """Steps of parameters by their gradients.

    Parameters
    ----------
    parameters : sequence of float32 arrays
        Changed in place by `step`.
    momentum : float
    """

    def __init__(self, parameters: Sequence[Parameter], momentum: float) -> None:
        self.parameters, self.momentum = list(parameters), momentum
        self.state = {name: [np.zeros_like(p) for p in parameters] for name in self.names}
        self.steps = 0

    names: tuple[str, ...]
    """Names of the arrays that are kept for each parameter."""

    def step(self, gradients: Sequence[NDArray[Any]], rates: Sequence[float]) -> None:
        """Change every parameter, each with its own learning rate."""
        self.steps += 1
        for number, (parameter, gradient, rate) in enumerate(
            zip(self.parameters, gradients, rates, strict=True)
        ):
            kept = [self.state[name][number] for name in self.names]
            parameter -= np.float32(rate) * self._direction(gradient.astype(np.float32, copy=False), *kept)

    @abstractmethod
    def _direction(self, gradient: Parameter, *kept: Parameter) -> Parameter:
        """Return where to step, having changed what is kept."""


class SGD(Optimizer):
    """Momentum: v ← μ v + g, θ ← θ − η v."""

    names = ("velocity",)

    def _direction(self, gradient: Parameter, *kept: Parameter) -> Parameter:
        (velocity,) = kept
        velocity *= np.float32(self.momentum)
        velocity += gradient
        return velocity


class Adam(Optimizer):
    """m ← μ m + (1 − μ) g, v ← ν v + (1 − ν) g², θ ← θ − η m̂ / (√v̂ + 1e-8).

    References
    ----------
    Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """

    names = ("mean", "square")
    decay = 0.999  # ν

    def _direction(self, gradient: Parameter, *kept: Parameter) -> Parameter:
        mean, square = kept
        mean += np.float32(1 - self.momentum) * (gradient - mean)
        square += np.float32(1 - self.decay) * (gradient * gradient - square)
        scale = np.sqrt(square / np.float32(1 - self.decay**self.steps))
        scale += np.float32(1e-8)
        direction: Parameter = mean / (scale * np.float32(1 - self.momentum**self.steps))
        return direction


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
