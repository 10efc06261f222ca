"""Kernel ridge regression on landmarks, of features and of given kernel values."""

import math

import numpy as np
import pytest
from factories import gauss, kernel_matrix, overlapping_points, polynomial, scaled_by_the_book

from ckncuda import ArcCosine, Exponential, GramRidge, KernelRidge, Linear, NystromRidge, Polynomial, Ridge
from ckncuda.classifier.choice import SIGMAS
from ckncuda.classifier.training_data import signed_targets
from ckncuda.classifier.validation import held_out_split
from ckncuda.errors import InvalidSpec


def clouds(images=300, width=12, classes=3, seed=0):
    """Classes that differ in what a linear classifier does not see, beside what it does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = rng.normal(size=(images, width)) * (1 + labels[:, None])
    features[:, 0] += labels
    return features.astype(np.float32), labels


FEATURES, LABELS = clouds()


@pytest.mark.parametrize("kernel", [Exponential(sigma=1.0), ArcCosine(1), Polynomial(2, 1.0)], ids=str)
def test_with_all_images_as_landmarks_it_is_kernel_ridge(kernel):
    """But for the intercept, which is not penalised here, and Nyström's jitter."""
    exact = KernelRidge(kernel, 1e-2).fit(FEATURES, LABELS)
    found = NystromRidge(kernel, 1e-2, landmarks=300).fit(FEATURES, LABELS)
    # Ridge scales its features to a mean squared norm of 1: its λ is measured in other units.
    scale = np.square(exact.scores(FEATURES) - found.scores(FEATURES)).mean()
    assert scale < 0.01 * np.square(exact.scores(FEATURES)).mean()
    assert np.mean(exact.predict(FEATURES) == found.predict(FEATURES)) > 0.95


def test_scores_are_those_of_ridge_on_the_new_features_written_out():
    kernel = Exponential(sigma=1.0)
    fitted = NystromRidge(kernel, 1e-3, landmarks=40, seed=3).fit(FEATURES, LABELS)
    x = (FEATURES.astype(float) - fitted.scaling_.mean) / fitted.scaling_.norm
    points = fitted.points_.astype(float)
    rows = np.sort(np.random.default_rng(3).permutation(300)[:40])
    np.testing.assert_allclose(points, x[rows], atol=1e-3)

    own, values = (kernel_matrix(points, z, (12,), [kernel], [1.0]) for z in (points, x))
    mapped = np.linalg.solve(np.linalg.cholesky(own + 1e-6 * np.eye(40)), values).T
    z, y = scaled_by_the_book(mapped), signed_targets(LABELS, 3)
    weights = np.linalg.solve(z.T @ z + 300 * 1e-3 * np.eye(40), z.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(fitted.scores(FEATURES), z @ weights + y.mean(axis=0), atol=2e-3)
    inverse = np.linalg.inv(z.T @ z + 300 * 1e-3 * np.eye(40))
    leverage = 1 / 300 + np.einsum("ij,jk,ik->i", z, inverse, z)
    left_out = y - (y - y.mean(axis=0) - z @ weights) / (1 - leverage)[:, None]
    right = np.mean(left_out.argmax(axis=1) == LABELS)
    assert abs(fitted.validation_accuracy_ - right) <= 1 / 300


def test_more_landmarks_come_nearer_to_kernel_ridge():
    features, labels = clouds(600)
    exact = KernelRidge(ArcCosine(1), 1e-2).fit(features, labels).scores(features)
    fits = (NystromRidge(ArcCosine(1), 1e-2, landmarks=m).fit(features, labels) for m in (10, 50, 400))
    errors = [np.square(fitted.scores(features) - exact).mean() for fitted in fits]
    assert errors[0] > errors[1] > errors[2]


def test_kernel_and_lambda_are_chosen_and_said():
    fitted = NystromRidge(landmarks=60).fit(FEATURES, LABELS)
    assert fitted.kernels_[0] in {Exponential(sigma=s) for s in SIGMAS}
    assert "leave-one-out over 300 images; λ = " in fitted.validation_
    assert "60 landmarks; κ = exp(sigma=" in fitted.validation_
    assert "was chosen by leave-one-out over 300 images" in fitted.validation_
    given = NystromRidge(Linear(), 0.1, landmarks=60).fit(FEATURES, LABELS)
    assert given.regularization_ == 0.1
    assert given.validation_.endswith("λ = 0.1 was given; 60 landmarks; κ = linear was given")


def test_images_can_be_held_out():
    fitted = NystromRidge(ArcCosine(1), landmarks=60, validation=0.2).fit(FEATURES, LABELS)
    assert fitted.validation_.startswith("60 images held out of 300; λ = ")
    assert 0.4 < fitted.validation_accuracy_ <= 1


def test_each_encoder_has_a_kernel_and_a_weight():
    fitted = NystromRidge(Linear(), 1e-2, weights=[1, 3], landmarks=50).fit(FEATURES, LABELS, widths=(5, 7))
    assert (fitted.kernel_weights_, fitted.widths_) == ((0.25, 0.75), (5, 7))
    chosen = NystromRidge(landmarks=50).fit(FEATURES, LABELS, widths=(5, 7))
    assert len(chosen.kernels_) == 2
    assert math.isclose(sum(chosen.kernel_weights_), 1)


def test_same_seed_same_arrays_and_another_seed_other_landmarks():
    first, second, other = (
        NystromRidge(ArcCosine(1), 1e-3, landmarks=50, seed=seed).fit(FEATURES, LABELS) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first.arrays()[name], second.arrays()[name]) for name in first.arrays())
    assert not np.array_equal(first.points_, other.points_)


