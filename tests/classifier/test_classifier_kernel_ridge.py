"""Kernel ridge regression against brute force: refits without each image, solutions in float64."""

import itertools
import json
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Series
from ckncuda.classifier import (
    KernelClassifier,
    KernelRidge,
    LinearClassifier,
    Ridge,
    Softmax,
    TrainableClassifier,
    classifier_from_arrays,
)
from ckncuda.classifier.kernel import homogeneous, normalized_weights
from ckncuda.classifier.kernel_ridge import LAMBDAS, SIGMAS, WEIGHTS, _System
from ckncuda.classifier.scaling import FeatureScaling, check_widths, parts
from ckncuda.classifier.selection import climb, halvings, held_out_split
from ckncuda.classifier.training_data import signed_targets
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.layer.dot_product import KERNELS, kernel_from_dict

SOME_KERNELS = [
    Exponential(sigma=1.0),
    Exponential(sigma=0.35),
    ArcCosine(0),
    ArcCosine(1),
    Linear(),
    Polynomial(3, offset=0.5),
    InversePolynomial(),
    Series([0.1, 0.5, 0.0, 0.4]),
]


def problem(images=40, width=12, classes=3, seed=0):
    """Features far from zero of classes that overlap."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, width))
    return (3 + 0.5 * centres[labels] + rng.normal(size=(images, width))).astype(np.float32), labels


def rings(images=120, seed=0):
    """Two rings, one inside the other: uneven in all but the distance from the middle."""
    rng = np.random.default_rng(seed)
    angle, labels = rng.uniform(0, 2 * np.pi, size=images), np.arange(images) % 2
    radius = 1 + labels + 0.3 * rng.normal(size=images)
    return (radius * np.array([np.cos(angle), np.sin(angle)])).T.astype(np.float32), labels


def scaled(features, widths):
    """Features of each encoder centred, of the mean squared norm 1/(number of encoders), by the book."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    for columns in parts(widths):
        centred[:, columns] /= np.sqrt((centred[:, columns] ** 2).sum() / len(centred) * len(widths))
    return centred


def kernel_matrix(x, y, widths, kernels, weights):
    """Σ_g w_g ‖x_g‖ ‖y_g‖ κ_g(cos(x_g, y_g)) [n, m] in float64, pair by pair."""
    total = np.zeros((len(x), len(y)))
    for columns, kernel, weight in zip(parts(widths), kernels, weights, strict=True):
        for i, j in np.ndindex(total.shape):
            a, b = x[i, columns].astype(np.float64), y[j, columns].astype(np.float64)
            length = math.sqrt(a @ a) * math.sqrt(b @ b)
            cosine = np.array(a @ b / length if length else 0.0)
            total[i, j] += weight * length * float(kernel.value(cosine))
    return total


def system_of(features, labels, widths=None):
    widths = check_widths(widths, features.shape[1])
    signs = signed_targets(np.unique(labels, return_inverse=True)[1], len(np.unique(labels)))
    return _System(features, FeatureScaling.of(features, widths), widths, signs, None)


def learned(classifier):
    return {name: array.tobytes() for name, array in classifier.arrays().items()}


CASES = [
    *((kernel, None, None) for kernel in SOME_KERNELS),
    (Exponential(sigma=0.7), (5, 7), (1.0, 1.0)),
    (ArcCosine(1), (5, 7), (1.0, 3.0)),
    (Exponential(sigma=2.0), (3, 4, 5), (1.0, 0.0, 0.25)),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].to_dict()['kernel']} {case[1:] if case[1] else ''}")
def case(request):
    """Options, widths and the kernels and weights that follow from them."""
    kernel, widths, weights = request.param
    options = {"kernel": kernel} | ({} if weights is None else {"weights": weights})
    many = 1 if widths is None else len(widths)
    shares = (1.0,) if weights is None else tuple(w / sum(weights) for w in weights)
    return options, widths or (12,), (kernel,) * many, shares


