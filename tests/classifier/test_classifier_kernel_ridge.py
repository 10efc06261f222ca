"""Kernel ridge regression: what is solved, in which precision, of few, equal and strange images."""

import math

import numpy as np
import pytest
from factories import kernel_matrix, overlapping_classes, scaled_by_the_book
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, KernelRidge, Linear, Ridge
from ckncuda.classifier.training_data import signed_targets
from ckncuda.errors import InvalidSpec

FEATURES, LABELS = overlapping_classes(40, 12)


@pytest.mark.parametrize("block_bytes", [2**25, 8 * 40 * 3], ids=["one block", "blocks of three columns"])
def test_what_is_learned_solves_the_system(monkeypatch, block_bytes):
    """The rest is tested of the system alone: points and coefficients stand in the order of the images."""
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", block_bytes)
    fitted = KernelRidge(ArcCosine(1), 1e-2, [1.0, 3.0]).fit(FEATURES, LABELS, widths=(5, 7))
    assert (fitted.kernels_, fitted.kernel_weights_) == ((ArcCosine(1),) * 2, (0.25, 0.75))
    assert (fitted.widths_, fitted.points_.dtype) == ((5, 7), np.float16)
    x = scaled_by_the_book(FEATURES, (5, 7))
    np.testing.assert_allclose(fitted.points_, x, rtol=2.0**-11, atol=1e-7)
    gram = kernel_matrix(fitted.points_, fitted.points_, (5, 7), [ArcCosine(1)] * 2, [0.25, 0.75])
    expected = np.linalg.solve(gram + 1 + 40 * 1e-2 * np.eye(40), signed_targets(LABELS, 3))
    np.testing.assert_allclose(fitted.dual_, expected, atol=1e-5 * np.abs(expected).max())


def test_scores_of_the_training_images_are_what_was_fitted():
    """(K + 11ᵀ) α = Y − nλα, but for the rounding of the training images that are kept."""
    fitted = KernelRidge(Exponential(sigma=1.0), 1e-2).fit(FEATURES, LABELS)
    expected = signed_targets(LABELS, 3) - 40 * 1e-2 * fitted.dual_
    np.testing.assert_allclose(fitted.scores(FEATURES), expected, atol=5e-3)
    # Of images that are rounded as the kept ones are, nothing is left of it.
    kept = fitted.points_.astype(np.float64) * fitted.scaling_.norm + fitted.scaling_.mean
    np.testing.assert_allclose(fitted.scores(kept.astype(np.float32)), expected, atol=1e-4)


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-4])
def test_a_linear_kernel_is_ridge_with_an_intercept_that_is_penalized_too(regularization):
    """Centred features leave the intercept alone: it is Ȳ/(1 + λ) instead of Ȳ."""
    keep = np.sort(np.argsort(LABELS, kind="stable")[:33])  # classes of unequal size: unequal intercepts
    features, labels = FEATURES[keep], LABELS[keep]
    mean = signed_targets(labels, 3).mean(axis=0)
    assert np.ptp(mean) > 0.1
    expected = Ridge(regularization).fit(features, labels).scores(features) - mean
    found = KernelRidge(Linear(), regularization).fit(features, labels).scores(features)
    np.testing.assert_allclose(found - mean / (1 + regularization), expected, atol=3e-3)


def test_permuted_images_have_permuted_coefficients():
    order = np.random.default_rng(1).permutation(40)
    first, second = (
        KernelRidge(Exponential(sigma=1.0), 1e-3).fit(FEATURES[rows], LABELS[rows])
        for rows in (np.arange(40), order)
    )
    np.testing.assert_allclose(second.points_, first.points_[order], atol=1e-3)
    np.testing.assert_allclose(second.dual_, first.dual_[order], atol=2e-2 * np.abs(first.dual_).max())
    assert second.validation_accuracy_ == first.validation_accuracy_
    np.testing.assert_allclose(second.scores(FEATURES), first.scores(FEATURES), atol=2e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [2, 3, 4, 5])
@pytest.mark.parametrize("kernel", ["auto", ArcCosine(0), Linear()], ids=str)
def test_a_few_images_are_enough(images, kernel):
    features, labels = overlapping_classes(images, 4, classes=2)
    fitted = KernelRidge(kernel).fit(features, labels)
    scores = fitted.scores(features)
    assert np.isfinite(scores).all()
    assert 0 <= fitted.validation_accuracy_ <= 1
    again = KernelRidge(kernel, 1e-3).fit(features, labels)
    assert again.predict(features).tolist() == labels.tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kernel", [Exponential(sigma=0.35), ArcCosine(0), ArcCosine(1), Linear()], ids=str)
