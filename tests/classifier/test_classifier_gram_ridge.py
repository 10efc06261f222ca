"""Kernel ridge regression on given Gram matrices against brute force: refits, solutions in float64."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import GramRidge, KernelRidge, Linear, Ridge
from ckncuda.classifier import LinearClassifier, classifier_from_arrays
from ckncuda.classifier.dual_ridge import LAMBDAS, WEIGHTS
from ckncuda.classifier.gram_ridge import _System
from ckncuda.classifier.kernel import normalized_weights
from ckncuda.classifier.selection import held_out_split
from ckncuda.classifier.training_data import signed_targets
from ckncuda.errors import InvalidData, InvalidSpec


def points(images=40, classes=3, seed=0, width=4):
    """Points of classes that overlap, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return 1.2 * rng.normal(size=(classes, width))[labels] + rng.normal(size=(images, width)), labels


def gauss(x, y, width=2.0):
    return np.exp(-((x[:, None] - y) ** 2).sum(axis=2) / width**2)


def polynomial(x, y):
    """Of another scale, and far from centred."""
    return 50.0 * (3 + x @ y.T) ** 2


def centred(gram):
    """As images of mean 0 and mean squared norm 1, by the book."""
    n = len(gram)
    centring = np.eye(n) - np.ones((n, n)) / n
    result = centring @ gram @ centring
    return result / result.trace() * n


def solved(gram, targets, regularization):
    n = len(gram)
    return np.linalg.solve(gram + 1 + n * regularization * np.eye(n), targets)


KERNELS = [gauss, polynomial]


# ---- The fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 3.0]])
def test_scores_are_those_of_the_dual_solution(regularization, weights):
    x, labels = points(60)
    train, few = x[:40], labels[:40]
    shares = normalized_weights(weights)
    gram = sum(w * centred(kernel(train, train)) for w, kernel in zip(shares, KERNELS, strict=False))
    alpha = solved(gram, signed_targets(few, 3), regularization)
    # The kernel of centred images with new ones, from their definition: the mean of the training images is 0.
    new = 0
    for share, kernel in zip(shares, KERNELS, strict=False):
        own, other = kernel(train, train), kernel(x, train)
        scale = np.diag(own).mean() - own.mean()
        new += share / scale * (other - other.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean())
    expected = (new + 1) @ alpha
    grams = [kernel(train, train) for kernel, _ in zip(KERNELS, weights, strict=False)]
    fitted = GramRidge(regularization, weights).fit(grams, few)
    values = np.hstack([kernel(x, train) for kernel, _ in zip(KERNELS, weights, strict=False)])
    # Dual coefficients of a small λ are large, of both signs: they are stored in single precision.
    tolerance = 1e-6 * max(1, np.abs(alpha).max())
    np.testing.assert_allclose(fitted.scores(values), expected, atol=tolerance)
    assert fitted.n_features == 40 * len(weights)
    assert fitted.kernel_weights_ == pytest.approx(shares)


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.7)])
def test_left_out_residuals_are_those_of_refits(regularization, weights):
    x, labels = points()
    system = _System([kernel(x, x) for kernel in KERNELS], np.arange(40), signed_targets(labels, 3))
    order = system.order
    gram = sum(w * centred(kernel(x, x)) for w, kernel in zip(weights, KERNELS, strict=True))
    gram = gram[np.ix_(order, order)] + 1
    for last in (40, 17):
        part, targets = gram[-last:, -last:], system.targets[-last:]
        expected = np.empty_like(targets)
        for i in range(last):
            others = np.arange(last) != i
            penalty = last * regularization * np.eye(last - 1)
            alpha = np.linalg.solve(part[np.ix_(others, others)] + penalty, targets[others])
            expected[i] = targets[i] - part[i, others] @ alpha
        few = system.solution(weights, regularization, last).left_out_residuals(5)
        np.testing.assert_allclose(few, expected[-5:], rtol=1e-6, atol=1e-8)
        found = system.solution(weights, regularization, last).left_out_residuals()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