# ---- The fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
def test_dual_coefficients_solve_the_system(case, regularization):
    options, widths, kernels, weights = case
    features, labels = problem()
    fitted = KernelRidge(regularization=regularization, **options).fit(features, labels, widths=widths)
    assert (fitted.kernels_, fitted.weights_, fitted.widths_) == (kernels, pytest.approx(weights), widths)
    assert fitted.points_.dtype == np.float16
    np.testing.assert_allclose(fitted.points_, scaled(features, widths), rtol=2.0**-11, atol=1e-7)
    gram = kernel_matrix(fitted.points_, fitted.points_, widths, kernels, weights) + 1
    expected = np.linalg.solve(gram + 40 * regularization * np.eye(40), signed_targets(labels, 3))
    np.testing.assert_allclose(fitted.dual_, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
def test_left_out_residuals_are_those_of_refits(case, regularization):
    _, widths, kernels, weights = case
    features, labels = problem()
    system = system_of(features, labels, widths)
    gram = kernel_matrix(system.points, system.points, widths, kernels, weights) + 1
    for last in (40, 17):
        part, targets = gram[-last:, -last:], system.targets[-last:]
        expected = np.empty_like(targets)
        for i in range(last):
            others = np.arange(last) != i
            penalty = last * regularization * np.eye(last - 1)
            alpha = np.linalg.solve(part[np.ix_(others, others)] + penalty, targets[others])
            expected[i] = targets[i] - part[i, others] @ alpha
        arguments = kernels, weights, regularization, last
        few = system.solution(*arguments).left_out_residuals(5)
        np.testing.assert_allclose(few, expected[-5:], rtol=1e-6, atol=1e-8)
        found = system.solution(*arguments).left_out_residuals()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
def test_accuracy_is_leave_one_out_by_hand(classes):
    features, labels = problem(37, 6, classes, seed=4)
    kernel = Exponential(sigma=1.0)
    fitted = KernelRidge(kernel, 1e-2).fit(features, labels + 3)
    gram = kernel_matrix(fitted.points_, fitted.points_, (6,), [kernel], [1.0]) + 1
    right = 0
    for i in range(37):
        others = np.arange(37) != i
        alpha = np.linalg.solve(
            gram[np.ix_(others, others)] + 0.37 * np.eye(36), signed_targets(labels, classes)[others]
        )
        right += int(np.argmax(gram[i, others] @ alpha) == labels[i])
    assert fitted.validation_accuracy_ == right / 37
    assert 0 < right < 37
    assert fitted.validation_ == ("leave-one-out over 37 images; κ = exp(sigma=1), λ = 0.01 were given")


def test_scores_are_sums_over_the_training_images(case):
    options, widths, kernels, weights = case
    features, labels = problem(60)
    fitted = KernelRidge(regularization=1e-2, **options).fit(features[:40], labels[:40], widths=widths)
    new = (features - fitted.scaling_.mean) / fitted.scaling_.norm
    gram = kernel_matrix(new, fitted.points_, widths, kernels, weights) + 1
    # Rounding to 1e-7 of a cosine near 1 is one to 1e-4 of κ_0, whose slope is infinite there.
    tolerance = 1e-3 if options["kernel"] == ArcCosine(0) else 1e-4
    np.testing.assert_allclose(fitted.scores(features), gram @ fitted.dual_, atol=tolerance)
    assert fitted.predict(features).tolist() == (gram @ fitted.dual_).argmax(axis=1).tolist()


def test_scores_of_the_training_images_are_what_was_fitted():
    """(K + 11ᵀ) α = Y − nλα, but for the rounding of the training images that are kept."""
    features, labels = problem()
    fitted = KernelRidge(Exponential(sigma=1.0), 1e-2).fit(features, labels)
    expected = signed_targets(labels, 3) - 40 * 1e-2 * fitted.dual_
    np.testing.assert_allclose(fitted.scores(features), expected, atol=5e-3)
    # Of images that are rounded as the kept ones are, nothing is left of it.
    kept = fitted.points_.astype(np.float64) * fitted.scaling_.norm + fitted.scaling_.mean
    features = kept.astype(np.float32)
    np.testing.assert_allclose(fitted.scores(features), expected, atol=1e-4)


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4])
def test_a_linear_kernel_is_ridge_with_an_intercept_that_is_penalized_too(regularization):
    """Centred features leave the intercept alone: it is Ȳ/(1 + λ) instead of Ȳ."""
    features, labels = problem(40, 12)
    keep = np.sort(np.argsort(labels, kind="stable")[:33])  # classes of unequal size: unequal intercepts
    features, labels = features[keep], labels[keep]
    mean = signed_targets(labels, 3).mean(axis=0)
    assert np.ptp(mean) > 0.1
    expected = Ridge(regularization).fit(features, labels).scores(features) - mean
    found = KernelRidge(Linear(), regularization).fit(features, labels).scores(features)
    np.testing.assert_allclose(found - mean / (1 + regularization), expected, atol=3e-3)


@pytest.mark.parametrize("regularization", [1e-2, 1e-5, 1e-7])
def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch, regularization):
    features, labels = problem(150, 300)
    arguments = (Exponential(sigma=1.0), Exponential(sigma=2.0)), (0.5, 0.5), regularization
    double = system_of(features, labels, (100, 200))
    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.MANY", 150)
    single = system_of(features, labels, (100, 200))
    assert [products.dtype for products in single.products] == [np.float32] * 2
    assert np.array_equal(single.points, double.points)
    precision = np.float64 if regularization < 1e-6 else np.float32
    assert single.solution(*arguments).factor.dtype == precision
    a, b = (system.solution(*arguments) for system in (single, double))
    np.testing.assert_allclose(a.alpha, b.alpha, atol=1e-3 * np.abs(b.alpha).max())
    a, b = a.left_out_residuals(), b.left_out_residuals()
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def test_systems_and_scores_are_the_same_in_blocks(monkeypatch):
    features, labels = problem(30, 50)

    def fit():
        return KernelRidge(ArcCosine(1), 1e-2, [1, 2]).fit(features, labels, widths=(20, 30))

    whole = fit()
    scores = whole.scores(features)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 50 * 7)
    pieces = fit()
    assert np.array_equal(pieces.points_, whole.points_)
    np.testing.assert_allclose(pieces.dual_, whole.dual_, atol=1e-5)
    np.testing.assert_allclose(whole.scores(features), scores, atol=1e-6)


