"""Numba's inner loops on their own."""

import numpy as np
import pytest

pytest.importorskip("numba")

from ckncuda.backend.numpy.compiled import dot_product
from ckncuda.backend.numpy.compiled.llvm.product import PANEL
from ckncuda.layer.dot_product import KERNELS


def exponential(x):
    """2^x of each number, by way of a strip of products."""
    strip = np.zeros((1, -(-x.size // PANEL), PANEL), np.float32)
    strip.reshape(-1)[: x.size] = x
    one = np.ones(strip.shape[:2], np.float32)
    dot_product.exponential(strip, one, one, 0.0)
    return strip.reshape(-1)[: x.size]


def test_exponential_is_within_two_units_in_the_last_place():
    x = np.linspace(-120, 0, 2_000_001, dtype=np.float32)
    exact = np.exp2(x.astype(np.float64))
    error = np.abs(exponential(x) - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() <= 2


def test_exponential_of_what_can_only_be_rounding_is_one():
    assert exponential(np.array([0.5, 300.0], np.float32)).tolist() == [1.0, 1.0]


def test_exponential_of_what_is_far_below_is_tiny():
    assert 0 <= exponential(np.array([-1e6, -np.inf], np.float32)).max() < 1e-37


SERIES = {"coefficients": (0.4, 0.6)}
PARAMETERS = {"exp": {"sigma": 0.6}, "poly": {"degree": 5, "offset": 0.5}, "series": SERIES}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_compiled_function(name):
    kernel = KERNELS[name](**PARAMETERS.get(name, {}))
    t = np.linspace(-1, 1, 1001, dtype=np.float32)
    row = t.copy()
    dot_product.apply(dot_product.number_of(kernel), dot_product.parameters_of(kernel), row)
    np.testing.assert_allclose(row, kernel.value(t.astype(np.float64)), rtol=1e-5, atol=1e-6)
