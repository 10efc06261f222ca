import numpy as np
import pytest

from ckncuda import Ridge
from ckncuda.classifier.selection import held_out_split
from ckncuda.errors import InvalidSpec


@pytest.fixture
def problem(rng):
    labels = rng.integers(0, 3, size=200)
    features = rng.normal(size=(200, 30)).astype(np.float32)
    features[np.arange(200), labels] += 1.5
    return features, labels


def test_held_out_images_choose_nothing(problem):
    features, labels = problem
    ridge = Ridge(validation=0.25, seed=3).fit(features, labels)
    kept, held_out = held_out_split(labels, 0.25, 3)
    alone = Ridge().fit(features[kept], labels[kept])
    assert ridge.regularization_ == alone.regularization_
    assert ridge.search_ == alone.search_
    assert ridge.validation_accuracy_ == np.mean(alone.predict(features[held_out]) == labels[held_out])
    assert ridge.validation_ == (
        f"50 images held out of 200; λ = {ridge.regularization_:g} was chosen by leave-one-out over the "
        "others, then all 200 were fitted"
    )


def test_all_images_are_fitted_at_the_end(problem):
    features, labels = problem
    ridge = Ridge(validation=0.25).fit(features, labels)
    everything = Ridge(ridge.regularization_).fit(features, labels)
    assert np.array_equal(ridge.weights_, everything.weights_)


def test_a_given_regularization_is_measured_too(problem):
    ridge = Ridge(0.01, validation=0.1).fit(*problem)
    assert "λ = 0.01 was given, then" in ridge.validation_


@pytest.mark.parametrize(
    "options", [{"validation": 1}, {"validation": -0.1}, {"validation": "a"}, {"seed": -1}]
)
def test_options_out_of_range(problem, options):
    with pytest.raises(InvalidSpec):
        Ridge(**options).fit(*problem)
