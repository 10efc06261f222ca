"""Images that are preprocessed as they are read, in the host's memory, with the same bits each time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend.arrays import as_float
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.sources import Images
from ckncuda.progress import Progress


class PreparedImages:
    """`Images` after the steps of preprocessing, read again whenever they are asked for.

    Parameters
    ----------
    images : Images
    preprocessing : sequence of Preprocessor
        Fitted; see `fit_preprocessing`.
    """

    def __init__(self, images: Images, preprocessing: Sequence[Preprocessor]) -> None:
        self.images = images
        self.preprocessing = tuple(preprocessing)
        self.shape = images.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self.preprocessing else images.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Images ``start`` to ``stop``: float32 [stop − start, h, w, c], or as they are without a step."""
        block = self.images.read(start, stop)
        if not self.preprocessing:
            return block
        prepared = as_float(block)
        # A sum of several threads may round differently each time: these bits must outlive a process.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            for step in self.preprocessing:
                prepared = step.apply(prepared)
        return prepared


def fit_preprocessing(
    images: Images, preprocessing: Sequence[Preprocessor], progress: Progress | None = None
) -> tuple[Preprocessor, ...]:
    """The steps with what they learn from images, each from what the steps before it leave.

    Examples
    --------
    >>> from ckncuda.images.sources import ArrayImages
    >>> from ckncuda.images.preprocess import ZCA
    >>> images = ArrayImages(np.random.default_rng(0).normal(size=(20, 4, 4, 1)))
    >>> (zca,) = fit_preprocessing(images, [ZCA()])
    >>> zca.arrays()["whitening"].shape
    (16, 16)
    """
    fitted: tuple[Preprocessor, ...] = ()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for step in preprocessing:
            fitted += (step.fit(PreparedImages(images, fitted), progress),)
    return fitted
