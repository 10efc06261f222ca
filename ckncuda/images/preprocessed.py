"""Images that are preprocessed as they are read."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from ckncuda.backend import Backend
from ckncuda.backend.arrays import as_array, as_float, to_host
from ckncuda.backend.operations import block_memory
from ckncuda.images.preprocess import Preprocessor
from ckncuda.images.sources import ArrayImages, Images, size_of
from ckncuda.progress import Progress, Report
from ckncuda.types import Array, Index

AT_ONCE = 256  # images that are preprocessed at a time
SHARE = 4 << 20  # bytes of workspace of the images that a thread takes at a time, if they are small
LARGE = 16 << 20  # of one image; such ones are no matter of many threads, each with a workspace of its own


def preprocessed(images: Array, preprocessing: Sequence[Preprocessor], backend: Backend | None) -> Array:
    """Return images [n, h, w, c] after these steps, where they are; bytes 0…255 become 0…1.

    A backend shares images that do not depend on one another among its threads: products of single images
    are too small for those of BLAS, which wait for one another by turning round.
    """
    images = as_float(images)
    for step in preprocessing:
        per_image = step.workspace(images.shape[1:])
        if backend is None or per_image is None or per_image > LARGE:
            images = step.apply(images)
        else:
            images = backend.each_image(step.apply, images, max(1, SHARE // per_image))
    return images


class PreprocessedImages(Images):
    """`Images` after the steps of preprocessing, computed again whenever they are read.

    Parameters
    ----------
    images : Images
    preprocessing : sequence of Preprocessor
        Fitted; see `learn`.
    backend : Backend, optional
        Computes, and what is read is an array of its own.  None: in the host's memory, with the same bits
        each time, in this process and others.
    report : Report, optional
        Told of the stages reading and preprocessing, where a backend computes.
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Sequence[Preprocessor] = (),
        backend: Backend | None = None,
        report: Report | None = None,
    ) -> None:
        self._images, self._backend = images, backend
        self._report = Report() if report is None else report
        self._left = self.preprocessing = tuple(preprocessing)
        self.shape = images.shape
        as_given = backend is None and not self.preprocessing
        self.dtype: np.dtype[Any] = images.dtype if as_given else np.dtype(np.float32)

    @classmethod
    def learn(
        cls,
        images: Images,
        steps: Sequence[Preprocessor],
        backend: Backend | None = None,
        report: Report | None = None,
    ) -> "PreprocessedImages":
        """Fit the steps, each on what the steps before it leave; the other parameters are the class's."""
        prepared = cls(images, (), backend, report)
        with prepared._repeatable():
            for step in steps:
                prepared = prepared._then(step.fit(prepared, report))
        return prepared

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read images as float32 [stop − start, h, w, c], or as they are if there is no step."""
        if self._backend is None:
            block = self._images.read(start, stop)
            if not self._left:
                return block
            with self._repeatable():
                return preprocessed(block, self._left, None)
        with self._report.stage("reading"):
            block = self._images.read(start, stop)
        with self._report.stage("preprocessing"):
            return preprocessed(self._backend.asarray(block), self._left, self._backend)

    def held(self) -> "PreprocessedImages":
        """Return these images preprocessed once, in the host's memory, if they are few; else themselves."""
        backend = self._backend
        if backend is None or not self._left:
            return self
        if size_of(self) > (block_memory(backend) or backend.memory_budget // 4):
            return self
        kept = np.empty(self.shape, np.float32)
        for start in range(0, len(kept), AT_ONCE):
            stop = min(start + AT_ONCE, len(kept))
            kept[start:stop] = backend.to_host(self.read(start, stop))
        return PreprocessedImages(ArrayImages(kept), (), backend, self._report)

    def some(self, numbers: Index) -> NDArray[np.float32]:
        """Return images by their numbers, in this order, preprocessed, in the host's memory."""
        source = self._images
        if isinstance(source, ArrayImages):
            raw = source.some(numbers)
        else:
            one_by_one = (source.read(number, number + 1) for number in numbers.tolist())
            raw = np.concatenate([to_host(as_array(image, source.dtype)) for image in one_by_one])
        if not self._left:  # nor need BLAS be held to one thread, which takes a millisecond
            return to_host(as_float(raw))
        if self._backend is None:
            with self._repeatable():
                return preprocessed(raw, self._left, None)
        images = preprocessed(self._backend.asarray(raw), self._left, self._backend)
        return self._backend.to_host(images)

    def _repeatable(self) -> contextlib.AbstractContextManager[Any]:
        """Hold BLAS to one thread on the host: a sum of several threads may round differently each time."""
        if self._backend is not None:
            return contextlib.nullcontext()
        limits: contextlib.AbstractContextManager[Any] = threadpoolctl.threadpool_limits(1, user_api="blas")
        return limits

    def _then(self, step: Preprocessor) -> "PreprocessedImages":
        """Add a step; few images of a backend are kept in the host's memory: each layer reads them all."""
        backend = self._backend
        longer = PreprocessedImages(self._images, (*self._left, step), backend, self._report)
        longer.preprocessing = (*self.preprocessing, step)
        if backend is not None and (held := longer.held()) is not longer:
            longer._images, longer._left = held._images, ()
        return longer


def fit_preprocessing(
    images: Images, preprocessing: Sequence[Preprocessor], progress: Progress | None = None
) -> tuple[Preprocessor, ...]:
    """Return the steps with what they learn in the host's memory, with the same bits each time."""
    return PreprocessedImages.learn(images, preprocessing, None, Report.of(progress)).preprocessing
