"""A matrix, and where it is to be written: as a file and as a folder."""

import numpy as np
import pytest


@pytest.fixture
def matrix(rng):
    one = rng.normal(size=(10, 10)).astype(np.float32)
    return one + one.T


@pytest.fixture(params=["K.zarr", "K.npy"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture
def part(path):
    """The folder in which the matrix grows."""
    return path.with_name(path.name + ".part")
