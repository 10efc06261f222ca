"""Encoding on the device, compared with the reference."""

import pytest

from ckncuda.backend import get_backend


@pytest.fixture
def check_encode(relative_error):
    """Compare what a backend encodes with the reference."""

    def check(backend, maps, layers, tolerance=2e-5):
        expected = get_backend("reference").encode(maps, layers)
        actual = backend.to_host(backend.encode(backend.asarray(maps), layers))
        assert relative_error(actual, expected) <= tolerance

    return check
