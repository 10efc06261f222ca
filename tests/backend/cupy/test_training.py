"""A training on a GPU goes the way of one on a CPU, and the same way again."""

import numpy as np
import pytest
from factories import make_spec

from ckncuda import CKN
from ckncuda.supervised.train import train
from ckncuda.supervised.training import Training


def test_training_on_a_gpu(device, rng):
    labels = np.arange(24) % 2
    images = rng.normal(0.1 * labels[:, None, None, None], size=(24, 6, 6, 3)).astype(np.float32)
    specs = [make_spec(filters=8, epsilon=1e-2), make_spec(filters=6, patch=2, epsilon=1e-2)]
    start = CKN(specs).fit(images, patches=500, backend="numpy")
    on_host, first, second = (
        train(start, images, labels, Training(epochs=2, batch=12), backend=backend)
        for backend in ("numpy", device, device)
    )
    losses = [[epoch["loss"] for epoch in trained.history[1:]] for trained in (on_host, first)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for before, there, here, again in zip(
        start.layers, on_host.network.layers, first.network.layers, second.network.layers, strict=True
    ):
        moved = np.abs(there.anchors - before.anchors).max()
        assert np.abs(here.anchors - there.anchors).max() <= 1e-2 * moved
        assert here.anchors.tobytes() == again.anchors.tobytes()
