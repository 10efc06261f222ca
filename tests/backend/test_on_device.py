"""What follows the network, on a GPU: preprocessing, classifiers and whole models, against the host.

An array of the device that is taken for one of the host, or the reverse, raises TypeError here as on a GPU.
"""

import dataclasses

import gpu
import numpy as np
import pytest

from ckncuda import (
    CKN,
    ArcCosine,
    EncoderSpec,
    Exponential,
    KernelRidge,
    LayerSpec,
    Linear,
    Model,
    NystromRidge,
    Polynomial,
    Ridge,
    Series,
    Softmax,
    SquaredHinge,
    Symmetries,
    load,
)
from ckncuda.backend import get_backend, linear_algebra
from ckncuda.classifier import KernelClassifier, LinearClassifier
from ckncuda.classifier.normal_equations import cholesky
from ckncuda.data import ArraySource
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.exact import ExactKernel, gram
from ckncuda.images.preprocess import ZCA, LocalWhitening, Standardize

SPECS = [
    LayerSpec(filters=12, patch=3, subsampling=2, kernel=Exponential(sigma=0.6)),
    LayerSpec(filters=16, patch=2, subsampling=2, kernel=Exponential(sigma=0.6)),
]
PREPROCESSINGS = [[], [Standardize()], [LocalWhitening()], [Standardize(), ZCA(epsilon=0.5)]]


@pytest.fixture
def device():
    with gpu.a_gpu():
        yield get_backend("cupy")


def problem(images, width, seed=0):
    """Features far from zero of three classes that overlap, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    features = 3 + 0.5 * rng.normal(size=(3, width))[labels] + rng.normal(size=(images, width))
    return features.astype(np.float32), labels + 4


def stripes(n=90, seed=0):
    """Stripes along and across, of any phase: uint8 [n, 9, 9, 1]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1, 1))
    y, x = np.mgrid[:9, :9]
    waves = np.where(labels[:, None, None], np.sin(1.5 * y + phase), np.sin(1.5 * x + phase))
    images = 120 + 60 * waves + rng.normal(scale=30, size=waves.shape)
    return images.round().clip(0, 255).astype(np.uint8)[..., None], labels


def check_equal(found, expected, features, tolerance=1e-5):
    """Two fitted classifiers, equal but for rounding; what was learned is on the host."""
    for name in ("weights_", "intercept_", "classes_"):
        assert type(getattr(found, name)) is np.ndarray
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.regularization_ == expected.regularization_
    assert found.validation_accuracy_ == expected.validation_accuracy_
    assert found.validation_ == expected.validation_
    assert found.search_ == expected.search_
    scale = np.abs(expected.weights_).max()
    np.testing.assert_allclose(found.weights_, expected.weights_, atol=tolerance * scale)
    scores = expected.scores(features)
    np.testing.assert_allclose(found.scores(features), scores, atol=tolerance * np.abs(scores).max())


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
        results.append([linear_algebra.to_host(array) for array in arrays])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    total = results[0][0] + np.tril(results[0][0], -1).T
    np.testing.assert_allclose(results[1][4], np.diag(np.linalg.inv(total)), rtol=1e3 * tolerance)


@pytest.mark.parametrize("fault", [-1e-20, -1.0, np.nan])
def test_a_singular_matrix_is_said_on_the_device_too(device, fault):
    matrix = device._cupy.asarray(np.diag([2.0, 1.0, fault, 3.0]))
    with pytest.raises(InvalidSpec, match=r"regularization 1e-30 is too small.*singular in float64"):
        cholesky(matrix, 4, 1e-30)


# ---- Classifiers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "width"), [(60, 25), (40, 90)], ids=["primal", "dual"])
@pytest.mark.parametrize(
    "options",
    [{}, {"regularization": 1e-3}, {"validation": 0.2}, {"regularization": 0.1, "validation": 0.2}],
    ids=str,
)
def test_ridge(device, images, width, options):
    features, labels = problem(images, width)
    check_equal(
        Ridge(**options).fit(device.asarray(features), labels),
        Ridge(**options).fit(features, labels),
        features,
    )


@pytest.mark.parametrize("regularization", ["auto", 1e-2, 1e-7])
def test_ridge_of_many_images_in_single_precision(device, monkeypatch, regularization):
    """Several blocks of columns, and several parts of the images that show where to look for λ."""
    monkeypatch.setattr("ckncuda.classifier.normal_equations.MANY", 120)
    monkeypatch.setattr("ckncuda.classifier.ridge.FEW", 30)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 130 * 50)
    features, labels = problem(130, 170, seed=2)
    found = Ridge(regularization).fit(device.asarray(features), labels)
    check_equal(found, Ridge(regularization).fit(features, labels), features)