def test_accuracy_is_leave_one_out_by_hand(classes):
    x, labels = points(37, classes, seed=4)
    fitted = GramRidge(1e-2).fit(gauss(x, x), labels + 3)
    gram = centred(gauss(x, x)) + 1
    right = 0
    for i in range(37):
        others = np.arange(37) != i
        alpha = np.linalg.solve(
            gram[np.ix_(others, others)] + 0.37 * np.eye(36), signed_targets(labels, classes)[others]
        )
        right += int(np.argmax(gram[i, others] @ alpha) == labels[i])
    assert fitted.validation_accuracy_ == right / 37
    assert 0 < right < 37
    assert fitted.validation_ == "leave-one-out over 37 images; λ = 0.01 was given"
    assert fitted.classes_.tolist() == list(range(3, 3 + classes))


def test_with_inner_products_it_is_kernel_ridge_on_the_features():
    x, labels = points(50)
    features = x.astype(np.float32)
    expected = KernelRidge(Linear(), 1e-2).fit(features, labels)
    fitted = GramRidge(1e-2).fit(features @ features.T, labels)
    np.testing.assert_allclose(fitted.scores(features @ features.T), expected.scores(features), atol=5e-3)
    assert fitted.validation_accuracy_ == expected.validation_accuracy_


@settings(max_examples=10)
@given(offset=st.floats(0, 100), factor=st.floats(1e-3, 1e3))
def test_a_constant_and_a_scale_make_no_difference(offset, factor):
    x, labels = points()
    gram = gauss(x, x)
    expected = GramRidge(1e-2).fit(gram, labels).scores(gram)
    moved = factor * (gram + offset)
    np.testing.assert_allclose(GramRidge(1e-2).fit(moved, labels).scores(moved), expected, atol=2e-3)


def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch):
    x, labels = points(150)
    double = GramRidge(1e-4).fit(gauss(x, x), labels)
    monkeypatch.setattr("ckncuda.classifier.gram_ridge.MANY", 150)
    single = GramRidge(1e-4).fit(gauss(x, x), labels)
    np.testing.assert_allclose(single.scores(gauss(x, x)), double.scores(gauss(x, x)), atol=2e-3)
    assert single.validation_accuracy_ == double.validation_accuracy_


def test_matrices_are_read_in_blocks_and_may_be_on_a_disk(monkeypatch, tmp_path):
    x, labels = points()
    gram = gauss(x, x).astype(np.float32)
    whole = GramRidge(1e-3, validation=0.25).fit(gram, labels)
    np.save(tmp_path / "K.npy", gram)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 40 * 7)
    pieces = GramRidge(1e-3, validation=0.25).fit(np.load(tmp_path / "K.npy", mmap_mode="r"), labels)
    np.testing.assert_allclose(pieces.weights_, whole.weights_, rtol=1e-6, atol=1e-6)
    assert pieces.validation_accuracy_ == whole.validation_accuracy_


def test_what_is_fitted_is_stored_as_any_linear_classifier():
    x, labels = points()
    fitted = GramRidge().fit(gauss(x, x), labels)
    again = classifier_from_arrays(fitted.to_dict(), fitted.arrays())
    assert type(again) is LinearClassifier
    assert np.array_equal(again.scores(gauss(x, x)), fitted.scores(gauss(x, x)))


# ---- What is chosen --------------------------------------------------------------------------------------