def test_equal_images_and_few_images_are_no_trouble():
    features, labels = clouds(40)
    twice, both = np.concatenate([features, features]), np.concatenate([labels, labels])
    assert np.isfinite(NystromRidge(ArcCosine(1)).fit(twice, both).scores(features)).all()
    few = NystromRidge(ArcCosine(1), 1e-2).fit(features[:3], [0, 1, 1])
    assert np.isfinite(few.scores(features)).all()


def test_labels_of_held_out_images_choose_nothing(monkeypatch):
    features, labels = clouds(300, classes=2)
    kept, held_out = np.split(np.random.default_rng(0).permutation(300), [180])
    for module in ("validation", "landmarks"):
        monkeypatch.setattr(f"ckncuda.classifier.{module}.held_out_split", lambda *_: (kept, held_out))
    swapped = labels.copy()
    swapped[held_out] = 1 - swapped[held_out]
    first, second = (
        NystromRidge(landmarks=40, validation=0.4).fit(features, y, widths=(5, 7)) for y in (labels, swapped)
    )
    assert (first.kernels_, first.kernel_weights_) == (second.kernels_, second.kernel_weights_)
    assert first.regularization_ == second.regularization_


@pytest.mark.parametrize("kernel", [Exponential(sigma=4.0), Polynomial(3, 1.0)], ids=str)
def test_many_landmarks_in_few_directions(kernel):
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 2
    features = (rng.normal(size=(900, 3)) + 0.5 * labels[:, None]).astype(np.float32)
    fitted = NystromRidge(kernel, 1e-4, landmarks=700).fit(features, labels)
    assert np.isfinite(fitted.scores(features)).all()
    assert fitted.validation_accuracy_ > 0.6


def test_weights_alone_may_be_chosen():
    fitted = NystromRidge(Linear(), landmarks=50).fit(FEATURES, LABELS, widths=(5, 7))
    assert fitted.kernels_ == (Linear(), Linear())
    assert "κ = linear, weights " in fitted.validation_
    assert fitted.validation_.endswith("chosen by leave-one-out over 300 images, but for what was given")


# ---- Given kernel values -----------------------------------------------------------------------------------


