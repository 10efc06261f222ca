"""The linear classifier through which a network learns from labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.classifier import Ridge, Softmax, SquaredHinge, TrainableClassifier
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.losses import Loss, smoothed_cross_entropy, squared, squared_hinge
from ckncuda.classifier.training_data import FeatureScaling
from ckncuda.supervised.training import Training
from ckncuda.types import Array, Index

CURVATURE = {"softmax": Softmax.curvature, "squared-hinge": SquaredHinge.curvature, "squared": 1.0}
"""Second derivatives of losses by a score: λ of ridge regression times these shrinks as much."""


@dataclass
class Head:
    """Scores ⟨v_k, (f − mean) / norm⟩ + b_k of features f, and their loss.

    Features are centred and scaled as they were at the start, so that λ and learning rates mean the same for
    any network.

    Attributes
    ----------
    weights : float32 [d, K]
        On scaled features; changed in place by the training, as ``intercept`` is.
    intercept : float32 [K]
    scaling : FeatureScaling
    loss : callable
    regularization : float
        λ of the penalty (λ/2) ‖V‖².
    """

    weights: NDArray[np.float32]
    intercept: NDArray[np.float32]
    scaling: FeatureScaling
    loss: Loss
    regularization: float

    @classmethod
    def fitted(cls, features: NDArray[np.float32], targets: Index, training: Training) -> "Head":
        """Begin with ridge regression on features [n, d] of classes 0 … K − 1.

        Its scores lie between −1 and 1, also as those of cross-entropy: these say little, so that no image is
        done with, and all go on to move anchor points.
        """
        ridge = Ridge(training.regularization or 1e-8).fit(features, targets)
        scaling = FeatureScaling.of(features)
        weights, intercept = _unfolded(ridge, scaling)
        strength = ridge.regularization_ * CURVATURE[training.loss] if training.regularization else 0.0
        return cls(weights, intercept, scaling, _loss(training), strength)

    def refit(self, features: NDArray[np.float32], targets: Index, training: Training, seed: int) -> None:
        """Fit it anew on features [n, d] as the network gives them now, with the λ it has."""
        λ = max(self.regularization, 1e-8)
        kinds: dict[str, TrainableClassifier] = {
            "softmax": Softmax(λ, validation=0.0, seed=seed),
            "squared-hinge": SquaredHinge(λ, validation=0.0, seed=seed),
            "squared": Ridge(λ),
        }
        classifier = kinds[training.loss].fit(features, targets)
        assert isinstance(classifier, LinearClassifier)
        weights, intercept = _unfolded(classifier, self.scaling)
        self.weights[...], self.intercept[...] = weights, intercept

    def scaled(self, features: Array) -> NDArray[np.float32]:
        """Return (f − mean) / norm of features [n, d]."""
        block: NDArray[np.float32] = self.scaling.block(features, dtype=np.float32)
        return block

    def scores(self, features: Array) -> NDArray[np.float64]:
        """Compute scores [n, K] of features [n, d]."""
        result: NDArray[np.float64] = (self.scaled(features) @ self.weights + self.intercept).astype(
            np.float64
        )
        return result

    def backward(
        self, features: NDArray[np.float32], targets: Index, images: int
    ) -> tuple[float, int, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return loss, how many of these features are classified rightly, and gradients, of a batch's part.

        The loss is the sum over features [b, d] divided by ``images``, those of the whole batch; gradients
        are by the features, the weights and the intercept, without the penalty.
        """
        scaled = self.scaled(features)
        scores = (scaled @ self.weights + self.intercept).astype(np.float64)
        total, by_scores = self.loss(scores, targets)
        right = int((scores.argmax(axis=1) == targets).sum())
        gradient = (by_scores / images).astype(np.float32)
        by_features: NDArray[np.float32] = gradient @ self.weights.T
        by_features /= self.scaling.norm.astype(np.float32)
        return total / images, right, by_features, scaled.T @ gradient, gradient.sum(axis=0)

    def judge(self, features: NDArray[np.float32], targets: Index) -> tuple[float, int]:
        """Return the loss of images, by their features [n, d], and how many are classified rightly."""
        scores = self.scores(features)
        return self.loss(scores, targets)[0], int((scores.argmax(axis=1) == targets).sum())

    def classifier(self, classes: NDArray[np.int64]) -> LinearClassifier:
        """Return what it is once the training is over: a classifier on features as they come."""
        weights, intercept = self.scaling.fold(
            self.weights.astype(np.float64), self.intercept.astype(np.float64)
        )
        return LinearClassifier.from_arrays(weights, intercept, classes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that it holds, by name."""
        scaling = {"mean": self.scaling.mean, "norm": self.scaling.norm}
        return {"weights": self.weights, "intercept": self.intercept} | scaling

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray[Any]], training: Training, regularization: float
    ) -> "Head":
        """Rebuild it from what `arrays` gave."""
        scaling = FeatureScaling(arrays["mean"], arrays["norm"])
        return cls(arrays["weights"], arrays["intercept"], scaling, _loss(training), regularization)


def _loss(training: Training) -> Loss:
    if training.loss == "softmax":
        return smoothed_cross_entropy(training.label_smoothing)
    return squared_hinge if training.loss == "squared-hinge" else squared


def _unfolded(
    classifier: LinearClassifier, scaling: FeatureScaling
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turn weights and intercept on features as they come into those on scaled features."""
    exact = classifier.weights_.astype(np.float64)
    intercept = classifier.intercept_.astype(np.float64) + scaling.mean @ exact
    return (exact * scaling.norm[:, None]).astype(np.float32), intercept.astype(np.float32)
