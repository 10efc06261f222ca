"""What a model needs to predict is counted before the work, and the memory that a refusal names suffices."""

import re

import numpy as np
import pytest

from ckncuda import CKN, ExactKernel, Exponential, KernelLayer, LayerSpec, Model
from ckncuda.backend import LEAST_MEMORY, get_backend
from ckncuda.errors import OutOfMemory
from ckncuda.exact.encoder import ExactEncoder
from ckncuda.model.memory import check_prediction
from ckncuda.network.encoder import Encoder

KERNEL = Exponential(sigma=0.6)
WIDE = LayerSpec(filters=8, patch=3, subsampling=1, kernel=KERNEL)
ANCHORS = np.random.default_rng(0).normal(size=(8, 3, 3, 1)).astype(np.float32)
ANCHORS /= np.linalg.norm(ANCHORS.reshape(8, -1), axis=1)[:, None, None, None]


def network():
    return Encoder(CKN.from_anchors([WIDE], [ANCHORS]))


MODELS = {
    "large images": ((network(),), (1200, 1200, 1)),
    "an ensemble": ((network(), network(), network()), (800, 800, 1)),
    "many images to compare with": (
        (
            ExactEncoder(
                ExactKernel([KernelLayer(3, 2, KERNEL)]), np.zeros((9000, 32, 32, 1), np.float32), ()
            ),
        ),
        (32, 32, 1),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_is_refused_with_the_memory_that_it_takes(name):
    encoders, shape = MODELS[name]
    with pytest.raises(OutOfMemory, match="--memory is 64 MiB; the model and a block of images") as refused:
        check_prediction(encoders, None, shape, get_backend("numpy", memory=LEAST_MEMORY))
    enough = int(re.search(r"give --memory (\d+)MiB, or a smaller model", str(refused.value))[1]) << 20
    check_prediction(encoders, None, shape, get_backend("numpy", memory=enough))


@pytest.mark.parametrize("method", ["features", "transform"])
def test_it_is_refused_before_the_work(monkeypatch, method):
    encoders, shape = MODELS["large images"]
    backend = get_backend("numpy", memory=LEAST_MEMORY)
    monkeypatch.setattr(backend, "encode", None)
    with pytest.raises(OutOfMemory, match="--memory is 64 MiB"):
        getattr(Model(encoders), method)(np.zeros((1, *shape), np.uint8), backend=backend)


def test_without_a_given_memory_nothing_is_refused():
    encoders, shape = MODELS["large images"]
    check_prediction(encoders, None, shape, get_backend("numpy"))
