"""What follows the network, on a GPU: preprocessing, exact kernels and whole models, against the host.

An array of the device that is taken for one of the host, or the reverse, raises TypeError here as on a GPU.
"""

import dataclasses

import numpy as np
import pytest
from factories import TWO_LAYERS, make_spec, model_of, stripes

from ckncuda import (
    CKN,
    ArcCosine,
    EncoderSpec,
    Exponential,
    KernelRidge,
    Linear,
    Model,
    Polynomial,
    Ridge,
    Softmax,
    SquaredHinge,
    Symmetries,
    load,
)
from ckncuda.backend import get_backend, linear_algebra
from ckncuda.backend.arrays import to_host
from ckncuda.data import ArraySource
from ckncuda.errors import InvalidData
from ckncuda.exact import ExactKernel, gram
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize

PREPROCESSINGS = [[], [Standardize()], [LocalWhitening()], [Standardize(), ZCA(epsilon=0.5)]]


# ---- Linear algebra --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [5, 4096])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_linear_algebra_is_the_hosts(device, monkeypatch, at_once, dtype, tolerance, rng):
    monkeypatch.setattr(linear_algebra, "AT_ONCE", at_once)
    block, right = rng.normal(size=(40, 23)).astype(dtype), rng.normal(size=(23, 4)).astype(dtype)
    results = []
    for like in (block, device.asarray(block)):
        here = [np.asarray(array, like=like) for array in (block, right)]
        total = np.zeros((23, 23), dtype, order="F", like=like)
        linear_algebra.add_product(total, here[0])
        linear_algebra.add_product(total, here[0][:, ::-1].T[:23].T)
        lower = np.tril(total)
        factor = linear_algebra.cholesky(total.copy(order="F"))
        solved = linear_algebra.solve(factor, here[1])
        half = linear_algebra.solve_lower(factor, here[1].copy(order="F"))
        diagonal = linear_algebra.inverse_diagonal(factor.copy(order="F"))
        arrays = lower, np.tril(factor), solved, half, diagonal
        assert all(type(array) is type(like) for array in arrays)
        results.append([to_host(array) for array in arrays])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    total = results[0][0] + np.tril(results[0][0], -1).T
    np.testing.assert_allclose(results[1][4], np.diag(np.linalg.inv(total)), rtol=1e3 * tolerance)


# ---- Preprocessing ---------------------------------------------------------------------------------------


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


def test_blocks_that_are_still_on_their_way_to_the_device_are_waited_for(device, relative_error, rng):
    """What computes a block, or brings it, is queued on another stream than what encodes it."""
    network = CKN(TWO_LAYERS).fit(rng.normal(size=(20, 9, 9, 1)), patches=300, backend="numpy")
    images = rng.normal(size=(3, 5, 9, 9, 1)).astype(np.float32)
    expected = network.transform(images.reshape(-1, 9, 9, 1), backend="reference")

    def arriving():
        return (device._cupy.asarray(block) for block in images)

    def encode(block):
        return device.encode(block, network.layers)

    parts = list(device.map_blocks(encode, arriving()))
    assert relative_error(np.concatenate(parts), expected) < 1e-4
    out = device.empty(expected.shape)
    parts = list(device.map_blocks(encode, arriving(), out))
    assert all(type(part) is type(out) for part in parts)
    assert relative_error(out.get(), expected) < 1e-4
    assert np.array_equal(np.concatenate([part.get() for part in parts]), out.get())


# ---- Exact kernels ---------------------------------------------------------------------------------------


def exact_layers(kernel, *subsamplings):
    return [make_spec(filters=1, subsampling=s, kernel=kernel, alignment="valid") for s in subsamplings]


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
    maps = rng.normal(size=(5, 32, 32, 3)).cumsum(axis=1).astype(np.float32)
    maps[2], maps[4] = 0, maps[0]
    kernel, host = ExactKernel(specs, tangent=tangent), get_backend("numpy")
    found = kernel.block(maps, maps, device, symmetric=True)
    expected = kernel.block(maps.astype(np.float64), maps.astype(np.float64), host, symmetric=True)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=0)
    assert (found[2] == 0).all()
    for own, norms in zip(device.patch_norms(maps, specs), host.patch_norms(maps, specs), strict=True):
        np.testing.assert_allclose(own, norms, atol=1e-5 * norms.max())


def test_a_gram_matrix_on_the_device(device, rng):
    """Tiles of unequal size and mirror images, on all of the library's way."""
    images = rng.normal(size=(7, 12, 12, 1)).astype(np.float32)
    kernel = ExactKernel(exact_layers(Exponential(sigma=0.6), 2), flip=True)
    found = gram(images, kernel, tile=3, backend=device)
    np.testing.assert_allclose(found, gram(images, kernel, tile=3, backend="reference"), rtol=1e-5)
    assert np.array_equal(found, found.T)


# ---- Models ----------------------------------------------------------------------------------------------


def check_on_both(model, images, backends, fitted_on, folder, tolerance):
    """Stored, it predicts the same on both, where it was fitted to the bit; returns it, and scores there."""
    model.save(folder / "model.ckn")
    again = load(folder / "model.ckn")
    scores = {name: again.scores(images, backend=backend) for name, backend in backends.items()}
    assert all(type(table) is np.ndarray for table in scores.values())
    np.testing.assert_allclose(scores["cupy"], scores["numpy"], atol=tolerance)
    assert np.array_equal(scores[fitted_on], model.scores(images, backend=backends[fitted_on]))
    predicted = [again.predict(images, backend=backend) for backend in (backends["cupy"], "numpy")]
    assert np.array_equal(*predicted)
    return again, scores["cupy"]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
@pytest.mark.parametrize("fitted_on", ["cupy", "numpy"])
def test_a_model_file_works_on_both(device, monkeypatch, tmp_path, preprocessing, fitted_on):
    """Fitted here, predicts the same there; blocks of unequal size, so that both slots are used again."""
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 20)
    images, labels = stripes()
    backends = {"cupy": device, "numpy": get_backend("numpy")}
    model = model_of(images[:70], labels[:70], preprocessing, backends[fitted_on])
    again, _ = check_on_both(model, images, backends, fitted_on, tmp_path, 2e-3)
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
    model = Model.fit(
        images[:40], labels[:40], ENSEMBLE, classifier=kernel_ridge, patches=300, backend=backends[fitted_on]
    )
    again, scores = check_on_both(model, images, backends, fitted_on, tmp_path, 5e-3)
    found, expected = (again.features(images, backend=backend) for backend in (device, "reference"))
    assert relative_error(found, expected) < 1e-4
    assert np.mean(again.predict(images[:40], backend=device) == labels[:40]) >= 0.6
    here = device._cupy.asarray(images)
    np.testing.assert_allclose(again.scores(here, backend=device), scores, atol=1e-4)


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
def test_features_that_are_not_finite_are_said_with_their_image(device, backend, classifier):
    images, labels = stripes()
    model = model_of(images / 255, labels, [], get_backend("numpy"), classifier)
    broken = (images / 255).astype(np.float32)
    broken[61] = 1e30
    with pytest.raises(InvalidData, match=r"features of image 61 \(counting from 0\) hold NaN or infinity"):
        model.scores(broken, backend=backend)