@pytest.mark.parametrize(("images", "width"), [(90, 25), (60, 90)], ids=["primal", "dual"])
@pytest.mark.parametrize("regularization", ["auto", 1e-2])
@pytest.mark.parametrize("classifier", [Softmax, SquaredHinge])
def test_iterative_classifiers(device, classifier, regularization, images, width):
    features, labels = problem(images, width)
    found = classifier(regularization).fit(device.asarray(features), labels)
    check_equal(found, classifier(regularization).fit(features, labels), features, tolerance=1e-4)


def test_sgd(device, monkeypatch):
    monkeypatch.setattr("ckncuda.classifier.sgd.EPOCHS", 4)
    monkeypatch.setattr("ckncuda.classifier.sgd.BATCH", 16)
    features, labels = problem(60, 20)
    fitted = [Softmax(1e-2, "sgd").fit(array, labels) for array in (device.asarray(features), features)]
    check_equal(*fitted, features, tolerance=1e-4)


def test_scores_are_computed_on_the_device_and_returned_to_the_host(device):
    features, labels = problem(50, 20)
    ridge = Ridge(1e-2).fit(features, labels)
    here = device.asarray(features)
    assert type(ridge.unchecked_scores(here)) is type(here)
    assert type(ridge.scores(here)) is np.ndarray
    np.testing.assert_allclose(ridge.scores(here), ridge.scores(features), atol=1e-6)
    assert np.array_equal(ridge.predict(here), ridge.predict(features))
    again = LinearClassifier.from_arrays(ridge.weights_, ridge.intercept_, ridge.classes_)
    assert np.array_equal(again.scores(here), ridge.scores(here))


def check_kernels_equal(found, expected, features, tolerance=1e-4):
    """Two kernel classifiers, equal but for rounding; what was learned is on the host."""
    assert found.to_dict() == expected.to_dict()
    assert found.regularization_ == expected.regularization_
    assert found.validation_accuracy_ == expected.validation_accuracy_
    assert found.validation_ == expected.validation_
    for name, array in expected.arrays().items():
        assert type(found.arrays()[name]) is np.ndarray
        assert found.arrays()[name].dtype == array.dtype
    np.testing.assert_allclose(found.points_, expected.points_, rtol=2.0**-10, atol=1e-6)
    scale = np.abs(expected.dual_).max()
    np.testing.assert_allclose(found.dual_, expected.dual_, atol=tolerance * scale)
    scores = expected.scores(features)
    np.testing.assert_allclose(found.scores(features), scores, atol=tolerance * np.abs(scores).max())


@pytest.mark.parametrize("widths", [None, (5, 20)], ids=["one encoder", "two"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validation": 0.2},
        {"kernel": Exponential(sigma=1.0), "regularization": 1e-3},
        {"kernel": ArcCosine(1), "regularization": 1e-2, "validation": 0.2},
    ],
    ids=str,
)
def test_kernel_ridge(device, options, widths):
    features, labels = problem(60, 25)
    found, expected = (
        KernelRidge(**options).fit(array, labels, widths=widths)
        for array in (device.asarray(features), features)
    )
    check_kernels_equal(found, expected, features)


@pytest.mark.parametrize(
    "kernel",
    [ArcCosine(0), ArcCosine(1), Linear(), Polynomial(2, 0.5), Series([0.5, 0.5]), Exponential(sigma=0.5)],
    ids=str,
)
def test_kernel_ridge_of_any_kernel(device, kernel):
    features, labels = problem(40, 12)
    found, expected = (
        KernelRidge(kernel, 1e-2, [2, 1]).fit(array, labels, widths=(5, 7))
        for array in (device.asarray(features), features)
    )
    check_kernels_equal(found, expected, features)
    scores = expected.scores(features)
    np.testing.assert_allclose(found.scores(device.asarray(features)), scores, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"kernel": ArcCosine(1)}, {"kernel": ArcCosine(1), "validation": 0.2}], ids=str
)
def test_kernel_ridge_on_landmarks(device, monkeypatch, options):
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 60 * 25)  # several blocks
    features, labels = problem(200, 25)
    found, expected = (
        NystromRidge(landmarks=30, **options).fit(array, labels, widths=(10, 15))
        for array in (device.asarray(features), features)
    )
    check_kernels_equal(found, expected, features)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-3)