def test_permuted_images_have_permuted_coefficients():
    features, labels = problem()
    order = np.random.default_rng(1).permutation(40)
    first, second = (
        KernelRidge(Exponential(sigma=1.0), 1e-3).fit(features[rows], labels[rows])
        for rows in (np.arange(40), order)
    )
    np.testing.assert_allclose(second.points_, first.points_[order], atol=1e-3)
    np.testing.assert_allclose(second.dual_, first.dual_[order], atol=2e-2 * np.abs(first.dual_).max())
    assert second.validation_accuracy_ == first.validation_accuracy_
    np.testing.assert_allclose(second.scores(features), first.scores(features), atol=2e-3)


def test_features_and_labels_are_not_changed():
    features, labels = problem()
    before = features.tobytes(), labels.tobytes()
    KernelRidge().fit(features, labels).scores(features)
    assert (features.tobytes(), labels.tobytes()) == before


# ---- Few, equal and strange images -----------------------------------------------------------------------


@pytest.mark.parametrize("images", [2, 3, 4, 5])
@pytest.mark.parametrize("kernel", ["auto", ArcCosine(0), Linear()], ids=str)
def test_a_few_images_are_enough(images, kernel):
    features, labels = problem(images, 4, classes=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = KernelRidge(kernel).fit(features, labels)
        scores = fitted.scores(features)
    assert np.isfinite(scores).all()
    assert 0 <= fitted.validation_accuracy_ <= 1
    again = KernelRidge(kernel, 1e-3).fit(features, labels)
    assert again.predict(features).tolist() == labels.tolist()


@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
def test_an_image_equal_to_the_mean_has_no_direction_and_does_no_harm(kernel):
    half, labels = problem(20, 6, classes=2, seed=3)
    features = np.concatenate([half - 3, 3 - half, np.zeros((1, 6), np.float32)]).round(1)
    labels = np.concatenate([labels, 1 - labels, [1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = KernelRidge(kernel, 1e-2).fit(features, labels)
        scores = fitted.scores(features)
    assert not fitted.points_[40].any()
    assert np.isfinite(fitted.dual_).all()
    # Of it all kernels are 0: what is left is the constant of the intercept.
    np.testing.assert_allclose(scores[40], fitted.dual_.sum(axis=0), atol=1e-5)


def test_constant_features_count_for_nothing():
    features, labels = problem()
    constant = np.full((40, 3), 7.3, np.float32)
    options = {"kernel": Exponential(sigma=1.0), "regularization": 1e-2}
    expected = KernelRidge(**options).fit(features, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within = KernelRidge(**options).fit(np.hstack([features, constant]), labels)
        beside = KernelRidge(**options, weights=[1, 1]).fit(
            np.hstack([features, constant]), labels, widths=[12, 3]
        )
        chosen = KernelRidge().fit(np.hstack([constant, features]), labels, widths=[3, 12])
    np.testing.assert_allclose(within.dual_, expected.dual_, atol=1e-3)
    assert not beside.points_[:, 12:].any()
    np.testing.assert_allclose(beside.points_[:, :12], expected.points_ / math.sqrt(2), atol=1e-3)
    for fitted in (within, beside, chosen):
        assert np.isfinite(fitted.scores(np.zeros((2, 15), np.float32))).all()
        assert fitted.validation_accuracy_ > 1 / 3


def test_images_that_are_there_many_times_do_not_end_the_search(monkeypatch):
    """The least λ are too small for the precision then: others are chosen."""
    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.MANY", 100)
    features, labels = problem(20, 20)
    features, labels = np.repeat(features, 6, axis=0), np.repeat(labels, 6)
    features += np.random.default_rng(0).normal(scale=1e-4, size=features.shape).astype(np.float32)
    with pytest.raises(InvalidSpec, match=r"regularization 1e-08 is too small for these features"):
        KernelRidge(regularization=1e-8, kernel=Exponential(sigma=0.35)).fit(features, labels)
    fitted = KernelRidge().fit(features, labels)
    assert fitted.validation_accuracy_ == 1
    assert fitted.regularization_ > 1e-8


def test_classes_may_be_any_labels():
    features, labels = problem()
    names = np.array([4, 17, 1000])
    expected, fitted = (
        KernelRidge(ArcCosine(1), 1e-2).fit(features, each) for each in (labels, names[labels])
    )
    assert fitted.classes_.tolist() == [4, 17, 1000]
    assert fitted.classes_.dtype == np.int64
    assert fitted.scores(features).tobytes() == expected.scores(features).tobytes()
    assert fitted.predict(features).tolist() == names[expected.predict(features)].tolist()
    other = KernelRidge(ArcCosine(1), 1e-2).fit(features, names[[1, 2, 0]][labels])
    np.testing.assert_allclose(other.scores(features)[:, [1, 2, 0]], expected.scores(features), atol=1e-5)


@settings(max_examples=15)
@given(shift=st.floats(-50, 50), factor=st.floats(1e-3, 1e3))
def test_scores_do_not_depend_on_the_place_and_scale_of_each_encoders_features(shift, factor):
    features, labels = problem()
    moved = features.copy()
    moved[:, 5:] = (features[:, 5:].astype(np.float64) + shift) * factor
    first, second = (
        KernelRidge(Exponential(sigma=1.0), 1e-2, [1, 1]).fit(x, labels, widths=(5, 7)).scores(x)
        for x in (features, moved)
    )
    np.testing.assert_allclose(second, first, atol=1e-2)


# ---- What is chosen --------------------------------------------------------------------------------------


def test_a_kernel_sees_what_no_line_separates():
    features, labels = rings()
    assert Ridge().fit(features, labels).validation_accuracy_ < 0.7
    fitted = KernelRidge().fit(features, labels)
    assert fitted.validation_accuracy_ > 0.85
    unseen, true = rings(seed=1)
    assert np.mean(fitted.predict(unseen) == true) > 0.85


@pytest.fixture
def few(monkeypatch):
    """Searches that begin on 20 to 40 images, of which half judge from 40 on."""
    monkeypatch.setattr("ckncuda.classifier.kernel_ridge.FEW", 20)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("widths", [None, (5, 7)])
def test_what_is_chosen_is_at_least_as_good_as_its_neighbours(few, widths, seed):
    features, labels = problem(90, seed=seed)
    fitted = KernelRidge().fit(features, labels, widths=widths)
    system = system_of(features, labels, widths)

    def accuracy(regularization, sigmas, weights):
        kernels = [Exponential(sigma=SIGMAS[place]) for place in sigmas]
        shares = normalized_weights([1.0, *(WEIGHTS[place] for place in weights)])
        solution = system.solution(kernels, shares, LAMBDAS[regularization])
        return system.accuracy(solution.left_out_residuals(45))

    regularization = LAMBDAS.index(fitted.regularization_)
    sigmas = [SIGMAS.index(kernel.sigma) for kernel in fitted.kernels_]
    shares = [weight / fitted.weights_[0] for weight in fitted.weights_[1:]]
    weights = [WEIGHTS.index(share) for share in shares]
    best = accuracy(regularization, sigmas, weights)
    assert best > 1 / 3
    for step in (-1, 1):
        if 0 <= regularization + step < len(LAMBDAS):
            assert accuracy(regularization + step, sigmas, weights) <= best
        for places, table in ((sigmas, SIGMAS), (weights, WEIGHTS)):
            for axis in range(len(places)):
                places[axis] += step
                if 0 <= places[axis] < len(table):
                    assert accuracy(regularization, sigmas, weights) <= best
                places[axis] -= step


def test_what_is_chosen_is_fitted_as_if_it_had_been_given(few):
    features, labels = problem(90, seed=2)
    fitted = KernelRidge().fit(features, labels)
    again = KernelRidge(fitted.kernels_[0], fitted.regularization_).fit(features, labels)
    assert learned(again) == learned(fitted)
    assert again.validation_accuracy_ == fitted.validation_accuracy_
    assert "of them" in fitted.validation_
    assert "of them" not in again.validation_


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "κ = {k}, weights {w}, λ = {r} were chosen by {by}"),
        ({"regularization": 0.01}, "κ = {k}, weights {w} were chosen by {by}; λ = 0.01 was given"),
        ({"kernel": ArcCosine(1)}, "weights {w}, λ = {r} were chosen by {by}; κ = arccos1 was given"),
        (
            {"weights": [3, 1]},
            "κ = {k}, λ = {r} were chosen by {by}; weights 0.75 : 0.25 was given",
        ),
        (
            {"kernel": Polynomial(2, 0.5), "regularization": 0.1},
            "weights {w} was chosen by {by}; κ = poly(degree=2, offset=0.5), λ = 0.1 were given",
        ),
        (
            {"kernel": Linear(), "regularization": 0.1, "weights": (0, 1)},
            "κ = linear, weights 0 : 1, λ = 0.1 were given",
        ),
    ],
)
def test_what_is_given_is_kept_and_said(few, options, sentence):
    features, labels = problem(90, seed=1)
    fitted = KernelRidge(**options).fit(features, labels, widths=(5, 7))
    if "regularization" in options:
        assert fitted.regularization_ == options["regularization"]
    else:
        assert fitted.regularization_ in LAMBDAS
    if "kernel" in options:
        assert fitted.kernels_ == (options["kernel"],) * 2
    else:
        assert all(kernel.sigma in SIGMAS for kernel in fitted.kernels_)
    if "weights" in options:
        assert fitted.weights_ == tuple(w / sum(options["weights"]) for w in options["weights"])
    else:
        assert fitted.weights_[1] / fitted.weights_[0] in WEIGHTS
    assert sum(fitted.weights_) == pytest.approx(1)
    words = sentence.format(
        k=", ".join(
            dict.fromkeys(f"exp(sigma={kernel.to_dict().get('sigma')})" for kernel in fitted.kernels_)
        ),
        w=" : ".join(f"{weight:.2g}" for weight in fitted.weights_),
        r=f"{fitted.regularization_:g}",
        by="the same accuracies over 45 of them",
    ).replace(".0)", ")")
    assert fitted.validation_ == f"leave-one-out over 90 images; {words}"


def test_with_one_encoder_nothing_is_said_of_weights():
    features, labels = problem()
    for weights in ("auto", [2.5]):
        fitted = KernelRidge(Linear(), 0.1, weights).fit(features, labels)
        assert fitted.weights_ == (1.0,)
        assert fitted.validation_ == "leave-one-out over 40 images; κ = linear, λ = 0.1 were given"


def test_weights_choose_the_encoder_that_tells_more():
    features, labels = rings(80)
    noise = np.random.default_rng(5).normal(size=(80, 5)).astype(np.float32)
    options = {"kernel": Exponential(sigma=1.0), "regularization": 1e-2}
    first = KernelRidge(**options).fit(np.hstack([features, noise]), labels, widths=(2, 5))
    second = KernelRidge(**options).fit(np.hstack([noise, features]), labels, widths=(5, 2))
    assert first.weights_[0] > first.weights_[1]
    assert second.weights_[1] > second.weights_[0]


def test_a_weight_of_zero_leaves_an_encoder_out():
    features, labels = problem()
    other = problem(seed=9)[0]
    first, second = (
        KernelRidge(ArcCosine(1), 1e-2, [1, 0]).fit(np.hstack([features, x]), labels, widths=(12, 12))
        for x in (features, other)
    )
    np.testing.assert_allclose(second.dual_, first.dual_, atol=1e-6)
    assert second.validation_accuracy_ == first.validation_accuracy_


def test_held_out_images_choose_nothing():
    features, labels = problem(100)
    fitted = KernelRidge(validation=0.2, seed=3).fit(features, labels)
    kept, held_out = held_out_split(labels, 0.2, 3)
    alone = KernelRidge().fit(features[kept], labels[kept])
    assert (fitted.kernels_, fitted.regularization_) == (alone.kernels_, alone.regularization_)
    assert fitted.validation_accuracy_ == np.mean(alone.predict(features[held_out]) == labels[held_out])
    assert fitted.validation_ == (
        f"20 images held out of 100; κ = exp(sigma={fitted.kernels_[0].sigma:g}), "
        f"λ = {fitted.regularization_:g} were chosen by leave-one-out over the others, "
        "then all 100 were fitted"
    )
    everything = KernelRidge(fitted.kernels_[0], fitted.regularization_).fit(features, labels)
    assert learned(fitted) == learned(everything)


@pytest.mark.parametrize("options", [{}, {"regularization": 1e-2}, {"validation": 0.2}])
def test_progress_is_reported(options):
    features, labels = problem(100)
    calls = []
    KernelRidge(**options).fit(features, labels, lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"Gram matrix", "choosing kernel and λ"}
    assert all(1 <= done <= total for _, done, total in calls)
    calls.clear()
    given = KernelRidge(Linear(), 1e-2, [1, 1])
    given.fit(features, labels, lambda *call: calls.append(call), widths=(4, 8))
    assert calls == [("Gram matrix", 4, 12), ("Gram matrix", 12, 12)]


@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize("stage", ["Gram matrix", "choosing kernel and λ"])
def test_an_interrupted_fit_leaves_the_previous_one(stage, validation):
    features, labels = problem(100)
    fitted = KernelRidge(validation=validation).fit(features, labels, widths=(5, 7))
    before, scores = dict(vars(fitted)), fitted.scores(features).tobytes()

    def interrupt(now, done, total):
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted.fit(features[::2, :8] + 1, labels[1::2], progress=interrupt)
    with pytest.raises(InvalidData):
        fitted.fit(features, labels[1:])
    assert {name: value for name, value in vars(fitted).items() if name != "_prepared"} == before
    assert fitted.scores(features).tobytes() == scores


def test_a_second_fit_forgets_the_first():
    features, labels = problem()
    classifier = KernelRidge(ArcCosine(1), 1e-2).fit(features, labels)
    classifier.scores(features)
    classifier.fit(features[:30, :7], labels[:30] + 1, widths=(3, 4))
    fresh = KernelRidge(ArcCosine(1), 1e-2).fit(features[:30, :7], labels[:30] + 1, widths=(3, 4))
    assert classifier.weights_ == fresh.weights_
    assert classifier.scores(features[:, :7]).tobytes() == fresh.scores(features[:, :7]).tobytes()


# ---- What is stored --------------------------------------------------------------------------------------


def rebuilt(fitted):
    """As from a model file."""
    return classifier_from_arrays(json.loads(json.dumps(fitted.to_dict())), fitted.arrays())


@pytest.mark.parametrize(
    "weights", [[1, 2], np.array([1, 2]), np.array([1, 2], np.float32), "auto"], ids=repr
)
@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
def test_a_rebuilt_classifier_predicts_the_same(kernel, weights):
    features, labels = problem()
    fitted = KernelRidge(kernel, 1e-2, weights).fit(features, labels * 3, widths=np.array([5, 7]))
    again = rebuilt(fitted)
    assert type(again) is KernelClassifier
    assert again.to_dict() == fitted.to_dict()
    assert learned(again) == learned(fitted)
    assert again.scores(features).tobytes() == fitted.scores(features).tobytes()
    assert again.predict(features).tolist() == fitted.predict(features).tolist()
    assert (again.n_features, again.n_parameters) == (12, 40 * 12 + 40 * 3 + 3)
    assert (fitted.n_features, fitted.n_parameters) == (12, 40 * 12 + 40 * 3 + 3)
    assert not isinstance(again, TrainableClassifier)
    assert isinstance(fitted, TrainableClassifier)


@pytest.mark.parametrize("kind", [Ridge, Softmax])
def test_linear_classifiers_are_rebuilt_from_what_they_give(kind):
    features, labels = problem()
    fitted = kind(1e-2).fit(features, labels, widths=(5, 7))
    assert fitted.to_dict() == {"name": "linear"}
    again = rebuilt(fitted)
    assert type(again) is LinearClassifier
    assert learned(again) == learned(fitted)
    assert again.scores(features).tobytes() == fitted.scores(features).tobytes()
    with pytest.raises(ValueError, match="there is no classifier 'magic'"):
        classifier_from_arrays({"name": "magic"}, fitted.arrays())


def test_each_encoders_features_have_the_same_length_for_linear_classifiers_too():
    features, labels = problem()
    stretched = features.copy()
    stretched[:, 5:] *= 1000
    first, second = (Ridge(1e-2).fit(x, labels, widths=(5, 7)) for x in (features, stretched))
    np.testing.assert_allclose(first.scores(features), second.scores(stretched), atol=1e-4)
    alone = Ridge(1e-2).fit(stretched, labels).scores(stretched)
    assert np.abs(alone - first.scores(features)).max() > 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dual": np.ones((39, 3))}, r"points \(40, 12\), dual \(39, 3\).*expected \[n, d\]"),
        ({"dual": np.ones((40, 2))}, r"dual \(40, 2\)"),
        ({"points": np.ones(40)}, r"points \(40,\)"),
        ({"intercept": np.ones(2)}, r"intercept \(2,\)"),
        ({"intercept": np.full(3, np.nan)}, r"NaN, infinity or a norm of 0"),
        ({"mean": np.ones(11)}, r"mean \(11,\)"),
        ({"norm": np.ones((12, 1))}, r"norm \(12, 1\)"),
        ({"classes": np.array([0, 1])}, r"classes \(2,\)"),
        ({"classes": np.array([0, 2, 1])}, r"\[0, 2, 1\]; expected each class once, in increasing order"),
        ({"classes": np.array([0, 1, 1])}, r"in increasing order"),
        ({"classes": np.array([-1, 0, 1])}, r"label -1 of image 0 is negative"),
        ({"dual": np.ones((40, 1)), "classes": np.array([0])}, r"do not make a classifier"),
        ({"points": np.full((40, 12), np.nan)}, r"NaN, infinity or a norm of 0"),
        ({"points": np.full((40, 12), 1e6)}, r"NaN, infinity or a norm of 0"),
        ({"dual": np.full((40, 3), np.inf)}, r"NaN, infinity or a norm of 0"),
        ({"mean": np.full(12, np.nan)}, r"NaN, infinity or a norm of 0"),
        ({"norm": np.zeros(12)}, r"NaN, infinity or a norm of 0"),
        ({"widths": [5, 8]}, r"12 features, but the encoders are said to give 5 \+ 8"),
        ({"widths": [12, 0]}, r"said to give 12 \+ 0"),
        ({"widths": [4.5, 7.5]}, r"said to give 4 \+ 7"),
        ({"widths": [12]}, r"2 kernels, 2 weights and 1 encoders"),
        ({"weights": [1.0]}, r"2 kernels, 1 weights and 2 encoders"),
        ({"kernels": [{"kernel": "linear"}]}, r"1 kernels, 2 weights and 2 encoders"),
        ({"weights": [1.0, float("nan")]}, r"weights are \(1.0, nan\)"),
        ({"weights": [2.0, -1.0]}, r"weights are \(2.0, -1.0\)"),
        ({"kernels": [{"kernel": "exp", "quantile": 0.1}] * 2}, r"a quantile where its sigma is expected"),
        ({"kernels": [{"kernel": "gauss"}] * 2}, r"there is no kernel 'gauss'"),
    ],
)
def test_arrays_that_make_no_classifier_are_refused(changes, words):
    features, labels = problem()
    fitted = KernelRidge(ArcCosine(1), 1e-2).fit(features, labels, widths=(5, 7))
    options, arrays = fitted.to_dict(), fitted.arrays()
    for name, value in changes.items():
        assert name in options or name in arrays
        (options if name in options else arrays)[name] = value
    with pytest.raises((InvalidData, InvalidSpec), match=words):
        KernelClassifier.from_arrays(options, arrays)


