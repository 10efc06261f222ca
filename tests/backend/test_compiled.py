"""Numba's inner loops on their own."""

import numpy as np
import pytest

pytest.importorskip("numba")

from ckncuda.backend import compiled


def test_exponential_is_within_two_units_in_the_last_place():
    x = np.linspace(-80, 0, 2_000_001, dtype=np.float32).reshape(1, -1)
    exact = np.exp(x.astype(np.float64))
    y, one, zero = x.copy(), np.ones(1, np.float32), np.zeros(1, np.float32)
    compiled.exponential(y, one, zero, one)
    error = np.abs(y - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() <= 2


def test_exponential_of_what_can_only_be_rounding_is_one():
    y, one, zero = np.array([[0.5, 300.0]], np.float32), np.ones(1, np.float32), np.zeros(1, np.float32)
    compiled.exponential(y, one, zero, one)
    assert y.tolist() == [[1.0, 1.0]]
