"""The preconditioned solver: one minimum in every space, few iterations at every λ."""

import numpy as np
import pytest
from factories import overlapping_classes

from ckncuda.classifier import Softmax, SquaredHinge
from ckncuda.classifier.lbfgs import Point, minimize_lbfgs
from ckncuda.classifier.losses import cross_entropy, squared_hinge
from ckncuda.classifier.spaces import DualFeatures, PlainFeatures, PrimalFeatures
from ckncuda.classifier.training_data import FeatureScaling

LOSSES = [(cross_entropy, Softmax.curvature), (squared_hinge, SquaredHinge.curvature)]
SHAPES = [(40, 90), (90, 40), (30, 30)]


def problem(images, width, decay=0.0):
    """Return scaled features, whose columns have variances that fall by ``decay`` decades in all."""
    features, labels = overlapping_classes(images, width)
    features *= np.logspace(0, -decay / 2, width, dtype=np.float32)
    return FeatureScaling.of(features).scaled(features, np.arange(images)), labels


def solve(features, images, loss, labels, regularization, iterations=2000):
    space = features.space(images, regularization)
    start = features.start(images, classes=3)
    return minimize_lbfgs(space, loss, labels[:images], start, iterations)


@pytest.mark.parametrize(("images", "width"), SHAPES)
@pytest.mark.parametrize(("loss", "curvature"), LOSSES)
@pytest.mark.parametrize("regularization", [1e-1, 1e-4])
def test_every_space_has_the_same_minimum(tight, images, width, loss, curvature, regularization):
    rows, labels = problem(images, width)
    spaces = [PlainFeatures(rows, curvature)]
    spaces += [kind(rows, curvature, None) for kind in (PrimalFeatures, DualFeatures)]
    kept = images - 9
    weights, others = [], []
    for features in spaces:
        x, converged = solve(features, kept, loss, labels, regularization)
        assert converged
        weights.append(np.vstack(features.weights(features.start(images, 3, x))))
        others.append(features.scores_after(kept, x))
    for found, scores in zip(weights[1:], others[1:], strict=True):
        np.testing.assert_allclose(found, weights[0], atol=2e-3 * np.abs(weights[0]).max())
        np.testing.assert_allclose(scores, others[0], atol=2e-3 * np.abs(others[0]).max())


@pytest.mark.parametrize(("loss", "curvature"), LOSSES)
def test_dual_point_is_the_primal_one(loss, curvature):
    rows, labels = problem(20, 50)
    dual = DualFeatures(rows, curvature, None)
    alpha = np.random.default_rng(1).standard_normal((21, 3))
    alpha[:-1] -= alpha[:-1].mean(axis=0)  # no weight on the constant feature
    weights = np.vstack(dual.weights(alpha))
    ours = Point(dual.space(20, 0.1), loss, labels, alpha)
    theirs = Point(PlainFeatures(rows, curvature).space(20, 0.1), loss, labels, weights)
    assert ours.value == pytest.approx(theirs.value, rel=1e-5)
    expected = rows.T.astype(np.float64) @ ours.gradient()[:-1]
    np.testing.assert_allclose(theirs.gradient()[:-1], expected, atol=1e-5)


@pytest.mark.parametrize("kind", [PrimalFeatures, DualFeatures])
def test_preconditioner_is_the_inverse_of_m(kind):
    rows, _ = problem(30, 30)
    space = kind(rows, 0.5, None).space(30, 1e-3)
    gradient = np.random.default_rng(1).standard_normal((31, 3))
    x, paired = space.precondition(gradient.copy())
    square = (rows.T @ rows if kind is PrimalFeatures else rows @ rows.T + 1).astype(np.float64)
    expected = np.linalg.solve(0.5 * square / 30 + 1e-3 * np.eye(30), gradient[:-1])
    np.testing.assert_allclose(x[:-1], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(x[-1], gradient[-1] / 0.5)
    np.testing.assert_allclose(paired, space.paired(x), atol=1e-4)


@pytest.mark.parametrize(("loss", "curvature"), LOSSES)
@pytest.mark.parametrize(("kind", "images", "width"), [(PrimalFeatures, 300, 60), (DualFeatures, 150, 400)])
def test_weak_regularization_converges_in_few_iterations(loss, curvature, kind, images, width):
    rows, labels = problem(images, width, decay=4)
    x, converged = solve(kind(rows, curvature, None), images, loss, labels, 1e-5, iterations=150)
    assert converged
    assert np.isfinite(x).all()


@pytest.mark.parametrize(("loss", "curvature"), LOSSES)
def test_repeated_images_of_different_classes_do_no_harm(loss, curvature):
    rows, labels = problem(60, 150, decay=4)
    rows, labels = np.vstack([rows, rows[:20]]), np.concatenate([labels, (labels[:20] + 1) % 3])
    values = []
    for kind in (PrimalFeatures, DualFeatures):
        features = kind(rows, curvature, None)
        x, converged = solve(features, 80, loss, labels, 1e-6)
        assert converged
        weights = np.vstack(features.weights(x))
        values.append(Point(PlainFeatures(rows, curvature).space(80, 1e-6), loss, labels, weights).value)
    assert values[1] == pytest.approx(values[0], rel=1e-3)
