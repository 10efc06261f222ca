"""Gradients of networks on real images: golden files of other programs, reproduced by every backend."""

import ast
import contextlib

import gpu
import numpy as np
import pytest
from factories import chens_networks

from ckncuda import CKN, ArcCosine, LayerSpec
from ckncuda.backend import get_backend
from ckncuda.backend.numpy import NumpyBackend, has_numba

CASES = ["poly_centered", "arccos1_valid", "inverse_average_root", "zero_patches_even", "exp_ridge_three"]
ON_A_GPU = ["cupy, float32", "cupy, float32 without tensor cores"]
IN_NUMPY = ["numpy, plain", "numpy, compiled"]
TOLERANCE = {"reference": 1e-9} | dict.fromkeys(IN_NUMPY, 2e-5) | dict.fromkeys(ON_A_GPU, 2e-4)


@contextlib.contextmanager
def backend_named(name):
    if name == "numpy, compiled" and not has_numba():
        pytest.skip("Numba, the extra `fast`, is not installed")
    with gpu.a_gpu() if name in ON_A_GPU else contextlib.nullcontext():
        if name in ON_A_GPU:
            yield gpu.cupy_backend(name)
        elif name == "reference":
            yield get_backend(name)
        else:
            yield NumpyBackend(2, compiled=name == "numpy, compiled")


def compare(data, prefix, network, backend, tolerance, relative_error):
    maps, anchors = backend.encode_backward(
        backend.asarray(data[f"{prefix}images"]), network.layers, data[f"{prefix}upstream"]
    )
    assert relative_error(backend.to_host(maps), data[f"{prefix}grad_images"]) <= tolerance
    for i, (actual, layer) in enumerate(zip(anchors, network.layers, strict=True)):
        # κ' of arccos1 has a square root at 1: off the sphere the golden file has that of its rounding.
        rounding = 1e-7 if layer.spec.kernel == ArcCosine(1) else 0
        assert relative_error(actual, data[f"{prefix}grad_anchors_{i}"]) <= max(tolerance, rounding)
        if f"{prefix}tangent_anchors_{i}" in data:
            radial = (actual * layer.anchors).sum(axis=(1, 2, 3), keepdims=True) * layer.anchors
            assert relative_error(actual - radial, data[f"{prefix}tangent_anchors_{i}"]) <= tolerance


@pytest.mark.parametrize("backend", TOLERANCE)
def test_gradients_of_chens_program(backend, shared_file, relative_error):
    data = np.load(shared_file("golden/chen_gradients.npz"))
    with backend_named(backend) as engine:
        compare(data, "", chens_networks(data)[-1], engine, TOLERANCE[backend], relative_error)


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_other_layers(case, backend, shared_file, relative_error):
    data = np.load(shared_file("golden/ckn_gradients_more.npz"))
    assert ast.literal_eval(str(data["cases"])) == CASES
    specs = [LayerSpec.from_dict(o) for o in ast.literal_eval(str(data[f"{case}/config"]))]
    network = CKN.from_anchors(specs, [data[f"{case}/anchors_{i}"] for i in range(len(specs))])
    with backend_named(backend) as engine:
        compare(data, f"{case}/", network, engine, TOLERANCE[backend], relative_error)
