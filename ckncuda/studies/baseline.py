"""The baseline of *CKN from Scratch*: histograms of oriented gradients and a one-vs-rest SVM.

It consists of parts of scikit-image and scikit-learn, for comparison with a CKN; nothing here is stored.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckncuda.backend.arrays import as_float
from ckncuda.errors import InvalidData, require
from ckncuda.images.sources import Images
from ckncuda.progress import Progress

NEEDS = {"purpose": "the baseline needs scikit-learn and scikit-image", "extra": "baseline"}
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # C of the SVM, chosen by cross-validation
FOLDS = 5
BLOCK = 500


@dataclass(frozen=True)
class BaselineResult:
    """Cross-validated accuracy, the C it was obtained with, and a classifier fitted on all images."""

    validation_accuracy: float
    validation: str
    penalty: float
    n_features: int
    classifier: Any

    def predict(self, images: Images, progress: Progress | None = None) -> NDArray[np.int64]:
        """Return the labels of new images."""
        predicted: NDArray[np.int64] = self.classifier.predict(hog_features(images, progress))
        return predicted


def hog_features(images: Images, progress: Progress | None = None) -> NDArray[np.float32]:
    """Compute histograms of oriented gradients, float32 [n, d]: 9 orientations, cells of 8x8, blocks of 2x2.

    Raises
    ------
    InvalidData
        The images are smaller than a block of cells.
    """
    require("skimage.feature", **NEEDS)
    from skimage.feature import hog

    n, height, width, channels = images.shape
    cell = 8 if min(height, width) >= 16 else 4
    if min(height, width) < 2 * cell:
        raise InvalidData(
            f"images are of {height}x{width}; the HOG baseline needs at least {2 * cell}x{2 * cell}"
        )
    rows = []
    for block in images.blocks(BLOCK):
        for image in as_float(block):
            pixels, axis = (image[..., 0], None) if channels == 1 else (image, -1)
            rows.append(hog(pixels, pixels_per_cell=(cell, cell), cells_per_block=(2, 2), channel_axis=axis))
        if progress:
            progress("HOG", len(rows), n)
    return np.asarray(rows, np.float32)


def fit_baseline(
    images: Images, labels: NDArray[np.int64], seed: int = 0, progress: Progress | None = None
) -> BaselineResult:
    """Fit the baseline; C is chosen by stratified five-fold cross-validation on the same images.

    The seed is for the folds and the solver.
    """
    require("sklearn.svm", **NEEDS)
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    if min(np.unique(labels, return_counts=True)[1]) < FOLDS:
        raise InvalidData(f"cross-validation needs at least {FOLDS} images of each class")
    features = hog_features(images, progress)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    accuracies = []
    for penalty in PENALTIES:
        # Feature by feature scaled, as is customary; the penalty is divided by the number of features.
        svm = make_pipeline(StandardScaler(), LinearSVC(C=penalty / features.shape[1], random_state=seed))
        accuracies.append(float(cross_val_score(svm, features, labels, cv=folds).mean()))
        if progress:
            progress("SVM", len(accuracies), len(PENALTIES))
    best = int(np.argmax(accuracies))
    svm = make_pipeline(StandardScaler(), LinearSVC(C=PENALTIES[best] / features.shape[1], random_state=seed))
    return BaselineResult(
        accuracies[best],
        f"{FOLDS}-fold cross-validation over {len(labels)} images; C was chosen by the same accuracies",
        PENALTIES[best],
        features.shape[1],
        svm.fit(features, labels),
    )
