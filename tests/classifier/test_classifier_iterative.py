"""Softmax and squared hinge: derivatives, optima, the choice of λ on held-out images."""

import numpy as np
import pytest
from factories import overlapping_classes
from scipy.optimize import check_grad, minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from ckncuda.classifier import Softmax, SquaredHinge
from ckncuda.classifier.lbfgs import Point
from ckncuda.classifier.losses import cross_entropy, squared_hinge
from ckncuda.classifier.spaces import PlainFeatures
from ckncuda.classifier.training_data import FeatureScaling
from ckncuda.classifier.validation import held_out_split

KINDS, LOSSES = [Softmax, SquaredHinge], [cross_entropy, squared_hinge]
FEATURES, LABELS = overlapping_classes(120, 20)


def scaled(features):
    return FeatureScaling.of(features).scaled(features, np.arange(len(features)))


def least(classifier, features, labels):
    """Fit a classifier and return its objective there, from its weights on raw features."""
    classifier.fit(features, labels)
    weights = classifier.weights_.astype(np.float64) * FeatureScaling.of(features).norm[:, None]
    total, _ = classifier.loss(classifier.scores(features).astype(np.float64), labels)
    return total / len(labels) + classifier.regularization_ / 2 * (weights**2).sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_derivative_by_finite_differences(loss):
    random = np.random.default_rng(0)
    targets = np.array([0, 2, 1, 3, 3])

    def derivative(flat):
        return loss(flat.reshape(5, 4), targets)[1].ravel()

    for _ in range(5):
        point = 2 * random.standard_normal(20)
        assert check_grad(lambda flat: loss(flat.reshape(5, 4), targets)[0], derivative, point) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_objective_gradient_by_finite_differences(loss):
    features, labels = overlapping_classes(30, 4)
    space = PlainFeatures(scaled(features), 1.0).space(30, 0.3)
    point = np.random.default_rng(1).standard_normal((5, 3))
    gradient = Point(space, loss, labels, point).gradient().ravel()
    step = 1e-2  # wide, for the products are in float32
    for i, unit in enumerate(np.eye(15).reshape(15, 5, 3)):
        above, below = (Point(space, loss, labels, point + sign * step * unit).value for sign in (1, -1))
        assert gradient[i] == pytest.approx((above - below) / (2 * step), abs=2e-4)


def test_cross_entropy_does_not_overflow():
    loss, derivative = cross_entropy(np.array([[1e4, 0.0], [-1e4, 0.0]]), np.array([1, 1]))
    assert loss == 1e4
    np.testing.assert_array_equal(derivative, [[1, -1], [0, 0]])


@pytest.mark.parametrize("regularization", [1e-1, 1e-3])
@pytest.mark.parametrize("optimizer", ["lbfgs", "sgd"])
def test_softmax_is_scikit_learns_minimiser(tight, optimizer, regularization):
    ours = Softmax(regularization, optimizer, validation=0).fit(FEATURES, LABELS)
    theirs = LogisticRegression(C=1 / (len(LABELS) * regularization), tol=1e-10, max_iter=10000)
    theirs.fit(scaled(FEATURES).astype(np.float64), LABELS)
    expected = theirs.decision_function(scaled(FEATURES))
    tolerance = 5e-3 * np.abs(expected).max()
    scores, expected = (each - each.mean(axis=1, keepdims=True) for each in (ours.scores(FEATURES), expected))
    np.testing.assert_allclose(scores, expected, atol=tolerance)


def test_squared_hinge_is_the_minimiser_scikit_learn_finds_without_intercept_penalty(tight):
    ours = SquaredHinge(1e-2, validation=0).fit(FEATURES, LABELS)
    rows = scaled(FEATURES).astype(np.float64)
    # LinearSVC penalises its intercept: a large intercept_scaling makes that penalty vanish.
    theirs = LinearSVC(C=1 / (2 * len(LABELS) * 1e-2), intercept_scaling=1e3, tol=1e-10, max_iter=100000)
    theirs.dual = False
    expected = theirs.fit(rows, LABELS).decision_function(rows)
    np.testing.assert_allclose(ours.scores(FEATURES), expected, atol=5e-3 * np.abs(expected).max())


def test_squared_hinge_is_the_minimiser_of_a_plain_formula(tight):
    features, labels = overlapping_classes(60, 5)
    rows, signs = scaled(features).astype(np.float64), np.where(np.eye(3)[labels] > 0, 1, -1)

    def risk(flat, k):
        slack = np.maximum(0, 1 - signs[:, k] * (rows @ flat[:5] + flat[5]))
        return 0.5 * (slack**2).mean() + 0.5 * 1e-2 * (flat[:5] ** 2).sum()

    expected = sum(minimize(risk, np.zeros(6), args=(k,), tol=1e-10).fun for k in range(3))
    assert least(SquaredHinge(1e-2, validation=0), features, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regularization", [1e-2, 1e-4])
def test_sgd_reaches_the_loss_of_lbfgs(regularization):
    data = overlapping_classes(300, 40)
    first, second = (least(Softmax(regularization, name, validation=0), *data) for name in ("lbfgs", "sgd"))
    assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("make", KINDS)
def test_held_out_accuracy_is_that_of_a_fit_on_the_others(make):
    features, labels = overlapping_classes(200, 30)
    fitted = make(1e-2, validation=0.25, seed=3).fit(features, labels)
    kept, held_out = held_out_split(labels, 0.25, 3)
    # The scale is that of all images; a fit on the others alone has the same λ in other units.
    ratio = FeatureScaling.of(features[kept]).norm[0] / FeatureScaling.of(features).norm[0]
    others = make(1e-2 / ratio**2, validation=0).fit(features[kept], labels[kept])
    accuracy = np.mean(others.predict(features[held_out]) == labels[held_out])
    assert fitted.validation_accuracy_ == pytest.approx(accuracy, abs=0.021)  # one image may be a near tie
    assert fitted.search_ == [(1e-2, fitted.validation_accuracy_)]
    assert fitted.validation_ == "50 images held out of 200; λ = 0.01 was given, then all 200 were fitted"


@pytest.mark.parametrize("make", KINDS)
def test_final_fit_is_on_all_images(tight, make):
    validated = make(1e-2, validation=0.3).fit(FEATURES, LABELS)
    plain = make(1e-2, validation=0).fit(FEATURES, LABELS)
    np.testing.assert_allclose(validated.scores(FEATURES), plain.scores(FEATURES), atol=2e-2)
    assert plain.validation_accuracy_ is None
    assert plain.search_ == []
    assert plain.validation_ == "not measured: no image was held out; λ = 0.01 was given"


def test_a_class_of_one_image_is_learned():
    features, labels = overlapping_classes(120, 20)
    labels[-1] = 9
    assert 9 in Softmax(1e-3, validation=0.2).fit(features, labels).classes_


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("regularization", [1e-1, 1e-3, 1e-5])
def test_the_default_tolerance_is_kept(make, regularization, request):
    data = overlapping_classes(200, 300)
    value = least(make(regularization, validation=0), *data)
    request.getfixturevalue("tight")
    assert value <= 1.001 * least(make(regularization, validation=0), *data) + 1e-6


@pytest.mark.parametrize("make", KINDS)
def test_too_few_iterations_warn(make):
    with pytest.warns(RuntimeWarning, match="stopped after max_iterations = 2 before it converged"):
        make(1e-4, max_iterations=2).fit(FEATURES, LABELS)
