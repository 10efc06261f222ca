"""Ridge against the textbook, and its search for λ from few images to all."""

import numpy as np
import pytest
from factories import least_squares, overlapping_classes, scaled_by_the_book

from ckncuda import Ridge, Softmax
from ckncuda.classifier.choice import Choice, halvings
from ckncuda.classifier.systems import FeatureSystem
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, signed_targets
from ckncuda.errors import InvalidSpec


@pytest.mark.parametrize(("images", "width"), [(40, 12), (20, 60), (25, 25), (12, 11)])
@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
def test_scores_are_those_of_the_textbook(images, width, regularization):
    features, labels = overlapping_classes(images, width)
    ridge = Ridge(regularization).fit(features, labels)
    rows = scaled_by_the_book(features)
    weights, intercept = least_squares(rows, signed_targets(labels, 3), images * regularization)
    np.testing.assert_allclose(ridge.scores(features), rows @ weights + intercept, atol=2e-5)


@pytest.fixture
def many(monkeypatch):
    """Searches that begin on part of the images from 120 of them on."""
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 120)
    monkeypatch.setattr("ckncuda.classifier.choice.FEW", 30)


def test_a_search_that_begins_on_part_of_the_images_ends_where_the_whole_one_does(many):
    features, labels = overlapping_classes(119, 150, seed=2)
    whole = Ridge().fit(features, labels)
    more, more_labels = overlapping_classes(120, 150, seed=2)
    ridge = Ridge().fit(more, more_labels)
    assert len(ridge.search_) < len(whole.search_)
    assert ridge.validation_accuracy_ >= whole.validation_accuracy_ - 0.03
    assert ridge.regularization_ == max(ridge.search_, key=lambda tried: (tried[1], tried[0]))[0]
    again = Ridge(ridge.regularization_).fit(more, more_labels)
    assert again.validation_accuracy_ == ridge.validation_accuracy_
    assert again.weights_.tobytes() == ridge.weights_.tobytes()


def test_accuracies_of_a_search_from_few_are_those_of_the_last_half(many):
    features, labels = overlapping_classes(120, 150, seed=2)
    ridge = Ridge().fit(features, labels)
    system = FeatureSystem(TrainingData.of(features, labels), FeatureScaling.of(features), None)

    def right(tried):
        left_out = system.solution(Choice(tried)).left_out_residuals()
        return (signed_targets(labels, 3)[system.order] - left_out).argmax(axis=1) == labels[system.order]

    for tried, accuracy in ridge.search_:
        assert accuracy == np.mean(right(tried)[60:])
    assert ridge.validation_.endswith(" was chosen by the same accuracies over 60 of them")
    assert ridge.validation_accuracy_ == np.mean(right(ridge.regularization_))


def test_the_parts_hold_all_classes_though_they_stand_in_turn(monkeypatch, many):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)  # the last images of the file would be of one class
    features = (rng.normal(size=(300, 320)) + 0.2 * labels[:, None] * np.ones(320)).astype(np.float32)
    system = FeatureSystem(TrainingData.of(features, labels), FeatureScaling.of(features), None)
    for count in halvings(300, 30):
        assert 0.25 < labels[system.order[-count:]].mean() < 0.75
    ridge = Ridge().fit(features, labels)
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 10_000)
    assert ridge.validation_accuracy_ >= Ridge().fit(features, labels).validation_accuracy_ - 0.01


def test_of_many_images_some_are_left_out(monkeypatch):
    features, labels = overlapping_classes(90, 20)
    everything = Ridge(1e-2).fit(features, labels)
    monkeypatch.setattr("ckncuda.classifier.systems.JUDGES", 40)
    some = Ridge(1e-2).fit(features, labels)
    assert some.validation_ == "leave-one-out over 40 of 90 images, drawn at random; λ = 0.01 was given"
    assert some.weights_.tobytes() == everything.weights_.tobytes()
    assert abs(some.validation_accuracy_ - everything.validation_accuracy_) < 0.15


@pytest.mark.parametrize("classifier", [Ridge(1e-30), Softmax(1e-30, validation=0)])
def test_too_small_a_regularization_says_so(classifier):
    features, labels = overlapping_classes(20, 60)
    with pytest.raises(InvalidSpec, match=r"regularization 1e-30 is too small for these features.*1e-8"):
        classifier.fit(np.repeat(features, 2, axis=0), np.repeat(labels, 2))


def test_a_search_goes_on_past_what_near_copies_make_singular(many):
    """In single precision the Gram matrix of near-copies is no longer positive definite at the least λ."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10) % 2, 40)
    features = np.tile(rng.normal(size=(10, 500)), (40, 1)) + 1e-5 * rng.normal(size=(400, 500))
    fitted = Ridge().fit(features.astype(np.float32), labels)
    assert fitted.validation_accuracy_ == 1
    with pytest.raises(InvalidSpec, match="too small for these features"):
        Ridge(1e-12).fit(features.astype(np.float32), labels)
