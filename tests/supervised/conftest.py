"""Images that a network learns in seconds, and where a training of it starts."""

from types import SimpleNamespace

import numpy as np
import pytest
from factories import make_spec, stripes

from ckncuda import CKN
from ckncuda.backend.numpy import NumpyBackend
from ckncuda.supervised import Training, train


@pytest.fixture(scope="session")
def engine():
    return NumpyBackend(threads=1, compiled=False)


@pytest.fixture(scope="session")
def case(engine):
    """120 images of two classes, float32 [120, 9, 9, 1], and a network of few filters that has learned."""
    pixels, labels = stripes(120, noise=60.0)
    images = (pixels / 255 - 0.5).astype(np.float32)
    layers = [make_spec(filters=4), make_spec(filters=6)]
    start = CKN(layers).fit(images, patches=500, backend=engine)
    return SimpleNamespace(images=images, labels=labels, start=start)


@pytest.fixture(scope="session")
def trained_on(engine, case):
    """Train with these options, and return what was trained."""

    def run(images=None, labels=None, *, network=None, seed=0, progress=None, files=None, **options):
        images = case.images if images is None else images
        labels = case.labels if labels is None else labels
        training = Training(**{"epochs": 4, "batch": 25} | options)
        how = {"seed": seed, "backend": engine, "progress": progress} | (files or {})
        return train(network or case.start, images, labels, training, **how)

    return run


@pytest.fixture(scope="session")
def bits():
    """Return all that was learned, to the last bit."""

    def of(trained):
        arrays = [layer.anchors for layer in trained.network.layers]
        arrays += [trained.head.weights_, trained.head.intercept_]
        return [array.tobytes() for array in arrays], trained.history, trained.epoch, trained.sentence

    return of
