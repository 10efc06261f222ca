"""Features that are not finite are refused, naming the image, wherever they would go."""

import numpy as np
import pytest

from ckncuda import EncoderSpec, Exponential, LayerSpec, Model, Ridge
from ckncuda.errors import InvalidData
from ckncuda.exact.kernel import ExactKernel
from ckncuda.layer import KernelLayer
from ckncuda.model.fit import fit_exact

LABELS = np.arange(30) % 2
NAMED = r"image 17 \(counting from 0\).*largest value is 1e\+20, at row 2, column 3, channel 1"


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(30, 8, 8, 2)) + LABELS[:, None, None, None]).astype(np.float32)


class Unchecked:
    """Images of a reader that looks at nothing."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, start, stop):
        return self.array[start:stop]


@pytest.fixture(scope="module")
def spoiled(images):
    spoiled = images.copy()
    spoiled[17, 2, 3, 1] = 1e20
    return Unchecked(spoiled)


@pytest.fixture(scope="module")
def model(images):
    specs = [EncoderSpec([LayerSpec(8, 3, 2, kernel=Exponential(sigma=0.6))])]
    return Model.fit(images, LABELS, specs, classifier=Ridge(1e-3), patches=500)


CALLS = {
    "features": lambda model, x: model.features(x),
    "blocks": lambda model, x: list(model.feature_blocks(x)),
    "scores": lambda model, x: model.scores(x),
    "predict": lambda model, x: model.predict(x),
    "network": lambda model, x: model.network.transform(x),
    "network's blocks": lambda model, x: list(model.network.transform_blocks(x)),
}


@pytest.mark.parametrize("call", CALLS)
def test_features_that_are_not_finite(model, spoiled, call):
    with pytest.raises(InvalidData, match=NAMED):
        CALLS[call](model, spoiled)


def test_fit_refuses_what_patches_did_not_show(images, spoiled):
    specs = [EncoderSpec([LayerSpec(2, 3, 2, kernel=Exponential(sigma=0.6))])]
    with pytest.raises(InvalidData, match=rf"{NAMED}|squares of patches overflow"):
        Model.fit(spoiled, LABELS, specs, classifier=Ridge(1e-3), patches=10)


def test_kernels_that_are_not_finite(images):
    layer = KernelLayer(patch=3, subsampling=4, kernel=Exponential(sigma=0.6))
    model = fit_exact(images, LABELS, [(ExactKernel([layer]), ())], regularization=1e-3)
    large = Unchecked(images.copy())
    large.array[17] = 3e38
    for call in (model.features, model.predict):
        with pytest.raises(InvalidData, match="image 17"):
            call(large)
