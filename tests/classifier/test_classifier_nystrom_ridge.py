import json
import math

import numpy as np
import pytest

from ckncuda import ArcCosine, Exponential, KernelRidge, Linear, NystromRidge, Polynomial
from ckncuda.classifier import KernelClassifier, classifier_from_arrays
from ckncuda.errors import InvalidData, InvalidSpec


def problem(images=300, width=12, classes=3, seed=0):
    """Classes that differ in what a linear classifier does not see, beside what it does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = rng.normal(size=(images, width)) * (1 + labels[:, None])
    features[:, 0] += labels
    return features.astype(np.float32), labels


@pytest.mark.parametrize("kernel", [Exponential(sigma=1.0), ArcCosine(1), Polynomial(2, 1.0)], ids=str)
def test_with_all_images_as_landmarks_it_is_kernel_ridge(kernel):
    """But for the intercept, which is not penalised here, and Nyström's jitter."""
    features, labels = problem()
    exact = KernelRidge(kernel, 1e-2).fit(features, labels)
    found = NystromRidge(kernel, 1e-2, landmarks=300).fit(features, labels)
    # Ridge scales its features to a mean squared norm of 1: its λ is measured in other units.
    scale = np.square(exact.scores(features) - found.scores(features)).mean()
    assert scale < 0.01 * np.square(exact.scores(features)).mean()
    assert np.mean(exact.predict(features) == found.predict(features)) > 0.95


