"""The one-vs-rest support vector machine with the squared hinge loss."""

import numpy as np
import numpy.typing as npt

from ckncuda.classifier.iterative import IterativeClassifier
from ckncuda.classifier.training_data import signed_targets


def squared_hinge(
    scores: npt.NDArray[np.float64], targets: npt.NDArray[np.intp]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Return Σ_i ½ Σ_k max(0, 1 − y_ik s_ik)² and its derivative by the scores.

    Parameters
    ----------
    scores : float64 [n, K]
    targets : integers [n]

    Returns
    -------
    loss : float
    derivative : float64 [n, K]
    """
    signs = signed_targets(targets, scores.shape[1])
    slack = np.maximum(0, 1 - signs * scores)
    return float(np.vdot(slack, slack)) / 2, -signs * slack


class SquaredHinge(IterativeClassifier):
    """One-vs-rest support vector machines with the squared hinge loss, all classes in one L-BFGS.

    On features centred and scaled to a mean squared norm of 1, minimises

        (1/n) Σ_i ½ Σ_k max(0, 1 − y_ik s_ik)² + (λ/2) ‖W‖²,   s_i = Wᵀ x_i + b,  y_ik = ±1:

    the loss of `Ridge`, except that scores beyond ±1 on the right side cost nothing.

    Parameters
    ----------
    regularization : float or "auto"
        λ > 0, or "auto": the λ with the highest accuracy on held-out images, by decades from 1 down
        to 1e-8, ending early when it has clearly fallen, and then thirds of a decade around the
        best; of equal ones the largest.
    validation : float
        Fraction of the images held out, of each class in proportion, to choose λ or to measure a given one.
        0 only with a given λ: nothing is measured. All images are fitted at the end in any case.
    max_iterations : int
        Bound on the iterations of one fit, which ends when the distance of the objective to its minimum, as
        the preconditioned quadratic model of L-BFGS estimates it, is below 1e-5 of the objective plus 1e-8,
        or when rounding leaves no descent.
    seed : int
        Draws the held-out images.

    Attributes
    ----------
    weights_ : float32 [d, K]
    intercept_ : float32 [K]
    classes_ : int64 [K]
    regularization_ : float
        The λ of the fit.
    validation_accuracy_ : float or None
        Accuracy on the held-out images of a fit at that λ on the others.
    validation_ : str
        How this accuracy was obtained.
    search_ : list of (float, float)
        The λ tried and their accuracies, in the order tried.

    Notes
    -----
    Solved in the primal or, with fewer images than features, in the dual (see `ckncuda.classifier`);
    preconditioned by one Cholesky factorisation a λ, which makes a λ below 1e-8 too small for some features.
    Besides a scaled float32 copy of the features, two square float64 matrices of the size min(n, d) are held.

    References
    ----------
    R.-E. Fan et al., *LIBLINEAR: a library for large linear classification*, JMLR 9, 2008 (L2-loss SVM).

    Examples
    --------
    >>> import numpy as np
    >>> features = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.8, 0.0]], dtype=np.float32)
    >>> hinge = SquaredHinge(regularization=1e-2, validation=0).fit(features, [3, 3, 8, 8])
    >>> hinge.predict(features)
    array([3, 3, 8, 8])
    >>> hinge.validation_
    'not measured: no image was held out; λ = 0.01 was given'
    """

    loss = staticmethod(squared_hinge)
    curvature = 1.0
