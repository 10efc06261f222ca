"""Encoding on the device, compared with the reference."""

import pytest

from ckncuda.backend import get_backend
from ckncuda.backend.arrays import to_host


@pytest.fixture
def check_encode(relative_error):
    """Compare what a backend encodes, or what was found, with the reference."""

    def check(backend, maps, layers, tolerance=2e-5, found=None):
        found = backend.encode(backend.asarray(maps), layers) if found is None else found
        assert relative_error(to_host(found), get_backend("reference").encode(maps, layers)) <= tolerance

    return check
