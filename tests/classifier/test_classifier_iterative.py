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


@pytest.fixture
def tight(monkeypatch):
    """Solve nearly exactly, for the comparison of minimisers."""
    monkeypatch.setattr("ckncuda.classifier.lbfgs.TOLERANCE", 1e-8)
    monkeypatch.setattr("ckncuda.classifier.lbfgs.VALUE_TOLERANCE", 1e-12)


LOSSES = [cross_entropy, squared_hinge]


def scaled(features):
    return FeatureScaling.of(features).scaled(features, np.arange(len(features)))


def objective_of(classifier, features, labels, loss):
    """Return the value of the objective at a fitted classifier, from its weights on raw features."""
    scaling = FeatureScaling.of(features)
    weights = classifier.weights_.astype(np.float64) * scaling.norm[:, None]
    total, _ = loss(classifier.scores(features).astype(np.float64), labels)
    return total / len(labels) + classifier.regularization_ / 2 * (weights**2).sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_derivative_by_finite_differences(loss):
    random = np.random.default_rng(0)
    targets = np.array([0, 2, 1, 3, 3])
    for _ in range(5):
        point = 2 * random.standard_normal(20)
        error = check_grad(
            lambda flat: loss(flat.reshape(5, 4), targets)[0],
            lambda flat: loss(flat.reshape(5, 4), targets)[1].ravel(),
            point,
        )
        assert error < 1e-5


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
    features, labels = overlapping_classes(120, 20)
    ours = Softmax(regularization, optimizer, validation=0).fit(features, labels)
    theirs = LogisticRegression(C=1 / (len(labels) * regularization), tol=1e-10, max_iter=10000)
    theirs.fit(scaled(features).astype(np.float64), labels)
    expected = theirs.decision_function(scaled(features))
    scores = ours.scores(features)
    np.testing.assert_allclose(
        scores - scores.mean(axis=1, keepdims=True),
        expected - expected.mean(axis=1, keepdims=True),
        atol=5e-3 * np.abs(expected).max(),
    )


def test_squared_hinge_is_the_minimiser_scikit_learn_finds_without_intercept_penalty(tight):
    features, labels = overlapping_classes(120, 20)
    ours = SquaredHinge(1e-2, validation=0).fit(features, labels)
    rows = scaled(features).astype(np.float64)
    # LinearSVC penalises its intercept: a large intercept_scaling makes that penalty vanish.
    theirs = LinearSVC(C=1 / (2 * len(labels) * 1e-2), intercept_scaling=1e3, tol=1e-10, max_iter=100000)
    theirs.dual = False
    expected = theirs.fit(rows, labels).decision_function(rows)
    np.testing.assert_allclose(ours.scores(features), expected, atol=5e-3 * np.abs(expected).max())


def test_squared_hinge_is_the_minimiser_of_a_plain_formula(tight):
    features, labels = overlapping_classes(60, 5)
    rows, signs = scaled(features).astype(np.float64), np.where(np.eye(3)[labels] > 0, 1, -1)

    def risk(flat, k):
        slack = np.maximum(0, 1 - signs[:, k] * (rows @ flat[:5] + flat[5]))
        return 0.5 * (slack**2).mean() + 0.5 * 1e-2 * (flat[:5] ** 2).sum()

    expected = sum(minimize(risk, np.zeros(6), args=(k,), tol=1e-10).fun for k in range(3))
    ours = SquaredHinge(1e-2, validation=0).fit(features, labels)
    assert objective_of(ours, features, labels, squared_hinge) == pytest.approx(expected, rel=1e-5)


def test_sgd_reaches_the_loss_of_lbfgs():
    features, labels = overlapping_classes(300, 40)
    for regularization in (1e-2, 1e-4):
        values = [
            objective_of(
                Softmax(regularization, name, validation=0).fit(features, labels),
                features,
                labels,
                cross_entropy,
            )
            for name in ("lbfgs", "sgd")
        ]
        assert values[1] == pytest.approx(values[0], rel=1e-3)


@pytest.mark.parametrize("make", [Softmax, SquaredHinge])
def test_chosen_regularization_is_the_best_that_was_tried(make):
    features, labels = overlapping_classes(200, 60)
    fitted = make(validation=0.2).fit(features, labels)
    best = max(accuracy for _, accuracy in fitted.search_)
    assert fitted.validation_accuracy_ == best
    assert fitted.regularization_ == max(tried for tried, accuracy in fitted.search_ if accuracy == best)
    assert fitted.validation_ == (
        f"40 images held out of 200; λ = {fitted.regularization_:g} was chosen on them, "
        "then all 200 were fitted"
    )


@pytest.mark.parametrize("make", [Softmax, SquaredHinge])
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


@pytest.mark.parametrize("make", [Softmax, SquaredHinge])
def test_final_fit_is_on_all_images(tight, make):
    features, labels = overlapping_classes(120, 20)
    validated = make(1e-2, validation=0.3).fit(features, labels)
    plain = make(1e-2, validation=0).fit(features, labels)
    np.testing.assert_allclose(validated.scores(features), plain.scores(features), atol=2e-2)
    assert plain.validation_accuracy_ is None
    assert plain.search_ == []
    assert plain.validation_ == "not measured: no image was held out; λ = 0.01 was given"


def test_a_class_of_one_image_is_learned():
    features, labels = overlapping_classes(120, 20)
    labels[-1] = 9
    assert 9 in Softmax(1e-3, validation=0.2).fit(features, labels).classes_


@pytest.mark.parametrize(("make", "loss"), [(Softmax, cross_entropy), (SquaredHinge, squared_hinge)])
@pytest.mark.parametrize("regularization", [1e-1, 1e-3, 1e-5])
def test_the_default_tolerance_is_kept(make, loss, regularization, monkeypatch):
    features, labels = overlapping_classes(200, 300)
    value = objective_of(make(regularization, validation=0).fit(features, labels), features, labels, loss)
    monkeypatch.setattr("ckncuda.classifier.lbfgs.TOLERANCE", 1e-8)
    monkeypatch.setattr("ckncuda.classifier.lbfgs.VALUE_TOLERANCE", 1e-13)
    least = objective_of(make(regularization, validation=0).fit(features, labels), features, labels, loss)
    assert value <= 1.001 * least + 1e-6


@pytest.mark.parametrize("make", [Softmax, SquaredHinge])
def test_too_few_iterations_warn(make):
    features, labels = overlapping_classes(120, 20)
    with pytest.warns(RuntimeWarning, match="stopped after max_iterations = 2 before it converged"):
        make(1e-4, max_iterations=2).fit(features, labels)