# ---- What is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": "exp"}, r"kernel is 'exp'; expected a kernel such as ArcCosine\(1\), or .auto."),
        ({"kernel": None}, r"kernel is None"),
        ({"kernel": Exponential}, r"kernel is <class"),
        ({"kernel": Exponential(quantile=0.1)}, r"takes sigma, not quantile"),
        ({"regularization": 0}, r"regularization is 0; expected .auto. or a number greater than 0"),
        ({"regularization": float("inf")}, r"regularization is inf"),
        ({"regularization": "best"}, r"regularization is 'best'"),
        ({"weights": "equal"}, r"weights are 'equal'; expected numbers, or .auto."),
        ({"weights": []}, r"weights are \[\]; expected numbers that are not negative, one positive"),
        ({"weights": [0, 0.0]}, r"weights are \[0, 0.0\]"),
        ({"weights": [1, -1]}, r"weights are \[1, -1\]"),
        ({"weights": [1, float("nan")]}, r"weights are \[1, nan\]"),
        ({"weights": [1, float("inf")]}, r"weights are \[1, inf\]"),
        ({"weights": [1, "2"]}, r"weights are \[1, '2'\]"),
        ({"weights": None}, r"weights are None"),
        ({"weights": 2.0}, r"weights are 2.0"),
        ({"validation": 1}, r"validation is 1; expected a fraction"),
        ({"validation": -0.1}, r"validation is -0.1"),
        ({"validation": "a"}, r"validation is 'a'"),
        ({"seed": -1}, r"seed is -1"),
        ({"seed": 0.5}, r"seed is 0.5"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InvalidSpec, match=words):
        KernelRidge(**options).check_options()
    with pytest.raises(InvalidSpec, match=words):
        KernelRidge(**options).fit(*problem())