KERNELS = [gauss, polynomial]


@pytest.mark.parametrize("kernels", [1, 2])
def test_with_all_images_as_landmarks_it_is_the_whole_solution(kernels):
    """Ridge leaves the intercept alone: with classes of equal size that makes a small difference."""
    x, labels = overlapping_points(60)
    options = {"regularization": 1e-2, "weights": [1.0, 2.0][:kernels]}
    grams = [kernel(x, x) for kernel in KERNELS[:kernels]]
    whole = GramRidge(**options).fit(grams, labels)
    landmarks = GramRidge(**options).fit(grams, labels, points=np.arange(60))
    values = np.hstack(grams)
    difference = landmarks.scores(values) - whole.scores(values)
    np.testing.assert_allclose(difference, difference.mean(axis=0) * np.ones((60, 1)), atol=5e-3)
    assert abs(landmarks.validation_accuracy_ - whole.validation_accuracy_) <= 1 / 60


def test_scores_on_landmarks_are_the_definition_in_double_precision():
    x, labels = overlapping_points(90)
    chosen = np.arange(0, 90, 6)
    fitted = GramRidge(1e-3).fit(gauss(x, x[chosen]), labels, points=chosen)
    own = gauss(x[chosen], x[chosen])
    factor = np.linalg.cholesky(own + 1e-6 * np.eye(15))
    features = np.linalg.solve(factor, gauss(x, x[chosen]).T).T
    expected = Ridge(1e-3).fit(features, labels)
    found = fitted.scores(gauss(x, x[chosen]))
    np.testing.assert_allclose(found, expected.scores(features), atol=1e-4)
    assert fitted.validation_accuracy_ == expected.validation_accuracy_
    assert fitted.weights_.shape == (15, 3)
    assert fitted.validation_ == "leave-one-out over 90 images; λ = 0.001 was given; 15 landmarks"


def test_weights_are_chosen_on_landmarks_that_are_not_held_out():
    x, labels = overlapping_points(120)
    chosen = np.arange(0, 120, 2)
    grams = [kernel(x, x[chosen]) for kernel in KERNELS]
    fitted = GramRidge(validation=0.2).fit(grams, labels, points=chosen)
    inside = np.isin(chosen, held_out_split(labels, 0.2, 0)[0])
    some = [gram[chosen[inside]][:, inside] for gram in grams]
    assert fitted.kernel_weights_ == GramRidge().fit(some, labels[chosen[inside]]).kernel_weights_
    assert f"were chosen by leave-one-out over {inside.sum()} landmarks" in fitted.validation_
    assert fitted.validation_.startswith("24 images held out of 120")


@pytest.mark.filterwarnings("error")
def test_landmarks_that_are_nearly_the_same_do_no_harm():
    x, labels = overlapping_points(40)
    x = np.repeat(x, 2, axis=0) + 1e-7
    gram = gauss(x, x[:60]).astype(np.float32)
    fitted = GramRidge().fit(gram, np.repeat(labels, 2), points=np.arange(60))
    assert np.mean(fitted.predict(gram) == np.repeat(labels, 2)) > 0.6


@pytest.mark.parametrize("numbers", [[0], [0, 12], [-1, 2], [1, 1], [0.5, 1]])
def test_landmarks_that_are_none(numbers):
    x, labels = overlapping_points(12)
    with pytest.raises(InvalidSpec, match="points"):
        GramRidge().fit(gauss(x, x)[:, : len(numbers)], labels, points=numbers)


def test_landmarks_of_one_class_choose_no_weights():
    x, labels = overlapping_points(40)
    labels[:20] = 0
    kernels = [gauss(x, x)[:, :12], (x @ x.T)[:, :12]]
    ridge = GramRidge().fit(kernels, labels, points=range(12))
    assert ridge.kernel_weights_ == (0.5, 0.5)
    assert "equal weights" in ridge.validation_
