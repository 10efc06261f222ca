"""Features of Chen's PyTorch program on real images, reproduced from its anchors."""

import ast
import contextlib

import gpu
import numpy as np
import pytest

from ckncuda import CKN, Exponential, LayerSpec, Polynomial
from ckncuda.layer.conventions import CHEN

FILES = ["chen_seed_paper", "chen_two_layer", "chen_poly_valid"]
ON_A_GPU = ["cupy, float32", "cupy, float32 without tensor cores"]
TOLERANCE = {"reference": 1e-10, "numpy": 2e-5} | dict.fromkeys(ON_A_GPU, 2e-5)


@contextlib.contextmanager
def made(backend):
    """What `transform` takes as its backend."""
    if backend not in ON_A_GPU:
        yield backend
        return
    with gpu.a_gpu():
        yield gpu.cupy_backend(backend)


def golden_network(data, depth):
    options = ast.literal_eval(str(data["config"]))[:depth]
    specs = [
        LayerSpec(
            filters=o["p"],
            patch=o["k"],
            subsampling=o["s"],
            kernel=Polynomial(2) if o.get("f") == "poly" else Exponential(sigma=o.get("sigma", 0.6)),
            padding="valid" if o.get("pad") == "VALID" else "zero",
            **CHEN,
        )
        for o in options
    ]
    return CKN.from_anchors(specs, [data[f"anchors_{i}"] for i in range(depth)])


def depth_of(data):
    return len(ast.literal_eval(str(data["config"])))


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_maps_of_every_layer(name, backend, shared_file, relative_error):
    data = np.load(shared_file(f"golden/{name}.npz"))
    with made(backend) as engine:
        for depth in range(1, depth_of(data) + 1):
            actual = golden_network(data, depth).transform(data["images"], backend=engine)
            assert relative_error(actual, data[f"maps_{depth - 1}"]) <= TOLERANCE[backend]


@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_projections_and_unpooled_maps(name, shared_file, relative_error):
    from ckncuda.backend.reference import unpooled_map

    data = np.load(shared_file(f"golden/{name}.npz"))
    maps = data["images"]
    for i, layer in enumerate(golden_network(data, depth_of(data)).layers):
        assert relative_error(layer.projection, data[f"whitening_{i}"]) <= 1e-10
        assert relative_error(unpooled_map(maps, layer), data[f"unpooled_{i}"]) <= 1e-10
        maps = data[f"maps_{i}"]
