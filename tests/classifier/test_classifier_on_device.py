"""Classifiers fitted and asked on a GPU, against the host.

An array of the device that is taken for one of the host, or the reverse, raises TypeError here as on a GPU.
"""

import copy

import numpy as np
import pytest
from factories import SOME_KERNELS, model_of, overlapping_classes, stripes

from ckncuda import ArcCosine, Exponential, KernelRidge, NystromRidge, Ridge, Softmax, SquaredHinge
from ckncuda.backend import linear_algebra
from ckncuda.backend.arrays import wait
from ckncuda.classifier import classifier_from_arrays
from ckncuda.classifier.systems import cholesky
from ckncuda.errors import InvalidData, InvalidSpec


def check_equal(found, expected, features, tolerance=1e-5):
    """Two fitted classifiers, equal but for rounding; what was learned is on the host."""
    assert (found.to_dict(), found.regularization_) == (expected.to_dict(), expected.regularization_)
    assert found.validation_accuracy_ == expected.validation_accuracy_
    assert found.validation_ == expected.validation_
    assert getattr(found, "search_", None) == getattr(expected, "search_", None)
    for name, array in expected.arrays().items():
        assert type(found.arrays()[name]) is np.ndarray
        assert found.arrays()[name].dtype == array.dtype
    for name in ("weights", "dual"):
        if name in expected.arrays():
            array = expected.arrays()[name]
            np.testing.assert_allclose(found.arrays()[name], array, atol=tolerance * np.abs(array).max())
    if "points" in expected.arrays():
        np.testing.assert_allclose(found.points_, expected.points_, rtol=2.0**-10, atol=1e-6)
    scores = expected.scores(features)
    np.testing.assert_allclose(found.scores(features), scores, atol=tolerance * np.abs(scores).max())


def check_fit(device, classifier, features, labels, widths=None, tolerance=1e-4):
    """Fit there and here and compare; return both."""
    there = copy.copy(classifier).fit(device.asarray(features), labels, widths=widths)
    here = copy.copy(classifier).fit(features, labels, widths=widths)
    check_equal(there, here, features, tolerance)
    return there, here


@pytest.mark.parametrize("fault", [-1e-20, -1.0, np.nan])
def test_a_singular_matrix_is_said_on_the_device_too(device, fault):
    matrix = device._cupy.asarray(np.diag([2.0, 1.0, fault, 3.0]))
    with pytest.raises(InvalidSpec, match=r"regularization 1e-30 is too small.*singular in float64"):
        cholesky(matrix, 4, 1e-30)


@pytest.mark.parametrize(("images", "width"), [(90, 25), (60, 90)], ids=["primal", "dual"])
@pytest.mark.parametrize(
    "classifier",
    [
        *(Ridge(), Ridge(1e-3), Ridge(validation=0.2), Ridge(0.1, validation=0.2)),
        *(Ridge(validation=0.2, choose="held-out"), Ridge(0.1, validation=0.2, choose="held-out")),
        *(Softmax(), Softmax(1e-2), SquaredHinge(), SquaredHinge(1e-2)),
    ],
)
def test_linear_classifiers(device, classifier, images, width):
    tolerance = 1e-5 if isinstance(classifier, Ridge) else 1e-4
    check_fit(device, classifier, *overlapping_classes(images, width), tolerance=tolerance)


def test_sgd(device, monkeypatch):
    monkeypatch.setattr("ckncuda.classifier.sgd.EPOCHS", 4)
    monkeypatch.setattr("ckncuda.classifier.sgd.BATCH", 16)
    check_fit(device, Softmax(1e-2, "sgd"), *overlapping_classes(60, 20))


@pytest.mark.parametrize("choosing", [{}, {"validation": 0.2, "choose": "held-out"}], ids=["", "held out"])
@pytest.mark.parametrize("regularization", ["auto", 1e-2, 1e-7])
@pytest.mark.parametrize(
    ("classifier", "widths", "tolerance"),
    [(Ridge(), None, 1e-5), (KernelRidge(Exponential(sigma=1.0), weights=[1, 1]), (70, 100), 2e-3)],
    ids=["ridge", "kernel ridge"],
)
def test_many_images_in_single_precision(
    device, monkeypatch, classifier, widths, tolerance, regularization, choosing
):
    """Several blocks of columns and of images to score, and several parts of the images to begin with."""
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 120)
    monkeypatch.setattr("ckncuda.classifier.choice.FEW", 30)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 130 * 50)
    classifier = copy.copy(classifier)
    classifier.regularization = regularization
    vars(classifier).update(choosing)
    check_fit(device, classifier, *overlapping_classes(130, 170, seed=2), widths, tolerance)


@pytest.mark.parametrize("widths", [None, (5, 20)], ids=["one encoder", "two"])
@pytest.mark.parametrize(
    "classifier",
    [
        *(KernelRidge(), KernelRidge(validation=0.2), KernelRidge(validation=0.2, choose="held-out")),
        *(KernelRidge(Exponential(sigma=1.0), 1e-3), KernelRidge(ArcCosine(1), 1e-2, validation=0.2)),
    ],
)
def test_kernel_ridge(device, classifier, widths):
    check_fit(device, classifier, *overlapping_classes(60, 25), widths)


