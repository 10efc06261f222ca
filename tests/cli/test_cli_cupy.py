"""`ckn … --backend cupy` from end to end, in real processes; without a GPU, the CPU executes the kernels."""

import json
import os

import numpy as np
import pytest
from cuda_on_cpu import environment

from ckncuda.backend.cupy import why_unavailable

LAYER = "filters=4,patch=3,subsampling=2,kernel=exp,sigma=0.6"


@pytest.fixture
def gpu():
    """Variables with which a process finds a GPU."""
    if why_unavailable() is None:
        return {}
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    return {name: value for name, value in environment.environment().items() if os.environ.get(name) != value}


def test_fit_extract_predict(works, data, tiny, tmp_path, gpu):
    done = works(
        "fit", data.csv, "--labels", data.labels_csv, "-o", "m.ckn", *tiny, "--backend", "cupy", "--json",
        env=gpu,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["backend"] == "cupy"
    assert result["validation_accuracy"] > 0.5
    features, labels = {}, {}
    for backend, variables in (("cupy", gpu), ("numpy", {})):
        works("extract", "m.ckn", data.npz, "-o", f"{backend}.npy", "--backend", backend, env=variables)
        works("predict", "m.ckn", data.csv, "-o", f"{backend}.csv", "--backend", backend, env=variables)
        features[backend] = np.load(tmp_path / f"{backend}.npy")
        labels[backend] = (tmp_path / f"{backend}.csv").read_text()
    np.testing.assert_allclose(features["cupy"], features["numpy"], atol=1e-5)
    assert labels["cupy"] == labels["numpy"]


def test_learned_on_a_cpu_used_on_a_gpu(works, data, tiny, tmp_path, gpu):
    works("fit", data.npz, "-o", "m.ckn", *tiny, "--backend", "numpy")
    works("extract", "m.ckn", data.npz, "-o", "numpy.npy", "--backend", "numpy")
    expected = np.load(tmp_path / "numpy.npy")
    for precision, least, most in (("float32", 0, 1e-5), ("tf32", 1e-5, 2e-2), ("bfloat16", 1e-4, 2e-1)):
        options = ("--backend", "cupy", "--precision", precision)
        works("extract", "m.ckn", data.npz, "-o", "cupy.npy", *options, env=gpu)
        error = np.linalg.norm(np.load(tmp_path / "cupy.npy") - expected) / np.linalg.norm(expected)
        assert least <= error <= most


def test_bench_measures_every_step(works, data, tiny, gpu):
    works("fit", data.npz, "-o", "m.ckn", *tiny, "--backend", "cupy", env=gpu)
    done = works("bench", "m.ckn", "-n", "8", "--repeats", "1", "--backend", "cupy", "--json", env=gpu)
    assert "layer 1 (3x3, 4 filters)" in done.stdout


def test_backends_says_what_computes(works, gpu):
    status = json.loads(works("backends", "--json", env=gpu).stdout)["cupy"]
    assert status["works"]
    assert status["detail"].startswith("CuPy ")
    assert "GiB" in status["detail"]


def test_a_gpu_is_taken_where_there_is_one(works, data, tiny, gpu):
    done = works("fit", data.npz, "-o", "m.ckn", *tiny, "--json", env=gpu)
    assert json.loads(done.stdout)["backend"] == "cupy"
    done = works("fit", data.npz, "-o", "n.ckn", *tiny, "--json", env=gpu | {"CKNCUDA_BACKEND": "numpy"})
    assert json.loads(done.stdout)["backend"] == "numpy"


def test_a_precision_needs_a_gpu(refused, data, tiny):
    refused(
        "fit", data.npz, "-o", "m.ckn", *tiny, "--backend", "numpy", "--precision", "tf32",
        words=["the backend numpy has no precision 'tf32'; use --backend cupy, or float32"],
    )  # fmt: skip


def test_a_gpu_that_is_not_there_is_said(refused, data, tiny):
    if why_unavailable() is None:
        pytest.skip("there is a GPU here")
    refused(
        "fit", data.npz, "-o", "m.ckn", *tiny, "--backend", "cupy",
        words=["the backend cupy cannot run here: "],
    )  # fmt: skip


def test_a_broken_cupy_is_a_reason_not_a_crash(works, tmp_path):
    if reason := environment.why_unavailable():
        pytest.skip(reason)
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named cuda.pathfinder')"
    )
    variables = environment.environment() | {"PYTHONPATH": str(tmp_path)}
    found = {name: variables[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    status = json.loads(works("backends", "--json", env=found).stdout)["cupy"]
    assert not status["works"]
    assert "ModuleNotFoundError: No module named cuda.pathfinder" in status["detail"]


def test_info_says_what_runs_in_one_kernel(works, data, tiny, tmp_path):
    works("fit", data.npz, "-o", "m.ckn", *tiny, "--backend", "numpy")
    assert "on a GPU: one fused kernel" in works("info", "m.ckn").stdout
    encoder = json.loads(works("info", "m.ckn", "--json").stdout)["encoders"][0]
    assert encoder["layers"][0]["on_a_gpu"] == "one fused kernel"
