import numpy as np
import pytest
from factories import SOME_KERNELS
from hypothesis import given
from hypothesis import strategies as st

from ckncuda import ArcCosine, Exponential, InversePolynomial, Linear, Polynomial, Series
from ckncuda.errors import InvalidSpec
from ckncuda.layer.dot_product import KERNELS, kernel_from_dict

ALL = [*SOME_KERNELS, Polynomial(2)]


@pytest.fixture(params=ALL, ids=repr)
def kernel(request):
    return request.param


def definition(kernel, t):
    """κ(t) as it stands in the literature, one number at a time."""
    match kernel:
        case Exponential():
            return np.exp((t - 1) / kernel.sigma**2)
        case Polynomial():
            return ((t + kernel.offset) / (1 + kernel.offset)) ** kernel.degree
        case InversePolynomial():
            return 1 / (2 - t)
        case ArcCosine(degree=0):
            return 1 - np.arccos(t) / np.pi
        case ArcCosine(degree=1):
            return (np.sqrt(1 - t**2) + t * (np.pi - np.arccos(t))) / np.pi
        case Linear():
            return t
        case Series():
            return sum(a * t**m for m, a in enumerate(kernel.coefficients))


def test_value_is_the_definition_and_one_at_one(kernel):
    t = np.linspace(-1, 1, 101)
    value = kernel.value(t)
    np.testing.assert_allclose(value, definition(kernel, t), rtol=1e-13, atol=1e-15)
    assert value[-1] == pytest.approx(1, abs=1e-15)


def test_derivative_is_the_difference_quotient(kernel):
    t, h = np.linspace(-0.95, 0.95, 39), 1e-6
    quotient = (definition(kernel, t + h) - definition(kernel, t - h)) / (2 * h)
    np.testing.assert_allclose(kernel.derivative(t), quotient, rtol=1e-7, atol=1e-8)


def test_value_in_place_and_in_float32(kernel):
    t = np.linspace(-1, 1, 101, dtype=np.float32)
    expected = kernel.value(t.astype(np.float64))
    out = kernel.value(t, out=t)
    assert out is t
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=3e-4 if kernel.name == "arccos0" else 2e-6)


@pytest.mark.parametrize("kernel", ALL, ids=repr)
@given(n=st.integers(2, 30), d=st.integers(2, 8), seed=st.integers(0, 1000))
def test_gram_matrices_are_positive_semidefinite(kernel, n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    gram = kernel.value(np.clip(x @ x.T, -1, 1))
    assert np.linalg.eigvalsh((gram + gram.T) / 2).min() > -1e-7


def test_arguments_beyond_one_by_rounding_stay_finite(kernel):
    t = np.array([1 + 1e-7, -1 - 1e-7])
    assert np.isfinite(kernel.value(t)).all()
    assert np.isfinite(kernel.derivative(t)).all()


def test_dictionary_round_trip(kernel):
    assert kernel_from_dict(kernel.to_dict()) == kernel
    assert kernel.name in KERNELS


def test_sigma_as_a_quantile_of_distances(rng):
    patches = rng.normal(size=(2000, 5))
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    sigma = Exponential(quantile=0.1).resolved(patches, rng).sigma
    distances = np.linalg.norm(patches[:, None] - patches[None], axis=2)[np.triu_indices(2000, 1)]
    assert sigma == pytest.approx(np.quantile(distances, 0.1), rel=0.02)


def test_quantile_of_equal_patches_is_refused(rng):
    with pytest.raises(InvalidSpec, match="give sigma instead"):
        Exponential(quantile=0.1).resolved(np.ones((10, 4)) / 2, rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "gauss"}, "there is no kernel 'gauss'.*exp, poly"),
        ({"kernel": "exp"}, "sigma.*or quantile"),
        ({"kernel": "exp", "sigma": 0.6, "quantile": 0.1}, "one of the two"),
        ({"kernel": "exp", "sigma": -1}, "positive"),
        ({"kernel": "exp", "sigma": float("nan")}, "positive"),
        ({"kernel": "exp", "quantile": 1.5}, "between 0 and 1"),
        ({"kernel": "exp", "sigma": "wide"}, "sigma is .wide.; it must be a positive number"),
        ({"kernel": "poly"}, "degree"),
        ({"kernel": "poly", "degree": 0}, "at least 1"),
        ({"kernel": "poly", "degree": 2, "offset": -1}, "number that is not negative"),
        ({"kernel": "series", "coefficients": [0.5, 0.6]}, "sum to 1.1"),
        ({"kernel": "series", "coefficients": [1.5, -0.5]}, "≥ 0"),
        ({"kernel": "series", "coefficients": []}, "list of one or more"),
        ({"kernel": "series", "coefficients": 1.0}, "coefficients are 1.0; they must be a list"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(InvalidSpec, match=message):
        kernel_from_dict(options)


def test_arccosine_of_degree_two_is_refused():
    with pytest.raises(InvalidSpec, match="degree is 2"):
        ArcCosine(2)


@pytest.mark.parametrize("sigma", [1e-200, 1e200])
def test_bandwidths_that_arithmetic_does_not_bear_are_refused(sigma):
    with pytest.raises(InvalidSpec, match=r"it is a distance on the unit sphere.*0\.001 to 1,000,000"):
        Exponential(sigma=sigma)
