"""Whole models on a GPU, against the host.

An array of the device that is taken for one of the host, or the reverse, raises TypeError here as on a GPU.
"""

import dataclasses

import numpy as np
import pytest
from factories import TWO_LAYERS, model_of, stripes

from ckncuda import EncoderSpec, KernelRidge, Model, Ridge, Softmax, SquaredHinge, Symmetries, load
from ckncuda.backend import get_backend
from ckncuda.errors import InvalidData
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize
from ckncuda.layer.dot_product import ArcCosine, Exponential, Linear

PREPROCESSINGS = [[], [Standardize()], [LocalWhitening()], [Standardize(), ZCA(epsilon=0.5)]]


def stored_and_scored(model, images, backends, fitted_on, folder, atol):
    """Return the model that a file holds, and its scores by each backend, which agree."""
    model.save(folder / "model.ckn")
    again = load(folder / "model.ckn")
    scores = {name: again.scores(images, backend=backend) for name, backend in backends.items()}
    assert all(type(table) is np.ndarray for table in scores.values())
    np.testing.assert_allclose(scores["cupy"], scores["numpy"], atol=atol)
    assert np.array_equal(scores[fitted_on], model.scores(images, backend=backends[fitted_on]))
    assert np.array_equal(*(again.predict(images, backend=backend) for backend in backends.values()))
    return again, scores


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
@pytest.mark.parametrize("fitted_on", ["cupy", "numpy"])
def test_a_model_file_works_on_both(device, monkeypatch, tmp_path, preprocessing, fitted_on):
    """Fitted here, predicts the same there; blocks of unequal size, so that both slots are used again."""
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 20)
    images, labels = stripes()
    backends = {"cupy": device, "numpy": get_backend("numpy")}
    model = model_of(images[:70], labels[:70], preprocessing, backends[fitted_on])
    again, _ = stored_and_scored(model, images, backends, fitted_on, tmp_path, atol=2e-3)
    assert np.mean(again.predict(images[70:], backend=device) == labels[70:]) >= 0.6


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
def test_features_are_those_of_the_host(device, monkeypatch, preprocessing, relative_error):
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 20)
    images, labels = stripes()
    model = model_of(images, labels, preprocessing, device)
    expected = model.features(images, backend="reference")
    assert relative_error(model.features(images, backend=device), expected) < 1e-4
    blocks = [block for _, block in model.feature_blocks(images, backend=device)]
    assert all(type(block) is np.ndarray for block in blocks)
    assert relative_error(np.concatenate(blocks), expected) < 1e-4


@pytest.mark.parametrize(
    "classifier",
    [Ridge(), Softmax(1e-2), SquaredHinge(1e-2), KernelRidge(Linear(), 1e-2)],
    ids=lambda c: type(c).__name__,
)
def test_features_stay_on_the_device_between_network_and_classifier(device, monkeypatch, classifier):
    seen = []

    def spy(self, features, labels, progress=None, widths=None):
        seen.append(type(features))
        return fit(self, features, labels, progress, widths)

    fit = type(classifier).fit
    monkeypatch.setattr(type(classifier), "fit", spy)
    images, labels = stripes()
    model_of(images, labels, [LocalWhitening()], device, classifier)
    assert seen == [type(device.asarray(images))]


def test_features_that_take_more_than_half_of_the_memory_go_through_the_host(device, monkeypatch):
    images, labels = stripes()
    expected = model_of(images, labels, [], device)
    monkeypatch.setattr(type(device), "_free_bytes", lambda self: 2 * 90 * 3 * 3 * 16 * 4)
    assert type(device.empty((90, 3, 3, 16))) is not np.ndarray
    assert type(device.empty((91, 3, 3, 16))) is np.ndarray
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 40)
    monkeypatch.setattr(type(device), "_free_bytes", lambda self: 0)
    found = model_of(images, labels, [], device)
    np.testing.assert_allclose(found.scores(images), expected.scores(images), atol=1e-4)


ENSEMBLE = [
    EncoderSpec(TWO_LAYERS[:1], [Standardize()], Symmetries(flip=True)),
    EncoderSpec(TWO_LAYERS[1:], [LocalWhitening()], Symmetries(flip=True)),
]


@pytest.mark.parametrize("fitted_on", ["cupy", "numpy"])
def test_an_ensemble_with_a_kernel_works_on_both(device, monkeypatch, tmp_path, fitted_on, relative_error):
    """Two encoders averaged over mirror images; blocks of unequal size."""
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 45)
    images, labels = stripes(50)
    kernel_ridge = KernelRidge(Exponential(sigma=1.0), 1e-2)
    backends = {"cupy": device, "numpy": get_backend("numpy")}
    options = {"classifier": kernel_ridge, "patches": 300, "backend": backends[fitted_on]}
    model = Model.fit(images[:40], labels[:40], ENSEMBLE, **options)
    again, scores = stored_and_scored(model, images, backends, fitted_on, tmp_path, atol=5e-3)
    expected = again.features(images, backend="reference")
    assert relative_error(again.features(images, backend=device), expected) < 1e-4
    assert np.mean(again.predict(images[:40], backend=device) == labels[:40]) >= 0.6
    here = device._cupy.asarray(images)
    np.testing.assert_allclose(again.scores(here, backend=device), scores["cupy"], atol=1e-4)


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("preprocessing", [[], [Standardize()]], ids=str)
def test_decorrelation_is_learned_from_maps_on_the_device(device, preprocessing, where, relative_error):
    images, _ = stripes()
    specs = [dataclasses.replace(spec, decorrelation=0.25) for spec in TWO_LAYERS]
    given = device._cupy.asarray(images) if where == "device" else images
    model = Model.fit(given, None, [EncoderSpec(specs, preprocessing)], patches=300, backend=device)
    assert all(type(layer.projection) is np.ndarray for layer in model.network.layers)
    assert [layer.spec.decorrelation for layer in model.network.layers] == [0.25, 0.25]
    expected = model.features(images, backend="reference")
    assert relative_error(model.features(images, backend=device), expected) < 1e-4


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
def test_images_on_the_device_are_fitted_and_predicted(device, preprocessing):
    images, labels = stripes()
    here = device._cupy.asarray(images)
    model = model_of(here, labels, preprocessing, device)
    expected = model_of(images, labels, preprocessing, device)
    np.testing.assert_allclose(model.scores(here, backend=device), expected.scores(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the CPU that stands in for a GPU
@pytest.mark.parametrize("backend", ["cupy", "numpy"])
@pytest.mark.parametrize(
    "classifier", [Ridge(1e-3), KernelRidge(ArcCosine(1), 1e-2)], ids=lambda c: type(c).__name__
)
def test_features_that_are_not_finite_are_said_with_their_image(device, backend, classifier, monkeypatch):
    monkeypatch.setattr("ckncuda.given.images.LARGEST_AS_FLOAT32", np.inf)  # such pixels are refused else
    images, labels = stripes()
    model = model_of(images / 255, labels, [], get_backend("numpy"), classifier)
    broken = (images / 255).astype(np.float32)
    broken[61] = 1e30
    with pytest.raises(InvalidData, match=r"features of image 61 \(counting from 0\) hold NaN or infinity"):
        model.scores(broken, backend=backend)
