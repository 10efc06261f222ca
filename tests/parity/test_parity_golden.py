"""Features of Chen's PyTorch program on real images, reproduced from its anchors."""

import ast
import contextlib

import gpu
import numpy as np
import pytest

from ckncuda import CKN, Exponential, LayerSpec, Polynomial
from ckncuda.backend.reference import unpooled_map
from ckncuda.layer.conventions import CHEN

FILES = ["chen_seed_paper", "chen_two_layer", "chen_poly_valid"]
ON_A_GPU = ["cupy, float32", "cupy, float32 without tensor cores"]
TOLERANCE = {"reference": 1e-10, "numpy": 2e-5} | dict.fromkeys(ON_A_GPU, 2e-5)


def golden_networks(data):
    """Networks of the file's first layer, of its first two, …"""
    specs = [
        LayerSpec(
            filters=o["p"],
            patch=o["k"],
            subsampling=o["s"],
            kernel=Polynomial(2) if o.get("f") == "poly" else Exponential(sigma=o.get("sigma", 0.6)),
            padding="valid" if o.get("pad") == "VALID" else "zero",
            **CHEN,
        )
        for o in ast.literal_eval(str(data["config"]))
    ]
    anchors = [data[f"anchors_{i}"] for i in range(len(specs))]
    return [CKN.from_anchors(specs[:depth], anchors[:depth]) for depth in range(1, len(specs) + 1)]


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_maps_of_every_layer(name, backend, shared_file, relative_error):
    data = np.load(shared_file(f"golden/{name}.npz"))
    on_a_gpu = backend in ON_A_GPU
    with gpu.a_gpu() if on_a_gpu else contextlib.nullcontext():
        engine = gpu.cupy_backend(backend) if on_a_gpu else backend
        for i, network in enumerate(golden_networks(data)):
            actual = network.transform(data["images"], backend=engine)
            assert relative_error(actual, data[f"maps_{i}"]) <= TOLERANCE[backend]


@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_projections_and_unpooled_maps(name, shared_file, relative_error):
    data = np.load(shared_file(f"golden/{name}.npz"))
    maps = data["images"]
    for i, layer in enumerate(golden_networks(data)[-1].layers):
        assert relative_error(layer.projection, data[f"whitening_{i}"]) <= 1e-10
        assert relative_error(unpooled_map(maps, layer), data[f"unpooled_{i}"]) <= 1e-10
        maps = data[f"maps_{i}"]
