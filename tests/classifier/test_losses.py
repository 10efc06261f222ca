"""Losses against their definitions, and their derivatives against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.classifier.losses import cross_entropy, smoothed_cross_entropy, squared, squared_hinge

LOSSES = {
    "cross-entropy": cross_entropy,
    "smoothed": smoothed_cross_entropy(0.2),
    "not smoothed": smoothed_cross_entropy(0.0),
    "squared": squared,
    "squared hinge": squared_hinge,
}
SCORES = st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(0, 1000), st.floats(0.1, 10))


def drawn(given_):
    n, classes, seed, scale = given_
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, classes)), rng.integers(0, classes, n), rng


@pytest.mark.parametrize("name", LOSSES)
@given(given_=SCORES)
def test_derivatives_are_slopes(name, given_):
    scores, targets, rng = drawn(given_)
    _, derivative = LOSSES[name](scores, targets)
    direction = rng.normal(size=scores.shape)
    up, down = (LOSSES[name](scores + step * direction, targets)[0] for step in (1e-6, -1e-6))
    scale = np.linalg.norm(derivative) * np.linalg.norm(direction) + abs(up) * 1e-2
    assert (up - down) / 2e-6 == pytest.approx((derivative * direction).sum(), abs=1e-6 * scale + 1e-7)


@given(given_=SCORES, smoothing=st.floats(0, 0.99))
def test_cross_entropy_by_its_definition(given_, smoothing):
    scores, targets, _ = drawn(given_)
    classes = scores.shape[1]
    wanted = (1 - smoothing) * np.eye(classes)[targets] + smoothing / classes
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss, derivative = smoothed_cross_entropy(smoothing)(scores, targets)
    assert loss == pytest.approx(-(wanted * np.log(shares)).sum(), rel=1e-9)
    np.testing.assert_allclose(derivative, shares - wanted, atol=1e-12)


@given(given_=SCORES)
def test_losses_of_signs_by_their_definitions(given_):
    scores, targets, _ = drawn(given_)
    signs = 2 * np.eye(scores.shape[1])[targets] - 1
    assert squared(scores, targets)[0] == pytest.approx(((scores - signs) ** 2).sum() / 2)
    slack = np.maximum(0, 1 - signs * scores)
    assert squared_hinge(scores, targets)[0] == pytest.approx((slack**2).sum() / 2)


@pytest.mark.parametrize("name", ["cross-entropy", "smoothed"])
def test_large_scores_do_not_overflow(name):
    loss, derivative = LOSSES[name](np.array([[1e5, 0.0], [-1e5, 1e5]]), np.array([0, 1]))
    assert np.isfinite(loss)
    assert np.isfinite(derivative).all()
