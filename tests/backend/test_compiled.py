"""Numba's inner loops on their own."""

import numpy as np
import pytest

pytest.importorskip("numba")

from ckncuda.backend.numpy.compiled import encode_loops as compiled
from ckncuda.backend.numpy.compiled import nearest as compiled_search
from ckncuda.backend.numpy.compiled import pair_loops as compiled_pairs
from ckncuda.backend.numpy.compiled.cache import digest_of_inlined
from ckncuda.backend.numpy.compiled.llvm.product import PANEL


def exponential(x):
    """2^x of each number, by way of a strip of products."""
    strip = np.zeros((1, -(-x.size // PANEL), PANEL), np.float32)
    strip.reshape(-1)[: x.size] = x
    one = np.ones(strip.shape[:2], np.float32)
    compiled.exponential(strip, one, one, 0.0)
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


@pytest.mark.parametrize(
    ("module", "further"),
    [(compiled, ()), (compiled_search, ("encode_loops",)), (compiled_pairs, ("encode_loops",))],
)
def test_what_was_compiled_of_other_sources_is_not_used(module, further):
    """Else an upgrade that changes them alone would go on with the old machine code, on new layouts."""
    assert digest_of_inlined(*further) == module.INLINED
