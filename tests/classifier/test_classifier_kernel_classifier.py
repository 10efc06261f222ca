"""The kernel classifier: scores by definition, Gram matrices of κ, and what a model file gives back."""

import json
import math

import numpy as np
import pytest
from factories import SOME_KERNELS, kernel_matrix, overlapping_classes, spoiled
from hypothesis import given, settings
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, KernelRidge
from ckncuda.classifier import KernelClassifier, classifier_from_arrays
from ckncuda.classifier.kernel_classifier import homogeneous
from ckncuda.errors import InvalidData, InvalidSpec
from ckncuda.layer.dot_product import KERNELS, kernel_from_dict

FEATURES, LABELS = overlapping_classes(40, 12)


@pytest.mark.parametrize(
    ("kernel", "widths", "weights"),
    [
        *((kernel, (12,), [1.0]) for kernel in SOME_KERNELS),
        (ArcCosine(1), (5, 7), [0.25, 0.75]),
        (Exponential(sigma=2.0), (3, 4, 5), [0.8, 0.0, 0.2]),
    ],
    ids=str,
)
def test_scores_are_sums_over_the_training_images(kernel, widths, weights):
    features, labels = overlapping_classes(60, 12)
    fitted = KernelRidge(kernel, 1e-2, weights).fit(features[:40], labels[:40], widths=widths)
    new = (features - fitted.scaling_.mean) / fitted.scaling_.norm
    gram = kernel_matrix(new, fitted.points_, widths, [kernel] * len(widths), weights) + 1
    # Rounding to 1e-7 of a cosine near 1 is one to 1e-4 of κ_0, whose slope is infinite there.
    tolerance = 1e-3 if kernel == ArcCosine(0) else 1e-4
    np.testing.assert_allclose(fitted.scores(features), gram @ fitted.dual_, atol=tolerance)
    assert fitted.predict(features).tolist() == (gram @ fitted.dual_).argmax(axis=1).tolist()


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_scores_of_what_is_not_finite_are_not_finite(kernel, value):
    fitted = KernelRidge(kernel, 1e-2).fit(FEATURES, LABELS)
    scores = fitted.unchecked_scores(spoiled(FEATURES, value))
    assert not np.isfinite(scores[7]).any()
    np.testing.assert_allclose(np.delete(scores, 7, 0), np.delete(fitted.scores(FEATURES), 7, 0), atol=1e-5)


@pytest.mark.parametrize("weights", [[1, 2], np.array([1, 2]), np.array([1, 2], np.float32), "auto"])
@pytest.mark.parametrize("kernel", SOME_KERNELS, ids=str)
def test_any_kernel_and_weights_are_rebuilt(kernel, weights):
    fitted = KernelRidge(kernel, 1e-2, weights).fit(FEATURES, LABELS, widths=np.array([5, 7]))
    stored = fitted.to_dict()
    again = classifier_from_arrays(json.loads(json.dumps(stored)), fitted.arrays())
    assert stored["weights"] == list(fitted.kernel_weights_)
    assert again.to_dict() == stored
    assert again.scores(FEATURES).tobytes() == fitted.scores(FEATURES).tobytes()
    assert (again.n_features, again.n_parameters) == (12, 40 * 12 + 40 * 3 + 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dual": np.ones((39, 3))}, r"points \(40, 12\), dual \(39, 3\).*expected \[n, d\]"),
        ({"dual": np.ones((40, 2))}, r"dual \(40, 2\)"),
        ({"points": np.ones(40)}, r"points \(40,\)"),
        ({"intercept": np.ones(2)}, r"intercept \(2,\)"),
        ({"mean": np.ones(11)}, r"mean \(11,\)"),
        ({"norm": np.ones((12, 1))}, r"norm \(12, 1\)"),
        ({"classes": np.array([0, 1])}, r"classes \(2,\)"),
        ({"classes": np.array([0, 2, 1])}, r"\[0, 2, 1\]; expected each class once, in increasing order"),
        ({"classes": np.array([0, 1, 1])}, r"in increasing order"),
        ({"classes": np.array([-1, 0, 1])}, r"label -1 of image 0; expected 0 or greater"),
        ({"dual": np.ones((40, 1)), "classes": np.array([0])}, r"do not make a classifier"),
        ({"intercept": np.full(3, np.nan)}, r"NaN, infinity or a norm of 0"),
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
    fitted = KernelRidge(ArcCosine(1), 1e-2).fit(FEATURES, LABELS, widths=(5, 7))
    options, arrays = fitted.to_dict(), fitted.arrays()
    for name, value in changes.items():
        assert name in options or name in arrays
        (options if name in options else arrays)[name] = value
    with pytest.raises((InvalidData, InvalidSpec), match=words):
        KernelClassifier.from_arrays(options, arrays)


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
    expected = kernel_matrix(x, x, (4,), [kernel], [1.0])
    np.testing.assert_allclose(found, expected, atol=1e-6 * norms.max() ** 2)
    assert not found[3].any()
    np.testing.assert_allclose(np.diag(found), norms**2, rtol=1e-6)  # κ(1) = 1
    assert np.linalg.eigvalsh((found + found.T) / 2)[0] >= -1e-6 * norms.max() ** 2
    scales = 10.0 ** rng.uniform(-2, 2, size=12)
    expected = found * scales[:, None] * scales
    np.testing.assert_allclose(gram(x * scales[:, None]), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kernel", [ArcCosine(1), Exponential(sigma=1.0)], ids=str)
def test_a_kernel_of_a_large_matrix_takes_little_memory_beside_it(kernel, order, monkeypatch, peak_memory):
    monkeypatch.setattr("ckncuda.classifier.training_data.BLOCK_BYTES", 1 << 18)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(700, 5)), rng.normal(size=(900, 5))
    rows, columns = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    norms = np.outer(rows, columns)
    expected = norms * kernel.value(x @ y.T / norms)
    products = np.asarray(x @ y.T, order=order)
    with peak_memory() as peak:
        homogeneous(kernel, products, rows, columns)
    np.testing.assert_allclose(products, expected, rtol=1e-9)
    assert peak() < products.nbytes / 2
