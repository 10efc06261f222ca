import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.layer.pooling import pooled_size, pooling_matrix

sizes = st.integers(1, 40)
strides = st.integers(2, 8)


def gaussian_by_definition(size, s, alignment):
    """Centres and distances, one number at a time."""
    if alignment == "corner":
        centres = [i * s for i in range(math.ceil(size / s))]
    elif alignment == "valid":
        centres = [(i + 1) * s for i in range(size // s - 1)]
    else:
        out = math.ceil(size / s)
        centres = [(size - ((out - 1) * s + 1)) / 2 + i * s for i in range(out)]
    matrix = np.zeros((len(centres), size))
    for i, centre in enumerate(centres):
        half = centre % 1 != 0
        distances = [d + 0.5 for d in range(-s, s)] if half else list(range(-s, s + 1))
        total = sum(math.exp(-(d**2) / s**2) for d in distances)
        for d in distances:
            position = centre + d
            if 0 <= position < size:
                matrix[i, int(position)] = math.exp(-(d**2) / s**2) / total
    return matrix


@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@given(size=sizes, s=strides)
def test_gaussian_weights_are_the_definition(alignment, size, s):
    if pooled_size(size, s, "gaussian", alignment) < 1:
        return
    expected = gaussian_by_definition(size, s, alignment)
    np.testing.assert_allclose(pooling_matrix(size, s, "gaussian", alignment), expected, atol=1e-15)


@pytest.mark.parametrize("pooling", ["gaussian", "average", "strided"])
@pytest.mark.parametrize("alignment", ["corner", "centered", "valid"])
@given(size=sizes, s=strides)
def test_weights_are_probabilities_where_the_filter_is_inside(pooling, alignment, size, s):
    if pooled_size(size, s, pooling, alignment) < 1 or s > size:
        return
    matrix = pooling_matrix(size, s, pooling, alignment)
    assert matrix.shape == (pooled_size(size, s, pooling, alignment), size)
    assert (matrix >= 0).all()
    assert (matrix.sum(axis=1) <= 1 + 1e-12).all()
    assert matrix.any(axis=1).all()
    if alignment == "valid" and pooling == "average":
        np.testing.assert_allclose(matrix.sum(axis=1), 1)


@given(size=sizes, s=strides)
def test_centered_pooling_is_symmetric(size, s):
    if s <= size:
        matrix = pooling_matrix(size, s, "gaussian", "centered")
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-15)


def test_average_takes_block_means_and_strided_takes_positions():
    x = np.arange(12.0)
    np.testing.assert_allclose(pooling_matrix(12, 4, "average", "corner") @ x, [1.5, 5.5, 9.5])
    np.testing.assert_allclose(pooling_matrix(12, 4, "strided", "corner") @ x, [0, 4, 8])
    np.testing.assert_allclose(pooling_matrix(12, 4, "strided", "valid") @ x, [4, 8])
    np.testing.assert_allclose(pooling_matrix(12, 4, "strided", "centered") @ x, [1, 5, 9])


def test_average_of_an_incomplete_block_counts_the_outside_as_zero():
    np.testing.assert_allclose(pooling_matrix(5, 2, "average", "corner") @ np.ones(5), [1, 1, 0.5])
    np.testing.assert_allclose(pooling_matrix(5, 2, "average", "valid") @ np.ones(5), [1, 1])


def test_subsampling_one_is_the_identity_for_every_option():
    for pooling in ("gaussian", "average", "strided"):
        for alignment in ("corner", "centered", "valid"):
            assert np.array_equal(pooling_matrix(7, 1, pooling, alignment), np.eye(7))


def test_cached_matrices_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        pooling_matrix(8, 2, "gaussian", "corner")[0, 0] = 1
