"""The normal equations of ridge regression on part of the images, judged by the others.

With the scaled features Z_K of the images kept, their mean m and mean target ȳ, the minimiser of
½ Σ_K ‖y − Wᵀz − b‖² + (nλ/2) ‖W‖² is

    W = (S + nλI)⁻¹ Σ_K (z − m) yᵀ,   S = Σ_K (z − m)(z − m)ᵀ,   b = ȳ − Wᵀm,

and the moments of all images, whose columns sum to zero, are ZᵀZ = S + |K| m mᵀ + Σ_H z zᵀ.
"""

import math

import numpy as np

from ckncuda.backend.linear_algebra import add_product
from ckncuda.classifier.systems import Matrix, cholesky, left_out_accuracy, solve
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, blocks
from ckncuda.progress import Progress


class HeldOutPrimalSystem:
    """Solve (S + nλI) W = Σ_K (z − m) yᵀ on the images kept, and in the end (ZᵀZ + nλI) W = ZᵀY on all.

    Attributes
    ----------
    intercept : float64 [K]
        The mean target of all images; ``targets`` are without it.
    judged : int
        How many images are held out; they are scored with what the others say.
    """

    def __init__(self, data: TrainingData, scaling: FeatureScaling, progress: Progress | None) -> None:
        self.features, self.scaling, self.held_out = data.features, scaling, data.held_out
        self.targets = data.signs()
        self.intercept = self.targets.mean(axis=0)
        self.targets -= self.intercept
        kept, width = data.kept(), data.features.shape[1]
        self.judged, self.kept = len(data.held_out), len(kept)
        there = np.asarray(kept, like=data.features)
        self.mean_target = self.targets[there].mean(axis=0)
        self.mean = np.zeros(width, like=data.features)
        for rows in blocks(self.judged, width):  # the fewer images: those kept have the opposite sum
            self.mean -= scaling.block(data.features, data.held_out[rows]).sum(axis=0) / self.kept
        self.moment = np.zeros((width, width), order="F", like=data.features)
        self.cross = np.zeros((width, self.targets.shape[1]), like=data.features)
        for rows in blocks(self.kept, width, "second moments", progress):
            block = scaling.block(data.features, kept[rows])
            block -= self.mean
            add_product(self.moment, block)
            self.cross += block.T @ self.targets[there[rows]]

    def held_out_residuals(self, regularization: float) -> Matrix:
        """Return y_i minus the prediction of a fit on the images kept, float64 [h, K], for the others."""
        weights = solve(cholesky(self.moment, len(self.features), regularization), self.cross)
        residuals = self.targets[np.asarray(self.held_out, like=self.targets)]
        residuals -= self.mean_target
        for rows in blocks(self.judged, len(weights)):
            block = self.scaling.block(self.features, self.held_out[rows])
            block -= self.mean
            residuals[rows] -= block @ weights
        return residuals

    def accuracy_at(self, regularization: float) -> float:
        """Return the accuracy of a fit on the images kept, on the others."""
        targets = self.intercept + self.targets[np.asarray(self.held_out, like=self.targets)]
        return left_out_accuracy(self.held_out_residuals(regularization), targets)

    def weights(self, regularization: float) -> Matrix:
        """Return W of all images, float64 [d, K], on scaled features."""
        moment, cross = self.moment.copy(order="F"), self.cross.copy()
        add_product(moment, math.sqrt(self.kept) * self.mean[None])
        cross += self.kept * self.mean[:, None] * self.mean_target
        for rows in blocks(self.judged, len(moment)):
            images = self.held_out[rows]
            block = self.scaling.block(self.features, images)
            add_product(moment, block)
            cross += block.T @ self.targets[np.asarray(images, like=self.targets)]
        return solve(cholesky(moment, len(self.features), regularization, overwrite=True), cross)