def test_an_image_equal_to_the_mean_has_no_direction_and_does_no_harm(kernel):
    half, labels = overlapping_classes(20, 6, classes=2, seed=3)
    features = np.concatenate([half - 3, 3 - half, np.zeros((1, 6), np.float32)]).round(1)
    labels = np.concatenate([labels, 1 - labels, [1]])
    fitted = KernelRidge(kernel, 1e-2).fit(features, labels)
    scores = fitted.scores(features)
    assert not fitted.points_[40].any()
    assert np.isfinite(fitted.dual_).all()
    # Of it all kernels are 0: what is left is the constant of the intercept.
    np.testing.assert_allclose(scores[40], fitted.dual_.sum(axis=0), atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_constant_features_count_for_nothing():
    constant = np.full((40, 3), 7.3, np.float32)
    options = {"kernel": Exponential(sigma=1.0), "regularization": 1e-2}
    expected = KernelRidge(**options).fit(FEATURES, LABELS)
    both = np.hstack([FEATURES, constant])
    within = KernelRidge(**options).fit(both, LABELS)
    beside = KernelRidge(**options, weights=[1, 1]).fit(both, LABELS, widths=[12, 3])
    chosen = KernelRidge().fit(np.hstack([constant, FEATURES]), LABELS, widths=[3, 12])
    np.testing.assert_allclose(within.dual_, expected.dual_, atol=1e-3)
    assert not beside.points_[:, 12:].any()
    np.testing.assert_allclose(beside.points_[:, :12], expected.points_ / math.sqrt(2), atol=1e-3)
    for fitted in (within, beside, chosen):
        assert np.isfinite(fitted.scores(np.zeros((2, 15), np.float32))).all()
        assert fitted.validation_accuracy_ > 1 / 3


def test_images_that_are_there_many_times_do_not_end_the_search(monkeypatch):
    """The least λ are too small for the precision then: others are chosen."""
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 100)
    features, labels = overlapping_classes(20, 20)
    features, labels = np.repeat(features, 6, axis=0), np.repeat(labels, 6)
    features += np.random.default_rng(0).normal(scale=1e-4, size=features.shape).astype(np.float32)
    with pytest.raises(InvalidSpec, match=r"regularization 1e-08 is too small for these features"):
        KernelRidge(regularization=1e-8, kernel=Exponential(sigma=0.35)).fit(features, labels)
    fitted = KernelRidge().fit(features, labels)
    assert fitted.validation_accuracy_ == 1
    assert fitted.regularization_ > 1e-8


@settings(max_examples=15)
@given(shift=st.floats(-50, 50), factor=st.floats(1e-3, 1e3))
def test_scores_do_not_depend_on_the_place_and_scale_of_each_encoders_features(shift, factor):
    moved = FEATURES.copy()
    moved[:, 5:] = (FEATURES[:, 5:].astype(np.float64) + shift) * factor
    ridge = KernelRidge(Exponential(sigma=1.0), 1e-2, [1, 1])
    first, second = (ridge.fit(x, LABELS, widths=(5, 7)).scores(x) for x in (FEATURES, moved))
    np.testing.assert_allclose(second, first, atol=1e-2)


def test_a_weight_of_zero_leaves_an_encoder_out():
    other = overlapping_classes(40, 12, seed=9)[0]
    first, second = (
        KernelRidge(ArcCosine(1), 1e-2, [1, 0]).fit(np.hstack([FEATURES, x]), LABELS, widths=(12, 12))
        for x in (FEATURES, other)
    )
    np.testing.assert_allclose(second.dual_, first.dual_, atol=1e-6)
    assert second.validation_accuracy_ == first.validation_accuracy_


def test_given_kernels_and_weights_leave_nothing_to_choose():
    features, labels = overlapping_classes(100, 12)
    calls = []
    given = KernelRidge(Linear(), 1e-2, [1, 1])
    given.fit(features, labels, lambda *call: calls.append(call), widths=(4, 8))
    assert calls == [("Gram matrix", 4, 12), ("Gram matrix", 12, 12)]


def test_a_second_fit_forgets_the_first():
    classifier = KernelRidge(ArcCosine(1), 1e-2).fit(FEATURES, LABELS)
    classifier.scores(FEATURES)
    classifier.fit(FEATURES[:30, :7], LABELS[:30] + 1, widths=(3, 4))
    fresh = KernelRidge(ArcCosine(1), 1e-2).fit(FEATURES[:30, :7], LABELS[:30] + 1, widths=(3, 4))
    assert classifier.kernel_weights_ == fresh.kernel_weights_
    assert classifier.scores(FEATURES[:, :7]).tobytes() == fresh.scores(FEATURES[:, :7]).tobytes()


def test_as_many_weights_as_encoders_are_needed():
    for weights, widths in (([1, 1], None), ([1], (5, 7)), ([1, 1, 1], (5, 7))):
        with pytest.raises(InvalidSpec, match=rf"{len(weights)} weights were given for [12] encoders"):
            KernelRidge(weights=weights).fit(FEATURES, LABELS, widths=widths)


def test_too_many_images_and_too_many_weights_are_refused_before_any_work():
    with pytest.raises(InvalidSpec, match=r"46001 images needs Gram matrices of 7 GiB.*nystrom-ridge"):
        KernelRidge().check_options(images=46_001)
    with pytest.raises(InvalidSpec, match="3 weights were given for 2 encoders"):
        KernelRidge(weights=[1, 2, 3]).check_options(encoders=2)
    huge = KernelRidge(weights=[1e308, 1e308]).fit(FEATURES, LABELS, widths=(5, 7))
    assert huge.kernel_weights_ == (0.5, 0.5)
