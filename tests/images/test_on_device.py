"""Preprocessing and symmetries of images that are on a GPU, against those of the host."""

import numpy as np
import pytest

from ckncuda import (
    Symmetries,
)
from ckncuda.data import ArraySource
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "preprocessor",
    [Standardize(), LocalWhitening(), LocalWhitening(patch=2, power=0.5), ZCA(epsilon=0.3)],
    ids=repr,
)
def test_preprocessing(device, monkeypatch, preprocessor, channels, rng, relative_error):
    monkeypatch.setattr("ckncuda.images.preprocess.BLOCK_BYTES", 1 << 16)  # some images at a time
    images = rng.normal(size=(40, 9, 8, channels)).cumsum(axis=1).cumsum(axis=2).astype(np.float32)
    images[3] = 0.1
    images[4, :, :, 0] = 5
    preprocessor = preprocessor.fit(ArraySource(images))
    here = device.asarray(images)
    found = preprocessor.apply(here)
    assert type(found) is type(here)
    assert found.dtype == np.float32
    assert relative_error(found.get(), preprocessor.apply(images)) < 1e-5
    assert np.array_equal(here.get(), images)


def test_zca_is_learned_on_the_device(device, rng, relative_error):
    images = rng.normal(size=(300, 6, 6, 2)).cumsum(axis=1).astype(np.float32)

    class OnDevice:
        shape, dtype = images.shape, images.dtype

        def read(self, start, stop):
            return device.asarray(images[start:stop])

    found, expected = ZCA().fit(OnDevice()), ZCA().fit(ArraySource(images))
    for name, array in found.arrays().items():
        assert type(array) is np.ndarray
        assert relative_error(array, expected.arrays()[name]) < 1e-5


@pytest.mark.parametrize("symmetries", [Symmetries(flip=True), Symmetries(flip=True, shift=2)], ids=str)
def test_variants_are_made_on_the_device(device, rng, symmetries):
    images = rng.normal(size=(4, 5, 6, 2)).astype(np.float32)
    here = device.asarray(images)
    for found, expected in zip(symmetries.variants(here), symmetries.variants(images), strict=True):
        assert type(found) is type(here)
        assert found.flags.c_contiguous
        assert np.array_equal(found.get(), expected)
    average = symmetries.average(lambda block: block, here)
    np.testing.assert_allclose(average.get(), symmetries.average(lambda block: block, images), atol=1e-6)
    assert np.array_equal(here.get(), images)