def test_as_many_weights_as_encoders_are_needed():
    features, labels = problem()
    for weights, widths in (([1, 1], None), ([1], (5, 7)), ([1, 1, 1], (5, 7))):
        with pytest.raises(InvalidSpec, match=rf"{len(weights)} weights were given for [12] encoders"):
            KernelRidge(weights=weights).fit(features, labels, widths=widths)


@pytest.mark.parametrize("kind", [KernelRidge, Ridge, Softmax])
@pytest.mark.parametrize("widths", [(5, 6), (13,), (12, 0), (-1, 13), ()])
def test_widths_that_are_not_those_of_the_features_are_refused(kind, widths):
    said = r" \+ ".join(map(str, widths))
    with pytest.raises(InvalidData, match=rf"12 features, but the encoders are said to give {said}"):
        kind().fit(*problem(), widths=widths)


FEATURES, LABELS = problem()


def spoiled(value):
    features = FEATURES.copy()
    features[7, 3] = value
    return features


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (FEATURES, LABELS[:-1], r"39 labels .* 40 images"),
        (FEATURES, np.zeros(40, int), r"all 40 labels are 0.*two classes"),
        (FEATURES, LABELS - 1, r"label -1 of image 0 is negative"),
        (FEATURES, LABELS / 2, r"float64.*expected integers"),
        (FEATURES[0], LABELS, r"shape \(12,\).*\[images, features\]"),
        (FEATURES[:0], LABELS[:0], r"shape \(0, 12\)"),
        (spoiled(np.nan), LABELS, r"image 7 hold NaN or infinity"),
        (spoiled(np.inf), LABELS, r"image 7 hold NaN or infinity"),
        (np.full((40, 4), 0.1, np.float32), LABELS, r"features of all 40 images are equal"),
    ],
)
def test_bad_data_is_refused(features, labels, words):
    with pytest.raises(InvalidData, match=words):
        KernelRidge().fit(features, labels)


