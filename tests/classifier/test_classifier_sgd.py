"""The schedule of SGD, with L-BFGS, which would hide it, left out."""

import numpy as np
import pytest

from ckncuda.classifier import sgd


@pytest.fixture
def recorded(monkeypatch):
    """Run on 300 images with a gradient of one everywhere; record the batches, and where each epoch ended."""
    batches, ends = [], []

    class Space:
        def on(self, batch):
            batches.append(batch)
            return self

    class Point:
        def __init__(self, space, loss, targets, parameters):
            pass

        def gradient(self):
            return np.ones((3, 2))

    def leave(space, loss, targets, parameters, iterations):
        ends.append(parameters[0, 0])
        assert iterations == 10
        return parameters, True

    monkeypatch.setattr(sgd, "Point", Point)
    monkeypatch.setattr(sgd, "minimize_lbfgs", leave)
    sgd.minimize_sgd(Space(), None, np.zeros(300, int), np.zeros((3, 2)), np.random.default_rng(0))
    return batches, ends


def test_every_epoch_sees_every_image_once_in_batches_of_128(recorded):
    batches, ends = recorded
    assert len(ends) == 30
    assert [len(batch) for batch in batches] == [128, 128, 44] * 30
    orders = [np.concatenate(batches[i : i + 3]) for i in range(0, 90, 3)]
    assert all(np.array_equal(np.sort(order), np.arange(300)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])


def test_steps_and_momentum(recorded):
    """Three batches of gradient 1 move by step · (1 + 1.9 + 2.71); the step falls tenfold at epoch 15."""
    _, ends = recorded
    moves = -np.diff([0.0, *ends])
    np.testing.assert_allclose(moves[:15], 4e-3 * (1 + 1.9 + 2.71))
    np.testing.assert_allclose(moves[15:], 4e-4 * (1 + 1.9 + 2.71))
