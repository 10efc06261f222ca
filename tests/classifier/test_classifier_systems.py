"""The systems of ridge regression against the textbook: explicit solutions, refits without each image."""

import numpy as np
import pytest
from factories import (
    SOME_KERNELS,
    centred_by_the_book,
    gauss,
    kernel_matrix,
    left_out_by_least_squares,
    left_out_by_refits,
    overlapping_classes,
    overlapping_points,
    polynomial,
    scaled_by_the_book,
)

from ckncuda import Exponential
from ckncuda.classifier.choice import Choice
from ckncuda.classifier.gram_matrices import GramMatrices
from ckncuda.classifier.systems import FeatureSystem, GramSystem, KernelSystem, PrimalSystem
from ckncuda.classifier.training_data import FeatureScaling, TrainingData, signed_targets

SHAPES = [(40, 12), (20, 60), (25, 25), (12, 11)]


def system_of(kind, features, labels, widths=None):
    data = TrainingData.of(features, labels, widths)
    return kind(data, FeatureScaling.of(data.features, data.widths), None)


@pytest.mark.parametrize(("images", "width"), SHAPES)
@pytest.mark.parametrize("regularization", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("kind", [FeatureSystem, PrimalSystem])
def test_left_out_residuals_are_those_of_refits(kind, images, width, regularization):
    features, labels = overlapping_classes(images, width)
    signs = signed_targets(labels, 3)
    expected = left_out_by_least_squares(scaled_by_the_book(features), signs, images * regularization)
    system = system_of(kind, features, labels)
    assert system.accuracy_at(regularization) == np.mean((signs - expected).argmax(axis=1) == labels)
    if kind is PrimalSystem:
        found = system.left_out_residuals(regularization)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        return
    expected = expected[system.order]
    for last in (images // 3, None):
        found = system.solution(Choice(regularization)).left_out_residuals(last)
        np.testing.assert_allclose(found, expected[-(last or images) :], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("regularization", "precision"), [(1e-2, np.float32), (1e-5, np.float32), (1e-7, np.float64)]
)
def test_single_precision_of_many_images_is_as_good_as_double(monkeypatch, regularization, precision):
    features, labels = overlapping_classes(300, 500)
    features += 50  # a mean far above the spread
    double = system_of(FeatureSystem, features, labels)
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 300)
    single = system_of(FeatureSystem, features, labels)
    assert single.products.dtype == np.float32
    choice = Choice(regularization)
    assert single.solution(choice).factor.dtype == precision
    for found, expected in (
        (single.solution(choice).left_out_residuals(), double.solution(choice).left_out_residuals()),
        (single.weights(regularization), double.weights(regularization)),
    ):
        assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("images", "width"), SHAPES)
def test_dual_and_primal_agree_also_in_blocks(monkeypatch, images, width):
    features, labels = overlapping_classes(images, width)
    whole = [system_of(kind, features, labels) for kind in (FeatureSystem, PrimalSystem)]
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 8 * 50 * 7)
    pieces = [system_of(kind, features, labels) for kind in (FeatureSystem, PrimalSystem)]
    for regularization in (1.0, 1e-4):
        expected = whole[0].weights(regularization)
        for system in (whole[1], *pieces):
            np.testing.assert_allclose(system.weights(regularization), expected, atol=1e-9)


def test_leave_one_out_of_part_of_the_images_is_that_of_a_kernel_with_a_constant():
    features, labels = overlapping_classes(40, 60, seed=3)
    system = system_of(FeatureSystem, features, labels)
    rows = scaled_by_the_book(features)[system.order[-13:]]
    found = system.solution(Choice(1e-2), last=13).left_out_residuals()
    expected = left_out_by_refits(rows @ rows.T, system.targets[-13:], 1e-2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


CASES = [
    *(((12,), Choice(0.0, (1.0,), (kernel,))) for kernel in SOME_KERNELS),
    ((5, 7), Choice(0.0, (0.5, 0.5), (Exponential(sigma=0.7),) * 2)),
    ((3, 4, 5), Choice(0.0, (0.8, 0.0, 0.2), (Exponential(sigma=2.0),) * 3)),
]


def kernel_case(widths, choice):
    """A system for κ on features, its Gram matrix by definition, in its order, and what is chosen."""
    system = system_of(KernelSystem, *overlapping_classes(40, 12), widths)
    gram = kernel_matrix(system.points, system.points, widths, choice.kernels, choice.weights)
    return system, gram, choice


def gram_case(weights):
    """The same for given Gram matrices."""
    x, labels = overlapping_points()
    grams = [gauss(x, x), polynomial(x, x)]
    system = GramSystem(GramMatrices(grams, np.arange(40), np.arange(3), labels))
    gram = sum(w * centred_by_the_book(gram) for w, gram in zip(weights, grams, strict=True))
    return system, gram[np.ix_(system.order, system.order)], Choice(0.0, weights)


@pytest.mark.parametrize("regularization", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize(
    ("make", "case"),
    [*((kernel_case, case) for case in CASES), (gram_case, [(1.0, 0.0)]), (gram_case, [(0.3, 0.7)])],
)
def test_kernels_are_solved_and_left_out_residuals_are_those_of_refits(make, case, regularization):
    system, gram, choice = make(*case)
    choice = Choice(regularization, choice.weights, choice.kernels)
    alpha = np.linalg.solve(gram + 1 + 40 * regularization * np.eye(40), system.targets)
    found = system.solution(choice).alpha
    np.testing.assert_allclose(found, alpha, rtol=1e-6, atol=1e-7 * np.abs(alpha).max())
    for last in (40, 17):
        expected = left_out_by_refits(gram[-last:, -last:], system.targets[-last:], regularization)
        few = system.solution(choice, last).left_out_residuals(5)
        np.testing.assert_allclose(few, expected[-5:], rtol=1e-6, atol=1e-8)
        found = system.solution(choice, last).left_out_residuals()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
        right = (system.targets[-last:] - expected).argmax(axis=1) == system.targets[-last:].argmax(axis=1)
        assert system.accuracy_among(choice, last, last) == right.mean()
        assert system.accuracy_among(choice, last, 5) == right[-5:].mean()


@pytest.mark.parametrize("regularization", [1e-2, 1e-5, 1e-7])
def test_single_precision_of_kernels_is_as_good_as_double(monkeypatch, regularization):
    arguments = KernelSystem, *overlapping_classes(150, 300), (100, 200)
    choice = Choice(regularization, (0.5, 0.5), (Exponential(sigma=1.0), Exponential(sigma=2.0)))
    double = system_of(*arguments)
    monkeypatch.setattr("ckncuda.classifier.systems.MANY", 150)
    single = system_of(*arguments)
    assert [products.dtype for products in single.matrices] == [np.float32] * 2
    assert np.array_equal(single.points, double.points)
    precision = np.float64 if regularization < 1e-6 else np.float32
    assert single.solution(choice).factor.dtype == precision
    a, b = (system.solution(choice) for system in (single, double))
    np.testing.assert_allclose(a.alpha, b.alpha, atol=1e-3 * np.abs(b.alpha).max())
    a, b = a.left_out_residuals(), b.left_out_residuals()
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())
