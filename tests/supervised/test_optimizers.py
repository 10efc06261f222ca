"""Steps against formulas written out plainly, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckncuda.supervised.optimizers import OPTIMIZERS, SGD, Adam, normalize, tangent

RATES = [0.1, 0.05, 0.2, 0.01]


def gradients(steps=4, seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=(3, 2)), rng.normal(size=5)] for _ in range(steps)]


def parameters(seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (5,))]


def test_momentum_by_its_formula():
    learned, expected = parameters(), [p.astype(np.float64) for p in parameters()]
    optimizer, velocity = SGD(learned, 0.8), [0.0, 0.0]
    for of_step, rate in zip(gradients(), RATES, strict=True):
        optimizer.step(of_step, [rate, rate / 2])
        for i, factor in enumerate((1, 0.5)):
            velocity[i] = 0.8 * velocity[i] + of_step[i]
            expected[i] = expected[i] - factor * rate * velocity[i]
    for found, wanted in zip(learned, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert optimizer.steps == 4


def test_adam_by_its_formula():
    learned, expected = parameters(), [p.astype(np.float64) for p in parameters()]
    optimizer, mean, square = Adam(learned, 0.9), [0.0, 0.0], [0.0, 0.0]
    for t, (of_step, rate) in enumerate(zip(gradients(), RATES, strict=True), 1):
        optimizer.step(of_step, [rate, rate / 2])
        for i, factor in enumerate((1, 0.5)):
            mean[i] = 0.9 * mean[i] + 0.1 * of_step[i]
            square[i] = 0.999 * square[i] + 0.001 * of_step[i] ** 2
            step = (mean[i] / (1 - 0.9**t)) / (np.sqrt(square[i] / (1 - 0.999**t)) + 1e-8)
            expected[i] = expected[i] - factor * rate * step
    for found, wanted in zip(learned, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_of_zero_moves_nothing(name):
    learned = parameters()
    OPTIMIZERS[name](learned, 0.9).step([np.zeros((3, 2)), np.zeros(5)], [0.1, 0.1])
    assert all(np.array_equal(a, b) for a, b in zip(learned, parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_kept_goes_on_elsewhere(name):
    whole, half = parameters(), parameters()
    one, first = OPTIMIZERS[name](whole, 0.9), OPTIMIZERS[name](half, 0.9)
    for of_step in gradients():
        one.step(of_step, [0.1, 0.1])
    for of_step in gradients()[:2]:
        first.step(of_step, [0.1, 0.1])
    second = OPTIMIZERS[name](half, 0.9)
    second.steps, second.state = first.steps, first.state
    for of_step in gradients()[2:]:
        second.step(of_step, [0.1, 0.1])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, half, strict=True))


@given(st.integers(0, 1000), st.floats(1e-6, 100))
def test_steps_along_the_sphere_keep_anchor_points_on_it(seed, rate):
    rng = np.random.default_rng(seed)
    anchors = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    normalize(anchors)
    np.testing.assert_allclose(np.linalg.norm(anchors.reshape(4, -1), axis=1), 1, atol=1e-6)
    gradient = rng.normal(size=anchors.shape)
    along = tangent(gradient, anchors)
    assert along.shape == anchors.shape
    np.testing.assert_allclose((along * anchors).sum(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(tangent(along, anchors), along, atol=1e-6)
    rest = (gradient - along).reshape(4, -1)  # lies along the anchor point
    lengths = np.linalg.norm(rest, axis=1)
    np.testing.assert_allclose(np.abs((rest * anchors.reshape(4, -1)).sum(axis=1)), lengths, atol=1e-6)
    anchors -= (rate * along).astype(np.float32)
    normalize(anchors)
    np.testing.assert_allclose(np.linalg.norm(anchors.reshape(4, -1), axis=1), 1, atol=1e-6)
