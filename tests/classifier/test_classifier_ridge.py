"""Ridge against the textbook: normal equations with an explicit intercept, and refits without each image."""

import numpy as np
import pytest

from ckncuda.classifier import Ridge
from ckncuda.classifier.normal_equations import DualSystem, PrimalSystem
from ckncuda.classifier.scaling import FeatureScaling
from ckncuda.classifier.training_data import signed_targets
from ckncuda.errors import InvalidSpec


def problem(images, width, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = random.standard_normal((classes, width))
    features = 3 + 0.5 * centres[labels] + random.standard_normal((images, width))
    return features.astype(np.float32), labels


def textbook(features, signs, penalty):
    """Minimise ½ ‖Y − [X 1] V‖² + penalty/2 ‖V without its last row‖² by the normal equations."""
    extended = np.hstack([features, np.ones((len(features), 1))])
    ridge = penalty * np.eye(extended.shape[1])
    ridge[-1, -1] = 0
    solution = np.linalg.solve(extended.T @ extended + ridge, extended.T @ signs)
    return solution[:-1], solution[-1]


def scaled(features):
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    return centred / np.sqrt((centred**2).sum() / len(centred))


SHAPES = [(40, 12), (20, 60), (25, 25), (12, 11)]


@pytest.mark.parametrize(("images", "width"), SHAPES)
@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
def test_scores_are_those_of_the_textbook(images, width, regularization):
    features, labels = problem(images, width)
    ridge = Ridge(regularization).fit(features, labels)
    weights, intercept = textbook(scaled(features), signed_targets(labels, 3), images * regularization)
    np.testing.assert_allclose(ridge.scores(features), scaled(features) @ weights + intercept, atol=2e-5)


@pytest.mark.parametrize(("images", "width"), SHAPES)
@pytest.mark.parametrize("regularization", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("system", [DualSystem, PrimalSystem])
def test_left_out_residuals_are_those_of_refits(system, images, width, regularization):
    features, labels = problem(images, width)
    signs = signed_targets(labels, 3)
    expected = np.empty_like(signs)
    rows = scaled(features)
    for i in range(images):
        others = np.arange(images) != i
        weights, intercept = textbook(rows[others], signs[others], images * regularization)
        expected[i] = signs[i] - (rows[i] @ weights + intercept)
    solver = system(features, FeatureScaling.of(features), signs - signs.mean(axis=0), None)
    if isinstance(solver, DualSystem):
        expected = expected[solver.order]
        last = solver.solution(regularization).left_out_residuals(images // 3)
        np.testing.assert_allclose(last, expected[-(images // 3) :], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(solver.left_out_residuals(regularization), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("regularization", "precision"), [(1e-2, np.float32), (1e-5, np.float32), (1e-7, np.float64)]
)
def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch, regularization, precision):
    features, labels = problem(300, 500)
    features += 50  # a mean far above the spread
    signs = signed_targets(labels, 3)
    arguments = features, FeatureScaling.of(features), signs - signs.mean(axis=0), None
    double = DualSystem(*arguments)
    monkeypatch.setattr("ckncuda.classifier.normal_equations.MANY", 300)
    single = DualSystem(*arguments)
    assert single.gram.dtype == np.float32
    assert single.solution(regularization).factor.dtype == precision
    for found, expected in (
        (single.left_out_residuals(regularization), double.left_out_residuals(regularization)),
        (single.weights(regularization), double.weights(regularization)),
    ):
        assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("images", "width"), SHAPES)
def test_dual_and_primal_agree(images, width):
    features, labels = problem(images, width)
    signs = signed_targets(labels, 3)
    arguments = features, FeatureScaling.of(features), signs - signs.mean(axis=0), None
    dual, primal = DualSystem(*arguments), PrimalSystem(*arguments)
    for regularization in (1.0, 1e-4):
        np.testing.assert_allclose(dual.weights(regularization), primal.weights(regularization), atol=1e-9)


def test_systems_add_up_over_blocks(monkeypatch):
    features, labels = problem(30, 50)
    signs = signed_targets(labels, 3)
    arguments = features, FeatureScaling.of(features), signs - signs.mean(axis=0), None
    whole = [system(*arguments).weights(1e-3) for system in (DualSystem, PrimalSystem)]
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 50 * 7)
    pieces = [system(*arguments).weights(1e-3) for system in (DualSystem, PrimalSystem)]
    np.testing.assert_allclose(pieces, whole, atol=1e-11)


def test_accuracy_is_leave_one_out_by_hand():
    features, labels = problem(45, 30, seed=4)
    keep = np.sort(np.argsort(labels, kind="stable")[:38])  # classes of unequal size: unequal intercepts
    features, labels = features[keep], labels[keep]
    ridge = Ridge(1e-3).fit(features, labels)
    rows, signs = scaled(features), signed_targets(labels, 3)
    right = 0
    for i in range(38):
        others = np.arange(38) != i
        weights, intercept = textbook(rows[others], signs[others], 38 * 1e-3)
        right += int(np.argmax(rows[i] @ weights + intercept) == labels[i])
    assert ridge.validation_accuracy_ == right / 38
    assert 0 < right < 38
    assert ridge.search_ == [(1e-3, right / 38)]
    assert ridge.validation_ == "leave-one-out over 38 images; λ = 0.001 was given"


@pytest.fixture
def many(monkeypatch):
    """Searches that begin on part of the images from 120 of them on."""
    monkeypatch.setattr("ckncuda.classifier.normal_equations.MANY", 120)
    monkeypatch.setattr("ckncuda.classifier.ridge.FEW", 30)


def test_a_search_that_begins_on_part_of_the_images_ends_where_the_whole_one_does(many):
    features, labels = problem(119, 150, seed=2)
    whole = Ridge().fit(features, labels)
    more, more_labels = problem(120, 150, seed=2)
    ridge = Ridge().fit(more, more_labels)
    assert len(ridge.search_) < len(whole.search_)
    assert ridge.validation_accuracy_ >= whole.validation_accuracy_ - 0.03
    assert ridge.regularization_ == max(ridge.search_, key=lambda tried: (tried[1], tried[0]))[0]
    again = Ridge(ridge.regularization_).fit(more, more_labels)
    assert again.validation_accuracy_ == ridge.validation_accuracy_
    assert again.weights_.tobytes() == ridge.weights_.tobytes()


def test_accuracies_of_a_search_from_few_are_those_of_the_last_half(many):
    features, labels = problem(120, 150, seed=2)
    ridge = Ridge().fit(features, labels)
    signs = signed_targets(labels, 3)
    mean = signs.mean(axis=0)
    system = DualSystem(features, FeatureScaling.of(features), signs - mean, None)
    half = system.order[60:]
    for tried, accuracy in ridge.search_:
        predictions = signs[half] - system.left_out_residuals(tried)[60:]
        assert accuracy == np.mean(predictions.argmax(axis=1) == labels[half])
    assert ridge.validation_.endswith(" was chosen by the same accuracies over 60 of them")
    predictions = signs[system.order] - system.left_out_residuals(ridge.regularization_)
    assert ridge.validation_accuracy_ == np.mean(predictions.argmax(axis=1) == labels[system.order])


def test_the_parts_hold_all_classes_though_they_stand_in_turn(monkeypatch, many):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 450)  # the last images of the file would be of one class
    features = (rng.normal(size=(900, 950)) + 0.2 * labels[:, None] * np.ones(950)).astype(np.float32)
    ridge = Ridge().fit(features, labels)
    monkeypatch.setattr("ckncuda.classifier.normal_equations.MANY", 10_000)
    assert ridge.validation_accuracy_ >= Ridge().fit(features, labels).validation_accuracy_ - 0.01


def test_leave_one_out_of_part_of_the_images_is_that_of_a_kernel_with_a_constant():
    features, labels = problem(40, 60, seed=3)
    scaling = FeatureScaling.of(features)
    signs = signed_targets(labels, int(labels.max()) + 1)
    signs -= signs.mean(axis=0)
    system = DualSystem(features, scaling, signs, None)
    few = system.order[-13:]
    residuals = system.solution(1e-2, last=13).left_out_residuals()
    rows = scaling.block(features)[few]
    gram = rows @ rows.T + 1
    for i in range(len(few)):
        others = np.arange(len(few)) != i
        alpha = np.linalg.solve(
            gram[np.ix_(others, others)] + len(few) * 1e-2 * np.eye(len(few) - 1), signs[few][others]
        )
        expected = signs[few][i] - gram[i, others] @ alpha
        np.testing.assert_allclose(residuals[i], expected, atol=1e-9)


def test_chosen_regularization_is_the_best_that_was_tried():
    features, labels = problem(60, 100, seed=2)
    ridge = Ridge().fit(features, labels)
    best = max(accuracy for _, accuracy in ridge.search_)
    assert ridge.validation_accuracy_ == best
    assert ridge.regularization_ == max(tried for tried, accuracy in ridge.search_ if accuracy == best)
    assert ridge.validation_.startswith("leave-one-out over 60 images; λ = ")
    assert ridge.validation_.endswith(" was chosen by the same accuracies")
    again = Ridge(ridge.regularization_).fit(features, labels)
    assert again.weights_.tobytes() == ridge.weights_.tobytes()


def test_too_small_a_regularization_says_so():
    features, labels = problem(12, 20)
    features = np.repeat(features, 2, axis=0)
    with pytest.raises(InvalidSpec, match=r"regularization 1e-30 is too small.*1e-8"):
        Ridge(1e-30).fit(features, np.repeat(labels, 2))


def test_a_search_goes_on_past_what_near_copies_make_singular(monkeypatch):
    """In single precision the Gram matrix of near-copies is no longer positive definite at the least λ."""
    monkeypatch.setattr("ckncuda.classifier.normal_equations.MANY", 100)
    monkeypatch.setattr("ckncuda.classifier.ridge.FEW", 30)
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10) % 2, 40)
    features = np.tile(rng.normal(size=(10, 500)), (40, 1)) + 1e-5 * rng.normal(size=(400, 500))
    fitted = Ridge().fit(features.astype(np.float32), labels)
    assert fitted.validation_accuracy_ == 1
    with pytest.raises(InvalidSpec, match="too small for these features"):
        Ridge(1e-12).fit(features.astype(np.float32), labels)
