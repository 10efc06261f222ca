"""Linear algebra on a GPU is that of the host."""

import numpy as np
import pytest

from ckncuda.backend import linear_algebra
from ckncuda.backend.arrays import to_host


@pytest.mark.parametrize("at_once", [5, 4096])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_results_on_device_are_those_of_the_host(device, monkeypatch, at_once, dtype, tolerance, rng):
    monkeypatch.setattr(linear_algebra, "AT_ONCE", at_once)
    block, right = rng.normal(size=(40, 23)).astype(dtype), rng.normal(size=(23, 4)).astype(dtype)
    results = []
    for like in (block, device.asarray(block)):
        here = [np.asarray(array, like=like) for array in (block, right)]
        total = np.zeros((23, 23), dtype, order="F", like=like)
        linear_algebra.add_product(total, here[0])
        linear_algebra.add_product(total, here[0][:, ::-1].T[:23].T)
        lower = np.tril(total)
        factor = linear_algebra.cholesky(total.copy(order="F"))
        solved = linear_algebra.solve(factor, here[1])
        half = linear_algebra.solve_lower(factor, here[1].copy(order="F"))
        diagonal = linear_algebra.inverse_diagonal(factor.copy(order="F"))
        arrays = lower, np.tril(factor), solved, half, diagonal
        assert all(type(array) is type(like) for array in arrays)
        results.append([to_host(array) for array in arrays])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    total = results[0][0] + np.tril(results[0][0], -1).T
    np.testing.assert_allclose(results[1][4], np.diag(np.linalg.inv(total)), rtol=1e3 * tolerance)