@pytest.mark.parametrize("regularization", ["auto", 1e-2, 1e-7])
def test_kernel_ridge_of_many_images_in_single_precision(device, monkeypatch, regularization):
    """Several blocks of columns and of images to score, and part of the images to begin with."""
    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.MANY", 120)
    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.FEW", 30)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 130 * 50)
    features, labels = problem(130, 170, seed=2)
    found, expected = (
        KernelRidge(Exponential(sigma=1.0), regularization, [1, 1]).fit(array, labels, widths=(70, 100))
        for array in (device.asarray(features), features)
    )
    check_kernels_equal(found, expected, features, tolerance=2e-3)


def test_scores_of_a_kernel_are_computed_on_the_device_and_returned_to_the_host(device):
    features, labels = problem(50, 20)
    ridge = KernelRidge(Exponential(sigma=1.0), 1e-2).fit(features, labels)
    expected, here = ridge.scores(features), device.asarray(features)
    for _ in range(2):  # the second time with what was kept of the first, there and here in turn
        assert type(ridge.unchecked_scores(here)) is type(here)
        assert type(ridge.scores(here)) is np.ndarray
        np.testing.assert_allclose(ridge.scores(here), expected, atol=1e-5)
        assert np.array_equal(ridge.scores(features), expected)
    assert np.array_equal(ridge.predict(here), ridge.predict(features))
    again = KernelClassifier.from_arrays(ridge.to_dict(), ridge.arrays())
    assert np.array_equal(again.scores(here), ridge.scores(here))


def test_what_is_kept_on_the_device_is_waited_for_before_another_stream_reads_it(device, monkeypatch):
    waited = []
    monkeypatch.setattr(
        "ckncuda.classifier.kernel.wait", lambda array: (waited.append(type(array)), wait(array))
    )
    wait = linear_algebra.wait
    features, labels = problem(50, 20)
    ridge = KernelRidge(Exponential(sigma=1.0), 1e-2).fit(features, labels)
    expected = ridge.scores(features)
    waited.clear()
    blocks = device.map_blocks(ridge.unchecked_scores, [features[:30], features[30:]])
    np.testing.assert_allclose(np.concatenate(list(blocks)), expected, atol=1e-5)
    assert waited == [type(device.asarray(features))]  # once, not for each block


def test_malformed_features_on_the_device_are_refused(device):
    features, labels = problem(30, 8)
    with pytest.raises(InvalidData, match="8 columns; this classifier was fitted on 7"):
        Ridge(1e-2).fit(features[:, :7], labels).scores(device.asarray(features))
    with pytest.raises(InvalidData, match="features of all 30 images are equal"):
        Ridge(1e-2).fit(device.asarray(np.ones_like(features)), labels)
    with pytest.raises(InvalidData, match="29 labels were given for the features of 30 images"):
        Ridge(1e-2).fit(device.asarray(features), labels[1:])
    features[17, 3] = np.inf
    with pytest.raises(InvalidData, match="features of image 17 hold NaN or infinity"):
        Softmax().fit(device.asarray(features), labels)


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
    network = CKN(SPECS).fit(rng.normal(size=(20, 9, 9, 1)), patches=300, backend="numpy")
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


def fitted(images, labels, preprocessing, backend, classifier=None):
    classifier = Ridge(1e-3) if classifier is None else classifier
    return Model.fit(
        images,
        labels,
        [EncoderSpec(SPECS, preprocessing)],
        classifier=classifier,
        patches=300,
        backend=backend,
    )


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
@pytest.mark.parametrize("fitted_on", ["cupy", "numpy"])
def test_a_model_file_works_on_both(device, monkeypatch, tmp_path, preprocessing, fitted_on):
    """Fitted here, predicts the same there; blocks of unequal size, so that both slots are used again."""
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 20)
    images, labels = stripes()
    backends = {"cupy": device, "numpy": get_backend("numpy")}
    model = fitted(images[:70], labels[:70], preprocessing, backends[fitted_on])
    model.save(tmp_path / "model.ckn")
    again = load(tmp_path / "model.ckn")
    scores = {name: again.scores(images, backend=backend) for name, backend in backends.items()}
    assert all(type(table) is np.ndarray for table in scores.values())
    np.testing.assert_allclose(scores["cupy"], scores["numpy"], atol=2e-3)
    assert np.array_equal(
        again.scores(images, backend=backends[fitted_on]), model.scores(images, backend=backends[fitted_on])
    )
    assert np.array_equal(again.predict(images, backend=device), again.predict(images, backend="numpy"))
    assert np.mean(again.predict(images[70:], backend=device) == labels[70:]) >= 0.6


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=str)
def test_features_are_those_of_the_host(device, monkeypatch, preprocessing, relative_error):
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 20)
    images, labels = stripes()
    model = fitted(images, labels, preprocessing, device)
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
    fitted(images, labels, [LocalWhitening()], device, classifier)
    assert seen == [type(device.asarray(images))]