def accuracy_at(system, place):
    """Of the last half of the images, at places in the tables."""
    weights = normalized_weights([1.0, *(WEIGHTS[each] for each in place[1:])])
    residuals = system.solution(weights, LAMBDAS[place[0]]).left_out_residuals(45)
    true = system.targets[-45:]
    return np.mean((true - residuals).argmax(axis=1) == true.argmax(axis=1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kernels", [1, 2])
def test_what_is_chosen_is_at_least_as_good_as_its_neighbours(monkeypatch, kernels, seed):
    monkeypatch.setattr("ckncuda.classifier.gram_ridge.FEW", 20)
    x, labels = points(90, seed=seed)
    grams = [kernel(x, x) for kernel in KERNELS[:kernels]]
    fitted = GramRidge().fit(grams, labels)
    system = _System(grams, np.arange(90), signed_targets(labels, 3))
    weights = [round(np.log2(w / fitted.kernel_weights_[0])) + 4 for w in fitted.kernel_weights_[1:]]
    place = [LAMBDAS.index(fitted.regularization_), *weights]
    best = accuracy_at(system, place)
    assert best > 1 / 3
    for axis, size in enumerate([len(LAMBDAS), *[len(WEIGHTS)] * (kernels - 1)]):
        for step in (-1, 1):
            if 0 <= place[axis] + step < size:
                neighbour = [*place[:axis], place[axis] + step, *place[axis + 1 :]]
                assert accuracy_at(system, neighbour) <= best
    again = GramRidge(fitted.regularization_, fitted.kernel_weights_).fit(grams, labels)
    np.testing.assert_allclose(again.weights_, fitted.weights_, rtol=1e-5)
    assert "over 45 of them" in fitted.validation_


def test_weights_choose_the_kernel_that_tells_more():
    x, labels = points(80)
    noise = np.random.default_rng(5).normal(size=(80, 3))
    first = GramRidge(1e-2).fit([gauss(x, x), gauss(noise, noise)], labels)
    second = GramRidge(1e-2).fit([gauss(noise, noise), gauss(x, x)], labels)
    assert first.kernel_weights_[0] > 0.5 < second.kernel_weights_[1]
    assert "weights" in first.validation_


def test_held_out_images_are_in_no_choice():
    x, labels = points(80)
    fitted = GramRidge(validation=0.25).fit(gauss(x, x), labels)
    kept, held_out = held_out_split(labels, 0.25, 0)
    alone = GramRidge().fit(gauss(x[kept], x[kept]), labels[kept])
    assert fitted.regularization_ == alone.regularization_
    predicted = alone.predict(gauss(x[held_out], x[kept]))
    assert fitted.validation_accuracy_ == np.mean(predicted == labels[held_out])
    assert fitted.n_features == 80
    assert fitted.validation_.startswith("20 images held out of 80; λ = ")
    assert "then all 80 were fitted" in fitted.validation_


def test_progress_is_told():
    x, labels = points()
    stages = []
    GramRidge().fit(gauss(x, x), labels, progress=lambda *stage: stages.append(stage))
    assert stages[0] == ("choosing kernel and λ", 1, 40)


def test_images_that_are_there_many_times_do_not_end_the_search(monkeypatch):
    monkeypatch.setattr("ckncuda.classifier.gram_ridge.MANY", 100)
    x, labels = points(20)
    x, labels = np.repeat(x, 6, axis=0), np.repeat(labels, 6)
    fitted = GramRidge().fit(gauss(x, x).astype(np.float32), labels)
    assert fitted.validation_accuracy_ == 1


# ---- Landmarks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", [1, 2])
def test_with_all_images_as_landmarks_it_is_the_whole_solution(kernels):
    """Ridge leaves the intercept alone: with classes of equal size that makes a small difference."""
    x, labels = points(60)
    options = {"regularization": 1e-2, "weights": [1.0, 2.0][:kernels]}
    grams = [kernel(x, x) for kernel in KERNELS[:kernels]]
    whole = GramRidge(**options).fit(grams, labels)
    landmarks = GramRidge(**options).fit(grams, labels, points=np.arange(60))
    values = np.hstack(grams)
    difference = landmarks.scores(values) - whole.scores(values)
    np.testing.assert_allclose(difference, difference.mean(axis=0) * np.ones((60, 1)), atol=5e-3)
    assert abs(landmarks.validation_accuracy_ - whole.validation_accuracy_) <= 1 / 60


def test_scores_on_landmarks_are_the_definition_in_double_precision():
    x, labels = points(90)
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
    x, labels = points(120)
    chosen = np.arange(0, 120, 2)
    grams = [kernel(x, x[chosen]) for kernel in KERNELS]
    fitted = GramRidge(validation=0.2).fit(grams, labels, points=chosen)
    inside = np.isin(chosen, held_out_split(labels, 0.2, 0)[0])
    some = [gram[chosen[inside]][:, inside] for gram in grams]
    assert fitted.kernel_weights_ == GramRidge().fit(some, labels[chosen[inside]]).kernel_weights_
    assert f"were chosen by leave-one-out over {inside.sum()} landmarks" in fitted.validation_
    assert fitted.validation_.startswith("24 images held out of 120")


def test_landmarks_that_are_nearly_the_same_do_no_harm():
    x, labels = points(40)
    x = np.repeat(x, 2, axis=0) + 1e-7
    gram = gauss(x, x[:60]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = GramRidge().fit(gram, np.repeat(labels, 2), points=np.arange(60))
    assert np.mean(fitted.predict(gram) == np.repeat(labels, 2)) > 0.6


# ---- What is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda k: k[:, 1:], r"shape \[12, 11\] and type float64; expected numbers \[12, 12\]"),
        (lambda k: k[1:], r"shape \[11, 12\]"),
        (lambda k: k.astype(complex), "type complex128"),
        (lambda k: np.where(np.eye(12, k=3, dtype=bool), np.nan, k), "row 0 of a Gram matrix holds NaN"),
        (lambda k: k + np.triu(np.ones((12, 12))), "is not symmetric"),
        (lambda k: np.ones((12, 12)), "the 12 images are all equal to a kernel, or it is none"),
        (lambda k: -k, "all equal to a kernel, or it is none"),
    ],
)
def test_matrices_that_are_none(change, match):
    x, labels = points(12)
    with pytest.raises(InvalidData, match=match):
        GramRidge().fit(change(gauss(x, x)), labels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regularization": 0.0}, "regularization is 0.0"),
        ({"weights": [1.0]}, "1 weights were given for 2 kernels"),
        ({"weights": [0.0, 0.0]}, "one positive"),
        ({"weights": "equal"}, "weights are 'equal'"),
        ({"validation": 2.0}, "validation is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options, match):
    x, labels = points(12)
    with pytest.raises(InvalidSpec, match=match):
        GramRidge(**options).fit([gauss(x, x)] * 2, labels)


@pytest.mark.parametrize("numbers", [[0], [0, 12], [-1, 2], [1, 1], [0.5, 1]])
def test_landmarks_that_are_none(numbers):
    x, labels = points(12)
    with pytest.raises(InvalidSpec, match="points"):
        GramRidge().fit(gauss(x, x)[:, : len(numbers)], labels, points=numbers)


def test_too_many_images_for_a_matrix():
    with pytest.raises(InvalidSpec, match="takes 46000 images at most: use landmarks"):
        GramRidge().check_options(50_000)


def test_a_lambda_that_is_too_small_for_a_matrix_that_is_no_kernels():
    x, labels = points(12)
    with pytest.raises(InvalidSpec, match="too small"):
        GramRidge(1e-8).fit(gauss(x, x) - 0.5 * np.eye(12), labels)


@pytest.mark.parametrize("grams", [[], (), None, 3.0])
def test_no_matrices_at_all(grams):
    with pytest.raises(InvalidData, match="expected one, or a list of them"):
        GramRidge().fit(grams, [0, 1])


@pytest.mark.parametrize("factor", [1e-44, 1e60])
def test_values_whose_weights_do_not_fit_single_precision(factor):
    x, labels = points(40)
    with pytest.raises(InvalidData, match="multiply the Gram matrix"):
        GramRidge().fit(factor * gauss(x, x), labels)


def test_landmarks_of_one_class_choose_no_weights():
    x, labels = points(40)
    labels[:20] = 0
    kernels = [gauss(x, x)[:, :12], (x @ x.T)[:, :12]]
    ridge = GramRidge().fit(kernels, labels, points=range(12))
    assert ridge.kernel_weights_ == (0.5, 0.5)
    assert "equal weights" in ridge.validation_