def test_classes_of_one_image_cannot_be_held_out():
    with pytest.raises(InvalidData, match="each of the 4 classes has one image"):
        KernelRidge(validation=0.5).fit(FEATURES[:4], [0, 1, 2, 3])


def test_prediction_errors_say_what_to_do():
    with pytest.raises(InvalidSpec, match=r"this KernelRidge is not fitted; call fit"):
        KernelRidge().predict(FEATURES)
    fitted = KernelRidge(Linear(), 1e-2).fit(FEATURES, LABELS)
    with pytest.raises(InvalidData, match=r"11 columns; this classifier was fitted on 12"):
        fitted.scores(FEATURES[:, :-1])
    with pytest.raises(InvalidData, match=r"image 7 hold NaN"):
        fitted.predict(spoiled(np.nan))


@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_scores_of_what_is_not_finite_are_not_finite(kernel, value):
    fitted = KernelRidge(kernel, 1e-2).fit(FEATURES, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = fitted.unchecked_scores(spoiled(value))
    assert not np.isfinite(scores[7]).any()
    np.testing.assert_allclose(np.delete(scores, 7, 0), np.delete(fitted.scores(FEATURES), 7, 0), atol=1e-5)


# ---- Gram matrices ---------------------------------------------------------------------------------------

VALID = {
    "exp": st.fixed_dictionaries({"sigma": st.floats(0.2, 10)}),
    "poly": st.fixed_dictionaries({"degree": st.integers(1, 6), "offset": st.floats(0, 3)}),
    "series": st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(
        lambda given: {"coefficients": [a / math.fsum(given) for a in given]}
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=20)
@given(data=st.data())
def test_gram_matrices_are_positive_semidefinite_and_homogeneous(name, data):
    """Of vectors of any length, some of them 0, some twice."""
    options = data.draw(VALID.get(name, st.just({})))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    kernel = kernel_from_dict({"kernel": name} | options)
    x = rng.normal(size=(12, 4)) * 10.0 ** rng.uniform(-4, 2, size=(12, 1))
    x[3], x[7] = 0, x[6]

    def gram(rows):
        products = rows @ rows.T
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        homogeneous(kernel, products, norms, norms)
        return products

    found = gram(x)
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(
        found, kernel_matrix(x, x, (4,), [kernel], [1.0]), atol=1e-6 * norms.max() ** 2
    )
    assert not found[3].any()
    np.testing.assert_allclose(np.diag(found), norms**2, rtol=1e-6)  # κ(1) = 1
    assert np.linalg.eigvalsh((found + found.T) / 2)[0] >= -1e-6 * norms.max() ** 2
    scales = 10.0 ** rng.uniform(-2, 2, size=12)
    expected = found * scales[:, None] * scales
    np.testing.assert_allclose(gram(x * scales[:, None]), expected, atol=1e-6 * np.abs(expected).max())


# ---- The way of the search -------------------------------------------------------------------------------


@given(data=st.data())
def test_a_climb_ends_where_no_neighbour_is_better_and_asks_once(data):
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    start = tuple(data.draw(st.integers(0, size - 1)) for size in sizes)
    heights = np.random.default_rng(data.draw(st.integers(0, 10_000))).integers(0, 5, size=sizes)
    asked = []

    def accuracy_at(place):
        assert all(0 <= axis < size for axis, size in zip(place, sizes, strict=True))
        asked.append(place)
        return float(heights[place])

    best = climb(start, accuracy_at, sizes)
    assert len(asked) == len(set(asked))
    assert heights[best] >= heights[start]
    if best != start:
        assert heights[best] > heights[start]
    for axis, size in enumerate(sizes):
        for neighbour in (best[axis] - 1, best[axis] + 1):
            if 0 <= neighbour < size:
                assert heights[(*best[:axis], neighbour, *best[axis + 1 :])] <= heights[best]


@given(
    peak=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    start=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_a_climb_finds_the_top_of_a_hill(peak, start):
    assert climb(start, lambda place: -math.dist(place, peak), (10, 10)) == peak


@given(images=st.integers(1, 200_000), few=st.integers(1, 2000))
def test_halvings_end_with_all_and_begin_with_few(images, few):
    counts = halvings(images, few)
    assert counts[-1] == images
    assert all(first == second // 2 for first, second in itertools.pairwise(counts))
    assert counts[0] < 2 * few or (few == 1 and counts[0] == 1)
    assert counts[0] >= min(images, few)


def test_halvings_by_hand():
    assert halvings(5000, 1000) == [1250, 2500, 5000]
    assert halvings(1999, 1000) == [1999]
    assert halvings(2000, 1000) == [1000, 2000]


def test_small_lambda_and_large_coefficients_lose_no_digits_in_predictions():
    """What leave-one-out promises, computed in float64, is what predictions of the fit keep."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 5
    spectrum = 10 ** (-np.arange(30) / 8)
    features = (rng.normal(size=(600, 30)) + rng.normal(size=(5, 30))[labels]) * spectrum
    fitted = KernelRidge(Exponential(sigma=4.0), 1e-8).fit(features.astype(np.float32), labels)
    assert np.abs(fitted.dual_).max() > 1000
    x = (features.astype(np.float32).astype(float) - fitted.scaling_.mean) / fitted.scaling_.norm
    points = fitted.points_.astype(float)
    norms = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(points, axis=1))
    exact = norms * np.exp((x @ points.T / norms - 1) / 16) @ fitted.dual_.astype(float) + fitted.intercept_
    np.testing.assert_allclose(fitted.scores(features), exact, atol=1e-3)


def test_too_many_images_and_too_many_weights_are_refused_before_any_work():
    with pytest.raises(InvalidSpec, match=r"46001 images needs Gram matrices of 7 GiB.*nystrom-ridge"):
        KernelRidge().check_options(images=46_001)
    with pytest.raises(InvalidSpec, match="3 weights were given for 2 encoders"):
        KernelRidge(weights=[1, 2, 3]).check_options(encoders=2)
    assert KernelRidge(weights=[1e308, 1e308]).fit(*problem(), widths=(5, 7)).weights_ == (0.5, 0.5)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kernel", [ArcCosine(1), Exponential(sigma=1.0)], ids=str)
def test_a_kernel_of_a_large_matrix_takes_little_memory_beside_it(kernel, order, monkeypatch):
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 1 << 18)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(700, 5)), rng.normal(size=(900, 5))
    rows, columns = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    norms = np.outer(rows, columns)
    expected = norms * kernel.value(x @ y.T / norms)
    products = np.asarray(x @ y.T, order=order)
    tracemalloc.start()
    homogeneous(kernel, products, rows, columns)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(products, expected, rtol=1e-9)
    assert peak < products.nbytes / 2