def test_features_that_take_more_than_half_of_the_memory_go_through_the_host(device, monkeypatch):
    images, labels = stripes()
    expected = fitted(images, labels, [], device)
    monkeypatch.setattr(type(device), "_free_bytes", lambda self: 2 * 90 * 3 * 3 * 16 * 4)
    assert type(device.empty((90, 3, 3, 16))) is not np.ndarray
    assert type(device.empty((91, 3, 3, 16))) is np.ndarray
    monkeypatch.setattr(type(device), "images_per_block", lambda self, layers, shape: 40)
    monkeypatch.setattr(type(device), "_free_bytes", lambda self: 0)
    found = fitted(images, labels, [], device)
    np.testing.assert_allclose(found.scores(images), expected.scores(images), atol=1e-4)


def test_a_classifier_that_does_not_fit_beside_its_features_is_fitted_on_the_host(device, monkeypatch):
    import cupy

    images, labels = stripes()
    expected = fitted(images, labels, [], device)
    add_product = linear_algebra.add_product

    def no_room(total, block):
        if not isinstance(total, np.ndarray):
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        add_product(total, block)

    monkeypatch.setattr("ckncuda.classifier.normal_equations.add_product", no_room)
    found = fitted(images, labels, [], device)
    np.testing.assert_allclose(found.classifier.weights_, expected.classifier.weights_, atol=1e-5)

    def no_room_anywhere(total, block):
        raise MemoryError

    monkeypatch.setattr("ckncuda.classifier.normal_equations.add_product", no_room_anywhere)
    with pytest.raises(MemoryError):
        fitted(images, labels, [], device)


def test_a_kernel_classifier_that_does_not_fit_beside_its_features_is_fitted_on_the_host(device, monkeypatch):
    import cupy

    images, labels = stripes()
    kernel_ridge = KernelRidge(Exponential(sigma=1.0), 1e-2)
    expected = fitted(images, labels, [], device, kernel_ridge).scores(images)
    add_product, tried = linear_algebra.add_product, []

    def no_room(total, block):
        tried.append(type(total))
        if not isinstance(total, np.ndarray):
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        add_product(total, block)

    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.add_product", no_room)
    found = fitted(images, labels, [], device, KernelRidge(Exponential(sigma=1.0), 1e-2))
    assert tried == [type(device.asarray(images)), np.ndarray]
    np.testing.assert_allclose(found.scores(images), expected, atol=1e-4)


ENSEMBLE = [
    EncoderSpec(SPECS[:1], [Standardize()], Symmetries(flip=True)),
    EncoderSpec(SPECS[1:], [LocalWhitening()], Symmetries(flip=True)),
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
    model.save(tmp_path / "model.ckn")
    again = load(tmp_path / "model.ckn")
    expected = again.features(images, backend="reference")
    assert relative_error(again.features(images, backend=device), expected) < 1e-4
    scores = {name: again.scores(images, backend=backend) for name, backend in backends.items()}
    assert all(type(table) is np.ndarray for table in scores.values())
    np.testing.assert_allclose(scores["cupy"], scores["numpy"], atol=5e-3)
    assert np.array_equal(
        again.scores(images, backend=backends[fitted_on]), model.scores(images, backend=backends[fitted_on])
    )
    assert np.array_equal(again.predict(images, backend=device), again.predict(images, backend="numpy"))
    assert np.mean(again.predict(images[:40], backend=device) == labels[:40]) >= 0.6
    here = device._cupy.asarray(images)
    np.testing.assert_allclose(again.scores(here, backend=device), scores["cupy"], atol=1e-4)


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
    specs = [dataclasses.replace(spec, decorrelation=0.25) for spec in SPECS]
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
    model = fitted(here, labels, preprocessing, device)
    expected = fitted(images, labels, preprocessing, device)
    np.testing.assert_allclose(model.scores(here, backend=device), expected.scores(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the CPU that stands in for a GPU
@pytest.mark.parametrize("backend", ["cupy", "numpy"])
@pytest.mark.parametrize(
    "classifier", [Ridge(1e-3), KernelRidge(ArcCosine(1), 1e-2)], ids=lambda c: type(c).__name__
)
def test_features_that_are_not_finite_are_said_with_their_image(device, backend, classifier):
    images, labels = stripes()
    model = fitted(images / 255, labels, [], get_backend("numpy"), classifier)
    broken = (images / 255).astype(np.float32)
    broken[61] = 1e30
    with pytest.raises(InvalidData, match=r"features of image 61 \(counting from 0\) hold NaN or infinity"):
        model.scores(broken, backend=backend)