def test_scores_are_those_of_ridge_on_the_new_features_written_out():
    features, labels = problem()
    kernel = Exponential(sigma=1.0)
    fitted = NystromRidge(kernel, 1e-3, landmarks=40, seed=3).fit(features, labels)
    x = (features.astype(float) - fitted.scaling_.mean) / fitted.scaling_.norm
    points = fitted.points_.astype(float)
    rows = np.sort(np.random.default_rng(3).permutation(300)[:40])
    np.testing.assert_allclose(points, x[rows], atol=1e-3)

    def gram(a, b):
        norms = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        return norms * np.exp(a @ b.T / norms - 1)

    mapped = np.linalg.solve(np.linalg.cholesky(gram(points, points) + 1e-6 * np.eye(40)), gram(points, x)).T
    centred = mapped - mapped.mean(axis=0)
    size = np.sqrt(np.square(centred).sum(axis=1).mean())
    z, y = centred / size, np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    weights = np.linalg.solve(z.T @ z + 300 * 1e-3 * np.eye(40), z.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(fitted.scores(features), z @ weights + y.mean(axis=0), atol=2e-3)
    inverse = np.linalg.inv(z.T @ z + 300 * 1e-3 * np.eye(40))
    leverage = 1 / 300 + np.einsum("ij,jk,ik->i", z, inverse, z)
    left_out = y - (y - y.mean(axis=0) - z @ weights) / (1 - leverage)[:, None]
    right = np.mean(left_out.argmax(axis=1) == labels)
    assert abs(fitted.validation_accuracy_ - right) <= 1 / 300


def test_more_landmarks_come_nearer_to_kernel_ridge():
    features, labels = problem(600)
    exact = KernelRidge(ArcCosine(1), 1e-2).fit(features, labels).scores(features)
    errors = [
        np.square(
            NystromRidge(ArcCosine(1), 1e-2, landmarks=m).fit(features, labels).scores(features) - exact
        ).mean()
        for m in (10, 50, 400)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_kernel_and_lambda_are_chosen_and_said():
    features, labels = problem()
    fitted = NystromRidge(landmarks=60).fit(features, labels)
    assert fitted.kernels_[0] in {Exponential(sigma=s) for s in (0.35, 0.5, 0.71, 1.0, 1.4, 2.0, 2.8, 4.0)}
    assert "leave-one-out over 300 images; λ = " in fitted.validation_
    assert "60 landmarks; κ = exp(sigma=" in fitted.validation_
    assert "was chosen by leave-one-out over 300 images" in fitted.validation_
    given = NystromRidge(Linear(), 0.1, landmarks=60).fit(features, labels)
    assert given.regularization_ == 0.1
    assert given.validation_.endswith("λ = 0.1 was given; 60 landmarks; κ = linear was given")


def test_images_can_be_held_out():
    features, labels = problem()
    fitted = NystromRidge(ArcCosine(1), landmarks=60, validation=0.2).fit(features, labels)
    assert fitted.validation_.startswith("60 images held out of 300; λ = ")
    assert 0.4 < fitted.validation_accuracy_ <= 1


def test_each_encoder_has_a_kernel_and_a_weight():
    features, labels = problem()
    fitted = NystromRidge(Linear(), 1e-2, weights=[1, 3], landmarks=50).fit(features, labels, widths=(5, 7))
    assert fitted.weights_ == (0.25, 0.75)
    assert fitted.widths_ == (5, 7)
    chosen = NystromRidge(landmarks=50).fit(features, labels, widths=(5, 7))
    assert len(chosen.kernels_) == 2
    assert math.isclose(sum(chosen.weights_), 1)


def test_a_rebuilt_classifier_predicts_the_same():
    features, labels = problem()
    fitted = NystromRidge(ArcCosine(1), landmarks=50).fit(features, 3 * labels)
    again = classifier_from_arrays(json.loads(json.dumps(fitted.to_dict())), fitted.arrays())
    assert type(again) is KernelClassifier
    assert again.scores(features).tobytes() == fitted.scores(features).tobytes()
    assert again.classes_.tolist() == [0, 3, 6]
    assert again.points_.shape == (50, 12)


def test_same_seed_same_arrays_and_another_seed_other_landmarks():
    features, labels = problem()
    first, second, other = (
        NystromRidge(ArcCosine(1), 1e-3, landmarks=50, seed=seed).fit(features, labels) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first.arrays()[name], second.arrays()[name]) for name in first.arrays())
    assert not np.array_equal(first.points_, other.points_)


def test_equal_images_and_few_images_are_no_trouble():
    features, labels = problem(40)
    twice, both = np.concatenate([features, features]), np.concatenate([labels, labels])
    assert np.isfinite(NystromRidge(ArcCosine(1)).fit(twice, both).scores(features)).all()
    few = NystromRidge(ArcCosine(1), 1e-2).fit(features[:3], [0, 1, 1])
    assert np.isfinite(few.scores(features)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"landmarks": 1}, "landmarks is 1; expected a whole number of at least 2"),
        ({"landmarks": 2.5}, "landmarks is 2.5"),
        ({"kernel": "gauss"}, "kernel is 'gauss'"),
        ({"regularization": 0}, "regularization is 0"),
        ({"weights": [-1]}, "weights are"),
        ({"validation": 2.0}, "validation is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(InvalidSpec, match=words):
        NystromRidge(**options).fit(*problem(20))


def test_widths_and_weights_that_do_not_fit():
    features, labels = problem(20)
    with pytest.raises(InvalidData, match="there are 12 features"):
        NystromRidge(Linear()).fit(features, labels, widths=(5, 6))
    with pytest.raises(InvalidSpec, match="3 weights were given for 2 encoders"):
        NystromRidge(Linear(), weights=[1, 1, 1]).fit(features, labels, widths=(5, 7))


def test_labels_of_held_out_images_choose_nothing(monkeypatch):
    features, labels = problem(300, classes=2)
    kept, held_out = np.split(np.random.default_rng(0).permutation(300), [180])
    for module in ("ridge", "nystrom_ridge"):
        monkeypatch.setattr(f"ckncuda.classifier.{module}.held_out_split", lambda *_: (kept, held_out))
    swapped = labels.copy()
    swapped[held_out] = 1 - swapped[held_out]
    first, second = (
        NystromRidge(landmarks=40, validation=0.4).fit(features, y, widths=(5, 7)) for y in (labels, swapped)
    )
    assert first.kernels_ == second.kernels_
    assert first.weights_ == second.weights_
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
    features, labels = problem()
    fitted = NystromRidge(Linear(), landmarks=50).fit(features, labels, widths=(5, 7))
    assert fitted.kernels_ == (Linear(), Linear())
    assert "κ = linear, weights " in fitted.validation_
    assert fitted.validation_.endswith("chosen by leave-one-out over 300 images, but for what was given")
