"""Exact kernels of images of usual size, and whole Gram matrices, on a GPU."""

import numpy as np
import pytest

from ckncuda import (
    ArcCosine,
    Exponential,
    LayerSpec,
    Polynomial,
)
from ckncuda.backend import get_backend
from ckncuda.exact import ExactKernel, gram


def exact_layers(kernel, *subsamplings):
    return [
        LayerSpec(filters=1, patch=3, subsampling=s, kernel=kernel, alignment="valid") for s in subsamplings
    ]


@pytest.mark.parametrize(
    ("specs", "tangent"),
    [
        (exact_layers(Exponential(sigma=0.6), 2, 5), False),
        (exact_layers(Exponential(sigma=0.6), 2, 2, 2), False),
        (exact_layers(ArcCosine(1), 2, 5), False),
        (exact_layers(ArcCosine(1), 2, 5), True),
        (exact_layers(Polynomial(2), 2), False),
    ],
    ids=["exp 2-5", "exp 2-2-2", "relu 2-5", "tangents 2-5", "poly 2"],
)
def test_exact_kernels_of_images_of_usual_size(device, specs, tangent, rng):
    """Pairs of images of 32x32x3, one of them all zeros and two equal."""
    maps = rng.normal(size=(4, 32, 32, 3)).cumsum(axis=1).astype(np.float32)
    maps[2], maps[3] = 0, maps[0]
    kernel, host = ExactKernel(specs, tangent=tangent), get_backend("numpy")
    found = kernel.block(maps, None, device)
    expected = kernel.block(maps.astype(np.float64), None, host)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=0)
    assert (found[2] == 0).all()
    for own, norms in zip(
        device.patch_norms(maps[:3], specs), host.patch_norms(maps[:3], specs), strict=True
    ):
        np.testing.assert_allclose(own, norms, atol=1e-5 * norms.max())


def test_a_gram_matrix_on_the_device(device, rng):
    """Tiles of unequal size and mirror images, on all of the library's way."""
    images = rng.normal(size=(7, 12, 12, 1)).astype(np.float32)
    kernel = ExactKernel(exact_layers(Exponential(sigma=0.6), 2), flip=True)
    found = gram(images, kernel, tile=3, backend=device)
    np.testing.assert_allclose(found, gram(images, kernel, tile=3, backend="reference"), rtol=1e-5)
    assert np.array_equal(found, found.T)
