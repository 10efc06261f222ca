"""Features of Chen's PyTorch program on real images, reproduced from its anchors."""

import contextlib

import gpu
import numpy as np
import pytest
from factories import chens_networks

from ckncuda.backend.reference import unpooled_map

FILES = ["chen_seed_paper", "chen_two_layer", "chen_poly_valid", "chen_even_patch"]
ON_A_GPU = ["cupy, float32", "cupy, float32 without tensor cores"]
TOLERANCE = {"reference": 1e-10, "numpy": 2e-5} | dict.fromkeys(ON_A_GPU, 2e-5)


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_maps_of_every_layer(name, backend, shared_file, relative_error):
    data = np.load(shared_file(f"golden/{name}.npz"))
    on_a_gpu = backend in ON_A_GPU
    with gpu.a_gpu() if on_a_gpu else contextlib.nullcontext():
        engine = gpu.cupy_backend(backend) if on_a_gpu else backend
        for i, network in enumerate(chens_networks(data)):
            actual = network.transform(data["images"], backend=engine)
            assert relative_error(actual, data[f"maps_{i}"]) <= TOLERANCE[backend]


@pytest.mark.parametrize("name", [*FILES, "chen_gradients"])
def test_projections_and_unpooled_maps(name, shared_file, relative_error):
    data = np.load(shared_file(f"golden/{name}.npz"))
    maps = data["images"]
    for i, layer in enumerate(chens_networks(data)[-1].layers):
        assert relative_error(layer.projection, data[f"whitening_{i}"]) <= 1e-10
        assert relative_error(unpooled_map(maps, layer), data[f"unpooled_{i}"]) <= 1e-10
        maps = data[f"maps_{i}"]
