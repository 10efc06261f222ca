import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda import Exponential
from ckncuda.errors import InvalidSpec
from ckncuda.layer.projection import inverse_square_root, spectrum_of


def sphere(rng, n, d):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@given(p=st.integers(1, 20), seed=st.integers(0, 1000))
def test_whitening_whitens(p, seed):
    z = sphere(np.random.default_rng(seed), p, 12)
    gram = Exponential(sigma=0.6).value(z @ z.T)
    for whitening in ("ridge", "root"):
        root = inverse_square_root(gram, whitening, 0.0)
        np.testing.assert_allclose(root @ gram @ root, np.eye(p), atol=1e-8)


@given(p=st.integers(1, 12), epsilon=st.floats(1e-4, 1), seed=st.integers(0, 1000))
def test_both_regularisations_by_their_eigenvalues(p, epsilon, seed):
    rng = np.random.default_rng(seed)
    eigenvalues = np.sort(rng.uniform(0, 3, size=p))
    vectors = np.linalg.qr(rng.normal(size=(p, p)))[0]
    gram = (vectors * eigenvalues) @ vectors.T
    expected = {"ridge": (eigenvalues + epsilon) ** -0.5, "root": 1 / (np.sqrt(eigenvalues) + epsilon)}
    for whitening, factors in expected.items():
        root = inverse_square_root(gram, whitening, epsilon)
        np.testing.assert_allclose(root, (vectors * factors) @ vectors.T, rtol=1e-6, atol=1e-6)


def test_without_regularisation_a_singular_matrix_is_refused():
    for whitening in ("ridge", "root"):
        with pytest.raises(InvalidSpec, match="give an epsilon greater than 0"):
            inverse_square_root(np.ones((3, 3)), whitening, 0.0)


def test_singular_matrices_are_regularised(rng):
    z = np.repeat(sphere(rng, 3, 5), 2, axis=0)
    gram = Exponential(sigma=0.6).value(z @ z.T)
    for whitening in ("ridge", "root"):
        root = inverse_square_root(gram, whitening, 1e-3)
        assert np.isfinite(root).all()
        assert np.array_equal(root, root.T)


@given(p=st.integers(1, 8), epsilon=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_the_derivative_is_the_slope(p, epsilon, seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(p, p + 2))
    gram, upstream = factor @ factor.T, rng.normal(size=(p, p))
    direction = rng.normal(size=(p, p))
    direction += direction.T
    for whitening in ("ridge", "root"):
        gradient = spectrum_of(gram, whitening, epsilon).inverse_square_root_gradient(upstream)
        assert np.array_equal(gradient, gradient.T)
        step = 1e-5 * np.linalg.eigvalsh(gram)[0]
        up, down = (
            (inverse_square_root(gram + way * step * direction, whitening, epsilon) * upstream).sum()
            for way in (1, -1)
        )
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        np.testing.assert_allclose((up - down) / (2 * step), (gradient * direction).sum(), atol=1e-5 * scale)


def test_the_derivative_of_a_singular_matrix_is_finite(rng):
    z = np.repeat(sphere(rng, 3, 5), 2, axis=0)
    gram = Exponential(sigma=0.6).value(z @ z.T)
    for whitening in ("ridge", "root"):
        gradient = spectrum_of(gram, whitening, 1e-3).inverse_square_root_gradient(rng.normal(size=(6, 6)))
        assert np.isfinite(gradient).all()


@given(p=st.integers(1, 8), epsilon=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_square_roots_are_inverse_to_one_another(p, epsilon, seed):
    z = sphere(np.random.default_rng(seed), p, 5)
    for whitening in ("ridge", "root"):
        spectrum = spectrum_of(Exponential(sigma=0.6).value(z @ z.T), whitening, epsilon)
        product = spectrum.square_root() @ spectrum.inverse_square_root()
        np.testing.assert_allclose(product, np.eye(p), atol=1e-9)
