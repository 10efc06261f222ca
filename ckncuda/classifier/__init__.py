r"""Classifiers on image features: one objective, λ chosen on training data.

On features that are centred and scaled (mean squared norm 1), every linear classifier here minimises

    (1/n) Σ_i loss(y_i, Wᵀ x_i + b) + (λ/2) ‖W‖²,        W [d, K], b [K] not penalised.

================  =====================================  =========================================
class             loss, with s = Wᵀ x + b [K]            how it is minimised; how λ is chosen
================  =====================================  =========================================
`Ridge`           ½ Σ_k (y_k − s_k)², y_k = ±1           closed form; exact leave-one-out
`Softmax`         log Σ_k exp(s_k) − s_y                 L-BFGS, or SGD and L-BFGS in turn; held-out
`SquaredHinge`    ½ Σ_k max(0, 1 − y_k s_k)², y_k = ±1   L-BFGS; held-out images
================  =====================================  =========================================

`KernelRidge` is ridge regression in the space of a dot-product kernel on the features, in closed form with
exact leave-one-out; `NystromRidge` is that on landmarks, for many images. `GramRidge` is both for any kernel,
given by its values. But for the latter they choose on held-out images, too, where ``choose`` says so.

`LinearClassifier` and `KernelClassifier` are what they are once fitted; `Classifier` is what both have in
common, `TrainableClassifier` the interface for fitting. Features on a GPU are computed with there; labels and
what is learned are on the host.
"""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ckncuda.classifier.classifier import Classifier, TrainableClassifier
from ckncuda.classifier.gram_ridge import GramRidge
from ckncuda.classifier.iterative import Softmax, SquaredHinge
from ckncuda.classifier.kernel_classifier import KernelClassifier
from ckncuda.classifier.kernel_ridge import KernelRidge
from ckncuda.classifier.landmarks import NystromRidge
from ckncuda.classifier.linear import LinearClassifier
from ckncuda.classifier.ridge import Ridge

__all__ = [
    "Classifier",
    "GramRidge",
    "KernelClassifier",
    "KernelRidge",
    "LinearClassifier",
    "NystromRidge",
    "Ridge",
    "Softmax",
    "SquaredHinge",
    "TrainableClassifier",
    "classifier_from_arrays",
]


def classifier_from_arrays(options: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Classifier:
    """Rebuild a fitted classifier from what its `to_dict` and `arrays` gave.

    Raises `InvalidData` if the arrays do not fit together, ValueError if there is no such classifier.
    """
    if options["name"] == LinearClassifier.name:
        return LinearClassifier.from_arrays(arrays["weights"], arrays["intercept"], arrays["classes"])
    if options["name"] == KernelClassifier.name:
        return KernelClassifier.from_arrays(options, arrays)
    raise ValueError(f"there is no classifier {options['name']!r}")
