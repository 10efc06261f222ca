"""Kernel ridge regression on given Gram matrices: the dual solution, and what matrices are refused."""

import numpy as np
import pytest
from factories import centred_by_the_book, gauss, overlapping_points, polynomial
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import GramRidge, KernelRidge, Linear
from ckncuda.classifier.choice import normalized_weights
from ckncuda.classifier.training_data import signed_targets
from ckncuda.errors import InvalidData, InvalidSpec

KERNELS = [gauss, polynomial]


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 3.0]])
def test_scores_are_those_of_the_dual_solution(regularization, weights):
    x, labels = overlapping_points(60)
    train, few = x[:40], labels[:40]
    shares, kernels = normalized_weights(weights), KERNELS[: len(weights)]
    grams = [kernel(train, train) for kernel in kernels]
    gram = sum(w * centred_by_the_book(own) for w, own in zip(shares, grams, strict=True))
    alpha = np.linalg.solve(gram + 1 + 40 * regularization * np.eye(40), signed_targets(few, 3))
    # The kernel of centred images with new ones, from their definition: the mean of the training images is 0.
    new = 0
    for share, own, kernel in zip(shares, grams, kernels, strict=True):
        other = kernel(x, train)
        scale = np.diag(own).mean() - own.mean()
        new += share / scale * (other - other.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean())
    expected = (new + 1) @ alpha
    fitted = GramRidge(regularization, weights).fit(grams, few)
    values = np.hstack([kernel(x, train) for kernel in kernels])
    # Dual coefficients of a small λ are large, of both signs: they are stored in single precision.
    tolerance = 1e-6 * max(1, np.abs(alpha).max())
    np.testing.assert_allclose(fitted.scores(values), expected, atol=tolerance)
    assert (fitted.n_features, fitted.kernel_weights_) == (40 * len(weights), pytest.approx(shares))


def test_with_inner_products_it_is_kernel_ridge_on_the_features():
    x, labels = overlapping_points(50)
    features = x.astype(np.float32)
    expected = KernelRidge(Linear(), 1e-2).fit(features, labels)
    fitted = GramRidge(1e-2).fit(features @ features.T, labels)
    np.testing.assert_allclose(fitted.scores(features @ features.T), expected.scores(features), atol=5e-3)
    assert fitted.validation_accuracy_ == expected.validation_accuracy_


@settings(max_examples=10)
@given(offset=st.floats(0, 100), factor=st.floats(1e-3, 1e3))
def test_a_constant_and_a_scale_make_no_difference(offset, factor):
    x, labels = overlapping_points()
    gram = gauss(x, x)
    expected = GramRidge(1e-2).fit(gram, labels).scores(gram)
    moved = factor * (gram + offset)
    np.testing.assert_allclose(GramRidge(1e-2).fit(moved, labels).scores(moved), expected, atol=2e-3)


def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch):
    x, labels = overlapping_points(150)
    double = GramRidge(1e-4).fit(gauss(x, x), labels)
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 150)
    single = GramRidge(1e-4).fit(gauss(x, x), labels)
    np.testing.assert_allclose(single.scores(gauss(x, x)), double.scores(gauss(x, x)), atol=2e-3)
    assert single.validation_accuracy_ == double.validation_accuracy_


def test_matrices_are_read_in_blocks_and_may_be_on_a_disk(monkeypatch, tmp_path):
    x, labels = overlapping_points()
    gram = gauss(x, x).astype(np.float32)
    whole = GramRidge(1e-3, validation=0.25).fit(gram, labels)
    np.save(tmp_path / "K.npy", gram)
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 40 * 7)
    pieces = GramRidge(1e-3, validation=0.25).fit(np.load(tmp_path / "K.npy", mmap_mode="r"), labels)
    np.testing.assert_allclose(pieces.weights_, whole.weights_, rtol=1e-6, atol=1e-6)
    assert pieces.validation_accuracy_ == whole.validation_accuracy_


def test_images_that_are_there_many_times_do_not_end_the_search(monkeypatch):
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 100)
    x, labels = overlapping_points(20)
    x, labels = np.repeat(x, 6, axis=0), np.repeat(labels, 6)
    fitted = GramRidge().fit(gauss(x, x).astype(np.float32), labels)
    assert fitted.validation_accuracy_ == 1


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
        (lambda k: 1e-44 * k, "weights on them do not fit single precision: multiply the Gram matrix"),
        (lambda k: 1e60 * k, "weights on them do not fit single precision: multiply the Gram matrix"),
    ],
)
def test_matrices_that_are_none(change, match):
    x, labels = overlapping_points(12)
    with pytest.raises(InvalidData, match=match):
        GramRidge().fit(change(gauss(x, x)), labels)


def test_options_that_do_not_suit_the_matrices():
    x, labels = overlapping_points(12)
    with pytest.raises(InvalidSpec, match="1 weights were given for 2 kernels"):
        GramRidge(weights=[1.0]).fit([gauss(x, x)] * 2, labels)
    with pytest.raises(InvalidSpec, match="takes 46000 images at most: use landmarks"):
        GramRidge().check_options(50_000)
    with pytest.raises(InvalidSpec, match="too small"):  # for what is no kernel's
        GramRidge(1e-8).fit(gauss(x, x) - 0.5 * np.eye(12), labels)


@pytest.mark.parametrize("grams", [[], (), None, 3.0])
def test_no_matrices_at_all(grams):
    with pytest.raises(InvalidData, match="expected one, or a list of them"):
        GramRidge().fit(grams, [0, 1])