@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
def test_kernel_ridge_of_any_kernel(device, kernel):
    features, labels = overlapping_classes(40, 12)
    found, expected = check_fit(device, KernelRidge(kernel, 1e-2, [2, 1]), features, labels, (5, 7))
    scores = expected.scores(features)
    np.testing.assert_allclose(found.scores(device.asarray(features)), scores, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"kernel": ArcCosine(1)}, {"kernel": ArcCosine(1), "validation": 0.2}),
        {"weights": [1, 1], "validation": 0.2, "choose": "held-out"},
    ],
    ids=str,
)
def test_kernel_ridge_on_landmarks(device, monkeypatch, options):
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 60 * 25)  # several blocks
    classifier = NystromRidge(landmarks=30, **options)
    found, expected = check_fit(device, classifier, *overlapping_classes(200, 25), (10, 15))
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-3)


@pytest.mark.parametrize("ridge", [Ridge(1e-2), KernelRidge(Exponential(sigma=1.0), 1e-2)])
def test_scores_are_computed_on_the_device_and_returned_to_the_host(device, ridge):
    features, labels = overlapping_classes(50, 20)
    ridge.fit(features, labels)
    expected, here = ridge.scores(features), device.asarray(features)
    for _ in range(2):  # the second time with what was kept of the first, there and here in turn
        assert type(ridge.unchecked_scores(here)) is type(here)
        assert type(ridge.scores(here)) is np.ndarray
        tolerance = 1e-6 if isinstance(ridge, Ridge) else 1e-5
        np.testing.assert_allclose(ridge.scores(here), expected, atol=tolerance)
        assert np.array_equal(ridge.scores(features), expected)
    assert np.array_equal(ridge.predict(here), ridge.predict(features))
    again = classifier_from_arrays(ridge.to_dict(), ridge.arrays())
    assert np.array_equal(again.scores(here), ridge.scores(here))


def test_what_is_kept_on_the_device_is_waited_for_before_another_stream_reads_it(device, monkeypatch):
    waited = []
    monkeypatch.setattr(
        "ckncuda.classifier.kernel_classifier.wait", lambda array: (waited.append(type(array)), wait(array))
    )
    features, labels = overlapping_classes(50, 20)
    ridge = KernelRidge(Exponential(sigma=1.0), 1e-2).fit(features, labels)
    expected = ridge.scores(features)
    waited.clear()
    blocks = device.map_blocks(ridge.unchecked_scores, [features[:30], features[30:]])
    np.testing.assert_allclose(np.concatenate(list(blocks)), expected, atol=1e-5)
    assert waited == [type(device.asarray(features))]  # once, not for each block


def test_malformed_features_on_the_device_are_refused(device):
    features, labels = overlapping_classes(30, 8)
    with pytest.raises(InvalidData, match="8 columns; this classifier was fitted on 7"):
        Ridge(1e-2).fit(features[:, :7], labels).scores(device.asarray(features))
    with pytest.raises(InvalidData, match="features of all 30 images are equal"):
        Ridge(1e-2).fit(device.asarray(np.ones_like(features)), labels)
    with pytest.raises(InvalidData, match="29 labels were given for the features of 30 images"):
        Ridge(1e-2).fit(device.asarray(features), labels[1:])
    features[17, 3] = np.inf
    with pytest.raises(InvalidData, match="features of image 17 hold NaN or infinity"):
        Softmax().fit(device.asarray(features), labels)


@pytest.mark.parametrize("kind", [Ridge, KernelRidge])
def test_a_classifier_that_does_not_fit_beside_its_features_is_fitted_on_the_host(device, monkeypatch, kind):
    import cupy

    def fitted():
        classifier = Ridge(1e-3) if kind is Ridge else KernelRidge(Exponential(sigma=1.0), 1e-2)
        return model_of(images, labels, [], device, classifier)

    images, labels = stripes()
    expected = fitted()
    add_product, tried = linear_algebra.add_product, []

    def no_room(total, block):
        tried.append(type(total))
        if not isinstance(total, np.ndarray):
            raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)
        add_product(total, block)

    monkeypatch.setattr("ckncuda.classifier.systems.add_product", no_room)
    found = fitted()
    assert tried[0] is type(device.asarray(images))
    assert set(tried[1:]) == {np.ndarray}
    tolerance = 1e-5 if isinstance(found.classifier, Ridge) else 1e-4
    check_equal(found.classifier, expected.classifier, expected.features(images), tolerance)

    def no_room_anywhere(total, block):
        raise MemoryError

    monkeypatch.setattr("ckncuda.classifier.systems.add_product", no_room_anywhere)
    with pytest.raises(MemoryError):
        fitted()
